/* Memory of a step on one rank, one arena: the recordings of the first `kept` own grains, stacked
 * so that the first grain is on top (forwards run in reverse order among them), then the recording
 * at work. Grains beyond `kept` run forward plainly first and are recorded again when their turn in
 * the backward pass comes. Sums over grains are kept a row a grain, so the order of forwards never
 * reaches a number. */
#include "train/step.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "train/grain.h"
#include "train/step_plan.h"

struct cps_step {
    cps_comm *comm;
    cps_stage_plan *plan;
    cps_updater *updater;
    cps_arena *arena;
    int64_t own_grains, kept;
    cps_tape **tapes;        /* [kept + 1]; the last is the working one */
    cps_grain_run **runs;    /* [kept + 1] */
    cps_tape *plain_forward; /* forwards that are run again later */
    cps_tape *plain;         /* calls without gradient, inside another tape */
    cps_tape *loss_tape;
    cps_slot_memory slots;
    double *grain_sums;    /* [own grains][sum_width] */
    double *grain_counts;  /* [own grains][count_width] */
    double *part_rows;     /* [own parts, at most][max width] */
    double *sums, *counts; /* canonical */
    cps_global global;

    /* of the step at work */
    cps_loader *loader;
    cps_step_place at;
    int64_t update;
    int64_t trained_steps; /* of the stage, while validating */
    int64_t bad_images, truncated;
    int64_t *all_bad, *all_bytes; /* [ranks] */
    cps_bad_image *bad;           /* of this step's own grains */
    int64_t bad_capacity;
};

static void destroy_runs(cps_step *step) {
    for (int64_t i = 0; step->tapes != NULL && i <= step->kept; i++) {
        cps_tape_destroy(step->tapes[i]);
    }
    for (int64_t i = 0; step->runs != NULL && i <= step->kept; i++) {
        cps_grain_run_destroy(step->runs[i]);
    }
    free(step->tapes);
    free(step->runs);
}

void cps_step_destroy(cps_step *step) {
    if (step == NULL) {
        return;
    }
    destroy_runs(step);
    cps_tape_destroy(step->plain_forward);
    cps_tape_destroy(step->plain);
    cps_tape_destroy(step->loss_tape);
    cps_slot_memory_free(&step->slots);
    free(step->bad);
    free(step->grain_sums);
    free(step->grain_counts);
    free(step->part_rows);
    free(step->sums);
    free(step->counts);
    free(step->all_bad);
    free(step->all_bytes);
    cps_arena_destroy(step->arena);
    free(step);
}

static cps_status create_tapes(cps_step *step) {
    const size_t count = (size_t)step->kept + 1;
    step->tapes = calloc(count, sizeof(cps_tape *));
    step->runs = calloc(count, sizeof(cps_grain_run *));
    if (step->tapes == NULL || step->runs == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %zu recordings", count);
    }
    for (size_t i = 0; i < count; i++) {
        CPS_TRY(cps_tape_create(step->arena, CPS_TAPE_RECORD, cps_host_table(), &step->tapes[i]));
        CPS_TRY(cps_grain_run_create(step->plan, &step->runs[i]));
    }
    CPS_TRY(cps_tape_create(step->arena, CPS_TAPE_PLAIN, cps_host_table(), &step->plain_forward));
    CPS_TRY(cps_tape_create(step->arena, CPS_TAPE_PLAIN, cps_host_table(), &step->plain));
    CPS_TRY(cps_tape_create(step->arena, CPS_TAPE_RECORD, cps_host_table(), &step->loss_tape));
    cps_tape_set_comm(step->loss_tape, step->comm);
    return CPS_OK;
}

static double *doubles(int64_t rows, int64_t width) {
    return calloc((size_t)(rows * width) + 1, sizeof(double));
}

