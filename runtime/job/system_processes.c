/* system: processes, signals, the clock. Children are groups of their own, so that Ctrl-C reaches
 * the driver alone, and get SIGTERM when the driver dies. SIGCHLD stays blocked and is waited for,
 * so no end of a child is missed and none is polled for. */
#include "job/system.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

extern char **environ;

enum { EXEC_FAILED = 127, GRACE_SIGNALS = 3, BLOCK_BYTES = 4096 };

/* ---- signals ---- */

static const struct {
    int number;
    const char *name;
} known_signals[] = {{SIGINT, "INT"},   {SIGTERM, "TERM"}, {SIGHUP, "HUP"},   {SIGUSR1, "USR1"},
                     {SIGUSR2, "USR2"}, {SIGKILL, "KILL"}, {SIGCONT, "CONT"}, {SIGSTOP, "STOP"}};
enum { KNOWN_SIGNALS = sizeof known_signals / sizeof known_signals[0], CAUGHT_SIGNALS = 4 };

/* What a handler may touch: signals belong to the process, so this state does too. */
static volatile sig_atomic_t arrived[CAUGHT_SIGNALS], endings;

static void note_signal(int number) {
    for (int i = 0; i < CAUGHT_SIGNALS; i++) {
        if (known_signals[i].number == number) {
            arrived[i] = 1;
        }
    }
    if (number == SIGINT || number == SIGTERM) {
        endings = endings + 1;
        if (endings >= GRACE_SIGNALS) {
            signal(number, SIG_DFL);
            raise(number);
        }
    }
}

static bool has_signal(void) {
    for (int i = 0; i < CAUGHT_SIGNALS; i++) {
        if (arrived[i]) {
            return true;
        }
    }
    return false;
}

/* signals() -> names that arrived since the last call; the first call begins to catch them */
static int system_signals(lua_State *state) {
    struct sigaction action = {.sa_handler = note_signal};
    sigemptyset(&action.sa_mask);
    lua_newtable(state);
    for (int i = 0, count = 0; i < CAUGHT_SIGNALS; i++) {
        if (endings < GRACE_SIGNALS) {
            sigaction(known_signals[i].number, &action, NULL);
        }
        if (arrived[i]) {
            arrived[i] = 0;
            lua_pushstring(state, known_signals[i].name);
            lua_rawseti(state, -2, ++count);
        }
    }
    return 1;
}

static int signal_number(lua_State *state, int index) {
    const char *name = luaL_checkstring(state, index);
    for (int i = 0; i < KNOWN_SIGNALS; i++) {
        if (strcmp(known_signals[i].name, name) == 0) {
            return known_signals[i].number;
        }
    }
    return luaL_error(state, "no signal is named '%s'", name);
}

/* ---- clock ---- */

static double wall_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static struct timespec span(double seconds) {
    const double whole = floor(seconds > 0 ? fmin(seconds, 1e9) : 0);
    return (struct timespec){(time_t)whole,
                             (long)((seconds > 0 ? fmin(seconds, 1e9) - whole : 0) * 1e9)};
}

static int system_now(lua_State *state) {
    lua_pushnumber(state, wall_clock());
    return 1;
}

static int system_clock(lua_State *state) {
    lua_pushnumber(state, cps_seconds());
    return 1;
}

/* sleep(seconds); a signal ends it */
static int system_sleep(lua_State *state) {
    const struct timespec time = span(luaL_checknumber(state, 1));
    if (!has_signal()) {
        nanosleep(&time, NULL);
    }
    return 0;
}

/* ---- starting ---- */

const char *cps_system_field(lua_State *state, int index, const char *name) {
    const int type = lua_getfield(state, index, name);
    if (type == LUA_TNIL) {
        lua_pop(state, 1);
        return NULL;
    }
    if (type != LUA_TSTRING && type != LUA_TNUMBER) {
        luaL_error(state, "'%s' should be a string", name);
    }
    const char *value = lua_tostring(state, -1);
    lua_pop(state, 1); /* the table keeps it */
    return value;
}

