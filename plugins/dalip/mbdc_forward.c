/* Distance covariance, forward: tokens are reduced and weighted; batch norm's statistics are joined
 * over the samples; then norm, ReLU, dropout and the distances between channels. */
#if !defined(__clang__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif
#include "mbdc_work.h"

/* ---- forward: reduction, cosines, weights ---- */

static cps_real norm_of(cps_real square) {
    const cps_real length = (cps_real)sqrt((double)square);
    return length < dalip_least_norm ? dalip_least_norm : length; /* NaN stays */
}

/* Softmax of the cosines of one head over the lines that count; cosines are at most 1. */
static void weigh(const dalip_saved *saved, int64_t b, int64_t h) {
    const dalip_mbdc *s = &saved->shape;
    const int64_t lines = dalip_lines(s), count = dalip_valid_lines(s, b);
    const cps_real *cosine = saved->cosine + b * lines;
    cps_real *weight = saved->weight + b * lines;
    double sum = 0.0;
    for (int64_t e = h; e < count; e += s->heads) {
        const double share = exp((double)cosine[e]);
        weight[e] = (cps_real)share;
        sum += share;
    }
    for (int64_t e = h; e < lines; e += s->heads) {
        weight[e] = e < count ? (cps_real)((double)weight[e] / sum) : 0;
    }
}

static void reduce_sample(const dalip_work *w, int64_t b) {
    const dalip_saved *saved = w->saved;
    const dalip_mbdc *s = &saved->shape;
    const int64_t lines = dalip_lines(s), g = s->channels, r = s->reduced;
    const cps_real *tokens = w->y + s->first[b] * s->heads * g;
    const cps_real *anchor = w->y + s->anchor[b] * s->heads * g;
    cps_real *anchor_length = saved->anchor_length + b * s->heads, *u = saved->u + b * lines * r;
    for (int64_t h = 0; h < s->heads; h++) {
        anchor_length[h] = norm_of(dalip_dot(g, anchor + h * g, anchor + h * g));
    }
    for (int64_t e = 0; e < lines; e++) {
        const int64_t h = e % s->heads;
        cps_real square;
        const cps_real cross = dalip_dot_two(g, anchor + h * g, tokens + e * g, &square);
        const cps_real length = norm_of(square);
        saved->length[b * lines + e] = length;
        saved->cosine[b * lines + e] = cross / (anchor_length[h] * length);
    }
    for (int64_t h = 0; h < s->heads; h++) {
        weigh(saved, b, h);
    }
    cps_gemm_serial(w->tape, false, true, lines, r, g, 1.0, tokens, g, w->reduce, g, 0.0, u, r);
    for (int64_t e = 0; e < lines; e++) {
        const cps_real weight = saved->weight[b * lines + e];
        DALIP_EACH
        for (int64_t i = 0; i < r; i++) {
            u[e * r + i] *= weight;
        }
    }
}

/* ---- forward: statistics ---- */

/* Batch norm, one sample: means over its tokens, and sums of squares around them. A row of all
 * heads at a time. */
static void sample_moments(const dalip_work *w, int64_t b) {
    const dalip_mbdc *s = &w->saved->shape;
    const int64_t row = s->heads * s->reduced, count = dalip_valid_lines(s, b) / s->heads;
    const cps_real *u = w->saved->u + b * s->tokens * row;
    cps_real *restrict mean = w->moments + b * 2 * row, *restrict squares = mean + row;
    memset(mean, 0, (size_t)(2 * row) * sizeof *mean);
    for (int64_t m = 0; m < count; m++) {
        DALIP_EACH
        for (int64_t i = 0; i < row; i++) {
            mean[i] += u[m * row + i];
        }
    }
    for (int64_t i = 0; i < row; i++) {
        mean[i] /= (cps_real)count;
    }
    for (int64_t m = 0; m < count; m++) {
        DALIP_EACH
        for (int64_t i = 0; i < row; i++) {
            const cps_real off = u[m * row + i] - mean[i];
            squares[i] += off * off;
        }
    }
}

