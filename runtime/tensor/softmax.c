/* Softmax and its logarithm along the last dimension, and the cross-entropies. */
#include "tensor/ops.h"

#include <math.h>
#include <string.h>

#include "base/numeric.h"
#include "tensor/op.h"

typedef struct softmax_work {
    int64_t width;
    const cps_real *x, *y, *dy;
    cps_real *to;
    bool fresh;
} softmax_work;

/* log(sum exp(x)) in double; the row's maximum first. `exps` [width]: exp(x - maximum). */
static double log_sum_exp(int64_t width, const cps_real *x, cps_real *exps, double *maximum_out,
                          double *sum_out) {
    const cps_kernels *kernels = cps_kernels_get();
    const cps_real most = kernels->max(width, x);
    const double sum = kernels->exp_sum(width, x, most, exps);
    *maximum_out = (double)most;
    *sum_out = sum;
    return (double)most + log(sum);
}

/* ---- softmax
 * -----------------------------------------------------------------------------------------------------------------
 */
static void softmax_rows(void *context, int64_t first, int64_t last) {
    const softmax_work *w = context;
    for (int64_t row = first; row < last; row++) {
        cps_kernels_get()->softmax(w->width, (cps_real)1, w->x + row * w->width,
                                   w->to + row * w->width);
    }
}

static void softmax_grad_rows(void *context, int64_t first, int64_t last) {
    const softmax_work *w = context;
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * w->width;
        cps_kernels_get()->softmax_grad(w->width, (cps_real)1, w->y + at, w->dy + at, !w->fresh,
                                        w->to + at);
    }
}

static void log_softmax_rows(void *context, int64_t first, int64_t last) {
    const softmax_work *w = context;
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * w->width;
        double most, sum;
        log_sum_exp(w->width, w->x + at, w->to + at, &most, &sum);
        const cps_real top = (cps_real)most, rest = (cps_real)log(sum);
        for (int64_t j = at; j < at + w->width; j++) {
            w->to[j] = (w->x[j] - top) - rest;
        }
    }
}

/* dx = dy - softmax(x) * sum(dy). */
static void log_softmax_grad_rows(void *context, int64_t first, int64_t last) {
    const softmax_work *w = context;
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * w->width;
        const cps_real total = (cps_real)cps_kernels_get()->sum(w->width, w->dy + at);
        for (int64_t j = at; j < at + w->width; j++) {
            const cps_real d = w->dy[j] - (cps_real)exp((double)w->y[j]) * total;
            w->to[j] = w->fresh ? d : w->to[j] + d;
        }
    }
}

static cps_status softmax_run(cps_tape *tape, const cps_node *node, cps_range_body body) {
    cps_tensor *x = node->inputs[0];
    softmax_work work = {.width = cps_columns_of(x),
                         .y = cps_values(node->outputs[0]),
                         .dy = cps_node_grad(node->outputs[0])};
    work.to = cps_grad_target(tape, x, &work.fresh);
    cps_parallel_rows(cps_rows_of(x), work.width, body, &work);
    return CPS_OK;
}

static cps_status softmax_backward(cps_tape *tape, const cps_node *node) {
    return softmax_run(tape, node, softmax_grad_rows);
}
static cps_status log_softmax_backward(cps_tape *tape, const cps_node *node) {
    return softmax_run(tape, node, log_softmax_grad_rows);
}

