/* What a run's predictions say of its mistakes: counts, confusions and margins of a file made by
 * hand. */
#include "report/mistakes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "eval/predictions.h"

enum { ROWS = 6, TOP = 2 };

static char path[64];

static int set_up(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/copse-mistakes-%d.h5", (int)getpid());
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

/* Six samples of three classes; the fourth class has none. Row 5 has no label. */
static void write_answers(void) {
    uint64_t ids[ROWS] = {0x10, 0x11, 0x12, 0x13, 0x14, 0x15};
    int32_t labels[ROWS] = {0, 0, 0, 1, 2, -1};
    int32_t classes[ROWS * TOP] = {0, 1, 1, 0, 1, 2, 1, 0, 0, 1, 0, 1};
    cps_real scores[ROWS * TOP] = {0.9f, 0.5f, 0.75f, 0.5f, 0.5f, 0.25f,
                                   0.9f, 0.5f, 1.0f,  0.5f, 0.9f, 0.5f};
    const char *names[] = {"oak", "ash", "elm", "fir"};
    const cps_predictions predictions = {
        .rows = ROWS, .top = TOP, .index = classes, .score = scores};
    const cps_class_list list = {.count = 4, .names = names};
    const cps_predictions_content content = {.evaluation = "trees",
                                             .kind = "zero_shot",
                                             .step = 7,
                                             .rows = ROWS,
                                             .sample_ids = ids,
                                             .labels = labels,
                                             .predictions = &predictions,
                                             .classes = &list};
    assert_int_equal(cps_predictions_write(path, &content), CPS_OK);
}

static const cps_json *at(const cps_json *json, const char *list, int64_t index) {
    return cps_json_at(cps_json_get(json, list), index);
}

static void classes_confusions_and_margins(void **state) {
    (void)state;
    write_answers();
    cps_json *found = NULL;
    assert_int_equal(cps_mistakes(path, 2, &found), CPS_OK);
    assert_string_equal(cps_json_get_string(found, "evaluation", ""), "trees");
    assert_int_equal(cps_json_get_integer(found, "step", 0), 7);

    assert_int_equal(cps_json_count(cps_json_get(found, "classes")), 3); /* none of the fir */
    const cps_json *oak = at(found, "classes", 0), *elm = at(found, "classes", 2);
    assert_string_equal(cps_json_get_string(oak, "name", ""), "oak");
    assert_int_equal(cps_json_get_integer(oak, "samples", 0), 3);
    assert_int_equal(cps_json_get_integer(oak, "right", 0), 1);
    /* Wilson, 1 of 3: (1/3 + z2/6 -+ z sqrt(2/27 + z2/36)) / (1 + z2/3), z = 1.959964 */
    assert_float_equal(cps_json_get_number(oak, "low", 0), 0.0614919, 1e-6);
    assert_float_equal(cps_json_get_number(oak, "high", 0), 0.7923404, 1e-6);
    assert_int_equal(cps_json_get_integer(elm, "right", 9), 0);

    assert_int_equal(cps_json_count(cps_json_get(found, "confusions")), 2);
    const cps_json *most = at(found, "confusions", 0), *other = at(found, "confusions", 1);
    assert_string_equal(cps_json_get_string(most, "label_name", ""), "oak");
    assert_string_equal(cps_json_get_string(most, "answer_name", ""), "ash");
    assert_int_equal(cps_json_get_integer(most, "count", 0), 2);
    assert_int_equal(cps_json_get_integer(most, "samples", 0), 3);
    assert_string_equal(cps_json_get_string(other, "label_name", ""), "elm");

    /* Row 4: elm is not among its answers, 1.0 - 0.5; row 1: oak is the second, 0.75 - 0.5; row 2,
     * where oak is not among them, 0.5 - 0.25 as well: the earlier row first, and two are asked. */
    assert_int_equal(cps_json_count(cps_json_get(found, "wrong")), 2);
    const cps_json *first = at(found, "wrong", 0), *second = at(found, "wrong", 1);
    assert_string_equal(cps_json_get_string(first, "sample_id", ""), "0000000000000014");
    assert_string_equal(cps_json_get_string(first, "label_name", ""), "elm");
    assert_string_equal(cps_json_get_string(first, "answer_name", ""), "oak");
    assert_float_equal(cps_json_get_number(first, "margin", 0), 0.5, 1e-7);
    assert_string_equal(cps_json_get_string(second, "sample_id", ""), "0000000000000011");
    assert_float_equal(cps_json_get_number(second, "margin", 0), 0.25, 1e-7);
    assert_null(cps_json_get(first, "shard"));
    cps_json_destroy(found);
}

static void a_file_that_is_none(void **state) {
    (void)state;
    cps_json *found = NULL;
    assert_int_equal(cps_mistakes("/nowhere/x.h5", 2, &found), CPS_ERR_UNAVAILABLE);
    FILE *file = fopen(path, "w");
    fputs("no HDF5", file);
    fclose(file);
    assert_int_not_equal(cps_mistakes(path, 2, &found), CPS_OK);
    assert_null(found);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_confusions_and_margins),
        cmocka_unit_test(a_file_that_is_none),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
