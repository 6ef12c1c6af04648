/* The course of a comparison: request -> files -> pairs -> metrics -> adjusted tests. */
#include "report/comparison.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "report/comparison_internal.h"

/* ---- the request ---- */

static cps_status bad_request(const char *what) {
    return cps_fail(CPS_ERR_USAGE, "a comparison cannot be made: %s", what);
}

static int32_t method_of(const cps_comparison_settings *settings, const char *name) {
    for (int32_t m = 0; name != NULL && m < settings->method_count; m++) {
        if (strcmp(settings->methods[m], name) == 0) {
            return m;
        }
    }
    return -1;
}

static cps_status read_settings(const cps_json *request, cps_comparison_settings *settings) {
    const cps_json *given = cps_json_get(request, "settings");
    const cps_json *methods = cps_json_get(request, "methods");
    const cps_bootstrap_options usual = CPS_BOOTSTRAP_DEFAULTS;
    const char *bootstrap = cps_json_get_string(given, "bootstrap", "bca");
    if (cps_json_count(methods) < 1 || cps_json_count(methods) > CPS_MOST_METHODS) {
        return cps_fail(CPS_ERR_USAGE, "%lld methods to compare, 1 .. %d are possible",
                        (long long)cps_json_count(methods), CPS_MOST_METHODS);
    }
    for (const cps_json *at = cps_json_first(methods); at != NULL; at = cps_json_next(at)) {
        if (cps_json_string(at) == NULL || method_of(settings, cps_json_string(at)) >= 0) {
            return bad_request("a method without a name, or twice");
        }
        settings->methods[settings->method_count++] = cps_json_string(at);
    }
    settings->baseline = method_of(settings, cps_json_get_string(request, "baseline", NULL));
    if (settings->baseline < 0) {
        return bad_request("the baseline is none of the methods");
    }
    settings->power = cps_json_get_number(given, "power", 0.8);
    settings->bootstrap = (cps_bootstrap_options){
        .method =
            strcmp(bootstrap, "percentile") == 0 ? CPS_BOOTSTRAP_PERCENTILE : CPS_BOOTSTRAP_BCA,
        .resamples = (int32_t)cps_json_get_integer(given, "resamples", usual.resamples),
        .confidence = cps_json_get_number(given, "confidence", usual.confidence),
        .seed = (uint64_t)cps_json_get_integer(given, "seed", (int64_t)usual.seed)};
    if (strcmp(bootstrap, cps_bootstrap_methods[settings->bootstrap.method]) != 0) {
        return cps_fail(CPS_ERR_USAGE, "bootstrap is '%s', 'bca' or 'percentile' is wanted",
                        bootstrap);
    }
    return cps_confidence_check(settings->bootstrap.confidence);
}

/* ---- an evaluation's files ---- */

typedef struct wanted_file {
    cps_compared_run run;
    const char *path;
} wanted_file;

static int by_method_and_seed(const void *a, const void *b) {
    const cps_compared_run *left = &((const wanted_file *)a)->run;
    const cps_compared_run *right = &((const wanted_file *)b)->run;
    if (left->method != right->method) {
        return left->method < right->method ? -1 : 1;
    }
    return (left->seed > right->seed) - (left->seed < right->seed);
}

static cps_status read_wanted(const cps_comparison_settings *settings, const cps_json *files,
                              wanted_file *wanted) {
    int64_t i = 0;
    for (const cps_json *at = cps_json_first(files); at != NULL; at = cps_json_next(at), i++) {
        wanted[i].path = cps_json_get_string(at, "path", NULL);
        wanted[i].run = (cps_compared_run){
            .run = cps_json_get_string(at, "run", NULL),
            .method = method_of(settings, cps_json_get_string(at, "method", NULL)),
            .seed = cps_json_get_integer(at, "seed", 0)};
        if (wanted[i].path == NULL || wanted[i].run.run == NULL || wanted[i].run.method < 0) {
            return bad_request("a file without path, run or known method");
        }
    }
    qsort(wanted, (size_t)i, sizeof *wanted, by_method_and_seed);
    for (int64_t k = 1; k < i; k++) {
        if (by_method_and_seed(&wanted[k - 1], &wanted[k]) == 0) {
            return cps_fail(CPS_ERR_USAGE,
                            "runs '%s' and '%s' are both of method '%s' with seed %" PRId64
                            ": a method has a seed once",
                            wanted[k - 1].run.run, wanted[k].run.run,
                            settings->methods[wanted[k].run.method], wanted[k].run.seed);
        }
    }
    return CPS_OK;
}

