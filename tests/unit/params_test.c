/* Parameters: names, layout, initial values, offers, patterns. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "model/params.h"

static cps_params *make(void) {
    cps_params *params = NULL;
    assert_int_equal(cps_params_create(&params), CPS_OK);
    return params;
}

static int32_t add(cps_params *params, const char *name, int64_t rows, int64_t columns,
                   cps_init init) {
    cps_param_spec spec = {.name = name,
                           .rank = columns > 0 ? 2 : 1,
                           .shape = {rows, columns},
                           .init = init,
                           .decay = columns > 0};
    int32_t index = -1;
    assert_int_equal(cps_params_add(params, &spec, &index), CPS_OK);
    return index;
}

static const cps_init normal = {.kind = CPS_INIT_NORMAL, .a = 0.5};
static const cps_init ones = {.kind = CPS_INIT_CONSTANT, .a = 1};

static const cps_real *values(cps_params *params, int32_t index) {
    return cps_params_at(params, index)->tensor.data;
}

static void test_layout_is_padded_and_aligned(void **state) {
    (void)state;
    cps_params *params = make();
    for (int32_t i = 0; i < 700; i++) { /* more than the first name table holds */
        char name[32];
        snprintf(name, sizeof name, "p.%d", i);
        assert_int_equal(add(params, name, 1 + i % 37, 0, ones), i);
    }
    assert_int_equal(cps_params_allocate(params, 1), CPS_OK);
    int64_t end = 0;
    for (int32_t i = 0; i < 700; i++) {
        char name[32];
        snprintf(name, sizeof name, "p.%d", i);
        assert_int_equal(cps_params_find(params, name), i);
        const cps_param *param = cps_params_at(params, i);
        assert_int_equal((uintptr_t)param->tensor.data % CPS_ALIGNMENT, 0);
        assert_ptr_equal(param->tensor.data, cps_params_flat(params) + param->offset);
        assert_true(param->offset >= end);
        for (int64_t gap = end; gap < param->offset; gap++) {
            assert_true(cps_params_flat(params)[gap] == 0);
        }
        end = param->offset + param->count;
        assert_int_equal(param->tensor.id, i);
    }
    assert_true(cps_params_flat_count(params) >= end);
    assert_int_equal(cps_params_bytes(params),
                     (size_t)cps_params_flat_count(params) * sizeof(cps_real));
    assert_int_equal(cps_params_find(params, "p.700"), -1);
    cps_params_destroy(params);
}

static void test_values_depend_on_seed_and_name_alone(void **state) {
    (void)state;
    cps_params *a = make(), *b = make();
    const int32_t first = add(a, "one", 3, 5, normal);
    add(b, "zero", 7, 0, ones);
    const int32_t second = add(b, "one", 3, 5, normal);
    assert_int_equal(cps_params_allocate(a, 9), CPS_OK);
    assert_int_equal(cps_params_allocate(b, 9), CPS_OK);
    assert_memory_equal(values(a, first), values(b, second), 15 * sizeof(cps_real));
    cps_real expected[15];
    cps_fill_normal(9, "one", 0.5, expected, 15);
    assert_memory_equal(values(a, first), expected, sizeof expected);
    cps_params_destroy(b);
    b = make();
    const int32_t other = add(b, "one", 3, 5, normal);
    assert_int_equal(cps_params_allocate(b, 10), CPS_OK);
    assert_memory_not_equal(values(b, other), expected, sizeof expected);
    cps_params_destroy(a);
    cps_params_destroy(b);
}

static void test_later_stage_keeps_values_and_indices(void **state) {
    (void)state;
    cps_params *params = make();
    const int32_t one = add(params, "one", 3, 5, normal);
    assert_int_equal(cps_params_allocate(params, 1), CPS_OK);
    ((cps_real *)cps_params_at(params, one)->tensor.data)[4] = 42;
    const cps_param *before = cps_params_at(params, one);
    const int32_t two = add(params, "two", 100000, 0, ones);
    assert_int_equal(cps_params_allocate(params, 1), CPS_OK);
    assert_ptr_equal(before, cps_params_at(params, one));
    assert_true(values(params, one)[4] == 42);
    assert_true(values(params, two)[99999] == 1);
    assert_int_equal(add(params, "one", 3, 5, normal), one);
    cps_params_destroy(params);
}

