/* Scores of many rows against many, in tiles, never as a whole matrix. A tile has a fixed shape
 * (padded with zeros), so a score has the same bits whatever the number of rows, ranks and threads.
 * Rows of queries are dealt to ranks by whole tiles. */
#ifndef CPS_EVAL_SCORE_H
#define CPS_EVAL_SCORE_H

#include "comm/comm.h"
#include "eval/features.h"

enum { CPS_SCORE_ROWS = 256, CPS_SCORE_COLUMNS = 1024 };

/* scores [rows, stride]; element (i, j) is that of query first_row + i and gallery row
 * first_column + j. */
typedef struct cps_score_tile {
    int64_t first_row, rows, first_column, columns, stride;
    const cps_real *scores;
} cps_score_tile;

typedef struct cps_score_job {
    const cps_features *queries, *gallery; /* equal widths */
    const double *weights;                 /* of the components */
    /* Called for every tile of a range of rows, columns ascending; tiles of equal rows on one
     * thread, others at the same time on other threads. */
    void (*visit)(void *context, const cps_score_tile *tile);
    /* Tiles that are wanted; `scores` is not set. NULL: all. */
    bool (*wanted)(void *context, const cps_score_tile *tile);
    void *context;
} cps_score_job;

/* Rows of rank `rank`, of `rows`: [*first_out, *last_out). */
void cps_score_range(int64_t rows, int32_t size, int32_t rank, int64_t *first_out,
                     int64_t *last_out);
/* Local. Visits the tiles of rows [first, last), a range of cps_score_range. UNAVAILABLE: memory.
 */
cps_status cps_score_visit(const cps_score_job *job, int64_t first, int64_t last) CPS_MUST_CHECK;
/* Local. softmax(scale x scores), the largest score subtracted first. */
void cps_score_softmax(const cps_real *scores, int64_t count, double scale,
                       double *probabilities_out);
/* Collective. all [rows, row_bytes] holds this rank's rows at their place; all get all. */
void cps_score_gather(cps_comm *comm, const char *place, void *all, int64_t rows, size_t row_bytes);

/* The best gallery rows of each query: score descending, then index ascending. */
typedef struct cps_top_lists {
    int64_t rows, most; /* lists; places of each */
    int64_t first;      /* query of the first list */
    int64_t *count;     /* [rows] places used */
    int64_t *index;     /* [rows, most] */
    cps_real *score;    /* [rows, most] */
} cps_top_lists;

/* Local. Lists of the queries [first, last), a range of cps_score_range; most >= 1. Where
 * query_ids is given, gallery rows with the query's own id are passed over. */
cps_status cps_score_top(const cps_features *queries, const cps_features *gallery,
                         const double *weights, int64_t first, int64_t last, int64_t most,
                         const uint64_t *query_ids, const uint64_t *gallery_ids,
                         cps_top_lists *lists_out) CPS_MUST_CHECK;
void cps_top_lists_free(cps_top_lists *lists); /* safe on a zeroed one */

#endif
