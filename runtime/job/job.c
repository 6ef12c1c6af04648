/* The work is done by lua/copse/run.lua: it runs the job file, checks what it returns and gives the
 * resolved job as JSON text and as Lua text, and a table of its functions, which stays in the
 * registry. Of a sweep lua/copse/expand.lua gives all jobs at once. */
#include "job/job.h"

#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "job/host.h"
#include "job/sandbox.h"

/* Keys of the registry. */
#define FUNCTIONS "copse.functions"
#define ENCODE "copse.encode"

struct cps_job {
    cps_sandbox *sandbox;
    cps_json *json;
    char *source;
    /* What the Lua side may still ask for after loading. */
    cps_job_host host;
    cps_job_setup setup;
    char *path, *folder, *lua_folder;
};

/* Leaves the JSON text (nil when the job is wrong) and the Lua text (or the message). */
static int run_body(lua_State *state) {
    const cps_job_host *host = lua_touserdata(state, 1);
    lua_settop(state, 0);
    cps_job_host_open(state, host);
    lua_getglobal(state, "require");
    lua_pushliteral(state, "copse.run");
    lua_call(state, 1, 1);
    lua_getfield(state, -1, "encode");
    lua_setfield(state, LUA_REGISTRYINDEX, ENCODE);
    lua_getfield(state, -1, "load");
    lua_call(state, 0, 3);
    lua_setfield(state, LUA_REGISTRYINDEX, FUNCTIONS);
    return 2;
}

static cps_status take_result(cps_job *job) {
    lua_State *state = cps_sandbox_state(job->sandbox);
    size_t length = 0;
    const char *json = lua_tolstring(state, 1, &length); /* a string or nil: does not raise */
    const char *text = lua_tostring(state, 2);
    if (!json) {
        return cps_fail(CPS_ERR_USAGE, "%s", text ? text : "the job could not be checked");
    }
    CPS_TRY(cps_json_parse(json, length, job->path, &job->json));
    job->source = cps_format("%s", text ? text : "");
    lua_settop(state, 0);
    return CPS_OK;
}

static cps_status check_paths(const char *path, const char *lua_folder) {
    char *library = cps_format("%s/copse/run.lua", lua_folder);
    const bool has_library = cps_file_exists(library);
    free(library);
    if (!cps_file_exists(path)) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "there is no job file '%s': check the path", path);
    }
    if (!has_library) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "the Lua library is not in '%s' (no copse/run.lua there): reinstall Copse",
                        lua_folder);
    }
    return CPS_OK;
}

static cps_status absolute_folder(const char *path, char **folder_out) {
    char *folder = cps_path_folder(path);
    char *absolute = realpath(folder, NULL);
    cps_status status = CPS_OK;
    if (absolute) {
        *folder_out = absolute;
    } else {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "folder '%s' of the job cannot be read", folder);
    }
    free(folder);
    return status;
}

/* Leaves the JSON text of the expanded sweep (nil when it is wrong) and the message. */
static int expand_body(lua_State *state) {
    const cps_job_host *host = lua_touserdata(state, 1);
    lua_settop(state, 0);
    cps_job_host_open(state, host);
    lua_getglobal(state, "require");
    lua_pushliteral(state, "copse.expand");
    lua_call(state, 1, 1);
    lua_getfield(state, -1, "load");
    lua_call(state, 0, 2);
    return 2;
}

static cps_status run_file(cps_job *job, lua_CFunction body) {
    CPS_TRY(absolute_folder(job->path, &job->folder));
    CPS_TRY(cps_sandbox_create(&job->sandbox));
    job->host = (cps_job_host){&job->setup, job->path, job->folder, job->lua_folder};
    CPS_TRY(
        cps_sandbox_call(job->sandbox, body, &job->host, CPS_SANDBOX_MILLION_INSTRUCTIONS, true));
    return take_result(job);
}

