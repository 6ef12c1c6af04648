/* A grain of images or texts through one tower and the objective's `embed`, or the tower alone.
 * Shapes are always those of a full grain, so a row's bits do not depend on how many others there
 * are. A planning run at creation finds components, widths and memory. */
#include "train/embed.h"

#include <stdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/ops.h"

enum { GRAIN = 64, KEPT = 8, FEATURE = 2 /* of the outputs */ };

struct cps_embed {
    const cps_host *host;
    cps_embedder *owner;
    int32_t side;
    cps_tape *tape;
    cps_view_rows rows;
    int32_t component_count;
    cps_tensor *components[CPS_MAX_COMPONENTS];
    double weights[CPS_MAX_COMPONENTS];
    cps_status status;
    char message[1024];
};

struct cps_embedder {
    cps_model *model;
    const cps_tokenizer *tokenizer; /* NULL: no texts */
    int64_t context;
    const cps_instance *instance; /* NULL: outputs of towers alone */
    int32_t lone_outputs[2];      /* by side: bit index of a tower's output; -1: the objective's */
    int64_t grain;
    cps_side sides[2];
    bool first; /* the first component alone is computed */
    cps_arena *arena;
    size_t bytes;       /* planned */
    cps_tape *prepared; /* of prepare_embed: lives until the next one, below the grains' tape */
    cps_tape *tape;
    cps_tensor *kept[KEPT];
    int32_t *ids, *offsets, *ends;
    cps_encoder encoder;
    struct cps_embed embed;
};

/* ---- services
 * -----------------------------------------------------------------------------------------------------------
 */

int32_t cps_serve_embed_side(const cps_embed *embed) {
    return embed->side;
}

bool cps_serve_embed_first(const cps_embed *embed) {
    return embed->owner->first;
}

static cps_status embed_fail(const cps_embed *embed, const char *format, ...) CPS_PRINTF(2, 3);
static cps_status embed_fail(const cps_embed *embed, const char *format, ...) {
    cps_embed *writable = (cps_embed *)(uintptr_t)embed;
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cps_service_fail(&writable->status, writable->message, CPS_ERR_INTERNAL,
                            "objective '%s', embed: %s", embed->owner->instance->name, text);
}

cps_tensor *cps_serve_embed_output(const cps_embed *embed, uint32_t output) {
    const int32_t kind = cps_output_index(output);
    if (kind < 0 || embed->rows.outputs[kind] == NULL) {
        embed_fail(embed, "output 0x%x was not asked for with cps_setup_embed", output);
        return NULL;
    }
    return embed->rows.outputs[kind];
}

const int32_t *cps_serve_embed_offsets(const cps_embed *embed) {
    return embed->rows.offsets;
}

const int32_t *cps_serve_embed_ends(const cps_embed *embed) {
    return embed->rows.ends;
}

cps_tensor *cps_serve_embed_parameter(const cps_embed *embed, int32_t id) {
    const cps_instance *instance = embed->owner->instance;
    if (id < 0 || id >= instance->param_count) {
        embed_fail(embed, "parameter id %d does not exist", id);
        return NULL;
    }
    return &cps_params_at(cps_model_params(embed->owner->model), instance->params[id])->tensor;
}

void cps_serve_embed_component(cps_embed *embed, cps_tensor *rows, double score_weight) {
    if (rows == NULL) {
        return;
    }
    if (embed->component_count == CPS_MAX_COMPONENTS || rows->rank != 2 ||
        rows->shape[0] != embed->owner->grain) {
        embed_fail(embed, "component %d is one too many, or no matrix of a row a sample",
                   embed->component_count);
        return;
    }
    embed->components[embed->component_count] = rows;
    embed->weights[embed->component_count++] = score_weight;
}

void cps_serve_embed_keep(cps_embed *embed, int32_t slot, cps_tensor *tensor) {
    if (slot < 0 || slot >= KEPT || embed->side >= 0) {
        embed_fail(embed, "tensors are kept by prepare_embed alone, in slots 0 to 7; seen: slot %d",
                   slot);
    } else {
        embed->owner->kept[slot] = tensor;
    }
}

