/* Captions from elsewhere: AgriCLIP's caption file, however it is written, and captions by class.
 */
#include "shards/table_agriclip.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/text.h"
#include "shards/plan.h"

static char folder[] = "/tmp/copse-captions-XXXXXX";
static char csv[64];

static int start(void **state) {
    (void)state;
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    snprintf(csv, sizeof csv, "%s/captions.csv", folder);
    return 0;
}

static int end(void **state) {
    (void)state;
    char *command = cps_format("rm -rf '%s'", folder);
    const int status = system(command);
    free(command);
    return status;
}

/* An empty file below the folder, with its folders. */
static void touch(const char *name) {
    char *path = cps_format("%s/%s", folder, name), *inside = cps_path_folder(path);
    assert_int_equal(cps_dir_create(inside), CPS_OK);
    assert_int_equal(cps_file_write_atomic(path, "", 0), CPS_OK);
    free(inside);
    free(path);
}

static cps_status read_bytes(const char *bytes, size_t length, cps_table **table_out,
                             cps_agriclip_facts *facts) {
    *facts = (cps_agriclip_facts){0};
    assert_int_equal(cps_file_write_atomic(csv, bytes, length), CPS_OK);
    return cps_table_read_agriclip(csv, folder, table_out, facts);
}

static cps_table *good(const char *text, cps_agriclip_facts *facts) {
    cps_table *table = NULL;
    if (read_bytes(text, strlen(text), &table, facts) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return table;
}

static void expect_row(const cps_table *table, int64_t row, int64_t line, const char *file,
                       const char *caption, const char *label, const char *domain) {
    assert_string_equal(cps_table_cell(table, row, 0), file);
    assert_string_equal(cps_table_cell(table, row, 1), caption);
    assert_string_equal(cps_table_cell(table, row, 2), label);
    assert_string_equal(cps_table_cell(table, row, 3), domain);
    assert_int_equal(cps_table_line(table, row), line);
}

/* ---- AgriCLIP's file ---- */

static void rows_of_all_kinds(void **state) {
    (void)state;
    cps_agriclip_facts facts;
    cps_table *table = good(
        "\xef\xbb\xbf"
        "filepath,caption\r\n"
        "/home/a/ALive/Crops/rust/1.jpg,A leaf with rust.\r\n"
        "\"/home/a/Crops/rust/2.jpg,\"\"A leaf, with rust, and \"\"\"\"spots\"\"\"\".\"\"\",,,\n"
        "\r\n"
        "\"/home/a/Crops/rust/3.jpg,A leaf of \"\"wheat\"\"\"\n"
        "\"/home/a/Crops/rust/4.jpg\",\"A leaf, dry\"\n"
        "  D:\\data\\Livestock\\cow\\5.jpg , A cow. ,\n"
        "/srv/fish/carp/6.jpg,A carp,of,a pond",
        &facts);
    assert_int_equal(cps_table_rows(table), 6);
    assert_string_equal(cps_table_name(table, 3), "domain");
    expect_row(table, 0, 2, "Crops/rust/1.jpg", "A leaf with rust.", "rust", "Crops");
    expect_row(table, 1, 3, "Crops/rust/2.jpg", "A leaf, with rust, and \"spots\".", "rust",
               "Crops");
    expect_row(table, 2, 5, "Crops/rust/3.jpg", "A leaf of \"wheat\"", "rust", "Crops");
    expect_row(table, 3, 6, "Crops/rust/4.jpg", "A leaf, dry", "rust", "Crops");
    expect_row(table, 4, 7, "Livestock/cow/5.jpg", "A cow.", "cow", "Livestock");
    expect_row(table, 5, 8, "fish/carp/6.jpg", "A carp,of,a pond", "carp", "fish");
    assert_int_equal(facts.rows, 6);
    assert_int_equal(facts.left_out + facts.repaired + facts.strangers, 0);
    assert_null(facts.lines);
    cps_table_destroy(table);
}

static void letters(void **state) {
    (void)state;
    cps_agriclip_facts facts;
    cps_table *table = good("filepath,caption\n"
                            "Crops/a/1.jpg,caf\xe9 \x96 20\xb0\n" /* Latin-1 */
                            "Crops/a/2.jpg,caf\xc3\xa9\n"         /* UTF-8 */
                            "Crops/a/3.jpg,caf\xc3\x83\xc2\xa9 \xc3\xa2\xe2\x82\xac\xe2\x84\xa2s\n"
                            "Crops/\xe9t\xe9/4.jpg,x\n",
                            &facts);
    assert_string_equal(cps_table_cell(table, 0, 1), "caf\xc3\xa9 \xe2\x80\x93 20\xc2\xb0");
    assert_string_equal(cps_table_cell(table, 1, 1), "caf\xc3\xa9");
    assert_string_equal(cps_table_cell(table, 2, 1), "caf\xc3\xa9 \xe2\x80\x99s");
    assert_string_equal(cps_table_cell(table, 3, 2), "\xc3\xa9t\xc3\xa9");
    assert_int_equal(facts.repaired, 3);
    cps_table_destroy(table);
}

/* Which of the places below the root a picture is taken from. */
static void paths(void **state) {
    (void)state;
    touch("Crops/deep/rust/a.jpg");
    touch("Livestock/cow/b.jpg");
    touch("Fisheries/carp/c.jpg");
    touch("goat/d.jpg");
    cps_agriclip_facts facts;
    cps_table *table = good("filepath,caption\n"
                            "/x/Crops/deep/rust/a.jpg,1\n"
                            "/x/Livestock/train/part/cow/b.jpg,2\n"
                            "/x/Fish/all/carp/c.jpg,3\n"
                            "/x/Livestock/goat/d.jpg,4\n"
                            "/x/nowhere/goat/d.jpg,5\n"
                            "/x/Livestock/y/lost/e.jpg,6\n"
                            "/x/Crops/f.jpg,7\n"
                            "./cow/Crops,8\n",
                            &facts);
    static const char *const files[] = {"Crops/deep/rust/a.jpg",
                                        "Livestock/cow/b.jpg",
                                        "Fisheries/carp/c.jpg",
                                        "goat/d.jpg",
                                        "goat/d.jpg",
                                        "Livestock/y/lost/e.jpg",
                                        "Crops/f.jpg",
                                        "cow/Crops"};
    for (int64_t i = 0; i < 8; i++) {
        assert_string_equal(cps_table_cell(table, i, 0), files[i]);
    }
    assert_string_equal(cps_table_cell(table, 6, 2), "Crops");
    assert_string_equal(cps_table_cell(table, 7, 3), "");
    assert_int_equal(facts.strangers, 2);
    cps_table_destroy(table);
}

static void rows_that_are_left_out(void **state) {
    (void)state;
    static const char text[] = "filepath,caption\n"
                               "Crops/a/1.jpg\n"
                               ",no picture\n"
                               "Crops/a/2.jpg,,,\n"
                               "Crops/a/3.jpg,\"\"\n"
                               "Crops/../a/4.jpg,up\n"
                               "Crops/a/,a folder\n"
                               "5.jpg,no folder\n"
                               "Crops/a/6.jpg,ze\0ro\n"
                               "Crops/a/7.jpg,good\n"
                               "a\na\na\na\n";
    cps_agriclip_facts facts;
    cps_table *table = NULL;
    assert_int_equal(read_bytes(text, sizeof text - 1, &table, &facts), CPS_OK);
    assert_int_equal(cps_table_rows(table), 1);
    assert_int_equal(facts.rows, 1);
    assert_int_equal(facts.left_out, 12);
    assert_string_equal(facts.lines, "\n    line 2: it has no comma between a path and a caption"
                                     "\n    line 3: it names no picture"
                                     "\n    line 4: it has no comma between a path and a caption"
                                     "\n    line 5: it has no caption"
                                     "\n    line 6: its path has '..'"
                                     "\n    line 7: its path names a folder"
                                     "\n    line 8: its path has no folder of a class"
                                     "\n    line 9: it holds a zero byte"
                                     "\n    line 11: it has no comma between a path and a caption"
                                     "\n    line 12: it has no comma between a path and a caption");
    free(facts.lines);
    cps_table_destroy(table);
}

static void bad(const char *text, cps_status wanted, const char *part) {
    cps_agriclip_facts facts;
    cps_table *table = NULL;
    assert_int_equal(read_bytes(text, strlen(text), &table, &facts), wanted);
    if (strstr(cps_fail_message(), part) == NULL) {
        fail_msg("'%s' does not say '%s'", cps_fail_message(), part);
    }
}

static void files_that_are_refused(void **state) {
    (void)state;
    bad("", CPS_ERR_USAGE, "is empty");
    bad("\n \n", CPS_ERR_USAGE, "is empty");
    bad("\nfile,caption\n", CPS_ERR_USAGE, "captions.csv:2: it begins with 'file,caption'");
    bad("filepath,caption,label\n", CPS_ERR_USAGE, "captions.csv:1");
    bad("filepath,caption\n", CPS_ERR_DATA, "it has none");
    bad("filepath,title\nx\n", CPS_ERR_DATA, "line 2: it has no comma");
    cps_agriclip_facts facts;
    cps_table *table = NULL;
    assert_int_equal(cps_table_read_agriclip("/nowhere/x.csv", folder, &table, &facts),
                     CPS_ERR_UNAVAILABLE);
}

/* Bytes of a sound file changed, removed, doubled: what comes out is UTF-8 below the root, or a
 * message. */
static void damaged_files(void **state) {
    (void)state;
    static const char sound[] = "filepath,caption\n"
                                "\"/home/Crops/rust/2.jpg,\"\"A leaf, \"\"spots\"\".\"\"\",,,\n"
                                "/x/Fish/carp\xe9/6.jpg,caf\xc3\xa9 \xc3\xa2\xe2\x82\xac\n"
                                "D:\\Livestock\\cow\\5.jpg,A \xf0\x9f\x90\x84 cow\n";
    static const char marks[] = "\",\n\r\\/.\0\xe9\xc3\xff ";
    enum { LENGTH = sizeof sound - 1 };
    int64_t fine = 0;
    for (uint64_t trial = 0; trial < 4000; trial++) {
        const cps_draw_key key = {.seed = 3, .position = trial};
        char bytes[2 * LENGTH];
        size_t length = 0;
        for (size_t i = 0; i < LENGTH; i++) {
            const uint64_t what = cps_draw_below(&key, 2 * i, 60);
            const char other = marks[cps_draw_below(&key, 2 * i + 1, sizeof marks - 1)];
            if (i < 17 && trial % 8 != 0) { /* mostly with a sound header */
                bytes[length++] = sound[i];
            } else if (what > 1) {
                bytes[length++] = what == 2 ? other : sound[i];
            } else if (what == 1) {
                bytes[length++] = sound[i];
                bytes[length++] = other;
            }
        }
        cps_agriclip_facts facts;
        cps_table *table = NULL;
        const cps_status status = read_bytes(bytes, length, &table, &facts);
        assert_true(status == CPS_OK || status == CPS_ERR_USAGE || status == CPS_ERR_DATA);
        for (int64_t i = 0; status == CPS_OK && i < 4 * cps_table_rows(table); i++) {
            const char *cell = cps_table_cell(table, i / 4, i % 4);
            assert_true(cps_utf8_is_valid(cell, strlen(cell)));
            assert_true(i % 4 == 3 || cell[0] != '\0');
            assert_true(i % 4 != 0 || (cell[0] != '/' && strstr(cell, "../") == NULL));
        }
        if (status == CPS_OK) {
            fine++;
            free(facts.lines);
            cps_table_destroy(table);
        }
    }
    assert_in_range(fine, 1000, 3999);
}

/* ---- captions by class ---- */

static cps_status join(const char *text, cps_plan *plan_out, int64_t *without_out) {
    char *pictures = cps_format("%s/pictures.csv", folder);
    static const char rows[] = "file,caption,label\n1.jpg,own,rust\n2.jpg,,rust\n3.jpg,,healthy\n"
                               "4.jpg,alone,\n5.jpg,,mould\n";
    assert_int_equal(cps_file_write_atomic(pictures, rows, sizeof rows - 1), CPS_OK);
    assert_int_equal(cps_file_write_atomic(csv, text, strlen(text)), CPS_OK);
    assert_int_equal(cps_plan_create(plan_out), CPS_OK);
    assert_int_equal(
        cps_plan_add_table(plan_out, pictures, &(cps_plan_columns){0}, &(cps_agriclip_facts){0}),
        CPS_OK);
    free(pictures);
    return cps_plan_add_class_captions(plan_out, csv, without_out);
}

static void expect_captions(const cps_plan *plan, int64_t record, const char *wanted) {
    char *found = cps_format("%s", "");
    const cps_plan_record *at = cps_plan_record_at(plan, record);
    for (int64_t k = 0; k < at->text_count; k++) {
        const cps_plan_text *text = cps_plan_text_at(plan, at->first_text + k);
        if (text->field == CPS_PLAN_CAPTION) {
            char *longer = cps_format("%s%s|", found, cps_plan_string(plan, text->text));
            free(found);
            found = longer;
        }
    }
    assert_string_equal(found, wanted);
    free(found);
}

static void captions_by_class(void **state) {
    (void)state;
    cps_plan plan;
    int64_t without = 0;
    assert_int_equal(
        join("Label,caption\nrust,first\nhealthy,\"a, b\"\nrust,second\n", &plan, &without),
        CPS_OK);
    assert_int_equal(without, 1);
    assert_int_equal(cps_plan_finish(&plan, NULL), CPS_OK);
    expect_captions(&plan, 0, "own|first|second|");
    expect_captions(&plan, 1, "first|second|");
    expect_captions(&plan, 2, "a, b|");
    expect_captions(&plan, 3, "alone|");
    expect_captions(&plan, 4, "");
    assert_int_equal(cps_plan_record_at(&plan, 0)->caption_count, 3);
    cps_plan_free(&plan);
}

static void class_tables_that_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"name,caption\nrust,x\n", "columns 'label' and 'caption', its columns are: name, caption"},
        {"label,caption\n", "has a header but no rows"},
        {"label,caption\nrust,x\n,y\n", "captions.csv:3: a row without label"},
        {"class,caption\nrust, \n", "captions.csv:2: a row without caption"},
        {"label,caption\nrust,x\nhealthi,y\n",
         "captions.csv:3: no record has the label 'healthi' (did you mean 'healthy'?)"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cps_plan plan;
        int64_t without = 0;
        assert_int_equal(join(cases[i].text, &plan, &without), CPS_ERR_USAGE);
        if (strstr(cps_fail_message(), cases[i].part) == NULL) {
            fail_msg("'%s' does not say '%s'", cps_fail_message(), cases[i].part);
        }
        cps_plan_free(&plan);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_of_all_kinds),
                                       cmocka_unit_test(letters),
                                       cmocka_unit_test(paths),
                                       cmocka_unit_test(rows_that_are_left_out),
                                       cmocka_unit_test(files_that_are_refused),
                                       cmocka_unit_test(damaged_files),
                                       cmocka_unit_test(captions_by_class),
                                       cmocka_unit_test(class_tables_that_are_refused)};
    return cmocka_run_group_tests(tests, start, end);
}
