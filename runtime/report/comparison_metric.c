/* A metric of an evaluation: each method's estimate, its differences to the baseline and to the
 * best; and, when all tests are there, what they say together. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "report/comparison_internal.h"

typedef struct metric_work {
    const cps_compared *compared;
    const cps_paired_values *values;
    cps_pending *pending;
    double *own,
        *other; /* [runs, rows] rows of the seeds of one method, and of the one beside it */
} metric_work;

static cps_status no_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory to compare methods");
}

/* ---- one method ---- */

static int32_t run_count(const cps_compared *compared, int32_t method) {
    return compared->first[method + 1] - compared->first[method];
}

/* Of the first `seeds` runs in w->own. */
static cps_status bootstrap(const metric_work *w, int32_t seeds, const double *baseline,
                            cps_bootstrap_options options, cps_bootstrap_result *result_out) {
    const cps_paired_values *values = w->values;
    const cps_bootstrap_values problem = {.statistic = values->statistic,
                                          .seeds = seeds,
                                          .rows = values->rows,
                                          .values = w->own,
                                          .baseline = baseline,
                                          .units = values->units,
                                          .unit_count = values->unit_count,
                                          .classes = values->classes,
                                          .class_count = values->class_count};
    if (values->statistic == CPS_VALUE_MEDIAN) {
        options.method = CPS_BOOTSTRAP_PERCENTILE; /* the jackknife of a median is inconsistent */
    }
    return cps_bootstrap_values_run(&problem, &options, result_out);
}

/* The statistic of the one run in w->own: the least resamples, whose spread nobody asks for. */
static cps_status estimate_one(const metric_work *w, const double *baseline, double *estimate_out) {
    enum { LEAST_RESAMPLES = 100 };
    cps_bootstrap_options options = w->compared->settings->bootstrap;
    cps_bootstrap_result result;
    options.method = CPS_BOOTSTRAP_PERCENTILE;
    options.resamples = LEAST_RESAMPLES;
    CPS_TRY(bootstrap(w, 1, baseline, options, &result));
    *estimate_out = result.estimate;
    return CPS_OK;
}

static void copy_run(const metric_work *w, int32_t run, double *to, int32_t seed) {
    memcpy(to + seed * w->values->rows, w->values->values + run * w->values->rows,
           (size_t)w->values->rows * sizeof *to);
}

static double sum_of(const metric_work *w, int32_t run) {
    cps_running_sum sum = {0};
    for (int64_t i = 0; i < w->values->rows; i++) {
        cps_sum_add(&sum, w->values->values[run * w->values->rows + i]);
    }
    return cps_sum_value(&sum);
}

static cps_status add_wilson(const metric_work *w, int32_t method, cps_json *object) {
    const cps_compared *compared = w->compared;
    cps_json *list = cps_json_add_array(object, "wilson");
    for (int32_t run = compared->first[method]; run < compared->first[method + 1]; run++) {
        cps_interval interval;
        const int64_t right = (int64_t)sum_of(w, run);
        CPS_TRY(cps_wilson(right, w->values->rows, compared->settings->bootstrap.confidence,
                           &interval));
        cps_json *one = cps_json_add_object(list, NULL);
        cps_json_add_number(one, "seed", (double)compared->runs[run].seed);
        cps_json_add_number(one, "right", (double)right);
        cps_json_add_number(one, "samples", (double)w->values->rows);
        cps_comparison_add_interval(one, "interval", interval);
    }
    return CPS_OK;
}

