/* What the predictions of one run's evaluation say, for the page of the run: how many samples of
 * each class are told right, which classes are taken for which, and the samples on which the model
 * is most sure of a wrong answer. Local; main thread. */
#ifndef CPS_REPORT_MISTAKES_H
#define CPS_REPORT_MISTAKES_H

#include "base/json.h"

/* Reads predictions/<evaluation>.h5. The result:
 *   { "evaluation", "kind", "step", "samples",
 *     "classes": [{ "class", "name", "samples", "right", "low", "high" }...],
 *         by number; low, high: Wilson's interval of 95 %. At most 1,000, those with the most
 *         samples; "left_out" counts the others
 *     "confusions": [{ "label_name", "answer_name", "count", "samples" }...],
 *         most frequent first, at most 40; samples: those of the class
 *     "wrong": [{ "sample_id", "shard", "record", "label_name", "answer_name", "margin" }...] }
 *         at most `most`, greatest margin first: the score of the answer minus that of the right
 *         class (of the last class that the file holds, where the right one is not among them)
 * Retrieval has no classes: its "wrong" are the images whose first right text ranks last, "rank"
 * in place of names and margin. Few-shot alone: nothing but the first members. "shard", "record"
 * are absent where the file does not say them. Errors as cps_prediction_file_read. */
cps_status cps_mistakes(const char *path, int64_t most, cps_json **result_out) CPS_MUST_CHECK;

#endif
