/* A shared object without cps_plugin. Refused at loading. */
#include "copse_objective.h"

CPS_EXPORT int somebody_elses(void);
CPS_EXPORT int somebody_elses(void) {
    return 1;
}
