/* Operations whose rows are spread over ranks: on any number of ranks the same bits as in one
 * process that holds all rows; a failure on one rank reaches all; a plan counts what a run takes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "base/rng.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"

static int failures;
static cps_comm *world;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d: %s:%d: %s\n", (int)cps_comm_rank(world), __FILE__, __LINE__, \
                    #condition);                                                                   \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

enum { MAX_ROWS = 700, WIDTH = 5 };

/* The whole batch, the same on every rank. */
static cps_real u_all[MAX_ROWS * WIDTH], v_all[MAX_ROWS * WIDTH];
static int64_t keys_all[MAX_ROWS];

static void make_batch(void) {
    const cps_draw_key key = {.seed = 5};
    for (int64_t i = 0; i < MAX_ROWS * WIDTH; i++) {
        u_all[i] = (cps_real)cps_draw_normal(&key, (uint64_t)(2 * i));
        v_all[i] = (cps_real)cps_draw_normal(&key, (uint64_t)(2 * i + 1));
    }
    for (int64_t i = 0; i < MAX_ROWS; i++) {
        keys_all[i] = i * i % 7;
    }
}

/* ---- one run
 * -----------------------------------------------------------------------------------------------------------------
 */
typedef enum op_kind { SOFTMAX, POSITIVES, SIGMOID, GATHER, BATCH_SUM, KINDS } op_kind;

typedef struct outcome {
    cps_status status;
    cps_real loss, d_scale, d_bias;
    cps_real d_u[MAX_ROWS * WIDTH], d_v[MAX_ROWS * WIDTH]; /* own rows */
    size_t high_water;
} outcome;

static cps_tensor *leaf(cps_tape *tape, int32_t rank, const int64_t *shape, cps_real *data,
                        cps_real *grad, const cps_layout *layout) {
    const bool plan = cps_tape_get_mode(tape) == CPS_TAPE_PLAN;
    cps_tensor *made =
        cps_tape_leaf(tape, CPS_REAL, rank, shape, plan ? NULL : data, plan ? NULL : grad, -1);
    made->needs_grad = grad != NULL;
    made->grad_fresh = grad != NULL;
    made->layout = layout;
    return made;
}

/* A loss whose gradients differ for every element. */
static cps_tensor *build(cps_tape *tape, op_kind kind, cps_tensor *u, cps_tensor *v,
                         cps_tensor *scale, cps_tensor *bias, cps_tensor *keys) {
    switch (kind) {
    case SOFTMAX:
        return cps_softmax_contrastive(tape, u, v, scale, NULL);
    case POSITIVES:
        return cps_softmax_contrastive(tape, u, v, scale, keys);
    case SIGMOID:
        return cps_sigmoid_contrastive(tape, u, v, scale, bias);
    case GATHER: {
        cps_tensor *both = cps_mul(tape, cps_gather(tape, u), cps_gather(tape, v));
        return cps_mul(tape, cps_sum(tape, cps_unary(tape, both, CPS_GELU)),
                       cps_mul(tape, scale, bias));
    }
    default: {
        cps_tensor *rows = cps_sum_last(tape, cps_unary(tape, cps_mul(tape, u, v), CPS_GELU));
        return cps_mul(tape, cps_batch_sum(tape, rows), cps_mul(tape, scale, bias));
    }
    }
}

static outcome *run(op_kind kind, const cps_layout *layout, cps_comm *comm, cps_tape_mode mode,
                    bool broken) {
    outcome *o = calloc(1, sizeof *o);
    cps_arena *arena;
    cps_tape *tape;
    const cps_status made = mode == CPS_TAPE_PLAN
                                ? cps_arena_create_counting("ops", &arena)
                                : cps_arena_create("ops", (size_t)1 << 24, true, &arena);
    CHECK(made == CPS_OK);
    CHECK(cps_tape_create(arena, mode, NULL, &tape) == CPS_OK);
    cps_tape_set_comm(tape, comm);
    const int64_t first = layout->part_offset[layout->first_part];
    const int64_t rows = layout->part_offset[layout->last_part] - first;
    cps_real scale_value = (cps_real)0.6, bias_value = (cps_real)-1.5;
    cps_tensor *u =
        leaf(tape, 2, (const int64_t[]){rows, WIDTH}, u_all + first * WIDTH, o->d_u, layout);
    cps_tensor *v =
        leaf(tape, 2, (const int64_t[]){rows, WIDTH}, v_all + first * WIDTH, o->d_v, layout);
    cps_tensor *scale = leaf(tape, 0, NULL, &scale_value, &o->d_scale, NULL);
    cps_tensor *bias = leaf(tape, 1, (const int64_t[]){1}, &bias_value, &o->d_bias, NULL);
    cps_tensor *keys = cps_constant(tape, CPS_I64, 1, &rows, keys_all + first);
    keys->layout = layout;
    cps_tensor *loss = build(tape, kind, broken ? NULL : u, v, scale, bias, keys);
    o->status = cps_tape_status(tape);
    if (loss != NULL) {
        o->status = cps_backward(tape, loss, 1.5);
        o->loss = mode == CPS_TAPE_PLAN ? 0 : *(const cps_real *)loss->data;
    } else {
        CHECK(o->status != CPS_OK && cps_tape_failure_agreed(tape));
    }
    o->high_water = cps_arena_high_water(arena);
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    return o;
}

