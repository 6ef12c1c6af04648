/* Sums: of all elements, along the last dimension, over the first one, of products. In double, over
 * fixed blocks added in order. */
#include "tensor/ops.h"

#include <string.h>

#include "base/numeric.h"
#include "tensor/op.h"

enum { SUM_BLOCK = 4096 };

typedef struct reduce_work {
    int64_t rows, width;
    const cps_real *a, *b, *dy;
    double *partial;
    cps_real *to;
    double seed;
    bool fresh;
} reduce_work;

/* ---- to a scalar
 * -------------------------------------------------------------------------------------------------------------
 */
static void sum_block(void *context, int64_t first, int64_t last) {
    const reduce_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    w->partial[first / SUM_BLOCK] = w->b != NULL
                                        ? kernels->dot(last - first, w->a + first, w->b + first)
                                        : kernels->sum(last - first, w->a + first);
}

static double add_blocks(const double *partial, int64_t count) {
    double total = 0.0;
    for (int64_t block = 0; block < cps_ceil_div(count, SUM_BLOCK); block++) {
        total += partial[block];
    }
    return total;
}

/* to (+)= seed, or seed * a. */
static void spread_piece(void *context, int64_t first, int64_t last) {
    const reduce_work *w = context;
    const cps_real seed = (cps_real)w->seed;
    for (int64_t i = first; i < last; i++) {
        const cps_real d = w->a != NULL ? seed * w->a[i] : seed;
        w->to[i] = w->fresh ? d : w->to[i] + d;
    }
}

static cps_status scalar_backward(cps_tape *tape, const cps_node *node) {
    reduce_work work = {.seed = (double)cps_node_grad(node->outputs[0])[0]};
    for (int32_t i = 0; i < node->input_count; i++) {
        work.a = node->input_count == 2 ? cps_values(node->inputs[1 - i]) : NULL;
        work.to = cps_grad_target(tape, node->inputs[i], &work.fresh);
        if (work.to != NULL) {
            cps_parallel_range(cps_count_of(node->inputs[i]), CPS_PIECE, spread_piece, &work);
        }
    }
    return CPS_OK;
}

static cps_tensor *to_scalar(cps_tape *tape, const char *name, cps_tensor *a, cps_tensor *b) {
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 0, NULL);
    if (y == NULL) {
        return NULL;
    }
    const cps_node node = {.backward = scalar_backward,
                           .name = name,
                           .output_count = 1,
                           .input_count = b != NULL ? 2 : 1,
                           .outputs = {y},
                           .inputs = {a, b}};
    cps_tape_record_with(tape, &node, 0);
    const int64_t count = cps_count_of(a);
    const size_t mark = cps_tape_mark(tape);
    double *partial = cps_tape_save(tape, (size_t)cps_ceil_div(count, SUM_BLOCK) * sizeof *partial);
    if (cps_tape_computes(tape)) {
        reduce_work work = {
            .a = cps_values(a), .b = b != NULL ? cps_values(b) : NULL, .partial = partial};
        cps_parallel_range(count, SUM_BLOCK, sum_block, &work);
        cps_values_out(y)[0] = (cps_real)add_blocks(partial, count);
    }
    cps_tape_release(tape, mark);
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

cps_tensor *cps_sum(cps_tape *tape, cps_tensor *x) {
    if (!cps_op_ready(tape, "sum", 1, &x) || !cps_op_dtype(tape, "sum", "x", x, CPS_REAL)) {
        return NULL;
    }
    return to_scalar(tape, "sum", x, NULL);
}

cps_tensor *cps_dot(cps_tape *tape, cps_tensor *a, cps_tensor *b) {
    cps_tensor *const operands[] = {a, b};
    if (!cps_op_ready(tape, "dot", 2, operands) || !cps_op_dtype(tape, "dot", "a", a, CPS_REAL) ||
        !cps_op_dtype(tape, "dot", "b", b, CPS_REAL)) {
        return NULL;
    }
    if (!cps_same_shape(a, b)) {
        return cps_tape_fail(tape, CPS_ERR_USAGE, "dot: shapes %s and %s; equal ones are wanted",
                             cps_show_shape(a).text, cps_show_shape(b).text);
    }
    return to_scalar(tape, "dot", a, b);
}

