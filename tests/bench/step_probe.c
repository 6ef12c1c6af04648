/* The program with clocks in it: all of copse, where the linker (--wrap, Makefile) puts this file
 * between the training loop and its step, and between operations and products. A training run of it
 * says, for every rank and without the first step, which touches memory for the first time, lines
 * of
 *
 *     probe RANK NAME VALUE
 *
 * After each step its products are repeated as plain calls of cblas_sgemm, one call a product, on
 * as many threads: "alone". Names that end in _cpu are CPU times of threads, which neighbours on a
 * busy machine disturb less than wall time; the others are wall times. The repetition is no part of
 * the step. No checkpoint is written. */
#include <cblas.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "base/numeric.h"
#include "base/pool.h"
#include "tensor/gemm_engine.h"
#include "train/loop_private.h"

enum { MAX_SHAPES = 512, BLAS_SETTLES_MS = 150 };

typedef struct shape {
    cps_product product; /* sizes, transposes and beta alone */
    int64_t count;       /* in this step */
} shape;

static struct {
    bool measuring; /* a step that counts is at work */
    int32_t shape_count;
    shape shapes[MAX_SHAPES];
    cps_real *operands[3];
    int64_t operand_counts[3];
    _Atomic int64_t blas_cpu_ns;
} probe;

typedef enum figure {
    STEPS,
    SAMPLES,
    STEP_SECONDS,
    STEP_CPU,
    PRODUCT_SECONDS, /* inside gemm and attention's products */
    GEMM_SECONDS,
    GEMM_CPU,
    GEMM_FLOP,
    ALONE_SECONDS,
    ALONE_CPU,
    LOADER_SECONDS,
    EXCHANGE_SECONDS,
    FIGURES
} figure;
static const char *const figure_names[FIGURES] = {
    "steps",    "samples",   "step_seconds",  "step_cpu",  "product_seconds", "gemm_seconds",
    "gemm_cpu", "gemm_flop", "alone_seconds", "alone_cpu", "loader_seconds",  "exchange_seconds"};
static double figures[FIGURES];

/* In a product of attention, of which there are too many to time each. */
static _Thread_local bool in_small_product;

static double process_cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static int64_t thread_cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- products in the step -------------------------------------------------------------------- */

#define GEMM_PARAMETERS                                                                            \
    bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,             \
        const cps_real *a, int64_t lda, const cps_real *b, int64_t ldb, double beta, cps_real *c,  \
        int64_t ldc
#define GEMM_ARGUMENTS transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc

/* Names that the linker gives. */
void __real_cps_products(int32_t count, const cps_product *products);
void __wrap_cps_products(int32_t count, const cps_product *products);
void __real_cps_gemm(GEMM_PARAMETERS);
void __wrap_cps_gemm(GEMM_PARAMETERS);
void __real_cps_gemm_exact(GEMM_PARAMETERS);
void __wrap_cps_gemm_exact(GEMM_PARAMETERS);
void __real_cps_gemm_serial(GEMM_PARAMETERS);
void __wrap_cps_gemm_serial(GEMM_PARAMETERS);
void __real_cps_openblas_real(const cps_product *product);
void __wrap_cps_openblas_real(const cps_product *product);
cps_status __real_cps_step_run(cps_step *step, cps_loader *loader, int64_t data_step,
                               int64_t update, cps_step_result *result_out);
cps_status __wrap_cps_step_run(cps_step *step, cps_loader *loader, int64_t data_step,
                               int64_t update, cps_step_result *result_out);
cps_status __wrap_cps_loop_checkpoint(cps_loop *loop);
void __real_cps_loop_finish_report(cps_loop *loop);
void __wrap_cps_loop_finish_report(cps_loop *loop);

static bool same_shape(const cps_product *p, const cps_product *q) {
    return p->m == q->m && p->n == q->n && p->k == q->k && p->transpose_a == q->transpose_a &&
           p->transpose_b == q->transpose_b && p->beta == q->beta;
}

