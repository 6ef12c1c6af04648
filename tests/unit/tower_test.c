/* Towers and models: sizes, names, initial values, JSON, and that every way through a tower gives
 * the same numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/rng.h"
#include "model/model.h"
#include "tensor/gemm.h"

/* ---- models from JSON ---- */

static cps_status try_model(const char *text, int64_t vocabulary, int64_t context,
                            cps_model **model_out) {
    cps_json *spec = NULL;
    assert_int_equal(cps_json_parse(text, strlen(text), "test", &spec), CPS_OK);
    const cps_status status = cps_model_create(spec, vocabulary, context, model_out);
    cps_json_destroy(spec);
    return status;
}

static cps_model *make_model(const char *text) {
    cps_model *model = NULL;
    const cps_status status = try_model(text, 0, 0, &model);
    if (status != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return model;
}

static void refuse(const char *text, const char *part) {
    cps_model *model = NULL;
    assert_int_equal(try_model(text, 0, 0, &model), CPS_ERR_USAGE);
    assert_null(model);
    if (strstr(cps_fail_message(), part) == NULL) {
        fail_msg("'%s' is not in: %s", part, cps_fail_message());
    }
}

/* Published counts less one, the logit scale, which objectives declare. */
static void test_preset_parameter_counts(void **state) {
    (void)state;
    static const struct {
        const char *preset;
        int64_t count;
    } rows[] = {{"ViT-B-32", 151277312}, {"ViT-B-16", 149620736}, {"ViT-L-14", 427616512}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"preset\": \"%s\"}", rows[i].preset);
        cps_model *model = make_model(text);
        assert_int_equal(cps_params_elements(cps_model_params(model), "*"), rows[i].count);
        cps_model_destroy(model);
    }
}

static void test_every_preset_makes_a_model(void **state) {
    (void)state;
    int32_t count = 0;
    for (const char *const *name = cps_model_presets(); *name != NULL; name++) {
        char text[64];
        snprintf(text, sizeof text, "{\"preset\": \"%s\"}", *name);
        cps_model *model = make_model(text);
        const cps_tower_config *image = cps_tower_get_config(cps_model_tower(model, "image"));
        const cps_tower_config *words = cps_tower_get_config(cps_model_tower(model, "text"));
        const bool quick = strstr(*name, "-quickgelu") != NULL;
        assert_int_equal(image->quick_gelu, quick);
        assert_int_equal(words->quick_gelu, quick);
        assert_int_equal(image->embed_dim, words->embed_dim);
        assert_int_equal(image->heads * 64, image->width);
        assert_int_equal(words->vocabulary, 49408);
        cps_model_destroy(model);
        count++;
    }
    assert_int_equal(count, 14);
}

/* clip-towers.md 4: 14.8, 41.1, 175 GFLOP a pair, text of B 5.9. */
static void test_flop(void **state) {
    (void)state;
    cps_model *model = make_model("{\"preset\": \"ViT-B-32\"}");
    const cps_tower *image = cps_model_tower(model, "image"),
                    *text = cps_model_tower(model, "text");
    assert_true(fabs((cps_tower_flop(image, 1, 0) + cps_tower_flop(text, 1, 0)) / 1e9 - 14.8) <
                0.1);
    assert_true(fabs(cps_tower_flop(text, 1, 77) / 1e9 - 5.95) < 0.06);
    assert_true(cps_tower_flop(text, 10, 77) == 10 * cps_tower_flop(text, 1, 0));
    assert_int_equal(cps_tower_positions(image), 50);
    cps_model_destroy(model);
}

static void test_sizes_may_be_overridden(void **state) {
    (void)state;
    cps_model *model = make_model("{\"preset\": \"ViT-Micro-8\", \"embed_dim\": 40, \"image\": "
                                  "{\"layers\": 2, \"activation\": \"quick_gelu\"}, \"text\": "
                                  "{\"context\": 20, \"width\": 128}}");
    const cps_tower_config *image = cps_tower_get_config(cps_model_tower(model, "image"));
    const cps_tower_config *text = cps_tower_get_config(cps_model_tower(model, "text"));
    assert_int_equal(image->layers, 2);
    assert_int_equal(image->width, 192);
    assert_true(image->quick_gelu);
    assert_false(text->quick_gelu);
    assert_int_equal(text->context, 20);
    assert_int_equal(text->heads, 2);
    assert_int_equal(text->embed_dim, 40);
    cps_model_destroy(model);
}

