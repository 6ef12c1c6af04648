/* Features of frozen views: the tower does not learn in the stage and nothing is augmented, so each
 * record is encoded once, before the first step, in stored order and whole grains of 64 (tail
 * padded), and kept in memory on every rank.
 *
 * Cache: <runs>/cache/<key>/rows-<first>-<last>.h5, key = digest of the tower's parameters and
 * sizes, the preprocessing (or tokenizer), the stream's records and what decides bits (BLAS
 * kernels, precision, element type). A file holds the rows of a run of records (datasets
 * `features`, `valid`, `sample_id`; attributes `format`, `key`, `first`, `rows`, `checksum`). A
 * rank reads what files hold of its own run of grains; what none holds is dealt to all, computed
 * and written. So a killed run goes on where it was, on any number of ranks. A damaged file is
 * deleted with a warning and computed again; a cache that cannot be written costs a warning, no
 * more. The folder may be deleted while no run is at work.
 *
 * Bad images: their rows are masked (fit passes over them). In training such a row stands for the
 * image that the loader put in its place, or, where no other view of the stream reads images, the
 * next readable record of the same shard that is in the stream, cyclically: the loader's rule.
 * Texts: the record's first caption.
 *
 * Private to train/. */
#ifndef CPS_TRAIN_FROZEN_H
#define CPS_TRAIN_FROZEN_H

#include "comm/comm.h"
#include "report/quarantine.h"
#include "train/stage.h"

typedef struct cps_frozen_options {
    cps_comm *comm;
    const char *folder;         /* <runs>/cache; borrowed during open */
    int32_t threads;            /* of the loader */
    cps_quarantine *quarantine; /* bad images met while computing are noted there; may be NULL */
} cps_frozen_options;

/* What a frozen view may ask for, said by the planner when it is declared. USAGE or INTERNAL.
 * Local. */
cps_status cps_frozen_check_view(const cps_view *view, const cps_recipe *recipe, bool text,
                                 bool has_caption) CPS_MUST_CHECK;
/* Once it is settled what learns in the stage: no frozen view's tower may, nor be a moving average
 * that follows. USAGE. Local. */
cps_status cps_frozen_check_learning(const cps_stage_plan *plan) CPS_MUST_CHECK;
/* Bytes that the features of the plan's frozen views take on every rank; 0 without frozen views.
 * Local. */
size_t cps_frozen_bytes(const cps_stage_plan *plan);

/* Collective. Reads, computes and gathers what the plan's frozen views need; parameters are
 * allocated and alike on all ranks. Agreed. *frozen_out NULL where there are none. */
cps_status cps_frozen_open(const cps_frozen_options *options, const cps_stage_plan *plan,
                           cps_frozen **frozen_out) CPS_MUST_CHECK;
void cps_frozen_close(cps_frozen *frozen); /* NULL-safe */

/* Rows of a frozen view (of the stage) in stored order: [records, width]. */
typedef struct cps_frozen_rows {
    const cps_stream *stream;
    int64_t records, width;
    const cps_real *values;
    const uint8_t *valid; /* [records]: 0: a bad image */
} cps_frozen_rows;
cps_frozen_rows cps_frozen_view(const cps_frozen *frozen, int32_t view);
/* The rows of a grain: values_out [rows, width]. DATA where a bad image has no readable neighbour.
 * Local. */
cps_status cps_frozen_take(const cps_frozen *frozen, int32_t view, const cps_batch *batch,
                           cps_real *values_out) CPS_MUST_CHECK;
/* Id of the sample whose features cps_frozen_take gives as row `row`: another than the record's own
 * where its image is bad. Local. */
uint64_t cps_frozen_sample_id(const cps_frozen *frozen, int32_t view, const cps_batch *batch,
                              int64_t row);

#endif
