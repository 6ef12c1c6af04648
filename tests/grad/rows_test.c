/* Gradients of norms, element-by-element operations, softmax and entropies, sums and shape
 * operations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/grad/grad_check.h"

typedef cps_tensor *(*one_operand)(cps_tape *tape, cps_tensor *x);
typedef cps_tensor *(*two_operands)(cps_tape *tape, cps_tensor *a, cps_tensor *b);

static void check_one(gc_build build, const void *context, int32_t rank, const int64_t *shape,
                      double scale, double offset) {
    gc_case test = {.build = build,
                    .context = context,
                    .count = 1,
                    .inputs = {{.rank = rank, .scale = scale, .offset = offset}}};
    memcpy(test.inputs[0].shape, shape, (size_t)rank * sizeof *shape);
    gc_check(&test);
}

/* Matrices that are odd, one row, no rows, longer than one piece of work; and three dimensions. */
static void check_shapes(gc_build build, const void *context, double scale, double offset) {
    static const int64_t shapes[][2] = {{5, 7}, {1, 3}, {0, 4}, {3, 1}, {131, 37}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        check_one(build, context, 2, shapes[i], scale, offset);
    }
    check_one(build, context, 3, (const int64_t[]){2, 3, 19}, scale, offset);
}

/* ---- norms
 * -------------------------------------------------------------------------------------------------------------------
 */
static cps_tensor *build_norm(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    return cps_layer_norm(tape, in[0], in[1], in[2], 1e-5);
}

static void test_layer_norm(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{5, 7}, {1, 3}, {0, 4}, {130, 40}, {3, 16}, {65, 33}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        gc_case test = {
            .build = build_norm,
            .count = 3,
            .inputs = {{.rank = 2, .shape = {shapes[i][0], shapes[i][1]}, .offset = 0.7},
                       {.rank = 1, .shape = {shapes[i][1]}, .offset = 1.0},
                       {.rank = 1, .shape = {shapes[i][1]}}}};
        gc_check(&test);
        test.inputs[0].constant = true;
        gc_check(&test);
    }
}

static cps_tensor *build_normalize(cps_tape *tape, cps_tensor **in, const void *context) {
    return cps_normalize(tape, in[0], *(const double *)context);
}

static void test_normalize(void **state) {
    (void)state;
    const double small = 1e-12, large = 1e3; /* all lengths above the floor, all below */
    check_shapes(build_normalize, &small, 1.0, 0.5);
    check_shapes(build_normalize, &large, 1.0, 0.5);
}

/* ---- two operands
 * ------------------------------------------------------------------------------------------------------------
 */
static cps_tensor *build_pair(cps_tape *tape, cps_tensor **in, const void *context) {
    return (*(const two_operands *)context)(tape, in[0], in[1]);
}

static cps_tensor *build_self(cps_tape *tape, cps_tensor **in, const void *context) {
    return (*(const two_operands *)context)(tape, in[0], in[0]);
}

static void test_pairs(void **state) {
    (void)state;
    static const two_operands all[] = {cps_add, cps_sub, cps_mul, cps_div};
    static const struct {
        int32_t rank_a, rank_b;
        int64_t a[3], b[3];
    } shapes[] = {
        {2, 2, {5, 7}, {5, 7}},    {2, 1, {5, 7}, {7}},     {2, 0, {5, 7}, {0}},
        {3, 2, {2, 3, 4}, {3, 4}}, {2, 1, {0, 7}, {7}},     {2, 0, {0, 7}, {0}},
        {1, 1, {6}, {1}},          {2, 1, {300, 65}, {65}}, {2, 0, {131, 65}, {0}},
        {0, 0, {0}, {0}},          {2, 2, {0, 3}, {0, 3}},  {2, 2, {131, 140}, {131, 140}}};
    for (size_t o = 0; o < 4; o++) {
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            gc_case test = {.build = build_pair,
                            .context = &all[o],
                            .count = 2,
                            .inputs = {{.rank = shapes[i].rank_a},
                                       {.rank = shapes[i].rank_b, .scale = 0.2, .offset = 2.0}}};
            memcpy(test.inputs[0].shape, shapes[i].a, sizeof shapes[i].a);
            memcpy(test.inputs[1].shape, shapes[i].b, sizeof shapes[i].b);
            gc_check(&test);
        }
        const gc_case self = {.build = build_self,
                              .context = &all[o],
                              .count = 1,
                              .inputs = {{.rank = 1, .shape = {9}, .offset = 3.0}}};
        gc_check(&self);
    }
}

