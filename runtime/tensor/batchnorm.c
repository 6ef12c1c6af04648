/* Batch norm over rows, by column: arXiv:1502.03167, algorithm 1. Sums go over fixed blocks of rows
 * in double and over blocks in their order. */
#include "tensor/ops.h"

#include <math.h>
#include <string.h>

#include "base/numeric.h"
#include "tensor/op.h"

typedef struct batch_norm {
    int64_t rows, width;
    double eps;
    bool training;       /* statistics of these rows, not given ones */
    double *mean, *rstd; /* [width] */
} batch_norm;

typedef struct norm_work {
    const batch_norm *norm;
    const cps_real *x, *gain, *bias, *dy;
    cps_real *y, *d_x;
    double *partial;    /* [blocks, 2 width] */
    const double *sums; /* [2 width]: of dy, of dy * xhat */
    bool fresh;
} norm_work;

/* Adds the blocks of `partial` in order. */
static void add_blocks(int64_t blocks, int64_t columns, const double *partial, double *sums) {
    memset(sums, 0, (size_t)columns * sizeof *sums);
    for (int64_t b = 0; b < blocks; b++) {
        for (int64_t c = 0; c < columns; c++) {
            sums[c] += partial[b * columns + c];
        }
    }
}

/* ---- statistics: means first, then squares of what is left ---- */

static void sum_block(void *context, int64_t first, int64_t last) {
    const norm_work *w = context;
    const int64_t width = w->norm->width;
    double *sums = w->partial + first / CPS_SUM_ROWS * width;
    memset(sums, 0, (size_t)width * sizeof *sums);
    for (int64_t row = first; row < last; row++) {
        for (int64_t c = 0; c < width; c++) {
            sums[c] += (double)w->x[row * width + c];
        }
    }
}

static void square_block(void *context, int64_t first, int64_t last) {
    const norm_work *w = context;
    const int64_t width = w->norm->width;
    double *sums = w->partial + first / CPS_SUM_ROWS * width;
    memset(sums, 0, (size_t)width * sizeof *sums);
    for (int64_t row = first; row < last; row++) {
        for (int64_t c = 0; c < width; c++) {
            const double off = (double)w->x[row * width + c] - w->norm->mean[c];
            sums[c] += off * off;
        }
    }
}

static void take_statistics(const batch_norm *norm, norm_work *work, double *moments) {
    const int64_t width = norm->width, blocks = cps_sum_blocks(norm->rows);
    const double count = (double)cps_max_i64(1, norm->rows);
    cps_parallel_range(norm->rows, CPS_SUM_ROWS, sum_block, work);
    add_blocks(blocks, width, work->partial, norm->mean);
    for (int64_t c = 0; c < width; c++) {
        norm->mean[c] /= count;
    }
    cps_parallel_range(norm->rows, CPS_SUM_ROWS, square_block, work);
    add_blocks(blocks, width, work->partial, norm->rstd);
    for (int64_t c = 0; c < width; c++) {
        if (moments != NULL) {
            moments[c] = norm->mean[c];
            moments[width + c] = norm->rstd[c] / fmax(count - 1.0, 1.0);
        }
        norm->rstd[c] = 1.0 / sqrt(norm->rstd[c] / count + norm->eps);
    }
}

static void norm_rows(void *context, int64_t first, int64_t last) {
    const norm_work *w = context;
    const int64_t width = w->norm->width;
    for (int64_t row = first; row < last; row++) {
        for (int64_t c = 0; c < width; c++) {
            const double hat =
                ((double)w->x[row * width + c] - w->norm->mean[c]) * w->norm->rstd[c];
            w->y[row * width + c] = (cps_real)(hat * (double)w->gain[c] + (double)w->bias[c]);
        }
    }
}

/* ---- backward ---- */

static void grad_block(void *context, int64_t first, int64_t last) {
    const norm_work *w = context;
    const int64_t width = w->norm->width;
    double *sums = w->partial + first / CPS_SUM_ROWS * 2 * width;
    memset(sums, 0, (size_t)(2 * width) * sizeof *sums);
    for (int64_t row = first; row < last; row++) {
        for (int64_t c = 0; c < width; c++) {
            const double d = (double)w->dy[row * width + c];
            sums[c] += d;
            sums[width + c] +=
                d * ((double)w->x[row * width + c] - w->norm->mean[c]) * w->norm->rstd[c];
        }
    }
}

/* Statistics of the rows themselves: dx = rstd gain (dy - mean(dy) - xhat mean(dy xhat)). */
static void grad_rows(void *context, int64_t first, int64_t last) {
    const norm_work *w = context;
    const batch_norm *norm = w->norm;
    const int64_t width = norm->width;
    const double share = norm->training ? 1.0 / (double)norm->rows : 0.0;
    for (int64_t row = first; row < last; row++) {
        for (int64_t c = 0; c < width; c++) {
            const int64_t at = row * width + c;
            const double hat = ((double)w->x[at] - norm->mean[c]) * norm->rstd[c];
            const double d = (double)w->dy[at] - share * (w->sums[c] + hat * w->sums[width + c]);
            const cps_real value = (cps_real)(d * norm->rstd[c] * (double)w->gain[c]);
            w->d_x[at] = w->fresh ? value : w->d_x[at] + value;
        }
    }
}