/* All samples' together, in order: with counts n and k, means a and b,
 * squares + squares' + (a - b)^2 n k / (n + k). */
static void join_moments(const dalip_work *w) {
    const dalip_saved *saved = w->saved;
    const dalip_mbdc *s = &saved->shape;
    const int64_t row = s->heads * s->reduced;
    for (int64_t i = 0; i < row; i++) {
        double count = 0.0, mean = 0.0, squares = 0.0;
        for (int64_t b = 0; b < s->samples; b++) {
            const cps_real *of = w->moments + b * 2 * row;
            const double more = (double)(dalip_valid_lines(s, b) / s->heads),
                         off = (double)of[i] - mean;
            squares += (double)of[row + i] + off * off * count * more / (count + more);
            mean += off * more / (count + more);
            count += more;
        }
        saved->mean[i] = (cps_real)mean;
        saved->rstd[i] = (cps_real)(1.0 / sqrt(squares / count + s->norm_eps));
        if (s->moments != NULL) {
            s->moments[i] = mean;
            s->moments[row + i] = squares / (count > 1.0 ? count - 1.0 : 1.0);
        }
    }
}

static void given_moments(const dalip_saved *saved) {
    const dalip_mbdc *s = &saved->shape;
    for (int64_t at = 0; at < s->heads * s->reduced; at++) {
        const int64_t i = at % s->reduced;
        saved->mean[at] = s->mean[i];
        saved->rstd[at] = (cps_real)(1.0 / sqrt((double)s->variance[i] + s->norm_eps));
    }
}

/* Layer norm: a line over its channels. */
static void line_moments(const dalip_saved *saved, int64_t at) {
    const dalip_mbdc *s = &saved->shape;
    const int64_t r = s->reduced;
    const cps_real *u = saved->u + at * r;
    cps_real *off = saved->z + at * r; /* filled after this */
    const cps_real mean = dalip_sum(r, u) / (cps_real)r;
    DALIP_EACH
    for (int64_t i = 0; i < r; i++) {
        off[i] = u[i] - mean;
    }
    saved->mean[at] = mean;
    saved->rstd[at] =
        (cps_real)(1.0 / sqrt((double)dalip_dot(r, off, off) / (double)r + s->norm_eps));
}

/* ---- forward: norm, ReLU, dropout, distances ---- */

/* max(0, scale (u - mean) + bias), dropped; `whole`: all of the line. NaN stays. */
static void activate_batch(int64_t r, const cps_real *restrict u, const cps_real *restrict mean,
                           const cps_real *restrict scale, const cps_real *restrict bias,
                           const cps_real *restrict mask, cps_real whole, cps_real *restrict z) {
    for (int64_t i = 0; i < r; i++) {
        const cps_real y = (u[i] - mean[i]) * scale[i] + bias[i];
        z[i] = (y < 0 ? 0 : y) * (mask[i] * whole);
    }
}
static void activate_layer(int64_t r, const cps_real *restrict u, cps_real mean, cps_real rstd,
                           const cps_real *restrict gain, const cps_real *restrict bias,
                           const cps_real *restrict mask, cps_real whole, cps_real *restrict z) {
    for (int64_t i = 0; i < r; i++) {
        const cps_real y = (u[i] - mean) * rstd * gain[i] + bias[i];
        z[i] = (y < 0 ? 0 : y) * (mask[i] * whole);
    }
}

