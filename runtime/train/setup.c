/* Services of `create`: what an objective wants is checked and united with what is there already.
 * Parameters, buffers and moving averages are in setup_params.c. */
#include "train/stage.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/numeric.h"
#include "train/frozen.h"
#include "train/setup_internal.h"

cps_status cps_setup_fail(cps_setup *setup, cps_status code, const char *format, ...) {
    char text[900];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const cps_instance *instance = &setup->plan->instances[setup->owner];
    return cps_service_fail(&setup->status, setup->message, code, "stages[%d].objective '%s': %s",
                            setup->plan->index + 1, instance->name, text);
}

static char *keep(cps_setup *setup, const char *text) {
    return text == NULL ? NULL : cps_arena_strdup(setup->plan->arena, text);
}

/* ---- streams --------------------------------------------------------------------------------- */

static int32_t find_run_stream(const cps_stage_plan *plan, const char *name) {
    for (int32_t i = 0; i < plan->run_stream_count; i++) {
        if (strcmp(plan->run_streams[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static void list_streams(const cps_stage_plan *plan, char *text, size_t bytes) {
    text[0] = '\0';
    for (int32_t i = 0; i < plan->run_stream_count; i++) {
        const size_t used = strlen(text);
        snprintf(text + used, bytes - used, "%s'%s'", i == 0 ? "" : ", ",
                 plan->run_streams[i].name);
    }
}

const char *cps_serve_setup_stream(cps_setup *setup, const char *wanted) {
    const cps_stage_plan *plan = setup->plan;
    const int32_t found = wanted == NULL ? -1 : find_run_stream(plan, wanted);
    if (found >= 0) {
        return plan->run_streams[found].name;
    }
    if (plan->run_stream_count == 1) {
        return plan->run_streams[0].name;
    }
    char names[512];
    list_streams(plan, names, sizeof names);
    cps_setup_fail(
        setup, CPS_ERR_USAGE,
        "the job's data has no stream '%s': it has %s; name it so, or give the objective's "
        "stream option",
        wanted == NULL ? "" : wanted, plan->run_stream_count == 0 ? "none" : names);
    return NULL;
}

/* Index in plan->streams of a stream by name, added when new. */
static int32_t stage_stream(cps_setup *setup, const char *name) {
    cps_stage_plan *plan = setup->plan;
    for (int32_t i = 0; i < plan->stream_count; i++) {
        if (strcmp(plan->streams[i].name, name) == 0) {
            return i;
        }
    }
    const int32_t run_stream = find_run_stream(plan, name);
    if (run_stream < 0) {
        char names[512];
        list_streams(plan, names, sizeof names);
        cps_setup_fail(setup, CPS_ERR_USAGE, "no stream '%s' in the job's data; there is %s", name,
                       names);
        return -1;
    }
    if (plan->stream_count == CPS_STAGE_VIEWS) {
        cps_setup_fail(setup, CPS_ERR_USAGE, "more than %d streams in one stage", CPS_STAGE_VIEWS);
        return -1;
    }
    const int32_t index = plan->stream_count++;
    plan->streams[index] = (cps_stage_stream){
        .run_stream = run_stream,
        .name = plan->run_streams[run_stream].name,
        .stream = plan->run_streams[run_stream].stream,
        .rows = index == 0 ? plan->options.grain : cps_stage_stream_rows(&plan->options, name),
    };
    return index;
}

/* ---- views ----------------------------------------------------------------------------------- */

static bool same_text(const char *a, const char *b) {
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_fixed_texts(const cps_view *a, const cps_view *b) {
    if (a->fixed_text_count != b->fixed_text_count) {
        return false;
    }
    for (int64_t i = 0; i < a->fixed_text_count; i++) {
        if (strcmp(a->fixed_texts[i], b->fixed_texts[i]) != 0) {
            return false;
        }
    }
    return true;
}

static bool same_recipe(const cps_recipe *a, const cps_recipe *b) {
    return (a == NULL) == (b == NULL) &&
           (a == NULL || cps_recipe_digest(a) == cps_recipe_digest(b));
}

/* Texts of one stream are the same where both objectives take the default caption, or one objective
 * asks twice. */
static bool same_caption(const cps_setup *setup, const cps_stage_view *there) {
    const cps_instance *instances = setup->plan->instances;
    return there->owner == setup->owner || (instances[there->owner].objective->caption == NULL &&
                                            instances[setup->owner].objective->caption == NULL);
}

/* Of texts: all positions or packed. A view that asks for no tokens takes what another one
 * computes: positions behind the end token change nothing before them. */
static bool same_positions(const cps_stage_view *there, const cps_view *view) {
    const cps_view *a = &there->view, *packed = a->all_positions ? view : a;
    const bool of_ends = (packed->outputs & (CPS_TOKENS | CPS_TOKENS_PROJECTED)) == 0;
    return a->all_positions == view->all_positions ||
           (there->text && of_ends && there->input >= 0 && view->fixed_text_count <= 0);
}

static bool same_view(const cps_setup *setup, const cps_stage_view *there, const cps_view *view) {
    const cps_view *a = &there->view;
    const cps_view_mode mode = setup->context->validation && view->mode == CPS_VIEW_FROZEN
                                   ? CPS_VIEW_NO_GRADIENT
                                   : view->mode;
    return same_text(a->tower, view->tower) && same_text(a->group, view->group) &&
           same_text(a->stream, view->stream) && same_fixed_texts(a, view) &&
           same_recipe(a->recipe, view->recipe) && a->crop == view->crop && a->mode == mode &&
           a->evaluation == view->evaluation && same_positions(there, view) &&
           (a->mode != CPS_VIEW_FROZEN || a->outputs == view->outputs) &&
           (!there->text || view->fixed_text_count > 0 || same_caption(setup, there));
}

static cps_status tokenise_fixed(cps_setup *setup, cps_stage_view *entry) {
    cps_stage_plan *plan = setup->plan;
    const int64_t count = entry->view.fixed_text_count;
    const int64_t context = plan->context;
    cps_texts *fixed = &entry->fixed;
    fixed->count = count;
    fixed->ids = cps_arena_alloc_zero(plan->arena, (size_t)(count * context) * sizeof(int32_t));
    fixed->offsets = cps_arena_alloc(plan->arena, (size_t)(count + 1) * sizeof(int32_t));
    fixed->ends = cps_arena_alloc(plan->arena, (size_t)count * sizeof(int32_t));
    if (fixed->ids == NULL || fixed->offsets == NULL || fixed->ends == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    int64_t at = 0;
    fixed->offsets[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t length = 0;
        CPS_TRY(cps_tokenizer_encode(plan->tokenizer, entry->view.fixed_texts[i], context,
                                     fixed->ids + at, &length, NULL));
        fixed->ends[i] = (int32_t)(length - 1);
        at += entry->view.all_positions ? context : length;
        fixed->offsets[i + 1] = (int32_t)at;
    }
    return CPS_OK;
}

static cps_recipe view_recipe(const cps_setup *setup, const cps_view *view,
                              const cps_tower_config *tower) {
    const cps_stage_options *options = &setup->plan->options;
    cps_recipe recipe;
    if (view->recipe != NULL) {
        recipe = *view->recipe;
    } else {
        const bool random = !view->evaluation && view->mode != CPS_VIEW_FROZEN &&
                            !(options->crop.count == 2 && options->crop.values[0] >= 1.0 &&
                              options->crop.values[1] >= 1.0);
        recipe =
            cps_recipe_clip(random ? CPS_RECIPE_RANDOM_RESIZED_CROP : CPS_RECIPE_EVALUATION, 0);
        recipe.squash = tower->squash;
        recipe.filter = tower->bilinear ? CPS_BILINEAR : CPS_BICUBIC;
        if (random && options->crop.count == 2) {
            recipe.scale_min = options->crop.values[0];
            recipe.scale_max = options->crop.values[1];
        }
        if (random && options->aspect.count == 2) {
            recipe.ratio_min = options->aspect.values[0];
            recipe.ratio_max = options->aspect.values[1];
        }
        recipe.flip = random ? options->flip : 0.0;
        memcpy(recipe.mean, tower->mean, sizeof recipe.mean);
        memcpy(recipe.std, tower->std, sizeof recipe.std);
    }
    if (recipe.size == 0) {
        recipe.size = (int32_t)tower->image_size;
    }
    if (recipe.std[0] == 0.0) {
        memcpy(recipe.mean, tower->mean, sizeof recipe.mean);
        memcpy(recipe.std, tower->std, sizeof recipe.std);
    }
    return recipe;
}

/* Copies what the view points at into the stage's arena. */
static void keep_view(cps_setup *setup, cps_stage_view *entry, const cps_view *view) {
    entry->view = *view;
    entry->view.name = keep(setup, view->name == NULL ? "view" : view->name);
    entry->view.tower = keep(setup, view->tower);
    entry->view.group = keep(setup, view->group);
    entry->view.stream = keep(setup, view->stream);
    if (view->recipe != NULL) {
        cps_recipe *recipe = cps_arena_alloc(setup->plan->arena, sizeof *recipe);
        if (recipe != NULL) {
            *recipe = *view->recipe;
        }
        entry->view.recipe = recipe;
    }
    if (view->fixed_text_count > 0) {
        const char **texts =
            cps_arena_alloc(setup->plan->arena, (size_t)view->fixed_text_count * sizeof *texts);
        for (int64_t i = 0; texts != NULL && i < view->fixed_text_count; i++) {
            texts[i] = keep(setup, view->fixed_texts[i]);
        }
        entry->view.fixed_texts = texts;
    }
}

/* The loader's input of an image view that shows the same: a stream's pictures by one recipe with
 * one crop number, whatever towers look at them. -1: none yet. */
static int32_t find_input(const cps_stage_plan *plan, const cps_stage_view *entry) {
    for (int32_t i = 0; i < plan->view_count && !entry->text; i++) {
        const cps_stage_view *there = &plan->views[i];
        if (there != entry && there->input >= 0 && !there->text && there->stream == entry->stream &&
            there->view.crop == entry->view.crop &&
            cps_recipe_digest(&there->recipe) == cps_recipe_digest(&entry->recipe)) {
            return there->input;
        }
    }
    return -1;
}

static cps_status add_input(cps_setup *setup, cps_stage_view *entry, int32_t index) {
    cps_stage_plan *plan = setup->plan;
    entry->input = find_input(plan, entry);
    if (entry->input >= 0) {
        return CPS_OK;
    }
    cps_input_context *context = cps_arena_alloc(plan->arena, sizeof *context);
    if (context == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    *context = (cps_input_context){plan, index};
    entry->input = plan->input_count;
    plan->inputs[plan->input_count++] = (cps_input_spec){
        .kind = entry->text ? CPS_INPUT_TEXT : CPS_INPUT_IMAGE,
        .stream = entry->stream,
        .view = (uint32_t)index,
        .crop = (uint32_t)entry->view.crop,
        .recipe = entry->recipe,
        .caption = entry->text && plan->instances[entry->owner].objective->caption != NULL
                       ? cps_stage_caption
                       : NULL,
        .caption_context = context,
        .text_context = plan->context,
        .all_positions = entry->view.all_positions,
        .text_input = -1,
    };
    return CPS_OK;
}

/* Puts the view into its call: an equal group of one tower, mode and size, or a call of its own. */
static cps_status join_call(cps_setup *setup, cps_stage_view *entry, int32_t index) {
    cps_stage_plan *plan = setup->plan;
    const int64_t size = entry->text ? 0 : entry->recipe.size;
    for (int32_t c = 0; c < plan->call_count && entry->view.group != NULL; c++) {
        cps_stage_call *call = &plan->calls[c];
        if (call->tower == entry->tower && call->mode == entry->view.mode && call->size == size &&
            call->evaluation == entry->view.evaluation &&
            same_text(call->group, entry->view.group)) {
            if (call->view_count == CPS_CALL_VIEWS) {
                return cps_setup_fail(setup, CPS_ERR_USAGE,
                                      "call group '%s' has more than %d views", entry->view.group,
                                      CPS_CALL_VIEWS);
            }
            entry->call = c;
            call->views[call->view_count++] = index;
            call->outputs |= entry->view.outputs;
            return CPS_OK;
        }
    }
    const int64_t moments = entry->view.mode == CPS_VIEW_FROZEN || entry->view.evaluation
                                ? 0
                                : cps_tower_moment_count(entry->tower);
    entry->call = plan->call_count;
    plan->calls[plan->call_count++] = (cps_stage_call){
        .tower = entry->tower,
        .text = entry->text,
        .mode = entry->view.mode,
        .group = entry->view.group,
        .view_count = 1,
        .views = {index},
        .outputs = entry->view.outputs,
        .size = size,
        .evaluation = entry->view.evaluation,
        .moments_at = moments > 0 ? plan->sum_width : -1,
    };
    plan->sum_width += moments;
    return CPS_OK;
}

static cps_status check_view(cps_setup *setup, const cps_view *view, const cps_tower *tower) {
    const cps_tower_config *config = cps_tower_get_config(tower);
    const uint32_t all = (1u << CPS_OUTPUT_KINDS) - 1;
    const uint32_t projected = CPS_PROJECTED | CPS_FEATURE | CPS_TOKENS_PROJECTED;
    const char *name = view->name == NULL ? "view" : view->name;
    if (view->fixed_text_count <= 0 && view->stream == NULL) {
        return cps_setup_fail(setup, CPS_ERR_INTERNAL,
                              "view '%s' names neither a stream nor fixed texts", name);
    }
    if (view->outputs == 0 || (view->outputs & ~all) != 0) {
        return cps_setup_fail(
            setup, CPS_ERR_INTERNAL,
            "view '%s' asks for outputs 0x%x; wanted some of CPS_POOLED ... CPS_TOKENS_PROJECTED",
            name, view->outputs);
    }
    if (config->embed_dim == 0 && (view->outputs & projected) != 0) {
        return cps_setup_fail(setup, CPS_ERR_USAGE,
                              "view '%s' asks for projected outputs of tower '%s', which has no "
                              "projection (embed_dim)",
                              name, view->tower);
    }
    if (config->kind == CPS_TOWER_TEXT && setup->plan->tokenizer == NULL) {
        return cps_setup_fail(
            setup, CPS_ERR_USAGE,
            "view '%s' reads texts, but the job has no tokenizer: add tokenizer = "
            "copse.tokenizer { merges = \"...\" }",
            name);
    }
    if (config->kind != CPS_TOWER_TEXT && view->fixed_text_count > 0) {
        return cps_setup_fail(setup, CPS_ERR_INTERNAL,
                              "view '%s' gives fixed texts to tower '%s', which reads images", name,
                              view->tower);
    }
    return CPS_OK;
}

static cps_status add_view(cps_setup *setup, const cps_view *view, cps_tower *tower,
                           int32_t index) {
    cps_stage_plan *plan = setup->plan;
    cps_stage_view *entry = &plan->views[index];
    *entry = (cps_stage_view){.tower = tower, .stream = -1, .input = -1, .owner = setup->owner};
    entry->owner_id = plan->instances[setup->owner].view_count;
    entry->text = cps_tower_get_config(tower)->kind == CPS_TOWER_TEXT;
    keep_view(setup, entry, view);
    if (view->fixed_text_count > 0) {
        CPS_TRY(tokenise_fixed(setup, entry));
    } else {
        entry->stream = stage_stream(setup, view->stream);
        if (entry->stream < 0) {
            return setup->status;
        }
    }
    if (!entry->text) {
        entry->recipe = view_recipe(setup, view, cps_tower_get_config(tower));
        CPS_TRY(cps_recipe_check(&entry->recipe, entry->view.name));
    }
    if (entry->view.mode == CPS_VIEW_FROZEN) {
        CPS_TRY(cps_frozen_check_view(&entry->view, &entry->recipe, entry->text,
                                      plan->instances[setup->owner].objective->caption != NULL));
        if (setup->context->validation) {
            entry->view.mode = CPS_VIEW_NO_GRADIENT;
        }
    }
    CPS_TRY(join_call(setup, entry, index));
    const bool read = entry->stream >= 0 && entry->view.mode != CPS_VIEW_FROZEN;
    return read ? add_input(setup, entry, index) : CPS_OK;
}

/* What a view needs of records counts for its stream, also where an equal view is there already. */
static void note_needs(cps_stage_plan *plan, const cps_stage_view *entry, const cps_view *view) {
    if (entry->stream >= 0) {
        plan->streams[entry->stream].needs |= view->needs == CPS_NEEDS_TAXON ? CPS_RECORD_TAXON
                                              : entry->text                  ? CPS_RECORD_CAPTION
                                                                             : 0;
    }
}

/* Another objective's view that is the same but for outputs, and positions of texts. */
static void unite_view(cps_stage_plan *plan, cps_stage_view *entry, const cps_view *view) {
    entry->view.outputs |= view->outputs;
    plan->calls[entry->call].outputs |= view->outputs;
    if (view->all_positions && !entry->view.all_positions) {
        entry->view.all_positions = true;
        plan->inputs[entry->input].all_positions = true;
    }
}

int32_t cps_serve_setup_view(cps_setup *setup, const cps_view *view) {
    cps_stage_plan *plan = setup->plan;
    cps_instance *instance = &plan->instances[setup->owner];
    if (setup->status != CPS_OK) {
        return -1;
    }
    cps_tower *tower = view->tower == NULL ? NULL : cps_model_tower(plan->model, view->tower);
    if (tower == NULL) {
        cps_setup_fail(setup, CPS_ERR_USAGE,
                       "the model has no tower '%s': add it to model.towers, or name another",
                       view->tower == NULL ? "" : view->tower);
        return -1;
    }
    if (check_view(setup, view, tower) != CPS_OK) {
        return -1;
    }
    int32_t index = -1;
    for (int32_t i = 0; i < plan->view_count && index < 0; i++) {
        if (same_view(setup, &plan->views[i], view)) {
            index = i;
            unite_view(plan, &plan->views[i], view);
        }
    }
    if (index < 0) {
        if (plan->view_count == CPS_STAGE_VIEWS) {
            cps_setup_fail(setup, CPS_ERR_USAGE, "more than %d views in one stage",
                           CPS_STAGE_VIEWS);
            return -1;
        }
        index = plan->view_count++;
        const cps_status status = add_view(setup, view, tower, index);
        if (status != CPS_OK) {
            cps_service_fail(&setup->status, setup->message, status, "%s", cps_fail_message());
            return -1;
        }
    }
    if (instance->view_count == CPS_STAGE_VIEWS) {
        cps_setup_fail(setup, CPS_ERR_USAGE, "more than %d views in one objective",
                       CPS_STAGE_VIEWS);
        return -1;
    }
    note_needs(plan, &plan->views[index], view);
    instance->views[instance->view_count] = index;
    return instance->view_count++;
}

/* ---- annotations, counts, classes, the rest
 * --------------------------------------------------------------------------------- */

static size_t annotation_bytes(const cps_annotation *annotation) {
    return (size_t)annotation->width * cps_dtype_bytes(annotation->dtype);
}

int32_t cps_serve_setup_annotation(cps_setup *setup, const cps_annotation *annotation) {
    cps_stage_plan *plan = setup->plan;
    cps_instance *instance = &plan->instances[setup->owner];
    if (setup->status != CPS_OK) {
        return -1;
    }
    if (instance->objective->annotate == NULL || annotation->width < 1 ||
        plan->annotation_count == CPS_STAGE_VIEWS ||
        annotation->text_view >= instance->view_count ||
        (annotation->dtype != CPS_REAL && annotation->dtype != CPS_I32 &&
         annotation->dtype != CPS_I64)) {
        cps_setup_fail(
            setup, CPS_ERR_INTERNAL,
            "annotation '%s' is declared wrongly: it needs an annotate function, a width of "
            "1 or more, a type of REAL, I32 or I64, a text view declared before",
            annotation->name);
        return -1;
    }
    if (annotation->text_view >= 0 &&
        plan->views[instance->views[annotation->text_view]].input < 0) {
        cps_setup_fail(
            setup, CPS_ERR_INTERNAL,
            "annotation '%s' asks for the texts of view '%s', which are fixed or frozen: it "
            "gets those of a view that reads captions in every step",
            annotation->name, plan->views[instance->views[annotation->text_view]].view.name);
        return -1;
    }
    const int32_t index = plan->annotation_count++;
    cps_input_context *context = cps_arena_alloc(plan->arena, sizeof *context);
    const int32_t stream = context == NULL ? -1 : stage_stream(setup, annotation->stream);
    if (stream < 0) {
        return -1;
    }
    *context = (cps_input_context){plan, index};
    plan->annotations[index] = (cps_stage_annotation){.annotation = *annotation,
                                                      .owner = setup->owner,
                                                      .owner_id = instance->annotation_count,
                                                      .stream = stream,
                                                      .input = plan->input_count};
    plan->annotations[index].annotation.name = keep(setup, annotation->name);
    plan->inputs[plan->input_count++] = (cps_input_spec){
        .kind = CPS_INPUT_ANNOTATION,
        .stream = stream,
        .annotate = cps_stage_annotate,
        .annotate_context = context,
        .row_bytes = (int64_t)annotation_bytes(annotation),
        .text_input = annotation->text_view < 0
                          ? -1
                          : plan->views[instance->views[annotation->text_view]].input,
    };
    instance->annotations[instance->annotation_count] = index;
    return instance->annotation_count++;
}

void cps_serve_setup_counts(cps_setup *setup, int64_t count) {
    cps_instance *instance = &setup->plan->instances[setup->owner];
    instance->count_at = setup->plan->count_width;
    instance->count_count = count;
    setup->plan->count_width += count;
}

void cps_serve_setup_fit(cps_setup *setup, int64_t fit_partials, int64_t finish_partials) {
    cps_instance *instance = &setup->plan->instances[setup->owner];
    instance->fit_partials = fit_partials;
    instance->finish_partials = finish_partials;
}

void cps_serve_setup_embed(cps_setup *setup, int32_t side, const char *tower, uint32_t outputs,
                           bool all_positions) {
    cps_tower *found = cps_model_tower(setup->plan->model, tower);
    if (found == NULL || (side != CPS_SIDE_IMAGE && side != CPS_SIDE_TEXT)) {
        cps_setup_fail(setup, CPS_ERR_USAGE, "the model has no tower '%s' for evaluations", tower);
        return;
    }
    const bool reads_text = cps_tower_get_config(found)->kind == CPS_TOWER_TEXT;
    if (reads_text != (side == CPS_SIDE_TEXT)) {
        cps_setup_fail(setup, CPS_ERR_USAGE, "tower '%s' reads %s, wanted is one that reads %s",
                       tower, reads_text ? "texts" : "images", reads_text ? "images" : "texts");
        return;
    }
    setup->plan->instances[setup->owner].sides[side] = (cps_side){
        .wanted = true, .tower = found, .outputs = outputs, .all_positions = all_positions};
}

void cps_serve_setup_embed_first(cps_setup *setup, int32_t side, uint32_t outputs,
                                 bool all_positions) {
    cps_side *sides = setup->plan->instances[setup->owner].sides;
    if (side != CPS_SIDE_IMAGE && side != CPS_SIDE_TEXT) {
        cps_setup_fail(setup, CPS_ERR_INTERNAL, "cps_setup_embed_first of side %d, which is none",
                       (int)side);
        return;
    }
    sides[side].has_first = true;
    sides[side].first_outputs = outputs;
    sides[side].first_all_positions = all_positions;
}

int64_t cps_serve_setup_tower_size(const cps_setup *setup, const char *tower, const char *key) {
    const cps_tower *found = cps_model_tower(setup->plan->model, tower);
    if (found == NULL) {
        return -1;
    }
    const cps_tower_config *config = cps_tower_get_config(found);
    const struct {
        const char *key;
        int64_t value;
    } sizes[] = {{"width", config->width},           {"embed_dim", config->embed_dim},
                 {"layers", config->layers},         {"heads", config->heads},
                 {"image_size", config->image_size}, {"patch", config->patch},
                 {"context", config->context},       {"vocabulary", config->vocabulary}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (strcmp(sizes[i].key, key) == 0) {
            return sizes[i].value;
        }
    }
    return -1;
}

void cps_serve_setup_max_skipped(cps_setup *setup, int64_t steps) {
    cps_stage_plan *plan = setup->plan;
    const int64_t wish = cps_max_i64(steps, 0);
    plan->wanted_skipped =
        plan->wanted_skipped < 0 ? wish : cps_min_i64(plan->wanted_skipped, wish);
}

int64_t cps_serve_setup_steps(const cps_setup *setup) {
    return setup->plan->steps;
}

int64_t cps_serve_setup_steps_per_epoch(const cps_setup *setup) {
    return setup->plan->steps_per_epoch;
}

bool cps_serve_setup_validation(const cps_setup *setup) {
    return setup->plan->validation;
}

void *cps_serve_setup_alloc(cps_setup *setup, size_t bytes) {
    void *memory = cps_arena_alloc_zero(setup->plan->arena, bytes);
    if (memory == NULL) {
        cps_service_fail(&setup->status, setup->message, CPS_ERR_UNAVAILABLE, "%s",
                         cps_fail_message());
    }
    return memory;
}
