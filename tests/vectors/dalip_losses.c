/* Losses of dalip.h5 (dalip.md 1.4 and 7). They come out of the plugin as training loads it
 * (objective.h). What the file says of whole batches of W ranks is computed by W real ranks; what
 * it says of single ranks before they average comes from the options published_*: the plugin's
 * gradient is the mean over the published processes, hence W times as large on each. */
#include "dalip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "base/arena.h"
#include "base/file.h"
#include "base/numeric.h"
#include "objective.h"
#include "ranks.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"

double dalip_tolerance(void) {
    return vectors_tolerance(1e-10, 1e-4);
}

double dalip_gradient_tolerance(void) {
    return vectors_tolerance(1e-10, 1e-3);
}

/* ---- a batch ---- */

enum { IMAGE_FIRST, TEXT_FIRST, IMAGE_SECOND, TEXT_SECOND, SLOTS };
static const char *const slot_names[SLOTS] = {"image_first", "text_first", "image_second",
                                              "text_second"};

typedef struct batch {
    vectors_matrix rows[SLOTS]; /* as the file has them */
    double *padded[SLOTS], *d_padded[SLOTS];
    vectors_matrix grad[SLOTS];
    int64_t width; /* of the plugin's slots: of the widest */
    double log_scale, d_log_scale;
    objective_result result;
} batch;

/* The plugin's two features have one width. Columns of zeros leave products as they are. */
static void pad(batch *b, int slot) {
    const vectors_matrix *rows = &b->rows[slot];
    b->padded[slot] = vectors_doubles(rows->rows * b->width);
    b->d_padded[slot] = vectors_doubles(rows->rows * b->width);
    b->grad[slot] = vectors_matrix_new(rows->rows, rows->width);
    for (int64_t i = 0; i < rows->rows; i++) {
        memcpy(b->padded[slot] + i * b->width, rows->values + i * rows->width,
               (size_t)rows->width * sizeof(double));
    }
}

static bool has_batch(cps_h5 *file) {
    static const char *const inputs[] = {"image_first", "text_first", "image_second",
                                         "text_second", "log_scale",  NULL};
    return vectors_has(file, "loss", inputs);
}

static batch read_batch(cps_h5 *file) {
    batch b = {.log_scale = vectors_number(file, "loss", "log_scale")};
    for (int s = 0; s < SLOTS; s++) {
        b.rows[s] = vectors_matrix_read(file, "loss", slot_names[s]);
        b.width = cps_max_i64(b.width, b.rows[s].width);
        vectors_need_same("loss", b.rows[s].rows == b.rows[0].rows &&
                                      b.rows[s].width == b.rows[s / 2 * 2].width);
    }
    for (int s = 0; s < SLOTS; s++) {
        pad(&b, s);
    }
    return b;
}

static void end_batch(batch *b) {
    for (int s = 0; s < SLOTS; s++) {
        free(b->rows[s].values);
        free(b->padded[s]);
        free(b->d_padded[s]);
        free(b->grad[s].values);
    }
}

/* The plugin's loss with `more` options, and all gradients times `factor`. */
static cps_status run(batch *b, const char *more, double factor) {
    objective_rows slots[SLOTS];
    for (int s = 0; s < SLOTS; s++) {
        slots[s] = (objective_rows){slot_names[s], b->rows[s].rows, b->width, b->padded[s],
                                    b->d_padded[s]};
    }
    objective_parameter scale = {"logit_scale", 1, &b->log_scale, &b->d_log_scale};
    char *options = cps_format("{\"heads\":1,\"reduced\":2%s}", more);
    const objective_loss wanted = {.name = "dalip",
                                   .options = options,
                                   .embed_dim = b->width,
                                   .slots = slots,
                                   .slot_count = SLOTS,
                                   .parameters = &scale,
                                   .parameter_count = 1};
    const cps_status status = objective_run_loss(&wanted, &b->result);
    free(options);
    for (int s = 0; s < SLOTS && status == CPS_OK; s++) {
        const vectors_matrix *grad = &b->grad[s];
        for (int64_t i = 0; i < grad->rows * grad->width; i++) {
            grad->values[i] = factor * b->d_padded[s][i / grad->width * b->width + i % grad->width];
        }
    }
    return status;
}

/* ---- comparing ---- */

static void broken(const char *group) {
    vectors_broken(group, dalip_tolerance(), "%s", cps_fail_message());
}