/* The statistic of each seed: that of a bootstrap of one. */
static cps_status add_seeds(metric_work *w, int32_t method, cps_json *object) {
    const cps_compared *compared = w->compared;
    const int32_t count = run_count(compared, method);
    double *each = cps_allocate_zero(count, 1, sizeof *each);
    cps_mean_summary summary;
    cps_status status = each == NULL ? no_memory() : CPS_OK;
    cps_json *seeds = cps_json_add_array(object, "seeds");
    cps_json *values = cps_json_add_array(object, "values");
    for (int32_t s = 0; s < count && status == CPS_OK; s++) {
        const int32_t run = compared->first[method] + s;
        copy_run(w, run, w->own, 0);
        status = estimate_one(w, NULL, &each[s]);
        if (status == CPS_OK) {
            cps_json_add_number(seeds, NULL, (double)compared->runs[run].seed);
            cps_json_add_number(values, NULL, each[s]);
        }
    }
    if (status == CPS_OK) {
        status =
            cps_mean_summarize(each, count, compared->settings->bootstrap.confidence, &summary);
    }
    if (status == CPS_OK && count > 1) {
        cps_json_add_number(object, "seed_sd", summary.sd);
        cps_comparison_add_interval(object, "seed_interval", summary.interval);
    }
    free(each);
    return status;
}

static void add_result(cps_json *object, const cps_bootstrap_result *result) {
    cps_json_add_number(object, "estimate", result->estimate);
    cps_comparison_add_interval(object, "interval", result->interval);
    cps_comparison_add_interval(object, "plain_interval", result->plain);
    cps_json_add_number(object, "standard_error", result->standard_error);
}

static cps_status add_method(metric_work *w, int32_t method, cps_json *object,
                             double *estimate_out) {
    const cps_compared *compared = w->compared;
    const int32_t count = run_count(compared, method);
    cps_bootstrap_result result;
    cps_json_add_string(object, "method", compared->settings->methods[method]);
    CPS_TRY(add_seeds(w, method, object));
    for (int32_t s = 0; s < count; s++) {
        copy_run(w, compared->first[method] + s, w->own, s);
    }
    CPS_TRY(bootstrap(w, count, NULL, compared->settings->bootstrap, &result));
    add_result(object, &result);
    *estimate_out = result.estimate;
    return w->values->is_binary ? add_wilson(w, method, object) : CPS_OK;
}

/* ---- a method beside another ---- */

/* Runs of both with one seed, side by side; from the pair before, {-1, -1} at first. */
static bool next_pair(const cps_compared *compared, int32_t method, int32_t other,
                      int32_t pair[2]) {
    int32_t a = pair[0] < 0 ? compared->first[method] : pair[0] + 1;
    int32_t b = pair[1] < 0 ? compared->first[other] : pair[1] + 1;
    while (a < compared->first[method + 1] && b < compared->first[other + 1]) {
        const int64_t left = compared->runs[a].seed, right = compared->runs[b].seed;
        if (left == right) {
            pair[0] = a;
            pair[1] = b;
            return true;
        }
        a += left < right;
        b += right < left;
    }
    return false;
}

/* McNemar on one seed's two models. */
static cps_status add_mcnemar(const metric_work *w, const int32_t pair[2], cps_json *object) {
    const double *own = w->values->values + pair[0] * w->values->rows;
    const double *other = w->values->values + pair[1] * w->values->rows;
    int64_t only_own = 0, only_other = 0;
    cps_mcnemar_result result;
    for (int64_t i = 0; i < w->values->rows; i++) {
        only_own += own[i] > other[i];
        only_other += other[i] > own[i];
    }
    CPS_TRY(cps_mcnemar(only_own, only_other, &result));
    cps_json_add_number(object, "only_method", (double)only_own);
    cps_json_add_number(object, "only_other", (double)only_other);
    cps_json_add_number(object, "p_exact", result.p_exact);
    cps_json_add_number(object, "p_mid", result.p_mid);
    cps_json_add_number(object, "p_chi2", result.p_chi2_corrected);
    return CPS_OK;
}

