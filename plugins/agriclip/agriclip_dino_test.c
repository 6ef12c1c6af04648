/* agriclip.dino through the engine, in double: central differences of whole gradients, what a step
 * does to teacher, centre and frozen layers, which crops who sees, memory, tables, refusals. */
#include "tests/ranks/engine.h"
#include "train/validation.h"

#define SMALL "\"K\":24,\"hidden\":10,\"bottleneck\":6"
#define SGD "{\"kind\":\"sgd\",\"lr\":0.01,\"momentum\":0}"
#define VIT                                                                                        \
    "{\"kind\":\"vit\",\"variant\":\"dino\",\"image_size\":16,\"patch\":4,\"width\":12,"           \
    "\"layers\":2,\"heads\":2}"
#define RESNET "{\"kind\":\"resnet\",\"image_size\":24,\"width\":64,\"layers\":14}"
#define JOB(tower, options)                                                                        \
    {                                                                                              \
        .objectives = "[{\"name\":\"agriclip.dino\",\"options\":{" SMALL options "}}]",            \
        .ssl = tower, .optimizer = SGD, .steps = 1, .global_batch = 8                              \
    }

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-12 * fmax(1.0, fabs(b));
}

static double value_of(const cps_step_result *result, const char *name) {
    for (int32_t i = 0; i < result->term_count; i++) {
        if (strcmp(result->term_names[i], name) == 0) {
            return result->term_values[i];
        }
    }
    return (double)NAN;
}

/* A parameter's values as they are, malloc'ed. */
static double *copy_of(trial *t, const char *name) {
    const cps_param *param = engine_param(t, name);
    double *values = malloc((size_t)param->count * sizeof *values);
    for (int64_t i = 0; i < param->count; i++) {
        values[i] = (double)((const cps_real *)param->tensor.data)[i];
    }
    return values;
}

static bool is_as(trial *t, const char *name, const double *values) {
    const cps_param *param = engine_param(t, name);
    for (int64_t i = 0; i < param->count; i++) {
        if ((double)((const cps_real *)param->tensor.data)[i] != values[i]) {
            return false;
        }
    }
    return true;
}

/* ---- gradients ---- */

/* The head's first values make a bottleneck that is nearly nothing, whose direction turns with the
 * smallest change: differences are taken where its layers are as large as trained ones. */
static double error_of(const engine_job *job) {
    const double h = 1e-6; /* so small that no ReLU of a resnet turns */
    trial t;
    int64_t count = 0;
    ENGINE_MUST(engine_open(job, &t));
    double *values = engine_values(&t, &count);
    cps_params *params = cps_model_params(t.run->model);
    for (int32_t p = 0; p < cps_params_count(params); p++) {
        const cps_param *param = cps_params_at(params, p);
        for (int64_t i = 0; strstr(param->name, "head.mlp") != NULL && i < param->count; i++) {
            values[param->offset + i] *= 25.0;
        }
    }
    engine_close(&t);
    const double error = engine_gradient_error_at(job, values, count, h);
    free(values);
    return error;
}

static void test_differences(void) {
    static const engine_job jobs[] = {
        JOB(VIT, ",\"local_crops\":0,\"freeze_last_layer\":0"),
        JOB(VIT, ",\"local_crops\":2,\"freeze_last_layer\":0"),
        JOB(VIT, ",\"local_crops\":2"),
        JOB(VIT, ",\"local_crops\":2,\"freeze_last_layer\":0,\"norm_last_layer\":false"),
        JOB(VIT, ",\"local_crops\":2,\"freeze_last_layer\":0,\"use_bn\":true"),
        JOB(VIT, ",\"local_crops\":8,\"freeze_last_layer\":0,\"layers\":1,\"teacher_temp\":0.07"),
        JOB(VIT, ",\"local_crops\":3,\"local_size\":16,\"freeze_last_layer\":0,\"layers\":2"),
        JOB(RESNET, ",\"local_crops\":0,\"freeze_last_layer\":0"),
        JOB(RESNET, ",\"local_crops\":2,\"freeze_last_layer\":0,\"use_bn\":true"),
    };
    for (size_t j = 0; j < sizeof jobs / sizeof jobs[0]; j++) {
        const double error = error_of(&jobs[j]);
        if (!(error < 1e-6)) {
            engine_fail("%s: gradient off by %g", jobs[j].objectives, error);
        }
    }
}

