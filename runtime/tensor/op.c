/* Helpers of the operations: see op.h. */
#include "tensor/op.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/numeric.h"

/* ---- shapes
 * ----------------------------------------------------------------------------------------------------------------
 */
int64_t cps_count_of(const cps_tensor *tensor) {
    int64_t count = 1;
    for (int32_t d = 0; d < tensor->rank; d++) {
        count *= tensor->shape[d];
    }
    return count;
}

int64_t cps_columns_of(const cps_tensor *tensor) {
    return tensor->rank == 0 ? 1 : tensor->shape[tensor->rank - 1];
}

int64_t cps_rows_of(const cps_tensor *tensor) {
    int64_t rows = 1;
    for (int32_t d = 0; d + 1 < tensor->rank; d++) {
        rows *= tensor->shape[d];
    }
    return rows;
}

int64_t cps_first_of(const cps_tensor *tensor) {
    return tensor->rank == 0 ? 1 : tensor->shape[0];
}

bool cps_same_shape(const cps_tensor *a, const cps_tensor *b) {
    if (a->rank != b->rank) {
        return false;
    }
    for (int32_t d = 0; d < a->rank; d++) {
        if (a->shape[d] != b->shape[d]) {
            return false;
        }
    }
    return true;
}

const cps_real *cps_values(const cps_tensor *tensor) {
    return tensor->data;
}

cps_real *cps_values_out(cps_tensor *tensor) {
    return tensor->data;
}

cps_shape_text cps_show_shape(const cps_tensor *tensor) {
    cps_shape_text shown = {"["};
    size_t used = 1;
    for (int32_t d = 0; d < tensor->rank; d++) {
        used += (size_t)snprintf(shown.text + used, sizeof shown.text - used,
                                 d == 0 ? "%lld" : ", %lld", (long long)tensor->shape[d]);
    }
    snprintf(shown.text + used, sizeof shown.text - used, "]");
    return shown;
}

/* ---- checks
 * ----------------------------------------------------------------------------------------------------------------
 */
bool cps_op_ready(cps_tape *tape, const char *name, int32_t count, cps_tensor *const *operands) {
    if (cps_tape_status(tape) != CPS_OK) {
        return false;
    }
    for (int32_t i = 0; i < count; i++) {
        if (operands[i] == NULL) {
            cps_tape_fail(tape, CPS_ERR_USAGE,
                          "%s: operand %d is NULL; it was never computed, or an output that was "
                          "not asked for is used",
                          name, (int)i + 1);
            return false;
        }
    }
    return true;
}

bool cps_op_dtype(cps_tape *tape, const char *name, const char *operand, const cps_tensor *tensor,
                  cps_dtype dtype) {
    static const char *const names[] = {"real", "f64", "i32", "i64", "u8"};
    if (tensor->dtype == dtype) {
        return true;
    }
    cps_tape_fail(tape, CPS_ERR_USAGE, "%s: %s has elements of type %s; %s is wanted", name,
                  operand, names[tensor->dtype], names[dtype]);
    return false;
}

bool cps_op_offsets(cps_tape *tape, const char *name, int64_t count, const int32_t *offsets,
                    int64_t rows) {
    bool right = count >= 0 && (count == 0 ? rows == 0 : offsets != NULL);
    if (right && count > 0) {
        right = offsets[0] == 0 && offsets[count] == rows;
        for (int64_t i = 0; i < count && right; i++) {
            right = offsets[i] <= offsets[i + 1];
        }
    }
    if (!right) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "%s: the offsets of %lld sequences must rise from 0 to the number of rows, "
                      "%lld, and do not",
                      name, (long long)count, (long long)rows);
    }
    return right;
}

cps_tensor *cps_result_like(cps_tape *tape, const cps_tensor *like, int64_t columns) {
    int64_t shape[CPS_MAX_DIMS];
    memcpy(shape, like->shape, sizeof shape);
    if (like->rank > 0) {
        shape[like->rank - 1] = columns;
    }
    cps_tensor *result = cps_tape_tensor(tape, CPS_REAL, like->rank, shape);
    if (result != NULL) {
        result->layout = like->layout;
    }
    return result;
}

/* ---- pieces
 * ----------------------------------------------------------------------------------------------------------------
 */
typedef struct range_work {
    int64_t n, piece;
    cps_range_body body;
    void *context;
} range_work;

static void range_piece(void *context, int64_t index) {
    const range_work *work = context;
    const int64_t first = index * work->piece;
    work->body(work->context, first, cps_min_i64(first + work->piece, work->n));
}

void cps_parallel_range(int64_t n, int64_t piece, cps_range_body body, void *context) {
    if (n <= 0) {
        return;
    }
    range_work work = {.n = n, .piece = piece, .body = body, .context = context};
    cps_parallel(cps_ceil_div(n, piece), range_piece, &work);
}

