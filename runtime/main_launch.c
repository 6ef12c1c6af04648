/* `-n RANKS`: runs the program again under mpirun, passes signals on and turns mpirun's exit status
 * into ours. mpirun kills its ranks a second after SIGTERM, too soon for a checkpoint; it passes
 * SIGUSR1 on, which the ranks take as "checkpoint and end". So SIGINT and SIGTERM go on as SIGUSR1.
 * What mpirun says about ranks that ended is put into a sentence of ours; the rest of its stderr
 * passes through. */
#include "main.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

enum { PATH_BYTES = 4096, MPIRUN_WORDS = 16, LINE_BYTES = 4096, BLOCK_BYTES = 8192 };
#define TERMINAL "COPSE_TERMINAL"
#define TERMINAL_HOST "COPSE_TERMINAL_HOST"

static int32_t number_of(const char *variable, int32_t fallback) {
    const char *text = getenv(variable);
    return text != NULL && text[0] != '\0' ? (int32_t)strtol(text, NULL, 10) : fallback;
}

int32_t cps_launched_rank(void) {
    return number_of("OMPI_COMM_WORLD_RANK", number_of("PMIX_RANK", -1));
}

int32_t cps_launched_size(void) {
    if (getenv("OMPI_COMM_WORLD_SIZE") != NULL) {
        return number_of("OMPI_COMM_WORLD_SIZE", 1);
    }
    return getenv("PMIX_RANK") != NULL ? number_of("SLURM_NTASKS", 1) : 1;
}

/* ---- terminal ---- */

static void host_name(char name[256]) {
    if (gethostname(name, 255) != 0) {
        name[0] = '\0';
    }
    name[255] = '\0';
}

static void lend_terminal(void) {
    char host[256];
    host_name(host);
    const char *terminal = ttyname(STDERR_FILENO);
    if (terminal != NULL) {
        setenv(TERMINAL, terminal, 1);
        setenv(TERMINAL_HOST, host, 1);
    }
}

void cps_launched_terminal(void) {
    const char *terminal = getenv(TERMINAL), *host = getenv(TERMINAL_HOST);
    char own[256];
    host_name(own);
    if (terminal == NULL || host == NULL || strcmp(host, own) != 0 || cps_launched_rank() != 0) {
        return;
    }
    const int file = open(terminal, O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (file >= 0) {
        dup2(file, STDERR_FILENO);
        close(file);
    }
}

/* ---- mpirun ---- */

/* More ranks than mpirun has places for: in a Slurm allocation its tasks, else cores. */
static bool is_crowded(int32_t ranks) {
    const int32_t tasks = number_of("SLURM_NTASKS", 0);
    return ranks > (tasks > 0 ? tasks : cps_machine_cores());
}

static _Noreturn void become_mpirun(const char **words, int messages) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0); /* Ctrl-C reaches us alone, not mpirun, which would kill the ranks */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    const int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0) {
        dup2(nothing, STDIN_FILENO);
    }
    dup2(messages, STDERR_FILENO);
    execvp(words[0], (char *const *)words);
    _exit(127);
}

/* mpirun, its options, this program, its arguments; free() the array. */
static const char **mpirun_words(const cps_args *args, int32_t ranks, char count[16],
                                 const char *program) {
    char **own = cps_args_without_ranks(args);
    size_t length = 0;
    while (own[length] != NULL) {
        length++;
    }
    const char **words = calloc(length + MPIRUN_WORDS, sizeof *words);
    if (words == NULL) {
        return NULL;
    }
    snprintf(count, 16, "%d", ranks);
    size_t n = 0;
    words[n++] = "mpirun";
    words[n++] = "-np";
    words[n++] = count;
    words[n++] = "--bind-to";
    words[n++] = "none";
    if (is_crowded(ranks)) {
        words[n++] = "--oversubscribe";
        words[n++] = "--mca";
        words[n++] = "mpi_yield_when_idle";
        words[n++] = "1";
    }
    words[n++] = program;
    for (size_t i = 1; i < length; i++) {
        words[n++] = own[i];
    }
    return words;
}

/* ---- what mpirun says ---- */

/* mpirun's own messages stand between two lines of dashes. One names the rank that a signal ended;
 * one says that a rank exited with a code, which rank 0 has explained by then. */
typedef struct listener {
    char line[LINE_BYTES], block[BLOCK_BYTES];
    size_t line_length, block_length;
    bool inside;
    int rank; /* ended by a signal; -1: none named */
    char host[256];
} listener;

static void pass_on(const char *text, size_t length) {
    while (length > 0) {
        const ssize_t written = write(STDERR_FILENO, text, length);
        if (written <= 0) {
            return;
        }
        text += written;
        length -= (size_t)written;
    }
}

