/* Start and end, and the blocking collectives. Each tells the watchdog where it is, cuts what is
 * longer than one MPI call takes, and ends all ranks when MPI fails: there is no way on from half a
 * collective. */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "comm/comm_private.h"

enum { WORKSPACE_COUNT = 131072 };

/* ---- whereabouts ----------------------------------------------------------------------------- */

static void copy_name(char *to, const char *name) {
    snprintf(to, CPS_PLACE_BYTES, "%s", name);
}

void cps_comm_enter(cps_comm *comm, const char *place) {
    pthread_mutex_lock(&comm->lock);
    copy_name(comm->where.place, place);
    comm->where.inside = true;
    comm->where.since = cps_seconds();
    pthread_mutex_unlock(&comm->lock);
}

void cps_comm_leave(cps_comm *comm) {
    pthread_mutex_lock(&comm->lock);
    comm->where.inside = false;
    comm->where.since = cps_seconds();
    pthread_mutex_unlock(&comm->lock);
}

void cps_comm_alive(cps_comm *comm) {
    pthread_mutex_lock(&comm->lock);
    comm->where.since = cps_seconds();
    pthread_mutex_unlock(&comm->lock);
}

void cps_comm_set_stage(cps_comm *comm, const char *what) {
    pthread_mutex_lock(&comm->lock);
    copy_name(comm->where.stage, what);
    comm->where.since = cps_seconds();
    pthread_mutex_unlock(&comm->lock);
}

void cps_comm_check(cps_comm *comm, int result, const char *call) {
    if (result == MPI_SUCCESS) {
        return;
    }
    char reason[MPI_MAX_ERROR_STRING] = "unknown error";
    int length;
    MPI_Error_string(result, reason, &length);
    char text[MPI_MAX_ERROR_STRING + 512];
    snprintf(text, sizeof text,
             "%s failed in '%s': %s. A rank may have died or the network broken: look at the first "
             "message of any rank",
             call, comm->where.place, reason);
    cps_comm_abort(comm, text);
}

int cps_comm_piece(const cps_comm *comm, size_t length) {
    return (int)(length < comm->piece_bytes ? length : comm->piece_bytes);
}

/* ---- start and end --------------------------------------------------------------------------- */

/* Everything whose size is known from the world size, so that no collective allocates. */
static bool allocate(cps_comm *comm) {
    const size_t size = (size_t)comm->size;
    const size_t runs = size * CPS_MAX_RUNS;
    comm->workspace_count = cps_max_i64(WORKSPACE_COUNT, (int64_t)runs);
    comm->hosts = calloc(size, sizeof *comm->hosts);
    comm->counts = calloc(size, sizeof *comm->counts);
    comm->offsets = calloc(size, sizeof *comm->offsets);
    comm->bytes = calloc(size, sizeof *comm->bytes);
    comm->first_part = calloc(size + 1, sizeof *comm->first_part);
    comm->node_counts = calloc(size, sizeof *comm->node_counts);
    comm->runs = calloc(runs, sizeof *comm->runs);
    comm->workspace = calloc((size_t)comm->workspace_count, sizeof *comm->workspace);
    comm->answers = calloc(size, sizeof *comm->answers);
    comm->requests = calloc(size, sizeof *comm->requests);
    comm->done = calloc(size, sizeof *comm->done);
    comm->arrived = calloc(size, sizeof *comm->arrived);
    return comm->hosts != NULL && comm->counts != NULL && comm->offsets != NULL &&
           comm->bytes != NULL && comm->first_part != NULL && comm->node_counts != NULL &&
           comm->runs != NULL && comm->workspace != NULL && comm->answers != NULL &&
           comm->requests != NULL && comm->done != NULL && comm->arrived != NULL;
}

