/* Golden vectors of S-CLIP's published code: s-clip.md, section 8. Losses and gradients come out of
 * the plugins as training loads them (objective.h); the inside of the loss (plans, targets,
 * transport, the matching rule) out of the objects that the sclip plugin is made of, which are
 * linked into this runner. */
#include "vectors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "base/arena.h"
#include "base/file.h"
#include "objective.h"
#include "plugins/sclip/sclip.h"
#include "plugins/sclip/transport.h"
#include "ranks.h"
#include "sclip.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"
#include "train/stage.h"

/* In the order of sclip_plan_kind. */
static const char *const plan_names[] = {"hard-image", "soft-image", "ot-image",
                                         "hard-text",  "soft-text",  "ot-text"};
enum { PLANS = sizeof plan_names / sizeof plan_names[0], ITERATIONS = 10 };

/* ---- inputs of a loss ---- */

typedef struct loss_case {
    cps_h5 *file;
    char *group; /* "loss/tiny" */
    vectors_matrix image, text, query, keyword, mask;
    double scale, log_scale;
    double *d_image, *d_text, *d_query, *d_keyword, d_log_scale;
} loss_case;

static double *zeros(const vectors_matrix *like) {
    return vectors_doubles(like->rows * like->width);
}

/* Checks the sizes, makes room for gradients. */
static void finish_case(loss_case *c) {
    const int64_t width = c->image.width;
    vectors_need_same(c->group, c->text.width == width && c->query.width == width &&
                                    c->keyword.width == width && c->text.rows == c->image.rows &&
                                    c->mask.rows == c->image.rows &&
                                    c->mask.width == c->keyword.rows);
    c->d_image = zeros(&c->image);
    c->d_text = zeros(&c->text);
    c->d_query = zeros(&c->query);
    c->d_keyword = zeros(&c->keyword);
}

static loss_case read_case(cps_h5 *file, const char *group) {
    loss_case c = {.file = file, .group = cps_format("%s", group)};
    char *in = cps_format("%s/in", group);
    c.image = vectors_matrix_read(file, in, "image");
    c.text = vectors_matrix_read(file, in, "text");
    c.query = vectors_matrix_read(file, in, "query");
    c.keyword = vectors_matrix_read(file, in, "keyword");
    c.mask = vectors_matrix_read(file, in, "keyword_mask");
    c.scale = vectors_number(file, in, "logit_scale");
    c.log_scale = vectors_number(file, in, "log_scale");
    free(in);
    finish_case(&c);
    return c;
}

static void end_case(loss_case *c) {
    free(c->image.values);
    free(c->text.values);
    free(c->query.values);
    free(c->keyword.values);
    free(c->mask.values);
    free(c->d_image);
    free(c->d_text);
    free(c->d_query);
    free(c->d_keyword);
    free(c->group);
}

/* ---- outputs ---- */

static void expect_matrix(cps_h5 *file, const char *group, const char *name, const double *got,
                          const vectors_matrix *like) {
    sclip_expect(file, group, name, got, like->rows * like->width);
}

/* All that the file has of gradients in `group`. d/ds = (d/dt)/s, as s = exp t. */
static void expect_gradients(const loss_case *c, const char *group) {
    const double d_scale = c->d_log_scale / c->scale;
    expect_matrix(c->file, group, "d_image", c->d_image, &c->image);
    expect_matrix(c->file, group, "d_text", c->d_text, &c->text);
    expect_matrix(c->file, group, "d_query", c->d_query, &c->query);
    expect_matrix(c->file, group, "d_keyword", c->d_keyword, &c->keyword);
    sclip_expect(c->file, group, "d_log_scale", &c->d_log_scale, 1);
    sclip_expect(c->file, group, "d_logit_scale", &d_scale, 1);
}

static void broken(const char *group) {
    vectors_broken(group, sclip_tolerance(), "%s", cps_fail_message());
}

/* ---- the objectives ---- */

