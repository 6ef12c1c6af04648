/* The DALIP objective in double: its gradient against central differences of the whole step; what
 * its options change and what they do not; validation and evaluation; hostile inputs. The
 * statistic itself is compared with plain formulas in tests/golden/dalip_test.c. */
#include "model/weights.h"
#include "tests/ranks/engine.h"
#include "train/embed.h"
#include "train/validation.h"

#define SGD "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}"
#define OPTIONS "\"heads\":2,\"reduced\":3"
#define DALIP(more) "[{\"name\":\"dalip\",\"options\":{" OPTIONS more "}}]"

/* ---- gradients ---- */

static void test_differences(void) {
    static const char *const objectives[] = {
        DALIP(",\"dropout\":0"),
        DALIP(""),
        DALIP(",\"image_norm\":\"layer\",\"image_dropout\":\"tokens\",\"text_dropout\":"
              "\"channels\""),
        DALIP(",\"image_dropout\":\"tokens\",\"text_dropout\":\"channels\",\"dropout\":0.3"),
        DALIP(",\"dropout\":0,\"pad_mask\":true"),
        DALIP(",\"pad_mask\":true"),
        DALIP(",\"dropout\":0,\"learned_factor\":true,\"second_scale\":true"),
        DALIP(",\"dropout\":0,\"combine\":\"similarities\",\"lambda\":[0.6,0.4]"),
        DALIP(",\"dropout\":0,\"alpha\":[0.25]"),
    };
    for (size_t j = 0; j < sizeof objectives / sizeof objectives[0]; j++) {
        const engine_job job = {
            .objectives = objectives[j], .optimizer = SGD, .steps = 1, .difference = 1e-6};
        ENGINE_CHECK(engine_gradient_holds(&job));
    }
}

/* Where only some of it learns the rest gets no gradient, and what learns gets the same. */
static void test_parts_learn(void) {
    static const char *const stages[] = {
        ", \"train\":[\"visual.vbdc.conv_dr_block.0.weight\",\"tbdc.conv_dr_block.1.*\"]",
        ", \"train\":[\"fc1.weight\",\"visual.fc2.weight\"]",
        ", \"train\":[\"visual.fc?.weight\",\"visual.vbdc.*\",\"fc?.weight\",\"tbdc.*\"]"};
    for (size_t j = 0; j < sizeof stages / sizeof stages[0]; j++) {
        const engine_job job = {.objectives = DALIP(""),
                                .optimizer = SGD,
                                .stage = stages[j],
                                .steps = 1,
                                .difference = 1e-6};
        ENGINE_CHECK(engine_gradient_holds(&job));
    }
}

/* The loss and gradient of step 0, and where parameters lie. */
typedef struct measured {
    trial t;
    double loss, *gradient;
} measured;

static measured measure(const char *objectives) {
    const engine_job job = {.objectives = objectives, .optimizer = SGD, .steps = 1};
    measured m;
    ENGINE_MUST(engine_open(&job, &m.t));
    m.gradient =
        calloc((size_t)cps_params_flat_count(cps_model_params(m.t.run->model)), sizeof *m.gradient);
    m.loss = engine_loss(&job, NULL, m.gradient);
    return m;
}

static void forget(measured *m) {
    free(m->gradient);
    engine_close(&m->t);
}

/* Gradient of element i of a parameter; 0 where the model has not that parameter. */
static double gradient_at(measured *m, const char *name, int64_t i) {
    cps_params *params = cps_model_params(m->t.run->model);
    const int32_t index = cps_params_find(params, name);
    return index < 0 ? 0.0 : m->gradient[cps_params_at(params, index)->offset + i];
}

/* Beside another objective: views that both ask for are computed once, and the gradient is the
 * weighted sum. */