static void test_tokenizer_sets_vocabulary_and_context(void **state) {
    (void)state;
    cps_model *model = NULL;
    assert_int_equal(try_model("{\"preset\": \"ViT-Micro-8\"}", 1000, 24, &model), CPS_OK);
    const cps_tower_config *text = cps_tower_get_config(cps_model_tower(model, "text"));
    assert_int_equal(text->vocabulary, 1000);
    assert_int_equal(text->context, 24);
    cps_model_destroy(model);
    model = NULL;
    assert_int_equal(try_model("{\"preset\": \"ViT-Micro-8\", \"towers\": {\"stock\": {\"kind\": "
                               "\"text\", \"width\": 64, \"layers\": 1}}}",
                               1000, 24, &model),
                     CPS_OK);
    const cps_tower_config *stock = cps_tower_get_config(cps_model_tower(model, "stock"));
    assert_int_equal(stock->vocabulary, 1000);
    assert_int_equal(stock->context, 24);
    assert_int_equal(stock->embed_dim,
                     cps_tower_get_config(cps_model_tower(model, "text"))->embed_dim);
    cps_model_destroy(model);
    model = NULL;
    /* A tokenizer without a context: texts are those of the tower `text`. */
    assert_int_equal(try_model("{\"preset\": \"ViT-Micro-8\", \"text\": {\"context\": 19}, "
                               "\"towers\": {\"stock\": {\"kind\": \"text\", \"width\": 64, "
                               "\"layers\": 1}}}",
                               1000, 0, &model),
                     CPS_OK);
    assert_int_equal(cps_tower_get_config(cps_model_tower(model, "stock"))->context, 19);
    cps_model_destroy(model);
    model = NULL;
    assert_int_equal(try_model("{\"preset\": \"ViT-Micro-8\", \"towers\": {\"stock\": {\"kind\": "
                               "\"text\", \"width\": 64, \"layers\": 1, \"context\": 23}}}",
                               1000, 24, &model),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "model.towers.stock.context is 23"));
    assert_int_equal(try_model("{\"preset\": \"ViT-Micro-8\", \"text\": {\"vocabulary\": 999}}",
                               1000, 24, &model),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "1000"));
    assert_int_equal(
        try_model("{\"preset\": \"ViT-Micro-8\", \"text\": {\"context\": 16}}", 1000, 24, &model),
        CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "24"));
}

static void test_bad_specs_are_refused(void **state) {
    (void)state;
    refuse("{}", "no tower");
    refuse("{\"preset\": \"ViT-B-33\"}", "did you mean 'ViT-B-32'");
    refuse("{\"preset\": \"ViT-B-32\", \"imag\": {}}", "imag");
    refuse("{\"preset\": \"ViT-B-32\", \"image\": {\"widht\": 3}}", "widht");
    refuse("{\"preset\": \"ViT-B-32\", \"image\": {\"patch\": 33}}",
           "image_size 224 is no multiple of patch 33");
    refuse("{\"preset\": \"ViT-B-32\", \"image\": {\"heads\": 7}}",
           "width 768 is no multiple of heads 7");
    refuse("{\"preset\": \"ViT-B-32\", \"image\": {\"width\": 100}}", "heads is missing");
    refuse("{\"preset\": \"ViT-B-32\", \"image\": {\"context\": 9}}", "model.image.context");
    refuse("{\"preset\": \"ViT-B-32\", \"text\": {\"patch\": 9}}", "model.text.patch");
    refuse("{\"preset\": \"ViT-B-32\", \"text\": {\"layers\": 0}}", "layers");
    refuse("{\"preset\": \"ViT-B-32\", \"text\": {\"kind\": \"vit\"}}", "model.text.kind");
    refuse("{\"image\": {\"width\": 64}}", "image_size is missing");
    refuse("{\"preset\": \"ViT-B-32\", \"image\": {\"std\": [1, 0, 1]}}", "std[2]");
    refuse("{\"preset\": \"ViT-B-32\", \"towers\": {\"text\": {}}}", "model.towers.text");
    refuse("{\"preset\": \"ViT-B-32\", \"towers\": {\"t\": {\"ema_of\": \"ssl\"}}}", "'ssl'");
    refuse("{\"preset\": \"ViT-B-32\", \"towers\": [1]}", "model.towers is a table");
    refuse("{\"image\": {\"image_size\": 8, \"patch\": 4, \"width\": 6, \"layers\": 1, "
           "\"heads\": 2, \"drop_path\": 1}}",
           "drop_path");
}

