#include "train/optimizer.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* Loops are free of branches and of calls other than sqrt, so that the compiler vectorises them;
 * corrections are computed once a slice in double. */

#define LR_ROW                                                                                     \
    {                                                                                              \
        .name = "lr", .kind = CPS_OPT_SCHEDULE,                                                    \
        .help = "Learning rate: a number that the stage's schedule shapes, or a function of "      \
                "(step, total).",                                                                  \
        .maximum = 1e6, .required = true, .offset = offsetof(cps_optimizer, lr)                    \
    }
#define DECAY_ROW(value)                                                                           \
    {                                                                                              \
        .name = "weight_decay", .kind = CPS_OPT_SCHEDULE,                                          \
        .help = "Weight decay of matrices: a number or a function of (step, total).",              \
        .default_text = (value), .maximum = 1e6, .offset = offsetof(cps_optimizer, weight_decay)   \
    }
#define MOMENTUM_ROW                                                                               \
    {                                                                                              \
        .name = "momentum", .kind = CPS_OPT_NUMBER,                                                \
        .help = "Share of the last step that the next one keeps.", .default_text = "0.9",          \
        .maximum = 1, .offset = offsetof(cps_optimizer, momentum)                                  \
    }

const cps_option cps_adamw_options[] = {LR_ROW,
                                        DECAY_ROW("0.2"),
                                        {.name = "beta1",
                                         .kind = CPS_OPT_NUMBER,
                                         .help = "Decay rate of the mean gradient.",
                                         .default_text = "0.9",
                                         .maximum = 0.999999999,
                                         .offset = offsetof(cps_optimizer, beta1)},
                                        {.name = "beta2",
                                         .kind = CPS_OPT_NUMBER,
                                         .help = "Decay rate of the mean squared gradient.",
                                         .default_text = "0.98",
                                         .maximum = 0.999999999,
                                         .offset = offsetof(cps_optimizer, beta2)},
                                        {.name = "eps",
                                         .kind = CPS_OPT_NUMBER,
                                         .help = "Added to the root of the mean squared gradient.",
                                         .default_text = "1e-6",
                                         .minimum = 1e-30,
                                         .maximum = 1,
                                         .offset = offsetof(cps_optimizer, eps)},
                                        {.name = NULL}};

const cps_option cps_sgd_options[] = {LR_ROW, DECAY_ROW("0"), MOMENTUM_ROW, {.name = NULL}};

const cps_option cps_lars_options[] = {
    LR_ROW,
    DECAY_ROW("0"),
    MOMENTUM_ROW,
    {.name = "eta",
     .kind = CPS_OPT_NUMBER,
     .help = "Trust coefficient: length of a matrix's step relative to the matrix.",
     .default_text = "0.001",
     .maximum = 1e6,
     .offset = offsetof(cps_optimizer, eta)},
    {.name = NULL}};

cps_status cps_optimizer_parse(const char *kind, const cps_json *object, const char *where,
                               cps_arena *arena, cps_optimizer *out) {
    static const char *const also[] = {"kind", "no_decay", NULL};
    static const char *const kinds[] = {"adamw", "sgd", "lars", NULL};
    static const cps_option *const rows[] = {cps_adamw_options, cps_sgd_options, cps_lars_options};
    for (int32_t i = 0; kinds[i] != NULL; i++) {
        if (strcmp(kind, kinds[i]) == 0) {
            cps_optimizer parsed = {0};
            CPS_TRY(cps_options_parse(rows[i], object, where, also, arena, &parsed));
            parsed.kind = (cps_optimizer_kind)i;
            *out = parsed;
            return CPS_OK;
        }
    }
    const char *near = cps_nearest_name(kind, kinds);
    return cps_fail(CPS_ERR_USAGE,
                    "%s: no optimizer is called '%s'%s%s; there are adamw, sgd and lars", where,
                    kind, near == NULL ? "" : ", did you mean ", near == NULL ? "" : near);
}

int32_t cps_optimizer_state_count(const cps_optimizer *optimizer) {
    return optimizer->kind == CPS_OPTIMIZER_ADAMW ? 2 : 1;
}

const char *cps_optimizer_state_name(const cps_optimizer *optimizer, int32_t index) {
    CPS_BUG_IF(index < 0 || index >= cps_optimizer_state_count(optimizer));
    if (optimizer->kind != CPS_OPTIMIZER_ADAMW) {
        return "momentum";
    }
    return index == 0 ? "exp_avg" : "exp_avg_sq";
}

