/* The odd files of ../shared/data/odd-jpegs, against expected.json there: what decodes has the size
 * and the channel means that Pillow saw (within 1.5), what does not has a reason. Three files go
 * another way than Pillow, as their README asks or allows. */
#include "image/image.h"

#include "base/file.h"
#include "base/json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const folder = "../shared/data/odd-jpegs";

/* The end marker is missing behind a whole picture: we decode, Pillow does not. */
static const char *const decoded_here_alone = "20_no_end_marker.jpg";

typedef struct reason {
    const char *file, *text;
} reason;

static const reason reasons[] = {
    {"10_truncated.jpg", "truncated at"},
    {"12_lying_dimensions.jpg", "65535 x 65535"},
    {"17_zero_bytes.jpg", "empty file"},
    {"18_html_error_page.jpg", "not a JPEG"},
};

static bool should_decode(const char *file, const cps_json *expected) {
    return strcmp(file, decoded_here_alone) == 0 || cps_json_get_bool(expected, "decoded", false);
}

static void check_means(const cps_image *image, const cps_json *expected) {
    const cps_json *means = cps_json_get(expected, "rgb_mean");
    if (means == NULL) {
        return; /* Pillow refused it */
    }
    assert_int_equal(image->width, cps_json_get_integer(expected, "width", -1));
    assert_int_equal(image->height, cps_json_get_integer(expected, "height", -1));
    const size_t count = (size_t)image->width * (size_t)image->height;
    for (int64_t c = 0; c < 3; ++c) {
        double sum = 0;
        for (size_t i = 0; i < count; ++i) {
            sum += image->pixels[3 * i + (size_t)c];
        }
        const double want = cps_json_number(cps_json_at(means, c));
        assert_true(fabs(sum / (double)count - want) < 1.5);
    }
}

static void check_reason(const char *file) {
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; ++i) {
        if (strcmp(reasons[i].file, file) == 0) {
            assert_non_null(strstr(cps_fail_message(), reasons[i].text));
            return;
        }
    }
    fail_msg("%s: refused (%s), but no reason is expected", file, cps_fail_message());
}

static void check_file(const cps_json *expected) {
    const char *file = cps_json_get_string(expected, "file", "");
    char *path = cps_path_join(folder, file);
    char *bytes = NULL;
    size_t length = 0;
    cps_image image = {0};
    assert_int_equal(cps_file_read(path, 1 << 20, &bytes, &length), CPS_OK);
    const cps_status status = cps_image_decode((const uint8_t *)bytes, length, 0, 0, &image);
    print_message("%s: %s\n", file, status == CPS_OK ? "decoded" : cps_fail_message());
    assert_int_equal(status == CPS_OK, should_decode(file, expected));
    if (status != CPS_OK) {
        check_reason(file);
    } else {
        cps_image crop = {0};
        check_means(&image, expected);
        assert_int_equal(cps_image_evaluation(&image, 224, false, CPS_BICUBIC, &crop), CPS_OK);
        cps_image_free(&crop);
        cps_image_free(&image);
    }
    free(bytes);
    free(path);
}

static void every_file_is_handled(void **state) {
    (void)state;
    cps_json *list = NULL;
    char *path = cps_path_join(folder, "expected.json");
    if (!cps_file_exists(path)) {
        print_message("skipped: there is no %s\n", path);
        free(path);
        skip();
    }
    assert_int_equal(cps_json_read_file(path, 1 << 20, &list), CPS_OK);
    assert_true(cps_json_count(list) > 0);
    for (int64_t i = 0; i < cps_json_count(list); ++i) {
        check_file(cps_json_at(list, i));
    }
    cps_json_destroy(list);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_file_is_handled)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
