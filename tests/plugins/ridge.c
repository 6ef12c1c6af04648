/* Objectives that fit, for tests: an affine map from one frozen tower to another in closed form, in
 * two passes (means, then centred products), un-scaled by finish; and the same learnt by gradient
 * steps from the cached features. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "copse_objective.h"

typedef struct ridge_options {
    double lambda;
    bool end_stage;
    int64_t differ; /* writes a rank-dependent value if above 0: an address of the process */
} ridge_options;

static const cps_option ridge_rows[] = {
    {.name = "lambda",
     .kind = CPS_OPT_NUMBER,
     .default_text = "0.1",
     .minimum = 0,
     .maximum = 1e9,
     .help = "penalty",
     .offset = offsetof(ridge_options, lambda)},
    {.name = "end_stage",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "the fit ends the stage",
     .offset = offsetof(ridge_options, end_stage)},
    {.name = "differ",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 1,
     .help = "breaks the rule that ranks agree",
     .offset = offsetof(ridge_options, differ)},
    {.name = NULL},
};

typedef struct ridge {
    const ridge_options *options;
    int64_t from_width, to_width, gram;
    int32_t from, to, weight, bias, mean;
} ridge;

static cps_status create(cps_setup *setup, const void *options, void **self_out) {
    ridge *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    self->options = options;
    self->from_width = cps_setup_tower_size(setup, "ssl", "width");
    self->to_width = cps_setup_tower_size(setup, "image", "embed_dim");
    const int64_t n = self->from_width, m = self->to_width;
    self->from = cps_setup_view(setup, &(cps_view){.name = "from",
                                                   .tower = "ssl",
                                                   .stream = stream,
                                                   .mode = CPS_VIEW_FROZEN,
                                                   .outputs = CPS_POOLED});
    self->to = cps_setup_view(setup, &(cps_view){.name = "to",
                                                 .tower = "image",
                                                 .stream = stream,
                                                 .mode = CPS_VIEW_FROZEN,
                                                 .outputs = CPS_PROJECTED});
    self->weight = cps_setup_parameter(
        setup, &(cps_parameter){.name = "ridge.weight", .rank = 2, .shape = {m, n}, .decay = true});
    self->bias =
        cps_setup_parameter(setup, &(cps_parameter){.name = "ridge.bias", .rank = 1, .shape = {m}});
    self->mean = cps_setup_buffer(
        setup, &(cps_parameter){.name = "ridge.mean", .rank = 1, .shape = {n + m}}, 0);
    self->gram = n * n + n * m;
    cps_setup_fit(setup, self->gram + n + m, 1);
    *self_out = self;
    return CPS_OK;
}

/* partial: [n x n | n x m | n + m]. First pass: sums of x and y; second: centred products. */
static cps_status fit_block(const void *values, const cps_fit *fit, double *partial) {
    const ridge *self = values;
    const int64_t n = self->from_width, m = self->to_width, rows = cps_fit_rows(fit);
    const cps_real *x = cps_fit_output(fit, self->from), *y = cps_fit_output(fit, self->to);
    const cps_real *mean = cps_fit_value(fit, self->mean);
    double *centred =
        x == NULL || y == NULL ? NULL : malloc((size_t)(rows * (n + m)) * sizeof *centred);
    if (centred == NULL) {
        return cps_error(fit, CPS_ERR_UNAVAILABLE, "no rows or no memory for a block of %lld",
                         (long long)rows);
    }
    for (int64_t i = 0; i < rows; i++) {
        if (cps_fit_sample_id(fit, i) < 1000) {
            free(centred);
            return cps_error(fit, CPS_ERR_INTERNAL, "row %lld has a sample id that no record has",
                             (long long)i);
        }
        for (int64_t c = 0; c < n + m; c++) {
            const double value = (double)(c < n ? x[i * n + c] : y[i * m + c - n]);
            centred[c < n ? i * n + c : rows * n + i * m + c - n] = value - (double)mean[c];
            if (cps_fit_pass(fit) == 0) {
                partial[self->gram + c] += value;
            }
        }
    }
    if (cps_fit_pass(fit) == 1) {
        cps_fit_gemm_f64(fit, true, false, n, n, rows, 1.0, centred, n, centred, n, 1.0, partial,
                         n);
        cps_fit_gemm_f64(fit, true, false, n, m, rows, 1.0, centred, n, centred + rows * n, m, 1.0,
                         partial + n * n, m);
    }
    free(centred);
    return CPS_OK;
}

