/* Sinkhorn iterations in the log domain. With l = logits, f and g the logs of the factors:
 *     g_n = -log N - log sum_u exp(l_un + f_u)        f_u = -log M - log sum_n exp(l_un + g_n)
 * Every sum over a row or column goes through sum_rows or sum_columns, in one of two forms. Where
 * the logits span at most SPAN, exp(l - shift) is made once and a sum is a product of that matrix
 * with a vector whose largest weight is 1: the sum is at least exp(-SPAN) and what underflows is
 * below rounding. Beyond (scales of more than 300) each sum takes its own maximum and its own
 * exponentials. Both are exact to rounding; the first costs a multiplication instead of an
 * exponential. */
#include "transport.h"

#include <math.h>
#include <string.h>

#define SPAN 600.0 /* exp(-600) is 1e-261 */

enum { ROWS = 8, COLUMNS = 32, LANES = 8, BLOCK = 64 }; /* of a body */

int64_t sclip_transport_work(int64_t rows, int64_t columns, int64_t iterations) {
    return iterations * (2 * rows + 3 * columns) + 3 * (rows + columns);
}

/* ---- sums over rows and columns ---- */

/* sums[i] * exp(tops[i]) = the sum of exp(l + offset) * factor over row or column i. */
typedef struct sum_pass {
    const sclip_transport *t;
    const double *weights; /* kernel form: exp(offset - its largest) * factor */
    const double *offset;
    const double *factor; /* NULL: 1 */
    double *tops, *sums;
} sum_pass;

/* Fixed lanes, folded in a fixed order. */
static double dot(int64_t count, const double *a, const double *b) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            lane[l] += a[i + l] * b[i + l];
        }
    }
    for (int l = 0; i < count; i++, l++) {
        lane[l] += a[i] * b[i];
    }
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) +
           ((lane[2] + lane[6]) + (lane[3] + lane[7]));
}

/* y += factor x. */
static void add_times(int64_t count, double factor, const double *x, double *restrict y) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            y[i + l] += factor * x[i + l];
        }
    }
    for (; i < count; i++) {
        y[i] += factor * x[i];
    }
}

static void row_kernel(void *context, int64_t index) {
    const sum_pass *w = context;
    const int64_t columns = w->t->columns;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < w->t->rows; u++) {
        w->sums[u] = dot(columns, w->t->matrix + u * columns, w->weights);
    }
}

static void row_log(void *context, int64_t index) {
    const sum_pass *w = context;
    const int64_t columns = w->t->columns;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < w->t->rows; u++) {
        const double *l = w->t->matrix + u * columns;
        double top = -HUGE_VAL, sum = 0.0;
        for (int64_t n = 0; n < columns; n++) {
            top = fmax(top, l[n] + w->offset[n]);
        }
        for (int64_t n = 0; n < columns; n++) {
            sum += exp(l[n] + w->offset[n] - top) * (w->factor == NULL ? 1.0 : w->factor[n]);
        }
        w->tops[u] = top + w->t->shift;
        w->sums[u] = sum;
    }
}

static void column_kernel(void *context, int64_t index) {
    const sum_pass *w = context;
    const int64_t columns = w->t->columns, first = index * COLUMNS;
    const int64_t count = columns - first < COLUMNS ? columns - first : COLUMNS;
    double sum[COLUMNS] = {0};
    for (int64_t u = 0; u < w->t->rows; u++) {
        add_times(count, w->weights[u], w->t->matrix + u * columns + first, sum);
    }
    memcpy(w->sums + first, sum, (size_t)count * sizeof *sum);
}

