#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"

typedef struct adamw {
    double lr, weight_decay, clip;
    int64_t steps;
    bool nesterov;
    int32_t engine;
    const char *name;
    const char *note;
    cps_numbers betas;
    cps_numbers mix;
    cps_numbers factor;
    cps_lines keywords;
    const char *tower;
} adamw;

static const char *const engines[] = {"plain", "fused", NULL};
static const char *const mixes[] = {"sci", "com", NULL};

static const cps_option rows[] = {
    {"lr", CPS_OPT_NUMBER, "learning rate", NULL, 0, 1, NULL, 0, true, offsetof(adamw, lr)},
    {"weight_decay", CPS_OPT_NUMBER, "decay", "0.2", 0, HUGE_VAL, NULL, 0, false,
     offsetof(adamw, weight_decay)},
    {"clip", CPS_OPT_NUMBER, "norm", NULL, 0, 0, NULL, 0, false, offsetof(adamw, clip)},
    {"steps", CPS_OPT_INTEGER, "steps", "10", 1, 1e9, NULL, 0, false, offsetof(adamw, steps)},
    {"nesterov", CPS_OPT_BOOL, "momentum", "true", 0, 0, NULL, 0, false, offsetof(adamw, nesterov)},
    {"engine", CPS_OPT_CHOICE, "kernel", "fused", 0, 0, engines, 0, false, offsetof(adamw, engine)},
    {"name", CPS_OPT_STRING, "name", "main", 0, 0, NULL, 0, false, offsetof(adamw, name)},
    {"note", CPS_OPT_STRING, "remark", NULL, 0, 0, NULL, 0, false, offsetof(adamw, note)},
    {"betas", CPS_OPT_NUMBERS, "moments", "{0.9, 0.98}", 0, 1, NULL, 2, false,
     offsetof(adamw, betas)},
    {"mix", CPS_OPT_NUMBERS, "mixture", "{ sci = 1, com = 2 }", 0, 0, mixes, 2, false,
     offsetof(adamw, mix)},
    {"factor", CPS_OPT_SCHEDULE, "factor", "0.5", 0, 2, NULL, 0, false, offsetof(adamw, factor)},
    {"keywords", CPS_OPT_LINES, "words", NULL, 0, 0, NULL, 0, false, offsetof(adamw, keywords)},
    {"tower", CPS_OPT_TOWER, "tower", "image", 0, 0, NULL, 0, false, offsetof(adamw, tower)},
    {0},
};

static cps_arena *arena;

static int make_arena(void **state) {
    (void)state;
    return cps_arena_create("options", 1 << 16, true, &arena) == CPS_OK ? 0 : 1;
}

static int free_arena(void **state) {
    (void)state;
    cps_arena_destroy(arena);
    return 0;
}

static cps_status parse(const char *text, adamw *out) {
    static const char *const also[] = {"schedule", NULL};
    cps_json *json = NULL;
    assert_int_equal(cps_json_parse(text, strlen(text), "test", &json), CPS_OK);
    memset(out, 0xa5, sizeof *out);
    const cps_status status =
        cps_options_parse(rows, json, "stages[1].optimizer", also, arena, out);
    cps_json_destroy(json); /* what was parsed owns its strings */
    return status;
}

static void defaults(void **state) {
    (void)state;
    adamw out;
    assert_int_equal(parse("{\"lr\": 0.001, \"note\": null}", &out), CPS_OK);
    assert_true(out.lr == 0.001 && out.weight_decay == 0.2 && out.clip == 0);
    assert_int_equal(out.steps, 10);
    assert_true(out.nesterov);
    assert_int_equal(out.engine, 1);
    assert_string_equal(out.name, "main");
    assert_null(out.note);
    assert_true(out.betas.count == 2 && out.betas.values[0] == 0.9 && out.betas.values[1] == 0.98);
    assert_true(out.mix.count == 2 && out.mix.values[0] == 1 && out.mix.values[1] == 2);
    assert_true(out.factor.count == 1 && out.factor.values[0] == 0.5);
    assert_int_equal(out.keywords.count, 0);
    assert_null(out.keywords.lines);
    assert_string_equal(out.tower, "image");
}

