#include "report/statistics.h"

#include <math.h>
#include <stdlib.h>

#include "base/numeric.h"
#include "report/distributions.h"

/* ---- checks ---- */

cps_status cps_confidence_check(double confidence) {
    if (!(confidence > 0.0 && confidence < 1.0)) {
        return cps_fail(CPS_ERR_USAGE,
                        "the confidence is %g, it must lie between 0 and 1: 0.95 is usual",
                        confidence);
    }
    return CPS_OK;
}

cps_status cps_values_check(const double *values, int64_t count, const char *what) {
    if (count < 1) {
        return cps_fail(CPS_ERR_DATA, "%lld %s, at least one is needed", (long long)count, what);
    }
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) {
            return cps_fail(CPS_ERR_DATA,
                            "%s: number %lld of %lld is %g, finite numbers are wanted: leave out "
                            "the run that gave it",
                            what, (long long)(i + 1), (long long)count, values[i]);
        }
    }
    return CPS_OK;
}

static int ascending(const void *a, const void *b) {
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* ---- shares, means ---- */

cps_status cps_wilson(int64_t successes, int64_t n, double confidence, cps_interval *interval_out) {
    CPS_TRY(cps_confidence_check(confidence));
    if (n < 0 || successes < 0 || successes > n) {
        return cps_fail(CPS_ERR_DATA, "%lld of %lld samples are right, 0 .. all are possible",
                        (long long)successes, (long long)n);
    }
    if (n == 0) {
        *interval_out = (cps_interval){0.0, 1.0};
        return CPS_OK;
    }
    const double size = (double)n, p = (double)successes / size;
    const double z = cps_normal_quantile(0.5 + 0.5 * confidence), z2 = z * z / size;
    const double centre = p + 0.5 * z2;
    const double half = sqrt(z2 * (p * (1.0 - p) + 0.25 * z2));
    /* The ends are 0 and 1 exactly where the share is; rounding would say 1e-17. */
    interval_out->low = successes == 0 ? 0.0 : (centre - half) / (1.0 + z2);
    interval_out->high = successes == n ? 1.0 : (centre + half) / (1.0 + z2);
    return CPS_OK;
}

/* A second pass mends the rounding of the first; without it equal values might not have sd 0. */
static double mean_of(const double *values, int64_t count) {
    cps_running_sum sum = {0}, rest = {0};
    for (int64_t i = 0; i < count; i++) {
        cps_sum_add(&sum, values[i]);
    }
    const double mean = cps_sum_value(&sum) / (double)count;
    for (int64_t i = 0; i < count; i++) {
        cps_sum_add(&rest, values[i] - mean);
    }
    return mean + cps_sum_value(&rest) / (double)count;
}

cps_status cps_mean_summarize(const double *values, int64_t count, double confidence,
                              cps_mean_summary *summary_out) {
    CPS_TRY(cps_confidence_check(confidence));
    CPS_TRY(cps_values_check(values, count, "values"));
    const double mean = mean_of(values, count);
    if (count == 1) {
        const double unknown = (double)NAN;
        *summary_out = (cps_mean_summary){mean, unknown, {unknown, unknown}};
        return CPS_OK;
    }
    cps_running_sum squares = {0};
    for (int64_t i = 0; i < count; i++) {
        cps_sum_add(&squares, (values[i] - mean) * (values[i] - mean));
    }
    const double sd = sqrt(cps_sum_value(&squares) / (double)(count - 1));
    const double t = cps_student_quantile(0.5 + 0.5 * confidence, (double)(count - 1));
    const double half = t * sd / sqrt((double)count);
    *summary_out = (cps_mean_summary){mean, sd, {mean - half, mean + half}};
    return CPS_OK;
}

double cps_quantile_sorted(const double *sorted, int64_t count, double q) {
    const double place = q * (double)(count - 1);
    const int64_t below = cps_max_i64(0, cps_min_i64((int64_t)floor(place), count - 1));
    const int64_t above = cps_min_i64(below + 1, count - 1);
    return sorted[below] + (place - (double)below) * (sorted[above] - sorted[below]);
}

/* ---- McNemar ---- */

cps_status cps_mcnemar(int64_t only_a_right, int64_t only_b_right, cps_mcnemar_result *result_out) {
    if (only_a_right < 0 || only_b_right < 0 || only_a_right > INT64_MAX / 2 ||
        only_b_right > INT64_MAX / 2) {
        return cps_fail(CPS_ERR_DATA,
                        "%lld samples only the first model has right, %lld only the second: "
                        "counts from 0 to 2^62 are wanted",
                        (long long)only_a_right, (long long)only_b_right);
    }
    const int64_t n = only_a_right + only_b_right;
    if (n == 0) {
        *result_out = (cps_mcnemar_result){1.0, 1.0, 0.0, 1.0};
        return CPS_OK;
    }
    const int64_t fewer = cps_min_i64(only_a_right, only_b_right);
    const double exactly = cps_coin_exactly(fewer, n), below = cps_coin_fewer(fewer, n);
    const double gap = (double)(n - 2 * fewer) - 1.0;
    result_out->p_exact = n == 2 * fewer ? 1.0 : fmin(1.0, 2.0 * (below + exactly));
    result_out->p_mid = n == 2 * fewer ? 1.0 - exactly : 2.0 * below + exactly;
    result_out->chi2_corrected = gap * gap / (double)n;
    result_out->p_chi2_corrected = cps_chi_square_above(result_out->chi2_corrected, 1);
    return CPS_OK;
}

/* ---- sign flips ---- */

/* All 2^count sums of +-values, ascending; sums_out [2^count]. Each value merges the sums so far
 * minus it with those plus it; other is as large. Sums that are equal but for the order of their
 * additions may differ in roundings: the caller's slack covers that. */
static void signed_sums(const double *values, int64_t count, double *sums_out, double *other) {
    sums_out[0] = 0.0;
    int64_t made = 1;
    for (int64_t k = 0; k < count; k++) {
        const double size = fabs(values[k]);
        int64_t minus = 0, plus = 0;
        for (int64_t i = 0; i < 2 * made; i++) {
            const bool take_minus =
                plus == made || (minus < made && sums_out[minus] - size <= sums_out[plus] + size);
            other[i] = take_minus ? sums_out[minus++] - size : sums_out[plus++] + size;
        }
        made *= 2;
        for (int64_t i = 0; i < made; i++) {
            sums_out[i] = other[i];
        }
    }
}

/* Pairs (i, j) with left[i] + right[j] >= least, both ascending: as left grows, more of right do.
 */
static int64_t count_pairs(const double *left, int64_t left_count, const double *right,
                           int64_t right_count, double least) {
    int64_t pairs = 0, first = right_count;
    for (int64_t i = 0; i < left_count; i++) {
        while (first > 0 && left[i] + right[first - 1] >= least) {
            first--;
        }
        pairs += right_count - first;
    }
    return pairs;
}

cps_status cps_sign_flip(const double *differences, int64_t count,
                         cps_sign_flip_result *result_out) {
    CPS_TRY(cps_values_check(differences, count, "differences"));
    if (count > CPS_MOST_SIGNS) {
        return cps_fail(CPS_ERR_USAGE,
                        "%lld differences, signs are flipped of %d at most: take fewer seeds",
                        (long long)count, CPS_MOST_SIGNS);
    }
    const int64_t half = count / 2, rest = count - half;
    const int64_t left_count = (int64_t)1 << half, right_count = (int64_t)1 << rest;
    double *left = malloc(sizeof *left * (size_t)(left_count + 2 * right_count));
    if (left == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for the sums of %lld differences",
                        (long long)count);
    }
    double *right = left + left_count, *other = right + right_count;
    signed_sums(differences, half, left, other);
    signed_sums(differences + half, rest, right, other);
    double observed = 0.0, largest = 0.0;
    for (int64_t i = 0; i < count; i++) {
        observed += differences[i];
        largest += fabs(differences[i]);
    }
    const double slack = fmax(1e-15 * (double)count, 16 * 0x1p-53 * largest);
    const double least = fabs(observed) - slack;
    const double all = (double)left_count * (double)right_count;
    /* The signs' sums are symmetric: as many reach -least from below as least from above, unless
     * least <= 0, where all count. */
    const int64_t above = count_pairs(left, left_count, right, right_count, least);
    result_out->p = least <= 0.0 ? 1.0 : 2.0 * (double)above / all;
    result_out->smallest_p = 2.0 / all;
    free(left);
    return CPS_OK;
}

