/* The loops that are no matrix product, over one row or a run of elements. Compiled once for each
 * instruction set from kernels.inc and chosen at run time; sums go through a fixed number of lanes
 * and nothing is contracted, so every variant gives the same bits. Private to tensor/. Local, safe
 * on any thread, cannot fail. n may be 0 unless said otherwise. */
#ifndef CPS_TENSOR_KERNELS_H
#define CPS_TENSOR_KERNELS_H

#include "tensor/op_types.h"

typedef struct cps_kernels {
    const char *name;
    /* Element by element. y may be one of the operands. */
    void (*add)(int64_t n, const cps_real *a, const cps_real *b, cps_real *y);
    void (*sub)(int64_t n, const cps_real *a, const cps_real *b, cps_real *y);
    void (*mul)(int64_t n, const cps_real *a, const cps_real *b, cps_real *y);
    void (*div)(int64_t n, const cps_real *a, const cps_real *b, cps_real *y);
    void (*mul_add)(int64_t n, const cps_real *a, const cps_real *b, cps_real *y); /* y += a b */
    void (*scale)(int64_t n, cps_real alpha, const cps_real *x, cps_real beta,
                  cps_real *y); /* y = alpha x + beta */
    void (*scale_add)(int64_t n, cps_real alpha, const cps_real *x, cps_real *y); /* y += alpha x */
    void (*unary)(cps_unary_kind kind, int64_t n, const cps_real *x, cps_real *y);
    /* dx (+)= dy * f'(x); y = f(x). */
    void (*unary_grad)(cps_unary_kind kind, int64_t n, const cps_real *x, const cps_real *y,
                       const cps_real *dy, bool add, cps_real *dx);

    /* Linear's row: pre += bias (may be NULL); y = act(pre). y may be pre. */
    void (*bias_act)(cps_activation act, int64_t n, const cps_real *bias, cps_real *pre,
                     cps_real *y);
    /* pre <- dy * act'(pre); sums += the new pre. */
    void (*act_grad)(cps_activation act, int64_t n, const cps_real *dy, cps_real *pre,
                     cps_real *sums);

    /* Sums in double. */
    double (*sum)(int64_t n, const cps_real *x);
    double (*dot)(int64_t n, const cps_real *a, const cps_real *b);
    cps_real (*max)(int64_t n, const cps_real *x); /* n >= 1; NaN if one is in front */
    /* y = exp(x - shift); returns the sum of y. y may be x. */
    double (*exp_sum)(int64_t n, const cps_real *x, cps_real shift, cps_real *y);
    /* y = softmax(scale * x); n >= 1. y may be x. */
    void (*softmax)(int64_t n, cps_real scale, const cps_real *x, cps_real *y);
    /* dx (+)= scale * p * (dp - sum(p dp)). dx may be dp when add is false. */
    void (*softmax_grad)(int64_t n, cps_real scale, const cps_real *p, const cps_real *dp, bool add,
                         cps_real *dx);

    /* One row of layer norm; n >= 1. */
    void (*norm)(int64_t n, const cps_real *x, const cps_real *gain, const cps_real *bias,
                 double eps, cps_real *y, cps_real *mean_out, cps_real *rstd_out);
    /* dx (+)= ..., d_gain += dy * xhat, d_bias += dy. dx may be NULL. */
    void (*norm_grad)(int64_t n, const cps_real *x, const cps_real *gain, cps_real mean,
                      cps_real rstd, const cps_real *dy, bool add, cps_real *dx, cps_real *d_gain,
                      cps_real *d_bias);
} cps_kernels;

/* The widest variant that this CPU has. */
const cps_kernels *cps_kernels_get(void);

extern const cps_kernels cps_kernels_base;
#if defined(__x86_64__)
extern const cps_kernels cps_kernels_avx2, cps_kernels_avx512;
#endif

#endif
