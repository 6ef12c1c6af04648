/* A model: named towers over one set of parameters, built from the job's `model` table, and where its weights came from. Weights in and out are in
 * weights.h. */
#ifndef CPS_MODEL_MODEL_H
#define CPS_MODEL_MODEL_H

#include "base/json.h"
#include "model/tower.h"

typedef struct cps_model cps_model;

/* `spec`: the resolved `model` object: { preset = "ViT-B-32", image = {...}, text = {...}, embed_dim, towers = { ssl = {...} }, weights, partial }. Preset
 * values are filled by `defaults` (vocabulary and context follow the tokenizer unless stated). Parameters are declared, not allocated. Towers "image" and
 * "text" exist where the spec has them. logit_scale is declared by objectives, not here. */
cps_status cps_model_create(const cps_json *spec, int64_t vocabulary, int64_t context, cps_model **model_out) CPS_MUST_CHECK;
void cps_model_destroy(cps_model *model);
cps_params *cps_model_params(cps_model *model);
int32_t cps_model_tower_count(const cps_model *model);
cps_tower *cps_model_tower_at(cps_model *model, int32_t index);
cps_tower *cps_model_tower(cps_model *model, const char *name); /* NULL if absent */
/* Adds a tower made later (an EMA copy); the model owns it. */
cps_status cps_model_add_tower(cps_model *model, cps_tower *tower) CPS_MUST_CHECK;
/* Names of presets, NULL-terminated. */
const char *const *cps_model_presets(void);
/* Full description as JSON (sizes, variants, preprocessing), stored in checkpoints and exports; creating a model from it gives the same model. */
cps_json *cps_model_describe(const cps_model *model);

#endif