static bool is_rule(const char *line, size_t length) {
    return length > 70 && strspn(line, "-") >= length - 1;
}

/* Lines of mpirun outside of its blocks that tell a user nothing. */
static bool is_chatter(const char *line, size_t length) {
    static const char *const chatter[] = {"mpirun: Forwarding signal",
                                          "has sent help message help-mpi-api.txt",
                                          "Set MCA parameter \"orte_base_help_aggregate\""};
    for (size_t i = 0; i < sizeof chatter / sizeof chatter[0]; i++) {
        if (memmem(line, length, chatter[i], strlen(chatter[i])) != NULL) {
            return true;
        }
    }
    return false;
}

static void end_block(listener *heard) {
    heard->inside = false;
    heard->block[heard->block_length] = '\0';
    const char *culprit = strstr(heard->block, "process rank ");
    int rank = -1;
    char host[256];
    if (culprit != NULL && strstr(culprit, "exited on signal") != NULL &&
        sscanf(culprit, "process rank %d with PID %*d on node %255s", &rank, host) == 2) {
        heard->rank = rank;
        snprintf(heard->host, sizeof heard->host, "%s", host);
    } else if (strstr(heard->block, "non-zero") == NULL &&
               strstr(heard->block, "MPI_ABORT was invoked") == NULL) {
        pass_on(heard->block, heard->block_length);
    }
    heard->block_length = 0;
}

static void hear_line(listener *heard) {
    const bool rule = is_rule(heard->line, heard->line_length);
    if (rule && heard->inside) {
        end_block(heard);
    } else if (rule) {
        heard->inside = true;
    } else if (is_chatter(heard->line, heard->line_length)) {
        /* what signals and aborts do is said elsewhere */
    } else if (heard->inside && heard->block_length + heard->line_length < BLOCK_BYTES) {
        memcpy(heard->block + heard->block_length, heard->line, heard->line_length);
        heard->block_length += heard->line_length;
    } else {
        pass_on(heard->line, heard->line_length);
    }
    heard->line_length = 0;
}

/* Reads what is there; false at the end. */
static bool hear(listener *heard, int messages) {
    char bytes[LINE_BYTES];
    const ssize_t count = read(messages, bytes, sizeof bytes);
    for (ssize_t i = 0; i < count; i++) {
        heard->line[heard->line_length++] = bytes[i];
        if (bytes[i] == '\n' || heard->line_length == LINE_BYTES) {
            hear_line(heard);
        }
    }
    return count > 0 || (count < 0 && errno == EINTR);
}

static void hear_the_rest(listener *heard, int messages) {
    struct pollfd wait = {.fd = messages, .events = POLLIN};
    while (poll(&wait, 1, 200) > 0 && hear(heard, messages)) {
    }
    if (heard->line_length > 0) {
        hear_line(heard);
    }
    if (heard->inside) {
        end_block(heard);
    }
}

/* ---- signals ---- */

/* All arrive through a descriptor, none in a handler. */
static void watched_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR1);
    sigaddset(set, SIGCHLD);
}

/* The first SIGINT, SIGTERM or SIGHUP asks for an end (with a checkpoint) where the command knows
 * them, the next ends at once. */
static void forward(const cps_command *command, pid_t child, int signal, int *asked) {
    const bool stops = (command->kind & CPS_COMMAND_STOPS) != 0;
    const bool gentle = stops || (command->kind & CPS_COMMAND_SIGNALS) != 0;
    if (gentle && (signal == SIGUSR1 || *asked == 0)) {
        kill(child, SIGUSR1);
        cps_log(CPS_LOG_INFO, "%s: ending %s%s", strsignal(signal),
                stops ? "after this batch" : "with a checkpoint after this step",
                signal == SIGUSR1 ? "" : "; once more ends at once");
    } else {
        kill(child, SIGTERM);
    }
    *asked += signal != SIGUSR1 || gentle;
}

/* Waits for mpirun's end, passes signals on. Returns its wait status; *stopped_out: we asked it to
 * end. */
static int watch(const cps_command *command, pid_t child, int signals, int messages,
                 listener *heard, bool *stopped_out) {
    int asked = 0, status = 0;
    struct pollfd wait[2] = {{.fd = signals, .events = POLLIN}, {.fd = messages, .events = POLLIN}};
    while (waitpid(child, &status, WNOHANG) != child) {
        struct signalfd_siginfo info;
        if (poll(wait, 2, -1) < 0) {
            continue;
        }
        if (wait[1].revents != 0 && !hear(heard, messages)) {
            wait[1].fd = -1;
        }
        if (wait[0].revents != 0 && read(signals, &info, sizeof info) == sizeof info &&
            info.ssi_signo != SIGCHLD) {
            forward(command, child, (int)info.ssi_signo, &asked);
        }
    }
    hear_the_rest(heard, messages);
    *stopped_out = asked > 0;
    return status;
}

