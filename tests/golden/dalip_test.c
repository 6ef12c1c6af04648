/* DALIP's distance covariance against plugins/dalip/dalip.md written out plainly in double, and
 * against the answer that can be had by hand. The plugin's own objects are linked into this test.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/pool.h"
#include "base/rng.h"
#include "plugins/dalip/mbdc.h"
#include "tensor/gemm.h"
#include "train/stage.h"

enum { B = 3, M = 5, H = 2, G = 6, R = 3, LONGEST = B * (M + 1) * H * G, K = R * (R + 1) / 2 };

static double tolerance(void) {
    return sizeof(cps_real) == sizeof(double) ? 1e-12 : 2e-5;
}

static void check_near(const cps_real *got, const double *want, int64_t count) {
    double worst = 0.0, size = 1e-6;
    for (int64_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs((double)got[i] - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    if (!(worst <= tolerance() * size)) {
        fail_msg("off by %g of %g", worst, size);
    }
}

/* ---- one head ---- */

typedef struct desk {
    cps_arena *arena;
    cps_tape *tape;
} desk;

static desk open_desk(void) {
    desk d;
    cps_gemm_start();
    assert_int_equal(cps_arena_create("test", (size_t)1 << 20, true, &d.arena), CPS_OK);
    assert_int_equal(cps_tape_create(d.arena, CPS_TAPE_RECORD, cps_host_table(), &d.tape), CPS_OK);
    return d;
}

static void close_desk(desk *d) {
    cps_tape_destroy(d->tape);
    cps_arena_destroy(d->arena);
}

/* r = M = 2, z = I: D = 2 off the diagonal. */
static void test_by_hand(void **state) {
    (void)state;
    desk d = open_desk();
    const dalip_bdc s = {
        .tokens = 2, .reduced = 2, .width = 2, .stride = 2, .factor = 0.25, .eps = 1e-5};
    const cps_real z[4] = {1, 0, 0, 1}, d_q[3] = {1, 0, 0};
    cps_real root[4], q[3], d_z[4],
        *scratch = calloc((size_t)dalip_bdc_scratch(2), sizeof *scratch);
    const double c = 0.5 * (sqrt(1e-5) - sqrt(0.50001)), slope = -0.5 / (8.0 * sqrt(0.50001));
    assert_true(fabs(dalip_passes_get()->bdc_forward(d.tape, &s, z, root, q, scratch) -
                     2.0 * (sqrt(1e-5) + sqrt(0.50001))) < tolerance());
    check_near(root, (double[]){sqrt(1e-5), sqrt(0.50001), sqrt(0.50001), sqrt(1e-5)}, 4);
    check_near(q, (double[]){c, -c, c}, 3);
    assert_true(fabs(c + 0.35197578728) < 1e-10);
    (void)dalip_passes_get()->bdc_backward(d.tape, &s, z, root, d_q, d_z, scratch);
    check_near(d_z, (double[]){2 * slope, -2 * slope, -2 * slope, 2 * slope}, 4);
    free(scratch);
    close_desk(&d);
}

/* Channels that coincide or are zero everywhere: S is the root of eps, and nothing flows. */
static void test_coincident(void **state) {
    (void)state;
    desk d = open_desk();
    const dalip_bdc s = {
        .tokens = 3, .reduced = 4, .width = 4, .stride = 4, .factor = 1.0 / 6.0, .eps = 1e-5};
    const cps_real z[12] = {1, 0, 0, 1, 2, 0, 0, 2, (cps_real)0.3, 0, 0, (cps_real)0.3};
    cps_real root[16], q[10], d_q[10], d_z[12];
    cps_real *scratch = calloc((size_t)dalip_bdc_scratch(4), sizeof *scratch);
    (void)dalip_passes_get()->bdc_forward(d.tape, &s, z, root, q, scratch);
    const cps_real least = (cps_real)sqrt((double)(cps_real)1e-5);
    assert_true(fabs((double)(root[3] - least)) < 1e-7);
    assert_true(fabs((double)(root[6] - least)) < 1e-7);
    for (int i = 0; i < 10; i++) {
        d_q[i] = (cps_real)(i - 4);
    }
    (void)dalip_passes_get()->bdc_backward(d.tape, &s, z, root, d_q, d_z, scratch);
    for (int m = 0; m < 3; m++) {
        for (int i = 0; i < 4; i++) {
            assert_true(isfinite((double)d_z[4 * m + i]));
        }
    }
    free(scratch);
    close_desk(&d);
}

