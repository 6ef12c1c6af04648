/* The operations of agriclip.dino, one by one: gradients against differences, values against the
 * formulas of agriclip.md computed as they stand there, and what must hold of them whatever the
 * numbers are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "plugin/copse_objective.h"
#include "train/stage.h"

#define GC_HOST cps_host_table()
#include "plugins/agriclip/dino.h"
#include "tests/grad/grad_check.h"

static const double ulp = sizeof(cps_real) == 8 ? 1e-12 : 2e-5;

static void assert_near(double found, double wanted, double size) {
    if (!(fabs(found - wanted) <= ulp * fmax(fabs(wanted), size))) {
        fail_msg("%.17g found, %.17g wanted", found, wanted);
    }
}

/* ---- gradients ---- */

static cps_tensor *build_weight(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    return agriclip_dino_weight(tape, in[0], in[1]);
}

static void test_weight_gradient(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{5, 7}, {1, 3}, {300, 4}, {0, 4}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        gc_case test = {
            .build = build_weight,
            .count = 2,
            .inputs = {{.rank = 2, .shape = {shapes[i][0], shapes[i][1]}},
                       {.rank = 2, .shape = {shapes[i][0], 1}, .offset = 1.0, .scale = 0.3}}};
        gc_check(&test);
        test.inputs[1].constant = true; /* norm_last_layer */
        gc_check(&test);
    }
}

static cps_tensor *build_loss(cps_tape *tape, cps_tensor **in, const void *context) {
    return agriclip_dino_cross_entropy(tape, in[0], in[1], in[2], *(const double *)context, 0.7);
}

/* Classes: fewer than a tile, a tile and some, more than a slab. */
static void test_loss_gradient(void **state) {
    (void)state;
    static const int64_t sizes[][4] = {
        {2, 3, 16, 5}, {5, 3, 16, 5}, {4, 1, 300, 3}, {3, 2, 4400, 2}};
    static const double temperature = 0.5;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int64_t crops = sizes[i][0], images = sizes[i][1], classes = sizes[i][2],
                      width = sizes[i][3];
        gc_case test = {.build = build_loss,
                        .context = &temperature,
                        .count = 3,
                        .inputs = {{.rank = 2, .shape = {crops * images, width}},
                                   {.rank = 2, .shape = {classes, width}, .scale = 0.3},
                                   {.rank = 2,
                                    .shape = {classes, 2 * images},
                                    .offset = 1.0 / (double)classes,
                                    .scale = 0.2 / (double)classes,
                                    .constant = true}}};
        gc_check(&test);
        test.inputs[1].constant = true;
        gc_check(&test);
        test.inputs[1].constant = false;
        test.inputs[0].constant = true;
        gc_check(&test);
    }
}

/* in: x, then weight and bias of each layer, gain and shift of the hidden one. */
static cps_tensor *build_head(cps_tape *tape, cps_tensor **in, const void *context) {
    const bool norm = *(const bool *)context;
    double *moments[2] = {NULL};
    const agriclip_dino_head head = {
        .layer_count = 2,
        .layers = {{.weight = in[1], .gain = norm ? in[3] : NULL, .shift = norm ? in[4] : NULL},
                   {.weight = in[2]}}};
    return agriclip_dino_bottleneck(tape, &head, in[0], false, moments);
}

static void test_head_gradient(void **state) {
    (void)state;
    for (int norm = 0; norm < 2; norm++) {
        const bool with_norm = norm == 1;
        gc_case test = {.build = build_head,
                        .context = &with_norm,
                        .count = with_norm ? 5 : 3,
                        .inputs = {{.rank = 2, .shape = {7, 6}},
                                   {.rank = 2, .shape = {8, 6}, .scale = 0.5},
                                   {.rank = 2, .shape = {4, 8}, .scale = 0.5},
                                   {.rank = 1, .shape = {8}, .offset = 1.0, .scale = 0.2},
                                   {.rank = 1, .shape = {8}, .scale = 0.2}}};
        gc_check(&test);
    }
}

/* ---- a loss on logits: the last layer is the identity ---- */

typedef struct bench {
    int64_t crops, images, classes;
    double student_temp, teacher_temp;
    double *student, *teacher, *centre;         /* logits [V B, K], [2B, K], [K] */
    double loss, entropy, *gradient, *sums, *q; /* [V B, K], [K], [2B, K] */
} bench;

static double *doubles(int64_t count) {
    return calloc((size_t)count, sizeof(double));
}

