/* What must agree between ranks, and between a run and its checkpoint. Private to train/. */
#ifndef CPS_TRAIN_IDENTITY_H
#define CPS_TRAIN_IDENTITY_H

#include "train/run.h"

#ifndef CPS_BUILD_ID
#define CPS_BUILD_ID "development"
#endif

typedef struct cps_identity_difference {
    char path[256];      /* "stages[1].global_batch" */
    char values[2][128]; /* then, now */
} cps_identity_difference;

/* First difference in one part ("job", "data", "bits"). Local. */
bool cps_identity_differs(const cps_json *then, const cps_json *now, const char *part,
                          cps_identity_difference *difference_out);
/* Collective. USAGE naming the first differing key where ranks differ. */
cps_status cps_identity_agree(const cps_run *run) CPS_MUST_CHECK;

#endif
