/* The loop's own parts: state that goes into checkpoints (state.c), reports (loop_report.c),
 * evaluations (evaluation.c), fit (fit.c). */
#ifndef CPS_TRAIN_LOOP_PRIVATE_H
#define CPS_TRAIN_LOOP_PRIVATE_H

#include "report/events.h"
#include "report/heartbeat.h"
#include "report/progress.h"
#include "report/quarantine.h"
#include "report/tensorboard.h"
#include "report/timing.h"
#include "train/embed.h"
#include "train/run.h"

/* What a resumed run needs beside tensors. */
typedef struct cps_loop_state {
    int64_t stage; /* from 0 */
    bool fit_done, stage_done, complete;
    int64_t data_step;    /* of the stage: done */
    int64_t update;       /* updates of the stage */
    int64_t steps_before; /* steps of the stages before, as they ended */
    int64_t skipped, skipped_in_row, bad_images;
    bool has_best;
    double best_value;
    int64_t best_step; /* checkpoint of the best value of checkpoint.best */
    double stop_value; /* best of early_stop's metric in this stage */
    bool has_stop;
    int64_t waited;  /* evaluations without a better one */
    cps_json *table; /* on_evaluate's; owned by the loop */
    /* Not stored: */
    int64_t written_step; /* of the last checkpoint, -1 */
    bool dirty;           /* something changed since */
    bool new_best;
} cps_loop_state;

typedef struct cps_loop {
    cps_run *run;
    char *name;   /* of the run */
    char *folder; /* runs/<name> */
    char *checkpoints;
    cps_loop_state state;
    cps_updater *updater;
    cps_step *step;
    cps_loader *loader;
    struct cps_frozen *frozen; /* features of the stage's frozen views */
    bool left;                 /* --until or a signal */
    bool lost;                 /* to another process, or with its folder: nothing is written more */
    double start_time, last_checkpoint_time;
    int64_t *rank_values, *rank_bytes; /* [ranks]: a number from each */
    /* rank 0 */
    struct cps_owner *owner;
    double owner_time; /* when it was asked last */
    cps_events *events;
    cps_tensorboard *tensorboard;
    cps_progress *progress;
    cps_heartbeat *heartbeat;
    cps_quarantine *quarantine; /* every rank */
    /* of this process */
    int64_t samples;
    double step_seconds, product_seconds, loader_seconds, exchange_seconds;
    cps_timing timing;    /* by phase: start, features, fit, steps, evaluation, checkpoint, rest */
    size_t planned_bytes; /* most of the stages so far */
    /* evaluations */
    int64_t best_step;                   /* of the last best value that this process saw; -1 */
    cps_embedder *embedder;              /* of the stage's objective */
    struct cps_validation **validations; /* [evaluations], of the stage; NULL where none */
} cps_loop;

/* Steps of the run so far, over all stages. */
int64_t cps_loop_step(const cps_loop *loop);
/* Local: everything that the calls below need; agreed by the caller. */
cps_status cps_loop_create(cps_comm *comm, cps_loop **loop_out) CPS_MUST_CHECK;
void cps_loop_close(cps_loop *loop); /* NULL-safe */
/* loop->rank_values[r] is rank r's `own`. Collective. */
void cps_loop_gather(cps_loop *loop, cps_comm *comm, const char *place, int64_t own);
void cps_loop_close_embedder(cps_loop *loop);

/* state.c; Collective */
cps_status cps_loop_open_folder(cps_loop *loop) CPS_MUST_CHECK;
cps_status cps_loop_find_checkpoint(cps_loop *loop, char **path_out) CPS_MUST_CHECK;
cps_status cps_loop_checkpoint(cps_loop *loop) CPS_MUST_CHECK;
cps_status cps_loop_own(cps_loop *loop) CPS_MUST_CHECK; /* the run is ours from here on */
/* Local, looks once a second: the run belongs to another process (rank 0; elsewhere false). */
bool cps_loop_is_lost(cps_loop *loop);

/* check.c; Collective. A checkpoint or weights into the run's model, for evaluation; the loop
 * stands in the stage and at the step that the checkpoint names. */
cps_status cps_loop_load_model(cps_loop *loop, const char *path) CPS_MUST_CHECK;

/* loop_provenance.c: rank 0 alone. Local */
cps_status cps_loop_write_provenance(const cps_loop *loop) CPS_MUST_CHECK;

/* loop_report.c */
cps_status cps_loop_open_reports(cps_loop *loop) CPS_MUST_CHECK; /* Collective */
cps_status cps_loop_report_step(cps_loop *loop,
                                const cps_step_result *result) CPS_MUST_CHECK; /* Local */
cps_status cps_loop_report_evaluation(cps_loop *loop, const char *name,
                                      const cps_json *metrics) CPS_MUST_CHECK;
void cps_loop_finish_report(cps_loop *loop); /* Collective: the table */

/* loop_beat.c; Local. What heartbeat.json is told. */
void cps_loop_open_heartbeat(cps_loop *loop, cps_comm *comm, const cps_json *job,
                             const cps_run_options *options);
void cps_loop_beat_stage(cps_loop *loop);             /* a stage begins, or the run is complete */
void cps_loop_beat_step(cps_loop *loop, double loss); /* before data_step counts the step */
void cps_loop_beat_evaluation(cps_loop *loop, const char *name, const cps_json *metrics);
/* `status`: agreed. */
void cps_loop_end_heartbeat(cps_loop *loop, const cps_comm *comm, cps_status status);

/* memory.c; Local. What the stage at work takes on the rank with the most, of `ranks`, as an upper
 * bound: its step is planned and its validations are open. */
typedef struct cps_memory_plan {
    size_t program_bytes; /* the process as it is without all that follows, BLAS and MPI at work,
                             pictures being decoded */
    size_t weights_bytes, update_bytes, step_bytes, loader_bytes;
    size_t evaluation_bytes; /* beside the stage's machinery, which stays */
    size_t total_bytes;
} cps_memory_plan;
cps_memory_plan cps_loop_memory(const cps_loop *loop, int32_t ranks);

/* evaluation.c; Collective. Which evaluations are due: after a step; at a stage's end, all of the
 * stage; those of the stage's end that were not due after its last step; the same beside the run:
 * told, but heeded by nothing (best value, early stop, on_evaluate), so that the run's bits stay
 * what they are without. */
typedef enum cps_due {
    CPS_DUE_NOTHING,
    CPS_DUE_STEP,
    CPS_DUE_STAGE_END,
    CPS_DUE_REST,
    CPS_DUE_BESIDE
} cps_due;
cps_status cps_loop_open_validations(cps_loop *loop)
    CPS_MUST_CHECK; /* at a stage's begin, before its own step is planned */
cps_status cps_loop_evaluate_due(cps_loop *loop, cps_due due, bool *stop_out) CPS_MUST_CHECK;

/* fit.c; Collective */
cps_status cps_loop_fit(cps_loop *loop, bool finish, bool *end_stage_out) CPS_MUST_CHECK;

/* check.c. Says what a job may have meant otherwise: stages that build on towers which have learnt
 * nothing (in the wrong order, or weights left out), evaluations whose pictures are trained on.
 * Local. */
void cps_loop_warn(const cps_run *run);

#endif
