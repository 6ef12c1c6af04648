/* The usual statistics of values per sample, for cps_bootstrap_statistic. Of those that are linear
 * in the values the difference to a baseline is taken once, before. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "report/bootstrap.h"

typedef struct table {
    const cps_bootstrap_values *values;
    double *differences; /* [seeds, rows]; NULL: values as they are */
    int32_t *order;      /* MEDIAN: [1 or 2, seeds, rows] rows by ascending value */
} table;

static int32_t count_of(const cps_bootstrap_values *v, const int32_t *counts, int64_t row) {
    return counts[v->units != NULL ? v->units[row] : row];
}

/* Four sums side by side: the order is fixed, and additions need not wait for each other. */
static double mean_statistic(const void *context, int32_t seed, const int32_t *counts,
                             double *scratch) {
    const table *t = context;
    const cps_bootstrap_values *v = t->values;
    const double *values = (t->differences != NULL ? t->differences : v->values) + seed * v->rows;
    (void)scratch;
    double sums[4] = {0.0};
    int64_t total = 0, row = 0;
    if (v->units == NULL) {
        for (; row + 4 <= v->rows; row += 4) {
            for (int lane = 0; lane < 4; lane++) {
                sums[lane] += counts[row + lane] * values[row + lane];
                total += counts[row + lane];
            }
        }
    }
    for (; row < v->rows; row++) {
        const int32_t count = count_of(v, counts, row);
        sums[row % 4] += count * values[row];
        total += count;
    }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) / (double)total;
}

/* scratch: [2, class_count], numbers of rows and sums. */
static double class_mean_statistic(const void *context, int32_t seed, const int32_t *counts,
                                   double *scratch) {
    const table *t = context;
    const cps_bootstrap_values *v = t->values;
    const double *values = (t->differences != NULL ? t->differences : v->values) + seed * v->rows;
    double *sizes = scratch, *sums = scratch + v->class_count;
    memset(scratch, 0, 2 * (size_t)v->class_count * sizeof *scratch);
    for (int64_t row = 0; row < v->rows; row++) {
        const int32_t count = count_of(v, counts, row);
        sizes[v->classes[row]] += count;
        sums[v->classes[row]] += count * values[row];
    }
    double sum = 0.0, weights = 0.0;
    for (int64_t c = 0; c < v->class_count; c++) {
        if (sizes[c] > 0.0) {
            const double weight = v->class_weights != NULL ? v->class_weights[c] : 1.0;
            sum += weight * (sums[c] / sizes[c]);
            weights += weight;
        }
    }
    return sum / weights;
}

/* Value number `place` (from 0) of the resample. */
static double value_at(const cps_bootstrap_values *v, const double *values, const int32_t *order,
                       const int32_t *counts, int64_t place) {
    int64_t before = 0, i = 0;
    for (; i + 1 < v->rows; i++) {
        before += count_of(v, counts, order[i]);
        if (before > place) {
            break;
        }
    }
    return values[order[i]];
}

static double median_of(const cps_bootstrap_values *v, const double *values, const int32_t *order,
                        const int32_t *counts) {
    int64_t total = 0;
    for (int64_t row = 0; row < v->rows; row++) {
        total += count_of(v, counts, row);
    }
    if (total == 0) {
        return (double)NAN;
    }
    const double low = value_at(v, values, order, counts, (total - 1) / 2);
    return total % 2 != 0 ? low : 0.5 * (low + value_at(v, values, order, counts, total / 2));
}

static double median_statistic(const void *context, int32_t seed, const int32_t *counts,
                               double *scratch) {
    const table *t = context;
    const cps_bootstrap_values *v = t->values;
    const int64_t start = seed * v->rows;
    (void)scratch;
    const double median = median_of(v, v->values + start, t->order + start, counts);
    if (v->baseline == NULL) {
        return median;
    }
    const int32_t *order = t->order + (int64_t)v->seeds * v->rows + start;
    return median - median_of(v, v->baseline + start, order, counts);
}

/* ---- checks, setting up ---- */

static cps_status check_numbers(const int32_t *numbers, int64_t rows, int64_t limit,
                                const char *what) {
    if (limit < 1 || limit > INT32_MAX) {
        return cps_fail(CPS_ERR_DATA, "%lld %s, 1 .. %d are possible", (long long)limit, what,
                        INT32_MAX);
    }
    for (int64_t row = 0; row < rows; row++) {
        if (numbers[row] < 0 || numbers[row] >= limit) {
            return cps_fail(CPS_ERR_DATA, "row %lld is of number %d of %lld %s", (long long)row,
                            numbers[row], (long long)limit, what);
        }
    }
    return CPS_OK;
}

