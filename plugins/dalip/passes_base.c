/* The passes for the instruction set that the build asks for, and the choice among the variants. */
#if !defined(__clang__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif
#define PASSES dalip_passes_base
#define PASSES_NAME "base"
#define VECTOR_BYTES 16
#include "passes.inc"

const dalip_passes *dalip_passes_get(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
        return &dalip_passes_avx512;
    }
    if (__builtin_cpu_supports("avx2")) {
        return &dalip_passes_avx2;
    }
#endif
    return &dalip_passes_base;
}
