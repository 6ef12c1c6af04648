/* Numbers of this file come from mpmath 1.3 with 40 digits (incomplete beta and gamma functions,
 * root finding, sums of binomial terms, roots of Wilson's quadratic), from the example of R's help
 * page friedman.test, or are worked out by hand; each says which. */
#include "report/statistics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "report/distributions.h"

static const double not_a_number = (double)NAN;

#define COUNT(array) ((int64_t)(sizeof(array) / sizeof(array)[0]))

/* Relatively, to the digits. */
static void expect(double got, double want, double tolerance) {
    const double off = fabs(got - want);
    if (!(off <= tolerance * fabs(want))) {
        fail_msg("%.17g, wanted %.17g", got, want);
    }
}

static void expect_failure(cps_status status, cps_status wanted, const char *words) {
    assert_int_equal(status, wanted);
    if (strstr(cps_fail_message(), words) == NULL) {
        fail_msg("'%s' does not say '%s'", cps_fail_message(), words);
    }
    cps_fail_clear();
}

/* ---- distributions (mpmath) ---- */

static void test_normal(void **state) {
    (void)state;
    static const double known[][2] = {{1e-300, -37.047096299361199}, {1e-12, -7.0344838253011319},
                                      {0.025, -1.9599639845400542},  {0.3, -0.52440051270804078},
                                      {0.7, 0.52440051270804078},    {0.975, 1.9599639845400542}};
    for (int64_t i = 0; i < COUNT(known); i++) {
        expect(cps_normal_quantile(known[i][0]), known[i][1], 1e-14);
        expect(cps_normal_below(known[i][1]), known[i][0], 1e-12);
    }
    assert_true(cps_normal_quantile(0.5) == 0.0);
    assert_true(isinf(cps_normal_quantile(0.0)) && cps_normal_quantile(0.0) < 0.0);
    assert_true(isinf(cps_normal_quantile(1.0)) && cps_normal_quantile(1.0) > 0.0);
    assert_true(isnan(cps_normal_quantile(-0.1)) && isnan(cps_normal_quantile(1.1)));
    assert_true(isnan(cps_normal_quantile(not_a_number)));
}

static void test_student(void **state) {
    (void)state;
    static const double above[][3] = {
        {0.5, 1, 0.35241638234956673},    {3, 2, 0.047732983133354566},
        {-1.2, 4.5, 0.85526147257901779}, {1000, 3, 1.1026538212882963e-9},
        {40, 7, 7.9510899924251852e-10},  {2, 9999, 0.022763631680755053},
        {0.001, 2, 0.49964644669779504}};
    static const double quantiles[][3] = {{0.975, 1, 12.706204736174705},
                                          {0.975, 2, 4.3026527297494639},
                                          {0.975, 9999, 1.9602012636213577},
                                          {0.995, 4.5, 4.272823993011293},
                                          {0.6, 30, 0.25560536495191277}};
    for (int64_t i = 0; i < COUNT(above); i++) {
        expect(cps_student_above(above[i][0], above[i][1]), above[i][2], 1e-12);
        expect(cps_student_above(-above[i][0], above[i][1]), 1.0 - above[i][2], 1e-13);
    }
    for (int64_t i = 0; i < COUNT(quantiles); i++) {
        expect(cps_student_quantile(quantiles[i][0], quantiles[i][1]), quantiles[i][2], 1e-13);
        expect(cps_student_quantile(1.0 - quantiles[i][0], quantiles[i][1]), -quantiles[i][2],
               1e-13);
    }
    /* two degrees of freedom have a closed form, t = (2p - 1) sqrt(2 / (4 p (1 - p))) */
    for (double p = 1e-12; p < 0.5; p *= 3.7) {
        expect(cps_student_quantile(p, 2), (2 * p - 1) * sqrt(0.5 / (p * (1 - p))), 1e-12);
    }
    assert_true(cps_student_quantile(0.5, 3) == 0.0 && cps_student_above(0.0, 3) == 0.5);
    assert_true(isinf(cps_student_quantile(1.0, 3)) && cps_student_above((double)INFINITY, 3) == 0);
    assert_true(cps_student_above(1e300, 3) == 0.0);
    expect(cps_student_quantile(0.975, 1e12), 1.9599639845400542, 1e-10);
    assert_true(isnan(cps_student_quantile(0.9, 0)) && isnan(cps_student_above(1.0, -1)));
    assert_true(isnan(cps_student_above(not_a_number, 2)));
}

