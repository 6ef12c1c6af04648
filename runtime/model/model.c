#include "model/model.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/presets.h"

/* What a spec leaves out is filled in as JSON (variant, preset) before the option rows read it, so
 * that every value, wherever it comes from, is checked by the same rows. Rows of towers have no
 * default of their own for that reason. */

enum { TOWER_MAX = 64, TOWER_NAME_MAX = 48 };

struct cps_model {
    cps_params *params;
    cps_arena *arena; /* strings of the options */
    cps_tower *towers[TOWER_MAX];
    cps_tower_weights own_weights[TOWER_MAX]; /* by tower */
    int32_t tower_count;
    const char *weights;
    bool partial;
};

/* ---- option rows ---- */

typedef struct model_options {
    const char *preset, *weights;
    int64_t embed_dim;
    bool partial;
} model_options;

const cps_option cps_model_options[] = {
    {.name = "preset",
     .kind = CPS_OPT_STRING,
     .help = "Named sizes of image and text tower, such as ViT-B-32; any size may be overridden.",
     .offset = offsetof(model_options, preset)},
    {.name = "embed_dim",
     .kind = CPS_OPT_INTEGER,
     .help = "Width of the features that image and text share (default: the preset's).",
     .minimum = 1,
     .maximum = 1 << 16,
     .offset = offsetof(model_options, embed_dim)},
    {.name = "weights",
     .kind = CPS_OPT_STRING,
     .help = "File of weights: safetensors in open_clip's or Hugging Face CLIP's names, or a "
             "checkpoint.",
     .offset = offsetof(model_options, weights)},
    {.name = "partial",
     .kind = CPS_OPT_BOOL,
     .help = "Accept a weights file that lacks some of a tower's parameters; those keep their "
             "initial values.",
     .default_text = "false",
     .offset = offsetof(model_options, partial)},
    {.name = NULL}};

typedef struct tower_options {
    int32_t kind, variant, activation, interpolation, resize;
    int64_t image_size, patch, width, layers, heads, mlp_width, embed_dim, context, vocabulary;
    bool pre_norm, patch_bias, partial;
    double norm_eps, drop_path;
    cps_numbers mean, std;
    const char *weights, *weights_from;
} tower_options;

static const char *const kind_names[] = {"vit", "text", "resnet", NULL}; /* as cps_tower_kind */
static const char *const variant_names[] = {"clip", "dino", NULL};
static const char *const activation_names[] = {"gelu", "quick_gelu", NULL};
static const char *const interpolation_names[] = {"bicubic", "bilinear", NULL};
static const char *const resize_names[] = {"crop", "squash", NULL};

#define SIZE_ROW(key, least, most, text)                                                           \
    {                                                                                              \
        .name = #key, .kind = CPS_OPT_INTEGER, .help = (text), .minimum = (least),                 \
        .maximum = (most), .offset = offsetof(tower_options, key)                                  \
    }
#define CHOICE_ROW(key, list, text)                                                                \
    {                                                                                              \
        .name = #key, .kind = CPS_OPT_CHOICE, .help = (text), .choices = (list),                   \
        .offset = offsetof(tower_options, key)                                                     \
    }
