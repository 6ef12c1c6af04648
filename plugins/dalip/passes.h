/* The loops over samples that are no matrix product of the engine's: compiled once for each
 * instruction set (passes.inc) and chosen at run time. Sums go through a fixed number of lanes and
 * nothing is contracted, so every variant gives the same bits. */
#ifndef COPSE_DALIP_PASSES_H
#define COPSE_DALIP_PASSES_H

#include "bdc.h"

typedef struct dalip_work dalip_work; /* mbdc_work.h */

typedef struct dalip_passes {
    const char *name;
    /* All of it, on an open tape; statistics and watch included. */
    void (*forward)(dalip_work *w);
    /* From d_q to d_u, d_cosine, d_norm, d_reduce, d_factor and d_y; the samples'
     * shares of d_reduce end in the first. */
    void (*backward)(dalip_work *w);
    dalip_bdc_forward *bdc_forward;
    dalip_bdc_backward *bdc_backward;
} dalip_passes;

/* The widest variant that this CPU has. */
const dalip_passes *dalip_passes_get(void);

extern const dalip_passes dalip_passes_base;
#if defined(__x86_64__)
extern const dalip_passes dalip_passes_avx2, dalip_passes_avx512;
#endif

#endif