static cps_status read_files(cps_compared *compared, const wanted_file *wanted) {
    int32_t method = 0;
    for (int32_t i = 0; i < compared->run_count; i++) {
        compared->runs[i] = wanted[i].run;
        while (method <= wanted[i].run.method) {
            compared->first[method++] = i;
        }
        CPS_TRY(cps_prediction_file_read(wanted[i].path, &compared->files[i]));
        if (strcmp(compared->files[i].evaluation, compared->name) != 0) {
            return cps_fail(CPS_ERR_DATA, "'%s' is of evaluation '%s', '%s' is wanted",
                            wanted[i].path, compared->files[i].evaluation, compared->name);
        }
    }
    while (method <= compared->settings->method_count) {
        compared->first[method++] = compared->run_count;
    }
    return CPS_OK;
}

static cps_status open_evaluation(const cps_comparison_settings *settings,
                                  const cps_json *evaluation, cps_compared *compared) {
    const cps_json *files = cps_json_get(evaluation, "files");
    const int64_t count = cps_json_count(files);
    *compared =
        (cps_compared){.settings = settings, .name = cps_json_get_string(evaluation, "name", NULL)};
    compared->label = cps_json_get_string(evaluation, "label", compared->name);
    if (compared->name == NULL || count < 1 || count > CPS_MOST_RUNS) {
        return bad_request("an evaluation without name or files, or too many of them");
    }
    wanted_file *wanted = cps_allocate_zero(count, 1, sizeof *wanted);
    compared->runs = cps_allocate_zero(count, 1, sizeof *compared->runs);
    compared->files = cps_allocate_zero(count, 1, sizeof *compared->files);
    compared->run_count = (int32_t)count;
    cps_status status =
        wanted == NULL || compared->runs == NULL || compared->files == NULL
            ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld runs", (long long)count)
            : CPS_OK;
    status = status != CPS_OK ? status : read_wanted(settings, files, wanted);
    status = status != CPS_OK ? status : read_files(compared, wanted);
    free(wanted);
    return status != CPS_OK
               ? status
               : cps_pairing_make(compared->files, compared->run_count, &compared->pairing);
}

static void close_evaluation(cps_compared *compared) {
    cps_pairing_free(&compared->pairing);
    for (int32_t i = 0; compared->files != NULL && i < compared->run_count; i++) {
        cps_prediction_file_free(&compared->files[i]);
    }
    free(compared->files);
    free(compared->runs);
}

/* ---- what is said of it ---- */

void cps_comparison_warn(cps_json *warnings, const char *kind, char *text) {
    cps_json *warning = cps_json_add_object(warnings, NULL);
    cps_json_add_string(warning, "kind", kind);
    cps_json_add_string(warning, "text", text);
    free(text);
}

static const char *or_none(const char *text) {
    return text == NULL ? "none" : text;
}

static bool same_templates(const cps_prediction_file *a, const cps_prediction_file *b) {
    bool same = a->template_count == b->template_count;
    for (int64_t i = 0; same && i < a->template_count; i++) {
        same = strcmp(a->templates[i], b->templates[i]) == 0;
    }
    return same;
}

