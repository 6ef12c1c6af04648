/* Ranks completed from a table of names and their parents. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "shards/taxon_backbone.h"

enum { RANKS = CPS_TAXON_RANKS };

typedef const char *const row[RANKS];

static row corvids[] = {
    {"Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "Pica hudsonia"},
    {"Metazoa", "Chordata", "Aves", "Passeriformes", "Corvidae", "Corvus", "Corvus corone L."},
    {"Animalia", "Arthropoda", "Insecta", "Diptera", "Cecidomyiidae", "Mayetiola", "destructor"},
    {"", "", "", "", "", "", ""},
};

static cps_taxon_backbone *make(row *rows, int64_t count) {
    cps_taxon_backbone *backbone = NULL;
    assert_int_equal(cps_taxon_backbone_create(&backbone), CPS_OK);
    for (int64_t i = 0; i < count; i++) {
        assert_int_equal(cps_taxon_backbone_add(backbone, "first", i + 2, rows[i]), CPS_OK);
    }
    return backbone;
}

static cps_taxon *clean(row ranks) {
    cps_taxon_fields fields = {.common = "x"};
    cps_taxon *taxon = NULL;
    memcpy(fields.ranks, ranks, sizeof fields.ranks);
    assert_int_equal(cps_taxon_clean(&fields, &taxon), CPS_OK);
    return taxon;
}

static void check(const cps_taxon_backbone *backbone, row input, row wanted,
                  cps_taxon_upgrades *upgrades) {
    cps_taxon_upgrades own = {0};
    cps_taxon *taxon = clean(input), *upgraded = NULL;
    assert_int_equal(
        cps_taxon_backbone_upgrade(backbone, taxon, upgrades ? upgrades : &own, &upgraded), CPS_OK);
    for (int32_t rank = 0; rank < RANKS; rank++) {
        assert_string_equal(upgraded->ranks[rank], wanted[rank]);
    }
    assert_string_equal(upgraded->common, "x");
    free(taxon);
    free(upgraded);
}

#define MAGPIE "animalia", "chordata", "aves", "passeriformes", "corvidae", "pica", "hudsonia"

static void ranks_are_filled_from_below(void **state) {
    (void)state;
    cps_taxon_backbone *backbone = make(corvids, 4);
    cps_taxon_upgrades upgrades = {0};
    /* The species; a species that is not there, by its family; a wrong order, once the phylum that
     * it leads to has left a gap. */
    check(backbone, (row){"", "", "", "", "", "", "Pica hudsonia"}, (row){MAGPIE}, &upgrades);
    check(backbone, (row){"", "", "", "", "Corvidae", "Pica", "pica"},
          (row){"animalia", "chordata", "aves", "passeriformes", "corvidae", "pica", "pica"},
          &upgrades);
    check(backbone, (row){"", "", "", "Wrong", "Corvidae", "Pica", "hudsonia"}, (row){MAGPIE},
          &upgrades);
    static const int64_t filled[RANKS] = {3, 3, 3, 2, 1}, changed[RANKS] = {0, 0, 0, 1};
    assert_memory_equal(upgrades.filled, filled, sizeof filled);
    assert_memory_equal(upgrades.changed, changed, sizeof changed);
    cps_taxon_backbone_destroy(backbone);
}

/* Nothing is known of these: an order above an empty family, a complete record that contradicts, a
 * genus that no row has. */
static void some_records_stay(void **state) {
    (void)state;
    cps_taxon_backbone *backbone = make(corvids, 4);
    check(backbone, (row){"Animalia", "", "", "Diptera", "", "", ""},
          (row){"animalia", "", "", "diptera", "", "", ""}, NULL);
    check(backbone, (row){"Animalia", "Wrong", "Aves", "Passeriformes", "Corvidae", "Pica", "pica"},
          (row){"animalia", "wrong", "aves", "passeriformes", "corvidae", "pica", "pica"}, NULL);
    check(backbone, (row){"Fungi", "", "", "", "", "Amanita", "muscaria"},
          (row){"fungi", "", "", "", "", "amanita", "muscaria"}, NULL);
    check(backbone, (row){"Plantae", "", "", "", "Corvidae", "", ""},
          (row){"animalia", "chordata", "aves", "passeriformes", "corvidae", "", ""}, NULL);
    cps_taxon_backbone_destroy(backbone);
}

