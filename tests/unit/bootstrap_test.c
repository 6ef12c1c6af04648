/* BCa levels and the acceleration of three values come from mpmath 1.3 with 40 digits; variances of
 * the two-way layout from its sums of squares, worked out here apart from any resampling. */
#include "report/bootstrap.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/pool.h"
#include "base/rng.h"

static const double not_a_number = (double)NAN;

static void expect(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance * fabs(want))) {
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

/* ---- intervals from resampled values ---- */

static void test_percentile_and_bca(void **state) {
    (void)state;
    double values[1001];
    for (int i = 0; i < 1001; i++) {
        values[i] = i;
    }
    cps_interval plain;
    assert_int_equal(cps_bootstrap_percentile(values, 1001, 0.95, &plain), CPS_OK);
    expect(plain.low, 25, 1e-12);
    expect(plain.high, 975, 1e-12);
    cps_bca_result got;
    assert_int_equal(cps_bootstrap_bca(values, 1001, 400, 0.05, 0.9, &got), CPS_OK);
    expect(got.bias_z0, -0.25308853251451443, 1e-12);
    expect(got.interval.low, 23.487145688915668, 1e-12);
    expect(got.interval.high, 893.02384763743498, 1e-12);
    /* no bias, no acceleration: the percentiles */
    assert_int_equal(cps_bootstrap_bca(values, 1001, 500, 0.0, 0.95, &got), CPS_OK);
    assert_true(got.bias_z0 == 0.0);
    expect(got.interval.low, 25, 1e-12);
    /* all on one side of the estimate: z0 = Phi^-1(1000.5 / 1001), the ends are still values */
    assert_int_equal(cps_bootstrap_bca(values, 1001, 5000, 0.3, 0.95, &got), CPS_OK);
    assert_true(isfinite(got.bias_z0) && got.bias_z0 > 3.0);
    assert_true(got.interval.high == 1000);
    double equal[5] = {3, 3, 3, 3, 3};
    assert_int_equal(cps_bootstrap_bca(equal, 5, 3, 0.0, 0.95, &got), CPS_OK);
    assert_true(got.bias_z0 == 0 && got.interval.low == 3 && got.interval.high == 3);
    expect_failure(cps_bootstrap_bca(equal, 0, 3, 0, 0.95, &got), CPS_ERR_DATA, "at least one");
    expect_failure(cps_bootstrap_bca(equal, 5, not_a_number, 0, 0.95, &got), CPS_ERR_DATA,
                   "estimate and acceleration");
    expect_failure(cps_bootstrap_percentile(equal, 5, 0, &plain), CPS_ERR_USAGE, "confidence");
}

static void test_acceleration(void **state) {
    (void)state;
    static const double values[] = {1, 2, 4}, equal[] = {0.1, 0.1, 0.1};
    expect(cps_bootstrap_acceleration(values, 3), -0.036738892848117121, 1e-13);
    assert_true(cps_bootstrap_acceleration(equal, 3) == 0.0);
    assert_true(cps_bootstrap_acceleration(equal, 0) == 0.0);
}

/* ---- two levels ---- */

enum { SEEDS = 4, ROWS = 600, CLASSES = 7 };

static struct {
    double right[SEEDS * ROWS], other[SEEDS * ROWS];
    int32_t classes[ROWS], units[ROWS];
} data;

/* 0 or 1, with effects of the seed and of the sample. */
static void fill(double *values, uint32_t stream, double lift) {
    const cps_draw_key seed_key = {.seed = 3, .stream = stream, .module = 1};
    const cps_draw_key row_key = {.seed = 3, .stream = stream, .module = 2};
    const cps_draw_key key = {.seed = 3, .stream = stream, .module = 3};
    for (int s = 0; s < SEEDS; s++) {
        for (int i = 0; i < ROWS; i++) {
            const double sum = lift + 0.2 * cps_draw_normal(&seed_key, (uint64_t)s) +
                               cps_draw_normal(&row_key, (uint64_t)i) +
                               cps_draw_normal(&key, (uint64_t)(s * ROWS + i));
            values[s * ROWS + i] = sum > 0 ? 1.0 : 0.0;
        }
    }
}

static int make_data(void **state) {
    (void)state;
    fill(data.right, 1, 0.7);
    fill(data.other, 2, 0.5);
    for (int i = 0; i < ROWS; i++) {
        data.classes[i] = (i * i) % CLASSES;
        data.units[i] = i / 5;
    }
    return 0;
}

static cps_bootstrap_values means(void) {
    return (cps_bootstrap_values){
        .statistic = CPS_VALUE_MEAN, .seeds = SEEDS, .rows = ROWS, .values = data.right};
}

static cps_bootstrap_result run(const cps_bootstrap_values *values, cps_bootstrap_method method) {
    cps_bootstrap_options options = CPS_BOOTSTRAP_DEFAULTS;
    options.method = method;
    cps_bootstrap_result got;
    if (cps_bootstrap_values_run(values, &options, &got) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return got;
}

/* Mean squares of a two-way layout without repeats. */
static void mean_squares(const double *values, double *seeds_out, double *samples_out,
                         double *rest_out, double *mean_out) {
    double by_seed[SEEDS] = {0}, by_row[ROWS] = {0}, mean = 0.0;
    for (int s = 0; s < SEEDS; s++) {
        for (int i = 0; i < ROWS; i++) {
            by_seed[s] += values[s * ROWS + i] / ROWS;
            by_row[i] += values[s * ROWS + i] / SEEDS;
            mean += values[s * ROWS + i] / (SEEDS * ROWS);
        }
    }
    double seeds = 0.0, samples = 0.0, rest = 0.0;
    for (int s = 0; s < SEEDS; s++) {
        seeds += ROWS * pow(by_seed[s] - mean, 2) / (SEEDS - 1);
        for (int i = 0; i < ROWS; i++) {
            rest += pow(values[s * ROWS + i] - by_seed[s] - by_row[i] + mean, 2);
        }
    }
    for (int i = 0; i < ROWS; i++) {
        samples += SEEDS * pow(by_row[i] - mean, 2) / (ROWS - 1);
    }
    *seeds_out = seeds, *samples_out = samples, *mean_out = mean;
    *rest_out = rest / ((SEEDS - 1) * (ROWS - 1));
}

static void test_variances(void **state) {
    (void)state;
    cps_bootstrap_values values = means();
    values.baseline = data.other;
    cps_bootstrap_options options = CPS_BOOTSTRAP_DEFAULTS;
    options.resamples = 40000;
    options.method = CPS_BOOTSTRAP_PERCENTILE;
    cps_bootstrap_result got;
    assert_int_equal(cps_bootstrap_values_run(&values, &options, &got), CPS_OK);
    double differences[SEEDS * ROWS], seeds, samples, rest, mean;
    for (int i = 0; i < SEEDS * ROWS; i++) {
        differences[i] = data.right[i] - data.other[i];
    }
    mean_squares(differences, &seeds, &samples, &rest, &mean);
    const double n = SEEDS * ROWS;
    expect(got.estimate, mean, 1e-12);
    expect(got.spread.seed_variance, seeds / n, 1e-12);
    expect(got.spread.sample_variance, (samples - rest) / n, 0.05); /* 40,000 resamples: +- 1 % */
    assert_true(got.spread.seed_freedom == SEEDS - 1 && got.spread.sample_freedom == ROWS - 1);
    expect(got.standard_error, sqrt(got.spread.seed_variance + got.spread.sample_variance), 1e-14);
    /* resamples as they are: seeds (S-1)/S, samples, and the rest (S-1)/S once more */
    const double plain = (SEEDS - 1.0) / SEEDS * (seeds + rest) / n + samples / n;
    expect(got.plain.high - got.plain.low, 2 * 1.96 * sqrt(plain), 0.05);
    expect(got.interval.high - got.interval.low, 2 * cps_spread_half_width(&got.spread, 0.95),
           0.05);
    /* the differences alone, and the other way round */
    values.values = differences;
    values.baseline = NULL;
    cps_bootstrap_result same;
    assert_int_equal(cps_bootstrap_values_run(&values, &options, &same), CPS_OK);
    assert_memory_equal(&same, &got, sizeof got);
    values.values = data.other;
    values.baseline = data.right;
    assert_int_equal(cps_bootstrap_values_run(&values, &options, &same), CPS_OK);
    expect(same.estimate, -got.estimate, 1e-12);
    expect(same.interval.low, -got.interval.high, 1e-9);
    expect(same.p, got.p, 1e-9);
}

/* Of a mean the influences are known: (T_s - T) / S of seeds, (row's mean - T) / n of samples. */
static void test_two_level_acceleration(void **state) {
    (void)state;
    double by_seed[SEEDS] = {0}, by_row[ROWS] = {0}, mean = 0.0, squares = 0.0, cubes = 0.0;
    for (int i = 0; i < SEEDS * ROWS; i++) {
        by_seed[i / ROWS] += data.right[i] / ROWS;
        by_row[i % ROWS] += data.right[i] / SEEDS;
        mean += data.right[i] / (SEEDS * ROWS);
    }
    for (int i = 0; i < SEEDS + ROWS; i++) {
        const double influence =
            i < SEEDS ? (by_seed[i] - mean) / SEEDS : (by_row[i - SEEDS] - mean) / ROWS;
        squares += pow(influence, 2);
        cubes += pow(influence, 3);
    }
    cps_bootstrap_values values = means();
    expect(run(&values, CPS_BOOTSTRAP_BCA).acceleration, cubes / (6 * pow(squares, 1.5)), 1e-9);
    /* more samples than groups: exponential values have skewness 2, a = 2 / (6 sqrt(n)) or so */
    enum { MANY = 30000 };
    double *skewed = malloc(MANY * sizeof *skewed);
    assert_non_null(skewed);
    const cps_draw_key key = {.seed = 4};
    for (int i = 0; i < MANY; i++) {
        skewed[i] = -log(1.0 - cps_draw_uniform(&key, (uint64_t)i));
    }
    values = (cps_bootstrap_values){.seeds = 1, .rows = MANY, .values = skewed};
    const cps_bootstrap_options options = {CPS_BOOTSTRAP_BCA, 100, 0.95, 1};
    cps_bootstrap_result got;
    assert_int_equal(cps_bootstrap_values_run(&values, &options, &got), CPS_OK);
    expect(got.acceleration, 2.0 / (6.0 * sqrt(MANY)), 0.5);
    free(skewed);
}

/* Macro F1, as a user's own statistic: the classes are right or not, so predicted is one class or
 * the next. Classes that occur neither way are left out. */
static double macro_f1(const void *context, int32_t seed, const int32_t *counts, double *scratch) {
    (void)context;
    memset(scratch, 0, 2 * CLASSES * sizeof *scratch);
    for (int i = 0; i < ROWS; i++) {
        const bool right = data.right[seed * ROWS + i] > 0;
        const int32_t c = data.classes[i], predicted = right ? c : (c + 1) % CLASSES;
        scratch[c] += right ? 2.0 * counts[i] : 0.0;
        scratch[CLASSES + c] += counts[i];
        scratch[CLASSES + predicted] += counts[i];
    }
    double sum = 0.0, there = 0.0;
    for (int c = 0; c < CLASSES; c++) {
        if (scratch[CLASSES + c] > 0) {
            sum += scratch[c] / scratch[CLASSES + c];
            there += 1.0;
        }
    }
    return sum / there;
}

static void test_same_bits(void **state) {
    (void)state;
    const cps_bootstrap_problem problem = {
        .seeds = SEEDS, .samples = ROWS, .statistic = macro_f1, .scratch_count = 2 * CLASSES};
    const cps_bootstrap_options options = CPS_BOOTSTRAP_DEFAULTS;
    cps_bootstrap_result first[2], again[2];
    cps_bootstrap_values values = means();
    values.baseline = data.other;
    for (int threads = 1; threads <= 3; threads++) {
        memset(again, 0, sizeof again);
        assert_int_equal(cps_pool_start(threads), CPS_OK);
        assert_int_equal(cps_bootstrap_statistic(&problem, &options, &again[0]), CPS_OK);
        assert_int_equal(cps_bootstrap_values_run(&values, &options, &again[1]), CPS_OK);
        if (threads == 1) {
            memcpy(first, again, sizeof first);
        }
        assert_memory_equal(first, again, sizeof first);
    }
    cps_pool_stop();
    assert_true(first[0].interval.low < first[0].estimate);
    assert_true(first[0].interval.high > first[0].estimate);
    cps_bootstrap_options other = options;
    other.seed = 2;
    assert_int_equal(cps_bootstrap_values_run(&values, &other, &again[1]), CPS_OK);
    assert_true(again[1].interval.low != first[1].interval.low);
    expect(again[1].interval.high, first[1].interval.high, 0.2);
}

static void test_class_means(void **state) {
    (void)state;
    cps_bootstrap_values values = means();
    values.statistic = CPS_VALUE_CLASS_MEAN;
    values.classes = data.classes;
    values.class_count = CLASSES;
    /* classes 3, 5 and 6 are no squares modulo 7: left out */
    double sizes[CLASSES] = {0}, sums[CLASSES] = {0}, want = 0.0;
    for (int i = 0; i < ROWS; i++) {
        sizes[data.classes[i]] += SEEDS;
        for (int s = 0; s < SEEDS; s++) {
            sums[data.classes[i]] += data.right[s * ROWS + i];
        }
    }
    for (int c = 0; c < CLASSES; c++) {
        want += sizes[c] > 0 ? sums[c] / sizes[c] / 4 : 0.0;
    }
    const cps_bootstrap_result got = run(&values, CPS_BOOTSTRAP_BCA);
    expect(got.estimate, want, 1e-12);
    assert_true(got.interval.low < want && want < got.interval.high && got.acceleration != 0.0);
    /* all weight on one class; then one class alone, which is the mean */
    const double weights[CLASSES] = {0, 3, 0, 0, 0, 0, 0};
    values.class_weights = weights;
    expect(run(&values, CPS_BOOTSTRAP_PERCENTILE).estimate, sums[1] / sizes[1], 1e-12);
    static const int32_t one[ROWS];
    values.classes = one;
    values.class_count = 1;
    values.class_weights = NULL;
    const cps_bootstrap_values mean = means();
    const cps_bootstrap_result by_class = run(&values, CPS_BOOTSTRAP_BCA);
    const cps_bootstrap_result whole = run(&mean, CPS_BOOTSTRAP_BCA);
    expect(by_class.estimate, whole.estimate, 1e-12);
    expect(by_class.interval.low, whole.interval.low, 1e-9);
    expect(by_class.interval.high, whole.interval.high, 1e-9);
}

static void test_medians(void **state) {
    (void)state;
    enum { ODD = 5 };
    static const double ranks[2 * ODD] = {9, 1, 4, 2, 7, 3, 3, 3, 8, 1};
    static const double base[2 * ODD] = {1, 1, 1, 1, 1, 2, 2, 2, 2, 2};
    cps_bootstrap_values values = {
        .statistic = CPS_VALUE_MEDIAN, .seeds = 2, .rows = ODD, .values = ranks};
    expect(run(&values, CPS_BOOTSTRAP_PERCENTILE).estimate, 3.5, 1e-14); /* 4 and 3 */
    values.baseline = base;
    expect(run(&values, CPS_BOOTSTRAP_PERCENTILE).estimate, 2.0, 1e-14);
    values.rows = 4; /* 9 1 4 2 | 7 3 3 3: (2 + 4) / 2 and 3 */
    values.baseline = NULL;
    const cps_bootstrap_result even = run(&values, CPS_BOOTSTRAP_PERCENTILE);
    expect(even.estimate, 3.0, 1e-14);
    assert_true(even.plain.low >= 1 && even.plain.high <= 9 && even.plain.low < even.plain.high);
}

static void test_units(void **state) {
    (void)state;
    /* a unit of one row is the row; rows that come in fives alike are as few as their units */
    int32_t own[ROWS];
    double fives[ROWS], means_of[ROWS / 5];
    for (int i = 0; i < ROWS; i++) {
        own[i] = i;
        fives[i] = data.right[i / 5];
        means_of[i / 5] = data.right[i / 5];
    }
    cps_bootstrap_values values = means();
    const cps_bootstrap_result rows = run(&values, CPS_BOOTSTRAP_BCA);
    values.units = own;
    values.unit_count = ROWS;
    cps_bootstrap_result got = run(&values, CPS_BOOTSTRAP_BCA);
    expect(got.interval.low, rows.interval.low, 1e-12);
    values = (cps_bootstrap_values){.seeds = 1, .rows = ROWS / 5, .values = means_of};
    const cps_bootstrap_result few = run(&values, CPS_BOOTSTRAP_BCA);
    values = (cps_bootstrap_values){
        .seeds = 1, .rows = ROWS, .values = fives, .units = data.units, .unit_count = ROWS / 5};
    got = run(&values, CPS_BOOTSTRAP_BCA);
    expect(got.standard_error, few.standard_error, 1e-9);
    expect(got.interval.high, few.interval.high, 1e-9);
    values.units = NULL;
    assert_true(run(&values, CPS_BOOTSTRAP_BCA).standard_error < 0.6 * few.standard_error);
}

/* ---- degenerate and bad input ---- */

static void test_degenerate(void **state) {
    (void)state;
    cps_bootstrap_values values = means();
    values.seeds = 1; /* seeds unknown: the interval of one model */
    cps_bootstrap_result got = run(&values, CPS_BOOTSTRAP_PERCENTILE);
    assert_true(got.spread.seed_freedom == 0 && got.spread.seed_variance == 0);
    double right = 0.0;
    for (int i = 0; i < ROWS; i++) {
        right += data.right[i] / ROWS;
    }
    expect(got.standard_error, sqrt(right * (1 - right) / (ROWS - 1)), 0.1);
    values.baseline = values.values; /* no difference at all */
    values.seeds = SEEDS;
    got = run(&values, CPS_BOOTSTRAP_BCA);
    assert_true(got.estimate == 0 && got.p == 1 && got.standard_error == 0);
    assert_true(got.interval.low == 0 && got.interval.high == 0);
    values.baseline = NULL;
    values.rows = 1; /* one sample: seeds alone say something */
    got = run(&values, CPS_BOOTSTRAP_BCA);
    assert_true(got.spread.sample_freedom == 0 && isfinite(got.interval.low));
    values.seeds = 1; /* nothing does */
    got = run(&values, CPS_BOOTSTRAP_BCA);
    assert_true(got.estimate == data.right[0] && isnan(got.p) && isnan(got.standard_error));
    assert_true(isnan(got.interval.low) && isnan(got.interval.high));
}

static double undefined_at_times(const void *context, int32_t seed, const int32_t *counts,
                                 double *scratch) {
    (void)context, (void)seed, (void)scratch;
    return counts[0] > 1 ? not_a_number : 1.0;
}

static void test_bad_input(void **state) {
    (void)state;
    cps_bootstrap_options options = CPS_BOOTSTRAP_DEFAULTS;
    cps_bootstrap_result got = {.estimate = 123};
    cps_bootstrap_values values = means();
    values.rows = 0;
    expect_failure(cps_bootstrap_values_run(&values, &options, &got), CPS_ERR_DATA,
                   "4 seeds and 0 samples");
    values = means();
    values.seeds = 0;
    expect_failure(cps_bootstrap_values_run(&values, &options, &got), CPS_ERR_DATA, "0 seeds");
    double bad[SEEDS * ROWS];
    memcpy(bad, data.right, sizeof bad);
    bad[ROWS + 2] = not_a_number;
    values = means();
    values.baseline = bad;
    expect_failure(cps_bootstrap_values_run(&values, &options, &got), CPS_ERR_DATA,
                   "baseline: number 603 of 2400");
    values = means();
    values.statistic = CPS_VALUE_CLASS_MEAN;
    expect_failure(cps_bootstrap_values_run(&values, &options, &got), CPS_ERR_USAGE,
                   "the class of each row");
    values.classes = data.classes;
    values.class_count = 4;
    expect_failure(cps_bootstrap_values_run(&values, &options, &got), CPS_ERR_DATA,
                   "of number 4 of 4 classes");
    static const double none[CLASSES];
    values.class_count = CLASSES;
    values.class_weights = none;
    expect_failure(cps_bootstrap_values_run(&values, &options, &got), CPS_ERR_DATA, "weight 0");
    values = means();
    values.units = data.units;
    values.unit_count = 10;
    expect_failure(cps_bootstrap_values_run(&values, &options, &got), CPS_ERR_DATA, "units");
    values = means();
    options.resamples = 10;
    expect_failure(cps_bootstrap_values_run(&values, &options, &got), CPS_ERR_USAGE,
                   "10 resamples");
    options = CPS_BOOTSTRAP_DEFAULTS;
    options.confidence = 95;
    expect_failure(cps_bootstrap_values_run(&values, &options, &got), CPS_ERR_USAGE, "95");
    options = CPS_BOOTSTRAP_DEFAULTS;
    const cps_bootstrap_problem problem = {
        .seeds = 2, .samples = 5, .statistic = undefined_at_times};
    expect_failure(cps_bootstrap_statistic(&problem, &options, &got), CPS_ERR_DATA,
                   "has no value on some of the samples");
    assert_true(got.estimate == 123);
}

/* Three seeds, 10,000 samples, 2000 resamples: a figure to look at, no test of the clock. */
static void test_size(void **state) {
    (void)state;
    enum { MANY = 10000, FEW = 3 };
    double *values = malloc(2 * sizeof *values * FEW * MANY);
    assert_non_null(values);
    const cps_draw_key key = {.seed = 9};
    for (int i = 0; i < 2 * FEW * MANY; i++) {
        values[i] = cps_draw_uniform(&key, (uint64_t)i) < 0.7 ? 1.0 : 0.0;
    }
    const cps_bootstrap_values pair = {
        .seeds = FEW, .rows = MANY, .values = values, .baseline = values + FEW * MANY};
    const clock_t start = clock();
    const cps_bootstrap_result got = run(&pair, CPS_BOOTSTRAP_BCA);
    printf("3 seeds x 10000 samples x 2000 resamples, BCa, one thread: %.3f s\n",
           (double)(clock() - start) / CLOCKS_PER_SEC);
    /* variance of a difference of shares, 2 x .7 x .3 over all samples */
    expect(got.standard_error, sqrt(0.42 / (FEW * MANY)), 1.0);
    assert_true(fabs(got.estimate) < 0.02);
    free(values);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percentile_and_bca),
        cmocka_unit_test(test_acceleration),
        cmocka_unit_test(test_variances),
        cmocka_unit_test(test_two_level_acceleration),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_class_means),
        cmocka_unit_test(test_medians),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_degenerate),
        cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_size),
    };
    return cmocka_run_group_tests(tests, make_data, NULL);
}