/* How class vectors were made may differ on purpose: named, not refused. */
static void warn_of_settings(const cps_compared *compared, cps_json *warnings) {
    const cps_prediction_file *first = &compared->files[0];
    for (int32_t i = 1; i < compared->run_count; i++) {
        const cps_prediction_file *file = &compared->files[i];
        const bool texts = strcmp(or_none(first->text), or_none(file->text)) == 0 &&
                           strcmp(or_none(first->averaging), or_none(file->averaging)) == 0;
        if (!texts || !same_templates(first, file)) {
            cps_comparison_warn(
                warnings, "evaluation",
                cps_format("evaluation '%s': class texts differ between runs '%s' (%s, %s, %lld "
                           "templates) and '%s' (%s, %s, %lld templates%s)",
                           compared->label, compared->runs[0].run, or_none(first->text),
                           or_none(first->averaging), (long long)first->template_count,
                           compared->runs[i].run, or_none(file->text), or_none(file->averaging),
                           (long long)file->template_count,
                           first->template_count == file->template_count ? ", other ones" : ""));
            return;
        }
    }
}

static void warn_of_pairs(const cps_compared *compared, cps_json *warnings) {
    const cps_pairing *pairing = &compared->pairing;
    if (pairing->unpaired > 0) {
        cps_comparison_warn(
            warnings, "unpaired",
            cps_format("evaluation '%s': %lld samples are in all runs; run '%s' has %lld that "
                       "another run lacks (pictures that could not be read?), they are left out",
                       compared->label, (long long)pairing->samples,
                       compared->runs[pairing->unpaired_file].run, (long long)pairing->unpaired));
    }
}

static void add_digest(const cps_compared *compared, cps_prediction_digest digest, const char *key,
                       cps_json *object) {
    const char *text = compared->files[0].digests[digest];
    if (text != NULL) {
        cps_json_add_string(object, key, text);
    }
}

static void add_facts(const cps_compared *compared, cps_json *object) {
    const cps_prediction_file *file = &compared->files[0];
    const cps_pairing *pairing = &compared->pairing;
    int64_t unlabelled = 0;
    cps_json_add_string(object, "name", compared->label);
    cps_json_add_string(object, "kind", file->kind);
    cps_json_add_number(object, "samples", (double)pairing->samples);
    cps_json_add_number(object, "unpaired", (double)pairing->unpaired);
    for (int64_t i = 0; i < pairing->samples && file->labels != NULL; i++) {
        unlabelled += file->labels[pairing->rows[i]] < 0;
    }
    cps_json_add_number(object, "unlabelled", (double)unlabelled);
    add_digest(compared, CPS_DIGEST_DATA, "data_digest", object);
    add_digest(compared, CPS_DIGEST_PREPROCESSING, "preprocessing_digest", object);
    add_digest(compared, CPS_DIGEST_CLASSES, "class_list_digest", object);
    cps_json *names = cps_json_add_array(object, "class_names");
    for (int64_t c = 0; c < file->class_count; c++) {
        cps_json_add_string(names, NULL, file->class_names[c]);
    }
    cps_json *steps = cps_json_add_array(object, "steps");
    for (int32_t i = 0; i < compared->run_count; i++) {
        cps_json *step = cps_json_add_object(steps, NULL);
        cps_json_add_string(step, "run", compared->runs[i].run);
        cps_json_add_number(step, "step", (double)compared->files[i].step);
    }
}

static bool is_offered(char **offers, int64_t count, const cps_pairing *pairing, const char *name) {
    for (int64_t i = 0; i < count; i++) {
        if (strcmp(offers[i], name) == 0) {
            return true;
        }
    }
    cps_paired_values values; /* recall at another k */
    if (strchr(name, '_') == NULL || cps_paired_values_make(pairing, name, &values) != CPS_OK) {
        cps_fail_clear();
        return false;
    }
    cps_paired_values_free(&values);
    return true;
}

