/* What the loop tells heartbeat.json, and how it times its phases. Rank 0 writes; elsewhere
 * loop->heartbeat is NULL and the calls do nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "comm/agree.h"
#include "report/summary.h"
#include "train/loop_private.h"

static void tell_alive(void *context) {
    cps_loop *loop = context;
    if (!cps_loop_is_lost(loop)) {
        cps_heartbeat_alive(loop->heartbeat);
    }
}

void cps_loop_open_heartbeat(cps_loop *loop, cps_comm *comm, const cps_json *job,
                             const cps_run_options *options) {
    if (cps_comm_rank(comm) != 0) {
        return;
    }
    const char *name =
        options->name != NULL ? options->name : cps_json_get_string(job, "name", "run");
    char *folder = cps_format("%s/%s", options->runs, name);
    char *hosts = cps_comm_hosts(comm);
    const cps_heartbeat_session session = {.run = name,
                                           .hosts = hosts,
                                           .ranks = cps_comm_size(comm),
                                           .threads = options->threads,
                                           .fresh = options->fresh};
    loop->heartbeat = cps_heartbeat_open(folder, &session);
    cps_watchdog_tell(comm, tell_alive, loop);
    free(folder);
    free(hosts);
}

static int64_t total_steps(const cps_loop *loop) {
    int64_t steps = loop->state.steps_before;
    for (int64_t i = loop->state.stage; i < loop->run->stage_count; i++) {
        steps += loop->run->stages[i].plan->steps;
    }
    return steps;
}

/* data_step: steps of the stage that are done. */
static cps_heartbeat_place place_at(const cps_loop *loop, int64_t data_step) {
    const cps_run *run = loop->run;
    const cps_stage_plan *plan = run->stages[loop->state.stage].plan;
    const int64_t step = loop->state.steps_before + data_step, steps = total_steps(loop);
    const double rate =
        loop->progress != NULL ? cps_progress_samples_per_second(loop->progress) : (double)NAN;
    return (cps_heartbeat_place){
        .stage = plan->options.name,
        .stage_number = loop->state.stage + 1,
        .stages = run->stage_count,
        .step = step,
        .steps = steps,
        .epoch = plan->steps_per_epoch > 0
                     ? (data_step + plan->steps_per_epoch - 1) / plan->steps_per_epoch
                     : 0,
        .epochs = plan->options.epochs,
        .loss = (double)NAN,
        .samples_per_second = rate,
        .eta_seconds = (double)plan->options.global_batch * (double)(steps - step) / rate,
        .skipped = loop->state.skipped,
        .bad_images = loop->state.bad_images,
    };
}

void cps_loop_beat_stage(cps_loop *loop) {
    if (loop->heartbeat != NULL) {
        const cps_heartbeat_place place = place_at(loop, loop->state.data_step);
        cps_heartbeat_step(loop->heartbeat, &place);
    }
}

void cps_loop_beat_step(cps_loop *loop, double loss) {
    if (loop->heartbeat != NULL) {
        cps_heartbeat_place place = place_at(loop, loop->state.data_step + 1);
        place.loss = loss;
        cps_heartbeat_step(loop->heartbeat, &place);
    }
}

/* The metric that picks the best checkpoint stands for its evaluation and for the run; else the
 * first one, of the evaluation made last. */
void cps_loop_beat_evaluation(cps_loop *loop, const char *name, const cps_json *metrics) {
    const char *best = loop->run->checkpoint.best;
    const size_t length = strlen(name);
    const bool picks = best != NULL && strncmp(best, name, length) == 0 && best[length] == '.';
    cps_heartbeat_result result = {
        .name = name,
        .stage = loop->run->stages[loop->state.stage].plan->options.name,
        .step = cps_loop_step(loop),
        .metrics = metrics,
        .metric = picks ? best + length + 1 : NULL,
        .is_main = picks || best == NULL,
    };
    for (const cps_json *at = cps_json_first(metrics); at != NULL && result.metric == NULL;
         at = cps_json_next(at)) {
        result.metric = cps_summary_is_metric(at) ? cps_json_key(at) : NULL;
    }
    cps_heartbeat_evaluation(loop->heartbeat, &result);
}

void cps_loop_end_heartbeat(cps_loop *loop, const cps_comm *comm, cps_status status) {
    if (loop->heartbeat == NULL) {
        return;
    }
    const int code = cps_exit_code(status != CPS_OK ? cps_agreed_code(comm) : CPS_OK);
    const cps_heartbeat_state state = code == CPS_ERR_SIGNAL ? CPS_BEAT_CHECKPOINTED
                                      : code != 0            ? CPS_BEAT_FAILED
                                      : loop->left           ? CPS_BEAT_STOPPED
                                                             : CPS_BEAT_DONE;
    cps_heartbeat_end(loop->heartbeat, state, code, code != 0 ? cps_fail_message() : NULL);
}
