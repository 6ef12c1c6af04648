/* agriclip.align through the engine, in double: closed forms against their normal equations,
 * gradients against differences, scales in and out, samples kept apart, what is reported,
 * refusals. */
#include "eval/zeroshot.h"
#include "tests/ranks/engine.h"
#include "train/embed.h"

enum { N = 12, M = 8, RECORDS = 150, READABLE = 135 }; /* of bad.h5 */
static const double target = 4.5;

#define SGD "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}"
#define ALIGN(rest) "[{\"name\":\"agriclip.align\",\"options\":{\"from\":\"ssl\"" rest "}}]"
#define CLOSED(rest)                                                                               \
    { .objectives = ALIGN(rest), .shards = "bad.h5", .steps = -1 }
#define STEPS(count, rest)                                                                         \
    { .objectives = ALIGN(rest), .shards = "bad.h5", .steps = (count), .optimizer = SGD }

/* ---- a stage, part by part ---- */

static void begin(const engine_job *job, trial *t) {
    ENGINE_MUST(engine_open(job, t));
    ENGINE_MUST(engine_frozen(t));
}

static void fit(trial *t, bool finish) {
    bool ends = false;
    ENGINE_MUST(cps_loop_fit(t->loop, finish, &ends));
    ENGINE_CHECK(finish || ends == (t->plan->steps == 0));
}

static void run_steps(trial *t) {
    cps_step_result result;
    ENGINE_MUST(engine_begin(t));
    while (t->done < t->plan->steps) {
        ENGINE_MUST(engine_step(t, &result));
        ENGINE_CHECK(!result.skipped);
    }
}

/* W and b of now, [M][N + 1]. */
typedef struct map {
    double rows[M][N + 1];
} map;

static map map_of(trial *t) {
    const cps_real *weight = engine_param(t, "align.W")->tensor.data,
                   *bias = engine_param(t, "align.b")->tensor.data;
    map out;
    for (int c = 0; c < M; c++) {
        for (int i = 0; i < N; i++) {
            out.rows[c][i] = (double)weight[c * N + i];
        }
        out.rows[c][N] = (double)bias[c];
    }
    return out;
}

static double map_difference(const map *a, const map *b) {
    return engine_difference(&a->rows[0][0], &b->rows[0][0], M * (N + 1));
}

static double scalar(trial *t, const char *name) {
    return (double)*(const cps_real *)engine_param(t, name)->tensor.data;
}

/* ---- the problem, made here ---- */

typedef struct problem {
    int64_t rows;
    double x[RECORDS][N + 1], y[RECORDS][M]; /* scaled; x with a column of ones */
    double scales[2];
} problem;

static double variance_scale(const double *values, int64_t rows, int64_t width, int64_t stride) {
    double mean = 0.0, variance = 0.0;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t c = 0; c < width; c++) {
            mean += values[i * stride + c] / (double)(rows * width);
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t c = 0; c < width; c++) {
            const double gap = values[i * stride + c] - mean;
            variance += gap * gap / (double)(rows * width);
        }
    }
    return sqrt(target / variance);
}

/* As agriclip.md says who is kept apart. */
static bool is_held(uint64_t sample_id, double holdout, uint64_t seed) {
    const cps_draw_key key = {
        .seed = seed, .position = sample_id, .module = cps_name_key("align.holdout")};
    return cps_draw_uniform(&key, 0) < holdout;
}

/* The readable samples that are (not) kept apart. */
static problem make_problem(const trial *t, double holdout, uint64_t seed, bool held) {
    static problem p;
    const cps_frozen_rows x = cps_frozen_view(t->plan->frozen, 0),
                          y = cps_frozen_view(t->plan->frozen, 1);
    p = (problem){0};
    for (int64_t i = 0; i < x.records; i++) {
        cps_place place;
        cps_stream_stored(x.stream, i, &place);
        if (!x.valid[i] || is_held(place.sample_id, holdout, seed) != held) {
            continue;
        }
        for (int c = 0; c < N; c++) {
            p.x[p.rows][c] = (double)x.values[i * N + c];
        }
        p.x[p.rows][N] = 1.0;
        for (int c = 0; c < M; c++) {
            p.y[p.rows][c] = (double)y.values[i * M + c];
        }
        p.rows++;
    }
    return p;
}

