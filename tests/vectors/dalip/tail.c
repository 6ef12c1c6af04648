/* Group tail: a tiny model from the towers' last blocks to the loss. Final norm and projection are
 * the tape's operations as towers call them, the second feature is the plugin's, the loss comes out
 * of the plugin as training loads it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "second.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"
#include "tests/vectors/arrays.h"
#include "tests/vectors/objective.h"
#include "train/stage.h"

enum {
    NORM_GAIN,
    NORM_BIAS,
    PROJECTION,
    FC1,
    REDUCE,
    GAIN,
    BIAS,
    LN_GAIN,
    LN_BIAS,
    DOWN,
    DOWN_BIAS,
    FC2,
    PARAMETERS
};
/* By side, in the names of checkpoints. */
static const char *const names[2][PARAMETERS] = {
    {"visual.ln_post.weight", "visual.ln_post.bias", "visual.proj", "visual.fc1.weight",
     "visual.vbdc.conv_dr_block.0.weight", "visual.vbdc.conv_dr_block.1.weight",
     "visual.vbdc.conv_dr_block.1.bias", "visual.vbdc.ln.weight", "visual.vbdc.ln.bias",
     "visual.vbdc.down.weight", "visual.vbdc.down.bias", "visual.fc2.weight"},
    {"ln_final.weight", "ln_final.bias", "text_projection", "fc1.weight",
     "tbdc.conv_dr_block.0.weight", "tbdc.conv_dr_block.1.weight", "tbdc.conv_dr_block.1.bias",
     "tbdc.ln.weight", "tbdc.ln.bias", "tbdc.down.weight", "tbdc.down.bias", "fc2.weight"}};
static const char *const encoded[2] = {"enc_image", "enc_text"};
static const char *const features[2][2] = {{"image_first", "image_second"},
                                           {"text_first", "text_second"}};

typedef struct tower {
    cps_tensor *x, *parameters[PARAMETERS]; /* x [B L, width] */
    cps_tensor *features[2];                /* first, second: [B, E] */
} tower;

typedef struct tail {
    cps_h5 *file;
    const char *group;
    char *params;
    int64_t heads, reduced, samples, width; /* width: E */
    double ln_eps, log_scale, d_log_scale;
    second_desk desk;
    tower towers[2];
} tail;

static bool has_tail(const tail *t) {
    static const char *const inputs[] = {"enc_image", "enc_text", "ids", "param/logit_scale", NULL};
    bool all = vectors_has(t->file, t->group, inputs);
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < PARAMETERS; i++) {
            const char *const one[] = {names[side][i], NULL};
            all = all && vectors_has(t->file, t->params, one);
        }
    }
    return all;
}

/* Parameter i of a side: vectors have one dimension, and the reduction's further ones are 1. */
static cps_tensor *read_parameter(tail *t, int side, int i) {
    const char *name = names[side][i];
    char *path = cps_format("%s/%s", t->params, name);
    int64_t count = 0, shape[2] = {second_dimension(t->file, t->params, name, 0), 0};
    double *values = vectors_read(t->file, path, &count);
    vectors_need_same(t->group, values != NULL && shape[0] > 0 && count % shape[0] == 0);
    shape[1] = count / shape[0];
    const bool vector = i == NORM_GAIN || i == NORM_BIAS || i == GAIN || i == BIAS ||
                        i == LN_GAIN || i == LN_BIAS || i == DOWN_BIAS;
    cps_tensor *made = second_leaf(&t->desk, vector ? 1 : 2, shape, values);
    free(values);
    free(path);
    return made;
}

/* Sizes that the operations do not look at themselves. */
static void check_sizes(tail *t, const tower *w) {
    cps_tensor *const *p = w->parameters;
    t->width = p[PROJECTION]->shape[1];
    t->reduced = p[REDUCE]->shape[0];
    vectors_need_same(t->group, t->heads >= 1 && t->width % t->heads == 0 && t->reduced >= 2 &&
                                    p[REDUCE]->shape[1] == t->width / t->heads &&
                                    p[GAIN]->shape[0] == t->reduced &&
                                    p[BIAS]->shape[0] == t->reduced);
}

