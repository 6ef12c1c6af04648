/* Checks one operation, or several in a row, from all sides:
 *   - its gradients against central differences of a scalar (random weights times the result), in
 * random directions and for single entries (double build; in float the other checks remain),
 *   - that a gradient is added where one is there already, in a leaf and in a result of another
 * operation,
 *   - that without a recording the values are the same bits,
 *   - that they and the gradients do not depend on the number of threads,
 *   - that a plan counts exactly the bytes that a recording with backward takes.
 * A header so that each test stays one file. Needs cmocka's includes first. */
#ifndef CPS_TESTS_GRAD_CHECK_H
#define CPS_TESTS_GRAD_CHECK_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "base/rng.h"
#include "base/status.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"

/* Operations of a plugin ask the tape for their host: define it before, as a pointer to the table.
 */
#ifndef GC_HOST
#define GC_HOST NULL
#endif

enum { GC_INPUTS = 6, GC_DIRECTIONS = 3, GC_ENTRIES = 5 };

/* An operand: elements are offset + scale * normal. A constant has no gradient. */
typedef struct gc_input {
    int32_t rank;
    int64_t shape[CPS_MAX_DIMS];
    double scale, offset; /* scale 0 means 1 */
    bool constant;
} gc_input;

/* The operations under test: any result (or several concatenated by the caller). */
typedef cps_tensor *(*gc_build)(cps_tape *tape, cps_tensor **inputs, const void *context);

typedef struct gc_case {
    gc_build build;
    const void *context;
    int32_t count;
    gc_input inputs[GC_INPUTS];
    double step;      /* of differences; 0: 1e-5 */
    double tolerance; /* relative; 0: 1e-6 */
} gc_case;

typedef struct gc_state {
    const gc_case *test;
    cps_real *values[GC_INPUTS], *grads[GC_INPUTS], *halves[GC_INPUTS];
    int64_t counts[GC_INPUTS];
    cps_real *weights; /* of the result's elements */
    int64_t out_count;
    cps_real *out; /* the result of the last run */
    size_t high_water;
} gc_state;

static const cps_real gc_one = 1;

static double gc_normal(const char *name, int64_t index) {
    const cps_draw_key key = {.seed = 17, .module = cps_name_key(name)};
    return cps_draw_normal(&key, (uint64_t)index);
}

static int64_t gc_count(int32_t rank, const int64_t *shape) {
    int64_t count = 1;
    for (int32_t d = 0; d < rank; d++) {
        count *= shape[d];
    }
    return count;
}

typedef enum gc_way {
    GC_FRESH,  /* leaves, overwritten */
    GC_ADD,    /* leaves that hold 1 */
    GC_RESULT, /* operands are results of another operation that have a gradient already */
    GC_VALUE,  /* nothing recorded */
    GC_PLAN    /* counts only, as GC_FRESH */
} gc_way;

/* Operands on the tape, as `way` wants them. */
static void gc_operands(gc_state *s, cps_tape *tape, gc_way way, cps_tensor **operands,
                        cps_tensor **middle) {
    for (int32_t i = 0; i < s->test->count; i++) {
        const gc_input *input = &s->test->inputs[i];
        const bool learns = !input->constant && way != GC_VALUE;
        cps_real *data = way == GC_PLAN ? NULL : s->values[i];
        cps_tensor *leaf = cps_tape_leaf(tape, CPS_REAL, input->rank, input->shape, data,
                                         learns && way != GC_PLAN ? s->grads[i] : NULL, i);
        assert_non_null(leaf);
        leaf->needs_grad = learns;
        leaf->grad_fresh = learns && way != GC_ADD;
        middle[i] = NULL;
        operands[i] = leaf;
        if (way == GC_RESULT) {
            middle[i] = operands[i] = cps_affine(tape, leaf, 1.0, 0.0);
        }
        for (int64_t k = 0; learns && way != GC_PLAN && k < s->counts[i]; k++) {
            s->grads[i][k] = way == GC_ADD ? (cps_real)1 : (cps_real)NAN;
        }
    }
}

/* Gives operand i a gradient of 0.5 in each element before that of the operation under test
 * arrives: through an operation recorded later, or (rows spread over ranks) as a seed. */
static void gc_arrive_first(gc_state *s, cps_tape *tape, int32_t i, cps_tensor *middle) {
    if (!middle->needs_grad) {
        return;
    }
    if (middle->layout == NULL) {
        cps_tape_seed(tape, cps_affine(tape, cps_sum(tape, middle), 0.5, 0.0), &gc_one);
        return;
    }
    for (int64_t k = 0; k < s->counts[i]; k++) {
        s->halves[i][k] = (cps_real)0.5;
    }
    cps_tape_seed(tape, middle, s->halves[i]);
}

