/* Element by element: sums, differences, products and quotients with a repeated second operand,
 * affine maps, functions of one variable, rows times a factor, L2 normalisation. */
#include "tensor/ops.h"

#include <math.h>
#include <string.h>

#include "base/numeric.h"
#include "tensor/op.h"

/* ---- two operands
 * ------------------------------------------------------------------------------------------------------------
 */
typedef enum binary_kind { ADD, SUB, MUL, DIV } binary_kind;
static const char *const binary_names[] = {"add", "sub", "mul", "div"};

/* a [repeats, period], b [period]: y = a op b. period is 1 for a scalar b and the whole for equal
 * shapes. */
typedef struct binary_work {
    binary_kind kind;
    int64_t count, period;
    const cps_real *a, *b, *dy;
    cps_real *to, *partial;
    bool fresh;
} binary_work;

typedef void (*pair_loop)(int64_t n, const cps_real *a, const cps_real *b, cps_real *y);

static pair_loop loop_of(binary_kind kind) {
    const cps_kernels *kernels = cps_kernels_get();
    const pair_loop loops[] = {kernels->add, kernels->sub, kernels->mul, kernels->div};
    return loops[kind];
}

static void scalar_piece(const binary_work *w, int64_t first, int64_t last) {
    const cps_real b = w->b[0];
    for (int64_t i = first; i < last; i++) {
        const cps_real a = w->a[i];
        w->to[i] = w->kind == ADD ? a + b : w->kind == SUB ? a - b : w->kind == MUL ? a * b : a / b;
    }
}

/* Runs `loop` over [first, last) in stretches over which b does not wrap. */
static void binary_piece(void *context, int64_t first, int64_t last) {
    const binary_work *w = context;
    if (w->period == 1) {
        scalar_piece(w, first, last);
        return;
    }
    const pair_loop loop = loop_of(w->kind);
    for (int64_t at = first; at < last;) {
        const int64_t inner = at % w->period, n = cps_min_i64(last - at, w->period - inner);
        loop(n, w->a + at, w->b + inner, w->to + at);
        at += n;
    }
}

/* d_a (+)= dy times dy/da: 1, 1, b, 1/b. Only mul and div come here: the tape passes the others on.
 */
static void left_grad_piece(void *context, int64_t first, int64_t last) {
    const binary_work *w = context;
    for (int64_t i = first; i < last; i++) {
        const cps_real b = w->b[i % w->period];
        const cps_real d = w->kind == MUL ? w->dy[i] * b : w->dy[i] / b;
        w->to[i] = w->fresh ? d : w->to[i] + d;
    }
}

/* The same with b of equal shape, without remainders. */
static void left_grad_equal_piece(void *context, int64_t first, int64_t last) {
    const binary_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    if (w->kind == MUL && w->fresh) {
        kernels->mul(last - first, w->dy + first, w->b + first, w->to + first);
    } else if (w->kind == MUL) {
        kernels->mul_add(last - first, w->dy + first, w->b + first, w->to + first);
    } else {
        left_grad_piece(context, first, last);
    }
}

/* dy/db: 1, -1, a, -a/b^2, times dy. */
static inline double right_slope(const binary_work *w, int64_t i, int64_t j) {
    const double dy = (double)w->dy[i];
    switch (w->kind) {
    case ADD:
        return dy;
    case SUB:
        return -dy;
    case MUL:
        return dy * (double)w->a[i];
    default:
        return -dy * (double)w->a[i] / ((double)w->b[j] * (double)w->b[j]);
    }
}

/* b of equal shape. */
static void right_grad_piece(void *context, int64_t first, int64_t last) {
    const binary_work *w = context;
    for (int64_t i = first; i < last; i++) {
        const cps_real d = (cps_real)right_slope(w, i, i);
        w->to[i] = w->fresh ? d : w->to[i] + d;
    }
}

