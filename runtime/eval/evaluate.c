/* An evaluation: streams -> features -> one of the kinds (evaluate_<kind>.c) -> metrics,
 * predictions. */
#include "eval/evaluation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/agree.h"
#include "eval/seen.h"

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
    const cps_stream_spec all = {.name = is_bank ? "bank" : "data", .sets = &spec, .set_count = 1};
    if (options->kind != CPS_EVAL_RETRIEVAL) {
        return cps_stream_create(&all, 0, pool, stream_out);
    }
    cps_stream *stream = NULL;
    CPS_TRY(cps_stream_create(&all, 0, pool, &stream));
    const cps_status status = cps_stream_narrow(stream, CPS_RECORD_CAPTION, stream_out);
    cps_stream_destroy(stream);
    return status;
}

static cps_status check_labels(const cps_stream *stream) {
    cps_class_list classes = {0};
    const cps_status status = cps_class_list_of(stream, &classes);
    cps_class_list_free(&classes);
    return status;
}

static cps_status check_kind(const cps_evaluation_options *options,
                             const cps_evaluation_streams *streams, cps_taxonomy_use *use_out) {
    switch (options->kind) {
    case CPS_EVAL_ZERO_SHOT:
        *use_out = (cps_taxonomy_use)options->zero_shot.taxonomy;
        return cps_zero_shot_check(options, streams->data);
    case CPS_EVAL_KNN:
        *use_out = (cps_taxonomy_use)options->knn.taxonomy;
        CPS_TRY(check_labels(streams->data));
        return cps_fail_context(check_labels(streams->bank), "bank");
    case CPS_EVAL_FEW_SHOT:
        *use_out = (cps_taxonomy_use)options->few_shot.taxonomy;
        return cps_few_shot_check_data(&options->few_shot, streams->data);
    case CPS_EVAL_RETRIEVAL:
    case CPS_EVAL_VALIDATION_LOSS:
        break;
    }
    return CPS_OK;
}

static cps_status check_streams(const cps_evaluation_options *options,
                                const cps_evaluation_streams *streams) {
    cps_taxonomy_use use = CPS_TAXONOMY_OFF;
    CPS_TRY(check_kind(options, streams, &use));
    return use == CPS_TAXONOMY_ON ? cps_taxonomy_check(streams->data, streams->bank) : CPS_OK;
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
    status = status != CPS_OK ? status : check_streams(options, &streams);
    if (status != CPS_OK) {
        cps_evaluation_streams_close(&streams);
        return cps_fail_context(status, "evaluation '%s'", options->name);
    }
    *streams_out = streams;
    return CPS_OK;
}

cps_status cps_evaluations_find_unseen(const cps_evaluation_options *const *options,
                                       cps_evaluation_streams *const *evaluations, int64_t count,
                                       const cps_stream *const *training, int64_t training_count) {
    cps_seen *seen = NULL;
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        if (options[i]->kind != CPS_EVAL_ZERO_SHOT) {
            continue;
        }
        if (seen == NULL) { /* a pass over all training records: only where it is wanted */
            status = cps_seen_create(training, training_count, &seen);
        }
        if (status == CPS_OK) {
            status = cps_seen_mark(seen, evaluations[i]->data, &evaluations[i]->unseen);
        }
    }
    cps_seen_destroy(seen);
    return status;
}

void cps_evaluation_streams_close(cps_evaluation_streams *streams) {
    cps_stream_destroy(streams->data);
    cps_stream_destroy(streams->bank);
    free(streams->unseen);
    *streams = (cps_evaluation_streams){0};
}

/* ---- what all kinds share ---- */

cps_status cps_evaluation_out_of_memory(const cps_evaluation *run) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "%s: out of memory", run->where);
}

cps_status cps_evaluation_take_weights(cps_evaluation *run, const cps_numbers *score) {
    const cps_encoder *encoder = run->request->encoder;
    const int32_t given = encoder->component_count + encoder->left_out;
    memcpy(run->weights, encoder->score_weights, sizeof run->weights);
    if (score->count == 0) {
        return CPS_OK;
    }
    if (score->count != given) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: score has %lld weights, the objective's embed gives %d component%s: "
                        "give one weight for each, or leave score out",
                        run->where, (long long)score->count, (int)given, given == 1 ? "" : "s");
    }
    memcpy(run->weights, score->values, (size_t)score->count * sizeof *run->weights);
    return CPS_OK;
}