static void scale_problem(problem *p, const double scales[2]) {
    for (int64_t i = 0; i < p->rows; i++) {
        for (int c = 0; c < N; c++) {
            p->x[i][c] *= scales[0];
        }
        for (int c = 0; c < M; c++) {
            p->y[i][c] *= scales[1];
        }
    }
}

/* Of the samples learnt from, scaled by their own variance. */
static problem learning_problem(const trial *t, double holdout, uint64_t seed) {
    problem p = make_problem(t, holdout, seed, false);
    p.scales[0] = variance_scale(&p.x[0][0], p.rows, N, N + 1);
    p.scales[1] = variance_scale(&p.y[0][0], p.rows, M, M);
    scale_problem(&p, p.scales);
    return p;
}

static double residual(const problem *p, const map *s, int64_t i, int c) {
    double gap = -p->y[i][c];
    for (int k = 0; k <= N; k++) {
        gap += s->rows[c][k] * p->x[i][k];
    }
    return gap;
}

/* Largest element of A'(A S - Y') + lambda S over the largest of A'Y'. */
static double normal_error(const problem *p, const map *s, double lambda) {
    double most = 0.0, size = 0.0;
    for (int k = 0; k <= N; k++) {
        for (int c = 0; c < M; c++) {
            double sum = lambda * s->rows[c][k], right = 0.0;
            for (int64_t i = 0; i < p->rows; i++) {
                sum += p->x[i][k] * residual(p, s, i, c);
                right += p->x[i][k] * p->y[i][c];
            }
            most = fmax(most, fabs(sum));
            size = fmax(size, fabs(right));
        }
    }
    return most / size;
}

static double mean_squared(const problem *p, const map *s) {
    double sum = 0.0;
    for (int64_t i = 0; i < p->rows; i++) {
        for (int c = 0; c < M; c++) {
            sum += residual(p, s, i, c) * residual(p, s, i, c);
        }
    }
    return sum / (double)(p->rows * M);
}

static double r_squared(const problem *p, const map *s) {
    double mean = 0.0, variance = 0.0;
    for (int64_t i = 0; i < p->rows * M; i++) {
        mean += (&p->y[0][0])[i] / (double)(p->rows * M);
    }
    for (int64_t i = 0; i < p->rows * M; i++) {
        variance += ((&p->y[0][0])[i] - mean) * ((&p->y[0][0])[i] - mean) / (double)(p->rows * M);
    }
    return 1.0 - mean_squared(p, s) / variance;
}

/* ---- closed forms ---- */

static void test_closed_forms(void) {
    static const struct {
        engine_job job;
        double lambda; /* below 0: of weight decay 5e-4 or what is named */
    } cases[] = {
        {CLOSED(",\"solver\":\"ols\""), 0.0},
        {CLOSED(",\"solver\":\"ridge\",\"lambda\":3.5"), 3.5},
        {CLOSED(",\"solver\":\"ridge\""), 1.0},
        {CLOSED(",\"solver\":\"exact\""), 0.5 * 5e-4 * READABLE * M},
        {CLOSED(",\"solver\":\"exact\",\"weight_decay\":0.25"), 0.5 * 0.25 * READABLE * M}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        trial t;
        begin(&cases[i].job, &t);
        fit(&t, false);
        const problem p = learning_problem(&t, 0.0, 0);
        const map scaled = map_of(&t);
        ENGINE_CHECK(p.rows == READABLE);
        ENGINE_CHECK(normal_error(&p, &scaled, cases[i].lambda) < 1e-11);
        ENGINE_CHECK(cases[i].lambda == 0.0 || normal_error(&p, &scaled, 0.0) > 1e-6);
        ENGINE_CHECK(fabs(scalar(&t, "align.from_scale") / p.scales[0] - 1.0) < 1e-12);
        ENGINE_CHECK(fabs(scalar(&t, "align.to_scale") / p.scales[1] - 1.0) < 1e-12);
        engine_close(&t);
    }
}

