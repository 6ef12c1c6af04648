/* Arithmetic of steps and grains, checks of a loader's options, and its memory: the same layout
 * code counts for cps_loader_bytes and allocates for cps_loader_create. */
#include <string.h>

#include "base/numeric.h"
#include "comm/canonical.h"
#include "data/batch_internal.h"

/* ---- steps and grains --------------------------------------------------------------------- */

int64_t cps_steps_per_epoch(int64_t samples, int64_t grains, int64_t rows, bool keep_tail) {
    const int64_t global = grains * rows;
    return keep_tail ? cps_ceil_div(samples, global) : samples / global;
}

/* Samples of the epoch behind the steps in front of this one. */
static int64_t samples_left(int64_t samples, int64_t grains, int64_t rows, bool keep_tail,
                            int64_t data_step) {
    const int64_t step = data_step % cps_steps_per_epoch(samples, grains, rows, keep_tail);
    return samples - step * grains * rows;
}

int64_t cps_step_grains(int64_t samples, int64_t grains, int64_t rows, bool keep_tail,
                        int64_t data_step) {
    const int64_t left = samples_left(samples, grains, rows, keep_tail, data_step);
    return cps_min_i64(grains, cps_ceil_div(left, rows));
}

int64_t cps_grain_rows(int64_t samples, int64_t grains, int64_t rows, bool keep_tail,
                       int64_t data_step, int64_t grain) {
    const int64_t left = samples_left(samples, grains, rows, keep_tail, data_step) - grain * rows;
    return cps_min_i64(rows, cps_max_i64(left, 0));
}

void cps_rank_grains(int64_t grains, int64_t parts, int64_t world_size, int64_t rank,
                     int64_t *first_out, int64_t *last_out) {
    const int64_t count = cps_min_i64(grains, parts);
    const int64_t first = cps_part_first(count, world_size, rank);
    const int64_t last = cps_part_first(count, world_size, rank + 1);
    *first_out = cps_part_grain_first(grains, count, first);
    *last_out = cps_part_grain_first(grains, count, last);
}

int64_t cps_loader_step_grains(const cps_loader *loader, int64_t data_step) {
    const cps_loader_options *options = &loader->options;
    if (options->order == CPS_ORDER_STORED) {
        return options->grains;
    }
    return cps_step_grains(loader->records, options->grains, options->streams[0].rows,
                           options->keep_tail, data_step);
}

void cps_loader_range(const cps_loader *loader, int64_t data_step, int64_t *first_out,
                      int64_t *last_out) {
    const int64_t grains = cps_loader_step_grains(loader, data_step);
    const cps_loader_options *options = &loader->options;
    cps_rank_grains(grains, options->order == CPS_ORDER_STORED ? grains : options->parts,
                    options->world_size, options->rank, first_out, last_out);
}

int64_t cps_loader_steps_per_epoch(const cps_loader *loader) {
    return loader->epoch_steps;
}

/* ---- checks ------------------------------------------------------------------------------- */

static cps_status check_input(const cps_loader_options *options, int32_t number) {
    const cps_input_spec *input = &options->inputs[number];
    char where[40] = "loader input";
    if (input->stream < 0 || input->stream >= options->stream_count) {
        return cps_fail(CPS_ERR_USAGE, "loader input %d reads stream %d of %d", number,
                        input->stream, options->stream_count);
    }
    switch (input->kind) {
    case CPS_INPUT_IMAGE:
        return cps_recipe_check(&input->recipe, where);
    case CPS_INPUT_TEXT:
        if (options->tokenizer == NULL || input->text_context < 2 ||
            input->text_context > 1 << 20) {
            return cps_fail(CPS_ERR_USAGE,
                            "loader input %d is text: it needs a tokenizer and a context of 2 to "
                            "%d ids, its context is %lld",
                            number, 1 << 20, (long long)input->text_context);
        }
        return CPS_OK;
    case CPS_INPUT_ANNOTATION: {
        const int32_t text = input->text_input;
        if (input->annotate == NULL || input->row_bytes < 1 || text < -1 ||
            text >= options->input_count ||
            (text >= 0 && (options->inputs[text].kind != CPS_INPUT_TEXT ||
                           options->inputs[text].stream != input->stream))) {
            return cps_fail(CPS_ERR_USAGE,
                            "loader input %d is an annotation of %lld bytes a row on text input "
                            "%d: it needs a callback, 1 byte or more, and a text of its own stream",
                            number, (long long)input->row_bytes, text);
        }
        return CPS_OK;
    }
    }
    return cps_fail(CPS_ERR_USAGE, "loader input %d has the unknown kind %d", number,
                    (int)input->kind);
}

