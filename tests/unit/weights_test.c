/* Weights files: what goes out comes in, in both namings; files that lie are refused. */
#include <math.h>
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
#include "base/rng.h"
#include "h5/h5.h"
#include "model/safetensors.h"
#include "model/weights.h"

static char folder[] = "/tmp/copse-weights-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state) {
    (void)state;
    char **paths = NULL;
    int64_t count = 0;
    char *pattern = cps_format("%s/*", folder);
    if (cps_glob(pattern, &paths, &count) == CPS_OK) {
        for (int64_t i = 0; i < count; i++) {
            unlink(paths[i]);
        }
        cps_strings_destroy(paths, count);
    }
    free(pattern);
    return rmdir(folder);
}

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* ---- models ---- */

static const char small[] =
    "{\"embed_dim\": 10, \"image\": {\"image_size\": 16, \"patch\": 4, \"width\": 12, \"layers\": "
    "2, \"heads\": 3}, \"text\": {\"context\": 9, \"vocabulary\": 30, \"width\": 8, \"layers\": 1, "
    "\"heads\": 2}}";

static cps_model *model_of(const char *spec) {
    cps_json *json = NULL;
    cps_model *model = NULL;
    assert_int_equal(cps_json_parse(spec, strlen(spec), "test", &json), CPS_OK);
    if (cps_model_create(json, 0, 0, &model) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    cps_json_destroy(json);
    return model;
}

static const cps_param_spec logit_scale = {.name = "logit_scale",
                                           .init = {.kind = CPS_INIT_CONSTANT, .a = 2.5}};

static cps_model *allocated(const char *spec, uint64_t seed) {
    cps_model *model = model_of(spec);
    int32_t index = -1;
    assert_int_equal(cps_params_add(cps_model_params(model), &logit_scale, &index), CPS_OK);
    assert_int_equal(cps_params_allocate(cps_model_params(model), seed), CPS_OK);
    return model;
}

static const cps_real *values(cps_model *model, const char *name) {
    const int32_t index = cps_params_find(cps_model_params(model), name);
    if (index < 0) {
        fail_msg("no parameter '%s'", name);
    }
    return cps_params_at(cps_model_params(model), index)->tensor.data;
}

static void load(cps_model *model, const char *path, bool partial, cps_weights_report *report) {
    const cps_status status = cps_weights_load(model, path, partial, report);
    if (status != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
}

/* Values as a file of floats keeps them. */
static void round_to_float(cps_model *model) {
    cps_real *flat = cps_params_flat(cps_model_params(model));
    for (int64_t i = 0; i < cps_params_flat_count(cps_model_params(model)); i++) {
        flat[i] = (cps_real)(float)flat[i];
    }
}

static void expect_equal(cps_model *a, cps_model *b) {
    assert_true(cps_params_digest(cps_model_params(a), "*") ==
                cps_params_digest(cps_model_params(b), "*"));
}

static void refuse(cps_model *model, const char *path, bool partial, cps_status code,
                   const char *part) {
    const uint64_t before = cps_params_digest(cps_model_params(model), "*");
    cps_weights_report report = {.loaded = -7};
    const cps_status status = cps_weights_load(model, path, partial, &report);
    if (status != code || strstr(cps_fail_message(), part) == NULL) {
        fail_msg("status %d, wanted %d with '%s': %s", status, code, part, cps_fail_message());
    }
    assert_int_equal(report.loaded, -7);
    assert_true(before == cps_params_digest(cps_model_params(model), "*"));
}

/* ---- out and in ---- */

static void round_trip(cps_weights_format format, const char *name) {
    cps_model *out = allocated(small, 1), *in = allocated(small, 2);
    round_to_float(out);
    assert_int_equal(cps_weights_save(out, in_folder(name), format), CPS_OK);
    cps_weights_report report = {0};
    load(in, in_folder(name), false, &report);
    expect_equal(out, in);
    assert_int_equal(report.loaded, cps_params_count(cps_model_params(in)));
    assert_int_equal(report.resampled, 0);
    assert_int_equal(report.missing_count, 0);
    assert_int_equal(report.unused_count, 0);
    cps_weights_report_free(&report);
    cps_model_destroy(out);
    cps_model_destroy(in);
}

static void test_open_clip_names(void **state) {
    (void)state;
    round_trip(CPS_WEIGHTS_OPEN_CLIP, "a.safetensors");
}

static void test_hugging_face_names(void **state) {
    (void)state;
    round_trip(CPS_WEIGHTS_HUGGING_FACE, "hf.safetensors");
    cps_safetensors *file = NULL;
    assert_int_equal(cps_safetensors_open(in_folder("hf.safetensors"), &file), CPS_OK);
    bool found = false;
    for (int64_t i = 0; i < cps_safetensors_count(file); i++) {
        const cps_safetensor *at = cps_safetensors_at(file, i);
        if (strcmp(at->name, "visual_projection.weight") == 0) {
            assert_int_equal(at->shape[0], 10);
            assert_int_equal(at->shape[1], 12);
            found = true;
        }
        assert_true(i == 0 || strcmp(at->name, cps_safetensors_at(file, i - 1)->name) > 0);
    }
    assert_true(found);
    cps_safetensors_close(file);
}

static void test_equal_models_make_equal_files(void **state) {
    (void)state;
    cps_model *model = allocated(small, 1);
    char *bytes[2];
    size_t lengths[2];
    for (int32_t i = 0; i < 2; i++) {
        const char *path = in_folder(i == 0 ? "x.safetensors" : "y.safetensors");
        assert_int_equal(cps_weights_save(model, path, CPS_WEIGHTS_OPEN_CLIP), CPS_OK);
        assert_int_equal(cps_file_read(path, 1 << 24, &bytes[i], &lengths[i]), CPS_OK);
    }
    assert_int_equal(lengths[0], lengths[1]);
    assert_memory_equal(bytes[0], bytes[1], lengths[0]);
    free(bytes[0]);
    free(bytes[1]);
    cps_model_destroy(model);
}

static void test_description_beside_the_file(void **state) {
    (void)state;
    cps_model *model = allocated(small, 1);
    assert_int_equal(cps_weights_save(model, in_folder("d.safetensors"), CPS_WEIGHTS_OPEN_CLIP),
                     CPS_OK);
    cps_json *json = NULL;
    cps_model *again = NULL;
    assert_int_equal(cps_json_read_file(in_folder("d.json"), 1 << 20, &json), CPS_OK);
    assert_int_equal(cps_json_get_integer(cps_json_path(json, "model_cfg.vision_cfg"), "width", 0),
                     12);
    assert_int_equal(cps_model_create(json, 0, 0, &again), CPS_OK);
    load(again, in_folder("d.safetensors"), false, NULL);
    assert_int_equal(cps_params_allocate(cps_model_params(again), 9), CPS_OK);
    round_to_float(model);
    assert_true(cps_params_digest(cps_model_params(model), "visual.*") ==
                cps_params_digest(cps_model_params(again), "visual.*"));
    cps_json_destroy(json);
    cps_model_destroy(model);
    cps_model_destroy(again);
}

/* Loaded before allocation; a parameter declared after the load, as by the objective of a later
 * stage. */
static void test_values_wait_for_their_parameter(void **state) {
    (void)state;
    cps_model *out = allocated(small, 1);
    assert_int_equal(cps_weights_save(out, in_folder("w.safetensors"), CPS_WEIGHTS_OPEN_CLIP),
                     CPS_OK);
    ((cps_real *)(uintptr_t)values(out, "logit_scale"))[0] = 4;
    assert_int_equal(cps_weights_save(out, in_folder("w.safetensors"), CPS_WEIGHTS_OPEN_CLIP),
                     CPS_OK);
    cps_model *in = model_of(small);
    cps_weights_report report = {0};
    load(in, in_folder("w.safetensors"), false, &report);
    assert_int_equal(report.unused_count, 1);
    assert_string_equal(report.unused[0], "logit_scale");
    cps_weights_report_free(&report);
    cps_params *params = cps_model_params(in);
    assert_int_equal(cps_params_allocate(params, 3), CPS_OK);
    int32_t index = -1;
    assert_int_equal(cps_params_add(params, &logit_scale, &index), CPS_OK);
    assert_int_equal(cps_params_allocate(params, 3), CPS_OK);
    assert_true(values(in, "logit_scale")[0] == 4);
    round_to_float(out);
    expect_equal(out, in);
    cps_model_destroy(out);
    cps_model_destroy(in);
}

/* ---- files of others ---- */

typedef struct pile {
    cps_safetensor_source sources[128];
    char names[128][200];
    int64_t count;
} pile;

/* All parameters of a model as sources of a file, names with a prefix. */
static pile pile_of(cps_model *model, const char *prefix) {
    static pile made;
    cps_params *params = cps_model_params(model);
    made.count = 0;
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        const cps_param *param = cps_params_at(params, i);
        cps_safetensor_source *source = &made.sources[made.count];
        snprintf(made.names[made.count], 200, "%s%s", prefix, param->name);
        *source = (cps_safetensor_source){.rank = param->spec.rank, .values = param->tensor.data};
        memcpy(source->shape, param->spec.shape, sizeof source->shape);
        made.count++;
    }
    return made;
}

static void write_pile(pile *made, const char *path) {
    for (int64_t i = 0; i < made->count; i++) {
        made->sources[i].name = made->names[i];
    }
    assert_int_equal(cps_safetensors_write(path, made->sources, made->count), CPS_OK);
}

static void drop_source(pile *made, const char *name) {
    for (int64_t i = 0; i < made->count; i++) {
        if (strcmp(made->names[i], name) == 0) {
            made->count--;
            made->sources[i] = made->sources[made->count];
            memcpy(made->names[i], made->names[made->count], sizeof made->names[i]);
            return;
        }
    }
    fail_msg("no source '%s'", name);
}

static void test_prefixes_are_seen_through(void **state) {
    (void)state;
    static const char *const prefixes[] = {"module.", "model.", "module.model."};
    cps_model *out = allocated(small, 1);
    round_to_float(out);
    for (int32_t i = 0; i < 3; i++) {
        pile made = pile_of(out, prefixes[i]);
        write_pile(&made, in_folder("p.safetensors"));
        cps_model *in = allocated(small, 2);
        load(in, in_folder("p.safetensors"), false, NULL);
        expect_equal(out, in);
        cps_model_destroy(in);
    }
    cps_model_destroy(out);
}

static void test_missing_parameters(void **state) {
    (void)state;
    cps_model *out = allocated(small, 1), *in = allocated(small, 2);
    pile made = pile_of(out, "");
    drop_source(&made, "visual.proj");
    drop_source(&made, "logit_scale"); /* an objective's own may be missing */
    snprintf(made.names[made.count], 200, "head.weight");
    made.sources[made.count] = made.sources[0];
    made.count++;
    write_pile(&made, in_folder("m.safetensors"));
    refuse(in, in_folder("m.safetensors"), false, CPS_ERR_DATA, "lacks 1 of");
    assert_non_null(strstr(cps_fail_message(), "visual.proj"));
    cps_real kept[120];
    memcpy(kept, values(in, "visual.proj"), sizeof kept);
    cps_weights_report report = {0};
    load(in, in_folder("m.safetensors"), true, &report);
    assert_int_equal(report.missing_count, 1);
    assert_string_equal(report.missing[0], "visual.proj");
    assert_int_equal(report.unused_count, 1);
    assert_string_equal(report.unused[0], "head.weight");
    assert_memory_equal(kept, values(in, "visual.proj"), sizeof kept);
    cps_weights_report_free(&report);
    cps_model_destroy(out);
    cps_model_destroy(in);
}

/* A tower that the file knows nothing of starts fresh; one of which it has a part is an error. */
static void test_towers_beside_image_and_text(void **state) {
    (void)state;
    char spec[1024];
    snprintf(spec, sizeof spec,
             "%.*s, \"towers\": {\"ssl\": {\"image_size\": 8, \"patch\": 4, \"width\": 6, "
             "\"layers\": 1, \"heads\": 2, \"variant\": \"dino\"}}}",
             (int)strlen(small) - 1, small);
    cps_model *out = allocated(small, 1), *both = allocated(spec, 2);
    pile made = pile_of(out, "");
    write_pile(&made, in_folder("t.safetensors"));
    cps_weights_report report = {0};
    load(both, in_folder("t.safetensors"), false, &report);
    assert_true(report.missing_count > 10);
    cps_weights_report_free(&report);
    made = pile_of(both, "");
    drop_source(&made, "ssl.norm.bias");
    write_pile(&made, in_folder("t.safetensors"));
    refuse(both, in_folder("t.safetensors"), false, CPS_ERR_DATA, "ssl.norm.bias");
    assert_int_equal(cps_weights_save(both, in_folder("t.safetensors"), CPS_WEIGHTS_HUGGING_FACE),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "ssl."));
    cps_model_destroy(out);
    cps_model_destroy(both);
}