/* b repeated: the sum over repetitions for elements [first, last) of b, in double, in order. */
static void right_sum_piece(void *context, int64_t first, int64_t last) {
    const binary_work *w = context;
    enum { STRIP = 256 };
    for (int64_t from = first; from < last; from += STRIP) {
        const int64_t width = cps_min_i64(STRIP, last - from);
        double total[STRIP] = {0};
        for (int64_t row = 0; row < w->count; row += w->period) {
            for (int64_t j = 0; j < width; j++) {
                total[j] += right_slope(w, row + from + j, from + j);
            }
        }
        for (int64_t j = 0; j < width; j++) {
            cps_real *to = w->to + from + j;
            *to = w->fresh ? (cps_real)total[j] : *to + (cps_real)total[j];
        }
    }
}

/* b a scalar: sums over fixed blocks, added in order. */
enum { SCALAR_BLOCK = 4096 };
static void scalar_sum_piece(void *context, int64_t first, int64_t last) {
    const binary_work *w = context;
    double total = 0.0;
    for (int64_t i = first; i < last; i++) {
        total += right_slope(w, i, 0);
    }
    ((double *)w->partial)[first / SCALAR_BLOCK] = total;
}

static size_t scalar_scratch(int64_t count) {
    return (size_t)cps_ceil_div(count, SCALAR_BLOCK) * sizeof(double);
}

static void right_backward(binary_work *w) {
    if (w->period == w->count) {
        cps_parallel_range(w->count, CPS_PIECE, right_grad_piece, w);
    } else if (w->period > 1) {
        cps_parallel_range(w->period, 64, right_sum_piece, w);
    } else {
        const double *partial = (const double *)w->partial;
        cps_parallel_range(w->count, SCALAR_BLOCK, scalar_sum_piece, w);
        double total = 0.0;
        for (int64_t block = 0; block < cps_ceil_div(w->count, SCALAR_BLOCK); block++) {
            total += partial[block];
        }
        w->to[0] = w->fresh ? (cps_real)total : w->to[0] + (cps_real)total;
    }
}

static cps_status binary_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *a = node->inputs[0], *b = node->inputs[1];
    const binary_kind *kind = node->saved;
    binary_work work = {.kind = *kind,
                        .count = cps_count_of(a),
                        .period = cps_count_of(b),
                        .a = cps_values(a),
                        .b = cps_values(b),
                        .dy = cps_node_grad(node->outputs[0])};
    work.partial = cps_tape_save(tape, scalar_scratch(work.count));
    if (work.partial == NULL) {
        return cps_tape_status(tape);
    }
    if ((*kind == MUL || *kind == DIV) &&
        (work.to = cps_grad_target(tape, a, &work.fresh)) != NULL) {
        cps_parallel_range(work.count, CPS_PIECE,
                           work.period == work.count ? left_grad_equal_piece : left_grad_piece,
                           &work);
    }
    /* add passes the gradient on to b of equal shape too */
    if (!(*kind == ADD && work.period == work.count) &&
        (work.to = cps_grad_target(tape, b, &work.fresh)) != NULL) {
        right_backward(&work);
    }
    return CPS_OK;
}

/* Whether b's shape is the end of a's, or one element. */
static bool repeats_over(const cps_tensor *a, const cps_tensor *b) {
    if (cps_count_of(b) == 1 && b->rank <= 1) {
        return true;
    }
    if (b->rank > a->rank) {
        return false;
    }
    for (int32_t d = 1; d <= b->rank; d++) {
        if (a->shape[a->rank - d] != b->shape[b->rank - d]) {
            return false;
        }
    }
    return true;
}

