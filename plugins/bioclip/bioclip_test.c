/* bioclip through the engine, in double: texts and their draws against shards/taxon and against
 * Python's; equality with clip where its texts are captions; the dense formulas of bioclip.md on
 * leaves of our own; central differences of whole gradients; refusals. */
#include "tests/ranks/organisms.h"

#include "train/validation.h"

enum { ROWS = 16, WIDTH = 8, RECORDS = 48, CONTEXT = 128 };

#define SGD "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}"
#define JOB(options)                                                                               \
    {                                                                                              \
        .objectives = "[{\"name\":\"bioclip\",\"options\":{" options "}}]",                        \
        .shards = "organisms.h5", .optimizer = SGD, .steps = 1, .context = CONTEXT                 \
    }

/* ---- data ---- */

/* The caption is what type "taxon_com" makes of the ranks, so that clip sees bioclip's texts. */
static void captioned(int64_t i, organism *out) {
    memcpy(out->names, organisms[i % NAMED], sizeof out->names);
    char *text = organism_text(out->names, "taxon_com", false);
    snprintf(out->caption, sizeof out->caption, "%s", text);
    free(text);
}

static void make_data(void) {
    organism_shard("organisms.h5", 0, RECORDS, organism_mixed);
    organism_shard("captioned.h5", 0, 41, captioned);
    organism_shard("first.h5", 0, ROWS, captioned);
    organism_shard("second.h5", ROWS, ROWS, captioned);
}

/* ---- texts ---- */

static double value_of(const cps_step_result *result, const char *name) {
    for (int32_t i = 0; i < result->term_count; i++) {
        if (strcmp(result->term_names[i], name) == 0) {
            return result->term_values[i];
        }
    }
    return (double)NAN;
}

/* What a job of `steps` steps reports as its types, against what Python's random draws for these
 * seeds: random.seed(step), random.choice(types) or random.choices(types, weights). */
static void check_types(const engine_job *job, const int *wanted) {
    trial t;
    cps_step_result result;
    ENGINE_MUST(engine_open(job, &t));
    ENGINE_MUST(engine_begin(&t));
    while (t.done < job->steps) {
        const int64_t step = t.done;
        ENGINE_MUST(engine_step(&t, &result));
        ENGINE_CHECK(value_of(&result, "text_type") == (double)wanted[step]);
    }
    engine_close(&t);
}

static void test_published_draw(void) {
    static const int five[] = {3, 1, 0, 1, 1, 4, 4, 2, 1, 3, 4, 3, 3, 2, 0, 1},
                     four[] = {4, 1, 0, 1, 1, 3, 0, 3, 1, 4, 0, 4, 4, 3, 0, 1},
                     weighted[] = {1, 0, 2, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 2};
    engine_job job = JOB("");
    job.steps = 16;
    check_types(&job, five);
    /* Equal weights are a choice, whatever they are; types that weigh nothing are no choices. */
    engine_job subset = JOB("\"text_types\":{\"sci\":2,\"com\":2,\"sci_com\":2,\"taxon_com\":2}");
    subset.steps = 16;
    check_types(&subset, four);
    engine_job unequal = JOB("\"text_types\":{\"sci\":1,\"com\":2,\"taxon\":0.5}");
    unequal.steps = 16;
    check_types(&unequal, weighted);
}

static bool same_ids(trial *t, const cps_input_rows *rows, int64_t row, const char *text) {
    int32_t ids[CONTEXT];
    int64_t length = 0;
    ENGINE_MUST(
        cps_tokenizer_encode(t->plan->tokenizer, text, t->plan->context, ids, &length, NULL));
    return rows->offsets[row + 1] - rows->offsets[row] == (int32_t)length &&
           memcmp(rows->ids + rows->offsets[row], ids, (size_t)length * sizeof *ids) == 0;
}

/* Counts which of `types` (at most 3) the texts of data step `step` are of, each for the first that
 * it fits; every one must fit one. */
