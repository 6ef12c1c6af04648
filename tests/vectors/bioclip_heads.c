/* Losses of grains and learning rates of bioclip.h5: groups ce, hier_ce, lr. Losses and gradients
 * come out of the plugin (objective.h). */
#include "bioclip.h"

#include <stdlib.h>

#include "arrays.h"
#include "base/file.h"
#include "objective.h"
#include "tensor/gemm.h"
#include "train/schedule.h"

static double tolerance(void) {
    return vectors_tolerance(1e-12, 1e-5);
}

static void expect(cps_h5 *file, const char *group, const char *name, const double *got,
                   int64_t count) {
    vectors_expect_in(file, group, name, got, count, tolerance());
}

static void broken(const char *group) {
    vectors_broken(group, tolerance(), "%s", cps_fail_message());
}

/* ---- one head ---- */

enum { RANKS = OBJECTIVE_RANKS, GRAINS = 3 };
static const char *const rank_names[RANKS] = {"kingdom", "phylum", "class",  "order",
                                              "family",  "genus",  "species"};

/* Class ids for the objective: -1 where the label is to be left out. */
static vectors_matrix read_labels(cps_h5 *file, const char *group, const char *name, int64_t width,
                                  const int64_t *class_counts) {
    vectors_matrix m = vectors_matrix_read(file, group, name);
    if (width == 1) {
        m.rows *= m.width;
        m.width = 1;
    }
    vectors_need_same(group, m.width == width);
    for (int64_t i = 0; i < m.rows * m.width; i++) {
        vectors_need_same(group, m.values[i] < (double)class_counts[i % width]);
        m.values[i] = m.values[i] < 0.0 ? -1.0 : m.values[i];
    }
    return m;
}

static int64_t some_grains(int64_t rows) {
    return rows < GRAINS ? rows : GRAINS;
}

/* The head multiplies with the identity: its rows are the logits. */
static void check_head(cps_h5 *file, const char *labels_name, const char *suffix,
                       const char *options) {
    static const char group[] = "ce";
    char *loss = cps_format("loss%s", suffix), *grad = cps_format("grad_logits%s", suffix);
    vectors_matrix logits = vectors_matrix_read(file, group, "logits");
    const int64_t classes = logits.width;
    const int64_t counts[RANKS] = {classes, classes, classes, classes, classes, classes, classes};
    vectors_matrix labels = read_labels(file, group, labels_name, 1, counts);
    vectors_matrix identity = vectors_matrix_new(classes, classes),
                   zero = vectors_matrix_new(1, classes);
    vectors_matrix d_logits = vectors_matrix_new(logits.rows, classes);
    vectors_need_same(group, labels.rows == logits.rows);
    for (int64_t c = 0; c < classes; c++) {
        identity.values[c * classes + c] = 1.0;
    }
    const objective_rows ids = {"classes", labels.rows, 1, labels.values, NULL};
    objective_parameter parameters[] = {{"head.weight", classes * classes, identity.values, NULL},
                                        {"head.bias", classes, zero.values, NULL}};
    const objective_grain_loss wanted = {
        .name = "bioclip.ce",
        .options = options,
        .pooled = {"pooled", logits.rows, classes, logits.values, d_logits.values},
        .annotation_count = 1,
        .annotations = &ids,
        .parameters = parameters,
        .parameter_count = 2,
        .grains = some_grains(logits.rows),
        .class_counts = counts};
    objective_result result;
    if (objective_run_grain_loss(&wanted, &result) != CPS_OK) {
        broken(group);
    } else {
        expect(file, group, loss, &result.loss, 1);
        expect(file, group, grad, d_logits.values, d_logits.rows * classes);
    }
    free(logits.values);
    free(labels.values);
    free(identity.values);
    free(zero.values);
    free(d_logits.values);
    free(loss);
    free(grad);
}

static void check_heads(cps_h5 *file) {
    static const char *const plain[] = {"logits", "labels", NULL},
                             *const masked[] = {"logits", "labels_masked", NULL},
                             *const smoothed[] = {"logits", "labels", "label_smoothing", NULL};
    if (vectors_has(file, "ce", plain)) {
        check_head(file, "labels", "", "{}");
    }
    if (vectors_has(file, "ce", masked)) {
        check_head(file, "labels_masked", "_masked", "{}");
    }
    if (vectors_has(file, "ce", smoothed)) {
        char *options = cps_format("{\"label_smoothing\":%.17g}",
                                   vectors_number(file, "ce", "label_smoothing"));
        check_head(file, "labels", "_smoothed", options);
        free(options);
    }
}

