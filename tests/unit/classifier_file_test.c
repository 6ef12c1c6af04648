/* Classifiers in files: what is written comes back, equal content gives equal bytes, damage and
 * matrices that do not fit are refused. */
#include "eval/classifier_file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "h5/h5.h"

enum { CLASSES = 3, WIDTH = 4 };

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cps-classifier-XXXXXX");
    return mkdtemp(folder) == NULL || chdir(folder) != 0;
}

static int remove_folder(void **state) {
    (void)state;
    char *command = cps_format("rm -rf '%s'", folder);
    const int rc = system(command);
    free(command);
    return rc;
}

static void expect_message(cps_status got, const char *part) {
    assert_int_equal(got, CPS_ERR_DATA);
    if (strstr(cps_fail_message(), part) == NULL) {
        fail_msg("'%s' is not in '%s'", part, cps_fail_message());
    }
}

static const cps_real unit_rows[CLASSES][WIDTH] = {
    {(cps_real)0.6, (cps_real)0.8, 0, 1}, {1, 0, 0, 1}, {0, (cps_real)-0.28, (cps_real)0.96, -1}};

/* Two components, of 3 and 1 numbers. */
static void make_classifier(cps_classifier *classifier, bool taxa) {
    static const char *const texts[CLASSES][CPS_TAXON_FIELDS] = {
        {"a", "b", "", "d", "e", "F", "g", "caf\xc3\xa9"},
        {"label, two", "b", "c", "d", "e", "F", "h", ""},
        {"A", "b", "c", "d", "e", "F", "g", "x"}};
    *classifier = (cps_classifier){
        .vectors = {.rows = CLASSES, .width = WIDTH, .component_count = 2, .widths = {3, 1}}};
    cps_class_names_init(&classifier->names, taxa);
    for (int i = 0; i < CLASSES; i++) {
        assert_int_equal(cps_class_names_add(&classifier->names, texts[i]), CPS_OK);
    }
    classifier->vectors.values = malloc(sizeof unit_rows);
    memcpy(classifier->vectors.values, unit_rows, sizeof unit_rows);
}

static cps_classifier_origin make_origin(int64_t templates) {
    cps_classifier_origin origin = {.text = cps_format("taxon_com"),
                                    .averaging = cps_format("normalise_first"),
                                    .templates = calloc((size_t)templates + 1, sizeof(char *)),
                                    .template_count = templates,
                                    .model_digest = 0x123456789abcdef0u};
    for (int64_t i = 0; i < templates; i++) {
        origin.templates[i] = cps_format("photo %d of {}.", (int)i);
    }
    return origin;
}

static void check_round(bool taxa, bool half, int64_t templates) {
    cps_classifier written, read;
    cps_classifier_origin origin = make_origin(templates), found;
    make_classifier(&written, taxa);
    assert_int_equal(cps_classifier_write("c.h5", &written, &origin, half), CPS_OK);
    assert_int_equal(cps_classifier_write("again.h5", &written, &origin, half), CPS_OK);
    assert_int_equal(system("cmp c.h5 again.h5"), 0);
    assert_int_equal(cps_classifier_read("c.h5", &read, &found), CPS_OK);
    assert_int_equal(read.vectors.rows, CLASSES);
    assert_int_equal(read.vectors.component_count, 2);
    if (half) {
        for (int i = 0; i < CLASSES * WIDTH; i++) {
            assert_true(fabs((double)(read.vectors.values[i] - unit_rows[i / WIDTH][i % WIDTH])) <
                        5e-4);
        }
    } else {
        assert_memory_equal(read.vectors.values, unit_rows, sizeof unit_rows);
    }
    assert_int_equal(cps_class_names_are_taxa(&read.names), taxa);
    assert_true(cps_class_names_digest(&read.names) == cps_class_names_digest(&written.names));
    assert_string_equal(found.text, "taxon_com");
    assert_int_equal(found.template_count, templates);
    assert_true(found.model_digest == origin.model_digest);
    /* names that came from a file may be asked and added to */
    const char *more[CPS_TAXON_FIELDS] = {"a", "b", "c", "d", "e", "F", "new", ""};
    assert_int_equal(cps_class_names_add(&read.names, more), CPS_OK);
    assert_string_equal(cps_class_name(&read.names, CLASSES, 0), "a");
    const uint64_t key = cps_classifier_key(&written.names, &origin);
    assert_true(cps_classifier_has_key("c.h5", key));
    assert_false(cps_classifier_has_key("c.h5", key + 1));
    assert_false(cps_classifier_has_key("nothing.h5", key));
    cps_classifier_free(&written);
    cps_classifier_free(&read);
    cps_classifier_origin_free(&origin);
    cps_classifier_origin_free(&found);
}