static void release(cps_comm *comm) {
    free(comm->hosts);
    free(comm->counts);
    free(comm->offsets);
    free(comm->bytes);
    free(comm->first_part);
    free(comm->node_counts);
    free(comm->runs);
    free(comm->workspace);
    free(comm->answers);
    free(comm->requests);
    free(comm->done);
    free(comm->arrived);
    pthread_cond_destroy(&comm->watchdog_wake);
    pthread_mutex_destroy(&comm->lock);
    free(comm);
}

static void duplicate(cps_comm *comm, MPI_Comm *to) {
    cps_comm_check(comm, MPI_Comm_dup(MPI_COMM_WORLD, to), "MPI_Comm_dup");
    cps_comm_check(comm, MPI_Comm_set_errhandler(*to, MPI_ERRORS_RETURN),
                   "MPI_Comm_set_errhandler");
}

static void learn_hosts(cps_comm *comm) {
    char host[CPS_HOST_BYTES] = "";
    if (gethostname(host, sizeof host - 1) != 0) {
        strcpy(host, "unknown");
    }
    snprintf(comm->hosts[comm->rank], CPS_HOST_BYTES, "%s", host);
    cps_comm_check(comm,
                   MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, comm->hosts, CPS_HOST_BYTES, MPI_BYTE,
                                 comm->world),
                   "MPI_Allgather");
    MPI_Comm local;
    cps_comm_check(
        comm,
        MPI_Comm_split_type(comm->world, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &local),
        "MPI_Comm_split_type");
    int rank, size;
    cps_comm_check(comm, MPI_Comm_rank(local, &rank), "MPI_Comm_rank");
    cps_comm_check(comm, MPI_Comm_size(local, &size), "MPI_Comm_size");
    cps_comm_check(comm, MPI_Comm_free(&local), "MPI_Comm_free");
    comm->local_rank = rank;
    comm->local_size = size;
}

static cps_status start_mpi(int *argc, char ***argv) {
    /* Open MPI 4.1's data sieving returns wrong data from collective strided reads, without an
     * error */
    setenv("OMPI_MCA_fbtl_posix_read_datasieving", "0", 1);
    int level;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &level) != MPI_SUCCESS) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "MPI cannot be started: see the messages above");
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (level < MPI_THREAD_SERIALIZED) {
        MPI_Finalize();
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "this MPI gives thread level %d, %d (MPI_THREAD_SERIALIZED) is needed: use "
                        "an MPI built with threads",
                        level, MPI_THREAD_SERIALIZED);
    }
    return CPS_OK;
}

