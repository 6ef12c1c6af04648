/* The run's folder, and the state that a checkpoint carries. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "comm/agree.h"
#include "train/checkpoint.h"
#include "train/identity.h"
#include "train/loop_private.h"
#include "train/owner.h"

int64_t cps_loop_step(const cps_loop *loop) {
    return loop->state.steps_before + loop->state.data_step;
}

/* ---- folder
 * --------------------------------------------------------------------------------------------------------------
 */

/* `fresh` moves what is there to the first free "<name>.old-<n>". */
static cps_status move_aside(const char *folder) {
    for (int i = 1; i < 10000; i++) {
        char *aside = cps_format("%s.old-%d", folder, i);
        const bool taken = cps_dir_exists(aside) || cps_file_exists(aside);
        if (!taken) {
            const int failed = rename(folder, aside);
            const int error = errno;
            if (failed == 0) {
                cps_log(CPS_LOG_INFO, "the older run was moved to '%s'", aside);
            }
            free(aside);
            return failed == 0 ? CPS_OK
                               : cps_fail(CPS_ERR_IO, "cannot move '%s' aside: %s", folder,
                                          strerror(error));
        }
        free(aside);
    }
    return cps_fail(CPS_ERR_IO, "'%s' has 9,999 older runs beside it: delete some", folder);
}

static cps_status make_folder(cps_loop *loop) {
    CPS_TRY(cps_owner_check(loop->folder, loop->name));
    if (loop->run->options.fresh && cps_dir_exists(loop->folder)) {
        CPS_TRY(move_aside(loop->folder));
    }
    return cps_dir_create(loop->checkpoints);
}

cps_status cps_loop_open_folder(cps_loop *loop) {
    const cps_run *run = loop->run;
    const char *name = run->options.name != NULL ? run->options.name : run->job_options.name;
    loop->name = cps_format("%s", name);
    loop->folder = cps_format("%s/%s", run->options.runs, name);
    loop->checkpoints = cps_format("%s/checkpoints", loop->folder);
    const cps_status status = cps_comm_rank(run->comm) == 0 ? make_folder(loop) : CPS_OK;
    return cps_agree(run->comm, "folder of the run", status);
}

cps_status cps_loop_own(cps_loop *loop) {
    cps_status status = CPS_OK;
    if (cps_comm_rank(loop->run->comm) == 0) {
        status = cps_owner_claim(loop->folder, loop->name, &loop->owner);
    }
    return cps_agree(loop->run->comm, "owner of the run", status);
}

/* Rank 0. heartbeat.json is the new owner's from here on. */
static void lose(cps_loop *loop) {
    loop->lost = true;
    cps_watchdog_tell(loop->run->comm, NULL, NULL);
    cps_heartbeat_close(loop->heartbeat);
    loop->heartbeat = NULL;
}

bool cps_loop_is_lost(cps_loop *loop) {
    const double now = cps_seconds();
    if (loop->owner != NULL && !loop->lost && now - loop->owner_time >= 1.0) {
        loop->owner_time = now;
        if (cps_owner_holds(loop->owner) != CPS_OK) {
            lose(loop);
        }
    }
    return loop->lost;
}

/* ---- state to JSON and back
 * ----------------------------------------------------------------------------------------------------
 */

