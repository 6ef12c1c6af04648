/* Layer norm over the last dimension. Kept: mean and 1/deviation of each row; x by reference. */
#include "tensor/ops.h"

#include <string.h>

#include "base/numeric.h"
#include "tensor/op.h"

typedef struct norm_work {
    int64_t width;
    double eps;
    const cps_real *x, *gain, *bias, *dy;
    cps_real *y, *mean, *rstd; /* forward; mean, rstd: one element or [rows] */
    bool keep, add;
    cps_real *d_x, *partial; /* backward: [blocks][2][width] */
} norm_work;

static void norm_rows(void *context, int64_t first, int64_t last) {
    const norm_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * w->width;
        cps_real mean, rstd;
        kernels->norm(w->width, w->x + at, w->gain, w->bias, w->eps, w->y + at, &mean, &rstd);
        if (w->keep) {
            w->mean[row] = mean;
            w->rstd[row] = rstd;
        }
    }
}

static void norm_block_backward(void *context, int64_t first, int64_t last) {
    const norm_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    cps_real *d_gain = w->partial + first / CPS_SUM_ROWS * 2 * w->width;
    memset(d_gain, 0, (size_t)(2 * w->width) * sizeof *d_gain);
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * w->width;
        kernels->norm_grad(w->width, w->x + at, w->gain, w->mean[row], w->rstd[row], w->dy + at,
                           w->add, w->d_x != NULL ? w->d_x + at : NULL, d_gain, d_gain + w->width);
    }
}

static cps_status norm_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *x = node->inputs[0];
    const int64_t rows = cps_rows_of(x), width = cps_columns_of(x), blocks = cps_sum_blocks(rows);
    cps_real *partial = cps_scratch(tape, blocks * 2 * width);
    cps_real *sums = cps_scratch(tape, 2 * width);
    if (partial == NULL || sums == NULL) {
        return cps_tape_status(tape);
    }
    bool fresh = true;
    norm_work work = {.width = width,
                      .x = cps_values(x),
                      .gain = cps_values(node->inputs[1]),
                      .dy = cps_node_grad(node->outputs[0]),
                      .mean = node->saved,
                      .rstd = (cps_real *)node->saved + rows,
                      .partial = partial,
                      .d_x = cps_grad_target(tape, x, &fresh)};
    work.add = !fresh;
    cps_parallel_range(rows, CPS_SUM_ROWS, norm_block_backward, &work);
    cps_sum_partials(blocks, 2 * width, partial, true, sums);
    for (int32_t i = 1; i <= 2; i++) {
        cps_real *target = cps_grad_target(tape, node->inputs[i], &fresh);
        if (target != NULL) {
            cps_put(width, sums + (i - 1) * width, fresh, target);
        }
    }
    return CPS_OK;
}

cps_tensor *cps_layer_norm(cps_tape *tape, cps_tensor *x, cps_tensor *gain, cps_tensor *bias,
                           double eps) {
    cps_tensor *const operands[] = {x, gain, bias};
    if (!cps_op_ready(tape, "layer_norm", 3, operands) ||
        !cps_op_dtype(tape, "layer_norm", "x", x, CPS_REAL) ||
        !cps_op_dtype(tape, "layer_norm", "gain", gain, CPS_REAL) ||
        !cps_op_dtype(tape, "layer_norm", "bias", bias, CPS_REAL)) {
        return NULL;
    }
    const int64_t width = cps_columns_of(x);
    if (x->rank < 1 || width < 1 || gain->rank != 1 || bias->rank != 1 || gain->shape[0] != width ||
        bias->shape[0] != width) {
        return cps_tape_fail(
            tape, CPS_ERR_USAGE,
            "layer_norm: x %s, gain %s, bias %s; [..., width], [width] and [width] are wanted",
            cps_show_shape(x).text, cps_show_shape(gain).text, cps_show_shape(bias).text);
    }
    const int64_t rows = cps_rows_of(x);
    cps_tensor *y = cps_result_like(tape, x, width);
    if (y == NULL) {
        return NULL;
    }
    const bool keep = cps_tape_will_record(tape, 3, operands);
    cps_real *saved = keep ? cps_scratch(tape, 2 * rows) : NULL;
    const cps_node node = {.backward = norm_backward,
                           .name = "layer_norm",
                           .output_count = 1,
                           .input_count = 3,
                           .outputs = {y},
                           .inputs = {x, gain, bias},
                           .saved = saved,
                           .scratch_bytes = cps_scratch_size(cps_sum_blocks(rows) * 2 * width) +
                                            cps_scratch_size(2 * width)};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        norm_work work = {.width = width,
                          .eps = eps,
                          .x = cps_values(x),
                          .gain = cps_values(gain),
                          .bias = cps_values(bias),
                          .y = cps_values_out(y),
                          .keep = keep,
                          .mean = saved,
                          .rstd = keep ? saved + rows : NULL};
        cps_parallel_rows(rows, width, norm_rows, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
