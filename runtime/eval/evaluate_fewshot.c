#include "eval/evaluation.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "comm/agree.h"

cps_status cps_few_shot_check_data(const cps_few_shot_options *options, const cps_stream *data) {
    const int64_t records = cps_stream_records(data);
    cps_class_list classes = {0};
    cps_shot_deck deck = {0};
    int32_t *labels = calloc((size_t)records + 1, sizeof *labels);
    cps_status status = labels == NULL ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for labels")
                                       : cps_class_list_of(data, &classes);
    for (int64_t i = 0; i < records && status == CPS_OK; i++) {
        cps_place place;
        cps_stream_stored(data, i, &place);
        labels[i] = cps_shard_label(place.shard, place.record);
    }
    if (status == CPS_OK) {
        status = cps_shot_deck_create(labels, records, classes.count, &deck);
    }
    if (status == CPS_OK) {
        status = cps_few_shot_check(&deck, options, classes.names);
    }
    cps_shot_deck_free(&deck);
    cps_class_list_free(&classes);
    free(labels);
    return status;
}

static cps_status check_few_shot(cps_evaluation *run) {
    const cps_numbers own = {0};
    CPS_TRY(cps_evaluation_take_weights(run, &own));
    return cps_evaluation_take_classes(run);
}

/* Tells which classes did not have enough images. */
static void report_short_classes(const cps_evaluation *run, const cps_few_shot_result *result) {
    for (int64_t i = 0; i < result->shot_count; i++) {
        const cps_shot_result *shot = &result->shots[i];
        if (shot->short_count == 0) {
            continue;
        }
        char *text = cps_format(
            "%s: %lld of %lld classes have fewer than %lld readable images and %s", run->where,
            (long long)shot->short_count, (long long)run->classes.count, (long long)shot->k,
            run->options->few_shot.short_classes == CPS_SHORT_LEAVE_OUT
                ? "stay out"
                : "are kept with what they have");
        cps_log_once(CPS_LOG_WARN, text);
        free(text);
    }
}

static void add_metrics(cps_evaluation *run, const cps_few_shot_result *result) {
    int64_t labelled = 0;
    for (int64_t i = 0; i < run->images.rows; i++) {
        labelled += run->labels[i] >= 0;
    }
    for (int64_t i = 0; i < result->shot_count; i++) {
        const cps_shot_result *shot = &result->shots[i];
        char key[64];
        snprintf(key, sizeof key, "shot%lld", (long long)shot->k);
        cps_json_add_number(run->metrics, key, shot->mean);
        snprintf(key, sizeof key, "shot%lld_std", (long long)shot->k);
        cps_json_add_number(run->metrics, key, shot->std);
        if (shot->short_count > 0) {
            snprintf(key, sizeof key, "shot%lld_short_classes", (long long)shot->k);
            cps_json_add_number(run->metrics, key, (double)shot->short_count);
        }
    }
    cps_json_add_number(run->metrics, "samples", (double)labelled);
    if (labelled < run->images.rows) {
        cps_json_add_number(run->metrics, "unlabelled", (double)(run->images.rows - labelled));
    }
    cps_evaluation_add_left_out(run, run->images.left_out_count, run->images.non_finite);
}

cps_status cps_evaluate_few_shot(cps_evaluation *run) {
    cps_comm *comm = run->request->comm;
    cps_few_shot_result result = {0};
    CPS_TRY(cps_agree(comm, "evaluation", check_few_shot(run)));
    CPS_TRY(cps_evaluation_encode_data(run, true));
    CPS_TRY(cps_fail_context(cps_few_shot(comm, &run->images, run->labels, run->classes.count,
                                          run->classes.names, &run->options->few_shot, run->weights,
                                          &result),
                             "%s", run->where));
    report_short_classes(run, &result);
    add_metrics(run, &result);
    const cps_predictions_content content = {.classes = &run->classes, .few_shot = &result};
    const cps_status status = cps_evaluation_write(run, content);
    cps_few_shot_result_free(&result);
    return status;
}
