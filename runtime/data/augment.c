#include "data/augment.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/numeric.h"
#include "base/rng.h"

enum { MAX_SIZE = 8192 };

cps_recipe cps_recipe_clip(cps_recipe_kind kind, int32_t size) {
    return (cps_recipe){.kind = kind,
                        .size = size,
                        .filter = CPS_BICUBIC,
                        .scale_min = 0.9,
                        .scale_max = 1.0,
                        .ratio_min = 3.0 / 4.0,
                        .ratio_max = 4.0 / 3.0,
                        .mean = {0.48145466, 0.4578275, 0.40821073},
                        .std = {0.26862954, 0.26130258, 0.27577711}};
}

/* ---- checks ------------------------------------------------------------------------------- */

static cps_status check_range(const char *where, const char *name, double low, double high,
                              double least, double most) {
    if (!(low >= least && low <= high && high <= most)) {
        return cps_fail(CPS_ERR_USAGE, "%s: %s = %g to %g, wanted is a range inside %g to %g",
                        where, name, low, high, least, most);
    }
    return CPS_OK;
}

static cps_status check_value(const char *where, const char *name, double value, double most) {
    if (!(value >= 0 && value <= most)) {
        return cps_fail(CPS_ERR_USAGE, "%s: %s = %g, wanted is 0 to %g", where, name, value, most);
    }
    return CPS_OK;
}

static cps_status check_draws(const cps_recipe *recipe, const char *where) {
    CPS_TRY(check_range(where, "crop area (scale)", recipe->scale_min, recipe->scale_max, 1e-6, 1));
    CPS_TRY(
        check_range(where, "crop aspect (ratio)", recipe->ratio_min, recipe->ratio_max, 0.01, 100));
    CPS_TRY(check_value(where, "flip", recipe->flip, 1));
    CPS_TRY(check_value(where, "jitter", recipe->jitter, 1));
    CPS_TRY(check_value(where, "brightness", recipe->brightness, 100));
    CPS_TRY(check_value(where, "contrast", recipe->contrast, 100));
    CPS_TRY(check_value(where, "saturation", recipe->saturation, 100));
    CPS_TRY(check_value(where, "hue", recipe->hue, 0.5));
    CPS_TRY(check_value(where, "greyscale", recipe->greyscale, 1));
    CPS_TRY(check_value(where, "blur", recipe->blur, 1));
    CPS_TRY(check_value(where, "solarise", recipe->solarise, 1));
    return recipe->blur > 0
               ? check_range(where, "blur radius", recipe->blur_min, recipe->blur_max, 0, 100)
               : CPS_OK;
}

cps_status cps_recipe_check(const cps_recipe *recipe, const char *where) {
    if (recipe->size < 1 || recipe->size > MAX_SIZE) {
        return cps_fail(CPS_ERR_USAGE, "%s: an image size of %d pixels, wanted is 1 to %d", where,
                        recipe->size, MAX_SIZE);
    }
    for (int c = 0; c < 3; c++) {
        if (!(recipe->std[c] > 0) || !isfinite(recipe->std[c]) || !isfinite(recipe->mean[c])) {
            return cps_fail(CPS_ERR_USAGE,
                            "%s: channel %d has mean %g and std %g, wanted are finite numbers and "
                            "a std above 0",
                            where, c, recipe->mean[c], recipe->std[c]);
        }
    }
    return recipe->kind == CPS_RECIPE_EVALUATION ? CPS_OK : check_draws(recipe, where);
}

uint64_t cps_recipe_digest(const cps_recipe *recipe) {
    const bool draws = recipe->kind != CPS_RECIPE_EVALUATION;
    const double always[] = {recipe->kind,    recipe->size,    recipe->filter,  recipe->squash,
                             recipe->mean[0], recipe->mean[1], recipe->mean[2], recipe->std[0],
                             recipe->std[1],  recipe->std[2]};
    const double drawn[] = {recipe->scale_min,  recipe->scale_max, recipe->ratio_min,
                            recipe->ratio_max,  recipe->flip,      recipe->jitter,
                            recipe->brightness, recipe->contrast,  recipe->saturation,
                            recipe->hue,        recipe->greyscale, recipe->blur,
                            recipe->blur_min,   recipe->blur_max,  recipe->solarise};
    double numbers[sizeof always / sizeof(double) + sizeof drawn / sizeof(double)] = {0};
    memcpy(numbers, always, sizeof always);
    if (draws) {
        memcpy(numbers + sizeof always / sizeof(double), drawn, sizeof drawn);
    }
    return cps_hash64(numbers, sizeof numbers);
}

/* ---- draws -------------------------------------------------------------------------------- */

static cps_draw_key keyed(const cps_draw_key *key, const char *purpose) {
    cps_draw_key own = *key;
    own.module = cps_name_key(purpose);
    return own;
}

