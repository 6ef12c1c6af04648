/* Brownian distance covariance of one head (dalip.md, "Distances"): from reduced tokens to the
 * centred distances between their channels, and back. Local, for bodies of cps_parallel. */
#ifndef COPSE_DALIP_BDC_H
#define COPSE_DALIP_BDC_H

#include "copse_objective.h"

/* z [tokens, reduced], `stride` elements between tokens. */
typedef struct dalip_bdc {
    int64_t tokens, reduced, stride;
    double factor, eps; /* S = sqrt(factor D + eps) */
} dalip_bdc;

/* Numbers of the upper triangle. */
int64_t dalip_bdc_entries(int64_t reduced);
/* Elements of scratch of a call. */
int64_t dalip_bdc_scratch(int64_t reduced);

/* root [reduced, reduced]: S; q [entries]: the upper triangle of J S J, row by row. The Gram matrix
 * z'z is left in front of `scratch` (its upper triangle is what counts). Gives the sum of S. */
double dalip_bdc_forward(cps_tape *tape, const dalip_bdc *s, const cps_real *z, cps_real *root,
                         cps_real *q, cps_real *scratch);
/* d_z (laid out like z) from d_q, z and root; gives the gradient of log(factor). */
double dalip_bdc_backward(cps_tape *tape, const dalip_bdc *s, const cps_real *z,
                          const cps_real *root, const cps_real *d_q, cps_real *d_z,
                          cps_real *scratch);

#endif
