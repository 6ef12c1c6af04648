/* Antialiased resampling with the results of Pillow's resize, bit for bit, on the part of the
 * output that is asked for.
 *
 * Output pixel i of an axis is centred at c = x0 + (i + 1/2) s in the input, s = input extent /
 * output extent. Its taps are the input pixels within support * max(s, 1) of c, weighted by the
 * filter at distance / max(s, 1), made to sum to 1 and rounded to fixed point with 22 fraction
 * bits. Horizontal first, then vertical, each rounded to bytes.
 *
 * For the multipliers of 16-bit vector units a weight is kept as high * 2^11 + low with 0 <= low <
 * 2^11: then sum(weight * pixel) = (sum(high * pixel) << 11) + sum(low * pixel), exactly (all sums
 * modulo 2^32). */
#include "image/image.h"

#include "base/numeric.h"
#include "image/image_internal.h"
#include "image/resize_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_OUTPUT_SIDE = 1 << 24
}; /* of the whole resized picture; only a window of it is computed */

static void free_taps(cps_taps *axis) {
    free(axis->first);
    free(axis->count);
    free(axis->high);
    free(axis->low);
}

/* Cubic convolution with a = -1/2 (Keys 1981), and the triangle. */
static double filter_value(cps_filter filter, double x) {
    const double a = -0.5;
    x = fabs(x);
    if (filter == CPS_BILINEAR) {
        return x < 1.0 ? 1.0 - x : 0.0;
    }
    if (x < 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    }
    if (x < 2.0) {
        return (((x - 5) * x + 8) * x - 4) * a;
    }
    return 0.0;
}

static double filter_support(cps_filter filter) {
    return filter == CPS_BILINEAR ? 1.0 : 2.0;
}

static cps_status allocate_taps(int32_t outputs, int32_t stride, cps_taps *axis) {
    const size_t n = (size_t)outputs;
    const size_t weights = n * (size_t)stride;
    *axis = (cps_taps){.outputs = outputs,
                       .stride = stride,
                       .first = calloc(n, sizeof *axis->first),
                       .count = calloc(n, sizeof *axis->count),
                       .high = calloc(weights, sizeof *axis->high),
                       .low = calloc(weights, sizeof *axis->low)};
    if (axis->first == NULL || axis->count == NULL || axis->high == NULL || axis->low == NULL) {
        free_taps(axis);
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for the weights of a resize to %d pixels",
                        outputs);
    }
    return CPS_OK;
}

static void store_weight(cps_taps *axis, size_t at, double weight) {
    const double scaled = weight * (double)(1 << CPS_RESIZE_FRACTION_BITS);
    const int32_t fixed = (int32_t)(weight < 0 ? scaled - 0.5 : scaled + 0.5);
    const int32_t low = fixed & ((1 << CPS_RESIZE_LOW_BITS) - 1);
    axis->low[at] = (int16_t)low;
    axis->high[at] = (int16_t)((fixed - low) / (1 << CPS_RESIZE_LOW_BITS));
}

/* Taps of output pixels [window, window + outputs) of an axis of input size `in`, where the region
 * (start, extent) becomes `out` pixels. */
static cps_status plan_taps(int32_t in, double start, double extent, int32_t out, int32_t window,
                            int32_t outputs, cps_filter filter, cps_taps *axis) {
    const double scale = extent / out;
    const double stretch = scale < 1.0 ? 1.0 : scale;
    const double support = filter_support(filter) * stretch;
    const int32_t most = (int32_t)ceil(support) * 2 + 1;
    CPS_TRY(allocate_taps(outputs, (most + 3) / 4 * 4, axis));
    double *weights = malloc((size_t)most * sizeof *weights);
    if (weights == NULL) {
        free_taps(axis);
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for %d weights", most);
    }
    for (int32_t i = 0; i < outputs; ++i) {
        const double centre = start + (window + i + 0.5) * scale;
        const double left = centre - support + 0.5;
        const double right = centre + support + 0.5;
        const int32_t first = left < 0 ? 0 : (int32_t)left;
        const int32_t end = right > in ? in : (int32_t)right;
        const int32_t count = end - first;
        double sum = 0;
        for (int32_t k = 0; k < count; ++k) {
            weights[k] = filter_value(filter, (k + first - centre + 0.5) * (1.0 / stretch));
            sum += weights[k];
        }
        for (int32_t k = 0; k < count; ++k) {
            store_weight(axis, (size_t)i * (size_t)axis->stride + (size_t)k,
                         sum != 0.0 ? weights[k] / sum : weights[k]);
        }
        axis->first[i] = first;
        axis->count[i] = count;
    }
    free(weights);
    return CPS_OK;
}

