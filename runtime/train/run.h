/* What a run holds before its first step: model, tokenizer, streams, plans of all stages,
 * evaluations; all of it from the resolved job, so that everything that can be wrong is found
 * before anything is allocated. Collective; private to train/. */
#ifndef CPS_TRAIN_RUN_H
#define CPS_TRAIN_RUN_H

#include "eval/evaluate.h"
#include "train/loop.h"
#include "train/step.h"

typedef struct cps_run_evaluation {
    cps_evaluation_options *options;
    cps_evaluation_streams streams;
} cps_run_evaluation;

typedef struct cps_run_stage {
    cps_json *json; /* functions tabulated; owned */
    cps_arena *arena;
    cps_stage_plan *plan;
    cps_step_memory memory;
    double *lr, *weight_decay; /* [steps] */
    int32_t first_param; /* parameters from here to the next stage's were declared by this one */
} cps_run_stage;

typedef struct cps_run {
    cps_comm *comm;
    cps_plugins *plugins;
    const cps_json *job;
    const cps_job_calls *calls;
    cps_run_options options;
    cps_arena *arena;
    cps_job_options job_options;
    cps_checkpoint_options checkpoint;
    cps_early_stop_options early_stop;
    cps_tokenizer *tokenizer; /* NULL: the job has none */
    cps_tokenizer_options tokenizer_options;
    cps_model *model;
    uint64_t weights_digest; /* of the file the job names; 0 without */
    uint64_t *tower_digests; /* [towers of the job's model] of their own files; 0 without */
    cps_shard_pool *pool;
    struct cps_packed_set *packed; /* sources.c: sets that are packed by now */
    int64_t stream_option_count;
    cps_stream_options *stream_options;
    int32_t stream_count;
    cps_run_stream *streams;
    int64_t stage_count;
    cps_run_stage *stages;
    int64_t evaluation_count;
    cps_run_evaluation *evaluations;
    int32_t loader_threads;
    size_t
        program_bytes; /* resident when all of this was open: program, libraries, tables, indexes */
    uint8_t *from_weights; /* [parameters] weights of the job gave the value */
} cps_run;

/* Builds it all; parameters are declared, not allocated. USAGE and DATA with the key path or file.
 */
cps_status cps_run_open(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                        const cps_job_calls *calls, const cps_run_options *options,
                        cps_run **run_out) CPS_MUST_CHECK;
void cps_run_close(cps_run *run); /* NULL-safe */
/* Products from here on in the job's precision. UNAVAILABLE where this machine has none of it.
 * Collective, agreed; before anything is computed. */
cps_status cps_run_set_precision(const cps_run *run) CPS_MUST_CHECK;

/* Allocates parameters and gives them their first values: weights of the job (rank 0 reads, all get
 * the same bytes), else initial ones. Prints what a partial file lacked. */
cps_status cps_run_initialise(cps_run *run) CPS_MUST_CHECK;
/* The files that single towers name, into the model. Local; rank 0. Statuses of
 * cps_weights_load_tower. */
cps_status cps_run_load_tower_weights(cps_run *run) CPS_MUST_CHECK;
/* Options of stage `stage`'s training loader, and of one in stored order for a validation set. */
cps_status cps_run_loader(const cps_run *run, int64_t stage,
                          cps_loader **loader_out) CPS_MUST_CHECK;
cps_status cps_run_loader_bytes(const cps_run *run, int64_t stage,
                                size_t *bytes_out) CPS_MUST_CHECK;
/* Settings that reach numbers, as one canonical text a key: what ranks and a resumed run must
 * share. */
cps_json *cps_run_identity(const cps_run *run);
/* Patterns of shards of a set that names a CSV: packed once below <runs>/shards, by digest.
 * Collective and agreed the first time a run asks for the set, local from then on: where a rank may
 * have failed before on its own, ask earlier. */
cps_status cps_run_packed(cps_run *run, const cps_shards_options *set,
                          const char *const **patterns_out, int64_t *count_out) CPS_MUST_CHECK;
/* Whether an evaluation belongs to the stage of that name. */
bool cps_run_evaluates_in(const cps_evaluation_options *options, const char *stage);
/* At the begin of a stage: parameters that the stage declared first as copies of others (moving
 * averages too) take the values that their sources have by now, unless weights gave them one.
 * Local; the same on every rank. */
void cps_run_begin_stage(cps_run *run, int64_t stage);

#endif
