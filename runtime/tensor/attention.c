/* Multi-head attention over packed sequences. A task is one sequence and head; it walks over blocks
 * of query rows, so that the scores of a block (at most 128 rows) stay in cache and are never
 * stored: backward computes them again. With a causal mask a block of queries sees the columns up
 * to its own end alone. Blocks are taken from the last to the first: the last one sees all columns,
 * so its products overwrite the gradients of keys and values and the others add. Within a task all
 * is serial: bits do not depend on threads. */
#include "tensor/ops.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/numeric.h"
#include "tensor/gemm_engine.h"
#include "tensor/op.h"

enum { QUERY_ROWS = 128 };

typedef struct attention_saved {
    int64_t heads, count;
    const int32_t *offsets;
    bool causal;
} attention_saved;

typedef struct attention_work {
    attention_saved shape;
    int64_t width, depth; /* C and C / heads */
    double scale;
    bool fresh;
    const cps_real *qkv, *dy;
    cps_real *y, *d_qkv;
    cps_slots slots;
    _Atomic uint64_t taken[CPS_MAX_SLOTS / 64];
    _Atomic int64_t product_ns, all_ns;
} attention_work;

/* One block of queries of one sequence and head. */
typedef struct query_block {
    int64_t first, rows; /* within the sequence */
    int64_t columns;     /* keys seen */
    const cps_real *q, *k, *v;
    int64_t stride; /* elements between rows of q, k and v */
} query_block;

static int64_t longest(int64_t count, const int32_t *offsets) {
    int64_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        most = cps_max_i64(most, offsets[i + 1] - offsets[i]);
    }
    return most;
}

/* Elements of the scores of one block. */
static int64_t score_count(int64_t count, const int32_t *offsets) {
    const int64_t length = longest(count, offsets);
    return cps_ceil_div(cps_min_i64(length, QUERY_ROWS) * length, 16) * 16;
}

