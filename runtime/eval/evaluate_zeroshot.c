#include "eval/evaluation.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/class_texts.h"
#include "eval/zeroshot.h"

/* Of models that have no logit scale; published evaluations in training use it for all. */
static const double usual_scale = 100.0;

/* What zero-shot classification knows of its classes. */
typedef struct class_facts {
    cps_place *first_records; /* [classes] */
    cps_class_texts texts;
} class_facts;

static void facts_free(class_facts *facts) {
    free(facts->first_records);
    cps_class_texts_free(&facts->texts);
}

static cps_status find_facts(const cps_class_list *classes, const cps_stream *data,
                             const cps_zero_shot_options *options, class_facts *facts) {
    facts->first_records = calloc((size_t)classes->count + 1, sizeof *facts->first_records);
    if (facts->first_records == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for classes");
    }
    cps_class_first_records(data, NULL, facts->first_records);
    return cps_class_texts_make(classes, facts->first_records, cps_class_text_types[options->text],
                                &facts->texts);
}

static void warn_of_texts(const char *name, const char *type, const cps_class_list *classes,
                          const cps_class_texts *texts) {
    if (texts->stand_ins > 0) {
        char *text =
            cps_format("evaluation '%s': %lld of %lld classes have no text of type \"%s\"; "
                       "what is nearest stands in (the first: '%s' for class '%s')",
                       name, (long long)texts->stand_ins, (long long)texts->count, type,
                       texts->texts[texts->stand_in], classes->names[texts->stand_in]);
        cps_log_once(CPS_LOG_WARN, text);
        free(text);
    }
    if (texts->equal > 0) {
        char *text = cps_format(
            "evaluation '%s': %lld of %lld classes have the text of an earlier class and cannot be "
            "told from it (the first: '%s' and '%s', both \"%s\")",
            name, (long long)texts->equal, (long long)texts->count,
            classes->names[texts->equal_with], classes->names[texts->equal_first],
            texts->texts[texts->equal_first]);
        cps_log_once(CPS_LOG_WARN, text);
        free(text);
    }
}

cps_status cps_zero_shot_check(const cps_evaluation_options *options, const cps_stream *data) {
    cps_class_list classes = {0};
    class_facts facts = {0};
    cps_status status = cps_class_list_of(data, &classes);
    if (status == CPS_OK) {
        status = find_facts(&classes, data, &options->zero_shot, &facts);
    }
    if (status == CPS_OK) {
        warn_of_texts(options->name, cps_class_text_types[options->zero_shot.text], &classes,
                      &facts.texts);
    }
    facts_free(&facts);
    cps_class_list_free(&classes);
    return status;
}

static cps_status begin(cps_evaluation *run, class_facts *facts) {
    const cps_zero_shot_options *options = &run->options->zero_shot;
    CPS_TRY(cps_evaluation_need_texts(run));
    CPS_TRY(cps_evaluation_take_weights(run, &options->score));
    CPS_TRY(cps_evaluation_take_classes(run));
    return cps_fail_context(find_facts(&run->classes, run->request->streams->data, options, facts),
                            "%s", run->where);
}

/* One template itself, of more their number and a digest; predictions/ hold them all. */
static char *templates_text(const cps_lines *templates) {
    if (templates->count <= 1) {
        return cps_format("%s", templates->count == 0 ? "{}" : templates->lines[0]);
    }
    cps_hash *hash = cps_hash_create();
    for (int64_t i = 0; i < templates->count; i++) {
        cps_hash_add(hash, templates->lines[i], strlen(templates->lines[i]) + 1);
    }
    const uint64_t digest = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return cps_format("%lld with digest %016llx", (long long)templates->count,
                      (unsigned long long)digest);
}

/* How the numbers came about, beside them. */
static void add_settings(cps_evaluation *run, const class_facts *facts) {
    const cps_zero_shot_options *options = &run->options->zero_shot;
    cps_json_add_string(run->metrics, "text", cps_class_text_types[options->text]);
    cps_json_add_string(run->metrics, "averaging",
                        cps_averaging_name((cps_averaging)options->averaging));
    char *templates = templates_text(&options->templates);
    cps_json_add_string(run->metrics, "templates", templates);
    free(templates);
    if (facts->texts.stand_ins > 0) {
        cps_json_add_number(run->metrics, "text_stand_ins", (double)facts->texts.stand_ins);
    }
    if (facts->texts.equal > 0) {
        cps_json_add_number(run->metrics, "equal_texts", (double)facts->texts.equal);
    }
    const uint8_t *unseen = run->request->streams->unseen;
    int64_t unseen_classes = 0;
    for (int64_t c = 0; c < run->classes.count && unseen != NULL; c++) {
        unseen_classes += unseen[c];
    }
    if (unseen != NULL) {
        cps_json_add_number(run->metrics, "unseen_classes", (double)unseen_classes);
    }
}

