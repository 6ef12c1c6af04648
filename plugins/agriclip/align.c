/* The linear aligner: features of one frozen image tower to those of another (agriclip.md 2.3),
 * so that what the first sees can be compared with texts. Either in closed form from sums over all
 * samples, or by steps of the stage's optimizer on the cached features. Both work on scaled
 * features, each matrix brought to the variance 4.5; `finish` measures and takes the scales out.
 * The scales are buffers, so that a run goes on between fit and finish: 0 before the first fit, 1
 * once they are taken out. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "agriclip.h"

static const double target_variance = 4.5;

enum { SOLVER_SGD, SOLVER_EXACT, SOLVER_OLS, SOLVER_RIDGE };
static const char *const solver_names[] = {"sgd", "exact", "ols", "ridge", NULL};
enum { BIAS_CODE, BIAS_CONSISTENT };
static const char *const bias_names[] = {"code", "consistent", NULL};

typedef agriclip_align_options align_options;

const cps_option agriclip_align_rows[] = {
    {.name = "from",
     .kind = CPS_OPT_TOWER,
     .default_text = "ssl.teacher",
     .help = "image tower whose features are mapped",
     .offset = offsetof(align_options, from)},
    {.name = "to",
     .kind = CPS_OPT_TOWER,
     .default_text = "image",
     .help = "image tower whose projected features are the target",
     .offset = offsetof(align_options, to)},
    {.name = "text",
     .kind = CPS_OPT_TOWER,
     .default_text = "text",
     .help = "text tower that evaluations compare mapped features with",
     .offset = offsetof(align_options, text)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .default_text = "paired",
     .help = "stream of the images",
     .offset = offsetof(align_options, stream)},
    {.name = "solver",
     .kind = CPS_OPT_CHOICE,
     .choices = solver_names,
     .default_text = "sgd",
     .help = "sgd: steps of the stage's optimizer; in closed form: exact (their minimum, with "
             "weight_decay), ols, ridge (with lambda)",
     .offset = offsetof(align_options, solver)},
    {.name = "lambda",
     .kind = CPS_OPT_NUMBER,
     .default_text = "1",
     .minimum = 0,
     .maximum = 1e30,
     .help = "penalty of ridge on weights and bias of the scaled problem",
     .offset = offsetof(align_options, lambda)},
    {.name = "weight_decay",
     .kind = CPS_OPT_NUMBER,
     .default_text = "5e-4",
     .minimum = 0,
     .maximum = 1e6,
     .help = "weight decay whose minimum exact finds: lambda = weight_decay * samples * width / 2",
     .offset = offsetof(align_options, weight_decay)},
    {.name = "bias",
     .kind = CPS_OPT_CHOICE,
     .choices = bias_names,
     .default_text = "code",
     .help = "how scales are taken out of the bias: code, as the published aligners (too large by "
             "the scale of the features), or consistent",
     .offset = offsetof(align_options, bias)},
    {.name = "holdout",
     .kind = CPS_OPT_NUMBER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 0.9,
     .help = "share of the samples that is kept apart to measure on",
     .offset = offsetof(align_options, holdout)},
    {.name = "holdout_seed",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 4294967295.0,
     .help = "seed of the draw of samples kept apart",
     .offset = offsetof(align_options, holdout_seed)},
    {.name = "report_batch",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e9,
     .help = "mse and r2 are means over batches of so many samples in stored order, the last one "
             "counting like the others, as published logs have it (without holdout); 0: over "
             "samples",
     .offset = offsetof(align_options, report_batch)},
    {.name = NULL},
};

typedef struct align {
    const align_options *options;
    int64_t from_width, to_width, steps;
    int32_t from, to;     /* views */
    int32_t weight, bias; /* parameters: of the scaled problem until finish */
    int32_t from_scale, to_scale;
    bool holds_out;  /* some samples are kept apart; in a validation none are */
    uint32_t module; /* of the holdout's draws */
} align;

/* What the first pass of fit adds up: products [n+1, n+1] and [n+1, m] of the closed forms, then
 * these. */
