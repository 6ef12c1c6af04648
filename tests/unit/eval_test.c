/* eval/ without ranks: normalising, tiled top lists against plain loops, what is counted, files of
 * predictions. The rest is in tests/ranks/eval_test.c. */
#include "eval/evaluate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/pool.h"
#include "base/rng.h"
#include "eval/interval.h"
#include "eval/predictions.h"
#include "eval/retrieval.h"
#include "eval/score.h"
#include "eval/taxonomy.h"
#include "h5/h5.h"
#include "tensor/gemm.h"

/* ---- features ---- */

static void normalise(void **state) {
    (void)state;
    cps_real values[] = {3,
                         4,
                         0,
                         5, /* (3 4) and (0 5) */
                         0,
                         0,
                         -2,
                         0, /* zeros stay */
                         1,
                         (cps_real)NAN,
                         1,
                         1, /* counted, zeros */
                         (cps_real)INFINITY,
                         0,
                         1,
                         1, /* the same */
                         (cps_real)3e20,
                         (cps_real)4e20,
                         1,
                         0}; /* squares overflow a float */
    cps_features features = {
        .rows = 5, .width = 4, .component_count = 2, .widths = {2, 2}, .values = values};
    cps_features_normalise(&features);
    const double want[] = {0.6, 0.8, 0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.6, 0.8, 1, 0};
    for (int i = 0; i < 20; i++) {
        assert_float_equal((double)values[i], want[i], 1e-7);
    }
    assert_int_equal(features.non_finite, 2);
}

/* Rows of small integers over 4: sums of products are exact, so a plain loop gives equal bits, and
 * ties abound. */
static cps_features make_features(uint32_t seed, int64_t rows, int32_t components) {
    cps_features features = {.rows = rows, .component_count = components};
    for (int32_t c = 0; c < components; c++) {
        features.widths[c] = 3 + c;
        features.width += features.widths[c];
    }
    features.values = calloc((size_t)(rows * features.width) + 1, sizeof *features.values);
    const cps_draw_key key = {.seed = seed};
    for (int64_t i = 0; i < rows * features.width; i++) {
        features.values[i] = (cps_real)((double)cps_draw_below(&key, (uint64_t)i, 5) / 4.0 - 0.5);
    }
    return features;
}

static double plain_score(const cps_features *a, int64_t i, const cps_features *b, int64_t j,
                          const double *weights) {
    double score = 0.0;
    int64_t at = 0;
    for (int32_t c = 0; c < a->component_count; c++) {
        for (int64_t k = 0; k < a->widths[c]; k++, at++) {
            score += weights[c] * (double)a->values[i * a->width + at] *
                     (double)b->values[j * b->width + at];
        }
    }
    return score;
}

/* Number of rows that stand before (score, index). */
static int64_t plain_before(const cps_features *queries, int64_t i, const cps_features *gallery,
                            const double *weights, double score, int64_t index, uint64_t id,
                            const uint64_t *gallery_ids) {
    int64_t before = 0;
    for (int64_t j = 0; j < gallery->rows; j++) {
        const double other = plain_score(queries, i, gallery, j, weights);
        const bool allowed = gallery_ids == NULL || gallery_ids[j] != id;
        before += allowed && (other > score || (other == score && j < index));
    }
    return before;
}

static void check_top(int64_t query_rows, int64_t gallery_rows, int64_t most, bool with_ids) {
    static const double weights[] = {0.5, 2.0};
    cps_features queries = make_features(1, query_rows, 2);
    cps_features gallery = make_features(2, gallery_rows, 2);
    uint64_t *query_ids = calloc((size_t)query_rows, sizeof *query_ids);
    uint64_t *gallery_ids = calloc((size_t)gallery_rows, sizeof *gallery_ids);
    for (int64_t i = 0; i < query_rows; i++) {
        query_ids[i] = (uint64_t)(i % 7);
    }
    for (int64_t j = 0; j < gallery_rows; j++) {
        gallery_ids[j] = (uint64_t)(j % 11);
    }
    cps_top_lists lists = {0};
    assert_int_equal(cps_score_top(&queries, &gallery, weights, 0, query_rows, most,
                                   with_ids ? query_ids : NULL, with_ids ? gallery_ids : NULL,
                                   &lists),
                     CPS_OK);
    for (int64_t i = 0; i < query_rows; i++) {
        int64_t allowed = 0;
        for (int64_t j = 0; j < gallery_rows; j++) {
            allowed += !with_ids || gallery_ids[j] != query_ids[i];
        }
        assert_int_equal(lists.count[i], allowed < most ? allowed : most);
        for (int64_t place = 0; place < lists.count[i]; place++) {
            const int64_t index = lists.index[i * most + place];
            const double score = plain_score(&queries, i, &gallery, index, weights);
            assert_true((double)lists.score[i * most + place] == score);
            assert_int_equal(plain_before(&queries, i, &gallery, weights, score, index,
                                          query_ids[i], with_ids ? gallery_ids : NULL),
                             place);
        }
    }
    cps_top_lists_free(&lists);
    free(query_ids);
    free(gallery_ids);
    free(queries.values);
    free(gallery.values);
}

