#include "eval/few_shot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "base/rng.h"
#include "comm/agree.h"
#include "eval/score.h"

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for few-shot classification: evaluate "
                                         "fewer samples, or give each rank more memory");
}

/* ---- the deck ---- */

/* Columns of labels in the order of their first row: column[label], -1 where there is none. */
static int64_t order_classes(const int32_t *labels, int64_t rows, int64_t label_count,
                             int64_t *column, cps_shot_deck *deck) {
    for (int64_t label = 0; label < label_count; label++) {
        column[label] = -1;
    }
    int64_t labelled = 0;
    for (int64_t i = 0; i < rows; i++) {
        CPS_BUG_IF(labels[i] >= label_count);
        if (labels[i] < 0) {
            continue;
        }
        if (column[labels[i]] < 0) {
            column[labels[i]] = deck->class_count;
            deck->labels[deck->class_count++] = labels[i];
        }
        deck->first[column[labels[i]] + 1]++;
        labelled++;
    }
    for (int64_t c = 0; c < deck->class_count; c++) {
        deck->first[c + 1] += deck->first[c];
    }
    return labelled;
}

cps_status cps_shot_deck_create(const int32_t *labels, int64_t rows, int64_t label_count,
                                cps_shot_deck *deck_out) {
    cps_shot_deck deck = {.labels = cps_allocate_zero(label_count, 1, sizeof *deck.labels),
                          .first = cps_allocate_zero(label_count + 1, 1, sizeof *deck.first),
                          .rows = cps_allocate_zero(rows, 1, sizeof *deck.rows),
                          .ordered = cps_allocate_zero(rows, 1, sizeof *deck.ordered)};
    int64_t *column = cps_allocate_zero(label_count, 1, sizeof *column);
    int64_t *at = cps_allocate_zero(label_count, 1, sizeof *at);
    if (deck.labels == NULL || deck.first == NULL || deck.rows == NULL || deck.ordered == NULL ||
        column == NULL || at == NULL) {
        free(column);
        free(at);
        cps_shot_deck_free(&deck);
        return fail_memory();
    }
    const int64_t labelled = order_classes(labels, rows, label_count, column, &deck);
    memcpy(at, deck.first, (size_t)deck.class_count * sizeof *at);
    for (int64_t i = 0; i < rows; i++) {
        if (labels[i] >= 0) {
            deck.ordered[at[column[labels[i]]]++] = i;
        }
    }
    memcpy(deck.rows, deck.ordered, (size_t)labelled * sizeof *deck.rows);
    free(column);
    free(at);
    *deck_out = deck;
    return CPS_OK;
}

void cps_shot_deck_free(cps_shot_deck *deck) {
    free(deck->labels);
    free(deck->first);
    free(deck->rows);
    free(deck->ordered);
    *deck = (cps_shot_deck){0};
}

void cps_shot_deck_shuffle(cps_shot_deck *deck, uint64_t seed, cps_shot_variant variant) {
    cps_mt19937 mt;
    cps_mt19937_seed_integer(&mt, seed);
    if (variant == CPS_SHOT_STATELESS) {
        memcpy(deck->rows, deck->ordered,
               (size_t)deck->first[deck->class_count] * sizeof *deck->rows);
    }
    for (int64_t c = 0; c < deck->class_count; c++) {
        int64_t *const rows = deck->rows + deck->first[c];
        for (int64_t i = deck->first[c + 1] - deck->first[c] - 1; i > 0; i--) {
            const uint32_t other = cps_mt19937_below(&mt, (uint32_t)(i + 1));
            const int64_t row = rows[i];
            rows[i] = rows[other];
            rows[other] = row;
        }
    }
}

/* ---- an episode ---- */

cps_status cps_episode_deal(const cps_shot_deck *deck, int64_t k, cps_short_classes short_classes,
                            cps_episode *episode_out) {
    const int64_t rows = deck->first[deck->class_count];
    cps_episode episode = {
        .labels = cps_allocate_zero(deck->class_count, 1, sizeof *episode.labels),
        .support_first = cps_allocate_zero(deck->class_count + 1, 1, sizeof *episode.support_first),
        .support = cps_allocate_zero(rows, 1, sizeof *episode.support),
        .query = cps_allocate_zero(rows, 1, sizeof *episode.query)};
    if (episode.labels == NULL || episode.support_first == NULL || episode.support == NULL ||
        episode.query == NULL) {
        cps_episode_free(&episode);
        return fail_memory();
    }
    int64_t supports = 0;
    for (int64_t c = 0; c < deck->class_count; c++) {
        const int64_t first = deck->first[c], last = deck->first[c + 1];
        const bool is_short = last - first < k;
        episode.short_count += is_short;
        if (is_short && short_classes == CPS_SHORT_LEAVE_OUT) {
            continue;
        }
        for (int64_t i = first; i < last; i++) {
            if (i - first < k) {
                episode.support[supports++] = deck->rows[i];
            } else {
                episode.query[episode.query_count++] = deck->rows[i];
            }
        }
        episode.labels[episode.class_count++] = deck->labels[c];
        episode.support_first[episode.class_count] = supports;
    }
    *episode_out = episode;
    return CPS_OK;
}

