#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>

#include "base/numeric.h"
#include "base/pool.h"
#include "base/rng.h"
#include "comm/canonical.h"

enum { MOST_PARTS = 40, MOST_RANKS = 7, WIDTH = 5 };

/* The definition, taken literally: node (level, a) is the sum of its two children where both are
 * there. */
static double tree_f64(const double *leaves, int64_t stride, int64_t parts, int32_t level,
                       int64_t a) {
    if (level == 0) {
        return leaves[a * stride];
    }
    const double left = tree_f64(leaves, stride, parts, level - 1, 2 * a);
    if ((2 * a + 1) * ((int64_t)1 << (level - 1)) >= parts) {
        return left;
    }
    return left + tree_f64(leaves, stride, parts, level - 1, 2 * a + 1);
}

static cps_real tree_real(const cps_real *leaves, int64_t stride, int64_t parts, int32_t level,
                          int64_t a) {
    if (level == 0) {
        return leaves[a * stride];
    }
    const cps_real left = tree_real(leaves, stride, parts, level - 1, 2 * a);
    if ((2 * a + 1) * ((int64_t)1 << (level - 1)) >= parts) {
        return left;
    }
    return left + tree_real(leaves, stride, parts, level - 1, 2 * a + 1);
}

static int32_t root_level(int64_t parts) {
    int32_t level = 0;
    while ((int64_t)1 << level < parts) {
        level++;
    }
    return level;
}

static void draw_leaves(int64_t parts, double *leaves) {
    const cps_draw_key key = {.seed = 11, .epoch = (uint64_t)parts};
    for (int64_t i = 0; i < parts * WIDTH; i++) {
        leaves[i] = cps_draw_normal(&key, (uint64_t)i) * (i % 3 == 0 ? 1e6 : 1.0);
    }
}

static void parts_and_grains_are_dealt_whole(void **state) {
    (void)state;
    assert_int_equal(cps_part_first(32, 3, 0), 0);
    assert_int_equal(cps_part_first(32, 3, 1), 10);
    assert_int_equal(cps_part_first(32, 3, 2), 21);
    assert_int_equal(cps_part_first(32, 3, 3), 32);
    assert_int_equal(cps_part_grain_first(13, 8, 3), 4);
    assert_int_equal(cps_part_grain_first(13, 8, 8), 13);
}

static void runs_are_the_maximal_nodes(void **state) {
    (void)state;
    cps_node_run runs[CPS_MAX_RUNS];
    assert_int_equal(cps_maximal_runs(8, 0, 8, runs), 1);
    assert_true(runs[0].first == 0 && runs[0].count == 8 && runs[0].level == 3);
    /* 8 parts on 3 ranks: 0-1 | 2-4 | 5-7 */
    assert_int_equal(cps_maximal_runs(8, 2, 5, runs), 2);
    assert_true(runs[0].first == 2 && runs[0].count == 2 && runs[1].first == 4 &&
                runs[1].count == 1);
    assert_int_equal(cps_maximal_runs(8, 5, 8, runs), 2);
    assert_true(runs[0].first == 5 && runs[1].first == 6 && runs[1].count == 2);
    /* cut at P: the last node is short */
    assert_int_equal(cps_maximal_runs(7, 4, 7, runs), 1);
    assert_true(runs[0].first == 4 && runs[0].count == 3 && runs[0].level == 2);
    assert_int_equal(cps_maximal_runs(5, 5, 5, runs), 0);
    assert_int_equal(cps_maximal_runs((int64_t)1 << 40, 1, ((int64_t)1 << 40) - 1, runs), 78);
}

/* What the gradient exchange does on one rank: returns the number of maximal nodes, their buffers
 * and runs. */
static int32_t merge_rank(int64_t parts, int64_t first, int64_t last, cps_real buffers[][WIDTH],
                          cps_node_run *runs, cps_real *rows[]) {
    cps_node_run wanted[CPS_MAX_RUNS];
    const int32_t wanted_count = cps_maximal_runs(parts, first, last, wanted);
    int64_t stack[MOST_PARTS];
    int32_t height = 0, most = 0, out = 0;
    for (int64_t part = first; part < last; part++) {
        stack[height++] = part;
        most = height > most ? height : most;
        bool maximal = false;
        for (int32_t left = cps_merges_after(parts, first, last, part, &maximal); left > 0;
             left--) {
            assert_in_range(height, 2, MOST_PARTS);
            for (int i = 0; i < WIDTH; i++) {
                buffers[stack[height - 2]][i] += buffers[stack[height - 1]][i];
            }
            height--;
        }
        if (maximal) {
            assert_int_equal(height, 1);
            assert_in_range(out, 0, wanted_count - 1);
            assert_int_equal(stack[0], wanted[out].first);
            assert_int_equal(part + 1, wanted[out].first + wanted[out].count);
            runs[out] = wanted[out];
            rows[out] = buffers[stack[--height]];
            out++;
        }
    }
    assert_int_equal(height, 0);
    assert_int_equal(out, wanted_count);
    assert_in_range(most, 0, root_level(parts) + 2);
    return out;
}

