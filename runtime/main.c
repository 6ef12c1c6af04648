/* copse: arguments -> command. The table of commands, MPI's start and end, the one exit path. */
#include "main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/options.h"
#include "comm/agree.h"
#include "shards/pack.h"
#include "shards/synth.h"
#include "train/loop.h"

#define LATER(command, sentence)                                                                   \
    { .name = command, .operands = "", .help = sentence, .most = -1 }

static const cps_command commands[] = {
    {"train", "JOB", "trains and evaluates what a job describes",
     "A run that was interrupted goes on where its last checkpoint stands; one that is complete "
     "says so.\n"
     "SIGUSR1, SIGTERM and Ctrl-C end it after the step with a checkpoint and exit code 85.",
     cps_train_flags, NULL, 1, 1, CPS_COMMAND_MPI | CPS_COMMAND_LAUNCH | CPS_COMMAND_SIGNALS,
     cps_command_train},
    {"check", "JOB", "says everything about a job that can be known before it runs",
     "Errors, steps per epoch, memory per rank, truncated captions, records left out.",
     cps_check_flags, NULL, 1, 1, CPS_COMMAND_MPI, cps_command_check},
    {"eval", "CHECKPOINT JOB", "runs the evaluations of a job on a checkpoint or weights file",
     NULL, cps_eval_flags, NULL, 2, 2, CPS_COMMAND_MPI | CPS_COMMAND_LAUNCH, cps_command_eval},
    {"pack", "OUT SOURCE...", "makes shards of images and captions",
     "SOURCE is a CSV or TSV file with a header, a folder with one folder per label, or a folder "
     "of\n"
     "name.jpg and name.txt. OUT is the path of the shards without their number: 'data/train' "
     "gives\n"
     "data/train-00000.h5 and so on, with --split data/train-train-00000.h5 and "
     "data/train-val-00000.h5;\n"
     "a folder, 'data/', gives data/train-00000.h5 and data/val-00000.h5. Bytes do not depend on "
     "the\n"
     "number of ranks. A training set free of test pictures and test species:\n"
     "  copse pack train/ all.csv --dedup --exclude 'test/*.h5' --hold-out rare-species.txt",
     cps_pack_flags, cps_pack_option_rows, 2, -1, CPS_COMMAND_MPI | CPS_COMMAND_LAUNCH,
     cps_command_pack},
    {"verify", "SHARD...", "reads every byte of shards and checks it", NULL, NULL, NULL, 1, -1, 0,
     cps_command_verify},
    {"inspect", "FILE...", "shows what is in a shard, a checkpoint or a safetensors file", NULL,
     cps_inspect_flags, NULL, 1, -1, 0, cps_command_inspect},
    {"synth", "OUT", "draws a data set of made-up plants as shards, for trials without downloads",
     NULL, cps_synth_flags, cps_synth_option_rows, 1, 1, CPS_COMMAND_MPI | CPS_COMMAND_LAUNCH,
     cps_command_synth},
    {"tokenizer train", "OUT SOURCE...", "learns a byte-pair tokenizer from texts",
     "SOURCE is a text file with one text a line, or a shard (its captions). OUT is a merges file.",
     cps_tokenizer_flags, NULL, 2, -1, 0, cps_command_tokenizer_train},
    {"import", "WEIGHTS OUT",
     "turns open_clip or Hugging Face CLIP weights into a Copse checkpoint",
     "WEIGHTS is a safetensors file, OUT a checkpoint (.h5) that 'eval', 'export' and a job's\n"
     "'weights' take. Says what was found, resampled and missing.",
     cps_import_flags, NULL, 2, 2, CPS_COMMAND_MPI, cps_command_import},
    {"export", "CHECKPOINT OUT", "writes a checkpoint as a safetensors file for other programs",
     NULL, cps_export_flags, NULL, 2, 2, 0, cps_command_export},
    {"objectives", "[NAME]", "lists the objectives there are, or the options of one", NULL,
     cps_objectives_flags, NULL, 0, 1, 0, cps_command_objectives},
    {"predict", "CHECKPOINT PICTURE|FOLDER...",
     "classifies pictures: by labels of your own, or by taxa of any rank",
     "CHECKPOINT is one of copse train or import, or plain weights with --preset. Classes come "
     "from "
     "--labels,\n"
     "--taxa, --classifier or --bins. Results are the same on any number of ranks and threads.",
     cps_predict_flags, cps_predict_option_rows, 0, -1,
     CPS_COMMAND_MPI | CPS_COMMAND_LAUNCH | CPS_COMMAND_STOPS, cps_command_predict},
    {"embed", "CHECKPOINT PICTURE|FOLDER...", "writes features of pictures", NULL, cps_embed_flags,
     NULL, 1, -1, CPS_COMMAND_MPI | CPS_COMMAND_LAUNCH | CPS_COMMAND_STOPS, cps_command_embed},
    {"sweep plan", "SWEEP",
     "shows the trials of a sweep, what they cost, and what is odd about them",
     "SWEEP is a file that returns copse.sweep { ... }. Nothing is trained or written.",
     cps_sweep_plan_flags, NULL, 1, 1, 0, cps_command_driver},
    {"sweep run", "SWEEP", "trains the trials of a sweep, and goes on where it stopped",
     "Any number of these may run at once, on hosts that share the folder: no run is done twice.\n"
     "SIGTERM and Ctrl-C end it with checkpoints and exit code 85. Exit code 1: some runs failed.",
     cps_sweep_run_flags, NULL, 1, 1, 0, cps_command_driver},
    {"sweep status", "SWEEP|FOLDER", "shows how the runs of a sweep stand", NULL,
     cps_sweep_status_flags, NULL, 1, 1, 0, cps_command_driver},
    {"sweep submit", "SWEEP", "trains the trials of a sweep as an array of Slurm jobs",
     "One run a task; the tasks share the sweep's ledger, so requeued or doubled tasks do nothing "
     "twice.",
     cps_sweep_submit_flags, NULL, 1, 1, 0, cps_command_driver},
    {"sweep results", "SWEEP|FOLDER", "shows what the trials gave; as CSV and JSON lines", NULL,
     cps_sweep_results_flags, NULL, 1, 1, 0, cps_command_driver},
    {"doctor", "",
     "looks whether this machine, or a node of a cluster, can train, and what to change",
     "One line a check: ok, change (works, but not well or not everywhere) or wrong. Exit code 69 "
     "when\n"
     "something is wrong. On a node of a cluster: srun copse doctor; --slurm looks at Slurm, too.",
     cps_doctor_flags, NULL, 0, 0, 0, cps_command_driver},
    {"submit", "JOB", "checks a job fully and submits it to Slurm",
     "Writes RUNS/NAME/batch.sh, submits it, and says where to look. The script goes on from the "
     "last\n"
     "checkpoint after a time limit, a lost node or a crash, and ends with a reason where that "
     "gives nothing.\n"
     "A site file (copse-site.lua beside the job, ~/.config/copse/site.lua, ...) says how the "
     "cluster\n"
     "wants it; lua/copse/commands/README.md describes all of it.",
     cps_submit_flags, NULL, 1, 1, 0, cps_command_driver},
    {"status", "[DIR|RUN]...", "shows how runs stand: here, elsewhere and on Slurm",
     "DIR is a folder of runs (default: runs) or of a sweep. States come from files alone, and "
     "from "
     "squeue where\n"
     "runs were submitted. Runs of a folder below DIR, such as a sweep, take one line; --all shows "
     "each.",
     cps_status_flags, NULL, 0, -1, 0, cps_command_driver},
    {"cancel", "RUN...", "ends runs with a checkpoint: on Slurm, or of this host",
     "RUN is the folder of a run, a name in 'runs', or a folder with runs in it.", cps_cancel_flags,
     NULL, 1, -1, 0, cps_command_driver},
    {"compare", "RUN|SWEEP...", "compares methods head to head, from the predictions of their runs",
     cps_compare_help, cps_compare_flags, NULL, 1, -1, 0, cps_command_driver},
    {"report", "RUN|DIR...", "makes a page of a run, a comparison or a sweep, for a browser",
     "RUN is the folder of a run, or its name in runs; DIR one that 'copse compare' wrote, or a "
     "sweep's. The page is\n"
     "one file that needs no network and no other file.",
     cps_report_flags, NULL, 1, -1, 0, cps_command_driver},
    LATER("bench", "measures rates"),
    LATER("plan", "predicts rates for other machines"),
    {.name = NULL},
};

