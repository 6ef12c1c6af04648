/* Slots of a step: rows that heads emitted, gathered over this rank's grains for the loss, and the
 * gradients that come back. Private to train/. Local. */
#ifndef CPS_TRAIN_STEP_PLAN_H
#define CPS_TRAIN_STEP_PLAN_H

#include "train/stage.h"

typedef struct cps_slot_memory {
    void *values[CPS_STAGE_SLOTS];       /* [own rows][width] */
    cps_real *grads[CPS_STAGE_SLOTS];    /* the same; NULL for constants */
    int64_t *grain_row[CPS_STAGE_SLOTS]; /* [own grains + 1] first own row of each own grain */
    int64_t *part_offset[CPS_STAGE_SLOTS];
    cps_layout layouts[CPS_STAGE_SLOTS];
} cps_slot_memory;

size_t cps_slot_memory_bytes(const cps_stage_plan *plan, int64_t own_grains);
cps_status cps_slot_memory_create(const cps_stage_plan *plan, int64_t own_grains,
                                  cps_slot_memory *slots) CPS_MUST_CHECK;
void cps_slot_memory_free(cps_slot_memory *slots);

/* Where a step stands: its grains and parts, and those of this rank. */
typedef struct cps_step_place {
    int64_t data_step, grains, parts, first_part, last_part, first_grain, last_grain;
    bool evaluation; /* stored order: every grain is full (padded) */
} cps_step_place;

/* Rows and layouts of the step, before its forwards. */
void cps_slot_begin(cps_slot_memory *slots, const cps_stage_plan *plan,
                    const cps_step_place *place);
/* Copies what a grain emitted to its rows. */
void cps_slot_store(cps_slot_memory *slots, const cps_stage_plan *plan, const cps_grain *grain,
                    int64_t own);
/* Leaves of the loss's tape, by slot. */
cps_status cps_slot_leaves(cps_slot_memory *slots, const cps_stage_plan *plan, cps_tape *tape,
                           cps_tensor *leaves_out[CPS_STAGE_SLOTS]) CPS_MUST_CHECK;
/* Gradients that nothing wrote are zero. */
void cps_slot_finish_grads(cps_slot_memory *slots, const cps_stage_plan *plan,
                           cps_tensor *const leaves[CPS_STAGE_SLOTS]);
/* Gradient of the rows of own grain `own`. */
const cps_real *cps_slot_grad(const cps_slot_memory *slots, const cps_stage_plan *plan,
                              int32_t slot, int64_t own);
/* Tests: a NaN in the first gradient. */
void cps_slot_poison(cps_slot_memory *slots, const cps_stage_plan *plan);

#endif