static void put_sums(int64_t width, const double *sums, bool fresh, cps_real *target) {
    for (int64_t c = 0; c < width && target != NULL; c++) {
        target[c] = fresh ? (cps_real)sums[c] : target[c] + (cps_real)sums[c];
    }
}

/* Doubles of scratch: partial sums of `columns` columns, and their total. */
static size_t sums_bytes(int64_t rows, int64_t columns) {
    return (size_t)((cps_sum_blocks(rows) + 1) * columns) * sizeof(double);
}

static cps_status norm_backward(cps_tape *tape, const cps_node *node) {
    const batch_norm *norm = node->saved;
    const int64_t width = norm->width, blocks = cps_sum_blocks(norm->rows);
    double *partial = cps_tape_save(tape, sums_bytes(norm->rows, 2 * width));
    if (partial == NULL) {
        return cps_tape_status(tape);
    }
    norm_work work = {.norm = norm,
                      .x = cps_values(node->inputs[0]),
                      .gain = cps_values(node->inputs[1]),
                      .dy = cps_node_grad(node->outputs[0]),
                      .partial = partial};
    double *sums = partial + blocks * 2 * width;
    cps_parallel_range(norm->rows, CPS_SUM_ROWS, grad_block, &work);
    add_blocks(blocks, 2 * width, partial, sums);
    work.sums = sums;
    work.d_x = cps_grad_target(tape, node->inputs[0], &work.fresh);
    if (work.d_x != NULL) {
        cps_parallel_rows(norm->rows, width, grad_rows, &work);
    }
    bool fresh = true;
    cps_real *target = cps_grad_target(tape, node->inputs[1], &fresh);
    put_sums(width, sums + width, fresh, target);
    target = cps_grad_target(tape, node->inputs[2], &fresh);
    put_sums(width, sums, fresh, target);
    return CPS_OK;
}

/* ---- the operation ---- */

static bool operands_fit(cps_tape *tape, cps_tensor *const operands[5]) {
    static const char *const names[] = {"x", "gain", "bias", "mean", "variance"};
    const bool given = operands[3] != NULL;
    const int64_t width = cps_columns_of(operands[0]);
    bool fits = operands[0]->rank >= 2 && width >= 1 && given == (operands[4] != NULL);
    for (int32_t i = 0; i < 5; i++) {
        if (operands[i] != NULL &&
            !cps_op_dtype(tape, "batch_norm", names[i], operands[i], CPS_REAL)) {
            return false;
        }
        fits = fits && (i == 0 || operands[i] == NULL ||
                        (operands[i]->rank == 1 && operands[i]->shape[0] == width));
    }
    if (!fits) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "batch_norm: x %s, gain %s, bias %s, mean %s, variance %s; [..., width] and "
                      "[width] are wanted, mean and variance both or none",
                      cps_show_shape(operands[0]).text, cps_show_shape(operands[1]).text,
                      cps_show_shape(operands[2]).text,
                      given ? cps_show_shape(operands[3]).text : "(none)",
                      operands[4] != NULL ? cps_show_shape(operands[4]).text : "(none)");
    }
    return fits;
}

cps_tensor *cps_batch_norm(cps_tape *tape, cps_tensor *x, cps_tensor *gain, cps_tensor *bias,
                           cps_tensor *mean, cps_tensor *variance, double eps, double *moments) {
    cps_tensor *const operands[] = {x, gain, bias, mean, variance};
    if (!cps_op_ready(tape, "batch_norm", 3, operands) || !operands_fit(tape, operands)) {
        return NULL;
    }
    const int64_t width = cps_columns_of(x), rows = cps_rows_of(x);
    cps_tensor *y = cps_result_like(tape, x, width);
    batch_norm *norm = cps_tape_save(tape, sizeof *norm);
    double *statistics = cps_tape_save(tape, (size_t)(2 * width) * sizeof *statistics);
    if (norm != NULL) {
        *norm = (batch_norm){.rows = rows,
                             .width = width,
                             .eps = eps,
                             .training = mean == NULL,
                             .mean = statistics,
                             .rstd = statistics == NULL ? NULL : statistics + width};
    }
    const cps_node node = {.backward = norm_backward,
                           .name = "batch_norm",
                           .output_count = 1,
                           .input_count = 3,
                           .outputs = {y},
                           .inputs = {x, gain, bias},
                           .saved = norm,
                           .scratch_bytes = sums_bytes(rows, 2 * width)};
    if (y == NULL) {
        return NULL;
    }
    cps_tape_record_with(tape, &node, 0);
    const size_t mark = cps_tape_mark(tape);
    double *partial = cps_tape_save(tape, sums_bytes(rows, width));
    if (cps_tape_computes(tape)) {
        norm_work work = {.norm = norm,
                          .x = cps_values(x),
                          .gain = cps_values(gain),
                          .bias = cps_values(bias),
                          .y = cps_values_out(y),
                          .partial = partial};
        if (mean == NULL) {
            take_statistics(norm, &work, moments);
        }
        for (int64_t c = 0; c < width && mean != NULL; c++) {
            statistics[c] = (double)cps_values(mean)[c];
            statistics[width + c] = 1.0 / sqrt((double)cps_values(variance)[c] + eps);
        }
        cps_parallel_rows(rows, width, norm_rows, &work);
    }
    cps_tape_release(tape, mark);
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
