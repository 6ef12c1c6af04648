/* report/prediction_file, paired_predictions and comparison: files of strangers, pairs, and a small
 * comparison whose numbers were worked out by hand. */
#include "report/comparison.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "eval/predictions.h"
#include "h5/h5.h"
#include "report/paired_predictions.h"

static char folder[] = "/tmp/copse-comparison-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) == NULL ? -1 : 0;
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

static char *path_of(const char *name) {
    return cps_format("%s/%s.h5", folder, name);
}

static double number_at(const cps_json *root, const char *path) {
    return cps_json_number(cps_json_path(root, path));
}

static const char *text_at(const cps_json *root, const char *path) {
    const char *text = cps_json_string(cps_json_path(root, path));
    return text == NULL ? "" : text;
}

static void assert_near(double seen, double wanted) {
    if (!(fabs(seen - wanted) < 1e-12)) {
        print_error("%.17g, %.17g is wanted\n", seen, wanted);
    }
    assert_true(fabs(seen - wanted) < 1e-12);
}

/* ---- files ---- */

enum { SAMPLES = 8, ROOM = 16 };
static const char *const class_names[] = {"oak", "ash"};

typedef struct made_file {
    const char *evaluation;
    uint64_t data_digest, preprocessing_digest, first_id;
    int32_t rows;
    const char *right; /* '1' where the answer is right, one character a sample */
    bool reversed;
    bool extra; /* and a sample that others have not */
    int32_t first_label;
} made_file;

/* Labels 0 for the first half, 1 for the rest. */
static void write_made(const char *path, made_file made) {
    uint64_t ids[ROOM];
    int32_t labels[ROOM], index[2 * ROOM], depths[ROOM], shards[ROOM] = {0};
    int64_t records[ROOM];
    cps_real score[2 * ROOM] = {0};
    const char *const shard_names[] = {"test-00000.h5"};
    const int32_t rows = SAMPLES + made.extra;
    for (int32_t i = 0; i < rows; i++) {
        const int32_t sample = i == SAMPLES ? 99 : made.reversed ? SAMPLES - 1 - i : i;
        const bool right = i == SAMPLES || made.right[sample] == '1';
        ids[i] = made.first_id + (uint64_t)sample;
        labels[i] = sample < SAMPLES / 2 ? made.first_label : 1 - made.first_label;
        index[2 * i] = right ? labels[i] : 1 - labels[i];
        index[2 * i + 1] = 1 - index[2 * i];
        depths[i] = right ? 7 : 3;
        records[i] = sample;
    }
    const cps_predictions predictions = {.rows = rows, .top = 2, .index = index, .score = score};
    const cps_class_list classes = {.count = 2, .names = (const char **)(uintptr_t)class_names};
    const cps_predictions_content content = {
        .evaluation = made.evaluation == NULL ? "plants" : made.evaluation,
        .kind = "knn",
        .step = 20,
        .data_digest = made.data_digest,
        .preprocessing_digest = made.preprocessing_digest,
        .rows = rows,
        .sample_ids = ids,
        .labels = labels,
        .records = records,
        .shards = shards,
        .shard_names = shard_names,
        .shard_count = 1,
        .shared_depth = depths,
        .predictions = &predictions,
        .classes = &classes};
    assert_int_equal(cps_predictions_write(path, &content), CPS_OK);
}

/* Retrieval: three images with two captions each. */
static void write_ranks(const char *path, const int64_t *image_ranks, const int64_t *text_ranks) {
    const uint64_t ids[] = {30, 10, 20};
    const int64_t owners[] = {0, 0, 1, 1, 2, 2};
    int64_t images[3], texts[6];
    memcpy(images, image_ranks, sizeof images);
    memcpy(texts, text_ranks, sizeof texts);
    const cps_retrieval_ranks ranks = {
        .images = 3, .texts = 6, .image_to_text = images, .text_to_image = texts};
    const cps_predictions_content content = {.evaluation = "pairs",
                                             .kind = "retrieval",
                                             .step = 4,
                                             .rows = 3,
                                             .sample_ids = ids,
                                             .ranks = &ranks,
                                             .owners = owners};
    assert_int_equal(cps_predictions_write(path, &content), CPS_OK);
}

