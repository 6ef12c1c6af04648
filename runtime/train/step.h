/* A training step: prepare, forward grain by grain, the loss on what heads emitted, backward grain
 * by grain (replaying forwards whose tape was dropped), the sharded update. Design: the same bits
 * on any number of ranks, kept tapes or replayed. Collective unless said otherwise. */
#ifndef CPS_TRAIN_STEP_H
#define CPS_TRAIN_STEP_H

#include "train/stage.h"
#include "train/update.h"

typedef struct cps_step cps_step;

typedef struct cps_step_memory {
    size_t grain_bytes;    /* of one kept recording */
    size_t backward_bytes; /* on top, while one runs backward */
    size_t loss_bytes;     /* recording of the loss with its backward */
    size_t slot_bytes;     /* emitted rows and their gradients */
    size_t sum_bytes;      /* sums over grains, a row for each, and over parts */
    int64_t own_grains;    /* most grains of this rank in a step */
    int64_t kept;          /* recordings that are kept until the backward pass */
    size_t total_bytes;    /* all of this with `kept` */
} cps_step_memory;

/* Local. Sets which parameters learn: those the stage's objectives reach, cut to `train` patterns;
 * with lr factors. Learns slots, terms and reports by a planning run. After cps_params_allocate or
 * before. The memory is that of the rank with the most. */
cps_status cps_step_plan(cps_stage_plan *plan, int32_t ranks,
                         cps_step_memory *memory_out) CPS_MUST_CHECK;
/* The same for a step that only validates: nothing is recorded but the loss. */
cps_status cps_step_plan_validation(cps_stage_plan *plan, int32_t ranks,
                                    cps_step_memory *memory_out) CPS_MUST_CHECK;

cps_status cps_step_create(cps_comm *comm, cps_stage_plan *plan, const cps_step_memory *memory,
                           cps_updater *updater, cps_step **step_out) CPS_MUST_CHECK;
void cps_step_destroy(cps_step *step); /* NULL-safe */

/* Terms and reports of the grains, terms and reports of the loss. */
enum { CPS_STEP_VALUES = 3 * CPS_STAGE_TERMS };

typedef struct cps_step_result {
    double loss; /* weighted sum of the terms */
    int32_t term_count;
    char term_names[CPS_STEP_VALUES][64]; /* terms, then reports */
    double term_values[CPS_STEP_VALUES];
    cps_update_norms norms;
    double
        logit_scale; /* that this step's loss used: exp of the parameter; NaN: the model has none */
    bool skipped;    /* something was not finite: no update */
    int64_t bad_images;    /* of all ranks, consumed in this step */
    int64_t own_bad_count; /* this rank's, and what they were; borrowed until the next step */
    const cps_bad_image *own_bad;
    int64_t truncated; /* captions of this rank cut to the context */
    double seconds, loader_seconds, exchange_seconds, product_seconds; /* of this rank */
} cps_step_result;

/* One data step with grains from `loader`. */
cps_status cps_step_run(cps_step *step, cps_loader *loader, int64_t data_step, int64_t update,
                        cps_step_result *result_out) CPS_MUST_CHECK;

/* Loss in evaluation mode of `batches` consecutive batches given by a loader of stored order over
 * the plan's inputs; terms apart. */
cps_status cps_step_validate(cps_step *step, cps_loader *loader, int64_t batch,
                             int64_t trained_steps, cps_step_result *result_out) CPS_MUST_CHECK;

#endif
