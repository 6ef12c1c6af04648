/* k nearest neighbours: the labels of the k bank rows with the best scores vote. Collective; the
 * same bits on any number of ranks. */
#ifndef CPS_EVAL_KNN_H
#define CPS_EVAL_KNN_H

#include "eval/classes.h"
#include "eval/features.h"
#include "eval/score.h"

/* Collective. Every bank row has a label, bank_labels[bank->rows] in 0 .. class_count-1. A
 * neighbour votes exp(score / temperature), or 1 where temperature is 0; of equal sums the lowest
 * label wins. k above the bank's rows: all of them vote. Bank rows with the query's own sample id
 * do not vote (ids NULL: all may). Scores of the predictions are shares of the votes.
 * neighbours_out, if not NULL: who voted on this rank's queries; the caller frees it on success. */
cps_status cps_knn(cps_comm *comm, const cps_features *queries, const uint64_t *query_ids,
                   const cps_features *bank, const uint64_t *bank_ids, const int32_t *bank_labels,
                   const double *weights, int64_t k, double temperature, int64_t class_count,
                   int64_t top, cps_predictions *predictions_out,
                   cps_top_lists *neighbours_out) CPS_MUST_CHECK;

#endif