#define BOOL_ROW(key, text)                                                                        \
    { .name = #key, .kind = CPS_OPT_BOOL, .help = (text), .offset = offsetof(tower_options, key) }
#define NUMBER_ROW(key, least, most, text)                                                         \
    {                                                                                              \
        .name = #key, .kind = CPS_OPT_NUMBER, .help = (text), .minimum = (least),                  \
        .maximum = (most), .offset = offsetof(tower_options, key)                                  \
    }
#define TEXT_ROW(key, text)                                                                        \
    { .name = #key, .kind = CPS_OPT_STRING, .help = (text), .offset = offsetof(tower_options, key) }
#define COLOUR_ROW(key, text)                                                                      \
    {                                                                                              \
        .name = #key, .kind = CPS_OPT_NUMBERS, .help = (text), .minimum = -1000, .maximum = 1000,  \
        .length = 3, .offset = offsetof(tower_options, key)                                        \
    }

const cps_option cps_tower_options[] = {
    CHOICE_ROW(kind, kind_names,
               "What the tower is: vit (the default) or resnet for images, or text."),
    CHOICE_ROW(variant, variant_names,
               "Form of a ViT: clip (the default) or dino (its names, bias on patches, no norm "
               "before the blocks)."),
    SIZE_ROW(image_size, 1, 8192, "Side of the square input in pixels."),
    SIZE_ROW(patch, 1, 8192, "Side of a patch in pixels."),
    SIZE_ROW(width, 1, 1 << 16, "Numbers a token; resnet: of the pooled output (default: 2048)."),
    SIZE_ROW(layers, 1, 1024, "Transformer blocks; resnet: 14, 26, 50, 101 or 152 (default: 50)."),
    SIZE_ROW(heads, 1, 1 << 16, "Attention heads (default: width / 64)."),
    SIZE_ROW(mlp_width, 1, 1 << 20, "Hidden numbers of a block's MLP (default: 4 width)."),
    SIZE_ROW(
        embed_dim, 0, 1 << 16,
        "Width of the projected output (default: the model's for image and texts, else none)."),
    SIZE_ROW(context, 1, 1 << 16, "Longest text in tokens (default: the tokenizer's)."),
    SIZE_ROW(vocabulary, 1, 1 << 24, "Rows of the token table (default: the tokenizer's)."),
    CHOICE_ROW(activation, activation_names,
               "Activation of the MLPs: gelu, or quick_gelu as OpenAI's weights want."),
    BOOL_ROW(pre_norm, "Norm between patch embedding and blocks (default: clip yes, dino no)."),
    BOOL_ROW(patch_bias, "Bias on the patch embedding (default: clip no, dino yes)."),
    NUMBER_ROW(norm_eps, 1e-12, 0.1,
               "Added to the variance in layer norms (default: clip 1e-5, dino 1e-6)."),
    NUMBER_ROW(drop_path, 0, 0.99,
               "Chance that a sample skips the last block's branches in training; falls linearly "
               "to 0 at the first (default: 0)."),
    COLOUR_ROW(mean, "Mean of red, green, blue in 0..1 that is subtracted (default: clip CLIP's, "
                     "dino and resnet ImageNet's)."),
    COLOUR_ROW(std, "Deviation of red, green, blue that divides (default: as mean)."),
    CHOICE_ROW(interpolation, interpolation_names,
               "How evaluation images are resized (default: clip bicubic, else bilinear)."),
    CHOICE_ROW(resize, resize_names,
               "Evaluation images: crop (shorter side, then the centre; the default) or squash."),
    TEXT_ROW(weights, "Of towers beside image and text: a safetensors file in the tower's own "
                      "names, a CLIP that holds it, or a checkpoint."),
    TEXT_ROW(weights_from, "The tower's name in that file (default: in a checkpoint its own)."),
    BOOL_ROW(partial, "Accept a file that lacks some of the tower's parameters (default: no)."),
    {.name = NULL}};

/* ---- filling in what a spec leaves out ---- */

/* A copy of `spec` (NULL: empty) that may be added to. */
static cps_json *copy_object(const cps_json *spec) {
    cps_json *copy = cps_json_new_object();
    for (const cps_json *at = spec == NULL ? NULL : cps_json_first(spec); at != NULL;
         at = cps_json_next(at)) {
        cps_json_add_copy(copy, cps_json_key(at), at);
    }
    return copy;
}

static void add_number(cps_json *object, const char *key, double value) {
    if (cps_json_get(object, key) == NULL) {
        cps_json_add_number(object, key, value);
    }
}

static void add_text(cps_json *object, const char *key, const char *value) {
    if (cps_json_get(object, key) == NULL) {
        cps_json_add_string(object, key, value);
    }
}

static void add_bool(cps_json *object, const char *key, bool value) {
    if (cps_json_get(object, key) == NULL) {
        cps_json_add_bool(object, key, value);
    }
}

static void add_colour(cps_json *object, const char *key, const double values[3]) {
    if (cps_json_get(object, key) == NULL) {
        cps_json *list = cps_json_add_array(object, key);
        for (int32_t i = 0; i < 3; i++) {
            cps_json_add_number(list, NULL, values[i]);
        }
    }
}

static void fill_variant(cps_json *tower) {
    static const double clip_mean[] = {0.48145466, 0.4578275, 0.40821073};
    static const double clip_std[] = {0.26862954, 0.26130258, 0.27577711};
    static const double imagenet_mean[] = {0.485, 0.456, 0.406};
    static const double imagenet_std[] = {0.229, 0.224, 0.225};
    add_text(tower, "variant", "clip");
    const char *variant = cps_json_get_string(tower, "variant", "clip");
    const bool dino = strcmp(variant, "dino") == 0;
    const bool resnet = strcmp(cps_json_get_string(tower, "kind", "vit"), "resnet") == 0;
    const bool imagenet = dino || resnet;
    add_bool(tower, "pre_norm", !dino);
    add_bool(tower, "patch_bias", dino);
    add_number(tower, "norm_eps", dino ? 1e-6 : 1e-5);
    add_number(tower, "drop_path", 0);
    add_colour(tower, "mean", imagenet ? imagenet_mean : clip_mean);
    add_colour(tower, "std", imagenet ? imagenet_std : clip_std);
    add_text(tower, "interpolation", imagenet ? "bilinear" : "bicubic");
    add_text(tower, "resize", "crop");
    add_text(tower, "activation", "gelu");
}

static void fill_image_preset(cps_json *tower, const cps_preset *preset, bool quick) {
    add_number(tower, "image_size", (double)preset->image_size);
    add_number(tower, "patch", (double)preset->patch);
    add_number(tower, "width", (double)preset->image_width);
    add_number(tower, "layers", (double)preset->image_layers);
    add_text(tower, "activation", quick ? "quick_gelu" : "gelu");
}

static void fill_text_preset(cps_json *tower, const cps_preset *preset, bool quick) {
    add_number(tower, "width", (double)preset->text_width);
    add_number(tower, "layers", (double)preset->text_layers);
    add_number(tower, "context", (double)preset->context);
    add_number(tower, "vocabulary", CPS_CLIP_VOCABULARY);
    add_text(tower, "activation", quick ? "quick_gelu" : "gelu");
}

/* Keys that a kind of tower has not. */
static cps_status check_keys(const cps_json *spec, cps_tower_kind kind, const char *where) {
    static const char *const not_vit[] = {"context", "vocabulary", NULL};
    static const char *const not_text[] = {"image_size", "patch", "variant", "pre_norm",
                                           "patch_bias", "mean",  "std",     "interpolation",
                                           "resize",     NULL};
    static const char *const not_resnet[] = {"context",  "vocabulary", "patch",      "heads",
                                             "variant",  "pre_norm",   "patch_bias", "mlp_width",
                                             "norm_eps", "drop_path",  "activation", NULL};
    static const char *const *const lists[] = {not_vit, not_text, not_resnet};
    static const char *const names[] = {"image towers", "text towers", "residual networks"};
    for (const char *const *key = lists[kind]; *key != NULL; key++) {
        if (spec != NULL && cps_json_get(spec, *key) != NULL) {
            return cps_fail(CPS_ERR_USAGE, "%s.%s: %s have no such setting; take it out", where,
                            *key, names[kind]);
        }
    }
    return CPS_OK;
}

/* What a spec says it is; option rows refuse other words. */
static cps_tower_kind kind_of(const cps_json *spec) {
    const char *name = cps_json_get_string(spec, "kind", "vit");
    cps_tower_kind kind = CPS_TOWER_VIT;
    for (int32_t i = 0; kind_names[i] != NULL; i++) {
        kind = strcmp(name, kind_names[i]) == 0 ? (cps_tower_kind)i : kind;
    }
    return kind;
}

/* Image and text are what their names say; other towers choose. */
static cps_status check_kind(const cps_json *spec, const char *kind, const char *where) {
    const char *given = spec == NULL ? kind : cps_json_get_string(spec, "kind", kind);
    if (strcmp(given, kind) != 0) {
        return cps_fail(CPS_ERR_USAGE, "%s.kind is '%s', wanted '%s'; other towers go into towers",
                        where, given, kind);
    }
    return CPS_OK;
}

/* ---- towers ---- */

static cps_status need(const cps_json *tower, const char *where, const char *const *keys) {
    for (; *keys != NULL; keys++) {
        if (cps_json_get(tower, *keys) == NULL) {
            return cps_fail(CPS_ERR_USAGE,
                            "%s.%s is missing: a tower without a preset states its sizes", where,
                            *keys);
        }
    }
    return CPS_OK;
}

static cps_status default_heads(cps_json *tower, const char *where) {
    const int64_t width = cps_json_get_integer(tower, "width", 0);
    if (cps_json_get(tower, "heads") == NULL) {
        if (width < 64 || width % 64 != 0) {
            return cps_fail(CPS_ERR_USAGE,
                            "%s.heads is missing: width %lld is no multiple of 64, so the usual "
                            "width / 64 does not do; state heads",
                            where, (long long)width);
        }
        cps_json_add_number(tower, "heads", (double)(width / 64));
    }
    return CPS_OK;
}

static cps_status fill_sizes(cps_json *tower, bool resnet, const char *where) {
    if (!resnet) {
        return default_heads(tower, where);
    }
    add_number(tower, "width", 2048);
    add_number(tower, "layers", 50);
    return CPS_OK;
}

static cps_tower_config config_of(const tower_options *options) {
    cps_tower_config config = {
        .kind = (cps_tower_kind)options->kind,
        .image_size = options->image_size,
        .patch = options->patch,
        .width = options->width,
        .layers = options->layers,
        .heads = options->heads,
        .mlp_width = options->mlp_width,
        .embed_dim = options->embed_dim,
        .context = options->context,
        .vocabulary = options->vocabulary,
        .quick_gelu = options->activation == 1,
        .pre_norm = options->pre_norm,
        .patch_bias = options->patch_bias,
        .norm_eps = options->norm_eps,
        .drop_path = options->drop_path,
        .dino = options->variant == 1,
        .bilinear = options->interpolation == 1,
        .squash = options->resize == 1,
    };
    for (int32_t i = 0; i < 3; i++) {
        config.mean[i] = options->mean.values[i];
        config.std[i] = options->std.values[i];
    }
    return config;
}

static cps_status check_colours(const cps_tower_config *config, const char *where) {
    for (int32_t i = 0; i < 3; i++) {
        if (!(config->std[i] > 0)) {
            return cps_fail(CPS_ERR_USAGE, "%s.std[%d] is %g, wanted a positive deviation", where,
                            i + 1, config->std[i]);
        }
    }
    return CPS_OK;
}

cps_status cps_model_add_tower(cps_model *model, cps_tower *tower) {
    const char *name = cps_tower_get_config(tower)->name;
    if (cps_model_tower(model, name) != NULL) {
        return cps_fail(CPS_ERR_USAGE, "the model has two towers named '%s'; rename one", name);
    }
    if (model->tower_count == TOWER_MAX) {
        return cps_fail(CPS_ERR_USAGE, "the model has more than %d towers", TOWER_MAX);
    }
    model->towers[model->tower_count++] = tower;
    return CPS_OK;
}

static cps_status check_weights(const tower_options *options, const char *where) {
    const bool shared = strcmp(where, "model.image") == 0 || strcmp(where, "model.text") == 0;
    if (options->weights != NULL && shared) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s.weights: files of their own are for towers in model.towers; "
                        "model.weights is that of image and text",
                        where);
    }
    if (options->weights == NULL && (options->weights_from != NULL || options->partial)) {
        return cps_fail(CPS_ERR_USAGE, "%s: %s says how to read weights, which are missing", where,
                        options->partial ? "partial" : "weights_from");
    }
    return CPS_OK;
}

