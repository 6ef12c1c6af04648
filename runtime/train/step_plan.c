/* Planning runs and the slots of a step. A planning run is the step's own code on tapes that count:
 * it finds what learns, what heads emit, which terms and reports there are, and the bytes of every
 * recording. */
#include "train/step_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "comm/canonical.h"
#include "train/frozen.h"
#include "train/grain.h"
#include "train/step.h"

/* ---- planning
 * ---------------------------------------------------------------------------------------------------------
 */

typedef struct planner {
    cps_stage_plan *plan;
    cps_arena *arena;
    cps_tape *tape, *plain, *loss;
    cps_grain_run *run;
    cps_global global;
    size_t grain_bytes, backward_bytes, loss_bytes, plain_bytes;
} planner;

static void close_planner(planner *p) {
    cps_tape_destroy(p->tape);
    cps_tape_destroy(p->plain);
    cps_tape_destroy(p->loss);
    cps_grain_run_destroy(p->run);
    cps_arena_destroy(p->arena);
}

static cps_status open_planner(cps_stage_plan *plan, planner *p) {
    *p = (planner){.plan = plan};
    CPS_TRY(cps_arena_create_counting("plan", &p->arena));
    CPS_TRY(cps_tape_create(p->arena, CPS_TAPE_PLAN, plan->host, &p->tape));
    CPS_TRY(cps_tape_create(p->arena, CPS_TAPE_PLAN, plan->host, &p->plain));
    CPS_TRY(cps_tape_create(p->arena, CPS_TAPE_PLAN, plan->host, &p->loss));
    cps_tape_set_comm(p->loss, plan->comm);
    return cps_grain_run_create(plan, &p->run);
}

static cps_status plan_grain(planner *p) {
    cps_stage_plan *plan = p->plan;
    const cps_grain_input input = {
        .info = {.steps = plan->steps, .grains = plan->grains, .seed = plan->seed},
        .tape = p->tape,
        .plain = p->plain,
    };
    CPS_TRY(cps_grain_forward(p->run, &input));
    const cps_grain *grain = cps_grain_run_grain(p->run);
    p->grain_bytes = cps_arena_used(p->arena);
    p->plain_bytes = cps_arena_high_water(p->arena);
    bool seeded = false;
    for (int32_t t = 0; t < plan->term_count; t++) {
        if (grain->terms[t] != NULL && grain->terms[t]->needs_grad) {
            cps_tape_seed(p->tape, grain->terms[t], NULL);
            seeded = true;
        }
    }
    for (int32_t s = 0; s < plan->slot_count; s++) {
        if (grain->emitted[s] != NULL) {
            plan->slots[s].needs_grad = grain->emitted[s]->needs_grad;
            if (plan->has_loss && grain->emitted[s]->needs_grad) {
                cps_tape_seed(p->tape, grain->emitted[s], NULL);
                seeded = true;
            }
        }
    }
    if (seeded) {
        CPS_TRY(cps_backward(p->tape, NULL, 0.0));
    }
    p->backward_bytes = cps_arena_high_water(p->arena) - p->grain_bytes;
    return CPS_OK;
}

/* Where rank `rank` of `ranks` stands in a full step. */
static cps_step_place place_of(const cps_stage_plan *plan, int32_t ranks, int32_t rank) {
    cps_step_place place = {.grains = plan->grains,
                            .parts = cps_min_i64(plan->grains, plan->parts)};
    place.first_part = cps_part_first(place.parts, ranks, rank);
    place.last_part = cps_part_first(place.parts, ranks, rank + 1);
    place.first_grain = cps_part_grain_first(place.grains, place.parts, place.first_part);
    place.last_grain = cps_part_grain_first(place.grains, place.parts, place.last_part);
    return place;
}