/* ---- a window of the resized picture
 * ------------------------------------------------------------------------------ */

/* Region (x, y, width, height) of `image` becomes out_width x out_height; of that the window is
 * computed. */
typedef struct resize_job {
    const cps_image *image;
    double x, y, width, height;
    int32_t out_width, out_height;
    int32_t left, top, window_width, window_height;
    cps_filter filter;
} resize_job;

/* A stack of rows with slack behind the last one. */
typedef struct band {
    uint8_t *bytes;
    size_t stride;
    int32_t first; /* input row of the first one */
} band;

/* A pass is left out where it would copy. */
static bool is_identity(int32_t in, double start, double extent, int32_t out) {
    return start == 0.0 && extent == in && out == in;
}

/* Input rows [first, end) through the horizontal pass. Vector code reads past the end of a row:
 * rows that end too close to the end of the picture go through a copy. */
static cps_status reduce_rows(const resize_job *job, int32_t first, int32_t end, uint8_t *to,
                              size_t stride) {
    const cps_image *image = job->image;
    const size_t row_bytes = (size_t)image->width * 3;
    const int32_t unsafe = (int32_t)(CPS_RESIZE_SLACK / row_bytes) + 1;
    const int32_t direct = (int32_t)cps_max_i64(first, cps_min_i64(end, image->height - unsafe));
    const size_t copied = (size_t)(end - direct) * row_bytes;
    uint8_t *copy = malloc(copied + CPS_RESIZE_SLACK);
    cps_taps axis = {0};
    if (copy == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to resize rows of %d pixels", image->width);
    }
    const cps_status status = plan_taps(image->width, job->x, job->width, job->out_width, job->left,
                                        job->window_width, job->filter, &axis);
    if (status == CPS_OK) {
        const cps_resize_kernels *kernels = cps_resize_kernels_of(CPS_RESIZE_BEST);
        kernels->rows(image->pixels + row_bytes * (size_t)first, row_bytes, direct - first, &axis,
                      to, stride);
        memcpy(copy, image->pixels + row_bytes * (size_t)direct, copied);
        memset(copy + copied, 0, CPS_RESIZE_SLACK);
        kernels->rows(copy, row_bytes, end - direct, &axis, to + stride * (size_t)(direct - first),
                      stride);
    }
    free_taps(&axis);
    free(copy);
    return status;
}

/* Input rows [first, end), `window_width` pixels each. */
static cps_status make_band(const resize_job *job, int32_t first, int32_t end, band *band_out) {
    const cps_image *image = job->image;
    const size_t stride = (size_t)job->window_width * 3;
    uint8_t *bytes = malloc(stride * (size_t)(end - first) + CPS_RESIZE_SLACK);
    if (bytes == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to resize %d x %d pixels", image->width,
                        image->height);
    }
    memset(bytes + stride * (size_t)(end - first), 0, CPS_RESIZE_SLACK);
    cps_status status = CPS_OK;
    if (is_identity(image->width, job->x, job->width, job->out_width)) {
        for (int32_t y = first; y < end; ++y) {
            const size_t at = (size_t)y * (size_t)image->width + (size_t)job->left;
            memcpy(bytes + stride * (size_t)(y - first), image->pixels + 3 * at, stride);
        }
    } else {
        status = reduce_rows(job, first, end, bytes, stride);
    }
    if (status != CPS_OK) {
        free(bytes);
        return status;
    }
    *band_out = (band){.bytes = bytes, .stride = stride, .first = first};
    return CPS_OK;
}

static cps_status resize_without_vertical(const resize_job *job, uint8_t *pixels) {
    band rows;
    CPS_TRY(make_band(job, job->top, job->top + job->window_height, &rows));
    memcpy(pixels, rows.bytes, rows.stride * (size_t)job->window_height);
    free(rows.bytes);
    return CPS_OK;
}

