#include "image/image.h"

#include "base/numeric.h"
#include "image/image_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void cps_image_free(cps_image *image) {
    if (image != NULL) {
        free(image->pixels);
        *image = (cps_image){0};
    }
}

cps_image_format cps_image_sniff(const uint8_t *bytes, size_t length) {
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (length >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff) {
        return CPS_IMAGE_JPEG;
    }
    if (length >= sizeof png && memcmp(bytes, png, sizeof png) == 0) {
        return CPS_IMAGE_PNG;
    }
    return CPS_IMAGE_UNKNOWN;
}

/* "empty file", or what the file begins with instead. */
static cps_status fail_unknown(const uint8_t *bytes, size_t length) {
    if (length == 0) {
        return cps_fail(CPS_ERR_DATA, "empty file");
    }
    char start[32];
    size_t shown = 0;
    for (; shown < length && shown < 12; ++shown) {
        if (bytes[shown] < 0x20 || bytes[shown] > 0x7e || bytes[shown] == '\'') {
            break;
        }
        start[shown] = (char)bytes[shown];
    }
    start[shown] = '\0';
    if (shown >= 4) {
        return cps_fail(CPS_ERR_DATA, "not a JPEG or PNG (begins with '%s')", start);
    }
    char digits[3 * 8 + 1] = "";
    for (size_t i = 0; i < length && i < 8; ++i) {
        snprintf(digits + 3 * i, 4, " %02x", bytes[i]);
    }
    return cps_fail(CPS_ERR_DATA, "not a JPEG or PNG (begins with bytes%s)", digits);
}

cps_status cps_image_check_size(uint64_t width, uint64_t height) {
    if (width == 0 || height == 0) {
        return cps_fail(CPS_ERR_DATA, "no pixels: the header says %llu x %llu",
                        (unsigned long long)width, (unsigned long long)height);
    }
    if (width > CPS_IMAGE_MAX_SIDE || height > CPS_IMAGE_MAX_SIDE ||
        width * height > CPS_IMAGE_MAX_PIXELS) {
        return cps_fail(CPS_ERR_DATA,
                        "too large: the header says %llu x %llu pixels, at most %d in all and %d a "
                        "side are decoded",
                        (unsigned long long)width, (unsigned long long)height,
                        (int)CPS_IMAGE_MAX_PIXELS, (int)CPS_IMAGE_MAX_SIDE);
    }
    return CPS_OK;
}

cps_status cps_image_allocate(int32_t width, int32_t height, cps_image *image_out) {
    const size_t bytes = (size_t)width * (size_t)height * 3;
    uint8_t *pixels = malloc(bytes);
    if (pixels == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for %d x %d pixels (%zu bytes)", width,
                        height, bytes);
    }
    *image_out = (cps_image){.width = width, .height = height, .pixels = pixels};
    return CPS_OK;
}

cps_status cps_image_size(const uint8_t *bytes, size_t length, int32_t *width_out,
                          int32_t *height_out) {
    switch (cps_image_sniff(bytes, length)) {
    case CPS_IMAGE_JPEG:
        return cps_jpeg_size(bytes, length, width_out, height_out);
    case CPS_IMAGE_PNG:
        return cps_png_size(bytes, length, width_out, height_out);
    case CPS_IMAGE_UNKNOWN:
        break;
    }
    return fail_unknown(bytes, length);
}

cps_status cps_image_decode(const uint8_t *bytes, size_t length, int32_t min_width,
                            int32_t min_height, cps_image *image_out) {
    switch (cps_image_sniff(bytes, length)) {
    case CPS_IMAGE_JPEG:
        return cps_jpeg_decode(bytes, length, min_width, min_height, image_out);
    case CPS_IMAGE_PNG:
        return cps_png_decode(bytes, length, image_out);
    case CPS_IMAGE_UNKNOWN:
        break;
    }
    return fail_unknown(bytes, length);
}

void cps_image_normalize(const cps_image *image, bool flip, const double mean[3],
                         const double std[3], cps_real *planes) {
    cps_real value[3][256]; /* of every grey level, so that a pixel costs one load */
    for (int c = 0; c < 3; ++c) {
        for (int level = 0; level < 256; ++level) {
            value[c][level] = (cps_real)((level / 255.0 - mean[c]) / std[c]);
        }
    }
    const size_t width = (size_t)image->width;
    const size_t height = (size_t)image->height;
    cps_real *red = planes;
    cps_real *green = planes + width * height;
    cps_real *blue = planes + 2 * width * height;
    for (size_t y = 0; y < height; ++y) {
        const uint8_t *row = image->pixels + 3 * width * y;
        for (size_t x = 0; x < width; ++x) {
            const uint8_t *pixel = row + 3 * (flip ? width - 1 - x : x);
            red[x] = value[0][pixel[0]];
            green[x] = value[1][pixel[1]];
            blue[x] = value[2][pixel[2]];
        }
        red += width;
        green += width;
        blue += width;
    }
}
