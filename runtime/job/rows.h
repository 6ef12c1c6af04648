/* The option tables of the engine's own constructors, for cps_job_setup. Objectives are not among
 * them: the program adds those of the plugins that it has loaded. Local. */
#ifndef CPS_JOB_ROWS_H
#define CPS_JOB_ROWS_H

#include "job/job.h"

/* Ends with kind NULL; static storage. */
const cps_job_rows *cps_job_engine_rows(int64_t *count_out);

#endif
