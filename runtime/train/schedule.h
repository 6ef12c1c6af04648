/* Learning-rate schedules, tabulated in double for all steps of a stage before the first. Local. */
#ifndef CPS_TRAIN_SCHEDULE_H
#define CPS_TRAIN_SCHEDULE_H

#include "base/json.h"
#include "base/options.h"

typedef enum cps_schedule_kind { CPS_SCHEDULE_CONSTANT, CPS_SCHEDULE_COSINE } cps_schedule_kind;

typedef enum cps_warmup { CPS_WARMUP_LINEAR, CPS_WARMUP_LINSPACE } cps_warmup;

/* Plain values. */
typedef struct cps_schedule {
    cps_schedule_kind kind;
    int64_t warmup_steps, warmup_epochs; /* at most one of them */
    int32_t warmup;                      /* cps_warmup */
    double final;                        /* value that the cosine falls to */
    double final_weight_decay;           /* below 0: weight decay is what the optimizer says */
} cps_schedule;

/* Rows over cps_schedule. */
extern const cps_option cps_constant_options[];
extern const cps_option cps_cosine_options[];

/* `kind`: "constant" or "cosine"; `object` holds the options ("kind" is passed over), NULL for the
 * defaults. */
cps_status cps_schedule_parse(const char *kind, const cps_json *object, const char *where,
                              cps_arena *arena, cps_schedule *out) CPS_MUST_CHECK;

/* values[total]. base: one number, scaled by the schedule, or `total` of them, taken as they are (a
 * schedule other than a constant without warm-up is USAGE then: both would shape the rate).
 *   warm-up  W = warmup_steps or warmup_epochs * steps_per_epoch; for k < W
 *            linear   base (k + 1) / W
 *            linspace base k / (W - 1), 0 for W = 1 (agriclip.md 2.2.6)
 *   cosine   final + (base - final) (1 + cos(pi (k - W) / (total - W))) / 2 after it
 * USAGE where base has another length or W > total. */
cps_status cps_schedule_tabulate(const cps_schedule *schedule, cps_numbers base, const char *where,
                                 int64_t total, int64_t steps_per_epoch,
                                 double *values) CPS_MUST_CHECK;
/* The same of the weight decay, which has no warm-up: base as it is, or on a cosine from base to
 * final_weight_decay. USAGE where the base is a table already. */
cps_status cps_schedule_weight_decay(const cps_schedule *schedule, cps_numbers base,
                                     const char *where, int64_t total,
                                     double *values) CPS_MUST_CHECK;
/* Value of a cps_numbers at step k: the lone number, or its k-th. */
double cps_numbers_at(cps_numbers numbers, int64_t k);

#endif
