/* Ranks and common names from tables: what was there stays readable, what was right stays as it is.
 */
#include "shards/plan_fill.h"

#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cps-fill-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state) {
    (void)state;
    char *command = cps_format("rm -rf '%s'", folder);
    const int code = system(command);
    free(command);
    return code;
}

static char *write_file(const char *name, const char *text) {
    char *path = cps_format("%s/%s", folder, name);
    assert_int_equal(cps_file_write_atomic(path, text, strlen(text)), CPS_OK);
    return path;
}

static cps_plan make_plan(const char *text) {
    cps_plan plan = {0};
    char *path = write_file("records.csv", text);
    assert_int_equal(cps_plan_create(&plan), CPS_OK);
    assert_int_equal(cps_plan_add_table(&plan, path, &(cps_plan_columns){.caption = ""},
                                        &(cps_agriclip_facts){0}),
                     CPS_OK);
    free(path);
    return plan;
}

static void has(const cps_plan *plan, int64_t record, const char *field, const char *text) {
    const char *there = cps_plan_first_text(plan, record, cps_plan_field(plan, field));
    if (text == NULL) {
        assert_null(there);
    } else {
        assert_non_null(there);
        assert_string_equal(there, text);
    }
}

static const char *const backbone = "Kingdom,Phylum,Class,Order,Family,Genus,Species\n"
                                    "Animalia,Chordata,Aves,Passeriformes,Corvidae,Pica,hudsonia\n"
                                    "Animalia,Chordata,Aves,Passeriformes,Corvidae,Corvus,corax\n";

static void completes_and_corrects(void **state) {
    (void)state;
    cps_plan plan = make_plan("file,order,family,genus,species\n"
                              "1.jpg,,Corvidae,PICA,Pica hudsonia\n"
                              "2.jpg,Wrong,Corvidae,Corvus,corax\n"
                              "3.jpg,,,Amanita,muscaria\n"
                              "4.jpg,,Corvidae,PICA,Pica hudsonia\n"
                              "5.jpg,,,,\n");
    char *path = write_file("backbone.csv", backbone);
    const char *paths[] = {path};
    cps_plan_filled filled;
    assert_int_equal(cps_plan_fill_ranks(&plan, paths, 1, &filled), CPS_OK);
    for (int64_t record = 0; record < 4; record += 3) { /* two that say the same */
        has(&plan, record, "kingdom", "Animalia");
        has(&plan, record, "phylum", "Chordata");
        has(&plan, record, "class", "Aves");
        has(&plan, record, "order", "Passeriformes");
        has(&plan, record, "family", "Corvidae");
        has(&plan, record, "genus", "PICA"); /* as it came */
        has(&plan, record, "species", "Pica hudsonia");
        has(&plan, record, "ranks_given", "||||Corvidae|PICA|Pica hudsonia");
    }
    has(&plan, 1, "order", "Passeriformes");
    has(&plan, 1, "ranks_given", "|||Wrong|Corvidae|Corvus|corax");
    has(&plan, 2, "kingdom", NULL);
    has(&plan, 2, "ranks_given", NULL);
    has(&plan, 4, "ranks_given", NULL);
    const int64_t wanted_filled[CPS_TAXON_RANKS] = {3, 3, 3, 2};
    const int64_t wanted_changed[CPS_TAXON_RANKS] = {0, 0, 0, 1};
    assert_int_equal(filled.records, 3);
    assert_true(filled.names > 0);
    assert_memory_equal(filled.filled, wanted_filled, sizeof wanted_filled);
    assert_memory_equal(filled.changed, wanted_changed, sizeof wanted_changed);
    assert_int_equal(cps_plan_finish(&plan, NULL), CPS_OK); /* the texts are still whole */
    has(&plan, 3, "ranks_given", "||||Corvidae|PICA|Pica hudsonia");
    cps_plan_free(&plan);
    free(path);
}

