/* bioclip.ce and bioclip.hierarchical_ce: linear classifiers of organisms on the image tower's
 * pooled output, the objectives that BioCLIP's paper measures contrastive training against
 * (bioclip.md, "Heads"). A class at a rank is the whole path down to it, so that homonyms under
 * different parents are different classes, and an unknown rank is a class of its own below its
 * parent. */
#include <stddef.h>
#include <stdio.h>

#include "bioclip.h"

enum { RANKS = 7, SPECIES = RANKS - 1 };
static const char *const ranks[] = {"kingdom", "phylum", "class",   "order",
                                    "family",  "genus",  "species", NULL};

const cps_option bioclip_ce_rows[] = {
    {.name = "image",
     .kind = CPS_OPT_TOWER,
     .default_text = "image",
     .help = "image tower",
     .offset = offsetof(bioclip_ce_options, image)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .default_text = "paired",
     .help = "stream of images with taxonomic ranks",
     .offset = offsetof(bioclip_ce_options, stream)},
    {.name = "label_smoothing",
     .kind = CPS_OPT_NUMBER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 0.99,
     .help = "share of the target that all classes divide among themselves",
     .offset = offsetof(bioclip_ce_options, label_smoothing)},
    {.name = NULL},
};

const cps_option bioclip_hierarchical_rows[] = {
    {.name = "image",
     .kind = CPS_OPT_TOWER,
     .default_text = "image",
     .help = "image tower",
     .offset = offsetof(bioclip_hierarchical_options, image)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .default_text = "paired",
     .help = "stream of images with taxonomic ranks",
     .offset = offsetof(bioclip_hierarchical_options, stream)},
    {.name = "weights",
     .kind = CPS_OPT_NUMBERS,
     .default_text = "{1,1,1,1,1,1,1}",
     .minimum = 0,
     .maximum = 1e6,
     .choices = ranks,
     .length = RANKS,
     .help = "weight of each rank's cross-entropy; a rank of weight 0 has no head",
     .offset = offsetof(bioclip_hierarchical_options, weights)},
    {.name = "mask_missing",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "an unknown rank is left out of its head's loss, instead of being a class",
     .offset = offsetof(bioclip_hierarchical_options, mask_missing)},
    {.name = NULL},
};

typedef struct head {
    int32_t rank;
    const char *term, *report; /* names of its loss and of its accuracy */
    cps_classes classes;
    int32_t weight, bias; /* parameter ids */
    double coefficient;
} head;

typedef struct classifier {
    int32_t image, target; /* view, annotation */
    int32_t head_count;
    head heads[RANKS];
    double smoothing;
    bool mask_missing;
} classifier;

/* "<prefix>.weight" and so on, kept as long as the instance. */
static const char *joined(cps_setup *setup, const char *front, const char *back) {
    enum { BYTES = 64 };
    char *text = cps_setup_alloc(setup, BYTES);
    if (text != NULL) {
        snprintf(text, BYTES, "%s%s", front, back);
    }
    return text;
}

/* Class list and parameters; `prefix` of their names. */
static cps_status add_head(cps_setup *setup, classifier *self, const char *stream, int64_t width,
                           int32_t rank, const char *prefix, double coefficient) {
    head *own = &self->heads[self->head_count++];
    char key[32];
    snprintf(key, sizeof key, "taxonomy:%s", ranks[rank]);
    *own = (head){.rank = rank, .coefficient = coefficient};
    const cps_status status = cps_setup_classes(setup, stream, key, &own->classes);
    if (status != CPS_OK) {
        return status;
    }
    own->weight =
        cps_setup_parameter(setup, &(cps_parameter){.name = joined(setup, prefix, ".weight"),
                                                    .rank = 2,
                                                    .shape = {own->classes.count, width},
                                                    .fill = CPS_FILL_NORMAL,
                                                    .a = 0.02,
                                                    .decay = true});
    own->bias = cps_setup_parameter(setup, &(cps_parameter){.name = joined(setup, prefix, ".bias"),
                                                            .rank = 1,
                                                            .shape = {own->classes.count}});
    return CPS_OK;
}

/* View of the images and all that does not depend on the heads. NULL: the reason is on record. */
static classifier *begin(cps_setup *setup, const char *tower, const char *stream) {
    classifier *self = cps_setup_alloc(setup, sizeof *self);
    if (self == NULL || stream == NULL) {
        return NULL;
    }
    self->image = cps_setup_view(setup, &(cps_view){.name = "image",
                                                    .tower = tower,
                                                    .stream = stream,
                                                    .needs = CPS_NEEDS_TAXON,
                                                    .outputs = CPS_POOLED});
    cps_setup_embed(setup, CPS_SIDE_IMAGE, tower, CPS_POOLED, false);
    return self;
}

