/* Groups `aligner` and `zeroshot` of AgriCLIP's vectors. The aligner's stage is run by the engine:
 * fit, steps, finish, in a job of as many tiny records as the file has rows; what the towers made
 * of them is overwritten by the file's features, arranged for each epoch so that the engine's own
 * order of samples shows the file's. Zero-shot: the objective's `embed`, then runtime/eval. */
#include "agriclip.h"

#include "arrays.h"
#include "prompts.h"
#include "ranks.h"
#include "tests/ranks/engine.h"
#include "train/schedule.h"

enum { MOST_ROWS = 20000, MOST_WIDTH = 4096, MOST_EPOCHS = 1000 };

static double tolerance_of(const char *group) {
    return strcmp(group, "aligner/f32") == 0 ? vectors_tolerance(5e-6, 5e-6)
                                             : vectors_tolerance(1e-10, 2e-5);
}

static char *in(const char *group, const char *name) {
    return cps_format("%s/%s", group, name);
}

static bool holds(cps_h5 *file, const char *group, const char *name) {
    char *path = in(group, name);
    const bool there = cps_h5_has(file, path);
    free(path);
    return there;
}

/* ---- the job ---- */

typedef struct setting {
    int64_t records, from_width, to_width;
    const char *options; /* of agriclip.align, each with a comma in front */
    const char *stage;   /* members of the stage beside its objective */
    const char *shard;
} setting;

static char *job_text(const setting *s) {
    return cps_format(
        "{\"name\":\"vectors\",\"seed\":3,\"reproducible\":\"world\",\"precision\":\"fp32\","
        "\"parts\":32,\"model\":{\"embed_dim\":%lld,\"image\":{\"image_size\":8,\"patch\":8,"
        "\"width\":8,\"layers\":1,\"heads\":1},\"text\":{\"width\":8,\"layers\":1,\"heads\":1,"
        "\"context\":16},\"towers\":{\"ssl\":{\"kind\":\"vit\",\"variant\":\"dino\",\"image_size\":"
        "8,"
        "\"patch\":8,\"width\":%lld,\"layers\":1,\"heads\":1}}},\"tokenizer\":{\"merges\":"
        "\"%s/"
        "merges.txt\",\"context\":16},\"data\":{\"paired\":{\"shards\":[\"%s\"]}},\"stages\":[{"
        "\"name\":\"align\",\"objectives\":[{\"name\":\"agriclip.align\",\"options\":{\"from\":"
        "\"ssl\"%s}}],%s}],\"evaluate\":[],\"checkpoint\":{}}",
        (long long)s->to_width, (long long)s->from_width, the_engine.folder, s->shard, s->options,
        s->stage);
}

static char *make_shard(int64_t records) {
    char *path = cps_format("%s/align-%lld.h5", the_engine.folder, (long long)records);
    if (cps_file_exists(path)) {
        return path;
    }
    cps_shard_writer *writer = NULL;
    size_t length = 0;
    uint8_t *picture = engine_picture(1, &length);
    vectors_need(cps_shard_writer_create(path, NULL, 0, NULL, 0, "golden vectors", &writer));
    for (int64_t i = 0; i < records; i++) {
        const cps_record record = {
            .sample_id = (uint64_t)i, .image = picture, .image_bytes = length, .label = -1};
        vectors_need(cps_shard_writer_append(writer, &record));
    }
    vectors_need(cps_shard_writer_finish(writer));
    free(picture);
    return path;
}

/* Up to the features of the frozen views, with events to be read afterwards. */
static void begin(setting *s, trial *t) {
    char *shard = make_shard(s->records);
    char *events = cps_format("%s/events.jsonl", the_engine.folder);
    s->shard = shard;
    vectors_need(engine_open_text(job_text(s), t));
    vectors_need(engine_frozen(t));
    unlink(events);
    vectors_need(cps_events_open(events, &t->loop->events));
    free(events);
    free(shard);
}

static void end(trial *t) {
    cps_events_close(t->loop->events);
    engine_close(t);
}

