/* Weights of one tower alone: in its own names behind prefixes of other programs, out of a whole
 * CLIP in either naming, out of a checkpoint by name; what does not fit is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "h5/h5.h"
#include "model/safetensors.h"
#include "model/weights.h"

static char folder[] = "/tmp/copse-tower-weights-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state) {
    (void)state;
    char *command = cps_format("rm -rf '%s'", folder);
    const int status = system(command);
    free(command);
    return status;
}

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* `stock` and `view` are as `text` and `image` are. */
static const char spec[] =
    "{\"embed_dim\": 10, \"image\": {\"image_size\": 16, \"patch\": 4, \"width\": 12, \"layers\": "
    "2, \"heads\": 3}, \"text\": {\"context\": 9, \"vocabulary\": 30, \"width\": 8, \"layers\": 1, "
    "\"heads\": 2}, \"towers\": {"
    "\"ssl\": {\"variant\": \"dino\", \"image_size\": 8, \"patch\": 4, \"width\": 6, \"layers\": "
    "1, "
    "\"heads\": 2}, "
    "\"net\": {\"kind\": \"resnet\", \"image_size\": 32, \"layers\": 14, \"width\": 32}, "
    "\"stock\": {\"kind\": \"text\", \"context\": 9, \"vocabulary\": 30, \"width\": 8, \"layers\": "
    "1, \"heads\": 2, \"embed_dim\": 10}, "
    "\"view\": {\"image_size\": 16, \"patch\": 4, \"width\": 12, \"layers\": 2, \"heads\": 3, "
    "\"embed_dim\": 10}}}";

