/* fit and finish: passes of an objective over the cached rows of its frozen views, in blocks of
 * 1,024 samples. A block's sums are one part of the canonical tree; blocks are dealt to ranks in
 * runs and merged as they come, so that sums of millions of numbers need memory for a few. What
 * `solve` writes is the same on every rank: it sees the same sums, and that is checked. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "tensor/gemm.h"
#include "train/frozen.h"
#include "train/loop_private.h"

enum { BLOCK = 1024, MOST_PASSES = 100000, MOST_REPORTS = 64, MOST_NODES = 64 };

struct cps_fit {
    const cps_host *host; /* first: plugins find it there */
    const cps_stage_plan *plan;
    const cps_instance *instance;
    const char *what; /* "fit" or "finish" */
    cps_comm *comm;
    const cps_stream *stream; /* of the views */
    int64_t total;            /* samples whose images are readable in all views */
    int64_t *samples;         /* [total] stored index */
    cps_real
        *rows[CPS_STAGE_VIEWS]; /* by view id of the instance; NULL: not frozen; [BLOCK, width] */
    int64_t pass, first, count; /* the block at work */
    bool solving;
    int64_t report_count;
    char report_names[MOST_REPORTS][64];
    double report_values[MOST_REPORTS];
    cps_status status; /* of services */
    char message[1024];
};

/* ---- services ---- */

static cps_status fit_fail(const cps_fit *fit, const char *format, ...) CPS_PRINTF(2, 3);
static cps_status fit_fail(const cps_fit *fit, const char *format, ...) {
    cps_fit *writable = (cps_fit *)(uintptr_t)fit;
    char text[900];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cps_service_fail(&writable->status, writable->message, CPS_ERR_INTERNAL, "%s", text);
}

int64_t cps_serve_fit_rows(const cps_fit *fit) {
    return fit->count;
}

int64_t cps_serve_fit_total(const cps_fit *fit) {
    return fit->total;
}

int64_t cps_serve_fit_first_row(const cps_fit *fit) {
    return fit->first;
}

int64_t cps_serve_fit_pass(const cps_fit *fit) {
    return fit->pass;
}

const cps_real *cps_serve_fit_output(const cps_fit *fit, int32_t view) {
    if (view < 0 || view >= fit->instance->view_count || fit->rows[view] == NULL) {
        fit_fail(fit, "view id %d is no frozen view of the objective", view);
        return NULL;
    }
    if (fit->solving) {
        fit_fail(fit, "a solve function sees sums, no rows: asked for those of view id %d", view);
        return NULL;
    }
    return fit->rows[view];
}

uint64_t cps_serve_fit_sample_id(const cps_fit *fit, int64_t row) {
    if (row < 0 || row >= fit->count) {
        fit_fail(fit, "row %lld of a block of %lld", (long long)row, (long long)fit->count);
        return 0;
    }
    cps_place place;
    cps_stream_stored(fit->stream, fit->samples[fit->first + row], &place);
    return place.sample_id;
}

static cps_real *values_of(const cps_fit *fit, int32_t id) {
    if (id < 0 || id >= fit->instance->param_count) {
        fit_fail(fit, "parameter id %d, of %d", id, fit->instance->param_count);
        return NULL;
    }
    return cps_params_at(cps_model_params(fit->plan->model), fit->instance->params[id])
        ->tensor.data;
}

const cps_real *cps_serve_fit_value(const cps_fit *fit, int32_t id) {
    return values_of(fit, id);
}

cps_real *cps_serve_fit_parameter(cps_fit *fit, int32_t id) {
    if (!fit->solving) {
        fit_fail(fit, "blocks only read parameters (cps_fit_value): solve functions write them");
        return NULL;
    }
    return values_of(fit, id);
}

