/* The program: what its files share. main.c holds the table of commands, the start and the one exit
 * path; main_arguments reads the command line; main_launch starts mpirun; main_machine says what
 * this machine offers (BLAS family, cores, our own folders); main_job loads a job for all ranks;
 * the commands themselves are in main_train, main_data, main_shards, main_model, main_predict (with
 * main_classes) and main_embed; main_driver runs those that are written in Lua. */
#ifndef CPS_MAIN_H
#define CPS_MAIN_H

#include "base/arena.h"
#include "base/json.h"
#include "comm/comm.h"

/* ---- command line ---- */

/* An option of a command. */
typedef struct cps_flag {
    const char *name;  /* without "--"; ends the table with NULL */
    char letter;       /* "-n", or 0 */
    const char *value; /* what stands for the value in help; NULL: takes none */
    const char *help;
} cps_flag;

typedef struct cps_args cps_args;

/* What every command may use. */
typedef struct cps_app {
    const cps_args *args;
    cps_comm *comm; /* NULL unless the command is collective */
    int argc;
    char **argv;
} cps_app;

enum {
    CPS_COMMAND_MPI = 1,     /* collective: starts MPI */
    CPS_COMMAND_LAUNCH = 2,  /* takes -n and runs itself under mpirun */
    CPS_COMMAND_SIGNALS = 4, /* SIGINT and SIGTERM end it with a checkpoint */
    CPS_COMMAND_STOPS = 8    /* they end it between two batches, with a word about it */
};

typedef struct cps_command {
    const char *name;       /* "train", "tokenizer train"; ends the table with NULL */
    const char *operands;   /* "JOB" */
    const char *help;       /* one sentence */
    const char *more;       /* further lines of --help, or NULL */
    const cps_flag *flags;  /* its own, ends with a NULL name */
    const cps_option *rows; /* options that fill a struct: shard_images is --shard-images N */
    int32_t least, most;    /* operands; most -1: any number */
    uint32_t kind;          /* CPS_COMMAND_... */
    cps_status (*run)(const cps_app *app); /* NULL: not built in this version */
} cps_command;

/* Options of every command, and of collective ones. */
extern const cps_flag cps_common_flags[], cps_ranks_flags[];

/* Reads argv[first ..] for `command`. USAGE with the nearest name. */
cps_status cps_args_parse(const cps_command *command, int argc, char **argv, int first,
                          cps_args **args_out) CPS_MUST_CHECK;
void cps_args_destroy(cps_args *args);                     /* NULL-safe */
const cps_command *cps_args_command(const cps_args *args); /* that they were read for */
/* Flags that stand for the rows of a command; ends with a NULL name. free() with cps_flags_destroy.
 */
cps_flag *cps_flags_of_rows(const cps_option *rows);
void cps_flags_destroy(cps_flag *flags); /* NULL-safe */
int32_t cps_args_count(const cps_args *args);
const char *cps_args_at(const cps_args *args, int32_t index); /* operand; NULL past the last */
bool cps_args_has(const cps_args *args, const char *flag);
const char *cps_args_get(const cps_args *args, const char *flag); /* the last given, or NULL */
/* The index-th value of an option that may be repeated; NULL past the last. */
const char *cps_args_get_at(const cps_args *args, const char *flag, int32_t index);
/* Numbers, with the limits in the message. `out` keeps its value where the option is not given. */
cps_status cps_args_integer(const cps_args *args, const char *flag, int64_t least, int64_t most,
                            int64_t *out) CPS_MUST_CHECK;
/* Index of the value among `names` (NULL-terminated). */
cps_status cps_args_choice(const cps_args *args, const char *flag, const char *const *names,
                           int32_t *out) CPS_MUST_CHECK;
/* Fills `out` by the rows of the command, defaults included; strings go into `arena`. */
cps_status cps_args_fill(const cps_args *args, cps_arena *arena, void *out) CPS_MUST_CHECK;
/* The command as it was typed, quoted where a shell would need it; malloc'ed. */
char *cps_main_command_line(int argc, char **argv);
/* argv without -n: NULL-terminated, strings borrowed from argv. */
char **cps_args_without_ranks(const cps_args *args);

/* ---- launch ---- */

/* Number of the process in a run that a launcher started (mpirun, srun); -1 outside of one. */
int32_t cps_launched_rank(void);
int32_t cps_launched_size(void); /* 1 outside */
/* Runs this program on `ranks` ranks of mpirun and waits. *code_out: the exit code. */
cps_status cps_launch(const cps_command *command, const cps_args *args, int32_t ranks,
                      int *code_out) CPS_MUST_CHECK;
/* On rank 0 of a run that cps_launch started from a terminal of this host: messages go there
 * directly, so that the live line works. */
void cps_launched_terminal(void);

/* ---- machine ---- */

/* Sets what OpenBLAS reads when it is loaded (the widest kernel family of this CPU, one thread a
 * call), unless the user did, and executes the program again for it. Returns when there is nothing
 * to do or it cannot be done. Before MPI and any thread. */
void cps_machine_prepare_blas(char **argv);
/* Takes out of the environment what cps_machine_prepare_blas put there: each rank of a launch
 * decides by its own CPU. */
