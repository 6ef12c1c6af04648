/* A = L L^T and the solution of A X = B, in double. Blocks of 64 columns: the block is factored by
 * plain loops, what lies below and behind it is updated by products (gemm.h: fixed tiles), so the
 * bits depend on the sizes alone. */
#include "tensor/gemm.h"

#include <math.h>

#include "base/numeric.h"
#include "base/pool.h"

enum { BLOCK = 64, STRIP = 64 };

typedef struct solve {
    int64_t n, columns;
    double *a, *b;
    int64_t first, size; /* of the block under work */
} solve;

/* Factors the diagonal block in place (lower part). */
static cps_status factor_block(const solve *s) {
    for (int64_t j = s->first; j < s->first + s->size; j++) {
        double *row_j = s->a + j * s->n;
        double pivot = row_j[j];
        for (int64_t k = s->first; k < j; k++) {
            pivot -= row_j[k] * row_j[k];
        }
        if (!(pivot > 0.0) || !isfinite(pivot)) {
            return cps_fail(CPS_ERR_DATA,
                            "a matrix of %lld rows is not positive definite: pivot %lld is %g; add "
                            "a larger ridge, or look "
                            "for columns that are constant or repeated",
                            (long long)s->n, (long long)j, pivot);
        }
        row_j[j] = sqrt(pivot);
        for (int64_t i = j + 1; i < s->first + s->size; i++) {
            double *row_i = s->a + i * s->n;
            double value = row_i[j];
            for (int64_t k = s->first; k < j; k++) {
                value -= row_i[k] * row_j[k];
            }
            row_i[j] = value / row_j[j];
        }
    }
    return CPS_OK;
}

/* One row of the panel below the block: row <- row * L_block^-T. */
static void panel_row(void *context, int64_t index) {
    const solve *s = context;
    double *row = s->a + (s->first + s->size + index) * s->n;
    for (int64_t j = s->first; j < s->first + s->size; j++) {
        const double *row_j = s->a + j * s->n;
        double value = row[j];
        for (int64_t k = s->first; k < j; k++) {
            value -= row[k] * row_j[k];
        }
        row[j] = value / row_j[j];
    }
}

/* A strip of columns of B: the block's rows <- L_block^-1 times them. */
static void lower_strip(void *context, int64_t index) {
    const solve *s = context;
    const int64_t from = index * STRIP, to = cps_min_i64(from + STRIP, s->columns);
    for (int64_t i = s->first; i < s->first + s->size; i++) {
        for (int64_t k = s->first; k < i; k++) {
            const double factor = s->a[i * s->n + k];
            for (int64_t c = from; c < to; c++) {
                s->b[i * s->columns + c] -= factor * s->b[k * s->columns + c];
            }
        }
        for (int64_t c = from; c < to; c++) {
            s->b[i * s->columns + c] /= s->a[i * s->n + i];
        }
    }
}

/* The same with L_block^-T, from the last row up. */
static void upper_strip(void *context, int64_t index) {
    const solve *s = context;
    const int64_t from = index * STRIP, to = cps_min_i64(from + STRIP, s->columns);
    for (int64_t i = s->first + s->size - 1; i >= s->first; i--) {
        for (int64_t k = i + 1; k < s->first + s->size; k++) {
            const double factor = s->a[k * s->n + i];
            for (int64_t c = from; c < to; c++) {
                s->b[i * s->columns + c] -= factor * s->b[k * s->columns + c];
            }
        }
        for (int64_t c = from; c < to; c++) {
            s->b[i * s->columns + c] /= s->a[i * s->n + i];
        }
    }
}

static cps_status factor(solve *s) {
    for (s->first = 0; s->first < s->n; s->first += BLOCK) {
        s->size = cps_min_i64(BLOCK, s->n - s->first);
        const int64_t next = s->first + s->size, rest = s->n - next;
        CPS_TRY(factor_block(s));
        cps_parallel(rest, panel_row, s);
        const double *panel = s->a + next * s->n + s->first;
        if (rest > 0) { /* the whole square behind the block; only its lower half is used */
            cps_gemm_f64(false, true, rest, rest, s->size, -1.0, panel, s->n, panel, s->n, 1.0,
                         s->a + next * s->n + next, s->n);
        }
    }
    return CPS_OK;
}

static void substitute(solve *s) {
    const int64_t strips = cps_ceil_div(s->columns, STRIP), columns = s->columns;
    for (s->first = 0; s->first < s->n; s->first += BLOCK) {
        s->size = cps_min_i64(BLOCK, s->n - s->first);
        const int64_t next = s->first + s->size;
        cps_parallel(strips, lower_strip, s);
        if (next < s->n) {
            cps_gemm_f64(false, false, s->n - next, columns, s->size, -1.0,
                         s->a + next * s->n + s->first, s->n, s->b + s->first * columns, columns,
                         1.0, s->b + next * columns, columns);
        }
    }
    for (s->first = (s->n - 1) / BLOCK * BLOCK; s->first >= 0; s->first -= BLOCK) {
        s->size = cps_min_i64(BLOCK, s->n - s->first);
        cps_parallel(strips, upper_strip, s);
        if (s->first > 0) {
            cps_gemm_f64(true, false, s->first, columns, s->size, -1.0, s->a + s->first * s->n,
                         s->n, s->b + s->first * columns, columns, 1.0, s->b, columns);
        }
    }
}

cps_status cps_cholesky_solve_f64(int64_t n, double *a, int64_t columns, double *b) {
    solve s = {.n = n, .columns = columns, .a = a, .b = b};
    if (n == 0) {
        return CPS_OK;
    }
    CPS_TRY(factor(&s));
    substitute(&s);
    return CPS_OK;
}
