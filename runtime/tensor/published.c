/* The loss as the published code computes it on W processes of n rows each, for comparisons with it
 * (plugins/bioclip/bioclip.md, "Published processes"). Every process is a block of n consecutive
 * rows of the gathered batch; the gradient is the mean over processes of what each would compute.
 *
 * With Z = s U V': a process's loss is the mean cross-entropy of its own rows of Z and of Z', or of
 * all rows (local_loss = false); in the mean over processes both are that of all rows. The
 * gradients differ in what a process lets them reach:
 *   local_loss  gather_with_grad
 *   yes or no   yes               everything: the exact gradient
 *   yes         no                rows alone, the gathered columns are constants
 *   no          no                the own rows of a loss that every process has: 1/W of the exact
 *                                 one; but the whole of it for the scale, which every process holds
 * Accumulation over A micro-batches adds the scale's whole gradient A times. */
#include <math.h>

#include "base/numeric.h"
#include "tensor/ops.h"
#include "tensor/tape.h"

/* The same values, `factor` times the gradient. */
static cps_tensor *scale_gradient(cps_tape *tape, cps_tensor *x, double factor) {
    cps_tensor *constant = cps_stop_gradient(tape, x);
    cps_tensor *nothing = cps_sub(tape, x, constant);
    return factor == 1.0 ? x : cps_add(tape, constant, cps_affine(tape, nothing, factor, 0.0));
}

/* [n] 0, 1, 2, ...: row i's class is column i. */
static cps_tensor *diagonal(cps_tape *tape, int64_t n) {
    cps_tensor *target = cps_tape_tensor(tape, CPS_I32, 1, &n);
    for (int64_t i = 0; target != NULL && cps_tape_computes(tape) && i < n; i++) {
        ((int32_t *)target->data)[i] = (int32_t)i;
    }
    return target;
}

/* What row i of logits z [n, n] adds to loss and scale gradient. */
static void row_share(const cps_real *z, int64_t n, int64_t i, double *loss, double *d_log_scale) {
    double most = -(double)INFINITY, sum = 0.0, mean = 0.0;
    for (int64_t j = 0; j < n; j++) {
        most = (double)z[j] > most ? (double)z[j] : most;
    }
    for (int64_t j = 0; j < n; j++) {
        const double e = exp((double)z[j] - most);
        sum += e;
        mean += e * (double)z[j];
    }
    *loss += most + log(sum) - (double)z[i];
    *d_log_scale += mean / sum - (double)z[i];
}

/* Means over each process's rows of both directions. */
static void show(const cps_published *how, const cps_tensor *images, const cps_tensor *texts,
                 cps_published_shown *shown) {
    const int64_t n = images->shape[0], own = n / how->ranks;
    for (int64_t r = 0; r < how->ranks && r < CPS_SHOWN_RANKS; r++) {
        const int64_t first = how->local_loss ? r * own : 0,
                      last = how->local_loss ? first + own : n;
        double loss = 0.0, d_log_scale = 0.0;
        for (int64_t i = first; i < last; i++) {
            row_share((const cps_real *)images->data + i * n, n, i, &loss, &d_log_scale);
            row_share((const cps_real *)texts->data + i * n, n, i, &loss, &d_log_scale);
        }
        shown->loss[r] += loss / (2.0 * (double)(last - first));
        shown->d_log_scale[r] += d_log_scale / (2.0 * (double)(last - first));
    }
}

cps_tensor *cps_published_contrastive(cps_tape *tape, cps_tensor *u, cps_tensor *v,
                                      cps_tensor *log_scale, const cps_published *how,
                                      cps_published_shown *shown) {
    const bool gathers = how->gather_with_grad, local = how->local_loss;
    u = cps_gather(tape, u);
    v = cps_gather(tape, v);
    if (u == NULL || v == NULL || log_scale == NULL) {
        return NULL;
    }
    const int64_t n = u->shape[0];
    if (how->ranks < 1 || n % how->ranks != 0) {
        return cps_tape_fail(
            tape, CPS_ERR_USAGE,
            "published_ranks = %lld does not divide the %lld rows of a step: choose a global batch "
            "(and rows of further streams) that it divides",
            (long long)how->ranks, (long long)n);
    }
    if (!gathers && !local) {
        u = scale_gradient(tape, u, 1.0 / (double)how->ranks);
        v = scale_gradient(tape, v, 1.0 / (double)how->ranks);
    }
    cps_tensor *columns_u = !gathers && local ? cps_stop_gradient(tape, u) : u,
               *columns_v = !gathers && local ? cps_stop_gradient(tape, v) : v;
    cps_tensor *scale =
        cps_unary(tape, scale_gradient(tape, log_scale, (double)how->accumulation), CPS_EXP);
    cps_tensor *images = cps_mul(tape, cps_matmul(tape, u, columns_v, false, true, 1.0), scale);
    cps_tensor *texts = cps_mul(tape, cps_matmul(tape, v, columns_u, false, true, 1.0), scale);
    cps_tensor *target = diagonal(tape, n);
    cps_tensor *sum = cps_add(tape, cps_cross_entropy(tape, images, target, NULL),
                              cps_cross_entropy(tape, texts, target, NULL));
    if (sum != NULL && cps_tape_computes(tape)) {
        show(how, images, texts, shown);
    }
    return cps_affine(tape, sum, 0.5 / (double)cps_max_i64(n, 1), 0.0);
}
