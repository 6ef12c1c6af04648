/* A resample is counts: how often each sample is in it. All seeds' statistics are taken on the same
 * counts, [resamples, seeds] numbers in all; what the seeds' own draws and the variances need is
 * then arithmetic on these. */
#include "report/bootstrap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "base/pool.h"
#include "base/rng.h"
#include "report/distributions.h"

const char *const cps_bootstrap_methods[] = {"percentile", "bca", NULL};

static int ascending_order(const void *a, const void *b) {
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* ---- intervals from resampled values ---- */

cps_status cps_bootstrap_percentile(const double *ascending, int64_t count, double confidence,
                                    cps_interval *interval_out) {
    CPS_TRY(cps_confidence_check(confidence));
    CPS_TRY(cps_values_check(ascending, count, "resampled values"));
    interval_out->low = cps_quantile_sorted(ascending, count, 0.5 - 0.5 * confidence);
    interval_out->high = cps_quantile_sorted(ascending, count, 0.5 + 0.5 * confidence);
    return CPS_OK;
}

/* The quantile that stands in for the one at z. */
static double bca_quantile(const double *ascending, int64_t count, double z0, double acceleration,
                           double z) {
    const double shifted = z0 + z, scale = 1.0 - acceleration * shifted;
    if (!(scale > 0.0)) {
        return ascending[shifted < 0.0 ? 0 : count - 1];
    }
    return cps_quantile_sorted(ascending, count, cps_normal_below(z0 + shifted / scale));
}

cps_status cps_bootstrap_bca(const double *ascending, int64_t count, double estimate,
                             double acceleration, double confidence, cps_bca_result *result_out) {
    CPS_TRY(cps_confidence_check(confidence));
    CPS_TRY(cps_values_check(ascending, count, "resampled values"));
    const double settings[2] = {estimate, acceleration};
    CPS_TRY(cps_values_check(settings, 2, "estimate and acceleration"));
    double below = 0.0;
    for (int64_t i = 0; i < count; i++) {
        below += ascending[i] < estimate ? 1.0 : ascending[i] == estimate ? 0.5 : 0.0;
    }
    below = fmin(fmax(below, 0.5), (double)count - 0.5);
    const double z0 = cps_normal_quantile(below / (double)count);
    const double z = cps_normal_quantile(0.5 + 0.5 * confidence);
    result_out->bias_z0 = z0;
    result_out->interval.low = bca_quantile(ascending, count, z0, acceleration, -z);
    result_out->interval.high = bca_quantile(ascending, count, z0, acceleration, z);
    return CPS_OK;
}

/* Sums of squares and cubes of influences on the statistic. */
typedef struct moments {
    cps_running_sum squares, cubes;
} moments;

static void take_influence(moments *seen, double influence) {
    cps_sum_add(&seen->squares, influence * influence);
    cps_sum_add(&seen->cubes, influence * influence * influence);
}

static double acceleration_of(const moments *seen) {
    const double squares = cps_sum_value(&seen->squares);
    const double scale = squares * sqrt(squares);
    return scale > 0.0 ? cps_sum_value(&seen->cubes) / (6.0 * scale) : 0.0;
}

static double mean_of(const double *values, int64_t count, int64_t stride) {
    cps_running_sum sum = {0};
    for (int64_t i = 0; i < count; i++) {
        cps_sum_add(&sum, values[i * stride]);
    }
    return cps_sum_value(&sum) / (double)count;
}

/* Adds the influences of `count` samples that were left out in turn, times scale. Equal values have
 * none, whatever the rounding of their mean. */
static void take_left_out(moments *seen, const double *left_out, int64_t count, double scale) {
    bool equal = true;
    for (int64_t i = 1; i < count; i++) {
        equal = equal && left_out[i] == left_out[0];
    }
    if (equal) {
        return;
    }
    const double mean = mean_of(left_out, count, 1);
    for (int64_t i = 0; i < count; i++) {
        take_influence(seen, scale * (mean - left_out[i]));
    }
}

double cps_bootstrap_acceleration(const double *left_out, int64_t count) {
    moments seen = {0};
    take_left_out(&seen, left_out, count, 1.0);
    return acceleration_of(&seen);
}

/* ---- two levels ---- */

enum { TASKS = 32, LEAST_RESAMPLES = 100, MOST_RESAMPLES = 1000000 };

typedef struct work {
    const cps_bootstrap_problem *problem;
    const cps_bootstrap_options *options;
    int64_t groups;    /* of the jackknife over samples; 0: none is wanted */
    int32_t *counts;   /* [TASKS, samples] */
    double *scratch;   /* [TASKS, scratch_count] */
    double *whole;     /* [seeds] T_s: the statistic of all samples */
    double *resampled; /* [resamples, seeds] */
    double *left_out;  /* [groups]: mean over seeds without a group */
    double *both;      /* [resamples]: seeds drawn as well; ascending at last */
} work;

static void destroy_work(work *w) {
    free(w->counts);
    free(w->scratch);
    free(w->whole);
    free(w->resampled);
    free(w->left_out);
    free(w->both);
}

/* [rows, columns] elements, at least one; NULL on overflow or without memory. */
static void *array_of(int64_t rows, int64_t columns, size_t element_bytes) {
    int64_t count;
    size_t bytes;
    if (!cps_mul_i64(rows, columns, &count) ||
        !cps_mul_size((size_t)cps_max_i64(count, 1), element_bytes, &bytes)) {
        return NULL;
    }
    return malloc(bytes);
}

static cps_status create_work(work *w) {
    const cps_bootstrap_problem *p = w->problem;
    w->counts = array_of(TASKS, p->samples, sizeof *w->counts);
    w->scratch = array_of(TASKS, p->scratch_count, sizeof *w->scratch);
    w->whole = array_of(1, p->seeds, sizeof *w->whole);
    w->resampled = array_of(w->options->resamples, p->seeds, sizeof *w->resampled);
    w->left_out = array_of(1, w->groups, sizeof *w->left_out);
    w->both = array_of(1, w->options->resamples, sizeof *w->both);
    if (w->counts == NULL || w->scratch == NULL || w->whole == NULL || w->resampled == NULL ||
        w->left_out == NULL || w->both == NULL) {
        destroy_work(w);
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "no memory for %d resamples of %lld samples and %d seeds",
                        w->options->resamples, (long long)p->samples, p->seeds);
    }
    return CPS_OK;
}