/* Grains are memory, not mathematics, where no statistics are taken. */
static void test_grains(void) {
    engine_job job = JOB(VIT, ",\"local_crops\":2,\"freeze_last_layer\":0");
    double *gradients[2] = {NULL}, losses[2];
    int64_t count = 0;
    trial t;
    ENGINE_MUST(engine_open(&job, &t));
    free(engine_values(&t, &count));
    engine_close(&t);
    for (int g = 0; g < 2; g++) {
        job.grain = g == 0 ? 4 : 2;
        gradients[g] = calloc((size_t)count, sizeof(double));
        losses[g] = engine_loss(&job, NULL, gradients[g]);
    }
    ENGINE_CHECK(near(losses[0], losses[1]));
    ENGINE_CHECK(engine_difference(gradients[1], gradients[0], count) < 1e-10);
    free(gradients[0]);
    free(gradients[1]);
}

/* ---- views ---- */

static int32_t view_named(const trial *t, const char *name) {
    for (int32_t v = 0; v < t->plan->view_count; v++) {
        if (strcmp(t->plan->views[v].view.name, name) == 0) {
            return v;
        }
    }
    return -1;
}

/* One call a resolution, globals first; the teacher's crops are the student's pictures. */
static void test_views(void) {
    const engine_job job = JOB(VIT, ",\"local_crops\":3"),
                     equal = JOB(VIT, ",\"local_crops\":3,\"local_size\":16"),
                     none = JOB(VIT, ",\"local_crops\":0");
    trial t;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_CHECK(t.plan->view_count == 7 && t.plan->call_count == 3 && t.plan->input_count == 5);
    const cps_stage_call *calls = t.plan->calls;
    ENGINE_CHECK(calls[0].view_count == 2 && calls[0].size == 16 &&
                 calls[0].mode == CPS_VIEW_GRADIENT);
    ENGINE_CHECK(calls[1].view_count == 3 && calls[1].size == 8); /* 16 * 96 / 224, in patches */
    ENGINE_CHECK(calls[2].view_count == 2 && calls[2].mode == CPS_VIEW_NO_GRADIENT);
    for (int i = 0; i < 2; i++) {
        char student[32], teacher[32];
        snprintf(student, sizeof student, "global.%d", i);
        snprintf(teacher, sizeof teacher, "teacher.global.%d", i);
        const int32_t s = view_named(&t, student), m = view_named(&t, teacher);
        ENGINE_CHECK(s >= 0 && m >= 0 && t.plan->views[s].input == t.plan->views[m].input);
        ENGINE_CHECK(calls[0].views[i] == s && calls[2].views[i] == m);
    }
    const cps_recipe *second = &t.plan->views[view_named(&t, "global.1")].recipe,
                     *local = &t.plan->views[view_named(&t, "local.2")].recipe;
    ENGINE_CHECK(second->blur == 0.1 && second->solarise == 0.2 && second->scale_min == 0.4);
    ENGINE_CHECK(local->blur == 0.5 && local->solarise == 0.0 && local->scale_max == 0.4);
    ENGINE_CHECK(local->mean[0] == 0.485 && local->hue == 0.1 && local->jitter == 0.8);
    engine_close(&t);
    ENGINE_MUST(engine_open(&equal, &t));
    ENGINE_CHECK(t.plan->call_count == 2 && t.plan->calls[0].view_count == 5 &&
                 t.plan->calls[0].views[0] == view_named(&t, "global.0") &&
                 t.plan->calls[0].views[2] == view_named(&t, "local.0"));
    engine_close(&t);
    ENGINE_MUST(engine_open(&none, &t));
    ENGINE_CHECK(t.plan->view_count == 4 && t.plan->call_count == 2);
    engine_close(&t);
    const engine_job most = JOB(VIT, ",\"local_crops\":32,\"local_size\":16");
    ENGINE_MUST(engine_open(&most, &t));
    ENGINE_CHECK(t.plan->call_count == 2 && t.plan->calls[0].view_count == 34);
    engine_close(&t);
    ENGINE_CHECK(isfinite(engine_loss(&most, NULL, NULL)));
}

