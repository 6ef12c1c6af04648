/* The recorded operation: memory, and what becomes of the samples' shares. */
#include "mbdc_work.h"

#include <string.h>

static size_t bytes_of(int64_t elements) {
    return (size_t)elements * sizeof(cps_real);
}

static size_t doubles(int64_t elements) {
    return (size_t)elements * sizeof(double);
}

/* Statistics of a norm: by head and channel, or by line. */
static int64_t statistics_of(const dalip_mbdc *s) {
    return s->norm == DALIP_BATCH_NORM ? s->heads * dalip_width(s) : s->samples * dalip_lines(s);
}

static void put(cps_tape *tape, cps_tensor *to, int64_t count, const cps_real *from) {
    bool fresh = true;
    cps_real *target = cps_grad_target(tape, to, &fresh);
    for (int64_t i = 0; target != NULL && i < count; i++) {
        target[i] = fresh ? from[i] : target[i] + from[i];
    }
}

/* Gain (which = 0) or bias: over samples and heads in order. `sums`: [r]. */
static void put_norm(const dalip_work *w, cps_tensor *to, int64_t which, cps_real *sums) {
    const dalip_mbdc *s = &w->saved->shape;
    const int64_t r = s->reduced, width = w->saved->width;
    for (int64_t i = 0; i < r; i++) {
        double sum = 0.0;
        for (int64_t b = 0; b < s->samples; b++) {
            for (int64_t h = 0; h < s->heads; h++) {
                sum += (double)w->d_norm[((2 * b + which) * s->heads + h) * width + i];
            }
        }
        sums[i] = (cps_real)sum;
    }
    put(w->tape, to, r, sums);
}

static void put_factor(const dalip_work *w, cps_tensor *to) {
    double sum = 0.0;
    for (int64_t b = 0; b < w->saved->shape.samples; b++) {
        sum += w->d_factor[b];
    }
    const cps_real value = (cps_real)sum;
    put(w->tape, to, 1, &value);
}

/* What backward takes: reals in the order of dalip_work, then doubles. */
static int64_t backward_reals(const dalip_mbdc *s) {
    const int64_t width = dalip_width(s), row = s->heads * width;
    return s->samples *
               (dalip_scratch(s) + dalip_lines(s) * (width + 1) + 2 * row + width * s->channels) +
           2 * row;
}

/* Rows of r out of rows of R. */
static void unpad(const dalip_saved *saved, int64_t rows, const cps_real *from, cps_real *to) {
    const int64_t r = saved->shape.reduced;
    for (int64_t row = 0; row < rows; row++) {
        memcpy(to + row * r, from + row * saved->width, bytes_of(r));
    }
}

static void show_gradients(const dalip_work *w) {
    const dalip_mbdc *s = &w->saved->shape;
    const int64_t lines = s->samples * dalip_lines(s);
    if (s->inside != NULL && s->inside->d_product != NULL) {
        unpad(w->saved, lines, w->d_u, s->inside->d_product);
    }
    if (s->inside != NULL && s->inside->d_cosine != NULL) {
        memcpy(s->inside->d_cosine, w->d_cosine, bytes_of(lines));
    }
}

static void show_inside(cps_tape *tape, const dalip_saved *saved) {
    const dalip_mbdc *s = &saved->shape;
    const int64_t lines = s->samples * dalip_lines(s), roots = s->samples * s->heads * s->reduced;
    cps_real *u = cps_tape_save(tape, bytes_of((2 * lines + roots) * s->reduced));
    if (u != NULL) {
        cps_real *z = u + lines * s->reduced, *root = z + lines * s->reduced;
        unpad(saved, lines, saved->u, u);
        unpad(saved, lines, saved->z, z);
        unpad(saved, roots, saved->root, root);
        s->inside->cosine = saved->cosine;
        s->inside->weight = saved->weight;
        s->inside->u = u;
        s->inside->z = z;
        s->inside->root = root;
    }
}

static cps_status mbdc_backward(cps_tape *tape, const cps_node *node) {
    const dalip_saved *saved = node->saved;
    const dalip_mbdc *s = &saved->shape;
    const int64_t lines = s->samples * dalip_lines(s), row = s->heads * saved->width;
    cps_real *reals = cps_tape_save(tape, bytes_of(backward_reals(s)));
    double *d_factor = cps_tape_save(tape, doubles(s->samples));
    if (reals == NULL || d_factor == NULL) {
        return cps_tape_status(tape);
    }
    cps_tensor *reduce = node->inputs[1], *factor = node->inputs[4];
    dalip_work w = {.tape = tape,
                    .saved = saved,
                    .y = node->inputs[0]->data,
                    .has_factor = factor != NULL,
                    .log_factor = factor == NULL ? 0.0 : (double)*(const cps_real *)factor->data,
                    .d_q = cps_node_grad(tape, node->outputs[0]),
                    .scratch = reals,
                    .d_factor = d_factor};
    w.d_u = w.scratch + s->samples * dalip_scratch(s);
    w.d_cosine = w.d_u + lines * saved->width;
    w.d_norm = w.d_cosine + lines;
    w.norm_mean = w.d_norm + s->samples * 2 * row;
    w.d_reduce = reduce->needs_grad ? w.norm_mean + 2 * row : NULL;
    w.d_y = cps_grad_target(tape, node->inputs[0], &w.fresh);
    dalip_passes_of(s)->backward(&w);
    if (w.d_reduce != NULL) {
        put(tape, reduce, s->reduced * s->channels, w.d_reduce);
    }
    put_norm(&w, node->inputs[2], 0, w.scratch);
    put_norm(&w, node->inputs[3], 1, w.scratch);
    put_factor(&w, factor);
    show_gradients(&w);
    return CPS_OK;
}

