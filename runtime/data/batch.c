/* The ring of grains and the threads that fill it. Grains are opened in the order in which the
 * caller will ask for them, as soon as a slot is free; rows of the grain opened last are handed out
 * one by one. Everything that is shared moves under one lock; the work on a row runs without it. */
#include "data/batch_internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "base/pool.h"

/* ---- handing out rows (under the lock) ---------------------------------------------------- */

static cps_slot *slot_of(const cps_loader *loader, int64_t number) {
    return &loader->slots[number % loader->slot_count];
}

/* Moves next_step and next_grain to a grain of this rank; false when the stage has no more of them.
 */
static bool find_next_grain(cps_loader *loader) {
    for (int64_t tried = 0; tried <= loader->epoch_steps; tried++) {
        int64_t first = 0, last = 0;
        if (loader->steps > 0 && loader->next_step >= loader->steps) {
            return false;
        }
        cps_loader_range(loader, loader->next_step, &first, &last);
        loader->next_grain = cps_max_i64(loader->next_grain, first);
        if (loader->next_grain < last) {
            return true;
        }
        loader->next_step++;
        loader->next_grain = 0;
    }
    return false;
}

static void open_slot(cps_loader *loader, cps_slot *slot) {
    const cps_loader_options *options = &loader->options;
    const int64_t rows = options->streams[0].rows;
    slot->data_step = loader->next_step;
    slot->grain = loader->next_grain++;
    slot->clock_rows = rows;
    slot->padded = 0;
    if (options->order == CPS_ORDER_STORED) {
        slot->padded = cps_max_i64((slot->grain + 1) * rows - loader->records, 0);
    } else {
        slot->clock_rows = cps_grain_rows(loader->records, options->grains, rows,
                                          options->keep_tail, slot->data_step, slot->grain);
    }
    slot->left = 0;
    for (int32_t s = 0; s < options->stream_count; s++) {
        slot->left += cps_slot_rows(loader, slot, s);
    }
    slot->failure = CPS_OK;
    slot->complete = false;
}

typedef struct row_task {
    cps_slot *slot;
    int64_t number; /* of the row over all streams of the grain */
    int32_t stream;
    int64_t row;
} row_task;

static int64_t all_rows(const cps_loader *loader, const cps_slot *slot) {
    int64_t rows = 0;
    for (int32_t s = 0; s < loader->options.stream_count; s++) {
        rows += cps_slot_rows(loader, slot, s);
    }
    return rows;
}

/* Passes over what the caller has left out: the rest of the open grain, and grains not opened yet.
 */
static bool skip_freed(cps_loader *loader) {
    if (loader->open_row >= 0 && loader->opened <= loader->freed) {
        cps_slot *slot = slot_of(loader, loader->opened - 1);
        slot->left -= all_rows(loader, slot) - loader->open_row;
        loader->open_row = -1;
    }
    for (; loader->opened < loader->freed; loader->opened++) {
        if (!find_next_grain(loader)) {
            return false;
        }
        loader->next_grain++;
    }
    return true;
}

/* Opens the next grain if its slot is free. */
static bool open_next(cps_loader *loader) {
    if (loader->opened - loader->freed >= loader->slot_count || !find_next_grain(loader) ||
        slot_of(loader, loader->opened)->left > 0) { /* left out, but rows are still worked on */
        return false;
    }
    open_slot(loader, slot_of(loader, loader->opened++));
    loader->open_row = 0;
    return true;
}

/* The next row to work on; false if there is none now. */
static bool take_row(cps_loader *loader, row_task *task) {
    if (!loader->sought || loader->ending || !skip_freed(loader) ||
        (loader->open_row < 0 && !open_next(loader))) {
        return false;
    }
    cps_slot *slot = slot_of(loader, loader->opened - 1);
    *task = (row_task){.slot = slot, .number = loader->open_row, .row = loader->open_row};
    while (task->row >= cps_slot_rows(loader, slot, task->stream)) {
        task->row -= cps_slot_rows(loader, slot, task->stream++);
    }
    loader->open_row = loader->open_row + 1 < all_rows(loader, slot) ? loader->open_row + 1 : -1;
    loader->in_flight++;
    return true;
}

/* Works on a row outside the lock, which is held before and after. */
static void do_row(cps_worker *worker, const row_task *task) {
    cps_loader *loader = worker->loader;
    pthread_mutex_unlock(&loader->lock);
    const cps_status status = cps_row_work(worker, task->slot, task->stream, task->row);
    pthread_mutex_lock(&loader->lock);
    cps_slot *slot = task->slot;
    if (status != CPS_OK && (slot->failure == CPS_OK || task->number < slot->failed_row)) {
        slot->failure = status;
        slot->failed_row = task->number;
        snprintf(slot->message, sizeof slot->message, "%s", cps_fail_message());
    }
    slot->left--;
    loader->in_flight--;
    if (slot->left == 0 || loader->in_flight == 0) {
        pthread_cond_broadcast(&loader->row_done);
        pthread_cond_broadcast(&loader->work_there);
    }
}