static double between(const cps_draw_key *key, uint64_t index, double low, double high) {
    return low + cps_draw_uniform(key, index) * (high - low);
}

static bool happens(const cps_draw_key *key, const char *purpose, double probability) {
    const cps_draw_key own = keyed(key, purpose);
    return probability > 0 && cps_draw_uniform(&own, 0) < probability;
}

static cps_crop_box central_crop(const cps_recipe *recipe, int32_t width, int32_t height) {
    const double ratio = (double)width / (double)height;
    double w = width, h = height;
    if (ratio < recipe->ratio_min) {
        h = rint(w / recipe->ratio_min);
    } else if (ratio > recipe->ratio_max) {
        w = rint(h * recipe->ratio_max);
    }
    cps_crop_box box = {.width = (int32_t)fmin(fmax(w, 1), width),
                        .height = (int32_t)fmin(fmax(h, 1), height)};
    box.x = (width - box.width) / 2;
    box.y = (height - box.height) / 2;
    return box;
}

cps_crop_box cps_recipe_crop(const cps_recipe *recipe, int32_t width, int32_t height,
                             const cps_draw_key *key) {
    enum { TRIES = 10, DRAWS = 4 };
    const cps_draw_key own = keyed(key, "crop");
    const double area = (double)width * (double)height;
    const double low = log(recipe->ratio_min), high = log(recipe->ratio_max);
    for (uint64_t i = 0; i < TRIES * DRAWS; i += DRAWS) {
        const double target = area * between(&own, i, recipe->scale_min, recipe->scale_max);
        const double ratio = exp(between(&own, i + 1, low, high));
        const double w = rint(sqrt(target * ratio)), h = rint(sqrt(target / ratio));
        if (w >= 1 && w <= width && h >= 1 && h <= height) {
            cps_crop_box box = {.width = (int32_t)w, .height = (int32_t)h};
            box.y = (int32_t)cps_draw_below(&own, i + 2, (uint64_t)(height - box.height + 1));
            box.x = (int32_t)cps_draw_below(&own, i + 3, (uint64_t)(width - box.width + 1));
            return box;
        }
    }
    return central_crop(recipe, width, height);
}

/* ---- decoding ----------------------------------------------------------------------------- */

cps_status cps_picture_open(cps_picture *picture, const uint8_t *bytes, size_t length) {
    int32_t width = 0, height = 0;
    CPS_TRY(cps_image_size(bytes, length, &width, &height));
    *picture = (cps_picture){.bytes = bytes, .length = length, .width = width, .height = height};
    return CPS_OK;
}

void cps_picture_close(cps_picture *picture) {
    for (int i = 0; i < 4; i++) {
        cps_image_free(&picture->decoded[i]);
    }
    *picture = (cps_picture){0};
}

static int32_t halved(int32_t length, int times) {
    return (length + (1 << times) - 1) >> times;
}

/* The picture at 1/2^shift; what the format cannot scale comes in full. */
static cps_status decode_at(cps_picture *picture, int shift, const cps_image **image_out) {
    cps_image *image = &picture->decoded[shift];
    if (image->pixels == NULL) {
        const bool whole = shift == 0;
        CPS_TRY(cps_image_decode(picture->bytes, picture->length,
                                 whole ? 0 : halved(picture->width, shift),
                                 whole ? 0 : halved(picture->height, shift), image));
    }
    *image_out = image;
    return CPS_OK;
}

/* By how many halvings a decoded image is smaller than the header said. */
static cps_status shift_of(const cps_picture *picture, const cps_image *image, int *shift_out) {
    for (int shift = 0; shift < 4; shift++) {
        if (halved(picture->width, shift) == image->width &&
            halved(picture->height, shift) == image->height) {
            *shift_out = shift;
            return CPS_OK;
        }
    }
    return cps_fail(CPS_ERR_DATA, "its header says %d x %d pixels but it holds %d x %d",
                    picture->width, picture->height, image->width, image->height);
}

/* The largest scaling down in the decoder that leaves the box at least `size` pixels on both sides.
 */
static int shift_for(const cps_crop_box *box, int32_t size) {
    int shift = 0;
    while (shift < 3 && box->width >> (shift + 1) >= size && box->height >> (shift + 1) >= size) {
        shift++;
    }
    return shift;
}

/* Copies whole pixels [x, x + width) x [y, y + height), so that the resampler's filter ends at the
 * crop's edge as it does behind torchvision's crop. */