/* From a filled-in object to a tower of the model. */
static cps_status make_tower(cps_model *model, cps_json *filled, const char *name,
                             const char *prefix, const char *where) {
    static const char *const also[] = {"ema_of", NULL};
    static const char *const image_sizes[] = {"image_size", "patch", "width", "layers", NULL};
    static const char *const text_sizes[] = {"context", "vocabulary", "width", "layers", NULL};
    static const char *const net_sizes[] = {"image_size", NULL};
    static const char *const *const sizes[] = {image_sizes, text_sizes, net_sizes};
    add_text(filled, "kind", "vit");
    fill_variant(filled);
    tower_options options = {0};
    /* First the keys and types, so that a misspelt size is not called missing. */
    CPS_TRY(cps_options_parse(cps_tower_options, filled, where, also, model->arena, &options));
    CPS_TRY(need(filled, where, sizes[options.kind]));
    CPS_TRY(fill_sizes(filled, options.kind == CPS_TOWER_RESNET, where));
    CPS_TRY(cps_options_parse(cps_tower_options, filled, where, also, model->arena, &options));
    cps_tower_config config = config_of(&options);
    config.name = name;
    config.prefix = prefix;
    CPS_TRY(check_colours(&config, where));
    cps_tower *tower = NULL;
    CPS_TRY(cps_fail_context(cps_tower_create(model->params, &config, &tower), "%s", where));
    const cps_status status = cps_model_add_tower(model, tower);
    if (status != CPS_OK) {
        cps_tower_destroy(tower);
        return status;
    }
    model->own_weights[model->tower_count - 1] =
        (cps_tower_weights){options.weights, options.weights_from, options.partial};
    return check_weights(&options, where);
}

