/* One case for each message that a wrong job can give: errors.cases, text compared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/lua/support.h"

enum { MAX_CASES = 200, MAX_SETS = 8 };

#define BODY                                                                                       \
    "model = copse.model { preset = \"ViT-B-32\" }, data = { paired = copse.shards { \"a.h5\" } }"
#define STAGE "epochs = 1, global_batch = 128, optimizer = copse.adamw { lr = 1 }"

static char *lua_folder, *folder;

static char *replace(char *text, const char *what, const char *with) {
    for (char *at = strstr(text, what); at; at = strstr(at, what)) {
        char *longer = cps_format("%.*s%s%s", (int)(at - text), text, with, at + strlen(what));
        at = longer + (at - text) + strlen(with);
        free(text);
        text = longer;
    }
    return text;
}

static char *presets(void) {
    char *list = cps_format("%s", "");
    for (const char *const *preset = cps_model_presets(); *preset; preset++) {
        char *longer = cps_format("%s%s%s", list, *list ? ", " : "", *preset);
        free(list);
        list = longer;
    }
    return list;
}

typedef struct error_case {
    char *title, *job, *wanted;
    cps_job_set sets[MAX_SETS];
    int64_t set_count;
} error_case;

static void append_line(char **text, const char *line, const char *separator) {
    char *longer = cps_format("%s%s%s", *text, **text ? separator : "", line);
    free(*text);
    *text = longer;
}

static void add_set(error_case *item, char *line) {
    char *equals = strchr(line, '=');
    assert_non_null(equals);
    *equals = '\0';
    item->sets[item->set_count++] = (cps_job_set){line, equals + 1};
}

/* Cuts `text` (kept alive by the caller: sets point into it) into cases. */
static int read_cases(char *text, error_case *cases) {
    int count = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        error_case *item = &cases[count - 1];
        if (strncmp(line, "## ", 3) == 0) {
            assert_true(count < MAX_CASES);
            cases[count++] =
                (error_case){line + 3, cps_format("%s", ""), cps_format("%s", ""), {{0}}, 0};
        } else if (count == 0) {
            continue;
        } else if (strncmp(line, "--> ", 4) == 0) {
            append_line(&item->wanted, line + 4, "\n");
        } else if (strncmp(line, "--set ", 6) == 0) {
            add_set(item, line + 6);
        } else {
            append_line(&item->job, line, "\n");
        }
    }
    return count;
}

static void run_case(void **state) {
    error_case *item = *state;
    cps_job *job = NULL;
    char *names = presets();
    item->job = replace(replace(item->job, "$BODY", BODY), "$STAGE", STAGE);
    item->wanted = replace(replace(item->wanted, "$FOLDER", folder), "$PRESETS", names);
    const cps_status status =
        load_text(lua_folder, "case.lua", item->job, item->sets, item->set_count, &job);
    cps_job_destroy(job);
    free(names);
    assert_int_equal(status, CPS_ERR_USAGE);
    assert_string_equal(cps_fail_message(), item->wanted);
}

int main(void) {
    static error_case cases[MAX_CASES];
    static struct CMUnitTest tests[MAX_CASES];
    char *text = NULL;
    size_t length = 0;
    lua_folder = test_lua_folder();
    if (cps_file_read("tests/lua/errors.cases", 1 << 20, &text, &length) != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        return 1;
    }
    folder = test_folder();
    if (cps_file_write_atomic("gap.txt", "one\r\ntwo\n \nfour\n", 16) != CPS_OK ||
        cps_file_write_atomic("void.txt", " \n\n", 3) != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        return 1;
    }
    const int count = read_cases(text, cases);
    for (int i = 0; i < count; i++) {
        tests[i] = (struct CMUnitTest){cases[i].title, run_case, NULL, NULL, &cases[i]};
    }
    const int failed = _cmocka_run_group_tests("errors of jobs", tests, (size_t)count, NULL, NULL);
    remove_test_folder(folder);
    for (int i = 0; i < count; i++) {
        free(cases[i].job);
        free(cases[i].wanted);
    }
    free(text);
    free(lua_folder);
    return failed;
}
