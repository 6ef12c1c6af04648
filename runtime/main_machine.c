/* What this machine offers: the kernel family for OpenBLAS, cores, and where our own files are. */
#include "main.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

/* ---- BLAS ---- */

/* Set in the program that was executed again: which variables are ours. */
#define GUARD "COPSE_BLAS_SET"

/* Core types of OpenBLAS 0.3.21 by what the CPU can do. CPUs that are younger than it would be
 * taken for something smaller. Everything with AVX-512 takes one family: equal kernels give equal
 * bits on all of them, and the wider families differ from it in bf16 products only, which do not
 * come from OpenBLAS here. NULL: its own choice stands. */
static const char *blas_core(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd")) {
        return "SkylakeX";
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return "Haswell";
    }
#endif
    return NULL;
}

void cps_machine_prepare_blas(char **argv) {
    if (getenv(GUARD) != NULL) {
        return;
    }
    const char *core = getenv("OPENBLAS_CORETYPE") == NULL ? blas_core() : NULL;
    const char *threads = getenv("OPENBLAS_NUM_THREADS");
    const bool one_thread = threads != NULL && strcmp(threads, "1") == 0;
    if (core == NULL && one_thread) {
        return;
    }
    if ((core != NULL && setenv("OPENBLAS_CORETYPE", core, 1) != 0) ||
        setenv("OPENBLAS_NUM_THREADS", "1", 1) != 0 ||
        setenv(GUARD, core != NULL ? "core" : "threads", 1) != 0) {
        return;
    }
    execv("/proc/self/exe", argv);
    cps_log(CPS_LOG_WARN,
            "the program could not execute itself again (%s): OpenBLAS chooses its kernels itself "
            "and may "
            "take slower ones; set OPENBLAS_CORETYPE=%s and OPENBLAS_NUM_THREADS=1 yourself",
            strerror(errno), core != NULL ? core : "...");
}

void cps_machine_forget_blas(void) {
    const char *guard = getenv(GUARD);
    if (guard == NULL) {
        return;
    }
    if (strcmp(guard, "core") == 0) {
        unsetenv("OPENBLAS_CORETYPE");
    }
    unsetenv("OPENBLAS_NUM_THREADS");
    unsetenv(GUARD);
}

/* ---- cores ---- */

enum { MAX_CPUS = 4096, MASK_BYTES = MAX_CPUS / 8, HOST_BYTES = 64 };

/* Bits of the CPUs this process may run on; of several hardware threads of one core the first. */
static void own_cores(uint8_t mask[MASK_BYTES]) {
    memset(mask, 0, MASK_BYTES);
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    const size_t bytes = CPU_ALLOC_SIZE(MAX_CPUS);
    if (set == NULL || sched_getaffinity(0, bytes, set) != 0) {
        mask[0] = 1;
        CPU_FREE(set);
        return;
    }
    for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
        if (!CPU_ISSET_S((size_t)cpu, bytes, set)) {
            continue;
        }
        char path[96];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 cpu);
        FILE *file = fopen(path, "r");
        int sibling = cpu; /* lowest of the core's threads: "0,32" or "0-1" */
        if (file != NULL) {
            if (fscanf(file, "%d", &sibling) != 1 || sibling < 0 || sibling > cpu) {
                sibling = cpu;
            }
            fclose(file);
        }
        mask[sibling / 8] |= (uint8_t)(1U << (sibling % 8));
    }
    CPU_FREE(set);
}

static int32_t count_bits(const uint8_t *mask) {
    int32_t count = 0;
    for (int i = 0; i < MASK_BYTES; i++) {
        count += __builtin_popcount(mask[i]);
    }
    return count;
}

int32_t cps_machine_cores(void) {
    uint8_t mask[MASK_BYTES];
    own_cores(mask);
    return count_bits(mask);
}

typedef struct seat {
    char host[HOST_BYTES];
    uint8_t mask[MASK_BYTES];
} seat;

