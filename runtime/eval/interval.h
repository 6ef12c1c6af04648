/* How sure a share of samples is: the percentile interval of the bootstrap. Local; no state. */
#ifndef CPS_EVAL_INTERVAL_H
#define CPS_EVAL_INTERVAL_H

#include "base/status.h"

enum { CPS_INTERVAL_RESAMPLES = 2000 };

/* The middle 95 % of the share that CPS_INTERVAL_RESAMPLES resamples of `samples` samples, drawn
 * with replacement, show where `hits` of them are right; 0 <= hits <= samples, samples >= 1. A
 * function of its arguments. UNAVAILABLE: memory. */
cps_status cps_share_interval(int64_t hits, int64_t samples, double *low_out,
                              double *high_out) CPS_MUST_CHECK;

/* What became of one sample that was asked several times. */
typedef struct cps_tally {
    int32_t hits, asked;
} cps_tally;

/* The same for samples that were asked several times each: a resample draws samples, with all that
 * became of them, and shows sum of hits / sum of asked. samples >= 1, and every asked >= 1. On the
 * pool's threads; the same numbers on any. */
cps_status cps_tally_interval(const cps_tally *tallies, int64_t samples, double *low_out,
                              double *high_out) CPS_MUST_CHECK;

#endif
