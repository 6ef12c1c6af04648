/* Tables: what RFC 4180 allows comes out, what it does not is named with its line. */
#include "shards/table.h"

#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64];

static int make_name(void **state) {
    (void)state;
    strcpy(path, "/tmp/cps-table-XXXXXX.csv");
    const int fd = mkstemps(path, 4);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

static cps_status read_text(const char *text, size_t length, cps_table **table_out) {
    FILE *raw = fopen(path, "wb");
    assert_non_null(raw);
    assert_int_equal(fwrite(text, 1, length, raw), length);
    assert_int_equal(fclose(raw), 0);
    return cps_table_read(path, table_out);
}

static cps_table *good(const char *text) {
    cps_table *table = NULL;
    const cps_status status = read_text(text, strlen(text), &table);
    if (status != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return table;
}

static void bad(const char *text, cps_status status, const char *message) {
    cps_table *table = NULL;
    assert_int_equal(read_text(text, strlen(text), &table), status);
    if (strstr(cps_fail_message(), message) == NULL) {
        fail_msg("'%s' does not say '%s'", cps_fail_message(), message);
    }
}

static void reads_plain_and_quoted_fields(void **state) {
    (void)state;
    cps_table *table = good("\xef\xbb\xbf"
                            "file,caption,label\r\n"
                            "a.jpg,\"green, with \"\"spots\"\"\",rust\r\n"
                            "\r\n"
                            "b.jpg,\"two\nlines\",\n"
                            "\"c d.jpg\",\"\",\"\"");
    assert_int_equal(cps_table_columns(table), 3);
    assert_int_equal(cps_table_rows(table), 3);
    assert_string_equal(cps_table_name(table, 0), "file");
    assert_int_equal(cps_table_column(table, "label"), 2);
    assert_int_equal(cps_table_column(table, "nothing"), -1);
    assert_string_equal(cps_table_cell(table, 0, 1), "green, with \"spots\"");
    assert_string_equal(cps_table_cell(table, 1, 1), "two\nlines");
    assert_string_equal(cps_table_cell(table, 1, 2), "");
    assert_string_equal(cps_table_cell(table, 2, 0), "c d.jpg");
    assert_int_equal(cps_table_line(table, 0), 2);
    assert_int_equal(cps_table_line(table, 2), 6);
    char *list = cps_table_list_columns(table);
    assert_string_equal(list, "file, caption, label");
    free(list);
    assert_string_equal(cps_table_nearest(table, "captions"), "caption");
    assert_null(cps_table_nearest(table, "wavelength"));
    cps_table_destroy(table);
    cps_table_destroy(NULL);
}

static void finds_the_separator(void **state) {
    (void)state;
    cps_table *table = good("file\tcaption\na.jpg\tgreen, spotted\n");
    assert_int_equal(cps_table_columns(table), 2);
    assert_string_equal(cps_table_cell(table, 0, 1), "green, spotted");
    cps_table_destroy(table);
    table = good("file;caption\na.jpg;\"a;b\"\n");
    assert_string_equal(cps_table_cell(table, 0, 1), "a;b");
    cps_table_destroy(table);
    table = good("file\na.jpg\n\nb.jpg");
    assert_int_equal(cps_table_rows(table), 2);
    cps_table_destroy(table);
    table = good("file,caption\n");
    assert_int_equal(cps_table_rows(table), 0);
    cps_table_destroy(table);
}

static void many_rows_are_kept(void **state) {
    (void)state;
    char *text = malloc(20 * 5000);
    assert_non_null(text);
    size_t length = (size_t)sprintf(text, "file,n\n");
    for (int i = 0; i < 5000; ++i) {
        length += (size_t)sprintf(text + length, "%d.jpg,%d\n", i, i * 7);
    }
    cps_table *table = NULL;
    assert_int_equal(read_text(text, length, &table), CPS_OK);
    assert_int_equal(cps_table_rows(table), 5000);
    assert_string_equal(cps_table_cell(table, 4999, 0), "4999.jpg");
    assert_string_equal(cps_table_cell(table, 4999, 1), "34993");
    assert_int_equal(cps_table_line(table, 4999), 5001);
    cps_table_destroy(table);
    free(text);
}

static void errors_name_the_line(void **state) {
    (void)state;
    bad("", CPS_ERR_USAGE, "is empty");
    bad("\n\n", CPS_ERR_USAGE, "is empty");
    bad("file,caption,file\na,b,c\n", CPS_ERR_USAGE, "names column 'file' twice");
    bad("file,,x\n", CPS_ERR_USAGE, "column 2 of the header has no name");
    bad("file,caption\na.jpg,x\nb.jpg\n", CPS_ERR_USAGE, ".csv:3: this row has 1 fields");
    bad("file,caption\na.jpg,\"x\ny\"\nb.jpg,a,b\n", CPS_ERR_USAGE,
        ".csv:4: this row has more than 2 fields");
    bad("file,caption\na.jpg,\"never closed\nx,y\n", CPS_ERR_USAGE, ".csv:2: a quoted field");
    bad("file,caption\na.jpg,\"closed\" too early\n", CPS_ERR_USAGE, ".csv:2: text follows");
    bad("file,caption\na.jpg,ok\nb.jpg,f\xfcr\n", CPS_ERR_DATA, ".csv:3: not UTF-8");
    cps_table *table = NULL;
    assert_int_equal(read_text("file\na\0b\n", 9, &table), CPS_ERR_DATA);
    assert_int_equal(cps_table_read("/nowhere/x.csv", &table), CPS_ERR_UNAVAILABLE);
    assert_null(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_plain_and_quoted_fields),
        cmocka_unit_test(finds_the_separator),
        cmocka_unit_test(many_rows_are_kept),
        cmocka_unit_test(errors_name_the_line),
    };
    return cmocka_run_group_tests(tests, make_name, remove_file);
}
