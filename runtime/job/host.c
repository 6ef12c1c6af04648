/* Functions here run below lua_pcall and may raise: they hold no malloc. */
#include "job/host.h"

#include <inttypes.h>
#include <lauxlib.h>
#include <lualib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/options.h"
#include "base/rng.h"
#include "eval/config.h"
#include "model/model.h"

enum { PATH_BYTES = 4096 };

static const cps_job_host *host_of(lua_State *state) {
    return lua_touserdata(state, lua_upvalueindex(1));
}

static void set_string(lua_State *state, const char *key, const char *value) {
    if (value) {
        lua_pushstring(state, value);
        lua_setfield(state, -2, key);
    }
}

static void set_number(lua_State *state, const char *key, double value) {
    lua_pushnumber(state, value);
    lua_setfield(state, -2, key);
}

static void push_strings(lua_State *state, const char *const *strings) {
    lua_newtable(state);
    for (int i = 0; strings && strings[i]; i++) {
        lua_pushstring(state, strings[i]);
        lua_rawseti(state, -2, i + 1);
    }
}

/* { name, kind, help, default, minimum, maximum, choices, length, required } */
static void push_row(lua_State *state, const cps_option *row) {
    lua_newtable(state);
    set_string(state, "name", row->name);
    set_string(state, "kind", cps_option_kind_name(row->kind));
    set_string(state, "help", row->help);
    set_string(state, "default", row->default_text);
    if (row->minimum < 0 || row->minimum > 0 || row->maximum < 0 || row->maximum > 0) {
        set_number(state, "minimum", row->minimum);
        set_number(state, "maximum", row->maximum);
    }
    if (row->choices) {
        push_strings(state, row->choices);
        lua_setfield(state, -2, "choices");
    }
    lua_pushinteger(state, row->length);
    lua_setfield(state, -2, "length");
    lua_pushboolean(state, row->required);
    lua_setfield(state, -2, "required");
}

/* { kind, help, fits, metrics, rows = { row, ... } } */
static void push_kind(lua_State *state, const cps_job_rows *kind) {
    luaL_checkstack(state, 8, NULL);
    lua_newtable(state);
    set_string(state, "kind", kind->kind);
    set_string(state, "help", kind->help);
    lua_pushboolean(state, kind->fits);
    lua_setfield(state, -2, "fits");
    push_strings(state, kind->metrics);
    lua_setfield(state, -2, "metrics");
    lua_newtable(state);
    for (int i = 0; kind->rows && kind->rows[i].name; i++) {
        push_row(state, &kind->rows[i]);
        lua_rawseti(state, -2, i + 1);
    }
    lua_setfield(state, -2, "rows");
}

/* host.file(number) -> name, text */
static int host_file(lua_State *state) {
    const cps_sandbox *sandbox = cps_sandbox_of(state);
    const int number = (int)luaL_checkinteger(state, 1);
    size_t length = 0;
    const char *text = cps_sandbox_file_text(sandbox, number, &length);
    lua_pushstring(state, cps_sandbox_file_name(sandbox, number));
    lua_pushlstring(state, text ? text : "", text ? length : 0);
    return 2;
}

/* host.where() -> file number, line of the call of the constructor that asks */
static int host_where(lua_State *state) {
    int number = 0, line = 0;
    cps_sandbox_where(state, &number, &line);
    lua_pushinteger(state, number);
    lua_pushinteger(state, line);
    return 2;
}

/* host.load_job(path, shown, environment) -> chunk */
static int host_load_job(lua_State *state) {
    cps_sandbox_load_file(state, luaL_checkstring(state, 1), luaL_checkstring(state, 2), false);
    lua_pushvalue(state, 3);
    if (!lua_setupvalue(state, -2, 1)) {
        lua_pop(state, 1);
    }
    return 1;
}

static int host_exists(lua_State *state) {
    lua_pushboolean(state, cps_file_exists(luaL_checkstring(state, 1)));
    return 1;
}

/* host.read_file(path) -> text, or nil and why */
static int host_read_file(lua_State *state) {
    size_t length = 0;
    const char *text = cps_sandbox_read_file(state, luaL_checkstring(state, 1), &length);
    if (!text) {
        lua_pushnil(state);
        lua_pushstring(state, cps_fail_message());
        return 2;
    }
    lua_pushlstring(state, text, length);
    return 1;
}

/* host.function_info(f) -> { file, first, last, parameters, vararg, upvalues = { { name, value },
 * ... } }; file 0: not a job's function */
