/* Transfers that move when polled. A transfer over 1 GiB is several requests with one tag: MPI
 * keeps their order between two ranks. Requests stay packed at the front of their arrays, so
 * polling costs what is still under way. */
#include <stdlib.h>

#include "base/numeric.h"
#include "comm/comm.h"
#include "comm/comm_private.h"

enum { MAX_TAG = (1 << 20) - 1 };

typedef struct transfers {
    cps_comm *comm;
    char place[CPS_PLACE_BYTES];
    MPI_Comm channel;
    MPI_Request *requests; /* [capacity], [0, active) under way */
    int *expected;         /* [capacity] bytes of a receive; -1: a send */
    int32_t *peers;        /* [capacity] */
    int *finished;         /* [capacity] */
    MPI_Status *statuses;  /* [capacity] */
    int64_t active, capacity;
} transfers;

struct cps_exchange {
    transfers set;
};

struct cps_pending_gather {
    transfers set;
    cps_pending_gather *next_spare;
};

static void free_transfers(transfers *set) {
    free(set->requests);
    free(set->expected);
    free(set->peers);
    free(set->finished);
    free(set->statuses);
}

/* Room for `capacity` requests; false, with the set as it was, when memory is out. */
static bool reserve(transfers *set, int64_t capacity) {
    if (capacity <= set->capacity) {
        return true;
    }
    const size_t count = (size_t)capacity;
    MPI_Request *requests = realloc(set->requests, count * sizeof *requests);
    set->requests = requests != NULL ? requests : set->requests;
    int *expected = realloc(set->expected, count * sizeof *expected);
    set->expected = expected != NULL ? expected : set->expected;
    int32_t *peers = realloc(set->peers, count * sizeof *peers);
    set->peers = peers != NULL ? peers : set->peers;
    int *finished = realloc(set->finished, count * sizeof *finished);
    set->finished = finished != NULL ? finished : set->finished;
    MPI_Status *statuses = realloc(set->statuses, count * sizeof *statuses);
    set->statuses = statuses != NULL ? statuses : set->statuses;
    if (requests == NULL || expected == NULL || peers == NULL || finished == NULL ||
        statuses == NULL) {
        return false;
    }
    set->capacity = capacity;
    return true;
}

static void set_up(transfers *set, cps_comm *comm, MPI_Comm channel, const char *place) {
    set->comm = comm;
    set->channel = channel;
    size_t i = 0;
    for (; place[i] != '\0' && i + 1 < sizeof set->place; i++) {
        set->place[i] = place[i];
    }
    set->place[i] = '\0';
}

static void start_piece(transfers *set, int32_t peer, int32_t tag, char *bytes, int piece,
                        bool sending) {
    if (set->active == set->capacity) {
        CPS_BUG_IF(!reserve(set, 2 * set->capacity + 8)); /* only for pieces of huge transfers */
    }
    MPI_Request *request = &set->requests[set->active];
    set->expected[set->active] = sending ? -1 : piece;
    set->peers[set->active] = peer;
    if (sending) {
        cps_comm_check(set->comm,
                       MPI_Isend(bytes, piece, MPI_BYTE, peer, tag, set->channel, request),
                       "MPI_Isend");
    } else {
        cps_comm_check(set->comm,
                       MPI_Irecv(bytes, piece, MPI_BYTE, peer, tag, set->channel, request),
                       "MPI_Irecv");
    }
    set->active++;
}

/* An empty transfer is one empty message, so that both sides count alike. */
static void start(transfers *set, int32_t peer, int32_t tag, char *bytes, size_t length,
                  bool sending) {
    CPS_BUG_IF(tag < 0 || tag > MAX_TAG || peer < 0 || peer >= set->comm->size);
    size_t left = length;
    do {
        const int piece = cps_comm_piece(set->comm, left);
        start_piece(set, peer, tag, bytes, piece, sending);
        bytes = length > 0 ? bytes + piece : bytes;
        left -= (size_t)piece;
    } while (left > 0);
    if (sending) {
        set->comm->sent += length;
    } else {
        set->comm->received += length;
    }
}

/* Takes `count` ended requests out. */
static void retire(transfers *set, int count) {
    for (int i = 0; i < count; i++) {
        const int at = set->finished[i];
        if (set->expected[at] >= 0) {
            int got;
            MPI_Get_count(&set->statuses[i], MPI_BYTE, &got);
            CPS_BUG_IF(got != set->expected[at]); /* the ranks disagree about the sizes */
        }
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < set->active; i++) {
        if (set->requests[i] != MPI_REQUEST_NULL) {
            set->requests[kept] = set->requests[i];
            set->expected[kept] = set->expected[i];
            set->peers[kept] = set->peers[i];
            kept++;
        }
    }
    set->active = kept;
}

static void poll(transfers *set) {
    if (set->active == 0) {
        return;
    }
    int count;
    cps_comm_check(
        set->comm,
        MPI_Testsome(cps_to_int(set->active), set->requests, &count, set->finished, set->statuses),
        "MPI_Testsome");
    if (count > 0) {
        retire(set, count);
    }
}

