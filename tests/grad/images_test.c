/* Gradients of convolution, batch norm and pooling; their values against plain loops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/grad/grad_check.h"

typedef struct window {
    int64_t kernel, stride, padding;
} window;

static cps_tensor *build_conv(cps_tape *tape, cps_tensor **in, const void *context) {
    const window *w = context;
    return cps_conv2d(tape, in[0], in[1], w->stride, w->padding);
}

/* One pixel, no image, strides that leave pixels over, windows larger than the image, several
 * blocks of images. */
static void test_conv(void **state) {
    (void)state;
    static const struct {
        int64_t x[4], out;
        window window;
    } cases[] = {
        {{2, 5, 7, 3}, 4, {3, 1, 1}}, {{2, 5, 7, 3}, 4, {1, 1, 0}},   {{1, 6, 5, 2}, 3, {1, 2, 0}},
        {{2, 8, 9, 3}, 5, {3, 2, 1}}, {{1, 9, 9, 3}, 2, {7, 2, 3}},   {{1, 1, 1, 2}, 2, {3, 1, 1}},
        {{0, 4, 4, 2}, 3, {3, 1, 1}}, {{3, 64, 65, 1}, 2, {3, 1, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t k = cases[i].window.kernel;
        gc_case test = {
            .build = build_conv,
            .context = &cases[i].window,
            .count = 2,
            .inputs = {{.rank = 4}, {.rank = 4, .shape = {cases[i].out, cases[i].x[3], k, k}}}};
        memcpy(test.inputs[0].shape, cases[i].x, sizeof cases[i].x);
        gc_check(&test);
        test.inputs[0].constant = true;
        gc_check(&test);
        test.inputs[0].constant = false;
        test.inputs[1].constant = true;
        gc_check(&test);
    }
}

static cps_tensor *build_batch_norm(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    return cps_batch_norm(tape, in[0], in[1], in[2], NULL, NULL, 1e-5, NULL);
}

static cps_tensor *build_given_norm(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    return cps_batch_norm(tape, in[0], in[1], in[2], in[3], in[4], 1e-5, NULL);
}

static void test_batch_norm(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{5, 7}, {2, 3}, {0, 4}, {131, 40}, {64, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int64_t width = shapes[i][1];
        gc_case test = {
            .build = build_batch_norm,
            .count = 3,
            .inputs = {
                {.rank = 2, .shape = {shapes[i][0], width}, .offset = 0.7},
                {.rank = 1, .shape = {width}, .offset = 1.0},
                {.rank = 1, .shape = {width}},
                {.rank = 1, .shape = {width}, .constant = true},
                {.rank = 1, .shape = {width}, .constant = true, .scale = 0.1, .offset = 2.0}}};
        gc_check(&test);
        test.build = build_given_norm;
        test.count = 5;
        gc_check(&test);
    }
}

static cps_tensor *build_channels(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    return cps_channels_last(tape, in[0]);
}

static cps_tensor *build_max(cps_tape *tape, cps_tensor **in, const void *context) {
    const window *w = context;
    return cps_max_pool(tape, in[0], w->kernel, w->stride, w->padding);
}

static cps_tensor *build_mean(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    return cps_mean_positions(tape, in[0]);
}

static void test_pooling(void **state) {
    (void)state;
    static const int64_t shapes[][4] = {{2, 6, 7, 3}, {1, 1, 1, 2}, {0, 4, 4, 2}, {3, 40, 41, 5}};
    static const window windows[] = {{3, 2, 1}, {1, 1, 0}, {2, 2, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        gc_case test = {.count = 1, .inputs = {{.rank = 4}}};
        memcpy(test.inputs[0].shape, shapes[i], sizeof shapes[i]);
        test.build = build_channels;
        gc_check(&test);
        test.build = build_mean;
        gc_check(&test);
        for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
            test.build = build_max;
            test.context = &windows[w];
            gc_check(&test);
        }
    }
}

/* ---- values ---- */

static cps_real draw(const char *name, int64_t index) {
    return (cps_real)gc_normal(name, index);
}

static void test_conv_values(void **state) {
    (void)state;
    enum { B = 2, H = 5, W = 6, C = 3, O = 4, K = 3, S = 2, P = 1, DOWN = 3, ACROSS = 3 };
    cps_real x[B * H * W * C], weight[O * C * K * K];
    for (int64_t i = 0; i < B * H * W * C; i++) {
        x[i] = draw("x", i);
    }
    for (int64_t i = 0; i < O * C * K * K; i++) {
        weight[i] = draw("weight", i);
    }
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    assert_int_equal(cps_arena_create("test", 1 << 20, true, &arena), CPS_OK);
    assert_int_equal(cps_tape_create(arena, CPS_TAPE_PLAIN, NULL, &tape), CPS_OK);
    const int64_t image[] = {B, H, W, C}, filter[] = {O, C, K, K};
    cps_tensor *y = cps_conv2d(tape, cps_tape_leaf(tape, CPS_REAL, 4, image, x, NULL, -1),
                               cps_tape_leaf(tape, CPS_REAL, 4, filter, weight, NULL, -1), S, P);
    assert_non_null(y);
    assert_true(y->shape[1] == DOWN && y->shape[2] == ACROSS && y->shape[3] == O);
    for (int64_t i = 0; i < B * DOWN * ACROSS * O; i++) {
        const int64_t o = i % O, across = i / O % ACROSS, down = i / (O * ACROSS) % DOWN,
                      b = i / (O * ACROSS * DOWN);
        double sum = 0.0;
        for (int64_t t = 0; t < C * K * K; t++) {
            const int64_t c = t / (K * K), v = down * S - P + t / K % K, u = across * S - P + t % K;
            if (v >= 0 && v < H && u >= 0 && u < W) {
                sum += (double)x[((b * H + v) * W + u) * C + c] * (double)weight[o * C * K * K + t];
            }
        }
        assert_true(fabs((double)((const cps_real *)y->data)[i] - sum) < 1e-5);
    }
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
}

static void test_batch_norm_moments(void **state) {
    (void)state;
    cps_real x[] = {1, 10, 3, 30, 5, 80}, gain[] = {1, 1}, bias[] = {0, 0};
    double moments[4];
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    assert_int_equal(cps_arena_create("test", 1 << 20, true, &arena), CPS_OK);
    assert_int_equal(cps_tape_create(arena, CPS_TAPE_PLAIN, NULL, &tape), CPS_OK);
    const int64_t rows[] = {3, 2}, width[] = {2};
    const cps_tensor *y = cps_batch_norm(tape, cps_tape_leaf(tape, CPS_REAL, 2, rows, x, NULL, -1),
                                         cps_tape_leaf(tape, CPS_REAL, 1, width, gain, NULL, -1),
                                         cps_tape_leaf(tape, CPS_REAL, 1, width, bias, NULL, -1),
                                         NULL, NULL, 0.0, moments);
    assert_non_null(y);
    assert_true(moments[0] == 3.0 && moments[1] == 40.0 && moments[2] == 4.0 &&
                moments[3] == 1300.0);
    assert_true(fabs((double)((const cps_real *)y->data)[4] - 2.0 / sqrt(8.0 / 3.0)) < 1e-6);
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv),
        cmocka_unit_test(test_batch_norm),
        cmocka_unit_test(test_pooling),
        cmocka_unit_test(test_conv_values),
        cmocka_unit_test(test_batch_norm_moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
