#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>

#include "base/arena.h"

static void blocks_are_aligned_and_apart(void **state) {
    (void)state;
    cps_arena *arena;
    assert_int_equal(cps_arena_create("test", 10000, false, &arena), CPS_OK);
    unsigned char *before = NULL;
    for (size_t bytes = 0; bytes < 130; bytes += 13) {
        unsigned char *block = cps_arena_alloc(arena, bytes);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % CPS_ALIGNMENT, 0);
        assert_true(before == NULL || block >= before);
        memset(block, 1, bytes);
        before = block + bytes;
    }
    cps_arena_destroy(arena);
    cps_arena_destroy(NULL);
}

static void fixed_arena_is_full_at_its_size(void **state) {
    (void)state;
    cps_arena *arena;
    assert_int_equal(cps_arena_create("small", 256, false, &arena), CPS_OK);
    assert_non_null(cps_arena_alloc(arena, 200)); /* 256 with alignment */
    assert_null(cps_arena_alloc(arena, 1));
    assert_non_null(strstr(cps_fail_message(), "'small' is full: 1 bytes asked, 256 of 256"));
    assert_non_null(cps_arena_alloc(arena, 0));
    assert_null(cps_arena_alloc(arena, SIZE_MAX));
    assert_null(cps_arena_alloc(arena, SIZE_MAX - 100));
    assert_int_equal(cps_arena_used(arena), 256); /* failures take nothing */
    cps_arena_destroy(arena);
}

static void mark_and_reset(void **state) {
    (void)state;
    cps_arena *arena;
    assert_int_equal(cps_arena_create("test", 4096, false, &arena), CPS_OK);
    (void)cps_arena_alloc(arena, 64);
    const size_t mark = cps_arena_mark(arena);
    void *first = cps_arena_alloc(arena, 1000);
    cps_arena_reset(arena, mark);
    assert_int_equal(cps_arena_used(arena), 64);
    unsigned char *again = cps_arena_alloc_zero(arena, 1000);
    assert_ptr_equal(first, again);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(again[i], 0);
    }
    cps_arena_reset(arena, 0);
    assert_int_equal(cps_arena_used(arena), 0);
    assert_int_equal(cps_arena_high_water(arena), 64 + 1024);
    cps_arena_destroy(arena);
}

static void growable_arena_grows_in_place(void **state) {
    (void)state;
    cps_arena *arena;
    assert_int_equal(cps_arena_create("tool", 1, true, &arena), CPS_OK);
    char *text = cps_arena_strdup(arena, "kept");
    const size_t mark = cps_arena_mark(arena);
    for (int i = 0; i < 100; i++) {
        char *block = cps_arena_alloc(arena, 1000003);
        assert_non_null(block);
        block[0] = block[1000002] = 'x';
    }
    assert_string_equal(text, "kept");
    cps_arena_reset(arena, mark);
    assert_int_equal(cps_arena_used(arena), mark);
    assert_null(cps_arena_alloc(arena, SIZE_MAX / 2));
    assert_non_null(strstr(cps_fail_message(), "'tool'"));
    cps_arena_destroy(arena);
}

static void counting_arena_counts_as_a_real_one_would(void **state) {
    (void)state;
    cps_arena *counting, *real;
    assert_int_equal(cps_arena_create_counting("plan", &counting), CPS_OK);
    assert_int_equal(cps_arena_create("real", 1 << 20, false, &real), CPS_OK);
    assert_true(cps_arena_is_counting(counting));
    assert_false(cps_arena_is_counting(real));
    for (size_t bytes = 1; bytes < 5000; bytes += 97) {
        assert_null(cps_arena_alloc(counting, bytes));
        assert_non_null(cps_arena_alloc(real, bytes));
    }
    assert_null(cps_arena_alloc_zero(counting, (size_t)1 << 40)); /* no memory is behind it */
    assert_int_equal(cps_arena_high_water(counting), cps_arena_used(real) + ((size_t)1 << 40));
    cps_arena_reset(counting, 0);
    assert_int_equal(cps_arena_used(counting), 0);
    cps_arena_destroy(counting);
    cps_arena_destroy(real);
}

static void more_than_any_machine_has(void **state) {
    (void)state;
    cps_arena *arena = NULL;
    assert_int_equal(cps_arena_create("huge", SIZE_MAX, false, &arena), CPS_ERR_UNAVAILABLE);
    assert_int_equal(cps_arena_create("huge", SIZE_MAX / 2, false, &arena), CPS_ERR_UNAVAILABLE);
    assert_non_null(strstr(cps_fail_message(), "'huge'"));
    assert_int_equal(cps_arena_create("huge", SIZE_MAX / 2, true, &arena), CPS_ERR_UNAVAILABLE);
    assert_null(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_and_apart),
        cmocka_unit_test(fixed_arena_is_full_at_its_size),
        cmocka_unit_test(mark_and_reset),
        cmocka_unit_test(growable_arena_grows_in_place),
        cmocka_unit_test(counting_arena_counts_as_a_real_one_would),
        cmocka_unit_test(more_than_any_machine_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
