/* DINO's cross-entropies from rows of the bottleneck (agriclip.md, "The loss"). Logits of the
 * student exist for SLAB classes of one crop at a time, in the forward pass and again in the
 * backward pass; a number a row is kept between them. Of the teacher all 2B rows of probabilities
 * are kept. So memory does not grow with the number of crops.
 *
 * Classes are cut in tiles of TILE, tasks for threads; sums over classes are joined tile by tile in
 * order, sums over rows run within a tile, so bits do not depend on threads. A class a line, so
 * that sums over the classes run along all rows at once. */
#include <math.h>
#include <stddef.h>

#include "dino.h"

enum { TILE = 256, SLAB = 16 * TILE };

static cps_real real_exp(cps_real x) {
#ifdef CPS_REAL_DOUBLE
    return exp(x);
#else
    return expf(x);
#endif
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t tiles_in(int64_t classes) {
    return (classes + TILE - 1) / TILE;
}

/* log sum exp over a run of classes, for each row: largest value, sum of exp(value - largest). */
typedef struct run_sums {
    double *most, *sum;
} run_sums;

static void clear_sums(const run_sums *s, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
        s->most[i] = -(double)INFINITY;
        s->sum[i] = 0.0;
    }
}

static run_sums sums_at(const run_sums *all, int64_t offset) {
    return (run_sums){all->most + offset, all->sum + offset};
}

/* Adds the classes that follow. */
static void join_sums(const run_sums *all, const run_sums *next, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
        const double most = next->most[i] > all->most[i] ? next->most[i] : all->most[i];
        all->sum[i] =
            all->sum[i] * exp(all->most[i] - most) + next->sum[i] * exp(next->most[i] - most);
        all->most[i] = most;
    }
}

static run_sums save_sums(cps_tape *tape, int64_t count) {
    return (run_sums){cps_tape_save(tape, (size_t)count * sizeof(double)),
                      cps_tape_save(tape, (size_t)count * sizeof(double))};
}

/* z [count, rows] = weight of classes [first, first + count) times unit'. */
static void tile_logits(cps_tape *tape, const cps_real *weight, const cps_real *unit, int64_t first,
                        int64_t count, int64_t rows, int64_t width, cps_real *z) {
    cps_gemm_serial(tape, false, true, count, rows, width, 1.0, weight + first * width, width, unit,
                    width, 0.0, z, rows);
}

/* ---- the teacher's probabilities ---- */

typedef struct target_work {
    cps_tape *tape;
    int64_t classes, rows, width;
    const cps_real *unit, *weight, *centre;
    double inverse; /* of the temperature */
    cps_real *q;    /* [classes, rows]: logits, then probabilities */
    double *class_sums;
    run_sums tiles;  /* [tiles, rows] */
    double *lse;     /* [rows] */
    double *entropy; /* [tiles] */
} target_work;

static double sharpened(const target_work *w, int64_t k, cps_real logit) {
    return ((double)logit - (double)w->centre[k]) * w->inverse;
}

static void logits_tile(void *context, int64_t index) {
    const target_work *w = context;
    const int64_t first = index * TILE, end = least(first + TILE, w->classes);
    const run_sums s = sums_at(&w->tiles, index * w->rows);
    tile_logits(w->tape, w->weight, w->unit, first, end - first, w->rows, w->width,
                w->q + first * w->rows);
    clear_sums(&s, w->rows);
    for (int64_t k = first; k < end; k++) {
        const cps_real *t = w->q + k * w->rows;
        double total = 0.0;
        for (int64_t i = 0; i < w->rows; i++) {
            const double a = sharpened(w, k, t[i]);
            s.most[i] = a > s.most[i] ? a : s.most[i];
            total += (double)t[i];
        }
        w->class_sums[k] = total;
    }
    for (int64_t k = first; k < end; k++) {
        const cps_real *t = w->q + k * w->rows;
        for (int64_t i = 0; i < w->rows; i++) {
            s.sum[i] += (double)real_exp((cps_real)(sharpened(w, k, t[i]) - s.most[i]));
        }
    }
}