static cps_comm *make_comm(void) {
    cps_comm *comm = calloc(1, sizeof *comm);
    if (comm == NULL) {
        return NULL;
    }
    int rank, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    comm->rank = rank;
    comm->size = size;
    comm->piece_bytes = CPS_PIECE_BYTES;
    comm->where.since = cps_seconds();
    copy_name(comm->where.place, "start");
    pthread_mutex_init(&comm->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&comm->watchdog_wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (!allocate(comm)) {
        release(comm);
        return NULL;
    }
    return comm;
}

cps_status cps_comm_start(int *argc, char ***argv, cps_comm **comm_out) {
    CPS_TRY(start_mpi(argc, argv));
    cps_comm *comm = make_comm();
    CPS_BUG_IF(comm == NULL); /* a few KiB; the other ranks wait already */
    duplicate(comm, &comm->world);
    duplicate(comm, &comm->transfer);
    duplicate(comm, &comm->gather);
    learn_hosts(comm);
    cps_agree_install_panic(comm);
    const cps_status own = cps_fault_parse(comm, getenv("CPS_FAULT"));
    if (cps_agree(comm, "start", own) != CPS_OK) {
        const cps_status code = comm->agreed_code; /* nobody can ask for it later: all return it */
        cps_comm_end(comm);
        return code;
    }
    *comm_out = comm;
    return CPS_OK;
}

void cps_comm_end(cps_comm *comm) {
    if (comm == NULL) {
        return;
    }
    cps_watchdog_stop(comm);
    cps_gather_free_spares(comm);
    cps_comm_check(comm, MPI_Comm_free(&comm->gather), "MPI_Comm_free");
    cps_comm_check(comm, MPI_Comm_free(&comm->transfer), "MPI_Comm_free");
    cps_comm_check(comm, MPI_Comm_free(&comm->world), "MPI_Comm_free");
    cps_agree_install_panic(NULL);
    MPI_Finalize();
    release(comm);
}

int32_t cps_comm_rank(const cps_comm *comm) {
    return comm->rank;
}

int32_t cps_comm_size(const cps_comm *comm) {
    return comm->size;
}

int32_t cps_comm_local_rank(const cps_comm *comm) {
    return comm->local_rank;
}

int32_t cps_comm_local_size(const cps_comm *comm) {
    return comm->local_size;
}

const char *cps_comm_host(const cps_comm *comm) {
    return comm->hosts[comm->rank];
}

char *cps_comm_hosts(const cps_comm *comm) {
    char *text = cps_format("%s", "");
    for (int32_t r = 0; r < comm->size; r++) {
        int32_t same = 0, before = 0;
        for (int32_t other = 0; other < comm->size; other++) {
            const bool equal = strcmp(comm->hosts[other], comm->hosts[r]) == 0;
            same += equal;
            before += equal && other < r;
        }
        if (before == 0) {
            char *longer = cps_format("%s%s%s*%d", text, text[0] != '\0' ? " " : "", comm->hosts[r],
                                      (int)same);
            free(text);
            text = longer;
        }
    }
    return text;
}

void cps_comm_traffic(const cps_comm *comm, uint64_t *sent_out, uint64_t *received_out) {
    *sent_out = comm->sent;
    *received_out = comm->received;
}

/* ---- collectives ----------------------------------------------------------------------------- */

void cps_comm_barrier(cps_comm *comm, const char *place) {
    cps_comm_enter(comm, place);
    cps_comm_check(comm, MPI_Barrier(comm->world), "MPI_Barrier");
    cps_comm_leave(comm);
}

static void broadcast_pieces(cps_comm *comm, void *bytes, size_t length, int32_t root) {
    char *at = bytes;
    for (size_t left = length; left > 0;) {
        const int piece = cps_comm_piece(comm, left);
        cps_comm_check(comm, MPI_Bcast(at, piece, MPI_BYTE, root, comm->world), "MPI_Bcast");
        cps_comm_alive(comm);
        at += piece;
        left -= (size_t)piece;
    }
    if (comm->rank == root) {
        comm->sent += length * (uint64_t)(comm->size - 1);
    } else {
        comm->received += length;
    }
}

void cps_comm_broadcast(cps_comm *comm, const char *place, void *bytes, size_t length,
                        int32_t root) {
    cps_comm_enter(comm, place);
    broadcast_pieces(comm, bytes, length, root);
    cps_comm_leave(comm);
}

void cps_comm_broadcast_alloc(cps_comm *comm, const char *place, void **bytes, size_t *length,
                              int32_t root) {
    uint64_t total = *length;
    cps_comm_broadcast(comm, place, &total, sizeof total, root);
    if (comm->rank != root) {
        char *copy = total < SIZE_MAX ? malloc((size_t)total + 1) : NULL;
        CPS_BUG_IF(copy == NULL); /* root holds the same bytes; the others wait already */
        copy[total] = '\0';
        *bytes = copy;
        *length = (size_t)total;
    }
    cps_comm_broadcast(comm, place, *bytes, (size_t)total, root);
}

/* Sum of all ranks' bytes. */
static size_t total_bytes(const cps_comm *comm, const int64_t *bytes) {
    size_t total = 0;
    for (int32_t r = 0; r < comm->size; r++) {
        CPS_BUG_IF(bytes[r] < 0 || !cps_add_size(total, (size_t)bytes[r], &total));
    }
    return total;
}

/* Bytes before those of `rank`. */
static size_t offset_of(const int64_t *bytes, int32_t rank) {
    size_t offset = 0;
    for (int32_t r = 0; r < rank; r++) {
        offset += (size_t)bytes[r];
    }
    return offset;
}

static void allgather_small(cps_comm *comm, void *all, const int64_t *bytes) {
    int offset = 0;
    for (int32_t r = 0; r < comm->size; r++) {
        comm->counts[r] = (int)bytes[r];
        comm->offsets[r] = offset;
        offset += comm->counts[r];
    }
    cps_comm_check(comm,
                   MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, all, comm->counts, comm->offsets,
                                  MPI_BYTE, comm->world),
                   "MPI_Allgatherv");
    const uint64_t own = (uint64_t)bytes[comm->rank];
    comm->sent += own * (uint64_t)(comm->size - 1);
    comm->received += (uint64_t)offset - own;
}

