/* Classifiers in files. Ours is HDF5: class vectors with the names of the classes and everything
 * that they were made of, so that they are computed once; README.md lists what is inside. The
 * published form of BioCLIP (a matrix as .npy, names as JSON) is read too. Files are hostile until
 * checked. Local. */
#ifndef CPS_EVAL_CLASSIFIER_FILE_H
#define CPS_EVAL_CLASSIFIER_FILE_H

#include "eval/classifier.h"

/* What class vectors are made of. */
typedef struct cps_classifier_origin {
    char *text;      /* "label", or the text type of taxa */
    char *averaging; /* "normalise_first" or "average_first" */
    char **templates;
    int64_t template_count;
    uint64_t model_digest;     /* of all parameters; 0: not known */
    uint64_t tokenizer_digest; /* 0: not known */
} cps_classifier_origin;
void cps_classifier_origin_free(cps_classifier_origin *origin); /* safe on a zeroed one */

/* Equal keys: equal vectors. */
uint64_t cps_classifier_key(const cps_class_names *names, const cps_classifier_origin *origin);

/* Writes under a temporary name and renames. half: vectors as 16-bit floats, half the size, cosines
 * to about 0.0005. Nothing inside depends on clock, host, ranks or threads. */
cps_status cps_classifier_write(const char *path, const cps_classifier *classifier,
                                const cps_classifier_origin *origin, bool half) CPS_MUST_CHECK;
/* DATA: no classifier of ours, damaged (checksum), vectors without direction. Vectors of 16 bits
 * are made unit again. */
cps_status cps_classifier_read(const char *path, cps_classifier *classifier_out,
                               cps_classifier_origin *origin_out) CPS_MUST_CHECK;
/* Whether `path` is a whole classifier of ours with that key; false where it is not there. */
bool cps_classifier_has_key(const char *path, uint64_t key);

/* The published pair: a matrix [width, classes] and the names of its columns. Columns are made
 * unit. *furthest_out: the largest |norm - 1| that was found. DATA: sizes that do not fit each
 * other, columns without direction (named). */
cps_status cps_classifier_read_published(const char *matrix, const char *names,
                                         cps_classifier *classifier_out,
                                         double *furthest_out) CPS_MUST_CHECK;

#endif
