/* Golden vectors of the statistics: FILE is a JSON object whose `cases` are objects with name,
 * kind, in and out. A case is <name>/<key of out>; kinds and keys that this runner does not know
 * are skips. All is f64 in both builds, so both are held to the same tolerance; p-values
 * relatively, however small. What is wrong with the shape of FILE ends the run (exit 2); a stored
 * output of the wrong kind or length, or inputs that our functions refuse, are a FAIL. null stands
 * for NaN. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "report/bootstrap.h"
#include "report/distributions.h"
#include "report/statistics.h"
#include "vectors.h"

static const size_t max_json_bytes = (size_t)256 << 20;
static const double tolerance = 1e-9;
static const double usual_floor = 1e-6, relative_floor = 1e-300;

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct stats_case {
    const char *name;
    const cps_json *in, *out;
} stats_case;

typedef struct numbers {
    int64_t count;
    double *values;
} numbers;

static double *doubles(int64_t count) {
    double *values = calloc((size_t)count + 1, sizeof *values);
    if (values == NULL) {
        vectors_unusable("out of memory");
    }
    return values;
}

static numbers read_array(const stats_case *c, const cps_json *array, const char *what) {
    if (!cps_json_is_array(array)) {
        vectors_unusable("case '%s': '%s' is no array", c->name, what);
    }
    numbers read = {cps_json_count(array), doubles(cps_json_count(array))};
    int64_t i = 0;
    for (const cps_json *at = cps_json_first(array); at != NULL; at = cps_json_next(at)) {
        if (!cps_json_is_number(at)) {
            vectors_unusable("case '%s': element %lld of '%s' is no number", c->name, (long long)i,
                             what);
        }
        read.values[i++] = cps_json_number(at);
    }
    return read;
}

static numbers read_numbers(const stats_case *c, const char *key) {
    return read_array(c, cps_json_get(c->in, key), key);
}

static double read_number(const stats_case *c, const char *key) {
    const cps_json *value = cps_json_get(c->in, key);
    if (!cps_json_is_number(value)) {
        vectors_unusable("case '%s': '%s' is no number", c->name, key);
    }
    return cps_json_number(value);
}

static int64_t read_integer(const stats_case *c, const char *key) {
    const double value = read_number(c, key);
    if (!(fabs(value) <= 0x1p53) || value != floor(value)) {
        vectors_unusable("case '%s': '%s' is %g, a whole number is wanted", c->name, key, value);
    }
    return (int64_t)value;
}

/* ---- comparing ------------------------------------------------------------------------------- */

enum { MOST_OUTPUTS = 8 };

/* An output that was computed; values borrowed. */
typedef struct output {
    const char *key;
    const double *values;
    int64_t count;
    bool relative, scalar;
} output;

static bool is_number_or_null(const cps_json *value) {
    return cps_json_is_number(value) || cps_json_is_null(value);
}

/* Each element by itself: a small p beside large ones counts as much. */
static double worst_error(const output *got, const double *want) {
    const double floor = got->relative ? relative_floor : usual_floor;
    double worst = 0.0;
    for (int64_t i = 0; i < got->count; i++) {
        worst = fmax(worst, vectors_error(&got->values[i], &want[i], 1, floor));
    }
    return worst;
}

static void judge(const stats_case *c, const cps_json *want, const output *got) {
    char name[256];
    snprintf(name, sizeof name, "%.120s/%.100s", c->name, got->key);
    if (got->scalar ? !is_number_or_null(want)
                    : !cps_json_is_array(want) || cps_json_count(want) != got->count) {
        vectors_broken(name, tolerance, "%lld numbers are wanted, the file holds something else",
                       (long long)got->count);
        return;
    }
    double *values = doubles(got->count);
    bool fine = true;
    if (got->scalar) {
        values[0] = cps_json_number(want);
    } else {
        int64_t i = 0;
        for (const cps_json *at = cps_json_first(want); at != NULL; at = cps_json_next(at)) {
            fine = fine && is_number_or_null(at);
            values[i++] = cps_json_number(at);
        }
    }
    if (fine) {
        vectors_judge(name, worst_error(got, values), tolerance);
    } else {
        vectors_broken(name, tolerance, "an element in the file is no number");
    }
    free(values);
}

