/* Optimizers, clipping and moving averages of AgriCLIP's vectors, by the update of the engine:
 * groups adamw, lars, ema, clip. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/vectors/agriclip.h"
#include "tests/vectors/arrays.h"
#include "base/file.h"
#include "base/json.h"
#include "tests/vectors/ranks.h"
#include "train/update.h"

enum { MOST_TENSORS = 16, MOST_STEPS = 10000 };

static double tolerance(void) {
    return vectors_tolerance(1e-10, 2e-5);
}

/* ---- a model of a few tensors and its update ---- */

typedef struct bench {
    cps_params *params;
    cps_updater *updater;
    cps_json *optimizer;
    double *lr, *weight_decay; /* [steps] */
    int32_t count;
    int32_t index[MOST_TENSORS];
    const double *grads[MOST_TENSORS]; /* of the step at hand; NULL: there is none */
} bench;

static bench open_bench(void) {
    bench b = {0};
    vectors_need(cps_params_create(&b.params));
    return b;
}

/* Its number. ema_of: the tensor that it follows, or NULL. */
static int32_t add_tensor(bench *b, const char *name, int32_t rank, const int64_t *shape,
                          bool decays, const char *ema_of) {
    cps_param_spec spec = {.name = name,
                           .rank = rank,
                           .kind = ema_of == NULL ? CPS_PARAM_WEIGHT : CPS_PARAM_EMA,
                           .ema_of = ema_of,
                           .decay = decays};
    memcpy(spec.shape, shape, (size_t)rank * sizeof *shape);
    if (b->count == MOST_TENSORS) {
        vectors_unusable("more than %d tensors", MOST_TENSORS);
    }
    vectors_need(cps_params_add(b->params, &spec, &b->index[b->count]));
    return b->count++;
}

static cps_param *tensor_at(const bench *b, int32_t number) {
    return cps_params_at(b->params, b->index[number]);
}

static void set_values(const bench *b, int32_t number, const double *values) {
    const cps_param *param = tensor_at(b, number);
    for (int64_t i = 0; i < param->count; i++) {
        ((cps_real *)param->tensor.data)[i] = (cps_real)values[i];
    }
}

static void get_values(const bench *b, int32_t number, double *values) {
    const cps_param *param = tensor_at(b, number);
    for (int64_t i = 0; i < param->count; i++) {
        values[i] = (double)((const cps_real *)param->tensor.data)[i];
    }
}

static void allocate(bench *b) {
    vectors_need(cps_params_allocate(b->params, 0));
    vectors_need(cps_params_set_train(b->params, NULL, 0));
    vectors_need(cps_params_set_lr_factors(b->params, NULL, NULL, 0));
}

/* optimizer: JSON; lr and weight_decay: a value for each step. */
static void start(bench *b, const char *kind, const char *optimizer, const double *lr,
                  const double *weight_decay, int64_t steps, double clip) {
    vectors_need(cps_json_parse(optimizer, strlen(optimizer), "optimizer", &b->optimizer));
    b->lr = vectors_doubles(steps);
    b->weight_decay = vectors_doubles(steps);
    memcpy(b->lr, lr, (size_t)steps * sizeof *lr);
    for (int64_t i = 0; i < steps && weight_decay != NULL; i++) {
        b->weight_decay[i] = weight_decay[i];
    }
    const cps_updater_options options = {.comm = vectors_comm(),
                                         .params = b->params,
                                         .parts = 1,
                                         .optimizer_kind = kind,
                                         .optimizer = b->optimizer,
                                         .lr = b->lr,
                                         .weight_decay = b->weight_decay,
                                         .steps = steps,
                                         .clip_tensor = clip,
                                         .world = true};
    vectors_need(cps_updater_create(&options, &b->updater));
}

/* Gradients as a backward pass leaves them, then the update. */
static double step(bench *b, int64_t number) {
    cps_update_norms norms;
    cps_updater_begin(b->updater, 1);
    cps_updater_part_begin(b->updater, 0);
    for (int32_t i = 0; i < b->count; i++) {
        cps_tensor *tensor = &tensor_at(b, i)->tensor;
        cps_updater_hold(b->updater, b->index[i], b->grads[i] == NULL);
        for (int64_t k = 0; tensor->grad != NULL && k < tensor_at(b, i)->count; k++) {
            tensor->grad[k] = b->grads[i] == NULL ? 0 : (cps_real)b->grads[i][k];
            tensor->grad_fresh = false;
        }
    }
    cps_updater_part_end(b->updater, 0);
    vectors_need(cps_updater_finish(b->updater, CPS_OK, NULL, &norms));
    vectors_need(cps_updater_apply(b->updater, number));
    cps_updater_wait_weights(b->updater);
    return norms.grad_norm;
}

static void close_bench(bench *b) {
    cps_updater_destroy(b->updater);
    cps_params_destroy(b->params);
    cps_json_destroy(b->optimizer);
    free(b->lr);
    free(b->weight_decay);
}

