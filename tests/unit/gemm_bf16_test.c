/* Products in bf16 against sums in double of the operands rounded to bf16; independence of threads,
 * of what was computed before, and of everything that asks for full precision. Where build or CPU
 * have no bf16, only the refusal is tested. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "base/pool.h"
#include "base/rng.h"
#include "tensor/gemm_engine.h"
#include "tensor/tape.h"

static bool available;

static void need_bf16(void) {
    if (!available) {
        printf("skipped: %s\n", cps_fail_message());
        skip();
    }
    assert_int_equal(cps_gemm_set_precision("bf16"), CPS_OK);
}

static cps_real *random_reals(const char *name, int64_t count) {
    const cps_draw_key key = {.seed = 5, .module = cps_name_key(name)};
    cps_real *values = malloc((size_t)(count + 1) * sizeof *values);
    for (int64_t i = 0; i < count; i++) {
        values[i] = (cps_real)cps_draw_normal(&key, (uint64_t)i);
    }
    return values;
}

/* To the nearest number with 8 bits, ties to even. */
static double rounded(cps_real value) {
    const float given = (float)value;
    uint32_t bits;
    memcpy(&bits, &given, sizeof bits);
    bits = (bits + 0x7fffU + (bits >> 16 & 1U)) & 0xffff0000U;
    float result;
    memcpy(&result, &bits, sizeof result);
    return (double)result;
}

typedef struct problem {
    cps_product p;
    int64_t count_c;
    cps_real *a, *b, *c, *before;
} problem;

/* bits: 1 transposes A, 2 transposes B. gap: numbers between rows of C. */
static problem problem_make(int64_t m, int64_t n, int64_t k, int bits, int64_t gap) {
    problem q = {.p = {.transpose_a = (bits & 1) != 0,
                       .transpose_b = (bits & 2) != 0,
                       .m = m,
                       .n = n,
                       .k = k,
                       .alpha = 1.0,
                       .ldc = n + gap}};
    q.p.lda = (q.p.transpose_a ? m : k) + 3;
    q.p.ldb = (q.p.transpose_b ? k : n) + 1;
    q.a = random_reals("a", q.p.lda * (q.p.transpose_a ? k : m));
    q.b = random_reals("b", q.p.ldb * (q.p.transpose_b ? n : k));
    q.count_c = q.p.ldc * m;
    q.c = random_reals("c", q.count_c);
    q.before = random_reals("c", q.count_c);
    q.p.a = q.a;
    q.p.b = q.b;
    q.p.c = q.c;
    return q;
}

static void problem_free(problem *q) {
    free(q->a);
    free(q->b);
    free(q->c);
    free(q->before);
}

static double entry(const problem *q, int64_t i, int64_t j) {
    const cps_product *p = &q->p;
    double sum = 0.0;
    for (int64_t t = 0; t < p->k; t++) {
        sum += rounded(p->a[p->transpose_a ? t * p->lda + i : i * p->lda + t]) *
               rounded(p->b[p->transpose_b ? j * p->ldb + t : t * p->ldb + j]);
    }
    return p->alpha * sum + (p->beta == 0.0 ? 0.0 : p->beta * (double)q->before[i * p->ldc + j]);
}

static void check_values(const problem *q, const char *what) {
    const cps_product *p = &q->p;
    const int64_t step = p->m * p->n > 50000 ? 41 : 1; /* large ones: a sample */
    for (int64_t at = 0; at < p->m * p->n; at += step) {
        const int64_t i = at / p->n, j = at % p->n;
        const double wanted = entry(q, i, j), found = (double)q->c[i * p->ldc + j];
        if (!(fabs(found - wanted) <= 2e-6 * (1.0 + fabs(wanted) + sqrt((double)p->k)))) {
            fail_msg(
                "%s %d x %d x %d%s%s, alpha %g, beta %g: element (%d, %d) is %.9g, %.9g wanted",
                what, (int)p->m, (int)p->n, (int)p->k, p->transpose_a ? " A^T" : "",
                p->transpose_b ? " B^T" : "", p->alpha, p->beta, (int)i, (int)j, found, wanted);
        }
    }
    for (int64_t i = 0; i < q->count_c; i++) { /* between the rows nothing is written */
        assert_true(i % p->ldc < p->n || q->c[i] == q->before[i]);
    }
}

