/* Parts of the objective ABI that clip and sigmoid do not use, on the ranks that are there: what a
 * part must do is checked here, that every number of ranks gives the same bits by abi_same_bits.sh,
 * which names a file for digests to go to. */
#include "tests/ranks/engine.h"

static FILE *record; /* rank 0; NULL: nothing is asked */

static void note(const char *name, uint64_t digest) {
    if (record != NULL) {
        fprintf(record, "%s %016llx\n", name, (unsigned long long)digest);
    }
}

/* Trains; the digest of all parameters goes to the record. */
static void train(const char *name, const engine_job *job, trial *t, cps_step_result *result) {
    *result = (cps_step_result){0};
    ENGINE_MUST(engine_train(job, t, result));
    note(name, engine_digest(t));
}

static double term(const cps_step_result *result, const char *name) {
    for (int32_t i = 0; i < result->term_count; i++) {
        if (strcmp(result->term_names[i], name) == 0) {
            return result->term_values[i];
        }
    }
    fprintf(stderr, "no term '%s'\n", name);
    the_engine.failures++;
    return (double)NAN;
}

/* ---- grain losses ---- */

/* 41 records in steps of 16 with the tail kept: 9 in the last one, in grains of 4, 4, 1. */
static void test_kept_tail(void) {
    static const engine_job job = {.objectives =
                                       "[{\"name\":\"ce\",\"plugin\":\"%s\",\"options\":{}}]",
                                   .plugin = "grains",
                                   .stage = ", \"tail\":\"keep\"",
                                   .steps = 7};
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_CHECK(t.plan->steps_per_epoch == 3);
    ENGINE_MUST(engine_begin(&t));
    double total = 0.0, labelled = 0.0;
    while (t.done < 3) {
        ENGINE_MUST(engine_step(&t, &result));
        ENGINE_CHECK(!result.skipped && result.loss > 0.0 && result.loss < 6.0);
        total += term(&result, "characters");
        labelled += result.loss;
    }
    ENGINE_CHECK(total > 41 * 10.0 && total < 41 * 60.0); /* every caption once */
    ENGINE_CHECK(isfinite(labelled));
    note("kept_tail", engine_digest(&t));
    engine_close(&t);
}

/* Classes of a text field, in first-seen order. */
static void test_field_classes(void) {
    static const engine_job job = {
        .objectives = "[{\"name\":\"ce\",\"plugin\":\"%s\",\"options\":{\"key\":\"mark\"}}]",
        .plugin = "grains"};
    trial t;
    cps_step_result result;
    train("field_classes", &job, &t, &result);
    ENGINE_CHECK(engine_param(&t, "head.bias")->count == 5);
    engine_close(&t);
}

/* A parameter that is frozen in the first epoch (of two steps) moves from the third step on, as if
 * that were its first. */
static void test_frozen_steps(void) {
    static const engine_job job = {
        .objectives = "[{\"name\":\"ce\",\"plugin\":\"%s\",\"options\":{\"frozen\":1}}]",
        .plugin = "grains",
        .optimizer = "{\"kind\":\"adamw\",\"lr\":0.01,\"weight_decay\":0.5}",
        .steps = 4};
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_CHECK(t.plan->steps_per_epoch == 2);
    ENGINE_MUST(engine_begin(&t));
    const cps_param *bias = engine_param(&t, "head.bias"),
                    *weight = engine_param(&t, "head.weight");
    while (t.done < 4) {
        const bool frozen = t.done < 2;
        const double before = (double)*(const cps_real *)bias->tensor.data;
        ENGINE_MUST(engine_step(&t, &result));
        ENGINE_CHECK((before == (double)*(const cps_real *)bias->tensor.data) == frozen);
        ENGINE_CHECK(bias->updates == (frozen ? 0 : t.done - 2) && weight->updates == t.done);
    }
    note("frozen_steps", engine_digest(&t));
    engine_close(&t);
}

/* ---- moving averages ---- */