/* The loss as the rank at `place` sees it. */
static cps_status plan_loss(planner *p, const cps_step_place *place) {
    cps_stage_plan *plan = p->plan;
    const int64_t own_grains = place->last_grain - place->first_grain;
    cps_slot_memory slots;
    CPS_TRY(cps_slot_memory_create(plan, own_grains, &slots));
    cps_slot_begin(&slots, plan, place);
    cps_tape_reset(p->loss); /* of another rank's place */
    const size_t before = cps_arena_used(p->arena);
    p->global = (cps_global){.host = plan->host,
                             .plan = plan,
                             .tape = p->loss,
                             .info = {.steps = plan->steps, .grain = -1, .grains = plan->grains}};
    cps_status status = cps_slot_leaves(&slots, plan, p->loss, p->global.slots);
    bool seeded = false;
    for (int32_t i = 0; i < plan->instance_count && status == CPS_OK; i++) {
        const cps_instance *instance = &plan->instances[i];
        if (instance->objective->loss != NULL) {
            p->global.owner = i;
            status = instance->objective->loss(instance->self, &p->global, p->loss);
            status =
                status != CPS_OK ? status : cps_service_status(p->global.status, p->global.message);
            status = status != CPS_OK ? status : cps_tape_status(p->loss);
        }
    }
    for (int32_t t = 0; t < p->global.term_count && status == CPS_OK; t++) {
        if (p->global.terms[t]->needs_grad) {
            cps_tape_seed(p->loss, p->global.terms[t], NULL);
            seeded = true;
        }
    }
    if (status == CPS_OK && seeded) {
        status = cps_backward(p->loss, NULL, 0.0);
    }
    const size_t bytes = cps_arena_high_water(p->arena) - before;
    p->loss_bytes = p->loss_bytes > bytes ? p->loss_bytes : bytes;
    cps_slot_memory_free(&slots);
    return status;
}

/* First pass: everything may learn; a parameter is reached if its gradient would be. */
static cps_status find_reached(cps_stage_plan *plan, int32_t ranks, bool *reached) {
    cps_params *params = cps_model_params(plan->model);
    CPS_TRY(cps_params_set_train(params, NULL, 0));
    planner p;
    cps_status status = open_planner(plan, &p);
    status = status != CPS_OK ? status : plan_grain(&p);
    if (status == CPS_OK && plan->has_loss) {
        const cps_step_place place = place_of(plan, ranks, 0);
        status = plan_loss(&p, &place);
    }
    for (int32_t i = 0; i < cps_params_count(params) && status == CPS_OK; i++) {
        reached[i] = cps_tape_reaches_leaf(p.tape, i) || cps_tape_reaches_leaf(p.loss, i);
    }
    close_planner(&p);
    return status;
}

static cps_status settle_learning(cps_stage_plan *plan, const bool *reached) {
    cps_params *params = cps_model_params(plan->model);
    const cps_stage_options *options = &plan->options;
    CPS_TRY(cps_params_set_train(params, options->train.lines, options->train.count));
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        cps_param *param = cps_params_at(params, i);
        param->learns = param->learns && reached[i];
        param->tensor.needs_grad = param->learns;
    }
    for (int32_t i = 0; i < plan->rule_count; i++) {
        const cps_stage_rule *rule = &plan->rules[i];
        cps_param_spec *spec = &cps_params_at(params, rule->param)->spec;
        spec->decay = rule->decay;
        spec->has_bounds = rule->bounded;
        spec->minimum = rule->minimum;
        spec->maximum = rule->maximum;
    }
    const int64_t count = options->lr_factor_count;
    const char **patterns = calloc((size_t)count + 1, sizeof *patterns);
    double *factors = calloc((size_t)count + 1, sizeof *factors);
    cps_status status = CPS_OK;
    if (patterns == NULL || factors == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory while planning a stage");
    }
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        patterns[i] = options->lr_factors[i].name;
        factors[i] = options->lr_factors[i].value;
    }
    status =
        status != CPS_OK ? status : cps_params_set_lr_factors(params, patterns, factors, count);
    free(patterns);
    free(factors);
    return status;
}

static int64_t most_own_grains(const cps_stage_plan *plan, int32_t ranks) {
    const int64_t parts = cps_min_i64(plan->grains, plan->parts);
    return cps_ceil_div(parts, ranks) * cps_ceil_div(plan->grains, parts);
}

