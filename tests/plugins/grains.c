/* Objectives of one grain at a time, for tests: heads, counts, moving averages, buffers, an
 * operation of a plugin's own. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "copse_objective.h"

/* ---- "ce": a linear head on the image tower; the label, or the second word of the caption's first
 * letter ------------------------- */

typedef struct ce_options {
    const char *key;
    double nan_step;    /* the loss is NaN in this data step; -1: never */
    int64_t fail_grain; /* head fails there in the first step; -1: never */
    int64_t frozen;     /* epochs in which the bias stands still */
} ce_options;

static const cps_option ce_rows[] = {
    {.name = "key",
     .kind = CPS_OPT_STRING,
     .default_text = "label",
     .help = "what is learnt: label, or a text field",
     .offset = offsetof(ce_options, key)},
    {.name = "nan_step",
     .kind = CPS_OPT_NUMBER,
     .default_text = "-1",
     .minimum = -1,
     .maximum = 1e9,
     .help = "step of a loss that is no number",
     .offset = offsetof(ce_options, nan_step)},
    {.name = "fail_grain",
     .kind = CPS_OPT_INTEGER,
     .default_text = "-1",
     .minimum = -1,
     .maximum = 1000,
     .help = "grain that fails",
     .offset = offsetof(ce_options, fail_grain)},
    {.name = "frozen",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .maximum = 1000,
     .help = "epochs in which the bias stands still",
     .offset = offsetof(ce_options, frozen)},
    {.name = NULL},
};

typedef struct ce {
    const ce_options *options;
    cps_classes classes;
    int32_t image, text, weight, bias, target, caption_length;
} ce;

static cps_status ce_create(cps_setup *setup, const void *values, void **self_out) {
    const ce_options *options = values;
    ce *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    self->options = options;
    const cps_status status = cps_setup_classes(setup, stream, options->key, &self->classes);
    if (status != CPS_OK) {
        return status;
    }
    const int64_t width = cps_setup_tower_size(setup, "image", "width");
    self->image = cps_setup_view(
        setup,
        &(cps_view){.name = "image", .tower = "image", .stream = stream, .outputs = CPS_POOLED});
    self->text = cps_setup_view(setup, &(cps_view){.name = "text",
                                                   .tower = "text",
                                                   .stream = stream,
                                                   .mode = CPS_VIEW_NO_GRADIENT,
                                                   .outputs = CPS_FEATURE | CPS_TOKENS});
    self->weight =
        cps_setup_parameter(setup, &(cps_parameter){.name = "head.weight",
                                                    .rank = 2,
                                                    .shape = {self->classes.count, width},
                                                    .fill = CPS_FILL_NORMAL,
                                                    .a = 0.3,
                                                    .decay = true});
    self->bias = cps_setup_parameter(
        setup,
        &(cps_parameter){.name = "head.bias",
                         .rank = 1,
                         .shape = {self->classes.count},
                         .frozen_steps = options->frozen * cps_setup_steps_per_epoch(setup)});
    self->target = cps_setup_annotation(
        setup,
        &(cps_annotation){
            .name = "target", .stream = stream, .text_view = -1, .dtype = CPS_I32, .width = 1});
    self->caption_length = cps_setup_annotation(setup, &(cps_annotation){.name = "length",
                                                                         .stream = stream,
                                                                         .text_view = self->text,
                                                                         .dtype = CPS_REAL,
                                                                         .width = 2});
    cps_setup_counts(setup, 2);
    cps_setup_embed(setup, CPS_SIDE_IMAGE, "image", CPS_POOLED, false);
    *self_out = self;
    return CPS_OK;
}

static cps_status ce_annotate(const void *values, const cps_record_ref *record, int32_t annotation,
                              const char *text, void *row_out) {
    const ce *self = values;
    if (annotation == self->caption_length) {
        ((cps_real *)row_out)[0] = (cps_real)strlen(text);
        ((cps_real *)row_out)[1] = 1;
        return CPS_OK;
    }
    const char *name = strcmp(self->options->key, "label") == 0
                           ? cps_record_label(record)
                           : cps_record_text(record, self->options->key, 0);
    int32_t *target = row_out;
    *target = -1;
    for (int64_t c = 0; name != NULL && c < self->classes.count; c++) {
        if (strcmp(self->classes.names[c], name) == 0) {
            *target = (int32_t)c;
        }
    }
    return CPS_OK;
}

