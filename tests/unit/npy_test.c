/* .npy files: what NumPy writes is read, what lies about itself is refused before anything is. */
#include "base/npy.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/status.h"

static char path[64];

static int make_name(void **state) {
    (void)state;
    strcpy(path, "/tmp/cps-npy-XXXXXX");
    const int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

/* Version, a dictionary (its length is `claimed` unless that is negative), elements. */
static void write_file(int version, const char *dictionary, long claimed, const void *elements,
                       size_t bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    const size_t length = claimed >= 0 ? (size_t)claimed : strlen(dictionary);
    const unsigned char start[12] = {0x93,
                                     'N',
                                     'U',
                                     'M',
                                     'P',
                                     'Y',
                                     (unsigned char)version,
                                     0,
                                     (unsigned char)length,
                                     (unsigned char)(length >> 8),
                                     (unsigned char)(length >> 16),
                                     (unsigned char)(length >> 24)};
    fwrite(start, 1, version == 1 ? 10 : 12, file);
    fwrite(dictionary, 1, strlen(dictionary), file);
    fwrite(elements, 1, bytes, file);
    assert_int_equal(fclose(file), 0);
}

static const float six[6] = {1, -2, 3.5f, 4, 5, 6};
#define GOOD "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"

static void expect_good(int version, const char *dictionary, int32_t rank) {
    write_file(version, dictionary, -1, six, sizeof six);
    cps_npy file;
    assert_int_equal(cps_npy_open(path, &file), CPS_OK);
    assert_int_equal(file.rank, rank);
    assert_int_equal(file.count, 6);
    float values[4];
    assert_int_equal(cps_npy_read(&file, 1, 4, values), CPS_OK);
    assert_memory_equal(values, six + 1, sizeof values);
    cps_npy_close(&file);
}

static void test_what_numpy_writes(void **state) {
    (void)state;
    expect_good(1, GOOD "      \n", 2);
    expect_good(2, GOOD "\n", 2);
    expect_good(3, GOOD "\n", 2);
    expect_good(1, "{\"shape\":(6,),\"descr\":\"<f4\",\"fortran_order\":True}\n", 1);
    expect_good(1, "{'shape': (1, 2, 3, 1), 'descr': '<f4', 'fortran_order': False,}", 4);
}

static void test_element_types(void **state) {
    (void)state;
    const uint16_t halves[3] = {0x3c00, 0xc000, 0x0001};
    write_file(1, "{'descr': '<f2', 'fortran_order': False, 'shape': (3,)}", -1, halves,
               sizeof halves);
    cps_npy file;
    float values[3];
    assert_int_equal(cps_npy_open(path, &file), CPS_OK);
    assert_int_equal(cps_npy_read(&file, 0, 3, values), CPS_OK);
    assert_true(values[0] == 1.0f && values[1] == -2.0f && values[2] == ldexpf(1.0f, -24));
    cps_npy_close(&file);
    const double wide[2] = {0.5, -0.25};
    write_file(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", -1, wide, sizeof wide);
    assert_int_equal(cps_npy_open(path, &file), CPS_OK);
    assert_int_equal(cps_npy_read(&file, 0, 2, values), CPS_OK);
    assert_true(values[0] == 0.5f && values[1] == -0.25f);
    cps_npy_close(&file);
}

static void expect_bad(const char *part) {
    cps_npy file;
    assert_int_equal(cps_npy_open(path, &file), CPS_ERR_DATA);
    if (strstr(cps_fail_message(), part) == NULL) {
        fail_msg("'%s' is not in '%s'", part, cps_fail_message());
    }
}

static void expect_bad_dictionary(const char *dictionary) {
    write_file(1, dictionary, -1, six, sizeof six);
    expect_bad("header is no dictionary");
}

static void test_hostile_headers(void **state) {
    (void)state;
    write_file(1, GOOD, -1, six, sizeof six - 1);
    expect_bad("promises 6 elements");
    write_file(1, GOOD, -1, six, 0);
    expect_bad("promises 6 elements");
    write_file(4, GOOD, -1, six, sizeof six);
    expect_bad("version 1, 2 or 3");
    write_file(1, GOOD, 65000, six, sizeof six);
    expect_bad("header of 65000 bytes");
    write_file(2, GOOD, 0x7fffffff, six, sizeof six);
    expect_bad("header of 2147483647 bytes");
    write_file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}", -1,
               six, sizeof six);
    expect_bad("header");
    write_file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (576460752303423487, 64)}", -1,
               six, sizeof six);
    expect_bad("bytes follow");
    write_file(1, "{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3)}", -1, six, sizeof six);
    expect_bad("'>f4'");
    write_file(1, "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}", -1, six, sizeof six);
    expect_bad("'|O'");
    static const char *const wrong[] = {
        "",
        "{",
        "{}",
        "not a dictionary",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'shape': (2, 3), 'fortran_order': None}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'more': 1}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 2, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 99999999999999999999)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} + x",
        "{'descr': '<f4\\n', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': 'a very long name of a type', 'fortran_order': False, 'shape': (2, 3)}",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        expect_bad_dictionary(wrong[i]);
    }
}

