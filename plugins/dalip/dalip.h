/* DALIP (Wu et al. 2025, arXiv:2504.01386): what the plugin's files share. dalip.md has the
 * formulas. */
#ifndef COPSE_DALIP_H
#define COPSE_DALIP_H

#include "mbdc.h"

enum { DALIP_DROP_CHANNELS, DALIP_DROP_TOKENS };
enum { DALIP_OF_LOSSES, DALIP_OF_SIMILARITIES };

typedef struct dalip_options {
    const char *image, *text, *stream;
    int64_t heads, reduced;
    double eps, dropout;
    int32_t image_norm, image_dropout, text_dropout; /* dalip_norm, DALIP_DROP_... */
    bool learned_factor, pad_mask, second_scale;
    int32_t combine;
    cps_numbers alpha, lambda;
    double init_scale, max_scale;
    int64_t published_ranks;
    bool published_local_loss, published_gather_with_grad;
} dalip_options;

/* A side's second feature: what it adds to the model. Parameters by id. */
typedef struct dalip_side {
    bool image;
    int32_t view;
    int64_t width, entries; /* E, Q */
    int32_t fc1, reduce, gain, bias, ln_gain, ln_bias, down, down_bias, fc2;
    int32_t mean, variance; /* buffers of batch norm; -1: layer norm */
    int32_t log_factor;     /* -1: the constant 1 / (2 M) */
} dalip_side;

typedef struct dalip {
    const dalip_options *options;
    dalip_side sides[2]; /* by CPS_SIDE_... */
    int32_t log_scale, second_scale;
    cps_published published; /* ranks 0: none of this */
} dalip;

/* Declares a side's parameters and buffers, under the names of the published checkpoints: of the
 * tower called `tower`. tokens: M, where log_factor starts. */
void dalip_side_declare(cps_setup *setup, const dalip_options *options, const char *tower,
                        int64_t tokens, dalip_side *side);

/* A side's tokens and parameters, wherever they come from. */
typedef struct dalip_input {
    cps_tensor *tokens; /* [rows, E], projected, all positions */
    int64_t samples;
    const int32_t *offsets, *ends; /* [samples + 1], [samples] */
    bool evaluation;
    const cps_grain *grain; /* where dropout draws come from; NULL: mask below */
    const cps_real *mask;   /* as dalip_mbdc's; NULL: nothing is dropped */
    dalip_inside *inside;   /* as dalip_mbdc's */
    cps_tensor *fc1, *reduce, *gain, *bias, *mean, *variance, *log_factor;
    cps_tensor *ln_gain, *ln_bias, *down, *down_bias, *fc2;
} dalip_input;

/* What a forward says beside its result. */
typedef struct dalip_trace {
    const double *moments;    /* [2, heads, r] of batch norm while training; else NULL */
    const dalip_watch *watch; /* NULL while the tape plans */
} dalip_trace;

/* The statistic q [samples, Q] of fc1's result `y`; tokens and fc1 are not looked at. */
cps_tensor *dalip_statistic(cps_tape *tape, const dalip_options *options, const dalip_side *side,
                            const dalip_input *input, cps_tensor *y, dalip_trace *trace);
/* From tokens to LN(q), which `down` and `fc2` (or both as one matrix) make the second feature. */
cps_tensor *dalip_normed_statistic(cps_tape *tape, const dalip_options *options,
                                   const dalip_side *side, const dalip_input *input,
                                   dalip_trace *trace);
/* The second feature z [samples, E], of unit norm. */
cps_tensor *dalip_second(cps_tape *tape, const dalip_options *options, const dalip_side *side,
                         const dalip_input *input, dalip_trace *trace);

/* A running statistic [count]: a tenth of the way towards each head's mean over the grains, heads
 * in order, as the published module runs once a head. sums: [heads, count] over `grains`. */
void dalip_move_statistic(cps_real *values, const double *sums, double grains, int64_t heads,
                          int64_t count);

#endif
