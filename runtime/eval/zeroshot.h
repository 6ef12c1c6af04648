/* Zero-shot classification: each class is the text of its name in templates, the best score wins
 * (README.md, "Zero-shot"). Collective; the same bits on any number of ranks. */
#ifndef CPS_EVAL_ZEROSHOT_H
#define CPS_EVAL_ZEROSHOT_H

#include "eval/classes.h"
#include "eval/config.h"
#include "eval/features.h"

/* Collective. Row c of the result: for each component the mean over templates of the unit features
 * of class c's texts, unit again; with CPS_AVERAGE_FIRST the mean of the features as they come.
 * Templates hold "{}" once (USAGE otherwise); none: the name itself. DATA: a class whose vector is
 * zero, though its texts were finite. Encoded in blocks of classes,
 * so that memory does not grow with the templates. */
cps_status cps_class_vectors(cps_comm *comm, const cps_encoder *encoder, const char *const *names,
                             int64_t count, const cps_lines *templates, cps_averaging averaging,
                             cps_features *vectors_out) CPS_MUST_CHECK;
/* Local. Most bytes that it holds, the result included. */
size_t cps_class_vectors_bytes(const cps_encoder *encoder, int64_t count, int64_t template_count);
/* Collective. The min(top, classes) best classes of each image. */
cps_status cps_zero_shot(cps_comm *comm, const cps_features *images, const cps_features *classes,
                         const double *weights, int64_t top,
                         cps_predictions *predictions_out) CPS_MUST_CHECK;

#endif