enum { FIT_ROWS, FIT_X, FIT_XX, FIT_Y, FIT_YY };
/* What a pass that measures adds up: the second one of fit before steps, and, for samples learnt
 * from and for those kept apart, that of finish. */
enum { END_ROWS, END_ERROR, END_Y, END_YY, END_BATCHED };
enum { SUMS = 5 }; /* of either */

static bool in_closed_form(const align *self) {
    return self->options->solver != SOLVER_SGD;
}

static int64_t product_count(const align *self) {
    const int64_t n = self->from_width + 1;
    return in_closed_form(self) ? n * n + n * self->to_width : 0;
}

/* ---- what it wants ---- */

static int32_t frozen_view(cps_setup *setup, const char *name, const char *tower,
                           const char *stream, uint32_t output) {
    return cps_setup_view(setup, &(cps_view){.name = name,
                                             .tower = tower,
                                             .stream = stream,
                                             .mode = CPS_VIEW_FROZEN,
                                             .outputs = output});
}

static cps_status check_tower(cps_setup *setup, const char *option, const char *tower,
                              const char *size, const char *kind) {
    if (cps_setup_tower_size(setup, tower, "width") < 0) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "%s = '%s': the model has no such tower; add it to model.towers, or name "
                         "another ('ssl.teacher' is there after a stage of agriclip.dino on 'ssl')",
                         option, tower);
    }
    return cps_setup_tower_size(setup, tower, size) > 0
               ? CPS_OK
               : cps_error(setup, CPS_ERR_USAGE, "%s = '%s': that is no %s tower; name one", option,
                           tower, kind);
}

static cps_status check_towers(cps_setup *setup, const align_options *wanted) {
    cps_status status = check_tower(setup, "from", wanted->from, "image_size", "image");
    status =
        status != CPS_OK ? status : check_tower(setup, "to", wanted->to, "image_size", "image");
    status =
        status != CPS_OK ? status : check_tower(setup, "text", wanted->text, "context", "text");
    if (status != CPS_OK) {
        return status;
    }
    const int64_t to = cps_setup_tower_size(setup, wanted->to, "embed_dim"),
                  text = cps_setup_tower_size(setup, wanted->text, "embed_dim");
    if (strcmp(wanted->from, wanted->to) == 0) {
        return cps_error(setup, CPS_ERR_USAGE, "from and to are both tower '%s': name two towers",
                         wanted->to);
    }
    if (to < 1) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "to = '%s': that tower has no projection; name the image tower of a CLIP "
                         "model",
                         wanted->to);
    }
    if (text != to) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "tower '%s' gives %lld numbers, text tower '%s' %lld: mapped images "
                         "could not be compared with texts; take towers of one model",
                         wanted->to, (long long)to, wanted->text, (long long)text);
    }
    return CPS_OK;
}

static cps_status check_options(cps_setup *setup, const align_options *wanted) {
    if (wanted->report_batch > 0 && wanted->holdout > 0) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "report_batch = %lld with holdout = %g: published logs are over all "
                         "samples; leave out one of them",
                         (long long)wanted->report_batch, wanted->holdout);
    }
    /* Steps of an epoch are 0 on the trial that finds out how many steps there are. */
    if (wanted->solver == SOLVER_SGD && cps_setup_steps(setup) == 0 &&
        cps_setup_steps_per_epoch(setup) > 0) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "solver = \"sgd\" learns by steps, and the stage has none: set epochs or "
                         "steps, with global_batch and optimizer, or a solver in closed form "
                         "(exact, ols, ridge)");
    }
    return CPS_OK;
}

static int32_t scale_buffer(cps_setup *setup, const char *name) {
    return cps_setup_buffer(setup, &(cps_parameter){.name = name}, 0);
}

