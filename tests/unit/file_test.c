#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static char *folder;

static int make_folder(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    folder = cps_format("%s/copse-file-test-XXXXXX", base != NULL ? base : "/tmp");
    return mkdtemp(folder) != NULL ? 0 : 1;
}

static int remove_folder(void **state) {
    (void)state;
    char *command = cps_format("rm -rf '%s'", folder);
    const int result = system(command);
    free(command);
    free(folder);
    return result;
}

static char *in_folder(const char *name) {
    return cps_path_join(folder, name);
}

static void writes_and_reads_back(void **state) {
    (void)state;
    char *path = in_folder("a.bin");
    const char bytes[] = "one\0two\n";
    assert_false(cps_file_exists(path));
    assert_int_equal(cps_file_write_atomic(path, bytes, sizeof bytes), CPS_OK);
    assert_true(cps_file_exists(path));
    assert_false(cps_dir_exists(path));
    char *read = NULL;
    size_t length = 0;
    assert_int_equal(cps_file_read(path, sizeof bytes, &read, &length), CPS_OK);
    assert_int_equal(length, sizeof bytes);
    assert_memory_equal(read, bytes, length);
    assert_int_equal(read[length], '\0');
    free(read);
    assert_int_equal(cps_file_append(path, "three", 5), CPS_OK);
    assert_int_equal(cps_file_read(path, 100, &read, &length), CPS_OK);
    assert_int_equal(length, sizeof bytes + 5);
    free(read);
    assert_int_equal(cps_file_write_atomic(path, "", 0), CPS_OK); /* replaces */
    assert_int_equal(cps_file_read(path, 100, &read, &length), CPS_OK);
    assert_int_equal(length, 0);
    free(read);
    free(path);
}

static void read_limits(void **state) {
    (void)state;
    char *path = in_folder("limit.bin"), *read = NULL;
    size_t length = 7;
    assert_int_equal(cps_file_write_atomic(path, "12345", 5), CPS_OK);
    assert_int_equal(cps_file_read(path, 4, &read, &length), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "has 5 bytes, at most 4"));
    assert_int_equal(cps_file_read(folder, 100, &read, &length), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "is a folder"));
    assert_int_equal(cps_file_read("/dev/zero", 200000, &read, &length), CPS_ERR_DATA);
    assert_int_equal(length, 7); /* written on success only */
    assert_null(read);
    assert_int_equal(cps_file_read("/proc/self/status", 1 << 20, &read, &length), CPS_OK);
    assert_non_null(strstr(read, "VmHWM")); /* a file without a size */
    free(read);
    free(path);
}

static void missing_things_are_named(void **state) {
    (void)state;
    char *path = in_folder("no/such/file"), *read = NULL;
    size_t length;
    assert_int_equal(cps_file_read(path, 10, &read, &length), CPS_ERR_UNAVAILABLE);
    assert_non_null(strstr(cps_fail_message(), path));
    assert_non_null(strstr(cps_fail_message(), "No such file or directory: check the path"));
    assert_int_equal(cps_file_write_atomic(path, "x", 1), CPS_ERR_UNAVAILABLE);
    assert_int_equal(cps_file_append(path, "x", 1), CPS_ERR_UNAVAILABLE);
    free(path);
}

static void a_full_disk_leaves_nothing_behind(void **state) {
    (void)state;
    assert_int_equal(cps_file_append("/dev/full", "x", 1), CPS_ERR_IO);
    assert_non_null(strstr(cps_fail_message(), "No space left on device: free some space"));
    char *target = in_folder("taken"), *temporary = in_folder("temporary");
    assert_int_equal(cps_dir_create(target), CPS_OK);
    assert_int_equal(cps_file_append(temporary, "x", 1), CPS_OK);
    assert_int_equal(cps_file_publish(temporary, target), CPS_ERR_IO); /* a folder is in the way */
    assert_false(cps_file_exists(temporary));
    assert_int_equal(cps_file_write_atomic(target, "x", 1), CPS_ERR_IO);
    char *pattern = in_folder("*.tmp.*"), **paths = NULL;
    int64_t count = 0;
    assert_int_equal(cps_glob(pattern, &paths, &count), CPS_ERR_UNAVAILABLE);
    free(pattern);
    free(temporary);
    free(target);
}

static void folders(void **state) {
    (void)state;
    char *deep = in_folder("p//q/r/"), *file = in_folder("f"), *below = in_folder("f/g");
    assert_int_equal(cps_dir_create(deep), CPS_OK);
    assert_true(cps_dir_exists(deep));
    assert_int_equal(cps_dir_create(deep), CPS_OK);
    assert_int_equal(cps_dir_create("/"), CPS_OK);
    assert_int_equal(cps_file_append(file, "x", 1), CPS_OK);
    assert_int_equal(cps_dir_create(file), CPS_ERR_IO);
    assert_non_null(strstr(cps_fail_message(), "is a file"));
    assert_int_equal(cps_dir_create(below), CPS_ERR_IO);
    free(below);
    free(file);
    free(deep);
}

static void globs_sort_by_bytes(void **state) {
    (void)state;
    const char *names[] = {"s-b.h5", "s-A.h5", "s-10.h5", "s-9.h5", "other"};
    for (size_t i = 0; i < 5; i++) {
        char *path = in_folder(names[i]);
        assert_int_equal(cps_file_append(path, "x", 1), CPS_OK);
        free(path);
    }
    char *pattern = in_folder("s-*.h5"), **paths = NULL;
    int64_t count = 0;
    assert_int_equal(cps_glob(pattern, &paths, &count), CPS_OK);
    assert_int_equal(count, 4);
    const char *wanted[] = {"s-10.h5", "s-9.h5", "s-A.h5", "s-b.h5"};
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(strrchr(paths[i], '/') + 1, wanted[i]);
    }
    cps_strings_destroy(paths, count);
    cps_strings_destroy(NULL, 3);
    assert_int_equal(cps_glob("no-such-*.h5", &paths, &count), CPS_ERR_UNAVAILABLE);
    assert_non_null(
        strstr(cps_fail_message(), "no file matches 'no-such-*.h5' (current folder: '/"));
    free(pattern);
}

static void check_text(char *text, const char *wanted) {
    assert_string_equal(text, wanted);
    free(text);
}

static void paths(void **state) {
    (void)state;
    check_text(cps_path_join("/a", "b"), "/a/b");
    check_text(cps_path_join("/a/", "b"), "/a/b");
    check_text(cps_path_join("/a", "/b"), "/b");
    check_text(cps_path_join("", "b"), "b");
    check_text(cps_path_folder("a/b/c"), "a/b");
    check_text(cps_path_folder("c"), ".");
    check_text(cps_path_folder("/c"), "/");
    check_text(cps_path_folder("a//c"), "a");
    check_text(cps_format("%s-%d", "x", 7), "x-7");
    char *one = cps_file_temporary_name("dir/x.h5"), *two = cps_file_temporary_name("dir/x.h5");
    assert_string_not_equal(one, two);
    assert_memory_equal(one, "dir/x.h5.tmp.", 13);
    free(one);
    free(two);
    const double before = cps_seconds();
    usleep(2000);
    assert_true(cps_seconds() - before >= 0.002);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_and_reads_back),
        cmocka_unit_test(read_limits),
        cmocka_unit_test(missing_things_are_named),
        cmocka_unit_test(a_full_disk_leaves_nothing_behind),
        cmocka_unit_test(folders),
        cmocka_unit_test(globs_sort_by_bytes),
        cmocka_unit_test(paths),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