static bool same(const cps_real *a, const cps_real *b, int64_t count) {
    return count == 0 || memcmp(a, b, (size_t)count * sizeof *a) == 0;
}

static void check_same_bits(int64_t parts, const int64_t *part_offset) {
    const int32_t rank = cps_comm_rank(world), size = cps_comm_size(world);
    const cps_layout whole = {.part_count = parts, .part_offset = part_offset, .last_part = parts};
    const cps_layout own = {.part_count = parts,
                            .part_offset = part_offset,
                            .first_part = cps_part_first(parts, size, rank),
                            .last_part = cps_part_first(parts, size, rank + 1)};
    const int64_t first = part_offset[own.first_part] * WIDTH;
    const int64_t count = part_offset[own.last_part] * WIDTH - first;
    for (int kind = 0; kind < KINDS; kind++) {
        outcome *alone = run((op_kind)kind, &whole, NULL, CPS_TAPE_RECORD, false);
        outcome *among = run((op_kind)kind, &own, world, CPS_TAPE_RECORD, false);
        outcome *planned = run((op_kind)kind, &own, world, CPS_TAPE_PLAN, false);
        CHECK(alone->status == CPS_OK && among->status == CPS_OK && planned->status == CPS_OK);
        CHECK(same(&alone->loss, &among->loss, 1));
        CHECK(same(&alone->d_scale, &among->d_scale, 1));
        CHECK(kind == SOFTMAX || kind == POSITIVES || same(&alone->d_bias, &among->d_bias, 1));
        CHECK(same(alone->d_u + first, among->d_u, count));
        CHECK(same(alone->d_v + first, among->d_v, count));
        CHECK(among->high_water == planned->high_water);
        free(alone);
        free(among);
        free(planned);
    }
}

/* One rank has no operand: all leave with a failure, the others with that rank's message. */
static void check_failure(void) {
    const int32_t rank = cps_comm_rank(world), size = cps_comm_size(world);
    const int64_t part_offset[] = {0, 3, 5, 9, 14};
    const cps_layout own = {.part_count = 4,
                            .part_offset = part_offset,
                            .first_part = cps_part_first(4, size, rank),
                            .last_part = cps_part_first(4, size, rank + 1)};
    for (int kind = 0; kind < KINDS - 1; kind++) { /* batch_sum's operand fails before it */
        outcome *o = run((op_kind)kind, &own, world, CPS_TAPE_RECORD, rank == size - 1);
        CHECK(o->status == (rank == size - 1 ? CPS_ERR_USAGE : CPS_ERR_PEER));
        CHECK(strstr(cps_fail_message(), "operand 1 is NULL") != NULL);
        free(o);
    }
    /* a layout that leaves a gap between ranks is refused by all */
    if (size > 1) {
        cps_layout gap = own;
        gap.first_part = cps_min_i64(gap.first_part + (rank == 1 ? 1 : 0), gap.last_part);
        outcome *o = run(GATHER, &gap, world, CPS_TAPE_RECORD, false);
        CHECK(o->status == CPS_ERR_INTERNAL);
        free(o);
    }
    CHECK(cps_agree(world, "after failures", CPS_OK) == CPS_OK);
}

int main(int argc, char **argv) {
    const cps_status status = cps_comm_start(&argc, &argv, &world);
    if (status != CPS_OK) {
        fprintf(stderr, "start: %s\n", cps_fail_message());
        return cps_exit_code(status);
    }
    cps_gemm_start();
    make_batch();
    check_same_bits(6, (const int64_t[]){0, 4, 8, 11, 15, 19, 21});
    check_same_bits(13, (const int64_t[]){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 25});
    check_same_bits(8, (const int64_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8});
    check_same_bits(2, (const int64_t[]){0, 3, 5}); /* fewer parts than ranks */
    check_same_bits(1, (const int64_t[]){0, 0});
    check_same_bits(3, (const int64_t[]){0, 300, 557, 700}); /* more rows than a tile */
    check_failure();
    cps_comm_end(world);
    return failures == 0 ? 0 : 1;
}
