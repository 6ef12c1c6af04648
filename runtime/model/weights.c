#include "model/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "model/hf_names.h"
#include "model/positions.h"
#include "model/safetensors.h"
#include "model/tower_parts.h"
#include "model/weights_file.h"

/* A file for the whole model, or for one tower alone, whose names it may hold as another program
 * has them: without the tower's own prefix. Loading goes in two passes: first every parameter is
 * matched with what the file has and all shapes are compared, so that a file that does not fit
 * changes nothing; then values are read. The naming style and prefix are those that match the most
 * parameters. */

typedef enum style { STYLE_OPEN_CLIP, STYLE_CUSTOM_TEXT, STYLE_HUGGING_FACE, STYLE_COUNT } style;

static const char *const prefixes[] = {"",     "module.", "model.", "module.model.", "clip_model.",
                                       "clip."};
enum { PREFIX_COUNT = sizeof prefixes / sizeof *prefixes, PREFIX_MAX = 128 };
/* In front of a tower's own names: of training programs, then of a file that holds more. */
static const char *const tower_prefixes[] = {
    "",       "module.",       "backbone.",   "module.backbone.",
    "model.", "module.model.", "clip_model.", "clip."};
static const char *const inner_prefixes[] = {"", "visual.", "text."};

/* Buffers that other programs store and that say nothing. */
static bool is_noise(const char *name) {
    static const char *const endings[] = {"position_ids", "attn_mask",      "num_batches_tracked",
                                          "vocab_size",   "context_length", "input_resolution"};
    const size_t length = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t ending = strlen(endings[i]);
        if (length >= ending && strcmp(name + length - ending, endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Where one parameter's values come from. */
typedef struct match {
    int32_t param;
    cps_hf_pieces pieces; /* names in the file, prefix included */
    cps_stored *stored[CPS_HF_PIECES];
    bool resampled;
} match;

typedef struct loading {
    cps_model *model;
    cps_params *params;
    const cps_tower *tower; /* the only one to be loaded; NULL: the whole model */
    cps_weights_file file;
    style style;
    char prefix[PREFIX_MAX];
    match *matches; /* [match_count] */
    int64_t match_count;
    const cps_tower **owner; /* [params]: the tower that declared it, or NULL */
    cps_weights_report report;
} loading;

/* ---- reports ---- */

void cps_weights_report_free(cps_weights_report *report) {
    cps_strings_destroy(report->missing, report->missing_count);
    cps_strings_destroy(report->unused, report->unused_count);
    *report = (cps_weights_report){0};
}

static cps_status append(char ***list, int64_t *count, const char *text) {
    char **grown = realloc(*list, ((size_t)*count + 1) * sizeof *grown);
    if (grown == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the list of weights");
    }
    *list = grown;
    grown[*count] = cps_format("%s", text);
    *count += 1;
    return CPS_OK;
}

/* ---- names ---- */

/* Whether parameter `index` is to be loaded at all. */
static bool is_asked(const loading *load, int32_t index) {
    return load->tower == NULL || load->owner[index] == load->tower;
}

/* Hugging Face names the towers of CLIP: those that are no "image" and no "text" here take their
 * parts. False: CLIPModel has none for this one. */
static bool hf_pieces_of(const loading *load, const char *own, cps_hf_pieces *out) {
    const cps_tower_config *config = load->tower == NULL ? NULL : &load->tower->config;
    char name[CPS_HF_NAME_MAX];
    if (config != NULL && (config->dino || config->kind == CPS_TOWER_RESNET)) {
        return false;
    }
    const bool image = config != NULL && config->kind == CPS_TOWER_VIT;
    const int length = snprintf(name, sizeof name, "%s%s", image ? "visual." : "", own);
    return length < (int)sizeof name && cps_hf_pieces_of(name, out);
}

/* Names of parameter `name` in a file of the given style. */
static bool pieces_of(const loading *load, style how, const char *prefix, const char *name,
                      cps_hf_pieces *out) {
    cps_hf_pieces bare = {.count = 1};
    if (load->tower != NULL) {
        name += strlen(load->tower->config.prefix);
    }
    if (how == STYLE_HUGGING_FACE) {
        if (!hf_pieces_of(load, name, &bare)) {
            return false;
        }
    } else {
        const bool is_text = how == STYLE_CUSTOM_TEXT && load->tower == NULL &&
                             strncmp(name, "visual.", 7) != 0 && strncmp(name, "logit_", 6) != 0;
        snprintf(bare.names[0], CPS_HF_NAME_MAX, "%s%s", is_text ? "text." : "", name);
    }
    *out = bare;
    for (int32_t i = 0; i < bare.count; i++) {
        const int length = snprintf(out->names[i], CPS_HF_NAME_MAX, "%s%s", prefix, bare.names[i]);
        if (length >= CPS_HF_NAME_MAX) {
            return false;
        }
    }
    return true;
}

static bool find_pieces(const loading *load, style how, const char *prefix, const char *name,
                        match *out) {
    if (!pieces_of(load, how, prefix, name, &out->pieces)) {
        return false;
    }
    for (int32_t i = 0; i < out->pieces.count; i++) {
        out->stored[i] = cps_weights_file_find(&load->file, out->pieces.names[i]);
        if (out->stored[i] == NULL) {
            return false;
        }
    }
    return true;
}

/* Keeps the style and prefix where they match more than what was tried before; *most counts. */
static void try_names(loading *load, style how, const char *prefix, int64_t *most) {
    int64_t found = 0;
    for (int32_t i = 0; i < cps_params_count(load->params); i++) {
        match probe;
        found += is_asked(load, i) &&
                 find_pieces(load, how, prefix, cps_params_at(load->params, i)->name, &probe);
    }
    if (found > *most) {
        *most = found;
        load->style = how;
        snprintf(load->prefix, sizeof load->prefix, "%s", prefix);
    }
}

static cps_status choose_style(loading *load) {
    int64_t most = 0;
    const int32_t styles = load->file.is_checkpoint ? 1 : STYLE_COUNT;
    const int32_t tries = load->file.is_checkpoint ? 1 : PREFIX_COUNT;
    for (int32_t how = 0; how < styles; how++) {
        for (int32_t i = 0; i < tries; i++) {
            try_names(load, (style)how, prefixes[i], &most);
        }
    }
    if (most > 0) {
        return CPS_OK;
    }
    const char *first = load->file.count > 0 ? load->file.tensors[0].name : "nothing";
    return cps_fail(CPS_ERR_DATA,
                    "'%s' holds none of the model's parameters: its %lld tensors begin with '%s', "
                    "wanted names as of open_clip ('%s') or of Hugging Face's CLIP "
                    "('vision_model.embeddings.class_embedding')",
                    load->file.path, (long long)load->file.count, first,
                    cps_params_count(load->params) > 0 ? cps_params_at(load->params, 0)->name
                                                       : "visual.proj");
}

/* Where a tower stands in our own files. */
static void own_prefix(const char *tower, char prefix_out[PREFIX_MAX]) {
    snprintf(prefix_out, PREFIX_MAX, "%s%s",
             strcmp(tower, "image") == 0  ? "visual"
             : strcmp(tower, "text") == 0 ? ""
                                          : tower,
             strcmp(tower, "text") == 0 ? "" : ".");
}

/* The same for one tower; from: its name in the file, NULL: not said. */
static cps_status choose_tower_style(loading *load, const char *from) {
    const cps_tower_config *config = &load->tower->config;
    char prefix[PREFIX_MAX];
    int64_t most = 0;
    if (from != NULL || load->file.is_checkpoint) {
        own_prefix(from != NULL ? from : config->name, prefix);
        try_names(load, STYLE_OPEN_CLIP, prefix, &most);
    }
    for (size_t i = 0; from == NULL && !load->file.is_checkpoint &&
                       i < sizeof tower_prefixes / sizeof *tower_prefixes;
         i++) {
        for (size_t k = 0; k < sizeof inner_prefixes / sizeof *inner_prefixes; k++) {
            snprintf(prefix, sizeof prefix, "%s%s", tower_prefixes[i], inner_prefixes[k]);
            try_names(load, STYLE_OPEN_CLIP, prefix, &most);
        }
        try_names(load, STYLE_HUGGING_FACE, tower_prefixes[i], &most);
    }
    if (most > 0) {
        return CPS_OK;
    }
    const char *first = load->file.count > 0 ? load->file.tensors[0].name : "nothing";
    const char *own = cps_params_at(load->params, load->tower->indices[0])->name;
    if (from != NULL || load->file.is_checkpoint) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' holds nothing of a tower '%s': its %lld tensors begin with '%s', "
                        "wanted '%s%s' and others; weights_from names the tower there",
                        load->file.path, from != NULL ? from : config->name,
                        (long long)load->file.count, first, prefix, own + strlen(config->prefix));
    }
    return cps_fail(CPS_ERR_DATA,
                    "'%s' holds none of the parameters of tower '%s': its %lld tensors begin with "
                    "'%s', wanted are the tower's own names ('%s'), also behind 'module.' or "
                    "'backbone.'; take the kind and variant that belong to these weights",
                    load->file.path, config->name, (long long)load->file.count, first,
                    own + strlen(config->prefix));
}

/* ---- shapes ---- */

typedef struct shape_text {
    char text[CPS_WEIGHTS_DIMS * 22 + 3];
} shape_text;

static shape_text describe_shape(int32_t rank, const int64_t *shape) {
    shape_text out = {"["};
    size_t at = 1;
    for (int32_t i = 0; i < rank; i++) {
        at += (size_t)snprintf(out.text + at, sizeof out.text - at, i == 0 ? "%lld" : ",%lld",
                               (long long)shape[i]);
    }
    snprintf(out.text + at, sizeof out.text - at, "]");
    return out;
}

static bool equal_shapes(int32_t rank_a, const int64_t *a, int32_t rank_b, const int64_t *b) {
    return rank_a == rank_b && memcmp(a, b, (size_t)rank_a * sizeof *a) == 0;
}

/* The shape that the file's pieces make together; false when they do not go together. */
static bool joined_shape(const match *found, int32_t *rank_out, int64_t *shape_out) {
    const cps_stored *first = found->stored[0];
    memcpy(shape_out, first->shape, sizeof first->shape);
    *rank_out = first->rank;
    for (int32_t i = 1; i < found->pieces.count; i++) {
        if (!equal_shapes(first->rank, first->shape, found->stored[i]->rank,
                          found->stored[i]->shape)) {
            return false;
        }
    }
    if (found->pieces.count > 1) {
        if (first->rank < 1) {
            return false;
        }
        shape_out[0] *= found->pieces.count;
    }
    if (found->pieces.transposed) {
        if (first->rank != 2) {
            return false;
        }
        shape_out[0] = first->shape[1];
        shape_out[1] = first->shape[0];
    }
    return true;
}

static bool is_position_table(const loading *load, int32_t param) {
    const cps_tower *tower = load->owner[param];
    return tower != NULL && tower->roles.positions == param;
}

static int64_t square_root(int64_t n) {
    const int64_t root = (int64_t)llround(sqrt((double)n));
    return root > 0 && root * root == n ? root : 0;
}

/* A position table of another length: a grid of an image is resampled, a text's is cut. */
static bool can_resample(const loading *load, int32_t param, int32_t rank, const int64_t *shape) {
    const cps_param *wanted = cps_params_at(load->params, param);
    if (!is_position_table(load, param) || rank != wanted->spec.rank || rank < 2 ||
        shape[rank - 1] != wanted->spec.shape[rank - 1] || (rank == 3 && shape[0] != 1)) {
        return false;
    }
    const int64_t theirs = shape[rank - 2], ours = wanted->spec.shape[rank - 2];
    return load->owner[param]->config.kind == CPS_TOWER_TEXT ? theirs > ours
                                                             : square_root(theirs - 1) > 0;
}

/* CPS_OK with *use_out false: leave the parameter at its initial value. */
static cps_status check_match(const loading *load, match *found, bool *use_out) {
    const cps_param *wanted = cps_params_at(load->params, found->param);
    int32_t rank = 0;
    int64_t shape[CPS_WEIGHTS_DIMS] = {0};
    *use_out = true;
    const bool joins = joined_shape(found, &rank, shape);
    if (joins && (equal_shapes(rank, shape, wanted->spec.rank, wanted->spec.shape) ||
                  (wanted->count == 1 && wanted->spec.rank <= 1 && rank <= 1 &&
                   found->stored[0]->count == 1))) {
        return CPS_OK;
    }
    if (joins && can_resample(load, found->param, rank, shape)) {
        found->resampled = true;
        return CPS_OK;
    }
    if (load->owner[found->param] == NULL) { /* an objective's own, of another job */
        *use_out = false;
        return CPS_OK;
    }
    const cps_tower_config *config = &load->owner[found->param]->config;
    if (is_position_table(load, found->param) && config->kind == CPS_TOWER_TEXT && rank == 2 &&
        shape[1] == wanted->spec.shape[1]) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' has positions for texts of %lld tokens, the model wants %lld; set "
                        "text = { context = %lld } or less",
                        load->file.path, (long long)shape[0], (long long)config->context,
                        (long long)shape[0]);
    }
    return cps_fail(CPS_ERR_DATA,
                    "'%s': '%s' has shape %s, tower '%s' wants %s for '%s'; take the preset and "
                    "sizes that belong to these weights",
                    load->file.path, found->pieces.names[0],
                    describe_shape(found->stored[0]->rank, found->stored[0]->shape).text,
                    config->name, describe_shape(wanted->spec.rank, wanted->spec.shape).text,
                    wanted->name);
}

