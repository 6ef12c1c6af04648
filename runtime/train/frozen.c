/* Every rank holds all rows of a view; it fills its own run of whole grains from cache files and by
 * computing, then the runs are gathered in place. Rows are found again by (shard, record) through
 * tables of the stream's shards. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "train/frozen_internal.h"

enum { FILE_GRAINS = 256 };
static const double file_seconds = 60.0; /* most work that a kill costs */

struct cps_frozen {
    int32_t count;
    cps_frozen_set sets[CPS_STAGE_VIEWS];
    int32_t of_view[CPS_STAGE_VIEWS]; /* -1: not frozen */
};

/* ---- what may be frozen ---- */

cps_status cps_frozen_check_view(const cps_view *view, const cps_recipe *recipe, bool text,
                                 bool has_caption) {
    if (view->fixed_text_count > 0) {
        return cps_fail(CPS_ERR_INTERNAL,
                        "view '%s' is frozen and of fixed texts, which belong to no record: use "
                        "CPS_VIEW_NO_GRADIENT",
                        view->name);
    }
    if (view->outputs != CPS_POOLED && view->outputs != CPS_PROJECTED &&
        view->outputs != CPS_FEATURE) {
        return cps_fail(CPS_ERR_INTERNAL,
                        "frozen view '%s' asks for outputs 0x%x; wanted is one of CPS_POOLED, "
                        "CPS_PROJECTED, CPS_FEATURE (declare a view for each)",
                        view->name, view->outputs);
    }
    if (text && has_caption) {
        return cps_fail(CPS_ERR_INTERNAL,
                        "frozen view '%s' reads texts, but the objective chooses captions anew at "
                        "each access: use CPS_VIEW_NO_GRADIENT",
                        view->name);
    }
    if (!text && recipe->kind != CPS_RECIPE_EVALUATION) {
        return cps_fail(
            CPS_ERR_INTERNAL,
            "frozen view '%s' has a random recipe; features can be kept only of images that are "
            "always the same: use a CPS_RECIPE_EVALUATION recipe, or CPS_VIEW_NO_GRADIENT",
            view->name);
    }
    return CPS_OK;
}

static bool follows(const cps_stage_plan *plan, int32_t param) {
    for (int32_t i = 0; i < plan->ema_count; i++) {
        if (plan->emas[i].param == param) {
            return true;
        }
    }
    return false;
}

cps_status cps_frozen_check_learning(const cps_stage_plan *plan) {
    cps_params *params = cps_model_params(plan->model);
    for (int32_t v = 0; v < plan->view_count; v++) {
        const cps_stage_view *entry = &plan->views[v];
        int32_t count = 0;
        const int32_t *indices = cps_tower_params(entry->tower, &count);
        for (int32_t i = 0; entry->view.mode == CPS_VIEW_FROZEN && i < count; i++) {
            const cps_param *param = cps_params_at(params, indices[i]);
            if (param->learns || follows(plan, indices[i])) {
                return cps_fail(CPS_ERR_USAGE,
                                "stages[%d]: objective '%s' keeps the features of tower '%s' (view "
                                "'%s'), but '%s' %s in this stage: exclude the tower with train = "
                                "{ \"!%s*\" }, or choose another tower",
                                plan->index + 1, plan->instances[entry->owner].name,
                                entry->view.tower, entry->view.name, param->name,
                                param->learns ? "learns" : "follows another as its moving average",
                                cps_tower_get_config(entry->tower)->prefix);
            }
        }
    }
    return CPS_OK;
}

/* ---- memory ---- */

static const cps_stream *stream_of(const cps_stage_plan *plan, int32_t view) {
    return plan->streams[plan->views[view].stream].stream;
}

size_t cps_frozen_bytes(const cps_stage_plan *plan) {
    size_t bytes = 0;
    for (int32_t v = 0; v < plan->view_count; v++) {
        const cps_stage_view *entry = &plan->views[v];
        if (entry->view.mode == CPS_VIEW_FROZEN) {
            const int64_t rows =
                cps_ceil_div(cps_stream_records(stream_of(plan, v)), CPS_FROZEN_GRAIN) *
                CPS_FROZEN_GRAIN;
            bytes += (size_t)rows * ((size_t)cps_output_width(entry->tower, entry->view.outputs) *
                                         sizeof(cps_real) +
                                     1 + 2 * sizeof(int64_t));
        }
    }
    return bytes;
}

