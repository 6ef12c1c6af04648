/* Names of organisms. Right-hand sides were made with Python 3.11 by the rules of the published
 * code, or follow from its description where the comment says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>

#include "base/rng.h"
#include "base/text.h"
#include "shards/taxon.h"

enum { RANKS = CPS_TAXON_RANKS };

static cps_taxon *clean(const char *const ranks[RANKS], const char *common) {
    cps_taxon_fields fields = {.common = common};
    cps_taxon *taxon = NULL;
    memcpy(fields.ranks, ranks, sizeof fields.ranks);
    assert_int_equal(cps_taxon_clean(&fields, &taxon), CPS_OK);
    return taxon;
}

static void check_species(const char *genus, const char *species, const char *want_genus,
                          const char *want_species) {
    const char *const ranks[RANKS] = {[CPS_TAXON_GENUS] = genus, [CPS_TAXON_SPECIES] = species};
    cps_taxon *taxon = clean(ranks, NULL);
    if (taxon == NULL) {
        assert_string_equal(want_genus, "");
        assert_string_equal(want_species, "");
        return;
    }
    assert_string_equal(taxon->ranks[CPS_TAXON_GENUS], want_genus);
    assert_string_equal(taxon->ranks[CPS_TAXON_SPECIES], want_species);
    free(taxon);
}

static void species_lose_what_is_behind_them(void **state) {
    (void)state;
    check_species("rosa", "canina", "rosa", "canina");
    check_species("rosa", "canina L.", "rosa", "canina");
    check_species("rosa", "canina (L.) Mill.", "rosa", "canina");
    check_species("rosa", "canina Mill.", "rosa", "canina mill.");
    check_species("rosa", "canina ssp. alba", "rosa", "canina");
    check_species("rosa", "canina subsp. alba", "rosa", "canina");
    check_species("rosa", "canina var. alba", "rosa", "canina");
    check_species("rosa", "canina Meksuwan, Pholpunthin & Segers, 2013", "rosa", "canina");
    check_species("rosa", "canina Jordan & Evermann", "rosa", "canina");
    check_species("rosa", "canina Casey 1913", "rosa", "canina");
    check_species("rosa", "canina Casey, 1913", "rosa", "canina");
    check_species("rosa", "canina 1913 x", "rosa", ""); /* the word before a year goes with it */
    check_species("rosa", "1913", "rosa", "");
    check_species("rosa", "canina <br > alba", "rosa", "canina");
    check_species("rosa", "canina <br>", "rosa", "canina");
    check_species("rosa", "canina [. alba", "rosa", "canina"); /* '[' lies between Z and a */
    check_species("rosa", "canina 5. alba", "rosa", "canina 5. alba");
    check_species("rosa", "alba x canina", "rosa", "alba x canina");
    check_species("rosa", "sp. 12", "rosa", "sp. 12");
    /* Letters and digits are Unicode's: an author beyond ASCII, a year in Arabic digits. */
    check_species("rosa", "canina M\xc3\xbcller & S\xc3\xb8rensen", "rosa", "canina");
    check_species("rosa", "canina K\xc3\xbchn \xd9\xa1\xd9\xa9\xd9\xa1\xd9\xa3", "rosa", "canina");
    check_species("rosa", "canina \xc2\xb2\xc2\xb2\xc2\xb2\xc2\xb2", "rosa",
                  "canina \xc2\xb2\xc2\xb2\xc2\xb2\xc2\xb2");         /* no decimal digits */
    check_species("rosa", "  Canina  Alba ", "rosa", "canina  alba"); /* inner blanks stay */
    check_species("rosa",
                  "\xc2\xa0"
                  "canina\xe3\x80\x80",
                  "rosa", "canina"); /* white space */
}

