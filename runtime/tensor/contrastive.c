/* The tiled contrastive losses. Z = s u v^T is never stored: tiles of at most 256 x 256 rows and
 * columns, cut inside parts, are computed when needed, always as the product of the same two
 * blocks, so that a tile has the same bits wherever it is computed. What belongs to a row (maximum,
 * sum, loss, gradient of u) is finished by its owner over all columns in order, what belongs to a
 * column by the column's owner over all rows in order; nothing is added across ranks. A task is one
 * block of own rows or own columns.
 *
 * Softmax, with p and q the softmax of Z along rows and columns and t the targets (uniform over the
 * positives of a row): L = 1/2N sum_i [lse(row i) - sum_j t_ij z_ij] + the same of columns;   G =
 * dL/dZ = (p + q - 2t) / 2N dL/du = s G v,   dL/dv = s G^T u,   dL/dlog s = sum(G Z). Sigmoid, with
 * y = 1 on the diagonal and -1 elsewhere, z = s u v + b: L = 1/N sum softplus(-y z);   G = -y
 * sigmoid(-y z) / N;   dL/dlog s = sum(G (z - b)),   dL/db = sum(G). The gradients are computed in
 * the forward pass, for a loss gradient of one, and only scaled by backward: all exchanges lie in
 * forward. */
#include "tensor/ops.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/numeric.h"
#include "tensor/gemm.h"
#include "tensor/spread.h"

enum { TILE = 256 };
/* Per row and column of the batch, exchanged: the row's maximum and 1/sum, the column's, 1/number
 * of positives. */
enum { ROW_MAX, ROW_INVERSE, COLUMN_MAX, COLUMN_INVERSE, POSITIVE_SHARE, STATS };
/* Per own row, summed canonically: loss and gradients of the scalars. */
enum { SUM_LOSS, SUM_SCALE, SUM_BIAS, SUMS };

typedef struct contrast_saved {
    cps_real *d_u, *d_v; /* [own rows, width]; NULL where not wanted */
    double d_scale, d_bias;
} contrast_saved;

typedef struct contrast {
    cps_spread spread;
    bool sigmoid, gradients;
    int64_t width;
    double scale, bias;
    const cps_real *u, *v; /* [rows, width], gathered */
    const int64_t *keys;   /* [rows] of positives, or NULL */
    int64_t block_count;   /* block b: rows block_start[b] .. block_start[b + 1] - 1 */
    int64_t *block_start;
    int64_t own_first, own_last; /* own blocks */
    cps_real *stats;             /* [rows][STATS], as exchanged */
    cps_real *columns;           /* [STATS][rows], for runs along a row */
    double *sums;                /* [own rows][SUMS] */
    double *part_sums;           /* [own parts][SUMS] */
    cps_real *d_u, *d_v;
    cps_slots slots;
    _Atomic uint64_t taken[CPS_MAX_SLOTS / 64];
} contrast;

/* ---- tiles
 * -------------------------------------------------------------------------------------------------------------------
 */
typedef struct tile {
    int64_t row, column, rows, columns; /* of the batch */
    cps_real *z, *g;                    /* [rows, columns] */
} tile;

static tile tile_at(const contrast *c, int64_t row_block, int64_t column_block, cps_real *room) {
    const int64_t row = c->block_start[row_block], column = c->block_start[column_block];
    return (tile){.row = row,
                  .column = column,
                  .rows = c->block_start[row_block + 1] - row,
                  .columns = c->block_start[column_block + 1] - column,
                  .z = room,
                  .g = room + TILE * TILE};
}

/* z = s u v^T of the tile, without the bias. */
static void tile_product(const contrast *c, const tile *t) {
    cps_gemm_serial(false, true, t->rows, t->columns, c->width, c->scale, c->u + t->row * c->width,
                    c->width, c->v + t->column * c->width, c->width, 0.0, t->z, t->columns);
}

