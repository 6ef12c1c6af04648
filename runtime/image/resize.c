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

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSSE3__)
#include <tmmintrin.h>
#endif

enum {
    FRACTION_BITS = 32 - 8 - 2,
    LOW_BITS = 11,
    MAX_OUTPUT_SIDE = 1 << 24, /* of the whole resized picture; only a window of it is computed */
    SLACK = 64                 /* bytes past a row that vector loads may touch */
};

/* The taps of a run of output pixels along one axis. Weights of one pixel: `stride` entries, a
 * multiple of 4, zero beyond `count[i]`. */
typedef struct taps {
    int32_t outputs, stride;
    int32_t *first, *count;
    int16_t *high, *low; /* [outputs, stride] */
} taps;

static void free_taps(taps *axis) {
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

static cps_status allocate_taps(int32_t outputs, int32_t stride, taps *axis) {
    const size_t n = (size_t)outputs;
    const size_t weights = n * (size_t)stride;
    *axis = (taps){.outputs = outputs,
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

static void store_weight(taps *axis, size_t at, double weight) {
    const double scaled = weight * (double)(1 << FRACTION_BITS);
    const int32_t fixed = (int32_t)(weight < 0 ? scaled - 0.5 : scaled + 0.5);
    const int32_t low = fixed & ((1 << LOW_BITS) - 1);
    axis->low[at] = (int16_t)low;
    axis->high[at] = (int16_t)((fixed - low) / (1 << LOW_BITS));
}

/* Taps of output pixels [window, window + outputs) of an axis of input size `in`, where the region
 * (start, extent) becomes `out` pixels. */
static cps_status plan_taps(int32_t in, double start, double extent, int32_t out, int32_t window,
                            int32_t outputs, cps_filter filter, taps *axis) {
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

/* ---- the two passes
 * -----------------------------------------------------------------------------------------------
 */

#if defined(__SSSE3__)

/* (sum high << 11) + sum low, rounded, cut to 16 bits with saturation later. */
static __m128i joined(__m128i high, __m128i low) {
    const __m128i half = _mm_set1_epi32(1 << (FRACTION_BITS - 1));
    return _mm_srai_epi32(_mm_add_epi32(_mm_add_epi32(_mm_slli_epi32(high, LOW_BITS), low), half),
                          FRACTION_BITS);
}

static __m128i pair_of(const int16_t *weights) {
    int32_t both;
    memcpy(&both, weights, sizeof both);
    return _mm_set1_epi32(both);
}

/* One output row. `row` has SLACK readable bytes behind it, `to` 4. Four taps a step: 12 bytes of
 * three channels are sorted into pairs (tap k, tap k + 1) per channel. */
static void pass_row(const uint8_t *row, const taps *axis, uint8_t *to) {
    const __m128i first_pair =
        _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
    const __m128i second_pair =
        _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    for (int32_t i = 0; i < axis->outputs; ++i) {
        const size_t at = (size_t)i * (size_t)axis->stride;
        const uint8_t *from = row + 3 * (size_t)axis->first[i];
        __m128i high = _mm_setzero_si128();
        __m128i low = _mm_setzero_si128();
        for (int32_t k = 0; k < axis->count[i]; k += 4) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(from + 3 * k));
            const __m128i a = _mm_shuffle_epi8(bytes, first_pair);
            const __m128i b = _mm_shuffle_epi8(bytes, second_pair);
            const int16_t *h = axis->high + at + k;
            const int16_t *l = axis->low + at + k;
            high = _mm_add_epi32(high, _mm_madd_epi16(a, pair_of(h)));
            low = _mm_add_epi32(low, _mm_madd_epi16(a, pair_of(l)));
            high = _mm_add_epi32(high, _mm_madd_epi16(b, pair_of(h + 2)));
            low = _mm_add_epi32(low, _mm_madd_epi16(b, pair_of(l + 2)));
        }
        const __m128i words = _mm_packs_epi32(joined(high, low), _mm_setzero_si128());
        const int32_t pixel = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
        memcpy(to + 3 * (size_t)i, &pixel, sizeof pixel); /* the fourth byte is overwritten next */
    }
}

/* One output row of `bytes` bytes from rows `stride` apart; all have 16 bytes of slack. */
static void pass_column(const uint8_t *rows, size_t stride, const int16_t *high, const int16_t *low,
                        int32_t count, size_t bytes, uint8_t *to) {
    const __m128i zero = _mm_setzero_si128();
    for (size_t x = 0; x < bytes; x += 16) {
        __m128i h[4] = {zero, zero, zero, zero};
        __m128i l[4] = {zero, zero, zero, zero};
        for (int32_t k = 0; k < count; k += 2) {
            const uint8_t *from = rows + (size_t)k * stride + x;
            const __m128i a = _mm_loadu_si128((const __m128i *)(const void *)from);
            const __m128i b = k + 1 < count
                                  ? _mm_loadu_si128((const __m128i *)(const void *)(from + stride))
                                  : zero;
            const __m128i wh = pair_of(high + k);
            const __m128i wl = pair_of(low + k);
            const __m128i near = _mm_unpacklo_epi8(a, b);
            const __m128i far = _mm_unpackhi_epi8(a, b);
            const __m128i pairs[4] = {_mm_unpacklo_epi8(near, zero), _mm_unpackhi_epi8(near, zero),
                                      _mm_unpacklo_epi8(far, zero), _mm_unpackhi_epi8(far, zero)};
            for (int j = 0; j < 4; ++j) {
                h[j] = _mm_add_epi32(h[j], _mm_madd_epi16(pairs[j], wh));
                l[j] = _mm_add_epi32(l[j], _mm_madd_epi16(pairs[j], wl));
            }
        }
        const __m128i left = _mm_packs_epi32(joined(h[0], l[0]), joined(h[1], l[1]));
        const __m128i right = _mm_packs_epi32(joined(h[2], l[2]), joined(h[3], l[3]));
        _mm_storeu_si128((__m128i *)(void *)(to + x), _mm_packus_epi16(left, right));
    }
}

#else

static uint8_t rounded(uint32_t sum) {
    const int32_t value = (int32_t)(sum + (1u << (FRACTION_BITS - 1))) >> FRACTION_BITS;
    return (uint8_t)(value < 0 ? 0 : (value > 255 ? 255 : value));
}

static uint32_t weight_of(int16_t high, int16_t low) {
    return (uint32_t)((int32_t)high * (1 << LOW_BITS) + low);
}

static void pass_row(const uint8_t *row, const taps *axis, uint8_t *to) {
    for (int32_t i = 0; i < axis->outputs; ++i) {
        const size_t at = (size_t)i * (size_t)axis->stride;
        const uint8_t *from = row + 3 * (size_t)axis->first[i];
        uint32_t sum[3] = {0, 0, 0};
        for (int32_t k = 0; k < axis->count[i]; ++k) {
            const uint32_t weight =
                weight_of(axis->high[at + (size_t)k], axis->low[at + (size_t)k]);
            for (int32_t c = 0; c < 3; ++c) {
                sum[c] += weight * from[3 * k + c];
            }
        }
        for (int32_t c = 0; c < 3; ++c) {
            to[3 * i + c] = rounded(sum[c]);
        }
    }
}

static void pass_column(const uint8_t *rows, size_t stride, const int16_t *high, const int16_t *low,
                        int32_t count, size_t bytes, uint8_t *to) {
    for (size_t x = 0; x < bytes; ++x) {
        uint32_t sum = 0;
        for (int32_t k = 0; k < count; ++k) {
            sum += weight_of(high[k], low[k]) * rows[(size_t)k * stride + x];
        }
        to[x] = rounded(sum);
    }
}

#endif

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

/* Input rows [first, end) through the horizontal pass, or cut out where there is nothing to do. */
static cps_status make_band(const resize_job *job, int32_t first, int32_t end, band *band_out) {
    const cps_image *image = job->image;
    const size_t row_bytes = (size_t)image->width * 3;
    const size_t stride = (size_t)job->window_width * 3;
    const bool copy = is_identity(image->width, job->x, job->width, job->out_width);
    taps axis = {0};
    if (!copy) {
        CPS_TRY(plan_taps(image->width, job->x, job->width, job->out_width, job->left,
                          job->window_width, job->filter, &axis));
    }
    uint8_t *bytes = malloc(stride * (size_t)(end - first) + SLACK);
    uint8_t *row = calloc(row_bytes + SLACK, 1); /* a copy with slack: images end where they end */
    if (bytes == NULL || row == NULL) {
        free(bytes);
        free(row);
        free_taps(&axis);
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to resize %d x %d pixels", image->width,
                        image->height);
    }
    for (int32_t y = first; y < end; ++y) {
        const uint8_t *from = image->pixels + row_bytes * (size_t)y;
        uint8_t *to = bytes + stride * (size_t)(y - first);
        if (copy) {
            memcpy(to, from + 3 * (size_t)job->left, stride);
        } else {
            memcpy(row, from, row_bytes);
            pass_row(row, &axis, to);
        }
    }
    free(row);
    free_taps(&axis);
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
    taps axis;
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
    for (int32_t y = 0; y < job->window_height; ++y) {
        const size_t at = (size_t)y * (size_t)axis.stride;
        pass_column(rows.bytes + rows.stride * (size_t)(axis.first[y] - rows.first), rows.stride,
                    axis.high + at, axis.low + at, axis.count[y], rows.stride,
                    pixels + rows.stride * (size_t)y);
    }
    free(rows.bytes);
    free_taps(&axis);
    return CPS_OK;
}

static cps_status resize_window(const resize_job *job, cps_image *out) {
    const size_t bytes = (size_t)job->window_width * (size_t)job->window_height * 3;
    uint8_t *pixels = malloc(bytes + SLACK);
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
