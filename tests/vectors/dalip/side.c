/* The second feature of a side: groups vision and text. What the plugin does not keep is made here
 * from what it keeps. */
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
#include "train/stage.h"

/* ---- a side: parameters ---- */

enum { FC1, REDUCE, GAIN, BIAS, LN_GAIN, LN_BIAS, DOWN, DOWN_BIAS, FC2, PARAMETERS };
static const char *const parameter_names[PARAMETERS + 1] = {
    "fc1.weight", "reduce.weight", "reduce_norm.weight", "reduce_norm.bias", "ln.weight",
    "ln.bias",    "down.weight",   "down.bias",          "fc2.weight",       NULL};

typedef struct side_case {
    cps_h5 *file;
    const char *group;
    char *params; /* group of the parameters */
    dalip_options options;
    dalip_side side;
    int64_t samples, positions, tokens, heads, g, r; /* B, L, M, H, g, r */
    vectors_matrix x;                                /* [B L, E] */
    vectors_matrix given[PARAMETERS];
    int32_t *offsets, *ends; /* [B + 1], [B] */
    cps_real *mask, *mean, *variance;
    bool training;
} side_case;

static void read_parameters(side_case *c) {
    for (int i = 0; i < PARAMETERS; i++) {
        c->given[i] = vectors_matrix_read(c->file, c->params, parameter_names[i]);
    }
}

/* Where sequences lie; the end of an image's is its class token. */
static void find_places(side_case *c, const second_desk *d) {
    const int32_t *ends =
        c->side.image ? NULL : second_ends(c->file, c->group, d, c->samples, c->positions);
    c->offsets = cps_arena_alloc_zero(d->arena, (size_t)(c->samples + 1) * sizeof *c->offsets);
    c->ends = cps_arena_alloc_zero(d->arena, (size_t)(c->samples + 1) * sizeof *c->ends);
    for (int64_t b = 0; b < c->samples; b++) {
        c->offsets[b + 1] = (int32_t)((b + 1) * c->positions);
        c->ends[b] = c->offsets[b] + (ends == NULL ? 0 : ends[b]);
    }
}

/* What the sizes of the parameters say of each other and of the tokens [B, L, E]. */
static void find_sizes(side_case *c) {
    const int64_t e = c->x.width;
    c->r = c->given[REDUCE].rows;
    vectors_need_same(c->group, c->heads >= 1 && e % c->heads == 0 && c->r >= 2);
    c->g = e / c->heads;
    const int64_t entries = c->heads * dalip_bdc_entries(c->r);
    const int64_t width[PARAMETERS] = {e,       c->g,    c->r,    c->r,   entries,
                                       entries, entries, entries, entries};
    for (int i = 0; i < PARAMETERS; i++) {
        vectors_need_same(c->group, c->given[i].width == width[i]);
    }
    vectors_need_same(c->group, c->given[FC1].rows == e && c->given[DOWN].rows == entries &&
                                    c->positions >= 2);
    c->tokens = c->positions - (c->side.image ? 1 : 0);
    c->options.heads = c->heads;
    c->options.reduced = c->r;
    c->side.width = e;
    c->side.entries = entries;
}

/* params: malloc'ed, the case's. */
static side_case read_side(cps_h5 *file, const char *group, char *params, bool image, int64_t heads,
                           const second_desk *d) {
    side_case c = {.file = file,
                   .group = group,
                   .params = params,
                   .heads = heads,
                   .training = true,
                   .options = {.eps = 1e-5,
                               .image_norm = DALIP_BATCH_NORM,
                               .image_dropout = DALIP_DROP_CHANNELS,
                               .text_dropout = DALIP_DROP_TOKENS},
                   .side = {.image = image, .mean = image ? 0 : -1, .log_factor = -1}};
    c.x = vectors_matrix_read(file, group, "tokens");
    c.samples = second_dimension(file, group, "tokens", 0);
    c.positions = second_dimension(file, group, "tokens", 1);
    vectors_need_same(group, c.samples * c.positions == c.x.rows);
    read_parameters(&c);
    find_sizes(&c);
    find_places(&c, d);
    return c;
}

static void end_side(side_case *c) {
    free(c->x.values);
    for (int i = 0; i < PARAMETERS; i++) {
        free(c->given[i].values);
    }
    free(c->params);
}

/* ---- a side: running it ---- */

typedef struct side_run {
    cps_tensor *tokens, *parameters[PARAMETERS];
    cps_tensor *y, *q, *q_norm, *d, *z, *unit; /* the last ones NULL where the plugin did it all */
    cps_real *d_y, *d_q, *d_q_norm, *d_d, *d_z;
    dalip_inside inside;
    dalip_trace trace;
} side_run;

