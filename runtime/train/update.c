/* Making an updater, and the end of a step's exchange: norms and agreement. */
#include "train/update.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "train/update_internal.h"

/* ---- plan ------------------------------------------------------------------------------------ */

static int32_t floor_log2(int64_t value) {
    int32_t result = 0;
    while (value > 1) {
        value >>= 1;
        result++;
    }
    return result;
}

static void raise_to(int32_t *most, int32_t value) {
    *most = value > *most ? value : *most;
}

/* Most nodes and copies over all sizes that a step may have. A maximal node of c parts needs
 * floor(log2 c) + 1 copies; where a rank has several, one more lets the next one start while the
 * last is on its way. */
static void plan_nodes(cps_updater *updater) {
    const cps_update_layout *layout = &updater->layout;
    int64_t most_parts = 1;
    for (int64_t parts = 1; parts <= updater->max_parts; parts++) {
        int32_t total = 0, own = 0;
        for (int32_t r = 0; r < layout->ranks; r++) {
            cps_node_run runs[CPS_MAX_RUNS];
            const int32_t count = cps_update_nodes(updater, parts, r, runs);
            total += count;
            for (int32_t n = 0; r == layout->rank && n < count; n++) {
                most_parts = cps_max_i64(most_parts, runs[n].count);
            }
            own = r == layout->rank ? count : own;
        }
        raise_to(&updater->max_nodes, total);
        raise_to(&updater->max_own_nodes, own);
        raise_to(&updater->max_other_nodes, total - own);
    }
    updater->copy_count = updater->world ? floor_log2(most_parts) + 1 : 1;
    updater->copy_count += updater->max_own_nodes > 1 ? 1 : 0;
}

static void *take(cps_arena *arena, int64_t count, size_t size) {
    return cps_arena_alloc_zero(arena, (size_t)count * size);
}

/* Everything that an updater holds besides the tables of its layout; with an arena that only counts
 * all pointers stay NULL. */
static void take_memory(cps_arena *arena, cps_updater *updater) {
    const cps_update_layout *layout = &updater->layout;
    const int64_t slice = updater->slice_length;
    updater->copies = take(arena, updater->copy_count, sizeof *updater->copies);
    for (int32_t i = 0; i < updater->copy_count; i++) {
        cps_real *data = take(arena, layout->length, sizeof *data);
        if (updater->copies != NULL) {
            updater->copies[i].data = data;
        }
    }
    updater->received = take(arena, updater->max_other_nodes * slice, sizeof(cps_real));
    updater->kept =
        take(arena, cps_max_i64(updater->max_own_nodes - 1, 0) * slice, sizeof(cps_real));
    for (int32_t s = 0; s < cps_optimizer_state_count(&updater->optimizer); s++) {
        updater->state[s] = take(arena, slice, sizeof(cps_real));
    }
    updater->runs = take(arena, updater->max_nodes, sizeof *updater->runs);
    updater->rows = take(arena, updater->max_nodes, sizeof *updater->rows);
    updater->stack = take(arena, updater->copy_count, sizeof *updater->stack);
    updater->gather_bytes = take(arena, layout->ranks, sizeof *updater->gather_bytes);
    updater->gather_area =
        cps_arena_alloc_zero(arena, (size_t)layout->ranks * sizeof(cps_update_verdict) +
                                        (size_t)layout->chunk_count * sizeof(double));
    updater->chunk_squares = take(arena, layout->chunk_count, sizeof(double));
    updater->lars_squares = take(arena, 2 * layout->chunk_count, sizeof(double));
    updater->emas = take(arena, layout->ema_count, sizeof *updater->emas);
    updater->regions =
        take(arena, layout->tensor_count + layout->ema_count, sizeof *updater->regions);
}