/* ---- a step ---- */

/* t <- m t + (1 - m) s of the updated student, for tower and head, g included. */
static void test_teacher(void) {
    static const char *const names[][2] = {
        {"ssl.cls_token", "ssl.teacher.cls_token"},
        {"ssl.blocks.1.mlp.fc1.weight", "ssl.teacher.blocks.1.mlp.fc1.weight"},
        {"ssl.head.mlp.0.bias", "ssl.teacher.head.mlp.0.bias"},
        {"ssl.head.last_layer.weight_g", "ssl.teacher.head.last_layer.weight_g"},
        {"ssl.head.last_layer.weight_v", "ssl.teacher.head.last_layer.weight_v"}};
    const engine_job job = JOB(
        VIT,
        ",\"local_crops\":1,\"momentum\":0.75,\"freeze_last_layer\":0,\"norm_last_layer\":false");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        trial t;
        cps_step_result result;
        ENGINE_MUST(engine_open(&job, &t));
        double *first = copy_of(&t, names[i][0]);
        ENGINE_CHECK(is_as(&t, names[i][1], first)); /* the teacher begins as the student */
        ENGINE_MUST(engine_begin(&t));
        ENGINE_MUST(engine_step(&t, &result));
        ENGINE_CHECK(near(value_of(&result, "momentum"), 0.75));
        const cps_param *student = engine_param(&t, names[i][0]),
                        *teacher = engine_param(&t, names[i][1]);
        ENGINE_CHECK(!is_as(&t, names[i][0], first));
        for (int64_t k = 0; k < student->count; k++) {
            const double now = (double)((const cps_real *)student->tensor.data)[k];
            ENGINE_CHECK(near((double)((const cps_real *)teacher->tensor.data)[k],
                              0.75 * first[k] + 0.25 * now));
        }
        free(first);
        engine_close(&t);
    }
}

/* A momentum of 1 leaves the teacher; its values come from the table else. */
static void test_momentum(void) {
    engine_job still = JOB(VIT, ",\"local_crops\":1,\"momentum\":1"),
               table = JOB(VIT, ",\"local_crops\":1,\"momentum_start\":0.5");
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(&still, &t));
    double *first = copy_of(&t, "ssl.teacher.pos_embed");
    ENGINE_MUST(engine_begin(&t));
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(is_as(&t, "ssl.teacher.pos_embed", first));
    free(first);
    engine_close(&t);
    table.steps = 4;
    ENGINE_MUST(engine_open(&table, &t));
    ENGINE_MUST(engine_begin(&t));
    for (int64_t step = 0; step < 4; step++) {
        ENGINE_MUST(engine_step(&t, &result));
        const double wanted = 1.0 - 0.25 * (1.0 + cos(acos(-1.0) * (double)step / 4.0));
        ENGINE_CHECK(near(value_of(&result, "momentum"), wanted));
    }
    engine_close(&t);
}

/* In frozen epochs (here of 5 steps) the last layer has no gradient: no decay, no moment, no
 * update; the layers below learn through it. */