static void test_chi_square(void **state) {
    (void)state;
    static const double known[][3] = {
        {3.84, 1, 0.050043521248705099},  {10, 4, 0.040427681994512803},
        {200, 3, 4.2185411071920423e-43}, {55.5, 40, 0.052442179490391455},
        {0.001, 5, 0.99999999831851228},  {900, 1000, 0.98928276190871026}};
    for (int64_t i = 0; i < COUNT(known); i++) {
        expect(cps_chi_square_above(known[i][0], (int64_t)known[i][1]), known[i][2], 1e-12);
    }
    assert_true(cps_chi_square_above(0.0, 3) == 1.0 && cps_chi_square_above(1e9, 3) == 0.0);
    assert_true(isnan(cps_chi_square_above(1.0, 0)) &&
                isnan(cps_chi_square_above(not_a_number, 1)));
}

static void test_coin(void **state) {
    (void)state;
    static const double known[][4] = {
        {1, 3, 0.375, 0.125},
        {7, 20, 0.0739288330078125, 0.057659149169921875},
        {40, 101, 0.0089772994907822686, 0.014044733973889133},
        {4900, 10000, 0.0010798643294333557, 0.022212899523040339},
        {499000, 1000000, 0.00010798197801891516, 0.022696167954672128},
        {30, 900, 1.1597872481166548e-215, 4.1319218259619132e-217}};
    for (int64_t i = 0; i < COUNT(known); i++) {
        const int64_t k = (int64_t)known[i][0], n = (int64_t)known[i][1];
        expect(cps_coin_exactly(k, n), known[i][2], 1e-12);
        expect(cps_coin_fewer(k, n), known[i][3], 1e-12);
    }
    assert_true(cps_coin_exactly(0, 0) == 1.0 && cps_coin_fewer(0, 10) == 0.0);
    assert_true(cps_coin_fewer(30, 1000000) == 0.0); /* below the smallest double */
    assert_true(isnan(cps_coin_exactly(2, 1)) && isnan(cps_coin_fewer(2, 3)));
}

/* ---- shares, means ---- */

static void test_wilson(void **state) {
    (void)state;
    cps_interval got;
    assert_int_equal(cps_wilson(37, 150, 0.95, &got), CPS_OK); /* mpmath: roots of the quadratic */
    expect(got.low, 0.1845816295528854, 1e-13);
    expect(got.high, 0.32140329426027341, 1e-13);
    assert_int_equal(cps_wilson(0, 0, 0.95, &got), CPS_OK);
    assert_true(got.low == 0.0 && got.high == 1.0);
    assert_int_equal(cps_wilson(0, 7, 0.95, &got), CPS_OK);
    assert_true(got.low == 0.0 && got.high > 0.3 && got.high < 0.4);
    assert_int_equal(cps_wilson(7, 7, 0.95, &got), CPS_OK);
    assert_true(got.high == 1.0);
    got = (cps_interval){-1, -1};
    expect_failure(cps_wilson(8, 7, 0.95, &got), CPS_ERR_DATA, "8 of 7");
    expect_failure(cps_wilson(-1, 7, 0.95, &got), CPS_ERR_DATA, "-1 of 7");
    expect_failure(cps_wilson(1, 7, 1.0, &got), CPS_ERR_USAGE, "confidence is 1");
    expect_failure(cps_wilson(1, 7, not_a_number, &got), CPS_ERR_USAGE, "0.95 is usual");
    assert_true(got.low == -1 && got.high == -1);
}