void cps_machine_forget_blas(void);
/* Cores that this process may run on (hardware threads of one core count once). */
int32_t cps_machine_cores(void);
/* Collective. Compute threads of this rank: --threads, else SLURM_CPUS_PER_TASK, else its cores,
 * shared with the ranks of this host that may run on the same. */
cps_status cps_machine_threads(cps_comm *comm, const cps_args *args,
                               int32_t *threads_out) CPS_MUST_CHECK;
/* Folders of the Lua library and of the plugins: $COPSE_HOME/lua and /plugins, else beside the
 * program (build/lua, build/float/plugins), else where `make install` puts them. malloc'ed.
 * UNAVAILABLE with the places that were tried. */
cps_status cps_machine_lua_folder(char **folder_out) CPS_MUST_CHECK;
cps_status cps_machine_plugin_folder(char **folder_out) CPS_MUST_CHECK;

/* ---- files ---- */

typedef enum cps_main_file { CPS_FILE_HDF5, CPS_FILE_SAFETENSORS, CPS_FILE_OTHER } cps_main_file;
/* By the first bytes, never by a name. Says why a file cannot be read. */
cps_status cps_main_sniff(const char *path, cps_main_file *kind_out) CPS_MUST_CHECK;

/* ---- commands ---- */
/* Plugins: a loaded job's option rows come from here. */
typedef struct cps_plugins cps_plugins;
/* Loads every plugin of ours. */
cps_status cps_main_plugins(cps_plugins **plugins_out) CPS_MUST_CHECK;

/* Prints the option tables of constructor `name`, or of all for "options"; plain: one row a line
 * for scripts. USAGE, with nothing on record, when there is no such constructor. */
cps_status cps_main_help_rows(const char *name, bool plain) CPS_MUST_CHECK;

/* A job on all ranks. `job` (the Lua side) exists on rank 0 alone. */
typedef struct cps_main_job {
    struct cps_job *job;
    struct cJSON *json; /* the resolved job */
    char *source;       /* as Lua text; NULL on other ranks */
    cps_plugins *plugins;
} cps_main_job;
/* Collective. Rank 0 runs and checks the file, its answer is agreed and reaches all. Plugins that
 * the job names are loaded everywhere. */
cps_status cps_main_job_load(const cps_app *app, const char *path,
                             cps_main_job *out) CPS_MUST_CHECK;
void cps_main_job_free(cps_main_job *job);
/* Service "metric": { name } -> { falls }: less of it is better. */
cps_status cps_service_metric(const struct cJSON *request,
                              struct cJSON **result_out) CPS_MUST_CHECK;
/* Service "sweep.expand": { path, set = list of KEY=VALUE } -> the expanded sweep (job/job.h). */
cps_status cps_main_sweep_expand(const struct cJSON *request,
                                 struct cJSON **result_out) CPS_MUST_CHECK;

/* A model from a checkpoint, or from weights whose sizes --preset or the file beside them tells. */
typedef struct cps_main_model {
    const char *path; /* borrowed */
    struct cps_model *model;
    struct cJSON *identity; /* of a checkpoint; else NULL */
    int64_t strangers; /* rank 0: parameters of the checkpoint that no tower has; `stranger`: one */
    char *stranger;
} cps_main_model;
/* Collective. All parameters of its towers, logit_scale and logit_bias where the file has them. */
cps_status cps_main_model_open(const cps_app *app, const char *path,
                               cps_main_model *model_out) CPS_MUST_CHECK;
void cps_main_model_close(cps_main_model *model); /* safe on a zeroed one */

cps_status cps_command_train(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_check(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_eval(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_pack(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_verify(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_inspect(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_synth(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_tokenizer_train(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_import(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_export(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_objectives(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_predict(const cps_app *app) CPS_MUST_CHECK;
cps_status cps_command_embed(const cps_app *app) CPS_MUST_CHECK;
/* Any command that is a module of lua/copse/commands. */
cps_status cps_command_driver(const cps_app *app) CPS_MUST_CHECK;
extern const cps_flag cps_compare_flags[]; /* main_compare.c */
extern const char cps_compare_help[];
cps_status cps_service_comparison(const cps_json *request, cps_json **result_out) CPS_MUST_CHECK;
extern const cps_flag cps_report_flags[]; /* main_report.c */
cps_status cps_service_thumbnails(const cps_json *request, cps_json **result_out) CPS_MUST_CHECK;
cps_status cps_service_mistakes(const cps_json *request, cps_json **result_out) CPS_MUST_CHECK;
/* Services of drivers (job/driver.h). main_events.c */
cps_status cps_service_events(const cps_json *request, cps_json **result_out) CPS_MUST_CHECK;
extern const cps_flag cps_train_flags[], cps_check_flags[], cps_eval_flags[], cps_inspect_flags[],
    cps_pack_flags[], cps_synth_flags[], cps_tokenizer_flags[], cps_import_flags[],
    cps_export_flags[], cps_objectives_flags[], cps_predict_flags[], cps_embed_flags[],
    cps_status_flags[], cps_submit_flags[], cps_cancel_flags[], cps_doctor_flags[];
extern const cps_flag cps_sweep_plan_flags[], cps_sweep_run_flags[], cps_sweep_status_flags[],
    cps_sweep_results_flags[], cps_sweep_submit_flags[];
extern const cps_option cps_predict_option_rows[];

#endif