void cps_comm_allgatherv_inplace(cps_comm *comm, const char *place, void *all,
                                 const int64_t *bytes) {
    const size_t total = total_bytes(comm, bytes);
    cps_comm_enter(comm, place);
    if (total <= comm->piece_bytes) {
        allgather_small(comm, all, bytes);
    } else { /* offsets would not fit MPI's int: one broadcast a rank */
        char *at = all;
        for (int32_t r = 0; r < comm->size; r++) {
            broadcast_pieces(comm, at, (size_t)bytes[r], r);
            at += bytes[r];
        }
    }
    cps_comm_leave(comm);
}

void cps_comm_allgatherv(cps_comm *comm, const char *place, const void *own, void *all,
                         const int64_t *bytes) {
    if (bytes[comm->rank] > 0) {
        memmove((char *)all + offset_of(bytes, comm->rank), own, (size_t)bytes[comm->rank]);
    }
    cps_comm_allgatherv_inplace(comm, place, all, bytes);
}

enum { TAG_GATHER = 2 }; /* on `world`; agree.c has 1 */

static void send_pieces(cps_comm *comm, const char *bytes, size_t length, int32_t to) {
    comm->sent += length;
    while (length > 0) {
        const int piece = cps_comm_piece(comm, length);
        cps_comm_check(comm, MPI_Send(bytes, piece, MPI_BYTE, to, TAG_GATHER, comm->world),
                       "MPI_Send");
        cps_comm_alive(comm);
        bytes += piece;
        length -= (size_t)piece;
    }
}

static void receive_pieces(cps_comm *comm, char *bytes, size_t length, int32_t from) {
    comm->received += length;
    while (length > 0) {
        const int piece = cps_comm_piece(comm, length);
        MPI_Status status;
        cps_comm_check(comm,
                       MPI_Recv(bytes, piece, MPI_BYTE, from, TAG_GATHER, comm->world, &status),
                       "MPI_Recv");
        int count;
        MPI_Get_count(&status, MPI_BYTE, &count);
        CPS_BUG_IF(count != piece); /* the ranks disagree about the sizes */
        cps_comm_alive(comm);
        bytes += piece;
        length -= (size_t)piece;
    }
}

void cps_comm_gatherv(cps_comm *comm, const char *place, const void *own, void *all,
                      const int64_t *bytes, int32_t root) {
    const size_t own_bytes = (size_t)bytes[comm->rank];
    CPS_BUG_IF(bytes[comm->rank] < 0);
    cps_comm_enter(comm, place);
    if (comm->rank != root) {
        send_pieces(comm, own, own_bytes, root);
    } else {
        total_bytes(comm, bytes); /* refuses sizes that lie */
        char *at = all;
        for (int32_t r = 0; r < comm->size; r++) {
            if (r != root) {
                receive_pieces(comm, at, (size_t)bytes[r], r);
            } else if (own_bytes > 0) {
                memmove(at, own, own_bytes);
            }
            at += bytes[r];
        }
    }
    cps_comm_leave(comm);
}
