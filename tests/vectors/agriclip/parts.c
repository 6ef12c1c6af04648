/* What AgriCLIP's vectors say of the inside of agriclip.dino (heads, pairs of crops), asked of the
 * plugin's own objects, which are linked into this runner; and of a DINO tower and its position
 * tables; and the tables of schedules. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/vectors/agriclip.h"
#include "tests/vectors/arrays.h"
#include "base/arena.h"
#include "base/file.h"
#include "model/positions.h"
#include "model/tower.h"
#include "plugins/agriclip/dino.h"
#include "tensor/ops.h"
#include "train/schedule.h"
#include "train/stage.h"

enum { MOST_SIDE = 4096, MOST_VALUES = 1 << 24 };

static double tolerance(void) {
    return vectors_tolerance(1e-10, 2e-5);
}

/* ---- a tape with leaves of the file's values ---- */

typedef struct bench {
    cps_arena *arena;
    cps_tape *tape;
} bench;

static bench open_bench(void) {
    bench b = {NULL, NULL};
    vectors_need(cps_arena_create("vectors", (size_t)1 << 22, true, &b.arena));
    vectors_need(cps_tape_create(b.arena, CPS_TAPE_RECORD, cps_host_table(), &b.tape));
    return b;
}

static void close_bench(bench *b) {
    cps_tape_destroy(b->tape);
    cps_arena_destroy(b->arena);
}

static cps_real *reals(bench *b, const double *values, int64_t count) {
    cps_real *out = cps_arena_alloc_zero(b->arena, (size_t)(count + 1) * sizeof *out);
    for (int64_t i = 0; i < count && out != NULL && values != NULL; i++) {
        out[i] = (cps_real)values[i];
    }
    if (out == NULL) {
        vectors_unusable("%s", cps_fail_message());
    }
    return out;
}

static int64_t count_of(const cps_tensor *tensor) {
    int64_t count = 1;
    for (int32_t d = 0; d < tensor->rank; d++) {
        count *= tensor->shape[d];
    }
    return count;
}

static cps_tensor *leaf(bench *b, int32_t rank, const int64_t *shape, const double *values,
                        bool learns) {
    int64_t count = 1;
    for (int32_t d = 0; d < rank; d++) {
        count *= shape[d];
    }
    cps_tensor *made = cps_tape_leaf(b->tape, CPS_REAL, rank, shape, reals(b, values, count),
                                     learns ? reals(b, NULL, count) : NULL, learns ? 0 : -1);
    vectors_need(cps_tape_status(b->tape));
    made->needs_grad = made->grad_fresh = learns;
    return made;
}

static cps_tensor *leaf_in(bench *b, cps_h5 *file, const char *group, const char *name,
                           bool learns) {
    char *path = cps_format("%s/%s", group, name);
    cps_h5_info info;
    int64_t count = 0;
    vectors_need(cps_h5_inspect(file, path, &info));
    double *values = vectors_read(file, path, &count);
    if (values == NULL || info.rank > CPS_MAX_DIMS) {
        vectors_unusable("'%s' is no array of numbers", path);
    }
    cps_tensor *made = leaf(b, info.rank, info.shape, values, learns);
    free(values);
    free(path);
    return made;
}

static void expect_values(cps_h5 *file, const char *group, const char *name, const cps_real *values,
                          int64_t count) {
    double *wide = vectors_doubles(count);
    for (int64_t i = 0; i < count; i++) {
        wide[i] = (double)values[i];
    }
    vectors_expect_in(file, group, name, wide, count, tolerance());
    free(wide);
}

static void expect_tensor(cps_h5 *file, const char *group, const char *name,
                          const cps_tensor *tensor) {
    expect_values(file, group, name, tensor->data, count_of(tensor));
}

static void expect_gradient(cps_h5 *file, const char *group, const char *name,
                            const cps_tensor *tensor) {
    expect_values(file, group, name, tensor->grad, count_of(tensor));
}