/* ---- Holm ---- */

typedef struct placed {
    double value;
    int64_t place;
} placed;

static int by_value(const void *a, const void *b) {
    const placed *left = a, *right = b;
    const int order = ascending(&left->value, &right->value);
    return order != 0 ? order : (left->place > right->place) - (left->place < right->place);
}

/* Values with their places, ascending; malloc'ed, NULL without memory. */
static placed *sort_places(const double *values, int64_t count) {
    size_t bytes;
    placed *order = cps_mul_size((size_t)count, sizeof *order, &bytes) ? malloc(bytes) : NULL;
    if (order != NULL) {
        for (int64_t i = 0; i < count; i++) {
            order[i] = (placed){values[i], i};
        }
        qsort(order, (size_t)count, sizeof *order, by_value);
    }
    return order;
}

cps_status cps_holm(const double *p, int64_t count, double *adjusted_out) {
    if (count == 0) {
        return CPS_OK;
    }
    CPS_TRY(cps_values_check(p, count, "p-values"));
    for (int64_t i = 0; i < count; i++) {
        if (p[i] < 0.0 || p[i] > 1.0) {
            return cps_fail(CPS_ERR_DATA, "p-value %lld of %lld is %g, 0 .. 1 is wanted",
                            (long long)(i + 1), (long long)count, p[i]);
        }
    }
    placed *order = sort_places(p, count);
    if (order == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for %lld p-values", (long long)count);
    }
    double so_far = 0.0;
    for (int64_t i = 0; i < count; i++) {
        so_far = fmax(so_far, fmin(1.0, order[i].value * (double)(count - i)));
        adjusted_out[order[i].place] = so_far;
    }
    free(order);
    return CPS_OK;
}