static bench open_bench(int64_t crops, int64_t images, int64_t classes, double spread) {
    bench b = {.crops = crops,
               .images = images,
               .classes = classes,
               .student_temp = 0.1,
               .teacher_temp = 0.04,
               .student = doubles(crops * images * classes),
               .teacher = doubles(2 * images * classes),
               .centre = doubles(classes),
               .gradient = doubles(crops * images * classes),
               .sums = doubles(classes),
               .q = doubles(2 * images * classes)};
    for (int64_t i = 0; i < crops * images * classes; i++) {
        b.student[i] = spread * gc_normal("student", i);
    }
    for (int64_t i = 0; i < 2 * images * classes; i++) {
        b.teacher[i] = spread * gc_normal("teacher", i);
    }
    for (int64_t k = 0; k < classes; k++) {
        b.centre[k] = 0.1 * spread * gc_normal("centre", k);
    }
    return b;
}

static void close_bench(bench *b) {
    free(b->student);
    free(b->teacher);
    free(b->centre);
    free(b->gradient);
    free(b->sums);
    free(b->q);
}

static cps_tensor *leaf(cps_tape *tape, int32_t rank, int64_t rows, int64_t columns,
                        const double *values, cps_real *grad) {
    const int64_t shape[2] = {rows, columns}, count = rows * columns;
    cps_real *data = cps_tape_save(tape, (size_t)count * sizeof *data);
    for (int64_t i = 0; i < count; i++) {
        data[i] = (cps_real)values[i];
    }
    cps_tensor *made = cps_tape_leaf(tape, CPS_REAL, rank, rank == 1 ? &shape[1] : shape, data,
                                     grad, grad == NULL ? -1 : 0);
    made->needs_grad = made->grad_fresh = grad != NULL;
    return made;
}

/* Loss and gradient by the plugin's operations. */
static void run_bench(bench *b) {
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    const int64_t rows = b->crops * b->images, classes = b->classes;
    double *identity = doubles(classes * classes);
    cps_real *grad = calloc((size_t)(rows * classes), sizeof *grad);
    for (int64_t k = 0; k < classes; k++) {
        identity[k * classes + k] = 1.0;
    }
    assert_int_equal(cps_arena_create("bench", (size_t)1 << 20, true, &arena), CPS_OK);
    assert_int_equal(cps_tape_create(arena, CPS_TAPE_RECORD, cps_host_table(), &tape), CPS_OK);
    cps_tensor *weight = leaf(tape, 2, classes, classes, identity, NULL);
    agriclip_dino_teacher said = {.sums = b->sums};
    cps_tensor *q =
        agriclip_dino_targets(tape, leaf(tape, 2, 2 * b->images, classes, b->teacher, NULL), weight,
                              leaf(tape, 1, 1, classes, b->centre, NULL), b->teacher_temp, &said);
    cps_tensor *loss =
        agriclip_dino_cross_entropy(tape, leaf(tape, 2, rows, classes, b->student, grad), weight, q,
                                    b->student_temp, 1.0 / (double)b->images);
    assert_non_null(loss);
    assert_int_equal(cps_backward(tape, loss, 1.0), CPS_OK);
    b->loss = (double)*(const cps_real *)loss->data;
    b->entropy = said.entropy;
    for (int64_t i = 0; i < rows * classes; i++) {
        b->gradient[i] = (double)grad[i];
    }
    for (int64_t i = 0; i < 2 * b->images * classes; i++) { /* to rows */
        const int64_t row = i / classes, k = i % classes;
        b->q[i] = (double)((const cps_real *)q->data)[k * 2 * b->images + row];
    }
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    free(identity);
    free(grad);
}

/* softmax((x - shift) / temperature) and its logarithm, a row. */
static void softmax_row(const double *x, const double *shift, double temperature, int64_t count,
                        double *p, double *log_p) {
    double most = -1e300, sum = 0.0;
    for (int64_t k = 0; k < count; k++) {
        log_p[k] = (x[k] - (shift == NULL ? 0.0 : shift[k])) / temperature;
        most = fmax(most, log_p[k]);
    }
    for (int64_t k = 0; k < count; k++) {
        sum += exp(log_p[k] - most);
    }
    for (int64_t k = 0; k < count; k++) {
        log_p[k] -= most + log(sum);
        p[k] = exp(log_p[k]);
    }
}