/* One run; returns the loss in double. */
static double gc_run(gc_state *s, gc_way way) {
    cps_arena *arena;
    if (way == GC_PLAN) {
        assert_int_equal(cps_arena_create_counting("plan", &arena), CPS_OK);
    } else {
        assert_int_equal(cps_arena_create("grad", (size_t)1 << 20, true, &arena), CPS_OK);
    }
    const cps_tape_mode mode = way == GC_PLAN    ? CPS_TAPE_PLAN
                               : way == GC_VALUE ? CPS_TAPE_PLAIN
                                                 : CPS_TAPE_RECORD;
    cps_tape *tape;
    assert_int_equal(cps_tape_create(arena, mode, GC_HOST, &tape), CPS_OK);
    cps_tensor *operands[GC_INPUTS], *middle[GC_INPUTS];
    gc_operands(s, tape, way, operands, middle);
    cps_tensor *y = s->test->build(tape, operands, s->test->context);
    if (y == NULL) {
        fail_msg("%s", cps_fail_message());
    }
    s->out_count = gc_count(y->rank, y->shape);
    if (s->weights == NULL) {
        s->weights = malloc((size_t)(s->out_count + 1) * sizeof(cps_real));
        s->out = malloc((size_t)(s->out_count + 1) * sizeof(cps_real));
        for (int64_t i = 0; i < s->out_count; i++) {
            s->weights[i] = (cps_real)gc_normal("weights", i);
        }
    }
    for (int32_t i = 0; way == GC_RESULT && i < s->test->count; i++) {
        gc_arrive_first(s, tape, i, middle[i]);
    }
    double loss = 0.0;
    for (int64_t i = 0; way != GC_PLAN && i < s->out_count; i++) {
        s->out[i] = ((const cps_real *)y->data)[i];
        loss += (double)s->weights[i] * (double)s->out[i];
    }
    if (way != GC_VALUE) {
        cps_tape_seed(tape, y, way == GC_PLAN ? NULL : s->weights);
        if (cps_backward(tape, NULL, 1.0) != CPS_OK) {
            fail_msg("%s", cps_fail_message());
        }
    }
    s->high_water = cps_arena_high_water(arena);
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    return loss;
}

/* ---- differences
 * -----------------------------------------------------------------------------------------------------------
 */
/* (loss(x + h d) - loss(x - h d)) / 2h for a direction over operand i; entry >= 0: along that
 * element alone. */
static double gc_difference(gc_state *s, int32_t i, const double *direction, int64_t entry,
                            double h) {
    const size_t bytes = (size_t)s->counts[i] * sizeof(cps_real);
    cps_real *kept = malloc(bytes + 1);
    memcpy(kept, s->values[i], bytes);
    double side[2];
    for (int which = 0; which < 2; which++) {
        for (int64_t k = 0; k < s->counts[i]; k++) {
            const double d = entry >= 0 ? (k == entry ? 1.0 : 0.0) : direction[k];
            s->values[i][k] = (cps_real)((double)kept[k] + (which == 0 ? h : -h) * d);
        }
        side[which] = gc_run(s, GC_VALUE);
    }
    memcpy(s->values[i], kept, bytes);
    free(kept);
    return (side[0] - side[1]) / (2.0 * h);
}

static void gc_compare(const gc_case *test, int32_t i, const char *what, double found,
                       double wanted, double size) {
    const double tolerance = test->tolerance > 0.0 ? test->tolerance : 1e-6;
    if (!(fabs(found - wanted) <= tolerance * fmax(fmax(fabs(wanted), size), 1e-3))) {
        fail_msg("operand %d, %s: gradient %.12g, differences %.12g", (int)i, what, found, wanted);
    }
}

