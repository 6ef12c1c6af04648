/* Evaluations from shards to metrics and predictions, on the ranks that are there. With rows of
 * quarters every score is exact, so plain loops over all pairs must give equal numbers; with rows
 * that round, what one rank got is compared by eval_same_bits.sh. */
#include "eval_world.h"

#include "eval/knn.h"
#include "eval/retrieval.h"
#include "eval/zeroshot.h"

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
                     cases[i].temperature, 3, 5, &predictions, NULL));
        CHECK(predictions.top == 3);
        CHECK(predictions.index[0] == cases[i].first);
        CHECK(fabs((double)predictions.score[0] - cases[i].share) < 1e-6);
        CHECK(cases[i].k != 2 || (predictions.index[1] == 2 && predictions.index[2] == -1));
        cps_predictions_free(&predictions);
    }
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
    char *good[1] = {cps_format("%s/d65.h5", folder)};
    lookup table = {.exact = true, .nan_row = -1};
    cps_evaluation_options options = {
        .kind = CPS_EVAL_ZERO_SHOT, .name = "refused", .data = shards((const char *const *)set)};
    options.zero_shot = (cps_zero_shot_options){.top = 5};
    expect_failure(comm, &options, &table, CPS_ERR_DATA, "class 6 is 'another' in shard");
    options.data = shards((const char *const *)good);
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
    free(good[0]);
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
    options.zero_shot = (cps_zero_shot_options){.top = 5};
    outcome out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    CHECK(cps_json_get_integer(out.metrics, "non_finite", -1) == 1);
    outcome_free(&out);
}

static void run_tests(cps_comm *comm) {
    static const int64_t counts[] = {1, 2, 7, 65, 200, 310};
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
}
