/* From probabilities to what is reported: best classes, sums over groups, bins, subsets, names. */
#include "eval/classifier.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/pool.h"
#include "eval/choices.h"
#include "eval/outcome_rows.h"
#include "tensor/gemm.h"
#include "tensor/rows.h"

static char path[64];

static int make_name(void **state) {
    (void)state;
    strcpy(path, "/tmp/cps-classes-XXXXXX");
    const int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

static void write_text(const char *text) {
    assert_int_equal(cps_file_write_atomic(path, text, strlen(text)), CPS_OK);
}

static void expect_message(cps_status got, cps_status want, const char *part) {
    assert_int_equal(got, want);
    if (strstr(cps_fail_message(), part) == NULL) {
        fail_msg("'%s' is not in '%s'", part, cps_fail_message());
    }
}

/* ---- the k best ---- */

/* A sequence without a pattern, values repeat often. */
static cps_real some_value(int64_t i) {
    return (cps_real)((i * 7919 + i / 3 * 104729) % 97) / (cps_real)97;
}

static void check_best(const cps_real *values, int64_t count, int64_t k) {
    cps_ranked *best = calloc((size_t)k + 1, sizeof *best);
    bool *taken = calloc((size_t)count + 1, sizeof *taken);
    const int64_t got = cps_rank_classes(values, count, k, best);
    assert_int_equal(got, k < count ? k : count);
    for (int64_t place = 0; place < got; place++) {
        int64_t wanted = -1; /* the first of the largest that are left */
        for (int64_t i = 0; i < count; i++) {
            if (!taken[i] && (wanted < 0 || values[i] > values[wanted])) {
                wanted = i;
            }
        }
        taken[wanted] = true;
        assert_int_equal(best[place].index, wanted);
        assert_true(best[place].score == (double)values[wanted]);
    }
    free(taken);
    free(best);
}

static void test_best_classes(void **state) {
    (void)state;
    static const int64_t counts[] = {1, 2, 31, 32, 33, 64, 500}, ks[] = {1, 2, 5, 32, 33, 64, 1000};
    cps_real values[500];
    for (int64_t i = 0; i < 500; i++) {
        values[i] = some_value(i);
    }
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        for (size_t k = 0; k < sizeof ks / sizeof ks[0]; k++) {
            check_best(values, counts[c], ks[k]);
        }
    }
    for (int64_t i = 0; i < 500; i++) {
        values[i] = (cps_real)0.25; /* ties alone */
    }
    check_best(values, 500, 7);
    check_best(values, 500, 400);
}

/* ---- groups ---- */

static void test_groups(void **state) {
    (void)state;
    enum { CLASSES = 70, GROUPS = 4 };
    cps_real p[CLASSES] = {0};
    int32_t of[CLASSES];
    for (int32_t i = 0; i < CLASSES; i++) {
        of[i] = i % GROUPS;
    }
    p[1] = (cps_real)0.125;  /* group 1 */
    p[66] = (cps_real)0.25;  /* group 2, in the last, short block */
    p[38] = (cps_real)0.125; /* group 2 */
    p[5] = (cps_real)0.125;  /* group 1 */
    p[3] = (cps_real)0.25;   /* group 3 */
    cps_group_room room;
    cps_ranked best[GROUPS];
    assert_int_equal(cps_group_room_create(GROUPS, &room), CPS_OK);
    for (int again = 0; again < 2; again++) { /* the room is as before */
        assert_int_equal(cps_rank_groups(p, CLASSES, of, 1e-9, 5, &room, best), 3);
        assert_int_equal(best[0].index, 2);
        assert_true(best[0].score == 0.375);
        /* equal sums: group 1 has the first class */
        assert_int_equal(best[1].index, 1);
        assert_int_equal(best[2].index, 3);
        assert_true(best[1].score == 0.25 && best[2].score == 0.25);
    }
    assert_int_equal(cps_rank_groups(p, CLASSES, of, 1e-9, 2, &room, best), 2);
    /* "above" min_prob, not "from" it */
    assert_int_equal(cps_rank_groups(p, CLASSES, of, 0.125, 5, &room, best), 2);
    assert_int_equal(best[0].index, 3);
    assert_int_equal(best[1].index, 2);
    assert_true(best[1].score == 0.25);
    /* exactly one class above it, then none */
    p[3] = (cps_real)0.5;
    assert_int_equal(cps_rank_groups(p, CLASSES, of, 0.25, 5, &room, best), 1);
    assert_int_equal(best[0].index, 3);
    assert_int_equal(cps_rank_groups(p, CLASSES, of, 0.5, 5, &room, best), 0);
    /* all groups, the empty one too */
    assert_int_equal(cps_rank_all_groups(p, CLASSES, of, 9, &room, best), GROUPS);
    assert_int_equal(best[3].index, 0);
    assert_true(best[3].score == 0.0);
    cps_group_room_free(&room);
}