/* As step.c takes them: sums and counts of grains, of parts, of the batch. */
static size_t sum_bytes(const cps_stage_plan *plan, int64_t own_grains) {
    const int64_t width = plan->sum_width + plan->count_width;
    const int64_t wider = cps_max_i64(plan->sum_width, plan->count_width);
    const int64_t parts = cps_min_i64(own_grains, plan->parts);
    return (size_t)(own_grains * width + parts * wider + width) * sizeof(double);
}

static void settle_memory(const cps_stage_plan *plan, const planner *p, cps_step_memory *memory) {
    memory->grain_bytes = p->grain_bytes;
    memory->backward_bytes = p->backward_bytes;
    memory->loss_bytes = p->loss_bytes;
    memory->slot_bytes = cps_slot_memory_bytes(plan, memory->own_grains);
    memory->sum_bytes = sum_bytes(plan, memory->own_grains);
    const int64_t budget = plan->options.activation_budget_mb;
    const size_t working = memory->grain_bytes + memory->backward_bytes;
    int64_t kept = 0;
    if (plan->has_loss && budget != 0) {
        kept = memory->own_grains;
        if (budget > 0 && memory->grain_bytes > 0) {
            const size_t room = (size_t)budget << 20;
            kept = room <= working ? 0
                                   : cps_min_i64(kept, (int64_t)((room - memory->backward_bytes) /
                                                                 memory->grain_bytes));
        }
    }
    memory->kept = kept;
    /* The working recording needs its own place only while something is replayed, and by then the
     * kept ones are gone. */
    const size_t recordings = (size_t)cps_max_i64(kept, 1) * memory->grain_bytes;
    const size_t plain = kept < memory->own_grains ? p->plain_bytes : 0;
    const size_t top =
        memory->backward_bytes > memory->loss_bytes ? memory->backward_bytes : memory->loss_bytes;
    memory->total_bytes =
        recordings + (top > plain ? top : plain) + memory->slot_bytes + memory->sum_bytes;
}

cps_status cps_step_plan(cps_stage_plan *plan, int32_t ranks, cps_step_memory *memory_out) {
    const int32_t count = cps_params_count(cps_model_params(plan->model));
    cps_step_memory memory = {.own_grains = most_own_grains(plan, ranks)};
    bool *reached = calloc((size_t)count + 1, sizeof *reached);
    if (reached == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory while planning a stage");
    }
    cps_status status = find_reached(plan, ranks, reached);
    status = status != CPS_OK ? status : settle_learning(plan, reached);
    status = status != CPS_OK ? status : cps_frozen_check_learning(plan);
    free(reached);
    CPS_TRY(status);
    planner p;
    status = open_planner(plan, &p);
    status = status != CPS_OK ? status : plan_grain(&p);
    if (status == CPS_OK && plan->has_loss) {
        const planner first = p;
        close_planner(&p); /* a fresh high-water mark */
        status = open_planner(plan, &p);
        p.grain_bytes = first.grain_bytes;
        p.backward_bytes = first.backward_bytes;
        p.plain_bytes = first.plain_bytes;
        /* The rank with the most rows: fixed texts and parts do not divide evenly. */
        for (int32_t r = 0; r < ranks && status == CPS_OK; r++) {
            const cps_step_place place = place_of(plan, ranks, r);
            status = plan_loss(&p, &place);
        }
    }
    if (status == CPS_OK) {
        settle_memory(plan, &p, &memory);
        *memory_out = memory;
    }
    close_planner(&p);
    return status;
}

/* Bytes of a grain's forward without recording. */
static cps_status plan_plain(cps_stage_plan *plan, size_t *bytes_out) {
    bool needs_grad[CPS_STAGE_SLOTS];
    for (int32_t s = 0; s < plan->slot_count; s++) {
        needs_grad[s] = plan->slots[s].needs_grad;
    }
    cps_params_pause(cps_model_params(plan->model),
                     true); /* a planning tape records whatever asks for a gradient */
    planner p;
    cps_status status = open_planner(plan, &p);
    status = status != CPS_OK ? status : plan_grain(&p);
    cps_params_pause(cps_model_params(plan->model), false);
    if (status == CPS_OK) {
        *bytes_out = cps_arena_high_water(p.arena);
    }
    close_planner(&p);
    for (int32_t s = 0; s < plan->slot_count; s++) {
        plan->slots[s].needs_grad = needs_grad[s];
    }
    return status;
}

