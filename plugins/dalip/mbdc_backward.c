/* Distance covariance, backward (dalip.md, "Gradients"): from the triangles to the norm's output;
 * batch norm's means are joined over the samples; then to tokens, anchors and matrices. */
#if !defined(__clang__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif
#include "mbdc_work.h"

/* ---- backward: triangle to the norm's output ---- */

/* d <- d mask where z > 0 (so its ReLU and its mask let it through), else 0; shares of gain and
 * bias, with hat = rstd (u - mean). */
static void unactivate_batch(int64_t r, const cps_real *restrict u, const cps_real *restrict z,
                             const cps_real *restrict mean, const cps_real *restrict rstd,
                             const cps_real *restrict mask, cps_real whole, cps_real *restrict d,
                             cps_real *restrict d_gain, cps_real *restrict d_bias) {
    for (int64_t i = 0; i < r; i++) {
        const cps_real masked = d[i] * (mask[i] * whole), through = z[i] > 0 ? masked : 0;
        d[i] = through;
        d_gain[i] += through * ((u[i] - mean[i]) * rstd[i]);
        d_bias[i] += through;
    }
}
static void unactivate_layer(int64_t r, const cps_real *restrict u, const cps_real *restrict z,
                             cps_real mean, cps_real rstd, const cps_real *restrict mask,
                             cps_real whole, cps_real *restrict d, cps_real *restrict d_gain,
                             cps_real *restrict d_bias) {
    for (int64_t i = 0; i < r; i++) {
        const cps_real masked = d[i] * (mask[i] * whole), through = z[i] > 0 ? masked : 0;
        d[i] = through;
        d_gain[i] += through * ((u[i] - mean) * rstd);
        d_bias[i] += through;
    }
}

static void channels_backward(void *context, int64_t b) {
    const dalip_work *w = context;
    const dalip_saved *saved = w->saved;
    const dalip_mbdc *s = &saved->shape;
    const int64_t r = s->reduced, lines = dalip_lines(s), count = dalip_valid_lines(s, b);
    const int64_t row = s->heads * r;
    const dalip_bdc bdc = dalip_bdc_at(w, b);
    cps_real *d_gain = w->d_norm + b * 2 * row, *d_bias = d_gain + row;
    w->d_factor[b] = 0.0;
    for (int64_t h = 0; h < s->heads; h++) {
        const int64_t head = b * s->heads + h, at = (b * lines + h) * r;
        w->d_factor[b] += dalip_bdc_backward(
            w->tape, &bdc, saved->z + at, saved->root + head * r * r,
            w->d_q + head * dalip_bdc_entries(r), w->d_u + at, w->scratch + b * dalip_scratch(s));
    }
    memset(d_gain, 0, (size_t)(2 * row) * sizeof *d_gain);
    for (int64_t e = 0; e < count; e++) {
        const int64_t h = e % s->heads, at = b * lines + e;
        const cps_real *mask = dalip_channel_mask(saved, b, h), whole = dalip_token_mask(s, b, e);
        const cps_real *u = saved->u + at * r, *z = saved->z + at * r;
        if (s->norm == DALIP_BATCH_NORM) {
            unactivate_batch(r, u, z, saved->mean + h * r, saved->rstd + h * r, mask, whole,
                             w->d_u + at * r, d_gain + h * r, d_bias + h * r);
        } else {
            unactivate_layer(r, u, z, saved->mean[at], saved->rstd[at], mask, whole,
                             w->d_u + at * r, d_gain + h * r, d_bias + h * r);
        }
    }
}

/* Means over samples and tokens that batch norm's backward wants; zero where statistics are given.
 */
static void join_gradients(const dalip_work *w) {
    const dalip_mbdc *s = &w->saved->shape;
    const int64_t row = s->heads * s->reduced;
    for (int64_t i = 0; i < 2 * row; i++) {
        double sum = 0.0, count = 0.0;
        for (int64_t b = 0; b < s->samples; b++) {
            sum += (double)w->d_norm[b * 2 * row + i];
            count += (double)(dalip_valid_lines(s, b) / s->heads);
        }
        w->norm_mean[i] = s->mean == NULL ? (cps_real)(sum / count) : 0;
    }
}