/* ---- requests ---- */

static void add_file(cps_json *files, const char *method, int seed, const char *name) {
    char *path = path_of(name);
    cps_json *file = cps_json_add_object(files, NULL);
    cps_json_add_string(file, "run", name);
    cps_json_add_string(file, "method", method);
    cps_json_add_number(file, "seed", seed);
    cps_json_add_string(file, "path", path);
    free(path);
}

static cps_json *new_request(void) {
    cps_json *request = cps_json_new_object();
    cps_json *methods = cps_json_add_array(request, "methods");
    cps_json_add_string(methods, NULL, "a");
    cps_json_add_string(methods, NULL, "b");
    cps_json_add_string(request, "baseline", "a");
    cps_json_add_array(request, "evaluations");
    return request;
}

/* The files of an evaluation, to be filled. metrics: names with blanks between, NULL: the main. */
static cps_json *add_evaluation(cps_json *request, const char *name, const char *metrics) {
    cps_json *list = (cps_json *)(uintptr_t)cps_json_get(request, "evaluations");
    cps_json *evaluation = cps_json_add_object(list, NULL);
    cps_json_add_string(evaluation, "name", name);
    if (metrics != NULL) {
        cps_json *array = cps_json_add_array(evaluation, "metrics");
        char *words = cps_format("%s", metrics), *rest = words;
        for (char *word; (word = strtok_r(rest, " ", &rest)) != NULL;) {
            cps_json_add_string(array, NULL, word);
        }
        free(words);
    }
    return cps_json_add_array(evaluation, "files");
}

static cps_json *compared(cps_json *request) {
    cps_json *result = NULL;
    const cps_status status = cps_comparison(request, &result);
    if (status != CPS_OK) {
        print_error("%s\n", cps_fail_message());
    }
    assert_int_equal(status, CPS_OK);
    cps_json_destroy(request);
    return result;
}

static void refused(cps_json *request, cps_status wanted, const char *part) {
    cps_json *result = NULL;
    assert_int_equal(cps_comparison(request, &result), wanted);
    assert_null(result);
    if (strstr(cps_fail_message(), part) == NULL) {
        print_error("no '%s' in: %s\n", part, cps_fail_message());
    }
    assert_non_null(strstr(cps_fail_message(), part));
    cps_json_destroy(request);
}

static void write_four(const char *evaluation) {
    static const char *const right[] = {"11001000", "11101100", "11111100", "11111011"};
    static const char *const names[] = {"a1", "a2", "b1", "b2"};
    for (int i = 0; i < 4; i++) {
        char *name = cps_format("%s-%s", evaluation, names[i]);
        char *path = path_of(name);
        write_made(path, (made_file){.evaluation = evaluation,
                                     .right = right[i],
                                     .reversed = i >= 2,
                                     .extra = i == 3});
        free(path);
        free(name);
    }
}

static void add_four(cps_json *files, const char *evaluation) {
    static const char *const names[] = {"b2", "a2", "a1", "b1"};
    for (int i = 0; i < 4; i++) {
        char *name = cps_format("%s-%s", evaluation, names[i]);
        add_file(files, (const char[]){names[i][0], '\0'}, names[i][1] - '0', name);
        free(name);
    }
}

/* ---- by hand ----
 * Right answers of 8 samples: a: 3 and 5, b: 6 and 7 (seeds 1 and 2), so means 1/2 and 13/16. */

