/* Channel-last images: from planes, largest of a window, mean over all positions. */
#include "tensor/ops.h"

#include <math.h>
#include <string.h>

#include "base/numeric.h"
#include "tensor/op.h"

/* ---- planes to channels last ---- */

typedef struct planes_work {
    int64_t channels, pixels;
    const cps_real *from;
    cps_real *to;
    bool fresh;
} planes_work;

static void interleave(void *context, int64_t first, int64_t last) {
    const planes_work *w = context;
    for (int64_t image = first; image < last; image++) {
        const cps_real *from = w->from + image * w->channels * w->pixels;
        cps_real *to = w->to + image * w->channels * w->pixels;
        for (int64_t p = 0; p < w->pixels; p++) {
            for (int64_t c = 0; c < w->channels; c++) {
                to[p * w->channels + c] = from[c * w->pixels + p];
            }
        }
    }
}

static void deinterleave(void *context, int64_t first, int64_t last) {
    const planes_work *w = context;
    for (int64_t image = first; image < last; image++) {
        const cps_real *from = w->from + image * w->channels * w->pixels;
        cps_real *to = w->to + image * w->channels * w->pixels;
        for (int64_t c = 0; c < w->channels; c++) {
            for (int64_t p = 0; p < w->pixels; p++) {
                const cps_real value = from[p * w->channels + c];
                to[c * w->pixels + p] = w->fresh ? value : to[c * w->pixels + p] + value;
            }
        }
    }
}

static cps_status channels_backward(cps_tape *tape, const cps_node *node) {
    const cps_tensor *y = node->outputs[0];
    planes_work work = {
        .channels = y->shape[3], .pixels = y->shape[1] * y->shape[2], .from = cps_node_grad(y)};
    work.to = cps_grad_target(tape, node->inputs[0], &work.fresh);
    if (work.to != NULL) {
        cps_parallel_rows(y->shape[0], work.channels * work.pixels, deinterleave, &work);
    }
    return CPS_OK;
}

cps_tensor *cps_channels_last(cps_tape *tape, cps_tensor *x) {
    if (!cps_op_ready(tape, "channels_last", 1, &x) ||
        !cps_op_dtype(tape, "channels_last", "x", x, CPS_REAL)) {
        return NULL;
    }
    if (x->rank != 4) {
        return cps_tape_fail(tape, CPS_ERR_USAGE, "channels_last: x %s; [B, C, H, W] is wanted",
                             cps_show_shape(x).text);
    }
    const int64_t shape[4] = {x->shape[0], x->shape[2], x->shape[3], x->shape[1]};
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 4, shape);
    if (y == NULL) {
        return NULL;
    }
    y->layout = x->layout;
    const cps_node node = {.backward = channels_backward,
                           .name = "channels_last",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x}};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        planes_work work = {.channels = shape[3],
                            .pixels = shape[1] * shape[2],
                            .from = cps_values(x),
                            .to = cps_values_out(y)};
        cps_parallel_rows(shape[0], work.channels * work.pixels, interleave, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

/* ---- largest of a window ---- */

typedef struct pool_shape {
    int64_t images, height, width, channels, kernel, stride, padding, down, across;
} pool_shape;

typedef struct pool_work {
    pool_shape shape;
    const cps_real *x;
    cps_real *y;
    int32_t *chosen; /* position y * width + x of each result's value; NULL: not kept */
    const cps_real *dy;
    cps_real *dx;
} pool_work;

/* One position: the first of equal values in reading order; a NaN wins, as it should be seen. */
static void pool_position(const pool_work *w, int64_t image, int64_t position) {
    const pool_shape *s = &w->shape;
    const int64_t at = (image * s->down * s->across + position) * s->channels;
    const int64_t y0 = position / s->across * s->stride - s->padding,
                  x0 = position % s->across * s->stride - s->padding;
    bool any = false;
    for (int64_t y = cps_max_i64(0, y0); y < cps_min_i64(s->height, y0 + s->kernel); y++) {
        for (int64_t x = cps_max_i64(0, x0); x < cps_min_i64(s->width, x0 + s->kernel); x++) {
            const int64_t pixel = y * s->width + x;
            const cps_real *from = w->x + (image * s->height * s->width + pixel) * s->channels;
            for (int64_t c = 0; c < s->channels; c++) {
                if (!any || from[c] > w->y[at + c] || (isnan(from[c]) && !isnan(w->y[at + c]))) {
                    w->y[at + c] = from[c];
                    if (w->chosen != NULL) {
                        w->chosen[at + c] = (int32_t)pixel;
                    }
                }
            }
            any = true;
        }
    }
}

static void pool_images(void *context, int64_t first, int64_t last) {
    const pool_work *w = context;
    for (int64_t image = first; image < last; image++) {
        for (int64_t position = 0; position < w->shape.down * w->shape.across; position++) {
            pool_position(w, image, position);
        }
    }
}

static void pool_images_backward(void *context, int64_t first, int64_t last) {
    const pool_work *w = context;
    const pool_shape *s = &w->shape;
    const int64_t results = s->down * s->across * s->channels;
    for (int64_t image = first; image < last; image++) {
        cps_real *to = w->dx + image * s->height * s->width * s->channels;
        for (int64_t i = 0; i < results; i++) {
            const int64_t pixel = w->chosen[image * results + i];
            to[pixel * s->channels + i % s->channels] += w->dy[image * results + i];
        }
    }
}

typedef struct pool_saved {
    pool_shape shape;
    int32_t *chosen;
} pool_saved;

static cps_status pool_backward(cps_tape *tape, const cps_node *node) {
    const pool_saved *saved = node->saved;
    const pool_shape *s = &saved->shape;
    bool fresh = true;
    pool_work work = {.shape = *s,
                      .chosen = saved->chosen,
                      .dy = cps_node_grad(node->outputs[0]),
                      .dx = cps_grad_target(tape, node->inputs[0], &fresh)};
    if (work.dx != NULL) {
        if (fresh) {
            cps_fill_zero(s->images * s->height * s->width * s->channels, work.dx);
        }
        cps_parallel_rows(s->images, s->height * s->width * s->channels, pool_images_backward,
                          &work);
    }
    return CPS_OK;
}

static bool pool_shape_of(cps_tape *tape, const cps_tensor *x, int64_t kernel, int64_t stride,
                          int64_t padding, pool_shape *out) {
    if (x->rank != 4 || kernel < 1 || stride < 1 || padding < 0 || 2 * padding > kernel ||
        x->shape[1] + 2 * padding < kernel || x->shape[2] + 2 * padding < kernel ||
        x->shape[1] > INT32_MAX / cps_max_i64(1, x->shape[2])) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "max_pool: x %s, kernel %lld, stride %lld, padding %lld do not fit; [B, H, "
                      "W, C] with kernel <= H + 2 padding and padding <= kernel / 2 are wanted",
                      cps_show_shape(x).text, (long long)kernel, (long long)stride,
                      (long long)padding);
        return false;
    }
    *out = (pool_shape){.images = x->shape[0],
                        .height = x->shape[1],
                        .width = x->shape[2],
                        .channels = x->shape[3],
                        .kernel = kernel,
                        .stride = stride,
                        .padding = padding,
                        .down = (x->shape[1] + 2 * padding - kernel) / stride + 1,
                        .across = (x->shape[2] + 2 * padding - kernel) / stride + 1};
    return true;
}