static dalip_input input_of(const side_case *c, const second_desk *d, side_run *run) {
    const int64_t lines = c->samples * c->tokens * c->heads;
    run->tokens = second_leaf(d, 2, (const int64_t[]){c->x.rows, c->x.width}, c->x.values);
    for (int i = 0; i < PARAMETERS; i++) {
        const vectors_matrix *m = &c->given[i];
        const bool vector = m->rows == 1 && i != REDUCE && i != FC2;
        const int64_t matrix[2] = {m->rows, m->width};
        run->parameters[i] = second_leaf(d, vector ? 1 : 2, vector ? &m->width : matrix, m->values);
    }
    run->inside = (dalip_inside){.d_product = second_reals(d, NULL, lines * c->r),
                                 .d_cosine = second_reals(d, NULL, lines),
                                 .d_weight = second_reals(d, NULL, lines)};
    cps_tensor *const *p = run->parameters;
    dalip_input input = {.tokens = run->tokens,
                         .samples = c->samples,
                         .offsets = c->offsets,
                         .ends = c->ends,
                         .evaluation = !c->training,
                         .mask = c->mask,
                         .inside = &run->inside,
                         .fc1 = p[FC1],
                         .reduce = p[REDUCE],
                         .gain = p[GAIN],
                         .bias = p[BIAS],
                         .ln_gain = p[LN_GAIN],
                         .ln_bias = p[LN_BIAS],
                         .down = p[DOWN],
                         .down_bias = p[DOWN_BIAS],
                         .fc2 = p[FC2]};
    if (c->mean != NULL) {
        input.mean = cps_tape_leaf(d->tape, CPS_REAL, 1, &c->r, c->mean, NULL, -1);
        input.variance = cps_tape_leaf(d->tape, CPS_REAL, 1, &c->r, c->variance, NULL, -1);
    }
    return input;
}

/* As the plugin does it. */
static void run_whole(const side_case *c, const second_desk *d, const double *d_unit,
                      side_run *run) {
    const dalip_input input = input_of(c, d, run);
    run->unit = dalip_second(d->tape, &c->options, &c->side, &input, &run->trace);
    second_go_back(d, run->unit, d_unit);
}

/* The same with a look at what lies between. */
static void run_apart(const side_case *c, const second_desk *d, const double *d_unit,
                      side_run *run) {
    const dalip_input input = input_of(c, d, run);
    cps_tape *tape = d->tape;
    run->y =
        second_watched(d, cps_linear(tape, input.tokens, input.fc1, NULL, CPS_ACT_NONE), &run->d_y);
    run->q = second_watched(
        d, dalip_statistic(tape, &c->options, &c->side, &input, run->y, &run->trace), &run->d_q);
    run->q_norm = second_watched(
        d, cps_layer_norm(tape, run->q, input.ln_gain, input.ln_bias, 1e-7), &run->d_q_norm);
    run->d = second_watched(
        d, cps_linear(tape, run->q_norm, input.down, input.down_bias, CPS_ACT_NONE), &run->d_d);
    run->z = second_watched(d, cps_linear(tape, run->d, input.fc2, NULL, CPS_ACT_NONE), &run->d_z);
    run->unit = cps_normalize(tape, run->z, 1e-12);
    second_go_back(d, run->unit, d_unit);
}

/* ---- a side: comparing ---- */

/* [B, M, H, n] -> [B, H, M, n]. */
static double *heads_first(const side_case *c, const cps_real *from, int64_t n) {
    double *out = vectors_doubles(c->samples * c->tokens * c->heads * n);
    for (int64_t b = 0; b < c->samples; b++) {
        for (int64_t m = 0; m < c->tokens; m++) {
            for (int64_t h = 0; h < c->heads; h++) {
                for (int64_t i = 0; i < n; i++) {
                    out[((b * c->heads + h) * c->tokens + m) * n + i] =
                        (double)from[((b * c->tokens + m) * c->heads + h) * n + i];
                }
            }
        }
    }
    return out;
}

