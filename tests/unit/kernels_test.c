/* The kernels: every variant that this CPU has gives the bits of the base variant, and the
 * functions are as exact as they say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tensor/kernels.h"

enum { MOST = 300, ARRAYS = 5 };

static cps_real source[ARRAYS][MOST];

static int fill_source(void **state) {
    (void)state;
    const cps_draw_key key = {.seed = 9};
    for (int a = 0; a < ARRAYS; a++) {
        for (int i = 0; i < MOST; i++) {
            source[a][i] = (cps_real)(2.0 * cps_draw_normal(&key, (uint64_t)(a * MOST + i)));
        }
    }
    source[0][7] = (cps_real)INFINITY;
    source[0][20] = -(cps_real)INFINITY;
    source[0][33] = (cps_real)NAN;
    source[0][41] = (cps_real)-100;
    source[0][42] = (cps_real)1e-30;
    return 0;
}

/* Everything that a table computes for n elements, one result after another. */
typedef struct results {
    cps_real values[48][MOST];
    double sums[8];
    int count;
} results;

static cps_real *next(results *r, int from) {
    cps_real *place = r->values[r->count++];
    assert_true(r->count <= 48);
    memcpy(place, source[from], sizeof source[from]);
    return place;
}

static void run_all(const cps_kernels *k, int64_t n, int first, results *r) {
    const cps_real *a = source[first], *b = source[1], *c = source[2];
    memset(r, 0, sizeof *r);
    k->add(n, a, b, next(r, 3));
    k->sub(n, a, b, next(r, 3));
    k->mul(n, a, b, next(r, 3));
    k->div(n, a, b, next(r, 3));
    k->mul_add(n, a, b, next(r, 3));
    k->scale(n, (cps_real)1.3, a, (cps_real)-0.4, next(r, 3));
    k->scale_add(n, (cps_real)1.3, a, next(r, 3));
    for (int kind = CPS_EXP; kind <= CPS_QUICK_GELU; kind++) {
        k->unary((cps_unary_kind)kind, n, a, next(r, 3));
        k->unary_grad((cps_unary_kind)kind, n, a, b, c, false, next(r, 3));
        k->unary_grad((cps_unary_kind)kind, n, a, b, c, true, next(r, 3));
    }
    for (int act = CPS_ACT_NONE; act <= CPS_ACT_RELU; act++) {
        cps_real *pre = next(r, first);
        k->bias_act((cps_activation)act, n, b, pre, next(r, 3));
        k->act_grad((cps_activation)act, n, c, pre, next(r, 3));
    }
    r->sums[0] = k->sum(n, a);
    r->sums[1] = k->dot(n, a, b);
    r->sums[2] = (double)k->max(n, b);
    r->sums[3] = k->exp_sum(n, b, (cps_real)0.5, next(r, 3));
    k->softmax(n, (cps_real)0.7, b, next(r, 3));
    k->softmax_grad(n, (cps_real)0.7, b, c, true, next(r, 3));
    cps_real *norm = next(r, 3), *d = next(r, 3), *d_gain = next(r, 3), *d_bias = next(r, 3), mean,
             rstd;
    k->norm(n, b, c, source[4], 1e-5, norm, &mean, &rstd);
    k->norm_grad(n, b, c, mean, rstd, source[4], true, d, d_gain, d_bias);
    r->sums[4] = (double)mean;
    r->sums[5] = (double)rstd;
}

/* Results as bits; two NaNs count as equal (their sign is nobody's business). */
static void check_variant(const cps_kernels *variant) {
    static results wanted, found;
    for (int first = 0; first <= 1; first++) {
        for (int64_t n = 1; n < MOST; n += n < 70 ? 1 : 37) {
            run_all(&cps_kernels_base, n, first, &wanted);
            run_all(variant, n, first, &found);
            for (int which = 0; which < wanted.count; which++) {
                for (int i = 0; i < MOST; i++) {
                    const cps_real w = wanted.values[which][i], f = found.values[which][i];
                    if (memcmp(&w, &f, sizeof w) != 0 && !(isnan(w) && isnan(f))) {
                        fail_msg("%s: result %d, n %d, element %d: %.9g, base has %.9g",
                                 variant->name, which, (int)n, i, (double)f, (double)w);
                    }
                }
            }
            for (int i = 0; i < 8; i++) {
                assert_true(wanted.sums[i] == found.sums[i] ||
                            (isnan(wanted.sums[i]) && isnan(found.sums[i])));
            }
        }
    }
}

