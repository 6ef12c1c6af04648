/* What C lends to lua/copse: one table of functions and facts. Private to job/. */
#ifndef CPS_JOB_HOST_H
#define CPS_JOB_HOST_H

#include "base/json.h"
#include "job/job.h"
#include "job/sandbox.h"

typedef struct cps_job_host {
    const cps_job_setup *setup; /* during cps_job_load */
    const char *path;           /* of the job, as given */
    const char *folder;         /* of the job: absolute, without links */
    const char *lua_folder;
} cps_job_host;

/* Inside a sandbox call; these may raise. Opens the library's globals, with `require` for copse.*
 * and the global `host`. The host is borrowed while the state can call it. */
void cps_job_host_open(lua_State *state, const cps_job_host *host);
/* Pushes a JSON value: arrays and objects as tables, whole numbers as integers. */
void cps_job_push_json(lua_State *state, const cps_json *value);
/* nearest(name, list) -> name or nil, as host and system lend it. */
int cps_job_nearest(lua_State *state);

#endif