static const char larger[] =
    "{\"embed_dim\": 10, \"image\": {\"image_size\": 24, \"patch\": 4, \"width\": 12, \"layers\": "
    "2, \"heads\": 3}, \"text\": {\"context\": 7, \"vocabulary\": 30, \"width\": 8, \"layers\": 1, "
    "\"heads\": 2}}";

static void test_positions_fit_another_size(void **state) {
    (void)state;
    cps_model *out = allocated(small, 1), *in = allocated(larger, 2);
    round_to_float(out);
    cps_real *table = (cps_real *)(uintptr_t)values(out, "visual.positional_embedding");
    for (int64_t i = 12; i < 17 * 12; i++) {
        table[i] = (cps_real)(i % 12); /* the same in every patch, so resampling keeps it */
    }
    assert_int_equal(cps_weights_save(out, in_folder("s.safetensors"), CPS_WEIGHTS_OPEN_CLIP),
                     CPS_OK);
    cps_weights_report report = {0};
    load(in, in_folder("s.safetensors"), false, &report);
    assert_int_equal(report.resampled, 2);
    cps_weights_report_free(&report);
    const cps_real *resampled = values(in, "visual.positional_embedding");
    assert_memory_equal(resampled, table, 12 * sizeof *table);
    for (int64_t i = 12; i < 37 * 12; i++) {
        assert_true(fabs((double)resampled[i] - (double)(i % 12)) < 1e-5);
    }
    assert_memory_equal(values(in, "positional_embedding"), values(out, "positional_embedding"),
                        (size_t)(7 * 8) * sizeof(cps_real));
    assert_int_equal(cps_weights_save(in, in_folder("s.safetensors"), CPS_WEIGHTS_OPEN_CLIP),
                     CPS_OK);
    refuse(out, in_folder("s.safetensors"), false, CPS_ERR_DATA, "context = 7");
    cps_model_destroy(out);
    cps_model_destroy(in);
}