static cps_status create_rest(cps_step *step, const cps_step_memory *memory) {
    const cps_stage_plan *plan = step->plan;
    const int64_t width = cps_max_i64(plan->sum_width, plan->count_width);
    CPS_TRY(cps_arena_create("activations",
                             memory->total_bytes - memory->slot_bytes - memory->sum_bytes, false,
                             &step->arena));
    CPS_TRY(create_tapes(step));
    CPS_TRY(cps_slot_memory_create(plan, step->own_grains, &step->slots));
    step->grain_sums = doubles(step->own_grains, plan->sum_width);
    step->grain_counts = doubles(step->own_grains, plan->count_width);
    step->part_rows = doubles(cps_min_i64(step->own_grains, plan->parts), width);
    step->sums = doubles(1, plan->sum_width);
    step->counts = doubles(1, plan->count_width);
    const int32_t ranks = cps_comm_size(step->comm);
    step->all_bad = calloc((size_t)ranks, sizeof *step->all_bad);
    step->all_bytes = calloc((size_t)ranks, sizeof *step->all_bytes);
    if (step->all_bad == NULL || step->all_bytes == NULL || step->grain_sums == NULL ||
        step->grain_counts == NULL || step->part_rows == NULL || step->sums == NULL ||
        step->counts == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the sums of a step");
    }
    for (int32_t r = 0; r < ranks; r++) {
        step->all_bytes[r] = (int64_t)sizeof(int64_t);
    }
    return CPS_OK;
}

cps_status cps_step_create(cps_comm *comm, cps_stage_plan *plan, const cps_step_memory *memory,
                           cps_updater *updater, cps_step **step_out) {
    cps_step *step = calloc(1, sizeof *step);
    if (step == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a training step");
    }
    step->comm = comm;
    step->plan = plan;
    step->updater = updater;
    step->own_grains = memory->own_grains;
    step->kept = memory->kept;
    const cps_status status = create_rest(step, memory);
    if (status != CPS_OK) {
        cps_step_destroy(step);
        return status;
    }
    *step_out = step;
    return CPS_OK;
}

/* ---- one grain
 * -------------------------------------------------------------------------------------------------------
 */

static cps_step_info info_of(const cps_step *step, int64_t grain, bool replay) {
    /* A validation batch is seen at the training step it is run at: schedules read that one. */
    const int64_t now = step->at.evaluation ? step->trained_steps : step->at.data_step;
    return (cps_step_info){
        .step = now,
        .steps = step->plan->steps,
        .epoch = step->plan->steps_per_epoch > 0 ? now / step->plan->steps_per_epoch : 0,
        .update = step->update,
        .grain = grain,
        .grains = step->at.grains,
        .seed = step->plan->seed,
        .evaluation = step->at.evaluation,
        .replay = replay};
}

/* Validation batches are runs of grains of the one data step of a stored order. */
static cps_status ask_grain(cps_step *step, int64_t grain, const cps_batch **batch_out) {
    const bool stored = step->at.evaluation;
    if (cps_fault_here(step->comm, "read", step->at.data_step)) {
        return cps_fail(CPS_ERR_INTERNAL, "a fault was asked for at 'read', step %lld",
                        (long long)step->at.data_step);
    }
    return cps_loader_grain(step->loader, stored ? 0 : step->at.data_step,
                            stored ? step->at.data_step * step->at.grains + grain : grain,
                            batch_out);
}

/* Keeps what the loader said of bad images until the step is reported. */
static cps_status note_bad(cps_step *step, const cps_batch *batch) {
    const int64_t count = step->bad_images + batch->bad_count;
    if (count > step->bad_capacity) {
        cps_bad_image *bad = realloc(step->bad, (size_t)(2 * count) * sizeof *bad);
        if (bad == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the list of bad images");
        }
        step->bad = bad;
        step->bad_capacity = 2 * count;
    }
    for (int64_t i = 0; i < batch->bad_count; i++) {
        step->bad[step->bad_images++] = batch->bad[i];
    }
    return CPS_OK;
}

