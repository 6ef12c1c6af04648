/* Parts of the runner `vectors_bioclip FILE [JSON]`. Each compares what it finds of its own and
 * counts through vectors.h; what is not there is not tested. The list of who handles which texts is
 * in vectors_bioclip.c. */
#ifndef CPS_TESTS_VECTORS_BIOCLIP_H
#define CPS_TESTS_VECTORS_BIOCLIP_H

#include "base/json.h"
#include "h5/h5.h"

/* Contrastive losses and their gradients. Starts real ranks, so it comes before the first
 * vectors_comm. */
void bioclip_losses(cps_h5 *file);
/* In a process of real ranks: one group of them. */
void bioclip_ranks(cps_h5 *file, const char *group);
/* Losses of linear heads, learning rates. */
void bioclip_heads(cps_h5 *file);
/* Few-shot and zero-shot classification, predictions at each rank (with the JSON's table). */
void bioclip_evaluation(cps_h5 *file, const cps_json *json);
/* Names, captions, classes, text types. */
void bioclip_text(const cps_json *json);
/* What is reported of an image's probabilities. */
void bioclip_predict(const cps_json *json);

#endif