cps_tensor *cps_max_pool(cps_tape *tape, cps_tensor *x, int64_t kernel, int64_t stride,
                         int64_t padding) {
    pool_shape s;
    if (!cps_op_ready(tape, "max_pool", 1, &x) ||
        !cps_op_dtype(tape, "max_pool", "x", x, CPS_REAL) ||
        !pool_shape_of(tape, x, kernel, stride, padding, &s)) {
        return NULL;
    }
    const int64_t shape[4] = {s.images, s.down, s.across, s.channels};
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 4, shape);
    if (y == NULL) {
        return NULL;
    }
    y->layout = x->layout;
    pool_saved *saved = NULL;
    int32_t *chosen = NULL;
    if (cps_tape_will_record(tape, 1, &x)) {
        saved = cps_tape_save(tape, sizeof *saved);
        chosen = cps_tape_save(tape, (size_t)cps_count_of(y) * sizeof *chosen);
    }
    if (saved != NULL) {
        *saved = (pool_saved){s, chosen};
    }
    const cps_node node = {.backward = pool_backward,
                           .name = "max_pool",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x},
                           .saved = saved};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        pool_work work = {.shape = s, .x = cps_values(x), .y = cps_values_out(y), .chosen = chosen};
        cps_parallel_rows(s.images, s.height * s.width * s.channels, pool_images, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

/* ---- mean over positions ---- */

typedef struct mean_work {
    int64_t positions, channels;
    const cps_real *from;
    cps_real *to;
    bool fresh;
} mean_work;

static void mean_images(void *context, int64_t first, int64_t last) {
    const mean_work *w = context;
    for (int64_t image = first; image < last; image++) {
        const cps_real *from = w->from + image * w->positions * w->channels;
        for (int64_t c = 0; c < w->channels; c++) {
            double sum = 0.0;
            for (int64_t p = 0; p < w->positions; p++) {
                sum += (double)from[p * w->channels + c];
            }
            w->to[image * w->channels + c] = (cps_real)(sum / (double)w->positions);
        }
    }
}

static void mean_images_backward(void *context, int64_t first, int64_t last) {
    const mean_work *w = context;
    const cps_real share = (cps_real)(1.0 / (double)w->positions);
    for (int64_t row = first; row < last; row++) { /* an image's position */
        const cps_real *from = w->from + row / w->positions * w->channels;
        cps_real *to = w->to + row * w->channels;
        for (int64_t c = 0; c < w->channels; c++) {
            to[c] = w->fresh ? share * from[c] : to[c] + share * from[c];
        }
    }
}

static cps_status mean_backward(cps_tape *tape, const cps_node *node) {
    const cps_tensor *x = node->inputs[0];
    mean_work work = {.positions = x->shape[1] * x->shape[2],
                      .channels = x->shape[3],
                      .from = cps_node_grad(node->outputs[0])};
    work.to = cps_grad_target(tape, node->inputs[0], &work.fresh);
    if (work.to != NULL) {
        cps_parallel_rows(x->shape[0] * work.positions, work.channels, mean_images_backward, &work);
    }
    return CPS_OK;
}

cps_tensor *cps_mean_positions(cps_tape *tape, cps_tensor *x) {
    if (!cps_op_ready(tape, "mean_positions", 1, &x) ||
        !cps_op_dtype(tape, "mean_positions", "x", x, CPS_REAL)) {
        return NULL;
    }
    if (x->rank != 4 || x->shape[1] * x->shape[2] < 1) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "mean_positions: x %s; [B, H, W, C] with a position is wanted",
                             cps_show_shape(x).text);
    }
    const int64_t shape[2] = {x->shape[0], x->shape[3]};
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 2, shape);
    if (y == NULL) {
        return NULL;
    }
    y->layout = x->layout;
    const cps_node node = {.backward = mean_backward,
                           .name = "mean_positions",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x}};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        mean_work work = {.positions = x->shape[1] * x->shape[2],
                          .channels = x->shape[3],
                          .from = cps_values(x),
                          .to = cps_values_out(y)};
        cps_parallel_rows(shape[0], work.positions * work.channels, mean_images, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
