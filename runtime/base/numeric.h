/* Checked casts and products, compensated sums, finiteness tests. Local; safe on any thread. */
#ifndef CPS_BASE_NUMERIC_H
#define CPS_BASE_NUMERIC_H

#include "base/status.h"

/* value as int for BLAS and MPI; a value outside its range is a broken invariant (sizes were
 * checked before). */
int cps_to_int(int64_t value);
/* a*b and a+b of sizes; false on overflow (out is not written). */
bool cps_mul_size(size_t a, size_t b, size_t *out);
bool cps_add_size(size_t a, size_t b, size_t *out);
bool cps_mul_i64(int64_t a, int64_t b, int64_t *out); /* also false for negative operands */
/* Zeros for count * width elements of `bytes` each; free(). NULL: more than a size holds, or out of
 * memory; not for no elements. */
void *cps_allocate_zero(int64_t count, int64_t width, size_t bytes);

/* Neumaier's compensated sum in double. */
typedef struct cps_running_sum {
    double total, correction;
} cps_running_sum;
void cps_sum_add(cps_running_sum *sum, double value);
double cps_sum_value(const cps_running_sum *sum);

bool cps_all_finite(const cps_real *values, int64_t count);
/* Sum of squares in double over fixed blocks of 4096 elements added in order: same bits whatever
 * the caller's threads. */
double cps_sum_squares(const cps_real *values, int64_t count);

int64_t cps_min_i64(int64_t a, int64_t b);
int64_t cps_max_i64(int64_t a, int64_t b);
size_t cps_max_size(size_t a, size_t b);
int64_t cps_ceil_div(int64_t a, int64_t b); /* a >= 0, b > 0 */
size_t cps_dtype_bytes(cps_dtype dtype);

#endif
