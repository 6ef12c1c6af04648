/* A node at level k starting at s covers parts [s, min(s + 2^k, P)); its children start at s and s
 * + 2^(k-1). A child that would start at P or later is not there and its sibling passes through.
 *
 * Everything here is one walk: push nodes in order, and after each push climb: while the node on
 * top is a right child whose left sibling is wholly in the range, merge; where it is a left child
 * without a right sibling, pass through; else stop. */
#include "comm/canonical.h"

#include <string.h>

#include "base/numeric.h"
#include "base/pool.h"
#include "comm/comm_private.h"

enum {
    COLUMN_BLOCK = 64,  /* doubles of a row worked on at once */
    REAL_BLOCK = 16384, /* elements a task */
    MAX_STACK = 66
};

int64_t cps_part_first(int64_t parts, int64_t ranks, int64_t rank) {
    int64_t product;
    CPS_BUG_IF(ranks < 1 || !cps_mul_i64(parts, rank, &product));
    return product / ranks;
}

int64_t cps_part_grain_first(int64_t grains, int64_t parts, int64_t part) {
    int64_t product;
    CPS_BUG_IF(parts < 1 || !cps_mul_i64(grains, part, &product));
    return product / parts;
}

/* Smallest level whose nodes can hold `count` parts. */
static int32_t level_of(int64_t count) {
    int32_t level = 0;
    while (((int64_t)1 << level) < count) {
        level++;
    }
    return level;
}

int32_t cps_maximal_runs(int64_t parts, int64_t first, int64_t last,
                         cps_node_run runs_out[CPS_MAX_RUNS]) {
    CPS_BUG_IF(first < 0 || first > last || last > parts);
    int32_t count = 0;
    for (int64_t at = first; at < last;) {
        int64_t end = at + 1;
        for (int32_t level = 1; level < 62; level++) {
            const int64_t length = (int64_t)1 << level;
            const int64_t node_end = cps_min_i64(at + length, parts);
            if (at % length != 0 || node_end > last) {
                break;
            }
            end = node_end;
            if (node_end == parts && length >= parts) {
                break; /* the root */
            }
        }
        CPS_BUG_IF(count == CPS_MAX_RUNS);
        runs_out[count++] =
            (cps_node_run){.first = at, .count = end - at, .level = level_of(end - at)};
        at = end;
    }
    return count;
}

/* Climbs from the node [first_of_node, end) at `level` that was just finished inside the range
 * [first, last). */
static int32_t climb(int64_t parts, int64_t first, int64_t last, int64_t start, int64_t end,
                     int32_t level, bool *maximal_out) {
    int32_t merges = 0;
    for (;; level++) {
        const int64_t length = (int64_t)1 << level;
        if (start == 0 && length >= parts) {
            *maximal_out = true; /* the root */
            return merges;
        }
        const int64_t parent = start & ~(2 * length - 1);
        if (parent < start) { /* a right child */
            if (parent < first) {
                *maximal_out = true;
                return merges;
            }
            start = parent;
            merges++;
        } else if (start + length < parts) { /* a left child; its sibling comes after `end` */
            CPS_BUG_IF(end != start + length);
            *maximal_out = cps_min_i64(start + 2 * length, parts) > last;
            return merges;
        }
    }
}

int32_t cps_merges_after(int64_t parts, int64_t first, int64_t last, int64_t part,
                         bool *maximal_out) {
    CPS_BUG_IF(part < first || part >= last || first < 0 || last > parts);
    return climb(parts, first, last, part, part + 1, 0, maximal_out);
}

/* Columns [0, columns) of the nodes' rows, merged as far as the range [first, last) allows: one row
 * out for each maximal node. nodes == NULL: the rows are the parts first, first + 1, ... */
static void merge_columns(int64_t parts, int64_t first, int64_t last, const cps_node_run *nodes,
                          int64_t node_count, const double *rows, int64_t row_stride, double *out,
                          int64_t out_stride, int64_t columns) {
    double stack[MAX_STACK][COLUMN_BLOCK];
    int32_t height = 0;
    for (int64_t i = 0; i < node_count; i++) {
        const cps_node_run leaf = {.first = first + i, .count = 1, .level = 0};
        const cps_node_run node = nodes != NULL ? nodes[i] : leaf;
        CPS_BUG_IF(height == MAX_STACK);
        memcpy(stack[height++], rows + i * row_stride, (size_t)columns * sizeof(double));
        bool maximal;
        const int32_t merges =
            climb(parts, first, last, node.first, node.first + node.count, node.level, &maximal);
        CPS_BUG_IF(merges >= height);
        for (int32_t merge = 0; merge < merges; merge++, height--) {
            double *left = stack[height - 2];
            const double *right = stack[height - 1];
            for (int64_t c = 0; c < columns; c++) {
                left[c] += right[c];
            }
        }
        if (maximal) {
            CPS_BUG_IF(height != 1);
            memcpy(out, stack[--height], (size_t)columns * sizeof(double));
            out += out_stride;
        }
    }
    CPS_BUG_IF(height != 0);
}

static void merge_rows(int64_t parts, int64_t first, int64_t last, const cps_node_run *nodes,
                       int64_t node_count, const double *rows, int64_t row_stride, double *out,
                       int64_t out_stride, int64_t width) {
    for (int64_t column = 0; column < width; column += COLUMN_BLOCK) {
        const int64_t columns = cps_min_i64(COLUMN_BLOCK, width - column);
        merge_columns(parts, first, last, nodes, node_count, rows + column, row_stride,
                      out + column, out_stride, columns);
    }
}