/* Number `name` of the last event; NAN: it has none. */
static double reported(const char *name) {
    char *path = cps_format("%s/events.jsonl", the_engine.folder);
    cps_json *events = NULL;
    vectors_need(cps_events_read(path, &events, NULL));
    const double value =
        cps_json_get_number(cps_json_at(events, cps_json_count(events) - 1), name, (double)NAN);
    cps_json_destroy(events);
    free(path);
    return value;
}

/* ---- features and parameters ---- */

/* Row rows[i] of the file (NULL: row i) becomes the features of record records[i] (NULL: i). */
static void put_features(const trial *t, int32_t view, const vectors_matrix *from,
                         const int64_t *rows, const int64_t *records) {
    const cps_frozen_rows frozen = cps_frozen_view(t->plan->frozen, view);
    cps_real *values = (cps_real *)(uintptr_t)frozen.values;
    for (int64_t i = 0; i < from->rows; i++) {
        const double *row = from->values + (rows == NULL ? i : rows[i]) * from->width;
        const int64_t record = records == NULL ? i : records[i];
        for (int64_t c = 0; c < from->width; c++) {
            values[record * from->width + c] = (cps_real)row[c];
        }
    }
}

static void put_parameter(trial *t, const char *name, cps_h5 *file, const char *group,
                          const char *dataset) {
    const cps_param *param = engine_param(t, name);
    char *path = in(group, dataset);
    int64_t count = 0;
    cps_real *values = vectors_read_real(file, path, &count);
    if (values == NULL || count != param->count) {
        vectors_unusable("'%s' does not hold the %lld values of '%s'", path,
                         (long long)param->count, name);
    }
    memcpy(param->tensor.data, values, (size_t)count * sizeof *values);
    free(values);
    free(path);
}

static double *take_parameter(trial *t, const char *name) {
    const cps_param *param = engine_param(t, name);
    double *values = vectors_doubles(param->count);
    for (int64_t i = 0; i < param->count; i++) {
        values[i] = (double)((const cps_real *)param->tensor.data)[i];
    }
    return values;
}

static void expect_parameter(trial *t, const char *name, cps_h5 *file, const char *group,
                             const char *dataset) {
    double *values = take_parameter(t, name);
    vectors_expect_in(file, group, dataset, values, engine_param(t, name)->count,
                      tolerance_of(group));
    free(values);
}

static void expect_number(cps_h5 *file, const char *group, const char *name, double value) {
    vectors_expect_in(file, group, name, &value, 1, tolerance_of(group));
}

static void run_fit(trial *t, bool finish) {
    bool ends = false;
    vectors_need(cps_loop_fit(t->loop, finish, &ends));
}

static double attribute(cps_h5 *file, const char *name) {
    double value = 0.0;
    vectors_need(cps_h5_read_number(file, "aligner", name, &value));
    return value;
}

/* They are the same for all groups: compared once. */
static void expect_scales(cps_h5 *file, trial *t) {
    static bool done;
    if (done) {
        return;
    }
    done = true;
    static const char *const buffers[] = {"align.from_scale", "align.to_scale"};
    static const char *const scales[] = {"c1", "c2"}, *const variances[] = {"var1", "var2"};
    for (int i = 0; i < 2; i++) {
        const double scale = (double)*(const cps_real *)engine_param(t, buffers[i])->tensor.data;
        expect_number(file, "aligner", scales[i], scale);
        expect_number(file, "aligner", variances[i],
                      attribute(file, "target_variance") / (scale * scale));
    }
}

/* ---- embed, outside of an evaluation: a host that gives rows of ours ---- */

struct cps_embed {
    const cps_host *host;
    const trial *t;
    cps_tensor *pooled, *component;
};

static int32_t embed_side(const cps_embed *embed) {
    (void)embed;
    return CPS_SIDE_IMAGE;
}

static cps_tensor *embed_output(const cps_embed *embed, uint32_t output) {
    return output == CPS_POOLED ? embed->pooled : NULL;
}

