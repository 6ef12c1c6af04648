/* Results as rows: what RFC 4180 and JSON ask for, columns for people, files that appear whole. */
#include "report/rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cps-rows-XXXXXX");
    return mkdtemp(folder) == NULL || chdir(folder) != 0;
}

static int remove_folder(void **state) {
    (void)state;
    char *command = cps_format("rm -rf '%s'", folder);
    const int rc = system(command);
    free(command);
    return rc;
}

static const cps_rows_column columns[] = {{"file_name", false}, {"b,c", false}, {"score", true}};
static const char *const cells[][3] = {
    {"plain.jpg", "a \"quoted\" one", "0.5"},
    {"with, comma.jpg", "two\nlines\r", "1e-05"},
    {"", "back\\slash\ttab \x01 caf\xc3\xa9", "-1"},
};
enum { ROWS = 3 };

/* All rows of a format as text; the caller frees it. */
static char *write_all(cps_rows_format format, int rows_to_write) {
    cps_rows *rows = NULL;
    assert_int_equal(cps_rows_create("out", NULL, format, columns, 3, &rows), CPS_OK);
    for (int i = 0; i < rows_to_write; i++) {
        assert_int_equal(cps_rows_add(rows, cells[i]), CPS_OK);
    }
    assert_false(cps_file_exists("out"));
    assert_int_equal(cps_rows_finish(rows), CPS_OK);
    char *text = NULL;
    size_t length = 0;
    assert_int_equal(cps_file_read("out", 1 << 20, &text, &length), CPS_OK);
    assert_int_equal(unlink("out"), 0);
    return text;
}

static void test_csv(void **state) {
    (void)state;
    char *text = write_all(CPS_ROWS_CSV, ROWS);
    assert_string_equal(text, "file_name,\"b,c\",score\n"
                              "plain.jpg,\"a \"\"quoted\"\" one\",0.5\n"
                              "\"with, comma.jpg\",\"two\nlines\r\",1e-05\n"
                              ",back\\slash\ttab \x01 caf\xc3\xa9,-1\n");
    free(text);
    text = write_all(CPS_ROWS_CSV, 0);
    assert_string_equal(text, "file_name,\"b,c\",score\n");
    free(text);
}

static void test_json(void **state) {
    (void)state;
    char *text = write_all(CPS_ROWS_JSON, ROWS);
    cps_json *json = NULL;
    assert_int_equal(cps_json_parse(text, strlen(text), "rows", &json), CPS_OK);
    assert_int_equal(cps_json_count(json), ROWS);
    for (int i = 0; i < ROWS; i++) {
        const cps_json *row = cps_json_at(json, i);
        assert_int_equal(cps_json_count(row), 3);
        assert_string_equal(cps_json_get_string(row, "file_name", "?"), cells[i][0]);
        assert_string_equal(cps_json_get_string(row, "b,c", "?"), cells[i][1]);
        assert_true(cps_json_get_number(row, "score", 7) == strtod(cells[i][2], NULL));
    }
    cps_json_destroy(json);
    free(text);
    text = write_all(CPS_ROWS_JSON, 0);
    assert_int_equal(cps_json_parse(text, strlen(text), "rows", &json), CPS_OK);
    assert_int_equal(cps_json_count(json), 0);
    cps_json_destroy(json);
    free(text);
}

static void test_table(void **state) {
    (void)state;
    static const char *const wide[][3] = {{"a", "caf\xc3\xa9", "0.25"}, {"bcd", "x", "10"}};
    static const cps_rows_column named[] = {{"n", false}, {"what", false}, {"score", true}};
    cps_rows *rows = NULL;
    assert_int_equal(cps_rows_create("out", NULL, CPS_ROWS_TABLE, named, 3, &rows), CPS_OK);
    assert_int_equal(cps_rows_add(rows, wide[0]), CPS_OK);
    assert_int_equal(cps_rows_add(rows, wide[1]), CPS_OK);
    assert_int_equal(cps_rows_flush(rows), CPS_OK);
    static const char *const late[] = {"later", "and too wide", "1"};
    assert_int_equal(cps_rows_add(rows, late), CPS_OK);
    assert_int_equal(cps_rows_finish(rows), CPS_OK);
    char *text = NULL;
    size_t length = 0;
    assert_int_equal(cps_file_read("out", 1 << 20, &text, &length), CPS_OK);
    assert_string_equal(text, "n    what  score\n"
                              "a    caf\xc3\xa9   0.25\n"
                              "bcd  x        10\n"
                              "later  and too wide      1\n");
    free(text);
}

static void test_failures(void **state) {
    (void)state;
    cps_rows *rows = NULL;
    assert_int_equal(cps_rows_create("no/folder", NULL, CPS_ROWS_CSV, columns, 3, &rows),
                     CPS_ERR_IO);
    assert_int_equal(cps_rows_create("gone", NULL, CPS_ROWS_CSV, columns, 3, &rows), CPS_OK);
    cps_rows_abandon(rows);
    assert_int_equal(system("ls gone* 2>/dev/null | grep -q ."), 256);
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    assert_int_equal(cps_rows_create(NULL, full, CPS_ROWS_CSV, columns, 3, &rows), CPS_OK);
    assert_int_equal(cps_rows_add(rows, cells[0]), CPS_OK); /* still in the buffer */
    assert_int_equal(cps_rows_flush(rows), CPS_ERR_IO);
    assert_int_equal(cps_rows_add(rows, cells[0]), CPS_ERR_IO);
    assert_int_equal(cps_rows_finish(rows), CPS_ERR_IO);
    assert_non_null(strstr(cps_fail_message(), "No space left"));
    fclose(full);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
