/* What the tests of evaluations on ranks share: shards whose records follow from their number, an
 * encoder that is a table (an image's colour and a text's hash tell the row), one evaluation from
 * shards to metrics and predictions. A test is one object, so this is a header; its main() calls
 * run_tests. Arguments: a file for metrics and digests of predictions, which eval_same_bits.sh
 * compares, and the number of threads. */
#ifndef CPS_TESTS_EVAL_WORLD_H
#define CPS_TESTS_EVAL_WORLD_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/pool.h"
#include "base/rng.h"
#include "comm/agree.h"
#include "eval/evaluate.h"
#include "h5/h5.h"
#include "image/image.h"
#include "tensor/gemm.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d: %s:%d: %s\n", cps_comm_rank(comm), __FILE__, __LINE__,       \
                    #condition);                                                                   \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)
/* What must work before anything can be checked. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        if ((call) != CPS_OK) {                                                                    \
            fprintf(stderr, "rank %d: %s:%d: %s\n", cps_comm_rank(comm), __FILE__, __LINE__,       \
                    cps_fail_message());                                                           \
            exit(70);                                                                              \
        }                                                                                          \
    } while (0)

enum { SIZE = 4, GRAIN = 8, CLASSES = 7, WIDTHS = 2, MOST_CAPTIONS = 3, TEXT_BASE = 100000 };

#define UNUSED __attribute__((unused))

static int failures;
static char folder[64]; /* rank 0 makes it, all know it */
static FILE *record;    /* rank 0: metrics and digests of predictions go here */

/* ---- the table encoder ---- */

typedef struct lookup {
    bool exact;    /* rows of quarters */
    int64_t calls; /* grains encoded on this rank */
    int64_t nan_row;
    int64_t zero_row; /* its features are zeros; 0: none */
    double scale;     /* of the encoder */
} lookup;

static const int64_t widths[WIDTHS] = {5, 3};
static const double score_weights[WIDTHS] = {1.0, 0.5};

/* Component c of row `number`: exact rows have unit length, since four of their entries are 1/2. */
static void table_row(const lookup *table, int64_t number, int32_t c, cps_real *out) {
    const cps_draw_key key = {.seed = 9, .position = (uint64_t)number, .view = (uint32_t)c};
    for (int64_t i = 0; i < widths[c]; i++) {
        if (!table->exact) {
            out[i] = (cps_real)cps_draw_normal(&key, (uint64_t)i);
        } else {
            const uint64_t zero = cps_draw_below(&key, 100, (uint64_t)widths[c]);
            const double sign = cps_draw_below(&key, (uint64_t)i, 2) == 0 ? 1.0 : -1.0;
            out[i] = (cps_real)(widths[c] == 5 ? ((uint64_t)i == zero ? 0.0 : sign * 0.5)
                                               : ((uint64_t)i == zero ? sign : 0.0));
        }
    }
    if (number == table->nan_row) {
        out[0] = (cps_real)NAN;
    }
    if (number == table->zero_row && number > 0) {
        memset(out, 0, (size_t)widths[c] * sizeof *out);
    }
}

static int64_t image_number(const cps_real *planes) {
    const int64_t r = (int64_t)lround((double)planes[0] * 255.0);
    const int64_t g = (int64_t)lround((double)planes[SIZE * SIZE] * 255.0);
    return r + 256 * g;
}

static cps_status encode_images(void *context, const cps_real *planes,
                                cps_real *const *components_out) {
    lookup *table = context;
    table->calls++;
    for (int64_t i = 0; i < GRAIN; i++) {
        for (int32_t c = 0; c < WIDTHS; c++) {
            table_row(table, image_number(planes + i * 3 * SIZE * SIZE), c,
                      components_out[c] + i * widths[c]);
        }
    }
    return CPS_OK;
}

/* The number in a text: "about 17 leaves" -> TEXT_BASE + 17; "class3" and templates likewise. */
static int64_t text_number(const char *text) {
    return TEXT_BASE + (int64_t)(cps_hash64_text(text) % 50021);
}

static cps_status encode_texts(void *context, const char *const *texts,
                               cps_real *const *components_out) {
    lookup *table = context;
    table->calls++;
    for (int64_t i = 0; i < GRAIN; i++) {
        for (int32_t c = 0; c < WIDTHS; c++) {
            table_row(table, text_number(texts[i]), c, components_out[c] + i * widths[c]);
        }
    }
    return CPS_OK;
}

