/* Whole steps on a file's own crops, run by the engine: groups train and bn_crops; and what a step
 * leaves in the running statistics of a head. Gradients come from a second stage that is put where
 * the first one stands and makes one step of plain SGD. */
#include <math.h>

#include "stage.h"

static double tolerance(void) {
    return vectors_tolerance(1e-10, 2e-5);
}

/* ---- a model in the file's names ---- */

/* Where the file's names lie in ours: "backbone.x" -> "ssl.x", "head.x" -> "ssl.head.x"; of the
 * teacher "ssl.teacher.". A parameter of ours may be larger (a resnet's front, columns for the
 * zeros behind it): the file's values lie in the middle of kernels and in the first columns, the
 * rest is 0. */
typedef struct net {
    trial *t;
    const char *prefix; /* "ssl." */
    bool stem;          /* "conv" and "bn" are the resnet's first */
    bool head;          /* a head alone: names are those behind the prefix */
} net;

/* NULL: no name of a net. */
static cps_param *param_of(const net *n, const char *name) {
    char *full = NULL;
    if (n->head || strncmp(name, "head.", 5) == 0) {
        full = cps_format("%s%s", n->prefix, name);
    } else if (strncmp(name, "backbone.", 9) == 0) {
        const char *rest = name + 9;
        const bool stem =
            n->stem && (strncmp(rest, "conv.", 5) == 0 || strncmp(rest, "bn.", 3) == 0);
        const int length = stem ? (int)(strchr(rest, '.') - rest) : 0;
        full = stem ? cps_format("%s%.*s1%s", n->prefix, length, rest, rest + length)
                    : cps_format("%s%s", n->prefix, rest);
    }
    cps_params *params = cps_model_params(n->t->run->model);
    const int32_t index = full == NULL ? -1 : cps_params_find(params, full);
    free(full);
    return index < 0 ? NULL : cps_params_at(params, index);
}

/* Element of the parameter that element `i` of the file's array is; -1: they do not go together. */
static int64_t place_of(const cps_param *param, const cps_h5_info *info, int64_t i) {
    if (info->count == param->count) {
        return i;
    }
    const int64_t *own = param->spec.shape;
    if (info->rank != param->spec.rank || info->shape[0] != own[0]) {
        return -1;
    }
    if (info->rank == 2 && info->shape[1] <= own[1]) {
        return i / info->shape[1] * own[1] + i % info->shape[1];
    }
    if (info->rank != 4 || info->shape[1] != own[1] || info->shape[2] != info->shape[3] ||
        own[2] < info->shape[2] || (own[2] - info->shape[2]) % 2 != 0) {
        return -1;
    }
    const int64_t side = info->shape[2], margin = (own[2] - side) / 2;
    const int64_t plane = i / (side * side), y = i / side % side, x = i % side;
    return (plane * own[2] + y + margin) * own[3] + x + margin;
}

/* Calls `visit` for every dataset of a group that has a parameter; the others are told. */
static void each_parameter(cps_h5 *file, const char *group, const net *n,
                           void (*visit)(const char *path, const cps_param *param,
                                         const cps_h5_info *info, void *context),
                           void *context) {
    char **names = NULL;
    int64_t count = 0;
    vectors_need(cps_h5_list(file, group, &names, &count));
    for (int64_t i = 0; i < count; i++) {
        char *path = cps_format("%s/%s", group, names[i]);
        cps_h5_info info;
        vectors_need(cps_h5_inspect(file, path, &info));
        const cps_param *param = param_of(n, names[i]);
        if (param == NULL || info.count < 1 || place_of(param, &info, info.count - 1) < 0) {
            vectors_broken(path, tolerance(), "the model has no parameter of that name and size");
        } else {
            visit(path, param, &info, context);
        }
        free(path);
    }
    cps_strings_destroy(names, count);
}

typedef struct visit_work {
    cps_h5 *file;
    double tolerance;
    const cps_real
        *before; /* flat values; NULL: compare values, else (before - now) / probe_rate */
    const cps_params *params;
} visit_work;