static cps_draw_key key_of(const work *w, const char *level, int64_t resample) {
    return (cps_draw_key){
        .seed = w->options->seed, .position = (uint64_t)resample, .module = cps_name_key(level)};
}

/* Draws `samples` times 1 of them. Two draws of the key make a key of Philox for this resample,
 * each of whose blocks gives four samples: words[i] n / 2^32. A sample's chance is off by n / 2^32
 * of itself at most. */
static void draw_counts(const work *w, int64_t resample, int32_t *counts) {
    const cps_draw_key key = key_of(w, "bootstrap.samples", resample);
    const uint32_t philox_key[2] = {cps_draw_u32(&key, 0), cps_draw_u32(&key, 1)};
    const uint64_t n = (uint64_t)w->problem->samples;
    memset(counts, 0, (size_t)n * sizeof *counts);
    for (uint64_t done = 0; done < n; done += 4) {
        uint32_t words[4];
        cps_philox4x32((const uint32_t[4]){(uint32_t)(done >> 2), 0, 0, 0}, philox_key, words);
        const uint64_t take = n - done < 4 ? n - done : 4;
        for (uint64_t i = 0; i < take; i++) {
            counts[(uint64_t)words[i] * n >> 32]++;
        }
    }
}

static void resample_task(void *context, int64_t task) {
    const work *w = context;
    const cps_bootstrap_problem *p = w->problem;
    int32_t *counts = w->counts + task * p->samples;
    double *scratch = w->scratch + task * p->scratch_count;
    for (int64_t b = task; b < w->options->resamples; b += TASKS) {
        draw_counts(w, b, counts);
        for (int32_t s = 0; s < p->seeds; s++) {
            w->resampled[b * p->seeds + s] = p->statistic(p->context, s, counts, scratch);
        }
    }
}