static bool positive(const contrast *c, int64_t row, int64_t column) {
    return c->keys != NULL ? c->keys[row] == c->keys[column] : row == column;
}

/* ---- softmax: maxima and sums
 * -------------------------------------------------------------------------------------------------
 */
typedef struct block_stats {
    cps_real most[TILE];
    double sum[TILE], positives[TILE], count[TILE];
} block_stats;

static void stats_begin(block_stats *s) {
    for (int64_t i = 0; i < TILE; i++) {
        s->most[i] = -(cps_real)INFINITY;
        s->sum[i] = s->positives[i] = s->count[i] = 0.0;
    }
}

static double stats_loss(const block_stats *s, int64_t i) {
    return (double)s->most[i] + log(s->sum[i]) - s->positives[i] / s->count[i];
}

static void row_block_stats(contrast *c, int64_t block, cps_real *room) {
    const cps_kernels *kernels = cps_kernels_get();
    block_stats s;
    stats_begin(&s);
    for (int64_t other = 0; other < c->block_count; other++) {
        const tile t = tile_at(c, block, other, room);
        tile_product(c, &t);
        for (int64_t i = 0; i < t.rows; i++) {
            const cps_real most = kernels->max(t.columns, t.z + i * t.columns);
            s.most[i] = most > s.most[i] ? most : s.most[i];
        }
    }
    for (int64_t other = 0; other < c->block_count; other++) {
        const tile t = tile_at(c, block, other, room);
        tile_product(c, &t);
        for (int64_t i = 0; i < t.rows; i++) {
            cps_real *z = t.z + i * t.columns;
            for (int64_t j = 0; j < t.columns; j++) {
                if (positive(c, t.row + i, t.column + j)) {
                    s.positives[i] += (double)z[j];
                    s.count[i] += 1.0;
                }
            }
            s.sum[i] += kernels->exp_sum(t.columns, z, s.most[i], z);
        }
    }
    const int64_t row = c->block_start[block], rows = c->block_start[block + 1] - row;
    for (int64_t i = 0; i < rows; i++) {
        cps_real *stats = c->stats + (row + i) * STATS;
        stats[ROW_MAX] = s.most[i];
        stats[ROW_INVERSE] = (cps_real)(1.0 / s.sum[i]);
        stats[POSITIVE_SHARE] = (cps_real)(1.0 / s.count[i]);
        c->sums[(row + i - c->spread.row_first) * SUMS + SUM_LOSS] += stats_loss(&s, i);
    }
}

static void column_block_stats(contrast *c, int64_t block, cps_real *room) {
    const cps_kernels *kernels = cps_kernels_get();
    block_stats s;
    stats_begin(&s);
    for (int64_t other = 0; other < c->block_count; other++) {
        const tile t = tile_at(c, other, block, room);
        tile_product(c, &t);
        for (int64_t i = 0; i < t.rows; i++) {
            const cps_real *z = t.z + i * t.columns;
            for (int64_t j = 0; j < t.columns; j++) {
                s.most[j] = z[j] > s.most[j] ? z[j] : s.most[j];
            }
        }
    }
    for (int64_t other = 0; other < c->block_count; other++) {
        const tile t = tile_at(c, other, block, room);
        tile_product(c, &t);
        for (int64_t i = 0; i < t.rows; i++) {
            cps_real *z = t.z + i * t.columns;
            for (int64_t j = 0; j < t.columns; j++) {
                if (positive(c, t.row + i, t.column + j)) {
                    s.positives[j] += (double)z[j];
                    s.count[j] += 1.0;
                }
            }
            kernels->sub(t.columns, z, s.most, z);
            kernels->unary(CPS_EXP, t.columns, z, z);
            for (int64_t j = 0; j < t.columns; j++) {
                s.sum[j] += (double)z[j];
            }
        }
    }
    const int64_t column = c->block_start[block], columns = c->block_start[block + 1] - column;
    for (int64_t j = 0; j < columns; j++) {
        cps_real *stats = c->stats + (column + j) * STATS;
        stats[COLUMN_MAX] = s.most[j];
        stats[COLUMN_INVERSE] = (cps_real)(1.0 / s.sum[j]);
        /* the row's loss was written by another task: its own place */
        c->sums[(column + j - c->spread.row_first) * SUMS + SUM_SCALE] += stats_loss(&s, j);
    }
}

