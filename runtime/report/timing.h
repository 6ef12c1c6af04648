/* Wall clock by phase of a run (loader, forward, exchange, evaluation, ...) and the peak of memory.
 * A phase that begins inside another one takes its time out of it: shares add up to the whole.
 * Local, one thread. */
#ifndef CPS_REPORT_TIMING_H
#define CPS_REPORT_TIMING_H

#include "base/json.h"

enum { CPS_TIMING_PHASES = 32, CPS_TIMING_DEPTH = 16 };

/* Zero-initialise. Names are borrowed, usually literals. */
typedef struct cps_timing {
    int32_t count, depth;
    const char *names[CPS_TIMING_PHASES];
    double seconds[CPS_TIMING_PHASES];
    int64_t calls[CPS_TIMING_PHASES];
    int32_t open[CPS_TIMING_DEPTH]; /* phases under way, innermost last */
    double since;                   /* the innermost one's last start or continuation */
} cps_timing;

void cps_timing_begin(cps_timing *timing, const char *phase);
void cps_timing_end(cps_timing *timing);                                /* of the innermost phase */
double cps_timing_seconds(const cps_timing *timing, const char *phase); /* 0 if never begun */
double cps_timing_total(const cps_timing *timing);
void cps_timing_reset(cps_timing *timing); /* phases that are under way go on from 0 */
/* {"loader": seconds, ...} in order of first use. */
void cps_timing_add_json(const cps_timing *timing, cps_json *object, const char *key);

/* Most resident memory this process ever had (VmHWM), in bytes; 0 where the system does not tell.
 */
int64_t cps_peak_memory_bytes(void);
/* Resident memory of this process now (VmRSS), in bytes; 0 where the system does not tell. */
int64_t cps_resident_memory_bytes(void);

#endif