static int host_function_info(lua_State *state) {
    lua_Debug info;
    luaL_checktype(state, 1, LUA_TFUNCTION);
    lua_pushvalue(state, 1);
    lua_getinfo(state, ">Su", &info);
    lua_newtable(state);
    set_number(state, "file", cps_sandbox_file_number(info.short_src));
    set_number(state, "first", info.linedefined);
    set_number(state, "last", info.lastlinedefined);
    set_number(state, "parameters", info.nparams);
    lua_pushboolean(state, info.isvararg);
    lua_setfield(state, -2, "vararg");
    lua_newtable(state);
    for (int i = 1;; i++) {
        const char *name = lua_getupvalue(state, 1, i);
        if (!name) {
            break;
        }
        lua_createtable(state, 2, 0);
        lua_insert(state, -2);
        lua_rawseti(state, -2, 2);
        lua_pushstring(state, name);
        lua_rawseti(state, -2, 1);
        lua_rawseti(state, -2, i);
    }
    lua_setfield(state, -2, "upvalues");
    return 1;
}

int cps_job_nearest(lua_State *state) {
    const char *name = luaL_checkstring(state, 1);
    const lua_Integer count = luaL_len(state, 2);
    const char **names = lua_newuserdatauv(state, ((size_t)count + 1) * sizeof *names, 0);
    for (lua_Integer i = 0; i < count; i++) {
        lua_rawgeti(state, 2, i + 1); /* the list keeps the string alive */
        names[i] = lua_type(state, -1) == LUA_TSTRING ? lua_tostring(state, -1) : "";
        lua_pop(state, 1);
    }
    names[count] = NULL;
    lua_pushstring(state, cps_nearest_name(name, names));
    return 1;
}

/* host.load_objective(path, name) -> kind, or nil and why */
static int host_load_objective(lua_State *state) {
    const cps_job_setup *setup = host_of(state)->setup;
    const char *path = luaL_checkstring(state, 1), *name = luaL_checkstring(state, 2);
    cps_job_rows kind = {.kind = name};
    lua_pushnil(state);
    if (!setup->load_objective) {
        lua_pushliteral(state, "loading objectives from a path is not offered here");
        return 2;
    }
    if (setup->load_objective(setup->context, path, name, &kind) != CPS_OK) {
        lua_pushstring(state, cps_fail_message());
        return 2;
    }
    push_kind(state, &kind);
    return 1;
}

/* host.draw(seed, trial, name) -> number in [0, 1): the same wherever and whenever it is asked */
static int host_draw(lua_State *state) {
    const cps_draw_key key = {.seed = (uint64_t)luaL_checkinteger(state, 1),
                              .position = (uint64_t)luaL_checkinteger(state, 2),
                              .module = cps_name_key(luaL_checkstring(state, 3))};
    lua_pushnumber(state, cps_draw_uniform(&key, 0));
    return 1;
}

/* host.digest(text) -> 16 hexadecimal digits */
static int host_digest(lua_State *state) {
    size_t length = 0;
    const char *text = luaL_checklstring(state, 1, &length);
    char hex[17];
    snprintf(hex, sizeof hex, "%016" PRIx64, cps_hash64(text, length));
    lua_pushstring(state, hex);
    return 1;
}

/* host.less_is_better(metric) -> bool */
static int host_less_is_better(lua_State *state) {
    lua_pushboolean(state, cps_metric_less_is_better(luaL_checkstring(state, 1)));
    return 1;
}

/* host.renew_limits(): the next job of a sweep begins */
static int host_renew_limits(lua_State *state) {
    cps_sandbox_renew(state);
    return 0;
}

/* require "copse.x" of the library: lua_folder/copse/x.lua, once. */
static int host_require(lua_State *state) {
    const cps_job_host *host = host_of(state);
    const char *name = luaL_checkstring(state, 1);
    char path[PATH_BYTES], shown[128];
    luaL_getsubtable(state, LUA_REGISTRYINDEX, "copse.loaded");
    if (lua_getfield(state, -1, name) != LUA_TNIL) {
        return 1;
    }
    lua_pop(state, 1);
    const char *file = strncmp(name, "copse.", 6) == 0 ? name + 6 : "init";
    if (snprintf(path, sizeof path, "%s/copse/%s.lua", host->lua_folder, file) >=
        (int)sizeof path) {
        return luaL_error(state, "path of the Lua library is too long");
    }
    snprintf(shown, sizeof shown, "copse/%.100s.lua", file);
    cps_sandbox_load_file(state, path, shown, true);
    lua_call(state, 0, 1);
    lua_pushvalue(state, -1);
    lua_setfield(state, -3, name);
    return 1;
}