/* ---- help ---- */

static void print_flags(const cps_flag *flags) {
    for (; flags != NULL && flags->name != NULL; flags++) {
        char text[64];
        snprintf(text, sizeof text, "--%s%s%s", flags->name, flags->value != NULL ? " " : "",
                 flags->value != NULL ? flags->value : "");
        if (flags->letter != 0) {
            printf("  -%c, %-24s %s\n", flags->letter, text, flags->help);
        } else {
            printf("      %-24s %s\n", text, flags->help);
        }
    }
}

static void print_command_help(const cps_command *command) {
    printf("copse %s %s [OPTION]...\n%s%s\n", command->name, command->operands, command->help,
           command->run == NULL ? " (not built in this version)" : "");
    if (command->more != NULL) {
        printf("\n%s\n", command->more);
    }
    puts("\nOptions:");
    print_flags(command->flags);
    cps_flag *row_flags = cps_flags_of_rows(command->rows);
    print_flags(row_flags);
    cps_flags_destroy(row_flags);
    print_flags((command->kind & CPS_COMMAND_LAUNCH) != 0 ? cps_ranks_flags : NULL);
    print_flags(cps_common_flags);
}

static void print_help(FILE *file) {
    fputs("copse COMMAND ...: trains and compares domain-specific CLIP models on CPUs\n\n", file);
    for (const cps_command *command = commands; command->name != NULL; command++) {
        if (command->run != NULL) {
            fprintf(file, "  %-16s %-16s %s\n", command->name, command->operands, command->help);
        }
    }
    fputs("\nNot built in this version:", file);
    for (const cps_command *command = commands; command->name != NULL; command++) {
        if (command->run == NULL) {
            fprintf(file, " %s", command->name);
        }
    }
    fputs("\n'copse COMMAND --help' shows the options of a command, 'copse help stage' those of "
          "copse.stage in a job,\n"
          "'copse help options' those of all constructors. Exit codes: 0 done, 1 the run "
          "ended for a stated\n"
          "reason, 64 wrong use or job error, 65 bad data, 69 something needed is missing, 70 "
          "internal error,\n"
          "74 I/O error, 85 checkpointed after a signal, to be continued.\n",
          file);
}

