/* Bad images: replaced in place and listed, or masked in stored order; damage behind the packer's
 * back; files as the wild has them. Stored order itself. */
#include "make_loader.h"

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

/* ---- stored order ------------------------------------------------------------------------- */

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
        cmocka_unit_test(bad_images_are_replaced_and_counted),
        cmocka_unit_test(captions_stay_when_images_are_replaced),
        cmocka_unit_test(a_shard_without_any_image_is_an_error),
        cmocka_unit_test(damage_after_packing),
        cmocka_unit_test(stored_order_masks_and_pads),
        cmocka_unit_test(grains_are_forgotten_in_stored_order),
        cmocka_unit_test(grains_left_out_are_not_read),
        cmocka_unit_test(stored_order_takes_the_first_caption),
        cmocka_unit_test(odd_files_keep_count_and_order),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