/* Runs grain number `own` of this rank on `tape`. */
static cps_status forward(cps_step *step, cps_grain_run *run, cps_tape *tape, int64_t own,
                          bool replay) {
    const int64_t grain = step->at.first_grain + own;
    const cps_batch *batch = NULL;
    CPS_TRY(ask_grain(step, grain, &batch));
    const cps_grain_input input = {
        .loader = step->loader,
        .batch = batch,
        .info = info_of(step, grain, replay),
        .tape = tape,
        .plain = step->plain,
        .counts = step->counts,
        .sums = replay ? NULL : step->grain_sums + own * step->plan->sum_width,
    };
    if (!replay) {
        CPS_TRY(note_bad(step, batch));
        for (int32_t i = 0; i < batch->input_count; i++) {
            step->truncated += batch->inputs[i].truncated;
        }
    }
    if (cps_fault_here(step->comm, "head", step->at.data_step)) {
        return cps_fail(CPS_ERR_INTERNAL, "a fault was asked for at 'head', step %lld",
                        (long long)step->at.data_step);
    }
    cps_watchdog_beat(step->comm);
    return cps_grain_forward(run, &input);
}

/* Gradients that enter a grain's recording: of its own terms and of the rows it emitted. */
static void seed_grain(cps_step *step, cps_grain_run *run, cps_real *weights) {
    cps_grain *grain = cps_grain_run_grain(run);
    const cps_stage_plan *plan = step->plan;
    for (int32_t t = 0; t < plan->term_count; t++) {
        if (grain->terms[t] != NULL && grain->terms[t]->needs_grad) {
            weights[t] = (cps_real)plan->terms[t].weight;
            cps_tape_seed(grain->tape, grain->terms[t], &weights[t]);
        }
    }
    for (int32_t s = 0; s < plan->slot_count; s++) {
        cps_tensor *rows = grain->emitted[s];
        if (plan->has_loss && rows != NULL && rows->needs_grad && plan->slots[s].needs_grad) {
            cps_tape_seed(
                grain->tape, rows,
                cps_slot_grad(&step->slots, plan, s, grain->info.grain - step->at.first_grain));
        }
    }
}

static void hook_node(void *context) {
    const cps_step *step = context;
    cps_updater_poll(step->updater);
}

static void hook_leaf(void *context, int32_t leaf) {
    const cps_step *step = context;
    cps_updater_leaf_done(step->updater, leaf);
}

static cps_status backward(cps_step *step, cps_grain_run *run, bool last_of_part) {
    cps_tape *tape = cps_grain_run_grain(run)->tape;
    const bool leaves = last_of_part && cps_updater_wants_leaves(step->updater);
    const cps_tape_hooks hooks = {
        .context = step, .on_node = hook_node, .on_leaf_done = leaves ? hook_leaf : NULL};
    cps_real weights[CPS_STAGE_TERMS];
    seed_grain(step, run, weights);
    cps_tape_set_hooks(tape, &hooks);
    const cps_status status = cps_backward(tape, NULL, 0.0);
    cps_watchdog_beat(step->comm);
    cps_tape_reset(tape);
    return status;
}

/* ---- sums over grains, parts, ranks
 * ------------------------------------------------------------------------------------------ */

/* rows[own grain][width] -> canonical sum. A part's rows are added in grain order. Collective. */
static cps_status sum_grains(cps_step *step, const char *place, const double *rows, int64_t width,
                             double *sum_out) {
    if (width == 0) {
        return CPS_OK;
    }
    memset(step->part_rows, 0,
           (size_t)((step->at.last_part - step->at.first_part) * width) * sizeof(double));
    for (int64_t part = step->at.first_part; part < step->at.last_part; part++) {
        double *target = step->part_rows + (part - step->at.first_part) * width;
        const int64_t first = cps_part_grain_first(step->at.grains, step->at.parts, part);
        const int64_t last = cps_part_grain_first(step->at.grains, step->at.parts, part + 1);
        for (int64_t grain = first; grain < last; grain++) {
            const double *row = rows + (grain - step->at.first_grain) * width;
            for (int64_t i = 0; i < width; i++) {
                target[i] += row[i];
            }
        }
    }
    return cps_canonical_sum(step->comm, place, step->at.parts, step->part_rows, width, sum_out);
}