static void test_cut_before_the_header(void **state) {
    (void)state;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (int i = 0; i < 11; i++) {
        rewind(file);
        fwrite("\x93NUMPY\x02\0\xff\0\0\0", 1, (size_t)i, file);
        fflush(file);
        cps_npy npy;
        assert_int_equal(cps_npy_open(path, &npy), CPS_ERR_DATA);
    }
    fclose(file);
    cps_npy npy;
    assert_int_equal(cps_npy_open("/nonexistent/x.npy", &npy), CPS_ERR_UNAVAILABLE);
}

static void test_our_own_header(void **state) {
    (void)state;
    char header[CPS_NPY_HEADER];
    cps_npy_matrix_header(3, 2, header);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fwrite(header, 1, sizeof header, file);
    fwrite(six, 1, sizeof six, file);
    fclose(file);
    cps_npy npy;
    assert_int_equal(cps_npy_open(path, &npy), CPS_OK);
    assert_int_equal(npy.rank, 2);
    assert_int_equal(npy.shape[0], 3);
    assert_int_equal(npy.shape[1], 2);
    assert_false(npy.fortran_order);
    cps_npy_close(&npy);
    cps_npy_matrix_header(INT64_MAX, INT64_MAX, header); /* has room */
}

/* Every half comes back; between two of them the nearer one is taken, the even one in the middle.
 */
static void test_halves(void **state) {
    (void)state;
    for (uint32_t half = 0; half < 0x7c00; half++) {
        const float value = cps_half_to_float((uint16_t)half);
        assert_int_equal(cps_half_from_float(value), half);
        if (half > 0) {
            assert_int_equal(cps_half_from_float(-value), half | 0x8000);
        }
        if (half < 0x7bff) {
            const float next = cps_half_to_float((uint16_t)(half + 1));
            const float middle = 0.5f * (value + next);
            assert_int_equal(cps_half_from_float(middle), half + half % 2);
            assert_int_equal(cps_half_from_float(nextafterf(middle, 0.0f)), half);
            assert_int_equal(cps_half_from_float(nextafterf(middle, 1e9f)), half + 1);
        }
    }
    assert_int_equal(cps_half_from_float(65519.0f), 0x7bff);
    assert_int_equal(cps_half_from_float(65520.0f), 0x7c00);
    assert_int_equal(cps_half_from_float(1e30f), 0x7c00);
    assert_int_equal(cps_half_from_float(-INFINITY), 0xfc00);
    assert_true(isnan(cps_half_to_float(cps_half_from_float(NAN))));
    assert_true(isinf(cps_half_to_float(0x7c00)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_numpy_writes), cmocka_unit_test(test_element_types),
        cmocka_unit_test(test_hostile_headers),   cmocka_unit_test(test_cut_before_the_header),
        cmocka_unit_test(test_our_own_header),    cmocka_unit_test(test_halves),
    };
    return cmocka_run_group_tests(tests, make_name, remove_file);
}
