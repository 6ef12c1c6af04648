/* Few-shot classification: k labelled images of each class are the support, all others are
 * classified by the nearest centroid of centred features (SimpleShot: Wang et al. 2019,
 * arXiv:1911.04623; the order of operations and the draws are those of BioCLIP's published code).
 * README.md, "Few-shot". */
#ifndef CPS_EVAL_FEW_SHOT_H
#define CPS_EVAL_FEW_SHOT_H

#include "comm/comm.h"
#include "eval/config.h"
#include "eval/features.h"

/* Rows of each class, classes in the order of their first row. Plain values, read only. */
typedef struct cps_shot_deck {
    int64_t class_count;
    int32_t *labels;  /* [class_count] */
    int64_t *first;   /* [class_count + 1]: a class's rows are at first[c] .. first[c + 1] - 1 */
    int64_t *rows;    /* as the last shuffle left them */
    int64_t *ordered; /* ascending within a class */
} cps_shot_deck;

/* Local. labels[rows] below label_count; negative ones are passed over. UNAVAILABLE: memory. */
cps_status cps_shot_deck_create(const int32_t *labels, int64_t rows, int64_t label_count,
                                cps_shot_deck *deck_out) CPS_MUST_CHECK;
void cps_shot_deck_free(cps_shot_deck *deck); /* safe on a zeroed one */
/* Shuffles the classes one after another with one MT19937 that is seeded as Python's random.seed
 * does: from ascending rows, or (CPS_SHOT_IN_PLACE) from where the last shuffle left them. Local.
 */
void cps_shot_deck_shuffle(cps_shot_deck *deck, uint64_t seed, cps_shot_variant variant);

/* One draw: the first k rows of every class as they lie are its support, the rest are queries. */
typedef struct cps_episode {
    int64_t class_count;    /* that take part: the columns */
    int64_t short_count;    /* classes with fewer than k rows */
    int32_t *labels;        /* [class_count] */
    int64_t *support_first; /* [class_count + 1] into support */
    int64_t *support;       /* rows */
    int64_t query_count;
    int64_t *query; /* rows, class after class */
} cps_episode;

/* Local. Classes with fewer than k rows stay out with CPS_SHORT_LEAVE_OUT; with CPS_SHORT_KEEP all
 * their rows are support (CPS_SHORT_ERROR is the caller's to say; here it is as KEEP).
 * UNAVAILABLE: memory. */
cps_status cps_episode_deal(const cps_shot_deck *deck, int64_t k, cps_short_classes short_classes,
                            cps_episode *episode_out) CPS_MUST_CHECK;
void cps_episode_free(cps_episode *episode); /* safe on a zeroed one */

/* Collective. The nearest centroid of every query. Each component: minus the mean of all support
 * rows, unit length (what is zero stays zero). Centroids are means of such rows and not normalised
 * again (CPS_NORMALISE_FIRST), or the means of the class's rows, minus the mean of all, of unit
 * length. Distance: root of the sum over components of weight x squared distance; of equal ones the
 * first column. predicted_out[query_count]: columns; distance_out [query_count, class_count], or
 * NULL. An episode without queries is none: nothing happens. */
cps_status cps_simple_shot(cps_comm *comm, const cps_features *images, const cps_episode *episode,
                           const double *weights, cps_averaging averaging, int32_t *predicted_out,
                           double *distance_out) CPS_MUST_CHECK;
/* What came out with k images of each class. */
typedef struct cps_shot_result {
    int64_t k, class_count, short_count;
    int32_t *classes;   /* [class_count]: labels, in the order of their first row */
    int64_t *support;   /* [folds, class_count, k] rows, -1 where the class has no more */
    int32_t *predicted; /* [folds, rows] labels; -1: support, or not asked */
    double *accuracy;   /* [folds] share of the queries that were classified right */
    double mean, std;   /* of accuracy; the population's deviation */
} cps_shot_result;
typedef struct cps_few_shot_result {
    int64_t shot_count, folds, rows;
    const char *variant, *averaging, *short_classes; /* static */
    uint64_t *seeds;                                 /* [folds] */
    cps_shot_result *shots;
} cps_few_shot_result;

/* Local. Most bytes that cps_few_shot takes on a rank, its result included. */
size_t cps_few_shot_bytes(const cps_encoder *encoder, int64_t rows, int64_t classes,
                          const cps_few_shot_options *options);
/* Local. Whether every class has enough rows for every number of shots (with CPS_SHORT_ERROR), and
 * something is left to classify. DATA: names class and numbers; names[] by label. */
cps_status cps_few_shot_check(const cps_shot_deck *deck, const cps_few_shot_options *options,
                              const char *const *names) CPS_MUST_CHECK;
/* Collective. All shots, one after another, and all folds of each. labels[images->rows], -1: none.
 * Equal on all ranks. Statuses of cps_few_shot_check, UNAVAILABLE: memory; agreed. */
cps_status cps_few_shot(cps_comm *comm, const cps_features *images, const int32_t *labels,
                        int64_t label_count, const char *const *names,
                        const cps_few_shot_options *options, const double *weights,
                        cps_few_shot_result *result_out) CPS_MUST_CHECK;
void cps_few_shot_result_free(cps_few_shot_result *result); /* safe on a zeroed one */

#endif
