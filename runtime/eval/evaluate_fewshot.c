#include "eval/evaluation.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/interval.h"

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

static cps_status take_taxonomy(cps_evaluation *run) {
    cps_place *places = calloc((size_t)run->classes.count + 1, sizeof *places);
    if (places == NULL) {
        return cps_evaluation_out_of_memory(run);
    }
    cps_class_first_records(run->request->streams->data, NULL, places);
    const cps_status status = cps_evaluation_take_taxonomy(
        run, (cps_taxonomy_use)run->options->few_shot.taxonomy, places);
    free(places);
    return status;
}

/* Over the queries of all folds. */
static void add_ranks(cps_evaluation *run, const cps_few_shot_result *result,
                      const cps_shot_result *shot) {
    cps_rank_counts counts = {0};
    for (int64_t fold = 0; fold < result->folds; fold++) {
        for (int64_t i = 0; i < result->rows; i++) {
            const int32_t predicted = shot->predicted[fold * result->rows + i];
            if (predicted >= 0) {
                cps_evaluation_count_ranks(run, i, predicted, &counts);
            }
        }
    }
    char prefix[64];
    snprintf(prefix, sizeof prefix, "shot%lld_", (long long)shot->k);
    cps_rank_counts_report(&counts, prefix, run->metrics);
}

/* How sure `shot->mean` is: samples are resampled with their answers in all folds. */
static cps_status find_interval(const cps_evaluation *run, const cps_few_shot_result *result,
                                const cps_shot_result *shot, double *low_out, double *high_out) {
    cps_tally *tallies = cps_allocate_zero(result->rows, 1, sizeof *tallies);
    int64_t samples = 0;
    if (tallies == NULL) {
        return cps_evaluation_out_of_memory(run);
    }
    for (int64_t i = 0; i < result->rows; i++) {
        cps_tally tally = {0};
        for (int64_t fold = 0; fold < result->folds; fold++) {
            const int32_t predicted = shot->predicted[fold * result->rows + i];
            tally.asked += predicted >= 0;
            tally.hits += predicted >= 0 && predicted == run->labels[i];
        }
        if (tally.asked > 0) {
            tallies[samples++] = tally;
        }
    }
    const cps_status status = cps_tally_interval(tallies, samples, low_out, high_out);
    free(tallies);
    return status;
}

static void add_number(cps_evaluation *run, const cps_shot_result *shot, const char *ending,
                       double value) {
    char key[64];
    snprintf(key, sizeof key, "shot%lld%s", (long long)shot->k, ending);
    cps_json_add_number(run->metrics, key, value);
}

static cps_status add_metrics(cps_evaluation *run, const cps_few_shot_result *result) {
    int64_t labelled = 0;
    for (int64_t i = 0; i < run->images.rows; i++) {
        labelled += run->labels[i] >= 0;
    }
    for (int64_t i = 0; i < result->shot_count; i++) {
        const cps_shot_result *shot = &result->shots[i];
        double low, high;
        CPS_TRY(find_interval(run, result, shot, &low, &high));
        add_number(run, shot, "", shot->mean);
        add_number(run, shot, "_std", shot->std);
        add_number(run, shot, "_low", low);
        add_number(run, shot, "_high", high);
        add_number(run, shot, "_chance", 1.0 / (double)shot->class_count);
        if (shot->short_count > 0) {
            add_number(run, shot, "_short_classes", (double)shot->short_count);
        }
    }
    cps_json_add_number(run->metrics, "samples", (double)labelled);
    if (labelled < run->images.rows) {
        cps_json_add_number(run->metrics, "unlabelled", (double)(run->images.rows - labelled));
    }
    cps_evaluation_add_left_out(run, run->images.left_out_count, run->images.non_finite);
    return CPS_OK;
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
    cps_status status = cps_agree(comm, "evaluation", add_metrics(run, &result));
    status = status != CPS_OK ? status : cps_agree(comm, "evaluation", take_taxonomy(run));
    for (int64_t i = 0; i < result.shot_count && run->taxonomy != NULL && status == CPS_OK; i++) {
        add_ranks(run, &result, &result.shots[i]);
    }
    if (status == CPS_OK) {
        const cps_predictions_content content = {.classes = &run->classes, .few_shot = &result};
        status = cps_evaluation_write(run, content);
    }
    cps_few_shot_result_free(&result);
    return status;
}