static const char with_dino[] =
    "{\"preset\": \"ViT-Micro-8\", \"towers\": {\"ssl\": {\"image_size\": 32, \"patch\": 8, "
    "\"width\": 12, \"layers\": 2, \"heads\": 3, \"variant\": \"dino\", \"drop_path\": 0.1}, "
    "\"another\": {\"kind\": \"text\", \"context\": 40, \"vocabulary\": 30, \"width\": 8, "
    "\"layers\": 1, \"heads\": 2}}}";

static void test_description_makes_the_same_model(void **state) {
    (void)state;
    cps_model *model = make_model(with_dino);
    cps_tower *teacher = NULL;
    assert_int_equal(cps_tower_create_ema(cps_model_params(model), cps_model_tower(model, "ssl"),
                                          "ssl.teacher", "ssl.teacher.", &teacher),
                     CPS_OK);
    assert_int_equal(cps_model_add_tower(model, teacher), CPS_OK);
    cps_json *first = cps_model_describe(model);
    char *text = cps_json_print(first, false, true);
    cps_model *again = NULL;
    assert_int_equal(cps_model_create(first, 0, 0, &again), CPS_OK);
    cps_json *second = cps_model_describe(again);
    char *same = cps_json_print(second, false, true);
    assert_string_equal(text, same);
    cps_params *a = cps_model_params(model), *b = cps_model_params(again);
    assert_int_equal(cps_params_count(a), cps_params_count(b));
    for (int32_t i = 0; i < cps_params_count(a); i++) {
        assert_string_equal(cps_params_at(a, i)->name, cps_params_at(b, i)->name);
        assert_int_equal(cps_params_at(a, i)->offset, cps_params_at(b, i)->offset);
    }
    assert_true(cps_params_find(a, "ssl.teacher.blocks.1.attn.qkv.weight") >= 0);
    assert_true(cps_params_find(a, "another.transformer.resblocks.0.mlp.c_fc.bias") >= 0);
    free(text);
    free(same);
    cps_json_destroy(first);
    cps_json_destroy(second);
    cps_model_destroy(model);
    cps_model_destroy(again);
}

/* ---- initial values ---- */

typedef struct spread {
    double mean, deviation, low, high, count;
} spread;

static spread spread_of(cps_model *model, const char *name) {
    cps_params *params = cps_model_params(model);
    const int32_t index = cps_params_find(params, name);
    if (index < 0) {
        fail_msg("no parameter '%s'", name);
    }
    const cps_param *param = cps_params_at(params, index);
    const cps_real *values = param->tensor.data;
    double sum = 0, squares = 0;
    spread out = {
        .low = (double)INFINITY, .high = -(double)INFINITY, .count = (double)param->count};
    for (int64_t i = 0; i < param->count; i++) {
        const double value = (double)values[i];
        sum += value;
        squares += value * value;
        out.low = fmin(out.low, value);
        out.high = fmax(out.high, value);
    }
    out.mean = sum / (double)param->count;
    out.deviation = sqrt(squares / (double)param->count - out.mean * out.mean);
    return out;
}

/* Within four standard errors. */
static void expect_normal(cps_model *model, const char *name, double deviation) {
    const spread seen = spread_of(model, name);
    if (fabs(seen.deviation / deviation - 1) > 4 / sqrt(2 * seen.count) ||
        fabs(seen.mean) > 4 * deviation / sqrt(seen.count) || seen.high < 2 * deviation) {
        fail_msg("%s: mean %g, deviation %g, wanted 0, %g", name, seen.mean, seen.deviation,
                 deviation);
    }
}

static void expect_uniform(cps_model *model, const char *name, double bound) {
    const spread seen = spread_of(model, name);
    if (seen.low < -bound || seen.high > bound || seen.low > -0.9 * bound ||
        seen.high < 0.9 * bound || fabs(seen.deviation * sqrt(3) / bound - 1) > 0.12) {
        fail_msg("%s: %g to %g, deviation %g, wanted uniform up to %g", name, seen.low, seen.high,
                 seen.deviation, bound);
    }
}

static void expect_constant(cps_model *model, const char *name, double value) {
    const spread seen = spread_of(model, name);
    assert_true(seen.low == value && seen.high == value);
}

