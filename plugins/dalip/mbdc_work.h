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

#include "bdc.h"
#include "lanes.h"
#include "mbdc.h"

#define dalip_least_norm ((cps_real)1e-8) /* of the cosine */

/* What a recording keeps. */
typedef struct dalip_saved {
    dalip_mbdc shape;
    cps_real *length, *anchor_length; /* [B, M, H], [B, H]: norms, at least dalip_least_norm */
    cps_real *cosine, *weight;        /* [B, M, H] */
    cps_real *u, *z;                  /* [B, M, H, r] */
    cps_real *mean, *rstd,
        *scale;     /* batch norm: [H, r], scale = rstd gain; layer norm: [B, M, H] */
    cps_real *root; /* [B, H, r, r] */
    cps_real *ones; /* [r] */
} dalip_saved;

typedef struct dalip_work {
    cps_tape *tape;
    const dalip_saved *saved;
    const cps_real *y, *reduce, *gain, *bias;
    double log_factor;
    bool has_factor;
    cps_real *scratch; /* [B]: see dalip_scratch */
    /* forward */
    cps_real *q;
    cps_real *moments; /* [B, 2, H, r]: means of a sample, sums of squares around them */
    double *watch;     /* [B, 3]: live and dead channels, sum of S */
    /* backward */
    const cps_real *d_q;
    cps_real *d_u;       /* [B, M, H, r]: of z, then of the norm's output, then of the product */
    cps_real *d_cosine;  /* [B, M, H] */
    cps_real *d_norm;    /* [B, 2, H, r]: shares of gain and bias */
    cps_real *norm_mean; /* [2, H, r]: batch norm's means of d xhat and d */
    cps_real *d_reduce;  /* [B, r, g]; NULL: not wanted */
    double *d_factor;    /* [B] */
    cps_real *d_y;       /* NULL: not wanted */
    bool fresh;
} dalip_work;

/* All of it, on an open tape; statistics and watch included. */
void dalip_forward(dalip_work *w);
/* From d_q to d_u, d_cosine, d_norm, d_reduce, d_factor and d_y. */
void dalip_backward(dalip_work *w);

static inline int64_t dalip_lines(const dalip_mbdc *s) {
    return s->tokens * s->heads;
}
/* Lines that count. */
static inline int64_t dalip_valid_lines(const dalip_mbdc *s, int64_t b) {
    return (s->valid == NULL ? s->tokens : s->valid[b]) * s->heads;
}

static inline dalip_bdc dalip_bdc_at(const dalip_work *w, int64_t b) {
    const dalip_mbdc *s = &w->saved->shape;
    const int64_t tokens = dalip_valid_lines(s, b) / s->heads;
    return (dalip_bdc){.tokens = tokens,
                       .reduced = s->reduced,
                       .stride = s->heads * s->reduced,
                       .factor = w->has_factor ? exp(w->log_factor) : 0.5 / (double)tokens,
                       .eps = s->eps};
}

/* Elements of scratch of a sample: for a head's distances, or a line of channels. */
static inline int64_t dalip_scratch(const dalip_mbdc *s) {
    const int64_t bdc = dalip_bdc_scratch(s->reduced);
    return bdc > s->channels ? bdc : s->channels;
}

/* Dropout of line e: a factor for each channel, and one for the token. */
static inline const cps_real *dalip_channel_mask(const dalip_saved *saved, int64_t b, int64_t h) {
    const dalip_mbdc *s = &saved->shape;
    return s->mask == NULL || s->mask_tokens ? saved->ones
                                             : s->mask + (b * s->heads + h) * s->reduced;
}
static inline cps_real dalip_token_mask(const dalip_mbdc *s, int64_t b, int64_t e) {
    return s->mask == NULL || !s->mask_tokens
               ? 1
               : s->mask[(b * s->heads + e % s->heads) * s->tokens + e / s->heads];
}

#endif