static void genus_leaves_the_species(void **state) {
    (void)state;
    check_species("Pica", "Pica pica", "pica", "pica");
    check_species("Pica", "pica  hudsonia", "pica", "hudsonia");
    check_species("Pica", "pica", "pica", "pica");
    check_species("Pica", "pica pica pica", "pica", "pica"); /* the rest says it twice */
    check_species("", "Pica hudsonia", "pica", "hudsonia");
    check_species("",
                  "Pica\xc2\xa0"
                  "hudsonia  alba",
                  "pica", "hudsonia alba");
    check_species("", "pica", "", "pica");
    check_species("", "pica pica", "pica", "pica");
    check_species("Corvus", "Pica hudsonia", "corvus", "pica hudsonia");
    check_species("Corvus", "pica  pica", "corvus", "pica");
    check_species("unknown", "Pica hudsonia", "pica", "hudsonia");
    check_species("", "unknown hudsonia", "", "hudsonia"); /* forgotten afterwards */
    check_species("", "pica pleasehelp", "pica", "");
}

static void tags_give_way(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"", ""},
        {"<i>Pica</i>", "Pica"},
        {"<i><b>Pica</b></i> pica", "Pica pica"},
        {"<i>Pica <i>pica</i></i> x", "Pica pica x"},
        {"<i class=\"a>b\">Pica</i>", "b\">Pica"}, /* the nearest '>' ends a tag */
        {"<i></i>", ""},
        {"<i>Pi\nca</i>", "<i>Pi\nca</i>"}, /* a pair lies within a line */
        {"<i>Pi\nca <b>x</b>", "<i>Pi\nca x"},
        {"a < b > c", "a < b > c"},
        {"<i>Pica", "<i>Pica"},
        {"Pica</i>", "Pica</i>"},
        {"<<a></b>/c>", "/c>"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        char *text = NULL;
        assert_int_equal(cps_taxon_strip_html(pairs[i][0], &text), CPS_OK);
        assert_string_equal(text, pairs[i][1]);
        free(text);
    }
    check_species("<i>Rosa</i>", "<i>Rosa</i> canina", "rosa", "canina");
    /* A sigma is final once the tag behind it has gone, not before. */
    check_species("\xce\x91\xce\xa3<i></i>", "x", "\xce\xb1\xcf\x82", "x");
    check_species("\xce\x91\xce\xa3<i>\xce\x92</i>", "x", "\xce\xb1\xcf\x83\xce\xb2", "x");
    /* A line break that joining the words took out lets a pair be seen. */
    check_species("rosa", "rosa <i>can\nina</i>", "rosa", "can ina");
}

static void kingdoms_have_synonyms(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"Metazoa", "animalia"},
        {"ARCHAEPLASTIDA", "plantae"},
        {"chloroplastida", "plantae"},
        {" Metazoa", " metazoa"},
        {"Fungi", "fungi"},
        {"<i>Metazoa</i>", "animalia"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        cps_taxon *taxon = clean((const char *const[RANKS]){pairs[i][0]}, NULL);
        assert_string_equal(taxon->ranks[0], pairs[i][1]);
        free(taxon);
    }
}

static void records_without_names(void **state) {
    (void)state;
    assert_null(clean((const char *const[RANKS]){0}, "a stone"));
    assert_null(clean((const char *const[RANKS]){"", "", "", "", "", "", ""}, NULL));
    assert_null(clean((const char *const[RANKS]){"Unknown", "(unidentified)", "PLEASEHELP",
                                                 "<i>unknown</i>", "", "", " (x)"},
                      NULL));
    cps_taxon *blank = clean((const char *const[RANKS]){" "}, NULL); /* as published */
    assert_int_equal(cps_taxon_known(blank), 1);
    free(blank);
}

static const char *const epomis[RANKS] = {"Animalia",  "ARTHROPODA",    "insecta",       "",
                                          "carabidae", "\xc3\xa9pomis", "Sp. abc(GT 12)"};

