/* Gram matrix, distances, roots, centring and triangle of one head; backward as a graph Laplacian
 * (dalip.md, "Gradients"). Everything in the build's own precision, as the page wants: products
 * accumulate there too, nothing is rounded further down. */
#if !defined(__clang__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif
#include "bdc.h"

#include <math.h>

#include "lanes.h"

static cps_real root_of(cps_real x) {
#ifdef CPS_REAL_DOUBLE
    return sqrt(x);
#else
    return sqrtf(x);
#endif
}

int64_t dalip_bdc_entries(int64_t reduced) {
    return reduced * (reduced + 1) / 2;
}

int64_t dalip_bdc_scratch(int64_t reduced) {
    return reduced * reduced + 2 * reduced;
}

/* The lower triangle from the upper one: a product gives both to rounding alone. */
static void mirror(int64_t r, cps_real *matrix) {
    for (int64_t i = 1; i < r; i++) {
        for (int64_t j = 0; j < i; j++) {
            matrix[i * r + j] = matrix[j * r + i];
        }
    }
}

/* Means of the rows of a symmetric matrix; the mean of all. */
static cps_real row_means(int64_t r, const cps_real *matrix, cps_real *means) {
    for (int64_t i = 0; i < r; i++) {
        means[i] = dalip_sum(r, matrix + i * r) / (cps_real)r;
    }
    return dalip_sum(r, means) / (cps_real)r;
}

/* Row i from its diagonal on; `square`: the diagonal of the Gram matrix. A distance that rounding
 * took below zero is one of coincident channels: 0. NaN stays. */
static void take_roots(int64_t count, cps_real own, const cps_real *restrict square,
                       const cps_real *restrict gram, cps_real factor, cps_real eps,
                       cps_real *restrict root) {
    for (int64_t j = 0; j < count; j++) {
        const cps_real distance = (own + square[j]) - 2 * gram[j];
        root[j] = root_of(factor * (distance < 0 ? 0 : distance) + eps);
    }
}

double dalip_bdc_forward(cps_tape *tape, const dalip_bdc *s, const cps_real *z, cps_real *root,
                         cps_real *q, cps_real *scratch) {
    const int64_t r = s->reduced;
    cps_real *gram = scratch, *square = gram + r * r, *means = square + r;
    cps_gemm_serial(tape, true, false, r, r, s->tokens, 1.0, z, s->stride, z, s->stride, 0.0, gram,
                    r);
    for (int64_t i = 0; i < r; i++) {
        square[i] = gram[i * r + i];
    }
    for (int64_t i = 0; i < r; i++) {
        take_roots(r - i, square[i], square + i, gram + i * r + i, (cps_real)s->factor,
                   (cps_real)s->eps, root + i * r + i);
    }
    mirror(r, root);
    const cps_real mean = row_means(r, root, means);
    for (int64_t i = 0; i < r; i++) {
        const cps_real *row = root + i * r, own = mean - means[i];
        DALIP_EACH
        for (int64_t j = i; j < r; j++) {
            q[j - i] = (row[j] - means[j]) + own;
        }
        q += r - i;
    }
    return (double)mean * (double)(r * r);
}

/* P: the triangle's gradient on both sides, twice on the diagonal. */
static void spread(int64_t r, const cps_real *d_q, cps_real *p) {
    for (int64_t i = 0; i < r; i++) {
        memcpy(p + i * r + i, d_q, (size_t)(r - i) * sizeof *p);
        p[i * r + i] *= 2;
        d_q += r - i;
    }
    mirror(r, p);
}

/* d z = z L with L = 2 (diag(A 1) - A), A = (J P J) factor / (2 S). The diagonal of A cancels.
 * Where rounding took a distance below zero A is finite and z_i = z_j to rounding: nothing flows.
 */
double dalip_bdc_backward(cps_tape *tape, const dalip_bdc *s, const cps_real *z,
                          const cps_real *root, const cps_real *d_q, cps_real *d_z,
                          cps_real *scratch) {
    const int64_t r = s->reduced;
    cps_real *p = scratch, *means = p + r * r, *steps = means + r;
    const cps_real factor = (cps_real)s->factor, eps = (cps_real)s->eps;
    double d_factor = 0.0;
    spread(r, d_q, p);
    const cps_real mean = row_means(r, p, means);
    for (int64_t i = 0; i < r; i++) {
        cps_real *row = p + i * r;
        const cps_real *of = root + i * r, own = mean - means[i];
        DALIP_EACH
        for (int64_t j = 0; j < r; j++) {
            row[j] = ((row[j] - means[j]) + own) / of[j];
        }
        /* d L / d log factor = sum of (R / 2) (S^2 - eps) / (2 S), R = J P J holding each twice. */
        DALIP_EACH
        for (int64_t j = 0; j < r; j++) {
            steps[j] = of[j] * of[j] - eps;
        }
        steps[i] = row[i] = 0;
        d_factor += (double)dalip_dot(r, row, steps);
        DALIP_EACH
        for (int64_t j = 0; j < r; j++) {
            row[j] *= -factor;
        }
        row[i] = -dalip_sum(r, row);
    }
    cps_gemm_serial(tape, false, false, s->tokens, r, r, 1.0, z, s->stride, p, r, 0.0, d_z,
                    s->stride);
    return 0.25 * d_factor;
}
