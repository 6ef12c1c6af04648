/* An evaluation: streams -> features -> one of the metric functions -> metrics, predictions. */
#include "eval/evaluate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/knn.h"
#include "eval/predictions.h"
#include "eval/retrieval.h"
#include "eval/zeroshot.h"

enum { TOP_LEAST = 5 }; /* classes that top 5 needs */

/* ---- streams ---- */

static cps_status open_stream(const cps_evaluation_options *options, const cps_shards_options *set,
                              bool is_bank, cps_shard_pool *pool,
                              const cps_evaluation_resolver *resolver, cps_stream **stream_out) {
    cps_set_spec spec = {.patterns = set->patterns,
                         .pattern_count = set->pattern_count,
                         .weight = set->weight,
                         .fraction = set->fraction,
                         .count = set->count,
                         .subset_seed = (uint64_t)set->seed,
                         .draw = (cps_subset_draw)set->draw,
                         .caption = set->caption};
    if (set->source != NULL) {
        if (resolver == NULL || resolver->packed == NULL) {
            return cps_fail(CPS_ERR_USAGE,
                            "'%s' is a table that is not packed yet: pack it with 'copse pack' and "
                            "name the shards",
                            set->source);
        }
        CPS_TRY(resolver->packed(resolver->context, set, &spec.patterns, &spec.pattern_count));
    }
    if (set->rest_of != NULL) {
        spec.rest_of = resolver != NULL && resolver->stream != NULL
                           ? resolver->stream(resolver->context, set->rest_of)
                           : NULL;
        if (spec.rest_of == NULL) {
            return cps_fail(CPS_ERR_USAGE, "rest_of names the stream '%s', which the job has not",
                            set->rest_of);
        }
    }
    const cps_stream_spec stream = {.name = is_bank ? "bank" : "data",
                                    .sets = &spec,
                                    .set_count = 1,
                                    .needs_caption = options->kind == CPS_EVAL_RETRIEVAL};
    return cps_stream_create(&stream, 0, pool, stream_out);
}

cps_status cps_evaluation_streams_open(const cps_evaluation_options *options, cps_shard_pool *pool,
                                       const cps_evaluation_resolver *resolver,
                                       cps_evaluation_streams *streams_out) {
    cps_evaluation_streams streams = {0};
    cps_status status = open_stream(options, &options->data, false, pool, resolver, &streams.data);
    if (status == CPS_OK && options->kind == CPS_EVAL_KNN) {
        status = cps_fail_context(
            open_stream(options, &options->knn.bank, true, pool, resolver, &streams.bank), "bank");
    }
    if (status != CPS_OK) {
        cps_evaluation_streams_close(&streams);
        return cps_fail_context(status, "evaluation '%s'", options->name);
    }
    *streams_out = streams;
    return CPS_OK;
}

void cps_evaluation_streams_close(cps_evaluation_streams *streams) {
    cps_stream_destroy(streams->data);
    cps_stream_destroy(streams->bank);
    *streams = (cps_evaluation_streams){0};
}

/* ---- what all kinds share ---- */

/* An evaluation under way. */
typedef struct evaluation {
    const cps_evaluation_request *request;
    const cps_evaluation_options *options;
    char where[160];
    double weights[CPS_MAX_COMPONENTS];
    cps_features images;  /* of the data stream */
    uint64_t *sample_ids; /* [images.rows] */
    int32_t *labels;      /* [images.rows], where classes are wanted */
    cps_class_list classes;
    cps_json *metrics;
} evaluation;

static cps_status fail_memory(const evaluation *run) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "%s: out of memory", run->where);
}

static cps_status take_weights(evaluation *run, const cps_numbers *score) {
    const cps_encoder *encoder = run->request->encoder;
    memcpy(run->weights, encoder->score_weights, sizeof run->weights);
    if (score->count == 0) {
        return CPS_OK;
    }
    if (score->count != encoder->component_count) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: score has %lld weights, the objective's embed gives %d component%s: "
                        "give one weight for each, or leave score out",
                        run->where, (long long)score->count, (int)encoder->component_count,
                        encoder->component_count == 1 ? "" : "s");
    }
    memcpy(run->weights, score->values, (size_t)score->count * sizeof *run->weights);
    return CPS_OK;
}

static cps_status need_texts(const evaluation *run) {
    return run->request->encoder->texts != NULL
               ? CPS_OK
               : cps_fail(CPS_ERR_USAGE,
                          "%s: %s compares images with texts, but what is evaluated has no text "
                          "side: evaluate the objective's embed (leave features out), or use "
                          "copse.knn",
                          run->where, cps_eval_kind_name(run->options->kind));
}

