/* Objectives of the whole batch, for tests: losses on every rank over gathered rows. */
#include <math.h>
#include <stddef.h>

#include "copse_objective.h"

/* ---- "replicated": CLIP's loss by plain operations on gathered rows
 * ---------------------------------------------------------- */

typedef struct replicated {
    int32_t image, text, log_scale;
} replicated;

static cps_status replicated_create(cps_setup *setup, const void *options, void **self_out) {
    (void)options;
    replicated *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    self->image = cps_setup_view(
        setup,
        &(cps_view){.name = "image", .tower = "image", .stream = stream, .outputs = CPS_FEATURE});
    self->text = cps_setup_view(
        setup,
        &(cps_view){.name = "text", .tower = "text", .stream = stream, .outputs = CPS_FEATURE});
    /* The same as clip's: in a composition they share it. */
    self->log_scale = cps_setup_parameter(setup, &(cps_parameter){.name = "logit_scale",
                                                                  .fill = CPS_FILL_CONSTANT,
                                                                  .a = log(14.285714285714286),
                                                                  .bounded = true,
                                                                  .minimum = 0.0,
                                                                  .maximum = log(100.0)});
    *self_out = self;
    return CPS_OK;
}

static cps_status replicated_head(const void *values, cps_grain *grain, cps_tape *tape) {
    const replicated *self = values;
    cps_emit(grain, "image", self->image, cps_grain_output(grain, self->image, CPS_FEATURE));
    cps_emit(grain, "text", self->text, cps_grain_output(grain, self->text, CPS_FEATURE));
    return cps_tape_status(tape);
}

/* Sum over rows of logsumexp - diagonal. */
static cps_tensor *diagonal_cross_entropy(cps_tape *tape, cps_tensor *logits) {
    cps_tensor *target = cps_tape_tensor(tape, CPS_I32, 1, logits == NULL ? NULL : logits->shape);
    if (target != NULL && cps_tape_computes(tape)) {
        for (int64_t i = 0; i < target->shape[0]; i++) {
            ((int32_t *)target->data)[i] = (int32_t)i;
        }
    }
    return cps_cross_entropy(tape, logits, target, NULL);
}

static cps_status replicated_loss(const void *values, cps_global *global, cps_tape *tape) {
    const replicated *self = values;
    cps_tensor *u = cps_gather(tape, cps_global_rows(global, "image"));
    cps_tensor *v = cps_gather(tape, cps_global_rows(global, "text"));
    if (u == NULL || v == NULL) {
        return cps_tape_status(tape);
    }
    cps_tensor *scale = cps_unary(tape, cps_global_parameter(global, self->log_scale), CPS_EXP);
    cps_tensor *logits = cps_mul(tape, cps_matmul(tape, u, v, false, true, 1.0), scale);
    cps_tensor *rows = diagonal_cross_entropy(tape, logits);
    cps_tensor *columns = diagonal_cross_entropy(tape, cps_transpose(tape, logits));
    cps_tensor *term =
        cps_affine(tape, cps_add(tape, rows, columns), 0.5 / (double)u->shape[0], 0.0);
    cps_global_term(global, "contrastive", term, 1.0);
    return cps_tape_status(tape);
}

/* ---- "fixed": images against K fixed texts, with the record's leaf as target
 * ------------------------------------------------- */

typedef struct fixed {
    int32_t image, texts, leaf;
} fixed;

static cps_status fixed_create(cps_setup *setup, const void *options, void **self_out) {
    static const char *const texts[] = {"a leaf of an oak", "an ash",    "this is an elm leaf",
                                        "nothing",          "a dry one", "two leaves",
                                        "young oak"};
    (void)options;
    fixed *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    self->image = cps_setup_view(
        setup,
        &(cps_view){.name = "image", .tower = "image", .stream = stream, .outputs = CPS_PROJECTED});
    self->texts = cps_setup_view(setup, &(cps_view){.name = "texts",
                                                    .tower = "text",
                                                    .fixed_text_count = 7,
                                                    .fixed_texts = texts,
                                                    .outputs = CPS_FEATURE});
    self->leaf = cps_setup_annotation(
        setup,
        &(cps_annotation){
            .name = "leaf", .stream = stream, .text_view = -1, .dtype = CPS_I32, .width = 1});
    *self_out = self;
    return CPS_OK;
}

static cps_status fixed_annotate(const void *values, const cps_record_ref *record,
                                 int32_t annotation, const char *text, void *row_out) {
    (void)values;
    (void)annotation;
    const char *label = cps_record_label(record);
    const int32_t target = label == NULL ? -1 : label[0] == 'o' ? 0 : label[0] == 'a' ? 1 : 2;
    *(int32_t *)row_out = target;
    return text != NULL ? cps_error(record, CPS_ERR_INTERNAL,
                                    "annotation got a text that it did not ask for")
                        : CPS_OK;
}

static cps_status fixed_head(const void *values, cps_grain *grain, cps_tape *tape) {
    const fixed *self = values;
    const cps_step_info info = cps_grain_step(grain);
    cps_tensor *texts = cps_grain_output(grain, self->texts, CPS_FEATURE);
    const int64_t first = info.grain * 7 / info.grains,
                  rows = (info.grain + 1) * 7 / info.grains - first;
    if (cps_tape_computes(tape) && (cps_grain_first_row(grain, self->texts) != first ||
                                    cps_grain_rows(grain, self->texts) != rows)) {
        return cps_error(grain, CPS_ERR_INTERNAL, "grain %lld has %lld fixed texts from %lld",
                         (long long)info.grain, (long long)cps_grain_rows(grain, self->texts),
                         (long long)cps_grain_first_row(grain, self->texts));
    }
    cps_emit(grain, "image", self->image, cps_grain_output(grain, self->image, CPS_PROJECTED));
    cps_emit(grain, "texts", self->texts, texts);
    cps_emit(grain, "leaf", self->image, cps_grain_annotation(grain, self->leaf));
    return cps_tape_status(tape);
}

static cps_status fixed_loss(const void *values, cps_global *global, cps_tape *tape) {
    (void)values;
    cps_tensor *image = cps_gather(tape, cps_global_rows(global, "image"));
    cps_tensor *texts = cps_gather(tape, cps_global_rows(global, "texts"));
    cps_tensor *leaf = cps_gather(tape, cps_global_rows(global, "leaf"));
    if (image == NULL || texts == NULL || leaf == NULL) {
        return cps_tape_status(tape);
    }
    const int64_t rows = image->shape[0];
    if (texts->shape[0] != 7) {
        return cps_error(global, CPS_ERR_INTERNAL, "%lld fixed texts, 7 are wanted",
                         (long long)texts->shape[0]);
    }
    cps_tensor *target = cps_reshape(tape, leaf, 1, &rows);
    cps_tensor *term =
        cps_cross_entropy(tape, cps_matmul(tape, image, texts, false, true, 3.0), target, NULL);
    cps_global_term(global, "texts", cps_affine(tape, term, 1.0 / (double)rows, 0.0), 1.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {
    {.name = "replicated",
     .help = "CLIP's loss, replicated.",
     .create = replicated_create,
     .head = replicated_head,
     .loss = replicated_loss},
    {.name = "fixed",
     .help = "Images against fixed texts.",
     .create = fixed_create,
     .annotate = fixed_annotate,
     .head = fixed_head,
     .loss = fixed_loss},
};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
