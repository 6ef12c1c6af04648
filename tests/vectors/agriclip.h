/* Parts of the runner of AgriCLIP's golden vectors. */
#ifndef CPS_TESTS_VECTORS_AGRICLIP_H
#define CPS_TESTS_VECTORS_AGRICLIP_H

#include "model/params.h"
#include "vectors.h"

/* Groups `aligner` and `zeroshot`. */
void agriclip_align(cps_h5 *file);

/* ---- DINO ---- */

/* Logits of the crops of one rank's images: student [crops * images, classes], crop after crop,
 * teacher [2 * images, classes], centre [classes]. */
typedef struct agriclip_pairs {
    int64_t crops, images, classes;
    double student_temp, teacher_temp;
    const double *student, *teacher, *centre;
} agriclip_pairs;
/* By the plugin's operations alone: loss, its gradient, the teacher's probabilities (NULL: not
 * wanted). */
void agriclip_dino_pairs(const agriclip_pairs *given, double *loss_out, double *d_student,
                         double *probabilities);
/* Logits [count, K] of a tower's rows by the head whose parameters `params` has under `prefix`;
 * malloc'ed. */
double *agriclip_dino_logits(cps_params *params, const char *prefix, int64_t layers,
                             const double *rows, int64_t count, int64_t width);

/* Groups dino_loss/ranks<W>: first of all; and what a rank of them does. */
void agriclip_dino_run_ranks(cps_h5 *file);
void agriclip_dino_ranks(cps_h5 *file, const char *group);
/* The rest of `dino_loss`. */
void agriclip_dino_losses(cps_h5 *file);
/* `dino_head`, `vit`, `pos_interp`, `schedule`. */
void agriclip_dino_parts(cps_h5 *file);
/* `train`, `bn_crops`, running statistics of `dino_head`. */
void agriclip_dino_train(cps_h5 *file);
/* `adamw`, `lars`, `ema`, `clip`. */
void agriclip_dino_updates(cps_h5 *file);

#endif
