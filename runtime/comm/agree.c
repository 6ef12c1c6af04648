/* An agreement is R-1 small messages to rank 0 and a broadcast back. Messages instead of a
 * reduction let rank 0 know who has not come, so that the watchdog can name that rank. */
#include "comm/agree.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "comm/comm_private.h"

enum { TAG_AGREE = 1, ABORT_SECONDS = 10, MESSAGE_BYTES = 20480 };

/* ---- the end of all ranks -------------------------------------------------------------------- */

static _Atomic(cps_comm *)
    panic_comm; /* what the panic hook, which has no argument for it, aborts */

_Noreturn void cps_comm_abort(const cps_comm *comm, const char *text) {
    char line[MESSAGE_BYTES];
    snprintf(line, sizeof line, "rank %d (%s): %s", comm->rank, comm->hosts[comm->rank], text);
    cps_log_last_words(line);
    signal(SIGALRM,
           SIG_DFL); /* ends this process, should MPI_Abort hang; the launcher ends the rest */
    alarm(ABORT_SECONDS);
    MPI_Abort(MPI_COMM_WORLD, CPS_ERR_INTERNAL);
    _exit(CPS_ERR_INTERNAL);
}

static void panic_all(const char *message) {
    const cps_comm *comm = atomic_load(&panic_comm);
    if (comm != NULL) {
        cps_comm_abort(comm, message);
    }
}

void cps_agree_install_panic(cps_comm *comm) {
    atomic_store(&panic_comm, comm);
    cps_panic_set_hook(comm != NULL ? panic_all : NULL);
}

/* ---- agreement ------------------------------------------------------------------------------- */

/* What all ranks know afterwards: the rank whose answer counts, and the answer. */
typedef struct verdict {
    int32_t rank;
    int32_t code;
} verdict;

static void hear_all(cps_comm *comm) {
    for (int32_t r = 1; r < comm->size; r++) {
        atomic_store(&comm->arrived[r], false);
        cps_comm_check(comm,
                       MPI_Irecv(&comm->answers[r], 1, MPI_INT32_T, r, TAG_AGREE, comm->world,
                                 &comm->requests[r - 1]),
                       "MPI_Irecv");
    }
    atomic_store(&comm->counting_arrived, true);
    for (int left = comm->size - 1; left > 0;) {
        int count;
        cps_comm_check(
            comm,
            MPI_Waitsome(comm->size - 1, comm->requests, &count, comm->done, MPI_STATUSES_IGNORE),
            "MPI_Waitsome");
        for (int i = 0; i < count; i++) {
            atomic_store(&comm->arrived[comm->done[i] + 1], true);
        }
        left -= count;
    }
    atomic_store(&comm->counting_arrived, false);
}

/* The lowest rank with a failure of its own; without such, the lowest that repeats another's. */
static verdict judge(const cps_comm *comm) {
    verdict result = {.rank = -1, .code = CPS_OK};
    for (int32_t r = 0; r < comm->size; r++) {
        const int32_t code = comm->answers[r];
        const bool better = result.rank < 0 || result.code == CPS_ERR_PEER;
        if (code != CPS_OK && better && (result.rank < 0 || code != CPS_ERR_PEER)) {
            result = (verdict){.rank = r, .code = code};
        }
    }
    return result;
}

/* Inside enter and leave. */
static verdict ask(cps_comm *comm, int32_t own) {
    verdict result = {.rank = -1, .code = CPS_OK};
    if (comm->rank == 0) {
        comm->answers[0] = own;
        hear_all(comm);
        result = judge(comm);
    } else {
        cps_comm_check(comm, MPI_Send(&own, 1, MPI_INT32_T, 0, TAG_AGREE, comm->world), "MPI_Send");
    }
    cps_comm_check(comm, MPI_Bcast(&result, 2, MPI_INT32_T, 0, comm->world), "MPI_Bcast");
    return result;
}

/* The failing rank's message reaches all; PEER on the others. Inside enter and leave. */
static cps_status spread(cps_comm *comm, verdict result) {
    char message[MESSAGE_BYTES] = "";
    if (comm->rank == result.rank) {
        snprintf(message, sizeof message, "%s", cps_fail_message());
    }
    int length = (int)strlen(message);
    cps_comm_check(comm, MPI_Bcast(&length, 1, MPI_INT, result.rank, comm->world), "MPI_Bcast");
    cps_comm_check(comm, MPI_Bcast(message, length, MPI_CHAR, result.rank, comm->world),
                   "MPI_Bcast");
    message[length] = '\0';
    if (comm->rank == result.rank) {
        return (cps_status)result.code;
    }
    if (result.code == CPS_ERR_PEER) { /* the message names its rank already */
        return cps_fail(CPS_ERR_PEER, "%s", message);
    }
    return cps_fail(CPS_ERR_PEER, "rank %d (%s): %s", result.rank, comm->hosts[result.rank],
                    message);
}

