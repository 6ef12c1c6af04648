/* Rows spread over ranks: what the collective operations share. Private to tensor/. */
#ifndef CPS_TENSOR_SPREAD_H
#define CPS_TENSOR_SPREAD_H

#include "comm/canonical.h"
#include "tensor/op.h"

/* What a rank says it holds. */
typedef struct cps_spread_claim {
    int64_t first, last, parts, rows;
} cps_spread_claim;

/* How the rows of a global batch lie. A tensor without a layout is one part that every rank holds;
 * comm is NULL then. */
typedef struct cps_spread {
    cps_comm *comm; /* NULL: this process has all rows */
    int32_t ranks, rank;
    int64_t parts, rows;
    int64_t part_first, part_last; /* own */
    int64_t row_first, row_count;  /* own */
    const int64_t *part_offset;    /* [parts + 1] */
    int64_t *first_part;           /* [ranks + 1], filled by cps_spread_agree */
    int64_t *bytes;                /* [ranks]: scratch of gathers */
    cps_spread_claim *claims;      /* [ranks] */
    cps_node_run *leaves;          /* [parts]: the tree's leaves, for a process alone */
    int64_t whole[2];              /* part_offset without a layout */
} cps_spread;

/* Describes the rows of `tensor` (first dimension) and takes room in the arena. Local; false: the
 * tape has failed. `spread` must stay where it is. */
bool cps_spread_describe(cps_tape *tape, const char *name, const cps_tensor *tensor,
                         cps_spread *spread);
/* Collective (even after a failure on this rank: tape failed or `spread` not described). All ranks
 * go on, or every tape has failed. Nothing that follows may fail on one rank alone. Always true in
 * PLAN mode. */
bool cps_spread_agree(cps_tape *tape, const char *name, cps_spread *spread);
/* Collective. All rows in order: own [row_count, row_bytes] -> all [rows, row_bytes]. Own rows may
 * lie at their place in `all` already. */
void cps_spread_gather(const cps_spread *spread, const char *name, const void *own, void *all,
                       size_t row_bytes);
/* Collective. The canonical sum over the parts of the sums over a part's rows, in order: values
 * [row_count, width], one for each own row. part_sums: scratch [own parts, width]. */
cps_status cps_spread_sum(const cps_spread *spread, const char *name, int64_t width,
                          const double *values, double *part_sums, double *sum_out) CPS_MUST_CHECK;

#endif