static void estimates(void **state) {
    (void)state;
    write_four("plants");
    cps_json *request = new_request();
    add_four(add_evaluation(request, "plants", "top1 per_class"), "plants");
    cps_json *result = compared(request);
    const cps_json *evaluation = cps_json_path(result, "evaluations.0");
    assert_near(number_at(evaluation, "samples"), 8.0);
    assert_near(number_at(evaluation, "unpaired"), 1.0);
    assert_string_equal(text_at(result, "warnings.0.kind"), "unpaired");
    const cps_json *a = cps_json_path(evaluation, "metrics.0.methods.0");
    const cps_json *b = cps_json_path(evaluation, "metrics.0.methods.1");
    assert_near(number_at(a, "estimate"), 0.5);
    assert_near(number_at(b, "estimate"), 13.0 / 16.0);
    assert_near(number_at(a, "values.0"), 3.0 / 8.0);
    assert_near(number_at(a, "values.1"), 5.0 / 8.0);
    assert_near(number_at(a, "seed_sd"), sqrt(2.0) / 8.0);
    /* 1/2 +- 12.706204736432095 sd / sqrt(2): Student with one degree of freedom */
    assert_true(fabs(number_at(a, "seed_interval.0") - (0.5 - 12.706204736432095 / 8.0)) < 1e-9);
    /* Wilson, 3 of 8: (0.375 + z^2/16 +- z sqrt(0.375 * 0.625 / 8 + z^2/256)) / (1 + z^2/8) */
    const double z = 1.959963984540054, n = 8.0, p = 0.375;
    const double middle = (p + z * z / (2 * n)) / (1 + z * z / n);
    const double half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n);
    assert_true(fabs(number_at(a, "wilson.0.interval.0") - (middle - half)) < 1e-12);
    assert_true(fabs(number_at(a, "wilson.0.interval.1") - (middle + half)) < 1e-12);
    assert_true(cps_json_get_bool(b, "best", false) && !cps_json_get_bool(a, "best", true));
    /* balanced classes: the class mean is the mean */
    assert_near(number_at(evaluation, "metrics.1.methods.1.estimate"), 13.0 / 16.0);
    assert_string_equal(text_at(evaluation, "metrics.1.statistic"), "class_mean");
    cps_json_destroy(result);
}

static void differences(void **state) {
    (void)state;
    write_four("plants");
    cps_json *request = new_request();
    add_four(add_evaluation(request, "plants", "top1 per_class"), "plants");
    cps_json *result = compared(request);
    const cps_json *one = cps_json_path(result, "evaluations.0.metrics.0.comparisons.0");
    assert_near(number_at(one, "estimate"), 5.0 / 16.0);
    /* seed 1: b alone right on 3, a on none; seed 2: 3 and 1 */
    assert_near(number_at(one, "per_seed.0.difference"), 3.0 / 8.0);
    assert_near(number_at(one, "per_seed.0.only_method"), 3.0);
    assert_near(number_at(one, "per_seed.0.only_other"), 0.0);
    assert_near(number_at(one, "per_seed.0.p_exact"), 0.25);
    assert_near(number_at(one, "per_seed.0.p_mid"), 0.125);
    assert_near(number_at(one, "per_seed.1.p_exact"), 10.0 / 16.0);
    assert_near(number_at(one, "per_seed.1.p_mid"), 6.0 / 16.0);
    /* of the four sign patterns of (3/8, 2/8) two are as far out */
    assert_near(number_at(one, "sign_flip.p"), 0.5);
    assert_near(number_at(one, "sign_flip.smallest_p"), 0.5);
    /* two equal tests: Holm doubles the p of both */
    assert_near(number_at(result, "tests.baseline"), 2.0);
    assert_near(number_at(one, "p_adjusted"), fmin(1.0, 2.0 * number_at(one, "p")));
    assert_string_equal(text_at(one, "verdict"), "not distinguishable");
    assert_true(number_at(one, "detectable") > 0.3125);
    assert_true(cps_json_get_bool(cps_json_path(result, "evaluations.0.metrics.0.methods.0"),
                                  "tied", false));
    cps_json_destroy(result);
}

