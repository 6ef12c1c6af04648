/* bioclip.ce and bioclip.hierarchical_ce through the engine, in double: losses against formulas on
 * heads whose weights are zero, so that biases alone decide; central differences; heads that take
 * several tiles and slabs; memory that does not grow with the number of classes; nothing to learn.
 */
#include "tests/ranks/organisms.h"

#define SGD "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}"
#define JOB(name, options)                                                                         \
    {                                                                                              \
        .objectives = "[{\"name\":\"" name "\",\"options\":{" options "}}]",                       \
        .shards = "organisms.h5", .optimizer = SGD, .steps = 1                                     \
    }

/* One record in 200 has a picture (others show that of the next one that has), and as many species
 * as records: a last tile and a last slab that are not full. */
enum { MANY = 5003, RECORDS = 48, ROWS = 16 };
static void many(int64_t i, organism *out) {
    static char species[] = "species of ....";
    for (int64_t k = 0, rest = i; k < 4; k++, rest /= 26) {
        species[11 + k] = (char)('a' + rest % 26);
    }
    memcpy(out->names, organisms[i % 2], sizeof out->names);
    out->names[6] = species;
    out->picture = i % 200 == 7;
}

/* Nothing below the family is known. */
static void families(int64_t i, organism *out) {
    memcpy(out->names, organisms[i % 2 == 0 ? 2 : 5], sizeof out->names);
}

static void make_data(void) {
    organism_shard("organisms.h5", 0, RECORDS, organism_mixed);
    organism_shard("many.h5", 0, MANY, many);
    organism_shard("families.h5", 0, 20, families);
}

static double value_of(const cps_step_result *result, const char *name) {
    for (int32_t i = 0; i < result->term_count; i++) {
        if (strcmp(result->term_names[i], name) == 0) {
            return result->term_values[i];
        }
    }
    return (double)NAN;
}

/* ---- losses when biases alone decide ---- */

static const char *const rank_names[] = {"kingdom", "phylum", "class",  "order",
                                         "family",  "genus",  "species"};

/* Class id of each organism at a rank: numbers in the order in which the records of organisms.h5
 * show their paths. Gives their count. */
static int32_t class_ids(int32_t rank, int32_t ids[ORGANISMS]) {
    char *paths[NAMED] = {NULL};
    int32_t count = 0;
    for (int32_t i = 0; i < NAMED; i++) {
        char *path = organism_path(organisms[i], rank);
        ids[i] = count;
        for (int32_t c = 0; c < count; c++) {
            ids[i] = strcmp(paths[c], path) == 0 ? c : ids[i];
        }
        if (ids[i] == count) {
            paths[count++] = path;
        } else {
            free(path);
        }
    }
    for (int32_t c = 0; c < count; c++) {
        free(paths[c]);
    }
    return count;
}

/* Zero weights, bias of class c of the head: some number for each. */
static double bias_of(int32_t rank, int32_t c) {
    return 0.3 * sin(1.0 + c + 10.0 * rank);
}

static void set_head(trial *t, const char *prefix, int32_t rank, int32_t count) {
    char name[64];
    snprintf(name, sizeof name, "%s.weight", prefix);
    cps_param *weight = engine_param(t, name);
    ENGINE_CHECK(weight->spec.rank == 2 && weight->spec.shape[0] == count &&
                 weight->spec.shape[1] == 16 && weight->spec.decay);
    cps_real *values = weight->tensor.data;
    double square = 0.0;
    for (int64_t i = 0; i < weight->count; i++) {
        square += (double)(values[i] * values[i]);
        values[i] = 0;
    }
    const double deviation = sqrt(square / (double)weight->count);
    ENGINE_CHECK(deviation > 0.01 && deviation < 0.03);
    snprintf(name, sizeof name, "%s.bias", prefix);
    cps_param *bias = engine_param(t, name);
    ENGINE_CHECK(bias->count == count && !bias->spec.decay);
    values = bias->tensor.data;
    for (int32_t c = 0; c < count; c++) {
        ENGINE_CHECK(values[c] == 0);
        values[c] = (cps_real)bias_of(rank, c);
    }
}

