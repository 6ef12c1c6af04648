/* Names in every form are found, names of nobody are told, and nothing else is left out. */
#include "shards/holdout.h"

#include "base/file.h"
#include "shards/plan_taxa.h"

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
    strcpy(folder, "/tmp/cps-holdout-XXXXXX");
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

/* Nine records, three labels without ranks among them. */
static const char *const table =
    "file,kingdom,phylum,class,order,family,genus,species,scientific_name,label\n"
    "birds/1.jpg,Animalia,Chordata,Aves,Passeriformes,Corvidae,Pica,Pica hudsonia,,magpie\n"
    "birds/2.jpg,Animalia,Chordata,Aves,Passeriformes,Corvidae,Pica,hudsonia minor,,magpie\n"
    "birds/3.jpg,Animalia,Chordata,Aves,Passeriformes,Corvidae,Pica,pica,,other\n"
    "birds/4.jpg,,,,,,,,Pica pica (Linnaeus 1758),other\n"
    "fish/1.jpg,Animalia,Chordata,,Perciformes,Percidae,Perca,fluviatilis,,perch\n"
    "fish/2.jpg,,,,,,,,,Polygonia c-album\n"
    "fish/3.JPG,,,,,,,,,Perca_fluviatilis\n"
    "ducks/5.jpg,Animalia,Chordata,Aves,Anseriformes,Anatidae,Anas,platyrhynchos x acuta,,duck\n"
    "ducks/6.jpg,Animalia,Chordata,Aves,Anseriformes,Anatidae,Anas,sp. 1,,duck\n";

