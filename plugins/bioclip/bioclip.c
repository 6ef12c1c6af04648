/* BioCLIP: contrastive training of images and flattened taxonomies (Stevens et al. 2024,
 * arXiv:2311.18803), with BioCLIP 2's replay of general captions (Gu et al. 2025,
 * arXiv:2505.23883). bioclip.md has formulas and options.
 *
 * Slots that `loss` reads: "image" and "text" (unit features of the organisms' stream), "key" (with
 * multi_positive: I64, equal texts have equal keys), "replay_image" and "replay_text" (with replay:
 * unit features of its stream, the images' by their own projection). */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bioclip.h"

enum { SCOPE_STEP, SCOPE_IMAGE };
static const char *const scopes[] = {"step", "image", NULL};

typedef struct bioclip_options {
    const char *image, *text, *stream, *replay;
    cps_numbers text_types;
    int32_t scope;
    bool clean, multi_positive;
    double init_scale, max_scale, replay_weight;
    int64_t published_ranks, published_accum_freq;
    bool published_local_loss, published_gather_with_grad;
} bioclip_options;

static const cps_option options[] = {
    {.name = "image",
     .kind = CPS_OPT_TOWER,
     .default_text = "image",
     .help = "image tower",
     .offset = offsetof(bioclip_options, image)},
    {.name = "text",
     .kind = CPS_OPT_TOWER,
     .default_text = "text",
     .help = "text tower",
     .offset = offsetof(bioclip_options, text)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .default_text = "paired",
     .help = "stream of images with taxonomic ranks",
     .offset = offsetof(bioclip_options, stream)},
    {.name = "text_types",
     .kind = CPS_OPT_NUMBERS,
     .default_text = "{1,1,1,1,1,0,0}",
     .minimum = 0,
     .maximum = 1e6,
     .choices = bioclip_type_names,
     .length = BIOCLIP_TYPES,
     .help = "weights of the texts that are composed of the ranks",
     .offset = offsetof(bioclip_options, text_types)},
    {.name = "scope",
     .kind = CPS_OPT_CHOICE,
     .default_text = "step",
     .choices = scopes,
     .help = "what a text type is drawn for: all images of a step, or each image",
     .offset = offsetof(bioclip_options, scope)},
    {.name = "clean",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "texts of organisms without species or common name are mended, not as published",
     .offset = offsetof(bioclip_options, clean)},
    {.name = "init_scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "14.285714285714286",
     .minimum = 1e-3,
     .maximum = 1e6,
     .help = "initial scale of the similarities, 1/temperature, where no weights give one",
     .offset = offsetof(bioclip_options, init_scale)},
    {.name = "max_scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "100",
     .minimum = 1.0,
     .maximum = 1e6,
     .help = "the scale is kept in [1, max_scale]",
     .offset = offsetof(bioclip_options, max_scale)},
    {.name = "multi_positive",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "images with equal texts are positives of each other, not negatives",
     .offset = offsetof(bioclip_options, multi_positive)},
    {.name = "replay",
     .kind = CPS_OPT_STREAM,
     .help = "stream of general pairs that are trained beside the organisms",
     .offset = offsetof(bioclip_options, replay)},
    {.name = "replay_weight",
     .kind = CPS_OPT_NUMBER,
     .default_text = "1",
     .minimum = 0,
     .maximum = 1e6,
     .help = "weight of the replay stream's loss",
     .offset = offsetof(bioclip_options, replay_weight)},
    {.name = "published_ranks",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 65536,
     .help =
         "for comparisons: gradient of the published code on so many processes; 0: the exact one",
     .offset = offsetof(bioclip_options, published_ranks)},
    {.name = "published_local_loss",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "for comparisons: its --local-loss",
     .offset = offsetof(bioclip_options, published_local_loss)},
    {.name = "published_gather_with_grad",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "for comparisons: its --gather-with-grad",
     .offset = offsetof(bioclip_options, published_gather_with_grad)},
    {.name = "published_accum_freq",
     .kind = CPS_OPT_INTEGER,
     .default_text = "1",
     .minimum = 1,
     .maximum = 65536,
     .help = "for comparisons: its --accum-freq, which multiplies the scale's gradient",
     .offset = offsetof(bioclip_options, published_accum_freq)},
    {.name = NULL},
};