static cps_status solve_means(const ridge *self, cps_fit *fit, const double *sums) {
    cps_real *mean = cps_fit_parameter(fit, self->mean);
    for (int64_t c = 0; c < self->from_width + self->to_width; c++) {
        mean[c] = (cps_real)(sums[self->gram + c] / (double)cps_fit_total(fit));
    }
    return CPS_OK;
}

static cps_status fit_solve(const void *values, cps_fit *fit, const double *sums,
                            cps_fit_verdict *verdict_out) {
    const ridge *self = values;
    const int64_t n = self->from_width, m = self->to_width;
    if (cps_fit_pass(fit) == 0) {
        *verdict_out = CPS_FIT_AGAIN;
        return solve_means(self, fit, sums);
    }
    double *work = malloc((size_t)self->gram * sizeof *work);
    if (work == NULL) {
        return cps_error(fit, CPS_ERR_UNAVAILABLE, "out of memory");
    }
    memcpy(work, sums, (size_t)self->gram * sizeof *work);
    for (int64_t c = 0; c < n; c++) {
        work[c * n + c] += self->options->lambda;
    }
    const cps_status status = cps_fit_cholesky_solve_f64(fit, n, work, m, work + n * n);
    cps_real *weight = cps_fit_parameter(fit, self->weight),
             *bias = cps_fit_parameter(fit, self->bias);
    const cps_real *mean = cps_fit_parameter(fit, self->mean);
    for (int64_t r = 0; r < m && status == CPS_OK; r++) {
        double offset = (double)mean[n + r];
        for (int64_t c = 0; c < n; c++) {
            const double w = work[n * n + c * m + r];
            weight[r * n + c] = (cps_real)w;
            offset -= w * (double)mean[c];
        }
        bias[r] = (cps_real)offset;
    }
    if (self->options->differ > 0) {
        int local = 0;
        bias[0] = (cps_real)((uintptr_t)&local % 100003);
    }
    free(work);
    cps_fit_report(fit, "samples", (double)cps_fit_total(fit));
    *verdict_out = self->options->end_stage ? CPS_FIT_END_STAGE : CPS_FIT_DONE;
    return status;
}

/* Squared error of the map over all samples. */
static cps_status finish_block(const void *values, const cps_fit *fit, double *partial) {
    const ridge *self = values;
    const int64_t n = self->from_width, m = self->to_width;
    const cps_real *x = cps_fit_output(fit, self->from), *y = cps_fit_output(fit, self->to);
    const cps_real *weight = cps_fit_value(fit, self->weight),
                   *bias = cps_fit_value(fit, self->bias);
    for (int64_t i = 0; i < cps_fit_rows(fit); i++) {
        for (int64_t r = 0; r < m; r++) {
            double gap = (double)bias[r] - (double)y[i * m + r];
            for (int64_t c = 0; c < n; c++) {
                gap += (double)weight[r * n + c] * (double)x[i * n + c];
            }
            partial[0] += gap * gap;
        }
    }
    return CPS_OK;
}

static cps_status finish_solve(const void *values, cps_fit *fit, const double *sums,
                               cps_fit_verdict *verdict_out) {
    const ridge *self = values;
    cps_real *mean = cps_fit_parameter(fit, self->mean);
    mean[0] = (cps_real)(sums[0] / (double)(cps_fit_total(fit) *
                                            self->to_width)); /* where the test finds it */
    cps_fit_report(fit, "mse", (double)mean[0]);
    *verdict_out = CPS_FIT_DONE;
    return CPS_OK;
}

static cps_status grain_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const ridge *self = values;
    cps_tensor *x = cps_grain_output(grain, self->from, CPS_POOLED),
               *y = cps_grain_output(grain, self->to, CPS_PROJECTED);
    if (x != NULL && y != NULL && (x->needs_grad || y->needs_grad)) {
        return cps_error(grain, CPS_ERR_INTERNAL, "a frozen view has a gradient");
    }
    cps_tensor *gap = cps_sub(tape,
                              cps_linear(tape, x, cps_grain_parameter(grain, self->weight),
                                         cps_grain_parameter(grain, self->bias), CPS_ACT_NONE),
                              y);
    cps_grain_term(grain, "mse", cps_affine(tape, cps_dot(tape, gap, gap), 0.01, 0.0), 1.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {
    {.name = "ridge",
     .help = "An affine map, in closed form.",
     .options = ridge_rows,
     .options_bytes = sizeof(ridge_options),
     .create = create,
     .fit_block = fit_block,
     .fit_solve = fit_solve,
     .finish_block = finish_block,
     .finish_solve = finish_solve},
    {.name = "descent",
     .help = "An affine map, by steps.",
     .options = ridge_rows,
     .options_bytes = sizeof(ridge_options),
     .create = create,
     .grain_loss = grain_loss},
};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