static void names_of_two_ranks(void **state) {
    (void)state;
    static row rows[] = {
        {"Animalia", "Arthropoda", "Collembola", "Collembola", "Isotomidae", "Isotoma", "viridis"},
        {"Animalia", "Arthropoda", "Insecta", "Diptera", "Asilidae", "Leptogaster", "cylindrica"},
        {"Animalia", "Arthropoda", "Insecta", "Diptera", "Other", "Leptogaster", "flavipes"},
        {"Animalia", "Chordata", "Reptilia", "Squamata", "Charinidae", "Charina", "bottae"},
        {"Animalia", "Chordata", "Reptilia", "Squamata", "Boidae", "Boa", "constrictor"},
    };
    cps_taxon_backbone *backbone = make(rows, 5);
    check(backbone, (row){"", "", "", "", "Isotomidae", "", ""},
          (row){"animalia", "arthropoda", "collembola", "collembola", "isotomidae", "", ""}, NULL);
    check(backbone, (row){"", "", "", "", "", "Leptogaster", "flavipes"},
          (row){"animalia", "arthropoda", "insecta", "diptera", "asilidae", "leptogaster",
                "flavipes"},
          NULL);
    check(backbone, (row){"", "", "", "", "", "Charina", "bottae"},
          (row){"animalia", "chordata", "reptilia", "squamata", "boidae", "charina", "bottae"},
          NULL);
    cps_taxon_backbone_destroy(backbone);
}

static void starts(void **state) {
    (void)state;
    static const struct {
        row ranks;
        int32_t start;
    } cases[] = {
        {{MAGPIE}, 0},
        {{"", "b", "c", "d", "e", "f", "g"}, 1},
        {{"a", "b", "", "d", "e", "", ""}, 3},
        {{"a", "b", "c", "d", "", "f", "g"}, CPS_TAXON_SPECIES},
        {{"a", "", "", "", "", "", ""}, CPS_TAXON_SPECIES},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cps_taxon *taxon = clean(cases[i].ranks);
        assert_int_equal(cps_taxon_backbone_start(taxon), cases[i].start);
        free(taxon);
    }
}

static void first_source_must_agree_with_itself(void **state) {
    (void)state;
    static row conflict = {"Animalia", "Chordata", "Aves", "Piciformes",
                           "Corvidae", "Pica",     "pica"};
    cps_taxon_backbone *backbone = make(corvids, 4);
    assert_int_equal(cps_taxon_backbone_add(backbone, "first", 9, conflict), CPS_ERR_DATA);
    assert_string_equal(
        cps_fail_message(),
        "'first', line 9 says family 'corvidae' of order 'piciformes', line 2 says family "
        "'corvidae' of order 'passeriformes': in a backbone a name has one rank and one parent; "
        "correct one of the lines, or put the second into a file of its own behind this one");
    static row other_rank = {"Animalia",   "Chordata", "Aves",      "Corvidae",
                             "Garrulidae", "Garrulus", "glandarius"};
    assert_int_equal(cps_taxon_backbone_add(backbone, "first", 10, other_rank), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "order 'corvidae' of class 'aves', line 2"));
    static row twice = {"", "", "", "", "Corvidae", "Mayetiola", "destructor"};
    assert_int_equal(cps_taxon_backbone_add(backbone, "first", 11, twice), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(),
                           "species 'mayetiola destructor' of family 'corvidae', line 4 says "
                           "species 'mayetiola destructor' of family 'cecidomyiidae'"));
    cps_taxon_backbone_destroy(backbone);
}

