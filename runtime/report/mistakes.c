/* What one run got wrong. See mistakes.h. */
#include "report/mistakes.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/numeric.h"
#include "report/prediction_file.h"
#include "report/statistics.h"

enum { MOST_CLASSES = 1000, MOST_CONFUSIONS = 40 };
static const double confidence = 0.95;

static cps_status no_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a list of mistakes");
}

/* The answer to a row; -1: none, or the row has no label. */
static int32_t answer_of(const cps_prediction_file *file, int64_t row) {
    return file->labels[row] >= 0 ? file->answers[row * file->top] : -1;
}

/* ---- classes ---- */

typedef struct class_count {
    int64_t class, samples, right;
} class_count;

static int by_samples(const void *a, const void *b) {
    const class_count *left = a, *right = b;
    if (left->samples != right->samples) {
        return left->samples < right->samples ? 1 : -1;
    }
    return (left->class > right->class) - (left->class < right->class);
}

static int by_class(const void *a, const void *b) {
    const class_count *left = a, *right = b;
    return (left->class > right->class) - (left->class < right->class);
}

static cps_status write_class(const cps_prediction_file *file, const class_count *count,
                              cps_json *array) {
    cps_interval interval;
    CPS_TRY(cps_wilson(count->right, count->samples, confidence, &interval));
    cps_json *object = cps_json_add_object(array, NULL);
    cps_json_add_number(object, "class", (double)count->class);
    cps_json_add_string(object, "name", file->class_names[count->class]);
    cps_json_add_number(object, "samples", (double)count->samples);
    cps_json_add_number(object, "right", (double)count->right);
    cps_json_add_number(object, "low", interval.low);
    cps_json_add_number(object, "high", interval.high);
    return CPS_OK;
}

/* counts: [classes], sorted in place; those with samples come first. */
static cps_status write_classes(const cps_prediction_file *file, class_count *counts,
                                cps_json *result) {
    cps_json *array = cps_json_add_array(result, "classes");
    qsort(counts, (size_t)file->class_count, sizeof *counts, by_samples);
    int64_t used = 0;
    while (used < file->class_count && counts[used].samples > 0) {
        used++;
    }
    const int64_t shown = cps_min_i64(used, MOST_CLASSES);
    cps_json_add_number(result, "left_out", (double)(used - shown));
    qsort(counts, (size_t)shown, sizeof *counts, by_class);
    for (int64_t i = 0; i < shown; i++) {
        CPS_TRY(write_class(file, &counts[i], array));
    }
    return CPS_OK;
}

static cps_status count_classes(const cps_prediction_file *file, class_count **counts_out) {
    class_count *counts = cps_allocate_zero(file->class_count, 1, sizeof *counts);
    if (counts == NULL) {
        return no_memory();
    }
    for (int64_t i = 0; i < file->class_count; i++) {
        counts[i].class = i;
    }
    for (int64_t row = 0; row < file->rows; row++) {
        const int32_t label = file->labels[row];
        if (label >= 0) {
            counts[label].samples++;
            counts[label].right += answer_of(file, row) == label;
        }
    }
    *counts_out = counts;
    return CPS_OK;
}

/* ---- confusions ---- */

typedef struct confusion {
    int32_t label, answer;
    int64_t count;
} confusion;

static int by_pair(const void *a, const void *b) {
    const confusion *left = a, *right = b;
    if (left->label != right->label) {
        return left->label < right->label ? -1 : 1;
    }
    return (left->answer > right->answer) - (left->answer < right->answer);
}

static int by_count(const void *a, const void *b) {
    const confusion *left = a, *right = b;
    if (left->count != right->count) {
        return left->count < right->count ? 1 : -1;
    }
    return by_pair(a, b);
}

/* The wrong answers as pairs, equal ones joined; returns how many differ. */
static int64_t collect_confusions(const cps_prediction_file *file, confusion *pairs) {
    int64_t wrong = 0, different = 0;
    for (int64_t row = 0; row < file->rows; row++) {
        const int32_t answer = answer_of(file, row);
        if (answer >= 0 && answer != file->labels[row]) {
            pairs[wrong++] = (confusion){file->labels[row], answer, 1};
        }
    }
    qsort(pairs, (size_t)wrong, sizeof *pairs, by_pair);
    for (int64_t i = 0; i < wrong; i++) {
        if (different > 0 && by_pair(&pairs[different - 1], &pairs[i]) == 0) {
            pairs[different - 1].count++;
        } else {
            pairs[different++] = pairs[i];
        }
    }
    qsort(pairs, (size_t)different, sizeof *pairs, by_count);
    return different;
}

