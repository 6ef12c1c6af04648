/* One case for each message that a wrong job can give, errors.cases, and a wrong sweep,
 * sweeps.cases; text compared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/lua/support.h"

enum { MAX_CASES = 200, MAX_SETS = 8 };

#define BODY                                                                                       \
    "model = copse.model { preset = \"ViT-B-32\" }, data = { paired = copse.shards { \"a.h5\" } }"
#define JOB "$BODY, stages = { copse.stage { $STAGE, objective = copse.objective.clip {} } }"
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
    bool is_sweep;
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

/* Cuts `text` (kept alive by the caller: sets point into it) into cases behind those there are. */
static int read_cases(char *text, bool is_sweep, error_case *cases, int count) {
    const int before = count;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        error_case *item = &cases[count - 1];
        if (strncmp(line, "## ", 3) == 0) {
            assert_true(count < MAX_CASES);
            cases[count++] = (error_case){.title = line + 3,
                                          .job = cps_format("%s", ""),
                                          .wanted = cps_format("%s", ""),
                                          .is_sweep = is_sweep};
        } else if (count == before) {
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
    item->job = replace(replace(replace(item->job, "$JOB", JOB), "$BODY", BODY), "$STAGE", STAGE);
    item->wanted = replace(replace(item->wanted, "$FOLDER", folder), "$PRESETS", names);
    cps_json *sweep = NULL;
    const cps_status status =
        item->is_sweep
            ? expand_text(lua_folder, "case.lua", item->job, item->sets, item->set_count, &sweep)
            : load_text(lua_folder, "case.lua", item->job, item->sets, item->set_count, &job);
    cps_job_destroy(job);
    cps_json_destroy(sweep);
    free(names);
    assert_int_equal(status, CPS_ERR_USAGE);
    assert_string_equal(cps_fail_message(), item->wanted);
}

int main(void) {
    static error_case cases[MAX_CASES];
    static struct CMUnitTest tests[MAX_CASES];
    char *text = NULL, *sweeps = NULL;
    size_t length = 0;
    lua_folder = test_lua_folder();
    if (cps_file_read("tests/lua/errors.cases", 1 << 20, &text, &length) != CPS_OK ||
        cps_file_read("tests/lua/sweeps.cases", 1 << 20, &sweeps, &length) != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        return 1;
    }
    folder = test_folder();
    if (cps_file_write_atomic("gap.txt", "one\r\ntwo\n \nfour\n", 16) != CPS_OK ||
        cps_file_write_atomic("void.txt", " \n\n", 3) != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        return 1;
    }
    const int count = read_cases(sweeps, true, cases, read_cases(text, false, cases, 0));
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
    free(sweeps);
    free(lua_folder);
    return failed;
}
