/* y = act(x W^T + b) and the product of two matrices. The bias and the activation are applied to
 * each tile of the product while it is in cache. Kept for backward: x, W, and with an activation
 * the sum before it, which backward turns into its gradient in place. */
#include "tensor/ops.h"

#include <string.h>

#include "base/numeric.h"
#include "tensor/gemm_engine.h"
#include "tensor/op.h"

/* ---- linear, forward
 * ---------------------------------------------------------------------------------------------------------
 */
typedef struct linear_tile {
    const cps_kernels *kernels;
    cps_activation activation;
    int64_t width; /* of y and pre */
    const cps_real *bias;
    cps_real *pre, *y; /* one array where nothing is kept */
} linear_tile;

static void linear_epilogue(void *context, int64_t row, int64_t row_end, int64_t column,
                            int64_t column_end) {
    const linear_tile *t = context;
    for (int64_t i = row; i < row_end; i++) {
        const int64_t at = i * t->width + column;
        t->kernels->bias_act(t->activation, column_end - column,
                             t->bias != NULL ? t->bias + column : NULL, t->pre + at, t->y + at);
    }
}

typedef struct linear_saved {
    cps_activation activation;
    cps_real *pre; /* [rows, out]; NULL without activation */
} linear_saved;

static bool linear_operands_fit(cps_tape *tape, const cps_tensor *x, const cps_tensor *weight,
                                const cps_tensor *bias) {
    if (!cps_op_dtype(tape, "linear", "x", x, CPS_REAL) ||
        !cps_op_dtype(tape, "linear", "weight", weight, CPS_REAL)) {
        return false;
    }
    if (weight->rank != 2 || x->rank < 1 || cps_columns_of(x) != weight->shape[1] ||
        (bias != NULL && (bias->rank != 1 || bias->shape[0] != weight->shape[0]))) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "linear: x %s, weight %s and bias %s do not fit; [..., in], [out, in] and "
                      "[out] are wanted",
                      cps_show_shape(x).text, cps_show_shape(weight).text,
                      bias != NULL ? cps_show_shape(bias).text : "(none)");
        return false;
    }
    return true;
}

static cps_status linear_backward(cps_tape *tape, const cps_node *node);

/* Scratch of backward: a block of column sums every CPS_SUM_ROWS rows. */
static size_t linear_scratch(int64_t rows, int64_t out) {
    return cps_scratch_size(cps_sum_blocks(rows) * out);
}

cps_tensor *cps_linear(cps_tape *tape, cps_tensor *x, cps_tensor *weight, cps_tensor *bias,
                       cps_activation activation) {
    cps_tensor *const operands[] = {x, weight, bias};
    if (!cps_op_ready(tape, "linear", 2, operands) || !linear_operands_fit(tape, x, weight, bias)) {
        return NULL;
    }
    const int64_t rows = cps_rows_of(x), in = weight->shape[1], out = weight->shape[0];
    cps_tensor *y = cps_result_like(tape, x, out);
    const bool keep = cps_tape_will_record(tape, 3, operands);
    linear_saved *saved = keep ? cps_tape_save(tape, sizeof *saved) : NULL;
    cps_real *pre = keep && activation != CPS_ACT_NONE ? cps_scratch(tape, rows * out) : NULL;
    if (y == NULL) {
        return NULL;
    }
    const cps_node node = {.backward = linear_backward,
                           .name = "linear",
                           .output_count = 1,
                           .input_count = 3,
                           .outputs = {y},
                           .inputs = {x, weight, bias},
                           .saved = saved,
                           .scratch_bytes = linear_scratch(rows, out)};
    cps_tape_record_with(tape, &node, 0);
    if (!cps_tape_computes(tape)) {
        return cps_tape_status(tape) == CPS_OK ? y : NULL;
    }
    if (keep) {
        *saved = (linear_saved){.activation = activation, .pre = pre};
    }
    linear_tile tile = {.kernels = cps_kernels_get(),
                        .activation = activation,
                        .width = out,
                        .bias = bias != NULL ? cps_values(bias) : NULL,
                        .pre = pre != NULL ? pre : cps_values_out(y),
                        .y = cps_values_out(y)};
    const cps_product product = {
        .transpose_b = true,
        .m = rows,
        .n = out,
        .k = in,
        .alpha = 1.0,
        .a = cps_values(x),
        .lda = in,
        .b = cps_values(weight),
        .ldb = in,
        .c = tile.pre,
        .ldc = out,
        .epilogue = bias != NULL || activation != CPS_ACT_NONE ? linear_epilogue : NULL,
        .context = &tile};
    cps_products(1, &product);
    return y;
}