static cps_status ce_prepare(const void *values, const cps_grain *grain, double *counts) {
    const ce *self = values;
    const cps_tensor *target = cps_grain_annotation(grain, self->target);
    const cps_tensor *length = cps_grain_annotation(grain, self->caption_length);
    for (int64_t i = 0; i < target->shape[0]; i++) {
        counts[0] += ((const int32_t *)target->data)[i] >= 0 ? 1.0 : 0.0;
        counts[1] += (double)((const cps_real *)length->data)[2 * i];
    }
    return CPS_OK;
}

/* Packed texts: each row's end is the last of its tokens, and the feature is the projection of what
 * stands there. */
static bool positions_hold(const ce *self, const cps_grain *grain) {
    const int32_t *offsets = cps_grain_offsets(grain, self->text),
                  *ends = cps_grain_ends(grain, self->text);
    const cps_tensor *tokens = cps_grain_output(grain, self->text, CPS_TOKENS);
    const int64_t rows = cps_grain_rows(grain, self->text);
    bool holds = offsets[0] == 0 && tokens->shape[0] == offsets[rows];
    for (int64_t i = 0; i < rows; i++) {
        holds = holds && ends[i] == offsets[i + 1] - 1;
    }
    return holds;
}

static cps_status ce_grain_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const ce *self = values;
    const cps_step_info step = cps_grain_step(grain);
    if (cps_tape_computes(tape) && step.grain == self->options->fail_grain) {
        return cps_error(grain, CPS_ERR_DATA, "grain %lld was told to fail", (long long)step.grain);
    }
    if (cps_tape_computes(tape) && !positions_hold(self, grain)) {
        return cps_error(grain, CPS_ERR_INTERNAL,
                         "the tokens of the texts are not where the offsets say");
    }
    cps_tensor *logits = cps_linear(tape, cps_grain_output(grain, self->image, CPS_POOLED),
                                    cps_grain_parameter(grain, self->weight),
                                    cps_grain_parameter(grain, self->bias), CPS_ACT_NONE);
    cps_tensor *target = cps_reshape(tape, cps_grain_annotation(grain, self->target), 1,
                                     &(int64_t){cps_grain_rows(grain, self->image)});
    const double count = cps_grain_count(grain, 0);
    cps_tensor *term = cps_affine(tape, cps_cross_entropy(tape, logits, target, NULL),
                                  1.0 / (count > 0.0 ? count : 1.0), 0.0);
    if (step.step == (int64_t)self->options->nan_step) {
        term = cps_affine(tape, term, (double)NAN, 0.0);
    }
    cps_grain_term(grain, "ce", term, 1.0);
    cps_report(grain, "characters", cps_grain_count(grain, 1), 1.0);
    return cps_tape_status(tape);
}

/* Scores of the classes as components would have them. */
static cps_status ce_embed(const void *values, cps_embed *embed, cps_tape *tape) {
    (void)values;
    cps_embed_component(embed, cps_embed_output(embed, CPS_POOLED), 1.0);
    return cps_tape_status(tape);
}

/* ---- "ema": the student's pooled output against that of its moving average, plus a parameter's
 * own average ----------------------- */

typedef struct ema {
    int32_t student, teacher, centre, average;
} ema;

static const double ema_momentum = 0.75;

static cps_status ema_create(cps_setup *setup, const void *options, void **self_out) {
    (void)options;
    const cps_numbers momentum = {1, &ema_momentum};
    ema *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL ||
        cps_setup_ema(setup, "ssl", "ssl.teacher", &momentum) != CPS_OK) {
        return CPS_ERR_USAGE;
    }
    const int64_t width = cps_setup_tower_size(setup, "ssl", "width");
    self->student = cps_setup_view(setup, &(cps_view){.name = "student",
                                                      .tower = "ssl",
                                                      .group = "global",
                                                      .stream = stream,
                                                      .outputs = CPS_POOLED});
    self->teacher = cps_setup_view(setup, &(cps_view){.name = "teacher",
                                                      .tower = "ssl.teacher",
                                                      .stream = stream,
                                                      .crop = 1,
                                                      .mode = CPS_VIEW_NO_GRADIENT,
                                                      .outputs = CPS_POOLED});
    self->centre = cps_setup_parameter(setup, &(cps_parameter){.name = "ema.centre",
                                                               .rank = 1,
                                                               .shape = {width},
                                                               .fill = CPS_FILL_UNIFORM,
                                                               .a = -0.1,
                                                               .b = 0.1});
    *self_out = self;
    return cps_setup_ema_parameter(setup, self->centre, "ema.centre_average", &momentum,
                                   &self->average);
}

