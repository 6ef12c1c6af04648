#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/json.h"

static cps_json *parse(const char *text) {
    cps_json *json = NULL;
    assert_int_equal(cps_json_parse(text, strlen(text), "test", &json), CPS_OK);
    assert_non_null(json);
    return json;
}

static void expect_refusal(const char *text, size_t length, const char *message) {
    cps_json *json = NULL;
    assert_int_equal(cps_json_parse(text, length, "job", &json), CPS_ERR_DATA);
    assert_null(json);
    if (strstr(cps_fail_message(), message) == NULL) {
        fail_msg("'%s' lacks '%s'", cps_fail_message(), message);
    }
}

static void reads_what_is_there(void **state) {
    (void)state;
    cps_json *json = parse(" {\"a\": {\"b\": [1, 2.5, {\"c\": \"x\\u00e9\\ud83c\\udf3f\"}]}, "
                           "\"t\": true, \"n\": null, \"i\": 9007199254740992, \"f\": 0.5} \n");
    assert_true(cps_json_is_object(json));
    assert_int_equal(cps_json_count(json), 5);
    assert_true(cps_json_number(cps_json_path(json, "a.b.1")) == 2.5);
    assert_string_equal(cps_json_string(cps_json_path(json, "a.b.2.c")),
                        "x\xc3\xa9\xf0\x9f\x8c\xbf");
    assert_null(cps_json_path(json, "a.b.3"));
    assert_null(cps_json_path(json, "a.b.-1"));
    assert_null(cps_json_path(json, "a.b.x"));
    assert_null(cps_json_path(json, "a.q.x"));
    assert_true(cps_json_get_bool(json, "t", false));
    assert_true(cps_json_is_null(cps_json_get(json, "n")));
    assert_int_equal(cps_json_get_integer(json, "i", 0), (int64_t)1 << 53);
    assert_int_equal(cps_json_get_integer(json, "f", -7), -7); /* no whole number */
    assert_int_equal(cps_json_get_integer(json, "t", -7), -7);
    assert_true(cps_json_get_number(json, "none", 3.5) == 3.5);
    assert_string_equal(cps_json_get_string(json, "f", "fallback"), "fallback");
    assert_null(cps_json_get(json, "A")); /* case counts */
    assert_true(isnan(cps_json_number(cps_json_get(json, "t"))));
    assert_string_equal(cps_json_key(cps_json_at(json, 1)), "t");
    assert_null(cps_json_at(json, 5));
    assert_null(cps_json_get(NULL, "a"));
    assert_int_equal(cps_json_count(NULL), 0);
    int64_t walked = 0;
    for (const cps_json *at = cps_json_first(json); at != NULL; at = cps_json_next(at)) {
        walked++;
    }
    assert_int_equal(walked, 5);
    cps_json_destroy(json);
    cps_json_destroy(NULL);
}

static void refuses_bad_text(void **state) {
    (void)state;
    expect_refusal("", 0, "job: no valid JSON at line 1, column 1: the text is empty");
    expect_refusal("{\"a\": 1,\n \"b\": }", 16, "line 2, column");
    expect_refusal("[1, 2", 5, "no valid JSON");
    expect_refusal("[1] x", 5, "more text after the value");
    expect_refusal("{\"a\":1,\"b\":2,\"a\":3}", 19, "the key 'a' is there twice");
    expect_refusal("[{\"q\":[{\"k\":1,\"k\":1}]}]", 23, "the key 'k' is there twice");
    expect_refusal("\"a\0b\"", 5, "a NUL byte");
    expect_refusal("\"a\\u0000b\"", 10, "a NUL character");
    expect_refusal("\"\xff\"", 3, "not valid UTF-8");
    expect_refusal("\"\\", 2, "no valid JSON");
    char deep[400];
    memset(deep, '[', 200);
    memset(deep + 200, ']', 200);
    expect_refusal(deep, 400, "deeper than 100");
    cps_json *json = NULL;
    assert_int_equal(cps_json_parse(deep + 100, 200, "job", &json), CPS_OK); /* 100 are fine */
    cps_json_destroy(json);
    json = parse("[\"[[[\\\"[[\", \"\\\\\"]"); /* brackets in strings are none */
    cps_json_destroy(json);
}

/* Only `length` bytes belong to us. */
static void does_not_read_beyond_the_length(void **state) {
    (void)state;
    const char *text = "{\"a\": 12}";
    for (size_t length = 0; length < strlen(text); length++) {
        char *exact = malloc(length + 1);
        memcpy(exact, text, length);
        cps_json *json = NULL;
        assert_int_equal(cps_json_parse(exact, length, "cut", &json), CPS_ERR_DATA);
        free(exact);
    }
}

static void check_number(double value, const char *wanted) {
    cps_json *list = cps_json_new_array();
    cps_json_add_number(list, NULL, value);
    char *text = cps_json_print(list, false, false);
    text[strlen(text) - 1] = '\0';
    assert_string_equal(text + 1, wanted);
    free(text);
    cps_json_destroy(list);
}

static void numbers_read_back_equal(void **state) {
    (void)state;
    check_number(0, "0");
    check_number(-0.0, "0");
    check_number(1, "1");
    check_number(-3, "-3");
    check_number(0.1, "0.1");
    check_number(5e-5, "5e-05");
    check_number(1.0 / 3.0, "0.3333333333333333");
    check_number(0.1 + 0.2, "0.30000000000000004");
    check_number(9007199254740992.0, "9007199254740992");
    check_number(1e15, "1000000000000000");
    check_number(1e300, "1e+300");
    check_number(HUGE_VAL, "null");
    check_number((double)NAN, "null");
    uint64_t bits = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        double value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) {
            continue;
        }
        cps_json *list = cps_json_new_array();
        cps_json_add_number(list, NULL, value);
        char *text = cps_json_print(list, false, false);
        cps_json *again = parse(text);
        const double back = cps_json_number(cps_json_at(again, 0));
        assert_memory_equal(&back, &value, sizeof value);
        cps_json_destroy(again);
        free(text);
        cps_json_destroy(list);
    }
}

static void prints_canonically(void **state) {
    (void)state;
    cps_json *json = cps_json_new_object();
    cps_json_add_string(json, "z", "a\"b\\c\n\t\x01\xc3\xa9\xff");
    cps_json *inner = cps_json_add_object(json, "m");
    cps_json_add_bool(inner, "y", false);
    cps_json_add_number(inner, "b", 2);
    cps_json *list = cps_json_add_array(json, "a");
    cps_json_add_number(list, NULL, 1);
    cps_json_add_object(list, NULL);
    cps_json_add_copy(json, "copy", inner);
    char *text = cps_json_print(json, false, true);
    assert_string_equal(text,
                        "{\"a\":[1,{}],\"copy\":{\"b\":2,\"y\":false},\"m\":{\"b\":2,\"y\":false},"
                        "\"z\":\"a\\\"b\\\\c\\n\\t\\u0001\xc3\xa9\xef\xbf\xbd\"}");
    cps_json *again = parse(text);
    char *twice = cps_json_print(again, false, true);
    assert_string_equal(text, twice);
    free(twice);
    free(text);
    cps_json_destroy(again);
    text = cps_json_print(inner, true, false);
    assert_string_equal(text, "{\n  \"y\": false,\n  \"b\": 2\n}");
    free(text);
    cps_json_destroy(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_there),
        cmocka_unit_test(refuses_bad_text),
        cmocka_unit_test(does_not_read_beyond_the_length),
        cmocka_unit_test(numbers_read_back_equal),
        cmocka_unit_test(prints_canonically),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