static void check_average(trial *t, const char *source, const char *average, const double *before) {
    const cps_param *from = engine_param(t, source), *to = engine_param(t, average);
    double most = 0.0;
    for (int64_t i = 0; i < to->count; i++) {
        const double wanted =
            0.75 * before[i] + 0.25 * (double)((const cps_real *)from->tensor.data)[i];
        most = fmax(most, fabs(wanted - (double)((const cps_real *)to->tensor.data)[i]));
    }
    ENGINE_CHECK(most < 1e-6);
}

static void test_ema(void) {
    static const engine_job job = {.objectives =
                                       "[{\"name\":\"ema\",\"plugin\":\"%s\",\"options\":{}}]",
                                   .plugin = "grains",
                                   .steps = 4};
    static const char *const names[][2] = {{"ssl.pos_embed", "ssl.teacher.pos_embed"},
                                           {"ema.centre", "ema.centre_average"}};
    trial t;
    cps_step_result result;
    double before[2][256];
    ENGINE_MUST(engine_open(&job, &t));
    for (int n = 0; n < 2; n++) { /* a copy to begin with */
        const cps_param *from = engine_param(&t, names[n][0]), *to = engine_param(&t, names[n][1]);
        ENGINE_CHECK(from->count <= 256 && memcmp(from->tensor.data, to->tensor.data,
                                                  (size_t)to->count * sizeof(cps_real)) == 0);
        ENGINE_CHECK(!to->learns && from->learns);
    }
    ENGINE_MUST(engine_begin(&t));
    while (t.done < t.plan->steps) {
        for (int n = 0; n < 2; n++) {
            const cps_param *to = engine_param(&t, names[n][1]);
            for (int64_t i = 0; i < to->count; i++) {
                before[n][i] = (double)((const cps_real *)to->tensor.data)[i];
            }
        }
        ENGINE_MUST(engine_step(&t, &result));
        check_average(&t, names[0][0], names[0][1], before[0]);
        check_average(&t, names[1][0], names[1][1], before[1]);
    }
    note("ema", engine_digest(&t));
    engine_close(&t);
}

/* ---- buffers ---- */

/* Kept recordings, replayed ones: the same bits, so the replay accumulates nothing. */
static void test_buffer(void) {
    static const engine_job kept = {.objectives =
                                        "[{\"name\":\"buffer\",\"plugin\":\"%s\",\"options\":{}}]",
                                    .plugin = "grains",
                                    .stage = ", \"activation_budget_mb\":-1",
                                    .steps = 3};
    static const engine_job replayed = {
        .objectives = "[{\"name\":\"buffer\",\"plugin\":\"%s\",\"options\":{}}]",
        .plugin = "grains",
        .stage = ", \"activation_budget_mb\":0",
        .steps = 3};
    trial t;
    cps_step_result result;
    train("buffer", &kept, &t, &result);
    const uint64_t digest = engine_digest(&t);
    ENGINE_CHECK(t.run->stages[0].memory.kept > 0);
    ENGINE_CHECK(term(&result, "reported") == 42.0);
    double size = 0.0;
    for (int64_t i = 0; i < 8; i++) {
        size += fabs((double)((const cps_real *)engine_param(&t, "buffer.mean")->tensor.data)[i]);
    }
    ENGINE_CHECK(size > 0.0);
    engine_close(&t);
    train("buffer_replayed", &replayed, &t, &result);
    ENGINE_CHECK(t.run->stages[0].memory.kept == 0);
    ENGINE_CHECK(engine_digest(&t) == digest);
    engine_close(&t);
}

