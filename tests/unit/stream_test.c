/* Streams: every epoch is a permutation, subsets and complements part a set, mixtures keep their
 * shares at every place, sets reshuffle when used up, and wrong settings are refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data/stream.h"
#include "make_shards.h"

static cps_shard_pool *pool;

/* Records with ranks: kingdom, genus and species of each, NULL where it has none. */
typedef struct named {
    const char *kingdom, *genus, *species;
    bool captioned;
} named;
static const named organisms[] = {
    {"Animalia", "Pica", "hudsonia", true}, {NULL, NULL, NULL, true},
    {"unknown", "PleaseHelp", NULL, true},  {NULL, "(Unidentified)", "(Linnaeus)", true},
    {"<i></i>", NULL, NULL, true},          {"<b>Plantae</b>", NULL, NULL, false},
    {NULL, NULL, "bubo (L.)", true},        {"Fungi", NULL, NULL, true},
};
enum { ORGANISMS = sizeof organisms / sizeof organisms[0] };

static void make_taxa(const char *name, int64_t first, int64_t count, uint64_t first_id) {
    static const char *const fields[] = {"caption", "kingdom", "genus", "species"};
    static const char *const caption = "a picture";
    cps_shard_writer *writer = NULL;
    shards_must(cps_shard_writer_create(shard_path(name), fields, 4, NULL, 0, "test", &writer));
    for (int64_t i = first; i < first + count; i++) {
        const named *o = &organisms[i];
        const cps_record_text texts[] = {{"caption", o->captioned, &caption},
                                         {"kingdom", o->kingdom != NULL, &o->kingdom},
                                         {"genus", o->genus != NULL, &o->genus},
                                         {"species", o->species != NULL, &o->species}};
        const cps_record record = {.sample_id = first_id + (uint64_t)i,
                                   .bad_reason = "marked by the test",
                                   .label = -1,
                                   .text_field_count = 4,
                                   .texts = texts};
        shards_must(cps_shard_writer_append(writer, &record));
    }
    shards_must(cps_shard_writer_finish(writer));
}

static int start(void **state) {
    (void)state;
    shards_start();
    make_shard("a-0.h5", (shard_options){.count = 20, .no_images = true});
    make_shard("a-1.h5", (shard_options){.count = 13, .first_id = 100, .no_images = true});
    make_shard("b.h5",
               (shard_options){.count = 7, .first_id = 1000, .no_images = true, .field = "title"});
    make_shard("mute.h5",
               (shard_options){.count = 30, .first_id = 2000, .no_images = true, .mute_every = 3});
    make_shard("one.h5", (shard_options){.count = 1, .first_id = 3000, .no_images = true});
    make_taxa("taxa.h5", 0, ORGANISMS, 4000);
    make_taxa("nameless.h5", 1, 4, 5000);
    return cps_shard_pool_create(&pool) == CPS_OK ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    cps_shard_pool_destroy(pool);
    shards_end();
    return 0;
}

/* A set of one pattern in the folder. */
static cps_set_spec set_of(const char *name) {
    static char paths[16][128];
    static const char *patterns[16];
    static int next;
    next = (next + 1) % 16;
    snprintf(paths[next], sizeof paths[next], "%s", shard_path(name));
    patterns[next] = paths[next];
    return (cps_set_spec){.patterns = &patterns[next], .pattern_count = 1};
}

