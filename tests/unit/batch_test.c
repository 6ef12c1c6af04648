/* The loader: the same bytes whatever threads, ranks and resumes; texts packed; callbacks and their
 * failures; kept tails; streams that run on; memory and wrong options. Bad images and stored order:
 * batch_images_test. */
#include "make_loader.h"

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

/* Which of the captions each of 53 records has in `epochs` epochs, a bit each. */
static void look_at_captions(const cps_stream *stream, uint64_t seed, uint32_t stage,
                             int64_t epochs, int ways_out[53]) {
    const cps_loader_stream streams = {.stream = stream, .rows = 53};
    cps_input_spec inputs[2] = {text_input(0, 0, false), annotation_input(0, 0)};
    cps_loader_options options = options_of(&streams, 1, inputs, 2);
    options.grains = 1;
    options.seed = seed;
    options.stage = stage;
    cps_loader *loader = create(&options, 0);
    memset(ways_out, 0, 53 * sizeof *ways_out);
    for (int64_t epoch = 0; epoch < epochs; epoch++) {
        const cps_batch *batch = grain_of(loader, epoch, 0);
        for (int64_t row = 0; row < 53; row++) {
            uint64_t note[2];
            memcpy(note, (const char *)batch->inputs[1].annotation + 16 * row, sizeof note);
            for (int way = 0; way < 3; way++) {
                char text[64];
                snprintf(text, sizeof text, "picture %lld way %d", (long long)note[0], way);
                ways_out[note[0]] |= note[1] == cps_hash64_text(text) ? 1 << way : 0;
            }
        }
    }
    cps_loader_destroy(loader);
}

/* A record keeps its caption over epochs and stages, other records have others, another seed draws
 * anew; streams of the two kinds differ in digest, a narrowed one does as the whole. */
static void fixed_captions_stay(void **state) {
    (void)state;
    const char *pattern = shard_path("good.h5");
    const cps_set_spec set = {.patterns = &pattern, .pattern_count = 1, .fixed_caption = true};
    const cps_stream_spec spec = {.name = "paired", .sets = &set, .set_count = 1};
    cps_stream *fixed = NULL, *narrow = NULL, *drawn = stream_of("paired", "good.h5");
    assert_int_equal(cps_stream_create(&spec, 11, pool, &fixed), CPS_OK);
    assert_int_equal(cps_stream_narrow(fixed, CPS_RECORD_CAPTION, &narrow), CPS_OK);
    assert_true(cps_stream_digest(fixed) != cps_stream_digest(drawn));
    int first[53], other[53], counts[3] = {0}, equal = 0;
    look_at_captions(fixed, 9, 2, 6, first);
    for (int i = 0; i < 53; i++) {
        assert_true(first[i] == 1 || first[i] == 2 || first[i] == 4); /* one */
        counts[first[i] / 2]++;
    }
    for (int way = 0; way < 3; way++) {
        assert_in_range(counts[way], 7, 29); /* 17.7 expected */
    }
    look_at_captions(narrow, 9, 0, 1, other);
    assert_memory_equal(first, other, sizeof first);
    look_at_captions(fixed, 10, 2, 1, other);
    for (int i = 0; i < 53; i++) {
        equal += first[i] == other[i];
    }
    assert_in_range(equal, 5, 32);
    look_at_captions(drawn, 9, 2, 6, other);
    equal = 0;
    for (int i = 0; i < 53; i++) {
        equal += (other[i] & (other[i] - 1)) == 0;
    }
    assert_in_range(equal, 0, 5); /* six accesses that show one of three: 1 in 243 */
    cps_stream_destroy(narrow);
    cps_stream_destroy(fixed);
    cps_stream_destroy(drawn);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_ranks_and_resumes_change_nothing),
        cmocka_unit_test(seeking_back_and_forth),
        cmocka_unit_test(seeds_and_stages_change_the_draws),
        cmocka_unit_test(texts_are_packed_or_padded),
        cmocka_unit_test(failing_callbacks_speak_on_the_callers_thread),
        cmocka_unit_test(captions_are_drawn_evenly),
        cmocka_unit_test(fixed_captions_stay),
        cmocka_unit_test(kept_tails_are_short),
        cmocka_unit_test(other_streams_run_on),
        cmocka_unit_test(planes_are_normalised),
        cmocka_unit_test(memory_is_known_before),
        cmocka_unit_test(wrong_options),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
