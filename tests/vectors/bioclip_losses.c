/* Contrastive losses of bioclip.h5: groups clip_w1, clip_w<W>, replay_w<W>, accum. Losses and their
 * gradients come out of the plugin (objective.h). What the file says of whole batches of W ranks is
 * computed by W real ranks; what it says of single ranks before they average comes from the options
 * published_*: the plugin's gradient is the mean over the published processes, hence W times as
 * large on each. */
#include "bioclip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "base/arena.h"
#include "base/file.h"
#include "objective.h"
#include "ranks.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"

static const double norm_floor = 1e-12;

static double tolerance(void) {
    return vectors_tolerance(1e-12, 1e-5);
}

/* ---- comparing ---- */

static void expect_both(cps_h5 *file, const char *group, const char *name, const double *got,
                        const double *also, int64_t count) {
    vectors_expect_both(file, group, name, got, also, count, tolerance());
}

static void expect(cps_h5 *file, const char *group, const char *name, const double *got,
                   int64_t count) {
    vectors_expect_in(file, group, name, got, count, tolerance());
}

static void expect_matrix(cps_h5 *file, const char *group, const char *name,
                          const vectors_matrix *got) {
    expect(file, group, name, got->values, got->rows * got->width);
}

static void broken(const char *group) {
    vectors_broken(group, tolerance(), "%s", cps_fail_message());
}

/* ---- encoders: rows times a matrix, then unit length, by the tape's own operations ---- */

/* y = layer(x): a result on the tape from the leaf x. */
typedef cps_tensor *(*layer)(cps_tape *tape, cps_tensor *x, const vectors_matrix *context);

static cps_tensor *unit_rows(cps_tape *tape, cps_tensor *x, const vectors_matrix *context) {
    (void)context;
    return cps_normalize(tape, x, norm_floor);
}

static cps_real *reals(cps_arena *arena, const vectors_matrix *from) {
    const int64_t count = from->rows * from->width;
    cps_real *values = cps_arena_alloc_zero(arena, (size_t)(count + 1) * sizeof *values);
    for (int64_t i = 0; i < count && values != NULL; i++) {
        values[i] = (cps_real)from->values[i];
    }
    return values;
}

/* context: rows; x: the matrix that they are multiplied with. */
static cps_tensor *project_rows(cps_tape *tape, cps_tensor *x, const vectors_matrix *context) {
    const int64_t shape[2] = {context->rows, context->width};
    cps_real *values = cps_tape_save(tape, (size_t)(shape[0] * shape[1]) * sizeof *values);
    for (int64_t i = 0; values != NULL && i < shape[0] * shape[1]; i++) {
        values[i] = (cps_real)context->values[i];
    }
    return cps_matmul(tape, cps_tape_leaf(tape, CPS_REAL, 2, shape, values, NULL, -1), x, false,
                      false, 1.0);
}

/* y from x, or where d_y is given the gradient d_x. */
static vectors_matrix run_layer(layer run, const vectors_matrix *context, const vectors_matrix *x,
                                const vectors_matrix *d_y) {
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    vectors_need(cps_arena_create("encoder", (size_t)1 << 16, true, &arena));
    vectors_need(cps_tape_create(arena, CPS_TAPE_RECORD, NULL, &tape));
    const int64_t shape[2] = {x->rows, x->width};
    cps_real *values = reals(arena, x), *grad = reals(arena, x);
    cps_tensor *leaf = cps_tape_leaf(tape, CPS_REAL, 2, shape, values, grad, -1);
    if (leaf != NULL) {
        leaf->grad_fresh = true;
    }
    cps_tensor *y = run(tape, leaf, context);
    vectors_need(cps_tape_status(tape));
    vectors_matrix out = d_y == NULL ? vectors_matrix_new(y->shape[0], y->shape[1])
                                     : vectors_matrix_new(x->rows, x->width);
    if (d_y != NULL) {
        cps_tape_seed(tape, y, reals(arena, d_y));
        vectors_need(cps_backward(tape, NULL, 0.0));
    }
    const cps_real *from = d_y == NULL ? y->data : grad;
    for (int64_t i = 0; i < out.rows * out.width; i++) {
        out.values[i] = (double)from[i];
    }
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    return out;
}

