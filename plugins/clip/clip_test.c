/* clip through the engine, in double: loss and scale gradient against the dense formula of clip.md
 * on features made apart, the whole gradient against central differences, bounds, the same on other
 * grains. */
#include "tests/ranks/engine.h"

enum { ROWS = 16, WIDTH = 8 };

static const engine_job job = {.objectives = "[{\"name\":\"clip\",\"options\":{}}]",
                               .optimizer = "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}",
                               .steps = 1};

static const engine_job equal = {.objectives =
                                     "[{\"name\":\"clip\",\"options\":{\"multi_positive\":true}}]",
                                 .optimizer = "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}",
                                 .steps = 1};

/* Texts have equal features if they are equal, and only then. */
static bool are_equal(const double *v, int i, int j) {
    double gap = 0.0;
    for (int c = 0; c < WIDTH; c++) {
        gap = fmax(gap, fabs(v[i * WIDTH + c] - v[j * WIDTH + c]));
    }
    return gap < 1e-9;
}

/* Mean of z over what counts as row i's own. */
static double mean_of_own(const double *v, const double z[ROWS], int i, bool positives) {
    double sum = 0.0, count = 0.0;
    for (int j = 0; j < ROWS; j++) {
        const bool own = positives ? are_equal(v, i, j) : i == j;
        sum += own ? z[j] : 0.0;
        count += own;
    }
    return sum / count;
}

/* 1/2 [mean row + mean column cross-entropy] of exp(s) u v^T with the diagonal as target, or all
 * rows with the same text, and its derivative by s. */
static double dense_loss(const double *u, const double *v, double s, bool positives,
                         double *d_scale_out) {
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
            const double own = mean_of_own(v, z, i, positives);
            loss += (log(total) - own) / (2.0 * ROWS);
            d_scale += (mean - own) / (2.0 * ROWS);
        }
    }
    *d_scale_out = d_scale;
    return loss;
}

static void check_dense(const engine_job *wanted_job, bool positives) {
    trial t;
    cps_step_result result;
    double u[ROWS * WIDTH], v[ROWS * WIDTH], d_scale = 0.0;
    int pairs = 0;
    ENGINE_MUST(engine_open(wanted_job, &t));
    ENGINE_MUST(engine_begin(&t));
    ENGINE_CHECK(engine_features(&t, 0, u) == ROWS && engine_features(&t, 1, v) == ROWS);
    const cps_real *scale = engine_param(&t, "logit_scale")->tensor.data;
    const double before = (double)*scale;
    ENGINE_CHECK(fabs(before - log(1.0 / 0.07)) < 1e-12);
    const double wanted = dense_loss(u, v, before, positives, &d_scale);
    for (int i = 0; i < ROWS * ROWS; i++) {
        pairs += i / ROWS < i % ROWS && are_equal(v, i / ROWS, i % ROWS);
    }
    ENGINE_CHECK(pairs > 0); /* else the two losses are one */
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(fabs(result.loss - wanted) < 1e-12 * wanted);
    ENGINE_CHECK(result.term_count == 1 && strcmp(result.term_names[0], "contrastive") == 0);
    ENGINE_CHECK(fabs((before - (double)*scale) / 0.001 - d_scale) < 1e-9);
    engine_close(&t);
}

static void test_dense(void) {
    check_dense(&job, false);
}

static void test_multi_positive(void) {
    check_dense(&equal, true);
}

static void test_gradient(void) {
    ENGINE_CHECK(engine_gradient_error(&job) < 1e-6);
    ENGINE_CHECK(engine_gradient_error(&equal) < 1e-6);
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
                                        {"multi positive", test_multi_positive},
                                        {"gradient", test_gradient},
                                        {"bounds", test_bounds},
                                        {"grains", test_grains}};
    engine_start(&argc, &argv);
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