/* ---- the operation ---- */

typedef struct setting {
    dalip_norm norm;
    bool given, by_token, dropped, masked, factor;
    bool anchor_in_front; /* else: the last token that counts */
} setting;

typedef struct inputs {
    cps_real y[LONGEST], reduce[R * G], gain[R], bias[R], mean[R], variance[R], mask[B * H * M];
    cps_real log_factor;
    int32_t first[B], anchor[B], valid[B];
    int64_t rows;
} inputs;

static void make_inputs(const setting *s, inputs *in) {
    const cps_draw_key key = {.seed = 4};
    uint64_t at = 0;
    const int32_t positions = M + (s->anchor_in_front ? 1 : 0);
    in->rows = B * positions;
    for (int64_t i = 0; i < in->rows * H * G; i++) {
        in->y[i] = (cps_real)cps_draw_normal(&key, at++);
    }
    for (int i = 0; i < R * G; i++) {
        in->reduce[i] = (cps_real)cps_draw_normal(&key, at++);
    }
    for (int i = 0; i < R; i++) {
        in->gain[i] = (cps_real)(1.0 + 0.2 * i);
        in->bias[i] = (cps_real)(0.1 * i);
        in->mean[i] = (cps_real)(0.01 * i);
        in->variance[i] = (cps_real)(0.02 + 0.01 * i);
    }
    for (int i = 0; i < B * H * M; i++) {
        in->mask[i] = cps_draw_uniform(&key, at++) < 0.7 ? 2 : 0;
    }
    for (int32_t b = 0; b < B; b++) {
        in->first[b] = b * positions + (s->anchor_in_front ? 1 : 0);
        in->valid[b] = M - b;
        in->anchor[b] = s->anchor_in_front ? b * positions : in->first[b] + in->valid[b] - 1;
    }
    for (int i = 0; i < G; i++) {
        in->y[(in->first[1] + 1) * H * G + i] = 0; /* a token without length */
    }
    in->log_factor = (cps_real)-1.5;
}

static dalip_mbdc shape_of(const setting *s, const inputs *in) {
    const bool given = s->given && s->norm == DALIP_BATCH_NORM;
    return (dalip_mbdc){.samples = B,
                        .tokens = M,
                        .heads = H,
                        .channels = G,
                        .reduced = R,
                        .first = in->first,
                        .anchor = in->anchor,
                        .valid = s->masked ? in->valid : NULL,
                        .norm = s->norm,
                        .norm_eps = 1e-5,
                        .eps = 1e-5,
                        .mean = given ? in->mean : NULL,
                        .variance = given ? in->variance : NULL,
                        .mask = s->dropped ? in->mask : NULL,
                        .mask_tokens = s->by_token};
}

static int tokens_of(const setting *s, const inputs *in, int b) {
    return s->masked ? in->valid[b] : M;
}

