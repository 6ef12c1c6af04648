/* eval/taxonomy: path ids by hand, homonyms, gaps, many organisms. */
#include "eval/taxonomy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tensor/gemm.h"

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

/* What records say is cleaned: case, tags, a genus in front of the epithet, "unknown". */
static void records(void **state) {
    (void)state;
    cps_taxonomy *taxonomy = NULL;
    assert_int_equal(cps_taxonomy_create(&taxonomy), CPS_OK);
    const cps_taxon_fields one = {.ranks = {"Animalia", "", "", "", "", "Pica", "Pica pica"}};
    const cps_taxon_fields same = {
        .ranks = {"METAZOA", "unknown", NULL, "", "", "<i>pica</i>", "pica"}, .common = "magpie"};
    const cps_taxon_fields other = {.ranks = {"Animalia", "", "", "", "", "Pica", "hudsonia"}};
    const cps_taxon_fields none = {.ranks = {"unknown"}, .common = "a bird"};
    int32_t organism = -2;
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(cps_taxonomy_add_record(taxonomy, &one, &organism), CPS_OK);
        assert_int_equal(organism, 0);
        assert_int_equal(cps_taxonomy_add_record(taxonomy, &none, &organism), CPS_OK);
        assert_int_equal(organism, -1);
        assert_int_equal(cps_taxonomy_add_record(taxonomy, &same, &organism), CPS_OK);
        assert_int_equal(organism, 0);
        assert_int_equal(cps_taxonomy_add_record(taxonomy, &other, &organism), CPS_OK);
        assert_int_equal(organism, 1);
    }
    cps_taxonomy_destroy(taxonomy);
}

static void counts_by_hand(void **state) {
    (void)state;
    cps_taxonomy *taxonomy = NULL;
    assert_int_equal(cps_taxonomy_create(&taxonomy), CPS_OK);
    const int32_t a = add(taxonomy, magpie), b = add(taxonomy, crow), c = add(taxonomy, verbena);
    const int32_t *paths[] = {cps_taxonomy_path(taxonomy, a), cps_taxonomy_path(taxonomy, b),
                              cps_taxonomy_path(taxonomy, c)};
    cps_rank_counts counts = {0};
    cps_json *metrics = cps_json_new_object();
    cps_rank_counts_report(&counts, "", metrics);
    assert_int_equal(cps_json_count(metrics), 0); /* no samples, no metrics */
    cps_rank_counts_add(&counts, paths[0], paths[0], false);
    cps_rank_counts_report(&counts, "one_", metrics);
    assert_true(cps_json_get_number(metrics, "one_rank_species", -1) == 1.0);
    assert_true(cps_json_get_number(metrics, "one_tree_distance", -1) == 0.0); /* no mistakes */
    cps_rank_counts_add(&counts, paths[1], paths[0], true);                    /* 5 shared */
    cps_rank_counts_add(&counts, paths[2], paths[0], true);                    /* none */
    cps_rank_counts_add(&counts, NULL, paths[0], true);     /* a class without organism */
    cps_rank_counts_add(&counts, paths[0], paths[0], true); /* another class of the same organism */
    cps_json_destroy(metrics);
    metrics = cps_json_new_object();
    cps_rank_counts_report(&counts, "", metrics);
    char *text = cps_json_print(metrics, false, false);
    assert_string_equal(text, "{\"rank_kingdom\":0.6,\"rank_phylum\":0.6,\"rank_class\":0.6,"
                              "\"rank_order\":0.6,\"rank_family\":0.6,\"rank_genus\":0.4,"
                              "\"rank_species\":0.4,\"shared_depth\":3.8,\"tree_distance\":4}");
    free(text);
    cps_json_destroy(metrics);
    cps_taxonomy_destroy(taxonomy);
}

/* ---- sums of probabilities ---- */

static cps_comm *comm;

