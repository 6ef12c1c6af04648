#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <string.h>

#include "base/byte_set.h"

static void numbers_follow_first_addition(void **state) {
    (void)state;
    cps_byte_set *set = cps_byte_set_create();
    assert_non_null(set);
    assert_int_equal(cps_byte_set_find(set, "a", 1), -1);
    assert_int_equal(cps_byte_set_add(set, "b", 1), 0);
    assert_int_equal(cps_byte_set_add(set, "", 0), 1);
    assert_int_equal(cps_byte_set_add(set, "b\0c", 3), 2); /* a zero byte is one like others */
    assert_int_equal(cps_byte_set_add(set, "b", 1), 0);
    assert_int_equal(cps_byte_set_add(set, "", 0), 1);
    assert_int_equal(cps_byte_set_count(set), 3);
    assert_int_equal(cps_byte_set_find(set, "b\0c", 3), 2);
    assert_int_equal(cps_byte_set_find(set, "b\0d", 3), -1);
    size_t length = 9;
    assert_memory_equal(cps_byte_set_at(set, 2, &length), "b\0c", 3);
    assert_int_equal(length, 3);
    (void)cps_byte_set_at(set, 1, &length);
    assert_int_equal(length, 0);
    cps_byte_set_destroy(set);
    cps_byte_set_destroy(NULL);
}

static void many_strings(void **state) {
    (void)state;
    enum { COUNT = 20000 };
    cps_byte_set *set = cps_byte_set_create();
    char text[32];
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < COUNT; i++) {
            const int length = snprintf(text, sizeof text, "%d/%d", i % 97, i);
            assert_int_equal(cps_byte_set_add(set, text, (size_t)length), i);
        }
    }
    for (int32_t i = 0; i < COUNT; i++) {
        size_t found;
        const int length = snprintf(text, sizeof text, "%d/%d", i % 97, i);
        assert_memory_equal(cps_byte_set_at(set, i, &found), text, (size_t)length);
        assert_int_equal(found, length);
    }
    cps_byte_set_destroy(set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_follow_first_addition),
        cmocka_unit_test(many_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