static cps_tensor *embed_parameter(const cps_embed *embed, int32_t id) {
    const cps_instance *instance = &embed->t->plan->instances[0];
    return &cps_params_at(cps_model_params(embed->t->run->model), instance->params[id])->tensor;
}

static void embed_component(cps_embed *embed, cps_tensor *rows, double score_weight) {
    embed->component = score_weight == 1.0 ? rows : NULL;
}

/* The component that the objective makes of rows of pooled features. */
static vectors_matrix embed_rows(const trial *t, const vectors_matrix *from, int64_t rows) {
    cps_host host = *cps_host_table();
    host.embed_side = embed_side;
    host.embed_output = embed_output;
    host.embed_parameter = embed_parameter;
    host.embed_component = embed_component;
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    vectors_need(cps_arena_create("embed", (size_t)1 << 20, true, &arena));
    vectors_need(cps_tape_create(arena, CPS_TAPE_PLAIN, cps_host_table(), &tape));
    const int64_t shape[2] = {rows, from->width}, count = rows * from->width;
    cps_real *values = cps_arena_alloc(arena, (size_t)(count + 1) * sizeof *values);
    vectors_need(values == NULL ? CPS_ERR_UNAVAILABLE : CPS_OK);
    for (int64_t i = 0; i < count; i++) {
        values[i] = (cps_real)from->values[i];
    }
    const cps_instance *instance = &t->plan->instances[0];
    cps_embed embed = {
        .host = &host, .t = t, .pooled = cps_tape_leaf(tape, CPS_REAL, 2, shape, values, NULL, -1)};
    vectors_need(instance->objective->embed(instance->self, &embed, tape));
    if (embed.component == NULL || embed.component->rank != 2) {
        vectors_unusable("agriclip.align gives no component of weight 1");
    }
    vectors_matrix out = vectors_matrix_new(rows, embed.component->shape[1]);
    for (int64_t i = 0; i < rows * out.width; i++) {
        out.values[i] = (double)((const cps_real *)embed.component->data)[i];
    }
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    return out;
}

/* ---- steps ---- */

typedef struct descent {
    cps_h5 *file;
    const char *group;
    vectors_matrix x, y;
    int64_t epochs, batch, steps_per_epoch;
    int64_t *perm; /* [epochs, rows] */
    double *lr;    /* [epochs] */
} descent;

/* Rows of an epoch that are no permutation would be read from beyond the features. */
static void read_order(descent *d) {
    char *path = in(d->group, "perm");
    int64_t count = 0;
    d->perm = vectors_read_i64(d->file, path, &count);
    if (d->perm == NULL || count < d->x.rows || count % d->x.rows != 0 ||
        count / d->x.rows > MOST_EPOCHS) {
        vectors_unusable("'%s' holds no orders of %lld rows", path, (long long)d->x.rows);
    }
    d->epochs = count / d->x.rows;
    for (int64_t i = 0; i < count; i++) {
        if (d->perm[i] < 0 || d->perm[i] >= d->x.rows) {
            vectors_unusable("'%s' names row %lld of %lld", path, (long long)d->perm[i],
                             (long long)d->x.rows);
        }
    }
    free(path);
}

/* The published rate of an epoch: a cosine over T_max epochs, of which the first are run. */
static void make_rates(descent *d) {
    const int64_t period = (int64_t)attribute(d->file, "T_max");
    const double base = attribute(d->file, "lr");
    const cps_schedule schedule = {.kind = CPS_SCHEDULE_COSINE};
    if (period < d->epochs || period > MOST_EPOCHS) {
        vectors_unusable("T_max is %lld, wanted are %lld to %d epochs", (long long)period,
                         (long long)d->epochs, MOST_EPOCHS);
    }
    d->lr = vectors_doubles(period);
    vectors_need(cps_schedule_tabulate(&schedule, (cps_numbers){1, &base}, "lr", period, 0, d->lr));
    vectors_expect_in(d->file, d->group, "lr", d->lr, d->epochs, 1e-12);
}

