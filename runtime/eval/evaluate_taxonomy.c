/* What the tree of life adds to an evaluation's classes and images. */
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "eval/evaluation.h"

static cps_status fail_no_ranks(void) {
    return cps_fail(CPS_ERR_DATA,
                    "taxonomy = \"on\", but no class has a record with taxonomic ranks: pack the "
                    "set with columns kingdom .. species, or leave taxonomy out");
}

static cps_status has_ranks(const cps_stream *stream, bool *has_out) {
    const int64_t count = cps_class_count_of(stream);
    cps_place *places = calloc((size_t)count + 1, sizeof *places);
    cps_status status =
        places == NULL ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for classes") : CPS_OK;
    if (status == CPS_OK) {
        cps_class_first_records(stream, NULL, places);
    }
    for (int64_t c = 0; c < count && status == CPS_OK && !*has_out; c++) {
        if (places[c].shard == NULL) {
            continue;
        }
        const cps_taxon_fields fields = cps_taxon_fields_of(places[c].shard, places[c].record);
        cps_taxon *taxon = NULL;
        status = cps_taxon_clean(&fields, &taxon);
        *has_out = taxon != NULL;
        free(taxon);
    }
    free(places);
    return status;
}

cps_status cps_taxonomy_check(const cps_stream *data, const cps_stream *bank) {
    bool has = false;
    CPS_TRY(has_ranks(data, &has));
    if (!has && bank != NULL) {
        CPS_TRY(has_ranks(bank, &has));
    }
    return has ? CPS_OK : fail_no_ranks();
}

static cps_status class_organisms(cps_evaluation *run, const cps_place *first_records,
                                  bool *any_out) {
    run->class_organisms = calloc((size_t)run->classes.count + 1, sizeof *run->class_organisms);
    if (run->class_organisms == NULL) {
        return cps_evaluation_out_of_memory(run);
    }
    *any_out = false;
    for (int64_t c = 0; c < run->classes.count; c++) {
        const cps_place *place = &first_records[c];
        run->class_organisms[c] = -1;
        if (place->shard != NULL) {
            const cps_taxon_fields fields = cps_taxon_fields_of(place->shard, place->record);
            CPS_TRY(cps_taxonomy_add_record(run->taxonomy, &fields, &run->class_organisms[c]));
            *any_out = *any_out || run->class_organisms[c] >= 0;
        }
    }
    return CPS_OK;
}

cps_status cps_evaluation_organisms(const cps_evaluation *run, const cps_stream *stream,
                                    const cps_features *features, int32_t **organisms_out) {
    int32_t *organisms = calloc((size_t)features->rows + 1, sizeof *organisms);
    if (organisms == NULL) {
        return cps_evaluation_out_of_memory(run);
    }
    for (int64_t i = 0; i < features->rows; i++) {
        cps_place place;
        cps_stream_stored(stream, features->records[i], &place);
        const cps_taxon_fields fields = cps_taxon_fields_of(place.shard, place.record);
        const cps_status status = cps_taxonomy_add_record(run->taxonomy, &fields, &organisms[i]);
        if (status != CPS_OK) {
            free(organisms);
            return status;
        }
    }
    *organisms_out = organisms;
    return CPS_OK;
}

/* Classes above the species hold several: their metrics by rank compare with the first record's. */
static void report_mixed_classes(const cps_evaluation *run) {
    int64_t mixed = 0, first = -1;
    for (int64_t i = 0; i < run->images.rows; i++) {
        if (run->labels[i] >= 0 && run->row_organisms[i] >= 0 &&
            run->row_organisms[i] != run->class_organisms[run->labels[i]]) {
            first = mixed++ == 0 ? i : first;
        }
    }
    if (mixed > 0) {
        char *text = cps_format(
            "%s: %lld of %lld images are of another organism than the first record of their class "
            "(the first: sample %llu of class '%s'), so a right class is not right at all ranks",
            run->where, (long long)mixed, (long long)run->images.rows,
            (unsigned long long)run->sample_ids[first], run->classes.names[run->labels[first]]);
        cps_log_once(CPS_LOG_WARN, text);
        free(text);
    }
}

cps_status cps_evaluation_take_taxonomy(cps_evaluation *run, cps_taxonomy_use use,
                                        const cps_place *first_records) {
    if (use == CPS_TAXONOMY_OFF) {
        return CPS_OK;
    }
    bool any = false;
    CPS_TRY(cps_taxonomy_create(&run->taxonomy));
    CPS_TRY(class_organisms(run, first_records, &any));
    if (!any) {
        cps_taxonomy_destroy(run->taxonomy);
        run->taxonomy = NULL;
        return use == CPS_TAXONOMY_AUTO ? CPS_OK
                                        : cps_fail_context(fail_no_ranks(), "%s", run->where);
    }
    CPS_TRY(cps_evaluation_organisms(run, run->request->streams->data, &run->images,
                                     &run->row_organisms));
    report_mixed_classes(run);
    int64_t unranked = 0;
    for (int64_t i = 0; i < run->images.rows; i++) {
        unranked += run->labels[i] >= 0 && run->row_organisms[i] < 0;
        run->row_organisms[i] = run->labels[i] < 0 ? -1 : run->row_organisms[i];
    }
    if (unranked > 0) {
        cps_json_add_number(run->metrics, "unranked", (double)unranked);
    }
    return CPS_OK;
}

void cps_evaluation_count_ranks(const cps_evaluation *run, int64_t row, int32_t predicted,
                                cps_rank_counts *counts) {
    const int32_t truth = run->row_organisms[row];
    if (truth < 0) {
        return;
    }
    const int32_t organism = predicted < 0 ? -1 : run->class_organisms[predicted];
    cps_rank_counts_add(counts, organism < 0 ? NULL : cps_taxonomy_path(run->taxonomy, organism),
                        cps_taxonomy_path(run->taxonomy, truth), predicted != run->labels[row]);
}

void cps_evaluation_add_ranks(cps_evaluation *run, const cps_predictions *predictions) {
    cps_rank_counts counts = {0};
    for (int64_t i = 0; i < predictions->rows && run->taxonomy != NULL; i++) {
        cps_evaluation_count_ranks(run, i, predictions->index[i * predictions->top], &counts);
    }
    cps_rank_counts_report(&counts, "", run->metrics);
}
