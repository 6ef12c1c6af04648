#include "arrays.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"

double *vectors_doubles(int64_t count) {
    double *values = calloc((size_t)count + 1, sizeof *values);
    if (values == NULL) {
        vectors_unusable("out of memory for %lld values", (long long)count);
    }
    return values;
}

vectors_matrix vectors_matrix_new(int64_t rows, int64_t width) {
    return (vectors_matrix){rows, width, vectors_doubles(rows * width)};
}

vectors_matrix vectors_matrix_read(cps_h5 *file, const char *group, const char *name) {
    char *path = cps_format("%s/%s", group, name);
    cps_h5_info info;
    int64_t count = 0;
    vectors_matrix m = {0};
    if (cps_h5_inspect(file, path, &info) != CPS_OK || info.kind != CPS_H5_DATASET ||
        info.rank < 1 || info.count < 1 || (m.values = vectors_read(file, path, &count)) == NULL) {
        vectors_unusable("'%s' is no array of numbers", path);
    }
    m.width = info.shape[info.rank - 1];
    m.rows = count / m.width;
    free(path);
    return m;
}

double vectors_number(cps_h5 *file, const char *group, const char *name) {
    char *path = cps_format("%s/%s", group, name);
    int64_t count = 0;
    double *value = vectors_read(file, path, &count);
    if (value == NULL || count != 1) {
        vectors_unusable("'%s' is no number", path);
    }
    const double number = *value;
    free(value);
    free(path);
    return number;
}

void vectors_need_same(const char *group, bool same) {
    if (!same) {
        vectors_unusable("the inputs of '%s' do not belong together", group);
    }
}

void vectors_need(cps_status status) {
    if (status != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
}

void vectors_expect_both(cps_h5 *file, const char *group, const char *name, const double *got,
                         const double *also, int64_t count, double tolerance) {
    char *path = cps_format("%s/%s", group, name);
    if (cps_h5_has(file, path)) {
        double *want = vectors_wanted(file, path, count, tolerance);
        if (want != NULL) {
            const double error = vectors_error_now(got, want, count);
            const double other = also == NULL ? 0.0 : vectors_error_now(also, want, count);
            vectors_judge(path, error >= other || isnan(error) ? error : other, tolerance);
            free(want);
        }
    }
    free(path);
}

void vectors_expect_in(cps_h5 *file, const char *group, const char *name, const double *got,
                       int64_t count, double tolerance) {
    vectors_expect_both(file, group, name, got, NULL, count, tolerance);
}

void vectors_each(cps_h5 *file, const char *group, void (*check)(cps_h5 *file, const char *path)) {
    char **names = NULL;
    int64_t count = 0;
    if (!cps_h5_has(file, group)) {
        return;
    }
    vectors_need(cps_h5_list(file, group, &names, &count));
    for (int64_t i = 0; i < count; i++) {
        char *path = cps_format("%s/%s", group, names[i]);
        check(file, path);
        free(path);
    }
    cps_strings_destroy(names, count);
}
