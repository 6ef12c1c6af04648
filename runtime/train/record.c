/* Services of `caption` and `annotate`, and the loader's callbacks that lead to them. On loader
 * threads, several at once; a record is one thread's. */
#include "train/stage.h"

#include <stdlib.h>
#include <string.h>

/* What services note in the record that plugins see as constant. */
static cps_record_ref *writable(const cps_record_ref *record) {
    return (cps_record_ref *)(uintptr_t)record;
}

int64_t cps_serve_record_text_count(const cps_record_ref *record, const char *field) {
    return cps_sample_text_count(record->sample, field);
}

const char *cps_serve_record_text(const cps_record_ref *record, const char *field, int64_t which) {
    return cps_sample_text(record->sample, field, which);
}

const char *cps_serve_record_caption(const cps_record_ref *record) {
    return cps_sample_caption(record->sample);
}

const char *cps_serve_record_label(const cps_record_ref *record) {
    return cps_sample_class_name(record->sample);
}

uint64_t cps_serve_record_id(const cps_record_ref *record) {
    return record->sample->sample_id;
}

cps_step_info cps_serve_record_step(const cps_record_ref *record) {
    const cps_stage_plan *plan = record->plan;
    const cps_sample *sample = record->sample;
    return (cps_step_info){.step = plan->validation
                                       ? (int64_t)sample->key.position / plan->options.global_batch
                                       : sample->data_step,
                           .steps = plan->steps,
                           .epoch = (int64_t)sample->key.epoch,
                           .grain = -1,
                           .grains = plan->grains,
                           .seed = plan->seed,
                           .evaluation = plan->validation};
}

cps_draw_key cps_serve_record_draws(const cps_record_ref *record, const char *module) {
    cps_draw_key key = record->sample->key;
    key.module = cps_host_table()->name_key(module);
    return key;
}

void cps_serve_record_give(const cps_record_ref *record, const char *text) {
    if (record->text_out != NULL && record->status == CPS_OK) {
        cps_record_fail(record, cps_text_set(record->text_out, text));
    }
}

void cps_record_fail(const cps_record_ref *record, cps_status status) {
    if (record->status == CPS_OK) {
        writable(record)->status = status;
    }
}

/* Cleaned once for all services of a callback. */
cps_status cps_record_taxon(const cps_record_ref *record, const cps_taxon **taxon_out) {
    cps_record_ref *noted = writable(record);
    if (!record->taxon_made && record->status == CPS_OK) {
        const cps_sample *sample = record->sample;
        const cps_taxon_fields fields = cps_taxon_fields_of(sample->shard, sample->record);
        cps_record_fail(record, cps_taxon_clean(&fields, &noted->taxon));
        noted->taxon_made = true;
    }
    *taxon_out = record->taxon;
    return record->status;
}

cps_status cps_serve_taxon_text(const cps_record_ref *record, const char *type, bool clean,
                                char **text_out) {
    static const char tol200m[] = "tol200m:";
    const cps_taxon *taxon = NULL;
    CPS_TRY(cps_record_taxon(record, &taxon));
    if (taxon == NULL) {
        *text_out = NULL;
        return CPS_OK;
    }
    if (strncmp(type, tol200m, sizeof tol200m - 1) == 0) {
        const cps_sample *sample = record->sample;
        const cps_taxon_fields fields = cps_taxon_fields_of(sample->shard, sample->record);
        return cps_taxon_tol200m_text(&fields, type + sizeof tol200m - 1, text_out);
    }
    return cps_taxon_caption(taxon, type, clean, text_out);
}

uint32_t cps_serve_taxon_known(const cps_record_ref *record) {
    const cps_taxon *taxon = NULL;
    return cps_record_taxon(record, &taxon) == CPS_OK && taxon != NULL ? cps_taxon_known(taxon) : 0;
}

cps_status cps_stage_caption(void *context, const cps_sample *sample, cps_text *text_out) {
    const cps_input_context *input = context;
    const cps_stage_view *view = &input->plan->views[input->index];
    const cps_instance *instance = &input->plan->instances[view->owner];
    cps_record_ref record = {
        .host = cps_host_table(), .sample = sample, .plan = input->plan, .text_out = text_out};
    const cps_status status = instance->objective->caption(instance->self, &record, view->owner_id);
    free(record.taxon);
    CPS_TRY(status);
    if (record.status == CPS_OK && text_out->bytes == NULL) {
        return cps_fail(CPS_ERR_INTERNAL,
                        "objective '%s' gave no caption for record %lld of '%s': its caption "
                        "function must call cps_record_give",
                        instance->name, (long long)sample->record, cps_shard_path(sample->shard));
    }
    return record.status;
}

cps_status cps_stage_annotate(void *context, const cps_sample *sample, const char *text,
                              void *row_out) {
    const cps_input_context *input = context;
    const cps_stage_annotation *annotation = &input->plan->annotations[input->index];
    const cps_instance *instance = &input->plan->instances[annotation->owner];
    cps_record_ref record = {.host = cps_host_table(), .sample = sample, .plan = input->plan};
    const cps_status status =
        instance->objective->annotate(instance->self, &record, annotation->owner_id, text, row_out);
    free(record.taxon);
    return status == CPS_OK ? record.status : status;
}