static cps_status add_metrics(const cps_compared *compared, const cps_json *wanted,
                              cps_json *object, cps_pending *pending) {
    char **offers = NULL;
    int64_t count = 0;
    CPS_TRY(cps_paired_metrics(&compared->pairing, &offers, &count));
    cps_json *metrics = cps_json_add_array(object, "metrics");
    cps_json *names = cps_json_add_array(object, "offers");
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < count; i++) {
        cps_json_add_string(names, NULL, offers[i]);
    }
    if (wanted == NULL && count > 0) {
        status = cps_comparison_metric(compared, offers[0], metrics, pending);
    }
    for (const cps_json *at = cps_json_first(wanted); at != NULL && status == CPS_OK;
         at = cps_json_next(at)) {
        const char *name = cps_json_string(at);
        if (name != NULL && is_offered(offers, count, &compared->pairing, name)) {
            status = cps_comparison_metric(compared, name, metrics, pending);
        }
    }
    cps_strings_destroy(offers, count);
    return status;
}

static cps_status compare_evaluation(const cps_comparison_settings *settings,
                                     const cps_json *evaluation, cps_json *evaluations,
                                     cps_json *warnings, cps_pending *pending) {
    cps_compared compared;
    cps_status status = open_evaluation(settings, evaluation, &compared);
    if (status == CPS_OK) {
        cps_json *object = cps_json_add_object(evaluations, NULL);
        compared.warnings = warnings;
        add_facts(&compared, object);
        warn_of_pairs(&compared, warnings);
        warn_of_settings(&compared, warnings);
        status = add_metrics(&compared, cps_json_get(evaluation, "metrics"), object, pending);
        status = status != CPS_OK ? status : cps_comparison_samples(&compared, object);
    }
    status =
        cps_fail_context(status, "evaluation '%s'", compared.label == NULL ? "" : compared.label);
    close_evaluation(&compared);
    return status;
}

/* ---- several data sets ---- */

/* Estimate of a method on a metric of an evaluation; NaN: not there. */
static double estimate_of(const cps_json *evaluation, const char *metric, const char *method,
                          bool *larger_out) {
    const cps_json *metrics = cps_json_get(evaluation, "metrics");
    for (const cps_json *at = cps_json_first(metrics); at != NULL; at = cps_json_next(at)) {
        if (strcmp(cps_json_get_string(at, "metric", ""), metric) != 0) {
            continue;
        }
        *larger_out = cps_json_get_bool(at, "larger_is_better", true);
        const cps_json *methods = cps_json_get(at, "methods");
        for (const cps_json *m = cps_json_first(methods); m != NULL; m = cps_json_next(m)) {
            if (strcmp(cps_json_get_string(m, "method", ""), method) == 0) {
                return cps_json_get_number(m, "estimate", (double)NAN);
            }
        }
    }
    return (double)NAN;
}

/* scores [blocks, methods] of the evaluations in which all methods have the metric; their names go
 * to `names`. */
static int64_t collect_blocks(const cps_comparison_settings *settings, const cps_json *evaluations,
                              const char *metric, double *scores, cps_json *names,
                              bool *larger_out) {
    int64_t blocks = 0;
    for (const cps_json *at = cps_json_first(evaluations); at != NULL; at = cps_json_next(at)) {
        bool whole = true;
        double *row = scores + blocks * settings->method_count;
        for (int32_t m = 0; m < settings->method_count; m++) {
            row[m] = estimate_of(at, metric, settings->methods[m], larger_out);
            whole = whole && !isnan(row[m]);
        }
        if (whole) {
            cps_json_add_string(names, NULL, cps_json_get_string(at, "name", ""));
            blocks++;
        }
    }
    return blocks;
}