static void test_copies_follow_their_sources(void **state) {
    (void)state;
    cps_params *params = make();
    const cps_init chain = {.kind = CPS_INIT_COPY, .copy_of = "b"};
    const int32_t c = add(params, "c", 4, 4, chain);
    int32_t b = -1;
    const cps_param_spec ema = {
        .name = "b", .rank = 2, .shape = {4, 4}, .kind = CPS_PARAM_EMA, .ema_of = "a"};
    assert_int_equal(cps_params_add(params, &ema, &b), CPS_OK);
    assert_int_equal(cps_params_allocate(params, 3), CPS_ERR_USAGE); /* no "a" yet */
    assert_non_null(strstr(cps_fail_message(), "'b'"));
    const int32_t a = add(params, "a", 4, 4, normal);
    assert_int_equal(cps_params_allocate(params, 3), CPS_OK);
    assert_memory_equal(values(params, a), values(params, c), 16 * sizeof(cps_real));
    assert_memory_equal(values(params, a), values(params, b), 16 * sizeof(cps_real));
    assert_false(cps_params_at(params, b)->learns);
    cps_params_destroy(params);
}

static void test_copies_in_a_circle_or_of_other_size(void **state) {
    (void)state;
    cps_params *params = make();
    add(params, "x", 4, 4, (cps_init){.kind = CPS_INIT_COPY, .copy_of = "y"});
    add(params, "y", 4, 4, (cps_init){.kind = CPS_INIT_COPY, .copy_of = "x"});
    assert_int_equal(cps_params_allocate(params, 3), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "circle"));
    cps_params_destroy(params);
    params = make();
    add(params, "x", 4, 4, (cps_init){.kind = CPS_INIT_COPY, .copy_of = "y"});
    add(params, "y", 4, 5, normal);
    assert_int_equal(cps_params_allocate(params, 3), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "20"));
    cps_params_destroy(params);
}

static void refuse(cps_params *params, const cps_param_spec *spec, const char *part) {
    int32_t index = -7;
    assert_int_equal(cps_params_add(params, spec, &index), CPS_ERR_USAGE);
    assert_int_equal(index, -7);
    assert_non_null(strstr(cps_fail_message(), part));
}

static void test_unequal_declarations_are_refused(void **state) {
    (void)state;
    cps_params *params = make();
    const cps_param_spec good = {.name = "s",
                                 .rank = 1,
                                 .shape = {3},
                                 .init = ones,
                                 .has_bounds = true,
                                 .minimum = 0,
                                 .maximum = 4};
    int32_t index = -1;
    assert_int_equal(cps_params_add(params, &good, &index), CPS_OK);
    cps_param_spec bad = good;
    bad.shape[0] = 4;
    refuse(params, &bad, "[3] and [4]");
    bad = good;
    bad.maximum = 5;
    refuse(params, &bad, "bounds");
    bad = good;
    bad.init.a = 2;
    refuse(params, &bad, "initial values");
    bad = good;
    bad.kind = CPS_PARAM_BUFFER;
    refuse(params, &bad, "kinds");
    bad = good;
    bad.decay = true;
    refuse(params, &bad, "decay");
    bad = good;
    bad.name = "t";
    bad.shape[0] = 0;
    refuse(params, &bad, "'t'");
    bad.shape[0] = INT64_MAX / 2;
    refuse(params, &bad, "'t'");
    bad.shape[0] = 3;
    bad.rank = 5;
    refuse(params, &bad, "5 dimensions");
    bad = good;
    bad.name = "";
    refuse(params, &bad, "0 characters");
    assert_int_equal(cps_params_count(params), 1);
    cps_params_destroy(params);
}

