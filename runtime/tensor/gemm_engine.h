/* The engines behind gemm.h, and products with an epilogue. Private to tensor/. */
#ifndef CPS_TENSOR_GEMM_ENGINE_H
#define CPS_TENSOR_GEMM_ENGINE_H

#include "tensor/gemm.h"

/* One product, row-major, on the calling thread. */
typedef struct cps_product {
    bool transpose_a, transpose_b;
    bool exact; /* full precision whatever the setting */
    int64_t m, n, k;
    double alpha, beta;
    const cps_real *a, *b;
    cps_real *c;
    int64_t lda, ldb, ldc;
    /* Called for each finished tile of C, rows [row, row_end) and columns [column, column_end), on
     * the thread that made it. May be NULL. */
    void (*epilogue)(void *context, int64_t row, int64_t row_end, int64_t column,
                     int64_t column_end);
    void *context;
} cps_product;

enum { CPS_PRODUCTS_MAX = 4 };
/* Products that write different places, cut into tiles, all tiles as tasks of one parallel loop.
 * Main thread; timed. */
void cps_products(int32_t count, const cps_product *products);
/* Time and work of products that another operation ran (attention): of `seconds` wall time the
 * share product_ns / all_ns. */
void cps_product_account(double seconds, int64_t product_ns, int64_t all_ns, double flop);
int64_t cps_nanoseconds(void); /* monotonic clock */

/* --- OpenBLAS --- */
void cps_openblas_start(void);
const char *cps_openblas_core(void);
void cps_openblas_real(const cps_product *product);
void cps_openblas_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                      double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
                      double beta, double *c, int64_t ldc);

/* --- oneDNN: bf16 operands, fp32 accumulation --- */
/* Opens the library. UNAVAILABLE, naming what is missing, where build, CPU or machine have no bf16
 * products. */
cps_status cps_onednn_start(void) CPS_MUST_CHECK;
/* "bf16 (AMX, oneDNN 2.6.3)": everything that bits depend on. */
const char *cps_onednn_name(void);
/* Packs the operands of these products (m, n, k > 0), on the pool; main thread. They stay packed
 * until the next call. */
void cps_onednn_prepare(int32_t count, const cps_product *const *products);
/* Rows [row, row_end) of product `which` of the last prepare: one strip from a multiple of
 * CPS_ONEDNN_STRIP to the next, or to the end. For bodies of cps_parallel. */
enum { CPS_ONEDNN_STRIP = 192 };
void cps_onednn_strip(int32_t which, int64_t row, int64_t row_end);

#endif