/* Seven heads over one image's rows. */
typedef struct hierarchy {
    vectors_matrix features, labels, missing;
    int64_t class_counts[RANKS];
    vectors_matrix weight[RANKS], bias[RANKS], d_weight[RANKS], d_bias[RANKS];
    vectors_matrix d_features;
    char *names[2 * RANKS];
    objective_parameter parameters[2 * RANKS];
    objective_result result;
} hierarchy;

static vectors_matrix read_ranked(cps_h5 *file, const char *group, const char *name, int rank) {
    char *numbered = cps_format("%s_%d", name, rank);
    vectors_matrix m = vectors_matrix_read(file, group, numbered);
    free(numbered);
    return m;
}

static hierarchy read_hierarchy(cps_h5 *file, const char *group) {
    hierarchy h = {.features = vectors_matrix_read(file, group, "features"),
                   .missing = vectors_matrix_read(file, group, "missing")};
    vectors_matrix counts = vectors_matrix_read(file, group, "num_classes");
    vectors_need_same(group, counts.rows * counts.width == RANKS);
    for (int k = 0; k < RANKS; k++) {
        h.class_counts[k] = (int64_t)counts.values[k];
        h.weight[k] = read_ranked(file, group, "weight", k);
        h.bias[k] = read_ranked(file, group, "bias", k);
        vectors_need_same(group, h.weight[k].rows == h.class_counts[k] &&
                                     h.weight[k].width == h.features.width &&
                                     h.bias[k].rows * h.bias[k].width == h.class_counts[k]);
        h.d_weight[k] = vectors_matrix_new(h.weight[k].rows, h.weight[k].width);
        h.d_bias[k] = vectors_matrix_new(1, h.class_counts[k]);
        h.names[2 * k] = cps_format("heads.%s.weight", rank_names[k]);
        h.names[2 * k + 1] = cps_format("heads.%s.bias", rank_names[k]);
        h.parameters[2 * k] =
            (objective_parameter){h.names[2 * k], h.weight[k].rows * h.weight[k].width,
                                  h.weight[k].values, h.d_weight[k].values};
        h.parameters[2 * k + 1] = (objective_parameter){h.names[2 * k + 1], h.class_counts[k],
                                                        h.bias[k].values, h.d_bias[k].values};
    }
    h.labels = read_labels(file, group, "labels", RANKS, h.class_counts);
    h.d_features = vectors_matrix_new(h.features.rows, h.features.width);
    vectors_need_same(group, h.labels.rows == h.features.rows && h.missing.rows == h.labels.rows &&
                                 h.missing.width == RANKS);
    free(counts.values);
    return h;
}

static void end_hierarchy(hierarchy *h) {
    for (int k = 0; k < RANKS; k++) {
        free(h->weight[k].values);
        free(h->bias[k].values);
        free(h->d_weight[k].values);
        free(h->d_bias[k].values);
        free(h->names[2 * k]);
        free(h->names[2 * k + 1]);
    }
    free(h->features.values);
    free(h->labels.values);
    free(h->missing.values);
    free(h->d_features.values);
}

static void expect_hierarchy(cps_h5 *file, const char *group, const char *variant,
                             const hierarchy *h) {
    char *front = cps_format("%s/%s", group, variant); /* names continue it with '_' */
    double per_rank[RANKS];
    struct {
        const char *name;
        const double *values;
        int64_t count;
    } of[3 + 2 * RANKS] = {
        {"loss", &h->result.loss, 1},
        {"loss_per_rank", per_rank, RANKS},
        {"grad_features", h->d_features.values, h->d_features.rows * h->d_features.width}};
    char *names[2 * RANKS];
    for (int k = 0; k < RANKS; k++) {
        per_rank[k] = objective_value_of(&h->result, rank_names[k]);
        names[2 * k] = cps_format("grad_weight_%d", k);
        names[2 * k + 1] = cps_format("grad_bias_%d", k);
        of[3 + 2 * k].name = names[2 * k];
        of[3 + 2 * k].values = h->d_weight[k].values;
        of[3 + 2 * k].count = h->d_weight[k].rows * h->d_weight[k].width;
        of[4 + 2 * k].name = names[2 * k + 1];
        of[4 + 2 * k].values = h->d_bias[k].values;
        of[4 + 2 * k].count = h->class_counts[k];
    }
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        char *name = cps_format("%s_%s", variant, of[i].name);
        expect(file, group, name, of[i].values, of[i].count);
        free(name);
    }
    for (int k = 0; k < 2 * RANKS; k++) {
        free(names[k]);
    }
    free(front);
}

