/* Types of the operations, shared with plugins. */
#ifndef CPS_TENSOR_OP_TYPES_H
#define CPS_TENSOR_OP_TYPES_H

#include "base/types.h"

typedef enum cps_activation {
    CPS_ACT_NONE,
    CPS_ACT_GELU,
    CPS_ACT_QUICK_GELU,
    CPS_ACT_RELU
} cps_activation;
typedef enum cps_unary_kind {
    CPS_EXP,
    CPS_LOG,
    CPS_SQRT,
    CPS_RELU,
    CPS_GELU,
    CPS_QUICK_GELU
} cps_unary_kind;

/* The processes of published code whose loss cps_published_contrastive computes. */
typedef struct cps_published {
    int64_t ranks; /* each has so many consecutive rows of the batch; divides its rows */
    bool local_loss, gather_with_grad;
    int64_t accumulation; /* micro-batches with cached features; 1: none */
} cps_published;
/* What the first processes see of a step before they average: added to by each call. */
enum { CPS_SHOWN_RANKS = 16 };
typedef struct cps_published_shown {
    double loss[CPS_SHOWN_RANKS], d_log_scale[CPS_SHOWN_RANKS];
} cps_published_shown;

#endif