/* ---- backward: norm to tokens ---- */

/* d at the norm's input: scale (d - mean(d) - hat mean(d hat)). */
static void batch_backward(int64_t r, const cps_real *restrict u, const cps_real *restrict mean,
                           const cps_real *restrict rstd, const cps_real *restrict scale,
                           const cps_real *restrict d_hat, const cps_real *restrict d_mean,
                           cps_real *restrict d) {
    for (int64_t i = 0; i < r; i++) {
        const cps_real hat = (u[i] - mean[i]) * rstd[i];
        d[i] = scale[i] * ((d[i] - d_mean[i]) - hat * d_hat[i]);
    }
}
/* The same with means over the line's channels; hat: r elements of scratch. Gives <d, u>, which is
 * r eps rstd^2 mean(d hat): the norm takes a line's scale away but for its eps, and what is left of
 * the product's terms would be rounding. */
static cps_real layer_backward(int64_t r, const cps_real *restrict u, cps_real mean, cps_real rstd,
                               cps_real eps, const cps_real *restrict gain, cps_real *restrict hat,
                               cps_real *restrict d) {
    for (int64_t i = 0; i < r; i++) {
        hat[i] = (u[i] - mean) * rstd;
        d[i] *= gain[i];
    }
    const cps_real d_mean = dalip_sum(r, d) / (cps_real)r,
                   d_hat = dalip_dot(r, d, hat) / (cps_real)r;
    for (int64_t i = 0; i < r; i++) {
        d[i] = rstd * ((d[i] - d_mean) - hat[i] * d_hat);
    }
    return (cps_real)r * eps * rstd * rstd * d_hat;
}

/* To the product before its weights, and to the weights. As u = w product, w dL/dw = <d, u>: that
 * is what d_cosine holds until softmax_backward. */
static void norm_backward(const dalip_work *w, int64_t b) {
    const dalip_saved *saved = w->saved;
    const dalip_mbdc *s = &saved->shape;
    const int64_t r = s->reduced, lines = dalip_lines(s), count = dalip_valid_lines(s, b);
    const int64_t row = s->heads * r;
    cps_real *hat = w->scratch + b * dalip_scratch(s);
    for (int64_t e = 0; e < count; e++) {
        const int64_t h = e % s->heads, at = b * lines + e;
        const cps_real *u = saved->u + at * r, weight = saved->weight[at];
        cps_real *d = w->d_u + at * r;
        if (s->norm == DALIP_BATCH_NORM) {
            batch_backward(r, u, saved->mean + h * r, saved->rstd + h * r, saved->scale + h * r,
                           w->norm_mean + h * r, w->norm_mean + row + h * r, d);
            w->d_cosine[at] = dalip_dot(r, d, u);
        } else {
            w->d_cosine[at] = layer_backward(r, u, saved->mean[at], saved->rstd[at],
                                             (cps_real)s->norm_eps, w->gain, hat, d);
        }
        DALIP_EACH
        for (int64_t i = 0; i < r; i++) {
            d[i] *= weight;
        }
    }
    memset(w->d_u + (b * lines + count) * r, 0, (size_t)((lines - count) * r) * sizeof *w->d_u);
    if (s->inside != NULL && s->inside->d_weight != NULL) {
        memcpy(s->inside->d_weight + b * lines, w->d_cosine + b * lines,
               (size_t)count * sizeof *w->d_cosine);
    }
}

/* w (d_w - <w, d_w>) of one head; d_cosine holds w d_w. */
static void softmax_backward(const dalip_work *w, int64_t b, int64_t h) {
    const dalip_mbdc *s = &w->saved->shape;
    const int64_t lines = dalip_lines(s), count = dalip_valid_lines(s, b);
    const cps_real *weight = w->saved->weight + b * lines;
    cps_real *d_cosine = w->d_cosine + b * lines;
    double mean = 0.0;
    for (int64_t e = h; e < count; e += s->heads) {
        mean += (double)d_cosine[e];
    }
    for (int64_t e = h; e < lines; e += s->heads) {
        d_cosine[e] = e < count ? (cps_real)((double)d_cosine[e] - (double)weight[e] * mean) : 0;
    }
}