static void count_texts(trial *t, int64_t step, bool clean, const char *const *types, int count,
                        int64_t counts[3]) {
    const cps_stage_view *view = &t->plan->views[1];
    memset(counts, 0, 3 * sizeof *counts);
    for (int64_t grain = 0; grain < t->plan->grains; grain++) {
        const cps_batch *batch = NULL;
        ENGINE_MUST(cps_loader_grain(t->loop->loader, step, grain, &batch));
        const cps_input_rows *rows = &batch->inputs[view->input];
        for (int64_t row = 0; row < rows->rows; row++) {
            const char *const *names = organisms[batch->streams[0].sample_ids[row] % ORGANISMS];
            int type = 0;
            for (bool fits = false; type < count && !fits; type += !fits) {
                char *text = organism_text(names, types[type], clean);
                fits = text != NULL && same_ids(t, rows, row, text);
                free(text);
            }
            ENGINE_CHECK(type < count);
            counts[type < count ? type : 0]++;
        }
    }
}

/* All texts of a step are of its type, to the letter; records that name nothing are not there. */
static void test_texts_of_a_step(void) {
    static const char *const drawn[] = {"taxon", "sci", "sci"}; /* of sci and taxon: 1, 0, 0 */
    for (int clean = 0; clean < 2; clean++) {
        static const engine_job published = JOB("\"text_types\":{\"taxon\":1,\"sci\":1}"),
                                mended =
                                    JOB("\"clean\":true,\"text_types\":{\"taxon\":1,\"sci\":1}");
        engine_job job = clean ? mended : published;
        trial t;
        int64_t counts[3];
        job.steps = 3;
        ENGINE_MUST(engine_open(&job, &t));
        ENGINE_CHECK(cps_stream_records(t.plan->streams[0].stream) == RECORDS / 8 * NAMED);
        ENGINE_CHECK(cps_stream_left_out(t.plan->streams[0].stream) == RECORDS / 8);
        ENGINE_MUST(engine_begin(&t));
        for (int64_t step = 0; step < 3; step++) {
            count_texts(&t, step, clean, &drawn[step], 1, counts);
        }
        engine_close(&t);
    }
}

/* By image: several types in a step, in shares that follow the weights. */
static void test_texts_of_images(void) {
    static const char *const drawn[] = {"taxonTag", "taxonTag_com"};
    engine_job job = JOB("\"scope\":\"image\",\"text_types\":{\"taxonTag\":3,\"taxonTag_com\":1}");
    trial t;
    int64_t counts[3], mixed = 0, all[2] = {0};
    job.steps = 12;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(engine_begin(&t));
    for (int64_t step = 0; step < 12; step++) {
        count_texts(&t, step, false, drawn, 2, counts);
        mixed += counts[0] > 0 && counts[1] > 0;
        all[0] += counts[0];
        all[1] += counts[1];
    }
    ENGINE_CHECK(mixed > 8);
    ENGINE_CHECK(all[0] + all[1] == 192 && all[1] > 24 && all[1] < 72); /* four deviations of 48 */
    engine_close(&t);
}

/* ---- against clip ---- */

/* With one type whose texts are the captions: clip's loss and gradient, to the bit. */
static void test_clip_on_captions(void) {
    static const engine_job jobs[] = {
        {.objectives = "[{\"name\":\"clip\",\"options\":{}}]",
         .shards = "captioned.h5",
         .optimizer = SGD,
         .context = CONTEXT,
         .steps = 1},
        {.objectives = "[{\"name\":\"bioclip\",\"options\":{\"text_types\":{\"taxon_com\":3}}}]",
         .shards = "captioned.h5",
         .optimizer = SGD,
         .context = CONTEXT,
         .steps = 1},
        {.objectives = "[{\"name\":\"bioclip\",\"options\":{\"text_types\":{\"taxon_com\":1},"
                       "\"scope\":\"image\"}}]",
         .shards = "captioned.h5",
         .optimizer = SGD,
         .context = CONTEXT,
         .steps = 1}};
    double *gradients[3], losses[3];
    int64_t count = 0;
    trial t;
    ENGINE_MUST(engine_open(&jobs[0], &t));
    free(engine_values(&t, &count));
    engine_close(&t);
    for (int j = 0; j < 3; j++) {
        gradients[j] = calloc((size_t)count, sizeof(double));
        losses[j] = engine_loss(&jobs[j], NULL, gradients[j]);
        ENGINE_CHECK(losses[j] == losses[0]);
        ENGINE_CHECK(memcmp(gradients[j], gradients[0], (size_t)count * sizeof(double)) == 0);
    }
    for (int j = 0; j < 3; j++) {
        free(gradients[j]);
    }
}

