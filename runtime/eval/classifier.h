/* A classifier: class vectors and their names; from features of images to probabilities and to what
 * is reported of them. Results are functions of the features and the options alone: the same bits
 * on any number of threads. Local; uses the pool. */
#ifndef CPS_EVAL_CLASSIFIER_H
#define CPS_EVAL_CLASSIFIER_H

#include "eval/aggregate.h"
#include "eval/class_names.h"
#include "eval/features.h"

typedef struct cps_classifier {
    cps_class_names names;
    cps_features vectors; /* a row a class, components of unit length */
} cps_classifier;

void cps_classifier_free(cps_classifier *classifier); /* safe on a zeroed one */
/* Every component of every class vector must have a direction. DATA: names of those that are zero
 * or not finite; `where` stands in front. */
cps_status cps_classifier_check(const cps_classifier *classifier, const char *where) CPS_MUST_CHECK;
/* Keeps the classes `chosen` [count], ascending: probabilities are those among them. */
cps_status cps_classifier_keep(cps_classifier *classifier, const int64_t *chosen,
                               int64_t count) CPS_MUST_CHECK;

/* Groups of classes: paths down to a rank, bins of labels. */
typedef struct cps_class_groups {
    int64_t count;
    int32_t *of;    /* [classes] */
    int64_t *first; /* [count] its first class */
} cps_class_groups;
void cps_class_groups_free(cps_class_groups *groups); /* safe on a zeroed one */
/* Groups of taxa that share the ranks kingdom .. `rank`, numbered in the order of their first
 * class.
 */
cps_status cps_class_groups_of_rank(const cps_class_names *names, int32_t rank,
                                    cps_class_groups *groups_out) CPS_MUST_CHECK;

/* What is reported of an image. */
typedef enum cps_outcome_kind {
    CPS_OUTCOME_CLASSES, /* the k best classes */
    CPS_OUTCOME_GROUPS,  /* the k best groups of `groups`, of classes above min_prob */
    CPS_OUTCOME_BINS,    /* the k best of all groups of `groups` */
    CPS_OUTCOME_DEEPEST  /* the best path of the deepest rank at which it reaches min_confidence */
} cps_outcome_kind;
typedef struct cps_outcome_plan {
    cps_outcome_kind kind;
    int64_t k;
    double min_prob, min_confidence;
    int32_t rank;                   /* DEEPEST: the last one tried */
    const cps_class_groups *groups; /* one; DEEPEST: [rank + 1] by rank */
} cps_outcome_plan;

/* best_out [k]. */
typedef struct cps_outcome {
    int64_t count;
    int32_t rank; /* DEEPEST: of the answer; -1: no rank reached min_confidence, and the best
                     kingdom is the answer */
} cps_outcome;

/* Ranks images, a block at a time; owns what a block needs. Probabilities: softmax over all classes
 * of scale * score, score = sum over components of weights[c] * cosine. Those of a block are held
 * at once up to CPS_RANKER_BYTES, else those of fewer images, of one at least. */
enum { CPS_RANKER_BYTES = 256 << 20 };
typedef struct cps_ranker cps_ranker;
/* rows: of every block. classifier and plan are borrowed until destroy. UNAVAILABLE: memory. */
cps_status cps_ranker_create(const cps_classifier *classifier, const double *weights, double scale,
                             const cps_outcome_plan *plan, int64_t rows,
                             cps_ranker **ranker_out) CPS_MUST_CHECK;
void cps_ranker_destroy(cps_ranker *ranker); /* NULL-safe */
/* Features [rows, width] (unit components, as cps_features_normalise leaves them) -> outcomes
 * [rows], best_out [rows, k]. Cannot fail. */
void cps_ranker_run(cps_ranker *ranker, const cps_real *features, cps_outcome *outcomes_out,
                    cps_ranked *best_out);
/* The probabilities alone, of the first `rows` of a block that is held at once: [rows, classes],
 * borrowed until the next call. */
int64_t cps_ranker_block(const cps_ranker *ranker); /* rows held at once */
const cps_real *cps_ranker_probabilities(cps_ranker *ranker, const cps_real *features,
                                         int64_t rows);

#endif