static cps_json *state_json(const cps_loop *loop) {
    const cps_loop_state *state = &loop->state;
    cps_json *json = cps_json_new_object();
    cps_json_add_number(json, "step", (double)cps_loop_step(loop));
    cps_json_add_number(json, "stage", (double)state->stage);
    cps_json_add_string(json, "stage_name", loop->run->stages[state->stage].plan->options.name);
    cps_json_add_bool(json, "fit_done", state->fit_done);
    cps_json_add_bool(json, "stage_done", state->stage_done);
    cps_json_add_bool(json, "complete", state->complete);
    cps_json_add_number(json, "data_step", (double)state->data_step);
    cps_json_add_number(json, "update", (double)state->update);
    cps_json_add_number(json, "steps_before", (double)state->steps_before);
    cps_json_add_number(json, "skipped", (double)state->skipped);
    cps_json_add_number(json, "skipped_in_row", (double)state->skipped_in_row);
    cps_json_add_number(json, "bad_images", (double)state->bad_images);
    if (state->has_best) {
        cps_json_add_number(json, "best_value", state->best_value);
        cps_json_add_number(json, "best_step", (double)state->best_step);
    }
    if (state->has_stop) {
        cps_json_add_number(json, "stop_value", state->stop_value);
        cps_json_add_number(json, "waited", (double)state->waited);
    }
    if (state->table != NULL) {
        cps_json_add_copy(json, "table", state->table);
    }
    return json;
}

static cps_status state_from(const cps_json *json, const cps_loop *loop, cps_loop_state *state) {
    *state = (cps_loop_state){
        .stage = cps_json_get_integer(json, "stage", -1),
        .fit_done = cps_json_get_bool(json, "fit_done", false),
        .stage_done = cps_json_get_bool(json, "stage_done", false),
        .complete = cps_json_get_bool(json, "complete", false),
        .data_step = cps_json_get_integer(json, "data_step", -1),
        .update = cps_json_get_integer(json, "update", 0),
        .steps_before = cps_json_get_integer(json, "steps_before", 0),
        .skipped = cps_json_get_integer(json, "skipped", 0),
        .skipped_in_row = cps_json_get_integer(json, "skipped_in_row", 0),
        .bad_images = cps_json_get_integer(json, "bad_images", 0),
        .has_best = cps_json_get(json, "best_value") != NULL,
        .best_value = cps_json_get_number(json, "best_value", 0.0),
        .best_step = cps_json_get_integer(json, "best_step", -1),
        .has_stop = cps_json_get(json, "stop_value") != NULL,
        .stop_value = cps_json_get_number(json, "stop_value", 0.0),
        .waited = cps_json_get_integer(json, "waited", 0),
    };
    if (state->stage < 0 || state->stage >= loop->run->stage_count || state->data_step < 0 ||
        state->data_step > loop->run->stages[state->stage].plan->steps) {
        return cps_fail(
            CPS_ERR_DATA,
            "the checkpoint stands at stage %lld, step %lld, which this job does not have",
            (long long)state->stage + 1, (long long)state->data_step);
    }
    const cps_json *table = cps_json_get(json, "table");
    if (table != NULL) {
        char *text = cps_json_print(table, false, true);
        const cps_status status =
            cps_json_parse(text, strlen(text), "on_evaluate's state", &state->table);
        free(text);
        CPS_TRY(status);
    }
    state->written_step = cps_json_get_integer(json, "step", -1);
    return CPS_OK;
}

/* ---- writing and finding
 * ----------------------------------------------------------------------------------------------------------
 */

cps_status cps_loop_checkpoint(cps_loop *loop) {
    cps_run *run = loop->run;
    const int64_t step = cps_loop_step(loop);
    if (loop->state.new_best) {
        loop->state.best_step = step;
    }
    if (loop->updater != NULL) {
        cps_updater_wait_weights(loop->updater);
    }
    CPS_TRY(cps_quarantine_flush(loop->quarantine, run->comm));
    cps_json *state = state_json(loop);
    cps_json *identity = cps_run_identity(run);
    const cps_checkpoint_content content = {.model = run->model,
                                            .updater = loop->updater,
                                            .state = state,
                                            .identity = identity,
                                            .owner = loop->owner};
    cps_status status = cps_checkpoint_write(run->comm, loop->checkpoints, step, &content);
    cps_json_destroy(state);
    cps_json_destroy(identity);
    if (status == CPS_ERR_ENDED) {
        lose(loop);
    }
    CPS_TRY(status);
    loop->state.written_step = step;
    loop->state.dirty = false;
    loop->state.new_best = false;
    loop->last_checkpoint_time = cps_seconds();
    cps_heartbeat_checkpoint(loop->heartbeat, step);
    return cps_checkpoint_prune(run->comm, loop->checkpoints, run->checkpoint.keep,
                                loop->state.has_best ? loop->state.best_step : -1);
}