cps_tensor *cps_serve_embed_kept(const cps_embed *embed, int32_t slot) {
    if (slot < 0 || slot >= KEPT || embed->owner->kept[slot] == NULL) {
        embed_fail(embed, "prepare_embed kept nothing in slot %d", slot);
        return NULL;
    }
    return embed->owner->kept[slot];
}

/* ---- one grain
 * ------------------------------------------------------------------------------------------------------------
 */

static cps_status tower_input(cps_embedder *embedder, int32_t side, const cps_real *planes,
                              const char *const *texts, cps_tape *tape, cps_tower_input *input) {
    const cps_side *wanted = &embedder->sides[side];
    const bool all = embedder->first ? wanted->first_all_positions : wanted->all_positions;
    const cps_tower_config *config = cps_tower_get_config(wanted->tower);
    if (config->kind != CPS_TOWER_TEXT) {
        const int64_t shape[4] = {embedder->grain, 3, config->image_size, config->image_size};
        *input = (cps_tower_input){
            .image = cps_tape_leaf(tape, CPS_REAL, 4, shape, (void *)(uintptr_t)planes, NULL, -1)};
        return cps_tape_status(tape);
    }
    const int64_t context = embedder->context;
    int64_t at = 0;
    embedder->offsets[0] = 0;
    for (int64_t i = 0; i < embedder->grain; i++) {
        int64_t length = context;
        if (texts != NULL) {
            CPS_TRY(cps_tokenizer_encode(embedder->tokenizer, texts[i], context, embedder->ids + at,
                                         &length, NULL));
        }
        embedder->ends[i] = (int32_t)(at + length - 1);
        if (all) {
            memset(embedder->ids + at + length, 0, (size_t)(context - length) * sizeof(int32_t));
            length = context;
        }
        at += length;
        embedder->offsets[i + 1] = (int32_t)at;
    }
    const int64_t shape[1] = {at};
    *input =
        (cps_tower_input){.ids = cps_tape_leaf(tape, CPS_I32, 1, shape, embedder->ids, NULL, -1),
                          .count = embedder->grain,
                          .offsets = embedder->offsets,
                          .ends = embedder->ends};
    return cps_tape_status(tape);
}

/* Tower and embed on `tape`; results in embedder->embed. planes and texts NULL: planning. */
static cps_status run_side(cps_embedder *embedder, int32_t side, const cps_real *planes,
                           const char *const *texts, cps_tape *tape) {
    const cps_side *wanted = &embedder->sides[side];
    cps_tower_input input;
    cps_tower_output out = {0};
    cps_embed *embed = &embedder->embed;
    *embed = (cps_embed){.host = cps_host_table(), .owner = embedder, .side = side, .tape = tape};
    CPS_TRY(tower_input(embedder, side, planes, texts, tape, &input));
    CPS_TRY(cps_tower_forward(wanted->tower, tape, &input,
                              embedder->first ? wanted->first_outputs : wanted->outputs, &out));
    embed->rows = (cps_view_rows){
        .outputs = {out.pooled, out.projected, out.feature, out.tokens, out.tokens_projected},
        .offsets = out.offsets,
        .ends = out.ends,
        .rows = embedder->grain};
    const int32_t lone = embedder->lone_outputs[side];
    if (lone >= 0) {
        cps_serve_embed_component(embed, embed->rows.outputs[lone], 1.0);
    } else {
        const cps_status status =
            embedder->instance->objective->embed(embedder->instance->self, embed, tape);
        CPS_TRY(cps_service_status(embed->status, embed->message));
        CPS_TRY(cps_fail_context(status, "objective '%s', embed", embedder->instance->name));
    }
    CPS_TRY(cps_service_status(embed->status, embed->message));
    return cps_tape_status(tape);
}

/* Components and widths of a run are those of the plan. */
static cps_status check_components(const cps_embedder *embedder) {
    const cps_embed *embed = &embedder->embed;
    bool equal = embed->component_count == embedder->encoder.component_count;
    for (int32_t c = 0; c < embed->component_count && equal; c++) {
        equal = embed->components[c]->shape[1] == embedder->encoder.widths[c];
    }
    return equal ? CPS_OK
                 : cps_fail(CPS_ERR_INTERNAL,
                            "embed%s%s: components are others than while it was planned",
                            embedder->instance != NULL ? " of objective " : "",
                            embedder->instance != NULL ? embedder->instance->name : "");
}

