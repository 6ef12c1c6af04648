/* The kernels for x86 CPUs with AVX2. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#pragma GCC optimize("O3", "no-trapping-math")
#endif
#define KERNELS cps_kernels_avx2
#define VECTOR_BYTES 32
#define KERNELS_NAME "avx2"
#include "tensor/kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int cps_kernels_avx2_unused; /* ISO C wants a declaration in every file */
#endif
