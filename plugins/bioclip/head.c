/* A linear head and its cross-entropy in one operation, for heads of hundreds of thousands of
 * classes (bioclip.md, "Heads"): logits exist for SLAB classes at a time, in the forward pass and
 * again in the backward pass, and what is kept between them is a number a row.
 *
 * Forward, online: for each tile of TILE classes the largest logit of each row and the sum of
 * exp(z - largest); tiles are joined in order, so sums do not depend on threads. Backward, with
 * p = exp(z - lse) and the upstream gradient g:
 *   D = g (p - (1 - e) [c = y] - e/C),   rows without a class 0
 *   dW = D' x,   db = column sums of D,   dx = D W, slab after slab. */
#include <math.h>
#include <stddef.h>

#include "bioclip.h"

enum { TILE = 256, SLAB = 16 * TILE };

/* What the forward pass keeps. */
typedef struct head_saved {
    double *lse;    /* [rows] log of the sum of exp z */
    int64_t column; /* of the classes */
    double smoothing;
} head_saved;

/* Of a run of classes, for each row. */
typedef struct row_sums {
    cps_real *most; /* [rows] largest z */
    double *sum;    /* [rows] sum of exp(z - most) */
    double *total;  /* [rows] sum of z, for smoothing */
} row_sums;

typedef struct head_work {
    cps_tape *tape;
    int64_t rows, width, count; /* of x; classes */
    const cps_real *x, *weight, *bias;
    const int32_t *classes; /* of row i: classes[i * stride] */
    int64_t stride;
    int64_t slab;   /* first class of the slab at work */
    cps_real *z;    /* [SLAB, rows] logits, then their gradient */
    row_sums sums;  /* forward: of the slab's tiles, [SLAB / TILE, rows] */
    double *picked; /* forward: [rows] z of the row's class */
    head_saved saved;
    double *upstream; /* backward: [rows] gradient of the loss, 0 for rows without a class */
    cps_real *d_weight, *d_bias; /* backward; NULL: not asked */
    bool fresh_weight, fresh_bias;
} head_work;

static cps_real real_exp(cps_real x) {
#ifdef CPS_REAL_DOUBLE
    return exp(x);
#else
    return expf(x);
#endif
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Tile number `index` of the slab: its classes, and where their logits lie. */
typedef struct tile {
    int64_t first, count;
    cps_real *z; /* [count, rows] */
} tile;

static tile tile_of(const head_work *w, int64_t index) {
    const int64_t first = w->slab + index * TILE;
    return (tile){first, least(TILE, w->count - first), w->z + index * TILE * w->rows};
}

static int64_t tiles_of_slab(const head_work *w) {
    return (least(SLAB, w->count - w->slab) + TILE - 1) / TILE;
}

/* A class a line, so that sums over the classes run along all rows at once. */
static void tile_logits(const head_work *w, const tile *t) {
    for (int64_t c = 0; c < t->count; c++) {
        for (int64_t i = 0; i < w->rows; i++) {
            t->z[c * w->rows + i] = w->bias[t->first + c];
        }
    }
    cps_gemm_serial(w->tape, false, true, t->count, w->rows, w->width, 1.0,
                    w->weight + t->first * w->width, w->width, w->x, w->width, 1.0, t->z, w->rows);
}

/* ---- forward ---- */

static row_sums sums_of(const row_sums *all, int64_t index, int64_t rows) {
    return (row_sums){all->most + index * rows, all->sum + index * rows, all->total + index * rows};
}

static void forward_tile(void *context, int64_t index) {
    const head_work *w = context;
    const tile t = tile_of(w, index);
    const row_sums s = sums_of(&w->sums, index, w->rows);
    tile_logits(w, &t);
    for (int64_t i = 0; i < w->rows; i++) {
        s.most[i] = t.z[i];
        s.sum[i] = s.total[i] = 0.0;
    }
    for (int64_t c = 0; c < t.count; c++) {
        const cps_real *z = t.z + c * w->rows;
        for (int64_t i = 0; i < w->rows; i++) {
            s.most[i] = z[i] > s.most[i] ? z[i] : s.most[i];
            s.total[i] += (double)z[i];
        }
    }
    for (int64_t c = 0; c < t.count; c++) {
        const cps_real *z = t.z + c * w->rows;
        for (int64_t i = 0; i < w->rows; i++) {
            s.sum[i] += (double)real_exp(z[i] - s.most[i]);
        }
    }
    for (int64_t i = 0; i < w->rows; i++) {
        const int64_t own = (int64_t)w->classes[i * w->stride] - t.first;
        if (own >= 0 && own < t.count) {
            w->picked[i] = (double)t.z[own * w->rows + i];
        }
    }
}

/* Adds the sums of the classes that follow. */
static void join(const row_sums *all, const row_sums *next, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
        const cps_real most = next->most[i] > all->most[i] ? next->most[i] : all->most[i];
        all->sum[i] = all->sum[i] * exp((double)(all->most[i] - most)) +
                      next->sum[i] * exp((double)(next->most[i] - most));
        all->total[i] += next->total[i];
        all->most[i] = most;
    }
}

