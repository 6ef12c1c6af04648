#include "eval/evaluation.h"

#include <math.h>
#include <stdlib.h>

#include "comm/agree.h"
#include "eval/retrieval.h"

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

static cps_status collect_captions(const cps_evaluation *run, caption_list *captions_out) {
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
                   : cps_evaluation_out_of_memory(run);
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

static cps_status check_retrieval(cps_evaluation *run) {
    const cps_retrieval_options *options = &run->options->retrieval;
    CPS_TRY(cps_evaluation_need_texts(run));
    CPS_TRY(cps_evaluation_take_weights(run, &options->score));
    for (int64_t i = 0; i < options->k.count; i++) {
        if (!(options->k.values[i] >= 1.0) || floor(options->k.values[i]) != options->k.values[i]) {
            return cps_fail(CPS_ERR_USAGE, "%s: k holds %g: whole numbers from 1 on are wanted",
                            run->where, options->k.values[i]);
        }
    }
    return CPS_OK;
}

/* Collective. From captions to metrics and predictions. */
static cps_status rank_captions(cps_evaluation *run, const caption_list *captions) {
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
        cps_evaluation_add_left_out(run, run->images.left_out_count,
                                    run->images.non_finite + texts.non_finite);
        const cps_predictions_content content = {.ranks = &ranks, .owners = captions->owners};
        status = cps_evaluation_write(run, content);
    }
    cps_features_free(&texts);
    cps_retrieval_ranks_free(&ranks);
    return status;
}

cps_status cps_evaluate_retrieval(cps_evaluation *run) {
    cps_comm *comm = run->request->comm;
    caption_list captions = {0};
    CPS_TRY(cps_agree(comm, "evaluation", check_retrieval(run)));
    CPS_TRY(cps_evaluation_encode_data(run, false));
    CPS_TRY(cps_agree(comm, "evaluation", collect_captions(run, &captions)));
    const cps_status status = rank_captions(run, &captions);
    free(captions.texts);
    free(captions.owners);
    return status;
}

size_t cps_retrieval_bytes(const cps_stream *stream, const cps_encoder *encoder) {
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