/* ---- the loss on leaves of our own, against dense formulas ---- */

/* Rows of a slot: unit rows that follow from the slot's number, or keys. */
static void fill_slot(int32_t slot, int64_t rows, int64_t width, double *values) {
    const cps_draw_key key = {.seed = 9, .position = (uint64_t)slot};
    for (int64_t i = 0; i < rows; i++) {
        double norm = 0.0;
        for (int64_t k = 0; k < width; k++) {
            values[i * width + k] = cps_draw_normal(&key, (uint64_t)(i * width + k));
            norm += values[i * width + k] * values[i * width + k];
        }
        for (int64_t k = 0; k < width; k++) {
            values[i * width + k] /= sqrt(norm);
        }
    }
}

/* Positives: rows 0, 5, 10, 15 and 1, 6, 11 and so on have equal texts. */
static int64_t key_of(int64_t row) {
    return 1000 + row % 5;
}

enum { SLOTS = 4 };
typedef struct leaves {
    double values[SLOTS][ROWS * WIDTH], grads[SLOTS][ROWS * WIDTH];
    double d_log_scale;
    cps_step_result result; /* names and values of terms and reports */
} leaves;

/* Runs the objective's `loss` and its gradient on made-up rows: slots in the order in which `head`
 * emits them, keys left out. */
static void run_loss(const engine_job *job, leaves *out) {
    trial t;
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    const int64_t offset[] = {0, 4, 8, 12, 16};
    const cps_layout layout = {4, offset, 0, 4};
    int64_t keys[ROWS];
    cps_real values[SLOTS][ROWS * WIDTH], grads[SLOTS][ROWS * WIDTH], seeds[CPS_STAGE_TERMS];
    int32_t at = 0;
    ENGINE_MUST(engine_open(job, &t));
    ENGINE_MUST(cps_arena_create("leaves", 1 << 20, true, &arena));
    ENGINE_MUST(cps_tape_create(arena, CPS_TAPE_RECORD, cps_host_table(), &tape));
    cps_tape_set_comm(tape, the_engine.comm);
    cps_global global = {
        .host = cps_host_table(), .plan = t.plan, .tape = tape, .info = {.steps = 1, .grain = -1}};
    memset(out, 0, sizeof *out);
    for (int32_t s = 0; s < t.plan->slot_count; s++) {
        const bool key = t.plan->slots[s].dtype == CPS_I64;
        for (int64_t i = 0; i < ROWS; i++) {
            keys[i] = key_of(i);
        }
        if (!key) {
            fill_slot(at, ROWS, WIDTH, out->values[at]);
            for (int64_t i = 0; i < ROWS * WIDTH; i++) {
                values[at][i] = (cps_real)out->values[at][i];
            }
        }
        global.slots[s] =
            cps_tape_leaf(tape, t.plan->slots[s].dtype, key ? 1 : 2, (int64_t[]){ROWS, WIDTH},
                          key ? (void *)keys : values[at], key ? NULL : grads[at], -1);
        global.slots[s]->layout = &layout;
        global.slots[s]->grad_fresh = true;
        at += !key;
    }
    const cps_instance *instance = &t.plan->instances[0];
    ENGINE_MUST(instance->objective->loss(instance->self, &global, tape));
    for (int32_t i = 0; i < global.term_count; i++) {
        seeds[i] = (cps_real)global.term_weights[i];
        cps_tape_seed(tape, global.terms[i], &seeds[i]);
        snprintf(out->result.term_names[i], 64, "%s", global.term_names[i]);
        out->result.term_values[i] = (double)*(cps_real *)global.terms[i]->data;
        out->result.loss += global.term_weights[i] * out->result.term_values[i];
    }
    ENGINE_MUST(cps_backward(tape, NULL, 0.0));
    out->result.term_count = global.term_count;
    for (int32_t i = 0; i < global.report_count; i++) {
        snprintf(out->result.term_names[out->result.term_count], 64, "%s", global.report_names[i]);
        out->result.term_values[out->result.term_count++] = global.report_values[i];
    }
    for (int32_t s = 0; s < at; s++) {
        for (int64_t i = 0; i < ROWS * WIDTH; i++) {
            out->grads[s][i] = (double)grads[s][i];
        }
    }
    out->d_log_scale = (double)*global.params[0]->grad;
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    engine_close(&t);
}