cps_status agriclip_align_create(cps_setup *setup, const void *values, void **self_out) {
    const align_options *wanted = values;
    align *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, wanted->stream);
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    cps_status status = check_towers(setup, wanted);
    status = status != CPS_OK ? status : check_options(setup, wanted);
    if (status != CPS_OK) {
        return status;
    }
    self->options = wanted;
    self->from_width = cps_setup_tower_size(setup, wanted->from, "width");
    self->to_width = cps_setup_tower_size(setup, wanted->to, "embed_dim");
    self->steps = cps_setup_steps(setup);
    self->holds_out = wanted->holdout > 0 && !cps_setup_validation(setup);
    self->module = cps_host_of(setup)->name_key("align.holdout");
    const int64_t n = self->from_width, m = self->to_width;
    const double bound = 1.0 / sqrt((double)n);
    self->from = frozen_view(setup, "from", wanted->from, stream, CPS_POOLED);
    self->to = frozen_view(setup, "to", wanted->to, stream, CPS_PROJECTED);
    self->weight = cps_setup_parameter(setup, &(cps_parameter){.name = "align.W",
                                                               .rank = 2,
                                                               .shape = {m, n},
                                                               .fill = CPS_FILL_UNIFORM,
                                                               .a = -bound,
                                                               .b = bound,
                                                               .decay = true});
    self->bias = cps_setup_parameter(setup, &(cps_parameter){.name = "align.b",
                                                             .rank = 1,
                                                             .shape = {m},
                                                             .fill = CPS_FILL_UNIFORM,
                                                             .a = -bound,
                                                             .b = bound,
                                                             .decay = true});
    self->from_scale = scale_buffer(setup, "align.from_scale");
    self->to_scale = scale_buffer(setup, "align.to_scale");
    cps_setup_counts(setup, 1);
    cps_setup_fit(setup, product_count(self) + SUMS, 2 * SUMS);
    cps_setup_embed(setup, CPS_SIDE_IMAGE, wanted->from, CPS_POOLED, false);
    cps_setup_embed(setup, CPS_SIDE_TEXT, wanted->text, CPS_PROJECTED, false);
    *self_out = self;
    return CPS_OK;
}

/* ---- samples kept apart: a function of the sample alone ---- */

static bool is_held(const align *self, const cps_host *host, uint64_t sample_id) {
    const cps_draw_key key = {.seed = (uint64_t)self->options->holdout_seed,
                              .position = sample_id,
                              .module = self->module};
    return self->holds_out && host->draw_uniform(&key, 0) < self->options->holdout;
}

/* ---- steps ---- */

/* The image that stands for an unreadable one may be of a sample that is kept apart. */
static bool row_is_held(const align *self, const cps_grain *grain, int64_t row) {
    return is_held(self, cps_host_of(grain), cps_grain_sample_id(grain, self->from, row));
}

cps_status agriclip_align_prepare(const void *values, const cps_grain *grain, double *counts) {
    const align *self = values;
    const int64_t rows = cps_grain_rows(grain, self->from);
    for (int64_t i = 0; i < rows; i++) {
        counts[0] += row_is_held(self, grain, i) ? 0 : 1;
    }
    return CPS_OK;
}

/* Rows that are kept apart become zeros: they give no loss and no gradient. */
static cps_tensor *leave_out_held(const align *self, const cps_grain *grain, cps_tape *tape,
                                  cps_tensor *gap) {
    const int64_t rows = cps_grain_rows(grain, self->from);
    cps_tensor *shares = self->holds_out ? cps_tape_tensor(tape, CPS_REAL, 1, &rows) : NULL;
    if (shares == NULL) {
        return gap;
    }
    for (int64_t i = 0; i < rows && cps_tape_computes(tape); i++) {
        ((cps_real *)shares->data)[i] = row_is_held(self, grain, i) ? 0 : 1;
    }
    return cps_scale_rows(tape, gap, shares);
}

/* Mean over samples and outputs of |W c1 x + b - c2 y|^2. */
cps_status agriclip_align_grain_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const align *self = values;
    const double count = cps_grain_count(grain, 0);
    cps_tensor *x = cps_mul(tape, cps_grain_output(grain, self->from, CPS_POOLED),
                            cps_grain_parameter(grain, self->from_scale));
    cps_tensor *y = cps_mul(tape, cps_grain_output(grain, self->to, CPS_PROJECTED),
                            cps_grain_parameter(grain, self->to_scale));
    cps_tensor *gap = cps_sub(tape,
                              cps_linear(tape, x, cps_grain_parameter(grain, self->weight),
                                         cps_grain_parameter(grain, self->bias), CPS_ACT_NONE),
                              y);
    gap = leave_out_held(self, grain, tape, gap);
    const double share = 1.0 / ((count > 0 ? count : 1.0) * (double)self->to_width);
    cps_grain_term(grain, "mse", cps_affine(tape, cps_dot(tape, gap, gap), share, 0.0), 1.0);
    return cps_tape_status(tape);
}

