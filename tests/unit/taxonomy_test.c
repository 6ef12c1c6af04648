/* eval/taxonomy: path ids by hand, homonyms, gaps, many organisms. */
#include "eval/taxonomy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

typedef const char *ranks[CPS_TAXON_RANKS];

static int32_t add(cps_taxonomy *taxonomy, const char *const *organism) {
    int32_t id = -1;
    assert_int_equal(cps_taxonomy_add(taxonomy, organism, &id), CPS_OK);
    return id;
}

static const ranks magpie = {"animalia", "chordata", "aves",    "passeriformes",
                             "corvidae", "pica",     "hudsonia"};
static const ranks crow = {"animalia", "chordata", "aves",  "passeriformes",
                           "corvidae", "corvus",   "corone"};
/* The class of ray-finned fish is a gap in many sources. */
static const ranks goldfish = {"animalia",   "chordata",  "",       "cypriniformes",
                               "cyprinidae", "carassius", "auratus"};
static const ranks midge = {"animalia",      "arthropoda", "insecta", "diptera",
                            "cecidomyiidae", NULL,         NULL};
/* The genus of a plant and the epithet of an animal may be those of another. */
static const ranks verbena = {"plantae",     "tracheophyta", "magnoliopsida", "lamiales",
                              "verbenaceae", "pica",         "hudsonia"};

static void paths_by_hand(void **state) {
    (void)state;
    cps_taxonomy *taxonomy = NULL;
    assert_int_equal(cps_taxonomy_create(&taxonomy), CPS_OK);
    assert_int_equal(cps_taxonomy_paths(taxonomy, 0), 0);
    const char *const *const organisms[] = {magpie, crow, goldfish, midge, verbena};
    static const int32_t want[5][CPS_TAXON_RANKS] = {
        {0, 0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 1, 1}, {0, 0, 1, 1, 1, 2, 2},
        {0, 1, 2, 2, 2, 3, 3}, {1, 2, 3, 3, 3, 4, 4},
    };
    for (int32_t pass = 0; pass < 2; pass++) { /* the second time all are there */
        for (int32_t i = 0; i < 5; i++) {
            assert_int_equal(add(taxonomy, organisms[i]), i);
            assert_memory_equal(cps_taxonomy_path(taxonomy, i), want[i], sizeof want[i]);
        }
    }
    static const int64_t paths[] = {2, 3, 4, 4, 4, 5, 5};
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        assert_int_equal(cps_taxonomy_paths(taxonomy, rank), paths[rank]);
    }
    cps_taxonomy_destroy(taxonomy);
}

static void depth_by_hand(void **state) {
    (void)state;
    cps_taxonomy *taxonomy = NULL;
    assert_int_equal(cps_taxonomy_create(&taxonomy), CPS_OK);
    const char *const *const organisms[] = {magpie, crow, goldfish, midge, verbena};
    for (int32_t i = 0; i < 5; i++) {
        add(taxonomy, organisms[i]);
    }
    static const int32_t want[5][5] = {
        {7, 5, 2, 1, 0}, {5, 7, 2, 1, 0}, {2, 2, 7, 1, 0}, {1, 1, 1, 7, 0}, {0, 0, 0, 0, 7}};
    for (int32_t a = 0; a < 5; a++) {
        for (int32_t b = 0; b < 5; b++) {
            assert_int_equal(cps_taxonomy_shared_depth(cps_taxonomy_path(taxonomy, a),
                                                       cps_taxonomy_path(taxonomy, b)),
                             want[a][b]);
        }
    }
    /* A rank between two equal gaps is a difference; values do not run into each other. */
    const ranks one = {"animalia", "chordata", "", "ab", "c"},
                other = {"animalia", "chordata", "", "a", "bc"};
    const int32_t left = add(taxonomy, one), right = add(taxonomy, other);
    assert_int_equal(cps_taxonomy_shared_depth(cps_taxonomy_path(taxonomy, left),
                                               cps_taxonomy_path(taxonomy, right)),
                     3);
    cps_taxonomy_destroy(taxonomy);
}

/* Every table grows many times over; ids stay what they were. */
static void many_organisms(void **state) {
    (void)state;
    enum { COUNT = 60000 };
    cps_taxonomy *taxonomy = NULL;
    assert_int_equal(cps_taxonomy_create(&taxonomy), CPS_OK);
    for (int32_t pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < COUNT; i++) {
            char family[32], genus[32], species[32];
            snprintf(family, sizeof family, "family %d", i / 100);
            snprintf(genus, sizeof genus, "genus %d", i / 10 % 10);
            snprintf(species, sizeof species, "species %d", i % 10);
            const ranks organism = {"k", "p", "c", "o", family, genus, species};
            assert_int_equal(add(taxonomy, organism), i);
            const int32_t *path = cps_taxonomy_path(taxonomy, i);
            assert_int_equal(path[4], i / 100);
            assert_int_equal(path[5], i / 10);
            assert_int_equal(path[6], i);
        }
    }
    assert_int_equal(cps_taxonomy_paths(taxonomy, 3), 1);
    assert_int_equal(cps_taxonomy_paths(taxonomy, 4), COUNT / 100);
    assert_int_equal(cps_taxonomy_paths(taxonomy, 6), COUNT);
    cps_taxonomy_destroy(taxonomy);
    cps_taxonomy_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_by_hand),
        cmocka_unit_test(depth_by_hand),
        cmocka_unit_test(many_organisms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
