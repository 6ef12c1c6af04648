#include "model/positions.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"

/* Keys' cubic convolution kernel with parameter `a` (IEEE ASSP 29(6), 1981, equation 15). */
static double cubic(double x, double a) {
    x = fabs(x);
    if (x < 1) {
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    }
    return x < 2 ? a * (((x - 5) * x + 8) * x - 4) : 0;
}

/* Four taps around s = (o + 1/2) * in / (out + 0.1) - 1/2; the 0.1 belongs to the map, outside is
 * the border. */
static void axis_dino(int64_t in, int64_t out, double *map) {
    const double ratio = ((double)out + 0.1) / (double)in;
    for (int64_t o = 0; o < out; o++) {
        const double at = ((double)o + 0.5) / ratio - 0.5;
        const double base = floor(at);
        for (int64_t tap = -1; tap <= 2; tap++) {
            const int64_t i = cps_max_i64(0, cps_min_i64(in - 1, (int64_t)base + tap));
            map[o * in + i] += cubic(at - base - (double)tap, -0.75);
        }
    }
}

/* The kernel widens with the reduction; weights outside are cut off and the rest made to sum to
 * one. */
static void axis_clip(int64_t in, int64_t out, double *map) {
    const double scale = (double)in / (double)out;
    const double widen = scale > 1 ? scale : 1;
    for (int64_t o = 0; o < out; o++) {
        const double centre = ((double)o + 0.5) * scale;
        const int64_t first = cps_max_i64(0, (int64_t)(centre - 2 * widen + 0.5));
        const int64_t last = cps_min_i64(in, (int64_t)(centre + 2 * widen + 0.5));
        double sum = 0;
        for (int64_t i = first; i < last; i++) {
            const double weight = cubic(((double)i - centre + 0.5) / widen, -0.5);
            map[o * in + i] = weight;
            sum += weight;
        }
        for (int64_t i = first; i < last; i++) {
            map[o * in + i] /= sum;
        }
    }
}

void cps_positions_axis(cps_resample kind, int64_t in, int64_t out, double *map) {
    memset(map, 0, (size_t)(in * out) * sizeof *map);
    if (kind == CPS_RESAMPLE_DINO) {
        axis_dino(in, out, map);
    } else {
        axis_clip(in, out, map);
    }
}

cps_status cps_positions_map(cps_resample kind, int64_t grid, int64_t rows, int64_t columns,
                             double **map_out) {
    const int64_t width = 1 + grid * grid;
    double *down = malloc((size_t)(rows * grid) * sizeof *down);
    double *across = malloc((size_t)(columns * grid) * sizeof *across);
    double *map = calloc((size_t)((1 + rows * columns) * width), sizeof *map);
    if (down == NULL || across == NULL || map == NULL) {
        free(down);
        free(across);
        free(map);
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "out of memory for resampling a %lldx%lld position table to %lldx%lld",
                        (long long)grid, (long long)grid, (long long)rows, (long long)columns);
    }
    cps_positions_axis(kind, grid, rows, down);
    cps_positions_axis(kind, grid, columns, across);
    map[0] = 1;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < columns; c++) {
            double *row = map + (1 + r * columns + c) * width + 1;
            for (int64_t i = 0; i < grid * grid; i++) {
                row[i] = down[r * grid + i / grid] * across[c * grid + i % grid];
            }
        }
    }
    free(down);
    free(across);
    *map_out = map;
    return CPS_OK;
}
