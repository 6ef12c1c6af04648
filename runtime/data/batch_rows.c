/* The work on one row of one stream: where its record is, its images (with the rule for bad ones),
 * texts and annotations. Runs on any thread; writes only the row's own places in the slot. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "data/batch_internal.h"

/* ---- texts that grow ---------------------------------------------------------------------- */

static cps_status text_put(cps_text *text, size_t at, const char *value) {
    const size_t length = strlen(value);
    if (at + length + 1 > text->capacity) {
        const size_t capacity = 2 * (at + length) + 256;
        char *bytes = realloc(text->bytes, capacity);
        if (bytes == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for a text of %zu bytes", at + length);
        }
        text->bytes = bytes;
        text->capacity = capacity;
    }
    memcpy(text->bytes + at, value, length + 1);
    text->length = at + length;
    return CPS_OK;
}

cps_status cps_text_set(cps_text *text, const char *value) {
    return text_put(text, 0, value);
}

cps_status cps_text_append(cps_text *text, const char *value) {
    return text_put(text, text->length, value);
}

void cps_text_free(cps_text *text) {
    if (text != NULL) {
        free(text->bytes);
        *text = (cps_text){0};
    }
}

/* ---- what callbacks see ------------------------------------------------------------------- */

int64_t cps_sample_text_count(const cps_sample *sample, const char *field) {
    const int64_t index = cps_shard_field(sample->shard, field);
    return index < 0 ? 0 : cps_shard_text_count(sample->shard, index, sample->record);
}

const char *cps_sample_text(const cps_sample *sample, const char *field, int64_t which) {
    const int64_t index = cps_shard_field(sample->shard, field);
    if (index < 0 || which < 0 ||
        which >= cps_shard_text_count(sample->shard, index, sample->record)) {
        return NULL;
    }
    return cps_shard_text(sample->shard, index, sample->record, which);
}

int32_t cps_sample_label(const cps_sample *sample) {
    return cps_shard_has_labels(sample->shard) ? cps_shard_label(sample->shard, sample->record)
                                               : -1;
}

const char *cps_sample_class_name(const cps_sample *sample) {
    const int32_t label = cps_sample_label(sample);
    return label < 0 ? NULL : cps_shard_class_name(sample->shard, label);
}

const char *cps_sample_caption(const cps_sample *sample) {
    const int64_t count = cps_sample_text_count(sample, sample->caption_field);
    if (count == 0) {
        return "";
    }
    cps_draw_key key = sample->key;
    if (sample->fixed_caption) {
        key = (cps_draw_key){.seed = sample->key.seed, .position = sample->sample_id};
    }
    key.module = cps_name_key("caption");
    const uint64_t which = sample->first_caption ? 0 : cps_draw_below(&key, 0, (uint64_t)count);
    return cps_sample_text(sample, sample->caption_field, (int64_t)which);
}

/* ---- where a row is ----------------------------------------------------------------------- */

int64_t cps_slot_rows(const cps_loader *loader, const cps_slot *slot, int32_t stream) {
    return stream == 0 ? slot->clock_rows : loader->options.streams[stream].rows;
}

/* Fills the row's places; false for padding behind the last record. */
static bool locate(const cps_loader *loader, cps_slot *slot, int32_t stream, int64_t row) {
    const cps_loader_options *options = &loader->options;
    const cps_stream *source = options->streams[stream].stream;
    const int64_t rows = options->streams[stream].rows;
    cps_slot_stream *own = &slot->streams[stream];
    int64_t epoch = 0, position = 0;
    if (options->order == CPS_ORDER_STORED) {
        position = slot->grain * rows + row;
        if (position >= loader->records) {
            own->places[row] = (cps_place){.record = -1, .set = -1};
            own->sample_ids[row] = own->epochs[row] = own->positions[row] = 0;
            own->valid[row] = 0;
            return false;
        }
        cps_stream_stored(source, position, &own->places[row]);
    } else if (stream == 0) {
        const int64_t step = slot->data_step % loader->epoch_steps;
        epoch = slot->data_step / loader->epoch_steps;
        position = (step * options->grains + slot->grain) * rows + row;
        cps_stream_at(source, (uint64_t)epoch, position, &own->places[row]);
    } else { /* runs on over the clock's epochs */
        const int64_t absolute = (slot->data_step * options->grains + slot->grain) * rows + row;
        epoch = absolute / cps_stream_epoch_samples(source);
        position = absolute % cps_stream_epoch_samples(source);
        cps_stream_at(source, (uint64_t)epoch, position, &own->places[row]);
    }
    own->sample_ids[row] = own->places[row].sample_id;
    own->epochs[row] = (uint64_t)epoch;
    own->positions[row] = (uint64_t)position;
    own->valid[row] = 1;
    return true;
}

