/* How far a run is, for people: one live line on a terminal,
 *   step 120/2400  epoch 3/60  loss 1.234  412 samples/s  ETA 4:05
 * and the same as a plain line now and then where stderr is a file. Speaks through base/log, so
 * rank 0 alone is seen. Local. */
#ifndef CPS_REPORT_PROGRESS_H
#define CPS_REPORT_PROGRESS_H

#include "base/status.h"

typedef struct cps_progress cps_progress;

/* Where the run is after a step. */
typedef struct cps_progress_state {
    const char *stage;     /* NULL: a run of one stage */
    int64_t step, steps;   /* done and to do in this stage */
    int64_t epoch, epochs; /* 1-based; epochs 0: not counted */
    double loss;           /* NaN: none to show */
    int64_t samples;       /* of this step, 0: none */
    const char *doing;     /* "evaluating rsicd-cls": shown in place of the loss; NULL: training */
} cps_progress_state;

cps_status cps_progress_create(cps_progress **progress_out) CPS_MUST_CHECK;
void cps_progress_destroy(cps_progress *progress); /* NULL-safe; clears the live line */
/* After each step, at time cps_seconds(). The rate is a running mean over the last steps (half
 * life 20 steps); a new stage or a resume starts it afresh. */
void cps_progress_step(cps_progress *progress, const cps_progress_state *state);
/* Around time that is no step's (evaluation, checkpoint): kept out of the rate. */
void cps_progress_pause(cps_progress *progress);
void cps_progress_resume(cps_progress *progress);
/* Rate and seconds to go of this stage as last computed; NaN before the second step. */
double cps_progress_samples_per_second(const cps_progress *progress);
double cps_progress_eta_seconds(const cps_progress *progress);

/* The line itself. `rate`, `eta`: NaN leaves them out. Returns `buffer`. */
enum { CPS_PROGRESS_LINE = 200 };
const char *cps_progress_line(const cps_progress_state *state, double samples_per_second,
                              double eta_seconds, char buffer[CPS_PROGRESS_LINE]);
/* "4:05", "1:02:03", "2d 03:04". Returns `buffer`. */
const char *cps_duration_text(double seconds, char buffer[32]);

#endif
