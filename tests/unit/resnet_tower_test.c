/* Residual network towers: names and sizes of torchvision's, values against PyTorch's own
 * operations, batch norm's two modes and running statistics. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/json.h"
#include "model/model.h"
#include "tensor/gemm.h"

typedef struct subject {
    cps_model *model;
    cps_tower *tower, *teacher;
    cps_arena *arena;
    cps_tape *tape;
} subject;

static cps_model *make_model(const char *text) {
    cps_json *spec = NULL;
    cps_model *model = NULL;
    assert_int_equal(cps_json_parse(text, strlen(text), "test", &spec), CPS_OK);
    const cps_status status = cps_model_create(spec, 0, 0, &model);
    cps_json_destroy(spec);
    if (status != CPS_OK) {
        print_message("%s\n", cps_fail_message());
        return NULL;
    }
    return model;
}

static subject start(void) {
    subject s = {.model = make_model("{\"towers\":{\"ssl\":{\"kind\":\"resnet\",\"layers\":14,"
                                     "\"width\":64,\"image_size\":33,\"embed_dim\":5},"
                                     "\"ssl.teacher\":{\"ema_of\":\"ssl\"}}}")};
    assert_non_null(s.model);
    s.tower = cps_model_tower(s.model, "ssl");
    s.teacher = cps_model_tower(s.model, "ssl.teacher");
    assert_int_equal(cps_params_allocate(cps_model_params(s.model), 1), CPS_OK);
    assert_int_equal(cps_arena_create("test", (size_t)1 << 26, true, &s.arena), CPS_OK);
    assert_int_equal(cps_tape_create(s.arena, CPS_TAPE_PLAIN, NULL, &s.tape), CPS_OK);
    return s;
}

static void end(subject *s) {
    cps_tape_destroy(s->tape);
    cps_arena_destroy(s->arena);
    cps_model_destroy(s->model);
}

/* Values that Python makes as well: p counts the tower's parameters, k the elements. */
static void fill(subject *s) {
    int32_t count = 0;
    const int32_t *indices = cps_tower_params(s->tower, &count);
    for (int32_t p = 0; p < count; p++) {
        const cps_param *param = cps_params_at(cps_model_params(s->model), indices[p]);
        cps_real *values = param->tensor.data;
        for (int64_t k = 0; k < param->count; k++) {
            const double wave = sin(0.7 * (double)k + (double)p);
            double value = 0.1 * wave; /* shifts and running means */
            if (param->spec.rank > 1) {
                value = wave * sqrt(2.0 / (double)(param->count / param->spec.shape[0]));
            } else if (strstr(param->name, "running_var") != NULL) {
                value = 1 + 0.5 * wave;
            } else if (strstr(param->name, ".weight") != NULL) {
                value = 1 + 0.1 * wave;
            }
            values[k] = (cps_real)value;
        }
    }
}

static const cps_real *forward(subject *s, const cps_tower *tower, bool batch, double *moments,
                               uint32_t output) {
    enum { B = 2, SIDE = 33 };
    const int64_t shape[4] = {B, 3, SIDE, SIDE};
    cps_tape_reset(s->tape);
    cps_tensor *image = cps_tape_tensor(s->tape, CPS_REAL, 4, shape);
    for (int64_t i = 0; i < B * 3 * SIDE * SIDE; i++) {
        ((cps_real *)image->data)[i] = (cps_real)sin(0.05 * (double)i + 0.3 * (double)(i % 7));
    }
    const cps_tower_input input = {.image = image, .batch_statistics = batch, .moments = moments};
    cps_tower_output out = {0};
    assert_int_equal(cps_tower_forward(tower, s->tape, &input, output, &out), CPS_OK);
    return output == CPS_OUT_POOLED ? out.pooled->data : out.projected->data;
}

static void expect(const cps_real *got, const double *wanted, int count) {
    for (int i = 0; i < count; i++) {
        if (!(fabs((double)got[i] - wanted[i]) < 2e-4)) {
            fail_msg("value %d is %.8g, wanted %.8g", i, (double)got[i], wanted[i]);
        }
    }
}