/* Every stored output of the case: compared, or a skip where it is none of `got`. */
static void judge_all(const stats_case *c, cps_status status, const output *got, int count) {
    for (const cps_json *want = cps_json_first(c->out); want != NULL; want = cps_json_next(want)) {
        const char *key = cps_json_key(want);
        char name[256];
        snprintf(name, sizeof name, "%.120s/%.100s", c->name, key);
        const output *found = NULL;
        for (int i = 0; i < count; i++) {
            found = strcmp(got[i].key, key) == 0 ? &got[i] : found;
        }
        if (found == NULL) {
            vectors_skip(name, "this runner knows no such output");
        } else if (status != CPS_OK) {
            vectors_broken(name, tolerance, "%s", cps_fail_message());
        } else {
            judge(c, want, found);
        }
    }
}

static output scalar(const char *key, const double *value) {
    return (output){key, value, 1, false, true};
}

static output probability(const char *key, const double *value) {
    return (output){key, value, 1, true, true};
}

static output array(const char *key, const double *values, int64_t count) {
    return (output){key, values, count, false, false};
}

static output probabilities(const char *key, const double *values, int64_t count) {
    return (output){key, values, count, true, false};
}

/* ---- kinds ----------------------------------------------------------------------------------- */

static void check_wilson(const stats_case *c) {
    cps_interval got = {0};
    const cps_status status = cps_wilson(read_integer(c, "successes"), read_integer(c, "n"),
                                         read_number(c, "confidence"), &got);
    judge_all(c, status, (const output[]){scalar("low", &got.low), scalar("high", &got.high)}, 2);
}

static void check_mcnemar(const stats_case *c) {
    cps_mcnemar_result got = {0};
    const cps_status status =
        cps_mcnemar(read_integer(c, "only_a_right"), read_integer(c, "only_b_right"), &got);
    const output outputs[] = {probability("p_exact", &got.p_exact),
                              probability("p_mid", &got.p_mid),
                              scalar("chi2_corrected", &got.chi2_corrected),
                              probability("p_chi2_corrected", &got.p_chi2_corrected)};
    judge_all(c, status, outputs, 4);
}

static void check_sign_flip(const stats_case *c) {
    const numbers differences = read_numbers(c, "differences");
    cps_sign_flip_result got = {0};
    const cps_status status = cps_sign_flip(differences.values, differences.count, &got);
    judge_all(
        c, status,
        (const output[]){probability("p", &got.p), probability("smallest_p", &got.smallest_p)}, 2);
    free(differences.values);
}

static void check_holm(const stats_case *c) {
    const numbers p = read_numbers(c, "p");
    double *got = doubles(p.count);
    const cps_status status = cps_holm(p.values, p.count, got);
    judge_all(c, status, (const output[]){probabilities("adjusted", got, p.count)}, 1);
    free(got);
    free(p.values);
}

static void check_friedman(const stats_case *c) {
    const cps_json *rows = cps_json_get(c->in, "scores");
    const cps_json *larger = cps_json_get(c->in, "larger_is_better");
    const int64_t blocks = cps_json_count(rows), methods = cps_json_count(cps_json_first(rows));
    if (!cps_json_is_array(rows) || !cps_json_is_bool(larger)) {
        vectors_unusable("case '%s': 'scores' is no array, or 'larger_is_better' not true or false",
                         c->name);
    }
    /* the rows are in the file, so blocks times methods is about its size once they are as long */
    for (const cps_json *row = cps_json_first(rows); row != NULL; row = cps_json_next(row)) {
        if (!cps_json_is_array(row) || cps_json_count(row) != methods) {
            vectors_unusable("case '%s': the rows of 'scores' are not equally long", c->name);
        }
    }
    double *scores = doubles(blocks * methods), *ranks = doubles(methods);
    int64_t at = 0;
    for (const cps_json *row = cps_json_first(rows); row != NULL; row = cps_json_next(row)) {
        const numbers values = read_array(c, row, "scores");
        memcpy(scores + at, values.values, (size_t)methods * sizeof *scores);
        at += methods;
        free(values.values);
    }
    cps_friedman_result got = {0};
    const cps_status status =
        cps_friedman(scores, blocks, methods, cps_json_bool(larger), &got, ranks);
    const output outputs[] = {scalar("chi2", &got.chi2), probability("p", &got.p),
                              array("mean_ranks", ranks, methods)};
    judge_all(c, status, outputs, 3);
    free(scores);
    free(ranks);
}

