/* BioCLIP's evaluations: few-shot draws, distances and accuracies, zero-shot classifiers, what a
 * prediction is worth at each rank. Everything is computed by runtime/eval. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "base/file.h"
#include "bioclip.h"
#include "eval/few_shot.h"
#include "eval/taxonomy.h"
#include "prompts.h"
#include "ranks.h"
#include "tensor/gemm.h"
#include "vectors.h"

static const double one = 1.0;

static double tolerance(void) {
    return vectors_tolerance(1e-12, 1e-5);
}

static void *room(int64_t count, size_t bytes) {
    void *memory = calloc((size_t)count + 1, bytes);
    if (memory == NULL) {
        vectors_unusable("out of memory");
    }
    return memory;
}

/* Integers: a case where the file has the dataset. */
static void expect_integers(cps_h5 *file, const char *group, const char *name, const int64_t *got,
                            int64_t count) {
    char *path = cps_format("%s/%s", group, name);
    if (cps_h5_has(file, path)) {
        vectors_expect_i64(file, path, got, count);
    }
    free(path);
}

static int32_t *read_labels(cps_h5 *file, const char *path, int64_t rows, int64_t *most_out) {
    int64_t count = 0;
    int64_t *given = vectors_read_i64(file, path, &count);
    int32_t *labels = room(rows, sizeof *labels);
    if (given == NULL || count != rows) {
        vectors_unusable("'%s' does not hold a class for each of %lld rows", path, (long long)rows);
    }
    *most_out = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (given[i] < 0 || given[i] > 1000000) {
            vectors_unusable("'%s' holds %lld, wanted are classes from 0 on", path,
                             (long long)given[i]);
        }
        labels[i] = (int32_t)given[i];
        *most_out = labels[i] > *most_out ? labels[i] : *most_out;
    }
    free(given);
    return labels;
}

static cps_features unit_features(const vectors_matrix *from) {
    cps_features features = {
        .rows = from->rows, .width = from->width, .component_count = 1, .widths = {from->width}};
    features.values = room(from->rows * from->width, sizeof *features.values);
    for (int64_t i = 0; i < from->rows * from->width; i++) {
        features.values[i] = (cps_real)from->values[i];
    }
    cps_features_normalise(&features);
    return features;
}

/* ---- few-shot ---- */

enum { MOST_SHOTS = 64 };

/* The numbers of shots and folds that the file has, and both variants' results. */
typedef struct few_shot_case {
    cps_h5 *file;
    cps_features features;
    int32_t *labels;
    int64_t label_count;
    double shots[MOST_SHOTS]; /* ascending */
    int64_t shot_count, folds;
    cps_few_shot_result results[2]; /* by cps_shot_variant */
} few_shot_case;

/* N of a name such as "k3"; -1: it is another. */
static int64_t number_of(const char *name, const char *prefix) {
    const size_t length = strlen(prefix);
    char *end = NULL;
    if (strncmp(name, prefix, length) != 0 || name[length] < '0' || name[length] > '9') {
        return -1;
    }
    const long long number = strtoll(name + length, &end, 10);
    return *end == '\0' && number < 1000000 ? number : -1;
}

