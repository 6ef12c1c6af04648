/* Job files: sandboxed Lua on rank 0 -> one table, checked as a whole -> canonical JSON that the
 * caller broadcasts. README.md beside this file is the schema of that JSON. Everything here is
 * Local and belongs to one thread of rank 0; the other ranks only see the JSON. Messages are USAGE:
 * one line for each mistake, "file:line: key path: what, wanted, hint". The Lua state lives as long
 * as the cps_job, because schedules and on_evaluate are functions in it. */
#ifndef CPS_JOB_JOB_H
#define CPS_JOB_JOB_H

#include "base/json.h"
#include "base/status.h"

typedef struct cps_job cps_job;

/* One --set KEY=VALUE of the command line: overrides a parameter that the job declares with
 * copse.arg. */
typedef struct cps_job_set {
    const char *key, *value;
} cps_job_set;

/* An option table that a constructor checks against. Kinds: "job", "checkpoint", "early_stop",
 * "stage", "model", "tower", "tokenizer", "shards", "mixture", "adamw", "sgd", "lars", "cosine",
 * "constant", "objective" (what every objective takes), "objective:NAME", and one for each
 * evaluation ("zero_shot", "retrieval", ...). A kind that is absent is "not built in this version".
 * The table ends with kind NULL; everything is borrowed during cps_job_load. */
typedef struct cps_job_rows {
    const char *kind;
    const cps_option *rows; /* ends with name NULL */
    const char *help;       /* one sentence, may be NULL */
    /* Evaluations: keys of the metrics, NULL-terminated; "{k}" stands for each value of the option
     * k, "{rank}" for each taxonomic rank, a final "*" for any ending. NULL for other kinds. */
    const char *const *metrics;
    bool fits; /* objectives: learns by `fit`, so a stage may go without epochs and steps */
} cps_job_rows;

typedef struct cps_job_setup {
    const char *lua_folder;  /* holds copse/init.lua */
    const cps_job_set *sets; /* [set_count] */
    int64_t set_count;
    const cps_job_rows *rows; /* what this build and its plugins offer */
    /* Option rows of objective `name` in the shared object `path` (absolute), for
     * copse.objective.load. NULL: loading is an error that says so. Rows stay valid until the job
     * is loaded. */
    cps_status (*load_objective)(void *context, const char *path, const char *name,
                                 cps_job_rows *rows_out);
    void *context;
} cps_job_setup;

/* Runs and checks a job file. USAGE for whatever is wrong with the job (all mistakes in one
 * message), UNAVAILABLE when the file or the Lua library cannot be read. Instructions and memory of
 * the job are capped. */
cps_status cps_job_load(const char *path, const cps_job_setup *setup,
                        cps_job **job_out) CPS_MUST_CHECK;
void cps_job_destroy(cps_job *job); /* NULL-safe */

/* Runs and checks a sweep's file and resolves the jobs of all trials and seeds (README.md: the
 * expanded sweep), each within the limits of a job. Fails as cps_job_load does; where a trial's job
 * is wrong, with the mistakes of the first such trial. The caller destroys *sweep_out. */
cps_status cps_sweep_expand(const char *path, const cps_job_setup *setup,
                            cps_json **sweep_out) CPS_MUST_CHECK;

/* The resolved job, defaults included. Borrowed until destroy. */
const cps_json *cps_job_json(const cps_job *job);
/* The resolved job as Lua text that gives equal JSON when loaded; functions as source text with
 * what they use. free() it. */
char *cps_job_source(const cps_job *job);

/* Values of a schedule function for steps 0 .. total-1 into values[total]. `function_key` is the
 * "function" of the JSON. USAGE if the function fails or gives something that is no finite number,
 * naming the step. */
cps_status cps_job_tabulate(cps_job *job, const char *function_key, int64_t total,
                            double *values) CPS_MUST_CHECK;
/* Copy of stage `stage` (from 0) with every schedule function replaced by its `total` values: what
 * the ranks get. The caller destroys it. */
cps_status cps_job_stage(cps_job *job, int64_t stage, int64_t total,
                         cps_json **stage_out) CPS_MUST_CHECK;

/* Calls on_evaluate(metrics, state), if the job has one. `metrics`: object of numbers by name.
 * *state_inout (NULL: empty) is replaced by what the function left in its state table; *stop_out:
 * the function returned true (end the stage). */
cps_status cps_job_on_evaluate(cps_job *job, const cps_json *metrics, cps_json **state_inout,
                               bool *stop_out) CPS_MUST_CHECK;

#endif
