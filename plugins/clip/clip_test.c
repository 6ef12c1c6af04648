/* clip through the engine, in double: loss and scale gradient against the dense formula of clip.md
 * on features made apart, the whole gradient against central differences, bounds, the same on other
 * grains. */
#include "tests/ranks/engine.h"

enum { ROWS = 16, WIDTH = 8 };

static const engine_job job = {.objectives = "[{\"name\":\"clip\",\"options\":{}}]",
                               .optimizer = "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}",
                               .steps = 1};

/* 1/2 [mean row + mean column cross-entropy] of exp(s) u v^T with the diagonal as target, and its
 * derivative by s. */
static double dense_loss(const double *u, const double *v, double s, double *d_scale_out) {
    double loss = 0.0, d_scale = 0.0;
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < ROWS; i++) {
            double z[ROWS], total = 0.0, mean = 0.0;
            for (int j = 0; j < ROWS; j++) {
                const double *a = side == 0 ? u + i * WIDTH : u + j * WIDTH,
                             *b = side == 0 ? v + j * WIDTH : v + i * WIDTH;
                z[j] = 0.0;
                for (int c = 0; c < WIDTH; c++) {
                    z[j] += exp(s) * a[c] * b[c];
                }
                total += exp(z[j]);
            }
            for (int j = 0; j < ROWS; j++) {
                mean += exp(z[j]) / total * z[j];
            }
            loss += (log(total) - z[i]) / (2.0 * ROWS);
            d_scale += (mean - z[i]) / (2.0 * ROWS);
        }
    }
    *d_scale_out = d_scale;
    return loss;
}

static void test_dense(void) {
    trial t;
    cps_step_result result;
    double u[ROWS * WIDTH], v[ROWS * WIDTH], d_scale = 0.0;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(engine_begin(&t));
    ENGINE_CHECK(engine_features(&t, 0, u) == ROWS && engine_features(&t, 1, v) == ROWS);
    const cps_real *scale = engine_param(&t, "logit_scale")->tensor.data;
    const double before = (double)*scale;
    ENGINE_CHECK(fabs(before - log(1.0 / 0.07)) < 1e-12);
    const double wanted = dense_loss(u, v, before, &d_scale);
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(fabs(result.loss - wanted) < 1e-12 * wanted);
    ENGINE_CHECK(result.term_count == 1 && strcmp(result.term_names[0], "contrastive") == 0);
    ENGINE_CHECK(fabs((before - (double)*scale) / 0.001 - d_scale) < 1e-9);
    engine_close(&t);
}

static void test_gradient(void) {
    ENGINE_CHECK(engine_gradient_error(&job) < 1e-6);
}

/* The scale starts where the option says and never leaves [1, max_scale]. */
static void test_bounds(void) {
    static const engine_job low = {
        .objectives = "[{\"name\":\"clip\",\"options\":{\"init_scale\":3,\"max_scale\":3.0001}}]",
        .optimizer = "{\"kind\":\"sgd\",\"lr\":1000,\"momentum\":0}",
        .stage = ", \"train\":[\"logit_scale\"]",
        .steps = 3};
    trial t;
    cps_step_result result;
    bool moved = false;
    ENGINE_MUST(engine_open(&low, &t));
    const cps_real *scale = engine_param(&t, "logit_scale")->tensor.data;
    ENGINE_CHECK(fabs((double)*scale - log(3.0)) < 1e-12);
    ENGINE_CHECK(!engine_param(&t, "logit_scale")->spec.decay);
    ENGINE_MUST(engine_begin(&t));
    while (t.done < 3) {
        ENGINE_MUST(engine_step(&t, &result));
        moved = moved || fabs((double)*scale - log(3.0)) > 1e-6;
        ENGINE_CHECK((double)*scale >= 0.0 && (double)*scale <= log(3.0001));
    }
    ENGINE_CHECK(moved);
    engine_close(&t);
}

/* Grains are memory, not mathematics: other grains give the same gradient. */
static void test_grains(void) {
    double *gradients[3] = {NULL};
    const int64_t grains[3] = {4, 8, 2};
    int64_t count = 0;
    trial t;
    ENGINE_MUST(engine_open(&job, &t));
    free(engine_values(&t, &count));
    engine_close(&t);
    for (int g = 0; g < 3; g++) {
        engine_job other = job;
        other.grain = grains[g];
        other.parts = g == 2 ? 3 : 32;
        other.stage = g == 1 ? ", \"activation_budget_mb\":0" : NULL;
        gradients[g] = calloc((size_t)count, sizeof(double));
        engine_loss(&other, NULL, gradients[g]);
        ENGINE_CHECK(engine_difference(gradients[g], gradients[0], count) < 1e-10);
    }
    for (int g = 0; g < 3; g++) {
        free(gradients[g]);
    }
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {{"dense", test_dense},
                                        {"gradient", test_gradient},
                                        {"bounds", test_bounds},
                                        {"grains", test_grains}};
    engine_start(&argc, &argv);
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
