/* agriclip.dino: DINO (Caron et al. 2021, arXiv:2104.14294) as AgriCLIP uses it on images alone. A
 * student sees all crops of an image, its moving average, the teacher, the two large ones; both end
 * in a head over K classes that mean nothing, and the student learns to predict the teacher's
 * sharpened and centred probabilities of the other crops. agriclip.md has the formulas. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "dino.h"

enum { MOST_LOCAL = 32, MOST_CROPS = 2 + MOST_LOCAL, NAME_BYTES = 192 };

const cps_option agriclip_dino_rows[] = {
    {.name = "tower",
     .kind = CPS_OPT_TOWER,
     .default_text = "ssl",
     .help = "image tower that learns; its average becomes the tower '<tower>.teacher'",
     .offset = offsetof(agriclip_dino_options, tower)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .default_text = "paired",
     .help = "where the images come from",
     .offset = offsetof(agriclip_dino_options, stream)},
    {.name = "K",
     .kind = CPS_OPT_INTEGER,
     .default_text = "65536",
     .minimum = 2,
     .maximum = 4194304,
     .help = "outputs of the head; 4096 to 8192 are enough for small data",
     .offset = offsetof(agriclip_dino_options, classes)},
    {.name = "hidden",
     .kind = CPS_OPT_INTEGER,
     .default_text = "2048",
     .minimum = 1,
     .maximum = 65536,
     .help = "width of the head's hidden layers",
     .offset = offsetof(agriclip_dino_options, hidden)},
    {.name = "bottleneck",
     .kind = CPS_OPT_INTEGER,
     .default_text = "256",
     .minimum = 1,
     .maximum = 65536,
     .help = "width of the head's last layer before the outputs",
     .offset = offsetof(agriclip_dino_options, bottleneck)},
    {.name = "layers",
     .kind = CPS_OPT_INTEGER,
     .default_text = "3",
     .minimum = 1,
     .maximum = AGRICLIP_DINO_MOST_LAYERS,
     .help = "linear layers of the head up to the bottleneck",
     .offset = offsetof(agriclip_dino_options, layers)},
    {.name = "use_bn",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "batch norm behind the head's hidden layers, over all rows of a grain",
     .offset = offsetof(agriclip_dino_options, use_bn)},
    {.name = "norm_last_layer",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "outputs are cosines: the lengths of the last layer's rows stay as they are",
     .offset = offsetof(agriclip_dino_options, norm_last_layer)},
    {.name = "local_crops",
     .kind = CPS_OPT_INTEGER,
     .default_text = "8",
     .minimum = 0,
     .maximum = MOST_LOCAL,
     .help = "small crops of an image, beside the two large ones",
     .offset = offsetof(agriclip_dino_options, local_crops)},
    {.name = "global_size",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 8192,
     .help = "side of the large crops in pixels; 0: the tower's image_size",
     .offset = offsetof(agriclip_dino_options, global_size)},
    {.name = "local_size",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 8192,
     .help = "side of the small crops in pixels; 0: 96/224 of the tower's image_size, in patches",
     .offset = offsetof(agriclip_dino_options, local_size)},
    {.name = "global_scale",
     .kind = CPS_OPT_NUMBERS,
     .default_text = "{0.4,1}",
     .minimum = 0.001,
     .maximum = 1,
     .length = 2,
     .help = "least and most area of the large crops",
     .offset = offsetof(agriclip_dino_options, global_scale)},
    {.name = "local_scale",
     .kind = CPS_OPT_NUMBERS,
     .default_text = "{0.05,0.4}",
     .minimum = 0.001,
     .maximum = 1,
     .length = 2,
     .help = "least and most area of the small crops",
     .offset = offsetof(agriclip_dino_options, local_scale)},
    {.name = "student_temp",
     .kind = CPS_OPT_NUMBER,
     .default_text = "0.1",
     .minimum = 1e-4,
     .maximum = 100,
     .help = "temperature of the student's softmax",
     .offset = offsetof(agriclip_dino_options, student_temp)},
    {.name = "teacher_temp",
     .kind = CPS_OPT_SCHEDULE,
     .default_text = "0.04",
     .minimum = 1e-4,
     .maximum = 100,
     .help =
         "temperature of the teacher's softmax, after the warm-up; a function gives each step's",
     .offset = offsetof(agriclip_dino_options, teacher_temp)},
    {.name = "warmup_teacher_temp",
     .kind = CPS_OPT_NUMBER,
     .default_text = "0.04",
     .minimum = 1e-4,
     .maximum = 100,
     .help = "temperature of the teacher's softmax in the first epoch of the warm-up",
     .offset = offsetof(agriclip_dino_options, warmup_teacher_temp)},
    {.name = "warmup_teacher_temp_epochs",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 1000000,
     .help = "epochs over which the teacher's temperature changes linearly",
     .offset = offsetof(agriclip_dino_options, warmup_teacher_temp_epochs)},
    {.name = "momentum",
     .kind = CPS_OPT_SCHEDULE,
     .minimum = 0,
     .maximum = 1,
     .help =
         "share of the teacher that stays in each step; not given: a cosine to 1 over the stage",
     .offset = offsetof(agriclip_dino_options, momentum)},
    {.name = "momentum_start",
     .kind = CPS_OPT_NUMBER,
     .default_text = "0.996",
     .minimum = 0,
     .maximum = 1,
     .help = "where that cosine begins",
     .offset = offsetof(agriclip_dino_options, momentum_start)},
    {.name = "center_momentum",
     .kind = CPS_OPT_NUMBER,
     .default_text = "0.9",
     .minimum = 0,
     .maximum = 1,
     .help = "share of the centre that stays in each step",
     .offset = offsetof(agriclip_dino_options, center_momentum)},
    {.name = "freeze_last_layer",
     .kind = CPS_OPT_INTEGER,
     .default_text = "1",
     .minimum = 0,
     .maximum = 1000000,
     .help = "epochs in which the last layer of the head stands still",
     .offset = offsetof(agriclip_dino_options, freeze_last_layer)},
    {.name = NULL},
};

/* Ids of a layer's parameters and buffers; -1: there is none. */
typedef struct layer_ids {
    int32_t weight, bias, gain, shift, mean, variance;
    int64_t width; /* of its output */
} layer_ids;

