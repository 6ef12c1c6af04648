/* The canonical sum over parts: parts 0..P-1 are the leaves of the binary tree of aligned runs
 * [a*2^k, (a+1)*2^k), a lone child passing through. The shape depends on P alone, so sums have the
 * same bits on any number of ranks. A rank that owns parts [first, last) merges only the nodes
 * wholly its own; the rest of the tree is finished from these maximal nodes. */
#ifndef CPS_COMM_CANONICAL_H
#define CPS_COMM_CANONICAL_H

#include "comm/comm.h"

/* First part of rank r of R for P parts: floor(r*P/R). Rank r owns [part_first(r),
 * part_first(r+1)). */
int64_t cps_part_first(int64_t parts, int64_t ranks, int64_t rank);
/* First grain of part p of P for G grains: floor(p*G/P). */
int64_t cps_part_grain_first(int64_t grains, int64_t parts, int64_t part);

/* A node of the tree: parts [first, first + count), an aligned run (cut at P). */
typedef struct cps_node_run {
    int64_t first, count;
    int32_t level;
} cps_node_run;
enum { CPS_MAX_RUNS = 128 };
/* Maximal nodes wholly inside [first, last), in order; their number (at most 2*log2 P + 1). */
int32_t cps_maximal_runs(int64_t parts, int64_t first, int64_t last,
                         cps_node_run runs_out[CPS_MAX_RUNS]);

/* How finished parts merge: call with parts in order; it says which pairs of live nodes to merge
 * now. Used by the gradient exchange, where a node is a large buffer. */
typedef struct cps_merge_plan
    cps_merge_plan; /* opaque helper is in canonical.c: see cps_tree_sum_f64 for the simple form */

/* Finishes the tree over nodes given as rows of `width` doubles: runs[i] <-> rows + i*width, all P
 * parts covered, in order. The result is written to out (width). Local. */
void cps_tree_finish_f64(int64_t parts, const cps_node_run *runs, int32_t run_count,
                         const double *rows, int64_t width, double *out);
/* The same for real slices given as pointers: adds element by element in the tree's order; sources
 * are overwritten. The result is left in rows[0]. Uses the pool over fixed blocks. Local. */
void cps_tree_finish_real(int64_t parts, const cps_node_run *runs, int32_t run_count,
                          cps_real *const *rows, int64_t length);

/* Collective. own: this rank's parts' rows [last-first, width], in order; result: the canonical sum
 * on every rank. */
cps_status cps_canonical_sum(cps_comm *comm, const char *place, int64_t parts, const double *own,
                             int64_t width, double *sum_out) CPS_MUST_CHECK;
/* The same with explicit ownership first_part[rank] (size + 1 entries), for evaluations where ranks
 * may outnumber parts. */
cps_status cps_canonical_sum_owned(cps_comm *comm, const char *place, int64_t parts,
                                   const int64_t *first_part, const double *own, int64_t width,
                                   double *sum_out) CPS_MUST_CHECK;

#endif
