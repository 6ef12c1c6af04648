/* The encoder that evaluations use: the stage's objective over the model, or outputs of towers
 * alone. Local; one thread. */
#ifndef CPS_TRAIN_EMBED_H
#define CPS_TRAIN_EMBED_H

#include "eval/encoder.h"
#include "train/stage.h"

typedef struct cps_embedder cps_embedder;

/* features_tower NULL: the plan's embed objective; else output `features_output` ("pooled",
 * "projected", "feature") of that tower as the one component (the text side is the objective's
 * then, if its width is the same, else absent). grain: rows of a call; 0: the 64 of evaluations. */
cps_status cps_embedder_create(cps_stage_plan *plan, const char *features_tower,
                               const char *features_output, int64_t grain,
                               cps_embedder **embedder_out) CPS_MUST_CHECK;
/* Whether the model has that image tower, and it that output. USAGE: says what there is. */
cps_status cps_embedder_check(cps_model *model, const char *features_tower,
                              const char *features_output) CPS_MUST_CHECK;
/* Without any objective, for a model that came from a file: one output of an image tower; features
 * of the tower "text", 64 texts a call, as long as that tower reads them. */
cps_status cps_embedder_create_of_images(cps_model *model, const char *tower, const char *output,
                                         int64_t grain, cps_embedder **embedder_out) CPS_MUST_CHECK;
cps_status cps_embedder_create_of_texts(cps_model *model, const cps_tokenizer *tokenizer,
                                        cps_embedder **embedder_out) CPS_MUST_CHECK;
/* What the evaluations to come weigh: `score`, or where that is empty (or of another length, which
 * they will refuse) the weights of `embed`. Components of weight 0 behind the first are left out
 * where the objective knows a shorter way (cps_setup_embed_first). Before cps_embedder_prepare. */
void cps_embedder_weigh(cps_embedder *embedder, const cps_numbers *score);
void cps_embedder_destroy(cps_embedder *embedder); /* NULL-safe */
/* Runs prepare_embed with the parameters as they are now; before each evaluation. */
cps_status cps_embedder_prepare(cps_embedder *embedder) CPS_MUST_CHECK;
const cps_encoder *cps_embedder_encoder(const cps_embedder *embedder); /* borrowed */
/* What encoding a grain of either side takes, as planned at creation. */
size_t cps_embedder_bytes(const cps_embedder *embedder);

#endif
