#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>

#include "base/hash.h"

/* XXH3 of the empty input, as xxHash's own test vectors have it. */
static void known_answers(void **state) {
    (void)state;
    assert_true(cps_hash64("", 0) == 0x2d06800538d394c2u);
    char hex[33];
    cps_hash128_hex("", 0, hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
}

static void running_hash_equals_whole(void **state) {
    (void)state;
    unsigned char bytes[5000];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 37 >> 2);
    }
    for (size_t length = 0; length < 1000; length += 3) {
        cps_hash *hash = cps_hash_create();
        cps_hash_add(hash, bytes, length / 3);
        cps_hash_add(hash, NULL, 0);
        cps_hash_add(hash, bytes + length / 3, length - length / 3);
        assert_true(cps_hash_value(hash) == cps_hash64(bytes, length));
        assert_true(cps_hash_value(hash) ==
                    cps_hash64(bytes, length)); /* reading changes nothing */
        cps_hash_destroy(hash);
    }
    cps_hash_destroy(NULL);
    assert_true(cps_hash64_text("abc") == cps_hash64("abc", 3));
    assert_true(cps_hash64_text("abc") != cps_hash64_text("abd"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(running_hash_equals_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