/* ---- gradient tiles
 * ------------------------------------------------------------------------------------------------------------
 */
/* g = (p + q - 2t) / 2N */
static void softmax_slopes(const contrast *c, const tile *t) {
    const cps_kernels *kernels = cps_kernels_get();
    const int64_t all = c->spread.rows;
    const double factor = 0.5 / (double)all;
    const cps_real *column_max = c->columns + COLUMN_MAX * all + t->column;
    const cps_real *column_inverse = c->columns + COLUMN_INVERSE * all + t->column;
    for (int64_t i = 0; i < t->rows; i++) {
        const cps_real *stats = c->stats + (t->row + i) * STATS;
        const cps_real *z = t->z + i * t->columns;
        cps_real *g = t->g + i * t->columns, q[TILE];
        kernels->exp_sum(t->columns, z, stats[ROW_MAX], g);
        kernels->scale(t->columns, (cps_real)(factor * (double)stats[ROW_INVERSE]), g, (cps_real)0,
                       g);
        kernels->sub(t->columns, z, column_max, q);
        kernels->unary(CPS_EXP, t->columns, q, q);
        kernels->mul(t->columns, q, column_inverse, q);
        kernels->scale_add(t->columns, (cps_real)factor, q, g);
        const cps_real share = (cps_real)(2.0 * factor * (double)stats[POSITIVE_SHARE]);
        for (int64_t j = 0; j < t->columns; j++) {
            g[j] -= positive(c, t->row + i, t->column + j) ? share : (cps_real)0;
        }
    }
}

/* g = -y sigmoid(-y (z + b)) / N */
static void sigmoid_slopes(const contrast *c, const tile *t) {
    const double factor = 1.0 / (double)c->spread.rows;
    for (int64_t i = 0; i < t->rows; i++) {
        for (int64_t j = 0; j < t->columns; j++) {
            const double y = t->row + i == t->column + j ? 1.0 : -1.0;
            const double against = -y * ((double)t->z[i * t->columns + j] + c->bias);
            t->g[i * t->columns + j] = (cps_real)(-y * factor / (1.0 + exp(-against)));
        }
    }
}

static double softplus(double x) {
    return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x)));
}

static double sigmoid_row_loss(const contrast *c, const tile *t, int64_t i) {
    double loss = 0.0;
    for (int64_t j = 0; j < t->columns; j++) {
        const double y = t->row + i == t->column + j ? 1.0 : -1.0;
        loss += softplus(-y * ((double)t->z[i * t->columns + j] + c->bias));
    }
    return loss;
}

static void slopes(const contrast *c, const tile *t) {
    tile_product(c, t);
    if (c->sigmoid) {
        sigmoid_slopes(c, t);
    } else {
        softmax_slopes(c, t);
    }
}

/* Own rows: sums of the scalars' gradients, and dU of the block. */
static void row_block_gradient(contrast *c, int64_t block, cps_real *room) {
    const cps_kernels *kernels = cps_kernels_get();
    for (int64_t other = 0; other < c->block_count; other++) {
        const tile t = tile_at(c, block, other, room);
        slopes(c, &t);
        for (int64_t i = 0; i < t.rows; i++) {
            double *sums = c->sums + (t.row + i - c->spread.row_first) * SUMS;
            sums[SUM_SCALE] += kernels->dot(t.columns, t.g + i * t.columns, t.z + i * t.columns);
            sums[SUM_BIAS] += c->sigmoid ? kernels->sum(t.columns, t.g + i * t.columns) : 0.0;
            sums[SUM_LOSS] += c->sigmoid ? sigmoid_row_loss(c, &t, i) : 0.0;
        }
        if (c->d_u != NULL) {
            cps_gemm_serial(false, false, t.rows, c->width, t.columns, c->scale, t.g, t.columns,
                            c->v + t.column * c->width, c->width, other == 0 ? 0.0 : 1.0,
                            c->d_u + (t.row - c->spread.row_first) * c->width, c->width);
        }
    }
}

