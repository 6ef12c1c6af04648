/* The run: stages one after another, steps, evaluations, checkpoints. State to go on with after a
 * kill is the JSON of `loop_state`; everything else is a pure function of the job. */
#include "train/loop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "train/checkpoint.h"
#include "train/frozen.h"
#include "train/identity.h"
#include "train/loop_private.h"
#include "train/owner.h"
#include "train/run.h"

/* ---- one stage's machinery
 * -------------------------------------------------------------------------------------------- */

static void close_stage(cps_loop *loop) {
    cps_step_destroy(loop->step);
    cps_updater_destroy(loop->updater);
    cps_loader_destroy(loop->loader);
    cps_frozen_close(loop->frozen);
    loop->run->stages[loop->state.stage].plan->frozen = NULL;
    loop->step = NULL;
    loop->updater = NULL;
    loop->loader = NULL;
    loop->frozen = NULL;
}

/* Collective. */
static cps_status open_frozen(cps_loop *loop) {
    cps_run *run = loop->run;
    cps_stage_plan *plan = run->stages[loop->state.stage].plan;
    char *folder = cps_format("%s/cache", run->options.runs);
    const cps_frozen_options options = {.comm = run->comm,
                                        .folder = folder,
                                        .threads = run->loader_threads,
                                        .quarantine = loop->quarantine};
    cps_heartbeat_doing(loop->heartbeat, false, "features of frozen views");
    cps_timing_begin(&loop->timing, "features");
    const cps_status status = cps_frozen_open(&options, plan, &loop->frozen);
    cps_timing_end(&loop->timing);
    cps_heartbeat_doing(loop->heartbeat, false, NULL);
    free(folder);
    plan->frozen = loop->frozen;
    return status;
}

static cps_updater_options updater_options(const cps_loop *loop) {
    const cps_run *run = loop->run;
    const cps_run_stage *stage = &run->stages[loop->state.stage];
    const cps_stage_plan *plan = stage->plan;
    return (cps_updater_options){
        .comm = run->comm,
        .params = cps_model_params(run->model),
        .parts = cps_min_i64(plan->grains, plan->parts),
        .optimizer_kind = plan->options.optimizer_kind,
        .optimizer = plan->options.optimizer,
        .lr = stage->lr,
        .weight_decay = stage->weight_decay,
        .steps = plan->steps,
        .grad_clip_norm = plan->options.grad_clip_norm,
        .clip_tensor = plan->options.clip_tensor,
        .world = run->job_options.reproducible == CPS_REPRODUCIBLE_WORLD,
    };
}

/* Local. */
static cps_status open_step(cps_loop *loop) {
    cps_run *run = loop->run;
    cps_run_stage *stage = &run->stages[loop->state.stage];
    for (int32_t i = 0; i < stage->plan->ema_count; i++) {
        CPS_TRY(cps_updater_set_ema(loop->updater, stage->plan->emas[i].param,
                                    stage->plan->emas[i].momentum));
    }
    CPS_TRY(cps_step_create(run->comm, stage->plan, &stage->memory, loop->updater, &loop->step));
    return cps_run_loader(run, loop->state.stage, &loop->loader);
}

/* Which parameters learn was planned for every stage in turn: the last plan stands, so it is made
 * again. Collective, agreed. */
static cps_status open_machinery(cps_loop *loop) {
    cps_run *run = loop->run;
    cps_run_stage *stage = &run->stages[loop->state.stage];
    CPS_TRY(cps_agree(run->comm, "planning a stage",
                      cps_step_plan(stage->plan, cps_comm_size(run->comm), &stage->memory)));
    const cps_updater_options options = updater_options(loop);
    CPS_TRY(cps_updater_create(&options, &loop->updater));
    return cps_agree(run->comm, "beginning a stage", open_step(loop));
}