static void free_set(cps_frozen_set *set) {
    for (int64_t i = 0; i < set->shard_count; i++) {
        free(set->shards[i].index);
    }
    free(set->shards);
    free(set->values);
    free(set->valid);
    free(set->stand_in);
    free(set->covered);
    free(set->folder);
}

void cps_frozen_close(cps_frozen *frozen) {
    if (frozen == NULL) {
        return;
    }
    for (int32_t i = 0; i < frozen->count; i++) {
        free_set(&frozen->sets[i]);
    }
    free(frozen);
}

cps_status cps_frozen_fail_memory(const cps_frozen_set *set) {
    return cps_fail(CPS_ERR_UNAVAILABLE,
                    "out of memory for the features of view '%s': %lld records of %lld numbers on "
                    "every rank; use fewer ranks on a node, or fewer records",
                    set->entry->view.name, (long long)set->records, (long long)set->width);
}

static cps_status allocate_set(cps_frozen_set *set, cps_comm *comm) {
    int64_t elements = 0;
    size_t bytes = 0;
    set->first = cps_part_first(set->grains, cps_comm_size(comm), cps_comm_rank(comm));
    set->last = cps_part_first(set->grains, cps_comm_size(comm), cps_comm_rank(comm) + 1);
    if (!cps_mul_i64(set->grains * CPS_FROZEN_GRAIN, set->width, &elements) ||
        !cps_mul_size((size_t)elements, sizeof(cps_real), &bytes)) {
        return cps_frozen_fail_memory(set);
    }
    set->values = calloc(1, bytes + CPS_ALIGNMENT);
    set->valid = calloc((size_t)set->grains, CPS_FROZEN_GRAIN);
    set->stand_in = calloc((size_t)set->records + 1, sizeof *set->stand_in);
    set->covered = calloc((size_t)(set->last - set->first) + 1, 1);
    return set->values == NULL || set->valid == NULL || set->stand_in == NULL ||
                   set->covered == NULL
               ? cps_frozen_fail_memory(set)
               : CPS_OK;
}

/* ---- records -> rows ---- */

