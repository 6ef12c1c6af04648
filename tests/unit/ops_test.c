/* The fused operations, values and gradients, against formulas written down plainly in double: what
 * float loses stays within the bounds that towers are held to (2e-5 of the largest element), and
 * the double build agrees to 1e-12. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"

typedef struct array {
    int64_t count;
    cps_real *real, *grad; /* what the operation sees and gives */
    double *value, *d;     /* the same for the formula */
} array;

static array array_make(const char *name, int64_t count, double scale) {
    const cps_draw_key key = {.seed = 11, .module = cps_name_key(name)};
    array a = {.count = count};
    a.real = malloc((size_t)count * sizeof *a.real);
    a.grad = malloc((size_t)count * sizeof *a.grad);
    a.value = malloc((size_t)count * sizeof *a.value);
    a.d = calloc((size_t)count, sizeof *a.d);
    for (int64_t i = 0; i < count; i++) {
        a.real[i] = (cps_real)(scale * cps_draw_normal(&key, (uint64_t)i));
        a.value[i] = (double)a.real[i];
    }
    return a;
}

static void array_free(array *a) {
    free(a->real);
    free(a->grad);
    free(a->value);
    free(a->d);
}

static void check_close(const char *what, int64_t count, const cps_real *found,
                        const double *wanted) {
    const double tolerance = sizeof(cps_real) == 8 ? 1e-12 : 2e-5;
    double largest = 1e-6;
    for (int64_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs(wanted[i]));
    }
    for (int64_t i = 0; i < count; i++) {
        if (!(fabs((double)found[i] - wanted[i]) <= tolerance * largest)) {
            fail_msg("%s, element %d: %.9g, %.9g wanted (largest %.3g)", what, (int)i,
                     (double)found[i], wanted[i], largest);
        }
    }
}

typedef struct run {
    cps_arena *arena;
    cps_tape *tape;
} run;

static run run_begin(void) {
    run r;
    assert_int_equal(cps_arena_create("ops", (size_t)1 << 20, true, &r.arena), CPS_OK);
    assert_int_equal(cps_tape_create(r.arena, CPS_TAPE_RECORD, NULL, &r.tape), CPS_OK);
    return r;
}

static cps_tensor *operand(run *r, array *a, int32_t rank, const int64_t *shape) {
    cps_tensor *made = cps_tape_leaf(r->tape, CPS_REAL, rank, shape, a->real, a->grad, -1);
    made->grad_fresh = true;
    return made;
}

/* Compares the result with y and backward, with dy arriving, with the formulas' gradients. */
static void run_end(run *r, const cps_tensor *found, const array *y, const array *dy, int count,
                    array *operands) {
    assert_non_null(found);
    check_close("the result", y->count, found->data, y->value);
    cps_tape_seed(r->tape, (cps_tensor *)(uintptr_t)found, dy->real);
    assert_int_equal(cps_backward(r->tape, NULL, 1.0), CPS_OK);
    for (int i = 0; i < count; i++) {
        char what[32];
        snprintf(what, sizeof what, "gradient %d", i);
        check_close(what, operands[i].count, operands[i].grad, operands[i].d);
    }
    cps_tape_destroy(r->tape);
    cps_arena_destroy(r->arena);
}

/* ---- linear with GELU
 * ----------------------------------------------------------------------------------------------------------
 */
static void test_linear(void **state) {
    (void)state;
    enum { ROWS = 150, IN = 192, OUT = 96 };
    array in[] = {array_make("x", ROWS * IN, 1.0), array_make("w", OUT * IN, 0.1),
                  array_make("b", OUT, 0.5)};
    array y = array_make("y", ROWS * OUT, 0.0), dy = array_make("dy", ROWS * OUT, 1.0);
    for (int64_t i = 0; i < ROWS; i++) {
        for (int64_t j = 0; j < OUT; j++) {
            double z = in[2].value[j];
            for (int64_t k = 0; k < IN; k++) {
                z += in[0].value[i * IN + k] * in[1].value[j * IN + k];
            }
            const double cdf = 0.5 * erfc(-z / sqrt(2.0)),
                         pdf = exp(-0.5 * z * z) / sqrt(2.0 * acos(-1.0));
            y.value[i * OUT + j] = z * cdf;
            const double dz = dy.value[i * OUT + j] * (cdf + z * pdf);
            in[2].d[j] += dz;
            for (int64_t k = 0; k < IN; k++) {
                in[0].d[i * IN + k] += dz * in[1].value[j * IN + k];
                in[1].d[j * IN + k] += dz * in[0].value[i * IN + k];
            }
        }
    }
    run r = run_begin();
    cps_tensor *x = operand(&r, &in[0], 2, (const int64_t[]){ROWS, IN});
    cps_tensor *w = operand(&r, &in[1], 2, (const int64_t[]){OUT, IN});
    cps_tensor *b = operand(&r, &in[2], 1, (const int64_t[]){OUT});
    run_end(&r, cps_linear(r.tape, x, w, b, CPS_ACT_GELU), &y, &dy, 3, in);
    for (int i = 0; i < 3; i++) {
        array_free(&in[i]);
    }
    array_free(&y);
    array_free(&dy);
}

