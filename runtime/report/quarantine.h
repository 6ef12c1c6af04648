/* quarantine.jsonl: images that could not be read, each once: {"file":..,"record":..,"id":..,
 * "reason":..}. Any rank notes what it met; a collective flush brings the notes to rank 0, which
 * writes those it has not written yet, earlier sessions of the run included. */
#ifndef CPS_REPORT_QUARANTINE_H
#define CPS_REPORT_QUARANTINE_H

#include "comm/comm.h"

typedef struct cps_quarantine cps_quarantine;

/* Local. path: on rank 0; NULL elsewhere (or to write nothing). Reads what is there already. */
cps_status cps_quarantine_create(const char *path, cps_quarantine **quarantine_out) CPS_MUST_CHECK;
void cps_quarantine_destroy(cps_quarantine *quarantine); /* NULL-safe; drops unflushed notes */
/* Local. Notes seen on this rank before are dropped. */
cps_status cps_quarantine_note(cps_quarantine *quarantine, const char *file, int64_t record,
                               uint64_t sample_id, const char *reason) CPS_MUST_CHECK;
/* Collective. Agreed. */
cps_status cps_quarantine_flush(cps_quarantine *quarantine, cps_comm *comm) CPS_MUST_CHECK;
/* Distinct images that rank 0 has written, this session and before; equal on all ranks after a
 * flush. */
int64_t cps_quarantine_count(const cps_quarantine *quarantine);

#endif