static void test_other_shapes_are_refused(void **state) {
    (void)state;
    cps_model *out = allocated(small, 1);
    cps_model *in = allocated("{\"embed_dim\": 10, \"image\": {\"image_size\": 16, \"patch\": 4, "
                              "\"width\": 18, \"layers\": 2, \"heads\": 3}}",
                              2);
    assert_int_equal(cps_weights_save(out, in_folder("o.safetensors"), CPS_WEIGHTS_OPEN_CLIP),
                     CPS_OK);
    refuse(in, in_folder("o.safetensors"), true, CPS_ERR_DATA, "[12], tower");
    assert_non_null(strstr(cps_fail_message(), "[18]"));
    cps_model_destroy(in);
    /* an objective's own of another shape keeps its initial value */
    in = model_of(small);
    int32_t index = -1;
    const cps_param_spec head = {.name = "head.weight", .rank = 2, .shape = {3, 8}};
    assert_int_equal(cps_params_add(cps_model_params(in), &head, &index), CPS_OK);
    assert_int_equal(cps_params_allocate(cps_model_params(in), 2), CPS_OK);
    pile made = pile_of(out, "");
    snprintf(made.names[made.count], 200, "head.weight");
    made.sources[made.count] =
        (cps_safetensor_source){.rank = 2, .shape = {2, 5}, .values = values(out, "visual.proj")};
    made.count++;
    write_pile(&made, in_folder("o.safetensors"));
    load(in, in_folder("o.safetensors"), false, NULL);
    assert_true(values(in, "head.weight")[0] == 0);
    cps_model_destroy(out);
    cps_model_destroy(in);
}