static int64_t find_shard(const cps_frozen_set *set, const cps_shard *shard) {
    int64_t low = 0, high = set->shard_count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if ((uintptr_t)set->shards[middle].shard < (uintptr_t)shard) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static cps_status add_shard(cps_frozen_set *set, const cps_shard *shard, int64_t at) {
    const int64_t count = cps_shard_count(shard);
    cps_shard_rows *longer = realloc(set->shards, (size_t)(set->shard_count + 1) * sizeof *longer);
    if (longer == NULL) {
        return cps_frozen_fail_memory(set);
    }
    set->shards = longer;
    int64_t *index = malloc((size_t)count * sizeof *index + 1);
    if (index == NULL) {
        return cps_frozen_fail_memory(set);
    }
    memset(index, 0xff, (size_t)count * sizeof *index);
    memmove(longer + at + 1, longer + at, (size_t)(set->shard_count - at) * sizeof *longer);
    longer[at] = (cps_shard_rows){shard, index};
    set->shard_count++;
    return CPS_OK;
}

/* A record that stands twice in a mixture keeps its first row; both hold the same numbers. */
static cps_status map_records(cps_frozen_set *set) {
    for (int64_t i = 0; i < set->records; i++) {
        cps_place place;
        cps_stream_stored(set->stream, i, &place);
        const int64_t at = find_shard(set, place.shard);
        if (at == set->shard_count || set->shards[at].shard != place.shard) {
            CPS_TRY(add_shard(set, place.shard, at));
        }
        int64_t *index = &set->shards[at].index[place.record];
        *index = *index < 0 ? i : *index;
    }
    return CPS_OK;
}

/* Row of a record, -1 if it is not in the stream. */
static int64_t row_of(const cps_frozen_set *set, const cps_shard *shard, int64_t record) {
    const int64_t at = find_shard(set, shard);
    return at < set->shard_count && set->shards[at].shard == shard ? set->shards[at].index[record]
                                                                   : -1;
}

static int64_t next_valid(const cps_frozen_set *set, const cps_shard_rows *shard, int64_t record) {
    const int64_t count = cps_shard_count(shard->shard);
    for (int64_t step = 1; step < count; step++) {
        const int64_t row = shard->index[(record + step) % count];
        if (row >= 0 && set->valid[row]) {
            return row;
        }
    }
    return -1;
}

static void find_stand_ins(cps_frozen_set *set) {
    for (int64_t i = 0; i < set->records; i++) {
        set->stand_in[i] = i;
        if (!set->valid[i]) {
            cps_place place;
            cps_stream_stored(set->stream, i, &place);
            set->stand_in[i] =
                next_valid(set, &set->shards[find_shard(set, place.shard)], place.record);
        }
    }
}

/* ---- computing ---- */

typedef struct encoder {
    cps_frozen_set *set;
    const cps_stage_plan *plan;
    const cps_frozen_options *options;
    cps_arena *arena;
    cps_tape *tape;
    cps_loader *loader;
    int32_t *ids, *offsets, *ends; /* text */
} encoder;

static void text_positions(encoder *e, const cps_batch *batch) {
    const cps_input_rows *rows = batch == NULL ? NULL : &batch->inputs[0];
    for (int64_t i = 0; i <= CPS_FROZEN_GRAIN; i++) {
        e->offsets[i] = rows == NULL ? (int32_t)(i * e->plan->context) : rows->offsets[i];
    }
    for (int64_t i = 0; i < CPS_FROZEN_GRAIN; i++) {
        e->ends[i] = rows == NULL ? e->offsets[i + 1] - 1 : e->offsets[i] + rows->ends[i];
    }
    if (rows != NULL) {
        memcpy(e->ids, rows->ids, (size_t)rows->offsets[CPS_FROZEN_GRAIN] * sizeof *e->ids);
    }
}

/* One grain through the tower; batch NULL: a plan, every text full. */
static cps_status forward(encoder *e, cps_tape *tape, const cps_batch *batch,
                          cps_tensor **rows_out) {
    const cps_stage_view *entry = e->set->entry;
    cps_tower_input input = {0};
    if (entry->text) {
        text_positions(e, batch);
        const int64_t shape[1] = {e->offsets[CPS_FROZEN_GRAIN]};
        input = (cps_tower_input){.ids = cps_tape_leaf(tape, CPS_I32, 1, shape, e->ids, NULL, -1),
                                  .count = CPS_FROZEN_GRAIN,
                                  .offsets = e->offsets,
                                  .ends = e->ends};
    } else {
        const int64_t shape[4] = {CPS_FROZEN_GRAIN, 3, entry->recipe.size, entry->recipe.size};
        input.image = cps_tape_tensor(tape, CPS_REAL, 4, shape);
        if (input.image != NULL && cps_tape_computes(tape)) {
            cps_batch_planes(e->loader, batch, 0, input.image->data);
        }
    }
    CPS_TRY(cps_tape_status(tape));
    cps_tower_output out = {0};
    CPS_TRY(cps_tower_forward(entry->tower, tape, &input, entry->view.outputs, &out));
    *rows_out = entry->view.outputs == CPS_POOLED      ? out.pooled
                : entry->view.outputs == CPS_PROJECTED ? out.projected
                                                       : out.feature;
    return cps_tape_status(tape);
}

static cps_status plan_bytes(encoder *e, size_t *bytes_out) {
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    cps_tensor *rows = NULL;
    cps_status status = cps_arena_create_counting("features", &arena);
    status =
        status != CPS_OK ? status : cps_tape_create(arena, CPS_TAPE_PLAN, e->plan->host, &tape);
    status = status != CPS_OK ? status : forward(e, tape, NULL, &rows);
    *bytes_out = arena == NULL ? 0 : cps_arena_high_water(arena);
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    return status;
}

static cps_status open_loader(encoder *e) {
    const cps_stage_view *entry = e->set->entry;
    const cps_loader_stream stream = {.stream = e->set->stream, .rows = CPS_FROZEN_GRAIN};
    const cps_input_spec input = {.kind = entry->text ? CPS_INPUT_TEXT : CPS_INPUT_IMAGE,
                                  .recipe = entry->recipe,
                                  .text_context = e->plan->context,
                                  .all_positions = entry->view.all_positions,
                                  .text_input = -1};
    const cps_loader_options options = {.order = CPS_ORDER_STORED,
                                        .streams = &stream,
                                        .stream_count = 1,
                                        .inputs = &input,
                                        .input_count = 1,
                                        .tokenizer = e->plan->tokenizer,
                                        .rank = cps_comm_rank(e->options->comm),
                                        .world_size = cps_comm_size(e->options->comm),
                                        .single_use = true,
                                        .threads = e->options->threads,
                                        .ahead = 2};
    CPS_TRY(cps_loader_create(&options, &e->loader));
    int64_t first = 0, last = 0;
    cps_loader_range(e->loader, 0, &first, &last);
    CPS_BUG_IF(first != e->set->first || last != e->set->last);
    return cps_loader_seek(e->loader, 0);
}

static cps_status open_encoder(encoder *e) {
    const size_t positions = (size_t)(CPS_FROZEN_GRAIN * e->plan->context);
    size_t bytes = 0;
    e->ids = calloc(positions + 1, sizeof *e->ids);
    e->offsets = calloc(CPS_FROZEN_GRAIN + 1, sizeof *e->offsets);
    e->ends = calloc(CPS_FROZEN_GRAIN, sizeof *e->ends);
    if (e->ids == NULL || e->offsets == NULL || e->ends == NULL) {
        return cps_frozen_fail_memory(e->set);
    }
    CPS_TRY(plan_bytes(e, &bytes));
    CPS_TRY(cps_arena_create("features", bytes, false, &e->arena));
    CPS_TRY(cps_tape_create(e->arena, CPS_TAPE_PLAIN, e->plan->host, &e->tape));
    return open_loader(e);
}

static void close_encoder(encoder *e) {
    cps_loader_destroy(e->loader);
    cps_tape_destroy(e->tape);
    cps_arena_destroy(e->arena);
    free(e->ids);
    free(e->offsets);
    free(e->ends);
}

static cps_status note_bad(const encoder *e, const cps_batch *batch) {
    for (int64_t i = 0; i < batch->bad_count && e->options->quarantine != NULL; i++) {
        const cps_bad_image *bad = &batch->bad[i];
        CPS_TRY(cps_quarantine_note(e->options->quarantine, cps_shard_path(bad->shard), bad->record,
                                    bad->sample_id, bad->reason));
    }
    return CPS_OK;
}

static cps_status compute_grain(encoder *e, int64_t grain) {
    cps_frozen_set *set = e->set;
    const cps_batch *batch = NULL;
    cps_tensor *rows = NULL;
    CPS_TRY(cps_loader_grain(e->loader, 0, grain, &batch));
    CPS_TRY(note_bad(e, batch));
    CPS_TRY(forward(e, e->tape, batch, &rows));
    const cps_real *from = rows->data;
    const int64_t count = cps_min_i64(CPS_FROZEN_GRAIN, set->records - grain * CPS_FROZEN_GRAIN);
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = grain * CPS_FROZEN_GRAIN + i;
        set->valid[row] = batch->streams[0].valid[i];
        if (set->valid[row] && !cps_all_finite(from + i * set->width, set->width)) {
            return cps_fail(CPS_ERR_DATA,
                            "tower '%s' gives features that are not finite for record %lld of "
                            "stream '%s': its weights are damaged",
                            set->entry->view.tower, (long long)row, cps_stream_name(set->stream));
        }
        if (set->valid[row]) {
            memcpy(set->values + row * set->width, from + i * set->width,
                   (size_t)set->width * sizeof(cps_real));
        }
    }
    set->computed += count;
    cps_tape_reset(e->tape);
    cps_watchdog_beat(e->options->comm);
    return CPS_OK;
}

