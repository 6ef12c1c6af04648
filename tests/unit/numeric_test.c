#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/numeric.h"

static void sizes_do_not_overflow(void **state) {
    (void)state;
    size_t size = 7;
    assert_true(cps_mul_size(3, 5, &size) && size == 15);
    assert_true(cps_mul_size(0, SIZE_MAX, &size) && size == 0);
    assert_true(cps_mul_size(SIZE_MAX, 1, &size) && size == SIZE_MAX);
    size = 7;
    assert_false(cps_mul_size(SIZE_MAX / 2 + 1, 2, &size));
    assert_false(cps_add_size(SIZE_MAX, 1, &size));
    assert_int_equal(size, 7);
    assert_true(cps_add_size(SIZE_MAX - 1, 1, &size) && size == SIZE_MAX);
    int64_t count = 7;
    assert_true(cps_mul_i64(1 << 30, 1 << 30, &count) && count == (int64_t)1 << 60);
    count = 7;
    assert_false(cps_mul_i64((int64_t)1 << 32, (int64_t)1 << 31, &count));
    assert_false(cps_mul_i64(-1, 2, &count));
    assert_false(cps_mul_i64(2, -1, &count));
    assert_int_equal(count, 7);
    assert_int_equal(cps_to_int(INT_MAX), INT_MAX);
    assert_int_equal(cps_to_int(INT_MIN), INT_MIN);
}

static void compensated_sum_keeps_small_terms(void **state) {
    (void)state;
    cps_running_sum sum = {0};
    cps_sum_add(&sum, 1e16);
    for (int i = 0; i < 1000; i++) {
        cps_sum_add(&sum, 1.0);
    }
    cps_sum_add(&sum, -1e16);
    assert_true(cps_sum_value(&sum) == 1000.0);
    cps_running_sum late = {0}; /* the larger term last: where Kahan's form fails */
    cps_sum_add(&late, 1.0);
    cps_sum_add(&late, 1e100);
    cps_sum_add(&late, 1.0);
    cps_sum_add(&late, -1e100);
    assert_true(cps_sum_value(&late) == 2.0);
    cps_sum_add(&late, HUGE_VAL);
    assert_true(isinf(cps_sum_value(&late)));
}

static void finds_one_bad_value_anywhere(void **state) {
    (void)state;
    cps_real values[67];
    for (int64_t count = 0; count <= 67; count++) {
        for (int64_t i = 0; i < 67; i++) {
            values[i] = i % 2 == 0 ? (cps_real)1e30 : (cps_real)-1e-30;
        }
        assert_true(cps_all_finite(values, count));
        for (int64_t bad = 0; bad < count; bad++) {
            const cps_real kept = values[bad];
            values[bad] = (cps_real)(bad % 3 == 0 ? NAN : bad % 3 == 1 ? INFINITY : -INFINITY);
            assert_false(cps_all_finite(values, count));
            values[bad] = kept;
        }
    }
}

static void sum_of_squares_goes_by_blocks(void **state) {
    (void)state;
    enum { COUNT = 3 * 4096 + 77 };
    cps_real *values = malloc(COUNT * sizeof *values);
    double plain = 0;
    for (int i = 0; i < COUNT; i++) {
        values[i] = (cps_real)(((unsigned)i * 2654435761u >> 8 & 0xffff) / 65536.0 - 0.5);
        plain += (double)values[i] * (double)values[i];
    }
    const double sum = cps_sum_squares(values, COUNT);
    assert_true(fabs(sum - plain) < 1e-12 * plain);
    /* the definition: blocks of 4096 added in order, so a caller may cut there */
    double blocks = 0;
    for (int first = 0; first < COUNT; first += 4096) {
        blocks += cps_sum_squares(values + first, COUNT - first < 4096 ? COUNT - first : 4096);
    }
    assert_memory_equal(&blocks, &sum, sizeof sum);
    assert_true(cps_sum_squares(values, 0) == 0.0);
    free(values);
}

static void small_helpers(void **state) {
    (void)state;
    assert_int_equal(cps_ceil_div(0, 5), 0);
    assert_int_equal(cps_ceil_div(10, 5), 2);
    assert_int_equal(cps_ceil_div(11, 5), 3);
    assert_int_equal(cps_ceil_div(INT64_MAX, 2), INT64_MAX / 2 + 1);
    assert_int_equal(cps_min_i64(-3, 2), -3);
    assert_int_equal(cps_max_i64(-3, 2), 2);
    assert_int_equal(cps_dtype_bytes(CPS_REAL), sizeof(cps_real));
    assert_int_equal(cps_dtype_bytes(CPS_F64), 8);
    assert_int_equal(cps_dtype_bytes(CPS_I32), 4);
    assert_int_equal(cps_dtype_bytes(CPS_I64), 8);
    assert_int_equal(cps_dtype_bytes(CPS_U8), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_do_not_overflow),
        cmocka_unit_test(compensated_sum_keeps_small_terms),
        cmocka_unit_test(finds_one_bad_value_anywhere),
        cmocka_unit_test(sum_of_squares_goes_by_blocks),
        cmocka_unit_test(small_helpers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