/* bioclip.md's formulas: P and Q the softmax of Z = s U V' along rows and of Z' along rows, T the
 * targets. rows_only: what columns would add to the gradient is left out. */
typedef struct dense {
    double loss, d_log_scale, d_u[ROWS * WIDTH], d_v[ROWS * WIDTH];
    double rank_loss[ROWS], rank_d_log_scale[ROWS]; /* by row, to be averaged */
} dense;

static double target(bool positives, int64_t i, int64_t j) {
    if (!positives) {
        return i == j;
    }
    const int64_t count = (ROWS - i % 5 + 4) / 5;
    return key_of(i) == key_of(j) ? 1.0 / (double)count : 0.0;
}

static void dense_loss(const double *u, const double *v, double s, bool positives, bool rows_only,
                       dense *out) {
    memset(out, 0, sizeof *out);
    for (int side = 0; side < 2; side++) {
        const double *a = side == 0 ? u : v, *b = side == 0 ? v : u;
        double *d_a = side == 0 ? out->d_u : out->d_v, *d_b = side == 0 ? out->d_v : out->d_u;
        for (int64_t i = 0; i < ROWS; i++) {
            double z[ROWS], total = 0.0;
            for (int64_t j = 0; j < ROWS; j++) {
                z[j] = 0.0;
                for (int64_t k = 0; k < WIDTH; k++) {
                    z[j] += exp(s) * a[i * WIDTH + k] * b[j * WIDTH + k];
                }
                total += exp(z[j]);
            }
            for (int64_t j = 0; j < ROWS; j++) {
                const double t = target(positives, i, j);
                const double g = (exp(z[j]) / total - t) / (2.0 * ROWS);
                out->rank_loss[i] += t * (log(total) - z[j]) / 2.0;
                out->rank_d_log_scale[i] += ROWS * g * z[j];
                for (int64_t k = 0; k < WIDTH; k++) {
                    d_a[i * WIDTH + k] += exp(s) * g * b[j * WIDTH + k];
                    d_b[j * WIDTH + k] += rows_only ? 0.0 : exp(s) * g * a[i * WIDTH + k];
                }
            }
        }
    }
    for (int64_t i = 0; i < ROWS; i++) {
        out->loss += out->rank_loss[i] / ROWS;
        out->d_log_scale += out->rank_d_log_scale[i] / ROWS;
    }
}

static const double log_scale = 2.6592600369327779; /* ln(1 / 0.07) */

static bool near(double a, double b) {
    return fabs(a - b) < 1e-11 * fmax(1.0, fabs(b));
}

static void scaled(double *values, double factor) {
    for (int64_t i = 0; i < ROWS * WIDTH; i++) {
        values[i] *= factor;
    }
}

static void test_dense(void) {
    static const engine_job plain = JOB(""), positives = JOB("\"multi_positive\":true");
    leaves got;
    dense wanted;
    for (int p = 0; p < 2; p++) {
        run_loss(p == 0 ? &plain : &positives, &got);
        dense_loss(got.values[0], got.values[1], log_scale, p == 1, false, &wanted);
        ENGINE_CHECK(near(value_of(&got.result, "contrastive"), wanted.loss));
        ENGINE_CHECK(near(got.d_log_scale, wanted.d_log_scale));
        ENGINE_CHECK(engine_difference(got.grads[0], wanted.d_u, ROWS * WIDTH) < 1e-11);
        ENGINE_CHECK(engine_difference(got.grads[1], wanted.d_v, ROWS * WIDTH) < 1e-11);
    }
}

static void test_replay(void) {
    static const engine_job job = JOB("\"replay\":\"extra\",\"replay_weight\":0.25");
    leaves got;
    dense organisms_part, replay_part;
    run_loss(&job, &got);
    dense_loss(got.values[0], got.values[1], log_scale, false, false, &organisms_part);
    dense_loss(got.values[2], got.values[3], log_scale, false, false, &replay_part);
    ENGINE_CHECK(near(value_of(&got.result, "contrastive"), organisms_part.loss));
    ENGINE_CHECK(near(value_of(&got.result, "replay"), replay_part.loss));
    ENGINE_CHECK(near(got.result.loss, organisms_part.loss + 0.25 * replay_part.loss));
    ENGINE_CHECK(
        near(got.d_log_scale, organisms_part.d_log_scale + 0.25 * replay_part.d_log_scale));
    scaled(replay_part.d_u, 0.25);
    scaled(replay_part.d_v, 0.25);
    ENGINE_CHECK(engine_difference(got.grads[0], organisms_part.d_u, ROWS * WIDTH) < 1e-11);
    ENGINE_CHECK(engine_difference(got.grads[2], replay_part.d_u, ROWS * WIDTH) < 1e-11);
    ENGINE_CHECK(engine_difference(got.grads[3], replay_part.d_v, ROWS * WIDTH) < 1e-11);
}

