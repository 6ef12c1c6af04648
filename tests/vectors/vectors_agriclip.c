/* Golden vectors of AgriCLIP: vectors_agriclip FILE. Cases are the paths of what is compared. */
#include <stdlib.h>
#include <string.h>

#include "agriclip.h"
#include "arrays.h"
#include "objective.h"
#include "ranks.h"
#include "tensor/ops.h"

/* ---- the contrastive stage: clip on raw features ---- */

enum { IMAGE, TEXT, SIDES };

/* One side: raw rows -> unit rows, and the gradient back. */
typedef struct side {
    vectors_matrix raw;
    cps_real *values, *d_values;
    double *unit, *d_unit; /* of `clip` */
} side;

/* The towers' normalisation, on a tape: unit rows; with d_unit also d_values. */
static void normalise(side *s, bool backward) {
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    const int64_t count = s->raw.rows * s->raw.width, shape[2] = {s->raw.rows, s->raw.width};
    vectors_need(cps_arena_create("normalise", (size_t)1 << 20, true, &arena));
    vectors_need(cps_tape_create(arena, CPS_TAPE_RECORD, NULL, &tape));
    cps_tensor *raw = cps_tape_leaf(tape, CPS_REAL, 2, shape, s->values, s->d_values, -1);
    raw->grad_fresh = true;
    cps_tensor *unit = cps_normalize(tape, raw, 1e-12);
    cps_real *seed = cps_arena_alloc_zero(arena, (size_t)(count + 1) * sizeof *seed);
    vectors_need(cps_tape_status(tape));
    for (int64_t i = 0; i < count; i++) {
        s->unit[i] = (double)((const cps_real *)unit->data)[i];
        seed[i] = (cps_real)s->d_unit[i];
    }
    if (backward) {
        cps_tape_seed(tape, unit, seed);
        vectors_need(cps_backward(tape, NULL, 0.0));
    }
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
}

static side read_side(cps_h5 *file, const char *name) {
    side s = {.raw = vectors_matrix_read(file, "clip_loss", name)};
    const int64_t count = s.raw.rows * s.raw.width;
    s.unit = vectors_doubles(count);
    s.d_unit = vectors_doubles(count);
    s.values = calloc((size_t)count + 1, sizeof *s.values);
    s.d_values = calloc((size_t)count + 1, sizeof *s.d_values);
    if (s.values == NULL || s.d_values == NULL) {
        vectors_unusable("out of memory");
    }
    for (int64_t i = 0; i < count; i++) {
        s.values[i] = (cps_real)s.raw.values[i];
    }
    return s;
}

static void expect_gradient(cps_h5 *file, const char *name, const side *s, double tolerance) {
    const int64_t count = s->raw.rows * s->raw.width;
    double *values = vectors_doubles(count);
    for (int64_t i = 0; i < count; i++) {
        values[i] = (double)s->d_values[i];
    }
    vectors_expect_in(file, "clip_loss", name, values, count, tolerance);
    free(values);
}

static void clip_loss(cps_h5 *file) {
    static const char *const inputs[] = {"image", "text", "log_scale", NULL};
    if (!vectors_has(file, "clip_loss", inputs)) {
        return;
    }
    const double tolerance = vectors_tolerance(1e-10, 2e-5);
    side sides[SIDES] = {read_side(file, "image"), read_side(file, "text")};
    const int64_t rows = sides[IMAGE].raw.rows, width = sides[IMAGE].raw.width;
    vectors_need_same("clip_loss", sides[TEXT].raw.rows == rows && sides[TEXT].raw.width == width);
    objective_rows slots[SIDES];
    for (int i = 0; i < SIDES; i++) {
        normalise(&sides[i], false);
        slots[i] = (objective_rows){inputs[i], rows, width, sides[i].unit, sides[i].d_unit};
    }
    const double log_scale = vectors_number(file, "clip_loss", "log_scale");
    double d_log_scale = 0.0;
    objective_parameter scale = {"logit_scale", 1, &log_scale, &d_log_scale};
    const objective_loss wanted = {.name = "clip",
                                   .options = "{}",
                                   .embed_dim = width,
                                   .slots = slots,
                                   .slot_count = SIDES,
                                   .parameters = &scale,
                                   .parameter_count = 1};
    objective_result result;
    vectors_need(objective_run_loss(&wanted, &result));
    vectors_expect_in(file, "clip_loss", "loss", &result.loss, 1, tolerance);
    vectors_expect_in(file, "clip_loss", "dlog_scale", &d_log_scale, 1, tolerance);
    for (int i = 0; i < SIDES; i++) {
        normalise(&sides[i], true);
        expect_gradient(file, i == IMAGE ? "dimage" : "dtext", &sides[i], tolerance);
        free(sides[i].raw.values);
        free(sides[i].unit);
        free(sides[i].d_unit);
        free(sides[i].values);
        free(sides[i].d_values);
    }
}

int main(int argc, char **argv) {
    vectors_rank_main(argc, argv, agriclip_dino_ranks);
    cps_h5 *file = vectors_open(argc, argv, 1, 1, "FILE");
    agriclip_dino_run_ranks(file);
    agriclip_align(file);
    agriclip_dino_losses(file);
    agriclip_dino_train(file);
    agriclip_dino_parts(file);
    agriclip_dino_updates(file);
    clip_loss(file);
    vectors_skip_unknown(file, "/");
    vectors_need(cps_h5_close(file));
    return vectors_finish();
}