static int compare_doubles(const void *a, const void *b) {
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void list_cases(few_shot_case *all) {
    char **names = NULL;
    int64_t count = 0;
    vectors_need(cps_h5_list(all->file, "few_shot", &names, &count));
    for (int64_t i = 0; i < count; i++) {
        const int64_t k = number_of(names[i], "k");
        if (k < 1) {
            continue;
        }
        if (all->shot_count == MOST_SHOTS) {
            vectors_unusable("few_shot has more than %d groups", (int)MOST_SHOTS);
        }
        all->shots[all->shot_count++] = (double)k;
        char **folds = NULL, *group = cps_format("few_shot/%s", names[i]);
        int64_t fold_count = 0;
        vectors_need(cps_h5_list(all->file, group, &folds, &fold_count));
        for (int64_t f = 0; f < fold_count; f++) {
            const int64_t fold = number_of(folds[f], "fold");
            all->folds = fold >= all->folds ? fold + 1 : all->folds;
        }
        cps_strings_destroy(folds, fold_count);
        free(group);
    }
    cps_strings_destroy(names, count);
    qsort(all->shots, (size_t)all->shot_count, sizeof *all->shots, compare_doubles);
}

/* One draw: its rows, what is said of the queries, distances where `distance` is named. */
static void check_episode(const few_shot_case *all, int64_t shot, int64_t fold,
                          const cps_episode *episode, cps_shot_variant variant) {
    const cps_shot_result *result = &all->results[variant].shots[shot];
    const char *mark = variant == CPS_SHOT_IN_PLACE ? "v1_" : "";
    char group[96], name[32];
    snprintf(group, sizeof group, "few_shot/k%lld/fold%lld", (long long)result->k, (long long)fold);
    const int64_t queries = episode->query_count, classes = episode->class_count;
    int32_t *predicted = room(queries, sizeof *predicted);
    int64_t *said = room(queries, sizeof *said);
    double *distance = room(queries * classes, sizeof *distance);
    vectors_need(cps_simple_shot(vectors_comm(), &all->features, episode, &one, CPS_NORMALISE_FIRST,
                                 predicted, distance));
    for (int64_t q = 0; q < queries; q++) {
        said[q] = result->predicted[fold * all->features.rows + episode->query[q]];
        if (said[q] != episode->labels[predicted[q]]) {
            vectors_broken(group, 0.0, "query %lld is class %lld by one way and %d by the other",
                           (long long)q, (long long)said[q], (int)episode->labels[predicted[q]]);
        }
    }
    snprintf(name, sizeof name, "%ssupport", mark);
    expect_integers(all->file, group, name,
                    result->support + fold * result->class_count * result->k,
                    result->class_count * result->k);
    snprintf(name, sizeof name, "%squery", mark);
    expect_integers(all->file, group, name, episode->query, queries);
    snprintf(name, sizeof name, "%spred", mark);
    expect_integers(all->file, group, name, said, queries);
    snprintf(name, sizeof name, "%sacc", mark);
    vectors_expect_in(all->file, group, name, &result->accuracy[fold], 1, tolerance());
    snprintf(name, sizeof name, "%sdistance", mark);
    vectors_expect_in(all->file, group, name, distance, queries * classes, tolerance());
    free(predicted);
    free(said);
    free(distance);
}

static void check_variant(few_shot_case *all, cps_shot_variant variant) {
    cps_shot_deck deck = {0};
    vectors_need(cps_shot_deck_create(all->labels, all->features.rows, all->label_count, &deck));
    if (variant == CPS_SHOT_STATELESS) {
        int64_t *order = room(deck.class_count, sizeof *order);
        for (int64_t c = 0; c < deck.class_count; c++) {
            order[c] = deck.labels[c];
        }
        expect_integers(all->file, "few_shot", "class_order", order, deck.class_count);
        free(order);
    }
    for (int64_t shot = 0; shot < all->shot_count; shot++) {
        const cps_shot_result *result = &all->results[variant].shots[shot];
        for (int64_t fold = 0; fold < all->folds; fold++) {
            cps_episode episode = {0};
            cps_shot_deck_shuffle(&deck, (uint64_t)fold, variant);
            vectors_need(cps_episode_deal(&deck, result->k, CPS_SHORT_KEEP, &episode));
            check_episode(all, shot, fold, &episode, variant);
            cps_episode_free(&episode);
        }
        const char *mark = variant == CPS_SHOT_IN_PLACE ? "v1_" : "";
        char group[64], name[32];
        snprintf(group, sizeof group, "few_shot/k%lld", (long long)result->k);
        snprintf(name, sizeof name, "%smean_acc", mark);
        vectors_expect_in(all->file, group, name, &result->mean, 1, tolerance());
        snprintf(name, sizeof name, "%sstd_acc", mark);
        vectors_expect_in(all->file, group, name, &result->std, 1, tolerance());
    }
    cps_shot_deck_free(&deck);
}

static void few_shot(cps_h5 *file) {
    few_shot_case all = {.file = file};
    vectors_matrix features = vectors_matrix_read(file, "few_shot", "features");
    all.features = unit_features(&features);
    all.labels = read_labels(file, "few_shot/target", features.rows, &all.label_count);
    all.label_count++;
    list_cases(&all);
    const char **names = room(all.label_count, sizeof *names);
    for (int64_t i = 0; i < all.label_count; i++) {
        names[i] = "a class";
    }
    for (int32_t variant = 0; variant < 2 && all.shot_count > 0; variant++) {
        const cps_few_shot_options options = {.shots = {all.shot_count, all.shots},
                                              .folds = all.folds,
                                              .variant = variant,
                                              .short_classes = CPS_SHORT_KEEP};
        vectors_need(cps_few_shot(vectors_comm(), &all.features, all.labels, all.label_count, names,
                                  &options, &one, &all.results[variant]));
        check_variant(&all, (cps_shot_variant)variant);
        cps_few_shot_result_free(&all.results[variant]);
    }
    free(names);
    free(all.labels);
    free(features.values);
    cps_features_free(&all.features);
}

/* ---- zero-shot ---- */

static void check_classifier(cps_h5 *file, const cps_features *classes) {
    double *columns = room(classes->rows * classes->width, sizeof *columns);
    for (int64_t c = 0; c < classes->rows; c++) {
        for (int64_t i = 0; i < classes->width; i++) {
            columns[i * classes->rows + c] = (double)classes->values[c * classes->width + i];
        }
    }
    vectors_expect_in(file, "zero_shot", "classifier", columns, classes->rows * classes->width,
                      tolerance());
    free(columns);
}

/* Scores of all classes, from the ordered lists. */
static void check_scores(cps_h5 *file, const cps_predictions *predictions, double scale) {
    const int64_t rows = predictions->rows, classes = predictions->top;
    double *logits = room(rows * classes, sizeof *logits);
    double *probs = room(rows * classes, sizeof *probs);
    cps_real *scores = room(classes, sizeof *scores);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t place = 0; place < classes; place++) {
            const int64_t at = i * classes + place;
            scores[predictions->index[at]] = predictions->score[at];
            logits[i * classes + predictions->index[at]] = scale * (double)predictions->score[at];
        }
        cps_score_softmax(scores, classes, scale, probs + i * classes);
    }
    vectors_expect_in(file, "zero_shot", "logits", logits, rows * classes, tolerance());
    vectors_expect_in(file, "zero_shot", "probs", probs, rows * classes, tolerance());
    free(logits);
    free(probs);
    free(scores);
}

