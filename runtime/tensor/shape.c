/* Operations that move elements and compute nothing: views, slices, concatenation, gathering of
 * rows, constants. All are runs of rows of a matrix [rows, width] copied to runs of another. */
#include "tensor/ops.h"

#include <string.h>

#include "base/numeric.h"
#include "tensor/op.h"

/* rows stretches of `width` elements: to[row * to_stride] (+)= from[row * from_stride]. With an
 * index the rows of `from` are picked. */
typedef struct move_work {
    int64_t width, from_stride, to_stride;
    const cps_real *from;
    cps_real *to;
    const int32_t *index;
    bool fresh;
} move_work;

static void move_rows(void *context, int64_t first, int64_t last) {
    const move_work *w = context;
    for (int64_t row = first; row < last; row++) {
        const cps_real *from =
            w->from + (w->index != NULL ? (int64_t)w->index[row] : row) * w->from_stride;
        cps_real *to = w->to + row * w->to_stride;
        if (w->fresh) {
            memcpy(to, from, (size_t)w->width * sizeof *to);
        } else {
            cps_kernels_get()->add(w->width, to, from, to);
        }
    }
}

static void move(int64_t rows, int64_t width, const cps_real *from, int64_t from_stride, bool fresh,
                 cps_real *to, int64_t to_stride) {
    move_work work = {.width = width,
                      .from_stride = from_stride,
                      .to_stride = to_stride,
                      .from = from,
                      .to = to,
                      .fresh = fresh};
    cps_parallel_rows(rows, width, move_rows, &work);
}

/* ---- views
 * ------------------------------------------------------------------------------------------------------------------
 */
cps_tensor *cps_reshape(cps_tape *tape, cps_tensor *x, int32_t rank, const int64_t *shape) {
    if (!cps_op_ready(tape, "reshape", 1, &x)) {
        return NULL;
    }
    cps_tensor *y = cps_tape_view(tape, x->dtype, rank, shape, x->data);
    if (y == NULL) {
        return NULL;
    }
    if (cps_count_of(y) != cps_count_of(x)) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "reshape: %s to %s changes the number of elements",
                             cps_show_shape(x).text, cps_show_shape(y).text);
    }
    y->layout = cps_first_of(y) == cps_first_of(x) ? x->layout : NULL;
    const cps_node node = {
        .name = "reshape", .output_count = 1, .input_count = 1, .outputs = {y}, .inputs = {x}};
    cps_tape_record_with(tape, &node, CPS_PASS_0);
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

cps_tensor *cps_stop_gradient(cps_tape *tape, cps_tensor *x) {
    if (!cps_op_ready(tape, "stop_gradient", 1, &x)) {
        return NULL;
    }
    cps_tensor *y = cps_tape_view(tape, x->dtype, x->rank, x->shape, x->data);
    if (y != NULL) {
        y->layout = x->layout;
    }
    return y;
}

cps_tensor *cps_constant(cps_tape *tape, cps_dtype dtype, int32_t rank, const int64_t *shape,
                         const void *values) {
    cps_tensor *y = cps_tape_tensor(tape, dtype, rank, shape);
    if (y != NULL && cps_tape_computes(tape) && cps_count_of(y) > 0) {
        memcpy(y->data, values, (size_t)cps_count_of(y) * cps_dtype_bytes(dtype));
    }
    return y;
}

/* ---- transpose
 * --------------------------------------------------------------------------------------------------------------
 */
enum { TRANSPOSE_TILE = 32 };

typedef struct transpose_work {
    int64_t rows, columns; /* of `to` */
    const cps_real *from;  /* [columns, rows] */
    cps_real *to;
    bool fresh;
} transpose_work;

static void transpose_strip(void *context, int64_t first, int64_t last) {
    const transpose_work *w = context;
    for (int64_t column = 0; column < w->columns; column += TRANSPOSE_TILE) {
        const int64_t column_end = cps_min_i64(column + TRANSPOSE_TILE, w->columns);
        for (int64_t i = first; i < last; i++) {
            for (int64_t j = column; j < column_end; j++) {
                const cps_real value = w->from[j * w->rows + i];
                cps_real *to = w->to + i * w->columns + j;
                *to = w->fresh ? value : *to + value;
            }
        }
    }
}

