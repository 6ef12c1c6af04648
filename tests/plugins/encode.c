/* Encodes pairs, and if asked unlabelled images and fixed texts, at next to no loss: what
 * tests/bench/objective_bench.c and dalip_bench.c measure objectives against. With `contrast` the
 * pairs have clip's loss, with `all_positions` their texts are encoded to the end of the context.
 * All other rows get their gradient from the sum of their features, so that every row goes through
 * its tower forward and backward. */
#include <math.h>
#include <stddef.h>

#include "copse_objective.h"

typedef struct encode_options {
    const char *unlabelled; /* NULL: no such view */
    cps_lines texts;        /* count 0: none */
    bool contrast, all_positions;
} encode_options;

static const cps_option options[] = {
    {.name = "unlabelled",
     .kind = CPS_OPT_STREAM,
     .help = "stream of further images",
     .offset = offsetof(encode_options, unlabelled)},
    {.name = "texts",
     .kind = CPS_OPT_LINES,
     .help = "file of further texts",
     .offset = offsetof(encode_options, texts)},
    {.name = "contrast",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "clip's loss on the pairs",
     .offset = offsetof(encode_options, contrast)},
    {.name = "all_positions",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "texts of the pairs with their padding",
     .offset = offsetof(encode_options, all_positions)},
    {.name = NULL},
};

enum { IMAGE, TEXT, UNLABELLED, FIXED, VIEWS };
static const char *const names[VIEWS] = {"image", "text", "unlabelled", "fixed"};

typedef struct encode {
    int32_t views[VIEWS]; /* -1: not asked for */
    int32_t log_scale;
    bool contrast;
} encode;

static cps_status create(cps_setup *setup, const void *values, void **self_out) {
    const encode_options *wanted = values;
    encode *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    const cps_view views[VIEWS] = {
        {.tower = "image", .stream = stream},
        {.tower = "text", .stream = stream, .all_positions = wanted->all_positions},
        {.tower = "image", .stream = wanted->unlabelled},
        {.tower = "text",
         .fixed_text_count = wanted->texts.count,
         .fixed_texts = wanted->texts.lines},
    };
    for (int i = 0; i < VIEWS; i++) {
        cps_view view = views[i];
        view.name = names[i];
        view.outputs = CPS_FEATURE;
        self->views[i] = -1;
        if (view.stream != NULL || view.fixed_text_count > 0) {
            self->views[i] = cps_setup_view(setup, &view);
        }
    }
    self->contrast = wanted->contrast;
    self->log_scale = cps_setup_parameter(setup, &(cps_parameter){.name = "logit_scale",
                                                                  .fill = CPS_FILL_CONSTANT,
                                                                  .a = log(14.285714285714286),
                                                                  .bounded = true,
                                                                  .minimum = 0.0,
                                                                  .maximum = log(100.0)});
    *self_out = self;
    return CPS_OK;
}

static cps_status head(const void *values, cps_grain *grain, cps_tape *tape) {
    const encode *self = values;
    for (int i = 0; i < VIEWS; i++) {
        if (self->views[i] >= 0) {
            cps_emit(grain, names[i], self->views[i],
                     cps_grain_output(grain, self->views[i], CPS_FEATURE));
        }
    }
    return cps_tape_status(tape);
}

static cps_status loss(const void *values, cps_global *global, cps_tape *tape) {
    const encode *self = values;
    for (int i = self->contrast ? UNLABELLED : IMAGE; i < VIEWS; i++) {
        if (self->views[i] >= 0) {
            cps_tensor *rows = cps_global_rows(global, names[i]);
            cps_global_term(global, names[i], cps_batch_sum(tape, cps_sum_last(tape, rows)), 1e-3);
        }
    }
    if (self->contrast) {
        cps_tensor *term = cps_softmax_contrastive(
            tape, cps_global_rows(global, "image"), cps_global_rows(global, "text"),
            cps_global_parameter(global, self->log_scale), NULL);
        cps_global_term(global, "contrastive", term, 1.0);
    }
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {{
    .name = "encode",
    .help = "Encodes rows at next to no loss.",
    .options = options,
    .options_bytes = sizeof(encode_options),
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