static void check_top(cps_h5 *file, const cps_predictions *predictions, const int32_t *labels) {
    int64_t count = 0;
    int64_t *topk = vectors_read_i64(file, "zero_shot/topk", &count);
    double *correct = room(count, sizeof *correct), *accuracy = room(count, sizeof *accuracy);
    for (int64_t i = 0; i < count; i++) {
        int64_t labelled = 0;
        const int64_t right = cps_predictions_hits(predictions, labels, topk[i], &labelled);
        correct[i] = (double)right;
        accuracy[i] = (double)right / (double)labelled;
    }
    vectors_expect_in(file, "zero_shot", "top_correct", correct, count, tolerance());
    vectors_expect_in(file, "zero_shot", "top_accuracy", accuracy, count, tolerance());
    free(topk);
    free(correct);
    free(accuracy);
}

static void zero_shot(cps_h5 *file) {
    cps_features classes =
        vectors_class_vectors(file, "zero_shot/text_features_raw", 0, CPS_NORMALISE_FIRST);
    vectors_matrix raw = vectors_matrix_read(file, "zero_shot", "image_features_raw");
    cps_features images = unit_features(&raw);
    int64_t most = 0;
    int32_t *labels = read_labels(file, "zero_shot/target", raw.rows, &most);
    if (images.width != classes.width || most >= classes.rows) {
        vectors_unusable("zero_shot: images, texts and targets do not agree");
    }
    cps_predictions predictions = {0};
    vectors_need(
        cps_zero_shot(vectors_comm(), &images, &classes, &one, classes.rows, &predictions));
    check_classifier(file, &classes);
    check_scores(file, &predictions, vectors_number(file, "zero_shot", "scale"));
    if (cps_h5_has(file, "zero_shot/topk")) {
        check_top(file, &predictions, labels);
    }
    cps_predictions_free(&predictions);
    cps_features_free(&images);
    cps_features_free(&classes);
    free(raw.values);
    free(labels);
}