static int64_t multiply_ns(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                           double alpha, const cps_real *a, int64_t lda, const cps_real *b,
                           int64_t ldb, double beta, cps_real *c, int64_t ldc) {
    const int64_t start = cps_nanoseconds();
    cps_gemm_serial(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    return cps_nanoseconds() - start;
}

/* p [rows, columns] <- softmax of the block's scores; hidden places become 0. Returns the time of
 * the product. */
static int64_t probabilities(const attention_work *w, const query_block *b, cps_real *p) {
    const cps_kernels *kernels = cps_kernels_get();
    const int64_t ns = multiply_ns(false, true, b->rows, b->columns, w->depth, 1.0, b->q, b->stride,
                                   b->k, b->stride, 0.0, p, b->columns);
    for (int64_t i = 0; i < b->rows; i++) {
        cps_real *row = p + i * b->columns;
        const int64_t seen = w->shape.causal ? b->first + i + 1 : b->columns;
        kernels->softmax(seen, (cps_real)w->scale, row, row);
        memset(row + seen, 0, (size_t)(b->columns - seen) * sizeof *row);
    }
    return ns;
}

static query_block block_at(const attention_work *w, int64_t start, int64_t length, int64_t head,
                            int64_t first) {
    const int64_t rows = cps_min_i64(QUERY_ROWS, length - first);
    const cps_real *base = w->qkv + start * 3 * w->width + head * w->depth;
    return (query_block){.first = first,
                         .rows = rows,
                         .columns = w->shape.causal ? first + rows : length,
                         .q = base + first * 3 * w->width,
                         .k = base + w->width,
                         .v = base + 2 * w->width,
                         .stride = 3 * w->width};
}

static int64_t forward_block(const attention_work *w, const query_block *b, cps_real *y,
                             cps_real *p) {
    int64_t ns = probabilities(w, b, p);
    ns += multiply_ns(false, false, b->rows, w->depth, b->columns, 1.0, p, b->columns, b->v,
                      b->stride, 0.0, y, w->width);
    return ns;
}

/* With P the probabilities and dO the block's gradient: dV += P^T dO; dP = dO V^T; dS = scale P (dP
 * - rowsum(P dP)); dQ = dS K; dK += dS^T Q. d: the gradients of q, k, v at the block's rows and the
 * sequence's first row. */
static int64_t backward_block(const attention_work *w, const query_block *b, const cps_real *dy,
                              cps_real *d_q, cps_real *d_k, bool fresh, cps_real *p, cps_real *dp) {
    const cps_kernels *kernels = cps_kernels_get();
    const int64_t ld = b->stride;
    const double keep =
        fresh ? 0.0 : 1.0; /* keys and values: nothing there yet, or the blocks after this one */
    int64_t ns = probabilities(w, b, p);
    ns += multiply_ns(true, false, b->columns, w->depth, b->rows, 1.0, p, b->columns, dy, w->width,
                      keep, d_k + w->width, ld);
    ns += multiply_ns(false, true, b->rows, b->columns, w->depth, 1.0, dy, w->width, b->v, ld, 0.0,
                      dp, b->columns);
    for (int64_t i = 0; i < b->rows; i++) {
        cps_real *row = dp + i * b->columns;
        const int64_t seen = w->shape.causal ? b->first + i + 1 : b->columns;
        kernels->softmax_grad(seen, (cps_real)w->scale, p + i * b->columns, row, false, row);
        memset(row + seen, 0, (size_t)(b->columns - seen) * sizeof *row);
    }
    ns += multiply_ns(false, false, b->rows, w->depth, b->columns, 1.0, dp, b->columns, b->k, ld,
                      w->fresh ? 0.0 : 1.0, d_q, ld);
    ns += multiply_ns(true, false, b->columns, w->depth, b->rows, 1.0, dp, b->columns, b->q, ld,
                      keep, d_k, ld);
    return ns;
}

static void attention_task(void *context, int64_t index) {
    attention_work *w = context;
    const int64_t sequence = index / w->shape.heads, head = index % w->shape.heads;
    const int64_t start = w->shape.offsets[sequence],
                  length = w->shape.offsets[sequence + 1] - start;
    if (length == 0) {
        return;
    }
    int32_t slot;
    cps_real *scores = cps_slot_take(&w->slots, &slot);
    const int64_t begin = cps_nanoseconds();
    int64_t ns = 0;
    for (int64_t first = (length - 1) / QUERY_ROWS * QUERY_ROWS; first >= 0; first -= QUERY_ROWS) {
        const query_block b = block_at(w, start, length, head, first);
        const int64_t row = (start + first) * w->width + head * w->depth;
        if (w->dy == NULL) {
            ns += forward_block(w, &b, w->y + row, scores);
        } else {
            const bool last = first + QUERY_ROWS >= length;
            cps_real *d = w->d_qkv + head * w->depth;
            ns += backward_block(w, &b, w->dy + row, d + (start + first) * 3 * w->width,
                                 d + start * 3 * w->width + w->width, w->fresh && last, scores,
                                 scores + w->slots.stride / 2);
        }
    }
    const int64_t all = cps_nanoseconds() - begin;
    cps_slot_give(&w->slots, slot);
    atomic_fetch_add_explicit(&w->product_ns, ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->all_ns, all, memory_order_relaxed);
}

/* flop of one product pair over the pairs of positions that are seen. */
static double pair_flop(const attention_work *w) {
    double pairs = 0.0;
    for (int64_t i = 0; i < w->shape.count; i++) {
        const double length = (double)(w->shape.offsets[i + 1] - w->shape.offsets[i]);
        pairs += length * length;
    }
    return 4.0 * pairs * (double)w->width;
}

/* products: of one pair (2 of length^2 * width) how many are done. */
static void attention_run(attention_work *w, double pairs) {
    w->slots.taken = w->taken;
    w->slots.count = (int32_t)cps_slots_count();
    const int64_t start = cps_nanoseconds();
    cps_parallel(w->shape.count * w->shape.heads, attention_task, w);
    cps_product_account(1e-9 * (double)(cps_nanoseconds() - start), atomic_load(&w->product_ns),
                        atomic_load(&w->all_ns), pairs * pair_flop(w));
}

static attention_work attention_make(const attention_saved *shape, const cps_tensor *qkv) {
    const int64_t width = qkv->shape[1] / 3, depth = width / shape->heads;
    return (attention_work){.shape = *shape,
                            .width = width,
                            .depth = depth,
                            .scale = 1.0 / sqrt((double)depth),
                            .qkv = cps_values(qkv)};
}

static cps_status attention_backward(cps_tape *tape, const cps_node *node) {
    const attention_saved *saved = node->saved;
    attention_work w = attention_make(saved, node->inputs[0]);
    w.slots.stride = 2 * score_count(saved->count, saved->offsets);
    w.slots.base = cps_scratch(tape, cps_slots_count() * w.slots.stride);
    if (w.slots.base == NULL) {
        return cps_tape_status(tape);
    }
    w.dy = cps_node_grad(node->outputs[0]);
    w.d_qkv = cps_grad_target(tape, node->inputs[0], &w.fresh);
    attention_run(&w, 2.5);
    return CPS_OK;
}

static bool attention_operands_fit(cps_tape *tape, const cps_tensor *qkv, int32_t heads,
                                   int64_t count, const int32_t *offsets) {
    if (!cps_op_dtype(tape, "attention", "qkv", qkv, CPS_REAL)) {
        return false;
    }
    if (qkv->rank != 2 || heads < 1 || qkv->shape[1] % 3 != 0 || qkv->shape[1] / 3 % heads != 0 ||
        qkv->shape[1] == 0) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "attention: qkv %s with %d heads; [rows, 3 * width] with a width that the "
                      "heads divide is wanted",
                      cps_show_shape(qkv).text, (int)heads);
        return false;
    }
    return cps_op_offsets(tape, "attention", count, offsets, qkv->shape[0]);
}

cps_tensor *cps_attention(cps_tape *tape, cps_tensor *qkv, int32_t heads, int64_t count,
                          const int32_t *offsets, bool causal) {
    if (!cps_op_ready(tape, "attention", 1, &qkv) ||
        !attention_operands_fit(tape, qkv, heads, count, offsets)) {
        return NULL;
    }
    cps_tensor *y = cps_result_like(tape, qkv, qkv->shape[1] / 3);
    if (y == NULL) {
        return NULL;
    }
    const attention_saved shape = {
        .heads = heads, .count = count, .offsets = offsets, .causal = causal};
    attention_saved *saved =
        cps_tape_will_record(tape, 1, &qkv) ? cps_tape_save(tape, sizeof *saved) : NULL;
    const int64_t scores = score_count(count, offsets);
    const cps_node node = {.backward = attention_backward,
                           .name = "attention",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {qkv},
                           .saved = saved,
                           .scratch_bytes = cps_scratch_size(cps_slots_count() * 2 * scores)};
    cps_tape_record_with(tape, &node, 0);
    const size_t mark = cps_tape_mark(tape);
    cps_real *slots = cps_scratch(tape, cps_slots_count() * scores);
    if (cps_tape_computes(tape)) {
        if (saved != NULL) {
            *saved = shape;
        }
        attention_work w = attention_make(&shape, qkv);
        w.y = cps_values_out(y);
        w.slots.base = slots;
        w.slots.stride = scores;
        attention_run(&w, 1.0);
    }
    cps_tape_release(tape, mark);
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