typedef struct head_ids {
    layer_ids layers[AGRICLIP_DINO_MOST_LAYERS];
    int32_t v, g;
} head_ids;

typedef struct dino {
    const agriclip_dino_options *options;
    int64_t crops; /* V */
    int64_t steps; /* of the stage; 0 on the trial creation */
    int32_t student[MOST_CROPS], teacher[2];
    head_ids student_head, teacher_head;
    int32_t centre;
} dino;

/* What grains add up for `commit` beside the sums of the teacher's logits. */
enum { SUM_ROWS, SUM_ENTROPY, SUM_LOSS, SUM_COUNT };

/* ---- sizes and tables ---- */

typedef struct sizes {
    int64_t global, local, width;
} sizes;

static int64_t nearest_multiple(double value, int64_t unit) {
    const int64_t count = (int64_t)floor(value / (double)unit + 0.5);
    return (count < 1 ? 1 : count) * unit;
}

static cps_status check_size(cps_setup *setup, const agriclip_dino_options *wanted,
                             const char *what, int64_t size, int64_t patch) {
    return patch > 0 && size % patch != 0
               ? cps_error(setup, CPS_ERR_USAGE,
                           "%s is %lld, no multiple of the patches of tower '%s', which are %lld "
                           "pixels wide: take %lld",
                           what, (long long)size, wanted->tower, (long long)patch,
                           (long long)nearest_multiple((double)size, patch))
               : CPS_OK;
}

