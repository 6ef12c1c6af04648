/* Images to token rows: patches as the rows of a matrix, one product, then class token and
 * positions. Kept for backward: the patch matrix, if the filter learns. */
#include "tensor/ops.h"

#include <string.h>

#include "base/numeric.h"
#include "tensor/gemm_engine.h"
#include "tensor/op.h"

/* B images of 3 x height x width; n = down * across patches of p x p; C output channels. */
typedef struct patch_shape {
    int64_t images, channels, height, width, patch, down, across, out;
} patch_shape;

static patch_shape shape_of(const cps_tensor *image, const cps_tensor *conv) {
    const int64_t p = conv->shape[3];
    return (patch_shape){.images = image->shape[0],
                         .channels = image->shape[1],
                         .height = image->shape[2],
                         .width = image->shape[3],
                         .patch = p,
                         .down = image->shape[2] / p,
                         .across = image->shape[3] / p,
                         .out = conv->shape[0]};
}

static int64_t patches_of(const patch_shape *s) {
    return s->down * s->across;
}
static int64_t patch_elements(const patch_shape *s) {
    return s->channels * s->patch * s->patch;
}

typedef struct cut_work {
    patch_shape shape;
    const cps_real *from; /* image, or patches in the other direction */
    cps_real *to;
    bool fresh;
} cut_work;

/* One row of patches of one image: index = image * down + row. */
static void cut_row(void *context, int64_t index) {
    const cut_work *w = context;
    const patch_shape *s = &w->shape;
    const int64_t image = index / s->down, down = index % s->down;
    for (int64_t across = 0; across < s->across; across++) {
        cps_real *to = w->to + (index * s->across + across) * patch_elements(s);
        for (int64_t line = 0; line < s->channels * s->patch; line++) {
            const int64_t channel = line / s->patch, y = down * s->patch + line % s->patch;
            const cps_real *from = w->from +
                                   ((image * s->channels + channel) * s->height + y) * s->width +
                                   across * s->patch;
            memcpy(to + line * s->patch, from, (size_t)s->patch * sizeof *to);
        }
    }
}

/* The way back: patches do not overlap, so each pixel gets one value; pixels outside all patches
 * were zeroed before. */
static void uncut_row(void *context, int64_t index) {
    const cut_work *w = context;
    const patch_shape *s = &w->shape;
    const int64_t image = index / s->down, down = index % s->down;
    for (int64_t across = 0; across < s->across; across++) {
        const cps_real *from = w->from + (index * s->across + across) * patch_elements(s);
        for (int64_t line = 0; line < s->channels * s->patch; line++) {
            const int64_t channel = line / s->patch, y = down * s->patch + line % s->patch;
            cps_real *to = w->to + ((image * s->channels + channel) * s->height + y) * s->width +
                           across * s->patch;
            for (int64_t x = 0; x < s->patch; x++) {
                to[x] += from[line * s->patch + x];
            }
        }
    }
}

/* ---- forward
 * ---------------------------------------------------------------------------------------------------------------
 */
typedef struct place_work {
    patch_shape shape;
    const cps_real *product, *bias, *class_token, *positions;
    cps_real *y; /* [B, 1 + n, C] */
} place_work;

/* Tile of the product to its rows of the result, with bias and position. */
static void place_tile(void *context, int64_t row, int64_t row_end, int64_t column,
                       int64_t column_end) {
    const place_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    const int64_t n = patches_of(&w->shape), out = w->shape.out, width = column_end - column;
    for (int64_t i = row; i < row_end; i++) {
        const int64_t token = 1 + i % n;
        cps_real *y = w->y + (i / n * (1 + n) + token) * out + column;
        kernels->add(width, w->product + i * out + column, w->positions + token * out + column, y);
        if (w->bias != NULL) {
            kernels->add(width, y, w->bias + column, y);
        }
    }
}

static void place_classes(void *context, int64_t first, int64_t last) {
    const place_work *w = context;
    for (int64_t image = first; image < last; image++) {
        cps_kernels_get()->add(w->shape.out, w->class_token, w->positions,
                               w->y + image * (1 + patches_of(&w->shape)) * w->shape.out);
    }
}