static cps_status check_identity(const cps_loop *loop, const cps_json *then) {
    cps_json *now = cps_run_identity(loop->run);
    cps_identity_difference difference;
    cps_status status = CPS_OK;
    if (cps_identity_differs(then, now, "job", &difference)) {
        status = cps_fail(CPS_ERR_USAGE,
                          "run '%s' was started from another job: %s was %s, now it is %s. Give "
                          "the run another name (--run), begin anew (--fresh), or undo the change",
                          loop->name, difference.path, difference.values[0], difference.values[1]);
    } else if (cps_identity_differs(then, now, "data", &difference)) {
        status = cps_fail(CPS_ERR_USAGE,
                          "run '%s' was started with other data: the digest of '%s' was %s, now it "
                          "is %s. Use the same shards, another run name (--run), or --fresh",
                          loop->name, difference.path, difference.values[0], difference.values[1]);
    } else if (cps_identity_differs(then, now, "tokenizer", &difference)) {
        status = cps_fail(CPS_ERR_USAGE,
                          "run '%s' was started with another tokenizer: its %s was %s, now it is "
                          "%s. Use the same one, another run name (--run), or --fresh",
                          loop->name, difference.path, difference.values[0], difference.values[1]);
    } else if (cps_identity_differs(then, now, "weights", &difference)) {
        status = cps_fail(CPS_ERR_USAGE,
                          "run '%s' was started with other weights: the digest of the file was %s, "
                          "now it is %s. Use the same file, another run name (--run), or --fresh",
                          loop->name, difference.values[0], difference.values[1]);
    } else if (cps_identity_differs(then, now, "tower_weights", &difference)) {
        status =
            cps_fail(CPS_ERR_USAGE,
                     "run '%s' was started with other weights of tower '%s': the digest of the "
                     "file was %s, now it is %s. Use the same file, another run name (--run), "
                     "or --fresh",
                     loop->name, difference.path, difference.values[0], difference.values[1]);
    } else if (cps_identity_differs(then, now, "bits", &difference)) {
        if (loop->run->options.other_bits) {
            cps_log(CPS_LOG_WARN, "going on with other bits: %s was %s, now it is %s",
                    difference.path, difference.values[0], difference.values[1]);
        } else {
            status =
                cps_fail(CPS_ERR_USAGE,
                         "run '%s' would not give the same bits here: %s was %s, now it is %s. Go "
                         "on all the same with --other-bits",
                         loop->name, difference.path, difference.values[0], difference.values[1]);
        }
    }
    cps_json_destroy(now);
    return status;
}

cps_status cps_loop_find_checkpoint(cps_loop *loop, char **path_out) {
    cps_run *run = loop->run;
    char *path = NULL;
    int64_t step = 0;
    CPS_TRY(cps_checkpoint_latest(run->comm, loop->checkpoints, &path, &step));
    if (path == NULL) {
        return CPS_OK;
    }
    cps_json *state = NULL, *identity = NULL;
    cps_status status = cps_checkpoint_read_state(run->comm, path, &state, &identity);
    if (status == CPS_OK) {
        status = check_identity(loop, identity);
        status = status != CPS_OK ? status : state_from(state, loop, &loop->state);
        status = cps_agree(run->comm, "resuming", status);
    }
    cps_json_destroy(state);
    cps_json_destroy(identity);
    if (status != CPS_OK) {
        free(path);
        return status;
    }
    cps_log(CPS_LOG_INFO, "run '%s' goes on from '%s'", loop->name, path);
    *path_out = path;
    return CPS_OK;
}
