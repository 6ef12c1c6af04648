/* The loader: the same bytes whatever threads, ranks and resumes; bad images replaced in place, or
 * masked in stored order; texts packed; callbacks and their failures; kept tails; streams that run
 * on. */
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

static int start(void **state) {
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

static int stop(void **state) {
    (void)state;
    cps_tokenizer_destroy(tokenizer);
    cps_shard_pool_destroy(pool);
    shards_end();
    return 0;
}

static cps_stream *stream_of(const char *name, const char *file) {
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

static cps_input_spec image_input(int32_t stream, uint32_t view) {
    cps_input_spec input = {.kind = CPS_INPUT_IMAGE,
                            .stream = stream,
                            .view = view,
                            .recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, SIZE)};
    input.recipe.flip = 0.5;
    input.recipe.scale_min = 0.4;
    return input;
}

static cps_input_spec text_input(int32_t stream, uint32_t view, bool all) {
    return (cps_input_spec){.kind = CPS_INPUT_TEXT,
                            .stream = stream,
                            .view = view,
                            .text_context = CONTEXT,
                            .all_positions = all};
}

/* A row of 16 bytes: the sample's id and the hash of its text. */
static cps_status annotate_hash(void *context, const cps_sample *sample, const char *text,
                                void *row_out) {
    (void)context;
    const uint64_t row[2] = {sample->sample_id, text != NULL ? cps_hash64_text(text) : 0};
    memcpy(row_out, row, sizeof row);
    return CPS_OK;
}

static cps_input_spec annotation_input(int32_t stream, int32_t text) {
    return (cps_input_spec){.kind = CPS_INPUT_ANNOTATION,
                            .stream = stream,
                            .annotate = annotate_hash,
                            .row_bytes = 16,
                            .text_input = text};
}

static cps_loader_options options_of(const cps_loader_stream *streams, int32_t stream_count,
                                     const cps_input_spec *inputs, int32_t input_count) {
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

static cps_loader *create(const cps_loader_options *options, int64_t step) {
    cps_loader *loader = NULL;
    if (cps_loader_create(options, &loader) != CPS_OK || cps_loader_seek(loader, step) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return loader;
}

static const cps_batch *grain_of(cps_loader *loader, int64_t step, int64_t grain) {
    const cps_batch *batch = NULL;
    if (cps_loader_grain(loader, step, grain, &batch) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    assert_int_equal(batch->data_step, step);
    assert_int_equal(batch->grain, grain);
    return batch;
}

static void hash_input(cps_hash *hash, const cps_input_rows *rows, cps_input_kind kind) {
    const size_t n = (size_t)rows->rows;
    if (kind == CPS_INPUT_IMAGE) {
        cps_hash_add(hash, rows->pixels, n * SIZE * SIZE * 3);
    } else if (kind == CPS_INPUT_TEXT) {
        cps_hash_add(hash, rows->offsets, (n + 1) * sizeof *rows->offsets);
        cps_hash_add(hash, rows->ids, (size_t)rows->offsets[n] * sizeof *rows->ids);
        cps_hash_add(hash, rows->ends, n * sizeof *rows->ends);
        cps_hash_add(hash, &rows->truncated, sizeof rows->truncated);
    } else {
        cps_hash_add(hash, rows->annotation, n * 16);
    }
}

/* Everything a batch says. */
static uint64_t hash_batch(const cps_batch *batch, const cps_input_spec *inputs) {
    cps_hash *hash = cps_hash_create();
    for (int32_t s = 0; s < batch->stream_count; s++) {
        const cps_stream_rows *rows = &batch->streams[s];
        cps_hash_add(hash, rows->sample_ids, (size_t)rows->rows * sizeof(uint64_t));
        cps_hash_add(hash, rows->epochs, (size_t)rows->rows * sizeof(uint64_t));
        cps_hash_add(hash, rows->positions, (size_t)rows->rows * sizeof(uint64_t));
        cps_hash_add(hash, rows->valid, (size_t)rows->rows);
    }
    for (int32_t i = 0; i < batch->input_count; i++) {
        hash_input(hash, &batch->inputs[i], inputs[i].kind);
    }
    for (int64_t b = 0; b < batch->bad_count; b++) {
        const int64_t facts[4] = {batch->bad[b].record, batch->bad[b].replaced_by,
                                  batch->bad[b].row, batch->bad[b].stream};
        cps_hash_add(hash, facts, sizeof facts);
        cps_hash_add(hash, batch->bad[b].reason, strlen(batch->bad[b].reason));
    }
    const uint64_t value = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return value;
}

enum { STEPS = 9 };

/* Two streams, four kinds of rows. */
typedef struct busy {
    cps_stream *clock, *beside;
    cps_loader_stream streams[2];
    cps_input_spec inputs[6];
} busy;

static busy busy_start(void) {
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

static void busy_end(busy *setup) {
    cps_stream_destroy(setup->clock);
    cps_stream_destroy(setup->beside);
}

static void hash_run(const busy *setup, cps_loader_options options, int64_t from,
                     uint64_t hashes[STEPS][GRAINS]) {
    cps_loader *loader = create(&options, from);
    for (int64_t step = from; step < STEPS; step++) {
        int64_t first = 0, last = 0;
        cps_loader_range(loader, step, &first, &last);
        for (int64_t grain = first; grain < last; grain++) {
            hashes[step][grain] = hash_batch(grain_of(loader, step, grain), setup->inputs);
        }
        for (int64_t grain = last - 1; grain >= first; grain--) { /* replay, backwards */
            assert_true(hashes[step][grain] ==
                        hash_batch(grain_of(loader, step, grain), setup->inputs));
        }
        cps_loader_release_step(loader, step);
    }
    cps_loader_destroy(loader);
}

static void threads_ranks_and_resumes_change_nothing(void **state) {
    (void)state;
    busy setup = busy_start();
    cps_loader_options options = options_of(setup.streams, 2, setup.inputs, 6);
    static uint64_t wanted[STEPS][GRAINS], got[STEPS][GRAINS];
    hash_run(&setup, options, 0, wanted);
    for (int i = 1; i < STEPS * GRAINS; i++) {
        assert_true(wanted[i / GRAINS][i % GRAINS] != wanted[(i - 1) / GRAINS][(i - 1) % GRAINS]);
    }
    static const int32_t THREADS[] = {0, 1, 4};
    for (int t = 0; t < 3; t++) {
        for (int64_t ranks = 1; ranks <= 3; ranks++) {
            memset(got, 0, sizeof got);
            for (int64_t rank = 0; rank < ranks; rank++) {
                options.threads = THREADS[t];
                options.world_size = ranks;
                options.rank = rank;
                options.ahead = 1 + t;
                hash_run(&setup, options, 0, got);
            }
            assert_memory_equal(got, wanted, sizeof got);
        }
    }
    memset(got, 0, sizeof got);
    options.world_size = 1;
    options.rank = 0;
    hash_run(&setup, options, 5, got);
    assert_memory_equal(got[5], wanted[5], sizeof got[5] * (STEPS - 5));
    busy_end(&setup);
}

static void seeking_back_and_forth(void **state) {
    (void)state;
    busy setup = busy_start();
    cps_loader_options options = options_of(setup.streams, 2, setup.inputs, 6);
    options.threads = 2;
    cps_loader *loader = create(&options, 0);
    const uint64_t first = hash_batch(grain_of(loader, 0, 1), setup.inputs);
    assert_int_equal(cps_loader_seek(loader, 7),
                     CPS_OK); /* while rows of step 0 are on their way */
    const uint64_t later = hash_batch(grain_of(loader, 7, 2), setup.inputs);
    assert_int_equal(cps_loader_seek(loader, 0), CPS_OK);
    assert_true(first == hash_batch(grain_of(loader, 0, 1), setup.inputs));
    assert_true(later ==
                hash_batch(grain_of(loader, 7, 2), setup.inputs)); /* skipping over steps */
    assert_int_equal(cps_loader_seek(loader, -1), CPS_ERR_USAGE);
    cps_loader_destroy(loader);
    busy_end(&setup);
}

static void seeds_and_stages_change_the_draws(void **state) {
    (void)state;
    busy setup = busy_start();
    cps_loader_options options = options_of(setup.streams, 2, setup.inputs, 6);
    uint64_t hashes[3];
    for (int i = 0; i < 3; i++) {
        options.seed = i == 1 ? 10 : 9;
        options.stage = i == 2 ? 3 : 2;
        cps_loader *loader = create(&options, 0);
        hashes[i] = hash_batch(grain_of(loader, 0, 0), setup.inputs);
        cps_loader_destroy(loader);
    }
    assert_true(hashes[0] != hashes[1] && hashes[0] != hashes[2]);
    busy_end(&setup);
}

/* The row must look as the recipe makes record `record` of the shard look. */
static void assert_shows(const cps_loader_options *options, const cps_batch *batch, int64_t row,
                         int64_t record) {
    const cps_input_spec *input = &options->inputs[0];
    size_t length = 0;
    uint8_t *bytes = shard_picture(record, &length), wanted[SIZE * SIZE * 3];
    cps_picture picture = {0};
    const cps_draw_key key = {.seed = options->seed,
                              .stage = options->stage,
                              .stream = cps_name_key("paired"),
                              .epoch = batch->streams[0].epochs[row],
                              .position = batch->streams[0].positions[row],
                              .view = input->view,
                              .crop = input->crop};
    assert_int_equal(cps_picture_open(&picture, bytes, length), CPS_OK);
    assert_int_equal(cps_recipe_apply(&input->recipe, &picture, &key, wanted), CPS_OK);
    assert_memory_equal(wanted, batch->inputs[0].pixels + row * SIZE * SIZE * 3, sizeof wanted);
    cps_picture_close(&picture);
    free(bytes);
}

static bool is_bad(int64_t record) {
    return record % 5 == 0 || record % 7 == 1;
}

static void bad_images_are_replaced_and_counted(void **state) {
    (void)state;
    cps_stream *stream = stream_of("paired", "bad.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = ROWS};
    cps_input_spec inputs[2] = {image_input(0, 4), text_input(0, 1, false)};
    inputs[0].crop = 2;
    cps_loader_options options = options_of(&streams, 1, inputs, 2);
    cps_loader *loader = create(&options, 0);
    int64_t replaced = 0, rows = 0;
    uint8_t seen[30] = {0};
    for (int64_t step = 0; step < 2; step++) {
        for (int64_t grain = 0; grain < GRAINS; grain++) {
            const cps_batch *batch = grain_of(loader, step, grain);
            int64_t next = 0;
            for (int64_t row = 0; row < ROWS; row++, rows++) {
                const int64_t record = (int64_t)batch->streams[0].sample_ids[row] - 1000;
                cps_place place;
                cps_stream_at(stream, 0, (step * GRAINS + grain) * ROWS + row, &place);
                assert_true(place.sample_id ==
                            batch->streams[0].sample_ids[row]); /* order stands */
                assert_int_equal(seen[record]++, 0);
                assert_int_equal(batch->streams[0].valid[row], 1);
                int64_t shown = record;
                while (is_bad(shown)) {
                    shown = (shown + 1) % 30;
                }
                assert_shows(&options, batch, row, shown);
                if (shown != record) {
                    const cps_bad_image *bad = &batch->bad[next++];
                    assert_int_equal(bad->row, row);
                    assert_int_equal(bad->record, record);
                    assert_int_equal(bad->replaced_by, shown);
                    assert_true(bad->sample_id == batch->streams[0].sample_ids[row]);
                    assert_string_equal(cps_shard_path(bad->shard), shard_path("bad.h5"));
                    assert_true(strlen(bad->reason) > 5);
                    assert_int_equal(strcmp(bad->reason, "marked by the test") == 0,
                                     record % 5 == 0);
                    replaced++;
                }
            }
            assert_int_equal(batch->bad_count, next);
        }
    }
    assert_int_equal(rows, 24);
    assert_true(replaced > 4);
    cps_loader_destroy(loader);
    cps_stream_destroy(stream);
}

static void captions_stay_when_images_are_replaced(void **state) {
    (void)state;
    busy setup = busy_start();
    const cps_loader_options options = options_of(setup.streams, 2, setup.inputs, 6);
    cps_loader *loader = create(&options, 0);
    const cps_batch *batch = grain_of(loader, 0, 0);
    for (int64_t row = 0; row < ROWS; row++) {
        uint64_t note[2];
        char text[64];
        memcpy(note, (const char *)batch->inputs[2].annotation + 16 * row, sizeof note);
        snprintf(text, sizeof text, "picture %lld way 0",
                 (long long)(batch->streams[0].sample_ids[row] - 1000));
        assert_true(note[0] == batch->streams[0].sample_ids[row]);
        assert_true(note[1] == cps_hash64_text(text));
        memcpy(note, (const char *)batch->inputs[5].annotation + 16 * (row % 3), sizeof note);
        assert_true(note[1] == 0);
    }
    cps_loader_destroy(loader);
    busy_end(&setup);
}

static void a_shard_without_any_image_is_an_error(void **state) {
    (void)state;
    cps_stream *stream = stream_of("paired", "ruined.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = 2};
    const cps_input_spec input = image_input(0, 0);
    cps_loader_options options = options_of(&streams, 1, &input, 1);
    options.grains = 1;
    for (options.threads = 0; options.threads < 3; options.threads++) {
        cps_loader *loader = create(&options, 0);
        const cps_batch *batch = NULL;
        assert_int_equal(cps_loader_grain(loader, 0, 0, &batch), CPS_ERR_DATA);
        assert_non_null(strstr(cps_fail_message(), "none of its 4 images"));
        assert_non_null(strstr(cps_fail_message(), "ruined.h5"));
        cps_loader_destroy(loader);
    }
    cps_stream_destroy(stream);
}

/* Changes one byte of a shard's file behind the loader's back, or cuts the file. */
static int64_t find_image(const char *path, const uint8_t *image, size_t length) {
    char *bytes = NULL;
    size_t size = 0;
    shards_must(cps_file_read(path, 1 << 26, &bytes, &size));
    int64_t found = -1;
    for (size_t at = 0; at + length <= size && found < 0; at++) {
        found = memcmp(bytes + at, image, length) == 0 ? (int64_t)at : -1;
    }
    free(bytes);
    assert_true(found >= 0);
    return found;
}

static void damage_after_packing(void **state) {
    (void)state;
    make_shard("damaged.h5", (shard_options){.count = 8});
    char path[128];
    snprintf(path, sizeof path, "%s", shard_path("damaged.h5"));
    size_t length = 0;
    uint8_t *image = shard_picture(3, &length);
    const int64_t at = find_image(path, image, length);
    free(image);
    cps_stream *stream = stream_of("paired", "damaged.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = 8};
    const cps_input_spec input = image_input(0, 0);
    cps_loader_options options = options_of(&streams, 1, &input, 1);
    options.grains = 1;
    FILE *file = fopen(path, "r+b");
    fseek(file, (long)at + 200, SEEK_SET);
    const int byte = fgetc(file);
    fseek(file, (long)at + 200, SEEK_SET);
    fputc(byte ^ 4, file);
    fflush(file);
    cps_loader *loader = create(&options, 0);
    const cps_batch *batch = grain_of(loader, 0, 0);
    assert_int_equal(batch->bad_count, 1); /* one picture: replaced */
    assert_int_equal(batch->bad[0].record, 3);
    assert_int_equal(batch->bad[0].replaced_by, 4);
    assert_non_null(strstr(batch->bad[0].reason, "checksum"));
    assert_int_equal(ftruncate(fileno(file), (off_t)at + 10), 0);
    assert_int_equal(cps_loader_seek(loader, 1), CPS_OK);
    assert_int_equal(cps_loader_grain(loader, 1, 0, &batch),
                     CPS_ERR_IO); /* a cut file is no bad picture */
    assert_non_null(strstr(cps_fail_message(), "damaged.h5"));
    fclose(file);
    cps_loader_destroy(loader);
    cps_stream_destroy(stream);
}

/* ---- texts -------------------------------------------------------------------------------- */

static cps_status own_caption(void *context, const cps_sample *sample, cps_text *text_out) {
    const char *prefix = context;
    assert_int_equal(cps_sample_text_count(sample, "caption"), 3);
    assert_null(cps_sample_text(sample, "caption", 3));
    assert_null(cps_sample_text(sample, "nothing", 0));
    if (prefix == NULL && sample->record == 17) {
        return cps_fail(CPS_ERR_INTERNAL, "record 17 has no name");
    }
    CPS_TRY(cps_text_set(text_out, prefix != NULL ? prefix : "x"));
    CPS_TRY(cps_text_append(text_out, " "));
    return cps_text_append(text_out, cps_sample_class_name(sample));
}

static void texts_are_packed_or_padded(void **state) {
    (void)state;
    cps_stream *stream = stream_of("paired", "good.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = ROWS};
    char prefix[] = "&lt;WAY";
    cps_input_spec inputs[3] = {text_input(0, 0, false), text_input(0, 0, true),
                                text_input(0, 0, false)};
    inputs[0].caption = inputs[1].caption = own_caption;
    inputs[0].caption_context = inputs[1].caption_context = prefix;
    inputs[2].text_context = 4;
    const cps_loader_options options = options_of(&streams, 1, inputs, 3);
    cps_loader *loader = create(&options, 0);
    const cps_batch *batch = grain_of(loader, 0, 0);
    const cps_input_rows *packed = &batch->inputs[0], *padded = &batch->inputs[1],
                         *cut = &batch->inputs[2];
    for (int64_t row = 0; row < ROWS; row++) {
        static const char *const NAMES[] = {"oak", "ash", "elm"};
        char text[32];
        int32_t ids[CONTEXT];
        int64_t length = 0;
        snprintf(text, sizeof text, "<way %s", NAMES[batch->streams[0].sample_ids[row] % 3]);
        assert_int_equal(cps_tokenizer_encode(tokenizer, text, CONTEXT, ids, &length, NULL),
                         CPS_OK);
        assert_int_equal(packed->offsets[row + 1] - packed->offsets[row], length);
        assert_memory_equal(packed->ids + packed->offsets[row], ids, (size_t)length * sizeof *ids);
        assert_int_equal(packed->ends[row], length - 1);
        assert_int_equal(padded->offsets[row], row * CONTEXT);
        assert_memory_equal(padded->ids + row * CONTEXT, ids, (size_t)length * sizeof *ids);
        for (int64_t p = length; p < CONTEXT; p++) {
            assert_int_equal(padded->ids[row * CONTEXT + p], 0);
        }
        assert_int_equal(padded->ends[row], length - 1);
        assert_int_equal(cut->ends[row], 3);
    }
    assert_int_equal(packed->truncated, 0);
    assert_int_equal(cut->truncated, ROWS);
    cps_loader_destroy(loader);
    cps_stream_destroy(stream);
}

static void failing_callbacks_speak_on_the_callers_thread(void **state) {
    (void)state;
    cps_stream *stream = stream_of("paired", "good.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = ROWS};
    cps_input_spec input = text_input(0, 0, false);
    input.caption = own_caption;
    cps_loader_options options = options_of(&streams, 1, &input, 1);
    for (options.threads = 0; options.threads < 4; options.threads += 3) {
        cps_loader *loader = create(&options, 0);
        int failed = 0;
        for (int64_t step = 0; step < cps_loader_steps_per_epoch(loader); step++) {
            for (int64_t grain = 0; grain < GRAINS; grain++) {
                const cps_batch *batch = NULL;
                const cps_status status = cps_loader_grain(loader, step, grain, &batch);
                if (status != CPS_OK) {
                    assert_int_equal(status, CPS_ERR_INTERNAL);
                    assert_non_null(strstr(cps_fail_message(), "record 17 has no name"));
                    assert_non_null(strstr(cps_fail_message(), "stream 'paired'"));
                    failed++;
                }
            }
        }
        assert_int_equal(failed, 1); /* of 48 rows; the others go on */
        cps_loader_destroy(loader);
    }
    cps_stream_destroy(stream);
}

static void captions_are_drawn_evenly(void **state) {
    (void)state;
    cps_stream *stream = stream_of("paired", "good.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = 53};
    cps_input_spec inputs[2] = {text_input(0, 0, false), annotation_input(0, 0)};
    cps_loader_options options = options_of(&streams, 1, inputs, 2);
    options.grains = 1;
    cps_loader *loader = create(&options, 0);
    int counts[3] = {0};
    for (int64_t epoch = 0; epoch < 20; epoch++) {
        const cps_batch *batch = grain_of(loader, epoch, 0);
        for (int64_t row = 0; row < 53; row++) {
            uint64_t note[2];
            memcpy(note, (const char *)batch->inputs[1].annotation + 16 * row, sizeof note);
            for (int way = 0; way < 3; way++) {
                char text[64];
                snprintf(text, sizeof text, "picture %lld way %d", (long long)note[0], way);
                counts[way] += note[1] == cps_hash64_text(text);
            }
        }
    }
    assert_int_equal(counts[0] + counts[1] + counts[2], 1060);
    for (int way = 0; way < 3; way++) {
        assert_in_range(counts[way], 300, 407); /* 353 expected, 3.5 standard deviations */
    }
    cps_loader_destroy(loader);
    cps_stream_destroy(stream);
}

/* ---- orders ------------------------------------------------------------------------------- */

static void kept_tails_are_short(void **state) {
    (void)state;
    cps_stream *stream = stream_of("paired", "good.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = ROWS};
    const cps_input_spec input = annotation_input(0, -1);
    cps_loader_options options = options_of(&streams, 1, &input, 1);
    options.keep_tail = true;
    options.grains = 5;
    cps_loader *loader = create(&options, 0);
    assert_int_equal(cps_loader_steps_per_epoch(loader), 3); /* 20, 20, 13 */
    int64_t rows = 0;
    uint8_t seen[53] = {0};
    for (int64_t step = 0; step < 6; step++) {
        const int64_t grains = cps_loader_step_grains(loader, step);
        assert_int_equal(grains, step % 3 == 2 ? 4 : 5);
        for (int64_t grain = 0; grain < grains; grain++) {
            const cps_batch *batch = grain_of(loader, step, grain);
            assert_int_equal(batch->streams[0].rows, step % 3 == 2 && grain == 3 ? 1 : ROWS);
            assert_int_equal(batch->inputs[0].rows, batch->streams[0].rows);
            for (int64_t row = 0; row < batch->streams[0].rows; row++, rows++) {
                assert_int_equal(seen[batch->streams[0].sample_ids[row]]++, rows / 53);
                assert_int_equal(batch->streams[0].epochs[row], step / 3);
            }
        }
    }
    assert_int_equal(rows, 106);
    cps_loader_destroy(loader);
    options.keep_tail = false;
    loader = create(&options, 0);
    assert_int_equal(cps_loader_steps_per_epoch(loader), 2);
    cps_loader_destroy(loader);
    cps_stream_destroy(stream);
}

static void other_streams_run_on(void **state) {
    (void)state;
    busy setup = busy_start();
    const cps_loader_options options = options_of(setup.streams, 2, setup.inputs, 6);
    cps_loader *loader = create(&options, 0);
    assert_int_equal(cps_loader_steps_per_epoch(loader), 2); /* 30 of 12 a step */
    uint64_t expected = 0;
    for (int64_t step = 0; step < 5; step++) {
        for (int64_t grain = 0; grain < GRAINS; grain++) {
            const cps_batch *batch = grain_of(loader, step, grain);
            assert_true(batch->streams[0].epochs[0] == (uint64_t)step / 2);
            for (int64_t row = 0; row < 3; row++, expected++) {
                assert_true(batch->streams[1].epochs[row] == expected / 11);
                assert_true(batch->streams[1].positions[row] == expected % 11);
            }
        }
    }
    cps_loader_destroy(loader);
    busy_end(&setup);
}

static void stored_order_masks_and_pads(void **state) {
    (void)state;
    cps_stream *stream = stream_of("val", "bad.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = 8};
    cps_input_spec inputs[3] = {image_input(0, 0), text_input(0, 1, false), annotation_input(0, 1)};
    inputs[0].recipe = cps_recipe_clip(CPS_RECIPE_EVALUATION, SIZE);
    int64_t shown = 0, bad = 0;
    for (int64_t rank = 0; rank < 3; rank++) {
        cps_loader_options options = options_of(&streams, 1, inputs, 3);
        options.order = CPS_ORDER_STORED;
        options.world_size = 3;
        options.rank = rank;
        cps_loader *loader = create(&options, 0);
        assert_int_equal(cps_loader_step_grains(loader, 0), 4);
        int64_t first = 0, last = 0;
        cps_loader_range(loader, 0, &first, &last);
        assert_int_equal(last - first, rank == 2 ? 2 : 1);
        for (int64_t grain = first; grain < last; grain++) {
            const cps_batch *batch = grain_of(loader, 0, grain);
            assert_int_equal(batch->padded, grain == 3 ? 2 : 0);
            assert_int_equal(batch->streams[0].rows, 8);
            bad += batch->bad_count;
            for (int64_t row = 0; row < 8; row++) {
                const int64_t record = grain * 8 + row;
                const bool good = record < 30 && !is_bad(record);
                assert_int_equal(batch->streams[0].valid[row], good);
                assert_true(batch->streams[0].sample_ids[row] ==
                            (record < 30 ? 1000 + (uint64_t)record : 0));
                const uint8_t *pixels = batch->inputs[0].pixels + row * SIZE * SIZE * 3;
                int sum = 0;
                for (int p = 0; p < SIZE * SIZE * 3; p++) {
                    sum += pixels[p];
                }
                assert_int_equal(sum > 0, good);
                shown += good;
                if (record >= 30) {
                    assert_int_equal(batch->inputs[1].ends[row], 1); /* start and end alone */
                }
            }
        }
        cps_loader_destroy(loader);
    }
    assert_int_equal(shown, 20);
    assert_int_equal(bad, 10);
    cps_stream_destroy(stream);
}

static void grains_are_forgotten_in_stored_order(void **state) {
    (void)state;
    cps_stream *stream = stream_of("val", "good.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = 8};
    const cps_input_spec input = annotation_input(0, -1);
    cps_loader_options options = options_of(&streams, 1, &input, 1);
    options.order = CPS_ORDER_STORED;
    cps_loader *loader = create(&options, 0);
    const cps_batch *batch = NULL;
    (void)grain_of(loader, 0, 0);
    (void)grain_of(loader, 0, 0); /* the same again is fine */
    (void)grain_of(loader, 0, 5); /* so is leaving some out */
    assert_int_equal(cps_loader_grain(loader, 0, 4, &batch), CPS_ERR_INTERNAL);
    assert_int_equal(cps_loader_grain(loader, 0, 7, &batch), CPS_ERR_INTERNAL);
    assert_int_equal(cps_loader_grain(loader, 1, 0, &batch), CPS_ERR_INTERNAL);
    cps_loader_destroy(loader);
    cps_stream_destroy(stream);
}

/* Ranks of a validation loss leave out the grains of the others: these must cost nothing. */
static cps_status count_rows(void *context, const cps_sample *sample, const char *text,
                             void *row_out) {
    (void)sample;
    (void)text;
    (void)row_out;
    ++*(int64_t *)context; /* one thread */
    return CPS_OK;
}

static void grains_left_out_are_not_read(void **state) {
    (void)state;
    cps_stream *stream = stream_of("val", "good.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = 4};
    cps_input_spec input = annotation_input(0, -1);
    int64_t rows = 0;
    input.annotate = count_rows;
    input.annotate_context = &rows;
    cps_loader_options options = options_of(&streams, 1, &input, 1);
    options.order = CPS_ORDER_STORED;
    options.threads = 0;
    cps_loader *loader = create(&options, 0);
    for (int64_t grain = 1; grain < 14; grain += 3) {
        (void)grain_of(loader, 0, grain);
    }
    assert_int_equal(rows, 4 * 4 + 1); /* grains 1, 4, 7, 10 and the last, which holds one record */
    cps_loader_destroy(loader);
    cps_stream_destroy(stream);
}

static void stored_order_takes_the_first_caption(void **state) {
    (void)state;
    cps_stream *stream = stream_of("val", "good.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = 53};
    const cps_input_spec inputs[2] = {text_input(0, 0, false), annotation_input(0, 0)};
    cps_loader_options options = options_of(&streams, 1, inputs, 2);
    options.order = CPS_ORDER_STORED;
    cps_loader *loader = create(&options, 0);
    const cps_batch *batch = grain_of(loader, 0, 0);
    for (int64_t row = 0; row < 53; row++) {
        uint64_t note[2];
        char text[64];
        memcpy(note, (const char *)batch->inputs[1].annotation + 16 * row, sizeof note);
        snprintf(text, sizeof text, "picture %lld way 0", (long long)row);
        assert_true(note[1] == cps_hash64_text(text));
    }
    cps_loader_destroy(loader);
    cps_stream_destroy(stream);
}

/* ---- numbers ------------------------------------------------------------------------------ */

static void planes_are_normalised(void **state) {
    (void)state;
    cps_stream *stream = stream_of("paired", "good.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = ROWS};
    const cps_input_spec input = image_input(0, 0);
    const cps_loader_options options = options_of(&streams, 1, &input, 1);
    assert_int_equal(cps_pool_start(2), CPS_OK);
    cps_loader *loader = create(&options, 0);
    const cps_batch *batch = grain_of(loader, 0, 2);
    static cps_real planes[ROWS * 3 * SIZE * SIZE];
    cps_batch_planes(loader, batch, 0, planes);
    for (int64_t row = 0; row < ROWS; row++) {
        for (int c = 0; c < 3; c++) {
            for (int p = 0; p < SIZE * SIZE; p++) {
                const double pixel = batch->inputs[0].pixels[(row * SIZE * SIZE + p) * 3 + c];
                const double wanted = (pixel / 255.0 - input.recipe.mean[c]) / input.recipe.std[c];
                const double got = (double)planes[((row * 3 + c) * SIZE * SIZE) + p];
                assert_true(got > wanted - 1e-5 && got < wanted + 1e-5);
            }
        }
    }
    cps_loader_destroy(loader);
    cps_pool_stop();
    cps_stream_destroy(stream);
}

static void memory_is_known_before(void **state) {
    (void)state;
    busy setup = busy_start();
    cps_loader_options options = options_of(setup.streams, 2, setup.inputs, 6);
    size_t kept = 0, single = 0;
    assert_int_equal(cps_loader_bytes(&options, &kept), CPS_OK);
    options.single_use = true;
    assert_int_equal(cps_loader_bytes(&options, &single), CPS_OK);
    const size_t images = SIZE * SIZE * 3 * (ROWS + 3);
    assert_true(kept > 5 * images && kept < 5 * images + 70000);
    assert_true(kept - single >= 2 * images && single > 3 * images);
    busy_end(&setup);
}

static void refused(cps_loader_options options, const char *part) {
    cps_loader *loader = NULL;
    assert_int_equal(cps_loader_create(&options, &loader), CPS_ERR_USAGE);
    assert_null(loader);
    if (strstr(cps_fail_message(), part) == NULL) {
        fail_msg("'%s' lacks '%s'", cps_fail_message(), part);
    }
}

static void wrong_options(void **state) {
    (void)state;
    busy setup = busy_start();
    const cps_loader_options good = options_of(setup.streams, 2, setup.inputs, 6);
    cps_loader_options options = good;
    options.grains = 8;
    refused(options, "fewer than one global batch of 32");
    options = good;
    options.grains = 0;
    refused(options, "0 grains");
    options = good;
    options.rank = 1;
    refused(options, "rank 1 of 1");
    options = good;
    options.threads = -1;
    refused(options, "-1 threads");
    options = good;
    options.tokenizer = NULL;
    refused(options, "needs a tokenizer");
    options = good;
    options.order = CPS_ORDER_STORED;
    refused(options, "wanted is 1 in stored order");
    setup.inputs[2].text_input = 4; /* a text of the other stream */
    refused(good, "text of its own stream");
    setup.inputs[2].text_input = 1;
    setup.inputs[3].stream = 2;
    refused(good, "stream 2 of 2");
    setup.inputs[3].stream = 1;
    setup.inputs[0].recipe.size = 0;
    refused(good, "0 pixels");
    setup.inputs[0].recipe.size = SIZE;
    setup.streams[1].rows = 0;
    refused(good, "'unlabelled' has 0 rows");
    busy_end(&setup);
}

/* ---- files as the wild has them ----------------------------------------------------------- */

static int append_odd(cps_shard_writer *writer, int64_t *count) {
    char **paths = NULL;
    int64_t found = 0;
    if (cps_glob("../shared/data/odd-jpegs/*.jpg", &paths, &found) != CPS_OK) {
        return -1;
    }
    for (int64_t i = 0; i < found; i++) {
        char *bytes = NULL;
        size_t length = 0;
        shards_must(cps_file_read(paths[i], 1 << 26, &bytes, &length));
        const cps_record record = {.sample_id = 5000 + (uint64_t)i,
                                   .image = (const uint8_t *)bytes,
                                   .image_bytes = length,
                                   .bad_reason = length == 0 ? "empty file" : NULL,
                                   .label = -1};
        shards_must(cps_shard_writer_append(writer, &record)); /* as if nobody had looked */
        free(bytes);
        size_t good_length = 0;
        uint8_t *good = shard_picture(i, &good_length);
        const cps_record plain = {.sample_id = 6000 + (uint64_t)i,
                                  .image = good,
                                  .image_bytes = good_length,
                                  .label = -1};
        shards_must(cps_shard_writer_append(writer, &plain));
        free(good);
    }
    cps_strings_destroy(paths, found);
    *count = found;
    return 0;
}

static void odd_files_keep_count_and_order(void **state) {
    (void)state;
    cps_shard_writer *writer = NULL;
    int64_t odd = 0;
    shards_must(cps_shard_writer_create(shard_path("odd.h5"), NULL, 0, NULL, 0, "test", &writer));
    if (append_odd(writer, &odd) != 0) {
        cps_shard_writer_abandon(writer);
        print_message("skipped: ../shared/data/odd-jpegs is not here\n");
        skip();
    }
    shards_must(cps_shard_writer_finish(writer));
    cps_stream *stream = stream_of("paired", "odd.h5");
    const cps_loader_stream streams = {.stream = stream, .rows = 2};
    const cps_input_spec inputs[2] = {image_input(0, 0), annotation_input(0, -1)};
    cps_loader_options options = options_of(&streams, 1, inputs, 2);
    options.grains = odd;
    options.threads = 2;
    cps_loader *loader = create(&options, 0);
    int64_t bad = 0, rows = 0;
    for (int64_t grain = 0; grain < odd; grain++) {
        const cps_batch *batch = grain_of(loader, 0, grain);
        for (int64_t b = 0; b < batch->bad_count; b++) {
            print_message("odd file %lld: %s\n", (long long)(batch->bad[b].sample_id - 5000),
                          batch->bad[b].reason);
            assert_true(batch->bad[b].sample_id < 6000);
        }
        bad += batch->bad_count;
        rows += batch->streams[0].rows;
    }
    assert_int_equal(rows, 2 * odd);
    assert_in_range(bad, 4, 7); /* truncated, lying size, empty, no image; perhaps the corrupt scan,
                                   arithmetic coding, CMYK */
    cps_loader_destroy(loader);
    cps_stream_destroy(stream);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_ranks_and_resumes_change_nothing),
        cmocka_unit_test(seeking_back_and_forth),
        cmocka_unit_test(seeds_and_stages_change_the_draws),
        cmocka_unit_test(bad_images_are_replaced_and_counted),
        cmocka_unit_test(captions_stay_when_images_are_replaced),
        cmocka_unit_test(a_shard_without_any_image_is_an_error),
        cmocka_unit_test(damage_after_packing),
        cmocka_unit_test(texts_are_packed_or_padded),
        cmocka_unit_test(failing_callbacks_speak_on_the_callers_thread),
        cmocka_unit_test(captions_are_drawn_evenly),
        cmocka_unit_test(kept_tails_are_short),
        cmocka_unit_test(other_streams_run_on),
        cmocka_unit_test(stored_order_masks_and_pads),
        cmocka_unit_test(grains_are_forgotten_in_stored_order),
        cmocka_unit_test(grains_left_out_are_not_read),
        cmocka_unit_test(stored_order_takes_the_first_caption),
        cmocka_unit_test(planes_are_normalised),
        cmocka_unit_test(memory_is_known_before),
        cmocka_unit_test(wrong_options),
        cmocka_unit_test(odd_files_keep_count_and_order),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