/* One image whose scores with the classes are `scores`; which ranks come out right, as bits. */
static int32_t aggregate(const cps_taxonomy *taxonomy, const int32_t *organisms, int64_t classes,
                         const double *scores, int32_t truth) {
    static const double one = 1.0;
    cps_real image[8] = {0}, axes[8 * 8] = {0};
    for (int64_t c = 0; c < classes; c++) {
        image[c] = (cps_real)scores[c];
        axes[c * classes + c] = 1;
    }
    const cps_features images = {
        .rows = 1, .width = classes, .component_count = 1, .widths = {classes}, .values = image};
    const cps_features vectors = {.rows = classes,
                                  .width = classes,
                                  .component_count = 1,
                                  .widths = {classes},
                                  .values = axes};
    int64_t right[CPS_TAXON_RANKS];
    assert_int_equal(
        cps_aggregate_ranks(comm, &images, &vectors, &one, 2.0, taxonomy, organisms, &truth, right),
        CPS_OK);
    int32_t bits = 0;
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        assert_true(right[rank] == 0 || right[rank] == 1);
        bits |= (int32_t)right[rank] << rank;
    }
    return bits;
}

static void sums_by_hand(void **state) {
    (void)state;
    enum { ALL = 127, UP_TO_FAMILY = 31, SPECIES = 64 };
    cps_taxonomy *taxonomy = NULL;
    assert_int_equal(cps_taxonomy_create(&taxonomy), CPS_OK);
    const ranks birds[] = {{"a", "c", "v", "p", "corvidae", "corvus", "corone"},
                           {"a", "c", "v", "p", "corvidae", "pica", "pica"},
                           {"a", "c", "v", "p", "corvidae", "pica", "hudsonia"}};
    int32_t organisms[8];
    for (int32_t i = 0; i < 3; i++) {
        organisms[i] = add(taxonomy, birds[i]);
    }
    /* 0.4, 0.3, 0.3 at scale 2: the crow is the likeliest species, the magpies' genus the likeliest
     * genus. */
    const double split[] = {log(0.4) / 2, log(0.3) / 2, log(0.3) / 2};
    assert_int_equal(aggregate(taxonomy, organisms, 3, split, organisms[0]),
                     UP_TO_FAMILY | SPECIES);
    assert_int_equal(aggregate(taxonomy, organisms, 3, split, organisms[1]), ALL & ~SPECIES);
    /* Equal sums: the path that came first. */
    const int32_t two_each[] = {organisms[1], organisms[0], organisms[1], organisms[0]};
    static const double equal[4] = {0};
    assert_int_equal(aggregate(taxonomy, two_each, 4, equal, organisms[0]), ALL);
    assert_int_equal(aggregate(taxonomy, two_each, 4, equal, organisms[1]), UP_TO_FAMILY);
    /* Classes without organism give to no path, however likely; one class; a truth that no class
     * is.
     */
    const int32_t nameless[] = {-1, organisms[2]};
    static const double sure[] = {50, 0};
    assert_int_equal(aggregate(taxonomy, nameless, 2, sure, organisms[2]), ALL);
    assert_int_equal(aggregate(taxonomy, organisms, 1, equal, organisms[0]), ALL);
    const int32_t late = add(taxonomy, goldfish);
    assert_int_equal(aggregate(taxonomy, organisms, 3, split, late), 0);
    cps_taxonomy_destroy(taxonomy);
}

static int start(void **state) {
    (void)state;
    cps_gemm_start();
    int argc = 1;
    char name[] = "taxonomy_test", *arguments[] = {name, NULL}, **argv = arguments;
    return cps_comm_start(&argc, &argv, &comm) == CPS_OK ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    cps_comm_end(comm);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_by_hand),  cmocka_unit_test(depth_by_hand),
        cmocka_unit_test(many_organisms), cmocka_unit_test(records),
        cmocka_unit_test(counts_by_hand), cmocka_unit_test(sums_by_hand),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
