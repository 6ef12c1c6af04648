/* Optimizers: what one update does to a slice of one tensor. Slices are independent, so owners may
 * run them on any thread; the caller owns weights, gradients and state. Local; cannot fail after
 * creation. adamw   decoupled decay: p <- p (1 - lr wd); then Adam with bias correction by the
 * tensor's own update count sgd     momentum, coupled decay: d = g + wd p; m <- mu m + d (first
 * update: m = d); p <- p - lr m lars    d = g + wd p, scaled by eta |p| / |d| for tensors of other
 * than one dimension where both norms are above 0; 1-D tensors: d = g, no decay; m <- mu m + d; p
 * <- p - lr m The norms of lars are of whole tensors: each slice gives its sums of squares
 * (cps_optimizer_norms), the caller adds them in the order of chunks and hands them back. */
#ifndef CPS_TRAIN_OPTIMIZER_H
#define CPS_TRAIN_OPTIMIZER_H

#include "base/json.h"
#include "base/options.h"

typedef enum cps_optimizer_kind {
    CPS_OPTIMIZER_ADAMW,
    CPS_OPTIMIZER_SGD,
    CPS_OPTIMIZER_LARS
} cps_optimizer_kind;

enum { CPS_OPTIMIZER_STATES = 2 };

/* Plain values; arrays belong to the arena that was given. */
typedef struct cps_optimizer {
    cps_optimizer_kind kind;
    cps_numbers lr, weight_decay; /* a value, or one for each step of the stage */
    double beta1, beta2, eps;     /* adamw */
    double momentum;              /* sgd, lars */
    double eta;                   /* lars */
} cps_optimizer;

/* Rows over cps_optimizer. The key `no_decay`, a list of patterns (cps_params_set_no_decay), stands
 * beside them. */
extern const cps_option cps_adamw_options[];
extern const cps_option cps_sgd_options[];
extern const cps_option cps_lars_options[];

/* `kind`: "adamw", "sgd", "lars"; `object` holds the options ("kind" and "no_decay" are passed
 * over), NULL for the defaults. USAGE with the key path `where`. */
cps_status cps_optimizer_parse(const char *kind, const cps_json *object, const char *where,
                               cps_arena *arena, cps_optimizer *out) CPS_MUST_CHECK;
/* Number of state tensors beside a weight, and their names in checkpoints: exp_avg, exp_avg_sq;
 * momentum. State starts at zero. */
int32_t cps_optimizer_state_count(const cps_optimizer *optimizer);
const char *cps_optimizer_state_name(const cps_optimizer *optimizer, int32_t index);

/* A slice of a tensor, `count` elements from any place in it. */
typedef struct cps_update {
    cps_real *param;
    const cps_real *grad;
    cps_real *state[CPS_OPTIMIZER_STATES];
    int64_t count;
    double grad_scale;   /* the gradient is grad * grad_scale: clipping */
    double lr;           /* of this step, with the tensor's factor */
    double weight_decay; /* of this step; 0 for tensors without decay */
    int64_t updates;     /* of this tensor, this one included: 1 the first time */
    int32_t rank;        /* dimensions of the tensor (lars) */
    double param_squares,
        step_squares; /* lars: sums over the whole tensor from cps_optimizer_norms */
} cps_update;

/* True if the optimizer wants cps_optimizer_norms for tensors of `rank` dimensions. */
bool cps_optimizer_needs_norms(const cps_optimizer *optimizer, int32_t rank);
/* Sums of squares of p and of d = grad_scale g + wd p over the slice, in double. */
void cps_optimizer_norms(const cps_optimizer *optimizer, const cps_update *update,
                         double *param_squares_out, double *step_squares_out);
void cps_optimizer_update(const cps_optimizer *optimizer, const cps_update *update);

/* Factor that brings a gradient of this norm below `limit`: min(1, limit / (norm + 1e-6)); 1 for a
 * limit of 0. */
double cps_clip_factor(double norm, double limit);

#endif