static cps_status settle_sizes(cps_setup *setup, const agriclip_dino_options *wanted, sizes *out) {
    const int64_t side = cps_setup_tower_size(setup, wanted->tower, "image_size"),
                  patch = cps_setup_tower_size(setup, wanted->tower, "patch");
    if (side < 1) {
        return cps_error(setup, CPS_ERR_USAGE,
                         side < 0 ? "the model has no tower '%s': add  towers = { %s = copse.tower "
                                    "{ ... } }  to it, or name another tower"
                                  : "tower '%s' reads no images: name an image tower, such as '%s'",
                         wanted->tower, side < 0 ? wanted->tower : "ssl");
    }
    const int64_t global = wanted->global_size > 0 ? wanted->global_size : side;
    const int64_t local = wanted->local_size > 0 ? wanted->local_size
                                                 : nearest_multiple((double)side * 96.0 / 224.0,
                                                                    patch > 0 ? patch : 1);
    *out = (sizes){global, local, cps_setup_tower_size(setup, wanted->tower, "width")};
    const cps_status status = check_size(setup, wanted, "global_size", global, patch);
    return status != CPS_OK || wanted->local_crops == 0
               ? status
               : check_size(setup, wanted, "local_size", local, patch);
}

static cps_status check_table(cps_setup *setup, const char *name, const cps_numbers *table) {
    const int64_t steps = cps_setup_steps(setup);
    return table->count > 1 && steps > 0 && table->count != steps
               ? cps_error(setup, CPS_ERR_USAGE,
                           "%s has %lld values, the stage %lld steps: give one number, a function "
                           "of the step, or a value for each step",
                           name, (long long)table->count, (long long)steps)
               : CPS_OK;
}

static cps_status check_tables(cps_setup *setup, const agriclip_dino_options *wanted) {
    const int64_t steps = cps_setup_steps(setup), epoch = cps_setup_steps_per_epoch(setup),
                  warmup = wanted->warmup_teacher_temp_epochs;
    cps_status status = check_table(setup, "teacher_temp", &wanted->teacher_temp);
    status = status != CPS_OK ? status : check_table(setup, "momentum", &wanted->momentum);
    if (status == CPS_OK && warmup > 0 && wanted->teacher_temp.count > 1) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "teacher_temp gives every step its temperature already: leave out "
                         "warmup_teacher_temp_epochs, or give teacher_temp one number");
    }
    if (status == CPS_OK && epoch > 0 && warmup > (steps + epoch - 1) / epoch) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "warmup_teacher_temp_epochs is %lld, but the stage has only %lld epochs "
                         "(%lld steps of %lld)",
                         (long long)warmup, (long long)((steps + epoch - 1) / epoch),
                         (long long)steps, (long long)epoch);
    }
    return status;
}