/* counts: by class, as count_classes left them. */
static cps_status write_confusions(const cps_prediction_file *file, const class_count *counts,
                                   cps_json *result) {
    confusion *pairs = cps_allocate_zero(file->rows, 1, sizeof *pairs);
    if (pairs == NULL) {
        return no_memory();
    }
    const int64_t shown = cps_min_i64(collect_confusions(file, pairs), MOST_CONFUSIONS);
    cps_json *array = cps_json_add_array(result, "confusions");
    for (int64_t i = 0; i < shown; i++) {
        cps_json *object = cps_json_add_object(array, NULL);
        cps_json_add_string(object, "label_name", file->class_names[pairs[i].label]);
        cps_json_add_string(object, "answer_name", file->class_names[pairs[i].answer]);
        cps_json_add_number(object, "count", (double)pairs[i].count);
        cps_json_add_number(object, "samples", (double)counts[pairs[i].label].samples);
    }
    free(pairs);
    return CPS_OK;
}

/* ---- samples ---- */

typedef struct ranked_row {
    int64_t row;
    double weight; /* greatest first */
} ranked_row;

static int by_weight(const void *a, const void *b) {
    const ranked_row *left = a, *right = b;
    if (left->weight != right->weight) {
        return left->weight < right->weight ? 1 : -1;
    }
    return (left->row > right->row) - (left->row < right->row);
}

/* How far the answer's score lies above that of the right class; NaN: the answer is right, or there
 * are no scores. */
static double margin_of(const cps_prediction_file *file, int64_t row) {
    const int32_t answer = answer_of(file, row);
    if (answer < 0 || answer == file->labels[row] || file->scores == NULL) {
        return NAN;
    }
    const int32_t *answers = file->answers + row * file->top;
    const double *scores = file->scores + row * file->top;
    int64_t last = 0;
    while (last + 1 < file->top && answers[last + 1] >= 0 && answers[last] != file->labels[row]) {
        last++;
    }
    return scores[0] - scores[last];
}

/* What makes a sample worth a look; NaN: nothing does. */
static double weight_of(const cps_prediction_file *file, int64_t row) {
    if (file->answers != NULL) {
        return margin_of(file, row);
    }
    return file->image_to_text[row] > 1 ? (double)file->image_to_text[row] : (double)NAN;
}

static void write_sample(const cps_prediction_file *file, const ranked_row *sample,
                         cps_json *array) {
    const int64_t row = sample->row;
    char id[17];
    snprintf(id, sizeof id, "%016" PRIx64, file->sample_ids[row]);
    cps_json *object = cps_json_add_object(array, NULL);
    cps_json_add_string(object, "sample_id", id);
    if (file->records != NULL) {
        cps_json_add_string(object, "shard", file->shard_names[file->shards[row]]);
        cps_json_add_number(object, "record", (double)file->records[row]);
    }
    if (file->answers != NULL) {
        cps_json_add_string(object, "label_name", file->class_names[file->labels[row]]);
        cps_json_add_string(object, "answer_name", file->class_names[answer_of(file, row)]);
        cps_json_add_number(object, "margin", sample->weight);
    } else {
        cps_json_add_number(object, "rank", sample->weight);
    }
}

static cps_status write_samples(const cps_prediction_file *file, int64_t most, cps_json *result) {
    ranked_row *rows = cps_allocate_zero(file->rows, 1, sizeof *rows);
    if (rows == NULL) {
        return no_memory();
    }
    int64_t count = 0;
    for (int64_t row = 0; row < file->rows; row++) {
        const double weight = weight_of(file, row);
        if (isfinite(weight)) {
            rows[count++] = (ranked_row){row, weight};
        }
    }
    qsort(rows, (size_t)count, sizeof *rows, by_weight);
    cps_json *array = cps_json_add_array(result, "wrong");
    for (int64_t i = 0; i < cps_min_i64(count, most); i++) {
        write_sample(file, &rows[i], array);
    }
    free(rows);
    return CPS_OK;
}

/* ---- all ---- */

static cps_status write_answers(const cps_prediction_file *file, cps_json *result) {
    class_count *counts = NULL;
    CPS_TRY(count_classes(file, &counts));
    cps_status status = write_confusions(file, counts, result);
    if (status == CPS_OK) {
        status = write_classes(file, counts, result); /* sorts the counts */
    }
    free(counts);
    return status;
}

static cps_status write_all(const cps_prediction_file *file, int64_t most, cps_json *result) {
    cps_json_add_string(result, "evaluation", file->evaluation);
    cps_json_add_string(result, "kind", file->kind);
    cps_json_add_number(result, "step", (double)file->step);
    cps_json_add_number(result, "samples", (double)file->rows);
    if (file->answers != NULL) {
        CPS_TRY(write_answers(file, result));
    }
    return file->answers != NULL || file->image_to_text != NULL ? write_samples(file, most, result)
                                                                : CPS_OK;
}

cps_status cps_mistakes(const char *path, int64_t most, cps_json **result_out) {
    cps_prediction_file file;
    CPS_TRY(cps_prediction_file_read(path, &file));
    cps_json *result = cps_json_new_object();
    const cps_status status = write_all(&file, most, result);
    cps_prediction_file_free(&file);
    if (status != CPS_OK) {
        cps_json_destroy(result);
        return status;
    }
    *result_out = result;
    return CPS_OK;
}
