#include "eval/predictions.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/hash.h"
#include "h5/h5.h"

enum { FORMAT_VERSION = 1 };

static cps_status write_digest(cps_h5 *file, const char *name, uint64_t digest) {
    char *text = cps_format("%016llx", (unsigned long long)digest);
    const cps_status status = cps_h5_write_text(file, "/", name, text);
    free(text);
    return status;
}

static cps_status write_attributes(cps_h5 *file, const cps_predictions_content *content) {
    CPS_TRY(cps_h5_write_text(file, "/", "format", "copse-predictions"));
    CPS_TRY(cps_h5_write_integer(file, "/", "version", FORMAT_VERSION));
    CPS_TRY(cps_h5_write_text(file, "/", "evaluation", content->evaluation));
    CPS_TRY(cps_h5_write_text(file, "/", "kind", content->kind));
    CPS_TRY(cps_h5_write_integer(file, "/", "step", content->step));
    CPS_TRY(write_digest(file, "data_digest", content->data_digest));
    CPS_TRY(write_digest(file, "preprocessing_digest", content->preprocessing_digest));
    return content->bank_digest != 0 ? write_digest(file, "bank_digest", content->bank_digest)
                                     : CPS_OK;
}

/* Names in order, each with its NUL. */
static uint64_t class_list_digest(const cps_class_list *classes) {
    cps_hash *hash = cps_hash_create();
    for (int64_t i = 0; i < classes->count; i++) {
        const char *name = classes->names[i];
        size_t length = 0;
        while (name[length] != '\0') {
            length++;
        }
        cps_hash_add(hash, name, length + 1);
    }
    const uint64_t digest = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return digest;
}

static cps_status write_predictions(cps_h5 *file, const cps_predictions_content *content) {
    const cps_h5_type real = sizeof(cps_real) == sizeof(double) ? CPS_H5_F64 : CPS_H5_F32;
    const cps_predictions *predictions = content->predictions;
    const int64_t shape[] = {content->rows, predictions->top};
    CPS_TRY(cps_h5_write(file, "class_index", CPS_H5_I32, 2, shape, predictions->index));
    return cps_h5_write(file, "class_score", real, 2, shape, predictions->score);
}

static cps_status write_class_list(cps_h5 *file, const cps_class_list *classes) {
    CPS_TRY(cps_h5_write_strings(file, "class_name", classes->names, classes->count));
    return write_digest(file, "class_list_digest", class_list_digest(classes));
}

static cps_status write_class_texts(cps_h5 *file, const cps_predictions_content *content) {
    CPS_TRY(cps_h5_write_text(file, "/", "text", content->text));
    CPS_TRY(cps_h5_write_text(file, "/", "averaging", content->averaging));
    CPS_TRY(cps_h5_write_number(file, "/", "scale", content->scale));
    CPS_TRY(
        cps_h5_write_strings(file, "class_text", content->class_texts, content->classes->count));
    if (content->unseen != NULL) {
        CPS_TRY(cps_h5_write(file, "class_unseen", CPS_H5_U8, 1, &content->classes->count,
                             content->unseen));
    }
    return content->templates->count == 0
               ? CPS_OK
               : cps_h5_write_strings(file, "template", content->templates->lines,
                                      content->templates->count);
}

static cps_status write_shot(cps_h5 *file, const cps_few_shot_result *result,
                             const cps_shot_result *shot) {
    const int64_t support[] = {result->folds, shot->class_count, shot->k};
    const int64_t predicted[] = {result->folds, result->rows};
    char name[64];
    snprintf(name, sizeof name, "shot%lld_class", (long long)shot->k);
    CPS_TRY(cps_h5_write(file, name, CPS_H5_I32, 1, &shot->class_count, shot->classes));
    snprintf(name, sizeof name, "shot%lld_support", (long long)shot->k);
    CPS_TRY(cps_h5_write(file, name, CPS_H5_I64, 3, support, shot->support));
    snprintf(name, sizeof name, "shot%lld_prediction", (long long)shot->k);
    CPS_TRY(cps_h5_write(file, name, CPS_H5_I32, 2, predicted, shot->predicted));
    snprintf(name, sizeof name, "shot%lld_accuracy", (long long)shot->k);
    return cps_h5_write(file, name, CPS_H5_F64, 1, &result->folds, shot->accuracy);
}

static cps_status write_few_shot(cps_h5 *file, const cps_few_shot_result *result) {
    CPS_TRY(cps_h5_write_text(file, "/", "variant", result->variant));
    CPS_TRY(cps_h5_write_text(file, "/", "averaging", result->averaging));
    CPS_TRY(cps_h5_write_text(file, "/", "short_classes", result->short_classes));
    CPS_TRY(cps_h5_write(file, "fold_seed", CPS_H5_U64, 1, &result->folds, result->seeds));
    for (int64_t i = 0; i < result->shot_count; i++) {
        CPS_TRY(write_shot(file, result, &result->shots[i]));
    }
    return CPS_OK;
}

static cps_status write_ranks(cps_h5 *file, const cps_predictions_content *content) {
    const cps_retrieval_ranks *ranks = content->ranks;
    CPS_TRY(cps_h5_write(file, "image_to_text_rank", CPS_H5_I64, 1, &ranks->images,
                         ranks->image_to_text));
    CPS_TRY(cps_h5_write(file, "text_to_image_rank", CPS_H5_I64, 1, &ranks->texts,
                         ranks->text_to_image));
    return cps_h5_write(file, "text_sample", CPS_H5_I64, 1, &ranks->texts, content->owners);
}

static cps_status write_places(cps_h5 *file, const cps_predictions_content *content) {
    CPS_TRY(cps_h5_write(file, "record", CPS_H5_I64, 1, &content->rows, content->records));
    CPS_TRY(cps_h5_write(file, "shard", CPS_H5_I32, 1, &content->rows, content->shards));
    return cps_h5_write_strings(file, "shard_name", content->shard_names, content->shard_count);
}

static cps_status write_content(cps_h5 *file, const void *context) {
    const cps_predictions_content *content = context;
    CPS_TRY(write_attributes(file, content));
    CPS_TRY(cps_h5_write(file, "sample_id", CPS_H5_U64, 1, &content->rows, content->sample_ids));
    if (content->records != NULL) {
        CPS_TRY(write_places(file, content));
    }
    if (content->shared_depth != NULL) {
        CPS_TRY(cps_h5_write(file, "shared_depth", CPS_H5_I32, 1, &content->rows,
                             content->shared_depth));
    }
    if (content->labels != NULL) {
        CPS_TRY(cps_h5_write(file, "label", CPS_H5_I32, 1, &content->rows, content->labels));
    }
    if (content->classes != NULL) {
        CPS_TRY(write_class_list(file, content->classes));
    }
    if (content->predictions != NULL) {
        CPS_TRY(write_predictions(file, content));
    }
    if (content->class_texts != NULL) {
        CPS_TRY(write_class_texts(file, content));
    }
    if (content->few_shot != NULL) {
        CPS_TRY(write_few_shot(file, content->few_shot));
    }
    return content->ranks != NULL ? write_ranks(file, content) : CPS_OK;
}

static cps_status write_file(const char *path, const cps_predictions_content *content) {
    char *folder = cps_path_folder(path);
    const cps_status status = cps_dir_create(folder);
    free(folder);
    CPS_TRY(status);
    return cps_h5_write_file(path, write_content, content);
}

cps_status cps_predictions_write(const char *path, const cps_predictions_content *content) {
    return cps_fail_context(write_file(path, content), "predictions of '%s'", content->evaluation);
}