static void put_one(const char *path, const cps_param *param, const cps_h5_info *info,
                    void *context) {
    const visit_work *work = context;
    int64_t count = 0;
    double *values = vectors_read(work->file, path, &count);
    if (values == NULL || count != info->count) {
        vectors_unusable("'%s' is no array of numbers", path);
    }
    cps_real *to = param->tensor.data;
    for (int64_t i = 0; i < param->count; i++) {
        to[i] = 0;
    }
    for (int64_t i = 0; i < count; i++) {
        to[place_of(param, info, i)] = (cps_real)values[i];
    }
    free(values);
}

static void expect_one(const char *path, const cps_param *param, const cps_h5_info *info,
                       void *context) {
    const visit_work *work = context;
    const cps_real *now = param->tensor.data;
    double *values = vectors_doubles(info->count);
    for (int64_t i = 0; i < info->count; i++) {
        const int64_t at = place_of(param, info, i);
        values[i] = work->before == NULL
                        ? (double)now[at]
                        : ((double)work->before[param->offset + at] - (double)now[at]) / probe_rate;
    }
    vectors_expect(work->file, path, values, info->count, work->tolerance);
    free(values);
}

/* Both nets begin with the file's values. */
static void put_nets(cps_h5 *file, const char *group, trial *t, bool stem) {
    visit_work work = {.file = file};
    const net student = {t, "ssl.", stem, false}, teacher = {t, "ssl.teacher.", stem, false};
    each_parameter(file, group, &student, put_one, &work);
    each_parameter(file, group, &teacher, put_one, &work);
}

static void expect_net(cps_h5 *file, const char *group, trial *t, const char *prefix, bool stem) {
    visit_work work = {.file = file, .tolerance = tolerance()};
    const net n = {t, prefix, stem, false};
    if (cps_h5_has(file, group)) {
        each_parameter(file, group, &n, expect_one, &work);
    }
}

/* What a step did since the parameters were `before`; every parameter that moved must be named. */
static void expect_gradients(cps_h5 *file, const char *group, trial *t, const cps_real *before,
                             bool stem) {
    visit_work work = {.file = file, .tolerance = tolerance(), .before = before};
    const net n = {t, "ssl.", stem, false};
    each_parameter(file, group, &n, expect_one, &work);
}

/* ---- crops ---- */

/* Planes of both kinds of crops, by loader input. */
static void give_crops(cps_h5 *file, const char *group, int64_t locals, int64_t global_count,
                       int64_t local_count, double *kept[2]) {
    kept[0] = read_all(file, group, "x_global", 2 * global_count);
    kept[1] = locals > 0 ? read_all(file, group, "x_local", locals * local_count) : NULL;
    for (int64_t i = 0; i < 2 + locals && i < AGRICLIP_CROPS; i++) {
        agriclip_gives.crops[i] =
            i < 2 ? kept[0] + i * global_count : kept[1] + (i - 2) * local_count;
    }
}

static void take_crops_back(double *kept[2]) {
    memset(agriclip_gives.crops, 0, sizeof agriclip_gives.crops);
    free(kept[0]);
    free(kept[1]);
}

/* Rows that towers give are kept from here on: [crops * images, width] and [2 * images, width]. */
static void watch_rows(int64_t crops, int64_t images, int64_t width) {
    agriclip_gives.images = images;
    agriclip_gives.seen[0] = vectors_doubles(crops * images * width);
    agriclip_gives.seen[1] = vectors_doubles(2 * images * width);
}

static void stop_watching(void) {
    for (int i = 0; i < 2; i++) {
        free(agriclip_gives.seen[i]);
        agriclip_gives.seen[i] = NULL;
    }
}

/* Logits of the rows that were seen, by the heads as they are. */
static void expect_logits(cps_h5 *file, const char *group, trial *t, int64_t layers, int64_t crops,
                          int64_t images, int64_t width, int64_t classes) {
    static const char *const prefixes[] = {"ssl.head", "ssl.teacher.head"}, *const names[] = {
                                                                                "student_out",
                                                                                "teacher_out"};
    for (int i = 0; i < 2; i++) {
        const int64_t rows = (i == 0 ? crops : 2) * images;
        double *logits = agriclip_dino_logits(cps_model_params(t->run->model), prefixes[i], layers,
                                              agriclip_gives.seen[i], rows, width);
        vectors_expect_in(file, group, names[i], logits, rows * classes, tolerance());
        free(logits);
    }
}

