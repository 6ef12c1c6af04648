#include "eval/evaluation.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "comm/agree.h"
#include "eval/knn.h"

/* The neighbours: rows with labels, in the joint class list. */
typedef struct bank_set {
    cps_features features;
    uint64_t *ids;
    int32_t *labels;
    cps_place *first_records; /* of the joint classes */
    int32_t *organisms;       /* of the rows, with a taxonomy */
} bank_set;

static void bank_free(bank_set *bank) {
    cps_features_free(&bank->features);
    free(bank->ids);
    free(bank->labels);
    free(bank->first_records);
    free(bank->organisms);
}

/* The first record of each joint class: of the data, else of the bank. map: labels of the bank. */
static cps_status find_first_records(const cps_evaluation *run, const int64_t *map,
                                     bank_set *bank) {
    bank->first_records = calloc((size_t)run->classes.count + 1, sizeof *bank->first_records);
    if (bank->first_records == NULL) {
        return cps_evaluation_out_of_memory(run);
    }
    cps_class_first_records(run->request->streams->data, NULL, bank->first_records);
    cps_class_first_records(run->request->streams->bank, map, bank->first_records);
    return CPS_OK;
}

/* Drops rows without a label and translates the labels of the others. */
static cps_status label_bank(cps_evaluation *run, const cps_class_list *bank_classes,
                             bank_set *bank) {
    int64_t *map = calloc((size_t)bank_classes->count + 1, sizeof *map);
    if (map == NULL) {
        return cps_evaluation_out_of_memory(run);
    }
    cps_features *features = &bank->features;
    cps_status status = cps_class_list_join(&run->classes, bank_classes, map);
    status = status != CPS_OK ? status : find_first_records(run, map, bank);
    int64_t kept = 0;
    for (int64_t i = 0; i < features->rows && status == CPS_OK; i++) {
        if (bank->labels[i] < 0) {
            continue;
        }
        memmove(features->values + kept * features->width, features->values + i * features->width,
                (size_t)features->width * sizeof *features->values);
        features->records[kept] = features->records[i];
        bank->ids[kept] = bank->ids[i];
        bank->labels[kept++] = (int32_t)map[bank->labels[i]];
    }
    free(map);
    CPS_TRY(status);
    features->rows = kept;
    return kept > 0 ? CPS_OK
                    : cps_fail(CPS_ERR_DATA,
                               "%s: no readable image of the bank has a label, so none can vote: "
                               "pack the bank with labels",
                               run->where);
}

/* Collective. */
static cps_status load_bank(cps_evaluation *run, bank_set *bank_out) {
    cps_comm *comm = run->request->comm;
    cps_class_list classes = {0};
    CPS_TRY(cps_agree(comm, "evaluation",
                      cps_fail_context(cps_class_list_of(run->request->streams->bank, &classes),
                                       "%s, bank", run->where)));
    cps_status status = cps_fail_context(cps_evaluation_encode(run, run->request->streams->bank,
                                                               true, &bank_out->features,
                                                               &bank_out->ids, &bank_out->labels),
                                         "bank");
    if (status == CPS_OK) {
        status = cps_agree(comm, "evaluation", label_bank(run, &classes, bank_out));
    }
    cps_class_list_free(&classes);
    return status;
}

static cps_status check_knn(cps_evaluation *run) {
    const cps_numbers own = {0};
    CPS_BUG_IF(run->request->streams->bank == NULL || run->options->knn.k < 1);
    CPS_TRY(cps_evaluation_take_weights(run, &own));
    return cps_evaluation_take_classes(run);
}

static cps_status take_organisms(cps_evaluation *run, bank_set *bank) {
    CPS_TRY(cps_evaluation_take_taxonomy(run, (cps_taxonomy_use)run->options->knn.taxonomy,
                                         bank->first_records));
    return run->taxonomy == NULL ? CPS_OK
                                 : cps_evaluation_organisms(run, run->request->streams->bank,
                                                            &bank->features, &bank->organisms);
}

/* Collective. Metrics by rank, of the elected class and of all neighbours. */
static cps_status rank_metrics(cps_evaluation *run, bank_set *bank,
                               const cps_predictions *predictions,
                               const cps_top_lists *neighbours) {
    cps_comm *comm = run->request->comm;
    CPS_TRY(cps_agree(comm, "evaluation", take_organisms(run, bank)));
    if (run->taxonomy == NULL) {
        return CPS_OK;
    }
    int64_t same[CPS_TAXON_RANKS], count = 0;
    cps_evaluation_add_ranks(run, predictions);
    cps_rank_purity(comm, neighbours, run->taxonomy, run->row_organisms, bank->organisms, same,
                    &count);
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS && count > 0; rank++) {
        char *key = cps_format("purity_%s", cps_taxon_rank_names[rank]);
        cps_json_add_number(run->metrics, key, (double)same[rank] / (double)count);
        free(key);
    }
    return CPS_OK;
}

/* Collective. Metrics and predictions of what the neighbours elected. */
static cps_status report(cps_evaluation *run, bank_set *bank, const cps_predictions *predictions,
                         const cps_top_lists *neighbours) {
    const cps_evaluation_request *request = run->request;
    CPS_TRY(cps_agree(request->comm, "evaluation",
                      cps_classification_metrics(predictions, run->labels, run->classes.count,
                                                 run->where, run->metrics)));
    cps_evaluation_add_left_out(run, run->images.left_out_count + bank->features.left_out_count,
                                run->images.non_finite + bank->features.non_finite);
    CPS_TRY(rank_metrics(run, bank, predictions, neighbours));
    const cps_predictions_content content = {.predictions = predictions,
                                             .classes = &run->classes,
                                             .bank_digest =
                                                 cps_stream_digest(request->streams->bank)};
    return cps_evaluation_write(run, content);
}

/* Collective. */
static cps_status poll_neighbours(cps_evaluation *run, bank_set *bank) {
    const cps_knn_options *options = &run->options->knn;
    cps_predictions predictions = {0};
    cps_top_lists neighbours = {0};
    CPS_TRY(cps_knn(run->request->comm, &run->images, run->sample_ids, &bank->features, bank->ids,
                    bank->labels, run->weights, options->k, options->temperature,
                    run->classes.count, CPS_EVALUATION_TOP, &predictions, &neighbours));
    const cps_status status = report(run, bank, &predictions, &neighbours);
    cps_predictions_free(&predictions);
    cps_top_lists_free(&neighbours);
    return status;
}

cps_status cps_evaluate_knn(cps_evaluation *run) {
    bank_set bank = {0};
    CPS_TRY(cps_agree(run->request->comm, "evaluation", check_knn(run)));
    cps_status status = cps_evaluation_encode_data(run, true);
    if (status == CPS_OK) {
        status = load_bank(run, &bank);
    }
    if (status == CPS_OK) {
        status = poll_neighbours(run, &bank);
    }
    bank_free(&bank);
    return status;
}
