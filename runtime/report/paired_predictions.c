/* Which sample of one file is which of another. Values by metric are in paired_values.c. */
#include "report/paired_predictions.h"

#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"

static cps_status no_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory to pair predictions");
}

/* ---- what must be equal ---- */

typedef struct wanted_equal {
    cps_prediction_digest digest;
    const char *what, *advice;
} wanted_equal;

static const wanted_equal equals[] = {
    {CPS_DIGEST_DATA, "evaluation sets",
     "evaluate both on the same shards with the same selection ('copse eval')"},
    {CPS_DIGEST_PREPROCESSING, "preprocessing of images",
     "evaluate both with the same size, mean, std and interpolation"},
    {CPS_DIGEST_CLASSES, "class lists", "evaluate both on shards of one class list"},
    {CPS_DIGEST_BANK, "banks of neighbours", "evaluate both with the same bank"},
};

static cps_status check_digests(const cps_prediction_file *a, const cps_prediction_file *b) {
    for (size_t i = 0; i < sizeof equals / sizeof equals[0]; i++) {
        const char *left = a->digests[equals[i].digest], *right = b->digests[equals[i].digest];
        left = left == NULL ? "none" : left;
        right = right == NULL ? "none" : right;
        if (strcmp(left, right) != 0) {
            return cps_fail(CPS_ERR_DATA,
                            "the %s of '%s' and '%s' differ (digests %s and %s), so their numbers "
                            "cannot be compared: %s, or leave one of them out",
                            equals[i].what, a->path, b->path, left, right, equals[i].advice);
        }
    }
    return CPS_OK;
}

static cps_status check_kinds(const cps_prediction_file *a, const cps_prediction_file *b) {
    if (strcmp(a->kind, b->kind) != 0 || a->folds != b->folds || a->shot_count != b->shot_count) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is of kind %s with %lld folds, '%s' of kind %s with %lld: "
                        "evaluations that differ cannot be compared",
                        a->path, a->kind, (long long)a->folds, b->path, b->kind,
                        (long long)b->folds);
    }
    /* Digests come from the files: equal ones do not prove it. */
    if (a->class_count != b->class_count || (a->answers == NULL) != (b->answers == NULL) ||
        (a->labels == NULL) != (b->labels == NULL) ||
        (a->image_to_text == NULL) != (b->image_to_text == NULL)) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' has %lld classes, '%s' %lld, or one of them lacks labels or ranks: "
                        "one of the files is damaged",
                        a->path, (long long)a->class_count, b->path, (long long)b->class_count);
    }
    for (int32_t i = 0; i < a->shot_count; i++) {
        if (a->shots[i].k != b->shots[i].k) {
            return cps_fail(CPS_ERR_DATA, "'%s' and '%s' have other numbers of shots (%lld, %lld)",
                            a->path, b->path, (long long)a->shots[i].k, (long long)b->shots[i].k);
        }
    }
    return CPS_OK;
}

/* ---- pairs ---- */

/* A sample of a file: its id, and which of the samples with that id. */
typedef struct sample_key {
    uint64_t id;
    int64_t occurrence, row;
} sample_key;

static int by_id(const void *a, const void *b) {
    const sample_key *left = a, *right = b;
    if (left->id != right->id) {
        return left->id < right->id ? -1 : 1;
    }
    return (left->row > right->row) - (left->row < right->row);
}

static sample_key *sorted_keys(const cps_prediction_file *file) {
    sample_key *keys = cps_allocate_zero(file->rows, 1, sizeof *keys);
    for (int64_t i = 0; keys != NULL && i < file->rows; i++) {
        keys[i] = (sample_key){.id = file->sample_ids[i], .row = i};
    }
    if (keys == NULL) {
        return NULL;
    }
    qsort(keys, (size_t)file->rows, sizeof *keys, by_id);
    for (int64_t i = 1; i < file->rows; i++) {
        keys[i].occurrence = keys[i].id == keys[i - 1].id ? keys[i - 1].occurrence + 1 : 0;
    }
    return keys;
}