static void given_values(void **state) {
    (void)state;
    adamw out;
    assert_int_equal(parse("{\"lr\":1, \"steps\":7, \"nesterov\":false, \"engine\":\"plain\", "
                           "\"name\":\"x\", \"betas\":[0,1],"
                           "\"mix\":{\"com\":3,\"sci\":4}, \"factor\":[0,1,2], "
                           "\"keywords\":[\"oak\",\"elm tree\"], "
                           "\"schedule\":{}, \"tower\":\"ssl\"}",
                           &out),
                     CPS_OK);
    assert_int_equal(out.steps, 7);
    assert_false(out.nesterov);
    assert_int_equal(out.engine, 0);
    assert_string_equal(out.name, "x");
    assert_true(out.betas.values[0] == 0 && out.betas.values[1] == 1);
    assert_true(out.mix.values[0] == 4 && out.mix.values[1] == 3);
    assert_true(out.factor.count == 3 && out.factor.values[2] == 2);
    assert_int_equal(out.keywords.count, 2);
    assert_string_equal(out.keywords.lines[1], "elm tree");
    assert_null(out.keywords.path);
    assert_string_equal(out.tower, "ssl");
    assert_int_equal(
        parse("{\"lr\":1, \"mix\":[5,6], \"keywords\":{\"path\":\"k.txt\",\"lines\":[\"ash\"]}}",
              &out),
        CPS_OK);
    assert_true(out.mix.values[1] == 6);
    assert_string_equal(out.keywords.path, "k.txt");
    assert_string_equal(out.keywords.lines[0], "ash");
    assert_int_equal(parse("{\"lr\":1, \"mix\":{\"com\":5}}", &out), CPS_OK);
    assert_true(out.mix.count == 2 && out.mix.values[0] == 0 && out.mix.values[1] == 5);
}

static void each_error_says_what_to_do(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{}", "stages[1].optimizer.lr: is missing: a number is wanted (learning rate)"},
        {"[]", "stages[1].optimizer.lr: is missing: a number is wanted (learning rate)"},
        {"[1]", "stages[1].optimizer: a list of 1 where a table of options is wanted"},
        {"{\"lr\":1,\"weight_dacay\":0.2}",
         "stages[1].optimizer: unknown key 'weight_dacay' (did you mean 'weight_decay'?)"},
        {"{\"lr\":1,\"shcedule\":0}",
         "stages[1].optimizer: unknown key 'shcedule' (did you mean 'schedule'?)"},
        {"{\"lr\":1,\"banana\":0}", "stages[1].optimizer: unknown key 'banana'"},
        {"{\"lr\":3}", "stages[1].optimizer.lr: number 3 is above the maximum 1"},
        {"{\"lr\":-0.5}", "stages[1].optimizer.lr: number -0.5 is below the minimum 0"},
        {"{\"lr\":\"fast\"}",
         "stages[1].optimizer.lr: string 'fast' where a number is wanted (learning rate)"},
        {"{\"lr\":1,\"steps\":2.5}",
         "stages[1].optimizer.steps: number 2.5 is not a whole number below 2^53"},
        {"{\"lr\":1,\"nesterov\":1}",
         "stages[1].optimizer.nesterov: number 1 where true or false is wanted (momentum)"},
        {"{\"lr\":1,\"engine\":\"fussed\"}", "stages[1].optimizer.engine: 'fussed' is none of "
                                             "'plain', 'fused' (did you mean 'fused'?)"},
        {"{\"lr\":1,\"name\":[]}",
         "stages[1].optimizer.name: a list of 0 where a string is wanted (name)"},
        {"{\"lr\":1,\"tower\":true}",
         "stages[1].optimizer.tower: true where a tower's name is wanted (tower)"},
        {"{\"lr\":1,\"betas\":[1]}", "stages[1].optimizer.betas: 1 numbers given, 2 are wanted"},
        {"{\"lr\":1,\"betas\":[0,2]}",
         "stages[1].optimizer.betas[2]: number 2 is above the maximum 1"},
        {"{\"lr\":1,\"betas\":{\"a\":1}}",
         "stages[1].optimizer.betas: a table where a list of numbers is wanted (moments)"},
        {"{\"lr\":1,\"mix\":{\"sci\":1,\"con\":1}}",
         "stages[1].optimizer.mix: unknown name 'con' (did you mean 'com'?)"},
        {"{\"lr\":1,\"mix\":{\"sci\":1,\"com\":\"x\"}}",
         "stages[1].optimizer.mix.com: string 'x' where a number is wanted (mixture)"},
        {"{\"lr\":1,\"factor\":[]}", "stages[1].optimizer.factor: a list of 0 where a number or a "
                                     "function of the step is wanted (factor)"},
        {"{\"lr\":1,\"factor\":[1,9]}",
         "stages[1].optimizer.factor[2]: number 9 is above the maximum 2"},
        {"{\"lr\":1,\"keywords\":[\"a\",7]}", "stages[1].optimizer.keywords[2]: number 7 where a "
                                              "line of text that is not empty is wanted (words)"},
        {"{\"lr\":1,\"keywords\":\"k.txt\"}", "stages[1].optimizer.keywords: string 'k.txt' where "
                                              "a text file or a list of lines is wanted (words)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        adamw out;
        assert_int_equal(parse(cases[i][0], &out), CPS_ERR_USAGE);
        assert_string_equal(cps_fail_message(), cases[i][1]);
    }
}

