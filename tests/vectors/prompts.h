/* Class vectors of runtime/eval from raw text features of a file. */
#ifndef CPS_TESTS_VECTORS_PROMPTS_H
#define CPS_TESTS_VECTORS_PROMPTS_H

#include "eval/zeroshot.h"
#include "vectors.h"

/* Class vectors, made by cps_class_vectors, of dataset `name` [classes, templates, width], its
 * first `templates` of them (0: all). Ends the process where it is no such array. */
cps_features vectors_class_vectors(cps_h5 *file, const char *name, int64_t templates,
                                   cps_averaging averaging);

#endif
