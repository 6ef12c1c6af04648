/* Evaluations of a run: which are due, what they give, and what follows: best value, early stop,
 * the job's on_evaluate. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "comm/agree.h"
#include "eval/config.h"
#include "train/loop_private.h"
#include "train/validation.h"

static bool is_due(const cps_loop *loop, const cps_evaluation_options *options, cps_due due) {
    const cps_stage_plan *plan = loop->run->stages[loop->state.stage].plan;
    const int64_t done = loop->state.data_step;
    if (due == CPS_DUE_NOTHING ||
        (options->kind == CPS_EVAL_VALIDATION_LOSS && !plan->has_loss && !plan->has_grain_loss)) {
        return false; /* a stage that only fits has no loss to validate */
    }
    if (!cps_run_evaluates_in(options, plan->options.name)) {
        return false;
    }
    const bool now =
        (options->every_steps > 0 && done % options->every_steps == 0) ||
        (options->every_epoch && plan->steps_per_epoch > 0 && done % plan->steps_per_epoch == 0);
    return due == CPS_DUE_STAGE_END || (due == CPS_DUE_STEP && now) ||
           ((due == CPS_DUE_REST || due == CPS_DUE_BESIDE) && !now);
}

/* ---- one evaluation
 * ---------------------------------------------------------------------------------------------------------
 */

void cps_loop_close_embedder(cps_loop *loop) {
    cps_embedder_destroy(loop->embedder);
    loop->embedder = NULL;
    for (int64_t i = 0; loop->validations != NULL && i < loop->run->evaluation_count; i++) {
        cps_validation_destroy(loop->validations[i]);
    }
    free(loop->validations);
    loop->validations = NULL;
}

cps_status cps_loop_open_validations(cps_loop *loop) {
    cps_run *run = loop->run;
    const cps_stage_plan *plan = run->stages[loop->state.stage].plan;
    loop->validations = calloc((size_t)run->evaluation_count + 1, sizeof(cps_validation *));
    if (loop->validations == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for evaluations");
    }
    for (int64_t i = 0; i < run->evaluation_count; i++) {
        const cps_run_evaluation *evaluation = &run->evaluations[i];
        if (evaluation->options->kind == CPS_EVAL_VALIDATION_LOSS &&
            (plan->has_loss || plan->has_grain_loss) &&
            cps_run_evaluates_in(evaluation->options, plan->options.name)) {
            CPS_TRY(
                cps_validation_create(run, loop->state.stage, evaluation, &loop->validations[i]));
        }
    }
    return CPS_OK;
}

static cps_status open_embedder(cps_loop *loop, const cps_evaluation_options *options,
                                cps_embedder **embedder_out) {
    cps_stage_plan *plan = loop->run->stages[loop->state.stage].plan;
    if (options->features_tower != NULL) {
        return cps_embedder_create(plan, options->features_tower, options->features_output, 0,
                                   embedder_out);
    }
    if (loop->embedder == NULL) {
        CPS_TRY(cps_embedder_create(plan, NULL, NULL, 0, &loop->embedder));
    }
    *embedder_out = loop->embedder;
    return CPS_OK;
}

static void note_left_out(void *context, const cps_place *place, const char *reason) {
    cps_loop *loop = context;
    if (cps_quarantine_note(loop->quarantine, cps_shard_path(place->shard), place->record,
                            place->sample_id, reason) != CPS_OK) {
        cps_log_once(CPS_LOG_WARN, cps_fail_message());
    }
}

/* Collective. */
static cps_status score(cps_loop *loop, const cps_run_evaluation *evaluation,
                        const cps_encoder *encoder, cps_json **metrics_out) {
    cps_run *run = loop->run;
    char *path = cps_format("%s/predictions/%s.h5", loop->folder, evaluation->options->name);
    char *folder = cps_path_folder(path);
    cps_status status = cps_agree(run->comm, "predictions",
                                  cps_comm_rank(run->comm) == 0 ? cps_dir_create(folder) : CPS_OK);
    free(folder);
    const cps_evaluation_request request = {
        .options = evaluation->options,
        .streams = &evaluation->streams,
        .encoder = encoder,
        .comm = run->comm,
        .step = cps_loop_step(loop),
        .loader_threads = run->loader_threads,
        .predictions_path = path,
        .left_out = note_left_out,
        .left_out_context = loop,
    };
    status = status != CPS_OK ? status : cps_evaluate(&request, metrics_out);
    free(path);
    return status;
}