/* Made with torch.nn.functional (conv2d, batch_norm, max_pool2d, relu) in double. */
static void test_values(void **state) {
    (void)state;
    static const double training[] = {0.8644978302, 0.6806802117, 0.8186436325,
                                      0.2547725059, 0.7701667051, 1.062248533};
    static const double evaluation[] = {0.2924637288, 1.280501643, 0.428916132,
                                        1.537803135,  0.5939711,   1.647618294};
    static const double projected[] = {1.80773595, 1.106641258, -0.1149241093, -1.282438872,
                                       -1.846802595};
    static const double mean_after[] = {0.09861092496, 0.07672231764, 0.02278488114,
                                        -0.03783174415},
                        variance_after[] = {1.188745315, 0.8849758349, 0.6115030534, 0.4962495163};
    subject s = start();
    fill(&s);
    const int64_t count = cps_tower_moment_count(s.tower);
    double *moments = calloc((size_t)count, sizeof *moments);
    assert_non_null(moments);
    expect(forward(&s, s.tower, false, NULL, CPS_OUT_POOLED), evaluation, 6);
    expect(forward(&s, s.tower, true, moments, CPS_OUT_POOLED), training, 6);
    expect(forward(&s, s.tower, true, NULL, CPS_OUT_PROJECTED), projected, 5);
    cps_tower_take_moments(s.tower, moments);
    cps_params *params = cps_model_params(s.model);
    const char *const names[] = {"ssl.layer2.0.bn2.running_mean", "ssl.layer2.0.bn2.running_var"};
    const double *const wanted[] = {mean_after, variance_after};
    for (int i = 0; i < 2; i++) {
        const int32_t index = cps_params_find(params, names[i]);
        assert_true(index >= 0);
        expect(cps_params_at(params, index)->tensor.data, wanted[i], 4);
    }
    free(moments);
    end(&s);
}

/* The averaged copy follows weights and keeps running statistics of its own. */
static void test_teacher(void **state) {
    (void)state;
    subject s = start();
    cps_params *params = cps_model_params(s.model);
    const cps_param *mean =
        cps_params_at(params, cps_params_find(params, "ssl.teacher.bn1.running_mean"));
    const cps_param *weight =
        cps_params_at(params, cps_params_find(params, "ssl.teacher.conv1.weight"));
    assert_int_equal(mean->spec.kind, CPS_PARAM_BUFFER);
    assert_int_equal(weight->spec.kind, CPS_PARAM_EMA);
    double *moments = calloc((size_t)cps_tower_moment_count(s.teacher), sizeof *moments);
    assert_non_null(moments);
    (void)forward(&s, s.teacher, true, moments, CPS_OUT_POOLED);
    cps_tower_take_moments(s.teacher, moments);
    assert_true(((const cps_real *)mean->tensor.data)[0] != 0);
    const cps_param *own = cps_params_at(params, cps_params_find(params, "ssl.bn1.running_mean"));
    assert_true(((const cps_real *)own->tensor.data)[0] == 0);
    free(moments);
    end(&s);
}

/* torchvision's resnet50 has 25,557,032 parameters, 2,049,000 of them in its classifier. */
static void test_resnet50(void **state) {
    (void)state;
    cps_model *model =
        make_model("{\"towers\":{\"ssl\":{\"kind\":\"resnet\",\"image_size\":224}}}");
    assert_non_null(model);
    cps_params *params = cps_model_params(model);
    assert_int_equal(cps_params_elements(params, "*"), 25557032 - 2049000);
    assert_true(cps_params_find(params, "ssl.layer4.2.bn3.running_var") >= 0);
    assert_true(cps_params_find(params, "ssl.layer3.0.downsample.1.bias") >= 0);
    const cps_tower *tower = cps_model_tower(model, "ssl");
    assert_int_equal(cps_tower_output_width(tower, CPS_OUT_POOLED), 2048);
    /* 4.09 G multiply-adds, its usual figure, less the classifier. */
    assert_true(fabs(cps_tower_flop(tower, 1, 0) / 2e9 - 4.087) < 0.005);
    cps_json *spec = cps_model_describe(model);
    cps_model *again = NULL;
    assert_int_equal(cps_model_create(spec, 0, 0, &again), CPS_OK);
    cps_json_destroy(spec);
    cps_model_destroy(again);
    cps_model_destroy(model);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const specs[] = {
        "{\"towers\":{\"ssl\":{\"kind\":\"resnet\",\"image_size\":64,\"layers\":34}}}",
        "{\"towers\":{\"ssl\":{\"kind\":\"resnet\",\"image_size\":64,\"width\":40}}}",
        "{\"towers\":{\"ssl\":{\"kind\":\"resnet\",\"image_size\":64,\"patch\":8}}}",
        "{\"towers\":{\"ssl\":{\"kind\":\"resnet\"}}}"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        assert_null(make_model(specs[i]));
    }
    subject s = start();
    const int64_t shape[4] = {1, 3, 33, 33};
    const cps_tower_input input = {.image = cps_tape_tensor(s.tape, CPS_REAL, 4, shape)};
    cps_tower_output out;
    assert_int_equal(cps_tower_forward(s.tower, s.tape, &input, CPS_OUT_TOKENS, &out),
                     CPS_ERR_USAGE);
    end(&s);
}

int main(void) {
    cps_gemm_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_teacher),
        cmocka_unit_test(test_resnet50), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
