/* Rates of the operations at the shapes of ViT-B-32 with grains of 32, beside bare OpenBLAS on one
 * thread with the same products. For tuning:  ops_bench [THREADS [PRECISION]]. Prints milliseconds
 * and, for products, GFLOP/s; "share" is the part of a step of the image tower's operations that is
 * spent inside products (cps_product_time). */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/pool.h"
#include "tensor/gemm.h"
#include "tensor/kernels.h"
#include "tensor/ops.h"

enum { REPEATS = 5 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static cps_real *filled(int64_t count) {
    cps_real *values = aligned_alloc(64, (((size_t)count * sizeof *values) + 63) & ~(size_t)63);
    for (int64_t i = 0; values != NULL && i < count; i++) {
        values[i] = (cps_real)((double)((i * 2654435761) % 1000) * 2e-3 - 1.0);
    }
    return values;
}

/* ---- bare OpenBLAS
 * ------------------------------------------------------------------------------------------------------------
 */
typedef struct bare {
    int m, n, k; /* of y = x W^T */
    const cps_real *x, *w, *dy;
    cps_real *y, *dx, *dw;
} bare;

static void blas(bool ta, bool tb, int m, int n, int k, const cps_real *a, int lda,
                 const cps_real *b, int ldb, cps_real *c, int ldc) {
    const enum CBLAS_TRANSPOSE t[] = {CblasNoTrans, CblasTrans};
#ifdef CPS_REAL_DOUBLE
    cblas_dgemm(CblasRowMajor, t[ta], t[tb], m, n, k, 1, a, lda, b, ldb, 0, c, ldc);
#else
    cblas_sgemm(CblasRowMajor, t[ta], t[tb], m, n, k, 1, a, lda, b, ldb, 0, c, ldc);
#endif
}

/* Best seconds of forward and of both backward products. */
static void bare_linear(const bare *b, double *forward, double *backward) {
    *forward = *backward = 1e9;
    for (int r = 0; r < REPEATS; r++) {
        double start = now();
        blas(false, true, b->m, b->n, b->k, b->x, b->k, b->w, b->k, b->y, b->n);
        const double took = now() - start;
        *forward = took < *forward ? took : *forward;
        start = now();
        blas(false, false, b->m, b->k, b->n, b->dy, b->n, b->w, b->k, b->dx, b->k);
        blas(true, false, b->n, b->k, b->m, b->dy, b->n, b->x, b->k, b->dw, b->k);
        const double back = now() - start;
        *backward = back < *backward ? back : *backward;
    }
}

/* ---- operations
 * ---------------------------------------------------------------------------------------------------------------
 */
typedef struct bench {
    cps_arena *arena;
    cps_tape *tape;
    int32_t *offsets;
    int64_t rows, sequences;
    bool causal;
    int32_t heads;
} bench;

typedef cps_tensor *(*build)(bench *b, cps_tensor **in);

static cps_tensor *leaf(bench *b, int32_t rank, const int64_t *shape, cps_real *data,
                        cps_real *grad) {
    cps_tensor *made = cps_tape_leaf(b->tape, CPS_REAL, rank, shape, data, grad, -1);
    made->grad_fresh = true;
    return made;
}

typedef struct operand {
    int32_t rank;
    int64_t shape[2];
    cps_real *data, *grad;
} operand;

/* Best seconds of forward and backward, and of the products in each. */
static void measure(bench *b, build body, int count, const operand *operands, double out[4]) {
    static cps_real *seed;
    if (seed == NULL) {
        seed = filled(4000 * 3072);
    }
    out[0] = out[1] = out[2] = out[3] = 1e9;
    for (int r = 0; r < REPEATS; r++) {
        cps_tape_reset(b->tape);
        cps_tensor *in[8];
        for (int i = 0; i < count; i++) {
            in[i] =
                leaf(b, operands[i].rank, operands[i].shape, operands[i].data, operands[i].grad);
        }
        double p0, p1, p2, flop;
        cps_product_time(&p0, &flop);
        const double t0 = now();
        cps_tensor *y = body(b, in);
        const double t1 = now();
        cps_product_time(&p1, &flop);
        cps_tape_seed(b->tape, y, seed);
        if (y == NULL || cps_backward(b->tape, NULL, 1.0) != CPS_OK) {
            fprintf(stderr, "%s\n", cps_fail_message());
            exit(1);
        }
        const double t2 = now();
        cps_product_time(&p2, &flop);
        const double took[] = {t1 - t0, t2 - t1, p1 - p0, p2 - p1};
        for (int i = 0; i < 4; i++) {
            out[i] = took[i] < out[i] ? took[i] : out[i];
        }
    }
}

static cps_tensor *build_linear(bench *b, cps_tensor **in) {
    return cps_linear(b->tape, in[0], in[1], in[2], CPS_ACT_NONE);
}
static cps_tensor *build_gelu(bench *b, cps_tensor **in) {
    return cps_linear(b->tape, in[0], in[1], in[2], CPS_ACT_GELU);
}
static cps_tensor *build_attention(bench *b, cps_tensor **in) {
    return cps_attention(b->tape, in[0], b->heads, b->sequences, b->offsets, b->causal);
}
static cps_tensor *build_norm(bench *b, cps_tensor **in) {
    return cps_layer_norm(b->tape, in[0], in[1], in[2], 1e-5);
}
static cps_tensor *build_add(bench *b, cps_tensor **in) {
    return cps_add(b->tape, in[0], in[1]);
}

/* One block of the tower: in = x, gain, bias, in_proj w b, out_proj w b, c_fc w b, c_proj w b */
static cps_tensor *block(bench *b, cps_tensor *x, cps_tensor **p) {
    cps_tape *t = b->tape;
    cps_tensor *qkv =
        cps_linear(t, cps_layer_norm(t, x, p[1], p[2], 1e-5), p[3], p[4], CPS_ACT_NONE);
    cps_tensor *a = cps_attention(t, qkv, b->heads, b->sequences, b->offsets, b->causal);
    x = cps_add(t, x, cps_linear(t, a, p[5], p[2], CPS_ACT_NONE));
    cps_tensor *h = cps_linear(t, cps_layer_norm(t, x, p[1], p[2], 1e-5), p[6], p[7], CPS_ACT_GELU);
    return cps_add(t, x, cps_linear(t, h, p[8], p[2], CPS_ACT_NONE));
}
static cps_tensor *build_blocks(bench *b, cps_tensor **in) {
    cps_tensor *x = in[0];
    for (int i = 0; i < 4; i++) {
        x = block(b, x, in); /* one set of weights: the rates are the same */
    }
    return x;
}

static void show(const char *name, int threads, const double t[4], double flop_forward,
                 double bare_forward, double bare_backward) {
    printf("%-28s forward %7.2f ms  backward %7.2f ms  products %3.0f %% %3.0f %%", name,
           1e3 * t[0], 1e3 * t[1], 100.0 * t[2] / t[0], 100.0 * t[3] / t[1]);
    if (bare_forward > 0.0) {
        printf("  inside %6.1f %6.1f GFLOP/s a thread; bare %6.1f %6.1f; ratio %.2f %.2f",
               1e-9 * flop_forward / t[2] / threads, 2e-9 * flop_forward / t[3] / threads,
               1e-9 * flop_forward / bare_forward, 2e-9 * flop_forward / bare_backward,
               bare_forward / t[2] / threads, bare_backward / t[3] / threads);
    }
    printf("\n");
}

static void bench_linear(bench *b, int threads, int64_t rows, int64_t in, int64_t out, bool gelu) {
    operand o[] = {{2, {rows, in}, filled(rows * in), filled(rows * in)},
                   {2, {out, in}, filled(out * in), filled(out * in)},
                   {1, {out}, filled(out), filled(out)}};
    cps_real *y = filled(rows * out), *dy = filled(rows * out);
    const bare plain = {(int)rows, (int)out, (int)in,   o[0].data, o[1].data,
                        dy,        y,        o[0].grad, o[1].grad};
    double t[4], forward, backward;
    measure(b, gelu ? build_gelu : build_linear, 3, o, t);
    bare_linear(&plain, &forward, &backward);
    char name[64];
    snprintf(name, sizeof name, "linear %dx%dx%d%s", (int)rows, (int)out, (int)in,
             gelu ? " gelu" : "");
    show(name, threads, t, 2.0 * (double)(rows * in * out), forward, backward);
    for (int i = 0; i < 3; i++) {
        free(o[i].data);
        free(o[i].grad);
    }
    free(y);
    free(dy);
}

static void bench_tower(bench *b, int threads, const char *name, int64_t width) {
    const int64_t rows = b->rows,
                  sizes[][2] = {{rows, width},      {width, 1},     {width, 1},
                                {3 * width, width}, {3 * width, 1}, {width, width},
                                {4 * width, width}, {4 * width, 1}, {width, 4 * width}};
    operand o[9];
    for (int i = 0; i < 9; i++) {
        const int64_t count = sizes[i][0] * sizes[i][1];
        o[i] = (operand){
            sizes[i][1] == 1 ? 1 : 2, {sizes[i][0], sizes[i][1]}, filled(count), filled(count)};
    }
    double t[4];
    operand attention = {2, {rows, 3 * width}, filled(3 * rows * width), filled(3 * rows * width)};
    measure(b, build_attention, 1, &attention, t);
    printf("%s: %d rows\n", name, (int)rows);
    show("  attention", threads, t, 0, 0, 0);
    measure(b, build_norm, 3, o, t);
    show("  layer norm", threads, t, 0, 0, 0);
    operand two[2] = {o[0], o[0]};
    measure(b, build_add, 2, two, t);
    show("  add", threads, t, 0, 0, 0);
    for (int i = 3; i < 9; i++) {
        for (int64_t k = 0; k < sizes[i][0] * sizes[i][1]; k++) {
            o[i].data[k] *= (cps_real)0.03;
        }
    }
    measure(b, build_blocks, 9, o, t);
    show("  4 blocks", threads, t, 0, 0, 0);
    const double flop = 4.0 * 24.0 * (double)rows * (double)(width * width);
    printf("  4 blocks: share of products %.3f, all %.1f GFLOP/s a thread (linear layers alone)\n",
           (t[2] + t[3]) / (t[0] + t[1]), 3e-9 * flop / (t[0] + t[1]) / threads);
    for (int i = 0; i < 9; i++) {
        free(o[i].data);
        free(o[i].grad);
    }
    free(attention.data);
    free(attention.grad);
}

int main(int argc, char **argv) {
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    bench b = {.heads = 12};
    if (threads < 1 || cps_pool_start(threads) != CPS_OK ||
        cps_arena_create("bench", (size_t)64 << 20, true, &b.arena) != CPS_OK ||
        cps_tape_create(b.arena, CPS_TAPE_RECORD, NULL, &b.tape) != CPS_OK) {
        fprintf(stderr, "usage: ops_bench [THREADS [PRECISION]] %s\n", cps_fail_message());
        return 1;
    }
    cps_gemm_start();
    if (argc > 2 && cps_gemm_set_precision(argv[2]) != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        return 1;
    }
    printf("%d threads, BLAS family %s, products in %s, kernels %s, real of %d bytes\n", threads,
           cps_gemm_core_name(), cps_gemm_precision(), cps_kernels_get()->name,
           (int)sizeof(cps_real));
    bench_linear(&b, threads, 1600, 768, 2304, false);
    bench_linear(&b, threads, 1600, 768, 768, false);
    bench_linear(&b, threads, 1600, 768, 3072, true);
    bench_linear(&b, threads, 1600, 3072, 768, false);
    bench_linear(&b, threads, 640, 512, 2048, true);
    b.sequences = 32;
    b.offsets = malloc(33 * sizeof *b.offsets);
    for (int32_t i = 0; b.offsets != NULL && i <= 32; i++) {
        b.offsets[i] = 50 * i;
    }
    b.rows = 1600;
    bench_tower(&b, threads, "image", 768);
    for (int32_t i = 0, at = 0; i <= 32; i++) {
        b.offsets[i] = at;
        at += 12 + i * 7 % 17; /* captions of 12 to 28 tokens */
    }
    b.rows = b.offsets[32];
    b.heads = 8;
    b.causal = true;
    bench_tower(&b, threads, "text", 512);
    return 0;
}
