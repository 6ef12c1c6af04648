/* Drawing: every pixel is sampled 3 x 3 times; a sample asks the leaves from the front one back
 * whether it lies inside. A leaf is an outline half-width w(u) along its axis u in [-1, 1], or a
 * polar outline (lobed, round, heart), with a margin on top. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "shards/synth_plant.h"

typedef struct colour {
    double r, g, b;
} colour;

typedef struct leaf {
    double x, y, cosine, sine, scale; /* centre and turn in the picture's unit square */
    double light;
} leaf;

typedef struct scene {
    const cps_plant *plant;
    cps_plant_picture picture;
    leaf leaves[3];
    colour base, accent;
    uint32_t grain; /* of hashed spots and noise */
    double shade;
} scene;

static const double pi = 3.14159265358979323846;

static colour mix(colour a, colour b, double t) {
    return (colour){a.r + (b.r - a.r) * t, a.g + (b.g - a.g) * t, a.b + (b.b - a.b) * t};
}

/* A number in [0, 1) for a cell of a grid. */
static double cell_noise(uint32_t grain, int32_t x, int32_t y) {
    uint32_t h = grain ^ ((uint32_t)x * 0x9e3779b1u) ^ ((uint32_t)y * 0x85ebca6bu);
    h = (h ^ (h >> 15)) * 0x2c1b3c6du;
    h = (h ^ (h >> 12)) * 0x297a2d39u;
    return (double)((h ^ (h >> 15)) >> 8) / 16777216.0;
}

/* Half-width of a leaf at u, or of a polar outline in its direction; 0 outside. */
static double outline(int32_t shape, double u, double v) {
    const double angle = atan2(v, u);
    switch (shape) {
    case 0: /* ovate: widest below the middle */
        return fabs(u) < 1.0 ? 0.55 * sqrt(1.0 - u * u) * (1.0 - 0.35 * u) : 0.0;
    case 1: /* lanceolate */
        return fabs(u) < 1.0 ? 0.26 * (1.0 - u * u) * (1.0 - 0.2 * u) : 0.0;
    case 2: /* round */
        return 0.72;
    case 3: /* cordate */
        return 0.80 - 0.42 * exp(-8.0 * (1.0 + cos(angle))) + 0.12 * cos(angle);
    case 4: /* lobed */
        return 0.36 + 0.50 * pow(fabs(cos(2.5 * angle)), 1.5);
    case 5: /* linear */
        return fabs(u) < 1.0 ? 0.10 * pow(1.0 - u * u, 0.3) : 0.0;
    case 6: /* spatulate: widest towards the tip */
        return fabs(u) < 1.0
                   ? (u > 0.0 ? 0.55 * sqrt(1.0 - (2.0 * u - 1.0) * (2.0 * u - 1.0)) : 0.0) +
                         0.07 * (1.0 - fabs(u))
                   : 0.0;
    default: /* triangular */
        return u > -0.8 && u < 1.0 ? 0.72 * (1.0 - u) / 1.8 + (u < -0.7 ? 0.0 : 0.03) : 0.0;
    }
}

static bool is_polar(int32_t shape) {
    return shape == 2 || shape == 3 || shape == 4;
}

static double margin(int32_t kind, double along) {
    switch (kind) {
    case 1: { /* toothed */
        const double t = along * 11.0 - floor(along * 11.0);
        return 1.0 - 0.22 * t;
    }
    case 2: /* wavy */
        return 1.0 + 0.13 * sin(along * 2.0 * pi * 4.0);
    case 3: /* scalloped */
        return 0.84 + 0.20 * fabs(sin(along * pi * 7.0));
    default:
        return 1.0;
    }
}

