/* The second feature of a side, from projected tokens on: fc1, the distance covariance with its
 * masks, layer norm, two linear layers. Names and first values are those of the published
 * checkpoints. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "dalip.h"

static const double batch_norm_eps = 1e-5, layer_norm_eps = 1e-7, feature_floor = 1e-12;

/* ---- parameters ---- */

typedef struct declaring {
    cps_setup *setup;
    char prefix[160];  /* of the tower's names: "visual.", "" or "<tower>." */
    const char *block; /* "vbdc" or "tbdc" */
} declaring;

enum { NAME_BYTES = 256 };

static int32_t declare(const declaring *with, const char *name, bool in_block, int32_t rank,
                       const int64_t *shape, cps_fill fill, double a) {
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s%s%s%s", with->prefix, in_block ? with->block : "",
             in_block ? "." : "", name);
    cps_parameter parameter = {.name = full,
                               .rank = rank,
                               .fill = fill,
                               .a = fill == CPS_FILL_UNIFORM ? -a : a,
                               .b = a,
                               .decay = rank > 1};
    for (int32_t d = 0; d < rank; d++) {
        parameter.shape[d] = shape[d];
    }
    return cps_setup_parameter(with->setup, &parameter);
}

static int32_t declare_buffer(const declaring *with, const char *name, int64_t count, double value,
                              int64_t partials) {
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s%s.conv_dr_block.1.%s", with->prefix, with->block, name);
    const cps_parameter buffer = {
        .name = full, .rank = 1, .shape = {count}, .fill = CPS_FILL_CONSTANT, .a = value};
    return cps_setup_buffer(with->setup, &buffer, partials);
}

static void declare_reduction(const declaring *with, const dalip_options *options,
                              dalip_side *side) {
    const int64_t r = options->reduced, g = side->width / options->heads;
    const int64_t matrix[4] = {r, g, 1, 1};
    /* A 1 x 1 convolution (Kaiming, fan out) on the image side, a linear layer on the text side. */
    side->reduce = declare(with, "conv_dr_block.0.weight", true, side->image ? 4 : 2, matrix,
                           side->image ? CPS_FILL_NORMAL : CPS_FILL_UNIFORM,
                           side->image ? sqrt(2.0 / (double)r) : 1.0 / sqrt((double)g));
    side->gain = declare(with, "conv_dr_block.1.weight", true, 1, &r, CPS_FILL_CONSTANT, 1.0);
    side->bias = declare(with, "conv_dr_block.1.bias", true, 1, &r, CPS_FILL_ZERO, 0.0);
    side->mean = side->variance = -1;
    if (side->image && options->image_norm == DALIP_BATCH_NORM) {
        side->mean = declare_buffer(with, "running_mean", r, 0.0, options->heads * r);
        side->variance = declare_buffer(with, "running_var", r, 1.0, options->heads * r);
    }
}

/* Parameters of the towers `image` and `text` have no name of a tower in front. */
static declaring declaring_for(cps_setup *setup, const char *tower, bool image) {
    declaring with = {.setup = setup, .block = image ? "vbdc" : "tbdc"};
    if (strcmp(tower, image ? "image" : "text") != 0) {
        snprintf(with.prefix, sizeof with.prefix, "%.150s.", tower);
    } else if (image) {
        snprintf(with.prefix, sizeof with.prefix, "visual.");
    }
    return with;
}

void dalip_side_declare(cps_setup *setup, const dalip_options *options, const char *tower,
                        int64_t tokens, dalip_side *side) {
    const declaring with = declaring_for(setup, tower, side->image);
    const int64_t e = side->width, q = side->entries;
    const double of_e = 1.0 / sqrt((double)e), of_q = 1.0 / sqrt((double)q);
    side->fc1 =
        declare(&with, "fc1.weight", false, 2, (const int64_t[]){e, e}, CPS_FILL_UNIFORM, of_e);
    declare_reduction(&with, options, side);
    side->ln_gain = declare(&with, "ln.weight", true, 1, &q, CPS_FILL_CONSTANT, 1.0);
    side->ln_bias = declare(&with, "ln.bias", true, 1, &q, CPS_FILL_ZERO, 0.0);
    side->down =
        declare(&with, "down.weight", true, 2, (const int64_t[]){q, q}, CPS_FILL_UNIFORM, of_q);
    side->down_bias = declare(&with, "down.bias", true, 1, &q, CPS_FILL_UNIFORM, of_q);
    side->fc2 =
        declare(&with, "fc2.weight", false, 2, (const int64_t[]){e, q}, CPS_FILL_UNIFORM, of_q);
    side->log_factor = -1;
    if (options->learned_factor) {
        side->log_factor = declare(&with, "temperature", true, 0, NULL, CPS_FILL_CONSTANT,
                                   -log(2.0 * (double)tokens));
    }
}

/* ---- masks and places ---- */

static bool drops_tokens(const dalip_options *options, const dalip_side *side) {
    return (side->image ? options->image_dropout : options->text_dropout) == DALIP_DROP_TOKENS;
}