/* ---- matching ---- */

static cps_status find_owners(loading *load) {
    const int32_t count = cps_params_count(load->params);
    load->owner = calloc((size_t)count + 1, sizeof *load->owner);
    load->matches = calloc((size_t)count + 1, sizeof *load->matches);
    if (load->owner == NULL || load->matches == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %d parameters", count);
    }
    for (int32_t t = 0; t < cps_model_tower_count(load->model); t++) {
        const cps_tower *tower = cps_model_tower_at(load->model, t);
        for (int32_t i = 0; i < tower->count; i++) {
            load->owner[tower->indices[i]] = tower;
        }
    }
    return CPS_OK;
}

static cps_status match_all(loading *load) {
    for (int32_t i = 0; i < cps_params_count(load->params); i++) {
        const char *name = cps_params_at(load->params, i)->name;
        match *found = &load->matches[load->match_count];
        found->param = i;
        if (!is_asked(load, i)) {
            continue;
        }
        bool use = find_pieces(load, load->style, load->prefix, name, found);
        if (use) {
            CPS_TRY(check_match(load, found, &use));
        }
        if (use) {
            load->match_count++;
            for (int32_t k = 0; k < found->pieces.count; k++) {
                found->stored[k]->used = true;
            }
        } else if (load->owner[i] != NULL && load->owner[i]->config.ema_of == NULL) {
            CPS_TRY(append(&load->report.missing, &load->report.missing_count, name));
        }
    }
    return CPS_OK;
}

