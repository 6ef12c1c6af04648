/* eval/few_shot: draws against Python's, distances by hand and against plain loops, one class,
 * classes with too few rows, rows that equal the mean. */
#include "eval/few_shot.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "tensor/gemm.h"

static cps_comm *comm;
static const double one = 1.0;

static int start(void **state) {
    (void)state;
    cps_gemm_start();
    int argc = 1;
    char name[] = "few_shot_test", *arguments[] = {name, NULL}, **argv = arguments;
    return cps_comm_start(&argc, &argv, &comm) == CPS_OK ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    cps_comm_end(comm);
    return 0;
}

/* ---- draws ---- */

/* Labels 2 0 2 0 2 ... with gaps: class 2 comes first. */
static cps_shot_deck make_deck(int64_t rows) {
    int32_t *labels = calloc((size_t)rows, sizeof *labels);
    for (int64_t i = 0; i < rows; i++) {
        labels[i] = i % 5 == 4 ? -1 : i % 2 == 0 ? 2 : 0;
    }
    cps_shot_deck deck = {0};
    assert_int_equal(cps_shot_deck_create(labels, rows, 4, &deck), CPS_OK);
    free(labels);
    return deck;
}

static void deck_in_order_of_appearance(void **state) {
    (void)state;
    cps_shot_deck deck = make_deck(12);
    assert_int_equal(deck.class_count, 2);
    assert_int_equal(deck.labels[0], 2);
    assert_int_equal(deck.labels[1], 0);
    static const int64_t first[] = {0, 5, 10}, rows[] = {0, 2, 6, 8, 10, 1, 3, 5, 7, 11};
    assert_memory_equal(deck.first, first, sizeof first);
    assert_memory_equal(deck.rows, rows, sizeof rows);
    cps_shot_deck_free(&deck);
}

/* What Python 3.11 says: random.seed(s); random.shuffle(a); random.shuffle(b), of the lists above.
 */
static void draws_of_python(void **state) {
    (void)state;
    static const int64_t stateless[2][10] = {{6, 2, 0, 10, 8, 1, 5, 3, 7, 11},
                                             {6, 8, 10, 0, 2, 1, 5, 3, 11, 7}};
    static const int64_t in_place[2][10] = {{6, 2, 0, 10, 8, 1, 5, 3, 7, 11},
                                            {0, 10, 8, 6, 2, 1, 3, 5, 11, 7}};
    static const int64_t wide[10] = {8, 6, 2, 10, 0, 3, 1, 5, 11, 7};
    cps_shot_deck deck = make_deck(12);
    for (uint64_t seed = 0; seed < 2; seed++) {
        cps_shot_deck_shuffle(&deck, seed, CPS_SHOT_STATELESS);
        assert_memory_equal(deck.rows, stateless[seed], sizeof stateless[seed]);
    }
    cps_shot_deck_shuffle(&deck, UINT64_C(5000000000), CPS_SHOT_STATELESS);
    assert_memory_equal(deck.rows, wide, sizeof wide);
    cps_shot_deck_free(&deck);
    deck = make_deck(12);
    for (uint64_t seed = 0; seed < 2; seed++) {
        cps_shot_deck_shuffle(&deck, seed, CPS_SHOT_IN_PLACE);
        assert_memory_equal(deck.rows, in_place[seed], sizeof in_place[seed]);
    }
    cps_shot_deck_free(&deck);
}

static void short_classes(void **state) {
    (void)state;
    static const int32_t labels[] = {1, 0, 1, 2, 1, 2, 1};
    cps_shot_deck deck = {0};
    cps_episode episode = {0};
    assert_int_equal(cps_shot_deck_create(labels, 7, 3, &deck), CPS_OK);
    assert_int_equal(cps_episode_deal(&deck, 2, CPS_SHORT_KEEP, &episode), CPS_OK);
    assert_int_equal(episode.class_count, 3);
    assert_int_equal(episode.short_count, 1); /* class 0 */
    static const int64_t first[] = {0, 2, 3, 5}, support[] = {0, 2, 1, 3, 5}, query[] = {4, 6};
    assert_memory_equal(episode.support_first, first, sizeof first);
    assert_memory_equal(episode.support, support, sizeof support);
    assert_int_equal(episode.query_count, 2);
    assert_memory_equal(episode.query, query, sizeof query);
    cps_episode_free(&episode);
    assert_int_equal(cps_episode_deal(&deck, 2, CPS_SHORT_LEAVE_OUT, &episode), CPS_OK);
    assert_int_equal(episode.class_count, 2);
    assert_int_equal(episode.labels[0], 1);
    assert_int_equal(episode.labels[1], 2);
    assert_int_equal(episode.support_first[2], 4);
    cps_episode_free(&episode);
    static const char *const names[] = {"oak", "ash", "elm"};
    static const double two = 2, four = 4;
    cps_few_shot_options options = {.shots = {.count = 1, .values = &two}, .folds = 1};
    assert_int_equal(cps_few_shot_check(&deck, &options, names), CPS_ERR_DATA);
    assert_string_equal(cps_fail_message(),
                        "class 'oak' has 1 labelled image, shots holds 2: take fewer shots, or say "
                        "short_classes = \"leave_out\" (such classes stay out) or \"keep\" (all "
                        "their images are support)");
    options.short_classes = CPS_SHORT_LEAVE_OUT;
    assert_int_equal(cps_few_shot_check(&deck, &options, names), CPS_OK);
    options.shots.values = &four;
    assert_int_equal(cps_few_shot_check(&deck, &options, names), CPS_ERR_DATA);
    assert_string_equal(cps_fail_message(),
                        "shots holds 4, but the largest class has 4 labelled images, so none is "
                        "left to classify: take fewer shots");
    cps_shot_deck_free(&deck);
}

