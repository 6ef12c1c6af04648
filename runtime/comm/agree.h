/* No rank leaves alone. cps_agree makes one status of all ranks' statuses: the lowest failing
 * rank's message reaches all, that rank gets its own code, the others CPS_ERR_PEER with "rank r
 * (host): message" on record. MPI_Abort is called here alone, for: an MPI call that failed, a
 * broken invariant (panic hook), the watchdog. */
#ifndef CPS_COMM_AGREE_H
#define CPS_COMM_AGREE_H

#include "comm/comm.h"

/* Collective. */
cps_status cps_agree(cps_comm *comm, const char *place, cps_status own) CPS_MUST_CHECK;
/* The code that the whole program exits with after an agreed failure: the failing rank's own code,
 * known to all ranks. */
cps_status cps_agreed_code(const cps_comm *comm);

/* Collective. All ranks' (key, value) texts must be equal; the message names the first differing
 * key, both values and both ranks. keys/values: `count` strings, same keys on all ranks. USAGE when
 * different. */
cps_status cps_agree_equal(cps_comm *comm, const char *place, const char *const *keys,
                           const char *const *values, int64_t count) CPS_MUST_CHECK;

/* Collective: true on all ranks if any rank passes true (signals). */
bool cps_agree_any(cps_comm *comm, const char *place, bool own);

/* A thread that aborts all ranks, naming rank, host and collective, when one collective (or the gap
 * between two beats) takes longer than `seconds`. 0 switches it off. */
cps_status cps_watchdog_start(cps_comm *comm, double seconds) CPS_MUST_CHECK;
void cps_watchdog_beat(cps_comm *comm); /* long local work calls this now and then */
void cps_watchdog_stop(cps_comm *comm);
/* `tell(context)` is called at each cps_watchdog_beat of this rank, there; NULL ends it. */
void cps_watchdog_tell(cps_comm *comm, void (*tell)(void *context), void *context);

/* CPS_FAULT=site,rank,step (tests): true when this rank is to break at this site and step now.
 * Sites: read, head, loss, update, checkpoint, hang, nan, kill. */
bool cps_fault_here(const cps_comm *comm, const char *site, int64_t step);

#endif