static cps_status encode(cps_embedder *embedder, int32_t side, const cps_real *planes,
                         const char *const *texts, cps_real *const *components_out) {
    cps_status status = run_side(embedder, side, planes, texts, embedder->tape);
    status = status != CPS_OK ? status : check_components(embedder);
    for (int32_t c = 0; c < embedder->embed.component_count && status == CPS_OK; c++) {
        const cps_tensor *rows = embedder->embed.components[c];
        memcpy(components_out[c], rows->data,
               (size_t)(embedder->grain * rows->shape[1]) * sizeof(cps_real));
    }
    cps_tape_reset(embedder->tape);
    return status;
}

static cps_status encode_images(void *context, const cps_real *planes,
                                cps_real *const *components_out) {
    return encode(context, CPS_SIDE_IMAGE, planes, NULL, components_out);
}

static cps_status encode_texts(void *context, const char *const *texts,
                               cps_real *const *components_out) {
    return encode(context, CPS_SIDE_TEXT, NULL, texts, components_out);
}

static cps_status prepare(cps_embedder *embedder, cps_tape *tape) {
    memset(embedder->kept, 0, sizeof embedder->kept);
    if (embedder->instance == NULL || embedder->lone_outputs[CPS_SIDE_IMAGE] >= 0 ||
        embedder->instance->objective->prepare_embed == NULL) {
        return CPS_OK;
    }
    const cps_objective *objective = embedder->instance->objective;
    embedder->embed =
        (cps_embed){.host = cps_host_table(), .owner = embedder, .side = -1, .tape = tape};
    cps_status status = objective->prepare_embed(embedder->instance->self, &embedder->embed, tape);
    status = status != CPS_OK ? status
                              : cps_service_status(embedder->embed.status, embedder->embed.message);
    status = status != CPS_OK ? status : cps_tape_status(tape);
    return cps_fail_context(status, "objective '%s', prepare_embed", embedder->instance->name);
}

/* ---- creation
 * ---------------------------------------------------------------------------------------------------------------
 */

/* Names of the image towers that there are. */
static void list_image_towers(cps_model *model, char *out, size_t bytes) {
    size_t at = 0;
    out[0] = 0;
    for (int32_t t = 0; t < cps_model_tower_count(model) && at < bytes; t++) {
        const cps_tower_config *config = cps_tower_get_config(cps_model_tower_at(model, t));
        if (config->kind != CPS_TOWER_TEXT) {
            at += (size_t)snprintf(out + at, bytes - at, at == 0 ? "%s" : ", %s", config->name);
        }
    }
}

/* The tower and the number of its output. */
static cps_status find_output(cps_model *model, const char *tower, const char *output,
                              cps_tower **tower_out, int32_t *output_out) {
    static const char *const names[] = {"pooled", "projected", "feature"};
    cps_tower *found = cps_model_tower(model, tower);
    if (found == NULL || cps_tower_get_config(found)->kind == CPS_TOWER_TEXT) {
        char there[256];
        list_image_towers(model, there, sizeof there);
        return cps_fail(CPS_ERR_USAGE, "features: the model has no image tower '%s'; it has: %s",
                        tower, there);
    }
    for (int32_t i = 0; i < 3; i++) {
        if (strcmp(names[i], output) == 0 &&
            (i == 0 || cps_tower_get_config(found)->embed_dim > 0)) {
            *tower_out = found;
            *output_out = i;
            return CPS_OK;
        }
    }
    return cps_fail(CPS_ERR_USAGE, "features: tower '%s' has no output '%s': use %s", tower, output,
                    cps_tower_get_config(found)->embed_dim > 0
                        ? "\"pooled\", \"projected\" or \"feature\""
                        : "\"pooled\", it has no projection");
}