/* Logits to probabilities, and minus the sum of q ln q. */
static void probabilities_tile(void *context, int64_t index) {
    const target_work *w = context;
    const int64_t first = index * TILE, end = least(first + TILE, w->classes);
    double entropy = 0.0;
    for (int64_t k = first; k < end; k++) {
        cps_real *q = w->q + k * w->rows;
        for (int64_t i = 0; i < w->rows; i++) {
            const double log_q = sharpened(w, k, q[i]) - w->lse[i];
            q[i] = real_exp((cps_real)log_q);
            entropy -= q[i] > 0 ? (double)q[i] * log_q : 0.0;
        }
    }
    w->entropy[index] = entropy;
}

static double compute_targets(target_work *w) {
    const int64_t tiles = tiles_in(w->classes);
    double entropy = 0.0;
    cps_parallel(w->tape, tiles, logits_tile, w);
    for (int64_t t = 1; t < tiles; t++) {
        const run_sums next = sums_at(&w->tiles, t * w->rows);
        join_sums(&w->tiles, &next, w->rows);
    }
    for (int64_t i = 0; i < w->rows; i++) {
        w->lse[i] = w->tiles.most[i] + log(w->tiles.sum[i]);
    }
    cps_parallel(w->tape, tiles, probabilities_tile, w);
    for (int64_t t = 0; t < tiles; t++) {
        entropy += w->entropy[t];
    }
    return entropy;
}

cps_tensor *agriclip_dino_targets(cps_tape *tape, cps_tensor *unit, cps_tensor *weight,
                                  cps_tensor *centre, double temperature,
                                  agriclip_dino_teacher *teacher) {
    if (unit == NULL || weight == NULL || centre == NULL) {
        return NULL;
    }
    const int64_t shape[2] = {weight->shape[0], unit->shape[0]};
    const int64_t classes = shape[0], rows = shape[1], tiles = tiles_in(classes);
    cps_tensor *q = cps_tape_tensor(tape, CPS_REAL, 2, shape);
    const size_t mark = cps_tape_mark(tape);
    target_work w = {.tape = tape,
                     .classes = classes,
                     .rows = rows,
                     .width = weight->shape[1],
                     .unit = unit->data,
                     .weight = weight->data,
                     .centre = centre->data,
                     .inverse = 1.0 / temperature,
                     .class_sums = teacher->sums,
                     .tiles = save_sums(tape, tiles * rows),
                     .lse = cps_tape_save(tape, (size_t)rows * sizeof *w.lse),
                     .entropy = cps_tape_save(tape, (size_t)tiles * sizeof *w.entropy)};
    teacher->entropy = 0.0;
    if (cps_tape_computes(tape) && cps_tape_status(tape) == CPS_OK) {
        w.q = q->data;
        teacher->entropy = compute_targets(&w);
    }
    cps_tape_release(tape, mark);
    return cps_tape_status(tape) == CPS_OK ? q : NULL;
}

/* ---- the student's cross-entropies ---- */

typedef struct student_saved {
    double *lse; /* [crops * images] of the logits over the temperature */
    double inverse, factor;
} student_saved;

typedef struct student_work {
    cps_tape *tape;
    int64_t crops, images, width, classes;
    const cps_real *unit, *weight, *targets;
    student_saved saved;
    int64_t slab, crop; /* at work: its first class; backward: the crop */
    cps_real *z;        /* [SLAB, images] logits, then their gradient */
    run_sums tiles;     /* forward: of the slab's tiles, [SLAB / TILE, crops * images] */
    double *tile_cross; /* the same: sums of target times logit over the temperature */
    double upstream;    /* backward */
    cps_real *d_weight; /* NULL: not asked */
    bool fresh_weight;
} student_work;

static int64_t slab_tiles(const student_work *w) {
    return tiles_in(least(SLAB, w->classes - w->slab));
}

/* How many of the teacher's crops a student's crop is held against: a global one not its own. */
static double mass_of(int64_t crop) {
    return crop < 2 ? 1.0 : 2.0;
}

/* Target of image `i` of a crop; q: the class's line of the targets. */
static double target_of(const student_work *w, const cps_real *q, int64_t crop, int64_t i) {
    return crop == 0   ? (double)q[w->images + i]
           : crop == 1 ? (double)q[i]
                       : (double)q[i] + (double)q[w->images + i];
}