static cps_status check_weights(const cps_bootstrap_values *v) {
    if (v->class_weights == NULL) {
        return CPS_OK;
    }
    double largest = 0.0;
    CPS_TRY(cps_values_check(v->class_weights, v->class_count, "weights of classes"));
    for (int64_t c = 0; c < v->class_count; c++) {
        if (v->class_weights[c] < 0.0) {
            return cps_fail(CPS_ERR_DATA, "the weight of class %lld is %g, 0 or more is wanted",
                            (long long)c, v->class_weights[c]);
        }
        largest = fmax(largest, v->class_weights[c]);
    }
    return largest > 0.0 ? CPS_OK : cps_fail(CPS_ERR_DATA, "all classes have weight 0");
}

static cps_status check_values(const cps_bootstrap_values *v) {
    int64_t count;
    if (v->seeds < 1 || v->rows < 1 || v->rows > INT32_MAX ||
        !cps_mul_i64(v->seeds, v->rows, &count)) {
        return cps_fail(CPS_ERR_DATA,
                        "%d seeds and %lld samples to compare, at least one of each is wanted: do "
                        "the runs share an evaluation and sample ids?",
                        v->seeds, (long long)v->rows);
    }
    CPS_TRY(cps_values_check(v->values, count, "values of samples"));
    if (v->baseline != NULL) {
        CPS_TRY(cps_values_check(v->baseline, count, "values of samples of the baseline"));
    }
    if (v->units != NULL) {
        CPS_TRY(check_numbers(v->units, v->rows, v->unit_count, "units"));
    }
    if (v->statistic == CPS_VALUE_CLASS_MEAN) {
        if (v->classes == NULL) {
            return cps_fail(CPS_ERR_USAGE, "a mean over classes needs the class of each row");
        }
        CPS_TRY(check_numbers(v->classes, v->rows, v->class_count, "classes"));
        CPS_TRY(check_weights(v));
    }
    return CPS_OK;
}

typedef struct ranked {
    double value;
    int32_t row;
} ranked;

static int by_value(const void *a, const void *b) {
    const ranked *left = a, *right = b;
    if (left->value != right->value) {
        return left->value < right->value ? -1 : 1;
    }
    return (left->row > right->row) - (left->row < right->row);
}

static void order_rows(const double *values, int64_t rows, ranked *working, int32_t *order_out) {
    for (int64_t i = 0; i < rows; i++) {
        working[i] = (ranked){values[i], (int32_t)i};
    }
    qsort(working, (size_t)rows, sizeof *working, by_value);
    for (int64_t i = 0; i < rows; i++) {
        order_out[i] = working[i].row;
    }
}

static void *array_of(int64_t count, int64_t times, size_t element_bytes) {
    size_t bytes;
    return cps_mul_size((size_t)count, element_bytes * (size_t)times, &bytes) ? malloc(bytes)
                                                                              : NULL;
}

/* count: seeds times rows. */
static cps_status make_orders(table *t, int64_t count) {
    const cps_bootstrap_values *v = t->values;
    t->order = array_of(count, 2, sizeof *t->order);
    ranked *working = array_of(v->rows, 1, sizeof *working);
    if (t->order == NULL || working == NULL) {
        free(working);
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to order %lld values", (long long)count);
    }
    for (int32_t s = 0; s < v->seeds; s++) {
        const int64_t start = s * v->rows;
        order_rows(v->values + start, v->rows, working, t->order + start);
        if (v->baseline != NULL) {
            order_rows(v->baseline + start, v->rows, working, t->order + count + start);
        }
    }
    free(working);
    return CPS_OK;
}

static cps_status make_differences(table *t, int64_t count) {
    const cps_bootstrap_values *v = t->values;
    if (v->baseline == NULL) {
        return CPS_OK;
    }
    t->differences = array_of(count, 1, sizeof *t->differences);
    if (t->differences == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for %lld differences", (long long)count);
    }
    for (int64_t i = 0; i < count; i++) {
        t->differences[i] = v->values[i] - v->baseline[i];
    }
    return CPS_OK;
}

cps_status cps_bootstrap_values_run(const cps_bootstrap_values *values,
                                    const cps_bootstrap_options *options,
                                    cps_bootstrap_result *result_out) {
    static const cps_seed_statistic statistics[] = {[CPS_VALUE_MEAN] = mean_statistic,
                                                    [CPS_VALUE_CLASS_MEAN] = class_mean_statistic,
                                                    [CPS_VALUE_MEDIAN] = median_statistic};
    CPS_TRY(check_values(values));
    const bool medians = values->statistic == CPS_VALUE_MEDIAN;
    const bool by_class = values->statistic == CPS_VALUE_CLASS_MEAN;
    const int64_t count = values->seeds * values->rows;
    table t = {.values = values};
    cps_status status = medians ? make_orders(&t, count) : make_differences(&t, count);
    if (status == CPS_OK) {
        const cps_bootstrap_problem problem = {
            .seeds = values->seeds,
            .samples = values->units != NULL ? values->unit_count : values->rows,
            .statistic = statistics[values->statistic],
            .context = &t,
            .scratch_count = by_class ? 2 * values->class_count : 0};
        status = cps_bootstrap_statistic(&problem, options, result_out);
    }
    free(t.differences);
    free(t.order);
    return status;
}