/* only: gradients of this term alone; NULL: of the loss. */
static cps_status run_objective(loss_case *c, const char *objective, const char *options,
                                const char *only, objective_result *result) {
    objective_rows slots[] = {
        {"image", c->image.rows, c->image.width, c->image.values, c->d_image},
        {"text", c->text.rows, c->text.width, c->text.values, c->d_text},
        {"query", c->query.rows, c->query.width, c->query.values, c->d_query},
        {"keyword", c->keyword.rows, c->keyword.width, c->keyword.values, c->d_keyword},
        {"keyword_mask", c->mask.rows, c->mask.width, c->mask.values, NULL},
    };
    objective_parameter scale = {"logit_scale", 1, &c->log_scale, &c->d_log_scale};
    const objective_loss wanted = {.name = objective,
                                   .options = options,
                                   .embed_dim = c->image.width,
                                   .slots = slots,
                                   .slot_count = sizeof slots / sizeof slots[0],
                                   .parameters = &scale,
                                   .parameter_count = 1,
                                   .only = only};
    return objective_run_loss(&wanted, result);
}

/* Options of sclip. Its terms: the pairs' always, the others where they are wanted. */
typedef struct setting {
    const char *plan, *target;
    bool plan_grad, caption, keyword;
    int64_t ranks;
} setting;

static cps_status run_sclip(loss_case *c, const setting *s, const char *only,
                            objective_result *result) {
    cps_json *options = cps_json_new_object(), *keywords = cps_json_add_array(options, "keywords");
    for (int64_t k = 0; k < c->keyword.rows; k++) {
        char word[32];
        snprintf(word, sizeof word, "keyword %lld", (long long)k);
        cps_json_add_string(keywords, NULL, word);
    }
    cps_json_add_string(options, "plan", s->plan);
    cps_json_add_string(options, "keyword_target", s->target);
    cps_json_add_bool(options, "plan_grad", s->plan_grad);
    cps_json_add_bool(options, "caption_term", s->caption);
    cps_json_add_bool(options, "keyword_term", s->keyword);
    cps_json_add_number(options, "published_ranks", (double)s->ranks);
    char *text = cps_json_print(options, false, false);
    const cps_status status = run_objective(c, "sclip", text, only, result);
    free(text);
    cps_json_destroy(options);
    return status;
}

static void check_base(loss_case *c) {
    char *group = cps_format("%s/base", c->group);
    if (cps_h5_has(c->file, group)) {
        objective_result result;
        if (run_objective(c, "clip", "{}", NULL, &result) != CPS_OK) {
            broken(group);
        } else {
            sclip_expect(c->file, group, "loss", &result.loss, 1);
            expect_gradients(c, group);
        }
    }
    free(group);
}

/* The two inputs that say the same. */
static void check_scales(const loss_case *c) {
    char *in = cps_format("%s/in", c->group);
    const double scale = exp(c->log_scale);
    sclip_expect(c->file, in, "logit_scale", &scale, 1);
    free(in);
}

static void expect_terms(cps_h5 *file, const char *group, const objective_result *result) {
    const double contrastive = objective_value_of(result, "contrastive"),
                 caption = objective_value_of(result, "caption"),
                 keyword = objective_value_of(result, "keyword");
    sclip_expect(file, group, "loss_contrastive", &contrastive, 1);
    sclip_expect(file, group, "loss_caption", &caption, 1);
    sclip_expect(file, group, "loss_keyword", &keyword, 1);
    sclip_expect(file, group, "loss_total", &result->loss, 1);
}

/* The other terms are off, as far as the options go: the pairs' term is always there. */
static void check_component(loss_case *c, const char *mode, const char *component, setting s) {
    char *group = cps_format("%s/%s", mode, component);
    const bool total = strcmp(component, "total") == 0;
    objective_result result;
    s.caption = total || strcmp(component, "caption") == 0;
    s.keyword = total || strcmp(component, "keyword") == 0;
    if (cps_h5_has(c->file, group)) {
        if (run_sclip(c, &s, total ? NULL : component, &result) != CPS_OK) {
            broken(group);
        } else {
            expect_gradients(c, group);
        }
    }
    free(group);
}