static void where_they_differ(void **state) {
    (void)state;
    write_four("plants");
    cps_json *request = new_request();
    add_four(add_evaluation(request, "plants", NULL), "plants");
    cps_json *result = compared(request);
    const cps_json *evaluation = cps_json_path(result, "evaluations.0");
    /* class 0: a 2/4 and 3/4, b all; class 1: a 1/4 and 2/4, b 2/4 and 3/4 */
    assert_near(number_at(evaluation, "per_class.classes.0.methods.0.mean"), 0.625);
    assert_near(number_at(evaluation, "per_class.classes.0.methods.0.low"), 0.5);
    assert_near(number_at(evaluation, "per_class.classes.1.methods.1.mean"), 0.625);
    assert_near(number_at(evaluation, "per_class.classes.1.methods.1.high"), 0.75);
    /* right answers agree in all ranks, wrong ones in three */
    assert_near(number_at(evaluation, "ranks.2.methods.0.mean"), 1.0);
    assert_near(number_at(evaluation, "ranks.6.methods.0.mean"), 0.5);
    /* class 0 taken for 1: a 2 and 1, b never; class 1 for 0: a 3 and 2, b 2 and 1 */
    assert_string_equal(text_at(evaluation, "confusions.0.label_name"), "oak");
    assert_near(number_at(evaluation, "confusions.0.count_change"), -1.5);
    assert_near(number_at(evaluation, "confusions.0.baseline_share"), 0.375);
    assert_near(number_at(evaluation, "confusions.1.count_change"), -1.0);
    assert_int_equal(cps_json_count(cps_json_path(evaluation, "confusions")), 2);
    /* sample 3: both of b right, none of a */
    assert_string_equal(text_at(evaluation, "disagreements.0.sample_id"), "0000000000000003");
    assert_near(number_at(evaluation, "disagreements.0.record"), 3.0);
    assert_near(number_at(evaluation, "disagreements.0.methods.0.right"), 0.0);
    assert_string_equal(text_at(evaluation, "disagreements.0.methods.0.answer_name"), "ash");
    assert_near(number_at(evaluation, "disagreements.0.methods.1.right"), 1.0);
    cps_json_destroy(result);
}

/* b is better on all three: rank sums 6 and 3, chi2 = 12 / (3 2 3) (36 + 9) - 27 = 3. */
static void several_data_sets(void **state) {
    (void)state;
    static const char *const names[] = {"one", "two", "three"};
    cps_json *request = new_request();
    for (int i = 0; i < 3; i++) {
        write_four(names[i]);
        add_four(add_evaluation(request, names[i], NULL), names[i]);
    }
    cps_json *result = compared(request);
    assert_int_equal(cps_json_count(cps_json_path(result, "friedman.0.evaluations")), 3);
    assert_true(fabs(number_at(result, "friedman.0.chi2") - 3.0) < 1e-12);
    assert_true(fabs(number_at(result, "friedman.0.p") - 0.083264516663550406) < 1e-12);
    assert_near(number_at(result, "friedman.0.ranks.0.rank"), 2.0);
    assert_near(number_at(result, "friedman.0.ranks.1.rank"), 1.0);
    assert_near(number_at(result, "tests.baseline"), 3.0);
    cps_json_destroy(result);
}

static void one_seed(void **state) {
    (void)state;
    write_four("plants");
    cps_json *request = new_request();
    cps_json *files = add_evaluation(request, "plants", NULL);
    add_file(files, "a", 1, "plants-a1");
    add_file(files, "b", 1, "plants-b1");
    cps_json *result = compared(request);
    const cps_json *one = cps_json_path(result, "evaluations.0.metrics.0.comparisons.0");
    assert_false(cps_json_get_bool(one, "seed_variance_known", true));
    assert_null(cps_json_path(result, "evaluations.0.metrics.0.methods.0.seed_sd"));
    assert_near(number_at(one, "estimate"), 3.0 / 8.0);
    assert_true(number_at(one, "p") > 0.0 && number_at(one, "p") < 1.0);
    cps_json_destroy(result);
}

