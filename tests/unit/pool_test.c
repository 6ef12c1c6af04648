#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/pool.h"

typedef struct counts {
    _Atomic int32_t *visits;
    int64_t nested;
} counts;

static void visit(void *context, int64_t index) {
    const counts *work = context;
    atomic_fetch_add(&work->visits[index], 1);
}

static void visit_nested(void *context, int64_t index) {
    const counts *work = context;
    counts inner = {.visits = work->visits + index * work->nested};
    cps_parallel(work->nested, visit, &inner);
}

static void check_visits(int64_t n, int64_t nested, cps_parallel_body body) {
    const int64_t total = n * (nested > 0 ? nested : 1);
    counts work = {.visits = calloc((size_t)total + 1, sizeof *work.visits), .nested = nested};
    cps_parallel(n, body, &work);
    for (int64_t i = 0; i < total; i++) {
        assert_int_equal(atomic_load(&work.visits[i]), 1);
    }
    assert_int_equal(atomic_load(&work.visits[total]), 0);
    free(work.visits);
}

static void each_index_runs_once(void **state) {
    (void)state;
    for (int32_t threads = 1; threads <= 5; threads++) {
        assert_int_equal(cps_pool_start(threads), CPS_OK);
        assert_int_equal(cps_pool_threads(), threads);
        for (int64_t n = 0; n < 40; n++) {
            check_visits(n, 0, visit);
        }
        check_visits(10007, 0, visit);
        check_visits(7, 11, visit_nested);
    }
    cps_pool_stop();
    assert_int_equal(cps_pool_threads(), 1);
    check_visits(13, 0, visit);
    cps_pool_stop();
}

/* Many small calls after another, some after a pause that sends the workers to sleep. */
static void calls_do_not_mix(void **state) {
    (void)state;
    assert_int_equal(cps_pool_start(4), CPS_OK);
    for (int round = 0; round < 3000; round++) {
        check_visits(1 + round % 9, 0, visit);
        if (round % 300 == 0) {
            usleep(2000);
        }
    }
    cps_pool_stop();
}

static void square(void *context, int64_t index) {
    double *values = context;
    values[index] = (double)index * (double)index;
}

static void results_are_seen_by_the_caller(void **state) {
    (void)state;
    enum { COUNT = 5000 };
    static double values[COUNT];
    assert_int_equal(cps_pool_start(3), CPS_OK);
    for (int round = 0; round < 50; round++) {
        memset(values, 0, sizeof values);
        cps_parallel(COUNT, square, values);
        for (int i = 0; i < COUNT; i++) {
            assert_true(values[i] == (double)i * (double)i);
        }
    }
    cps_pool_stop();
}

static void refuses_impossible_numbers(void **state) {
    (void)state;
    assert_int_equal(cps_pool_start(0), CPS_ERR_USAGE);
    assert_int_equal(cps_pool_start(100000), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "100000 compute threads asked"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_index_runs_once),
        cmocka_unit_test(calls_do_not_mix),
        cmocka_unit_test(results_are_seen_by_the_caller),
        cmocka_unit_test(refuses_impossible_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
