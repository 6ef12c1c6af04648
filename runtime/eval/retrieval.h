/* Retrieval: rank of the first right answer in both directions. Collective; the same bits on any
 * number of ranks. */
#ifndef CPS_EVAL_RETRIEVAL_H
#define CPS_EVAL_RETRIEVAL_H

#include "base/json.h"
#include "eval/features.h"

/* Ranks count from 1; ties go to the lower index. */
typedef struct cps_retrieval_ranks {
    int64_t images, texts;
    int64_t *image_to_text; /* [images] of the best of the image's texts; 0: the image has none */
    int64_t *text_to_image; /* [texts] of the text's image */
} cps_retrieval_ranks;

/* Collective. owners[texts->rows]: row of images that each text belongs to, ascending. */
cps_status cps_retrieval(cps_comm *comm, const cps_features *images, const cps_features *texts,
                         const int64_t *owners, const double *weights,
                         cps_retrieval_ranks *ranks_out) CPS_MUST_CHECK;
void cps_retrieval_ranks_free(cps_retrieval_ranks *ranks); /* safe on a zeroed one */

/* Local. Adds <direction>_r<k> (share of ranks <= k), <direction>_mean_rank and
 * <direction>_median_rank for image_to_text and text_to_image. An even number of ranks: the mean of
 * the middle two, rounded down. */
cps_status cps_retrieval_metrics_add(const cps_retrieval_ranks *ranks, const double *k,
                                     int64_t k_count, cps_json *metrics) CPS_MUST_CHECK;

#endif