static cps_sample sample_at(const cps_loader *loader, const cps_slot *slot, int32_t stream,
                            int64_t row) {
    const cps_loader_options *options = &loader->options;
    const cps_slot_stream *own = &slot->streams[stream];
    const cps_place *place = &own->places[row];
    return (cps_sample){
        .shard = place->shard,
        .record = place->record,
        .sample_id = place->sample_id,
        .caption_field = place->caption,
        .first_caption = options->order == CPS_ORDER_STORED,
        .fixed_caption = place->fixed_caption,
        .data_step = slot->data_step,
        .row = slot->grain * options->streams[stream].rows + row,
        .key = {.seed = options->seed,
                .stage = options->stage,
                .stream = cps_name_key(cps_stream_name(options->streams[stream].stream)),
                .epoch = own->epochs[row],
                .position = own->positions[row]}};
}

/* ---- images ------------------------------------------------------------------------------- */

static uint8_t *row_pixels(const cps_loader *loader, const cps_slot *slot, int32_t input,
                           int64_t row, size_t *bytes_out) {
    const size_t size = (size_t)loader->options.inputs[input].recipe.size;
    *bytes_out = size * size * 3;
    return slot->inputs[input].pixels + (size_t)row * *bytes_out;
}

static bool is_image_of(const cps_loader_options *options, int32_t input, int32_t stream) {
    return options->inputs[input].kind == CPS_INPUT_IMAGE &&
           options->inputs[input].stream == stream;
}

/* Encoded bytes of a record, checked. DATA: they are not what was packed; a file that cannot be
 * read is another failure, which ends the run. */
static cps_status read_encoded(cps_worker *worker, const cps_shard *shard, int64_t record) {
    const cps_status status = cps_shard_read_image(shard, record, true, worker->encoded);
    if (status != CPS_ERR_DATA) {
        return status;
    }
    if (cps_shard_read_image(shard, record, false, worker->encoded) == CPS_OK) {
        return cps_fail(CPS_ERR_DATA, "checksum does not fit: damaged after packing");
    }
    char message[CPS_LOADER_MESSAGE];
    snprintf(message, sizeof message, "%s", cps_fail_message());
    return cps_fail(CPS_ERR_IO, "%s", message);
}

/* Reads record `record` of the sample's shard and makes all image inputs of the row from it. DATA:
 * this image is bad. */
static cps_status make_images(cps_worker *worker, cps_slot *slot, int32_t stream, int64_t row,
                              const cps_sample *sample, int64_t record) {
    const cps_loader *loader = worker->loader;
    const char *reason = cps_shard_bad_reason(sample->shard, record);
    const int64_t length = cps_shard_image_bytes(sample->shard, record);
    if (reason != NULL) {
        return cps_fail(CPS_ERR_DATA, "%s", reason);
    }
    if (length > loader->encoded_bytes) {
        return cps_fail(CPS_ERR_DATA, "%lld bytes, more than %d are not read", (long long)length,
                        CPS_MAX_ENCODED_BYTES);
    }
    CPS_TRY(read_encoded(worker, sample->shard, record));
    cps_picture picture = {0};
    CPS_TRY(cps_picture_open(&picture, worker->encoded, (size_t)length));
    cps_status status = CPS_OK;
    for (int32_t i = 0; i < loader->options.input_count && status == CPS_OK; i++) {
        if (is_image_of(&loader->options, i, stream)) {
            size_t bytes = 0;
            cps_draw_key key = sample->key;
            key.view = loader->options.inputs[i].view;
            key.crop = loader->options.inputs[i].crop;
            status = cps_recipe_apply(&loader->options.inputs[i].recipe, &picture, &key,
                                      row_pixels(loader, slot, i, row, &bytes));
        }
    }
    cps_picture_close(&picture);
    return status;
}

static void blank_images(const cps_loader *loader, cps_slot *slot, int32_t stream, int64_t row) {
    for (int32_t i = 0; i < loader->options.input_count; i++) {
        if (is_image_of(&loader->options, i, stream)) {
            size_t bytes = 0;
            uint8_t *pixels = row_pixels(loader, slot, i, row, &bytes);
            memset(pixels, 0, bytes);
        }
    }
}