void cps_episode_free(cps_episode *episode) {
    free(episode->labels);
    free(episode->support_first);
    free(episode->support);
    free(episode->query);
    *episode = (cps_episode){0};
}

/* ---- SimpleShot ---- */

/* What a rank holds of an episode. */
typedef struct shots {
    const cps_features *images;
    const cps_episode *episode;
    const double *weights;
    cps_averaging averaging;
    int64_t first, last;    /* this rank's queries */
    double *mean;           /* [width] of all support rows */
    double *row;            /* [width] one row at work */
    cps_features centroids; /* [class_count] */
    cps_features queries;   /* [last - first] */
    double *centroid_squares, *query_squares;
    double *least; /* [last - first]: smallest squared distance so far */
    int32_t *predicted;
    double *distance; /* NULL: not wanted */
} shots;

/* An empty matrix of the shape of `like`. */
static cps_features matrix_like(const cps_features *like, int64_t rows) {
    cps_features matrix = {
        .rows = rows, .width = like->width, .component_count = like->component_count};
    memcpy(matrix.widths, like->widths, sizeof matrix.widths);
    matrix.values = cps_allocate_zero(rows, like->width, sizeof *matrix.values);
    return matrix;
}

static bool shots_allocate(shots *s) {
    const int64_t width = s->images->width, classes = s->episode->class_count;
    s->mean = cps_allocate_zero(width, 1, sizeof *s->mean);
    s->row = cps_allocate_zero(width, 1, sizeof *s->row);
    s->centroids = matrix_like(s->images, classes);
    s->queries = matrix_like(s->images, s->last - s->first);
    s->centroid_squares = cps_allocate_zero(classes, 1, sizeof *s->centroid_squares);
    s->query_squares = cps_allocate_zero(s->last - s->first, 1, sizeof *s->query_squares);
    s->least = cps_allocate_zero(s->last - s->first, 1, sizeof *s->least);
    return s->mean != NULL && s->row != NULL && s->centroids.values != NULL &&
           s->queries.values != NULL && s->centroid_squares != NULL && s->query_squares != NULL &&
           s->least != NULL;
}

static void shots_free(shots *s) {
    free(s->mean);
    free(s->row);
    cps_features_free(&s->centroids);
    cps_features_free(&s->queries);
    free(s->centroid_squares);
    free(s->query_squares);
    free(s->least);
}

/* Each component of s->row to unit length; what is zero stays zero. */
static void normalise(const shots *s) {
    double *row = s->row;
    for (int32_t c = 0; c < s->images->component_count; row += s->images->widths[c], c++) {
        double squares = 0.0;
        for (int64_t i = 0; i < s->images->widths[c]; i++) {
            squares += row[i] * row[i];
        }
        const double norm = sqrt(squares);
        for (int64_t i = 0; i < s->images->widths[c] && norm > 0.0; i++) {
            row[i] /= norm;
        }
    }
}

/* The features of a row minus the mean into s->row. */
static void centre(const shots *s, int64_t row) {
    const cps_real *values = s->images->values + row * s->images->width;
    for (int64_t i = 0; i < s->images->width; i++) {
        s->row[i] = (double)values[i] - s->mean[i];
    }
}

static void find_mean(shots *s) {
    const int64_t width = s->images->width;
    const int64_t supports = s->episode->support_first[s->episode->class_count];
    for (int64_t n = 0; n < supports; n++) {
        const cps_real *values = s->images->values + s->episode->support[n] * width;
        for (int64_t i = 0; i < width; i++) {
            s->mean[i] += (double)values[i];
        }
    }
    for (int64_t i = 0; i < width; i++) {
        s->mean[i] /= (double)supports;
    }
}

