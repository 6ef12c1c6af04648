/* Small shards for tests: procedural pictures, captions and labels that follow from the record's
 * number. A test is one object, so this is a header. Files lie in a folder of their own that
 * `shards_end` removes. */
#ifndef CPS_TESTS_MAKE_SHARDS_H
#define CPS_TESTS_MAKE_SHARDS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "image/image.h"
#include "shards/shard.h"

typedef struct shard_options {
    int64_t count;
    uint64_t first_id;     /* sample ids count on from here */
    int64_t bad_every;     /* records 0, n, 2n, ... are marked by the packer; 0: none */
    int64_t damaged_every; /* records 1, n+1, ... are cut JPEGs that nobody marked; 0: none */
    int64_t mute_every;    /* records 2, n+2, ... have no caption; 0: none */
    int64_t captions;      /* of a record; 0: one */
    bool no_images;        /* every record marked bad with no bytes: quick to make */
    const char *field;     /* name of the caption field; NULL: "caption" */
} shard_options;

static char shards_folder[64];

static __attribute__((unused)) const char *shards_start(void) {
    snprintf(shards_folder, sizeof shards_folder, "/tmp/copse-shards-XXXXXX");
    if (mkdtemp(shards_folder) == NULL) {
        abort();
    }
    return shards_folder;
}

static __attribute__((unused)) void shards_end(void) {
    char pattern[96], **paths = NULL;
    int64_t count = 0;
    snprintf(pattern, sizeof pattern, "%s/*", shards_folder);
    if (cps_glob(pattern, &paths, &count) == CPS_OK) {
        for (int64_t i = 0; i < count; i++) {
            unlink(paths[i]);
        }
        cps_strings_destroy(paths, count);
    }
    rmdir(shards_folder);
}

/* The path of shard `name` in the folder; static, until the next call. */
static __attribute__((unused)) const char *shard_path(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", shards_folder, name);
    return path;
}

static __attribute__((unused)) void shards_must(cps_status status) {
    if (status != CPS_OK) {
        fprintf(stderr, "making a shard: %s\n", cps_fail_message());
        abort();
    }
}

/* Record `i`: 40 x 30 pixels, its colour says its number. */
static __attribute__((unused)) uint8_t *shard_picture(int64_t i, size_t *length_out) {
    enum { WIDTH = 40, HEIGHT = 30 };
    uint8_t pixels[WIDTH * HEIGHT * 3];
    for (int p = 0; p < WIDTH * HEIGHT; p++) {
        pixels[3 * p] = (uint8_t)(i * 37 + p % WIDTH);
        pixels[3 * p + 1] = (uint8_t)(i * 11 + p / WIDTH * 3);
        pixels[3 * p + 2] = (uint8_t)(i * 5);
    }
    const cps_image image = {.width = WIDTH, .height = HEIGHT, .pixels = pixels};
    uint8_t *bytes = NULL;
    shards_must(cps_image_encode_jpeg(&image, 90, &bytes, length_out));
    return bytes;
}

static __attribute__((unused)) void append_record(cps_shard_writer *writer,
                                                  const shard_options *options, int64_t i) {
    size_t length = 0;
    uint8_t *bytes = options->no_images ? NULL : shard_picture(i, &length);
    const bool marked =
        options->no_images || (options->bad_every > 0 && i % options->bad_every == 0);
    const bool damaged = options->damaged_every > 0 && i % options->damaged_every == 1;
    const bool mute = options->mute_every > 0 && i % options->mute_every == 2;
    const int64_t captions = options->captions > 0 ? options->captions : 1;
    char texts[8][64];
    const char *pointers[8];
    for (int64_t t = 0; t < captions; t++) {
        snprintf(texts[t], sizeof texts[t], "picture %lld way %lld", (long long)i, (long long)t);
        pointers[t] = texts[t];
    }
    const cps_record_text caption = {.field = options->field != NULL ? options->field : "caption",
                                     .count = mute ? 0 : captions,
                                     .texts = pointers};
    const cps_record record = {.sample_id = options->first_id + (uint64_t)i,
                               .image = bytes,
                               .image_bytes = marked    ? 0
                                              : damaged ? length / 2
                                                        : length,
                               .bad_reason = marked ? "marked by the test" : NULL,
                               .label = (int32_t)(i % 3),
                               .text_field_count = 1,
                               .texts = &caption};
    shards_must(cps_shard_writer_append(writer, &record));
    free(bytes);
}

/* Writes shard `name`. */
static __attribute__((unused)) void make_shard(const char *name, shard_options options) {
    static const char *const CLASSES[] = {"oak", "ash", "elm"};
    const char *const fields[] = {options.field != NULL ? options.field : "caption"};
    cps_shard_writer *writer = NULL;
    shards_must(cps_shard_writer_create(shard_path(name), fields, 1, CLASSES, 3, "test", &writer));
    for (int64_t i = 0; i < options.count; i++) {
        append_record(writer, &options, i);
    }
    shards_must(cps_shard_writer_finish(writer));
}

#endif
