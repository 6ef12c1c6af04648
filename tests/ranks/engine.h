/* A training engine for tests of objectives: tiny shards and a tokenizer in a folder of its own,
 * jobs as JSON text, and a step at a time instead of the whole loop, so that parameters can be
 * looked at in between. A test is one object, so this is a header. All of it is collective: every
 * rank calls alike. What goes wrong here ends the process. */
#ifndef CPS_TESTS_ENGINE_H
#define CPS_TESTS_ENGINE_H

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "base/rng.h"
#include "comm/agree.h"
#include "data/tokenize.h"
#include "image/image.h"
#include "shards/shard.h"
#include "tensor/gemm.h"
#include "train/frozen.h"
#include "train/loop_private.h"
#include "train/step.h"

#define ENGINE_UNUSED __attribute__((unused))

typedef struct engine {
    cps_comm *comm;
    cps_plugins *plugins;
    char folder[256]; /* of the data */
    bool owns_folder;
    char build[1024]; /* of this flavour: plugins/, tests/plugins/ */
    int failures;
} engine;

static engine the_engine;

#define ENGINE_MUST(call)                                                                          \
    do {                                                                                           \
        if ((call) != CPS_OK) {                                                                    \
            fprintf(stderr, "rank %d: %s:%d: %s\n", cps_comm_rank(the_engine.comm), __FILE__,      \
                    __LINE__, cps_fail_message());                                                 \
            exit(70);                                                                              \
        }                                                                                          \
    } while (0)
#define ENGINE_CHECK(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d: %s:%d: %s\n", cps_comm_rank(the_engine.comm), __FILE__,      \
                    __LINE__, #condition);                                                         \
            the_engine.failures++;                                                                 \
        }                                                                                          \
    } while (0)

/* A failure that says more than its condition. */
static ENGINE_UNUSED CPS_PRINTF(1, 2) void engine_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "rank %d: ", cps_comm_rank(the_engine.comm));
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    the_engine.failures++;
}

/* ---- data ---- */

/* Record `i` of a set: 24 x 24 pixels; colour and stripes follow its number. */
static uint8_t *engine_picture(int64_t i, size_t *length_out) {
    enum { SIDE = 24 };
    uint8_t pixels[SIDE * SIDE * 3];
    for (int p = 0; p < SIDE * SIDE; p++) {
        pixels[3 * p] = (uint8_t)(i * 37 + 5 * (p % SIDE));
        pixels[3 * p + 1] = (uint8_t)(i * i * 11 + p / SIDE * 7);
        pixels[3 * p + 2] = (uint8_t)((i % 3) * 90 + (p % (int)(i % 5 + 2) == 0 ? 60 : 0));
    }
    const cps_image image = {.width = SIDE, .height = SIDE, .pixels = pixels};
    uint8_t *bytes = NULL;
    ENGINE_MUST(cps_image_encode_jpeg(&image, 92, &bytes, length_out));
    return bytes;
}

static void engine_text(int64_t i, int64_t way, char text[96]) {
    static const char *const leaves[] = {"oak", "ash", "elm"}, *const marks[] = {"green", "spotted",
                                                                                 "dry", "young",
                                                                                 "torn"};
    snprintf(text, 96, way == 0 ? "a %s leaf, %s" : "the leaf of an %s that is %s and rather long",
             leaves[i % 3], marks[i % 5]);
}

