/* Names of made-up plants. Looks follow the tree: family -> leaf shape, genus -> margin, species ->
 * colour and pattern; the ranks above group families. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "shards/synth_plant.h"

static const char *const shape_nouns[CPS_PLANT_SHAPES] = {
    "egg-leaf",  "spear-leaf",  "coin-leaf",   "heart-leaf",
    "hand-leaf", "ribbon-leaf", "paddle-leaf", "arrow-leaf"};
static const char *const shape_words[CPS_PLANT_SHAPES] = {
    "ovate", "lanceolate", "round", "cordate", "lobed", "linear", "spatulate", "triangular"};
static const char *const margin_words[CPS_PLANT_MARGINS] = {"smooth", "toothed", "wavy",
                                                            "scalloped"};
static const char *const colour_words[CPS_PLANT_COLOURS] = {"green", "golden", "crimson", "violet",
                                                            "blue",  "orange", "silver",  "teal"};
static const char *const pattern_words[CPS_PLANT_PATTERNS] = {"plain",   "veined", "edged",
                                                              "spotted", "halved", "banded"};
static const char *const symptom_words[CPS_PLANT_SYMPTOMS] = {
    "healthy", "with rust spots", "with patches of mildew", "with burnt edges"};
static const char *const scene_words[CPS_PLANT_SCENES] = {"on soil", "against the sky",
                                                          "on white paper"};

/* A pseudo-Latin stem of two or three syllables for number `index` of a rank: distinct for distinct
 * indices below 15^3. */
static void stem(uint64_t seed, uint32_t rank, int64_t index, char text[CPS_PLANT_TEXT]) {
    static const char *const first[15] = {"ba", "cor", "del",  "fi", "gra", "hel", "lu", "mar",
                                          "no", "pel", "quer", "ro", "sal", "tri", "ver"};
    static const char *const middle[15] = {"bi", "ca", "do", "fe", "lo", "ma", "ni", "pu",
                                           "ra", "se", "ta", "vi", "xo", "ya", "zu"};
    static const char *const last[15] = {"bel",  "cin", "dor", "fol", "gon", "len", "mis", "nap",
                                         "phor", "rin", "sel", "tum", "van", "lex", "drin"};
    const uint64_t count = 15 * 15 * 15;
    const uint64_t at = cps_permute(seed, rank, 0, count, (uint64_t)index % count);
    snprintf(text, CPS_PLANT_TEXT, "%s%s%s", first[at % 15], middle[at / 15 % 15], last[at / 225]);
}

static void capitalise(char *text) {
    text[0] = (char)toupper((unsigned char)text[0]);
}

static void rank_name(uint64_t seed, uint32_t rank, int64_t index, const char *ending,
                      char text[CPS_PLANT_TEXT]) {
    char root[CPS_PLANT_TEXT];
    stem(seed, rank, index, root);
    snprintf(text, CPS_PLANT_TEXT, "%.60s%s", root, ending);
    capitalise(text);
}

void cps_plant_create(uint64_t seed, int64_t index, cps_plant *plant) {
    enum {
        COMBINATIONS = CPS_PLANT_SHAPES * CPS_PLANT_MARGINS * CPS_PLANT_COLOURS * CPS_PLANT_PATTERNS
    };
    memset(plant, 0, sizeof *plant);
    const int64_t at = index % COMBINATIONS;
    plant->shape = (int32_t)(at % CPS_PLANT_SHAPES);
    plant->margin = (int32_t)(at / CPS_PLANT_SHAPES % CPS_PLANT_MARGINS);
    /* Colour and pattern turn with shape and margin, so that a small flora shows all of them. */
    const int32_t rest = (int32_t)(at / (CPS_PLANT_SHAPES * CPS_PLANT_MARGINS));
    plant->colour = (plant->shape * 3 + plant->margin * 2 + rest) % CPS_PLANT_COLOURS;
    plant->pattern =
        (plant->shape + plant->margin * 5 + rest / CPS_PLANT_COLOURS) % CPS_PLANT_PATTERNS;
    const int64_t genus = plant->shape * CPS_PLANT_MARGINS + plant->margin;
    snprintf(plant->ranks[0], CPS_PLANT_TEXT, "Plantae");
    rank_name(seed, 1, plant->shape / 4, "phyta", plant->ranks[1]);
    rank_name(seed, 2, plant->shape / 4, "opsida", plant->ranks[2]);
    rank_name(seed, 3, plant->shape / 2, "ales", plant->ranks[3]);
    rank_name(seed, 4, plant->shape, "aceae", plant->ranks[4]);
    rank_name(seed, 5, genus, "a", plant->ranks[5]);
    rank_name(seed, 6, index, "is", plant->ranks[6]);
    plant->ranks[6][0] = (char)tolower((unsigned char)plant->ranks[6][0]);
    snprintf(plant->common, CPS_PLANT_TEXT, "%s %s %s %s", margin_words[plant->margin],
             pattern_words[plant->pattern], colour_words[plant->colour], shape_nouns[plant->shape]);
    if (index >= COMBINATIONS) { /* more species than looks: the epithet tells them apart */
        const size_t used = strlen(plant->common);
        snprintf(plant->common + used, CPS_PLANT_TEXT - used, " %.30s", plant->ranks[6]);
    }
}

void cps_plant_caption(const cps_plant *plant, const cps_plant_picture *picture, int32_t which,
                       char text[CPS_PLANT_CAPTION]) {
    static const char *const numbers[4] = {"", "one leaf", "two leaves", "three leaves"};
    const char *genus = plant->ranks[5], *species = plant->ranks[6];
    const char *symptom = symptom_words[picture->symptom], *scene = scene_words[picture->scene];
    switch (which) {
    case 0:
        snprintf(text, CPS_PLANT_CAPTION, "a photo of a %s.", plant->common);
        break;
    case 1:
        snprintf(text, CPS_PLANT_CAPTION, "%s %s, the %s, has %s leaves with a %s margin.", genus,
                 species, plant->common, shape_words[plant->shape], margin_words[plant->margin]);
        break;
    case 2:
        snprintf(text, CPS_PLANT_CAPTION, "%s of a %s %s, %s.", numbers[picture->leaves],
                 plant->common, scene, symptom);
        break;
    case 3:
        snprintf(text, CPS_PLANT_CAPTION, "a %s (%s %s) of the family %s %s.", plant->common, genus,
                 species, plant->ranks[4], scene);
        break;
    default:
        snprintf(text, CPS_PLANT_CAPTION, "close-up of a %s, %s.", plant->common, symptom);
        break;
    }
}
