/* The only user of cblas.h. Every call runs on one thread: the pool makes the parallelism, so that
 * bits do not depend on it. */
#include "tensor/gemm_engine.h"

#include <cblas.h>

#include "base/numeric.h"

void cps_openblas_start(void) {
    openblas_set_num_threads(1);
}

const char *cps_openblas_core(void) {
    return openblas_get_corename();
}

static enum CBLAS_TRANSPOSE transpose(bool yes) {
    return yes ? CblasTrans : CblasNoTrans;
}

void cps_openblas_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                      double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
                      double beta, double *c, int64_t ldc) {
    cblas_dgemm(CblasRowMajor, transpose(transpose_a), transpose(transpose_b), cps_to_int(m),
                cps_to_int(n), cps_to_int(k), alpha, a, cps_to_int(lda), b, cps_to_int(ldb), beta,
                c, cps_to_int(ldc));
}

void cps_openblas_real(const cps_product *p) {
#ifdef CPS_REAL_DOUBLE
    cps_openblas_f64(p->transpose_a, p->transpose_b, p->m, p->n, p->k, p->alpha, p->a, p->lda, p->b,
                     p->ldb, p->beta, p->c, p->ldc);
#else
    cblas_sgemm(CblasRowMajor, transpose(p->transpose_a), transpose(p->transpose_b),
                cps_to_int(p->m), cps_to_int(p->n), cps_to_int(p->k), (float)p->alpha, p->a,
                cps_to_int(p->lda), p->b, cps_to_int(p->ldb), (float)p->beta, p->c,
                cps_to_int(p->ldc));
#endif
}