cps_status cps_embedder_check(cps_model *model, const char *tower, const char *output) {
    cps_tower *found = NULL;
    int32_t number = 0;
    return find_output(model, tower, output, &found, &number);
}

static cps_status choose_tower(cps_embedder *embedder, const char *tower, const char *output) {
    cps_tower *found = NULL;
    int32_t number = 0;
    CPS_TRY(find_output(embedder->model, tower, output, &found, &number));
    embedder->lone_outputs[CPS_SIDE_IMAGE] = number;
    embedder->sides[CPS_SIDE_IMAGE] =
        (cps_side){.wanted = true, .tower = found, .outputs = 1u << number};
    return CPS_OK;
}

static cps_recipe evaluation_recipe(const cps_tower_config *config) {
    cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_EVALUATION, (int32_t)config->image_size);
    recipe.squash = config->squash;
    recipe.filter = config->bilinear ? CPS_BILINEAR : CPS_BICUBIC;
    memcpy(recipe.mean, config->mean, sizeof recipe.mean);
    memcpy(recipe.std, config->std, sizeof recipe.std);
    return recipe;
}

static void take_components(cps_embedder *embedder) {
    cps_encoder *encoder = &embedder->encoder;
    encoder->component_count = embedder->embed.component_count;
    for (int32_t c = 0; c < encoder->component_count; c++) {
        encoder->widths[c] = embedder->embed.components[c]->shape[1];
        encoder->score_weights[c] = embedder->embed.weights[c];
    }
}

/* Whether both sides know how to give the first component alone. */
static bool knows_first(const cps_embedder *embedder) {
    const cps_side *sides = embedder->sides;
    return embedder->lone_outputs[CPS_SIDE_IMAGE] < 0 && sides[CPS_SIDE_IMAGE].wanted &&
           sides[CPS_SIDE_IMAGE].has_first &&
           (!sides[CPS_SIDE_TEXT].wanted || sides[CPS_SIDE_TEXT].has_first);
}

static void choose_first(cps_embedder *embedder, bool first) {
    cps_encoder *encoder = &embedder->encoder;
    const int32_t all = encoder->component_count + encoder->left_out;
    embedder->first = first;
    encoder->component_count = first ? 1 : all;
    encoder->left_out = all - encoder->component_count;
}

void cps_embedder_weigh(cps_embedder *embedder, const cps_numbers *score) {
    const cps_encoder *encoder = &embedder->encoder;
    const int32_t all = encoder->component_count + encoder->left_out;
    const double *weights =
        score != NULL && score->count == all ? score->values : encoder->score_weights;
    bool first = all > 1 && knows_first(embedder);
    for (int32_t c = 1; c < all; c++) {
        first = first && weights[c] == 0.0;
    }
    choose_first(embedder, first);
}

/* Components of the texts are paired with those of the images; beside features of a tower, texts
 * that do not fit are left out. */
static cps_status pair_components(cps_embedder *embedder) {
    const cps_status status = check_components(embedder);
    if (status == CPS_OK) {
        return CPS_OK;
    }
    if (embedder->lone_outputs[CPS_SIDE_IMAGE] < 0) {
        return cps_fail(CPS_ERR_INTERNAL,
                        "objective '%s', embed: image and text components do not pair",
                        embedder->instance->name);
    }
    embedder->sides[CPS_SIDE_TEXT].wanted = false;
    cps_fail_clear();
    return CPS_OK;
}

/* Both sides run on tapes that count; memory is the larger of the two. In the shorter way
 * components are known by then. */
