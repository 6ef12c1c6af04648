/* Commands whose work is in Lua, lua/copse/commands/NAME.lua: their arguments as a table, and the C
 * functions that they call. */
#include "main.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "job/driver.h"

enum { PATH_BYTES = 4096 };

static const cps_driver_service services[] = {
    {"events", cps_service_events},
    {"sweep.expand", cps_main_sweep_expand},
    {"comparison", cps_service_comparison},
    {"thumbnails", cps_service_thumbnails},
    {"mistakes", cps_service_mistakes},
    {"metric", cps_service_metric},
    {NULL, NULL},
};

const cps_flag cps_status_flags[] = {
    {"all", 'a', NULL, "also each run of a sweep, and runs that --fresh moved aside"},
    {"json", 0, NULL, "a list of objects, one a run"},
    {"csv", 0, NULL, "one line a run, with a header"},
    {"watch", 'w', "SECONDS", "again every so many seconds, until Ctrl-C"},
    {NULL, 0, NULL, NULL},
};

const cps_flag cps_submit_flags[] = {
    {"nodes", 'N', "NODES", "nodes (default: 1)"},
    {"ranks-per-node", 0, "RANKS", "ranks on each node (default: the site's, else 1)"},
    {"threads", 't', "T", "threads of each rank (default: the node's cores shared by its ranks)"},
    {"time", 0, "TIME", "time limit as Slurm takes it, 90, 12:00:00 or 2-00:00:00"},
    {"partition", 'p', "NAME", "partition (default: the site's, else Slurm's)"},
    {"account", 0, "NAME", "account (default: the site's)"},
    {"after", 0, "JOB", "waits until this job, or the job of this run, is done; repeatable"},
    {"sbatch", 0, "OPTION", "one more option for sbatch, --sbatch=--qos=long; repeatable"},
    {"site", 0, "FILE", "the site file (default: the first of the places that are documented)"},
    {"tries", 0, "N", "starts at most, over all requeues (default: 20)"},
    {"stall", 0, "SECONDS", "without a sign of life the run counts as hung (default: 1800)"},
    {"warn", 0, "SECONDS", "the signal comes so long before the time limit (default: 120)"},
    {"run", 0, "NAME", "name of the run (default: the job's)"},
    {"runs", 0, "DIR", "folder of runs (default: runs)"},
    {"set", 's', "KEY=VALUE", "gives a parameter that the job declares with copse.arg; repeatable"},
    {"dry-run", 0, NULL, "checks, prints the batch script, submits nothing"},
    {NULL, 0, NULL, NULL},
};
const cps_flag cps_cancel_flags[] = {
    {"now", 0, NULL, "at once, without a checkpoint"},
    {NULL, 0, NULL, NULL},
};
const cps_flag cps_doctor_flags[] = {
    {"slurm", 0, NULL, "looks at Slurm, too, and tries two ranks in a job"},
    {"site", 0, "FILE", "the site file (default: the first of the places that are documented)"},
    {"runs", 0, "DIR", "folder of runs, where files are tried (default: runs)"},
    {NULL, 0, NULL, NULL},
};

/* "flags": true, or the last value given; "all": every value given, for those that may be repeated.
 */
static void add_flags(const cps_args *args, const cps_flag *flags, cps_json *last, cps_json *all) {
    for (; flags != NULL && flags->name != NULL; flags++) {
        if (!cps_args_has(args, flags->name)) {
            continue;
        }
        if (flags->value == NULL) {
            cps_json_add_bool(last, flags->name, true);
            continue;
        }
        cps_json_add_string(last, flags->name, cps_args_get(args, flags->name));
        cps_json *list = cps_json_add_array(all, flags->name);
        const char *value;
        for (int32_t i = 0; (value = cps_args_get_at(args, flags->name, i)) != NULL; i++) {
            cps_json_add_string(list, NULL, value);
        }
    }
}

static cps_json *arguments_json(const cps_args *args) {
    const cps_command *command = cps_args_command(args);
    cps_json *json = cps_json_new_object();
    cps_json_add_string(json, "command", command->name);
    cps_json *operands = cps_json_add_array(json, "operands");
    for (int32_t i = 0; i < cps_args_count(args); i++) {
        cps_json_add_string(operands, NULL, cps_args_at(args, i));
    }
    cps_json *last = cps_json_add_object(json, "flags"), *all = cps_json_add_object(json, "all");
    add_flags(args, command->flags, last, all);
    add_flags(args, cps_common_flags, last, all);
    return json;
}

static void print(const char *text) {
    puts(text);
    fflush(stdout);
}

cps_status cps_command_driver(const cps_app *app) {
    char program[PATH_BYTES];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) {
        return cps_fail(CPS_ERR_IO, "the program cannot find its own file, /proc/self/exe");
    }
    program[length] = '\0';
    char *lua_folder = NULL;
    CPS_TRY(cps_machine_lua_folder(&lua_folder));
    cps_machine_forget_blas(); /* programs that a driver starts decide by themselves */
    const cps_driver driver = {.lua_folder = lua_folder,
                               .program = program,
                               .version = CPS_VERSION,
                               .cores = cps_machine_cores(),
                               .services = services,
                               .print = print};
    cps_json *arguments = arguments_json(app->args);
    const cps_status status = cps_driver_run(&driver, cps_args_command(app->args)->name, arguments);
    cps_json_destroy(arguments);
    free(lua_folder);
    return status;
}
