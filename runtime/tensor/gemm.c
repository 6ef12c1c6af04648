/* Cuts products into tiles and runs them on the pool. The cut depends on M, N and K alone; K is
 * never cut. Tiles are strips over the longer side: measured beside the whole product, strips of
 * 400 to 800 reach 0.92 to 0.99 of its rate, square tiles 0.80 to 0.88 (BLAS packs both operands
 * for every call). */
#include "tensor/gemm.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/numeric.h"
#include "base/pool.h"
#include "tensor/gemm_engine.h"
#include "tensor/tape.h"

/* Process-wide, as the engine is: the precision, and the totals of cps_product_time. */
static bool bf16;
static _Atomic int64_t product_nanoseconds, product_kiloflop;

int64_t cps_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void cps_gemm_start(void) {
    cps_openblas_start();
}

const char *cps_gemm_core_name(void) {
    return cps_openblas_core();
}

cps_status cps_gemm_set_precision(const char *precision) {
    const bool automatic = strcmp(precision, "auto") == 0;
    if (strcmp(precision, "fp32") == 0) {
        bf16 = false;
        return CPS_OK;
    }
    if (strcmp(precision, "bf16") != 0 && !automatic) {
        return cps_fail(CPS_ERR_USAGE,
                        "precision '%s' is unknown; \"fp32\", \"bf16\" and \"auto\" exist",
                        precision);
    }
    const cps_status status = cps_onednn_start();
    bf16 = status == CPS_OK;
    return automatic ? CPS_OK : status;
}

const char *cps_gemm_precision(void) {
    return bf16 ? cps_onednn_name() : "fp32";
}

/* ---- one tile
 * ----------------------------------------------------------------------------------------------------------------
 */
/* k = 0, which BLAS libraries treat differently: C = beta C, and beta = 0 writes zeros whatever C
 * held. */
static void scale_only(const cps_product *p) {
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < p->n; j++) {
            cps_real *c = p->c + i * p->ldc + j;
            *c = p->beta == 0.0 ? (cps_real)0 : (cps_real)(p->beta * (double)*c);
        }
    }
}

static void product_serial(const cps_product *p) {
    if (p->m == 0 || p->n == 0) {
        return;
    }
    if (p->k == 0) {
        scale_only(p);
    } else {
        cps_openblas_real(p);
    }
}

/* ---- cutting
 * -----------------------------------------------------------------------------------------------------------------
 */
typedef struct cut {
    int64_t rows, columns;           /* of a tile */
    int64_t row_count, column_count; /* tiles */
} cut;

/* Strips along `extent`: about a quarter of it, but 400 to 800 wide; an even number, so that two
 * threads have equal work. Multiples of 16 keep the kernels of BLAS on whole registers. */
static int64_t strip_size(int64_t extent) {
    enum { NARROW = 400, WIDE = 800, LEAST = 256 };
    if (extent < LEAST) {
        return extent;
    }
    const int64_t wanted = cps_min_i64(cps_max_i64(cps_ceil_div(extent, 4), NARROW), WIDE);
    const int64_t pairs = cps_ceil_div(extent, 2 * wanted);
    return cps_ceil_div(cps_ceil_div(extent, 2 * pairs), 16) * 16;
}

/* The longer side is cut: each strip packs the other operand anew, and that is the smaller one
 * then. */
static cut cut_product(int64_t m, int64_t n, int64_t k) {
    const double worth = 2e7; /* flop: less is done before a second thread has woken up */
    cut c = {.rows = m, .columns = n, .row_count = m > 0, .column_count = n > 0};
    if (2.0 * (double)m * (double)n * (double)k < worth) {
        return c;
    }
    if (m >= n) {
        c.rows = strip_size(m);
        c.row_count = cps_ceil_div(m, c.rows);
    } else {
        c.columns = strip_size(n);
        c.column_count = cps_ceil_div(n, c.columns);
    }
    return c;
}

