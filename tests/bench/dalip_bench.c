/* What DALIP costs.
 *
 * First the distance covariance at the published sizes: forward and backward beside its own matrix
 * products alone (the page's, 46 channels wide; the operation pads them), by CPU time. Wanted: half
 * of their rate.
 *
 * Then training steps of ViT-B/16's towers (224 pixels, texts of 77 positions, all of them computed
 * in both), dalip and clip in turn. Twelve layers take too long here, so towers of one and of two
 * are measured: their difference is a layer, and clip's step at twelve is clip's at two and ten of
 * those. What dalip adds does not depend on the depth: it is measured at two. Wanted: 1.25. */
#include <sys/resource.h>
#include <time.h>

#include "plugins/dalip/bdc.h"
#include "plugins/dalip/mbdc.h"
#include "tensor/tape.h"
#include "tests/ranks/engine.h"

enum { MOST_ROUNDS = 32 };

static double process_cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count) {
    double sorted[MOST_ROUNDS];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, by_value);
    return 0.5 * (sorted[(count - 1) / 2] + sorted[count / 2]);
}

/* ---- the distance covariance ---- */

enum { SAMPLES = 32, HEADS = 4, CHANNELS = 128, REDUCED = 46, WIDTH = HEADS * CHANNELS };

typedef struct covariance {
    const char *name;
    dalip_norm norm;
    int64_t positions, tokens;
    int32_t first[SAMPLES], anchor[SAMPLES];
    cps_real *y, *reduce, *gain, *bias, *d_q, *mask, *grads;
    cps_arena *arena;
    cps_tape *tape;
    /* of the products alone */
    cps_real *u, *d_y, *d_reduce, *gram;
} covariance;

static cps_real *filled(int64_t count, double about, double spread) {
    cps_real *values = malloc((size_t)count * sizeof *values);
    const cps_draw_key key = {.seed = (uint64_t)count};
    for (int64_t i = 0; values != NULL && i < count; i++) {
        values[i] = (cps_real)(about + spread * cps_draw_normal(&key, (uint64_t)i));
    }
    return values;
}

static covariance make_covariance(bool image) {
    const int64_t tokens = image ? 196 : 77;
    covariance c = {.name = image ? "image, 196 tokens" : "text, 77 tokens",
                    .norm = image ? DALIP_BATCH_NORM : DALIP_LAYER_NORM,
                    .positions = tokens + (image ? 1 : 0),
                    .tokens = tokens};
    const int64_t rows = SAMPLES * c.positions, lines = SAMPLES * tokens * HEADS,
                  entries = SAMPLES * HEADS * dalip_bdc_entries(REDUCED);
    for (int32_t b = 0; b < SAMPLES; b++) {
        c.first[b] = (int32_t)(b * c.positions) + (image ? 1 : 0);
        c.anchor[b] = image ? (int32_t)(b * c.positions) : c.first[b] + 20;
    }
    c.y = filled(rows * WIDTH, 0.0, 0.6);
    c.reduce = filled(REDUCED * CHANNELS, 0.0, image ? 0.2 : 0.05);
    c.gain = filled(REDUCED, 1.0, 0.0);
    c.bias = filled(REDUCED, 0.0, 0.0);
    c.d_q = filled(entries, 0.0, 1.0);
    c.grads = filled(rows * WIDTH + REDUCED * (CHANNELS + 2), 0.0, 0.0);
    c.mask = malloc((size_t)(SAMPLES * HEADS * (image ? REDUCED : tokens)) * sizeof *c.mask);
    for (int64_t i = 0; i < SAMPLES * HEADS * (image ? REDUCED : tokens); i++) {
        c.mask[i] = i * 2654435761 % 7 < 4 ? 2 : 0;
    }
    c.u = filled(lines * REDUCED, 0.0, 1.0);
    c.d_y = filled(rows * WIDTH, 0.0, 1.0);
    c.d_reduce = filled(SAMPLES * REDUCED * CHANNELS, 0.0, 1.0);
    c.gram = filled(SAMPLES * REDUCED * REDUCED, 0.0, 1.0);
    ENGINE_MUST(cps_arena_create("bench", (size_t)256 << 20, true, &c.arena));
    ENGINE_MUST(cps_tape_create(c.arena, CPS_TAPE_RECORD, cps_host_table(), &c.tape));
    return c;
}

static void end_covariance(covariance *c) {
    cps_real *const all[] = {c->y,    c->reduce, c->gain, c->bias,     c->d_q, c->grads,
                             c->mask, c->u,      c->d_y,  c->d_reduce, c->gram};
    cps_tape_destroy(c->tape);
    cps_arena_destroy(c->arena);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]);
    }
}

static cps_tensor *leaf(covariance *c, int64_t rows, int64_t columns, cps_real *values,
                        cps_real *grad) {
    const int64_t matrix[2] = {rows, columns};
    cps_tensor *made = cps_tape_leaf(c->tape, CPS_REAL, rows == 1 ? 1 : 2,
                                     rows == 1 ? &columns : matrix, values, grad, -1);
    made->grad_fresh = true;
    return made;
}