static void check_split_real(int64_t parts, int64_t ranks, const double *leaves) {
    cps_real buffers[MOST_PARTS][WIDTH], kept[MOST_PARTS * WIDTH];
    for (int64_t i = 0; i < parts * WIDTH; i++) {
        kept[i] = (cps_real)leaves[i];
        buffers[i / WIDTH][i % WIDTH] = kept[i];
    }
    cps_node_run runs[MOST_PARTS];
    cps_real *rows[MOST_PARTS];
    int32_t count = 0;
    for (int64_t r = 0; r < ranks; r++) {
        count +=
            merge_rank(parts, cps_part_first(parts, ranks, r), cps_part_first(parts, ranks, r + 1),
                       buffers, runs + count, rows + count);
    }
    cps_tree_finish_real(parts, runs, count, rows, WIDTH);
    for (int i = 0; i < WIDTH; i++) {
        const cps_real wanted = tree_real(kept + i, WIDTH, parts, root_level(parts), 0);
        assert_memory_equal(&rows[0][i], &wanted, sizeof wanted);
    }
}

static void any_split_gives_the_bits_of_the_tree(void **state) {
    (void)state;
    double leaves[MOST_PARTS * WIDTH];
    for (int64_t parts = 1; parts <= MOST_PARTS; parts++) {
        draw_leaves(parts, leaves);
        for (int64_t ranks = 1; ranks <= MOST_RANKS && ranks <= parts; ranks++) {
            check_split_real(parts, ranks, leaves);
        }
    }
}

/* The f64 form over any ownership: cuts at two places, empty ranges included. */
static void f64_sums_finish_from_any_nodes(void **state) {
    (void)state;
    double leaves[MOST_PARTS * WIDTH], nodes[MOST_PARTS * WIDTH], sum[WIDTH];
    for (int64_t parts = 1; parts <= 20; parts++) {
        draw_leaves(parts, leaves);
        for (int64_t cut = 0; cut < parts * parts; cut++) {
            const int64_t ends[4] = {0, cps_min_i64(cut % parts, cut / parts),
                                     cps_max_i64(cut % parts, cut / parts), parts};
            cps_node_run runs[CPS_MAX_RUNS];
            int32_t count = 0;
            for (int r = 0; r < 3; r++) {
                count += cps_maximal_runs(parts, ends[r], ends[r + 1], runs + count);
            }
            for (int32_t n = 0; n < count; n++) {
                for (int i = 0; i < WIDTH; i++) {
                    nodes[n * WIDTH + i] = tree_f64(leaves + i, WIDTH, parts, runs[n].level,
                                                    runs[n].first >> runs[n].level);
                }
            }
            cps_tree_finish_f64(parts, runs, count, nodes, WIDTH, sum);
            for (int i = 0; i < WIDTH; i++) {
                const double wanted = tree_f64(leaves + i, WIDTH, parts, root_level(parts), 0);
                assert_memory_equal(&sum[i], &wanted, sizeof wanted);
            }
        }
    }
}

/* The tree is not the plain sum: otherwise the tests above would show nothing. */
static void the_order_matters(void **state) {
    (void)state;
    double leaves[MOST_PARTS * WIDTH];
    int different = 0;
    for (int64_t parts = 3; parts <= MOST_PARTS; parts++) {
        draw_leaves(parts, leaves);
        double plain = 0;
        for (int64_t p = 0; p < parts; p++) {
            plain += leaves[p * WIDTH];
        }
        different += plain != tree_f64(leaves, WIDTH, parts, root_level(parts), 0);
    }
    assert_in_range(different, 10, MOST_PARTS);
}

static void long_slices_go_over_the_pool(void **state) {
    (void)state;
    enum { LENGTH = 40001, PARTS = 6 };
    cps_real *rows[PARTS], wanted[3];
    cps_node_run runs[PARTS];
    for (int p = 0; p < PARTS; p++) {
        rows[p] = malloc(LENGTH * sizeof **rows);
        cps_fill_normal((uint64_t)p, "slice", 1, rows[p], LENGTH);
        runs[p] = (cps_node_run){.first = p, .count = 1};
    }
    const int at[3] = {0, 16384, LENGTH - 1};
    for (int i = 0; i < 3; i++) {
        wanted[i] = ((rows[0][at[i]] + rows[1][at[i]]) + (rows[2][at[i]] + rows[3][at[i]])) +
                    (rows[4][at[i]] + rows[5][at[i]]);
    }
    assert_int_equal(cps_pool_start(2), CPS_OK);
    cps_tree_finish_real(PARTS, runs, PARTS, rows, LENGTH);
    cps_pool_stop();
    for (int i = 0; i < 3; i++) {
        assert_memory_equal(&rows[0][at[i]], &wanted[i], sizeof wanted[i]);
    }
    for (int p = 0; p < PARTS; p++) {
        free(rows[p]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_and_grains_are_dealt_whole),
        cmocka_unit_test(runs_are_the_maximal_nodes),
        cmocka_unit_test(any_split_gives_the_bits_of_the_tree),
        cmocka_unit_test(f64_sums_finish_from_any_nodes),
        cmocka_unit_test(the_order_matters),
        cmocka_unit_test(long_slices_go_over_the_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
