/* Self-distillation of an image tower (agriclip.md, "agriclip.dino"): what its files share. Private
 * to plugins/agriclip. */
#ifndef AGRICLIP_DINO_H
#define AGRICLIP_DINO_H

#include "copse_objective.h"

typedef struct agriclip_dino_options {
    const char *tower, *stream;
    int64_t classes, hidden, bottleneck, layers;
    bool use_bn, norm_last_layer;
    int64_t local_crops, global_size, local_size;
    cps_numbers global_scale, local_scale;
    double student_temp, warmup_teacher_temp;
    cps_numbers teacher_temp;
    int64_t warmup_teacher_temp_epochs;
    cps_numbers momentum;
    double momentum_start, center_momentum;
    int64_t freeze_last_layer;
} agriclip_dino_options;
extern const cps_option agriclip_dino_rows[];
cps_status agriclip_dino_create(cps_setup *setup, const void *values, void **self_out);
cps_status agriclip_dino_prepare(const void *values, const cps_grain *grain, double *counts);
cps_status agriclip_dino_grain_loss(const void *values, cps_grain *grain, cps_tape *tape);
cps_status agriclip_dino_commit(const void *values, cps_global *global);
cps_status agriclip_dino_embed(const void *values, cps_embed *side, cps_tape *tape);

/* ---- dino_schedule.c: tables of a stage ---- */

/* Momentum of the moving average at `step` of `steps`: from `start` to 1, which is not reached. */
double agriclip_dino_momentum(double start, int64_t step, int64_t steps);
/* Teacher temperature of an epoch: from `warmup` to `final` over so many epochs, both inclusive,
 * then `final`; one epoch of warm-up has `warmup`. */
double agriclip_dino_temperature(double warmup, double final, int64_t warmup_epochs, int64_t epoch);

/* ---- dino_head.c: the projection head ---- */

enum { AGRICLIP_DINO_MOST_LAYERS = 8 };

/* One linear layer; the rest is NULL but behind hidden layers with batch norm. mean, variance: the
 * running statistics. */
typedef struct agriclip_dino_layer {
    cps_tensor *weight, *bias, *gain, *shift, *mean, *variance;
} agriclip_dino_layer;

typedef struct agriclip_dino_head {
    int64_t layer_count;
    agriclip_dino_layer layers[AGRICLIP_DINO_MOST_LAYERS];
    cps_tensor *v, *g; /* [K, D], [K, 1] of the last layer's weight norm */
} agriclip_dino_head;

/* x [rows, width] -> bottleneck [rows, D], not yet of unit length. running: batch norm takes the
 * running statistics, else those of these rows, which go to moments[layer] ([2C] doubles: mean,
 * unbiased variance). */
cps_tensor *agriclip_dino_bottleneck(cps_tape *tape, const agriclip_dino_head *head, cps_tensor *x,
                                     bool running, double *const *moments);
/* Rows g_k v_k / |v_k| [K, D] of v [K, D] and g [K, 1]. A row of zeros stays one, without a
 * gradient. */
cps_tensor *agriclip_dino_weight(cps_tape *tape, cps_tensor *v, cps_tensor *g);

/* ---- dino_loss.c ---- */

/* What the teacher's rows say beside their probabilities. */
typedef struct agriclip_dino_teacher {
    double *sums;   /* [K] of the logits over the rows */
    double entropy; /* summed over the rows */
} agriclip_dino_teacher;

/* Probabilities q = softmax((t - centre) / temperature) of t = unit weight' for the 2B rows of two
 * crops: a constant [K, 2B], a class a line. unit [2B, D], weight [K, D], centre [K].
 * teacher->sums: given, [K] (NULL while planning). */
cps_tensor *agriclip_dino_targets(cps_tape *tape, cps_tensor *unit, cps_tensor *weight,
                                  cps_tensor *centre, double temperature,
                                  agriclip_dino_teacher *teacher);
/* Scalar: scale / (2V - 2) * sum over the B images, the teacher's crops i in {0, 1} and the V crops
 * v other than i of cross-entropy(q_i, softmax(s_v / temperature)), s = unit weight'. unit [V B,
 * D], crop after crop; weight [K, D]; targets of agriclip_dino_targets. Gradients reach unit and
 * weight. */
cps_tensor *agriclip_dino_cross_entropy(cps_tape *tape, cps_tensor *unit, cps_tensor *weight,
                                        cps_tensor *targets, double temperature, double scale);

#endif