static char *stage_text(const descent *d) {
    char *text = cps_format("\"epochs\":%lld,\"steps\":0,\"global_batch\":%lld,\"grain\":%lld,"
                            "\"tail\":\"keep\",\"optimizer\":{\"kind\":\"sgd\",\"momentum\":%.17g,"
                            "\"weight_decay\":%.17g,\"lr\":[",
                            (long long)d->epochs, (long long)d->batch,
                            (long long)(d->batch % 4 == 0 ? d->batch / 4 : d->batch),
                            attribute(d->file, "momentum"), attribute(d->file, "weight_decay"));
    for (int64_t step = 0; step < d->epochs * d->steps_per_epoch; step++) {
        char *longer =
            cps_format("%s%s%.17g", text, step == 0 ? "" : ",", d->lr[step / d->steps_per_epoch]);
        free(text);
        text = longer;
    }
    char *whole = cps_format("%s]},\"schedule\":{\"kind\":\"constant\"}", text);
    free(text);
    return whole;
}

/* Record at position p of the epoch: the file's row there goes to it. */
static void arrange(const descent *d, const trial *t, int64_t epoch) {
    const cps_stream *stream = cps_frozen_view(t->plan->frozen, 0).stream;
    int64_t *records = calloc((size_t)d->x.rows, sizeof *records);
    int64_t *stored = calloc((size_t)d->x.rows, sizeof *stored);
    if (records == NULL || stored == NULL) {
        vectors_unusable("out of memory");
    }
    cps_place place;
    for (int64_t i = 0; i < d->x.rows; i++) {
        cps_stream_stored(stream, i, &place);
        stored[place.record] = i;
    }
    for (int64_t position = 0; position < d->x.rows; position++) {
        cps_stream_at(stream, (uint64_t)epoch, position, &place);
        records[position] = stored[place.record];
    }
    put_features(t, 0, &d->x, d->perm + epoch * d->x.rows, records);
    put_features(t, 1, &d->y, d->perm + epoch * d->x.rows, records);
    free(records);
    free(stored);
}

/* All epochs; W_out [steps][count of align.W] and b_out: after each step, NULL: not wanted. */
static void run_steps(const descent *d, trial *t, double *weights, double *biases) {
    const int64_t w = engine_param(t, "align.W")->count, b = engine_param(t, "align.b")->count;
    vectors_need(engine_begin(t));
    if (t->plan->steps_per_epoch != d->steps_per_epoch) {
        vectors_unusable("an epoch has %lld steps, wanted are %lld",
                         (long long)t->plan->steps_per_epoch, (long long)d->steps_per_epoch);
    }
    while (t->done < t->plan->steps) {
        cps_step_result result;
        const int64_t step = t->done;
        if (step % d->steps_per_epoch == 0) {
            arrange(d, t, step / d->steps_per_epoch);
        }
        vectors_need(engine_step(t, &result));
        double *weight = take_parameter(t, "align.W"), *bias = take_parameter(t, "align.b");
        if (weights != NULL) {
            memcpy(weights + step * w, weight, (size_t)w * sizeof *weight);
            memcpy(biases + step * b, bias, (size_t)b * sizeof *bias);
        }
        free(weight);
        free(bias);
    }
    put_features(t, 0, &d->x, NULL, NULL);
    put_features(t, 1, &d->y, NULL, NULL);
}

static void expect_aligned(const descent *d, const trial *t) {
    cps_h5_info info;
    char *path = in(d->group, "aligned9");
    if (cps_h5_has(d->file, path)) {
        vectors_need(cps_h5_inspect(d->file, path, &info));
        const int64_t rows = info.rank == 2 ? cps_min_i64(info.shape[0], d->x.rows) : 0;
        vectors_matrix mapped = embed_rows(t, &d->x, rows);
        vectors_expect_in(d->file, d->group, "aligned9", mapped.values, rows * mapped.width,
                          tolerance_of(d->group));
        free(mapped.values);
    }
    free(path);
}