/* One side of a batch: x times w gives raw rows, these give features. Without x the raw rows are
 * the file's. */
typedef struct side {
    vectors_matrix x, w, raw, feature;
    vectors_matrix d_feature, d_raw, d_w;
} side;

static void encode(side *s) {
    if (s->x.values != NULL) {
        s->raw = run_layer(project_rows, &s->x, &s->w, NULL);
    }
    s->feature = run_layer(unit_rows, NULL, &s->raw, NULL);
    s->d_feature = vectors_matrix_new(s->feature.rows, s->feature.width);
}

/* From d_feature. */
static void encode_backward(side *s) {
    free(s->d_raw.values);
    s->d_raw = run_layer(unit_rows, NULL, &s->raw, &s->d_feature);
    if (s->x.values != NULL) {
        free(s->d_w.values);
        s->d_w = run_layer(project_rows, &s->x, &s->w, &s->d_raw);
    }
}

static void end_side(side *s) {
    free(s->x.values);
    free(s->w.values);
    free(s->raw.values);
    free(s->feature.values);
    free(s->d_feature.values);
    free(s->d_raw.values);
    free(s->d_w.values);
}

/* ---- a batch of pairs ---- */

typedef struct pairs {
    side image, text;
    double log_scale, d_log_scale;
    objective_result result;
} pairs;

static bool is_even(const pairs *p) {
    return p->image.raw.rows == p->text.raw.rows && p->image.raw.width == p->text.raw.width;
}

static const char *const projected[] = {"x_image", "x_text",    "w_image",
                                        "w_text",  "log_scale", NULL};

static pairs read_projected(cps_h5 *file, const char *inputs) {
    pairs p = {.log_scale = vectors_number(file, inputs, "log_scale")};
    p.image.x = vectors_matrix_read(file, inputs, "x_image");
    p.image.w = vectors_matrix_read(file, inputs, "w_image");
    p.text.x = vectors_matrix_read(file, inputs, "x_text");
    p.text.w = vectors_matrix_read(file, inputs, "w_text");
    vectors_need_same(inputs,
                      p.image.x.width == p.image.w.rows && p.text.x.width == p.text.w.rows &&
                          p.image.x.rows == p.text.x.rows && p.image.w.width == p.text.w.width);
    encode(&p.image);
    encode(&p.text);
    return p;
}

static void end_pairs(pairs *p) {
    end_side(&p->image);
    end_side(&p->text);
}

/* The objective's loss of the features and all gradients below. */
static cps_status run_pairs(pairs *p, const char *options) {
    objective_rows slots[] = {{"image", p->image.feature.rows, p->image.feature.width,
                               p->image.feature.values, p->image.d_feature.values},
                              {"text", p->text.feature.rows, p->text.feature.width,
                               p->text.feature.values, p->text.d_feature.values}};
    objective_parameter scale = {"logit_scale", 1, &p->log_scale, &p->d_log_scale};
    const objective_loss wanted = {.name = "bioclip",
                                   .options = options,
                                   .embed_dim = p->image.feature.width,
                                   .slots = slots,
                                   .slot_count = 2,
                                   .parameters = &scale,
                                   .parameter_count = 1};
    CPS_TRY(objective_run_loss(&wanted, &p->result));
    encode_backward(&p->image);
    encode_backward(&p->text);
    return CPS_OK;
}

static void expect_features(cps_h5 *file, const char *group, const pairs *p) {
    expect_matrix(file, group, "image_features", &p->image.feature);
    expect_matrix(file, group, "text_features", &p->text.feature);
    expect_matrix(file, group, "grad_image_features", &p->image.d_feature);
    expect_matrix(file, group, "grad_text_features", &p->text.d_feature);
    expect_matrix(file, group, "grad_raw_image", &p->image.d_raw);
    expect_matrix(file, group, "grad_raw_text", &p->text.d_raw);
    expect(file, group, "grad_log_scale", &p->d_log_scale, 1);
    expect(file, group, "loss", &p->result.loss, 1);
}

/* ---- clip_w1 ---- */