static cps_status add_seed_pairs(metric_work *w, int32_t method, int32_t other, double *differences,
                                 cps_json *object) {
    const cps_compared *compared = w->compared;
    cps_json *seeds = cps_json_add_array(object, "seeds");
    cps_json *list = cps_json_add_array(object, "per_seed");
    int32_t pair[2] = {-1, -1}, count = 0;
    while (next_pair(compared, method, other, pair)) {
        double difference;
        copy_run(w, pair[0], w->own, 0);
        copy_run(w, pair[1], w->other, 0);
        CPS_TRY(estimate_one(w, w->other, &difference));
        differences[count++] = difference;
        cps_json_add_number(seeds, NULL, (double)compared->runs[pair[0]].seed);
        cps_json *one = cps_json_add_object(list, NULL);
        cps_json_add_number(one, "seed", (double)compared->runs[pair[0]].seed);
        cps_json_add_number(one, "difference", difference);
        /* a text is no independent toss beside the others of its image */
        if (w->values->is_binary && w->values->units == NULL) {
            CPS_TRY(add_mcnemar(w, pair, one));
        }
    }
    cps_json_add_bool(object, "seed_variance_known", count > 1);
    return CPS_OK;
}

static cps_status add_sign_flip(const double *differences, int64_t count, cps_json *object) {
    cps_sign_flip_result result;
    if (count > CPS_MOST_SIGNS) {
        return CPS_OK;
    }
    CPS_TRY(cps_sign_flip(differences, count, &result));
    cps_json *flip = cps_json_add_object(object, "sign_flip");
    cps_json_add_number(flip, "p", result.p);
    cps_json_add_number(flip, "smallest_p", result.smallest_p);
    cps_json_add_number(flip, "count", (double)count);
    return CPS_OK;
}

static cps_status remember_test(cps_pending *pending, cps_pending_test test) {
    if (pending->test_count == pending->test_room) {
        const int64_t room = 2 * pending->test_room + 16;
        cps_pending_test *more = realloc(pending->tests, (size_t)room * sizeof *more);
        if (more == NULL) {
            return no_memory();
        }
        pending->tests = more;
        pending->test_room = room;
    }
    pending->tests[pending->test_count++] = test;
    return CPS_OK;
}

static int32_t common_seeds(const cps_compared *compared, int32_t method, int32_t other) {
    int32_t pair[2] = {-1, -1}, count = 0;
    while (next_pair(compared, method, other, pair)) {
        count++;
    }
    return count;
}

static cps_status compare_pair(metric_work *w, int32_t method, int32_t other, bool of_baseline,
                               double *differences, cps_json *object) {
    const cps_compared *compared = w->compared;
    const char *const *names = compared->settings->methods;
    const int32_t count = common_seeds(compared, method, other);
    int32_t pair[2] = {-1, -1};
    cps_bootstrap_result result;
    cps_json_add_string(object, "method", names[method]);
    cps_json_add_string(object, "to", names[other]);
    cps_json_add_string(object, "family", of_baseline ? "baseline" : "best");
    CPS_TRY(add_seed_pairs(w, method, other, differences, object));
    CPS_TRY(add_sign_flip(differences, count, object));
    for (int32_t s = 0; next_pair(compared, method, other, pair); s++) {
        copy_run(w, pair[0], w->own, s);
        copy_run(w, pair[1], w->other, s);
    }
    CPS_TRY(bootstrap(w, count, w->other, compared->settings->bootstrap, &result));
    add_result(object, &result);
    cps_json_add_number(object, "p", result.p);
    return remember_test(w->pending,
                         (cps_pending_test){.object = object,
                                            .of_baseline = of_baseline,
                                            .larger_is_better = w->values->larger_is_better,
                                            .method = method,
                                            .to = other,
                                            .p = result.p,
                                            .adjusted = (double)NAN,
                                            .estimate = result.estimate,
                                            .spread = result.spread});
}

static cps_status add_comparison(metric_work *w, int32_t method, int32_t other, bool of_baseline,
                                 cps_json *array) {
    const int32_t count = common_seeds(w->compared, method, other);
    if (count == 0) {
        const char *const *names = w->compared->settings->methods;
        cps_comparison_warn(w->compared->warnings, "seeds",
                            cps_format("evaluation '%s': methods '%s' and '%s' have no seed in "
                                       "common there, so nothing can be paired",
                                       w->compared->label, names[method], names[other]));
        return CPS_OK;
    }
    double *differences = cps_allocate_zero(count, 1, sizeof *differences);
    if (differences == NULL) {
        return no_memory();
    }
    const cps_status status =
        compare_pair(w, method, other, of_baseline, differences, cps_json_add_object(array, NULL));
    free(differences);
    return status;
}