static void top_lists(void **state) {
    (void)state;
    check_top(1, 1, 1, false);
    check_top(3, 2, 5, false);
    check_top(255, 30, 4, false);
    check_top(257, 5, 2, true);
    check_top(2, 1023, 6, false);
    check_top(2, 1024, 6, true);
    check_top(3, 2500, 40, true);
    check_top(1, 3, 3, true);
}

/* Equal rows anywhere in the gallery score equal bits, also where sums round. */
static void equal_rows_tie(void **state) {
    (void)state;
    enum { WIDTH = 37, ROWS = 1500 };
    const double weight = 1.0;
    cps_real *values = calloc(WIDTH * (ROWS + 1), sizeof *values);
    const cps_draw_key key = {.seed = 5};
    for (int64_t i = 0; i < ROWS + 1; i++) {
        for (int64_t j = 0; j < WIDTH; j++) {
            const uint64_t draw = (uint64_t)((i < ROWS ? 0 : WIDTH) + j);
            values[i * WIDTH + j] = (cps_real)(cps_draw_uniform(&key, draw) - 0.5);
        }
    }
    const cps_features gallery = {
        .rows = ROWS, .width = WIDTH, .component_count = 1, .widths = {WIDTH}, .values = values};
    const cps_features query = {.rows = 1,
                                .width = WIDTH,
                                .component_count = 1,
                                .widths = {WIDTH},
                                .values = values + ROWS * WIDTH};
    cps_top_lists lists = {0};
    assert_int_equal(cps_score_top(&query, &gallery, &weight, 0, 1, ROWS, NULL, NULL, &lists),
                     CPS_OK);
    for (int64_t j = 0; j < ROWS; j++) {
        assert_int_equal(lists.index[j], j);
    }
    cps_top_lists_free(&lists);
    free(values);
}

/* ---- what is counted ---- */

static void classification(void **state) {
    (void)state;
    int32_t index[] = {0, 1, 2, /**/ 1, 0, 2, /**/ 2, 0, 1, /**/ 0, 2, 1, /**/ 1, 2, 0};
    const int32_t labels[] = {0, 0, 1, 0, -1};
    const cps_predictions predictions = {.rows = 5, .top = 3, .index = index};
    cps_json *metrics = cps_json_new_object();
    assert_int_equal(cps_classification_metrics(&predictions, labels, 4, "test", metrics), CPS_OK);
    char *text = cps_json_print(metrics, false, false);
    /* class 0: 2 of 3, class 1: 0 of 1; classes 2 and 3 have no samples */
    assert_string_equal(text, "{\"top1\":0.5,\"top1_low\":0,\"top1_high\":1,\"chance\":0.25,"
                              "\"top5\":1,\"per_class\":0.3333333333333333,\"samples\":4,"
                              "\"unlabelled\":1}");
    free(text);
    const int32_t none[] = {-1, -1, -1, -1, -1};
    assert_int_equal(cps_classification_metrics(&predictions, none, 4, "evaluation 'x'", metrics),
                     CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "evaluation 'x': none of the 5"));
    cps_json_destroy(metrics);
}

/* Against resamples drawn sample by sample, with draws of their own. */
static void interval_of_resamples(void **state) {
    (void)state;
    enum { RESAMPLES = 4000 };
    static const int64_t cases[][2] = {{30, 100}, {1, 40}, {39, 40}, {500, 1000}, {7, 2000}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t hits = cases[i][0], samples = cases[i][1];
        const cps_draw_key key = {.seed = 5, .position = i};
        double low, high, below = 0.0, above = 0.0;
        int64_t index = 0;
        assert_int_equal(cps_share_interval(hits, samples, &low, &high), CPS_OK);
        assert_true(low < high && low <= (double)hits / (double)samples &&
                    high >= (double)hits / (double)samples);
        for (int r = 0; r < RESAMPLES; r++) {
            int64_t right = 0;
            for (int64_t k = 0; k < samples; k++) {
                right +=
                    cps_draw_below(&key, (uint64_t)index++, (uint64_t)samples) < (uint64_t)hits;
            }
            below += (double)right / (double)samples < low - 1e-9;
            above += (double)right / (double)samples > high + 1e-9;
        }
        /* 2.5 % and what the steps of the share take from it; four deviations of the draws. */
        assert_true(below <= RESAMPLES * 0.035 && above <= RESAMPLES * 0.035);
        assert_true(samples < 1000 || hits < 50 ||
                    (below >= RESAMPLES * 0.015 && above >= RESAMPLES * 0.015));
    }
}