static void report_left_out(const cps_evaluation_request *request, const cps_stream *stream,
                            const cps_features *features) {
    for (int64_t i = 0; request->left_out != NULL && i < features->left_out_count; i++) {
        cps_place place;
        cps_stream_stored(stream, features->left_out[i].record, &place);
        request->left_out(request->left_out_context, &place, features->left_out[i].reason);
    }
}

/* Sample ids and labels of features' rows; classes tells whether labels are wanted. */
static cps_status take_places(const evaluation *run, const cps_stream *stream,
                              const cps_features *features, bool classes, uint64_t **ids_out,
                              int32_t **labels_out) {
    uint64_t *ids = calloc((size_t)features->rows + 1, sizeof *ids);
    int32_t *labels = classes ? calloc((size_t)features->rows + 1, sizeof *labels) : NULL;
    if (ids == NULL || (classes && labels == NULL)) {
        free(ids);
        free(labels);
        return fail_memory(run);
    }
    for (int64_t i = 0; i < features->rows; i++) {
        cps_place place;
        cps_stream_stored(stream, features->records[i], &place);
        ids[i] = place.sample_id;
        if (classes) {
            labels[i] = cps_shard_label(place.shard, place.record);
        }
    }
    *ids_out = ids;
    *labels_out = labels;
    return CPS_OK;
}

/* Collective. Features of a stream with their ids and labels. */
static cps_status encode_stream(const evaluation *run, const cps_stream *stream, bool classes,
                                cps_features *features_out, uint64_t **ids_out,
                                int32_t **labels_out) {
    const cps_evaluation_request *request = run->request;
    CPS_TRY(cps_fail_context(cps_features_of_images(request->comm, request->encoder, stream,
                                                    request->loader_threads, features_out),
                             "%s", run->where));
    report_left_out(request, stream, features_out);
    cps_status status = CPS_OK;
    if (features_out->rows == 0) {
        status = cps_fail(
            CPS_ERR_DATA,
            "%s: none of the %lld images of '%s' can be read, the first because: %s; "
            "look at the set with 'copse verify'",
            run->where, (long long)cps_stream_records(stream), cps_stream_name(stream),
            features_out->left_out_count > 0 ? features_out->left_out[0].reason : "unknown");
    } else {
        status = take_places(run, stream, features_out, classes, ids_out, labels_out);
    }
    return cps_agree(request->comm, "evaluation", status);
}

static cps_status encode_data(evaluation *run, bool classes) {
    return encode_stream(run, run->request->streams->data, classes, &run->images, &run->sample_ids,
                         &run->labels);
}

static void add_left_out(evaluation *run, int64_t bad_images, int64_t non_finite) {
    cps_json_add_number(run->metrics, "bad_images", (double)bad_images);
    if (non_finite > 0) {
        cps_json_add_number(run->metrics, "non_finite", (double)non_finite);
    }
}

/* Collective. Rank 0 writes; `content` gets what all kinds have. */
static cps_status write_predictions(const evaluation *run, cps_predictions_content content) {
    const cps_evaluation_request *request = run->request;
    if (request->predictions_path == NULL) {
        return CPS_OK;
    }
    cps_status status = CPS_OK;
    if (cps_comm_rank(request->comm) == 0) {
        content.evaluation = run->options->name;
        content.kind = cps_eval_kind_name(run->options->kind);
        content.step = request->step;
        content.data_digest = cps_stream_digest(request->streams->data);
        content.preprocessing_digest = cps_recipe_digest(&request->encoder->image_recipe);
        content.rows = run->images.rows;
        content.sample_ids = run->sample_ids;
        content.labels = run->labels;
        status = cps_predictions_write(request->predictions_path, &content);
    }
    return cps_agree(request->comm, "predictions", status);
}

/* ---- zero-shot ---- */

static cps_status check_zero_shot(evaluation *run) {
    const cps_zero_shot_options *options = &run->options->zero_shot;
    CPS_TRY(need_texts(run));
    CPS_TRY(take_weights(run, &options->score));
    if (options->text != NULL && strcmp(options->text, "label") != 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: text = \"%s\" is not built in this version: only \"label\", the names "
                        "of the classes, is",
                        run->where, options->text);
    }
    return cps_class_list_of(run->request->streams->data, run->where, &run->classes);
}

