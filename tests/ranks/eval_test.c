/* Evaluations from shards to metrics and predictions, on the ranks that are there. The encoder is a
 * table: an image's colour and a text's number tell the row. With rows of quarters every score is
 * exact, so plain loops over all pairs must give equal numbers; with rows that round, what one rank
 * got is compared by eval_same_bits.sh, which names a file for metrics and predictions to go to. */
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
#include "eval/knn.h"
#include "eval/retrieval.h"
#include "eval/zeroshot.h"
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

static int failures;
static char folder[64]; /* rank 0 makes it, all know it */
static FILE *record;    /* rank 0: metrics and digests of predictions go here */

/* ---- the table encoder ---- */

typedef struct lookup {
    bool exact;    /* rows of quarters */
    int64_t calls; /* grains encoded on this rank */
    int64_t nan_row;
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

static cps_encoder make_encoder(lookup *table) {
    cps_encoder encoder = {.context = table,
                           .component_count = WIDTHS,
                           .image_recipe = cps_recipe_clip(CPS_RECIPE_EVALUATION, SIZE),
                           .grain = GRAIN,
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
static char *caption_of(int64_t number, int64_t which) {
    return cps_format("caption %lld of %lld", (long long)which, (long long)number);
}

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
    const cps_record_text text = {
        .field = "caption", .count = count, .texts = (const char *const *)captions};
    const cps_record entry = {.sample_id = (uint64_t)number + 1000,
                              .image = png,
                              .image_bytes = png_bytes,
                              .label = label_of(number),
                              .text_field_count = 1,
                              .texts = &text};
    MUST(cps_shard_writer_append(writer, &entry));
    for (int64_t i = 0; i < count; i++) {
        free(captions[i]);
    }
    free(png);
}

/* Rank 0 writes records first .. first + count - 1 into "<folder>/<name>.h5". */
static void write_shard(cps_comm *comm, const char *name, int64_t first, int64_t count,
                        const char *const *classes, int64_t class_count) {
    static const char *const fields[] = {"caption"};
    if (cps_comm_rank(comm) == 0) {
        char *path = cps_format("%s/%s.h5", folder, name);
        cps_shard_writer *writer = NULL;
        MUST(cps_shard_writer_create(path, fields, 1, classes, class_count, "test", &writer));
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

static cps_shards_options shards(const char *const *pattern) {
    return (cps_shards_options){
        .pattern_count = 1, .patterns = pattern, .caption = "caption", .fraction = 1.0};
}

static outcome evaluate(cps_comm *comm, const cps_evaluation_options *options, lookup *table) {
    outcome out = {0};
    cps_encoder encoder = make_encoder(table);
    cps_shard_pool *pool = NULL;
    cps_evaluation_streams streams = {0};
    MUST(cps_shard_pool_create(&pool));
    MUST(cps_evaluation_streams_open(options, pool, NULL, &streams));
    out.predictions = cps_format("%s/predictions/%s.h5", folder, options->name);
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

static void outcome_free(outcome *out) {
    cps_json_destroy(out->metrics);
    free(out->predictions);
}

/* ---- plain loops ---- */

static double table_score(const lookup *table, int64_t a, int64_t b, const double *weights) {
    double score = 0.0;
    for (int32_t c = 0; c < WIDTHS; c++) {
        cps_real left[8], right[8];
        table_row(table, a, c, left);
        table_row(table, b, c, right);
        for (int64_t i = 0; i < widths[c]; i++) {
            score += weights[c] * (double)left[i] * (double)right[i];
        }
    }
    return score;
}

/* The readable images with captions of records 0 .. count-1 and their captions. */
typedef struct gallery {
    int64_t images, texts;
    int64_t image[400], text[1200], owner[1200];
} gallery;

static void fill_gallery(gallery *g, int64_t count) {
    g->images = g->texts = 0;
    for (int64_t number = 0; number < count; number++) {
        if (is_bad(number) || caption_count(number) == 0) {
            continue;
        }
        for (int64_t which = 0; which < caption_count(number); which++, g->texts++) {
            char *caption = caption_of(number, which);
            g->text[g->texts] = text_number(caption);
            g->owner[g->texts] = g->images;
            free(caption);
        }
        g->image[g->images++] = number;
    }
}

/* Rank of the best right answer by sorting nothing: 1 + what stands before it. */
static int64_t plain_rank(const lookup *table, const gallery *g, bool to_text, int64_t query) {
    const int64_t count = to_text ? g->texts : g->images;
    double best_score = 0.0;
    int64_t best = -1, before = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t j = 0; j < count; j++) {
            const double score =
                to_text ? table_score(table, g->image[query], g->text[j], score_weights)
                        : table_score(table, g->text[query], g->image[j], score_weights);
            const bool right = to_text ? g->owner[j] == query : g->owner[query] == j;
            if (pass == 0 && right && (best < 0 || score > best_score)) {
                best = j;
                best_score = score;
            }
            before += pass == 1 && (score > best_score || (score == best_score && j < best));
        }
    }
    return before + 1;
}

static void check_retrieval(cps_comm *comm, const lookup *table, int64_t count,
                            const outcome *out) {
    static gallery g;
    fill_gallery(&g, count);
    int64_t sum = 0, first = 0, text_sum = 0;
    int64_t *stored = calloc((size_t)(g.images + g.texts) + 1, sizeof *stored);
    cps_h5 *file = NULL;
    MUST(cps_h5_open(out->predictions, &file));
    MUST(cps_h5_read(file, "image_to_text_rank", CPS_H5_I64, g.images, stored));
    MUST(cps_h5_read(file, "text_to_image_rank", CPS_H5_I64, g.texts, stored + g.images));
    MUST(cps_h5_close(file));
    for (int64_t i = 0; i < g.images; i++) {
        const int64_t rank = plain_rank(table, &g, true, i);
        CHECK(stored[i] == rank);
        sum += rank;
        first += rank == 1;
    }
    for (int64_t j = 0; j < g.texts; j++) {
        const int64_t rank = plain_rank(table, &g, false, j);
        CHECK(stored[g.images + j] == rank);
        text_sum += rank;
    }
    const cps_json *m = out->metrics;
    CHECK(cps_json_get_integer(m, "samples", -1) == g.images);
    CHECK(cps_json_get_number(m, "image_to_text_r1", -1) == (double)first / (double)g.images);
    CHECK(cps_json_get_number(m, "image_to_text_mean_rank", -1) == (double)sum / (double)g.images);
    CHECK(cps_json_get_number(m, "text_to_image_mean_rank", -1) ==
          (double)text_sum / (double)g.texts);
    free(stored);
}

static void check_zero_shot(cps_comm *comm, const lookup *table, int64_t count,
                            const outcome *out) {
    int64_t labelled = 0, right = 0, bad = 0;
    for (int64_t number = 0; number < count; number++) {
        bad += is_bad(number);
        if (is_bad(number) || label_of(number) < 0) {
            continue;
        }
        double best_score = -10.0;
        int32_t best = -1;
        for (int32_t c = 0; c < CLASSES; c++) {
            char *text = cps_format("a leaf of %s.", class_names[c]);
            const double score = table_score(table, number, text_number(text), score_weights);
            free(text);
            if (score > best_score) {
                best_score = score;
                best = c;
            }
        }
        labelled++;
        right += best == label_of(number);
    }
    CHECK(cps_json_get_integer(out->metrics, "samples", -1) == labelled);
    CHECK(cps_json_get_integer(out->metrics, "bad_images", -1) == bad);
    CHECK(cps_json_get_number(out->metrics, "top1", -1) == (double)right / (double)labelled);
    CHECK(out->left_out == bad);
    cps_h5 *file = NULL;
    cps_h5_info info;
    MUST(cps_h5_open(out->predictions, &file));
    MUST(cps_h5_inspect(file, "class_index", &info));
    CHECK(info.shape[0] == count - bad && info.shape[1] == 3); /* top, though top 5 was counted */
    MUST(cps_h5_close(file));
}

/* One neighbour, every vote alike: the label of the best bank row; */
static void check_nearest(cps_comm *comm, const lookup *table, int64_t count, int64_t bank_first,
                          int64_t bank_count, const outcome *out) {
    int64_t labelled = 0, right = 0;
    for (int64_t number = 0; number < count; number++) {
        if (is_bad(number) || label_of(number) < 0) {
            continue;
        }
        double best_score = -10.0;
        int64_t best = -1;
        for (int64_t other = bank_first; other < bank_first + bank_count; other++) {
            const double score = table_score(table, number, other, score_weights);
            if (other != number && !is_bad(other) && label_of(other) >= 0 && score > best_score) {
                best_score = score;
                best = other;
            }
        }
        labelled++;
        right += label_of(best) == label_of(number);
    }
    CHECK(cps_json_get_number(out->metrics, "top1", -1) == (double)right / (double)labelled);
}

/* ---- cases ---- */

static const char *const one_template[] = {"a leaf of {}."};
static const char *const three_templates[] = {"a leaf of {}.", "{} in the field", "{}"};
static const double recall_k[] = {1, 5, 10};

static void run_all_kinds(cps_comm *comm, int64_t count, bool exact) {
    char *data[1] = {cps_format("%s/d%lld.h5", folder, (long long)count)};
    char *bank[1] = {cps_format("%s/bank.h5", folder)};
    char *name = cps_format("%s-%lld", exact ? "exact" : "real", (long long)count);
    const char *const *const patterns = (const char *const *)data;
    lookup table = {.exact = exact, .nan_row = -1};
    cps_evaluation_options options = {
        .kind = CPS_EVAL_RETRIEVAL, .name = name, .data = shards(patterns)};
    options.retrieval = (cps_retrieval_options){.k = {.count = 3, .values = recall_k}};
    outcome out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    if (exact && out.status == CPS_OK) {
        check_retrieval(comm, &table, count, &out);
    }
    outcome_free(&out);
    options.kind = CPS_EVAL_ZERO_SHOT;
    options.zero_shot = (cps_zero_shot_options){
        .text = "label",
        .top = 3,
        .templates = {.count = exact ? 1 : 3, .lines = exact ? one_template : three_templates}};
    out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    if (exact && out.status == CPS_OK) {
        check_zero_shot(comm, &table, count, &out);
    }
    outcome_free(&out);
    options.kind = CPS_EVAL_KNN;
    options.knn = (cps_knn_options){.k = exact ? 1 : 7,
                                    .temperature = exact ? 0.0 : 0.07,
                                    .bank = shards((const char *const *)bank)};
    out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    if (exact && out.status == CPS_OK) {
        check_nearest(comm, &table, count, 20, 60, &out);
    }
    outcome_free(&out);
    free(name);
    free(data[0]);
    free(bank[0]);
}

/* Grains are dealt out: with as many grains as ranks nobody encodes more than one of images. */
static void test_grains_are_dealt(cps_comm *comm) {
    const int32_t size = cps_comm_size(comm);
    lookup table = {.exact = true, .nan_row = -1};
    const cps_encoder encoder = make_encoder(&table);
    char *texts[4 * GRAIN];
    const int64_t count = (int64_t)size * GRAIN - 3;
    for (int64_t i = 0; i < count; i++) {
        texts[i] = caption_of(i, 0);
    }
    cps_features features = {0};
    MUST(cps_features_of_texts(comm, &encoder, (const char *const *)texts, count, true, &features));
    CHECK(table.calls == 1);
    CHECK(features.rows == count && features.left_out_count == 0);
    cps_features_free(&features);
    MUST(cps_features_of_texts(comm, &encoder, (const char *const *)texts, 0, true, &features));
    CHECK(features.rows == 0);
    cps_features_free(&features);
    for (int64_t i = 0; i < count; i++) {
        free(texts[i]);
    }
}

static void test_class_vectors(cps_comm *comm) {
    lookup table = {.nan_row = -1};
    const cps_encoder encoder = make_encoder(&table);
    const cps_lines templates = {.count = 3, .lines = three_templates};
    for (int averaging = 0; averaging < 2; averaging++) {
        cps_features vectors = {0};
        MUST(cps_class_vectors(comm, &encoder, class_names, CLASSES, &templates,
                               (cps_averaging)averaging, &vectors));
        for (int64_t k = 0; k < CLASSES; k++) {
            char *texts[] = {cps_format("a leaf of %s.", class_names[k]),
                             cps_format("%s in the field", class_names[k]),
                             cps_format("%s", class_names[k])};
            double mean[8] = {0}, norm = 0.0;
            for (int t = 0; t < 3; t++) {
                cps_real row[8];
                double length = 0.0;
                table_row(&table, text_number(texts[t]), 0, row);
                for (int64_t i = 0; i < widths[0]; i++) {
                    length += (double)row[i] * (double)row[i];
                }
                for (int64_t i = 0; i < widths[0]; i++) {
                    mean[i] +=
                        (double)row[i] / (averaging == CPS_NORMALISE_FIRST ? sqrt(length) : 1.0);
                }
                free(texts[t]);
            }
            for (int64_t i = 0; i < widths[0]; i++) {
                norm += mean[i] * mean[i];
            }
            for (int64_t i = 0; i < widths[0]; i++) {
                CHECK(fabs((double)vectors.values[k * vectors.width + i] - mean[i] / sqrt(norm)) <
                      1e-6);
            }
        }
        cps_features_free(&vectors);
    }
    static const char *const wrong[] = {"{} and {}", "no place"};
    for (int i = 0; i < 2; i++) {
        cps_features vectors = {0};
        const cps_lines line = {.count = 1, .lines = wrong + i};
        CHECK(cps_class_vectors(comm, &encoder, class_names, CLASSES, &line, CPS_NORMALISE_FIRST,
                                &vectors) ==
              (cps_comm_rank(comm) == 0 ? CPS_ERR_USAGE : CPS_ERR_PEER));
        CHECK(strstr(cps_fail_message(), wrong[i]) != NULL);
    }
}

/* More texts than a tile has columns, more images than it has rows; few distinct rows, so that ties
 * lie in every tile. */
static void test_long_retrieval(cps_comm *comm) {
    enum { IMAGES = 700, TEXTS = 2100, WIDTH = 4, KINDS = 40 };
    static cps_real image_rows[IMAGES * WIDTH], text_rows[TEXTS * WIDTH];
    static int64_t owners[TEXTS];
    const cps_draw_key key = {.seed = 77};
    const double weight = 1.0;
    for (int64_t i = 0; i < (IMAGES + TEXTS) * WIDTH; i++) {
        const int64_t row = i / WIDTH % KINDS;
        cps_real *to = i < IMAGES * WIDTH ? image_rows + i : text_rows + i - IMAGES * WIDTH;
        *to =
            (cps_real)((double)cps_draw_below(&key, (uint64_t)(row * WIDTH + i % WIDTH), 9) / 4.0 -
                       1.0);
    }
    for (int64_t j = 0; j < TEXTS; j++) {
        owners[j] = j / 3;
    }
    const cps_features images = {.rows = IMAGES,
                                 .width = WIDTH,
                                 .component_count = 1,
                                 .widths = {WIDTH},
                                 .values = image_rows};
    cps_features texts = images;
    texts.rows = TEXTS;
    texts.values = text_rows;
    cps_retrieval_ranks ranks = {0};
    MUST(cps_retrieval(comm, &images, &texts, owners, &weight, &ranks));
    for (int64_t i = 0; i < IMAGES; i++) {
        int64_t best = -1, before = 0;
        double best_score = 0.0;
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t j = 0; j < TEXTS; j++) {
                double score = 0.0;
                for (int64_t c = 0; c < WIDTH; c++) {
                    score += (double)image_rows[i * WIDTH + c] * (double)text_rows[j * WIDTH + c];
                }
                if (pass == 0 && owners[j] == i && (best < 0 || score > best_score)) {
                    best = j;
                    best_score = score;
                }
                before += pass == 1 && (score > best_score || (score == best_score && j < best));
            }
        }
        CHECK(ranks.image_to_text[i] == before + 1);
    }
    cps_retrieval_ranks_free(&ranks);
}

/* Two classes draw level: the lower label wins. Weights by temperature turn it round. */
static void test_votes(cps_comm *comm) {
    cps_real query[] = {1, 0};
    cps_real bank[] = {(cps_real)0.6, (cps_real)0.8, 1, 0, 0, 1, 0, 1};
    const int32_t labels[] = {2, 1, 2, 0};
    const double weight = 1.0;
    const cps_features queries = {
        .rows = 1, .width = 2, .component_count = 1, .widths = {2}, .values = query};
    const cps_features rows = {
        .rows = 4, .width = 2, .component_count = 1, .widths = {2}, .values = bank};
    const struct {
        int64_t k;
        double temperature;
        int32_t first;
        double share;
    } cases[] = {
        {2, 0.0, 1, 0.5},       /* rows 1 and 0: one vote each */
        {3, 0.0, 2, 2.0 / 3.0}, /* rows 1, 0, 2 */
        {4, 0.0, 2, 0.5},       /* all */
        {100, 0.0, 2, 0.5},     /* the bank has no more */
        {4, 0.1, 1, 1.0 / (1.0 + exp(-4.0) + 2.0 * exp(-10.0))},
        {4, 1e-9, 1, 1.0}, /* no overflow */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cps_predictions predictions = {0};
        MUST(cps_knn(comm, &queries, NULL, &rows, NULL, labels, &weight, cases[i].k,
                     cases[i].temperature, 3, 5, &predictions));
        CHECK(predictions.top == 3);
        CHECK(predictions.index[0] == cases[i].first);
        CHECK(fabs((double)predictions.score[0] - cases[i].share) < 1e-6);
        CHECK(cases[i].k != 2 || (predictions.index[1] == 2 && predictions.index[2] == -1));
        cps_predictions_free(&predictions);
    }
}

static void expect_failure(cps_comm *comm, const cps_evaluation_options *options, lookup *table,
                           cps_status code, const char *says) {
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

static void test_refusals(cps_comm *comm) {
    static const char *const other_names[CLASSES] = {"class0", "class1", "class2", "class3",
                                                     "class4", "class5", "another"};
    static const double three[] = {1, 1, 1}, half[] = {1, 2.5};
    write_shard(comm, "set-a", 0, 5, class_names, CLASSES);
    write_shard(comm, "set-b", 5, 5, other_names, CLASSES);
    write_shard(comm, "bad", 3, 1, class_names, CLASSES);         /* its one image is damaged */
    write_shard(comm, "unlabelled", 10, 1, class_names, CLASSES); /* its one label is none */
    char *set[1] = {cps_format("%s/set-*.h5", folder)}, *bad[1] = {cps_format("%s/bad.h5", folder)};
    char *none[1] = {cps_format("%s/unlabelled.h5", folder)};
    lookup table = {.exact = true, .nan_row = -1};
    cps_evaluation_options options = {
        .kind = CPS_EVAL_ZERO_SHOT, .name = "refused", .data = shards((const char *const *)set)};
    options.zero_shot = (cps_zero_shot_options){.text = "label", .top = 5};
    expect_failure(comm, &options, &table, CPS_ERR_DATA, "class 6 is 'another' in shard");
    options.zero_shot.text = "taxon_com";
    expect_failure(comm, &options, &table, CPS_ERR_USAGE, "\"taxon_com\" is not built");
    options.zero_shot.text = "label";
    options.zero_shot.score = (cps_numbers){.count = 3, .values = three};
    expect_failure(comm, &options, &table, CPS_ERR_USAGE, "score has 3 weights");
    options.zero_shot.score.count = 0;
    options.data = shards((const char *const *)bad);
    expect_failure(comm, &options, &table, CPS_ERR_DATA, "none of the 1 images");
    options.data = shards((const char *const *)none);
    expect_failure(comm, &options, &table, CPS_ERR_DATA, "none of the 1 readable samples");
    options.kind = CPS_EVAL_RETRIEVAL;
    options.retrieval = (cps_retrieval_options){.k = {.count = 2, .values = half}};
    expect_failure(comm, &options, &table, CPS_ERR_USAGE, "k holds 2.5");
    options.kind = CPS_EVAL_VALIDATION_LOSS;
    expect_failure(comm, &options, &table, CPS_ERR_INTERNAL, "training loop");
    free(set[0]);
    free(bad[0]);
    free(none[0]);
}

/* A set without usable files, a table that is not packed, an unknown stream. */
static void test_streams(cps_comm *comm) {
    char *missing[1] = {cps_format("%s/nothing-*.h5", folder)};
    char *data[1] = {cps_format("%s/d1.h5", folder)};
    cps_shard_pool *pool = NULL;
    cps_evaluation_streams streams = {0};
    MUST(cps_shard_pool_create(&pool));
    cps_evaluation_options options = {.kind = CPS_EVAL_RETRIEVAL,
                                      .name = "streams",
                                      .data = shards((const char *const *)missing)};
    CHECK(cps_evaluation_streams_open(&options, pool, NULL, &streams) == CPS_ERR_UNAVAILABLE);
    CHECK(strstr(cps_fail_message(), "evaluation 'streams'") != NULL);
    options.data = shards((const char *const *)data);
    options.data.rest_of = "paired";
    CHECK(cps_evaluation_streams_open(&options, pool, NULL, &streams) == CPS_ERR_USAGE);
    CHECK(strstr(cps_fail_message(), "'paired'") != NULL);
    options.data = (cps_shards_options){.source = "x.csv", .fraction = 1.0};
    CHECK(cps_evaluation_streams_open(&options, pool, NULL, &streams) == CPS_ERR_USAGE);
    cps_shard_pool_destroy(pool);
    free(missing[0]);
    free(data[0]);
}

/* A row that is not finite scores 0 everywhere and is counted. */
static void test_non_finite(cps_comm *comm) {
    char *data[1] = {cps_format("%s/d65.h5", folder)};
    lookup table = {.exact = true, .nan_row = 7};
    cps_evaluation_options options = {.kind = CPS_EVAL_ZERO_SHOT,
                                      .name = "non-finite",
                                      .data = shards((const char *const *)data)};
    options.zero_shot = (cps_zero_shot_options){.text = "label", .top = 5};
    outcome out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    CHECK(cps_json_get_integer(out.metrics, "non_finite", -1) == 1);
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

static void run_tests(cps_comm *comm) {
    static const int64_t counts[] = {1, 2, 7, 65, 200, 310};
    make_folder(comm);
    write_shard(comm, "bank", 20, 60, class_names, CLASSES);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        char *name = cps_format("d%lld", (long long)counts[i]);
        write_shard(comm, name, 0, counts[i], class_names, CLASSES);
        free(name);
        run_all_kinds(comm, counts[i], true);
        run_all_kinds(comm, counts[i], false);
    }
    test_grains_are_dealt(comm);
    test_class_vectors(comm);
    test_long_retrieval(comm);
    test_votes(comm);
    test_streams(comm);
    test_non_finite(comm);
    test_refusals(comm);
    remove_folder(comm);
}

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
    run_tests(comm);
    if (record != NULL) {
        fclose(record);
    }
    cps_pool_stop();
    cps_comm_end(comm);
    return failures == 0 ? 0 : 1;
}