/* How often each organism stands in step 0. */
static void count_rows(trial *t, int64_t counts[ORGANISMS]) {
    memset(counts, 0, ORGANISMS * sizeof *counts);
    for (int64_t grain = 0; grain < t->plan->grains; grain++) {
        const cps_batch *batch = NULL;
        ENGINE_MUST(cps_loader_grain(t->loop->loader, 0, grain, &batch));
        for (int64_t row = 0; row < batch->streams[0].rows; row++) {
            counts[batch->streams[0].sample_ids[row] % ORGANISMS]++;
        }
    }
}

typedef struct expected {
    double loss, accuracy;
    int32_t best; /* class with the largest bias */
} expected;

/* Mean over the rows that count of lse(b) - (1 - e) b_y - e mean(b), and how often y is the largest
 * b. mask: rows without that rank do not count. */
static expected expect_head(int32_t rank, const int64_t rows[ORGANISMS], double e, bool mask) {
    int32_t ids[ORGANISMS];
    const int32_t count = class_ids(rank, ids);
    double total = 0.0, mean = 0.0, valid = 0.0;
    expected out = {0};
    for (int32_t c = 0; c < count; c++) {
        total += exp(bias_of(rank, c));
        mean += bias_of(rank, c) / count;
        out.best = bias_of(rank, c) > bias_of(rank, out.best) ? c : out.best;
    }
    for (int32_t i = 0; i < NAMED; i++) {
        cps_taxon *taxon = organism_taxon(organisms[i]);
        if (!mask || (cps_taxon_known(taxon) >> rank & 1) != 0) {
            const double n = (double)rows[i];
            valid += n;
            out.loss += n * (log(total) - (1.0 - e) * bias_of(rank, ids[i]) - e * mean);
            out.accuracy += ids[i] == out.best ? n : 0.0;
        }
        free(taxon);
    }
    out.loss /= valid;
    out.accuracy /= valid;
    return out;
}

static bool near(double a, double b) {
    return fabs(a - b) < 1e-12 * fmax(1.0, fabs(b));
}

static void check_ce(const engine_job *job, double e) {
    trial t;
    cps_step_result result;
    int32_t ids[ORGANISMS];
    int64_t rows[ORGANISMS];
    ENGINE_MUST(engine_open(job, &t));
    set_head(&t, "head", 6, class_ids(6, ids));
    ENGINE_MUST(engine_begin(&t));
    count_rows(&t, rows);
    ENGINE_CHECK(rows[NAMED] == 0); /* records that name nothing are not there */
    const expected wanted = expect_head(6, rows, e, false);
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(near(value_of(&result, "cross_entropy"), wanted.loss));
    ENGINE_CHECK(near(value_of(&result, "accuracy"), wanted.accuracy));
    engine_close(&t);
}

static void test_flat(void) {
    static const engine_job plain = JOB("bioclip.ce", ""),
                            smooth = JOB("bioclip.ce", "\"label_smoothing\":0.1");
    int32_t ids[ORGANISMS];
    ENGINE_CHECK(class_ids(6, ids) == NAMED); /* the homonyms are two classes */
    check_ce(&plain, 0.0);
    check_ce(&smooth, 0.1);
}

/* The weighted sum of the ranks' losses; ranks of weight 0 have no head. */
static void check_hierarchical(const engine_job *job, const double weights[7], bool mask) {
    trial t;
    cps_step_result result;
    int32_t ids[ORGANISMS];
    int64_t rows[ORGANISMS];
    double total = 0.0;
    char name[64];
    ENGINE_MUST(engine_open(job, &t));
    for (int32_t rank = 0; rank < 7; rank++) {
        snprintf(name, sizeof name, "heads.%s", rank_names[rank]);
        if (weights[rank] > 0.0) {
            set_head(&t, name, rank, class_ids(rank, ids));
        } else {
            snprintf(name, sizeof name, "heads.%s.bias", rank_names[rank]);
            ENGINE_CHECK(cps_params_find(cps_model_params(t.run->model), name) < 0);
        }
    }
    ENGINE_MUST(engine_begin(&t));
    count_rows(&t, rows);
    ENGINE_MUST(engine_step(&t, &result));
    for (int32_t rank = 0; rank < 7; rank++) {
        if (weights[rank] > 0.0) {
            const expected wanted = expect_head(rank, rows, 0.0, mask);
            total += weights[rank] * wanted.loss;
            ENGINE_CHECK(near(value_of(&result, rank_names[rank]), wanted.loss));
            snprintf(name, sizeof name, "%s_accuracy", rank_names[rank]);
            ENGINE_CHECK(near(value_of(&result, name), wanted.accuracy));
        }
    }
    ENGINE_CHECK(near(result.loss, total));
    engine_close(&t);
}