static cps_status zero_shot(evaluation *run) {
    const cps_zero_shot_options *options = &run->options->zero_shot;
    cps_comm *comm = run->request->comm;
    cps_features vectors = {0};
    cps_predictions predictions = {0};
    CPS_TRY(cps_agree(comm, "evaluation", check_zero_shot(run)));
    cps_status status = cps_fail_context(
        cps_class_vectors(comm, run->request->encoder, run->classes.names, run->classes.count,
                          &options->templates, (cps_averaging)options->averaging, &vectors),
        "%s", run->where);
    if (status == CPS_OK) {
        status = encode_data(run, true);
    }
    if (status == CPS_OK) {
        status = cps_zero_shot(comm, &run->images, &vectors, run->weights,
                               cps_max_i64(TOP_LEAST, options->top), &predictions);
    }
    if (status == CPS_OK) {
        status = cps_agree(comm, "evaluation",
                           cps_classification_metrics(&predictions, run->labels, run->classes.count,
                                                      run->where, run->metrics));
    }
    if (status == CPS_OK) {
        add_left_out(run, run->images.left_out_count, run->images.non_finite + vectors.non_finite);
        cps_predictions_trim(&predictions, options->top);
        const cps_predictions_content content = {.predictions = &predictions,
                                                 .classes = &run->classes};
        status = write_predictions(run, content);
    }
    cps_features_free(&vectors);
    cps_predictions_free(&predictions);
    return status;
}

/* ---- retrieval ---- */

/* Captions of the images that gave features, in order. */
typedef struct caption_list {
    int64_t count;
    const char **texts; /* strings borrowed from shards */
    int64_t *owners;
} caption_list;

static int64_t caption_count(const cps_stream *stream, int64_t record, cps_place *place_out,
                             int64_t *field_out) {
    cps_stream_stored(stream, record, place_out);
    *field_out = cps_shard_field(place_out->shard, place_out->caption);
    return *field_out < 0 ? 0
                          : cps_shard_text_count(place_out->shard, *field_out, place_out->record);
}

static cps_status collect_captions(const evaluation *run, caption_list *captions_out) {
    const cps_stream *stream = run->request->streams->data;
    caption_list captions = {0};
    cps_place place;
    int64_t field;
    for (int64_t i = 0; i < run->images.rows; i++) {
        captions.count += caption_count(stream, run->images.records[i], &place, &field);
    }
    captions.texts = calloc((size_t)captions.count + 1, sizeof *captions.texts);
    captions.owners = calloc((size_t)captions.count + 1, sizeof *captions.owners);
    if (captions.texts == NULL || captions.owners == NULL || captions.count == 0) {
        free(captions.texts);
        free(captions.owners);
        return captions.count == 0
                   ? cps_fail(CPS_ERR_DATA,
                              "%s: no readable image has a caption: pack the set with a caption "
                              "column, or name the field (caption = \"...\")",
                              run->where)
                   : fail_memory(run);
    }
    int64_t at = 0;
    for (int64_t i = 0; i < run->images.rows; i++) {
        const int64_t count = caption_count(stream, run->images.records[i], &place, &field);
        for (int64_t which = 0; which < count; which++, at++) {
            captions.texts[at] = cps_shard_text(place.shard, field, place.record, which);
            captions.owners[at] = i;
        }
    }
    *captions_out = captions;
    return CPS_OK;
}

static cps_status check_retrieval(evaluation *run) {
    const cps_retrieval_options *options = &run->options->retrieval;
    CPS_TRY(need_texts(run));
    CPS_TRY(take_weights(run, &options->score));
    for (int64_t i = 0; i < options->k.count; i++) {
        if (!(options->k.values[i] >= 1.0) || floor(options->k.values[i]) != options->k.values[i]) {
            return cps_fail(CPS_ERR_USAGE, "%s: k holds %g: whole numbers from 1 on are wanted",
                            run->where, options->k.values[i]);
        }
    }
    return CPS_OK;
}