static bool operands_fit(cps_tape *tape, cps_tensor *const operands[5]) {
    static const char *const names[] = {"image", "conv", "class_token", "positions", "bias"};
    for (int32_t i = 0; i < 5; i++) {
        if (operands[i] != NULL &&
            !cps_op_dtype(tape, "patch_embed", names[i], operands[i], CPS_REAL)) {
            return false;
        }
    }
    const cps_tensor *image = operands[0], *conv = operands[1], *class_token = operands[2],
                     *positions = operands[3];
    const cps_tensor *bias = operands[4];
    bool fits = image->rank == 4 && conv->rank == 4 && class_token->rank == 1 &&
                positions->rank == 2 && conv->shape[1] == image->shape[1] &&
                conv->shape[2] == conv->shape[3] && conv->shape[3] >= 1 &&
                image->shape[2] >= conv->shape[2] && image->shape[3] >= conv->shape[3];
    if (fits) {
        const patch_shape s = shape_of(image, conv);
        fits = class_token->shape[0] == s.out && positions->shape[0] == 1 + patches_of(&s) &&
               positions->shape[1] == s.out &&
               (bias == NULL || (bias->rank == 1 && bias->shape[0] == s.out));
    }
    if (!fits) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "patch_embed: image %s, conv %s, class token %s, positions %s, bias %s do "
                      "not fit; [B, 3, H, W], "
                      "[C, 3, p, p], [C], [1 + patches, C] and [C] are wanted",
                      cps_show_shape(image).text, cps_show_shape(conv).text,
                      cps_show_shape(class_token).text, cps_show_shape(positions).text,
                      bias != NULL ? cps_show_shape(bias).text : "(none)");
    }
    return fits;
}

static cps_status patch_backward(cps_tape *tape, const cps_node *node);

static size_t patch_scratch(const patch_shape *s, const cps_tensor *image) {
    const int64_t n = patches_of(s), rows = s->images * n;
    return cps_scratch_size(rows * s->out) + cps_scratch_size((1 + n) * s->out) +
           cps_scratch_size(cps_sum_blocks(rows) * s->out) +
           (image->needs_grad ? cps_scratch_size(rows * patch_elements(s)) : 0);
}

static void patch_forward(const patch_shape *s, const cps_tensor *image, const cps_tensor *conv,
                          place_work *place, cps_real *patches, cps_real *product_out) {
    cut_work cut = {.shape = *s, .from = cps_values(image), .to = patches};
    cps_parallel(s->images * s->down, cut_row, &cut);
    const cps_product product = {.transpose_b = true,
                                 .m = s->images * patches_of(s),
                                 .n = s->out,
                                 .k = patch_elements(s),
                                 .alpha = 1.0,
                                 .a = patches,
                                 .lda = patch_elements(s),
                                 .b = cps_values(conv),
                                 .ldb = patch_elements(s),
                                 .c = product_out,
                                 .ldc = s->out,
                                 .epilogue = place_tile,
                                 .context = place};
    cps_products(1, &product);
    cps_parallel_rows(s->images, s->out, place_classes, place);
}

