/* Parts of the runner `vectors_dalip FILE`. Each compares what it finds of its own and counts
 * through vectors.h; what is not there is not tested. */
#ifndef CPS_TESTS_VECTORS_DALIP_H
#define CPS_TESTS_VECTORS_DALIP_H

#include "h5/h5.h"

/* Of values, and of gradients. */
double dalip_tolerance(void);
double dalip_gradient_tolerance(void);

/* Group loss. Cases of W ranks run on W real ranks: before MPI begins in this process, and
 * `dalip_loss_ranks` is what those do. */
void dalip_loss_on_ranks(cps_h5 *file);
void dalip_loss_ranks(cps_h5 *file, const char *group);
void dalip_losses(cps_h5 *file);

/* Fits of the mixing law, the shares and predictions that follow, through lua/copse/mixing_law. */
void dalip_mixlaw(cps_h5 *file);

#endif
