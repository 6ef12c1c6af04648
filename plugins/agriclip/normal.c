/* Normal equations of the aligner's closed forms: (A'A + lambda I) S = A'Y.
 *
 * Without a penalty A'A may be singular: the outputs of a layer norm, divided by its gains, add up
 * to the same number in every row, units of a ReLU may be 0 in all of them, and single precision
 * leaves noise where exact arithmetic leaves 0. A column that earlier ones give is found by a
 * Cholesky factorisation row by row, its pivot being what is left of the column's square, and gets
 * the coefficients 0: fitted values are those of every other least-squares solution. */
#include <math.h>
#include <stdlib.h>

#include "agriclip.h"

/* Share of a column's square below which it counts as given by others: single precision leaves some
 * 4e-15 a column, times the number of columns. */
static const double dependent_share = 1e-10;

/* Indices of independent rows of `gram` [n, n] in kept_out [n]; `lower` [n, n] is scratch: the
 * factor of what is kept. */
static int64_t find_independent(int64_t n, const double *gram, double *lower, int64_t *kept_out) {
    int64_t count = 0;
    for (int64_t j = 0; j < n; j++) {
        double *row = lower + count * n;
        double pivot = gram[j * n + j];
        for (int64_t q = 0; q < count; q++) {
            const double *other = lower + q * n;
            double value = gram[j * n + kept_out[q]];
            for (int64_t p = 0; p < q; p++) {
                value -= row[p] * other[p];
            }
            row[q] = value / other[q];
            pivot -= row[q] * row[q];
        }
        if (pivot > dependent_share * gram[j * n + j]) {
            row[count] = sqrt(pivot);
            kept_out[count++] = j;
        }
    }
    return count;
}

/* Solves for the kept unknowns; the others become 0. lower: scratch [n, n]. */
static cps_status solve_kept(cps_fit *fit, int64_t n, const double *gram, int64_t m, double *right,
                             int64_t count, const int64_t *kept, double *lower) {
    for (int64_t i = 0; i < count; i++) {
        for (int64_t j = 0; j < count; j++) {
            lower[i * count + j] = gram[kept[i] * n + kept[j]];
        }
        for (int64_t c = 0; c < m; c++) {
            right[i * m + c] = right[kept[i] * m + c]; /* kept[i] >= i: from the front */
        }
    }
    const cps_status status = cps_fit_cholesky_solve_f64(fit, count, lower, m, right);
    int64_t at = count - 1;
    for (int64_t i = n - 1; i >= 0; i--) {
        const bool is_kept = at >= 0 && kept[at] == i;
        for (int64_t c = 0; c < m; c++) {
            right[i * m + c] = is_kept ? right[at * m + c] : 0.0;
        }
        at -= is_kept;
    }
    return status;
}

cps_status agriclip_solve_normal(cps_fit *fit, int64_t n, double *gram, int64_t m, double *right,
                                 double lambda, int64_t *dependent_out) {
    *dependent_out = 0;
    if (lambda > 0.0) {
        for (int64_t i = 0; i < n; i++) {
            gram[i * n + i] += lambda;
        }
        return cps_fit_cholesky_solve_f64(fit, n, gram, m, right);
    }
    double *lower = malloc((size_t)(n * n) * sizeof *lower);
    int64_t *kept = malloc((size_t)n * sizeof *kept);
    cps_status status = CPS_OK;
    if (lower == NULL || kept == NULL) {
        status = cps_error(fit, CPS_ERR_UNAVAILABLE, "out of memory for %lld x %lld products",
                           (long long)n, (long long)n);
    } else {
        const int64_t count = find_independent(n, gram, lower, kept);
        *dependent_out = n - count;
        status = solve_kept(fit, n, gram, m, right, count, kept, lower);
    }
    free(lower);
    free(kept);
    return status;
}
