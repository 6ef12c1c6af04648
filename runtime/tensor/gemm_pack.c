/* Both layouts are made of squares of 16 outer x 32 deep numbers, seen as 16 x 16 pairs: a pair is
 * two neighbours in depth, 32 bits. Sixteen registers hold a square, one register for each outer
 * index (16 pairs) or for each pair of depths (16 outer indices), as the source lies in memory. A
 * is stored the first way, B the second; where source and target differ, the square is transposed.
 */
#include "tensor/gemm_pack.h"

#include "base/numeric.h"

int64_t cps_pack_padded(int64_t extent) {
    return cps_ceil_div(extent, CPS_PACK_OUTER) * CPS_PACK_OUTER;
}

int64_t cps_pack_bytes(int64_t outer, int64_t depth) {
    return cps_pack_padded(outer) * cps_pack_padded(depth) * (int64_t)sizeof(uint16_t);
}

enum { WIDE = 256 }; /* outer indices and depths of a piece, when the source is not contiguous */

int64_t cps_pack_pieces(const cps_packing *p) {
    return p->along ? cps_ceil_div(p->outer, CPS_PACK_OUTER)
                    : cps_ceil_div(p->outer, WIDE) * cps_ceil_div(p->depth, WIDE);
}

#if defined(__x86_64__)
#include <immintrin.h>

#define BF16_CODE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

enum { SIDE = 16, DEEP = 32 }; /* of a square: outer indices, depths */

bool cps_pack_can(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16");
}

/* The first `count` of 16 lanes; count may be negative or large. */
static __mmask16 lanes(int64_t count) {
    return (__mmask16)(count <= 0 ? 0U : count >= SIDE ? 0xffffU : (1U << count) - 1U);
}

/* Register i: 16 pairs of outer index i. Masked lanes are zero and not read. */
BF16_CODE static void load_along(const float *from, int64_t stride, int64_t outer, int64_t depth,
                                 __m512i square[SIDE]) {
    for (int64_t i = 0; i < SIDE; i++) {
        const int64_t deep = i < outer ? depth : 0;
        const float *row = from + (i < outer ? i * stride : 0);
        const __m512 low = _mm512_maskz_loadu_ps(lanes(deep), row);
        const __m512 high =
            _mm512_maskz_loadu_ps(lanes(deep - SIDE), row + (deep > SIDE ? SIDE : 0));
        square[i] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    }
}

/* Register i: pair of depths 2i, 2i + 1 of 16 outer indices. */
BF16_CODE static void load_across(const float *from, int64_t stride, int64_t outer, int64_t depth,
                                  __m512i square[SIDE]) {
    for (int64_t i = 0; i < SIDE; i++) {
        __m512i pair[2];
        for (int64_t j = 0; j < 2; j++) {
            const int64_t k = 2 * i + j;
            const __m512 row = _mm512_maskz_loadu_ps(lanes(k < depth ? outer : 0),
                                                     from + (k < depth ? k * stride : 0));
            pair[j] = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(row));
        }
        square[i] = _mm512_or_si512(pair[0], _mm512_slli_epi32(pair[1], 16));
    }
}

/* Four steps: single pairs, couples, and quarters of registers trade places. */
BF16_CODE static void transpose(__m512i square[SIDE]) {
    __m512i t[SIDE];
    for (int i = 0; i < SIDE; i += 2) {
        t[i] = _mm512_unpacklo_epi32(square[i], square[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(square[i], square[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4) { /* quarter q of square[i + c]: column 4 q + c, rows i.. */
        square[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        square[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        square[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        square[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int c = 0; c < 4; c++) {
        const __m512i a = _mm512_shuffle_i32x4(square[c], square[4 + c], 0x44);
        const __m512i b = _mm512_shuffle_i32x4(square[c], square[4 + c], 0xee);
        const __m512i d = _mm512_shuffle_i32x4(square[8 + c], square[12 + c], 0x44);
        const __m512i e = _mm512_shuffle_i32x4(square[8 + c], square[12 + c], 0xee);
        t[c] = _mm512_shuffle_i32x4(a, d, 0x88);
        t[4 + c] = _mm512_shuffle_i32x4(a, d, 0xdd);
        t[8 + c] = _mm512_shuffle_i32x4(b, e, 0x88);
        t[12 + c] = _mm512_shuffle_i32x4(b, e, 0xdd);
    }
    for (int i = 0; i < SIDE; i++) {
        square[i] = t[i];
    }
}

/* The square at outer index `o`, depth `k` (multiples of 16 and 32). */
BF16_CODE static void pack_square(const cps_packing *p, int64_t o, int64_t k) {
    const int64_t outer = p->outer - o, depth = p->depth - k;
    __m512i square[SIDE];
    if (outer <= 0 || depth <= 0) {
        for (int i = 0; i < SIDE; i++) {
            square[i] = _mm512_setzero_si512();
        }
    } else if (p->along) {
        load_along(p->from + o * p->stride + k, p->stride, outer, depth, square);
    } else {
        load_across(p->from + k * p->stride + o, p->stride, outer, depth, square);
    }
    if (p->along == p->is_b) {
        transpose(square);
    }
    const int64_t deep = cps_pack_padded(p->depth);
    const int64_t block = o / CPS_PACK_OUTER * CPS_PACK_OUTER * deep;
    const int64_t step = p->is_b ? 2 * CPS_PACK_OUTER : deep;
    uint16_t *to =
        p->to + (p->is_b ? block + k * CPS_PACK_OUTER + o % CPS_PACK_OUTER * 2 : o * deep + k);
    for (int64_t i = 0; i < SIDE; i++) {
        _mm512_store_si512((void *)(to + i * step), square[i]);
    }
}

/* Reads and writes should run along memory for a while, on both sides. A contiguous source: 16
 * streams at a time, as far as they go. Otherwise rows of 1 KiB, and not so many of them that the
 * rows written to leave the cache. */
void cps_pack_piece(const cps_packing *p, int64_t piece) {
    const int64_t outer = cps_pack_padded(p->outer), deep = cps_pack_padded(p->depth);
    if (p->along) {
        const int64_t first = piece * CPS_PACK_OUTER;
        for (int64_t o = first; o < first + CPS_PACK_OUTER; o += SIDE) {
            for (int64_t k = 0; k < deep; k += DEEP) {
                pack_square(p, o, k);
            }
        }
        return;
    }
    const int64_t across = cps_ceil_div(outer, WIDE);
    const int64_t first = piece % across * WIDE, from = piece / across * WIDE;
    for (int64_t k = from; k < cps_min_i64(from + WIDE, deep); k += DEEP) {
        for (int64_t o = first; o < cps_min_i64(first + WIDE, outer); o += SIDE) {
            pack_square(p, o, k);
        }
    }
}

#else

bool cps_pack_can(void) {
    return false;
}

void cps_pack_piece(const cps_packing *packing, int64_t piece) {
    (void)packing;
    (void)piece;
    CPS_BUG_IF(true); /* cps_pack_can says no */
}

#endif