/* also: the same by another way; NULL: none. */
static void expect_rows(cps_h5 *file, const char *group, const batch *got, const batch *also) {
    for (int s = 0; s < SLOTS; s++) {
        char *name = cps_format("grad_%s", slot_names[s]);
        vectors_expect_both(file, group, name, got->grad[s].values,
                            also == NULL ? NULL : also->grad[s].values,
                            got->grad[s].rows * got->grad[s].width, dalip_gradient_tolerance());
        free(name);
    }
}

/* ---- one process ---- */

/* t a b' and the mean cross-entropy of its rows with the diagonal as target. */
static double logits_of(const vectors_matrix *a, const vectors_matrix *b, double log_scale,
                        vectors_matrix *logits_out) {
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    vectors_need(cps_arena_create("logits", (size_t)1 << 16, true, &arena));
    vectors_need(cps_tape_create(arena, CPS_TAPE_PLAIN, NULL, &tape));
    cps_tensor *of[2], *target = cps_tape_tensor(tape, CPS_I32, 1, &a->rows);
    for (int side = 0; side < 2; side++) {
        const vectors_matrix *from = side == 0 ? a : b;
        of[side] = cps_tape_tensor(tape, CPS_REAL, 2, (const int64_t[]){from->rows, from->width});
        for (int64_t i = 0; of[side] != NULL && i < from->rows * from->width; i++) {
            ((cps_real *)of[side]->data)[i] = (cps_real)from->values[i];
        }
    }
    for (int64_t i = 0; target != NULL && i < a->rows; i++) {
        ((int32_t *)target->data)[i] = (int32_t)i;
    }
    cps_tensor *logits = cps_matmul(tape, of[0], of[1], false, true, exp(log_scale));
    cps_tensor *sum = cps_cross_entropy(tape, logits, target, NULL);
    vectors_need(cps_tape_status(tape));
    *logits_out = vectors_matrix_new(a->rows, b->rows);
    for (int64_t i = 0; i < a->rows * b->rows; i++) {
        logits_out->values[i] = (double)((const cps_real *)logits->data)[i];
    }
    const double loss = (double)*(const cps_real *)sum->data / (double)a->rows;
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    return loss;
}

/* Logits and the two directions of one term, whose mean the plugin must have said. */
static void expect_term(cps_h5 *file, const char *group, const batch *b, const char *term,
                        int image) {
    vectors_matrix rows, columns;
    char name[64];
    const double by_image = logits_of(&b->rows[image], &b->rows[image + 1], b->log_scale, &rows),
                 by_text = logits_of(&b->rows[image + 1], &b->rows[image], b->log_scale, &columns);
    const double said = objective_value_of(&b->result, term);
    const double other[2] = {2.0 * said - by_text, 2.0 * said - by_image};
    snprintf(name, sizeof name, "logits_%s", term);
    vectors_expect_in(file, group, name, rows.values, rows.rows * rows.width, dalip_tolerance());
    snprintf(name, sizeof name, "ce_%s_i2t", term);
    vectors_expect_both(file, group, name, &by_image, &other[0], 1, dalip_tolerance());
    snprintf(name, sizeof name, "ce_%s_t2i", term);
    vectors_expect_both(file, group, name, &by_text, &other[1], 1, dalip_tolerance());
    free(rows.values);
    free(columns.values);
}

static void expect_whole(cps_h5 *file, const char *group, const batch *b) {
    vectors_expect_in(file, group, "loss", &b->result.loss, 1, dalip_tolerance());
    vectors_expect_in(file, group, "grad_log_scale", &b->d_log_scale, 1,
                      dalip_gradient_tolerance());
    expect_rows(file, group, b, NULL);
}

/* loss/ws1/alpha_<a> */
static void check_alpha(cps_h5 *file, const char *path) {
    static const char prefix[] = "alpha_";
    const char *name = strrchr(path, '/') + 1;
    char *end = NULL;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) {
        return;
    }
    const double alpha = strtod(name + sizeof prefix - 1, &end);
    if (*end != '\0' || !(alpha >= 0.0 && alpha <= 1.0)) {
        return;
    }
    batch b = read_batch(file);
    char *options = cps_format(",\"alpha\":[%.17g]", alpha);
    if (run(&b, options, 1.0) != CPS_OK) {
        broken(path);
    } else {
        expect_whole(file, path, &b);
        expect_term(file, path, &b, "first", IMAGE_FIRST);
        expect_term(file, path, &b, "second", IMAGE_SECOND);
    }
    free(options);
    end_batch(&b);
}