/* The list `argv` of the table at 1, as the state's memory. */
static const char **push_words(lua_State *state) {
    luaL_checktype(state, 1, LUA_TTABLE);
    if (lua_getfield(state, 1, "argv") != LUA_TTABLE || luaL_len(state, -1) < 1) {
        luaL_error(state, "argv should be a list of words");
    }
    const int list = lua_gettop(state);
    const lua_Integer count = luaL_len(state, list);
    const char **words = lua_newuserdatauv(state, ((size_t)count + 1) * sizeof *words, 0);
    for (lua_Integer i = 0; i < count; i++) {
        if (lua_rawgeti(state, list, i + 1) != LUA_TSTRING) {
            luaL_error(state, "argv[%d] should be a string", (int)i + 1);
        }
        words[i] = lua_tostring(state, -1);
        lua_pop(state, 1);
    }
    words[count] = NULL;
    return words;
}

/* "NAME=value" for each of `environment` of the table at 1, and NAME for those to be taken out;
 * NULL-terminated. */
static const char **push_environment(lua_State *state) {
    if (lua_getfield(state, 1, "environment") == LUA_TNIL) {
        const char **none = lua_newuserdatauv(state, sizeof *none, 0);
        *none = NULL;
        return none;
    }
    const int table = lua_gettop(state);
    size_t count = 0;
    for (lua_pushnil(state); lua_next(state, table); lua_pop(state, 1)) {
        count++;
    }
    const char **entries = lua_newuserdatauv(state, (count + 1) * sizeof *entries, 1);
    lua_newtable(state);
    const int texts = lua_gettop(state);
    count = 0;
    for (lua_pushnil(state); lua_next(state, table); lua_pop(state, 1)) {
        const char *name = lua_tostring(state, -2);
        const char *value = lua_toboolean(state, -1) ? lua_tostring(state, -1) : NULL;
        entries[count] =
            value ? lua_pushfstring(state, "%s=%s", name, value) : lua_pushstring(state, name);
        lua_rawseti(state, texts, (lua_Integer)++count);
    }
    entries[count] = NULL;
    lua_setiuservalue(state, -2, 1); /* the block keeps its texts */
    return entries;
}

/* In the child, between fork and exec: only calls that are safe there (putenv of a single thread
 * is). */
static _Noreturn void become(const char *const *words, const char **environment, const char *folder,
                             int input, int output, int errors, pid_t parent) {
    sigset_t none;
    sigemptyset(&none);
    for (int i = 0; i < CAUGHT_SIGNALS; i++) {
        signal(known_signals[i].number, SIG_DFL);
    }
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) {
        _exit(EXEC_FAILED);
    }
    for (const char **entry = environment; *entry; entry++) {
        putenv((char *)(uintptr_t)*entry);
    }
    if ((folder && chdir(folder) != 0) || dup2(input, STDIN_FILENO) < 0 ||
        (output >= 0 && dup2(output, STDOUT_FILENO) < 0) ||
        (errors >= 0 && dup2(errors, STDERR_FILENO) < 0)) {
        _exit(EXEC_FAILED);
    }
    execvp(words[0], (char *const *)(uintptr_t)words);
    _exit(EXEC_FAILED);
}

