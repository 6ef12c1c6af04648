/* A grain at work: inputs from the loader -> tower calls -> heads and grain losses, on a tape.
 * Local. Private to train/. */
#ifndef CPS_TRAIN_GRAIN_H
#define CPS_TRAIN_GRAIN_H

#include "train/stage.h"

/* Memory of one grain in flight that is not on its tape: text positions, draw keys. One per kept
 * tape. */
typedef struct cps_grain_run cps_grain_run;

cps_status cps_grain_run_create(cps_stage_plan *plan, cps_grain_run **run_out) CPS_MUST_CHECK;
void cps_grain_run_destroy(cps_grain_run *run);
/* The grain object of this run, valid after forward. */
cps_grain *cps_grain_run_grain(cps_grain_run *run);

typedef struct cps_grain_input {
    const cps_loader *loader;
    const cps_batch *batch; /* NULL while planning: full rows, every caption fills the context */
    cps_step_info info;     /* grain set */
    cps_tape *tape;         /* RECORD, PLAIN or PLAN */
    cps_tape *plain;      /* for calls without gradient: a PLAIN (or PLAN) tape in the same arena */
    const double *counts; /* sums of `prepare` */
    double *sums;         /* [sum_width], zeroed here; NULL in a replay */
} cps_grain_input;

/* Runs the calls, heads and grain losses. Emitted rows and terms are in the grain object. */
cps_status cps_grain_forward(cps_grain_run *run, const cps_grain_input *input) CPS_MUST_CHECK;
/* `prepare` of every objective for this grain: counts[count_width], zeroed here. */
cps_status cps_grain_prepare(cps_grain_run *run, const cps_grain_input *input,
                             double *counts) CPS_MUST_CHECK;
/* Rows of view `view` in grain `grain` of a step (for layouts): of the clock, of another stream, or
 * of fixed texts. clock_rows: the clock's rows in that grain. */
int64_t cps_view_rows_in(const cps_stage_plan *plan, int32_t view, int64_t grain, int64_t grains,
                         int64_t clock_rows);

#endif
