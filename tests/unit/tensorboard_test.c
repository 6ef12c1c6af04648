/* report/tensorboard: files are parsed back here by code of their own, and by TensorBoard's reader
 * where a Python has it. */
#include "report/tensorboard.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

/* One message of the file, as found. */
typedef struct event {
    double wall_time;
    int64_t step;
    char version[32], tag[64];
    float value;
    bool has_value, is_start;
} event;

static void crc_check_values(void **state) {
    (void)state;
    assert_int_equal(cps_crc32c("123456789", 9), 0xe3069283u); /* check value of the polynomial */
    uint8_t zeros[32] = {0};
    assert_int_equal(cps_crc32c(zeros, 32), 0x8a9136aau); /* RFC 3720, B.4 */
    const uint32_t crc = 0xe3069283u;
    assert_int_equal(cps_crc32c_masked("123456789", 9),
                     (uint32_t)(((crc >> 15) | (crc << 17)) + 0xa282ead8u));
}

static uint64_t little(const uint8_t *bytes, int count) {
    uint64_t value = 0;
    for (int i = count - 1; i >= 0; i--) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static uint64_t varint(const uint8_t **at) {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        const uint8_t byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
}

/* Reads one field: number and wire type; *bytes, *length for wire 2, *number for the others. */
static int read_field(const uint8_t **at, const uint8_t **bytes, uint64_t *length,
                      uint64_t *number) {
    const uint64_t key = varint(at);
    *length = *number = 0;
    switch (key & 7) {
    case 0:
        *number = varint(at);
        break;
    case 1:
        *number = little(*at, 8);
        *at += 8;
        break;
    case 2:
        *length = varint(at);
        *bytes = *at;
        *at += *length;
        break;
    case 5:
        *number = little(*at, 4);
        *at += 4;
        break;
    default:
        fail_msg("wire type %d", (int)(key & 7));
    }
    return (int)(key >> 3);
}

static void read_value(const uint8_t *at, uint64_t length, event *out) {
    const uint8_t *const end = at + length, *bytes = NULL;
    while (at < end) {
        uint64_t size, number;
        const int field = read_field(&at, &bytes, &size, &number);
        if (field == 1) {
            snprintf(out->tag, sizeof out->tag, "%.*s", (int)size, (const char *)bytes);
        } else if (field == 2) {
            const uint32_t bits = (uint32_t)number;
            memcpy(&out->value, &bits, 4);
            out->has_value = true;
        }
    }
    assert_ptr_equal(at, end);
}

static event read_event(const uint8_t *at, uint64_t length) {
    event out = {0};
    const uint8_t *const end = at + length, *bytes = NULL;
    while (at < end) {
        uint64_t size, number;
        const int field = read_field(&at, &bytes, &size, &number);
        if (field == 1) {
            memcpy(&out.wall_time, &number, 8);
        } else if (field == 2) {
            out.step = (int64_t)number;
        } else if (field == 3) {
            snprintf(out.version, sizeof out.version, "%.*s", (int)size, (const char *)bytes);
        } else if (field == 5) {
            const uint8_t *inner = bytes, *item = NULL;
            assert_int_equal(read_field(&inner, &item, &size, &number), 1);
            read_value(item, size, &out);
        } else if (field == 7) {
            const uint8_t *inner = bytes;
            assert_int_equal(read_field(&inner, &bytes, &size, &number), 1);
            out.is_start = number == 1;
        }
    }
    assert_ptr_equal(at, end);
    return out;
}

static int read_file(const char *path, event *events, int most) {
    char *bytes = NULL;
    size_t length = 0;
    assert_int_equal(cps_file_read(path, 1 << 20, &bytes, &length), CPS_OK);
    const uint8_t *at = (const uint8_t *)bytes, *const end = at + length;
    int count = 0;
    while (at < end) {
        const uint64_t size = little(at, 8);
        assert_int_equal(little(at + 8, 4), cps_crc32c_masked(at, 8));
        assert_int_equal(little(at + 12 + size, 4), cps_crc32c_masked(at + 12, size));
        assert_true(count < most);
        events[count++] = read_event(at + 12, size);
        at += 16 + size;
    }
    assert_ptr_equal(at, end);
    free(bytes);
    return count;
}

static char folder[64];
static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/copse-board-XXXXXX");
    return mkdtemp(folder) == NULL;
}
static int remove_folder(void **state) {
    (void)state;
    char **paths = NULL;
    int64_t count = 0;
    char *pattern = cps_format("%s/*", folder);
    if (cps_glob(pattern, &paths, &count) == CPS_OK) {
        for (int64_t i = 0; i < count; i++) {
            unlink(paths[i]);
        }
        cps_strings_destroy(paths, count);
    }
    free(pattern);
    return rmdir(folder);
}

