/* The grains that no file held are dealt evenly to the ranks, in runs. All work in rounds of some
 * seconds; at the end of a round they agree that nothing failed and pass each other the new rows,
 * so that no rank waits long for another and a failure is known soon. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "train/frozen_internal.h"
#include "train/loop.h"

enum { FILE_GRAINS = 256 };
static const double round_seconds = 5.0;
static const double file_seconds = 60.0; /* most work that a kill costs */
static const double talk_seconds = 30.0;

/* ---- one grain ---- */

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

/* Any grain may be asked for, in rising order. */
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
                                        .world_size = 1,
                                        .single_use = true,
                                        .threads = e->options->threads,
                                        .ahead = 2};
    CPS_TRY(cps_loader_create(&options, &e->loader));
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
    cps_tape_reset(e->tape);
    cps_watchdog_beat(e->options->comm);
    return CPS_OK;
}

/* ---- all grains ---- */

typedef struct dealing {
    encoder encoder;
    int64_t *todo; /* [count] grains, rising */
    int64_t count;
    int64_t *at, *end; /* [ranks] what is left of each rank's share of `todo` */
    int64_t *done;     /* [ranks] grains of this round */
    int64_t *bytes;
    int64_t begun; /* of this rank's share: not in a file yet */
    double begun_time;
} dealing;

static void close_dealing(dealing *d) {
    close_encoder(&d->encoder);
    free(d->todo);
    free(d->at);
}

/* The same on every rank, except for memory. */
static cps_status open_dealing(dealing *d) {
    const cps_frozen_set *set = d->encoder.set;
    const int32_t ranks = cps_comm_size(d->encoder.options->comm);
    const int32_t rank = cps_comm_rank(d->encoder.options->comm);
    d->todo = calloc((size_t)set->grains + 1, sizeof *d->todo);
    d->at = calloc(4 * (size_t)ranks, sizeof *d->at);
    if (d->todo == NULL || d->at == NULL) {
        return cps_frozen_fail_memory(set);
    }
    d->end = d->at + ranks;
    d->done = d->at + 2 * ranks;
    d->bytes = d->at + 3 * ranks;
    for (int64_t grain = 0; grain < set->grains; grain++) {
        if (!set->covered[grain]) {
            d->todo[d->count++] = grain;
        }
    }
    for (int32_t r = 0; r < ranks; r++) {
        d->at[r] = cps_part_first(d->count, ranks, r);
        d->end[r] = cps_part_first(d->count, ranks, r + 1);
    }
    d->begun = d->at[rank];
    return d->at[rank] < d->end[rank] ? open_encoder(&d->encoder) : CPS_OK;
}

/* Computes todo[i], and writes a file where a run of grains ends or is long enough. */
static cps_status compute_next(dealing *d, int64_t i, int64_t end) {
    if (d->begun == i) {
        d->begun_time = cps_seconds();
    }
    CPS_TRY(compute_grain(&d->encoder, d->todo[i]));
    const bool ends = i + 1 == end || d->todo[i + 1] != d->todo[i] + 1;
    if (ends || i + 1 - d->begun == FILE_GRAINS || cps_seconds() - d->begun_time > file_seconds) {
        cps_frozen_store(d->encoder.set, d->todo[d->begun], d->todo[i] + 1);
        d->begun = i + 1;
    }
    return CPS_OK;
}

/* Rows of todo[first .. last - 1] from rank `from` to all. Collective. */
static void pass_rows(const dealing *d, int32_t from, int64_t first, int64_t last) {
    cps_frozen_set *set = d->encoder.set;
    for (int64_t begin = first, end = first; begin < last; begin = end) {
        for (end = begin + 1; end < last && d->todo[end] == d->todo[end - 1] + 1;) {
            end++;
        }
        const int64_t row = d->todo[begin] * CPS_FROZEN_GRAIN;
        const size_t rows = (size_t)((end - begin) * CPS_FROZEN_GRAIN);
        cps_comm_broadcast(d->encoder.options->comm, "frozen features", set->valid + row, rows,
                           from);
        cps_comm_broadcast(d->encoder.options->comm, "frozen features",
                           set->values + row * set->width,
                           rows * (size_t)set->width * sizeof(cps_real), from);
    }
}