/* The known quantiles of Binomial(100, 0.3), within a step; ends; sizes that are large. */
static void interval_values(void **state) {
    (void)state;
    double low, high, again;
    assert_int_equal(cps_share_interval(30, 100, &low, &high), CPS_OK);
    assert_true(fabs(low - 0.21) < 0.0101 && fabs(high - 0.39) < 0.0101);
    assert_int_equal(cps_share_interval(30, 100, &again, &high), CPS_OK);
    assert_true(again == low);
    assert_int_equal(cps_share_interval(0, 7, &low, &high), CPS_OK);
    assert_true(low == 0.0 && high == 0.0);
    assert_int_equal(cps_share_interval(7, 7, &low, &high), CPS_OK);
    assert_true(low == 1.0 && high == 1.0);
    assert_int_equal(cps_share_interval(300000000, 1000000000, &low, &high), CPS_OK);
    const double width = 1.96 * sqrt(0.3 * 0.7 / 1e9);
    assert_true(fabs(low - (0.3 - width)) < 0.2 * width &&
                fabs(high - (0.3 + width)) < 0.2 * width);
    assert_int_equal(cps_share_interval(1, 1000000000, &low, &high), CPS_OK);
    assert_true(low == 0.0 && high >= 2e-9 && high <= 4e-9);
}

/* Asked once, samples are a share. Asked several times with the same answers they tell no more than
 * when asked once: folds are no samples. Of those that were asked more often more is heard. */
static void interval_of_tallies(void **state) {
    (void)state;
    enum { SAMPLES = 101 };
    cps_tally once[SAMPLES], often[SAMPLES];
    double low, high, other_low, other_high;
    for (int i = 0; i < SAMPLES; i++) {
        once[i] = (cps_tally){.hits = i % 3 == 0, .asked = 1};
        often[i] = (cps_tally){.hits = 5 * once[i].hits, .asked = 5};
    }
    assert_int_equal(cps_share_interval(34, SAMPLES, &low, &high), CPS_OK);
    assert_int_equal(cps_tally_interval(once, SAMPLES, &other_low, &other_high), CPS_OK);
    assert_true(fabs(low - other_low) < 0.021 && fabs(high - other_high) < 0.021);
    assert_int_equal(cps_tally_interval(often, SAMPLES, &low, &high), CPS_OK);
    assert_true(low == other_low && high == other_high && low < 34.0 / 101 && high > 34.0 / 101);
    assert_int_equal(cps_pool_start(3), CPS_OK);
    assert_int_equal(cps_tally_interval(once, SAMPLES, &low, &high), CPS_OK);
    cps_pool_stop();
    assert_true(low == other_low && high == other_high);
    for (int i = 0; i < SAMPLES; i++) {
        often[i] = (cps_tally){.hits = i % 2 == 0 ? 9 : 0, .asked = i % 2 == 0 ? 9 : 1};
    }
    assert_int_equal(cps_tally_interval(often, SAMPLES, &low, &high), CPS_OK);
    assert_true(low > 0.8 && low < 51 * 9.0 / (51 * 9 + 50) && high > low && high < 1.0);
    assert_int_equal(cps_tally_interval(often, 1, &low, &high), CPS_OK);
    assert_true(low == 1.0 && high == 1.0);
}

static void top_five_of_six(void **state) {
    (void)state;
    int32_t index[] = {0, 1, 2, 3, 4, 5, /**/ 0, 1, 2, 3, 4, 5};
    const int32_t labels[] = {4, 5};
    const cps_predictions predictions = {.rows = 2, .top = 6, .index = index};
    cps_json *metrics = cps_json_new_object();
    assert_int_equal(cps_classification_metrics(&predictions, labels, 6, "test", metrics), CPS_OK);
    assert_true(cps_json_get_number(metrics, "top1", -1) == 0.0);
    assert_true(cps_json_get_number(metrics, "top5", -1) == 0.5);
    assert_null(cps_json_get(metrics, "unlabelled"));
    cps_json_destroy(metrics);
}