static void announce_stage(cps_loop *loop) {
    const cps_run *run = loop->run;
    const cps_run_stage *stage = &run->stages[loop->state.stage];
    const cps_stage_plan *plan = stage->plan;
    int64_t elements = 0;
    const int32_t tensors = cps_params_learning(cps_model_params(run->model), &elements);
    cps_log(CPS_LOG_INFO,
            "stage '%s': objective %s%s, %lld steps, global batch %lld = %lld grains of %lld in "
            "%lld parts; %lld parameters in %d tensors learn",
            plan->options.name, plan->instances[0].name,
            plan->instance_count > 1 ? " and others" : "", (long long)plan->steps,
            (long long)plan->options.global_batch, (long long)plan->grains,
            (long long)plan->options.grain, (long long)cps_min_i64(plan->grains, plan->parts),
            (long long)elements, tensors);
    const cps_memory_plan memory = cps_loop_memory(loop, cps_comm_size(run->comm));
    loop->planned_bytes = cps_max_size(loop->planned_bytes, memory.total_bytes);
    const double mib = 1048576.0;
    cps_log(CPS_LOG_INFO,
            "memory planned for each rank: %.0f MiB (weights %.0f, gradients and optimizer %.0f, "
            "activations %.0f with %lld of %lld recordings kept, loader %.0f, evaluation %.0f, "
            "program %.0f)",
            (double)memory.total_bytes / mib, (double)memory.weights_bytes / mib,
            (double)memory.update_bytes / mib, (double)memory.step_bytes / mib,
            (long long)stage->memory.kept, (long long)stage->memory.own_grains,
            (double)memory.loader_bytes / mib, (double)memory.evaluation_bytes / mib,
            (double)memory.program_bytes / mib);
}

static cps_status open_stage(cps_loop *loop, const char *resume_from) {
    cps_run *run = loop->run;
    CPS_TRY(cps_agree(run->comm, "validation sets", cps_loop_open_validations(loop)));
    CPS_TRY(open_machinery(loop));
    /* Before the stage's first step there is no optimizer state, and parameters are newer than the
     * file where a fit came in between. */
    if (resume_from != NULL && loop->state.data_step > 0) {
        CPS_TRY(cps_checkpoint_load(run->comm, resume_from, run->model, loop->updater));
    }
    announce_stage(loop);
    const cps_status status = cps_loader_seek(loop->loader, loop->state.data_step);
    return cps_agree(run->comm, "beginning a stage", status);
}

/* ---- after a step
 * --------------------------------------------------------------------------------------------------------
 */

static cps_status note_bad_images(cps_loop *loop, const cps_step_result *result) {
    loop->state.bad_images += result->bad_images;
    const int64_t limit = loop->run->stages[loop->state.stage].plan->options.max_bad;
    if (limit >= 0 && loop->state.bad_images > limit) {
        return cps_fail(CPS_ERR_ENDED,
                        "%lld bad images were replaced, max_bad allows %lld: see quarantine.jsonl, "
                        "repack the data, or raise max_bad",
                        (long long)loop->state.bad_images, (long long)limit);
    }
    return CPS_OK;
}

static cps_status note_skip(cps_loop *loop, const cps_step_result *result) {
    if (!result->skipped) {
        loop->state.skipped_in_row = 0;
        loop->state.update++;
        return CPS_OK;
    }
    loop->state.skipped++;
    loop->state.skipped_in_row++;
    const int64_t limit = loop->run->stages[loop->state.stage].plan->options.max_skipped_steps;
    cps_log(CPS_LOG_WARN,
            "step %lld is skipped: '%s' is not finite on rank %d (%lld in a row, %lld allowed)",
            (long long)cps_loop_step(loop), result->norms.bad_name, result->norms.bad_rank,
            (long long)loop->state.skipped_in_row, (long long)limit);
    if (loop->state.skipped_in_row > limit) {
        return cps_fail(CPS_ERR_ENDED,
                        "%lld steps in a row were skipped because '%s' was not finite on rank %d; "
                        "max_skipped_steps allows %lld: lower the learning rate, clip the "
                        "gradient, or look at the data",
                        (long long)loop->state.skipped_in_row, result->norms.bad_name,
                        result->norms.bad_rank, (long long)limit);
    }
    return CPS_OK;
}

