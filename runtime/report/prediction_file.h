/* What predictions/<evaluation>.h5 of a run says (eval/README.md lists its datasets), read for
 * comparisons. Files may come damaged or from strangers: shapes, sizes and numbers are checked, and
 * what a file declares must lie in it. Local; main thread. */
#ifndef CPS_REPORT_PREDICTION_FILE_H
#define CPS_REPORT_PREDICTION_FILE_H

#include "base/status.h"

typedef enum cps_prediction_digest {
    CPS_DIGEST_DATA,
    CPS_DIGEST_PREPROCESSING,
    CPS_DIGEST_CLASSES,
    CPS_DIGEST_BANK,
    CPS_PREDICTION_DIGESTS
} cps_prediction_digest;

enum { CPS_PREDICTION_SHOTS = 16 };
typedef struct cps_prediction_shot {
    int64_t k;
    int32_t *answers; /* [folds, rows] -1: not asked */
} cps_prediction_shot;

/* Arrays and texts are owned; NULL: the file has none. */
typedef struct cps_prediction_file {
    char *path, *evaluation, *kind;
    int64_t step;
    char *digests[CPS_PREDICTION_DIGESTS]; /* 16 hexadecimal digits */
    char *text, *averaging;                /* zero-shot: how class vectors were made */
    int64_t template_count;
    char **templates;

    int64_t rows; /* samples, >= 1 */
    uint64_t *sample_ids;
    int32_t *labels; /* [rows] -1: none */
    int64_t top;
    int32_t *answers; /* [rows, top] best first, -1: no more */
    double *scores;   /* [rows, top] theirs */
    int64_t class_count;
    char **class_names;
    int32_t
        *shared_depth; /* [rows] leading ranks that answer and truth share; -1: truth has none */
    int64_t *records;  /* [rows] in its shard */
    int32_t *shards;   /* [rows] index into shard_names */
    int64_t shard_count;
    char **shard_names;

    int64_t folds; /* few-shot */
    int32_t shot_count;
    cps_prediction_shot shots[CPS_PREDICTION_SHOTS]; /* ascending k */

    int64_t texts;          /* retrieval */
    int64_t *image_to_text; /* [rows] ranks from 1; 0: no text */
    int64_t *text_to_image; /* [texts] */
    int64_t *text_rows;     /* [texts] row of the text's image, ascending */
} cps_prediction_file;

/* UNAVAILABLE: no such file, memory; DATA: anything in it that no evaluation writes. The path
 * stands in the message. */
cps_status cps_prediction_file_read(const char *path, cps_prediction_file *file_out) CPS_MUST_CHECK;
void cps_prediction_file_free(cps_prediction_file *file); /* safe on a zeroed one */

#endif
