/* Predictions of several runs on one evaluation, paired by sample: what each run says of each of
 * the samples that all of them have, as numbers for bootstrap.h. Local; main thread. */
#ifndef CPS_REPORT_PAIRED_PREDICTIONS_H
#define CPS_REPORT_PAIRED_PREDICTIONS_H

#include "report/bootstrap.h"
#include "report/prediction_file.h"

typedef struct cps_pairing {
    int32_t file_count;
    const cps_prediction_file *files; /* borrowed */
    int64_t samples;                  /* that all files have, in the first file's order */
    int64_t *rows;                    /* [files, samples] row of the file */
    int64_t unpaired;                 /* most samples of a file that another lacks */
    int32_t unpaired_file;            /* that file */
    int64_t texts;                    /* retrieval: captions of those samples */
    int64_t *text_rows;               /* [files, texts] text of the file */
    int32_t *text_samples;            /* [texts] sample of each */
} cps_pairing;

/* Pairs by sample id; where a file has an id several times, by its occurrence. Captions of a sample
 * by their order. DATA, naming both files: other evaluation sets, preprocessing, class lists or
 * banks (digests), labels that differ, no sample in common. `files`: file_count of them, one
 * evaluation each. */
cps_status cps_pairing_make(const cps_prediction_file *files, int32_t file_count,
                            cps_pairing *pairing_out) CPS_MUST_CHECK;
void cps_pairing_free(cps_pairing *pairing); /* safe on a zeroed one */

/* What each file says of each paired sample, by metric. */
typedef struct cps_paired_values {
    cps_value_statistic statistic;
    bool larger_is_better;
    bool is_share;  /* a fraction; else a rank or a depth */
    bool is_binary; /* each value is 0 or 1 */
    int64_t rows;
    double *values; /* [files, rows] */
    int32_t *units; /* [rows] captions: sample of each; NULL */
    int64_t unit_count;
    int32_t *classes; /* [rows] per_class; NULL */
    int64_t class_count;
} cps_paired_values;

/* Names of the metrics that can be compared sample by sample, NULL at the end, the main one first;
 * cps_strings_destroy it with *count_out. Recalls at k: those of 1, 5, 10; any other k works too.
 *   zero_shot, knn   top1, per_class, top5, rank_kingdom .., shared_depth
 *   few_shot         shot<k>: right answers of a sample over the times that it was asked, so
 *                    weighted that the mean is the mean over folds
 *   retrieval        image_to_text_r1, _r5, _r10, _median_rank, _mean_rank; text_to_image_... */
cps_status cps_paired_metrics(const cps_pairing *pairing, char ***names_out,
                              int64_t *count_out) CPS_MUST_CHECK;
/* USAGE: no such metric here; DATA: no sample that it is defined for. */
cps_status cps_paired_values_make(const cps_pairing *pairing, const char *metric,
                                  cps_paired_values *values_out) CPS_MUST_CHECK;
void cps_paired_values_free(cps_paired_values *values); /* safe on a zeroed one */

#endif