void cps_parallel_rows(int64_t rows, int64_t columns, cps_range_body body, void *context) {
    cps_parallel_range(rows, cps_max_i64(1, CPS_PIECE / cps_max_i64(columns, 1)), body, context);
}

typedef struct put_work {
    const cps_real *from;
    cps_real *to;
} put_work;

static void zero_piece(void *context, int64_t first, int64_t last) {
    memset((cps_real *)context + first, 0, (size_t)(last - first) * sizeof(cps_real));
}

static void copy_piece(void *context, int64_t first, int64_t last) {
    const put_work *work = context;
    memcpy(work->to + first, work->from + first, (size_t)(last - first) * sizeof(cps_real));
}

static void add_piece(void *context, int64_t first, int64_t last) {
    const put_work *work = context;
    cps_kernels_get()->add(last - first, work->to + first, work->from + first, work->to + first);
}

void cps_fill_zero(int64_t count, cps_real *values) {
    cps_parallel_range(count, 4 * CPS_PIECE, zero_piece, values);
}

void cps_copy(int64_t count, const cps_real *from, cps_real *to) {
    put_work work = {.from = from, .to = to};
    cps_parallel_range(count, CPS_PIECE, copy_piece, &work);
}

void cps_put(int64_t count, const cps_real *from, bool fresh, cps_real *to) {
    put_work work = {.from = from, .to = to};
    cps_parallel_range(count, CPS_PIECE, fresh ? copy_piece : add_piece, &work);
}

/* ---- column sums
 * -----------------------------------------------------------------------------------------------------------
 */
typedef struct sums_work {
    int64_t rows, columns, stride, blocks;
    const cps_real *x;
    cps_real *partial;
    bool fresh;
    cps_real *sums;
} sums_work;

int64_t cps_sum_blocks(int64_t rows) {
    return cps_ceil_div(rows, CPS_SUM_ROWS);
}

static void sums_block(void *context, int64_t first, int64_t last) {
    const sums_work *work = context;
    cps_real *partial = work->partial + first / CPS_SUM_ROWS * work->columns;
    memcpy(partial, work->x + first * work->stride, (size_t)work->columns * sizeof *partial);
    for (int64_t row = first + 1; row < last; row++) {
        cps_kernels_get()->add(work->columns, partial, work->x + row * work->stride, partial);
    }
}

static void sums_finish(void *context, int64_t first, int64_t last) {
    const sums_work *work = context;
    enum { STRIP = 256 };
    for (int64_t from = first; from < last; from += STRIP) {
        const int64_t width = cps_min_i64(STRIP, last - from);
        double total[STRIP] = {0};
        for (int64_t block = 0; block < work->blocks; block++) {
            const cps_real *partial = work->partial + block * work->columns + from;
            for (int64_t j = 0; j < width; j++) {
                total[j] += (double)partial[j];
            }
        }
        for (int64_t j = 0; j < width; j++) {
            const cps_real sum = (cps_real)total[j];
            work->sums[from + j] = work->fresh ? sum : work->sums[from + j] + sum;
        }
    }
}

void cps_sum_partials(int64_t blocks, int64_t columns, const cps_real *partial, bool fresh,
                      cps_real *sums) {
    sums_work work = {.columns = columns,
                      .blocks = blocks,
                      .partial = (cps_real *)(uintptr_t)partial,
                      .fresh = fresh,
                      .sums = sums};
    cps_parallel_range(columns, 256, sums_finish, &work);
}

void cps_column_sums(int64_t rows, int64_t columns, int64_t stride, const cps_real *x,
                     cps_real *partial, bool fresh, cps_real *sums) {
    sums_work work = {
        .rows = rows, .columns = columns, .stride = stride, .x = x, .partial = partial};
    cps_parallel_range(rows, CPS_SUM_ROWS, sums_block, &work);
    cps_sum_partials(cps_sum_blocks(rows), columns, partial, fresh, sums);
}

/* ---- slots
 * -----------------------------------------------------------------------------------------------------------------
 */
int64_t cps_slots_count(void) {
    return cps_min_i64(cps_pool_threads(), CPS_MAX_SLOTS);
}

cps_real *cps_slot_take(cps_slots *slots, int32_t *slot_out) {
    for (int32_t slot = 0;; slot = (slot + 1) % slots->count) {
        const uint64_t bit = (uint64_t)1 << (slot % 64);
        if ((atomic_fetch_or(&slots->taken[slot / 64], bit) & bit) == 0) {
            *slot_out = slot;
            return slots->base + slot * slots->stride;
        }
    }
}

void cps_slot_give(cps_slots *slots, int32_t slot) {
    atomic_fetch_and(&slots->taken[slot / 64], ~((uint64_t)1 << (slot % 64)));
}