static void seed_with(bench *b, cps_tensor *tensor, cps_h5 *file, const char *group,
                      const char *name) {
    char *path = cps_format("%s/%s", group, name);
    int64_t count = 0;
    double *values = vectors_read(file, path, &count);
    if (values == NULL || count != count_of(tensor)) {
        vectors_unusable("'%s' is no gradient of %lld values", path, (long long)count_of(tensor));
    }
    cps_tape_seed(b->tape, tensor, reals(b, values, count));
    free(values);
    free(path);
}

/* ---- pairs of crops ---- */

/* Logits come through the operations with the identity as last layer. */
void agriclip_dino_pairs(const agriclip_pairs *given, double *loss_out, double *d_student,
                         double *probabilities) {
    bench b = open_bench();
    const int64_t rows = given->crops * given->images, classes = given->classes;
    const int64_t taught = 2 * given->images;
    double *identity = vectors_doubles(classes * classes), *sums = vectors_doubles(classes);
    for (int64_t k = 0; k < classes; k++) {
        identity[k * classes + k] = 1.0;
    }
    cps_tensor *weight = leaf(&b, 2, (int64_t[]){classes, classes}, identity, false);
    cps_tensor *student = leaf(&b, 2, (int64_t[]){rows, classes}, given->student, true);
    cps_tensor *teacher = leaf(&b, 2, (int64_t[]){taught, classes}, given->teacher, false);
    cps_tensor *centre = leaf(&b, 1, &classes, given->centre, false);
    agriclip_dino_teacher said = {.sums = sums};
    cps_tensor *q =
        agriclip_dino_targets(b.tape, teacher, weight, centre, given->teacher_temp, &said);
    cps_tensor *loss = agriclip_dino_cross_entropy(b.tape, student, weight, q, given->student_temp,
                                                   1.0 / (double)given->images);
    vectors_need(cps_tape_status(b.tape));
    vectors_need(cps_backward(b.tape, loss, 1.0));
    *loss_out = (double)*(const cps_real *)loss->data;
    for (int64_t i = 0; i < rows * classes; i++) {
        d_student[i] = (double)student->grad[i];
    }
    for (int64_t i = 0; i < taught * classes && probabilities != NULL; i++) {
        probabilities[i] = (double)((const cps_real *)q->data)[i % classes * taught + i / classes];
    }
    free(identity);
    free(sums);
    close_bench(&b);
}

/* ---- heads ---- */

static bool has_in(cps_h5 *file, const char *group, const char *name) {
    char *path = cps_format("%s/%s", group, name);
    const bool there = cps_h5_has(file, path);
    free(path);
    return there;
}

/* A head as a file has it: leaves, and under which names. */
typedef struct head_case {
    agriclip_dino_head head;
    char linear[AGRICLIP_DINO_MOST_LAYERS][16], norm[AGRICLIP_DINO_MOST_LAYERS][16];
    double *moments[AGRICLIP_DINO_MOST_LAYERS];
} head_case;

static cps_tensor *part(bench *b, cps_h5 *file, const char *params, const char *module,
                        const char *kind) {
    char *name = cps_format("%s.%s", module, kind);
    cps_tensor *made = leaf_in(b, file, params, name, true);
    free(name);
    return made;
}

/* Modules mlp.0, mlp.1, ...: matrices are layers, vectors the norms behind them. */
static void read_modules(bench *b, cps_h5 *file, const char *params, head_case *h) {
    for (int i = 0; i < 3 * AGRICLIP_DINO_MOST_LAYERS; i++) {
        char module[16], weight[32];
        snprintf(module, sizeof module, "mlp.%d", i);
        snprintf(weight, sizeof weight, "mlp.%d.weight", i);
        if (!has_in(file, params, weight)) {
            continue;
        }
        cps_tensor *matrix = leaf_in(b, file, params, weight, true);
        if (matrix->rank == 2 && h->head.layer_count < AGRICLIP_DINO_MOST_LAYERS) {
            const int64_t at = h->head.layer_count++;
            h->head.layers[at] = (agriclip_dino_layer){
                .weight = matrix, .bias = part(b, file, params, module, "bias")};
            snprintf(h->linear[at], sizeof h->linear[at], "%s", module);
        } else if (matrix->rank == 1 && h->head.layer_count > 0) {
            const int64_t at = h->head.layer_count - 1;
            h->head.layers[at].gain = matrix;
            h->head.layers[at].shift = part(b, file, params, module, "bias");
            h->moments[at] = vectors_doubles(2 * matrix->shape[0]);
            snprintf(h->norm[at], sizeof h->norm[at], "%s", module);
        } else {
            vectors_unusable("'%s/%s' fits no head", params, weight);
        }
    }
}