static void column_log(void *context, int64_t index) {
    const sum_pass *w = context;
    const int64_t columns = w->t->columns, first = index * COLUMNS;
    const int64_t count = columns - first < COLUMNS ? columns - first : COLUMNS;
    double top[COLUMNS], sum[COLUMNS] = {0};
    for (int64_t n = 0; n < count; n++) {
        top[n] = -HUGE_VAL;
    }
    for (int64_t u = 0; u < w->t->rows; u++) {
        const double *l = w->t->matrix + u * columns + first;
        for (int64_t n = 0; n < count; n++) {
            top[n] = fmax(top[n], l[n] + w->offset[u]);
        }
    }
    for (int64_t u = 0; u < w->t->rows; u++) {
        const double *l = w->t->matrix + u * columns + first;
        const double factor = w->factor == NULL ? 1.0 : w->factor[u];
        for (int64_t n = 0; n < count; n++) {
            sum[n] += exp(l[n] + w->offset[u] - top[n]) * factor;
        }
    }
    for (int64_t n = 0; n < count; n++) {
        w->tops[first + n] = top[n] + w->t->shift;
        w->sums[first + n] = sum[n];
    }
}

static double largest(int64_t count, const double *values) {
    double most = values[0];
    for (int64_t i = 1; i < count; i++) {
        most = fmax(most, values[i]);
    }
    return most;
}

/* The weights of a sum in kernel form, into `weights`; gives the top that all sums share. */
static double weigh(const sclip_transport *t, int64_t count, const double *offset,
                    const double *factor, double *weights) {
    const double most = largest(count, offset);
    for (int64_t i = 0; i < count; i++) {
        weights[i] = exp(offset[i] - most) * (factor == NULL ? 1.0 : factor[i]);
    }
    return most + t->shift;
}

/* Over each row: offset, factor [columns]; tops, sums [rows]; weights: scratch [columns]. */
static void sum_rows(cps_tape *tape, const sclip_transport *t, const double *offset,
                     const double *factor, double *weights, double *tops, double *sums) {
    sum_pass pass = {t, weights, offset, factor, tops, sums};
    if (t->kernel) {
        const double top = weigh(t, t->columns, offset, factor, weights);
        for (int64_t u = 0; u < t->rows; u++) {
            tops[u] = top;
        }
    }
    cps_parallel(tape, (t->rows + ROWS - 1) / ROWS, t->kernel ? row_kernel : row_log, &pass);
}

/* Over each column: offset, factor [rows]; tops, sums [columns]; weights: scratch [rows]. */
static void sum_columns(cps_tape *tape, const sclip_transport *t, const double *offset,
                        const double *factor, double *weights, double *tops, double *sums) {
    sum_pass pass = {t, weights, offset, factor, tops, sums};
    if (t->kernel) {
        const double top = weigh(t, t->rows, offset, factor, weights);
        for (int64_t n = 0; n < t->columns; n++) {
            tops[n] = top;
        }
    }
    cps_parallel(tape, (t->columns + COLUMNS - 1) / COLUMNS, t->kernel ? column_kernel : column_log,
                 &pass);
}

/* ---- forward ---- */

static void prepare_rows(void *context, int64_t index) {
    const sclip_transport *t = context;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < t->rows; u++) {
        double *l = t->matrix + u * t->columns;
        for (int64_t n = 0; n < t->columns; n++) {
            l[n] = t->kernel ? exp(l[n] - t->shift) : l[n] - t->shift;
        }
    }
}

void sclip_transport_prepare(cps_tape *tape, sclip_transport *t) {
    const int64_t count = t->rows * t->columns;
    double least = t->matrix[0];
    t->shift = largest(count, t->matrix);
    for (int64_t i = 1; i < count; i++) {
        least = fmin(least, t->matrix[i]);
    }
    t->kernel = t->shift - least <= SPAN;
    cps_parallel(tape, (t->rows + ROWS - 1) / ROWS, prepare_rows, t);
}

