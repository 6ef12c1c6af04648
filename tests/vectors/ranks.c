/* Starting ranks. The parent has no MPI of its own yet (a process of MPI cannot start mpirun), so
 * groups of several ranks come first. Nothing is left behind: mpirun ends when the runner does
 * (PR_SET_PDEATHSIG), and the ranks when mpirun does; session files lie in a folder of their own.
 */
#include "ranks.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

static const char rank_argument[] = "--ranks-of";
static const double limit_seconds = 120.0;
enum { LINE_BYTES = 4096 };

static cps_comm *started;

static void end_comm(void) {
    cps_comm_end(started);
    started = NULL;
}

cps_comm *vectors_comm(void) {
    if (started == NULL) {
        if (cps_comm_start(NULL, NULL, &started) != CPS_OK) {
            vectors_unusable("%s", cps_fail_message());
        }
        vectors_at_finish(end_comm);
    }
    return started;
}

int64_t vectors_ranks_of(const char *group, const char *prefix) {
    const size_t length = strlen(prefix);
    const char *digits = group + length;
    if (strncmp(group, prefix, length) != 0 || *digits < '1' || *digits > '9' ||
        strspn(digits, "0123456789") != strlen(digits) || strlen(digits) > 9) {
        return 0;
    }
    return strtoll(digits, NULL, 10);
}

/* ---- in a rank ---- */

/* PROGRAM --ranks-of GROUP FILE. Ranks end with 0 when they came to the end: what they found is in
 * the lines of rank 0. */