/* What `finish` leaves: c1/c2 out of W; out of b 1/c2, or as the published code has it. */
static void test_bias(void) {
    static const engine_job jobs[] = {
        CLOSED(",\"solver\":\"ridge\",\"lambda\":2"),
        CLOSED(",\"solver\":\"ridge\",\"lambda\":2,\"bias\":\"code\""),
        CLOSED(",\"solver\":\"ridge\",\"lambda\":2,"
               "\"bias\":\"consistent\"")};
    for (int j = 0; j < 3; j++) {
        trial t;
        begin(&jobs[j], &t);
        fit(&t, false);
        const problem p = learning_problem(&t, 0.0, 0);
        map wanted = map_of(&t);
        fit(&t, true);
        const double ratio = p.scales[0] / p.scales[1];
        ENGINE_CHECK(fabs(p.scales[0] - 1.0) > 0.1);
        for (int c = 0; c < M; c++) {
            for (int k = 0; k < N; k++) {
                wanted.rows[c][k] *= ratio;
            }
            wanted.rows[c][N] *= j == 2 ? 1.0 / p.scales[1] : ratio;
        }
        const map found = map_of(&t);
        ENGINE_CHECK(map_difference(&found, &wanted) < 1e-12);
        ENGINE_CHECK(scalar(&t, "align.from_scale") == 1.0 && scalar(&t, "align.to_scale") == 1.0);
        engine_close(&t);
    }
}

/* The tower's last norm times k: features times k. */
static map fit_scaled_tower(double k) {
    static const engine_job job = CLOSED(",\"solver\":\"ols\",\"bias\":\"consistent\"");
    static const char *const names[] = {"ssl.norm.weight", "ssl.norm.bias"};
    trial t;
    ENGINE_MUST(engine_open(&job, &t));
    for (int p = 0; p < 2; p++) {
        const cps_param *param = engine_param(&t, names[p]);
        for (int64_t i = 0; i < param->count; i++) {
            ((cps_real *)param->tensor.data)[i] *= (cps_real)k;
        }
    }
    ENGINE_MUST(engine_frozen(&t));
    fit(&t, false);
    fit(&t, true);
    const map out = map_of(&t);
    engine_close(&t);
    return out;
}

static void test_scale_invariance(void) {
    const map one = fit_scaled_tower(1.0), more = fit_scaled_tower(37.5);
    map back = more;
    for (int c = 0; c < M; c++) {
        for (int k = 0; k < N; k++) {
            back.rows[c][k] *= 37.5;
        }
    }
    ENGINE_CHECK(map_difference(&one, &back) < 1e-8);
    ENGINE_CHECK(map_difference(&one, &more) > 1e-2);
}

/* ---- steps ---- */

static void test_gradient(void) {
    static const engine_job jobs[] = {STEPS(1, ""), STEPS(1, ",\"holdout\":0.4")};
    ENGINE_CHECK(engine_gradient_holds(&jobs[0]));
    ENGINE_CHECK(engine_gradient_holds(&jobs[1]));
}

/* All rows in one batch, with momentum and coupled decay of W and b, step by step. */
static void test_descent(void) {
    static const engine_job job = {.objectives = ALIGN(""),
                                   .shards = "train.h5",
                                   .steps = 5,
                                   .global_batch = 41,
                                   .grain = 41,
                                   .optimizer = "{\"kind\":\"sgd\",\"lr\":0.05,\"momentum\":0.9,"
                                                "\"weight_decay\":0.01}"};
    trial t;
    cps_step_result result;
    begin(&job, &t);
    map wanted = map_of(&t), speed = {{{0}}};
    for (int64_t i = 0; i < M * (N + 1); i++) { /* U(-1/sqrt(D1), 1/sqrt(D1)) */
        ENGINE_CHECK(fabs((&wanted.rows[0][0])[i]) <= 1.0 / sqrt(N));
    }
    fit(&t, false);
    map begun = map_of(&t);
    ENGINE_CHECK(map_difference(&begun, &wanted) == 0.0);
    const problem p = learning_problem(&t, 0.0, 0);
    ENGINE_MUST(engine_begin(&t));
    while (t.done < 5) {
        ENGINE_MUST(engine_step(&t, &result));
        ENGINE_CHECK(fabs(result.loss / mean_squared(&p, &wanted) - 1.0) < 1e-12);
        map next = wanted;
        for (int c = 0; c < M; c++) {
            for (int k = 0; k <= N; k++) {
                double gradient = 0.01 * wanted.rows[c][k];
                for (int64_t i = 0; i < p.rows; i++) {
                    gradient +=
                        2.0 / (double)(p.rows * M) * residual(&p, &wanted, i, c) * p.x[i][k];
                }
                speed.rows[c][k] = 0.9 * speed.rows[c][k] + gradient;
                next.rows[c][k] -= 0.05 * speed.rows[c][k];
            }
        }
        wanted = next;
        const map found = map_of(&t);
        ENGINE_CHECK(map_difference(&found, &wanted) < 1e-12);
    }
    engine_close(&t);
}

