/* Token rows from a table and positions; rows of a table resampled by a constant matrix. The
 * table's gradient is a scatter: rows are sorted by id (equal ids in row order) and each id's rows
 * are added in that order by one task, so that the bits do not depend on threads. */
#include "tensor/ops.h"

#include <string.h>

#include "base/numeric.h"
#include "tensor/op.h"

typedef struct embed_saved {
    int64_t count;
    const int32_t *offsets;
} embed_saved;

typedef struct embed_work {
    int64_t count, width;
    const int32_t *offsets, *ids;
    const cps_real *table, *positions, *dy;
    cps_real *y;
} embed_work;

static void embed_sequences(void *context, int64_t first, int64_t last) {
    const embed_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    for (int64_t sequence = first; sequence < last; sequence++) {
        for (int64_t row = w->offsets[sequence]; row < w->offsets[sequence + 1]; row++) {
            kernels->add(w->width, w->table + w->ids[row] * w->width,
                         w->positions + (row - w->offsets[sequence]) * w->width,
                         w->y + row * w->width);
        }
    }
}

/* ---- sorting
 * ---------------------------------------------------------------------------------------------------------------
 */
/* Merges runs of `width` from `from` into `to`. */
static void merge_runs(int64_t n, int64_t width, const int64_t *from, int64_t *to) {
    for (int64_t start = 0; start < n; start += 2 * width) {
        const int64_t middle = cps_min_i64(start + width, n),
                      end = cps_min_i64(start + 2 * width, n);
        int64_t a = start, b = middle;
        for (int64_t at = start; at < end; at++) {
            const bool left = a < middle && (b >= end || from[a] <= from[b]);
            to[at] = left ? from[a++] : from[b++];
        }
    }
}

/* Sorts keys; other is scratch of the same size. Returns the array that holds the result. */
static const int64_t *sort_keys(int64_t n, int64_t *keys, int64_t *other) {
    for (int64_t width = 1; width < n; width *= 2) {
        merge_runs(n, width, keys, other);
        int64_t *swap = keys;
        keys = other;
        other = swap;
    }
    return keys;
}

/* ---- backward
 * --------------------------------------------------------------------------------------------------------------
 */
typedef struct scatter_work {
    int64_t rows, width;
    const int64_t *keys; /* id << 32 | row, sorted */
    const cps_real *dy;
    cps_real *d_table;
} scatter_work;

/* Groups of equal ids that begin at keys [first, last), each to its end. */
static void scatter_piece(void *context, int64_t first, int64_t last) {
    const scatter_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    int64_t at = first;
    while (at < last && at > 0 && w->keys[at] >> 32 == w->keys[at - 1] >> 32) {
        at++;
    }
    while (at < last) {
        const int64_t id = w->keys[at] >> 32;
        cps_real *target = w->d_table + id * w->width;
        for (; at < w->rows && w->keys[at] >> 32 == id; at++) {
            kernels->add(w->width, target, w->dy + (w->keys[at] & INT32_MAX) * w->width, target);
        }
    }
}

typedef struct position_work {
    const embed_work *embed;
    cps_real *target;
    bool fresh;
} position_work;

/* One position: the sum over sequences that reach it, in order. */
static void sum_position(void *context, int64_t position) {
    const position_work *p = context;
    const embed_work *w = p->embed;
    cps_real *target = p->target + position * w->width;
    if (p->fresh) {
        memset(target, 0, (size_t)w->width * sizeof *target);
    }
    for (int64_t sequence = 0; sequence < w->count; sequence++) {
        const int64_t row = w->offsets[sequence] + position;
        if (row < w->offsets[sequence + 1]) {
            cps_kernels_get()->add(w->width, target, w->dy + row * w->width, target);
        }
    }
}

static size_t key_bytes(int64_t rows) {
    return (size_t)rows * sizeof(int64_t);
}