/* What any rank asks for at this step boundary. */
enum { WISH_SIGNAL = 1, WISH_CHECKPOINT = 2 /* rank 0's clock */, WISH_LOST = 4 };
static uint8_t wishes(cps_loop *loop) {
    const cps_run *run = loop->run;
    int64_t own = cps_signal_seen() ? WISH_SIGNAL : 0;
    own |= cps_loop_is_lost(loop) ? WISH_LOST : 0;
    if (cps_comm_rank(run->comm) == 0 && run->checkpoint.seconds > 0.0 &&
        cps_seconds() - loop->last_checkpoint_time >= run->checkpoint.seconds) {
        own |= WISH_CHECKPOINT;
    }
    cps_loop_gather(loop, run->comm, "step boundary", own);
    int64_t all = 0;
    for (int32_t r = 0; r < cps_comm_size(run->comm); r++) {
        all |= loop->rank_values[r];
    }
    return (uint8_t)all;
}

static cps_status checkpoint(cps_loop *loop) {
    if (loop->state.written_step == cps_loop_step(loop) && !loop->state.dirty) {
        return CPS_OK;
    }
    cps_progress_pause(loop->progress);
    cps_timing_begin(&loop->timing, "checkpoint");
    const cps_status status = cps_loop_checkpoint(loop);
    cps_timing_end(&loop->timing);
    cps_progress_resume(loop->progress);
    return status;
}

static bool reached_until(const cps_loop *loop) {
    const int64_t until = loop->run->options.until;
    return until >= 0 && cps_loop_step(loop) >= until;
}

/* What --evaluate asks for where --until stops: the evaluations that were not due there anyway. */
static cps_status evaluate_beside(cps_loop *loop) {
    bool ignored = false;
    return loop->run->options.evaluate ? cps_loop_evaluate_due(loop, CPS_DUE_BESIDE, &ignored)
                                       : CPS_OK;
}

/* A run that is there already makes no step more; a new one (--until 0) gets its checkpoint. */
static cps_status stay(cps_loop *loop) {
    if (loop->run->options.evaluate && !loop->state.stage_done) {
        CPS_TRY(cps_agree(loop->run->comm, "validation sets", cps_loop_open_validations(loop)));
        const cps_status status = evaluate_beside(loop);
        cps_loop_close_embedder(loop);
        CPS_TRY(status);
    }
    CPS_TRY(checkpoint(loop));
    loop->left = true;
    cps_log(CPS_LOG_INFO, "run '%s' stands at step %lld, --until %lld asks for no more", loop->name,
            (long long)cps_loop_step(loop), (long long)loop->run->options.until);
    return CPS_OK;
}

/* Ends the run here, to be continued; the checkpoint is written. */
static cps_status leave_run(cps_loop *loop, uint8_t asked) {
    loop->left = true;
    return (asked & WISH_SIGNAL) != 0
               ? cps_fail(CPS_ERR_SIGNAL,
                          "a signal asked to stop: checkpointed after step %lld; "
                          "start the same command again to go on",
                          (long long)cps_loop_step(loop))
               : CPS_OK;
}

/* Rank 0 knows whose the run is now. */
static cps_status leave_to_another(cps_loop *loop) {
    loop->lost = true;
    CPS_TRY(cps_owner_holds(loop->owner));
    return cps_fail(CPS_ERR_ENDED, "run '%s' belongs to another process", loop->name);
}