/* s a b' and the mean cross-entropy of its rows with the diagonal as target. */
static void logits_of(const vectors_matrix *a, const vectors_matrix *b, double log_scale,
                      vectors_matrix *logits_out, double *loss_out) {
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    vectors_need(cps_arena_create("logits", (size_t)1 << 16, true, &arena));
    vectors_need(cps_tape_create(arena, CPS_TAPE_PLAIN, NULL, &tape));
    const int64_t left[2] = {a->rows, a->width}, right[2] = {b->rows, b->width};
    cps_tensor *target = cps_tape_tensor(tape, CPS_I32, 1, &a->rows);
    for (int64_t i = 0; target != NULL && i < a->rows; i++) {
        ((int32_t *)target->data)[i] = (int32_t)i;
    }
    cps_tensor *logits =
        cps_matmul(tape, cps_tape_leaf(tape, CPS_REAL, 2, left, reals(arena, a), NULL, -1),
                   cps_tape_leaf(tape, CPS_REAL, 2, right, reals(arena, b), NULL, -1), false, true,
                   exp(log_scale));
    cps_tensor *sum = cps_cross_entropy(tape, logits, target, NULL);
    vectors_need(cps_tape_status(tape));
    *logits_out = vectors_matrix_new(a->rows, b->rows);
    for (int64_t i = 0; i < a->rows * b->rows; i++) {
        logits_out->values[i] = (double)((const cps_real *)logits->data)[i];
    }
    *loss_out = (double)*(const cps_real *)sum->data / (double)a->rows;
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
}

static void check_alone(cps_h5 *file, const char *group) {
    static const char *const inputs[] = {"raw_image", "raw_text", "log_scale", NULL};
    if (!vectors_has(file, group, inputs)) {
        return;
    }
    pairs p = {.log_scale = vectors_number(file, group, "log_scale")};
    p.image.raw = vectors_matrix_read(file, group, "raw_image");
    p.text.raw = vectors_matrix_read(file, group, "raw_text");
    vectors_need_same(group, is_even(&p));
    encode(&p.image);
    encode(&p.text);
    vectors_matrix by_image, by_text;
    double image_loss, text_loss;
    logits_of(&p.image.feature, &p.text.feature, p.log_scale, &by_image, &image_loss);
    logits_of(&p.text.feature, &p.image.feature, p.log_scale, &by_text, &text_loss);
    if (run_pairs(&p, "{}") != CPS_OK) {
        broken(group);
    } else {
        const double scale = exp(p.log_scale), d_scale = p.d_log_scale / scale;
        expect_features(file, group, &p);
        expect(file, group, "scale", &scale, 1);
        expect(file, group, "grad_scale", &d_scale, 1);
        expect_matrix(file, group, "logits_per_image", &by_image);
        expect_matrix(file, group, "logits_per_text", &by_text);
        expect(file, group, "loss_image", &image_loss, 1);
        expect(file, group, "loss_text", &text_loss, 1);
    }
    free(by_image.values);
    free(by_text.values);
    end_pairs(&p);
}

/* ---- clip_w<W>, in W ranks ---- */

/* What the plugin says of published process 0 .. count-1 in its reports "rank<r>.<what>". */
static double *rank_values(const objective_result *result, const char *what, int64_t count) {
    double *values = vectors_doubles(count);
    for (int64_t r = 0; r < count; r++) {
        char name[64];
        snprintf(name, sizeof name, "rank%lld.%s", (long long)r, what);
        values[r] = objective_value_of(result, name);
    }
    return values;
}

static void expect_ranks(cps_h5 *file, const char *group, const char *name,
                         const objective_result *result, const char *what, int64_t count) {
    double *values = rank_values(result, what, count);
    expect(file, group, name, values, count);
    free(values);
}

static void scale_by(vectors_matrix *m, double factor) {
    for (int64_t i = 0; i < m->rows * m->width; i++) {
        m->values[i] *= factor;
    }
}

/* Gradients as they are on each of `ranks` processes before the mean. `exact`: the same from the
 * loss of the whole batch, where this mode has that gradient. */
