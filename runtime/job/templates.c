#include "job/templates.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "job/host.h"

/* Leaves the table of all sets. */
static int load_body(lua_State *state) {
    const cps_job_host *host = lua_touserdata(state, 1);
    lua_settop(state, 0);
    cps_job_host_open(state, host);
    lua_getglobal(state, "require");
    lua_pushliteral(state, "copse.templates");
    lua_call(state, 1, 1);
    return 1;
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The names of the sets in the table on top, sorted, with commas. What it calls does not raise. */
static char *list_sets(lua_State *state) {
    enum { MOST = 64 };
    const char *names[MOST];
    size_t count = 0;
    for (lua_pushnil(state); lua_next(state, -2) != 0; lua_pop(state, 1)) {
        if (lua_type(state, -2) == LUA_TSTRING && count < MOST) {
            names[count++] = lua_tostring(state, -2);
        }
    }
    qsort(names, count, sizeof names[0], by_bytes);
    char *list = cps_format("%s", "");
    for (size_t i = 0; i < count; i++) {
        char *longer = cps_format("%s%s%s", list, i > 0 ? ", " : "", names[i]);
        free(list);
        list = longer;
    }
    return list;
}

/* The set on top of the stack: a list of strings. */
static cps_status take_set(lua_State *state, const char *name, char ***templates_out,
                           int64_t *count_out) {
    const int64_t count = lua_istable(state, -1) ? (int64_t)lua_rawlen(state, -1) : 0;
    char **templates = calloc((size_t)count + 1, sizeof *templates);
    int64_t taken = 0;
    for (; templates != NULL && taken < count; taken++) {
        if (lua_rawgeti(state, -1, taken + 1) != LUA_TSTRING) {
            break;
        }
        templates[taken] = cps_format("%s", lua_tostring(state, -1));
        lua_pop(state, 1);
    }
    if (count == 0 || taken < count) {
        cps_strings_destroy(templates, taken);
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "the set of templates '%s' in copse/templates.lua is no list of texts: "
                        "reinstall Copse",
                        name);
    }
    *templates_out = templates;
    *count_out = count;
    return CPS_OK;
}

static cps_status find_set(lua_State *state, const char *name, char ***templates_out,
                           int64_t *count_out) {
    if (!lua_istable(state, -1)) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "copse/templates.lua gives no table: reinstall Copse");
    }
    for (lua_pushnil(state); lua_next(state, -2) != 0; lua_pop(state, 1)) {
        if (lua_type(state, -2) == LUA_TSTRING && strcmp(lua_tostring(state, -2), name) == 0) {
            return take_set(state, name, templates_out, count_out);
        }
    }
    char *list = list_sets(state);
    const cps_status status =
        cps_fail(CPS_ERR_USAGE,
                 "there is no set of templates '%s'; there are: %s; or name a file of them, "
                 "one a line, '{}' where the class goes",
                 name, list);
    free(list);
    return status;
}

cps_status cps_job_templates(const char *lua_folder, const char *name, char ***templates_out,
                             int64_t *count_out) {
    cps_sandbox *sandbox = NULL;
    CPS_TRY(cps_sandbox_create(&sandbox));
    const cps_job_setup nothing = {.lua_folder = lua_folder};
    cps_job_host host = {&nothing, "", "", lua_folder};
    cps_status status =
        cps_sandbox_call(sandbox, load_body, &host, CPS_SANDBOX_MILLION_INSTRUCTIONS, false);
    if (status == CPS_OK) {
        status = find_set(cps_sandbox_state(sandbox), name, templates_out, count_out);
    }
    cps_sandbox_destroy(sandbox);
    return status;
}