/* ---- rows in blocks ---- */

/* The block's samples that are (not) kept apart, in double: x after a column of ones, and y. */
typedef struct block {
    int64_t rows;
    double *x, *y; /* [rows, n + 1], [rows, m] */
} block;

static cps_status open_block(const align *self, const cps_fit *fit, bool held, block *out) {
    const int64_t n = self->from_width, m = self->to_width, all = cps_fit_rows(fit);
    const cps_real *x = cps_fit_output(fit, self->from), *y = cps_fit_output(fit, self->to);
    double *memory =
        x == NULL || y == NULL ? NULL : malloc((size_t)(all * (n + 1 + m)) * sizeof *memory);
    if (memory == NULL) {
        return cps_error(fit, CPS_ERR_UNAVAILABLE, "out of memory for a block of %lld samples",
                         (long long)all);
    }
    *out = (block){.x = memory, .y = memory + all * (n + 1)};
    for (int64_t i = 0; i < all; i++) {
        if (is_held(self, cps_host_of(fit), cps_fit_sample_id(fit, i)) != held) {
            continue;
        }
        double *row = out->x + out->rows * (n + 1), *target = out->y + out->rows * m;
        row[0] = 1.0;
        for (int64_t c = 0; c < n; c++) {
            row[1 + c] = (double)x[i * n + c];
        }
        for (int64_t c = 0; c < m; c++) {
            target[c] = (double)y[i * m + c];
        }
        out->rows++;
    }
    return CPS_OK;
}

/* ---- measuring ---- */

/* Samples of the batch of published logs that holds sample `index` of `total`. */
static double batch_size(int64_t index, int64_t total, int64_t batch) {
    const int64_t first = index / batch * batch;
    return (double)(total - first < batch ? total - first : batch);
}

static cps_status measure(const align *self, const cps_fit *fit, bool held, double *sums) {
    const int64_t n = self->from_width, m = self->to_width, batch = self->options->report_batch;
    const cps_real *weight = cps_fit_value(fit, self->weight),
                   *bias = cps_fit_value(fit, self->bias);
    const double from_scale = (double)*cps_fit_value(fit, self->from_scale),
                 to_scale = (double)*cps_fit_value(fit, self->to_scale);
    block b;
    const cps_status status = open_block(self, fit, held, &b);
    if (status != CPS_OK) {
        return status;
    }
    double *map = malloc((size_t)((n + 1) * m + b.rows * m) * sizeof *map);
    if (map == NULL) {
        free(b.x);
        return cps_error(fit, CPS_ERR_UNAVAILABLE, "out of memory for a map of %lld x %lld",
                         (long long)m, (long long)n);
    }
    double *gap = map + (n + 1) * m;
    for (int64_t c = 0; c < m; c++) {
        map[c * (n + 1)] = (double)bias[c];
        for (int64_t i = 0; i < n; i++) {
            map[c * (n + 1) + 1 + i] = (double)weight[c * n + i] * from_scale;
        }
    }
    cps_fit_gemm_f64(fit, false, true, b.rows, m, n + 1, 1.0, b.x, n + 1, map, n + 1, 0.0, gap, m);
    for (int64_t i = 0; i < b.rows; i++) {
        double error = 0.0;
        for (int64_t c = 0; c < m; c++) {
            const double y = to_scale * b.y[i * m + c], off = gap[i * m + c] - y;
            error += off * off;
            sums[END_Y] += y;
            sums[END_YY] += y * y;
        }
        sums[END_ERROR] += error;
        sums[END_BATCHED] +=
            batch > 0 ? error / batch_size(cps_fit_first_row(fit) + i, cps_fit_total(fit), batch)
                      : 0.0;
    }
    sums[END_ROWS] += (double)b.rows;
    free(map);
    free(b.x);
    return CPS_OK;
}