static cps_stream *make(const cps_set_spec *sets, int64_t count, int64_t epoch_samples,
                        bool needs_caption, uint64_t seed) {
    const cps_stream_spec spec = {
        .name = "paired", .sets = sets, .set_count = count, .epoch_samples = epoch_samples};
    cps_stream *all = NULL, *stream = NULL;
    if (cps_stream_create(&spec, seed, pool, &all) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    if (!needs_caption) {
        return all;
    }
    if (cps_stream_narrow(all, CPS_RECORD_CAPTION, &stream) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    cps_stream_destroy(all);
    return stream;
}

static uint64_t id_at(const cps_stream *stream, uint64_t epoch, int64_t position) {
    cps_place place;
    cps_stream_at(stream, epoch, position, &place);
    assert_true(cps_shard_sample_id(place.shard, place.record) == place.sample_id);
    return place.sample_id;
}

static void every_epoch_is_a_permutation(void **state) {
    (void)state;
    const cps_set_spec set = set_of("a-*.h5");
    cps_stream *stream = make(&set, 1, 0, false, 1), *same = make(&set, 1, 0, false, 1),
               *other = make(&set, 1, 0, false, 2);
    assert_int_equal(cps_stream_epoch_samples(stream), 33);
    assert_int_equal(cps_stream_bad_records(stream), 33);
    int moved = 0, differs = 0;
    for (uint64_t epoch = 0; epoch < 4; epoch++) {
        uint8_t seen[128] = {0};
        for (int64_t i = 0; i < 33; i++) {
            const uint64_t id = id_at(stream, epoch, i);
            assert_true(id < 20 || (id >= 100 && id < 113));
            assert_int_equal(seen[id]++, 0);
            assert_true(id == id_at(same, epoch, i));
            moved += id != id_at(stream, epoch + 1, i);
            differs += id != id_at(other, epoch, i);
        }
    }
    assert_true(moved > 100 && differs > 100);
    assert_true(cps_stream_digest(stream) == cps_stream_digest(same));
    cps_stream_destroy(stream);
    cps_stream_destroy(same);
    cps_stream_destroy(other);
}

static void names_key_the_order(void **state) {
    (void)state;
    const cps_set_spec set = set_of("a-*.h5");
    const cps_stream_spec spec = {.name = "unlabelled", .sets = &set, .set_count = 1};
    cps_stream *paired = make(&set, 1, 0, false, 1), *unlabelled = NULL;
    assert_int_equal(cps_stream_create(&spec, 1, pool, &unlabelled), CPS_OK);
    int differs = 0;
    for (int64_t i = 0; i < 33; i++) {
        differs += id_at(paired, 0, i) != id_at(unlabelled, 0, i);
    }
    assert_true(differs > 20);
    cps_stream_destroy(paired);
    cps_stream_destroy(unlabelled);
}

static void stored_order_is_that_of_the_files(void **state) {
    (void)state;
    cps_set_spec sets[2] = {set_of("b.h5"), set_of("a-*.h5")};
    cps_stream *stream = make(sets, 2, 0, false, 1);
    assert_int_equal(cps_stream_records(stream), 40);
    for (int64_t i = 0; i < 40; i++) {
        cps_place place;
        cps_stream_stored(stream, i, &place);
        const uint64_t wanted = i < 7    ? 1000 + (uint64_t)i
                                : i < 27 ? (uint64_t)i - 7
                                         : 100 + (uint64_t)i - 27;
        assert_true(place.sample_id == wanted);
        assert_int_equal(place.set, i < 7 ? 0 : 1);
    }
    cps_stream_destroy(stream);
}

static void subsets_and_their_rest_part_a_set(void **state) {
    (void)state;
    cps_set_spec some = set_of("a-*.h5"), rest = set_of("a-*.h5");
    some.fraction = 0.3;
    some.subset_seed = 5;
    cps_stream *drawn = make(&some, 1, 0, false, 1);
    assert_int_equal(cps_stream_records(drawn), 9); /* floor(33 * 0.3) */
    rest.rest_of = drawn;
    cps_stream *left = make(&rest, 1, 0, false, 1);
    assert_int_equal(cps_stream_records(left), 24);
    uint8_t seen[128] = {0};
    uint64_t before = 0;
    for (int64_t i = 0; i < 33; i++) {
        cps_place place;
        cps_stream_stored(i < 9 ? drawn : left, i < 9 ? i : i - 9, &place);
        assert_int_equal(seen[place.sample_id]++, 0);
        assert_true(i == 0 || i == 9 || place.sample_id > before);
        before = place.sample_id;
    }
    cps_stream_destroy(drawn);
    cps_stream_destroy(left);
}

static void subsets_follow_their_seed(void **state) {
    (void)state;
    cps_set_spec set = set_of("a-*.h5");
    set.count = 12;
    cps_stream *first = make(&set, 1, 0, false, 1), *second = make(&set, 1, 0, false, 99);
    assert_true(cps_stream_digest(first) ==
                cps_stream_digest(second)); /* the run's seed does not enter */
    set.subset_seed = 1;
    cps_stream *other = make(&set, 1, 0, false, 1);
    assert_true(cps_stream_digest(first) != cps_stream_digest(other));
    assert_int_equal(cps_stream_records(other), 12);
    cps_stream_destroy(first);
    cps_stream_destroy(second);
    cps_stream_destroy(other);
}

/* Splits that the published code prints for n = 10911. */
static void the_published_split(void **state) {
    (void)state;
    static const uint64_t FIRST[3][6] = {{1863, 2351, 5446, 6980, 7075, 10892},
                                         {640, 2900, 452, 5759, 6276, 10453},
                                         {3135, 3792, 4140, 5295, 5840, 7978}};
    make_shard("rsicd.h5", (shard_options){.count = 10911, .no_images = true});
    for (uint64_t seed = 0; seed < 3; seed++) {
        cps_set_spec set = set_of("rsicd.h5");
        set.count = 6;
        set.subset_seed = seed;
        set.draw = CPS_DRAW_MT19937;
        cps_stream *stream = make(&set, 1, 0, false, 1);
        for (int64_t i = 0; i < 6; i++) {
            cps_place place;
            bool wanted = false;
            cps_stream_stored(stream, i, &place);
            for (int k = 0; k < 6; k++) {
                wanted = wanted || FIRST[seed][k] == place.sample_id;
            }
            assert_true(wanted);
        }
        cps_stream_destroy(stream);
    }
    cps_set_spec tenth = set_of("rsicd.h5");
    tenth.fraction = 0.1;
    tenth.draw = CPS_DRAW_MT19937;
    cps_stream *stream = make(&tenth, 1, 0, false, 1);
    assert_int_equal(cps_stream_records(stream), 1091);
    cps_stream_destroy(stream);
}

static void mixtures_keep_their_shares_everywhere(void **state) {
    (void)state;
    static const double WEIGHTS[4] = {10, 3, 1, 0.5};
    cps_set_spec sets[4] = {set_of("a-0.h5"), set_of("a-1.h5"), set_of("b.h5"), set_of("one.h5")};
    for (int j = 0; j < 4; j++) {
        sets[j].weight = WEIGHTS[j];
    }
    enum { POSITIONS = 1000 };
    cps_stream *stream = make(sets, 4, POSITIONS, false, 3);
    assert_int_equal(cps_stream_epoch_samples(stream), POSITIONS);
    int64_t share = 0;
    for (int j = 0; j < 4; j++) {
        share += cps_stream_set_share(stream, j);
        assert_true(
            llabs(cps_stream_set_share(stream, j) - (int64_t)(POSITIONS * WEIGHTS[j] / 14.5)) <= 1);
    }
    assert_int_equal(share, POSITIONS);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        int64_t counts[4] = {0};
        for (int64_t i = 0; i < POSITIONS; i++) {
            cps_place place;
            cps_stream_at(stream, epoch, i, &place);
            counts[place.set]++;
            for (int j = 0; j < 4; j++) {
                const double wanted =
                    (double)(i + 1) * (double)cps_stream_set_share(stream, j) / POSITIONS;
                assert_true((double)counts[j] > wanted - 3 && (double)counts[j] < wanted + 3);
            }
        }
        for (int j = 0; j < 4; j++) {
            assert_int_equal(counts[j], cps_stream_set_share(stream, j));
        }
    }
    cps_stream_destroy(stream);
}

static void sets_reshuffle_when_used_up(void **state) {
    (void)state;
    cps_set_spec sets[2] = {set_of("a-1.h5"), set_of("b.h5")};
    sets[0].weight = sets[1].weight = 1;
    cps_stream *stream = make(sets, 2, 40, false, 3);
    uint64_t visits[2][64];
    int64_t count[2] = {0};
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        for (int64_t i = 0; i < 40; i++) {
            cps_place place;
            cps_stream_at(stream, epoch, i, &place);
            visits[place.set][count[place.set]++] = place.sample_id;
        }
    }
    static const int64_t SIZES[2] = {13, 7};
    for (int j = 0; j < 2; j++) {
        assert_int_equal(count[j], 40);
        int moved = 0;
        for (int64_t pass = 0; (pass + 1) * SIZES[j] <= count[j];
             pass++) { /* each pass shows every record once */
            uint8_t seen[2048] = {0};
            for (int64_t i = pass * SIZES[j]; i < (pass + 1) * SIZES[j]; i++) {
                assert_int_equal(seen[visits[j][i]]++, 0);
                moved += pass > 0 && visits[j][i] != visits[j][i - SIZES[j]];
            }
        }
        assert_true(moved > 3);
    }
    cps_stream_destroy(stream);
}

