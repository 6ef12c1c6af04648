/* Calls of a grain: rows of a call's views stand view after view in one tower input. Texts: ids,
 * offsets and ends of the views are joined into arrays of the run, because backward passes read
 * them later. */
#include "train/grain.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/numeric.h"
#include "base/rng.h"
#include "train/frozen.h"

typedef struct call_memory {
    int32_t *ids, *offsets, *ends; /* text: joined over the views */
    cps_draw_key *draws;           /* image with drop path: one a row */
    int64_t rows;                  /* most rows */
} call_memory;

struct cps_grain_run {
    cps_stage_plan *plan;
    call_memory calls[CPS_STAGE_VIEWS];
    int32_t
        *view_offsets[CPS_STAGE_VIEWS]; /* of token outputs, from 0 for the view's first sample */
    int32_t *view_ends[CPS_STAGE_VIEWS];
    cps_grain grain;
};

int64_t cps_view_rows_in(const cps_stage_plan *plan, int32_t view, int64_t grain, int64_t grains,
                         int64_t clock_rows) {
    const cps_stage_view *entry = &plan->views[view];
    if (entry->stream < 0) {
        const int64_t count = entry->view.fixed_text_count;
        return (grain + 1) * count / grains - grain * count / grains;
    }
    return entry->stream == 0 ? clock_rows : plan->streams[entry->stream].rows;
}

static int64_t most_rows(const cps_stage_plan *plan, int32_t view) {
    const cps_stage_view *entry = &plan->views[view];
    if (entry->stream >= 0) {
        return plan->streams[entry->stream].rows;
    }
    /* A kept tail step has fewer grains, hence more texts in each: at worst all of them in one. */
    return plan->options.tail == CPS_TAIL_KEEP
               ? entry->view.fixed_text_count
               : cps_ceil_div(entry->view.fixed_text_count, plan->grains);
}

static bool allocate_call(cps_stage_plan *plan, const cps_stage_call *call, call_memory *memory) {
    for (int32_t v = 0; v < call->view_count; v++) {
        memory->rows += most_rows(plan, call->views[v]);
    }
    const size_t rows = (size_t)memory->rows;
    if (call->text) {
        const size_t context = (size_t)plan->context;
        memory->ids = calloc(rows * context + 1, sizeof(int32_t));
        memory->offsets = calloc(rows + 1, sizeof(int32_t));
        memory->ends = calloc(rows + 1, sizeof(int32_t));
        return memory->ids != NULL && memory->offsets != NULL && memory->ends != NULL;
    }
    memory->draws = calloc(rows + 1, sizeof(cps_draw_key));
    return memory->draws != NULL;
}

cps_status cps_grain_run_create(cps_stage_plan *plan, cps_grain_run **run_out) {
    cps_grain_run *run = calloc(1, sizeof *run);
    bool fine = run != NULL;
    for (int32_t c = 0; fine && c < plan->call_count; c++) {
        fine = allocate_call(plan, &plan->calls[c], &run->calls[c]);
    }
    for (int32_t v = 0; fine && v < plan->view_count; v++) {
        const size_t rows = (size_t)most_rows(plan, v);
        run->view_offsets[v] = calloc(rows + 1, sizeof(int32_t));
        run->view_ends[v] = calloc(rows + 1, sizeof(int32_t));
        fine = run->view_offsets[v] != NULL && run->view_ends[v] != NULL;
    }
    if (!fine) {
        cps_grain_run_destroy(run);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a grain's text positions");
    }
    run->plan = plan;
    *run_out = run;
    return CPS_OK;
}

void cps_grain_run_destroy(cps_grain_run *run) {
    if (run == NULL) {
        return;
    }
    for (int32_t i = 0; i < CPS_STAGE_VIEWS; i++) {
        free(run->calls[i].ids);
        free(run->calls[i].offsets);
        free(run->calls[i].ends);
        free(run->calls[i].draws);
        free(run->view_offsets[i]);
        free(run->view_ends[i]);
    }
    free(run);
}

cps_grain *cps_grain_run_grain(cps_grain_run *run) {
    return &run->grain;
}

/* ---- inputs of a call
 * ---------------------------------------------------------------------------------------------- */

/* Where a view's texts come from: its loader input or a slice of its fixed texts. Planning:
 * nowhere, and all are as long as the longest can be. */
