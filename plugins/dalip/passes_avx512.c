/* The passes for x86 CPUs with AVX-512 (F, VL, DQ, BW). */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw"))),        \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,prefer-vector-width=512")
#pragma GCC optimize("O3", "no-trapping-math")
#endif
#define PASSES dalip_passes_avx512
#define PASSES_NAME "avx512"
#define VECTOR_BYTES 64
#include "passes.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int dalip_passes_avx512_unused; /* ISO C wants a declaration in every file */
#endif
