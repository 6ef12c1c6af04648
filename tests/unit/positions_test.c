/* Maps of position tables. Wanted values: torch.nn.functional.interpolate in float64 (PyTorch 2.15)
 * on the grid 7 i mod 11. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model/positions.h"

static void check(cps_resample kind, int64_t grid, int64_t rows, int64_t columns,
                  const double *wanted) {
    double *map = NULL;
    assert_int_equal(cps_positions_map(kind, grid, rows, columns, &map), CPS_OK);
    const int64_t width = 1 + grid * grid;
    for (int64_t o = 0; o <= rows * columns; o++) {
        double sum = 0, share = 0;
        for (int64_t i = 0; i < width; i++) {
            const double value = i == 0 ? 100 : (double)(7 * (i - 1) % 11);
            sum += map[o * width + i] * value;
            share += map[o * width + i];
        }
        const double expected = o == 0 ? 100 : wanted[o - 1];
        if (fabs(sum - expected) > 1e-12) {
            fail_msg("row %d: %.15g, wanted %.15g", (int)o, sum, expected);
        }
        assert_true(fabs(share - 1) < 1e-14);
        assert_true(o == 0 || map[o * width] == 0);
    }
    free(map);
}

/* mode="bicubic", antialias=True, align_corners=False. */
static void test_clip(void **state) {
    (void)state;
    static const double smaller[] = {2.70878519550294, 5.07281392198638, 7.95491414836963,
                                     3.78489702517163, 5.95723665196856, 3.28285363896999,
                                     4.86100885484031, 6.52288165127962, 5.42861406825191};
    static const double larger[] = {-1.34567461730153,
                                    2.17079695860321,
                                    7.07547169811321,
                                    4.82906223598986,
                                    2.77358490566038,
                                    3.31512250070402,
                                    4.8333147694364,
                                    6.69402985074627,
                                    4.23769213633326,
                                    2.39214305829344,
                                    10.3018867924528,
                                    8.77611940298508,
                                    6,
                                    3.22388059701492,
                                    1.69811320754717,
                                    10.1375668825683,
                                    8.40187124081088,
                                    5.30597014925373,
                                    2.50779683671196,
                                    1.0040833568009,
                                    9.22641509433962,
                                    7.70064770487187,
                                    4.92452830188679,
                                    2.14840889890172,
                                    0.622641509433962};
    check(CPS_RESAMPLE_CLIP, 4, 3, 3, smaller);
    check(CPS_RESAMPLE_CLIP, 3, 5, 5, larger);
}

static void test_same_size_is_identity(void **state) {
    (void)state;
    double wanted[25];
    for (int32_t i = 0; i < 25; i++) {
        wanted[i] = 7 * i % 11;
    }
    check(CPS_RESAMPLE_CLIP, 5, 5, 5, wanted);
}

/* mode="bicubic", scale_factor=((3 + 0.1) / 4, (5 + 0.1) / 4). */
static void test_dino(void **state) {
    (void)state;
    static const double wanted[] = {
        0.452549663370645, 4.90822854190169, 5.232472887852,   4.79541404213617, 9.56913492065126,
        3.97656050317759,  4.02798499591338, 6.0989934396717,  6.13332157236373, 1.75313354785463,
        5.33529344482389,  4.3219061924747,  6.49291458285962, 7.79502795745215, 4.20190289952392};
    check(CPS_RESAMPLE_DINO, 4, 3, 5, wanted);
}

static void test_one_row(void **state) {
    (void)state;
    const double wanted[] = {0, 0, 0, 0};
    check(CPS_RESAMPLE_DINO, 1, 2, 2, wanted);
    check(CPS_RESAMPLE_CLIP, 1, 2, 2, wanted);
    double axis[7];
    cps_positions_axis(CPS_RESAMPLE_CLIP, 7, 1, axis);
    for (int32_t i = 0; i < 7; i++) {
        assert_true(fabs(axis[i] - axis[6 - i]) < 1e-15);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_clip),
                                       cmocka_unit_test(test_same_size_is_identity),
                                       cmocka_unit_test(test_dino), cmocka_unit_test(test_one_row)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