/* damaged_every: records 1, n+1, ... hold half a JPEG; 0: none. */
static void engine_shard(const char *name, int64_t first, int64_t count, int64_t damaged_every) {
    static const char *const classes[] = {"oak", "ash", "elm"}, *const fields[] = {"caption",
                                                                                   "mark"};
    char path[320];
    snprintf(path, sizeof path, "%s/%s", the_engine.folder, name);
    cps_shard_writer *writer = NULL;
    ENGINE_MUST(cps_shard_writer_create(path, fields, 2, classes, 3, "test", &writer));
    for (int64_t i = first; i < first + count; i++) {
        char texts[2][96], mark[16];
        size_t length = 0;
        uint8_t *bytes = engine_picture(i, &length);
        engine_text(i, 0, texts[0]);
        engine_text(i, 1, texts[1]);
        snprintf(mark, sizeof mark, "mark%d", (int)(i % 5));
        const char *const captions[] = {texts[0], texts[1]}, *const marks[] = {mark};
        const cps_record_text text[] = {{"caption", 2, captions}, {"mark", 1, marks}};
        const bool damaged = damaged_every > 0 && i % damaged_every == 1;
        const cps_record record = {.sample_id = 1000 + (uint64_t)i,
                                   .image = bytes,
                                   .image_bytes = damaged ? length / 2 : length,
                                   .label = i % 7 == 6 ? -1 : (int32_t)(i % 3),
                                   .text_field_count = 2,
                                   .texts = text};
        ENGINE_MUST(cps_shard_writer_append(writer, &record));
        free(bytes);
    }
    ENGINE_MUST(cps_shard_writer_finish(writer));
}

static cps_status engine_line(void *context, const char **line_out) {
    static char text[96];
    int64_t *at = context;
    engine_text(*at / 2, *at % 2, text);
    *line_out = *at < 30 ? text : NULL;
    (*at)++;
    return CPS_OK;
}

static void engine_data(void) {
    char path[320];
    int64_t at = 0, vocabulary = 0;
    engine_shard("train.h5", 0, 41, 0);
    engine_shard("extra.h5", 100, 23, 0);
    engine_shard("bad.h5", 200, 150, 10);
    snprintf(path, sizeof path, "%s/merges.txt", the_engine.folder);
    const cps_tokenizer_train_options options = {.vocabulary = 540};
    ENGINE_MUST(cps_tokenizer_train(engine_line, &at, &options, path, &vocabulary));
}

/* ---- start and end ---- */

/* program: .../<flavour>/tests/<...>; its flavour's folder stands before the last "tests". */
static void engine_find_build(const char *program) {
    char *resolved = realpath(program, NULL);
    char *end = NULL;
    for (char *at = resolved; at != NULL && (at = strstr(at, "/tests/")) != NULL; at++) {
        end = at;
    }
    if (end == NULL) {
        fprintf(stderr, "%s: lies in no folder 'tests' of a build\n", program);
        exit(70);
    }
    *end = '\0';
    snprintf(the_engine.build, sizeof the_engine.build, "%s", resolved);
    free(resolved);
}

/* Of rank 0, which made it; also when the program ends early. */
static void engine_remove_folder(void) {
    if (the_engine.owns_folder) {
        char *command = cps_format("rm -rf '%s'", the_engine.folder);
        if (system(command) != 0) {
            fprintf(stderr, "cannot remove %s\n", the_engine.folder);
        }
        free(command);
        the_engine.owns_folder = false;
    }
}

/* `comm` stays the caller's. */
static ENGINE_UNUSED void engine_start_on(cps_comm *comm, const char *program) {
    char folder[320];
    the_engine.comm = comm;
    cps_log_setup(CPS_LOG_ERROR, cps_comm_rank(the_engine.comm), false);
    ENGINE_MUST(cps_pool_start(2));
    cps_gemm_start();
    engine_find_build(program);
    const char *temporary = getenv("TMPDIR");
    snprintf(the_engine.folder, sizeof the_engine.folder, "%.200s/copse-engine-XXXXXX",
             temporary == NULL ? "/tmp" : temporary);
    if (cps_comm_rank(the_engine.comm) == 0) {
        if (mkdtemp(the_engine.folder) == NULL) {
            exit(74);
        }
        the_engine.owns_folder = true;
        atexit(engine_remove_folder);
        engine_data();
    }
    cps_comm_broadcast(the_engine.comm, "folder", the_engine.folder, sizeof the_engine.folder, 0);
    snprintf(folder, sizeof folder, "%.300s/plugins", the_engine.build);
    ENGINE_MUST(cps_plugins_create(folder, cps_host_table(), &the_engine.plugins));
}

