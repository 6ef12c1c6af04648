/* One frozen view at work: its rows (frozen.c), their cache on disk (frozen_cache.c), and computing
 * what is missing (frozen_compute.c). Local unless said otherwise. */
#ifndef CPS_TRAIN_FROZEN_INTERNAL_H
#define CPS_TRAIN_FROZEN_INTERNAL_H

#include "train/frozen.h"

enum { CPS_FROZEN_GRAIN = 64 };

/* Stored index of the records of one shard. */
typedef struct cps_shard_rows {
    const cps_shard *shard;
    int64_t *index; /* [records of the shard]; -1: not in the stream */
} cps_shard_rows;

typedef struct cps_frozen_set {
    int32_t view;
    const cps_stage_view *entry;
    const cps_stream *stream;
    int64_t records, grains, width;
    cps_real *values; /* [grains * CPS_FROZEN_GRAIN, width] */
    uint8_t *valid;   /* [grains * CPS_FROZEN_GRAIN] */
    int64_t
        *stand_in; /* [records] the row that stands for this one; itself where valid; -1: none */
    cps_shard_rows *shards; /* by address */
    int64_t shard_count;
    char key[33];
    char *folder;
    int64_t first, last; /* grains whose files this rank reads */
    uint8_t *covered;    /* [grains] 1: some file holds it */
    int64_t computed;    /* records, by all ranks */
} cps_frozen_set;

cps_status cps_frozen_fail_memory(const cps_frozen_set *set);

/* Sets `key`: the digest of all that reaches the rows' bits. */
void cps_frozen_key(cps_frozen_set *set, const cps_stage_plan *plan);
/* Takes grains first .. last - 1 as far as files of the cache hold them, and marks them covered.
 * Damaged files are deleted. Cannot fail: what is not read is computed. */
void cps_frozen_load(cps_frozen_set *set);
/* Collective. Computes the grains that are not covered, dealt evenly; all ranks get their rows. */
cps_status cps_frozen_compute(cps_frozen_set *set, const cps_stage_plan *plan,
                              const cps_frozen_options *options) CPS_MUST_CHECK;
/* Writes grains [first, last) to a file; what cannot be written costs a warning. */
void cps_frozen_store(const cps_frozen_set *set, int64_t first, int64_t last);

#endif
