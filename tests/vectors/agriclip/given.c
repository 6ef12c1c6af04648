#include "given.h"

#include <stdlib.h>

#include "tests/vectors/arrays.h"
#include "base/file.h"
#include "data/batch.h"
#include "model/tower.h"
#include "tensor/ops.h"

agriclip_given agriclip_gives;

cps_status __real_cps_tower_forward(const cps_tower *tower, cps_tape *tape,
                                    const cps_tower_input *input, uint32_t outputs,
                                    cps_tower_output *out);
cps_status __wrap_cps_tower_forward(const cps_tower *tower, cps_tape *tape,
                                    const cps_tower_input *input, uint32_t outputs,
                                    cps_tower_output *out);
void __real_cps_batch_planes(const cps_loader *loader, const cps_batch *batch, int32_t input,
                             cps_real *planes_out);
void __wrap_cps_batch_planes(const cps_loader *loader, const cps_batch *batch, int32_t input,
                             cps_real *planes_out);

void __wrap_cps_batch_planes(const cps_loader *loader, const cps_batch *batch, int32_t input,
                             cps_real *planes_out) {
    const double *crop = input < AGRICLIP_CROPS ? agriclip_gives.crops[input] : NULL;
    if (crop == NULL) {
        __real_cps_batch_planes(loader, batch, input, planes_out);
        return;
    }
    const cps_input_rows *rows = &batch->inputs[input];
    for (int64_t i = 0; i < rows->rows * 3 * rows->size * rows->size; i++) {
        planes_out[i] = (cps_real)crop[i];
    }
}

/* First row of a call among all crops' rows: the globals come first. */
static int64_t first_row(const cps_tower *tower, const cps_tower_input *input) {
    const bool local = input->image->shape[2] < cps_tower_get_config(tower)->image_size;
    return local ? 2 * agriclip_gives.images : 0;
}

static void keep_rows(bool teaches, int64_t first, const cps_tensor *rows) {
    double *to = agriclip_gives.seen[teaches];
    if (to == NULL || rows == NULL) {
        return;
    }
    const int64_t width = rows->shape[1];
    for (int64_t i = 0; i < rows->shape[0] * width; i++) {
        to[first * width + i] = (double)((const cps_real *)rows->data)[i];
    }
}

static cps_tensor *given_rows(const cps_tower *tower, cps_tape *tape,
                              const cps_tower_input *input) {
    const cps_tower_config *config = cps_tower_get_config(tower);
    const int64_t shape[2] = {input->image->shape[0], config->width};
    const int64_t first = first_row(tower, input), width = shape[1];
    const int64_t unit = agriclip_gives.unit[config->ema_of != NULL];
    cps_tensor *rows = cps_tape_tensor(tape, CPS_REAL, 2, shape);
    for (int64_t i = 0; rows != NULL && cps_tape_computes(tape) && i < shape[0] * width; i++) {
        const int64_t row = first + i / width, column = i % width;
        ((cps_real *)rows->data)[i] = agriclip_gives.rows != NULL
                                          ? (cps_real)agriclip_gives.rows[row * width + column]
                                          : (cps_real)(column == unit + row ? 1 : 0);
    }
    return rows;
}

static cps_tensor *stem_tensor(const cps_tower *tower, const char *name) {
    char *full = cps_format("%s%s", cps_tower_get_config(tower)->prefix, name);
    const int32_t index = cps_params_find(agriclip_gives.params, full);
    if (index < 0) {
        vectors_unusable("the tower has no '%s'", full);
    }
    free(full);
    return &cps_params_at(agriclip_gives.params, index)->tensor;
}

/* Mean over positions of relu(norm(conv(image))), a resnet's front, then zeros to its width. */
static cps_tensor *stem_rows(const cps_tower *tower, cps_tape *tape, const cps_tower_input *input) {
    cps_tensor *x = cps_conv2d(tape, cps_channels_last(tape, input->image),
                               stem_tensor(tower, "conv1.weight"), 2, 3);
    x = cps_batch_norm(tape, x, stem_tensor(tower, "bn1.weight"), stem_tensor(tower, "bn1.bias"),
                       NULL, NULL, 1e-5, input->moments);
    cps_tensor *front = cps_mean_positions(tape, cps_unary(tape, x, CPS_RELU));
    if (front == NULL) {
        return NULL;
    }
    const int64_t shape[2] = {front->shape[0],
                              cps_tower_get_config(tower)->width - front->shape[1]};
    cps_tensor *rest = cps_tape_tensor(tape, CPS_REAL, 2, shape);
    for (int64_t i = 0; rest != NULL && cps_tape_computes(tape) && i < shape[0] * shape[1]; i++) {
        ((cps_real *)rest->data)[i] = 0;
    }
    cps_tensor *const parts[2] = {front, rest};
    return cps_concat_columns(tape, 2, parts);
}

cps_status __wrap_cps_tower_forward(const cps_tower *tower, cps_tape *tape,
                                    const cps_tower_input *input, uint32_t outputs,
                                    cps_tower_output *out) {
    cps_status status = CPS_OK;
    if (agriclip_gives.kind == AGRICLIP_NOTHING || outputs != CPS_OUT_POOLED) {
        status = __real_cps_tower_forward(tower, tape, input, outputs, out);
    } else {
        *out = (cps_tower_output){.pooled = agriclip_gives.kind == AGRICLIP_ROWS
                                                ? given_rows(tower, tape, input)
                                                : stem_rows(tower, tape, input),
                                  .count = input->image->shape[0]};
        status = cps_tape_status(tape);
    }
    if (status == CPS_OK && cps_tape_computes(tape) && input->image != NULL) {
        keep_rows(cps_tower_get_config(tower)->ema_of != NULL, first_row(tower, input),
                  out->pooled);
    }
    return status;
}