static void test_hierarchical(void) {
    static const engine_job sum = JOB("bioclip.hierarchical_ce", ""),
                            weighted = JOB("bioclip.hierarchical_ce",
                                           "\"weights\":[8,5.65,4,2.82,2,1.41,1]"),
                            masked = JOB("bioclip.hierarchical_ce",
                                         "\"mask_missing\":true,\"weights\":{\"class\":1,"
                                         "\"genus\":3,\"species\":0.5}");
    check_hierarchical(&sum, (const double[7]){1, 1, 1, 1, 1, 1, 1}, false);
    check_hierarchical(&weighted, (const double[7]){8, 5.65, 4, 2.82, 2, 1.41, 1}, false);
    check_hierarchical(&masked, (const double[7]){0, 0, 1, 0, 0, 3, 0.5}, true);
}

/* A logit of the first tile that no other comes near, and one far below in the last: class ids are
 * numbers of records in many.h5. */
static void test_large_logits(void) {
    engine_job job = JOB("bioclip.ce", "\"label_smoothing\":0.1");
    trial t;
    cps_step_result result;
    double total = 0.0, mean = 0.0, loss = 0.0;
    job.shards = "many.h5";
    ENGINE_MUST(engine_open(&job, &t));
    set_head(&t, "head", 0, MANY);
    cps_real *bias = engine_param(&t, "head.bias")->tensor.data;
    bias[17] = 900;
    bias[MANY - 2] = -900;
    for (int64_t c = 0; c < MANY; c++) {
        total += exp((double)bias[c] - 900.0);
        mean += (double)bias[c] / MANY;
    }
    ENGINE_MUST(engine_begin(&t));
    for (int64_t grain = 0; grain < t.plan->grains; grain++) {
        const cps_batch *batch = NULL;
        ENGINE_MUST(cps_loader_grain(t.loop->loader, 0, grain, &batch));
        for (int64_t row = 0; row < batch->streams[0].rows; row++) {
            const uint64_t id = batch->streams[0].sample_ids[row];
            ENGINE_CHECK(id != 17);
            loss += (900.0 + log(total) - 0.9 * (double)bias[id] - 0.1 * mean) / ROWS;
        }
    }
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(near(value_of(&result, "cross_entropy"), loss));
    ENGINE_CHECK(value_of(&result, "accuracy") == 0.0);
    engine_close(&t);
}

/* No record has a genus: its head gets nothing, and nothing breaks. */
static void test_nothing_valid(void) {
    engine_job job = JOB("bioclip.hierarchical_ce", "\"mask_missing\":true");
    int64_t count = 0;
    trial t;
    cps_step_result result;
    job.shards = "families.h5";
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(engine_begin(&t));
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(!result.skipped && result.loss > 0.0);
    ENGINE_CHECK(value_of(&result, "genus") == 0.0 && value_of(&result, "genus_accuracy") == 0.0);
    double *values = engine_values(&t, &count);
    for (int64_t i = 0; i < count; i++) {
        ENGINE_CHECK(isfinite(values[i]));
    }
    const cps_param *bias = engine_param(&t, "heads.genus.bias");
    for (int64_t i = 0; i < bias->count; i++) {
        ENGINE_CHECK(((const cps_real *)bias->tensor.data)[i] == 0);
    }
    free(values);
    engine_close(&t);
}

/* ---- gradients ---- */