/* The moving average's share of each step. */
static cps_status momentum_table(cps_setup *setup, const agriclip_dino_options *wanted,
                                 cps_numbers *out) {
    const int64_t steps = cps_setup_steps(setup);
    *out = wanted->momentum;
    if (out->count > 0) {
        return CPS_OK;
    }
    const int64_t count = steps > 0 ? steps : 1;
    double *values = cps_setup_alloc(setup, (size_t)count * sizeof *values);
    if (values == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    for (int64_t i = 0; i < count; i++) {
        values[i] = agriclip_dino_momentum(wanted->momentum_start, i, count);
    }
    *out = (cps_numbers){count, values};
    return CPS_OK;
}

/* ---- views ---- */

/* agriclip.md, "Views": crop 0 is always blurred, crop 1 seldom but may be solarised. */
static cps_recipe recipe_of(const agriclip_dino_options *wanted, const sizes *size, int64_t crop) {
    static const double blur[] = {1.0, 0.1, 0.5}, solarise[] = {0.0, 0.2, 0.0};
    const int64_t kind = crop < 2 ? crop : 2;
    const cps_numbers *scale = crop < 2 ? &wanted->global_scale : &wanted->local_scale;
    return (cps_recipe){.kind = CPS_RECIPE_RANDOM_RESIZED_CROP,
                        .size = (int32_t)(crop < 2 ? size->global : size->local),
                        .filter = CPS_BICUBIC,
                        .scale_min = scale->values[0],
                        .scale_max = scale->values[1],
                        .ratio_min = 3.0 / 4.0,
                        .ratio_max = 4.0 / 3.0,
                        .flip = 0.5,
                        .jitter = 0.8,
                        .brightness = 0.4,
                        .contrast = 0.4,
                        .saturation = 0.2,
                        .hue = 0.1,
                        .greyscale = 0.2,
                        .blur = blur[kind],
                        .blur_min = 0.1,
                        .blur_max = 2.0,
                        .solarise = solarise[kind]};
}

static int32_t add_view(cps_setup *setup, const dino *self, const sizes *size, const char *stream,
                        int64_t crop, bool teaches) {
    char name[32], tower[NAME_BYTES];
    const cps_recipe recipe = recipe_of(self->options, size, crop);
    snprintf(name, sizeof name, "%s%s.%d", teaches ? "teacher." : "", crop < 2 ? "global" : "local",
             (int)(crop < 2 ? crop : crop - 2));
    snprintf(tower, sizeof tower, "%s%s", self->options->tower, teaches ? ".teacher" : "");
    return cps_setup_view(setup,
                          &(cps_view){.name = name,
                                      .tower = tower,
                                      .group = "dino",
                                      .stream = stream,
                                      .recipe = &recipe,
                                      .crop = (int32_t)crop,
                                      .mode = teaches ? CPS_VIEW_NO_GRADIENT : CPS_VIEW_GRADIENT,
                                      .outputs = CPS_POOLED});
}

static void add_views(cps_setup *setup, dino *self, const sizes *size, const char *stream) {
    for (int64_t crop = 0; crop < self->crops; crop++) {
        self->student[crop] = add_view(setup, self, size, stream, crop, false);
    }
    for (int64_t crop = 0; crop < 2; crop++) {
        self->teacher[crop] = add_view(setup, self, size, stream, crop, true);
    }
}

/* ---- heads ---- */

/* One head in the making; `of`: the student's head whose average it is, NULL: it learns. */
typedef struct head_setup {
    cps_setup *setup;
    const dino *self;
    char prefix[NAME_BYTES];
    const head_ids *of;
    cps_numbers momentum;
    cps_status status;
} head_setup;

/* Parameter `name` of the head, or the average of parameter `source`. */
static int32_t add_parameter(head_setup *h, const char *name, int32_t source,
                             cps_parameter parameter) {
    char full[NAME_BYTES + 64];
    int32_t id = -1;
    snprintf(full, sizeof full, "%s.%s", h->prefix, name);
    parameter.name = full;
    if (h->of == NULL) {
        return cps_setup_parameter(h->setup, &parameter);
    }
    if (h->status == CPS_OK) {
        h->status = cps_setup_ema_parameter(h->setup, source, full, &h->momentum, &id);
    }
    return id;
}

static int32_t add_buffer(head_setup *h, const char *name, int64_t width, double value,
                          int64_t partials) {
    char full[NAME_BYTES + 64];
    snprintf(full, sizeof full, "%s.%s", h->prefix, name);
    return cps_setup_buffer(
        h->setup,
        &(cps_parameter){
            .name = full, .rank = 1, .shape = {width}, .fill = CPS_FILL_CONSTANT, .a = value},
        partials);
}

static layer_ids add_linear(head_setup *h, int64_t layer, const char *name, int64_t in,
                            int64_t out) {
    const layer_ids none = {-1, -1, -1, -1, -1, -1, 0},
                    *of = h->of == NULL ? &none : &h->of->layers[layer];
    char weight[48], bias[48];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    layer_ids ids = none;
    ids.width = out;
    ids.weight = add_parameter(
        h, weight, of->weight,
        (cps_parameter){
            .rank = 2, .shape = {out, in}, .fill = CPS_FILL_NORMAL, .a = 0.02, .decay = true});
    ids.bias = add_parameter(h, bias, of->bias, (cps_parameter){.rank = 1, .shape = {out}});
    return ids;
}

static void add_norm(head_setup *h, int64_t layer, const char *name, layer_ids *ids) {
    const layer_ids *of = h->of == NULL ? ids : &h->of->layers[layer];
    char full[4][48];
    const char *const parts[] = {"weight", "bias", "running_mean", "running_var"};
    for (int i = 0; i < 4; i++) {
        snprintf(full[i], sizeof full[i], "%s.%s", name, parts[i]);
    }
    ids->gain = add_parameter(
        h, full[0], of->gain,
        (cps_parameter){.rank = 1, .shape = {ids->width}, .fill = CPS_FILL_CONSTANT, .a = 1.0});
    ids->shift =
        add_parameter(h, full[1], of->shift, (cps_parameter){.rank = 1, .shape = {ids->width}});
    ids->mean = add_buffer(h, full[2], ids->width, 0.0, 2 * ids->width + 1);
    ids->variance = add_buffer(h, full[3], ids->width, 1.0, 0);
}

/* Names are those of the published head: a lone layer is "mlp", else modules are counted, GELUs and
 * norms included. */
static void add_head(head_setup *h, int64_t width, head_ids *ids) {
    const agriclip_dino_options *wanted = h->self->options;
    const int64_t step = wanted->use_bn ? 3 : 2,
                  frozen = wanted->freeze_last_layer * cps_setup_steps_per_epoch(h->setup);
    for (int64_t i = 0; i < wanted->layers; i++) {
        char name[32], norm[32];
        const bool last = i + 1 == wanted->layers;
        snprintf(name, sizeof name, wanted->layers == 1 ? "mlp" : "mlp.%d", (int)(i * step));
        snprintf(norm, sizeof norm, "mlp.%d", (int)(i * step + 1));
        ids->layers[i] = add_linear(h, i, name, i == 0 ? width : wanted->hidden,
                                    last ? wanted->bottleneck : wanted->hidden);
        if (wanted->use_bn && !last) {
            add_norm(h, i, norm, &ids->layers[i]);
        }
    }
    const double bound = 1.0 / sqrt((double)wanted->bottleneck);
    ids->g = add_parameter(h, "last_layer.weight_g", h->of == NULL ? -1 : h->of->g,
                           (cps_parameter){.rank = 2,
                                           .shape = {wanted->classes, 1},
                                           .fill = CPS_FILL_CONSTANT,
                                           .a = 1.0,
                                           .decay = true,
                                           .frozen_steps = frozen});
    ids->v = add_parameter(h, "last_layer.weight_v", h->of == NULL ? -1 : h->of->v,
                           (cps_parameter){.rank = 2,
                                           .shape = {wanted->classes, wanted->bottleneck},
                                           .fill = CPS_FILL_UNIFORM,
                                           .a = -bound,
                                           .b = bound,
                                           .decay = true,
                                           .frozen_steps = frozen});
}

static cps_status add_heads(cps_setup *setup, dino *self, int64_t width,
                            const cps_numbers *momentum) {
    head_setup student = {.setup = setup, .self = self},
               teacher = {
                   .setup = setup, .self = self, .of = &self->student_head, .momentum = *momentum};
    snprintf(student.prefix, sizeof student.prefix, "%s.head", self->options->tower);
    snprintf(teacher.prefix, sizeof teacher.prefix, "%s.teacher.head", self->options->tower);
    add_head(&student, width, &self->student_head);
    add_head(&teacher, width, &self->teacher_head);
    return teacher.status;
}

/* ---- create ---- */

cps_status agriclip_dino_create(cps_setup *setup, const void *values, void **self_out) {
    const agriclip_dino_options *wanted = values;
    dino *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, wanted->stream);
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    if (strlen(wanted->tower) + sizeof ".teacher.head" > NAME_BYTES) {
        return cps_error(setup, CPS_ERR_USAGE, "the name of tower '%s' is too long", wanted->tower);
    }
    *self = (dino){
        .options = wanted, .crops = 2 + wanted->local_crops, .steps = cps_setup_steps(setup)};
    sizes size = {0};
    cps_numbers momentum = {0};
    char teacher[NAME_BYTES], centre[NAME_BYTES + 16];
    snprintf(teacher, sizeof teacher, "%s.teacher", wanted->tower);
    snprintf(centre, sizeof centre, "%s.head.center", wanted->tower);
    cps_status status = settle_sizes(setup, wanted, &size);
    status = status != CPS_OK ? status : check_tables(setup, wanted);
    status = status != CPS_OK ? status : momentum_table(setup, wanted, &momentum);
    status = status != CPS_OK ? status : cps_setup_ema(setup, wanted->tower, teacher, &momentum);
    if (status != CPS_OK) {
        return status;
    }
    add_views(setup, self, &size, stream);
    self->centre = cps_setup_buffer(
        setup, &(cps_parameter){.name = centre, .rank = 1, .shape = {wanted->classes}},
        wanted->classes + SUM_COUNT);
    cps_setup_counts(setup, 1);
    cps_setup_max_skipped(setup, 0);
    cps_setup_embed(setup, CPS_SIDE_IMAGE, teacher, CPS_POOLED, false);
    *self_out = self;
    return add_heads(setup, self, size.width, &momentum);
}

