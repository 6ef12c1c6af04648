#include "eval/evaluation.h"

#include <string.h>

#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/zeroshot.h"

static cps_status check_zero_shot(cps_evaluation *run) {
    const cps_zero_shot_options *options = &run->options->zero_shot;
    CPS_TRY(cps_evaluation_need_texts(run));
    CPS_TRY(cps_evaluation_take_weights(run, &options->score));
    if (options->text != NULL && strcmp(options->text, "label") != 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: text = \"%s\" is not built in this version: only \"label\", the names "
                        "of the classes, is",
                        run->where, options->text);
    }
    return cps_evaluation_take_classes(run);
}

cps_status cps_zero_shot_check(const cps_zero_shot_options *options, const cps_stream *data) {
    (void)options;
    cps_class_list classes = {0};
    const cps_status status = cps_class_list_of(data, &classes);
    cps_class_list_free(&classes);
    return status;
}

cps_status cps_evaluate_zero_shot(cps_evaluation *run) {
    const cps_zero_shot_options *options = &run->options->zero_shot;
    cps_comm *comm = run->request->comm;
    cps_features vectors = {0};
    cps_predictions predictions = {0};
    CPS_TRY(cps_agree(comm, "evaluation", check_zero_shot(run)));
    cps_status status = cps_fail_context(
        cps_class_vectors(comm, run->request->encoder, run->classes.names, run->classes.count,
                          &options->templates, (cps_averaging)options->averaging, &vectors),
        "%s", run->where);
    if (status == CPS_OK) {
        status = cps_evaluation_encode_data(run, true);
    }
    if (status == CPS_OK) {
        status = cps_zero_shot(comm, &run->images, &vectors, run->weights,
                               cps_max_i64(CPS_EVALUATION_TOP, options->top), &predictions);
    }
    if (status == CPS_OK) {
        status = cps_agree(comm, "evaluation",
                           cps_classification_metrics(&predictions, run->labels, run->classes.count,
                                                      run->where, run->metrics));
    }
    if (status == CPS_OK) {
        cps_evaluation_add_left_out(run, run->images.left_out_count,
                                    run->images.non_finite + vectors.non_finite);
        cps_predictions_trim(&predictions, options->top);
        const cps_predictions_content content = {.predictions = &predictions,
                                                 .classes = &run->classes};
        status = cps_evaluation_write(run, content);
    }
    cps_features_free(&vectors);
    cps_predictions_free(&predictions);
    return status;
}

size_t cps_zero_shot_bytes(const cps_zero_shot_options *options, const cps_stream *stream,
                           const cps_encoder *encoder) {
    const int64_t classes = cps_class_count_of(stream);
    const int64_t top = cps_min_i64(cps_max_i64(CPS_EVALUATION_TOP, options->top), classes);
    const size_t prediction = sizeof(int32_t) + sizeof(cps_real);
    return cps_class_vectors_bytes(encoder, classes, options->templates.count) +
           2 * (size_t)(cps_stream_records(stream) * top) * prediction;
}