void cps_serve_fit_report(cps_fit *fit, const char *name, double value) {
    if (!fit->solving || fit->report_count == MOST_REPORTS) {
        fit_fail(fit,
                 fit->solving ? "more than 64 reports ('%s')"
                              : "report '%s' from a block: reports come from solve functions, "
                                "which know the sums",
                 name);
        return;
    }
    snprintf(fit->report_names[fit->report_count], sizeof fit->report_names[0], "%s", name);
    fit->report_values[fit->report_count++] = value;
}

void cps_serve_fit_gemm_f64(const cps_fit *fit, bool transpose_a, bool transpose_b, int64_t m,
                            int64_t n, int64_t k, double alpha, const double *a, int64_t lda,
                            const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
    (void)fit;
    cps_gemm_f64(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

cps_status cps_serve_fit_cholesky_solve_f64(const cps_fit *fit, int64_t n, double *a,
                                            int64_t columns, double *b) {
    (void)fit;
    return cps_cholesky_solve_f64(n, a, columns, b);
}

/* ---- samples ---- */

static void close_fit(cps_fit *fit) {
    for (int32_t v = 0; v < CPS_STAGE_VIEWS; v++) {
        free(fit->rows[v]);
    }
    free(fit->samples);
    free(fit);
}

static bool is_frozen(const cps_fit *fit, int32_t id) {
    return fit->plan->views[fit->instance->views[id]].view.mode == CPS_VIEW_FROZEN;
}

static cps_status open_rows(cps_fit *fit, int32_t id) {
    const cps_frozen_rows rows = cps_frozen_view(fit->plan->frozen, fit->instance->views[id]);
    if (fit->stream != NULL && fit->stream != rows.stream) {
        return cps_fail(
            CPS_ERR_INTERNAL,
            "frozen views of two streams ('%s' and '%s'): %s goes over the samples of one",
            cps_stream_name(fit->stream), cps_stream_name(rows.stream), fit->what);
    }
    fit->stream = rows.stream;
    fit->rows[id] = aligned_alloc(
        CPS_ALIGNMENT, ((size_t)(BLOCK * rows.width) * sizeof(cps_real) + CPS_ALIGNMENT - 1) /
                           CPS_ALIGNMENT * CPS_ALIGNMENT);
    return fit->rows[id] == NULL
               ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for blocks of %s", fit->what)
               : CPS_OK;
}

static bool readable(const cps_fit *fit, int64_t index) {
    for (int32_t id = 0; id < fit->instance->view_count; id++) {
        if (fit->rows[id] != NULL &&
            !cps_frozen_view(fit->plan->frozen, fit->instance->views[id]).valid[index]) {
            return false;
        }
    }
    return true;
}

static cps_status open_samples(cps_fit *fit) {
    for (int32_t id = 0; id < fit->instance->view_count; id++) {
        if (is_frozen(fit, id)) {
            CPS_TRY(open_rows(fit, id));
        }
    }
    if (fit->stream == NULL) {
        return cps_fail(CPS_ERR_INTERNAL, "%s needs a view of mode CPS_VIEW_FROZEN", fit->what);
    }
    const int64_t records = cps_stream_records(fit->stream);
    fit->samples = malloc((size_t)records * sizeof *fit->samples + 1);
    if (fit->samples == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld samples", (long long)records);
    }
    for (int64_t i = 0; i < records; i++) {
        if (readable(fit, i)) {
            fit->samples[fit->total++] = i;
        }
    }
    return fit->total > 0 ? CPS_OK
                          : cps_fail(CPS_ERR_DATA, "stream '%s' has no readable image",
                                     cps_stream_name(fit->stream));
}

static cps_status open_fit(const cps_loop *loop, const cps_stage_plan *plan,
                           const cps_instance *instance, const char *what, cps_fit **fit_out) {
    cps_fit *fit = calloc(1, sizeof *fit);
    if (fit == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %s", what);
    }
    fit->host = plan->host;
    fit->plan = plan;
    fit->instance = instance;
    fit->what = what;
    fit->comm = loop->run->comm;
    const cps_status status = open_samples(fit);
    if (status != CPS_OK) {
        close_fit(fit);
        return status;
    }
    *fit_out = fit;
    return CPS_OK;
}

/* ---- sums of blocks ---- */

typedef cps_status (*block_fn)(const void *self, const cps_fit *fit, double *partial);
typedef cps_status (*solve_fn)(const void *self, cps_fit *fit, const double *sums,
                               cps_fit_verdict *verdict_out);

/* Rows of sums: this rank's maximal nodes in order, then the nodes that are still merged. */
typedef struct sums {
    int64_t width, blocks;
    int64_t *first_part; /* [ranks + 1] */
    double *rows[MOST_NODES];
    int32_t done, height; /* maximal nodes; live ones above them */
    double *own;          /* maximal nodes together, for the exchange */
    double *total;
} sums;

static void close_sums(sums *s) {
    for (int32_t i = 0; i < MOST_NODES; i++) {
        free(s->rows[i]);
    }
    free(s->own);
    free(s->total);
    free(s->first_part);
}

static double *doubles(int64_t count) {
    return calloc((size_t)count + 1, sizeof(double));
}

static cps_status open_sums(const cps_fit *fit, int64_t width, sums *s) {
    const int32_t size = cps_comm_size(fit->comm);
    *s = (sums){.width = width, .blocks = cps_ceil_div(fit->total, BLOCK)};
    s->first_part = calloc((size_t)size + 1, sizeof *s->first_part);
    s->total = doubles(width);
    if (s->first_part == NULL || s->total == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for sums of %lld numbers",
                        (long long)width);
    }
    for (int32_t r = 0; r <= size; r++) {
        s->first_part[r] = cps_part_first(s->blocks, size, r);
    }
    return CPS_OK;
}

/* Copies the block's rows together and lets the objective add. */
static cps_status run_block(cps_fit *fit, block_fn block, int64_t number, double *partial) {
    fit->first = number * BLOCK;
    fit->count = cps_min_i64(BLOCK, fit->total - fit->first);
    for (int32_t id = 0; id < fit->instance->view_count; id++) {
        if (fit->rows[id] == NULL) {
            continue;
        }
        const cps_frozen_rows rows = cps_frozen_view(fit->plan->frozen, fit->instance->views[id]);
        for (int64_t i = 0; i < fit->count; i++) {
            memcpy(fit->rows[id] + i * rows.width,
                   rows.values + fit->samples[fit->first + i] * rows.width,
                   (size_t)rows.width * sizeof(cps_real));
        }
    }
    CPS_TRY(block(fit->instance->self, fit, partial));
    return cps_service_status(fit->status, fit->message);
}

static void add(double *left, const double *right, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        left[i] += right[i];
    }
}