/* Sum over components of weight x squares of a row as it is stored. */
static double weighted_squares(const shots *s, const cps_real *values) {
    double sum = 0.0;
    for (int32_t c = 0; c < s->images->component_count; values += s->images->widths[c], c++) {
        sum += s->weights[c] * cps_sum_squares(values, s->images->widths[c]);
    }
    return sum;
}

/* The centroid of a class's support into s->row. `sum`: [width] scratch. */
static void find_centroid(shots *s, int64_t first, int64_t last, double *sum) {
    const bool average_first = s->averaging == CPS_AVERAGE_FIRST;
    memset(sum, 0, (size_t)s->images->width * sizeof *sum);
    for (int64_t n = first; n < last; n++) {
        centre(s, s->episode->support[n]);
        if (!average_first) {
            normalise(s);
        }
        for (int64_t i = 0; i < s->images->width; i++) {
            sum[i] += s->row[i];
        }
    }
    for (int64_t i = 0; i < s->images->width; i++) {
        s->row[i] = sum[i] / (double)(last - first);
    }
    if (average_first) {
        normalise(s);
    }
}

/* s->row as it is stored. */
static void store(const shots *s, cps_real *values) {
    for (int64_t i = 0; i < s->images->width; i++) {
        values[i] = (cps_real)s->row[i];
    }
}

/* `sum`: [width] scratch. */
static void find_centroids(shots *s, double *sum) {
    for (int64_t c = 0; c < s->episode->class_count; c++) {
        cps_real *centroid = s->centroids.values + c * s->images->width;
        find_centroid(s, s->episode->support_first[c], s->episode->support_first[c + 1], sum);
        store(s, centroid);
        s->centroid_squares[c] = weighted_squares(s, centroid);
    }
}

static void centre_queries(shots *s) {
    for (int64_t q = 0; q < s->last - s->first; q++) {
        cps_real *query = s->queries.values + q * s->images->width;
        centre(s, s->episode->query[s->first + q]);
        normalise(s);
        store(s, query);
        s->query_squares[q] = weighted_squares(s, query);
    }
}

/* |q - c|^2 = |q|^2 + |c|^2 - 2 q.c; columns come in ascending order, so equal ones keep the first.
 */
static void visit_nearest(void *context, const cps_score_tile *tile) {
    const shots *s = context;
    const int64_t classes = s->episode->class_count;
    for (int64_t i = 0; i < tile->rows; i++) {
        const int64_t query = tile->first_row + i;
        const cps_real *scores = tile->scores + i * tile->stride;
        for (int64_t j = 0; j < tile->columns; j++) {
            const int64_t column = tile->first_column + j;
            const double squared =
                s->query_squares[query] + s->centroid_squares[column] - 2.0 * (double)scores[j];
            if (column == 0 || squared < s->least[query]) {
                s->least[query] = squared;
                s->predicted[s->first + query] = (int32_t)column;
            }
            if (s->distance != NULL) {
                s->distance[(s->first + query) * classes + column] = sqrt(fmax(squared, 0.0));
            }
        }
    }
}

static cps_status find_nearest(shots *s) {
    double *sum = cps_allocate_zero(s->images->width, 1, sizeof *sum);
    if (!shots_allocate(s) || sum == NULL) {
        free(sum);
        return fail_memory();
    }
    find_mean(s);
    find_centroids(s, sum);
    free(sum);
    centre_queries(s);
    const cps_score_job job = {.queries = &s->queries,
                               .gallery = &s->centroids,
                               .weights = s->weights,
                               .visit = visit_nearest,
                               .context = s};
    return cps_score_visit(&job, 0, s->last - s->first);
}

cps_status cps_simple_shot(cps_comm *comm, const cps_features *images, const cps_episode *episode,
                           const double *weights, cps_averaging averaging, int32_t *predicted_out,
                           double *distance_out) {
    static const char place[] = "few-shot";
    shots s = {.images = images,
               .episode = episode,
               .weights = weights,
               .averaging = averaging,
               .predicted = predicted_out,
               .distance = distance_out};
    if (episode->query_count == 0) {
        return CPS_OK;
    }
    cps_score_range(episode->query_count, cps_comm_size(comm), cps_comm_rank(comm), &s.first,
                    &s.last);
    const cps_status status = cps_agree(comm, place, find_nearest(&s));
    shots_free(&s);
    CPS_TRY(status);
    cps_score_gather(comm, place, predicted_out, episode->query_count, sizeof *predicted_out);
    if (distance_out != NULL) {
        cps_score_gather(comm, place, distance_out, episode->query_count,
                         (size_t)episode->class_count * sizeof *distance_out);
    }
    return CPS_OK;
}