/* ---- which command ---- */

/* The command that argv[1] (and argv[2]) name; *first_out: where its arguments begin. */
static const cps_command *find_command(int argc, char **argv, int at, int *first_out) {
    for (const cps_command *command = commands; command->name != NULL; command++) {
        const char *blank = strchr(command->name, ' ');
        const size_t length =
            blank != NULL ? (size_t)(blank - command->name) : strlen(command->name);
        if (strlen(argv[at]) != length || strncmp(argv[at], command->name, length) != 0) {
            continue;
        }
        if (blank == NULL) {
            *first_out = at + 1;
            return command;
        }
        if (at + 1 < argc && strcmp(argv[at + 1], blank + 1) == 0) {
            *first_out = at + 2;
            return command;
        }
    }
    return NULL;
}

/* The first word of commands of two is known, the second is not. */
static cps_status unknown_second_word(int argc, char **argv, int at) {
    char *list = NULL;
    for (const cps_command *command = commands; command->name != NULL; command++) {
        const size_t length = strlen(argv[at]);
        if (strncmp(command->name, argv[at], length) == 0 && command->name[length] == ' ') {
            char *longer = list == NULL ? cps_format("'copse %s'", command->name)
                                        : cps_format("%s, 'copse %s'", list, command->name);
            free(list);
            list = longer;
        }
    }
    if (list == NULL) {
        return CPS_OK;
    }
    const bool has_second = at + 1 < argc;
    const cps_status status =
        cps_fail(CPS_ERR_USAGE, "'copse %s%s%s' is no command; there is %s", argv[at],
                 has_second ? " " : "", has_second ? argv[at + 1] : "", list);
    free(list);
    return status;
}

static cps_status unknown_command(int argc, char **argv, int at) {
    CPS_TRY(unknown_second_word(argc, argv, at));
    const char *names[sizeof commands / sizeof commands[0] + 1];
    size_t count = 0;
    for (const cps_command *command = commands; command->name != NULL; command++) {
        names[count++] = command->name;
    }
    names[count] = "help";
    names[count + 1] = NULL;
    const char *near = cps_nearest_name(argv[at], names);
    if (near != NULL) {
        return cps_fail(CPS_ERR_USAGE,
                        "'%s' is no command of copse (did you mean '%s'?); 'copse help' lists them",
                        argv[at], near);
    }
    return cps_fail(CPS_ERR_USAGE, "'%s' is no command of copse; 'copse help' lists them",
                    argv[at]);
}

static cps_status help(int argc, char **argv) {
    if (argc < 3) {
        print_help(stdout);
        return CPS_OK;
    }
    int first = 0;
    const cps_command *command = find_command(argc, argv, 2, &first);
    if (command != NULL) {
        print_command_help(command);
        return CPS_OK;
    }
    const bool plain = argc > 3 && strcmp(argv[3], "--plain") == 0;
    return cps_main_help_rows(argv[2], plain) == CPS_OK ? CPS_OK : unknown_command(argc, argv, 2);
}