static void join_class_lists(void **state) {
    (void)state;
    const char *names[] = {"oak", "ash", "elm"}, *others[] = {"yew", "ash", "fir", "yew", "oak"};
    cps_class_list list = {.count = 3, .names = calloc(3, sizeof *list.names)};
    memcpy(list.names, names, sizeof names);
    const cps_class_list more = {.count = 5, .names = others};
    int64_t map[5];
    assert_int_equal(cps_class_list_join(&list, &more, map), CPS_OK);
    assert_int_equal(list.count, 5);
    assert_string_equal(list.names[0], "oak");
    assert_string_equal(list.names[3], "yew");
    assert_string_equal(list.names[4], "fir");
    const int64_t want[] = {3, 1, 4, 3, 0};
    assert_memory_equal(map, want, sizeof want);
    cps_class_list_free(&list);
}

static void retrieval_numbers(void **state) {
    (void)state;
    int64_t images[] = {1, 3, 0, 6, 12}, texts[] = {2, 2, 9};
    const cps_retrieval_ranks ranks = {
        .images = 5, .texts = 3, .image_to_text = images, .text_to_image = texts};
    const double k[] = {1, 5, 10};
    cps_json *metrics = cps_json_new_object();
    assert_int_equal(cps_retrieval_metrics_add(&ranks, k, 3, metrics), CPS_OK);
    char *text = cps_json_print(metrics, false, false);
    assert_string_equal(text, "{\"image_to_text_r1\":0.25,\"image_to_text_r5\":0.5,"
                              "\"image_to_text_r10\":0.75,\"image_to_text_median_rank\":4,"
                              "\"image_to_text_mean_rank\":5.5,\"text_to_image_r1\":0,"
                              "\"text_to_image_r5\":0.6666666666666666,\"text_to_image_r10\":1,"
                              "\"text_to_image_median_rank\":2,"
                              "\"text_to_image_mean_rank\":4.333333333333333}");
    free(text);
    cps_json_destroy(metrics);
}

/* Every key that the metric functions make is one the job layer knows, and the other way round. */
static void keys_are_those_of_the_option_tables(void **state) {
    (void)state;
    int64_t one[] = {1};
    const double k = 7;
    const cps_retrieval_ranks ranks = {
        .images = 1, .texts = 1, .image_to_text = one, .text_to_image = one};
    cps_json *metrics = cps_json_new_object();
    assert_int_equal(cps_retrieval_metrics_add(&ranks, &k, 1, metrics), CPS_OK);
    int64_t count = 0;
    for (; cps_retrieval_metrics[count] != NULL; count++) {
        char key[64];
        snprintf(key, sizeof key, "%s", cps_retrieval_metrics[count]);
        char *place = strstr(key, "{k}");
        if (place != NULL) {
            memcpy(place, "7", 2);
        }
        assert_true(cps_json_is_number(cps_json_get(metrics, key)));
    }
    assert_int_equal(count, cps_json_count(metrics));
    cps_json_destroy(metrics);
    int32_t index[] = {0};
    const int32_t labels[] = {0};
    const cps_predictions predictions = {.rows = 1, .top = 1, .index = index};
    metrics = cps_json_new_object();
    assert_int_equal(cps_classification_metrics(&predictions, labels, 1, "test", metrics), CPS_OK);
    const cps_rank_counts counts = {.samples = 1};
    cps_rank_counts_report(&counts, "", metrics);
    int64_t keys = 0;
    for (count = 0; cps_zero_shot_metrics[count] != NULL; count++) {
        for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
            char key[64];
            snprintf(key, sizeof key, "%s", cps_zero_shot_metrics[count]);
            char *place = strstr(key, "{rank}");
            if (place != NULL) {
                snprintf(place, 16, "%s", cps_taxon_rank_names[rank]);
            }
            if (strncmp(key, "aggregated_", 11) != 0) { /* of the whole evaluation */
                assert_true(cps_json_is_number(cps_json_get(metrics, key)));
                keys += place != NULL || rank == 0;
            }
        }
    }
    assert_int_equal(keys + 1, cps_json_count(metrics)); /* and samples */
    for (count = 0; count < 6; count++) {
        assert_string_equal(cps_zero_shot_metrics[count], cps_knn_metrics[count]);
    }
    cps_json_destroy(metrics);
}

static void direction_of_metrics(void **state) {
    (void)state;
    static const char *const more[] = {"a.top1",
                                       "a.per_class",
                                       "a.rank_genus",
                                       "rank_kingdom",
                                       "a.aggregated_species",
                                       "a.purity_family",
                                       "a.shared_depth",
                                       "a.shot5",
                                       "a.shot5_rank_species",
                                       "a.shot5_shared_depth",
                                       "a.image_to_text_r5"};
    static const char *const less[] = {"a.loss",
                                       "loss_clip",
                                       "a.tree_distance",
                                       "a.shot1_std",
                                       "a.shot1_tree_distance",
                                       "a.text_to_image_mean_rank",
                                       "a.image_to_text_median_rank"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        assert_false(cps_metric_less_is_better(more[i]));
    }
    for (size_t i = 0; i < sizeof less / sizeof *less; i++) {
        assert_true(cps_metric_less_is_better(less[i]));
    }
}