static void test_offers(void **state) {
    (void)state;
    cps_params *params = make();
    const cps_real six[] = {1, 2, 3, 4, 5, 6};
    const int64_t shape[] = {2, 3}, turned[] = {3, 2};
    assert_int_equal(cps_params_offer(params, "w", 2, shape, six), CPS_OK);
    assert_int_equal(cps_params_offer(params, "v", 2, turned, six), CPS_OK);
    assert_int_equal(cps_params_offer(params, "scale", 0, NULL, six), CPS_OK);
    const int32_t w = add(params, "w", 2, 3, normal);
    const int32_t v = add(params, "v", 2, 3, ones); /* the offer has another shape */
    const int32_t scale = add(params, "scale", 1, 0, ones);
    assert_true(cps_params_is_offered(params, "w"));
    assert_int_equal(cps_params_allocate(params, 1), CPS_OK);
    assert_false(cps_params_is_offered(params, "w"));
    assert_memory_equal(values(params, w), six, sizeof six);
    assert_true(cps_params_at(params, w)->loaded);
    assert_true(values(params, v)[5] == 1);
    assert_false(cps_params_at(params, v)->loaded);
    assert_true(cps_params_at(params, scale)->loaded);
    assert_int_equal(cps_params_offer(params, "v", 2, shape, six), CPS_OK); /* allocated: at once */
    assert_memory_equal(values(params, v), six, sizeof six);
    assert_int_equal(cps_params_offer(params, "v", 2, turned, six), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "[3,2]"));
    assert_non_null(strstr(cps_fail_message(), "[2,3]"));
    cps_params_destroy(params);
}

/* The copy of a loaded parameter starts at the loaded value. */
static void test_copy_of_an_offer(void **state) {
    (void)state;
    cps_params *params = make();
    const cps_real two[] = {7, 8};
    const int64_t shape[] = {2};
    const int32_t copy = add(params, "t", 2, 0, (cps_init){.kind = CPS_INIT_COPY, .copy_of = "s"});
    add(params, "s", 2, 0, ones);
    assert_int_equal(cps_params_offer(params, "s", 1, shape, two), CPS_OK);
    assert_int_equal(cps_params_allocate(params, 1), CPS_OK);
    assert_memory_equal(values(params, copy), two, sizeof two);
    cps_params_destroy(params);
}

static cps_params *three(void) {
    cps_params *params = make();
    add(params, "visual.proj", 2, 3, normal);
    add(params, "visual.ln.weight", 2, 0, ones);
    add(params, "text.proj", 2, 3, normal);
    int32_t index = -1;
    const cps_param_spec buffer = {
        .name = "centre", .rank = 1, .shape = {2}, .kind = CPS_PARAM_BUFFER};
    assert_int_equal(cps_params_add(params, &buffer, &index), CPS_OK);
    return params;
}

static void check_learns(cps_params *params, const char *expected) {
    char seen[8] = "";
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        const cps_param *param = cps_params_at(params, i);
        seen[i] = param->learns ? '1' : '0';
        seen[i + 1] = '\0';
        assert_int_equal(param->learns, param->tensor.needs_grad);
    }
    assert_string_equal(seen, expected);
}

static void test_train_patterns(void **state) {
    (void)state;
    cps_params *params = three();
    int64_t elements = 0;
    assert_int_equal(cps_params_set_train(params, NULL, 0), CPS_OK);
    check_learns(params, "1110");
    assert_int_equal(cps_params_learning(params, &elements), 3);
    assert_int_equal(elements, 14);
    assert_int_equal(cps_params_elements(params, "visual.*"), 8);
    assert_int_equal(cps_params_set_train(params, (const char *[]){"visual.*"}, 1), CPS_OK);
    check_learns(params, "1100");
    assert_int_equal(cps_params_set_train(params, (const char *[]){"!visual.*"}, 1), CPS_OK);
    check_learns(params, "0010");
    assert_int_equal(
        cps_params_set_train(params, (const char *[]){"*", "!visual.*", "visual.proj"}, 3), CPS_OK);
    check_learns(params, "1010");
    assert_int_equal(cps_params_set_train(params, (const char *[]){"visal.proj"}, 1),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "visual.proj"));
    check_learns(params, "1010");
    cps_params_destroy(params);
}

