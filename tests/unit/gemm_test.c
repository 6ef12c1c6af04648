/* Products against plain sums in double, their independence of threads, and the Cholesky solver. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "base/pool.h"
#include "base/rng.h"
#include "tensor/gemm.h"
#include "tensor/tape.h"

static double normal(const char *name, int64_t index) {
    const cps_draw_key key = {.seed = 3, .module = cps_name_key(name)};
    return cps_draw_normal(&key, (uint64_t)index);
}

static cps_real *random_reals(const char *name, int64_t count) {
    cps_real *values = malloc((size_t)(count + 1) * sizeof *values);
    for (int64_t i = 0; i < count; i++) {
        values[i] = (cps_real)normal(name, i);
    }
    return values;
}

typedef struct problem {
    bool ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    double alpha, beta;
    cps_real *a, *b, *c;
} problem;

static problem problem_make(int64_t m, int64_t n, int64_t k, int bits, double alpha, double beta) {
    problem p = {.ta = (bits & 1) != 0,
                 .tb = (bits & 2) != 0,
                 .m = m,
                 .n = n,
                 .k = k,
                 .alpha = alpha,
                 .beta = beta};
    p.lda = (p.ta ? m : k) + 3; /* rows further apart than they are long */
    p.ldb = (p.tb ? k : n) + 1;
    p.ldc = n + 2;
    p.a = random_reals("a", p.lda * (p.ta ? k : m));
    p.b = random_reals("b", p.ldb * (p.tb ? n : k));
    p.c = random_reals("c", p.ldc * m);
    return p;
}

static void problem_free(problem *p) {
    free(p->a);
    free(p->b);
    free(p->c);
}

static double entry(const problem *p, const cps_real *before, int64_t i, int64_t j) {
    double sum = 0.0;
    for (int64_t t = 0; t < p->k; t++) {
        const double a = (double)(p->ta ? p->a[t * p->lda + i] : p->a[i * p->lda + t]);
        const double b = (double)(p->tb ? p->b[j * p->ldb + t] : p->b[t * p->ldb + j]);
        sum += a * b;
    }
    return p->alpha * sum + (p->beta == 0.0 ? 0.0 : p->beta * (double)before[i * p->ldc + j]);
}

static void run(const problem *p) {
    cps_gemm(p->ta, p->tb, p->m, p->n, p->k, p->alpha, p->a, p->lda, p->b, p->ldb, p->beta, p->c,
             p->ldc);
}

static void check_product(int64_t m, int64_t n, int64_t k, int bits, double beta) {
    problem p = problem_make(m, n, k, bits, 1.3, beta);
    const size_t bytes = (size_t)(p.ldc * m) * sizeof *p.c;
    cps_real *before = malloc(bytes + 1);
    memcpy(before, p.c, bytes);
    if (beta == 0.0) { /* what C held must not matter */
        for (int64_t i = 0; i < m * p.ldc; i++) {
            p.c[i] = i % p.ldc < n ? (cps_real)NAN : before[i];
        }
    }
    run(&p);
    const double tolerance = sizeof(cps_real) == 8 ? 1e-13 : 3e-6;
    const int64_t step = m * n > 100000 ? 37 : 1; /* large ones: a sample */
    for (int64_t at = 0; at < m * n; at += step) {
        const int64_t i = at / n, j = at % n;
        const double wanted = entry(&p, before, i, j), found = (double)p.c[i * p.ldc + j];
        if (!(fabs(found - wanted) <= tolerance * (1.0 + fabs(wanted) + sqrt((double)k)))) {
            fail_msg("%d x %d x %d, way %d: element (%d, %d) is %.9g, %.9g wanted", (int)m, (int)n,
                     (int)k, bits, (int)i, (int)j, found, wanted);
        }
    }
    for (int64_t i = 0; i < m * p.ldc; i++) { /* between the rows nothing is written */
        assert_true(i % p.ldc < n || p.c[i] == before[i]);
    }
    free(before);
    problem_free(&p);
}

static void test_products(void **state) {
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},    {5, 7, 3},      {0, 4, 3},     {4, 0, 3},
                                       {4, 5, 0},    {401, 769, 5},  {33, 31, 64},  {820, 17, 9},
                                       {7, 1601, 2}, {450, 450, 40}, {97, 193, 211}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int bits = 0; bits < 4; bits++) {
            check_product(sizes[i][0], sizes[i][1], sizes[i][2], bits, 0.0);
            check_product(sizes[i][0], sizes[i][1], sizes[i][2], bits, -0.5);
        }
    }
}