static void test_checkpoint(void **state) {
    (void)state;
    cps_model *out = allocated(small, 1), *in = allocated(small, 2);
    cps_h5 *file = NULL;
    assert_int_equal(cps_h5_create(in_folder("c.h5"), &file), CPS_OK);
    const cps_h5_type type = sizeof(cps_real) == 8 ? CPS_H5_F64 : CPS_H5_F32;
    for (int32_t i = 0; i < cps_params_count(cps_model_params(out)); i++) {
        const cps_param *param = cps_params_at(cps_model_params(out), i);
        char *name = cps_format("model/%s", param->name);
        assert_int_equal(
            cps_h5_write(file, name, type, param->spec.rank, param->spec.shape, param->tensor.data),
            CPS_OK);
        free(name);
    }
    assert_int_equal(cps_h5_close(file), CPS_OK);
    cps_weights_report report = {0};
    load(in, in_folder("c.h5"), false, &report);
    assert_int_equal(report.missing_count + report.unused_count, 0);
    expect_equal(out, in);
    cps_weights_report_free(&report);
    assert_int_equal(cps_h5_create(in_folder("shard.h5"), &file), CPS_OK);
    assert_int_equal(cps_h5_make_group(file, "images"), CPS_OK);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    refuse(in, in_folder("shard.h5"), false, CPS_ERR_DATA, "no Copse checkpoint");
    cps_model_destroy(out);
    cps_model_destroy(in);
}

