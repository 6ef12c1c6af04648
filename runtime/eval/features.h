/* Features of whole record sets and text lists: grains of encoder->grain rows in stored order, each
 * its own part, dealt to ranks in runs, gathered to all. The same bits on any number of ranks and
 * threads. Records whose image is bad are left out (no row), never replaced; they are listed.
 * Collective calls must be made by all ranks alike. */
#ifndef CPS_EVAL_FEATURES_H
#define CPS_EVAL_FEATURES_H

#include "comm/comm.h"
#include "data/stream.h"
#include "eval/encoder.h"

/* A record that gave no feature. */
typedef struct cps_left_out {
    int64_t record; /* index in stored order of the stream */
    char reason[100];
} cps_left_out;

/* Rows in stored order. Each row holds its components side by side; every component is of unit
 * length (or as the encoder gave it, where asked). Row i belongs to record records[i]. */
typedef struct cps_features {
    int64_t rows, width; /* width: sum of the components' */
    int32_t component_count;
    int64_t widths[CPS_MAX_COMPONENTS];
    cps_real *values;   /* [rows, width] */
    int64_t *records;   /* [rows] indices in stored order, ascending; for texts 0 .. rows-1 */
    int64_t non_finite; /* rows that were not finite; they are zeros, so they score 0 everywhere */
    int64_t left_out_count;
    cps_left_out *left_out; /* [left_out_count], ascending */
} cps_features;

/* Collective. Image features of a stream's records. loader_threads >= 0. Statuses of any rank
 * arrive agreed: IO, DATA, UNAVAILABLE (memory), whatever the encoder gives. On success the caller
 * frees with cps_features_free. */
cps_status cps_features_of_images(cps_comm *comm, const cps_encoder *encoder,
                                  const cps_stream *stream, int32_t loader_threads,
                                  cps_features *features_out) CPS_MUST_CHECK;
/* Collective. The same for texts, equal on all ranks. normalise: false leaves components as the
 * encoder gave them. */
cps_status cps_features_of_texts(cps_comm *comm, const cps_encoder *encoder,
                                 const char *const *texts, int64_t count, bool normalise,
                                 cps_features *features_out) CPS_MUST_CHECK;
/* Local. Most bytes that the calls above hold on a rank, results included. */
size_t cps_features_image_bytes(const cps_encoder *encoder, const cps_stream *stream,
                                int32_t loader_threads);
size_t cps_features_text_bytes(const cps_encoder *encoder, int64_t count);
void cps_features_free(cps_features *features); /* safe on a zeroed one */

/* Makes each component of each row unit length, in place: sums of squares in double; a row of
 * zeros stays. A row that holds a non-finite value becomes zeros and is counted. Local. */
void cps_features_normalise(cps_features *features);

#endif