static cps_status resize_both(const resize_job *job, uint8_t *pixels) {
    cps_taps axis;
    CPS_TRY(plan_taps(job->image->height, job->y, job->height, job->out_height, job->top,
                      job->window_height, job->filter, &axis));
    const int32_t last = job->window_height - 1;
    const int32_t first = axis.first[0];
    const int32_t end = axis.first[last] + axis.count[last];
    band rows;
    const cps_status status = make_band(job, first, end, &rows);
    if (status != CPS_OK) {
        free_taps(&axis);
        return status;
    }
    const cps_resize_kernels *kernels = cps_resize_kernels_of(CPS_RESIZE_BEST);
    for (int32_t y = 0; y < job->window_height; ++y) {
        const size_t at = (size_t)y * (size_t)axis.stride;
        kernels->column(rows.bytes + rows.stride * (size_t)(axis.first[y] - rows.first),
                        rows.stride, axis.high + at, axis.low + at, axis.count[y], rows.stride,
                        pixels + rows.stride * (size_t)y);
    }
    free(rows.bytes);
    free_taps(&axis);
    return CPS_OK;
}

static cps_status resize_window(const resize_job *job, cps_image *out) {
    const size_t bytes = (size_t)job->window_width * (size_t)job->window_height * 3;
    uint8_t *pixels = malloc(bytes + CPS_RESIZE_SLACK);
    if (pixels == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for %d x %d pixels", job->window_width,
                        job->window_height);
    }
    const cps_status status = is_identity(job->image->height, job->y, job->height, job->out_height)
                                  ? resize_without_vertical(job, pixels)
                                  : resize_both(job, pixels);
    if (status != CPS_OK) {
        free(pixels);
        return status;
    }
    *out = (cps_image){.width = job->window_width, .height = job->window_height, .pixels = pixels};
    return CPS_OK;
}

cps_status cps_image_resize(const cps_image *image, double x, double y, double width, double height,
                            int32_t out_width, int32_t out_height, cps_filter filter,
                            cps_image *out) {
    const bool inside = x >= 0 && y >= 0 && width > 0 && height > 0 && x + width <= image->width &&
                        y + height <= image->height;
    if (!inside) { /* also for NaN */
        return cps_fail(CPS_ERR_INTERNAL,
                        "resize of (%g, %g) + %g x %g: not inside a picture of %d x %d", x, y,
                        width, height, image->width, image->height);
    }
    CPS_TRY(cps_image_check_size((uint64_t)cps_max_i64(out_width, 0),
                                 (uint64_t)cps_max_i64(out_height, 0)));
    const resize_job job = {.image = image,
                            .x = x,
                            .y = y,
                            .width = width,
                            .height = height,
                            .out_width = out_width,
                            .out_height = out_height,
                            .window_width = out_width,
                            .window_height = out_height,
                            .filter = filter};
    return resize_window(&job, out);
}

/* int(size * long / short) of Python: exact product, then one rounded division. */
static int64_t long_side(int32_t size, int32_t longer, int32_t shorter) {
    return (int64_t)((double)((int64_t)size * longer) / (double)shorter);
}

/* Offset of a centred window; halves go to the even number, as Python rounds. */
static int32_t centre_offset(int32_t whole, int32_t window) {
    return (int32_t)nearbyint((whole - window) / 2.0);
}

cps_status cps_image_plan_evaluation(int32_t width, int32_t height, int32_t size, bool squash,
                                     cps_evaluation_plan *plan_out) {
    CPS_TRY(cps_image_check_size((uint64_t)cps_max_i64(size, 0), (uint64_t)cps_max_i64(size, 0)));
    CPS_TRY(
        cps_image_check_size((uint64_t)cps_max_i64(width, 0), (uint64_t)cps_max_i64(height, 0)));
    const bool wide = width > height;
    const int64_t longer =
        squash ? size : long_side(size, wide ? width : height, wide ? height : width);
    if (longer > MAX_OUTPUT_SIDE) {
        return cps_fail(CPS_ERR_DATA, "%d x %d pixels: too narrow to be resized to %d", width,
                        height, size);
    }
    cps_evaluation_plan plan = {.resized_width = wide ? (int32_t)longer : size,
                                .resized_height = wide ? size : (int32_t)longer};
    plan.left = centre_offset(plan.resized_width, size);
    plan.top = centre_offset(plan.resized_height, size);
    *plan_out = plan;
    return CPS_OK;
}

cps_status cps_image_evaluation(const cps_image *image, int32_t size, bool squash,
                                cps_filter filter, cps_image *out) {
    cps_evaluation_plan plan;
    CPS_TRY(cps_image_plan_evaluation(image->width, image->height, size, squash, &plan));
    const resize_job job = {.image = image,
                            .width = image->width,
                            .height = image->height,
                            .out_width = plan.resized_width,
                            .out_height = plan.resized_height,
                            .left = plan.left,
                            .top = plan.top,
                            .window_width = size,
                            .window_height = size,
                            .filter = filter};
    return resize_window(&job, out);
}
