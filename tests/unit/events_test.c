/* report/events: whole lines, unfinished tails, and what a resume takes back. */
#include "report/events.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

static char folder[64];
static char path[128];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/copse-events-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/events.jsonl", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void write_event(cps_events *events, const char *kind, const char *name, double step,
                        double value) {
    cps_json *event = cps_json_new_object();
    cps_json_add_string(event, "event", kind);
    if (name != NULL) {
        cps_json_add_string(event, "name", name);
    }
    cps_json_add_number(event, "step", step);
    cps_json_add_number(event, "loss", value);
    assert_int_equal(cps_events_write(events, event), CPS_OK);
    cps_json_destroy(event);
}

static void append_text(const char *text) {
    assert_int_equal(cps_file_append(path, text, strlen(text)), CPS_OK);
}

static cps_json *read_events(int64_t *broken) {
    cps_json *array = NULL;
    assert_int_equal(cps_events_read(path, &array, broken), CPS_OK);
    return array;
}

static void lines_read_back(void **state) {
    (void)state;
    cps_events *events = NULL;
    assert_int_equal(cps_events_open(path, &events), CPS_OK);
    write_event(events, "step", NULL, 1, 2.5);
    write_event(events, "step", NULL, 2, (double)NAN);
    cps_events_close(events);
    char *text = NULL;
    size_t length;
    assert_int_equal(cps_file_read(path, 10000, &text, &length), CPS_OK);
    assert_string_equal(text, "{\"event\":\"step\",\"step\":1,\"loss\":2.5}\n"
                              "{\"event\":\"step\",\"step\":2,\"loss\":null}\n");
    free(text);
    int64_t broken = -1;
    cps_json *array = read_events(&broken);
    assert_int_equal(cps_json_count(array), 2);
    assert_int_equal(broken, 0);
    cps_json_destroy(array);
}

static void unfinished_line_is_cut(void **state) {
    (void)state;
    append_text("{\"event\":\"step\",\"step\":1}\n{\"event\":\"st");
    cps_events *events = NULL;
    assert_int_equal(cps_events_open(path, &events), CPS_OK);
    write_event(events, "step", NULL, 2, 0.5);
    cps_events_close(events);
    int64_t broken = -1;
    cps_json *array = read_events(&broken);
    assert_int_equal(broken, 0);
    assert_int_equal(cps_json_count(array), 2);
    assert_int_equal(cps_json_get_integer(cps_json_at(array, 1), "step", -1), 2);
    cps_json_destroy(array);
}

/* A tail longer than the block that is searched, and no newline at all. */
static void long_unfinished_lines_are_cut(void **state) {
    (void)state;
    enum { LONG = 200000 };
    char *tail = malloc(LONG + 1);
    memset(tail, 'x', LONG);
    tail[LONG] = '\0';
    for (int with_line = 0; with_line < 2; with_line++) {
        unlink(path);
        if (with_line) {
            append_text("{\"event\":\"a\"}\n");
        }
        append_text(tail);
        cps_events *events = NULL;
        assert_int_equal(cps_events_open(path, &events), CPS_OK);
        cps_events_close(events);
        cps_json *array = read_events(NULL);
        assert_int_equal(cps_json_count(array), with_line);
        cps_json_destroy(array);
    }
    free(tail);
}

static void resume_takes_back_later_lines(void **state) {
    (void)state;
    cps_events *events = NULL;
    assert_int_equal(cps_events_open(path, &events), CPS_OK);
    write_event(events, "step", NULL, 5, 1.0);
    write_event(events, "evaluation", "val", 5, 1.0);
    write_event(events, "step", NULL, 6, 1.0);
    write_event(events, "step", NULL, 7, 1.0);
    assert_int_equal(cps_events_resume(events, 5, NULL), CPS_OK);
    write_event(events, "evaluation", "val", 5, 2.0);
    write_event(events, "step", NULL, 6, 3.0);
    cps_events_close(events);
    cps_json *array = read_events(NULL);
    /* step 5, resume, evaluation again, step 6 again */
    assert_int_equal(cps_json_count(array), 4);
    assert_string_equal(cps_json_get_string(cps_json_at(array, 1), "event", ""), "resume");
    assert_float_equal(cps_json_get_number(cps_json_at(array, 2), "loss", 0), 2.0, 0);
    assert_float_equal(cps_json_get_number(cps_json_at(array, 3), "loss", 0), 3.0, 0);
    cps_json_destroy(array);
}