static cps_status load(const char *path, const cps_job_setup *setup, lua_CFunction body,
                       cps_job **job_out) {
    CPS_TRY(check_paths(path, setup->lua_folder));
    cps_job *job = calloc(1, sizeof *job);
    if (!job) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a job");
    }
    job->setup = *setup;
    job->path = cps_format("%s", path);
    job->lua_folder = cps_format("%s", setup->lua_folder);
    const cps_status status = run_file(job, body);
    job->setup = (cps_job_setup){0}; /* borrowed for the load only */
    if (status != CPS_OK) {
        cps_job_destroy(job);
        return status;
    }
    *job_out = job;
    return CPS_OK;
}

cps_status cps_job_load(const char *path, const cps_job_setup *setup, cps_job **job_out) {
    return load(path, setup, run_body, job_out);
}

cps_status cps_sweep_expand(const char *path, const cps_job_setup *setup, cps_json **sweep_out) {
    cps_job *job = NULL;
    CPS_TRY(load(path, setup, expand_body, &job));
    *sweep_out = job->json;
    job->json = NULL;
    cps_job_destroy(job);
    return CPS_OK;
}

void cps_job_destroy(cps_job *job) {
    if (!job) {
        return;
    }
    cps_sandbox_destroy(job->sandbox);
    cps_json_destroy(job->json);
    free(job->source);
    free(job->path);
    free(job->folder);
    free(job->lua_folder);
    free(job);
}

const cps_json *cps_job_json(const cps_job *job) {
    return job->json;
}

char *cps_job_source(const cps_job *job) {
    return cps_format("%s", job->source);
}

/* ---- schedules
 * ------------------------------------------------------------------------------------------------------
 */

typedef struct tabulation {
    const char *key;
    int64_t total;
    double *values;
} tabulation;

static int tabulate_body(lua_State *state) {
    const tabulation *wanted = lua_touserdata(state, 1);
    luaL_getsubtable(state, LUA_REGISTRYINDEX, FUNCTIONS);
    if (lua_getfield(state, -1, wanted->key) != LUA_TFUNCTION) {
        return luaL_error(state, "the job has no function '%s'", wanted->key);
    }
    for (int64_t step = 0; step < wanted->total; step++) {
        lua_pushvalue(state, -1);
        lua_pushinteger(state, step);
        lua_pushinteger(state, wanted->total);
        lua_call(state, 2, 1);
        const bool is_number = lua_type(state, -1) == LUA_TNUMBER;
        const double value = is_number ? lua_tonumber(state, -1) : 0;
        if (!is_number || !isfinite(value)) {
            return luaL_error(
                state, "%s: at step %I of %I the function gives %s: it should give a finite number",
                wanted->key, (LUAI_UACINT)step, (LUAI_UACINT)wanted->total,
                luaL_tolstring(state, -1, NULL));
        }
        wanted->values[step] = value;
        lua_pop(state, 1);
    }
    return 0;
}

cps_status cps_job_tabulate(cps_job *job, const char *function_key, int64_t total, double *values) {
    tabulation wanted = {function_key, total, values};
    return cps_sandbox_call(job->sandbox, tabulate_body, &wanted,
                            CPS_SANDBOX_MILLION_INSTRUCTIONS + total / 100, false);
}

/* Copies `value` under `key`, functions as their values. */
static cps_status copy_tabulated(cps_job *job, const cps_json *value, int64_t total, double *values,
                                 cps_json *parent, const char *key) {
    const char *function = cps_json_get_string(value, "function", NULL);
    if (cps_json_is_object(value) && function) {
        CPS_TRY(cps_job_tabulate(job, function, total, values));
        cps_json *array = cps_json_add_array(parent, key);
        for (int64_t i = 0; i < total; i++) {
            cps_json_add_number(array, NULL, values[i]);
        }
        return CPS_OK;
    }
    if (!cps_json_is_object(value) && !cps_json_is_array(value)) {
        cps_json_add_copy(parent, key, value);
        return CPS_OK;
    }
    cps_json *copy = cps_json_is_object(value) ? cps_json_add_object(parent, key)
                                               : cps_json_add_array(parent, key);
    for (const cps_json *member = cps_json_first(value); member; member = cps_json_next(member)) {
        CPS_TRY(copy_tabulated(job, member, total, values, copy,
                               cps_json_is_object(value) ? cps_json_key(member) : NULL));
    }
    return CPS_OK;
}

