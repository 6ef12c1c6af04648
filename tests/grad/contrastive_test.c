/* Contrastive losses and batch sums in one process: gradients, and values against the plain formula
 * over the whole matrix. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/grad/grad_check.h"
#include "tests/grad/contrastive_reference.h"

typedef struct contrast_way {
    const cps_layout *layout;
    int64_t rows;
    const int64_t *keys;
} contrast_way;

static cps_tensor *spread(cps_tensor *tensor, const cps_layout *layout) {
    if (tensor != NULL) {
        tensor->layout = layout;
    }
    return tensor;
}

static cps_tensor *build_softmax(cps_tape *tape, cps_tensor **in, const void *context) {
    const contrast_way *way = context;
    cps_tensor *keys =
        way->keys != NULL ? cps_constant(tape, CPS_I64, 1, &way->rows, way->keys) : NULL;
    return cps_softmax_contrastive(tape, spread(in[0], way->layout), spread(in[1], way->layout),
                                   in[2], spread(keys, way->layout));
}

static cps_tensor *build_sigmoid(cps_tape *tape, cps_tensor **in, const void *context) {
    const contrast_way *way = context;
    return cps_sigmoid_contrastive(tape, spread(in[0], way->layout), spread(in[1], way->layout),
                                   in[2], in[3]);
}

static cps_tensor *build_sum(cps_tape *tape, cps_tensor **in, const void *context) {
    const contrast_way *way = context;
    cps_tensor *u = spread(in[0], way->layout);
    cps_tensor *all = cps_gather(tape, u);
    cps_tensor *rows = cps_sum_last(tape, cps_mul(tape, u, u));
    return cps_mul(tape, all, cps_batch_sum(tape, rows));
}

static int64_t keys_of(int64_t rows, int64_t *keys) {
    for (int64_t i = 0; i < rows; i++) {
        keys[i] = (i * i) % 5;
    }
    return rows;
}

static void check_values(const gc_case *test, const contrast_way *way, bool sigmoid) {
    gc_state s = {.test = test};
    for (int32_t i = 0; i < test->count; i++) {
        s.counts[i] = gc_count(test->inputs[i].rank, test->inputs[i].shape);
        s.values[i] = malloc((size_t)(s.counts[i] + 1) * sizeof(cps_real));
        for (int64_t k = 0; k < s.counts[i]; k++) {
            s.values[i][k] =
                (cps_real)(test->inputs[i].scale * gc_normal("reference", i * 1000003 + k));
        }
    }
    gc_run(&s, GC_VALUE);
    const int64_t width = test->inputs[0].shape[1];
    const double wanted = sigmoid ? reference_sigmoid(way->rows, width, s.values[0], s.values[1],
                                                      s.values[2][0], s.values[3][0])
                                  : reference_softmax(way->rows, width, s.values[0], s.values[1],
                                                      s.values[2][0], way->keys);
    const double tolerance = sizeof(cps_real) == 8 ? 1e-12 : 2e-6;
    if (way->rows > 0 && !(fabs((double)s.out[0] - wanted) <= tolerance * (1.0 + fabs(wanted)))) {
        fail_msg("loss %.15g, the formula gives %.15g", (double)s.out[0], wanted);
    }
    for (int32_t i = 0; i < test->count; i++) {
        free(s.values[i]);
    }
    free(s.out);
    free(s.weights);
}

static void check_layout(int64_t parts, const int64_t *part_offset, int64_t width) {
    const cps_layout layout = {.part_count = parts, .part_offset = part_offset, .last_part = parts};
    const int64_t rows = part_offset[parts];
    int64_t keys[700];
    keys_of(rows, keys);
    for (int way_of = 0; way_of < 6; way_of++) {
        const contrast_way way = {.layout = way_of % 2 == 0 ? &layout : NULL,
                                  .rows = rows,
                                  .keys = way_of / 2 == 1 ? keys : NULL};
        const bool sigmoid = way_of / 2 == 2;
        gc_case test = {.build = sigmoid ? build_sigmoid : build_softmax,
                        .context = &way,
                        .count = sigmoid ? 4 : 3,
                        .inputs = {{.rank = 2, .shape = {rows, width}, .scale = 0.5},
                                   {.rank = 2, .shape = {rows, width}, .scale = 0.5},
                                   {.rank = 0, .scale = 0.7},
                                   {.rank = 1, .shape = {1}, .scale = 0.7}}};
        gc_check(&test);
        check_values(&test, &way, sigmoid);
        test.inputs[1].constant = true;
        gc_check(&test);
    }
    const contrast_way way = {.layout = &layout, .rows = rows};
    const gc_case test = {.build = build_sum,
                          .context = &way,
                          .count = 1,
                          .inputs = {{.rank = 2, .shape = {rows, width}, .scale = 0.5}}};
    gc_check(&test);
}

static void test_contrastive(void **state) {
    (void)state;
    check_layout(3, (const int64_t[]){0, 4, 5, 11}, 6);
    check_layout(1, (const int64_t[]){0, 1}, 3);
    check_layout(2, (const int64_t[]){0, 0, 0}, 3);
    check_layout(4, (const int64_t[]){0, 2, 2, 7, 9}, 5);
}

/* More rows in a part than a tile has. */
static void test_contrastive_tiles(void **state) {
    (void)state;
    check_layout(2, (const int64_t[]){0, 300, 557}, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contrastive),
        cmocka_unit_test(test_contrastive_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
