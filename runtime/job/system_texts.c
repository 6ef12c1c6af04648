/* system: texts, messages, facts, services. */
#include "job/system.h"

#include <math.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/text.h"
#include "job/host.h"

enum { NAME_BYTES = 256, DEFAULT_COLUMNS = 100 };

static const cps_driver *driver_of(lua_State *state) {
    return lua_touserdata(state, lua_upvalueindex(1));
}

/* ---- failures ---- */

int cps_system_raise(lua_State *state, cps_status status, const char *message) {
    lua_createtable(state, 0, 2);
    lua_pushinteger(state, status);
    lua_setfield(state, -2, "code");
    lua_pushstring(state, message);
    lua_setfield(state, -2, "message");
    return lua_error(state);
}

/* fail(kind, format, ...) */
static int system_fail(lua_State *state) {
    static const char *const kinds[] = {"ended",    "usage", "data",   "missing",
                                        "internal", "io",    "signal", NULL};
    static const cps_status statuses[] = {CPS_ERR_ENDED,       CPS_ERR_USAGE,    CPS_ERR_DATA,
                                          CPS_ERR_UNAVAILABLE, CPS_ERR_INTERNAL, CPS_ERR_IO,
                                          CPS_ERR_SIGNAL};
    const cps_status status = statuses[luaL_checkoption(state, 1, NULL, kinds)];
    lua_remove(state, 1);
    luaL_checkstring(state, 1);
    lua_getglobal(state, "string");
    lua_getfield(state, -1, "format");
    lua_replace(state, -2);
    lua_insert(state, 1);
    lua_call(state, lua_gettop(state) - 1, 1);
    return cps_system_raise(state, status, lua_tostring(state, -1));
}

/* ---- messages ---- */

static int system_print(lua_State *state) {
    driver_of(state)->print(luaL_checkstring(state, 1));
    return 0;
}

static int system_log(lua_State *state) {
    static const char *const levels[] = {"error", "warning", "info", "debug", NULL};
    static const cps_log_level values[] = {CPS_LOG_ERROR, CPS_LOG_WARN, CPS_LOG_INFO,
                                           CPS_LOG_DEBUG};
    cps_log(values[luaL_checkoption(state, 1, NULL, levels)], "%s", luaL_checkstring(state, 2));
    return 0;
}

static int system_live(lua_State *state) {
    cps_log_live(luaL_checkstring(state, 1));
    return 0;
}

/* ---- JSON ---- */

/* A JSON value that the state destroys, whatever is raised meanwhile. */
static int destroy_json(lua_State *state) {
    cps_json **held = lua_touserdata(state, 1);
    cps_json_destroy(*held);
    *held = NULL;
    return 0;
}

static cps_json **hold_json(lua_State *state) {
    cps_json **held = lua_newuserdatauv(state, sizeof *held, 0);
    *held = NULL;
    if (luaL_newmetatable(state, "copse.json")) {
        lua_pushcfunction(state, destroy_json);
        lua_setfield(state, -2, "__gc");
    }
    lua_setmetatable(state, -2);
    return held;
}

/* decode(text [, what]) -> value, or nil and why */
static int system_decode(lua_State *state) {
    size_t length = 0;
    const char *text = luaL_checklstring(state, 1, &length);
    const char *what = luaL_optstring(state, 2, "JSON");
    cps_json **held = hold_json(state);
    if (cps_json_parse(text, length, what, held) != CPS_OK) {
        lua_pushnil(state);
        lua_pushstring(state, cps_fail_message());
        return 2;
    }
    cps_job_push_json(state, *held);
    cps_json_destroy(*held);
    *held = NULL;
    return 1;
}

