/* A job on all ranks: the option rows that this build offers, the file run on rank 0, its answer
 * for everybody. */
#include "main.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "comm/agree.h"
#include "job/rows.h"
#include "plugin/loader.h"
#include "train/stage.h"

cps_status cps_main_plugins(cps_plugins **plugins_out) {
    char *folder = NULL;
    CPS_TRY(cps_machine_plugin_folder(&folder));
    const cps_status status = cps_plugins_create(folder, cps_host_table(), plugins_out);
    free(folder);
    return status;
}

/* ---- rows ---- */

static const cps_option no_rows[] = {{.name = NULL}};

static cps_job_rows rows_of(const cps_objective *objective, const char *kind) {
    return (cps_job_rows){.kind = kind,
                          .rows = objective->options != NULL ? objective->options : no_rows,
                          .help = objective->help,
                          .fits = objective->fit_solve != NULL};
}

/* The engine's rows and one for each objective; kinds of objectives, from `engine` on, are ours. */
static void free_rows(cps_job_rows *rows, int64_t engine) {
    for (int64_t i = engine; rows != NULL && rows[i].kind != NULL; i++) {
        free((void *)(uintptr_t)rows[i].kind);
    }
    free(rows);
}

static cps_status collect_rows(const cps_plugins *plugins, cps_job_rows **rows_out,
                               int64_t *engine_out) {
    int64_t engine = 0;
    const cps_job_rows *engine_rows = cps_job_engine_rows(&engine);
    const int64_t count = cps_plugins_count(plugins);
    cps_job_rows *rows = calloc((size_t)(engine + count + 1), sizeof *rows);
    if (rows == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the options of %lld objectives",
                        (long long)count);
    }
    memcpy(rows, engine_rows, (size_t)engine * sizeof *rows);
    for (int64_t i = 0; i < count; i++) {
        const char *path = NULL;
        const cps_objective *objective = cps_plugins_at(plugins, i, &path);
        rows[engine + i] = rows_of(objective, cps_format("objective:%s", objective->name));
    }
    *rows_out = rows;
    *engine_out = engine;
    return CPS_OK;
}

/* copse.objective.load: `path` is absolute. */
static cps_status load_objective(void *context, const char *path, const char *name,
                                 cps_job_rows *rows_out) {
    cps_plugins *plugins = context;
    const cps_objective *objective = NULL;
    CPS_TRY(cps_plugins_load(plugins, path));
    CPS_TRY(cps_plugins_find(plugins, path, name, &objective));
    *rows_out = rows_of(objective, NULL);
    return CPS_OK;
}

/* ---- loading ---- */

static bool is_root(const cps_app *app) {
    return app->comm == NULL || cps_comm_rank(app->comm) == 0;
}

/* --set KEY=VALUE as pairs; keys are malloc'ed, values borrowed. */
static void free_sets(cps_job_set *sets, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)sets[i].key);
    }
    free(sets);
}

/* `texts`: count of KEY=VALUE, borrowed. */
static cps_status read_sets(const char *const *texts, int32_t count, cps_job_set **sets_out) {
    cps_job_set *sets = calloc((size_t)count + 1, sizeof *sets);
    if (sets == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %d settings", count);
    }
    for (int32_t i = 0; i < count; i++) {
        const char *equals = strchr(texts[i], '=');
        if (equals == NULL || equals == texts[i]) {
            free_sets(sets, i);
            return cps_fail(CPS_ERR_USAGE,
                            "--set is '%s': KEY=VALUE is wanted, as in --set fraction=0.1",
                            texts[i]);
        }
        sets[i].key = cps_format("%.*s", (int)(equals - texts[i]), texts[i]);
        sets[i].value = equals + 1;
    }
    *sets_out = sets;
    return CPS_OK;
}

/* What the Lua side is told of this program, owned. */
typedef struct own_setup {
    cps_job_setup setup;
    char *lua;
    cps_job_rows *rows;
    cps_job_set *sets;
    int64_t engine;
} own_setup;

static void close_setup(own_setup *own) {
    free_sets(own->sets, own->setup.set_count);
    free_rows(own->rows, own->engine);
    free(own->lua);
}