/* Collective: this rank's cores divided by the ranks of this host that share any of them. */
static cps_status shared_cores(cps_comm *comm, int32_t *threads_out) {
    const size_t ranks = (size_t)cps_comm_size(comm);
    seat own = {.host = ""};
    snprintf(own.host, sizeof own.host, "%s", cps_comm_host(comm));
    own_cores(own.mask);
    seat *all = calloc(ranks, sizeof *all);
    int64_t *bytes = calloc(ranks, sizeof *bytes);
    if (all == NULL || bytes == NULL) {
        free(all);
        free(bytes);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a table of %zu ranks", ranks);
    }
    for (size_t i = 0; i < ranks; i++) {
        bytes[i] = sizeof own;
    }
    cps_comm_allgatherv(comm, "cores of each rank", &own, all, bytes);
    int32_t sharing = 0;
    for (size_t i = 0; i < ranks; i++) {
        bool overlap = false;
        for (int b = 0; b < MASK_BYTES; b++) {
            overlap = overlap || (all[i].mask[b] & own.mask[b]) != 0;
        }
        sharing += strcmp(all[i].host, own.host) == 0 && overlap;
    }
    free(all);
    free(bytes);
    const int32_t share = count_bits(own.mask) / (sharing > 0 ? sharing : 1);
    *threads_out = share > 0 ? share : 1;
    return CPS_OK;
}

cps_status cps_machine_threads(cps_comm *comm, const cps_args *args, int32_t *threads_out) {
    int64_t threads = 0;
    CPS_TRY(cps_args_integer(args, "threads", 1, 4096, &threads));
    const char *slurm = getenv("SLURM_CPUS_PER_TASK");
    int32_t share = 1;
    CPS_TRY(
        shared_cores(comm, &share)); /* collective: every rank takes part, whatever it chooses */
    if (threads == 0 && slurm != NULL) {
        threads = strtoll(slurm, NULL, 10);
    }
    *threads_out = threads > 0 && threads <= 4096 ? (int32_t)threads : share;
    return CPS_OK;
}

/* ---- our own files ---- */

enum { PLACES = 3, PATH_BYTES = 4096 };

/* Folder of the program's own file, links resolved; "" if unknown. */
static void program_folder(char folder[PATH_BYTES]) {
    const ssize_t length = readlink("/proc/self/exe", folder, PATH_BYTES - 1);
    folder[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
}

/* First of: `in_home` below $COPSE_HOME (alone, when that is set), then the other two beside the
 * program. */
static cps_status find_folder(const char *what, const char *in_home, const char *in_build,
                              const char *installed, char **folder_out) {
    char beside[PATH_BYTES];
    program_folder(beside);
    const char *home = getenv("COPSE_HOME");
    if (home != NULL && home[0] != '\0') {
        char *path = cps_format("%s/%s", home, in_home);
        if (cps_dir_exists(path)) {
            *folder_out = path;
            return CPS_OK;
        }
        const cps_status status = cps_fail(CPS_ERR_UNAVAILABLE,
                                           "%s: there is no folder '%s'. COPSE_HOME is set to "
                                           "'%s'; correct it, or unset it so that the "
                                           "program looks beside itself",
                                           what, path, home);
        free(path);
        return status;
    }
    const char *places[PLACES - 1] = {in_build, installed};
    for (int i = 0; i < PLACES - 1; i++) {
        char *path = cps_format("%s/%s", beside, places[i]);
        if (cps_dir_exists(path)) {
            *folder_out = path;
            return CPS_OK;
        }
        free(path);
    }
    return cps_fail(
        CPS_ERR_UNAVAILABLE,
        "%s not found: neither '%s/%s' nor '%s/%s' is a folder. Build with 'make', install with "
        "'make install', or set COPSE_HOME to the folder that holds '%s'",
        what, beside, in_build, beside, installed, in_home);
}

cps_status cps_machine_lua_folder(char **folder_out) {
    return find_folder("the Lua library", "lua", "../lua", "../share/copse/lua", folder_out);
}

cps_status cps_machine_plugin_folder(char **folder_out) {
    return find_folder("the objective plugins", "plugins", "plugins", "../lib/copse/plugins",
                       folder_out);
}