static void test_mean(void **state) {
    (void)state;
    static const double values[] = {0.70, 0.72, 0.77}; /* by hand: mean .73, sd sqrt(.0013) */
    cps_mean_summary got;
    assert_int_equal(cps_mean_summarize(values, 3, 0.95, &got), CPS_OK);
    expect(got.mean, 0.73, 1e-14);
    expect(got.sd, 0.036055512754639891, 1e-12);
    expect(got.interval.high - 0.73, 4.3026527297494639 * sqrt(0.0013 / 3), 1e-12);
    assert_int_equal(cps_mean_summarize(values, 1, 0.95, &got), CPS_OK);
    assert_true(got.mean == 0.70 && isnan(got.sd) && isnan(got.interval.low));
    const double equal[] = {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1};
    assert_int_equal(cps_mean_summarize(equal, 7, 0.95, &got), CPS_OK);
    assert_true(got.mean == 0.1 && got.sd == 0.0 && got.interval.low == 0.1);
    const double bad[] = {0.5, not_a_number};
    expect_failure(cps_mean_summarize(bad, 2, 0.95, &got), CPS_ERR_DATA, "number 2 of 2 is");
    expect_failure(cps_mean_summarize(bad, 0, 0.95, &got), CPS_ERR_DATA, "at least one");
}

static void test_quantile(void **state) {
    (void)state;
    static const double values[] = {1, 2, 4, 8};
    assert_true(cps_quantile_sorted(values, 4, 0) == 1 && cps_quantile_sorted(values, 4, 1) == 8);
    assert_true(cps_quantile_sorted(values, 4, 0.5) == 3);
    expect(cps_quantile_sorted(values, 4, 0.9), 6.8, 1e-14); /* place 2.7 */
    assert_true(cps_quantile_sorted(values, 1, 0.3) == 1);
}

/* ---- tests ---- */

static void test_mcnemar(void **state) {
    (void)state;
    cps_mcnemar_result got;
    assert_int_equal(cps_mcnemar(150, 86, &got), CPS_OK);
    expect(got.chi2_corrected, 63.0 * 63.0 / 236.0, 1e-14);
    /* by hand: 1 of 4 tosses */
    assert_int_equal(cps_mcnemar(3, 1, &got), CPS_OK);
    expect(got.p_exact, 10.0 / 16, 1e-14);
    expect(got.p_mid, 6.0 / 16, 1e-14);
    assert_int_equal(cps_mcnemar(2, 2, &got), CPS_OK);
    assert_true(got.p_exact == 1.0);
    expect(got.p_mid, 10.0 / 16, 1e-14);
    assert_int_equal(cps_mcnemar(0, 0, &got), CPS_OK);
    assert_true(got.p_exact == 1 && got.p_mid == 1 && got.chi2_corrected == 0);
    assert_int_equal(cps_mcnemar(0, 5000, &got), CPS_OK);
    assert_true(got.p_exact == 0.0);
    expect_failure(cps_mcnemar(-1, 2, &got), CPS_ERR_DATA, "-1 samples");
    expect_failure(cps_mcnemar(INT64_MAX, INT64_MAX, &got), CPS_ERR_DATA, "2^62");
}

/* All 2^count assignments, one after another. */
static double brute_force(const double *d, int count) {
    double observed = 0.0;
    int64_t reach = 0;
    for (int i = 0; i < count; i++) {
        observed += d[i];
    }
    for (int64_t signs = 0; signs < (int64_t)1 << count; signs++) {
        double sum = 0.0;
        for (int i = 0; i < count; i++) {
            sum += (signs >> i & 1) != 0 ? -d[i] : d[i];
        }
        reach += fabs(sum) / count >= fabs(observed) / count - 1e-15;
    }
    return (double)reach / (double)((int64_t)1 << count);
}

