/* What the training streams have shown: names of labels and organisms. A class of an evaluation is
 * unseen when no training record has its name as label and none is of the organism that its first
 * record names. Local. */
#ifndef CPS_EVAL_SEEN_H
#define CPS_EVAL_SEEN_H

#include "data/stream.h"

typedef struct cps_seen cps_seen;

/* Goes through all records of the streams once. UNAVAILABLE: memory. */
cps_status cps_seen_create(const cps_stream *const *streams, int64_t count,
                           cps_seen **seen_out) CPS_MUST_CHECK;
void cps_seen_destroy(cps_seen *seen); /* NULL-safe */
/* *unseen_out: 1 for each class of the labelled stream `data` that is unseen, malloc'ed; NULL when
 * the training streams have neither labels nor ranks. */
cps_status cps_seen_mark(cps_seen *seen, const cps_stream *data,
                         uint8_t **unseen_out) CPS_MUST_CHECK;

/* ---- pictures ---- */

/* Checksums of the files that the streams' readable pictures were made of, ascending; malloc'ed.
 * UNAVAILABLE: memory. */
cps_status cps_seen_pictures(const cps_stream *const *streams, int64_t count,
                             uint64_t **checksums_out, int64_t *checksum_count_out) CPS_MUST_CHECK;
/* Readable pictures of `data` that are among them. */
int64_t cps_seen_count(const uint64_t *checksums, int64_t checksum_count, const cps_stream *data);

#endif
