/* Position tables for another input size: constant maps from the rows of a table trained on one
 * grid of patches to those of another grid. Local. */
#ifndef CPS_MODEL_POSITIONS_H
#define CPS_MODEL_POSITIONS_H

#include "base/status.h"

typedef enum cps_resample {
    CPS_RESAMPLE_CLIP, /* bicubic (a = -0.5) with antialiasing, half-pixel centres: open_clip's for
                          loaded weights */
    CPS_RESAMPLE_DINO  /* bicubic (a = -0.75) without, ratio (out + 0.1) / in: DINO's for crops of
                          another size */
} cps_resample;

/* One axis: map[out][in], rows sum to one. in, out >= 1. */
void cps_positions_axis(cps_resample kind, int64_t in, int64_t out, double *map);
/* The table of a ViT: row 0 (class token) passes through, then grid x grid patches become rows x
 * columns. *map_out [1 + rows * columns][1 + grid * grid], malloc'ed. UNAVAILABLE when out of
 * memory. */
cps_status cps_positions_map(cps_resample kind, int64_t grid, int64_t rows, int64_t columns,
                             double **map_out) CPS_MUST_CHECK;

#endif