static void test_round(void **state) {
    (void)state;
    check_round(true, false, 2);
    check_round(true, true, 2);
    check_round(false, false, 1);
    check_round(false, true, 0);
}

static void test_keys(void **state) {
    (void)state;
    cps_classifier classifier;
    cps_classifier_origin origin = make_origin(2);
    make_classifier(&classifier, true);
    const uint64_t key = cps_classifier_key(&classifier.names, &origin);
    origin.model_digest++;
    assert_true(cps_classifier_key(&classifier.names, &origin) != key);
    origin.model_digest--;
    origin.templates[1][0] = 'P';
    assert_true(cps_classifier_key(&classifier.names, &origin) != key);
    origin.templates[1][0] = 'p';
    assert_true(cps_classifier_key(&classifier.names, &origin) == key);
    const int64_t two[] = {0, 1};
    assert_int_equal(cps_classifier_keep(&classifier, two, 2), CPS_OK);
    assert_true(cps_classifier_key(&classifier.names, &origin) != key);
    cps_classifier_free(&classifier);
    cps_classifier_origin_free(&origin);
}

/* Every byte changed in turn: refused, or the same content. */
static void test_damage(void **state) {
    (void)state;
    cps_classifier classifier;
    cps_classifier_origin origin = make_origin(1), found;
    make_classifier(&classifier, true);
    assert_int_equal(cps_classifier_write("d.h5", &classifier, &origin, false), CPS_OK);
    char *bytes = NULL;
    size_t length = 0;
    int64_t refused = 0;
    assert_int_equal(cps_file_read("d.h5", 1 << 20, &bytes, &length), CPS_OK);
    for (size_t at = 0; at < length; at += 3) {
        bytes[at] ^= 0x55;
        FILE *file = fopen("x.h5", "wb");
        assert_non_null(file);
        fwrite(bytes, 1, length, file);
        fclose(file);
        cps_classifier read;
        if (cps_classifier_read("x.h5", &read, &found) == CPS_OK) {
            assert_memory_equal(read.vectors.values, unit_rows, sizeof unit_rows);
            assert_true(cps_class_names_digest(&read.names) ==
                        cps_class_names_digest(&classifier.names));
            cps_classifier_free(&read);
            cps_classifier_origin_free(&found);
        } else {
            refused++;
        }
        bytes[at] ^= 0x55;
    }
    assert_true(refused > 100);
    for (size_t cut = 0; cut < length; cut += 211) {
        assert_int_equal(cps_file_write_atomic("x.h5", bytes, cut), CPS_OK);
        cps_classifier read;
        assert_int_not_equal(cps_classifier_read("x.h5", &read, &found), CPS_OK);
    }
    free(bytes);
    cps_classifier_free(&classifier);
    cps_classifier_origin_free(&origin);
}

