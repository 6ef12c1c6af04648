/* Parts of the runner of AgriCLIP's golden vectors. */
#ifndef CPS_TESTS_VECTORS_AGRICLIP_H
#define CPS_TESTS_VECTORS_AGRICLIP_H

#include "vectors.h"

/* Groups `aligner` and `zeroshot`. */
void agriclip_align(cps_h5 *file);

#endif
