/* What each file says of each paired sample, by metric. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "report/paired_predictions.h"
#include "shards/taxon.h"

enum { TOP_5 = 5 };

/* Value of a sample in a file; `text`: a number of a text, else of a row. */
typedef struct reading {
    const cps_pairing *pairing;
    int64_t k; /* of recall, top, shots; place of the rank of the taxonomy */
    int32_t shot;
} reading;
typedef double (*read_value)(const reading *how, const cps_prediction_file *file, int64_t at);
typedef bool (*has_value)(const reading *how, const cps_prediction_file *file, int64_t at);

static double right_in_top(const reading *how, const cps_prediction_file *file, int64_t row) {
    const int64_t most = cps_min_i64(how->k, file->top);
    for (int64_t place = 0; place < most; place++) {
        if (file->answers[row * file->top + place] == file->labels[row]) {
            return 1.0;
        }
    }
    return 0.0;
}

static double right_at_rank(const reading *how, const cps_prediction_file *file, int64_t row) {
    return file->shared_depth[row] > how->k ? 1.0 : 0.0;
}

static double depth_of(const reading *how, const cps_prediction_file *file, int64_t row) {
    (void)how;
    return (double)file->shared_depth[row];
}

static double image_recall(const reading *how, const cps_prediction_file *file, int64_t row) {
    return file->image_to_text[row] <= how->k ? 1.0 : 0.0;
}

static double text_recall(const reading *how, const cps_prediction_file *file, int64_t text) {
    return file->text_to_image[text] <= how->k ? 1.0 : 0.0;
}

static double image_rank(const reading *how, const cps_prediction_file *file, int64_t row) {
    (void)how;
    return (double)file->image_to_text[row];
}

static double text_rank(const reading *how, const cps_prediction_file *file, int64_t text) {
    (void)how;
    return (double)file->text_to_image[text];
}

static bool has_label(const reading *how, const cps_prediction_file *file, int64_t row) {
    (void)how;
    return file->labels[row] >= 0;
}

static bool has_depth(const reading *how, const cps_prediction_file *file, int64_t row) {
    (void)how;
    return file->shared_depth[row] >= 0;
}

static bool has_text(const reading *how, const cps_prediction_file *file, int64_t row) {
    (void)how;
    return file->image_to_text[row] > 0;
}

/* ---- which metric is what ---- */

typedef struct metric_plan {
    reading how;
    read_value value;
    has_value defined; /* NULL: always */
    cps_value_statistic statistic;
    bool of_texts, of_shots, is_rank, is_depth;
} metric_plan;

/* Number behind `front` of "<front>10"; 0: another name. */
static int64_t number_behind(const char *name, const char *front) {
    const size_t length = strlen(front);
    char *end = NULL;
    if (strncmp(name, front, length) != 0 || name[length] < '1' || name[length] > '9') {
        return 0;
    }
    const long long number = strtoll(name + length, &end, 10);
    return *end == '\0' && number <= INT32_MAX ? number : 0;
}

static bool plan_classification(const cps_prediction_file *file, const char *name,
                                metric_plan *plan) {
    const int64_t top = number_behind(name, "top");
    const char *rank = strncmp(name, "rank_", 5) == 0 ? name + 5 : "";
    plan->value = right_in_top;
    plan->defined = has_label;
    plan->how.k = top;
    if (file->answers == NULL) {
        return false;
    }
    if (top == 1 ||
        (top > 0 &&
         top <= cps_max_i64(file->top, file->class_count == file->top ? TOP_5 : file->top))) {
        return true;
    }
    if (strcmp(name, "per_class") == 0) {
        plan->how.k = 1;
        plan->statistic = CPS_VALUE_CLASS_MEAN;
        return true;
    }
    plan->defined = has_depth;
    if (strcmp(name, "shared_depth") == 0) {
        plan->value = depth_of;
        plan->is_depth = true;
        return file->shared_depth != NULL;
    }
    plan->value = right_at_rank;
    plan->how.k = cps_taxon_rank(rank);
    return file->shared_depth != NULL && plan->how.k >= 0;
}

static bool plan_shots(const cps_prediction_file *file, const char *name, metric_plan *plan) {
    const int64_t k = number_behind(name, "shot");
    plan->of_shots = true;
    for (int32_t i = 0; i < file->shot_count; i++) {
        if (file->shots[i].k == k) {
            plan->how.shot = i;
            return true;
        }
    }
    return false;
}

