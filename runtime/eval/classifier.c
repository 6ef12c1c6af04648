/* Rows of images against all classes: one product cut into fixed tiles of classes, then each row by
 * itself. What a row costs beside the product: a softmax and one look at each probability. */
#include "eval/classifier.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "eval/taxonomy.h"
#include "tensor/gemm.h"
#include "tensor/rows.h"

enum { TILE_CLASSES = 1024, SHOWN = 10 };

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the scores of the classes");
}

void cps_classifier_free(cps_classifier *classifier) {
    cps_class_names_free(&classifier->names);
    cps_features_free(&classifier->vectors);
}

/* ---- checking, choosing ---- */

static bool has_direction(const cps_features *vectors, int64_t row) {
    const cps_real *at = vectors->values + row * vectors->width;
    bool all = cps_all_finite(at, vectors->width);
    for (int32_t c = 0; c < vectors->component_count && all; at += vectors->widths[c], c++) {
        all = cps_sum_squares(at, vectors->widths[c]) > 0.0;
    }
    return all;
}

cps_status cps_classifier_check(const cps_classifier *classifier, const char *where) {
    char *list = cps_format("%s", "");
    int64_t bad = 0;
    for (int64_t i = 0; i < classifier->vectors.rows; i++) {
        if (has_direction(&classifier->vectors, i)) {
            continue;
        }
        if (bad++ < SHOWN) {
            char *name = cps_class_long_name(&classifier->names, i);
            char *longer =
                cps_format("%s%s%lld '%s'", list, bad > 1 ? ", " : "", (long long)i + 1, name);
            free(name);
            free(list);
            list = longer;
        }
    }
    cps_status status = CPS_OK;
    if (bad > 0) {
        status = cps_fail(CPS_ERR_DATA,
                          "%s: %lld of %lld class vectors are zero or not finite: %s%s: they were "
                          "never computed; make the classifier again",
                          where, (long long)bad, (long long)classifier->vectors.rows, list,
                          bad > SHOWN ? ", ..." : "");
    }
    free(list);
    return status;
}

cps_status cps_classifier_keep(cps_classifier *classifier, const int64_t *chosen, int64_t count) {
    cps_features *vectors = &classifier->vectors;
    CPS_TRY(cps_class_names_keep(&classifier->names, chosen, count));
    for (int64_t i = 0; i < count && vectors->values != NULL; i++) {
        if (chosen[i] != i) {
            memcpy(vectors->values + i * vectors->width,
                   vectors->values + chosen[i] * vectors->width,
                   (size_t)vectors->width * sizeof *vectors->values);
        }
    }
    vectors->rows = vectors->values != NULL ? count : 0;
    return CPS_OK;
}

/* ---- groups ---- */

void cps_class_groups_free(cps_class_groups *groups) {
    free(groups->of);
    free(groups->first);
    *groups = (cps_class_groups){0};
}

static cps_status add_paths(const cps_class_names *names, int32_t rank, cps_taxonomy *taxonomy,
                            cps_class_groups *groups) {
    for (int64_t i = 0; i < names->count; i++) {
        const char *ranks[CPS_TAXON_RANKS];
        int32_t organism = 0;
        for (int32_t r = 0; r < CPS_TAXON_RANKS; r++) {
            ranks[r] = cps_class_name(names, i, r);
        }
        CPS_TRY(cps_taxonomy_add(taxonomy, ranks, &organism));
        const int32_t path = cps_taxonomy_path(taxonomy, organism)[rank];
        groups->of[i] = path;
        if (path == groups->count) {
            groups->first[groups->count++] = i;
        }
    }
    return CPS_OK;
}

cps_status cps_class_groups_of_rank(const cps_class_names *names, int32_t rank,
                                    cps_class_groups *groups_out) {
    CPS_BUG_IF(!cps_class_names_are_taxa(names) || rank < 0 || rank >= CPS_TAXON_RANKS);
    cps_class_groups groups = {.of = calloc((size_t)names->count + 1, sizeof *groups.of),
                               .first = calloc((size_t)names->count + 1, sizeof *groups.first)};
    cps_taxonomy *taxonomy = NULL;
    cps_status status =
        groups.of == NULL || groups.first == NULL ? fail_memory() : cps_taxonomy_create(&taxonomy);
    if (status == CPS_OK) {
        status = add_paths(names, rank, taxonomy, &groups);
    }
    cps_taxonomy_destroy(taxonomy);
    if (status != CPS_OK) {
        cps_class_groups_free(&groups);
        return status;
    }
    *groups_out = groups;
    return CPS_OK;
}