static cps_tensor *softmax_make(cps_tape *tape, const char *name, cps_tensor *x,
                                cps_backward_fn backward, cps_range_body body) {
    if (!cps_op_ready(tape, name, 1, &x) || !cps_op_dtype(tape, name, "x", x, CPS_REAL)) {
        return NULL;
    }
    const int64_t width = cps_columns_of(x);
    if (x->rank < 1 || width < 1) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "%s: x %s; rows of at least one element are wanted", name,
                             cps_show_shape(x).text);
    }
    cps_tensor *y = cps_result_like(tape, x, width);
    if (y == NULL) {
        return NULL;
    }
    const cps_node node = {.backward = backward,
                           .name = name,
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x}};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        softmax_work work = {.width = width, .x = cps_values(x), .to = cps_values_out(y)};
        cps_parallel_rows(cps_rows_of(x), width, body, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

cps_tensor *cps_softmax(cps_tape *tape, cps_tensor *x) {
    return softmax_make(tape, "softmax", x, softmax_backward, softmax_rows);
}

cps_tensor *cps_log_softmax(cps_tape *tape, cps_tensor *x) {
    return softmax_make(tape, "log_softmax", x, log_softmax_backward, log_softmax_rows);
}

/* ---- cross-entropy
 * ------------------------------------------------------------------------------------------------------------
 */
/* Rows z with a class or a row of weights each. Kept: exp(z - maximum), 1 / its sum and log(sum exp
 * z) of each row. */
typedef struct entropy_saved {
    cps_real *exps;  /* [rows, width] */
    double *inverse; /* [rows] */
    double *lse;     /* [rows] */
} entropy_saved;

typedef struct entropy_work {
    int64_t width;
    const cps_real *z, *soft, *weight;
    const int32_t *hard;
    entropy_saved saved;
    double *loss; /* [rows] */
    double seed;
    cps_real *to;
    bool fresh;
} entropy_work;

static double row_weight(const entropy_work *w, int64_t row) {
    return w->weight != NULL ? (double)w->weight[row] : 1.0;
}

static void entropy_rows(void *context, int64_t first, int64_t last) {
    const entropy_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    for (int64_t row = first; row < last; row++) {
        const cps_real *z = w->z + row * w->width;
        w->loss[row] = 0.0;
        if (w->hard != NULL && w->hard[row] < 0) {
            continue;
        }
        double most, sum;
        const double lse = log_sum_exp(w->width, z, w->saved.exps + row * w->width, &most, &sum);
        w->saved.inverse[row] = 1.0 / sum;
        w->saved.lse[row] = lse;
        if (w->hard != NULL) {
            w->loss[row] = row_weight(w, row) * (lse - (double)z[w->hard[row]]);
            continue;
        }
        const cps_real *target = w->soft + row * w->width;
        double loss = lse * kernels->sum(w->width, target);
        for (int64_t j = 0; j < w->width; j++) {
            loss -= target[j] == 0
                        ? 0.0
                        : (double)target[j] * (double)z[j]; /* z may be -inf where no target is */
        }
        w->loss[row] = row_weight(w, row) * loss;
    }
}

/* d_z = seed * weight * (sum(target) softmax(z) - target). */
static void entropy_grad_rows(void *context, int64_t first, int64_t last) {
    const entropy_work *w = context;
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * w->width;
        const bool left_out = w->hard != NULL && w->hard[row] < 0;
        if (left_out) {
            if (w->fresh) {
                memset(w->to + at, 0, (size_t)w->width * sizeof *w->to);
            }
            continue;
        }
        const double factor = w->seed * row_weight(w, row);
        const double mass = w->hard != NULL ? 1.0 : cps_kernels_get()->sum(w->width, w->soft + at);
        const cps_real p = (cps_real)(factor * mass * w->saved.inverse[row]), t = (cps_real)factor;
        for (int64_t j = 0; j < w->width; j++) {
            const cps_real target =
                w->soft != NULL ? w->soft[at + j] : (j == w->hard[row] ? (cps_real)1 : (cps_real)0);
            const cps_real d = p * w->saved.exps[at + j] - t * target;
            w->to[at + j] = w->fresh ? d : w->to[at + j] + d;
        }
    }
}

/* d_target = seed * weight * (lse - z). */
static void entropy_target_rows(void *context, int64_t first, int64_t last) {
    const entropy_work *w = context;
    for (int64_t row = first; row < last; row++) {
        const double factor = w->seed * row_weight(w, row);
        for (int64_t j = row * w->width; j < (row + 1) * w->width; j++) {
            const cps_real d = (cps_real)(factor * (w->saved.lse[row] - (double)w->z[j]));
            w->to[j] = w->fresh ? d : w->to[j] + d;
        }
    }
}

static entropy_work entropy_describe(const cps_tensor *logits, const cps_tensor *target,
                                     const cps_tensor *weight) {
    return (entropy_work){.width = cps_columns_of(logits),
                          .z = cps_values(logits),
                          .soft = target->dtype == CPS_REAL ? cps_values(target) : NULL,
                          .hard = target->dtype == CPS_I32 ? target->data : NULL,
                          .weight = weight != NULL ? cps_values(weight) : NULL};
}

static cps_status entropy_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *logits = node->inputs[0], *target = node->inputs[1];
    entropy_work work = entropy_describe(logits, target, node->inputs[2]);
    work.saved = *(const entropy_saved *)node->saved;
    work.seed = (double)cps_node_grad(node->outputs[0])[0];
    if ((work.to = cps_grad_target(tape, logits, &work.fresh)) != NULL) {
        cps_parallel_rows(cps_rows_of(logits), work.width, entropy_grad_rows, &work);
    }
    if ((work.to = cps_grad_target(tape, target, &work.fresh)) != NULL) {
        cps_parallel_rows(cps_rows_of(logits), work.width, entropy_target_rows, &work);
    }
    return CPS_OK;
}