/* Own columns: dV of the block. */
static void column_block_gradient(contrast *c, int64_t block, cps_real *room) {
    for (int64_t other = 0; other < c->block_count && c->d_v != NULL; other++) {
        const tile t = tile_at(c, other, block, room);
        slopes(c, &t);
        cps_gemm_serial(true, false, t.columns, c->width, t.rows, c->scale, t.g, t.columns,
                        c->u + t.row * c->width, c->width, other == 0 ? 0.0 : 1.0,
                        c->d_v + (t.column - c->spread.row_first) * c->width, c->width);
    }
}

/* Loss of own rows alone, where no gradient is wanted. */
static void row_block_sigmoid_loss(contrast *c, int64_t block, cps_real *room) {
    for (int64_t other = 0; other < c->block_count; other++) {
        const tile t = tile_at(c, block, other, room);
        tile_product(c, &t);
        for (int64_t i = 0; i < t.rows; i++) {
            c->sums[(t.row + i - c->spread.row_first) * SUMS + SUM_LOSS] +=
                sigmoid_row_loss(c, &t, i);
        }
    }
}

/* ---- tasks: own blocks as rows, then as columns
 * --------------------------------------------------------------------------------- */
typedef void (*block_body)(contrast *c, int64_t block, cps_real *room);
typedef struct block_tasks {
    contrast *c;
    block_body rows, columns; /* columns may be NULL */
} block_tasks;

static void block_task(void *context, int64_t index) {
    const block_tasks *tasks = context;
    contrast *c = tasks->c;
    const int64_t own = c->own_last - c->own_first;
    int32_t slot;
    cps_real *room = cps_slot_take(&c->slots, &slot);
    (index < own ? tasks->rows : tasks->columns)(c, c->own_first + index % own, room);
    cps_slot_give(&c->slots, slot);
}

static void run_blocks(contrast *c, block_body rows, block_body columns) {
    block_tasks tasks = {.c = c, .rows = rows, .columns = columns};
    cps_parallel((c->own_last - c->own_first) * (columns != NULL ? 2 : 1), block_task, &tasks);
}

/* ---- forward
 * -------------------------------------------------------------------------------------------------------------------
 */
static int64_t count_blocks(const cps_spread *spread) {
    int64_t blocks = 0;
    for (int64_t part = 0; part < spread->parts; part++) {
        blocks += cps_ceil_div(spread->part_offset[part + 1] - spread->part_offset[part], TILE);
    }
    return blocks;
}

static void cut_blocks(contrast *c) {
    const cps_spread *spread = &c->spread;
    int64_t block = 0;
    c->own_first = c->own_last = 0;
    for (int64_t part = 0; part < spread->parts; part++) {
        c->own_first = part == spread->part_first ? block : c->own_first;
        for (int64_t row = spread->part_offset[part]; row < spread->part_offset[part + 1];
             row += TILE) {
            c->block_start[block++] = row;
        }
        c->own_last = part < spread->part_last ? block : c->own_last;
    }
    c->block_start[block] = spread->rows;
    c->own_first = cps_min_i64(c->own_first, c->own_last);
}

/* Statistics of all rows by column of the table, for runs along a row. */
static void turn_stats(contrast *c) {
    for (int64_t row = 0; row < c->spread.rows; row++) {
        for (int64_t s = 0; s < STATS; s++) {
            c->columns[s * c->spread.rows + row] = c->stats[row * STATS + s];
        }
    }
}