cps_tensor *cps_patch_embed(cps_tape *tape, cps_tensor *image, cps_tensor *conv, cps_tensor *bias,
                            cps_tensor *class_token, cps_tensor *positions) {
    cps_tensor *const operands[] = {image, conv, class_token, positions, bias};
    if (!cps_op_ready(tape, "patch_embed", 4, operands) || !operands_fit(tape, operands)) {
        return NULL;
    }
    const patch_shape s = shape_of(image, conv);
    const int64_t n = patches_of(&s), rows = s.images * n;
    const int64_t shape[3] = {s.images, 1 + n, s.out};
    cps_tensor *y = cps_tape_tensor(tape, CPS_REAL, 3, shape);
    if (y == NULL) {
        return NULL;
    }
    y->layout = image->layout;
    const bool learns = cps_tape_will_record(tape, 1, &conv);
    cps_real *kept = learns ? cps_scratch(tape, rows * patch_elements(&s)) : NULL;
    const cps_node node = {.backward = patch_backward,
                           .name = "patch_embed",
                           .output_count = 1,
                           .input_count = 5,
                           .outputs = {y},
                           .inputs = {image, conv, class_token, positions, bias},
                           .saved = kept,
                           .scratch_bytes = patch_scratch(&s, image)};
    cps_tape_record_with(tape, &node, 0);
    const size_t mark = cps_tape_mark(tape);
    cps_real *patches = learns ? kept : cps_scratch(tape, rows * patch_elements(&s));
    cps_real *product = cps_scratch(tape, rows * s.out);
    if (cps_tape_computes(tape)) {
        place_work place = {.shape = s,
                            .product = product,
                            .bias = bias != NULL ? cps_values(bias) : NULL,
                            .class_token = cps_values(class_token),
                            .positions = cps_values(positions),
                            .y = cps_values_out(y)};
        patch_forward(&s, image, conv, &place, patches, product);
    }
    cps_tape_release(tape, mark);
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

/* ---- backward
 * --------------------------------------------------------------------------------------------------------------
 */
typedef struct rows_work {
    int64_t images, n, out;
    const cps_real *dy;
    cps_real *to;
} rows_work;

/* Gradient rows of the patches, without those of the class tokens. */
static void pack_images(void *context, int64_t first, int64_t last) {
    const rows_work *w = context;
    for (int64_t image = first; image < last; image++) {
        memcpy(w->to + image * w->n * w->out, w->dy + (image * (1 + w->n) + 1) * w->out,
               (size_t)(w->n * w->out) * sizeof *w->to);
    }
}

/* Sum over the images at one token position. */
static void sum_positions(void *context, int64_t token) {
    const rows_work *w = context;
    cps_real *sum = w->to + token * w->out;
    memset(sum, 0, (size_t)w->out * sizeof *sum);
    for (int64_t image = 0; image < w->images; image++) {
        cps_kernels_get()->add(w->out, sum, w->dy + (image * (1 + w->n) + token) * w->out, sum);
    }
}

static void image_backward(const patch_shape *s, const cps_real *d_rows, const cps_tensor *conv,
                           cps_real *d_patches, bool fresh, cps_real *d_image) {
    const int64_t k = patch_elements(s);
    cps_gemm(false, false, s->images * patches_of(s), k, s->out, 1.0, d_rows, s->out,
             cps_values(conv), k, 0.0, d_patches, k);
    if (fresh) {
        cps_fill_zero(s->images * s->channels * s->height * s->width, d_image);
    }
    cut_work cut = {.shape = *s, .from = d_patches, .to = d_image};
    cps_parallel(s->images * s->down, uncut_row, &cut);
}

static cps_status patch_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *const *in = node->inputs; /* image, conv, class token, positions, bias */
    const patch_shape s = shape_of(in[0], in[1]);
    const int64_t n = patches_of(&s), rows = s.images * n, k = patch_elements(&s);
    cps_real *d_rows = cps_scratch(tape, rows * s.out);
    cps_real *d_tokens = cps_scratch(tape, (1 + n) * s.out);
    cps_real *partial = cps_scratch(tape, cps_sum_blocks(rows) * s.out);
    cps_real *d_patches = in[0]->needs_grad ? cps_scratch(tape, rows * k) : NULL;
    if (cps_tape_status(tape) != CPS_OK) {
        return cps_tape_status(tape);
    }
    rows_work pack = {.images = s.images,
                      .n = n,
                      .out = s.out,
                      .dy = cps_node_grad(node->outputs[0]),
                      .to = d_rows};
    cps_parallel_range(s.images, 1, pack_images, &pack);
    pack.to = d_tokens;
    cps_parallel(1 + n, sum_positions, &pack);
    bool fresh;
    cps_real *target = cps_grad_target(tape, in[2], &fresh);
    if (target != NULL) {
        cps_put(s.out, d_tokens, fresh, target);
    }
    if ((target = cps_grad_target(tape, in[3], &fresh)) != NULL) {
        cps_put((1 + n) * s.out, d_tokens, fresh, target);
    }
    if ((target = cps_grad_target(tape, in[4], &fresh)) != NULL) {
        cps_column_sums(rows, s.out, s.out, d_rows, partial, fresh, target);
    }
    if ((target = cps_grad_target(tape, in[1], &fresh)) != NULL) {
        cps_gemm(true, false, s.out, k, rows, 1.0, d_rows, s.out, node->saved, k, fresh ? 0.0 : 1.0,
                 target, k);
    }
    if ((target = cps_grad_target(tape, in[0], &fresh)) != NULL) {
        image_backward(&s, d_rows, in[1], d_patches, fresh, target);
    }
    return CPS_OK;
}