static cps_status copy_region(const cps_image *image, int32_t x, int32_t y, int32_t width,
                              int32_t height, cps_image *out) {
    const size_t row = (size_t)width * 3, source_row = (size_t)image->width * 3;
    uint8_t *pixels = malloc(row * (size_t)height);
    if (pixels == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for a crop of %d x %d pixels", width,
                        height);
    }
    const uint8_t *from = image->pixels + (size_t)y * source_row + (size_t)x * 3;
    for (int32_t i = 0; i < height; i++) {
        memcpy(pixels + (size_t)i * row, from + (size_t)i * source_row, row);
    }
    *out = (cps_image){.width = width, .height = height, .pixels = pixels};
    return CPS_OK;
}

static cps_status crop_and_resize(const cps_recipe *recipe, cps_picture *picture,
                                  const cps_draw_key *key, cps_image *out) {
    const cps_crop_box box = cps_recipe_crop(recipe, picture->width, picture->height, key);
    const cps_image *image = NULL;
    CPS_TRY(decode_at(picture, shift_for(&box, recipe->size), &image));
    int shift = 0;
    CPS_TRY(shift_of(picture, image, &shift));
    const double scale = 1.0 / (double)(1 << shift);
    const double x = box.x * scale, y = box.y * scale, width = box.width * scale,
                 height = box.height * scale;
    const int32_t left = (int32_t)floor(x), top = (int32_t)floor(y);
    const int32_t right = (int32_t)ceil(x + width), bottom = (int32_t)ceil(y + height);
    cps_image region = {0};
    CPS_TRY(copy_region(image, left, top, right - left, bottom - top, &region));
    const cps_status status = cps_image_resize(&region, x - left, y - top, width, height,
                                               recipe->size, recipe->size, recipe->filter, out);
    free(region.pixels);
    return status;
}

/* ---- colour ------------------------------------------------------------------------------- */

static double factor_of(const cps_draw_key *key, uint64_t index, double strength) {
    return between(key, index, fmax(0, 1 - strength), 1 + strength);
}

/* The four of torchvision's ColorJitter in a random order. */
static void jitter(const cps_recipe *recipe, const cps_draw_key *key, cps_image *image) {
    const cps_draw_key own = keyed(key, "jitter");
    int order[4] = {0, 1, 2, 3};
    for (int i = 3; i > 0; i--) {
        const int other = (int)cps_draw_below(&own, (uint64_t)i, (uint64_t)i + 1);
        const int swapped = order[i];
        order[i] = order[other];
        order[other] = swapped;
    }
    for (int i = 0; i < 4; i++) {
        const uint64_t index = 8 + (uint64_t)order[i];
        if (order[i] == 0 && recipe->brightness > 0) {
            cps_colour_brightness(image, factor_of(&own, index, recipe->brightness));
        } else if (order[i] == 1 && recipe->contrast > 0) {
            cps_colour_contrast(image, factor_of(&own, index, recipe->contrast));
        } else if (order[i] == 2 && recipe->saturation > 0) {
            cps_colour_saturation(image, factor_of(&own, index, recipe->saturation));
        } else if (order[i] == 3 && recipe->hue > 0) {
            cps_colour_hue(image, between(&own, index, -recipe->hue, recipe->hue));
        }
    }
}

static cps_status change_colours(const cps_recipe *recipe, const cps_draw_key *key,
                                 cps_image *image) {
    if (happens(key, "flip", recipe->flip)) {
        cps_image_flip(image);
    }
    if (happens(key, "jitter.apply", recipe->jitter)) {
        jitter(recipe, key, image);
    }
    if (happens(key, "greyscale", recipe->greyscale)) {
        cps_colour_greyscale(image);
    }
    if (happens(key, "blur.apply", recipe->blur)) {
        const cps_draw_key own = keyed(key, "blur");
        CPS_TRY(cps_image_blur(image, between(&own, 0, recipe->blur_min, recipe->blur_max)));
    }
    if (happens(key, "solarise", recipe->solarise)) {
        cps_colour_solarise(image, 128);
    }
    return CPS_OK;
}

cps_status cps_recipe_apply(const cps_recipe *recipe, cps_picture *picture, const cps_draw_key *key,
                            uint8_t *pixels_out) {
    cps_image image = {0};
    if (recipe->kind == CPS_RECIPE_EVALUATION) {
        const cps_image *whole = NULL;
        CPS_TRY(decode_at(picture, 0, &whole));
        CPS_TRY(cps_image_evaluation(whole, recipe->size, recipe->squash, recipe->filter, &image));
    } else {
        CPS_TRY(crop_and_resize(recipe, picture, key, &image));
    }
    const cps_status status =
        recipe->kind == CPS_RECIPE_EVALUATION ? CPS_OK : change_colours(recipe, key, &image);
    if (status == CPS_OK) {
        memcpy(pixels_out, image.pixels, (size_t)recipe->size * (size_t)recipe->size * 3);
    }
    cps_image_free(&image);
    return status;
}
