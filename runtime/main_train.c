/* train, check, eval: a job, the machine, and then train/loop. */
#include "main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "job/job.h"
#include "tensor/gemm.h"
#include "train/loop.h"

const cps_flag cps_train_flags[] = {
    {"threads", 't', "T",
     "compute threads of each rank (default: SLURM_CPUS_PER_TASK, else its cores)"},
    {"run", 0, "NAME", "name of the run (default: the job's)"},
    {"runs", 0, "DIR", "folder of runs (default: runs)"},
    {"set", 's', "KEY=VALUE", "gives a parameter that the job declares with copse.arg; repeatable"},
    {"until", 0, "STEP", "stops there with a checkpoint, to be continued"},
    {"evaluate", 0, NULL,
     "with --until: makes the evaluations there; the run itself heeds them not"},
    {"fresh", 0, NULL, "moves an older run of this name aside and begins anew"},
    {"other-bits", 0, NULL, "goes on with another build or CPU family than the run began with"},
    {NULL, 0, NULL, NULL},
};
const cps_flag cps_check_flags[] = {
    {"ranks", 'n', "RANKS", "number of ranks to plan for (default: 1)"},
    {"threads", 't', "T", "compute threads of each rank"},
    {"runs", 0, "DIR", "folder of runs (default: runs)"},
    {"set", 's', "KEY=VALUE", "gives a parameter that the job declares with copse.arg; repeatable"},
    {"json", 0, NULL, "prints name, stages, steps and memory as JSON to standard output"},
    {NULL, 0, NULL, NULL},
};
const cps_flag cps_eval_flags[] = {
    {"threads", 't', "T",
     "compute threads of each rank (default: SLURM_CPUS_PER_TASK, else its cores)"},
    {"run", 0, "NAME", "name of the run that predictions go to (default: the job's)"},
    {"runs", 0, "DIR", "folder of runs (default: runs)"},
    {"set", 's', "KEY=VALUE", "gives a parameter that the job declares with copse.arg; repeatable"},
    {NULL, 0, NULL, NULL},
};

/* ---- what train/loop asks of the job ---- */

static cps_status call_stage(void *context, int64_t stage, int64_t total, cps_json **stage_out) {
    return cps_job_stage(context, stage, total, stage_out);
}

static cps_status call_on_evaluate(void *context, const cps_json *metrics, cps_json **state_inout,
                                   bool *stop_out) {
    return cps_job_on_evaluate(context, metrics, state_inout, stop_out);
}

/* Everything the three commands share. */
typedef struct session {
    cps_main_job job;
    cps_job_calls calls;
    cps_run_options options;
    char *command_line;
} session;

static void close_session(session *run) {
    cps_pool_stop();
    cps_main_job_free(&run->job);
    free(run->command_line);
}

/* Options of the command line; not collective. */
static cps_status read_options(const cps_app *app, cps_run_options *options) {
    options->until = -1;
    options->name = cps_args_get(app->args, "run");
    options->runs = cps_args_has(app->args, "runs") ? cps_args_get(app->args, "runs") : "runs";
    options->fresh = cps_args_has(app->args, "fresh");
    options->evaluate = cps_args_has(app->args, "evaluate");
    options->other_bits = cps_args_has(app->args, "other-bits");
    return cps_args_integer(app->args, "until", 0, INT64_MAX, &options->until);
}

/* Collective. */
static cps_status open_session(const cps_app *app, const char *path, session *run) {
    *run = (session){.calls = {.stage = call_stage, .on_evaluate = call_on_evaluate}};
    CPS_TRY(cps_agree(app->comm, "command line", read_options(app, &run->options)));
    CPS_TRY(cps_machine_threads(app->comm, app->args, &run->options.threads));
    CPS_TRY(cps_main_job_load(app, path, &run->job));
    run->calls.context = run->job.job;
    run->command_line = cps_main_command_line(app->argc, app->argv);
    run->options.command_line = run->command_line;
    run->options.job_source = run->job.source;
    cps_status status =
        cps_agree(app->comm, "starting threads", cps_pool_start(run->options.threads));
    if (status != CPS_OK) {
        close_session(run);
        return status;
    }
    cps_gemm_start();
    return CPS_OK;
}

cps_status cps_command_train(const cps_app *app) {
    session run;
    CPS_TRY(open_session(app, cps_args_at(app->args, 0), &run));
    const cps_status status =
        cps_train(app->comm, run.job.plugins, run.job.json, &run.calls, &run.options);
    close_session(&run);
    return status;
}

cps_status cps_command_check(const cps_app *app) {
    int64_t ranks = cps_comm_size(app->comm);
    CPS_TRY(cps_agree(app->comm, "command line",
                      cps_args_integer(app->args, "ranks", 1, 65536, &ranks)));
    session run;
    CPS_TRY(open_session(app, cps_args_at(app->args, 0), &run));
    cps_json *facts = cps_args_has(app->args, "json") ? cps_json_new_object() : NULL;
    const cps_status status = cps_check_job(app->comm, run.job.plugins, run.job.json, &run.calls,
                                            &run.options, (int32_t)ranks, facts);
    if (status == CPS_OK && facts != NULL && cps_comm_rank(app->comm) == 0) {
        char *text = cps_json_print(facts, false, false);
        puts(text);
        free(text);
    }
    cps_json_destroy(facts);
    close_session(&run);
    return status;
}

cps_status cps_command_eval(const cps_app *app) {
    session run;
    CPS_TRY(open_session(app, cps_args_at(app->args, 1), &run));
    const cps_status status = cps_evaluate_job(app->comm, run.job.plugins, run.job.json, &run.calls,
                                               cps_args_at(app->args, 0), &run.options);
    close_session(&run);
    return status;
}
