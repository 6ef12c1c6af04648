/* The operations of the tape, declared from ops.inc (read that for shapes and meaning). */
#ifndef CPS_TENSOR_OPS_H
#define CPS_TENSOR_OPS_H

#include "tensor/op_types.h"
#include "tensor/tape.h"

#define CPS_OP(result, name, parameters, arguments) result cps_##name parameters;
#include "tensor/ops.inc"
#undef CPS_OP

#endif