static void note_shape(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                       double beta) {
    const cps_product product = {.transpose_a = transpose_a,
                                 .transpose_b = transpose_b,
                                 .m = m,
                                 .n = n,
                                 .k = k,
                                 .beta = beta};
    if (!probe.measuring || m == 0 || n == 0 || k == 0) {
        return;
    }
    figures[GEMM_FLOP] += 2.0 * (double)m * (double)n * (double)k;
    for (int32_t i = 0; i < probe.shape_count; i++) {
        if (same_shape(&probe.shapes[i].product, &product)) {
            probe.shapes[i].count++;
            return;
        }
    }
    if (probe.shape_count == MAX_SHAPES) {
        fprintf(stderr, "step_probe: more than %d kinds of products\n", MAX_SHAPES);
        abort();
    }
    probe.shapes[probe.shape_count++] = (shape){.product = product, .count = 1};
}

static double product_seconds(void) {
    double seconds = 0, flop = 0;
    cps_product_time(&seconds, &flop);
    return seconds;
}

void __wrap_cps_products(int32_t count, const cps_product *products) {
    const double before = product_seconds();
    __real_cps_products(count, products);
    figures[GEMM_SECONDS] += probe.measuring ? product_seconds() - before : 0;
    for (int32_t i = 0; i < count; i++) {
        const cps_product *p = &products[i];
        note_shape(p->transpose_a, p->transpose_b, p->m, p->n, p->k, p->beta);
    }
}

void __wrap_cps_gemm(GEMM_PARAMETERS) {
    const double before = product_seconds();
    __real_cps_gemm(GEMM_ARGUMENTS);
    figures[GEMM_SECONDS] += probe.measuring ? product_seconds() - before : 0;
    note_shape(transpose_a, transpose_b, m, n, k, beta);
}

void __wrap_cps_gemm_exact(GEMM_PARAMETERS) {
    const double before = product_seconds();
    __real_cps_gemm_exact(GEMM_ARGUMENTS);
    figures[GEMM_SECONDS] += probe.measuring ? product_seconds() - before : 0;
    note_shape(transpose_a, transpose_b, m, n, k, beta);
}

void __wrap_cps_gemm_serial(GEMM_PARAMETERS) {
    in_small_product = true;
    __real_cps_gemm_serial(GEMM_ARGUMENTS);
    in_small_product = false;
}

void __wrap_cps_openblas_real(const cps_product *product) {
    if (in_small_product || !probe.measuring) {
        __real_cps_openblas_real(product);
        return;
    }
    const int64_t before = thread_cpu_ns();
    __real_cps_openblas_real(product);
    atomic_fetch_add(&probe.blas_cpu_ns, thread_cpu_ns() - before);
}

/* ---- the same products alone ----------------------------------------------------------------- */

/* Operand 0, 1 or 2 with room for `count` elements; its values do not matter to the rate. */
static cps_real *operand(int which, int64_t count) {
    if (probe.operand_counts[which] < count) {
        free(probe.operands[which]);
        probe.operands[which] =
            aligned_alloc(64, ((size_t)count * sizeof(cps_real) + 63) / 64 * 64);
        probe.operand_counts[which] = count;
        for (int64_t i = 0; probe.operands[which] != NULL && i < count; i++) {
            probe.operands[which][i] = (cps_real)((double)(i % 997) * 1e-3 - 0.5);
        }
    }
    return probe.operands[which];
}

static void product_alone(const cps_product *p) {
    const enum CBLAS_TRANSPOSE transpose[] = {CblasNoTrans, CblasTrans};
    const int m = (int)p->m, n = (int)p->n, k = (int)p->k;
    const cps_real *a = operand(0, p->m * p->k), *b = operand(1, p->k * p->n);
    cps_real *c = operand(2, p->m * p->n);
    const int lda = p->transpose_a ? m : k, ldb = p->transpose_b ? k : n;
#ifdef CPS_REAL_DOUBLE
    cblas_dgemm(CblasRowMajor, transpose[p->transpose_a], transpose[p->transpose_b], m, n, k, 1, a,
                lda, b, ldb, p->beta, c, n);
#else
    cblas_sgemm(CblasRowMajor, transpose[p->transpose_a], transpose[p->transpose_b], m, n, k, 1, a,
                lda, b, ldb, (float)p->beta, c, n);
#endif
}