static cps_status ema_grain_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const ema *self = values;
    cps_tensor *student = cps_grain_output(grain, self->student, CPS_POOLED),
               *teacher = cps_grain_output(grain, self->teacher, CPS_POOLED);
    if (teacher != NULL && teacher->needs_grad) {
        return cps_error(grain, CPS_ERR_INTERNAL, "the teacher has a gradient");
    }
    cps_tensor *target =
        cps_add(tape, teacher, cps_stop_gradient(tape, cps_grain_parameter(grain, self->average)));
    cps_tensor *gap =
        cps_sub(tape, cps_add(tape, student, cps_grain_parameter(grain, self->centre)), target);
    cps_grain_term(grain, "gap", cps_affine(tape, cps_dot(tape, gap, gap), 0.02, 0.0), 1.0);
    return cps_tape_status(tape);
}

/* ---- "buffer": a running mean that the loss reads; with a loss of the whole batch, so that grains
 * are replayed ------------------- */

typedef struct buffer_options {
    double nan_step;
    int64_t fail_commit; /* data step; -1: never */
} buffer_options;

static const cps_option buffer_rows[] = {
    {.name = "nan_step",
     .kind = CPS_OPT_NUMBER,
     .default_text = "-1",
     .minimum = -1,
     .maximum = 1e9,
     .help = "step of a loss that is no number",
     .offset = offsetof(buffer_options, nan_step)},
    {.name = "fail_commit",
     .kind = CPS_OPT_INTEGER,
     .default_text = "-1",
     .minimum = -1,
     .maximum = 1000,
     .help = "step whose commit fails",
     .offset = offsetof(buffer_options, fail_commit)},
    {.name = NULL},
};

typedef struct buffer {
    const buffer_options *options;
    int64_t width;
    int32_t image, mean, scale;
} buffer;

static cps_status buffer_create(cps_setup *setup, const void *options, void **self_out) {
    buffer *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    self->options = options;
    self->width = cps_setup_tower_size(setup, "image", "embed_dim");
    self->image = cps_setup_view(
        setup,
        &(cps_view){.name = "image", .tower = "image", .stream = stream, .outputs = CPS_PROJECTED});
    self->mean = cps_setup_buffer(
        setup, &(cps_parameter){.name = "buffer.mean", .rank = 1, .shape = {self->width}},
        self->width + 1);
    self->scale = cps_setup_parameter(
        setup, &(cps_parameter){.name = "buffer.scale", .fill = CPS_FILL_CONSTANT, .a = 0.5});
    *self_out = self;
    return CPS_OK;
}

static cps_status buffer_head(const void *values, cps_grain *grain, cps_tape *tape) {
    const buffer *self = values;
    cps_tensor *rows = cps_grain_output(grain, self->image, CPS_PROJECTED);
    double sums[64] = {0};
    if (rows != NULL && cps_tape_computes(tape)) {
        for (int64_t i = 0; i < rows->shape[0] * self->width; i++) {
            sums[i % self->width] += (double)((const cps_real *)rows->data)[i];
        }
        sums[self->width] = (double)rows->shape[0];
    }
    cps_accumulate(grain, self->mean, sums, self->width + 1);
    cps_emit(grain, "centred", self->image,
             cps_sub(tape, rows, cps_grain_parameter(grain, self->mean)));
    return cps_tape_status(tape);
}

static cps_status buffer_loss(const void *values, cps_global *global, cps_tape *tape) {
    const buffer *self = values;
    cps_tensor *rows = cps_gather(tape, cps_global_rows(global, "centred"));
    const bool broken = cps_global_step(global).step == (int64_t)self->options->nan_step;
    cps_tensor *size =
        cps_affine(tape, cps_dot(tape, rows, rows), broken ? (double)NAN : 0.01, 0.0);
    cps_global_term(global, "size", cps_mul(tape, size, cps_global_parameter(global, self->scale)),
                    1.0);
    cps_global_report(global, "reported", 42.0);
    return cps_tape_status(tape);
}