static void test_softmax(void **state) {
    (void)state;
    cps_real x[3] = {0, (cps_real)log(2.0), (cps_real)-1e4};
    cps_row_softmax(3, x);
    assert_true(fabs((double)x[0] - 1.0 / 3.0) < 1e-6 && fabs((double)x[1] - 2.0 / 3.0) < 1e-6);
    assert_true(x[2] == 0);
    enum { MANY = 1 << 20 };
    cps_real *even = calloc(MANY, sizeof *even);
    cps_row_softmax(MANY, even);
    assert_true(even[0] == (cps_real)(1.0 / MANY) && even[MANY - 1] == even[0]);
    free(even);
}

/* ---- taxa ---- */

static const char *const bears[][CPS_TAXON_FIELDS] = {
    {"Animalia", "Chordata", "Mammalia", "Carnivora", "Ursidae", "Ursus", "arctos", "brown bear"},
    {"Animalia", "Chordata", "", "Carnivora", "Ursidae", "Ursus", "spelaeus", ""},
    {"Plantae", "Chordata", "Mammalia", "Carnivora", "Ursidae", "Ursus", "arctos", "homonym"},
    {"Animalia", "Chordata", "Mammalia", "Carnivora", "Ursidae", "Ursus", "maritimus", "polar"},
};
enum { BEARS = 4 };

static void make_bears(cps_class_names *names) {
    cps_class_names_init(names, true);
    for (int i = 0; i < BEARS; i++) {
        assert_int_equal(cps_class_names_add(names, bears[i]), CPS_OK);
    }
}

static void test_groups_of_ranks(void **state) {
    (void)state;
    static const int32_t kingdom[] = {0, 0, 1, 0}, genus[] = {0, 1, 2, 0};
    cps_class_names names;
    cps_class_groups groups;
    make_bears(&names);
    assert_int_equal(cps_class_groups_of_rank(&names, 0, &groups), CPS_OK);
    assert_int_equal(groups.count, 2);
    assert_memory_equal(groups.of, kingdom, sizeof kingdom);
    assert_int_equal(groups.first[1], 2);
    cps_class_groups_free(&groups);
    /* a gap and another kingdom keep equal genera apart */
    assert_int_equal(cps_class_groups_of_rank(&names, CPS_TAXON_GENUS, &groups), CPS_OK);
    assert_int_equal(groups.count, 3);
    assert_memory_equal(groups.of, genus, sizeof genus);
    cps_class_groups_free(&groups);
    cps_class_names_free(&names);
}

static void test_names(void **state) {
    (void)state;
    cps_class_names names;
    make_bears(&names);
    assert_string_equal(cps_class_name(&names, 3, CPS_NAME_COMMON), "polar");
    char *text = cps_class_short_name(&names, 1);
    assert_string_equal(text, "Ursus spelaeus");
    free(text);
    text = cps_class_long_name(&names, 1);
    assert_string_equal(text, "Animalia Chordata Carnivora Ursidae Ursus spelaeus");
    free(text);
    char **texts = NULL;
    assert_int_equal(cps_class_texts(&names, "ranks", &texts), CPS_OK);
    assert_string_equal(texts[1], "Animalia Chordata");
    cps_strings_destroy(texts, names.count);
    assert_int_equal(cps_class_texts(&names, "ranks_com", &texts), CPS_OK);
    assert_string_equal(texts[1], "Animalia Chordata  Carnivora Ursidae Ursus spelaeus ");
    cps_strings_destroy(texts, names.count);
    assert_int_equal(cps_class_texts(&names, "taxon_com", &texts), CPS_OK);
    assert_string_equal(texts[3], "Animalia Chordata Mammalia Carnivora Ursidae Ursus maritimus "
                                  "with common name polar");
    cps_strings_destroy(texts, names.count);
    expect_message(cps_class_texts(&names, "com", &texts), CPS_ERR_USAGE, "taxon 2");
    expect_message(cps_class_texts(&names, "taxi", &texts), CPS_ERR_USAGE, "taxi");
    const uint64_t digest = cps_class_names_digest(&names);
    const int64_t kept[] = {1, 3};
    assert_int_equal(cps_class_names_keep(&names, kept, 2), CPS_OK);
    assert_int_equal(names.count, 2);
    assert_string_equal(cps_class_name(&names, 1, CPS_TAXON_SPECIES), "maritimus");
    assert_true(cps_class_names_digest(&names) != digest);
    cps_class_names_free(&names);
}