/* The stage to its end; `consistent`: only what the other bias is, is looked at. */
static void descend(const descent *d, bool consistent) {
    char *stage = stage_text(d);
    char *options = cps_format(",\"report_batch\":%lld,\"bias\":\"%s\"", (long long)d->batch,
                               consistent ? "consistent" : "code");
    setting s = {.records = d->x.rows,
                 .from_width = d->x.width,
                 .to_width = d->y.width,
                 .options = options,
                 .stage = stage};
    trial t;
    begin(&s, &t);
    put_features(&t, 0, &d->x, NULL, NULL);
    put_features(&t, 1, &d->y, NULL, NULL);
    put_parameter(&t, "align.W", d->file, d->group, "W0");
    put_parameter(&t, "align.b", d->file, d->group, "b0");
    run_fit(&t, false);
    const int64_t steps = t.plan->steps, w = d->x.width * d->y.width, b = d->y.width;
    double *weights = vectors_doubles(steps * w), *biases = vectors_doubles(steps * b);
    if (!consistent) {
        expect_scales(d->file, &t);
        expect_number(d->file, d->group, "init_mse", reported("mse"));
        expect_number(d->file, d->group, "init_r2", reported("r2"));
    }
    run_steps(d, &t, weights, biases);
    if (!consistent) {
        const double tolerance = tolerance_of(d->group);
        vectors_expect_in(d->file, d->group, "W_steps", weights, steps * w, tolerance);
        vectors_expect_in(d->file, d->group, "b_steps", biases, steps * b, tolerance);
        expect_parameter(&t, "align.W", d->file, d->group, "W_scaled");
        expect_parameter(&t, "align.b", d->file, d->group, "b_scaled");
    }
    run_fit(&t, true);
    expect_parameter(&t, "align.b", d->file, d->group, consistent ? "b_consistent" : "b");
    if (!consistent) {
        expect_number(d->file, d->group, "final_mse", reported("mse"));
        expect_number(d->file, d->group, "final_r2", reported("r2"));
        expect_parameter(&t, "align.W", d->file, d->group, "W");
        expect_aligned(d, &t);
    }
    end(&t);
    free(weights);
    free(biases);
    free(stage);
    free(options);
}

static void check_descent(cps_h5 *file, const char *group, const vectors_matrix *x,
                          const vectors_matrix *y) {
    descent d = {.file = file, .group = group, .x = *x, .y = *y};
    d.batch = (int64_t)attribute(file, "batch_size");
    if (d.batch < 1 || d.batch > x->rows) {
        vectors_unusable("batch_size is %lld of %lld rows", (long long)d.batch, (long long)x->rows);
    }
    d.steps_per_epoch = cps_ceil_div(x->rows, d.batch);
    read_order(&d);
    make_rates(&d);
    descend(&d, false);
    descend(&d, true);
    free(d.perm);
    free(d.lr);
}

/* ---- closed forms ---- */

enum { W_SCALED, B_SCALED, W, B, MSE, R2, MAPS };
static const char *const map_names[MAPS] = {"W_scaled", "b_scaled", "W", "b", "mse", "r2"};

typedef struct solution {
    double *values[MAPS];
} solution;

static double *take_number(double value) {
    double *values = vectors_doubles(1);
    *values = value;
    return values;
}

static solution solve(cps_h5 *file, const vectors_matrix *x, const vectors_matrix *y,
                      const char *options) {
    setting s = {.records = x->rows,
                 .from_width = x->width,
                 .to_width = y->width,
                 .options = options,
                 .stage = "\"epochs\":0,\"steps\":0"};
    solution found;
    trial t;
    begin(&s, &t);
    put_features(&t, 0, x, NULL, NULL);
    put_features(&t, 1, y, NULL, NULL);
    run_fit(&t, false);
    expect_scales(file, &t);
    found.values[W_SCALED] = take_parameter(&t, "align.W");
    found.values[B_SCALED] = take_parameter(&t, "align.b");
    run_fit(&t, true);
    found.values[W] = take_parameter(&t, "align.W");
    found.values[B] = take_parameter(&t, "align.b");
    found.values[MSE] = take_number(reported("mse"));
    found.values[R2] = take_number(reported("r2"));
    end(&t);
    return found;
}

