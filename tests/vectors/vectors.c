#include "vectors.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t max_dataset_bytes = (size_t)1 << 30;
static double floor_now = 1e-6;
enum { DEEPEST_GROUP = 12 };

static struct {
    int64_t passed, failed, skipped;
    bool muted;
} tally;

CPS_PRINTF(1, 0)
static void sentence(const char *format, va_list args) {
    fputs("vectors: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

void vectors_unusable(const char *format, ...) {
    va_list args;
    va_start(args, format);
    sentence(format, args);
    va_end(args);
    exit(VECTORS_UNUSABLE);
}

cps_h5 *vectors_open(int argc, char **argv, int least, int most, const char *usage) {
    if (argc - 1 < least || argc - 1 > most) {
        vectors_unusable("%d arguments given; usage: %s %s", argc - 1, argv[0], usage);
    }
    cps_h5 *file = NULL;
    if (cps_h5_open(argv[1], &file) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    return file;
}

void vectors_mute(void) {
    tally.muted = true;
}

enum { MOST_ENDS = 8 };
static void (*ends[MOST_ENDS])(void);
static int end_count;

void vectors_at_finish(void (*end)(void)) {
    if (end_count == MOST_ENDS) {
        vectors_unusable("more than %d calls of vectors_at_finish", MOST_ENDS);
    }
    ends[end_count++] = end;
}

void vectors_end(void) {
    while (end_count > 0) {
        ends[--end_count]();
    }
}

int vectors_finish(void) {
    vectors_end();
    if (!tally.muted) {
        printf("%lld passed, %lld failed, %lld skipped\n", (long long)tally.passed,
               (long long)tally.failed, (long long)tally.skipped);
        fflush(stdout);
    }
    if (tally.failed > 0) {
        return VECTORS_FAILED;
    }
    return tally.passed > 0 ? VECTORS_OK : VECTORS_UNUSABLE;
}

void vectors_set_floor(double floor) {
    floor_now = floor;
}

double vectors_tolerance(double in_double, double in_float) {
    return sizeof(cps_real) == sizeof(double) ? in_double : in_float;
}

void vectors_judge(const char *name, double error, double tolerance) {
    const bool ok = error <= tolerance; /* false for NaN */
    if (ok) {
        tally.passed += 1;
    } else {
        tally.failed += 1;
    }
    if (!tally.muted) {
        printf("%s\t%.3g\t%.3g\t%s\n", name, error, tolerance, ok ? "ok" : "FAIL");
    }
}

void vectors_take_line(const char *line, bool ok, bool skip) {
    tally.passed += ok;
    tally.skipped += skip;
    tally.failed += !ok && !skip;
    if (!tally.muted) {
        puts(line);
    }
}

void vectors_broken(const char *name, double tolerance, const char *format, ...) {
    if (!tally.muted) {
        va_list args;
        va_start(args, format);
        fprintf(stderr, "%s: ", name);
        sentence(format, args);
        va_end(args);
    }
    vectors_judge(name, (double)INFINITY, tolerance);
}

void vectors_skip(const char *name, const char *reason) {
    tally.skipped += 1;
    if (!tally.muted) {
        fprintf(stderr, "%s: skipped: %s\n", name, reason);
        printf("%s\t-\t-\tskip\n", name);
    }
}

/* Running maxima of |got - want| and |want|; NaN or infinity on one side alone makes `difference`
 * infinite. */
typedef struct extremes {
    double difference, size;
} extremes;

static void take(extremes *seen, double got, double want) {
    double difference = fabs(got - want);
    if (isnan(got) || isnan(want)) {
        difference = isnan(got) && isnan(want) ? 0.0 : (double)INFINITY;
    } else if (isinf(got) || isinf(want)) {
        difference = got == want ? 0.0 : (double)INFINITY; /* equal infinities */
    } else {
        seen->size = fmax(seen->size, fabs(want));
    }
    seen->difference = fmax(seen->difference, difference);
}

static double ratio(const extremes *seen, double floor) {
    return seen->difference / fmax(seen->size, floor);
}

double vectors_error(const double *got, const double *want, int64_t count, double floor) {
    extremes seen = {0};
    for (int64_t i = 0; i < count; ++i) {
        take(&seen, got[i], want[i]);
    }
    return ratio(&seen, floor);
}

double vectors_error_real(const cps_real *got, const double *want, int64_t count, double floor) {
    extremes seen = {0};
    for (int64_t i = 0; i < count; ++i) {
        take(&seen, (double)got[i], want[i]);
    }
    return ratio(&seen, floor);
}

void vectors_compare(const char *name, const double *got, const double *want, int64_t count,
                     double tolerance) {
    vectors_judge(name, vectors_error(got, want, count, floor_now), tolerance);
}

void vectors_compare_real(const char *name, const cps_real *got, const double *want, int64_t count,
                          double tolerance) {
    vectors_judge(name, vectors_error_real(got, want, count, floor_now), tolerance);
}

void vectors_compare_i64(const char *name, const int64_t *got, const int64_t *want, int64_t count) {
    double worst = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        if (got[i] != want[i]) { /* at least 1, also where doubles cannot tell the two apart */
            worst = fmax(worst, fmax(1.0, fabs((double)got[i] - (double)want[i])));
        }
    }
    vectors_judge(name, worst, 0.0);
}

void vectors_compare_text(const char *name, const char *got, const char *want) {
    vectors_judge(name, strcmp(got, want) == 0 ? 0.0 : 1.0, 0.0);
}

/* ---- what of the file has been named ---- */

static struct {
    uint64_t *hashes;
    int64_t count, capacity;
} known;

void vectors_know(const char *name) {
    if (known.count == known.capacity) {
        known.capacity = known.capacity == 0 ? 1024 : 2 * known.capacity;
        known.hashes = realloc(known.hashes, (size_t)known.capacity * sizeof *known.hashes);
        if (known.hashes == NULL) {
            vectors_unusable("out of memory for %lld names", (long long)known.capacity);
        }
    }
    known.hashes[known.count++] = cps_hash64(name, strlen(name));
}

static bool is_known(const char *name) {
    const uint64_t hash = cps_hash64(name, strlen(name));
    for (int64_t i = 0; i < known.count; i++) {
        if (known.hashes[i] == hash) {
            return true;
        }
    }
    return false;
}

/* Walks the datasets below `group`; says skip of the unknown ones where `tell`. True: one of them
 * is known. */
static bool walk(cps_h5 *file, const char *group, int depth, bool tell) {
    char **names = NULL;
    int64_t count = 0;
    bool any = false;
    if (depth > DEEPEST_GROUP || cps_h5_list(file, group, &names, &count) != CPS_OK) {
        vectors_unusable("'%s' cannot be listed, or groups lie more than %d deep in each other",
                         group, DEEPEST_GROUP);
    }
    for (int64_t i = 0; i < count; i++) {
        char *name = strcmp(group, "/") == 0 ? cps_format("%s", names[i])
                                             : cps_format("%s/%s", group, names[i]);
        cps_h5_info info;
        const bool fine = cps_h5_inspect(file, name, &info) == CPS_OK;
        if (fine && info.kind == CPS_H5_GROUP && !is_known(name)) {
            const bool inside = walk(file, name, depth + 1, false);
            any = any || inside;
            if (tell && inside) {
                walk(file, name, depth + 1, true);
            } else if (tell) {
                vectors_skip(name, "this runner knows no such group, or its inputs are missing");
            }
        } else if (is_known(name)) {
            any = true;
        } else if (tell) {
            vectors_skip(name, "this runner knows no such dataset");
        }
        free(name);
    }
    cps_strings_destroy(names, count);
    return any;
}

void vectors_skip_unknown(cps_h5 *file, const char *group) {
    if (!is_known(group)) {
        walk(file, group[0] == '\0' ? "/" : group, 0, true);
    }
}

/* ---- datasets ---- */

static void *read_all(cps_h5 *file, const char *name, cps_h5_type type, int64_t *count_out) {
    void *values = NULL;
    vectors_know(name);
    if (cps_h5_read_alloc(file, name, type, max_dataset_bytes, &values, count_out) != CPS_OK) {
        return NULL;
    }
    return values;
}

double *vectors_read(cps_h5 *file, const char *name, int64_t *count_out) {
    return read_all(file, name, CPS_H5_F64, count_out);
}

cps_real *vectors_read_real(cps_h5 *file, const char *name, int64_t *count_out) {
    return read_all(file, name, sizeof(cps_real) == sizeof(double) ? CPS_H5_F64 : CPS_H5_F32,
                    count_out);
}

int64_t *vectors_read_i64(cps_h5 *file, const char *name, int64_t *count_out) {
    return read_all(file, name, CPS_H5_I64, count_out);
}

/* What the file wants of a case; a FAIL is counted and NULL returned where it cannot be compared.
 */
static void *wanted(cps_h5 *file, const char *name, cps_h5_type type, int64_t count,
                    double tolerance) {
    int64_t there = 0;
    void *want = read_all(file, name, type, &there);
    if (want == NULL) {
        vectors_broken(name, tolerance, "%s", cps_fail_message());
        return NULL;
    }
    if (there != count) {
        vectors_broken(name, tolerance, "the file holds %lld values, this build computed %lld",
                       (long long)there, (long long)count);
        free(want);
        return NULL;
    }
    return want;
}

void vectors_expect(cps_h5 *file, const char *name, const double *got, int64_t count,
                    double tolerance) {
    double *want = wanted(file, name, CPS_H5_F64, count, tolerance);
    if (want != NULL) {
        vectors_compare(name, got, want, count, tolerance);
        free(want);
    }
}

void vectors_expect_real(cps_h5 *file, const char *name, const cps_real *got, int64_t count,
                         double tolerance) {
    double *want = wanted(file, name, CPS_H5_F64, count, tolerance);
    if (want != NULL) {
        vectors_compare_real(name, got, want, count, tolerance);
        free(want);
    }
}

void vectors_expect_i64(cps_h5 *file, const char *name, const int64_t *got, int64_t count) {
    int64_t *want = wanted(file, name, CPS_H5_I64, count, 0.0);
    if (want != NULL) {
        vectors_compare_i64(name, got, want, count);
        free(want);
    }
}

double *vectors_wanted(cps_h5 *file, const char *name, int64_t count, double tolerance) {
    return wanted(file, name, CPS_H5_F64, count, tolerance);
}

double vectors_error_now(const double *got, const double *want, int64_t count) {
    return vectors_error(got, want, count, floor_now);
}