static void test_other_files(void **state) {
    (void)state;
    cps_classifier read;
    cps_classifier_origin found;
    cps_h5 *file = NULL;
    assert_int_equal(cps_h5_create("other.h5", &file), CPS_OK);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    expect_message(cps_classifier_read("other.h5", &read, &found), "no classifier of Copse");
    assert_int_equal(cps_h5_create("other.h5", &file), CPS_OK);
    assert_int_equal(cps_h5_write_text(file, "/", "format", "copse-shard"), CPS_OK);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    expect_message(cps_classifier_read("other.h5", &read, &found), "but a copse-shard");
    assert_int_equal(cps_classifier_read("nothing.h5", &read, &found), CPS_ERR_UNAVAILABLE);
    cps_classifier classifier;
    cps_classifier_origin origin = make_origin(1);
    make_classifier(&classifier, true);
    classifier.vectors.values[3] = 0; /* the second component of the first class */
    assert_int_equal(cps_classifier_write("zero.h5", &classifier, &origin, false), CPS_OK);
    expect_message(cps_classifier_read("zero.h5", &read, &found),
                   "1 of 3 class vectors are zero or not finite: 1 'a b d e F g'");
    cps_classifier_free(&classifier);
    cps_classifier_origin_free(&origin);
}

/* ---- the published pair ---- */

static const char names_json[] = "[[[\"a\",\"b\",\"c\",\"d\",\"e\",\"F\",\"one\"],\"\"],"
                                 "[[\"a\",\"b\",\"c\",\"d\",\"e\",\"F\",\"two\"],\"second\"]]";

static void write_matrix(const char *path, const char *order, const char *shape,
                         const float *values, int64_t count) {
    char *dictionary =
        cps_format("{'descr': '<f4', 'fortran_order': %s, 'shape': (%s)}\n", order, shape);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    const unsigned char length[2] = {(unsigned char)strlen(dictionary), 0};
    fwrite("\x93NUMPY\x01\0", 1, 8, file);
    fwrite(length, 1, 2, file);
    fputs(dictionary, file);
    fwrite(values, sizeof *values, (size_t)count, file);
    fclose(file);
    free(dictionary);
}

static void expect_published(void) {
    cps_classifier read;
    double furthest = -1.0;
    assert_int_equal(cps_classifier_read_published("m.npy", "n.json", &read, &furthest), CPS_OK);
    assert_true(fabs(furthest - 1.0) < 1e-6); /* the second has length 2 */
    const cps_real wanted[6] = {(cps_real)0.6, 0, (cps_real)0.8, 0, 1, 0};
    for (int i = 0; i < 6; i++) {
        assert_true(fabs((double)(read.vectors.values[i] - wanted[i])) < 1e-6);
    }
    assert_string_equal(cps_class_name(&read.names, 1, CPS_NAME_COMMON), "second");
    cps_classifier_free(&read);
}

static void test_published(void **state) {
    (void)state;
    static const float by_width[6] = {0.6f, 0, 0, 2, 0.8f, 0},
                       by_class[6] = {0.6f, 0, 0.8f, 0, 2, 0};
    static const float zero[6] = {0.6f, 0, 0, 0, 0.8f, 0};
    cps_classifier read;
    double furthest;
    assert_int_equal(cps_file_write_atomic("n.json", names_json, strlen(names_json)), CPS_OK);
    write_matrix("m.npy", "False", "3, 2", by_width, 6);
    expect_published();
    write_matrix("m.npy", "True", "3, 2", by_class, 6);
    expect_published();
    write_matrix("m.npy", "False", "2, 3", by_class, 6);
    expect_message(cps_classifier_read_published("m.npy", "n.json", &read, &furthest),
                   "an array [2, 3], wanted is [width, 2]");
    write_matrix("m.npy", "False", "6,", by_class, 6);
    expect_message(cps_classifier_read_published("m.npy", "n.json", &read, &furthest),
                   "an array [6], wanted");
    write_matrix("m.npy", "False", "3, 2", zero, 6);
    expect_message(cps_classifier_read_published("m.npy", "n.json", &read, &furthest),
                   "1 of 2 class vectors are zero or not finite: 2 'a b c d e F two'");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round),     cmocka_unit_test(test_keys),
        cmocka_unit_test(test_damage),    cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_published),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
