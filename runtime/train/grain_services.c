/* Services of head, grain_loss and prepare. What they name (slots, terms, reports) is learnt while
 * the stage is planned: a planning run of every head and grain loss; a name that first appears
 * later is an error of the objective. */
#include "train/grain.h"

#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "train/frozen.h"

static bool planning(const cps_grain *grain) {
    return cps_tape_get_mode(grain->tape) == CPS_TAPE_PLAN;
}

static const cps_instance *owner_of(const cps_grain *grain) {
    return &grain->plan->instances[grain->owner];
}

static cps_status grain_fail(const cps_grain *grain, const char *format, ...) CPS_PRINTF(2, 3);
static cps_status grain_fail(const cps_grain *grain, const char *format, ...) {
    cps_grain *writable = (cps_grain *)(uintptr_t)grain;
    char text[900];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cps_service_fail(&writable->status, writable->message, CPS_ERR_INTERNAL, "%s", text);
}

/* The stage's view behind an instance's id, or -1 with a failure. */
static int32_t view_of(const cps_grain *grain, int32_t id) {
    const cps_instance *instance = owner_of(grain);
    if (id < 0 || id >= instance->view_count) {
        grain_fail(grain, "view id %d, of %d views", id, instance->view_count);
        return -1;
    }
    return instance->views[id];
}

cps_step_info cps_serve_grain_step(const cps_grain *grain) {
    return grain->info;
}

int64_t cps_serve_grain_rows(const cps_grain *grain, int32_t view) {
    const int32_t index = view_of(grain, view);
    return index < 0 ? 0 : grain->views[index].rows;
}

int64_t cps_serve_grain_first_row(const cps_grain *grain, int32_t view) {
    const int32_t index = view_of(grain, view);
    return index < 0 ? 0 : grain->views[index].first_row;
}

/* The loader's replacement for a bad image; else the record's own id. */
static uint64_t shown_sample(const cps_grain *grain, int32_t stream, int64_t row) {
    const cps_batch *batch = grain->batch;
    for (int64_t b = 0; b < batch->bad_count; b++) {
        const cps_bad_image *bad = &batch->bad[b];
        if (bad->stream == stream && bad->row == row && bad->replaced_by >= 0) {
            return cps_shard_sample_id(bad->shard, bad->replaced_by);
        }
    }
    return batch->streams[stream].sample_ids[row];
}

uint64_t cps_serve_grain_sample_id(const cps_grain *grain, int32_t view, int64_t row) {
    const int32_t index = view_of(grain, view);
    const cps_stage_view *entry = index < 0 ? NULL : &grain->plan->views[index];
    if (entry != NULL && (entry->stream < 0 || row < 0 || row >= grain->views[index].rows)) {
        grain_fail(grain, "row %lld of view '%s' shows no sample", (long long)row,
                   entry->view.name);
    }
    if (entry == NULL || entry->stream < 0 || grain->batch == NULL || row < 0 ||
        row >= grain->batch->streams[entry->stream].rows) {
        return 0;
    }
    return entry->view.mode == CPS_VIEW_FROZEN
               ? cps_frozen_sample_id(grain->plan->frozen, index, grain->batch, row)
           : entry->text ? grain->batch->streams[entry->stream].sample_ids[row]
                         : shown_sample(grain, entry->stream, row);
}

cps_tensor *cps_serve_grain_output(const cps_grain *grain, int32_t view, uint32_t output) {
    const int32_t index = view_of(grain, view);
    const int32_t kind = cps_output_index(output);
    if (index < 0) {
        return NULL;
    }
    if (kind < 0 || grain->views[index].outputs[kind] == NULL) {
        grain_fail(grain, "output 0x%x of view '%s' was not asked for in create", output,
                   grain->plan->views[index].view.name);
        return NULL;
    }
    return grain->views[index].outputs[kind];
}

const int32_t *cps_serve_grain_offsets(const cps_grain *grain, int32_t view) {
    const int32_t index = view_of(grain, view);
    return index < 0 ? NULL : grain->views[index].offsets;
}

const int32_t *cps_serve_grain_ends(const cps_grain *grain, int32_t view) {
    const int32_t index = view_of(grain, view);
    return index < 0 ? NULL : grain->views[index].ends;
}