typedef struct text_source {
    int64_t rows, length;
    const int32_t *ids, *offsets, *ends; /* NULL while planning */
} text_source;

static int64_t longest_text(const cps_stage_plan *plan, const cps_stage_view *entry) {
    int64_t longest = entry->stream < 0 ? 0 : plan->context;
    for (int64_t i = 0; entry->stream < 0 && i < entry->fixed.count; i++) {
        longest = cps_max_i64(longest, entry->fixed.offsets[i + 1] - entry->fixed.offsets[i]);
    }
    return longest;
}

static text_source find_texts(const cps_grain *grain, int32_t view, int64_t rows) {
    const cps_stage_view *entry = &grain->plan->views[view];
    if (cps_tape_get_mode(grain->tape) == CPS_TAPE_PLAN) {
        return (text_source){.rows = rows, .length = longest_text(grain->plan, entry)};
    }
    if (entry->stream < 0) {
        const int64_t first = grain->info.grain * entry->view.fixed_text_count / grain->info.grains;
        return (text_source){rows, 0, entry->fixed.ids, entry->fixed.offsets + first,
                             entry->fixed.ends + first};
    }
    const cps_input_rows *input = &grain->batch->inputs[entry->input];
    return (text_source){rows, 0, input->ids, input->offsets, input->ends};
}

/* Appends a view's texts at row `at`. */
static void append_texts(call_memory *memory, const text_source *source, int64_t at) {
    for (int64_t i = 0; i < source->rows; i++) {
        const int64_t length =
            source->offsets == NULL ? source->length : source->offsets[i + 1] - source->offsets[i];
        const int32_t start = memory->offsets[at + i];
        if (source->ids != NULL) {
            memcpy(memory->ids + start, source->ids + source->offsets[i],
                   (size_t)length * sizeof(int32_t));
        }
        memory->offsets[at + i + 1] = start + (int32_t)length;
        memory->ends[at + i] =
            start + (source->ends == NULL ? (int32_t)length - 1 : source->ends[i]);
    }
}

static int64_t join_texts(cps_grain_run *run, const cps_stage_call *call, call_memory *memory) {
    const cps_grain *grain = &run->grain;
    int64_t rows = 0;
    memory->offsets[0] = 0;
    for (int32_t v = 0; v < call->view_count; v++) {
        const text_source source =
            find_texts(grain, call->views[v], grain->views[call->views[v]].rows);
        append_texts(memory, &source, rows);
        rows += source.rows;
    }
    return rows;
}

static int64_t call_rows(const cps_grain *grain, const cps_stage_call *call) {
    int64_t rows = 0;
    for (int32_t v = 0; v < call->view_count; v++) {
        rows += grain->views[call->views[v]].rows;
    }
    return rows;
}

static cps_tensor *join_images(const cps_grain_run *run, const cps_grain_input *input,
                               const cps_stage_call *call, cps_tape *tape) {
    const cps_grain *grain = &run->grain;
    const int64_t shape[4] = {call_rows(grain, call), 3, call->size, call->size};
    cps_tensor *images = cps_tape_tensor(tape, CPS_REAL, 4, shape);
    if (images == NULL || !cps_tape_computes(tape)) {
        return images;
    }
    cps_real *at = images->data;
    for (int32_t v = 0; v < call->view_count; v++) {
        const int32_t view = call->views[v];
        cps_batch_planes(input->loader, grain->batch, grain->plan->views[view].input, at);
        at += grain->views[view].rows * 3 * call->size * call->size;
    }
    return images;
}

static void fill_draws(const cps_grain_run *run, const cps_stage_call *call, call_memory *memory) {
    const cps_grain *grain = &run->grain;
    int64_t at = 0;
    for (int32_t v = 0; v < call->view_count; v++) {
        const int32_t view = call->views[v];
        const cps_stage_view *entry = &grain->plan->views[view];
        for (int64_t row = 0; row < grain->views[view].rows; row++) {
            memory->draws[at++] = (cps_draw_key){
                .seed = grain->plan->seed,
                .stage = (uint32_t)grain->plan->index,
                .stream = (uint32_t)entry->stream,
                .epoch =
                    grain->batch == NULL ? 0 : grain->batch->streams[entry->stream].epochs[row],
                .position =
                    grain->batch == NULL ? 0 : grain->batch->streams[entry->stream].positions[row],
                .view = (uint32_t)view,
                .crop = (uint32_t)entry->view.crop,
            };
        }
    }
}