static UNUSED cps_encoder make_encoder(lookup *table) {
    cps_encoder encoder = {.context = table,
                           .component_count = WIDTHS,
                           .image_recipe = cps_recipe_clip(CPS_RECIPE_EVALUATION, SIZE),
                           .grain = GRAIN,
                           .scale = table->scale,
                           .images = encode_images,
                           .texts = encode_texts};
    memcpy(encoder.widths, widths, sizeof widths);
    memcpy(encoder.score_weights, score_weights, sizeof score_weights);
    for (int i = 0; i < 3; i++) {
        encoder.image_recipe.mean[i] = 0.0;
        encoder.image_recipe.std[i] = 1.0;
    }
    return encoder;
}

/* ---- shards ---- */

static int32_t label_of(int64_t number) {
    return number % 11 == 10 ? -1 : (int32_t)(number * 5 % CLASSES);
}
static int64_t caption_count(int64_t number) {
    return number % 13 == 12 ? 0 : 1 + number % MOST_CAPTIONS;
}
static bool is_bad(int64_t number) {
    return number % 17 == 3;
}
static UNUSED char *caption_of(int64_t number, int64_t which) {
    return cps_format("caption %lld of %lld", (long long)which, (long long)number);
}

/* Text of a record's rank, of its common name behind the ranks; NULL or "": none. The function
 * NULL: shards have captions alone. */
static const char *(*rank_of)(int64_t number, int32_t rank);
enum { RANK_FIELDS = 8 };
static const char *const field_names[1 + RANK_FIELDS] = {
    "caption", "kingdom", "phylum", "class", "order", "family", "genus", "species", "common_name"};

static void append_record(cps_comm *comm, cps_shard_writer *writer, int64_t number) {
    uint8_t pixels[SIZE * SIZE * 3], *png = NULL;
    for (int i = 0; i < SIZE * SIZE; i++) {
        pixels[3 * i] = (uint8_t)(number % 256);
        pixels[3 * i + 1] = (uint8_t)(number / 256);
        pixels[3 * i + 2] = 0;
    }
    const cps_image image = {.width = SIZE, .height = SIZE, .pixels = pixels};
    size_t png_bytes = 0;
    MUST(cps_image_encode_png(&image, &png, &png_bytes));
    if (is_bad(number)) {
        png_bytes /= 2; /* damaged, and the packer did not see it */
    }
    char *captions[MOST_CAPTIONS];
    const int64_t count = caption_count(number);
    for (int64_t i = 0; i < count; i++) {
        captions[i] = caption_of(number, i);
    }
    cps_record_text texts[1 + RANK_FIELDS] = {
        {.field = "caption", .count = count, .texts = (const char *const *)captions}};
    const char *names[RANK_FIELDS];
    for (int32_t i = 0; i < RANK_FIELDS && rank_of != NULL; i++) {
        names[i] = rank_of(number, i);
        texts[1 + i] = (cps_record_text){
            .field = field_names[1 + i], .count = names[i] == NULL ? 0 : 1, .texts = &names[i]};
    }
    const cps_record entry = {.sample_id = (uint64_t)number + 1000,
                              .image = png,
                              .image_bytes = png_bytes,
                              .label = label_of(number),
                              .text_field_count = rank_of == NULL ? 1 : 1 + RANK_FIELDS,
                              .texts = texts};
    MUST(cps_shard_writer_append(writer, &entry));
    for (int64_t i = 0; i < count; i++) {
        free(captions[i]);
    }
    free(png);
}

/* Rank 0 writes records first .. first + count - 1 into "<folder>/<name>.h5". */
static UNUSED void write_shard(cps_comm *comm, const char *name, int64_t first, int64_t count,
                               const char *const *classes, int64_t class_count) {
    if (cps_comm_rank(comm) == 0) {
        char *path = cps_format("%s/%s.h5", folder, name);
        cps_shard_writer *writer = NULL;
        MUST(cps_shard_writer_create(path, field_names, rank_of == NULL ? 1 : 1 + RANK_FIELDS,
                                     classes, class_count, "test", &writer));
        for (int64_t i = 0; i < count; i++) {
            append_record(comm, writer, first + i);
        }
        MUST(cps_shard_writer_finish(writer));
        free(path);
    }
    cps_comm_barrier(comm, "shard written");
}

static const char *const class_names[CLASSES] = {"class0", "class1", "class2", "class3",
                                                 "class4", "class5", "class6"};

