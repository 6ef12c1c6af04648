/* The update: clip, optimizer, bounds, moving averages on owned chunks, then the weights to all.
 *
 * Where both clips are set, each tensor is clipped by its own norm first, and the global norm is
 * taken over what is left. A moving average is t <- m t + (1 - m) s in cps_real, after the source's
 * update; where the source does not learn, every rank computes the whole of it alike. */
#include <math.h>

#include "base/file.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "train/update_internal.h"

/* ---- clipping -------------------------------------------------------------------------------- */

static void set_scales(cps_updater *updater) {
    double total = 0;
    for (int32_t t = 0; t < updater->layout.tensor_count; t++) {
        cps_update_tensor *tensor = &updater->layout.tensors[t];
        tensor->scale = cps_clip_factor(sqrt(tensor->squares), updater->clip_tensor);
        total += tensor->scale * tensor->scale * tensor->squares;
    }
    if (updater->clip_tensor <= 0) { /* the norm as reported: added chunk by chunk */
        total = 0;
        for (int64_t c = 0; c < updater->layout.chunk_count; c++) {
            total += updater->chunk_squares[c];
        }
    }
    const double global = cps_clip_factor(sqrt(total), updater->grad_clip_norm);
    for (int32_t t = 0; t < updater->layout.tensor_count; t++) {
        updater->layout.tensors[t].scale *= global;
    }
}

/* ---- owned chunks ---------------------------------------------------------------------------- */

typedef struct apply_work {
    cps_updater *updater;
    int64_t first_chunk;
    int64_t step;
} apply_work;

static cps_update update_of(const apply_work *work, const cps_update_chunk *chunk) {
    const cps_updater *updater = work->updater;
    const cps_update_tensor *tensor = &updater->layout.tensors[chunk->tensor];
    const cps_param *param = tensor->param;
    const int64_t at = chunk->at - updater->slice_first;
    cps_update update = {
        .param = (cps_real *)param->tensor.data + chunk->start,
        .grad = updater->gradient + at,
        .count = chunk->count,
        .grad_scale = tensor->scale,
        .lr = updater->lr[work->step] * param->lr_factor,
        .weight_decay = param->decays ? updater->weight_decay[work->step] : 0,
        .updates = param->updates,
        .rank = param->spec.rank,
        .param_squares = tensor->param_squares,
        .step_squares = tensor->step_squares,
    };
    for (int32_t s = 0; s < cps_optimizer_state_count(&updater->optimizer); s++) {
        update.state[s] = updater->state[s] + at;
    }
    return update;
}

static void keep_bounds(const cps_param *param, cps_real *values, int64_t count) {
    const cps_real low = (cps_real)param->spec.minimum, high = (cps_real)param->spec.maximum;
    for (int64_t i = 0; i < count; i++) {
        values[i] = values[i] < low ? low : values[i];
        values[i] = values[i] > high ? high : values[i];
    }
}

/* Elements [start, start + count) of a moving average. */
static void follow(const cps_update_ema *ema, int64_t step, int64_t start, int64_t count) {
    const double momentum = ema->momentum.values[ema->momentum.count == 1 ? 0 : step];
    const cps_real keep = (cps_real)momentum, take = (cps_real)(1 - momentum);
    cps_real *restrict target = (cps_real *)ema->param->tensor.data + start;
    const cps_real *restrict source = (const cps_real *)ema->source->tensor.data + start;
    for (int64_t i = 0; i < count; i++) {
        target[i] = keep * target[i] + take * source[i];
    }
}

static void apply_chunk(void *context, int64_t i) {
    const apply_work *work = context;
    const cps_updater *updater = work->updater;
    const cps_update_chunk *chunk = &updater->layout.chunks[work->first_chunk + i];
    const cps_update_tensor *tensor = &updater->layout.tensors[chunk->tensor];
    const cps_update update = update_of(work, chunk);
    if (!tensor->held) {
        cps_optimizer_update(&updater->optimizer, &update);
    }
    if (!tensor->held && tensor->param->spec.has_bounds) {
        keep_bounds(tensor->param, update.param, chunk->count);
    }
    for (int32_t e = 0; e < updater->ema_count; e++) {
        if (updater->emas[e].tensor == chunk->tensor) {
            follow(&updater->emas[e], work->step, chunk->start, chunk->count);
        }
    }
}

/* ---- norms of lars --------------------------------------------------------------------------- */

static void lars_chunk(void *context, int64_t i) {
    const apply_work *work = context;
    const cps_updater *updater = work->updater;
    const cps_update_chunk *chunk = &updater->layout.chunks[work->first_chunk + i];
    const cps_update update = update_of(work, chunk);
    double *squares = updater->lars_squares + 2 * (work->first_chunk + i);
    squares[0] = squares[1] = 0;
    if (!updater->layout.tensors[chunk->tensor].held &&
        cps_optimizer_needs_norms(&updater->optimizer, update.rank)) {
        cps_optimizer_norms(&updater->optimizer, &update, &squares[0], &squares[1]);
    }
}