/* Group g is every groups-th sample from g on: stored order has classes together. */
static void leave_out_task(void *context, int64_t task) {
    const work *w = context;
    const cps_bootstrap_problem *p = w->problem;
    int32_t *counts = w->counts + task * p->samples;
    double *scratch = w->scratch + task * p->scratch_count;
    for (int64_t i = 0; i < p->samples; i++) {
        counts[i] = 1;
    }
    for (int64_t g = task; g < w->groups; g += TASKS) {
        for (int64_t i = g; i < p->samples; i += w->groups) {
            counts[i] = 0;
        }
        double sum = 0.0;
        for (int32_t s = 0; s < p->seeds; s++) {
            sum += p->statistic(p->context, s, counts, scratch);
        }
        w->left_out[g] = sum / p->seeds;
        for (int64_t i = g; i < p->samples; i += w->groups) {
            counts[i] = 1;
        }
    }
}

static void take_whole(work *w) {
    const cps_bootstrap_problem *p = w->problem;
    for (int64_t i = 0; i < p->samples; i++) {
        w->counts[i] = 1;
    }
    for (int32_t s = 0; s < p->seeds; s++) {
        w->whole[s] = p->statistic(p->context, s, w->counts, w->scratch);
    }
}

static void draw_seeds(work *w) {
    const int32_t seeds = w->problem->seeds;
    for (int64_t b = 0; b < w->options->resamples; b++) {
        const cps_draw_key key = key_of(w, "bootstrap.seeds", b);
        double sum = 0.0;
        for (int32_t k = 0; k < seeds; k++) {
            const uint64_t drawn = cps_draw_below(&key, (uint64_t)k, (uint64_t)seeds);
            sum += w->resampled[b * seeds + (int64_t)drawn];
        }
        w->both[b] = sum / seeds;
    }
}

/* sum (x - mean)^2 / (count - 1), 0 for one value; `less` [count] is taken off first, may be NULL.
 */
static double variance_of(const double *values, int64_t count, int64_t stride, const double *less) {
    if (count < 2) {
        return 0.0;
    }
    double mean = mean_of(values, count, stride);
    mean -= less != NULL ? mean_of(less, count, 1) : 0.0;
    cps_running_sum squares = {0};
    for (int64_t i = 0; i < count; i++) {
        const double off = values[i * stride] - (less != NULL ? less[i] : 0.0) - mean;
        cps_sum_add(&squares, off * off);
    }
    return cps_sum_value(&squares) / (double)(count - 1);
}

/* The variances of the header. `means` [resamples] is overwritten: the seeds' means. */
static cps_spread spread_of(const work *w, double *means) {
    const int64_t seeds = w->problem->seeds, resamples = w->options->resamples;
    const double n = (double)w->problem->samples, s = (double)seeds;
    cps_spread spread = {.seed_freedom = s - 1.0, .sample_freedom = n - 1.0};
    for (int64_t b = 0; b < resamples; b++) {
        means[b] = mean_of(w->resampled + b * seeds, seeds, 1);
    }
    double common = variance_of(means, resamples, 1, NULL);
    if (seeds > 1) {
        spread.seed_variance = variance_of(w->whole, seeds, 1, NULL) / s;
        double residual = 0.0;
        for (int64_t k = 0; k < seeds; k++) {
            residual += variance_of(w->resampled + k, resamples, seeds, means);
        }
        common -= residual / (s * (s - 1.0));
    }
    spread.sample_variance = n > 1.0 ? fmax(0.0, common) * n / (n - 1.0) : 0.0;
    return spread;
}

/* Influences add over independent sources: a seed's is (T_s - T) / S, a group's (mean - left out)
 * (groups - 1) / groups (Davison and Hinkley, Bootstrap Methods and their Application (1997),
 * chapter 5). */
static double two_level_acceleration(work *w, double estimate) {
    moments seen = {0};
    const int32_t seeds = w->problem->seeds;
    for (int32_t s = 0; s < seeds; s++) {
        take_influence(&seen, (w->whole[s] - estimate) / seeds);
    }
    const double groups = (double)w->groups;
    take_left_out(&seen, w->left_out, w->groups, (groups - 1.0) / groups);
    return acceleration_of(&seen);
}

