/* predictions/<evaluation>.h5: what an evaluation said about each sample, for paired tests and for
 * looking at mistakes. README.md lists the datasets. Same content, same bytes. */
#ifndef CPS_EVAL_PREDICTIONS_H
#define CPS_EVAL_PREDICTIONS_H

#include "eval/classes.h"
#include "eval/few_shot.h"
#include "eval/retrieval.h"

/* What is NULL or 0 is left out of the file. */
typedef struct cps_predictions_content {
    const char *evaluation, *kind;
    int64_t step;
    uint64_t data_digest, bank_digest, preprocessing_digest;
    int64_t rows;
    const uint64_t *sample_ids;     /* [rows] */
    const int32_t *labels;          /* [rows] */
    const int64_t *records;         /* [rows] in its shard */
    const int32_t *shards;          /* [rows] index into shard_names */
    const char *const *shard_names; /* file names without folders */
    int64_t shard_count;
    const int32_t *shared_depth; /* [rows] leading ranks of the taxonomy that the best class and
                                    the image share; -1: the image names no organism */
    const cps_predictions *predictions;  /* [rows] */
    const cps_class_list *classes;       /* with its digest */
    const cps_few_shot_result *few_shot; /* rows */
    const char *text, *averaging;        /* zero-shot: how class vectors were made */
    double scale;                        /* of softmax over scores */
    const cps_lines *templates;
    const uint8_t *unseen;            /* [classes] 1: training does not show it */
    const char *const *class_texts;   /* [classes] */
    const cps_retrieval_ranks *ranks; /* images: rows */
    const int64_t *owners;            /* [texts] row of each text's image */
} cps_predictions_content;

/* Local: rank 0. Written whole under another name, then renamed; the folder is made. IO. */
cps_status cps_predictions_write(const char *path,
                                 const cps_predictions_content *content) CPS_MUST_CHECK;

#endif