/* ---- start and end ---- */

static void set_up_log(const cps_args *args, int32_t rank) {
    const bool verbose = cps_args_has(args, "verbose");
    const cps_log_level level = verbose                       ? CPS_LOG_DEBUG
                                : cps_args_has(args, "quiet") ? CPS_LOG_WARN
                                                              : CPS_LOG_INFO;
    cps_log_setup(level, rank, verbose);
}

/* A command of all ranks: MPI from here to its end. Rank 0 says what the failing rank said. */
static int run_collective(const cps_command *command, cps_app *app) {
    cps_machine_prepare_blas(app->argv);
    if ((command->kind & (CPS_COMMAND_SIGNALS | CPS_COMMAND_STOPS)) != 0) {
        cps_signals_install();
    }
    cps_launched_terminal();
    cps_status status = cps_comm_start(&app->argc, &app->argv, &app->comm);
    if (status != CPS_OK) {
        cps_log(CPS_LOG_ERROR, "%s", cps_fail_message());
        return cps_exit_code(status);
    }
    set_up_log(app->args, cps_comm_rank(app->comm));
    status = cps_agree(app->comm, "end of the command", command->run(app));
    if (status != CPS_OK) {
        cps_log_live("");
        const cps_status code = cps_agreed_code(app->comm);
        cps_log(code == CPS_ERR_SIGNAL ? CPS_LOG_INFO : CPS_LOG_ERROR, "%s", cps_fail_message());
        status = code;
    }
    cps_comm_end(app->comm);
    return cps_exit_code(status);
}

/* A command of one process. Under a launcher the first rank does it, the others have nothing to do.
 */
static int run_alone(const cps_command *command, const cps_app *app) {
    if (cps_launched_rank() > 0) {
        return 0;
    }
    cps_machine_prepare_blas(app->argv);
    set_up_log(app->args, 0);
    const cps_status status = command->run(app);
    cps_log_live("");
    if (status != CPS_OK && cps_fail_message()[0] != '\0') { /* else it has said all itself */
        cps_log(status == CPS_ERR_SIGNAL ? CPS_LOG_INFO : CPS_LOG_ERROR, "%s", cps_fail_message());
    }
    return cps_exit_code(status);
}

static cps_status run_command(const cps_command *command, int argc, char **argv, int first,
                              int *code_out) {
    if (command->run == NULL && !(argc > first && strcmp(argv[first], "--help") == 0)) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "'copse %s' is not built in this version (%s); 'copse help' lists what is",
                        command->name, CPS_VERSION);
    }
    cps_args *args = NULL;
    CPS_TRY(cps_args_parse(command, argc, argv, first, &args));
    int64_t ranks = 1;
    cps_status status = CPS_OK;
    *code_out = 0;
    const bool collective = (command->kind & CPS_COMMAND_MPI) != 0;
    if (cps_args_has(args, "help")) {
        print_command_help(command);
        goto done;
    }
    if ((command->kind & CPS_COMMAND_LAUNCH) != 0) {
        status = cps_args_integer(args, "ranks", 1, 65536, &ranks);
        if (status != CPS_OK) {
            goto done;
        }
    }
    if (ranks > 1) {
        set_up_log(args, 0);
        status = cps_launch(command, args, (int32_t)ranks, code_out);
    } else {
        cps_app app = {.args = args, .argc = argc, .argv = argv};
        *code_out = collective ? run_collective(command, &app) : run_alone(command, &app);
    }
done:
    cps_args_destroy(args);
    return status;
}

int main(int argc, char **argv) {
    /* Errors before MPI are alike on all ranks: the first one says them. */
    cps_log_setup(CPS_LOG_INFO, cps_launched_rank() > 0 ? 1 : 0, false);
    if (argc < 2) {
        print_help(stderr);
        return CPS_ERR_USAGE;
    }
    int first = 0, code = 0;
    cps_status status = CPS_OK;
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0) {
        status = help(argc, argv);
    } else if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("copse %s (%s)\n", CPS_VERSION,
               sizeof(cps_real) == sizeof(double) ? "double" : "float");
    } else {
        const cps_command *command = find_command(argc, argv, 1, &first);
        status = command != NULL ? run_command(command, argc, argv, first, &code)
                                 : unknown_command(argc, argv, 1);
    }
    if (status != CPS_OK) {
        cps_log(CPS_LOG_ERROR, "%s", cps_fail_message());
        code = cps_exit_code(status);
    }
    return code;
}