/* ---- a grain ---- */

cps_status agriclip_dino_prepare(const void *values, const cps_grain *grain, double *counts) {
    counts[0] += (double)cps_grain_rows(grain, ((const dino *)values)->student[0]);
    return CPS_OK;
}

static double temperature_now(const dino *self, const cps_step_info *info) {
    const agriclip_dino_options *wanted = self->options;
    return wanted->teacher_temp.count > 1
               ? wanted->teacher_temp.values[info->step]
               : agriclip_dino_temperature(wanted->warmup_teacher_temp,
                                           wanted->teacher_temp.values[0],
                                           wanted->warmup_teacher_temp_epochs, info->epoch);
}

static double momentum_now(const dino *self, const cps_step_info *info) {
    const cps_numbers *given = &self->options->momentum;
    if (given->count > 0) {
        return given->values[given->count > 1 ? info->step : 0];
    }
    return agriclip_dino_momentum(self->options->momentum_start, info->step,
                                  self->steps > 0 ? self->steps : 1);
}

static cps_tensor *tensor_of(const cps_grain *grain, int32_t id) {
    return id < 0 ? NULL : cps_grain_parameter(grain, id);
}

static void bind_head(const dino *self, const cps_grain *grain, const head_ids *ids,
                      agriclip_dino_head *head) {
    head->layer_count = self->options->layers;
    for (int64_t i = 0; i < head->layer_count; i++) {
        const layer_ids *layer = &ids->layers[i];
        head->layers[i] = (agriclip_dino_layer){.weight = tensor_of(grain, layer->weight),
                                                .bias = tensor_of(grain, layer->bias),
                                                .gain = tensor_of(grain, layer->gain),
                                                .shift = tensor_of(grain, layer->shift),
                                                .mean = tensor_of(grain, layer->mean),
                                                .variance = tensor_of(grain, layer->variance)};
    }
    head->v = tensor_of(grain, ids->v);
    head->g = tensor_of(grain, ids->g);
}