static cps_status buffer_commit(const void *values, cps_global *global) {
    const buffer *self = values;
    const double *sums = cps_global_sum(global, self->mean);
    cps_real *mean = cps_global_buffer(global, self->mean);
    if (cps_global_step(global).step == self->options->fail_commit) {
        return cps_error(global, CPS_ERR_DATA, "commit was told to fail");
    }
    if (sums == NULL || mean == NULL) {
        return CPS_ERR_INTERNAL;
    }
    for (int64_t i = 0; i < self->width; i++) {
        mean[i] = (cps_real)(0.5 * (double)mean[i] + 0.5 * sums[i] / sums[self->width]);
    }
    return CPS_OK;
}

/* ---- "square", "builtin": the same loss by an operation of the plugin's own and by one of the
 * host's ------------------------------ */

typedef struct square {
    int32_t image;
} square;

static cps_status square_create(cps_setup *setup, const void *options, void **self_out) {
    (void)options;
    square *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    self->image = cps_setup_view(
        setup,
        &(cps_view){.name = "image", .tower = "image", .stream = stream, .outputs = CPS_PROJECTED});
    *self_out = self;
    return CPS_OK;
}

static int64_t count_of(const cps_tensor *x) {
    int64_t count = 1;
    for (int32_t d = 0; d < x->rank; d++) {
        count *= x->shape[d];
    }
    return count;
}

typedef struct square_work {
    const cps_real *x, *dy;
    cps_real *out;
    int64_t count;
    bool add;
} square_work;

enum { PIECE = 16 };

static void square_piece(void *context, int64_t index) {
    const square_work *w = context;
    for (int64_t i = index * PIECE; i < (index + 1) * PIECE && i < w->count; i++) {
        const cps_real value = w->dy == NULL ? w->x[i] * w->x[i] : 2 * w->x[i] * w->dy[i];
        w->out[i] = w->add ? w->out[i] + value : value;
    }
}

static cps_status square_backward(cps_tape *tape, const cps_node *node) {
    bool fresh = false;
    cps_tensor *x = node->inputs[0];
    cps_real *dx = cps_grad_target(tape, x, &fresh);
    if (dx != NULL) {
        square_work work = {x->data, cps_node_grad(tape, node->outputs[0]), dx, count_of(x),
                            !fresh};
        cps_parallel(tape, (work.count + PIECE - 1) / PIECE, square_piece, &work);
    }
    return CPS_OK;
}

static cps_tensor *square_of(cps_tape *tape, cps_tensor *x) {
    cps_tensor *y = x == NULL ? NULL : cps_tape_tensor(tape, CPS_REAL, x->rank, x->shape);
    if (y == NULL) {
        return NULL;
    }
    const cps_node node = {.backward = square_backward,
                           .name = "square",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x}};
    cps_tape_record(tape, &node);
    if (cps_tape_computes(tape)) {
        square_work work = {x->data, NULL, y->data, count_of(x), false};
        cps_parallel(tape, (work.count + PIECE - 1) / PIECE, square_piece, &work);
    }
    return y;
}

static cps_status square_grain_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const square *self = values;
    cps_tensor *x = cps_grain_output(grain, self->image, CPS_PROJECTED);
    cps_grain_term(grain, "square",
                   cps_affine(tape, cps_sum(tape, square_of(tape, square_of(tape, x))), 0.01, 0.0),
                   1.0);
    return cps_tape_status(tape);
}

static cps_status builtin_grain_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const square *self = values;
    cps_tensor *x = cps_grain_output(grain, self->image, CPS_PROJECTED);
    cps_tensor *y = cps_mul(tape, x, x);
    cps_grain_term(grain, "square", cps_affine(tape, cps_dot(tape, y, y), 0.01, 0.0), 1.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {
    {.name = "ce",
     .help = "Cross-entropy on a linear head.",
     .options = ce_rows,
     .options_bytes = sizeof(ce_options),
     .create = ce_create,
     .annotate = ce_annotate,
     .prepare = ce_prepare,
     .grain_loss = ce_grain_loss,
     .embed = ce_embed},
    {.name = "ema",
     .help = "A student against its moving average.",
     .create = ema_create,
     .grain_loss = ema_grain_loss},
    {.name = "buffer",
     .help = "A running mean.",
     .options = buffer_rows,
     .options_bytes = sizeof(buffer_options),
     .create = buffer_create,
     .head = buffer_head,
     .loss = buffer_loss,
     .commit = buffer_commit},
    {.name = "square",
     .help = "An operation of its own.",
     .create = square_create,
     .grain_loss = square_grain_loss},
    {.name = "builtin",
     .help = "The same with the host's.",
     .create = square_create,
     .grain_loss = builtin_grain_loss},
};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
