/* Streams: which record stands at a position of an epoch, as a pure function of (seed, stream,
 * epoch, position). A stream is a shard set or a weighted mixture of sets. A set is an ordered list
 * of records of its shards: all of them, a drawn subset, or what another stream left over.
 *
 * Order. A stream's epoch has E positions (`epoch_samples`, default the sum of the sets' sizes).
 * Set j gets n_j of them: E times its share of the weights, rounded by largest remainder (ties to
 * the earlier set), so that sum n_j = E; without weights and epoch_samples n_j is its size. Which
 * set position i draws from is closed form: the sets are the leaves of a balanced binary tree; at a
 * node with L positions in its left subtree and N in all, the first i positions hold floor(i*L/N)
 * of the left one. So every stretch of the epoch has nearly the mixture's shares, each set's
 * positions come in order, and all n_j are met exactly. The k-th visit of set j in epoch e is visit
 * e*n_j + k of the run; visit v shows record permute(seed, set, v / size_j)[v % size_j]: each set
 * reshuffles when it is used up.
 *
 * A stream is immutable after creation: any thread may ask. Shards are borrowed from a pool that
 * opens each file once. Local. */
#ifndef CPS_DATA_STREAM_H
#define CPS_DATA_STREAM_H

#include "shards/shard.h"

/* Open shards by path, each opened once a process. Not thread-safe while streams are created. */
typedef struct cps_shard_pool cps_shard_pool;
cps_status cps_shard_pool_create(cps_shard_pool **pool_out) CPS_MUST_CHECK;
void cps_shard_pool_destroy(cps_shard_pool *pool); /* NULL-safe; streams of it must be gone */
cps_status cps_shard_pool_open(cps_shard_pool *pool, const char *path,
                               const cps_shard **shard_out) CPS_MUST_CHECK;

typedef struct cps_stream cps_stream;

typedef enum cps_subset_draw {
    CPS_DRAW_OWN,    /* our counter-based generator */
    CPS_DRAW_MT19937 /* the split of the published S-CLIP code */
} cps_subset_draw;

typedef struct cps_set_spec {
    const char *const *patterns; /* paths or globs; every pattern must match something */
    int64_t pattern_count;
    double weight;   /* share in a mixture; 0: its size */
    double fraction; /* (0, 1]: the first floor(records * fraction) of a permutation of the set's
                        records; 0: not given */
    int64_t count;   /* the same by number; 0: not given; fraction and count exclude each other */
    uint64_t subset_seed; /* of that permutation */
    cps_subset_draw draw;
    const cps_stream *rest_of; /* only records whose sample ids are not in this stream; NULL: all.
                                  Needed during creation only */
    const char *caption;       /* text field that holds the captions; NULL: "caption" */
    bool fixed_caption;        /* of several captions of a record one counts (batch.h) */
} cps_set_spec;

typedef struct cps_stream_spec {
    const char *name; /* "paired"; stands in messages and keys the draws */
    const cps_set_spec *sets;
    int64_t set_count;
    int64_t epoch_samples; /* 0: the sum of the sizes */
} cps_stream_spec;

/* UNAVAILABLE: no such file; DATA: damaged shard, nothing left to read; USAGE: a setting out of
 * range. */
cps_status cps_stream_create(const cps_stream_spec *spec, uint64_t seed, cps_shard_pool *pool,
                             cps_stream **stream_out) CPS_MUST_CHECK;

/* What a record must have to be read, a mask. */
enum {
    CPS_RECORD_CAPTION = 1, /* a text in its set's caption field */
    CPS_RECORD_TAXON = 2    /* a rank that is left after cleaning (cps_taxon_clean) */
};
/* The stream of those records of `from` that have all of `needs`: same name, seed, weights and
 * epoch_samples; `from` may go before it. DATA: a set has no such record, or a shard no caption
 * field where captions are needed. */
cps_status cps_stream_narrow(const cps_stream *from, uint32_t needs,
                             cps_stream **stream_out) CPS_MUST_CHECK;
void cps_stream_destroy(cps_stream *stream); /* NULL-safe */

/* Where a record is. Pointers are borrowed from stream and pool. */
typedef struct cps_place {
    const cps_shard *shard;
    int64_t record; /* in the shard */
    uint64_t sample_id;
    const char *caption; /* name of the caption field of its set */
    bool fixed_caption;
    int32_t set;
} cps_place;

const char *cps_stream_name(const cps_stream *stream);
int64_t cps_stream_epoch_samples(const cps_stream *stream); /* positions of an epoch, >= 1 */
/* Position of an epoch of the clock stream; position < epoch_samples. */
void cps_stream_at(const cps_stream *stream, uint64_t epoch, int64_t position,
                   cps_place *place_out);
/* Records in stored order: set after set, shard after shard, index < cps_stream_records(). */
int64_t cps_stream_records(const cps_stream *stream);
void cps_stream_stored(const cps_stream *stream, int64_t index, cps_place *place_out);
int64_t cps_stream_set_share(const cps_stream *stream,
                             int64_t set); /* n_j: positions of an epoch */
/* Records that cps_stream_narrow left out. */
int64_t cps_stream_left_out(const cps_stream *stream);
/* Records that the packer could not decode, of those in the stream. */
int64_t cps_stream_bad_records(const cps_stream *stream);
/* Bytes of the largest encoded image in the shards of the stream: a replacement may be any of them.
 */
int64_t cps_stream_largest_image(const cps_stream *stream);
/* The published split: a shuffle of 0..n-1 by MT19937, whose first floor(n * fraction) records are
 * kept. n < 2^31. */
void cps_stream_published_order(uint32_t seed, int64_t n, uint32_t *order_out);
/* Digest of content, selection and mixture: equal digests, same records at the same positions for
 * one seed. */
uint64_t cps_stream_digest(const cps_stream *stream);

#endif
