/* DINO's ViT against the published code's own numbers: groups `vit` and `pos_interp` of
 * ../shared/vectors/agriclip.h5. Skipped where that file is not beside the tree. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/file.h"
#include "h5/h5.h"
#include "model/positions.h"
#include "model/tower.h"
#include "tensor/gemm.h"

static const char *const vectors = "../shared/vectors/agriclip.h5";
static const double tolerance = sizeof(cps_real) == sizeof(double) ? 1e-10 : 2e-5;

static cps_h5 *open_vectors(void) {
    if (!cps_file_exists(vectors)) {
        print_message("skipped: %s is not there\n", vectors);
        skip();
    }
    cps_h5 *file = NULL;
    assert_int_equal(cps_h5_open(vectors, &file), CPS_OK);
    return file;
}

static void *read_values(cps_h5 *file, const char *name, cps_h5_type type, int64_t *count_out) {
    void *values = NULL;
    if (cps_h5_read_alloc(file, name, type, (size_t)1 << 28, &values, count_out) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return values;
}

static const cps_h5_type real_type = sizeof(cps_real) == sizeof(double) ? CPS_H5_F64 : CPS_H5_F32;

static void expect(cps_h5 *file, const char *name, const cps_real *got, int64_t count) {
    int64_t there = 0;
    double *wanted = read_values(file, name, CPS_H5_F64, &there);
    assert_int_equal(there, count);
    double worst = 0, size = 1e-6;
    for (int64_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs((double)got[i] - wanted[i]));
        size = fmax(size, fabs(wanted[i]));
        assert_true(isfinite(got[i]));
    }
    if (worst / size > tolerance) {
        fail_msg("%s: error %g", name, worst / size);
    }
    free(wanted);
}

typedef struct subject {
    cps_params *params;
    cps_tower *tower;
    cps_arena *arena;
    cps_tape *tape;
    cps_real *grads;
} subject;

static void start(subject *s, cps_h5 *file) {
    int64_t sizes[5];
    static const char *const names[] = {"img", "p", "d", "depth", "h"};
    for (int32_t i = 0; i < 5; i++) {
        assert_int_equal(cps_h5_read_integer(file, "vit", names[i], &sizes[i]), CPS_OK);
    }
    const cps_tower_config config = {.name = "ssl",
                                     .prefix = "",
                                     .kind = CPS_TOWER_VIT,
                                     .image_size = sizes[0],
                                     .patch = sizes[1],
                                     .width = sizes[2],
                                     .layers = sizes[3],
                                     .heads = sizes[4],
                                     .patch_bias = true,
                                     .norm_eps = 1e-6,
                                     .dino = true};
    assert_int_equal(cps_params_create(&s->params), CPS_OK);
    assert_int_equal(cps_tower_create(s->params, &config, &s->tower), CPS_OK);
    for (int32_t i = 0; i < cps_params_count(s->params); i++) {
        const cps_param *param = cps_params_at(s->params, i);
        char *name = cps_format("vit/param/%s", param->name);
        int64_t count = 0;
        cps_real *values = read_values(file, name, real_type, &count);
        assert_int_equal(count, param->count);
        assert_int_equal(
            cps_params_offer(s->params, param->name, param->spec.rank, param->spec.shape, values),
            CPS_OK);
        free(values);
        free(name);
    }
    assert_int_equal(cps_params_allocate(s->params, 0), CPS_OK);
    assert_int_equal(cps_params_set_train(s->params, NULL, 0), CPS_OK);
    assert_int_equal(cps_arena_create("dino", 1 << 22, true, &s->arena), CPS_OK);
    assert_int_equal(cps_tape_create(s->arena, CPS_TAPE_RECORD, NULL, &s->tape), CPS_OK);
    s->grads = calloc((size_t)cps_params_flat_count(s->params), sizeof *s->grads);
    assert_non_null(s->grads);
    for (int32_t i = 0; i < cps_params_count(s->params); i++) {
        cps_param *param = cps_params_at(s->params, i);
        param->tensor.grad = s->grads + param->offset;
        param->tensor.grad_fresh = true;
    }
}

static void end(subject *s) {
    cps_tape_destroy(s->tape);
    cps_arena_destroy(s->arena);
    cps_tower_destroy(s->tower);
    cps_params_destroy(s->params);
    free(s->grads);
}

/* One call on crops of one size, its upstream gradient seeded. image and d_out live as long as the
 * tape. */
