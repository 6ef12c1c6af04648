/* Colour and blur on 8-bit RGB as Pillow does them, bit for bit: enhancement by blending with a
 * degenerate image in single precision, grey by the fixed-point ITU-R 601 weights, hue by way of
 * 8-bit HSV, Gaussian blur as three extended box blurs each way (Gwosdek et al. 2011). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/augment.h"

static size_t pixel_count(const cps_image *image) {
    return (size_t)image->width * (size_t)image->height;
}

static uint8_t grey_of(const uint8_t *rgb) {
    return (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

/* from + factor * (to - from), truncated; clipped, which only factors above 1 need. */
static uint8_t blend(uint8_t from, uint8_t to, float factor) {
    const float value = (float)from + factor * (float)((int)to - (int)from);
    if (value <= 0.0f) {
        return 0;
    }
    return value >= 255.0f ? 255 : (uint8_t)value;
}

/* Blends every value with one level. */
static void blend_with_level(cps_image *image, uint8_t level, double factor) {
    uint8_t table[256];
    for (int value = 0; value < 256; value++) {
        table[value] = blend(level, (uint8_t)value, (float)factor);
    }
    const size_t count = 3 * pixel_count(image);
    for (size_t i = 0; i < count; i++) {
        image->pixels[i] = table[image->pixels[i]];
    }
}

void cps_colour_brightness(cps_image *image, double factor) {
    blend_with_level(image, 0, factor);
}

void cps_colour_contrast(cps_image *image, double factor) {
    const size_t count = pixel_count(image);
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += grey_of(image->pixels + 3 * i);
    }
    const double mean = count > 0 ? (double)sum / (double)count : 0;
    blend_with_level(image, (uint8_t)(mean + 0.5), factor);
}

void cps_colour_saturation(cps_image *image, double factor) {
    const size_t count = pixel_count(image);
    const float amount = (float)factor;
    for (size_t i = 0; i < count; i++) {
        uint8_t *rgb = image->pixels + 3 * i;
        const uint8_t grey = grey_of(rgb);
        for (int c = 0; c < 3; c++) {
            rgb[c] = blend(grey, rgb[c], amount);
        }
    }
}

void cps_colour_greyscale(cps_image *image) {
    const size_t count = pixel_count(image);
    for (size_t i = 0; i < count; i++) {
        memset(image->pixels + 3 * i, grey_of(image->pixels + 3 * i), 3);
    }
}

void cps_colour_solarise(cps_image *image, int32_t threshold) {
    const size_t count = 3 * pixel_count(image);
    for (size_t i = 0; i < count; i++) {
        const uint8_t value = image->pixels[i];
        image->pixels[i] = value < threshold ? value : (uint8_t)(255 - value);
    }
}

/* ---- hue ---------------------------------------------------------------------------------- */