/* Weights of components that the job gives; NULL: the kind has none. */
static const cps_numbers *score_of(const cps_evaluation_options *options) {
    return options->kind == CPS_EVAL_ZERO_SHOT   ? &options->zero_shot.score
           : options->kind == CPS_EVAL_RETRIEVAL ? &options->retrieval.score
                                                 : NULL;
}

/* Collective. */
static cps_status embed_and_score(cps_loop *loop, const cps_run_evaluation *evaluation,
                                  cps_json **metrics_out) {
    cps_embedder *embedder = NULL;
    cps_status status = open_embedder(loop, evaluation->options, &embedder);
    if (status == CPS_OK) {
        cps_embedder_weigh(embedder, score_of(evaluation->options));
        status = cps_embedder_prepare(embedder);
    }
    status = cps_agree(loop->run->comm, "evaluation", status);
    status = status != CPS_OK
                 ? status
                 : score(loop, evaluation, cps_embedder_encoder(embedder), metrics_out);
    if (embedder != loop->embedder) {
        cps_embedder_destroy(embedder);
    }
    return status;
}

static cps_status evaluate(cps_loop *loop, int64_t index, cps_json **metrics_out) {
    const cps_run_evaluation *evaluation = &loop->run->evaluations[index];
    char *doing = cps_format("evaluating %s", evaluation->options->name);
    cps_heartbeat_doing(loop->heartbeat, true, doing);
    free(doing);
    cps_timing_begin(&loop->timing, "evaluation");
    const cps_status status =
        evaluation->options->kind == CPS_EVAL_VALIDATION_LOSS
            ? cps_validation_run(loop->validations[index], loop->state.data_step, metrics_out)
            : embed_and_score(loop, evaluation, metrics_out);
    cps_timing_end(&loop->timing);
    return status;
}

/* ---- what follows
 * ------------------------------------------------------------------------------------------------------------
 */

/* Value of "<evaluation>.<key>" in the metrics of this boundary; NaN if it was not made now. */
static double value_of(const cps_json *all, const char *metric) {
    return metric == NULL ? (double)NAN : cps_json_get_number(all, metric, (double)NAN);
}

static bool better(const char *metric, double now, double then, double margin) {
    return cps_metric_less_is_better(metric) ? now < then - margin : now > then + margin;
}

/* Rank 0: predictions of the evaluation as they stand now become those of the best checkpoint, or
 * with `remove` there are none. */
static cps_status keep_predictions(const cps_loop *loop, const char *name, bool remove) {
    char *from = cps_format("%s/predictions/%s.h5", loop->folder, name);
    char *to = cps_format("%s/predictions/best/%s.h5", loop->folder, name);
    char *folder = cps_path_folder(to), *bytes = NULL;
    size_t length = 0;
    cps_status status = CPS_OK;
    if (remove) {
        unlink(to);                     /* mostly there is none */
    } else if (cps_file_exists(from)) { /* a validation loss has none */
        status = cps_dir_create(folder);
        status = status != CPS_OK ? status : cps_file_read(from, SIZE_MAX, &bytes, &length);
        status = status != CPS_OK ? status : cps_file_write_atomic(to, bytes, length);
    }
    free(bytes);
    free(folder);
    free(to);
    free(from);
    return status;
}

/* What was evaluated at the step of the best value is kept beside the last predictions, in
 * predictions/best: comparisons of best checkpoints read it. Some evaluations of a step may come
 * in a second call; those of an earlier best go. Collective. */
static cps_status keep_best(cps_loop *loop, cps_due due) {
    cps_run *run = loop->run;
    if (!loop->state.new_best || loop->checkpoints == NULL) { /* copse eval has no checkpoints */
        return CPS_OK;
    }
    const bool first = loop->best_step != cps_loop_step(loop);
    cps_status status = CPS_OK;
    loop->best_step = cps_loop_step(loop);
    for (int64_t i = 0; i < run->evaluation_count && status == CPS_OK; i++) {
        const bool done = is_due(loop, run->evaluations[i].options, due);
        if (cps_comm_rank(run->comm) == 0 && (done || first)) {
            status = keep_predictions(loop, run->evaluations[i].options->name, !done);
        }
    }
    return cps_agree(run->comm, "predictions of the best checkpoint", status);
}

static void note_best(cps_loop *loop, const cps_json *all) {
    const char *metric = loop->run->checkpoint.best;
    const double value = value_of(all, metric);
    if (!isnan(value) &&
        (!loop->state.has_best || better(metric, value, loop->state.best_value, 0.0))) {
        loop->state.has_best = true;
        loop->state.best_value = value;
        loop->state.new_best = true;
    }
}

