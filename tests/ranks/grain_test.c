/* Another grain is another order of sums and nothing else: the gradient of one step, with crops and
 * captions drawn, is the same to rounding for grains of 1, 2, 4 and 8 rows of a batch of 32. */
#include "tests/ranks/engine.h"

static void compare(const char *objectives, const char *stage, int64_t grain) {
    engine_job job = {.objectives = objectives,
                      .stage = stage,
                      .optimizer = "{\"kind\":\"sgd\",\"lr\":1000,\"momentum\":0}",
                      .steps = 1,
                      .global_batch = 32,
                      .grain = 4};
    trial t;
    ENGINE_MUST(engine_open(&job, &t));
    const int64_t count = cps_params_flat_count(cps_model_params(t.run->model));
    engine_close(&t);
    double *wanted = calloc((size_t)count, sizeof *wanted);
    double *got = calloc((size_t)count, sizeof *got);
    const double loss = engine_loss(&job, NULL, wanted);
    job.grain = grain;
    const double other = engine_loss(&job, NULL, got);
    double norm = 0.0, difference = 0.0;
    for (int64_t i = 0; i < count; i++) {
        norm += wanted[i] * wanted[i];
        difference += (got[i] - wanted[i]) * (got[i] - wanted[i]);
    }
    const double error = sqrt(difference / norm);
    if (!(norm > 0.0 && error <= 1e-5 && fabs(other - loss) <= 1e-6 * fabs(loss))) {
        fprintf(stderr, "%s: grains of %d and 4 rows: gradients differ by %.3g, losses by %.3g\n",
                objectives, (int)grain, error, other - loss);
        the_engine.failures++;
    }
    if (cps_comm_rank(the_engine.comm) == 0) {
        printf("grains of %d and 4 rows: gradients differ by %.2g\n", (int)grain, error);
    }
    free(wanted);
    free(got);
}

static void test_clip(void) {
    compare("[{\"name\":\"clip\",\"options\":{}}]", NULL, 1);
    compare("[{\"name\":\"clip\",\"options\":{}}]", NULL, 2);
    compare("[{\"name\":\"clip\",\"options\":{}}]", NULL, 8);
}

static void test_replayed(void) {
    compare("[{\"name\":\"clip\",\"options\":{}}]", ", \"activation_budget_mb\":0", 8);
}

static void test_sigmoid(void) {
    compare("[{\"name\":\"sigmoid\",\"options\":{}}]", NULL, 8);
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {
        {"clip", test_clip},
        {"clip, recordings made again", test_replayed},
        {"sigmoid", test_sigmoid},
    };
    engine_start(&argc, &argv);
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