/* Sums of squares of weights and steps of whole tensors, added in chunk order. Collective. */
static void lars_norms(apply_work *work) {
    cps_updater *updater = work->updater;
    const cps_update_layout *layout = &updater->layout;
    cps_parallel(layout->first_chunk[layout->rank + 1] - work->first_chunk, lars_chunk, work);
    for (int32_t r = 0; r < layout->ranks; r++) {
        updater->gather_bytes[r] =
            2 * (int64_t)sizeof(double) * (layout->first_chunk[r + 1] - layout->first_chunk[r]);
    }
    cps_comm_allgatherv_inplace(updater->comm, "norms of lars", updater->lars_squares,
                                updater->gather_bytes);
    for (int32_t t = 0; t < layout->tensor_count; t++) {
        layout->tensors[t].param_squares = layout->tensors[t].step_squares = 0;
    }
    for (int64_t c = 0; c < layout->chunk_count; c++) {
        cps_update_tensor *tensor = &layout->tensors[layout->chunks[c].tensor];
        tensor->param_squares += updater->lars_squares[2 * c];
        tensor->step_squares += updater->lars_squares[2 * c + 1];
    }
}

/* ---- the update ------------------------------------------------------------------------------ */

static void follow_chunk(void *context, int64_t i) {
    const apply_work *work = context; /* first_chunk: number of the moving average */
    const cps_update_ema *ema = &work->updater->emas[work->first_chunk];
    const int64_t start = i * CPS_CHUNK;
    follow(ema, work->step, start, cps_min_i64(CPS_CHUNK, ema->param->count - start));
}

static void follow_what_stands(cps_updater *updater, int64_t step) {
    for (int32_t e = 0; e < updater->ema_count; e++) {
        if (updater->emas[e].tensor < 0) {
            apply_work work = {.updater = updater, .first_chunk = e, .step = step};
            cps_parallel(cps_ceil_div(updater->emas[e].param->count, CPS_CHUNK), follow_chunk,
                         &work);
        }
    }
}

static void begin_gathers(cps_updater *updater) {
    const cps_update_layout *layout = &updater->layout;
    cps_real *flat = cps_params_flat(updater->params);
    for (int32_t i = 0; i < updater->region_count && layout->ranks > 1; i++) {
        cps_update_region *region = &updater->regions[i];
        for (int32_t r = 0; r < layout->ranks; r++) {
            const int64_t first = cps_max_i64(region->at, layout->first_element[r]);
            const int64_t last =
                cps_min_i64(region->at + region->length, layout->first_element[r + 1]);
            updater->gather_bytes[r] = cps_max_i64(last - first, 0) * (int64_t)sizeof(cps_real);
        }
        const cps_status status = cps_gather_begin(updater->comm, "weights", flat + region->offset,
                                                   updater->gather_bytes, &region->gather);
        CPS_BUG_IF(status != CPS_OK); /* reserved by cps_update_regions */
    }
}

cps_status cps_updater_apply(cps_updater *updater, int64_t step) {
    CPS_BUG_IF(updater->gradient == NULL || step < 0 || step >= updater->steps);
    cps_status status = CPS_OK;
    if (cps_fault_here(updater->comm, "update", step)) {
        status = cps_fail(CPS_ERR_INTERNAL, "a fault was asked for at 'update', step %lld",
                          (long long)step);
    }
    CPS_TRY(cps_agree(updater->comm, "update", status));
    cps_updater_wait_weights(updater);
    const cps_update_layout *layout = &updater->layout;
    set_scales(updater);
    for (int32_t t = 0; t < layout->tensor_count; t++) {
        layout->tensors[t].param->updates += layout->tensors[t].held ? 0 : 1;
    }
    apply_work work = {
        .updater = updater, .first_chunk = layout->first_chunk[layout->rank], .step = step};
    if (updater->optimizer.kind == CPS_OPTIMIZER_LARS) {
        lars_norms(&work);
    }
    cps_parallel(layout->first_chunk[layout->rank + 1] - work.first_chunk, apply_chunk, &work);
    follow_what_stands(updater, step);
    begin_gathers(updater);
    updater->gradient = NULL;
    return CPS_OK;
}

/* ---- weights to all -------------------------------------------------------------------------- */

void cps_update_poll_weights(cps_updater *updater) {
    for (int32_t i = 0; i < updater->region_count; i++) {
        if (updater->regions[i].gather != NULL) {
            cps_gather_poll(updater->regions[i].gather);
        }
    }
}