/* Collective. From captions to metrics and predictions. */
static cps_status rank_captions(evaluation *run, const caption_list *captions) {
    const cps_evaluation_request *request = run->request;
    const cps_retrieval_options *options = &run->options->retrieval;
    cps_features texts = {0};
    cps_retrieval_ranks ranks = {0};
    cps_status status =
        cps_fail_context(cps_features_of_texts(request->comm, request->encoder, captions->texts,
                                               captions->count, true, &texts),
                         "%s", run->where);
    if (status == CPS_OK) {
        status = cps_retrieval(request->comm, &run->images, &texts, captions->owners, run->weights,
                               &ranks);
    }
    if (status == CPS_OK) {
        status = cps_agree(
            request->comm, "evaluation",
            cps_retrieval_metrics_add(&ranks, options->k.values, options->k.count, run->metrics));
    }
    if (status == CPS_OK) {
        cps_json_add_number(run->metrics, "samples", (double)run->images.rows);
        add_left_out(run, run->images.left_out_count, run->images.non_finite + texts.non_finite);
        const cps_predictions_content content = {.ranks = &ranks, .owners = captions->owners};
        status = write_predictions(run, content);
    }
    cps_features_free(&texts);
    cps_retrieval_ranks_free(&ranks);
    return status;
}

static cps_status retrieval(evaluation *run) {
    cps_comm *comm = run->request->comm;
    caption_list captions = {0};
    CPS_TRY(cps_agree(comm, "evaluation", check_retrieval(run)));
    CPS_TRY(encode_data(run, false));
    CPS_TRY(cps_agree(comm, "evaluation", collect_captions(run, &captions)));
    const cps_status status = rank_captions(run, &captions);
    free(captions.texts);
    free(captions.owners);
    return status;
}

/* ---- k-NN ---- */

/* The neighbours: rows with labels, in the joint class list. */
typedef struct bank_set {
    cps_features features;
    uint64_t *ids;
    int32_t *labels;
} bank_set;

static void bank_free(bank_set *bank) {
    cps_features_free(&bank->features);
    free(bank->ids);
    free(bank->labels);
}

/* Drops rows without a label and translates the labels of the others. */
static cps_status label_bank(evaluation *run, const cps_class_list *bank_classes, bank_set *bank) {
    int64_t *map = calloc((size_t)bank_classes->count + 1, sizeof *map);
    if (map == NULL) {
        return fail_memory(run);
    }
    cps_features *features = &bank->features;
    const cps_status status = cps_class_list_join(&run->classes, bank_classes, map);
    int64_t kept = 0;
    for (int64_t i = 0; i < features->rows && status == CPS_OK; i++) {
        if (bank->labels[i] < 0) {
            continue;
        }
        memmove(features->values + kept * features->width, features->values + i * features->width,
                (size_t)features->width * sizeof *features->values);
        bank->ids[kept] = bank->ids[i];
        bank->labels[kept++] = (int32_t)map[bank->labels[i]];
    }
    free(map);
    CPS_TRY(status);
    features->rows = kept;
    return kept > 0 ? CPS_OK
                    : cps_fail(CPS_ERR_DATA,
                               "%s: no readable image of the bank has a label, so none can vote: "
                               "pack the bank with labels",
                               run->where);
}

/* Collective. */
static cps_status load_bank(evaluation *run, bank_set *bank_out) {
    cps_comm *comm = run->request->comm;
    cps_class_list classes = {0};
    CPS_TRY(cps_agree(comm, "evaluation",
                      cps_class_list_of(run->request->streams->bank, run->where, &classes)));
    cps_status status =
        cps_fail_context(encode_stream(run, run->request->streams->bank, true, &bank_out->features,
                                       &bank_out->ids, &bank_out->labels),
                         "bank");
    if (status == CPS_OK) {
        status = cps_agree(comm, "evaluation", label_bank(run, &classes, bank_out));
    }
    cps_class_list_free(&classes);
    return status;
}

static cps_status check_knn(evaluation *run) {
    const cps_numbers own = {0};
    CPS_BUG_IF(run->request->streams->bank == NULL || run->options->knn.k < 1);
    CPS_TRY(take_weights(run, &own));
    return cps_class_list_of(run->request->streams->data, run->where, &run->classes);
}

/* Collective. Votes, metrics, predictions. */
static cps_status poll_neighbours(evaluation *run, const bank_set *bank) {
    const cps_evaluation_request *request = run->request;
    const cps_knn_options *options = &run->options->knn;
    cps_predictions predictions = {0};
    CPS_TRY(cps_knn(request->comm, &run->images, run->sample_ids, &bank->features, bank->ids,
                    bank->labels, run->weights, options->k, options->temperature,
                    run->classes.count, TOP_LEAST, &predictions));
    cps_status status =
        cps_agree(request->comm, "evaluation",
                  cps_classification_metrics(&predictions, run->labels, run->classes.count,
                                             run->where, run->metrics));
    if (status == CPS_OK) {
        add_left_out(run, run->images.left_out_count + bank->features.left_out_count,
                     run->images.non_finite + bank->features.non_finite);
        const cps_predictions_content content = {.predictions = &predictions,
                                                 .classes = &run->classes,
                                                 .bank_digest =
                                                     cps_stream_digest(request->streams->bank)};
        status = write_predictions(run, content);
    }
    cps_predictions_free(&predictions);
    return status;
}

