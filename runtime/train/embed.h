/* The encoder that evaluations use: the stage's objective over the model, or one output of a named
 * tower. Local; one thread. */
#ifndef CPS_TRAIN_EMBED_H
#define CPS_TRAIN_EMBED_H

#include "eval/encoder.h"
#include "train/stage.h"

typedef struct cps_embedder cps_embedder;

/* features_tower NULL: the plan's embed objective; else output `features_output` ("pooled",
 * "projected", "feature") of that tower as the one component (the text side is the objective's
 * then, if its width is the same, else absent). */
cps_status cps_embedder_create(cps_stage_plan *plan, const char *features_tower,
                               const char *features_output,
                               cps_embedder **embedder_out) CPS_MUST_CHECK;
void cps_embedder_destroy(cps_embedder *embedder); /* NULL-safe */
/* Runs prepare_embed with the parameters as they are now; before each evaluation. */
cps_status cps_embedder_prepare(cps_embedder *embedder) CPS_MUST_CHECK;
const cps_encoder *cps_embedder_encoder(const cps_embedder *embedder); /* borrowed */
/* What encoding a grain of either side takes, as planned at creation. */
size_t cps_embedder_bytes(const cps_embedder *embedder);

#endif