void cps_updater_wait_weights(cps_updater *updater) {
    const double start = cps_seconds();
    for (int32_t i = 0; i < updater->region_count; i++) {
        if (updater->regions[i].gather != NULL) {
            cps_gather_finish(updater->regions[i].gather);
            updater->regions[i].gather = NULL;
        }
    }
    updater->wait_seconds += cps_seconds() - start;
}

/* Adds `count` elements at `offset` of the parameters, owned as a copy's elements from `at`; joined
 * with the last region where both go on without a gap. */
static void add_region(cps_updater *updater, int64_t offset, int64_t at, int64_t count) {
    const int64_t pad = CPS_ALIGNMENT / (int64_t)sizeof(cps_real);
    cps_update_region *last =
        updater->region_count > 0 ? &updater->regions[updater->region_count - 1] : NULL;
    if (last == NULL || last->offset + last->length != offset || last->at + last->length != at) {
        last = &updater->regions[updater->region_count++];
        *last = (cps_update_region){.offset = offset, .at = at};
    }
    last->length += cps_ceil_div(count, pad) * pad;
}

static cps_status reserve_gathers(cps_updater *updater) {
    cps_status status = CPS_OK;
    for (int32_t r = 0; r < updater->layout.ranks; r++) {
        updater->gather_bytes[r] = 0;
    }
    for (int32_t i = 0; i < updater->region_count && status == CPS_OK; i++) {
        status = cps_gather_begin(updater->comm, "weights", cps_params_flat(updater->params),
                                  updater->gather_bytes, &updater->regions[i].gather);
    }
    cps_updater_wait_weights(updater);
    return status;
}

cps_status cps_update_regions(cps_updater *updater) {
    updater->region_count = 0;
    for (int32_t t = 0; t < updater->layout.tensor_count; t++) {
        const cps_update_tensor *tensor = &updater->layout.tensors[t];
        add_region(updater, tensor->param->offset, tensor->at, tensor->param->count);
    }
    for (int32_t e = 0; e < updater->ema_count; e++) {
        const cps_update_ema *ema = &updater->emas[e];
        if (ema->tensor >= 0) {
            add_region(updater, ema->param->offset, updater->layout.tensors[ema->tensor].at,
                       ema->param->count);
        }
    }
    return reserve_gathers(updater);
}

/* ---- moving averages ------------------------------------------------------------------------- */

static cps_status check_momentum(const cps_updater *updater, const cps_param *param,
                                 cps_numbers momentum) {
    if (momentum.count != 1 && momentum.count < updater->steps) {
        return cps_fail(CPS_ERR_USAGE,
                        "moving average '%s' has momentum for %lld steps, the stage has %lld: give "
                        "one number, or one for each step",
                        param->name, (long long)momentum.count, (long long)updater->steps);
    }
    for (int64_t i = 0; i < momentum.count; i++) {
        if (!(momentum.values[i] >= 0 && momentum.values[i] <= 1)) {
            return cps_fail(CPS_ERR_USAGE,
                            "moving average '%s': momentum of step %lld is %g, wanted 0 to 1",
                            param->name, (long long)i, momentum.values[i]);
        }
    }
    return CPS_OK;
}

cps_status cps_updater_set_ema(cps_updater *updater, int32_t index, cps_numbers momentum) {
    cps_param *param = cps_params_at(updater->params, index);
    CPS_BUG_IF(param->spec.kind != CPS_PARAM_EMA);
    const int32_t source = cps_params_find(updater->params, param->spec.ema_of);
    const cps_param *followed = source < 0 ? NULL : cps_params_at(updater->params, source);
    const char *wrong = followed == NULL                       ? "no tower or objective declares"
                        : followed->count != param->count      ? "has another size"
                        : followed->spec.kind == CPS_PARAM_EMA ? "is a moving average itself"
                                                               : NULL;
    if (wrong != NULL) {
        return cps_fail(
            CPS_ERR_USAGE,
            "moving average '%s' follows '%s', which %s: name a weight or buffer of the "
            "same shape",
            param->name, param->spec.ema_of, wrong);
    }
    CPS_TRY(check_momentum(updater, param, momentum));
    cps_updater_wait_weights(updater);
    int32_t at = 0;
    while (at < updater->ema_count && updater->emas[at].param != param) {
        at++;
    }
    if (at == updater->ema_count) {
        CPS_BUG_IF(at == updater->layout.ema_count);
        updater->ema_count++;
    }
    updater->emas[at] = (cps_update_ema){.param = param,
                                         .source = cps_params_at(updater->params, source),
                                         .tensor = updater->layout.tensor_of[source],
                                         .momentum = momentum};
    return cps_update_regions(updater);
}