/* ---- Friedman ---- */

/* Adds the ranks of one block to sums; returns the sum of t^3 - t over its ties. `order`: the
 * block's scores, the best first. */
static double rank_block(const placed *order, int64_t methods, double *sums) {
    double ties = 0.0;
    for (int64_t first = 0, next; first < methods; first = next) {
        next = first + 1;
        while (next < methods && order[next].value == order[first].value) {
            next++;
        }
        const double size = (double)(next - first);
        for (int64_t i = first; i < next; i++) {
            sums[order[i].place] += 0.5 * (double)(first + 1 + next);
        }
        ties += size * size * size - size;
    }
    return ties;
}

cps_status cps_friedman(const double *scores, int64_t blocks, int64_t methods,
                        bool larger_is_better, cps_friedman_result *result_out,
                        double *mean_ranks_out) {
    int64_t count;
    if (blocks < 1 || methods < 2 || !cps_mul_i64(blocks, methods, &count)) {
        return cps_fail(CPS_ERR_DATA,
                        "%lld data sets and %lld methods, at least 1 and 2 are wanted",
                        (long long)blocks, (long long)methods);
    }
    CPS_TRY(cps_values_check(scores, count, "scores"));
    double *row = calloc((size_t)methods, 2 * sizeof *row);
    if (row == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for %lld methods", (long long)methods);
    }
    double *sums = row + methods, ties = 0.0;
    for (int64_t b = 0; b < blocks; b++) {
        for (int64_t m = 0; m < methods; m++) {
            row[m] = larger_is_better ? -scores[b * methods + m] : scores[b * methods + m];
        }
        placed *order = sort_places(row, methods);
        if (order == NULL) {
            free(row);
            return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for %lld methods", (long long)methods);
        }
        ties += rank_block(order, methods, sums);
        free(order);
    }
    const double b = (double)blocks, m = (double)methods, middle = 0.5 * b * (m + 1.0);
    double squares = 0.0; /* sum (R - b (m+1)/2)^2, which the formula's difference comes to */
    for (int64_t i = 0; i < methods; i++) {
        squares += (sums[i] - middle) * (sums[i] - middle);
        mean_ranks_out[i] = sums[i] / b;
    }
    const double untied = 1.0 - ties / (b * m * (m * m - 1.0));
    result_out->chi2 = squares == 0.0 ? 0.0 : 12.0 * squares / (b * m * (m + 1.0) * untied);
    result_out->p = cps_chi_square_above(result_out->chi2, methods - 1);
    free(row);
    return CPS_OK;
}