/* A map that an earlier stage left goes on as the same map. */
static void test_again(void) {
    static const engine_job jobs[] = {STEPS(3, ""), STEPS(3, ",\"bias\":\"consistent\"")};
    for (int j = 0; j < 2; j++) {
        trial t;
        begin(&jobs[j], &t);
        fit(&t, false);
        run_steps(&t);
        const map scaled = map_of(&t);
        fit(&t, true);
        fit(&t, false);
        const map again = map_of(&t);
        ENGINE_CHECK(map_difference(&again, &scaled) < 1e-12);
        engine_close(&t);
    }
}

/* ---- samples kept apart ---- */

static int64_t poison(trial *t, double holdout) {
    int64_t held = 0;
    for (int32_t v = 0; v < 2; v++) {
        const cps_frozen_rows rows = cps_frozen_view(t->plan->frozen, v);
        for (int64_t i = 0; i < rows.records; i++) {
            cps_place place;
            cps_stream_stored(rows.stream, i, &place);
            if (is_held(place.sample_id, holdout, 5)) {
                held += v == 0;
                for (int64_t c = 0; c < rows.width; c++) {
                    ((cps_real *)(uintptr_t)rows.values)[i * rows.width + c] = (cps_real)1e9;
                }
            }
        }
    }
    return held;
}

/* Whatever the features of samples kept apart are, the map is the same, to the bit; some of the
 * images in the place of unreadable ones are of such samples. */
static void test_holdout(void) {
    static const engine_job jobs[] = {
        CLOSED(",\"solver\":\"ridge\",\"holdout\":0.3,\"holdout_seed\":5"),
        STEPS(30, ",\"holdout\":0.3,\"holdout_seed\":5")};
    for (int j = 0; j < 2; j++) {
        trial t[2];
        for (int i = 0; i < 2; i++) {
            begin(&jobs[j], &t[i]);
            if (i == 1) {
                const int64_t held = poison(&t[i], 0.3);
                ENGINE_CHECK(held > 25 && held < 65);
            }
            fit(&t[i], false);
            if (j == 0 && i == 0) {
                const problem p = learning_problem(&t[i], 0.3, 5);
                const map scaled = map_of(&t[i]);
                ENGINE_CHECK(normal_error(&p, &scaled, 1.0) < 1e-11);
            } else if (j == 1) {
                run_steps(&t[i]);
            }
            fit(&t[i], true);
        }
        ENGINE_CHECK(engine_digest(&t[0]) == engine_digest(&t[1]));
        engine_close(&t[0]);
        engine_close(&t[1]);
    }
}

/* ---- reports ---- */

static void open_events(trial *t, char path[400]) {
    snprintf(path, 400, "%s/events.jsonl", the_engine.folder);
    unlink(path);
    ENGINE_MUST(cps_events_open(path, &t->loop->events));
}

static cps_json *close_events(trial *t, const char *path) {
    cps_json *events = NULL;
    cps_events_close(t->loop->events);
    t->loop->events = NULL;
    ENGINE_MUST(cps_events_read(path, &events, NULL));
    return events;
}

