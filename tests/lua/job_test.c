/* Jobs that are right: what they resolve to, that the resolved text gives the same job, functions,
 * parameters, modules. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "eval/config.h"
#include "plugin/loader.h"
#include "tests/lua/support.h"
#include "train/config.h"
#include "train/optimizer.h"
#include "train/stage.h"

static char *lua_folder, *tree;

#define HEAD "local copse = require \"copse\"\n"
#define MODEL "model = copse.model { preset = \"ViT-B-32\" }, "
#define DATA "data = { paired = copse.shards { \"a.h5\" } }, "
#define STAGE(lr)                                                                                  \
    "stages = { copse.stage { objective = copse.objective.clip {}, steps = 10, global_batch = "    \
    "64, "                                                                                         \
    "optimizer = copse.adamw { lr = " lr " } } }, "

/* Objectives that jobs find: test_rows(), or those of the plugins. */
static const cps_job_rows *known_rows;

static cps_job *load_ok(const char *name, const char *text, const cps_job_set *sets,
                        int64_t set_count) {
    cps_job *job = NULL;
    if (load_text_with(known_rows, lua_folder, name, text, sets, set_count, &job) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return job;
}

static char *canonical(const cps_job *job) {
    return cps_json_print(cps_job_json(job), false, true);
}

/* The resolved text of `job` gives a job with equal JSON and the same resolved text. */
static void assert_reproduces(cps_job *job) {
    char *source = cps_job_source(job);
    cps_job *again = load_ok("resolved.lua", source, NULL, 0);
    char *first = canonical(job), *second = canonical(again), *text = cps_job_source(again);
    assert_string_equal(first, second);
    assert_string_equal(source, text);
    free(source);
    free(first);
    free(second);
    free(text);
    cps_job_destroy(again);
}

static const char whole_job[] = HEAD
    "local warm, base, cos = 4, 1e-3, math.cos\n"
    "local arg = copse.arg { fraction = 0.1 }\n"
    "local helper = function(x) return x * 2 end\n"
    "local function rate(step, total) -- with an end\n"
    "  if step < warm then return base * (step + 1) / warm end\n"
    "  return base * 0.5 * (1 + cos(math.pi * (step - warm) / (total - warm))) * arg.fraction * "
    "10\n"
    "end\n"
    "return copse.job {\n"
    "  name = 'whole', seed = 7,\n"
    "  model = copse.model { preset = 'ViT-B-16', weights = 'clip.safetensors', partial = true, "
    "image = { drop_path = 0.1 },\n"
    "    towers = { ssl = copse.tower { kind = 'vit', image_size = 224, patch = 16, width = 768, "
    "layers = 12, heads = 12,\n"
    "      variant = 'dino' } } },\n"
    "  tokenizer = copse.tokenizer { json = '../tok.json', context = 40 },\n"
    "  data = {\n"
    "    unlabelled = copse.shards { 'r-*.h5', rest_of = 'published' },\n"
    "    published = copse.shards { '/abs/rsicd-*.h5', './b-*.h5', fraction = 0.1, seed = 0, draw "
    "= 'mt19937' },\n"
    "    paired = copse.mixture { copse.shards { 'p-*.h5', weight = 10 }, copse.shards { 'w-*.h5', "
    "weight = 3,\n"
    "      caption = 'title' }, epoch_samples = 1300000 },\n"
    "    table = copse.shards { source = '../crops/train.csv', classes = 'names.txt' } },\n"
    "  stages = {\n"
    "    copse.stage { name = 'dino', steps = 5000, global_batch = 64, clip_tensor = 3.0, train = "
    "{ '*', '!ssl.*' },\n"
    "      objective = copse.objective.family.dino { tower = 'ssl', momentum = function(s, t) "
    "return 0.9 + 0.1 * s / t end },\n"
    "      lr_factors = { { 'visual.*', 0.1 }, { '*', 2 } }, rows = { unlabelled = 32 }, tail = "
    "'keep',\n"
    "      optimizer = copse.adamw { lr = rate, weight_decay = function(s, t) return helper(s / t) "
    "end,\n"
    "        no_decay = { '*.bias' } } },\n"
    "    copse.stage { name = 'align', objective = copse.objective.family.align { tower = "
    "'ssl.teacher' } },\n"
    "    copse.stage { objective = { copse.objective.clip {}, copse.objective.words { weight = "
    "0.5, keywords = 'k.txt',\n"
    "        types = { com = 0.7 } } }, embed = 'words', epochs = 1, global_batch = 64, "
    "max_bad = 3,\n"
    "      optimizer = copse.sgd { lr = { 0.1, 0.2 } } },\n"
    "    copse.stage { objective = { copse.objective.load('my.so', 'mine') { logit_scale = 3 } }, "
    "epochs = 1,\n"
    "      global_batch = 64, optimizer = copse.lars { lr = 1 }, schedule = copse.cosine { "
    "warmup_steps = 10 } },\n"
    "  },\n"
    "  evaluate = {\n"
    "    copse.knn { name = 'knn', data = 'test-*.h5', bank = 'train-*.h5', features = { "
    "'ssl.teacher', 'pooled' },\n"
    "      stages = { 'dino' }, every = 'epoch' },\n"
    "    copse.zero_shot { name = 'both', data = 'test-*.h5', score = { 0.5, 0.5 }, templates = "
    "'remote-sensing' },\n"
    "    copse.validation_loss { name = 'val', data = { 'a', 'b' }, every = 100 },\n"
    "    copse.retrieval { name = 'r', data = copse.shards { source = 'test.csv' }, k = 3 } },\n"
    "  checkpoint = copse.checkpoint { steps = 500, best = 'r.image_to_text_r3' },\n"
    "  early_stop = copse.early_stop { metric = 'val.loss', patience = 2 },\n"
    "  on_evaluate = function(metrics, state) return metrics['val.loss'] > 3 end,\n"
    "}\n";

static void test_whole_language(void **unused) {
    (void)unused;
    assert_int_equal(cps_file_write_atomic("k.txt", "\xEF\xBB\xBF airport\r\n beach \n", 19),
                     CPS_OK);
    cps_job *job = load_ok("whole.lua", whole_job, NULL, 0);
    assert_reproduces(job);
    const cps_json *json = cps_job_json(job);
    const cps_json *pattern = cps_json_path(json, "data.published.shards.1");
    char *here = realpath(".", NULL), *wanted = cps_format("%s/b-*.h5", here);
    assert_string_equal(cps_json_string(pattern), wanted);
    assert_string_equal(cps_json_string(cps_json_path(json, "data.published.shards.0")),
                        "/abs/rsicd-*.h5");
    free(wanted);
    *strrchr(here, '/') = '\0';
    wanted = cps_format("%s/tok.json", here);
    assert_string_equal(cps_json_string(cps_json_path(json, "tokenizer.json")), wanted);
    free(wanted);
    free(here);
    cps_job_destroy(job);
}

static void test_options_of_stages(void **unused) {
    (void)unused;
    cps_job *job = load_ok("whole.lua", whole_job, NULL, 0);
    const cps_json *stages = cps_json_get(cps_job_json(job), "stages");
    cps_arena *arena = NULL;
    cps_stage_options stage;
    cps_json *given = NULL;
    cps_optimizer optimizer;
    assert_int_equal(cps_arena_create("test", 1 << 16, true, &arena), CPS_OK);
    assert_int_equal(cps_job_stage(job, 0, 5000, &given), CPS_OK);
    assert_int_equal(cps_stage_options_parse(given, "stages[1]", arena, &stage), CPS_OK);
    assert_string_equal(stage.name, "dino");
    assert_int_equal(stage.steps, 5000);
    assert_int_equal(stage.tail, CPS_TAIL_KEEP);
    assert_int_equal(stage.max_bad, -1);
    assert_int_equal(stage.max_skipped_steps, -1);
    assert_int_equal(stage.train.count, 2);
    assert_string_equal(stage.train.lines[1], "!ssl.*");
    assert_string_equal(stage.lr_factors[0].name, "visual.*");
    assert_true(stage.lr_factors[1].value == 2);
    assert_string_equal(stage.rows[0].name, "unlabelled");
    assert_string_equal(stage.optimizer_kind, "adamw");
    assert_int_equal(cps_optimizer_parse("adamw", stage.optimizer, "x", arena, &optimizer), CPS_OK);
    assert_int_equal(optimizer.lr.count, 5000);
    assert_true(optimizer.lr.values[0] == 1e-3 * 1 / 4);
    assert_true(optimizer.weight_decay.values[2500] == 1.0);
    cps_json_destroy(given);
    assert_int_equal(cps_stage_options_parse(cps_json_at(stages, 1), "stages[2]", arena, &stage),
                     CPS_OK);
    assert_true(stage.optimizer_kind == NULL && stage.epochs == 0 && stage.steps == 0);
    assert_int_equal(cps_stage_options_parse(cps_json_at(stages, 2), "stages[3]", arena, &stage),
                     CPS_OK);
    assert_string_equal(stage.name, "stage3");
    assert_string_equal(stage.embed, "words");
    assert_int_equal(stage.objective_count, 2);
    assert_true(stage.objectives[1].weight == 0.5);
    assert_int_equal(stage.max_bad, 3);
    assert_string_equal(
        cps_json_string(cps_json_path(stage.objectives[1].options, "keywords.lines.1")), "beach");
    assert_true(cps_json_number(cps_json_path(stage.objectives[1].options, "types.0")) == 0.0);
    assert_true(cps_json_number(cps_json_path(stage.objectives[1].options, "types.1")) == 0.7);
    assert_int_equal(cps_stage_options_parse(cps_json_at(stages, 3), "stages[4]", arena, &stage),
                     CPS_OK);
    assert_non_null(strstr(stage.objectives[0].plugin, "/my.so"));
    assert_string_equal(stage.schedule_kind, "cosine");
    cps_arena_destroy(arena);
    cps_job_destroy(job);
}

static void test_options_of_the_job(void **unused) {
    (void)unused;
    cps_job *job = load_ok("whole.lua", whole_job, NULL, 0);
    const cps_json *json = cps_job_json(job);
    cps_arena *arena = NULL;
    cps_job_options options;
    cps_stream_options *streams;
    cps_tokenizer_options tokenizer;
    cps_checkpoint_options checkpoint;
    cps_early_stop_options early_stop;
    int64_t count;
    assert_int_equal(cps_arena_create("test", 1 << 16, true, &arena), CPS_OK);
    assert_int_equal(cps_job_options_parse(json, arena, &options), CPS_OK);
    assert_true(options.seed == 7 && options.has_on_evaluate && options.parts == 32);
    assert_int_equal(cps_streams_parse(cps_json_get(json, "data"), arena, &streams, &count),
                     CPS_OK);
    assert_int_equal(count, 4);
    assert_string_equal(streams[0].name, "paired");
    assert_true(streams[0].set_count == 2 && streams[0].sets[0].weight == 10 &&
                streams[0].epoch_samples == 1300000);
    assert_string_equal(streams[0].sets[1].caption, "title");
    assert_true(streams[1].sets[0].pattern_count == 2 && streams[1].sets[0].fraction == 0.1);
    assert_non_null(strstr(streams[2].sets[0].source, "/crops/train.csv"));
    assert_string_equal(streams[3].sets[0].rest_of, "published");
    assert_int_equal(
        cps_tokenizer_options_parse(cps_json_get(json, "tokenizer"), arena, &tokenizer), CPS_OK);
    assert_int_equal(tokenizer.context, 40);
    assert_string_equal(tokenizer.path, tokenizer.json);
    assert_int_equal(cps_checkpoint_options_parse(json, arena, &checkpoint), CPS_OK);
    assert_true(checkpoint.steps == 500 && checkpoint.keep == 2);
    assert_int_equal(cps_early_stop_options_parse(json, arena, &early_stop), CPS_OK);
    assert_true(early_stop.patience == 2 && cps_metric_less_is_better(early_stop.metric));
    assert_false(cps_metric_less_is_better(checkpoint.best));
    cps_arena_destroy(arena);
    cps_job_destroy(job);
}

static void test_options_of_evaluations(void **unused) {
    (void)unused;
    cps_job *job = load_ok("whole.lua", whole_job, NULL, 0);
    cps_arena *arena = NULL;
    cps_evaluation_options *evaluations;
    int64_t count;
    assert_int_equal(cps_arena_create("test", 1 << 16, true, &arena), CPS_OK);
    assert_int_equal(cps_evaluations_parse(cps_json_get(cps_job_json(job), "evaluate"), arena,
                                           &evaluations, &count),
                     CPS_OK);
    assert_int_equal(count, 4);
    assert_int_equal(evaluations[0].kind, CPS_EVAL_KNN);
    assert_true(evaluations[0].every_epoch && evaluations[0].knn.k == 20 &&
                evaluations[0].stages.count == 1);
    assert_string_equal(evaluations[0].features_tower, "ssl.teacher");
    assert_string_equal(evaluations[0].features_output, "pooled");
    assert_non_null(strstr(evaluations[0].knn.bank.patterns[0], "/train-*.h5"));
    assert_true(evaluations[1].zero_shot.score.count == 2 &&
                evaluations[1].zero_shot.templates.count == 6);
    assert_int_equal(evaluations[1].zero_shot.text, 0); /* label */
    assert_true(evaluations[2].every_steps == 100 && evaluations[2].validation_loss.batch == 128);
    assert_int_equal(evaluations[2].data.pattern_count, 2);
    assert_true(evaluations[3].retrieval.k.count == 1 && evaluations[3].retrieval.k.values[0] == 3);
    assert_non_null(evaluations[3].data.source);
    cps_arena_destroy(arena);
    cps_job_destroy(job);
}

/* A set of templates that has a sentence for each of its evaluations. */
static void test_templates_by_name(void **unused) {
    (void)unused;
    static const struct {
        const char *name, *set, *wanted;
    } cases[] = {
        {"cow-breed", "agriclip", "a photo contain {} cow"},
        {"Cow_Breed", "agriclip", "a photo contain {} cow"},
        {"CID", "agriclip", "Image of cattle named {}"},
        {"DeepFish", "agriclip", "a photo contain {} type under acquarium"},
        {"FishNet", "agriclip", "a photo of {}"},
        {"cow", "agriclip", "a photo of {}"},
        {"Yellow_Rust", "agriclip-baseline", "a photo of yellow rust leaf with {} disease"},
        {"cow-breed", "agriclip-baseline", "a photo of {}"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = cps_format(
            "local copse = require 'copse'\n"
            "return copse.job { name = 'x', model = copse.model { preset = 'ViT-B-32' },\n"
            "  tokenizer = copse.tokenizer { merges = 'a' }, data = { a = copse.shards { 'b' } },\n"
            "  stages = { copse.stage { objective = copse.objective.clip {}, epochs = 1, "
            "global_batch = 32,\n"
            "    optimizer = copse.adamw { lr = 1 } } },\n"
            "  evaluate = { copse.zero_shot { name = '%s', templates = '%s', data = 'c' } } }\n",
            cases[i].name, cases[i].set);
        cps_job *job = load_ok("templates.lua", text, NULL, 0);
        const cps_json *list = cps_json_path(cps_job_json(job), "evaluate.0.templates");
        assert_int_equal(cps_json_count(list), 1);
        assert_string_equal(cps_json_string(cps_json_at(list, 0)), cases[i].wanted);
        assert_reproduces(job);
        cps_job_destroy(job);
        free(text);
    }
}

static void test_schedule_with_a_bad_value(void **unused) {
    (void)unused;
    double values[8];
    cps_job *job = load_ok("case.lua",
                           HEAD "return copse.job { name = 'x', " MODEL DATA STAGE(
                               "function(s, t) return s == 3 and 1 / 0 or s end") "}",
                           NULL, 0);
    assert_int_equal(cps_job_tabulate(job, "stages[1].optimizer.lr", 3, values), CPS_OK);
    assert_true(values[0] == 0 && values[2] == 2);
    assert_int_equal(cps_job_tabulate(job, "stages[1].optimizer.lr", 8, values), CPS_ERR_USAGE);
    assert_string_equal(
        cps_fail_message(),
        "stages[1].optimizer.lr: at step 3 of 8 the function gives inf: it should give a "
        "finite number");
    assert_int_equal(cps_job_tabulate(job, "stages[1].optimizer", 8, values), CPS_ERR_USAGE);
    cps_job_destroy(job);
}

static void test_on_evaluate(void **unused) {
    (void)unused;
    cps_job *job = load_ok("case.lua",
                           HEAD "return copse.job { name = 'x', " MODEL DATA STAGE(
                               "1") "on_evaluate = function(metrics, state)\n"
                                    "  state.seen = state.seen or {}\n"
                                    "  state.seen[#state.seen + 1] = metrics['z.top1']\n"
                                    "  if metrics['z.top1'] > 2 then state.f = print_ end\n"
                                    "  return #state.seen == 2\n"
                                    "end }",
                           NULL, 0);
    cps_json *metrics = cps_json_new_object(), *state = NULL;
    bool stop = true;
    cps_json_add_number(metrics, "z.top1", 0.25);
    assert_int_equal(cps_job_on_evaluate(job, metrics, &state, &stop), CPS_OK);
    assert_false(stop);
    assert_int_equal(cps_job_on_evaluate(job, metrics, &state, &stop), CPS_OK);
    assert_true(stop);
    char *text = cps_json_print(state, false, true);
    assert_string_equal(text, "{\"seen\":[0.25,0.25]}");
    free(text);
    cps_json_destroy(metrics);
    metrics = cps_json_new_object();
    cps_json_add_number(metrics, "z.top1", 3);
    assert_int_equal(cps_job_on_evaluate(job, metrics, &state, &stop), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "case.lua:5: unknown name 'print_'"));
    cps_json_destroy(metrics);
    cps_json_destroy(state);
    cps_job_destroy(job);
}

static void test_state_that_cannot_be_kept(void **unused) {
    (void)unused;
    cps_job *job = load_ok("case.lua",
                           HEAD "return copse.job { name = 'x', " MODEL DATA STAGE(
                               "1") "on_evaluate = function(metrics, state) state.f = type end }",
                           NULL, 0);
    cps_json *metrics = cps_json_new_object(), *state = NULL;
    bool stop = true;
    assert_int_equal(cps_job_on_evaluate(job, metrics, &state, &stop), CPS_ERR_USAGE);
    assert_string_equal(
        cps_fail_message(),
        "state of on_evaluate.f: a function cannot be kept: use numbers, strings, true, "
        "false and tables of them");
    assert_null(state);
    cps_json_destroy(metrics);
    cps_job_destroy(job);
    job = load_ok("case.lua",
                  HEAD "return copse.job { name = 'x', " MODEL DATA STAGE(
                      "1") "on_evaluate = function(metrics, state) return 3 end }",
                  NULL, 0);
    metrics = cps_json_new_object();
    assert_int_equal(cps_job_on_evaluate(job, metrics, &state, &stop), CPS_ERR_USAGE);
    assert_string_equal(
        cps_fail_message(),
        "on_evaluate gives 3: it should give true to end the stage, or false or nothing");
    cps_json_destroy(metrics);
    cps_job_destroy(job);
}

static void test_parameters(void **unused) {
    (void)unused;
    static const char text[] =
        HEAD "local arg = copse.arg { rate = 1, name = 'x', decay = false }\n"
             "return copse.job { name = arg.name, seed = arg.decay and 1 or 0, " MODEL DATA STAGE(
                 "arg.rate") "}";
    const cps_job_set sets[] = {
        {"rate", "2e-4"}, {"name", "3"}, {"decay", "true"}, {"rate", "3e-4"}};
    cps_job *job = load_ok("case.lua", text, NULL, 0);
    assert_string_equal(cps_json_get_string(cps_job_json(job), "name", ""), "x");
    cps_job_destroy(job);
    job = load_ok("case.lua", text, sets, 4);
    assert_string_equal(cps_json_get_string(cps_job_json(job), "name", ""), "3");
    assert_int_equal(cps_json_get_integer(cps_job_json(job), "seed", -1), 1);
    const cps_json *lr = cps_json_path(cps_job_json(job), "stages.0.optimizer.lr");
    assert_true(cps_json_number(lr) == 3e-4); /* the last one counts */
    assert_reproduces(job);
    cps_job_destroy(job);
}

static void test_modules_and_sorted_pairs(void **unused) {
    (void)unused;
    static const char module[] =
        "local list = {}\nfor key in pairs { zeta = 1, alpha = 2, beta = 3, [2] = 1, [1] = 1 } do "
        "list[#list + 1] = key end\n"
        "return { name = table.concat(list, '-'), rate = function(s) return s * 2 end }\n";
    assert_int_equal(cps_file_write_atomic("common.lua", module, sizeof module - 1), CPS_OK);
    cps_job *job =
        load_ok("case.lua",
                HEAD "local common = require 'common'\n"
                     "return copse.job { name = common.name, " MODEL DATA STAGE("common.rate") "}",
                NULL, 0);
    double values[3];
    assert_string_equal(cps_json_get_string(cps_job_json(job), "name", ""), "1-2-alpha-beta-zeta");
    assert_int_equal(cps_job_tabulate(job, "stages[1].optimizer.lr", 3, values), CPS_OK);
    assert_true(values[2] == 4);
    assert_reproduces(job);
    cps_job_destroy(job);
}

/* A job's only stream stands for the default of an objective, not for a name that the job gives. */
static void test_only_stream(void **unused) {
    (void)unused;
    static const char text[] = HEAD
        "return copse.job { name = 'x', " MODEL "data = { photos = copse.shards { 'a.h5' } },\n"
        "stages = { copse.stage { objective = copse.objective.words { keywords = { 'a' } }, steps "
        "= 1, global_batch = 32, optimizer = copse.adamw { lr = 1 } } } }";
    cps_job *job = load_ok("case.lua", text, NULL, 0);
    char *source = cps_job_source(job);
    assert_non_null(strstr(source, "stream = \"photos\""));
    free(source);
    assert_reproduces(job);
    cps_job_destroy(job);
}

static void test_mistake_in_a_module(void **unused) {
    (void)unused;
    static const char module[] =
        "local copse = require 'copse'\nreturn copse.adamw {\n  lr = 1,\n  beta = 1 }\n";
    cps_job *job = NULL;
    assert_int_equal(cps_file_write_atomic("common.lua", module, sizeof module - 1), CPS_OK);
    const cps_status status =
        load_text(lua_folder, "case.lua",
                  HEAD "return copse.job { name = 'x', " MODEL DATA
                       "stages = { copse.stage { objective = copse.objective.clip {}, steps = 1, "
                       "global_batch = 32,\n"
                       "  optimizer = require 'common' } } }",
                  NULL, 0, &job);
    assert_int_equal(status, CPS_ERR_USAGE);
    assert_string_equal(
        cps_fail_message(),
        "common.lua:4: stages[1].optimizer: unknown key 'beta' (did you mean 'beta1'?)");
}

static void test_missing_files(void **unused) {
    (void)unused;
    cps_job *job = NULL;
    const cps_job_setup setup = {.lua_folder = lua_folder, .rows = test_rows()};
    assert_int_equal(cps_job_load("nothing.lua", &setup, &job), CPS_ERR_UNAVAILABLE);
    assert_string_equal(cps_fail_message(), "there is no job file 'nothing.lua': check the path");
    assert_int_equal(load_text("/nowhere", "case.lua", "", NULL, 0, &job), CPS_ERR_UNAVAILABLE);
    assert_non_null(strstr(cps_fail_message(), "/nowhere"));
    assert_int_equal(load_text(lua_folder, "case.lua", "\x1bLua", NULL, 0, &job), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "attempt to load a binary chunk"));
}

