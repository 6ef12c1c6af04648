/* What a run tells: events, TensorBoard, the progress line, bad images, the table at the end. Rank
 * 0 writes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/config.h"
#include "report/summary.h"
#include "report/timing.h"
#include "shards/taxon.h"
#include "train/frozen.h"
#include "train/loop_private.h"

enum { LOGGED_BYTES = 400 }; /* of a line about an evaluation, the last number beyond it */

static char *in_folder(const cps_loop *loop, const char *name) {
    return cps_format("%s/%s", loop->folder, name);
}

static cps_status write_text(const cps_loop *loop, const char *name, const char *text) {
    char *path = in_folder(loop, name);
    const cps_status status = cps_file_write_atomic(path, text, strlen(text));
    free(path);
    return status;
}

/* The resolved job: as a job that gives it again, and as the canonical JSON that all ranks got. */
static cps_status write_job(const cps_loop *loop) {
    if (loop->run->options.job_source != NULL) {
        CPS_TRY(write_text(loop, "job.lua", loop->run->options.job_source));
    }
    char *text = cps_json_print(loop->run->job, false, true);
    const cps_status status = write_text(loop, "job.json", text);
    free(text);
    return status;
}

static cps_status open_files(cps_loop *loop) {
    char *events = in_folder(loop, "events.jsonl");
    char *board = in_folder(loop, "tensorboard");
    const bool before = cps_file_exists(
        events); /* also of a session that left no checkpoint: its steps come again */
    cps_status status = cps_events_open(events, &loop->events);
    if (status == CPS_OK && before) {
        status = cps_events_resume(loop->events, cps_loop_step(loop), NULL);
    }
    status = status != CPS_OK
                 ? status
                 : cps_tensorboard_open(board, cps_loop_step(loop), &loop->tensorboard);
    status = status != CPS_OK ? status : write_job(loop);
    status = status != CPS_OK ? status : cps_loop_write_provenance(loop);
    free(events);
    free(board);
    return status;
}

cps_status cps_loop_open_reports(cps_loop *loop) {
    cps_run *run = loop->run;
    const bool first = cps_comm_rank(run->comm) == 0;
    char *quarantine = in_folder(loop, "quarantine.jsonl");
    cps_status status = cps_quarantine_create(first ? quarantine : NULL, &loop->quarantine);
    free(quarantine);
    status = status != CPS_OK ? status : cps_progress_create(&loop->progress);
    if (status == CPS_OK && first) {
        status = open_files(loop);
    }
    return cps_agree(run->comm, "files of the run", status);
}

/* ---- a step
 * ---------------------------------------------------------------------------------------------------------------
 */

static cps_status write_step(cps_loop *loop, const cps_step_result *result, double rate) {
    const cps_run_stage *stage = &loop->run->stages[loop->state.stage];
    const int64_t step = cps_loop_step(loop) + 1;
    const double lr = stage->lr[loop->state.data_step];
    const double scale = result->logit_scale;
    cps_json *event = cps_json_new_object();
    cps_json_add_string(event, "event", "step");
    cps_json_add_number(event, "step", (double)step);
    cps_json_add_string(event, "stage", stage->plan->options.name);
    cps_json_add_number(event, "loss", result->loss);
    for (int32_t t = 0; t < result->term_count; t++) {
        cps_json_add_number(event, result->term_names[t], result->term_values[t]);
    }
    cps_json_add_number(event, "lr", lr);
    cps_json_add_number(event, "grad_norm", result->norms.grad_norm);
    if (!isnan(scale)) {
        cps_json_add_number(event, "logit_scale", scale);
    }
    cps_json_add_number(event, "samples_per_second", rate);
    cps_json_add_number(event, "loader_seconds", result->loader_seconds);
    cps_json_add_number(event, "exchange_seconds", result->exchange_seconds);
    if (result->skipped) {
        cps_json_add_bool(event, "skipped", true);
        cps_json_add_string(event, "bad_tensor", result->norms.bad_name);
        cps_json_add_number(event, "bad_rank", (double)result->norms.bad_rank);
    }
    if (result->bad_images > 0) {
        cps_json_add_number(event, "bad_images", (double)result->bad_images);
    }
    cps_status status = cps_events_write(loop->events, event);
    cps_json_destroy(event);
    const struct {
        const char *tag;
        double value;
    } scalars[] = {{"train/loss", result->loss},
                   {"train/lr", lr},
                   {"train/grad_norm", result->norms.grad_norm},
                   {"train/samples_per_second", rate}};
    for (size_t i = 0; i < sizeof scalars / sizeof scalars[0] && status == CPS_OK; i++) {
        status = cps_tensorboard_scalar(loop->tensorboard, scalars[i].tag, step, scalars[i].value);
    }
    return status;
}