static cps_tensor *binary(cps_tape *tape, cps_tensor *a, cps_tensor *b, binary_kind kind) {
    const char *name = binary_names[kind];
    cps_tensor *const operands[] = {a, b};
    if (!cps_op_ready(tape, name, 2, operands) || !cps_op_dtype(tape, name, "a", a, CPS_REAL) ||
        !cps_op_dtype(tape, name, "b", b, CPS_REAL)) {
        return NULL;
    }
    if (!repeats_over(a, b)) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "%s: shapes %s and %s; the second must equal the first, or its last "
                             "dimensions, or be a "
                             "scalar",
                             name, cps_show_shape(a).text, cps_show_shape(b).text);
    }
    cps_tensor *y = cps_result_like(tape, a, cps_columns_of(a));
    if (y == NULL) {
        return NULL;
    }
    const int64_t count = cps_count_of(a), period = cps_count_of(b);
    y->layout = a->layout != NULL ? a->layout : period == count ? b->layout : NULL;
    binary_kind *saved =
        cps_tape_will_record(tape, 2, operands) ? cps_tape_save(tape, sizeof *saved) : NULL;
    const cps_node node = {.backward = binary_backward,
                           .name = name,
                           .output_count = 1,
                           .input_count = 2,
                           .outputs = {y},
                           .inputs = {a, b},
                           .saved = saved,
                           .scratch_bytes = scalar_scratch(count)};
    const uint32_t left = kind == ADD || kind == SUB ? CPS_PASS_0 : 0;
    const uint32_t right = kind == ADD && period == count ? CPS_PASS_1 : 0;
    cps_tape_record_with(tape, &node, left | right);
    if (cps_tape_computes(tape)) {
        if (saved != NULL) {
            *saved = kind;
        }
        binary_work work = {.kind = kind,
                            .count = count,
                            .period = period,
                            .a = cps_values(a),
                            .b = cps_values(b),
                            .to = cps_values_out(y)};
        cps_parallel_range(count, CPS_PIECE, binary_piece, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

cps_tensor *cps_add(cps_tape *tape, cps_tensor *a, cps_tensor *b) {
    return binary(tape, a, b, ADD);
}
cps_tensor *cps_sub(cps_tape *tape, cps_tensor *a, cps_tensor *b) {
    return binary(tape, a, b, SUB);
}
cps_tensor *cps_mul(cps_tape *tape, cps_tensor *a, cps_tensor *b) {
    return binary(tape, a, b, MUL);
}
cps_tensor *cps_div(cps_tape *tape, cps_tensor *a, cps_tensor *b) {
    return binary(tape, a, b, DIV);
}

/* ---- one operand
 * -------------------------------------------------------------------------------------------------------------
 */
typedef struct unary_saved {
    cps_unary_kind kind;
    double alpha;
} unary_saved;

typedef struct unary_work {
    cps_unary_kind kind;
    double alpha, beta;
    const cps_real *x, *y, *dy;
    cps_real *to;
    bool fresh;
} unary_work;

static void affine_piece(void *context, int64_t first, int64_t last) {
    const unary_work *w = context;
    cps_kernels_get()->scale(last - first, (cps_real)w->alpha, w->x + first, (cps_real)w->beta,
                             w->to + first);
}

static void affine_add_piece(void *context, int64_t first, int64_t last) {
    const unary_work *w = context;
    cps_kernels_get()->scale_add(last - first, (cps_real)w->alpha, w->x + first, w->to + first);
}

static void unary_piece(void *context, int64_t first, int64_t last) {
    const unary_work *w = context;
    cps_kernels_get()->unary(w->kind, last - first, w->x + first, w->to + first);
}

static void unary_grad_piece(void *context, int64_t first, int64_t last) {
    const unary_work *w = context;
    cps_kernels_get()->unary_grad(w->kind, last - first, w->x + first, w->y + first, w->dy + first,
                                  !w->fresh, w->to + first);
}

static cps_status affine_backward(cps_tape *tape, const cps_node *node) {
    const unary_saved *saved = node->saved;
    unary_work work = {.alpha = saved->alpha, .x = cps_node_grad(node->outputs[0])};
    work.to = cps_grad_target(tape, node->inputs[0], &work.fresh);
    cps_parallel_range(cps_count_of(node->inputs[0]), CPS_PIECE,
                       work.fresh ? affine_piece : affine_add_piece, &work);
    return CPS_OK;
}

static cps_status unary_backward(cps_tape *tape, const cps_node *node) {
    const unary_saved *saved = node->saved;
    unary_work work = {.kind = saved->kind,
                       .x = cps_values(node->inputs[0]),
                       .y = cps_values(node->outputs[0]),
                       .dy = cps_node_grad(node->outputs[0])};
    work.to = cps_grad_target(tape, node->inputs[0], &work.fresh);
    cps_parallel_range(cps_count_of(node->inputs[0]), CPS_PIECE, unary_grad_piece, &work);
    return CPS_OK;
}

/* Result and record of an operation on x with a small saved struct; NULL after a failure. */
static cps_tensor *unary_begin(cps_tape *tape, const char *name, cps_tensor *x,
                               cps_backward_fn backward, const unary_saved *keep, uint32_t flags) {
    if (!cps_op_ready(tape, name, 1, &x) || !cps_op_dtype(tape, name, "x", x, CPS_REAL)) {
        return NULL;
    }
    cps_tensor *y = cps_result_like(tape, x, cps_columns_of(x));
    if (y == NULL) {
        return NULL;
    }
    unary_saved *saved =
        cps_tape_will_record(tape, 1, &x) ? cps_tape_save(tape, sizeof *saved) : NULL;
    if (saved != NULL) {
        *saved = *keep;
    }
    const cps_node node = {.backward = backward,
                           .name = name,
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x},
                           .saved = saved};
    cps_tape_record_with(tape, &node, flags);
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

cps_tensor *cps_affine(cps_tape *tape, cps_tensor *x, double alpha, double beta) {
    const unary_saved keep = {.alpha = alpha};
    cps_tensor *y = unary_begin(tape, "affine", x, affine_backward, &keep, 0);
    if (y != NULL && cps_tape_computes(tape)) {
        unary_work work = {
            .alpha = alpha, .beta = beta, .x = cps_values(x), .to = cps_values_out(y)};
        cps_parallel_range(cps_count_of(x), CPS_PIECE, affine_piece, &work);
    }
    return y;
}

cps_tensor *cps_unary(cps_tape *tape, cps_tensor *x, cps_unary_kind kind) {
    const unary_saved keep = {.kind = kind};
    cps_tensor *y = unary_begin(tape, "unary", x, unary_backward, &keep, 0);
    if (y != NULL && cps_tape_computes(tape)) {
        unary_work work = {.kind = kind, .x = cps_values(x), .to = cps_values_out(y)};
        cps_parallel_range(cps_count_of(x), CPS_PIECE, unary_piece, &work);
    }
    return y;
}

/* ---- rows
 * -------------------------------------------------------------------------------------------------------------------
 */
typedef struct rows_work {
    int64_t width;
    double floor;
    const cps_real *x, *scale, *y, *dy, *norm;
    cps_real *to, *norm_out;
    bool fresh;
} rows_work;

static void scale_rows_piece(void *context, int64_t first, int64_t last) {
    const rows_work *w = context;
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * w->width;
        if (w->fresh) {
            cps_kernels_get()->scale(w->width, w->scale[row], w->x + at, (cps_real)0, w->to + at);
        } else {
            cps_kernels_get()->scale_add(w->width, w->scale[row], w->x + at, w->to + at);
        }
    }
}

static void scale_grad_piece(void *context, int64_t first, int64_t last) {
    const rows_work *w = context;
    for (int64_t row = first; row < last; row++) {
        const cps_real d = (cps_real)cps_kernels_get()->dot(w->width, w->x + row * w->width,
                                                            w->dy + row * w->width);
        w->to[row] = w->fresh ? d : w->to[row] + d;
    }
}

static cps_status scale_rows_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *x = node->inputs[0], *scale = node->inputs[1];
    const int64_t rows = scale->shape[0], width = rows == 0 ? 0 : cps_count_of(x) / rows;
    const cps_real *dy = cps_node_grad(node->outputs[0]);
    rows_work work = {.width = width, .x = dy, .scale = cps_values(scale)};
    if ((work.to = cps_grad_target(tape, x, &work.fresh)) != NULL) {
        cps_parallel_rows(rows, width, scale_rows_piece, &work);
    }
    work.x = cps_values(x);
    work.dy = dy;
    if ((work.to = cps_grad_target(tape, scale, &work.fresh)) != NULL) {
        cps_parallel_rows(rows, width, scale_grad_piece, &work);
    }
    return CPS_OK;
}