/* Mean squared error of the scaled problem, and 1 - it / variance of the scaled targets. */
static void report(const align *self, cps_fit *fit, const double *sums, const char *mse_name,
                   const char *r2_name) {
    const int64_t batch = self->options->report_batch;
    const double entries = sums[END_ROWS] * (double)self->to_width;
    if (!(entries > 0)) {
        return;
    }
    const int64_t total = cps_fit_total(fit);
    const double mean = sums[END_Y] / entries, variance = sums[END_YY] / entries - mean * mean;
    const double mse =
        batch > 0
            ? sums[END_BATCHED] / ((double)((total + batch - 1) / batch) * (double)self->to_width)
            : sums[END_ERROR] / entries;
    cps_fit_report(fit, mse_name, mse);
    if (variance > 0) {
        cps_fit_report(fit, r2_name, 1.0 - mse / variance);
    }
}

/* ---- fitting ---- */

cps_status agriclip_align_fit_block(const void *values, const cps_fit *fit, double *partial) {
    const align *self = values;
    const int64_t n = self->from_width, m = self->to_width;
    if (cps_fit_pass(fit) > 0) {
        return measure(self, fit, false, partial);
    }
    block b;
    const cps_status status = open_block(self, fit, false, &b);
    if (status != CPS_OK) {
        return status;
    }
    double *sums = partial + product_count(self);
    sums[FIT_ROWS] += (double)b.rows;
    for (int64_t i = 0; i < b.rows; i++) {
        for (int64_t c = 0; c < n; c++) {
            const double value = b.x[i * (n + 1) + 1 + c];
            sums[FIT_X] += value;
            sums[FIT_XX] += value * value;
        }
        for (int64_t c = 0; c < m; c++) {
            const double value = b.y[i * m + c];
            sums[FIT_Y] += value;
            sums[FIT_YY] += value * value;
        }
    }
    if (in_closed_form(self)) {
        cps_fit_gemm_f64(fit, true, false, n + 1, n + 1, b.rows, 1.0, b.x, n + 1, b.x, n + 1, 1.0,
                         partial, n + 1);
        cps_fit_gemm_f64(fit, true, false, n + 1, m, b.rows, 1.0, b.x, n + 1, b.y, m, 1.0,
                         partial + (n + 1) * (n + 1), m);
    }
    free(b.x);
    return CPS_OK;
}

/* Variance over all entries of a matrix, jointly. */
static cps_status scale_of(cps_fit *fit, const char *what, double count, double sum, double squares,
                           double *scale_out) {
    const double mean = sum / count, variance = squares / count - mean * mean;
    if (!isfinite(variance) || !(variance > 1e-12 * squares / count)) {
        return cps_error(fit, CPS_ERR_DATA,
                         "the features of tower '%s' have variance %g over %.0f numbers: %s", what,
                         variance, count,
                         isfinite(variance) ? "they are all alike, so there is nothing to align; "
                                              "is the tower trained, and are the images different?"
                                            : "some are not finite; look at the tower's training");
    }
    *scale_out = sqrt(target_variance / variance);
    return CPS_OK;
}

static double penalty(const align *self, double rows) {
    const align_options *wanted = self->options;
    switch (wanted->solver) {
    case SOLVER_EXACT:
        return 0.5 * wanted->weight_decay * rows * (double)self->to_width;
    case SOLVER_RIDGE:
        return wanted->lambda;
    default:
        return 0.0;
    }
}