static void test_threads_same_bits(void **state) {
    (void)state;
    problem one = problem_make(700, 1500, 60, 2, 1.0, 0.0),
            other = problem_make(700, 1500, 60, 2, 1.0, 0.0);
    run(&one);
    for (int32_t threads = 2; threads <= 4; threads++) {
        assert_int_equal(cps_pool_start(threads), CPS_OK);
        run(&other);
        cps_pool_stop();
        assert_memory_equal(one.c, other.c, (size_t)(one.ldc * one.m) * sizeof *one.c);
    }
    problem_free(&one);
    problem_free(&other);
}

static void test_time_counts(void **state) {
    (void)state;
    double seconds, flop, seconds_after, flop_after;
    problem p = problem_make(200, 300, 400, 0, 1.0, 0.0);
    cps_product_time(&seconds, &flop);
    run(&p);
    cps_product_time(&seconds_after, &flop_after);
    assert_true(seconds_after > seconds);
    assert_true(fabs(flop_after - flop - 2.0 * 200 * 300 * 400) < 1.0);
    problem_free(&p);
}

static void test_precision_names(void **state) {
    (void)state;
    assert_int_equal(cps_gemm_set_precision("fp64"), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "fp64"));
    assert_int_equal(cps_gemm_set_precision("fp32"), CPS_OK);
    assert_string_equal(cps_gemm_precision(), "fp32");
    assert_true(strlen(cps_gemm_core_name()) > 0);
}

/* ---- Cholesky
 * ----------------------------------------------------------------------------------------------------------------
 */
/* A = M M^T + I/2, B = A X for a known X. */
static void check_solve(int64_t n, int64_t columns) {
    double *m = malloc((size_t)(n * n + 1) * sizeof *m),
           *a = malloc((size_t)(n * n + 1) * sizeof *a);
    double *x = malloc((size_t)(n * columns + 1) * sizeof *x),
           *b = malloc((size_t)(n * columns + 1) * sizeof *b);
    for (int64_t i = 0; i < n * n; i++) {
        m[i] = normal("m", i) / sqrt((double)n);
        a[i] = i / n == i % n ? 0.5 : 0.0;
    }
    for (int64_t i = 0; i < n * columns; i++) {
        x[i] = normal("x", i);
    }
    cps_gemm_f64(false, true, n, n, n, 1.0, m, n, m, n, 1.0, a, n);
    cps_gemm_f64(false, false, n, columns, n, 1.0, a, n, x, columns, 0.0, b, columns);
    assert_int_equal(cps_cholesky_solve_f64(n, a, columns, b), CPS_OK);
    for (int64_t i = 0; i < n * columns; i++) {
        if (!(fabs(b[i] - x[i]) < 1e-10)) {
            fail_msg("n %d, %d columns: element %d is %.15g, %.15g wanted", (int)n, (int)columns,
                     (int)i, b[i], x[i]);
        }
    }
    free(m);
    free(a);
    free(x);
    free(b);
}

static void test_cholesky(void **state) {
    (void)state;
    check_solve(0, 3);
    check_solve(1, 1);
    check_solve(5, 0);
    check_solve(63, 2);
    check_solve(64, 1);
    check_solve(65, 70);
    check_solve(200, 3);
}

static void test_cholesky_refuses(void **state) {
    (void)state;
    double a[4] = {1.0, 2.0, 2.0, 1.0}, b[2] = {1.0, 1.0};
    assert_int_equal(cps_cholesky_solve_f64(2, a, 1, b), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "pivot 1 is -3"));
    double nan_matrix[1] = {(double)NAN};
    assert_int_equal(cps_cholesky_solve_f64(1, nan_matrix, 1, b), CPS_ERR_DATA);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),    cmocka_unit_test(test_threads_same_bits),
        cmocka_unit_test(test_time_counts), cmocka_unit_test(test_precision_names),
        cmocka_unit_test(test_cholesky),    cmocka_unit_test(test_cholesky_refuses),
    };
    cps_gemm_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