/* Place in a leaf: true inside; *edge_out in [0, 1] grows from axis or centre to the margin. */
static bool inside(const scene *picture, const leaf *at, double x, double y, double *u_out,
                   double *v_out, double *edge_out) {
    const double dx = (x - at->x) / at->scale, dy = (y - at->y) / at->scale;
    const double u = dx * at->cosine + dy * at->sine, v = dy * at->cosine - dx * at->sine;
    const int32_t shape = picture->plant->shape;
    const bool polar = is_polar(shape);
    const double along = polar ? atan2(v, u) / (2.0 * pi) + 0.5 : 0.5 * (u + 1.0);
    const double width = outline(shape, u, v) * margin(picture->plant->margin, along);
    const double distance = polar ? sqrt(u * u + v * v) : fabs(v);
    *u_out = u;
    *v_out = v;
    *edge_out = width > 0.0 ? distance / width : 2.0;
    return *edge_out <= 1.0;
}

static colour pattern_colour(const scene *picture, double u, double v, double edge) {
    switch (picture->plant->pattern) {
    case 1: /* veined */
        return fabs(v) < 0.045 || fabs(fabs(v) - fabs(fmod(u + 4.0, 0.34) - 0.17)) < 0.02
                   ? picture->accent
                   : picture->base;
    case 2: /* edged */
        return edge > 0.74 ? picture->accent : picture->base;
    case 3: { /* spotted */
        const double gx = fmod(u + 8.0, 0.26) - 0.13, gy = fmod(v + 8.0, 0.26) - 0.13;
        return gx * gx + gy * gy < 0.0050 ? picture->accent : picture->base;
    }
    case 4: /* halved */
        return v > 0.0 ? picture->accent : picture->base;
    case 5: /* banded */
        return fmod(u + 4.0, 0.4) < 0.16 ? picture->accent : picture->base;
    default:
        return picture->base;
    }
}

static colour symptom_colour(const scene *picture, double u, double v, double edge,
                             colour healthy) {
    const int32_t cx = (int32_t)floor((u + 4.0) * 7.0), cy = (int32_t)floor((v + 4.0) * 7.0);
    const double noise = cell_noise(picture->grain, cx, cy);
    switch (picture->picture.symptom) {
    case 1: /* rust */
        return noise > 0.86 ? (colour){0.62, 0.30, 0.08} : healthy;
    case 2: /* mildew */
        return cell_noise(picture->grain, cx / 2, cy / 2) > 0.78
                   ? mix(healthy, (colour){0.93, 0.93, 0.90}, 0.7)
                   : healthy;
    case 3: /* burnt edges */
        return edge > 0.86 ? mix(healthy, (colour){0.33, 0.22, 0.10}, 0.8) : healthy;
    default:
        return healthy;
    }
}

static colour background(const scene *picture, double x, double y) {
    const double noise =
        cell_noise(picture->grain + 7u, (int32_t)(x * 48.0), (int32_t)(y * 48.0)) - 0.5;
    switch (picture->picture.scene) {
    case 0: /* soil */
        return (colour){0.30 + 0.12 * noise, 0.21 + 0.10 * noise, 0.14 + 0.08 * noise};
    case 1: /* sky */
        return (colour){0.55 + 0.25 * y, 0.72 + 0.15 * y, 0.92};
    default: /* paper */
        return (colour){0.93 - 0.08 * x + 0.02 * noise, 0.92 - 0.08 * x + 0.02 * noise,
                        0.88 - 0.08 * x + 0.02 * noise};
    }
}

static colour sample(const scene *picture, double x, double y) {
    for (int32_t i = picture->picture.leaves - 1; i >= 0; i--) {
        double u, v, edge;
        if (inside(picture, &picture->leaves[i], x, y, &u, &v, &edge)) {
            const colour healthy = pattern_colour(picture, u, v, edge);
            const colour seen = symptom_colour(picture, u, v, edge, healthy);
            const double light = picture->leaves[i].light * (1.0 - 0.18 * edge * edge);
            return (colour){seen.r * light, seen.g * light, seen.b * light};
        }
    }
    return background(picture, x, y);
}

static uint8_t byte_of(double value) {
    return (uint8_t)(value <= 0.0 ? 0 : value >= 1.0 ? 255 : (int)(value * 255.0 + 0.5));
}