/* ---- plans and targets ---- */

/* What the plugin's parts make of a case. */
typedef struct inside {
    cps_arena *arena;
    cps_tape *tape;
    cps_tensor *plan, *nearest, *target;
} inside;

static cps_tensor *matrix_tensor(const inside *in, const vectors_matrix *from) {
    const int64_t shape[2] = {from->rows, from->width};
    cps_tensor *to = cps_tape_tensor(in->tape, CPS_REAL, 2, shape);
    for (int64_t i = 0; to != NULL && i < shape[0] * shape[1]; i++) {
        ((cps_real *)to->data)[i] = (cps_real)from->values[i];
    }
    return to;
}

static cps_tensor *mask_tensor(const inside *in, const vectors_matrix *from) {
    const int64_t shape[2] = {from->rows, from->width};
    cps_tensor *to = cps_tape_tensor(in->tape, CPS_I32, 2, shape);
    for (int64_t i = 0; to != NULL && i < shape[0] * shape[1]; i++) {
        ((int32_t *)to->data)[i] = from->values[i] != 0.0;
    }
    return to;
}

static void open_inside(inside *in) {
    vectors_need(cps_arena_create("inside", (size_t)1 << 20, true, &in->arena));
    vectors_need(cps_tape_create(in->arena, CPS_TAPE_RECORD, cps_host_table(), &in->tape));
}

static void close_inside(inside *in) {
    cps_tape_destroy(in->tape);
    cps_arena_destroy(in->arena);
}

static void look_inside(inside *in, const loss_case *c, const sclip_options *options) {
    open_inside(in);
    cps_tape *tape = in->tape;
    const cps_real log_scale = (cps_real)c->log_scale;
    const vectors_matrix *support = sclip_by_text(options->plan) ? &c->text : &c->image;
    cps_tensor *query = matrix_tensor(in, &c->query);
    cps_tensor *scale = cps_constant(tape, CPS_REAL, 0, NULL, &log_scale);
    cps_tensor *cosines = cps_matmul(tape, query, matrix_tensor(in, support), false, true, 1.0);
    cps_tensor *logits =
        cps_matmul(tape, query, matrix_tensor(in, &c->keyword), false, true, c->scale);
    int64_t guarded = 0;
    in->plan = sclip_plan(tape, options, cosines, scale);
    in->nearest = sclip_nearest(tape, in->plan, scale);
    in->target =
        sclip_target(tape, options, logits, mask_tensor(in, &c->mask), in->nearest, &guarded);
    vectors_need(cps_tape_status(tape));
}

static void expect_tensor(cps_h5 *file, const char *group, const char *name,
                          const cps_tensor *tensor) {
    const int64_t count = tensor->shape[0] * tensor->shape[1];
    double *got = vectors_doubles(count);
    for (int64_t i = 0; i < count; i++) {
        got[i] = (double)((const cps_real *)tensor->data)[i];
    }
    sclip_expect(file, group, name, got, count);
    free(got);
}

/* Whether the largest entry of a row is there twice, to rounding. */
static bool is_tie(const cps_real *row, int64_t count) {
    double first = -(double)INFINITY, second = -(double)INFINITY;
    for (int64_t i = 0; i < count; i++) {
        const double value = (double)row[i], lower = value < first ? value : first;
        first = value > first ? value : first;
        second = lower > second ? lower : second;
    }
    return first - second <= vectors_tolerance(1e-9, 1e-6) * fabs(first);
}

/* The file has -1 where a row's largest entry is there twice: any of its pairs is as near. */
static void expect_nearest(cps_h5 *file, const char *group, const inside *in) {
    char *path = cps_format("%s/nearest", group);
    const int64_t rows = in->nearest->shape[0], columns = in->plan->shape[1];
    double *want = cps_h5_has(file, path) ? vectors_wanted(file, path, rows, 0.0) : NULL;
    double worst = 0.0;
    for (int64_t u = 0; u < rows && want != NULL; u++) {
        const bool tie = is_tie((const cps_real *)in->plan->data + u * columns, columns);
        const double got = tie ? -1.0 : (double)((const int32_t *)in->nearest->data)[u];
        worst = fmax(worst, fabs(got - want[u]));
    }
    if (want != NULL) {
        vectors_judge(path, worst, 0.0);
    }
    free(want);
    free(path);
}