/* A step that is skipped moves nothing: no parameter, no buffer, no average. */
static void test_skipped_step(void) {
    static const engine_job jobs[] = {
        {.objectives = "[{\"name\":\"buffer\",\"plugin\":\"%s\",\"options\":{\"nan_step\":1}}]",
         .plugin = "grains",
         .steps = 3},
        {.objectives = "[{\"name\":\"ce\",\"plugin\":\"%s\",\"options\":{\"nan_step\":1}},{"
                       "\"name\":\"ema\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "grains",
         .steps = 3},
    };
    for (int j = 0; j < 2; j++) {
        trial t;
        cps_step_result result;
        ENGINE_MUST(engine_open(&jobs[j], &t));
        ENGINE_MUST(engine_begin(&t));
        ENGINE_MUST(engine_step(&t, &result));
        ENGINE_CHECK(!result.skipped);
        const uint64_t before = engine_digest(&t);
        ENGINE_MUST(engine_step(&t, &result));
        ENGINE_CHECK(result.skipped && result.norms.bad_name[0] != '\0');
        ENGINE_CHECK(engine_digest(&t) == before);
        ENGINE_MUST(engine_step(&t, &result));
        ENGINE_CHECK(!result.skipped && engine_digest(&t) != before);
        note(j == 0 ? "skip_buffer" : "skip_grains", engine_digest(&t));
        engine_close(&t);
    }
}

/* ---- the whole batch ---- */

static void test_batch_losses(void) {
    static const engine_job jobs[] = {
        {.objectives = "[{\"name\":\"replicated\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "batch",
         .steps = 3},
        {.objectives = "[{\"name\":\"fixed\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "batch",
         .steps = 3},
        {.objectives = "[{\"name\":\"clip\",\"options\":{}}]", .steps = 3},
        {.objectives = "[{\"name\":\"sigmoid\",\"options\":{}}]", .steps = 3},
        {.objectives = "[{\"name\":\"fixed\",\"plugin\":\"%s\",\"options\":{}}]",
         .plugin = "batch",
         .steps = 2,
         .global_batch = 20,
         .grain = 2,
         .parts = 6,
         .stage = ", \"activation_budget_mb\":0"},
    };
    static const char *const names[] = {"replicated", "fixed", "clip", "sigmoid",
                                        "fixed_ten_grains"};
    for (int j = 0; j < 5; j++) {
        trial t;
        cps_step_result result;
        train(names[j], &jobs[j], &t, &result);
        ENGINE_CHECK(!result.skipped && isfinite(result.loss) && result.norms.grad_norm > 0.0);
        engine_close(&t);
    }
}

/* Equal views are computed once; a head beside contrastive losses stays on the grains' recordings.
 */
static void test_composition(void) {
    static const engine_job job = {
        .objectives = "[{\"name\":\"clip\",\"weight\":1,\"options\":{}},{\"name\":\"replicated\","
                      "\"plugin\":\"%s\",\"weight\":0.5,\"options\":{}}]",
        .plugin = "batch",
        .steps = 3};
    static const engine_job mixed = {
        .objectives = "[{\"name\":\"clip\",\"weight\":1,\"options\":{}},{\"name\":\"ce\","
                      "\"plugin\":\"%s\",\"weight\":2,\"options\":{}}]",
        .plugin = "grains",
        .steps = 3};
    trial t;
    cps_step_result result;
    train("composition", &job, &t, &result);
    ENGINE_CHECK(t.plan->view_count == 2 && t.plan->call_count == 2);
    ENGINE_CHECK(fabs(result.loss - term(&result, "clip.contrastive") -
                      0.5 * term(&result, "replicated.contrastive")) < 1e-5);
    ENGINE_CHECK(fabs(term(&result, "clip.contrastive") - term(&result, "replicated.contrastive")) <
                 1e-4);
    engine_close(&t);
    train("composition_mixed", &mixed, &t, &result);
    ENGINE_CHECK(fabs(result.loss - term(&result, "clip.contrastive") -
                      2.0 * term(&result, "ce.ce")) < 1e-5);
    engine_close(&t);
}

static void test_own_operation(void) {
    static const engine_job own = {.objectives =
                                       "[{\"name\":\"square\",\"plugin\":\"%s\",\"options\":{}}]",
                                   .plugin = "grains"};
    static const engine_job builtin = {
        .objectives = "[{\"name\":\"builtin\",\"plugin\":\"%s\",\"options\":{}}]",
        .plugin = "grains"};
    trial a, b;
    cps_step_result result;
    int64_t count = 0;
    train("own_operation", &own, &a, &result);
    double *of_own = engine_values(&a, &count);
    train("builtin", &builtin, &b, &result);
    double *of_builtin = engine_values(&b, &count);
    ENGINE_CHECK(engine_difference(of_own, of_builtin, count) < 1e-6);
    free(of_own);
    free(of_builtin);
    engine_close(&a);
    engine_close(&b);
}