static void sizes_are_the_default_weights(void **state) {
    (void)state;
    cps_set_spec sets[2] = {set_of("a-*.h5"), set_of("b.h5")};
    cps_stream *stream = make(sets, 2, 0, false, 3);
    assert_int_equal(cps_stream_epoch_samples(stream), 40);
    assert_int_equal(cps_stream_set_share(stream, 0), 33);
    uint8_t seen[1024] = {0};
    for (int64_t i = 0; i < 40; i++) {
        assert_int_equal(seen[id_at(stream, 6, i)]++, 0);
    }
    cps_stream_destroy(stream);
    stream = make(sets, 2, 80, false, 3);
    assert_int_equal(cps_stream_set_share(stream, 0), 66);
    cps_stream_destroy(stream);
}

static void records_without_a_caption_are_left_out(void **state) {
    (void)state;
    const cps_set_spec set = set_of("mute.h5");
    cps_stream *all = make(&set, 1, 0, false, 1), *captioned = make(&set, 1, 0, true, 1);
    assert_int_equal(cps_stream_records(all), 30);
    assert_int_equal(cps_stream_left_out(all), 0);
    assert_int_equal(cps_stream_records(captioned), 20);
    assert_int_equal(cps_stream_left_out(captioned), 10);
    cps_set_spec rest = set_of("mute.h5");
    rest.rest_of = captioned; /* what the text stream cannot read is left for the others */
    cps_stream *others = make(&rest, 1, 0, false, 1);
    assert_int_equal(cps_stream_records(others), 10);
    cps_place place;
    cps_stream_stored(others, 0, &place);
    assert_true(place.sample_id == 2002);
    cps_set_spec titled = set_of("b.h5");
    titled.caption = "title";
    cps_stream *titles = make(&titled, 1, 0, true, 1);
    cps_stream_stored(titles, 0, &place);
    assert_string_equal(place.caption, "title");
    cps_stream_destroy(all);
    cps_stream_destroy(captioned);
    cps_stream_destroy(others);
    cps_stream_destroy(titles);
}

