#include "report/prediction_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "h5/h5.h"
#include "shards/taxon.h"

enum { FORMAT_VERSION = 1, MOST_TOP = 1000, MOST_FOLDS = 100000, MOST_SHOT = 1000000 };
static const size_t max_dataset_bytes = (size_t)1 << 31;

static const char *const digest_names[CPS_PREDICTION_DIGESTS] = {
    [CPS_DIGEST_DATA] = "data_digest",
    [CPS_DIGEST_PREPROCESSING] = "preprocessing_digest",
    [CPS_DIGEST_CLASSES] = "class_list_digest",
    [CPS_DIGEST_BANK] = "bank_digest"};

static cps_status damaged(const cps_h5 *file, const char *format, ...) CPS_PRINTF(2, 3);
static cps_status damaged(const cps_h5 *file, const char *format, ...) {
    char what[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return cps_fail(CPS_ERR_DATA, "'%s': %s: the file is damaged, or no evaluation wrote it",
                    cps_h5_path(file), what);
}

/* ---- attributes ---- */

static cps_status read_optional(cps_h5 *file, const char *name, char **text_out) {
    return cps_h5_has_attribute(file, "/", name) ? cps_h5_read_text(file, "/", name, text_out)
                                                 : CPS_OK;
}

static cps_status read_digests(cps_h5 *file, cps_prediction_file *to) {
    for (int i = 0; i < CPS_PREDICTION_DIGESTS; i++) {
        char **text = &to->digests[i];
        CPS_TRY(read_optional(file, digest_names[i], text));
        if (*text != NULL && (strlen(*text) != 16 || strspn(*text, "0123456789abcdef") != 16)) {
            return damaged(file, "a digest that is no 16 hexadecimal digits");
        }
    }
    return to->digests[CPS_DIGEST_DATA] != NULL && to->digests[CPS_DIGEST_PREPROCESSING] != NULL
               ? CPS_OK
               : damaged(file, "no digests of data and preprocessing");
}

static cps_status check_format(cps_h5 *file) {
    char *format = NULL;
    int64_t version = 0;
    CPS_TRY(read_optional(file, "format", &format));
    const bool ours = format != NULL && strcmp(format, "copse-predictions") == 0;
    free(format);
    if (!ours) {
        return cps_fail(CPS_ERR_DATA, "'%s' holds no predictions of Copse", cps_h5_path(file));
    }
    CPS_TRY(cps_h5_read_integer(file, "/", "version", &version));
    return version == FORMAT_VERSION
               ? CPS_OK
               : cps_fail(CPS_ERR_DATA, "predictions '%s' have version %lld, this program reads %d",
                          cps_h5_path(file), (long long)version, (int)FORMAT_VERSION);
}

static cps_status read_attributes(cps_h5 *file, cps_prediction_file *to) {
    CPS_TRY(check_format(file));
    CPS_TRY(cps_h5_read_text(file, "/", "evaluation", &to->evaluation));
    CPS_TRY(cps_h5_read_text(file, "/", "kind", &to->kind));
    CPS_TRY(cps_h5_read_integer(file, "/", "step", &to->step));
    CPS_TRY(read_digests(file, to));
    CPS_TRY(read_optional(file, "text", &to->text));
    return read_optional(file, "averaging", &to->averaging);
}

/* ---- datasets ---- */

/* A dataset of `rank` dimensions that lies in the file in one piece, so that what it declares is
 * there. shape: 0 takes what is found, else what is wanted. *found_out false: absent. */
static cps_status read_array(cps_h5 *file, const char *name, cps_h5_type type, int32_t rank,
                             int64_t shape[], void **values_out, bool *found_out) {
    cps_h5_info info;
    int64_t address, count;
    size_t bytes;
    CPS_TRY(cps_h5_inspect(file, name, &info));
    *found_out = info.kind != CPS_H5_NONE;
    if (!*found_out) {
        return CPS_OK;
    }
    bool fits = info.kind == CPS_H5_DATASET && info.rank == rank && info.count >= 1;
    for (int32_t d = 0; d < rank && fits; d++) {
        fits = shape[d] == 0 || info.shape[d] == shape[d];
        shape[d] = info.shape[d];
    }
    if (!fits) {
        return damaged(file, "'%s' has the wrong shape", name);
    }
    CPS_TRY(cps_h5_address(file, name, &address, &bytes));
    return cps_h5_read_alloc(file, name, type, max_dataset_bytes, values_out, &count);
}

static cps_status need_array(cps_h5 *file, const char *name, cps_h5_type type, int32_t rank,
                             int64_t shape[], void **values_out) {
    bool found;
    CPS_TRY(read_array(file, name, type, rank, shape, values_out, &found));
    return found ? CPS_OK : damaged(file, "there is no '%s'", name);
}

static cps_status check_range(const cps_h5 *file, const char *name, const int32_t *values,
                              int64_t count, int64_t least, int64_t most) {
    for (int64_t i = 0; i < count; i++) {
        if (values[i] < least || values[i] > most) {
            return damaged(file, "'%s' holds %d at place %lld, %lld .. %lld are possible", name,
                           values[i], (long long)i, (long long)least, (long long)most);
        }
    }
    return CPS_OK;
}

static cps_status check_ranks(const cps_h5 *file, const int64_t *ranks, int64_t count,
                              int64_t least, int64_t most) {
    for (int64_t i = 0; i < count; i++) {
        if (ranks[i] < least || ranks[i] > most) {
            return damaged(file, "a rank or row outside of what there is");
        }
    }
    return CPS_OK;
}

static cps_status read_labels(cps_h5 *file, cps_prediction_file *to) {
    bool found;
    void *values = NULL;
    CPS_TRY(read_array(file, "label", CPS_H5_I32, 1, (int64_t[]){to->rows}, &values, &found));
    to->labels = values;
    if (!found) {
        return CPS_OK;
    }
    CPS_TRY(cps_h5_read_strings(file, "class_name", &to->class_names, &to->class_count));
    return check_range(file, "label", to->labels, to->rows, -1, to->class_count - 1);
}

static cps_status read_answers(cps_h5 *file, cps_prediction_file *to) {
    bool found;
    void *values = NULL;
    int64_t shape[] = {to->rows, 0};
    CPS_TRY(read_array(file, "class_index", CPS_H5_I32, 2, shape, &values, &found));
    to->answers = values;
    if (!found) {
        return CPS_OK;
    }
    to->top = shape[1];
    if (to->labels == NULL || to->top > MOST_TOP) {
        return damaged(file, "'class_index' without labels, or of too many places");
    }
    values = NULL;
    CPS_TRY(read_array(file, "class_score", CPS_H5_F64, 2, shape, &values, &found));
    to->scores = values;
    return check_range(file, "class_index", to->answers, to->rows * to->top, -1,
                       to->class_count - 1);
}

static cps_status read_templates(cps_h5 *file, cps_prediction_file *to) {
    return cps_h5_has(file, "template")
               ? cps_h5_read_strings(file, "template", &to->templates, &to->template_count)
               : CPS_OK;
}

static cps_status read_depths(cps_h5 *file, cps_prediction_file *to) {
    bool found;
    void *values = NULL;
    CPS_TRY(
        read_array(file, "shared_depth", CPS_H5_I32, 1, (int64_t[]){to->rows}, &values, &found));
    to->shared_depth = values;
    return found
               ? check_range(file, "shared_depth", to->shared_depth, to->rows, -1, CPS_TAXON_RANKS)
               : CPS_OK;
}

static cps_status read_places(cps_h5 *file, cps_prediction_file *to) {
    bool found;
    void *values = NULL;
    CPS_TRY(read_array(file, "record", CPS_H5_I64, 1, (int64_t[]){to->rows}, &values, &found));
    to->records = values;
    if (!found) {
        return CPS_OK;
    }
    values = NULL;
    CPS_TRY(need_array(file, "shard", CPS_H5_I32, 1, (int64_t[]){to->rows}, &values));
    to->shards = values;
    CPS_TRY(cps_h5_read_strings(file, "shard_name", &to->shard_names, &to->shard_count));
    return check_range(file, "shard", to->shards, to->rows, 0, to->shard_count - 1);
}

/* ---- few-shot ---- */

static int by_k(const void *a, const void *b) {
    const cps_prediction_shot *left = a, *right = b;
    return (left->k > right->k) - (left->k < right->k);
}

/* k of "shot<k>_prediction"; 0: another name. */
static int64_t shot_of(const char *name) {
    static const char front[] = "shot", back[] = "_prediction";
    char *end = NULL;
    if (strncmp(name, front, sizeof front - 1) != 0) {
        return 0;
    }
    const long long k = strtoll(name + sizeof front - 1, &end, 10);
    return strcmp(end, back) == 0 && k >= 1 && k <= MOST_SHOT ? k : 0;
}

static cps_status read_shot(cps_h5 *file, const char *name, int64_t k, cps_prediction_file *to) {
    if (to->shot_count == CPS_PREDICTION_SHOTS) {
        return cps_fail(CPS_ERR_DATA, "'%s' has more than %d numbers of shots", cps_h5_path(file),
                        (int)CPS_PREDICTION_SHOTS);
    }
    cps_prediction_shot *shot = &to->shots[to->shot_count++];
    void *values = NULL;
    int64_t shape[] = {to->folds, to->rows};
    shot->k = k;
    CPS_TRY(need_array(file, name, CPS_H5_I32, 2, shape, &values));
    shot->answers = values;
    to->folds = shape[0];
    if (to->labels == NULL || to->folds > MOST_FOLDS) {
        return damaged(file, "predictions of few shots without labels, or of too many folds");
    }
    return check_range(file, name, shot->answers, to->folds * to->rows, -1, to->class_count - 1);
}

static cps_status read_shots(cps_h5 *file, cps_prediction_file *to) {
    char **names = NULL;
    int64_t count = 0;
    CPS_TRY(cps_h5_list(file, "/", &names, &count));
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        const int64_t k = shot_of(names[i]);
        status = k > 0 ? read_shot(file, names[i], k, to) : CPS_OK;
    }
    cps_strings_destroy(names, count);
    qsort(to->shots, (size_t)to->shot_count, sizeof to->shots[0], by_k);
    return status;
}