static cps_status prepare(cps_step *step) {
    const cps_stage_plan *plan = step->plan;
    if (plan->count_width == 0) {
        return CPS_OK;
    }
    cps_status status = CPS_OK;
    for (int64_t own = 0; own < step->at.last_grain - step->at.first_grain && status == CPS_OK;
         own++) {
        const cps_batch *batch = NULL;
        const int64_t grain = step->at.first_grain + own;
        status = ask_grain(step, grain, &batch);
        if (status == CPS_OK) {
            const cps_grain_input input = {.loader = step->loader,
                                           .batch = batch,
                                           .info = info_of(step, grain, false),
                                           .tape = step->plain,
                                           .plain = step->plain};
            status = cps_grain_prepare(step->runs[step->kept], &input,
                                       step->grain_counts + own * plan->count_width);
            cps_tape_reset(step->plain);
        }
    }
    CPS_TRY(cps_agree(step->comm, "prepare", status));
    return sum_grains(step, "sums of prepare", step->grain_counts, plan->count_width, step->counts);
}

/* ---- forwards with a loss: plain ones, then those that are kept, the first grain last
 * ----------------------------------------------- */

static cps_status forward_one(cps_step *step, int64_t own, int64_t kept) {
    const bool keep = own < kept;
    cps_grain_run *run = step->runs[keep ? own : step->kept];
    cps_tape *tape = keep ? step->tapes[own] : step->plain_forward;
    CPS_TRY(forward(step, run, tape, own, false));
    cps_slot_store(&step->slots, step->plan, cps_grain_run_grain(run), own);
    if (!keep) {
        cps_tape_reset(tape);
    }
    return CPS_OK;
}

static cps_status forward_all(cps_step *step, int64_t kept) {
    const int64_t count = step->at.last_grain - step->at.first_grain;
    for (int64_t own = kept; own < count; own++) {
        CPS_TRY(forward_one(step, own, kept));
    }
    for (int64_t own = cps_min_i64(kept, count) - 1; own >= 0; own--) {
        CPS_TRY(forward_one(step, own, kept));
    }
    return CPS_OK;
}

/* ---- the loss of the global batch
 * -----------------------------------------------------------------------------------------------
 */

static cps_status run_losses(cps_step *step, cps_tape *tape) {
    cps_stage_plan *plan = step->plan;
    cps_global *global = &step->global;
    for (int32_t i = 0; i < plan->instance_count; i++) {
        const cps_instance *instance = &plan->instances[i];
        if (instance->objective->loss == NULL) {
            continue;
        }
        global->owner = i;
        cps_status status = instance->objective->loss(instance->self, global, tape);
        if (status == CPS_OK) {
            status = cps_tape_status(tape);
        }
        if (status == CPS_OK) {
            status = cps_service_status(global->status, global->message);
        }
        if (status != CPS_OK) {
            return cps_fail_context(status, "objective '%s', loss", instance->name);
        }
    }
    return CPS_OK;
}

static void begin_global(cps_step *step, cps_tape *tape) {
    cps_global *global = &step->global;
    memset(global, 0, sizeof *global);
    global->host = cps_host_table();
    global->plan = step->plan;
    global->tape = tape;
    global->info = info_of(step, -1, false);
    global->counts = step->counts;
}

/* Runs the losses; leaf gradients end in the slots, those of scalars at the updater. A rank whose
 * plugin fails meets the others in the agreement that begins their next collective operation, or in
 * the one after the loss. */
static cps_status whole_loss(cps_step *step) {
    cps_tape *tape = step->loss_tape;
    begin_global(step, tape);
    cps_global *global = &step->global;
    cps_status status = cps_slot_leaves(&step->slots, step->plan, tape, global->slots);
    if (status == CPS_OK && cps_fault_here(step->comm, "loss", step->at.data_step)) {
        status = cps_fail(CPS_ERR_INTERNAL, "a fault was asked for at 'loss', step %lld",
                          (long long)step->at.data_step);
    }
    if (status == CPS_OK) {
        status = run_losses(step, tape);
    }
    /* A failure that was agreed inside an operation is known to all ranks: agreeing again would
     * meet nobody. */
    if (!cps_tape_failure_agreed(tape)) {
        status = cps_agree(step->comm, "loss", status);
    }
    return status;
}