/* ---- shots and folds ---- */

cps_status cps_few_shot_check(const cps_shot_deck *deck, const cps_few_shot_options *options,
                              const char *const *names) {
    for (int64_t i = 0; i < options->shots.count; i++) {
        const int64_t k = (int64_t)options->shots.values[i];
        int64_t largest = 0;
        for (int64_t c = 0; c < deck->class_count; c++) {
            const int64_t size = deck->first[c + 1] - deck->first[c];
            largest = cps_max_i64(largest, size);
            if (size < k && options->short_classes == CPS_SHORT_ERROR) {
                return cps_fail(CPS_ERR_DATA,
                                "class '%s' has %lld labelled image%s, shots holds %lld: take "
                                "fewer shots, or say short_classes = \"leave_out\" (such classes "
                                "stay out) or \"keep\" (all their images are support)",
                                names[deck->labels[c]], (long long)size, size == 1 ? "" : "s",
                                (long long)k);
            }
        }
        if (largest <= k) {
            return cps_fail(CPS_ERR_DATA,
                            "shots holds %lld, but the largest class has %lld labelled image%s, so "
                            "none is left to classify: take fewer shots",
                            (long long)k, (long long)largest, largest == 1 ? "" : "s");
        }
    }
    return CPS_OK;
}

/* An episode's support and answers at their places in the fold. */
static void take_fold(const cps_episode *episode, const int32_t *labels, const int32_t *predicted,
                      int64_t fold, int64_t rows, cps_shot_result *shot) {
    int64_t *support = shot->support + fold * shot->class_count * shot->k;
    int32_t *answers = shot->predicted + fold * rows;
    int64_t right = 0;
    for (int64_t c = 0; c < shot->class_count; c++) {
        const int64_t first = episode->support_first[c], last = episode->support_first[c + 1];
        for (int64_t n = 0; n < shot->k; n++) {
            support[c * shot->k + n] = first + n < last ? episode->support[first + n] : -1;
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        answers[i] = -1;
    }
    for (int64_t q = 0; q < episode->query_count; q++) {
        const int64_t row = episode->query[q];
        answers[row] = episode->labels[predicted[q]];
        right += answers[row] == labels[row];
    }
    shot->accuracy[fold] = (double)right / (double)episode->query_count;
}

/* Memory of a result of one number of shots, when its first episode tells how many classes there
 * are. */
static cps_status shot_result_begin(const cps_episode *episode, int64_t folds, int64_t rows,
                                    cps_shot_result *shot) {
    int64_t per_fold;
    shot->class_count = episode->class_count;
    shot->short_count = episode->short_count;
    if (!cps_mul_i64(shot->class_count, shot->k, &per_fold)) {
        return fail_memory();
    }
    shot->classes = cps_allocate_zero(shot->class_count, 1, sizeof *shot->classes);
    shot->support = cps_allocate_zero(folds, per_fold, sizeof *shot->support);
    shot->predicted = cps_allocate_zero(folds, rows, sizeof *shot->predicted);
    shot->accuracy = cps_allocate_zero(folds, 1, sizeof *shot->accuracy);
    if (shot->classes == NULL || shot->support == NULL || shot->predicted == NULL ||
        shot->accuracy == NULL) {
        return fail_memory();
    }
    memcpy(shot->classes, episode->labels, (size_t)shot->class_count * sizeof *shot->classes);
    return CPS_OK;
}

static void fold_statistics(const double *values, int64_t count, double *mean_out,
                            double *std_out) {
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < count; i++) {
        sum += values[i];
    }
    const double mean = sum / (double)count;
    for (int64_t i = 0; i < count; i++) {
        squares += (values[i] - mean) * (values[i] - mean);
    }
    *mean_out = mean;
    *std_out = sqrt(squares / (double)count);
}