static cps_status check_streams(const cps_loader_options *options) {
    const bool stored = options->order == CPS_ORDER_STORED;
    if (options->stream_count < 1 || (stored && options->stream_count != 1)) {
        return cps_fail(CPS_ERR_USAGE, "a loader of %d streams, wanted is %s",
                        options->stream_count, stored ? "1 in stored order" : "1 or more");
    }
    for (int32_t s = 0; s < options->stream_count; s++) {
        const int64_t rows = options->streams[s].rows;
        if (rows < 1 || rows > 1 << 20) {
            return cps_fail(CPS_ERR_USAGE, "stream '%s' has %lld rows a grain, wanted is 1 to %d",
                            cps_stream_name(options->streams[s].stream), (long long)rows, 1 << 20);
        }
    }
    return CPS_OK;
}

static cps_status check_numbers(const cps_loader_options *options) {
    if (options->order != CPS_ORDER_STORED &&
        (options->grains < 1 || options->grains > 1 << 24 || options->parts < 1)) {
        return cps_fail(CPS_ERR_USAGE,
                        "a loader of %lld grains a step in %lld parts, wanted is 1 or more",
                        (long long)options->grains, (long long)options->parts);
    }
    if (options->world_size < 1 || options->rank < 0 || options->rank >= options->world_size) {
        return cps_fail(CPS_ERR_USAGE, "a loader for rank %lld of %lld", (long long)options->rank,
                        (long long)options->world_size);
    }
    if (options->threads < 0 || options->threads > 1024 || options->ahead < 1 ||
        options->ahead > 1 << 20 || options->steps < 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "a loader of %d threads, %lld grains ahead and %lld steps: wanted are 0 "
                        "to 1024 threads, 1 grain or more, 0 steps or more",
                        options->threads, (long long)options->ahead, (long long)options->steps);
    }
    return CPS_OK;
}

static cps_status plan_steps(cps_loader *loader) {
    cps_loader_options *options = &loader->options;
    const cps_loader_stream *clock = &options->streams[0];
    if (options->order == CPS_ORDER_STORED) {
        loader->records = cps_stream_records(clock->stream);
        options->grains = cps_ceil_div(loader->records, clock->rows);
        loader->epoch_steps = loader->steps = 1;
        return CPS_OK;
    }
    loader->records = cps_stream_epoch_samples(clock->stream);
    loader->steps = options->steps;
    loader->epoch_steps =
        cps_steps_per_epoch(loader->records, options->grains, clock->rows, options->keep_tail);
    if (loader->epoch_steps < 1) {
        return cps_fail(CPS_ERR_USAGE,
                        "stream '%s' has %lld samples an epoch, fewer than one global batch of "
                        "%lld (%lld grains of %lld rows): lower global_batch",
                        cps_stream_name(clock->stream), (long long)loader->records,
                        (long long)(options->grains * clock->rows), (long long)options->grains,
                        (long long)clock->rows);
    }
    return CPS_OK;
}

/* A full step and a kept tail may deal this rank different numbers of grains. */
static int64_t most_grains(const cps_loader *loader) {
    int64_t most = 0;
    for (int64_t step = cps_max_i64(loader->epoch_steps - 2, 0); step < loader->epoch_steps;
         step++) {
        int64_t first = 0, last = 0;
        cps_loader_range(loader, step, &first, &last);
        most = cps_max_i64(most, last - first);
    }
    return most;
}

static bool reads_images(const cps_loader_options *options, int32_t stream) {
    for (int32_t i = 0; i < options->input_count; i++) {
        if (options->inputs[i].kind == CPS_INPUT_IMAGE && options->inputs[i].stream == stream) {
            return true;
        }
    }
    return false;
}

cps_status cps_loader_plan(const cps_loader_options *options, cps_loader *loader) {
    loader->options = *options;
    CPS_TRY(check_streams(options));
    CPS_TRY(check_numbers(options));
    for (int32_t i = 0; i < options->input_count; i++) {
        CPS_TRY(check_input(options, i));
    }
    CPS_TRY(plan_steps(loader));
    const int64_t kept =
        options->single_use || options->order == CPS_ORDER_STORED ? 1 : most_grains(loader);
    loader->slot_count = kept + options->ahead;
    for (int32_t s = 0; s < options->stream_count; s++) {
        if (reads_images(options, s)) {
            loader->encoded_bytes = cps_max_i64(
                loader->encoded_bytes, cps_stream_largest_image(options->streams[s].stream));
        }
    }
    loader->encoded_bytes = cps_min_i64(loader->encoded_bytes, CPS_MAX_ENCODED_BYTES);
    return CPS_OK;
}

/* ---- memory ------------------------------------------------------------------------------- */

