/* The plan: which captions of the batch a query takes after. Solved in double whatever cps_real is:
 * exp(-2 s) is no float at the scales that CLIP is trained to. Backward makes the kernel again from
 * the cosines, so a recording holds two vectors an iteration and no matrix. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sclip.h"
#include "transport.h"

enum { ROWS = 8 }; /* of a body */

/* ---- one plan at work ---- */

typedef struct plan_saved {
    int32_t kind;
    int64_t iterations;
    double *f, *g; /* of the transport; NULL: a soft plan */
} plan_saved;

/* Scratch of both directions: matrix and plan [M, N], a number a row, what the transport wants. */
typedef struct plan_room {
    double *matrix, *plan, *row, *work;
    size_t bytes;
} plan_room;

static plan_room room_of(int32_t kind, int64_t iterations, int64_t rows, int64_t columns,
                         double *memory) {
    const int64_t cells = rows * columns;
    const int64_t work = sclip_is_ot(kind) ? sclip_transport_work(rows, columns, iterations) : 0;
    plan_room room = {.bytes = (size_t)(2 * cells + rows + work) * sizeof(double)};
    if (memory != NULL) {
        room.matrix = memory;
        room.plan = room.matrix + cells;
        room.row = room.plan + cells;
        room.work = room.row + rows;
    }
    return room;
}

typedef struct plan_work {
    int64_t rows, columns;
    double scale, offset; /* logits = scale (cosine - offset) */
    const cps_real *cosines, *d_plan;
    double *matrix, *plan, *row;
    cps_real *to; /* the plan, or the cosines' gradient */
    bool fresh;
} plan_work;

static plan_work describe(int32_t kind, const cps_tensor *cosines, const cps_tensor *log_scale,
                          const plan_room *room) {
    return (plan_work){.rows = cosines->shape[0],
                       .columns = cosines->shape[1],
                       .scale = exp((double)*(const cps_real *)log_scale->data),
                       .offset = sclip_is_ot(kind) ? 1.0 : 0.0,
                       .cosines = cosines->data,
                       .matrix = room->matrix,
                       .plan = room->plan,
                       .row = room->row};
}

static int64_t bodies(const plan_work *w) {
    return (w->rows + ROWS - 1) / ROWS;
}

/* ---- rows ---- */

static void logit_rows(void *context, int64_t index) {
    const plan_work *w = context;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < w->rows; u++) {
        for (int64_t at = u * w->columns; at < (u + 1) * w->columns; at++) {
            w->matrix[at] = w->scale * ((double)w->cosines[at] - w->offset);
        }
    }
}

static void softmax_rows(void *context, int64_t index) {
    const plan_work *w = context;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < w->rows; u++) {
        const double *l = w->matrix + u * w->columns;
        double *p = w->plan + u * w->columns, top = l[0], sum = 0.0;
        for (int64_t n = 1; n < w->columns; n++) {
            top = fmax(top, l[n]);
        }
        for (int64_t n = 0; n < w->columns; n++) {
            p[n] = exp(l[n] - top);
            sum += p[n];
        }
        for (int64_t n = 0; n < w->columns; n++) {
            p[n] /= sum;
        }
    }
}

static void store_rows(void *context, int64_t index) {
    const plan_work *w = context;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < w->rows; u++) {
        for (int64_t at = u * w->columns; at < (u + 1) * w->columns; at++) {
            w->to[at] = (cps_real)w->plan[at];
        }
    }
}

/* The gradient at the plan's logits, in place of the plan: plan * (d - sum(plan * d)). */
static void softmax_grad_rows(void *context, int64_t index) {
    const plan_work *w = context;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < w->rows; u++) {
        const cps_real *d = w->d_plan + u * w->columns;
        double *p = w->plan + u * w->columns, mean = 0.0;
        for (int64_t n = 0; n < w->columns; n++) {
            mean += p[n] * (double)d[n];
        }
        for (int64_t n = 0; n < w->columns; n++) {
            p[n] *= (double)d[n] - mean;
        }
    }
}

/* From logits to cosines; each row's share of the scale's gradient. */
static void cosine_grad_rows(void *context, int64_t index) {
    const plan_work *w = context;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < w->rows; u++) {
        double sum = 0.0;
        for (int64_t at = u * w->columns; at < (u + 1) * w->columns; at++) {
            sum += w->plan[at] * ((double)w->cosines[at] - w->offset);
            if (w->to != NULL) {
                const cps_real d = (cps_real)(w->scale * w->plan[at]);
                w->to[at] = w->fresh ? d : w->to[at] + d;
            }
        }
        w->row[u] = sum;
    }
}