/* The grains of this rank that no file held, a file for each run of them that is not too long. */
static cps_status compute_rest(encoder *e) {
    cps_frozen_set *set = e->set;
    int64_t begun = set->first;
    double start = cps_seconds();
    for (int64_t grain = set->first; grain < set->last; grain++) {
        if (set->covered[grain - set->first]) {
            begun = grain + 1;
            continue;
        }
        start = begun == grain ? cps_seconds() : start;
        CPS_TRY(compute_grain(e, grain));
        const bool ends = grain + 1 == set->last || set->covered[grain + 1 - set->first];
        if (ends || grain + 1 - begun == FILE_GRAINS || cps_seconds() - start > file_seconds) {
            cps_frozen_store(set, begun, grain + 1);
            begun = grain + 1;
        }
    }
    return CPS_OK;
}

static bool complete(const cps_frozen_set *set) {
    return memchr(set->covered, 0, (size_t)(set->last - set->first)) == NULL;
}

static cps_status fill_set(cps_frozen_set *set, const cps_stage_plan *plan,
                           const cps_frozen_options *options) {
    if (set->first == set->last) {
        return CPS_OK;
    }
    cps_frozen_load(set);
    if (complete(set)) {
        return CPS_OK;
    }
    encoder e = {.set = set, .plan = plan, .options = options};
    cps_status status = open_encoder(&e);
    status = status != CPS_OK ? status : compute_rest(&e);
    close_encoder(&e);
    return status;
}

