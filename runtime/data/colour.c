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
    const double circle = (double)turn / 6.0 + 1.0; /* between 0.8 and 1.9 */
    turn = (float)(circle >= 1.0 ? circle - 1.0 : circle);
    *hue = clip8((int)((double)turn * 255.0));
    *saturation = clip8((int)((double)(range / (float)most) * 255.0));
}

/* Nearest whole number, halves up; value >= 0. */
static uint8_t nearest(double value) {
    const int whole = (int)value;
    return clip8(whole + (value - whole >= 0.5));
}

static void from_hue(uint8_t hue, uint8_t saturation, uint8_t value, uint8_t *rgb) {
    if (saturation == 0) {
        memset(rgb, value, 3);
        return;
    }
    const double sixth = (double)(float)hue * 6.0 / 255.0;
    const int sector = (int)sixth;
    const float part = (float)(sixth - (double)(float)sector);
    const float amount = (float)((double)(float)saturation / 255.0);
    const double v = (double)(float)value;
    const uint8_t p = nearest(v * (1.0 - (double)amount));
    const uint8_t q = nearest(v * (1.0 - (double)(amount * part)));
    const uint8_t t = nearest(v * (1.0 - (double)amount * (1.0 - (double)part)));
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

/* What a blur works with: two pictures of rows x row_bytes and the running sums of a row. */
typedef struct blur_space {
    uint8_t *pixels, *other;
    uint32_t *sums;
} blur_space;

static const uint8_t *row_at(const uint8_t *pixels, int32_t row, int32_t rows, size_t row_bytes) {
    const int32_t inside = row < 0 ? 0 : row >= rows ? rows - 1 : row; /* edges repeat */
    return pixels + (size_t)inside * row_bytes;
}

/* One output row of a box blur and the sums of the next. */
static void blur_row(const uint8_t *restrict above, const uint8_t *restrict below,
                     const uint8_t *restrict leaving, uint32_t *restrict sums, uint8_t *restrict to,
                     size_t count, box kernel) {
    for (size_t x = 0; x < count; x++) {
        const uint32_t edges = (uint32_t)above[x] + below[x];
        to[x] = (uint8_t)((sums[x] * kernel.inner + edges * kernel.outer + (1u << 23)) >> 24);
        sums[x] += (uint32_t)below[x] - leaving[x];
    }
}

/* One box blur down the columns, from `in` to `out`. Blocks of constant length are what compilers
 * turn into vector code. */
static void blur_columns(const uint8_t *in, uint8_t *out, uint32_t *sums, int32_t rows,
                         size_t row_bytes, box kernel) {
    enum { BLOCK = 64 };
    memset(sums, 0, row_bytes * sizeof *sums);
    for (int32_t y = -kernel.radius; y <= kernel.radius; y++) {
        const uint8_t *row = row_at(in, y, rows, row_bytes);
        for (size_t x = 0; x < row_bytes; x++) {
            sums[x] += row[x];
        }
    }
    for (int32_t y = 0; y < rows; y++) {
        const uint8_t *above = row_at(in, y - kernel.radius - 1, rows, row_bytes);
        const uint8_t *below = row_at(in, y + kernel.radius + 1, rows, row_bytes);
        const uint8_t *leaving = row_at(in, y - kernel.radius, rows, row_bytes);
        uint8_t *to = out + (size_t)y * row_bytes;
        size_t x = 0;
        for (; x + BLOCK <= row_bytes; x += BLOCK) {
            blur_row(above + x, below + x, leaving + x, sums + x, to + x, BLOCK, kernel);
        }
        blur_row(above + x, below + x, leaving + x, sums + x, to + x, row_bytes - x, kernel);
    }
}

/* Three of them; the result is in space->pixels. */
static void blur_down(blur_space *space, int32_t rows, size_t row_bytes, box kernel) {
    for (int pass = 0; pass < 3; pass++) {
        blur_columns(space->pixels, space->other, space->sums, rows, row_bytes, kernel);
        uint8_t *swapped = space->pixels;
        space->pixels = space->other;
        space->other = swapped;
    }
}

/* RGB pixels of a width x height picture to their transposed places. */
static void transpose(blur_space *space, int32_t width, int32_t height) {
    for (int32_t y = 0; y < height; y++) {
        const uint8_t *from = space->pixels + (size_t)y * (size_t)width * 3;
        uint8_t *to = space->other + (size_t)y * 3;
        for (int32_t x = 0; x < width; x++, from += 3, to += (size_t)height * 3) {
            to[0] = from[0];
            to[1] = from[1];
            to[2] = from[2];
        }
    }
    uint8_t *swapped = space->pixels;
    space->pixels = space->other;
    space->other = swapped;
}

cps_status cps_image_blur(cps_image *image, double radius) {
    if (!(radius > 0)) {
        return CPS_OK;
    }
    const box kernel = box_of(radius);
    const size_t bytes = 3 * pixel_count(image);
    const int32_t longest = image->width > image->height ? image->width : image->height;
    uint32_t *sums = malloc(3 * (size_t)longest * sizeof *sums + bytes);
    if (sums == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to blur an image of %d x %d pixels",
                        image->width, image->height);
    }
    uint8_t *spare = (uint8_t *)(sums + 3 * (size_t)longest);
    blur_space space = {.pixels = image->pixels, .other = spare, .sums = sums};
    transpose(&space, image->width, image->height);
    blur_down(&space, image->width, 3 * (size_t)image->height, kernel);
    transpose(&space, image->height, image->width);
    blur_down(&space, image->height, 3 * (size_t)image->width, kernel);
    if (space.pixels != image->pixels) {
        memcpy(image->pixels, space.pixels, bytes);
    }
    free(sums);
    return CPS_OK;
}