static bool early_stop(cps_loop *loop, const cps_json *all) {
    const cps_early_stop_options *options = &loop->run->early_stop;
    const double value = value_of(all, options->metric);
    if (isnan(value)) {
        return false;
    }
    if (!loop->state.has_stop ||
        better(options->metric, value, loop->state.stop_value, options->min_delta)) {
        loop->state.has_stop = true;
        loop->state.stop_value = value;
        loop->state.waited = 0;
        return false;
    }
    loop->state.waited++;
    return loop->state.waited >= options->patience;
}

/* The job's function decides on rank 0; its table reaches all, so that checkpoints agree.
 * Collective. */
static cps_status ask_job(cps_loop *loop, const cps_json *all, bool *stop_out) {
    cps_run *run = loop->run;
    if (!run->job_options.has_on_evaluate) {
        return CPS_OK;
    }
    cps_status status = CPS_OK;
    char *text = NULL;
    if (cps_comm_rank(run->comm) == 0) {
        bool stop = false;
        status = run->calls->on_evaluate(run->calls->context, all, &loop->state.table, &stop);
        if (status == CPS_OK) {
            cps_json *answer = cps_json_new_object();
            cps_json_add_bool(answer, "stop", stop);
            if (loop->state.table != NULL) {
                cps_json_add_copy(answer, "table", loop->state.table);
            }
            text = cps_json_print(answer, false, true);
            cps_json_destroy(answer);
        }
    }
    status = cps_agree(run->comm, "on_evaluate", status);
    if (status != CPS_OK) {
        free(text);
        return status;
    }
    void *bytes = text;
    size_t length = text == NULL ? 0 : strlen(text) + 1;
    cps_comm_broadcast_alloc(run->comm, "on_evaluate", &bytes, &length, 0);
    cps_json *answer = NULL;
    status = cps_json_parse(bytes, length - 1, "on_evaluate", &answer);
    if (status == CPS_OK) {
        *stop_out = *stop_out || cps_json_get_bool(answer, "stop", false);
        const cps_json *table = cps_json_get(answer, "table");
        if (cps_comm_rank(run->comm) != 0 && table != NULL) {
            char *inner = cps_json_print(table, false, true);
            cps_json_destroy(loop->state.table);
            loop->state.table = NULL;
            status = cps_json_parse(inner, strlen(inner), "on_evaluate", &loop->state.table);
            free(inner);
        }
    }
    cps_json_destroy(answer);
    free(bytes);
    return cps_agree(run->comm, "on_evaluate", status);
}

cps_status cps_loop_evaluate_due(cps_loop *loop, cps_due due, bool *stop_out) {
    cps_run *run = loop->run;
    cps_json *all = cps_json_new_object();
    cps_status status = CPS_OK;
    bool any = false;
    for (int64_t i = 0; i < run->evaluation_count && status == CPS_OK; i++) {
        const cps_evaluation_options *options = run->evaluations[i].options;
        if (!is_due(loop, options, due)) {
            continue;
        }
        if (loop->updater != NULL) {
            cps_updater_wait_weights(loop->updater);
        }
        if (!any) {
            cps_progress_pause(loop->progress);
        }
        any = true;
        cps_json *metrics = NULL;
        status = evaluate(loop, i, &metrics);
        if (status == CPS_OK) {
            status = cps_agree(run->comm, "report of an evaluation",
                               cps_loop_report_evaluation(loop, options->name, metrics));
        }
        for (const cps_json *metric = cps_json_first(metrics); metric != NULL;
             metric = cps_json_next(metric)) {
            char name[256];
            snprintf(name, sizeof name, "%s.%s", options->name, cps_json_key(metric));
            if (cps_json_is_number(metric)) {
                cps_json_add_number(all, name, cps_json_number(metric));
            }
        }
        cps_json_destroy(metrics);
    }
    if (any) {
        cps_heartbeat_doing(loop->heartbeat, false, NULL);
        cps_progress_resume(loop->progress);
    }
    if (any && status == CPS_OK && due != CPS_DUE_BESIDE) {
        loop->state.dirty = true;
        note_best(loop, all);
        status = keep_best(loop, due);
        *stop_out = *stop_out || early_stop(loop, all);
        status = status != CPS_OK ? status : ask_job(loop, all, stop_out);
    }
    cps_json_destroy(all);
    return status;
}