static uint8_t clip8(int value) {
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Hue and saturation of a pixel in 1/255; its value is the largest channel. Single precision where
 * Pillow has it. */
static void to_hue(const uint8_t *rgb, uint8_t *hue, uint8_t *saturation, uint8_t *value) {
    const uint8_t r = rgb[0], g = rgb[1], b = rgb[2];
    const uint8_t most = r > g ? (r > b ? r : b) : (g > b ? g : b);
    const uint8_t least = r < g ? (r < b ? r : b) : (g < b ? g : b);
    *value = most;
    *hue = *saturation = 0;
    if (most == least) {
        return;
    }
    const float range = (float)(most - least);
    const float red = (float)(most - r) / range, green = (float)(most - g) / range,
                blue = (float)(most - b) / range;
    float turn = 0;
    if (r == most) {
        turn = blue - green;
    } else if (g == most) {
        turn = (float)(2.0 + (double)red - (double)blue);
    } else {
        turn = (float)(4.0 + (double)green - (double)red);
    }
    turn = (float)fmod((double)turn / 6.0 + 1.0, 1.0);
    *hue = clip8((int)((double)turn * 255.0));
    *saturation = clip8((int)((double)(range / (float)most) * 255.0));
}

static void from_hue(uint8_t hue, uint8_t saturation, uint8_t value, uint8_t *rgb) {
    if (saturation == 0) {
        memset(rgb, value, 3);
        return;
    }
    const double sixth = (double)(float)hue * 6.0 / 255.0;
    const int sector = (int)floor(sixth);
    const float part = (float)(sixth - (double)(float)sector);
    const float amount = (float)((double)(float)saturation / 255.0);
    const double v = (double)(float)value;
    const uint8_t p = clip8((int)round(v * (1.0 - (double)amount)));
    const uint8_t q = clip8((int)round(v * (1.0 - (double)(amount * part))));
    const uint8_t t = clip8((int)round(v * (1.0 - (double)amount * (1.0 - (double)part))));
    const uint8_t sectors[6][3] = {{value, t, p}, {q, value, p}, {p, value, t},
                                   {p, q, value}, {t, p, value}, {value, p, q}};
    memcpy(rgb, sectors[sector % 6], 3);
}

void cps_colour_hue(cps_image *image, double turn) {
    const uint8_t shift = (uint8_t)(int)(turn * 255.0); /* towards zero, then modulo 256 */
    const size_t count = pixel_count(image);
    for (size_t i = 0; i < count; i++) {
        uint8_t hue = 0, saturation = 0, value = 0;
        to_hue(image->pixels + 3 * i, &hue, &saturation, &value);
        from_hue((uint8_t)(hue + shift), saturation, value, image->pixels + 3 * i);
    }
}

/* ---- flip and blur ------------------------------------------------------------------------ */

void cps_image_flip(cps_image *image) {
    for (int32_t y = 0; y < image->height; y++) {
        uint8_t *left = image->pixels + (size_t)y * (size_t)image->width * 3;
        uint8_t *right = left + ((size_t)image->width - 1) * 3;
        for (; left < right; left += 3, right -= 3) {
            uint8_t swapped[3];
            memcpy(swapped, left, 3);
            memcpy(left, right, 3);
            memcpy(right, swapped, 3);
        }
    }
}

/* One box blur: whole pixels on each side, fixed-point weights of these and of the two pixels
 * beyond. */
typedef struct box {
    int32_t radius;
    uint32_t inner, outer; /* in 2^-24 */
} box;

/* The box whose third power comes nearest to a Gaussian of standard deviation sigma (paper:
 * equations 7, 11, 14). */
static box box_of(double sigma) {
    const float radius = (float)sigma;
    const float variance = radius * radius / 3.0f;
    const float length = (float)sqrt(12.0 * (double)variance + 1.0);
    const float whole = (float)floor(((double)length - 1.0) / 2.0);
    float part = (2.0f * whole + 1.0f) * (whole * (whole + 1.0f) - 3.0f * variance);
    part /= 6.0f * (variance - (whole + 1.0f) * (whole + 1.0f));
    const float extended = whole + part;
    box kernel = {.radius = (int32_t)extended};
    kernel.inner = (uint32_t)((float)(1 << 24) / (extended * 2.0f + 1.0f));
    kernel.outer = ((1u << 24) - (uint32_t)(kernel.radius * 2 + 1) * kernel.inner) / 2;
    return kernel;
}

static int32_t clamp_index(int32_t index, int32_t count) {
    return index < 0 ? 0 : index >= count ? count - 1 : index;
}

/* Blurs one channel of `count` pixels that lie `stride` bytes apart; edges repeat. */
static void blur_line(const uint8_t *in, uint8_t *out, int32_t count, size_t stride, box kernel) {
    const int32_t r = kernel.radius;
    uint32_t sum = 0;
    for (int32_t i = -r; i <= r; i++) {
        sum += in[(size_t)clamp_index(i, count) * stride];
    }
    for (int32_t x = 0; x < count; x++) {
        const uint32_t left = in[(size_t)clamp_index(x - r - 1, count) * stride];
        const uint32_t right = in[(size_t)clamp_index(x + r + 1, count) * stride];
        out[(size_t)x * stride] =
            (uint8_t)((sum * kernel.inner + (left + right) * kernel.outer + (1u << 23)) >> 24);
        sum += right - in[(size_t)clamp_index(x - r, count) * stride];
    }
}

/* Three passes over a line, by way of two spare lines. */
static void blur_three(uint8_t *line, uint8_t *spare, uint8_t *other, int32_t count, size_t stride,
                       box kernel) {
    for (size_t c = 0; c < 3; c++) {
        for (int32_t x = 0; x < count; x++) {
            spare[x] = line[(size_t)x * stride + c];
        }
        blur_line(spare, other, count, 1, kernel);
        blur_line(other, spare, count, 1, kernel);
        blur_line(spare, other, count, 1, kernel);
        for (int32_t x = 0; x < count; x++) {
            line[(size_t)x * stride + c] = other[x];
        }
    }
}

cps_status cps_image_blur(cps_image *image, double radius) {
    const box kernel = box_of(radius);
    if (!(radius > 0)) {
        return CPS_OK;
    }
    const int32_t longest = image->width > image->height ? image->width : image->height;
    uint8_t *spare = malloc(2 * (size_t)longest);
    if (spare == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to blur an image of %d x %d pixels",
                        image->width, image->height);
    }
    const size_t row = (size_t)image->width * 3;
    for (int32_t y = 0; y < image->height; y++) {
        blur_three(image->pixels + (size_t)y * row, spare, spare + longest, image->width, 3,
                   kernel);
    }
    for (int32_t x = 0; x < image->width; x++) {
        blur_three(image->pixels + 3 * (size_t)x, spare, spare + longest, image->height, row,
                   kernel);
    }
    free(spare);
    return CPS_OK;
}