/* u [B, M, H, R]. */
static void plain_reduction(const setting *s, const inputs *in, double *u) {
    for (int b = 0; b < B; b++) {
        for (int h = 0; h < H; h++) {
            double weight[M], sum = 0.0;
            const cps_real *a = in->y + (in->anchor[b] * H + h) * G;
            for (int m = 0; m < tokens_of(s, in, b); m++) {
                const cps_real *t = in->y + ((in->first[b] + m) * H + h) * G;
                double cross = 0.0, aa = 0.0, tt = 0.0;
                for (int c = 0; c < G; c++) {
                    cross += (double)a[c] * (double)t[c];
                    aa += (double)a[c] * (double)a[c];
                    tt += (double)t[c] * (double)t[c];
                }
                weight[m] = exp(cross / (fmax(sqrt(aa), 1e-8) * fmax(sqrt(tt), 1e-8)));
                sum += weight[m];
            }
            for (int m = 0; m < tokens_of(s, in, b); m++) {
                const cps_real *t = in->y + ((in->first[b] + m) * H + h) * G;
                for (int i = 0; i < R; i++) {
                    double product = 0.0;
                    for (int c = 0; c < G; c++) {
                        product += (double)t[c] * (double)in->reduce[i * G + c];
                    }
                    u[((b * M + m) * H + h) * R + i] = weight[m] / sum * product;
                }
            }
        }
    }
}

/* Mean and biased variance of channel i of head h over samples and tokens. */
static double channel_moments(const setting *s, const inputs *in, const double *u, int h, int i,
                              double *mean_out) {
    double sum = 0.0, squares = 0.0, count = 0.0;
    for (int pass = 0; pass < 2; pass++) {
        for (int b = 0; b < B; b++) {
            for (int m = 0; m < tokens_of(s, in, b); m++) {
                const double value = u[((b * M + m) * H + h) * R + i];
                count += pass == 0 ? 1.0 : 0.0;
                sum += pass == 0 ? value : 0.0;
                squares += pass == 0 ? 0.0 : (value - sum / count) * (value - sum / count);
            }
        }
    }
    *mean_out = sum / count;
    return squares / count;
}

static double plain_norm(const setting *s, const inputs *in, const double *u, int b, int m, int h,
                         int i) {
    const double *line = u + ((b * M + m) * H + h) * R;
    double mean = 0.0, variance = 0.0;
    if (s->norm == DALIP_LAYER_NORM) {
        for (int k = 0; k < R; k++) {
            mean += line[k] / R;
        }
        for (int k = 0; k < R; k++) {
            variance += (line[k] - mean) * (line[k] - mean) / R;
        }
    } else if (s->given) {
        mean = (double)in->mean[i];
        variance = (double)in->variance[i];
    } else {
        variance = channel_moments(s, in, u, h, i, &mean);
    }
    return (line[i] - mean) / sqrt(variance + 1e-5) * (double)in->gain[i] + (double)in->bias[i];
}

/* z [M, R] of one sample and head -> K numbers. */
static void plain_distances(const double *z, int tokens, double factor, double *q) {
    double root[R][R], rows[R] = {0.0}, all = 0.0;
    for (int i = 0; i < R; i++) {
        for (int j = 0; j < R; j++) {
            double distance = 0.0;
            for (int m = 0; m < tokens; m++) {
                distance += (z[m * R + i] - z[m * R + j]) * (z[m * R + i] - z[m * R + j]);
            }
            root[i][j] = sqrt(factor * distance + 1e-5);
            rows[i] += root[i][j] / R;
            all += root[i][j] / (R * R);
        }
    }
    for (int i = 0; i < R; i++) {
        for (int j = i; j < R; j++) {
            *q++ = root[i][j] - rows[i] - rows[j] + all;
        }
    }
}

static void plain_statistic(const setting *s, const inputs *in, double *q) {
    double u[B * M * H * R] = {0.0}, z[M * R];
    plain_reduction(s, in, u);
    for (int b = 0; b < B; b++) {
        for (int h = 0; h < H; h++) {
            const int tokens = tokens_of(s, in, b);
            for (int m = 0; m < tokens; m++) {
                for (int i = 0; i < R; i++) {
                    const int at = (b * H + h) * (s->by_token ? M : R) + (s->by_token ? m : i);
                    z[m * R + i] = fmax(0.0, plain_norm(s, in, u, b, m, h, i)) *
                                   (s->dropped ? (double)in->mask[at] : 1.0);
                }
            }
            plain_distances(z, tokens, s->factor ? exp(-1.5) : 0.5 / tokens, q + (b * H + h) * K);
        }
    }
}

