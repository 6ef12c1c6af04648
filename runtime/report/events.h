/* events.jsonl: what happened in a run, a JSON object a line, for scripts and plots. Rank 0 writes;
 * each line is one write, so a killed run leaves whole lines but for the last. The file is only
 * ever appended to. A resumed run appends {"event":"resume","step":N}; the rule for readers is
 *   - a resume line with step N takes back every earlier line whose "step" is above N;
 *   - of "step" lines with equal "step", and of "evaluation" lines with equal "name", "stage" and
 * "step", the last one counts (what was done again after a resume). cps_events_read applies it. An
 * "end" line says what one session cost; it has no "step" (but "at_step"): time that was spent is
 * never taken back. Local. */
#ifndef CPS_REPORT_EVENTS_H
#define CPS_REPORT_EVENTS_H

#include "base/json.h"

typedef struct cps_events cps_events;

/* Opens for appending, makes the file where it is missing. A last line that a kill cut short is
 * removed first. IO. */
cps_status cps_events_open(const char *path, cps_events **events_out) CPS_MUST_CHECK;
void cps_events_close(cps_events *events); /* NULL-safe */
/* Appends one line. `event`: an object with a string "event" first; non-finite numbers become
 * null. A NULL `events` does nothing: ranks that do not write pass it. */
cps_status cps_events_write(cps_events *events, const cps_json *event) CPS_MUST_CHECK;
/* {"event":"resume","step":N,...members of `more` (may be NULL)}. */
cps_status cps_events_resume(cps_events *events, int64_t step, const cps_json *more) CPS_MUST_CHECK;

/* What counts of a file, as an array in order. A missing file gives an empty array; lines that are
 * no JSON are skipped and counted in *broken_out (may be NULL). */
cps_status cps_events_read(const char *path, cps_json **array_out,
                           int64_t *broken_out) CPS_MUST_CHECK;

#endif
