/* Plain CLIP: the symmetric softmax contrastive loss over the global batch (Radford et al. 2021,
 * arXiv:2103.00020), the baseline that the other objectives are measured against. clip.md has the
 * formulas. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "copse_objective.h"

typedef struct clip_options {
    const char *image, *text, *stream;
    double init_scale, max_scale;
    bool multi_positive;
} clip_options;

static const cps_option options[] = {
    {.name = "image",
     .kind = CPS_OPT_TOWER,
     .default_text = "image",
     .help = "image tower",
     .offset = offsetof(clip_options, image)},
    {.name = "text",
     .kind = CPS_OPT_TOWER,
     .default_text = "text",
     .help = "text tower",
     .offset = offsetof(clip_options, text)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .default_text = "paired",
     .help = "stream of image-text pairs",
     .offset = offsetof(clip_options, stream)},
    {.name = "init_scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "14.285714285714286",
     .minimum = 1e-3,
     .maximum = 1e6,
     .help = "initial scale of the similarities, 1/temperature, where no weights give one",
     .offset = offsetof(clip_options, init_scale)},
    {.name = "max_scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "100",
     .minimum = 1.0,
     .maximum = 1e6,
     .help = "the scale is kept in [1, max_scale]",
     .offset = offsetof(clip_options, max_scale)},
    {.name = "multi_positive",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "images with equal captions are positives of each other, not negatives",
     .offset = offsetof(clip_options, multi_positive)},
    {.name = NULL},
};

typedef struct clip {
    int32_t image, text, log_scale; /* ids */
    int32_t key;                    /* annotation; -1: one positive a row */
} clip;

static cps_status create(cps_setup *setup, const void *values, void **self_out) {
    const clip_options *wanted = values;
    clip *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, wanted->stream);
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    self->image = cps_setup_view(setup, &(cps_view){.name = "image",
                                                    .tower = wanted->image,
                                                    .stream = stream,
                                                    .outputs = CPS_FEATURE});
    self->text = cps_setup_view(setup, &(cps_view){.name = "text",
                                                   .tower = wanted->text,
                                                   .stream = stream,
                                                   .outputs = CPS_FEATURE});
    self->key = wanted->multi_positive
                    ? cps_setup_annotation(setup, &(cps_annotation){.name = "key",
                                                                    .stream = stream,
                                                                    .text_view = self->text,
                                                                    .dtype = CPS_I64,
                                                                    .width = 1})
                    : -1;
    self->log_scale =
        cps_setup_parameter(setup, &(cps_parameter){.name = "logit_scale",
                                                    .fill = CPS_FILL_CONSTANT,
                                                    .a = log(wanted->init_scale),
                                                    .bounded = true,
                                                    .minimum = 0.0,
                                                    .maximum = log(wanted->max_scale)});
    cps_setup_embed(setup, CPS_SIDE_IMAGE, wanted->image, CPS_FEATURE, false);
    cps_setup_embed(setup, CPS_SIDE_TEXT, wanted->text, CPS_FEATURE, false);
    *self_out = self;
    return CPS_OK;
}

/* Equal captions have equal keys. */
static cps_status annotate(const void *values, const cps_record_ref *record, int32_t annotation,
                           const char *text, void *row_out) {
    (void)values;
    (void)annotation;
    *(int64_t *)row_out = (int64_t)cps_host_of(record)->hash64(text, strlen(text));
    return CPS_OK;
}

static cps_status head(const void *values, cps_grain *grain, cps_tape *tape) {
    const clip *self = values;
    cps_emit(grain, "image", self->image, cps_grain_output(grain, self->image, CPS_FEATURE));
    cps_emit(grain, "text", self->text, cps_grain_output(grain, self->text, CPS_FEATURE));
    if (self->key >= 0) {
        const int64_t rows = cps_grain_rows(grain, self->text);
        cps_emit(grain, "key", self->text,
                 cps_reshape(tape, cps_grain_annotation(grain, self->key), 1, &rows));
    }
    return cps_tape_status(tape);
}

static cps_status loss(const void *values, cps_global *global, cps_tape *tape) {
    const clip *self = values;
    cps_tensor *term = cps_softmax_contrastive(
        tape, cps_global_rows(global, "image"), cps_global_rows(global, "text"),
        cps_global_parameter(global, self->log_scale),
        self->key >= 0 ? cps_global_rows(global, "key") : NULL);
    cps_global_term(global, "contrastive", term, 1.0);
    return cps_tape_status(tape);
}

static cps_status embed(const void *values, cps_embed *side, cps_tape *tape) {
    (void)values;
    cps_embed_component(side, cps_embed_output(side, CPS_FEATURE), 1.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {{
    .name = "clip",
    .help = "Symmetric softmax contrastive loss over the global batch (CLIP).",
    .options = options,
    .options_bytes = sizeof(clip_options),
    .create = create,
    .annotate = annotate,
    .head = head,
    .loss = loss,
    .embed = embed,
}};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
