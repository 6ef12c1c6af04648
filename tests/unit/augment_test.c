/* Recipes: draws keyed by place, torchvision's crop, Pillow's colour operations (checksums made
 * with Pillow 13 and torchvision 0.29 on the picture of `pattern`), decoding at a smaller scale. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "data/augment.h"

enum { WIDTH = 23, HEIGHT = 17 };

static void pattern(uint8_t *pixels) {
    for (int y = 0; y < HEIGHT; y++) {
        for (int x = 0; x < WIDTH; x++) {
            for (int c = 0; c < 3; c++) {
                pixels[(y * WIDTH + x) * 3 + c] =
                    (uint8_t)(x * x * 7 + y * y * 5 + x * y * 3 + c * (x * 11 + y * 13 + 40));
            }
        }
    }
}

static uint32_t fnv(const uint8_t *bytes, size_t count) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ bytes[i]) * 16777619u;
    }
    return hash;
}

typedef void (*colour_fn)(cps_image *, double);

static void grey(cps_image *image, double unused) {
    (void)unused;
    cps_colour_greyscale(image);
}

static void solarise(cps_image *image, double threshold) {
    cps_colour_solarise(image, (int32_t)threshold);
}

static void flip(cps_image *image, double unused) {
    (void)unused;
    cps_image_flip(image);
}

static void blur(cps_image *image, double radius) {
    assert_int_equal(cps_image_blur(image, radius), CPS_OK);
}

static void colours_equal_pillows(void **state) {
    (void)state;
    static const struct {
        colour_fn change;
        double amount;
        uint32_t wanted;
    } CASES[] = {
        {cps_colour_brightness, 1.0, 0xb291a81d},
        {cps_colour_brightness, 1.37, 0xbfd79dd9},
        {cps_colour_brightness, 0.61, 0x37fa1dee},
        {cps_colour_contrast, 1.4, 0xd16f17c8},
        {cps_colour_contrast, 0.6, 0xa43c3cc5},
        {cps_colour_saturation, 1.2, 0x85bffa98},
        {cps_colour_saturation, 0.8, 0x28b863cb},
        {cps_colour_hue, 0.1, 0x6ffc8224},
        {cps_colour_hue, -0.1, 0xa16353c4},
        {cps_colour_hue, 0.5, 0xf2bb599b},
        {grey, 0, 0xfb4efba4},
        {solarise, 128, 0x25d60de3},
        {flip, 0, 0x690aa2ad},
        {blur, 0.1, 0xb291a81d},
        {blur, 1.3, 0xa56448b6},
        {blur, 2.0, 0xea3c1203},
        {blur, 20.0, 0x40ca83ec},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        uint8_t pixels[WIDTH * HEIGHT * 3];
        cps_image image = {.width = WIDTH, .height = HEIGHT, .pixels = pixels};
        pattern(pixels);
        CASES[i].change(&image, CASES[i].amount);
        if (fnv(pixels, sizeof pixels) != CASES[i].wanted) {
            fail_msg("case %zu: %08x, Pillow gives %08x", i, fnv(pixels, sizeof pixels),
                     CASES[i].wanted);
        }
    }
}

static void one_pixel_survives(void **state) {
    (void)state;
    uint8_t pixels[3] = {10, 200, 90};
    cps_image image = {.width = 1, .height = 1, .pixels = pixels};
    blur(&image, 2);
    flip(&image, 0);
    assert_int_equal(pixels[0], 10);
    assert_int_equal(pixels[1], 200);
    cps_colour_contrast(&image, 0);
    assert_int_equal(pixels[0], pixels[1]); /* grey of its own mean */
}

static cps_draw_key key_at(uint64_t position) {
    return (cps_draw_key){.seed = 7, .stream = 3, .position = position};
}