static cps_status embed_backward(cps_tape *tape, const cps_node *node) {
    const embed_saved *saved = node->saved;
    const cps_tensor *ids = node->inputs[0];
    cps_tensor *table = node->inputs[1], *positions = node->inputs[2];
    const int64_t rows = ids->shape[0], width = table->shape[1];
    const int32_t *id = ids->data;
    const embed_work work = {.count = saved->count,
                             .width = width,
                             .offsets = saved->offsets,
                             .dy = cps_node_grad(node->outputs[0])};
    int64_t *keys = cps_tape_save(tape, key_bytes(rows));
    int64_t *other = cps_tape_save(tape, key_bytes(rows));
    if (cps_tape_status(tape) != CPS_OK) {
        return cps_tape_status(tape);
    }
    bool fresh;
    cps_real *d_table = cps_grad_target(tape, table, &fresh);
    if (d_table != NULL) {
        if (fresh) {
            cps_fill_zero(cps_count_of(table), d_table);
        }
        for (int64_t row = 0; row < rows; row++) {
            keys[row] = (int64_t)id[row] << 32 | row;
        }
        scatter_work scatter = {.rows = rows,
                                .width = width,
                                .keys = sort_keys(rows, keys, other),
                                .dy = work.dy,
                                .d_table = d_table};
        cps_parallel_range(rows, CPS_SUM_ROWS, scatter_piece, &scatter);
    }
    cps_real *d_positions = cps_grad_target(tape, positions, &fresh);
    if (d_positions != NULL) {
        position_work position = {.embed = &work, .target = d_positions, .fresh = fresh};
        cps_parallel(positions->shape[0], sum_position, &position);
    }
    return CPS_OK;
}

/* ---- forward
 * ---------------------------------------------------------------------------------------------------------------
 */
static bool embed_operands_fit(cps_tape *tape, const cps_tensor *ids, int64_t count,
                               const int32_t *offsets, const cps_tensor *table,
                               const cps_tensor *positions) {
    if (!cps_op_dtype(tape, "embed_tokens", "ids", ids, CPS_I32) ||
        !cps_op_dtype(tape, "embed_tokens", "table", table, CPS_REAL) ||
        !cps_op_dtype(tape, "embed_tokens", "positions", positions, CPS_REAL)) {
        return false;
    }
    if (ids->rank != 1 || table->rank != 2 || positions->rank != 2 ||
        positions->shape[1] != table->shape[1] || ids->shape[0] > INT32_MAX) {
        cps_tape_fail(
            tape, CPS_ERR_USAGE,
            "embed_tokens: ids %s, table %s, positions %s; [rows], [V, C] and [T, C] are wanted",
            cps_show_shape(ids).text, cps_show_shape(table).text, cps_show_shape(positions).text);
        return false;
    }
    if (!cps_op_offsets(tape, "embed_tokens", count, offsets, ids->shape[0])) {
        return false;
    }
    for (int64_t i = 0; i < count; i++) {
        if (offsets[i + 1] - offsets[i] > positions->shape[0]) {
            cps_tape_fail(tape, CPS_ERR_USAGE,
                          "embed_tokens: sequence %lld has %lld tokens; there are %lld positions",
                          (long long)i, (long long)(offsets[i + 1] - offsets[i]),
                          (long long)positions->shape[0]);
            return false;
        }
    }
    return true;
}

static bool ids_in_table(cps_tape *tape, const cps_tensor *ids, int64_t vocabulary) {
    const int32_t *id = ids->data;
    for (int64_t row = 0; row < ids->shape[0]; row++) {
        if (id[row] < 0 || id[row] >= vocabulary) {
            cps_tape_fail(tape, CPS_ERR_DATA,
                          "embed_tokens: token id %d at row %lld; the table has %lld rows: "
                          "tokenizer and text tower "
                          "must have the same vocabulary",
                          (int)id[row], (long long)row, (long long)vocabulary);
            return false;
        }
    }
    return true;
}