/* ---- a metric ---- */

static cps_status remember_metric(cps_pending *pending, const cps_pending_metric *metric) {
    if (pending->metric_count == pending->metric_room) {
        const int64_t room = 2 * pending->metric_room + 8;
        cps_pending_metric *more = realloc(pending->metrics, (size_t)room * sizeof *more);
        if (more == NULL) {
            return no_memory();
        }
        pending->metrics = more;
        pending->metric_room = room;
    }
    pending->metrics[pending->metric_count++] = *metric;
    return CPS_OK;
}

/* Estimates of all methods; the best of them, the first of equal ones. */
static cps_status add_methods(metric_work *w, cps_json *array, cps_pending_metric *metric) {
    double best = (double)NAN;
    metric->best = -1;
    for (int32_t m = 0; m < w->compared->settings->method_count; m++) {
        double estimate = (double)NAN;
        if (run_count(w->compared, m) == 0) {
            continue;
        }
        metric->methods[m] = cps_json_add_object(array, NULL);
        CPS_TRY(add_method(w, m, metric->methods[m], &estimate));
        if (metric->best < 0 || (w->values->larger_is_better ? estimate > best : estimate < best)) {
            metric->best = m;
            best = estimate;
        }
    }
    return CPS_OK;
}

static cps_status add_comparisons(metric_work *w, cps_json *array, cps_pending_metric *metric) {
    const int32_t baseline = w->compared->settings->baseline, best = metric->best;
    int64_t there = 0;
    metric->first_test = (int32_t)w->pending->test_count;
    for (int32_t m = 0; m < w->compared->settings->method_count; m++) {
        there += metric->methods[m] != NULL;
        if (m == baseline || metric->methods[m] == NULL || metric->methods[baseline] == NULL) {
            continue;
        }
        CPS_TRY(add_comparison(w, m, baseline, true, array));
    }
    for (int32_t m = 0; m < w->compared->settings->method_count; m++) {
        const bool with_baseline =
            metric->methods[baseline] != NULL && (best == baseline || m == baseline);
        /* pairs with the baseline are there already */
        if (m != best && metric->methods[m] != NULL && !with_baseline) {
            CPS_TRY(add_comparison(w, m, best, false, array));
        }
    }
    metric->test_count = (int32_t)w->pending->test_count - metric->first_test;
    w->pending->pairs += there * (there - 1) / 2;
    return CPS_OK;
}

static cps_status compare_metric(metric_work *w, const char *name, cps_json *object) {
    static const char *const statistics[] = {[CPS_VALUE_MEAN] = "mean",
                                             [CPS_VALUE_CLASS_MEAN] = "class_mean",
                                             [CPS_VALUE_MEDIAN] = "median"};
    cps_pending_metric metric = {0};
    cps_json_add_string(object, "metric", name);
    cps_json_add_bool(object, "larger_is_better", w->values->larger_is_better);
    cps_json_add_bool(object, "is_share", w->values->is_share);
    cps_json_add_string(object, "statistic", statistics[w->values->statistic]);
    cps_json_add_number(object, "values", (double)w->values->rows);
    CPS_TRY(add_methods(w, cps_json_add_array(object, "methods"), &metric));
    CPS_TRY(add_comparisons(w, cps_json_add_array(object, "comparisons"), &metric));
    return remember_metric(w->pending, &metric);
}

cps_status cps_comparison_metric(const cps_compared *compared, const char *metric, cps_json *array,
                                 cps_pending *pending) {
    cps_paired_values values;
    CPS_TRY(cps_paired_values_make(&compared->pairing, metric, &values));
    metric_work w = {.compared = compared, .values = &values, .pending = pending};
    w.own = cps_allocate_zero(compared->run_count, values.rows, sizeof *w.own);
    w.other = cps_allocate_zero(compared->run_count, values.rows, sizeof *w.other);
    const cps_status status = w.own == NULL || w.other == NULL
                                  ? no_memory()
                                  : compare_metric(&w, metric, cps_json_add_object(array, NULL));
    free(w.own);
    free(w.other);
    cps_paired_values_free(&values);
    return cps_fail_context(status, "%s", metric);
}