static void check_inside(const loss_case *c, const char *group, int32_t kind, int32_t target) {
    const sclip_options options = {
        .plan = kind, .keyword_target = target, .sinkhorn_iterations = ITERATIONS};
    inside in = {0};
    look_inside(&in, c, &options);
    expect_tensor(c->file, group, "plan", in.plan);
    expect_nearest(c->file, group, &in);
    expect_tensor(c->file, group, "keyword_target", in.target);
    close_inside(&in);
}

/* ---- a loss case ---- */

static void check_mode(loss_case *c, int32_t kind, const char *mode, bool plan_grad) {
    static const char *const components[] = {"contrastive", "caption", "keyword", "total"};
    char *group = cps_format("%s/ours/%s/%s", c->group, plan_names[kind], mode);
    const setting s = {plan_names[kind], "linear", plan_grad, true, true, 1};
    if (cps_h5_has(c->file, group)) {
        objective_result result;
        check_inside(c, group, kind, SCLIP_LINEAR);
        if (run_sclip(c, &s, NULL, &result) != CPS_OK) {
            broken(group);
        } else {
            expect_terms(c->file, group, &result);
        }
        for (size_t i = 0; i < sizeof components / sizeof components[0]; i++) {
            check_component(c, group, components[i], s);
        }
    }
    free(group);
}

static void check_softmax_target(loss_case *c) {
    char *group = cps_format("%s/alt/keyword_softmax", c->group);
    const setting s = {"ot-image", "softmax", true, false, true, 1};
    if (cps_h5_has(c->file, group)) {
        objective_result result;
        check_inside(c, group, SCLIP_OT_IMAGE, SCLIP_SOFTMAX);
        if (run_sclip(c, &s, "keyword", &result) != CPS_OK) {
            broken(group);
        } else {
            expect_terms(c->file, group, &result);
            expect_gradients(c, group);
        }
    }
    free(group);
}

static void check_loss(cps_h5 *file, const char *group) {
    static const char *const inputs[] = {
        "in/image",        "in/text",        "in/query",     "in/keyword",
        "in/keyword_mask", "in/logit_scale", "in/log_scale", NULL};
    if (!vectors_has(file, group, inputs)) {
        return;
    }
    loss_case c = read_case(file, group);
    check_scales(&c);
    check_base(&c);
    for (int32_t kind = 0; kind < PLANS; kind++) {
        check_mode(&c, kind, "grad", true);
        check_mode(&c, kind, "stop", false);
    }
    check_softmax_target(&c);
    end_case(&c);
}

/* ---- transport ---- */