/* Through the norm: its output before the ReLU, from u. */
static double *normed(const side_case *c, const double *u) {
    const int64_t heads = c->samples * c->heads, r = c->r;
    double *out = vectors_doubles(heads * c->tokens * r);
    for (int64_t n = 0; n < heads * c->tokens * r; n++) {
        const int64_t i = n % r, h = n / (c->tokens * r) % c->heads;
        double mean = 0.0, square = 0.0, count = 0.0;
        for (int64_t k = 0; k < heads * c->tokens * r; k++) {
            const bool fellow =
                c->side.image ? k % r == i && k / (c->tokens * r) % c->heads == h : k / r == n / r;
            mean += fellow ? u[k] : 0.0;
            square += fellow ? u[k] * u[k] : 0.0;
            count += fellow ? 1.0 : 0.0;
        }
        mean /= count;
        double variance = square / count - mean * mean;
        if (c->side.image && !c->training) {
            mean = (double)c->mean[i];
            variance = (double)c->variance[i];
        }
        out[n] = (u[n] - mean) / sqrt(variance + (c->side.image ? 1e-5 : 1e-7)) *
                     c->given[GAIN].values[i] +
                 c->given[BIAS].values[i];
    }
    return out;
}

/* Row of y [B L, H, g] for token m of head n = b H + h. */
static const cps_real *token_of(const side_case *c, const side_run *run, int64_t n, int64_t m) {
    const int64_t row = n / c->heads * c->positions + (c->side.image ? 1 : 0) + m;
    return (const cps_real *)run->y->data + (row * c->heads + n % c->heads) * c->g;
}

static void expect_forward(const side_case *c, const side_run *run) {
    char *mid = cps_format("%s/mid", c->group);
    const int64_t heads = c->samples * c->heads, lines = heads * c->tokens;
    const dalip_inside *in = &run->inside;
    double *weight = heads_first(c, in->weight, 1), *cosine = heads_first(c, in->cosine, 1);
    double *u = heads_first(c, in->u, c->r), *norm = normed(c, u);
    double *weighted = vectors_doubles(lines * c->g);
    double *z = second_channels_first(in->z, heads, c->heads, c->tokens, c->r);
    for (int64_t i = 0; i < lines * c->g; i++) {
        const int64_t line = i / c->g;
        weighted[i] =
            weight[line] * (double)token_of(c, run, line / c->tokens, line % c->tokens)[i % c->g];
    }
    second_expect_reals(c->file, mid, "fc1_out", run->y->data, second_count(run->y));
    second_expect(c->file, mid, "cos", cosine, lines);
    second_expect(c->file, mid, "w", weight, lines);
    second_expect(c->file, mid, "xw", weighted, lines * c->g);
    second_expect(c->file, mid, "u", u, lines * c->r);
    second_expect(c->file, mid, "u_norm", norm, lines * c->r);
    for (int64_t i = 0; i < lines * c->r; i++) {
        norm[i] = fmax(norm[i], 0.0);
    }
    second_expect(c->file, mid, "y", norm, lines * c->r);
    second_expect(c->file, mid, "X", z, lines * c->r);
    second_expect_reals(c->file, mid, "S", in->root, heads * c->r * c->r);
    second_expect_reals(c->file, mid, "q", run->q->data, second_count(run->q));
    second_expect_reals(c->file, mid, "q_ln", run->q_norm->data, second_count(run->q_norm));
    second_expect_reals(c->file, mid, "d", run->d->data, second_count(run->d));
    second_expect_reals(c->file, c->group, "z", run->z->data, second_count(run->z));
    free(weight);
    free(cosine);
    free(u);
    free(norm);
    free(weighted);
    free(z);
    free(mid);
}

/* Of the reduction and the weights. The plugin keeps d product = w d u and w d w; d xw = d u Wr. */
static void expect_token_gradients(const side_case *c, const side_run *run, const char *grad) {
    const int64_t lines = c->samples * c->heads * c->tokens;
    double *d_u = heads_first(c, run->inside.d_product, c->r);
    double *weight = heads_first(c, run->inside.weight, 1),
           *d_weight = heads_first(c, run->inside.d_weight, 1),
           *d_cosine = heads_first(c, run->inside.d_cosine, 1);
    double *d_weighted = vectors_doubles(lines * c->g);
    for (int64_t line = 0; line < lines; line++) {
        d_weight[line] /= weight[line];
        for (int64_t i = 0; i < c->r; i++) {
            d_u[line * c->r + i] /= weight[line];
            for (int64_t k = 0; k < c->g; k++) {
                d_weighted[line * c->g + k] +=
                    d_u[line * c->r + i] * c->given[REDUCE].values[i * c->g + k];
            }
        }
    }
    second_expect_gradient(c->file, grad, "u", d_u, lines * c->r);
    second_expect_gradient(c->file, grad, "xw", d_weighted, lines * c->g);
    second_expect_gradient(c->file, grad, "w", d_weight, lines);
    second_expect_gradient(c->file, grad, "cos", d_cosine, lines);
    free(d_u);
    free(weight);
    free(d_weight);
    free(d_cosine);
    free(d_weighted);
}