/* The optimizer's own values; its tables come from the options. */
static cps_status parse_optimizer(const cps_updater_options *options, cps_optimizer *out) {
    cps_arena *arena;
    CPS_TRY(cps_arena_create("optimizer options", 0, true, &arena));
    const cps_status status =
        cps_optimizer_parse(options->optimizer_kind, options->optimizer, "optimizer", arena, out);
    if (status == CPS_OK) {
        out->lr = out->weight_decay = (cps_numbers){0};
    }
    cps_arena_destroy(arena);
    return status;
}

/* Fills in everything up to sizes. */
static cps_status plan(const cps_updater_options *options, cps_updater *updater) {
    CPS_BUG_IF(options->parts < 1 || options->steps < 1);
    updater->comm = options->comm;
    updater->params = options->params;
    updater->lr = options->lr;
    updater->weight_decay = options->weight_decay;
    updater->steps = options->steps;
    updater->max_parts = options->parts;
    updater->grad_clip_norm = options->grad_clip_norm;
    updater->clip_tensor = options->clip_tensor;
    updater->world = options->world;
    updater->part = -1;
    CPS_TRY(parse_optimizer(options, &updater->optimizer));
    CPS_TRY(cps_update_layout_create(options, &updater->layout));
    const cps_update_layout *layout = &updater->layout;
    updater->slice_first = layout->first_element[layout->rank];
    updater->slice_length = layout->first_element[layout->rank + 1] - updater->slice_first;
    plan_nodes(updater);
    return CPS_OK;
}

static cps_status count_memory(cps_updater *updater, size_t *bytes_out) {
    cps_arena *counting;
    CPS_TRY(cps_arena_create_counting("update", &counting));
    take_memory(counting, updater);
    *bytes_out = cps_arena_high_water(counting);
    cps_arena_destroy(counting);
    return CPS_OK;
}

cps_status cps_updater_bytes(const cps_updater_options *options, size_t *bytes_out) {
    cps_updater updater = {0};
    size_t bytes = 0;
    cps_status status = plan(options, &updater);
    if (status == CPS_OK) {
        status = count_memory(&updater, &bytes);
    }
    if (status == CPS_OK) {
        *bytes_out = bytes + cps_arena_high_water(updater.layout.arena);
    }
    cps_update_layout_destroy(&updater.layout);
    return status;
}

/* ---- create, destroy ------------------------------------------------------------------------- */

static cps_status set_no_decay(const cps_updater_options *options) {
    const cps_json *list = cps_json_get(options->optimizer, "no_decay");
    const int64_t count = cps_json_count(list);
    const char **patterns = calloc((size_t)count + 1, sizeof *patterns);
    if (patterns == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld patterns", (long long)count);
    }
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        patterns[i] = cps_json_string(cps_json_at(list, i));
        if (patterns[i] == NULL) {
            status =
                cps_fail(CPS_ERR_USAGE,
                         "optimizer.no_decay[%lld] is no text; a list of patterns of parameter "
                         "names is wanted, such as { \"*.bias\" }",
                         (long long)i + 1);
        }
    }
    if (status == CPS_OK) {
        status = cps_params_set_no_decay(options->params, patterns, count);
    }
    free((void *)(uintptr_t)patterns);
    return cps_fail_context(status, "optimizer");
}

static cps_status create_exchanges(cps_updater *updater) {
    const cps_update_layout *layout = &updater->layout;
    const int64_t own_buckets =
        layout->first_bucket[layout->rank + 1] - layout->first_bucket[layout->rank];
    CPS_TRY(cps_exchange_create(updater->comm, "gradients", updater->max_other_nodes * own_buckets,
                                &updater->receives));
    for (int32_t i = 0; i < updater->copy_count && layout->ranks > 1; i++) {
        CPS_TRY(cps_exchange_create(updater->comm, "gradients", layout->bucket_count - own_buckets,
                                    &updater->copies[i].sends));
    }
    return CPS_OK;
}