/* Enough classes that every table grows. */
static void test_many_names(void **state) {
    (void)state;
    cps_class_names names;
    cps_class_names_init(&names, false);
    char text[32];
    for (int i = 0; i < 20000; i++) {
        snprintf(text, sizeof text, "label %d", i);
        assert_int_equal(cps_class_names_add_label(&names, text, "here"), CPS_OK);
    }
    assert_int_equal(names.texts, 20000);
    assert_int_equal(cps_class_names_find(&names, "label 12345"), 12345);
    assert_int_equal(cps_class_names_find(&names, "label 20000"), -1);
    assert_string_equal(cps_class_name(&names, 19999, 0), "label 19999");
    cps_class_names_free(&names);
}

/* ---- files ---- */

static void test_labels_of_a_file(void **state) {
    (void)state;
    cps_class_names names;
    write_text("\xef\xbb\xbf  oak, old \r\n\n\"quoted\"\nm\xc3\xa9l\xc3\xa8ze\xc2\xa0\n");
    assert_int_equal(cps_class_names_read_labels(path, &names), CPS_OK);
    assert_int_equal(names.count, 3);
    assert_string_equal(cps_class_name(&names, 0, 0), "oak, old");
    assert_string_equal(cps_class_name(&names, 1, 0), "\"quoted\"");
    assert_string_equal(cps_class_name(&names, 2, 0), "m\xc3\xa9l\xc3\xa8ze");
    cps_class_names_free(&names);
    write_text("a\nb\n a\n");
    expect_message(cps_class_names_read_labels(path, &names), CPS_ERR_USAGE, ":3: the label 'a'");
    write_text("\n  \n");
    expect_message(cps_class_names_read_labels(path, &names), CPS_ERR_USAGE, "no label");
    write_text("a\xff\n");
    expect_message(cps_class_names_read_labels(path, &names), CPS_ERR_DATA, "UTF-8");
    expect_message(cps_class_names_read_labels("/nonexistent", &names), CPS_ERR_UNAVAILABLE,
                   "/nonexistent");
}

static void test_taxa_of_a_table(void **state) {
    (void)state;
    cps_class_names names;
    write_text("image,species,genus,family,order,cls,phylum,kingdom,class,common\n"
               "1.jpg,arctos,Ursus,Ursidae,Carnivora,Mammalia,Chordata,Animalia,bear A,\"brown, "
               "bear\"\n"
               "2.jpg,arctos,Ursus,Ursidae,Carnivora,Mammalia,Chordata,Animalia,bear B,other\n"
               "3.jpg,catus,Felis,Felidae,Carnivora,,Chordata,Animalia,cat,\n");
    assert_int_equal(cps_class_names_read_taxa(path, &names), CPS_OK);
    assert_int_equal(names.count, 2);
    assert_string_equal(cps_class_name(&names, 0, 2), "Mammalia");
    assert_string_equal(cps_class_name(&names, 0, CPS_NAME_COMMON), "brown, bear");
    assert_string_equal(cps_class_name(&names, 1, 2), "");
    cps_class_names_free(&names);
    write_text("kingdom,phylum,class,order,family,genus,species_epithet,species,common_name\n"
               "a,b,c,d,e,F,g,F g,h\n");
    assert_int_equal(cps_class_names_read_taxa(path, &names), CPS_OK);
    assert_string_equal(cps_class_name(&names, 0, CPS_TAXON_SPECIES), "g");
    cps_class_names_free(&names);
    write_text("kingdom,phylum,class,family,genus,species\na,b,c,d,e,f\n");
    expect_message(cps_class_names_read_taxa(path, &names), CPS_ERR_USAGE, "no column 'order'");
}