static void crops(subject *s, cps_h5 *file, const char *which, int64_t count, int64_t side,
                  cps_real **image_out, cps_real **d_out) {
    char *x = cps_format("vit/x_%s", which), *y = cps_format("vit/y_%s", which);
    char *dy = cps_format("vit/dy_%s", which);
    int64_t pixels = 0, values = 0;
    *image_out = read_values(file, x, real_type, &pixels);
    *d_out = read_values(file, dy, real_type, &values);
    const int64_t shape[] = {count, 3, side, side};
    assert_int_equal(pixels, count * 3 * side * side);
    const cps_tower_input input = {
        .image = cps_tape_leaf(s->tape, CPS_REAL, 4, shape, *image_out, NULL, -1)};
    cps_tower_output out = {0};
    assert_int_equal(cps_tower_forward(s->tower, s->tape, &input, CPS_OUT_POOLED, &out), CPS_OK);
    expect(file, y, out.pooled->data, values);
    cps_tape_seed(s->tape, out.pooled, *d_out);
    free(x);
    free(y);
    free(dy);
}

static void test_two_resolutions(void **state) {
    (void)state;
    cps_h5 *file = open_vectors();
    subject s = {0};
    start(&s, file);
    cps_real *global = NULL, *local = NULL, *d_global = NULL, *d_local = NULL;
    crops(&s, file, "global", 2, 32, &global, &d_global);
    crops(&s, file, "local", 3, 16, &local, &d_local);
    assert_int_equal(cps_backward(s.tape, NULL, 1), CPS_OK);
    for (int32_t i = 0; i < cps_params_count(s.params); i++) {
        const cps_param *param = cps_params_at(s.params, i);
        char *name = cps_format("vit/grad/%s", param->name);
        expect(file, name, s.grads + param->offset, param->count);
        free(name);
    }
    free(global);
    free(local);
    free(d_global);
    free(d_local);
    end(&s);
    assert_int_equal(cps_h5_close(file), CPS_OK);
}

static void test_position_tables(void **state) {
    (void)state;
    cps_h5 *file = open_vectors();
    static const int64_t sizes[][2] = {{96, 96}, {112, 112}, {96, 64}, {224, 160}, {288, 288}};
    int64_t count = 0;
    double *table = read_values(file, "pos_interp/pos_embed", CPS_H5_F64, &count);
    assert_int_equal(count, 197 * 3);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t rows = sizes[i][0] / 16, columns = sizes[i][1] / 16;
        double *map = NULL;
        assert_int_equal(cps_positions_map(CPS_RESAMPLE_DINO, 14, rows, columns, &map), CPS_OK);
        char *name =
            cps_format("pos_interp/%lldx%lld/out", (long long)sizes[i][0], (long long)sizes[i][1]);
        cps_real *out = calloc((size_t)(1 + rows * columns) * 3, sizeof *out);
        assert_non_null(out);
        for (int64_t row = 0; row <= rows * columns; row++) {
            for (int64_t c = 0; c < 3; c++) {
                double sum = 0;
                for (int64_t k = 0; k < 197; k++) {
                    sum += map[row * 197 + k] * table[k * 3 + c];
                }
                out[row * 3 + c] = (cps_real)sum;
            }
        }
        expect(file, name, out, (1 + rows * columns) * 3);
        free(out);
        free(name);
        free(map);
    }
    free(table);
    assert_int_equal(cps_h5_close(file), CPS_OK);
}

int main(void) {
    cps_gemm_start();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_two_resolutions),
                                       cmocka_unit_test(test_position_tables)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