static cps_status transpose_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *x = node->inputs[0];
    transpose_work work = {
        .rows = x->shape[0], .columns = x->shape[1], .from = cps_node_grad(node->outputs[0])};
    work.to = cps_grad_target(tape, x, &work.fresh);
    cps_parallel_range(work.rows, TRANSPOSE_TILE, transpose_strip, &work);
    return CPS_OK;
}

cps_tensor *cps_transpose(cps_tape *tape, cps_tensor *x) {
    if (!cps_op_ready(tape, "transpose", 1, &x) ||
        !cps_op_dtype(tape, "transpose", "x", x, CPS_REAL)) {
        return NULL;
    }
    if (x->rank != 2) {
        return cps_tape_fail(tape, CPS_ERR_USAGE, "transpose: x %s; a matrix is wanted",
                             cps_show_shape(x).text);
    }
    const int64_t shape[2] = {x->shape[1], x->shape[0]};
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 2, shape);
    if (y == NULL) {
        return NULL;
    }
    const cps_node node = {.backward = transpose_backward,
                           .name = "transpose",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x}};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        transpose_work work = {.rows = shape[0],
                               .columns = shape[1],
                               .from = cps_values(x),
                               .to = cps_values_out(y),
                               .fresh = true};
        cps_parallel_range(work.rows, TRANSPOSE_TILE, transpose_strip, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

/* ---- slices
 * -----------------------------------------------------------------------------------------------------------------
 */
/* A slice is columns [first, first + columns) of x seen as [rows, width]. */
typedef struct slice_saved {
    int64_t rows, width, first, columns;
} slice_saved;

static cps_status slice_backward(cps_tape *tape, const cps_node *node) {
    const slice_saved *s = node->saved;
    bool fresh;
    cps_real *target = cps_grad_target(tape, node->inputs[0], &fresh);
    if (fresh) {
        cps_fill_zero(s->rows * s->width, target);
    }
    move(s->rows, s->columns, cps_node_grad(node->outputs[0]), s->columns, fresh, target + s->first,
         s->width);
    return CPS_OK;
}

static cps_tensor *slice(cps_tape *tape, const char *name, cps_tensor *x, cps_tensor *y,
                         const slice_saved *shape) {
    if (y == NULL) {
        return NULL;
    }
    slice_saved *saved =
        cps_tape_will_record(tape, 1, &x) ? cps_tape_save(tape, sizeof *saved) : NULL;
    const cps_node node = {.backward = slice_backward,
                           .name = name,
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x},
                           .saved = saved};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        if (saved != NULL) {
            *saved = *shape;
        }
        move(shape->rows, shape->columns, cps_values(x) + shape->first, shape->width, true,
             cps_values_out(y), shape->columns);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

static bool slice_fits(cps_tape *tape, const char *name, const cps_tensor *x, int64_t extent,
                       int64_t first, int64_t count) {
    if (!cps_op_dtype(tape, name, "x", x, CPS_REAL)) {
        return false;
    }
    if (x->rank < 1 || first < 0 || count < 0 || first > extent || count > extent - first) {
        cps_tape_fail(tape, CPS_ERR_USAGE, "%s: %lld from %lld on do not lie inside x %s", name,
                      (long long)count, (long long)first, cps_show_shape(x).text);
        return false;
    }
    return true;
}

cps_tensor *cps_slice_rows(cps_tape *tape, cps_tensor *x, int64_t first, int64_t rows) {
    if (!cps_op_ready(tape, "slice_rows", 1, &x) ||
        !slice_fits(tape, "slice_rows", x, cps_first_of(x), first, rows)) {
        return NULL;
    }
    int64_t shape[CPS_MAX_DIMS], inner = 1;
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = rows;
    for (int32_t d = 1; d < x->rank; d++) {
        inner *= shape[d];
    }
    const slice_saved s = {
        .rows = 1, .width = x->shape[0] * inner, .first = first * inner, .columns = rows * inner};
    return slice(tape, "slice_rows", x, cps_tape_tensor(tape, CPS_REAL, x->rank, shape), &s);
}

cps_tensor *cps_slice_columns(cps_tape *tape, cps_tensor *x, int64_t first, int64_t columns) {
    if (!cps_op_ready(tape, "slice_columns", 1, &x) ||
        !slice_fits(tape, "slice_columns", x, cps_columns_of(x), first, columns)) {
        return NULL;
    }
    const slice_saved s = {
        .rows = cps_rows_of(x), .width = cps_columns_of(x), .first = first, .columns = columns};
    cps_tensor *y = cps_result_like(tape, x, columns);
    if (y != NULL && x->rank == 1) {
        y->layout = NULL; /* its columns are its rows */
    }
    return slice(tape, "slice_columns", x, y, &s);
}

/* ---- concatenation
 * ----------------------------------------------------------------------------------------------------------
 */
/* Parts as blocks of columns of a result [rows, width]. */
typedef struct concat_saved {
    int64_t rows, width;
    int64_t columns[CPS_NODE_MAX];
} concat_saved;

static cps_status concat_backward(cps_tape *tape, const cps_node *node) {
    const concat_saved *s = node->saved;
    const cps_real *dy = cps_node_grad(node->outputs[0]);
    for (int32_t i = 0; i < node->input_count; i++) {
        bool fresh;
        cps_real *target = cps_grad_target(tape, node->inputs[i], &fresh);
        if (target != NULL) {
            move(s->rows, s->columns[i], dy, s->width, fresh, target, s->columns[i]);
        }
        dy += s->columns[i];
    }
    return CPS_OK;
}

/* by_rows: along the first dimension, else along the last. The other dimensions must be equal. */
static bool parts_fit(cps_tape *tape, const char *name, int32_t count, cps_tensor *const *parts,
                      bool by_rows) {
    if (count < 1 || count >= CPS_NODE_MAX) {
        cps_tape_fail(tape, CPS_ERR_USAGE, "%s: %d parts; 1 to %d are possible", name, (int)count,
                      (int)CPS_NODE_MAX - 1);
        return false;
    }
    if (!cps_op_ready(tape, name, count, parts)) {
        return false;
    }
    const cps_tensor *head = parts[0];
    for (int32_t i = 0; i < count; i++) {
        bool fits = parts[i]->rank == head->rank && head->rank >= 1;
        for (int32_t d = 0; fits && d < head->rank; d++) {
            fits = d == (by_rows ? 0 : head->rank - 1) || parts[i]->shape[d] == head->shape[d];
        }
        if (!fits) {
            cps_tape_fail(tape, CPS_ERR_USAGE,
                          "%s: part %d is %s beside %s; only the %s dimension may differ", name,
                          (int)i + 1, cps_show_shape(parts[i]).text, cps_show_shape(head).text,
                          by_rows ? "first" : "last");
        }
        if (!fits || !cps_op_dtype(tape, name, "a part", parts[i], CPS_REAL)) {
            return false;
        }
    }
    return true;
}

static cps_tensor *concat(cps_tape *tape, const char *name, int32_t count, cps_tensor *const *parts,
                          bool by_rows) {
    if (!parts_fit(tape, name, count, parts, by_rows)) {
        return NULL;
    }
    concat_saved s = {.rows = by_rows ? 1 : cps_rows_of(parts[0])};
    int64_t shape[CPS_MAX_DIMS];
    memcpy(shape, parts[0]->shape, sizeof shape);
    int64_t *grown = &shape[by_rows ? 0 : parts[0]->rank - 1];
    *grown = 0;
    cps_node node = {
        .backward = concat_backward, .name = name, .output_count = 1, .input_count = count};
    for (int32_t i = 0; i < count; i++) {
        node.inputs[i] = parts[i];
        s.columns[i] = by_rows ? cps_count_of(parts[i]) : cps_columns_of(parts[i]);
        s.width += s.columns[i];
        *grown += by_rows ? parts[i]->shape[0] : s.columns[i];
    }
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, parts[0]->rank, shape);
    if (y == NULL) {
        return NULL;
    }
    y->layout = by_rows || parts[0]->rank == 1 ? NULL : parts[0]->layout;
    concat_saved *saved =
        cps_tape_will_record(tape, count, parts) ? cps_tape_save(tape, sizeof *saved) : NULL;
    node.outputs[0] = y;
    node.saved = saved;
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        if (saved != NULL) {
            *saved = s;
        }
        cps_real *to = cps_values_out(y);
        for (int32_t i = 0; i < count; i++) {
            move(s.rows, s.columns[i], cps_values(parts[i]), s.columns[i], true, to, s.width);
            to += s.columns[i];
        }
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

cps_tensor *cps_concat_rows(cps_tape *tape, int32_t count, cps_tensor *const *parts) {
    return concat(tape, "concat_rows", count, parts, true);
}

cps_tensor *cps_concat_columns(cps_tape *tape, int32_t count, cps_tensor *const *parts) {
    return concat(tape, "concat_columns", count, parts, false);
}

/* ---- picked rows
 * ------------------------------------------------------------------------------------------------------------
 */
typedef struct take_saved {
    const int32_t *index;
} take_saved;

typedef struct take_work {
    int64_t count, width, inner;
    const int32_t *index;
    const cps_real *dy;
    cps_real *to;
} take_work;

/* Adds to columns [first, last) of every picked row, in order: an index may repeat. */
static void untake_columns(void *context, int64_t first, int64_t last) {
    const take_work *w = context;
    for (int64_t i = 0; i < w->count; i++) {
        cps_real *to = w->to + w->index[i] * w->width + first;
        cps_kernels_get()->add(last - first, to, w->dy + i * w->width + first, to);
    }
}

static cps_status take_backward(cps_tape *tape, const cps_node *node) {
    const take_saved *saved = node->saved;
    const cps_tensor *y = node->outputs[0];
    cps_tensor *x = node->inputs[0];
    bool fresh;
    take_work work = {.count = y->shape[0],
                      .width = x->shape[0] == 0 ? 0 : cps_count_of(x) / x->shape[0],
                      .index = saved->index,
                      .dy = cps_node_grad(y)};
    work.to = cps_grad_target(tape, x, &fresh);
    if (fresh) {
        cps_fill_zero(cps_count_of(x), work.to);
    }
    cps_parallel_range(work.width, 256, untake_columns, &work);
    return CPS_OK;
}

static bool index_fits(cps_tape *tape, const cps_tensor *x, int64_t count, const int32_t *index) {
    if (!cps_op_dtype(tape, "take_rows", "x", x, CPS_REAL)) {
        return false;
    }
    if (x->rank < 1) {
        cps_tape_fail(tape, CPS_ERR_USAGE, "take_rows: a scalar has no rows");
        return false;
    }
    for (int64_t i = 0; i < count; i++) {
        if (index[i] < 0 || index[i] >= x->shape[0]) {
            cps_tape_fail(tape, CPS_ERR_USAGE,
                          "take_rows: index %lld is %d; x %s has rows 0 to %lld", (long long)i,
                          (int)index[i], cps_show_shape(x).text, (long long)x->shape[0] - 1);
            return false;
        }
    }
    return true;
}

cps_tensor *cps_take_rows(cps_tape *tape, cps_tensor *x, int64_t count, const int32_t *index) {
    if (!cps_op_ready(tape, "take_rows", 1, &x) || !index_fits(tape, x, count, index)) {
        return NULL;
    }
    int64_t shape[CPS_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = count;
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, x->rank, shape);
    if (y == NULL) {
        return NULL;
    }
    take_saved *saved =
        cps_tape_will_record(tape, 1, &x) ? cps_tape_save(tape, sizeof *saved) : NULL;
    const cps_node node = {.backward = take_backward,
                           .name = "take_rows",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x},
                           .saved = saved};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        if (saved != NULL) {
            saved->index = index;
        }
        const int64_t width = x->shape[0] == 0 ? 0 : cps_count_of(x) / x->shape[0];
        move_work work = {.width = width,
                          .from_stride = width,
                          .to_stride = width,
                          .from = cps_values(x),
                          .to = cps_values_out(y),
                          .index = index,
                          .fresh = true};
        cps_parallel_rows(count, width, move_rows, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
