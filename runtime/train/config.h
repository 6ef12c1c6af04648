/* Options of a job as a whole, of its stages, checkpoints and early stop, filled from the resolved
 * job's JSON. Plain values; strings belong to the arena that was given. Options of optimizers and
 * schedules live with those. Local. */
#ifndef CPS_TRAIN_CONFIG_H
#define CPS_TRAIN_CONFIG_H

#include "base/options.h"

typedef enum cps_reproducible { CPS_REPRODUCIBLE_WORLD, CPS_REPRODUCIBLE_RUN } cps_reproducible;
typedef enum cps_precision {
    CPS_PRECISION_FP32,
    CPS_PRECISION_BF16,
    CPS_PRECISION_AUTO
} cps_precision;
typedef enum cps_tail { CPS_TAIL_DROP, CPS_TAIL_KEEP } cps_tail;

typedef struct cps_job_options {
    const char *name; /* of the run: letters, digits, '.', '_', '-' */
    int64_t seed;
    int32_t reproducible; /* cps_reproducible */
    int32_t precision;    /* cps_precision */
    int64_t parts;        /* most parts of a global batch, hence most ranks */
    double watchdog_seconds;
    int64_t max_bad;           /* bad images before the run ends; -1: no limit */
    int64_t max_skipped_steps; /* skipped steps in a row before the run ends; -1: the objective's */
    bool has_on_evaluate;      /* rank 0: cps_job_on_evaluate */
} cps_job_options;
extern const cps_option cps_job_option_rows[];

typedef struct cps_objective_options {
    const char *name;   /* "agriclip.dino" */
    const char *plugin; /* absolute path of a user's shared object, or NULL: one of ours */
    double weight;      /* of its losses in a composition */
    const cps_json
        *options; /* checked against the objective's rows; borrowed from the stage's JSON */
} cps_objective_options;
/* What every objective takes besides its own rows. */
extern const cps_option cps_objective_common_rows[];

typedef struct cps_named_number {
    const char *name;
    double value;
} cps_named_number;

typedef struct cps_stage_options {
    const char *name;             /* "stage1" unless the job names it */
    int64_t epochs, steps;        /* one of them, the other 0; both 0: the objective's fit alone */
    int64_t global_batch, grain;  /* rows of the clock stream */
    int32_t tail;                 /* cps_tail */
    double grad_clip_norm;        /* of the global norm; 0: none */
    double clip_tensor;           /* of each tensor's norm; 0: none */
    int64_t activation_budget_mb; /* per rank, for tapes that are kept; 0: replay always, -1: no
                                     limit */
    int64_t max_skipped_steps, max_bad; /* the job's unless the stage says otherwise; in a plan the
                                           objective's wish stands in for -1 */
    cps_numbers crop;   /* [2] area of the random resized crop, least and most; {1,1}: evaluation
                           preprocessing */
    cps_numbers aspect; /* [2] its aspect, least and most */
    double flip;        /* probability of a mirrored image */
    /* Not from rows: */
    int64_t objective_count;
    cps_objective_options *objectives;
    const char *embed; /* name of the objective whose embed counts */
    int64_t row_count;
    cps_named_number *rows; /* stream -> rows per grain; streams not named: the grain */
    cps_lines train;        /* patterns of what learns; count 0: all that the objective reaches */
    int64_t lr_factor_count;
    cps_named_number *lr_factors; /* pattern -> factor, first match wins */
    const char *optimizer_kind;   /* "adamw", ...; NULL without steps */
    const cps_json *optimizer;    /* its object, "kind" included; borrowed. Values of schedule
                                     functions are arrays by then */
    const char *schedule_kind;    /* "constant", "cosine" */
    const cps_json *schedule;
} cps_stage_options;
extern const cps_option cps_stage_rows[];

typedef struct cps_checkpoint_options {
    int64_t steps;    /* every so many, 0: no */
    double seconds;   /* every so many, 0: no */
    int64_t keep;     /* the last ones */
    const char *best; /* metric whose best checkpoint is kept too, or NULL */
} cps_checkpoint_options;
extern const cps_option cps_checkpoint_rows[];

typedef struct cps_early_stop_options {
    const char *metric; /* NULL: no early stop */
    int64_t patience;   /* evaluations without a better value before the stage ends */
    double min_delta;   /* what counts as better */
} cps_early_stop_options;
extern const cps_option cps_early_stop_rows[];

/* From the root of the resolved job. */
cps_status cps_job_options_parse(const cps_json *job, cps_arena *arena,
                                 cps_job_options *out) CPS_MUST_CHECK;
cps_status cps_checkpoint_options_parse(const cps_json *job, cps_arena *arena,
                                        cps_checkpoint_options *out) CPS_MUST_CHECK;
cps_status cps_early_stop_options_parse(const cps_json *job, cps_arena *arena,
                                        cps_early_stop_options *out) CPS_MUST_CHECK;
/* One element of `stages`; `where` for messages ("stages[1]"). The JSON must outlive `out`. */
cps_status cps_stage_options_parse(const cps_json *stage, const char *where, cps_arena *arena,
                                   cps_stage_options *out) CPS_MUST_CHECK;

#endif