/* ---- layer norm
 * ----------------------------------------------------------------------------------------------------------------
 */
static void test_layer_norm(void **state) {
    (void)state;
    enum { ROWS = 130, WIDTH = 200 };
    array in[] = {array_make("x", ROWS * WIDTH, 3.0), array_make("gain", WIDTH, 1.0),
                  array_make("bias", WIDTH, 1.0)};
    array y = array_make("y", ROWS * WIDTH, 0.0), dy = array_make("dy", ROWS * WIDTH, 1.0);
    for (int64_t i = 0; i < ROWS * WIDTH; i++) {
        in[0].real[i] += 20; /* a mean that is large beside the deviation */
        in[0].value[i] = (double)in[0].real[i];
    }
    for (int64_t i = 0; i < ROWS; i++) {
        const double *x = in[0].value + i * WIDTH, *dyi = dy.value + i * WIDTH;
        double mean = 0.0, variance = 0.0, g_mean = 0.0, gh_mean = 0.0;
        for (int64_t j = 0; j < WIDTH; j++) {
            mean += x[j] / WIDTH;
        }
        for (int64_t j = 0; j < WIDTH; j++) {
            variance += (x[j] - mean) * (x[j] - mean) / WIDTH;
        }
        const double rstd = 1.0 / sqrt(variance + 1e-5);
        for (int64_t j = 0; j < WIDTH; j++) {
            const double h = (x[j] - mean) * rstd, g = dyi[j] * in[1].value[j];
            y.value[i * WIDTH + j] = in[1].value[j] * h + in[2].value[j];
            in[1].d[j] += dyi[j] * h;
            in[2].d[j] += dyi[j];
            g_mean += g / WIDTH;
            gh_mean += g * h / WIDTH;
        }
        for (int64_t j = 0; j < WIDTH; j++) {
            in[0].d[i * WIDTH + j] =
                rstd * (dyi[j] * in[1].value[j] - g_mean - (x[j] - mean) * rstd * gh_mean);
        }
    }
    run r = run_begin();
    cps_tensor *x = operand(&r, &in[0], 2, (const int64_t[]){ROWS, WIDTH});
    cps_tensor *gain = operand(&r, &in[1], 1, (const int64_t[]){WIDTH});
    cps_tensor *bias = operand(&r, &in[2], 1, (const int64_t[]){WIDTH});
    run_end(&r, cps_layer_norm(r.tape, x, gain, bias, 1e-5), &y, &dy, 3, in);
    for (int i = 0; i < 3; i++) {
        array_free(&in[i]);
    }
    array_free(&y);
    array_free(&dy);
}

/* ---- attention
 * -----------------------------------------------------------------------------------------------------------------
 */
enum { HEADS = 2, DEPTH = 16, C = HEADS * DEPTH, LONGEST = 140 };

/* One sequence and head; columns q, k, v of `qkv` begin at head * DEPTH, + C and + 2C of each row.
 */