/* The formulas as agriclip.md has them: pair by pair. */
static void check_dense(bench *b) {
    const int64_t n = b->images, classes = b->classes, rows = b->crops * n;
    double *q = doubles(2 * n * classes), *p = doubles(rows * classes),
           *log_p = doubles(rows * classes), *log_q = doubles(2 * n * classes),
           *gradient = doubles(rows * classes);
    double loss = 0.0, entropy = 0.0;
    for (int64_t i = 0; i < 2 * n; i++) {
        softmax_row(b->teacher + i * classes, b->centre, b->teacher_temp, classes, q + i * classes,
                    log_q + i * classes);
    }
    for (int64_t i = 0; i < rows; i++) {
        softmax_row(b->student + i * classes, NULL, b->student_temp, classes, p + i * classes,
                    log_p + i * classes);
    }
    const double share = 1.0 / ((double)n * (2.0 * (double)b->crops - 2.0));
    for (int64_t i = 0; i < 2; i++) {
        for (int64_t v = 0; v < b->crops; v++) {
            for (int64_t at = 0; at < n * classes && v != i; at++) {
                const double target = q[i * n * classes + at];
                loss -= share * target * log_p[v * n * classes + at];
                gradient[v * n * classes + at] +=
                    share / b->student_temp * (p[v * n * classes + at] - target);
            }
        }
    }
    for (int64_t i = 0; i < 2 * n * classes; i++) {
        entropy -= q[i] > 0.0 ? q[i] * log_q[i] : 0.0;
        assert_near(b->q[i], q[i], sizeof(cps_real) == 8 ? 1.0 : 10.0);
    }
    assert_near(b->loss, loss, 1.0);
    assert_near(b->entropy, entropy, 1.0);
    double size = 0.0;
    for (int64_t i = 0; i < rows * classes; i++) {
        size = fmax(size, fabs(gradient[i]));
    }
    for (int64_t i = 0; i < rows * classes; i++) {
        assert_near(b->gradient[i], gradient[i], (sizeof(cps_real) == 8 ? 1.0 : 10.0) * size);
    }
    for (int64_t k = 0; k < classes; k++) {
        double sum = 0.0;
        for (int64_t i = 0; i < 2 * n; i++) {
            sum += b->teacher[i * classes + k];
        }
        assert_near(b->sums[k], sum, 1.0);
    }
    free(q);
    free(p);
    free(log_p);
    free(log_q);
    free(gradient);
}

static void test_formulas(void **state) {
    (void)state;
    static const int64_t sizes[][3] = {{2, 3, 16}, {5, 3, 16}, {10, 1, 13}, {4, 2, 300}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        bench b = open_bench(sizes[i][0], sizes[i][1], sizes[i][2], 0.5);
        run_bench(&b);
        check_dense(&b);
        close_bench(&b);
    }
}

/* Logits of some hundreds overflow exp of their quotient by the temperature. */
static void test_large_logits(void **state) {
    (void)state;
    bench b = open_bench(4, 3, 16, 300.0);
    run_bench(&b);
    assert_true(isfinite(b.loss) && isfinite(b.entropy) && b.entropy >= 0.0);
    for (int64_t i = 0; i < 4 * 3 * 16; i++) {
        assert_true(isfinite(b.gradient[i]));
    }
    if (sizeof(cps_real) == 8) {
        check_dense(&b);
    }
    close_bench(&b);
}

/* ---- what holds of any numbers (agriclip.md, 7.1) ---- */

static void test_gradient_rows_sum_to_zero(void **state) {
    (void)state;
    bench b = open_bench(5, 3, 16, 0.5);
    run_bench(&b);
    for (int64_t i = 0; i < 5 * 3; i++) {
        double sum = 0.0;
        for (int64_t k = 0; k < 16; k++) {
            sum += b.gradient[i * 16 + k];
        }
        assert_near(sum, 0.0, 1.0);
    }
    close_bench(&b);
}

static void assert_same(const bench *a, const bench *b) {
    const double loose = sizeof(cps_real) == 8 ? 100.0 : 50.0;
    assert_near(a->loss, b->loss, loose);
    for (int64_t i = 0; i < a->crops * a->images * a->classes; i++) {
        assert_near(a->gradient[i], b->gradient[i], loose);
    }
}

/* One vector more in the centre and in all rows of the teacher. */
static void test_shift(void **state) {
    (void)state;
    bench a = open_bench(4, 3, 16, 0.5), b = open_bench(4, 3, 16, 0.5);
    for (int64_t i = 0; i < 2 * 3 * 16; i++) {
        b.teacher[i] += 0.3 * gc_normal("shift", i % 16);
    }
    for (int64_t k = 0; k < 16; k++) {
        b.centre[k] += 0.3 * gc_normal("shift", k);
    }
    run_bench(&a);
    run_bench(&b);
    assert_same(&a, &b);
    close_bench(&a);
    close_bench(&b);
}