/* fixed_g: there is no gradient of it in the file. */
static void read_head(bench *b, cps_h5 *file, const char *params, bool fixed_g, head_case *h) {
    *h = (head_case){.head = {.layer_count = 0}};
    if (has_in(file, params, "mlp.weight")) {
        h->head.layer_count = 1;
        h->head.layers[0] = (agriclip_dino_layer){.weight = part(b, file, params, "mlp", "weight"),
                                                  .bias = part(b, file, params, "mlp", "bias")};
        snprintf(h->linear[0], sizeof h->linear[0], "mlp");
    } else {
        read_modules(b, file, params, h);
    }
    if (h->head.layer_count == 0) {
        vectors_unusable("'%s' has no layer of a head", params);
    }
    h->head.v = leaf_in(b, file, params, "last_layer.weight_v", true);
    h->head.g = leaf_in(b, file, params, "last_layer.weight_g", !fixed_g);
}

static double largest(const cps_real *values, int64_t count) {
    double most = 0.0;
    for (int64_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)values[i]));
    }
    return most;
}

/* vanishes: a batch norm takes the bias away again, so that its gradient is what rounding leaves of
 * the sums that make the weight's: it is measured against that. */
static void expect_pair(cps_h5 *file, const char *grads, const char *module,
                        const cps_tensor *weight, const cps_tensor *bias, bool vanishes) {
    const double usual_floor = 1e-6;
    char *names[] = {cps_format("%s.weight", module), cps_format("%s.bias", module)};
    expect_gradient(file, grads, names[0], weight);
    if (vanishes) {
        vectors_set_floor(fmax(usual_floor, largest(weight->grad, count_of(weight))));
    }
    expect_gradient(file, grads, names[1], bias);
    vectors_set_floor(usual_floor);
    free(names[0]);
    free(names[1]);
}

static void expect_head_gradients(cps_h5 *file, const char *grads, const head_case *h) {
    for (int64_t i = 0; i < h->head.layer_count; i++) {
        const agriclip_dino_layer *layer = &h->head.layers[i];
        expect_pair(file, grads, h->linear[i], layer->weight, layer->bias, layer->gain != NULL);
        if (layer->gain != NULL) {
            expect_pair(file, grads, h->norm[i], layer->gain, layer->shift, false);
        }
    }
    expect_gradient(file, grads, "last_layer.weight_v", h->head.v);
    if (h->head.g->needs_grad) {
        expect_gradient(file, grads, "last_layer.weight_g", h->head.g);
    }
}

static void check_head(cps_h5 *file, const char *group) {
    bench b = open_bench();
    head_case h;
    char *params = cps_format("%s/param", group), *grads = cps_format("%s/grad", group);
    read_head(&b, file, params, !has_in(file, grads, "last_layer.weight_g"), &h);
    cps_tensor *x = leaf_in(&b, file, group, "x", true);
    cps_tensor *z = agriclip_dino_bottleneck(b.tape, &h.head, x, false, h.moments);
    cps_tensor *unit = cps_normalize(b.tape, z, 1e-12);
    cps_tensor *y = cps_linear(b.tape, unit, agriclip_dino_weight(b.tape, h.head.v, h.head.g), NULL,
                               CPS_ACT_NONE);
    vectors_need(cps_tape_status(b.tape));
    expect_tensor(file, group, "bottleneck", z);
    expect_tensor(file, group, "bottleneck_unit", unit);
    expect_tensor(file, group, "y", y);
    seed_with(&b, y, file, group, "dy");
    vectors_need(cps_backward(b.tape, NULL, 0.0));
    expect_gradient(file, group, "dx", x);
    expect_head_gradients(file, grads, &h);
    for (int64_t i = 0; i < h.head.layer_count; i++) {
        free(h.moments[i]);
    }
    free(params);
    free(grads);
    close_bench(&b);
}

/* Logits of rows that a tower gave, for runs whose files hold them. The head's parameters are those
 * of the model under `prefix`. */
