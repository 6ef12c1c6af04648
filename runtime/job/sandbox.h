/* A Lua state with limits: text chunks only, a cap on instructions and on memory, no way out but
 * the functions that host.c lends. All work in it happens inside cps_sandbox_call. One thread,
 * Local. */
#ifndef CPS_JOB_SANDBOX_H
#define CPS_JOB_SANDBOX_H

#include <lua.h>

#include "base/status.h"

enum {
    CPS_SANDBOX_MEMORY_MB = 256,
    CPS_SANDBOX_MILLION_INSTRUCTIONS = 50,
    CPS_SANDBOX_MAX_FILES = 256
};

typedef struct cps_sandbox cps_sandbox;

cps_status cps_sandbox_create(cps_sandbox **sandbox_out) CPS_MUST_CHECK;
void cps_sandbox_destroy(cps_sandbox *sandbox); /* NULL-safe */
lua_State *cps_sandbox_state(const cps_sandbox *sandbox);
/* The sandbox that a state belongs to. */
cps_sandbox *cps_sandbox_of(lua_State *state);

/* Runs `body` with `context` as its light userdata argument under lua_pcall. Its results stay on
 * the stack, which is otherwise empty; the caller pops them. million_instructions: the cap for this
 * call. track_lines: cps_sandbox_where works. USAGE with the Lua message, file names put in, on any
 * error. */
cps_status cps_sandbox_call(cps_sandbox *sandbox, lua_CFunction body, void *context,
                            int64_t million_instructions, bool track_lines) CPS_MUST_CHECK;

/* Inside a call: counts instructions from here on anew. */
void cps_sandbox_renew(lua_State *state);

/* Inside a call only; these may raise. Compiles the file `path` (shown as `shown`) as a text chunk
 * and pushes it; a chunk of a job (is_library false) takes a file number and its text is kept.
 * Returns that number, 0 for the library; raises on error. */
int cps_sandbox_load_file(lua_State *state, const char *path, const char *shown, bool is_library);
/* Whole text file, held by the sandbox until the next call; NULL with the failure on record. Does
 * not raise. */
const char *cps_sandbox_read_file(lua_State *state, const char *path, size_t *length_out);
/* Name and text of a job's file, by number from 1; NULL beyond the last. */
const char *cps_sandbox_file_name(const cps_sandbox *sandbox, int number);
const char *cps_sandbox_file_text(const cps_sandbox *sandbox, int number, size_t *length_out);
/* The place in a job's file from which the running Lua function (level 1 of a C function) was
 * called: true, number and line. */
bool cps_sandbox_where(lua_State *state, int *number_out, int *line_out);
/* Number of the job's file that the function at `function` (a stack index) comes from, 0 if none.
 */
int cps_sandbox_file_number(const char *short_source);

#endif