/* [b W]' = (A'A + lambda I)^-1 A'Y with A = [1, c1 X] and Y scaled by c2, into right [n, m]. */
static cps_status solve_scaled(const align *self, cps_fit *fit, const double *sums, double rows,
                               const double scales[2], double *gram, double *right) {
    const int64_t n = self->from_width + 1, m = self->to_width;
    int64_t dependent = 0;
    for (int64_t i = 0; i < n; i++) {
        const double row_scale = i > 0 ? scales[0] : 1.0;
        for (int64_t j = 0; j < n; j++) {
            gram[i * n + j] = sums[i * n + j] * row_scale * (j > 0 ? scales[0] : 1.0);
        }
        for (int64_t c = 0; c < m; c++) {
            right[i * m + c] = sums[n * n + i * m + c] * row_scale * scales[1];
        }
    }
    const double lambda = penalty(self, rows);
    if (lambda == 0.0 && rows < (double)n) {
        return cps_error(
            fit, CPS_ERR_DATA,
            "%.0f samples to learn from do not determine %lld weights an output "
            "without a penalty: take more samples, or solver = \"ridge\" with a lambda "
            "above 0",
            rows, (long long)n);
    }
    const cps_status status = agriclip_solve_normal(fit, n, gram, m, right, lambda, &dependent);
    if (status == CPS_OK && lambda == 0.0) {
        cps_fit_report(fit, "dependent", (double)dependent);
    }
    return status == CPS_OK ? CPS_OK
                            : cps_error(fit, status,
                                        "solver '%s' with a penalty of %g finds no map of %.0f "
                                        "samples: take a larger one (solver = \"ridge\", lambda)",
                                        solver_names[self->options->solver], lambda, rows);
}

static cps_status solve(const align *self, cps_fit *fit, const double *sums, double rows,
                        const double scales[2]) {
    const int64_t n = self->from_width, m = self->to_width;
    double *gram = malloc((size_t)product_count(self) * sizeof *gram);
    if (gram == NULL) {
        return cps_error(fit, CPS_ERR_UNAVAILABLE, "out of memory for %lld x %lld products",
                         (long long)n, (long long)n);
    }
    const double *right = gram + (n + 1) * (n + 1);
    const cps_status status =
        solve_scaled(self, fit, sums, rows, scales, gram, gram + (n + 1) * (n + 1));
    cps_real *weight = cps_fit_parameter(fit, self->weight),
             *bias = cps_fit_parameter(fit, self->bias);
    for (int64_t c = 0; c < m && status == CPS_OK; c++) {
        bias[c] = (cps_real)right[c];
        for (int64_t i = 0; i < n; i++) {
            weight[c * n + i] = (cps_real)right[(1 + i) * m + c];
        }
    }
    free(gram);
    return status;
}

/* What an earlier stage learnt, or weights brought, is a map without scales: steps go on from the
 * same map of the scaled problem. */
static void scale_first_values(const align *self, cps_fit *fit, const double scales[2]) {
    cps_real *weight = cps_fit_parameter(fit, self->weight),
             *bias = cps_fit_parameter(fit, self->bias);
    const double ratio = scales[1] / scales[0];
    for (int64_t i = 0; i < self->from_width * self->to_width; i++) {
        weight[i] = (cps_real)((double)weight[i] * ratio);
    }
    for (int64_t c = 0; c < self->to_width; c++) {
        bias[c] =
            (cps_real)((double)bias[c] * (self->options->bias == BIAS_CODE ? ratio : scales[1]));
    }
}

static cps_status find_scales(const align *self, cps_fit *fit, const double *of,
                              double scales_out[2]) {
    if (!(of[FIT_ROWS] > 0)) {
        return cps_error(fit, CPS_ERR_DATA,
                         "none of %lld samples is left to learn from: holdout = %g keeps all apart",
                         (long long)cps_fit_total(fit), self->options->holdout);
    }
    const cps_status status =
        scale_of(fit, self->options->from, of[FIT_ROWS] * (double)self->from_width, of[FIT_X],
                 of[FIT_XX], &scales_out[0]);
    return status != CPS_OK
               ? status
               : scale_of(fit, self->options->to, of[FIT_ROWS] * (double)self->to_width, of[FIT_Y],
                          of[FIT_YY], &scales_out[1]);
}