static cps_status loss_backward(cps_step *step) {
    cps_tape *tape = step->loss_tape;
    cps_global *global = &step->global;
    cps_real weights[CPS_STAGE_TERMS];
    for (int32_t t = 0; t < global->term_count; t++) {
        weights[t] = (cps_real)global->term_weights[t];
        if (global->terms[t]->needs_grad) {
            cps_tape_seed(tape, global->terms[t], &weights[t]);
        }
    }
    cps_status status = cps_backward(tape, NULL, 0.0);
    if (!cps_tape_failure_agreed(tape)) {
        status = cps_agree(step->comm, "backward of the loss", status);
    }
    CPS_TRY(status);
    cps_slot_finish_grads(&step->slots, step->plan, global->slots);
    for (int32_t i = 0; i < global->param_count; i++) {
        if (global->params[i]->grad != NULL && !global->params[i]->grad_fresh) {
            cps_updater_add_global(step->updater, global->param_index[i], global->params[i]->grad);
        }
    }
    if (cps_fault_here(step->comm, "nan", step->at.data_step)) {
        cps_slot_poison(&step->slots, step->plan);
    }
    return CPS_OK;
}

/* Values of the loss's terms and reports, the same on every rank. */
static void collect_global(const cps_step *step, cps_step_result *result) {
    const cps_global *global = &step->global;
    for (int32_t t = 0; t < global->term_count; t++) {
        const double value = (double)*(const cps_real *)global->terms[t]->data;
        result->loss += global->term_weights[t] * value;
        snprintf(result->term_names[result->term_count], 64, "%s", global->term_names[t]);
        result->term_values[result->term_count++] = value;
    }
    for (int32_t r = 0; r < global->report_count; r++) {
        snprintf(result->term_names[result->term_count], 64, "%s", global->report_names[r]);
        result->term_values[result->term_count++] = global->report_values[r];
    }
}

/* Values of the grains' terms and reports from the canonical sums. */
static void collect_grains(const cps_step *step, cps_step_result *result) {
    const cps_stage_plan *plan = step->plan;
    for (int32_t t = 0; t < plan->term_count; t++) {
        const cps_stage_term *term = &plan->terms[t];
        const double *sums = step->sums + term->at;
        const double value = !term->is_report ? sums[0] : sums[1] != 0.0 ? sums[0] / sums[1] : 0.0;
        if (!term->is_report) {
            result->loss += term->weight * value;
        }
        snprintf(result->term_names[result->term_count], 64, "%s%s%s",
                 plan->instance_count > 1 ? plan->instances[term->owner].name : "",
                 plan->instance_count > 1 ? "." : "", term->name);
        result->term_values[result->term_count++] = value;
    }
}

/* ---- backwards, part by part
 * ------------------------------------------------------------------------------------------------------
 */

/* A stage with a loss: recordings are there or made again. A stage of grain losses only: forward
 * and backward at once. */
static cps_status grain_backward(cps_step *step, int64_t own, int64_t kept, bool last_of_part) {
    const bool recorded = step->plan->has_loss && own < kept;
    cps_grain_run *run = step->runs[recorded ? own : step->kept];
    if (!recorded) {
        CPS_TRY(forward(step, run, step->tapes[step->kept], own, step->plan->has_loss));
    }
    return backward(step, run, last_of_part);
}

/* A rank that fails goes on with the exchange, so that the others do not wait for its parts. */
static cps_status backward_all(cps_step *step, int64_t kept) {
    cps_status status = CPS_OK;
    cps_updater_begin(step->updater, step->at.parts);
    for (int64_t part = step->at.first_part; part < step->at.last_part; part++) {
        const int64_t first = cps_part_grain_first(step->at.grains, step->at.parts, part);
        const int64_t last = cps_part_grain_first(step->at.grains, step->at.parts, part + 1);
        cps_updater_part_begin(step->updater, part);
        for (int64_t grain = first; grain < last && status == CPS_OK; grain++) {
            status = grain_backward(step, grain - step->at.first_grain, kept, grain + 1 == last);
        }
        cps_updater_part_end(step->updater, part);
    }
    return status;
}