/* Checkpoints and evaluations that are due after this step; *stop_out: the stage ends early. */
static cps_status after_step(cps_loop *loop, bool *stop_out) {
    cps_run *run = loop->run;
    const cps_stage_plan *plan = run->stages[loop->state.stage].plan;
    const uint8_t asked = wishes(loop);
    const int64_t done = loop->state.data_step;
    const bool last = done == plan->steps;
    if ((asked & WISH_LOST) != 0) {
        return leave_to_another(loop);
    }
    /* `finish` may still change what is evaluated at the end. */
    if (!last || !plan->has_finish) {
        CPS_TRY(cps_loop_evaluate_due(loop, last ? CPS_DUE_STAGE_END : CPS_DUE_STEP, stop_out));
    }
    const bool leave = (asked & WISH_SIGNAL) != 0 || reached_until(loop);
    const bool due = run->checkpoint.steps > 0 && cps_loop_step(loop) % run->checkpoint.steps == 0;
    if (reached_until(loop) && !last && !*stop_out) {
        CPS_TRY(evaluate_beside(loop));
    }
    if ((leave || due || (asked & WISH_CHECKPOINT) != 0 || loop->state.new_best) && !last &&
        !*stop_out) {
        CPS_TRY(checkpoint(loop));
    }
    return leave && !last && !*stop_out ? leave_run(loop, asked) : CPS_OK;
}

static cps_status one_step(cps_loop *loop, bool *stop_out) {
    cps_step_result result;
    cps_timing_begin(&loop->timing, "steps");
    cps_status status =
        cps_step_run(loop->step, loop->loader, loop->state.data_step, loop->state.update, &result);
    cps_timing_end(&loop->timing);
    CPS_TRY(status);
    status = cps_loop_report_step(loop, &result);
    CPS_TRY(cps_agree(loop->run->comm, "report of a step", status));
    loop->state.dirty = true;
    loop->state.data_step++;
    CPS_TRY(note_bad_images(loop, &result));
    CPS_TRY(note_skip(loop, &result));
    return after_step(loop, stop_out);
}

/* ---- a stage
 * -----------------------------------------------------------------------------------------------------------------
 */

/* *due_out: evaluations of the stage's end that are still to be made. */
static cps_status run_steps(cps_loop *loop, cps_due *due_out) {
    const cps_stage_plan *plan = loop->run->stages[loop->state.stage].plan;
    bool stop = false;
    while (loop->state.data_step < plan->steps && !stop && !loop->left) {
        CPS_TRY(one_step(loop, &stop));
    }
    *due_out = plan->has_finish                      ? CPS_DUE_STAGE_END
               : loop->state.data_step < plan->steps ? CPS_DUE_REST
                                                     : CPS_DUE_NOTHING;
    if (stop && loop->state.data_step < plan->steps) {
        cps_log(CPS_LOG_INFO, "stage '%s' ends early after %lld of %lld steps", plan->options.name,
                (long long)loop->state.data_step, (long long)plan->steps);
    }
    return CPS_OK;
}

/* fit, or finish of a stage. */
static cps_status fit(cps_loop *loop, bool finish, bool *end_stage_out) {
    cps_heartbeat_doing(loop->heartbeat, false, finish ? "finish" : "fit");
    cps_timing_begin(&loop->timing, "fit");
    const cps_status status = cps_loop_fit(loop, finish, end_stage_out);
    cps_timing_end(&loop->timing);
    cps_heartbeat_doing(loop->heartbeat, false, NULL);
    return status;
}

/* finish, what is evaluated at the end, the stage's checkpoint. */
static cps_status end_stage(cps_loop *loop, cps_due due) {
    cps_run *run = loop->run;
    bool ignored = false;
    if (run->stages[loop->state.stage].plan->has_finish) {
        if (loop->updater != NULL) {
            cps_updater_wait_weights(loop->updater);
        }
        CPS_TRY(fit(loop, true, &ignored));
    }
    CPS_TRY(cps_loop_evaluate_due(loop, due, &ignored));
    loop->state.stage_done = true;
    loop->state.complete = loop->state.stage + 1 == run->stage_count;
    loop->state.dirty = true;
    CPS_TRY(checkpoint(loop));
    const uint8_t asked = wishes(loop);
    if ((asked & WISH_LOST) != 0) {
        return leave_to_another(loop);
    }
    return !loop->state.complete && ((asked & WISH_SIGNAL) != 0 || reached_until(loop))
               ? leave_run(loop, asked)
               : CPS_OK;
}