static void test_sign_flip(void **state) {
    (void)state;
    double d[CPS_MOST_SIGNS + 1];
    cps_sign_flip_result got;
    for (int count = 1; count <= 14; count++) {
        for (uint64_t trial = 0; trial < 6; trial++) {
            const cps_draw_key key = {.seed = 5, .stage = (uint32_t)count, .position = trial};
            for (int i = 0; i < count; i++) {
                const double drawn = cps_draw_normal(&key, (uint64_t)i) + 0.3;
                /* odd trials: multiples of 1/4, where many sums are equal */
                d[i] = trial % 2 != 0 ? round(4 * drawn) / 4 : 0.01 * drawn;
            }
            assert_int_equal(cps_sign_flip(d, count, &got), CPS_OK);
            assert_true(got.p == brute_force(d, count));
            assert_true(got.smallest_p == ldexp(1.0, 1 - count));
        }
    }
    for (int i = 0; i <= CPS_MOST_SIGNS; i++) {
        d[i] = 0.1 * (i % 3 + 1);
    }
    assert_int_equal(cps_sign_flip(d, CPS_MOST_SIGNS, &got), CPS_OK); /* 2^40, all of one sign */
    assert_true(got.p == got.smallest_p && got.p == ldexp(1.0, -39));
    expect_failure(cps_sign_flip(d, CPS_MOST_SIGNS + 1, &got), CPS_ERR_USAGE, "41 differences");
    const double zeros[5] = {0};
    assert_int_equal(cps_sign_flip(zeros, 5, &got), CPS_OK);
    assert_true(got.p == 1.0);
    /* ranks differ by whole hundreds, sums in other orders by roundings: 6 of 8 reach 0.3 */
    const double big[] = {300.1, -300.1, 0.3};
    assert_int_equal(cps_sign_flip(big, 3, &got), CPS_OK);
    assert_true(got.p == 1.0);
    d[2] = not_a_number;
    expect_failure(cps_sign_flip(d, 3, &got), CPS_ERR_DATA, "number 3 of 3");
    expect_failure(cps_sign_flip(d, 0, &got), CPS_ERR_DATA, "0 differences");
}

static void test_holm(void **state) {
    (void)state;
    /* by hand: .01 * 4, .02 * 3, .03 * 2, .04 lifted to .06; out of order and with equal ones */
    double p[] = {0.03, 0.01, 0.04, 0.02};
    static const double want[] = {0.06, 0.04, 0.06, 0.06};
    assert_int_equal(cps_holm(p, 4, p), CPS_OK);
    for (int i = 0; i < 4; i++) {
        expect(p[i], want[i], 1e-14);
    }
    double equal[] = {0.4, 0.4, 0.4};
    assert_int_equal(cps_holm(equal, 3, equal), CPS_OK);
    assert_true(equal[0] == 1.0 && equal[1] == 1.0 && equal[2] == 1.0);
    assert_int_equal(cps_holm(NULL, 0, NULL), CPS_OK);
    double bad[] = {0.1, 1.5};
    expect_failure(cps_holm(bad, 2, bad), CPS_ERR_DATA, "p-value 2 of 2 is 1.5");
    bad[1] = not_a_number;
    expect_failure(cps_holm(bad, 2, bad), CPS_ERR_DATA, "number 2 of 2");
    assert_true(bad[0] == 0.1);
}

