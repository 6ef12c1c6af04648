/* Class predictions and what is counted of them; class lists of shard sets. Local. */
#ifndef CPS_EVAL_CLASSES_H
#define CPS_EVAL_CLASSES_H

#include "base/json.h"
#include "data/stream.h"
#include "eval/features.h"

typedef struct cps_class_list {
    int64_t count;
    const char **names; /* the array is owned, its strings are borrowed from shards */
} cps_class_list;

/* The class list that all shards of a stream share. DATA: a shard without labels, or with another
 * list than the first; names shard and class. */
cps_status cps_class_list_of(const cps_stream *stream, cps_class_list *list_out) CPS_MUST_CHECK;
int64_t cps_class_count_of(const cps_stream *stream); /* of its first shard; 0: it has no labels */
/* The first record of each class, in stored order of all records of the stream's shards, so that no
 * subset changes it: into places[map[label]] (map NULL: places[label]) where none is yet (shard
 * NULL). */
void cps_class_first_records(const cps_stream *stream, const int64_t *map, cps_place *places);
/* Adds the names of `more` that are missing; map_out[more->count] says where each one is. Two
 * classes of one name stay the first of them. UNAVAILABLE: memory. */
cps_status cps_class_list_join(cps_class_list *list, const cps_class_list *more,
                               int64_t *map_out) CPS_MUST_CHECK;
void cps_class_list_free(cps_class_list *list); /* safe on a zeroed one */

/* Predicted classes of each sample, best first. */
typedef struct cps_predictions {
    int64_t rows, top;
    int32_t *index;  /* [rows, top]; -1: no further class */
    cps_real *score; /* [rows, top] */
} cps_predictions;

cps_status cps_predictions_alloc(int64_t rows, int64_t top,
                                 cps_predictions *predictions_out) CPS_MUST_CHECK;
/* Keeps the first `top` places of each sample. */
void cps_predictions_trim(cps_predictions *predictions, int64_t top);
void cps_predictions_free(cps_predictions *predictions); /* safe on a zeroed one */

/* Samples whose label is among the first min(k, top) predictions; *labelled_out: samples that have
 * a label (-1: none). */
int64_t cps_predictions_hits(const cps_predictions *predictions, const int32_t *labels, int64_t k,
                             int64_t *labelled_out);
/* Adds top1 with its interval top1_low .. top1_high (interval.h), chance (one in class_count),
 * top5, per_class, samples and, where there are any, unlabelled to `metrics`. Top 5: the first
 * min(5, top) predictions. per_class: mean over classes that have samples of the share predicted
 * right. labels[rows], -1: none, does not count. DATA: no sample has a label; `where` stands in the
 * message. */
cps_status cps_classification_metrics(const cps_predictions *predictions, const int32_t *labels,
                                      int64_t class_count, const char *where,
                                      cps_json *metrics) CPS_MUST_CHECK;

#endif
