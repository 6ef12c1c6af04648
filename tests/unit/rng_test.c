#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/pool.h"
#include "base/rng.h"

/* Known answers published with Random123 (kat_vectors), and with mt19937ar.c. */
static void philox_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t words[4];
        cps_philox4x32(cases[i].counter, cases[i].key, words);
        assert_memory_equal(words, cases[i].words, sizeof words);
    }
}

static void mt19937_known_answers(void **state) {
    (void)state;
    cps_mt19937 mt;
    cps_mt19937_seed(&mt, 5489);
    assert_int_equal(cps_mt19937_next(&mt), 3499211612u);
    for (int i = 2; i < 10000; i++) {
        (void)cps_mt19937_next(&mt);
    }
    assert_int_equal(cps_mt19937_next(&mt),
                     4123659995u); /* the 10,000th, as the C++ standard has it */
    const uint32_t words[] = {0x123, 0x234, 0x345, 0x456};
    cps_mt19937_seed_array(&mt, words, 4);
    assert_int_equal(cps_mt19937_next(&mt), 1067595299u);
    assert_int_equal(cps_mt19937_next(&mt), 955945823u);
    assert_int_equal(cps_mt19937_next(&mt), 477289528u);
}

/* CPython 3.11: random.seed(n); [random.randrange(k) for k in (...)]. */
static void mt19937_draws_as_python(void **state) {
    (void)state;
    static const uint32_t below[] = {5, 1, 2, 8, 10, 1000, 65536, 0x80000000u, 0xffffffffu};
    static const uint64_t seeds[] = {0, 17, 0x100000000u, 0x123456789abcdefu};
    static const uint32_t wanted[][9] = {
        {3u, 0u, 0u, 4u, 8u, 497u, 53075u, 1302718217u, 4156669319u},
        {4u, 0u, 1u, 5u, 4u, 178u, 36474u, 473142372u, 3940602561u},
        {0u, 0u, 1u, 0u, 0u, 626u, 43451u, 1940533316u, 60122280u},
        {2u, 0u, 1u, 3u, 5u, 758u, 24188u, 451686601u, 2825010503u},
    };
    for (size_t i = 0; i < 4; i++) {
        cps_mt19937 mt;
        cps_mt19937_seed_integer(&mt, seeds[i]);
        for (size_t j = 0; j < 9; j++) {
            assert_int_equal(cps_mt19937_below(&mt, below[j]), wanted[i][j]);
        }
    }
}

/* Every field of the key, and the index, changes the draw. */
static void draws_depend_on_the_whole_key(void **state) {
    (void)state;
    const cps_draw_key base = {.seed = 1};
    cps_draw_key keys[18];
    for (int i = 0; i < 18; i++) {
        keys[i] = base;
    }
    keys[1].seed = 2;
    keys[2].seed = (uint64_t)1 << 40 | 1;
    keys[3].stage = 1;
    keys[4].stream = 1;
    keys[5].epoch = 1;
    keys[6].epoch = (uint64_t)1 << 40;
    keys[7].position = 1;
    keys[8].position = (uint64_t)1 << 40;
    keys[9].view = 1;
    keys[10].crop = 1;
    keys[11].module = 1;
    keys[12].module = cps_name_key("drop_path.3");
    keys[13].module = cps_name_key("drop_path.4");
    for (int i = 0; i < 14; i++) {
        for (int j = 0; j < i; j++) {
            assert_true(cps_draw_uniform(&keys[i], 0) != cps_draw_uniform(&keys[j], 0));
        }
        assert_true(cps_draw_u32(&keys[i], 5) == cps_draw_u32(&keys[i], 5));
        assert_true(cps_draw_uniform(&keys[i], 0) != cps_draw_uniform(&keys[i], 1));
        assert_true(cps_draw_uniform(&keys[i], 0) != cps_draw_uniform(&keys[i], (uint64_t)1 << 40));
    }
}

static void draws_have_the_right_moments(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    double uniform = 0, normal = 0, normal2 = 0, normal4 = 0;
    int64_t dice[6] = {0};
    for (uint64_t i = 0; i < COUNT; i++) {
        const cps_draw_key key = {.seed = 9, .position = i};
        const double u = cps_draw_uniform(&key, 0), z = cps_draw_normal(&key, 1);
        assert_true(u >= 0 && u < 1 && isfinite(z));
        uniform += u / COUNT;
        normal += z / COUNT;
        normal2 += z * z / COUNT;
        normal4 += z * z * z * z / COUNT;
        const uint64_t side = cps_draw_below(&key, 2, 6);
        assert_true(side < 6);
        dice[side]++;
        assert_int_equal(cps_draw_below(&key, 3, 1), 0);
    }
    assert_true(fabs(uniform - 0.5) < 0.005);
    assert_true(fabs(normal) < 0.015);
    assert_true(fabs(normal2 - 1) < 0.02);
    assert_true(fabs(normal4 - 3) < 0.15);
    for (int side = 0; side < 6; side++) {
        assert_true(fabs((double)dice[side] - COUNT / 6.0) < 500);
    }
}