/* One-hot at the largest cosine; equal up to rounding: the lowest column. */
static void hard_rows(void *context, int64_t index) {
    const plan_work *w = context;
    const cps_real rounding =
        sizeof(cps_real) == sizeof(float) ? (cps_real)FLT_EPSILON : (cps_real)DBL_EPSILON;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < w->rows; u++) {
        const cps_real *cosines = w->cosines + u * w->columns;
        int64_t best = 0;
        for (int64_t n = 1; n < w->columns; n++) {
            best = cosines[n] > cosines[best] ? n : best;
        }
        const cps_real enough = cosines[best] - 16 * rounding;
        for (int64_t n = best - 1; n >= 0; n--) {
            best = cosines[n] >= enough ? n : best;
        }
        memset(w->to + u * w->columns, 0, (size_t)w->columns * sizeof *w->to);
        w->to[u * w->columns + best] = 1;
    }
}

/* ---- the operation ---- */

static sclip_transport transport_of(const plan_work *w, const plan_room *room, int64_t iterations,
                                    double *f, double *g) {
    return (sclip_transport){.rows = w->rows,
                             .columns = w->columns,
                             .iterations = iterations,
                             .matrix = w->matrix,
                             .f = f,
                             .g = g,
                             .work = room->work};
}

static cps_status plan_backward(cps_tape *tape, const cps_node *node) {
    const plan_saved *saved = node->saved;
    cps_tensor *cosines = node->inputs[0], *log_scale = node->inputs[1];
    const int64_t rows = cosines->shape[0], columns = cosines->shape[1];
    plan_room room = room_of(saved->kind, saved->iterations, rows, columns, NULL);
    double *memory = cps_tape_save(tape, room.bytes);
    if (memory == NULL) {
        return cps_tape_status(tape);
    }
    room = room_of(saved->kind, saved->iterations, rows, columns, memory);
    plan_work work = describe(saved->kind, cosines, log_scale, &room);
    sclip_transport transport = transport_of(&work, &room, saved->iterations, saved->f, saved->g);
    work.d_plan = cps_node_grad(tape, node->outputs[0]);
    cps_parallel(tape, bodies(&work), logit_rows, &work);
    if (sclip_is_ot(saved->kind)) {
        sclip_transport_prepare(tape, &transport);
        sclip_transport_plan(tape, &transport, work.plan);
    } else {
        cps_parallel(tape, bodies(&work), softmax_rows, &work);
    }
    cps_parallel(tape, bodies(&work), softmax_grad_rows, &work);
    if (sclip_is_ot(saved->kind)) {
        sclip_transport_backward(tape, &transport, work.plan);
    }
    work.to = cps_grad_target(tape, cosines, &work.fresh);
    cps_parallel(tape, bodies(&work), cosine_grad_rows, &work);
    bool fresh = false;
    cps_real *d_scale = cps_grad_target(tape, log_scale, &fresh);
    if (d_scale != NULL) {
        double sum = 0.0;
        for (int64_t u = 0; u < rows; u++) {
            sum += work.row[u];
        }
        *d_scale = (cps_real)((fresh ? 0.0 : (double)*d_scale) + work.scale * sum);
    }
    return CPS_OK;
}

/* Forward of soft and ot plans, in scratch. */
static void solve(cps_tape *tape, const plan_saved *saved, const plan_room *room, plan_work *work) {
    cps_parallel(tape, bodies(work), logit_rows, work);
    if (sclip_is_ot(saved->kind)) {
        sclip_transport transport = transport_of(work, room, saved->iterations, saved->f, saved->g);
        sclip_transport_prepare(tape, &transport);
        sclip_transport_solve(tape, &transport);
        sclip_transport_plan(tape, &transport, work->plan);
    } else {
        cps_parallel(tape, bodies(work), softmax_rows, work);
    }
    cps_parallel(tape, bodies(work), store_rows, work);
}

static cps_tensor *hard_plan(cps_tape *tape, cps_tensor *cosines, cps_tensor *log_scale,
                             cps_tensor *plan) {
    if (cps_tape_computes(tape)) {
        const plan_room none = {0};
        plan_work work = describe(SCLIP_HARD_IMAGE, cosines, log_scale, &none);
        work.to = plan->data;
        cps_parallel(tape, bodies(&work), hard_rows, &work);
    }
    return plan;
}