static void expect_on_ranks(cps_h5 *file, const char *group, pairs *p, pairs *exact,
                            int64_t ranks) {
    const struct {
        const char *name;
        vectors_matrix *got, *also;
    } rows[] = {{"grad_image_features", &p->image.d_feature, &exact->image.d_feature},
                {"grad_text_features", &p->text.d_feature, &exact->text.d_feature},
                {"grad_raw_image", &p->image.d_raw, &exact->image.d_raw},
                {"grad_raw_text", &p->text.d_raw, &exact->text.d_raw}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        vectors_matrix *also = exact == p ? NULL : rows[i].also;
        scale_by(rows[i].got, (double)ranks);
        if (also != NULL) {
            scale_by(also, (double)ranks);
        }
        expect_both(file, group, rows[i].name, rows[i].got->values,
                    also == NULL ? NULL : also->values, rows[i].got->rows * rows[i].got->width);
        if (also != NULL) {
            scale_by(also, 1.0 / (double)ranks);
        }
    }
}

static char *published(int64_t ranks, bool local, bool gathers) {
    return cps_format("{\"published_ranks\":%lld,\"published_local_loss\":%s,"
                      "\"published_gather_with_grad\":%s}",
                      (long long)ranks, local ? "true" : "false", gathers ? "true" : "false");
}

static void check_mode(cps_h5 *file, const char *group, pairs *p, pairs *exact, int64_t ranks,
                       bool local, bool gathers) {
    char *mode = cps_format("%s/local%d_gather%d", group, local, gathers);
    char *options = published(ranks, local, gathers);
    if (cps_h5_has(file, mode) && run_pairs(p, options) != CPS_OK) {
        broken(mode);
    } else if (cps_h5_has(file, mode)) {
        const pairs *whole = gathers ? exact : p;
        expect_both(file, mode, "grad_w_image", p->image.d_w.values, whole->image.d_w.values,
                    p->image.d_w.rows * p->image.d_w.width);
        expect_both(file, mode, "grad_w_text", p->text.d_w.values, whole->text.d_w.values,
                    p->text.d_w.rows * p->text.d_w.width);
        expect_both(file, mode, "grad_log_scale", &p->d_log_scale, &exact->d_log_scale, 1);
        expect_ranks(file, mode, "loss", &p->result, "contrastive", ranks);
        expect_ranks(file, mode, "grad_log_scale_rank", &p->result, "d_logit_scale", ranks);
        expect_on_ranks(file, mode, p, gathers ? exact : p, ranks);
    }
    free(options);
    free(mode);
}

static void check_pairs_of_ranks(cps_h5 *file, const char *group, int64_t ranks) {
    char *inputs = cps_format("%s/inputs", group), *alone = cps_format("%s/reference_w1", group);
    if (!vectors_has(file, inputs, projected)) {
        free(inputs);
        free(alone);
        return;
    }
    pairs p = read_projected(file, inputs), exact = read_projected(file, inputs);
    vectors_need_same(group, p.image.raw.rows % ranks == 0);
    if (run_pairs(&exact, "{}") != CPS_OK) {
        broken(group);
    } else {
        expect_features(file, alone, &exact);
        expect_matrix(file, alone, "grad_w_image", &exact.image.d_w);
        expect_matrix(file, alone, "grad_w_text", &exact.text.d_w);
        for (int mode = 0; mode < 4; mode++) {
            check_mode(file, group, &p, &exact, ranks, mode / 2 == 1, mode % 2 == 1);
        }
    }
    end_pairs(&p);
    end_pairs(&exact);
    free(inputs);
    free(alone);
}

/* ---- accum ---- */

