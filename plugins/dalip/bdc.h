/* Brownian distance covariance of one head (dalip.md, "Distances"): from reduced tokens to the
 * centred distances between their channels, and back. Local, for bodies of cps_parallel. */
#ifndef COPSE_DALIP_BDC_H
#define COPSE_DALIP_BDC_H

#include "copse_objective.h"

/* z [tokens, width], `stride` elements between tokens; channels from `reduced` on are 0. */
typedef struct dalip_bdc {
    int64_t tokens, reduced, width, stride;
    double factor, eps; /* S = sqrt(factor D + eps) */
} dalip_bdc;

/* Numbers of the upper triangle. */
static inline int64_t dalip_bdc_entries(int64_t reduced) {
    return reduced * (reduced + 1) / 2;
}
/* Elements of scratch of a call. */
static inline int64_t dalip_bdc_scratch(int64_t width) {
    return width * (width + 2);
}

/* root [reduced, width]: S; q [entries]: the upper triangle of J S J, row by row. The Gram matrix
 * z'z [width, width] is left in front of `scratch` (its upper triangle is what counts). Gives the
 * sum of S. */
typedef double dalip_bdc_forward(cps_tape *tape, const dalip_bdc *s, const cps_real *z,
                                 cps_real *root, cps_real *q, cps_real *scratch);
/* d_z (laid out like z) from d_q, z and root; gives the gradient of log(factor). */
typedef double dalip_bdc_backward(cps_tape *tape, const dalip_bdc *s, const cps_real *z,
                                  const cps_real *root, const cps_real *d_q, cps_real *d_z,
                                  cps_real *scratch);

#endif