/* ---- retrieval ---- */

static cps_status read_retrieval(cps_h5 *file, cps_prediction_file *to) {
    bool found;
    void *values = NULL;
    int64_t shape[] = {0};
    CPS_TRY(read_array(file, "image_to_text_rank", CPS_H5_I64, 1, (int64_t[]){to->rows}, &values,
                       &found));
    to->image_to_text = values;
    if (!found) {
        return CPS_OK;
    }
    values = NULL;
    CPS_TRY(need_array(file, "text_to_image_rank", CPS_H5_I64, 1, shape, &values));
    to->text_to_image = values;
    to->texts = shape[0];
    values = NULL;
    CPS_TRY(need_array(file, "text_sample", CPS_H5_I64, 1, shape, &values));
    to->text_rows = values;
    CPS_TRY(check_ranks(file, to->image_to_text, to->rows, 0, to->texts));
    CPS_TRY(check_ranks(file, to->text_to_image, to->texts, 1, to->rows));
    CPS_TRY(check_ranks(file, to->text_rows, to->texts, 0, to->rows - 1));
    for (int64_t t = 1; t < to->texts; t++) {
        if (to->text_rows[t] < to->text_rows[t - 1]) {
            return damaged(file, "'text_sample' does not ascend");
        }
    }
    return CPS_OK;
}