/* Rows of several views, view after view. */
static cps_tensor *join_rows(cps_tape *tape, const cps_grain *grain, const int32_t *views,
                             int64_t count) {
    enum { MOST = 7 }; /* that one call takes */
    cps_tensor *all = cps_grain_output(grain, views[0], CPS_POOLED);
    for (int64_t at = 1; at < count;) {
        cps_tensor *parts[MOST] = {all};
        int32_t taken = 1;
        while (taken < MOST && at < count) {
            parts[taken++] = cps_grain_output(grain, views[at++], CPS_POOLED);
        }
        all = cps_concat_rows(tape, taken, parts);
    }
    return all;
}

/* Unit rows of the bottleneck; the statistics of batch norms are added up for `commit`. */
static cps_tensor *head_rows(const dino *self, cps_grain *grain, cps_tape *tape,
                             const head_ids *ids, const agriclip_dino_head *head, cps_tensor *x) {
    const bool running = cps_grain_step(grain).evaluation;
    double *moments[AGRICLIP_DINO_MOST_LAYERS] = {NULL};
    for (int64_t i = 0; i < self->options->layers && !running; i++) {
        if (ids->layers[i].mean >= 0) {
            const int64_t count = 2 * ids->layers[i].width + 1;
            moments[i] = cps_tape_save(tape, (size_t)count * sizeof(double));
        }
    }
    cps_tensor *z = agriclip_dino_bottleneck(tape, head, x, running, moments);
    for (int64_t i = 0; i < self->options->layers && !running; i++) {
        if (ids->layers[i].mean >= 0) {
            const int64_t count = 2 * ids->layers[i].width + 1;
            if (moments[i] != NULL && cps_tape_computes(tape)) {
                moments[i][count - 1] = 1.0;
            }
            cps_accumulate(grain, ids->layers[i].mean, moments[i], count);
        }
    }
    return cps_normalize(tape, z, 1e-12);
}

