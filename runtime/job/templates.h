/* Built-in sets of templates, for commands without a job: those of lua/copse/templates.lua, which
 * jobs name too. Local. */
#ifndef CPS_JOB_TEMPLATES_H
#define CPS_JOB_TEMPLATES_H

#include "base/status.h"

/* templates_out: malloc'ed strings, cps_strings_destroy. USAGE: no set of that name, with those
 * that there are; UNAVAILABLE: the library cannot be read. */
cps_status cps_job_templates(const char *lua_folder, const char *name, char ***templates_out,
                             int64_t *count_out) CPS_MUST_CHECK;

#endif
