/* The Lua library for those who have no job: one call of one of its functions. Local, one thread;
 * nothing stays. */
#ifndef CPS_JOB_LIBRARY_H
#define CPS_JOB_LIBRARY_H

#include "base/json.h"
#include "base/status.h"

/* Calls `function` of module `module` ("copse.mixing_law") in a state of its own, with the elements
 * of the array `arguments` (whole numbers as integers). *results_out: an array of what it returns,
 * tables of numbers, strings and the like; the caller destroys it. lua_folder: holds
 * copse/init.lua. USAGE with the message where the function raises, or runs for more than the given
 * number of instructions; UNAVAILABLE where the library is not there. */
cps_status cps_library_call(const char *lua_folder, const char *module, const char *function,
                            const cps_json *arguments, int64_t million_instructions,
                            cps_json **results_out) CPS_MUST_CHECK;

#endif