/* Draws are numbered: each use has its own index of the key. */
static double between(const cps_draw_key *key, uint64_t index, double low, double high) {
    return low + (high - low) * cps_draw_uniform(key, index);
}

static void arrange(const cps_plant *plant, const cps_draw_key *key, scene *picture) {
    static const colour bases[CPS_PLANT_COLOURS] = {
        {0.20, 0.55, 0.18}, {0.85, 0.70, 0.12}, {0.75, 0.10, 0.16}, {0.48, 0.20, 0.62},
        {0.16, 0.34, 0.74}, {0.92, 0.48, 0.10}, {0.70, 0.74, 0.76}, {0.06, 0.52, 0.52}};
    memset(picture, 0, sizeof *picture);
    picture->plant = plant;
    picture->picture.leaves = 1 + (int32_t)cps_draw_below(key, 0, 3);
    picture->picture.symptom = cps_draw_uniform(key, 1) < 0.5
                                   ? 0
                                   : 1 + (int32_t)cps_draw_below(key, 2, CPS_PLANT_SYMPTOMS - 1);
    picture->picture.scene = (int32_t)cps_draw_below(key, 3, CPS_PLANT_SCENES);
    picture->grain = cps_draw_u32(key, 4);
    const double tint = between(key, 5, -0.05, 0.05);
    const colour base = bases[plant->colour];
    picture->base =
        (colour){base.r + tint, base.g - tint * 0.5, base.b + between(key, 6, -0.05, 0.05)};
    picture->accent = plant->colour == 6 ? (colour){0.30, 0.32, 0.36}
                                         : mix(picture->base, (colour){0.98, 0.97, 0.86}, 0.75);
    const int32_t leaves = picture->picture.leaves;
    for (int32_t i = 0; i < leaves; i++) {
        const uint64_t at = 16 + 8 * (uint64_t)i;
        const double turn = between(key, at, 0.0, 2.0 * pi);
        const double spread = leaves == 1 ? 0.06 : 0.20;
        picture->leaves[i] =
            (leaf){.x = 0.5 + between(key, at + 1, -spread, spread),
                   .y = 0.5 + between(key, at + 2, -spread, spread),
                   .cosine = cos(turn),
                   .sine = sin(turn),
                   .scale = between(key, at + 3, 0.36, 0.48) * (leaves == 1 ? 1.0 : 0.82),
                   .light = between(key, at + 4, 0.80, 1.15)};
    }
}

cps_status cps_plant_draw(const cps_plant *plant, const cps_draw_key *key, int32_t size,
                          cps_plant_picture *picture_out, cps_image *image_out) {
    enum { SUB = 3 };
    uint8_t *pixels = malloc((size_t)size * (size_t)size * 3);
    if (pixels == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a picture of %d x %d", size, size);
    }
    scene picture;
    arrange(plant, key, &picture);
    for (int32_t y = 0; y < size; y++) {
        for (int32_t x = 0; x < size; x++) {
            colour sum = {0.0, 0.0, 0.0};
            for (int32_t s = 0; s < SUB * SUB; s++) {
                const colour seen = sample(&picture, (x + (s % SUB + 0.5) / SUB) / size,
                                           (y + (s / SUB + 0.5) / SUB) / size);
                sum = (colour){sum.r + seen.r, sum.g + seen.g, sum.b + seen.b};
            }
            const double noise = 0.04 * (cell_noise(picture.grain + 99u, x, y) - 0.5);
            uint8_t *pixel = pixels + 3 * ((size_t)y * (size_t)size + (size_t)x);
            pixel[0] = byte_of(sum.r / (SUB * SUB) + noise);
            pixel[1] = byte_of(sum.g / (SUB * SUB) + noise);
            pixel[2] = byte_of(sum.b / (SUB * SUB) + noise);
        }
    }
    *picture_out = picture.picture;
    *image_out = (cps_image){size, size, pixels};
    return CPS_OK;
}