cps_tensor *sclip_plan(cps_tape *tape, const sclip_options *options, cps_tensor *cosines,
                       cps_tensor *log_scale) {
    if (cosines == NULL || log_scale == NULL) {
        return NULL;
    }
    const int64_t rows = cosines->shape[0], columns = cosines->shape[1];
    const int64_t iterations = options->sinkhorn_iterations;
    cps_tensor *plan = cps_tape_tensor(tape, CPS_REAL, 2, cosines->shape);
    if (plan == NULL || sclip_is_hard(options->plan)) {
        return plan == NULL ? NULL : hard_plan(tape, cosines, log_scale, plan);
    }
    plan_saved *saved = cps_tape_save(tape, sizeof *saved);
    plan_saved keep = {.kind = options->plan, .iterations = iterations};
    if (sclip_is_ot(options->plan)) {
        keep.f = cps_tape_save(tape, (size_t)((iterations + 1) * rows) * sizeof(double));
        keep.g = cps_tape_save(tape, (size_t)(iterations * columns) * sizeof(double));
    }
    plan_room room = room_of(options->plan, iterations, rows, columns, NULL);
    const cps_node node = {.backward = plan_backward,
                           .name = "sclip_plan",
                           .output_count = 1,
                           .input_count = 2,
                           .outputs = {plan},
                           .inputs = {cosines, log_scale},
                           .saved = saved,
                           .scratch_bytes = room.bytes};
    cps_tape_record(tape, &node);
    const size_t mark = cps_tape_mark(tape);
    double *memory = cps_tape_save(tape, room.bytes);
    if (cps_tape_computes(tape) && memory != NULL) {
        *saved = keep;
        room = room_of(options->plan, iterations, rows, columns, memory);
        plan_work work = describe(options->plan, cosines, log_scale, &room);
        work.to = plan->data;
        solve(tape, saved, &room, &work);
    }
    cps_tape_release(tape, mark);
    return cps_tape_status(tape) == CPS_OK ? plan : NULL;
}

/* ---- the nearest pair ---- */

cps_tensor *sclip_nearest(cps_tape *tape, cps_tensor *plan, cps_tensor *log_scale) {
    cps_tensor *nearest =
        plan == NULL || log_scale == NULL ? NULL : cps_tape_tensor(tape, CPS_I32, 1, plan->shape);
    if (nearest == NULL) {
        return NULL;
    }
    const cps_node node = {.name = "sclip_nearest", .output_count = 1, .outputs = {nearest}};
    cps_tape_record(tape, &node); /* no input: names it, learns nothing */
    if (!cps_tape_computes(tape)) {
        return nearest;
    }
    /* A cosine is known to its rounding, hence a plan's entry to scale times that. */
    const double scale = exp((double)*(const cps_real *)log_scale->data);
    const double rounding = sizeof(cps_real) == sizeof(float) ? (double)FLT_EPSILON : DBL_EPSILON;
    const double slack = 1.0 - fmin(0.5, 16.0 * (1.0 + scale) * rounding);
    for (int64_t u = 0; u < plan->shape[0]; u++) {
        const cps_real *row = (const cps_real *)plan->data + u * plan->shape[1];
        int64_t best = 0;
        for (int64_t n = 1; n < plan->shape[1]; n++) {
            best = row[n] > row[best] ? n : best;
        }
        const double enough = slack * (double)row[best];
        for (int64_t n = best - 1; n >= 0; n--) {
            best = (double)row[n] >= enough ? n : best;
        }
        ((int32_t *)nearest->data)[u] = (int32_t)best;
    }
    return nearest;
}

/* ---- a factor on a gradient ---- */

static cps_status scale_gradient_backward(cps_tape *tape, const cps_node *node) {
    bool fresh = false;
    cps_tensor *x = node->inputs[0];
    cps_real *to = cps_grad_target(tape, x, &fresh);
    const cps_real *from = cps_node_grad(tape, node->outputs[0]);
    const cps_real factor = *(const cps_real *)node->saved;
    for (int64_t i = 0; to != NULL && i < x->shape[0] * x->shape[1]; i++) {
        to[i] = fresh ? factor * from[i] : to[i] + factor * from[i];
    }
    return CPS_OK;
}

cps_tensor *sclip_scale_gradient(cps_tape *tape, cps_tensor *x, double factor) {
    cps_tensor *y = x == NULL ? NULL : cps_tape_tensor(tape, CPS_REAL, 2, x->shape);
    cps_real *kept = cps_tape_save(tape, sizeof *kept);
    if (y == NULL) {
        return NULL;
    }
    y->layout = x->layout;
    const cps_node node = {.backward = scale_gradient_backward,
                           .name = "sclip_scale_gradient",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x},
                           .saved = kept};
    cps_tape_record(tape, &node);
    if (cps_tape_computes(tape) && kept != NULL) {
        *kept = (cps_real)factor;
        memcpy(y->data, x->data, (size_t)(x->shape[0] * x->shape[1]) * sizeof(cps_real));
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
