/* Kernels over a row for code that has no tape: evaluation, prediction. The same bits for every
 * instruction set and any number of threads. Local, safe on any thread, cannot fail. */
#ifndef CPS_TENSOR_ROWS_H
#define CPS_TENSOR_ROWS_H

#include "base/types.h"

/* In place: x = softmax(x), n >= 1. The largest is taken off first; the sum is a double, since rows
 * may have hundreds of thousands of classes. */
void cps_row_softmax(int64_t n, cps_real *x);

#endif