static bool classes_in_range(cps_tape *tape, const cps_tensor *target, int64_t classes) {
    const int32_t *class_of = target->data;
    for (int64_t row = 0; row < target->shape[0]; row++) {
        if (class_of[row] < -1 || class_of[row] >= classes) {
            cps_tape_fail(tape, CPS_ERR_USAGE,
                          "cross_entropy: row %lld has class %d; 0 to %lld, or -1 to leave a row "
                          "out, are wanted",
                          (long long)row, (int)class_of[row], (long long)(classes - 1));
            return false;
        }
    }
    return true;
}

static bool entropy_operands_fit(cps_tape *tape, const char *name, const cps_tensor *logits,
                                 const cps_tensor *target, const cps_tensor *weight, bool soft) {
    if (!cps_op_dtype(tape, name, "logits", logits, CPS_REAL) ||
        !cps_op_dtype(tape, name, "target", target, soft ? CPS_REAL : CPS_I32) ||
        (weight != NULL && !cps_op_dtype(tape, name, "row_weight", weight, CPS_REAL))) {
        return false;
    }
    bool fits = logits->rank == 2 && logits->shape[1] >= 1 && target->rank == (soft ? 2 : 1) &&
                target->shape[0] == logits->shape[0] &&
                (!soft || target->shape[1] == logits->shape[1]) &&
                (weight == NULL || (weight->rank == 1 && weight->shape[0] == logits->shape[0]));
    if (!fits) {
        cps_tape_fail(
            tape, CPS_ERR_USAGE,
            "%s: logits %s, target %s, row weight %s; [rows, K], %s and [rows] are wanted", name,
            cps_show_shape(logits).text, cps_show_shape(target).text,
            weight != NULL ? cps_show_shape(weight).text : "(none)", soft ? "[rows, K]" : "[rows]");
    }
    return fits &&
           (soft || !cps_tape_computes(tape) || classes_in_range(tape, target, logits->shape[1]));
}

static cps_tensor *entropy(cps_tape *tape, const char *name, cps_tensor *logits, cps_tensor *target,
                           cps_tensor *weight, bool soft) {
    cps_tensor *const operands[] = {logits, target, weight};
    if (!cps_op_ready(tape, name, 2, operands) ||
        !entropy_operands_fit(tape, name, logits, target, weight, soft)) {
        return NULL;
    }
    if (weight != NULL && weight->needs_grad) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "%s: the row weight is a constant and cannot learn; use "
                             "cps_stop_gradient on it",
                             name);
    }
    const int64_t rows = logits->shape[0], width = logits->shape[1];
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 0, NULL);
    if (y == NULL) {
        return NULL;
    }
    const bool keep = cps_tape_will_record(tape, 2, operands);
    entropy_saved *saved = keep ? cps_tape_save(tape, sizeof *saved) : NULL;
    const size_t mark = cps_tape_mark(tape);
    const entropy_saved room = {.exps = cps_scratch(tape, rows * width),
                                .inverse = cps_tape_save(tape, (size_t)rows * sizeof(double)),
                                .lse = cps_tape_save(tape, (size_t)rows * sizeof(double))};
    const size_t kept_mark = keep ? cps_tape_mark(tape) : mark;
    double *loss = cps_tape_save(tape, (size_t)rows * sizeof *loss);
    const cps_node node = {.backward = entropy_backward,
                           .name = name,
                           .output_count = 1,
                           .input_count = 3,
                           .outputs = {y},
                           .inputs = {logits, target, weight},
                           .saved = saved};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        entropy_work work = entropy_describe(logits, target, weight);
        work.saved = room;
        work.loss = loss;
        cps_parallel_rows(rows, width, entropy_rows, &work);
        double total = 0.0;
        for (int64_t row = 0; row < rows; row++) {
            total += loss[row];
        }
        cps_values_out(y)[0] = (cps_real)total;
        if (keep) {
            *saved = room;
        }
    }
    cps_tape_release(tape, kept_mark);
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

cps_tensor *cps_cross_entropy(cps_tape *tape, cps_tensor *logits, cps_tensor *target,
                              cps_tensor *row_weight) {
    return entropy(tape, "cross_entropy", logits, target, row_weight, false);
}

cps_tensor *cps_soft_cross_entropy(cps_tape *tape, cps_tensor *logits, cps_tensor *target,
                                   cps_tensor *row_weight) {
    return entropy(tape, "soft_cross_entropy", logits, target, row_weight, true);
}