/* all: joined over the tiles in order. */
static void forward_slabs(head_work *w, const row_sums *all) {
    for (int64_t i = 0; i < w->rows; i++) {
        all->most[i] = -(cps_real)INFINITY;
        all->sum[i] = all->total[i] = 0.0;
    }
    for (w->slab = 0; w->slab < w->count; w->slab += SLAB) {
        const int64_t tiles = tiles_of_slab(w);
        cps_parallel(w->tape, tiles, forward_tile, w);
        for (int64_t t = 0; t < tiles; t++) {
            const row_sums next = sums_of(&w->sums, t, w->rows);
            join(all, &next, w->rows);
        }
    }
}

static double finish(const head_work *w, const row_sums *all, bioclip_head_result *result) {
    const double e = w->saved.smoothing;
    double loss = 0.0;
    *result = (bioclip_head_result){0};
    for (int64_t i = 0; i < w->rows; i++) {
        w->saved.lse[i] = (double)all->most[i] + log(all->sum[i]);
        if (w->classes[i * w->stride] >= 0) {
            loss +=
                w->saved.lse[i] - (1.0 - e) * w->picked[i] - e * all->total[i] / (double)w->count;
            result->valid += 1.0;
            result->correct += w->picked[i] >= (double)all->most[i] ? 1.0 : 0.0;
        }
    }
    return loss;
}

/* ---- backward ---- */

/* The logits of a tile -> their gradient. */
static void tile_slopes(const head_work *w, const tile *t) {
    const double share = w->saved.smoothing / (double)w->count;
    for (int64_t c = 0; c < t->count; c++) {
        cps_real *z = t->z + c * w->rows;
        for (int64_t i = 0; i < w->rows; i++) {
            const double p = (double)real_exp((cps_real)((double)z[i] - w->saved.lse[i]));
            z[i] = (cps_real)(w->upstream[i] * (p - share));
        }
    }
    for (int64_t i = 0; i < w->rows; i++) {
        const int64_t own = (int64_t)w->classes[i * w->stride] - t->first;
        if (own >= 0 && own < t->count) {
            t->z[own * w->rows + i] -= (cps_real)(w->upstream[i] * (1.0 - w->saved.smoothing));
        }
    }
}

static void backward_tile(void *context, int64_t index) {
    const head_work *w = context;
    const tile t = tile_of(w, index);
    tile_logits(w, &t);
    tile_slopes(w, &t);
    for (int64_t c = 0; c < t.count && w->d_bias != NULL; c++) {
        double sum = 0.0;
        for (int64_t i = 0; i < w->rows; i++) {
            sum += (double)t.z[c * w->rows + i];
        }
        cps_real *to = w->d_bias + t.first + c;
        *to = w->fresh_bias ? (cps_real)sum : *to + (cps_real)sum;
    }
    if (w->d_weight != NULL) {
        cps_gemm_serial(w->tape, false, false, t.count, w->width, w->rows, 1.0, t.z, w->rows, w->x,
                        w->width, w->fresh_weight ? 0.0 : 1.0, w->d_weight + t.first * w->width,
                        w->width);
    }
}

static head_work describe(cps_tape *tape, const cps_tensor *x, const cps_tensor *weight,
                          const cps_tensor *bias, const cps_tensor *classes, head_saved saved) {
    return (head_work){.tape = tape,
                       .rows = x->shape[0],
                       .width = x->shape[1],
                       .count = weight->shape[0],
                       .x = x->data,
                       .weight = weight->data,
                       .bias = bias->data,
                       .classes = (const int32_t *)classes->data + saved.column,
                       .stride = classes->shape[1],
                       .saved = saved};
}

