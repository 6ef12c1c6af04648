/* The memory of agriclip.dino's published head: 65,536 outputs, hidden layers of 2,048, a
 * bottleneck of 256, batches of 64 images in one grain. Planned bytes of the activations by outputs
 * and crops (the tower is tiny, so that they are those of the head), beside the logits of all
 * crops, which do not exist at once. Then two steps with the published 2 + 8 crops: what the
 * process took at most, beside what the run plans for it, and the time of the second. */
#include "report/timing.h"
#include "tests/ranks/engine.h"

enum { IMAGES = 64, FULL = 65536, SMALL = 4096, MOST_LOCAL = 8 };
static const double mib = 1048576.0;

static char *objectives(int64_t classes, int local_crops) {
    return cps_format("[{\"name\":\"agriclip.dino\",\"options\":{\"K\":%lld,\"local_crops\":%d,"
                      "\"freeze_last_layer\":0}}]",
                      (long long)classes, local_crops);
}

static void open_stage(int64_t classes, int local_crops, trial *t) {
    char *text = objectives(classes, local_crops);
    const engine_job job = {.objectives = text,
                            .shards = "many.h5",
                            .steps = 2,
                            .global_batch = IMAGES,
                            .grain = IMAGES,
                            .optimizer = "{\"kind\":\"adamw\",\"lr\":1e-4}"};
    ENGINE_MUST(engine_open(&job, t));
    free(text);
}

static double planned_mib(int64_t classes, int local_crops) {
    trial t;
    open_stage(classes, local_crops, &t);
    const double bytes = (double)t.run->stages[0].memory.total_bytes;
    engine_close(&t);
    return bytes / mib;
}

static void report_plan(void) {
    double at[2] = {0.0, 0.0}; /* what the larger head takes more, with fewest and most crops */
    printf("agriclip.dino, %d images a grain: planned activations, and logits of all crops\n",
           IMAGES);
    for (int local = 0; local <= MOST_LOCAL; local += 4) {
        const double small = planned_mib(SMALL, local), full = planned_mib(FULL, local);
        const double logits = (double)(2 + local) * IMAGES * FULL * sizeof(cps_real) / mib;
        at[local > 0] = full - small;
        printf("    %2d crops    K = %d: %.0f MiB, K = %d: %.0f MiB; logits of these: %.0f MiB\n",
               2 + local, SMALL, small, FULL, full, logits);
    }
    printf("    8 crops more add %.1f MiB to what %d outputs more take (wanted at most 1: %s)\n",
           at[1] - at[0], FULL - SMALL, at[1] - at[0] <= 1.0 ? "ok" : "ABOVE");
}

static void report_steps(void) {
    trial t;
    cps_step_result result;
    open_stage(FULL, MOST_LOCAL, &t);
    ENGINE_MUST(engine_begin(&t));
    for (int step = 0; step < 2; step++) {
        ENGINE_MUST(engine_step(&t, &result));
        ENGINE_CHECK(!result.skipped);
    }
    const cps_memory_plan plan = cps_loop_memory(t.loop, 1);
    const double peak = (double)cps_peak_memory_bytes() / mib,
                 wanted = (double)plan.total_bytes / mib;
    printf(
        "    a step of 10 crops, K = %d: %.2f s on %d threads; the process took %.0f MiB, planned "
        "are %.0f (weights %.0f, gradients and optimizer %.0f, activations %.0f): %s\n",
        FULL, result.seconds, (int)cps_pool_threads(), peak, wanted,
        (double)plan.weights_bytes / mib, (double)plan.update_bytes / mib,
        (double)plan.step_bytes / mib, peak <= wanted ? "ok" : "ABOVE");
    engine_close(&t);
}

int main(int argc, char **argv) {
    engine_start(&argc, &argv);
    engine_shard("many.h5", 0, 2 * IMAGES, 0);
    report_plan();
    report_steps();
    return engine_end();
}