typedef struct bioclip {
    int32_t image, text, log_scale;             /* ids */
    int32_t key;                                /* annotation; -1: one positive a row */
    int32_t replay_image, replay_text, project; /* -1: no replay */
    double replay_weight;
    bool per_step, clean;
    bioclip_mixture mixture;
    cps_published published;
} bioclip;

/* ---- create ---- */

static bool has_replay(const bioclip *self) {
    return self->replay_image >= 0;
}

/* The name of the replay stream; NULL: it cannot serve, the reason is on record. A job's only
 * stream stands for any name, and is that of the organisms then. */
static const char *replay_stream(cps_setup *setup, const char *wanted, const char *stream) {
    const char *found = cps_setup_stream(setup, wanted);
    if (found != NULL && strcmp(found, stream) == 0) {
        (void)cps_error(setup, CPS_ERR_USAGE,
                        "replay = '%s': wanted is a stream of its own beside '%s', of general "
                        "images with captions",
                        wanted, stream);
        return NULL;
    }
    return found;
}

/* Views of the replay stream and the projection of its images. */
static cps_status add_replay(cps_setup *setup, const bioclip_options *wanted, const char *stream,
                             bioclip *self) {
    const char *replay = replay_stream(setup, wanted->replay, stream);
    if (replay == NULL) {
        return CPS_ERR_USAGE;
    }
    char name[160], source[160];
    const char *prefix = strcmp(wanted->image, "image") == 0 ? "visual" : wanted->image;
    snprintf(name, sizeof name, "%s.replay_proj", prefix);
    snprintf(source, sizeof source, "%s.proj", prefix);
    self->replay_image = cps_setup_view(setup, &(cps_view){.name = "replay image",
                                                           .tower = wanted->image,
                                                           .group = "bioclip",
                                                           .stream = replay,
                                                           .outputs = CPS_POOLED});
    self->replay_text = cps_setup_view(setup, &(cps_view){.name = "replay text",
                                                          .tower = wanted->text,
                                                          .stream = replay,
                                                          .outputs = CPS_FEATURE});
    self->project = cps_setup_parameter(
        setup, &(cps_parameter){.name = name,
                                .rank = 2,
                                .shape = {cps_setup_tower_size(setup, wanted->image, "width"),
                                          cps_setup_tower_size(setup, wanted->image, "embed_dim")},
                                .fill = CPS_FILL_COPY,
                                .copy_of = source,
                                .decay = true});
    return CPS_OK;
}

/* A validation set is seen by the organisms' loss alone, as it is defined. */
static cps_status add_published(cps_setup *setup, const bioclip_options *wanted, bioclip *self) {
    if (wanted->published_ranks > 0 && wanted->multi_positive) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "published_ranks = %lld goes with multi_positive = false: the published "
                         "loss has one positive a row",
                         (long long)wanted->published_ranks);
    }
    if (!cps_setup_validation(setup)) {
        self->published = (cps_published){.ranks = wanted->published_ranks,
                                          .local_loss = wanted->published_local_loss,
                                          .gather_with_grad = wanted->published_gather_with_grad,
                                          .accumulation = wanted->published_accum_freq};
    }
    return CPS_OK;
}

static void add_views(cps_setup *setup, const bioclip_options *wanted, const char *stream,
                      bool replay, bioclip *self) {
    self->image = cps_setup_view(setup, &(cps_view){.name = "image",
                                                    .tower = wanted->image,
                                                    .group = replay ? "bioclip" : NULL,
                                                    .stream = stream,
                                                    .needs = CPS_NEEDS_TAXON,
                                                    .outputs = CPS_FEATURE});
    self->text = cps_setup_view(setup, &(cps_view){.name = "text",
                                                   .tower = wanted->text,
                                                   .stream = stream,
                                                   .needs = CPS_NEEDS_TAXON,
                                                   .outputs = CPS_FEATURE});
    if (wanted->multi_positive) {
        self->key = cps_setup_annotation(setup, &(cps_annotation){.name = "key",
                                                                  .stream = stream,
                                                                  .text_view = self->text,
                                                                  .dtype = CPS_I64,
                                                                  .width = 1});
    }
}