static void scalars_read_back(void **state) {
    (void)state;
    cps_tensorboard *board = NULL;
    assert_int_equal(cps_tensorboard_open(folder, 0, &board), CPS_OK);
    assert_int_equal(cps_tensorboard_scalar(board, "train/loss", 1, 2.5), CPS_OK);
    assert_int_equal(cps_tensorboard_scalar(board, "cls.top1", 300, -0.125), CPS_OK);
    assert_int_equal(cps_tensorboard_scalar(board, "x", 1000000000000, (double)NAN), CPS_OK);
    event events[8];
    const int count = read_file(cps_tensorboard_path(board), events, 8);
    assert_int_equal(count, 4);
    assert_string_equal(events[0].version, "brain.Event:2");
    assert_string_equal(events[1].tag, "train/loss");
    assert_int_equal(events[1].step, 1);
    assert_true(events[1].value == 2.5f && events[1].has_value);
    assert_true(events[1].wall_time > 1.6e9);
    assert_int_equal(events[2].step, 300);
    assert_true(events[2].value == -0.125f);
    assert_true(events[3].step == 1000000000000 && isnan(events[3].value));
    cps_tensorboard_close(board);
}

static void a_long_tag_is_cut(void **state) {
    (void)state;
    char tag[1000];
    memset(tag, 't', sizeof tag - 1);
    tag[sizeof tag - 1] = '\0';
    cps_tensorboard *board = NULL;
    assert_int_equal(cps_tensorboard_open(folder, 0, &board), CPS_OK);
    assert_int_equal(cps_tensorboard_scalar(board, tag, INT64_MAX, 1.0), CPS_OK);
    event events[4];
    assert_int_equal(read_file(cps_tensorboard_path(board), events, 4), 2);
    assert_true(events[1].step == INT64_MAX);
    cps_tensorboard_close(board);
}

static void a_resume_is_marked(void **state) {
    (void)state;
    cps_tensorboard *board = NULL;
    assert_int_equal(cps_tensorboard_open(folder, 21, &board), CPS_OK);
    event events[4];
    assert_int_equal(read_file(cps_tensorboard_path(board), events, 4), 2);
    assert_true(events[1].is_start && events[1].step == 21);
    cps_tensorboard_close(board);
    assert_int_equal(cps_tensorboard_scalar(NULL, "x", 1, 1.0), CPS_OK);
    assert_int_not_equal(cps_tensorboard_open("/proc/nowhere", 0, &board), CPS_OK);
}

static void tensorboards_own_reader_agrees(void **state) {
    (void)state;
    const char *python = getenv("COPSE_TEST_PYTHON");
    char *have =
        cps_format("%s -c 'import tensorboard' >/dev/null 2>&1", python ? python : "python3");
    const int missing = system(have);
    free(have);
    if (missing != 0) {
        print_message("skipped: no Python with tensorboard (COPSE_TEST_PYTHON names one)\n");
        skip();
    }
    cps_tensorboard *board = NULL;
    assert_int_equal(cps_tensorboard_open(folder, 0, &board), CPS_OK);
    for (int step = 1; step <= 3; step++) {
        assert_int_equal(cps_tensorboard_scalar(board, "train/loss", step, 1.0 / step), CPS_OK);
    }
    cps_tensorboard_close(board);
    assert_int_equal(cps_tensorboard_open(folder, 3, &board), CPS_OK);
    assert_int_equal(cps_tensorboard_scalar(board, "train/loss", 3, 7.0), CPS_OK);
    cps_tensorboard_close(board);
    char *command = cps_format(
        "%s -c \"from tensorboard.backend.event_processing.event_accumulator import "
        "EventAccumulator as E\na = E('%s')\na.Reload()\n"
        "assert [(s.step, s.value) for s in a.Scalars('train/loss')] == [(1, 1.0), (2, 0.5), (3, "
        "7.0)]\" 2>/dev/null",
        python ? python : "python3", folder);
    assert_int_equal(system(command), 0);
    free(command);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_check_values),
        CASE(scalars_read_back),
        CASE(a_long_tag_is_cut),
        CASE(a_resume_is_marked),
        CASE(tensorboards_own_reader_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
