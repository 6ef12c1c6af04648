/* Names of organisms as an objective uses them, for tests: captions from cps_taxon_text, classes by
 * taxonomy, known ranks. What the services gave is counted over the batch and reported. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "copse_objective.h"

typedef struct names_options {
    const char *type, *key;
    bool clean;
} names_options;

static const cps_option rows[] = {
    {.name = "type",
     .kind = CPS_OPT_STRING,
     .default_text = "sci_com",
     .help = "type of the captions",
     .offset = offsetof(names_options, type)},
    {.name = "key",
     .kind = CPS_OPT_STRING,
     .default_text = "taxonomy:genus",
     .help = "what is learnt",
     .offset = offsetof(names_options, key)},
    {.name = "clean",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "nothing is made up",
     .offset = offsetof(names_options, clean)},
    {.name = NULL},
};

typedef struct names {
    const names_options *options;
    cps_classes classes;
    int32_t image, text, weight, facts;
} names;

enum { CLASS, KNOWN, BYTES, FACTS };
static const char no_organism[] = "nothing";

static cps_status create(cps_setup *setup, const void *values, void **self_out) {
    const names_options *options = values;
    names *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, "paired");
    if (self == NULL || stream == NULL ||
        cps_setup_classes(setup, stream, options->key, &self->classes) != CPS_OK) {
        return CPS_ERR_USAGE;
    }
    self->options = options;
    self->image = cps_setup_view(
        setup,
        &(cps_view){.name = "image", .tower = "image", .stream = stream, .outputs = CPS_POOLED});
    self->text = cps_setup_view(setup, &(cps_view){.name = "text",
                                                   .tower = "text",
                                                   .stream = stream,
                                                   .mode = CPS_VIEW_NO_GRADIENT,
                                                   .outputs = CPS_FEATURE});
    self->weight = cps_setup_parameter(
        setup, &(cps_parameter){
                   .name = "names.weight",
                   .rank = 2,
                   .shape = {self->classes.count, cps_setup_tower_size(setup, "image", "width")},
                   .fill = CPS_FILL_NORMAL,
                   .a = 0.3});
    self->facts = cps_setup_annotation(setup, &(cps_annotation){.name = "facts",
                                                                .stream = stream,
                                                                .text_view = self->text,
                                                                .dtype = CPS_I32,
                                                                .width = FACTS});
    cps_setup_counts(setup, FACTS);
    *self_out = self;
    return CPS_OK;
}

static cps_status caption(const void *values, const cps_record_ref *record, int32_t view) {
    const names_options *options = ((const names *)values)->options;
    char *text = NULL;
    (void)view;
    const cps_status status = cps_taxon_text(record, options->type, options->clean, &text);
    if (status == CPS_OK) {
        cps_record_give(record, text != NULL ? text : no_organism);
    }
    free(text);
    return status;
}

/* Class, known ranks and length of the caption; the services must agree on who is an organism. */
static cps_status annotate(const void *values, const cps_record_ref *record, int32_t annotation,
                           const char *text, void *row_out) {
    const names *self = values;
    int32_t *facts = row_out;
    (void)annotation;
    facts[CLASS] = (int32_t)cps_record_class(record, &self->classes);
    facts[KNOWN] = (int32_t)cps_taxon_known(record);
    facts[BYTES] = (int32_t)strlen(text);
    const bool organism = facts[KNOWN] != 0;
    if (organism != (facts[CLASS] >= 0) || organism == (strcmp(text, no_organism) == 0)) {
        return cps_error(record, CPS_ERR_INTERNAL, "known ranks %x, class %d, caption '%s'",
                         (unsigned)facts[KNOWN], facts[CLASS], text);
    }
    return CPS_OK;
}

static cps_status prepare(const void *values, const cps_grain *grain, double *counts) {
    const cps_tensor *facts = cps_grain_annotation(grain, ((const names *)values)->facts);
    for (int64_t i = 0; i < facts->shape[0]; i++) {
        const int32_t *row = (const int32_t *)facts->data + FACTS * i;
        for (int32_t k = 0; k < FACTS; k++) {
            counts[k] += row[k];
        }
    }
    return CPS_OK;
}

static cps_status grain_loss(const void *values, cps_grain *grain, cps_tape *tape) {
    const names *self = values;
    static const char *const reports[FACTS] = {"class", "known", "bytes"};
    cps_tensor *logits = cps_linear(tape, cps_grain_output(grain, self->image, CPS_POOLED),
                                    cps_grain_parameter(grain, self->weight), NULL, CPS_ACT_NONE);
    cps_grain_term(grain, "size", cps_dot(tape, logits, logits), 1e-6);
    for (int32_t k = 0; k < FACTS; k++) {
        cps_report(grain, reports[k], cps_grain_count(grain, k), 1.0);
    }
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {
    {.name = "names",
     .help = "Counts names of organisms.",
     .options = rows,
     .options_bytes = sizeof(names_options),
     .create = create,
     .caption = caption,
     .annotate = annotate,
     .prepare = prepare,
     .grain_loss = grain_loss},
};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