/* Which records a list leaves out: a bit each; *unmatched_out names that found none. */
static uint32_t held_by(const char *name, const char *text, cps_holdout_by by,
                        cps_holdout_counts *counts_out, char **lines_out) {
    char *path = write_file(name, text);
    char *csv = write_file("table.csv", table);
    cps_plan plan = {0};
    cps_holdout *holdout = NULL;
    assert_int_equal(cps_plan_create(&plan), CPS_OK);
    assert_int_equal(
        cps_plan_add_table(&plan, csv, &(cps_plan_columns){0}, &(cps_agriclip_facts){0}), CPS_OK);
    assert_int_equal(cps_holdout_create(&holdout), CPS_OK);
    if (cps_holdout_read(holdout, path, by) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    assert_int_equal(cps_holdout_apply(holdout, &plan, counts_out), CPS_OK);
    uint32_t held = 0;
    for (int64_t i = 0; i < plan.records.count; ++i) {
        held |= (uint32_t)(cps_plan_record_at(&plan, i)->left_out == CPS_LEFT_HELD_OUT) << i;
    }
    if (lines_out != NULL) {
        assert_int_equal(cps_holdout_unmatched(holdout, &plan, lines_out), CPS_OK);
    }
    cps_holdout_destroy(holdout);
    cps_plan_free(&plan);
    free(csv);
    free(path);
    return held;
}

static uint32_t lines_hold(const char *text) {
    cps_holdout_counts counts;
    const uint32_t held = held_by("list.txt", text, CPS_HOLDOUT_BOTH, &counts, NULL);
    assert_int_equal(counts.unmatched, 0);
    return held;
}

static void species_in_every_form(void **state) {
    (void)state;
    assert_int_equal(lines_hold("Pica hudsonia\n"), 1 << 0 | 1 << 1);
    assert_int_equal(lines_hold("PICA  Hudsonia"), 1 << 0 | 1 << 1);
    assert_int_equal(lines_hold("\xef\xbb\xbfPica_hudsonia\r\n\r\n"), 1 << 0 | 1 << 1);
    assert_int_equal(lines_hold("Pica hudsonia (Sabine, 1823)\n"), 1 << 0 | 1 << 1);
    assert_int_equal(lines_hold("Animalia-Chordata-Aves-Passeriformes-Corvidae-Pica-hudsonia\n"),
                     1 << 0 | 1 << 1);
    assert_int_equal(lines_hold("Animalia Chordata Aves Passeriformes Corvidae Pica hudsonia\n"),
                     1 << 0 | 1 << 1);
    assert_int_equal(lines_hold("animalia chordata aves passeriformes corvidae pica hudsonia\n"),
                     1 << 0 | 1 << 1);
    assert_int_equal(lines_hold("00017_Animalia_Chordata_Aves_Passeriformes_Corvidae_Pica_pica"),
                     1 << 2 | 1 << 3);
    /* Unknown ranks may be left out, or empty; ranks above the genus are not compared. */
    assert_int_equal(lines_hold("Animalia Chordata Perciformes Percidae Perca fluviatilis"),
                     1 << 4 | 1 << 6);
    assert_int_equal(lines_hold("Metazoa---Percomorpha--Perca-fluviatilis"), 1 << 4 | 1 << 6);
    /* Scientific names and labels; hyphens of an epithet. */
    assert_int_equal(lines_hold("Pica pica"), 1 << 2 | 1 << 3);
    assert_int_equal(lines_hold("Polygonia c-album"), 1 << 5);
    assert_int_equal(lines_hold("Animalia-Arthropoda-Insecta-Lepidoptera-Nymphalidae-Polygonia-"
                                "c-album"),
                     1 << 5);
    /* A subspecies alone; a hybrid is neither parent, "sp. 1" not every unnamed one. */
    assert_int_equal(lines_hold("Pica hudsonia minor"), 1 << 1);
    assert_int_equal(lines_hold("Anas platyrhynchos x acuta\nAnas sp. 1"), 1 << 7 | 1 << 8);
}

static void files_in_every_form(void **state) {
    (void)state;
    assert_int_equal(lines_hold("birds/1.jpg\n"), 1 << 0);
    assert_int_equal(lines_hold("./birds/1.jpg"), 1 << 0);
    assert_int_equal(lines_hold("/data/of/others/birds/1.jpg"), 1 << 0);
    /* No record has this path: its name alone counts. */
    assert_int_equal(lines_hold("/elsewhere/2024-03-20/1.jpg"), 1 << 0 | 1 << 4);
    assert_int_equal(lines_hold("1.jpg"), 1 << 0 | 1 << 4);
    assert_int_equal(lines_hold("birds/2\n5"), 1 << 1 | 1 << 7);
    assert_int_equal(lines_hold("fish/3.JPG\n"), 1 << 6);
}

static void names_of_nobody_are_told(void **state) {
    (void)state;
    cps_holdout_counts counts;
    char *lines = NULL;
    const uint32_t held = held_by("list.txt",
                                  "Pica hudsonica\nPica hudsonia\nanas platyrhynchos\nAnas sp.\n"
                                  "fish/03.JPG\nrds/1.jpg/\nPica hudsonica\nnothing\n"
                                  "Magpie\nmagpie.jpg\n",
                                  CPS_HOLDOUT_BOTH, &counts, &lines);
    assert_int_equal(held, 1 << 0 | 1 << 1);
    assert_int_equal(counts.entries, 9); /* one is there twice */
    assert_int_equal(counts.unmatched, 8);
    assert_int_equal(counts.by_species, 2);
    assert_int_equal(counts.by_file, 0);
    assert_non_null(strstr(lines, "list.txt: 'Pica hudsonica' (did you mean 'Pica hudsonia'?)\n"));
    assert_non_null(strstr(lines, "'fish/03.JPG' (did you mean '3.JPG'?)"));
    assert_non_null(strstr(lines, "'nothing'\n"));
    assert_null(strstr(lines, "'Pica hudsonia'\n"));
    free(lines);
}

static void tables_and_json(void **state) {
    (void)state;
    cps_holdout_counts counts;
    /* As BioCLIP's table of rare species: cls beside class, which is a label there. */
    const char *rare = ",kingdom,cls,genus,species,common_name,filepath,class\n"
                       "0,Animalia,Aves,Pica,hudsonia,magpie,2024/1.jpg,Pica hudsonia\n"
                       "1,Animalia,Aves,Pica,hudsonia,magpie,2024/2.jpg,Pica hudsonia\n";
    assert_int_equal(held_by("a.csv", rare, CPS_HOLDOUT_BOTH, &counts, NULL),
                     1 << 0 | 1 << 1 | 1 << 4 | 1 << 5);
    assert_int_equal(counts.entries, 3);
    assert_int_equal(counts.by_species, 2);
    assert_int_equal(counts.by_file, 2);
    assert_int_equal(held_by("a.csv", rare, CPS_HOLDOUT_SPECIES, &counts, NULL), 1 << 0 | 1 << 1);
    assert_int_equal(held_by("a.csv", rare, CPS_HOLDOUT_FILE, &counts, NULL),
                     1 << 0 | 1 << 1 | 1 << 4 | 1 << 5);
    assert_int_equal(counts.entries, 2);
    assert_int_equal(
        held_by("b.tsv", "Scientific Name\nPica pica\n", CPS_HOLDOUT_BOTH, &counts, NULL),
        1 << 2 | 1 << 3);
    assert_int_equal(
        held_by("c.csv", "species\nPerca fluviatilis\n", CPS_HOLDOUT_BOTH, &counts, NULL),
        1 << 4 | 1 << 6);
    /* As BioCLIP's lists of rare species. */
    const char *keyed = "{\"Animalia-Chordata-Aves-Passeriformes-Corvidae-Pica-hudsonia\":\n"
                        " [\"/fs/x/3.jpg\", \"/fs/x/9.jpg\"], \"Pica pica\": \"/fs/ducks/6.jpg\"}";
    assert_int_equal(held_by("d.json", keyed, CPS_HOLDOUT_BOTH, &counts, NULL),
                     1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 8);
    assert_int_equal(counts.unmatched, 1);
    assert_int_equal(held_by("d.json", keyed, CPS_HOLDOUT_FILE, &counts, NULL), 1 << 2 | 1 << 8);
    assert_int_equal(
        held_by("e.json", "[\"Pica pica\", \" ducks/5.jpg \"]", CPS_HOLDOUT_BOTH, &counts, NULL),
        1 << 2 | 1 << 3 | 1 << 7);
    assert_int_equal(counts.unmatched, 0);
}

static void refuse(const char *name, const char *text, cps_holdout_by by, cps_status wanted,
                   const char *says) {
    char *path = write_file(name, text);
    cps_holdout *holdout = NULL;
    assert_int_equal(cps_holdout_create(&holdout), CPS_OK);
    const cps_status status = cps_holdout_read(holdout, path, by);
    if (status != wanted || strstr(cps_fail_message(), says) == NULL) {
        fail_msg("status %d, '%s' does not say '%s'", (int)status, cps_fail_message(), says);
    }
    cps_holdout_destroy(holdout);
    free(path);
}

static void mistakes_are_named(void **state) {
    (void)state;
    const cps_holdout_by both = CPS_HOLDOUT_BOTH;
    refuse("x.txt", " \n\n", both, CPS_ERR_USAGE, "x.txt' names nothing");
    refuse("x.txt", "", both, CPS_ERR_USAGE, "names nothing");
    refuse("x.txt", "Pica \xff pica\n", both, CPS_ERR_DATA, "not UTF-8");
    refuse("x.txt", "Pica pica\n\nCorvidae\n", CPS_HOLDOUT_SPECIES, CPS_ERR_USAGE,
           "line 3: 'Corvidae' is no species");
    refuse("x.txt", "pleasehelp unknown\n", both, CPS_ERR_USAGE,
           "line 1: 'pleasehelp unknown' is no species");
    refuse("x.csv", "name,n\nPica pica,1\n", both, CPS_ERR_USAGE, "the columns are: name, n");
    refuse("x.csv", "genus,family\nPica,Corvidae\n", both, CPS_ERR_USAGE, "no column of species");
    refuse("x.csv", "genus,species\nPica,pica\nPica,\n", both, CPS_ERR_USAGE,
           "line 3: this row names no species and no file (genus 'Pica', species '')");
    refuse("x.csv", "file\n1.jpg\n", CPS_HOLDOUT_SPECIES, CPS_ERR_USAGE, "no column of species");
    refuse("x.csv", "species,species_epithet\na,b\n", both, CPS_ERR_USAGE,
           "both stand for 'species'");
    refuse("x.csv", "file\n", both, CPS_ERR_USAGE, "names nothing");
    refuse("x.json", "{\"Pica pica\": [\"a.jpg\"", both, CPS_ERR_DATA, "x.json");
    refuse("x.json", "{\"Corvidae\": [\"a.jpg\"]}", both, CPS_ERR_USAGE,
           "its key 'Corvidae' is no species");
    refuse("x.json", "{\"Pica pica\": [1]}", both, CPS_ERR_DATA, "is no text");
    refuse("x.json", "{\"Pica pica\": {}}", both, CPS_ERR_DATA, "no list of files");
    refuse("x.json", "[\"\"]", both, CPS_ERR_DATA, "an element is empty");
    refuse("x.json", "3", both, CPS_ERR_DATA, "neither list nor object");
    refuse("x.json", "[]", both, CPS_ERR_USAGE, "names nothing");
    cps_holdout *holdout = NULL;
    assert_int_equal(cps_holdout_create(&holdout), CPS_OK);
    assert_int_equal(cps_holdout_read(holdout, "/nowhere/x.txt", both), CPS_ERR_UNAVAILABLE);
    cps_holdout_destroy(holdout);
    cps_holdout_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(species_in_every_form),    cmocka_unit_test(files_in_every_form),
        cmocka_unit_test(names_of_nobody_are_told), cmocka_unit_test(tables_and_json),
        cmocka_unit_test(mistakes_are_named),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
