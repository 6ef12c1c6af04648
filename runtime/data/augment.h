/* Image recipes: encoded image -> size x size RGB bytes -> normalised planes. Random draws are
 * keyed by where in the run they happen, never by call order. Operations are those of torchvision
 * on 8-bit Pillow images, in this order: crop and resize, flip, colour jitter, greyscale, blur,
 * solarise. Reentrant: any thread. */
#ifndef CPS_DATA_AUGMENT_H
#define CPS_DATA_AUGMENT_H

#include "image/image.h"

/* CLIP's: bicubic, CLIP mean and std; evaluation, or a random resized crop of area 0.9-1.0, aspect
 * 3/4-4/3, nothing else. */
cps_recipe cps_recipe_clip(cps_recipe_kind kind, int32_t size);
/* USAGE naming `where` and the field that is out of range. */
cps_status cps_recipe_check(const cps_recipe *recipe, const char *where) CPS_MUST_CHECK;
/* Digest of everything that reaches pixels and planes: keys caches of un-augmented views. */
uint64_t cps_recipe_digest(const cps_recipe *recipe);

/* An encoded image being decoded: several crops of one image share its decodings (at most one for
 * each scale 1, 1/2, 1/4, 1/8). Zero-initialise, open, apply recipes, close. */
typedef struct cps_picture {
    const uint8_t *bytes; /* borrowed from open to close */
    size_t length;
    int32_t width, height; /* full size, from the header */
    cps_image decoded[4];  /* by scale; pixels NULL: not decoded yet */
} cps_picture;
/* DATA with a short reason where the header cannot be read. */
cps_status cps_picture_open(cps_picture *picture, const uint8_t *bytes,
                            size_t length) CPS_MUST_CHECK;
void cps_picture_close(cps_picture *picture); /* safe on a zeroed one */

/* pixels_out: [size, size, 3]. key: module is set here by purpose; the other members say where in
 * the run. DATA: the image is damaged (short reason). A JPEG is decoded at 1/2, 1/4 or 1/8 in the
 * DCT where a random crop stays at least `size` on both sides; evaluation always decodes in full.
 */
cps_status cps_recipe_apply(const cps_recipe *recipe, cps_picture *picture, const cps_draw_key *key,
                            uint8_t *pixels_out) CPS_MUST_CHECK;

/* The crop of RANDOM_RESIZED_CROP for an image: ten tries, then a central crop with the ratio
 * clamped. */
typedef struct cps_crop_box {
    int32_t x, y, width, height;
} cps_crop_box;
cps_crop_box cps_recipe_crop(const cps_recipe *recipe, int32_t width, int32_t height,
                             const cps_draw_key *key);

/* The operations on RGB bytes, in place, as Pillow does them to the bit; for tests and other
 * recipes. */
void cps_colour_brightness(cps_image *image, double factor);
void cps_colour_contrast(cps_image *image, double factor);
void cps_colour_saturation(cps_image *image, double factor);
void cps_colour_hue(cps_image *image, double turn);
void cps_colour_greyscale(cps_image *image);
void cps_colour_solarise(cps_image *image, int32_t threshold);
void cps_image_flip(cps_image *image);
cps_status cps_image_blur(cps_image *image, double radius) CPS_MUST_CHECK;

#endif