static void run_covariance(covariance *c) {
    const int64_t rows = SAMPLES * c->positions;
    cps_real *grad = c->grads + rows * WIDTH;
    const dalip_mbdc shape = {.samples = SAMPLES,
                              .tokens = c->tokens,
                              .heads = HEADS,
                              .channels = CHANNELS,
                              .reduced = REDUCED,
                              .first = c->first,
                              .anchor = c->anchor,
                              .norm = c->norm,
                              .norm_eps = 1e-5,
                              .eps = 1e-5,
                              .mask = c->mask,
                              .mask_tokens = c->norm == DALIP_LAYER_NORM};
    cps_tensor *q =
        dalip_mbdc_run(c->tape, &shape, leaf(c, rows, WIDTH, c->y, c->grads),
                       leaf(c, REDUCED, CHANNELS, c->reduce, grad),
                       leaf(c, 1, REDUCED, c->gain, grad + REDUCED * CHANNELS),
                       leaf(c, 1, REDUCED, c->bias, grad + REDUCED * (CHANNELS + 1)), NULL);
    cps_tape_seed(c->tape, q, c->d_q);
    ENGINE_MUST(cps_backward(c->tape, NULL, 0.0));
    cps_tape_reset(c->tape);
}

/* Those of a sample, in the order of the operation. */
static void forward_products(void *context, int64_t b) {
    covariance *c = context;
    const int64_t lines = c->tokens * HEADS, row = HEADS * REDUCED;
    cps_real *u = c->u + b * lines * REDUCED, *gram = c->gram + b * REDUCED * REDUCED;
    cps_gemm_serial(false, true, lines, REDUCED, CHANNELS, 1.0, c->y + c->first[b] * WIDTH,
                    CHANNELS, c->reduce, CHANNELS, 0.0, u, REDUCED);
    for (int64_t h = 0; h < HEADS; h++) {
        cps_gemm_serial(true, false, REDUCED, REDUCED, c->tokens, 1.0, u + h * REDUCED, row,
                        u + h * REDUCED, row, 0.0, gram, REDUCED);
    }
}
static void backward_products(void *context, int64_t b) {
    covariance *c = context;
    const int64_t lines = c->tokens * HEADS, row = HEADS * REDUCED;
    cps_real *u = c->u + b * lines * REDUCED, *gram = c->gram + b * REDUCED * REDUCED;
    cps_real *d = c->d_y + c->first[b] * WIDTH;
    for (int64_t h = 0; h < HEADS; h++) {
        cps_gemm_serial(false, false, c->tokens, REDUCED, REDUCED, 1.0, u + h * REDUCED, row, gram,
                        REDUCED, 0.0, d, row);
    }
    cps_gemm_serial(true, false, REDUCED, CHANNELS, lines, 1.0, u, REDUCED,
                    c->y + c->first[b] * WIDTH, CHANNELS, 0.0, c->d_reduce + b * REDUCED * CHANNELS,
                    CHANNELS);
    cps_gemm_serial(false, false, lines, CHANNELS, REDUCED, 1.0, u, REDUCED, c->reduce, CHANNELS,
                    0.0, d, CHANNELS);
}

static void measure_covariance(bool image) {
    enum { ROUNDS = 25, WARM_UP = 2 };
    covariance c = make_covariance(image);
    double of_all[ROUNDS], of_products[ROUNDS], ratio[ROUNDS];
    const double flop = 2.0 * SAMPLES * (double)(c.tokens * HEADS) *
                        (3.0 * REDUCED * CHANNELS + 2.0 * REDUCED * REDUCED);
    for (int i = -WARM_UP; i < ROUNDS; i++) {
        const double start = process_cpu();
        run_covariance(&c);
        const double between = process_cpu();
        cps_parallel(SAMPLES, forward_products, &c);
        cps_parallel(SAMPLES, backward_products, &c);
        const double end = process_cpu();
        if (i >= 0) {
            of_all[i] = between - start;
            of_products[i] = end - between;
            ratio[i] = of_products[i] / of_all[i];
        }
    }
    const double share = median(ratio, ROUNDS), all = median(of_all, ROUNDS),
                 products = median(of_products, ROUNDS);
    printf("distance covariance, %s: %.2f ms of CPU a sample, its products %.2f ms (%.0f GFLOP/s a "
           "core, inside %.0f): %.3f of their rate (wanted 0.50: %s)\n",
           c.name, 1e3 * all / SAMPLES, 1e3 * products / SAMPLES, 1e-9 * flop / products,
           1e-9 * flop / all, share, share >= 0.5 ? "ok" : "BELOW");
    fflush(stdout);
    end_covariance(&c);
}

/* ---- steps ---- */

enum { PAIRS = 16, GRAIN = 16, LAYERS = 12, ROUNDS = 5 };