static void run_tower(tail *t, int side) {
    tower *w = &t->towers[side];
    cps_tape *tape = t->desk.tape;
    const bool image = side == CPS_SIDE_IMAGE;
    vectors_matrix x = vectors_matrix_read(t->file, t->group, encoded[side]);
    const int64_t samples = second_dimension(t->file, t->group, encoded[side], 0),
                  positions = x.rows / samples;
    const int32_t *ends =
        image ? NULL : second_ends(t->file, t->group, &t->desk, samples, positions);
    int32_t *offsets = cps_arena_alloc_zero(t->desk.arena, (size_t)(samples + 1) * sizeof *offsets);
    int32_t *rows = cps_arena_alloc_zero(t->desk.arena, (size_t)(samples + 1) * sizeof *rows);
    for (int64_t b = 0; b < samples; b++) {
        offsets[b + 1] = (int32_t)((b + 1) * positions);
        rows[b] = offsets[b] + (image ? 0 : ends[b]);
    }
    for (int i = 0; i < PARAMETERS; i++) {
        w->parameters[i] = read_parameter(t, side, i);
    }
    check_sizes(t, w);
    w->x = second_leaf(&t->desk, 2, (const int64_t[]){x.rows, x.width}, x.values);
    free(x.values);
    cps_tensor *const *p = w->parameters;
    const dalip_options options = {.heads = t->heads,
                                   .reduced = t->reduced,
                                   .eps = 1e-5,
                                   .image_norm = DALIP_BATCH_NORM,
                                   .text_dropout = DALIP_DROP_TOKENS};
    const dalip_side of = {.image = image,
                           .width = t->width,
                           .entries = t->heads * dalip_bdc_entries(t->reduced),
                           .mean = image ? 0 : -1,
                           .log_factor = -1};
    cps_tensor *tokens =
        cps_matmul(tape, cps_layer_norm(tape, w->x, p[NORM_GAIN], p[NORM_BIAS], t->ln_eps),
                   p[PROJECTION], false, false, 1.0);
    const dalip_input input = {.tokens = tokens,
                               .samples = samples,
                               .offsets = offsets,
                               .ends = rows,
                               .fc1 = p[FC1],
                               .reduce = p[REDUCE],
                               .gain = p[GAIN],
                               .bias = p[BIAS],
                               .ln_gain = p[LN_GAIN],
                               .ln_bias = p[LN_BIAS],
                               .down = p[DOWN],
                               .down_bias = p[DOWN_BIAS],
                               .fc2 = p[FC2]};
    dalip_trace trace;
    w->features[0] = cps_normalize(tape, cps_take_rows(tape, tokens, samples, rows), 1e-12);
    w->features[1] = dalip_second(tape, &options, &of, &input, &trace);
    vectors_need(cps_tape_status(tape));
    vectors_need_same(t->group, side == 0 || samples == t->samples);
    t->samples = samples;
}

/* The loss of both features, and backward through both towers. */
static cps_status run_loss(tail *t, double *loss_out) {
    objective_rows slots[4];
    double *values[4], *grads[4];
    const int64_t count = t->samples * t->width;
    for (int s = 0; s < 4; s++) {
        values[s] = second_widened(t->towers[s / 2].features[s % 2]->data, count);
        grads[s] = vectors_doubles(count);
        slots[s] =
            (objective_rows){features[s / 2][s % 2], t->samples, t->width, values[s], grads[s]};
    }
    objective_parameter scale = {"logit_scale", 1, &t->log_scale, &t->d_log_scale};
    char *options = cps_format("{\"heads\":%lld,\"reduced\":%lld,\"max_scale\":1000000}",
                               (long long)t->heads, (long long)t->reduced);
    const objective_loss wanted = {.name = "dalip",
                                   .options = options,
                                   .embed_dim = t->width,
                                   .slots = slots,
                                   .slot_count = 4,
                                   .parameters = &scale,
                                   .parameter_count = 1};
    objective_result result = {0};
    cps_status status = objective_run_loss(&wanted, &result);
    *loss_out = result.loss;
    for (int s = 0; s < 4; s++) {
        if (status == CPS_OK) {
            cps_tape_seed(t->desk.tape, t->towers[s / 2].features[s % 2],
                          second_reals(&t->desk, grads[s], count));
        }
        free(values[s]);
        free(grads[s]);
    }
    free(options);
    return status != CPS_OK ? status : cps_backward(t->desk.tape, NULL, 0.0);
}

static void expect_tower(const tail *t, int side) {
    const tower *w = &t->towers[side];
    char *grads = cps_format("%s/grad_param", t->group),
         *grad = cps_format("grad_%s", encoded[side]);
    const double tolerance = dalip_gradient_tolerance();
    for (int f = 0; f < 2; f++) {
        second_expect_reals(t->file, t->group, features[side][f], w->features[f]->data,
                            t->samples * t->width);
    }
    second_expect_both(t->file, t->group, grad, w->x->grad, NULL, second_count(w->x), tolerance);
    for (int i = 0; i < PARAMETERS; i++) {
        second_expect_both(t->file, grads, names[side][i], w->parameters[i]->grad, NULL,
                           second_count(w->parameters[i]), tolerance);
    }
    free(grads);
    free(grad);
}

static void expect_scale(const tail *t) {
    char *grads = cps_format("%s/grad_param", t->group);
    const double scale = exp(t->log_scale);
    second_expect(t->file, t->group, "logit_scale_exp", &scale, 1);
    second_expect_gradient(t->file, grads, "logit_scale", &t->d_log_scale, 1);
    free(grads);
}

void second_check_tail(cps_h5 *file, const char *group) {
    tail t = {.file = file, .group = group, .params = cps_format("%s/param", group)};
    if (has_tail(&t)) {
        double loss = 0.0;
        vectors_need(cps_h5_read_integer(file, group, "heads", &t.heads));
        vectors_need(cps_h5_read_number(file, group, "ln_encoder_eps", &t.ln_eps));
        t.log_scale = vectors_number(file, t.params, "logit_scale");
        t.desk = second_open();
        run_tower(&t, CPS_SIDE_IMAGE);
        run_tower(&t, CPS_SIDE_TEXT);
        if (run_loss(&t, &loss) != CPS_OK) {
            vectors_broken(group, dalip_tolerance(), "%s", cps_fail_message());
        } else {
            second_expect(file, group, "loss", &loss, 1);
            expect_scale(&t);
            expect_tower(&t, CPS_SIDE_IMAGE);
            expect_tower(&t, CPS_SIDE_TEXT);
        }
        second_close(&t.desk);
    }
    free(t.params);
}