static cps_status plan_sides(cps_embedder *embedder, size_t *bytes_out) {
    cps_arena *arena = NULL;
    cps_tape *tape = NULL, *prepared = NULL;
    const int32_t first = embedder->sides[CPS_SIDE_IMAGE].wanted ? CPS_SIDE_IMAGE : CPS_SIDE_TEXT;
    cps_status status = cps_arena_create_counting("evaluation", &arena);
    status = status != CPS_OK ? status
                              : cps_tape_create(arena, CPS_TAPE_PLAN, cps_host_table(), &prepared);
    status =
        status != CPS_OK ? status : cps_tape_create(arena, CPS_TAPE_PLAN, cps_host_table(), &tape);
    status = status != CPS_OK ? status : prepare(embedder, prepared);
    for (int32_t side = 0; side < 2 && status == CPS_OK; side++) {
        if (!embedder->sides[side].wanted) {
            continue;
        }
        status = run_side(embedder, side, NULL, NULL, tape);
        if (status == CPS_OK && side == first && !embedder->first) {
            take_components(embedder);
        } else if (status == CPS_OK) {
            status = pair_components(embedder);
        }
        cps_tape_reset(tape);
    }
    *bytes_out = arena == NULL ? 0 : cps_arena_high_water(arena);
    cps_tape_destroy(tape);
    cps_tape_destroy(prepared);
    cps_arena_destroy(arena);
    return status;
}

/* With all components, and the shorter way. */
static cps_status plan_both_ways(cps_embedder *embedder, size_t *bytes_out) {
    size_t all = 0, first = 0;
    CPS_TRY(plan_sides(embedder, &all));
    if (embedder->encoder.component_count > 1 && knows_first(embedder)) {
        choose_first(embedder, true);
        CPS_TRY(plan_sides(embedder, &first));
        choose_first(embedder, false);
    }
    *bytes_out = first > all ? first : all;
    return CPS_OK;
}

/* What the objective says about its sides, or one output of a tower on the image side. */
static cps_status choose_sides(cps_embedder *embedder, const char *features_tower,
                               const char *features_output) {
    embedder->sides[0] = embedder->instance->sides[0];
    embedder->sides[1] = embedder->instance->sides[1];
    if (features_tower != NULL) {
        CPS_TRY(choose_tower(embedder, features_tower, features_output));
    }
    if (embedder->instance->objective->embed == NULL) {
        embedder->sides[CPS_SIDE_TEXT].wanted = false;
        if (features_tower == NULL) {
            return cps_fail(CPS_ERR_USAGE,
                            "objective '%s' says nothing about evaluations (no embed): give the "
                            "evaluation features = { tower, output }",
                            embedder->instance->name);
        }
    }
    return embedder->sides[CPS_SIDE_IMAGE].wanted
               ? CPS_OK
               : cps_fail(CPS_ERR_USAGE, "objective '%s' has no image side to evaluate",
                          embedder->instance->name);
}

/* Features of the tower "text" alone. */
static cps_status choose_texts(cps_embedder *embedder) {
    cps_tower *tower = cps_model_tower(embedder->model, "text");
    if (tower == NULL || cps_tower_get_config(tower)->embed_dim == 0) {
        return cps_fail(CPS_ERR_USAGE, "the model has no text tower whose features pair with "
                                       "those of images");
    }
    embedder->lone_outputs[CPS_SIDE_TEXT] = FEATURE;
    embedder->sides[CPS_SIDE_TEXT] =
        (cps_side){.wanted = true, .tower = tower, .outputs = CPS_OUT_FEATURE};
    return CPS_OK;
}

/* The encoder and its memory, when the sides are known. */
static cps_status fill(cps_embedder *embedder) {
    const size_t context = (size_t)embedder->context, grain = (size_t)embedder->grain;
    embedder->ids = calloc(grain * context + 1, sizeof(int32_t));
    embedder->offsets = calloc(grain + 1, sizeof(int32_t));
    embedder->ends = calloc(grain, sizeof(int32_t));
    if (embedder->ids == NULL || embedder->offsets == NULL || embedder->ends == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for an evaluation's texts");
    }
    size_t bytes = 0;
    cps_params_pause(cps_model_params(embedder->model), true); /* nothing records: plan it so */
    const cps_status planned = plan_both_ways(embedder, &bytes);
    cps_params_pause(cps_model_params(embedder->model), false);
    CPS_TRY(planned);
    const cps_side *sides = embedder->sides;
    embedder->encoder.context = embedder;
    embedder->encoder.grain = embedder->grain;
    embedder->encoder.texts = sides[CPS_SIDE_TEXT].wanted ? encode_texts : NULL;
    if (sides[CPS_SIDE_IMAGE].wanted) {
        embedder->encoder.images = encode_images;
        embedder->encoder.image_recipe =
            evaluation_recipe(cps_tower_get_config(sides[CPS_SIDE_IMAGE].tower));
    }
    embedder->bytes = bytes;
    CPS_TRY(cps_arena_create("evaluation", bytes, true, &embedder->arena));
    CPS_TRY(
        cps_tape_create(embedder->arena, CPS_TAPE_PLAIN, cps_host_table(), &embedder->prepared));
    return cps_tape_create(embedder->arena, CPS_TAPE_PLAIN, cps_host_table(), &embedder->tape);
}

