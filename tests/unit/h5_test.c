/* HDF5 files: what is written comes back, equal content gives equal bytes, and files from strangers
 * are refused. */
#include "h5/h5.h"

#include "base/file.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <hdf5.h>

#include <cmocka.h>

static char folder[64];

static char *in_folder(const char *name) {
    return cps_format("%s/%s", folder, name);
}

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cps-h5-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state) {
    (void)state;
    char *command = cps_format("rm -rf '%s'", folder);
    const int rc = system(command);
    free(command);
    return rc;
}

static void write_sample(const char *path) {
    cps_h5 *file = NULL;
    const double numbers[6] = {0.5, -1.25, 3, 4e300, -0.0, 7};
    const int64_t whole[3] = {1, -2, INT64_MAX};
    const uint64_t ids[2] = {UINT64_MAX, 7};
    const char *const texts[3] = {"oak", "", "Quercus robur \xc3\xa9"};
    const char *no_texts[1] = {NULL};
    assert_int_equal(cps_h5_create(path, &file), CPS_OK);
    assert_int_equal(
        cps_h5_write(file, "a/b/numbers", CPS_H5_F64, 2, (const int64_t[]){2, 3}, numbers), CPS_OK);
    assert_int_equal(cps_h5_write(file, "whole", CPS_H5_I64, 1, (const int64_t[]){3}, whole),
                     CPS_OK);
    assert_int_equal(cps_h5_write(file, "a/ids", CPS_H5_U64, 1, (const int64_t[]){2}, ids), CPS_OK);
    assert_int_equal(cps_h5_write(file, "scalar", CPS_H5_F64, 0, NULL, numbers), CPS_OK);
    assert_int_equal(cps_h5_write(file, "none", CPS_H5_I32, 1, (const int64_t[]){0}, NULL), CPS_OK);
    assert_int_equal(cps_h5_write_strings(file, "texts", texts, 3), CPS_OK);
    assert_int_equal(cps_h5_write_strings(file, "no texts", no_texts, 0), CPS_OK);
    assert_int_equal(cps_h5_make_group(file, "empty/group"), CPS_OK);
    assert_int_equal(cps_h5_write_text(file, "/", "format", "test"), CPS_OK);
    assert_int_equal(cps_h5_write_text(file, "/", "nothing", ""), CPS_OK);
    assert_int_equal(cps_h5_write_integer(file, "/", "version", 3), CPS_OK);
    assert_int_equal(cps_h5_write_integer(file, "/", "version", 4), CPS_OK); /* replaces */
    assert_int_equal(cps_h5_write_number(file, "a/ids", "weight", 0.1), CPS_OK);
    assert_int_equal(cps_h5_close(file), CPS_OK);
}

static void reads_what_was_written(void **state) {
    (void)state;
    char *path = in_folder("sample.h5");
    write_sample(path);
    cps_h5 *file = NULL;
    assert_int_equal(cps_h5_open(path, &file), CPS_OK);
    assert_string_equal(cps_h5_path(file), path);

    cps_h5_info info;
    assert_int_equal(cps_h5_inspect(file, "a/b/numbers", &info), CPS_OK);
    assert_int_equal(info.kind, CPS_H5_DATASET);
    assert_int_equal(info.type, CPS_H5_F64);
    assert_int_equal(info.rank, 2);
    assert_int_equal(info.shape[1], 3);
    assert_int_equal(info.count, 6);
    double numbers[6];
    assert_int_equal(cps_h5_read(file, "a/b/numbers", CPS_H5_F64, 6, numbers), CPS_OK);
    assert_true(numbers[1] == -1.25 && numbers[3] == 4e300);
    float row[3];
    assert_int_equal(cps_h5_read_rows(file, "a/b/numbers", CPS_H5_F32, 1, 1, row), CPS_OK);
    assert_true(row[2] == 7.0f);
    uint64_t ids[2];
    assert_int_equal(cps_h5_read(file, "a/ids", CPS_H5_U64, 2, ids), CPS_OK);
    assert_true(ids[0] == UINT64_MAX);
    void *whole = NULL;
    int64_t count = 0;
    assert_int_equal(cps_h5_read_alloc(file, "whole", CPS_H5_I64, 24, &whole, &count), CPS_OK);
    assert_int_equal(count, 3);
    assert_true(((int64_t *)whole)[2] == INT64_MAX);
    free(whole);
    assert_int_equal(cps_h5_inspect(file, "scalar", &info), CPS_OK);
    assert_true(info.rank == 0 && info.count == 1);
    assert_int_equal(cps_h5_read(file, "none", CPS_H5_I32, 0, NULL), CPS_OK);

    char **texts = NULL;
    assert_int_equal(cps_h5_read_strings(file, "texts", &texts, &count), CPS_OK);
    assert_int_equal(count, 3);
    assert_string_equal(texts[1], "");
    assert_string_equal(texts[2], "Quercus robur \xc3\xa9");
    cps_strings_destroy(texts, count);
    assert_int_equal(cps_h5_read_strings(file, "no texts", &texts, &count), CPS_OK);
    assert_int_equal(count, 0);
    cps_strings_destroy(texts, count);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    free(path);
}

