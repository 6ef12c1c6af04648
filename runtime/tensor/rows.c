#include "tensor/rows.h"

#include "tensor/kernels.h"

void cps_row_softmax(int64_t n, cps_real *x) {
    const cps_kernels *kernels = cps_kernels_get();
    const double sum = kernels->exp_sum(n, x, kernels->max(n, x), x);
    kernels->scale(n, (cps_real)(1.0 / sum), x, 0, x);
}
