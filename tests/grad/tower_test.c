/* Gradients of whole towers against central differences: every parameter tensor in a random
 * direction and at single entries, for all outputs, packed texts, other image sizes, dropped paths,
 * frozen parts. Double build; in float the differences say nothing. */
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
#include "base/rng.h"
#include "model/model.h"
#include "tensor/gemm.h"

enum { SAMPLES = 3, ENTRIES = 3 };

typedef struct subject {
    cps_model *model;
    const cps_tower *tower;
    uint32_t outputs;
    int64_t height, width; /* of images; 0: text */
    bool training;
    cps_arena *arena;
    cps_real *grads;
    cps_real image[SAMPLES * 3 * 20 * 20];
    cps_draw_key draws[SAMPLES];
} subject;

static const int32_t ids[] = {27, 4, 29, 29, 27, 5, 5, 6, 29};
static const int32_t offsets[] = {0, 3, 4, 9}, ends[] = {2, 3, 8};

static cps_tower_output forward(subject *s, cps_tape *tape) {
    cps_tower_input input = {.training = s->training, .draws = s->draws};
    if (s->height > 0) {
        const int64_t shape[] = {SAMPLES, 3, s->height, s->width};
        input.image = cps_tape_leaf(tape, CPS_REAL, 4, shape, s->image, NULL, -1);
    } else {
        const int64_t rows = sizeof ids / sizeof *ids;
        input.ids = cps_tape_leaf(tape, CPS_I32, 1, &rows, (void *)(uintptr_t)ids, NULL, -1);
        input.count = SAMPLES;
        input.offsets = offsets;
        input.ends = ends;
    }
    cps_tower_output out = {0};
    if (cps_tower_forward(s->tower, tape, &input, s->outputs, &out) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return out;
}

/* Sum of all outputs with random weights; backward if the tape records. */
static double loss_of(subject *s, cps_tape_mode mode) {
    cps_tape *tape = NULL;
    assert_int_equal(cps_tape_create(s->arena, mode, NULL, &tape), CPS_OK);
    const cps_tower_output out = forward(s, tape);
    cps_tensor *outputs[] = {out.pooled, out.projected, out.feature, out.tokens,
                             out.tokens_projected};
    double loss = 0;
    cps_real *weights[5] = {NULL};
    for (int32_t i = 0; i < 5; i++) {
        if (outputs[i] == NULL) {
            continue;
        }
        const int64_t count = outputs[i]->shape[0] * outputs[i]->shape[1];
        weights[i] = malloc((size_t)count * sizeof(cps_real));
        assert_non_null(weights[i]);
        char name[16];
        snprintf(name, sizeof name, "output %d", i);
        cps_fill_normal(21, name, 1, weights[i], count);
        for (int64_t k = 0; k < count; k++) {
            loss += (double)weights[i][k] * (double)((const cps_real *)outputs[i]->data)[k];
        }
        if (mode == CPS_TAPE_RECORD) {
            cps_tape_seed(tape, outputs[i], weights[i]);
        }
    }
    if (mode == CPS_TAPE_RECORD && cps_backward(tape, NULL, 1) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    for (int32_t i = 0; i < 5; i++) {
        free(weights[i]);
    }
    cps_tape_destroy(tape);
    cps_arena_reset(s->arena, 0);
    return loss;
}

static void backward(subject *s) {
    cps_params *params = cps_model_params(s->model);
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        cps_param *param = cps_params_at(params, i);
        param->tensor.grad = param->learns ? s->grads + param->offset : NULL;
        param->tensor.grad_fresh = param->learns;
    }
    loss_of(s, CPS_TAPE_RECORD);
}

/* (loss(p + h d) - loss(p - h d)) / 2h for a direction, or an entry alone where it is >= 0. */
static double difference(subject *s, cps_param *param, const cps_real *direction, int64_t entry) {
    const double h = 1e-5;
    cps_real *values = param->tensor.data;
    const size_t bytes = (size_t)param->count * sizeof *values;
    cps_real *kept = malloc(bytes);
    assert_non_null(kept);
    memcpy(kept, values, bytes);
    double side[2];
    for (int32_t which = 0; which < 2; which++) {
        for (int64_t k = 0; k < param->count; k++) {
            const double d = entry >= 0 ? (k == entry ? 1 : 0) : (double)direction[k];
            values[k] = (cps_real)((double)kept[k] + (which == 0 ? h : -h) * d);
        }
        side[which] = loss_of(s, CPS_TAPE_PLAIN);
    }
    memcpy(values, kept, bytes);
    free(kept);
    return (side[0] - side[1]) / (2 * h);
}

static void compare(const cps_param *param, const char *what, double found, double wanted,
                    double size) {
    if (!(fabs(found - wanted) <= 1e-6 * fmax(fmax(fabs(wanted), size), 1e-2))) {
        fail_msg("%s, %s: gradient %.12g, differences %.12g", param->name, what, found, wanted);
    }
}

static void check_param(subject *s, cps_param *param) {
    const cps_real *grad = s->grads + param->offset;
    cps_real *direction = malloc((size_t)param->count * sizeof *direction);
    assert_non_null(direction);
    cps_fill_normal(22, param->name, 1, direction, param->count);
    double found = 0, size = 0;
    for (int64_t k = 0; k < param->count; k++) {
        found += (double)direction[k] * (double)grad[k];
        size += fabs((double)direction[k] * (double)grad[k]);
    }
    compare(param, "a direction", found, difference(s, param, direction, -1),
            size / sqrt((double)param->count));
    for (int32_t r = 0; r < ENTRIES; r++) {
        const int64_t entry = r * 7919 % param->count;
        compare(param, "an entry", (double)grad[entry], difference(s, param, NULL, entry), 0);
    }
    free(direction);
}

static void start(subject *s, const char *spec, const char *tower) {
    memset(s, 0, sizeof *s);
    cps_json *json = NULL;
    assert_int_equal(cps_json_parse(spec, strlen(spec), "test", &json), CPS_OK);
    if (cps_model_create(json, 0, 0, &s->model) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    cps_json_destroy(json);
    s->tower = cps_model_tower(s->model, tower);
    assert_non_null(s->tower);
    cps_params *params = cps_model_params(s->model);
    assert_int_equal(cps_params_allocate(params, 7), CPS_OK);
    for (int32_t i = 0; i < cps_params_count(params); i++) { /* nothing may hide behind 0 and 1 */
        cps_param *param = cps_params_at(params, i);
        cps_real *noise = malloc((size_t)param->count * sizeof *noise);
        assert_non_null(noise);
        cps_fill_normal(23, param->name, 0.3, noise, param->count);
        for (int64_t k = 0; k < param->count; k++) {
            ((cps_real *)param->tensor.data)[k] += noise[k];
        }
        free(noise);
    }
    assert_int_equal(cps_params_set_train(params, NULL, 0), CPS_OK);
    assert_int_equal(cps_arena_create("grad", 1 << 22, true, &s->arena), CPS_OK);
    s->grads = calloc((size_t)cps_params_flat_count(params), sizeof *s->grads);
    assert_non_null(s->grads);
    cps_fill_normal(3, "image", 1, s->image, sizeof s->image / sizeof *s->image);
    for (uint32_t i = 0; i < SAMPLES; i++) {
        s->draws[i] = (cps_draw_key){.seed = 5, .position = i};
    }
}

static void end(subject *s) {
    free(s->grads);
    cps_arena_destroy(s->arena);
    cps_model_destroy(s->model);
}

static void check(const char *spec, const char *tower, int64_t height, int64_t width,
                  uint32_t outputs, bool training) {
    if (sizeof(cps_real) < sizeof(double)) {
        skip();
    }
    subject s;
    start(&s, spec, tower);
    s.outputs = outputs;
    s.height = height;
    s.width = width;
    s.training = training;
    backward(&s);
    int32_t count = 0;
    const int32_t *indices = cps_tower_params(s.tower, &count);
    for (int32_t i = 0; i < count; i++) {
        check_param(&s, cps_params_at(cps_model_params(s.model), indices[i]));
    }
    end(&s);
}

static const char clip[] =
    "{\"embed_dim\": 5, \"image\": {\"image_size\": 12, \"patch\": 4, \"width\": 6, \"layers\": 2, "
    "\"heads\": 3}, \"text\": {\"context\": 5, \"vocabulary\": 30, \"width\": 8, \"layers\": 2, "
    "\"heads\": 2, \"activation\": \"quick_gelu\"}}";
static const char dino[] =
    "{\"towers\": {\"ssl\": {\"image_size\": 12, \"patch\": 4, \"width\": 6, \"layers\": 3, "
    "\"heads\": 2, \"variant\": \"dino\", \"drop_path\": 0.5, \"mlp_width\": 10}}}";

static void test_image_feature(void **state) {
    (void)state;
    check(clip, "image", 12, 12, CPS_OUT_FEATURE, false);
}

static void test_image_all_outputs(void **state) {
    (void)state;
    check(clip, "image", 12, 12, 31, false);
}

static void test_image_of_other_size(void **state) {
    (void)state;
    check(clip, "image", 8, 20, CPS_OUT_PROJECTED, false);
}

static void test_text_feature(void **state) {
    (void)state;
    check(clip, "text", 0, 0, CPS_OUT_FEATURE, false);
}

static void test_text_all_outputs(void **state) {
    (void)state;
    check(clip, "text", 0, 0, 31, false);
}

static void test_dino_drops_paths(void **state) {
    (void)state;
    check(dino, "ssl", 12, 12, CPS_OUT_POOLED, true);
    check(dino, "ssl", 12, 12, CPS_OUT_POOLED | CPS_OUT_TOKENS, true);
}

static void test_dino_local_crop(void **state) {
    (void)state;
    check(dino, "ssl", 8, 8, CPS_OUT_POOLED, false);
}

/* A parameter's gradient does not depend on what else learns, and the rest gets none. */
static void test_frozen_part_gets_none(void **state) {
    (void)state;
    subject whole, part;
    start(&whole, clip, "image");
    start(&part, clip, "image");
    whole.outputs = part.outputs = CPS_OUT_FEATURE;
    whole.height = whole.width = part.height = part.width = 12;
    const char *top[] = {"visual.transformer.resblocks.1.mlp.*", "visual.proj"};
    cps_params *params = cps_model_params(part.model);
    assert_int_equal(cps_params_set_train(params, top, 2), CPS_OK);
    backward(&whole);
    backward(&part);
    int32_t learning = 0;
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        const cps_param *param = cps_params_at(params, i);
        for (int64_t k = 0; k < param->count; k++) {
            const cps_real seen = part.grads[param->offset + k];
            assert_true(param->learns ? seen == whole.grads[param->offset + k] : seen == 0);
        }
        learning += param->learns;
    }
    assert_int_equal(learning, 5);
    end(&whole);
    end(&part);
}

int main(void) {
    cps_gemm_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_image_feature),       cmocka_unit_test(test_image_all_outputs),
        cmocka_unit_test(test_image_of_other_size), cmocka_unit_test(test_text_feature),
        cmocka_unit_test(test_text_all_outputs),    cmocka_unit_test(test_dino_drops_paths),
        cmocka_unit_test(test_dino_local_crop),     cmocka_unit_test(test_frozen_part_gets_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