static void crops_stay_inside(void **state) {
    (void)state;
    static const int32_t SIZES[][2] = {{1, 1},     {1, 37},  {3000, 10},
                                       {160, 120}, {64, 64}, {227, 149}};
    cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, 64);
    recipe.scale_min = 0.05;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (uint64_t i = 0; i < 500; i++) {
            const cps_draw_key key = key_at(i);
            const cps_crop_box box = cps_recipe_crop(&recipe, SIZES[s][0], SIZES[s][1], &key);
            assert_true(box.width >= 1 && box.height >= 1 && box.x >= 0 && box.y >= 0);
            assert_true(box.x + box.width <= SIZES[s][0] && box.y + box.height <= SIZES[s][1]);
        }
    }
}

static void crops_have_the_asked_distribution(void **state) {
    (void)state;
    cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, 64);
    recipe.scale_min = 0.2;
    recipe.scale_max = 0.5;
    enum { DRAWS = 4000, SIDE = 1000 };
    double area = 0, log_ratio = 0, x_share = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        const cps_draw_key key = key_at(i);
        const cps_crop_box box = cps_recipe_crop(&recipe, SIDE, SIDE, &key);
        const double share = (double)box.width * box.height / ((double)SIDE * SIDE);
        const double ratio = (double)box.width / box.height;
        assert_true(share > 0.198 && share < 0.502 && ratio > 0.745 && ratio < 1.342);
        area += share / DRAWS;
        log_ratio += log(ratio) / DRAWS;
        x_share += (double)box.x / (SIDE - box.width) / DRAWS;
    }
    assert_true(fabs(area - 0.35) < 0.01);
    assert_true(fabs(log_ratio) < 0.015);
    assert_true(fabs(x_share - 0.5) < 0.02);
}

static void impossible_crops_fall_back_to_the_centre(void **state) {
    (void)state;
    const cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, 64);
    const cps_draw_key key = key_at(1);
    cps_crop_box box = cps_recipe_crop(&recipe, 3000, 10, &key);
    assert_int_equal(box.height, 10);
    assert_int_equal(box.width, 13); /* round(10 * 4/3) */
    assert_int_equal(box.x, (3000 - 13) / 2);
    box = cps_recipe_crop(&recipe, 10, 3000, &key);
    assert_int_equal(box.width, 10);
    assert_int_equal(box.height, 13);
    assert_int_equal(box.y, (3000 - 13) / 2);
}

/* ---- whole recipes ------------------------------------------------------------------------ */

static cps_image smooth_picture(int32_t width, int32_t height) {
    cps_image image = {
        .width = width, .height = height, .pixels = malloc((size_t)width * (size_t)height * 3)};
    for (int32_t y = 0; y < height; y++) {
        for (int32_t x = 0; x < width; x++) {
            uint8_t *rgb = image.pixels + 3 * ((size_t)y * (size_t)width + (size_t)x);
            rgb[0] = (uint8_t)(255 * x / width);
            rgb[1] = (uint8_t)(255 * y / height);
            rgb[2] = (uint8_t)(127 + 100 * sin(6.0 * x / width) * cos(5.0 * y / height));
        }
    }
    return image;
}

typedef struct encoded {
    uint8_t *bytes;
    size_t length;
} encoded;

static encoded encode(int32_t width, int32_t height, bool png) {
    cps_image image = smooth_picture(width, height);
    encoded out = {0};
    const cps_status status = png ? cps_image_encode_png(&image, &out.bytes, &out.length)
                                  : cps_image_encode_jpeg(&image, 95, &out.bytes, &out.length);
    assert_int_equal(status, CPS_OK);
    free(image.pixels);
    return out;
}

static void apply(const cps_recipe *recipe, const encoded *image, uint64_t position, uint32_t crop,
                  uint8_t *out) {
    cps_picture picture = {0};
    cps_draw_key key = key_at(position);
    key.crop = crop;
    assert_int_equal(cps_picture_open(&picture, image->bytes, image->length), CPS_OK);
    assert_int_equal(cps_recipe_apply(recipe, &picture, &key, out), CPS_OK);
    cps_picture_close(&picture);
}