cps_status cps_agree(cps_comm *comm, const char *place, cps_status own) {
    if (comm->size == 1) {
        cps_comm_alive(comm);
        comm->agreed_code = own;
        return own;
    }
    cps_comm_enter(comm, place);
    const verdict result = ask(comm, (int32_t)own);
    cps_status status = CPS_OK;
    if (result.rank >= 0) {
        status = spread(comm, result);
    }
    /* of a repeated failure the first verdict holds the code */
    if (result.code != CPS_ERR_PEER) {
        comm->agreed_code = (cps_status)result.code;
    } else if (comm->agreed_code == CPS_OK) {
        comm->agreed_code = CPS_ERR_INTERNAL;
    }
    cps_comm_leave(comm);
    return status;
}

cps_status cps_agreed_code(const cps_comm *comm) {
    return comm->agreed_code;
}

bool cps_agree_any(cps_comm *comm, const char *place, bool own) {
    if (comm->size == 1) {
        cps_comm_alive(comm);
        return own;
    }
    cps_comm_enter(comm, place);
    const verdict result = ask(comm, own ? 1 : 0);
    cps_comm_leave(comm);
    return result.rank >= 0;
}

/* ---- equality -------------------------------------------------------------------------------- */

/* "key\0value\0key\0value\0", malloc'ed. */
static char *join_pairs(const char *const *keys, const char *const *values, int64_t count,
                        size_t *length_out) {
    size_t length = 1;
    for (int64_t i = 0; i < count; i++) {
        length += strlen(keys[i]) + strlen(values[i] != NULL ? values[i] : "") + 2;
    }
    char *joined = malloc(length);
    CPS_BUG_IF(joined == NULL);
    size_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        const char *value = values[i] != NULL ? values[i] : "";
        memcpy(joined + used, keys[i], strlen(keys[i]) + 1);
        used += strlen(keys[i]) + 1;
        memcpy(joined + used, value, strlen(value) + 1);
        used += strlen(value) + 1;
    }
    *length_out = used;
    return joined;
}

/* This rank's pairs against rank 0's text. */
static cps_status compare_pairs(const cps_comm *comm, const char *theirs, size_t length,
                                const char *const *keys, const char *const *values, int64_t count) {
    const char *at = theirs, *end = theirs + length;
    for (int64_t i = 0; i < count; i++) {
        const char *own_value = values[i] != NULL ? values[i] : "";
        const char *key = at < end ? at : "(none)";
        at = at < end ? at + strlen(at) + 1 : at;
        const char *value = at < end ? at : "";
        at = at < end ? at + strlen(at) + 1 : at;
        if (strcmp(key, keys[i]) != 0) {
            return cps_fail(
                CPS_ERR_USAGE,
                "the ranks run different programs: this rank compares '%s', rank 0 (%s) "
                "'%s'; start the same build everywhere",
                keys[i], comm->hosts[0], key);
        }
        if (strcmp(value, own_value) != 0) {
            return cps_fail(CPS_ERR_USAGE,
                            "'%s' is '%s' here and '%s' on rank 0 (%s); it must be the same on all "
                            "ranks, or their results would differ",
                            keys[i], own_value, value, comm->hosts[0]);
        }
    }
    if (at < end) {
        return cps_fail(
            CPS_ERR_USAGE,
            "the ranks run different programs: rank 0 (%s) also compares '%s'; start the "
            "same build everywhere",
            comm->hosts[0], at);
    }
    return CPS_OK;
}

cps_status cps_agree_equal(cps_comm *comm, const char *place, const char *const *keys,
                           const char *const *values, int64_t count) {
    void *text = NULL;
    size_t length = 0;
    if (comm->rank == 0) {
        text = join_pairs(keys, values, count, &length);
    }
    cps_comm_broadcast_alloc(comm, place, &text, &length, 0);
    const cps_status own = compare_pairs(comm, text, length, keys, values, count);
    free(text);
    return cps_agree(comm, place, own);
}

/* ---- faults on demand ------------------------------------------------------------------------ */

cps_status cps_fault_parse(cps_comm *comm, const char *text) {
    if (text == NULL || text[0] == '\0') {
        return CPS_OK;
    }
    long long rank, step;
    char site[sizeof comm->fault_site], rest;
    if (sscanf(text, "%31[a-z_],%lld,%lld%c", site, &rank, &step, &rest) != 3) {
        return cps_fail(
            CPS_ERR_USAGE,
            "CPS_FAULT is '%s', 'site,rank,step' is wanted, such as 'read,1,3': correct "
            "or unset it",
            text);
    }
    memcpy(comm->fault_site, site, sizeof site);
    comm->fault_rank = rank;
    comm->fault_step = step;
    return CPS_OK;
}

bool cps_fault_here(const cps_comm *comm, const char *site, int64_t step) {
    return comm->fault_site[0] != '\0' && comm->fault_rank == comm->rank &&
           comm->fault_step == step && strcmp(comm->fault_site, site) == 0;
}