cps_tensor *cps_scale_rows(cps_tape *tape, cps_tensor *x, cps_tensor *scale) {
    cps_tensor *const operands[] = {x, scale};
    if (!cps_op_ready(tape, "scale_rows", 2, operands) ||
        !cps_op_dtype(tape, "scale_rows", "x", x, CPS_REAL) ||
        !cps_op_dtype(tape, "scale_rows", "scale", scale, CPS_REAL)) {
        return NULL;
    }
    if (x->rank < 1 || scale->rank != 1 || scale->shape[0] != x->shape[0]) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "scale_rows: x %s and scale %s; [rows, ...] and [rows] are wanted",
                             cps_show_shape(x).text, cps_show_shape(scale).text);
    }
    cps_tensor *y = cps_result_like(tape, x, cps_columns_of(x));
    if (y == NULL) {
        return NULL;
    }
    const cps_node node = {.backward = scale_rows_backward,
                           .name = "scale_rows",
                           .output_count = 1,
                           .input_count = 2,
                           .outputs = {y},
                           .inputs = {x, scale}};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        const int64_t rows = x->shape[0], width = rows == 0 ? 0 : cps_count_of(x) / rows;
        rows_work work = {.width = width,
                          .x = cps_values(x),
                          .scale = cps_values(scale),
                          .to = cps_values_out(y),
                          .fresh = true};
        cps_parallel_rows(rows, width, scale_rows_piece, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}

