/* The sharded update: gradients of parts -> canonical sum -> norm -> optimizer on owned chunks ->
 * weights on all ranks.
 *
 * Parameters that learn are cut in chunks of CPS_CHUNK elements from each tensor's start; a rank
 * owns a contiguous run of whole chunks (balanced by elements) and with it their optimizer state. A
 * step: begin; for each own part: part_begin, backward of its grains (the last one with leaf_done
 * and poll as tape hooks), part_end; finish (Collective); apply or skip (Collective); wait_weights
 * before the next use. Merging follows the canonical tree (comm/canonical.h). The last part of a
 * maximal node is merged and sent parameter by parameter as the backward pass finishes with them,
 * so the exchange overlaps it. MPI never adds. */
#ifndef CPS_TRAIN_UPDATE_H
#define CPS_TRAIN_UPDATE_H

#include "base/json.h"
#include "comm/comm.h"
#include "model/params.h"

typedef struct cps_updater cps_updater;

typedef struct cps_updater_options {
    cps_comm *comm;
    cps_params *params; /* `learns`, `lr_factor`, `decays` are set; layout is final for the stage */
    int64_t parts;      /* most parts of a step */
    const char *optimizer_kind;      /* "adamw", "sgd", "lars" */
    const cps_json *optimizer;       /* its object */
    const double *lr, *weight_decay; /* [steps] tables by data step of the stage; borrowed */
    int64_t steps;
    double grad_clip_norm; /* of the global norm; 0: none */
    double clip_tensor;    /* of each tensor's norm; 0: none */
    /* For cps_updater_bytes alone: as rank plan_rank of so many; 0: as this rank of comm. */
    int32_t plan_ranks, plan_rank;
    bool world; /* canonical tree over parts; false: every rank's parts added in order, "run"
                   reproducibility */
} cps_updater_options;

/* Bytes that create takes: gradient copies, receive buffers, optimizer state. */
cps_status cps_updater_bytes(const cps_updater_options *options, size_t *bytes_out) CPS_MUST_CHECK;
/* Optimizer state starts at zero. Collective (ranks must agree on what learns). */
cps_status cps_updater_create(const cps_updater_options *options,
                              cps_updater **updater_out) CPS_MUST_CHECK;
void cps_updater_destroy(cps_updater *updater); /* NULL-safe */

/* A step of `parts` parts; this rank's are those of comm/canonical.h's cps_part_first. */
void cps_updater_begin(cps_updater *updater, int64_t parts);
/* Points tensor.grad of every learning parameter at the part's buffer and marks it fresh. */
void cps_updater_part_begin(cps_updater *updater, int64_t part);
/* True when the part ends a maximal node: its last grain's backward should report leaves. */
bool cps_updater_wants_leaves(const cps_updater *updater);
/* Tape hook: the part's gradient of parameter `index` is final. */
void cps_updater_leaf_done(cps_updater *updater, int32_t index);
void cps_updater_poll(cps_updater *updater); /* tape hook: drives the exchange */
void cps_updater_part_end(cps_updater *updater, int64_t part);
/* Gradient of a scalar parameter from `loss`, the same on all ranks: counted once. Before finish.
 */
void cps_updater_add_global(cps_updater *updater, int32_t index, const cps_real *grad);

typedef struct cps_update_norms {
    bool finite;
    int32_t bad_rank;            /* lowest rank that saw a non-finite value; -1 */
    char bad_name[CPS_NAME_MAX]; /* its tensor (or what the caller flagged) */
    double grad_norm;            /* global, before clipping */
} cps_update_norms;
/* Collective. Ends the exchange and the tree; all-gathers the chunks' sums of squares with a
 * failure flag and a non-finite flag. own: this rank's status of the backward pass; flagged: name
 * of something non-finite that the caller saw on this rank (loss term, feature), or NULL. */
cps_status cps_updater_finish(cps_updater *updater, cps_status own, const char *flagged,
                              cps_update_norms *norms_out) CPS_MUST_CHECK;
/* Collective. Clips, updates owned chunks at data step `step`, applies bounds, EMA copies (momentum
 * of each EMA parameter by cps_updater_set_ema), starts the all-gather of every weight that
 * changed, counts updates per tensor. */
cps_status cps_updater_apply(cps_updater *updater, int64_t step) CPS_MUST_CHECK;
/* EMA parameter `index` follows its source with momentum[step] (count 1: constant). Borrowed table.
 */
cps_status cps_updater_set_ema(cps_updater *updater, int32_t index,
                               cps_numbers momentum) CPS_MUST_CHECK;
/* While held, a parameter's gradient counts as absent: no norm, decay or moment, and its update
 * count stands still; its moving averages go on. For parameters that learn from some step on. All
 * ranks alike, before finish. */
void cps_updater_hold(cps_updater *updater, int32_t index, bool held);
/* Waits until all weights are there. */
void cps_updater_wait_weights(cps_updater *updater);

/* Optimizer state for checkpoints: tensors "exp_avg", ... beside each learning parameter. The
 * owner's slice of state tensor `state` of parameter `index`: elements [*first, *first + *count) of
 * the tensor; count 0: nothing here. */
int32_t cps_updater_state_count(const cps_updater *updater);
const char *cps_updater_state_name(const cps_updater *updater, int32_t state);
bool cps_updater_updates(const cps_updater *updater, int32_t index); /* it has such state */
void cps_updater_owned(const cps_updater *updater, int32_t index, int64_t *first_out,
                       int64_t *count_out);
cps_real *cps_updater_state(cps_updater *updater, int32_t index,
                            int32_t state); /* of element *first */
/* Seconds that this rank has waited for the exchange and for weights. */
double cps_updater_wait_seconds(const cps_updater *updater);

#endif