static int compare_keys(const sample_key *a, const sample_key *b) {
    if (a->id != b->id) {
        return a->id < b->id ? -1 : 1;
    }
    return (a->occurrence > b->occurrence) - (a->occurrence < b->occurrence);
}

/* rows_out[r of the first file]: row of this file, -1: it has no such sample. */
static cps_status match(const sample_key *first, int64_t count, const cps_prediction_file *file,
                        int64_t *rows_out) {
    sample_key *keys = sorted_keys(file);
    if (keys == NULL) {
        return no_memory();
    }
    int64_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        while (at < file->rows && compare_keys(&keys[at], &first[i]) < 0) {
            at++;
        }
        const bool found = at < file->rows && compare_keys(&keys[at], &first[i]) == 0;
        rows_out[first[i].row] = found ? keys[at].row : -1;
    }
    free(keys);
    return CPS_OK;
}

/* Keeps the samples that all files have: rows of each file move together. */
static void keep_common(cps_pairing *pairing, int64_t stride) {
    int64_t kept = 0;
    for (int64_t i = 0; i < stride; i++) {
        bool common = true;
        for (int32_t f = 0; f < pairing->file_count; f++) {
            common = common && pairing->rows[f * stride + i] >= 0;
        }
        for (int32_t f = 0; common && f < pairing->file_count; f++) {
            pairing->rows[f * stride + kept] = pairing->rows[f * stride + i];
        }
        kept += common;
    }
    for (int32_t f = 1; f < pairing->file_count; f++) {
        memmove(pairing->rows + f * kept, pairing->rows + f * stride,
                (size_t)kept * sizeof *pairing->rows);
    }
    pairing->samples = kept;
}

static cps_status pair_samples(cps_pairing *pairing) {
    const int64_t stride = pairing->files[0].rows;
    sample_key *first = sorted_keys(&pairing->files[0]);
    pairing->rows = cps_allocate_zero(stride, pairing->file_count, sizeof *pairing->rows);
    cps_status status = first == NULL || pairing->rows == NULL ? no_memory() : CPS_OK;
    for (int32_t f = 0; f < pairing->file_count && status == CPS_OK; f++) {
        status = match(first, stride, &pairing->files[f], pairing->rows + f * stride);
    }
    free(first);
    CPS_TRY(status);
    keep_common(pairing, stride);
    for (int32_t f = 0; f < pairing->file_count; f++) {
        const int64_t without = pairing->files[f].rows - pairing->samples;
        if (without > pairing->unpaired) {
            pairing->unpaired = without;
            pairing->unpaired_file = f;
        }
    }
    return pairing->samples > 0
               ? CPS_OK
               : cps_fail(CPS_ERR_DATA,
                          "'%s' and %d other%s have no sample in common: nothing can be paired; "
                          "were their shards packed anew? Evaluate them on the same shards",
                          pairing->files[0].path, pairing->file_count - 1,
                          pairing->file_count == 2 ? "" : "s");
}

static cps_status check_labels(const cps_pairing *pairing) {
    const cps_prediction_file *first = &pairing->files[0];
    for (int32_t f = 1; f < pairing->file_count && first->labels != NULL; f++) {
        const cps_prediction_file *file = &pairing->files[f];
        const int64_t *rows = pairing->rows + f * pairing->samples;
        for (int64_t i = 0; i < pairing->samples; i++) {
            const int32_t label = first->labels[pairing->rows[i]];
            if (file->labels[rows[i]] != label) {
                return cps_fail(CPS_ERR_DATA,
                                "sample %016llx has label %d in '%s' and %d in '%s': one of the "
                                "files is damaged",
                                (unsigned long long)first->sample_ids[pairing->rows[i]], label,
                                first->path, file->labels[rows[i]], file->path);
            }
        }
    }
    return CPS_OK;
}

/* ---- captions ---- */