static double scale_of(const cps_evaluation *run) {
    const double scale = run->request->encoder->scale;
    return scale > 0.0 ? scale : usual_scale;
}

/* Collective. Metrics by rank, of the best class and of probabilities summed over classes. */
static cps_status rank_metrics(cps_evaluation *run, const class_facts *facts,
                               const cps_features *vectors, const cps_predictions *predictions) {
    cps_comm *comm = run->request->comm;
    CPS_TRY(cps_agree(
        comm, "evaluation",
        cps_evaluation_take_taxonomy(run, (cps_taxonomy_use)run->options->zero_shot.taxonomy,
                                     facts->first_records)));
    if (run->taxonomy == NULL) {
        return CPS_OK;
    }
    int64_t right[CPS_TAXON_RANKS], samples = 0;
    for (int64_t i = 0; i < run->images.rows; i++) {
        samples += run->row_organisms[i] >= 0;
    }
    cps_evaluation_add_ranks(run, predictions);
    CPS_TRY(cps_aggregate_ranks(comm, &run->images, vectors, run->weights, scale_of(run),
                                run->taxonomy, run->class_organisms, run->row_organisms, right));
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS && samples > 0; rank++) {
        char *key = cps_format("aggregated_%s", cps_taxon_rank_names[rank]);
        cps_json_add_number(run->metrics, key, (double)right[rank] / (double)samples);
        free(key);
    }
    return CPS_OK;
}

/* Collective. From features to metrics and predictions. */
static cps_status classify(cps_evaluation *run, const class_facts *facts,
                           const cps_features *vectors, cps_predictions *predictions) {
    const cps_zero_shot_options *options = &run->options->zero_shot;
    cps_comm *comm = run->request->comm;
    CPS_TRY(cps_zero_shot(comm, &run->images, vectors, run->weights,
                          cps_max_i64(CPS_EVALUATION_TOP, options->top), predictions));
    CPS_TRY(cps_agree(comm, "evaluation",
                      cps_classification_metrics(predictions, run->labels, run->classes.count,
                                                 run->where, run->metrics)));
    cps_evaluation_add_left_out(run, run->images.left_out_count,
                                run->images.non_finite + vectors->non_finite);
    CPS_TRY(rank_metrics(run, facts, vectors, predictions));
    add_settings(run, facts);
    cps_predictions_trim(predictions, options->top);
    const cps_predictions_content content = {
        .predictions = predictions,
        .classes = &run->classes,
        .text = cps_class_text_types[options->text],
        .averaging = cps_averaging_name((cps_averaging)options->averaging),
        .scale = scale_of(run),
        .templates = &options->templates,
        .class_texts = (const char *const *)facts->texts.texts,
        .unseen = run->request->streams->unseen};
    return cps_evaluation_write(run, content);
}

cps_status cps_evaluate_zero_shot(cps_evaluation *run) {
    const cps_zero_shot_options *options = &run->options->zero_shot;
    cps_comm *comm = run->request->comm;
    class_facts facts = {0};
    cps_features vectors = {0};
    cps_predictions predictions = {0};
    cps_status status = cps_agree(comm, "evaluation", begin(run, &facts));
    if (status == CPS_OK) {
        status = cps_fail_context(cps_class_vectors(comm, run->request->encoder,
                                                    (const char *const *)facts.texts.texts,
                                                    facts.texts.count, &options->templates,
                                                    (cps_averaging)options->averaging, &vectors),
                                  "%s", run->where);
    }
    if (status == CPS_OK) {
        status = cps_evaluation_encode_data(run, true);
    }
    if (status == CPS_OK) {
        status = classify(run, &facts, &vectors, &predictions);
    }
    facts_free(&facts);
    cps_features_free(&vectors);
    cps_predictions_free(&predictions);
    return status;
}

size_t cps_zero_shot_bytes(const cps_zero_shot_options *options, const cps_stream *stream,
                           const cps_encoder *encoder) {
    const int64_t classes = cps_class_count_of(stream);
    const int64_t top = cps_min_i64(cps_max_i64(CPS_EVALUATION_TOP, options->top), classes);
    const size_t prediction = sizeof(int32_t) + sizeof(cps_real);
    const size_t ranks = options->taxonomy == CPS_TAXONOMY_OFF
                             ? 0
                             : cps_aggregate_bytes(cps_stream_records(stream), classes);
    return cps_class_vectors_bytes(encoder, classes, options->templates.count) + ranks +
           2 * (size_t)(cps_stream_records(stream) * top) * prediction;
}