static cps_status add_friedman(const cps_comparison_settings *settings, const cps_json *evaluations,
                               const char *metric, cps_json *array) {
    enum { LEAST_BLOCKS = 3 };
    double ranks[CPS_MOST_METHODS];
    bool larger = true;
    cps_friedman_result result;
    double *scores =
        cps_allocate_zero(cps_json_count(evaluations) + 1, settings->method_count, sizeof *scores);
    if (scores == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the Friedman test");
    }
    cps_json *object = cps_json_new_object();
    cps_json_add_string(object, "metric", metric);
    const int64_t blocks = collect_blocks(settings, evaluations, metric, scores,
                                          cps_json_add_array(object, "evaluations"), &larger);
    cps_status status = CPS_OK;
    if (blocks >= LEAST_BLOCKS && settings->method_count > 1) {
        status = cps_friedman(scores, blocks, settings->method_count, larger, &result, ranks);
        if (status == CPS_OK) {
            cps_json_add_number(object, "chi2", result.chi2);
            cps_json_add_number(object, "p", result.p);
            cps_json *list = cps_json_add_array(object, "ranks");
            for (int32_t m = 0; m < settings->method_count; m++) {
                cps_json *rank = cps_json_add_object(list, NULL);
                cps_json_add_string(rank, "method", settings->methods[m]);
                cps_json_add_number(rank, "rank", ranks[m]);
            }
            cps_json_add_copy(array, NULL, object);
        }
    }
    cps_json_destroy(object);
    free(scores);
    return status;
}

static bool is_there(const cps_json *array, const char *metric) {
    for (const cps_json *at = cps_json_first(array); at != NULL; at = cps_json_next(at)) {
        if (strcmp(cps_json_string(at), metric) == 0) {
            return true;
        }
    }
    return false;
}

static cps_status compare_data_sets(const cps_comparison_settings *settings,
                                    const cps_json *evaluations, cps_json *result) {
    cps_json *friedman = cps_json_add_array(result, "friedman");
    cps_json *seen = cps_json_new_array();
    cps_status status = CPS_OK;
    for (const cps_json *e = cps_json_first(evaluations); e != NULL; e = cps_json_next(e)) {
        const cps_json *metrics = cps_json_get(e, "metrics");
        for (const cps_json *at = cps_json_first(metrics); at != NULL && status == CPS_OK;
             at = cps_json_next(at)) {
            const char *metric = cps_json_get_string(at, "metric", "");
            if (!is_there(seen, metric)) {
                cps_json_add_string(seen, NULL, metric);
                status = add_friedman(settings, evaluations, metric, friedman);
            }
        }
    }
    cps_json_destroy(seen);
    return status;
}

/* ---- the door ---- */

static cps_status compare(const cps_json *request, cps_json *result, cps_pending *pending) {
    cps_comparison_settings settings = {0};
    const cps_json *evaluations = cps_json_get(request, "evaluations");
    CPS_TRY(read_settings(request, &settings));
    if (cps_json_count(evaluations) < 1) {
        return bad_request("no evaluation is named");
    }
    cps_json *list = cps_json_add_array(result, "evaluations");
    cps_json *warnings = cps_json_add_array(result, "warnings");
    for (const cps_json *at = cps_json_first(evaluations); at != NULL; at = cps_json_next(at)) {
        CPS_TRY(compare_evaluation(&settings, at, list, warnings, pending));
    }
    CPS_TRY(cps_comparison_settle(&settings, pending, result));
    return compare_data_sets(&settings, list, result);
}

cps_status cps_comparison(const cps_json *request, cps_json **result_out) {
    cps_pending pending = {0};
    cps_json *result = cps_json_new_object();
    const cps_status status = compare(request, result, &pending);
    free(pending.tests);
    free(pending.metrics);
    if (status != CPS_OK) {
        cps_json_destroy(result);
        return status;
    }
    *result_out = result;
    return CPS_OK;
}

void cps_comparison_add_interval(cps_json *object, const char *key, cps_interval interval) {
    cps_json *array = cps_json_add_array(object, key);
    cps_json_add_number(array, NULL, interval.low);
    cps_json_add_number(array, NULL, interval.high);
}
