/* How gradients of parts meet. Copies of live nodes stand on a stack; a part that ends is merged
 * into what is below it as comm/canonical.h says. The last part of a maximal node is merged tensor
 * by tensor, through the whole chain of merges at once, and each message leaves when its last chunk
 * is there; additions are element by element, so this gives the bits of merging whole copies.
 *
 * Receives are posted at begin, so a send ends without its receiver having to wait for anything: a
 * rank that needs a copy back may wait for its sends alone. Messages between two ranks carry the
 * number of the bucket as tag; nodes follow in order, which MPI keeps for equal tags. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "train/update_internal.h"

int32_t cps_update_nodes(const cps_updater *updater, int64_t parts, int32_t rank,
                         cps_node_run runs_out[CPS_MAX_RUNS]) {
    const int64_t first = cps_part_first(parts, updater->layout.ranks, rank);
    const int64_t last = cps_part_first(parts, updater->layout.ranks, rank + 1);
    if (updater->world) {
        return cps_maximal_runs(parts, first, last, runs_out);
    }
    runs_out[0] = (cps_node_run){.first = first, .count = last - first};
    return last > first ? 1 : 0;
}

static void post_receives(cps_updater *updater, int32_t from, cps_real *row) {
    const cps_update_layout *layout = &updater->layout;
    for (int64_t b = layout->first_bucket[layout->rank]; b < layout->first_bucket[layout->rank + 1];
         b++) {
        const cps_update_bucket *bucket = &layout->buckets[b];
        cps_exchange_receive(updater->receives, from, bucket->tag,
                             row + (bucket->first - updater->slice_first),
                             (size_t)bucket->length * sizeof *row);
    }
}

static void list_nodes(cps_updater *updater) {
    const cps_update_layout *layout = &updater->layout;
    int64_t foreign = 0;
    updater->node_count = 0;
    for (int32_t r = 0; r < layout->ranks; r++) {
        cps_node_run runs[CPS_MAX_RUNS];
        const int32_t count = cps_update_nodes(updater, updater->parts, r, runs);
        CPS_BUG_IF(updater->node_count + count > updater->max_nodes);
        memcpy(updater->runs + updater->node_count, runs, (size_t)count * sizeof *runs);
        if (r == layout->rank) {
            updater->first_own_node = updater->node_count;
            updater->own_node_count = count;
        }
        for (int32_t n = updater->node_count; n < updater->node_count + count; n++) {
            updater->rows[n] = NULL; /* own ones as they come out of the stack */
            if (r != layout->rank) {
                updater->rows[n] = updater->received + foreign++ * updater->slice_length;
                post_receives(updater, r, updater->rows[n]);
            }
        }
        updater->node_count += count;
    }
}

void cps_updater_begin(cps_updater *updater, int64_t parts) {
    CPS_BUG_IF(parts < 1 || parts > updater->max_parts || updater->part >= 0);
    const cps_update_layout *layout = &updater->layout;
    updater->parts = parts;
    updater->first_part = cps_part_first(parts, layout->ranks, layout->rank);
    updater->last_part = cps_part_first(parts, layout->ranks, layout->rank + 1);
    updater->height = 0;
    updater->own_nodes_done = 0;
    updater->gradient = NULL;
    updater->maximal = false;
    atomic_store(&updater->bad_tensor, layout->tensor_count);
    for (int32_t i = 0; i < updater->copy_count; i++) {
        updater->copies[i].live = false;
        updater->copies[i].sent = 0;
    }
    list_nodes(updater);
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* A copy that nobody uses, or the one that was sent first, once it has arrived. */
static int32_t take_copy(cps_updater *updater) {
    int32_t oldest = -1;
    for (int32_t i = 0; i < updater->copy_count; i++) {
        const cps_update_copy *copy = &updater->copies[i];
        if (!copy->live && copy->sent == 0) {
            return i;
        }
        if (!copy->live && (oldest < 0 || copy->sent < updater->copies[oldest].sent)) {
            oldest = i;
        }
    }
    CPS_BUG_IF(oldest < 0);
    cps_update_copy *copy = &updater->copies[oldest];
    if (copy->sends != NULL) {
        const double start = cps_seconds();
        cps_exchange_finish(copy->sends);
        updater->wait_seconds += cps_seconds() - start;
    }
    copy->sent = 0;
    return oldest;
}

static cps_real *node_data(const cps_updater *updater, int32_t level) {
    return updater->copies[updater->stack[level]].data;
}

static void begin_last_part(cps_updater *updater) {
    const cps_update_layout *layout = &updater->layout;
    for (int32_t t = 0; t < layout->tensor_count; t++) {
        layout->tensors[t].done = false;
    }
    for (int64_t b = 0; b < layout->bucket_count; b++) {
        cps_update_bucket *bucket = &layout->buckets[b];
        bucket->waits = bucket->last_chunk - bucket->first_chunk;
    }
}

void cps_updater_part_begin(cps_updater *updater, int64_t part) {
    CPS_BUG_IF(updater->part >= 0 || part < updater->first_part || part >= updater->last_part);
    updater->part = part;
    const bool goes_on = !updater->world && part > updater->first_part; /* adds to the same copy */
    if (!goes_on) {
        const int32_t copy = take_copy(updater);
        updater->copies[copy].live = true;
        updater->stack[updater->height++] = copy;
    }
    if (updater->world) {
        updater->merges = cps_merges_after(updater->parts, updater->first_part, updater->last_part,
                                           part, &updater->maximal);
    } else {
        updater->merges = 0;
        updater->maximal = part + 1 == updater->last_part;
    }
    if (updater->maximal) {
        begin_last_part(updater);
    }
    cps_real *data = node_data(updater, updater->height - 1);
    for (int32_t t = 0; t < updater->layout.tensor_count; t++) {
        const cps_update_tensor *tensor = &updater->layout.tensors[t];
        tensor->param->tensor.grad = data + tensor->at;
        if (!goes_on) {
            tensor->param->tensor.grad_fresh = true;
        }
    }
}

bool cps_updater_wants_leaves(const cps_updater *updater) {
    return updater->layout.ranks > 1 && updater->part >= 0 && updater->maximal;
}

/* ---- merging --------------------------------------------------------------------------------- */

typedef struct merge_work {
    cps_updater *updater;
    int64_t first_chunk;
} merge_work;

static void add_to(cps_real *restrict left, const cps_real *restrict right, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        left[i] += right[i];
    }
}