static bool says(const cps_json *events, int64_t line, const char *name, double wanted) {
    const double found = cps_json_get_number(cps_json_at(events, line), name, (double)NAN);
    const bool holds = fabs(found - wanted) <= 1e-11 * fabs(wanted);
    if (!holds) {
        engine_fail("event %lld: %s is %.17g, wanted %.17g", (long long)line, name, found, wanted);
    }
    return holds;
}

/* The closed form, and steps: what they begin with and end with. */
static void test_reports(void) {
    static const engine_job jobs[] = {CLOSED(",\"solver\":\"ridge\",\"holdout\":0.25"),
                                      STEPS(4, ",\"holdout\":0.25")};
    for (int j = 0; j < 2; j++) {
        trial t;
        char path[400];
        begin(&jobs[j], &t);
        open_events(&t, path);
        const map first = map_of(&t);
        fit(&t, false);
        if (j == 1) {
            run_steps(&t);
        }
        const map scaled = map_of(&t);
        const problem p = learning_problem(&t, 0.25, 0);
        problem apart = make_problem(&t, 0.25, 0, true);
        scale_problem(&apart, p.scales);
        fit(&t, true);
        cps_json *events = close_events(&t, path);
        ENGINE_CHECK(cps_json_count(events) == 2 + j);
        ENGINE_CHECK(says(events, 0, "learnt_from", (double)p.rows));
        ENGINE_CHECK(says(events, 0, "samples", READABLE));
        ENGINE_CHECK(says(events, 0, "from_scale", p.scales[0]));
        ENGINE_CHECK(says(events, 0, "to_scale", p.scales[1]));
        ENGINE_CHECK(j == 0 || says(events, 1, "mse", mean_squared(&p, &first)));
        ENGINE_CHECK(j == 0 || says(events, 1, "r2", r_squared(&p, &first)));
        ENGINE_CHECK(says(events, 1 + j, "mse", mean_squared(&p, &scaled)));
        ENGINE_CHECK(says(events, 1 + j, "r2", r_squared(&p, &scaled)));
        ENGINE_CHECK(says(events, 1 + j, "heldout_mse", mean_squared(&apart, &scaled)));
        ENGINE_CHECK(says(events, 1 + j, "heldout_r2", r_squared(&apart, &scaled)));
        ENGINE_CHECK(says(events, 1 + j, "heldout", (double)apart.rows));
        ENGINE_CHECK(p.rows + apart.rows == READABLE && apart.rows > 15);
        cps_json_destroy(events);
        engine_close(&t);
    }
}

/* The mean of batches of 100 and 35, each counting the same. */
static void test_report_batch(void) {
    static const engine_job job = CLOSED(",\"solver\":\"ridge\",\"report_batch\":100");
    trial t;
    char path[400];
    begin(&job, &t);
    fit(&t, false);
    const map scaled = map_of(&t);
    problem p = learning_problem(&t, 0.0, 0), rest = p;
    rest.rows = READABLE - 100;
    memmove(rest.x, p.x[100], (size_t)rest.rows * sizeof p.x[0]);
    memmove(rest.y, p.y[100], (size_t)rest.rows * sizeof p.y[0]);
    const double r2 = r_squared(&p, &scaled), whole = mean_squared(&p, &scaled);
    p.rows = 100;
    const double mse = 0.5 * (mean_squared(&p, &scaled) + mean_squared(&rest, &scaled));
    open_events(&t, path);
    fit(&t, true);
    cps_json *events = close_events(&t, path);
    ENGINE_CHECK(fabs(mse / whole - 1.0) > 1e-3);
    ENGINE_CHECK(says(events, 0, "mse", mse));
    ENGINE_CHECK(says(events, 0, "r2", 1.0 - mse / whole * (1.0 - r2)));
    cps_json_destroy(events);
    engine_close(&t);
}

/* ---- evaluation ---- */

enum { TEXTS = 4 };