static void check_caption(const cps_taxon *taxon, const char *type, bool clean_texts,
                          const char *wanted) {
    char *text = NULL;
    assert_int_equal(cps_taxon_caption(taxon, type, clean_texts, &text), CPS_OK);
    assert_string_equal(text, wanted);
    free(text);
}

static void captions_of_all_types(void **state) {
    (void)state;
#define LINEAGE "Animalia Arthropoda Insecta Carabidae \xc3\x89pomis sp. abc"
#define TAGGED                                                                                     \
    "kingdom Animalia phylum Arthropoda class Insecta family Carabidae genus \xc3\x89pomis "       \
    "species sp. abc"
    static const char *const wanted[] = {
        "a photo of \xc3\x89pomis sp. abc.",
        "a photo of  a Beetle.",
        "a photo of " LINEAGE ".",
        "a photo of \xc3\x89pomis sp. abc with common name  a Beetle.",
        "a photo of " LINEAGE " with common name  a Beetle.",
        "a photo of " TAGGED ".",
        "a photo of " TAGGED " with common name  a Beetle.",
        "\xc3\x89pomis sp. abc",
        LINEAGE,
        " a Beetle",
    };
    cps_taxon *taxon = clean(epomis, " a Beetle");
    for (size_t i = 0; cps_taxon_types[i] != NULL; i++) {
        check_caption(taxon, cps_taxon_types[i], false, wanted[i]);
        check_caption(taxon, cps_taxon_types[i], true, wanted[i]);
    }
    check_caption(taxon, "taxontag", false, wanted[5]); /* as readers of the tars ask for it */
    char *text = NULL;
    assert_int_equal(cps_taxon_caption(taxon, "latin", false, &text), CPS_ERR_USAGE);
    assert_null(text);
    free(taxon);
}

/* A family and no common name: as published, then clean. */
static void captions_of_little_known(void **state) {
    (void)state;
    static const char *const wanted[][3] = {
        {"sci", "a photo of .", "a photo of Cecidomyiidae."},
        {"com", "a photo of Animalia Cecidomyiidae.", "a photo of Cecidomyiidae."},
        {"taxon", "a photo of Animalia Cecidomyiidae.", "a photo of Animalia Cecidomyiidae."},
        {"sci_com", "a photo of  with common name Animalia Cecidomyiidae.",
         "a photo of Cecidomyiidae."},
        {"taxon_com", "a photo of Animalia Cecidomyiidae with common name Animalia Cecidomyiidae.",
         "a photo of Animalia Cecidomyiidae."},
        {"taxonTag_com",
         "a photo of kingdom Animalia family Cecidomyiidae with common name Animalia "
         "Cecidomyiidae.",
         "a photo of kingdom Animalia family Cecidomyiidae."},
        {"scientific_name", "", "Cecidomyiidae"},
        {"common_name", "Animalia Cecidomyiidae", "Cecidomyiidae"},
    };
    cps_taxon *taxon = clean((const char *const[RANKS]){"animalia", [4] = "cecidomyiidae"}, "");
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        check_caption(taxon, wanted[i][0], false, wanted[i][1]);
        check_caption(taxon, wanted[i][0], true, wanted[i][2]);
    }
    free(taxon);
}

static void captions_collapse_blanks(void **state) {
    (void)state;
    cps_taxon *taxon = clean(
        (const char *const[RANKS]){
            " metazoa", "a\t b",
            "\xc5\x89"
            "c",
            [CPS_TAXON_GENUS] = " rosa", [CPS_TAXON_SPECIES] = "alba  x\xc2\xa0y"},
        NULL);
    /* A blank in front keeps a rank small; a scientific name begins with a capital all the same. */
    check_caption(taxon, "taxonomic_name", false, "metazoa A b \xca\xbcNc rosa alba x y");
    check_caption(taxon, "scientific_name", false, "Rosa alba x y");
    check_caption(taxon, "taxonTag", false,
                  "a photo of kingdom  metazoa phylum A\t b class \xca\xbcNc genus  rosa species "
                  "alba  x\xc2\xa0y.");
    free(taxon);
    taxon = clean((const char *const[RANKS]){[CPS_TAXON_GENUS] = "\xef\xac\x81"
                                                                 "cus"},
                  NULL); /* a ligature */
    check_caption(taxon, "sci", false, "a photo of Ficus.");
    free(taxon);
}