static void test_differences(void) {
    engine_job jobs[] = {
        JOB("bioclip.ce", ""),
        JOB("bioclip.ce", "\"label_smoothing\":0.2"),
        JOB("bioclip.hierarchical_ce", ""),
        JOB("bioclip.hierarchical_ce",
            "\"mask_missing\":true,\"weights\":{\"kingdom\":2,\"order\":0.5,\"genus\":1}"),
        JOB("bioclip.ce", "\"label_smoothing\":0.1"),
        JOB("bioclip.ce", "\"label_smoothing\":0.1"),
    };
    jobs[4].shards = "many.h5";
    jobs[5].global_batch = jobs[5].grain = 1;
    for (size_t j = 0; j < sizeof jobs / sizeof jobs[0]; j++) {
        ENGINE_CHECK(engine_gradient_holds(&jobs[j]));
    }
}

/* Beside a contrastive loss the heads' part of the gradient is the same, also where grains are
 * recorded twice. */
static void test_composition(void) {
    engine_job both = {.objectives = "[{\"name\":\"bioclip\",\"options\":{\"scope\":\"image\"}},"
                                     "{\"name\":\"bioclip.hierarchical_ce\",\"weight\":0.5,"
                                     "\"options\":{\"mask_missing\":true}}]",
                       .shards = "organisms.h5",
                       .optimizer = SGD,
                       .steps = 1};
    ENGINE_CHECK(engine_gradient_error(&both) < 1e-6);
    both.stage = ", \"activation_budget_mb\":0";
    ENGINE_CHECK(engine_gradient_error(&both) < 1e-6);
}

/* ---- memory ---- */

/* Bytes of a grain's recording and of its backward pass, classes of the head. */
static void memory_of(const char *shard, int64_t *classes, size_t *bytes) {
    engine_job job = JOB("bioclip.ce", "\"label_smoothing\":0.1");
    trial t;
    job.shards = shard;
    ENGINE_MUST(engine_open(&job, &t));
    *classes = engine_param(&t, "head.bias")->count;
    *bytes = t.run->stages[0].memory.grain_bytes + t.run->stages[0].memory.backward_bytes;
    engine_close(&t);
}

static void nobody(int64_t i, organism *out) {
    many(i, out);
    out->picture = false;
}

/* A matrix of logits of 100,003 classes would be 4 rows x 100,003 x 8 bytes = 3.2 MB here. */
static void test_memory(void) {
    enum { HUGE = 100003 };
    int64_t some = 0, most = 0;
    size_t few_bytes = 0, most_bytes = 0;
    organism_shard("huge.h5", 0, HUGE, nobody);
    memory_of("many.h5", &some, &few_bytes);
    memory_of("huge.h5", &most, &most_bytes);
    ENGINE_CHECK(some == MANY && most == HUGE);
    ENGINE_CHECK(most_bytes == few_bytes);
    ENGINE_CHECK(most_bytes < 1000000);
}

/* ---- refusals ---- */

static void test_refusals(void) {
    static const engine_job zero = JOB("bioclip.hierarchical_ce", "\"weights\":[0,0,0,0,0,0,0]"),
                            unknown = JOB("bioclip.hierarchical_ce", "\"weights\":{\"genius\":1}"),
                            smooth = JOB("bioclip.ce", "\"label_smoothing\":1"),
                            nameless = {.objectives = "[{\"name\":\"bioclip.ce\",\"options\":{}}]",
                                        .optimizer = SGD,
                                        .steps = 1};
    engine_refused(&zero, "0 for every rank");
    engine_refused(&unknown, "unknown name 'genius' (did you mean 'genus'?)");
    engine_refused(&smooth, "above the maximum");
    engine_refused(&nameless, "kingdom, phylum, class, order, family, genus, species");
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {{"flat", test_flat},
                                        {"hierarchical", test_hierarchical},
                                        {"large logits", test_large_logits},
                                        {"nothing valid", test_nothing_valid},
                                        {"differences", test_differences},
                                        {"composition", test_composition},
                                        {"memory", test_memory},
                                        {"refusals", test_refusals}};
    engine_start(&argc, &argv);
    make_data();
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