double *agriclip_dino_logits(cps_params *params, const char *prefix, int64_t layers,
                             const double *rows, int64_t count, int64_t width) {
    bench b = open_bench();
    agriclip_dino_head head = {.layer_count = layers};
    double *none[AGRICLIP_DINO_MOST_LAYERS] = {NULL};
    for (int64_t i = 0; i < layers + 1; i++) {
        for (int part_of = 0; part_of < 2; part_of++) {
            char name[128];
            if (i < layers) {
                snprintf(name, sizeof name, "%s.mlp.%d.%s", prefix, (int)(2 * i),
                         part_of == 0 ? "weight" : "bias");
            } else {
                snprintf(name, sizeof name, "%s.last_layer.weight_%s", prefix,
                         part_of == 0 ? "v" : "g");
            }
            const int32_t index = cps_params_find(params, name);
            if (index < 0) {
                vectors_unusable("the model has no parameter '%s'", name);
            }
            cps_tensor *tensor = &cps_params_at(params, index)->tensor;
            cps_tensor **place = i == layers    ? (part_of == 0 ? &head.v : &head.g)
                                 : part_of == 0 ? &head.layers[i].weight
                                                : &head.layers[i].bias;
            *place = cps_stop_gradient(b.tape, tensor);
        }
    }
    cps_tensor *x = leaf(&b, 2, (int64_t[]){count, width}, rows, false);
    cps_tensor *z = agriclip_dino_bottleneck(b.tape, &head, x, true, none);
    cps_tensor *y = cps_linear(b.tape, cps_normalize(b.tape, z, 1e-12),
                               agriclip_dino_weight(b.tape, head.v, head.g), NULL, CPS_ACT_NONE);
    vectors_need(cps_tape_status(b.tape));
    double *logits = vectors_doubles(count_of(y));
    for (int64_t i = 0; i < count_of(y); i++) {
        logits[i] = (double)((const cps_real *)y->data)[i];
    }
    close_bench(&b);
    return logits;
}

/* ---- towers ---- */

static int64_t integer(cps_h5 *file, const char *object, const char *name) {
    int64_t value = 0;
    vectors_need(cps_h5_read_integer(file, object, name, &value));
    return value;
}

static double number(cps_h5 *file, const char *object, const char *name) {
    double value = 0.0;
    vectors_need(cps_h5_read_number(file, object, name, &value));
    return value;
}

/* Parameters with the file's values, gradients in grads. */
static void load_parameters(cps_h5 *file, cps_params *params, cps_real **grads_out) {
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        const cps_param *param = cps_params_at(params, i);
        char *path = cps_format("vit/param/%s", param->name);
        int64_t count = 0;
        cps_real *values = vectors_read_real(file, path, &count);
        if (values == NULL || count != param->count) {
            vectors_unusable("'%s' does not hold the %lld values of the tower", path,
                             (long long)param->count);
        }
        vectors_need(
            cps_params_offer(params, param->name, param->spec.rank, param->spec.shape, values));
        free(values);
        free(path);
    }
    vectors_need(cps_params_allocate(params, 0));
    vectors_need(cps_params_set_train(params, NULL, 0));
    cps_real *grads = calloc((size_t)cps_params_flat_count(params), sizeof *grads);
    if (grads == NULL) {
        vectors_unusable("out of memory");
    }
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        cps_param *param = cps_params_at(params, i);
        param->tensor.grad = grads + param->offset;
        param->tensor.grad_fresh = true;
    }
    *grads_out = grads;
}

/* The table that an input of `side` x `side` gets. */
static void expect_local_table(cps_h5 *file, cps_params *params, int64_t grid, int64_t side) {
    bench b = open_bench();
    double *map = NULL;
    vectors_need(cps_positions_map(CPS_RESAMPLE_DINO, grid, side, side, &map));
    const cps_param *table = cps_params_at(params, cps_params_find(params, "pos_embed"));
    const int64_t shape[2] = {1 + grid * grid, table->count / (1 + grid * grid)};
    cps_tensor *rows = cps_tape_leaf(b.tape, CPS_REAL, 2, shape, table->tensor.data, NULL, -1);
    cps_tensor *local = cps_resample_rows(b.tape, rows, 1 + side * side, map);
    vectors_need(cps_tape_status(b.tape));
    expect_tensor(file, "vit", "pos_local", local);
    free(map);
    close_bench(&b);
}