static void test_composition(void) {
#define SCLIP                                                                                      \
    "\"options\":{\"unlabelled\":\"extra\",\"keywords\":[\"oak\",\"ash\"],\"query_negatives\":"    \
    "false}"
    measured of[3] = {measure(DALIP("")), measure("[{\"name\":\"sclip\"," SCLIP "}]"),
                      measure("[{\"name\":\"dalip\",\"weight\":0.7,\"options\":{" OPTIONS "}},"
                              "{\"name\":\"sclip\",\"weight\":0.4," SCLIP "}]")};
    cps_params *params = cps_model_params(of[2].t.run->model);
    double worst = 0.0, size = 0.0;
    ENGINE_CHECK(fabs(0.7 * of[0].loss + 0.4 * of[1].loss - of[2].loss) < 1e-10 * of[2].loss);
    for (int32_t p = 0; p < cps_params_count(params); p++) {
        const cps_param *param = cps_params_at(params, p);
        for (int64_t i = 0; i < param->count; i++) {
            const double got = of[2].gradient[param->offset + i];
            const double want = 0.7 * gradient_at(&of[0], param->name, i) +
                                0.4 * gradient_at(&of[1], param->name, i);
            worst = fmax(worst, fabs(got - want));
            size = fmax(size, fabs(want));
        }
    }
    ENGINE_CHECK(worst < 1e-9 * size && size > 0.0);
    ENGINE_CHECK(of[2].t.plan->view_count == 4); /* image, text, query, keyword */
    for (int i = 0; i < 3; i++) {
        forget(&of[i]);
    }
}

/* With all weight on the first feature it is plain CLIP; as a sum of similarities too. */
static void test_first_is_clip(void) {
    const double clip = engine_loss(
        &(engine_job){.objectives = "[{\"name\":\"clip\",\"options\":{}}]", .optimizer = SGD}, NULL,
        NULL);
    const double first = engine_loss(
        &(engine_job){.objectives = DALIP(",\"alpha\":[1]"), .optimizer = SGD}, NULL, NULL);
    const double sum =
        engine_loss(&(engine_job){.objectives = DALIP(",\"combine\":\"similarities\",\"lambda\":["
                                                      "1,0]"),
                                  .optimizer = SGD},
                    NULL, NULL);
    ENGINE_CHECK(fabs(clip - first) < 1e-12);
    ENGINE_CHECK(fabs(clip - sum) < 1e-12);
}

/* The mean over published processes has the exact loss; its gradient is the exact one where gathers
 * carry gradients, a part of it where nothing does. */
static void test_published(void) {
    measured exact = measure(DALIP("")), same = measure(DALIP(",\"published_ranks\":4")),
             less = measure(DALIP(",\"published_ranks\":4,\"published_local_loss\":false,"
                                  "\"published_gather_with_grad\":false"));
    const int64_t count = cps_params_flat_count(cps_model_params(exact.t.run->model));
    const int64_t scale = engine_param(&exact.t, "logit_scale")->offset;
    ENGINE_CHECK(fabs(exact.loss - same.loss) < 1e-12 && fabs(exact.loss - less.loss) < 1e-12);
    ENGINE_CHECK(engine_difference(same.gradient, exact.gradient, count) < 1e-9);
    ENGINE_CHECK(fabs(less.gradient[scale] - exact.gradient[scale]) < 1e-9);
    for (int64_t i = 0; i < count; i++) {
        less.gradient[i] *= i == scale ? 1.0 : 4.0;
    }
    ENGINE_CHECK(engine_difference(less.gradient, exact.gradient, count) < 1e-9);
    forget(&exact);
    forget(&same);
    forget(&less);
}

/* Kept or replayed recordings, the same numbers; layer norms alone: other grains too. */
static void test_grains(void) {
    static const engine_job kept = {.objectives = DALIP(""), .optimizer = SGD, .steps = 1},
                            replayed = {.objectives = DALIP(""),
                                        .optimizer = SGD,
                                        .stage = ", \"activation_budget_mb\":0",
                                        .steps = 1};
    ENGINE_CHECK(engine_loss(&kept, NULL, NULL) == engine_loss(&replayed, NULL, NULL));
    static const char layers[] = DALIP(",\"image_norm\":\"layer\"");
    const engine_job four = {.objectives = layers, .optimizer = SGD, .steps = 1},
                     eight = {.objectives = layers, .optimizer = SGD, .steps = 1, .grain = 8};
    ENGINE_CHECK(fabs(engine_loss(&four, NULL, NULL) - engine_loss(&eight, NULL, NULL)) < 1e-12);
}

/* ---- what is kept ---- */

static cps_real *values_of(trial *t, const char *name) {
    return engine_param(t, name)->tensor.data;
}