/* clip-towers.md 3, width 192, text blocks 3. */
static void test_initial_values(void **state) {
    (void)state;
    cps_model *model = make_model("{\"preset\": \"ViT-Micro-8\", \"text\": {\"vocabulary\": 500}}");
    assert_int_equal(cps_params_allocate(cps_model_params(model), 5), CPS_OK);
    const double c = 1 / sqrt(192), residual = c / sqrt(6);
    expect_normal(model, "token_embedding.weight", 0.02);
    expect_normal(model, "positional_embedding", 0.01);
    expect_normal(model, "text_projection", c);
    expect_normal(model, "transformer.resblocks.2.attn.in_proj_weight", c);
    expect_normal(model, "transformer.resblocks.2.attn.out_proj.weight", residual);
    expect_normal(model, "transformer.resblocks.2.mlp.c_proj.weight", residual);
    expect_normal(model, "transformer.resblocks.0.mlp.c_fc.weight", c / sqrt(2));
    expect_constant(model, "transformer.resblocks.0.attn.in_proj_bias", 0);
    expect_constant(model, "transformer.resblocks.0.attn.out_proj.bias", 0);
    expect_uniform(model, "transformer.resblocks.0.mlp.c_fc.bias", c);
    expect_uniform(model, "transformer.resblocks.0.mlp.c_proj.bias", c / 2);
    expect_constant(model, "ln_final.weight", 1);
    expect_constant(model, "ln_final.bias", 0);
    expect_normal(model, "visual.class_embedding", c);
    expect_normal(model, "visual.positional_embedding", c);
    expect_normal(model, "visual.proj", c);
    expect_uniform(model, "visual.conv1.weight", c); /* 3 * 8 * 8 = 192 */
    expect_uniform(model, "visual.transformer.resblocks.5.attn.in_proj_weight", sqrt(6.0 / 768));
    expect_constant(model, "visual.transformer.resblocks.5.attn.in_proj_bias", 0);
    expect_uniform(model, "visual.transformer.resblocks.5.attn.out_proj.weight", c);
    expect_uniform(model, "visual.transformer.resblocks.5.mlp.c_fc.weight", c);
    expect_uniform(model, "visual.transformer.resblocks.5.mlp.c_fc.bias", c);
    expect_uniform(model, "visual.transformer.resblocks.5.mlp.c_proj.weight", c / 2);
    expect_constant(model, "visual.ln_pre.weight", 1);
    cps_model_destroy(model);
}

static void test_initial_values_of_dino(void **state) {
    (void)state;
    cps_model *model = make_model(
        "{\"towers\": {\"ssl\": {\"image_size\": 64, \"patch\": 8, \"width\": 96, \"layers\": 1, "
        "\"heads\": 3, \"variant\": \"dino\"}}}");
    assert_int_equal(cps_params_allocate(cps_model_params(model), 5), CPS_OK);
    expect_normal(model, "ssl.pos_embed", 0.02);
    expect_normal(model, "ssl.blocks.0.attn.qkv.weight", 0.02);
    expect_normal(model, "ssl.blocks.0.mlp.fc2.weight", 0.02);
    expect_constant(model, "ssl.blocks.0.mlp.fc1.bias", 0);
    expect_uniform(model, "ssl.patch_embed.proj.weight", 1 / sqrt(192));
    expect_uniform(model, "ssl.patch_embed.proj.bias", 1 / sqrt(192));
    const cps_tower_config *config = cps_tower_get_config(cps_model_tower(model, "ssl"));
    assert_true(config->norm_eps == 1e-6);
    assert_true(config->mean[0] == 0.485);
    const int32_t table = cps_params_find(cps_model_params(model), "ssl.pos_embed");
    assert_true(cps_params_at(cps_model_params(model), table)->decays);
    cps_model_destroy(model);
}

/* ---- forward passes ---- */

enum { TEXTS = 3, CONTEXT = 9, IMAGES = 4, IMAGE_SIZE = 16, VOCABULARY = 30 };

static const char small[] =
    "{\"embed_dim\": 10, \"image\": {\"image_size\": 16, \"patch\": 4, \"width\": 12, \"layers\": "
    "3, \"heads\": 3}, \"text\": {\"context\": 9, \"vocabulary\": 30, \"width\": 8, \"layers\": 2, "
    "\"heads\": 2}}";