static void lists_names_and_attributes(void **state) {
    (void)state;
    char *path = in_folder("names.h5");
    write_sample(path);
    cps_h5 *file = NULL;
    assert_int_equal(cps_h5_open(path, &file), CPS_OK);
    char **names = NULL;
    int64_t count = 0;
    assert_int_equal(cps_h5_list(file, "/", &names, &count), CPS_OK);
    assert_int_equal(count, 7);
    assert_string_equal(names[0], "a");
    assert_string_equal(names[6], "whole");
    cps_strings_destroy(names, count);
    assert_int_equal(cps_h5_list(file, "empty/group", &names, &count), CPS_OK);
    assert_int_equal(count, 0);
    cps_strings_destroy(names, count);
    assert_int_equal(cps_h5_list_attributes(file, "/", &names, &count), CPS_OK);
    assert_int_equal(count, 3);
    assert_string_equal(names[0], "format");
    cps_strings_destroy(names, count);

    char *text = NULL;
    assert_int_equal(cps_h5_read_text(file, "/", "format", &text), CPS_OK);
    assert_string_equal(text, "test");
    free(text);
    assert_int_equal(cps_h5_read_text(file, "/", "nothing", &text), CPS_OK);
    assert_string_equal(text, "");
    free(text);
    int64_t version = 0;
    assert_int_equal(cps_h5_read_integer(file, "/", "version", &version), CPS_OK);
    assert_int_equal(version, 4);
    double weight = 0;
    assert_int_equal(cps_h5_read_number(file, "a/ids", "weight", &weight), CPS_OK);
    assert_true(weight == 0.1);
    assert_true(cps_h5_has(file, "a/b"));
    assert_true(cps_h5_has(file, "/"));
    assert_false(cps_h5_has(file, "a/c"));
    assert_false(cps_h5_has(file, "whole/below"));
    assert_true(cps_h5_has_attribute(file, "/", "format"));
    assert_false(cps_h5_has_attribute(file, "absent", "format"));
    assert_int_equal(cps_h5_close(file), CPS_OK);
    free(path);
}

static void long_texts_fit_attributes(void **state) {
    (void)state;
    char *path = in_folder("long.h5");
    char *text = malloc(300001);
    assert_non_null(text);
    memset(text, 'x', 300000);
    text[300000] = '\0';
    cps_h5 *file = NULL;
    char *back = NULL;
    assert_int_equal(cps_h5_create(path, &file), CPS_OK);
    assert_int_equal(cps_h5_write_text(file, "/", "job", text), CPS_OK);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    assert_int_equal(cps_h5_open_strict(path, &file), CPS_OK);
    assert_int_equal(cps_h5_read_text(file, "/", "job", &back), CPS_OK);
    assert_string_equal(text, back);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    free(back);
    free(text);
    free(path);
}