static cps_tensor *teacher_targets(const dino *self, cps_grain *grain, cps_tape *tape,
                                   double temperature, agriclip_dino_teacher *said) {
    agriclip_dino_head head;
    bind_head(self, grain, &self->teacher_head, &head);
    cps_tensor *x = join_rows(tape, grain, self->teacher, 2);
    cps_tensor *unit = head_rows(self, grain, tape, &self->teacher_head, &head, x);
    return agriclip_dino_targets(tape, unit, agriclip_dino_weight(tape, head.v, head.g),
                                 cps_grain_parameter(grain, self->centre), temperature, said);
}

static cps_tensor *student_loss(const dino *self, cps_grain *grain, cps_tape *tape,
                                cps_tensor *targets) {
    const double count = cps_grain_count(grain, 0);
    agriclip_dino_head head;
    bind_head(self, grain, &self->student_head, &head);
    cps_tensor *x = join_rows(tape, grain, self->student, self->crops);
    cps_tensor *unit = head_rows(self, grain, tape, &self->student_head, &head, x);
    cps_tensor *g = self->options->norm_last_layer ? cps_stop_gradient(tape, head.g) : head.g;
    return agriclip_dino_cross_entropy(tape, unit, agriclip_dino_weight(tape, head.v, g), targets,
                                       self->options->student_temp, 1.0 / (count > 0 ? count : 1));
}

cps_status agriclip_dino_grain_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const dino *self = values;
    const cps_step_info info = cps_grain_step(grain);
    const int64_t classes = self->options->classes,
                  images = cps_grain_rows(grain, self->student[0]);
    const double temperature = temperature_now(self, &info);
    double *sums = cps_tape_save(tape, (size_t)(classes + SUM_COUNT) * sizeof *sums);
    agriclip_dino_teacher said = {.sums = sums};
    cps_tensor *targets = teacher_targets(self, grain, tape, temperature, &said);
    cps_tensor *loss = student_loss(self, grain, tape, targets);
    double share = 0.0; /* of the loss */
    if (loss != NULL && cps_tape_computes(tape)) {
        share = (double)*(const cps_real *)loss->data;
        sums[classes + SUM_ROWS] = 2.0 * (double)images;
        sums[classes + SUM_ENTROPY] = said.entropy;
        sums[classes + SUM_LOSS] = share;
    }
    cps_grain_term(grain, "dino", loss, 1.0);
    cps_accumulate(grain, self->centre, sums, classes + SUM_COUNT);
    cps_report(grain, "teacher_entropy", said.entropy, 2.0 * (double)images);
    cps_report(grain, "kl", share * cps_grain_count(grain, 0) - 0.5 * said.entropy, (double)images);
    cps_report(grain, "teacher_temp", temperature, 1.0);
    cps_report(grain, "momentum", momentum_now(self, &info), 1.0);
    return cps_tape_status(tape);
}

