/* AgriCLIP's objectives (Nawaz et al. 2025, arXiv:2410.01407): what the plugin's files share.
 * agriclip.md has the formulas. */
#ifndef COPSE_AGRICLIP_H
#define COPSE_AGRICLIP_H

#include "copse_objective.h"

/* The linear aligner (align.c). */
typedef struct agriclip_align_options {
    const char *from, *to, *text, *stream;
    int32_t solver, bias;
    double lambda, weight_decay, holdout;
    int64_t holdout_seed, report_batch;
} agriclip_align_options;
extern const cps_option agriclip_align_rows[];
cps_status agriclip_align_create(cps_setup *setup, const void *values, void **self_out);
cps_status agriclip_align_prepare(const void *values, const cps_grain *grain, double *counts);
cps_status agriclip_align_grain_loss(const void *values, cps_grain *grain, cps_tape *tape);
cps_status agriclip_align_fit_block(const void *values, const cps_fit *fit, double *partial);
cps_status agriclip_align_fit_solve(const void *values, cps_fit *fit, const double *sums,
                                    cps_fit_verdict *verdict_out);
cps_status agriclip_align_finish_block(const void *values, const cps_fit *fit, double *partial);
cps_status agriclip_align_finish_solve(const void *values, cps_fit *fit, const double *sums,
                                       cps_fit_verdict *verdict_out);
cps_status agriclip_align_embed(const void *values, cps_embed *side, cps_tape *tape);
/* S of (gram + lambda I) S = right (normal.c): gram [n, n], right [n, m]; gram is lost, S stands in
 * right. dependent_out: rows of S that are 0 because, without a penalty, their column of the data
 * is given by earlier ones. */
cps_status agriclip_solve_normal(cps_fit *fit, int64_t n, double *gram, int64_t m, double *right,
                                 double lambda, int64_t *dependent_out);

#endif
