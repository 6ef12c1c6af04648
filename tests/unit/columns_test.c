/* Headers as people write them are understood; two columns for one thing are not. */
#include "shards/columns.h"

#include "base/file.h"
#include "shards/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cps-columns-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state) {
    (void)state;
    char *command = cps_format("rm -rf '%s'", folder);
    const int code = system(command);
    free(command);
    return code;
}

/* Writes `text` as <folder>/<name>; the path, malloc'ed. */
static char *write_file(const char *name, const char *text) {
    char *path = cps_format("%s/%s", folder, name);
    char *above = cps_path_folder(path);
    assert_int_equal(cps_dir_create(above), CPS_OK);
    assert_int_equal(cps_file_write_atomic(path, text, strlen(text)), CPS_OK);
    free(above);
    return path;
}

static void field_is(const char *header, const char *field) {
    const char *found = cps_column_field(header);
    if (field == NULL) {
        assert_null(found);
    } else {
        assert_non_null(found);
        assert_string_equal(found, field);
    }
}

static void headers_have_other_names(void **state) {
    (void)state;
    field_is("kingdom", "kingdom");
    field_is("Class", "class");
    field_is("CLS", "class");
    field_is("Common Name", "common_name");
    field_is("common", "common_name");
    field_is("vernacularName", "common_name");
    field_is("species_epithet", "species");
    field_is("specificEpithet", "species");
    field_is("infraspecific-epithet", "subspecies");
    field_is("Scientific.Name", "scientific_name");
    field_is("label", NULL);
    field_is("classes", NULL);
    field_is("", NULL);
    field_is("class\xc3\xa9", NULL);
    char longest[200];
    memset(longest, 'k', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    field_is(longest, NULL);
}

/* Reads a table into a new plan with the given status; `says` is part of the message. */
static void read_table(const char *text, const cps_plan_columns *columns, cps_status wanted,
                       const char *says, cps_plan *plan) {
    char *path = write_file("t.csv", text);
    assert_int_equal(cps_plan_create(plan), CPS_OK);
    const cps_status status = cps_plan_add_table(plan, path, columns, &(cps_agriclip_facts){0});
    if (status != wanted || (says != NULL && strstr(cps_fail_message(), says) == NULL)) {
        fail_msg("status %d, '%s'", (int)status, cps_fail_message());
    }
    free(path);
}

static void refuse(const char *text, const cps_plan_columns *columns, const char *says) {
    cps_plan plan = {0};
    read_table(text, columns, CPS_ERR_USAGE, says, &plan);
    cps_plan_free(&plan);
}

/* The first text of a field of record 0. */
static const char *text_of(const cps_plan *plan, const char *field) {
    const int32_t number = cps_plan_field(plan, field);
    const cps_plan_record *record = cps_plan_record_at(plan, 0);
    for (int64_t i = record->first_text; i >= 0; i = cps_plan_text_at(plan, i)->next) {
        if (cps_plan_text_at(plan, i)->field == number) {
            return cps_plan_string(plan, cps_plan_text_at(plan, i)->text);
        }
    }
    return NULL;
}

/* The header of BioCLIP's table of rare species: an index without a name, cls beside class. */
static void reads_published_tables(void **state) {
    (void)state;
    const char *text = ",kingdom,phylum,cls,order,family,genus,species,common_name,filepath,class\n"
                       "0,Animalia,Mollusca,Bivalvia,Unionida,Unionidae,Cyclonaias,tuberculata,"
                       "purple wartyback,a/1.jpg,Cyclonaias tuberculata\n";
    cps_plan plan = {0};
    refuse(text, &(cps_plan_columns){0},
           "'cls' and 'class' both stand for 'class': rename or "
           "remove one, or, if it is the label, say "
           "--label-column class");
    read_table(text, &(cps_plan_columns){.label = "class"}, CPS_OK, NULL, &plan);
    assert_int_equal(plan.records.count, 1);
    assert_int_equal(plan.fields.count, 2 + 8);
    assert_string_equal(text_of(&plan, "file"), "a/1.jpg");
    assert_string_equal(text_of(&plan, "class"), "Bivalvia");
    assert_string_equal(text_of(&plan, "common_name"), "purple wartyback");
    assert_string_equal(cps_plan_string(&plan, cps_plan_record_at(&plan, 0)->label_name),
                        "Cyclonaias tuberculata");
    assert_null(text_of(&plan, "caption"));
    cps_plan_free(&plan);
}

static void keeps_values_as_they_are(void **state) {
    (void)state;
    cps_plan plan = {0};
    read_table("Species,SUBSPECIES,GENUS,File,scientificName,Note,Label\n"
               "Pica hudsonia (Sabine),minor, Pica ,1.jpg,Pica hudsonia minor,seen,bird\n",
               &(cps_plan_columns){0}, CPS_OK, NULL, &plan);
    assert_string_equal(text_of(&plan, "species"), "Pica hudsonia (Sabine)");
    assert_string_equal(text_of(&plan, "subspecies"), "minor");
    assert_string_equal(text_of(&plan, "genus"), " Pica ");
    assert_string_equal(text_of(&plan, "scientific_name"), "Pica hudsonia minor");
    assert_string_equal(text_of(&plan, "Note"), "seen");
    assert_int_equal(cps_plan_field(&plan, "Species"), -1);
    assert_true(cps_plan_record_at(&plan, 0)->label_name >= 0);
    cps_plan_free(&plan);
}

static void mistakes_are_named(void **state) {
    (void)state;
    const cps_plan_columns plain = {0};
    refuse("file,caption,species,species_epithet\n1.jpg,x,a,b\n", &plain,
           "'species' and 'species_epithet' both stand for 'species': rename or remove one");
    refuse("file,caption,Common,common_name\n1.jpg,x,a,b\n", &plain,
           "'Common' and 'common_name' both stand for 'common_name'");
    refuse("file,captions,genus\n1.jpg,x,a\n", &plain, "did you mean 'captions'?");
    refuse("file,text\n1.jpg,x\n", &plain, "there is no caption column 'caption'");
    refuse("picture,genus\n1.jpg,x\n", &plain, "there is no file column 'file'");
    refuse(",picture\n0,x\n", &plain, "the columns are: (unnamed), picture");
    refuse("file,genus,FILE\n1.jpg,x,y\n", &(cps_plan_columns){.file = "File"},
           "there is no file column 'File'");
    refuse("file,genus\n1.jpg,x\n", &(cps_plan_columns){.caption = "caption"},
           "there is no caption column 'caption'");
}

/* ---- class folders
 * ---------------------------------------------------------------------------------------------- */

static void read_folder(const char *name, cps_plan_folders folders, cps_status wanted,
                        const char *says, int64_t inat21, cps_plan *plan) {
    char *path = cps_format("%s/%s", folder, name);
    int64_t named = -1;
    assert_int_equal(cps_plan_create(plan), CPS_OK);
    const cps_status status = cps_plan_add_folder(plan, path, folders, &named);
    if (status != wanted || (says != NULL && strstr(cps_fail_message(), says) == NULL)) {
        fail_msg("status %d, '%s'", (int)status, cps_fail_message());
    }
    assert_int_equal(named, inat21);
    free(path);
}

static void reads_inat21_folders(void **state) {
    (void)state;
    cps_plan plan = {0};
    free(write_file("inat/00007_Animalia_Chordata__Passeriformes_Corvidae_Pica_hudsonia/1.jpg",
                    "1"));
    free(write_file("inat/00123_Plantae_Tracheophyta_Liliopsida_Poales_Poaceae_Poa_annua/2.jpg",
                    "2"));
    read_folder("inat", CPS_FOLDERS_AUTO, CPS_OK, NULL, 2, &plan);
    assert_string_equal(text_of(&plan, "kingdom"), "Animalia");
    assert_null(text_of(&plan, "class")); /* empty in the name */
    assert_string_equal(text_of(&plan, "species"), "hudsonia");
    assert_string_equal(cps_plan_string(&plan, cps_plan_record_at(&plan, 1)->label_name),
                        "Poa annua");
    cps_plan_free(&plan);
    read_folder("inat", CPS_FOLDERS_PLAIN, CPS_OK, NULL, 0, &plan);
    assert_int_equal(cps_plan_field(&plan, "kingdom"), -1);
    assert_string_equal(cps_plan_string(&plan, cps_plan_record_at(&plan, 1)->label_name),
                        "00123_Plantae_Tracheophyta_Liliopsida_Poales_Poaceae_Poa_annua");
    cps_plan_free(&plan);
    read_folder("", CPS_FOLDERS_INAT21, CPS_ERR_USAGE, "right above them", -1, &plan);
    cps_plan_free(&plan);
    free(write_file("inat/birds/3.jpg", "3"));
    read_folder("inat", CPS_FOLDERS_AUTO, CPS_OK, NULL, 0, &plan);
    cps_plan_free(&plan);
    read_folder("inat", CPS_FOLDERS_INAT21, CPS_ERR_USAGE, "but not 'birds'", -1, &plan);
    cps_plan_free(&plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_have_other_names), cmocka_unit_test(reads_published_tables),
        cmocka_unit_test(keeps_values_as_they_are), cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(reads_inat21_folders),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
