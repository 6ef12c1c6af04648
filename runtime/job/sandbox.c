/* Chunks of a job are named "@1", "@2", ... and messages get the real names at the end: Lua would
 * cut long paths. What malloc gives is owned by the sandbox, never by a C function that may raise.
 */
#include "job/sandbox.h"

#include <ctype.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { COUNT_INTERVAL = 10000, MAX_SOURCE_BYTES = 4 << 20, MAX_LINES_BYTES = 32 << 20 };

typedef struct job_file {
    char *name, *text;
    size_t length;
} job_file;

struct cps_sandbox {
    lua_State *state;
    size_t used_bytes;
    int64_t instructions, limit; /* of the running call */
    int file, line;              /* the job's line that ran last */
    char *borrowed_text;         /* the file read last that is not the job's */
    int file_count;
    job_file files[CPS_SANDBOX_MAX_FILES];
};

static void *allocate(void *context, void *block, size_t old_bytes, size_t new_bytes) {
    cps_sandbox *sandbox = context;
    const size_t held = block ? old_bytes : 0;
    const size_t limit = (size_t)CPS_SANDBOX_MEMORY_MB << 20;
    if (new_bytes == 0) {
        free(block);
        sandbox->used_bytes -= held;
        return NULL;
    }
    if (new_bytes > held && new_bytes - held > limit - sandbox->used_bytes) {
        return NULL;
    }
    void *moved = realloc(block, new_bytes);
    if (moved) {
        sandbox->used_bytes += new_bytes - held;
    }
    return moved;
}

cps_sandbox *cps_sandbox_of(lua_State *state) {
    return *(cps_sandbox **)lua_getextraspace(state);
}

int cps_sandbox_file_number(const char *short_source) {
    return short_source[0] == '@' ? atoi(short_source + 1) : 0;
}

static void hook(lua_State *state, lua_Debug *activation) {
    cps_sandbox *sandbox = cps_sandbox_of(state);
    if (activation->event == LUA_HOOKLINE) {
        lua_getinfo(state, "S", activation);
        const int number = cps_sandbox_file_number(activation->short_src);
        if (number > 0) {
            sandbox->file = number;
            sandbox->line = activation->currentline;
        }
        return;
    }
    sandbox->instructions += COUNT_INTERVAL;
    if (sandbox->instructions > sandbox->limit) {
        luaL_where(state, 0);
        lua_pushfstring(
            state, "%sthe job ran for more than %d million instructions: is there an endless loop?",
            lua_tostring(state, -1), (int)(sandbox->limit / 1000000));
        lua_error(state);
    }
}

cps_status cps_sandbox_create(cps_sandbox **sandbox_out) {
    cps_sandbox *sandbox = calloc(1, sizeof *sandbox);
    if (sandbox) {
        sandbox->state = lua_newstate(allocate, sandbox);
    }
    if (!sandbox || !sandbox->state) {
        free(sandbox);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a Lua state");
    }
    *(cps_sandbox **)lua_getextraspace(sandbox->state) = sandbox;
    *sandbox_out = sandbox;
    return CPS_OK;
}

void cps_sandbox_destroy(cps_sandbox *sandbox) {
    if (!sandbox) {
        return;
    }
    lua_sethook(sandbox->state, NULL, 0, 0);
    lua_close(sandbox->state);
    for (int i = 0; i < sandbox->file_count; i++) {
        free(sandbox->files[i].name);
        free(sandbox->files[i].text);
    }
    free(sandbox->borrowed_text);
    free(sandbox);
}

lua_State *cps_sandbox_state(const cps_sandbox *sandbox) {
    return sandbox->state;
}

const char *cps_sandbox_file_name(const cps_sandbox *sandbox, int number) {
    return number >= 1 && number <= sandbox->file_count ? sandbox->files[number - 1].name : NULL;
}

const char *cps_sandbox_file_text(const cps_sandbox *sandbox, int number, size_t *length_out) {
    if (number < 1 || number > sandbox->file_count) {
        return NULL;
    }
    *length_out = sandbox->files[number - 1].length;
    return sandbox->files[number - 1].text;
}

/* Puts the names of the job's files in place of "@1:", and records the message. */
static cps_status fail_with_names(const cps_sandbox *sandbox, const char *message) {
    char *text = cps_format("%s", "");
    while (*message) {
        char *end = NULL;
        const long number = *message == '@' && isdigit((unsigned char)message[1])
                                ? strtol(message + 1, &end, 10)
                                : 0;
        const char *name = end && *end == ':' ? cps_sandbox_file_name(sandbox, (int)number) : NULL;
        const int take = name ? 0 : 1 + (int)strcspn(message + 1, "@");
        char *longer = cps_format("%s%s%.*s", text, name ? name : "", take, message);
        free(text);
        text = longer;
        message = name ? end : message + take;
    }
    const cps_status status = cps_fail(CPS_ERR_USAGE, "%s", text);
    free(text);
    return status;
}