/* Which text is nearest to each image, as the map stands. */
static void classify(trial *t, int32_t nearest[RECORDS]) {
    static const char *const texts[TEXTS] = {"oak", "a torn elm", "the leaf of an ash", "green"};
    static const double one = 1.0;
    cps_embedder *embedder = NULL;
    cps_features images = {0}, classes = {0};
    cps_predictions found = {0};
    ENGINE_MUST(cps_embedder_create(t->plan, NULL, NULL, 0, &embedder));
    ENGINE_MUST(cps_embedder_prepare(embedder));
    const cps_encoder *encoder = cps_embedder_encoder(embedder);
    ENGINE_MUST(
        cps_features_of_images(the_engine.comm, encoder, t->plan->streams[0].stream, 1, &images));
    ENGINE_MUST(cps_features_of_texts(the_engine.comm, encoder, texts, TEXTS, true, &classes));
    ENGINE_MUST(cps_zero_shot(the_engine.comm, &images, &classes, &one, 1, &found));
    ENGINE_CHECK(images.rows == READABLE && images.width == M);
    for (int64_t i = 0; i < images.rows; i++) {
        nearest[i] = found.index[i];
    }
    cps_predictions_free(&found);
    cps_features_free(&images);
    cps_features_free(&classes);
    cps_embedder_destroy(embedder);
}

static void multiply(trial *t, const char *name, double factor) {
    const cps_param *param = engine_param(t, name);
    for (int64_t i = 0; i < param->count; i++) {
        ((cps_real *)param->tensor.data)[i] *= (cps_real)factor;
    }
}

/* A bias that takes the images' mean away, so that what is left tells them apart. */
static void centre(trial *t) {
    const cps_frozen_rows x = cps_frozen_view(t->plan->frozen, 0);
    const cps_real *weight = engine_param(t, "align.W")->tensor.data;
    cps_real *bias = engine_param(t, "align.b")->tensor.data;
    for (int c = 0; c < M; c++) {
        double sum = 0.0;
        for (int64_t i = 0; i < x.records; i++) {
            for (int k = 0; k < N && x.valid[i]; k++) {
                sum += (double)(weight[c * N + k] * x.values[i * N + k]);
            }
        }
        bias[c] = (cps_real)(-sum / READABLE);
    }
}

static int count_changed(const int32_t a[RECORDS], const int32_t b[RECORDS]) {
    int changed = 0;
    for (int i = 0; i < READABLE; i++) {
        changed += a[i] != b[i];
    }
    return changed;
}

/* A longer map tells the same; a longer bias alone does not, which is what bias = "code" does. */
static void test_predictions(void) {
    static const engine_job job = CLOSED(",\"solver\":\"ridge\",\"bias\":\"consistent\"");
    int32_t first[RECORDS], now[RECORDS], same[RECORDS];
    trial t;
    begin(&job, &t);
    fit(&t, false);
    classify(&t, first); /* scaled: c2 times as long */
    fit(&t, true);
    classify(&t, now);
    ENGINE_CHECK(count_changed(first, now) == 0);
    centre(&t);
    classify(&t, first);
    for (int i = 0; i < READABLE; i++) {
        same[i] = first[0];
    }
    ENGINE_CHECK(count_changed(first, same) > 0);
    multiply(&t, "align.W", 37.5);
    multiply(&t, "align.b", 37.5);
    classify(&t, now);
    ENGINE_CHECK(count_changed(first, now) == 0);
    multiply(&t, "align.b", 2.0);
    classify(&t, now);
    ENGINE_CHECK(count_changed(first, now) > 0);
    engine_close(&t);
}

/* ---- refusals ---- */

static void fails(trial *t, const char *part) {
    bool ends = false;
    const cps_status status = cps_loop_fit(t->loop, false, &ends);
    ENGINE_CHECK(status == CPS_ERR_DATA);
    if (status == CPS_OK || strstr(cps_fail_message(), part) == NULL) {
        engine_fail("'%s' lacks '%s'", cps_fail_message(), part);
    }
    engine_close(t);
}

/* Features that are alike, of one tower or the other. */
static void test_constant_features(void) {
    static const engine_job jobs[] = {CLOSED(",\"solver\":\"ridge\""), STEPS(1, "")};
    static const char *const wanted[] = {"features of tower 'ssl' have variance 0",
                                         "features of tower 'image' have variance 0"};
    for (int j = 0; j < 4; j++) {
        trial t;
        begin(&jobs[j / 2], &t);
        const cps_frozen_rows rows = cps_frozen_view(t.plan->frozen, j % 2);
        for (int64_t i = 0; i < rows.records * rows.width; i++) {
            ((cps_real *)(uintptr_t)rows.values)[i] = (cps_real)0.75;
        }
        fails(&t, wanted[j % 2]);
    }
}