/* first_out[row]: the row's first text; [rows] the number of texts. */
static int64_t *first_texts(const cps_prediction_file *file) {
    int64_t *first = cps_allocate_zero(file->rows + 1, 1, sizeof *first);
    for (int64_t t = 0; first != NULL && t < file->texts; t++) {
        first[file->text_rows[t] + 1]++;
    }
    for (int64_t i = 0; first != NULL && i < file->rows; i++) {
        first[i + 1] += first[i];
    }
    return first;
}

/* Lowers each sample's number of captions to this file's, or with `texts_out` writes its texts. */
static cps_status take_texts(const cps_pairing *pairing, int32_t f, int64_t *counts,
                             int64_t *texts_out) {
    const int64_t *rows = pairing->rows + f * pairing->samples;
    int64_t *first = first_texts(&pairing->files[f]);
    if (first == NULL) {
        return no_memory();
    }
    for (int64_t i = 0; i < pairing->samples; i++) {
        const int64_t start = first[rows[i]], own = first[rows[i] + 1] - start;
        if (texts_out == NULL) {
            counts[i] = f == 0 ? own : cps_min_i64(counts[i], own);
        }
        for (int64_t k = 0; texts_out != NULL && k < counts[i]; k++) {
            *texts_out++ = start + k;
        }
    }
    free(first);
    return CPS_OK;
}

static cps_status pair_texts(cps_pairing *pairing) {
    if (pairing->files[0].image_to_text == NULL) {
        return CPS_OK;
    }
    int64_t *counts = cps_allocate_zero(pairing->samples, 1, sizeof *counts);
    cps_status status = counts == NULL ? no_memory() : CPS_OK;
    for (int32_t f = 0; f < pairing->file_count && status == CPS_OK; f++) {
        status = take_texts(pairing, f, counts, NULL);
    }
    for (int64_t i = 0; i < pairing->samples && status == CPS_OK; i++) {
        pairing->texts += counts[i];
    }
    if (status == CPS_OK) {
        pairing->text_rows =
            cps_allocate_zero(pairing->texts + 1, pairing->file_count, sizeof *pairing->text_rows);
        pairing->text_samples =
            cps_allocate_zero(pairing->texts + 1, 1, sizeof *pairing->text_samples);
        status = pairing->text_rows == NULL || pairing->text_samples == NULL ? no_memory() : CPS_OK;
    }
    for (int32_t f = 0; f < pairing->file_count && status == CPS_OK; f++) {
        status = take_texts(pairing, f, counts, pairing->text_rows + f * pairing->texts);
    }
    int64_t at = 0;
    for (int64_t i = 0; i < pairing->samples && status == CPS_OK; i++) {
        for (int64_t k = 0; k < counts[i]; k++) {
            pairing->text_samples[at++] = (int32_t)i;
        }
    }
    free(counts);
    return status;
}

/* ---- the door ---- */

cps_status cps_pairing_make(const cps_prediction_file *files, int32_t file_count,
                            cps_pairing *pairing_out) {
    cps_pairing pairing = {.files = files, .file_count = file_count};
    cps_status status = files[0].rows <= INT32_MAX
                            ? CPS_OK
                            : cps_fail(CPS_ERR_DATA, "'%s' has %lld samples, at most %d are paired",
                                       files[0].path, (long long)files[0].rows, INT32_MAX);
    for (int32_t f = 1; f < file_count && status == CPS_OK; f++) {
        status = check_digests(&files[0], &files[f]);
        status = status != CPS_OK ? status : check_kinds(&files[0], &files[f]);
    }
    status = status != CPS_OK ? status : pair_samples(&pairing);
    status = status != CPS_OK ? status : check_labels(&pairing);
    status = status != CPS_OK ? status : pair_texts(&pairing);
    if (status != CPS_OK) {
        cps_pairing_free(&pairing);
        return status;
    }
    *pairing_out = pairing;
    return CPS_OK;
}

void cps_pairing_free(cps_pairing *pairing) {
    free(pairing->rows);
    free(pairing->text_rows);
    free(pairing->text_samples);
    *pairing = (cps_pairing){0};
}