static void check_variant(cps_h5 *file, hierarchy *h, const char *variant, const char *options) {
    static const char group[] = "hier_ce";
    const objective_rows ids = {"classes", h->labels.rows, RANKS, h->labels.values, NULL};
    const objective_grain_loss wanted = {.name = "bioclip.hierarchical_ce",
                                         .options = options,
                                         .pooled = {"pooled", h->features.rows, h->features.width,
                                                    h->features.values, h->d_features.values},
                                         .annotation_count = 1,
                                         .annotations = &ids,
                                         .parameters = h->parameters,
                                         .parameter_count = 2 * RANKS,
                                         .grains = some_grains(h->features.rows),
                                         .class_counts = h->class_counts};
    if (objective_run_grain_loss(&wanted, &h->result) != CPS_OK) {
        broken(group);
    } else {
        expect_hierarchy(file, group, variant, h);
    }
}

static bool has_hierarchy(cps_h5 *file) {
    static const char *const inputs[] = {"features", "labels", "missing", "num_classes", NULL};
    bool all = vectors_has(file, "hier_ce", inputs);
    for (int k = 0; k < RANKS; k++) {
        char *weight = cps_format("weight_%d", k), *bias = cps_format("bias_%d", k);
        const char *const own[] = {weight, bias, NULL};
        all = all && vectors_has(file, "hier_ce", own);
        free(weight);
        free(bias);
    }
    return all;
}

static void check_hierarchies(cps_h5 *file) {
    static const char group[] = "hier_ce";
    hierarchy h = read_hierarchy(file, group);
    check_variant(file, &h, "sum", "{}");
    if (cps_h5_has(file, "hier_ce/coeffs_weighted")) {
        vectors_matrix c = vectors_matrix_read(file, group, "coeffs_weighted");
        vectors_need_same(group, c.rows * c.width == RANKS);
        const double *v = c.values;
        char *options = cps_format("{\"weights\":[%.17g,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g]}",
                                   v[0], v[1], v[2], v[3], v[4], v[5], v[6]);
        check_variant(file, &h, "weighted", options);
        free(options);
        free(c.values);
    }
    for (int64_t i = 0; i < h.labels.rows * RANKS; i++) {
        h.labels.values[i] = h.missing.values[i] != 0.0 ? -1.0 : h.labels.values[i];
    }
    check_variant(file, &h, "masked", "{\"mask_missing\":true}");
    end_hierarchy(&h);
}

/* ---- lr ---- */

static void check_rates(cps_h5 *file) {
    static const char group[] = "lr";
    enum { MOST_STEPS = 1 << 24 };
    const double base = vectors_number(file, group, "base_lr");
    const double warmup = vectors_number(file, group, "warmup");
    const double total = vectors_number(file, group, "total_steps");
    vectors_matrix steps = vectors_matrix_read(file, group, "steps");
    const int64_t count = steps.rows * steps.width;
    vectors_need_same(group,
                      total >= 1.0 && total <= MOST_STEPS && warmup >= 0.0 && warmup <= total);
    const cps_schedule schedule = {.kind = CPS_SCHEDULE_COSINE, .warmup_steps = (int64_t)warmup};
    const cps_numbers from = {.count = 1, .values = &base};
    double *table = vectors_doubles((int64_t)total), *lr = vectors_doubles(count);
    vectors_need(cps_schedule_tabulate(&schedule, from, group, (int64_t)total, 0, table));
    for (int64_t i = 0; i < count; i++) {
        vectors_need_same(group, steps.values[i] >= 0.0 && steps.values[i] < total);
        lr[i] = table[(int64_t)steps.values[i]];
    }
    expect(file, group, "lr", lr, count);
    free(table);
    free(lr);
    free(steps.values);
}

/* ---- entry ---- */

void bioclip_heads(cps_h5 *file) {
    static const char *const rates[] = {"base_lr", "warmup", "total_steps", "steps", NULL};
    cps_gemm_start();
    check_heads(file);
    if (has_hierarchy(file)) {
        check_hierarchies(file);
    }
    if (vectors_has(file, "lr", rates)) {
        check_rates(file);
    }
}