static void test_published_names(void **state) {
    (void)state;
    cps_class_names names;
    write_text(" [ [[\"a\",\"b\",\"\",\"d\",\"e\",\"F\",\"g]\\\"[\"],\"caf\\u00e9\"],\n"
               "[[\"a\",\"b\",\"c\",\"d\",\"e\",\"F\",\"h\"],\"\"] ] ");
    assert_int_equal(cps_class_names_read_json(path, &names), CPS_OK);
    assert_int_equal(names.count, 2);
    assert_string_equal(cps_class_name(&names, 0, CPS_TAXON_SPECIES), "g]\"[");
    assert_string_equal(cps_class_name(&names, 0, CPS_NAME_COMMON), "caf\xc3\xa9");
    cps_class_names_free(&names);
    static const char *const wrong[] = {
        "",
        "{}",
        "[",
        "[]",
        "[1]",
        "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\"],\"six\"]]",
        "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",7],\"number\"]]",
        "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"],null]]",
        "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"],\"x\"] [[]]]",
        "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"],\"x\"],]",
        "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"],\"x\"]",
        "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"],\"x\"]] more",
        "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"],\"x",
        "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"],\"x\\",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        write_text(wrong[i]);
        assert_int_equal(cps_class_names_read_json(path, &names), CPS_ERR_DATA);
    }
}

static void test_bins(void **state) {
    (void)state;
    cps_class_names labels;
    cps_bins bins;
    static const int32_t of[] = {0, 1, 0};
    write_text("class,bin\nwolf,dogs\n\"cat, house\",cats\nfox,dogs\n");
    cps_class_names_init(&labels, false);
    assert_int_equal(cps_bins_read(path, &labels, &bins), CPS_OK);
    assert_int_equal(labels.count, 3);
    assert_string_equal(cps_class_name(&labels, 1, 0), "cat, house");
    assert_int_equal(bins.groups.count, 2);
    assert_memory_equal(bins.groups.of, of, sizeof of);
    assert_string_equal(cps_class_name(&bins.names, 1, 0), "cats");
    cps_bins_free(&bins);
    /* labels that are there already: theirs is the order, all of them need a bin */
    write_text("class,bin\nfox,red\nwolf,grey\nbear,brown\n\"cat, house\",grey\n");
    assert_int_equal(cps_bins_read(path, &labels, &bins), CPS_OK);
    static const int32_t again[] = {0, 0, 1};
    assert_memory_equal(bins.groups.of, again, sizeof again);
    assert_string_equal(cps_class_name(&bins.names, 0, 0), "grey");
    cps_bins_free(&bins);
    write_text("class,bin\nfox,red\n");
    expect_message(cps_bins_read(path, &labels, &bins), CPS_ERR_USAGE,
                   "2 labels have no line that says their bin: 'wolf', 'cat, house'");
    write_text("class,bin\nfox, \n");
    expect_message(cps_bins_read(path, &labels, &bins), CPS_ERR_USAGE, ":2: the bin of 'fox'");
    write_text("class,bin\nfox,a\nfox,b\n");
    expect_message(cps_bins_read(path, &labels, &bins), CPS_ERR_USAGE, "'fox' is there twice");
    write_text("class,bin,more\nfox,a,b\n");
    expect_message(cps_bins_read(path, &labels, &bins), CPS_ERR_USAGE, "3 columns, two");
    cps_class_names_free(&labels);
}

static void test_subsets(void **state) {
    (void)state;
    cps_class_names names, labels;
    int64_t *chosen = NULL, count = 0;
    make_bears(&names);
    write_text("species\nUrsus maritimus\nUrsus arctos\n");
    assert_int_equal(cps_subset_read(path, &names, &chosen, &count), CPS_OK);
    assert_int_equal(count, 3); /* both that are called Ursus arctos */
    assert_true(chosen[0] == 0 && chosen[1] == 2 && chosen[2] == 3);
    free(chosen);
    write_text("kingdom,note\nPlantae,x\nPlantae,y\n");
    assert_int_equal(cps_subset_read(path, &names, &chosen, &count), CPS_OK);
    assert_int_equal(count, 1);
    free(chosen);
    write_text("class,note\n\"\",a gap is a value\n");
    assert_int_equal(cps_subset_read(path, &names, &chosen, &count), CPS_OK);
    assert_int_equal(count, 1);
    assert_int_equal(chosen[0], 1);
    free(chosen);
    write_text("kingdom\nPlantae\nFungi\nAnimal\n");
    expect_message(cps_subset_read(path, &names, &chosen, &count), CPS_ERR_USAGE,
                   "no taxon of the classifier has this kingdom: 'Fungi', 'Animal'");
    write_text("tribe\nUrsini\n");
    expect_message(cps_subset_read(path, &names, &chosen, &count), CPS_ERR_USAGE,
                   "'tribe', the name of a rank");
    cps_class_names_init(&labels, false);
    assert_int_equal(cps_class_names_add_label(&labels, "x", "here"), CPS_OK);
    expect_message(cps_subset_read(path, &labels, &chosen, &count), CPS_ERR_USAGE, "labels");
    cps_class_names_free(&labels);
    cps_class_names_free(&names);
}