void cps_tree_finish_f64(int64_t parts, const cps_node_run *runs, int32_t run_count,
                         const double *rows, int64_t width, double *out) {
    if (parts == 0) {
        memset(out, 0, (size_t)width * sizeof *out);
        return;
    }
    merge_rows(parts, 0, parts, runs, run_count, rows, width, out, width, width);
}

/* ---- real slices ----------------------------------------------------------------------------- */

typedef struct finish_work {
    int64_t parts;
    const cps_node_run *runs;
    int32_t run_count;
    cps_real *const *rows;
    int64_t length;
} finish_work;

static void add_slice(cps_real *restrict left, const cps_real *restrict right, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        left[i] += right[i];
    }
}

static void finish_block(void *context, int64_t block) {
    const finish_work *work = context;
    const int64_t offset = block * REAL_BLOCK;
    const int64_t count = cps_min_i64(REAL_BLOCK, work->length - offset);
    cps_real *stack[MAX_STACK];
    int32_t height = 0;
    for (int32_t i = 0; i < work->run_count; i++) {
        const cps_node_run run = work->runs[i];
        CPS_BUG_IF(height == MAX_STACK);
        stack[height++] = work->rows[i] + offset;
        bool maximal;
        const int32_t merges = climb(work->parts, 0, work->parts, run.first, run.first + run.count,
                                     run.level, &maximal);
        CPS_BUG_IF(merges >= height);
        for (int32_t merge = 0; merge < merges; merge++, height--) {
            add_slice(stack[height - 2], stack[height - 1], count);
        }
    }
    CPS_BUG_IF(height != 1); /* a left node is merged into, so the bottom is rows[0] */
}

void cps_tree_finish_real(int64_t parts, const cps_node_run *runs, int32_t run_count,
                          cps_real *const *rows, int64_t length) {
    finish_work work = {
        .parts = parts, .runs = runs, .run_count = run_count, .rows = rows, .length = length};
    cps_parallel(cps_ceil_div(length, REAL_BLOCK), finish_block, &work);
}

/* ---- sums over ranks ------------------------------------------------------------------------- */

/* All ranks' maximal nodes in order into comm->runs, their number a rank into comm->node_counts;
 * every rank knows them. */
static int32_t list_nodes(cps_comm *comm, int64_t parts, const int64_t *first_part) {
    CPS_BUG_IF(first_part[0] != 0 || first_part[comm->size] != parts);
    int32_t nodes = 0;
    for (int32_t r = 0; r < comm->size; r++) {
        comm->node_counts[r] =
            cps_maximal_runs(parts, first_part[r], first_part[r + 1], comm->runs + nodes);
        nodes += comm->node_counts[r];
    }
    return nodes;
}

/* Columns [0, columns) of the sum. The workspace holds all nodes' rows, rank after rank. merged:
 * `own` are this rank's maximal nodes already, else its parts. */
static void sum_columns(cps_comm *comm, const char *place, int64_t parts, const int64_t *first_part,
                        int32_t nodes, bool merged, const double *own, int64_t width, double *sum,
                        int64_t columns) {
    int64_t before = 0;
    for (int32_t r = 0; r < comm->size; r++) {
        before += r < comm->rank ? comm->node_counts[r] : 0;
        comm->bytes[r] = comm->node_counts[r] * columns * (int64_t)sizeof(double);
    }
    const int64_t first = first_part[comm->rank], last = first_part[comm->rank + 1];
    double *rows = comm->workspace + before * columns;
    if (merged) {
        for (int32_t i = 0; i < comm->node_counts[comm->rank]; i++) {
            memcpy(rows + i * columns, own + i * width, (size_t)columns * sizeof *rows);
        }
    } else {
        merge_rows(parts, first, last, NULL, last - first, own, width, rows, columns, columns);
    }
    if (comm->size > 1) {
        cps_comm_allgatherv_inplace(comm, place, comm->workspace, comm->bytes);
    }
    cps_tree_finish_f64(parts, comm->runs, nodes, comm->workspace, columns, sum);
}

/* The workspace was made at start, and wide rows go through it in pieces: nothing here can fail, so
 * no rank can leave the others waiting. */
static void sum_owned(cps_comm *comm, const char *place, int64_t parts, const int64_t *first_part,
                      bool merged, const double *own, int64_t width, double *sum_out) {
    if (parts == 0) {
        memset(sum_out, 0, (size_t)width * sizeof *sum_out);
        return;
    }
    const int32_t nodes = list_nodes(comm, parts, first_part);
    const int64_t step = cps_min_i64(width, comm->workspace_count / nodes);
    for (int64_t column = 0; column < width; column += step) {
        sum_columns(comm, place, parts, first_part, nodes, merged, own + column, width,
                    sum_out + column, cps_min_i64(step, width - column));
    }
}

cps_status cps_canonical_sum_owned(cps_comm *comm, const char *place, int64_t parts,
                                   const int64_t *first_part, const double *own, int64_t width,
                                   double *sum_out) {
    sum_owned(comm, place, parts, first_part, false, own, width, sum_out);
    return CPS_OK;
}

cps_status cps_canonical_sum_nodes(cps_comm *comm, const char *place, int64_t parts,
                                   const int64_t *first_part, const double *own, int64_t width,
                                   double *sum_out) {
    sum_owned(comm, place, parts, first_part, true, own, width, sum_out);
    return CPS_OK;
}

cps_status cps_canonical_sum(cps_comm *comm, const char *place, int64_t parts, const double *own,
                             int64_t width, double *sum_out) {
    for (int32_t r = 0; r <= comm->size; r++) {
        comm->first_part[r] = cps_part_first(parts, comm->size, r);
    }
    return cps_canonical_sum_owned(comm, place, parts, comm->first_part, own, width, sum_out);
}