static void check_vit(cps_h5 *file) {
    static const char *const inputs[] = {"x_global", "x_local", "dy_global",
                                         "dy_local", "param",   NULL};
    if (!vectors_has(file, "vit", inputs)) {
        return;
    }
    const int64_t patch = integer(file, "vit", "p"), image = integer(file, "vit", "img");
    const cps_tower_config config = {.name = "vit",
                                     .prefix = "",
                                     .kind = CPS_TOWER_VIT,
                                     .dino = true,
                                     .patch_bias = true,
                                     .image_size = image,
                                     .patch = patch,
                                     .width = integer(file, "vit", "d"),
                                     .layers = integer(file, "vit", "depth"),
                                     .heads = integer(file, "vit", "h"),
                                     .norm_eps = 1e-6};
    cps_params *params = NULL;
    cps_tower *tower = NULL;
    cps_real *grads = NULL;
    vectors_need(cps_params_create(&params));
    vectors_need(cps_tower_create(params, &config, &tower));
    load_parameters(file, params, &grads);
    bench b = open_bench();
    for (int i = 0; i < 2; i++) {
        const bool local = i == 1;
        cps_tower_output out;
        const cps_tower_input input = {
            .image = leaf_in(&b, file, "vit", local ? "x_local" : "x_global", false)};
        vectors_need(cps_tower_forward(tower, b.tape, &input, CPS_OUT_POOLED, &out));
        expect_tensor(file, "vit", local ? "y_local" : "y_global", out.pooled);
        seed_with(&b, out.pooled, file, "vit", local ? "dy_local" : "dy_global");
    }
    vectors_need(cps_backward(b.tape, NULL, 0.0));
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        const cps_param *param = cps_params_at(params, i);
        expect_values(file, "vit/grad", param->name, grads + param->offset, param->count);
    }
    expect_local_table(file, params, image / patch, integer(file, "vit", "loc") / patch);
    close_bench(&b);
    cps_tower_destroy(tower);
    cps_params_destroy(params);
    free(grads);
}

/* ---- position tables ---- */

/* The patch that makes `rows` rows of an image of height x width. */
static int64_t patch_of(int64_t height, int64_t width, int64_t rows) {
    for (int64_t patch = 1; patch <= height && patch <= width; patch++) {
        if (height % patch == 0 && width % patch == 0 &&
            1 + height / patch * (width / patch) == rows) {
            return patch;
        }
    }
    return 0;
}

static void check_positions(cps_h5 *file, const char *group) {
    static const char *const inputs[] = {"out", "dout", NULL};
    long long height = 0, width = 0;
    const char *name = strrchr(group, '/') + 1;
    if (sscanf(name, "%lldx%lld", &height, &width) != 2 || height < 1 || width < 1 ||
        height > MOST_SIDE || width > MOST_SIDE || !vectors_has(file, group, inputs)) {
        return;
    }
    char *path = cps_format("%s/out", group);
    cps_h5_info info, table_info;
    vectors_need(cps_h5_inspect(file, path, &info));
    vectors_need(cps_h5_inspect(file, "pos_interp/pos_embed", &table_info));
    const int64_t patch = info.rank == 3 ? patch_of(height, width, info.shape[1]) : 0;
    const int64_t grid = table_info.rank == 3 ? (int64_t)sqrt((double)table_info.shape[1]) : 0;
    if (patch == 0 || table_info.shape[1] != 1 + grid * grid || info.count > MOST_VALUES) {
        vectors_unusable("'%s' is no position table of an image of %lld x %lld", path, height,
                         width);
    }
    bench b = open_bench();
    double *map = NULL;
    vectors_need(cps_positions_map(CPS_RESAMPLE_DINO, grid, height / patch, width / patch, &map));
    cps_tensor *table = leaf_in(&b, file, "pos_interp", "pos_embed", true);
    cps_tensor *rows = cps_reshape(b.tape, table, 2, &table_info.shape[1]);
    cps_tensor *out = cps_resample_rows(b.tape, rows, info.shape[1], map);
    vectors_need(cps_tape_status(b.tape));
    expect_tensor(file, group, "out", out);
    seed_with(&b, out, file, group, "dout");
    vectors_need(cps_backward(b.tape, NULL, 0.0));
    expect_gradient(file, group, "dpos_embed", table);
    free(map);
    free(path);
    close_bench(&b);
}