/* As h5py writes by default: superblock 0, strings of variable length. */
static void the_strict_way_refuses_what_has_no_checksum(void **state) {
    (void)state;
    char *path = in_folder("variable.h5");
    char *old = in_folder("old.h5");
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
    const hid_t raw = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(raw, "name", type, space, H5P_DEFAULT, H5P_DEFAULT);
    const char *value = "oak";
    H5Awrite(attribute, type, &value);
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
    H5Fclose(raw);
    H5Pclose(access);
    H5Fclose(H5Fcreate(old, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
    cps_h5 *file = NULL;
    char *text = NULL;
    assert_int_equal(cps_h5_open_strict(old, &file), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "superblock version 0"));
    assert_int_equal(cps_h5_open_strict(path, &file), CPS_OK);
    assert_int_equal(cps_h5_read_text(file, "/", "name", &text), CPS_ERR_DATA);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    assert_int_equal(cps_h5_open(path, &file), CPS_OK);
    assert_int_equal(cps_h5_read_text(file, "/", "name", &text), CPS_OK);
    assert_string_equal(text, "oak");
    free(text);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    free(old);
    free(path);
}

static void says_what_does_not_fit(void **state) {
    (void)state;
    char *path = in_folder("fit.h5");
    write_sample(path);
    cps_h5 *file = NULL;
    assert_int_equal(cps_h5_open(path, &file), CPS_OK);
    int64_t values[8];
    void *pointer = NULL;
    int64_t count = 0;
    char *text = NULL;
    char **texts = NULL;
    double number = 0;
    assert_int_equal(cps_h5_read(file, "whole", CPS_H5_I64, 4, values), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "holds 3 elements, 4 are wanted"));
    assert_int_equal(cps_h5_read(file, "a/b/numbers", CPS_H5_I64, 6, values), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "holds floats, integers are wanted"));
    assert_int_equal(cps_h5_read(file, "texts", CPS_H5_F64, 3, values), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read(file, "whole", CPS_H5_I32, 3, values), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "too large for 32-bit integers"));
    assert_int_equal(cps_h5_read(file, "a/ids", CPS_H5_I64, 2, values), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read(file, "whole", CPS_H5_U8, 3, values), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read(file, "absent", CPS_H5_I64, 1, values), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "there is no 'absent'"));
    assert_int_equal(cps_h5_read(file, "a", CPS_H5_I64, 1, values), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "there is a group at 'a'"));
    assert_int_equal(cps_h5_read_rows(file, "whole", CPS_H5_I64, 2, 2, values), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_rows(file, "whole", CPS_H5_I64, -1, 1, values), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_rows(file, "whole", CPS_H5_I64, 1, INT64_MAX, values),
                     CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_alloc(file, "whole", CPS_H5_I64, 23, &pointer, &count),
                     CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_alloc(file, "absent", CPS_H5_I64, 23, &pointer, &count),
                     CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_strings(file, "whole", &texts, &count), CPS_ERR_DATA);
    assert_int_equal(cps_h5_list(file, "whole", &texts, &count), CPS_ERR_DATA);
    assert_int_equal(cps_h5_list_attributes(file, "absent", &texts, &count), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_text(file, "/", "version", &text), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_text(file, "/", "absent", &text), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_integer(file, "/", "format", &count), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_integer(file, "a/ids", "weight", &count), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_numbers(file, "a/ids", "weight", 3, &number), CPS_ERR_DATA);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    assert_int_equal(cps_h5_close(NULL), CPS_OK);
    free(path);
}

static void equal_content_has_equal_bytes(void **state) {
    (void)state;
    char *first = in_folder("first.h5");
    char *second = in_folder("second.h5");
    write_sample(first);
    sleep(1); /* a time stamp, if there were one, would differ */
    write_sample(second);
    char *a = NULL;
    char *b = NULL;
    size_t a_bytes = 0;
    size_t b_bytes = 0;
    assert_int_equal(cps_file_read(first, 1 << 20, &a, &a_bytes), CPS_OK);
    assert_int_equal(cps_file_read(second, 1 << 20, &b, &b_bytes), CPS_OK);
    assert_int_equal(a_bytes, b_bytes);
    assert_memory_equal(a, b, a_bytes);
    free(a);
    free(b);
    free(first);
    free(second);
}

