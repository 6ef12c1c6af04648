/* Checkpoints: one HDF5 file a step, `step-00000020.h5`. Groups model/<name> (every parameter and
 * buffer, EMA copies included), optimizer/<state>/<name> (what learns), state/ (JSON texts of the
 * loop's state, of what must agree at resume and of the model; update counts; checksums);
 * checkpoint_file.h lists them. Nothing inside depends on clock, run name, folder, host, ranks or
 * threads: equal states give equal bytes. Written under a temporary name (rank 0 lays out, owners
 * pwrite their slices), synced, checksummed (XXH3 of every chunk, gathered), renamed. Numbers are
 * cps_real's: a checkpoint goes on only in a build of the same element type. */
#ifndef CPS_TRAIN_CHECKPOINT_H
#define CPS_TRAIN_CHECKPOINT_H

#include "base/json.h"
#include "comm/comm.h"
#include "model/model.h"
#include "train/update.h"

/* Everything besides tensors, as JSON: what the loop needs to go on. Numbers that must come back
 * bit for bit are stored as text. */
typedef struct cps_checkpoint_content {
    cps_model *model;
    cps_updater *updater;  /* NULL: no optimizer state (end of a fit) */
    const cps_json *state; /* the loop's: stage, step, best, patience, on_evaluate's table, ... */
    const cps_json *identity;      /* what must agree at resume: key -> text (build, engine, blas,
                                      precision, job digest parts) */
    const struct cps_owner *owner; /* rank 0: asked before the file is published; NULL: nobody */
} cps_checkpoint_content;

/* Collective. Writes `folder`/step-%08d.h5; on failure (disk full) nothing of it stays and older
 * files are untouched. CPS_FAULT site "checkpoint". */
cps_status cps_checkpoint_write(cps_comm *comm, const char *folder, int64_t step,
                                const cps_checkpoint_content *content) CPS_MUST_CHECK;
/* Newest complete checkpoint in `folder` whose checksums hold; *path_out NULL if none; damaged ones
 * are named in a warning and skipped. Collective: rank 0 looks, all get the answer (malloc'ed). */
cps_status cps_checkpoint_latest(cps_comm *comm, const char *folder, char **path_out,
                                 int64_t *step_out) CPS_MUST_CHECK;
/* Collective. state and identity of a file on every rank (the caller destroys both). */
cps_status cps_checkpoint_read_state(cps_comm *comm, const char *path, cps_json **state_out,
                                     cps_json **identity_out) CPS_MUST_CHECK;
/* Collective. Parameters into the model (must be allocated or declared; all of them must be there
 * with equal shapes), optimizer slices into `updater` (may be NULL), update counts. Checksums are
 * verified. */
cps_status cps_checkpoint_load(cps_comm *comm, const char *path, cps_model *model,
                               cps_updater *updater) CPS_MUST_CHECK;
/* Deletes checkpoints of `folder` beyond the newest `keep`, but never step `best` (-1: none). Rank
 * 0 works; Collective. */
cps_status cps_checkpoint_prune(cps_comm *comm, const char *folder, int64_t keep,
                                int64_t best) CPS_MUST_CHECK;
/* Local: prints what is inside to `file` (a FILE *): for copse inspect. */
cps_status cps_checkpoint_inspect(const char *path, void *file) CPS_MUST_CHECK;
/* Local. The model's description as stored (cps_model_create takes it); the caller destroys it. */
cps_status cps_checkpoint_describe(const char *path, cps_json **model_out) CPS_MUST_CHECK;
bool cps_is_checkpoint(const char *path);

#endif
