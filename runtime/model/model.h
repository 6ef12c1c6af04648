/* A model: named towers over one set of parameters, built from the job's `model` table, and where
 * its weights came from. Weights in and out are in weights.h. */
#ifndef CPS_MODEL_MODEL_H
#define CPS_MODEL_MODEL_H

#include "base/json.h"
#include "base/options.h"
#include "model/tower.h"

typedef struct cps_model cps_model;

/* Rows for checks and help. cps_model_options: keys of the `model` object beside `image`, `text`
 * and `towers`, which are objects by cps_tower_options. Defaults shown for a tower hold where
 * neither preset nor variant gives one. */
extern const cps_option cps_model_options[];
extern const cps_option cps_tower_options[];

/* `spec`: the resolved `model` object: { preset = "ViT-B-32", image = {...}, text = {...},
 * embed_dim, towers = { ssl = {...} }, weights, partial }. What it leaves out comes from the
 * variant, then the preset. `vocabulary` and `context` are the tokenizer's, 0 where it does not
 * say; a text tower takes them unless the spec states its own. Parameters are declared, not
 * allocated. Towers "image" and "text" exist where the spec or the preset has them. logit_scale is
 * declared by objectives, not here. USAGE for unknown keys, impossible sizes, a vocabulary smaller
 * than the tokenizer's. */
cps_status cps_model_create(const cps_json *spec, int64_t vocabulary, int64_t context,
                            cps_model **model_out) CPS_MUST_CHECK;
void cps_model_destroy(cps_model *model);
cps_params *cps_model_params(cps_model *model);
int32_t cps_model_tower_count(const cps_model *model);
cps_tower *cps_model_tower_at(cps_model *model, int32_t index);
cps_tower *cps_model_tower(cps_model *model, const char *name); /* NULL if absent */
/* Adds a tower made later (an EMA copy); the model owns it. */
cps_status cps_model_add_tower(cps_model *model, cps_tower *tower) CPS_MUST_CHECK;
/* The file named by `weights` (as given) or NULL, and `partial`. */
const char *cps_model_weights(const cps_model *model);
bool cps_model_partial(const cps_model *model);
/* What a tower of `towers` says of a file of its own; path NULL: nothing. */
typedef struct cps_tower_weights {
    const char *path; /* as given */
    const char *from; /* the tower's name there, NULL: not said */
    bool partial;
} cps_tower_weights;
const cps_tower_weights *cps_model_tower_weights(const cps_model *model, const char *tower);
/* Names of presets, NULL-terminated. */
const char *const *cps_model_presets(void);
/* Full description as JSON (sizes, variants, preprocessing), stored in checkpoints and exports;
 * creating a model from it gives the same model, EMA copies included. The caller destroys it. */
cps_json *cps_model_describe(const cps_model *model);

#endif