static cps_real *copy_flat(trial *t) {
    cps_params *params = cps_model_params(t->run->model);
    const size_t bytes = (size_t)cps_params_flat_count(params) * sizeof(cps_real);
    cps_real *copy = malloc(bytes);
    if (copy == NULL) {
        vectors_unusable("out of memory");
    }
    memcpy(copy, cps_params_flat(params), bytes);
    return copy;
}

static void paste_flat(trial *t, const cps_real *flat) {
    cps_params *params = cps_model_params(t->run->model);
    memcpy(cps_params_flat(params), flat, (size_t)cps_params_flat_count(params) * sizeof *flat);
}

/* One step of plain SGD from the values `flat`, at data step `step`. */
static void probe(setting s, const cps_real *flat, int64_t step, trial *t) {
    char *optimizer = sgd(probe_rate);
    cps_step_result result;
    s.optimizer = optimizer;
    s.schedule = constant_rate;
    begin(&s, t);
    paste_flat(t, flat);
    seek(t, step);
    vectors_need(engine_step(t, &result));
    free(optimizer);
}

/* ---- train ---- */

typedef struct train_case {
    cps_h5 *file;
    setting stage;
    char *frozen,
        *free_last; /* options: the last layer stands still in the first epochs, or never */
    int64_t crops, images, classes, width, side, local_side;
    trial t;
} train_case;

static char *train_options(cps_h5 *file, int64_t freeze) {
    return cps_format(
        "\"K\":%lld,\"hidden\":%lld,\"bottleneck\":%lld,\"layers\":3,\"local_crops\":%lld,"
        "\"local_size\":%lld,\"teacher_temp\":%.17g,\"warmup_teacher_temp\":%.17g,"
        "\"warmup_teacher_temp_epochs\":%lld,\"momentum_start\":%.17g,\"freeze_last_layer\":%lld",
        (long long)integer(file, "train", "out_dim", MOST_CLASSES),
        (long long)integer(file, "train", "hidden", MOST_ROWS),
        (long long)integer(file, "train", "bottleneck", MOST_ROWS),
        (long long)integer(file, "train", "nlocal", AGRICLIP_CROPS - 2),
        (long long)integer(file, "train", "vit_loc", MOST_ROWS),
        number(file, "train", "teacher_temp"), number(file, "train", "warmup_teacher_temp"),
        (long long)integer(file, "train", "warmup_teacher_temp_epochs", MOST_STEPS),
        number(file, "train", "momentum"), (long long)freeze);
}

static void open_train(cps_h5 *file, train_case *c) {
    *c = (train_case){.file = file,
                      .crops = 2 + integer(file, "train", "nlocal", AGRICLIP_CROPS - 2),
                      .images = integer(file, "train", "batch", MOST_ROWS),
                      .classes = integer(file, "train", "out_dim", MOST_CLASSES),
                      .width = integer(file, "train", "vit_d", MOST_ROWS),
                      .side = integer(file, "train", "vit_img", MOST_ROWS),
                      .local_side = integer(file, "train", "vit_loc", MOST_ROWS)};
    const int64_t epoch = integer(file, "train", "iters_per_epoch", MOST_STEPS);
    char *tower = cps_format(
        "{\"kind\":\"vit\",\"variant\":\"dino\",\"image_size\":%lld,\"patch\":%lld,\"width\":%lld,"
        "\"layers\":%lld,\"heads\":%lld}",
        (long long)c->side, (long long)integer(file, "train", "vit_p", MOST_ROWS),
        (long long)c->width, (long long)integer(file, "train", "vit_depth", 100),
        (long long)integer(file, "train", "vit_h", 100));
    char *optimizer = cps_format(
        "{\"kind\":\"adamw\",\"lr\":%.17g,\"weight_decay\":%.17g,\"beta1\":%.17g,\"beta2\":%.17g,"
        "\"eps\":%.17g}",
        number(file, "train", "base_lr"), number(file, "train", "wd"),
        number(file, "train", "adam_beta1"), number(file, "train", "adam_beta2"),
        number(file, "train", "adam_eps"));
    char *schedule = cps_format(
        "{\"kind\":\"cosine\",\"warmup_epochs\":%lld,\"warmup\":\"linspace\",\"final\":%.17g,"
        "\"final_weight_decay\":%.17g}",
        (long long)integer(file, "train", "warmup_epochs", MOST_STEPS),
        number(file, "train", "min_lr"), number(file, "train", "wd_end"));
    c->free_last = train_options(file, 0);
    c->frozen = train_options(file, integer(file, "train", "freeze_last_layer", MOST_STEPS));
    c->stage = (setting){.tower = tower,
                         .objective = c->frozen,
                         .optimizer = optimizer,
                         .schedule = schedule,
                         .clip = number(file, "train", "clip_grad"),
                         .records = c->images * epoch,
                         .batch = c->images,
                         .grain = c->images,
                         .steps = epoch * integer(file, "train", "epochs", MOST_STEPS)};
    begin(&c->stage, &c->t);
    put_nets(file, "train/init", &c->t, false);
    const cps_run_stage *stage = &c->t.run->stages[0];
    vectors_expect(file, "train/lr", stage->lr, c->t.plan->steps, 1e-12);
    vectors_expect(file, "train/wd", stage->weight_decay, c->t.plan->steps, 1e-12);
}