static cps_status call_input(cps_grain_run *run, const cps_grain_input *input, int32_t index,
                             cps_tape *tape, cps_tower_input *out) {
    const cps_stage_call *call = &run->plan->calls[index];
    call_memory *memory = &run->calls[index];
    const bool training =
        !call->evaluation && call->mode == CPS_VIEW_GRADIENT && !input->info.evaluation;
    if (!call->text) {
        fill_draws(run, call, memory);
        double *sums = run->grain.sums;
        *out = (cps_tower_input){
            .image = join_images(run, input, call, tape),
            .training = training,
            .batch_statistics = !call->evaluation && !input->info.evaluation,
            .moments = sums == NULL || call->moments_at < 0 ? NULL : sums + call->moments_at,
            .draws = memory->draws};
        return cps_tape_status(tape);
    }
    const int64_t rows = join_texts(run, call, memory);
    const int64_t shape[1] = {memory->offsets[rows]};
    cps_tensor *ids = cps_tape_leaf(tape, CPS_I32, 1, shape, memory->ids, NULL, -1);
    *out = (cps_tower_input){.ids = ids,
                             .count = rows,
                             .offsets = memory->offsets,
                             .ends = memory->ends,
                             .training = training};
    return cps_tape_status(tape);
}

/* ---- outputs of a call
 * --------------------------------------------------------------------------------------------------
 */

static void gather_outputs(const cps_tower_output *from, cps_tensor *to[CPS_OUTPUT_KINDS]) {
    to[0] = from->pooled;
    to[1] = from->projected;
    to[2] = from->feature;
    to[3] = from->tokens;
    to[4] = from->tokens_projected;
}

/* A call without a gradient: run on the plain tape in the same arena, results copied below it. */
static cps_status forward_plain(cps_grain_run *run, const cps_grain_input *input, int32_t index,
                                cps_tensor *outputs[CPS_OUTPUT_KINDS], cps_tower_output *out) {
    const cps_stage_call *call = &run->plan->calls[index];
    const int64_t samples = call_rows(&run->grain, call);
    cps_tensor *copies[CPS_OUTPUT_KINDS] = {NULL};
    const int64_t patch = cps_tower_get_config(call->tower)->patch;
    const int64_t across = call->text || patch == 0 ? 0 : call->size / patch;
    const int64_t positions = 1 + across * across;
    if (call->text) {
        join_texts(run, call, &run->calls[index]);
    }
    const int64_t tokens = call->text ? run->calls[index].offsets[samples] : samples * positions;
    for (int32_t k = 0; k < CPS_OUTPUT_KINDS; k++) {
        if ((call->outputs & (1u << k)) != 0) {
            const int64_t shape[2] = {k >= 3 ? tokens : samples,
                                      cps_output_width(call->tower, 1u << k)};
            copies[k] = cps_tape_tensor(input->tape, CPS_REAL, 2, shape);
        }
    }
    CPS_TRY(cps_tape_status(input->tape));
    cps_tower_input tower_input;
    cps_status status = call_input(run, input, index, input->plain, &tower_input);
    if (status == CPS_OK) {
        status = cps_tower_forward(call->tower, input->plain, &tower_input, call->outputs, out);
    }
    if (status == CPS_OK) {
        gather_outputs(out, outputs);
        for (int32_t k = 0; k < CPS_OUTPUT_KINDS; k++) {
            if (copies[k] != NULL && cps_tape_computes(input->plain)) {
                memcpy(copies[k]->data, outputs[k]->data,
                       (size_t)(copies[k]->shape[0] * copies[k]->shape[1]) * sizeof(cps_real));
            }
            outputs[k] = copies[k];
        }
    }
    cps_tape_reset(input->plain);
    return status;
}

