/* Operations over the whole batch whose rows are spread over ranks: gather and batch_sum. They
 * exchange in the forward pass only; backward is local. */
#include "tensor/ops.h"

#include <string.h>

#include "base/numeric.h"
#include "tensor/spread.h"

/* ---- gather
 * ------------------------------------------------------------------------------------------------------------------
 */
typedef struct gather_saved {
    int64_t first, count; /* own elements of the result */
} gather_saved;

static cps_status gather_backward(cps_tape *tape, const cps_node *node) {
    const gather_saved *saved = node->saved;
    bool fresh;
    cps_real *target = cps_grad_target(tape, node->inputs[0], &fresh);
    cps_put(saved->count, cps_node_grad(node->outputs[0]) + saved->first, fresh, target);
    return CPS_OK;
}

/* Everything that can fail on one rank alone. */
static cps_tensor *gather_prepare(cps_tape *tape, cps_tensor *x, cps_spread *spread,
                                  gather_saved **saved_out) {
    if (!cps_op_ready(tape, "gather", 1, &x) || !cps_spread_describe(tape, "gather", x, spread)) {
        return NULL;
    }
    int64_t shape[CPS_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = spread->rows;
    cps_tensor *y = cps_tape_tensor(tape, x->dtype, x->rank, shape);
    *saved_out = cps_tape_will_record(tape, 1, &x) ? cps_tape_save(tape, sizeof **saved_out) : NULL;
    const cps_node node = {.backward = gather_backward,
                           .name = "gather",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x},
                           .saved = *saved_out};
    cps_tape_record_with(tape, &node, CPS_COLLECTIVE);
    return y;
}

cps_tensor *cps_gather(cps_tape *tape, cps_tensor *x) {
    if (x != NULL && cps_tape_status(tape) == CPS_OK && x->layout == NULL) {
        return cps_reshape(tape, x, x->rank, x->shape); /* whole already */
    }
    cps_spread spread = {0};
    gather_saved *saved = NULL;
    cps_tensor *y = gather_prepare(tape, x, &spread, &saved);
    if (!cps_spread_agree(tape, "gather", &spread)) {
        return NULL;
    }
    if (cps_tape_computes(tape)) {
        int64_t inner = 1; /* also of a rank without rows */
        for (int32_t d = 1; d < x->rank; d++) {
            inner *= x->shape[d];
        }
        cps_spread_gather(&spread, "gather", x->data, y->data,
                          (size_t)inner * cps_dtype_bytes(x->dtype));
        if (saved != NULL) {
            *saved = (gather_saved){.first = spread.row_first * inner,
                                    .count = spread.row_count * inner};
        }
    }
    return y;
}

/* ---- batch sum
 * ---------------------------------------------------------------------------------------------------------------
 */
typedef struct spread_seed {
    cps_real seed, *to;
    bool fresh;
} spread_seed;

static void add_seed(void *context, int64_t first, int64_t last) {
    const spread_seed *s = context;
    for (int64_t i = first; i < last; i++) {
        s->to[i] = s->fresh ? s->seed : s->to[i] + s->seed;
    }
}

static cps_status batch_sum_backward(cps_tape *tape, const cps_node *node) {
    spread_seed s = {.seed = cps_node_grad(node->outputs[0])[0]};
    s.to = cps_grad_target(tape, node->inputs[0], &s.fresh);
    cps_parallel_range(cps_count_of(node->inputs[0]), CPS_PIECE, add_seed, &s);
    return CPS_OK;
}

typedef struct batch_sum_room {
    double *values, *part_sums; /* of own rows and parts */
    size_t mark;
} batch_sum_room;

static cps_tensor *batch_sum_prepare(cps_tape *tape, cps_tensor *x, cps_spread *spread,
                                     batch_sum_room *room) {
    if (!cps_op_ready(tape, "batch_sum", 1, &x) ||
        !cps_op_dtype(tape, "batch_sum", "x", x, CPS_REAL)) {
        return NULL;
    }
    if (x->rank != 1) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "batch_sum: x %s; one number a row, [rows], is wanted",
                             cps_show_shape(x).text);
    }
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 0, NULL);
    if (y == NULL) {
        return NULL;
    }
    const cps_node node = {.backward = batch_sum_backward,
                           .name = "batch_sum",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x}};
    cps_tape_record_with(tape, &node, CPS_COLLECTIVE);
    room->mark = cps_tape_mark(tape);
    if (!cps_spread_describe(tape, "batch_sum", x, spread)) {
        return NULL;
    }
    room->values = cps_tape_save(tape, (size_t)spread->row_count * sizeof *room->values);
    room->part_sums = cps_tape_save(tape, (size_t)(spread->part_last - spread->part_first) *
                                              sizeof *room->part_sums);
    return y;
}

cps_tensor *cps_batch_sum(cps_tape *tape, cps_tensor *x) {
    cps_spread spread = {0};
    batch_sum_room room = {0};
    cps_tensor *y = batch_sum_prepare(tape, x, &spread, &room);
    if (!cps_spread_agree(tape, "batch_sum", &spread)) {
        return NULL;
    }
    if (cps_tape_computes(tape)) {
        for (int64_t row = 0; row < spread.row_count; row++) {
            room.values[row] = (double)cps_values(x)[row];
        }
        double total;
        const cps_status status =
            cps_spread_sum(&spread, "batch_sum", 1, room.values, room.part_sums, &total);
        if (status != CPS_OK) {
            cps_tape_set_failed(tape, status, false);
            return NULL;
        }
        cps_values_out(y)[0] = (cps_real)total;
    }
    cps_tape_release(tape, room.mark);
    return y;
}