static void close_train(train_case *c) {
    engine_close(&c->t);
    free((void *)(uintptr_t)c->stage.tower);
    free((void *)(uintptr_t)c->stage.optimizer);
    free((void *)(uintptr_t)c->stage.schedule);
    free(c->frozen);
    free(c->free_last);
}

/* Gradients of a step from where the stage stands: as they arrive, and as the optimizer sees them,
 * clipped and without those that stand still. */
static void expect_train_gradients(train_case *c, int64_t step, const char *group) {
    cps_real *before = copy_flat(&c->t);
    for (int used = 0; used < 2; used++) {
        trial t;
        setting s = c->stage;
        char *grads = cps_format("%s/%s", group, used == 1 ? "grad_used" : "grad_raw");
        s.objective = used == 1 ? c->frozen : c->free_last;
        s.clip = used == 1 ? s.clip : 0.0;
        probe(s, before, step, &t);
        if (cps_h5_has(c->file, grads)) {
            expect_gradients(c->file, grads, &t, before, false);
        }
        engine_close(&t);
        free(grads);
    }
    free(before);
}

/* What is no part of a group of gradients has not moved: the last layer while it is frozen. */
static void expect_still(train_case *c, int64_t step, const char *group) {
    static const char *const name = "head.last_layer.weight_v";
    char *used = cps_format("%s/grad_used/%s", group, name);
    const bool frozen = !cps_h5_has(c->file, used);
    const int64_t updates = engine_param(&c->t, "ssl.head.last_layer.weight_v")->updates;
    if (frozen != (updates == 0)) {
        vectors_broken(used, tolerance(), "v has %lld updates after step %lld", (long long)updates,
                       (long long)step);
    }
    free(used);
}

/* In float, key biases are noise beside Adam's eps (agriclip.md 7). */
static void expect_nets(train_case *c, const char *group) {
    static const char *const names[] = {"student", "teacher"}, *const prefixes[] = {"ssl.",
                                                                                    "ssl.teacher."};
    for (int i = 0; i < 2; i++) {
        char *net_group = cps_format("%s/%s", group, names[i]);
        if (sizeof(cps_real) == sizeof(double)) {
            expect_net(c->file, net_group, &c->t, prefixes[i], false);
        } else {
            vectors_know(net_group);
            vectors_skip(net_group, "parameters are compared in double alone: the update of key "
                                    "biases is rounding noise");
        }
        free(net_group);
    }
}

static double train_step(train_case *c, int64_t step) {
    char *group = cps_format("train/step%lld", (long long)step);
    double *crops[2];
    cps_step_result result;
    give_crops(c->file, group, c->crops - 2, c->images * 3 * c->side * c->side,
               c->images * 3 * c->local_side * c->local_side, crops);
    watch_rows(c->crops, c->images, c->width);
    expect_train_gradients(c, step, group);
    expect_logits(c->file, group, &c->t, 3, c->crops, c->images, c->width, c->classes);
    stop_watching();
    vectors_need(engine_step(&c->t, &result));
    vectors_expect_in(c->file, group, "loss", &result.loss, 1, tolerance());
    double *centre = take_values(&c->t, "ssl.head.center");
    vectors_expect_in(c->file, group, "center", centre, c->classes, tolerance());
    free(centre);
    expect_still(c, step, group);
    expect_nets(c, group);
    take_crops_back(crops);
    free(group);
    return value_of(&result, "momentum");
}