/* ---- scores ---- */

struct cps_ranker {
    const cps_classifier *classifier;
    const cps_outcome_plan *plan;
    double scale, weights[CPS_MAX_COMPONENTS];
    int64_t rows, block;   /* of a call; held at once */
    cps_real *queries;     /* [block, width], weights applied */
    cps_real *scores;      /* [block, classes], then probabilities */
    int64_t bodies;        /* rows are dealt to that many, each with room of its own */
    cps_group_room *rooms; /* [bodies]; NULL: classes need none */
    /* of the block under way */
    int64_t count;
    cps_outcome *outcomes;
    cps_ranked *best; /* [count, k] */
};

static void score_tile(void *context, int64_t index) {
    const cps_ranker *r = context;
    const cps_features *vectors = &r->classifier->vectors;
    const int64_t first = index * TILE_CLASSES, width = vectors->width;
    cps_gemm_serial(false, true, r->count, cps_min_i64(TILE_CLASSES, vectors->rows - first), width,
                    r->scale, r->queries, width, vectors->values + first * width, width, 0.0,
                    r->scores + first, vectors->rows);
}

static void soften_row(void *context, int64_t row) {
    const cps_ranker *r = context;
    const int64_t classes = r->classifier->vectors.rows;
    cps_row_softmax(classes, r->scores + row * classes);
}

/* Each component of the features times its weight. */
static void weigh(cps_ranker *ranker, const cps_real *features) {
    const cps_features *vectors = &ranker->classifier->vectors;
    int64_t at = 0;
    for (int64_t i = 0; i < ranker->count; i++) {
        for (int32_t c = 0; c < vectors->component_count; c++) {
            const cps_real weight = (cps_real)ranker->weights[c];
            for (int64_t j = 0; j < vectors->widths[c]; j++, at++) {
                ranker->queries[at] = weight * features[at];
            }
        }
    }
}

const cps_real *cps_ranker_probabilities(cps_ranker *ranker, const cps_real *features,
                                         int64_t rows) {
    CPS_BUG_IF(rows < 0 || rows > ranker->block);
    ranker->count = rows;
    weigh(ranker, features);
    cps_parallel(cps_ceil_div(ranker->classifier->vectors.rows, TILE_CLASSES), score_tile, ranker);
    cps_parallel(rows, soften_row, ranker);
    return ranker->scores;
}

int64_t cps_ranker_block(const cps_ranker *ranker) {
    return ranker->block;
}

/* ---- outcomes ---- */

/* From the deepest rank upward. */
static cps_outcome find_deepest(const cps_outcome_plan *plan, const cps_real *probabilities,
                                int64_t classes, cps_group_room *room, cps_ranked *best_out) {
    cps_outcome outcome = {.rank = plan->rank};
    for (;; outcome.rank--) {
        const cps_class_groups *groups = &plan->groups[outcome.rank];
        outcome.count =
            cps_rank_groups(probabilities, classes, groups->of, plan->min_prob, 1, room, best_out);
        if (outcome.count > 0 && best_out->score >= plan->min_confidence) {
            return outcome;
        }
        if (outcome.rank == 0) {
            outcome.rank = -1;
            return outcome;
        }
    }
}

