/* Distances between channels: group bdc, and what other groups say of theirs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "second.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"
#include "tests/vectors/arrays.h"
#include "train/stage.h"

/* Upper triangles row by row -> square matrices; the other side zero, or the same. */
static double *squares(const double *triangles, int64_t count, int64_t r, bool symmetric) {
    double *out = vectors_doubles(count * r * r);
    for (int64_t n = 0; n < count; n++) {
        for (int64_t i = 0; i < r; i++) {
            for (int64_t j = i; j < r; j++) {
                const double value = *triangles++;
                out[(n * r + i) * r + j] = value;
                out[(n * r + j) * r + i] = symmetric || i == j ? value : 0.0;
            }
        }
    }
    return out;
}

/* Distances of the Gram matrices' upper triangles, not clamped; those are mirrored. */
static double *distances(double *gram, int64_t count, int64_t r) {
    double *out = vectors_doubles(count * r * r);
    for (int64_t n = 0; n < count; n++) {
        double *g = gram + n * r * r;
        for (int64_t i = 0; i < r * r; i++) {
            g[i / r * r + i % r] = i / r > i % r ? g[i % r * r + i / r] : g[i];
        }
        for (int64_t i = 0; i < r * r; i++) {
            out[n * r * r + i] = g[i / r * (r + 1)] + g[i % r * (r + 1)] - 2.0 * g[i];
        }
    }
    return out;
}

second_heads second_run_heads(const second_desk *d, dalip_bdc s, int64_t count, int64_t heads,
                              int64_t tokens, const cps_real *z, const cps_real *d_q) {
    const int64_t r = s.reduced, entries = dalip_bdc_entries(r);
    second_heads out = {.gram = second_reals(d, NULL, count * r * r),
                        .root = second_reals(d, NULL, count * r * r),
                        .q = second_reals(d, NULL, count * entries),
                        .d_z = second_reals(d, NULL, count * tokens * r)};
    cps_real *scratch = second_reals(d, NULL, dalip_bdc_scratch(r));
    s.tokens = tokens;
    s.width = r;
    s.factor = 0.5 / (double)tokens;
    for (int64_t n = 0; n < count; n++) {
        const int64_t at = (n / heads * tokens * heads + n % heads) * r;
        (void)dalip_passes_get()->bdc_forward(d->tape, &s, z + at, out.root + n * r * r,
                                              out.q + n * entries, scratch);
        memcpy(out.gram + n * r * r, scratch, (size_t)(r * r) * sizeof *scratch);
        (void)dalip_passes_get()->bdc_backward(d->tape, &s, z + at, out.root + n * r * r,
                                               d_q + n * entries, out.d_z + at, scratch);
    }
    return out;
}

/* [count / heads][tokens, heads, r] -> [count, r, tokens]. */
double *second_channels_first(const cps_real *z, int64_t count, int64_t heads, int64_t tokens,
                              int64_t r) {
    double *out = vectors_doubles(count * r * tokens);
    for (int64_t n = 0; n < count; n++) {
        for (int64_t m = 0; m < tokens; m++) {
            for (int64_t i = 0; i < r; i++) {
                out[(n * r + i) * tokens + m] =
                    (double)z[((n / heads * tokens + m) * heads + n % heads) * r + i];
            }
        }
    }
    return out;
}

/* G, D, S and C of [count] heads; `triangle` is q, or v. */
void second_expect_heads(cps_h5 *file, const char *group, const second_heads *got,
                         const cps_real *triangle, int64_t count, int64_t r) {
    double *gram = second_widened(got->gram, count * r * r);
    double *distance = distances(gram, count, r);
    double *v = second_widened(triangle, count * dalip_bdc_entries(r));
    double *centred = squares(v, count, r, true);
    second_expect(file, group, "G", gram, count * r * r);
    second_expect(file, group, "D", distance, count * r * r);
    second_expect(file, group, "C", centred, count * r * r);
    free(gram);
    free(distance);
    free(v);
    free(centred);
}

void second_expect_triangle(cps_h5 *file, const char *group, const char *name, const double *d_v,
                            int64_t count, int64_t r) {
    double *d_c = squares(d_v, count, r, false);
    second_expect_gradient(file, group, name, d_c, count * r * r);
    free(d_c);
}

/* X [count, r, tokens]. */
void second_check_distances(cps_h5 *file, const char *group) {
    static const char *const inputs[] = {"X", "grad_v", NULL};
    double eps = 0.0;
    if (!vectors_has(file, group, inputs)) {
        return;
    }
    vectors_need(cps_h5_read_number(file, group, "eps", &eps));
    vectors_matrix x = vectors_matrix_read(file, group, "X"),
                   d_v = vectors_matrix_read(file, group, "grad_v");
    const int64_t count = d_v.rows, tokens = x.width, r = count > 0 ? x.rows / count : 0;
    vectors_need_same(group, r >= 2 && count * r == x.rows && d_v.width == dalip_bdc_entries(r));
    second_desk d = second_open();
    cps_real *z = second_reals(&d, NULL, count * tokens * r);
    for (int64_t i = 0; i < count * tokens * r; i++) {
        z[(i / (r * tokens) * tokens + i % tokens) * r + i / tokens % r] = (cps_real)x.values[i];
    }
    const dalip_bdc s = {.reduced = r, .stride = r, .eps = eps};
    const cps_real *d_q = second_reals(&d, d_v.values, count * d_v.width);
    const second_heads got = second_run_heads(&d, s, count, 1, tokens, z, d_q);
    double *d_x = second_channels_first(got.d_z, count, 1, tokens, r);
    second_expect_heads(file, group, &got, got.q, count, r);
    second_expect_reals(file, group, "S", got.root, count * r * r);
    second_expect_reals(file, group, "v", got.q, count * d_v.width);
    second_expect_triangle(file, group, "grad_C", d_v.values, count, r);
    second_expect_gradient(file, group, "grad_X", d_x, count * r * tokens);
    free(d_x);
    free(x.values);
    free(d_v.values);
    second_close(&d);
}