/* Running statistics move by the heads' batch statistics, and only in a step. */
static void test_running_statistics(void) {
    static const engine_job job = {.objectives = DALIP(""), .optimizer = SGD, .steps = 2};
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_train(&job, &t, &result));
    for (int64_t i = 0; i < 3; i++) {
        ENGINE_CHECK(values_of(&t, "visual.vbdc.conv_dr_block.1.running_mean")[i] != 0);
        /* Two steps of two heads leave 0.9^4 of the first value; tokens' variances are small. */
        const double left =
            (double)values_of(&t, "visual.vbdc.conv_dr_block.1.running_var")[i] - pow(0.9, 4);
        ENGINE_CHECK(left > 0 && left < 0.1);
    }
    engine_close(&t);
}

static const char *const own_names[] = {"fc1.weight",
                                        "fc2.weight",
                                        "tbdc.conv_dr_block.0.weight",
                                        "tbdc.conv_dr_block.1.bias",
                                        "tbdc.conv_dr_block.1.weight",
                                        "tbdc.down.bias",
                                        "tbdc.down.weight",
                                        "tbdc.ln.bias",
                                        "tbdc.ln.weight",
                                        "visual.fc1.weight",
                                        "visual.fc2.weight",
                                        "visual.vbdc.conv_dr_block.0.weight",
                                        "visual.vbdc.conv_dr_block.1.bias",
                                        "visual.vbdc.conv_dr_block.1.running_mean",
                                        "visual.vbdc.conv_dr_block.1.running_var",
                                        "visual.vbdc.conv_dr_block.1.weight",
                                        "visual.vbdc.down.bias",
                                        "visual.vbdc.down.weight",
                                        "visual.vbdc.ln.bias",
                                        "visual.vbdc.ln.weight"};
enum { OWN = sizeof own_names / sizeof own_names[0] };

