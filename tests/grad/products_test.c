/* Gradients of the products: linear, matmul, attention, patch_embed, embed_tokens, resample_rows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/grad/grad_check.h"

/* ---- linear
 * ------------------------------------------------------------------------------------------------------------------
 */
typedef struct linear_way {
    cps_activation activation;
    bool bias;
} linear_way;

static cps_tensor *build_linear(cps_tape *tape, cps_tensor **in, const void *context) {
    const linear_way *way = context;
    return cps_linear(tape, in[0], in[1], way->bias ? in[2] : NULL, way->activation);
}

static void check_linear(int64_t rows, int64_t in, int64_t out, cps_activation activation) {
    const linear_way way = {.activation = activation, .bias = true},
                     bare = {.activation = activation};
    gc_case test = {.build = build_linear,
                    .context = &way,
                    .count = 3,
                    .inputs = {{.rank = 2, .shape = {rows, in}},
                               {.rank = 2, .shape = {out, in}, .scale = 0.4},
                               {.rank = 1, .shape = {out}}}};
    gc_check(&test);
    test.context = &bare;
    test.count = 2;
    gc_check(&test);
}

static void test_linear(void **state) {
    (void)state;
    static const int64_t sizes[][3] = {{5, 7, 3}, {1, 4, 9}, {0, 3, 2}, {67, 5, 11}, {130, 33, 17}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int activation = CPS_ACT_NONE; activation <= CPS_ACT_QUICK_GELU; activation++) {
            check_linear(sizes[i][0], sizes[i][1], sizes[i][2], (cps_activation)activation);
        }
    }
}

/* Products larger than one tile, in all directions. */
static void test_linear_tiles(void **state) {
    (void)state;
    check_linear(420, 9, 800, CPS_ACT_GELU);
    check_linear(3, 1601, 5, CPS_ACT_NONE);
}

/* Three dimensions, and a frozen weight. */
static void test_linear_frozen(void **state) {
    (void)state;
    const linear_way way = {.activation = CPS_ACT_GELU, .bias = true};
    const gc_case test = {.build = build_linear,
                          .context = &way,
                          .count = 3,
                          .inputs = {{.rank = 3, .shape = {2, 3, 4}},
                                     {.rank = 2, .shape = {5, 4}, .constant = true},
                                     {.rank = 1, .shape = {5}, .constant = true}}};
    gc_check(&test);
}

/* ---- matmul
 * ------------------------------------------------------------------------------------------------------------------
 */
static cps_tensor *build_matmul(cps_tape *tape, cps_tensor **in, const void *context) {
    const int *bits = context;
    return cps_matmul(tape, in[0], in[1], (*bits & 1) != 0, (*bits & 2) != 0, -0.7);
}

static void test_matmul(void **state) {
    (void)state;
    static const int64_t sizes[][3] = {{4, 5, 6}, {1, 1, 1}, {0, 4, 3}, {3, 0, 2}, {33, 17, 65}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int bits = 0; bits < 4; bits++) {
            const int64_t m = sizes[i][0], k = sizes[i][1], n = sizes[i][2];
            const bool ta = (bits & 1) != 0, tb = (bits & 2) != 0;
            const gc_case test = {.build = build_matmul,
                                  .context = &bits,
                                  .count = 2,
                                  .inputs = {{.rank = 2, .shape = {ta ? k : m, ta ? m : k}},
                                             {.rank = 2, .shape = {tb ? n : k, tb ? k : n}}}};
            gc_check(&test);
        }
    }
}

static cps_tensor *build_gram(cps_tape *tape, cps_tensor **in, const void *context) {
    (void)context;
    return cps_matmul(tape, in[0], in[0], true, false, 1.0);
}

/* One tensor as both operands. */
static void test_matmul_square(void **state) {
    (void)state;
    const gc_case test = {
        .build = build_gram, .count = 1, .inputs = {{.rank = 2, .shape = {5, 3}}}};
    gc_check(&test);
}

/* ---- attention
 * ---------------------------------------------------------------------------------------------------------------
 */
typedef struct attention_way {
    int32_t heads;
    int64_t count;
    const int32_t *offsets;
    bool causal;
} attention_way;

static cps_tensor *build_attention(cps_tape *tape, cps_tensor **in, const void *context) {
    const attention_way *way = context;
    return cps_attention(tape, in[0], way->heads, way->count, way->offsets, way->causal);
}

static void check_attention(int32_t heads, int64_t depth, int64_t count, const int32_t *offsets) {
    for (int causal = 0; causal <= 1; causal++) {
        const attention_way way = {
            .heads = heads, .count = count, .offsets = offsets, .causal = causal != 0};
        const gc_case test = {
            .build = build_attention,
            .context = &way,
            .count = 1,
            .inputs = {{.rank = 2,
                        .shape = {count > 0 ? offsets[count] : 0, 3 * heads * depth},
                        .scale = 0.8}}};
        gc_check(&test);
    }
}