/* count * width * bytes from the arena, zeroed; NULL while counting. */
static cps_status take(cps_arena *arena, int64_t count, int64_t width, size_t bytes, void **out) {
    size_t total = 0;
    if (!cps_mul_size((size_t)count, (size_t)width, &total) ||
        !cps_mul_size(total, bytes, &total) || total > SIZE_MAX / 4) {
        return cps_fail(CPS_ERR_USAGE,
                        "a loader buffer of %lld x %lld x %zu bytes is too large: lower the "
                        "grain or the image size",
                        (long long)count, (long long)width, bytes);
    }
    *out = cps_arena_alloc_zero(arena, total);
    return *out == NULL && !cps_arena_is_counting(arena) ? CPS_ERR_UNAVAILABLE : CPS_OK;
}

#define TAKE(arena, count, width, pointer)                                                         \
    do {                                                                                           \
        void *taken_ = NULL;                                                                       \
        CPS_TRY(take((arena), (count), (width), sizeof *(pointer), &taken_));                      \
        (pointer) = taken_;                                                                        \
    } while (0)

static cps_status layout_input(cps_arena *arena, const cps_input_spec *spec, int64_t rows,
                               cps_slot_input *input) {
    switch (spec->kind) {
    case CPS_INPUT_IMAGE:
        TAKE(arena, rows, (int64_t)spec->recipe.size * spec->recipe.size * 3, input->pixels);
        break;
    case CPS_INPUT_TEXT:
        if (rows * spec->text_context > INT32_MAX) {
            return cps_fail(CPS_ERR_USAGE, "%lld texts of %lld ids a grain: lower the grain",
                            (long long)rows, (long long)spec->text_context);
        }
        TAKE(arena, rows, spec->text_context, input->ids);
        TAKE(arena, rows + 1, 1, input->offsets);
        TAKE(arena, rows, 1, input->ends);
        TAKE(arena, rows, 1, input->cut);
        break;
    case CPS_INPUT_ANNOTATION:
        TAKE(arena, rows, spec->row_bytes, input->annotation);
        break;
    }
    return CPS_OK;
}

static cps_status layout_stream(cps_arena *arena, int64_t rows, cps_slot_stream *stream) {
    TAKE(arena, rows, 1, stream->sample_ids);
    TAKE(arena, rows, 1, stream->epochs);
    TAKE(arena, rows, 1, stream->positions);
    TAKE(arena, rows, 1, stream->places);
    TAKE(arena, rows, 1, stream->valid);
    TAKE(arena, rows, 1, stream->bad);
    return CPS_OK;
}

static cps_status layout_slot(cps_loader *loader, cps_slot *slot) {
    const cps_loader_options *options = &loader->options;
    cps_arena *arena = loader->memory;
    cps_slot_stream no_stream = {0};
    cps_slot_input no_input = {0};
    int64_t all_rows = 0;
    TAKE(arena, options->stream_count, 1, slot->streams);
    TAKE(arena, options->stream_count, 1, slot->stream_rows);
    TAKE(arena, options->input_count, 1, slot->inputs);
    TAKE(arena, options->input_count, 1, slot->input_rows);
    for (int32_t s = 0; s < options->stream_count; s++) {
        CPS_TRY(layout_stream(arena, options->streams[s].rows,
                              slot->streams != NULL ? &slot->streams[s] : &no_stream));
        all_rows += options->streams[s].rows;
    }
    for (int32_t i = 0; i < options->input_count; i++) {
        const cps_input_spec *spec = &options->inputs[i];
        CPS_TRY(layout_input(arena, spec, options->streams[spec->stream].rows,
                             slot->inputs != NULL ? &slot->inputs[i] : &no_input));
    }
    TAKE(arena, all_rows, 1, slot->bad);
    return CPS_OK;
}

cps_status cps_loader_layout(cps_loader *loader) {
    const cps_loader_options *options = &loader->options;
    cps_arena *arena = loader->memory;
    cps_slot no_slot = {0};
    TAKE(arena, loader->slot_count, 1, loader->slots);
    for (int64_t i = 0; i < loader->slot_count; i++) {
        CPS_TRY(layout_slot(loader, loader->slots != NULL ? &loader->slots[i] : &no_slot));
        memset(&no_slot, 0, sizeof no_slot);
    }
    TAKE(arena, options->threads + 1, 1, loader->workers);
    for (int32_t i = 0; i <= options->threads; i++) {
        cps_worker no_worker = {0};
        cps_worker *worker = loader->workers != NULL ? &loader->workers[i] : &no_worker;
        worker->loader = loader;
        TAKE(arena, loader->encoded_bytes, 1, worker->encoded);
        TAKE(arena, options->input_count, 1, worker->texts);
    }
    return CPS_OK;
}

cps_status cps_loader_bytes(const cps_loader_options *options, size_t *bytes_out) {
    cps_loader loader = {0};
    CPS_TRY(cps_loader_plan(options, &loader));
    CPS_TRY(cps_arena_create_counting("loader", &loader.memory));
    const cps_status status = cps_loader_layout(&loader);
    if (status == CPS_OK) {
        *bytes_out = cps_arena_high_water(loader.memory);
    }
    cps_arena_destroy(loader.memory);
    return status;
}
