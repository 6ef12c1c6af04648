/* What the files of the distance covariance share (mbdc.h): memory, and where things lie in it.
 *
 * A sample is a task: its tokens stay in cache from the reduction to the triangle, and back. Only
 * batch norm looks at all samples, between two rounds of tasks. Tokens of all heads are one product
 * with the reduction matrix, because y [rows, H g] is [rows H, g] as it lies in memory; weights
 * scale the product's rows instead of its operand's.
 *
 * A line is one token of one head: number e = m H + h within its sample. */
#ifndef COPSE_DALIP_MBDC_WORK_H
#define COPSE_DALIP_MBDC_WORK_H

#include <math.h>

#include "mbdc.h"

#define dalip_least_norm ((cps_real)1e-8) /* of the cosine */

/* What a recording keeps. Reduced channels are padded to a width R of whole vectors, so that loops
 * over them have no tail: zeros, in whatever is summed or multiplied over them. */
typedef struct dalip_saved {
    dalip_mbdc shape;
    int64_t width;                    /* R */
    cps_real *reduce, *gain, *bias;   /* [R, g], [R], [R]: copies */
    cps_real *mask;                   /* [B, H, R]: of channels; NULL: none */
    cps_real *length, *anchor_length; /* [B, M, H], [B, H]: norms, at least dalip_least_norm */
    cps_real *cosine, *weight;        /* [B, M, H] */
    cps_real *u, *z;                  /* [B, M, H, R] */
    cps_real *mean, *rstd,
        *scale;     /* batch norm: [H, R], scale = rstd gain; layer norm: [B, M, H] */
    cps_real *root; /* [B, H, r, R] */
    cps_real *ones; /* [R]: r of them */
} dalip_saved;

struct dalip_work {
    cps_tape *tape;
    const dalip_saved *saved;
    const cps_real *y;
    double log_factor;
    bool has_factor;
    cps_real *scratch; /* [B]: see dalip_scratch */
    /* forward */
    cps_real *q;
    cps_real *moments; /* [B, 2, H, R]: means of a sample, sums of squares around them */
    double *watch;     /* [B, 3]: live and dead channels, sum of S */
    /* backward */
    const cps_real *d_q;
    cps_real *d_u;       /* [B, M, H, R]: of z, then of the norm's output, then of the product */
    cps_real *d_cosine;  /* [B, M, H] */
    cps_real *d_norm;    /* [B, 2, H, R]: shares of gain and bias */
    cps_real *norm_mean; /* [2, H, R]: batch norm's means of d xhat and d */
    cps_real *d_reduce;  /* [B, R, g]; NULL: not wanted */
    double *d_factor;    /* [B] */
    cps_real *d_y;       /* NULL: not wanted */
    bool fresh;
};

static inline int64_t dalip_width(const dalip_mbdc *s) {
    enum { WHOLE = 16 };
    return (s->reduced + WHOLE - 1) / WHOLE * WHOLE;
}
static inline int64_t dalip_lines(const dalip_mbdc *s) {
    return s->tokens * s->heads;
}
/* Lines that count. */
static inline int64_t dalip_valid_lines(const dalip_mbdc *s, int64_t b) {
    return (s->valid == NULL ? s->tokens : s->valid[b]) * s->heads;
}

static inline const dalip_passes *dalip_passes_of(const dalip_mbdc *s) {
    return s->passes != NULL ? s->passes : dalip_passes_get();
}

static inline dalip_bdc dalip_bdc_at(const dalip_work *w, int64_t b) {
    const dalip_mbdc *s = &w->saved->shape;
    const int64_t tokens = dalip_valid_lines(s, b) / s->heads;
    return (dalip_bdc){.tokens = tokens,
                       .reduced = s->reduced,
                       .width = w->saved->width,
                       .stride = s->heads * w->saved->width,
                       .factor = w->has_factor ? exp(w->log_factor) : 0.5 / (double)tokens,
                       .eps = s->eps};
}

/* Elements of scratch of a sample: for a head's distances, or a line of channels. */
static inline int64_t dalip_scratch(const dalip_mbdc *s) {
    const int64_t bdc = dalip_bdc_scratch(dalip_width(s));
    return bdc > s->channels ? bdc : s->channels;
}

/* Dropout of line e: a factor for each channel, and one for the token. */
static inline const cps_real *dalip_channel_mask(const dalip_saved *saved, int64_t b, int64_t h) {
    return saved->mask == NULL ? saved->ones
                               : saved->mask + (b * saved->shape.heads + h) * saved->width;
}
static inline cps_real dalip_token_mask(const dalip_mbdc *s, int64_t b, int64_t e) {
    return s->mask == NULL || !s->mask_tokens
               ? 1
               : s->mask[(b * s->heads + e % s->heads) * s->tokens + e / s->heads];
}

#endif