static void fills_do_not_depend_on_length_or_threads(void **state) {
    (void)state;
    enum { COUNT = 50001 };
    cps_real *alone = malloc(COUNT * sizeof *alone), *many = malloc(COUNT * sizeof *many);
    cps_fill_normal(3, "visual.proj", 0.02, alone, COUNT);
    assert_int_equal(cps_pool_start(3), CPS_OK);
    cps_fill_normal(3, "visual.proj", 0.02, many, COUNT);
    assert_memory_equal(alone, many, COUNT * sizeof *alone);
    cps_fill_normal(3, "visual.proj", 0.02, many, 77);
    assert_memory_equal(alone, many, 77 * sizeof *alone);
    double sum = 0, squares = 0;
    for (int i = 0; i < COUNT; i++) {
        sum += (double)alone[i];
        squares += (double)alone[i] * (double)alone[i];
    }
    assert_true(fabs(sum / COUNT) < 0.0005);
    assert_true(fabs(sqrt(squares / COUNT) - 0.02) < 0.0003);
    cps_fill_normal(3, "other", 0.02, many, COUNT);
    assert_true(memcmp(alone, many, 8 * sizeof *alone) != 0);
    cps_fill_uniform(3, "bias", -0.25, 0.5, many, COUNT);
    cps_pool_stop();
    sum = 0;
    for (int i = 0; i < COUNT; i++) {
        assert_true((double)many[i] >= -0.25 && (double)many[i] <= 0.5);
        sum += (double)many[i];
    }
    assert_true(fabs(sum / COUNT - 0.125) < 0.005);
    free(alone);
    free(many);
}

static void permutations_are_bijective(void **state) {
    (void)state;
    static unsigned char seen[2000];
    for (uint64_t n = 1; n <= 2000; n++) {
        memset(seen, 0, sizeof seen);
        for (uint64_t i = 0; i < n; i++) {
            const uint64_t at = cps_permute(7, n, 1, n, i);
            assert_true(at < n && seen[at] == 0);
            seen[at] = 1;
        }
    }
    const uint64_t huge = ((uint64_t)1 << 63) + 12345;
    assert_true(cps_permute(1, 2, 3, huge, huge - 1) < huge);
    assert_true(cps_permute(1, 2, 3, UINT64_MAX, 5) < UINT64_MAX);
}

/* For each n, place i gets each value about equally often over seeds, and neighbours stay
 * neighbours no more often than by chance. */
static void permutations_mix(void **state) {
    (void)state;
    enum { ROUNDS = 6000, MOST = 9 };
    for (uint64_t n = 2; n <= MOST; n++) {
        int64_t hits[MOST][MOST] = {{0}};
        for (uint64_t seed = 0; seed < ROUNDS; seed++) {
            for (uint64_t i = 0; i < n; i++) {
                hits[i][cps_permute(seed, 0, 5, n, i)]++;
            }
        }
        const double mean = (double)ROUNDS / (double)n;
        for (uint64_t i = 0; i < n; i++) {
            for (uint64_t j = 0; j < n; j++) {
                assert_true(fabs((double)hits[i][j] - mean) < 5 * sqrt(mean));
            }
        }
    }
    int64_t followers = 0, same = 0;
    const uint64_t n = 1000;
    for (uint64_t epoch = 0; epoch < 20; epoch++) {
        for (uint64_t i = 0; i + 1 < n; i++) {
            const uint64_t here = cps_permute(1, epoch, 0, n, i);
            followers += cps_permute(1, epoch, 0, n, i + 1) == here + 1;
            same += cps_permute(1, epoch + 1, 0, n, i) == here;
        }
    }
    assert_true(followers < 50); /* about 20 expected of each */
    assert_true(same < 50);
}

/* The order of a run must not change with the program's version: these are ours, kept. */
static void values_are_stable(void **state) {
    (void)state;
    const cps_draw_key key = {.seed = 1,
                              .stage = 2,
                              .stream = 3,
                              .epoch = 4,
                              .position = 5,
                              .view = 6,
                              .crop = 7,
                              .module = 8};
    assert_int_equal(cps_draw_u32(&key, 9), 2453904756u);
    assert_int_equal(cps_name_key("drop_path.3"), 2122823866u);
    assert_int_equal(cps_permute(1, 2, 3, 1000, 4), 62);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(mt19937_known_answers),
        cmocka_unit_test(mt19937_draws_as_python),
        cmocka_unit_test(draws_depend_on_the_whole_key),
        cmocka_unit_test(draws_have_the_right_moments),
        cmocka_unit_test(fills_do_not_depend_on_length_or_threads),
        cmocka_unit_test(permutations_are_bijective),
        cmocka_unit_test(permutations_mix),
        cmocka_unit_test(values_are_stable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
