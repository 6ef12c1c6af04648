/* Chunks, owners and messages. A chunk goes to the rank in whose share of all elements its middle
 * lies, so the shares differ by a chunk at most, and all of it is a pure function of what learns
 * and of the number of ranks. */
#include "train/update_internal.h"

#include <string.h>

#include "base/numeric.h"

static int64_t padded(int64_t count) {
    const int64_t pad = CPS_ALIGNMENT / (int64_t)sizeof(cps_real);
    return cps_ceil_div(count, pad) * pad;
}

static void count_all(const cps_updater_options *options, cps_update_layout *layout) {
    const bool planning = options->plan_ranks > 0;
    layout->ranks = planning ? options->plan_ranks : cps_comm_size(options->comm);
    layout->rank = planning ? options->plan_rank : cps_comm_rank(options->comm);
    layout->param_count = cps_params_count(options->params);
    for (int32_t i = 0; i < layout->param_count; i++) {
        const cps_param *param = cps_params_at(options->params, i);
        if (param->learns) {
            layout->tensor_count++;
            layout->chunk_count += cps_ceil_div(param->count, CPS_CHUNK);
            layout->length += padded(param->count);
        }
        layout->ema_count += param->spec.kind == CPS_PARAM_EMA ? 1 : 0;
    }
}

static void take_tables(cps_arena *arena, cps_update_layout *layout) {
    const size_t ranks = (size_t)layout->ranks + 1;
    layout->tensors =
        cps_arena_alloc_zero(arena, (size_t)layout->tensor_count * sizeof *layout->tensors);
    layout->tensor_of =
        cps_arena_alloc_zero(arena, (size_t)layout->param_count * sizeof *layout->tensor_of);
    layout->chunks =
        cps_arena_alloc_zero(arena, (size_t)layout->chunk_count * sizeof *layout->chunks);
    layout->buckets =
        cps_arena_alloc_zero(arena, (size_t)layout->chunk_count * sizeof *layout->buckets);
    layout->first_chunk = cps_arena_alloc_zero(arena, ranks * sizeof *layout->first_chunk);
    layout->first_element = cps_arena_alloc_zero(arena, ranks * sizeof *layout->first_element);
    layout->first_bucket = cps_arena_alloc_zero(arena, ranks * sizeof *layout->first_bucket);
}

static void cut_chunks(cps_params *params, cps_update_layout *layout) {
    int64_t chunk = 0, at = 0;
    int32_t t = 0;
    for (int32_t i = 0; i < layout->param_count; i++) {
        cps_param *param = cps_params_at(params, i);
        layout->tensor_of[i] = param->learns ? t : -1;
        if (!param->learns) {
            continue;
        }
        cps_update_tensor *tensor = &layout->tensors[t];
        *tensor = (cps_update_tensor){.param = param, .index = i, .at = at, .first_chunk = chunk};
        for (int64_t start = 0; start < param->count; start += CPS_CHUNK) {
            layout->chunks[chunk++] =
                (cps_update_chunk){.tensor = t,
                                   .start = start,
                                   .count = cps_min_i64(CPS_CHUNK, param->count - start),
                                   .at = at + start};
        }
        tensor->last_chunk = chunk;
        at += padded(param->count);
        t++;
    }
}

static void deal_chunks(cps_update_layout *layout) {
    int64_t total = 0, before = 0, chunk = 0;
    for (int64_t c = 0; c < layout->chunk_count; c++) {
        total += layout->chunks[c].count;
    }
    for (int32_t r = 0; r < layout->ranks; r++) {
        layout->first_chunk[r] = chunk;
        while (chunk < layout->chunk_count) {
            const int64_t count = layout->chunks[chunk].count;
            /* middle < end of the share, in double: 2^53 half elements are more than fit anywhere
             */
            const double middle = (double)before + 0.5 * (double)count;
            if (r + 1 < layout->ranks && middle * layout->ranks >= (double)total * (r + 1)) {
                break;
            }
            before += count;
            chunk++;
        }
    }
    layout->first_chunk[layout->ranks] = layout->chunk_count;
    for (int32_t r = 0; r <= layout->ranks; r++) {
        const int64_t first = layout->first_chunk[r];
        layout->first_element[r] =
            first < layout->chunk_count ? layout->chunks[first].at : layout->length;
    }
}

static int64_t end_of_chunk(const cps_update_layout *layout, int64_t chunk) {
    return chunk + 1 < layout->chunk_count ? layout->chunks[chunk + 1].at : layout->length;
}

static void fill_buckets(cps_update_layout *layout) {
    int64_t count = 0;
    for (int32_t r = 0; r < layout->ranks; r++) {
        layout->first_bucket[r] = count;
        for (int64_t c = layout->first_chunk[r]; c < layout->first_chunk[r + 1];) {
            cps_update_bucket *bucket = &layout->buckets[count];
            bucket->owner = r;
            bucket->tag = cps_to_int(count - layout->first_bucket[r]);
            bucket->first = layout->chunks[c].at;
            bucket->first_chunk = c;
            while (c < layout->first_chunk[r + 1] && bucket->length < CPS_BUCKET_ELEMENTS) {
                bucket->length = end_of_chunk(layout, c++) - bucket->first;
            }
            bucket->last_chunk = c;
            count++;
        }
    }
    layout->first_bucket[layout->ranks] = count;
    layout->bucket_count = count;
}

cps_status cps_update_layout_create(const cps_updater_options *options,
                                    cps_update_layout *layout_out) {
    cps_update_layout layout = {0};
    count_all(options, &layout);
    cps_arena *counting;
    CPS_TRY(cps_arena_create_counting("update tables", &counting));
    take_tables(counting, &layout);
    const size_t bytes = cps_arena_high_water(counting);
    cps_arena_destroy(counting);
    CPS_TRY(cps_arena_create("update tables", bytes, false, &layout.arena));
    take_tables(layout.arena, &layout);
    cut_chunks(options->params, &layout);
    deal_chunks(&layout);
    fill_buckets(&layout);
    *layout_out = layout;
    return CPS_OK;
}

void cps_update_layout_destroy(cps_update_layout *layout) {
    cps_arena_destroy(layout->arena);
    *layout = (cps_update_layout){0};
}