static void values_can_be_written_at_the_address(void **state) {
    (void)state;
    char *path = in_folder("address.h5");
    cps_h5 *file = NULL;
    int64_t address = 0;
    size_t bytes = 0;
    assert_int_equal(cps_h5_create(path, &file), CPS_OK);
    assert_int_equal(cps_h5_write(file, "blob", CPS_H5_U8, 1, (const int64_t[]){5000}, NULL),
                     CPS_OK);
    assert_int_equal(cps_h5_write(file, "empty", CPS_H5_U8, 1, (const int64_t[]){0}, NULL), CPS_OK);
    assert_int_equal(cps_h5_address(file, "blob", &address, &bytes), CPS_OK);
    assert_int_equal(bytes, 5000);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    uint8_t values[5000];
    for (int i = 0; i < 5000; ++i) {
        values[i] = (uint8_t)(i * 7);
    }
    FILE *raw = fopen(path, "r+b");
    assert_non_null(raw);
    assert_int_equal(fseek(raw, (long)address, SEEK_SET), 0);
    assert_int_equal(fwrite(values, 1, sizeof values, raw), sizeof values);
    assert_int_equal(fclose(raw), 0);
    uint8_t back[5000];
    assert_int_equal(cps_h5_open(path, &file), CPS_OK);
    assert_int_equal(cps_h5_read(file, "blob", CPS_H5_U8, 5000, back), CPS_OK);
    assert_memory_equal(values, back, sizeof values);
    assert_int_equal(cps_h5_address(file, "empty", &address, &bytes), CPS_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    free(path);
}

/* ---- strangers
 * ----------------------------------------------------------------------------------------------------
 */

static void write_raw(const char *path, const void *bytes, size_t length) {
    FILE *raw = fopen(path, "wb");
    assert_non_null(raw);
    assert_int_equal(fwrite(bytes, 1, length, raw), length);
    assert_int_equal(fclose(raw), 0);
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    char *path = in_folder("whole.h5");
    char *damaged = in_folder("damaged.h5");
    cps_h5 *file = NULL;
    write_sample(path);
    char *bytes = NULL;
    size_t length = 0;
    assert_int_equal(cps_file_read(path, 1 << 20, &bytes, &length), CPS_OK);

    write_raw(damaged, bytes, length - 100);
    assert_int_equal(cps_h5_open(damaged, &file), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "truncated"));
    write_raw(damaged, bytes, 20);
    assert_int_equal(cps_h5_open(damaged, &file), CPS_ERR_DATA);
    write_raw(damaged, bytes, 0);
    assert_int_equal(cps_h5_open(damaged, &file), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "empty"));
    write_raw(damaged, "<html>not found</html>", 22);
    assert_int_equal(cps_h5_open(damaged, &file), CPS_ERR_DATA);
    assert_int_equal(cps_h5_open(folder, &file), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "is a folder"));
    assert_int_equal(cps_h5_open("/nowhere/at/all.h5", &file), CPS_ERR_UNAVAILABLE);
    assert_int_equal(cps_h5_create("/nowhere/at/all.h5", &file), CPS_ERR_IO);
    assert_null(file);

    /* A flipped byte anywhere may change values or be refused; it must not end the process. */
    for (size_t at = 0; at < length; at += 37) {
        bytes[at] = (char)(bytes[at] ^ 0x5a);
        write_raw(damaged, bytes, length);
        bytes[at] = (char)(bytes[at] ^ 0x5a);
        if (cps_h5_open(damaged, &file) != CPS_OK) {
            continue;
        }
        double numbers[6];
        char **texts = NULL;
        int64_t count = 0;
        (void)!cps_h5_read(file, "a/b/numbers", CPS_H5_F64, 6, numbers);
        if (cps_h5_read_strings(file, "texts", &texts, &count) == CPS_OK) {
            cps_strings_destroy(texts, count);
        }
        char *text = NULL;
        if (cps_h5_read_text(file, "/", "format", &text) == CPS_OK) {
            free(text);
        }
        (void)!cps_h5_close(file);
    }
    free(bytes);
    free(path);
    free(damaged);
}

