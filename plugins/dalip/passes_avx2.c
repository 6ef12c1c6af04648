/* The passes for x86 CPUs with AVX2. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#pragma GCC optimize("O3", "no-trapping-math")
#endif
#define PASSES dalip_passes_avx2
#define PASSES_NAME "avx2"
#define VECTOR_BYTES 32
#include "passes.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int dalip_passes_avx2_unused; /* ISO C wants a declaration in every file */
#endif
