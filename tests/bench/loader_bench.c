/* The loader's speed in one run, each figure beside what bounds it: decoding and augmenting beside
 * libjpeg-turbo's decoding alone, on one core; reading records beside plain pread; tokenizing.
 * Pictures: those under ../shared/data/crops and preprocess where they are, else procedural ones of
 * 500 x 375. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jpeglib.h>

#include "base/file.h"
#include "base/pool.h"
#include "base/rng.h"
#include "data/batch.h"
#include "../unit/make_shards.h"

enum { MAX_PICTURES = 256, SECONDS = 2 };

typedef struct pictures {
    uint8_t *bytes[MAX_PICTURES];
    size_t length[MAX_PICTURES];
    int64_t count, total_bytes;
    double megapixels; /* mean */
} pictures;

static void must(cps_status status) {
    if (status != CPS_OK) {
        fprintf(stderr, "loader_bench: %s\n", cps_fail_message());
        exit(1);
    }
}

static const char *cpu_name(void) {
    static char name[160] = "unknown";
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            snprintf(name, sizeof name, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return name;
}

/* ---- pictures ----------------------------------------------------------------------------- */

static void add_files(pictures *set, const char *pattern, int64_t most) {
    char **paths = NULL;
    int64_t count = 0;
    if (cps_glob(pattern, &paths, &count) != CPS_OK) {
        return;
    }
    for (int64_t i = 0; i < count && i < most && set->count < MAX_PICTURES; i++) {
        char *bytes = NULL;
        must(cps_file_read(paths[i * count / (count < most ? count : most)], 1 << 26, &bytes,
                           &set->length[set->count]));
        set->bytes[set->count++] = (uint8_t *)bytes;
    }
    cps_strings_destroy(paths, count);
}

static void add_procedural(pictures *set) {
    enum { WIDTH = 500, HEIGHT = 375 };
    uint8_t *pixels = malloc(WIDTH * HEIGHT * 3);
    for (int64_t i = 0; i < 64; i++) {
        const cps_draw_key key = {.seed = 1, .position = (uint64_t)i};
        for (int64_t p = 0; p < WIDTH * HEIGHT * 3; p++) {
            const int64_t x = p / 3 % WIDTH, y = p / 3 / WIDTH;
            pixels[p] = (uint8_t)((x * (i + 3) + y * y / (i + 20)) / 3 +
                                  (int64_t)(cps_draw_u32(&key, (uint64_t)p) % 24));
        }
        const cps_image image = {.width = WIDTH, .height = HEIGHT, .pixels = pixels};
        must(cps_image_encode_jpeg(&image, 90, &set->bytes[set->count], &set->length[set->count]));
        set->count++;
    }
    free(pixels);
}

static void measure_pictures(pictures *set) {
    for (int64_t i = 0; i < set->count; i++) {
        int32_t width = 0, height = 0;
        must(cps_image_size(set->bytes[i], set->length[i], &width, &height));
        set->megapixels += (double)width * height / 1e6 / (double)set->count;
        set->total_bytes += (int64_t)set->length[i];
    }
}

/* ---- libjpeg-turbo alone ------------------------------------------------------------------ */

static void decode_alone(const uint8_t *bytes, size_t length, uint8_t *row) {
    struct jpeg_decompress_struct codec;
    struct jpeg_error_mgr errors;
    codec.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&codec);
    jpeg_mem_src(&codec, bytes, (unsigned long)length);
    jpeg_read_header(&codec, TRUE);
    codec.out_color_space = JCS_RGB;
    jpeg_start_decompress(&codec);
    while (codec.output_scanline < codec.output_height) {
        jpeg_read_scanlines(&codec, &row, 1);
    }
    jpeg_finish_decompress(&codec);
    jpeg_destroy_decompress(&codec);
}

static double rate_alone(const pictures *set) {
    uint8_t *row = malloc(65536 * 3);
    const double begin = cps_seconds();
    int64_t done = 0;
    for (; cps_seconds() - begin < SECONDS; done++) {
        decode_alone(set->bytes[done % set->count], set->length[done % set->count], row);
    }
    free(row);
    return (double)done / (cps_seconds() - begin);
}

/* ---- recipes ------------------------------------------------------------------------------ */

static double rate_of(const pictures *set, const cps_recipe *recipe) {
    uint8_t *out = malloc((size_t)recipe->size * (size_t)recipe->size * 3);
    const double begin = cps_seconds();
    int64_t done = 0;
    for (; cps_seconds() - begin < SECONDS; done++) {
        cps_picture picture = {0};
        const cps_draw_key key = {.seed = 1, .position = (uint64_t)done};
        must(cps_picture_open(&picture, set->bytes[done % set->count],
                              set->length[done % set->count]));
        must(cps_recipe_apply(recipe, &picture, &key, out));
        cps_picture_close(&picture);
    }
    free(out);
    return (double)done / (cps_seconds() - begin);
}

