/* Encoded bytes <-> RGB, resize, crop: the only user of the image libraries. Reentrant: any thread.
 * Bytes come from strangers: pixels are limited (CPS_IMAGE_MAX_PIXELS) before memory is taken, and
 * damage is an error, never a half picture. */
#ifndef CPS_IMAGE_IMAGE_H
#define CPS_IMAGE_IMAGE_H

#include "base/status.h"

/* 8-bit RGB, rows of width*3 bytes without padding. free() of `pixels` through cps_image_free. */
typedef struct cps_image {
    int32_t width, height;
    uint8_t *pixels;
} cps_image;

enum { CPS_IMAGE_MAX_PIXELS = 100000000, CPS_IMAGE_MAX_SIDE = 65500 };

typedef enum cps_image_format { CPS_IMAGE_UNKNOWN, CPS_IMAGE_JPEG, CPS_IMAGE_PNG } cps_image_format;

void cps_image_free(cps_image *image); /* NULL-safe; zeroes the struct */
/* By the first bytes, never by a name. */
cps_image_format cps_image_sniff(const uint8_t *bytes, size_t length);
/* Width and height from the header alone. */
cps_status cps_image_size(const uint8_t *bytes, size_t length, int32_t *width_out,
                          int32_t *height_out) CPS_MUST_CHECK;
/* Stored pixels (EXIF orientation and colour profiles are ignored, as the reference does), grey
 * repeated three times, CMYK converted. min_width, min_height > 0: the decoder may scale down by
 * 1/2, 1/4, 1/8 (JPEG, in the DCT) while both stay at least that large; 0: full size. Reasons are
 * short and start in lower case: "empty file", "not a JPEG or PNG", "truncated at 55 %", ... */
cps_status cps_image_decode(const uint8_t *bytes, size_t length, int32_t min_width,
                            int32_t min_height, cps_image *image_out) CPS_MUST_CHECK;
cps_status cps_image_encode_jpeg(const cps_image *image, int32_t quality, uint8_t **bytes_out,
                                 size_t *length_out) CPS_MUST_CHECK;
cps_status cps_image_encode_png(const cps_image *image, uint8_t **bytes_out,
                                size_t *length_out) CPS_MUST_CHECK;

/* Resizes the region (x, y, width, height) of `image`, fractional allowed, to out_width x
 * out_height with 8-bit results as Pillow's resize(box=...). Only the rows and columns that reach
 * the output are computed. */
cps_status cps_image_resize(const cps_image *image, double x, double y, double width, double height,
                            int32_t out_width, int32_t out_height, cps_filter filter,
                            cps_image *out) CPS_MUST_CHECK;
/* Evaluation preprocessing: shorter side to `size` (long side = int(size*long/short), as
 * torchvision), centre crop size x size; never builds the whole resized picture. squash: resize to
 * size x size regardless of aspect. */
cps_status cps_image_evaluation(const cps_image *image, int32_t size, bool squash,
                                cps_filter filter, cps_image *out) CPS_MUST_CHECK;
/* What cps_image_evaluation does with a picture of width x height: size of the whole resized
 * picture, corner of the crop. */
typedef struct cps_evaluation_plan {
    int32_t resized_width, resized_height, left, top;
} cps_evaluation_plan;
cps_status cps_image_plan_evaluation(int32_t width, int32_t height, int32_t size, bool squash,
                                     cps_evaluation_plan *plan_out) CPS_MUST_CHECK;
/* planes[c][y][x] = (pixel/255 - mean[c]) / std[c]; planes: 3*height*width. flip: mirrored left to
 * right. */
void cps_image_normalize(const cps_image *image, bool flip, const double mean[3],
                         const double std[3], cps_real *planes);

#endif