/* Equal answers: a difference of 0 without any spread. */
static void equal_methods(void **state) {
    (void)state;
    write_four("plants");
    cps_json *request = new_request();
    cps_json *files = add_evaluation(request, "plants", NULL);
    add_file(files, "a", 1, "plants-a1");
    add_file(files, "a", 2, "plants-a2");
    add_file(files, "b", 1, "plants-a1");
    add_file(files, "b", 2, "plants-a2");
    cps_json *result = compared(request);
    const cps_json *one = cps_json_path(result, "evaluations.0.metrics.0.comparisons.0");
    assert_near(number_at(one, "estimate"), 0.0);
    assert_near(number_at(one, "p_adjusted"), 1.0);
    assert_near(number_at(one, "interval.0"), 0.0);
    assert_string_equal(text_at(one, "verdict"), "not distinguishable");
    assert_int_equal(cps_json_count(cps_json_path(result, "evaluations.0.disagreements")), 0);
    cps_json_destroy(result);
}

/* Captions of an image are drawn together. */
static void retrieval(void **state) {
    (void)state;
    char *a = path_of("pairs-a"), *b = path_of("pairs-b");
    write_ranks(a, (const int64_t[]){1, 4, 2}, (const int64_t[]){1, 2, 3, 1, 3, 2});
    write_ranks(b, (const int64_t[]){1, 1, 1}, (const int64_t[]){1, 1, 1, 1, 1, 3});
    cps_json *request = new_request();
    cps_json *files = add_evaluation(request, "pairs",
                                     "image_to_text_r1 text_to_image_r2 image_to_text_median_rank "
                                     "text_to_image_mean_rank top1");
    add_file(files, "a", 1, "pairs-a");
    add_file(files, "b", 1, "pairs-b");
    cps_json *result = compared(request);
    const cps_json *metrics = cps_json_path(result, "evaluations.0.metrics");
    assert_int_equal(cps_json_count(metrics), 4); /* top1 is not offered */
    assert_near(number_at(metrics, "0.methods.0.estimate"), 1.0 / 3.0);
    assert_near(number_at(metrics, "1.methods.0.estimate"), 4.0 / 6.0);
    assert_near(number_at(metrics, "1.values"), 6.0);
    assert_near(number_at(metrics, "2.methods.0.estimate"), 2.0);
    assert_near(number_at(metrics, "2.comparisons.0.estimate"), -1.0);
    assert_true(cps_json_get_bool(cps_json_path(metrics, "2.methods.1"), "best", false));
    assert_near(number_at(metrics, "3.methods.0.estimate"), 2.0);
    assert_null(cps_json_path(metrics, "1.comparisons.0.per_seed.0.p_mid"));
    cps_json_destroy(result);
    free(a);
    free(b);
}

/* ---- what cannot be compared ---- */

static void refuse_with(made_file other, cps_status wanted, const char *part) {
    char *a = path_of("left"), *b = path_of("right");
    write_made(a, (made_file){.right = "11110000", .data_digest = 1, .preprocessing_digest = 2});
    write_made(b, other);
    cps_json *request = new_request();
    cps_json *files = add_evaluation(request, "plants", NULL);
    add_file(files, "a", 1, "left");
    add_file(files, "b", 1, "right");
    refused(request, wanted, part);
    free(a);
    free(b);
}

static void refusals(void **state) {
    (void)state;
    const made_file like = {.right = "11110000", .data_digest = 1, .preprocessing_digest = 2};
    made_file other = like;
    other.data_digest = 3;
    refuse_with(other, CPS_ERR_DATA, "evaluation sets of");
    other = like;
    other.preprocessing_digest = 3;
    refuse_with(other, CPS_ERR_DATA, "preprocessing of images of");
    other = like;
    other.first_id = 1000;
    refuse_with(other, CPS_ERR_DATA, "no sample in common");
    other = like;
    other.first_label = 1;
    refuse_with(other, CPS_ERR_DATA, "has label");
    other = like;
    other.evaluation = "else";
    refuse_with(other, CPS_ERR_DATA, "is of evaluation 'else'");
}

