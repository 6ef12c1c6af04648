/* The ranks: the only user of mpi.h besides main's start and end. MPI moves bytes here and never
 * adds anything that reaches parameters, metrics or decisions (canonical.h adds). "Collective"
 * calls must be made by all ranks in the same order. An MPI call that fails is fatal for all ranks
 * (agree.h). Call from the main thread. */
#ifndef CPS_COMM_COMM_H
#define CPS_COMM_COMM_H

#include "base/status.h"

typedef struct cps_comm cps_comm;

/* Collective. Starts MPI (thread level SERIALIZED at least) and duplicates the world; sets what
 * Debian's Open MPI 4.1 needs before MPI_Init (fbtl_posix_read_datasieving=0). Works as a lone
 * process without a launcher. */
cps_status cps_comm_start(int *argc, char ***argv, cps_comm **comm_out) CPS_MUST_CHECK;
void cps_comm_end(
    cps_comm *comm); /* Collective. NULL-safe. Only after all ranks agreed to leave. */

int32_t cps_comm_rank(const cps_comm *comm);
int32_t cps_comm_size(const cps_comm *comm);
int32_t cps_comm_local_rank(const cps_comm *comm); /* among the ranks of this host */
int32_t cps_comm_local_size(const cps_comm *comm);
const char *cps_comm_host(const cps_comm *comm);
/* Hosts of all ranks with their numbers of ranks, in order of the first: "n01*4 n02*4"; malloc'ed.
 */
char *cps_comm_hosts(const cps_comm *comm);
/* Name of the collective under way, for the watchdog and for messages; "" outside. */
void cps_comm_set_stage(cps_comm *comm, const char *what);

/* Collective. Every call has a name of its place in the program, for the watchdog. Sizes are bytes
 * and may exceed 2 GiB (cut into pieces inside). */
void cps_comm_barrier(cps_comm *comm, const char *place);
void cps_comm_broadcast(cps_comm *comm, const char *place, void *bytes, size_t length,
                        int32_t root);
/* Rank r gives bytes[r] bytes; all get the concatenation in rank order in `all` (sum of bytes). */
void cps_comm_allgatherv(cps_comm *comm, const char *place, const void *own, void *all,
                         const int64_t *bytes);
/* As above where own bytes lie already at their place inside `all`. */
void cps_comm_allgatherv_inplace(cps_comm *comm, const char *place, void *all,
                                 const int64_t *bytes);
/* As allgatherv, to `root` alone. */
void cps_comm_gatherv(cps_comm *comm, const char *place, const void *own, void *all,
                      const int64_t *bytes, int32_t root);
/* Collective convenience: root's malloc'ed bytes reach all ranks as malloc'ed bytes; on root in ==
 * out. */
void cps_comm_broadcast_alloc(cps_comm *comm, const char *place, void **bytes, size_t *length,
                              int32_t root);

/* Point to point, nonblocking: a set of transfers that moves forward when polled. Tags distinguish
 * transfers between one pair of ranks (0 .. 2^20-1). Buffers stay untouched until finished. */
typedef struct cps_exchange cps_exchange;
cps_status cps_exchange_create(cps_comm *comm, const char *place, int64_t max_transfers,
                               cps_exchange **exchange_out) CPS_MUST_CHECK;
void cps_exchange_destroy(cps_exchange *exchange);
void cps_exchange_send(cps_exchange *exchange, int32_t to, int32_t tag, const void *bytes,
                       size_t length);
void cps_exchange_receive(cps_exchange *exchange, int32_t from, int32_t tag, void *bytes,
                          size_t length);
void cps_exchange_poll(cps_exchange *exchange); /* Local: drives MPI without waiting */
void cps_exchange_finish(
    cps_exchange *exchange); /* waits for all; the set is empty afterwards and can be used again */

/* Nonblocking allgatherv in place over the ranks, driven by polls, for weights after the update.
 * One at a time per id. */
typedef struct cps_pending_gather cps_pending_gather;
cps_status cps_gather_begin(cps_comm *comm, const char *place, void *all, const int64_t *bytes,
                            cps_pending_gather **gather_out) CPS_MUST_CHECK;
bool cps_gather_poll(cps_pending_gather *gather);   /* true when complete */
void cps_gather_finish(cps_pending_gather *gather); /* waits and frees */

/* Bytes this rank has sent and received since start. */
void cps_comm_traffic(const cps_comm *comm, uint64_t *sent_out, uint64_t *received_out);

#endif