/* ---- distances ---- */

static cps_features features_of(const double *values, int64_t rows, int64_t width) {
    cps_features features = {.rows = rows, .width = width, .component_count = 1, .widths = {width}};
    features.values = calloc((size_t)(rows * width), sizeof *features.values);
    for (int64_t i = 0; i < rows * width; i++) {
        features.values[i] = (cps_real)values[i];
    }
    return features;
}

/* Two classes, one shot each at (1, 0) and (0, 1): the mean is (.5, .5), centred supports are
 * (1, -1) / r and (-1, 1) / r with r = sqrt 2. */
static void by_hand(void **state) {
    (void)state;
    static const double values[] = {1, 0, 0, 1, 1, 0.5, 0.5, 0.5, 0.5, 1, 1, 1};
    static int32_t labels[] = {3, 1};
    static int64_t support_first[] = {0, 1, 2}, support[] = {0, 1}, query[] = {2, 3, 4, 5};
    const cps_episode episode = {.class_count = 2,
                                 .labels = labels,
                                 .support_first = support_first,
                                 .support = support,
                                 .query_count = 4,
                                 .query = query};
    cps_features features = features_of(values, 6, 2);
    int32_t predicted[4];
    double distance[8];
    assert_int_equal(
        cps_simple_shot(comm, &features, &episode, &one, CPS_NORMALISE_FIRST, predicted, distance),
        CPS_OK);
    /* Centred queries: (1, 0); 0, the mean itself, as far from both: ties go to the first; (0, 1);
     * (1, 1) / r, which rounding decides. */
    static const int32_t want[] = {0, 0, 1};
    assert_memory_equal(predicted, want, sizeof want);
    const double near = sqrt(2.0 - sqrt(2.0)), far = sqrt(2.0 + sqrt(2.0)), across = sqrt(2.0);
    const double wanted[] = {near, far, 1, 1, far, near, across, across};
    for (int i = 0; i < 8; i++) {
        assert_true(fabs(distance[i] - wanted[i]) < 1e-6);
    }
    free(features.values);
}

static void one_class(void **state) {
    (void)state;
    static const double values[] = {1, 0, 0, 1, 0.6, 0.8}, shots[] = {1, 2};
    static const int32_t labels[] = {0, 0, 0};
    static const char *const names[] = {"oak"};
    const cps_few_shot_options options = {.shots = {.count = 2, .values = shots}, .folds = 3};
    cps_features features = features_of(values, 3, 2);
    cps_few_shot_result result = {0};
    assert_int_equal(cps_few_shot(comm, &features, labels, 1, names, &options, &one, &result),
                     CPS_OK);
    for (int i = 0; i < 2; i++) {
        assert_true(result.shots[i].mean == 1.0 && result.shots[i].std == 0.0);
    }
    cps_few_shot_result_free(&result);
    free(features.values);
}

/* Each component of unit length. */
static void plain_unit(const cps_features *features, double *out) {
    int64_t at = 0;
    for (int32_t c = 0; c < features->component_count; c++) {
        double squares = 0.0;
        for (int64_t i = at; i < at + features->widths[c]; i++) {
            squares += out[i] * out[i];
        }
        for (int64_t i = at; i < at + features->widths[c]; i++) {
            out[i] /= sqrt(squares);
        }
        at += features->widths[c];
    }
}

/* Row `row` minus the mean of the support. */
static void plain_row(const cps_features *features, const double *mean, int64_t row, double *out) {
    for (int64_t i = 0; i < features->width; i++) {
        out[i] = (double)features->values[row * features->width + i] - mean[i];
    }
}

enum { ROWS = 1700, CLASSES = 40, K = 3, WIDTH = 9 };