/* ---- all ranks ---- */

/* Collective. All ranks get all rows. */
static void gather_rows(cps_frozen_set *set, cps_comm *comm, int64_t *bytes) {
    const int32_t size = cps_comm_size(comm);
    for (int32_t r = 0; r < size; r++) {
        bytes[r] =
            (cps_part_first(set->grains, size, r + 1) - cps_part_first(set->grains, size, r)) *
            CPS_FROZEN_GRAIN;
    }
    cps_comm_allgatherv_inplace(comm, "frozen features", set->valid, bytes);
    for (int32_t r = 0; r < size; r++) {
        bytes[r] *= set->width * (int64_t)sizeof(cps_real);
    }
    cps_comm_allgatherv_inplace(comm, "frozen features", set->values, bytes);
}

/* Collective: records that any rank computed, for the log. */
static int64_t count_computed(const cps_frozen_set *set, cps_comm *comm, int64_t *bytes,
                              int64_t *counts) {
    int64_t total = 0;
    for (int32_t r = 0; r < cps_comm_size(comm); r++) {
        bytes[r] = (int64_t)sizeof(int64_t);
    }
    cps_comm_allgatherv(comm, "frozen features", &set->computed, counts, bytes);
    for (int32_t r = 0; r < cps_comm_size(comm); r++) {
        total += counts[r];
    }
    return total;
}

static void report_set(const cps_frozen_set *set, int64_t computed, double seconds) {
    int64_t bad = 0;
    for (int64_t i = 0; i < set->records; i++) {
        bad += !set->valid[i];
    }
    cps_log(CPS_LOG_INFO,
            "features of view '%s' (tower '%s'): %lld records, %lld computed in %.1f s, the others "
            "were there; %lld without a readable image",
            set->entry->view.name, set->entry->view.tower, (long long)set->records,
            (long long)computed, seconds, (long long)bad);
}

/* Collective. */
static cps_status open_set(cps_frozen_set *set, const cps_stage_plan *plan,
                           const cps_frozen_options *options) {
    const double start = cps_seconds();
    const size_t size = (size_t)cps_comm_size(options->comm);
    int64_t *bytes = calloc(2 * size, sizeof *bytes);
    cps_status status =
        bytes == NULL ? cps_frozen_fail_memory(set) : allocate_set(set, options->comm);
    if (status == CPS_OK) {
        cps_frozen_key(set, plan);
        set->folder = cps_format("%s/%s", options->folder, set->key);
        status = map_records(set);
    }
    status = status != CPS_OK ? status : fill_set(set, plan, options);
    status = cps_agree(options->comm, "frozen features",
                       cps_fail_context(status, "features of view '%s'", set->entry->view.name));
    if (status == CPS_OK) {
        gather_rows(set, options->comm, bytes);
        find_stand_ins(set);
        report_set(set, count_computed(set, options->comm, bytes, bytes + size),
                   cps_seconds() - start);
    }
    free(bytes);
    return status;
}