cps_status cps_step_plan_validation(cps_stage_plan *plan, int32_t ranks,
                                    cps_step_memory *memory_out) {
    cps_step_memory memory;
    size_t plain_bytes = 0;
    CPS_TRY(cps_step_plan(plan, ranks, &memory));
    CPS_TRY(plan_plain(plan, &plain_bytes));
    memory.kept = 0;
    memory.total_bytes =
        cps_max_size(plain_bytes, memory.loss_bytes) + memory.slot_bytes + memory.sum_bytes;
    *memory_out = memory;
    return CPS_OK;
}

/* ---- slots
 * -------------------------------------------------------------------------------------------------------------
 */

static int64_t clock_rows(const cps_stage_plan *plan, const cps_step_place *place, int64_t grain) {
    const cps_stage_stream *clock = &plan->streams[0];
    const bool keep = plan->options.tail == CPS_TAIL_KEEP;
    return place->evaluation ? clock->rows
                             : cps_grain_rows(cps_stream_epoch_samples(clock->stream), plan->grains,
                                              clock->rows, keep, place->data_step, grain);
}

static int64_t most_slot_rows(const cps_stage_plan *plan, int32_t slot, int64_t own_grains) {
    const cps_stage_view *view = &plan->views[plan->slots[slot].view];
    if (view->stream < 0) {
        return view->view.fixed_text_count; /* at most all of them */
    }
    return own_grains * plan->streams[view->stream].rows;
}

size_t cps_slot_memory_bytes(const cps_stage_plan *plan, int64_t own_grains) {
    size_t bytes = 0;
    for (int32_t s = 0; s < plan->slot_count; s++) {
        const cps_stage_slot *slot = &plan->slots[s];
        const size_t elements = (size_t)(most_slot_rows(plan, s, own_grains) * slot->width);
        bytes +=
            elements * (cps_dtype_bytes(slot->dtype) + (slot->needs_grad ? sizeof(cps_real) : 0));
    }
    return bytes;
}

static void *aligned(size_t bytes) {
    const size_t rounded = (bytes + CPS_ALIGNMENT) / CPS_ALIGNMENT * CPS_ALIGNMENT;
    void *memory = aligned_alloc(CPS_ALIGNMENT, rounded);
    if (memory != NULL) {
        memset(memory, 0, rounded);
    }
    return memory;
}

cps_status cps_slot_memory_create(const cps_stage_plan *plan, int64_t own_grains,
                                  cps_slot_memory *slots) {
    *slots = (cps_slot_memory){0};
    for (int32_t s = 0; s < plan->slot_count; s++) {
        const cps_stage_slot *slot = &plan->slots[s];
        const size_t elements = (size_t)(most_slot_rows(plan, s, own_grains) * slot->width);
        slots->values[s] = aligned(elements * cps_dtype_bytes(slot->dtype));
        slots->grads[s] = slot->needs_grad ? aligned(elements * sizeof(cps_real)) : NULL;
        slots->grain_row[s] = calloc((size_t)own_grains + 1, sizeof(int64_t));
        slots->part_offset[s] = calloc((size_t)plan->parts + 2, sizeof(int64_t));
        if (slots->values[s] == NULL || (slot->needs_grad && slots->grads[s] == NULL) ||
            slots->grain_row[s] == NULL || slots->part_offset[s] == NULL) {
            cps_slot_memory_free(slots);
            return cps_fail(CPS_ERR_UNAVAILABLE,
                            "out of memory for the rows of the loss (%zu elements of '%s'): use a "
                            "smaller global_batch or more ranks",
                            elements, slot->name);
        }
    }
    return CPS_OK;
}

void cps_slot_memory_free(cps_slot_memory *slots) {
    for (int32_t s = 0; s < CPS_STAGE_SLOTS; s++) {
        free(slots->values[s]);
        free(slots->grads[s]);
        free(slots->grain_row[s]);
        free(slots->part_offset[s]);
    }
    *slots = (cps_slot_memory){0};
}