/* ---- the step
 * ---------------------------------------------------------------------------------------------------------------------
 */

static void begin_step(cps_step *step, cps_loader *loader, int64_t data_step, int64_t update) {
    step->loader = loader;
    step->at.data_step = data_step;
    step->update = update;
    step->at.grains =
        step->at.evaluation ? step->plan->grains : cps_loader_step_grains(loader, data_step);
    step->at.parts = cps_min_i64(step->at.grains, step->plan->parts);
    const int64_t size = cps_comm_size(step->comm);
    const int64_t rank = cps_comm_rank(step->comm);
    step->at.first_part = cps_part_first(step->at.parts, size, rank);
    step->at.last_part = cps_part_first(step->at.parts, size, rank + 1);
    step->at.first_grain =
        cps_part_grain_first(step->at.grains, step->at.parts, step->at.first_part);
    step->at.last_grain = cps_part_grain_first(step->at.grains, step->at.parts, step->at.last_part);
    cps_slot_begin(&step->slots, step->plan, &step->at);
    step->bad_images = 0;
    step->truncated = 0;
}

/* Running statistics of towers with batch norm: call after call towards the mean over grains. */
static void commit_moments(const cps_step *step) {
    for (int32_t c = 0; c < step->plan->call_count; c++) {
        const cps_stage_call *call = &step->plan->calls[c];
        double *mean = step->sums + cps_max_i64(0, call->moments_at);
        for (int64_t i = 0; call->moments_at >= 0 && i < cps_tower_moment_count(call->tower); i++) {
            mean[i] /= (double)step->at.grains;
        }
        if (call->moments_at >= 0) {
            cps_tower_take_moments(call->tower, mean);
        }
    }
}

static cps_status run_commits(cps_step *step) {
    cps_stage_plan *plan = step->plan;
    cps_global *global = &step->global;
    for (int32_t i = 0; i < plan->instance_count; i++) {
        const cps_instance *instance = &plan->instances[i];
        if (instance->objective->commit != NULL) {
            global->owner = i;
            global->sums = step->sums;
            cps_status status = instance->objective->commit(instance->self, global);
            status =
                status != CPS_OK ? status : cps_service_status(global->status, global->message);
            CPS_TRY(cps_fail_context(status, "objective '%s', commit", instance->name));
        }
    }
    return CPS_OK;
}

/* Collective, where an objective has something to commit. */
static cps_status commit(cps_step *step) {
    bool any = false;
    for (int32_t i = 0; i < step->plan->instance_count; i++) {
        any = any || step->plan->instances[i].objective->commit != NULL;
    }
    return any ? cps_agree(step->comm, "commit", run_commits(step)) : CPS_OK;
}

/* Sums over the batch that grains made, bad images among them. Collective. */
static cps_status exchange_sums(cps_step *step, cps_step_result *result) {
    CPS_TRY(
        sum_grains(step, "sums of grains", step->grain_sums, step->plan->sum_width, step->sums));
    cps_comm_allgatherv(step->comm, "bad images", &step->bad_images, step->all_bad,
                        step->all_bytes);
    for (int32_t r = 0; r < cps_comm_size(step->comm); r++) {
        result->bad_images += step->all_bad[r];
    }
    collect_grains(step, result);
    return CPS_OK;
}

static cps_status compute(cps_step *step, cps_step_result *result) {
    const cps_stage_plan *plan = step->plan;
    CPS_TRY(prepare(step));
    const char *flagged = NULL;
    const int64_t kept = plan->has_loss ? step->kept : 0;
    begin_global(step, step->loss_tape);
    if (plan->has_loss) {
        const cps_status status = forward_all(step, kept);
        CPS_TRY(cps_agree(step->comm, "forward", status));
        CPS_TRY(whole_loss(step));
        collect_global(step, result);
        CPS_TRY(loss_backward(step));
        cps_tape_reset(step->loss_tape);
    }
    const cps_status own = backward_all(step, kept);
    if (own == CPS_OK && !isfinite(result->loss)) {
        flagged = "loss";
    }
    CPS_TRY(cps_updater_finish(step->updater, own, flagged, &result->norms));
    return exchange_sums(step, result);
}

