/* The global `system` of drivers, in three parts. Private to job/. Functions run below lua_pcall
 * and may raise: what they allocate belongs to the Lua state. Failures of the system come back as
 * nil, a message, and the error's name ("ENOENT"). */
#ifndef CPS_JOB_SYSTEM_H
#define CPS_JOB_SYSTEM_H

#include <lauxlib.h>

#include "job/driver.h"

/* Each adds its functions to the table on top of the stack. The driver is borrowed while the state
 * lives. */
void cps_system_add_files(lua_State *state);
void cps_system_add_processes(lua_State *state);
void cps_system_add_texts(lua_State *state, const cps_driver *driver);

/* Pushes nil, "<what> '<path>': <reason>", "<NAME>" for the value of errno, and returns 3. path may
 * be NULL. */
int cps_system_failure(lua_State *state, int error, const char *what, const char *path);
/* Raises the record of cps_fail as system.fail does. */
int cps_system_raise(lua_State *state, cps_status status, const char *message);
/* A field of the table at `index` as a string, NULL if absent; another type raises. */
const char *cps_system_field(lua_State *state, int index, const char *name);

#endif