static cps_status create(const cps_updater_options *options, cps_updater *updater) {
    CPS_TRY(plan(options, updater));
    CPS_TRY(set_no_decay(options));
    size_t bytes;
    CPS_TRY(count_memory(updater, &bytes));
    CPS_TRY(cps_arena_create("gradients and optimizer state", bytes, false, &updater->arena));
    take_memory(updater->arena, updater);
    CPS_TRY(create_exchanges(updater));
    for (int32_t i = 0; i < updater->layout.param_count; i++) {
        cps_params_at(options->params, i)->tensor.grad = NULL;
    }
    for (int32_t t = 0; t < updater->layout.tensor_count; t++) {
        updater->layout.tensors[t].param->updates = 0; /* as old as the state beside it */
    }
    return cps_update_regions(updater);
}

/* What learns and how, as a number that all ranks must share. */
static uint64_t digest_of(const cps_updater *updater) {
    cps_hash *hash = cps_hash_create();
    for (int32_t t = 0; t < updater->layout.tensor_count; t++) {
        const cps_param *param = updater->layout.tensors[t].param;
        const unsigned char decays = param->decays ? 1 : 0;
        cps_hash_add(hash, param->name, strlen(param->name) + 1);
        cps_hash_add(hash, &param->count, sizeof param->count);
        cps_hash_add(hash, &param->lr_factor, sizeof param->lr_factor);
        cps_hash_add(hash, &decays, sizeof decays);
    }
    cps_hash_add(hash, updater->lr, (size_t)updater->steps * sizeof(double));
    cps_hash_add(hash, updater->weight_decay, (size_t)updater->steps * sizeof(double));
    const uint64_t value = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return value;
}

static cps_status agree_on_layout(const cps_updater *updater) {
    char text[3][32];
    snprintf(text[0], sizeof text[0], "%d", updater->layout.tensor_count);
    snprintf(text[1], sizeof text[1], "%lld", (long long)updater->layout.length);
    snprintf(text[2], sizeof text[2], "%016llx", (unsigned long long)digest_of(updater));
    const char *const keys[] = {"parameters that learn", "elements of the gradient",
                                "names, rates and decay of what learns"};
    const char *const values[] = {text[0], text[1], text[2]};
    return cps_agree_equal(updater->comm, "what learns", keys, values, 3);
}

cps_status cps_updater_create(const cps_updater_options *options, cps_updater **updater_out) {
    cps_updater *updater = calloc(1, sizeof *updater);
    cps_status status = updater == NULL
                            ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the update")
                            : create(options, updater);
    status = cps_agree(options->comm, "update", status);
    if (status == CPS_OK) {
        status = agree_on_layout(updater);
    }
    if (status != CPS_OK) {
        cps_updater_destroy(updater);
        return status;
    }
    *updater_out = updater;
    return CPS_OK;
}

void cps_updater_destroy(cps_updater *updater) {
    if (updater == NULL) {
        return;
    }
    if (updater->regions != NULL) {
        cps_updater_wait_weights(updater);
    }
    for (int32_t t = 0; t < updater->layout.tensor_count && updater->arena != NULL; t++) {
        updater->layout.tensors[t].param->tensor.grad = NULL;
    }
    for (int32_t i = 0; updater->copies != NULL && i < updater->copy_count; i++) {
        cps_exchange_destroy(updater->copies[i].sends);
    }
    cps_exchange_destroy(updater->receives);
    cps_update_layout_destroy(&updater->layout);
    cps_arena_destroy(updater->arena);
    free(updater);
}

/* ---- norms ----------------------------------------------------------------------------------- */

void cps_updater_add_global(cps_updater *updater, int32_t index, const cps_real *grad) {
    const int32_t t = updater->layout.tensor_of[index];
    if (t < 0) {
        return;
    }
    cps_update_tensor *tensor = &updater->layout.tensors[t];
    CPS_BUG_IF(tensor->param->count != 1);
    tensor->global = tensor->has_global ? tensor->global + *grad : *grad;
    tensor->has_global = true;
}

void cps_updater_hold(cps_updater *updater, int32_t index, bool held) {
    const int32_t t = updater->layout.tensor_of[index];
    if (t >= 0) {
        updater->layout.tensors[t].held = held;
    }
}