static void test_freeze(void) {
    engine_job job = JOB(VIT, ",\"local_crops\":1,\"norm_last_layer\":false");
    job.optimizer = "{\"kind\":\"adamw\",\"lr\":0.01,\"weight_decay\":0.1}";
    job.steps = 6;
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_CHECK(t.plan->steps_per_epoch == 5);
    double *v = copy_of(&t, "ssl.head.last_layer.weight_v"),
           *g = copy_of(&t, "ssl.head.last_layer.weight_g"),
           *below = copy_of(&t, "ssl.head.mlp.4.weight");
    ENGINE_MUST(engine_begin(&t));
    for (int64_t step = 0; step < 5; step++) {
        ENGINE_MUST(engine_step(&t, &result));
    }
    ENGINE_CHECK(is_as(&t, "ssl.head.last_layer.weight_v", v));
    ENGINE_CHECK(is_as(&t, "ssl.head.last_layer.weight_g", g));
    ENGINE_CHECK(!is_as(&t, "ssl.head.mlp.4.weight", below));
    ENGINE_CHECK(engine_param(&t, "ssl.head.last_layer.weight_v")->updates == 0);
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(!is_as(&t, "ssl.head.last_layer.weight_v", v));
    ENGINE_CHECK(!is_as(&t, "ssl.head.last_layer.weight_g", g));
    ENGINE_CHECK(engine_param(&t, "ssl.head.last_layer.weight_v")->updates == 1);
    free(v);
    free(g);
    free(below);
    engine_close(&t);
}

/* With norm_last_layer g learns never, and the outputs of the head are cosines: |centre| <= 1. */
static void test_norm_last_layer(void) {
    engine_job job = JOB(VIT, ",\"local_crops\":1,\"freeze_last_layer\":0,\"center_momentum\":0");
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_CHECK(!engine_param(&t, "ssl.head.last_layer.weight_g")->learns &&
                 engine_param(&t, "ssl.head.last_layer.weight_v")->learns);
    ENGINE_MUST(engine_begin(&t));
    ENGINE_MUST(engine_step(&t, &result));
    const cps_param *centre = engine_param(&t, "ssl.head.center");
    double most = 0.0;
    for (int64_t k = 0; k < centre->count; k++) {
        most = fmax(most, fabs((double)((const cps_real *)centre->tensor.data)[k]));
    }
    ENGINE_CHECK(most <= 1.0 && most > 1e-3);
    engine_close(&t);
}

/* The centre after two steps: 0.9 c + 0.1 mean. A centre that keeps nothing shows the means; the
 * teacher stands still and no step moves it. */
static void test_centre(void) {
    engine_job keeps = JOB(VIT, ",\"local_crops\":0,\"momentum\":1"),
               forgets = JOB(VIT, ",\"local_crops\":0,\"momentum\":1,\"center_momentum\":0");
    const engine_job *const jobs[2] = {&forgets, &keeps};
    double means[2][24], centre[24] = {0};
    for (int j = 0; j < 2; j++) {
        engine_job job = *jobs[j];
        trial t;
        cps_step_result result;
        job.steps = 2;
        job.global_batch = 12;
        ENGINE_MUST(engine_open(&job, &t));
        ENGINE_MUST(engine_begin(&t));
        for (int step = 0; step < 2; step++) {
            ENGINE_MUST(engine_step(&t, &result));
            double *now = copy_of(&t, "ssl.head.center");
            for (int k = 0; k < 24; k++) {
                if (j == 0) {
                    means[step][k] = now[k];
                } else {
                    centre[k] = 0.9 * centre[k] + 0.1 * means[step][k];
                    ENGINE_CHECK(near(now[k], centre[k]) && now[k] != 0.0);
                }
            }
            free(now);
        }
        engine_close(&t);
    }
}