/* Whether the file has anything of `tower`. */
static bool is_covered(const loading *load, const cps_tower *tower) {
    for (int64_t i = 0; i < load->match_count; i++) {
        if (load->owner[load->matches[i].param] == tower) {
            return true;
        }
    }
    return false;
}

/* A tower beside image and text that the file knows nothing of starts fresh, and one with a file of
 * its own waits for that; otherwise towers must be complete. */
static cps_status check_missing(const loading *load) {
    char list[1024] = "";
    size_t at = 0;
    int64_t fatal = 0;
    for (int64_t i = 0; i < load->report.missing_count; i++) {
        const char *name = load->report.missing[i];
        const cps_tower *tower = load->owner[cps_params_find(load->params, name)];
        const bool shared =
            strcmp(tower->config.name, "image") == 0 || strcmp(tower->config.name, "text") == 0;
        const bool later = load->tower == NULL &&
                           cps_model_tower_weights(load->model, tower->config.name)->path != NULL;
        if (later || (!shared && !is_covered(load, tower))) {
            continue;
        }
        if (fatal++ < 10 && at < sizeof list) {
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at == 0 ? "" : ", ", name);
        }
    }
    if (fatal == 0) {
        return CPS_OK;
    }
    return cps_fail(CPS_ERR_DATA,
                    "'%s' lacks %lld of the towers' parameters: %s%s; take the preset that belongs "
                    "to these weights, or say partial = true to start those from initial values",
                    load->file.path, (long long)fatal, list, fatal > 10 ? ", ..." : "");
}