typedef struct bench {
    cps_model *model;
    cps_arena *arena;
    cps_tape *tape;
    cps_real image[IMAGES * 3 * 24 * 24];
    int32_t ids[TEXTS * CONTEXT], offsets[TEXTS + 1], ends[TEXTS];
} bench;

static void start(bench *b, const char *spec, cps_tape_mode mode, bool counting) {
    memset(b, 0, sizeof *b);
    b->model = make_model(spec);
    assert_int_equal(cps_params_allocate(cps_model_params(b->model), 11), CPS_OK);
    assert_int_equal(cps_params_set_train(cps_model_params(b->model), NULL, 0), CPS_OK);
    assert_int_equal(counting ? cps_arena_create_counting("tower", &b->arena)
                              : cps_arena_create("tower", 1 << 22, true, &b->arena),
                     CPS_OK);
    assert_int_equal(cps_tape_create(b->arena, mode, NULL, &b->tape), CPS_OK);
    cps_fill_normal(3, "image", 1, b->image, sizeof b->image / sizeof *b->image);
    static const int32_t ids[] = {27, 4, 29, 27, 5, 6, 7, 8, 1, 2, 29, 27, 29};
    static const int32_t offsets[] = {0, 3, 11, 13}, ends[] = {2, 10, 12};
    memcpy(b->ids, ids, sizeof ids);
    memcpy(b->offsets, offsets, sizeof offsets);
    memcpy(b->ends, ends, sizeof ends);
}

static void end(bench *b) {
    cps_tape_destroy(b->tape);
    cps_arena_destroy(b->arena);
    cps_model_destroy(b->model);
}