/* What all towers of a spec are made with. */
typedef struct making {
    cps_model *model;
    const cps_json *spec;
    const cps_preset *preset; /* NULL: none named */
    bool quick_gelu;
    int64_t embed_dim, vocabulary, context;
} making;

static int64_t shared_width(const making *with) {
    if (with->embed_dim > 0) {
        return with->embed_dim;
    }
    return with->preset == NULL ? 0 : with->preset->embed_dim;
}

static cps_status make_image(const making *with) {
    const cps_json *spec = cps_json_get(with->spec, "image");
    if (spec == NULL && with->preset == NULL) {
        return CPS_OK;
    }
    CPS_TRY(check_kind(spec, "vit", "model.image"));
    CPS_TRY(check_keys(spec, CPS_TOWER_VIT, "model.image"));
    cps_json *filled = copy_object(spec);
    if (with->preset != NULL) {
        fill_image_preset(filled, with->preset, with->quick_gelu);
    }
    add_number(filled, "embed_dim", (double)shared_width(with));
    const cps_status status = make_tower(with->model, filled, "image", "visual.", "model.image");
    cps_json_destroy(filled);
    return status;
}

static cps_status check_tokenizer(const making *with, const cps_json *filled, const char *where) {
    const int64_t vocabulary = cps_json_get_integer(filled, "vocabulary", 0);
    const int64_t context = cps_json_get_integer(filled, "context", 0);
    if (vocabulary < with->vocabulary) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s.vocabulary is %lld, but the tokenizer has %lld tokens; take the "
                        "setting out or use the tokenizer that belongs to the weights",
                        where, (long long)vocabulary, (long long)with->vocabulary);
    }
    if (context < with->context) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s.context is %lld, but the tokenizer makes texts of up to %lld tokens; "
                        "make the two equal",
                        where, (long long)context, (long long)with->context);
    }
    return CPS_OK;
}