/* Room for what backward reads; NULL while the tape plans. */
static dalip_saved *save(cps_tape *tape, const dalip_mbdc *s) {
    const int64_t heads = s->samples * s->heads, lines = s->samples * dalip_lines(s);
    const int64_t width = dalip_width(s), statistics = statistics_of(s);
    const int64_t masks = s->mask_tokens ? 0 : heads * width; /* a plan has none to look at */
    dalip_saved *saved = cps_tape_save(tape, sizeof *saved);
    cps_real *at = cps_tape_save(tape, bytes_of(heads * (1 + s->reduced * width) +
                                                lines * (3 + 2 * width) + masks + 2 * statistics +
                                                width * (s->heads + s->channels + 3)));
    if (saved == NULL || at == NULL) {
        return NULL;
    }
    *saved = (dalip_saved){.shape = *s, .width = width, .anchor_length = at};
    saved->root = saved->anchor_length + heads;
    saved->length = saved->root + heads * s->reduced * width;
    saved->cosine = saved->length + lines;
    saved->weight = saved->cosine + lines;
    saved->u = saved->weight + lines;
    saved->z = saved->u + lines * width;
    saved->mean = saved->z + lines * width;
    saved->rstd = saved->mean + statistics;
    saved->scale = saved->rstd + statistics;
    saved->ones = saved->scale + s->heads * width;
    saved->gain = saved->ones + width;
    saved->bias = saved->gain + width;
    saved->reduce = saved->bias + width;
    saved->mask = masks > 0 && s->mask != NULL ? saved->reduce + width * s->channels : NULL;
    return saved;
}

/* Padded copies, with zeros behind the channels. */
static void pad(dalip_saved *saved, const cps_real *reduce, const cps_real *gain,
                const cps_real *bias) {
    const dalip_mbdc *s = &saved->shape;
    const int64_t r = s->reduced, width = saved->width, matrix = r * s->channels;
    memset(saved->ones, 0, bytes_of(width * (3 + s->channels))); /* what follows it as well */
    for (int64_t i = 0; i < r; i++) {
        saved->ones[i] = 1;
    }
    memcpy(saved->gain, gain, bytes_of(r));
    memcpy(saved->bias, bias, bytes_of(r));
    memcpy(saved->reduce, reduce, bytes_of(matrix));
    for (int64_t head = 0; saved->mask != NULL && head < s->samples * s->heads; head++) {
        memcpy(saved->mask + head * width, s->mask + head * r, bytes_of(r));
        memset(saved->mask + head * width + r, 0, bytes_of(width - r));
    }
}

cps_tensor *dalip_mbdc_run(cps_tape *tape, const dalip_mbdc *shape, cps_tensor *y,
                           cps_tensor *reduce, cps_tensor *gain, cps_tensor *bias,
                           cps_tensor *log_factor) {
    if (y == NULL || reduce == NULL || gain == NULL || bias == NULL) {
        return NULL;
    }
    const dalip_mbdc *s = shape;
    const int64_t out[2] = {s->samples, s->heads * dalip_bdc_entries(s->reduced)};
    cps_tensor *q = cps_tape_tensor(tape, CPS_REAL, 2, out);
    dalip_saved *saved = save(tape, s);
    const cps_node node = {.backward = mbdc_backward,
                           .name = "dalip_mbdc",
                           .output_count = 1,
                           .input_count = 5,
                           .outputs = {q},
                           .inputs = {y, reduce, gain, bias, log_factor},
                           .saved = saved,
                           .scratch_bytes =
                               bytes_of(backward_reals(s)) + doubles(s->samples) + 2 * 64};
    if (q == NULL) {
        return NULL;
    }
    cps_tape_record(tape, &node);
    const size_t mark = cps_tape_mark(tape);
    dalip_work w = {.tape = tape, .saved = saved};
    w.scratch = cps_tape_save(tape, bytes_of(s->samples * dalip_scratch(s)));
    w.moments = cps_tape_save(tape, bytes_of(s->samples * 2 * s->heads * dalip_width(s)));
    w.watch = cps_tape_save(tape, doubles(3 * s->samples));
    if (cps_tape_computes(tape) && saved != NULL && w.scratch != NULL && w.moments != NULL &&
        w.watch != NULL) {
        w.y = y->data;
        pad(saved, reduce->data, gain->data, bias->data);
        w.has_factor = log_factor != NULL;
        w.log_factor = log_factor == NULL ? 0.0 : (double)*(const cps_real *)log_factor->data;
        w.q = q->data;
        dalip_passes_of(s)->forward(&w);
    }
    cps_tape_release(tape, mark);
    if (w.q != NULL && s->inside != NULL) {
        show_inside(tape, saved);
    }
    return cps_tape_status(tape) == CPS_OK ? q : NULL;
}
