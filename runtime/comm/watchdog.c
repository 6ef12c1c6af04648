/* A thread that looks at this rank's last sign of life. A rank stuck in its own work is the first
 * to notice itself; of those that wait in a collective a rank that knows who is missing speaks
 * first. The others leave it some seconds, in which the launcher ends them. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "comm/agree.h"
#include "comm/comm_private.h"

/* How much longer than the limit this rank waits before it speaks: launchers take a second or two
 * to end the ranks after the first has spoken. */
static double courtesy_seconds(const cps_comm *comm) {
    if (!comm->where.inside) {
        return 0;
    }
    const double turn = comm->rank < 3 ? 2 * comm->rank : 6;
    return (atomic_load(&comm->counting_arrived) ? 3 : 9) + turn;
}

/* ": rank 2 (node7), rank 3 (node7) did not come" where this rank knows, else "". */
static void name_missing(const cps_comm *comm, char *text, size_t bytes) {
    text[0] = '\0';
    if (!atomic_load(&comm->counting_arrived)) {
        return;
    }
    size_t used = 0;
    int named = 0;
    for (int32_t r = 0; r < comm->size && used < bytes && named < 8; r++) {
        if (r != comm->rank && !atomic_load(&comm->arrived[r])) {
            used += (size_t)snprintf(text + used, bytes - used, "%srank %d (%s)",
                                     named == 0 ? ": " : ", ", r, comm->hosts[r]);
            named++;
        }
    }
    if (named > 0 && used < bytes) {
        snprintf(text + used, bytes - used, " did not come");
    }
}

static _Noreturn void bark(const cps_comm *comm, const cps_whereabouts *where) {
    char missing[1024], text[2048];
    const double seconds = cps_seconds() - where->since;
    if (where->inside) {
        name_missing(comm, missing, sizeof missing);
        snprintf(
            text, sizeof text,
            "no agreement in '%s' for %.0f s%s. All ranks are ended; raise watchdog_seconds if "
            "the work really takes that long",
            where->place, seconds, missing);
    } else {
        snprintf(text, sizeof text,
                 "no sign of life for %.0f s%s%s after '%s'. All ranks are ended; raise "
                 "watchdog_seconds if the work really takes that long",
                 seconds, where->stage[0] != '\0' ? " in " : "", where->stage, where->place);
    }
    cps_comm_abort(comm, text);
}

/* Sleeps up to `seconds`; the lock is held before and after. */
static void doze(cps_comm *comm, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    const int64_t nanoseconds = until.tv_nsec + (int64_t)(seconds * 1e9);
    until.tv_sec += (time_t)(nanoseconds / 1000000000);
    until.tv_nsec = (long)(nanoseconds % 1000000000);
    pthread_cond_timedwait(&comm->watchdog_wake, &comm->lock, &until);
}

static void *watch(void *argument) {
    cps_comm *comm = argument;
    const double limit = comm->watchdog_seconds;
    const double period = limit / 10 < 1 ? limit / 10 : 1;
    pthread_mutex_lock(&comm->lock);
    while (!comm->watchdog_quit) {
        const double start = cps_seconds();
        doze(comm, period);
        const double lost = cps_seconds() - start - period;
        if (lost > 1) {
            comm->where.since += lost; /* this process stood still: no sign of what it does */
        }
        const double allowed = limit + courtesy_seconds(comm);
        if (!comm->watchdog_quit && cps_seconds() - comm->where.since > allowed) {
            const cps_whereabouts where = comm->where;
            pthread_mutex_unlock(&comm->lock);
            bark(comm, &where);
        }
    }
    pthread_mutex_unlock(&comm->lock);
    return NULL;
}

cps_status cps_watchdog_start(cps_comm *comm, double seconds) {
    cps_watchdog_stop(comm);
    if (!(seconds > 0)) {
        return CPS_OK;
    }
    comm->watchdog_seconds = seconds;
    comm->watchdog_quit = false;
    cps_comm_alive(comm);
    sigset_t all, before; /* signals belong to the main thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&comm->watchdog, NULL, watch, comm);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "the watchdog thread cannot be started: %s",
                        strerror(error));
    }
    comm->watchdog_on = true;
    return CPS_OK;
}

void cps_watchdog_beat(cps_comm *comm) {
    cps_comm_alive(comm);
    if (comm->beat_tell != NULL) {
        comm->beat_tell(comm->beat_context);
    }
}

void cps_watchdog_tell(cps_comm *comm, void (*tell)(void *context), void *context) {
    comm->beat_tell = tell;
    comm->beat_context = context;
}

void cps_watchdog_stop(cps_comm *comm) {
    if (!comm->watchdog_on) {
        return;
    }
    pthread_mutex_lock(&comm->lock);
    comm->watchdog_quit = true;
    pthread_cond_signal(&comm->watchdog_wake);
    pthread_mutex_unlock(&comm->lock);
    pthread_join(comm->watchdog, NULL);
    comm->watchdog_on = false;
}