/* Tells the watchdog whom this rank waits for. */
static void name_awaited(const transfers *set) {
    atomic_bool *arrived = set->comm->arrived;
    for (int32_t r = 0; r < set->comm->size; r++) {
        atomic_store(&arrived[r], true);
    }
    for (int64_t i = 0; i < set->active; i++) {
        atomic_store(&arrived[set->peers[i]], false);
    }
}

static void finish(transfers *set) {
    if (set->active == 0) {
        return;
    }
    cps_comm_enter(set->comm, set->place);
    name_awaited(set);
    atomic_store(&set->comm->counting_arrived, true);
    while (set->active > 0) {
        int count;
        cps_comm_check(set->comm,
                       MPI_Waitsome(cps_to_int(set->active), set->requests, &count, set->finished,
                                    set->statuses),
                       "MPI_Waitsome");
        retire(set, count);
        name_awaited(set);
        cps_comm_alive(set->comm);
    }
    atomic_store(&set->comm->counting_arrived, false);
    cps_comm_leave(set->comm);
}

/* ---- exchange -------------------------------------------------------------------------------- */

cps_status cps_exchange_create(cps_comm *comm, const char *place, int64_t max_transfers,
                               cps_exchange **exchange_out) {
    cps_exchange *exchange = calloc(1, sizeof *exchange);
    if (exchange == NULL || !reserve(&exchange->set, cps_max_i64(max_transfers, 1))) {
        cps_exchange_destroy(exchange);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld transfers of '%s'",
                        (long long)max_transfers, place);
    }
    set_up(&exchange->set, comm, comm->transfer, place);
    *exchange_out = exchange;
    return CPS_OK;
}

void cps_exchange_destroy(cps_exchange *exchange) {
    if (exchange != NULL) {
        CPS_BUG_IF(exchange->set.active > 0);
        free_transfers(&exchange->set);
        free(exchange);
    }
}

void cps_exchange_send(cps_exchange *exchange, int32_t to, int32_t tag, const void *bytes,
                       size_t length) {
    start(&exchange->set, to, tag, (char *)(uintptr_t)bytes, length, true); /* MPI only reads it */
}

void cps_exchange_receive(cps_exchange *exchange, int32_t from, int32_t tag, void *bytes,
                          size_t length) {
    start(&exchange->set, from, tag, bytes, length, false);
}

void cps_exchange_poll(cps_exchange *exchange) {
    poll(&exchange->set);
}

void cps_exchange_finish(cps_exchange *exchange) {
    finish(&exchange->set);
}

/* ---- gather ---------------------------------------------------------------------------------- */

static cps_pending_gather *take_gather(cps_comm *comm) {
    cps_pending_gather *gather = comm->spare_gathers;
    if (gather != NULL) {
        comm->spare_gathers = gather->next_spare;
        return gather;
    }
    gather = calloc(1, sizeof *gather);
    if (gather != NULL && !reserve(&gather->set, 2 * (int64_t)comm->size)) {
        free_transfers(&gather->set);
        free(gather);
        return NULL;
    }
    return gather;
}

static void give_gather(cps_pending_gather *gather) {
    cps_comm *comm = gather->set.comm;
    gather->next_spare = comm->spare_gathers;
    comm->spare_gathers = gather;
}

void cps_gather_free_spares(cps_comm *comm) {
    while (comm->spare_gathers != NULL) {
        cps_pending_gather *gather = comm->spare_gathers;
        comm->spare_gathers = gather->next_spare;
        free_transfers(&gather->set);
        free(gather);
    }
}

cps_status cps_gather_begin(cps_comm *comm, const char *place, void *all, const int64_t *bytes,
                            cps_pending_gather **gather_out) {
    cps_pending_gather *gather = take_gather(comm);
    if (gather == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the gather '%s'", place);
    }
    transfers *set = &gather->set;
    set_up(set, comm, comm->gather, place);
    const int32_t tag = comm->gather_tag;
    comm->gather_tag = tag < MAX_TAG ? tag + 1 : 0;
    char *at = all, *own = all;
    for (int32_t r = 0; r < comm->size; r++) {
        CPS_BUG_IF(bytes[r] < 0);
        if (r == comm->rank) {
            own = at;
        } else if (bytes[r] > 0) {
            start(set, r, tag, at, (size_t)bytes[r], false);
        }
        at = bytes[r] > 0 ? at + bytes[r] : at;
    }
    /* each rank starts with its right neighbour, so that nobody gets everything at once */
    for (int32_t i = 1; i < comm->size && bytes[comm->rank] > 0; i++) {
        start(set, (comm->rank + i) % comm->size, tag, own, (size_t)bytes[comm->rank], true);
    }
    *gather_out = gather;
    return CPS_OK;
}

bool cps_gather_poll(cps_pending_gather *gather) {
    poll(&gather->set);
    return gather->set.active == 0;
}

void cps_gather_finish(cps_pending_gather *gather) {
    finish(&gather->set);
    give_gather(gather);
}