static cps_tensor *leaf(desk *d, int32_t rank, int64_t rows, int64_t columns, cps_real *values) {
    const int64_t shape[2] = {rows, columns};
    return cps_tape_leaf(d->tape, CPS_REAL, rank, shape, values, NULL, -1);
}

static cps_tensor *run(desk *d, const dalip_mbdc *shape, const setting *s, inputs *in) {
    return dalip_mbdc_run(d->tape, shape, leaf(d, 2, in->rows, H * G, in->y),
                          leaf(d, 2, R, G, in->reduce), leaf(d, 1, R, 0, in->gain),
                          leaf(d, 1, R, 0, in->bias),
                          s->factor ? leaf(d, 0, 0, 0, &in->log_factor) : NULL);
}

static void test_settings(void **state) {
    (void)state;
    for (int bits = 0; bits < 128; bits++) {
        const setting s = {.norm = (bits & 1) != 0 ? DALIP_LAYER_NORM : DALIP_BATCH_NORM,
                           .given = (bits & 2) != 0,
                           .by_token = (bits & 4) != 0,
                           .dropped = (bits & 8) != 0,
                           .masked = (bits & 16) != 0,
                           .factor = (bits & 32) != 0,
                           .anchor_in_front = (bits & 64) != 0};
        inputs in;
        double want[B * H * K];
        desk d = open_desk();
        make_inputs(&s, &in);
        const dalip_mbdc shape = shape_of(&s, &in);
        plain_statistic(&s, &in, want);
        const cps_tensor *q = run(&d, &shape, &s, &in);
        assert_non_null(q);
        check_near(q->data, want, B * H * K);
        close_desk(&d);
    }
}

/* Batch norm's moments, and what is seen inside. */
static void test_trace(void **state) {
    (void)state;
    const setting s = {.masked = true, .anchor_in_front = true};
    inputs in;
    desk d = open_desk();
    double moments[2 * H * R], u[B * M * H * R] = {0.0};
    dalip_watch watch;
    make_inputs(&s, &in);
    in.bias[1] = -100; /* a dead channel */
    dalip_mbdc shape = shape_of(&s, &in);
    shape.moments = moments;
    shape.watch = &watch;
    assert_non_null(run(&d, &shape, &s, &in));
    plain_reduction(&s, &in, u);
    const double count = M + (M - 1) + (M - 2);
    for (int h = 0; h < H; h++) {
        for (int i = 0; i < R; i++) {
            double mean;
            const double variance = channel_moments(&s, &in, u, h, i, &mean);
            assert_true(fabs(moments[h * R + i] - mean) < tolerance());
            assert_true(fabs(moments[(H + h) * R + i] - variance * count / (count - 1.0)) <
                        tolerance());
        }
    }
    assert_true(watch.dead >= B * H && watch.live + watch.dead == B * H * R);
    assert_true(watch.pairs == B * H * R * (R - 1) && watch.roots > 0.01 * watch.pairs);
    close_desk(&d);
}

/* A token that is no number is not hidden by the ReLU or the clamp. */
static void test_not_finite(void **state) {
    (void)state;
    for (int norm = 0; norm < 2; norm++) {
        const setting s = {.norm = norm == 0 ? DALIP_BATCH_NORM : DALIP_LAYER_NORM,
                           .anchor_in_front = true};
        for (int kind = 0; kind < 2; kind++) {
            inputs in;
            desk d = open_desk();
            make_inputs(&s, &in);
            in.y[in.first[1] * H * G] = kind == 0 ? (cps_real)NAN : (cps_real)INFINITY;
            const dalip_mbdc shape = shape_of(&s, &in);
            const cps_real *q = run(&d, &shape, &s, &in)->data;
            for (int i = 0; i < K; i++) {
                assert_true(isnan((double)q[H * K + i]));
                assert_true(norm == 0 || isfinite((double)q[i]));
            }
            close_desk(&d);
        }
    }
}

/* ---- instruction sets ---- */