static cps_status knn(evaluation *run) {
    bank_set bank = {0};
    CPS_TRY(cps_agree(run->request->comm, "evaluation", check_knn(run)));
    cps_status status = encode_data(run, true);
    if (status == CPS_OK) {
        status = load_bank(run, &bank);
    }
    if (status == CPS_OK) {
        status = poll_neighbours(run, &bank);
    }
    bank_free(&bank);
    return status;
}

/* ---- the door ---- */

static cps_status dispatch(evaluation *run) {
    switch (run->options->kind) {
    case CPS_EVAL_ZERO_SHOT:
        return zero_shot(run);
    case CPS_EVAL_RETRIEVAL:
        return retrieval(run);
    case CPS_EVAL_KNN:
        return knn(run);
    case CPS_EVAL_VALIDATION_LOSS:
        break;
    }
    return cps_fail(CPS_ERR_INTERNAL, "%s: %s is computed by the training loop, not from features",
                    run->where, cps_eval_kind_name(run->options->kind));
}

cps_status cps_evaluate(const cps_evaluation_request *request, cps_json **metrics_out) {
    evaluation run = {
        .request = request, .options = request->options, .metrics = cps_json_new_object()};
    snprintf(run.where, sizeof run.where, "evaluation '%s'", request->options->name);
    const cps_status status = dispatch(&run);
    cps_features_free(&run.images);
    cps_class_list_free(&run.classes);
    free(run.sample_ids);
    free(run.labels);
    if (status != CPS_OK) {
        cps_json_destroy(run.metrics);
        return status;
    }
    *metrics_out = run.metrics;
    return CPS_OK;
}

/* ---- memory ---- */

/* Features of a stream with ids and labels. */
static size_t stream_bytes(const cps_stream *stream, const cps_encoder *encoder, int32_t threads) {
    return cps_features_image_bytes(encoder, stream, threads) +
           (size_t)cps_stream_records(stream) * (sizeof(uint64_t) + sizeof(int32_t));
}

static size_t zero_shot_bytes(const cps_zero_shot_options *options, const cps_stream *stream,
                              const cps_encoder *encoder) {
    cps_place place;
    cps_stream_stored(stream, 0, &place);
    const int64_t classes = cps_shard_class_count(place.shard);
    const int64_t top = cps_min_i64(cps_max_i64(TOP_LEAST, options->top), classes);
    const size_t prediction = sizeof(int32_t) + sizeof(cps_real);
    return cps_class_vectors_bytes(encoder, classes, options->templates.count) +
           2 * (size_t)(cps_stream_records(stream) * top) * prediction;
}

static size_t retrieval_bytes(const cps_stream *stream, const cps_encoder *encoder) {
    int64_t captions = 0;
    for (int64_t i = 0; i < cps_stream_records(stream); i++) {
        cps_place place;
        int64_t field;
        captions += caption_count(stream, i, &place, &field);
    }
    const size_t ranks = 4 * (size_t)(captions + cps_stream_records(stream)) * sizeof(int64_t);
    const size_t list = (size_t)captions * (sizeof(char *) + sizeof(int64_t));
    return cps_features_text_bytes(encoder, captions) + list + ranks;
}

size_t cps_evaluation_bytes(const cps_evaluation_options *options,
                            const cps_evaluation_streams *streams, const cps_encoder *encoder,
                            int32_t loader_threads) {
    if (options->kind == CPS_EVAL_VALIDATION_LOSS || cps_stream_records(streams->data) == 0) {
        return 0;
    }
    size_t bytes = stream_bytes(streams->data, encoder, loader_threads);
    if (options->kind == CPS_EVAL_ZERO_SHOT && encoder->texts != NULL) {
        bytes += zero_shot_bytes(&options->zero_shot, streams->data, encoder);
    } else if (options->kind == CPS_EVAL_RETRIEVAL && encoder->texts != NULL) {
        bytes += retrieval_bytes(streams->data, encoder);
    } else if (options->kind == CPS_EVAL_KNN) {
        bytes += stream_bytes(streams->bank, encoder, loader_threads);
    }
    return bytes;
}