/* ---- types ---- */

static void write_raw(const char *path, const char *header, const void *data, size_t bytes) {
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    const uint64_t length = strlen(header);
    for (int32_t i = 0; i < 8; i++) {
        fputc((int)(length >> (8 * i) & 255), stream);
    }
    fputs(header, stream);
    assert_int_equal(fwrite(data, 1, bytes, stream), bytes);
    assert_int_equal(fclose(stream), 0);
}

static void test_types(void **state) {
    (void)state;
    const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x0000, 0x3555};
    const uint16_t bfloat[] = {0x3f80, 0xc000};
    const double wide[] = {1.5, -0.1};
    const int64_t whole = 3;
    unsigned char data[12 + 4 + 16 + 8];
    memcpy(data, half, 12);
    memcpy(data + 12, bfloat, 4);
    memcpy(data + 16, wide, 16);
    memcpy(data + 32, &whole, 8);
    write_raw(in_folder("types"),
              "{\"a\":{\"dtype\":\"F16\",\"shape\":[6],\"data_offsets\":[0,12]},"
              "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[12,16]},"
              "\"c\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[16,32]},"
              "\"d\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[32,40]},"
              "\"e\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[40,40]}}  ",
              data, sizeof data);
    cps_safetensors *file = NULL;
    cps_real seen[6];
    assert_int_equal(cps_safetensors_open(in_folder("types"), &file), CPS_OK);
    assert_int_equal(cps_safetensors_count(file), 5);
    assert_int_equal(cps_safetensors_read(file, 0, seen), CPS_OK);
    const double wanted[] = {1, -2, ldexp(1, -24), 65504, 0, 0.333251953125};
    for (int32_t i = 0; i < 6; i++) {
        assert_true(seen[i] == (cps_real)wanted[i]);
    }
    assert_int_equal(cps_safetensors_read(file, 1, seen), CPS_OK);
    assert_true(seen[0] == 1 && seen[1] == -2);
    assert_int_equal(cps_safetensors_read(file, 2, seen), CPS_OK);
    assert_true(seen[0] == (cps_real)1.5 && seen[1] == (cps_real)-0.1);
    assert_int_equal(cps_safetensors_read(file, 3, seen), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "I64"));
    assert_int_equal(cps_safetensors_read(file, 4, seen), CPS_OK);
    cps_safetensors_close(file);
}

static void test_values_that_are_not_finite(void **state) {
    (void)state;
    const float bad[] = {1, NAN};
    write_raw(in_folder("nan"), "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
              bad, sizeof bad);
    cps_safetensors *file = NULL;
    cps_real seen[2];
    assert_int_equal(cps_safetensors_open(in_folder("nan"), &file), CPS_OK);
    assert_int_equal(cps_safetensors_read(file, 0, seen), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "element 1 of tensor 'a'"));
    cps_safetensors_close(file);
}

/* ---- files that lie ---- */

static void refuse_file(const char *path, const char *part) {
    cps_safetensors *file = NULL;
    assert_int_equal(cps_safetensors_open(path, &file), CPS_ERR_DATA);
    assert_null(file);
    if (strstr(cps_fail_message(), part) == NULL) {
        fail_msg("'%s' is not in: %s", part, cps_fail_message());
    }
}

static void refuse_header(const char *header, const char *part) {
    const char data[64] = {0};
    write_raw(in_folder("lie"), header, data, sizeof data);
    refuse_file(in_folder("lie"), part);
}