static cps_status create(cps_setup *setup, const void *values, void **self_out) {
    const bioclip_options *wanted = values;
    const bool replay = wanted->replay != NULL && !cps_setup_validation(setup);
    bioclip *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, wanted->stream);
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    *self = (bioclip){.key = -1,
                      .replay_image = -1,
                      .replay_text = -1,
                      .project = -1,
                      .replay_weight = wanted->replay_weight,
                      .per_step = wanted->scope == SCOPE_STEP,
                      .clean = wanted->clean};
    cps_status status =
        bioclip_mixture_create(setup, &wanted->text_types, self->per_step, &self->mixture);
    status = status != CPS_OK ? status : add_published(setup, wanted, self);
    if (status != CPS_OK) {
        return status;
    }
    add_views(setup, wanted, stream, replay, self);
    if (replay && (status = add_replay(setup, wanted, stream, self)) != CPS_OK) {
        return status;
    }
    self->log_scale =
        cps_setup_parameter(setup, &(cps_parameter){.name = "logit_scale",
                                                    .fill = CPS_FILL_CONSTANT,
                                                    .a = log(wanted->init_scale),
                                                    .bounded = true,
                                                    .minimum = 0.0,
                                                    .maximum = log(wanted->max_scale)});
    cps_setup_embed(setup, CPS_SIDE_IMAGE, wanted->image, CPS_FEATURE, false);
    cps_setup_embed(setup, CPS_SIDE_TEXT, wanted->text, CPS_FEATURE, false);
    *self_out = self;
    return CPS_OK;
}

/* ---- texts, on loader threads ---- */

static cps_status caption(const void *values, const cps_record_ref *record, int32_t view) {
    const bioclip *self = values;
    if (view == self->replay_text) {
        cps_record_give(record, cps_record_caption(record));
        return CPS_OK;
    }
    const int32_t type = self->per_step ? bioclip_type_of_step(&self->mixture, cps_host_of(record),
                                                               cps_record_step(record).step)
                                        : bioclip_type_of_image(&self->mixture, record);
    char *text = NULL;
    const cps_status status = cps_taxon_text(record, bioclip_type_names[type], self->clean, &text);
    if (status != CPS_OK) {
        return status;
    }
    if (text == NULL) {
        return cps_error(record, CPS_ERR_INTERNAL,
                         "record %llu names no organism, though such records are left out of the "
                         "stream",
                         (unsigned long long)cps_record_id(record));
    }
    cps_record_give(record, text);
    free(text);
    return CPS_OK;
}

/* Equal texts have equal keys. */
static cps_status annotate(const void *values, const cps_record_ref *record, int32_t annotation,
                           const char *text, void *row_out) {
    (void)values;
    (void)annotation;
    *(int64_t *)row_out = (int64_t)cps_host_of(record)->hash64(text, strlen(text));
    return CPS_OK;
}

/* ---- the loss ---- */

static cps_status head(const void *values, cps_grain *grain, cps_tape *tape) {
    const bioclip *self = values;
    cps_emit(grain, "image", self->image, cps_grain_output(grain, self->image, CPS_FEATURE));
    cps_emit(grain, "text", self->text, cps_grain_output(grain, self->text, CPS_FEATURE));
    if (self->key >= 0) {
        const int64_t rows = cps_grain_rows(grain, self->text);
        cps_emit(grain, "key", self->text,
                 cps_reshape(tape, cps_grain_annotation(grain, self->key), 1, &rows));
    }
    if (has_replay(self)) {
        cps_tensor *projected =
            cps_matmul(tape, cps_grain_output(grain, self->replay_image, CPS_POOLED),
                       cps_grain_parameter(grain, self->project), false, false, 1.0);
        cps_emit(grain, "replay_image", self->replay_image, cps_normalize(tape, projected, 1e-12));
        cps_emit(grain, "replay_text", self->replay_text,
                 cps_grain_output(grain, self->replay_text, CPS_FEATURE));
    }
    return cps_tape_status(tape);
}