static bool plan_retrieval(const cps_prediction_file *file, const char *name, metric_plan *plan) {
    static const char to_text[] = "image_to_text_", to_image[] = "text_to_image_";
    const bool texts = strncmp(name, to_image, sizeof to_image - 1) == 0;
    if (file->image_to_text == NULL ||
        (!texts && strncmp(name, to_text, sizeof to_text - 1) != 0)) {
        return false;
    }
    const char *what = name + sizeof to_text - 1; /* both are as long */
    plan->of_texts = texts;
    plan->defined = texts ? NULL : has_text;
    plan->how.k = number_behind(what, "r");
    plan->value = texts ? text_recall : image_recall;
    if (plan->how.k > 0) {
        return true;
    }
    plan->is_rank = true;
    plan->value = texts ? text_rank : image_rank;
    plan->statistic = strcmp(what, "median_rank") == 0 ? CPS_VALUE_MEDIAN : CPS_VALUE_MEAN;
    return strcmp(what, "median_rank") == 0 || strcmp(what, "mean_rank") == 0;
}

static bool plan_metric(const cps_pairing *pairing, const char *name, metric_plan *plan) {
    typedef bool (*planner)(const cps_prediction_file *, const char *, metric_plan *);
    static const planner planners[] = {plan_classification, plan_shots, plan_retrieval};
    for (size_t i = 0; i < sizeof planners / sizeof planners[0]; i++) {
        bool offered = true;
        for (int32_t f = 0; f < pairing->file_count && offered; f++) {
            *plan = (metric_plan){.how.pairing = pairing, .statistic = CPS_VALUE_MEAN};
            offered = planners[i](&pairing->files[f], name, plan);
        }
        if (offered) {
            return true;
        }
    }
    return false;
}

/* ---- names ---- */

static const char *const usual_names[] = {"top1",
                                          "per_class",
                                          "top5",
                                          "image_to_text_r1",
                                          "image_to_text_r5",
                                          "image_to_text_r10",
                                          "text_to_image_r1",
                                          "text_to_image_r5",
                                          "text_to_image_r10",
                                          "image_to_text_median_rank",
                                          "image_to_text_mean_rank",
                                          "text_to_image_median_rank",
                                          "text_to_image_mean_rank",
                                          "shared_depth"};
enum { USUAL = sizeof usual_names / sizeof usual_names[0] };

cps_status cps_paired_metrics(const cps_pairing *pairing, char ***names_out, int64_t *count_out) {
    char **names = calloc(USUAL + CPS_TAXON_RANKS + CPS_PREDICTION_SHOTS + 1, sizeof *names);
    int64_t count = 0;
    metric_plan plan;
    if (names == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for names of metrics");
    }
    for (int32_t i = 0; i < pairing->files[0].shot_count; i++) {
        names[count++] = cps_format("shot%lld", (long long)pairing->files[0].shots[i].k);
    }
    for (int32_t i = 0; i < USUAL + CPS_TAXON_RANKS; i++) {
        char *name = i < USUAL ? cps_format("%s", usual_names[i])
                               : cps_format("rank_%s", cps_taxon_rank_names[i - USUAL]);
        if (plan_metric(pairing, name, &plan)) {
            names[count++] = name;
        } else {
            free(name);
        }
    }
    *names_out = names;
    *count_out = count;
    return CPS_OK;
}

/* ---- values ---- */

static cps_status no_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for values of predictions");
}

/* Place of paired sample (or caption) i in file f. */
static int64_t place_of(const cps_pairing *pairing, const metric_plan *plan, int32_t f, int64_t i) {
    return plan->of_texts ? pairing->text_rows[f * pairing->texts + i]
                          : pairing->rows[f * pairing->samples + i];
}

/* Paired samples that the metric is defined for in all files; NULL: memory. */
static int64_t *defined_places(const cps_pairing *pairing, const metric_plan *plan,
                               int64_t *count_out) {
    const int64_t all = plan->of_texts ? pairing->texts : pairing->samples;
    int64_t *places = cps_allocate_zero(all + 1, 1, sizeof *places);
    int64_t count = 0;
    for (int64_t i = 0; places != NULL && i < all; i++) {
        bool defined = true;
        for (int32_t f = 0; f < pairing->file_count && defined && plan->defined != NULL; f++) {
            defined = plan->defined(&plan->how, &pairing->files[f], place_of(pairing, plan, f, i));
        }
        places[count] = i;
        count += defined;
    }
    *count_out = count;
    return places;
}

/* Right answers over folds. A fold's share is of those that it asked, so a right answer counts
 * samples / (folds x asked). */