static void refused(const cps_set_spec *sets, int64_t count, int64_t epoch_samples, uint32_t needs,
                    cps_status wanted, const char *part) {
    const cps_stream_spec spec = {
        .name = "paired", .sets = sets, .set_count = count, .epoch_samples = epoch_samples};
    cps_stream *all = NULL, *stream = NULL;
    cps_status status = cps_stream_create(&spec, 1, pool, needs != 0 ? &all : &stream);
    if (needs != 0) {
        assert_int_equal(status, CPS_OK);
        status = cps_stream_narrow(all, needs, &stream);
        cps_stream_destroy(all);
    }
    assert_int_equal(status, wanted);
    assert_null(stream);
    if (strstr(cps_fail_message(), part) == NULL ||
        strstr(cps_fail_message(), "'paired'") == NULL) {
        fail_msg("'%s' lacks '%s'", cps_fail_message(), part);
    }
}

/* What cleaning leaves nothing of is no name, however it is written; shards without ranks have
 * none; records must have all that is needed. */
static void records_that_name_nothing_are_left_out(void **state) {
    (void)state;
    const cps_set_spec sets[2] = {set_of("taxa.h5"), set_of("a-0.h5")};
    cps_stream *all = make(sets, 1, 0, false, 1), *named_ones = NULL, *both = NULL;
    assert_int_equal(cps_stream_narrow(all, CPS_RECORD_TAXON, &named_ones), CPS_OK);
    assert_int_equal(cps_stream_narrow(all, CPS_RECORD_TAXON | CPS_RECORD_CAPTION, &both), CPS_OK);
    cps_stream_destroy(all);
    const uint64_t wanted[] = {4000, 4005, 4006, 4007};
    assert_int_equal(cps_stream_records(named_ones), 4);
    assert_int_equal(cps_stream_left_out(named_ones), 4);
    assert_int_equal(cps_stream_bad_records(named_ones), 4);
    for (int64_t i = 0; i < 4; i++) {
        cps_place place;
        cps_stream_stored(named_ones, i, &place);
        assert_true(place.sample_id == wanted[i]);
    }
    assert_int_equal(cps_stream_records(both), 3);
    assert_int_equal(cps_stream_left_out(both), 5);
    assert_true(cps_stream_digest(both) != cps_stream_digest(named_ones));
    cps_stream_destroy(named_ones);
    cps_stream_destroy(both);
    refused(&sets[1], 1, 0, CPS_RECORD_TAXON, CPS_ERR_DATA, "kingdom, phylum, class, order");
    refused(sets, 2, 0, CPS_RECORD_TAXON, CPS_ERR_DATA, "none of 20 records");
    const cps_set_spec nameless = set_of("nameless.h5");
    refused(&nameless, 1, 0, CPS_RECORD_TAXON, CPS_ERR_DATA, "the name of an organism");
    refused(&nameless, 1, 0, CPS_RECORD_TAXON | CPS_RECORD_CAPTION, CPS_ERR_DATA,
            "field 'caption' and the name of an organism");
}