static void forward_crop(const student_work *w, int64_t first, int64_t count, cps_real *z,
                         int64_t crop, const run_sums *s, double *cross) {
    tile_logits(w->tape, w->weight, w->unit + crop * w->images * w->width, first, count, w->images,
                w->width, z);
    for (int64_t c = 0; c < count; c++) {
        const cps_real *q = w->targets + (first + c) * 2 * w->images;
        for (int64_t i = 0; i < w->images; i++) {
            const double a = (double)z[c * w->images + i] * w->saved.inverse;
            s->most[i] = a > s->most[i] ? a : s->most[i];
            cross[i] += target_of(w, q, crop, i) * a;
        }
    }
    for (int64_t c = 0; c < count; c++) {
        for (int64_t i = 0; i < w->images; i++) {
            const double a = (double)z[c * w->images + i] * w->saved.inverse;
            s->sum[i] += (double)real_exp((cps_real)(a - s->most[i]));
        }
    }
}

static void forward_tile(void *context, int64_t index) {
    const student_work *w = context;
    const int64_t first = w->slab + index * TILE, count = least(TILE, w->classes - first);
    const int64_t rows = w->crops * w->images;
    cps_real *z = w->z + index * TILE * w->images;
    for (int64_t crop = 0; crop < w->crops; crop++) {
        const run_sums s = sums_at(&w->tiles, index * rows + crop * w->images);
        double *cross = w->tile_cross + index * rows + crop * w->images;
        clear_sums(&s, w->images);
        for (int64_t i = 0; i < w->images; i++) {
            cross[i] = 0.0;
        }
        forward_crop(w, first, count, z, crop, &s, cross);
    }
}

/* The sum over images, pairs of crops and classes, not yet scaled. */
static double forward_slabs(student_work *w, const run_sums *all, double *cross) {
    const int64_t rows = w->crops * w->images;
    clear_sums(all, rows);
    for (int64_t i = 0; i < rows; i++) {
        cross[i] = 0.0;
    }
    for (w->slab = 0; w->slab < w->classes; w->slab += SLAB) {
        const int64_t tiles = slab_tiles(w);
        cps_parallel(w->tape, tiles, forward_tile, w);
        for (int64_t t = 0; t < tiles; t++) {
            const run_sums next = sums_at(&w->tiles, t * rows);
            join_sums(all, &next, rows);
            for (int64_t i = 0; i < rows; i++) {
                cross[i] += w->tile_cross[t * rows + i];
            }
        }
    }
    double loss = 0.0;
    for (int64_t i = 0; i < rows; i++) {
        w->saved.lse[i] = all->most[i] + log(all->sum[i]);
        loss += mass_of(i / w->images) * w->saved.lse[i] - cross[i];
    }
    return loss;
}

/* ds = factor (mass p - targets) of the crop at work, then its share of the weight's gradient. */
static void backward_tile(void *context, int64_t index) {
    const student_work *w = context;
    const int64_t first = w->slab + index * TILE, count = least(TILE, w->classes - first);
    const cps_real *unit = w->unit + w->crop * w->images * w->width;
    const double *lse = w->saved.lse + w->crop * w->images, mass = mass_of(w->crop);
    const double factor = w->upstream * w->saved.factor * w->saved.inverse;
    cps_real *z = w->z + index * TILE * w->images;
    tile_logits(w->tape, w->weight, unit, first, count, w->images, w->width, z);
    for (int64_t c = 0; c < count; c++) {
        const cps_real *q = w->targets + (first + c) * 2 * w->images;
        for (int64_t i = 0; i < w->images; i++) {
            const double a = (double)z[c * w->images + i] * w->saved.inverse;
            const double p = (double)real_exp((cps_real)(a - lse[i]));
            z[c * w->images + i] = (cps_real)(factor * (mass * p - target_of(w, q, w->crop, i)));
        }
    }
    if (w->d_weight != NULL) {
        cps_gemm_serial(w->tape, false, false, count, w->width, w->images, 1.0, z, w->images, unit,
                        w->width, w->fresh_weight && w->crop == 0 ? 0.0 : 1.0,
                        w->d_weight + first * w->width, w->width);
    }
}