static ENGINE_UNUSED void engine_start(int *argc, char ***argv) {
    cps_comm *comm = NULL;
    ENGINE_MUST(cps_comm_start(argc, argv, &comm));
    engine_start_on(comm, (*argv)[0]);
}

typedef struct engine_test {
    const char *name;
    void (*run)(void);
} engine_test;

/* Runs them on all ranks; rank 0 prints the sum. */
static ENGINE_UNUSED void engine_run_tests(const engine_test *tests, size_t count) {
    size_t failed = 0;
    for (size_t i = 0; i < count; i++) {
        const int before = the_engine.failures;
        tests[i].run();
        if (cps_agree_any(the_engine.comm, "test", the_engine.failures > before)) {
            failed++;
            fprintf(stderr, "rank %d: FAILED %s\n", cps_comm_rank(the_engine.comm), tests[i].name);
        }
    }
    if (cps_comm_rank(the_engine.comm) == 0) {
        printf("%zu passed, %zu failed, 0 skipped\n", count - failed, failed);
    }
}

/* All but the ranks themselves. */
static ENGINE_UNUSED void engine_end_data(void) {
    engine_remove_folder();
    cps_plugins_destroy(the_engine.plugins);
    cps_pool_stop();
}

/* Exit status of the program. */
static ENGINE_UNUSED int engine_end(void) {
    const bool failed = cps_agree_any(the_engine.comm, "end", the_engine.failures > 0);
    engine_end_data();
    cps_comm_end(the_engine.comm);
    return failed ? 1 : 0;
}

/* The path of test plugin `name`, loaded; static, until the next call. */
static ENGINE_UNUSED const char *engine_plugin(const char *name) {
    static char path[1100];
    snprintf(path, sizeof path, "%s/tests/plugins/%s.so", the_engine.build, name);
    ENGINE_MUST(cps_plugins_load(the_engine.plugins, path));
    return path;
}

/* ---- jobs ---- */

/* One stage of a job: what differs from the defaults. */
typedef struct engine_job {
    const char *objectives; /* JSON list; every %s in it is the path of `plugin` */
    const char *plugin;     /* test plugin, or NULL */
    const char *stage;     /* further members of the stage, each with a comma in front: ", \"tail\":
                              \"keep\"" */
    const char *shards;    /* of the stream "paired"; NULL: train.h5 */
    const char *optimizer; /* NULL: sgd, lr 0.1, no momentum */
    int64_t steps, global_batch, grain; /* 0: 2 (-1: none), 16, 4 */
    int64_t parts;                      /* 0: 32 */
    double difference;    /* of engine_gradient_error; 0: 1e-4. Smaller where a loss has kinks */
    int64_t context;      /* positions of a text; 0: 16 */
    const char *evaluate; /* JSON list; NULL: none */
    const char *ssl;      /* JSON of the tower "ssl"; NULL: a ViT of one block */
} engine_job;

/* malloc'ed. */
static char *engine_replace(const char *text, const char *path) {
    size_t length = strlen(text) + 1;
    for (const char *at = text; (at = strstr(at, "%s")) != NULL; at += 2) {
        length += strlen(path);
    }
    char *out = calloc(1, length);
    for (const char *at = text; *at != '\0';) {
        if (at[0] == '%' && at[1] == 's') {
            strcat(out, path);
            at += 2;
        } else {
            out[strlen(out)] = *at++;
        }
    }
    return out;
}