/* Bad images of this rank's grains of the step just done. */
static cps_status note_bad(cps_loop *loop, const cps_step_result *result) {
    for (int64_t i = 0; i < result->own_bad_count; i++) {
        const cps_bad_image *bad = &result->own_bad[i];
        CPS_TRY(cps_quarantine_note(loop->quarantine, cps_shard_path(bad->shard), bad->record,
                                    bad->sample_id, bad->reason));
    }
    return CPS_OK;
}

cps_status cps_loop_report_step(cps_loop *loop, const cps_step_result *result) {
    const cps_stage_plan *plan = loop->run->stages[loop->state.stage].plan;
    const int64_t samples = plan->options.global_batch;
    loop->samples += samples;
    loop->step_seconds += result->seconds;
    loop->product_seconds += result->product_seconds;
    loop->loader_seconds += result->loader_seconds;
    loop->exchange_seconds += result->exchange_seconds;
    CPS_TRY(note_bad(loop, result));
    if (cps_comm_rank(loop->run->comm) != 0 || cps_loop_is_lost(loop)) {
        return CPS_OK;
    }
    const cps_progress_state state = {
        .stage = loop->run->stage_count > 1 ? plan->options.name : NULL,
        .step = loop->state.data_step + 1,
        .steps = plan->steps,
        .epoch = plan->steps_per_epoch > 0 ? loop->state.data_step / plan->steps_per_epoch + 1 : 0,
        .epochs = plan->options.epochs,
        .loss = result->loss,
        .samples = samples};
    cps_progress_step(loop->progress, &state);
    cps_loop_beat_step(loop, result->loss);
    return write_step(loop, result, (double)samples / result->seconds);
}

/* One of the metrics at each rank of the taxonomy, "rank_genus": the table at the end has them. */
static bool is_by_rank(const char *key) {
    const char *last = strrchr(key, '_');
    return last != NULL && cps_taxon_rank(last + 1) >= 0 && strcmp(key, "per_class") != 0;
}

/* What a person reads of an evaluation: its first metrics, and how many more the event holds. */
static void log_evaluation(int64_t step, const char *name, const cps_json *metrics) {
    char line[1024];
    int used = snprintf(line, sizeof line, "step %lld  %s:", (long long)step, name);
    int64_t more = 0;
    for (const cps_json *metric = cps_json_first(metrics); metric != NULL;
         metric = cps_json_next(metric)) {
        if (!cps_json_is_number(metric)) {
            continue;
        }
        if (used < 0 || (size_t)used >= LOGGED_BYTES || is_by_rank(cps_json_key(metric))) {
            more++;
            continue;
        }
        used += snprintf(line + used, sizeof line - (size_t)used, "  %s %.4g", cps_json_key(metric),
                         cps_json_number(metric));
    }
    if (more > 0) {
        cps_log(CPS_LOG_INFO, "%s  and %lld more", line, (long long)more);
    } else {
        cps_log(CPS_LOG_INFO, "%s", line);
    }
}

cps_status cps_loop_report_evaluation(cps_loop *loop, const char *name, const cps_json *metrics) {
    if (cps_comm_rank(loop->run->comm) != 0 || cps_loop_is_lost(loop)) {
        return CPS_OK;
    }
    cps_json *event = cps_json_new_object();
    cps_json_add_string(event, "event", "evaluation");
    cps_json_add_string(event, "name", name);
    cps_json_add_number(event, "step", (double)cps_loop_step(loop));
    cps_json_add_string(event, "stage", loop->run->stages[loop->state.stage].plan->options.name);
    cps_status status = CPS_OK;
    for (const cps_json *metric = cps_json_first(metrics); metric != NULL;
         metric = cps_json_next(metric)) {
        const char *key = cps_json_key(metric);
        if (!cps_json_is_number(metric)) {
            cps_json_add_copy(event, key, metric);
            continue;
        }
        cps_json_add_number(event, key, cps_json_number(metric));
        if (status == CPS_OK) {
            char tag[256];
            snprintf(tag, sizeof tag, "%s/%s", name, key);
            status = cps_tensorboard_scalar(loop->tensorboard, tag, cps_loop_step(loop),
                                            cps_json_number(metric));
        }
    }
    log_evaluation(cps_loop_step(loop), name, metrics);
    cps_loop_beat_evaluation(loop, name, metrics);
    status = status != CPS_OK ? status : cps_events_write(loop->events, event);
    cps_json_destroy(event);
    return status;
}

/* ---- the end
 * -------------------------------------------------------------------------------------------------------
 */

/* Most of any rank. Collective. */
static int64_t most(cps_loop *loop, const char *what, int64_t own) {
    cps_comm *comm = loop->run->comm;
    cps_loop_gather(loop, comm, what, own);
    for (int32_t r = 0; r < cps_comm_size(comm); r++) {
        own = cps_max_i64(own, loop->rank_values[r]);
    }
    return own;
}

static int64_t bytes_sent(const cps_loop *loop) {
    uint64_t sent = 0, received = 0;
    cps_comm_traffic(loop->run->comm, &sent, &received);
    return (int64_t)sent;
}