static void repeat_alone(void) {
    int64_t most[3] = {0, 0, 0};
    for (int32_t i = 0; i < probe.shape_count; i++) {
        const cps_product *p = &probe.shapes[i].product;
        most[0] = cps_max_i64(most[0], p->m * p->k);
        most[1] = cps_max_i64(most[1], p->k * p->n);
        most[2] = cps_max_i64(most[2], p->m * p->n);
    }
    for (int i = 0; i < 3; i++) {
        operand(i, most[i]);
    }
    openblas_set_num_threads(cps_pool_threads());
    const double cpu = process_cpu();
    const int64_t start = cps_nanoseconds();
    for (int32_t i = 0; i < probe.shape_count; i++) {
        for (int64_t call = 0; call < probe.shapes[i].count; call++) {
            product_alone(&probe.shapes[i].product);
        }
    }
    figures[ALONE_SECONDS] += 1e-9 * (double)(cps_nanoseconds() - start);
    figures[ALONE_CPU] += process_cpu() - cpu;
    openblas_set_num_threads(1);
    /* OpenBLAS's threads watch for work a while before they sleep. */
    nanosleep(&(struct timespec){.tv_nsec = BLAS_SETTLES_MS * 1000000L}, NULL);
}

/* ---- steps ----------------------------------------------------------------------------------- */

cps_status __wrap_cps_step_run(cps_step *step, cps_loader *loader, int64_t data_step,
                               int64_t update, cps_step_result *result_out) {
    probe.measuring = data_step > 0;
    probe.shape_count = 0;
    atomic_store(&probe.blas_cpu_ns, 0);
    const double products = product_seconds(), cpu = process_cpu();
    const cps_status status = __real_cps_step_run(step, loader, data_step, update, result_out);
    if (probe.measuring && status == CPS_OK) {
        figures[STEPS] += 1;
        figures[STEP_SECONDS] += result_out->seconds;
        figures[STEP_CPU] += process_cpu() - cpu;
        figures[PRODUCT_SECONDS] += product_seconds() - products;
        figures[GEMM_CPU] += 1e-9 * (double)atomic_load(&probe.blas_cpu_ns);
        figures[LOADER_SECONDS] += result_out->loader_seconds;
        figures[EXCHANGE_SECONDS] += result_out->exchange_seconds;
        repeat_alone();
    }
    probe.measuring = false;
    return status;
}

cps_status __wrap_cps_loop_checkpoint(cps_loop *loop) {
    (void)loop;
    return CPS_OK;
}

void __wrap_cps_loop_finish_report(cps_loop *loop) {
    enum { MOST_RANKS = 64 };
    static double all[MOST_RANKS][FIGURES];
    int64_t bytes[MOST_RANKS];
    const cps_comm *comm = loop->run->comm;
    const int32_t ranks = cps_comm_size(comm);
    figures[SAMPLES] =
        figures[STEPS] * (double)loop->run->stages[0].plan->options.global_batch / ranks;
    for (int32_t r = 0; r < ranks && r < MOST_RANKS; r++) {
        bytes[r] = sizeof figures;
    }
    cps_comm_allgatherv(loop->run->comm, "figures", figures, all, bytes);
    for (int32_t r = 0; r < ranks && cps_comm_rank(comm) == 0; r++) {
        for (int i = 0; i < FIGURES; i++) {
            printf("probe %d %s %.9g\n", r, figure_names[i], all[r][i]);
        }
    }
    if (cps_comm_rank(comm) == 0) {
        printf("probe 0 family %s\n", cps_gemm_core_name());
        fflush(stdout);
    }
    __real_cps_loop_finish_report(loop);
}