static void set_function(lua_State *state, const char *name, lua_CFunction function,
                         const cps_job_host *host) {
    lua_pushlightuserdata(state, (void *)(uintptr_t)host);
    lua_pushcclosure(state, function, 1);
    lua_setfield(state, -2, name);
}

static void push_facts(lua_State *state, const cps_job_host *host) {
    const cps_job_setup *setup = host->setup;
    set_string(state, "path", host->path);
    set_string(state, "folder", host->folder);
    set_string(state, "lua_folder", host->lua_folder);
    push_strings(state, cps_model_presets());
    lua_setfield(state, -2, "presets");
    lua_newtable(state);
    for (const cps_job_rows *kind = setup->rows; kind && kind->kind; kind++) {
        push_kind(state, kind);
        lua_setfield(state, -2, kind->kind);
    }
    lua_setfield(state, -2, "kinds");
    lua_newtable(state);
    for (int64_t i = 0; i < setup->set_count; i++) {
        lua_createtable(state, 2, 0);
        lua_pushstring(state, setup->sets[i].key);
        lua_rawseti(state, -2, 1);
        lua_pushstring(state, setup->sets[i].value);
        lua_rawseti(state, -2, 2);
        lua_rawseti(state, -2, (lua_Integer)i + 1);
    }
    lua_setfield(state, -2, "sets");
}

void cps_job_host_open(lua_State *state, const cps_job_host *host) {
    static const luaL_Reg libraries[] = {
        {LUA_GNAME, luaopen_base},       {LUA_STRLIBNAME, luaopen_string},
        {LUA_TABLIBNAME, luaopen_table}, {LUA_MATHLIBNAME, luaopen_math},
        {LUA_UTF8LIBNAME, luaopen_utf8}, {NULL, NULL},
    };
    static const char *const removed[] = {"load",  "loadfile", "dofile", "collectgarbage",
                                          "print", "warn",     NULL};
    static const luaL_Reg functions[] = {
        {"file", host_file},
        {"where", host_where},
        {"load_job", host_load_job},
        {"exists", host_exists},
        {"read_file", host_read_file},
        {"function_info", host_function_info},
        {"nearest", cps_job_nearest},
        {"load_objective", host_load_objective},
        {"draw", host_draw},
        {"digest", host_digest},
        {"renew_limits", host_renew_limits},
        {"less_is_better", host_less_is_better},
        {NULL, NULL},
    };
    for (const luaL_Reg *library = libraries; library->name; library++) {
        luaL_requiref(state, library->name, library->func, 1);
        lua_pop(state, 1);
    }
    lua_pushglobaltable(state);
    for (int i = 0; removed[i]; i++) {
        lua_pushnil(state);
        lua_setfield(state, -2, removed[i]);
    }
    set_function(state, "require", host_require, host);
    lua_newtable(state);
    for (const luaL_Reg *function = functions; function->name; function++) {
        set_function(state, function->name, function->func, host);
    }
    push_facts(state, host);
    lua_setfield(state, -2, "host");
    lua_pop(state, 1);
}

void cps_job_push_json(lua_State *state, const cps_json *value) {
    luaL_checkstack(state, 4, "JSON nested too deeply");
    if (cps_json_string(value)) {
        lua_pushstring(state, cps_json_string(value));
    } else if (cps_json_is_bool(value)) {
        lua_pushboolean(state, cps_json_bool(value));
    } else if (cps_json_is_number(value)) {
        const double number = cps_json_number(value);
        if (fabs(number) < 9007199254740992.0 && !(floor(number) < number)) {
            lua_pushinteger(state, (lua_Integer)number);
        } else {
            lua_pushnumber(state, number);
        }
    } else if (cps_json_is_array(value) || cps_json_is_object(value)) {
        const bool is_array = cps_json_is_array(value);
        lua_newtable(state);
        lua_Integer i = 1;
        for (const cps_json *member = cps_json_first(value); member;
             member = cps_json_next(member), i++) {
            cps_job_push_json(state, member);
            if (is_array) {
                lua_rawseti(state, -2, i);
            } else {
                lua_setfield(state, -2, cps_json_key(member));
            }
        }
    } else {
        lua_pushnil(state);
    }
}