/* The replay stream's own projection: begins as a copy, decays, gets its own gradient from the
 * replay loss alone; its rows are what the tower makes of that stream. */
static void test_replay_projection(void) {
    static const engine_job job = JOB("\"replay\":\"extra\"");
    trial t;
    cps_step_result result;
    double u[ROWS * WIDTH], v[ROWS * WIDTH];
    dense wanted;
    ENGINE_MUST(engine_open(&job, &t));
    const cps_param *own = engine_param(&t, "visual.replay_proj"),
                    *source = engine_param(&t, "visual.proj");
    ENGINE_CHECK(own->spec.decay && own->learns && own->count == 16 * WIDTH);
    ENGINE_CHECK(
        memcmp(own->tensor.data, source->tensor.data, (size_t)own->count * sizeof(cps_real)) == 0);
    ENGINE_MUST(engine_begin(&t));
    int32_t image = -1, text = -1, calls = 0;
    for (int32_t i = 0; i < t.plan->view_count; i++) {
        image = strcmp(t.plan->views[i].view.name, "replay image") == 0 ? i : image;
        text = strcmp(t.plan->views[i].view.name, "replay text") == 0 ? i : text;
    }
    for (int32_t c = 0; c < t.plan->call_count; c++) {
        calls += !t.plan->calls[c].text;
    }
    ENGINE_CHECK(calls == 1 && image >= 0 && text >= 0); /* one call of the image tower */
    ENGINE_CHECK(engine_features(&t, image, u) == ROWS && engine_features(&t, text, v) == ROWS);
    dense_loss(u, v, log_scale, false, false, &wanted);
    ENGINE_MUST(engine_step(&t, &result));
    ENGINE_CHECK(near(value_of(&result, "replay"), wanted.loss));
    engine_close(&t);
}

/* ---- as the published code computes it on W processes ---- */

static void check_published(const engine_job *job, bool local, bool gathers, int64_t ranks,
                            double accumulation) {
    leaves got;
    dense wanted;
    char name[64];
    run_loss(job, &got);
    dense_loss(got.values[0], got.values[1], log_scale, false, local && !gathers, &wanted);
    if (!local && !gathers) {
        scaled(wanted.d_u, 1.0 / (double)ranks);
        scaled(wanted.d_v, 1.0 / (double)ranks);
    }
    ENGINE_CHECK(near(got.result.loss, wanted.loss));
    ENGINE_CHECK(near(got.d_log_scale, accumulation * wanted.d_log_scale));
    ENGINE_CHECK(engine_difference(got.grads[0], wanted.d_u, ROWS * WIDTH) < 1e-11);
    ENGINE_CHECK(engine_difference(got.grads[1], wanted.d_v, ROWS * WIDTH) < 1e-11);
    for (int64_t r = 0; r < ranks; r++) {
        double loss = 0.0, d_log_scale = 0.0;
        const int64_t own = ROWS / ranks, first = local ? r * own : 0,
                      last = local ? first + own : ROWS;
        for (int64_t i = first; i < last; i++) {
            loss += wanted.rank_loss[i] / (double)(last - first);
            d_log_scale += wanted.rank_d_log_scale[i] / (double)(last - first);
        }
        snprintf(name, sizeof name, "rank%d.contrastive", (int)r);
        ENGINE_CHECK(near(value_of(&got.result, name), loss));
        snprintf(name, sizeof name, "rank%d.d_logit_scale", (int)r);
        ENGINE_CHECK(near(value_of(&got.result, name), d_log_scale));
    }
}