/* By the weight decay that the penalty stands for, and by the penalty itself. */
static void check_closed(cps_h5 *file, const char *group, const vectors_matrix *x,
                         const vectors_matrix *y) {
    const int64_t counts[MAPS] = {
        x->width * y->width, y->width, x->width * y->width, y->width, 1, 1};
    double lambda = 0.0;
    vectors_need(cps_h5_read_number(file, group, "lambda", &lambda));
    char *options[2] = {
        lambda == 0.0 ? cps_format(",\"solver\":\"ols\",\"bias\":\"consistent\"")
                      : cps_format(",\"solver\":\"exact\",\"bias\":\"consistent\","
                                   "\"weight_decay\":%.17g",
                                   attribute(file, "weight_decay")),
        cps_format(",\"solver\":\"ridge\",\"bias\":\"consistent\",\"lambda\":%.17g", lambda)};
    solution found[2];
    for (int i = 0; i < 2; i++) {
        found[i] = solve(file, x, y, options[i]);
    }
    for (int m = 0; m < MAPS; m++) {
        vectors_expect_both(file, group, map_names[m], found[0].values[m], found[1].values[m],
                            counts[m], tolerance_of(group));
        free(found[0].values[m]);
        free(found[1].values[m]);
    }
    free(options[0]);
    free(options[1]);
}

/* ---- zero-shot ---- */

typedef struct zero_shot {
    cps_h5 *file;
    const char *group;
    cps_features images, classes;
    const int32_t *labels;
} zero_shot;

static void expect_all(const zero_shot *z, const cps_predictions *predictions) {
    const int64_t rows = predictions->rows, classes = predictions->top;
    const double tolerance = vectors_tolerance(1e-10, 2e-5);
    double *logits = vectors_doubles(rows * classes),
           *weights = vectors_doubles(classes * z->classes.width);
    int64_t *best = calloc((size_t)rows + 1, sizeof *best), labelled = 0;
    if (best == NULL) {
        vectors_unusable("out of memory");
    }
    for (int64_t i = 0; i < classes * z->classes.width; i++) {
        weights[i] = (double)z->classes.values[i];
    }
    for (int64_t i = 0; i < rows; i++) {
        best[i] = predictions->index[i * classes];
        for (int64_t place = 0; place < classes; place++) {
            const int64_t at = i * classes + place;
            logits[i * classes + predictions->index[at]] = (double)predictions->score[at];
        }
    }
    vectors_expect_in(z->file, z->group, "weights", weights, classes * z->classes.width, tolerance);
    vectors_expect_in(z->file, z->group, "logits", logits, rows * classes, tolerance);
    char *path = in(z->group, "pred");
    if (cps_h5_has(z->file, path)) {
        vectors_expect_i64(z->file, path, best, rows);
    }
    const double hits = (double)cps_predictions_hits(predictions, z->labels, 1, &labelled);
    const double accuracy = hits / (double)labelled;
    vectors_expect_in(z->file, z->group, "accuracy", &accuracy, 1, tolerance);
    free(path);
    free(logits);
    free(weights);
    free(best);
}

/* `ensemble`: all templates, averaged as they come; `single`: the first one. */
static void classify(zero_shot *z) {
    static const double one = 1.0;
    const bool single = strcmp(z->group, "zeroshot/single") == 0;
    cps_predictions predictions = {0};
    z->classes = vectors_class_vectors(z->file, "zeroshot/text", single ? 1 : 0, CPS_AVERAGE_FIRST);
    vectors_need_same(z->group, z->classes.width == z->images.width);
    vectors_need(cps_zero_shot(the_engine.comm, &z->images, &z->classes, &one, z->classes.rows,
                               &predictions));
    expect_all(z, &predictions);
    cps_predictions_free(&predictions);
    cps_features_free(&z->classes);
}