static void check_accumulation(cps_h5 *file, const char *group) {
    static const char *const own[] = {"chunks", NULL};
    if (!vectors_has(file, group, own) || !vectors_has(file, group, projected)) {
        return;
    }
    const double chunks = vectors_number(file, group, "chunks");
    pairs p = read_projected(file, group), exact = read_projected(file, group);
    vectors_need_same(group, chunks >= 1.0 && chunks <= (double)p.image.raw.rows);
    char *options = cps_format("{\"published_ranks\":1,\"published_accum_freq\":%d}", (int)chunks);
    if (run_pairs(&exact, "{}") != CPS_OK || run_pairs(&p, options) != CPS_OK) {
        broken(group);
    } else {
        double *loss = vectors_doubles((int64_t)chunks);
        for (int64_t i = 0; i < (int64_t)chunks; i++) {
            loss[i] = p.result.loss; /* every chunk is compared with all of them */
        }
        expect(file, group, "loss", loss, (int64_t)chunks);
        expect_both(file, group, "grad_w_image", p.image.d_w.values, exact.image.d_w.values,
                    p.image.d_w.rows * p.image.d_w.width);
        expect_both(file, group, "grad_w_text", p.text.d_w.values, exact.text.d_w.values,
                    p.text.d_w.rows * p.text.d_w.width);
        expect(file, group, "grad_log_scale", &p.d_log_scale, 1);
        expect(file, group, "full_batch_grad_log_scale", &exact.d_log_scale, 1);
        free(loss);
    }
    free(options);
    end_pairs(&p);
    end_pairs(&exact);
}

/* ---- replay_w<W>, in W ranks ---- */

/* Every process has `each` rows, of which the last `tail` are replay. */
typedef struct replay {
    int64_t ranks, each, tail, width;
    double log_scale, d_log_scale;
    vectors_matrix rows[4]; /* image, text, replay_image, replay_text: unit rows */
    vectors_matrix d_image, d_replay, d_text; /* [ranks * each, width] as the file has them */
    objective_result result;
} replay;

/* Copies between the file's rows and those of a slot, process after process. */
static void deal(const replay *r, bool tail, bool out, vectors_matrix *slot, vectors_matrix *all,
                 double factor) {
    const int64_t count = tail ? r->tail : r->each - r->tail, first = tail ? r->each - r->tail : 0;
    for (int64_t rank = 0; rank < r->ranks; rank++) {
        for (int64_t i = 0; i < count * r->width; i++) {
            double *a = &slot->values[rank * count * r->width + i];
            double *b = &all->values[(rank * r->each + first) * r->width + i];
            *(out ? b : a) = factor * *(out ? a : b);
        }
    }
}

static replay read_replay(cps_h5 *file, const char *group, int64_t ranks) {
    vectors_matrix image = vectors_matrix_read(file, group, "image_features");
    vectors_matrix continual = vectors_matrix_read(file, group, "continual_features");
    vectors_matrix text = vectors_matrix_read(file, group, "text_features");
    const double tail = vectors_number(file, group, "continual_len");
    replay r = {.ranks = ranks,
                .each = image.rows / ranks,
                .tail = (int64_t)tail,
                .width = image.width,
                .log_scale = vectors_number(file, group, "log_scale")};
    vectors_need_same(group, image.rows % ranks == 0 && tail >= 1.0 && tail < (double)r.each &&
                                 continual.rows == image.rows && text.rows == image.rows &&
                                 continual.width == image.width && text.width == image.width);
    vectors_matrix *const from[4] = {&image, &text, &continual, &text};
    for (int i = 0; i < 4; i++) {
        r.rows[i] = vectors_matrix_new(ranks * (i >= 2 ? r.tail : r.each - r.tail), r.width);
        deal(&r, i >= 2, false, &r.rows[i], from[i], 1.0);
    }
    r.d_image = vectors_matrix_new(image.rows, r.width);
    r.d_replay = vectors_matrix_new(image.rows, r.width);
    r.d_text = vectors_matrix_new(image.rows, r.width);
    free(image.values);
    free(continual.values);
    free(text.values);
    return r;
}

static void end_replay(replay *r) {
    for (int i = 0; i < 4; i++) {
        free(r->rows[i].values);
    }
    free(r->d_image.values);
    free(r->d_replay.values);
    free(r->d_text.values);
}

