/* One made-up plant species: its place in the taxonomy, its names and its looks; and the drawing of
 * a picture of it. Private to shards/. */
#ifndef CPS_SHARDS_SYNTH_PLANT_H
#define CPS_SHARDS_SYNTH_PLANT_H

#include "image/image.h"

enum {
    CPS_PLANT_SHAPES = 8,
    CPS_PLANT_MARGINS = 4,
    CPS_PLANT_COLOURS = 8,
    CPS_PLANT_PATTERNS = 6,
    CPS_PLANT_SYMPTOMS = 4,
    CPS_PLANT_SCENES = 3,
    CPS_PLANT_TEXT = 96
};

typedef struct cps_plant {
    int32_t shape, margin, colour, pattern;
    char ranks[7][CPS_PLANT_TEXT]; /* kingdom ... species (the epithet) */
    char common[CPS_PLANT_TEXT];   /* unique among all species: the label */
} cps_plant;

/* What varies from picture to picture of a species. */
typedef struct cps_plant_picture {
    int32_t leaves;  /* 1 .. 3 */
    int32_t symptom; /* 0: healthy */
    int32_t scene;   /* background */
} cps_plant_picture;

/* Species `index` of a flora of `seed`. */
void cps_plant_create(uint64_t seed, int64_t index, cps_plant *plant_out);
/* Its picture keyed by `key` (position: the record). size x size; image_out is the caller's to
 * free. */
cps_status cps_plant_draw(const cps_plant *plant, const cps_draw_key *key, int32_t size,
                          cps_plant_picture *picture_out, cps_image *image_out) CPS_MUST_CHECK;
/* Caption number `which` (0 .. 4) in `text`. */
enum { CPS_PLANT_CAPTIONS = 5, CPS_PLANT_CAPTION = 640 };
void cps_plant_caption(const cps_plant *plant, const cps_plant_picture *picture, int32_t which,
                       char text[CPS_PLANT_CAPTION]);

#endif