static void test_published(void) {
    for (int mode = 0; mode < 4; mode++) {
        const bool local = mode < 2, gathers = mode % 2 == 0;
        for (int64_t ranks = 1; ranks <= 4; ranks *= 2) {
            char objectives[256];
            snprintf(objectives, sizeof objectives,
                     "[{\"name\":\"bioclip\",\"options\":{\"published_ranks\":%d,"
                     "\"published_local_loss\":%s,\"published_gather_with_grad\":%s,"
                     "\"published_accum_freq\":%d}}]",
                     (int)ranks, local ? "true" : "false", gathers ? "true" : "false",
                     ranks == 1 ? 3 : 1);
            const engine_job job = {.objectives = objectives,
                                    .shards = "organisms.h5",
                                    .optimizer = SGD,
                                    .context = CONTEXT,
                                    .steps = 1};
            check_published(&job, local, gathers, ranks, ranks == 1 ? 3.0 : 1.0);
        }
    }
}

/* ---- gradients ---- */

static void test_differences(void) {
    static const engine_job jobs[] = {
        JOB(""),
        JOB("\"scope\":\"image\",\"multi_positive\":true"),
        JOB("\"replay\":\"extra\",\"replay_weight\":0.5"),
        JOB("\"replay\":\"extra\",\"scope\":\"image\",\"multi_positive\":true,\"clean\":true"),
        JOB("\"published_ranks\":2"),
        JOB("\"published_ranks\":4,\"published_local_loss\":false,\"replay\":\"extra\""),
    };
    for (size_t j = 0; j < sizeof jobs / sizeof jobs[0]; j++) {
        ENGINE_CHECK(engine_gradient_holds(&jobs[j]));
    }
}

/* Grains and rows of the replay stream are memory, not mathematics. */
static void test_grains(void) {
    engine_job job = JOB("\"replay\":\"extra\",\"scope\":\"image\",\"multi_positive\":true");
    double *gradients[3] = {NULL};
    const int64_t grains[3] = {4, 8, 2};
    int64_t count = 0;
    trial t;
    ENGINE_MUST(engine_open(&job, &t));
    free(engine_values(&t, &count));
    engine_close(&t);
    for (int g = 0; g < 3; g++) {
        engine_job other = job;
        other.grain = grains[g];
        other.stage = g == 1 ? ", \"activation_budget_mb\":0" : NULL;
        gradients[g] = calloc((size_t)count, sizeof(double));
        engine_loss(&other, NULL, gradients[g]);
        ENGINE_CHECK(engine_difference(gradients[g], gradients[0], count) < 1e-10);
    }
    for (int g = 0; g < 3; g++) {
        free(gradients[g]);
    }
}

/* Each reads texts of its own of one stream, sclip beside them another one and its keywords: the
 * gradient of both is the weighted sum of theirs. (sclip first: draws go by a view's place, and so
 * its queries are cropped as they are alone.) */
static void test_beside_sclip(void) {
#define SCLIP(weight)                                                                              \
    "{\"name\":\"sclip\"," weight "\"options\":{\"unlabelled\":\"extra\",\"keywords\":["           \
    "\"Passeriformes\",\"Diptera\",\"Fagales\"]}}"
#define BIOCLIP(weight)                                                                            \
    "{\"name\":\"bioclip\"," weight "\"options\":{\"text_types\":{\"com\":1,\"sci\":1}}}"
    static const char *const objectives[] = {
        "[" BIOCLIP("") "]", "[" SCLIP("") "]",
        "[" SCLIP("\"weight\":0.3,") "," BIOCLIP("\"weight\":2,") "]"};
    double loss[3], *gradient[3];
    int64_t count[3];
    for (int i = 0; i < 3; i++) {
        const engine_job job = {.objectives = objectives[i],
                                .shards = "captioned.h5",
                                .optimizer = SGD,
                                .steps = 1,
                                .context = CONTEXT};
        trial t;
        ENGINE_MUST(engine_open(&job, &t));
        free(engine_values(&t, &count[i]));
        engine_close(&t);
        gradient[i] = calloc((size_t)count[i], sizeof(double));
        loss[i] = engine_loss(&job, NULL, gradient[i]);
    }
    ENGINE_CHECK(near(loss[2], 2.0 * loss[0] + 0.3 * loss[1]));
    ENGINE_CHECK(count[0] == count[2] && count[1] == count[2]);
    for (int64_t i = 0; i < count[2]; i++) {
        gradient[0][i] = 2.0 * gradient[0][i] + 0.3 * gradient[1][i];
    }
    ENGINE_CHECK(engine_difference(gradient[0], gradient[2], count[2]) < 1e-9);
    for (int i = 0; i < 3; i++) {
        free(gradient[i]);
    }
}

