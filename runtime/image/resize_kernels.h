/* The two passes of the resize over rows and columns of 8-bit RGB: portable C, SSSE3 or AVX2,
 * chosen at run time, all with the same bits (integer sums). A weight has 22 fraction bits and is
 * kept as high * 2^11 + low with 0 <= low < 2^11, so that multipliers of 16 bits do: sum(weight *
 * pixel) = (sum(high * pixel) << 11) + sum(low * pixel), all modulo 2^32. */
#ifndef CPS_IMAGE_RESIZE_KERNELS_H
#define CPS_IMAGE_RESIZE_KERNELS_H

#include "base/types.h"

enum {
    CPS_RESIZE_FRACTION_BITS = 32 - 8 - 2,
    CPS_RESIZE_LOW_BITS = 11,
    CPS_RESIZE_SLACK = 64 /* bytes behind rows that vector code may read or overwrite */
};

/* The taps of a run of output pixels along one axis. Weights of one pixel: `stride` entries, a
 * multiple of 4, zero beyond `count[i]`. */
typedef struct cps_taps {
    int32_t outputs, stride;
    int32_t *first, *count;
    int16_t *high, *low; /* [outputs, stride] */
} cps_taps;

typedef struct cps_resize_kernels {
    /* Rows to rows: `count` rows, `from_stride` and `to_stride` bytes apart. CPS_RESIZE_SLACK bytes
     * behind the last row of `from` are readable; exactly 3 * outputs bytes of each row of `to` are
     * written. */
    void (*rows)(const uint8_t *from, size_t from_stride, int32_t count, const cps_taps *axis,
                 uint8_t *to, size_t to_stride);
    /* One output row of `bytes` bytes from `count` rows; up to CPS_RESIZE_SLACK bytes behind each
     * row are read and behind `to` overwritten. */
    void (*column)(const uint8_t *from, size_t from_stride, const int16_t *high, const int16_t *low,
                   int32_t count, size_t bytes, uint8_t *to);
} cps_resize_kernels;

/* The fastest this CPU has; CPS_RESIZE_PORTABLE, _SSSE3, _AVX2: that one, NULL if it is not there
 * (tests). */
enum { CPS_RESIZE_BEST, CPS_RESIZE_PORTABLE, CPS_RESIZE_SSSE3, CPS_RESIZE_AVX2 };
const cps_resize_kernels *cps_resize_kernels_of(int which);

#endif