/* Values of this seed, rounded as a file of floats keeps them. */
static cps_model *allocated(uint64_t seed) {
    cps_json *json = NULL;
    cps_model *model = NULL;
    assert_int_equal(cps_json_parse(spec, strlen(spec), "test", &json), CPS_OK);
    if (cps_model_create(json, 0, 0, &model) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    cps_json_destroy(json);
    cps_params *params = cps_model_params(model);
    assert_int_equal(cps_params_allocate(params, seed), CPS_OK);
    for (int64_t i = 0; i < cps_params_flat_count(params); i++) {
        cps_params_flat(params)[i] = (cps_real)(float)cps_params_flat(params)[i];
    }
    return model;
}

static void load(cps_model *model, const char *tower, const cps_tower_weights *weights,
                 cps_weights_report *report) {
    if (cps_weights_load_tower(model, tower, weights, report) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
}

static void refuse(const char *tower, const cps_tower_weights *weights, const char *part) {
    cps_model *model = allocated(2);
    const uint64_t before = cps_params_digest(cps_model_params(model), "*");
    const cps_status status = cps_weights_load_tower(model, tower, weights, NULL);
    if (status != CPS_ERR_DATA || strstr(cps_fail_message(), part) == NULL ||
        strstr(cps_fail_message(), tower) == NULL) {
        fail_msg("status %d, wanted %d with '%s' and '%s': %s", status, CPS_ERR_DATA, part, tower,
                 cps_fail_message());
    }
    assert_true(before == cps_params_digest(cps_model_params(model), "*"));
    cps_model_destroy(model);
}

/* Parameters whose names begin with `prefix` (of tower `to`: with `other`, the same ones) are equal
 * in both models. Returns how many. */
static int32_t expect_equal(cps_model *a, const char *prefix, cps_model *b, const char *other) {
    cps_params *left = cps_model_params(a), *right = cps_model_params(b);
    int32_t count = 0;
    for (int32_t i = 0; i < cps_params_count(left); i++) {
        const cps_param *from = cps_params_at(left, i);
        if (strncmp(from->name, prefix, strlen(prefix)) == 0) {
            char *name = cps_format("%s%s", other, from->name + strlen(prefix));
            const int32_t index = cps_params_find(right, name);
            if (index >= 0) {
                const cps_param *to = cps_params_at(right, index);
                assert_int_equal(from->count, to->count);
                assert_memory_equal(from->tensor.data, to->tensor.data,
                                    (size_t)to->count * sizeof(cps_real));
                count++;
            }
            free(name);
        }
    }
    return count;
}

static int32_t count_of(cps_model *model, const char *tower) {
    int32_t count = 0;
    cps_tower_params(cps_model_tower(model, tower), &count);
    return count;
}

/* ---- files ---- */

typedef struct pile {
    cps_safetensor_source sources[256];
    char names[256][200];
    int64_t count;
} pile;

/* The tower's parameters, `prefix` in place of its own. */
static void add_tower(pile *made, cps_model *model, const char *tower, const char *prefix) {
    const cps_tower *from = cps_model_tower(model, tower);
    int32_t count = 0;
    const int32_t *indices = cps_tower_params(from, &count);
    for (int32_t i = 0; i < count; i++) {
        const cps_param *param = cps_params_at(cps_model_params(model), indices[i]);
        assert_true(made->count < 256);
        cps_safetensor_source *source = &made->sources[made->count];
        snprintf(made->names[made->count], 200, "%s%s", prefix,
                 param->name + strlen(cps_tower_get_config(from)->prefix));
        *source = (cps_safetensor_source){.rank = param->spec.rank, .values = param->tensor.data};
        memcpy(source->shape, param->spec.shape, sizeof source->shape);
        made->count++;
    }
}

static void add_one(pile *made, const char *name) {
    static const cps_real one = 1;
    snprintf(made->names[made->count], 200, "%s", name);
    made->sources[made->count++] = (cps_safetensor_source){.rank = 1, .shape = {1}, .values = &one};
}

static const char *write_pile(pile *made, const char *name) {
    for (int64_t i = 0; i < made->count; i++) {
        made->sources[i].name = made->names[i];
    }
    assert_int_equal(cps_safetensors_write(in_folder(name), made->sources, made->count), CPS_OK);
    return in_folder(name);
}

static void write_checkpoint(cps_model *model, const char *path) {
    cps_h5 *file = NULL;
    assert_int_equal(cps_h5_create(path, &file), CPS_OK);
    const cps_h5_type type = sizeof(cps_real) == 8 ? CPS_H5_F64 : CPS_H5_F32;
    for (int32_t i = 0; i < cps_params_count(cps_model_params(model)); i++) {
        const cps_param *param = cps_params_at(cps_model_params(model), i);
        char *name = cps_format("model/%s", param->name);
        assert_int_equal(
            cps_h5_write(file, name, type, param->spec.rank, param->spec.shape, param->tensor.data),
            CPS_OK);
        free(name);
    }
    assert_int_equal(cps_h5_close(file), CPS_OK);
}

/* ---- tests ---- */

/* A ViT in timm's names and a residual network in torchvision's; the rest of the model stays. */
static void test_own_names(void **state) {
    (void)state;
    static const char *const towers[] = {"ssl", "net"}, *const prefixes[] = {"ssl.", "net."};
    static const char *const fronts[] = {"", "module.", "backbone.", "module.backbone.", "model."};
    static pile made;
    cps_model *out = allocated(1);
    for (int32_t t = 0; t < 2; t++) {
        for (int32_t f = 0; f < 5; f++) {
            made.count = 0;
            add_tower(&made, out, towers[t], fronts[f]);
            char *head = cps_format("%shead.mlp.0.weight", f == 0 ? "" : "module.");
            add_one(&made, head);
            add_one(&made, "module.bn1.num_batches_tracked");
            cps_model *in = allocated(2);
            const uint64_t others = cps_params_digest(cps_model_params(in), "visual.*");
            cps_weights_report report = {0};
            load(in, towers[t], &(cps_tower_weights){.path = write_pile(&made, "own.safetensors")},
                 &report);
            assert_int_equal(report.loaded, count_of(in, towers[t]));
            assert_int_equal(report.unused_count, 1);
            assert_string_equal(report.unused[0], head);
            assert_int_equal(expect_equal(out, prefixes[t], in, prefixes[t]),
                             count_of(in, towers[t]));
            assert_true(others == cps_params_digest(cps_model_params(in), "visual.*"));
            cps_weights_report_free(&report);
            cps_model_destroy(in);
            free(head);
        }
    }
    cps_model_destroy(out);
}

/* A second text tower, and a second image tower as CLIP's, out of CLIP files of all kinds. */
static void test_out_of_clip(void **state) {
    (void)state;
    static pile made;
    cps_model *out = allocated(1);
    for (int32_t kind = 0; kind < 4; kind++) { /* open_clip, custom text, DDP, Hugging Face */
        made.count = 0;
        if (kind < 3) {
            add_tower(&made, out, "text", kind == 0 ? "" : kind == 1 ? "text." : "module.");
            add_tower(&made, out, "image", kind == 2 ? "module.visual." : "visual.");
            write_pile(&made, "clip.safetensors");
        } else {
            cps_json *json = NULL;
            cps_model *clip = NULL;
            char text[400];
            snprintf(text, sizeof text, "%.*s}", (int)(strstr(spec, ", \"towers\"") - spec), spec);
            assert_int_equal(cps_json_parse(text, strlen(text), "test", &json), CPS_OK);
            assert_int_equal(cps_model_create(json, 0, 0, &clip), CPS_OK);
            assert_int_equal(cps_params_allocate(cps_model_params(clip), 5), CPS_OK);
            for (int32_t i = 0; i < cps_params_count(cps_model_params(clip)); i++) {
                const cps_param *to = cps_params_at(cps_model_params(clip), i);
                const int32_t from = cps_params_find(cps_model_params(out), to->name);
                memcpy(to->tensor.data, cps_params_at(cps_model_params(out), from)->tensor.data,
                       (size_t)to->count * sizeof(cps_real));
            }
            assert_int_equal(
                cps_weights_save(clip, in_folder("clip.safetensors"), CPS_WEIGHTS_HUGGING_FACE),
                CPS_OK);
            cps_model_destroy(clip);
            cps_json_destroy(json);
        }
        cps_model *in = allocated(2);
        const cps_tower_weights weights = {.path = in_folder("clip.safetensors")};
        cps_weights_report report = {0};
        load(in, "stock", &weights, &report);
        assert_int_equal(report.loaded, count_of(in, "stock"));
        cps_weights_report_free(&report);
        load(in, "view", &weights, NULL);
        assert_int_equal(expect_equal(in, "stock.", out, ""), count_of(in, "stock"));
        assert_int_equal(expect_equal(in, "view.", out, "visual."), count_of(in, "view"));
        cps_model_destroy(in);
    }
    cps_model_destroy(out);
}

static void test_checkpoint(void **state) {
    (void)state;
    cps_model *out = allocated(1), *in = allocated(2);
    char path[256];
    snprintf(path, sizeof path, "%s", in_folder("c.h5"));
    write_checkpoint(out, path);
    load(in, "ssl", &(cps_tower_weights){.path = path}, NULL);
    assert_int_equal(expect_equal(in, "ssl.", out, "ssl."), count_of(in, "ssl"));
    load(in, "stock", &(cps_tower_weights){.path = path, .from = "text"}, NULL);
    assert_int_equal(expect_equal(in, "stock.", out, ""), count_of(in, "stock"));
    load(in, "view", &(cps_tower_weights){.path = path, .from = "image"}, NULL);
    assert_int_equal(expect_equal(in, "view.", out, "visual."), count_of(in, "view"));
    refuse("ssl", &(cps_tower_weights){.path = path, .from = "ssl.teacher"},
           "holds nothing of a tower 'ssl.teacher'");
    refuse("ssl", &(cps_tower_weights){.path = path, .from = "net"},
           "holds nothing of a tower 'net'");
    /* In a safetensors file of ours it is found by name as well. */
    assert_int_equal(cps_weights_save(out, in_folder("e.safetensors"), CPS_WEIGHTS_OPEN_CLIP),
                     CPS_OK);
    cps_model *other = allocated(3);
    load(other, "ssl", &(cps_tower_weights){.path = in_folder("e.safetensors"), .from = "ssl"},
         NULL);
    assert_int_equal(expect_equal(other, "ssl.", out, "ssl."), count_of(other, "ssl"));
    cps_model_destroy(other);
    cps_model_destroy(out);
    cps_model_destroy(in);
}

static void test_refusals(void **state) {
    (void)state;
    static pile made;
    cps_model *out = allocated(1);
    made.count = 0;
    add_tower(&made, out, "ssl", "backbone.");
    made.count--; /* the last one, norm.bias */
    cps_tower_weights weights = {.path = write_pile(&made, "short.safetensors")};
    refuse("ssl", &weights, "ssl.norm.bias");
    weights.partial = true;
    cps_model *in = allocated(2);
    cps_weights_report report = {0};
    load(in, "ssl", &weights, &report);
    assert_int_equal(report.missing_count, 1);
    assert_int_equal(report.loaded, count_of(in, "ssl") - 1);
    cps_weights_report_free(&report);
    cps_model_destroy(in);

    made.count = 0;
    add_tower(&made, out, "net", "");
    refuse("ssl", &(cps_tower_weights){.path = write_pile(&made, "net.safetensors")},
           "holds none of the parameters of tower 'ssl'");
    made.count = 0;
    add_tower(&made, out, "ssl", "");
    for (int64_t i = 0; i < made.count; i++) {
        if (strcmp(made.names[i], "norm.weight") == 0) {
            made.sources[i].shape[0]--;
        }
    }
    refuse("ssl", &(cps_tower_weights){.path = write_pile(&made, "shape.safetensors")},
           "'norm.weight' has shape [5], tower 'ssl' wants [6]");
    cps_model_destroy(out);
}

static void refuse_spec(const char *text, const char *part) {
    cps_json *json = NULL;
    cps_model *model = NULL;
    assert_int_equal(cps_json_parse(text, strlen(text), "test", &json), CPS_OK);
    assert_int_equal(cps_model_create(json, 0, 0, &model), CPS_ERR_USAGE);
    if (strstr(cps_fail_message(), part) == NULL) {
        fail_msg("'%s' lacks '%s'", cps_fail_message(), part);
    }
    cps_json_destroy(json);
}

static void test_settings(void **state) {
    (void)state;
    refuse_spec("{\"preset\": \"ViT-Micro-8\", \"image\": {\"weights\": \"a\"}}",
                "model.image.weights: files of their own are for towers in model.towers");
    refuse_spec("{\"preset\": \"ViT-Micro-8\", \"towers\": {\"net\": {\"kind\": \"resnet\", "
                "\"image_size\": 32, \"weights_from\": \"net\"}}}",
                "model.towers.net: weights_from says how to read weights, which are missing");
    cps_json *json = NULL;
    cps_model *model = NULL;
    static const char text[] = "{\"preset\": \"ViT-Micro-8\", \"towers\": {\"net\": {\"kind\": "
                               "\"resnet\", \"image_size\": "
                               "32, \"weights\": \"a.safetensors\", \"partial\": true}}}";
    assert_int_equal(cps_json_parse(text, strlen(text), "test", &json), CPS_OK);
    assert_int_equal(cps_model_create(json, 0, 0, &model), CPS_OK);
    const cps_tower_weights *weights = cps_model_tower_weights(model, "net");
    assert_string_equal(weights->path, "a.safetensors");
    assert_true(weights->partial && weights->from == NULL);
    assert_null(cps_model_tower_weights(model, "image")->path);
    assert_null(cps_model_tower_weights(model, "nobody")->path);
    cps_model_destroy(model);
    cps_json_destroy(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_names), cmocka_unit_test(test_out_of_clip),
        cmocka_unit_test(test_checkpoint), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_settings)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