/* ---- values ---- */

static void resample(const loading *load, const match *found, const cps_real *theirs,
                     cps_real *ours, const double *map, int64_t rows_in) {
    const cps_param *wanted = cps_params_at(load->params, found->param);
    const int64_t width = wanted->spec.shape[wanted->spec.rank - 1];
    const int64_t rows = wanted->spec.shape[wanted->spec.rank - 2];
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t c = 0; c < width; c++) {
            double sum = 0;
            for (int64_t i = 0; i < rows_in; i++) {
                sum += map[row * rows_in + i] * (double)theirs[i * width + c];
            }
            ours[row * width + c] = (cps_real)sum;
        }
    }
}

/* Same as open_clip's resize_pos_embed: class row kept, grid resampled bicubically, antialiased,
 * corners not aligned; DINO's towers by DINO's rule. Text tables are cut. */
static cps_status resample_positions(const loading *load, const match *found,
                                     const cps_real *theirs, cps_real *ours) {
    const cps_tower_config *config = &load->owner[found->param]->config;
    const cps_param *wanted = cps_params_at(load->params, found->param);
    if (config->kind == CPS_TOWER_TEXT) {
        memcpy(ours, theirs, (size_t)wanted->count * sizeof *ours);
        return CPS_OK;
    }
    const cps_stored *stored = found->stored[0];
    const int64_t rows_in = stored->shape[stored->rank - 2];
    const int64_t grid = config->image_size / config->patch;
    double *map = NULL;
    CPS_TRY(cps_positions_map(config->dino ? CPS_RESAMPLE_DINO : CPS_RESAMPLE_CLIP,
                              square_root(rows_in - 1), grid, grid, &map));
    resample(load, found, theirs, ours, map, rows_in);
    free(map);
    return CPS_OK;
}