/* Files that a stranger could make and our writer cannot: straight calls of the library. */
static void lying_files_are_refused(void **state) {
    (void)state;
    char *path = in_folder("lying.h5");
    const hid_t raw = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hsize_t huge[1] = {(hsize_t)1 << 40};
    const hsize_t chunk[1] = {1024};
    const hsize_t one[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(creation, 1, chunk);
    hid_t space = H5Screate_simple(1, huge, NULL);
    H5Dclose(H5Dcreate2(raw, "huge", H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, creation, H5P_DEFAULT));
    H5Sclose(space);
    space = H5Screate_simple(9, one, NULL);
    H5Dclose(H5Dcreate2(raw, "deep", H5T_NATIVE_INT, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(creation);
    creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(creation, "/etc/hostname", 0, 4);
    space = H5Screate_simple(1, (const hsize_t[]){4}, NULL);
    H5Dclose(
        H5Dcreate2(raw, "outside", H5T_NATIVE_UINT8, space, H5P_DEFAULT, creation, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(creation);
    H5Lcreate_soft("/huge", raw, "soft", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_external("/etc/other.h5", "/x", raw, "external", H5P_DEFAULT, H5P_DEFAULT);
    space = H5Screate(H5S_NULL);
    H5Dclose(H5Dcreate2(raw, "null", H5T_NATIVE_INT, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
    H5Fclose(raw);

    cps_h5 *file = NULL;
    cps_h5_info info;
    void *values = NULL;
    int64_t count = 0;
    int64_t address = 0;
    size_t bytes = 0;
    uint8_t four[4];
    assert_int_equal(cps_h5_open(path, &file), CPS_OK);
    assert_int_equal(cps_h5_inspect(file, "huge", &info), CPS_OK);
    assert_true(info.count == (int64_t)1 << 40);
    assert_int_equal(cps_h5_read_alloc(file, "huge", CPS_H5_F64, 1 << 20, &values, &count),
                     CPS_ERR_DATA);
    assert_int_equal(cps_h5_address(file, "huge", &address, &bytes), CPS_ERR_DATA);
    assert_int_equal(cps_h5_inspect(file, "deep", &info), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read(file, "outside", CPS_H5_U8, 4, four), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "another file"));
    assert_int_equal(cps_h5_inspect(file, "soft", &info), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "link"));
    assert_int_equal(cps_h5_inspect(file, "external", &info), CPS_ERR_DATA);
    assert_int_equal(cps_h5_inspect(file, "external/x", &info), CPS_ERR_DATA);
    assert_int_equal(cps_h5_read_alloc(file, "null", CPS_H5_I32, 8, &values, &count), CPS_OK);
    assert_int_equal(count, 0);
    free(values);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    free(path);
}

/* Writes 800 kB where they do not fit, behind `attributes` attributes; returns the worse of the two
 * statuses. */
static cps_status write_too_much(const char *path, int attributes) {
    double *values = calloc(100000, sizeof *values);
    cps_h5 *file = NULL;
    assert_int_equal(cps_h5_create(path, &file), CPS_OK);
    for (int i = 0; i < attributes; i++) {
        char *name = cps_format("attribute %d", i);
        assert_int_equal(cps_h5_write_number(file, "/", name, i), CPS_OK);
        free(name);
    }
    const cps_status written =
        cps_h5_write(file, "values", CPS_H5_F64, 1, (const int64_t[]){100000}, values);
    const cps_status closed = cps_h5_close(file);
    free(values);
    return written != CPS_OK ? written : closed;
}

/* On a file system of that size; false where none can be mounted. */
static bool fill_disk(const char *size, int attributes) {
    char *small = in_folder("small");
    char *path = in_folder("small/full.h5");
    assert_int_equal(cps_dir_create(small), CPS_OK);
    const bool mounted = mount("tmpfs", small, "tmpfs", 0, size) == 0;
    if (mounted) {
        const cps_status status = write_too_much(path, attributes);
        char *message = cps_format("%s", cps_fail_message());
        assert_int_equal(umount(small), 0);
        assert_int_equal(status, CPS_ERR_IO);
        assert_non_null(strstr(message, "full.h5"));
        free(message);
    }
    free(path);
    free(small);
    return mounted;
}

static void a_full_disk_is_an_error_and_no_crash(void **state) {
    (void)state;
    if (!fill_disk("size=128k", 0)) {
        print_message("skipped: no permission to mount a small file system\n");
        skip();
    }
    assert_true(fill_disk("size=4k", 40)); /* not even what describes the data */
    char *path = in_folder("after.h5");
    write_sample(path); /* the library goes on working, and ends */
    free(path);
    assert_true(H5close() >= 0);
}

static void a_file_that_cannot_begin_is_gone(void **state) {
    (void)state;
    char *path = in_folder("never.h5");
    cps_h5 *file = NULL;
    struct rlimit limit, none;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    const cps_status status = cps_h5_create(path, &file);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(status, CPS_ERR_IO);
    assert_null(file);
    assert_non_null(strstr(cps_fail_message(), "(HDF5: File too large)"));
    assert_int_not_equal(access(path, F_OK), 0);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_was_written),
        cmocka_unit_test(lists_names_and_attributes),
        cmocka_unit_test(long_texts_fit_attributes),
        cmocka_unit_test(the_strict_way_refuses_what_has_no_checksum),
        cmocka_unit_test(says_what_does_not_fit),
        cmocka_unit_test(equal_content_has_equal_bytes),
        cmocka_unit_test(values_can_be_written_at_the_address),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(lying_files_are_refused),
        cmocka_unit_test(a_file_that_cannot_begin_is_gone),
        cmocka_unit_test(a_full_disk_is_an_error_and_no_crash),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