/* After `iterations` from equal factors. */
static void check_iterations(cps_h5 *file, const char *group, const vectors_matrix *cost,
                             double reg, int64_t iterations) {
    const int64_t m = cost->rows, n = cost->width, cells = m * n;
    double *memory = vectors_doubles(2 * cells + (iterations + 1) * m + iterations * n +
                                     sclip_transport_work(m, n, iterations));
    double *plan = memory + cells;
    sclip_transport t = {
        .rows = m, .columns = n, .iterations = iterations, .matrix = memory, .f = plan + cells};
    t.g = t.f + (iterations + 1) * m;
    t.work = t.g + iterations * n;
    for (int64_t i = 0; i < cells; i++) {
        t.matrix[i] = -cost->values[i] / reg;
    }
    inside in = {0};
    open_inside(&in);
    sclip_transport_prepare(in.tape, &t);
    sclip_transport_solve(in.tape, &t);
    sclip_transport_plan(in.tape, &t, plan);
    close_inside(&in);
    double *u = t.f + iterations * m, *v = t.g + (iterations - 1) * n;
    char name[64];
    snprintf(name, sizeof name, "plan_%lld", (long long)iterations);
    sclip_expect_exact(file, group, name, plan, cells);
    for (int64_t i = 0; i < cells; i++) {
        plan[i] /= (double)m; /* its rows were scaled last */
    }
    snprintf(name, sizeof name, "P_%lld", (long long)iterations);
    sclip_expect_exact(file, group, name, plan, cells);
    for (int64_t i = 0; i < m; i++) {
        u[i] = exp(u[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        v[i] = exp(v[i]);
    }
    snprintf(name, sizeof name, "u_%lld", (long long)iterations);
    sclip_expect_exact(file, group, name, u, m);
    snprintf(name, sizeof name, "v_%lld", (long long)iterations);
    sclip_expect_exact(file, group, name, v, n);
    free(memory);
}

/* Gradients of sum(upstream * plan_10): cosines are 1 - cost, the scale is 1/reg. */
static void check_transport_gradient(cps_h5 *file, const char *group, const vectors_matrix *cost,
                                     double reg) {
    const sclip_options options = {.plan = SCLIP_OT_IMAGE, .sinkhorn_iterations = ITERATIONS};
    vectors_matrix upstream = vectors_matrix_read(file, group, "upstream");
    const int64_t cells = cost->rows * cost->width, shape[2] = {cost->rows, cost->width};
    vectors_need_same(group, upstream.rows == cost->rows && upstream.width == cost->width);
    inside in = {0};
    open_inside(&in);
    cps_real log_scale = (cps_real)-log(reg), d_log_scale = 0;
    cps_tensor *given = matrix_tensor(&in, cost);
    cps_real *values = given->data;
    cps_real *d_cosines = cps_tape_save(in.tape, (size_t)cells * sizeof *d_cosines);
    for (int64_t i = 0; i < cells; i++) {
        values[i] = (cps_real)(1.0 - cost->values[i]);
    }
    cps_tensor *cosines = cps_tape_leaf(in.tape, CPS_REAL, 2, shape, values, d_cosines, -1);
    cps_tensor *scale = cps_tape_leaf(in.tape, CPS_REAL, 0, NULL, &log_scale, &d_log_scale, -1);
    cosines->grad_fresh = true;
    scale->grad_fresh = true;
    cps_tensor *plan = sclip_plan(in.tape, &options, cosines, scale);
    vectors_need(cps_backward(in.tape, cps_dot(in.tape, plan, matrix_tensor(&in, &upstream)), 1.0));
    double *d_cost = vectors_doubles(cells);
    const double d_reg = -(double)d_log_scale / reg;
    for (int64_t i = 0; i < cells; i++) {
        d_cost[i] = -(double)d_cosines[i];
    }
    sclip_expect(file, group, "d_cost", d_cost, cells);
    sclip_expect(file, group, "d_reg", &d_reg, 1);
    free(d_cost);
    free(upstream.values);
    close_inside(&in);
}

static void check_transport(cps_h5 *file, const char *group) {
    enum { MOST_ITERATIONS = 1000 };
    static const char *const inputs[] = {"cost", "reg", NULL}, *const more[] = {"upstream", NULL};
    if (!vectors_has(file, group, inputs)) {
        return;
    }
    vectors_matrix cost = vectors_matrix_read(file, group, "cost");
    const double reg = vectors_number(file, group, "reg");
    char **names = NULL;
    int64_t count = 0;
    vectors_need_same(group, reg > 0.0);
    vectors_need(cps_h5_list(file, group, &names, &count));
    for (int64_t i = 0; i < count; i++) {
        const int64_t iterations = vectors_ranks_of(names[i], "plan_");
        if (iterations > 0 && iterations <= MOST_ITERATIONS) {
            check_iterations(file, group, &cost, reg, iterations);
        }
    }
    cps_strings_destroy(names, count);
    if (vectors_has(file, group, more)) {
        check_transport_gradient(file, group, &cost, reg);
    }
    free(cost.values);
}

/* ---- matching ---- */

static void check_matches(cps_h5 *file) {
    static const char *const all[] = {"keywords", "captions", "mask", NULL};
    if (!vectors_has(file, "match", all)) {
        return;
    }
    int64_t keyword_count = 0, caption_count = 0;
    char **keywords = vectors_strings(file, "match/keywords", &keyword_count);
    char **captions = vectors_strings(file, "match/captions", &caption_count);
    int64_t *mask = calloc((size_t)(keyword_count * caption_count) + 1, sizeof *mask);
    if (mask == NULL) {
        vectors_unusable("out of memory for the matches of %lld captions",
                         (long long)caption_count);
    }
    for (int64_t i = 0; i < caption_count * keyword_count; i++) {
        mask[i] = sclip_matches(captions[i / keyword_count], keywords[i % keyword_count]);
    }
    vectors_expect_i64(file, "match/mask", mask, caption_count * keyword_count);
    free(mask);
    cps_strings_destroy(keywords, keyword_count);
    cps_strings_destroy(captions, caption_count);
}

/* ---- ranks<W>, in W ranks ---- */

/* Appends what rank `rank` has of `name`. */
static void append_rows(cps_h5 *file, const char *group, int64_t rank, const char *name,
                        vectors_matrix *all, int64_t *first_out) {
    char *in = cps_format("%s/in/rank%lld", group, (long long)rank);
    vectors_matrix own = vectors_matrix_read(file, in, name);
    vectors_need_same(in, all->rows == 0 || all->width == own.width);
    *first_out = all->rows;
    const size_t there = (size_t)(all->rows * own.width), more = (size_t)(own.rows * own.width);
    all->values = realloc(all->values, (there + more) * sizeof *all->values);
    if (all->values == NULL) {
        vectors_unusable("out of memory for the rows of '%s'", in);
    }
    memcpy(all->values + there, own.values, more * sizeof *own.values);
    all->rows += own.rows;
    all->width = own.width;
    free(own.values);
    free(in);
}

/* Where each rank's rows begin: pairs and queries. */
typedef struct rank_rows {
    int64_t pairs[VECTORS_MOST_RANKS + 1], queries[VECTORS_MOST_RANKS + 1];
} rank_rows;

static loss_case read_ranks(cps_h5 *file, const char *group, int64_t ranks, rank_rows *first) {
    loss_case c = {.file = file, .group = cps_format("%s", group)};
    char *in = cps_format("%s/in", group);
    int64_t unused = 0;
    c.keyword = vectors_matrix_read(file, in, "keyword");
    c.scale = vectors_number(file, in, "logit_scale");
    c.log_scale = log(c.scale);
    free(in);
    for (int64_t r = 0; r < ranks; r++) {
        append_rows(file, group, r, "image", &c.image, &first->pairs[r]);
        append_rows(file, group, r, "text", &c.text, &unused);
        append_rows(file, group, r, "query", &c.query, &first->queries[r]);
        append_rows(file, group, r, "keyword_mask", &c.mask, &unused);
    }
    first->pairs[ranks] = c.image.rows;
    first->queries[ranks] = c.query.rows;
    finish_case(&c);
    return c;
}

/* Rows first .. last-1 of a gradient, times `factor`, and of the same by another way. */
static void expect_rows(cps_h5 *file, const char *group, const char *name, const double *got,
                        const double *also, const int64_t *first, int64_t width, double factor) {
    const int64_t at = first[0] * width, count = (first[1] - first[0]) * width;
    double *scaled = vectors_doubles(count);
    for (int64_t i = 0; i < count; i++) {
        scaled[i] = factor * got[at + i];
    }
    vectors_expect_both(file, group, name, scaled, also == NULL ? NULL : also + at, count,
                        sclip_tolerance());
    free(scaled);
}

/* full: with a differentiable gather every rank is left with the sum of all ranks' gradients.
 * local: with the default gather a rank is left with its own rows'; published_ranks means them. */
static void check_rank(const loss_case *published, const loss_case *exact, const rank_rows *first,
                       int64_t ranks, int64_t rank) {
    const double factor = (double)ranks, d_scale = published->d_log_scale / published->scale;
    const int64_t width = exact->image.width;
    char *local = cps_format("%s/local/rank%lld", exact->group, (long long)rank);
    char *full = cps_format("%s/full/rank%lld", exact->group, (long long)rank);
    const struct {
        const char *name;
        const double *published, *exact;
        const int64_t *first;
    } rows[] = {{"d_image", published->d_image, exact->d_image, &first->pairs[rank]},
                {"d_text", published->d_text, exact->d_text, &first->pairs[rank]},
                {"d_query", published->d_query, exact->d_query, &first->queries[rank]}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        expect_rows(exact->file, local, rows[i].name, rows[i].published, rows[i].exact,
                    rows[i].first, width, factor);
        expect_rows(exact->file, full, rows[i].name, rows[i].exact, NULL, rows[i].first, width,
                    factor);
    }
    vectors_expect_both(exact->file, local, "d_keyword", published->d_keyword, exact->d_keyword,
                        exact->keyword.rows * width, sclip_tolerance());
    sclip_expect(exact->file, local, "d_logit_scale", &d_scale, 1);
    free(local);
    free(full);
}

static bool has_ranks(cps_h5 *file, const char *group, int64_t ranks) {
    static const char *const whole[] = {"in/keyword", "in/logit_scale", NULL};
    static const char *const own[] = {"image", "text", "query", "keyword_mask", NULL};
    bool all = vectors_has(file, group, whole);
    for (int64_t r = 0; r < ranks; r++) {
        char *in = cps_format("%s/in/rank%lld", group, (long long)r);
        all = all && vectors_has(file, in, own);
        free(in);
    }
    return all;
}

static void check_ranks(cps_h5 *file, const char *group) {
    const int64_t ranks = cps_comm_size(vectors_comm());
    if (!has_ranks(file, group, ranks)) {
        return;
    }
    rank_rows first;
    setting s = {"ot-image", "linear", true, true, true, 1};
    objective_result result, averaged;
    vectors_set_floor(1.0);
    loss_case exact = read_ranks(file, group, ranks, &first);
    loss_case published = read_ranks(file, group, ranks, &first);
    cps_status status = run_sclip(&exact, &s, NULL, &result);
    s.ranks = ranks;
    status = status != CPS_OK ? status : run_sclip(&published, &s, NULL, &averaged);
    if (status != CPS_OK) {
        broken(group);
    } else {
        expect_terms(file, group, &result);
        for (int64_t r = 0; r < ranks; r++) {
            check_rank(&published, &exact, &first, ranks, r);
        }
    }
    end_case(&exact);
    end_case(&published);
}

static const char ranks_prefix[] = "ranks";

/* Before MPI begins in this process. */
static void run_ranks(cps_h5 *file) {
    char **groups = NULL;
    int64_t count = 0;
    vectors_need(cps_h5_list(file, "/", &groups, &count));
    for (int64_t i = 0; i < count; i++) {
        const int64_t ranks = vectors_ranks_of(groups[i], ranks_prefix);
        if (ranks > 0) {
            vectors_run_ranks(file, groups[i], ranks);
        }
    }
    cps_strings_destroy(groups, count);
}

int main(int argc, char **argv) {
    vectors_rank_main(argc, argv, check_ranks);
    cps_h5 *file = vectors_open(argc, argv, 1, 1, "FILE");
    vectors_set_floor(1.0);
    run_ranks(file);
    check_matches(file);
    cps_gemm_start();
    vectors_each(file, "loss", check_loss);
    vectors_each(file, "sinkhorn", check_transport);
    sclip_check_evaluation(file);
    sclip_check_splits(file);
    sclip_check_schedules(file);
    vectors_skip_unknown(file, "/");
    vectors_need(cps_h5_close(file));
    return vectors_finish();
}