/* ---- normalize
 * ---------------------------------------------------------------------------------------------------------------
 */
static void normalize_piece(void *context, int64_t first, int64_t last) {
    const rows_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    for (int64_t row = first; row < last; row++) {
        const cps_real *x = w->x + row * w->width;
        const double norm = sqrt(kernels->dot(w->width, x, x));
        const double length = norm > w->floor || isnan(norm) ? norm : w->floor;
        kernels->scale(w->width, (cps_real)(1.0 / length), x, (cps_real)0, w->to + row * w->width);
        if (w->norm_out != NULL) {
            w->norm_out[row] = (cps_real)(norm > w->floor ? 1.0 / length : -1.0 / length);
        }
    }
}

/* dx = (dy - y (y.dy)) / |x|; below the floor the length is constant (marked by a negative norm):
 * dx = dy / floor. */
static void normalize_grad_piece(void *context, int64_t first, int64_t last) {
    const rows_work *w = context;
    const cps_kernels *kernels = cps_kernels_get();
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * w->width;
        const cps_real inverse = (cps_real)fabs((double)w->norm[row]);
        const cps_real along = w->norm[row] < 0
                                   ? (cps_real)0
                                   : (cps_real)kernels->dot(w->width, w->y + at, w->dy + at);
        for (int64_t j = at; j < at + w->width; j++) {
            const cps_real d = (w->dy[j] - w->y[j] * along) * inverse;
            w->to[j] = w->fresh ? d : w->to[j] + d;
        }
    }
}

static cps_status normalize_backward(cps_tape *tape, const cps_node *node) {
    cps_tensor *x = node->inputs[0];
    rows_work work = {.width = cps_columns_of(x),
                      .y = cps_values(node->outputs[0]),
                      .dy = cps_node_grad(node->outputs[0]),
                      .norm = node->saved};
    work.to = cps_grad_target(tape, x, &work.fresh);
    cps_parallel_rows(cps_rows_of(x), work.width, normalize_grad_piece, &work);
    return CPS_OK;
}

cps_tensor *cps_normalize(cps_tape *tape, cps_tensor *x, double floor) {
    if (!cps_op_ready(tape, "normalize", 1, &x) ||
        !cps_op_dtype(tape, "normalize", "x", x, CPS_REAL)) {
        return NULL;
    }
    if (floor <= 0.0) {
        return cps_tape_fail(tape, CPS_ERR_USAGE,
                             "normalize: the least length is %g; it must be positive", floor);
    }
    cps_tensor *y = cps_result_like(tape, x, cps_columns_of(x));
    if (y == NULL) {
        return NULL;
    }
    const int64_t rows = cps_rows_of(x), width = cps_columns_of(x);
    cps_real *norms = cps_tape_will_record(tape, 1, &x) ? cps_scratch(tape, rows) : NULL;
    const cps_node node = {.backward = normalize_backward,
                           .name = "normalize",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x},
                           .saved = norms};
    cps_tape_record_with(tape, &node, 0);
    if (cps_tape_computes(tape)) {
        rows_work work = {.width = width,
                          .floor = floor,
                          .x = cps_values(x),
                          .to = cps_values_out(y),
                          .norm_out = norms};
        cps_parallel_rows(rows, width, normalize_piece, &work);
    }
    return cps_tape_status(tape) == CPS_OK ? y : NULL;
}
