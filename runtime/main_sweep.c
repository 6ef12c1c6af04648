/* copse sweep: options of its commands, and which way a metric is better. The work is
 * lua/copse/commands/sweep.lua. */
#include "main.h"

#include "eval/config.h"

cps_status cps_service_metric(const cps_json *request, cps_json **result_out) {
    *result_out = cps_json_new_object();
    cps_json_add_bool(*result_out, "falls",
                      cps_metric_less_is_better(cps_json_get_string(request, "name", "")));
    return CPS_OK;
}

#define SET                                                                                        \
    {                                                                                              \
        "set", 's', "KEY=VALUE",                                                                   \
            "gives a parameter that the file declares with copse.arg; repeatable"                  \
    }
#define RUNS                                                                                       \
    { "runs", 0, "DIR", "folder of runs (default: runs)" }
#define ONLY                                                                                       \
    { "only", 0, "I,J", "trials with these numbers alone; a range is 3-7" }
#define END                                                                                        \
    { NULL, 0, NULL, NULL }

const cps_flag cps_sweep_plan_flags[] = {
    RUNS, SET, {"check", 0, "N", "how many jobs are opened and costed (default: 3; 0: none)"}, END};

const cps_flag cps_sweep_run_flags[] = {
    {"jobs", 'j', "K", "trials at once (default: 1)"},
    {"ranks", 'n', "RANKS", "ranks of each (default: 1)"},
    {"threads", 't', "T", "compute threads of each rank (default: the cores, shared)"},
    RUNS,
    SET,
    ONLY,
    {"retries", 0, "N", "how often a run that broke is tried again (default: 2)"},
    {"again", 0, NULL, "tries again what failed before"},
    {"task", 0, "I", "does one run, the one at place I where it is free (for arrays)"},
    {"lost", 0, "SECONDS",
     "a claim without a sign of life for so long is taken over (default: 120)"},
    END};

const cps_flag cps_sweep_status_flags[] = {RUNS, SET, END};

const cps_flag cps_sweep_results_flags[] = {
    RUNS,
    SET,
    {"csv", 0, "FILE", "writes a row for each trial, seed and evaluation"},
    {"json", 0, "FILE", "the same as JSON lines"},
    {"all", 0, NULL, "every evaluation of a run, not the last of each name alone"},
    {"metric", 0, "NAME", "what the table is sorted by, <evaluation>.<key>"},
    {"importance", 0, NULL, "how much of the metric's spread each parameter explains"},
    END};

/* As copse submit, for each task of an array. */
const cps_flag cps_sweep_submit_flags[] = {
    {"at-once", 'j', "K", "tasks at once (default: as many as Slurm starts)"},
    {"nodes", 'N', "NODES", "nodes of a task (default: 1)"},
    {"ranks-per-node", 0, "RANKS", "ranks on each node (default: the site's, else 1)"},
    {"threads", 't', "T", "threads of each rank (default: the node's cores shared by its ranks)"},
    {"time", 0, "TIME", "time limit of a task as Slurm takes it, 90, 12:00:00 or 2-00:00:00"},
    {"partition", 'p', "NAME", "partition (default: the site's, else Slurm's)"},
    {"account", 0, "NAME", "account (default: the site's)"},
    {"after", 0, "JOB", "waits until this job, or the job of this run, is done; repeatable"},
    {"sbatch", 0, "OPTION", "one more option for sbatch, --sbatch=--qos=long; repeatable"},
    {"site", 0, "FILE", "the site file (default: the first of the places that are documented)"},
    {"warn", 0, "SECONDS", "the signal comes so long before the time limit (default: 120)"},
    RUNS,
    SET,
    ONLY,
    {"retries", 0, "N", "how often a run that broke is tried again (default: 2)"},
    {"lost", 0, "SECONDS",
     "a claim without a sign of life for so long is taken over (default: 120)"},
    {"dry-run", 0, NULL, "checks, prints the batch script, submits nothing"},
    END};