static cps_real square_root(cps_real x) {
#ifdef CPS_REAL_DOUBLE
    return sqrt(x);
#else
    return sqrtf(x);
#endif
}

/* Loshchilov and Hutter, arXiv:1711.05101, algorithm 2, with decay lr * wd. */
static void update_adamw(const cps_optimizer *optimizer, const cps_update *u) {
    cps_real *restrict param = u->param;
    const cps_real *restrict grad = u->grad;
    cps_real *restrict mean = u->state[0];
    cps_real *restrict square = u->state[1];
    const double steps = (double)u->updates;
    const double correction1 = 1 - pow(optimizer->beta1, steps);
    const double correction2 = 1 - pow(optimizer->beta2, steps);
    const cps_real keep = (cps_real)(1 - u->lr * u->weight_decay);
    const cps_real beta1 = (cps_real)optimizer->beta1, new1 = (cps_real)(1 - optimizer->beta1);
    const cps_real beta2 = (cps_real)optimizer->beta2, new2 = (cps_real)(1 - optimizer->beta2);
    const cps_real scale = (cps_real)u->grad_scale;
    const cps_real root = (cps_real)(1 / sqrt(correction2)), eps = (cps_real)optimizer->eps;
    const cps_real step = (cps_real)(u->lr / correction1);
    for (int64_t i = 0; i < u->count; i++) {
        const cps_real g = grad[i] * scale;
        mean[i] = beta1 * mean[i] + new1 * g;
        square[i] = beta2 * square[i] + new2 * g * g;
        param[i] = keep * param[i] - step * mean[i] / (square_root(square[i]) * root + eps);
    }
}

static void update_sgd(const cps_optimizer *optimizer, const cps_update *u, double decay,
                       double trust) {
    cps_real *restrict param = u->param;
    const cps_real *restrict grad = u->grad;
    cps_real *restrict momentum = u->state[0];
    const cps_real mu = (cps_real)optimizer->momentum, lr = (cps_real)u->lr;
    const cps_real scale = (cps_real)(u->grad_scale * trust), wd = (cps_real)(decay * trust);
    for (int64_t i = 0; i < u->count; i++) {
        const cps_real d = grad[i] * scale + wd * param[i];
        momentum[i] = mu * momentum[i] + d;
        param[i] -= lr * momentum[i];
    }
}

bool cps_optimizer_needs_norms(const cps_optimizer *optimizer, int32_t rank) {
    return optimizer->kind == CPS_OPTIMIZER_LARS && rank != 1;
}

void cps_optimizer_norms(const cps_optimizer *optimizer, const cps_update *update,
                         double *param_squares_out, double *step_squares_out) {
    (void)optimizer;
    double param_squares = 0, step_squares = 0;
    for (int64_t i = 0; i < update->count; i++) {
        const double p = (double)update->param[i];
        const double d = (double)update->grad[i] * update->grad_scale + update->weight_decay * p;
        param_squares += p * p;
        step_squares += d * d;
    }
    *param_squares_out = param_squares;
    *step_squares_out = step_squares;
}

/* You et al., arXiv:1708.03888, as DINO's code does it: one-dimensional tensors take the plain
 * gradient. */
static void update_lars(const cps_optimizer *optimizer, const cps_update *u) {
    if (u->rank == 1) {
        update_sgd(optimizer, u, 0, 1);
        return;
    }
    const bool adapts = u->param_squares > 0 && u->step_squares > 0;
    const double trust =
        adapts ? optimizer->eta * sqrt(u->param_squares) / sqrt(u->step_squares) : 1;
    update_sgd(optimizer, u, u->weight_decay, trust);
}

void cps_optimizer_update(const cps_optimizer *optimizer, const cps_update *update) {
    switch (optimizer->kind) {
    case CPS_OPTIMIZER_ADAMW:
        update_adamw(optimizer, update);
        break;
    case CPS_OPTIMIZER_SGD:
        update_sgd(optimizer, update, update->weight_decay, 1);
        break;
    case CPS_OPTIMIZER_LARS:
        update_lars(optimizer, update);
        break;
    }
}

double cps_clip_factor(double norm, double limit) {
    const double factor = limit / (norm + 1e-6);
    return limit > 0 && factor < 1 ? factor : 1;
}