static void bad_requests(void **state) {
    (void)state;
    write_four("plants");
    cps_json *request = new_request();
    cps_json *files = add_evaluation(request, "plants", NULL);
    add_file(files, "a", 1, "plants-a1");
    add_file(files, "a", 1, "plants-a2");
    refused(request, CPS_ERR_USAGE, "both of method 'a' with seed 1");
    request = new_request();
    files = add_evaluation(request, "plants", NULL);
    add_file(files, "a", 1, "plants-a1");
    add_file(files, "b", 2, "plants-b2");
    cps_json *result = compared(request); /* shown, but not compared */
    assert_near(number_at(result, "tests.baseline"), 0.0);
    assert_near(number_at(result, "evaluations.0.metrics.0.methods.1.estimate"), 7.0 / 8.0);
    assert_string_equal(text_at(result, "warnings.1.kind"), "seeds");
    cps_json_destroy(result);
    request = new_request();
    add_file(add_evaluation(request, "plants", NULL), "c", 1, "plants-a1");
    refused(request, CPS_ERR_USAGE, "known method");
    refused(new_request(), CPS_ERR_USAGE, "no evaluation");
    refused(cps_json_new_object(), CPS_ERR_USAGE, "0 methods");
    request = new_request();
    add_file(add_evaluation(request, "plants", NULL), "a", 1, "nowhere");
    refused(request, CPS_ERR_UNAVAILABLE, "nowhere");
}

/* ---- files of strangers ---- */

static cps_status read_status(const char *path) {
    cps_prediction_file file;
    const cps_status status = cps_prediction_file_read(path, &file);
    if (status == CPS_OK) {
        cps_prediction_file_free(&file);
    }
    return status;
}

static void damaged_files(void **state) {
    (void)state;
    char *path = path_of("whole"), *cut = path_of("cut");
    char *bytes = NULL;
    size_t length = 0;
    write_made(path, (made_file){.right = "11110000"});
    assert_int_equal(cps_file_read(path, 1 << 20, &bytes, &length), CPS_OK);
    for (size_t at = 0; at < length; at += 97) { /* shorter */
        assert_int_equal(cps_file_write_atomic(cut, bytes, at), CPS_OK);
        assert_int_not_equal(read_status(cut), CPS_OK);
    }
    int64_t read = 0;
    for (size_t at = 0; at < length; at += 13) { /* a byte changed: read or refused */
        bytes[at] = (char)(bytes[at] ^ 0x55);
        assert_int_equal(cps_file_write_atomic(cut, bytes, length), CPS_OK);
        read += read_status(cut) == CPS_OK;
        bytes[at] = (char)(bytes[at] ^ 0x55);
    }
    assert_true(read > 0);
    free(bytes);
    free(path);
    free(cut);
}

/* A file of our own that says what no evaluation says. */
typedef struct strange {
    const char *format;
    int64_t version, rows, labels, top;
    int32_t label, answer, depth;
    const char *digest, *missing, *part;
} strange;

static cps_status write_strange(cps_h5 *file, const void *context) {
    const strange *s = context;
    uint64_t ids[ROOM] = {1, 2, 3};
    int32_t labels[ROOM], answers[ROOM], depths[ROOM];
    for (int i = 0; i < ROOM; i++) {
        ids[i] = (uint64_t)i;
        labels[i] = s->label;
        answers[i] = s->answer;
        depths[i] = s->depth;
    }
    const int64_t shape[] = {s->rows, s->top};
    CPS_TRY(cps_h5_write_text(file, "/", "format", s->format));
    CPS_TRY(cps_h5_write_integer(file, "/", "version", s->version));
    CPS_TRY(cps_h5_write_text(file, "/", "evaluation", "plants"));
    CPS_TRY(cps_h5_write_text(file, "/", "kind", "knn"));
    CPS_TRY(cps_h5_write_integer(file, "/", "step", 1));
    CPS_TRY(cps_h5_write_text(file, "/", "data_digest", s->digest));
    CPS_TRY(cps_h5_write_text(file, "/", "preprocessing_digest", "0123456789abcdef"));
    if (strcmp(s->missing, "sample_id") != 0) {
        CPS_TRY(cps_h5_write(file, "sample_id", CPS_H5_U64, 1, &s->rows, ids));
    }
    CPS_TRY(cps_h5_write(file, "label", CPS_H5_I32, 1, &s->labels, labels));
    CPS_TRY(cps_h5_write_strings(file, "class_name", class_names, 2));
    CPS_TRY(cps_h5_write(file, "shared_depth", CPS_H5_I32, 1, &s->rows, depths));
    return strcmp(s->missing, "class_index") == 0
               ? CPS_OK
               : cps_h5_write(file, "class_index", CPS_H5_I32, 2, shape, answers);
}