cps_tensor *cps_serve_grain_annotation(const cps_grain *grain, int32_t annotation) {
    const cps_instance *instance = owner_of(grain);
    if (annotation < 0 || annotation >= instance->annotation_count) {
        grain_fail(grain, "annotation id %d, of %d", annotation, instance->annotation_count);
        return NULL;
    }
    return grain->annotations[instance->annotations[annotation]];
}

cps_tensor *cps_serve_grain_parameter(const cps_grain *grain, int32_t id) {
    const cps_instance *instance = owner_of(grain);
    if (id < 0 || id >= instance->param_count) {
        grain_fail(grain, "parameter id %d, of %d", id, instance->param_count);
        return NULL;
    }
    return &cps_params_at(cps_model_params(grain->plan->model), instance->params[id])->tensor;
}

double cps_serve_grain_count(const cps_grain *grain, int64_t which) {
    const cps_instance *instance = owner_of(grain);
    if (which < 0 || which >= instance->count_count) {
        grain_fail(grain, "count %lld, of %lld", (long long)which,
                   (long long)instance->count_count);
        return 1.0;
    }
    return grain->counts == NULL ? 1.0 : grain->counts[instance->count_at + which];
}

cps_draw_key cps_serve_grain_draws(const cps_grain *grain, int32_t view, int64_t row,
                                   const char *module) {
    const int32_t index = view_of(grain, view);
    cps_draw_key key = {.seed = grain->plan->seed,
                        .stage = (uint32_t)grain->plan->index,
                        .module = cps_name_key(module)};
    if (index < 0) {
        return key;
    }
    const cps_stage_view *entry = &grain->plan->views[index];
    key.view = (uint32_t)index;
    key.crop = (uint32_t)entry->view.crop;
    key.stream = (uint32_t)entry->stream;
    if (entry->stream >= 0 && grain->batch != NULL) {
        key.epoch = grain->batch->streams[entry->stream].epochs[row];
        key.position = grain->batch->streams[entry->stream].positions[row];
    } else {
        key.epoch = (uint64_t)grain->info.step;
        key.position = (uint64_t)(grain->views[index].first_row + row);
    }
    return key;
}

/* ---- slots
 * ------------------------------------------------------------------------------------------------------------
 */