static void classes_are_paths(void **state) {
    (void)state;
    static const char *const wanted[RANKS] = {
        "Animalia",
        "AnimaliaArthropoda",
        "AnimaliaArthropodaInsecta",
        "AnimaliaArthropodaInsecta",
        "AnimaliaArthropodaInsectaCarabidae",
        "AnimaliaArthropodaInsectaCarabidae\xc3\x89pomis",
        "AnimaliaArthropodaInsectaCarabidae\xc3\x89pomissp. abc",
    };
    cps_taxon *taxon = clean(epomis, NULL);
    assert_int_equal(cps_taxon_known(taxon), 0x77);
    for (int32_t rank = 0; rank < RANKS; rank++) {
        char *path = NULL;
        assert_int_equal(cps_taxon_path(taxon, rank, &path), CPS_OK);
        assert_string_equal(path, wanted[rank]);
        free(path);
    }
    free(taxon);
    assert_int_equal(cps_taxon_rank("class"), 2);
    assert_int_equal(cps_taxon_rank("cls"), 2);
    assert_int_equal(cps_taxon_rank("species"), CPS_TAXON_SPECIES);
    assert_int_equal(cps_taxon_rank("tribe"), -1);
}

static void check_evaluation(const cps_taxon_fields *fields, const char *const wanted[6]) {
    for (size_t i = 0; i < 6; i++) {
        char *text = NULL;
        assert_int_equal(cps_taxon_evaluation_text(fields, cps_taxon_evaluation_types[i], &text),
                         CPS_OK);
        if (wanted[i] == NULL) {
            assert_null(text);
        } else {
            assert_non_null(text);
            assert_string_equal(text, wanted[i]);
        }
        free(text);
    }
}

static void evaluation_strings(void **state) {
    (void)state;
    const cps_taxon_fields dog = {.ranks = {"ANIMALIA", [4] = "canidae", "canis", "Lupus"},
                                  .subspecies = "Familiaris",
                                  .common = "dog",
                                  .as_is = "n02084071 Dog"};
    check_evaluation(&dog, (const char *const[]){
                               "n02084071 Dog", "Canis lupus familiaris",
                               "Animalia    Canidae Canis lupus familiaris", "dog",
                               "Canis lupus familiaris with common name dog",
                               "Animalia    Canidae Canis lupus familiaris with common name dog"});
    const cps_taxon_fields reptiles = {.ranks = {"Animalia", "Chordata"}, .common = "reptiles"};
    check_evaluation(&reptiles,
                     (const char *const[]){NULL, NULL, "Animalia Chordata     ", "reptiles", NULL,
                                           "Animalia Chordata      with common name reptiles"});
    const cps_taxon_fields species = {.ranks = {[CPS_TAXON_SPECIES] = "<i>Citrifolia</i> L."}};
    check_evaluation(&species,
                     (const char *const[]){NULL, " <i>citrifolia</i> l.", " <i>citrifolia</i> l.",
                                           "", " <i>citrifolia</i> l.", " <i>citrifolia</i> l."});
    const cps_taxon_fields genus = {.ranks = {[CPS_TAXON_GENUS] = "\xc3\xa9POMIS"}};
    check_evaluation(&genus, (const char *const[]){NULL, "\xc3\x89pomis", "\xc3\x89pomis ", "",
                                                   "\xc3\x89pomis", "\xc3\x89pomis "});
    char *text = NULL;
    assert_int_equal(cps_taxon_evaluation_text(&genus, "taxonTag", &text), CPS_ERR_USAGE);
}

