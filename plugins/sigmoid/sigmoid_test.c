/* sigmoid through the engine, in double: loss and the gradients of scale and bias against the dense
 * formula of sigmoid.md on features made apart, the whole gradient against central differences,
 * first values. */
#include "tests/ranks/engine.h"

enum { ROWS = 16, WIDTH = 8 };

static const engine_job job = {.objectives =
                                   "[{\"name\":\"sigmoid\",\"options\":{\"init_bias\":-2}}]",
                               .optimizer = "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}",
                               .steps = 1};

/* (1/N) sum_ij log(1 + exp(-y_ij (exp(s) u_i.v_j + b))), y = 1 on the diagonal, -1 elsewhere;
 * derivatives by s and b. */
static double dense_loss(const double *u, const double *v, double s, double b, double *d_scale_out,
                         double *d_bias_out) {
    double loss = 0.0, d_scale = 0.0, d_bias = 0.0;
    for (int i = 0; i < ROWS; i++) {
        for (int j = 0; j < ROWS; j++) {
            double z = 0.0;
            for (int c = 0; c < WIDTH; c++) {
                z += exp(s) * u[i * WIDTH + c] * v[j * WIDTH + c];
            }
            const double y = i == j ? 1.0 : -1.0, miss = exp(-y * (z + b));
            loss += log1p(miss) / ROWS;
            d_scale += -y * miss / (1.0 + miss) * z / ROWS;
            d_bias += -y * miss / (1.0 + miss) / ROWS;
        }
    }
    *d_scale_out = d_scale;
    *d_bias_out = d_bias;
    return loss;
}

static void test_dense(void) {
    trial t;
    cps_step_result result;
    double u[ROWS * WIDTH], v[ROWS * WIDTH], d_scale = 0.0, d_bias = 0.0;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(engine_begin(&t));
    ENGINE_CHECK(engine_features(&t, 0, u) == ROWS && engine_features(&t, 1, v) == ROWS);
    const cps_real *scale = engine_param(&t, "logit_scale")->tensor.data,
                   *bias = engine_param(&t, "logit_bias")->tensor.data;
    const double before = (double)*scale, bias_before = (double)*bias;
    const double wanted = dense_loss(u, v, before, bias_before, &d_scale, &d_bias);
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(fabs(result.loss - wanted) < 1e-12 * wanted);
    ENGINE_CHECK(fabs((before - (double)*scale) / 0.001 - d_scale) < 1e-9);
    ENGINE_CHECK(fabs((bias_before - (double)*bias) / 0.001 - d_bias) < 1e-9);
    engine_close(&t);
}

static void test_gradient(void) {
    ENGINE_CHECK(engine_gradient_error(&job) < 1e-6);
}

/* Without options: scale 10, bias -10, as in the paper; neither decays. */
static void test_first_values(void) {
    static const engine_job plain = {.objectives = "[{\"name\":\"sigmoid\",\"options\":{}}]",
                                     .steps = 1};
    trial t;
    ENGINE_MUST(engine_open(&plain, &t));
    const cps_param *scale = engine_param(&t, "logit_scale"),
                    *bias = engine_param(&t, "logit_bias");
    ENGINE_CHECK(fabs((double)*(const cps_real *)scale->tensor.data - log(10.0)) < 1e-12);
    ENGINE_CHECK((double)*(const cps_real *)bias->tensor.data == -10.0);
    ENGINE_CHECK(!scale->spec.decay && !bias->spec.decay && scale->learns && bias->learns);
    engine_close(&t);
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {
        {"dense", test_dense}, {"gradient", test_gradient}, {"first values", test_first_values}};
    engine_start(&argc, &argv);
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
