/* What the tests of jobs share: a folder of their own, rows of the engine and of made-up
 * objectives, loading a job from text. */
#ifndef CPS_TESTS_LUA_SUPPORT_H
#define CPS_TESTS_LUA_SUPPORT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "job/rows.h"
#include "model/model.h"

typedef struct fake_options {
    double a;
    cps_numbers momentum, types;
    cps_lines keywords;
    const char *stream, *tower;
} fake_options;

static const char *const fake_types[] = {"sci", "com", NULL};
static const cps_option clip_rows[] = {
    {.name = "logit_scale",
     .kind = CPS_OPT_NUMBER,
     .help = "a number",
     .default_text = "0.07",
     .minimum = 0,
     .maximum = 100},
    {.name = NULL},
};
static const cps_option words_rows[] = {
    {.name = "keywords",
     .kind = CPS_OPT_LINES,
     .help = "a file",
     .required = true,
     .offset = offsetof(fake_options, keywords)},
    {.name = "types",
     .kind = CPS_OPT_NUMBERS,
     .help = "shares",
     .default_text = "{ sci = 1, com = 2 }",
     .length = 2,
     .choices = fake_types,
     .offset = offsetof(fake_options, types)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .help = "a stream",
     .default_text = "paired",
     .offset = offsetof(fake_options, stream)},
    {.name = NULL},
};
static const cps_option dino_rows[] = {
    {.name = "tower",
     .kind = CPS_OPT_TOWER,
     .help = "a tower",
     .default_text = "image",
     .offset = offsetof(fake_options, tower)},
    {.name = "momentum",
     .kind = CPS_OPT_SCHEDULE,
     .help = "a schedule",
     .default_text = "0.996",
     .minimum = 0,
     .maximum = 1,
     .offset = offsetof(fake_options, momentum)},
    {.name = NULL},
};

static const cps_job_rows *test_rows(void) {
    static cps_job_rows rows[64];
    int64_t count = 0;
    const cps_job_rows *engine = cps_job_engine_rows(&count);
    for (int64_t i = 0; i < count; i++) {
        rows[i] = engine[i];
    }
    rows[count++] = (cps_job_rows){.kind = "objective:clip", .rows = clip_rows};
    rows[count++] = (cps_job_rows){.kind = "objective:sigmoid", .rows = clip_rows};
    rows[count++] = (cps_job_rows){.kind = "objective:words", .rows = words_rows};
    rows[count++] = (cps_job_rows){.kind = "objective:family.dino", .rows = dino_rows};
    rows[count++] =
        (cps_job_rows){.kind = "objective:family.align", .rows = dino_rows, .fits = true};
    rows[count] = (cps_job_rows){0};
    return rows;
}

static cps_status test_load_objective(void *context, const char *path, const char *name,
                                      cps_job_rows *rows_out) {
    (void)context;
    if (strcmp(name, "mine") != 0) {
        return cps_fail(CPS_ERR_DATA, "plugin '%s' has no objective '%s': it has mine", path, name);
    }
    *rows_out = (cps_job_rows){.kind = "mine", .rows = clip_rows};
    return CPS_OK;
}

/* A new folder under the system's folder of temporary files; the process works in it from now on.
 */
static char *test_folder(void) {
    static char folder[] = "/tmp/copse-job-XXXXXX";
    if (!mkdtemp(folder) || chdir(folder) != 0) {
        fprintf(stderr, "no folder for the test\n");
        exit(1);
    }
    return folder;
}

static void remove_test_folder(const char *folder) {
    char *command = cps_format("rm -rf '%s'", folder);
    if (chdir("/") != 0 || system(command) != 0) {
        fprintf(stderr, "'%s' stays\n", folder);
    }
    free(command);
}

/* lua/ of the tree in which the test was started, as an absolute path. */
static char *test_lua_folder(void) {
    char *path = realpath("lua", NULL);
    if (!path) {
        fprintf(stderr, "start this test at the top of the tree\n");
        exit(1);
    }
    return path;
}

static cps_status load_text_with(const cps_job_rows *rows, const char *lua_folder, const char *name,
                                 const char *text, const cps_job_set *sets, int64_t set_count,
                                 cps_job **job_out) {
    const cps_job_setup setup = {.lua_folder = lua_folder,
                                 .sets = sets,
                                 .set_count = set_count,
                                 .rows = rows,
                                 .load_objective = test_load_objective};
    CPS_TRY(cps_file_write_atomic(name, text, strlen(text)));
    return cps_job_load(name, &setup, job_out);
}

static inline cps_status expand_text(const char *lua_folder, const char *name, const char *text,
                                     const cps_job_set *sets, int64_t set_count,
                                     cps_json **sweep_out) {
    const cps_job_setup setup = {.lua_folder = lua_folder,
                                 .sets = sets,
                                 .set_count = set_count,
                                 .rows = test_rows(),
                                 .load_objective = test_load_objective};
    CPS_TRY(cps_file_write_atomic(name, text, strlen(text)));
    return cps_sweep_expand(name, &setup, sweep_out);
}

static cps_status load_text(const char *lua_folder, const char *name, const char *text,
                            const cps_job_set *sets, int64_t set_count, cps_job **job_out) {
    return load_text_with(test_rows(), lua_folder, name, text, sets, set_count, job_out);
}

#endif