/* Whether the file has inputs of a step. */
static bool has_step(cps_h5 *file, int64_t step) {
    char *name = cps_format("train/step%lld/x_global", (long long)step);
    const bool there = cps_h5_has(file, name);
    free(name);
    return there;
}

static void check_train(cps_h5 *file) {
    static const char *const inputs[] = {"init", "lr", "wd", "momentum", "step0", NULL};
    if (!vectors_has(file, "train", inputs)) {
        return;
    }
    train_case c;
    open_train(file, &c);
    double *momentum = vectors_doubles(c.t.plan->steps);
    int64_t done = 0;
    for (; done < c.t.plan->steps && has_step(file, done); done++) {
        momentum[done] = train_step(&c, done);
    }
    if (done == c.t.plan->steps) {
        vectors_expect(file, "train/momentum", momentum, done, 1e-12);
    }
    free(momentum);
    close_train(&c);
}

/* ---- bn_crops ---- */

typedef struct crops_case {
    cps_h5 *file;
    setting stage;
    int64_t crops, images, classes, channels, width;
} crops_case;

static void size_of(cps_h5 *file, const char *name, cps_h5_info *info, int32_t rank) {
    vectors_need(cps_h5_inspect(file, name, info));
    if (info->kind != CPS_H5_DATASET || info->rank != rank) {
        vectors_unusable("'%s' has %d dimensions, wanted are %d", name, info->rank, rank);
    }
}

static void open_crops(cps_h5 *file, crops_case *c) {
    cps_h5_info global, local, conv, first, last;
    size_of(file, "bn_crops/x_global", &global, 5);
    size_of(file, "bn_crops/x_local", &local, 5);
    size_of(file, "bn_crops/init/backbone.conv.weight", &conv, 4);
    size_of(file, "bn_crops/init/head.mlp.0.weight", &first, 2);
    size_of(file, "bn_crops/init/head.last_layer.weight_v", &last, 2);
    const int64_t locals = integer(file, "bn_crops", "nlocal", AGRICLIP_CROPS - 2);
    *c = (crops_case){.file = file,
                      .crops = 2 + locals,
                      .images = integer(file, "bn_crops", "batch", MOST_ROWS),
                      .classes = integer(file, "bn_crops", "out_dim", MOST_CLASSES),
                      .channels = conv.shape[0],
                      .width = 32 * conv.shape[0]};
    char *tower =
        cps_format("{\"kind\":\"resnet\",\"image_size\":%lld,\"width\":%lld,\"layers\":14}",
                   (long long)global.shape[3], (long long)c->width);
    char *objective = cps_format(
        "\"K\":%lld,\"hidden\":%lld,\"bottleneck\":%lld,\"layers\":3,\"local_crops\":%lld,"
        "\"local_size\":%lld,\"momentum\":%.17g,\"freeze_last_layer\":0",
        (long long)c->classes, (long long)first.shape[0], (long long)last.shape[1],
        (long long)locals, (long long)local.shape[3], number(file, "bn_crops", "ema"));
    c->stage = (setting){.tower = tower,
                         .objective = objective,
                         .optimizer = sgd(number(file, "bn_crops", "sgd_lr")),
                         .schedule = constant_rate,
                         .records = c->images,
                         .batch = c->images,
                         .grain = c->images,
                         .steps = 1};
}

static void free_stage(const setting *stage) {
    free((void *)(uintptr_t)stage->tower);
    free((void *)(uintptr_t)stage->objective);
    free((void *)(uintptr_t)stage->optimizer);
}

