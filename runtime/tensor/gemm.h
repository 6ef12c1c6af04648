/* Matrix products: C = alpha * op(A) * op(B) + beta * C, row-major. The one door to BLAS: cuts
 * fixed tiles (a function of M, N, K alone, never of threads or ranks), runs them single-threaded
 * as tasks of the pool. So bits depend on M, N, K and the BLAS core family only. */
#ifndef CPS_TENSOR_GEMM_H
#define CPS_TENSOR_GEMM_H

#include "base/status.h"

/* Called once before the first product (main thread): sets BLAS to one thread a call. */
void cps_gemm_start(void);
/* Name of the BLAS core family in use ("SkylakeX", "Haswell", ...), for logs, checkpoints and
 * agreement. */
const char *cps_gemm_core_name(void);
/* Precision of products from now on, on the main thread: "fp32" (OpenBLAS), "bf16" (bf16 operands,
 * fp32 accumulation, where the CPU has AMX or AVX512-BF16; UNAVAILABLE, naming what is missing), or
 * "auto": bf16 if it is to be had, else fp32, and cps_fail_message says why. */
cps_status cps_gemm_set_precision(const char *precision) CPS_MUST_CHECK;
/* "fp32", or "bf16 (AMX, oneDNN 2.6.3)": for logs, checkpoints and agreement, since bits depend on
 * all of it. */
const char *cps_gemm_precision(void);

/* lda, ldb, ldc: elements between rows. Row-major. Parallel inside. */
void cps_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
              const cps_real *a, int64_t lda, const cps_real *b, int64_t ldb, double beta,
              cps_real *c, int64_t ldc);
/* The same always in full precision (losses, Gram matrices). */
void cps_gemm_exact(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                    double alpha, const cps_real *a, int64_t lda, const cps_real *b, int64_t ldb,
                    double beta, cps_real *c, int64_t ldc);
/* One product without the pool, for bodies of cps_parallel. Not timed. */
void cps_gemm_serial(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                     double alpha, const cps_real *a, int64_t lda, const cps_real *b, int64_t ldb,
                     double beta, cps_real *c, int64_t ldc);
/* double in every build: for fit_solve and statistics. */
void cps_gemm_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                  const double *a, int64_t lda, const double *b, int64_t ldb, double beta,
                  double *c, int64_t ldc);
/* In place Cholesky A = L L^T (lower), then solves A X = B in place; DATA if A is not positive
 * definite (pivot named). Our own code with fixed blocks: same bits on every rank. */
cps_status cps_cholesky_solve_f64(int64_t n, double *a, int64_t columns, double *b) CPS_MUST_CHECK;

#endif
