/* Convolution of channel-last images: patches of an image are the rows of a matrix (im2col), one
 * product with the filters makes the result. Patches are cut for a few images at a time and cut
 * again in backward, so that they never take more than scratch; how many depends on shapes alone.
 * The filters stand as [out, in, k, k] in weights; the products want [out, k, k, in]. */
#include "tensor/ops.h"

#include <string.h>

#include "base/numeric.h"
#include "tensor/gemm.h"
#include "tensor/op.h"

enum { BLOCK_ROWS = 8192 }; /* patches cut at once, a whole image at least */

typedef struct conv_shape {
    int64_t images, height, width, in, out, kernel, stride, padding, down, across;
    int64_t block; /* images at once */
} conv_shape;

static int64_t patch_elements(const conv_shape *s) {
    return s->kernel * s->kernel * s->in;
}
static int64_t positions_of(const conv_shape *s) {
    return s->down * s->across;
}
/* A patch is a pixel: the image is its own patch matrix. */
static bool is_pointwise(const conv_shape *s) {
    return s->kernel == 1 && s->stride == 1 && s->padding == 0;
}

static bool shape_of(cps_tape *tape, const cps_tensor *x, const cps_tensor *weight, int64_t stride,
                     int64_t padding, conv_shape *out) {
    const bool fits = x->rank == 4 && weight->rank == 4 && weight->shape[1] == x->shape[3] &&
                      weight->shape[2] == weight->shape[3] && weight->shape[2] >= 1 &&
                      stride >= 1 && padding >= 0 && padding < weight->shape[2] &&
                      x->shape[1] + 2 * padding >= weight->shape[2] &&
                      x->shape[2] + 2 * padding >= weight->shape[2];
    if (!fits) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "conv2d: x %s, weight %s, stride %lld, padding %lld do not fit; [B, H, W, "
                      "in], [out, in, k, k] with k <= H + 2 padding, stride >= 1 and padding < k "
                      "are wanted",
                      cps_show_shape(x).text, cps_show_shape(weight).text, (long long)stride,
                      (long long)padding);
        return false;
    }
    conv_shape s = {.images = x->shape[0],
                    .height = x->shape[1],
                    .width = x->shape[2],
                    .in = x->shape[3],
                    .out = weight->shape[0],
                    .kernel = weight->shape[2],
                    .stride = stride,
                    .padding = padding};
    s.down = (s.height + 2 * padding - s.kernel) / stride + 1;
    s.across = (s.width + 2 * padding - s.kernel) / stride + 1;
    s.block = cps_min_i64(cps_max_i64(1, BLOCK_ROWS / positions_of(&s)), cps_max_i64(1, s.images));
    *out = s;
    return true;
}

/* ---- filters, patches ---- */

typedef struct filter_work {
    const conv_shape *shape;
    const cps_real *from;
    cps_real *to;
    bool fresh;
} filter_work;

/* [in, k, k] of one filter to [k, k, in]. */
static void turn_filter(void *context, int64_t first, int64_t last) {
    const filter_work *w = context;
    const int64_t taps = w->shape->kernel * w->shape->kernel, in = w->shape->in;
    for (int64_t o = first; o < last; o++) {
        const cps_real *from = w->from + o * taps * in;
        cps_real *to = w->to + o * taps * in;
        for (int64_t c = 0; c < in; c++) {
            for (int64_t t = 0; t < taps; t++) {
                to[t * in + c] = from[c * taps + t];
            }
        }
    }
}

/* The way back, for its gradient. */
static void turn_filter_back(void *context, int64_t first, int64_t last) {
    const filter_work *w = context;
    const int64_t taps = w->shape->kernel * w->shape->kernel, in = w->shape->in;
    for (int64_t o = first; o < last; o++) {
        const cps_real *from = w->from + o * taps * in;
        cps_real *to = w->to + o * taps * in;
        for (int64_t c = 0; c < in; c++) {
            for (int64_t t = 0; t < taps; t++) {
                const cps_real value = from[t * in + c];
                to[c * taps + t] = w->fresh ? value : to[c * taps + t] + value;
            }
        }
    }
}

typedef struct cut_work {
    const conv_shape *shape;
    const cps_real *from; /* images, or patches on the way back */
    cps_real *to;
} cut_work;

/* The columns of a patch's line that lie inside the image: taps first .. last-1. */
static void taps_inside(const conv_shape *s, int64_t origin, int64_t extent, int64_t *first_out,
                        int64_t *last_out) {
    *first_out = cps_min_i64(s->kernel, cps_max_i64(0, -origin));
    *last_out = cps_max_i64(*first_out, cps_min_i64(s->kernel, extent - origin));
}