static cps_recipe busy_recipe(int32_t size) {
    cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, size);
    recipe.scale_min = 0.3;
    recipe.flip = 0.5;
    recipe.jitter = 0.8;
    recipe.brightness = recipe.contrast = 0.4;
    recipe.saturation = 0.2;
    recipe.hue = 0.1;
    recipe.greyscale = 0.2;
    recipe.blur = 0.5;
    recipe.blur_min = 0.1;
    recipe.blur_max = 2;
    recipe.solarise = 0.2;
    return recipe;
}

static void draws_depend_on_the_key_alone(void **state) {
    (void)state;
    const cps_recipe recipe = busy_recipe(32);
    const encoded image = encode(120, 90, false);
    uint8_t first[32 * 32 * 3], again[32 * 32 * 3];
    int different = 0;
    for (uint64_t i = 0; i < 16; i++) {
        apply(&recipe, &image, i, 0, first);
        apply(&recipe, &image, i, 0, again);
        assert_memory_equal(first, again, sizeof first);
        apply(&recipe, &image, i, 1, again);
        different += memcmp(first, again, sizeof first) != 0;
        apply(&recipe, &image, i + 100, 0, again);
        different += memcmp(first, again, sizeof first) != 0;
    }
    assert_int_equal(different, 32);
    free(image.bytes);
}

static double mean_difference(const uint8_t *a, const uint8_t *b, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += abs(a[i] - b[i]);
    }
    return sum / (double)count;
}

/* The same picture as PNG comes in full, as JPEG at 1/2 or 1/4: the crop must show the same. */
static void scaled_decoding_shows_the_same_crop(void **state) {
    (void)state;
    cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, 48);
    recipe.scale_min = 0.25;
    static const int32_t SIZES[][2] = {{400, 300}, {227, 149}, {401, 399}, {900, 701}};
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        const encoded jpeg = encode(SIZES[s][0], SIZES[s][1], false),
                      png = encode(SIZES[s][0], SIZES[s][1], true);
        for (uint64_t i = 0; i < 20; i++) {
            uint8_t scaled[48 * 48 * 3], full[48 * 48 * 3];
            apply(&recipe, &jpeg, i, 0, scaled);
            apply(&recipe, &png, i, 0, full);
            const double difference = mean_difference(scaled, full, sizeof full);
            if (difference > 1.5) {
                fail_msg("%d x %d, draw %d: mean difference %g", SIZES[s][0], SIZES[s][1], (int)i,
                         difference);
            }
        }
        free(jpeg.bytes);
        free(png.bytes);
    }
}

static void scales_are_shared_between_crops(void **state) {
    (void)state;
    const encoded image = encode(800, 800, false);
    cps_recipe large = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, 224),
               small = cps_recipe_clip(CPS_RECIPE_RANDOM_RESIZED_CROP, 64);
    static uint8_t out[224 * 224 * 3], alone[64 * 64 * 3], beside[64 * 64 * 3];
    cps_picture picture = {0};
    cps_draw_key key = key_at(5);
    assert_int_equal(cps_picture_open(&picture, image.bytes, image.length), CPS_OK);
    assert_int_equal(cps_recipe_apply(&large, &picture, &key, out), CPS_OK);
    assert_int_equal(cps_recipe_apply(&small, &picture, &key, beside), CPS_OK);
    assert_null(picture.decoded[0].pixels); /* nothing needed it in full */
    assert_non_null(picture.decoded[1].pixels);
    assert_non_null(picture.decoded[3].pixels);
    assert_int_equal(picture.decoded[3].width, 100);
    cps_picture_close(&picture);
    apply(&small, &image, 5, 0, alone); /* another view beside it changes nothing */
    assert_memory_equal(alone, beside, sizeof alone);
    free(image.bytes);
}

static void evaluation_draws_nothing(void **state) {
    (void)state;
    const cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_EVALUATION, 40);
    const encoded image = encode(90, 120, false);
    uint8_t first[40 * 40 * 3], other[40 * 40 * 3];
    apply(&recipe, &image, 1, 0, first);
    apply(&recipe, &image, 2, 3, other);
    assert_memory_equal(first, other, sizeof first);
    cps_image whole = {0}, wanted = {0};
    assert_int_equal(cps_image_decode(image.bytes, image.length, 0, 0, &whole), CPS_OK);
    assert_int_equal(cps_image_evaluation(&whole, 40, false, CPS_BICUBIC, &wanted), CPS_OK);
    assert_memory_equal(first, wanted.pixels, sizeof first);
    cps_image_free(&whole);
    cps_image_free(&wanted);
    free(image.bytes);
}

