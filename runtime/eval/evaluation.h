/* An evaluation under way: what evaluate.c lends to the kinds (evaluate_<kind>.c) and to nobody
 * else. Collective unless said otherwise. */
#ifndef CPS_EVAL_EVALUATION_H
#define CPS_EVAL_EVALUATION_H

#include "eval/classes.h"
#include "eval/evaluate.h"
#include "eval/features.h"
#include "eval/predictions.h"
#include "eval/taxonomy.h"

enum { CPS_EVALUATION_TOP = 5 }; /* classes that top 5 needs */

typedef struct cps_evaluation {
    const cps_evaluation_request *request;
    const cps_evaluation_options *options;
    char where[160]; /* "evaluation 'NAME'" */
    double weights[CPS_MAX_COMPONENTS];
    cps_features images;  /* of the data stream */
    uint64_t *sample_ids; /* [images.rows] */
    int32_t *labels;      /* [images.rows], where classes are wanted */
    cps_class_list classes;
    cps_taxonomy *taxonomy;   /* NULL: no metrics by rank */
    int32_t *class_organisms; /* [classes.count]; -1: it names none */
    int32_t *row_organisms;   /* [images.rows]; -1: none, or no label */
    cps_json *metrics;
} cps_evaluation;

/* One of each kind: metrics and predictions. Statuses arrive agreed. */
cps_status cps_evaluate_zero_shot(cps_evaluation *run) CPS_MUST_CHECK;
cps_status cps_evaluate_retrieval(cps_evaluation *run) CPS_MUST_CHECK;
cps_status cps_evaluate_knn(cps_evaluation *run) CPS_MUST_CHECK;
cps_status cps_evaluate_few_shot(cps_evaluation *run) CPS_MUST_CHECK;

/* Local. What would end the first evaluation for want of labels, images of a class or ranks, said
 * before anything is trained. DATA. */
cps_status cps_zero_shot_check(const cps_evaluation_options *options,
                               const cps_stream *data) CPS_MUST_CHECK;
cps_status cps_taxonomy_check(const cps_stream *data, const cps_stream *bank) CPS_MUST_CHECK;
cps_status cps_few_shot_check_data(const cps_few_shot_options *options,
                                   const cps_stream *data) CPS_MUST_CHECK;

/* Local. Bytes that a kind holds beside the features of the data stream. */
size_t cps_zero_shot_bytes(const cps_zero_shot_options *options, const cps_stream *stream,
                           const cps_encoder *encoder);
size_t cps_retrieval_bytes(const cps_stream *stream, const cps_encoder *encoder);

/* ---- lent ---- */

cps_status cps_evaluation_out_of_memory(const cps_evaluation *run); /* Local */
/* Local. Weights of the components: the evaluation's own where it has some. USAGE: their number. */
cps_status cps_evaluation_take_weights(cps_evaluation *run,
                                       const cps_numbers *score) CPS_MUST_CHECK;
/* Local. USAGE: what is evaluated has no text side. */
cps_status cps_evaluation_need_texts(const cps_evaluation *run) CPS_MUST_CHECK;
/* Local. The class list of the data stream. */
cps_status cps_evaluation_take_classes(cps_evaluation *run) CPS_MUST_CHECK;
/* Features of a stream with ids and, where `classes`, labels; reports what was left out. */
cps_status cps_evaluation_encode(const cps_evaluation *run, const cps_stream *stream, bool classes,
                                 cps_features *features_out, uint64_t **ids_out,
                                 int32_t **labels_out) CPS_MUST_CHECK;
cps_status cps_evaluation_encode_data(cps_evaluation *run, bool classes) CPS_MUST_CHECK;
/* Local, after the features. Organisms of classes, by their first records, and of images, unless
 * `use` says off or, with auto, no class names one; `unranked` counts labelled images that name
 * none. DATA: on, and no class names one. */
cps_status cps_evaluation_take_taxonomy(cps_evaluation *run, cps_taxonomy_use use,
                                        const cps_place *first_records) CPS_MUST_CHECK;
/* Local. Organisms of features' rows; free() the result. */
cps_status cps_evaluation_organisms(const cps_evaluation *run, const cps_stream *stream,
                                    const cps_features *features,
                                    int32_t **organisms_out) CPS_MUST_CHECK;
/* Local. With a taxonomy: counts row `row`, of which `predicted` is said (-1: nothing). */
void cps_evaluation_count_ranks(const cps_evaluation *run, int64_t row, int32_t predicted,
                                cps_rank_counts *counts);
/* Local. The first predictions of all rows as metrics by rank. */
void cps_evaluation_add_ranks(cps_evaluation *run, const cps_predictions *predictions);
/* Local. */
void cps_evaluation_add_left_out(cps_evaluation *run, int64_t bad_images, int64_t non_finite);
/* Rank 0 writes the predictions; `content` gets what all kinds have. */
cps_status cps_evaluation_write(const cps_evaluation *run,
                                cps_predictions_content content) CPS_MUST_CHECK;

#endif