static void test_attention(void **state) {
    (void)state;
    static const int32_t several[] = {0, 3, 3, 8, 9, 26}, one[] = {0, 1}, empty[] = {0, 0},
                         even[] = {0, 17, 34};
    check_attention(2, 3, 5, several);
    check_attention(1, 5, 1, one);
    check_attention(2, 4, 1, empty);
    check_attention(3, 2, 0, NULL);
    check_attention(2, 8, 2, even);
}

/* Longer than one block of queries, and lengths at its edges. */
static void test_attention_blocks(void **state) {
    (void)state;
    static const int32_t offsets[] = {0, 128, 257, 260};
    check_attention(2, 2, 3, offsets);
}

/* ---- patches
 * -----------------------------------------------------------------------------------------------------------------
 */
static cps_tensor *build_patches(cps_tape *tape, cps_tensor **in, const void *context) {
    const bool *bias = context;
    return cps_patch_embed(tape, in[0], in[1], *bias ? in[4] : NULL, in[2], in[3]);
}

static void check_patches(int64_t images, int64_t height, int64_t width, int64_t patch, int64_t out,
                          bool constant) {
    const int64_t tokens = 1 + height / patch * (width / patch);
    for (int with = 0; with <= 1; with++) {
        const bool bias = with != 0;
        const gc_case test = {
            .build = build_patches,
            .context = &bias,
            .count = bias ? 5 : 4,
            .inputs = {{.rank = 4, .shape = {images, 3, height, width}, .constant = constant},
                       {.rank = 4, .shape = {out, 3, patch, patch}},
                       {.rank = 1, .shape = {out}},
                       {.rank = 2, .shape = {tokens, out}},
                       {.rank = 1, .shape = {out}}}};
        gc_check(&test);
    }
}

static void test_patches(void **state) {
    (void)state;
    check_patches(2, 4, 6, 2, 5, true);
    check_patches(3, 5, 7, 2, 4, false); /* pixels that no patch covers */
    check_patches(1, 3, 3, 3, 1, false);
    check_patches(0, 4, 4, 2, 3, false);
}

/* ---- tokens
 * ------------------------------------------------------------------------------------------------------------------
 */
typedef struct token_way {
    int64_t rows, count;
    const int32_t *ids, *offsets;
} token_way;

static cps_tensor *build_tokens(cps_tape *tape, cps_tensor **in, const void *context) {
    const token_way *way = context;
    cps_tensor *ids = cps_constant(tape, CPS_I32, 1, &way->rows, way->ids);
    return cps_embed_tokens(tape, ids, way->count, way->offsets, in[0], in[1]);
}

static void test_tokens(void **state) {
    (void)state;
    static const int32_t ids[] = {4, 1, 4, 4, 0, 2, 4, 1}, offsets[] = {0, 3, 3, 8};
    static const token_way ways[] = {{8, 3, ids, offsets}, {0, 0, NULL, NULL}};
    for (int i = 0; i < 2; i++) {
        const gc_case test = {
            .build = build_tokens,
            .context = &ways[i],
            .count = 2,
            .inputs = {{.rank = 2, .shape = {6, 3}}, {.rank = 2, .shape = {5, 3}}}};
        gc_check(&test);
    }
}

/* Groups of equal ids that reach over several pieces of the scatter. */
static void test_tokens_many(void **state) {
    (void)state;
    enum { ROWS = 300 };
    static int32_t ids[ROWS], offsets[31];
    for (int32_t i = 0; i < ROWS; i++) {
        ids[i] = i % 10 == 0 ? 2 : (i * i + 3) % 4;
        offsets[i / 10] = i / 10 * 10;
    }
    offsets[30] = ROWS;
    const token_way way = {ROWS, 30, ids, offsets};
    const gc_case test = {.build = build_tokens,
                          .context = &way,
                          .count = 2,
                          .inputs = {{.rank = 2, .shape = {5, 4}}, {.rank = 2, .shape = {10, 4}}}};
    gc_check(&test);
}

static cps_tensor *build_resample(cps_tape *tape, cps_tensor **in, const void *context) {
    return cps_resample_rows(tape, in[0], 3, context);
}

static void test_resample(void **state) {
    (void)state;
    static const double map[3 * 2] = {1.0, 0.0, 0.25, 0.75, -0.5, 1.5};
    const gc_case test = {.build = build_resample,
                          .context = map,
                          .count = 1,
                          .inputs = {{.rank = 2, .shape = {2, 300}}}};
    gc_check(&test);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),           cmocka_unit_test(test_linear_tiles),
        cmocka_unit_test(test_linear_frozen),    cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_matmul_square),    cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_blocks), cmocka_unit_test(test_patches),
        cmocka_unit_test(test_tokens),           cmocka_unit_test(test_tokens_many),
        cmocka_unit_test(test_resample),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