/* close_setup after this, whatever it returns. */
static cps_status open_setup(cps_plugins *plugins, const char *const *sets, int32_t set_count,
                             own_setup *own) {
    *own = (own_setup){.setup = {.load_objective = load_objective, .context = plugins}};
    CPS_TRY(cps_machine_lua_folder(&own->lua));
    CPS_TRY(collect_rows(plugins, &own->rows, &own->engine));
    CPS_TRY(read_sets(sets, set_count, &own->sets));
    own->setup.lua_folder = own->lua;
    own->setup.rows = own->rows;
    own->setup.sets = own->sets;
    own->setup.set_count = set_count;
    return CPS_OK;
}

/* Rank 0: runs the file. */
static cps_status run_file(const cps_app *app, const char *path, cps_main_job *out) {
    int32_t count = 0;
    while (cps_args_get_at(app->args, "set", count) != NULL) {
        count++;
    }
    const char **sets = calloc((size_t)count + 1, sizeof *sets);
    if (sets == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %d settings", count);
    }
    for (int32_t i = 0; i < count; i++) {
        sets[i] = cps_args_get_at(app->args, "set", i);
    }
    own_setup own;
    cps_status status = open_setup(out->plugins, sets, count, &own);
    if (status == CPS_OK) {
        status = cps_job_load(path, &own.setup, &out->job);
    }
    if (status == CPS_OK) {
        out->source = cps_job_source(out->job);
    }
    close_setup(&own);
    free(sets);
    return status;
}

/* ---- sweeps ---- */

enum { MOST_SETS = 256 };

cps_status cps_main_sweep_expand(const cps_json *request, cps_json **result_out) {
    const cps_json *given = cps_json_get(request, "set");
    const char *sets[MOST_SETS];
    int32_t count = 0;
    for (const cps_json *set = cps_json_first(given); set != NULL; set = cps_json_next(set)) {
        if (count == MOST_SETS || cps_json_string(set) == NULL) {
            return cps_fail(CPS_ERR_USAGE, "more than %d times --set", (int)MOST_SETS);
        }
        sets[count++] = cps_json_string(set);
    }
    cps_plugins *plugins = NULL;
    CPS_TRY(cps_main_plugins(&plugins));
    own_setup own;
    cps_status status = open_setup(plugins, sets, count, &own);
    if (status == CPS_OK) {
        status = cps_sweep_expand(cps_json_get_string(request, "path", ""), &own.setup, result_out);
    }
    close_setup(&own);
    cps_plugins_destroy(plugins);
    return status;
}

/* ---- on all ranks ---- */

/* Loads what copse.objective.load named, on every rank. */
static cps_status load_named_plugins(const cps_json *json, cps_plugins *plugins) {
    const cps_json *stages = cps_json_get(json, "stages");
    for (const cps_json *stage = cps_json_first(stages); stage != NULL;
         stage = cps_json_next(stage)) {
        for (const cps_json *objective = cps_json_first(cps_json_get(stage, "objectives"));
             objective != NULL; objective = cps_json_next(objective)) {
            const char *path = cps_json_get_string(objective, "plugin", NULL);
            if (path != NULL) {
                CPS_TRY(cps_plugins_load(plugins, path));
            }
        }
    }
    return CPS_OK;
}

/* Every rank gets rank 0's answer as a tree of its own. */
static cps_status share_json(cps_comm *comm, cps_main_job *out) {
    void *text = NULL;
    size_t length = 0;
    if (out->job != NULL) {
        text = cps_json_print(cps_job_json(out->job), false, true);
        length = strlen(text);
    }
    cps_comm_broadcast_alloc(comm, "the resolved job", &text, &length, 0);
    const cps_status status = cps_json_parse(text, length, "the resolved job", &out->json);
    free(text);
    return status;
}

cps_status cps_main_job_load(const cps_app *app, const char *path, cps_main_job *out) {
    *out = (cps_main_job){.job = NULL};
    cps_status status = cps_main_plugins(&out->plugins);
    if (status == CPS_OK && is_root(app)) {
        status = run_file(app, path, out);
    }
    status = cps_agree(app->comm, "loading the job", status);
    if (status == CPS_OK) {
        status = share_json(app->comm, out);
        if (status == CPS_OK) {
            status = load_named_plugins(out->json, out->plugins);
        }
        status = cps_agree(app->comm, "loading the job's plugins", status);
    }
    if (status != CPS_OK) {
        cps_main_job_free(out);
    }
    return status;
}

void cps_main_job_free(cps_main_job *job) {
    cps_job_destroy(job->job);
    cps_json_destroy(job->json);
    free(job->source);
    cps_plugins_destroy(job->plugins);
    *job = (cps_main_job){.job = NULL};
}