static void softmax_forward(contrast *c) {
    const cps_spread *spread = &c->spread;
    run_blocks(c, row_block_stats, column_block_stats);
    for (int64_t row = 0; row < spread->row_count;
         row++) { /* the columns' losses, parked in the place of the scale */
        double *sums = c->sums + row * SUMS;
        sums[SUM_LOSS] = 0.5 * (sums[SUM_LOSS] + sums[SUM_SCALE]);
        sums[SUM_SCALE] = 0.0;
    }
    if (c->gradients) {
        cps_spread_gather(spread, "statistics of a contrastive loss",
                          c->stats + spread->row_first * STATS, c->stats, STATS * sizeof *c->stats);
        turn_stats(c);
        run_blocks(c, row_block_gradient, column_block_gradient);
    }
}

static void sigmoid_forward(contrast *c) {
    if (c->gradients) {
        run_blocks(c, row_block_gradient, column_block_gradient);
    } else {
        run_blocks(c, row_block_sigmoid_loss, NULL);
    }
}

/* Everything after the ranks have agreed; cannot fail on one rank alone. totals: the batch's sums.
 */
static cps_status contrast_run(contrast *c, const cps_tensor *u, const cps_tensor *v,
                               const cps_tensor *keys, cps_real *u_all, cps_real *v_all,
                               int64_t *keys_all, double totals[SUMS]) {
    const cps_spread *spread = &c->spread;
    const size_t row_bytes = (size_t)c->width * sizeof(cps_real);
    cps_spread_gather(spread, "features of a contrastive loss", u->data, u_all, row_bytes);
    cps_spread_gather(spread, "features of a contrastive loss", v->data, v_all, row_bytes);
    if (keys != NULL) {
        cps_spread_gather(spread, "positives of a contrastive loss", keys->data, keys_all,
                          sizeof *keys_all);
    }
    c->u = u_all;
    c->v = v_all;
    c->keys = keys != NULL ? keys_all : NULL;
    cut_blocks(c);
    memset(c->sums, 0, (size_t)(spread->row_count * SUMS) * sizeof *c->sums);
    c->slots.taken = c->taken;
    c->slots.count = (int32_t)cps_slots_count();
    if (c->sigmoid) {
        sigmoid_forward(c);
    } else {
        softmax_forward(c);
    }
    return cps_spread_sum(spread, "sums of a contrastive loss", SUMS, c->sums, c->part_sums,
                          totals);
}

/* ---- backward
 * ------------------------------------------------------------------------------------------------------------------
 */
typedef struct scaled_work {
    cps_real seed;
    const cps_real *from;
    cps_real *to;
    bool fresh;
} scaled_work;

static void scaled_piece(void *context, int64_t first, int64_t last) {
    const scaled_work *w = context;
    if (w->fresh) {
        cps_kernels_get()->scale(last - first, w->seed, w->from + first, (cps_real)0,
                                 w->to + first);
    } else {
        cps_kernels_get()->scale_add(last - first, w->seed, w->from + first, w->to + first);
    }
}

static cps_status contrast_backward(cps_tape *tape, const cps_node *node) {
    const contrast_saved *saved = node->saved;
    const double seed = (double)cps_node_grad(node->outputs[0])[0];
    const cps_real *features[] = {saved->d_u, saved->d_v};
    scaled_work work = {.seed = (cps_real)seed};
    for (int32_t i = 0; i < 2; i++) {
        work.from = features[i];
        if ((work.to = cps_grad_target(tape, node->inputs[i], &work.fresh)) != NULL) {
            cps_parallel_range(cps_count_of(node->inputs[i]), CPS_PIECE, scaled_piece, &work);
        }
    }
    const double scalars[] = {saved->d_scale, saved->d_bias};
    for (int32_t i = 2; i < node->input_count; i++) {
        cps_real *target = cps_grad_target(tape, node->inputs[i], &work.fresh);
        if (target != NULL) {
            const cps_real d = (cps_real)(seed * scalars[i - 2]);
            target[0] = work.fresh ? d : target[0] + d;
        }
    }
    return CPS_OK;
}