static char *engine_job_text(const engine_job *job) {
    const long long context = (long long)(job->context > 0 ? job->context : 16);
    char *objectives =
        engine_replace(job->objectives, job->plugin == NULL ? "" : engine_plugin(job->plugin));
    char *text = cps_format(
        "{\"name\":\"test\",\"seed\":3,\"reproducible\":\"world\",\"precision\":\"fp32\",\"parts\":"
        "%lld,"
        "\"model\":{\"embed_dim\":8,\"image\":{\"image_size\":16,\"patch\":8,\"width\":16,"
        "\"layers\":1,\"heads\":2},"
        "\"text\":{\"width\":16,\"layers\":1,\"heads\":2,\"context\":%lld},"
        "\"towers\":{\"ssl\":%s}},"
        "\"tokenizer\":{\"merges\":\"%s/merges.txt\",\"context\":%lld},"
        "\"data\":{\"paired\":{\"shards\":[\"%s/%s\"]},\"extra\":{\"shards\":[\"%s/extra.h5\"]}},"
        "\"stages\":[{\"name\":\"stage1\",\"objectives\":%s,\"epochs\":0,\"steps\":%lld,\"global_"
        "batch\":%lld,\"grain\":%lld,\"crop\":[0.5,1]%s,"
        "\"optimizer\":%s,\"schedule\":{\"kind\":\"constant\"}}],\"evaluate\":%s,\"checkpoint\":{}"
        "}",
        (long long)(job->parts > 0 ? job->parts : 32), context,
        job->ssl == NULL ? "{\"kind\":\"vit\",\"variant\":\"dino\",\"image_size\":16,\"patch\":8,"
                           "\"width\":12,\"layers\":1,\"heads\":2}"
                         : job->ssl,
        the_engine.folder, context, the_engine.folder,
        job->shards == NULL ? "train.h5" : job->shards, the_engine.folder, objectives,
        (long long)(job->steps == 0  ? 2
                    : job->steps < 0 ? 0
                                     : job->steps),
        (long long)(job->global_batch > 0 ? job->global_batch : 16),
        (long long)(job->grain > 0 ? job->grain : 4), job->stage == NULL ? "" : job->stage,
        job->optimizer == NULL ? "{\"kind\":\"sgd\",\"lr\":0.1,\"momentum\":0}" : job->optimizer,
        job->evaluate == NULL ? "[]" : job->evaluate);
    free(objectives);
    return text;
}

/* ---- a stage at work ---- */

typedef struct trial {
    char *text;
    cps_json *job;
    cps_job_calls calls;
    cps_loop *loop; /* only what fit and steps need */
    cps_run *run;
    cps_stage_plan *plan;
    int64_t done, updates;
    char runs[320];
} trial;

static cps_status engine_stage(void *context, int64_t stage, int64_t total, cps_json **stage_out) {
    (void)total;
    const trial *t = context;
    char *text = cps_json_print(cps_json_at(cps_json_get(t->job, "stages"), stage), false, false);
    const cps_status status = cps_json_parse(text, strlen(text), "stage", stage_out);
    free(text);
    return status;
}

static ENGINE_UNUSED void engine_close(trial *t) {
    if (t->loop != NULL) {
        cps_step_destroy(t->loop->step);
        cps_updater_destroy(t->loop->updater);
        cps_loader_destroy(t->loop->loader);
        cps_frozen_close(t->loop->frozen);
        cps_quarantine_destroy(t->loop->quarantine);
        free(t->loop);
    }
    cps_run_close(t->run);
    cps_json_destroy(t->job);
    free(t->text);
    *t = (trial){0};
}

/* A job as text, malloc'ed (the trial frees it), up to the parameters' first values. */
static ENGINE_UNUSED cps_status engine_open_text(char *text, trial *t) {
    *t = (trial){.text = text, .calls = {.stage = engine_stage}};
    t->calls.context = t;
    ENGINE_MUST(cps_json_parse(t->text, strlen(t->text), "test job", &t->job));
    snprintf(t->runs, sizeof t->runs, "%s/runs", the_engine.folder);
    const cps_run_options options = {.runs = t->runs, .until = -1, .threads = 1};
    CPS_TRY(
        cps_run_open(the_engine.comm, the_engine.plugins, t->job, &t->calls, &options, &t->run));
    t->plan = t->run->stages[0].plan;
    CPS_TRY(cps_run_initialise(t->run));
    t->loop = calloc(1, sizeof *t->loop);
    t->loop->run = t->run;
    return CPS_OK;
}