/* ---- along the last dimension
 * -------------------------------------------------------------------------------------------------
 */
static void sum_rows(void *context, int64_t first, int64_t last) {
    const reduce_work *w = context;
    for (int64_t row = first; row < last; row++) {
        w->to[row] = (cps_real)cps_kernels_get()->sum(w->width, w->a + row * w->width);
    }
}

static void sum_rows_backward_piece(void *context, int64_t first, int64_t last) {
    const reduce_work *w = context;
    for (int64_t row = first; row < last; row++) {
        for (int64_t j = row * w->width; j < (row + 1) * w->width; j++) {
            w->to[j] = w->fresh ? w->dy[row] : w->to[j] + w->dy[row];
        }
    }
}

static cps_status sum_last_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *x = node->inputs[0];
    reduce_work work = {.width = cps_columns_of(x), .dy = cps_node_grad(node->outputs[0])};
    work.to = cps_grad_target(tape, x, &work.fresh);
    cps_parallel_rows(cps_rows_of(x), work.width, sum_rows_backward_piece, &work);
    return CPS_OK;
}

cps_tensor *cps_sum_last(cps_tape *tape, cps_tensor *x) {
    if (!cps_op_ready(tape, "sum_last", 1, &x) ||
        !cps_op_dtype(tape, "sum_last", "x", x, CPS_REAL)) {
        return NULL;
    }
    if (x->rank < 1) {
        return cps_tape_fail(tape, CPS_ERR_USAGE, "sum_last: a scalar has no last dimension");
    }
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, x->rank - 1, x->shape);
    if (y == NULL) {
        return NULL;
    }
    y->layout = x->rank > 1 ? x->layout : NULL;
    const cps_node node = {.backward = sum_last_backward,
                           .name = "sum_last",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x}};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        reduce_work work = {
            .width = cps_columns_of(x), .a = cps_values(x), .to = cps_values_out(y)};
        cps_parallel_rows(cps_rows_of(x), work.width, sum_rows, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

/* ---- over the first dimension
 * --------------------------------------------------------------------------------------------------
 */
static void sum_columns(void *context, int64_t first, int64_t last) {
    const reduce_work *w = context;
    enum { STRIP = 256 };
    for (int64_t from = first; from < last; from += STRIP) {
        const int64_t width = cps_min_i64(STRIP, last - from);
        double total[STRIP] = {0};
        for (int64_t row = 0; row < w->rows; row++) {
            for (int64_t j = 0; j < width; j++) {
                total[j] += (double)w->a[row * w->width + from + j];
            }
        }
        for (int64_t j = 0; j < width; j++) {
            w->to[from + j] = (cps_real)total[j];
        }
    }
}

static void sum_first_backward_piece(void *context, int64_t first, int64_t last) {
    const reduce_work *w = context;
    for (int64_t row = first; row < last; row++) {
        cps_real *to = w->to + row * w->width;
        if (w->fresh) {
            memcpy(to, w->dy, (size_t)w->width * sizeof *to);
        } else {
            cps_kernels_get()->add(w->width, to, w->dy, to);
        }
    }
}

static cps_status sum_first_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *x = node->inputs[0];
    reduce_work work = {.width = cps_count_of(node->outputs[0]),
                        .dy = cps_node_grad(node->outputs[0])};
    work.to = cps_grad_target(tape, x, &work.fresh);
    cps_parallel_rows(x->shape[0], work.width, sum_first_backward_piece, &work);
    return CPS_OK;
}

cps_tensor *cps_sum_first(cps_tape *tape, cps_tensor *x) {
    if (!cps_op_ready(tape, "sum_first", 1, &x) ||
        !cps_op_dtype(tape, "sum_first", "x", x, CPS_REAL)) {
        return NULL;
    }
    if (x->rank < 1) {
        return cps_tape_fail(tape, CPS_ERR_USAGE, "sum_first: a scalar has no first dimension");
    }
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, x->rank - 1, x->shape + 1);
    if (y == NULL) {
        return NULL;
    }
    const cps_node node = {.backward = sum_first_backward,
                           .name = "sum_first",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x}};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        reduce_work work = {.rows = x->shape[0],
                            .width = cps_count_of(y),
                            .a = cps_values(x),
                            .to = cps_values_out(y)};
        cps_parallel_range(work.width, 256, sum_columns, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