/* ---- the operations
 * -------------------------------------------------------------------------------------------------------------
 */
typedef struct contrast_operands {
    const char *name;
    cps_tensor *u, *v, *log_scale, *bias,
        *positives; /* bias: sigmoid only; positives may be NULL */
} contrast_operands;

static bool is_scalar(const cps_tensor *tensor) {
    return tensor->dtype == CPS_REAL && cps_count_of(tensor) == 1 && tensor->layout == NULL;
}

static bool same_layout(const cps_layout *a, const cps_layout *b) {
    if (a == b || a == NULL || b == NULL) {
        return a == b;
    }
    return a->part_count == b->part_count && a->first_part == b->first_part &&
           a->last_part == b->last_part &&
           memcmp(a->part_offset, b->part_offset,
                  (size_t)(a->part_count + 1) * sizeof *a->part_offset) == 0;
}

static bool operands_fit(cps_tape *tape, const contrast_operands *in) {
    const cps_tensor *u = in->u, *v = in->v;
    if (!cps_op_dtype(tape, in->name, "u", u, CPS_REAL) ||
        !cps_op_dtype(tape, in->name, "v", v, CPS_REAL)) {
        return false;
    }
    if (u->rank != 2 || !cps_same_shape(u, v) || !same_layout(u->layout, v->layout)) {
        cps_tape_fail(
            tape, CPS_ERR_USAGE,
            "%s: u %s and v %s%s; two matrices [rows, width] of equal shape and layout are wanted",
            in->name, cps_show_shape(u).text, cps_show_shape(v).text,
            !same_layout(u->layout, v->layout) ? " with different layouts" : "");
        return false;
    }
    if (!is_scalar(in->log_scale) || (in->bias != NULL && !is_scalar(in->bias))) {
        cps_tape_fail(tape, CPS_ERR_USAGE, "%s: the logit scale %s and bias must be scalars",
                      in->name, cps_show_shape(in->log_scale).text);
        return false;
    }
    if (in->positives != NULL && (in->positives->dtype != CPS_I64 || in->positives->rank != 1 ||
                                  in->positives->shape[0] != u->shape[0] ||
                                  !same_layout(in->positives->layout, u->layout))) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "%s: positives %s; one i64 a row of u %s, with its layout, is wanted",
                      in->name, cps_show_shape(in->positives).text, cps_show_shape(u).text);
        return false;
    }
    return true;
}

/* Room that goes at the end of the operation. */
typedef struct contrast_room {
    size_t mark;
    bool marked;
    cps_real *u_all, *v_all;
    int64_t *keys_all;
} contrast_room;

static void take_room(cps_tape *tape, contrast *c, bool keys, contrast_room *room) {
    const cps_spread *spread = &c->spread;
    room->u_all = cps_scratch(tape, spread->rows * c->width);
    room->v_all = cps_scratch(tape, spread->rows * c->width);
    room->keys_all =
        keys ? cps_tape_save(tape, (size_t)spread->rows * sizeof *room->keys_all) : NULL;
    c->block_count = count_blocks(spread);
    c->block_start = cps_tape_save(tape, (size_t)(c->block_count + 1) * sizeof *c->block_start);
    c->stats = cps_scratch(tape, spread->rows * STATS);
    c->columns = cps_scratch(tape, spread->rows * STATS);
    c->sums = cps_tape_save(tape, (size_t)(spread->row_count * SUMS) * sizeof *c->sums);
    c->part_sums = cps_tape_save(tape, (size_t)((spread->part_last - spread->part_first) * SUMS) *
                                           sizeof *c->part_sums);
    c->slots.stride = 2 * TILE * TILE;
    c->slots.base = cps_scratch(tape, cps_slots_count() * c->slots.stride);
}