enum { WIDE_G = 40, WIDE_R = 21, WIDE_Y = B * M * H * WIDE_G, WIDE_K = WIDE_R * (WIDE_R + 1) / 2 };

typedef struct wide {
    cps_real y[WIDE_Y], reduce[WIDE_R * WIDE_G], gain[WIDE_R], bias[WIDE_R], d_q[B * H * WIDE_K];
    cps_real q[B * H * WIDE_K];
    cps_real d_y[WIDE_Y], d_reduce[WIDE_R * WIDE_G], d_gain[WIDE_R], d_bias[WIDE_R];
} wide;

static cps_tensor *wide_leaf(desk *d, int32_t rank, int64_t rows, int64_t columns, cps_real *values,
                             cps_real *grad) {
    const int64_t shape[2] = {rows, columns};
    cps_tensor *made = cps_tape_leaf(d->tape, CPS_REAL, rank, shape, values, grad, -1);
    made->grad_fresh = true;
    return made;
}

static void run_wide(const dalip_passes *passes, dalip_norm norm, wide *w) {
    static const int32_t first[B] = {0, M, 2 * M}, anchor[B] = {1, M, 3 * M - 1},
                         valid[B] = {5, 1, 3};
    const cps_draw_key key = {.seed = 9};
    cps_real *values = w->y;
    for (size_t i = 0; i < offsetof(wide, q) / sizeof *values; i++) {
        values[i] = (cps_real)cps_draw_normal(&key, i);
    }
    const dalip_mbdc shape = {.samples = B,
                              .tokens = M,
                              .heads = H,
                              .channels = WIDE_G,
                              .reduced = WIDE_R,
                              .first = first,
                              .anchor = anchor,
                              .valid = valid,
                              .norm = norm,
                              .norm_eps = 1e-5,
                              .eps = 1e-5,
                              .passes = passes};
    desk d = open_desk();
    cps_tensor *q =
        dalip_mbdc_run(d.tape, &shape, wide_leaf(&d, 2, B * M, H * WIDE_G, w->y, w->d_y),
                       wide_leaf(&d, 2, WIDE_R, WIDE_G, w->reduce, w->d_reduce),
                       wide_leaf(&d, 1, WIDE_R, 0, w->gain, w->d_gain),
                       wide_leaf(&d, 1, WIDE_R, 0, w->bias, w->d_bias), NULL);
    assert_non_null(q);
    memcpy(w->q, q->data, sizeof w->q);
    cps_tape_seed(d.tape, q, w->d_q);
    assert_int_equal(cps_backward(d.tape, NULL, 0.0), CPS_OK);
    close_desk(&d);
}

/* Every variant that this CPU can run gives the bits of the plainest. */
static void test_instruction_sets(void **state) {
    (void)state;
    const dalip_passes *others[2] = {NULL, NULL};
#if defined(__x86_64__)
    others[0] = __builtin_cpu_supports("avx2") ? &dalip_passes_avx2 : NULL;
    others[1] = __builtin_cpu_supports("avx512dq") ? &dalip_passes_avx512 : NULL;
#endif
    static wide plain, other;
    int compared = 0;
    for (int norm = 0; norm < 2; norm++) {
        run_wide(&dalip_passes_base, norm == 0 ? DALIP_BATCH_NORM : DALIP_LAYER_NORM, &plain);
        assert_true(isfinite((double)plain.q[0]) && plain.d_y[0] != 0);
        for (int i = 0; i < 2; i++) {
            if (others[i] != NULL) {
                memset(&other, 0, sizeof other);
                run_wide(others[i], norm == 0 ? DALIP_BATCH_NORM : DALIP_LAYER_NORM, &other);
                assert_memory_equal(&plain, &other, sizeof plain);
                compared++;
            }
        }
    }
    if (compared == 0) {
        print_message("skipped: this CPU has neither AVX2 nor AVX-512\n");
        skip();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),    cmocka_unit_test(test_coincident),
        cmocka_unit_test(test_settings),   cmocka_unit_test(test_trace),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_instruction_sets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