void vectors_rank_main(int argc, char **argv, vectors_group_body body) {
    if (argc != 4 || strcmp(argv[1], rank_argument) != 0) {
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (cps_comm_rank(vectors_comm()) != 0) {
        vectors_mute();
    }
    char *own[] = {argv[0], argv[3], NULL};
    cps_h5 *file = vectors_open(2, own, 1, 1, "FILE");
    body(file, argv[2]);
    vectors_skip_unknown(file, argv[2]);
    if (cps_h5_close(file) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    vectors_finish();
    exit(0);
}

/* ---- the parent ---- */

typedef struct launch {
    const char *group;
    pid_t child;
    int lines; /* where stdout of mpirun arrives */
    char folder[64];
    double deadline;
    int64_t passed, failed, skipped; /* of the lines */
    bool closed;                     /* the closing line came and agrees with the lines */
    char line[LINE_BYTES];
    size_t length;
} launch;

static _Noreturn void become_mpirun(const launch *run, int64_t ranks, const char *file, int out) {
    char count[24], program[PATH_MAX];
    snprintf(count, sizeof count, "%lld", (long long)ranks);
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    const int nothing = open("/dev/null", O_RDONLY);
    if (length <= 0 || nothing < 0) {
        _exit(126);
    }
    program[length] = '\0';
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    dup2(nothing, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    setenv("TMPDIR", run->folder, 1); /* of mpirun and of the ranks */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
    if (geteuid() == 0) { /* Open MPI asks twice before it starts for root */
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    }
    execlp("mpirun", "mpirun", "-q", "--oversubscribe", "--bind-to", "none", "-np", count, program,
           rank_argument, run->group, file, (char *)NULL);
    _exit(127);
}

static void start(launch *run, int64_t ranks, const char *file) {
    int ends[2];
    snprintf(run->folder, sizeof run->folder, "/tmp/copse-vectors-XXXXXX");
    if (mkdtemp(run->folder) == NULL || pipe2(ends, O_CLOEXEC) != 0) {
        vectors_unusable("mpirun cannot be started for '%s': %s", run->group, strerror(errno));
    }
    fflush(NULL);
    run->child = fork();
    if (run->child == 0) {
        become_mpirun(run, ranks, file, ends[1]);
    }
    close(ends[1]);
    if (run->child < 0) {
        vectors_unusable("mpirun cannot be started for '%s': %s", run->group, strerror(errno));
    }
    run->lines = ends[0];
    run->deadline = cps_seconds() + limit_seconds;
}

/* A case line is shown and counted; the closing one must say what was counted. */
static void take_line(launch *run) {
    long long passed, failed, skipped;
    const char *verdict = strrchr(run->line, '\t');
    if (verdict != NULL) {
        const bool ok = strcmp(verdict, "\tok") == 0, skip = strcmp(verdict, "\tskip") == 0;
        run->passed += ok;
        run->skipped += skip;
        run->failed += !ok && !skip;
        vectors_take_line(run->line, ok, skip);
    } else if (sscanf(run->line, "%lld passed, %lld failed, %lld skipped", &passed, &failed,
                      &skipped) == 3) {
        run->closed = passed == run->passed && failed == run->failed && skipped == run->skipped;
    } else {
        fprintf(stderr, "%s\n", run->line);
    }
}

static void take_bytes(launch *run, const char *bytes, ssize_t count) {
    for (ssize_t i = 0; i < count; i++) {
        if (bytes[i] != '\n' && run->length + 1 < sizeof run->line) {
            run->line[run->length++] = bytes[i];
        } else {
            run->line[run->length] = '\0';
            run->length = 0;
            take_line(run);
        }
    }
}

/* Reads until the ranks have nothing more to say; false: the time is up. */
static bool listen_to(launch *run) {
    for (;;) {
        char bytes[LINE_BYTES];
        const double left = run->deadline - cps_seconds();
        struct pollfd wait = {.fd = run->lines, .events = POLLIN};
        if (left <= 0) {
            return false;
        }
        if (poll(&wait, 1, (int)(left * 1000) + 1) <= 0) {
            continue;
        }
        const ssize_t count = read(run->lines, bytes, sizeof bytes);
        if (count == 0 || (count < 0 && errno != EINTR)) {
            return true;
        }
        take_bytes(run, bytes, count);
    }
}

/* Waits `seconds` for the child's end. */
static bool ended(const launch *run, double seconds, int *status_out) {
    const double deadline = cps_seconds() + seconds;
    do {
        const pid_t done = waitpid(run->child, status_out, WNOHANG);
        if (done == run->child || (done < 0 && errno != EINTR)) {
            return true;
        }
        poll(NULL, 0, 20);
    } while (cps_seconds() < deadline);
    return false;
}

/* mpirun takes its ranks with it on SIGTERM; it gets ten seconds for that. */
static int stop(const launch *run) {
    int status = 0;
    kill(run->child, SIGTERM);
    if (!ended(run, 10.0, &status)) {
        kill(run->child, SIGKILL);
        ended(run, 10.0, &status);
    }
    return status;
}

static void judge_end(const launch *run, int64_t ranks, bool in_time, int status) {
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (!in_time) {
        vectors_broken(run->group, 0.0, "%lld ranks did not come to an end within %g seconds",
                       (long long)ranks, limit_seconds);
    } else if (code == VECTORS_UNUSABLE && !run->closed) {
        vectors_unusable("the ranks of '%s' cannot use the file: see above", run->group);
    } else if (code == 127) {
        vectors_broken(run->group, 0.0,
                       "mpirun is not on the PATH: install Open MPI ('make deps')");
    } else if (code > 128) {
        vectors_broken(run->group, 0.0, "a rank of %lld was ended by signal %d (%s)",
                       (long long)ranks, code - 128, strsignal(code - 128));
    } else if (code != 0 || !run->closed) {
        vectors_broken(run->group, 0.0, "%lld ranks ended with status %d, %s a closing line",
                       (long long)ranks, code, run->closed ? "after" : "without");
    }
}

static void remove_folder(const char *folder) {
    char *command = cps_format("rm -rf '%s'", folder);
    if (system(command) != 0) {
        fprintf(stderr, "cannot remove %s\n", folder);
    }
    free(command);
}

void vectors_run_ranks(cps_h5 *file, const char *group, int64_t ranks) {
    vectors_know(group);
    if (ranks < 1 || ranks > VECTORS_MOST_RANKS) {
        char *reason = cps_format("cases of 1 to %d ranks are run, this one asks for %lld",
                                  VECTORS_MOST_RANKS, (long long)ranks);
        vectors_skip(group, reason);
        free(reason);
        return;
    }
    if (started != NULL) {
        vectors_broken(group, 0.0, "MPI has been started: ranks come first");
        return;
    }
    launch run = {.group = group};
    int status = 0;
    start(&run, ranks, cps_h5_path(file));
    bool in_time = listen_to(&run);
    in_time = in_time && ended(&run, run.deadline - cps_seconds(), &status);
    if (!in_time) {
        status = stop(&run);
    }
    close(run.lines);
    remove_folder(run.folder);
    judge_end(&run, ranks, in_time, status);
}