/* ---- validation sets ---- */

/* Loss of validation set number `set` under text types `types_text`; NAN where a "replay" shows. */
static double validate(const char *types_text, const char *set) {
    char objectives[256], evaluate[512];
    snprintf(objectives, sizeof objectives,
             "[{\"name\":\"bioclip\",\"options\":{\"replay\":\"extra\",\"text_types\":%s}}]",
             types_text);
    snprintf(evaluate, sizeof evaluate,
             "[{\"kind\":\"validation_loss\",\"name\":\"val\",\"data\":{\"shards\":[%s]},"
             "\"batch\":16,\"grain\":8}]",
             set);
    const engine_job job = {.objectives = objectives,
                            .shards = "captioned.h5",
                            .optimizer = SGD,
                            .context = CONTEXT,
                            .steps = 1,
                            .evaluate = evaluate};
    trial t;
    cps_validation *validation = NULL;
    cps_json *metrics = NULL;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(cps_validation_create(t.run, 0, &t.run->evaluations[0], &validation));
    ENGINE_MUST(cps_validation_run(validation, 5, &metrics));
    const double loss = cps_json_get_number(metrics, "contrastive", (double)NAN);
    const bool replays =
        cps_json_get(metrics, "replay") != NULL || cps_json_get(metrics, "text_type") != NULL;
    cps_json_destroy(metrics);
    cps_validation_destroy(validation);
    engine_close(&t);
    return replays ? (double)NAN : loss;
}

/* A validation batch draws its type by its number, and leaves replay out. */
static void test_validation(void) {
    const char *const all = "[1,1,1,1,1,0,0]";
    char first[300], second[300], both[600];
    snprintf(first, sizeof first, "\"%s/first.h5\"", the_engine.folder);
    snprintf(second, sizeof second, "\"%s/second.h5\"", the_engine.folder);
    snprintf(both, sizeof both, "%s,%s", first, second);
    const double batch0 = validate("{\"sci_com\":1}", first),
                 batch1 = validate("{\"com\":1}", second);
    ENGINE_CHECK(batch0 > 0.0 && batch1 > 0.0 && batch0 != batch1);
    ENGINE_CHECK(near(validate(all, first), batch0));
    ENGINE_CHECK(near(validate(all, both), 0.5 * (batch0 + batch1)));
}

/* ---- refusals ---- */

static void test_refusals(void) {
    static const engine_job zero = JOB("\"text_types\":{\"sci\":0}"),
                            negative = JOB("\"text_types\":{\"sci\":-1}"),
                            unknown = JOB("\"text_types\":{\"sci_con\":1}"),
                            none = JOB("\"replay\":\"replay\""),
                            itself = JOB("\"replay\":\"paired\""),
                            divides = JOB("\"published_ranks\":5"),
                            both = JOB("\"published_ranks\":2,\"multi_positive\":true");
    engine_refused(&zero, "the weight 0 for every type");
    engine_refused(&negative, "text_types.sci: number -1 is below the minimum 0");
    engine_refused(&unknown, "unknown name 'sci_con' (did you mean 'sci_com'?)");
    engine_refused(&none, "no stream 'replay'");
    engine_refused(&itself, "a stream of its own beside 'paired'");
    engine_refused(&divides, "published_ranks = 5 does not divide the 16 rows");
    engine_refused(&both, "multi_positive = false");
    engine_job nameless = JOB("");
    nameless.shards = "train.h5";
    engine_refused(&nameless, "kingdom, phylum, class, order, family, genus, species");
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {{"published draw", test_published_draw},
                                        {"texts of a step", test_texts_of_a_step},
                                        {"texts of images", test_texts_of_images},
                                        {"clip on captions", test_clip_on_captions},
                                        {"dense", test_dense},
                                        {"replay", test_replay},
                                        {"replay projection", test_replay_projection},
                                        {"published", test_published},
                                        {"differences", test_differences},
                                        {"grains", test_grains},
                                        {"beside sclip", test_beside_sclip},
                                        {"validation", test_validation},
                                        {"refusals", test_refusals}};
    engine_start(&argc, &argv);
    make_data();
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
