/* What the files of this folder share. Private to plugins/bioclip. */
#ifndef BIOCLIP_H
#define BIOCLIP_H

#include "copse_objective.h"

/* ---- mixture.c: which text of an organism is shown ---- */
enum { BIOCLIP_TYPES = 7 };
extern const char *const bioclip_type_names[]; /* BIOCLIP_TYPES, then NULL */

typedef struct bioclip_mixture {
    int32_t count; /* types of weight > 0 */
    int32_t types[BIOCLIP_TYPES];
    double cumulative[BIOCLIP_TYPES];
    bool equal;             /* all weights alike */
    int64_t known;          /* steps in `of_step` */
    const uint8_t *of_step; /* type of each step */
} bioclip_mixture;

/* `weights`: BIOCLIP_TYPES numbers, none negative. per_step: draws are those of the published code,
 * looked up for the stage's first steps. USAGE: all weights are 0. */
cps_status bioclip_mixture_create(cps_setup *setup, const cps_numbers *weights, bool per_step,
                                  bioclip_mixture *mixture_out);
/* The published draw: one type for all images of a step. */
int32_t bioclip_type_of_step(const bioclip_mixture *mixture, const cps_host *host, int64_t step);
/* Our own: a type for each image at each visit. */
int32_t bioclip_type_of_image(const bioclip_mixture *mixture, const cps_record_ref *record);

/* ---- head.c: linear head and cross-entropy in one, without the matrix of logits ---- */
typedef struct bioclip_head_result {
    double correct, valid; /* rows whose class has the largest logit; rows with a class */
} bioclip_head_result;

/* Scalar: sum over rows i of x [B, width] with a class y_i >= 0 of
 *     lse(z_i) - (1 - smoothing) z_i,y - smoothing/C sum_c z_i,c,   z = x weight' + bias
 * weight [C, width], bias [C]; classes I32 [B, columns], of which column `column` counts. Gradients
 * reach x, weight and bias. *result_out is written where the tape computes. */
cps_tensor *bioclip_head_loss(cps_tape *tape, cps_tensor *x, cps_tensor *weight, cps_tensor *bias,
                              cps_tensor *classes, int64_t column, double smoothing,
                              bioclip_head_result *result_out);

/* ---- classes.c: bioclip.ce and bioclip.hierarchical_ce ---- */
typedef struct bioclip_ce_options {
    const char *image, *stream;
    double label_smoothing;
} bioclip_ce_options;
extern const cps_option bioclip_ce_rows[];

typedef struct bioclip_hierarchical_options {
    const char *image, *stream;
    cps_numbers weights;
    bool mask_missing;
} bioclip_hierarchical_options;
extern const cps_option bioclip_hierarchical_rows[];

cps_status bioclip_ce_create(cps_setup *setup, const void *values, void **self_out);
cps_status bioclip_hierarchical_create(cps_setup *setup, const void *values, void **self_out);
/* Of both. */
cps_status bioclip_classes_annotate(const void *self, const cps_record_ref *record,
                                    int32_t annotation, const char *text, void *row_out);
cps_status bioclip_classes_prepare(const void *self, const cps_grain *grain, double *counts);
cps_status bioclip_classes_loss(const void *self, cps_grain *grain, cps_tape *tape);
cps_status bioclip_classes_embed(const void *self, cps_embed *side, cps_tape *tape);

#endif