/* ---- the whole classifier ---- */

enum { WIDTH = 3 };

static void rank_images(const cps_classifier *classifier, double scale, const cps_real *features,
                        int64_t rows, const cps_outcome_plan *plan, cps_outcome *outcomes,
                        cps_ranked *best) {
    const double weight = 1.0;
    cps_ranker *ranker = NULL;
    assert_int_equal(cps_ranker_create(classifier, &weight, scale, plan, rows, &ranker), CPS_OK);
    for (int again = 0; again < 2; again++) { /* nothing is left of the first */
        cps_ranker_run(ranker, features, outcomes, best);
    }
    cps_ranker_destroy(ranker);
}

/* Unit vectors; the last taxon points where the first does. */
static void make_classifier(cps_classifier *classifier) {
    static const cps_real values[BEARS][WIDTH] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 0, 0}};
    *classifier = (cps_classifier){
        .vectors = {.rows = BEARS, .width = WIDTH, .component_count = 1, .widths = {WIDTH}}};
    make_bears(&classifier->names);
    classifier->vectors.values = malloc(sizeof values);
    memcpy(classifier->vectors.values, values, sizeof values);
}

static void test_ranking(void **state) {
    (void)state;
    cps_classifier classifier;
    make_classifier(&classifier);
    const cps_real features[2][WIDTH] = {{1, 0, 0}, {0, 0, 1}};
    cps_class_groups groups[CPS_TAXON_RANKS];
    for (int32_t r = 0; r < CPS_TAXON_RANKS; r++) {
        assert_int_equal(cps_class_groups_of_rank(&classifier.names, r, &groups[r]), CPS_OK);
    }
    cps_outcome_plan plan = {.kind = CPS_OUTCOME_CLASSES, .k = 3, .min_prob = 1e-9};
    cps_outcome outcomes[2];
    cps_ranked best[2 * BEARS];
    rank_images(&classifier, log(10.0), features[0], 2, &plan, outcomes, best);
    /* scores 10, 1, 1, 10 of 22: equal ones in order */
    assert_int_equal(outcomes[0].count, 3);
    assert_int_equal(best[0].index, 0);
    assert_int_equal(best[1].index, 3);
    assert_int_equal(best[2].index, 1);
    assert_true(fabs(best[0].score - 10.0 / 22.0) < 1e-6);
    assert_int_equal(best[3].index, 2);
    plan = (cps_outcome_plan){
        .kind = CPS_OUTCOME_GROUPS, .k = 5, .min_prob = 1e-9, .groups = &groups[CPS_TAXON_GENUS]};
    cps_ranked grouped[2 * 5];
    rank_images(&classifier, log(10.0), features[0], 2, &plan, outcomes, grouped);
    assert_int_equal(outcomes[0].count, 3);
    assert_true(fabs(grouped[0].score - 20.0 / 22.0) < 1e-6);
    /* deepest rank: the species has 10 of 22, its genus 20; nothing has all */
    plan = (cps_outcome_plan){.kind = CPS_OUTCOME_DEEPEST,
                              .k = 1,
                              .min_prob = 1e-9,
                              .min_confidence = 0.9,
                              .rank = CPS_TAXON_SPECIES,
                              .groups = groups};
    rank_images(&classifier, log(10.0), features[0], 2, &plan, outcomes, best);
    assert_int_equal(outcomes[0].rank, CPS_TAXON_GENUS);
    assert_true(fabs(best[0].score - 20.0 / 22.0) < 1e-6);
    plan.min_confidence = 0.99;
    rank_images(&classifier, log(10.0), features[0], 1, &plan, outcomes, best);
    assert_int_equal(outcomes[0].rank, -1);
    cps_outcome_table table;
    cps_outcome_row row;
    cps_outcome_table_init(&classifier.names, &plan, plan.rank, NULL, &table);
    cps_outcome_row_fill(&table, "x.jpg", &outcomes[0], best, &row);
    assert_string_equal(row.cells[1], "");
    assert_string_equal(row.cells[2], "");
    assert_string_equal(row.cells[table.column_count - 1], row.score);
    cps_outcome_row_free(&row);
    for (int32_t r = 0; r < CPS_TAXON_RANKS; r++) {
        cps_class_groups_free(&groups[r]);
    }
    cps_classifier_free(&classifier);
}

