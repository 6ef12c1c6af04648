/* Features of a weights file, for the comparison with open_clip.
 *     features MODEL.json WEIGHTS INPUTS.safetensors OUTPUTS.safetensors [EXPORT]
 * MODEL.json is a model as cps_model_create reads it; WEIGHTS a weights file, or "fresh" for
 * initial values. INPUTS holds `image` [B,3,S,S] and `tokens` [B,T] (ids as floats, 0 after the end
 * token, which has the largest id). OUTPUTS gets image_raw, text_raw, image_features and
 * text_features. EXPORT: also writes EXPORT.safetensors and EXPORT-hf.safetensors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "tensor/gemm.h"

static void need(cps_status status) {
    if (status != CPS_OK) {
        fprintf(stderr, "features: %s\n", cps_fail_message());
        exit(cps_exit_code(status));
    }
}

static void *memory(size_t bytes) {
    void *got = calloc(1, bytes + 1);
    if (got == NULL) {
        need(cps_fail(CPS_ERR_UNAVAILABLE, "out of memory"));
    }
    return got;
}

typedef struct inputs {
    cps_real *image, *tokens;
    int64_t count, side, context;
} inputs;

static inputs read_inputs(const char *path) {
    inputs in = {0};
    cps_safetensors *file = NULL;
    need(cps_safetensors_open(path, &file));
    for (int64_t i = 0; i < cps_safetensors_count(file); i++) {
        const cps_safetensor *at = cps_safetensors_at(file, i);
        cps_real *values = memory((size_t)at->count * sizeof *values);
        need(cps_safetensors_read(file, i, values));
        if (strcmp(at->name, "image") == 0) {
            in.image = values;
            in.count = at->shape[0];
            in.side = at->shape[2];
        } else {
            in.tokens = values;
            in.context = at->shape[1];
        }
    }
    cps_safetensors_close(file);
    return in;
}

static cps_tower_output see(cps_model *model, cps_tape *tape, const inputs *in) {
    const int64_t shape[] = {in->count, 3, in->side, in->side};
    const cps_tower_input input = {
        .image = cps_tape_leaf(tape, CPS_REAL, 4, shape, in->image, NULL, -1)};
    cps_tower_output out = {0};
    need(cps_tower_forward(cps_model_tower(model, "image"), tape, &input,
                           CPS_OUT_PROJECTED | CPS_OUT_FEATURE, &out));
    return out;
}

static cps_tower_output read_texts(cps_model *model, cps_tape *tape, const inputs *in) {
    int32_t *ids = memory((size_t)(in->count * in->context) * sizeof *ids);
    int32_t *offsets = memory((size_t)(in->count + 1) * sizeof *offsets);
    int32_t *ends = memory((size_t)in->count * sizeof *ends);
    int32_t at = 0;
    for (int64_t row = 0; row < in->count; row++) {
        const cps_real *line = in->tokens + row * in->context;
        int64_t end = 0;
        for (int64_t i = 1; i < in->context; i++) {
            end = line[i] > line[end] ? i : end;
        }
        for (int64_t i = 0; i <= end; i++) {
            ids[at++] = (int32_t)line[i];
        }
        offsets[row + 1] = at;
        ends[row] = at - 1;
    }
    const int64_t rows = at;
    const cps_tower_input input = {.ids = cps_tape_leaf(tape, CPS_I32, 1, &rows, ids, NULL, -1),
                                   .count = in->count,
                                   .offsets = offsets,
                                   .ends = ends};
    cps_tower_output out = {0};
    need(cps_tower_forward(cps_model_tower(model, "text"), tape, &input,
                           CPS_OUT_PROJECTED | CPS_OUT_FEATURE, &out));
    free(ids);
    free(offsets);
    free(ends);
    return out;
}

static cps_safetensor_source source_of(const char *name, const cps_tensor *tensor) {
    return (cps_safetensor_source){.name = name,
                                   .rank = 2,
                                   .shape = {tensor->shape[0], tensor->shape[1]},
                                   .values = tensor->data};
}

static cps_model *make_model(const char *spec_path, const char *weights) {
    cps_json *spec = NULL;
    cps_model *model = NULL;
    need(cps_json_read_file(spec_path, 1 << 20, &spec));
    need(cps_model_create(spec, 0, 0, &model));
    cps_json_destroy(spec);
    const cps_param_spec scale = {.name = "logit_scale",
                                  .init = {.kind = CPS_INIT_CONSTANT, .a = 2.6592600369327779}};
    int32_t index = -1;
    need(cps_params_add(cps_model_params(model), &scale, &index));
    if (strcmp(weights, "fresh") != 0) {
        cps_weights_report report = {0};
        need(cps_weights_load(model, weights, false, &report));
        printf("%lld loaded, %lld resampled, %lld missing, %lld unused\n", (long long)report.loaded,
               (long long)report.resampled, (long long)report.missing_count,
               (long long)report.unused_count);
        cps_weights_report_free(&report);
    }
    need(cps_params_allocate(cps_model_params(model), 1));
    return model;
}

static void export_model(cps_model *model, const char *prefix) {
    char *open_clip = cps_format("%s.safetensors", prefix);
    char *hugging_face = cps_format("%s-hf.safetensors", prefix);
    need(cps_weights_save(model, open_clip, CPS_WEIGHTS_OPEN_CLIP));
    need(cps_weights_save(model, hugging_face, CPS_WEIGHTS_HUGGING_FACE));
    free(open_clip);
    free(hugging_face);
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "features MODEL.json WEIGHTS INPUTS.safetensors OUTPUTS.safetensors "
                        "[EXPORT]\n");
        return CPS_ERR_USAGE;
    }
    cps_gemm_start();
    cps_model *model = make_model(argv[1], argv[2]);
    inputs in = read_inputs(argv[3]);
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    need(cps_arena_create("features", (size_t)1 << 26, true, &arena));
    need(cps_tape_create(arena, CPS_TAPE_PLAIN, NULL, &tape));
    const cps_tower_output seen = see(model, tape, &in), read = read_texts(model, tape, &in);
    cps_safetensor_source sources[] = {
        source_of("image_raw", seen.projected), source_of("image_features", seen.feature),
        source_of("text_raw", read.projected), source_of("text_features", read.feature)};
    need(cps_safetensors_write(argv[4], sources, sizeof sources / sizeof *sources));
    if (argc == 6) {
        export_model(model, argv[5]);
    }
    free(in.image);
    free(in.tokens);
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    cps_model_destroy(model);
    return 0;
}