/* ---- schedules ---- */

/* The published table of the teacher's temperature, one an epoch. */
static void expect_temperatures(cps_h5 *file, const char *path) {
    const double warmup = number(file, path, "warmup_teacher_temp"),
                 final = number(file, path, "teacher_temp");
    const int64_t epochs = integer(file, path, "epochs"),
                  warmup_epochs = integer(file, path, "warmup_epochs");
    double *values = vectors_doubles(epochs);
    for (int64_t i = 0; i < epochs; i++) {
        values[i] = agriclip_dino_temperature(warmup, final, warmup_epochs, i);
    }
    vectors_expect(file, path, values, epochs, 1e-12);
    free(values);
}

/* A rate: by the stage's schedule; without a warm-up also as a weight decay, and where it ends at 1
 * as a momentum: one rule, three places. */
static void expect_cosine(cps_h5 *file, const char *path) {
    const double base = number(file, path, "base"), final = number(file, path, "final");
    const int64_t epoch = integer(file, path, "iters_per_epoch"),
                  warmup = integer(file, path, "warmup_epochs");
    const int64_t total = integer(file, path, "epochs") * epoch;
    const cps_schedule schedule = {.kind = CPS_SCHEDULE_COSINE,
                                   .warmup_epochs = warmup,
                                   .warmup = CPS_WARMUP_LINSPACE,
                                   .final = final,
                                   .final_weight_decay = final};
    double *values = vectors_doubles(total), *also = vectors_doubles(total);
    vectors_need(
        cps_schedule_tabulate(&schedule, (cps_numbers){1, &base}, path, total, epoch, values));
    memcpy(also, values, (size_t)total * sizeof *also);
    if (warmup == 0) {
        vectors_need(
            cps_schedule_weight_decay(&schedule, (cps_numbers){1, &base}, path, total, also));
    }
    for (int64_t i = 0; i < total && warmup == 0 && final == 1.0; i++) {
        also[i] = agriclip_dino_momentum(base, i, total);
    }
    char *group = cps_format("%.*s", (int)(strrchr(path, '/') - path), path);
    vectors_expect_both(file, group, strrchr(path, '/') + 1, values, also, total, 1e-12);
    free(group);
    free(values);
    free(also);
}

/* A cosine over T_max epochs of which the table has the first. */
static void expect_first_epochs(cps_h5 *file, const char *path) {
    const double base = number(file, path, "base");
    const int64_t period = integer(file, path, "T_max");
    const cps_schedule schedule = {.kind = CPS_SCHEDULE_COSINE};
    cps_h5_info info;
    vectors_need(cps_h5_inspect(file, path, &info));
    if (info.count < 1 || info.count > period || period > MOST_VALUES) {
        vectors_unusable("'%s' has %lld epochs of a cosine over %lld", path, (long long)info.count,
                         (long long)period);
    }
    double *values = vectors_doubles(period);
    vectors_need(
        cps_schedule_tabulate(&schedule, (cps_numbers){1, &base}, path, period, 0, values));
    vectors_expect(file, path, values, info.count, 1e-12);
    free(values);
}

static void check_schedule(cps_h5 *file, const char *path) {
    if (cps_h5_has_attribute(file, path, "warmup_teacher_temp")) {
        expect_temperatures(file, path);
    } else if (cps_h5_has_attribute(file, path, "T_max")) {
        expect_first_epochs(file, path);
    } else if (cps_h5_has_attribute(file, path, "iters_per_epoch")) {
        expect_cosine(file, path);
    }
}

void agriclip_dino_parts(cps_h5 *file) {
    vectors_each(file, "dino_head", check_head);
    check_vit(file);
    vectors_each(file, "pos_interp", check_positions);
    vectors_each(file, "schedule", check_schedule);
}