/* The owner adds; everybody forgets. */
static void add_globals(cps_updater *updater) {
    const cps_update_layout *layout = &updater->layout;
    const int64_t last = updater->slice_first + updater->slice_length;
    for (int32_t t = 0; t < layout->tensor_count; t++) {
        cps_update_tensor *tensor = &layout->tensors[t];
        if (tensor->has_global && tensor->at >= updater->slice_first && tensor->at < last) {
            updater->gradient[tensor->at - updater->slice_first] += tensor->global;
        }
        tensor->has_global = false;
    }
}

typedef struct squares_work {
    const cps_updater *updater;
    int64_t first_chunk;
    double *squares;
} squares_work;

static void square_chunk(void *context, int64_t i) {
    const squares_work *work = context;
    const cps_update_chunk *chunk = &work->updater->layout.chunks[work->first_chunk + i];
    work->squares[i] = 0;
    if (!work->updater->layout.tensors[chunk->tensor].held) {
        const cps_real *gradient =
            work->updater->gradient + (chunk->at - work->updater->slice_first);
        work->squares[i] = cps_sum_squares(gradient, chunk->count);
    }
}

static cps_update_verdict own_verdict(const cps_updater *updater, cps_status own,
                                      const char *flagged, const double *squares) {
    const cps_update_layout *layout = &updater->layout;
    cps_update_verdict verdict = {.status = (int32_t)own};
    int32_t bad = atomic_load(&updater->bad_tensor);
    verdict.only_summed = bad >= layout->tensor_count;
    const int64_t first = layout->first_chunk[layout->rank];
    for (int64_t c = first; c < layout->first_chunk[layout->rank + 1]; c++) {
        if (verdict.only_summed && !isfinite(squares[c - first]) &&
            layout->chunks[c].tensor < bad) {
            bad = layout->chunks[c].tensor;
        }
    }
    verdict.tensor = bad < layout->tensor_count ? bad : -1;
    if (flagged != NULL) {
        snprintf(verdict.flagged, sizeof verdict.flagged, "%s", flagged);
    }
    return verdict;
}

/* Own chunks' sums and verdict to all. */
static void gather_squares(cps_updater *updater, cps_status own, const char *flagged) {
    const cps_update_layout *layout = &updater->layout;
    char *own_area = updater->gather_area;
    for (int32_t r = 0; r < layout->ranks; r++) {
        const int64_t chunks = layout->first_chunk[r + 1] - layout->first_chunk[r];
        updater->gather_bytes[r] =
            (int64_t)sizeof(cps_update_verdict) + chunks * (int64_t)sizeof(double);
        own_area += r < layout->rank ? updater->gather_bytes[r] : 0;
    }
    const int64_t first = layout->first_chunk[layout->rank];
    squares_work work = {.updater = updater,
                         .first_chunk = first,
                         .squares = (double *)(void *)(own_area + sizeof(cps_update_verdict))};
    cps_parallel(layout->first_chunk[layout->rank + 1] - first, square_chunk, &work);
    *(cps_update_verdict *)(void *)own_area = own_verdict(updater, own, flagged, work.squares);
    const double start = cps_seconds();
    cps_comm_allgatherv_inplace(updater->comm, "norms of the gradient", updater->gather_area,
                                updater->gather_bytes);
    updater->wait_seconds += cps_seconds() - start;
}