/* Cuts a call's outputs into those of its views, and their token positions. */
static void deal_outputs(cps_grain_run *run, const cps_grain_input *input,
                         const cps_stage_call *call, cps_tensor *outputs[CPS_OUTPUT_KINDS],
                         const cps_tower_output *out) {
    const cps_stage_plan *plan = run->plan;
    int64_t at = 0;
    for (int32_t v = 0; v < call->view_count; v++) {
        const int32_t view = call->views[v];
        cps_view_rows *rows = &run->grain.views[view];
        const int32_t first_token = out->offsets == NULL ? 0 : out->offsets[at];
        const int32_t last_token = out->offsets == NULL ? 0 : out->offsets[at + rows->rows];
        for (int64_t i = 0; out->offsets != NULL && i <= rows->rows; i++) {
            run->view_offsets[view][i] = out->offsets[at + i] - first_token;
        }
        for (int64_t i = 0; out->ends != NULL && i < rows->rows; i++) {
            run->view_ends[view][i] = out->ends[at + i] - first_token;
        }
        rows->offsets = run->view_offsets[view];
        rows->ends = run->view_ends[view];
        for (int32_t k = 0; k < CPS_OUTPUT_KINDS; k++) {
            if ((plan->views[view].view.outputs & (1u << k)) == 0) {
                rows->outputs[k] = NULL;
            } else if (call->view_count == 1) {
                rows->outputs[k] = outputs[k];
            } else {
                const int64_t first = k >= 3 ? first_token : at;
                const int64_t count = k >= 3 ? last_token - first_token : rows->rows;
                rows->outputs[k] = cps_slice_rows(input->tape, outputs[k], first, count);
            }
        }
        at += rows->rows;
    }
}

static cps_status run_call(cps_grain_run *run, const cps_grain_input *input, int32_t index) {
    const cps_stage_call *call = &run->plan->calls[index];
    cps_tensor *outputs[CPS_OUTPUT_KINDS] = {NULL};
    cps_tower_output out = {0};
    if (call->mode == CPS_VIEW_GRADIENT) {
        cps_tower_input tower_input;
        CPS_TRY(call_input(run, input, index, input->tape, &tower_input));
        CPS_TRY(cps_tower_forward(call->tower, input->tape, &tower_input, call->outputs, &out));
        gather_outputs(&out, outputs);
    } else {
        CPS_TRY(forward_plain(run, input, index, outputs, &out));
    }
    deal_outputs(run, input, call, outputs, &out);
    return cps_tape_status(input->tape);
}

/* Views of a frozen call are constants: rows of the stage's features. */
static cps_status take_frozen(cps_grain_run *run, const cps_grain_input *input,
                              const cps_stage_call *call) {
    const cps_stage_plan *plan = run->plan;
    for (int32_t v = 0; v < call->view_count; v++) {
        const int32_t view = call->views[v];
        const uint32_t output = plan->views[view].view.outputs;
        const int64_t shape[2] = {run->grain.views[view].rows,
                                  cps_output_width(call->tower, output)};
        cps_tensor *rows = cps_tape_tensor(input->tape, CPS_REAL, 2, shape);
        if (rows != NULL && cps_tape_computes(input->tape)) {
            CPS_BUG_IF(plan->frozen == NULL);
            CPS_TRY(cps_frozen_take(plan->frozen, view, input->batch, rows->data));
        }
        run->grain.views[view].outputs[cps_output_index(output)] = rows;
    }
    return cps_tape_status(input->tape);
}

/* ---- the grain
 * ------------------------------------------------------------------------------------------------------------
 */

static void begin(cps_grain_run *run, const cps_grain_input *input) {
    cps_stage_plan *plan = run->plan;
    cps_grain *grain = &run->grain;
    memset(grain, 0, sizeof *grain);
    grain->host = cps_host_table();
    grain->plan = plan;
    grain->tape = input->tape;
    grain->batch = input->batch;
    grain->info = input->info;
    grain->counts = input->counts;
    grain->sums = input->sums;
    const int64_t clock_rows = input->batch == NULL || plan->stream_count == 0
                                   ? plan->options.grain
                                   : input->batch->streams[0].rows;
    const bool planning = cps_tape_get_mode(input->tape) == CPS_TAPE_PLAN;
    for (int32_t v = 0; v < plan->view_count; v++) {
        grain->views[v].rows =
            planning ? most_rows(plan, v)
                     : cps_view_rows_in(plan, v, input->info.grain, input->info.grains, clock_rows);
        const int32_t stream = plan->views[v].stream;
        grain->views[v].first_row =
            stream < 0
                ? input->info.grain * plan->views[v].view.fixed_text_count / input->info.grains
                : input->info.grain * plan->streams[stream].rows;
    }
}

