/* Every rank holds all rows of a view: its own run of whole grains it reads from cache files, the
 * runs are gathered in place, and what no file held is computed (frozen_compute.c). Rows are found
 * again by (shard, record) through tables of the stream's shards. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "train/frozen_internal.h"

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
    set->covered = calloc((size_t)set->grains + 1, 1);
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

/* ---- all ranks ---- */

/* Collective. All ranks get what files held. */
static void gather_rows(cps_frozen_set *set, cps_comm *comm, int64_t *bytes) {
    const int32_t size = cps_comm_size(comm);
    for (int32_t r = 0; r < size; r++) {
        bytes[r] = cps_part_first(set->grains, size, r + 1) - cps_part_first(set->grains, size, r);
    }
    cps_comm_allgatherv_inplace(comm, "frozen features", set->covered, bytes);
    for (int32_t r = 0; r < size; r++) {
        bytes[r] *= CPS_FROZEN_GRAIN;
    }
    cps_comm_allgatherv_inplace(comm, "frozen features", set->valid, bytes);
    for (int32_t r = 0; r < size; r++) {
        bytes[r] *= set->width * (int64_t)sizeof(cps_real);
    }
    cps_comm_allgatherv_inplace(comm, "frozen features", set->values, bytes);
}

static void report_set(const cps_frozen_set *set, double seconds) {
    int64_t bad = 0;
    for (int64_t i = 0; i < set->records; i++) {
        bad += !set->valid[i];
    }
    cps_log(CPS_LOG_INFO,
            "features of view '%s' (tower '%s'): %lld records, %lld computed in %.1f s, the others "
            "were there; %lld without a readable image",
            set->entry->view.name, set->entry->view.tower, (long long)set->records,
            (long long)set->computed, seconds, (long long)bad);
}

/* Up to what files hold of this rank's run of grains. Local. */
static cps_status begin_set(cps_frozen_set *set, const cps_stage_plan *plan,
                            const cps_frozen_options *options) {
    CPS_TRY(allocate_set(set, options->comm));
    cps_frozen_key(set, plan);
    set->folder = cps_format("%s/%s", options->folder, set->key);
    CPS_TRY(map_records(set));
    cps_frozen_load(set);
    return CPS_OK;
}

/* Collective. */
static cps_status open_set(cps_frozen_set *set, const cps_stage_plan *plan,
                           const cps_frozen_options *options) {
    const double start = cps_seconds();
    int64_t *bytes = calloc((size_t)cps_comm_size(options->comm), sizeof *bytes);
    cps_status status = bytes == NULL ? cps_frozen_fail_memory(set) : begin_set(set, plan, options);
    status = cps_agree(options->comm, "frozen features",
                       cps_fail_context(status, "features of view '%s'", set->entry->view.name));
    if (status == CPS_OK) {
        gather_rows(set, options->comm, bytes);
        status = cps_frozen_compute(set, plan, options);
    }
    if (status == CPS_OK) {
        find_stand_ins(set);
        report_set(set, cps_seconds() - start);
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

/* The row that stands for row `row` of the batch; -1: none can. */
static int64_t row_for(const cps_frozen_set *set, const cps_batch *batch, int64_t row) {
    const cps_place *place = &batch->streams[set->entry->stream].places[row];
    const int64_t own = row_of(set, place->shard, place->record);
    CPS_BUG_IF(own < 0);
    const int64_t found = replaced_row(set, batch, row);
    return found >= 0 ? found : set->stand_in[own];
}

cps_status cps_frozen_take(const cps_frozen *frozen, int32_t view, const cps_batch *batch,
                           cps_real *values_out) {
    const cps_frozen_set *set = set_of(frozen, view);
    const cps_stream_rows *rows = &batch->streams[set->entry->stream];
    for (int64_t i = 0; i < rows->rows; i++) {
        const cps_place *place = &rows->places[i];
        const int64_t row = row_for(set, batch, i);
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

uint64_t cps_frozen_sample_id(const cps_frozen *frozen, int32_t view, const cps_batch *batch,
                              int64_t row) {
    const cps_frozen_set *set = set_of(frozen, view);
    const int64_t found = row_for(set, batch, row);
    if (found < 0) {
        return batch->streams[set->entry->stream].sample_ids[row];
    }
    cps_place place;
    cps_stream_stored(set->stream, found, &place);
    return place.sample_id;
}
