/* The kernels for the instruction set that the build asks for, and the choice among the variants.
 */
#if !defined(__clang__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif
#define KERNELS cps_kernels_base
#define VECTOR_BYTES 16
#define KERNELS_NAME "base"
#include "tensor/kernels.inc"

const cps_kernels *cps_kernels_get(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
        return &cps_kernels_avx512;
    }
    if (__builtin_cpu_supports("avx2")) {
        return &cps_kernels_avx2;
    }
#endif
    return &cps_kernels_base;
}