/* What every text tower takes from the tokenizer. */
static void fill_tokenizer(const making *with, cps_json *tower) {
    if (with->vocabulary > 0) {
        add_number(tower, "vocabulary", (double)with->vocabulary);
    }
    if (with->context > 0) {
        add_number(tower, "context", (double)with->context);
    }
}

static cps_status make_text(const making *with) {
    const cps_json *spec = cps_json_get(with->spec, "text");
    if (spec == NULL && with->preset == NULL) {
        return CPS_OK;
    }
    CPS_TRY(check_kind(spec, "text", "model.text"));
    CPS_TRY(check_keys(spec, CPS_TOWER_TEXT, "model.text"));
    cps_json *filled = copy_object(spec);
    add_text(filled, "kind", "text");
    fill_tokenizer(with, filled);
    if (with->preset != NULL) {
        fill_text_preset(filled, with->preset, with->quick_gelu);
    }
    add_number(filled, "embed_dim", (double)shared_width(with));
    cps_status status = make_tower(with->model, filled, "text", "", "model.text");
    if (status == CPS_OK) {
        status = check_tokenizer(with, filled, "model.text");
    }
    cps_json_destroy(filled);
    return status;
}

static cps_status check_tower_name(const char *name, const char *where) {
    const size_t length = strlen(name);
    bool plain = length > 0 && length < TOWER_NAME_MAX && name[0] != '.';
    for (size_t i = 0; i < length; i++) {
        const char c = name[i];
        plain = plain && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                          (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.');
    }
    static const char *const taken[] = {"image", "text", "visual", "transformer"};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        plain = plain && strcmp(name, taken[i]) != 0;
    }
    if (!plain) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: a tower's name is 1 to %d letters, digits, '.', '_' or '-', and not "
                        "image, text, visual or transformer",
                        where, TOWER_NAME_MAX - 1);
    }
    return CPS_OK;
}