cps_status cps_job_stage(cps_job *job, int64_t stage, int64_t total, cps_json **stage_out) {
    const cps_json *source = cps_json_at(cps_json_get(job->json, "stages"), stage);
    double *values = calloc((size_t)(total > 0 ? total : 1), sizeof *values);
    if (!source || !values) {
        free(values);
        return source ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for schedules of %lld steps",
                                 (long long)total)
                      : cps_fail(CPS_ERR_INTERNAL, "the job has no stage %lld", (long long)stage);
    }
    cps_json *copy = cps_json_new_object();
    cps_status status = CPS_OK;
    for (const cps_json *member = cps_json_first(source); member && status == CPS_OK;
         member = cps_json_next(member)) {
        status = copy_tabulated(job, member, total, values, copy, cps_json_key(member));
    }
    free(values);
    if (status != CPS_OK) {
        cps_json_destroy(copy);
        return status;
    }
    *stage_out = copy;
    return CPS_OK;
}

/* ---- on_evaluate
 * ----------------------------------------------------------------------------------------------------
 */

typedef struct evaluation {
    const cps_json *metrics, *state;
} evaluation;

/* Leaves the state as JSON text and whether to stop. */
static int evaluate_body(lua_State *state) {
    const evaluation *given = lua_touserdata(state, 1);
    lua_getfield(state, LUA_REGISTRYINDEX, ENCODE);
    luaL_getsubtable(state, LUA_REGISTRYINDEX, FUNCTIONS);
    lua_getfield(state, -1, "on_evaluate");
    cps_job_push_json(state, given->metrics);
    if (given->state) {
        cps_job_push_json(state, given->state);
    } else {
        lua_newtable(state);
    }
    const int table = lua_gettop(state);
    lua_pushvalue(state, table - 2);
    lua_pushvalue(state, table - 1);
    lua_pushvalue(state, table);
    lua_call(state, 2, 1);
    if (!lua_isnoneornil(state, -1) && !lua_isboolean(state, -1)) {
        return luaL_error(
            state,
            "on_evaluate gives %s: it should give true to end the stage, or false or nothing",
            luaL_tolstring(state, -1, NULL));
    }
    const int stop = lua_toboolean(state, -1);
    lua_pushvalue(state, 2);
    lua_pushvalue(state, table);
    lua_pushliteral(state, "state of on_evaluate");
    lua_call(state, 2, 1);
    lua_pushboolean(state, stop);
    return 2;
}

cps_status cps_job_on_evaluate(cps_job *job, const cps_json *metrics, cps_json **state_inout,
                               bool *stop_out) {
    if (!cps_json_get(job->json, "on_evaluate")) {
        *stop_out = false;
        return CPS_OK;
    }
    evaluation given = {metrics, *state_inout};
    CPS_TRY(cps_sandbox_call(job->sandbox, evaluate_body, &given, CPS_SANDBOX_MILLION_INSTRUCTIONS,
                             false));
    lua_State *state = cps_sandbox_state(job->sandbox);
    size_t length = 0;
    const char *text = lua_tolstring(state, 1, &length);
    const bool stop = lua_toboolean(state, 2);
    cps_json *kept = NULL;
    CPS_TRY(cps_json_parse(text, length, "state of on_evaluate", &kept));
    lua_settop(state, 0);
    cps_json_destroy(*state_inout);
    *state_inout = kept;
    *stop_out = stop;
    return CPS_OK;
}