/* d += cross a - own t; sum += cross t. */
static void cosine_line(int64_t g, cps_real cross, cps_real own, const cps_real *restrict a,
                        const cps_real *restrict t, cps_real *restrict d, cps_real *restrict sum) {
    for (int64_t c = 0; c < g; c++) {
        d[c] += cross * a[c] - own * t[c];
        sum[c] += cross * t[c];
    }
}

/* Through the cosines of one head to tokens and anchor. With c = <a, t> / (|a| |t|):
 * dc/dt = a / (|a| |t|) - c t / |t|^2; a norm at its floor is a constant. sum: [g] of scratch. */
static void cosine_backward(const dalip_work *w, int64_t b, int64_t h, cps_real *sum) {
    const dalip_saved *saved = w->saved;
    const dalip_mbdc *s = &saved->shape;
    const int64_t g = s->channels, lines = dalip_lines(s), count = dalip_valid_lines(s, b);
    const int64_t tokens = s->first[b] * s->heads * g, at = (s->anchor[b] * s->heads + h) * g;
    const cps_real of_anchor = saved->anchor_length[b * s->heads + h];
    double along = 0.0; /* how much of the anchor itself */
    memset(sum, 0, (size_t)g * sizeof *sum);
    for (int64_t e = h; e < count; e += s->heads) {
        const cps_real length = saved->length[b * lines + e], d = w->d_cosine[b * lines + e];
        const cps_real turned = d * saved->cosine[b * lines + e];
        along += (double)turned;
        cosine_line(g, d / (of_anchor * length),
                    length > dalip_least_norm ? turned / (length * length) : 0, w->y + at,
                    w->y + tokens + e * g, w->d_y + tokens + e * g, sum);
    }
    const cps_real own = of_anchor > dalip_least_norm
                             ? (cps_real)(along / ((double)of_anchor * (double)of_anchor))
                             : 0;
    DALIP_EACH
    for (int64_t c = 0; c < g; c++) {
        w->d_y[at + c] += sum[c] - own * w->y[at + c];
    }
}

static bool anchor_is_token(const dalip_mbdc *s, int64_t b) {
    return s->anchor[b] >= s->first[b] && s->anchor[b] < s->first[b] + s->tokens;
}

static void tokens_backward(void *context, int64_t b) {
    const dalip_work *w = context;
    const dalip_mbdc *s = &w->saved->shape;
    const int64_t g = s->channels, r = s->reduced, lines = dalip_lines(s), width = s->heads * g;
    const cps_real *d_product = w->d_u + b * lines * r;
    norm_backward(w, b);
    for (int64_t h = 0; h < s->heads; h++) {
        softmax_backward(w, b, h);
    }
    if (w->d_reduce != NULL) {
        cps_gemm_serial(w->tape, true, false, r, g, lines, 1.0, d_product, r,
                        w->y + s->first[b] * width, g, 0.0, w->d_reduce + b * r * g, g);
    }
    if (w->d_y == NULL) {
        return;
    }
    cps_gemm_serial(w->tape, false, false, lines, g, r, 1.0, d_product, r, w->reduce, g,
                    w->fresh ? 0.0 : 1.0, w->d_y + s->first[b] * width, g);
    if (w->fresh && !anchor_is_token(s, b)) {
        memset(w->d_y + s->anchor[b] * width, 0, (size_t)width * sizeof *w->d_y);
    }
    for (int64_t h = 0; h < s->heads; h++) {
        cosine_backward(w, b, h, w->scratch + b * dalip_scratch(s));
    }
}

static void backward_sample(void *context, int64_t b) {
    channels_backward(context, b);
    tokens_backward(context, b);
}

void dalip_backward(dalip_work *w) {
    const dalip_mbdc *s = &w->saved->shape;
    if (s->norm == DALIP_LAYER_NORM) {
        cps_parallel(w->tape, s->samples, backward_sample, w);
    } else {
        cps_parallel(w->tape, s->samples, channels_backward, w);
        join_gradients(w);
        cps_parallel(w->tape, s->samples, tokens_backward, w);
    }
}