static student_work describe(cps_tape *tape, const cps_tensor *unit, const cps_tensor *weight,
                             const cps_tensor *targets, student_saved saved) {
    const int64_t images = targets->shape[1] / 2;
    return (student_work){.tape = tape,
                          .crops = unit->shape[0] / images,
                          .images = images,
                          .width = unit->shape[1],
                          .classes = weight->shape[0],
                          .unit = unit->data,
                          .weight = weight->data,
                          .targets = targets->data,
                          .saved = saved};
}

static size_t slab_bytes(int64_t classes, int64_t images) {
    return (size_t)(least(SLAB, tiles_in(classes) * TILE) * images) * sizeof(cps_real);
}

static cps_status student_backward(cps_tape *tape, const cps_node *node) {
    student_work w = describe(tape, node->inputs[0], node->inputs[1], node->inputs[2],
                              *(const student_saved *)node->saved);
    bool fresh = false;
    cps_real *d_unit = cps_grad_target(tape, node->inputs[0], &fresh);
    w.d_weight = cps_grad_target(tape, node->inputs[1], &w.fresh_weight);
    w.upstream = (double)cps_node_grad(tape, node->outputs[0])[0];
    const size_t mark = cps_tape_mark(tape);
    w.z = cps_tape_save(tape, slab_bytes(w.classes, w.images));
    if (cps_tape_status(tape) != CPS_OK) {
        return cps_tape_status(tape);
    }
    for (w.slab = 0; w.slab < w.classes; w.slab += SLAB) {
        for (w.crop = 0; w.crop < w.crops; w.crop++) {
            cps_parallel(tape, slab_tiles(&w), backward_tile, &w);
            if (d_unit != NULL) {
                cps_gemm(tape, true, false, w.images, w.width, least(SLAB, w.classes - w.slab), 1.0,
                         w.z, w.images, w.weight + w.slab * w.width, w.width,
                         fresh && w.slab == 0 ? 0.0 : 1.0, d_unit + w.crop * w.images * w.width,
                         w.width);
            }
        }
    }
    cps_tape_release(tape, mark);
    return CPS_OK;
}

cps_tensor *agriclip_dino_cross_entropy(cps_tape *tape, cps_tensor *unit, cps_tensor *weight,
                                        cps_tensor *targets, double temperature, double scale) {
    cps_tensor *loss = cps_tape_tensor(tape, CPS_REAL, 0, NULL);
    if (unit == NULL || weight == NULL || targets == NULL || loss == NULL) {
        return NULL;
    }
    const int64_t rows = unit->shape[0], classes = weight->shape[0], images = targets->shape[1] / 2,
                  crops = rows / images;
    student_saved *saved = cps_tape_save(tape, sizeof *saved);
    const student_saved values = {cps_tape_save(tape, (size_t)rows * sizeof(double)),
                                  1.0 / temperature, scale / (2.0 * (double)crops - 2.0)};
    const cps_node node = {.backward = student_backward,
                           .name = "dino.cross_entropy",
                           .output_count = 1,
                           .input_count = 3,
                           .outputs = {loss},
                           .inputs = {unit, weight, targets},
                           .saved = saved,
                           .scratch_bytes = slab_bytes(classes, images)};
    cps_tape_record(tape, &node);
    const size_t mark = cps_tape_mark(tape);
    cps_real *z = cps_tape_save(tape, slab_bytes(classes, images));
    const int64_t tile_rows = least(SLAB / TILE, tiles_in(classes)) * rows;
    const run_sums tiles = save_sums(tape, tile_rows), all = save_sums(tape, rows);
    double *tile_cross = cps_tape_save(tape, (size_t)tile_rows * sizeof *tile_cross);
    double *cross = cps_tape_save(tape, (size_t)rows * sizeof *cross);
    if (cps_tape_computes(tape) && cps_tape_status(tape) == CPS_OK) {
        *saved = values;
        student_work w = describe(tape, unit, weight, targets, values);
        w.z = z;
        w.tiles = tiles;
        w.tile_cross = tile_cross;
        *(cps_real *)loss->data = (cps_real)(values.factor * forward_slabs(&w, &all, cross));
    }
    cps_tape_release(tape, mark);
    return cps_tape_status(tape) == CPS_OK ? loss : NULL;
}