/* ---- inputs ---- */

static double number(cps_h5 *file, const char *group, const char *name) {
    double value = 0.0;
    vectors_need(cps_h5_read_number(file, group, name, &value));
    return value;
}

/* A dataset whose first dimension, where `stacked`, is that of steps. */
typedef struct array {
    int32_t rank;
    int64_t shape[CPS_MAX_DIMS], count, steps; /* of one step */
    double *values;
} array;

static array read_array(cps_h5 *file, const char *group, const char *name, bool stacked) {
    char *path = cps_format("%s/%s", group, name);
    const int32_t lead = stacked ? 1 : 0;
    cps_h5_info info;
    array a = {.count = 1, .steps = 1};
    int64_t all = 0;
    vectors_need(cps_h5_inspect(file, path, &info));
    a.values = vectors_read(file, path, &all);
    if (a.values == NULL || info.rank < lead || info.rank - lead > CPS_MAX_DIMS || all < 1) {
        vectors_unusable("'%s' is no array of numbers", path);
    }
    a.rank = info.rank - lead;
    a.steps = stacked ? info.shape[0] : 1;
    for (int32_t d = 0; d < a.rank; d++) {
        a.shape[d] = info.shape[d + lead];
        a.count *= a.shape[d];
    }
    vectors_need_same(path, a.steps <= MOST_STEPS);
    free(path);
    return a;
}

static bool same_size(const array *a, const array *b) {
    return a->count == b->count && a->steps == b->steps;
}

/* ---- AdamW ---- */