static void note_bad(cps_updater *updater, int32_t tensor) {
    int32_t seen = atomic_load(&updater->bad_tensor);
    while (tensor < seen && !atomic_compare_exchange_weak(&updater->bad_tensor, &seen, tensor)) {
    }
}

/* One chunk of the part in work through all of its merges. A tensor to which the part gave nothing
 * is zero. */
static void merge_chunk(void *context, int64_t i) {
    const merge_work *work = context;
    cps_updater *updater = work->updater;
    const cps_update_chunk *chunk = &updater->layout.chunks[work->first_chunk + i];
    int32_t level = updater->height - 1;
    cps_real *node = node_data(updater, level) + chunk->at;
    const cps_update_tensor *tensor = &updater->layout.tensors[chunk->tensor];
    if (tensor->param->tensor.grad_fresh) {
        memset(node, 0, (size_t)chunk->count * sizeof *node);
    }
    for (int32_t merge = 0; merge < updater->merges; merge++) {
        cps_real *left = node_data(updater, --level) + chunk->at;
        add_to(left, node, chunk->count);
        node = left;
    }
    if (updater->maximal && !tensor->held && !cps_all_finite(node, chunk->count)) {
        note_bad(updater, chunk->tensor);
    }
}

static void merge_chunks(cps_updater *updater, int64_t first, int64_t last) {
    merge_work work = {.updater = updater, .first_chunk = first};
    cps_parallel(last - first, merge_chunk, &work);
}

/* ---- sending --------------------------------------------------------------------------------- */

static void send_bucket(cps_updater *updater, const cps_update_bucket *bucket) {
    if (bucket->owner == updater->layout.rank) {
        return;
    }
    const cps_update_copy *copy = &updater->copies[updater->stack[0]];
    cps_exchange_send(copy->sends, bucket->owner, bucket->tag, copy->data + bucket->first,
                      (size_t)bucket->length * sizeof *copy->data);
}