/* This rank's blocks, merged as far as its run of them allows. */
static cps_status add_blocks(cps_fit *fit, block_fn block, sums *s) {
    const int32_t rank = cps_comm_rank(fit->comm);
    const int64_t first = s->first_part[rank], last = s->first_part[rank + 1];
    for (int64_t number = first; number < last; number++) {
        const int32_t top = s->done + s->height;
        CPS_BUG_IF(top == MOST_NODES);
        if (s->rows[top] == NULL && (s->rows[top] = doubles(s->width)) == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for sums of %lld numbers",
                            (long long)s->width);
        }
        memset(s->rows[top], 0, (size_t)s->width * sizeof(double));
        s->height++;
        CPS_TRY(run_block(fit, block, number, s->rows[top]));
        bool maximal = false;
        for (int32_t merges = cps_merges_after(s->blocks, first, last, number, &maximal);
             merges > 0; merges--, s->height--) {
            add(s->rows[s->done + s->height - 2], s->rows[s->done + s->height - 1], s->width);
        }
        if (maximal) {
            s->done++;
            s->height--;
        }
        cps_watchdog_beat(fit->comm);
    }
    return CPS_OK;
}

/* One row after the other, for the exchange. */
static cps_status join_nodes(sums *s) {
    s->own = doubles(s->done * s->width);
    if (s->own == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for sums of %lld numbers",
                        (long long)s->width);
    }
    for (int32_t i = 0; i < s->done; i++) {
        memcpy(s->own + i * s->width, s->rows[i], (size_t)s->width * sizeof(double));
        free(s->rows[i]);
        s->rows[i] = NULL;
    }
    return CPS_OK;
}

