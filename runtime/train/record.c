/* Services of `caption` and `annotate`, and the loader's callbacks that lead to them. On loader
 * threads, several at once. */
#include "train/stage.h"

#include <string.h>

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
    cps_record_ref *writable = (cps_record_ref *)(uintptr_t)record;
    if (record->text_out != NULL && writable->status == CPS_OK) {
        writable->status = cps_text_set(record->text_out, text);
    }
}

cps_status cps_stage_caption(void *context, const cps_sample *sample, cps_text *text_out) {
    const cps_input_context *input = context;
    const cps_stage_view *view = &input->plan->views[input->index];
    const cps_instance *instance = &input->plan->instances[view->owner];
    cps_record_ref record = {
        .host = cps_host_table(), .sample = sample, .plan = input->plan, .text_out = text_out};
    CPS_TRY(instance->objective->caption(instance->self, &record, view->owner_id));
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
    const cps_record_ref record = {.host = cps_host_table(), .sample = sample, .plan = input->plan};
    return instance->objective->annotate(instance->self, &record, annotation->owner_id, text,
                                         row_out);
}