/* Products in bf16 are packed before, so a strip costs nothing but itself: all have one size. */
static cut cut_bf16(int64_t m) {
    return (cut){.rows = CPS_ONEDNN_STRIP,
                 .row_count = cps_ceil_div(m, CPS_ONEDNN_STRIP),
                 .column_count = 1};
}

typedef struct tiles {
    const cps_product *products;
    int32_t packed[CPS_PRODUCTS_MAX]; /* number among the products in bf16; -1: not one */
    cut cuts[CPS_PRODUCTS_MAX];
    int64_t first[CPS_PRODUCTS_MAX + 1]; /* task numbers */
    int32_t count;
    _Atomic int64_t product_ns, all_ns; /* of all tasks: products, and with their epilogues */
} tiles;

static void run_tile(void *context, int64_t index) {
    tiles *all = context;
    int32_t which = 0;
    while (index >= all->first[which + 1]) {
        which++;
    }
    const cut *c = &all->cuts[which];
    const int64_t task = index - all->first[which];
    const int64_t row = task % c->row_count * c->rows, column = task / c->row_count * c->columns;
    cps_product p = all->products[which];
    const bool packed = all->packed[which] >= 0;
    const int64_t row_end = cps_min_i64(row + c->rows, p.m),
                  column_end = packed ? p.n : cps_min_i64(column + c->columns, p.n);
    p.a += p.transpose_a ? row : row * p.lda;
    p.b += p.transpose_b ? column * p.ldb : column;
    p.c += row * p.ldc + column;
    p.m = row_end - row;
    p.n = column_end - column;
    const int64_t start = cps_nanoseconds();
    if (packed) {
        cps_onednn_strip(all->packed[which], row, row_end);
    } else {
        product_serial(&p);
    }
    const int64_t end = cps_nanoseconds();
    if (p.epilogue != NULL) {
        p.epilogue(p.context, row, row_end, column, column_end);
    }
    atomic_fetch_add_explicit(&all->product_ns, end - start, memory_order_relaxed);
    atomic_fetch_add_explicit(&all->all_ns, (p.epilogue != NULL ? cps_nanoseconds() : end) - start,
                              memory_order_relaxed);
}

void cps_product_account(double seconds, int64_t product_ns, int64_t all_ns, double flop) {
    const double share = all_ns > 0 ? (double)product_ns / (double)all_ns : 1.0;
    atomic_fetch_add(&product_nanoseconds, (int64_t)(1e9 * seconds * share));
    atomic_fetch_add(&product_kiloflop, (int64_t)(1e-3 * flop + 0.5));
}

/* Packs what is to be computed in bf16. */
static void prepare_bf16(tiles *all) {
    const cps_product *packed[CPS_PRODUCTS_MAX];
    int32_t count = 0;
    for (int32_t i = 0; i < all->count; i++) {
        const cps_product *p = &all->products[i];
        const bool wanted = bf16 && !p->exact && p->m > 0 && p->n > 0 && p->k > 0;
        all->packed[i] = wanted ? count : -1;
        if (wanted) {
            packed[count++] = p;
        }
    }
    if (count == 0) {
        return;
    }
    const int64_t start = cps_nanoseconds();
    cps_onednn_prepare(count, packed);
    cps_product_account(1e-9 * (double)(cps_nanoseconds() - start), 0, 0, 0.0);
}

void cps_products(int32_t count, const cps_product *products) {
    CPS_BUG_IF(count > CPS_PRODUCTS_MAX);
    tiles all = {.products = products, .count = count};
    prepare_bf16(&all);
    double flop = 0.0;
    for (int32_t i = 0; i < count; i++) {
        const cps_product *p = &products[i];
        all.cuts[i] = all.packed[i] >= 0 ? cut_bf16(p->m) : cut_product(p->m, p->n, p->k);
        all.first[i + 1] = all.first[i] + all.cuts[i].row_count * all.cuts[i].column_count;
        flop += 2.0 * (double)p->m * (double)p->n * (double)p->k;
    }
    for (int32_t i = count; i < CPS_PRODUCTS_MAX; i++) {
        all.first[i + 1] = all.first[i];
    }
    const int64_t start = cps_nanoseconds();
    cps_parallel(all.first[count], run_tile, &all);
    cps_product_account(1e-9 * (double)(cps_nanoseconds() - start), atomic_load(&all.product_ns),
                        atomic_load(&all.all_ns), flop);
}