/* Images in another order in all crops: gradient rows in that order. */
static void test_permutation(void **state) {
    (void)state;
    enum { V = 4, B = 3, K = 16 };
    static const int64_t order[B] = {2, 0, 1};
    bench a = open_bench(V, B, K, 0.5), b = open_bench(V, B, K, 0.5);
    double back[V * B * K];
    for (int64_t row = 0; row < V * B; row++) {
        const int64_t from = row / B * B + order[row % B];
        memcpy(b.student + row * K, a.student + from * K, K * sizeof(double));
        if (row < 2 * B) {
            memcpy(b.teacher + row * K, a.teacher + from * K, K * sizeof(double));
        }
    }
    run_bench(&a);
    run_bench(&b);
    for (int64_t row = 0; row < V * B; row++) {
        const int64_t to = row / B * B + order[row % B];
        memcpy(back + to * K, b.gradient + row * K, K * sizeof(double));
    }
    memcpy(b.gradient, back, sizeof back);
    assert_same(&a, &b);
    close_bench(&a);
    close_bench(&b);
}

/* Two equal crops, the teacher equal to the student: dL/ds_0 = (p_0 - q_1) / (2 t B), zero only at
 * equal temperatures and without a centre. */
static void test_equal_crops(void **state) {
    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        bench b = open_bench(2, 1, 16, 0.5);
        memcpy(b.student + 16, b.student, 16 * sizeof(double));
        memcpy(b.teacher, b.student, 32 * sizeof(double));
        b.teacher_temp = variant == 1 ? 0.05 : b.student_temp;
        for (int64_t k = 0; k < 16; k++) {
            b.centre[k] *= variant == 2 ? 1.0 : 0.0;
        }
        run_bench(&b);
        double most = 0.0, p[16], log_p[16];
        softmax_row(b.student, NULL, b.student_temp, 16, p, log_p);
        for (int64_t k = 0; k < 16; k++) {
            most = fmax(most, fabs(b.gradient[k]));
            assert_near(b.gradient[k], (p[k] - b.q[16 + k]) / (2.0 * b.student_temp), 10.0);
        }
        assert_true(variant == 0 ? most < 10.0 * ulp : most > 0.01);
        close_bench(&b);
    }
}

/* ---- weight norm's corner, tables ---- */

static void test_row_of_zeros(void **state) {
    (void)state;
    const double v[] = {3.0, 4.0, 0.0, 0.0}, g[] = {2.0, 2.0};
    cps_real d_v[4], d_g[2];
    const cps_real seed[] = {1, 1, 1, 1};
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    assert_int_equal(cps_arena_create("zeros", (size_t)1 << 16, true, &arena), CPS_OK);
    assert_int_equal(cps_tape_create(arena, CPS_TAPE_RECORD, cps_host_table(), &tape), CPS_OK);
    cps_tensor *weight =
        agriclip_dino_weight(tape, leaf(tape, 2, 2, 2, v, d_v), leaf(tape, 2, 2, 1, g, d_g));
    const cps_real *w = weight->data;
    assert_near((double)w[0], 1.2, 1.0);
    assert_near((double)w[1], 1.6, 1.0);
    assert_true(w[2] == 0 && w[3] == 0);
    cps_tape_seed(tape, weight, seed);
    assert_int_equal(cps_backward(tape, NULL, 0.0), CPS_OK);
    assert_near((double)d_g[0], 1.4, 1.0);
    assert_near((double)d_v[0], 0.4 * (1.0 - 1.4 * 0.6), 1.0);
    assert_true(d_v[2] == 0 && d_v[3] == 0 && d_g[1] == 0);
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
}

static void test_tables(void **state) {
    (void)state;
    assert_true(agriclip_dino_momentum(0.996, 0, 100) == 0.996);
    assert_true(fabs(agriclip_dino_momentum(0.996, 50, 100) - 0.998) < 1e-15);
    const double last = agriclip_dino_momentum(0.996, 99, 100);
    assert_true(last < 1.0 && last > 0.99999);
    assert_true(agriclip_dino_temperature(0.04, 0.07, 0, 0) == 0.07);
    assert_true(agriclip_dino_temperature(0.04, 0.07, 1, 0) == 0.04);
    assert_true(agriclip_dino_temperature(0.04, 0.07, 1, 1) == 0.07);
    assert_true(agriclip_dino_temperature(0.04, 0.07, 4, 0) == 0.04);
    assert_true(fabs(agriclip_dino_temperature(0.04, 0.07, 4, 2) - 0.06) < 1e-15);
    assert_true(fabs(agriclip_dino_temperature(0.04, 0.07, 4, 3) - 0.07) < 1e-15);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weight_gradient), cmocka_unit_test(test_loss_gradient),
        cmocka_unit_test(test_head_gradient),   cmocka_unit_test(test_formulas),
        cmocka_unit_test(test_large_logits),    cmocka_unit_test(test_gradient_rows_sum_to_zero),
        cmocka_unit_test(test_shift),           cmocka_unit_test(test_permutation),
        cmocka_unit_test(test_equal_crops),     cmocka_unit_test(test_row_of_zeros),
        cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