/* One line of results of one image: index = image * down + line. */
static void cut_line(void *context, int64_t index) {
    const cut_work *w = context;
    const conv_shape *s = w->shape;
    const int64_t image = index / s->down, y0 = index % s->down * s->stride - s->padding;
    const size_t bytes = (size_t)(s->kernel * s->in) * sizeof *w->to;
    for (int64_t across = 0; across < s->across; across++) {
        cps_real *to = w->to + (index * s->across + across) * patch_elements(s);
        const int64_t x0 = across * s->stride - s->padding;
        int64_t first, last;
        taps_inside(s, x0, s->width, &first, &last);
        for (int64_t ky = 0; ky < s->kernel; ky++, to += s->kernel * s->in) {
            const int64_t y = y0 + ky;
            if (y < 0 || y >= s->height) {
                memset(to, 0, bytes);
                continue;
            }
            const cps_real *line = w->from + ((image * s->height + y) * s->width + x0) * s->in;
            memset(to, 0, (size_t)(first * s->in) * sizeof *to);
            memcpy(to + first * s->in, line + first * s->in,
                   (size_t)((last - first) * s->in) * sizeof *to);
            memset(to + last * s->in, 0, (size_t)((s->kernel - last) * s->in) * sizeof *to);
        }
    }
}

/* The way back: patches overlap inside an image, so a body has a whole image, which was zeroed or
 * holds what came before. */
static void uncut_image(void *context, int64_t image) {
    const cut_work *w = context;
    const conv_shape *s = w->shape;
    const cps_kernels *kernels = cps_kernels_get();
    for (int64_t position = 0; position < positions_of(s); position++) {
        const cps_real *from = w->from + (image * positions_of(s) + position) * patch_elements(s);
        const int64_t y0 = position / s->across * s->stride - s->padding,
                      x0 = position % s->across * s->stride - s->padding;
        int64_t first, last;
        taps_inside(s, x0, s->width, &first, &last);
        for (int64_t ky = 0; ky < s->kernel; ky++, from += s->kernel * s->in) {
            const int64_t y = y0 + ky;
            if (y >= 0 && y < s->height) {
                cps_real *to = w->to + ((image * s->height + y) * s->width + x0 + first) * s->in;
                kernels->add((last - first) * s->in, to, from + first * s->in, to);
            }
        }
    }
}

/* ---- forward ---- */

static size_t conv_scratch(const conv_shape *s, bool backward) {
    const size_t filters = cps_scratch_size(s->out * patch_elements(s));
    const size_t patches =
        is_pointwise(s) ? 0 : cps_scratch_size(s->block * positions_of(s) * patch_elements(s));
    return backward ? 2 * filters + patches : filters + patches;
}

static const cps_real *turned(const conv_shape *s, const cps_tensor *weight, cps_real *scratch) {
    filter_work work = {.shape = s, .from = cps_values(weight), .to = scratch};
    cps_parallel_rows(s->out, patch_elements(s), turn_filter, &work);
    return scratch;
}

/* The patch matrix of images first .. first+count-1. */
static const cps_real *patches_of(const conv_shape *s, const cps_tensor *x, int64_t first,
                                  int64_t count, cps_real *scratch) {
    const cps_real *images = cps_values(x) + first * s->height * s->width * s->in;
    if (is_pointwise(s)) {
        return images;
    }
    cut_work work = {.shape = s, .from = images, .to = scratch};
    cps_parallel(count * s->down, cut_line, &work);
    return scratch;
}

static void conv_forward(const conv_shape *s, const cps_tensor *x, const cps_real *filters,
                         cps_real *scratch, cps_real *y) {
    const int64_t depth = patch_elements(s), positions = positions_of(s);
    for (int64_t first = 0; first < s->images; first += s->block) {
        const int64_t count = cps_min_i64(s->block, s->images - first);
        const cps_real *patches = patches_of(s, x, first, count, scratch);
        cps_gemm(false, true, count * positions, s->out, depth, 1.0, patches, depth, filters, depth,
                 0.0, y + first * positions * s->out, s->out);
    }
}

static cps_status conv_backward(cps_tape *tape, const cps_node *node);

