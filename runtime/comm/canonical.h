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

/* How finished parts merge where a node is a large buffer (the gradient exchange). A rank that owns
 * [first, last) keeps a stack of live nodes: for each of its parts in order it pushes the part's
 * buffer, then merges the top two nodes (left + right, into the left) as often as this says for
 * `part`. *maximal_out: the top is now a maximal node of this rank; it is to be sent and popped,
 * which leaves the stack empty. Nodes come out in the order of cps_maximal_runs. The stack holds at
 * most floor(log2 P) + 1 nodes and the part in work. Local. */
int32_t cps_merges_after(int64_t parts, int64_t first, int64_t last, int64_t part,
                         bool *maximal_out);

/* Finishes the tree over nodes given as rows of `width` doubles: runs[i] <-> rows + i*width, all P
 * parts covered, in order. The result is written to out (width). Local. */
void cps_tree_finish_f64(int64_t parts, const cps_node_run *runs, int32_t run_count,
                         const double *rows, int64_t width, double *out);
/* The same for real slices given as pointers: adds element by element in the tree's order; sources
 * are overwritten. The result is left in rows[0]. Uses the pool over fixed blocks. Local. */
void cps_tree_finish_real(int64_t parts, const cps_node_run *runs, int32_t run_count,
                          cps_real *const *rows, int64_t length);

/* Collective. These two cannot fail (always CPS_OK), so they need no agreement. own: this rank's
 * parts' rows [last-first, width], in order; result: the canonical sum on every rank. */
cps_status cps_canonical_sum(cps_comm *comm, const char *place, int64_t parts, const double *own,
                             int64_t width, double *sum_out) CPS_MUST_CHECK;
/* The same with explicit ownership first_part[rank] (size + 1 entries, from 0 to parts), for
 * evaluations where ranks may outnumber parts. */
cps_status cps_canonical_sum_owned(cps_comm *comm, const char *place, int64_t parts,
                                   const int64_t *first_part, const double *own, int64_t width,
                                   double *sum_out) CPS_MUST_CHECK;
/* The same where this rank's parts are merged already: own holds its maximal nodes in order
 * (cps_merges_after says when one is ready). For rows too wide to keep one a part. */
cps_status cps_canonical_sum_nodes(cps_comm *comm, const char *place, int64_t parts,
                                   const int64_t *first_part, const double *own, int64_t width,
                                   double *sum_out) CPS_MUST_CHECK;

#endif