/* ---- its end ---- */

static bool is_our_code(int code) {
    static const int codes[] = {CPS_OK,       CPS_ERR_ENDED,       CPS_ERR_USAGE,
                                CPS_ERR_DATA, CPS_ERR_UNAVAILABLE, CPS_ERR_INTERNAL,
                                CPS_ERR_IO,   CPS_ERR_SIGNAL};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        if (codes[i] == code) {
            return true;
        }
    }
    return false;
}

/* What mpirun's end means. Ours went through mpirun unchanged and have been explained by rank 0. */
static cps_status translate(const cps_command *command, int status, bool stopped,
                            const listener *heard, int *code_out) {
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    const bool stops = (command->kind & CPS_COMMAND_STOPS) != 0; /* and has said so */
    if (is_our_code(code) && !(stopped && code == CPS_ERR_ENDED && !stops)) {
        *code_out = code;
        return CPS_OK;
    }
    if (code == 127) {
        return cps_fail(
            CPS_ERR_UNAVAILABLE,
            "mpirun is not on the PATH, and '-n' needs it: install Open MPI ('make deps'; on a "
            "cluster often 'module load openmpi'), or run without '-n' as one rank");
    }
    if (stopped && (command->kind & CPS_COMMAND_SIGNALS) != 0) {
        cps_log(CPS_LOG_WARN,
                "ended by a signal before a checkpoint could be written; the same command goes "
                "on from the one before");
        *code_out = CPS_ERR_SIGNAL;
        return CPS_OK;
    }
    if (stopped) {
        return cps_fail(CPS_ERR_ENDED, "ended by a signal; the same command does it again");
    }
    if (code > 128) {
        const int signal = code - 128;
        char who[300] = "a rank";
        if (heard->rank >= 0) {
            snprintf(who, sizeof who, "rank %d (%s)", heard->rank, heard->host);
        }
        return cps_fail(
            CPS_ERR_INTERNAL,
            "%s was ended by signal %d (%s)%s. Finished files and checkpoints are whole; "
            "the same command goes on from them",
            who, signal, strsignal(signal),
            signal == SIGKILL ? ": by hand, or by the system when memory ran out (see 'dmesg')"
                              : "");
    }
    return cps_fail(CPS_ERR_INTERNAL, "mpirun ended with exit status %d, which is none of ours",
                    code);
}

/* Starts mpirun; *messages_out: where its stderr arrives. */
static cps_status start_mpirun(const char **words, pid_t *child_out, int *messages_out) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "mpirun could not be started: pipe: %s",
                        strerror(errno));
    }
    fflush(NULL);
    signal(SIGCHLD, SIG_DFL); /* a parent that ignores it would make waiting impossible */
    const pid_t child = fork();
    if (child == 0) {
        become_mpirun(words, ends[1]);
    }
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return cps_fail(CPS_ERR_UNAVAILABLE, "mpirun could not be started: fork: %s",
                        strerror(errno));
    }
    *child_out = child;
    *messages_out = ends[0];
    return CPS_OK;
}

static void prepare_environment(void) {
    cps_machine_forget_blas();
    lend_terminal();
    if (geteuid() == 0) { /* Open MPI asks twice before it starts for root */
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    }
}

cps_status cps_launch(const cps_command *command, const cps_args *args, int32_t ranks,
                      int *code_out) {
    if (cps_launched_rank() >= 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "-n %d starts ranks, but this process is one of %d that a launcher started "
                        "already: leave '-n' out, or the launcher",
                        ranks, cps_launched_size());
    }
    char count[16], program[PATH_BYTES];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) {
        return cps_fail(CPS_ERR_IO,
                        "the program cannot find its own file: readlink of /proc/self/exe: %s",
                        strerror(errno));
    }
    program[length] = '\0';
    const char **words = mpirun_words(args, ranks, count, program);
    if (words == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory");
    }
    prepare_environment();
    sigset_t set;
    watched_signals(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    const int signals = signalfd(-1, &set, SFD_CLOEXEC);
    pid_t child = 0;
    int messages = -1;
    cps_status status = signals < 0 ? cps_fail(CPS_ERR_UNAVAILABLE, "signalfd: %s", strerror(errno))
                                    : start_mpirun(words, &child, &messages);
    free(words);
    if (status == CPS_OK) {
        listener heard = {.rank = -1};
        bool stopped = false;
        const int end = watch(command, child, signals, messages, &heard, &stopped);
        status = translate(command, end, stopped, &heard, code_out);
        close(messages);
    }
    if (signals >= 0) {
        close(signals);
    }
    return status;
}