static void check_tol200m(const cps_taxon_fields *fields, const char *const wanted[5]) {
    for (size_t i = 0; i < 5; i++) {
        char *text = NULL;
        assert_int_equal(cps_taxon_tol200m_text(fields, cps_taxon_tol200m_types[i], &text), CPS_OK);
        assert_string_equal(text, wanted[i]);
        free(text);
    }
}

static void texts_of_tree_of_life_200m(void **state) {
    (void)state;
    const cps_taxon_fields wolf = {
        .ranks = {"Animalia", "UNKNOWN", [CPS_TAXON_GENUS] = "canis", "Canis lupus Familiaris "},
        .scientific = "Canis lupus (L., 1758)..."};
    assert_int_equal(cps_taxon_tol200m_rank(&wolf), CPS_TAXON_SPECIES);
    check_tol200m(
        &wolf, (const char *const[]){"a photo of Canis lupus (L., 1758).",
                                     "a photo of Animalia canis Familiaris.",
                                     "a photo of kingdom Animalia genus canis species Familiaris.",
                                     "Canis lupus (L., 1758)", "Animalia canis Familiaris"});
    const cps_taxon_fields one_word = {.ranks = {[CPS_TAXON_SPECIES] = "lupus"}};
    assert_int_equal(cps_taxon_tol200m_rank(&one_word), CPS_TAXON_SPECIES);
    check_tol200m(&one_word, (const char *const[]){"a photo of lupus.", "a photo of .",
                                                   "a photo of unknown taxonomy.", "lupus", ""});
    const cps_taxon_fields nothing = {.ranks = {"Unknown"}};
    assert_int_equal(cps_taxon_tol200m_rank(&nothing), -1);
    check_tol200m(&nothing, (const char *const[]){"a photo of Unknown.", "a photo of .",
                                                  "a photo of unknown taxonomy.", "Unknown", ""});
}

/* Everything that can be made of the fields; ranks come out as valid UTF-8, whatever came in. */
static void make_everything(const cps_taxon_fields *fields) {
    cps_taxon *taxon = NULL;
    char *text = NULL;
    assert_int_equal(cps_taxon_clean(fields, &taxon), CPS_OK);
    for (int32_t rank = 0; taxon != NULL && rank < RANKS; rank++) {
        assert_true(cps_utf8_is_valid(taxon->ranks[rank], strlen(taxon->ranks[rank])));
        assert_int_equal(cps_taxon_rank_text(taxon, rank, &text), CPS_OK);
        assert_true(cps_utf8_is_valid(text, strlen(text)));
        free(text);
    }
    for (size_t i = 0; taxon != NULL && cps_taxon_types[i] != NULL; i++) {
        assert_int_equal(cps_taxon_caption(taxon, cps_taxon_types[i], i % 2 == 0, &text), CPS_OK);
        assert_true(strcmp(cps_taxon_types[i], "taxonomic_name") != 0 ||
                    strstr(text, "  ") == NULL);
        free(text);
    }
    for (size_t i = 0; cps_taxon_evaluation_types[i] != NULL; i++) {
        assert_int_equal(cps_taxon_evaluation_text(fields, cps_taxon_evaluation_types[i], &text),
                         CPS_OK);
        free(text);
    }
    for (size_t i = 0; cps_taxon_tol200m_types[i] != NULL; i++) {
        assert_int_equal(cps_taxon_tol200m_text(fields, cps_taxon_tol200m_types[i], &text), CPS_OK);
        free(text);
    }
    free(taxon);
}