void sclip_transport_solve(cps_tape *tape, sclip_transport *t) {
    const int64_t rows = t->rows, columns = t->columns;
    double *weights = t->work, *tops = weights + rows + columns, *sums = tops + rows + columns;
    const double log_rows = log((double)rows), log_columns = log((double)columns);
    for (int64_t u = 0; u < rows; u++) {
        t->f[u] = -log_rows;
    }
    for (int64_t i = 0; i < t->iterations; i++) {
        double *g = t->g + i * columns, *f = t->f + (i + 1) * rows;
        sum_columns(tape, t, f - rows, NULL, weights, tops, sums);
        for (int64_t n = 0; n < columns; n++) {
            g[n] = -log_columns - tops[n] - log(sums[n]);
        }
        sum_rows(tape, t, g, NULL, weights, tops, sums);
        for (int64_t u = 0; u < rows; u++) {
            f[u] = -log_rows - tops[u] - log(sums[u]);
        }
    }
}

typedef struct plan_pass {
    const sclip_transport *t;
    double *plan;
    double *weights; /* kernel form: exp(g - its largest) */
    double top;
} plan_pass;

static void plan_rows(void *context, int64_t index) {
    const plan_pass *w = context;
    const sclip_transport *t = w->t;
    const double *g = t->g + (t->iterations - 1) * t->columns;
    const double *f = t->f + t->iterations * t->rows;
    const double log_rows = log((double)t->rows);
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < t->rows; u++) {
        const double *from = t->matrix + u * t->columns;
        double *to = w->plan + u * t->columns;
        const double level = f[u] + log_rows;
        const double factor = t->kernel ? exp(level + w->top) : 0.0;
        for (int64_t n = 0; n < t->columns; n++) {
            to[n] = t->kernel ? from[n] * w->weights[n] * factor
                              : exp(from[n] + t->shift + g[n] + level);
        }
    }
}

void sclip_transport_plan(cps_tape *tape, const sclip_transport *t, double *plan) {
    plan_pass pass = {.t = t, .plan = plan, .weights = t->work};
    if (t->kernel) {
        pass.top =
            weigh(t, t->columns, t->g + (t->iterations - 1) * t->columns, NULL, pass.weights);
    }
    cps_parallel(tape, (t->rows + ROWS - 1) / ROWS, plan_rows, &pass);
}

/* ---- backward ----
 * With D the gradient at the plan's logits and dg its column sums, for i from the last to 1:
 *     alpha = N exp(l + f[i-1] + g[i])      dl -= alpha dg      df = -alpha dg summed over columns
 *     beta  = M exp(l + f[i-1] + g[i-1])    dl -= beta df       dg = -beta' df summed over rows
 * where the last line is left out for i = 1. All dg and df come first, then dl in one pass. */

typedef struct back_pass {
    const sclip_transport *t;
    double *gradient;
    double *dg, *df;   /* [iterations, columns], [iterations, rows]; df[0] is not used */
    double *a, *b, *c; /* kernel form: [iterations, rows], twice [iterations, columns] */
} back_pass;

static void column_sums(void *context, int64_t index) {
    const back_pass *w = context;
    const int64_t columns = w->t->columns, first = index * COLUMNS;
    const int64_t count = columns - first < COLUMNS ? columns - first : COLUMNS;
    double *dg = w->dg + (w->t->iterations - 1) * columns + first;
    memset(dg, 0, (size_t)count * sizeof *dg);
    for (int64_t u = 0; u < w->t->rows; u++) {
        add_times(count, 1.0, w->gradient + u * columns + first, dg);
    }
}

/* What iteration i takes from row u and columns first .. first+count-1, added to `sum`. */
static void taken_kernel(const back_pass *w, int64_t i, int64_t u, int64_t first, int64_t count,
                         double *sum) {
    const sclip_transport *t = w->t;
    const double a = w->a[i * t->rows + u], d = i > 0 ? a * w->df[i * t->rows + u] : 0.0;
    add_times(count, a, w->b + i * t->columns + first, sum);
    add_times(count, d, w->c + i * t->columns + first, sum);
}