static size_t slab_bytes(int64_t count, int64_t rows) {
    return (size_t)(least(SLAB, (count + TILE - 1) / TILE * TILE) * rows) * sizeof(cps_real);
}

static cps_status head_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *x = node->inputs[0], *weight = node->inputs[1], *bias = node->inputs[2];
    head_work w =
        describe(tape, x, weight, bias, node->inputs[3], *(const head_saved *)node->saved);
    bool fresh = false;
    cps_real *d_x = cps_grad_target(tape, x, &fresh);
    w.d_weight = cps_grad_target(tape, weight, &w.fresh_weight);
    w.d_bias = cps_grad_target(tape, bias, &w.fresh_bias);
    const size_t mark = cps_tape_mark(tape);
    w.z = cps_tape_save(tape, slab_bytes(w.count, w.rows));
    w.upstream = cps_tape_save(tape, (size_t)w.rows * sizeof *w.upstream);
    if (cps_tape_status(tape) != CPS_OK) {
        return cps_tape_status(tape);
    }
    for (int64_t i = 0; i < w.rows; i++) {
        w.upstream[i] =
            w.classes[i * w.stride] < 0 ? 0.0 : (double)cps_node_grad(tape, node->outputs[0])[0];
    }
    for (w.slab = 0; w.slab < w.count; w.slab += SLAB) {
        cps_parallel(tape, tiles_of_slab(&w), backward_tile, &w);
        if (d_x != NULL) {
            cps_gemm(tape, true, false, w.rows, w.width, least(SLAB, w.count - w.slab), 1.0, w.z,
                     w.rows, w.weight + w.slab * w.width, w.width, fresh && w.slab == 0 ? 0.0 : 1.0,
                     d_x, w.width);
        }
    }
    cps_tape_release(tape, mark);
    return CPS_OK;
}

/* ---- the operation ---- */

static row_sums save_sums(cps_tape *tape, int64_t count) {
    return (row_sums){cps_tape_save(tape, (size_t)count * sizeof(cps_real)),
                      cps_tape_save(tape, (size_t)count * sizeof(double)),
                      cps_tape_save(tape, (size_t)count * sizeof(double))};
}

cps_tensor *bioclip_head_loss(cps_tape *tape, cps_tensor *x, cps_tensor *weight, cps_tensor *bias,
                              cps_tensor *classes, int64_t column, double smoothing,
                              bioclip_head_result *result_out) {
    cps_tensor *loss = cps_tape_tensor(tape, CPS_REAL, 0, NULL);
    if (x == NULL || weight == NULL || bias == NULL || classes == NULL || loss == NULL) {
        return NULL;
    }
    const int64_t rows = x->shape[0], count = weight->shape[0];
    head_saved *saved = cps_tape_save(tape, sizeof *saved);
    double *lse = cps_tape_save(tape, (size_t)rows * sizeof *lse);
    const cps_node node = {.backward = head_backward,
                           .name = "bioclip.head",
                           .output_count = 1,
                           .input_count = 4,
                           .outputs = {loss},
                           .inputs = {x, weight, bias, classes},
                           .saved = saved,
                           .scratch_bytes = slab_bytes(count, rows) +
                                            (size_t)rows * sizeof(double) + 2 * CPS_ALIGNMENT};
    cps_tape_record(tape, &node);
    const size_t mark = cps_tape_mark(tape);
    cps_real *z = cps_tape_save(tape, slab_bytes(count, rows));
    const row_sums sums = save_sums(tape, SLAB / TILE * rows), all = save_sums(tape, rows);
    double *picked = cps_tape_save(tape, (size_t)rows * sizeof *picked);
    if (cps_tape_computes(tape)) {
        *saved = (head_saved){lse, column, smoothing};
        head_work w = describe(tape, x, weight, bias, classes, *saved);
        w.z = z;
        w.sums = sums;
        w.picked = picked;
        forward_slabs(&w, &all);
        *(cps_real *)loss->data = (cps_real)finish(&w, &all, result_out);
    }
    cps_tape_release(tape, mark);
    return cps_tape_status(tape) == CPS_OK ? loss : NULL;
}