static void right_records_stay(void **state) {
    (void)state;
    cps_plan plan = make_plan("file,kingdom,phylum,class,order,family,genus,species\n"
                              "1.jpg,ANIMALIA,chordata,Aves,Passeriformes,Corvidae,Corvus,corax\n");
    char *path = write_file("backbone.csv", backbone);
    const char *paths[] = {path};
    cps_plan_filled filled;
    assert_int_equal(cps_plan_fill_ranks(&plan, paths, 1, &filled), CPS_OK);
    assert_int_equal(filled.records, 0);
    has(&plan, 0, "kingdom", "ANIMALIA");
    assert_int_equal(cps_plan_field(&plan, "ranks_given"), -1);
    cps_plan_free(&plan);
    free(path);
}

static void gives_common_names(void **state) {
    (void)state;
    cps_plan plan = make_plan("file,genus,species,scientific_name,common_name\n"
                              "1.jpg,Pica,hudsonia,,\n"
                              "2.jpg,Pica,hudsonia,,magpie of mine\n"
                              "3.jpg,,,Corvus corax (Linnaeus),\n"
                              "4.jpg,Corvus,,,\n"
                              "5.jpg,Corvus,Corvus corone,,\n");
    char *first = write_file("first.csv", "Scientific Name,Vernacular Name\n"
                                          "Pica hudsonia,\nPica hudsonia,Black-billed Magpie\n"
                                          "Pica_hudsonia,another\nnobody,x\n");
    char *second = write_file("second.tsv", "genus\tspecies\tcommon\nCorvus\tcorax\traven\n"
                                            "Pica\thudsonia\tlater\n");
    const char *paths[] = {first, second};
    int64_t names = 0;
    int64_t records = 0;
    assert_int_equal(cps_plan_fill_common(&plan, paths, 2, &names, &records), CPS_OK);
    assert_int_equal(names, 2);
    assert_int_equal(records, 2);
    has(&plan, 0, "common_name", "Black-billed Magpie");
    has(&plan, 1, "common_name", "magpie of mine");
    has(&plan, 2, "common_name", "raven");
    has(&plan, 3, "common_name", NULL);
    has(&plan, 4, "common_name", NULL);
    cps_plan_free(&plan);
    free(first);
    free(second);
}

static void refuse(const char *records, const char *text, bool common, cps_status wanted,
                   const char *says) {
    cps_plan plan = make_plan(records);
    cps_plan_filled filled;
    int64_t numbers[2];
    char *path = text != NULL ? write_file("x.csv", text) : cps_format("/nowhere/x.csv");
    const char *paths[] = {path};
    const cps_status status = common
                                  ? cps_plan_fill_common(&plan, paths, 1, &numbers[0], &numbers[1])
                                  : cps_plan_fill_ranks(&plan, paths, 1, &filled);
    if (status != wanted || strstr(cps_fail_message(), says) == NULL) {
        fail_msg("status %d, '%s' does not say '%s'", (int)status, cps_fail_message(), says);
    }
    cps_plan_free(&plan);
    free(path);
}

static void mistakes_are_named(void **state) {
    (void)state;
    const char *ranks = "file,genus\n1.jpg,Pica\n";
    const char *none = "file,note\n1.jpg,x\n";
    refuse(none, backbone, false, CPS_ERR_USAGE, "--backbone has nothing to work on");
    refuse(none, "scientific_name,common\na b,c\n", true, CPS_ERR_USAGE,
           "--common has nothing to work on");
    refuse(ranks, NULL, false, CPS_ERR_UNAVAILABLE, "--backbone");
    refuse(ranks, NULL, true, CPS_ERR_UNAVAILABLE, "--common");
    refuse(ranks, "kingdom,phylum\na,b\n", false, CPS_ERR_USAGE, "'class' is not among these");
    refuse(ranks, "kingdom,phylum,class,order,family,genus,species\na,b,c,d,e,f,g\na,b,c,d,x,f,g\n",
           false, CPS_ERR_DATA, "x.csv");
    refuse(ranks, "scientific_name,name\na b,c\n", true, CPS_ERR_USAGE,
           "no column of common names ('common_name'); the columns are: scientific_name, name");
    refuse(ranks, "genus,common_name\na,c\n", true, CPS_ERR_USAGE, "no column of species");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(completes_and_corrects),
        cmocka_unit_test(right_records_stay),
        cmocka_unit_test(gives_common_names),
        cmocka_unit_test(mistakes_are_named),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