/* ---- linear, backward
 * --------------------------------------------------------------------------------------------------------
 */
typedef struct linear_slope {
    cps_activation activation;
    int64_t out;
    const cps_real *dy;
    cps_real *pre, *partial;
} linear_slope;

/* pre <- dy * act'(pre) for one block of rows, and its column sums. */
static void linear_slope_block(void *context, int64_t first, int64_t last) {
    const linear_slope *s = context;
    const cps_kernels *kernels = cps_kernels_get();
    cps_real *sums = s->partial + first / CPS_SUM_ROWS * s->out;
    memset(sums, 0, (size_t)s->out * sizeof *sums);
    for (int64_t row = first; row < last; row++) {
        kernels->act_grad(s->activation, s->out, s->dy + row * s->out, s->pre + row * s->out, sums);
    }
}

static cps_status linear_backward(cps_tape *tape, const cps_node *node) {
    const linear_saved *saved = node->saved;
    cps_tensor *x = node->inputs[0], *weight = node->inputs[1], *bias = node->inputs[2];
    const int64_t in = weight->shape[1], out = weight->shape[0];
    const int64_t rows = cps_rows_of(x);
    const cps_real *dy = cps_node_grad(node->outputs[0]);
    cps_real *partial = cps_scratch(tape, cps_sum_blocks(rows) * out);
    if (partial == NULL) {
        return cps_tape_status(tape);
    }
    const cps_real *dz = dy; /* gradient before the activation */
    bool fresh;
    cps_real *d_bias;
    if (saved->activation != CPS_ACT_NONE) {
        linear_slope slope = {.activation = saved->activation,
                              .out = out,
                              .dy = dy,
                              .pre = saved->pre,
                              .partial = partial};
        cps_parallel_range(rows, CPS_SUM_ROWS, linear_slope_block, &slope);
        dz = saved->pre;
        if ((d_bias = cps_grad_target(tape, bias, &fresh)) != NULL) {
            cps_sum_partials(cps_sum_blocks(rows), out, partial, fresh, d_bias);
        }
    } else if ((d_bias = cps_grad_target(tape, bias, &fresh)) != NULL) {
        cps_column_sums(rows, out, out, dy, partial, fresh, d_bias);
    }
    cps_product products[2];
    int32_t count = 0;
    cps_real *d_weight = cps_grad_target(tape, weight, &fresh);
    if (d_weight != NULL) {
        products[count++] = (cps_product){.transpose_a = true,
                                          .m = out,
                                          .n = in,
                                          .k = rows,
                                          .alpha = 1.0,
                                          .a = dz,
                                          .lda = out,
                                          .b = cps_values(x),
                                          .ldb = in,
                                          .beta = fresh ? 0.0 : 1.0,
                                          .c = d_weight,
                                          .ldc = in};
    }
    if (x == weight) { /* both gradients in one place: one after the other */
        cps_products(count, products);
        count = 0;
    }
    cps_real *d_x = cps_grad_target(tape, x, &fresh);
    if (d_x != NULL) {
        products[count++] = (cps_product){.m = rows,
                                          .n = in,
                                          .k = out,
                                          .alpha = 1.0,
                                          .a = dz,
                                          .lda = out,
                                          .b = cps_values(weight),
                                          .ldb = in,
                                          .beta = fresh ? 0.0 : 1.0,
                                          .c = d_x,
                                          .ldc = in};
    }
    cps_products(count, products);
    return CPS_OK;
}