/* A narrowed mixture shares its epoch as it was told; without weights by what is left. */
static void narrowed_mixtures_keep_their_settings(void **state) {
    (void)state;
    cps_set_spec sets[2] = {set_of("mute.h5"), set_of("a-0.h5")};
    cps_stream *by_size = make(sets, 2, 0, true, 1);
    assert_int_equal(cps_stream_epoch_samples(by_size), 40);
    assert_int_equal(cps_stream_set_share(by_size, 0), 20);
    cps_stream_destroy(by_size);
    sets[0].weight = 3;
    sets[1].weight = 1;
    cps_stream *weighted = make(sets, 2, 100, true, 1);
    assert_int_equal(cps_stream_epoch_samples(weighted), 100);
    assert_int_equal(cps_stream_set_share(weighted, 0), 75);
    assert_int_equal(cps_stream_records(weighted), 40);
    cps_stream_destroy(weighted);
}

static void one_record_is_a_stream(void **state) {
    (void)state;
    const cps_set_spec set = set_of("one.h5");
    cps_stream *stream = make(&set, 1, 0, true, 1);
    assert_true(id_at(stream, 12345, 0) == 3000);
    cps_stream_destroy(stream);
}

static void wrong_settings(void **state) {
    (void)state;
    refused(NULL, 0, 0, 0, CPS_ERR_USAGE, "no shard set");
    cps_set_spec set = set_of("nothing-*.h5");
    refused(&set, 1, 0, 0, CPS_ERR_UNAVAILABLE, "nothing-*.h5");
    set = set_of("a-0.h5");
    set.pattern_count = 0;
    refused(&set, 1, 0, 0, CPS_ERR_USAGE, "names no shards");
    char wild[128], plain[128];
    snprintf(wild, sizeof wild, "%s", shard_path("a-*.h5"));
    snprintf(plain, sizeof plain, "%s", shard_path("a-1.h5"));
    const char *const twice[] = {wild, plain};
    set = (cps_set_spec){.patterns = twice, .pattern_count = 2};
    refused(&set, 1, 0, 0, CPS_ERR_USAGE, "twice");
    set = set_of("a-0.h5");
    set.fraction = 0.5;
    set.count = 3;
    refused(&set, 1, 0, 0, CPS_ERR_USAGE, "give one");
    set.count = 0;
    set.fraction = 1.5;
    refused(&set, 1, 0, 0, CPS_ERR_USAGE, "fraction = 1.5");
    set.fraction = 0.001;
    refused(&set, 1, 0, 0, CPS_ERR_USAGE, "subset of 0");
    set.fraction = 0;
    set.count = 21;
    refused(&set, 1, 0, 0, CPS_ERR_USAGE, "hold 20");
    set.count = 2;
    set.draw = CPS_DRAW_MT19937;
    set.subset_seed = (uint64_t)1 << 32;
    refused(&set, 1, 0, 0, CPS_ERR_USAGE, "32 bits");
    set = set_of("a-0.h5");
    refused(&set, 1, -5, 0, CPS_ERR_USAGE, "-5 samples");
    set.weight = -1;
    refused(&set, 1, 0, 0, CPS_ERR_USAGE, "weight = -1");
    cps_set_spec sets[2] = {set_of("a-0.h5"), set_of("b.h5")};
    sets[0].weight = 1;
    refused(sets, 2, 0, 0, CPS_ERR_USAGE, "1 of 2 sets");
    sets[1].weight = 1e-9;
    refused(sets, 2, 0, 0, CPS_ERR_USAGE, "set 2 gets none");
    set = set_of("b.h5");
    refused(&set, 1, 0, CPS_RECORD_CAPTION, CPS_ERR_DATA, "'caption'");
}

