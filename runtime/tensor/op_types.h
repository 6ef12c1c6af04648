/* Enumerations of the operations, shared with plugins. */
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

#endif