void cps_product_time(double *seconds_out, double *flop_out) {
    *seconds_out = 1e-9 * (double)atomic_load(&product_nanoseconds);
    *flop_out = 1e3 * (double)atomic_load(&product_kiloflop);
}

/* ---- the doors of gemm.h
 * -----------------------------------------------------------------------------------------------------
 */
static cps_product describe(bool exact, bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                            int64_t k, double alpha, const cps_real *a, int64_t lda,
                            const cps_real *b, int64_t ldb, double beta, cps_real *c, int64_t ldc) {
    return (cps_product){.exact = exact,
                         .transpose_a = transpose_a,
                         .transpose_b = transpose_b,
                         .m = m,
                         .n = n,
                         .k = k,
                         .alpha = alpha,
                         .beta = beta,
                         .a = a,
                         .b = b,
                         .c = c,
                         .lda = lda,
                         .ldb = ldb,
                         .ldc = ldc};
}

void cps_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
              const cps_real *a, int64_t lda, const cps_real *b, int64_t ldb, double beta,
              cps_real *c, int64_t ldc) {
    const cps_product p =
        describe(false, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    cps_products(1, &p);
}

void cps_gemm_exact(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                    double alpha, const cps_real *a, int64_t lda, const cps_real *b, int64_t ldb,
                    double beta, cps_real *c, int64_t ldc) {
    const cps_product p =
        describe(true, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    cps_products(1, &p);
}

void cps_gemm_serial(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                     double alpha, const cps_real *a, int64_t lda, const cps_real *b, int64_t ldb,
                     double beta, cps_real *c, int64_t ldc) {
    const cps_product p =
        describe(true, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    product_serial(&p);
}

/* ---- double
 * -------------------------------------------------------------------------------------------------------------------
 */
typedef struct tiles_f64 {
    bool transpose_a, transpose_b;
    int64_t m, n, k, lda, ldb, ldc;
    double alpha, beta;
    const double *a, *b;
    double *c;
    cut cut;
} tiles_f64;

static void run_tile_f64(void *context, int64_t task) {
    const tiles_f64 *t = context;
    const int64_t row = task % t->cut.row_count * t->cut.rows,
                  column = task / t->cut.row_count * t->cut.columns;
    cps_openblas_f64(t->transpose_a, t->transpose_b, cps_min_i64(t->cut.rows, t->m - row),
                     cps_min_i64(t->cut.columns, t->n - column), t->k, t->alpha,
                     t->a + (t->transpose_a ? row : row * t->lda), t->lda,
                     t->b + (t->transpose_b ? column * t->ldb : column), t->ldb, t->beta,
                     t->c + row * t->ldc + column, t->ldc);
}

void cps_gemm_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                  const double *a, int64_t lda, const double *b, int64_t ldb, double beta,
                  double *c, int64_t ldc) {
    if (k == 0) {
        for (int64_t i = 0; i < m * n; i++) {
            double *place = c + i / n * ldc + i % n;
            *place = beta == 0.0 ? 0.0 : beta * *place;
        }
        return;
    }
    tiles_f64 t = {.transpose_a = transpose_a,
                   .transpose_b = transpose_b,
                   .m = m,
                   .n = n,
                   .k = k,
                   .lda = lda,
                   .ldb = ldb,
                   .ldc = ldc,
                   .alpha = alpha,
                   .beta = beta,
                   .a = a,
                   .b = b,
                   .c = c,
                   .cut = cut_product(m, n, k)};
    cps_parallel(t.cut.row_count * t.cut.column_count, run_tile_f64, &t);
}
