/* The compute threads. cps_parallel(n, body, context) runs body(context, i) for i in 0..n-1, each
 * exactly once, on the pool's threads and the caller; returns when all are done. What runs where is
 * not fixed, so bodies write disjoint places and never add across indices. Nested calls (from a
 * body) run serially in place. One pool a process; made once at start; cps_parallel is called from
 * one thread at a time (loader threads never call it). */
#ifndef CPS_BASE_POOL_H
#define CPS_BASE_POOL_H

#include "base/status.h"

typedef void (*cps_parallel_body)(void *context, int64_t index);

/* threads >= 1, the caller included. A second call ends the first pool. */
cps_status cps_pool_start(int32_t threads) CPS_MUST_CHECK;
void cps_pool_stop(void);
int32_t cps_pool_threads(void); /* 1 before start */
void cps_parallel(int64_t n, cps_parallel_body body, void *context);

#endif