static ENGINE_UNUSED cps_status engine_open(const engine_job *job, trial *t) {
    return engine_open_text(engine_job_text(job), t);
}

/* Features of frozen views. */
static ENGINE_UNUSED cps_status engine_frozen(trial *t) {
    char folder[400];
    snprintf(folder, sizeof folder, "%s/cache", t->runs);
    const cps_frozen_options options = {.comm = the_engine.comm, .folder = folder, .threads = 1};
    CPS_TRY(cps_frozen_open(&options, t->plan, &t->loop->frozen));
    t->plan->frozen = t->loop->frozen;
    return CPS_OK;
}

/* Machinery of steps. */
static ENGINE_UNUSED cps_status engine_begin(trial *t) {
    cps_run_stage *stage = &t->run->stages[0];
    const cps_updater_options options = {.comm = the_engine.comm,
                                         .params = cps_model_params(t->run->model),
                                         .parts = cps_min_i64(t->plan->grains, t->plan->parts),
                                         .optimizer_kind = t->plan->options.optimizer_kind,
                                         .optimizer = t->plan->options.optimizer,
                                         .lr = stage->lr,
                                         .weight_decay = stage->weight_decay,
                                         .steps = t->plan->steps,
                                         .grad_clip_norm = t->plan->options.grad_clip_norm,
                                         .clip_tensor = t->plan->options.clip_tensor,
                                         .world = true};
    CPS_TRY(cps_updater_create(&options, &t->loop->updater));
    for (int32_t i = 0; i < t->plan->ema_count; i++) {
        CPS_TRY(cps_updater_set_ema(t->loop->updater, t->plan->emas[i].param,
                                    t->plan->emas[i].momentum));
    }
    CPS_TRY(cps_step_create(the_engine.comm, t->plan, &stage->memory, t->loop->updater,
                            &t->loop->step));
    CPS_TRY(cps_run_loader(t->run, 0, &t->loop->loader));
    return cps_loader_seek(t->loop->loader, 0);
}

static ENGINE_UNUSED cps_status engine_step(trial *t, cps_step_result *result) {
    CPS_TRY(cps_step_run(t->loop->step, t->loop->loader, t->done, t->updates, result));
    cps_updater_wait_weights(t->loop->updater);
    t->done++;
    t->updates += !result->skipped;
    return CPS_OK;
}

static ENGINE_UNUSED cps_param *engine_param(trial *t, const char *name) {
    cps_params *params = cps_model_params(t->run->model);
    const int32_t index = cps_params_find(params, name);
    if (index < 0) {
        fprintf(stderr, "no parameter '%s'\n", name);
        exit(70);
    }
    return cps_params_at(params, index);
}

/* All values, in double; free() it. */
static ENGINE_UNUSED double *engine_values(trial *t, int64_t *count_out) {
    cps_params *params = cps_model_params(t->run->model);
    const int64_t count = cps_params_flat_count(params);
    double *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) {
        values[i] = (double)cps_params_flat(params)[i];
    }
    *count_out = count;
    return values;
}

static ENGINE_UNUSED uint64_t engine_digest(trial *t) {
    return cps_params_digest(cps_model_params(t->run->model), "*");
}