static void plain_attention(int64_t start, int64_t length, int64_t head, bool causal, array *qkv,
                            array *y, const array *dy) {
    static double p[LONGEST];
    const double scale = 1.0 / sqrt((double)DEPTH);
    for (int64_t i = 0; i < length; i++) {
        const int64_t seen = causal ? i + 1 : length, row = (start + i) * 3 * C + head * DEPTH;
        const int64_t out = (start + i) * C + head * DEPTH;
        double sum = 0.0, along = 0.0;
        for (int64_t j = 0; j < seen; j++) {
            double s = 0.0;
            for (int64_t d = 0; d < DEPTH; d++) {
                s += qkv->value[row + d] * qkv->value[(start + j) * 3 * C + C + head * DEPTH + d];
            }
            p[j] = exp(scale * s);
            sum += p[j];
        }
        for (int64_t j = 0; j < seen; j++) {
            const int64_t v = (start + j) * 3 * C + 2 * C + head * DEPTH;
            p[j] /= sum;
            for (int64_t d = 0; d < DEPTH; d++) {
                y->value[out + d] += p[j] * qkv->value[v + d];
                qkv->d[v + d] += p[j] * dy->value[out + d];
                along += p[j] * dy->value[out + d] * qkv->value[v + d];
            }
        }
        for (int64_t j = 0; j < seen; j++) {
            const int64_t k = (start + j) * 3 * C + C + head * DEPTH, v = k + C;
            double dp = 0.0;
            for (int64_t d = 0; d < DEPTH; d++) {
                dp += dy->value[out + d] * qkv->value[v + d];
            }
            const double ds = scale * p[j] * (dp - along);
            for (int64_t d = 0; d < DEPTH; d++) {
                qkv->d[row + d] += ds * qkv->value[k + d];
                qkv->d[k + d] += ds * qkv->value[row + d];
            }
        }
    }
}

static void test_attention(void **state) {
    (void)state;
    static const int32_t offsets[] = {0, 50, 50, 57, 57 + LONGEST};
    const int64_t rows = offsets[4];
    for (int causal = 0; causal <= 1; causal++) {
        array qkv = array_make("qkv", rows * 3 * C, 1.0), y = array_make("y", rows * C, 0.0);
        array dy = array_make("dy", rows * C, 1.0);
        for (int64_t s = 0; s < 4; s++) {
            for (int64_t head = 0; head < HEADS; head++) {
                plain_attention(offsets[s], offsets[s + 1] - offsets[s], head, causal != 0, &qkv,
                                &y, &dy);
            }
        }
        run r = run_begin();
        cps_tensor *x = operand(&r, &qkv, 2, (const int64_t[]){rows, 3 * C});
        run_end(&r, cps_attention(r.tape, x, HEADS, 4, offsets, causal != 0), &y, &dy, 1, &qkv);
        array_free(&qkv);
        array_free(&y);
        array_free(&dy);
    }
}

/* ---- ends of the range
 * -----------------------------------------------------------------------------------------------------------
 */
/* Large logits: nothing overflows, masked ones (-inf) get no weight, NaN stays visible. */
static void test_softmax_ends(void **state) {
    (void)state;
    const cps_real inf = (cps_real)INFINITY;
    cps_real values[] = {1000, 999, -inf, -1000, (cps_real)NAN, 0, 0, 0};
    run r = run_begin();
    cps_tensor *x = cps_tape_leaf(r.tape, CPS_REAL, 2, (const int64_t[]){2, 4}, values, NULL, -1);
    const cps_real *p = cps_softmax(r.tape, x)->data, *l = cps_log_softmax(r.tape, x)->data;
    const double share = 1.0 / (1.0 + exp(-1.0));
    assert_true(fabs((double)p[0] - share) < 1e-6 && fabs((double)l[0] - log(share)) < 1e-6);
    assert_true(p[2] == 0 && p[3] == 0 && l[2] == -inf);
    assert_true(isnan(p[4]) && isnan(p[5]) && isnan(l[5]));
    cps_tape_destroy(r.tape);
    cps_arena_destroy(r.arena);
}

static void test_entropy_ends(void **state) {
    (void)state;
    static const int32_t none[] = {-1, -1}, one[] = {0, -1};
    cps_real values[] = {1000, 0, 3, 4}, grads[4];
    for (int which = 0; which < 2; which++) {
        run r = run_begin();
        cps_tensor *x =
            cps_tape_leaf(r.tape, CPS_REAL, 2, (const int64_t[]){2, 2}, values, grads, -1);
        x->grad_fresh = true;
        cps_tensor *target =
            cps_constant(r.tape, CPS_I32, 1, (const int64_t[]){2}, which == 0 ? none : one);
        cps_tensor *loss = cps_cross_entropy(r.tape, x, target, NULL);
        assert_true(*(const cps_real *)loss->data == 0); /* no rows, or one that is certain */
        assert_int_equal(cps_backward(r.tape, loss, 1.0), CPS_OK);
        for (int i = 0; i < 4; i++) {
            assert_true(grads[i] == 0);
        }
        cps_tape_destroy(r.tape);
        cps_arena_destroy(r.arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),       cmocka_unit_test(test_layer_norm),
        cmocka_unit_test(test_attention),    cmocka_unit_test(test_softmax_ends),
        cmocka_unit_test(test_entropy_ends),
    };
    cps_gemm_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