/* Replaces the image by that of the next readable record of its shard, cyclically; its number. */
static cps_status replace_images(cps_worker *worker, cps_slot *slot, int32_t stream, int64_t row,
                                 const cps_sample *sample, int64_t *record_out) {
    const int64_t count = cps_shard_count(sample->shard);
    for (int64_t step = 1; step < count; step++) {
        const int64_t record = (sample->record + step) % count;
        if (cps_shard_bad_reason(sample->shard, record) != NULL) {
            continue;
        }
        const cps_status status = make_images(worker, slot, stream, row, sample, record);
        if (status == CPS_OK) {
            *record_out = record;
        }
        if (status != CPS_ERR_DATA) {
            return status;
        }
    }
    return cps_fail(CPS_ERR_DATA,
                    "shard '%s': none of its %lld images can be read, so record %lld cannot be "
                    "replaced ('copse verify' lists the reasons)",
                    cps_shard_path(sample->shard), (long long)count, (long long)sample->record);
}

static cps_status work_on_images(cps_worker *worker, cps_slot *slot, int32_t stream, int64_t row,
                                 const cps_sample *sample) {
    const cps_loader *loader = worker->loader;
    cps_bad_image *bad = &slot->streams[stream].bad[row];
    const cps_status status = make_images(worker, slot, stream, row, sample, sample->record);
    if (status != CPS_ERR_DATA) {
        return status;
    }
    *bad = (cps_bad_image){.shard = sample->shard,
                           .record = sample->record,
                           .sample_id = sample->sample_id,
                           .replaced_by = -1,
                           .row = row,
                           .stream = stream};
    snprintf(bad->reason, sizeof bad->reason, "%s", cps_fail_message());
    cps_fail_clear();
    if (loader->options.order == CPS_ORDER_STORED) {
        slot->streams[stream].valid[row] = 0;
        blank_images(loader, slot, stream, row);
        return CPS_OK;
    }
    return replace_images(worker, slot, stream, row, sample, &bad->replaced_by);
}

/* ---- texts and annotations ---------------------------------------------------------------- */

static cps_status work_on_text(cps_worker *worker, cps_slot *slot, int32_t input, int64_t row,
                               const cps_sample *sample) {
    const cps_input_spec *spec = &worker->loader->options.inputs[input];
    cps_slot_input *own = &slot->inputs[input];
    cps_text *text = &worker->texts[input];
    if (sample == NULL) { /* padding */
        CPS_TRY(cps_text_set(text, ""));
    } else if (spec->caption == NULL) {
        CPS_TRY(cps_text_set(text, cps_sample_caption(sample)));
    } else {
        CPS_TRY(cps_text_set(text, ""));
        CPS_TRY(spec->caption(spec->caption_context, sample, text));
    }
    int32_t *ids = own->ids + row * spec->text_context;
    int64_t length = 0;
    bool cut = false;
    CPS_TRY(cps_tokenizer_encode(worker->loader->options.tokenizer, text->bytes, spec->text_context,
                                 ids, &length, &cut));
    if (spec->all_positions) {
        memset(ids + length, 0, (size_t)(spec->text_context - length) * sizeof *ids);
    }
    own->ends[row] = (int32_t)length - 1;
    own->cut[row] = cut;
    return CPS_OK;
}

static cps_status work_on_annotation(cps_worker *worker, cps_slot *slot, int32_t input, int64_t row,
                                     const cps_sample *sample) {
    const cps_input_spec *spec = &worker->loader->options.inputs[input];
    uint8_t *place = slot->inputs[input].annotation + row * spec->row_bytes;
    memset(place, 0, (size_t)spec->row_bytes);
    if (sample == NULL) {
        return CPS_OK;
    }
    const char *text = spec->text_input >= 0 ? worker->texts[spec->text_input].bytes : NULL;
    return spec->annotate(spec->annotate_context, sample, text, place);
}

/* TEXT inputs first: annotations see their texts. */
static cps_status work_on_others(cps_worker *worker, cps_slot *slot, int32_t stream, int64_t row,
                                 cps_input_kind kind, const cps_sample *sample) {
    const cps_loader_options *options = &worker->loader->options;
    for (int32_t i = 0; i < options->input_count; i++) {
        const cps_input_spec *spec = &options->inputs[i];
        if (spec->kind != kind || spec->stream != stream) {
            continue;
        }
        cps_sample own = {0};
        if (sample != NULL) {
            own = *sample;
            own.key.view = spec->view;
        }
        const cps_sample *seen = sample != NULL ? &own : NULL;
        CPS_TRY(kind == CPS_INPUT_TEXT ? work_on_text(worker, slot, i, row, seen)
                                       : work_on_annotation(worker, slot, i, row, seen));
    }
    return CPS_OK;
}