static void damage_is_reported(void **state) {
    (void)state;
    const encoded image = encode(90, 120, false);
    const cps_recipe recipe = cps_recipe_clip(CPS_RECIPE_EVALUATION, 40);
    uint8_t out[40 * 40 * 3];
    cps_picture picture = {0};
    const cps_draw_key key = key_at(0);
    assert_int_equal(cps_picture_open(&picture, image.bytes, 0), CPS_ERR_DATA);
    assert_int_equal(cps_picture_open(&picture, (const uint8_t *)"<html>", 6), CPS_ERR_DATA);
    assert_int_equal(cps_picture_open(&picture, image.bytes, image.length / 2), CPS_OK);
    assert_int_equal(cps_recipe_apply(&recipe, &picture, &key, out), CPS_ERR_DATA);
    cps_picture_close(&picture);
    cps_picture_close(&picture); /* twice is harmless */
    free(image.bytes);
}

static void expect_refused(cps_recipe recipe, const char *part) {
    assert_int_equal(cps_recipe_check(&recipe, "stages[1].crop"), CPS_ERR_USAGE);
    if (strstr(cps_fail_message(), part) == NULL ||
        strstr(cps_fail_message(), "stages[1].crop") == NULL) {
        fail_msg("'%s' lacks '%s'", cps_fail_message(), part);
    }
}

static void bad_recipes(void **state) {
    (void)state;
    const cps_recipe good = busy_recipe(32);
    assert_int_equal(cps_recipe_check(&good, "x"), CPS_OK);
    cps_recipe recipe = good;
    recipe.size = 0;
    expect_refused(recipe, "0 pixels");
    recipe = good;
    recipe.scale_min = 0;
    expect_refused(recipe, "scale");
    recipe = good;
    recipe.scale_max = 1.5;
    expect_refused(recipe, "scale");
    recipe = good;
    recipe.ratio_min = 2;
    expect_refused(recipe, "ratio");
    recipe = good;
    recipe.flip = -0.1;
    expect_refused(recipe, "flip");
    recipe = good;
    recipe.hue = 0.6;
    expect_refused(recipe, "hue");
    recipe = good;
    recipe.blur_max = (double)NAN;
    expect_refused(recipe, "blur");
    recipe = good;
    recipe.std[1] = 0;
    expect_refused(recipe, "std");
}

static void digests_tell_recipes_apart(void **state) {
    (void)state;
    cps_recipe a = cps_recipe_clip(CPS_RECIPE_EVALUATION, 40), b = a;
    b.flip = 0.5; /* evaluation does not look at it */
    assert_true(cps_recipe_digest(&a) == cps_recipe_digest(&b));
    b.squash = true;
    assert_true(cps_recipe_digest(&a) != cps_recipe_digest(&b));
    a = busy_recipe(32);
    b = a;
    b.solarise = 0.3;
    assert_true(cps_recipe_digest(&a) != cps_recipe_digest(&b));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(colours_equal_pillows),
        cmocka_unit_test(one_pixel_survives),
        cmocka_unit_test(crops_stay_inside),
        cmocka_unit_test(crops_have_the_asked_distribution),
        cmocka_unit_test(impossible_crops_fall_back_to_the_centre),
        cmocka_unit_test(draws_depend_on_the_key_alone),
        cmocka_unit_test(scaled_decoding_shows_the_same_crop),
        cmocka_unit_test(scales_are_shared_between_crops),
        cmocka_unit_test(evaluation_draws_nothing),
        cmocka_unit_test(damage_is_reported),
        cmocka_unit_test(bad_recipes),
        cmocka_unit_test(digests_tell_recipes_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
