/* SigLIP: a sigmoid loss over all pairs of the global batch, with a learned bias (Zhai et al. 2023,
 * arXiv:2303.15343). sigmoid.md has the formulas. */
#include <math.h>
#include <stddef.h>

#include "copse_objective.h"

typedef struct sigmoid_options {
    const char *image, *text, *stream;
    double init_scale, init_bias;
} sigmoid_options;

static const cps_option options[] = {
    {.name = "image",
     .kind = CPS_OPT_TOWER,
     .default_text = "image",
     .help = "image tower",
     .offset = offsetof(sigmoid_options, image)},
    {.name = "text",
     .kind = CPS_OPT_TOWER,
     .default_text = "text",
     .help = "text tower",
     .offset = offsetof(sigmoid_options, text)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .default_text = "paired",
     .help = "stream of image-text pairs",
     .offset = offsetof(sigmoid_options, stream)},
    {.name = "init_scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "10",
     .minimum = 1e-3,
     .maximum = 1e6,
     .help = "initial scale of the similarities, 1/temperature, where no weights give one",
     .offset = offsetof(sigmoid_options, init_scale)},
    {.name = "init_bias",
     .kind = CPS_OPT_NUMBER,
     .default_text = "-10",
     .minimum = -1e6,
     .maximum = 1e6,
     .help = "initial bias of the similarities: most pairs of a batch do not match",
     .offset = offsetof(sigmoid_options, init_bias)},
    {.name = NULL},
};

typedef struct sigmoid {
    int32_t image, text, log_scale, bias; /* ids */
} sigmoid;

static cps_status create(cps_setup *setup, const void *values, void **self_out) {
    const sigmoid_options *wanted = values;
    sigmoid *self = cps_setup_alloc(setup, sizeof *self);
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
    self->log_scale = cps_setup_parameter(setup, &(cps_parameter){.name = "logit_scale",
                                                                  .fill = CPS_FILL_CONSTANT,
                                                                  .a = log(wanted->init_scale)});
    self->bias = cps_setup_parameter(
        setup,
        &(cps_parameter){.name = "logit_bias", .fill = CPS_FILL_CONSTANT, .a = wanted->init_bias});
    cps_setup_embed(setup, CPS_SIDE_IMAGE, wanted->image, CPS_FEATURE, false);
    cps_setup_embed(setup, CPS_SIDE_TEXT, wanted->text, CPS_FEATURE, false);
    *self_out = self;
    return CPS_OK;
}

static cps_status head(const void *values, cps_grain *grain, cps_tape *tape) {
    const sigmoid *self = values;
    cps_emit(grain, "image", self->image, cps_grain_output(grain, self->image, CPS_FEATURE));
    cps_emit(grain, "text", self->text, cps_grain_output(grain, self->text, CPS_FEATURE));
    return cps_tape_status(tape);
}

static cps_status loss(const void *values, cps_global *global, cps_tape *tape) {
    const sigmoid *self = values;
    cps_tensor *term = cps_sigmoid_contrastive(
        tape, cps_global_rows(global, "image"), cps_global_rows(global, "text"),
        cps_global_parameter(global, self->log_scale), cps_global_parameter(global, self->bias));
    cps_global_term(global, "sigmoid", term, 1.0);
    return cps_tape_status(tape);
}

static cps_status embed(const void *values, cps_embed *side, cps_tape *tape) {
    (void)values;
    cps_embed_component(side, cps_embed_output(side, CPS_FEATURE), 1.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {{
    .name = "sigmoid",
    .help = "Sigmoid loss over all pairs of the global batch with a learned bias (SigLIP).",
    .options = options,
    .options_bytes = sizeof(sigmoid_options),
    .create = create,
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