static void *run_worker(void *context) {
    cps_worker *worker = context;
    cps_loader *loader = worker->loader;
    pthread_mutex_lock(&loader->lock);
    while (!loader->ending) {
        row_task task;
        if (take_row(loader, &task)) {
            do_row(worker, &task);
        } else {
            pthread_cond_wait(&loader->work_there, &loader->lock);
        }
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

/* ---- creation ----------------------------------------------------------------------------- */

static cps_status start_threads(cps_loader *loader) {
    sigset_t all, before;
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = 0;
    while (failed == 0 && loader->started < loader->options.threads) {
        cps_worker *worker = &loader->workers[loader->started];
        failed = pthread_create(&worker->thread, NULL, run_worker, worker);
        loader->started += failed == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed == 0
               ? CPS_OK
               : cps_fail(CPS_ERR_UNAVAILABLE, "loader thread %d of %d could not be started: %s",
                          loader->started + 1, loader->options.threads, strerror(failed));
}

static void *copy_of(const void *items, int32_t count, size_t item_bytes) {
    void *copy = calloc((size_t)count + 1, item_bytes);
    if (copy != NULL && count > 0) {
        memcpy(copy, items, (size_t)count * item_bytes);
    }
    return copy;
}

static cps_status fill_loader(cps_loader *loader, const cps_loader_options *options) {
    size_t bytes = 0;
    CPS_TRY(cps_loader_bytes(options, &bytes));
    CPS_TRY(cps_loader_plan(options, loader));
    loader->owns_options = true;
    loader->options.streams =
        copy_of(options->streams, options->stream_count, sizeof *options->streams);
    loader->options.inputs =
        copy_of(options->inputs, options->input_count, sizeof *options->inputs);
    if (loader->options.streams == NULL || loader->options.inputs == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for the loader");
    }
    CPS_TRY(cps_arena_create("loader", bytes, false, &loader->memory));
    CPS_TRY(cps_loader_layout(loader));
    return start_threads(loader);
}

cps_status cps_loader_create(const cps_loader_options *options, cps_loader **loader_out) {
    cps_loader *loader = calloc(1, sizeof *loader);
    if (loader == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for the loader");
    }
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->work_there, NULL);
    pthread_cond_init(&loader->row_done, NULL);
    loader->open_row = -1;
    const cps_status status = fill_loader(loader, options);
    if (status != CPS_OK) {
        cps_loader_destroy(loader);
        return status;
    }
    *loader_out = loader;
    return CPS_OK;
}

void cps_loader_destroy(cps_loader *loader) {
    if (loader == NULL) {
        return;
    }
    pthread_mutex_lock(&loader->lock);
    loader->ending = true;
    pthread_cond_broadcast(&loader->work_there);
    pthread_mutex_unlock(&loader->lock);
    for (int32_t i = 0; i < loader->started; i++) {
        pthread_join(loader->workers[i].thread, NULL);
    }
    for (int32_t w = 0; loader->workers != NULL && w <= loader->options.threads; w++) {
        for (int32_t i = 0; loader->workers[w].texts != NULL && i < loader->options.input_count;
             i++) {
            cps_text_free(&loader->workers[w].texts[i]);
        }
    }
    cps_arena_destroy(loader->memory);
    if (loader->owns_options) {
        free((void *)(uintptr_t)loader->options.streams);
        free((void *)(uintptr_t)loader->options.inputs);
    }
    pthread_cond_destroy(&loader->work_there);
    pthread_cond_destroy(&loader->row_done);
    pthread_mutex_destroy(&loader->lock);
    free(loader);
}

/* ---- the caller's side -------------------------------------------------------------------- */

static int64_t grains_of_rank(const cps_loader *loader, int64_t data_step) {
    int64_t first = 0, last = 0;
    cps_loader_range(loader, data_step, &first, &last);
    return last - first;
}

cps_status cps_loader_seek(cps_loader *loader, int64_t data_step) {
    if (data_step < 0 || (loader->steps > 0 && data_step > loader->steps)) {
        return cps_fail(CPS_ERR_USAGE, "a loader of %lld steps cannot go to step %lld",
                        (long long)loader->steps, (long long)data_step);
    }
    pthread_mutex_lock(&loader->lock);
    loader->sought = false;
    while (loader->in_flight > 0) {
        pthread_cond_wait(&loader->row_done, &loader->lock);
    }
    loader->next_step = loader->current_step = data_step;
    loader->next_grain = 0;
    loader->opened = loader->freed = loader->current_opened = 0;
    loader->open_row = -1;
    for (int64_t i = 0; i < loader->slot_count; i++) {
        loader->slots[i].left = 0;
    }
    loader->sought = true;
    pthread_cond_broadcast(&loader->work_there);
    pthread_mutex_unlock(&loader->lock);
    return CPS_OK;
}

/* Slots of grains in front of number `until` become free. */
static void free_slots(cps_loader *loader, int64_t until) {
    if (until > loader->freed) {
        loader->freed = until;
        pthread_cond_broadcast(&loader->work_there);
    }
}

static void release_up_to(cps_loader *loader, int64_t data_step) {
    while (loader->current_step < data_step) {
        loader->current_opened += grains_of_rank(loader, loader->current_step);
        loader->current_step++;
    }
    free_slots(loader, loader->current_opened);
}

void cps_loader_release_step(cps_loader *loader, int64_t data_step) {
    pthread_mutex_lock(&loader->lock);
    release_up_to(loader, data_step + 1);
    pthread_mutex_unlock(&loader->lock);
}

/* Waits until grain `number` is complete, working on rows meanwhile; under the lock. */
static cps_slot *wait_for(cps_loader *loader, int64_t number) {
    cps_worker *own = &loader->workers[loader->options.threads];
    for (;;) {
        if (number < loader->opened && slot_of(loader, number)->left == 0) {
            return slot_of(loader, number);
        }
        row_task task;
        if (take_row(loader, &task)) {
            do_row(own, &task);
        } else {
            pthread_cond_wait(&loader->row_done, &loader->lock);
        }
    }
}

static cps_status check_request(const cps_loader *loader, int64_t data_step, int64_t grain) {
    int64_t first = 0, last = 0;
    if (!loader->sought || data_step < loader->current_step ||
        (loader->steps > 0 && data_step >= loader->steps)) {
        return cps_fail(
            CPS_ERR_INTERNAL, "the loader was asked for step %lld; it stands at step %lld of %lld",
            (long long)data_step, (long long)loader->current_step, (long long)loader->steps);
    }
    cps_loader_range(loader, data_step, &first, &last);
    if (grain < first || grain >= last) {
        return cps_fail(
            CPS_ERR_INTERNAL,
            "the loader of rank %lld was asked for grain %lld, its own are %lld to %lld",
            (long long)loader->options.rank, (long long)grain, (long long)first,
            (long long)last - 1);
    }
    return CPS_OK;
}

cps_status cps_loader_grain(cps_loader *loader, int64_t data_step, int64_t grain,
                            const cps_batch **batch_out) {
    CPS_TRY(check_request(loader, data_step, grain));
    int64_t first = 0, last = 0;
    cps_loader_range(loader, data_step, &first, &last);
    const double begin = cps_seconds();
    pthread_mutex_lock(&loader->lock);
    release_up_to(loader, data_step);
    const int64_t number = loader->current_opened + grain - first;
    const bool gone = number < loader->freed;
    cps_slot *slot = NULL;
    if (!gone) {
        if (loader->options.single_use || loader->options.order == CPS_ORDER_STORED) {
            free_slots(loader, number);
        }
        slot = wait_for(loader, number);
    }
    pthread_mutex_unlock(&loader->lock);
    loader->wait_seconds += cps_seconds() - begin;
    if (gone) {
        return cps_fail(CPS_ERR_INTERNAL,
                        "grain %lld of step %lld was asked for again, but this loader forgets "
                        "them (single use)",
                        (long long)grain, (long long)data_step);
    }
    if (slot->failure != CPS_OK) {
        return cps_fail(slot->failure, "%s", slot->message);
    }
    if (!slot->complete) {
        cps_slot_complete(loader, slot);
    }
    *batch_out = &slot->batch;
    return CPS_OK;
}

double cps_loader_wait_seconds(const cps_loader *loader) {
    return loader->wait_seconds;
}

/* ---- planes ------------------------------------------------------------------------------- */

typedef struct plane_job {
    const cps_recipe *recipe;
    const uint8_t *pixels;
    cps_real *planes;
} plane_job;

static void write_planes(void *context, int64_t row) {
    const plane_job *job = context;
    const size_t area = (size_t)job->recipe->size * (size_t)job->recipe->size * 3;
    const cps_image image = {.width = job->recipe->size,
                             .height = job->recipe->size,
                             .pixels = (uint8_t *)(uintptr_t)(job->pixels + (size_t)row * area)};
    cps_image_normalize(&image, false, job->recipe->mean, job->recipe->std,
                        job->planes + (size_t)row * area);
}

void cps_batch_planes(const cps_loader *loader, const cps_batch *batch, int32_t input,
                      cps_real *planes_out) {
    plane_job job = {.recipe = &loader->options.inputs[input].recipe,
                     .pixels = batch->inputs[input].pixels,
                     .planes = planes_out};
    cps_parallel(batch->inputs[input].rows, write_planes, &job);
}