static void test_few_samples(void) {
    static const engine_job jobs[] = {
        {.objectives = ALIGN(",\"solver\":\"ols\",\"holdout\":0.9"),
         .shards = "extra.h5",
         .steps = -1},
        {.objectives = ALIGN(",\"solver\":\"ridge\",\"holdout\":0.9"),
         .shards = "extra.h5",
         .steps = -1},
        {.objectives = ALIGN(",\"solver\":\"ols\",\"holdout\":0.9"),
         .shards = "one.h5",
         .steps = -1},
    };
    trial t;
    begin(&jobs[0], &t);
    fails(&t, "do not determine 13 weights an output without a penalty");
    begin(&jobs[1], &t);
    fit(&t, false);
    fit(&t, true);
    engine_close(&t);
    begin(&jobs[2], &t); /* one record, which is kept apart */
    fails(&t, "none of 1 samples is left to learn from");
}

static void refused_towers(const char *towers, const char *options, const char *part) {
    char objectives[256];
    snprintf(objectives, sizeof objectives, "[{\"name\":\"agriclip.align\",\"options\":{%s}}]",
             options);
    const engine_job job = {.objectives = objectives, .steps = -1};
    char *text = engine_job_text(&job);
    char *at = strstr(text, "\"towers\":{");
    char *changed = cps_format("%.*s\"towers\":{%s%s", (int)(at - text), text, towers, at + 10);
    trial t;
    free(text);
    const cps_status status = engine_open_text(changed, &t);
    ENGINE_CHECK(status == CPS_ERR_USAGE);
    if (strstr(cps_fail_message(), part) == NULL) {
        engine_fail("'%s' lacks '%s'", cps_fail_message(), part);
    }
    engine_close(&t);
}

static void test_refusals(void) {
    static const engine_job no_steps = CLOSED(""),
                            both = CLOSED(",\"solver\":\"ridge\",\"report_batch\":100,\"holdout\":"
                                          "0.1"),
                            far = CLOSED(",\"holdout\":0.95"),
                            solver = CLOSED(",\"solver\":\"rigde\"");
    engine_refused(&no_steps, "the stage has none");
    engine_refused(&both, "report_batch = 100 with holdout = 0.1");
    engine_refused(&far, "holdout");
    engine_refused(&solver, "ridge");
    refused_towers("", "\"solver\":\"ols\"", "from = 'ssl.teacher': the model has no such tower");
    refused_towers("", "\"from\":\"image\",\"solver\":\"ols\"", "from and to are both");
    refused_towers("", "\"from\":\"text\",\"solver\":\"ols\"",
                   "from = 'text': that is no image tower");
    refused_towers("", "\"from\":\"image\",\"to\":\"ssl\",\"solver\":\"ols\"", "has no projection");
    refused_towers("", "\"from\":\"ssl\",\"text\":\"image\",\"solver\":\"ols\"",
                   "text = 'image': that is no text tower");
    refused_towers("\"stock\":{\"kind\":\"text\",\"width\":16,\"layers\":1,\"heads\":2,"
                   "\"context\":16,\"embed_dim\":4},",
                   "\"from\":\"ssl\",\"text\":\"stock\",\"solver\":\"ols\"",
                   "tower 'image' gives 8 numbers, text tower 'stock' 4");
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {{"closed forms", test_closed_forms},
                                        {"bias", test_bias},
                                        {"scale invariance", test_scale_invariance},
                                        {"gradient", test_gradient},
                                        {"descent", test_descent},
                                        {"again", test_again},
                                        {"holdout", test_holdout},
                                        {"reports", test_reports},
                                        {"report batch", test_report_batch},
                                        {"predictions", test_predictions},
                                        {"constant features", test_constant_features},
                                        {"few samples", test_few_samples},
                                        {"refusals", test_refusals}};
    engine_start(&argc, &argv);
    engine_shard("one.h5", 300, 1, 0);
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