static void taken_log(const back_pass *w, int64_t i, int64_t u, int64_t first, int64_t count,
                      double *sum) {
    const sclip_transport *t = w->t;
    const double *l = t->matrix + u * t->columns + first;
    const double *dg = w->dg + i * t->columns + first, *g = t->g + i * t->columns + first;
    const double level = t->f[i * t->rows + u] + t->shift;
    const double d = i > 0 ? w->df[i * t->rows + u] * (double)t->rows : 0.0;
    for (int64_t n = 0; n < count; n++) {
        sum[n] += exp(l[n] + level + g[n]) * (double)t->columns * dg[n];
        if (i > 0) {
            sum[n] += exp(l[n] + level + g[n - t->columns]) * d;
        }
    }
}

static void back_rows(void *context, int64_t index) {
    const back_pass *w = context;
    const sclip_transport *t = w->t;
    for (int64_t u = index * ROWS; u < (index + 1) * ROWS && u < t->rows; u++) {
        for (int64_t first = 0; first < t->columns; first += BLOCK) {
            const int64_t at = u * t->columns + first;
            const int64_t count = t->columns - first < BLOCK ? t->columns - first : BLOCK;
            double sum[BLOCK] = {0};
            for (int64_t i = t->iterations - 1; i >= 0; i--) {
                (t->kernel ? taken_kernel : taken_log)(w, i, u, first, count, sum);
            }
            for (int64_t n = 0; n < count; n++) {
                w->gradient[at + n] -= t->kernel ? t->matrix[at + n] * sum[n] : sum[n];
            }
        }
    }
}

/* Factors of iteration i in kernel form: exp(l + f + g) = matrix * a * exp(g + top). */
static void factor_iteration(const back_pass *w, int64_t i) {
    const sclip_transport *t = w->t;
    const int64_t rows = t->rows, columns = t->columns;
    const double *g = t->g + i * columns, *dg = w->dg + i * columns;
    const double top = weigh(t, rows, t->f + i * rows, NULL, w->a + i * rows);
    for (int64_t n = 0; n < columns; n++) {
        w->b[i * columns + n] = (double)columns * exp(g[n] + top) * dg[n];
        w->c[i * columns + n] = i > 0 ? (double)rows * exp(g[n - columns] + top) : 0.0;
    }
}

/* to[i] = -count exp(tops[i] + offset[i]) sums[i]. */
static void finish_sums(int64_t length, double count, const double *tops, const double *sums,
                        const double *offset, double *to) {
    for (int64_t i = 0; i < length; i++) {
        to[i] = -count * exp(tops[i] + offset[i]) * sums[i];
    }
}

void sclip_transport_backward(cps_tape *tape, const sclip_transport *t, double *gradient) {
    const int64_t rows = t->rows, columns = t->columns, last = t->iterations - 1;
    double *weights = t->work, *tops = weights + rows + columns, *sums = tops + rows + columns;
    double *dg = sums + rows + columns, *df = dg + t->iterations * columns;
    back_pass pass = {.t = t, .gradient = gradient, .dg = dg, .df = df};
    pass.a = df + t->iterations * rows;
    pass.b = pass.a + t->iterations * rows;
    pass.c = pass.b + t->iterations * columns;
    cps_parallel(tape, (columns + COLUMNS - 1) / COLUMNS, column_sums, &pass);
    for (int64_t i = last; i > 0; i--) {
        const double *f = t->f + i * rows, *g = t->g + i * columns;
        sum_rows(tape, t, g, dg + i * columns, weights, tops, sums);
        finish_sums(rows, (double)columns, tops, sums, f, df + i * rows);
        sum_columns(tape, t, f, df + i * rows, weights, tops, sums);
        finish_sums(columns, (double)rows, tops, sums, g - columns, dg + (i - 1) * columns);
    }
    for (int64_t i = 0; i <= last && t->kernel; i++) {
        factor_iteration(&pass, i);
    }
    cps_parallel(tape, (rows + ROWS - 1) / ROWS, back_rows, &pass);
}