static void check_sum(cps_h5 *file, const char *group) {
    static const char *const inputs[] = {"lambda1_lambda2", NULL};
    if (!vectors_has(file, group, inputs)) {
        return;
    }
    vectors_matrix lambda = vectors_matrix_read(file, group, inputs[0]);
    vectors_need_same(group, lambda.rows * lambda.width == 2);
    batch b = read_batch(file);
    char *options = cps_format(",\"combine\":\"similarities\",\"lambda\":[%.17g,%.17g]",
                               lambda.values[0], lambda.values[1]);
    if (run(&b, options, 1.0) != CPS_OK) {
        broken(group);
    } else {
        expect_whole(file, group, &b);
    }
    free(options);
    free(lambda.values);
    end_batch(&b);
}

/* ---- loss/ws<W>, in W ranks ---- */

static const char ranks_prefix[] = "ws";

/* What the plugin says of published process 0 .. count-1. */
static void expect_reports(cps_h5 *file, const char *group, const char *name, const batch *b,
                           const char *what, int64_t count, double tolerance) {
    double *values = vectors_doubles(count);
    for (int64_t r = 0; r < count; r++) {
        char report[64];
        snprintf(report, sizeof report, "rank%lld.%s", (long long)r, what);
        values[r] = objective_value_of(&b->result, report);
    }
    vectors_expect_in(file, group, name, values, count, tolerance);
    free(values);
}

/* Where gathers carry gradients the mean over the processes is the exact one, which `exact` has
 * from the loss of the whole batch. */
static void check_mode(cps_h5 *file, const char *group, const char *mode, bool local, bool gathers,
                       const batch *exact, int64_t ranks) {
    char *path = cps_format("%s/%s", group, mode);
    char *options =
        cps_format(",\"published_ranks\":%lld,\"published_local_loss\":%s,"
                   "\"published_gather_with_grad\":%s",
                   (long long)ranks, local ? "true" : "false", gathers ? "true" : "false");
    if (cps_h5_has(file, path)) {
        batch b = read_batch(file);
        if (run(&b, options, (double)ranks) != CPS_OK) {
            broken(path);
        } else {
            expect_reports(file, path, "loss", &b, "loss", ranks, dalip_tolerance());
            expect_reports(file, path, "grad_log_scale", &b, "d_logit_scale", ranks,
                           dalip_gradient_tolerance());
            expect_rows(file, path, &b, gathers ? exact : NULL);
        }
        end_batch(&b);
    }
    free(options);
    free(path);
}

void dalip_loss_ranks(cps_h5 *file, const char *group) {
    const int64_t ranks = cps_comm_size(vectors_comm());
    cps_gemm_start();
    if (!has_batch(file)) {
        return;
    }
    batch exact = read_batch(file);
    vectors_need_same(group, exact.rows[0].rows % ranks == 0);
    if (run(&exact, "", (double)ranks) != CPS_OK) {
        broken(group);
    } else {
        check_mode(file, group, "default", false, false, &exact, ranks);
        check_mode(file, group, "grad", false, true, &exact, ranks);
        check_mode(file, group, "local", true, false, &exact, ranks);
        check_mode(file, group, "local_grad", true, true, &exact, ranks);
    }
    end_batch(&exact);
}

void dalip_loss_on_ranks(cps_h5 *file) {
    char **names = NULL;
    int64_t count = 0;
    if (!cps_h5_has(file, "loss")) {
        return;
    }
    vectors_need(cps_h5_list(file, "loss", &names, &count));
    for (int64_t i = 0; i < count; i++) {
        const int64_t ranks = vectors_ranks_of(names[i], ranks_prefix);
        char *group = cps_format("loss/%s", names[i]);
        if (ranks > 1) {
            vectors_run_ranks(file, group, ranks);
        }
        free(group);
    }
    cps_strings_destroy(names, count);
}

void dalip_losses(cps_h5 *file) {
    if (has_batch(file)) {
        cps_gemm_start();
        vectors_each(file, "loss/ws1", check_alpha);
        check_sum(file, "loss/sum_of_similarities");
    }
}