/* All of it: features, fit, the stage's steps, finish. `result` is the last step's. */
static ENGINE_UNUSED cps_status engine_train(const engine_job *job, trial *t,
                                             cps_step_result *result) {
    bool ends = false;
    CPS_TRY(engine_open(job, t));
    CPS_TRY(engine_frozen(t));
    if (t->plan->has_fit) {
        CPS_TRY(cps_loop_fit(t->loop, false, &ends));
    }
    if (t->plan->steps > 0 && !ends) {
        CPS_TRY(engine_begin(t));
        while (t->done < t->plan->steps) {
            CPS_TRY(engine_step(t, result));
        }
    }
    return t->plan->has_finish ? cps_loop_fit(t->loop, true, &ends) : CPS_OK;
}

/* The loss of step 0, after a fit, with all parameters at `values` (NULL: as they begin), and what
 * one step of SGD without momentum says of its gradient (NULL: not asked; [flat count], 0 where
 * nothing learns). */
static ENGINE_UNUSED double engine_loss(const engine_job *job, const double *values,
                                        double *gradient_out) {
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(job, &t));
    cps_params *params = cps_model_params(t.run->model);
    const int64_t count = cps_params_flat_count(params);
    for (int64_t i = 0; i < count && values != NULL; i++) {
        cps_params_flat(params)[i] = (cps_real)values[i];
    }
    int64_t same = 0;
    double *before = engine_values(&t, &same);
    ENGINE_MUST(engine_frozen(&t));
    if (t.plan->has_fit) {
        bool ends = false;
        ENGINE_MUST(cps_loop_fit(t.loop, false, &ends));
    }
    ENGINE_MUST(engine_begin(&t));
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(!result.skipped);
    for (int32_t p = 0; p < cps_params_count(params) && gradient_out != NULL; p++) {
        const cps_param *param = cps_params_at(params, p);
        for (int64_t i = param->offset; i < param->offset + param->count && param->learns; i++) {
            gradient_out[i] =
                (before[i] - (double)cps_params_flat(params)[i]) / t.run->stages[0].lr[0];
        }
    }
    free(before);
    engine_close(&t);
    return result.loss;
}

/* Relative error of the gradient with all `count` parameters at `values` against central
 * differences over h of the loss along four unit directions: the gradient's own and random ones. */
static ENGINE_UNUSED double engine_gradient_error_at(const engine_job *job, const double *values,
                                                     int64_t count, double h) {
    double *gradient = calloc((size_t)count, sizeof *gradient);
    double *direction = calloc((size_t)count, sizeof *direction);
    double *moved = calloc((size_t)count, sizeof *moved);
    engine_loss(job, values, gradient);
    double most = 0.0, norm = 0.0, learning = 0.0;
    for (int64_t i = 0; i < count; i++) {
        norm += gradient[i] * gradient[i];
        learning += gradient[i] != 0.0;
    }
    for (int d = 0; d < 4; d++) {
        const cps_draw_key key = {.seed = 77, .position = (uint64_t)d};
        double product = 0.0, length = 0.0, losses[4];
        for (int64_t i = 0; i < count; i++) {
            const double random = gradient[i] == 0.0 ? 0.0 : cps_draw_normal(&key, (uint64_t)i);
            direction[i] = d == 0 ? gradient[i] : random;
            product += direction[i] * gradient[i];
            length += direction[i] * direction[i];
        }
        product /= sqrt(length);
        for (int point = 0; point < 4; point++) {
            static const double offsets[] = {1.0, -1.0, 2.0, -2.0};
            for (int64_t i = 0; i < count; i++) {
                moved[i] = values[i] + offsets[point] * h * direction[i] / sqrt(length);
            }
            losses[point] = engine_loss(job, moved, NULL);
        }
        const double slope = (8.0 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12.0 * h);
        const double error = fabs(slope - product);
        most = fmax(most, error / fmax(fabs(product), sqrt(norm / learning)));
    }
    free(direction);
    free(gradient);
    free(moved);
    return most;
}