static void check_crops(cps_h5 *file) {
    static const char *const inputs[] = {"init", "x_global", "x_local", "loss", NULL};
    if (!vectors_has(file, "bn_crops", inputs)) {
        return;
    }
    crops_case c;
    double *crops[2];
    trial t, gradient;
    cps_step_result result;
    cps_h5_info global, local;
    open_crops(file, &c);
    size_of(file, "bn_crops/x_global", &global, 5);
    size_of(file, "bn_crops/x_local", &local, 5);
    give_crops(file, "bn_crops", c.crops - 2, global.count / 2, local.count / (c.crops - 2), crops);
    agriclip_gives.kind = AGRICLIP_STEM;
    begin(&c.stage, &t);
    put_nets(file, "bn_crops/init", &t, true);
    cps_real *before = copy_flat(&t);
    watch_rows(c.crops, c.images, c.width);
    probe(c.stage, before, 0, &gradient);
    expect_gradients(file, "bn_crops/grad", &gradient, before, true);
    engine_close(&gradient);
    agriclip_gives.params = cps_model_params(t.run->model);
    expect_logits(file, "bn_crops", &t, 3, c.crops, c.images, c.width, c.classes);
    stop_watching();
    vectors_need(engine_step(&t, &result));
    vectors_expect_in(file, "bn_crops", "loss", &result.loss, 1, tolerance());
    expect_net(file, "bn_crops/student", &t, "ssl.", true);
    expect_net(file, "bn_crops/teacher", &t, "ssl.teacher.", true);
    agriclip_gives.kind = AGRICLIP_NOTHING;
    take_crops_back(crops);
    engine_close(&t);
    free(before);
    free_stage(&c.stage);
}

/* ---- running statistics of a head ---- */

/* A stage whose one image has the file's rows as crops. */
static setting statistics_stage(cps_h5 *file, const char *group) {
    char *x = cps_format("%s/x", group), *first = cps_format("%s/param/mlp.0.weight", group),
         *v = cps_format("%s/param/last_layer.weight_v", group);
    cps_h5_info rows, hidden, last;
    size_of(file, x, &rows, 2);
    size_of(file, first, &hidden, 2);
    size_of(file, v, &last, 2);
    vectors_need_same(group, rows.shape[0] >= 2 && rows.shape[0] < AGRICLIP_CROPS);
    const setting stage = {
        .tower = cps_format("{\"kind\":\"vit\",\"variant\":\"dino\",\"image_size\":8,\"patch\":4,"
                            "\"width\":%lld,\"layers\":1,\"heads\":1}",
                            (long long)rows.shape[1]),
        .objective = cps_format("\"K\":%lld,\"hidden\":%lld,\"bottleneck\":%lld,\"layers\":3,"
                                "\"local_crops\":%lld,\"use_bn\":true",
                                (long long)last.shape[0], (long long)hidden.shape[0],
                                (long long)last.shape[1], (long long)(rows.shape[0] - 2)),
        .optimizer = sgd(0.0),
        .schedule = constant_rate,
        .records = 1,
        .batch = 1,
        .grain = 1,
        .steps = 1};
    free(x);
    free(first);
    free(v);
    return stage;
}

static void check_statistics(cps_h5 *file, const char *group) {
    static const char *const inputs[] = {"buffer_after", "param", "x", NULL};
    if (!vectors_has(file, group, inputs)) {
        return;
    }
    char *after = cps_format("%s/buffer_after", group), *params = cps_format("%s/param", group);
    const setting stage = statistics_stage(file, group);
    int64_t count = 0;
    char *x = cps_format("%s/x", group);
    double *values = vectors_read(file, x, &count);
    visit_work work = {.file = file, .tolerance = tolerance()};
    trial t;
    cps_step_result result;
    const net n = {&t, "ssl.head.", false, true};
    agriclip_gives.kind = AGRICLIP_ROWS;
    agriclip_gives.images = 1;
    agriclip_gives.rows = values;
    begin(&stage, &t);
    each_parameter(file, params, &n, put_one, &work);
    vectors_need(engine_step(&t, &result));
    each_parameter(file, after, &n, expect_one, &work);
    agriclip_gives.kind = AGRICLIP_NOTHING;
    agriclip_gives.rows = NULL;
    engine_close(&t);
    free_stage(&stage);
    free(values);
    free(x);
    free(params);
    free(after);
}

void agriclip_dino_train(cps_h5 *file) {
    engine_start_on(vectors_comm(), "/proc/self/exe");
    check_train(file);
    check_crops(file);
    vectors_each(file, "dino_head", check_statistics);
    engine_end_data();
}