/* Reads what all ranks sent: sums in chunk order, the first bad rank. True if some rank failed. */
static bool read_squares(cps_updater *updater, cps_update_norms *norms) {
    const cps_update_layout *layout = &updater->layout;
    const char *area = updater->gather_area;
    bool failed = false, blamed = false;
    for (int32_t r = 0; r < layout->ranks; r++) {
        const cps_update_verdict *verdict = (const cps_update_verdict *)(const void *)area;
        const int64_t chunks = layout->first_chunk[r + 1] - layout->first_chunk[r];
        memcpy(updater->chunk_squares + layout->first_chunk[r], area + sizeof *verdict,
               (size_t)chunks * sizeof(double));
        failed = failed || verdict->status != CPS_OK;
        const bool bad = verdict->tensor >= 0 || verdict->flagged[0] != '\0';
        const bool own = verdict->tensor >= 0 && !verdict->only_summed;
        /* What a rank sent counts before what an owner found in a sum, lower ranks before higher.
         */
        if (bad && (norms->finite || (own && !blamed))) {
            blamed = own;
            norms->finite = false;
            norms->bad_rank = r;
            snprintf(norms->bad_name, sizeof norms->bad_name, "%s",
                     verdict->tensor >= 0 ? layout->tensors[verdict->tensor].param->name
                                          : verdict->flagged);
        }
        area += updater->gather_bytes[r];
    }
    return failed;
}

static void sum_squares(cps_updater *updater, cps_update_norms *norms) {
    double total = 0;
    for (int32_t t = 0; t < updater->layout.tensor_count; t++) {
        updater->layout.tensors[t].squares = 0;
    }
    for (int64_t c = 0; c < updater->layout.chunk_count; c++) {
        const double squares = updater->chunk_squares[c];
        updater->layout.tensors[updater->layout.chunks[c].tensor].squares += squares;
        total += squares;
    }
    norms->grad_norm = sqrt(total);
    if (norms->finite && !isfinite(total)) { /* of finite sums: double build, absurd gradients */
        norms->finite = false;
        norms->bad_rank = 0;
        snprintf(norms->bad_name, sizeof norms->bad_name, "norm of the gradient");
    }
}

cps_status cps_updater_finish(cps_updater *updater, cps_status own, const char *flagged,
                              cps_update_norms *norms_out) {
    cps_update_collect(updater);
    add_globals(updater);
    gather_squares(updater, own, flagged);
    cps_update_norms norms = {.finite = true, .bad_rank = -1};
    if (read_squares(updater, &norms)) {
        return cps_agree(updater->comm, "backward pass", own);
    }
    sum_squares(updater, &norms);
    *norms_out = norms;
    return CPS_OK;
}

/* ---- state for checkpoints ------------------------------------------------------------------- */

int32_t cps_updater_state_count(const cps_updater *updater) {
    return cps_optimizer_state_count(&updater->optimizer);
}

const char *cps_updater_state_name(const cps_updater *updater, int32_t state) {
    return cps_optimizer_state_name(&updater->optimizer, state);
}

bool cps_updater_updates(const cps_updater *updater, int32_t index) {
    return updater->layout.tensor_of[index] >= 0;
}

void cps_updater_owned(const cps_updater *updater, int32_t index, int64_t *first_out,
                       int64_t *count_out) {
    const cps_update_layout *layout = &updater->layout;
    const int32_t t = layout->tensor_of[index];
    *first_out = *count_out = 0;
    if (t < 0) {
        return;
    }
    const cps_update_tensor *tensor = &layout->tensors[t];
    const int64_t first = cps_max_i64(tensor->first_chunk, layout->first_chunk[layout->rank]);
    const int64_t last = cps_min_i64(tensor->last_chunk, layout->first_chunk[layout->rank + 1]);
    if (first < last) {
        const cps_update_chunk *end = &layout->chunks[last - 1];
        *first_out = layout->chunks[first].start;
        *count_out = end->start + end->count - *first_out;
    }
}

cps_real *cps_updater_state(cps_updater *updater, int32_t index, int32_t state) {
    int64_t first, count;
    cps_updater_owned(updater, index, &first, &count);
    if (count == 0) {
        return NULL;
    }
    const cps_update_tensor *tensor = &updater->layout.tensors[updater->layout.tensor_of[index]];
    return updater->state[state] + (tensor->at + first - updater->slice_first);
}

double cps_updater_wait_seconds(const cps_updater *updater) {
    return updater->wait_seconds;
}