/* ---- fit ---- */

/* Every record's features are there, whole grains of 64 and a short one; a second opening reads
 * them back bit for bit. */
static uint64_t frozen_digest(trial *t, int64_t *bad_out) {
    uint64_t sums[4];
    *bad_out = 0;
    for (int32_t v = 0; v < 2; v++) {
        const cps_frozen_rows rows = cps_frozen_view(t->plan->frozen, v);
        sums[2 * v] =
            cps_hash64(rows.values, (size_t)(rows.records * rows.width) * sizeof(cps_real));
        sums[2 * v + 1] = cps_hash64(rows.valid, (size_t)rows.records);
        for (int64_t i = 0; i < rows.records; i++) {
            *bad_out += !rows.valid[i];
        }
    }
    return cps_hash64(sums, sizeof sums);
}

/* Files of the cache, rank 0. */
static int64_t cache_files(const trial *t, char ***paths_out) {
    char pattern[400];
    int64_t count = 0;
    snprintf(pattern, sizeof pattern, "%s/cache/*/rows-*.h5", t->runs);
    *paths_out = NULL;
    return cps_glob(pattern, paths_out, &count) == CPS_OK ? count : 0;
}

/* Rank 0: digest of all bytes of the cache. */
static uint64_t cache_digest(const trial *t) {
    char **paths = NULL, *bytes = NULL;
    size_t length = 0;
    const int64_t count = cache_files(t, &paths);
    uint64_t digest = (uint64_t)count;
    for (int64_t i = 0; i < count; i++) {
        ENGINE_MUST(cps_file_read(paths[i], 1 << 24, &bytes, &length));
        digest = 31 * digest + cps_hash64(bytes, length);
        free(bytes);
    }
    cps_strings_destroy(paths, count);
    return digest;
}

/* Rank 0: loses the first file, damages a feature in the second. */
static void harm_cache(const trial *t) {
    char **paths = NULL, *bytes = NULL;
    size_t length = 0;
    const int64_t count = cache_files(t, &paths);
    ENGINE_CHECK(count >= 2);
    ENGINE_CHECK(unlink(paths[0]) == 0);
    ENGINE_MUST(cps_file_read(paths[1], 1 << 24, &bytes, &length));
    long long first = 0;
    char *found = NULL;
    ENGINE_CHECK(sscanf(strrchr(paths[1], '/'), "/rows-%lld-", &first) == 1);
    for (int32_t v = 0; v < 2 && found == NULL; v++) { /* its first row, of one view or the other */
        const cps_frozen_rows rows = cps_frozen_view(t->plan->frozen, v);
        found = memmem(bytes, length, rows.values + first * rows.width, sizeof(cps_real));
    }
    ENGINE_CHECK(found != NULL);
    if (found != NULL) {
        found[1] = (char)(found[1] ^ 4);
        ENGINE_MUST(cps_file_write_atomic(paths[1], bytes, length));
    }
    free(bytes);
    cps_strings_destroy(paths, count);
}

static const char ridge[] = "[{\"name\":\"ridge\",\"plugin\":\"%s\",\"options\":{\"lambda\":0.3}}]";

static void test_cache(void) {
    static const engine_job job = {
        .objectives = ridge, .plugin = "ridge", .shards = "*.h5", .steps = -1};
    const bool root = cps_comm_rank(the_engine.comm) == 0;
    uint64_t digests[4], files[4] = {0};
    for (int i = 0; i < 4; i++) {
        trial t;
        int64_t bad = 0;
        ENGINE_MUST(engine_open(&job, &t));
        ENGINE_MUST(engine_frozen(&t));
        digests[i] = frozen_digest(&t, &bad);
        ENGINE_CHECK(bad == 2 * 15);
        cps_comm_barrier(the_engine.comm, "cache");
        if (root) {
            files[i] = cache_digest(&t);
        }
        if (root && i == 1) {
            harm_cache(&t);
            ENGINE_CHECK(cache_digest(&t) != files[1]);
        }
        cps_comm_barrier(the_engine.comm, "cache");
        engine_close(&t);
    }
    ENGINE_CHECK(digests[0] == digests[1] && digests[1] == digests[2] && digests[2] == digests[3]);
    ENGINE_CHECK(files[0] == files[1] && files[1] == files[2] && files[2] == files[3]);
    note("features", digests[0]);
}