static void equal_steps_of_other_evaluations_stay(void **state) {
    (void)state;
    cps_events *events = NULL;
    assert_int_equal(cps_events_open(path, &events), CPS_OK);
    write_event(events, "evaluation", "a", 5, 1.0);
    write_event(events, "evaluation", "b", 5, 1.0);
    write_event(events, "warning", NULL, 5, 1.0);
    write_event(events, "warning", NULL, 5, 1.0);
    cps_events_close(events);
    cps_json *array = read_events(NULL);
    assert_int_equal(cps_json_count(array), 4);
    cps_json_destroy(array);
}

/* Stages that make no step evaluate one name at one step; what a session cost stays for good. */
static void stages_and_ends_stay(void **state) {
    (void)state;
    append_text(
        "{\"event\":\"evaluation\",\"name\":\"a\",\"step\":5,\"stage\":\"one\",\"top1\":1}\n"
        "{\"event\":\"evaluation\",\"name\":\"a\",\"step\":5,\"stage\":\"two\",\"top1\":2}\n"
        "{\"event\":\"end\",\"at_step\":5,\"wall_seconds\":9}\n"
        "{\"event\":\"resume\",\"step\":3}\n"
        "{\"event\":\"evaluation\",\"name\":\"a\",\"step\":5,\"stage\":\"one\",\"top1\":3}\n"
        "{\"event\":\"evaluation\",\"name\":\"a\",\"step\":5,\"stage\":\"two\",\"top1\":4}\n"
        "{\"event\":\"evaluation\",\"name\":\"a\",\"step\":5,\"stage\":\"two\",\"top1\":5}\n"
        "{\"event\":\"end\",\"at_step\":5,\"wall_seconds\":7}\n");
    cps_json *array = read_events(NULL);
    static const char *const kinds[] = {"end", "resume", "evaluation", "evaluation", "end"};
    assert_int_equal(cps_json_count(array), 5);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(cps_json_get_string(cps_json_at(array, i), "event", ""), kinds[i]);
    }
    assert_float_equal(cps_json_get_number(cps_json_at(array, 2), "top1", 0), 3.0, 0);
    assert_float_equal(cps_json_get_number(cps_json_at(array, 3), "top1", 0), 5.0, 0);
    cps_json_destroy(array);
}

static void broken_lines_are_counted(void **state) {
    (void)state;
    append_text("{\"event\":\"a\"}\nnot json\n[1]\n\n{\"event\":\"b\"}\n");
    int64_t broken = 0;
    cps_json *array = read_events(&broken);
    assert_int_equal(cps_json_count(array), 2);
    assert_int_equal(broken, 3);
    cps_json_destroy(array);
}

static void missing_file_is_empty_and_no_folder_fails(void **state) {
    (void)state;
    cps_json *array = read_events(NULL);
    assert_int_equal(cps_json_count(array), 0);
    cps_json_destroy(array);
    cps_events *events = NULL;
    assert_int_equal(cps_events_open("/nonexistent/x/events.jsonl", &events), CPS_ERR_IO);
    assert_non_null(strstr(cps_fail_message(), "/nonexistent/x/events.jsonl"));
    assert_int_equal(cps_events_write(NULL, NULL), CPS_OK);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(lines_read_back),
        CASE(unfinished_line_is_cut),
        CASE(long_unfinished_lines_are_cut),
        CASE(resume_takes_back_later_lines),
        CASE(equal_steps_of_other_evaluations_stay),
        CASE(stages_and_ends_stay),
        CASE(broken_lines_are_counted),
        CASE(missing_file_is_empty_and_no_folder_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
