/* What an evaluation needs of a model: functions that turn images and texts into components, the
 * un-normalised rows that an objective's `embed` gives (or one output of a named tower). train/
 * implements it over the model and the stage's objective; eval/ never sees a tower. Score of an
 * image and a text: sum over components of weight * cosine. Image and text components pair by
 * index. */
#ifndef CPS_EVAL_ENCODER_H
#define CPS_EVAL_ENCODER_H

#include "data/augment.h"

enum { CPS_MAX_COMPONENTS = 4 };

typedef struct cps_encoder {
    void *context;
    int32_t component_count; /* 1 .. CPS_MAX_COMPONENTS */
    int32_t left_out; /* further ones of weight 0, which are not computed; `score` names them all */
    int64_t widths[CPS_MAX_COMPONENTS]; /* of the components, >= 1 */
    double
        score_weights[CPS_MAX_COMPONENTS]; /* finite; an evaluation's own `score` replaces them */
    double scale; /* exp(logit_scale) of the model: probabilities are softmax(scale * score); 0: it
                     has none */
    cps_recipe image_recipe; /* evaluation preprocessing of the image tower */
    int64_t grain; /* rows of every call, always that many: 64. Grains are padded, so shapes never
                      depend on what is left: images with planes of zeros, texts with "" */
    /* Local; may use the pool. planes [grain, 3, size, size] and texts [grain] -> components_out[c]
     * [grain, widths[c]], caller's memory. What a row gets may depend on its place in the grain but
     * on no other row's content. texts NULL: the model has no text side (k-NN alone is possible).
     */
    cps_status (*images)(void *context, const cps_real *planes, cps_real *const *components_out);
    cps_status (*texts)(void *context, const char *const *texts, cps_real *const *components_out);
} cps_encoder;

#endif
