#include "job/library.h"

#include <lauxlib.h>
#include <stdlib.h>

#include "base/file.h"
#include "job/host.h"
#include "job/sandbox.h"

typedef struct library_call {
    cps_job_host host;
    const char *module, *function;
    const cps_json *arguments;
} library_call;

/* Leaves the results as JSON text. */
static int call_body(lua_State *state) {
    const library_call *call = lua_touserdata(state, 1);
    lua_settop(state, 0);
    cps_job_host_open(state, &call->host);
    lua_getglobal(state, "require");
    lua_pushliteral(state, "copse.text");
    lua_call(state, 1, 1);
    lua_getfield(state, 1, "list");
    lua_getfield(state, 1, "encode");
    lua_getglobal(state, "require");
    lua_pushstring(state, call->module);
    lua_call(state, 1, 1);
    if (lua_type(state, -1) != LUA_TTABLE ||
        lua_getfield(state, -1, call->function) != LUA_TFUNCTION) {
        return luaL_error(state, "the Lua library has no function '%s' in '%s'", call->function,
                          call->module);
    }
    const int function = lua_gettop(state);
    for (const cps_json *argument = cps_json_first(call->arguments); argument;
         argument = cps_json_next(argument)) {
        luaL_checkstack(state, 2, "too many arguments");
        cps_job_push_json(state, argument);
    }
    lua_call(state, lua_gettop(state) - function, LUA_MULTRET);
    const int count = lua_gettop(state) - function + 1;
    lua_createtable(state, count, 0);
    lua_insert(state, function);
    for (int i = count; i >= 1; i--) {
        lua_rawseti(state, function, i);
    }
    lua_pushvalue(state, 2);
    lua_insert(state, function);
    lua_call(state, 1, 1); /* marks it as a list: it may be empty */
    lua_pushvalue(state, 3);
    lua_insert(state, -2);
    lua_pushfstring(state, "results of %s.%s", call->module, call->function);
    lua_call(state, 2, 1);
    lua_replace(state, 1);
    lua_settop(state, 1);
    return 1;
}

static cps_status run(cps_sandbox *sandbox, library_call *call, int64_t million_instructions,
                      cps_json **results_out) {
    CPS_TRY(cps_sandbox_call(sandbox, call_body, call, million_instructions, false));
    lua_State *state = cps_sandbox_state(sandbox);
    size_t length = 0;
    const char *text = lua_tolstring(state, 1, &length);
    return cps_json_parse(text, length, "results of the Lua library", results_out);
}

cps_status cps_library_call(const char *lua_folder, const char *module, const char *function,
                            const cps_json *arguments, int64_t million_instructions,
                            cps_json **results_out) {
    char *first = cps_format("%s/copse/init.lua", lua_folder);
    const bool is_there = cps_file_exists(first);
    free(first);
    if (!is_there) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "the Lua library is not in '%s' (no copse/init.lua there): reinstall Copse",
                        lua_folder);
    }
    const cps_job_setup setup = {.lua_folder = lua_folder};
    library_call call = {.host = {&setup, "", "", lua_folder},
                         .module = module,
                         .function = function,
                         .arguments = arguments};
    cps_sandbox *sandbox = NULL;
    CPS_TRY(cps_sandbox_create(&sandbox));
    const cps_status status = run(sandbox, &call, million_instructions, results_out);
    cps_sandbox_destroy(sandbox);
    return status;
}
