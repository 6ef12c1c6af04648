/* An objective whose head fails in one grain of one step, hence on one rank alone. */
#include <stddef.h>

#include "copse_objective.h"

typedef struct fails_options {
    int64_t step, grain;
} fails_options;

static const cps_option options[] = {
    {.name = "step",
     .kind = CPS_OPT_INTEGER,
     .default_text = "1",
     .help = "where it fails",
     .offset = offsetof(fails_options, step)},
    {.name = "grain",
     .kind = CPS_OPT_INTEGER,
     .default_text = "1",
     .help = "where it fails",
     .offset = offsetof(fails_options, grain)},
    {.name = NULL},
};

typedef struct fails {
    int64_t step, grain;
    int32_t image, text, scale;
} fails;

static cps_status create(cps_setup *setup, const void *values, void **self_out) {
    const fails_options *wanted = values;
    fails *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    const cps_view image = {
        .name = "image", .tower = "image", .stream = stream, .outputs = CPS_FEATURE};
    const cps_view text = {
        .name = "text", .tower = "text", .stream = stream, .outputs = CPS_FEATURE};
    const cps_parameter scale = {.name = "logit_scale", .fill = CPS_FILL_CONSTANT, .a = 2.0};
    self->step = wanted->step;
    self->grain = wanted->grain;
    self->image = cps_setup_view(setup, &image);
    self->text = cps_setup_view(setup, &text);
    self->scale = cps_setup_parameter(setup, &scale);
    *self_out = self;
    return CPS_OK;
}

static cps_status head(const void *values, cps_grain *grain, cps_tape *tape) {
    const fails *self = values;
    const cps_step_info at = cps_grain_step(grain);
    if (at.step == self->step && at.grain == self->grain) {
        return cps_error(grain, CPS_ERR_DATA, "this objective fails in step %lld, grain %lld",
                         (long long)at.step, (long long)at.grain);
    }
    cps_emit(grain, "image", self->image, cps_grain_output(grain, self->image, CPS_FEATURE));
    cps_emit(grain, "text", self->text, cps_grain_output(grain, self->text, CPS_FEATURE));
    return cps_tape_status(tape);
}

static cps_status loss(const void *values, cps_global *global, cps_tape *tape) {
    const fails *self = values;
    cps_tensor *term = cps_softmax_contrastive(tape, cps_global_rows(global, "image"),
                                               cps_global_rows(global, "text"),
                                               cps_global_parameter(global, self->scale), NULL);
    cps_global_term(global, "contrastive", term, 1.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {{
    .name = "fails",
    .help = "Fails where it is told to.",
    .options = options,
    .options_bytes = sizeof(fails_options),
    .create = create,
    .head = head,
    .loss = loss,
}};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