static void test_factors_and_decay(void **state) {
    (void)state;
    cps_params *params = three();
    const char *patterns[] = {"visual.ln*", "visual.*"};
    assert_int_equal(cps_params_set_lr_factors(params, patterns, (double[]){0.5, 0.1}, 2), CPS_OK);
    assert_true(cps_params_at(params, 0)->lr_factor == 0.1);
    assert_true(cps_params_at(params, 1)->lr_factor == 0.5);
    assert_true(cps_params_at(params, 2)->lr_factor == 1);
    assert_int_equal(cps_params_set_lr_factors(params, patterns, (double[]){0.5, (double)NAN}, 2),
                     CPS_ERR_USAGE);
    assert_int_equal(cps_params_set_lr_factors(params, NULL, NULL, 0), CPS_OK);
    assert_true(cps_params_at(params, 0)->lr_factor == 1);
    assert_int_equal(cps_params_set_no_decay(params, (const char *[]){"*proj", "!text*"}, 2),
                     CPS_OK);
    assert_false(cps_params_at(params, 0)->decays);
    assert_false(cps_params_at(params, 1)->decays);
    assert_true(cps_params_at(params, 2)->decays);
    assert_int_equal(cps_params_set_no_decay(params, NULL, 0), CPS_OK);
    assert_true(cps_params_at(params, 0)->decays);
    assert_int_equal(cps_params_set_no_decay(params, (const char *[]){"nothing"}, 1),
                     CPS_ERR_USAGE);
    cps_params_destroy(params);
}

static void test_default_decay(void **state) {
    (void)state;
    assert_true(cps_param_default_decay("visual.proj", 2));
    assert_true(cps_param_default_decay("positional_embedding", 2));
    assert_false(cps_param_default_decay("visual.class_embedding", 1));
    assert_false(cps_param_default_decay("visual.ln_pre.weight", 2));
    assert_false(cps_param_default_decay("attn.in_proj_bias", 2));
    assert_false(cps_param_default_decay("logit_scale", 0));
    assert_false(cps_param_default_decay("head.bn.weight", 2));
}

static void test_digest(void **state) {
    (void)state;
    cps_params *a = three(), *b = three();
    assert_int_equal(cps_params_allocate(a, 1), CPS_OK);
    assert_int_equal(cps_params_allocate(b, 1), CPS_OK);
    assert_true(cps_params_digest(a, "visual.*") == cps_params_digest(b, "visual.*"));
    assert_true(cps_params_digest(a, "*") != cps_params_digest(b, "visual.*"));
    ((cps_real *)cps_params_at(b, 0)->tensor.data)[3] += 1;
    assert_true(cps_params_digest(a, "visual.*") != cps_params_digest(b, "visual.*"));
    assert_true(cps_params_digest(a, "text.*") == cps_params_digest(b, "text.*"));
    cps_params_destroy(a);
    cps_params_destroy(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout_is_padded_and_aligned),
        cmocka_unit_test(test_values_depend_on_seed_and_name_alone),
        cmocka_unit_test(test_later_stage_keeps_values_and_indices),
        cmocka_unit_test(test_copies_follow_their_sources),
        cmocka_unit_test(test_copies_in_a_circle_or_of_other_size),
        cmocka_unit_test(test_unequal_declarations_are_refused),
        cmocka_unit_test(test_offers),
        cmocka_unit_test(test_copy_of_an_offer),
        cmocka_unit_test(test_train_patterns),
        cmocka_unit_test(test_factors_and_decay),
        cmocka_unit_test(test_default_decay),
        cmocka_unit_test(test_digest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