static void unrelated_rests(void **state) {
    (void)state;
    const cps_set_spec a = set_of("a-0.h5");
    cps_stream *stream = make(&a, 1, 0, false, 1);
    cps_set_spec rest = set_of("b.h5");
    rest.rest_of = stream;
    refused(&rest, 1, 0, 0, CPS_ERR_USAGE, "none of its records");
    rest = set_of("a-0.h5");
    rest.rest_of = stream;
    refused(&rest, 1, 0, 0, CPS_ERR_USAGE, "nothing is left of 20 records");
    cps_stream_destroy(stream);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_epoch_is_a_permutation),
        cmocka_unit_test(names_key_the_order),
        cmocka_unit_test(stored_order_is_that_of_the_files),
        cmocka_unit_test(subsets_and_their_rest_part_a_set),
        cmocka_unit_test(subsets_follow_their_seed),
        cmocka_unit_test(the_published_split),
        cmocka_unit_test(mixtures_keep_their_shares_everywhere),
        cmocka_unit_test(sets_reshuffle_when_used_up),
        cmocka_unit_test(sizes_are_the_default_weights),
        cmocka_unit_test(records_without_a_caption_are_left_out),
        cmocka_unit_test(records_that_name_nothing_are_left_out),
        cmocka_unit_test(narrowed_mixtures_keep_their_settings),
        cmocka_unit_test(one_record_is_a_stream),
        cmocka_unit_test(wrong_settings),
        cmocka_unit_test(unrelated_rests),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