static cps_status allocate(const cps_embedder *with, cps_embedder **embedder_out) {
    cps_embedder *embedder = malloc(sizeof *embedder);
    if (embedder == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for an evaluation");
    }
    *embedder = *with;
    *embedder_out = embedder;
    return CPS_OK;
}

/* `status`: of choosing the sides. */
static cps_status finish(cps_embedder *embedder, cps_status status, cps_embedder **embedder_out) {
    status = status != CPS_OK ? status : fill(embedder);
    if (status != CPS_OK) {
        cps_embedder_destroy(embedder);
        return status;
    }
    *embedder_out = embedder;
    return CPS_OK;
}

cps_status cps_embedder_create(cps_stage_plan *plan, const char *features_tower,
                               const char *features_output, int64_t grain,
                               cps_embedder **embedder_out) {
    cps_embedder *embedder = NULL;
    const cps_embedder with = {.model = plan->model,
                               .tokenizer = plan->tokenizer,
                               .context = plan->context,
                               .instance = &plan->instances[plan->embed_instance],
                               .lone_outputs = {-1, -1},
                               .grain = grain > 0 ? grain : GRAIN};
    CPS_TRY(allocate(&with, &embedder));
    return finish(embedder, choose_sides(embedder, features_tower, features_output), embedder_out);
}

cps_status cps_embedder_create_of_images(cps_model *model, const char *tower, const char *output,
                                         int64_t grain, cps_embedder **embedder_out) {
    cps_embedder *embedder = NULL;
    CPS_TRY(allocate(&(cps_embedder){.model = model, .lone_outputs = {-1, -1}, .grain = grain},
                     &embedder));
    return finish(embedder, choose_tower(embedder, tower, output), embedder_out);
}

cps_status cps_embedder_create_of_texts(cps_model *model, const cps_tokenizer *tokenizer,
                                        cps_embedder **embedder_out) {
    cps_embedder *embedder = NULL;
    const cps_tower *tower = cps_model_tower(model, "text");
    const cps_embedder with = {.model = model,
                               .tokenizer = tokenizer,
                               .context = tower == NULL ? 0 : cps_tower_get_config(tower)->context,
                               .lone_outputs = {-1, -1},
                               .grain = GRAIN};
    CPS_TRY(allocate(&with, &embedder));
    return finish(embedder, choose_texts(embedder), embedder_out);
}

void cps_embedder_destroy(cps_embedder *embedder) {
    if (embedder == NULL) {
        return;
    }
    cps_tape_destroy(embedder->tape);
    cps_tape_destroy(embedder->prepared);
    cps_arena_destroy(embedder->arena);
    free(embedder->ids);
    free(embedder->offsets);
    free(embedder->ends);
    free(embedder);
}

cps_status cps_embedder_prepare(cps_embedder *embedder) {
    cps_params *params = cps_model_params(embedder->model);
    const int32_t scale = cps_params_find(params, "logit_scale");
    embedder->encoder.scale =
        scale < 0 ? 0.0
                  : exp((double)cps_params_flat(params)[cps_params_at(params, scale)->offset]);
    cps_tape_reset(embedder->prepared);
    return prepare(embedder, embedder->prepared);
}

const cps_encoder *cps_embedder_encoder(const cps_embedder *embedder) {
    return &embedder->encoder;
}

size_t cps_embedder_bytes(const cps_embedder *embedder) {
    return embedder->bytes + (size_t)embedder->grain * (size_t)embedder->context * sizeof(int32_t);
}