static void plain_centroids(const cps_features *features, cps_averaging averaging,
                            const int64_t *support, const double *mean,
                            double centroids[CLASSES][WIDTH]) {
    memset(centroids, 0, CLASSES * sizeof *centroids);
    for (int64_t n = 0; n < CLASSES * K; n++) {
        double row[WIDTH];
        plain_row(features, mean, support[n], row);
        if (averaging == CPS_NORMALISE_FIRST) {
            plain_unit(features, row);
        }
        for (int64_t i = 0; i < WIDTH; i++) {
            centroids[n / K][i] += row[i] / K;
        }
    }
    for (int64_t c = 0; c < CLASSES && averaging == CPS_AVERAGE_FIRST; c++) {
        plain_unit(features, centroids[c]);
    }
}

/* Many queries and classes, so that tiles are cut both ways; two components of unequal weight. */
static void compare_with_plain_loops(cps_averaging averaging) {
    static const double weights[] = {1.0, 0.25};
    static const double three = K;
    static int32_t labels[ROWS];
    static const char *names[CLASSES];
    double *values = calloc(ROWS * WIDTH, sizeof *values);
    const cps_draw_key key = {.seed = 4};
    for (int64_t i = 0; i < ROWS; i++) {
        labels[i] = (int32_t)(i % CLASSES);
        for (int64_t j = 0; j < WIDTH; j++) {
            const cps_draw_key centre = {.seed = 5, .position = (uint64_t)(i % CLASSES)};
            values[i * WIDTH + j] = cps_draw_normal(&key, (uint64_t)(i * WIDTH + j)) +
                                    1.5 * cps_draw_normal(&centre, (uint64_t)j);
        }
    }
    cps_features features = features_of(values, ROWS, WIDTH);
    features.component_count = 2;
    features.widths[0] = 5;
    features.widths[1] = 4;
    const cps_few_shot_options options = {
        .shots = {.count = 1, .values = &three}, .folds = 2, .averaging = (int32_t)averaging};
    cps_few_shot_result result = {0};
    assert_int_equal(
        cps_few_shot(comm, &features, labels, CLASSES, names, &options, weights, &result), CPS_OK);
    const cps_shot_result *shot = &result.shots[0];
    int64_t right[2] = {0};
    for (int64_t fold = 0; fold < 2; fold++) {
        const int64_t *support = shot->support + fold * CLASSES * K;
        double mean[WIDTH] = {0}, centroids[CLASSES][WIDTH];
        for (int64_t n = 0; n < CLASSES * K; n++) {
            assert_int_equal(labels[support[n]], shot->classes[n / K]);
            assert_int_equal(shot->predicted[fold * ROWS + support[n]], -1);
            for (int64_t i = 0; i < WIDTH; i++) {
                mean[i] += (double)features.values[support[n] * WIDTH + i] / (CLASSES * K);
            }
        }
        plain_centroids(&features, averaging, support, mean, centroids);
        int64_t queries = 0;
        for (int64_t r = 0; r < ROWS; r++) {
            const int32_t predicted = shot->predicted[fold * ROWS + r];
            if (predicted < 0) {
                continue;
            }
            double row[WIDTH], least = (double)INFINITY, chosen = 0.0;
            plain_row(&features, mean, r, row);
            plain_unit(&features, row);
            for (int64_t c = 0; c < CLASSES; c++) {
                double squared = 0.0;
                for (int64_t i = 0; i < WIDTH; i++) {
                    squared += weights[i >= 5] * pow(row[i] - centroids[c][i], 2.0);
                }
                least = fmin(least, squared);
                chosen = shot->classes[c] == predicted ? squared : chosen;
            }
            assert_true(chosen < least + 1e-5);
            queries++;
            right[fold] += predicted == labels[r];
        }
        assert_int_equal(queries, ROWS - CLASSES * K);
        assert_true(shot->accuracy[fold] == (double)right[fold] / (double)queries);
    }
    const double a = shot->accuracy[0], b = shot->accuracy[1];
    assert_true(a > 2.0 / CLASSES && a < 1.0); /* neither chance nor without mistakes */
    assert_true(fabs(shot->mean - (a + b) / 2.0) < 1e-15);
    assert_true(fabs(shot->std - fabs(a - b) / 2.0) < 1e-15);
    cps_few_shot_result_free(&result);
    free(features.values);
    free(values);
}

static void against_plain_loops(void **state) {
    (void)state;
    compare_with_plain_loops(CPS_NORMALISE_FIRST);
}

static void centroids_of_unit_length(void **state) {
    (void)state;
    compare_with_plain_loops(CPS_AVERAGE_FIRST);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deck_in_order_of_appearance),
        cmocka_unit_test(draws_of_python),
        cmocka_unit_test(short_classes),
        cmocka_unit_test(by_hand),
        cmocka_unit_test(one_class),
        cmocka_unit_test(against_plain_loops),
        cmocka_unit_test(centroids_of_unit_length),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