/* Ends a round. *left_out: grains that are still to be computed, by all ranks. Collective. */
static void share_round(dealing *d, int64_t own, int64_t *left_out) {
    cps_comm *comm = d->encoder.options->comm;
    const int32_t ranks = cps_comm_size(comm);
    for (int32_t r = 0; r < ranks; r++) {
        d->bytes[r] = (int64_t)sizeof own;
    }
    cps_comm_allgatherv(comm, "frozen features", &own, d->done, d->bytes);
    *left_out = 0;
    for (int32_t r = 0; r < ranks; r++) {
        pass_rows(d, r, d->at[r], d->at[r] + d->done[r]);
        d->at[r] += d->done[r];
        *left_out += d->end[r] - d->at[r];
    }
}

/* One round of this rank; *own_out grains were computed. */
static cps_status run_round(dealing *d, int64_t *own_out) {
    const cps_comm *comm = d->encoder.options->comm;
    const int32_t rank = cps_comm_rank(comm);
    const double start = cps_seconds();
    *own_out = 0;
    for (int64_t i = d->at[rank]; i < d->end[rank]; i++) {
        CPS_TRY(compute_next(d, i, d->end[rank]));
        ++*own_out;
        if (cps_fault_here(comm, "signal_features", i - d->at[rank])) {
            (void)raise(SIGUSR1);
        }
        if (cps_seconds() - start > round_seconds || cps_signal_seen()) {
            break;
        }
    }
    return CPS_OK;
}

static void talk(const dealing *d, int64_t left, double *last_time) {
    if (left > 0 && cps_seconds() - *last_time > talk_seconds) {
        *last_time = cps_seconds();
        cps_log(CPS_LOG_INFO, "features of view '%s': %lld of %lld records to go",
                d->encoder.set->entry->view.name, (long long)(left * CPS_FROZEN_GRAIN),
                (long long)d->encoder.set->records);
    }
}

/* Between rounds: what this rank has computed goes to a file. The stage has not begun, so that no
 * checkpoint is newer than the last one. */
static cps_status leave(dealing *d, int64_t left) {
    const cps_frozen_set *set = d->encoder.set;
    const int64_t end = d->at[cps_comm_rank(d->encoder.options->comm)];
    if (d->begun < end) {
        cps_frozen_store(set, d->todo[d->begun], d->todo[end - 1] + 1);
    }
    return cps_fail(CPS_ERR_SIGNAL,
                    "a signal asked to stop: the features of view '%s' are kept but for some %lld "
                    "records; start the same command again to go on",
                    set->entry->view.name, (long long)(left * CPS_FROZEN_GRAIN));
}

cps_status cps_frozen_compute(cps_frozen_set *set, const cps_stage_plan *plan,
                              const cps_frozen_options *options) {
    if (memchr(set->covered, 0, (size_t)set->grains) == NULL) {
        return CPS_OK; /* known to all ranks */
    }
    dealing d = {.encoder = {.set = set, .plan = plan, .options = options}};
    cps_status status = open_dealing(&d);
    double last_time = cps_seconds();
    int64_t own = 0, left = 1;
    while (left > 0) {
        status = status != CPS_OK ? status : run_round(&d, &own);
        status =
            cps_agree(options->comm, "frozen features",
                      cps_fail_context(status, "features of view '%s'", set->entry->view.name));
        if (status != CPS_OK) {
            break;
        }
        share_round(&d, own, &left);
        talk(&d, left, &last_time);
        if (cps_agree_any(options->comm, "frozen features", cps_signal_seen()) && left > 0) {
            status = leave(&d, left);
            break;
        }
    }
    for (int64_t i = 0; i < d.count; i++) {
        set->computed += cps_min_i64(CPS_FROZEN_GRAIN, set->records - d.todo[i] * CPS_FROZEN_GRAIN);
    }
    close_dealing(&d);
    return status;
}