/* Factors of whole channels or tokens: 0, or 1 / keep. A draw for each sample, head and one of
 * them. */
static const cps_real *draw_mask(cps_tape *tape, const dalip_options *options,
                                 const dalip_side *side, const dalip_input *input, int64_t tokens) {
    if (input->grain == NULL) {
        return input->mask;
    }
    if (input->evaluation || !(options->dropout > 0.0)) {
        return NULL;
    }
    const int64_t each = options->heads * (drops_tokens(options, side) ? tokens : options->reduced);
    cps_real *mask = cps_tape_save(tape, (size_t)(input->samples * each) * sizeof *mask);
    const double keep = 1.0 - options->dropout;
    const cps_host *host = cps_host_of(tape);
    for (int64_t b = 0; mask != NULL && b < input->samples; b++) {
        const cps_draw_key key = cps_grain_draws(input->grain, side->view, b,
                                                 side->image ? "dalip.image" : "dalip.text");
        for (int64_t i = 0; i < each; i++) {
            mask[b * each + i] =
                host->draw_uniform(&key, (uint64_t)i) < keep ? (cps_real)(1.0 / keep) : 0;
        }
    }
    return mask;
}

/* Where tokens and anchors stand: the class token in front is the image's anchor and no token; the
 * end token is the text's, and one of its tokens. */
static void find_places(cps_tape *tape, const dalip_options *options, const dalip_side *side,
                        const dalip_input *input, dalip_mbdc *shape) {
    int32_t *places = cps_tape_save(tape, (size_t)(3 * input->samples) * sizeof *places);
    if (places == NULL || !cps_tape_computes(tape)) {
        return;
    }
    for (int64_t b = 0; b < input->samples; b++) {
        places[b] = input->offsets[b] + (side->image ? 1 : 0);
        places[input->samples + b] = input->ends[b];
        places[2 * input->samples + b] = input->ends[b] - input->offsets[b] + 1;
    }
    shape->first = places;
    shape->anchor = places + input->samples;
    shape->valid = options->pad_mask && !side->image ? places + 2 * input->samples : NULL;
}

/* ---- the statistic ---- */

cps_tensor *dalip_statistic(cps_tape *tape, const dalip_options *options, const dalip_side *side,
                            const dalip_input *input, cps_tensor *y, dalip_trace *trace) {
    *trace = (dalip_trace){0};
    if (y == NULL) {
        return NULL;
    }
    const int64_t positions = y->shape[0] / (input->samples > 0 ? input->samples : 1);
    const bool batch = side->mean >= 0;
    dalip_mbdc shape = {.samples = input->samples,
                        .tokens = positions - (side->image ? 1 : 0),
                        .heads = options->heads,
                        .channels = side->width / options->heads,
                        .reduced = options->reduced,
                        .norm = batch ? DALIP_BATCH_NORM : DALIP_LAYER_NORM,
                        .norm_eps = batch ? batch_norm_eps : layer_norm_eps,
                        .eps = options->eps,
                        .mask_tokens = drops_tokens(options, side),
                        .inside = input->inside};
    find_places(tape, options, side, input, &shape);
    shape.mask = draw_mask(tape, options, side, input, shape.tokens);
    shape.watch = cps_tape_save(tape, sizeof *shape.watch);
    if (batch && input->evaluation && input->mean != NULL) {
        shape.mean = input->mean->data;
        shape.variance = input->variance->data;
    } else if (batch) {
        shape.moments = cps_tape_save(tape, (size_t)(2 * options->heads * options->reduced) *
                                                sizeof *shape.moments);
    }
    *trace = (dalip_trace){.moments = shape.moments, .watch = shape.watch};
    return dalip_mbdc_run(tape, &shape, y, input->reduce, input->gain, input->bias,
                          input->log_factor);
}

cps_tensor *dalip_normed_statistic(cps_tape *tape, const dalip_options *options,
                                   const dalip_side *side, const dalip_input *input,
                                   dalip_trace *trace) {
    cps_tensor *y = cps_linear(tape, input->tokens, input->fc1, NULL, CPS_ACT_NONE);
    cps_tensor *q = dalip_statistic(tape, options, side, input, y, trace);
    return cps_layer_norm(tape, q, input->ln_gain, input->ln_bias, layer_norm_eps);
}

cps_tensor *dalip_second(cps_tape *tape, const dalip_options *options, const dalip_side *side,
                         const dalip_input *input, dalip_trace *trace) {
    cps_tensor *q = dalip_normed_statistic(tape, options, side, input, trace);
    cps_tensor *d = cps_linear(tape, q, input->down, input->down_bias, CPS_ACT_NONE);
    return cps_normalize(tape, cps_linear(tape, d, input->fc2, NULL, CPS_ACT_NONE), feature_floor);
}

void dalip_move_statistic(cps_real *values, const double *sums, double grains, int64_t heads,
                          int64_t count) {
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t i = 0; i < count; i++) {
            values[i] = (cps_real)(0.9 * (double)values[i] + 0.1 * sums[h * count + i] / grains);
        }
    }
}