static int ascending(const void *a, const void *b) {
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static numbers read_resampled(const stats_case *c) {
    const numbers read = read_numbers(c, "bootstrap_statistics");
    qsort(read.values, (size_t)read.count, sizeof *read.values, ascending);
    return read;
}

static void check_percentile(const stats_case *c) {
    const numbers resampled = read_resampled(c);
    cps_interval got = {0};
    const cps_status status = cps_bootstrap_percentile(resampled.values, resampled.count,
                                                       read_number(c, "confidence"), &got);
    judge_all(c, status, (const output[]){scalar("low", &got.low), scalar("high", &got.high)}, 2);
    free(resampled.values);
}

static void check_bca(const stats_case *c) {
    const char *statistic = cps_json_get_string(c->in, "statistic", "");
    if (strcmp(statistic, "mean") != 0) {
        vectors_skip(c->name, "this runner knows the mean alone");
        return;
    }
    const numbers resampled = read_resampled(c), data = read_numbers(c, "data");
    double *left_out = doubles(data.count), total = 0.0;
    for (int64_t i = 0; i < data.count; i++) {
        total += data.values[i];
    }
    for (int64_t i = 0; i < data.count; i++) {
        left_out[i] = (total - data.values[i]) / (double)(data.count - 1);
    }
    cps_bca_result got = {0};
    const double acceleration = cps_bootstrap_acceleration(left_out, data.count);
    const cps_status status =
        cps_bootstrap_bca(resampled.values, resampled.count, total / (double)data.count,
                          acceleration, read_number(c, "confidence"), &got);
    const output outputs[] = {scalar("bias_z0", &got.bias_z0),
                              scalar("acceleration", &acceleration),
                              scalar("low", &got.interval.low), scalar("high", &got.interval.high)};
    judge_all(c, status, outputs, 4);
    free(left_out);
    free(resampled.values);
    free(data.values);
}

static void check_normal(const stats_case *c) {
    const numbers z = read_numbers(c, "z"), q = read_numbers(c, "q");
    for (int64_t i = 0; i < z.count; i++) {
        z.values[i] = cps_normal_below(z.values[i]);
    }
    for (int64_t i = 0; i < q.count; i++) {
        q.values[i] = cps_normal_quantile(q.values[i]);
    }
    judge_all(c, CPS_OK,
              (const output[]){array("cdf", z.values, z.count), array("ppf", q.values, q.count)},
              2);
    free(z.values);
    free(q.values);
}

static void check_t_interval(const stats_case *c) {
    const numbers values = read_numbers(c, "values");
    cps_mean_summary got = {0};
    const cps_status status =
        cps_mean_summarize(values.values, values.count, read_number(c, "confidence"), &got);
    const output outputs[] = {scalar("mean", &got.mean), scalar("sd", &got.sd),
                              scalar("low", &got.interval.low), scalar("high", &got.interval.high)};
    judge_all(c, status, outputs, 4);
    free(values.values);
}

static const struct {
    const char *kind;
    void (*check)(const stats_case *c);
} kinds[] = {
    {"wilson", check_wilson}, {"mcnemar", check_mcnemar},   {"sign_flip", check_sign_flip},
    {"holm", check_holm},     {"friedman", check_friedman}, {"percentile", check_percentile},
    {"bca", check_bca},       {"normal", check_normal},     {"t_interval", check_t_interval},
};

static void check_case(const cps_json *json, int64_t number) {
    const char *kind = cps_json_get_string(json, "kind", NULL);
    const stats_case c = {cps_json_get_string(json, "name", NULL), cps_json_get(json, "in"),
                          cps_json_get(json, "out")};
    for (const char *at = c.name; at != NULL && *at != '\0'; at++) {
        if ((unsigned char)*at < ' ') {
            vectors_unusable("the name of case %lld holds a control character", (long long)number);
        }
    }
    if (kind == NULL || c.name == NULL || !cps_json_is_object(c.in) || !cps_json_is_object(c.out)) {
        vectors_unusable("case %lld lacks a name, a kind, an object 'in' or an object 'out'",
                         (long long)number);
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].kind, kind) == 0) {
            kinds[i].check(&c);
            return;
        }
    }
    vectors_skip(c.name, "this runner knows no such kind");
}

int main(int argc, char **argv) {
    cps_json *file = NULL;
    if (argc != 2) {
        vectors_unusable("%d arguments given; usage: %s FILE", argc - 1, argv[0]);
    }
    if (cps_json_read_file(argv[1], max_json_bytes, &file) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    const cps_json *cases = cps_json_get(file, "cases");
    if (!cps_json_is_array(cases)) {
        vectors_unusable("'%s' holds no array 'cases'", argv[1]);
    }
    int64_t number = 0;
    for (const cps_json *at = cps_json_first(cases); at != NULL; at = cps_json_next(at)) {
        check_case(at, number++);
    }
    cps_json_destroy(file);
    return vectors_finish();
}