static cps_tensor *contrast(const bioclip *self, cps_global *global, cps_tape *tape,
                            const char *images, const char *texts, cps_tensor *positives,
                            cps_published_shown *shown) {
    cps_tensor *u = cps_global_rows(global, images), *v = cps_global_rows(global, texts);
    cps_tensor *log_scale = cps_global_parameter(global, self->log_scale);
    return self->published.ranks > 0
               ? cps_published_contrastive(tape, u, v, log_scale, &self->published, shown)
               : cps_softmax_contrastive(tape, u, v, log_scale, positives);
}

/* What each published process would see, before the mean over processes. */
static void report_ranks(const bioclip *self, cps_global *global,
                         const cps_published_shown *organisms, const cps_published_shown *replay) {
    char name[64];
    for (int64_t r = 0; r < self->published.ranks && r < CPS_SHOWN_RANKS; r++) {
        snprintf(name, sizeof name, "rank%d.contrastive", (int)r);
        cps_global_report(global, name, organisms->loss[r]);
        if (has_replay(self)) {
            snprintf(name, sizeof name, "rank%d.replay", (int)r);
            cps_global_report(global, name, replay->loss[r]);
        }
        snprintf(name, sizeof name, "rank%d.d_logit_scale", (int)r);
        cps_global_report(global, name,
                          organisms->d_log_scale[r] + self->replay_weight * replay->d_log_scale[r]);
    }
}

static cps_status loss(const void *values, cps_global *global, cps_tape *tape) {
    const bioclip *self = values;
    const cps_step_info info = cps_global_step(global);
    cps_published_shown organisms = {0}, replay = {0};
    cps_tensor *positives = self->key >= 0 ? cps_global_rows(global, "key") : NULL;
    cps_tensor *term = contrast(self, global, tape, "image", "text", positives, &organisms);
    cps_global_term(global, "contrastive", term, 1.0);
    if (term != NULL && has_replay(self)) {
        term = contrast(self, global, tape, "replay_image", "replay_text", NULL, &replay);
        cps_global_term(global, "replay", term, self->replay_weight);
    }
    if (term == NULL) {
        const cps_status status = cps_tape_status(tape);
        return status != CPS_OK ? status : CPS_ERR_USAGE; /* the reason is on record */
    }
    report_ranks(self, global, &organisms, &replay);
    if (self->per_step && self->mixture.count > 1 && !info.evaluation) {
        cps_global_report(global, "text_type",
                          bioclip_type_of_step(&self->mixture, cps_host_of(global), info.step));
    }
    return cps_tape_status(tape);
}

static cps_status embed(const void *values, cps_embed *side, cps_tape *tape) {
    (void)values;
    cps_embed_component(side, cps_embed_output(side, CPS_FEATURE), 1.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {
    {.name = "bioclip",
     .help = "Contrastive loss of images and texts composed of taxonomic ranks (BioCLIP).",
     .options = options,
     .options_bytes = sizeof(bioclip_options),
     .create = create,
     .caption = caption,
     .annotate = annotate,
     .head = head,
     .loss = loss,
     .embed = embed},
    {.name = "bioclip.ce",
     .help = "Cross-entropy over all organisms: one linear head on the image tower.",
     .options = bioclip_ce_rows,
     .options_bytes = sizeof(bioclip_ce_options),
     .create = bioclip_ce_create,
     .annotate = bioclip_classes_annotate,
     .prepare = bioclip_classes_prepare,
     .grain_loss = bioclip_classes_loss,
     .embed = bioclip_classes_embed},
    {.name = "bioclip.hierarchical_ce",
     .help = "Sum of cross-entropies at the seven taxonomic ranks: a linear head for each.",
     .options = bioclip_hierarchical_rows,
     .options_bytes = sizeof(bioclip_hierarchical_options),
     .create = bioclip_hierarchical_create,
     .annotate = bioclip_classes_annotate,
     .prepare = bioclip_classes_prepare,
     .grain_loss = bioclip_classes_loss,
     .embed = bioclip_classes_embed},
};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