/* Entropy and divergence add up to the loss; the temperature is that of the epoch. */
static void test_reports(void) {
    engine_job job =
        JOB(VIT, ",\"local_crops\":2,\"teacher_temp\":0.08,\"warmup_teacher_temp\":0.02,"
                 "\"warmup_teacher_temp_epochs\":3");
    static const double temperatures[] = {0.02, 0.05, 0.08, 0.08};
    job.steps = 8;
    job.global_batch = 20;
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_CHECK(t.plan->steps_per_epoch == 2);
    ENGINE_CHECK(t.plan->options.max_skipped_steps == 0);
    ENGINE_MUST(engine_begin(&t));
    for (int64_t step = 0; step < 8; step++) {
        ENGINE_MUST(engine_step(&t, &result));
        const double entropy = value_of(&result, "teacher_entropy"), kl = value_of(&result, "kl");
        ENGINE_CHECK(entropy > 0.0 && entropy < log(24.0) && kl > 0.0);
        ENGINE_CHECK(near(result.loss, entropy + kl));
        ENGINE_CHECK(near(value_of(&result, "dino"), result.loss));
        ENGINE_CHECK(near(value_of(&result, "teacher_temp"), temperatures[step / 2]));
    }
    engine_close(&t);
}

/* The job's own word on skipped steps, the stage's, the objective's. */
static void test_skips(void) {
    engine_job job = JOB(VIT, ",\"local_crops\":0");
    static const struct {
        const char *stage;
        int64_t wanted;
    } cases[] = {{NULL, 0}, {", \"max_skipped_steps\":3", 3}, {", \"max_skipped_steps\":-1", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        trial t;
        job.stage = cases[i].stage;
        ENGINE_MUST(engine_open(&job, &t));
        ENGINE_CHECK(t.plan->options.max_skipped_steps == cases[i].wanted);
        engine_close(&t);
    }
    const engine_job clip = {.objectives = "[{\"name\":\"clip\",\"options\":{}}]"};
    trial t;
    ENGINE_MUST(engine_open(&clip, &t));
    ENGINE_CHECK(t.plan->options.max_skipped_steps == 10);
    engine_close(&t);
}

/* What the published code decays: all that is not 1-D and does not end in .bias. */
static void test_decay(void) {
    static const char *const towers[] = {VIT, RESNET};
    for (int i = 0; i < 2; i++) {
        const engine_job job = {.objectives = "[{\"name\":\"agriclip.dino\",\"options\":{" SMALL
                                              ",\"use_bn\":true,\"norm_last_layer\":false}}]",
                                .ssl = towers[i],
                                .steps = 1};
        trial t;
        int64_t decayed = 0;
        ENGINE_MUST(engine_open(&job, &t));
        ENGINE_MUST(engine_begin(&t));
        cps_params *params = cps_model_params(t.run->model);
        for (int32_t p = 0; p < cps_params_count(params); p++) {
            const cps_param *param = cps_params_at(params, p);
            const size_t length = strlen(param->name);
            const bool bias = length > 5 && strcmp(param->name + length - 5, ".bias") == 0;
            if (param->learns && strncmp(param->name, "ssl.", 4) == 0) {
                ENGINE_CHECK(param->decays == (param->spec.rank != 1 && !bias));
                decayed += param->decays;
            }
        }
        ENGINE_CHECK(decayed > 8);
        engine_close(&t);
    }
}

/* ---- batch norm ---- */

/* Running statistics of a head: of teacher and student, a tenth of the way in each step; those of a
 * resnet tower likewise, twice for the student, whose two resolutions are calls of their own. */
static void test_statistics(void) {
    engine_job job = JOB(RESNET, ",\"local_crops\":2,\"use_bn\":true");
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(&job, &t));
    double *student = copy_of(&t, "ssl.head.mlp.1.running_var"),
           *teacher = copy_of(&t, "ssl.teacher.head.mlp.4.running_mean"),
           *tower = copy_of(&t, "ssl.bn1.running_mean"),
           *copy = copy_of(&t, "ssl.teacher.bn1.running_mean");
    ENGINE_CHECK(student[0] == 1.0 && teacher[0] == 0.0);
    ENGINE_MUST(engine_begin(&t));
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(!is_as(&t, "ssl.head.mlp.1.running_var", student));
    ENGINE_CHECK(!is_as(&t, "ssl.teacher.head.mlp.4.running_mean", teacher));
    ENGINE_CHECK(!is_as(&t, "ssl.bn1.running_mean", tower));
    ENGINE_CHECK(!is_as(&t, "ssl.teacher.bn1.running_mean", copy));
    double *now = copy_of(&t, "ssl.head.mlp.1.running_var");
    for (int k = 0; k < 10; k++) {
        ENGINE_CHECK(now[k] >= 0.9 && now[k] < 0.9 + 0.1 * 10.0);
    }
    free(now);
    free(student);
    free(teacher);
    free(tower);
    free(copy);
    engine_close(&t);
}

