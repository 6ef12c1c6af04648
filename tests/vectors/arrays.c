#include "arrays.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

bool vectors_has(cps_h5 *file, const char *group, const char *const *names) {
    bool all = true;
    for (; *names != NULL && all; names++) {
        char *path = cps_format("%s/%s", group, *names);
        all = cps_h5_has(file, path);
        free(path);
    }
    return all;
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

/* ---- strings ---- */

enum { STRINGS_SECONDS = 20, STRINGS_BYTES = 1 << 28 };

/* In the child: the number of strings, then each with its end, to `out`. */
static _Noreturn void send_strings(cps_h5 *file, const char *name, int out) {
    char **strings = NULL;
    int64_t count = 0;
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    alarm(STRINGS_SECONDS);
    FILE *to = fdopen(out, "w");
    if (to == NULL || cps_h5_read_strings(file, name, &strings, &count) != CPS_OK) {
        _exit(1);
    }
    bool fine = fwrite(&count, sizeof count, 1, to) == 1;
    for (int64_t i = 0; i < count && fine; i++) {
        const size_t bytes = strlen(strings[i]) + 1;
        fine = fwrite(strings[i], 1, bytes, to) == bytes;
    }
    _exit(fine && fclose(to) == 0 ? 0 : 1);
}

/* All that comes, with a NUL behind it; more than STRINGS_BYTES is cut. */
static char *receive(int from, size_t *length_out) {
    size_t length = 0, capacity = 1 << 16;
    char *bytes = malloc(capacity + 1);
    for (;;) {
        const ssize_t more = bytes == NULL ? -1 : read(from, bytes + length, capacity - length);
        if (more < 0 && bytes != NULL && errno == EINTR) {
            continue;
        }
        if (more <= 0) {
            break;
        }
        length += (size_t)more;
        if (length == capacity && capacity < STRINGS_BYTES) {
            capacity *= 2;
            bytes = realloc(bytes, capacity + 1);
        }
    }
    if (bytes == NULL) {
        vectors_unusable("out of memory for strings");
    }
    bytes[length] = '\0';
    *length_out = length;
    return bytes;
}

static char **split(const char *bytes, size_t length, int64_t *count_out) {
    memcpy(count_out, bytes, sizeof *count_out);
    char **strings = calloc((size_t)*count_out + 1, sizeof *strings);
    if (strings == NULL) {
        vectors_unusable("out of memory for %lld strings", (long long)*count_out);
    }
    const char *at = bytes + sizeof *count_out;
    for (int64_t i = 0; i < *count_out; i++) {
        if (at >= bytes + length) {
            vectors_unusable("strings end after %lld of %lld", (long long)i, (long long)*count_out);
        }
        strings[i] = cps_format("%s", at);
        at += strlen(at) + 1;
    }
    return strings;
}

char **vectors_strings(cps_h5 *file, const char *name, int64_t *count_out) {
    int ends[2], status = 0;
    vectors_know(name);
    fflush(NULL);
    if (pipe(ends) != 0) {
        vectors_unusable("'%s' cannot be read: pipe: %s", name, strerror(errno));
    }
    const pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        send_strings(file, name, ends[1]);
    }
    close(ends[1]);
    size_t length = 0;
    char *bytes = receive(ends[0], &length);
    close(ends[0]);
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (child < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0 || length < sizeof *count_out) {
        vectors_unusable("'%s' holds no strings that can be read", name);
    }
    char **strings = split(bytes, length, count_out);
    free(bytes);
    return strings;
}

/* ---- the rest ---- */

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