static void strange_files(void **state) {
    (void)state;
    const strange good = {.format = "copse-predictions",
                          .version = 1,
                          .rows = 4,
                          .labels = 4,
                          .top = 2,
                          .digest = "0123456789abcdef",
                          .missing = "",
                          .part = ""};
    strange list[12];
    int count = 0;
    char *path = path_of("strange");
    assert_int_equal(cps_h5_write_file(path, write_strange, &good), CPS_OK);
    assert_int_equal(read_status(path), CPS_OK);
#define BAD(member, value, message)                                                                \
    list[count] = good;                                                                            \
    list[count].member = value;                                                                    \
    list[count++].part = message
    BAD(format, "copse-shard", "no predictions");
    BAD(version, 2, "version 2");
    BAD(labels, 3, "'label' has the wrong shape");
    BAD(label, 2, "'label' holds 2");
    BAD(label, -2, "'label' holds -2");
    BAD(answer, 7, "'class_index' holds 7");
    BAD(depth, 8, "'shared_depth' holds 8");
    BAD(digest, "0123", "hexadecimal");
    BAD(digest, "0123456789ABCDEF", "hexadecimal");
    BAD(missing, "sample_id", "no 'sample_id'");
    BAD(missing, "class_index", "no predictions in it");
#undef BAD
    for (int i = 0; i < count; i++) {
        assert_int_equal(cps_h5_write_file(path, write_strange, &list[i]), CPS_OK);
        assert_int_equal(read_status(path), CPS_ERR_DATA);
        if (strstr(cps_fail_message(), list[i].part) == NULL) {
            print_error("no '%s' in: %s\n", list[i].part, cps_fail_message());
        }
        assert_non_null(strstr(cps_fail_message(), list[i].part));
        assert_non_null(strstr(cps_fail_message(), path));
    }
    free(path);
}

/* Ids may repeat: the same picture twice. They pair in order. */
static void repeated_ids(void **state) {
    (void)state;
    char *a = path_of("left"), *b = path_of("right");
    write_made(a, (made_file){.right = "11110000"});
    write_made(b, (made_file){.right = "11110000"});
    cps_prediction_file files[2];
    assert_int_equal(cps_prediction_file_read(a, &files[0]), CPS_OK);
    assert_int_equal(cps_prediction_file_read(b, &files[1]), CPS_OK);
    files[0].sample_ids[1] = 0; /* 0 0 2 ... */
    files[1].sample_ids[1] = 0;
    files[1].sample_ids[2] = 0; /* 0 0 0 3 ... */
    cps_pairing pairing;
    assert_int_equal(cps_pairing_make(files, 2, &pairing), CPS_OK);
    assert_int_equal(pairing.samples, 7);
    assert_int_equal(pairing.unpaired, 1);
    assert_int_equal(pairing.rows[pairing.samples + 1], 1);
    assert_int_equal(pairing.rows[2], 3);
    cps_pairing_free(&pairing);
    cps_prediction_file_free(&files[0]);
    cps_prediction_file_free(&files[1]);
    free(a);
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(estimates),         cmocka_unit_test(differences),
        cmocka_unit_test(where_they_differ), cmocka_unit_test(several_data_sets),
        cmocka_unit_test(one_seed),          cmocka_unit_test(equal_methods),
        cmocka_unit_test(retrieval),         cmocka_unit_test(refusals),
        cmocka_unit_test(bad_requests),      cmocka_unit_test(damaged_files),
        cmocka_unit_test(strange_files),     cmocka_unit_test(repeated_ids),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