static void test_headers_that_lie(void **state) {
    (void)state;
    refuse_header("[1, 2]", "no JSON object");
    refuse_header("{\"a\": 5}", "'a'");
    refuse_header("{\"a\"", "lie");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,12]}}",
                  "4 elements of type F32 but 12 bytes");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[20],\"data_offsets\":[0,80]}}",
                  "no place inside the file's 64 bytes");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,4]}}", "no place");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", "no place");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0.5,4.5]}}",
                  "no place");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", "no place");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "shape");
    refuse_header(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}",
        "shape");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,16],\"data_offsets\":"
                  "[0,4]}}",
                  "multiply");
    refuse_header(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}"
        "}",
        "shape");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                  "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
                  "share bytes");
    refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                  "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
                  "a");
    char deep[600];
    memset(deep, '[', sizeof deep);
    deep[sizeof deep - 1] = '\0';
    refuse_header(deep, "lie");
}

static void write_bytes(const char *path, const void *bytes, size_t length) {
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(bytes, 1, length, stream), length);
    assert_int_equal(fclose(stream), 0);
}

static void test_files_that_are_something_else(void **state) {
    (void)state;
    cps_model *model = allocated(small, 1);
    refuse(model, in_folder("absent"), false, CPS_ERR_UNAVAILABLE, "absent");
    write_bytes(in_folder("else"), "1234", 4);
    refuse(model, in_folder("else"), false, CPS_ERR_DATA, "only 4 bytes");
    write_bytes(in_folder("else"), "PK\003\004 and more", 12);
    refuse(model, in_folder("else"), false, CPS_ERR_DATA, "PyTorch file");
    write_bytes(in_folder("else"), "\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10);
    refuse(model, in_folder("else"), false, CPS_ERR_DATA, "header");
    write_bytes(in_folder("else"), "\x02\0\0\0\0\0\0\0{}", 10);
    refuse(model, in_folder("else"), false, CPS_ERR_DATA, "none of the model's parameters");
    cps_model_destroy(model);
}

/* Cut anywhere, a file is refused; with a byte of the header turned it is refused or read, and
 * nothing else happens. */
static void test_damaged_files(void **state) {
    (void)state;
    cps_model *model = allocated(small, 1);
    assert_int_equal(cps_weights_save(model, in_folder("f.safetensors"), CPS_WEIGHTS_OPEN_CLIP),
                     CPS_OK);
    char *bytes = NULL;
    size_t length = 0;
    assert_int_equal(cps_file_read(in_folder("f.safetensors"), 1 << 24, &bytes, &length), CPS_OK);
    const cps_draw_key key = {.seed = 8};
    for (uint64_t i = 0; i < 60; i++) {
        const size_t cut = i < 20 ? (size_t)i : (size_t)cps_draw_below(&key, i, length);
        write_bytes(in_folder("cut"), bytes, cut);
        assert_int_equal(cps_weights_load(model, in_folder("cut"), true, NULL), CPS_ERR_DATA);
    }
    int32_t refused = 0;
    for (uint64_t i = 0; i < 400; i++) {
        const size_t at = (size_t)cps_draw_below(&key, 1000 + 2 * i, 4000);
        const char old = bytes[at];
        bytes[at] = (char)(old ^ (1 << cps_draw_below(&key, 1001 + 2 * i, 8)));
        write_bytes(in_folder("cut"), bytes, length);
        refused += cps_weights_load(model, in_folder("cut"), true, NULL) != CPS_OK;
        bytes[at] = old;
    }
    assert_true(refused > 200);
    free(bytes);
    cps_model_destroy(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_clip_names),
        cmocka_unit_test(test_hugging_face_names),
        cmocka_unit_test(test_equal_models_make_equal_files),
        cmocka_unit_test(test_description_beside_the_file),
        cmocka_unit_test(test_values_wait_for_their_parameter),
        cmocka_unit_test(test_prefixes_are_seen_through),
        cmocka_unit_test(test_missing_parameters),
        cmocka_unit_test(test_towers_beside_image_and_text),
        cmocka_unit_test(test_positions_fit_another_size),
        cmocka_unit_test(test_other_shapes_are_refused),
        cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_values_that_are_not_finite),
        cmocka_unit_test(test_headers_that_lie),
        cmocka_unit_test(test_files_that_are_something_else),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
