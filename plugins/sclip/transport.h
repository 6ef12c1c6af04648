/* Entropic optimal transport between M rows and N columns with equal masses (1/M, 1/N), by a fixed
 * number of Sinkhorn iterations, and its gradient. Plain arrays of double; the tape lends its
 * threads. sclip.md has the formulas. */
#ifndef CPS_PLUGIN_SCLIP_TRANSPORT_H
#define CPS_PLUGIN_SCLIP_TRANSPORT_H

#include "copse_objective.h"

typedef struct sclip_transport {
    int64_t rows, columns, iterations;
    /* [rows, columns]: in, logits = -cost / regularisation; prepared, what the passes read. */
    double *matrix;
    double *f;    /* [iterations + 1, rows]: log of the rows' factors; f[0] is constant */
    double *g;    /* [iterations, columns]: log of the columns' factors */
    double *work; /* sclip_transport_work doubles */
    /* Set by sclip_transport_prepare. */
    double shift; /* the largest logit */
    bool kernel;  /* matrix holds exp(logit - shift); else logit - shift */
} sclip_transport;

int64_t sclip_transport_work(int64_t rows, int64_t columns, int64_t iterations);
/* Turns the logits in `matrix` into what the passes read, once. */
void sclip_transport_prepare(cps_tape *tape, sclip_transport *t);
/* Fills f and g. Afterwards f[iterations] makes every row of the plan sum to 1/rows. */
void sclip_transport_solve(cps_tape *tape, sclip_transport *t);
/* The solved plan times `rows`, so that rows sum to 1: plan [rows, columns]. */
void sclip_transport_plan(cps_tape *tape, const sclip_transport *t, double *plan);
/* gradient [rows, columns]: in, that of the plan's logits with g held; out, that of the logits
 * through all iterations. */
void sclip_transport_backward(cps_tape *tape, const sclip_transport *t, double *gradient);

#endif