/* ---- spread ---- */

/* sum over sources of (quantile at first + quantile at second)^2 variance; second 1/2 adds 0. */
static double spread_width(const cps_spread *spread, double first, double second) {
    const double variances[2] = {spread->seed_variance, spread->sample_variance};
    const double freedoms[2] = {spread->seed_freedom, spread->sample_freedom};
    double sum = 0.0;
    if (!(freedoms[0] > 0.0) && !(freedoms[1] > 0.0)) {
        return (double)NAN;
    }
    for (int i = 0; i < 2; i++) {
        if (freedoms[i] > 0.0 && variances[i] > 0.0) {
            const double factor = cps_student_quantile(first, freedoms[i]) +
                                  cps_student_quantile(second, freedoms[i]);
            sum += factor * factor * variances[i];
        }
    }
    return sqrt(sum);
}

double cps_spread_half_width(const cps_spread *spread, double confidence) {
    return spread_width(spread, 0.5 + 0.5 * confidence, 0.5);
}

typedef struct spread_reach {
    const cps_spread *spread;
    double log_size;
} spread_reach;

/* How far the half width that leaves exp(log_tail) on each side reaches beyond the estimate. The
 * quantile of the tail itself is that of 1 - tail with the other sign, and only squares count. */
static double reach(const void *context, double log_tail) {
    const spread_reach *wanted = context;
    return log(spread_width(wanted->spread, exp(log_tail), 0.5)) - wanted->log_size;
}

double cps_spread_p(const cps_spread *spread, double estimate) {
    enum { LEAST_LOG_TAIL = -300 };
    if (isnan(estimate)) {
        return estimate;
    }
    const double size = fabs(estimate);
    if (isnan(spread_width(spread, 0.75, 0.5))) {
        return (double)NAN;
    }
    if (size == 0.0 || !(spread_width(spread, 0.75, 0.5) > 0.0)) {
        return size == 0.0 ? 1.0 : 0.0;
    }
    const spread_reach wanted = {spread, log(size)};
    double low = log(0.25), high = log(0.5 - 1e-15);
    if (reach(&wanted, high) >= 0.0) {
        return 1.0;
    }
    while (reach(&wanted, low) < 0.0) {
        high = low;
        low *= 2.0;
        if (low < LEAST_LOG_TAIL) {
            return 0.0;
        }
    }
    return fmin(1.0, 2.0 * exp(cps_root(reach, &wanted, low, high)));
}

double cps_spread_detectable(const cps_spread *spread, double alpha, double power) {
    if (!(alpha > 0.0 && alpha < 1.0 && power >= 0.5 && power < 1.0)) {
        return (double)NAN;
    }
    return spread_width(spread, 1.0 - 0.5 * alpha, power);
}