/* Texts are as long as the tower `text` takes them, whoever reads them. */
static cps_status check_context(const making *with, const cps_json *filled, const char *where) {
    const cps_tower *text = cps_model_tower(with->model, "text");
    const int64_t context = cps_json_get_integer(filled, "context", 0);
    const int64_t longest = text == NULL ? 0 : cps_tower_get_config(text)->context;
    return context >= longest
               ? CPS_OK
               : cps_fail(CPS_ERR_USAGE,
                          "%s.context is %lld, but texts are of up to %lld tokens (model.text and "
                          "the tokenizer): make the two equal",
                          where, (long long)context, (long long)longest);
}

static cps_status make_original(const making *with, const cps_json *spec, const char *name,
                                const char *prefix, const char *where) {
    const bool is_text = kind_of(spec) == CPS_TOWER_TEXT;
    CPS_TRY(check_keys(spec, kind_of(spec), where));
    cps_json *filled = copy_object(spec);
    if (is_text) {
        const cps_tower *text = cps_model_tower(with->model, "text");
        fill_tokenizer(with, filled);
        if (text != NULL) { /* a tokenizer need not say it */
            add_number(filled, "context", (double)cps_tower_get_config(text)->context);
        }
        add_number(filled, "embed_dim", (double)shared_width(with));
    }
    cps_status status = make_tower(with->model, filled, name, prefix, where);
    if (is_text && status == CPS_OK) {
        status = check_tokenizer(with, filled, where);
    }
    if (is_text && status == CPS_OK) {
        status = check_context(with, filled, where);
    }
    cps_json_destroy(filled);
    return status;
}

static cps_status make_other(const making *with, const cps_json *spec, bool copies) {
    const char *name = cps_json_key(spec);
    const char *ema_of = cps_json_get_string(spec, "ema_of", NULL);
    if ((ema_of != NULL) != copies) {
        return CPS_OK;
    }
    char where[TOWER_NAME_MAX + 32], prefix[TOWER_NAME_MAX + 2];
    snprintf(where, sizeof where, "model.towers.%.*s", TOWER_NAME_MAX, name);
    CPS_TRY(check_tower_name(name, where));
    snprintf(prefix, sizeof prefix, "%s.", name);
    if (!copies) {
        return make_original(with, spec, name, prefix, where);
    }
    const cps_tower *source = cps_model_tower(with->model, ema_of);
    if (source == NULL) {
        return cps_fail(CPS_ERR_USAGE, "%s: it follows tower '%s', which the model lacks", where,
                        ema_of);
    }
    cps_tower *tower = NULL;
    CPS_TRY(cps_tower_create_ema(with->model->params, source, name, prefix, &tower));
    const cps_status status = cps_model_add_tower(with->model, tower);
    if (status != CPS_OK) {
        cps_tower_destroy(tower);
    }
    return status;
}