/* ---- one operand
 * -------------------------------------------------------------------------------------------------------------
 */
static cps_tensor *build_unary(cps_tape *tape, cps_tensor **in, const void *context) {
    return cps_unary(tape, in[0], *(const cps_unary_kind *)context);
}

static void test_unary(void **state) {
    (void)state;
    static const cps_unary_kind any[] = {CPS_EXP, CPS_RELU, CPS_GELU, CPS_QUICK_GELU};
    static const cps_unary_kind positive[] = {CPS_LOG, CPS_SQRT};
    for (size_t i = 0; i < 4; i++) {
        check_shapes(build_unary, &any[i], 1.0, 0.0);
    }
    for (size_t i = 0; i < 2; i++) {
        check_shapes(build_unary, &positive[i], 0.2, 2.0);
    }
}

static cps_tensor *build_affine(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    return cps_affine(tape, in[0], -1.5, 0.25);
}

static cps_tensor *build_scale_rows(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    return cps_scale_rows(tape, in[0], in[1]);
}

static void test_affine_and_scale(void **state) {
    (void)state;
    check_shapes(build_affine, NULL, 1.0, 0.0);
    static const int64_t shapes[][3] = {{5, 2, 3}, {1, 1, 1}, {0, 2, 2}, {300, 9, 7}};
    for (size_t i = 0; i < 4; i++) {
        const gc_case test = {
            .build = build_scale_rows,
            .count = 2,
            .inputs = {{.rank = 3, .shape = {shapes[i][0], shapes[i][1], shapes[i][2]}},
                       {.rank = 1, .shape = {shapes[i][0]}}}};
        gc_check(&test);
    }
}

/* ---- softmax and entropies
 * ---------------------------------------------------------------------------------------------------
 */
static cps_tensor *build_one(cps_tape *tape, cps_tensor **in, const void *context) {
    return (*(const one_operand *)context)(tape, in[0]);
}

static void test_softmax(void **state) {
    (void)state;
    static const one_operand all[] = {cps_softmax, cps_log_softmax};
    for (size_t i = 0; i < 2; i++) {
        check_shapes(build_one, &all[i], 2.0, 0.0);
    }
}

typedef struct entropy_way {
    int64_t rows;
    const int32_t *classes;
    bool weights;
} entropy_way;

static cps_tensor *build_hard(cps_tape *tape, cps_tensor **in, const void *context) {
    const entropy_way *way = context;
    cps_tensor *target = cps_constant(tape, CPS_I32, 1, &way->rows, way->classes);
    return cps_cross_entropy(tape, in[0], target, way->weights ? in[1] : NULL);
}

static cps_tensor *build_soft(cps_tape *tape, cps_tensor **in, const void *context) {
    const entropy_way *way = context;
    return cps_soft_cross_entropy(tape, in[0], in[2], way->weights ? in[1] : NULL);
}

static void test_entropy(void **state) {
    (void)state;
    enum { MOST = 200 };
    static int32_t classes[MOST];
    for (int32_t i = 0; i < MOST; i++) {
        classes[i] = i % 5 == 3 ? -1 : i % 6;
    }
    static const int64_t rows[] = {4, 1, 0, MOST};
    for (size_t i = 0; i < 4; i++) {
        for (int weights = 0; weights <= 1; weights++) {
            const entropy_way way = {.rows = rows[i], .classes = classes, .weights = weights != 0};
            gc_case test = {.build = build_hard,
                            .context = &way,
                            .count = weights + 1,
                            .inputs = {{.rank = 2, .shape = {rows[i], 6}, .scale = 2.0},
                                       {.rank = 1, .shape = {rows[i]}, .constant = true},
                                       {.rank = 2, .shape = {rows[i], 6}}}};
            gc_check(&test);
            test.build = build_soft;
            test.count = 3;
            gc_check(&test);
        }
    }
}

/* ---- sums
 * --------------------------------------------------------------------------------------------------------------------
 */
static void test_sums(void **state) {
    (void)state;
    static const one_operand all[] = {cps_sum, cps_sum_last, cps_sum_first};
    for (size_t i = 0; i < 3; i++) {
        check_shapes(build_one, &all[i], 1.0, 0.0);
        check_one(build_one, &all[i], 1, (const int64_t[]){5}, 1.0, 0.0);
    }
    static const two_operands dot = cps_dot;
    const gc_case test = {
        .build = build_pair,
        .context = &dot,
        .count = 2,
        .inputs = {{.rank = 2, .shape = {91, 97}}, {.rank = 2, .shape = {91, 97}}}};
    gc_check(&test);
    const gc_case self = {
        .build = build_self, .context = &dot, .count = 1, .inputs = {{.rank = 1, .shape = {9}}}};
    gc_check(&self);
}