/* Read before the update: afterwards the owner holds the new value and the others wait for it. */
static double logit_scale(const cps_step *step) {
    cps_params *params = cps_model_params(step->plan->model);
    const int32_t index = cps_params_find(params, "logit_scale");
    return index < 0 ? (double)NAN
                     : exp((double)*(const cps_real *)cps_params_at(params, index)->tensor.data);
}

/* Parameters that are frozen in the stage's first steps: their gradient counts as absent. */
static void hold_frozen(const cps_step *step) {
    for (int32_t i = 0; i < step->plan->hold_count; i++) {
        const cps_stage_hold *hold = &step->plan->holds[i];
        cps_updater_hold(step->updater, hold->param, step->at.data_step < hold->steps);
    }
}

static double product_seconds(void) {
    double seconds = 0.0, flop = 0.0;
    cps_product_time(&seconds, &flop);
    return seconds;
}

cps_status cps_step_run(cps_step *step, cps_loader *loader, int64_t data_step, int64_t update,
                        cps_step_result *result_out) {
    const double start = cps_seconds();
    const double loader_start = cps_loader_wait_seconds(loader);
    const double exchange_start = cps_updater_wait_seconds(step->updater);
    const double product_start = product_seconds();
    cps_step_result result = {0};
    step->at.evaluation = false;
    cps_updater_wait_weights(step->updater);
    begin_step(step, loader, data_step, update);
    result.logit_scale = logit_scale(step);
    hold_frozen(step);
    if (cps_fault_here(step->comm, "kill", data_step)) {
        raise(SIGKILL);
    }
    while (cps_fault_here(step->comm, "hang", data_step)) {
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    }
    CPS_TRY(compute(step, &result));
    result.skipped = !result.norms.finite || !isfinite(result.loss);
    if (result.norms.finite && result.skipped) {
        snprintf(result.norms.bad_name, sizeof result.norms.bad_name,
                 "loss"); /* of grains: the sum is known to all ranks alike */
    }
    if (!result.skipped) {
        CPS_TRY(cps_updater_apply(step->updater, data_step));
        CPS_TRY(commit(step));
        commit_moments(step);
    }
    cps_loader_release_step(loader, data_step);
    result.own_bad = step->bad;
    result.own_bad_count = step->bad_images;
    result.truncated = step->truncated;
    result.seconds = cps_seconds() - start;
    result.loader_seconds = cps_loader_wait_seconds(loader) - loader_start;
    result.product_seconds = product_seconds() - product_start;
    result.exchange_seconds = cps_updater_wait_seconds(step->updater) - exchange_start;
    *result_out = result;
    return CPS_OK;
}

/* ---- validation
 * ---------------------------------------------------------------------------------------------------------------------
 */

cps_status cps_step_validate(cps_step *step, cps_loader *loader, int64_t batch,
                             int64_t trained_steps, cps_step_result *result_out) {
    cps_step_result result = {0};
    step->at.evaluation = true;
    step->trained_steps =
        cps_min_i64(trained_steps, cps_max_i64(step->plan->steps - 1, 0)); /* tables end there */
    begin_step(step, loader, batch, step->update);
    cps_status status = prepare(step);
    if (status == CPS_OK) {
        begin_global(step, step->loss_tape);
        /* A loader of stored order gives a grain once; the counts have been through them. */
        status = step->plan->count_width > 0 ? cps_loader_seek(loader, 0) : CPS_OK;
        status = status != CPS_OK ? status : forward_all(step, 0);
        status = cps_agree(step->comm, "validation forward", status);
    }
    if (status == CPS_OK && step->plan->has_loss) {
        status = whole_loss(step);
        if (status == CPS_OK) {
            collect_global(step, &result);
        }
        cps_tape_reset(step->loss_tape);
    }
    if (status == CPS_OK) {
        status = exchange_sums(step, &result);
    }
    step->at.evaluation = false;
    if (status == CPS_OK) {
        *result_out = result;
    }
    return status;
}