static cps_status bind_annotations(cps_grain_run *run, const cps_grain_input *input) {
    cps_stage_plan *plan = run->plan;
    for (int32_t a = 0; a < plan->annotation_count; a++) {
        const cps_stage_annotation *annotation = &plan->annotations[a];
        const cps_input_rows *rows =
            input->batch == NULL ? NULL : &input->batch->inputs[annotation->input];
        const int64_t shape[2] = {rows == NULL ? plan->streams[annotation->stream].rows
                                               : rows->rows,
                                  annotation->annotation.width};
        void *data = rows == NULL ? NULL : (void *)(uintptr_t)rows->annotation;
        run->grain.annotations[a] =
            cps_tape_leaf(input->tape, annotation->annotation.dtype, 2, shape, data, NULL, -1);
    }
    return cps_tape_status(input->tape);
}

/* The loss reads every slot of every grain: one that a head left out would be rows of an older
 * step. */
static cps_status check_emitted(const cps_grain *grain) {
    const cps_stage_plan *plan = grain->plan;
    for (int32_t s = 0; s < plan->slot_count && plan->has_loss; s++) {
        if (plan->slots[s].owner == grain->owner && grain->emitted[s] == NULL) {
            return cps_fail(CPS_ERR_INTERNAL,
                            "its head did not emit '%s', which it emitted while the stage was "
                            "planned: emit every slot in every grain",
                            plan->slots[s].name);
        }
    }
    return CPS_OK;
}

static cps_status run_objectives(cps_grain_run *run, const cps_grain_input *input) {
    cps_stage_plan *plan = run->plan;
    cps_grain *grain = &run->grain;
    for (int32_t i = 0; i < plan->instance_count; i++) {
        const cps_instance *instance = &plan->instances[i];
        cps_status status = CPS_OK;
        grain->owner = i;
        if (instance->objective->head != NULL) {
            status = instance->objective->head(instance->self, grain, input->tape);
        }
        if (status == CPS_OK && instance->objective->grain_loss != NULL) {
            status = instance->objective->grain_loss(instance->self, grain, input->tape);
        }
        if (status == CPS_OK) {
            status = cps_service_status(grain->status, grain->message);
        }
        if (status == CPS_OK) {
            status = cps_tape_status(input->tape);
        }
        if (status == CPS_OK) {
            status = check_emitted(grain);
        }
        if (status != CPS_OK) {
            return cps_fail_context(status, "objective '%s', grain %lld", instance->name,
                                    (long long)input->info.grain);
        }
    }
    return CPS_OK;
}

cps_status cps_grain_forward(cps_grain_run *run, const cps_grain_input *input) {
    begin(run, input);
    if (input->sums != NULL) {
        memset(input->sums, 0, (size_t)run->plan->sum_width * sizeof(double));
    }
    for (int32_t c = 0; c < run->plan->call_count; c++) {
        if (run->plan->calls[c].mode == CPS_VIEW_FROZEN) {
            CPS_TRY(take_frozen(run, input, &run->plan->calls[c]));
        } else {
            CPS_TRY(run_call(run, input, c));
        }
    }
    CPS_TRY(bind_annotations(run, input));
    return run_objectives(run, input);
}

cps_status cps_grain_prepare(cps_grain_run *run, const cps_grain_input *input, double *counts) {
    begin(run, input);
    CPS_TRY(bind_annotations(run, input));
    memset(counts, 0, (size_t)run->plan->count_width * sizeof(double));
    for (int32_t i = 0; i < run->plan->instance_count; i++) {
        const cps_instance *instance = &run->plan->instances[i];
        if (instance->objective->prepare != NULL && instance->count_count > 0) {
            run->grain.owner = i;
            cps_status status = instance->objective->prepare(instance->self, &run->grain,
                                                             counts + instance->count_at);
            status = status != CPS_OK ? status
                                      : cps_service_status(run->grain.status, run->grain.message);
            if (status != CPS_OK) {
                return cps_fail_context(status, "objective '%s', prepare of grain %lld",
                                        instance->name, (long long)input->info.grain);
            }
        }
    }
    return CPS_OK;
}