/* ---- the file ---- */

static cps_status read_content(cps_h5 *file, cps_prediction_file *to) {
    int64_t shape[] = {0};
    void *values = NULL;
    CPS_TRY(read_attributes(file, to));
    CPS_TRY(need_array(file, "sample_id", CPS_H5_U64, 1, shape, &values));
    to->sample_ids = values;
    to->rows = shape[0];
    CPS_TRY(read_labels(file, to));
    CPS_TRY(read_answers(file, to));
    CPS_TRY(read_templates(file, to));
    CPS_TRY(read_depths(file, to));
    CPS_TRY(read_places(file, to));
    CPS_TRY(read_shots(file, to));
    CPS_TRY(read_retrieval(file, to));
    return to->answers != NULL || to->shot_count > 0 || to->image_to_text != NULL
               ? CPS_OK
               : damaged(file, "no predictions in it");
}

cps_status cps_prediction_file_read(const char *path, cps_prediction_file *file_out) {
    cps_h5 *file = NULL;
    cps_prediction_file read = {.path = cps_format("%s", path)};
    cps_status status = cps_h5_open_strict(path, &file);
    status = status != CPS_OK ? status : read_content(file, &read);
    const cps_status closed = cps_h5_close(file);
    status = status != CPS_OK ? status : closed;
    if (status != CPS_OK) {
        cps_prediction_file_free(&read);
        return cps_fail_context(status, "predictions");
    }
    *file_out = read;
    return CPS_OK;
}

void cps_prediction_file_free(cps_prediction_file *file) {
    char *texts[] = {file->path, file->evaluation, file->kind, file->text, file->averaging};
    void *arrays[] = {file->sample_ids,    file->labels,   file->answers, file->scores,
                      file->shared_depth,  file->records,  file->shards,  file->image_to_text,
                      file->text_to_image, file->text_rows};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        free(texts[i]);
    }
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        free(arrays[i]);
    }
    for (int i = 0; i < CPS_PREDICTION_DIGESTS; i++) {
        free(file->digests[i]);
    }
    for (int32_t i = 0; i < file->shot_count; i++) {
        free(file->shots[i].answers);
    }
    cps_strings_destroy(file->class_names, file->class_count);
    cps_strings_destroy(file->templates, file->template_count);
    cps_strings_destroy(file->shard_names, file->shard_count);
    *file = (cps_prediction_file){0};
}