static cps_recipe dino_recipe(int32_t size) {
    cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, size);
    recipe.scale_min = 0.4;
    recipe.flip = 0.5;
    recipe.jitter = 0.8;
    recipe.brightness = recipe.contrast = 0.4;
    recipe.saturation = 0.2;
    recipe.hue = 0.1;
    recipe.greyscale = 0.2;
    recipe.blur = 0.5;
    recipe.blur_min = 0.1;
    recipe.blur_max = 2.0;
    return recipe;
}

static void show(const char *what, double rate, const char *unit, double beside, const char *of) {
    printf("%-58s %12.0f %s", what, rate, unit);
    if (beside > 0) {
        printf("  (%.2f of %s)", rate / beside, of);
    }
    printf("\n");
    fflush(stdout);
}

static void bench_recipes(const pictures *set) {
    const double alone = rate_alone(set);
    printf("%lld pictures, %.2f megapixels, %lld bytes each\n", (long long)set->count,
           set->megapixels, (long long)(set->total_bytes / set->count));
    show("libjpeg-turbo, decode alone, one core", alone, "images/s", 0, NULL);
    static const int32_t SIZES[] = {224, 64};
    for (int s = 0; s < 2; s++) {
        char what[96];
        cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, SIZES[s]);
        snprintf(what, sizeof what, "decode + random resized crop to %d, one core", SIZES[s]);
        show(what, rate_of(set, &recipe), "images/s", alone, "decode alone");
        recipe.kind = CPS_RECIPE_EVALUATION;
        snprintf(what, sizeof what, "decode + evaluation preprocessing to %d, one core", SIZES[s]);
        show(what, rate_of(set, &recipe), "images/s", alone, "decode alone");
        recipe = dino_recipe(SIZES[s]);
        snprintf(what, sizeof what, "decode + crop, jitter, blur to %d, one core", SIZES[s]);
        show(what, rate_of(set, &recipe), "images/s", alone, "decode alone");
    }
}

/* ---- reading ------------------------------------------------------------------------------ */

static const char *write_shard(const pictures *set, int64_t count) {
    const char *const fields[] = {"caption"};
    const char *caption = "an aerial photograph of a field with two tractors and a row of trees .";
    cps_shard_writer *writer = NULL;
    shards_start();
    must(cps_shard_writer_create(shard_path("bench.h5"), fields, 1, NULL, 0, "bench", &writer));
    for (int64_t i = 0; i < count; i++) {
        const cps_record_text text = {.field = "caption", .count = 1, .texts = &caption};
        const cps_record record = {.sample_id = (uint64_t)i,
                                   .image = set->bytes[i % set->count],
                                   .image_bytes = set->length[i % set->count],
                                   .label = -1,
                                   .text_field_count = 1,
                                   .texts = &text};
        must(cps_shard_writer_append(writer, &record));
    }
    must(cps_shard_writer_finish(writer));
    return shard_path("bench.h5");
}

/* pread of the same sizes at random places of the file. */
static double rate_pread(const char *path, const cps_shard *shard, uint8_t *bytes) {
    const int fd = open(path, O_RDONLY);
    const int64_t count = cps_shard_count(shard);
    const int64_t size = lseek(fd, 0, SEEK_END);
    const double begin = cps_seconds();
    int64_t done = 0, failed = 0;
    for (; done % 64 != 0 || cps_seconds() - begin < SECONDS; done++) {
        const int64_t record = (int64_t)cps_permute(1, 0, (uint64_t)(done / count), (uint64_t)count,
                                                    (uint64_t)(done % count));
        const int64_t length = cps_shard_image_bytes(shard, record);
        failed += pread(fd, bytes, (size_t)length, (size - length) / count * record) != length;
    }
    const double rate = (double)(done - failed) / (cps_seconds() - begin);
    close(fd);
    return rate;
}

static double rate_records(const cps_shard *shard, bool verify, uint8_t *bytes) {
    const int64_t count = cps_shard_count(shard);
    const double begin = cps_seconds();
    int64_t done = 0;
    for (; done % 64 != 0 || cps_seconds() - begin < SECONDS; done++) {
        const int64_t record = (int64_t)cps_permute(1, 0, (uint64_t)(done / count), (uint64_t)count,
                                                    (uint64_t)(done % count));
        must(cps_shard_read_image(shard, record, verify, bytes));
    }
    return (double)done / (cps_seconds() - begin);
}