cps_status cps_frozen_open(const cps_frozen_options *options, const cps_stage_plan *plan,
                           cps_frozen **frozen_out) {
    *frozen_out = NULL;
    if (cps_frozen_bytes(plan) == 0) {
        return CPS_OK;
    }
    cps_frozen *frozen = calloc(1, sizeof *frozen);
    CPS_TRY(cps_agree(options->comm, "frozen features",
                      frozen == NULL
                          ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for frozen features")
                          : CPS_OK));
    cps_status status = CPS_OK;
    for (int32_t v = 0; v < plan->view_count && status == CPS_OK; v++) {
        const cps_stage_view *entry = &plan->views[v];
        frozen->of_view[v] = -1;
        if (entry->view.mode != CPS_VIEW_FROZEN) {
            continue;
        }
        frozen->of_view[v] = frozen->count;
        cps_frozen_set *set = &frozen->sets[frozen->count++];
        *set = (cps_frozen_set){.view = v,
                                .entry = entry,
                                .stream = stream_of(plan, v),
                                .width = cps_output_width(entry->tower, entry->view.outputs)};
        set->records = cps_stream_records(set->stream);
        set->grains = cps_ceil_div(set->records, CPS_FROZEN_GRAIN);
        status = open_set(set, plan, options);
    }
    if (status != CPS_OK) {
        cps_frozen_close(frozen);
        return status;
    }
    *frozen_out = frozen;
    return CPS_OK;
}

/* ---- use ---- */

static const cps_frozen_set *set_of(const cps_frozen *frozen, int32_t view) {
    CPS_BUG_IF(view < 0 || view >= CPS_STAGE_VIEWS || frozen->of_view[view] < 0);
    return &frozen->sets[frozen->of_view[view]];
}

cps_frozen_rows cps_frozen_view(const cps_frozen *frozen, int32_t view) {
    const cps_frozen_set *set = set_of(frozen, view);
    return (cps_frozen_rows){set->stream, set->records, set->width, set->values, set->valid};
}

/* The image that the loader put in the place of a bad one, where another view reads images; its row
 * if that is here. */
static int64_t replaced_row(const cps_frozen_set *set, const cps_batch *batch, int64_t row) {
    for (int64_t b = 0; b < batch->bad_count; b++) {
        const cps_bad_image *bad = &batch->bad[b];
        if (bad->stream == set->entry->stream && bad->row == row && bad->replaced_by >= 0) {
            const int64_t found = row_of(set, bad->shard, bad->replaced_by);
            return found >= 0 && set->valid[found] ? found : -1;
        }
    }
    return -1;
}

cps_status cps_frozen_take(const cps_frozen *frozen, int32_t view, const cps_batch *batch,
                           cps_real *values_out) {
    const cps_frozen_set *set = set_of(frozen, view);
    const cps_stream_rows *rows = &batch->streams[set->entry->stream];
    for (int64_t i = 0; i < rows->rows; i++) {
        const cps_place *place = &rows->places[i];
        const int64_t own = row_of(set, place->shard, place->record);
        CPS_BUG_IF(own < 0);
        int64_t row = replaced_row(set, batch, i);
        row = row >= 0 ? row : set->stand_in[own];
        if (row < 0) {
            return cps_fail(CPS_ERR_DATA,
                            "shard '%s': none of its images in stream '%s' can be read, so record "
                            "%lld cannot be replaced ('copse verify' lists the reasons)",
                            cps_shard_path(place->shard), cps_stream_name(set->stream),
                            (long long)place->record);
        }
        memcpy(values_out + i * set->width, set->values + row * set->width,
               (size_t)set->width * sizeof(cps_real));
    }
    return CPS_OK;
}
