/* Organisms of many records: counted as cleaned, homonyms told from gaps. */
#include "shards/taxa.h"

#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int64_t add(cps_taxa *taxa, const char *kingdom, const char *class, const char *family,
                   const char *genus, const char *species, const char *common) {
    const cps_taxon_fields fields = {.ranks = {kingdom, NULL, class, "", family, genus, species},
                                     .common = common};
    int64_t number = -1;
    assert_int_equal(cps_taxa_add(taxa, &fields, &number), CPS_OK);
    return number;
}

static void equal_records_are_one(void **state) {
    (void)state;
    cps_taxa *taxa = NULL;
    assert_int_equal(cps_taxa_create(&taxa), CPS_OK);
    assert_int_equal(add(taxa, "Animalia", "Aves", "Corvidae", "Pica", "Pica hudsonia", "x"), 0);
    assert_int_equal(add(taxa, "Animalia", "Aves", "Corvidae", "Pica", "hudsonia", "x"), 1);
    assert_int_equal(add(taxa, "Animalia", "Aves", "Corvidae", "Pica", "Pica hudsonia", "x"), 0);
    assert_int_equal(add(taxa, "", NULL, NULL, "unknown", NULL, "somebody"), 2);
    assert_int_equal(cps_taxa_count(taxa), 3);
    assert_string_equal(cps_taxa_at(taxa, 0)->ranks[CPS_TAXON_SPECIES], "hudsonia");
    assert_null(cps_taxa_at(taxa, 2));
    /* More than the first table of slots holds. */
    for (int i = 0; i < 3000; ++i) {
        char name[32];
        snprintf(name, sizeof name, "species%d", i % 1500);
        assert_int_equal(add(taxa, "", "", "", "Genus", name, NULL), 3 + i % 1500);
    }
    cps_taxa_destroy(taxa);
    cps_taxa_destroy(NULL);
}

static void records_are_counted(void **state) {
    (void)state;
    cps_taxa *taxa = NULL;
    cps_taxa_summary sum;
    assert_int_equal(cps_taxa_create(&taxa), CPS_OK);
    add(taxa, "Animalia", "Aves", "Corvidae", "Pica", "hudsonia", "magpie");
    add(taxa, "Animalia", "Aves", "Corvidae", "Pica", "hudsonia", "magpie");
    add(taxa, "Metazoa", "", "Corvidae", "Corvus", "corax major", ""); /* a gap */
    add(taxa, "Animalia", "Insecta", "", "", "", "");                  /* phylum unknown */
    add(taxa, "Animalia", "", "", "", "", "beast");
    add(taxa, "", "", "", "", "", "nobody");
    assert_int_equal(cps_taxa_sum_up(taxa, &sum), CPS_OK);
    assert_int_equal(sum.records, 6);
    const int64_t known[] = {1, 1, 1, 0, 1, 2, 0, 0};
    const int64_t lowest[] = {1, 0, 1, 0, 0, 0, 3};
    const int64_t distinct[] = {1, 0, 2, 0, 1, 2, 2};
    assert_memory_equal(sum.known, known, sizeof known);
    assert_memory_equal(sum.lowest, lowest, sizeof lowest);
    assert_memory_equal(sum.distinct, distinct, sizeof distinct);
    assert_int_equal(sum.gaps, 4);
    assert_int_equal(sum.several_words, 1);
    assert_int_equal(sum.without_common, 2);
    assert_int_equal(sum.homonyms, 0);
    cps_taxa_destroy(taxa);
}

static void homonyms_are_no_gaps(void **state) {
    (void)state;
    cps_taxa *taxa = NULL;
    cps_taxa_summary sum;
    assert_int_equal(cps_taxa_create(&taxa), CPS_OK);
    add(taxa, "Plantae", "Magnoliopsida", "Moraceae", "Morus", "alba", NULL);
    add(taxa, "Animalia", "Aves", "Sulidae", "Morus", "bassanus", NULL);
    add(taxa, "Plantae", "", "Moraceae", "Morus", "nigra", NULL);
    /* One family, once without its class: no two places. The same epithet in two genera: neither.
     */
    add(taxa, "Animalia", "", "Sulidae", "Sula", "alba", NULL);
    /* A family unknown first and told later, then another. */
    add(taxa, "Animalia", "Aves", "", "Pica", "pica", NULL);
    add(taxa, "Animalia", "Aves", "Corvidae", "Pica", "pica", NULL);
    add(taxa, "Animalia", "Aves", "Laridae", "Pica", "pica", NULL);
    assert_int_equal(cps_taxa_sum_up(taxa, &sum), CPS_OK);
    assert_int_equal(sum.homonyms, 3);
    assert_int_equal(sum.example_count, 3);
    cps_json *root = cps_json_new_object();
    cps_taxa_put(&sum, root, "taxonomy");
    char *text = cps_taxa_text(cps_json_get(root, "taxonomy"));
    assert_non_null(strstr(text, "    genus morus: family moraceae, family sulidae\n"));
    assert_non_null(strstr(text, "    genus pica: family corvidae, family laridae\n"));
    assert_non_null(strstr(text, "    species pica pica: family corvidae, family laridae\n"));
    assert_non_null(strstr(text, "taxonomy: 7 records; known ranks: 5 in 4, 4 in 3,"));
    free(text);
    cps_json_destroy(root);
    cps_taxa_destroy(taxa);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_records_are_one),
        cmocka_unit_test(records_are_counted),
        cmocka_unit_test(homonyms_are_no_gaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
