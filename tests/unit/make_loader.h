/* What the tests of the loader share: shards, streams, inputs, a loader. A test is one object, so
 * this is a header. */
#ifndef CPS_TESTS_MAKE_LOADER_H
#define CPS_TESTS_MAKE_LOADER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/pool.h"
#include "base/rng.h"
#include "data/batch.h"
#include "make_shards.h"

static cps_shard_pool *pool;
static cps_tokenizer *tokenizer;

static __attribute__((unused)) int start(void **state) {
    (void)state;
    shards_start();
    make_shard("good.h5", (shard_options){.count = 53, .captions = 3});
    make_shard("bad.h5",
               (shard_options){.count = 30, .first_id = 1000, .bad_every = 5, .damaged_every = 7});
    make_shard("ruined.h5", (shard_options){.count = 4, .first_id = 2000, .no_images = true});
    make_shard("other.h5", (shard_options){.count = 11, .first_id = 3000});
    const char merges[] = "#version: 0.2\np i\nw a\nwa y</w>\n";
    return cps_shard_pool_create(&pool) == CPS_OK &&
                   cps_tokenizer_load_bytes(merges, sizeof merges - 1, "m", &tokenizer) == CPS_OK
               ? 0
               : -1;
}

static __attribute__((unused)) int stop(void **state) {
    (void)state;
    cps_tokenizer_destroy(tokenizer);
    cps_shard_pool_destroy(pool);
    shards_end();
    return 0;
}

static __attribute__((unused)) cps_stream *stream_of(const char *name, const char *file) {
    const char *pattern = shard_path(file);
    const cps_set_spec set = {.patterns = &pattern, .pattern_count = 1};
    const cps_stream_spec spec = {.name = name, .sets = &set, .set_count = 1};
    cps_stream *stream = NULL;
    if (cps_stream_create(&spec, 11, pool, &stream) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return stream;
}

enum { SIZE = 16, CONTEXT = 12, GRAINS = 3, ROWS = 4 };

static __attribute__((unused)) cps_input_spec image_input(int32_t stream, uint32_t view) {
    cps_input_spec input = {.kind = CPS_INPUT_IMAGE,
                            .stream = stream,
                            .view = view,
                            .recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, SIZE)};
    input.recipe.flip = 0.5;
    input.recipe.scale_min = 0.4;
    return input;
}

static __attribute__((unused)) cps_input_spec text_input(int32_t stream, uint32_t view, bool all) {
    return (cps_input_spec){.kind = CPS_INPUT_TEXT,
                            .stream = stream,
                            .view = view,
                            .text_context = CONTEXT,
                            .all_positions = all};
}

/* A row of 16 bytes: the sample's id and the hash of its text. */
static __attribute__((unused)) cps_status annotate_hash(void *context, const cps_sample *sample,
                                                        const char *text, void *row_out) {
    (void)context;
    const uint64_t row[2] = {sample->sample_id, text != NULL ? cps_hash64_text(text) : 0};
    memcpy(row_out, row, sizeof row);
    return CPS_OK;
}

static __attribute__((unused)) cps_input_spec annotation_input(int32_t stream, int32_t text) {
    return (cps_input_spec){.kind = CPS_INPUT_ANNOTATION,
                            .stream = stream,
                            .annotate = annotate_hash,
                            .row_bytes = 16,
                            .text_input = text};
}

static __attribute__((unused)) cps_loader_options options_of(const cps_loader_stream *streams,
                                                             int32_t stream_count,
                                                             const cps_input_spec *inputs,
                                                             int32_t input_count) {
    return (cps_loader_options){.streams = streams,
                                .stream_count = stream_count,
                                .inputs = inputs,
                                .input_count = input_count,
                                .tokenizer = tokenizer,
                                .seed = 9,
                                .stage = 2,
                                .grains = GRAINS,
                                .parts = 32,
                                .world_size = 1,
                                .threads = 1,
                                .ahead = 2};
}

static __attribute__((unused)) cps_loader *create(const cps_loader_options *options, int64_t step) {
    cps_loader *loader = NULL;
    if (cps_loader_create(options, &loader) != CPS_OK || cps_loader_seek(loader, step) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return loader;
}

static __attribute__((unused)) const cps_batch *grain_of(cps_loader *loader, int64_t step,
                                                         int64_t grain) {
    const cps_batch *batch = NULL;
    if (cps_loader_grain(loader, step, grain, &batch) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    assert_int_equal(batch->data_step, step);
    assert_int_equal(batch->grain, grain);
    return batch;
}

/* Two streams, four kinds of rows. */
typedef struct busy {
    cps_stream *clock, *beside;
    cps_loader_stream streams[2];
    cps_input_spec inputs[6];
} busy;

static __attribute__((unused)) busy busy_start(void) {
    busy setup = {.clock = stream_of("paired", "bad.h5"),
                  .beside = stream_of("unlabelled", "other.h5")};
    setup.streams[0] = (cps_loader_stream){.stream = setup.clock, .rows = ROWS};
    setup.streams[1] = (cps_loader_stream){.stream = setup.beside, .rows = 3};
    setup.inputs[0] = image_input(0, 0);
    setup.inputs[1] = text_input(0, 1, false);
    setup.inputs[2] = annotation_input(0, 1);
    setup.inputs[3] = image_input(1, 2);
    setup.inputs[4] = text_input(1, 3, true);
    setup.inputs[5] = annotation_input(1, -1);
    return setup;
}

static __attribute__((unused)) void busy_end(busy *setup) {
    cps_stream_destroy(setup->clock);
    cps_stream_destroy(setup->beside);
}

#endif