/* One image a grain: batch norm has the crops' rows, and positions in a tower. */
static void test_one_image(void) {
    static const engine_job jobs[] = {JOB(VIT, ",\"local_crops\":0,\"use_bn\":true"),
                                      JOB(RESNET, ",\"local_crops\":1")};
    for (int i = 0; i < 2; i++) {
        engine_job job = jobs[i];
        job.global_batch = job.grain = 1;
        ENGINE_CHECK(isfinite(engine_loss(&job, NULL, NULL)));
    }
}

/* Pictures of 3 x 50, 60 x 2 and one pixel: crops are squares of the asked size all the same. */
static void make_oblong(void) {
    static const int32_t sides[][2] = {{3, 50}, {60, 2}, {1, 1}, {31, 17}};
    char path[320];
    cps_shard_writer *writer = NULL;
    snprintf(path, sizeof path, "%s/oblong.h5", the_engine.folder);
    if (cps_comm_rank(the_engine.comm) == 0) {
        ENGINE_MUST(cps_shard_writer_create(path, NULL, 0, NULL, 0, "test", &writer));
        for (int i = 0; i < 4; i++) {
            uint8_t pixels[31 * 50 * 3], *bytes = NULL;
            size_t length = 0;
            for (size_t p = 0; p < sizeof pixels; p++) {
                pixels[p] = (uint8_t)(p * 7 + (size_t)i * 40);
            }
            const cps_image image = {.width = sides[i][0], .height = sides[i][1], .pixels = pixels};
            ENGINE_MUST(cps_image_encode_jpeg(&image, 92, &bytes, &length));
            const cps_record record = {
                .sample_id = (uint64_t)i + 1, .image = bytes, .image_bytes = length, .label = -1};
            ENGINE_MUST(cps_shard_writer_append(writer, &record));
            free(bytes);
        }
        ENGINE_MUST(cps_shard_writer_finish(writer));
    }
    ENGINE_MUST(cps_agree(the_engine.comm, "oblong", CPS_OK));
}

static void test_oblong(void) {
    engine_job job = JOB(VIT, ",\"local_crops\":4");
    trial t;
    cps_step_result result;
    make_oblong();
    job.shards = "oblong.h5";
    job.global_batch = 4;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(engine_begin(&t));
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(isfinite(result.loss) && result.bad_images == 0 && !result.skipped);
    engine_close(&t);
}

/* ---- memory ---- */

/* Logits of eight more crops would be 8 * 4 rows of 32,768: 8 MiB. */
static void test_memory(void) {
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        char objectives[256];
        snprintf(objectives, sizeof objectives,
                 "[{\"name\":\"agriclip.dino\",\"options\":{\"K\":32768,\"hidden\":10,"
                 "\"bottleneck\":6,\"local_crops\":%d}}]",
                 8 * i);
        const engine_job job = {.objectives = objectives, .steps = 1, .global_batch = 8};
        trial t;
        ENGINE_MUST(engine_open(&job, &t));
        bytes[i] = t.run->stages[0].memory.total_bytes;
        engine_close(&t);
    }
    ENGINE_CHECK(bytes[1] > bytes[0] && bytes[1] - bytes[0] < (size_t)1 << 20);
    if (bytes[1] - bytes[0] >= (size_t)1 << 20) {
        engine_fail("eight crops more take %zu bytes", bytes[1] - bytes[0]);
    }
}