static void test_variants(void **state) {
    (void)state;
    check_variant(cps_kernels_get());
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        check_variant(&cps_kernels_avx2);
    }
#endif
}

/* ---- accuracy
 * ----------------------------------------------------------------------------------------------------------------
 */
static double true_value(cps_unary_kind kind, double x) {
    const double cdf = 0.5 * erfc(-x / sqrt(2.0));
    return kind == CPS_EXP ? exp(x) : kind == CPS_GELU ? x * cdf : x / (1.0 + exp(-1.702 * x));
}
static double true_slope(cps_unary_kind kind, double x) {
    const double cdf = 0.5 * erfc(-x / sqrt(2.0)), pdf = exp(-0.5 * x * x) / sqrt(2.0 * acos(-1.0));
    const double s = 1.0 / (1.0 + exp(-1.702 * x));
    return kind == CPS_GELU ? cdf + x * pdf : s + 1.702 * x * s * (1.0 - s);
}

/* Relative where the value is large, absolute (as small as the bounds say) elsewhere. */
static void test_accuracy(void **state) {
    (void)state;
    const double relative = sizeof(cps_real) == 8 ? 4e-15 : 1.5e-6,
                 absolute = sizeof(cps_real) == 8 ? 1e-15 : 1e-7;
    static const cps_unary_kind kinds[] = {CPS_EXP, CPS_GELU, CPS_QUICK_GELU};
    for (int which = 0; which < 3; which++) {
        for (double at = -12.0; at <= 12.0; at += 1.0 / 512.0) {
            const cps_real x = (cps_real)at, one = 1;
            cps_real y, d;
            cps_kernels_get()->unary(kinds[which], 1, &x, &y);
            const double wanted = true_value(kinds[which], (double)x);
            /* GELU's tail is exp(-x^2/2), whose argument is rounded */
            const double tail = which == 1 && x < 0 ? 1.0 + 0.5 * (double)x * (double)x : 1.0;
            if (!(fabs((double)y - wanted) <= relative * tail * fabs(wanted))) {
                fail_msg("function %d of %g is %.12g, %.12g wanted", which, at, (double)y, wanted);
            }
            if (which > 0) {
                cps_kernels_get()->unary_grad(kinds[which], 1, &x, &y, &one, false, &d);
                assert_true(fabs((double)d - true_slope(kinds[which], (double)x)) <=
                            relative + absolute);
            }
        }
    }
}

static void test_exp_ends(void **state) {
    (void)state;
    const cps_real inf = (cps_real)INFINITY;
    const cps_real x[] = {-inf,  inf,  (cps_real)NAN,   0,
                          -1000, 1000, (cps_real)-86.5, (cps_real)88.7};
    cps_real y[8];
    cps_kernels_get()->unary(CPS_EXP, 8, x, y);
    assert_true(y[0] == 0 && y[1] == inf && isnan(y[2]) && y[3] == 1 && y[4] == 0 && y[5] == inf);
    assert_true(fabs(log((double)y[6]) + 86.5) < 1e-5 && fabs(log((double)y[7]) - 88.7) < 1e-5);
}

/* Sums of many small beside one large: double inside. */
static void test_sums_in_double(void **state) {
    (void)state;
    enum { N = 100001 };
    cps_real *x = malloc(N * sizeof *x);
    x[0] = (cps_real)16777216;
    for (int i = 1; i < N; i++) {
        x[i] = (cps_real)0.5;
    }
    assert_true(cps_kernels_get()->sum(N, x) == 16777216.0 + 50000.0);
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_accuracy),
        cmocka_unit_test(test_exp_ends),
        cmocka_unit_test(test_sums_in_double),
    };
    return cmocka_run_group_tests(tests, fill_source, NULL);
}