static void block_children(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

/* Whether execvp would find the program. */
static bool is_on_path(const char *name) {
    if (strchr(name, '/')) {
        return access(name, X_OK) == 0;
    }
    const char *path = getenv("PATH");
    for (const char *at = path ? path : "/usr/bin:/bin"; *at;) {
        const size_t length = strcspn(at, ":");
        char *file = cps_format("%.*s/%s", (int)length, length ? at : ".", name);
        const bool found = access(file, X_OK) == 0;
        free(file);
        if (found) {
            return true;
        }
        at += length + (at[length] == ':');
    }
    return false;
}

/* spawn{ argv, output, environment, folder } -> pid */
static int system_spawn(lua_State *state) {
    const char **words = push_words(state), **environment = NULL;
    environment = push_environment(state);
    const char *output = cps_system_field(state, 1, "output"),
               *folder = cps_system_field(state, 1, "folder");
    if (!is_on_path(words[0])) {
        return cps_system_failure(state, ENOENT, "cannot start", words[0]);
    }
    const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const int log = output ? open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (nothing < 0 || (output && log < 0)) {
        const int error = errno;
        if (nothing >= 0) {
            close(nothing);
        }
        return cps_system_failure(state, error, "cannot write", output ? output : "/dev/null");
    }
    block_children();
    const pid_t parent = getpid(), child = fork();
    if (child == 0) {
        become(words, environment, folder, nothing, log, log, parent);
    }
    const int error = errno;
    close(nothing);
    if (log >= 0) {
        close(log);
    }
    if (child < 0) {
        return cps_system_failure(state, error, "cannot start", words[0]);
    }
    setpgid(child, child); /* whichever of the two comes first */
    lua_pushinteger(state, child);
    return 1;
}

/* ---- waiting ---- */

static lua_Integer exit_code(int status) {
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Waits for SIGCHLD until `deadline` of cps_seconds; false when it is over or another signal came.
 */
static bool wait_for_child(double deadline) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    const double left = deadline - cps_seconds();
    const struct timespec time = span(left);
    return left > 0 && !has_signal() &&
           (sigtimedwait(&set, NULL, &time) >= 0 || (errno == EINTR && !has_signal()));
}

/* wait(seconds) -> pid, code of a child that ended; nil: none did, or a signal came */
static int system_wait(lua_State *state) {
    const double deadline = cps_seconds() + luaL_checknumber(state, 1);
    int status = 0;
    pid_t child;
    block_children();
    while ((child = waitpid(-1, &status, WNOHANG)) <= 0 && wait_for_child(deadline)) {
    }
    if (child <= 0) {
        lua_pushnil(state);
        return 1;
    }
    lua_pushinteger(state, child);
    lua_pushinteger(state, exit_code(status));
    return 2;
}

/* kill(pid, "TERM"); a negative pid: its group */
static int system_kill(lua_State *state) {
    const pid_t pid = (pid_t)luaL_checkinteger(state, 1);
    luaL_argcheck(state, pid > 1 || pid < -1, 1, "no such pid");
    if (kill(pid, signal_number(state, 2)) != 0) {
        return cps_system_failure(state, errno, "cannot signal a process", NULL);
    }
    lua_pushboolean(state, 1);
    return 1;
}

static int system_alive(lua_State *state) {
    const pid_t pid = (pid_t)luaL_checkinteger(state, 1);
    lua_pushboolean(state, pid > 0 && (kill(pid, 0) == 0 || errno == EPERM));
    return 1;
}

/* ---- capturing ---- */

/* The ends of three pipes that the state closes: ours to input, of output, of errors; the child's
 * of each. */
typedef struct capture_pipes {
    int ours[3], theirs[3];
    pid_t child; /* killed and reaped with the rest */
} capture_pipes;

static void close_end(int *end) {
    if (*end >= 0) {
        close(*end);
        *end = -1;
    }
}

static int close_pipes(lua_State *state) {
    capture_pipes *pipes = lua_touserdata(state, 1);
    for (int i = 0; i < 3; i++) {
        close_end(&pipes->ours[i]);
        close_end(&pipes->theirs[i]);
    }
    if (pipes->child > 0) {
        kill(-pipes->child, SIGKILL);
        waitpid(pipes->child, NULL, 0);
        pipes->child = 0;
    }
    return 0;
}

static capture_pipes *hold_pipes(lua_State *state) {
    capture_pipes *pipes = lua_newuserdatauv(state, sizeof *pipes, 0);
    *pipes = (capture_pipes){{-1, -1, -1}, {-1, -1, -1}, 0};
    if (luaL_newmetatable(state, "copse.pipes")) {
        lua_pushcfunction(state, close_pipes);
        lua_setfield(state, -2, "__gc");
    }
    lua_setmetatable(state, -2);
    return pipes;
}

static int open_pipes(capture_pipes *pipes) {
    for (int i = 0; i < 3; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0) {
            return -1;
        }
        pipes->ours[i] = ends[i == 0 ? 1 : 0];
        pipes->theirs[i] = ends[i == 0 ? 0 : 1];
        fcntl(pipes->ours[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
}

/* Pushes what there is in one pipe; closes it at its end. */
static void push_piece(lua_State *state, int *end) {
    char block[BLOCK_BYTES];
    const ssize_t count = read(*end, block, sizeof block);
    if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) {
        close_end(end);
    }
    lua_pushlstring(state, block, count > 0 ? (size_t)count : 0);
}

static void feed(int *end, const char **input, size_t *length) {
    const ssize_t count = *length > 0 ? write(*end, *input, *length) : 0;
    if (count > 0) {
        *input += count;
        *length -= (size_t)count;
    }
    if (*length == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) {
        close_end(end);
    }
}

/* Moves bytes until both outputs have ended or the time is over; leaves two lists of pieces, output
 * and errors, on the stack. false: the time is over. */
static bool converse(lua_State *state, capture_pipes *pipes, const char *input, size_t length,
                     double deadline) {
    const int pieces = lua_gettop(state);
    bool in_time = true;
    lua_newtable(state);
    lua_newtable(state);
    while (in_time && (pipes->ours[1] >= 0 || pipes->ours[2] >= 0)) {
        struct pollfd ends[3] = {
            {pipes->ours[0], POLLOUT, 0}, {pipes->ours[1], POLLIN, 0}, {pipes->ours[2], POLLIN, 0}};
        const double left = deadline - cps_seconds();
        in_time = left > 0;
        if (!in_time || poll(ends, 3, (int)fmin(left * 1000 + 1, 1e9)) <= 0) {
            continue;
        }
        if (ends[0].revents) {
            feed(&pipes->ours[0], &input, &length);
        }
        for (int i = 1; i < 3; i++) {
            if (ends[i].revents) {
                push_piece(state, &pipes->ours[i]);
                lua_rawseti(state, pieces + i, luaL_len(state, pieces + i) + 1);
            }
        }
    }
    return in_time;
}

/* Joins the pieces of the list at `index` into a field of the table on top. */
static void set_joined(lua_State *state, int index, const char *name) {
    lua_getglobal(state, "table");
    lua_getfield(state, -1, "concat");
    lua_pushvalue(state, index);
    lua_call(state, 1, 1);
    lua_setfield(state, -3, name);
    lua_pop(state, 1);
}

/* capture{ argv, input, seconds } -> { code, output, errors } */
static int system_capture(lua_State *state) {
    const char **words = push_words(state), **environment = push_environment(state);
    size_t length = 0;
    lua_getfield(state, 1, "input");
    const char *input = luaL_optlstring(state, -1, "", &length);
    lua_getfield(state, 1, "seconds");
    const double seconds = luaL_optnumber(state, -1, 30.0);
    if (!is_on_path(words[0])) {
        return cps_system_failure(state, ENOENT, "cannot start", words[0]);
    }
    capture_pipes *pipes = hold_pipes(state);
    if (open_pipes(pipes) != 0) {
        return cps_system_failure(state, errno, "cannot make a pipe", NULL);
    }
    signal(SIGPIPE, SIG_IGN); /* a child that does not read its input is no failure of ours */
    const pid_t parent = getpid();
    pipes->child = fork();
    if (pipes->child == 0) {
        signal(SIGPIPE, SIG_DFL);
        become(words, environment, NULL, pipes->theirs[0], pipes->theirs[1], pipes->theirs[2],
               parent);
    }
    if (pipes->child < 0) {
        return cps_system_failure(state, errno, "cannot start", words[0]);
    }
    for (int i = 0; i < 3; i++) {
        close_end(&pipes->theirs[i]);
    }
    const bool in_time = converse(state, pipes, input, length, cps_seconds() + seconds);
    signal(SIGPIPE, SIG_DFL);
    if (!in_time) {
        lua_pushnil(state);
        lua_pushfstring(state, "'%s' did not answer within %f seconds", words[0], seconds);
        lua_pushliteral(state, "ETIMEDOUT");
        return 3; /* the pipes' end takes the child along */
    }
    int status = 0;
    while (waitpid(pipes->child, &status, 0) < 0 && errno == EINTR) {
    }
    pipes->child = 0;
    const int pieces = lua_gettop(state) - 1;
    lua_createtable(state, 0, 3);
    lua_pushinteger(state, exit_code(status));
    lua_setfield(state, -2, "code");
    set_joined(state, pieces, "output");
    set_joined(state, pieces + 1, "errors");
    return 1;
}

void cps_system_add_processes(lua_State *state) {
    static const luaL_Reg functions[] = {
        {"signals", system_signals}, {"now", system_now},
        {"clock", system_clock},     {"sleep", system_sleep},
        {"spawn", system_spawn},     {"wait", system_wait},
        {"kill", system_kill},       {"alive", system_alive},
        {"capture", system_capture}, {NULL, NULL},
    };
    luaL_setfuncs(state, functions, 0);
}