static int32_t *read_labels(cps_h5 *file, int64_t rows) {
    int64_t count = 0;
    int64_t *given = vectors_read_i64(file, "zeroshot/label", &count);
    int32_t *labels = calloc((size_t)rows + 1, sizeof *labels);
    if (given == NULL || labels == NULL || count != rows) {
        vectors_unusable("'zeroshot/label' does not hold a class for each of %lld rows",
                         (long long)rows);
    }
    for (int64_t i = 0; i < rows; i++) {
        if (given[i] < 0 || given[i] > 1000000) {
            vectors_unusable("'zeroshot/label' holds %lld", (long long)given[i]);
        }
        labels[i] = (int32_t)given[i];
    }
    free(given);
    return labels;
}

static void check_zero_shot(cps_h5 *file) {
    static const char *const inputs[] = {"text", "X", "W", "b", "label", NULL};
    static const char *const groups[] = {"zeroshot/ensemble", "zeroshot/single"};
    if (!vectors_has(file, "zeroshot", inputs)) {
        return;
    }
    vectors_matrix x = vectors_matrix_read(file, "zeroshot", "X"),
                   weight = vectors_matrix_read(file, "zeroshot", "W");
    if (weight.width != x.width || x.rows > MOST_ROWS || x.width > MOST_WIDTH ||
        weight.rows > MOST_WIDTH) {
        vectors_unusable("zeroshot: X and W do not agree");
    }
    setting s = {.records = x.rows,
                 .from_width = x.width,
                 .to_width = weight.rows,
                 .options = ",\"solver\":\"ols\"",
                 .stage = "\"epochs\":0,\"steps\":0"};
    trial t;
    begin(&s, &t);
    put_parameter(&t, "align.W", file, "zeroshot", "W");
    put_parameter(&t, "align.b", file, "zeroshot", "b");
    *(cps_real *)engine_param(&t, "align.from_scale")->tensor.data = 1;
    vectors_matrix mapped = embed_rows(&t, &x, x.rows);
    int32_t *labels = read_labels(file, x.rows);
    zero_shot z = {.file = file,
                   .labels = labels,
                   .images = {.rows = mapped.rows,
                              .width = mapped.width,
                              .component_count = 1,
                              .widths = {mapped.width}}};
    z.images.values = calloc((size_t)(mapped.rows * mapped.width) + 1, sizeof *z.images.values);
    if (z.images.values == NULL) {
        vectors_unusable("out of memory");
    }
    for (int64_t i = 0; i < mapped.rows * mapped.width; i++) {
        z.images.values[i] = (cps_real)mapped.values[i];
    }
    cps_features_normalise(&z.images);
    for (int i = 0; i < 2; i++) {
        z.group = groups[i];
        if (cps_h5_has(file, z.group)) {
            classify(&z);
        }
    }
    free(z.images.values);
    free(labels);
    free(mapped.values);
    free(weight.values);
    free(x.values);
    end(&t);
}

/* ---- all ---- */

static void check_aligner(cps_h5 *file) {
    static const char *const inputs[] = {"X", "Y", NULL};
    if (!vectors_has(file, "aligner", inputs)) {
        return;
    }
    vectors_matrix x = vectors_matrix_read(file, "aligner", "X"),
                   y = vectors_matrix_read(file, "aligner", "Y");
    if (x.rows != y.rows || x.rows > MOST_ROWS || x.width > MOST_WIDTH || y.width > MOST_WIDTH) {
        vectors_unusable("aligner: X and Y do not agree, or are too large");
    }
    char **names = NULL;
    int64_t count = 0;
    vectors_need(cps_h5_list(file, "aligner", &names, &count));
    for (int64_t i = 0; i < count; i++) {
        char *group = in("aligner", names[i]);
        if (holds(file, group, "perm")) {
            check_descent(file, group, &x, &y);
        } else if (holds(file, group, "W_scaled")) {
            check_closed(file, group, &x, &y);
        }
        free(group);
    }
    cps_strings_destroy(names, count);
    free(x.values);
    free(y.values);
}

void agriclip_align(cps_h5 *file) {
    engine_start_on(vectors_comm(), "/proc/self/exe");
    check_aligner(file);
    check_zero_shot(file);
    engine_end_data();
}