/* ---- ranks ---- */

/* Organisms of the table of the texts. */
static cps_taxonomy *read_table(const cps_json *table, int32_t *organisms) {
    cps_taxonomy *taxonomy = NULL;
    vectors_need(cps_taxonomy_create(&taxonomy));
    int64_t row = 0;
    for (const cps_json *at = cps_json_first(table); at != NULL; at = cps_json_next(at), row++) {
        const cps_json *ranks = cps_json_get(at, "taxon");
        cps_taxon_fields fields = {0};
        for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
            fields.ranks[rank] = cps_json_string(cps_json_at(ranks, rank));
        }
        vectors_need(cps_taxonomy_add_record(taxonomy, &fields, &organisms[row]));
        if (organisms[row] < 0) {
            vectors_unusable("row %lld of class_index.table names no organism", (long long)row);
        }
    }
    return taxonomy;
}

static void check_pairs(cps_h5 *file, const cps_taxonomy *taxonomy, const int32_t *organisms,
                        const int32_t *predicted, const int32_t *truths, int64_t rows) {
    int64_t *correct = room(rows * CPS_TAXON_RANKS, sizeof *correct);
    int64_t *depths = room(rows, sizeof *depths);
    cps_rank_counts counts = {0};
    for (int64_t i = 0; i < rows; i++) {
        const int32_t *path = cps_taxonomy_path(taxonomy, organisms[predicted[i]]);
        const int32_t *truth = cps_taxonomy_path(taxonomy, organisms[truths[i]]);
        depths[i] = cps_taxonomy_shared_depth(path, truth);
        for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
            correct[i * CPS_TAXON_RANKS + rank] = path[rank] == truth[rank];
        }
        cps_rank_counts_add(&counts, path, truth, predicted[i] != truths[i]);
    }
    cps_json *metrics = cps_json_new_object();
    cps_rank_counts_report(&counts, "", metrics);
    double accuracy[CPS_TAXON_RANKS];
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        char key[32];
        snprintf(key, sizeof key, "rank_%s", cps_taxon_rank_names[rank]);
        accuracy[rank] = cps_json_get_number(metrics, key, -1.0);
    }
    expect_integers(file, "hier_eval", "path_correct", correct, rows * CPS_TAXON_RANKS);
    expect_integers(file, "hier_eval", "shared_depth", depths, rows);
    vectors_expect_in(file, "hier_eval", "rank_accuracy", accuracy, CPS_TAXON_RANKS, tolerance());
    cps_json_destroy(metrics);
    free(correct);
    free(depths);
}

static void hierarchy(cps_h5 *file, const cps_json *json) {
    const cps_json *table = cps_json_path(json, "class_index.table");
    cps_h5_info info;
    vectors_need(cps_h5_inspect(file, "hier_eval/pred", &info));
    if (cps_json_count(table) == 0) {
        return; /* without texts nothing can be looked up */
    }
    int64_t most = 0, most_true = 0;
    int32_t *predicted = read_labels(file, "hier_eval/pred", info.count, &most);
    int32_t *truths = read_labels(file, "hier_eval/target", info.count, &most_true);
    if (most >= cps_json_count(table) || most_true >= cps_json_count(table)) {
        vectors_unusable("hier_eval names rows that class_index.table has not");
    }
    int32_t *organisms = room(cps_json_count(table), sizeof *organisms);
    cps_taxonomy *taxonomy = read_table(table, organisms);
    check_pairs(file, taxonomy, organisms, predicted, truths, info.count);
    cps_taxonomy_destroy(taxonomy);
    free(organisms);
    free(predicted);
    free(truths);
}

void bioclip_evaluation(cps_h5 *file, const cps_json *json) {
    cps_gemm_start();
    if (cps_h5_has(file, "few_shot")) {
        few_shot(file);
    }
    if (cps_h5_has(file, "zero_shot")) {
        zero_shot(file);
    }
    if (cps_h5_has(file, "hier_eval")) {
        hierarchy(file, json);
    }
}