/* The fit against normal equations solved here, in double, by Gaussian elimination. */
static void check_ridge(trial *t, double lambda) {
    enum { N = 12, M = 8 };
    double mean[N + M] = {0}, a[N][N + M] = {{0}}, error = 0.0;
    const cps_frozen_rows x = cps_frozen_view(t->plan->frozen, 0),
                          y = cps_frozen_view(t->plan->frozen, 1);
    int64_t total = 0;
    ENGINE_CHECK(x.width == N && y.width == M);
    for (int64_t i = 0; i < x.records; i++) {
        total += x.valid[i];
        for (int c = 0; c < N + M && x.valid[i]; c++) {
            mean[c] += (double)(c < N ? x.values[i * N + c] : y.values[i * M + c - N]);
        }
    }
    for (int c = 0; c < N + M; c++) {
        mean[c] = (double)(cps_real)(mean[c] / (double)total);
    }
    for (int64_t i = 0; i < x.records; i++) {
        for (int r = 0; r < N && x.valid[i]; r++) {
            for (int c = 0; c < N + M; c++) {
                const double value =
                    (double)(c < N ? x.values[i * N + c] : y.values[i * M + c - N]);
                a[r][c] += ((double)x.values[i * N + r] - mean[r]) * (value - mean[c]);
            }
        }
    }
    for (int k = 0; k < N; k++) {
        a[k][k] += lambda;
    }
    for (int k = 0; k < N; k++) {
        for (int r = 0; r < N; r++) {
            const double factor = a[r][k] / a[k][k];
            for (int c = 0; c < N + M && r != k; c++) {
                a[r][c] -= factor * a[k][c];
            }
        }
    }
    const cps_real *weight = engine_param(t, "ridge.weight")->tensor.data,
                   *bias = engine_param(t, "ridge.bias")->tensor.data;
    double most = 0.0;
    for (int r = 0; r < M; r++) {
        double offset = mean[N + r];
        for (int c = 0; c < N; c++) {
            const double wanted = a[c][N + r] / a[c][c];
            most = fmax(most, fabs(wanted - (double)weight[r * N + c]));
            offset -= wanted * mean[c];
        }
        most = fmax(most, fabs(offset - (double)bias[r]));
    }
    ENGINE_CHECK(most < 1e-5);
    for (int64_t i = 0; i < x.records; i++) {
        for (int r = 0; r < M && x.valid[i]; r++) {
            double gap = (double)bias[r] - (double)y.values[i * M + r];
            for (int c = 0; c < N; c++) {
                gap += (double)weight[r * N + c] * (double)x.values[i * N + c];
            }
            error += gap * gap;
        }
    }
    const double told = (double)*(const cps_real *)engine_param(t, "ridge.mean")
                            ->tensor.data; /* finish put it there */
    ENGINE_CHECK(fabs(error / (double)(total * M) - told) < 1e-5 * told);
}

static void test_ridge(void) {
    static const engine_job job = {
        .objectives = ridge, .plugin = "ridge", .shards = "*.h5", .steps = -1};
    trial t;
    cps_step_result result;
    train("ridge", &job, &t, &result);
    check_ridge(&t, 0.3);
    engine_close(&t);
}

/* Several blocks: the canonical tree over them. */
static void test_many_blocks(void) {
    static const engine_job job = {
        .objectives = ridge, .plugin = "ridge", .shards = "many.h5", .steps = -1};
    trial t;
    cps_step_result result;
    if (cps_comm_rank(the_engine.comm) == 0) {
        engine_shard("many.h5", 1000, 5 * 1024 + 77, 0);
    }
    cps_comm_barrier(the_engine.comm, "shards");
    train("many_blocks", &job, &t, &result);
    check_ridge(&t, 0.3);
    engine_close(&t);
}