cps_status cps_evaluation_need_texts(const cps_evaluation *run) {
    return run->request->encoder->texts != NULL
               ? CPS_OK
               : cps_fail(CPS_ERR_USAGE,
                          "%s: %s compares images with texts, but what is evaluated has no text "
                          "side: evaluate the objective's embed (leave features out), or use "
                          "copse.knn or copse.few_shot",
                          run->where, cps_eval_kind_name(run->options->kind));
}

cps_status cps_evaluation_take_classes(cps_evaluation *run) {
    return cps_fail_context(cps_class_list_of(run->request->streams->data, &run->classes), "%s",
                            run->where);
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
static cps_status take_places(const cps_evaluation *run, const cps_stream *stream,
                              const cps_features *features, bool classes, uint64_t **ids_out,
                              int32_t **labels_out) {
    uint64_t *ids = calloc((size_t)features->rows + 1, sizeof *ids);
    int32_t *labels = classes ? calloc((size_t)features->rows + 1, sizeof *labels) : NULL;
    if (ids == NULL || (classes && labels == NULL)) {
        free(ids);
        free(labels);
        return cps_evaluation_out_of_memory(run);
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
cps_status cps_evaluation_encode(const cps_evaluation *run, const cps_stream *stream, bool classes,
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

cps_status cps_evaluation_encode_data(cps_evaluation *run, bool classes) {
    return cps_evaluation_encode(run, run->request->streams->data, classes, &run->images,
                                 &run->sample_ids, &run->labels);
}

void cps_evaluation_add_left_out(cps_evaluation *run, int64_t bad_images, int64_t non_finite) {
    cps_json_add_number(run->metrics, "bad_images", (double)bad_images);
    if (non_finite > 0) {
        cps_json_add_number(run->metrics, "non_finite", (double)non_finite);
    }
}

/* Where rows of the predictions come from, and how deep the best class agrees with the image. */
typedef struct row_facts {
    int64_t *records;
    int32_t *shards, *shared_depth;
    const char **shard_names; /* borrowed from paths of shards */
    int64_t shard_count;
} row_facts;

static void row_facts_free(row_facts *facts) {
    free(facts->records);
    free(facts->shards);
    free(facts->shared_depth);
    free(facts->shard_names);
}

static const char *last_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* Records come in stored order: those of a shard stand together. */
static void take_row_places(const cps_evaluation *run, row_facts *facts) {
    const cps_shard *last = NULL;
    for (int64_t i = 0; i < run->images.rows; i++) {
        cps_place place;
        cps_stream_stored(run->request->streams->data, run->images.records[i], &place);
        if (place.shard != last) {
            facts->shard_names[facts->shard_count++] = last_name(cps_shard_path(place.shard));
            last = place.shard;
        }
        facts->records[i] = place.record;
        facts->shards[i] = (int32_t)(facts->shard_count - 1);
    }
}

static void take_row_depths(const cps_evaluation *run, const cps_predictions *predictions,
                            int32_t *depths) {
    for (int64_t i = 0; i < run->images.rows; i++) {
        const int32_t own = run->row_organisms[i];
        const int32_t predicted = predictions->index[i * predictions->top];
        const int32_t said = predicted < 0 ? -1 : run->class_organisms[predicted];
        depths[i] = own < 0    ? -1
                    : said < 0 ? 0
                               : cps_taxonomy_shared_depth(cps_taxonomy_path(run->taxonomy, said),
                                                           cps_taxonomy_path(run->taxonomy, own));
    }
}

static cps_status take_row_facts(const cps_evaluation *run, const cps_predictions *predictions,
                                 row_facts *facts) {
    const size_t room = (size_t)run->images.rows + 1;
    const bool depths = run->taxonomy != NULL && predictions != NULL;
    facts->records = calloc(room, sizeof *facts->records);
    facts->shards = calloc(room, sizeof *facts->shards);
    facts->shard_names = calloc(room, sizeof *facts->shard_names);
    facts->shared_depth = depths ? calloc(room, sizeof *facts->shared_depth) : NULL;
    if (facts->records == NULL || facts->shards == NULL || facts->shard_names == NULL ||
        (depths && facts->shared_depth == NULL)) {
        return cps_evaluation_out_of_memory(run);
    }
    take_row_places(run, facts);
    if (depths) {
        take_row_depths(run, predictions, facts->shared_depth);
    }
    return CPS_OK;
}

/* Local. `content` gets what all kinds have. */
static cps_status write_predictions(const cps_evaluation *run, cps_predictions_content content) {
    const cps_evaluation_request *request = run->request;
    row_facts facts = {0};
    cps_status status = take_row_facts(run, content.predictions, &facts);
    if (status == CPS_OK) {
        content.evaluation = run->options->name;
        content.kind = cps_eval_kind_name(run->options->kind);
        content.step = request->step;
        content.data_digest = cps_stream_digest(request->streams->data);
        content.preprocessing_digest = cps_recipe_digest(&request->encoder->image_recipe);
        content.rows = run->images.rows;
        content.sample_ids = run->sample_ids;
        content.labels = run->labels;
        content.records = facts.records;
        content.shards = facts.shards;
        content.shard_names = facts.shard_names;
        content.shard_count = facts.shard_count;
        content.shared_depth = facts.shared_depth;
        status = cps_predictions_write(request->predictions_path, &content);
    }
    row_facts_free(&facts);
    return status;
}

/* Collective. Rank 0 writes; `content` gets what all kinds have. */
cps_status cps_evaluation_write(const cps_evaluation *run, cps_predictions_content content) {
    const cps_evaluation_request *request = run->request;
    if (request->predictions_path == NULL) {
        return CPS_OK;
    }
    cps_status status = CPS_OK;
    if (cps_comm_rank(request->comm) == 0) {
        status = write_predictions(run, content);
    }
    return cps_agree(request->comm, "predictions", status);
}

/* ---- the door ---- */

static cps_status dispatch(cps_evaluation *run) {
    switch (run->options->kind) {
    case CPS_EVAL_ZERO_SHOT:
        return cps_evaluate_zero_shot(run);
    case CPS_EVAL_RETRIEVAL:
        return cps_evaluate_retrieval(run);
    case CPS_EVAL_KNN:
        return cps_evaluate_knn(run);
    case CPS_EVAL_FEW_SHOT:
        return cps_evaluate_few_shot(run);
    case CPS_EVAL_VALIDATION_LOSS:
        break;
    }
    return cps_fail(CPS_ERR_INTERNAL, "%s: %s is computed by the training loop, not from features",
                    run->where, cps_eval_kind_name(run->options->kind));
}

cps_status cps_evaluate(const cps_evaluation_request *request, cps_json **metrics_out) {
    cps_evaluation run = {
        .request = request, .options = request->options, .metrics = cps_json_new_object()};
    snprintf(run.where, sizeof run.where, "evaluation '%s'", request->options->name);
    const cps_status status = dispatch(&run);
    cps_features_free(&run.images);
    cps_class_list_free(&run.classes);
    cps_taxonomy_destroy(run.taxonomy);
    free(run.class_organisms);
    free(run.row_organisms);
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

/* Features of a stream with ids, labels and organisms. */
static size_t stream_bytes(const cps_stream *stream, const cps_encoder *encoder, int32_t threads) {
    return cps_features_image_bytes(encoder, stream, threads) +
           (size_t)cps_stream_records(stream) * (sizeof(uint64_t) + 2 * sizeof(int32_t));
}

size_t cps_evaluation_bytes(const cps_evaluation_options *options,
                            const cps_evaluation_streams *streams, const cps_encoder *encoder,
                            int32_t loader_threads) {
    if (options->kind == CPS_EVAL_VALIDATION_LOSS || cps_stream_records(streams->data) == 0) {
        return 0;
    }
    size_t bytes = stream_bytes(streams->data, encoder, loader_threads);
    if (options->kind == CPS_EVAL_ZERO_SHOT && encoder->texts != NULL) {
        bytes += cps_zero_shot_bytes(&options->zero_shot, streams->data, encoder);
    } else if (options->kind == CPS_EVAL_RETRIEVAL && encoder->texts != NULL) {
        bytes += cps_retrieval_bytes(streams->data, encoder);
    } else if (options->kind == CPS_EVAL_KNN) {
        bytes += stream_bytes(streams->bank, encoder, loader_threads);
    } else if (options->kind == CPS_EVAL_FEW_SHOT) {
        bytes += cps_few_shot_bytes(encoder, cps_stream_records(streams->data),
                                    cps_class_count_of(streams->data), &options->few_shot);
    }
    return bytes;
}