static void check_product(int64_t m, int64_t n, int64_t k, int bits, int64_t gap, double alpha,
                          double beta) {
    problem q = problem_make(m, n, k, bits, gap);
    q.p.alpha = alpha;
    q.p.beta = beta;
    for (int64_t i = 0; beta == 0.0 && i < q.count_c; i++) { /* what C held must not matter */
        q.c[i] = i % q.p.ldc < n ? (cps_real)NAN : q.before[i];
    }
    cps_products(1, &q.p);
    check_values(&q, "product");
    problem_free(&q);
}

static void test_products(void **state) {
    (void)state;
    need_bf16();
    static const int64_t sizes[][3] = {
        {1, 1, 1},    {5, 7, 3},   {0, 4, 3},      {4, 0, 3},     {4, 5, 0},      {33, 31, 64},
        {32, 64, 65}, {64, 65, 1}, {401, 769, 5},  {820, 17, 97}, {97, 193, 211}, {192, 40, 33},
        {7, 1601, 2}, {65, 16, 8}, {191, 48, 127}, {385, 10, 640}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
        for (int bits = 0; bits < 4; bits++) {
            check_product(m, n, k, bits, 0, 1.0, 0.0);
            check_product(m, n, k, bits, 0, 1.0, 1.0);
            check_product(m, n, k, bits, 2, 1.0, 0.0);
            check_product(m, n, k, bits, 0, 1.3, -0.5);
        }
    }
}

/* Together, one of them exact, as the backward pass of a linear layer runs them. */
static void test_several(void **state) {
    (void)state;
    need_bf16();
    problem q[3] = {problem_make(300, 70, 50, 1, 0), problem_make(200, 90, 64, 0, 0),
                    problem_make(40, 500, 33, 2, 1)};
    cps_product all[3];
    for (int i = 0; i < 3; i++) {
        all[i] = q[i].p;
    }
    all[1].exact = true;
    cps_products(3, all);
    check_values(&q[0], "first of three");
    check_values(&q[2], "last of three");
    cps_real *exact = random_reals("c", q[1].count_c);
    memcpy(exact, q[1].c, (size_t)q[1].count_c * sizeof *exact);
    assert_int_equal(cps_gemm_set_precision("fp32"), CPS_OK);
    cps_products(1, &q[1].p);
    assert_memory_equal(exact, q[1].c, (size_t)q[1].count_c * sizeof *exact);
    free(exact);
    for (int i = 0; i < 3; i++) {
        problem_free(&q[i]);
    }
}

typedef struct tiles_seen {
    _Atomic int64_t rows, wrong;
    int64_t m, n;
} tiles_seen;

static void see_tile(void *context, int64_t row, int64_t row_end, int64_t column,
                     int64_t column_end) {
    tiles_seen *seen = context;
    seen->rows += row_end - row;
    seen->wrong += row >= row_end || row_end > seen->m || column != 0 || column_end != seen->n;
}

static void test_epilogue_sees_every_row(void **state) {
    (void)state;
    need_bf16();
    problem q = problem_make(451, 2000, 40, 2, 0);
    tiles_seen seen = {.m = 451, .n = 2000};
    q.p.epilogue = see_tile;
    q.p.context = &seen;
    cps_products(1, &q.p);
    assert_int_equal(seen.rows, 451);
    assert_int_equal(seen.wrong, 0);
    problem_free(&q);
}

static void test_same_bits(void **state) {
    (void)state;
    need_bf16();
    for (int bits = 0; bits < 4; bits++) {
        problem one = problem_make(845, 333, 190, bits, 0);
        problem other = problem_make(845, 333, 190, bits, 0);
        const size_t bytes = (size_t)one.count_c * sizeof *one.c;
        cps_products(1, &one.p);
        for (int32_t threads = 1; threads <= 4; threads++) {
            assert_int_equal(cps_pool_start(threads), CPS_OK);
            cps_products(1, &other.p);
            cps_products(1, &other.p);
            cps_pool_stop();
            assert_memory_equal(one.c, other.c, bytes);
        }
        problem_free(&one);
        problem_free(&other);
    }
}