static cps_status run_stage(cps_loop *loop, const char *resume_from) {
    cps_run *run = loop->run;
    const cps_stage_plan *plan = run->stages[loop->state.stage].plan;
    cps_due due = CPS_DUE_STAGE_END;
    bool fit_ends_stage = false;
    if (loop->state.data_step == 0 && !loop->state.fit_done) {
        cps_run_begin_stage(run, loop->state.stage);
    }
    cps_loop_beat_stage(loop);
    CPS_TRY(open_frozen(loop));
    if (plan->has_fit && !loop->state.fit_done) {
        CPS_TRY(fit(loop, false, &fit_ends_stage));
        loop->state.fit_done = true;
        loop->state.dirty = true;
        if (!fit_ends_stage && plan->steps > 0) {
            CPS_TRY(checkpoint(loop));
        }
    }
    if (plan->steps > 0 && !fit_ends_stage) {
        CPS_TRY(open_stage(loop, resume_from));
        CPS_TRY(run_steps(loop, &due));
    } else {
        CPS_TRY(cps_agree(run->comm, "validation sets", cps_loop_open_validations(loop)));
    }
    return loop->left ? CPS_OK : end_stage(loop, due);
}

static cps_status run_stages(cps_loop *loop, const char *resume_from) {
    cps_run *run = loop->run;
    if (reached_until(loop)) {
        return stay(loop);
    }
    while (loop->state.stage < run->stage_count && !loop->left) {
        if (loop->state.stage_done) {
            resume_from = NULL; /* of another stage: its optimizer state ends with it */
            loop->state = (cps_loop_state){.stage = loop->state.stage + 1,
                                           .steps_before = cps_loop_step(loop),
                                           .skipped = loop->state.skipped,
                                           .bad_images = loop->state.bad_images,
                                           .best_step = loop->state.best_step,
                                           .best_value = loop->state.best_value,
                                           .has_best = loop->state.has_best,
                                           .table = loop->state.table,
                                           .written_step = -1};
            if (loop->state.stage == run->stage_count) {
                break;
            }
        }
        const cps_status status = run_stage(loop, resume_from);
        resume_from = NULL;
        cps_loop_close_embedder(loop);
        close_stage(loop);
        CPS_TRY(status);
    }
    return CPS_OK;
}

/* ---- end
 * ------------------------------------------------------------------------------------------ */

cps_status cps_loop_create(cps_comm *comm, cps_loop **loop_out) {
    const size_t ranks = (size_t)cps_comm_size(comm);
    cps_loop *loop = calloc(1, sizeof *loop);
    if (loop != NULL) {
        loop->rank_values = calloc(ranks, sizeof *loop->rank_values);
        loop->rank_bytes = calloc(ranks, sizeof *loop->rank_bytes);
    }
    if (loop == NULL || loop->rank_values == NULL || loop->rank_bytes == NULL) {
        cps_loop_close(loop);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a run");
    }
    for (size_t r = 0; r < ranks; r++) {
        loop->rank_bytes[r] = (int64_t)sizeof(int64_t);
    }
    loop->start_time = cps_seconds();
    loop->last_checkpoint_time = loop->start_time;
    loop->state.written_step = -1;
    loop->best_step = -1;
    *loop_out = loop;
    return CPS_OK;
}

void cps_loop_gather(cps_loop *loop, cps_comm *comm, const char *place, int64_t own) {
    cps_comm_allgatherv(comm, place, &own, loop->rank_values, loop->rank_bytes);
}