/* The rows of the engine and of the plugins in a folder. */
static cps_job_rows *rows_of_plugins(const cps_plugins *plugins) {
    int64_t engine = 0;
    const cps_job_rows *engine_rows = cps_job_engine_rows(&engine);
    const int64_t count = cps_plugins_count(plugins);
    cps_job_rows *rows = calloc((size_t)(engine + count + 1), sizeof *rows);
    assert_non_null(rows);
    memcpy(rows, engine_rows, (size_t)engine * sizeof *rows);
    for (int64_t i = 0; i < count; i++) {
        const char *path = NULL;
        const cps_objective *objective = cps_plugins_at(plugins, i, &path);
        rows[engine + i] = (cps_job_rows){.kind = cps_format("objective:%s", objective->name),
                                          .rows = objective->options,
                                          .fits = objective->fit_solve != NULL};
    }
    return rows;
}

/* A job can be loaded and reproduces itself; all trials of a sweep resolve. */
static void check_file(const char *path, const cps_job_setup *setup) {
    const bool is_sweep = strstr(path, "/head-to-head.lua") != NULL;
    cps_job *job = NULL;
    cps_json *sweep = NULL;
    if ((is_sweep ? cps_sweep_expand(path, setup, &sweep) : cps_job_load(path, setup, &job)) !=
        CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    if (!is_sweep) {
        assert_reproduces(job);
    }
    cps_job_destroy(job);
    cps_json_destroy(sweep);
}

/* Every file that users copy. */
static void test_jobs_of_the_tree(void **unused) {
    (void)unused;
    char **paths = NULL;
    int64_t count = 0;
    const char *root = getenv("COPSE_ROOT");
    if (root == NULL) {
        print_message("skipped: COPSE_ROOT does not say where the plugins are\n");
        skip();
    }
    cps_plugins *plugins = NULL;
    char *folder = cps_format("%s/plugins", root), *pattern = cps_format("%s/jobs/*.lua", tree);
    assert_int_equal(cps_plugins_create(folder, cps_host_table(), &plugins), CPS_OK);
    cps_job_rows *rows = rows_of_plugins(plugins);
    known_rows = rows;
    const cps_job_setup setup = {.lua_folder = lua_folder, .rows = rows};
    assert_int_equal(cps_glob(pattern, &paths, &count), CPS_OK);
    assert_true(count >= 7);
    for (int64_t i = 0; i < count; i++) {
        check_file(paths[i], &setup);
    }
    cps_strings_destroy(paths, count);
    known_rows = test_rows();
    int64_t engine = 0;
    (void)cps_job_engine_rows(&engine);
    for (int64_t i = engine; rows[i].kind != NULL; i++) {
        free((void *)(uintptr_t)rows[i].kind);
    }
    free(rows);
    cps_plugins_destroy(plugins);
    free(folder);
    free(pattern);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_language),
        cmocka_unit_test(test_templates_by_name),
        cmocka_unit_test(test_options_of_stages),
        cmocka_unit_test(test_options_of_the_job),
        cmocka_unit_test(test_options_of_evaluations),
        cmocka_unit_test(test_schedule_with_a_bad_value),
        cmocka_unit_test(test_on_evaluate),
        cmocka_unit_test(test_state_that_cannot_be_kept),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_modules_and_sorted_pairs),
        cmocka_unit_test(test_only_stream),
        cmocka_unit_test(test_mistake_in_a_module),
        cmocka_unit_test(test_missing_files),
        cmocka_unit_test(test_jobs_of_the_tree),
    };
    known_rows = test_rows();
    lua_folder = test_lua_folder();
    tree = realpath(".", NULL);
    char *folder = test_folder();
    const int failed = cmocka_run_group_tests_name("jobs", tests, NULL, NULL);
    remove_test_folder(folder);
    free(lua_folder);
    free(tree);
    return failed;
}
