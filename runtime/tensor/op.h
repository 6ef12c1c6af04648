/* What the operations share: checks of operands, fixed blocks of work, column sums, recording with
 * the extras that plugins do not have. Private to tensor/. */
#ifndef CPS_TENSOR_OP_H
#define CPS_TENSOR_OP_H

#include "base/pool.h"
#include "tensor/kernels.h"
#include "tensor/tape.h"

/* --- shapes (checked when the tensor was made: no overflow here) --- */
int64_t cps_count_of(const cps_tensor *tensor);   /* elements */
int64_t cps_columns_of(const cps_tensor *tensor); /* last dimension; 1 for a scalar */
int64_t
cps_rows_of(const cps_tensor *tensor); /* all leading dimensions folded; 1 for a scalar or vector */
int64_t cps_first_of(const cps_tensor *tensor); /* first dimension; 1 for a scalar */
bool cps_same_shape(const cps_tensor *a, const cps_tensor *b);
const cps_real *cps_values(const cps_tensor *tensor);
cps_real *cps_values_out(cps_tensor *tensor);
typedef struct cps_shape_text {
    char text[96];
} cps_shape_text;
cps_shape_text cps_show_shape(const cps_tensor *tensor); /* "[3, 4]" for messages */

/* --- checks: fail the tape and say false --- */
/* The tape has not failed and none of the `count` operands is NULL. */
bool cps_op_ready(cps_tape *tape, const char *name, int32_t count, cps_tensor *const *operands);
bool cps_op_dtype(cps_tape *tape, const char *name, const char *operand, const cps_tensor *tensor,
                  cps_dtype dtype);
/* offsets[0] = 0 <= ... <= offsets[count] = rows. */
bool cps_op_offsets(cps_tape *tape, const char *name, int64_t count, const int32_t *offsets,
                    int64_t rows);

/* A result with the shape of `like` but `columns` in the last dimension; keeps the layout. */
cps_tensor *cps_result_like(cps_tape *tape, const cps_tensor *like, int64_t columns);

/* --- recording --- */
enum {
    CPS_PASS_0 = 1, /* the gradient of input 0 is that of output 0: the tape hands it on, without a
                       copy where it can */
    CPS_PASS_1 = 2, /* the same for input 1 */
    CPS_COLLECTIVE = 256, /* may turn rows spread over ranks into whole results */
};
/* cps_tape_record with flags. With every wanted gradient passed on, `backward` may be NULL. */
bool cps_tape_record_with(cps_tape *tape, const cps_node *node, uint32_t flags);
/* Marks the tape as failed with `status` whose message is on record. */
void cps_tape_set_failed(cps_tape *tape, cps_status status, bool agreed);
/* Scratch that goes at the end of the operation: marks are the caller's. Real elements; NULL in
 * PLAN mode or after a failure. */
cps_real *cps_scratch(cps_tape *tape, int64_t count);
/* What that takes from the arena, for cps_node.scratch_bytes. */
size_t cps_scratch_size(int64_t count);

/* --- work in fixed pieces --- */
typedef void (*cps_range_body)(void *context, int64_t first, int64_t last);
/* body over [0, n) in pieces of `piece` on the pool. */
void cps_parallel_range(int64_t n, int64_t piece, cps_range_body body, void *context);
/* Pieces of whole rows with about CPS_PIECE elements. */
enum { CPS_PIECE = 16384, CPS_SUM_ROWS = 64 };
void cps_parallel_rows(int64_t rows, int64_t columns, cps_range_body body, void *context);
void cps_fill_zero(int64_t count, cps_real *values);
void cps_copy(int64_t count, const cps_real *from, cps_real *to);
/* to = from if fresh, to += from otherwise. */
void cps_put(int64_t count, const cps_real *from, bool fresh, cps_real *to);

/* Column sums over blocks of CPS_SUM_ROWS rows: a block's partial sums lie in row b of `partial`
 * [blocks, columns]; the second half adds the blocks in order, in double, to `sums`. */
int64_t cps_sum_blocks(int64_t rows);
void cps_sum_partials(int64_t blocks, int64_t columns, const cps_real *partial, bool fresh,
                      cps_real *sums);
/* Both halves for x [rows, columns] with `stride` elements between rows. partial: scratch of
 * cps_sum_blocks(rows) * columns. */
void cps_column_sums(int64_t rows, int64_t columns, int64_t stride, const cps_real *x,
                     cps_real *partial, bool fresh, cps_real *sums);

/* --- scratch of running bodies: one slot a thread, whoever comes takes a free one (values never
 * depend on which) --- */
enum { CPS_MAX_SLOTS = 1024 };
typedef struct cps_slots {
    cps_real *base;
    int64_t stride; /* elements of a slot */
    int32_t count;
    _Atomic uint64_t *taken; /* bits, CPS_MAX_SLOTS / 64 words */
} cps_slots;
int64_t cps_slots_count(void); /* how many slots bodies can need at once */
cps_real *cps_slot_take(cps_slots *slots, int32_t *slot_out);
void cps_slot_give(cps_slots *slots, int32_t slot);

#endif
