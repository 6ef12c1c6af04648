/* The table at the end of a run: evaluations, and what `finish` of a stage reports, by metric, last
 * and best values with the step of the best, and below it steps, rate, time and memory. Made from
 * the events of the run, so a resumed run shows all of it. Where stages evaluate one name at one
 * step (stages that fit and make no step), each stage has rows of its own. Returns text; printing
 * is main's. Local.
 */
#ifndef CPS_REPORT_SUMMARY_H
#define CPS_REPORT_SUMMARY_H

#include "base/json.h"

typedef struct cps_summary_facts {
    const char *run;           /* name */
    int64_t steps, skipped;    /* done; of them skipped */
    double seconds;            /* of this process; NaN: unknown */
    double samples_per_second; /* over this process's steps; NaN: unknown */
    int64_t bad_images;
    int64_t peak_memory_bytes; /* most of any rank, 0: unknown */
    int32_t ranks, threads;    /* threads per rank */
    const char *best_metric;   /* that keeps the best checkpoint; marked in the table; NULL: none */
} cps_summary_facts;

/* Whether a member of an evaluation's event is a result, and not about it (its name, step, counts).
 */
bool cps_summary_is_metric(const cps_json *member);
/* `events`: from cps_events_read. less_is_better: cps_metric_less_is_better of eval/config.h,
 * "<evaluation>.<key>". free() the result. */
char *cps_summary_text(const cps_json *events, const cps_summary_facts *facts,
                       bool (*less_is_better)(const char *metric));

#endif