/* A megabyte of what might take time by its square. */
static void long_texts(void **state) {
    (void)state;
    static const char *const bits[] = {"a",          "<",      "<a>", "<a></b>", "</",
                                       ">",          " ",      "a, ", "a & ",    "a, b & ",
                                       "12 ",        "a 123 ", "(",   " b",      "\xc3\xa9",
                                       "\xc3\xa9, ", "\xff",   "\n",  "<i>\n"};
    enum { BYTES = 1 << 20 };
    char *text = malloc(BYTES + 16);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        const size_t length = strlen(bits[i]);
        size_t used = 0;
        for (; used < BYTES; used += length) {
            memcpy(text + used, bits[i], length);
        }
        text[used] = '\0';
        cps_taxon *taxon = clean((const char *const[RANKS]){[CPS_TAXON_SPECIES] = text}, NULL);
        free(taxon);
        text[BYTES / 16] = '\0';
        make_everything(&(cps_taxon_fields){.ranks = {text, [CPS_TAXON_SPECIES] = text}});
    }
    free(text);
}

/* Each pass over this takes out one pair and makes the next: n passes, were it not for the limit,
 * which short texts do not meet. */
static void nested_tags(void **state) {
    (void)state;
    static const size_t counts[] = {3, 1000, 100000};
    for (size_t i = 0; i < 3; i++) {
        const size_t n = counts[i];
        char *text = malloc(7 * n + 8), *at = text, *stripped = NULL;
        assert_non_null(text);
        for (size_t k = 0; k < n; k++, at += 3) {
            memcpy(at, "<a>", 3);
        }
        memset(at, '<', n);
        memcpy(at + n, "</b>", 4);
        at += n + 4;
        for (size_t k = 0; k < n; k++, at += 3) {
            memcpy(at, "/b>", 3);
        }
        *at = '\0';
        assert_int_equal(cps_taxon_strip_html(text, &stripped), CPS_OK);
        if (n < 100000) { /* n '<' are left, and one "/b>" that no '<' stood before */
            assert_int_equal(strlen(stripped), 4);
            assert_string_equal(stripped, "</b>");
        }
        free(stripped);
        free(text);
    }
}

static void random_bytes(void **state) {
    (void)state;
    static const char *const bits[] = {
        "Rosa",     " ",        "  ",      "<i>",  "</i>",     "(",        "L.",
        " & ",      ", ",       "1913",    "ssp.", "\xce\xa3", "\xc4\xb0", "\xff",
        "\xe2\x80", "\xc2\xa0", "unknown", "\n",   "<",        ">",        "\xef\xac\x83"};
    cps_mt19937 generator;
    cps_mt19937_seed_integer(&generator, 12);
    for (int round = 0; round < 4000; round++) {
        char texts[9][80];
        cps_taxon_fields fields = {.common = texts[7], .subspecies = texts[8]};
        for (int k = 0; k < 9; k++) {
            size_t used = 0;
            const uint32_t parts = cps_mt19937_below(&generator, 7);
            for (uint32_t part = 0; part < parts; part++) {
                if (cps_mt19937_below(&generator, 4) == 0) {
                    texts[k][used++] = (char)(1 + cps_mt19937_below(&generator, 255));
                } else {
                    const uint32_t bit = cps_mt19937_below(&generator, sizeof bits / sizeof *bits);
                    used += (size_t)snprintf(texts[k] + used, 10, "%s", bits[bit]);
                }
            }
            texts[k][used] = '\0';
        }
        for (int k = 0; k < RANKS; k++) {
            fields.ranks[k] = texts[k];
        }
        fields.scientific = texts[CPS_TAXON_SPECIES];
        make_everything(&fields);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(species_lose_what_is_behind_them),
        cmocka_unit_test(genus_leaves_the_species),
        cmocka_unit_test(tags_give_way),
        cmocka_unit_test(kingdoms_have_synonyms),
        cmocka_unit_test(records_without_names),
        cmocka_unit_test(captions_of_all_types),
        cmocka_unit_test(captions_of_little_known),
        cmocka_unit_test(captions_collapse_blanks),
        cmocka_unit_test(classes_are_paths),
        cmocka_unit_test(evaluation_strings),
        cmocka_unit_test(texts_of_tree_of_life_200m),
        cmocka_unit_test(long_texts),
        cmocka_unit_test(nested_tags),
        cmocka_unit_test(random_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