/* More shapes than are kept: the store is emptied, and the bits stay. */
static void test_many_shapes(void **state) {
    (void)state;
    need_bf16();
    problem first = problem_make(35, 29, 17, 0, 0);
    cps_products(1, &first.p);
    for (int64_t n = 1; n <= 550; n++) {
        check_product(33, n, 2, 2, 0, 1.0, 0.0);
    }
    cps_real *before = random_reals("c", first.count_c);
    memcpy(before, first.c, (size_t)first.count_c * sizeof *before);
    cps_products(1, &first.p);
    assert_memory_equal(before, first.c, (size_t)first.count_c * sizeof *before);
    free(before);
    problem_free(&first);
}

/* One number that is not finite spoils its row and nothing else, padding included. */
static void test_not_finite(void **state) {
    (void)state;
    need_bf16();
    static const double bad[] = {(double)NAN, (double)INFINITY};
    for (size_t which = 0; which < 2; which++) {
        problem q = problem_make(70, 9, 5, 0, 0);
        q.a[69 * q.p.lda + 4] = (cps_real)bad[which];
        cps_products(1, &q.p);
        for (int64_t i = 0; i < 70 * 9; i++) {
            assert_int_equal(isfinite((double)q.c[i]) != 0, i < 69 * 9);
        }
        problem_free(&q);
    }
}

static void test_full_precision_stays(void **state) {
    (void)state;
    need_bf16();
    problem q = problem_make(90, 80, 70, 0, 0);
    const size_t bytes = (size_t)q.count_c * sizeof *q.c;
    const cps_product *p = &q.p;
    cps_real *fp32 = random_reals("c", q.count_c);
    assert_int_equal(cps_gemm_set_precision("fp32"), CPS_OK);
    cps_gemm(false, false, p->m, p->n, p->k, 1.0, p->a, p->lda, p->b, p->ldb, 0.0, fp32, p->ldc);
    assert_int_equal(cps_gemm_set_precision("bf16"), CPS_OK);
    cps_gemm(false, false, p->m, p->n, p->k, 1.0, p->a, p->lda, p->b, p->ldb, 0.0, q.c, p->ldc);
    assert_memory_not_equal(fp32, q.c, bytes);
    cps_gemm_exact(false, false, p->m, p->n, p->k, 1.0, p->a, p->lda, p->b, p->ldb, 0.0, q.c,
                   p->ldc);
    assert_memory_equal(fp32, q.c, bytes);
    memset(q.c, 0, bytes);
    cps_gemm_serial(false, false, p->m, p->n, p->k, 1.0, p->a, p->lda, p->b, p->ldb, 0.0, q.c,
                    p->ldc);
    assert_memory_equal(fp32, q.c, bytes);
    free(fp32);
    problem_free(&q);
}

static void test_time_counts(void **state) {
    (void)state;
    need_bf16();
    double seconds, flop, seconds_after, flop_after;
    problem q = problem_make(200, 300, 400, 0, 0);
    cps_product_time(&seconds, &flop);
    cps_products(1, &q.p);
    cps_product_time(&seconds_after, &flop_after);
    assert_true(seconds_after > seconds);
    assert_true(fabs(flop_after - flop - 2.0 * 200 * 300 * 400) < 1.0);
    problem_free(&q);
}

static void test_names(void **state) {
    (void)state;
    assert_int_equal(cps_gemm_set_precision("auto"), CPS_OK);
    if (available) {
        assert_non_null(strstr(cps_gemm_precision(), "bf16 ("));
        assert_non_null(strstr(cps_gemm_precision(), "oneDNN"));
    } else {
        assert_string_equal(cps_gemm_precision(), "fp32");
        assert_int_equal(cps_gemm_set_precision("bf16"), CPS_ERR_UNAVAILABLE);
        assert_non_null(strstr(cps_fail_message(), "use precision = \"fp32\""));
    }
    assert_int_equal(cps_gemm_set_precision("fp32"), CPS_OK);
    assert_string_equal(cps_gemm_precision(), "fp32");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),       cmocka_unit_test(test_products),
        cmocka_unit_test(test_several),     cmocka_unit_test(test_epilogue_sees_every_row),
        cmocka_unit_test(test_same_bits),   cmocka_unit_test(test_many_shapes),
        cmocka_unit_test(test_not_finite),  cmocka_unit_test(test_full_precision_stays),
        cmocka_unit_test(test_time_counts),
    };
    cps_gemm_start();
    available = cps_gemm_set_precision("bf16") == CPS_OK;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
