/* Parts of the runner `vectors_dalip FILE`. Each compares what it finds of its own and counts
 * through vectors.h; what is not there is not tested. */
#ifndef CPS_TESTS_VECTORS_DALIP_H
#define CPS_TESTS_VECTORS_DALIP_H

#include "h5/h5.h"

/* Fits of the mixing law, the shares and predictions that follow, through lua/copse/mixing_law. */
void dalip_mixlaw(cps_h5 *file);

#endif