/* service(name, request) -> result */
static int system_service(lua_State *state) {
    const cps_driver_service *service = driver_of(state)->services;
    const char *name = luaL_checkstring(state, 1);
    luaL_checktype(state, 2, LUA_TTABLE);
    while (service && service->name && strcmp(service->name, name) != 0) {
        service++;
    }
    if (!service || !service->name) {
        return luaL_error(state, "the program has no service '%s'", name);
    }
    lua_getglobal(state, "require");
    lua_pushliteral(state, "copse.text");
    lua_call(state, 1, 1);
    lua_getfield(state, -1, "encode");
    lua_pushvalue(state, 2);
    lua_pushvalue(state, 1);
    lua_call(state, 2, 1);
    size_t length = 0;
    const char *text = lua_tolstring(state, -1, &length);
    cps_json **request = hold_json(state), **result = hold_json(state);
    cps_status status = cps_json_parse(text, length, name, request);
    if (status == CPS_OK) {
        status = service->run(*request, result);
    }
    if (status != CPS_OK) {
        return cps_system_raise(state, status, cps_fail_message());
    }
    cps_job_push_json(state, *result);
    return 1;
}

/* ---- digests ---- */

static int system_digest(lua_State *state) {
    size_t length = 0;
    const char *text = luaL_checklstring(state, 1, &length);
    char hex[17];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)cps_hash64(text, length));
    lua_pushstring(state, hex);
    return 1;
}

static int system_base64(lua_State *state) {
    size_t length = 0;
    const char *bytes = luaL_checklstring(state, 1, &length);
    luaL_Buffer out;
    char *text = luaL_buffinitsize(state, &out, CPS_BASE64_BYTES(length));
    luaL_pushresultsize(&out, cps_base64(bytes, length, text));
    return 1;
}

/* ---- facts ---- */

static int system_environment(lua_State *state) {
    lua_pushstring(state, getenv(luaL_checkstring(state, 1))); /* NULL pushes nil */
    return 1;
}

/* date(seconds) -> "2026-11-22 15:04:05", local time */
static int system_date(lua_State *state) {
    const double seconds = floor(luaL_checknumber(state, 1));
    char text[64] = "?";
    struct tm parts;
    const time_t when = fabs(seconds) < 1e11 ? (time_t)seconds : 0;
    if (localtime_r(&when, &parts)) {
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
    }
    lua_pushstring(state, text);
    return 1;
}

static void set_string(lua_State *state, const char *key, const char *value) {
    lua_pushstring(state, value);
    lua_setfield(state, -2, key);
}

static void set_terminal(lua_State *state) {
    struct winsize size = {0};
    const bool output = isatty(STDOUT_FILENO);
    int columns = DEFAULT_COLUMNS;
    const char *wish = getenv("COLUMNS");
    if (output && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        columns = size.ws_col;
    } else if (wish && atoi(wish) > 0) {
        columns = atoi(wish);
    }
    lua_createtable(state, 0, 3);
    lua_pushboolean(state, output);
    lua_setfield(state, -2, "output");
    lua_pushboolean(state, isatty(STDERR_FILENO));
    lua_setfield(state, -2, "errors");
    lua_pushinteger(state, columns);
    lua_setfield(state, -2, "columns");
    lua_setfield(state, -2, "terminal");
}

static void set_facts(lua_State *state, const cps_driver *driver) {
    char host[NAME_BYTES] = "";
    if (gethostname(host, sizeof host - 1) != 0) {
        host[0] = '\0';
    }
    const struct passwd *account = getpwuid(geteuid());
    set_string(state, "host", host);
    set_string(state, "user", account ? account->pw_name : "?");
    set_string(state, "program", driver->program);
    set_string(state, "lua_folder", driver->lua_folder);
    set_string(state, "version", driver->version);
    lua_pushinteger(state, getpid());
    lua_setfield(state, -2, "pid");
    lua_pushinteger(state, driver->cores);
    lua_setfield(state, -2, "cores");
    set_terminal(state);
}

void cps_system_add_texts(lua_State *state, const cps_driver *driver) {
    static const luaL_Reg functions[] = {
        {"fail", system_fail},        {"print", system_print},
        {"log", system_log},          {"live", system_live},
        {"nearest", cps_job_nearest}, {"decode", system_decode},
        {"service", system_service},  {"digest", system_digest},
        {"base64", system_base64},    {"environment", system_environment},
        {"date", system_date},        {NULL, NULL},
    };
    lua_pushlightuserdata(state, (void *)(uintptr_t)driver);
    luaL_setfuncs(state, functions, 1);
    set_facts(state, driver);
}