static int by_key(const void *a, const void *b) {
    return strcmp(cps_json_key(*(const cps_json *const *)a),
                  cps_json_key(*(const cps_json *const *)b));
}

/* In the order of their names, so that the layout does not hang on how the JSON was written; moving
 * averages after all others. */
static cps_status make_others(const making *with) {
    const cps_json *towers = cps_json_get(with->spec, "towers");
    const int64_t count = towers == NULL ? 0 : cps_json_count(towers);
    if (count > TOWER_MAX) {
        return cps_fail(CPS_ERR_USAGE, "model.towers has %lld towers, wanted at most %d",
                        (long long)count, TOWER_MAX);
    }
    const cps_json *sorted[TOWER_MAX];
    int64_t at = 0;
    for (const cps_json *item = towers == NULL ? NULL : cps_json_first(towers); item != NULL;
         item = cps_json_next(item)) {
        if (!cps_json_is_object(item) || cps_json_key(item) == NULL) {
            return cps_fail(
                CPS_ERR_USAGE,
                "model.towers is a table of towers by name: { ssl = copse.tower {...} }");
        }
        sorted[at++] = item;
    }
    qsort(sorted, (size_t)count, sizeof sorted[0], by_key);
    for (int32_t copies = 0; copies < 2; copies++) {
        for (int64_t i = 0; i < count; i++) {
            CPS_TRY(make_other(with, sorted[i], copies == 1));
        }
    }
    return CPS_OK;
}

/* ---- the model ---- */

static cps_status find_preset(const char *name, making *with) {
    if (name == NULL) {
        return CPS_OK;
    }
    with->preset = cps_preset_find(name, &with->quick_gelu);
    if (with->preset == NULL) {
        const char *near = cps_nearest_name(name, cps_model_presets());
        return cps_fail(CPS_ERR_USAGE,
                        "model.preset: there is no '%s'%s%s%s; presets are ViT-B-32, ViT-B-16, "
                        "ViT-L-14, ViT-S-32, ViT-S-16, ViT-Tiny-16 and ViT-Micro-8, each also with "
                        "-quickgelu",
                        name, near == NULL ? "" : " (did you mean '", near == NULL ? "" : near,
                        near == NULL ? "" : "'?)");
    }
    return CPS_OK;
}

static cps_status fill_model(cps_model *model, const cps_json *spec, int64_t vocabulary,
                             int64_t context) {
    static const char *const also[] = {"image",     "text",           "towers",
                                       "model_cfg", "preprocess_cfg", NULL};
    model_options options = {0};
    CPS_TRY(cps_options_parse(cps_model_options, spec, "model", also, model->arena, &options));
    model->weights = options.weights;
    model->partial = options.partial;
    making with = {.model = model,
                   .spec = spec,
                   .embed_dim = options.embed_dim,
                   .vocabulary = vocabulary,
                   .context = context};
    CPS_TRY(find_preset(options.preset, &with));
    CPS_TRY(make_image(&with));
    CPS_TRY(make_text(&with));
    CPS_TRY(make_others(&with));
    if (model->tower_count == 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "the model has no tower: name a preset (model = copse.model { preset = "
                        "\"ViT-B-32\" }) or give the sizes of image and text");
    }
    return CPS_OK;
}

cps_status cps_model_create(const cps_json *spec, int64_t vocabulary, int64_t context,
                            cps_model **model_out) {
    cps_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a model");
    }
    cps_status status = cps_arena_create("model options", 1 << 14, true, &model->arena);
    if (status == CPS_OK) {
        status = cps_params_create(&model->params);
    }
    if (status == CPS_OK) {
        status = fill_model(model, spec, vocabulary, context);
    }
    if (status != CPS_OK) {
        cps_model_destroy(model);
        return status;
    }
    *model_out = model;
    return CPS_OK;
}

