/* Tapes over values of the file; comparing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "second.h"
#include "tensor/gemm.h"
#include "tensor/ops.h"
#include "tests/vectors/arrays.h"
#include "train/stage.h"

void second_expect(cps_h5 *file, const char *group, const char *name, const double *got,
                   int64_t count) {
    vectors_expect_in(file, group, name, got, count, dalip_tolerance());
}

void second_expect_gradient(cps_h5 *file, const char *group, const char *name, const double *got,
                            int64_t count) {
    vectors_expect_in(file, group, name, got, count, dalip_gradient_tolerance());
}

second_desk second_open(void) {
    second_desk d;
    vectors_need(cps_arena_create("dalip", (size_t)1 << 22, true, &d.arena));
    vectors_need(cps_tape_create(d.arena, CPS_TAPE_RECORD, cps_host_table(), &d.tape));
    return d;
}

void second_close(second_desk *d) {
    cps_tape_destroy(d->tape);
    cps_arena_destroy(d->arena);
}

cps_real *second_reals(const second_desk *d, const double *values, int64_t count) {
    cps_real *out = cps_arena_alloc_zero(d->arena, (size_t)(count + 1) * sizeof *out);
    if (out == NULL) {
        vectors_unusable("%s", cps_fail_message());
    }
    for (int64_t i = 0; i < count && values != NULL; i++) {
        out[i] = (cps_real)values[i];
    }
    return out;
}

double *second_widened(const cps_real *values, int64_t count) {
    double *out = vectors_doubles(count);
    for (int64_t i = 0; i < count && values != NULL; i++) {
        out[i] = (double)values[i];
    }
    return out;
}

int64_t second_count(const cps_tensor *tensor) {
    int64_t count = 1;
    for (int32_t d = 0; d < tensor->rank; d++) {
        count *= tensor->shape[d];
    }
    return count;
}

/* A second_leaf with a gradient. */
cps_tensor *second_leaf(const second_desk *d, int32_t rank, const int64_t *shape,
                        const double *values) {
    int64_t count = 1;
    for (int32_t i = 0; i < rank; i++) {
        count *= shape[i];
    }
    cps_tensor *made = cps_tape_leaf(d->tape, CPS_REAL, rank, shape, second_reals(d, values, count),
                                     second_reals(d, NULL, count), -1);
    if (made == NULL) {
        vectors_unusable("%s", cps_fail_message());
    }
    made->grad_fresh = true;
    return made;
}

static cps_status copy_backward(cps_tape *tape, const cps_node *node) {
    const size_t bytes = (size_t)second_count(node->outputs[0]) * sizeof(cps_real);
    const cps_real *arrived = cps_node_grad(node->outputs[0]);
    bool fresh;
    cps_real *target = cps_grad_target(tape, node->inputs[0], &fresh);
    memcpy(node->saved, arrived, bytes);
    memcpy(target, arrived, bytes); /* the only user of its input, hence fresh */
    return CPS_OK;
}

/* The same values; backward leaves their gradient in `*grad_out`. */
cps_tensor *second_watched(const second_desk *d, cps_tensor *x, cps_real **grad_out) {
    if (x == NULL) {
        vectors_unusable("%s", cps_fail_message());
    }
    cps_tensor *y = cps_tape_tensor(d->tape, CPS_REAL, x->rank, x->shape);
    *grad_out = second_reals(d, NULL, second_count(x));
    memcpy(y->data, x->data, (size_t)second_count(x) * sizeof(cps_real));
    cps_tape_record(d->tape, &(cps_node){.backward = copy_backward,
                                         .name = "watched",
                                         .output_count = 1,
                                         .input_count = 1,
                                         .outputs = {y},
                                         .inputs = {x},
                                         .saved = *grad_out});
    return y;
}

void second_expect_reals(cps_h5 *file, const char *group, const char *name, const cps_real *got,
                         int64_t count) {
    double *values = second_widened(got, count);
    second_expect(file, group, name, values, count);
    free(values);
}

/* Both ways of running it must agree with the file. */
void second_expect_both(cps_h5 *file, const char *group, const char *name, const cps_real *got,
                        const cps_real *also, int64_t count, double tolerance) {
    double *values = second_widened(got, count),
           *others = also == NULL ? NULL : second_widened(also, count);
    vectors_expect_both(file, group, name, values, others, count, tolerance);
    free(values);
    free(others);
}

void second_go_back(const second_desk *d, const cps_tensor *unit, const double *d_unit) {
    if (unit == NULL) {
        vectors_unusable("%s", cps_fail_message());
    }
    cps_tape_seed(d->tape, (cps_tensor *)(uintptr_t)unit,
                  second_reals(d, d_unit, second_count(unit)));
    vectors_need(cps_backward(d->tape, NULL, 0.0));
}

int64_t second_dimension(cps_h5 *file, const char *group, const char *name, int32_t which) {
    char *path = cps_format("%s/%s", group, name);
    cps_h5_info info;
    vectors_need(cps_h5_inspect(file, path, &info));
    vectors_need_same(group, which < info.rank);
    free(path);
    return info.shape[which];
}

int32_t *second_ends(cps_h5 *file, const char *group, const second_desk *d, int64_t rows,
                     int64_t length) {
    char *path = cps_format("%s/ids", group);
    int64_t count = 0;
    int64_t *ids = vectors_read_i64(file, path, &count);
    int32_t *ends = cps_arena_alloc_zero(d->arena, (size_t)(rows + 1) * sizeof *ends);
    vectors_need_same(group, ids != NULL && count == rows * length && ends != NULL);
    for (int64_t b = 0; b < rows; b++) {
        for (int64_t l = 1; l < length; l++) {
            ends[b] = ids[b * length + l] > ids[b * length + ends[b]] ? (int32_t)l : ends[b];
        }
    }
    free(ids);
    free(path);
    return ends;
}