static cps_tower_output see(bench *b, int64_t height, int64_t width, uint32_t outputs) {
    const int64_t shape[] = {IMAGES, 3, height, width};
    const cps_tower_input input = {
        .image = cps_tape_leaf(b->tape, CPS_REAL, 4, shape, b->image, NULL, -1)};
    cps_tower_output out = {0};
    const cps_status status =
        cps_tower_forward(cps_model_tower_at(b->model, 0), b->tape, &input, outputs, &out);
    if (status != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return out;
}

static cps_tower_output read_texts(bench *b, uint32_t outputs) {
    const int64_t rows = b->offsets[TEXTS];
    const cps_tower_input input = {.ids =
                                       cps_tape_leaf(b->tape, CPS_I32, 1, &rows, b->ids, NULL, -1),
                                   .count = TEXTS,
                                   .offsets = b->offsets,
                                   .ends = b->ends};
    cps_tower_output out = {0};
    const cps_status status =
        cps_tower_forward(cps_model_tower(b->model, "text"), b->tape, &input, outputs, &out);
    if (status != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return out;
}

static double difference(const cps_tensor *a, const cps_tensor *b) {
    double worst = 0;
    assert_int_equal(a->shape[0] * a->shape[1], b->shape[0] * b->shape[1]);
    for (int64_t i = 0; i < a->shape[0] * a->shape[1]; i++) {
        const double gap =
            (double)((const cps_real *)a->data)[i] - (double)((const cps_real *)b->data)[i];
        worst = isfinite(gap) ? fmax(worst, fabs(gap)) : (double)INFINITY;
    }
    return worst;
}

static const double close = sizeof(cps_real) == sizeof(double) ? 1e-13 : 1e-5;

static void expect_bits(const cps_tensor *a, const cps_tensor *b) {
    assert_int_equal(a->shape[0], b->shape[0]);
    assert_int_equal(a->shape[1], b->shape[1]);
    assert_memory_equal(a->data, b->data, (size_t)(a->shape[0] * a->shape[1]) * sizeof(cps_real));
}

static void test_recording_changes_no_bit(void **state) {
    (void)state;
    bench plain, recorded;
    start(&plain, small, CPS_TAPE_PLAIN, false);
    start(&recorded, small, CPS_TAPE_RECORD, false);
    const uint32_t all = 31;
    const cps_tower_output a = see(&plain, 16, 16, all), b = see(&recorded, 16, 16, all);
    expect_bits(a.pooled, b.pooled);
    expect_bits(a.projected, b.projected);
    expect_bits(a.feature, b.feature);
    expect_bits(a.tokens, b.tokens);
    expect_bits(a.tokens_projected, b.tokens_projected);
    const cps_tower_output c = read_texts(&plain, all), d = read_texts(&recorded, all);
    expect_bits(c.feature, d.feature);
    expect_bits(c.tokens, d.tokens);
    const cps_tower_output e = see(&plain, 16, 16, CPS_OUT_FEATURE);
    const cps_tower_output f = see(&recorded, 16, 16, CPS_OUT_FEATURE);
    expect_bits(e.feature, f.feature);
    assert_null(e.tokens);
    assert_null(e.pooled);
    end(&plain);
    end(&recorded);
}

/* The frozen lower part of a tower runs without a recording and gives the same numbers. */
static void test_freezing_changes_no_bit(void **state) {
    (void)state;
    bench frozen, whole;
    start(&frozen, small, CPS_TAPE_RECORD, false);
    start(&whole, small, CPS_TAPE_RECORD, false);
    const char *top[] = {"visual.transformer.resblocks.2.*", "visual.proj"};
    assert_int_equal(cps_params_set_train(cps_model_params(frozen.model), top, 2), CPS_OK);
    const cps_tower_output a = see(&frozen, 16, 16, CPS_OUT_FEATURE);
    const cps_tower_output b = see(&whole, 16, 16, CPS_OUT_FEATURE);
    expect_bits(a.feature, b.feature);
    assert_true(a.feature->needs_grad);
    assert_true(cps_arena_used(frozen.arena) < cps_arena_used(whole.arena) * 2 / 3);
    end(&frozen);
    end(&whole);
}

static void test_ends_alone_equal_all_positions(void **state) {
    (void)state;
    bench b;
    start(&b, small, CPS_TAPE_PLAIN, false);
    const cps_tower_output few = see(&b, 16, 16, CPS_OUT_POOLED | CPS_OUT_FEATURE);
    const cps_tower_output all =
        see(&b, 16, 16, CPS_OUT_POOLED | CPS_OUT_FEATURE | CPS_OUT_TOKENS_PROJECTED);
    assert_true(difference(few.pooled, all.pooled) < close);
    assert_true(difference(few.feature, all.feature) < close);
    assert_int_equal(all.tokens_projected->shape[0], IMAGES * 17);
    assert_int_equal(all.ends[3], 3 * 17);
    assert_int_equal(all.offsets[IMAGES], IMAGES * 17);
    const cps_tower_output text_few = read_texts(&b, CPS_OUT_PROJECTED);
    const cps_tower_output text_all = read_texts(&b, CPS_OUT_PROJECTED | CPS_OUT_TOKENS);
    assert_true(difference(text_few.projected, text_all.projected) < close);
    end(&b);
}

/* Positions after the end token cannot reach the feature. */
static void test_padding_is_exact(void **state) {
    (void)state;
    bench packed, padded;
    start(&packed, small, CPS_TAPE_PLAIN, false);
    start(&padded, small, CPS_TAPE_PLAIN, false);
    memset(padded.ids, 0, sizeof padded.ids);
    for (int32_t i = 0; i < TEXTS; i++) {
        const int32_t length = packed.offsets[i + 1] - packed.offsets[i];
        memcpy(padded.ids + i * CONTEXT, packed.ids + packed.offsets[i],
               (size_t)length * sizeof *packed.ids);
        padded.offsets[i + 1] = (i + 1) * CONTEXT;
        padded.ends[i] = i * CONTEXT + length - 1;
    }
    const cps_tower_output a = read_texts(&packed, CPS_OUT_PROJECTED);
    const cps_tower_output b = read_texts(&padded, CPS_OUT_PROJECTED);
    assert_true(difference(a.projected, b.projected) < close);
    end(&packed);
    end(&padded);
}

static void test_plan_counts_what_a_pass_takes(void **state) {
    (void)state;
    bench plan, real;
    start(&plan, small, CPS_TAPE_PLAN, true);
    start(&real, small, CPS_TAPE_RECORD, false);
    see(&plan, 16, 16, CPS_OUT_FEATURE);
    see(&real, 16, 16, CPS_OUT_FEATURE);
    read_texts(&plan, CPS_OUT_FEATURE | CPS_OUT_TOKENS);
    read_texts(&real, CPS_OUT_FEATURE | CPS_OUT_TOKENS);
    assert_int_equal(cps_arena_high_water(plan.arena), cps_arena_high_water(real.arena));
    end(&plan);
    end(&real);
}

/* Without a recording the memory is that of one block, however many there are, and a plan knows it.
 */
static void test_plain_passes_need_one_block(void **state) {
    (void)state;
    static const int32_t layers[] = {2, 12};
    size_t bytes[2][2];
    for (int32_t i = 0; i < 2; i++) {
        char spec[256];
        snprintf(spec, sizeof spec,
                 "{\"image\": {\"image_size\": 16, \"patch\": 4, \"width\": 64, \"layers\": %d}, "
                 "\"embed_dim\": 10}",
                 layers[i]);
        for (int32_t plans = 0; plans < 2; plans++) {
            bench b;
            start(&b, spec, plans ? CPS_TAPE_PLAN : CPS_TAPE_PLAIN, plans);
            cps_params_pause(cps_model_params(b.model), true);
            see(&b, 16, 16, CPS_OUT_FEATURE);
            bytes[i][plans] = cps_arena_high_water(b.arena);
            cps_params_pause(cps_model_params(b.model), false);
            assert_true(cps_params_at(cps_model_params(b.model), 0)->tensor.needs_grad);
            end(&b);
        }
    }
    assert_int_equal(bytes[0][0], bytes[1][0]);
    assert_int_equal(bytes[0][0], bytes[0][1]);
    assert_int_equal(bytes[1][0], bytes[1][1]);
}

static void test_other_image_sizes(void **state) {
    (void)state;
    bench b;
    start(&b, small, CPS_TAPE_RECORD, false);
    const cps_tower_output wide = see(&b, 12, 24, CPS_OUT_TOKENS);
    assert_int_equal(wide.tokens->shape[0], IMAGES * (1 + 3 * 6));
    const int64_t odd[] = {IMAGES, 3, 16, 18};
    const cps_tower_input input = {.image =
                                       cps_tape_leaf(b.tape, CPS_REAL, 4, odd, b.image, NULL, -1)};
    cps_tower_output out = {0};
    assert_int_equal(
        cps_tower_forward(cps_model_tower_at(b.model, 0), b.tape, &input, CPS_OUT_POOLED, &out),
        CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "18"));
    end(&b);
}

static const char dropping[] =
    "{\"towers\": {\"ssl\": {\"image_size\": 16, \"patch\": 4, \"width\": 12, \"layers\": 3, "
    "\"heads\": 3, \"variant\": \"dino\", \"drop_path\": 0.6}}}";

static cps_tower_output drop(bench *b, const cps_draw_key *draws, uint32_t outputs) {
    const int64_t shape[] = {IMAGES, 3, 16, 16};
    const cps_tower_input input = {
        .image = cps_tape_leaf(b->tape, CPS_REAL, 4, shape, b->image, NULL, -1),
        .training = true,
        .draws = draws};
    cps_tower_output out = {0};
    assert_int_equal(
        cps_tower_forward(cps_model_tower(b->model, "ssl"), b->tape, &input, outputs, &out),
        CPS_OK);
    return out;
}

/* The draws hang on the samples' keys, not on who else is in the batch or what is asked for. */
static void test_drop_path_follows_the_keys(void **state) {
    (void)state;
    bench b;
    start(&b, dropping, CPS_TAPE_RECORD, false);
    cps_draw_key keys[IMAGES] = {{0}}, other[IMAGES] = {{0}};
    for (uint32_t i = 0; i < IMAGES; i++) {
        keys[i] = (cps_draw_key){.seed = 1, .position = i};
        other[i] = (cps_draw_key){.seed = 1, .position = i + 100};
    }
    const cps_tower_output a = drop(&b, keys, CPS_OUT_POOLED);
    const cps_tower_output again = drop(&b, keys, CPS_OUT_POOLED);
    expect_bits(a.pooled, again.pooled);
    const cps_tower_output tokens = drop(&b, keys, CPS_OUT_POOLED | CPS_OUT_TOKENS);
    assert_true(difference(a.pooled, tokens.pooled) < close);
    const cps_tower_output changed = drop(&b, other, CPS_OUT_POOLED);
    assert_true(difference(a.pooled, changed.pooled) > 1e-3);
    const cps_tower_output still = see(&b, 16, 16, CPS_OUT_POOLED);
    assert_true(difference(a.pooled, still.pooled) > 1e-3);
    end(&b);
}

static void refuse_forward(bench *b, const char *tower, const cps_tower_input *input,
                           uint32_t outputs, cps_status code, const char *part) {
    cps_tower_output out = {0};
    assert_int_equal(
        cps_tower_forward(cps_model_tower(b->model, tower), b->tape, input, outputs, &out), code);
    assert_non_null(strstr(cps_fail_message(), part));
    assert_null(out.pooled);
}

static void test_bad_inputs_are_refused(void **state) {
    (void)state;
    bench b;
    start(&b, small, CPS_TAPE_PLAIN, false);
    const int64_t rows = b.offsets[TEXTS], long_rows = 12;
    cps_tower_input input = {0};
    refuse_forward(&b, "image", &input, CPS_OUT_POOLED, CPS_ERR_USAGE, "reads images");
    refuse_forward(&b, "text", &input, CPS_OUT_POOLED, CPS_ERR_USAGE, "reads texts");
    input = (cps_tower_input){.ids = cps_tape_leaf(b.tape, CPS_I32, 1, &rows, b.ids, NULL, -1),
                              .count = TEXTS - 1,
                              .offsets = b.offsets,
                              .ends = b.ends};
    refuse_forward(&b, "text", &input, CPS_OUT_POOLED, CPS_ERR_INTERNAL, "token ids");
    input.count = TEXTS;
    b.ends[1] = 1;
    refuse_forward(&b, "text", &input, CPS_OUT_POOLED, CPS_ERR_INTERNAL, "text 1");
    const int32_t whole[] = {0, 12}, last = 11;
    input = (cps_tower_input){.ids = cps_tape_leaf(b.tape, CPS_I32, 1, &long_rows, b.ids, NULL, -1),
                              .count = 1,
                              .offsets = whole,
                              .ends = &last};
    refuse_forward(&b, "text", &input, CPS_OUT_POOLED, CPS_ERR_USAGE, "context is 9");
    end(&b);
    start(&b, dropping, CPS_TAPE_RECORD, false);
    input = (cps_tower_input){.training = true};
    refuse_forward(&b, "ssl", &input, CPS_OUT_FEATURE, CPS_ERR_USAGE, "no projection");
    refuse_forward(&b, "ssl", &input, CPS_OUT_POOLED, CPS_ERR_INTERNAL, "draw keys");
    end(&b);
}

static void test_empty_batch(void **state) {
    (void)state;
    bench b;
    start(&b, small, CPS_TAPE_RECORD, false);
    const int64_t none[] = {0, 3, 16, 16}, no_rows = 0;
    const int32_t zero = 0;
    const cps_tower_input image = {.image =
                                       cps_tape_leaf(b.tape, CPS_REAL, 4, none, b.image, NULL, -1)};
    const cps_tower_input text = {.ids =
                                      cps_tape_leaf(b.tape, CPS_I32, 1, &no_rows, b.ids, NULL, -1),
                                  .offsets = &zero,
                                  .ends = &zero};
    cps_tower_output out = {0};
    assert_int_equal(
        cps_tower_forward(cps_model_tower(b.model, "image"), b.tape, &image, CPS_OUT_FEATURE, &out),
        CPS_OK);
    assert_int_equal(out.feature->shape[0], 0);
    assert_int_equal(
        cps_tower_forward(cps_model_tower(b.model, "text"), b.tape, &text, CPS_OUT_FEATURE, &out),
        CPS_OK);
    assert_int_equal(out.feature->shape[0], 0);
    end(&b);
}

int main(void) {
    cps_gemm_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_preset_parameter_counts),
        cmocka_unit_test(test_every_preset_makes_a_model),
        cmocka_unit_test(test_flop),
        cmocka_unit_test(test_sizes_may_be_overridden),
        cmocka_unit_test(test_tokenizer_sets_vocabulary_and_context),
        cmocka_unit_test(test_bad_specs_are_refused),
        cmocka_unit_test(test_description_makes_the_same_model),
        cmocka_unit_test(test_initial_values),
        cmocka_unit_test(test_initial_values_of_dino),
        cmocka_unit_test(test_recording_changes_no_bit),
        cmocka_unit_test(test_freezing_changes_no_bit),
        cmocka_unit_test(test_ends_alone_equal_all_positions),
        cmocka_unit_test(test_padding_is_exact),
        cmocka_unit_test(test_plan_counts_what_a_pass_takes),
        cmocka_unit_test(test_plain_passes_need_one_block),
        cmocka_unit_test(test_other_image_sizes),
        cmocka_unit_test(test_drop_path_follows_the_keys),
        cmocka_unit_test(test_bad_inputs_are_refused),
        cmocka_unit_test(test_empty_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