/* ---- validation, refusals ---- */

static void test_validation(void) {
    char evaluate[400];
    snprintf(
        evaluate, sizeof evaluate,
        "[{\"kind\":\"validation_loss\",\"name\":\"val\",\"data\":{\"shards\":[\"%s/extra.h5\"]},"
        "\"batch\":8,\"grain\":4}]",
        the_engine.folder);
    engine_job job = JOB(RESNET, ",\"local_crops\":1,\"use_bn\":true");
    job.evaluate = evaluate;
    trial t;
    cps_validation *validation = NULL;
    double losses[2];
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(cps_validation_create(t.run, 0, &t.run->evaluations[0], &validation));
    for (int i = 0; i < 2; i++) {
        cps_json *metrics = NULL;
        ENGINE_MUST(cps_validation_run(validation, i, &metrics));
        losses[i] = cps_json_get_number(metrics, "loss", (double)NAN);
        cps_json_destroy(metrics);
    }
    ENGINE_CHECK(isfinite(losses[0]) && losses[0] > 0.0 && losses[0] == losses[1]);
    cps_validation_destroy(validation);
    engine_close(&t);
}

static void test_refusals(void) {
    static const engine_job tower = JOB(VIT, ",\"tower\":\"sll\""),
                            text = JOB(VIT, ",\"tower\":\"text\""),
                            patches = JOB(VIT, ",\"local_size\":10"),
                            large = JOB(VIT, ",\"global_size\":30"),
                            crops = JOB(VIT, ",\"local_crops\":33"),
                            epochs = JOB(VIT, ",\"warmup_teacher_temp_epochs\":2"),
                            list = JOB(VIT, ",\"teacher_temp\":[0.04,0.05]"),
                            momentum = JOB(VIT, ",\"momentum\":[0.9,0.95]"),
                            cold = JOB(VIT, ",\"teacher_temp\":0"),
                            scale = JOB(VIT, ",\"local_scale\":[0.4,0.05]"),
                            classes = {.objectives = "[{\"name\":\"agriclip.dino\",\"options\":{"
                                                     "\"K\":1}}]"};
    engine_refused(&tower, "the model has no tower 'sll'");
    engine_refused(&text, "tower 'text' reads no images");
    engine_refused(&patches,
                   "local_size is 10, no multiple of the patches of tower 'ssl', which are "
                   "4 pixels wide: take 12");
    engine_refused(&large, "global_size is 30");
    engine_refused(&crops, "local_crops");
    engine_refused(&epochs, "warmup_teacher_temp_epochs is 2, but the stage has only 1 epochs");
    engine_refused(&list, "teacher_temp has 2 values, the stage 1 steps");
    engine_refused(&momentum, "momentum has 2 values, the stage 1 steps");
    engine_refused(&cold, "teacher_temp");
    engine_refused(&scale, "scale");
    engine_refused(&classes, "K");
    engine_job both = JOB(VIT, ",\"teacher_temp\":[0.04,0.05],\"warmup_teacher_temp_epochs\":1");
    both.steps = 2;
    engine_refused(&both, "leave out warmup_teacher_temp_epochs");
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {{"differences", test_differences},
                                        {"grains", test_grains},
                                        {"views", test_views},
                                        {"teacher", test_teacher},
                                        {"momentum", test_momentum},
                                        {"freeze", test_freeze},
                                        {"norm_last_layer", test_norm_last_layer},
                                        {"centre", test_centre},
                                        {"reports", test_reports},
                                        {"skips", test_skips},
                                        {"decay", test_decay},
                                        {"statistics", test_statistics},
                                        {"one image", test_one_image},
                                        {"oblong", test_oblong},
                                        {"memory", test_memory},
                                        {"validation", test_validation},
                                        {"refusals", test_refusals}};
    engine_start(&argc, &argv);
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