cps_status agriclip_align_fit_solve(const void *values, cps_fit *fit, const double *sums,
                                    cps_fit_verdict *verdict_out) {
    const align *self = values;
    if (cps_fit_pass(fit) > 0) {
        report(self, fit, sums, "mse", "r2");
        *verdict_out = CPS_FIT_DONE;
        return CPS_OK;
    }
    const double *of = sums + product_count(self);
    double scales[2];
    cps_status status = find_scales(self, fit, of, scales);
    if (status != CPS_OK) {
        return status;
    }
    cps_real *from_scale = cps_fit_parameter(fit, self->from_scale),
             *to_scale = cps_fit_parameter(fit, self->to_scale);
    if (in_closed_form(self)) {
        status = solve(self, fit, sums, of[FIT_ROWS], scales);
    } else if (self->steps == 0) {
        status = cps_error(fit, CPS_ERR_USAGE,
                           "solver = \"sgd\" learns by steps, and the stage has none");
    } else if (*from_scale > 0) {
        scale_first_values(self, fit, scales);
    }
    *from_scale = (cps_real)scales[0];
    *to_scale = (cps_real)scales[1];
    cps_fit_report(fit, "learnt_from", of[FIT_ROWS]);
    cps_fit_report(fit, "from_scale", scales[0]);
    cps_fit_report(fit, "to_scale", scales[1]);
    *verdict_out = in_closed_form(self) ? CPS_FIT_END_STAGE : CPS_FIT_AGAIN;
    return status;
}

/* ---- finish ---- */

cps_status agriclip_align_finish_block(const void *values, const cps_fit *fit, double *partial) {
    const align *self = values;
    const cps_status status = measure(self, fit, false, partial);
    return status != CPS_OK || !self->holds_out ? status : measure(self, fit, true, partial + SUMS);
}

cps_status agriclip_align_finish_solve(const void *values, cps_fit *fit, const double *sums,
                                       cps_fit_verdict *verdict_out) {
    const align *self = values;
    report(self, fit, sums, "mse", "r2");
    report(self, fit, sums + SUMS, "heldout_mse", "heldout_r2");
    if (self->holds_out) {
        cps_fit_report(fit, "heldout", sums[SUMS + END_ROWS]);
    }
    cps_real *weight = cps_fit_parameter(fit, self->weight),
             *bias = cps_fit_parameter(fit, self->bias),
             *from_scale = cps_fit_parameter(fit, self->from_scale),
             *to_scale = cps_fit_parameter(fit, self->to_scale);
    const double ratio = (double)*from_scale / (double)*to_scale;
    for (int64_t i = 0; i < self->from_width * self->to_width; i++) {
        weight[i] = (cps_real)((double)weight[i] * ratio);
    }
    for (int64_t c = 0; c < self->to_width; c++) {
        bias[c] = (cps_real)((double)bias[c] *
                             (self->options->bias == BIAS_CODE ? ratio : 1.0 / (double)*to_scale));
    }
    *from_scale = 1;
    *to_scale = 1;
    *verdict_out = CPS_FIT_DONE;
    return CPS_OK;
}

/* ---- evaluation ---- */

/* W c1 x + b: while the problem is still scaled, c2 times the target, which cosines do not see. */
cps_status agriclip_align_embed(const void *values, cps_embed *side, cps_tape *tape) {
    const align *self = values;
    if (cps_embed_side(side) == CPS_SIDE_TEXT) {
        cps_embed_component(side, cps_embed_output(side, CPS_PROJECTED), 1.0);
        return cps_tape_status(tape);
    }
    cps_tensor *scale = cps_embed_parameter(side, self->from_scale);
    if (scale != NULL && cps_tape_computes(tape) && !(*(const cps_real *)scale->data > 0)) {
        return cps_error(side, CPS_ERR_USAGE,
                         "the map of '%s' has not been fitted: evaluate after its stage; a file "
                         "that brings align.W and align.b must hold align.from_scale and "
                         "align.to_scale, too, each 1",
                         self->options->from);
    }
    cps_tensor *x = cps_mul(tape, cps_embed_output(side, CPS_POOLED), scale);
    cps_embed_component(side,
                        cps_linear(tape, x, cps_embed_parameter(side, self->weight),
                                   cps_embed_parameter(side, self->bias), CPS_ACT_NONE),
                        1.0);
    return cps_tape_status(tape);
}