/* ---- all tests together ---- */

/* Holm over the comparisons to the baseline. What has no p was no test: it is left out. */
static cps_status adjust_baseline(cps_pending *pending, int64_t *count_out) {
    double *p = cps_allocate_zero(pending->test_count, 1, sizeof *p);
    int64_t count = 0;
    if (p == NULL) {
        return no_memory();
    }
    for (int64_t i = 0; i < pending->test_count; i++) {
        if (pending->tests[i].of_baseline && !isnan(pending->tests[i].p)) {
            p[count++] = pending->tests[i].p;
        }
    }
    const cps_status status = cps_holm(p, count, p);
    int64_t at = 0;
    for (int64_t i = 0; i < pending->test_count && status == CPS_OK; i++) {
        if (pending->tests[i].of_baseline && !isnan(pending->tests[i].p)) {
            pending->tests[i].adjusted = p[at++];
        }
    }
    free(p);
    *count_out = count;
    return status;
}

static const char *verdict_of(const cps_pending_test *test, double alpha) {
    if (isnan(test->adjusted)) {
        return "unknown";
    }
    if (!(test->adjusted < alpha)) {
        return "not distinguishable";
    }
    return (test->estimate > 0.0) == test->larger_is_better ? "better" : "worse";
}

/* With the level that the strictest of `tests` at once has. */
static void finish_test(const cps_comparison_settings *settings, cps_pending_test *test,
                        int64_t tests) {
    const double alpha = 1.0 - settings->bootstrap.confidence;
    if (!test->of_baseline && !isnan(test->p)) {
        test->adjusted = fmin(1.0, test->p * (double)tests);
    }
    cps_json_add_number(test->object, "p_adjusted", test->adjusted);
    cps_json_add_string(test->object, "verdict", verdict_of(test, alpha));
    cps_json_add_number(test->object, "detectable",
                        cps_spread_detectable(&test->spread, alpha / (double)cps_max_i64(tests, 1),
                                              settings->power));
}

/* Tied: the pair of this method and the best is not distinguishable. */
static void mark_best(const cps_pending *pending, const cps_pending_metric *metric, double alpha) {
    for (int32_t m = 0; m < CPS_MOST_METHODS; m++) {
        bool tied = false;
        for (int32_t t = 0; t < metric->test_count; t++) {
            const cps_pending_test *test = &pending->tests[metric->first_test + t];
            const bool pair = (test->method == m && test->to == metric->best) ||
                              (test->to == m && test->method == metric->best);
            tied = tied || (pair && !(test->adjusted < alpha));
        }
        if (metric->methods[m] != NULL) {
            cps_json_add_bool(metric->methods[m], "best", m == metric->best);
            cps_json_add_bool(metric->methods[m], "tied", m != metric->best && tied);
        }
    }
}

cps_status cps_comparison_settle(const cps_comparison_settings *settings, cps_pending *pending,
                                 cps_json *result) {
    int64_t to_baseline = 0;
    CPS_TRY(adjust_baseline(pending, &to_baseline));
    for (int64_t i = 0; i < pending->test_count; i++) {
        cps_pending_test *test = &pending->tests[i];
        finish_test(settings, test, test->of_baseline ? to_baseline : pending->pairs);
    }
    for (int64_t i = 0; i < pending->metric_count; i++) {
        mark_best(pending, &pending->metrics[i], 1.0 - settings->bootstrap.confidence);
    }
    cps_json *tests = cps_json_add_object(result, "tests");
    cps_json_add_number(tests, "baseline", (double)to_baseline);
    cps_json_add_number(tests, "pairs", (double)pending->pairs);
    return CPS_OK;
}
