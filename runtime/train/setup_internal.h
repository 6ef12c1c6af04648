/* What the files of the services of `create` share. Private to train/setup*.c. */
#ifndef CPS_TRAIN_SETUP_INTERNAL_H
#define CPS_TRAIN_SETUP_INTERNAL_H

#include "train/stage.h"

/* Keeps the first failure of a service, with the stage and the objective named in front of it. */
cps_status cps_setup_fail(cps_setup *setup, cps_status code, const char *format, ...)
    CPS_PRINTF(3, 4);

#endif
