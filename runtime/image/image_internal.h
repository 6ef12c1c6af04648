/* What the files of image/ share: one decoder and encoder per format behind image.c. */
#ifndef CPS_IMAGE_IMAGE_INTERNAL_H
#define CPS_IMAGE_IMAGE_INTERNAL_H

#include "image/image.h"

cps_status cps_jpeg_size(const uint8_t *bytes, size_t length, int32_t *width_out,
                         int32_t *height_out) CPS_MUST_CHECK;
cps_status cps_jpeg_decode(const uint8_t *bytes, size_t length, int32_t min_width,
                           int32_t min_height, cps_image *image_out) CPS_MUST_CHECK;
cps_status cps_png_size(const uint8_t *bytes, size_t length, int32_t *width_out,
                        int32_t *height_out) CPS_MUST_CHECK;
cps_status cps_png_decode(const uint8_t *bytes, size_t length, cps_image *image_out) CPS_MUST_CHECK;

/* DATA unless both sides are 1..CPS_IMAGE_MAX_SIDE and the product is at most CPS_IMAGE_MAX_PIXELS.
 */
cps_status cps_image_check_size(uint64_t width, uint64_t height) CPS_MUST_CHECK;
/* Takes memory for the pixels; the size was checked. */
cps_status cps_image_allocate(int32_t width, int32_t height, cps_image *image_out) CPS_MUST_CHECK;

#endif