static double samples_per_second(const cps_loop *loop) {
    return loop->step_seconds > 0.0 ? (double)loop->samples / loop->step_seconds : (double)NAN;
}

/* What this session cost. A run that was complete before has no events to write to. */
static void write_end(cps_loop *loop, int64_t peak, int64_t sent) {
    cps_json *event = cps_json_new_object();
    cps_json_add_string(event, "event", "end");
    cps_json_add_number(event, "at_step", (double)cps_loop_step(loop));
    cps_json_add_number(event, "wall_seconds", cps_seconds() - loop->start_time);
    cps_timing_add_json(&loop->timing, event, "seconds");
    cps_json_add_number(event, "loader_seconds", loop->loader_seconds);
    cps_json_add_number(event, "exchange_seconds", loop->exchange_seconds);
    cps_json_add_number(event, "product_seconds", loop->product_seconds);
    cps_json_add_number(event, "samples", (double)loop->samples);
    cps_json_add_number(event, "samples_per_second", samples_per_second(loop));
    cps_json_add_number(event, "peak_memory_bytes", (double)peak);
    cps_json_add_number(event, "bytes_sent", (double)sent);
    cps_json_add_number(event, "ranks", cps_comm_size(loop->run->comm));
    cps_json_add_number(event, "threads", loop->run->options.threads);
    if (cps_events_write(loop->events, event) != CPS_OK) {
        cps_log(CPS_LOG_WARN, "%s", cps_fail_message());
        cps_fail_clear();
    }
    cps_json_destroy(event);
}

/* "time: start 0:01, steps 0:05 (products 20 %, waiting for data 3 %, for other ranks 7 %), ..."
 * Phases below half a second are left out. */
static void log_time(const cps_loop *loop) {
    char line[512] = "", duration[32];
    int used = 0;
    for (int32_t i = 0; i < loop->timing.count; i++) {
        if (loop->timing.seconds[i] < 0.5) {
            continue;
        }
        used +=
            snprintf(line + used, sizeof line - (size_t)used, "%s%s %s", used > 0 ? ", " : "",
                     loop->timing.names[i], cps_duration_text(loop->timing.seconds[i], duration));
        if (strcmp(loop->timing.names[i], "steps") == 0 && loop->step_seconds > 0.0) {
            const double whole = 0.01 * loop->step_seconds;
            used +=
                snprintf(line + used, sizeof line - (size_t)used,
                         " (products %.0f %%, waiting for data %.0f %%, for other ranks %.0f %%)",
                         loop->product_seconds / whole, loop->loader_seconds / whole,
                         loop->exchange_seconds / whole);
        }
    }
    if (used > 0) {
        cps_log(CPS_LOG_INFO, "time: %s", line);
    }
}

static void log_summary(const cps_loop *loop, const cps_json *events, int64_t peak) {
    const cps_run *run = loop->run;
    const cps_summary_facts facts = {.run = loop->name,
                                     .steps = cps_loop_step(loop),
                                     .skipped = loop->state.skipped,
                                     .seconds = cps_seconds() - loop->start_time,
                                     .samples_per_second = samples_per_second(loop),
                                     .bad_images = loop->state.bad_images,
                                     .peak_memory_bytes = peak,
                                     .ranks = cps_comm_size(run->comm),
                                     .threads = run->options.threads,
                                     .best_metric = run->checkpoint.best};
    char *text = cps_summary_text(events, &facts, cps_metric_less_is_better);
    cps_log(CPS_LOG_INFO, "%s", text);
    free(text);
    if (loop->planned_bytes > 0) {
        cps_log(CPS_LOG_INFO, "peak memory of a rank: %.0f MiB of %.0f MiB planned",
                (double)peak / 1048576.0, (double)loop->planned_bytes / 1048576.0);
    }
    log_time(loop);
    cps_log(CPS_LOG_INFO, "everything of the run is in '%s'", loop->folder);
}

void cps_loop_finish_report(cps_loop *loop) {
    const cps_comm *comm = loop->run->comm;
    const int64_t peak = most(loop, "peak memory", cps_peak_memory_bytes());
    const int64_t sent = most(loop, "bytes sent", bytes_sent(loop));
    if (loop->quarantine != NULL &&
        cps_quarantine_flush(loop->quarantine, loop->run->comm) != CPS_OK) {
        cps_log(CPS_LOG_WARN, "%s", cps_fail_message());
    }
    cps_progress_destroy(loop->progress);
    loop->progress = NULL;
    if (cps_comm_rank(comm) != 0) {
        return;
    }
    write_end(loop, peak, sent);
    char *path = in_folder(loop, "events.jsonl");
    cps_json *events = NULL;
    if (cps_events_read(path, &events, NULL) == CPS_OK) {
        log_summary(loop, events, peak);
        cps_json_destroy(events);
    }
    free(path);
}
