/* Multi-head Brownian distance covariance of token features (dalip.md, "The second feature"): one
 * recorded operation. Channels are cut into heads; each head weighs its tokens by their cosine with
 * an anchor, reduces them to r channels (one matrix for all heads), normalises, drops, and takes
 * the distances between channels over tokens (bdc.h): r (r + 1) / 2 numbers a head. */
#ifndef COPSE_DALIP_MBDC_H
#define COPSE_DALIP_MBDC_H

#include "passes.h"

typedef enum dalip_norm { DALIP_BATCH_NORM, DALIP_LAYER_NORM } dalip_norm;

/* What a batch looks like inside, for reports: sums over samples and heads. */
typedef struct dalip_watch {
    double live, dead;   /* channels that were not dropped: above zero somewhere, or nowhere */
    double roots, pairs; /* S over pairs of different channels */
} dalip_watch;

/* For comparisons: what a recording keeps, until the tape's reset. Indices as dalip_mbdc has them;
 * values of tokens that do not count are undefined. */
typedef struct dalip_inside {
    const cps_real *cosine, *weight; /* [B, M, H] */
    const cps_real *u, *z; /* [B, M, H, r]: at the norm's input; at the end, after dropout */
    const cps_real *root;  /* [B, H, r, r] */
    /* From backward, to the caller's memory where not NULL; zero for tokens that do not count. */
    cps_real
        *d_product; /* [B, M, H, r]: of the reduced tokens before their weights, d u * weight */
    cps_real *d_cosine, *d_weight; /* [B, M, H]; d_weight times the weight */
} dalip_inside;

/* B samples whose tokens are rows of y [rows, E], E = heads * channels; a row is a token, an
 * anchor, or both. Arrays are borrowed until the tape's reset. */
typedef struct dalip_mbdc {
    int64_t samples, tokens, heads, channels, reduced; /* B, M, H, g, r */
    const int32_t *first;  /* [B] row of a sample's first token; its M tokens follow */
    const int32_t *anchor; /* [B] row that tokens are compared with */
    const int32_t *valid;  /* [B] tokens that count, from the first, 1 .. M; NULL: all M */
    dalip_norm norm;
    double norm_eps, eps; /* of the norm; added under the root */
    /* Batch norm by given statistics [r] (evaluation); NULL: by those of these rows, head by head,
     * which go to moments [2, H, r] (means, unbiased variances) where that is not NULL. */
    const cps_real *mean, *variance;
    double *moments;
    /* Dropout: factors (0 or 1 / keep) [B, H, r] of whole channels or [B, H, M] of whole tokens;
     * NULL: none. */
    const cps_real *mask;
    bool mask_tokens;
    dalip_watch *watch;         /* NULL: not wanted */
    dalip_inside *inside;       /* the same; lives as long as the recording */
    const dalip_passes *passes; /* NULL: dalip_passes_get's */
} dalip_mbdc;

/* q [B, H r (r + 1) / 2]. reduce [r, g] (dimensions of 1 may follow); gain, bias [r]; log_factor: a
 * scalar t, distances are then sqrt(exp(t) D + eps), or NULL: sqrt(D / (2 M) + eps). */
cps_tensor *dalip_mbdc_run(cps_tape *tape, const dalip_mbdc *shape, cps_tensor *y,
                           cps_tensor *reduce, cps_tensor *gain, cps_tensor *bias,
                           cps_tensor *log_factor);

#endif