/* ---- shapes
 * ------------------------------------------------------------------------------------------------------------------
 */
static cps_tensor *build_slices(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    cps_tensor *rows = cps_slice_rows(tape, in[0], 1, 3);
    cps_tensor *columns = cps_slice_columns(tape, rows, 2, 4);
    cps_tensor *overlap = cps_slice_columns(tape, rows, 0, 4);
    cps_tensor *nothing = cps_slice_columns(tape, rows, 3, 0);
    cps_tensor *parts[] = {columns, nothing, overlap, columns};
    return cps_concat_columns(tape, 4, parts);
}

static cps_tensor *build_rows(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    static const int32_t index[] = {4, 0, 4, 4, 2};
    cps_tensor *taken = cps_take_rows(tape, in[0], 5, index);
    cps_tensor *parts[] = {taken, in[0], cps_slice_rows(tape, in[0], 5, 0),
                           cps_take_rows(tape, in[0], 0, NULL)};
    cps_tensor *joined = cps_concat_rows(tape, 4, parts);
    cps_tensor *flat = cps_reshape(tape, joined, 1, (const int64_t[]){10 * 7});
    cps_tensor *again = cps_reshape(tape, flat, 2, (const int64_t[]){35, 2});
    return cps_transpose(tape, again);
}

static void test_shapes(void **state) {
    (void)state;
    check_one(build_slices, NULL, 2, (const int64_t[]){5, 7}, 1.0, 0.0);
    check_one(build_rows, NULL, 2, (const int64_t[]){5, 7}, 1.0, 0.0);
    static const one_operand turn = cps_transpose;
    static const int64_t shapes[][2] = {{5, 7}, {1, 3}, {0, 4}, {131, 37}};
    for (size_t i = 0; i < 4; i++) {
        check_one(build_one, &turn, 2, shapes[i], 1.0, 0.0);
    }
}

/* ---- the tape itself: shared gradients
 * --------------------------------------------------------------------------------------- */
/* A residual network: sums whose operands are used again, before and after. */
static cps_tensor *build_residual(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    cps_tensor *x = cps_affine(tape, in[0], 2.0, 0.0);
    for (int i = 0; i < 3; i++) {
        cps_tensor *branch = cps_linear(tape, cps_layer_norm(tape, x, in[1], in[2], 1e-5), in[3],
                                        in[2], CPS_ACT_GELU);
        x = cps_add(tape, x, branch);
    }
    cps_tensor *twice = cps_add(tape, x, x);
    cps_tensor *view = cps_reshape(tape, twice, 1, (const int64_t[]){5 * 7});
    cps_tensor *other = cps_sub(tape, twice, in[2]);
    return cps_add(tape, cps_reshape(tape, view, 2, (const int64_t[]){5, 7}),
                   cps_mul(tape, other, x));
}

/* A gradient shared by three, one of which gets more while the others still wait for theirs. */
static cps_tensor *build_shared(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    cps_tensor *a = cps_affine(tape, in[0], 2.0, 0.0), *b = cps_affine(tape, in[1], 3.0, 0.0);
    cps_tensor *c = cps_unary(tape, a, CPS_GELU);
    return cps_add(tape, cps_add(tape, a, b), c);
}

static void test_shared(void **state) {
    (void)state;
    const gc_case test = {.build = build_shared,
                          .count = 2,
                          .inputs = {{.rank = 2, .shape = {5, 7}}, {.rank = 2, .shape = {5, 7}}}};
    gc_check(&test);
}

static void test_residual(void **state) {
    (void)state;
    const gc_case test = {.build = build_residual,
                          .count = 4,
                          .inputs = {{.rank = 2, .shape = {5, 7}},
                                     {.rank = 1, .shape = {7}, .offset = 1.0},
                                     {.rank = 1, .shape = {7}},
                                     {.rank = 2, .shape = {7, 7}}}};
    gc_check(&test);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_norm),
        cmocka_unit_test(test_normalize),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_unary),
        cmocka_unit_test(test_affine_and_scale),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_entropy),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_residual),
        cmocka_unit_test(test_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