/* Counts chunks [first, last) off the messages that hold them. */
static void count_off(cps_updater *updater, int64_t first, int64_t last) {
    const cps_update_layout *layout = &updater->layout;
    int64_t low = 0, high = layout->bucket_count - 1; /* the bucket that holds `first` */
    while (low < high) {
        const int64_t middle = low + (high - low + 1) / 2;
        if (layout->buckets[middle].first_chunk <= first) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    for (int64_t b = low; b < layout->bucket_count && first < last; b++) {
        cps_update_bucket *bucket = &layout->buckets[b];
        const int64_t end = cps_min_i64(last, bucket->last_chunk);
        bucket->waits -= end - first;
        first = end;
        if (bucket->waits == 0) {
            send_bucket(updater, bucket);
        }
    }
}

/* Tensors [first, last) of a maximal node are complete. */
static void finish_tensors(cps_updater *updater, int32_t first, int32_t last) {
    cps_update_tensor *tensors = updater->layout.tensors;
    const int64_t from = tensors[first].first_chunk, to = tensors[last - 1].last_chunk;
    merge_chunks(updater, from, to);
    for (int32_t t = first; t < last; t++) {
        tensors[t].done = true;
        tensors[t].param->tensor.grad_fresh = false;
    }
    if (updater->layout.ranks > 1) {
        count_off(updater, from, to);
    }
}

void cps_updater_leaf_done(cps_updater *updater, int32_t index) {
    const cps_update_layout *layout = &updater->layout;
    if (!cps_updater_wants_leaves(updater) || index < 0 || index >= layout->param_count) {
        return;
    }
    const int32_t t = layout->tensor_of[index];
    if (t >= 0 && !layout->tensors[t].done) {
        finish_tensors(updater, t, t + 1);
        cps_updater_poll(updater);
    }
}

void cps_updater_poll(cps_updater *updater) {
    cps_exchange_poll(updater->receives);
    for (int32_t i = 0; i < updater->copy_count && updater->layout.ranks > 1; i++) {
        cps_exchange_poll(updater->copies[i].sends);
    }
    cps_update_poll_weights(updater);
}

/* ---- the end of a part ----------------------------------------------------------------------- */

static void pop(cps_updater *updater, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        updater->copies[updater->stack[--updater->height]].live = false;
    }
}

/* The node stays in its copy until the step's end where no further part needs the copy; else its
 * own slice moves out of the way of later parts. */
static void end_node(cps_updater *updater) {
    pop(updater, updater->height - 1);
    cps_update_copy *copy = &updater->copies[updater->stack[0]];
    const int64_t node = updater->own_nodes_done++;
    cps_real *row = copy->data + updater->slice_first;
    if (node + 1 < updater->own_node_count) {
        CPS_BUG_IF(node + 1 >= updater->max_own_nodes);
        cps_real *kept = updater->kept + node * updater->slice_length;
        memcpy(kept, row, (size_t)updater->slice_length * sizeof *row);
        row = kept;
    }
    updater->rows[updater->first_own_node + node] = row;
    copy->sent = updater->own_nodes_done;
    copy->live = false;
    updater->height = 0;
}

static void end_maximal(cps_updater *updater) {
    const cps_update_layout *layout = &updater->layout;
    for (int32_t first = 0; first < layout->tensor_count;) {
        int32_t last = first;
        while (last < layout->tensor_count && !layout->tensors[last].done) {
            last++;
        }
        if (last > first) {
            finish_tensors(updater, first, last);
        }
        first = last + 1;
    }
    end_node(updater);
}

static void end_inner(cps_updater *updater) {
    merge_chunks(updater, 0, updater->layout.chunk_count);
    for (int32_t t = 0; t < updater->layout.tensor_count; t++) {
        updater->layout.tensors[t].param->tensor.grad_fresh = false;
    }
    pop(updater, updater->merges);
}

void cps_updater_part_end(cps_updater *updater, int64_t part) {
    CPS_BUG_IF(updater->part != part);
    if (updater->maximal) {
        end_maximal(updater);
    } else if (updater->world) {
        end_inner(updater);
    }
    updater->part = -1;
    updater->maximal = false;
    cps_updater_poll(updater);
}

/* ---- the end of the exchange ----------------------------------------------------------------- */

typedef struct run_work {
    const cps_updater *updater;
} run_work;

/* Reproducibility "run": ranks one after another. */
static void add_ranks(void *context, int64_t block) {
    const run_work *work = context;
    const cps_updater *updater = work->updater;
    const int64_t first = block * CPS_CHUNK;
    const int64_t count = cps_min_i64(CPS_CHUNK, updater->slice_length - first);
    for (int32_t n = 1; n < updater->node_count; n++) {
        add_to(updater->rows[0] + first, updater->rows[n] + first, count);
    }
}

void cps_update_collect(cps_updater *updater) {
    CPS_BUG_IF(updater->part >= 0 || updater->own_nodes_done != updater->own_node_count);
    const double start = cps_seconds();
    cps_exchange_finish(updater->receives);
    for (int32_t i = 0; i < updater->copy_count && updater->layout.ranks > 1; i++) {
        cps_exchange_finish(updater->copies[i].sends);
    }
    updater->wait_seconds += cps_seconds() - start;
    if (updater->world) {
        cps_tree_finish_real(updater->parts, updater->runs, updater->node_count, updater->rows,
                             updater->slice_length);
    } else {
        run_work work = {.updater = updater};
        cps_parallel(cps_ceil_div(updater->slice_length, CPS_CHUNK), add_ranks, &work);
    }
    updater->gradient = updater->rows[0];
}