/* The same at the values that parameters begin with. */
static ENGINE_UNUSED double engine_gradient_error(const engine_job *job) {
    trial t;
    int64_t count = 0;
    ENGINE_MUST(engine_open(job, &t));
    double *values = engine_values(&t, &count);
    engine_close(&t);
    const double h = job->difference > 0 ? job->difference : 1e-4;
    const double error = engine_gradient_error_at(job, values, count, h);
    free(values);
    return error;
}

/* Whether the gradient is within 1e-6 of the differences; else the error is shown. */
static ENGINE_UNUSED bool engine_gradient_holds(const engine_job *job) {
    const double error = engine_gradient_error(job);
    if (!(error < 1e-6)) {
        fprintf(stderr, "%s: gradient off by %g\n", job->objectives, error);
    }
    return error < 1e-6;
}

/* The job must be refused for its options or its data, with `part` in the message. */
static ENGINE_UNUSED void engine_refused(const engine_job *job, const char *part) {
    trial t;
    const cps_status status = engine_open(job, &t);
    const char *message = status == CPS_OK ? "no failure" : cps_fail_message();
    ENGINE_CHECK(status == CPS_ERR_USAGE || status == CPS_ERR_DATA);
    if (strstr(message, part) == NULL) {
        fprintf(stderr, "%s: '%s' lacks '%s'\n", job->objectives, message, part);
        the_engine.failures++;
    }
    engine_close(&t);
}

/* Features of the step's first view (an image) or second (a text) over all grains of step 0, in
 * double [rows, 8]; one rank. Done apart from the step, by the tower alone. */
static ENGINE_UNUSED int64_t engine_features(trial *t, int32_t view, double *out) {
    const cps_stage_view *entry = &t->plan->views[view];
    int64_t rows = 0;
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    ENGINE_MUST(cps_arena_create("features", 1 << 24, true, &arena));
    ENGINE_MUST(cps_tape_create(arena, CPS_TAPE_PLAIN, NULL, &tape));
    for (int64_t grain = 0; grain < t->plan->grains; grain++) {
        const cps_batch *batch = NULL;
        int32_t offsets[65], ends[64];
        cps_tower_output output = {0};
        ENGINE_MUST(cps_loader_grain(t->loop->loader, 0, grain, &batch));
        const cps_input_rows *input = &batch->inputs[entry->input];
        cps_tower_input given = {0};
        if (entry->text) {
            for (int64_t i = 0; i <= input->rows; i++) {
                offsets[i] = input->offsets[i];
            }
            for (int64_t i = 0; i < input->rows; i++) {
                ends[i] = input->offsets[i] + input->ends[i];
            }
            given = (cps_tower_input){.ids = cps_tape_leaf(tape, CPS_I32, 1,
                                                           &(int64_t){offsets[input->rows]},
                                                           (void *)(uintptr_t)input->ids, NULL, -1),
                                      .count = input->rows,
                                      .offsets = offsets,
                                      .ends = ends};
        } else {
            const int64_t shape[4] = {input->rows, 3, input->size, input->size};
            given.image = cps_tape_tensor(tape, CPS_REAL, 4, shape);
            cps_batch_planes(t->loop->loader, batch, entry->input, given.image->data);
        }
        ENGINE_MUST(cps_tower_forward(entry->tower, tape, &given, CPS_OUT_FEATURE, &output));
        for (int64_t i = 0; i < input->rows * 8; i++) {
            out[rows * 8 + i] = (double)((const cps_real *)output.feature->data)[i];
        }
        rows += input->rows;
        cps_tape_reset(tape);
    }
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    return rows;
}

/* Largest difference of two arrays over the largest value of the second (1e-30 at least). */
static ENGINE_UNUSED double engine_difference(const double *a, const double *b, int64_t count) {
    double most = 0.0, size = 1e-30;
    for (int64_t i = 0; i < count; i++) {
        most = fmax(most, fabs(a[i] - b[i]));
        size = fmax(size, fabs(b[i]));
    }
    return most / size;
}

#endif