/* Collective. Sums of one pass on every rank, in s->total. */
static cps_status sum_pass(cps_fit *fit, block_fn block, int64_t width, sums *s) {
    cps_status status = open_sums(fit, width, s);
    fit->solving = false;
    status = status != CPS_OK || block == NULL ? status : add_blocks(fit, block, s);
    status = status != CPS_OK ? status : join_nodes(s);
    CPS_TRY(cps_agree(fit->comm, fit->what,
                      cps_fail_context(status, "objective '%s', %s, samples from %lld",
                                       fit->instance->name, fit->what, (long long)fit->first)));
    return block == NULL ? CPS_OK
                         : cps_canonical_sum_nodes(fit->comm, fit->what, s->blocks, s->first_part,
                                                   s->own, width, s->total);
}

/* ---- solving ---- */

/* Collective. What solve wrote and decided must be the same everywhere: a rank that went another
 * way would go on alone. */
static cps_status compare_ranks(const cps_fit *fit, cps_fit_verdict verdict) {
    const cps_instance *instance = fit->instance;
    const int32_t size = cps_comm_size(fit->comm);
    const int64_t count = instance->param_count + 1;
    uint64_t *all = calloc((size_t)(count * size), sizeof *all);
    int64_t *bytes = calloc((size_t)size, sizeof *bytes);
    CPS_BUG_IF(all == NULL || bytes == NULL);
    uint64_t *own = all + cps_comm_rank(fit->comm) * count;
    for (int32_t i = 0; i < instance->param_count; i++) {
        const cps_param *param =
            cps_params_at(cps_model_params(fit->plan->model), instance->params[i]);
        own[i] = cps_hash64(param->tensor.data, (size_t)param->count * sizeof(cps_real));
    }
    own[instance->param_count] = (uint64_t)verdict;
    for (int32_t r = 0; r < size; r++) {
        bytes[r] = count * (int64_t)sizeof *all;
    }
    cps_comm_allgatherv_inplace(fit->comm, fit->what, all, bytes);
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < count * size && status == CPS_OK; i++) {
        if (all[i] != all[i % count]) {
            const char *name =
                i % count == instance->param_count
                    ? "its verdict"
                    : cps_params_at(cps_model_params(fit->plan->model), instance->params[i % count])
                          ->name;
            status =
                cps_fail(CPS_ERR_INTERNAL,
                         "objective '%s', %s: ranks 0 and %lld end with different values of %s; a "
                         "solve function may use nothing but its sums, options and parameters",
                         instance->name, fit->what, (long long)(i / count), name);
        }
    }
    free(all);
    free(bytes);
    return status;
}

static cps_status check_finite(const cps_fit *fit) {
    for (int32_t i = 0; i < fit->instance->param_count; i++) {
        const cps_param *param =
            cps_params_at(cps_model_params(fit->plan->model), fit->instance->params[i]);
        if (!cps_all_finite(param->tensor.data, param->count)) {
            return cps_fail(CPS_ERR_DATA, "%s left values in '%s' that are not finite", fit->what,
                            param->name);
        }
    }
    return CPS_OK;
}

/* Collective. */
static cps_status solve_pass(cps_fit *fit, solve_fn solve, const sums *s,
                             cps_fit_verdict *verdict) {
    cps_status status = CPS_OK;
    *verdict = CPS_FIT_DONE;
    fit->solving = true;
    fit->report_count = 0;
    fit->count = 0;
    if (solve != NULL) {
        status = solve(fit->instance->self, fit, s->total, verdict);
        status = status != CPS_OK ? status : cps_service_status(fit->status, fit->message);
        status = status != CPS_OK ? status : check_finite(fit);
    }
    CPS_TRY(cps_agree(fit->comm, fit->what,
                      cps_fail_context(status, "objective '%s', %s, pass %lld", fit->instance->name,
                                       fit->what, (long long)fit->pass + 1)));
    return compare_ranks(fit, *verdict);
}

