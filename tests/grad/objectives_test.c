/* Gradients that objectives of every kind send through the engine, in double: against central
 * differences of the loss, and against each other where two ways must give the same. */
#include "tests/ranks/engine.h"

#define SGD "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}"

static int64_t flat_count(const engine_job *job) {
    int64_t count = 0;
    trial t;
    ENGINE_MUST(engine_open(job, &t));
    free(engine_values(&t, &count));
    engine_close(&t);
    return count;
}

/* Gradient of a job of one step; *loss_out. */
static double *gradient_of(const engine_job *job, double *loss_out, int64_t *count_out) {
    *count_out = flat_count(job);
    double *gradient = calloc((size_t)*count_out, sizeof *gradient);
    *loss_out = engine_loss(job, NULL, gradient);
    return gradient;
}

static void test_differences(void) {
    static const engine_job jobs[] = {
        {.objectives = "[{\"name\":\"ce\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "grains",
         .optimizer = SGD,
         .steps = 1},
        {.objectives = "[{\"name\":\"ema\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "grains",
         .optimizer = SGD,
         .steps = 1},
        {.objectives = "[{\"name\":\"buffer\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "grains",
         .optimizer = SGD,
         .steps = 1},
        {.objectives = "[{\"name\":\"square\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "grains",
         .optimizer = SGD,
         .steps = 1},
        {.objectives = "[{\"name\":\"replicated\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "batch",
         .optimizer = SGD,
         .steps = 1},
        {.objectives = "[{\"name\":\"fixed\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "batch",
         .optimizer = SGD,
         .steps = 1},
        {.objectives = "[{\"name\":\"descent\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "ridge",
         .optimizer = SGD,
         .steps = 1},
        {.objectives = "[{\"name\":\"clip\",\"options\":{}},{\"name\":\"ce\",\"plugin\":\"%s\","
                       "\"weight\":2,\"options\":{}}]",
         .plugin = "grains",
         .optimizer = SGD,
         .steps = 1},
    };
    for (size_t j = 0; j < sizeof jobs / sizeof jobs[0]; j++) {
        /* The moving average stands still while its source is moved, in a step as in these
         * differences. */
        ENGINE_CHECK(engine_gradient_holds(&jobs[j]));
    }
}

/* Gathered rows and plain operations give what the tiled loss gives. */
static void test_replicated_is_tiled(void) {
    static const engine_job tiled = {
        .objectives = "[{\"name\":\"clip\",\"options\":{}}]", .optimizer = SGD, .steps = 1};
    static const engine_job replicated = {
        .objectives = "[{\"name\":\"replicated\",\"plugin\":\"%s\",\"options\":{}}]",
        .plugin = "batch",
        .optimizer = SGD,
        .steps = 1};
    double loss[2];
    int64_t count[2];
    double *a = gradient_of(&tiled, &loss[0], &count[0]),
           *b = gradient_of(&replicated, &loss[1], &count[1]);
    ENGINE_CHECK(count[0] == count[1] && fabs(loss[0] - loss[1]) < 1e-12 * loss[0]);
    ENGINE_CHECK(engine_difference(a, b, count[0]) < 1e-9);
    free(a);
    free(b);
}

/* The gradient of a composition is the weighted sum of its parts'. */
static void test_composition_is_sum(void) {
    static const engine_job one = {
        .objectives = "[{\"name\":\"replicated\",\"plugin\":\"%s\",\"options\":{}}]",
        .plugin = "batch",
        .optimizer = SGD,
        .steps = 1};
    static const engine_job two = {.objectives =
                                       "[{\"name\":\"fixed\",\"plugin\":\"%s\",\"options\":{}}]",
                                   .plugin = "batch",
                                   .optimizer = SGD,
                                   .steps = 1};
    static const engine_job both = {
        .objectives = "[{\"name\":\"replicated\",\"plugin\":\"%s\",\"weight\":0.3,\"options\":{}},{"
                      "\"name\":\"fixed\",\"plugin\":\"%s\",\"weight\":2,\"options\":{}}]",
        .plugin = "batch",
        .optimizer = SGD,
        .steps = 1};
    double loss[3];
    int64_t count[3];
    double *a = gradient_of(&one, &loss[0], &count[0]), *b = gradient_of(&two, &loss[1], &count[1]),
           *c = gradient_of(&both, &loss[2], &count[2]);
    ENGINE_CHECK(fabs(0.3 * loss[0] + 2.0 * loss[1] - loss[2]) < 1e-12 * loss[2]);
    ENGINE_CHECK(count[0] >= count[1] && count[0] == count[2]); /* the scale comes last */
    for (int64_t i = 0; i < count[2]; i++) {
        a[i] = 0.3 * a[i] + (i < count[1] ? 2.0 * b[i] : 0.0);
    }
    ENGINE_CHECK(engine_difference(a, c, count[2]) < 1e-9);
    free(a);
    free(b);
    free(c);
}

/* Fixed texts dealt to more, fewer or unequal grains: the same loss and gradient. */
static void test_fixed_texts_by_grains(void) {
    const int64_t grains[] = {4, 16, 2, 1};
    double *first = NULL, loss = 0.0;
    int64_t count = 0;
    for (int g = 0; g < 4; g++) {
        const engine_job job = {.objectives =
                                    "[{\"name\":\"fixed\",\"plugin\":\"%s\",\"options\":{}}]",
                                .plugin = "batch",
                                .optimizer = SGD,
                                .steps = 1,
                                .grain = grains[g]};
        double other = 0.0;
        double *gradient = gradient_of(&job, &other, &count);
        if (first == NULL) {
            first = gradient;
            loss = other;
            continue;
        }
        ENGINE_CHECK(fabs(other - loss) < 1e-12 * loss);
        ENGINE_CHECK(engine_difference(gradient, first, count) < 1e-9);
        free(gradient);
    }
    free(first);
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {{"differences", test_differences},
                                        {"replicated is tiled", test_replicated_is_tiled},
                                        {"composition is a sum", test_composition_is_sum},
                                        {"fixed texts by grains", test_fixed_texts_by_grains}};
    engine_start(&argc, &argv);
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