/* The same row as of a second source adds the species alone. */
static void later_sources_add_only(void **state) {
    (void)state;
    static row conflict = {"Animalia", "Chordata", "Aves", "Piciformes",
                           "Corvidae", "Pica",     "pica"};
    cps_taxon_backbone *backbone = make(corvids, 4);
    const int64_t before = cps_taxon_backbone_names(backbone);
    assert_int_equal(cps_taxon_backbone_add(backbone, "second", 9, conflict), CPS_OK);
    assert_int_equal(cps_taxon_backbone_names(backbone), before + 2); /* and its order */
    check(backbone, (row){"", "", "", "", "", "Pica", "pica"},
          (row){"animalia", "chordata", "aves", "passeriformes", "corvidae", "pica", "pica"}, NULL);
    cps_taxon_backbone_destroy(backbone);
}

/* Sources that put names above each other, or above themselves. */
static void circles_end(void **state) {
    (void)state;
    static row two = {"y", "x", "y", "o", "f", "", ""}, self = {"", "", "", "c", "c", "", ""};
    cps_taxon_backbone *backbone = make(corvids, 1);
    assert_int_equal(cps_taxon_backbone_add(backbone, "second", 1, two), CPS_OK);
    assert_int_equal(cps_taxon_backbone_add(backbone, "second", 2, self), CPS_OK);
    check(backbone, (row){"", "", "", "", "f", "", ""}, (row){"", "x", "y", "o", "f", "", ""},
          NULL);
    check(backbone, (row){"", "", "", "", "c", "", ""}, (row){"", "", "", "", "c", "", ""}, NULL);
    cps_taxon_backbone_destroy(backbone);
}

static cps_status load(const char *text, cps_taxon_backbone *backbone) {
    char folder[] = "/tmp/cps-backbone-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char *path = cps_format("%s/table.csv", folder);
    assert_int_equal(cps_file_write_atomic(path, text, strlen(text)), CPS_OK);
    const cps_status status = cps_taxon_backbone_load(backbone, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
    free(path);
    return status;
}

static void tables(void **state) {
    (void)state;
    cps_taxon_backbone *backbone = make(NULL, 0);
    assert_int_equal(load("id,Kingdom,Phylum,Cls,Order,Family,Genus,Species\n"
                          "1,Animalia,Chordata,Aves,Passeriformes,Corvidae,Pica,Pica hudsonia\n",
                          backbone),
                     CPS_OK);
    check(backbone, (row){"", "", "", "", "", "Pica", "hudsonia"}, (row){MAGPIE}, NULL);
    assert_int_equal(load("kingdom,phylum,class,order,genus,species\na,b,c,d,e,f\n", backbone),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "'family' is not among these: kingdom, phylum"));
    assert_int_equal(cps_taxon_backbone_load(backbone, "/nowhere/table.csv"), CPS_ERR_UNAVAILABLE);
    cps_taxon_backbone_destroy(backbone);
    backbone = make(NULL, 0);
    assert_int_equal(load("kingdom,phylum,class,order,family,genus,species\n"
                          "Animalia,Chordata,Aves,Passeriformes,Corvidae,Pica,hudsonia\n"
                          "Animalia,Chordata,Aves,Piciformes,Corvidae,Pica,pica\n",
                          backbone),
                     CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "line 3 says family 'corvidae' of order"));
    assert_non_null(strstr(cps_fail_message(), "line 2 says family 'corvidae' of order"));
    cps_taxon_backbone_destroy(backbone);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_are_filled_from_below),
        cmocka_unit_test(some_records_stay),
        cmocka_unit_test(names_of_two_ranks),
        cmocka_unit_test(starts),
        cmocka_unit_test(first_source_must_agree_with_itself),
        cmocka_unit_test(later_sources_add_only),
        cmocka_unit_test(circles_end),
        cmocka_unit_test(tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