static void rank_row(const cps_ranker *ranker, int64_t row, cps_group_room *room) {
    const cps_outcome_plan *plan = ranker->plan;
    const int64_t classes = ranker->classifier->vectors.rows;
    const cps_real *probabilities = ranker->scores + row * classes;
    cps_ranked *best = ranker->best + row * plan->k;
    cps_outcome *outcome = &ranker->outcomes[row];
    *outcome = (cps_outcome){.rank = -1};
    switch (plan->kind) {
    case CPS_OUTCOME_CLASSES:
        outcome->count = cps_rank_classes(probabilities, classes, plan->k, best);
        break;
    case CPS_OUTCOME_GROUPS:
        outcome->count = cps_rank_groups(probabilities, classes, plan->groups->of, plan->min_prob,
                                         plan->k, room, best);
        break;
    case CPS_OUTCOME_BINS:
        outcome->count =
            cps_rank_all_groups(probabilities, classes, plan->groups->of, plan->k, room, best);
        break;
    case CPS_OUTCOME_DEEPEST:
        *outcome = find_deepest(plan, probabilities, classes, room, best);
        break;
    }
}

static void rank_some(void *context, int64_t body) {
    const cps_ranker *ranker = context;
    for (int64_t row = body; row < ranker->count; row += ranker->bodies) {
        rank_row(ranker, row, ranker->rooms != NULL ? &ranker->rooms[body] : NULL);
    }
}

void cps_ranker_run(cps_ranker *ranker, const cps_real *features, cps_outcome *outcomes_out,
                    cps_ranked *best_out) {
    for (int64_t first = 0; first < ranker->rows; first += ranker->block) {
        ranker->outcomes = outcomes_out + first;
        ranker->best = best_out + first * ranker->plan->k;
        cps_ranker_probabilities(ranker, features + first * ranker->classifier->vectors.width,
                                 cps_min_i64(ranker->block, ranker->rows - first));
        cps_parallel(ranker->bodies, rank_some, ranker);
    }
}

static int64_t largest_grouping(const cps_outcome_plan *plan) {
    int64_t most = plan->groups[0].count;
    for (int32_t r = 1; plan->kind == CPS_OUTCOME_DEEPEST && r <= plan->rank; r++) {
        most = cps_max_i64(most, plan->groups[r].count);
    }
    return most;
}

static cps_status make_rooms(cps_ranker *ranker) {
    if (ranker->plan->kind == CPS_OUTCOME_CLASSES) {
        return CPS_OK;
    }
    ranker->rooms = calloc((size_t)ranker->bodies, sizeof *ranker->rooms);
    cps_status status = ranker->rooms == NULL ? fail_memory() : CPS_OK;
    for (int64_t i = 0; i < ranker->bodies && status == CPS_OK; i++) {
        status = cps_group_room_create(largest_grouping(ranker->plan), &ranker->rooms[i]);
    }
    return status;
}

cps_status cps_ranker_create(const cps_classifier *classifier, const double *weights, double scale,
                             const cps_outcome_plan *plan, int64_t rows, cps_ranker **ranker_out) {
    const cps_features *vectors = &classifier->vectors;
    cps_ranker *ranker = calloc(1, sizeof *ranker);
    if (ranker == NULL) {
        return fail_memory();
    }
    const int64_t fit = CPS_RANKER_BYTES / (vectors->rows * (int64_t)sizeof(cps_real));
    *ranker = (cps_ranker){.classifier = classifier,
                           .plan = plan,
                           .scale = scale,
                           .rows = rows,
                           .block = cps_max_i64(1, cps_min_i64(rows, fit))};
    memcpy(ranker->weights, weights, (size_t)vectors->component_count * sizeof *weights);
    ranker->bodies = cps_min_i64(cps_pool_threads(), ranker->block);
    ranker->queries = malloc((size_t)(ranker->block * vectors->width) * sizeof(cps_real));
    ranker->scores = malloc((size_t)(ranker->block * vectors->rows) * sizeof(cps_real));
    const cps_status status =
        ranker->queries == NULL || ranker->scores == NULL ? fail_memory() : make_rooms(ranker);
    if (status != CPS_OK) {
        cps_ranker_destroy(ranker);
        return status;
    }
    *ranker_out = ranker;
    return CPS_OK;
}

void cps_ranker_destroy(cps_ranker *ranker) {
    if (ranker == NULL) {
        return;
    }
    for (int64_t i = 0; i < ranker->bodies && ranker->rooms != NULL; i++) {
        cps_group_room_free(&ranker->rooms[i]);
    }
    free(ranker->rooms);
    free(ranker->queries);
    free(ranker->scores);
    free(ranker);
}