static void activate(const dalip_work *w, int64_t b) {
    const dalip_saved *saved = w->saved;
    const dalip_mbdc *s = &saved->shape;
    const int64_t r = s->reduced, count = dalip_valid_lines(s, b);
    for (int64_t e = 0; e < count; e++) {
        const int64_t h = e % s->heads, at = b * dalip_lines(s) + e;
        const cps_real *mask = dalip_channel_mask(saved, b, h), whole = dalip_token_mask(s, b, e);
        const cps_real *u = saved->u + at * r;
        cps_real *z = saved->z + at * r;
        if (s->norm == DALIP_BATCH_NORM) {
            activate_batch(r, u, saved->mean + h * r, saved->scale + h * r, w->bias, mask, whole,
                           z);
        } else {
            line_moments(saved, at);
            activate_layer(r, u, saved->mean[at], saved->rstd[at], w->gain, w->bias, mask, whole,
                           z);
        }
    }
}

/* Channels of a head by the diagonal of its Gram matrix. */
static void watch_head(const dalip_saved *saved, int64_t b, int64_t h, const cps_real *gram,
                       double roots, double *watch) {
    const dalip_mbdc *s = &saved->shape;
    const int64_t r = s->reduced;
    const cps_real *mask = dalip_channel_mask(saved, b, h);
    for (int64_t i = 0; i < r; i++) {
        const bool dead = !(gram[i * r + i] > 0);
        watch[0] += mask[i] > 0 && !dead ? 1.0 : 0.0;
        watch[1] += mask[i] > 0 && dead ? 1.0 : 0.0;
    }
    watch[2] += roots - (double)r * sqrt(s->eps);
}

static void take_distances(const dalip_work *w, int64_t b) {
    const dalip_saved *saved = w->saved;
    const dalip_mbdc *s = &saved->shape;
    const int64_t r = s->reduced, entries = dalip_bdc_entries(r);
    const dalip_bdc bdc = dalip_bdc_at(w, b);
    cps_real *scratch = w->scratch + b * dalip_scratch(s);
    double *watch = w->watch + 3 * b;
    watch[0] = watch[1] = watch[2] = 0.0;
    for (int64_t h = 0; h < s->heads; h++) {
        const int64_t head = b * s->heads + h;
        const double roots =
            dalip_bdc_forward(w->tape, &bdc, saved->z + (b * dalip_lines(s) + h) * r,
                              saved->root + head * r * r, w->q + head * entries, scratch);
        watch_head(saved, b, h, scratch, roots, watch);
    }
}

static void forward_tokens(void *context, int64_t b) {
    const dalip_work *w = context;
    reduce_sample(w, b);
    sample_moments(w, b);
}
static void forward_channels(void *context, int64_t b) {
    const dalip_work *w = context;
    activate(w, b);
    take_distances(w, b);
}
static void forward_sample(void *context, int64_t b) {
    const dalip_work *w = context;
    reduce_sample(w, b);
    forward_channels(context, b);
}

static void put_watch(const dalip_work *w) {
    const dalip_mbdc *s = &w->saved->shape;
    if (s->watch != NULL) {
        *s->watch =
            (dalip_watch){.pairs = (double)(s->samples * s->heads * s->reduced * (s->reduced - 1))};
        for (int64_t b = 0; b < s->samples; b++) {
            s->watch->live += w->watch[3 * b];
            s->watch->dead += w->watch[3 * b + 1];
            s->watch->roots += w->watch[3 * b + 2];
        }
    }
}

void dalip_forward(dalip_work *w) {
    const dalip_saved *saved = w->saved;
    const dalip_mbdc *s = &saved->shape;
    for (int64_t i = 0; i < s->reduced; i++) {
        saved->ones[i] = 1;
    }
    if (s->norm == DALIP_LAYER_NORM) {
        cps_parallel(w->tape, s->samples, forward_sample, w);
    } else {
        cps_parallel(w->tape, s->samples, forward_tokens, w);
        if (s->mean != NULL) {
            given_moments(saved);
        } else {
            join_moments(w);
        }
        for (int64_t at = 0; at < s->heads * s->reduced; at++) {
            saved->scale[at] = saved->rstd[at] * w->gain[at % s->reduced];
        }
        cps_parallel(w->tape, s->samples, forward_channels, w);
    }
    put_watch(w);
}