typedef struct contestant {
    trial trial;
    int64_t positions; /* of texts in step 0 */
    double cpu[ROUNDS];
} contestant;

static void open_contestant(contestant *c, const char *objective, int layers) {
    trial *t = &c->trial;
    t->text = cps_format(
        "{\"name\":\"bench\",\"seed\":3,\"reproducible\":\"world\",\"precision\":\"fp32\","
        "\"model\":{\"embed_dim\":512,\"image\":{\"image_size\":224,\"patch\":16,\"width\":768,"
        "\"layers\":%d,\"heads\":12},\"text\":{\"width\":512,\"layers\":%d,\"heads\":8,\"context\":"
        "77}},\"tokenizer\":{\"merges\":\"%s/merges.txt\",\"context\":77},"
        "\"data\":{\"paired\":{\"shards\":[\"%s/train.h5\"]}},"
        "\"stages\":[{\"name\":\"stage1\",\"objectives\":[%s],\"epochs\":0,\"steps\":1000,"
        "\"global_batch\":%d,\"grain\":%d,\"crop\":[0.9,1],\"activation_budget_mb\":-1,"
        "\"optimizer\":{\"kind\":\"adamw\",\"lr\":1e-5,\"weight_decay\":0.2},"
        "\"schedule\":{\"kind\":\"constant\"}}],\"evaluate\":[],\"checkpoint\":{}}",
        layers, layers, the_engine.folder, the_engine.folder, objective, PAIRS, GRAIN);
    t->calls = (cps_job_calls){.context = t, .stage = engine_stage};
    ENGINE_MUST(cps_json_parse(t->text, strlen(t->text), "bench job", &t->job));
    snprintf(t->runs, sizeof t->runs, "%s/runs", the_engine.folder);
    const cps_run_options options = {.runs = t->runs, .until = -1, .threads = cps_pool_threads()};
    ENGINE_MUST(
        cps_run_open(the_engine.comm, the_engine.plugins, t->job, &t->calls, &options, &t->run));
    t->plan = t->run->stages[0].plan;
    ENGINE_MUST(cps_run_initialise(t->run));
    t->loop = calloc(1, sizeof *t->loop);
    t->loop->run = t->run;
    ENGINE_MUST(engine_begin(t));
    for (int64_t grain = 0; grain < t->plan->grains; grain++) {
        const cps_batch *batch = NULL;
        ENGINE_MUST(cps_loader_grain(t->loop->loader, 0, grain, &batch));
        const cps_input_rows *texts = &batch->inputs[t->plan->views[1].input];
        c->positions += texts->offsets[texts->rows];
    }
}

static double cpu_of_step(contestant *c) {
    cps_step_result result;
    const double start = process_cpu();
    ENGINE_MUST(engine_step(&c->trial, &result));
    ENGINE_CHECK(!result.skipped);
    return process_cpu() - start;
}

/* Means CPU time: other work on the machine does not count. */
static void measure_steps(void) {
    static contestant c[3]; /* clip of one layer and of two, dalip of two */
    char *clip = cps_format("{\"name\":\"encode\",\"plugin\":\"%s\",\"options\":{\"contrast\":true,"
                            "\"all_positions\":true}}",
                            engine_plugin("encode"));
    open_contestant(&c[0], clip, 1);
    open_contestant(&c[1], clip, 2);
    open_contestant(&c[2], "{\"name\":\"dalip\",\"options\":{}}", 2);
    free(clip);
    for (int round = -1; round < ROUNDS; round++) {
        for (int i = 0; i < 3; i++) {
            const double cpu = cpu_of_step(&c[i]);
            if (round >= 0) {
                c[i].cpu[round] = cpu;
            }
        }
    }
    const double one = median(c[0].cpu, ROUNDS), two = median(c[1].cpu, ROUNDS),
                 dalip = median(c[2].cpu, ROUNDS);
    const double whole = one + (LAYERS - 1) * (two - one);
    const double ratio = 1.0 + (dalip - two) / whole;
    printf("steps of ViT-B/16 towers, %d pairs, %lld and %lld text positions, CPU time:\n"
           "    clip, layers 1 and 2      %.2f and %.2f s; %d layers by that %.2f s\n"
           "    dalip, 2 layers           %.2f s: %.2f s more\n"
           "    dalip / clip, %d layers   %.3f (wanted at most 1.25: %s)\n",
           PAIRS, (long long)c[2].positions, (long long)c[1].positions, one, two, LAYERS, whole,
           dalip, dalip - two, LAYERS, ratio, ratio <= 1.25 ? "ok" : "ABOVE");
    ENGINE_CHECK(c[1].positions == c[2].positions);
    for (int i = 0; i < 3; i++) {
        engine_close(&c[i].trial);
    }
}

int main(int argc, char **argv) {
    engine_start(&argc, &argv);
    printf("DALIP, threads %d, BLAS family %s\n", cps_pool_threads(), cps_gemm_core_name());
    measure_covariance(true);
    measure_covariance(false);
    measure_steps();
    return engine_end();
}