/* ---- commit ---- */

/* Running statistics of a head's batch norms: a tenth of the way to the mean over grains. */
static void move_statistics(const dino *self, cps_global *global, const head_ids *ids) {
    const double momentum = 0.1;
    for (int64_t i = 0; i < self->options->layers; i++) {
        const layer_ids *layer = &ids->layers[i];
        if (layer->mean < 0) {
            continue;
        }
        const double *sums = cps_global_sum(global, layer->mean);
        cps_real *mean = cps_global_buffer(global, layer->mean),
                 *variance = cps_global_buffer(global, layer->variance);
        const int64_t width = layer->width;
        for (int64_t c = 0; c < width; c++) {
            mean[c] = (cps_real)((1.0 - momentum) * (double)mean[c] +
                                 momentum * sums[c] / sums[2 * width]);
            variance[c] = (cps_real)((1.0 - momentum) * (double)variance[c] +
                                     momentum * sums[width + c] / sums[2 * width]);
        }
    }
}

/* Says once what a stage that has collapsed looks like; before two epochs or a thousand steps it
 * has not begun to learn. */
static void watch(const dino *self, cps_global *global, double entropy, double loss) {
    const cps_step_info info = cps_global_step(global);
    const double most = log((double)self->options->classes), near = 0.005 * most;
    if (info.epoch < 2 && info.step < 1000) {
        return;
    }
    if (entropy > most - near && fabs(loss - most) < near) {
        cps_warn_once(global,
                      "agriclip.dino has collapsed to uniform outputs: loss and teacher entropy "
                      "stand at ln K. A lower teacher_temp (0.02) sharpens the teacher, above 0.07 "
                      "it makes matters worse; norm_last_layer, K of 4096 to 8192, a momentum of "
                      "0.99 for short runs, a rate that goes with the batch and batches of 256 or "
                      "more have helped");
    }
    if (entropy < near && loss < near) {
        cps_warn_once(global,
                      "agriclip.dino has collapsed to one output: loss and teacher entropy are "
                      "nearly 0, all images look alike to the teacher. The centre should spread "
                      "them: take center_momentum near 0.9, teacher_temp not below 0.02, a lower "
                      "learning rate, and batches of 256 or more");
    }
}

cps_status agriclip_dino_commit(const void *values, cps_global *global) {
    const dino *self = values;
    const int64_t classes = self->options->classes;
    const double *sums = cps_global_sum(global, self->centre),
                 keep = self->options->center_momentum;
    cps_real *centre = cps_global_buffer(global, self->centre);
    if (sums == NULL || centre == NULL) {
        return CPS_ERR_INTERNAL; /* the reason is on record */
    }
    const double rows = sums[classes + SUM_ROWS];
    for (int64_t k = 0; k < classes; k++) {
        centre[k] = (cps_real)(keep * (double)centre[k] + (1.0 - keep) * sums[k] / rows);
    }
    move_statistics(self, global, &self->student_head);
    move_statistics(self, global, &self->teacher_head);
    watch(self, global, sums[classes + SUM_ENTROPY] / rows, sums[classes + SUM_LOSS]);
    return CPS_OK;
}

/* ---- evaluation ---- */

cps_status agriclip_dino_embed(const void *values, cps_embed *side, cps_tape *tape) {
    (void)values;
    cps_embed_component(side, cps_embed_output(side, CPS_POOLED), 1.0);
    return cps_tape_status(tape);
}