static void test_friedman(void **state) {
    (void)state;
    /* R, ?friedman.test, times of rounding first base (Hollander and Wolfe 1973): Friedman
     * chi-squared = 11.143, df = 2, p-value = 0.003805 */
    static const double times[22][3] = {
        {5.40, 5.50, 5.55}, {5.85, 5.70, 5.75}, {5.20, 5.60, 5.50}, {5.55, 5.50, 5.40},
        {5.90, 5.85, 5.70}, {5.45, 5.55, 5.60}, {5.40, 5.40, 5.35}, {5.45, 5.50, 5.35},
        {5.25, 5.15, 5.00}, {5.85, 5.80, 5.70}, {5.25, 5.20, 5.10}, {5.65, 5.55, 5.45},
        {5.60, 5.35, 5.45}, {5.05, 5.00, 4.95}, {5.50, 5.50, 5.40}, {5.45, 5.55, 5.50},
        {5.55, 5.55, 5.35}, {5.45, 5.50, 5.55}, {5.50, 5.45, 5.25}, {5.65, 5.60, 5.40},
        {5.70, 5.65, 5.55}, {6.30, 6.30, 6.25}};
    cps_friedman_result got, mirrored;
    double ranks[3], others[3];
    assert_int_equal(cps_friedman(times[0], 22, 3, false, &got, ranks), CPS_OK);
    assert_true(fabs(got.chi2 - 11.143) < 5e-4 && fabs(got.p - 0.003805) < 5e-7);
    assert_int_equal(cps_friedman(times[0], 22, 3, true, &mirrored, others), CPS_OK);
    expect(mirrored.chi2, got.chi2, 1e-14);
    for (int i = 0; i < 3; i++) {
        expect(others[i], 4.0 - ranks[i], 1e-14);
    }
    assert_true(ranks[2] < ranks[1] && ranks[2] < ranks[0]); /* the fastest */
    const double tied[] = {1, 1, 2, 2};
    assert_int_equal(cps_friedman(tied, 2, 2, true, &got, ranks), CPS_OK);
    assert_true(got.chi2 == 0.0 && got.p == 1.0 && ranks[0] == 1.5 && ranks[1] == 1.5);
    expect_failure(cps_friedman(tied, 4, 1, true, &got, ranks), CPS_ERR_DATA, "1 methods");
    expect_failure(cps_friedman(tied, 0, 2, true, &got, ranks), CPS_ERR_DATA, "0 data sets");
    const double bad[] = {1, not_a_number};
    expect_failure(cps_friedman(bad, 1, 2, true, &got, ranks), CPS_ERR_DATA, "number 2 of 2");
}

/* ---- spread ---- */

static void test_spread(void **state) {
    (void)state;
    const cps_spread seeds = {.seed_variance = 4e-4, .seed_freedom = 2};
    expect(cps_spread_half_width(&seeds, 0.95), 4.3026527297494639 * 0.02, 1e-12);
    expect(cps_spread_p(&seeds, 3 * 0.02), 2 * 0.047732983133354566, 1e-11);
    expect(cps_spread_p(&seeds, -3 * 0.02), 2 * 0.047732983133354566, 1e-11);
    /* t(.975, 2) + t(.8, 2): the closed form again */
    expect(cps_spread_detectable(&seeds, 0.05, 0.8),
           0.02 * (4.3026527297494639 + 0.6 * sqrt(0.5 / 0.16)), 1e-12);
    /* two sources: squares add; p and interval say the same */
    const cps_spread both = {4e-4, 2, 9e-4, 9999};
    const double half = sqrt(4e-4 * pow(4.3026527297494639, 2) + 9e-4 * pow(1.9602012636213577, 2));
    expect(cps_spread_half_width(&both, 0.95), half, 1e-12);
    for (double confidence = 0.001; confidence < 1.0; confidence = 0.5 + 0.51 * confidence) {
        if (confidence > 0.999999) {
            break;
        }
        expect(cps_spread_p(&both, cps_spread_half_width(&both, confidence)), 1.0 - confidence,
               1e-9);
    }
    assert_true(cps_spread_p(&both, 0.0) == 1.0);
    assert_true(cps_spread_p(&both, 1e300) < 1e-100);
    assert_true(isnan(cps_spread_p(&both, not_a_number)));
    /* known to be 0, and not known */
    const cps_spread none = {0, 2, 0, 9}, unknown = {0};
    assert_true(cps_spread_p(&none, 0.1) == 0.0 && cps_spread_p(&none, 0.0) == 1.0);
    assert_true(cps_spread_half_width(&none, 0.95) == 0.0);
    assert_true(isnan(cps_spread_p(&unknown, 0.1)) && isnan(cps_spread_half_width(&unknown, 0.9)));
    assert_true(isnan(cps_spread_detectable(&both, 0.05, 0.4)));
    assert_true(isnan(cps_spread_detectable(&both, 0.0, 0.8)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normal),     cmocka_unit_test(test_student),
        cmocka_unit_test(test_chi_square), cmocka_unit_test(test_coin),
        cmocka_unit_test(test_wilson),     cmocka_unit_test(test_mean),
        cmocka_unit_test(test_quantile),   cmocka_unit_test(test_mcnemar),
        cmocka_unit_test(test_sign_flip),  cmocka_unit_test(test_holm),
        cmocka_unit_test(test_friedman),   cmocka_unit_test(test_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