/* Steps on cached features; bad images take their neighbours' rows. */
static void test_descent(void) {
    static const engine_job job = {.objectives =
                                       "[{\"name\":\"descent\",\"plugin\":\"%s\",\"options\":{}}]",
                                   .plugin = "ridge",
                                   .shards = "bad.h5",
                                   .steps = 20};
    trial t;
    cps_step_result result;
    train("descent", &job, &t, &result);
    ENGINE_CHECK(!result.skipped && isfinite(result.loss));
    ENGINE_CHECK(engine_param(&t, "ridge.weight")->learns &&
                 !engine_param(&t, "visual.proj")->learns);
    engine_close(&t);
}

/* ---- what must be refused ---- */

/* `job` must fail on every rank, saying `words`. */
static void refuse(const engine_job *job, const char *words) {
    trial t;
    cps_step_result result;
    const cps_status status = engine_train(job, &t, &result);
    ENGINE_CHECK(status != CPS_OK);
    if (status == CPS_ERR_PEER) { /* another rank failed: its number is told */
        ENGINE_CHECK(strstr(cps_fail_message(), "rank ") != NULL);
    }
    if (status != CPS_OK && strstr(cps_fail_message(), words) == NULL) {
        fprintf(stderr, "rank %d: '%s' does not say '%s'\n", cps_comm_rank(the_engine.comm),
                cps_fail_message(), words);
        the_engine.failures++;
    }
    engine_close(&t);
}

static void test_refusals(void) {
    const bool many = cps_comm_size(the_engine.comm) > 1;
    const engine_job failing = {
        .objectives = "[{\"name\":\"ce\",\"plugin\":\"%s\",\"options\":{\"fail_grain\":3}}]",
        .plugin = "grains"};
    refuse(&failing, "grain 3 was told to fail");
    const engine_job failing_beside_clip = {
        .objectives = "[{\"name\":\"clip\",\"options\":{}},{\"name\":\"ce\",\"plugin\":\"%s\","
                      "\"options\":{\"fail_grain\":0}}]",
        .plugin = "grains"};
    refuse(&failing_beside_clip, "objective 'ce', grain 0");
    const engine_job commit = {
        .objectives = "[{\"name\":\"buffer\",\"plugin\":\"%s\",\"options\":{\"fail_commit\":1}}]",
        .plugin = "grains"};
    refuse(&commit, "commit was told to fail");
    const engine_job differ = {
        .objectives = "[{\"name\":\"ridge\",\"plugin\":\"%s\",\"options\":{\"differ\":1}}]",
        .plugin = "ridge",
        .steps = -1};
    if (many) {
        refuse(&differ, "ridge.bias");
    }
    char path[1100];
    snprintf(path, sizeof path, "%.1000s/tests/plugins/wrong_abi.so", the_engine.build);
    ENGINE_CHECK(cps_plugins_load(the_engine.plugins, path) == CPS_ERR_UNAVAILABLE);
    ENGINE_CHECK(strstr(cps_fail_message(), "ABI") != NULL &&
                 strstr(cps_fail_message(), path) != NULL);
    cps_fail_clear();
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {
        {"kept tail", test_kept_tail},
        {"field classes", test_field_classes},
        {"frozen steps", test_frozen_steps},
        {"ema", test_ema},
        {"buffer", test_buffer},
        {"skipped step", test_skipped_step},
        {"batch losses", test_batch_losses},
        {"composition", test_composition},
        {"own operation", test_own_operation},
        {"cache", test_cache},
        {"ridge", test_ridge},
        {"many blocks", test_many_blocks},
        {"descent", test_descent},
        {"refusals", test_refusals},
    };
    engine_start(&argc, &argv);
    record = cps_comm_rank(the_engine.comm) == 0 && argc > 1 ? fopen(argv[1], "w") : NULL;
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    if (record != NULL) {
        fclose(record);
    }
    return engine_end();
}