cps_tensor *cps_embed_tokens(cps_tape *tape, cps_tensor *ids, int64_t count, const int32_t *offsets,
                             cps_tensor *table, cps_tensor *positions) {
    cps_tensor *const operands[] = {ids, table, positions};
    if (!cps_op_ready(tape, "embed_tokens", 3, operands) ||
        !embed_operands_fit(tape, ids, count, offsets, table, positions) ||
        (cps_tape_computes(tape) && !ids_in_table(tape, ids, table->shape[0]))) {
        return NULL;
    }
    const int64_t shape[2] = {ids->shape[0], table->shape[1]};
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 2, shape);
    if (y == NULL) {
        return NULL;
    }
    y->layout = ids->layout;
    embed_saved *saved =
        cps_tape_will_record(tape, 3, operands) ? cps_tape_save(tape, sizeof *saved) : NULL;
    const size_t bytes = (key_bytes(shape[0]) + CPS_ALIGNMENT - 1) & ~(size_t)(CPS_ALIGNMENT - 1);
    const cps_node node = {.backward = embed_backward,
                           .name = "embed_tokens",
                           .output_count = 1,
                           .input_count = 3,
                           .outputs = {y},
                           .inputs = {ids, table, positions},
                           .saved = saved,
                           .scratch_bytes = 2 * bytes};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        if (saved != NULL) {
            *saved = (embed_saved){.count = count, .offsets = offsets};
        }
        embed_work work = {.count = count,
                           .width = shape[1],
                           .offsets = offsets,
                           .ids = ids->data,
                           .table = cps_values(table),
                           .positions = cps_values(positions),
                           .y = cps_values_out(y)};
        cps_parallel_range(count, 1, embed_sequences, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

/* ---- resampled rows
 * --------------------------------------------------------------------------------------------------------
 */
typedef struct resample_saved {
    const double *map;
} resample_saved;

typedef struct resample_work {
    int64_t rows_out, rows_in, width;
    const double *map;
    const cps_real *from;
    cps_real *to;
    bool transposed, fresh;
} resample_work;

/* One row of to = map from, or of to (+)= map^T from. Sums in double. */
static void resample_row(void *context, int64_t row) {
    const resample_work *w = context;
    enum { STRIP = 256 };
    const int64_t terms = w->transposed ? w->rows_out : w->rows_in;
    for (int64_t from = 0; from < w->width; from += STRIP) {
        const int64_t width = cps_min_i64(STRIP, w->width - from);
        double total[STRIP] = {0};
        for (int64_t t = 0; t < terms; t++) {
            const double factor =
                w->transposed ? w->map[t * w->rows_in + row] : w->map[row * w->rows_in + t];
            for (int64_t j = 0; j < width; j++) {
                total[j] += factor * (double)w->from[t * w->width + from + j];
            }
        }
        for (int64_t j = 0; j < width; j++) {
            cps_real *to = w->to + row * w->width + from + j;
            *to = w->fresh ? (cps_real)total[j] : *to + (cps_real)total[j];
        }
    }
}

static cps_status resample_backward(cps_tape *tape, const cps_node *node) {
    const resample_saved *saved = node->saved;
    const cps_tensor *y = node->outputs[0];
    cps_tensor *table = node->inputs[0];
    resample_work work = {.rows_out = y->shape[0],
                          .rows_in = table->shape[0],
                          .width = y->shape[1],
                          .map = saved->map,
                          .from = cps_node_grad(y),
                          .transposed = true};
    work.to = cps_grad_target(tape, table, &work.fresh);
    cps_parallel(work.rows_in, resample_row, &work);
    return CPS_OK;
}

cps_tensor *cps_resample_rows(cps_tape *tape, cps_tensor *table, int64_t rows_out,
                              const double *map) {
    if (!cps_op_ready(tape, "resample_rows", 1, &table) ||
        !cps_op_dtype(tape, "resample_rows", "table", table, CPS_REAL)) {
        return NULL;
    }
    if (table->rank != 2 || table->layout != NULL) {
        return cps_tape_fail(
            tape, CPS_ERR_USAGE,
            "resample_rows: a whole table [rows, width] is wanted, this one is %s%s",
            cps_show_shape(table).text, table->layout != NULL ? " spread over ranks" : "");
    }
    const int64_t shape[2] = {rows_out, table->shape[1]};
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 2, shape);
    if (y == NULL) {
        return NULL;
    }
    resample_saved *saved =
        cps_tape_will_record(tape, 1, &table) ? cps_tape_save(tape, sizeof *saved) : NULL;
    const cps_node node = {.backward = resample_backward,
                           .name = "resample_rows",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {table},
                           .saved = saved};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        if (saved != NULL) {
            saved->map = map;
        }
        resample_work work = {.rows_out = rows_out,
                              .rows_in = table->shape[0],
                              .width = shape[1],
                              .map = map,
                              .from = cps_values(table),
                              .to = cps_values_out(y),
                              .fresh = true};
        cps_parallel(rows_out, resample_row, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
