#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <string.h>

#include "base/text.h"

static void decodes_and_encodes(void **state) {
    (void)state;
    const char *text = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x8c\xbf";
    const int32_t wanted[] = {'a', 0xe9, 0x20ac, 0x1f33f};
    size_t at = 0;
    for (size_t i = 0; i < 4; i++) {
        char bytes[4];
        const size_t from = at;
        assert_int_equal(cps_utf8_next(text, strlen(text), &at), wanted[i]);
        assert_int_equal(cps_utf8_put(wanted[i], bytes), at - from);
        assert_memory_equal(bytes, text + from, at - from);
    }
    assert_int_equal(at, strlen(text));
    assert_true(cps_utf8_is_valid(text, strlen(text)));
    assert_true(cps_utf8_is_valid("", 0));
}

static void malformed_bytes_become_fffd_one_by_one(void **state) {
    (void)state;
    static const char *const bad[] = {
        "\x80",             /* a continuation alone */
        "\xc3",             /* cut */
        "\xc0\xaf",         /* overlong */
        "\xe0\x80\xaf",     /* overlong */
        "\xed\xa0\x80",     /* a surrogate */
        "\xf4\x90\x80\x80", /* beyond U+10FFFF */
        "\xff",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const size_t length = strlen(bad[i]);
        assert_false(cps_utf8_is_valid(bad[i], length));
        size_t at = 0;
        assert_int_equal(cps_utf8_next(bad[i], length, &at), 0xfffd);
        assert_int_equal(at, 1);
    }
    char bytes[4];
    assert_int_equal(cps_utf8_put(0xd800, bytes), 3);
    assert_memory_equal(bytes, "\xef\xbf\xbd", 3);
}

static void check(char *mapped, const char *wanted) {
    assert_string_equal(mapped, wanted);
    free(mapped);
}

/* Right-hand sides: Python 3.11's str.lower() and str.upper(). */
static void lower_case(void **state) {
    (void)state;
    check(cps_utf8_lower(""), "");
    check(cps_utf8_lower("Quercus ROBUR L."), "quercus robur l.");
    check(cps_utf8_lower("\u00c9T\u00c9 \u00df"), "\u00e9t\u00e9 \u00df");
    check(cps_utf8_lower("\u0130stanbul"), "i\u0307stanbul");
    check(cps_utf8_lower("I"), "i");
    check(cps_utf8_lower("\u01c5\u1e9e\u212a"), "\u01c6\u00df"
                                                "k"); /* title case, capital sharp s, kelvin */
    check(cps_utf8_lower("\U00010400\u1f88\u13a0"), "\U00010428\u1f80\uab70");
    check(cps_utf8_lower("a\xff"
                         "B"),
          "a\xef\xbf\xbd"
          "b");
}

static void final_sigma(void **state) {
    (void)state;
    check(cps_utf8_lower("\u03a3"), "\u03c3");
    check(cps_utf8_lower("\u039f\u0394\u039f\u03a3"), "\u03bf\u03b4\u03bf\u03c2");
    check(cps_utf8_lower("\u039f\u0394\u039f\u03a3 A"), "\u03bf\u03b4\u03bf\u03c2 a");
    check(cps_utf8_lower("\u03a3\u039f\u03a3\u039f"), "\u03c3\u03bf\u03c3\u03bf");
    check(cps_utf8_lower("A\u03a3."), "a\u03c2.");
    check(cps_utf8_lower("A\u03a3.B"), "a\u03c3.b"); /* a full stop is ignorable */
    check(cps_utf8_lower("A'\u03a3"), "a'\u03c2");
    check(cps_utf8_lower("A\u0301\u03a3\u0301"), "a\u0301\u03c2\u0301");
    check(cps_utf8_lower("1\u03a3"), "1\u03c3");
    check(cps_utf8_lower("A\u03a31"), "a\u03c21");
    check(cps_utf8_lower("\u02b0\u03a3"), "\u02b0\u03c3"); /* cased, but ignorable first */
    check(cps_utf8_lower("\u2170\u03a3"), "\u2170\u03c2"); /* cased by property, not by category */
}

static void upper_case(void **state) {
    (void)state;
    check(cps_utf8_upper("stra\u00dfe"), "STRASSE");
    check(cps_utf8_upper("\ufb03\u0149\u01f0"), "FFI\u02bcNJ\u030c");
    check(cps_utf8_upper("\u0390\u1fb7\u1f80"), "\u0399\u0308\u0301\u0391\u0342\u0399\u1f08\u0399");
    check(cps_utf8_upper("\u03c2\u03c3\u0131\u017f\u00b5"), "\u03a3\u03a3IS\u039c");
    check(cps_utf8_upper("\u0587"), "\u0535\u0552");
    check(cps_utf8_upper("\u01c6\u01c5"), "\u01c4\u01c4");
    check(cps_utf8_upper("x\xc3"), "X\xef\xbf\xbd");
}