/* Collective. All folds with `shot->k` images of each class. predicted: scratch for the queries. */
static cps_status run_folds(cps_comm *comm, const cps_features *images, const int32_t *labels,
                            const cps_few_shot_options *options, const double *weights,
                            cps_shot_deck *deck, int32_t *predicted, const uint64_t *seeds,
                            cps_shot_result *shot) {
    for (int64_t fold = 0; fold < options->folds; fold++) {
        cps_episode episode = {0};
        cps_shot_deck_shuffle(deck, seeds[fold], (cps_shot_variant)options->variant);
        cps_status status =
            cps_episode_deal(deck, shot->k, (cps_short_classes)options->short_classes, &episode);
        if (status == CPS_OK && fold == 0) {
            status = shot_result_begin(&episode, options->folds, images->rows, shot);
        }
        status = cps_agree(comm, "few-shot", status);
        if (status == CPS_OK) {
            status = cps_simple_shot(comm, images, &episode, weights,
                                     (cps_averaging)options->averaging, predicted, NULL);
        }
        if (status == CPS_OK) {
            take_fold(&episode, labels, predicted, fold, images->rows, shot);
        }
        cps_episode_free(&episode);
        CPS_TRY(status);
        cps_watchdog_beat(comm);
    }
    fold_statistics(shot->accuracy, options->folds, &shot->mean, &shot->std);
    return CPS_OK;
}

/* Memory of the whole and the seeds of the folds. */
static cps_status result_begin(const cps_few_shot_options *options, int64_t rows,
                               cps_few_shot_result *result) {
    *result = (cps_few_shot_result){
        .shot_count = options->shots.count,
        .folds = options->folds,
        .rows = rows,
        .variant = cps_shot_variant_name((cps_shot_variant)options->variant),
        .averaging = cps_averaging_name((cps_averaging)options->averaging),
        .short_classes = cps_short_classes_name((cps_short_classes)options->short_classes)};
    result->seeds = cps_allocate_zero(options->folds, 1, sizeof *result->seeds);
    result->shots = cps_allocate_zero(options->shots.count, 1, sizeof *result->shots);
    if (result->seeds == NULL || result->shots == NULL) {
        return fail_memory();
    }
    for (int64_t fold = 0; fold < options->folds; fold++) {
        result->seeds[fold] = (uint64_t)options->seed + (uint64_t)fold;
    }
    for (int64_t i = 0; i < options->shots.count; i++) {
        result->shots[i].k = (int64_t)options->shots.values[i];
    }
    return CPS_OK;
}

cps_status cps_few_shot(cps_comm *comm, const cps_features *images, const int32_t *labels,
                        int64_t label_count, const char *const *names,
                        const cps_few_shot_options *options, const double *weights,
                        cps_few_shot_result *result_out) {
    cps_shot_deck deck = {0};
    cps_few_shot_result result = {0};
    int32_t *predicted = cps_allocate_zero(images->rows, 1, sizeof *predicted);
    cps_status status = predicted == NULL ? fail_memory() : CPS_OK;
    status =
        status != CPS_OK ? status : cps_shot_deck_create(labels, images->rows, label_count, &deck);
    status = status != CPS_OK ? status : cps_few_shot_check(&deck, options, names);
    status = status != CPS_OK ? status : result_begin(options, images->rows, &result);
    status = cps_agree(comm, "few-shot", status);
    for (int64_t i = 0; i < options->shots.count && status == CPS_OK; i++) {
        status = run_folds(comm, images, labels, options, weights, &deck, predicted, result.seeds,
                           &result.shots[i]);
    }
    free(predicted);
    cps_shot_deck_free(&deck);
    if (status != CPS_OK) {
        cps_few_shot_result_free(&result);
        return status;
    }
    *result_out = result;
    return CPS_OK;
}

void cps_few_shot_result_free(cps_few_shot_result *result) {
    for (int64_t i = 0; result->shots != NULL && i < result->shot_count; i++) {
        free(result->shots[i].classes);
        free(result->shots[i].support);
        free(result->shots[i].predicted);
        free(result->shots[i].accuracy);
    }
    free(result->shots);
    free(result->seeds);
    *result = (cps_few_shot_result){0};
}

size_t cps_few_shot_bytes(const cps_encoder *encoder, int64_t rows, int64_t classes,
                          const cps_few_shot_options *options) {
    size_t width = 0, results = 0;
    for (int32_t c = 0; c < encoder->component_count; c++) {
        width += (size_t)encoder->widths[c];
    }
    for (int64_t i = 0; i < options->shots.count; i++) {
        const int64_t supports = classes * cps_min_i64(rows, (int64_t)options->shots.values[i]);
        results += (size_t)options->folds *
                   ((size_t)supports * sizeof(int64_t) + (size_t)rows * sizeof(int32_t));
    }
    const size_t matrices = (size_t)(rows + classes) * width * sizeof(cps_real);
    const size_t lists = (size_t)(rows + classes) * (6 * sizeof(int64_t) + sizeof(double));
    return matrices + lists + 3 * width * sizeof(double) + results;
}