void cps_slot_begin(cps_slot_memory *slots, const cps_stage_plan *plan,
                    const cps_step_place *place) {
    for (int32_t s = 0; s < plan->slot_count; s++) {
        const int32_t view = plan->slots[s].view;
        int64_t row = 0, own_row = 0;
        for (int64_t part = 0; part < place->parts; part++) {
            slots->part_offset[s][part] = row;
            const int64_t last = cps_part_grain_first(place->grains, place->parts, part + 1);
            for (int64_t grain = cps_part_grain_first(place->grains, place->parts, part);
                 grain < last; grain++) {
                const int64_t rows = cps_view_rows_in(plan, view, grain, place->grains,
                                                      clock_rows(plan, place, grain));
                row += rows;
                if (grain >= place->first_grain && grain < place->last_grain) {
                    slots->grain_row[s][grain - place->first_grain] = own_row;
                    own_row += rows;
                    slots->grain_row[s][grain - place->first_grain + 1] = own_row;
                }
            }
        }
        slots->part_offset[s][place->parts] = row;
        slots->layouts[s] =
            (cps_layout){place->parts, slots->part_offset[s], place->first_part, place->last_part};
    }
}

void cps_slot_store(cps_slot_memory *slots, const cps_stage_plan *plan, const cps_grain *grain,
                    int64_t own) {
    for (int32_t s = 0; s < plan->slot_count; s++) {
        const cps_tensor *rows = grain->emitted[s];
        if (rows == NULL || rows->data == NULL) {
            continue;
        }
        const size_t row_bytes =
            (size_t)plan->slots[s].width * cps_dtype_bytes(plan->slots[s].dtype);
        char *to = (char *)slots->values[s] + (size_t)slots->grain_row[s][own] * row_bytes;
        memcpy(to, rows->data, (size_t)rows->shape[0] * row_bytes);
    }
}

cps_status cps_slot_leaves(cps_slot_memory *slots, const cps_stage_plan *plan, cps_tape *tape,
                           cps_tensor *leaves_out[CPS_STAGE_SLOTS]) {
    const bool computes = cps_tape_computes(tape);
    for (int32_t s = 0; s < plan->slot_count; s++) {
        const cps_stage_slot *slot = &plan->slots[s];
        const cps_layout *layout = &slots->layouts[s];
        int64_t shape[CPS_MAX_DIMS];
        memcpy(shape, slot->shape, sizeof shape);
        shape[0] = layout->part_offset[layout->last_part] - layout->part_offset[layout->first_part];
        cps_tensor *leaf =
            cps_tape_leaf(tape, slot->dtype, slot->rank, shape, computes ? slots->values[s] : NULL,
                          computes ? slots->grads[s] : NULL, -1);
        if (leaf == NULL) {
            return cps_tape_status(tape);
        }
        leaf->layout = layout;
        leaf->needs_grad = slot->needs_grad;
        leaf->grad_fresh = true;
        leaves_out[s] = leaf;
    }
    return CPS_OK;
}

void cps_slot_finish_grads(cps_slot_memory *slots, const cps_stage_plan *plan,
                           cps_tensor *const leaves[CPS_STAGE_SLOTS]) {
    for (int32_t s = 0; s < plan->slot_count; s++) {
        if (slots->grads[s] != NULL && leaves[s]->grad_fresh) {
            memset(slots->grads[s], 0,
                   (size_t)(leaves[s]->shape[0] * plan->slots[s].width) * sizeof(cps_real));
        }
    }
}

const cps_real *cps_slot_grad(const cps_slot_memory *slots, const cps_stage_plan *plan,
                              int32_t slot, int64_t own) {
    return slots->grads[slot] + slots->grain_row[slot][own] * plan->slots[slot].width;
}

void cps_slot_poison(cps_slot_memory *slots, const cps_stage_plan *plan) {
    for (int32_t s = 0; s < plan->slot_count; s++) {
        if (slots->grads[s] != NULL) {
            slots->grads[s][0] = (cps_real)NAN;
            return;
        }
    }
}
