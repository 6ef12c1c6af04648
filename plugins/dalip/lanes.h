/* Sums along a row for the loops of this folder: over a fixed number of lanes that are folded in a
 * fixed order, so that the bits depend on n alone and not on the CPU. */
#ifndef COPSE_DALIP_LANES_H
#define COPSE_DALIP_LANES_H

#include <string.h>

#include "copse_objective.h"

/* Loops marked so touch element i only in pass i, whatever aliases. */
#if defined(__clang__)
#define DALIP_EACH _Pragma("clang loop vectorize(assume_safety)")
#else
#define DALIP_EACH _Pragma("GCC ivdep")
#endif

enum { DALIP_VECTOR = 16 / sizeof(cps_real), DALIP_LANES = 8 };
typedef cps_real dalip_vector __attribute__((vector_size(16)));
/* DALIP_LANES sums. */
typedef struct dalip_lanes {
    dalip_vector v[DALIP_LANES / DALIP_VECTOR];
} dalip_lanes;

static inline dalip_vector dalip_load(const cps_real *from) {
    dalip_vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* The lanes' sum, then the products of what no longer filled them. */
static inline cps_real dalip_fold(const dalip_lanes *lanes, int64_t rest, const cps_real *a,
                                  const cps_real *b) {
    cps_real lane[DALIP_LANES];
    memcpy(lane, lanes, sizeof lane);
    for (int64_t i = 0; i < rest; i++) {
        lane[i] += a[i] * b[i];
    }
    for (int width = DALIP_LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            lane[i] += lane[i + width];
        }
    }
    return lane[0];
}

static inline cps_real dalip_dot(int64_t n, const cps_real *a, const cps_real *b) {
    dalip_lanes sum = {0};
    int64_t i = 0;
    for (; i + DALIP_LANES <= n; i += DALIP_LANES) {
        for (int v = 0; v < DALIP_LANES / DALIP_VECTOR; v++) {
            sum.v[v] += dalip_load(a + i + v * DALIP_VECTOR) * dalip_load(b + i + v * DALIP_VECTOR);
        }
    }
    return dalip_fold(&sum, n - i, a + i, b + i);
}

/* a . t and t . t in one pass. */
static inline cps_real dalip_dot_two(int64_t n, const cps_real *a, const cps_real *t,
                                     cps_real *square_out) {
    dalip_lanes cross = {0}, square = {0};
    int64_t i = 0;
    for (; i + DALIP_LANES <= n; i += DALIP_LANES) {
        for (int v = 0; v < DALIP_LANES / DALIP_VECTOR; v++) {
            const dalip_vector x = dalip_load(t + i + v * DALIP_VECTOR);
            cross.v[v] += dalip_load(a + i + v * DALIP_VECTOR) * x;
            square.v[v] += x * x;
        }
    }
    *square_out = dalip_fold(&square, n - i, t + i, t + i);
    return dalip_fold(&cross, n - i, a + i, t + i);
}

static inline cps_real dalip_sum(int64_t n, const cps_real *x) {
    static const cps_real ones[DALIP_LANES] = {1, 1, 1, 1, 1, 1, 1, 1};
    dalip_lanes sum = {0};
    int64_t i = 0;
    for (; i + DALIP_LANES <= n; i += DALIP_LANES) {
        for (int v = 0; v < DALIP_LANES / DALIP_VECTOR; v++) {
            sum.v[v] += dalip_load(x + i + v * DALIP_VECTOR);
        }
    }
    return dalip_fold(&sum, n - i, x + i, ones);
}

#endif
