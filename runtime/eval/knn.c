#include "eval/knn.h"

#include <math.h>
#include <stdlib.h>

#include "base/numeric.h"
#include "comm/agree.h"

/* One election. votes is all zeros between elections. */
typedef struct election {
    double *votes;    /* [classes] */
    int32_t *elected; /* classes that have votes, in order of their first */
    int64_t elected_count;
    double total;
} election;

/* Votes of one query's neighbours, nearest first. Votes are relative to the nearest, so that a
 * small temperature does not overflow; shares do not change. */
static void vote(election *ballot, const cps_top_lists *lists, int64_t list,
                 const int32_t *bank_labels, double temperature) {
    const int64_t *index = lists->index + list * lists->most;
    const cps_real *score = lists->score + list * lists->most;
    ballot->elected_count = 0;
    ballot->total = 0.0;
    for (int64_t i = 0; i < lists->count[list]; i++) {
        const double behind = (double)score[i] - (double)score[0];
        const double weight = temperature > 0.0 ? exp(behind / temperature) : 1.0;
        const int32_t label = bank_labels[index[i]];
        bool known = false;
        for (int64_t e = 0; e < ballot->elected_count && !known; e++) {
            known = ballot->elected[e] == label;
        }
        if (!known) {
            ballot->elected[ballot->elected_count++] = label;
        }
        ballot->votes[label] += weight;
        ballot->total += weight;
    }
}

/* The `top` classes with the most votes into index and score; clears the ballot. */
static void elect(election *ballot, int64_t top, int32_t *index, cps_real *score) {
    for (int64_t place = 0; place < top; place++) {
        int32_t best = -1;
        for (int64_t e = 0; e < ballot->elected_count; e++) {
            const int32_t label = ballot->elected[e];
            const double votes = ballot->votes[label];
            if (votes > 0.0 && (best < 0 || votes > ballot->votes[best] ||
                                (votes == ballot->votes[best] && label < best))) {
                best = label;
            }
        }
        index[place] = best;
        score[place] = best < 0 ? (cps_real)0 : (cps_real)(ballot->votes[best] / ballot->total);
        if (best >= 0) {
            ballot->votes[best] = 0.0;
        }
    }
    for (int64_t e = 0; e < ballot->elected_count; e++) {
        ballot->votes[ballot->elected[e]] = 0.0;
    }
}

static cps_status hold_elections(const cps_top_lists *lists, const int32_t *bank_labels,
                                 double temperature, int64_t class_count,
                                 cps_predictions *predictions) {
    election ballot = {.votes = calloc((size_t)class_count + 1, sizeof(double)),
                       .elected = calloc((size_t)lists->most + 1, sizeof(int32_t))};
    const bool enough = ballot.votes != NULL && ballot.elected != NULL;
    for (int64_t i = 0; i < lists->rows && enough; i++) {
        const int64_t at = (lists->first + i) * predictions->top;
        vote(&ballot, lists, i, bank_labels, temperature);
        elect(&ballot, predictions->top, predictions->index + at, predictions->score + at);
    }
    free(ballot.votes);
    free(ballot.elected);
    return enough ? CPS_OK : cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the votes of k-NN");
}

cps_status cps_knn(cps_comm *comm, const cps_features *queries, const uint64_t *query_ids,
                   const cps_features *bank, const uint64_t *bank_ids, const int32_t *bank_labels,
                   const double *weights, int64_t k, double temperature, int64_t class_count,
                   int64_t top, cps_predictions *predictions_out, cps_top_lists *neighbours_out) {
    cps_predictions predictions = {0};
    cps_top_lists lists = {0};
    int64_t first, last;
    top = cps_min_i64(top, class_count);
    cps_score_range(queries->rows, cps_comm_size(comm), cps_comm_rank(comm), &first, &last);
    cps_status status = cps_predictions_alloc(queries->rows, top, &predictions);
    if (status == CPS_OK) {
        status = cps_score_top(queries, bank, weights, first, last, cps_min_i64(k, bank->rows),
                               query_ids, bank_ids, &lists);
    }
    if (status == CPS_OK) {
        status = hold_elections(&lists, bank_labels, temperature, class_count, &predictions);
    }
    status = cps_agree(comm, "k-NN", status);
    if (status == CPS_OK && neighbours_out != NULL) {
        *neighbours_out = lists;
    } else {
        cps_top_lists_free(&lists);
    }
    if (status != CPS_OK) {
        cps_predictions_free(&predictions);
        return status;
    }
    const size_t places = (size_t)top;
    cps_score_gather(comm, "k-NN", predictions.index, queries->rows,
                     places * sizeof *predictions.index);
    cps_score_gather(comm, "k-NN", predictions.score, queries->rows,
                     places * sizeof *predictions.score);
    *predictions_out = predictions;
    return CPS_OK;
}