static cps_status run_replay(replay *r, const char *options) {
    static const char *const names[4] = {"image", "text", "replay_image", "replay_text"};
    vectors_matrix *const to[4] = {&r->d_image, &r->d_text, &r->d_replay, &r->d_text};
    vectors_matrix grads[4];
    objective_rows slots[4];
    for (int i = 0; i < 4; i++) {
        grads[i] = vectors_matrix_new(r->rows[i].rows, r->width);
        slots[i] = (objective_rows){names[i], r->rows[i].rows, r->width, r->rows[i].values,
                                    grads[i].values};
    }
    objective_parameter scale = {"logit_scale", 1, &r->log_scale, &r->d_log_scale};
    const objective_loss wanted = {.name = "bioclip",
                                   .options = options,
                                   .embed_dim = r->width,
                                   .slots = slots,
                                   .slot_count = 4,
                                   .parameters = &scale,
                                   .parameter_count = 1};
    const cps_status status = objective_run_loss(&wanted, &r->result);
    for (int i = 0; i < 4; i++) {
        deal(r, i >= 2, true, &grads[i], to[i], (double)r->ranks);
        free(grads[i].values);
    }
    return status;
}

static void check_replay_of_ranks(cps_h5 *file, const char *group, int64_t ranks) {
    static const char *const inputs[] = {"image_features", "continual_features", "text_features",
                                         "continual_len",  "log_scale",          NULL};
    if (!vectors_has(file, group, inputs)) {
        return;
    }
    replay r = read_replay(file, group, ranks), exact = read_replay(file, group, ranks);
    char *options =
        cps_format("{\"replay\":\"replay\",\"published_ranks\":%lld}", (long long)ranks);
    if (run_replay(&exact, "{\"replay\":\"replay\"}") != CPS_OK ||
        run_replay(&r, options) != CPS_OK) {
        broken(group);
    } else {
        const int64_t count = r.d_image.rows * r.width;
        expect_ranks(file, group, "contrastive_loss", &r.result, "contrastive", ranks);
        expect_ranks(file, group, "continual_loss", &r.result, "replay", ranks);
        expect_ranks(file, group, "grad_log_scale_rank", &r.result, "d_logit_scale", ranks);
        expect_both(file, group, "grad_image_features", r.d_image.values, exact.d_image.values,
                    count);
        expect_both(file, group, "grad_continual_features", r.d_replay.values,
                    exact.d_replay.values, count);
        expect_both(file, group, "grad_text_features", r.d_text.values, exact.d_text.values, count);
    }
    free(options);
    end_replay(&r);
    end_replay(&exact);
}

/* ---- entries ---- */

static const char pairs_prefix[] = "clip_w", replay_prefix[] = "replay_w";

void bioclip_ranks(cps_h5 *file, const char *group) {
    const int64_t ranks = cps_comm_size(vectors_comm());
    cps_gemm_start();
    if (vectors_ranks_of(group, replay_prefix) == ranks) {
        check_replay_of_ranks(file, group, ranks);
    } else if (vectors_ranks_of(group, pairs_prefix) == ranks) {
        check_pairs_of_ranks(file, group, ranks);
    }
}

/* One process has the whole batch: it says so itself, without "inputs". */
static bool is_alone(cps_h5 *file, const char *group) {
    char *raw = cps_format("%s/raw_image", group);
    const bool found = cps_h5_has(file, raw);
    free(raw);
    return vectors_ranks_of(group, pairs_prefix) > 0 && found;
}

/* Groups of real ranks come first: MPI has not begun in this process. */
static void check_ranks(cps_h5 *file, char *const *groups, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const int64_t pairs_ranks = vectors_ranks_of(groups[i], pairs_prefix);
        const int64_t ranks =
            pairs_ranks > 0 ? pairs_ranks : vectors_ranks_of(groups[i], replay_prefix);
        if (ranks > 0 && !is_alone(file, groups[i])) {
            vectors_run_ranks(file, groups[i], ranks);
        }
    }
}

void bioclip_losses(cps_h5 *file) {
    char **groups = NULL;
    int64_t count = 0;
    vectors_need(cps_h5_list(file, "/", &groups, &count));
    check_ranks(file, groups, count);
    cps_gemm_start();
    for (int64_t i = 0; i < count; i++) {
        if (is_alone(file, groups[i])) {
            check_alone(file, groups[i]);
        }
    }
    cps_strings_destroy(groups, count);
    check_accumulation(file, "accum");
}