static cps_status check_finite(const double *values, int64_t count) {
    return cps_fail_context(cps_values_check(values, count, "statistics of seeds or resamples"),
                            "the statistic has no value on some of the samples");
}

static cps_status make_result(work *w, cps_bootstrap_result *result) {
    const int64_t resamples = w->options->resamples;
    const double confidence = w->options->confidence;
    CPS_TRY(check_finite(w->whole, w->problem->seeds));
    CPS_TRY(check_finite(w->resampled, resamples * w->problem->seeds));
    *result = (cps_bootstrap_result){.estimate = mean_of(w->whole, w->problem->seeds, 1)};
    result->spread = spread_of(w, w->both);
    draw_seeds(w);
    const double sd = sqrt(variance_of(w->both, resamples, 1, NULL));
    qsort(w->both, (size_t)resamples, sizeof *w->both, ascending_order);
    if (w->options->method == CPS_BOOTSTRAP_BCA) {
        cps_bca_result bca;
        /* one sample cannot be left out: no acceleration */
        if (w->groups > 1) {
            CPS_TRY(check_finite(w->left_out, w->groups));
            result->acceleration = two_level_acceleration(w, result->estimate);
        }
        CPS_TRY(cps_bootstrap_bca(w->both, resamples, result->estimate, result->acceleration,
                                  confidence, &bca));
        result->bias_z0 = bca.bias_z0;
        result->plain = bca.interval;
    } else {
        CPS_TRY(cps_bootstrap_percentile(w->both, resamples, confidence, &result->plain));
    }
    const double half = cps_spread_half_width(&result->spread, confidence);
    const double z = cps_normal_quantile(0.5 + 0.5 * confidence);
    /* NaN where nothing is known of the spread; 0 where there is none */
    const double factor = isnan(half) || sd > 0.0 ? half / (z * sd) : 0.0;
    result->interval.low = result->estimate + factor * (result->plain.low - result->estimate);
    result->interval.high = result->estimate + factor * (result->plain.high - result->estimate);
    const double variance = result->spread.seed_variance + result->spread.sample_variance;
    result->standard_error = isnan(half) ? half : sqrt(variance);
    result->p = cps_spread_p(&result->spread, result->estimate);
    return CPS_OK;
}

static cps_status check_settings(const cps_bootstrap_problem *problem,
                                 const cps_bootstrap_options *options) {
    CPS_TRY(cps_confidence_check(options->confidence));
    if (options->resamples < LEAST_RESAMPLES || options->resamples > MOST_RESAMPLES) {
        return cps_fail(CPS_ERR_USAGE, "%d resamples, %d to %d are possible: 2000 is usual",
                        options->resamples, LEAST_RESAMPLES, MOST_RESAMPLES);
    }
    if (problem->seeds < 1 || problem->samples < 1 || problem->samples > INT32_MAX) {
        return cps_fail(CPS_ERR_DATA,
                        "%d seeds and %lld samples, at least one of each and at most %d samples "
                        "are wanted",
                        problem->seeds, (long long)problem->samples, INT32_MAX);
    }
    return CPS_OK;
}

cps_status cps_bootstrap_statistic(const cps_bootstrap_problem *problem,
                                   const cps_bootstrap_options *options,
                                   cps_bootstrap_result *result_out) {
    CPS_TRY(check_settings(problem, options));
    work w = {.problem = problem, .options = options};
    if (options->method == CPS_BOOTSTRAP_BCA && problem->samples > 1) {
        w.groups = cps_min_i64(problem->samples, CPS_BOOTSTRAP_GROUPS);
    }
    CPS_TRY(create_work(&w));
    take_whole(&w);
    cps_parallel(TASKS, resample_task, &w);
    if (w.groups > 0) {
        cps_parallel(TASKS, leave_out_task, &w);
    }
    cps_bootstrap_result result;
    const cps_status status = make_result(&w, &result);
    if (status == CPS_OK) {
        *result_out = result;
    }
    destroy_work(&w);
    return status;
}
