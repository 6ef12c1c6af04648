/* Golden vectors of the CLIP towers, their loss, and AdamW: clip-towers.md, section 8. Every group
 * of the file that has `param` is one model; outputs, loss and gradients come from one pass over
 * its batch, `train/` from whole steps. */
#include "vectors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "model/tower.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"
#include "train/optimizer.h"
#include "train/schedule.h"

static const double highest_scale = 4.60517018598809136804; /* ln 100 */

/* One model of the file. */
typedef struct subject {
    cps_h5 *file;
    const char *group;
    cps_params *params;
    cps_tower *image, *text;
    int32_t logit_scale;
    int64_t image_size, context;
    cps_arena *arena;
    cps_tape *tape;
    cps_real *grads; /* laid out as the parameters */
} subject;

/* A batch of the file and what the towers made of it; tensors live until the tape's reset. */
typedef struct batch {
    int64_t count;
    cps_real *image;
    int32_t *ids, *offsets, *ends;
    cps_tower_output seen, read;
    cps_tensor *loss;
} batch;

static char *path_in(const subject *s, const char *name) {
    return cps_format("%s/%s", s->group, name);
}

/* The runner cannot go on when the library fails on the file's own data. */
static void need(cps_status status) {
    if (status != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
}

static int64_t attribute(const subject *s, const char *name) {
    int64_t value = 0;
    need(cps_h5_read_integer(s->file, s->group, name, &value));
    return value;
}

/* ---- the model ---- */

static void make_towers(subject *s) {
    const bool quick = attribute(s, "quick_gelu") != 0;
    const int64_t embed_dim = attribute(s, "embed_dim");
    s->image_size = attribute(s, "vision.image_size");
    s->context = attribute(s, "text.context_length");
    const int64_t width = attribute(s, "vision.width");
    const cps_tower_config image = {.name = "image",
                                    .prefix = "visual.",
                                    .kind = CPS_TOWER_VIT,
                                    .image_size = s->image_size,
                                    .patch = attribute(s, "vision.patch_size"),
                                    .width = width,
                                    .layers = attribute(s, "vision.layers"),
                                    .heads = width / attribute(s, "vision.head_width"),
                                    .embed_dim = embed_dim,
                                    .quick_gelu = quick,
                                    .pre_norm = true};
    const cps_tower_config text = {.name = "text",
                                   .prefix = "",
                                   .kind = CPS_TOWER_TEXT,
                                   .context = s->context,
                                   .vocabulary = attribute(s, "text.vocab_size"),
                                   .width = attribute(s, "text.width"),
                                   .layers = attribute(s, "text.layers"),
                                   .heads = attribute(s, "text.heads"),
                                   .embed_dim = embed_dim,
                                   .quick_gelu = quick};
    need(cps_params_create(&s->params));
    need(cps_tower_create(s->params, &image, &s->image));
    need(cps_tower_create(s->params, &text, &s->text));
    const cps_param_spec scale = {.name = "logit_scale", .init = {.kind = CPS_INIT_ZERO}};
    need(cps_params_add(s->params, &scale, &s->logit_scale));
}

static void load_values(subject *s) {
    for (int32_t i = 0; i < cps_params_count(s->params); i++) {
        const cps_param *param = cps_params_at(s->params, i);
        char *path = cps_format("%s/param/%s", s->group, param->name);
        int64_t count = 0;
        cps_real *values = vectors_read_real(s->file, path, &count);
        if (values == NULL || count != param->count) {
            vectors_unusable("'%s' has %lld values, the tower wants %lld", path,
                             (long long)(values == NULL ? 0 : count), (long long)param->count);
        }
        need(cps_params_offer(s->params, param->name, param->spec.rank, param->spec.shape, values));
        free(values);
        free(path);
    }
    need(cps_params_allocate(s->params, 0));
    need(cps_params_set_train(s->params, NULL, 0));
    s->grads = calloc((size_t)cps_params_flat_count(s->params), sizeof *s->grads);
    if (s->grads == NULL) {
        vectors_unusable("out of memory");
    }
}

static subject make_subject(cps_h5 *file, const char *group) {
    subject s = {.file = file, .group = group};
    make_towers(&s);
    load_values(&s);
    need(cps_arena_create("vectors", (size_t)1 << 24, true, &s.arena));
    need(cps_tape_create(s.arena, CPS_TAPE_RECORD, NULL, &s.tape));
    return s;
}

static void end_subject(subject *s) {
    cps_tape_destroy(s->tape);
    cps_arena_destroy(s->arena);
    cps_tower_destroy(s->image);
    cps_tower_destroy(s->text);
    cps_params_destroy(s->params);
    free(s->grads);
}

/* ---- a batch ---- */

/* Token rows [count, context] packed up to their end, the first place of the largest id. */
static void pack(const subject *s, const int64_t *tokens, batch *b) {
    b->ids = calloc((size_t)(b->count * s->context) + 1, sizeof *b->ids);
    b->offsets = calloc((size_t)b->count + 1, sizeof *b->offsets);
    b->ends = calloc((size_t)b->count + 1, sizeof *b->ends);
    if (b->ids == NULL || b->offsets == NULL || b->ends == NULL) {
        vectors_unusable("out of memory");
    }
    int32_t at = 0;
    for (int64_t row = 0; row < b->count; row++) {
        const int64_t *line = tokens + row * s->context;
        int64_t end = 0;
        for (int64_t i = 1; i < s->context; i++) {
            end = line[i] > line[end] ? i : end;
        }
        for (int64_t i = 0; i <= end; i++) {
            b->ids[at++] = (int32_t)line[i];
        }
        b->offsets[row + 1] = at;
        b->ends[row] = at - 1;
    }
}

/* Batch `index` of datasets "image" and "tokens" at `where`, which hold `batches` of them. */
static batch read_batch(const subject *s, const char *where, int64_t batches, int64_t index) {
    char *image_path = cps_format("%simage", where), *tokens_path = cps_format("%stokens", where);
    int64_t pixels = 0, ids = 0;
    cps_real *image = vectors_read_real(s->file, image_path, &pixels);
    int64_t *tokens = vectors_read_i64(s->file, tokens_path, &ids);
    const int64_t each = 3 * s->image_size * s->image_size;
    if (image == NULL || tokens == NULL || pixels % (each * batches) != 0 ||
        ids / s->context != pixels / each || ids % (s->context * batches) != 0) {
        vectors_unusable("'%s' and '%s' do not hold %lld batches of the towers' inputs", image_path,
                         tokens_path, (long long)batches);
    }
    batch b = {.count = pixels / each / batches};
    b.image = malloc((size_t)(b.count * each) * sizeof *b.image);
    if (b.image == NULL) {
        vectors_unusable("out of memory");
    }
    memcpy(b.image, image + index * b.count * each, (size_t)(b.count * each) * sizeof *b.image);
    pack(s, tokens + index * b.count * s->context, &b);
    free(image);
    free(tokens);
    free(image_path);
    free(tokens_path);
    return b;
}

static void end_batch(batch *b) {
    free(b->image);
    free(b->ids);
    free(b->offsets);
    free(b->ends);
}

/* Features, loss and gradients. */
static void run(const subject *s, batch *b) {
    cps_tape_reset(s->tape);
    for (int32_t i = 0; i < cps_params_count(s->params); i++) {
        cps_param *param = cps_params_at(s->params, i);
        param->tensor.grad = s->grads + param->offset;
        param->tensor.grad_fresh = true;
    }
    const int64_t shape[] = {b->count, 3, s->image_size, s->image_size};
    const int64_t rows = b->offsets[b->count];
    cps_tape *tape = s->tape;
    const cps_tower_input pictures = {
        .image = cps_tape_leaf(tape, CPS_REAL, 4, shape, b->image, NULL, -1)};
    const cps_tower_input words = {.ids = cps_tape_leaf(tape, CPS_I32, 1, &rows, b->ids, NULL, -1),
                                   .count = b->count,
                                   .offsets = b->offsets,
                                   .ends = b->ends};
    const uint32_t outputs = CPS_OUT_PROJECTED | CPS_OUT_FEATURE;
    need(cps_tower_forward(s->image, tape, &pictures, outputs, &b->seen));
    need(cps_tower_forward(s->text, tape, &words, outputs, &b->read));
    b->loss = cps_softmax_contrastive(tape, b->seen.feature, b->read.feature,
                                      &cps_params_at(s->params, s->logit_scale)->tensor, NULL);
    need(cps_tape_status(tape));
    need(cps_backward(tape, b->loss, 1));
}

/* ---- one pass ---- */

static void expect(const subject *s, const char *name, const cps_tensor *got) {
    char *path = path_in(s, name);
    const int64_t count = got->rank == 0 ? 1 : got->shape[0] * got->shape[1];
    vectors_expect_real(s->file, path, got->data, count, vectors_tolerance(1e-10, 2e-5));
    free(path);
}

/* Every dataset of `where` against the tensor of that name in a flat array. */
static void expect_tensors(const subject *s, const char *where, const cps_real *flat,
                           double tolerance) {
    char *group = path_in(s, where);
    char **names = NULL;
    int64_t count = 0;
    need(cps_h5_list(s->file, group, &names, &count));
    for (int64_t i = 0; i < count; i++) {
        char *path = cps_format("%s/%s", group, names[i]);
        const int32_t index = cps_params_find(s->params, names[i]);
        if (index < 0) {
            vectors_broken(path, tolerance, "the towers have no parameter of that name");
        } else {
            const cps_param *param = cps_params_at(s->params, index);
            vectors_expect_real(s->file, path, flat + param->offset, param->count, tolerance);
        }
        free(path);
    }
    cps_strings_destroy(names, count);
    free(group);
}

static void check_pass(const subject *s) {
    char *where = path_in(s, "");
    batch b = read_batch(s, where, 1, 0);
    run(s, &b);
    expect(s, "image_raw", b.seen.projected);
    expect(s, "image_features", b.seen.feature);
    expect(s, "text_raw", b.read.projected);
    expect(s, "text_features", b.read.feature);
    expect(s, "loss", b.loss);
    expect_tensors(s, "grad", s->grads, vectors_tolerance(1e-10, 2e-5));
    end_batch(&b);
    free(where);
}

/* ---- training ---- */

typedef struct training {
    char *where; /* "gelu/train" */
    cps_optimizer optimizer;
    cps_schedule schedule;
    double lr, weight_decay, clip_norm;
    int64_t steps;
    cps_json *no_decay;
    cps_real *state[CPS_OPTIMIZER_STATES];
} training;

static double number(const subject *s, const training *t, const char *name) {
    double value = 0;
    need(cps_h5_read_number(s->file, t->where, name, &value));
    return value;
}

static training start_training(const subject *s) {
    training t = {.where = path_in(s, "train")};
    t.lr = number(s, &t, "base_lr");
    t.weight_decay = number(s, &t, "weight_decay");
    t.clip_norm = number(s, &t, "grad_clip_norm");
    t.steps = (int64_t)number(s, &t, "total_steps");
    t.schedule = (cps_schedule){.kind = CPS_SCHEDULE_COSINE,
                                .warmup_steps = (int64_t)number(s, &t, "warmup_steps")};
    t.optimizer = (cps_optimizer){.kind = CPS_OPTIMIZER_ADAMW,
                                  .beta1 = number(s, &t, "beta1"),
                                  .beta2 = number(s, &t, "beta2"),
                                  .eps = number(s, &t, "eps")};
    char *names = NULL;
    need(cps_h5_read_text(s->file, t.where, "no_decay", &names));
    need(cps_json_parse(names, strlen(names), "no_decay", &t.no_decay));
    free(names);
    for (int32_t i = 0; i < CPS_OPTIMIZER_STATES; i++) {
        t.state[i] = calloc((size_t)cps_params_flat_count(s->params), sizeof(cps_real));
        if (t.state[i] == NULL) {
            vectors_unusable("out of memory");
        }
    }
    return t;
}

static void end_training(training *t) {
    for (int32_t i = 0; i < CPS_OPTIMIZER_STATES; i++) {
        free(t->state[i]);
    }
    cps_json_destroy(t->no_decay);
    free(t->where);
}

static bool decays(const training *t, const char *name) {
    for (const cps_json *at = cps_json_first(t->no_decay); at != NULL; at = cps_json_next(at)) {
        if (cps_json_string(at) != NULL && strcmp(cps_json_string(at), name) == 0) {
            return false;
        }
    }
    return true;
}

static double gradient_norm(const subject *s) {
    double sum = 0;
    for (int32_t i = 0; i < cps_params_count(s->params); i++) {
        const cps_param *param = cps_params_at(s->params, i);
        for (int64_t k = 0; k < param->count; k++) {
            const double g = (double)s->grads[param->offset + k];
            sum += g * g;
        }
    }
    return sqrt(sum);
}

static void update(const subject *s, const training *t, double lr, double norm, int64_t step) {
    for (int32_t i = 0; i < cps_params_count(s->params); i++) {
        cps_param *param = cps_params_at(s->params, i);
        const cps_update one = {.param = param->tensor.data,
                                .grad = s->grads + param->offset,
                                .state = {t->state[0] + param->offset, t->state[1] + param->offset},
                                .count = param->count,
                                .grad_scale = cps_clip_factor(norm, t->clip_norm),
                                .lr = lr,
                                .weight_decay = decays(t, param->name) ? t->weight_decay : 0,
                                .updates = step + 1,
                                .rank = param->spec.rank};
        cps_optimizer_update(&t->optimizer, &one);
    }
    cps_real *scale = cps_params_at(s->params, s->logit_scale)->tensor.data;
    *scale = (cps_real)fmin(fmax((double)*scale, 0), highest_scale);
}

static void expect_in(const subject *s, const training *t, const char *name, const double *got) {
    char *path = cps_format("%s/%s", t->where, name);
    vectors_expect(s->file, path, got, t->steps, vectors_tolerance(1e-8, 5e-3));
    free(path);
}

static void check_training(const subject *s) {
    training t = start_training(s);
    char *inputs = cps_format("%s/", t.where);
    double *lr = calloc((size_t)t.steps, sizeof *lr);
    double *loss = calloc((size_t)t.steps, sizeof *loss);
    double *norm = calloc((size_t)t.steps, sizeof *norm);
    if (lr == NULL || loss == NULL || norm == NULL) {
        vectors_unusable("out of memory for %lld steps", (long long)t.steps);
    }
    const cps_numbers base = {.count = 1, .values = &t.lr};
    need(cps_schedule_tabulate(&t.schedule, base, t.where, t.steps, 0, lr));
    for (int64_t step = 0; step < t.steps; step++) {
        batch b = read_batch(s, inputs, t.steps, step);
        run(s, &b);
        loss[step] = (double)*(const cps_real *)b.loss->data;
        norm[step] = gradient_norm(s);
        update(s, &t, lr[step], norm[step], step);
        end_batch(&b);
    }
    expect_in(s, &t, "lr", lr);
    expect_in(s, &t, "loss", loss);
    expect_in(s, &t, "grad_norm", norm);
    expect_tensors(s, "train/param_after", cps_params_flat(s->params),
                   vectors_tolerance(1e-8, 5e-3));
    free(lr);
    free(loss);
    free(norm);
    free(inputs);
    end_training(&t);
}

static void check_group(cps_h5 *file, const char *group) {
    char *params = cps_format("%s/param", group), *train = cps_format("%s/train", group);
    if (!cps_h5_has(file, params)) {
        vectors_skip(group, "no group of CLIP's towers (it has no 'param')");
    } else {
        subject s = make_subject(file, group);
        check_pass(&s);
        if (cps_h5_has(file, train)) {
            check_training(&s);
        }
        end_subject(&s);
    }
    free(params);
    free(train);
}

int main(int argc, char **argv) {
    cps_h5 *file = vectors_open(argc, argv, 1, 1, "FILE");
    cps_gemm_start();
    char **groups = NULL;
    int64_t count = 0;
    need(cps_h5_list(file, "/", &groups, &count));
    for (int64_t i = 0; i < count; i++) {
        check_group(file, groups[i]);
    }
    cps_strings_destroy(groups, count);
    need(cps_h5_close(file));
    return vectors_finish();
}
