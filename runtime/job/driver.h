/* Drivers: commands whose work is in Lua (lua/copse/commands/NAME.lua: submit, status, sweep,
 * compare, ...), outside of the sandbox that jobs run in. A driver sees Lua's base, string, table,
 * math, utf8 and coroutine libraries and the global `system` (README.md lists it): files,
 * processes, the clock, and services, which are C functions of the program with JSON in and out.
 * Local; the main thread; no MPI. */
#ifndef CPS_JOB_DRIVER_H
#define CPS_JOB_DRIVER_H

#include "base/json.h"
#include "base/status.h"

/* A C function that drivers call by name: system.service(name, request). *result_out: the caller
 * destroys it. */
typedef struct cps_driver_service {
    const char *name; /* NULL ends a table */
    cps_status (*run)(const cps_json *request, cps_json **result_out);
} cps_driver_service;

typedef struct cps_driver {
    const char *lua_folder; /* holds copse/init.lua */
    const char *program;    /* absolute path of this program, for drivers that start it */
    const char *version;    /* of Copse */
    int32_t cores;          /* that this process may use */
    const cps_driver_service *services; /* ends with a NULL name; NULL: none */
    void (*print)(const char *text);    /* to standard output */
} cps_driver;

/* Runs `run` of the module copse.commands.<first word of command> with `arguments`: an object with
 * "command" ("sweep plan"), "operands" (strings) and "flags" (by name: true, a string, or a list of
 * strings). The status and message are those of system.fail; what a driver returns as a number is
 * its exit code, and then the message is empty: it has said all itself. UNAVAILABLE where the
 * library or the module is not there, INTERNAL with the place for any other error of Lua. */
cps_status cps_driver_run(const cps_driver *driver, const char *command,
                          const cps_json *arguments) CPS_MUST_CHECK;

#endif