static bool wants_images(const cps_loader_options *options, int32_t stream) {
    for (int32_t i = 0; i < options->input_count; i++) {
        if (is_image_of(options, i, stream)) {
            return true;
        }
    }
    return false;
}

cps_status cps_row_work(cps_worker *worker, cps_slot *slot, int32_t stream, int64_t row) {
    const cps_loader *loader = worker->loader;
    slot->streams[stream].bad[row].reason[0] = '\0';
    const bool there = locate(loader, slot, stream, row);
    const cps_sample sample = there ? sample_at(loader, slot, stream, row) : (cps_sample){0};
    const cps_sample *seen = there ? &sample : NULL;
    cps_status status = CPS_OK;
    if (!there) {
        blank_images(loader, slot, stream, row);
    } else if (wants_images(&loader->options, stream)) {
        status = work_on_images(worker, slot, stream, row, seen);
    }
    if (status == CPS_OK) {
        status = work_on_others(worker, slot, stream, row, CPS_INPUT_TEXT, seen);
    }
    if (status == CPS_OK) {
        status = work_on_others(worker, slot, stream, row, CPS_INPUT_ANNOTATION, seen);
    }
    if (status != CPS_OK && there) {
        status = cps_fail_context(status, "stream '%s', shard '%s', record %lld",
                                  cps_stream_name(loader->options.streams[stream].stream),
                                  cps_shard_path(sample.shard), (long long)sample.record);
    }
    return status;
}

/* ---- a complete grain --------------------------------------------------------------------- */

/* Moves the rows' ids together, in place: a row never moves up. */
static void pack_text(const cps_input_spec *spec, cps_slot_input *own, int64_t rows,
                      int64_t *truncated_out) {
    int64_t truncated = 0;
    own->offsets[0] = 0;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t length = spec->all_positions ? spec->text_context : own->ends[row] + 1;
        memmove(own->ids + own->offsets[row], own->ids + row * spec->text_context,
                (size_t)length * sizeof *own->ids);
        own->offsets[row + 1] = own->offsets[row] + (int32_t)length;
        truncated += own->cut[row];
    }
    *truncated_out = truncated;
}

static void show_input(const cps_loader *loader, cps_slot *slot, int32_t input) {
    const cps_input_spec *spec = &loader->options.inputs[input];
    cps_slot_input *own = &slot->inputs[input];
    cps_input_rows *shown = &slot->input_rows[input];
    *shown = (cps_input_rows){.rows = cps_slot_rows(loader, slot, spec->stream)};
    switch (spec->kind) {
    case CPS_INPUT_IMAGE:
        shown->pixels = own->pixels;
        shown->size = spec->recipe.size;
        break;
    case CPS_INPUT_TEXT:
        pack_text(spec, own, shown->rows, &shown->truncated);
        shown->ids = own->ids;
        shown->offsets = own->offsets;
        shown->ends = own->ends;
        break;
    case CPS_INPUT_ANNOTATION:
        shown->annotation = own->annotation;
        break;
    }
}

void cps_slot_complete(const cps_loader *loader, cps_slot *slot) {
    const cps_loader_options *options = &loader->options;
    int64_t bad = 0;
    for (int32_t s = 0; s < options->stream_count; s++) {
        const cps_slot_stream *own = &slot->streams[s];
        const int64_t rows = cps_slot_rows(loader, slot, s);
        slot->stream_rows[s] = (cps_stream_rows){.rows = rows,
                                                 .sample_ids = own->sample_ids,
                                                 .places = own->places,
                                                 .epochs = own->epochs,
                                                 .positions = own->positions,
                                                 .valid = own->valid};
        for (int64_t row = 0; row < rows; row++) {
            if (own->bad[row].reason[0] != '\0') {
                slot->bad[bad++] = own->bad[row];
            }
        }
    }
    for (int32_t i = 0; i < options->input_count; i++) {
        show_input(loader, slot, i);
    }
    slot->batch = (cps_batch){.data_step = slot->data_step,
                              .grain = slot->grain,
                              .padded = slot->padded,
                              .stream_count = options->stream_count,
                              .input_count = options->input_count,
                              .streams = slot->stream_rows,
                              .inputs = slot->input_rows,
                              .bad = slot->bad,
                              .bad_count = bad};
    slot->complete = true;
}