static void expect_backward(const side_case *c, const second_desk *d, const side_run *run,
                            const side_run *whole) {
    char *grad = cps_format("%s/grad", c->group), *mid = cps_format("%s/mid", c->group);
    const int64_t heads = c->samples * c->heads;
    const double tolerance = dalip_gradient_tolerance();
    const dalip_bdc s = {.reduced = c->r, .stride = c->heads * c->r, .eps = c->options.eps};
    const second_heads of =
        second_run_heads(d, s, heads, c->heads, c->tokens, run->inside.z, run->d_q);
    double *d_q = second_widened(run->d_q, second_count(run->q));
    double *d_x = second_channels_first(of.d_z, heads, c->heads, c->tokens, c->r);
    second_expect_heads(c->file, mid, &of, run->q->data, heads, c->r);
    second_expect_both(c->file, grad, "z", run->d_z, NULL, second_count(run->z), tolerance);
    second_expect_both(c->file, grad, "d", run->d_d, NULL, second_count(run->d), tolerance);
    second_expect_both(c->file, grad, "q_ln", run->d_q_norm, NULL, second_count(run->q_norm),
                       tolerance);
    second_expect_both(c->file, grad, "q", run->d_q, NULL, second_count(run->q), tolerance);
    second_expect_triangle(c->file, grad, "C", d_q, heads, c->r);
    second_expect_gradient(c->file, grad, "X", d_x, heads * c->r * c->tokens);
    expect_token_gradients(c, run, grad);
    second_expect_both(c->file, grad, "fc1_out", run->d_y, NULL, second_count(run->y), tolerance);
    second_expect_both(c->file, grad, "tokens", run->tokens->grad, whole->tokens->grad,
                       second_count(run->tokens), tolerance);
    free(d_q);
    free(d_x);
    free(grad);
    free(mid);
}

static void expect_parameters(const side_case *c, const side_run *run, const side_run *whole) {
    char *group = cps_format("%s/grad_param", c->group);
    for (int i = 0; i < PARAMETERS; i++) {
        second_expect_both(c->file, group, parameter_names[i], run->parameters[i]->grad,
                           whole->parameters[i]->grad, second_count(run->parameters[i]),
                           dalip_gradient_tolerance());
    }
    free(group);
}

/* Running statistics of images after the step. */
static void expect_running(const side_case *c, const side_run *run) {
    const int64_t count = c->heads * c->r;
    if (c->training) {
        dalip_move_statistic(c->mean, run->trace.moments, 1.0, c->heads, c->r);
        dalip_move_statistic(c->variance, run->trace.moments + count, 1.0, c->heads, c->r);
    }
    second_expect_reals(c->file, c->group, "running_mean_after", c->mean, c->r);
    second_expect_reals(c->file, c->group, "running_var_after", c->variance, c->r);
}

/* ---- vision/<case>, text/<case> ---- */

static cps_real *read_reals(const side_case *c, const second_desk *d, const char *name,
                            int64_t count) {
    char *path = cps_format("%s/%s", c->group, name);
    cps_real *out = NULL;
    if (cps_h5_has(c->file, path)) {
        vectors_matrix m = vectors_matrix_read(c->file, c->group, name);
        vectors_need_same(c->group, m.rows * m.width == count);
        out = second_reals(d, m.values, count);
        free(m.values);
    }
    free(path);
    return out;
}

/* Attributes of a case; false: it asks for what the plugin has no option for. */
static bool read_attributes(cps_h5 *file, const char *group, bool image, int64_t *heads,
                            bool *training, double *eps) {
    double train = 0.0, ln_eps = 0.0, norm_eps = 0.0;
    vectors_need(cps_h5_read_integer(file, group, "heads", heads));
    vectors_need(cps_h5_read_number(file, group, "train", &train));
    vectors_need(cps_h5_read_number(file, group, "bdc_eps", eps));
    vectors_need(cps_h5_read_number(file, group, "ln_eps", &ln_eps));
    vectors_need(cps_h5_read_number(file, group, "reduce_norm_eps", &norm_eps));
    *training = train != 0.0;
    if (ln_eps == 1e-7 && norm_eps == (image ? 1e-5 : 1e-7)) {
        return true;
    }
    vectors_skip(group, "the plugin's norms have other constants");
    return false;
}