static void test_a_subset_is_normalised_again(void **state) {
    (void)state;
    cps_classifier classifier;
    make_classifier(&classifier);
    const int64_t chosen[] = {1, 3};
    assert_int_equal(cps_classifier_keep(&classifier, chosen, 2), CPS_OK);
    const cps_real feature[WIDTH] = {1, 0, 0};
    const double weight = 1.0;
    const cps_outcome_plan plan = {.kind = CPS_OUTCOME_CLASSES, .k = 1};
    cps_ranker *ranker = NULL;
    assert_int_equal(cps_ranker_create(&classifier, &weight, log(3.0), &plan, 1, &ranker), CPS_OK);
    const cps_real *p = cps_ranker_probabilities(ranker, feature, 1);
    assert_true(fabs((double)p[0] - 0.25) < 1e-6 && fabs((double)p[1] - 0.75) < 1e-6);
    assert_string_equal(cps_class_name(&classifier.names, 1, CPS_NAME_COMMON), "polar");
    cps_ranker_destroy(ranker);
    cps_classifier_free(&classifier);
}

static void test_columns_without_direction(void **state) {
    (void)state;
    cps_classifier classifier;
    make_classifier(&classifier);
    assert_int_equal(cps_classifier_check(&classifier, "here"), CPS_OK);
    memset(classifier.vectors.values + WIDTH, 0, WIDTH * sizeof(cps_real));
    classifier.vectors.values[3 * WIDTH] = (cps_real)NAN;
    expect_message(cps_classifier_check(&classifier, "here"), CPS_ERR_DATA,
                   "here: 2 of 4 class vectors are zero or not finite: 2 'Animalia Chordata "
                   "Carnivora Ursidae Ursus spelaeus', 4 '");
    cps_classifier_free(&classifier);
}

/* The same bits on one thread and three. */
static void test_threads(void **state) {
    (void)state;
    enum { CLASSES = 3000, DIM = 24, ROWS = 5, K = 4 };
    cps_classifier classifier = {
        .vectors = {.rows = CLASSES, .width = DIM, .component_count = 1, .widths = {DIM}}};
    cps_class_names_init(&classifier.names, false);
    classifier.vectors.values = calloc(CLASSES * DIM, sizeof(cps_real));
    for (int64_t i = 0; i < CLASSES * DIM; i++) {
        classifier.vectors.values[i] = some_value(i) - (cps_real)0.5;
    }
    cps_real features[ROWS * DIM];
    for (int64_t i = 0; i < ROWS * DIM; i++) {
        features[i] = some_value(i * 31) - (cps_real)0.5;
    }
    const cps_outcome_plan plan = {.kind = CPS_OUTCOME_CLASSES, .k = K};
    cps_ranked best[2][ROWS * K];
    cps_outcome outcomes[ROWS];
    for (int32_t t = 0; t < 2; t++) {
        memset(best[t], 0, sizeof best[t]);
        assert_int_equal(cps_pool_start(1 + 2 * t), CPS_OK);
        rank_images(&classifier, 5.0, features, ROWS, &plan, outcomes, best[t]);
        cps_pool_stop();
    }
    assert_memory_equal(best[0], best[1], sizeof best[0]);
    cps_classifier_free(&classifier);
}

static int start(void **state) {
    cps_gemm_start();
    return make_name(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_classes),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_groups_of_ranks),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_many_names),
        cmocka_unit_test(test_labels_of_a_file),
        cmocka_unit_test(test_taxa_of_a_table),
        cmocka_unit_test(test_published_names),
        cmocka_unit_test(test_bins),
        cmocka_unit_test(test_subsets),
        cmocka_unit_test(test_ranking),
        cmocka_unit_test(test_a_subset_is_normalised_again),
        cmocka_unit_test(test_columns_without_direction),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, start, remove_file);
}
