/* Features of pictures as a file, written while they come. By the ending of its name:
 *   .json  {"model": ..., "embeddings": {path: [numbers]}}, a path that is there twice once
 *   .csv   file_name and a column for each number
 *   .npy   float32 [pictures, width]; rows of pictures that could not be read are NaN
 *   .h5    path [pictures], features [pictures, width] (NaN as above), readable [pictures]
 * Appears whole under its name or not at all. JSON and CSV may go to a stream. Local. */
#ifndef CPS_REPORT_EMBEDDINGS_H
#define CPS_REPORT_EMBEDDINGS_H

#include <stdio.h>

#include "base/status.h"

typedef struct cps_embeddings cps_embeddings;

typedef struct cps_embeddings_spec {
    const char *path; /* NULL: JSON to `stream` */
    FILE *stream;
    const char *model;  /* what stands for the model in JSON and HDF5 */
    const char *digest; /* of its parameters */
    const char *output; /* "projected", ... */
    bool normalised;
    int64_t width, count;
    const char *const *pictures; /* paths [count], borrowed */
} cps_embeddings_spec;

/* USAGE: another ending; IO; UNAVAILABLE: memory. */
cps_status cps_embeddings_create(const cps_embeddings_spec *spec,
                                 cps_embeddings **embeddings_out) CPS_MUST_CHECK;
/* Picture by picture, in order: values [width]; NULL: it could not be read. IO. */
cps_status cps_embeddings_add(cps_embeddings *embeddings, const cps_real *values) CPS_MUST_CHECK;
/* Publishes and frees, in any case. */
cps_status cps_embeddings_finish(cps_embeddings *embeddings) CPS_MUST_CHECK;
void cps_embeddings_abandon(cps_embeddings *embeddings); /* NULL-safe; no file appears */

#endif