static cps_status fill_shots(const cps_pairing *pairing, const metric_plan *plan,
                             const int64_t *places, cps_paired_values *values) {
    for (int32_t f = 0; f < pairing->file_count; f++) {
        const cps_prediction_file *file = &pairing->files[f];
        double *to = values->values + f * values->rows;
        for (int64_t fold = 0; fold < file->folds; fold++) {
            const int32_t *answers = file->shots[plan->how.shot].answers + fold * file->rows;
            int64_t asked = 0;
            for (int64_t i = 0; i < values->rows; i++) {
                asked += answers[place_of(pairing, plan, f, places[i])] >= 0;
            }
            if (asked == 0) {
                return cps_fail(CPS_ERR_DATA, "'%s': fold %lld asked none of the paired samples",
                                file->path, (long long)fold);
            }
            const double weight = (double)values->rows / ((double)file->folds * (double)asked);
            for (int64_t i = 0; i < values->rows; i++) {
                const int64_t row = place_of(pairing, plan, f, places[i]);
                to[i] += answers[row] >= 0 && answers[row] == file->labels[row] ? weight : 0.0;
            }
        }
    }
    return CPS_OK;
}

static void fill_plain(const cps_pairing *pairing, const metric_plan *plan, const int64_t *places,
                       cps_paired_values *values) {
    for (int32_t f = 0; f < pairing->file_count; f++) {
        for (int64_t i = 0; i < values->rows; i++) {
            values->values[f * values->rows + i] =
                plan->value(&plan->how, &pairing->files[f], place_of(pairing, plan, f, places[i]));
        }
    }
}

static cps_status add_units(const cps_pairing *pairing, const int64_t *places,
                            cps_paired_values *values) {
    values->units = cps_allocate_zero(values->rows, 1, sizeof *values->units);
    values->unit_count = pairing->samples;
    if (values->units == NULL) {
        return no_memory();
    }
    for (int64_t i = 0; i < values->rows; i++) {
        values->units[i] = pairing->text_samples[places[i]];
    }
    return CPS_OK;
}

static cps_status add_classes(const cps_pairing *pairing, const int64_t *places,
                              cps_paired_values *values) {
    values->classes = cps_allocate_zero(values->rows, 1, sizeof *values->classes);
    values->class_count = pairing->files[0].class_count;
    if (values->classes == NULL) {
        return no_memory();
    }
    for (int64_t i = 0; i < values->rows; i++) {
        values->classes[i] = pairing->files[0].labels[pairing->rows[places[i]]];
    }
    return CPS_OK;
}

static cps_status fill(const cps_pairing *pairing, const metric_plan *plan, const int64_t *places,
                       cps_paired_values *values) {
    values->values = cps_allocate_zero(values->rows, pairing->file_count, sizeof(double));
    if (values->values == NULL) {
        return no_memory();
    }
    if (plan->of_shots) {
        CPS_TRY(fill_shots(pairing, plan, places, values));
    } else {
        fill_plain(pairing, plan, places, values);
    }
    if (plan->of_texts) {
        CPS_TRY(add_units(pairing, places, values));
    }
    return plan->statistic == CPS_VALUE_CLASS_MEAN ? add_classes(pairing, places, values) : CPS_OK;
}

cps_status cps_paired_values_make(const cps_pairing *pairing, const char *metric,
                                  cps_paired_values *values_out) {
    metric_plan plan;
    if (!plan_metric(pairing, metric, &plan)) {
        return cps_fail(CPS_ERR_USAGE, "evaluation '%s' has no values per sample of '%s'",
                        pairing->files[0].evaluation, metric);
    }
    cps_paired_values values = {.statistic = plan.statistic,
                                .larger_is_better = !plan.is_rank,
                                .is_share = !plan.is_rank && !plan.is_depth,
                                .is_binary = !plan.is_rank && !plan.is_depth && !plan.of_shots};
    if (plan.of_shots) {
        plan.defined = has_label;
    }
    int64_t *places = defined_places(pairing, &plan, &values.rows);
    cps_status status = places == NULL ? no_memory() : CPS_OK;
    if (status == CPS_OK && values.rows == 0) {
        status = cps_fail(CPS_ERR_DATA, "no paired sample of evaluation '%s' has what '%s' needs",
                          pairing->files[0].evaluation, metric);
    }
    status = status != CPS_OK ? status : fill(pairing, &plan, places, &values);
    free(places);
    if (status != CPS_OK) {
        cps_paired_values_free(&values);
        return status;
    }
    *values_out = values;
    return CPS_OK;
}

void cps_paired_values_free(cps_paired_values *values) {
    free(values->values);
    free(values->units);
    free(values->classes);
    *values = (cps_paired_values){0};
}
