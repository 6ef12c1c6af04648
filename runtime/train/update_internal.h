/* Inside of update.h: how what learns is cut and owned (update_layout.c), how gradients of parts
 * meet (update_exchange.c), the update itself (update_apply.c).
 *
 * A "copy" is a flat array over the tensors that learn, in the order of their index, each padded to
 * 64 bytes; padding is zero for good. Chunks are numbered through all tensors; rank r owns the
 * chunks [first_chunk[r], first_chunk[r + 1]), hence one contiguous "slice" of every copy. */
#ifndef CPS_TRAIN_UPDATE_INTERNAL_H
#define CPS_TRAIN_UPDATE_INTERNAL_H

#include <stdatomic.h>

#include "base/arena.h"
#include "comm/canonical.h"
#include "train/optimizer.h"
#include "train/update.h"

enum { CPS_BUCKET_ELEMENTS = 1 << 20 };

typedef struct cps_update_tensor {
    cps_param *param;
    int32_t index; /* of the parameter */
    int64_t at;    /* first element in a copy */
    int64_t first_chunk, last_chunk;
    bool done;                          /* this part: merged, and counted off its messages */
    bool held;                          /* cps_updater_hold */
    bool has_global;                    /* `global` is to be added after the tree */
    cps_real global;                    /* of a scalar: gradient that all ranks computed alike */
    double squares;                     /* of the gradient */
    double scale;                       /* clipping */
    double param_squares, step_squares; /* lars */
} cps_update_tensor;

typedef struct cps_update_chunk {
    int32_t tensor;
    int64_t start, count; /* elements of the tensor */
    int64_t at;           /* first element in a copy */
} cps_update_chunk;

/* A message: a run of whole chunks of one owner. */
typedef struct cps_update_bucket {
    int32_t owner;
    int32_t tag;           /* number among the owner's */
    int64_t first, length; /* elements of a copy, padding included */
    int64_t first_chunk, last_chunk;
    int64_t waits; /* this node: chunks that are not merged yet */
} cps_update_bucket;

typedef struct cps_update_layout {
    cps_arena *arena;
    int32_t ranks, rank;
    int32_t param_count, tensor_count;
    int64_t chunk_count, bucket_count;
    int64_t length; /* elements of a copy */
    cps_update_tensor *tensors;
    int32_t *tensor_of; /* [param_count], -1 for what does not learn */
    cps_update_chunk *chunks;
    cps_update_bucket *buckets;
    int64_t *first_chunk;   /* [ranks + 1] */
    int64_t *first_element; /* [ranks + 1] of a copy */
    int64_t *first_bucket;  /* [ranks + 1] */
    int32_t ema_count;      /* parameters that are moving averages */
} cps_update_layout;

/* Local. */
cps_status cps_update_layout_create(const cps_updater_options *options,
                                    cps_update_layout *layout_out) CPS_MUST_CHECK;
void cps_update_layout_destroy(cps_update_layout *layout);

/* A copy at work. */
typedef struct cps_update_copy {
    cps_real *data;
    cps_exchange *sends; /* NULL with one rank */
    bool live;           /* on the stack */
    int64_t sent;        /* > 0: holds a maximal node; older ones have smaller numbers */
} cps_update_copy;

typedef struct cps_update_ema {
    cps_param *param, *source;
    int32_t tensor; /* of the source, -1 where it does not learn */
    cps_numbers momentum;
} cps_update_ema;

/* Neighbours in the parameters' flat array whose owners' pieces are neighbours too. */
typedef struct cps_update_region {
    int64_t offset, length; /* elements of the parameters' array */
    int64_t at;             /* of a copy */
    cps_pending_gather *gather;
} cps_update_region;

/* What a rank tells the others beside its sums of squares. */
typedef struct cps_update_verdict {
    _Alignas(double) int32_t status; /* doubles follow the struct in the gather area */
    int32_t tensor;                  /* lowest with a non-finite value, -1 */
    char flagged[CPS_NAME_MAX];
    bool only_summed; /* `tensor` was finite in what this rank sent: another rank is to blame */
} cps_update_verdict;

struct cps_updater {
    cps_comm *comm;
    cps_params *params;
    cps_optimizer optimizer;
    const double *lr, *weight_decay;
    int64_t steps, max_parts;
    double grad_clip_norm, clip_tensor;
    bool world;
    cps_update_layout layout;
    cps_arena *arena;

    int64_t slice_first, slice_length; /* own slice of a copy */
    int32_t copy_count;
    cps_update_copy *copies;
    int32_t max_nodes, max_own_nodes, max_other_nodes; /* of all ranks, this one, the others */
    cps_real *received;                                /* [nodes of others][slice_length] */
    cps_real *kept;                                    /* [own nodes but the last][slice_length] */
    cps_real *state[CPS_OPTIMIZER_STATES];             /* [slice_length] */
    cps_exchange *receives;

    /* the step at work */
    int64_t parts, first_part, last_part;
    cps_node_run *runs; /* of all ranks, in order of parts */
    cps_real **rows;    /* own slice of each node */
    int32_t node_count, first_own_node, own_node_count;
    int32_t *stack; /* [copy_count] copies that are live nodes, the part in work on top */
    int32_t height;
    int64_t part; /* in work, -1 between parts */
    int32_t merges;
    bool maximal;
    int64_t own_nodes_done;
    _Atomic int32_t bad_tensor; /* lowest with a non-finite value, tensor_count if none */
    cps_real *gradient;         /* own slice of the sum; NULL until finish */

    void *gather_area;     /* verdict and chunks' sums of squares, rank after rank */
    int64_t *gather_bytes; /* [ranks] */
    double *chunk_squares; /* [chunk_count] */
    double *lars_squares;  /* [chunk_count][2] */
    int32_t ema_count;
    cps_update_ema *emas;
    int32_t region_count;
    cps_update_region *regions;
    double wait_seconds;
};

/* Maximal nodes of rank `rank`, or the one run of its parts where reproducibility is "run". */
int32_t cps_update_nodes(const cps_updater *updater, int64_t parts, int32_t rank,
                         cps_node_run runs_out[CPS_MAX_RUNS]);
/* Waits for all messages and finishes the tree: gradient holds the own slice of the sum. */
void cps_update_collect(cps_updater *updater);
/* Cuts the regions of the gather and reserves its requests, so that a step allocates nothing. */
cps_status cps_update_regions(cps_updater *updater) CPS_MUST_CHECK;
void cps_update_poll_weights(cps_updater *updater);

#endif
