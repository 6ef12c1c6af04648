/* What is reported of an image's probabilities: the best taxa of each rank, labels, bins. Every
 * stored row is compared, column by column; a row or column too many or too few is a FAIL. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "bioclip.h"
#include "eval/choices.h"
#include "eval/outcome_rows.h"
#include "vectors.h"

enum { NAME_BYTES = 256 };
static const double score_tolerance = 1e-6;

static void need(cps_status status) {
    if (status != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
}

/* One stored list of rows against the outcome of one row of probabilities. */
typedef struct check {
    const cps_outcome_table *table;
    const cps_outcome *outcome;
    const cps_ranked *best;
    const char *where; /* "rank_aggregation/ranks/genus/0" */
} check;

static void compare_cell(const char *name, const cps_outcome_table *table, int32_t column,
                         const char *cell, double score, const cps_json *want) {
    if (column == table->column_count - 1) {
        const double wanted = cps_json_number(want);
        vectors_compare(name, &score, &wanted, 1, score_tolerance);
    } else if (cps_json_string(want) == NULL) {
        vectors_broken(name, 0, "a text is wanted");
    } else {
        vectors_compare_text(name, cell, cps_json_string(want));
    }
}

static void compare_row(const check *c, int64_t index, const cps_json *want) {
    cps_outcome_row row;
    cps_outcome_row_fill(c->table, cps_json_get_string(want, "file_name", ""), c->outcome,
                         &c->best[index], &row);
    char name[NAME_BYTES];
    for (int32_t i = 0; i < c->table->column_count; i++) {
        const char *column = c->table->columns[i];
        snprintf(name, sizeof name, "%s/%lld/%s", c->where, (long long)index, column);
        const cps_json *value = cps_json_get(want, column);
        if (value == NULL) {
            vectors_broken(name, 0, "the stored row lacks this column");
        } else {
            compare_cell(name, c->table, i, row.cells[i], c->best[index].score, value);
        }
    }
    snprintf(name, sizeof name, "%s/%lld/columns", c->where, (long long)index);
    const int64_t got = c->table->column_count, wanted = cps_json_count(want);
    vectors_compare_i64(name, &got, &wanted, 1);
    cps_outcome_row_free(&row);
}

static void compare_rows(const check *c, const cps_json *want) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s/rows", c->where);
    const int64_t wanted = cps_json_count(want);
    vectors_compare_i64(name, &c->outcome->count, &wanted, 1);
    int64_t index = 0;
    for (const cps_json *row = cps_json_first(want); row != NULL && index < c->outcome->count;
         row = cps_json_next(row)) {
        compare_row(c, index++, row);
    }
}

/* ---- probabilities ---- */

typedef struct images {
    int64_t count, classes;
    cps_real *probabilities; /* [count, classes] */
} images;

static images read_images(const cps_json *list, int64_t classes) {
    images all = {cps_json_count(list), classes, NULL};
    all.probabilities = calloc((size_t)(all.count * classes) + 1, sizeof *all.probabilities);
    int64_t at = 0;
    for (const cps_json *image = cps_json_first(list); image != NULL;
         image = cps_json_next(image)) {
        if (cps_json_count(image) != classes) {
            vectors_unusable("rank_aggregation/probs: a row of %lld numbers for %lld classes",
                             (long long)cps_json_count(image), (long long)classes);
        }
        for (const cps_json *value = cps_json_first(image); value != NULL;
             value = cps_json_next(value)) {
            all.probabilities[at++] = (cps_real)cps_json_number(value);
        }
    }
    return all;
}

/* The outcome of one image, as cps_classifier_rank finds it. */
static cps_outcome outcome_of(const cps_outcome_plan *plan, const cps_real *probabilities,
                              int64_t classes, cps_ranked *best) {
    cps_group_room room = {0};
    cps_outcome outcome = {.rank = -1};
    if (plan->kind == CPS_OUTCOME_CLASSES) {
        outcome.count = cps_rank_classes(probabilities, classes, plan->k, best);
        return outcome;
    }
    need(cps_group_room_create(plan->groups->count, &room));
    outcome.count =
        plan->kind == CPS_OUTCOME_BINS
            ? cps_rank_all_groups(probabilities, classes, plan->groups->of, plan->k, &room, best)
            : cps_rank_groups(probabilities, classes, plan->groups->of, plan->min_prob, plan->k,
                              &room, best);
    cps_group_room_free(&room);
    return outcome;
}

static void compare_image(const cps_outcome_table *table, const cps_outcome_plan *plan,
                          const images *all, int64_t image, const char *where,
                          const cps_json *want) {
    cps_ranked *best = calloc((size_t)plan->k + 1, sizeof *best);
    const cps_outcome outcome =
        outcome_of(plan, all->probabilities + image * all->classes, all->classes, best);
    compare_rows(&(check){table, &outcome, best, where}, want);
    free(best);
}