static void transpose(const cps_stored *stored, const cps_real *theirs, cps_real *ours) {
    const int64_t rows = stored->shape[0], columns = stored->shape[1];
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < columns; c++) {
            ours[c * rows + r] = theirs[r * columns + c];
        }
    }
}

static cps_status read_match(loading *load, const match *found, cps_real *theirs, cps_real *ours) {
    const cps_param *wanted = cps_params_at(load->params, found->param);
    int64_t at = 0;
    for (int32_t i = 0; i < found->pieces.count; i++) {
        CPS_TRY(cps_weights_file_read(&load->file, found->stored[i], theirs + at));
        at += found->stored[i]->count;
    }
    const cps_real *values = theirs;
    if (found->resampled) {
        CPS_TRY(resample_positions(load, found, theirs, ours));
        values = ours;
        load->report.resampled++;
    } else if (found->pieces.transposed) {
        transpose(found->stored[0], theirs, ours);
        values = ours;
    }
    load->report.loaded++;
    return cps_params_offer(load->params, wanted->name, wanted->spec.rank, wanted->spec.shape,
                            values);
}

static cps_status read_all(loading *load) {
    int64_t most = 1;
    for (int64_t i = 0; i < load->match_count; i++) {
        const match *found = &load->matches[i];
        most = cps_max_i64(most, found->stored[0]->count * found->pieces.count);
        most = cps_max_i64(most, cps_params_at(load->params, found->param)->count);
    }
    cps_real *theirs = malloc((size_t)most * sizeof *theirs);
    cps_real *ours = malloc((size_t)most * sizeof *ours);
    cps_status status = CPS_OK;
    if (theirs == NULL || ours == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a tensor of %lld elements",
                          (long long)most);
    }
    for (int64_t i = 0; i < load->match_count && status == CPS_OK; i++) {
        status = read_match(load, &load->matches[i], theirs, ours);
    }
    free(theirs);
    free(ours);
    return status;
}