static bool is_own(const char *name) {
    for (int i = 0; i < OWN; i++) {
        if (strcmp(own_names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* `text`, malloc'ed, with `with` in place of `what`; malloc'ed, `text` is freed. */
static char *exchange(char *text, const char *what, const char *with) {
    char *at = strstr(text, what);
    if (at == NULL) {
        engine_fail("'%s' is not in the job", what);
        return text;
    }
    char *out = cps_format("%.*s%s%s", (int)(at - text), text, with, at + strlen(what));
    free(text);
    return out;
}

/* From plain CLIP weights exactly the published names begin fresh; from weights of DALIP none. */
static void test_names(void) {
    static const engine_job clip = {.objectives = "[{\"name\":\"clip\",\"options\":{}}]",
                                    .optimizer = SGD},
                            dalip = {.objectives = DALIP(""), .optimizer = SGD};
    char *path = cps_format("%s/weights.safetensors", the_engine.folder);
    char *model = cps_format("\"model\":{\"weights\":\"%s\",", path);
    for (int round = 0; round < 2; round++) {
        trial t;
        ENGINE_MUST(engine_open(round == 0 ? &clip : &dalip, &t));
        ENGINE_MUST(cps_weights_save(t.run->model, path, CPS_WEIGHTS_OPEN_CLIP));
        engine_close(&t);
        ENGINE_MUST(engine_open_text(exchange(engine_job_text(&dalip), "\"model\":{", model), &t));
        cps_params *params = cps_model_params(t.run->model);
        int fresh = 0;
        for (int32_t i = 0; i < cps_params_count(params); i++) {
            const char *name = cps_params_at(params, i)->name;
            if (!t.run->from_weights[i] && strncmp(name, "ssl.", 4) != 0) {
                fresh++;
                if (round == 1 || !is_own(name)) {
                    engine_fail("round %d: '%s' begins fresh", round, name);
                }
            }
        }
        ENGINE_CHECK(fresh == (round == 0 ? OWN : 0));
        engine_close(&t);
    }
    free(path);
    free(model);
}

/* ---- evaluation ---- */

enum { SET = 16, PADDED = 64 };
static const char *const words[SET] = {"oak",  "ash",    "elm",  "leaf", "green", "dry",
                                       "torn", "a",      "the",  "of",   "that",  "is",
                                       "and",  "rather", "long", "an"};

/* Records with captions of one word each; NULL: with none. */
static void write_set(const char *name) {
    static const char *const fields[] = {"caption"};
    char path[320];
    snprintf(path, sizeof path, "%s/%s", the_engine.folder, name);
    cps_shard_writer *writer = NULL;
    ENGINE_MUST(cps_shard_writer_create(path, fields, 1, NULL, 0, "test", &writer));
    for (int64_t i = 0; i < SET; i++) {
        size_t length = 0;
        uint8_t *bytes = engine_picture(i, &length);
        const cps_record_text text = {"caption", 1, &words[i]};
        const cps_record record = {.sample_id = (uint64_t)i,
                                   .image = bytes,
                                   .image_bytes = length,
                                   .label = -1,
                                   .text_field_count = 1,
                                   .texts = &text};
        ENGINE_MUST(cps_shard_writer_append(writer, &record));
        free(bytes);
    }
    ENGINE_MUST(cps_shard_writer_finish(writer));
}

/* A stage over the words, pictures whole, and its validation set: the same records. */
static void open_words(const char *objectives, trial *t) {
    char *evaluate =
        cps_format("[{\"kind\":\"validation_loss\",\"name\":\"val\",\"data\":{\"shards\":[\"%s/"
                   "words.h5\"]},\"batch\":16,\"grain\":8}]",
                   the_engine.folder);
    const engine_job job = {.objectives = objectives,
                            .optimizer = SGD,
                            .shards = "words.h5",
                            .steps = 1,
                            .evaluate = evaluate};
    ENGINE_MUST(
        engine_open_text(exchange(engine_job_text(&job), "\"crop\":[0.5,1]", "\"crop\":[1,1]"), t));
    free(evaluate);
}

/* Numbers that are not those of the beginning. */
static void stir(trial *t, const char *name, double about, double spread) {
    const cps_param *param = engine_param(t, name);
    for (int64_t i = 0; i < param->count; i++) {
        const cps_draw_key key = {.seed = 5, .module = (uint32_t)param->offset};
        ((cps_real *)param->tensor.data)[i] =
            (cps_real)(about + spread * cps_draw_normal(&key, (uint64_t)i));
    }
}

/* Where the second feature weighs nothing it is not computed, and the first is the same. */
static void check_first(cps_embedder *embedder, const cps_real *planes, const char *const *texts,
                        double out[2][2][SET * 8]) {
    static cps_real rows[PADDED * 8];
    cps_real *const components[] = {rows};
    const double both[] = {0.5, 0.5}, second[] = {0.0, 1.0}, twice[] = {2.0, 0.0};
    const cps_encoder *encoder = cps_embedder_encoder(embedder);
    cps_embedder_weigh(embedder, &(cps_numbers){2, both});
    ENGINE_CHECK(encoder->component_count == 2 && encoder->left_out == 0);
    cps_embedder_weigh(embedder, &(cps_numbers){2, twice});
    ENGINE_CHECK(encoder->component_count == 1 && encoder->left_out == 1);
    cps_embedder_weigh(embedder, &(cps_numbers){2, second});
    ENGINE_CHECK(encoder->component_count == 2 && encoder->left_out == 0);
    cps_embedder_weigh(embedder, NULL);
    ENGINE_CHECK(encoder->component_count == 1 && encoder->left_out == 1);
    ENGINE_MUST(cps_embedder_prepare(embedder));
    for (int side = 0; side < 2; side++) {
        ENGINE_MUST(side == CPS_SIDE_IMAGE ? encoder->images(encoder->context, planes, components)
                                           : encoder->texts(encoder->context, texts, components));
        for (int64_t i = 0; i < SET * 8; i++) {
            ENGINE_CHECK(fabs((double)rows[i] - out[side][0][i]) < 1e-12);
        }
    }
}

/* What `embed` makes of the set: component c of a side as unit rows, [SET, 8] each. */
static void embed_words(trial *t, double out[2][2][SET * 8]) {
    cps_embedder *embedder = NULL;
    const char *texts[PADDED];
    cps_real *planes = calloc(PADDED * 3 * 16 * 16, sizeof *planes);
    static cps_real rows[2][PADDED * 8];
    for (int i = 0; i < PADDED; i++) {
        texts[i] = "";
    }
    for (int64_t grain = 0; grain < t->plan->grains; grain++) {
        const cps_batch *batch = NULL;
        ENGINE_MUST(cps_loader_grain(t->loop->loader, 0, grain, &batch));
        cps_batch_planes(t->loop->loader, batch, t->plan->views[0].input,
                         planes + grain * 4 * 3 * 16 * 16);
        for (int64_t row = 0; row < 4; row++) {
            texts[grain * 4 + row] = words[batch->streams[0].sample_ids[row]];
        }
    }
    ENGINE_MUST(cps_embedder_create(t->plan, NULL, NULL, 0, &embedder));
    ENGINE_MUST(cps_embedder_prepare(embedder));
    const cps_encoder *encoder = cps_embedder_encoder(embedder);
    ENGINE_CHECK(encoder->component_count == 2 && encoder->score_weights[0] == 1.0 &&
                 encoder->score_weights[1] == 0.0);
    for (int side = 0; side < 2; side++) {
        cps_real *const components[] = {rows[0], rows[1]};
        ENGINE_MUST(side == CPS_SIDE_IMAGE ? encoder->images(encoder->context, planes, components)
                                           : encoder->texts(encoder->context, texts, components));
        for (int c = 0; c < 2; c++) {
            for (int64_t i = 0; i < SET; i++) {
                double square = 0.0;
                for (int k = 0; k < 8; k++) {
                    square += (double)rows[c][i * 8 + k] * (double)rows[c][i * 8 + k];
                }
                for (int k = 0; k < 8; k++) {
                    out[side][c][i * 8 + k] = (double)rows[c][i * 8 + k] / sqrt(square);
                }
            }
        }
    }
    check_first(embedder, planes, texts, out);
    cps_embedder_destroy(embedder);
    free(planes);
}

/* 1/2 (mean of row and column cross-entropies) of scale u v'. */
static double contrast(const double *u, const double *v, double scale) {
    double loss = 0.0;
    for (int direction = 0; direction < 2; direction++) {
        const double *a = direction == 0 ? u : v, *b = direction == 0 ? v : u;
        for (int i = 0; i < SET; i++) {
            double sum = 0.0, own = 0.0;
            for (int j = 0; j < SET; j++) {
                double product = 0.0;
                for (int k = 0; k < 8; k++) {
                    product += a[i * 8 + k] * b[j * 8 + k];
                }
                sum += exp(scale * product);
                own = i == j ? scale * product : own;
            }
            loss += log(sum) - own;
        }
    }
    return loss / (2.0 * SET);
}

/* The validation loss runs the objective as it is trained, in evaluation mode; an evaluation runs
 * `embed`, where down and fc2 are one matrix. Both see the same features. */
static void test_validation_is_evaluation(void) {
    static const char *const objectives[] = {
        DALIP(""), DALIP(",\"pad_mask\":true,\"learned_factor\":true,\"image_norm\":\"layer\"")};
    write_set("words.h5");
    for (int j = 0; j < 2; j++) {
        trial t;
        cps_validation *validation = NULL;
        cps_json *metrics = NULL;
        static double out[2][2][SET * 8];
        open_words(objectives[j], &t);
        ENGINE_MUST(engine_begin(&t));
        if (j == 0) {
            stir(&t, "visual.vbdc.conv_dr_block.1.running_mean", 0.0, 0.01);
            stir(&t, "visual.vbdc.conv_dr_block.1.running_var", 1e-3, 1e-4);
        }
        stir(&t, "tbdc.ln.weight", 1.0, 0.3);
        stir(&t, "visual.vbdc.ln.bias", 0.0, 0.3);
        embed_words(&t, out);
        ENGINE_MUST(cps_validation_create(t.run, 0, &t.run->evaluations[0], &validation));
        ENGINE_MUST(cps_validation_run(validation, 1, &metrics));
        const double scale = exp((double)values_of(&t, "logit_scale")[0]);
        const double first = contrast(out[0][0], out[1][0], scale),
                     second = contrast(out[0][1], out[1][1], scale);
        ENGINE_CHECK(fabs(cps_json_get_number(metrics, "first", 0.0) - first) < 1e-11);
        ENGINE_CHECK(fabs(cps_json_get_number(metrics, "second", 0.0) - second) < 1e-11);
        ENGINE_CHECK(fabs(cps_json_get_number(metrics, "loss", 0.0) - 0.5 * (first + second)) <
                     1e-11);
        cps_json_destroy(metrics);
        cps_validation_destroy(validation);
        engine_close(&t);
    }
}

/* ---- what may come ---- */

/* Captions of one word train; padding is most of their statistic, unless it is masked. */
static void test_short_captions(void) {
    static const char *const objectives[] = {DALIP(",\"dropout\":0"),
                                             DALIP(",\"dropout\":0,\"pad_mask\":true")};
    double loss[2];
    for (int j = 0; j < 2; j++) {
        const engine_job job = {.objectives = objectives[j],
                                .optimizer = SGD,
                                .shards = "words.h5",
                                .steps = 1,
                                .difference = 1e-6};
        ENGINE_CHECK(engine_gradient_holds(&job));
        loss[j] = engine_loss(&job, NULL, NULL);
    }
    ENGINE_CHECK(loss[0] != loss[1]);
}

/* One step with parameter `name` at `value` everywhere; whether it was skipped. */
static bool step_with(const char *name, double value) {
    static const engine_job job = {.objectives = DALIP(""), .steps = 1};
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(engine_begin(&t));
    stir(&t, name, value, 0.0);
    ENGINE_MUST(engine_step(&t, &result));
    const cps_real *mean = values_of(&t, "visual.vbdc.conv_dr_block.1.running_mean"),
                   *down = values_of(&t, "visual.vbdc.down.weight");
    ENGINE_CHECK(result.skipped || isfinite(result.loss));
    ENGINE_CHECK(isfinite((double)mean[0]) && isfinite((double)down[0]));
    engine_close(&t);
    return result.skipped;
}

/* Tokens without length: cosines are 0, channels coincide, and the step counts. Tokens that are no
 * numbers: the step is skipped, and statistics do not move. */
static void test_strange_tokens(void) {
    ENGINE_CHECK(!step_with("visual.proj", 0.0));
    ENGINE_CHECK(!step_with("text_projection", 0.0));
    ENGINE_CHECK(!step_with("visual.fc1.weight", 0.0));
    ENGINE_CHECK(!step_with("visual.vbdc.conv_dr_block.0.weight", 0.0));
    ENGINE_CHECK(!step_with("tbdc.conv_dr_block.1.bias", -100.0));
    static const char *const names[] = {"visual.fc1.weight", "fc1.weight",
                                        "visual.vbdc.conv_dr_block.0.weight",
                                        "tbdc.conv_dr_block.1.bias", "visual.vbdc.ln.weight"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ENGINE_CHECK(step_with(names[i], (double)NAN));
        ENGINE_CHECK(step_with(names[i], (double)INFINITY));
    }
}

static void test_refusals(void) {
    static const engine_job divides = {.objectives = "[{\"name\":\"dalip\",\"options\":{\"heads\":"
                                                     "3}}]"},
                            one = {.objectives = DALIP(""), .global_batch = 1, .grain = 1},
                            scales = {.objectives = DALIP(
                                          ",\"combine\":\"similarities\",\"second_scale\":true")},
                            nothing = {.objectives =
                                           DALIP(",\"combine\":\"similarities\",\"lambda\":[0,0]")},
                            published = {.objectives =
                                             DALIP(",\"published_ranks\":2,\"second_scale\":true")},
                            uneven = {.objectives = DALIP(",\"published_ranks\":5")},
                            swapped = {.objectives = DALIP(",\"image\":\"text\"")},
                            reads = {.objectives = DALIP(",\"text\":\"image\"")},
                            unknown = {.objectives = DALIP(",\"image\":\"imgae\"")},
                            narrow = {.objectives = DALIP(",\"image\":\"ssl\"")};
    engine_refused(&divides, "heads = 3 does not divide the features' width 8");
    engine_refused(&one, "a step has 1 pair of stream 'paired'");
    engine_refused(&scales, "second_scale = true goes with combine = \"losses\"");
    engine_refused(&nothing, "both weights of lambda are 0");
    engine_refused(&published, "published_ranks = 2 goes with second_scale = false");
    engine_refused(&uneven, "published_ranks = 5 does not divide the 16 rows");
    engine_refused(&swapped, "image = 'text': wanted is a vision transformer");
    engine_refused(&reads, "text = 'image': wanted is a text tower");
    engine_refused(&unknown, "image = 'imgae': the model has no tower of that name");
    engine_refused(&narrow, "towers 'ssl' and 'text' give 0 and 8 numbers");
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {{"differences", test_differences},
                                        {"parts learn", test_parts_learn},
                                        {"composition", test_composition},
                                        {"first is clip", test_first_is_clip},
                                        {"published", test_published},
                                        {"grains", test_grains},
                                        {"running statistics", test_running_statistics},
                                        {"names", test_names},
                                        {"validation is evaluation", test_validation_is_evaluation},
                                        {"short captions", test_short_captions},
                                        {"strange tokens", test_strange_tokens},
                                        {"refusals", test_refusals}};
    engine_start(&argc, &argv);
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