static void bench_reading(const char *path, const cps_shard *shard) {
    int64_t longest = 0;
    for (int64_t i = 0; i < cps_shard_count(shard); i++) {
        const int64_t length = cps_shard_image_bytes(shard, i);
        longest = length > longest ? length : longest;
    }
    uint8_t *bytes = malloc((size_t)longest + 1);
    const double plain = rate_pread(path, shard, bytes);
    show("plain pread of such records, random order", plain, "records/s", 0, NULL);
    show("shard records, random order", rate_records(shard, false, bytes), "records/s", plain,
         "plain pread");
    show("shard records with checksum, random order", rate_records(shard, true, bytes), "records/s",
         plain, "plain pread");
    free(bytes);
}

/* ---- the loader --------------------------------------------------------------------------- */

static void bench_loader(const cps_stream *stream, int32_t threads, const char *what) {
    const cps_loader_stream streams = {.stream = stream, .rows = 32};
    const cps_input_spec input = {.kind = CPS_INPUT_IMAGE,
                                  .recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, 224)};
    const cps_loader_options options = {.streams = &streams,
                                        .stream_count = 1,
                                        .inputs = &input,
                                        .input_count = 1,
                                        .grains = 2,
                                        .parts = 2,
                                        .world_size = 1,
                                        .threads = threads,
                                        .ahead = 4};
    cps_loader *loader = NULL;
    must(cps_loader_create(&options, &loader));
    must(cps_loader_seek(loader, 0));
    const double begin = cps_seconds();
    int64_t images = 0;
    for (int64_t step = 0; cps_seconds() - begin < SECONDS; step++) {
        for (int64_t grain = 0; grain < 2; grain++) {
            const cps_batch *batch = NULL;
            must(cps_loader_grain(loader, step, grain, &batch));
            images += batch->inputs[0].rows;
        }
        cps_loader_release_step(loader, step);
    }
    show(what, (double)images / (cps_seconds() - begin), "images/s", 0, NULL);
    cps_loader_destroy(loader);
}

static void bench_tokenizer(void) {
    cps_tokenizer *tokenizer = NULL;
    const char *path = "../shared/data/clip-bpe/bpe_simple_vocab_16e6.txt.gz";
    if (!cps_file_exists(path)) {
        printf("tokenizer: skipped, %s is not here\n", path);
        return;
    }
    must(cps_tokenizer_load(path, &tokenizer));
    const double begin = cps_seconds();
    int64_t done = 0;
    for (; done % 64 != 0 || cps_seconds() - begin < SECONDS; done++) {
        char text[128];
        int32_t ids[77];
        int64_t length = 0;
        snprintf(text, sizeof text,
                 "several planes are parked near %lld terminals in an airport near a parking lot .",
                 (long long)(done % 90));
        must(cps_tokenizer_encode(tokenizer, text, 77, ids, &length, NULL));
    }
    show("captions tokenized, one core", (double)done / (cps_seconds() - begin), "texts/s", 0,
         NULL);
    cps_tokenizer_destroy(tokenizer);
}

int main(void) {
    static pictures set;
    printf("loader, CPU %s\n", cpu_name());
    add_files(&set, "../shared/data/crops/images/*.jpg", 128);
    if (set.count == 0) {
        add_procedural(&set);
    }
    measure_pictures(&set);
    bench_recipes(&set);
    static pictures large;
    add_files(&large, "../shared/data/preprocess/*.jpg", 64);
    if (large.count > 0) {
        measure_pictures(&large);
        bench_recipes(&large);
    }
    const char *path = write_shard(&set, 4096);
    cps_shard_pool *pool = NULL;
    const cps_shard *shard = NULL;
    cps_stream *stream = NULL;
    must(cps_shard_pool_create(&pool));
    must(cps_shard_pool_open(pool, path, &shard));
    bench_reading(path, shard);
    const cps_set_spec one = {.patterns = &path, .pattern_count = 1};
    const cps_stream_spec spec = {.name = "bench", .sets = &one, .set_count = 1};
    must(cps_stream_create(&spec, 1, pool, &stream));
    bench_loader(stream, 0, "loader, in the caller's thread");
    bench_loader(stream, 1, "loader, one thread and the waiting caller");
    bench_loader(stream, 2, "loader, two threads and the waiting caller");
    bench_tokenizer();
    cps_stream_destroy(stream);
    cps_shard_pool_destroy(pool);
    shards_end();
    return 0;
}
