/* What the files of a comparison share; private to comparison*.c. */
#ifndef CPS_REPORT_COMPARISON_INTERNAL_H
#define CPS_REPORT_COMPARISON_INTERNAL_H

#include "base/json.h"
#include "report/paired_predictions.h"

enum { CPS_MOST_METHODS = 64, CPS_MOST_RUNS = 4096 };

typedef struct cps_comparison_settings {
    cps_bootstrap_options bootstrap;
    double power;
    int32_t method_count, baseline;
    const char *methods[CPS_MOST_METHODS]; /* borrowed from the request */
} cps_comparison_settings;

/* A run's predictions on the evaluation. */
typedef struct cps_compared_run {
    const char *run; /* borrowed */
    int32_t method;
    int64_t seed;
} cps_compared_run;

/* One evaluation: runs stand method after method, seeds ascending within. */
typedef struct cps_compared {
    const cps_comparison_settings *settings;
    const char *name, *label; /* in the files; what it is called where data sets share a name */
    int32_t run_count;
    cps_compared_run *runs;
    cps_prediction_file *files; /* [run_count] */
    cps_pairing pairing;
    cps_json *warnings;                  /* of the result */
    int32_t first[CPS_MOST_METHODS + 1]; /* first run of each method, and the end */
} cps_compared;

/* A test that waits for all others: its p is adjusted when their number is known. */
typedef struct cps_pending_test {
    cps_json *object; /* the comparison in the result */
    bool of_baseline, larger_is_better;
    int32_t method, to;
    double p, estimate, adjusted;
    cps_spread spread;
} cps_pending_test;

/* A metric whose best method is marked at the end. */
typedef struct cps_pending_metric {
    int32_t best; /* -1: none */
    int32_t first_test, test_count;
    cps_json *methods[CPS_MOST_METHODS]; /* NULL: without this evaluation */
} cps_pending_metric;

typedef struct cps_pending {
    int64_t test_count, test_room, metric_count, metric_room, pairs;
    cps_pending_test *tests;
    cps_pending_metric *metrics;
} cps_pending;

/* comparison_metric.c: adds a metric to `array`, its tests to `pending`. */
cps_status cps_comparison_metric(const cps_compared *compared, const char *metric, cps_json *array,
                                 cps_pending *pending) CPS_MUST_CHECK;
/* Adjusts what waits, and marks the best. */
cps_status cps_comparison_settle(const cps_comparison_settings *settings, cps_pending *pending,
                                 cps_json *result) CPS_MUST_CHECK;

/* comparison_samples.c: accuracy per class and rank, confusions, samples on which methods differ,
 * as members of `object`. */
cps_status cps_comparison_samples(const cps_compared *compared, cps_json *object) CPS_MUST_CHECK;

/* Takes `text`. */
void cps_comparison_warn(cps_json *warnings, const char *kind, char *text);
/* [low, high]; ends that are not numbers become null. */
void cps_comparison_add_interval(cps_json *object, const char *key, cps_interval interval);

#endif