void cps_loop_close(cps_loop *loop) {
    if (loop == NULL) {
        return;
    }
    cps_loop_close_embedder(loop);
    cps_events_close(loop->events);
    cps_tensorboard_close(loop->tensorboard);
    cps_progress_destroy(loop->progress);
    cps_heartbeat_close(loop->heartbeat);
    cps_quarantine_destroy(loop->quarantine);
    cps_owner_forget(loop->owner);
    cps_json_destroy(loop->state.table);
    cps_run_close(loop->run);
    free(loop->name);
    free(loop->folder);
    free(loop->checkpoints);
    free(loop->rank_values);
    free(loop->rank_bytes);
    free(loop);
}

/* ---- entry points
 * ---------------------------------------------------------------------------------------------------------------
 */

static cps_status begin(cps_loop *loop, char **resume_from) {
    cps_run *run = loop->run;
    CPS_TRY(cps_identity_agree(run));
    CPS_TRY(cps_loop_open_folder(loop));
    CPS_TRY(cps_loop_find_checkpoint(loop, resume_from));
    if (*resume_from != NULL && loop->state.complete) {
        return CPS_OK;
    }
    CPS_TRY(cps_loop_own(loop));
    cps_heartbeat_enter(loop->heartbeat, cps_loop_step(loop));
    CPS_TRY(cps_run_initialise(run));
    if (*resume_from != NULL) {
        CPS_TRY(cps_checkpoint_load(run->comm, *resume_from, run->model, NULL));
    } else {
        cps_loop_warn(run);
    }
    return cps_loop_open_reports(loop);
}

static cps_status train(cps_loop *loop) {
    cps_run *run = loop->run;
    char *resume_from = NULL;
    cps_timing_begin(&loop->timing, "start");
    cps_status status = begin(loop, &resume_from);
    cps_timing_end(&loop->timing);
    if (status == CPS_OK && loop->state.complete) {
        cps_log(CPS_LOG_INFO, "run '%s' is complete (%lld steps); --fresh begins it anew",
                loop->name, (long long)cps_loop_step(loop));
        cps_loop_beat_stage(loop);
    } else if (status == CPS_OK) {
        status = cps_agree(run->comm, "watchdog",
                           cps_watchdog_start(run->comm, run->job_options.watchdog_seconds));
        cps_timing_begin(&loop->timing, "rest");
        status = status != CPS_OK ? status : run_stages(loop, resume_from);
        cps_timing_end(&loop->timing);
        cps_watchdog_stop(run->comm);
    }
    free(resume_from);
    if ((status == CPS_OK || status == CPS_ERR_SIGNAL || status == CPS_ERR_ENDED) && !loop->lost) {
        char *message = cps_format("%s", cps_fail_message()); /* the run's own last word */
        cps_loop_finish_report(loop);
        status = status != CPS_OK ? cps_fail(status, "%s", message) : CPS_OK;
        free(message);
    }
    return status;
}

cps_status cps_train(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                     const cps_job_calls *calls, const cps_run_options *options) {
    cps_loop *loop = NULL;
    CPS_TRY(cps_agree(comm, "a run", cps_loop_create(comm, &loop)));
    cps_loop_open_heartbeat(loop, comm, job, options);
    cps_timing_begin(&loop->timing, "start");
    cps_status status = cps_run_open(comm, plugins, job, calls, options, &loop->run);
    cps_timing_end(&loop->timing);
    if (status == CPS_OK) {
        status = cps_run_set_precision(loop->run);
    }
    if (status == CPS_OK) {
        status = train(loop);
    }
    status = cps_agree(comm, "end of the run", status);
    cps_watchdog_tell(comm, NULL, NULL);
    cps_loop_end_heartbeat(loop, comm, status);
    cps_loop_close(loop);
    return status;
}