static void check_side(cps_h5 *file, const char *group, bool image) {
    static const char *const inputs[] = {"tokens", "grad/z_unit", NULL},
                             *const texts[] = {"ids", NULL},
                             *const images[] = {"running_mean_before", "running_var_before", NULL};
    char *params = cps_format("%s/param", group);
    int64_t heads = 0;
    double eps = 0.0;
    bool training = false;
    if (!vectors_has(file, group, inputs) || !vectors_has(file, group, image ? images : texts) ||
        !vectors_has(file, params, parameter_names) ||
        !read_attributes(file, group, image, &heads, &training, &eps)) {
        free(params);
        return;
    }
    second_desk d = second_open(), other = second_open();
    side_case c = read_side(file, group, params, image, heads, &d);
    c.training = training;
    c.options.eps = eps;
    c.mask = read_reals(&c, &d, "drop_mask", c.samples * heads * (image ? c.r : c.tokens));
    c.mean = image ? read_reals(&c, &d, images[0], c.r) : NULL;
    c.variance = image ? read_reals(&c, &d, images[1], c.r) : NULL;
    char *grad = cps_format("%s/grad", group);
    vectors_matrix d_unit = vectors_matrix_read(file, grad, "z_unit");
    vectors_need_same(group, d_unit.rows == c.samples && d_unit.width == c.given[FC2].rows);
    side_run run = {0}, whole = {0};
    run_apart(&c, &d, d_unit.values, &run);
    run_whole(&c, &other, d_unit.values, &whole);
    expect_forward(&c, &run);
    second_expect_both(file, group, "z_unit", run.unit->data, whole.unit->data,
                       second_count(run.unit), dalip_tolerance());
    expect_backward(&c, &d, &run, &whole);
    expect_parameters(&c, &run, &whole);
    if (image) {
        expect_running(&c, &run);
    }
    free(d_unit.values);
    free(grad);
    end_side(&c);
    second_close(&other);
    second_close(&d);
}

void second_check_image(cps_h5 *file, const char *group) {
    check_side(file, group, true);
}

/* text/<case>_padmask: parameters of text/<case>. */
static void check_masked(cps_h5 *file, const char *group) {
    static const char *const inputs[] = {"tokens", "ids", "grad_z_unit", NULL};
    const size_t length = strlen(group) - strlen("_padmask");
    char *base = cps_format("%.*s", (int)length, group), *params = cps_format("%s/param", base);
    int64_t heads = 0;
    if (!vectors_has(file, group, inputs) || !vectors_has(file, params, parameter_names)) {
        free(base);
        free(params);
        return;
    }
    vectors_need(cps_h5_read_integer(file, base, "heads", &heads));
    second_desk d = second_open(), other = second_open();
    side_case c = read_side(file, group, params, false, heads, &d);
    c.options.pad_mask = true;
    vectors_matrix d_unit = vectors_matrix_read(file, group, "grad_z_unit");
    vectors_need_same(group, d_unit.rows == c.samples && d_unit.width == c.given[FC2].rows);
    side_run run = {0}, whole = {0};
    run_apart(&c, &d, d_unit.values, &run);
    run_whole(&c, &other, d_unit.values, &whole);
    double *valid = vectors_doubles(c.samples), *weight = heads_first(&c, run.inside.weight, 1);
    for (int64_t b = 0; b < c.samples; b++) {
        valid[b] = c.ends[b] - c.offsets[b] + 1;
    }
    const double tolerance = dalip_tolerance(), of_gradients = dalip_gradient_tolerance();
    second_expect(file, group, "n_valid", valid, c.samples);
    second_expect(file, group, "w", weight, c.samples * c.heads * c.tokens);
    second_expect_reals(file, group, "S", run.inside.root, c.samples * c.heads * c.r * c.r);
    second_expect_reals(file, group, "q", run.q->data, second_count(run.q));
    second_expect_reals(file, group, "z", run.z->data, second_count(run.z));
    second_expect_both(file, group, "z_unit", run.unit->data, whole.unit->data,
                       second_count(run.unit), tolerance);
    second_expect_both(file, group, "grad_tokens", run.tokens->grad, whole.tokens->grad,
                       second_count(run.tokens), of_gradients);
    second_expect_both(file, group, "grad_fc1_weight", run.parameters[FC1]->grad,
                       whole.parameters[FC1]->grad, second_count(run.parameters[FC1]),
                       of_gradients);
    second_expect_both(file, group, "grad_reduce_weight", run.parameters[REDUCE]->grad,
                       whole.parameters[REDUCE]->grad, second_count(run.parameters[REDUCE]),
                       of_gradients);
    free(valid);
    free(weight);
    free(d_unit.values);
    free(base);
    end_side(&c);
    second_close(&other);
    second_close(&d);
}

void second_check_text(cps_h5 *file, const char *group) {
    const char *suffix = strstr(group, "_padmask");
    if (suffix != NULL && strcmp(suffix, "_padmask") == 0) {
        check_masked(file, group);
    } else {
        check_side(file, group, false);
    }
}
