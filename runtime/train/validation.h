/* Validation loss: the stage's objective in evaluation mode over consecutive batches of a set in
 * stored order, first captions; mean over batches, terms apart; a batch with an image that cannot
 * be read is left out. Has a plan, a step and a loader of its own. Collective; private to train/.
 */
#ifndef CPS_TRAIN_VALIDATION_H
#define CPS_TRAIN_VALIDATION_H

#include "train/run.h"

typedef struct cps_validation cps_validation;

/* Plans and allocates. Changes which parameters learn: plan the stage's own step after it. */
cps_status cps_validation_create(cps_run *run, int64_t stage, const cps_run_evaluation *evaluation,
                                 cps_validation **validation_out) CPS_MUST_CHECK;
size_t cps_validation_bytes(const cps_validation *validation); /* that it may come to use */
void cps_validation_destroy(cps_validation *validation);       /* NULL-safe */
/* *metrics_out: loss, the terms, batches, samples, bad_images. The caller destroys it. */
cps_status cps_validation_run(cps_validation *validation, int64_t trained_steps,
                              cps_json **metrics_out) CPS_MUST_CHECK;

/* Local. Declares in the model what the objective of validation_create would: plain CLIP's logit
 * scale where the stage's own objective cannot be measured so. Before parameters are allocated. */
cps_status cps_validation_declare(cps_run *run, int64_t stage,
                                  const cps_run_evaluation *evaluation) CPS_MUST_CHECK;

#endif