/* Names that belong to towers: their values wait for nobody. */
static bool is_of_tower(const char *name) {
    static const char *const starts[] = {
        "visual.",     "transformer.",     "token_embedding", "positional_embedding",
        "ln_final",    "text_projection",  "text.",           "vision_model.",
        "text_model.", "visual_projection"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        if (strncmp(name, starts[i], strlen(starts[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* What nobody wants yet: reported, and kept for objectives of later stages that declare it
 * (logit_scale, heads). */
static cps_status keep_unused(loading *load) {
    const size_t skip = strlen(load->prefix);
    for (int64_t i = 0; i < load->file.count; i++) {
        const cps_stored *stored = &load->file.tensors[i];
        if (stored->used || is_noise(stored->name)) {
            continue;
        }
        CPS_TRY(append(&load->report.unused, &load->report.unused_count, stored->name));
        if (load->tower != NULL) {
            continue; /* the rest of another model */
        }
        const bool prefixed = strncmp(stored->name, load->prefix, skip) == 0;
        const char *name = stored->name + (prefixed ? skip : 0);
        if (!stored->readable || stored->rank > CPS_MAX_DIMS || stored->count < 1 ||
            is_of_tower(name) || cps_params_find(load->params, name) >= 0) {
            continue;
        }
        cps_real *values = malloc((size_t)stored->count * sizeof *values);
        if (values == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for tensor '%s'", name);
        }
        cps_status status = cps_weights_file_read(&load->file, stored, values);
        if (status == CPS_OK) {
            status = cps_params_offer(load->params, name, stored->rank, stored->shape, values);
        }
        free(values);
        CPS_TRY(status);
    }
    return CPS_OK;
}

static cps_status load_file(loading *load, const char *from, bool partial) {
    CPS_TRY(find_owners(load));
    CPS_TRY(load->tower == NULL ? choose_style(load) : choose_tower_style(load, from));
    CPS_TRY(match_all(load));
    if (!partial) {
        CPS_TRY(check_missing(load));
    }
    CPS_TRY(read_all(load));
    return keep_unused(load);
}

static cps_status load_path(loading *load, const char *path, const char *from, bool partial,
                            cps_weights_report *report_out) {
    CPS_TRY(cps_weights_file_open(path, &load->file));
    const cps_status status = load_file(load, from, partial);
    cps_weights_file_close(&load->file);
    free(load->matches);
    free((void *)(uintptr_t)load->owner);
    if (status != CPS_OK || report_out == NULL) {
        cps_weights_report_free(&load->report);
        return status;
    }
    *report_out = load->report;
    return CPS_OK;
}

cps_status cps_weights_load(cps_model *model, const char *path, bool partial,
                            cps_weights_report *report_out) {
    loading load = {.model = model, .params = cps_model_params(model)};
    return load_path(&load, path, NULL, partial, report_out);
}

cps_status cps_weights_load_tower(cps_model *model, const char *tower,
                                  const cps_tower_weights *weights,
                                  cps_weights_report *report_out) {
    loading load = {
        .model = model, .params = cps_model_params(model), .tower = cps_model_tower(model, tower)};
    CPS_BUG_IF(load.tower == NULL);
    return cps_fail_context(
        load_path(&load, weights->path, weights->from, weights->partial, report_out), "tower '%s'",
        tower);
}

/* ---- export ---- */

typedef struct exporting {
    cps_safetensor_source *sources;
    char (*names)[CPS_HF_NAME_MAX];
    int64_t count;
} exporting;

static void add_source(exporting *out, const char *name, const cps_param *param,
                       const cps_real *values, int64_t rows, bool transposed) {
    cps_safetensor_source *source = &out->sources[out->count];
    char *text = out->names[out->count++];
    snprintf(text, CPS_HF_NAME_MAX, "%s", name);
    *source = (cps_safetensor_source){
        .name = text, .rank = param->spec.rank, .values = values, .transposed = transposed};
    memcpy(source->shape, param->spec.shape, sizeof source->shape);
    if (param->spec.rank > 0) {
        source->shape[0] = rows;
    }
    if (transposed) {
        source->shape[0] = param->spec.shape[1];
        source->shape[1] = param->spec.shape[0];
    }
    if (strncmp(param->name, "logit_", 6) == 0 && param->count == 1) {
        source->rank = 0; /* a scalar in both formats */
    }
}

static cps_status add_param(exporting *out, const cps_param *param, cps_weights_format format) {
    if (!param->allocated) {
        return cps_fail(CPS_ERR_INTERNAL, "parameter '%s' has no values to export", param->name);
    }
    const cps_real *values = param->tensor.data;
    const int64_t rows = param->spec.rank > 0 ? param->spec.shape[0] : 1;
    if (format == CPS_WEIGHTS_OPEN_CLIP) {
        add_source(out, param->name, param, values, rows, false);
        return CPS_OK;
    }
    cps_hf_pieces pieces;
    if (!cps_hf_pieces_of(param->name, &pieces)) {
        return cps_fail(CPS_ERR_USAGE,
                        "Hugging Face's CLIP has no place for parameter '%s'; export in "
                        "open_clip's names",
                        param->name);
    }
    const int64_t each = param->count / pieces.count;
    for (int32_t i = 0; i < pieces.count; i++) {
        add_source(out, pieces.names[i], param, values + i * each, rows / pieces.count,
                   pieces.transposed);
    }
    return CPS_OK;
}

/* open_clip's own description of a model with CLIP's two towers, so that it can be loaded there. */
static void add_open_clip_config(cps_model *model, cps_json *root) {
    const cps_tower *image = cps_model_tower(model, "image"),
                    *text = cps_model_tower(model, "text");
    if (image == NULL || text == NULL || image->config.dino) {
        return;
    }
    const cps_tower_config *see = &image->config, *read = &text->config;
    cps_json *config = cps_json_add_object(root, "model_cfg");
    cps_json_add_number(config, "embed_dim", (double)see->embed_dim);
    cps_json_add_bool(config, "quick_gelu", see->quick_gelu);
    cps_json *vision = cps_json_add_object(config, "vision_cfg");
    cps_json_add_number(vision, "image_size", (double)see->image_size);
    cps_json_add_number(vision, "layers", (double)see->layers);
    cps_json_add_number(vision, "width", (double)see->width);
    cps_json_add_number(vision, "patch_size", (double)see->patch);
    cps_json_add_number(vision, "head_width", (double)(see->width / see->heads));
    cps_json_add_number(vision, "mlp_ratio", (double)see->mlp_width / (double)see->width);
    cps_json *words = cps_json_add_object(config, "text_cfg");
    cps_json_add_number(words, "context_length", (double)read->context);
    cps_json_add_number(words, "vocab_size", (double)read->vocabulary);
    cps_json_add_number(words, "width", (double)read->width);
    cps_json_add_number(words, "heads", (double)read->heads);
    cps_json_add_number(words, "layers", (double)read->layers);
    cps_json_add_number(words, "mlp_ratio", (double)read->mlp_width / (double)read->width);
    cps_json *preprocess = cps_json_add_object(root, "preprocess_cfg");
    cps_json *mean = cps_json_add_array(preprocess, "mean");
    cps_json *std = cps_json_add_array(preprocess, "std");
    for (int32_t i = 0; i < 3; i++) {
        cps_json_add_number(mean, NULL, see->mean[i]);
        cps_json_add_number(std, NULL, see->std[i]);
    }
    cps_json_add_string(preprocess, "interpolation", see->bilinear ? "bilinear" : "bicubic");
    cps_json_add_string(preprocess, "resize_mode", see->squash ? "squash" : "shortest");
}

static cps_status save_description(cps_model *model, const char *path) {
    static const char ending[] = ".safetensors";
    const size_t length = strlen(path), tail = sizeof ending - 1;
    const bool usual = length > tail && strcmp(path + length - tail, ending) == 0;
    cps_json *root = cps_model_describe(model);
    add_open_clip_config(model, root);
    char *text = cps_json_print(root, true, false);
    char *beside = cps_format("%.*s.json", (int)(usual ? length - tail : length), path);
    const cps_status status = cps_file_write_atomic(beside, text, strlen(text));
    free(beside);
    free(text);
    cps_json_destroy(root);
    return status;
}

cps_status cps_weights_save(cps_model *model, const char *path, cps_weights_format format) {
    cps_params *params = cps_model_params(model);
    const size_t most = (size_t)cps_params_count(params) * CPS_HF_PIECES + 1;
    exporting out = {.sources = calloc(most, sizeof *out.sources),
                     .names = calloc(most, sizeof *out.names)};
    cps_status status = CPS_OK;
    if (out.sources == NULL || out.names == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory while exporting '%s'", path);
    }
    for (int32_t i = 0; i < cps_params_count(params) && status == CPS_OK; i++) {
        status = add_param(&out, cps_params_at(params, i), format);
    }
    if (status == CPS_OK) {
        status = cps_safetensors_write(path, out.sources, out.count);
    }
    if (status == CPS_OK) {
        status = save_description(model, path);
    }
    free(out.sources);
    free(out.names);
    return status;
}