cps_tensor *cps_conv2d(cps_tape *tape, cps_tensor *x, cps_tensor *weight, int64_t stride,
                       int64_t padding) {
    cps_tensor *const operands[] = {x, weight};
    conv_shape s;
    if (!cps_op_ready(tape, "conv2d", 2, operands) ||
        !cps_op_dtype(tape, "conv2d", "x", x, CPS_REAL) ||
        !cps_op_dtype(tape, "conv2d", "weight", weight, CPS_REAL) ||
        !shape_of(tape, x, weight, stride, padding, &s)) {
        return NULL;
    }
    const int64_t shape[4] = {s.images, s.down, s.across, s.out};
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 4, shape);
    if (y == NULL) {
        return NULL;
    }
    y->layout = x->layout;
    conv_shape *saved =
        cps_tape_will_record(tape, 2, operands) ? cps_tape_save(tape, sizeof s) : NULL;
    if (saved != NULL) {
        *saved = s;
    }
    const cps_node node = {.backward = conv_backward,
                           .name = "conv2d",
                           .output_count = 1,
                           .input_count = 2,
                           .outputs = {y},
                           .inputs = {x, weight},
                           .saved = saved,
                           .scratch_bytes = conv_scratch(&s, true)};
    cps_tape_record_with(tape, &node, 0);
    const size_t mark = cps_tape_mark(tape);
    cps_real *filters = cps_scratch(tape, s.out * patch_elements(&s));
    cps_real *scratch = is_pointwise(&s)
                            ? NULL
                            : cps_scratch(tape, s.block * positions_of(&s) * patch_elements(&s));
    if (cps_tape_computes(tape)) {
        conv_forward(&s, x, turned(&s, weight, filters), scratch, cps_values_out(y));
    }
    cps_tape_release(tape, mark);
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

/* ---- backward ---- */

static void filters_backward(const conv_shape *s, const cps_tensor *x, const cps_real *dy,
                             cps_real *patch_scratch, cps_real *turned_grad, bool fresh,
                             cps_real *target) {
    const int64_t depth = patch_elements(s), positions = positions_of(s);
    cps_fill_zero(s->out * depth, turned_grad);
    for (int64_t first = 0; first < s->images; first += s->block) {
        const int64_t count = cps_min_i64(s->block, s->images - first);
        const cps_real *patches = patches_of(s, x, first, count, patch_scratch);
        cps_gemm(true, false, s->out, depth, count * positions, 1.0,
                 dy + first * positions * s->out, s->out, patches, depth, first == 0 ? 0.0 : 1.0,
                 turned_grad, depth);
    }
    filter_work work = {.shape = s, .from = turned_grad, .to = target, .fresh = fresh};
    cps_parallel_rows(s->out, depth, turn_filter_back, &work);
}

static void image_backward(const conv_shape *s, const cps_real *filters, const cps_real *dy,
                           cps_real *patch_scratch, bool fresh, cps_real *target) {
    const int64_t depth = patch_elements(s), positions = positions_of(s);
    const int64_t image_elements = s->height * s->width * s->in;
    if (fresh && !is_pointwise(s)) {
        cps_fill_zero(s->images * image_elements, target);
    }
    for (int64_t first = 0; first < s->images; first += s->block) {
        const int64_t count = cps_min_i64(s->block, s->images - first);
        cps_real *to = target + first * image_elements;
        const bool direct = is_pointwise(s);
        cps_gemm(false, false, count * positions, depth, s->out, 1.0,
                 dy + first * positions * s->out, s->out, filters, depth,
                 direct && !fresh ? 1.0 : 0.0, direct ? to : patch_scratch, depth);
        if (!direct) {
            cut_work work = {.shape = s, .from = patch_scratch, .to = to};
            cps_parallel(count, uncut_image, &work);
        }
    }
}

static cps_status conv_backward(cps_tape *tape, const cps_node *node) {
    const conv_shape *s = node->saved;
    cps_tensor *x = node->inputs[0], *weight = node->inputs[1];
    const cps_real *dy = cps_node_grad(node->outputs[0]);
    const int64_t elements = s->out * patch_elements(s);
    cps_real *filters = cps_scratch(tape, elements), *grad = cps_scratch(tape, elements);
    cps_real *patches =
        is_pointwise(s) ? NULL : cps_scratch(tape, s->block * positions_of(s) * patch_elements(s));
    if (filters == NULL || grad == NULL || (patches == NULL && !is_pointwise(s))) {
        return cps_tape_status(tape);
    }
    bool fresh = true;
    cps_real *target = cps_grad_target(tape, weight, &fresh);
    if (target != NULL) {
        filters_backward(s, x, dy, patches, grad, fresh, target);
    }
    target = cps_grad_target(tape, x, &fresh);
    if (target != NULL) {
        image_backward(s, turned(s, weight, filters), dy, patches, fresh, target);
    }
    return CPS_OK;
}