/* s->grads holds the gradients of a GC_FRESH run. */
static void gc_differences(gc_state *s) {
    const double h = s->test->step > 0.0 ? s->test->step : 1e-5;
    for (int32_t i = 0; i < s->test->count; i++) {
        if (s->test->inputs[i].constant || s->counts[i] == 0) {
            continue;
        }
        double *direction = malloc((size_t)s->counts[i] * sizeof *direction);
        for (int32_t r = 0; r < GC_DIRECTIONS; r++) {
            double found = 0.0, size = 0.0;
            for (int64_t k = 0; k < s->counts[i]; k++) {
                direction[k] = gc_normal("direction", r * 100003 + k);
                found += direction[k] * (double)s->grads[i][k];
                size += fabs(direction[k] * (double)s->grads[i][k]);
            }
            size /= sqrt((double)s->counts[i]);
            gc_compare(s->test, i, "a direction", found, gc_difference(s, i, direction, -1, h),
                       size);
        }
        for (int32_t r = 0; r < GC_ENTRIES; r++) {
            const int64_t entry = (int64_t)((uint64_t)(r * 7919) % (uint64_t)s->counts[i]);
            gc_compare(s->test, i, "an entry", (double)s->grads[i][entry],
                       gc_difference(s, i, NULL, entry, h), 0.0);
        }
        free(direction);
    }
}

/* ---- the whole
 * -------------------------------------------------------------------------------------------------------------
 */
static void gc_equal_bits(const char *what, const cps_real *a, const cps_real *b, int64_t count) {
    if (count > 0 && memcmp(a, b, (size_t)count * sizeof *a) != 0) {
        fail_msg("%s: other bits", what);
    }
}

/* Runs `way` and compares its gradients with `plain` + shift. */
static void gc_shifted(gc_state *s, gc_way way, cps_real *const *plain, double shift) {
    gc_run(s, way);
    const double tolerance = sizeof(cps_real) == 8 ? 1e-12 : 1e-5;
    for (int32_t i = 0; i < s->test->count; i++) {
        for (int64_t k = 0; !s->test->inputs[i].constant && k < s->counts[i]; k++) {
            const double wanted = (double)plain[i][k] + shift, found = (double)s->grads[i][k];
            if (!(fabs(found - wanted) <= tolerance * (1.0 + fabs(wanted)))) {
                fail_msg("operand %d, element %d: gradient %.12g beside one that was there, %.12g "
                         "wanted",
                         (int)i, (int)k, found, wanted);
            }
        }
    }
}

static void gc_check(const gc_case *test) {
    gc_state s = {.test = test};
    cps_real *first[GC_INPUTS] = {NULL};
    cps_gemm_start();
    for (int32_t i = 0; i < test->count; i++) {
        const gc_input *input = &test->inputs[i];
        s.counts[i] = gc_count(input->rank, input->shape);
        const size_t bytes = (size_t)(s.counts[i] + 1) * sizeof(cps_real);
        s.values[i] = malloc(bytes);
        s.grads[i] = malloc(bytes);
        s.halves[i] = malloc(bytes);
        first[i] = malloc(bytes);
        for (int64_t k = 0; k < s.counts[i]; k++) {
            const double scale = input->scale != 0.0 ? input->scale : 1.0;
            s.values[i][k] =
                (cps_real)(input->offset + scale * gc_normal("values", i * 1000003 + k));
        }
    }
    gc_run(&s, GC_FRESH);
    const size_t high_water = s.high_water;
    cps_real *out = malloc((size_t)(s.out_count + 1) * sizeof(cps_real));
    memcpy(out, s.out, (size_t)s.out_count * sizeof(cps_real));
    for (int32_t i = 0; i < test->count; i++) {
        memcpy(first[i], s.grads[i], (size_t)s.counts[i] * sizeof(cps_real));
    }
    for (int32_t threads = 2; threads <= 3; threads++) {
        assert_int_equal(cps_pool_start(threads), CPS_OK);
        gc_run(&s, GC_FRESH);
        gc_equal_bits("values with more threads", s.out, out, s.out_count);
        for (int32_t i = 0; i < test->count; i++) {
            if (!test->inputs[i].constant) {
                gc_equal_bits("gradients with more threads", s.grads[i], first[i], s.counts[i]);
            }
        }
        cps_pool_stop();
    }
    gc_run(&s, GC_VALUE);
    gc_equal_bits("values without recording", s.out, out, s.out_count);
    gc_run(&s, GC_PLAN);
    assert_int_equal(s.high_water, high_water);
    gc_shifted(&s, GC_ADD, first, 1.0);
    gc_shifted(&s, GC_RESULT, first, 0.5);
    if (sizeof(cps_real) == 8) {
        gc_run(&s, GC_FRESH);
        gc_differences(&s);
    }
    for (int32_t i = 0; i < test->count; i++) {
        free(s.values[i]);
        free(s.grads[i]);
        free(s.halves[i]);
        free(first[i]);
    }
    free(out);
    free(s.out);
    free(s.weights);
}

#endif
