/* Indices are handed out by one counter, so threads that come late (or never: one core, busy
 * machine) cost nothing: the caller is done when the counter is used up and nobody is inside.
 *
 * Who is inside: a thread first counts itself into `inside`, then reads `open`. The caller closes,
 * then waits for inside == 0. All four are sequentially consistent, so a thread either is seen by
 * the caller or sees the job closed; the fields of a job therefore never change under a thread that
 * works on it.
 *
 * Sleeping: workers watch `generation` for a few microseconds and then sleep on it (futex); the
 * caller wakes them only when `sleepers` says that there are some. The caller sleeps on `inside` in
 * the same way. */
#include "base/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { MAX_THREADS = 1024, SPIN_NANOSECONDS = 20000 };

static struct {
    /* written by the caller, read by all: a line of its own */
    _Alignas(64) _Atomic uint32_t generation;
    _Atomic bool open;
    _Atomic bool quit;
    cps_parallel_body body;
    void *context;
    int64_t n;
    _Alignas(64) _Atomic int64_t next;
    _Alignas(64) _Atomic uint32_t inside;
    _Atomic uint32_t caller_waits;
    _Alignas(64) _Atomic uint32_t sleepers;
    _Atomic bool busy; /* a cps_parallel is under way */
    bool spin;         /* there are as many cores as threads */
    int32_t threads;   /* 0 before start; the caller included */
    pthread_t *workers;
} pool;

static _Thread_local bool in_body;

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count) {
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Watches *word for a few microseconds; true when it is no longer `seen`. */
static bool spin_while_equal(_Atomic uint32_t *word, uint32_t seen) {
    if (!pool.spin) {
        return atomic_load(word) != seen;
    }
    const int64_t end = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 16; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen) {
                return true;
            }
            relax();
        }
    } while (nanoseconds() < end);
    return false;
}

static void run_indices(void) {
    in_body = true;
    for (;;) {
        const int64_t index = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (index >= pool.n) {
            break;
        }
        pool.body(pool.context, index);
    }
    in_body = false;
}

static void help_if_open(void) {
    atomic_fetch_add(&pool.inside, 1);
    if (atomic_load(&pool.open)) {
        run_indices();
    }
    if (atomic_fetch_sub(&pool.inside, 1) == 1 && atomic_load(&pool.caller_waits) != 0) {
        futex_wake(&pool.inside, 1);
    }
}

static void *work(void *unused) {
    (void)unused;
    uint32_t seen = 0;
    while (!atomic_load(&pool.quit)) {
        if (!spin_while_equal(&pool.generation, seen)) {
            atomic_fetch_add(&pool.sleepers, 1);
            futex_wait(&pool.generation, seen);
            atomic_fetch_sub(&pool.sleepers, 1);
        }
        const uint32_t now = atomic_load(&pool.generation);
        if (now != seen) {
            seen = now;
            help_if_open();
        }
    }
    return NULL;
}

static void announce(int64_t wanted) {
    atomic_fetch_add(&pool.generation, 1);
    const uint32_t sleepers = atomic_load(&pool.sleepers);
    if (sleepers > 0) {
        futex_wake(&pool.generation, wanted < (int64_t)sleepers ? (int)wanted : (int)sleepers);
    }
}

static void wait_until_empty(void) {
    for (;;) {
        uint32_t inside = atomic_load(&pool.inside);
        if (inside == 0) {
            return;
        }
        if (spin_while_equal(&pool.inside, inside)) {
            continue;
        }
        atomic_store(&pool.caller_waits, 1);
        inside = atomic_load(&pool.inside);
        if (inside != 0) {
            futex_wait(&pool.inside, inside);
        }
        atomic_store(&pool.caller_waits, 0);
    }
}

void cps_parallel(int64_t n, cps_parallel_body body, void *context) {
    bool idle = false;
    if (n < 2 || pool.threads < 2 || in_body ||
        !atomic_compare_exchange_strong(&pool.busy, &idle, true)) {
        for (int64_t index = 0; index < n; index++) {
            body(context, index);
        }
        return;
    }
    pool.body = body;
    pool.context = context;
    pool.n = n;
    atomic_store_explicit(&pool.next, 0, memory_order_relaxed);
    atomic_store(&pool.open, true);
    announce(n - 1);
    run_indices();
    atomic_store(&pool.open, false);
    wait_until_empty();
    atomic_store(&pool.busy, false);
}

/* Ends the workers that were started, `count` of them. */
static void join_workers(int32_t count) {
    atomic_store(&pool.quit, true);
    atomic_fetch_add(&pool.generation, 1);
    futex_wake(&pool.generation, MAX_THREADS);
    for (int32_t i = 0; i < count; i++) {
        pthread_join(pool.workers[i], NULL);
    }
    free(pool.workers);
    pool.workers = NULL;
    pool.threads = 0;
}

/* Workers take no signals: the main thread's handlers and flags are the only ones. */
static int create_quietly(pthread_t *thread) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(thread, NULL, work, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

cps_status cps_pool_start(int32_t threads) {
    if (threads < 1 || threads > MAX_THREADS) {
        return cps_fail(CPS_ERR_USAGE,
                        "%d compute threads asked, 1 to %d are possible: set --threads", threads,
                        MAX_THREADS);
    }
    cps_pool_stop();
    cpu_set_t cores;
    pool.spin =
        sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) >= (int)threads;
    atomic_store(&pool.quit, false);
    atomic_store(&pool.generation, 0);
    pool.workers = calloc((size_t)threads, sizeof *pool.workers);
    if (pool.workers == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %d compute threads", threads);
    }
    for (int32_t i = 0; i < threads - 1; i++) {
        const int error = create_quietly(&pool.workers[i]);
        if (error != 0) {
            join_workers(i);
            return cps_fail(CPS_ERR_UNAVAILABLE,
                            "compute thread %d of %d cannot be started: %s; use fewer --threads",
                            i + 2, threads, strerror(error));
        }
    }
    pool.threads = threads;
    return CPS_OK;
}

void cps_pool_stop(void) {
    if (pool.threads > 0) {
        join_workers(pool.threads - 1);
    }
}

int32_t cps_pool_threads(void) {
    return pool.threads > 0 ? pool.threads : 1;
}