/* Everything that can fail on one rank alone: checks, record, memory. */
static cps_tensor *contrast_prepare(cps_tape *tape, const contrast_operands *in, contrast *c,
                                    contrast_room *room, contrast_saved **saved_out) {
    cps_tensor *const operands[] = {in->u, in->v, in->log_scale, in->bias};
    const int32_t count = c->sigmoid ? 4 : 3;
    if (!cps_op_ready(tape, in->name, count, operands) || !operands_fit(tape, in)) {
        return NULL;
    }
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 0, NULL);
    if (y == NULL) {
        return NULL;
    }
    c->gradients = cps_tape_will_record(tape, count, operands);
    c->width = in->u->shape[1];
    contrast_saved *saved = c->gradients ? cps_tape_save(tape, sizeof *saved) : NULL;
    const int64_t own = cps_count_of(in->u);
    c->d_u = c->gradients && in->u->needs_grad ? cps_scratch(tape, own) : NULL;
    c->d_v = c->gradients && in->v->needs_grad ? cps_scratch(tape, own) : NULL;
    const cps_node node = {.backward = contrast_backward,
                           .name = in->name,
                           .output_count = 1,
                           .input_count = count,
                           .outputs = {y},
                           .inputs = {in->u, in->v, in->log_scale, in->bias},
                           .saved = saved};
    cps_tape_record_with(tape, &node, CPS_COLLECTIVE);
    room->mark = cps_tape_mark(tape);
    room->marked = true;
    if (cps_spread_describe(tape, in->name, in->u, &c->spread)) {
        take_room(tape, c, in->positives != NULL, room);
    }
    *saved_out = saved;
    return y;
}

static cps_tensor *contrastive(cps_tape *tape, const contrast_operands *in, bool sigmoid) {
    contrast c = {.sigmoid = sigmoid};
    contrast_room room = {0};
    contrast_saved *saved = NULL;
    cps_tensor *y = contrast_prepare(tape, in, &c, &room, &saved);
    if (!cps_spread_agree(tape, in->name, &c.spread)) {
        return NULL;
    }
    if (cps_tape_computes(tape)) {
        c.scale = exp((double)cps_values(in->log_scale)[0]);
        c.bias = sigmoid ? (double)cps_values(in->bias)[0] : 0.0;
        double totals[SUMS];
        const cps_status status = contrast_run(&c, in->u, in->v, in->positives, room.u_all,
                                               room.v_all, room.keys_all, totals);
        if (status != CPS_OK) {
            cps_tape_set_failed(tape, status, false);
            return NULL;
        }
        const double rows = (double)cps_max_i64(1, c.spread.rows);
        cps_values_out(y)[0] = (cps_real)(totals[SUM_LOSS] / rows);
        if (saved != NULL) {
            *saved = (contrast_saved){.d_u = c.d_u,
                                      .d_v = c.d_v,
                                      .d_scale = totals[SUM_SCALE],
                                      .d_bias = totals[SUM_BIAS]};
        }
    }
    if (room.marked) {
        cps_tape_release(tape, room.mark);
    }
    return y;
}

cps_tensor *cps_softmax_contrastive(cps_tape *tape, cps_tensor *u, cps_tensor *v,
                                    cps_tensor *log_scale, cps_tensor *positives) {
    const contrast_operands in = {.name = "softmax_contrastive",
                                  .u = u,
                                  .v = v,
                                  .log_scale = log_scale,
                                  .positives = positives};
    return contrastive(tape, &in, false);
}

cps_tensor *cps_sigmoid_contrastive(cps_tape *tape, cps_tensor *u, cps_tensor *v,
                                    cps_tensor *log_scale, cps_tensor *bias) {
    const contrast_operands in = {
        .name = "sigmoid_contrastive", .u = u, .v = v, .log_scale = log_scale, .bias = bias};
    return contrastive(tape, &in, true);
}
