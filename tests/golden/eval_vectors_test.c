/* Zero-shot and retrieval against numbers of S-CLIP's published evaluation code:
 * ../shared/vectors/s-clip.h5, group eval. Sizes come from the file. */
#include "eval/zeroshot.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "eval/retrieval.h"
#include "h5/h5.h"
#include "tensor/gemm.h"

static const char path[] = "../shared/vectors/s-clip.h5";
static const double weight = 1.0;
static cps_comm *comm;
static cps_h5 *file;

static int open_file(void **state) {
    (void)state;
    cps_gemm_start();
    if (cps_file_exists(path)) {
        assert_int_equal(cps_h5_open(path, &file), CPS_OK);
    }
    return 0;
}

static void need_file(void) {
    if (file == NULL) {
        print_message("skipped: vectors/s-clip.h5 is not in ../shared\n");
        skip();
    }
}

static double *read_doubles(const char *name, cps_h5_info *info) {
    assert_int_equal(cps_h5_inspect(file, name, info), CPS_OK);
    assert_int_equal(info->kind, CPS_H5_DATASET);
    double *values = calloc((size_t)info->count, sizeof *values);
    assert_int_equal(cps_h5_read(file, name, CPS_H5_F64, info->count, values), CPS_OK);
    return values;
}

static cps_features read_features(const char *name) {
    cps_h5_info info;
    double *values = read_doubles(name, &info);
    cps_features features = {.rows = info.shape[0],
                             .width = info.shape[1],
                             .component_count = 1,
                             .widths = {info.shape[1]}};
    features.values = calloc((size_t)info.count, sizeof *features.values);
    for (int64_t i = 0; i < info.count; i++) {
        features.values[i] = (cps_real)values[i];
    }
    free(values);
    cps_features_normalise(&features);
    return features;
}

static double read_number(const char *name) {
    cps_h5_info info;
    double *value = read_doubles(name, &info);
    const double number = *value;
    free(value);
    return number;
}

/* ---- zero-shot ---- */

typedef struct prompts {
    const double *values; /* [classes, prompts, width] */
    int64_t count, width;
} prompts;

/* The text "c p" is prompt p of class c. */
static cps_status encode(void *context, const char *const *texts, cps_real *const *components_out) {
    const prompts *from = context;
    for (int64_t i = 0; i < 64; i++) {
        char *end = NULL;
        const long class = strtol(texts[i], &end, 10), prompt = strtol(end, NULL, 10);
        for (int64_t j = 0; j < from->width; j++) {
            components_out[0][i * from->width + j] =
                (cps_real)from->values[(class * from->count + prompt) * from->width + j];
        }
    }
    return CPS_OK;
}

static void check_class_vectors(const cps_features *vectors) {
    cps_h5_info info;
    double *want = read_doubles("eval/zeroshot/weight", &info);
    assert_int_equal(info.count, vectors->rows * vectors->width);
    for (int64_t i = 0; i < info.count; i++) {
        assert_true(fabs((double)vectors->values[i] - want[i]) <
                    (sizeof(cps_real) == 8 ? 1e-12 : 1e-6));
    }
    free(want);
}

static void zero_shot(void **state) {
    (void)state;
    need_file();
    cps_h5_info info;
    prompts from = {.values = read_doubles("eval/zeroshot/prompt_embedding", &info)};
    const int64_t classes = info.shape[0];
    from.count = info.shape[1];
    from.width = info.shape[2];
    const cps_encoder encoder = {.context = &from,
                                 .component_count = 1,
                                 .widths = {from.width},
                                 .grain = 64,
                                 .texts = encode};
    char **names = calloc((size_t)classes, sizeof *names);
    char **lines = calloc((size_t)from.count, sizeof *lines);
    for (int64_t c = 0; c < classes; c++) {
        names[c] = cps_format("%lld", (long long)c);
    }
    for (int64_t p = 0; p < from.count; p++) {
        lines[p] = cps_format("{} %lld", (long long)p);
    }
    const cps_lines templates = {.count = from.count, .lines = (const char *const *)lines};
    cps_features vectors = {0}, images = read_features("eval/zeroshot/image");
    assert_int_equal(cps_class_vectors(comm, &encoder, (const char *const *)names, classes,
                                       &templates, CPS_NORMALISE_FIRST, &vectors),
                     CPS_OK);
    check_class_vectors(&vectors);
    int32_t *labels = calloc((size_t)images.rows, sizeof *labels);
    assert_int_equal(cps_h5_read(file, "eval/zeroshot/label", CPS_H5_I32, images.rows, labels),
                     CPS_OK);
    cps_predictions predictions = {0};
    assert_int_equal(cps_zero_shot(comm, &images, &vectors, &weight, 5, &predictions), CPS_OK);
    cps_json *metrics = cps_json_new_object();
    assert_int_equal(cps_classification_metrics(&predictions, labels, classes, "test", metrics),
                     CPS_OK);
    assert_true(cps_json_get_number(metrics, "top1", -1) == read_number("eval/zeroshot/top1"));
    assert_true(cps_json_get_number(metrics, "top5", -1) == read_number("eval/zeroshot/top5"));
    cps_json_destroy(metrics);
    cps_predictions_free(&predictions);
    cps_features_free(&vectors);
    cps_features_free(&images);
    cps_strings_destroy(names, classes);
    cps_strings_destroy(lines, from.count);
    free(labels);
    double *values = (double *)(uintptr_t)from.values;
    free(values);
}

/* ---- retrieval ---- */

static void check_direction(const cps_json *metrics, const char *direction) {
    static const char *const ours[] = {"r1", "r5", "r10", "mean_rank", "median_rank"};
    static const char *const theirs[] = {"R_at_1", "R_at_5", "R_at_10", "mean_rank", "median_rank"};
    for (int i = 0; i < 5; i++) {
        char *key = cps_format("%s_%s", direction, ours[i]);
        char *name = cps_format("eval/retrieval/%s_%s", direction, theirs[i]);
        assert_true(fabs(cps_json_get_number(metrics, key, -1) - read_number(name)) < 1e-12);
        free(key);
        free(name);
    }
}

static void retrieval(void **state) {
    (void)state;
    need_file();
    static const double k[] = {1, 5, 10};
    cps_features images = read_features("eval/retrieval/image");
    cps_features texts = read_features("eval/retrieval/text");
    int64_t *owners = calloc((size_t)texts.rows, sizeof *owners);
    for (int64_t i = 0; i < texts.rows; i++) {
        owners[i] = i;
    }
    cps_retrieval_ranks ranks = {0};
    cps_json *metrics = cps_json_new_object();
    assert_int_equal(cps_retrieval(comm, &images, &texts, owners, &weight, &ranks), CPS_OK);
    assert_int_equal(cps_retrieval_metrics_add(&ranks, k, 3, metrics), CPS_OK);
    check_direction(metrics, "image_to_text");
    check_direction(metrics, "text_to_image");
    cps_json_destroy(metrics);
    cps_retrieval_ranks_free(&ranks);
    cps_features_free(&images);
    cps_features_free(&texts);
    free(owners);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(zero_shot), cmocka_unit_test(retrieval)};
    if (cps_comm_start(&argc, &argv, &comm) != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        return 70;
    }
    const int failed = cmocka_run_group_tests(tests, open_file, NULL);
    if (file != NULL && cps_h5_close(file) != CPS_OK) {
        return 74;
    }
    cps_comm_end(comm);
    return failed;
}
