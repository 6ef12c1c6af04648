/* An objective of somebody else: CLIP's loss inside each grain, without the rest of the batch.
 * Built by install.sh in a folder of its own against installed headers. */
#include <stddef.h>
#include <stdlib.h>

#include "copse_objective.h"

typedef struct local_options {
    double scale;
} local_options;

static const cps_option options[] = {
    {.name = "scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "10",
     .minimum = 0.1,
     .maximum = 100.0,
     .help = "factor of the similarities",
     .offset = offsetof(local_options, scale)},
    {.name = NULL},
};

typedef struct local {
    double scale;
    int32_t image, text;
} local;

static cps_status create(cps_setup *setup, const void *values, void **self_out) {
    const local_options *wanted = values;
    local *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    self->scale = wanted->scale;
    const cps_view image = {
        .name = "image", .tower = "image", .stream = stream, .outputs = CPS_FEATURE};
    const cps_view text = {
        .name = "text", .tower = "text", .stream = stream, .outputs = CPS_FEATURE};
    self->image = cps_setup_view(setup, &image);
    self->text = cps_setup_view(setup, &text);
    cps_setup_counts(setup, 1);
    cps_setup_embed(setup, CPS_SIDE_IMAGE, "image", CPS_FEATURE, false);
    cps_setup_embed(setup, CPS_SIDE_TEXT, "text", CPS_FEATURE, false);
    *self_out = self;
    return CPS_OK;
}

static cps_status prepare(const void *values, const cps_grain *grain, double *counts) {
    const local *self = values;
    counts[0] = (double)cps_grain_rows(grain, self->image);
    return CPS_OK;
}

static cps_status grain_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const local *self = values;
    const int64_t rows = cps_grain_rows(grain, self->image);
    cps_tensor *logits =
        cps_matmul(tape, cps_grain_output(grain, self->image, CPS_FEATURE),
                   cps_grain_output(grain, self->text, CPS_FEATURE), false, true, self->scale);
    int32_t *own = malloc((size_t)rows * sizeof *own);
    if (own == NULL && rows > 0) {
        return cps_error(grain, CPS_ERR_UNAVAILABLE, "out of memory for %lld targets",
                         (long long)rows);
    }
    for (int64_t i = 0; i < rows; i++) {
        own[i] = (int32_t)i;
    }
    cps_tensor *target = cps_constant(tape, CPS_I32, 1, &rows, own);
    free(own);
    cps_tensor *total = cps_cross_entropy(tape, logits, target, NULL);
    const double count = cps_grain_count(grain, 0);
    cps_grain_term(grain, "local", cps_affine(tape, total, 1.0 / count, 0.0), 1.0);
    return cps_tape_status(tape);
}

static cps_status embed(const void *values, cps_embed *side, cps_tape *tape) {
    (void)values;
    cps_embed_component(side, cps_embed_output(side, CPS_FEATURE), 1.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {{
    .name = "local",
    .help = "CLIP's loss inside each grain.",
    .options = options,
    .options_bytes = sizeof(local_options),
    .create = create,
    .prepare = prepare,
    .grain_loss = grain_loss,
    .embed = embed,
}};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