void cps_model_destroy(cps_model *model) {
    if (model == NULL) {
        return;
    }
    for (int32_t i = 0; i < model->tower_count; i++) {
        cps_tower_destroy(model->towers[i]);
    }
    cps_params_destroy(model->params);
    cps_arena_destroy(model->arena);
    free(model);
}

cps_params *cps_model_params(cps_model *model) {
    return model->params;
}

int32_t cps_model_tower_count(const cps_model *model) {
    return model->tower_count;
}

cps_tower *cps_model_tower_at(cps_model *model, int32_t index) {
    CPS_BUG_IF(index < 0 || index >= model->tower_count);
    return model->towers[index];
}

cps_tower *cps_model_tower(cps_model *model, const char *name) {
    for (int32_t i = 0; i < model->tower_count; i++) {
        if (strcmp(cps_tower_get_config(model->towers[i])->name, name) == 0) {
            return model->towers[i];
        }
    }
    return NULL;
}

const char *cps_model_weights(const cps_model *model) {
    return model->weights;
}

const cps_tower_weights *cps_model_tower_weights(const cps_model *model, const char *tower) {
    for (int32_t i = 0; i < model->tower_count; i++) {
        if (strcmp(cps_tower_get_config(model->towers[i])->name, tower) == 0) {
            return &model->own_weights[i];
        }
    }
    static const cps_tower_weights none = {0};
    return &none;
}

bool cps_model_partial(const cps_model *model) {
    return model->partial;
}

/* ---- description ---- */

static void describe_image(const cps_tower_config *config, cps_json *object) {
    cps_json_add_number(object, "image_size", (double)config->image_size);
    if (config->kind == CPS_TOWER_VIT) {
        cps_json_add_string(object, "variant", variant_names[config->dino]);
        cps_json_add_number(object, "patch", (double)config->patch);
        cps_json_add_bool(object, "pre_norm", config->pre_norm);
        cps_json_add_bool(object, "patch_bias", config->patch_bias);
    }
    add_colour(object, "mean", config->mean);
    add_colour(object, "std", config->std);
    cps_json_add_string(object, "interpolation", interpolation_names[config->bilinear]);
    cps_json_add_string(object, "resize", resize_names[config->squash]);
}

static void describe_tower(const cps_tower_config *config, cps_json *object) {
    if (config->ema_of != NULL) {
        cps_json_add_string(object, "ema_of", config->ema_of);
    }
    cps_json_add_string(object, "kind", kind_names[config->kind]);
    if (config->kind != CPS_TOWER_TEXT) {
        describe_image(config, object);
    } else {
        cps_json_add_number(object, "context", (double)config->context);
        cps_json_add_number(object, "vocabulary", (double)config->vocabulary);
    }
    cps_json_add_number(object, "width", (double)config->width);
    cps_json_add_number(object, "layers", (double)config->layers);
    cps_json_add_number(object, "embed_dim", (double)config->embed_dim);
    if (config->kind == CPS_TOWER_RESNET) {
        return;
    }
    cps_json_add_number(object, "heads", (double)config->heads);
    cps_json_add_number(object, "mlp_width", (double)config->mlp_width);
    cps_json_add_string(object, "activation", activation_names[config->quick_gelu]);
    cps_json_add_number(object, "norm_eps", config->norm_eps);
    cps_json_add_number(object, "drop_path", config->drop_path);
}

cps_json *cps_model_describe(const cps_model *model) {
    cps_json *root = cps_json_new_object();
    cps_json *others = NULL;
    for (int32_t i = 0; i < model->tower_count; i++) {
        const cps_tower_config *config = cps_tower_get_config(model->towers[i]);
        const bool shared = strcmp(config->name, "image") == 0 || strcmp(config->name, "text") == 0;
        if (!shared && others == NULL) {
            others = cps_json_add_object(root, "towers");
        }
        describe_tower(config, cps_json_add_object(shared ? root : others, config->name));
    }
    return root;
}