static void long_texts_map_in_full(void **state) {
    (void)state;
    enum { COUNT = 20000 };
    char *text = malloc(2 * COUNT + 1), *wanted = malloc(6 * COUNT + 1);
    for (int i = 0; i < COUNT; i++) {
        memcpy(text + 2 * i, "\u0390", 2); /* two bytes that become six */
        memcpy(wanted + 6 * i, "\u0399\u0308\u0301", 6);
    }
    text[2 * COUNT] = wanted[6 * COUNT] = '\0';
    check(cps_utf8_upper(text), wanted);
    free(text);
    free(wanted);
}

static void classes(void **state) {
    (void)state;
    assert_true(cps_utf8_is_letter('a') && cps_utf8_is_letter(0xe9) && cps_utf8_is_letter(0x6f22) &&
                cps_utf8_is_letter(0xaa));
    assert_false(cps_utf8_is_letter('1') || cps_utf8_is_letter('_') || cps_utf8_is_letter(0x301));
    assert_true(cps_utf8_is_number('7') && cps_utf8_is_number(0xb2) && cps_utf8_is_number(0x2167) &&
                cps_utf8_is_number(0x663));
    assert_false(cps_utf8_is_number('a'));
    assert_true(cps_utf8_is_word('_') && cps_utf8_is_word('a') && cps_utf8_is_word('0'));
    assert_false(cps_utf8_is_word('-') || cps_utf8_is_word(' '));
    const int32_t spaces[] = {9,    10,     13,     0x1c,   0x1f,   ' ',    0x85,
                              0xa0, 0x1680, 0x2003, 0x2028, 0x202f, 0x205f, 0x3000};
    for (size_t i = 0; i < sizeof spaces / sizeof spaces[0]; i++) {
        assert_true(cps_utf8_is_space(spaces[i]));
    }
    assert_false(cps_utf8_is_space(0x200b) || cps_utf8_is_space(0x180e) || cps_utf8_is_space('x') ||
                 cps_utf8_is_space(0x1b));
}

static void globs(void **state) {
    (void)state;
    assert_true(cps_glob_match("visual.*", "visual.transformer.resblocks.0.attn.in_proj_weight"));
    assert_true(cps_glob_match("*.bias", ".bias"));
    assert_true(cps_glob_match("*", "a/b"));
    assert_true(cps_glob_match("resblocks.[0-3].*", "resblocks.2.x"));
    assert_true(cps_glob_match("a?c", "abc"));
    assert_false(cps_glob_match("visual.*", "text.visual.x"));
    assert_false(cps_glob_match("resblocks.[0-3].*", "resblocks.4.x"));
}

/* Right-hand sides: Python 3.11's str.capitalize(). */
static void capitalised(void **state) {
    (void)state;
    check(cps_utf8_capitalize(""), "");
    check(cps_utf8_capitalize("quercus ROBUR L."), "Quercus robur l.");
    check(cps_utf8_capitalize(" quercus"), " quercus");
    check(cps_utf8_capitalize("\xc3\xa9pomis"), "\xc3\x89pomis");
    check(cps_utf8_capitalize("\xc3\x9f\x41"), "Ssa");                  /* sharp s */
    check(cps_utf8_capitalize("\xc4\xb0X"), "\xc4\xb0x");               /* dotted capital I */
    check(cps_utf8_capitalize("\xce\xa3\xce\xa3"), "\xce\xa3\xcf\x82"); /* two sigmas */
    check(cps_utf8_capitalize("\xc7\x86X"), "\xc7\x85x");               /* dz with caron */
    check(cps_utf8_capitalize("\xef\xac\x83X"), "Ffix");                /* ffi */
    check(cps_utf8_capitalize("\xc5\x89X"), "\xca\xbcNx");              /* n after apostrophe */
    check(cps_utf8_capitalize("\xe1\xbe\xb7X"), "\xce\x91\xcd\x82\xcd\x85x"); /* iota below */
    check(cps_utf8_capitalize("\xe1\xbe\x80X"), "\xe1\xbe\x88x");
    check(cps_utf8_capitalize("\xff"), "\xef\xbf\xbd");
}

static void check_base64(const char *bytes, size_t length, const char *wanted) {
    char out[64];
    const size_t written = cps_base64(bytes, length, out);
    assert_int_equal(written, CPS_BASE64_BYTES(length));
    assert_int_equal(written, strlen(wanted));
    assert_memory_equal(out, wanted, written);
}

/* The examples of RFC 4648, section 10, and the digits at the end of the alphabet. */
static void base64(void **state) {
    (void)state;
    check_base64("", 0, "");
    check_base64("f", 1, "Zg==");
    check_base64("fo", 2, "Zm8=");
    check_base64("foo", 3, "Zm9v");
    check_base64("foob", 4, "Zm9vYg==");
    check_base64("fooba", 5, "Zm9vYmE=");
    check_base64("foobar", 6, "Zm9vYmFy");
    check_base64("\xff\xef\xfe\0", 4, "/+/+AA==");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_and_encodes),
        cmocka_unit_test(malformed_bytes_become_fffd_one_by_one),
        cmocka_unit_test(capitalised),
        cmocka_unit_test(lower_case),
        cmocka_unit_test(final_sigma),
        cmocka_unit_test(upper_case),
        cmocka_unit_test(long_texts_map_in_full),
        cmocka_unit_test(classes),
        cmocka_unit_test(globs),
        cmocka_unit_test(base64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
