/* Learning-rate schedules, tabulated in double for all steps of a stage before the first. Local. */
#ifndef CPS_TRAIN_SCHEDULE_H
#define CPS_TRAIN_SCHEDULE_H

#include "base/json.h"
#include "base/options.h"

typedef enum cps_schedule_kind { CPS_SCHEDULE_CONSTANT, CPS_SCHEDULE_COSINE } cps_schedule_kind;

/* Plain values. */
typedef struct cps_schedule {
    cps_schedule_kind kind;
    int64_t warmup_steps;
    double final; /* value that the cosine falls to */
} cps_schedule;

/* Rows over cps_schedule. */
extern const cps_option cps_constant_options[];
extern const cps_option cps_cosine_options[];

/* `kind`: "constant" or "cosine"; `object` holds the options ("kind" is passed over), NULL for the
 * defaults. */
cps_status cps_schedule_parse(const char *kind, const cps_json *object, const char *where,
                              cps_arena *arena, cps_schedule *out) CPS_MUST_CHECK;

/* values[total]. base: one number, scaled by the schedule, or `total` of them, taken as they are (a
 * schedule other than a constant without warm-up is USAGE then: both would shape the rate). warm-up
 * base (k + 1) / warmup for k < warmup cosine    final + (base - final) (1 + cos(pi (k - warmup) /
 * (total - warmup))) / 2 after it USAGE where base has another length or warmup > total. */
cps_status cps_schedule_tabulate(const cps_schedule *schedule, cps_numbers base, const char *where,
                                 int64_t total, double *values) CPS_MUST_CHECK;
/* Value of a cps_numbers at step k: the lone number, or its k-th. */
double cps_numbers_at(cps_numbers numbers, int64_t k);

#endif