static int32_t find_slot(const cps_grain *grain, const char *name) {
    for (int32_t i = 0; i < grain->plan->slot_count; i++) {
        if (grain->plan->slots[i].owner == grain->owner &&
            strcmp(grain->plan->slots[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static int32_t add_slot(cps_grain *grain, const char *name, int32_t view, const cps_tensor *rows) {
    cps_stage_plan *plan = grain->plan;
    if (plan->slot_count == CPS_STAGE_SLOTS) {
        grain_fail(grain, "more than %d emitted slots in one stage", CPS_STAGE_SLOTS);
        return -1;
    }
    cps_stage_slot *slot = &plan->slots[plan->slot_count];
    *slot = (cps_stage_slot){.name = cps_arena_strdup(plan->arena, name),
                             .owner = grain->owner,
                             .view = view,
                             .dtype = rows->dtype,
                             .rank = rows->rank,
                             .width = 1,
                             .needs_grad = rows->needs_grad};
    for (int32_t d = 1; d < rows->rank; d++) {
        slot->shape[d] = rows->shape[d];
        slot->width *= rows->shape[d];
    }
    return plan->slot_count++;
}

static bool fits_slot(const cps_stage_slot *slot, int32_t view, const cps_tensor *rows) {
    bool fits = slot->view == view && slot->dtype == rows->dtype && slot->rank == rows->rank;
    for (int32_t d = 1; d < rows->rank && fits; d++) {
        fits = slot->shape[d] == rows->shape[d];
    }
    return fits;
}

void cps_serve_emit(cps_grain *grain, const char *slot, int32_t view, cps_tensor *rows) {
    const int32_t index = view_of(grain, view);
    if (rows == NULL || index < 0) {
        return; /* the failure is on the tape, or kept */
    }
    if (rows->rank < 1 || rows->shape[0] != grain->views[index].rows) {
        grain_fail(grain, "emitted '%s' has %lld rows; view '%s' has %lld", slot,
                   (long long)(rows->rank < 1 ? 0 : rows->shape[0]),
                   grain->plan->views[index].view.name, (long long)grain->views[index].rows);
        return;
    }
    int32_t found = find_slot(grain, slot);
    if (found < 0 && planning(grain)) {
        found = add_slot(grain, slot, index, rows);
    }
    if (found < 0) {
        grain_fail(grain, "slot '%s' was not emitted while the stage was planned", slot);
        return;
    }
    if (!fits_slot(&grain->plan->slots[found], index, rows)) {
        grain_fail(grain,
                   "emitted '%s' is of another view, type or width than while the stage was "
                   "planned: these may not change",
                   slot);
        return;
    }
    if (grain->emitted[found] != NULL) {
        grain_fail(grain, "slot '%s' is emitted twice in one grain: give each its own name", slot);
        return;
    }
    grain->emitted[found] = rows;
}

/* ---- terms, reports, buffers
 * --------------------------------------------------------------------------------------------- */

static int32_t find_term(const cps_grain *grain, const char *name, bool is_report) {
    for (int32_t i = 0; i < grain->plan->term_count; i++) {
        const cps_stage_term *term = &grain->plan->terms[i];
        if (term->owner == grain->owner && term->is_report == is_report &&
            strcmp(term->name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* Term or report `name`, made while the stage is planned. */
static int32_t term_of(cps_grain *grain, const char *name, double weight, bool is_report) {
    cps_stage_plan *plan = grain->plan;
    const int32_t found = find_term(grain, name, is_report);
    if (found >= 0) {
        return found;
    }
    if (!planning(grain) || plan->term_count == CPS_STAGE_TERMS) {
        grain_fail(grain,
                   planning(grain)
                       ? "too many terms and reports in one stage ('%s' is the 65th)"
                       : "term or report '%s' did not appear while the stage was planned",
                   name);
        return -1;
    }
    cps_stage_term *term = &plan->terms[plan->term_count];
    *term = (cps_stage_term){.owner = grain->owner,
                             .at = plan->sum_width,
                             .weight = weight * owner_of(grain)->weight,
                             .is_report = is_report};
    snprintf(term->name, sizeof term->name, "%s", name);
    plan->sum_width += is_report ? 2 : 1;
    return plan->term_count++;
}

void cps_serve_grain_term(cps_grain *grain, const char *name, cps_tensor *scalar, double weight) {
    if (scalar == NULL) {
        return;
    }
    const int32_t term = term_of(grain, name, weight, false);
    if (term < 0) {
        return;
    }
    if (grain->terms[term] != NULL || !cps_is_scalar(scalar)) {
        grain_fail(grain,
                   !cps_is_scalar(scalar)
                       ? "term '%s' is no scalar: add it up with cps_sum"
                       : "term '%s' is given twice in one grain: give each its own name",
                   name);
        return;
    }
    grain->terms[term] = scalar;
    if (grain->sums != NULL && !planning(grain) && cps_tape_computes(grain->tape)) {
        grain->sums[grain->plan->terms[term].at] += (double)*(const cps_real *)scalar->data;
    }
}

void cps_serve_report(cps_grain *grain, const char *name, double sum, double weight) {
    const int32_t term = term_of(grain, name, 0.0, true);
    if (term >= 0 && grain->sums != NULL && !planning(grain)) {
        grain->sums[grain->plan->terms[term].at] += sum;
        grain->sums[grain->plan->terms[term].at + 1] += weight;
    }
}

void cps_serve_accumulate(cps_grain *grain, int32_t buffer, const double *partial, int64_t count) {
    const cps_instance *instance = owner_of(grain);
    const int32_t index =
        buffer < 0 || buffer >= instance->param_count ? -1 : instance->buffers[buffer];
    if (index < 0 || grain->plan->buffers[index].partial_count != count) {
        grain_fail(
            grain,
            "accumulate of %lld values for id %d, which is no buffer of that many partial sums",
            (long long)count, buffer);
        return;
    }
    if (grain->sums == NULL || planning(grain)) {
        return;
    }
    double *sums = grain->sums + grain->plan->buffers[index].at;
    for (int64_t i = 0; i < count; i++) {
        sums[i] += partial[i];
    }
}
