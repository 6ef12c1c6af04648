/* One Lua state a command. An error that system.fail raised is a table { code, message } and keeps
 * its status; any other is a mistake in our library and is reported with its place. */
#include "job/driver.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "job/host.h"
#include "job/system.h"

enum { PATH_BYTES = 4096, MAX_SOURCE_BYTES = 4 << 20 };

typedef struct driver_call {
    const cps_driver *driver;
    const char *command;
    const cps_json *arguments;
} driver_call;

/* require "copse.commands.x" of the library: lua_folder/copse/commands/x.lua, once. */
static int driver_require(lua_State *state) {
    const char *name = luaL_checkstring(state, 1);
    luaL_getsubtable(state, LUA_REGISTRYINDEX, "copse.loaded");
    if (lua_getfield(state, -1, name) != LUA_TNIL) {
        return 1;
    }
    lua_pop(state, 1);
    luaL_gsub(state, strcmp(name, "copse") == 0 ? "copse.init" : name, ".", "/");
    const char *path = lua_pushfstring(state, "%s/%s.lua", lua_tostring(state, lua_upvalueindex(1)),
                                       lua_tostring(state, -1));
    if (luaL_loadfilex(state, path, "t") != LUA_OK) {
        return lua_error(state);
    }
    lua_pushfstring(state, "%s", name);
    lua_call(state, 1, 1);
    lua_pushvalue(state, -1);
    lua_setfield(state, 2, name);
    return 1;
}

static void open_libraries(lua_State *state, const cps_driver *driver) {
    static const luaL_Reg libraries[] = {
        {LUA_GNAME, luaopen_base},
        {LUA_STRLIBNAME, luaopen_string},
        {LUA_TABLIBNAME, luaopen_table},
        {LUA_MATHLIBNAME, luaopen_math},
        {LUA_UTF8LIBNAME, luaopen_utf8},
        {LUA_COLIBNAME, luaopen_coroutine},
        {NULL, NULL},
    };
    static const char *const removed[] = {"dofile", "loadfile", "print", "warn", NULL};
    for (const luaL_Reg *library = libraries; library->name; library++) {
        luaL_requiref(state, library->name, library->func, 1);
        lua_pop(state, 1);
    }
    for (int i = 0; removed[i]; i++) {
        lua_pushnil(state);
        lua_setglobal(state, removed[i]);
    }
    lua_pushstring(state, driver->lua_folder);
    lua_pushcclosure(state, driver_require, 1);
    lua_setglobal(state, "require");
    lua_newtable(state);
    cps_system_add_files(state);
    cps_system_add_processes(state);
    cps_system_add_texts(state, driver);
    lua_setglobal(state, "system");
}

/* Leaves what `run` of the module returned. */
static int call_body(lua_State *state) {
    const driver_call *call = lua_touserdata(state, 1);
    lua_settop(state, 0);
    open_libraries(state, call->driver);
    lua_getglobal(state, "require");
    lua_pushfstring(state, "copse.commands.%s", call->command);
    const char *module = lua_tostring(state, -1);
    const char *blank = strchr(module, ' ');
    if (blank) {
        lua_pushlstring(state, module, (size_t)(blank - module));
        lua_replace(state, -2);
    }
    lua_call(state, 1, 1);
    lua_getfield(state, -1, "run");
    cps_job_push_json(state, call->arguments);
    lua_call(state, 1, 1);
    return 1;
}

/* Message handler: the trace of what is no system.fail. */
static int add_trace(lua_State *state) {
    if (lua_type(state, 1) == LUA_TSTRING) {
        luaL_traceback(state, state, lua_tostring(state, 1), 1);
    }
    return 1;
}

static cps_status report(lua_State *state, const char *command) {
    if (lua_istable(state, -1)) {
        lua_getfield(state, -1, "code");
        lua_getfield(state, -2, "message");
        const cps_status status = (cps_status)lua_tointeger(state, -2);
        const char *message = lua_tostring(state, -1);
        if (status != CPS_OK && message) {
            return cps_fail(status, "%s", message);
        }
    }
    const char *message = lua_tostring(state, -1);
    return cps_fail(CPS_ERR_INTERNAL, "copse %s: a mistake in our Lua library: %s", command,
                    message ? message : "(no message)");
}

static cps_status run(lua_State *state, driver_call *call) {
    lua_pushcfunction(state, add_trace);
    lua_pushcfunction(state, call_body);
    lua_pushlightuserdata(state, call);
    if (lua_pcall(state, 1, 1, 1) != LUA_OK) {
        return report(state, call->command);
    }
    const cps_status code = (cps_status)lua_tointeger(state, -1);
    return code == CPS_OK ? CPS_OK : cps_fail(code, "%s", "");
}

cps_status cps_driver_run(const cps_driver *driver, const char *command,
                          const cps_json *arguments) {
    char *module = cps_format("%s/copse/commands/%.*s.lua", driver->lua_folder,
                              (int)strcspn(command, " "), command);
    const bool is_there = cps_file_exists(module);
    cps_status status = CPS_OK;
    if (!is_there) {
        status =
            cps_fail(CPS_ERR_UNAVAILABLE, "the Lua library lacks '%s': reinstall Copse", module);
    }
    free(module);
    CPS_TRY(status);
    lua_State *state = luaL_newstate();
    if (!state) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a Lua state");
    }
    driver_call call = {driver, command, arguments};
    status = run(state, &call);
    lua_close(state);
    return status;
}
