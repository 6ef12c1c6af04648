/* Blocks and lanes are fixed numbers, so that sums are a function of the values alone. */
#include "base/numeric.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

int cps_to_int(int64_t value) {
    CPS_BUG_IF(value < INT_MIN || value > INT_MAX);
    return (int)value;
}

bool cps_mul_size(size_t a, size_t b, size_t *out) {
    if (a != 0 && b > SIZE_MAX / a) {
        return false;
    }
    *out = a * b;
    return true;
}

bool cps_add_size(size_t a, size_t b, size_t *out) {
    if (b > SIZE_MAX - a) {
        return false;
    }
    *out = a + b;
    return true;
}

bool cps_mul_i64(int64_t a, int64_t b, int64_t *out) {
    if (a < 0 || b < 0 || (a != 0 && b > INT64_MAX / a)) {
        return false;
    }
    *out = a * b;
    return true;
}

void *cps_allocate_zero(int64_t count, int64_t width, size_t bytes) {
    int64_t elements;
    size_t total;
    if (!cps_mul_i64(count, width, &elements) || !cps_mul_size((size_t)elements, bytes, &total)) {
        return NULL;
    }
    return calloc(1, total + CPS_ALIGNMENT); /* never of size 0 */
}

void cps_sum_add(cps_running_sum *sum, double value) {
    const double total = sum->total + value;
    if (fabs(sum->total) >= fabs(value)) {
        sum->correction += (sum->total - total) + value;
    } else {
        sum->correction += (value - total) + sum->total;
    }
    sum->total = total;
}

double cps_sum_value(const cps_running_sum *sum) {
    /* once the total is infinite or NaN the correction is NaN: the total tells more */
    return isfinite(sum->total) ? sum->total + sum->correction : sum->total;
}

enum { LANES = 8, SQUARES_BLOCK = 4096 };

bool cps_all_finite(const cps_real *values, int64_t count) {
    /* 0 * x is 0 for a finite x and NaN for the others */
    cps_real lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            lanes[lane] += values[i + lane] * (cps_real)0;
        }
    }
    for (; i < count; i++) {
        lanes[0] += values[i] * (cps_real)0;
    }
    bool finite = true;
    for (int lane = 0; lane < LANES; lane++) {
        finite = finite && lanes[lane] == (cps_real)0;
    }
    return finite;
}

static double block_squares(const cps_real *values, int64_t count) {
    double lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            const double value = (double)values[i + lane];
            lanes[lane] += value * value;
        }
    }
    for (int lane = 0; i < count; i++, lane++) {
        const double value = (double)values[i];
        lanes[lane] += value * value;
    }
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

double cps_sum_squares(const cps_real *values, int64_t count) {
    double total = 0;
    for (int64_t first = 0; first < count; first += SQUARES_BLOCK) {
        total += block_squares(values + first, cps_min_i64(SQUARES_BLOCK, count - first));
    }
    return total;
}

int64_t cps_min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int64_t cps_max_i64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

size_t cps_max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

int64_t cps_ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

size_t cps_dtype_bytes(cps_dtype dtype) {
    switch (dtype) {
    case CPS_REAL:
        return sizeof(cps_real);
    case CPS_F64:
        return sizeof(double);
    case CPS_I32:
        return sizeof(int32_t);
    case CPS_I64:
        return sizeof(int64_t);
    case CPS_U8:
        return 1;
    }
    CPS_BUG_IF(true);
    return 0;
}