/* Rank 0: a line in the events, a line for people. */
static cps_status report_pass(cps_loop *loop, const cps_fit *fit) {
    if (cps_comm_rank(fit->comm) != 0) {
        return CPS_OK;
    }
    cps_json *event = cps_json_new_object();
    cps_json_add_string(event, "event", fit->what);
    cps_json_add_string(event, "objective", fit->instance->name);
    cps_json_add_string(event, "stage", fit->plan->options.name);
    cps_json_add_number(event, "step", (double)cps_loop_step(loop));
    cps_json_add_number(event, "pass", (double)(fit->pass + 1));
    cps_json_add_number(event, "samples", (double)fit->total);
    char line[1024];
    int used = snprintf(line, sizeof line, "%s of '%s', pass %lld over %lld samples:", fit->what,
                        fit->instance->name, (long long)fit->pass + 1, (long long)fit->total);
    for (int64_t i = 0; i < fit->report_count; i++) {
        cps_json_add_number(event, fit->report_names[i], fit->report_values[i]);
        if (used > 0 && (size_t)used < sizeof line) {
            used += snprintf(line + used, sizeof line - (size_t)used, "  %s %.6g",
                             fit->report_names[i], fit->report_values[i]);
        }
    }
    cps_log(CPS_LOG_INFO, "%s", line);
    const cps_status status = cps_events_write(loop->events, event);
    cps_json_destroy(event);
    return status;
}

/* Collective. Passes until the objective is satisfied. */
static cps_status run_passes(cps_loop *loop, cps_fit *fit, bool finish, cps_fit_verdict *verdict) {
    const cps_objective *objective = fit->instance->objective;
    const int64_t width = finish ? fit->instance->finish_partials : fit->instance->fit_partials;
    for (fit->pass = 0; fit->pass < MOST_PASSES; fit->pass++) {
        sums s;
        cps_status status =
            sum_pass(fit, finish ? objective->finish_block : objective->fit_block, width, &s);
        status = status != CPS_OK
                     ? status
                     : solve_pass(fit, finish ? objective->finish_solve : objective->fit_solve, &s,
                                  verdict);
        close_sums(&s);
        CPS_TRY(status);
        CPS_TRY(cps_agree(fit->comm, "report of a fit", report_pass(loop, fit)));
        if (*verdict != CPS_FIT_AGAIN) {
            return CPS_OK;
        }
    }
    return cps_fail(CPS_ERR_INTERNAL, "objective '%s' asked for more than %d passes of %s",
                    fit->instance->name, MOST_PASSES, fit->what);
}

cps_status cps_loop_fit(cps_loop *loop, bool finish, bool *end_stage_out) {
    const cps_stage_plan *plan = loop->run->stages[loop->state.stage].plan;
    const char *what = finish ? "finish" : "fit";
    for (int32_t i = 0; i < plan->instance_count; i++) {
        const cps_instance *instance = &plan->instances[i];
        const cps_objective *objective = instance->objective;
        if ((finish ? objective->finish_block == NULL && objective->finish_solve == NULL
                    : objective->fit_block == NULL && objective->fit_solve == NULL)) {
            continue;
        }
        cps_fit *fit = NULL;
        const cps_status opened = open_fit(loop, plan, instance, what, &fit);
        cps_status status =
            cps_agree(loop->run->comm, what,
                      cps_fail_context(opened, "objective '%s', %s", instance->name, what));
        cps_fit_verdict verdict = CPS_FIT_DONE;
        status = status != CPS_OK ? status : run_passes(loop, fit, finish, &verdict);
        if (fit != NULL) {
            close_fit(fit);
        }
        CPS_TRY(status);
        *end_stage_out = *end_stage_out || verdict == CPS_FIT_END_STAGE;
    }
    return CPS_OK;
}