static void check_adamw(cps_h5 *file) {
    static const char *const inputs[] = {"p0", "grad", "has_grad", "lr", "wd", "p", NULL};
    if (!vectors_has(file, "adamw", inputs)) {
        return;
    }
    array p0 = read_array(file, "adamw", "p0", false), p = read_array(file, "adamw", "p", true),
          grad = read_array(file, "adamw", "grad", true),
          has = read_array(file, "adamw", "has_grad", true),
          lr = read_array(file, "adamw", "lr", true), wd = read_array(file, "adamw", "wd", true);
    vectors_need_same("adamw", same_size(&grad, &p) && p0.count == p.count &&
                                   has.steps == p.steps && lr.steps == p.steps &&
                                   wd.steps == p.steps);
    bench b = open_bench();
    const int32_t tensor = add_tensor(&b, "p", p0.rank, p0.shape, true, NULL);
    allocate(&b);
    set_values(&b, tensor, p0.values);
    start(&b, "adamw", "{\"lr\":0,\"beta1\":0.9,\"beta2\":0.999,\"eps\":1e-8}", lr.values,
          wd.values, p.steps, 0.0);
    double *after = vectors_doubles(p.steps * p.count);
    for (int64_t i = 0; i < p.steps; i++) {
        b.grads[tensor] = has.values[i] != 0.0 ? grad.values + i * p.count : NULL;
        (void)step(&b, i);
        get_values(&b, tensor, after + i * p.count);
    }
    vectors_expect_in(file, "adamw", "p", after, p.steps * p.count, tolerance());
    close_bench(&b);
    double *const all[] = {p0.values, p.values,  grad.values, has.values,
                           lr.values, wd.values, after};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

/* ---- LARS ---- */

static void check_lars(cps_h5 *file) {
    static const char *const inputs[] = {"w0", "b0", "gw", "gb", "w", "b", NULL}, *const names[] = {
                                                                                      "w", "b"};
    if (!vectors_has(file, "lars", inputs)) {
        return;
    }
    array first[2] = {read_array(file, "lars", "w0", false), read_array(file, "lars", "b0", false)},
          grad[2] = {read_array(file, "lars", "gw", true), read_array(file, "lars", "gb", true)},
          after[2] = {read_array(file, "lars", "w", true), read_array(file, "lars", "b", true)};
    const int64_t steps = grad[0].steps;
    double *rates = vectors_doubles(steps), *decay = vectors_doubles(steps), *now[2];
    char *optimizer = cps_format("{\"lr\":0,\"momentum\":%.17g,\"eta\":%.17g}",
                                 number(file, "lars", "momentum"), number(file, "lars", "eta"));
    bench b = open_bench();
    for (int32_t i = 0; i < 2; i++) {
        vectors_need_same("lars", same_size(&grad[i], &after[i]) && grad[i].steps == steps &&
                                      first[i].count == grad[i].count);
        add_tensor(&b, names[i], first[i].rank, first[i].shape, first[i].rank != 1, NULL);
        now[i] = vectors_doubles(steps * first[i].count);
    }
    allocate(&b);
    for (int64_t i = 0; i < steps; i++) {
        rates[i] = number(file, "lars", "lr");
        decay[i] = number(file, "lars", "wd");
    }
    start(&b, "lars", optimizer, rates, decay, steps, 0.0);
    for (int32_t i = 0; i < 2; i++) {
        set_values(&b, i, first[i].values);
    }
    for (int64_t at = 0; at < steps; at++) {
        for (int32_t i = 0; i < 2; i++) {
            b.grads[i] = grad[i].values + at * grad[i].count;
        }
        (void)step(&b, at);
        for (int32_t i = 0; i < 2; i++) {
            get_values(&b, i, now[i] + at * first[i].count);
        }
    }
    for (int32_t i = 0; i < 2; i++) {
        vectors_expect_in(file, "lars", names[i], now[i], steps * first[i].count, tolerance());
        free(now[i]);
        free(first[i].values);
        free(grad[i].values);
        free(after[i].values);
    }
    close_bench(&b);
    free(rates);
    free(decay);
    free(optimizer);
}

/* ---- moving averages ---- */

/* The student is what the file says after each step; a rate of 0 leaves it there. */
static void check_ema(cps_h5 *file) {
    static const char *const inputs[] = {"teacher0", "student", "m", "teacher", NULL};
    if (!vectors_has(file, "ema", inputs)) {
        return;
    }
    array first = read_array(file, "ema", "teacher0", false),
          student = read_array(file, "ema", "student", true),
          m = read_array(file, "ema", "m", true);
    vectors_need_same("ema", first.count == student.count && m.steps == student.steps);
    bench b = open_bench();
    double *rates = vectors_doubles(m.steps), *after = vectors_doubles(m.steps * first.count),
           *zeros = vectors_doubles(first.count);
    const int32_t source = add_tensor(&b, "s", first.rank, first.shape, false, NULL),
                  teacher = add_tensor(&b, "t", first.rank, first.shape, false, "s");
    allocate(&b);
    start(&b, "sgd", "{\"lr\":0,\"momentum\":0}", rates, NULL, m.steps, 0.0);
    vectors_need(
        cps_updater_set_ema(b.updater, b.index[teacher], (cps_numbers){m.steps, m.values}));
    set_values(&b, teacher, first.values);
    for (int64_t i = 0; i < m.steps; i++) {
        set_values(&b, source, student.values + i * first.count);
        b.grads[source] = zeros;
        (void)step(&b, i);
        get_values(&b, teacher, after + i * first.count);
    }
    vectors_expect_in(file, "ema", "teacher", after, m.steps * first.count, tolerance());
    close_bench(&b);
    double *const all[] = {first.values, student.values, m.values, rates, after, zeros};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

/* ---- clipping ---- */

/* Tensors from 0 with a rate of 1: minus the clipped gradients. The norm of each: of an update of
 * it alone. */
static void check_clip(cps_h5 *file) {
    char **names = NULL;
    int64_t count = 0;
    array grads[MOST_TENSORS];
    char tensors[MOST_TENSORS][32];
    int32_t found = 0;
    if (!cps_h5_has(file, "clip")) {
        return;
    }
    vectors_need(cps_h5_list(file, "clip", &names, &count));
    bench b = open_bench();
    for (int64_t i = 0; i < count && found < MOST_TENSORS; i++) {
        const size_t length = strlen(names[i]);
        if (length > 3 && length < 32 && strcmp(names[i] + length - 3, "_in") == 0) {
            snprintf(tensors[found], sizeof tensors[found], "%.*s", (int)length - 3, names[i]);
            grads[found] = read_array(file, "clip", names[i], false);
            add_tensor(&b, tensors[found], grads[found].rank, grads[found].shape, false, NULL);
            found++;
        }
    }
    cps_strings_destroy(names, count);
    const double limit = number(file, "clip", "clip");
    double *rates = vectors_doubles(found + 1), *norms = vectors_doubles(found + 1);
    for (int32_t i = 0; i <= found; i++) {
        rates[i] = i == 0 ? 1.0 : 0.0;
    }
    allocate(&b);
    start(&b, "sgd", "{\"lr\":0,\"momentum\":0}", rates, NULL, found + 1, limit);
    for (int32_t i = 0; i < found; i++) {
        b.grads[i] = grads[i].values;
    }
    (void)step(&b, 0);
    for (int32_t i = 0; i < found; i++) {
        double *clipped = vectors_doubles(grads[i].count);
        char *out = cps_format("%s_out", tensors[i]);
        get_values(&b, i, clipped);
        for (int64_t k = 0; k < grads[i].count; k++) {
            clipped[k] = -clipped[k];
        }
        vectors_expect_in(file, "clip", out, clipped, grads[i].count, tolerance());
        for (int32_t other = 0; other < found; other++) {
            b.grads[other] = other == i ? grads[i].values : NULL;
        }
        norms[i] = step(&b, i + 1);
        free(clipped);
        free(out);
    }
    vectors_expect_in(file, "clip", "norms", norms, found, tolerance());
    for (int32_t i = 0; i < found; i++) {
        free(grads[i].values);
    }
    close_bench(&b);
    free(rates);
    free(norms);
}

void agriclip_dino_updates(cps_h5 *file) {
    check_adamw(file);
    check_lars(file);
    check_ema(file);
    check_clip(file);
}