/* ---- running an evaluation ---- */

typedef struct outcome {
    cps_status status;
    cps_json *metrics;
    char *predictions; /* path */
    int64_t left_out;
} outcome;

static void count_left_out(void *context, const cps_place *place, const char *reason) {
    int64_t *count = context;
    *count += is_bad((int64_t)place->sample_id - 1000) && reason[0] != '\0';
}

static UNUSED cps_shards_options shards(const char *const *pattern) {
    return (cps_shards_options){
        .pattern_count = 1, .patterns = pattern, .caption = "caption", .fraction = 1.0};
}

static UNUSED outcome evaluate(cps_comm *comm, const cps_evaluation_options *options,
                               lookup *table) {
    outcome out = {0};
    cps_encoder encoder = make_encoder(table);
    cps_shard_pool *pool = NULL;
    cps_evaluation_streams streams = {0};
    MUST(cps_shard_pool_create(&pool));
    out.predictions = cps_format("%s/predictions/%s.h5", folder, options->name);
    out.status = cps_evaluation_streams_open(options, pool, NULL, &streams);
    if (out.status != CPS_OK) { /* on all ranks alike */
        cps_shard_pool_destroy(pool);
        return out;
    }
    const cps_evaluation_request request = {.options = options,
                                            .streams = &streams,
                                            .encoder = &encoder,
                                            .comm = comm,
                                            .loader_threads = 1,
                                            .step = 3,
                                            .predictions_path = out.predictions,
                                            .left_out = count_left_out,
                                            .left_out_context = &out.left_out};
    out.status = cps_evaluate(&request, &out.metrics);
    cps_evaluation_streams_close(&streams);
    cps_shard_pool_destroy(pool);
    if (out.status == CPS_OK && record != NULL) {
        char *text = cps_json_print(out.metrics, false, false), *bytes = NULL;
        size_t length = 0;
        MUST(cps_file_read(out.predictions, 1 << 26, &bytes, &length));
        fprintf(record, "%s %s %016llx\n", options->name, text,
                (unsigned long long)cps_hash64(bytes, length));
        free(text);
        free(bytes);
    }
    return out;
}

static UNUSED void outcome_free(outcome *out) {
    cps_json_destroy(out->metrics);
    free(out->predictions);
}

static UNUSED void expect_failure(cps_comm *comm, const cps_evaluation_options *options,
                                  lookup *table, cps_status code, const char *says) {
    outcome out = evaluate(comm, options, table);
    const cps_status want = cps_comm_rank(comm) == 0 ? code : CPS_ERR_PEER;
    CHECK(out.status == want || out.status == code);
    if (out.status != CPS_OK && strstr(cps_fail_message(), says) == NULL) {
        fprintf(stderr, "message '%s' does not say '%s'\n", cps_fail_message(), says);
        failures++;
    }
    CHECK(!cps_file_exists(out.predictions));
    outcome_free(&out);
}

/* ---- main ---- */

static void make_folder(cps_comm *comm) {
    strcpy(folder, "/tmp/copse-eval-XXXXXX");
    if (cps_comm_rank(comm) == 0 && mkdtemp(folder) == NULL) {
        perror(folder);
        exit(74);
    }
    cps_comm_broadcast(comm, "folder", folder, sizeof folder, 0);
}

static void remove_folder(cps_comm *comm) {
    cps_comm_barrier(comm, "done");
    if (cps_comm_rank(comm) == 0) {
        char *command = cps_format("rm -rf '%s'", folder);
        failures += system(command) != 0;
        free(command);
    }
}

static void run_tests(cps_comm *comm);

int main(int argc, char **argv) {
    cps_comm *comm;
    const cps_status status = cps_comm_start(&argc, &argv, &comm);
    if (status != CPS_OK) {
        fprintf(stderr, "start: %s\n", cps_fail_message());
        return cps_exit_code(status);
    }
    cps_gemm_start();
    MUST(cps_pool_start(argc > 2 ? atoi(argv[2]) : 2));
    if (argc > 1 && cps_comm_rank(comm) == 0) {
        record = fopen(argv[1], "w");
        failures += record == NULL;
    }
    make_folder(comm);
    run_tests(comm);
    remove_folder(comm);
    if (record != NULL) {
        fclose(record);
    }
    cps_pool_stop();
    cps_comm_end(comm);
    return failures == 0 ? 0 : 1;
}

#endif
