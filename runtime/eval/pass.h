/* A pass over pictures that lie in files: read, encoded in batches, reduced to a row of bytes each,
 * which rank 0 takes in the order of the paths. Batches are dealt to the ranks in turn and always
 * have the encoder's full shape, so rows do not depend on ranks and threads. Memory does not grow
 * with the number of pictures. Collective. */
#ifndef CPS_EVAL_PASS_H
#define CPS_EVAL_PASS_H

#include "data/pictures.h"
#include "eval/encoder.h"

typedef struct cps_pass {
    cps_comm *comm;
    const cps_encoder *encoder; /* its grain is the batch */
    const cps_recipe *recipe;   /* evaluation, of the encoder's size */
    const char *const *paths;
    int64_t count;
    bool normalise; /* components to unit length; else as the encoder gives them */
    size_t row_bytes;
    void *context;
    /* Every rank. features [grain, width], those of pictures that could not be read are zeros ->
     * rows_out [grain, row_bytes]. Cannot fail. */
    void (*reduce)(void *context, const cps_real *features, void *rows_out);
    /* Rank 0. reason NULL: the picture was read; else why not, and `row` is nothing. */
    cps_status (*take)(void *context, int64_t index, const void *row, const char *reason);
    /* Every rank, before each round of batches: true on any ends the pass there. NULL: never. */
    bool (*stop)(void *context);
} cps_pass;

/* *done_out: pictures that rank 0 has taken, known to all. Statuses arrive agreed: UNAVAILABLE
 * (memory), what the encoder or `take` gives. A picture that cannot be read, or whose feature is
 * not finite, fails nothing. */
cps_status cps_pass_run(const cps_pass *pass, int64_t *done_out) CPS_MUST_CHECK;
/* Local. Bytes that it holds on a rank. */
size_t cps_pass_bytes(const cps_encoder *encoder, size_t row_bytes);

#endif
