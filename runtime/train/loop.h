/* A training run from the resolved job to the last checkpoint: stages, steps, evaluations,
 * checkpoints, signals, report. Collective throughout: every rank calls with equal arguments. */
#ifndef CPS_TRAIN_LOOP_H
#define CPS_TRAIN_LOOP_H

#include "base/json.h"
#include "comm/comm.h"
#include "plugin/loader.h"

/* What the loop asks of the job layer, which stands to the right of it. Called on rank 0 alone. */
typedef struct cps_job_calls {
    void *context;
    /* Copy of stage `stage` with schedule functions tabulated over `total` steps. */
    cps_status (*stage)(void *context, int64_t stage, int64_t total, cps_json **stage_out);
    cps_status (*on_evaluate)(void *context, const cps_json *metrics, cps_json **state_inout,
                              bool *stop_out);
} cps_job_calls;

typedef struct cps_run_options {
    const char *name;         /* of the run; NULL: the job's */
    const char *runs;         /* folder of runs */
    bool fresh;               /* move an older run of this name aside */
    int64_t until;            /* stop there with a checkpoint; -1: no */
    bool evaluate;            /* before it stops there, evaluate; nothing of the run heeds it */
    bool other_bits;          /* go on with another build or CPU family */
    int32_t threads;          /* compute threads of this rank */
    const char *job_source;   /* the resolved job as Lua text, rank 0 (may be NULL on others) */
    const char *command_line; /* for provenance */
} cps_run_options;

/* Trains and evaluates. CPS_ERR_SIGNAL: checkpointed after a signal. Messages for people go through
 * base/log on rank 0. */
cps_status cps_train(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                     const cps_job_calls *calls, const cps_run_options *options) CPS_MUST_CHECK;
/* The job's evaluations on a checkpoint or weights file. */
cps_status cps_evaluate_job(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                            const cps_job_calls *calls, const char *checkpoint,
                            const cps_run_options *options) CPS_MUST_CHECK;
/* Everything that can be known before allocation: prints steps per epoch, memory per rank for
 * `ranks` ranks, truncated captions, left-out records, estimated floating-point work. `facts`
 * (NULL: not wanted) gets what programs ask: name, ranks, stages with name, steps, memory_bytes of
 * a rank. */
cps_status cps_check_job(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                         const cps_job_calls *calls, const cps_run_options *options, int32_t ranks,
                         cps_json *facts) CPS_MUST_CHECK;

/* Installs the handlers of SIGUSR1, SIGTERM, SIGINT that only set a flag; before MPI starts. A
 * second SIGINT ends at once. */
void cps_signals_install(void);
bool cps_signal_seen(void);

#endif