static cps_status report(const cps_sandbox *sandbox, int lua_status) {
    lua_State *state = sandbox->state;
    if (lua_status == LUA_ERRMEM) {
        return cps_fail(
            CPS_ERR_USAGE,
            "%s: the job needs more than %d MB of memory: build smaller strings and tables",
            sandbox->file_count ? sandbox->files[0].name : "Lua", (int)CPS_SANDBOX_MEMORY_MB);
    }
    if (lua_type(state, -1) != LUA_TSTRING) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: the job raised an error that is a %s: give error() a message",
                        sandbox->file_count ? sandbox->files[0].name : "Lua",
                        lua_typename(state, lua_type(state, -1)));
    }
    return fail_with_names(sandbox, lua_tostring(state, -1));
}

cps_status cps_sandbox_call(cps_sandbox *sandbox, lua_CFunction body, void *context,
                            int64_t million_instructions, bool track_lines) {
    lua_State *state = sandbox->state;
    lua_settop(state, 0);
    sandbox->instructions = 0;
    sandbox->limit = million_instructions * 1000000;
    lua_sethook(state, hook, LUA_MASKCOUNT | (track_lines ? LUA_MASKLINE : 0), COUNT_INTERVAL);
    lua_pushcfunction(state, body); /* light: needs no memory */
    lua_pushlightuserdata(state, context);
    const int lua_status = lua_pcall(state, 1, LUA_MULTRET, 0);
    lua_sethook(state, NULL, 0, 0);
    if (lua_status == LUA_OK) {
        return CPS_OK;
    }
    const cps_status status = report(sandbox, lua_status);
    lua_settop(state, 0);
    return status;
}

void cps_sandbox_renew(lua_State *state) {
    cps_sandbox_of(state)->instructions = 0;
}

int cps_sandbox_load_file(lua_State *state, const char *path, const char *shown, bool is_library) {
    cps_sandbox *sandbox = cps_sandbox_of(state);
    job_file *file = &sandbox->files[sandbox->file_count];
    char **text = is_library ? &sandbox->borrowed_text : &file->text;
    char chunk_name[64];
    size_t length = 0;
    if (!is_library && sandbox->file_count == CPS_SANDBOX_MAX_FILES) {
        return luaL_error(state, "%s: a job may load at most %d files", shown,
                          (int)CPS_SANDBOX_MAX_FILES);
    }
    free(*text);
    *text = NULL;
    if (cps_file_read(path, MAX_SOURCE_BYTES, text, &length) != CPS_OK) {
        return luaL_error(state, "%s", cps_fail_message());
    }
    if (is_library) {
        snprintf(chunk_name, sizeof chunk_name, "=%.60s", shown);
    } else {
        file->name = cps_format("%s", shown);
        file->length = length;
        sandbox->file_count++;
        snprintf(chunk_name, sizeof chunk_name, "=@%d", sandbox->file_count);
    }
    if (luaL_loadbufferx(state, *text, length, chunk_name, "t") != LUA_OK) {
        lua_error(state);
    }
    return is_library ? 0 : sandbox->file_count;
}

const char *cps_sandbox_read_file(lua_State *state, const char *path, size_t *length_out) {
    cps_sandbox *sandbox = cps_sandbox_of(state);
    free(sandbox->borrowed_text);
    sandbox->borrowed_text = NULL;
    if (cps_file_read(path, MAX_LINES_BYTES, &sandbox->borrowed_text, length_out) != CPS_OK) {
        return NULL;
    }
    return sandbox->borrowed_text;
}

bool cps_sandbox_where(lua_State *state, int *number_out, int *line_out) {
    const cps_sandbox *sandbox = cps_sandbox_of(state);
    lua_Debug callee, caller;
    *number_out = sandbox->file;
    *line_out = sandbox->line;
    /* After `return copse.job {...}` the caller's frame is gone; the line hook saw its last line.
     */
    if (lua_getstack(state, 1, &callee) && lua_getinfo(state, "t", &callee) && !callee.istailcall &&
        lua_getstack(state, 2, &caller) && lua_getinfo(state, "Sl", &caller)) {
        const int number = cps_sandbox_file_number(caller.short_src);
        if (number > 0) {
            *number_out = number;
            *line_out = caller.currentline;
        }
    }
    return *number_out > 0;
}