/* ---- predictions ---- */

static void predictions_read_back(void **state) {
    (void)state;
    char folder[] = "/tmp/copse-predictions-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char *path = cps_format("%s/predictions/cls.h5", folder);
    char *again = cps_format("%s/predictions/again.h5", folder);
    const uint64_t ids[] = {7, UINT64_MAX};
    const int32_t labels[] = {1, -1};
    int32_t index[] = {1, 0, 0, 1};
    cps_real score[] = {(cps_real)0.5, (cps_real)0.25, 1, -1};
    const char *names[] = {"oak", "\xc3\xa4sh"};
    const cps_predictions predictions = {.rows = 2, .top = 2, .index = index, .score = score};
    const cps_class_list classes = {.count = 2, .names = names};
    const cps_predictions_content content = {.evaluation = "cls",
                                             .kind = "zero_shot",
                                             .step = 20,
                                             .data_digest = 0xabc,
                                             .rows = 2,
                                             .sample_ids = ids,
                                             .labels = labels,
                                             .predictions = &predictions,
                                             .classes = &classes};
    assert_int_equal(cps_predictions_write(path, &content), CPS_OK);
    assert_int_equal(cps_predictions_write(again, &content), CPS_OK);
    cps_h5 *file = NULL;
    assert_int_equal(cps_h5_open(path, &file), CPS_OK);
    uint64_t ids_read[2];
    double scores_read[4];
    int32_t index_read[4];
    char *digest = NULL, **class_names = NULL;
    int64_t class_count = 0;
    assert_int_equal(cps_h5_read(file, "sample_id", CPS_H5_U64, 2, ids_read), CPS_OK);
    assert_memory_equal(ids_read, ids, sizeof ids);
    assert_int_equal(cps_h5_read(file, "class_score", CPS_H5_F64, 4, scores_read), CPS_OK);
    assert_true(scores_read[1] == 0.25 && scores_read[3] == -1.0);
    assert_int_equal(cps_h5_read(file, "class_index", CPS_H5_I32, 4, index_read), CPS_OK);
    assert_memory_equal(index_read, index, sizeof index);
    assert_int_equal(cps_h5_read_text(file, "/", "data_digest", &digest), CPS_OK);
    assert_string_equal(digest, "0000000000000abc");
    assert_int_equal(cps_h5_read_strings(file, "class_name", &class_names, &class_count), CPS_OK);
    assert_string_equal(class_names[1], names[1]);
    assert_false(cps_h5_has(file, "image_to_text_rank"));
    cps_strings_destroy(class_names, class_count);
    free(digest);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    char *one = NULL, *two = NULL;
    size_t one_length, two_length;
    assert_int_equal(cps_file_read(path, 1 << 20, &one, &one_length), CPS_OK);
    assert_int_equal(cps_file_read(again, 1 << 20, &two, &two_length), CPS_OK);
    assert_int_equal(one_length, two_length);
    assert_memory_equal(one, two, one_length);
    free(one);
    free(two);
    unlink(path);
    unlink(again);
    free(path);
    free(again);
    path = cps_format("%s/predictions", folder);
    assert_int_equal(rmdir(path), 0); /* no temporary file is left */
    rmdir(folder);
    free(path);
    assert_int_not_equal(cps_predictions_write("/proc/none/x.h5", &content), CPS_OK);
    assert_non_null(strstr(cps_fail_message(), "predictions of 'cls'"));
}

static int start_gemm(void **state) {
    (void)state;
    cps_gemm_start();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normalise),
        cmocka_unit_test(top_lists),
        cmocka_unit_test(equal_rows_tie),
        cmocka_unit_test(classification),
        cmocka_unit_test(interval_of_resamples),
        cmocka_unit_test(interval_values),
        cmocka_unit_test(interval_of_tallies),
        cmocka_unit_test(top_five_of_six),
        cmocka_unit_test(join_class_lists),
        cmocka_unit_test(retrieval_numbers),
        cmocka_unit_test(keys_are_those_of_the_option_tables),
        cmocka_unit_test(direction_of_metrics),
        cmocka_unit_test(predictions_read_back),
    };
    return cmocka_run_group_tests(tests, start_gemm, NULL);
}
