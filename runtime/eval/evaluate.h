/* Runs one evaluation of a job: features in, metrics and predictions out. The same numbers and the
 * same bytes on any number of ranks and threads. */
#ifndef CPS_EVAL_EVALUATE_H
#define CPS_EVAL_EVALUATE_H

#include "base/json.h"
#include "comm/comm.h"
#include "data/stream.h"
#include "eval/config.h"
#include "eval/encoder.h"

/* The records that an evaluation reads. */
typedef struct cps_evaluation_streams {
    cps_stream *data;
    cps_stream *bank; /* k-NN's neighbours, else NULL */
    uint8_t *unseen;  /* zero-shot: 1 for each class that training does not show (seen.h); NULL: not
                         known */
} cps_evaluation_streams;

/* Local. Opens the streams that `options` names and checks that they have the labels, and enough
 * images of each class, that it wants. Retrieval leaves out records without a caption.
 * `resolve`: patterns of a set that is packed from `source`, and the stream that `rest_of` names
 * (either may stay NULL when no set needs it; a need without an answer is USAGE). Statuses of
 * cps_stream_create, and DATA for labels; the evaluation's name in front. */
typedef struct cps_evaluation_resolver {
    void *context;
    cps_status (*packed)(void *context, const cps_shards_options *set,
                         const char *const **patterns_out, int64_t *count_out); /* borrowed */
    const cps_stream *(*stream)(void *context, const char *name); /* NULL: no such stream */
} cps_evaluation_resolver;
cps_status cps_evaluation_streams_open(const cps_evaluation_options *options, cps_shard_pool *pool,
                                       const cps_evaluation_resolver *resolver,
                                       cps_evaluation_streams *streams_out) CPS_MUST_CHECK;
/* Local. Finds the unseen classes of all zero-shot evaluations among `count`, against the training
 * streams. UNAVAILABLE: memory. */
cps_status cps_evaluations_find_unseen(const cps_evaluation_options *const *options,
                                       cps_evaluation_streams *const *evaluations, int64_t count,
                                       const cps_stream *const *training,
                                       int64_t training_count) CPS_MUST_CHECK;
void cps_evaluation_streams_close(cps_evaluation_streams *streams); /* safe on a zeroed one */

typedef struct cps_evaluation_request {
    const cps_evaluation_options *options;
    const cps_evaluation_streams *streams;
    const cps_encoder *encoder;
    cps_comm *comm;
    int32_t loader_threads;
    int64_t step;                 /* of the run; stands in the predictions */
    const char *predictions_path; /* of predictions/<name>.h5, written by rank 0; NULL: none */
    /* Called on every rank for each record that was left out, in order, before anything fails for
     * the lack of them; NULL: not wanted. */
    void (*left_out)(void *context, const cps_place *place, const char *reason);
    void *left_out_context;
} cps_evaluation_request;

/* Collective. *metrics_out: a flat object of numbers, keys as in cps_<kind>_metrics, fractions not
 * per cent, and beside them `samples` (that count), `bad_images` (left out), and where they are not
 * 0 `unlabelled`, `unranked`, `non_finite` and others (README.md); texts in it say how the numbers
 * came about. Equal on all ranks; the caller destroys it. The caller adds the
 * evaluation's name. DATA: no usable record, class lists that differ between shards; USAGE: an
 * option that does not fit the model or is not built; INTERNAL for validation_loss, which the
 * training loop computes. Statuses arrive agreed. */
cps_status cps_evaluate(const cps_evaluation_request *request,
                        cps_json **metrics_out) CPS_MUST_CHECK;

/* Local. Most bytes that an evaluation holds on a rank beside its encoder's: features, class texts,
 * the loader. 0 for validation_loss. */
size_t cps_evaluation_bytes(const cps_evaluation_options *options,
                            const cps_evaluation_streams *streams, const cps_encoder *encoder,
                            int32_t loader_threads);

#endif