/* A class id for each head, and how many images have one. */
static void declare_targets(cps_setup *setup, classifier *self, const char *stream) {
    self->target = cps_setup_annotation(setup, &(cps_annotation){.name = "classes",
                                                                 .stream = stream,
                                                                 .text_view = -1,
                                                                 .dtype = CPS_I32,
                                                                 .width = self->head_count});
    cps_setup_counts(setup, self->head_count);
}

cps_status bioclip_ce_create(cps_setup *setup, const void *values, void **self_out) {
    const bioclip_ce_options *wanted = values;
    const char *stream = cps_setup_stream(setup, wanted->stream);
    classifier *self = begin(setup, wanted->image, stream);
    if (self == NULL) {
        return CPS_ERR_USAGE;
    }
    const int64_t width = cps_setup_tower_size(setup, wanted->image, "width");
    const cps_status status = add_head(setup, self, stream, width, SPECIES, "head", 1.0);
    if (status != CPS_OK) {
        return status;
    }
    self->heads[0].term = "cross_entropy";
    self->heads[0].report = "accuracy";
    self->smoothing = wanted->label_smoothing;
    declare_targets(setup, self, stream);
    *self_out = self;
    return CPS_OK;
}

cps_status bioclip_hierarchical_create(cps_setup *setup, const void *values, void **self_out) {
    const bioclip_hierarchical_options *wanted = values;
    const char *stream = cps_setup_stream(setup, wanted->stream);
    classifier *self = begin(setup, wanted->image, stream);
    if (self == NULL) {
        return CPS_ERR_USAGE;
    }
    const int64_t width = cps_setup_tower_size(setup, wanted->image, "width");
    self->mask_missing = wanted->mask_missing;
    for (int32_t rank = 0; rank < RANKS; rank++) {
        if (wanted->weights.values[rank] > 0.0) {
            head *own = &self->heads[self->head_count];
            const cps_status status =
                add_head(setup, self, stream, width, rank, joined(setup, "heads.", ranks[rank]),
                         wanted->weights.values[rank]);
            if (status != CPS_OK) {
                return status;
            }
            own->term = ranks[rank];
            own->report = joined(setup, ranks[rank], "_accuracy");
        }
    }
    if (self->head_count == 0) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "weights has 0 for every rank, so that nothing is learnt: give at least "
                         "one rank a weight, as in weights = { genus = 1, species = 1 }");
    }
    declare_targets(setup, self, stream);
    *self_out = self;
    return CPS_OK;
}

cps_status bioclip_classes_annotate(const void *values, const cps_record_ref *record,
                                    int32_t annotation, const char *text, void *row_out) {
    const classifier *self = values;
    const uint32_t known = self->mask_missing ? cps_taxon_known(record) : ~0u;
    (void)annotation;
    (void)text;
    for (int32_t k = 0; k < self->head_count; k++) {
        const head *own = &self->heads[k];
        ((int32_t *)row_out)[k] =
            (known >> own->rank & 1) != 0 ? (int32_t)cps_record_class(record, &own->classes) : -1;
    }
    return CPS_OK;
}

cps_status bioclip_classes_prepare(const void *values, const cps_grain *grain, double *counts) {
    const classifier *self = values;
    const cps_tensor *target = cps_grain_annotation(grain, self->target);
    for (int64_t i = 0; i < target->shape[0] * self->head_count; i++) {
        counts[i % self->head_count] += ((const int32_t *)target->data)[i] >= 0 ? 1.0 : 0.0;
    }
    return CPS_OK;
}

cps_status bioclip_classes_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const classifier *self = values;
    cps_tensor *rows = cps_grain_output(grain, self->image, CPS_POOLED);
    cps_tensor *target = cps_grain_annotation(grain, self->target);
    for (int32_t k = 0; k < self->head_count; k++) {
        const head *own = &self->heads[k];
        const double count = cps_grain_count(grain, k);
        bioclip_head_result result = {0};
        cps_tensor *sum = bioclip_head_loss(tape, rows, cps_grain_parameter(grain, own->weight),
                                            cps_grain_parameter(grain, own->bias), target, k,
                                            self->smoothing, &result);
        cps_grain_term(grain, own->term,
                       cps_affine(tape, sum, 1.0 / (count > 0.0 ? count : 1.0), 0),
                       own->coefficient);
        cps_report(grain, own->report, result.correct, result.valid);
    }
    return cps_tape_status(tape);
}

cps_status bioclip_classes_embed(const void *values, cps_embed *side, cps_tape *tape) {
    (void)values;
    cps_embed_component(side, cps_embed_output(side, CPS_POOLED), 1.0);
    return cps_tape_status(tape);
}
