/* Operands of bf16 products: rounded from fp32 (nearest even) and laid out as the kernels of the
 * bf16 engine read them. Private to tensor/. Local; a CPU with AVX512-BF16 only. */
#ifndef CPS_TENSOR_GEMM_PACK_H
#define CPS_TENSOR_GEMM_PACK_H

#include "base/types.h"

/* Rows of a block of operand A, columns of a block of operand B: `outer` is rounded up to it. */
enum { CPS_PACK_OUTER = 64, CPS_PACK_DEPTH = 64 };

/* One operand: `outer` rows of A or columns of B, each of `depth` numbers that are summed over.
 *   from    element (o, k) at from[o * stride + k] if `along` (k is contiguous), else at
 *           from[k * stride + o]
 *   to      64-byte aligned, outer and depth rounded up, padded with zeros:
 *           A: [outer][depth];  B: [outer / 64][depth / 2][64][2] ("BA16a64b2a") */
typedef struct cps_packing {
    bool is_b, along;
    int64_t outer, depth, stride;
    const float *from;
    uint16_t *to;
} cps_packing;

bool cps_pack_can(void); /* this build and this CPU */
int64_t cps_pack_padded(int64_t extent);
int64_t cps_pack_bytes(int64_t outer, int64_t depth);
/* The work in pieces that may run at once, in any order. */
int64_t cps_pack_pieces(const cps_packing *packing);
void cps_pack_piece(const cps_packing *packing, int64_t piece);

#endif