static void a_wrong_table_is_refused(void **state) {
    (void)state;
    static const struct {
        cps_option_kind kind;
        const char *text;
    } cases[] = {
        {CPS_OPT_NUMBER, "fast"},  {CPS_OPT_NUMBER, "1 2"},  {CPS_OPT_BOOL, "yes"},
        {CPS_OPT_NUMBERS, "1,2"},  {CPS_OPT_NUMBERS, "{1,"}, {CPS_OPT_NUMBERS, "{1} 2"},
        {CPS_OPT_SCHEDULE, "{x}"}, {CPS_OPT_LINES, "a"},     {CPS_OPT_INTEGER, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const cps_option table[] = {
            {.name = "x", .kind = cases[i].kind, .help = "h", .default_text = cases[i].text}, {0}};
        adamw out;
        assert_int_equal(cps_options_parse(table, NULL, "plugin", NULL, arena, &out),
                         CPS_ERR_USAGE);
        assert_non_null(strstr(cps_fail_message(), "plugin.x: the option table's default"));
    }
    const cps_option beyond[] = {
        {.name = "x", .kind = CPS_OPT_NUMBER, .help = "h", .default_text = "3", .maximum = 1}, {0}};
    adamw out;
    assert_int_equal(cps_options_parse(beyond, NULL, "plugin", NULL, arena, &out), CPS_ERR_USAGE);
}

static void nearest_names(void **state) {
    (void)state;
    static const char *const names[] = {"grain", "epochs", "global_batch", "lr", NULL};
    assert_string_equal(cps_nearest_name("epoch", names), "epochs");
    assert_string_equal(cps_nearest_name("gobal_bacth", names), "global_batch");
    assert_string_equal(cps_nearest_name("rl", names), "lr"); /* one swap */
    assert_null(cps_nearest_name("steps", names));
    assert_null(cps_nearest_name("", names));
    assert_null(cps_nearest_name("x", NULL));
    char longest[300];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_null(cps_nearest_name(longest, names));
}

static void help_names_every_row(void **state) {
    (void)state;
    assert_int_equal(cps_options_count(rows), 13);
    assert_ptr_equal(cps_options_find(rows, "steps"), &rows[3]);
    assert_null(cps_options_find(rows, "step"));
    char *text = NULL;
    size_t length = 0;
    FILE *file = open_memstream(&text, &length);
    cps_options_print(rows, file);
    fclose(file);
    for (const cps_option *row = rows; row->name != NULL; row++) {
        assert_non_null(strstr(text, row->name));
        assert_non_null(strstr(text, row->help));
    }
    assert_non_null(strstr(text, "(required)"));
    assert_non_null(strstr(text, "0 to 1"));
    assert_non_null(strstr(text, "at least 0"));
    assert_non_null(strstr(text, "one of plain, fused"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults, make_arena, free_arena),
        cmocka_unit_test_setup_teardown(given_values, make_arena, free_arena),
        cmocka_unit_test_setup_teardown(each_error_says_what_to_do, make_arena, free_arena),
        cmocka_unit_test_setup_teardown(a_wrong_table_is_refused, make_arena, free_arena),
        cmocka_unit_test(nearest_names),
        cmocka_unit_test(help_names_every_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