/* ---- matmul
 * ------------------------------------------------------------------------------------------------------------------
 */
typedef struct matmul_saved {
    bool transpose_a, transpose_b;
    double alpha;
} matmul_saved;

/* With y = alpha op(a) op(b): d_op(a) = alpha dy op(b)^T, d_op(b) = alpha op(a)^T dy. */
static cps_status matmul_backward(cps_tape *tape, const cps_node *node) {
    const matmul_saved *s = node->saved;
    cps_tensor *a = node->inputs[0], *b = node->inputs[1], *y = node->outputs[0];
    const cps_real *dy = cps_node_grad(y);
    const int64_t lda = a->shape[1], ldb = b->shape[1], n = y->shape[1];
    bool fresh;
    cps_real *d_a = cps_grad_target(tape, a, &fresh);
    if (d_a != NULL && !s->transpose_a) {
        cps_gemm(false, !s->transpose_b, a->shape[0], a->shape[1], n, s->alpha, dy, n,
                 cps_values(b), ldb, fresh ? 0.0 : 1.0, d_a, lda);
    } else if (d_a != NULL) {
        cps_gemm(s->transpose_b, true, a->shape[0], a->shape[1], n, s->alpha, cps_values(b), ldb,
                 dy, n, fresh ? 0.0 : 1.0, d_a, lda);
    }
    cps_real *d_b = cps_grad_target(tape, b, &fresh);
    if (d_b != NULL && !s->transpose_b) {
        cps_gemm(!s->transpose_a, false, b->shape[0], b->shape[1], y->shape[0], s->alpha,
                 cps_values(a), lda, dy, n, fresh ? 0.0 : 1.0, d_b, ldb);
    } else if (d_b != NULL) {
        cps_gemm(true, s->transpose_a, b->shape[0], b->shape[1], y->shape[0], s->alpha, dy, n,
                 cps_values(a), lda, fresh ? 0.0 : 1.0, d_b, ldb);
    }
    return CPS_OK;
}

cps_tensor *cps_matmul(cps_tape *tape, cps_tensor *a, cps_tensor *b, bool transpose_a,
                       bool transpose_b, double alpha) {
    cps_tensor *const operands[] = {a, b};
    if (!cps_op_ready(tape, "matmul", 2, operands) ||
        !cps_op_dtype(tape, "matmul", "a", a, CPS_REAL) ||
        !cps_op_dtype(tape, "matmul", "b", b, CPS_REAL)) {
        return NULL;
    }
    if (a->rank != 2 || b->rank != 2 ||
        a->shape[transpose_a ? 0 : 1] != b->shape[transpose_b ? 1 : 0]) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "matmul: %s%s times %s%s: inner dimensions must be equal",
                             cps_show_shape(a).text, transpose_a ? " transposed" : "",
                             cps_show_shape(b).text, transpose_b ? " transposed" : "");
    }
    const int64_t m = a->shape[transpose_a ? 1 : 0], k = a->shape[transpose_a ? 0 : 1];
    const int64_t n = b->shape[transpose_b ? 0 : 1];
    const int64_t shape[2] = {m, n};
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 2, shape);
    if (y == NULL) {
        return NULL;
    }
    y->layout = transpose_a ? NULL : a->layout;
    matmul_saved *saved =
        cps_tape_will_record(tape, 2, operands) ? cps_tape_save(tape, sizeof *saved) : NULL;
    const cps_node node = {.backward = matmul_backward,
                           .name = "matmul",
                           .output_count = 1,
                           .input_count = 2,
                           .outputs = {y},
                           .inputs = {a, b},
                           .saved = saved};
    if (b->layout != NULL) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "matmul: the second operand's rows are spread over ranks; gather them "
                             "first (cps_gather)");
    }
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        if (saved != NULL) {
            *saved = (matmul_saved){
                .transpose_a = transpose_a, .transpose_b = transpose_b, .alpha = alpha};
        }
        cps_gemm(transpose_a, transpose_b, m, n, k, alpha, cps_values(a), a->shape[1],
                 cps_values(b), b->shape[1], 0.0, cps_values_out(y), n);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