/* ---- parts ---- */

static cps_class_names read_names(const cps_json *list) {
    cps_class_names names;
    cps_class_names_init(&names, true);
    for (const cps_json *entry = cps_json_first(list); entry != NULL;
         entry = cps_json_next(entry)) {
        const char *texts[CPS_TAXON_FIELDS];
        for (int32_t f = 0; f < CPS_TAXON_FIELDS; f++) {
            texts[f] = cps_json_string(f < CPS_TAXON_RANKS ? cps_json_at(cps_json_at(entry, 0), f)
                                                           : cps_json_at(entry, 1));
        }
        need(cps_class_names_add(&names, texts));
    }
    return names;
}

static void compare_rank(const cps_class_names *names, const images *all, int64_t k,
                         const cps_json *want) {
    const int32_t rank = cps_taxon_rank(cps_json_key(want));
    char where[NAME_BYTES];
    snprintf(where, sizeof where, "rank_aggregation/ranks/%.64s", cps_json_key(want));
    if (rank < 0) {
        vectors_skip(where, "no rank of that name");
        return;
    }
    cps_class_groups groups = {0};
    need(cps_class_groups_of_rank(names, rank, &groups));
    const cps_outcome_plan plan = {.kind = rank == CPS_TAXON_SPECIES ? CPS_OUTCOME_CLASSES
                                                                     : CPS_OUTCOME_GROUPS,
                                   .k = k,
                                   .min_prob = 1e-9,
                                   .groups = &groups};
    cps_outcome_table table;
    cps_outcome_table_init(names, &plan, rank, NULL, &table);
    int64_t image = 0;
    for (const cps_json *rows = cps_json_first(want); rows != NULL && image < all->count;
         rows = cps_json_next(rows)) {
        snprintf(where, sizeof where, "rank_aggregation/ranks/%.64s/%lld", cps_json_key(want),
                 (long long)image);
        compare_image(&table, &plan, all, image++, where, rows);
    }
    snprintf(where, sizeof where, "rank_aggregation/ranks/%.64s/images", cps_json_key(want));
    const int64_t wanted = cps_json_count(want);
    vectors_compare_i64(where, &all->count, &wanted, 1);
    cps_class_groups_free(&groups);
}

/* Labels, or bins of them where bin_of is given; the first image. */
static void compare_labels(const images *all, const cps_json *classes, const cps_json *bin_of,
                           const char *where, const cps_json *want) {
    cps_class_names names;
    cps_class_names_init(&names, false);
    cps_bins bins;
    cps_bins_init(&bins);
    for (const cps_json *label = cps_json_first(classes); label != NULL;
         label = cps_json_next(label)) {
        const char *text = cps_json_string(label);
        need(cps_class_names_add(&names, &text));
        if (bin_of != NULL) {
            need(cps_bins_add(&bins, cps_json_get_string(bin_of, text, "")));
        }
    }
    if (names.count != all->classes) {
        vectors_unusable("%s: %lld labels for %lld classes", where, (long long)names.count,
                         (long long)all->classes);
    }
    const cps_outcome_plan plan = {.kind = bin_of != NULL ? CPS_OUTCOME_BINS : CPS_OUTCOME_CLASSES,
                                   .k = bin_of != NULL ? bins.groups.count : names.count,
                                   .groups = &bins.groups};
    cps_outcome_table table;
    cps_outcome_table_init(&names, &plan, 0, &bins.names, &table);
    compare_image(&table, &plan, all, 0, where, want);
    cps_bins_free(&bins);
    cps_class_names_free(&names);
}

void bioclip_predict(const cps_json *json) {
    const cps_json *part = cps_json_get(json, "rank_aggregation");
    if (part == NULL) {
        return;
    }
    cps_class_names names = read_names(cps_json_get(part, "names"));
    images all = read_images(cps_json_get(part, "probs"), names.count);
    const int64_t k = cps_json_get_integer(part, "k", 0);
    for (const cps_json *rank = cps_json_first(cps_json_get(part, "ranks")); rank != NULL;
         rank = cps_json_next(rank)) {
        compare_rank(&names, &all, k, rank);
    }
    const cps_json *labels = cps_json_get(part, "custom_labels"),
                   *bins = cps_json_get(part, "bins");
    const cps_json *classes = cps_json_get(labels, "classes");
    if (labels != NULL) {
        compare_labels(&all, classes, NULL, "rank_aggregation/custom_labels",
                       cps_json_get(labels, "output"));
    }
    if (bins != NULL && classes != NULL) {
        compare_labels(&all, classes, cps_json_get(bins, "cls_to_bin"), "rank_aggregation/bins",
                       cps_json_get(bins, "output"));
    }
    free(all.probabilities);
    cps_class_names_free(&names);
}
