/* The format: "\x93NUMPY", version, length of the header, then a Python dictionary such as
 * {'descr': '<f4', 'fortran_order': False, 'shape': (512, 867455), } padded with blanks, a line
 * break, the elements. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#include "base/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/numeric.h"

enum { MAGIC_BYTES = 8, MAX_HEADER = 1 << 16, BLOCK_ELEMENTS = 1 << 16 };

/* ---- half precision ---- */

float cps_half_to_float(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    float value;
    if (exponent == 31) {
        value = fraction == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        value = ldexpf((float)fraction, -24);
    } else {
        value = ldexpf((float)(fraction + 1024), exponent - 25);
    }
    return (half & 0x8000) != 0 ? -value : value;
}

uint16_t cps_half_from_float(float value) {
    enum { INFINITE = 0x7c00, QUIET_NAN = 0x7e00 };
    const uint16_t sign = signbit(value) != 0 ? 0x8000 : 0;
    const float size = fabsf(value);
    if (isnan(value)) {
        return QUIET_NAN;
    }
    if (size >= 65520.0f) { /* nearer to 2^16 than to the largest number */
        return (uint16_t)(sign | INFINITE);
    }
    int exponent = 0;
    frexpf(size, &exponent); /* size = m 2^exponent, m in [0.5, 1) */
    if (size <= 0.0f || exponent < -24) {
        return sign;
    }
    /* In units of the last place: 2^(exponent - 11) for normal numbers, 2^-24 below them. A carry
     * goes into the exponent by itself. */
    const int lowest = exponent - 11 > -24 ? exponent - 11 : -24;
    const int units = (int)rintf(ldexpf(size, -lowest));
    const int biased = lowest + 25; /* of a number with 1024 or more units */
    const int bits = units < 1024 ? units : ((biased - 1) << 10) + units;
    return (uint16_t)(sign | bits);
}

/* ---- header ---- */

/* A place in the header's text. */
typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_blanks(cursor *from) {
    while (from->at < from->end && (*from->at == ' ' || *from->at == '\n' || *from->at == '\t')) {
        from->at++;
    }
}

/* Whether `text` comes next; moves behind it. */
static bool take(cursor *from, const char *text) {
    const size_t length = strlen(text);
    skip_blanks(from);
    if ((size_t)(from->end - from->at) < length || memcmp(from->at, text, length) != 0) {
        return false;
    }
    from->at += length;
    return true;
}

/* 'text' or "text", without escapes. */
static bool take_string(cursor *from, char *text, size_t room) {
    skip_blanks(from);
    if (from->at == from->end || (*from->at != '\'' && *from->at != '"')) {
        return false;
    }
    const char quote = *from->at++;
    size_t length = 0;
    while (from->at < from->end && *from->at != quote) {
        if (*from->at == '\\' || length + 1 == room) {
            return false;
        }
        text[length++] = *from->at++;
    }
    text[length] = '\0';
    return take(from, quote == '"' ? "\"" : "'");
}

static bool take_number(cursor *from, int64_t *value_out) {
    const int64_t most = INT64_MAX / 16;
    skip_blanks(from);
    int64_t value = 0;
    const char *first = from->at;
    while (from->at < from->end && *from->at >= '0' && *from->at <= '9') {
        if (value > most) {
            return false;
        }
        value = 10 * value + (*from->at++ - '0');
    }
    *value_out = value;
    return from->at > first;
}

/* (3, 4), (3,), (); a final comma is allowed. */
static bool take_shape(cursor *from, cps_npy *file) {
    if (!take(from, "(")) {
        return false;
    }
    while (!take(from, ")")) {
        if (file->rank == CPS_NPY_DIMS || !take_number(from, &file->shape[file->rank])) {
            return false;
        }
        file->rank++;
        if (!take(from, ",")) {
            return take(from, ")");
        }
    }
    return true;
}

static bool take_member(cursor *from, cps_npy *file, char descr[16], int32_t *seen) {
    enum { DESCR = 1, ORDER = 2, SHAPE = 4 };
    char key[32];
    int32_t which = 0;
    bool good = take_string(from, key, sizeof key) && take(from, ":");
    if (good && strcmp(key, "descr") == 0) {
        which = DESCR;
        good = take_string(from, descr, 16);
    } else if (good && strcmp(key, "fortran_order") == 0) {
        which = ORDER;
        file->fortran_order = take(from, "True");
        good = file->fortran_order || take(from, "False");
    } else if (good && strcmp(key, "shape") == 0) {
        which = SHAPE;
        good = take_shape(from, file);
    } else {
        good = false;
    }
    good = good && (*seen & which) == 0;
    *seen |= which;
    return good;
}

/* All three keys once, in any order, and nothing behind them. */
static bool read_dictionary(cursor *from, cps_npy *file, char descr[16]) {
    enum { ALL = 7 };
    int32_t seen = 0;
    if (!take(from, "{")) {
        return false;
    }
    while (!take(from, "}")) {
        if (!take_member(from, file, descr, &seen)) {
            return false;
        }
        if (!take(from, ",")) {
            if (!take(from, "}")) {
                return false;
            }
            break;
        }
    }
    skip_blanks(from);
    return seen == ALL && from->at == from->end;
}

static cps_status check_type(cps_npy *file, const char *descr) {
    static const struct {
        const char *descr;
        int32_t bytes;
    } types[] = {{"<f2", 2}, {"<f4", 4}, {"<f8", 8}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(descr, types[i].descr) == 0) {
            file->element_bytes = types[i].bytes;
            return CPS_OK;
        }
    }
    return cps_fail(CPS_ERR_DATA,
                    "'%s' holds elements of type '%s', wanted '<f2', '<f4' or '<f8': save it with "
                    "array.astype('<f4')",
                    file->path, descr);
}

/* The elements that the shape promises are there, no more and no fewer. */
static cps_status check_size(cps_npy *file, int64_t file_bytes) {
    file->count = 1;
    int64_t bytes = 0;
    bool fits = true;
    for (int32_t i = 0; i < file->rank; i++) {
        fits = fits && cps_mul_i64(file->count, file->shape[i], &file->count);
    }
    fits = fits && cps_mul_i64(file->count, file->element_bytes, &bytes);
    if (!fits || bytes != file_bytes - file->data_begin) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': its header promises %lld elements of %d bytes, %lld bytes follow "
                        "it: the file is cut or damaged",
                        file->path, fits ? (long long)file->count : -1LL, file->element_bytes,
                        (long long)(file_bytes - file->data_begin));
    }
    return CPS_OK;
}

static cps_status read_at(const cps_npy *file, int64_t at, size_t length, void *bytes) {
    for (size_t done = 0; done < length;) {
        const ssize_t got =
            pread(file->descriptor, (char *)bytes + done, length - done, (off_t)at + (off_t)done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return cps_fail(CPS_ERR_IO, "'%s' cannot be read at byte %lld: %s", file->path,
                            (long long)at, got < 0 ? strerror(errno) : "it ends there");
        }
        done += (size_t)got;
    }
    return CPS_OK;
}

static cps_status read_header(cps_npy *file, int64_t file_bytes) {
    unsigned char start[12] = {0};
    const int64_t there = cps_min_i64(file_bytes, (int64_t)sizeof start);
    CPS_TRY(read_at(file, 0, (size_t)there, start));
    const int version = start[6];
    if (there < 10 || memcmp(start, "\x93NUMPY", 6) != 0 || version < 1 || version > 3) {
        return cps_fail(CPS_ERR_DATA, "'%s' is no .npy file of version 1, 2 or 3", file->path);
    }
    const int64_t prefix = version == 1 ? 10 : 12;
    int64_t length = start[8] | start[9] << 8;
    if (version > 1) {
        length |= (int64_t)start[10] << 16 | (int64_t)start[11] << 24;
    }
    if (length > MAX_HEADER || prefix + length > file_bytes) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': a header of %lld bytes in a file of %lld, at most %d are read: the "
                        "file is damaged",
                        file->path, (long long)length, (long long)file_bytes, (int)MAX_HEADER);
    }
    char *text = malloc((size_t)length + 1), descr[16] = "";
    if (text == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the header of '%s'", file->path);
    }
    cps_status status = read_at(file, prefix, (size_t)length, text);
    cursor from = {text, text + length};
    if (status == CPS_OK && !read_dictionary(&from, file, descr)) {
        status = cps_fail(CPS_ERR_DATA,
                          "'%s': its header is no dictionary of descr, fortran_order and shape "
                          "(up to %d dimensions): the file is damaged, or no plain array",
                          file->path, (int)CPS_NPY_DIMS);
    }
    free(text);
    CPS_TRY(status);
    file->data_begin = prefix + length;
    CPS_TRY(check_type(file, descr));
    return check_size(file, file_bytes);
}

cps_status cps_npy_open(const char *path, cps_npy *file_out) {
    cps_npy file = {.descriptor = open(path, O_RDONLY | O_CLOEXEC)};
    struct stat facts;
    if (file.descriptor < 0 || fstat(file.descriptor, &facts) != 0) {
        const int cause = errno;
        if (file.descriptor >= 0) {
            close(file.descriptor);
        }
        return cps_fail(CPS_ERR_UNAVAILABLE, "'%s' cannot be opened: %s", path, strerror(cause));
    }
    file.path = cps_format("%s", path);
    const cps_status status = read_header(&file, (int64_t)facts.st_size);
    if (status != CPS_OK) {
        cps_npy_close(&file);
        return status;
    }
    *file_out = file;
    return CPS_OK;
}

void cps_npy_close(cps_npy *file) {
    if (file->path != NULL) {
        close(file->descriptor);
        free(file->path);
    }
    *file = (cps_npy){.descriptor = -1};
}

/* ---- elements ---- */

static float element(const unsigned char *bytes, int32_t element_bytes) {
    uint16_t half;
    float single;
    double wide;
    switch (element_bytes) {
    case 2:
        memcpy(&half, bytes, sizeof half);
        return cps_half_to_float(half);
    case 4:
        memcpy(&single, bytes, sizeof single);
        return single;
    default:
        memcpy(&wide, bytes, sizeof wide);
        return (float)wide;
    }
}

cps_status cps_npy_read(const cps_npy *file, int64_t first, int64_t count, float *values_out) {
    CPS_BUG_IF(first < 0 || count < 0 || first + count > file->count);
    const int64_t width = file->element_bytes;
    if (width == (int64_t)sizeof(float)) {
        return read_at(file, file->data_begin + first * width, (size_t)(count * width), values_out);
    }
    unsigned char *block = malloc((size_t)(BLOCK_ELEMENTS * width));
    cps_status status =
        block == NULL ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory reading '%s'", file->path)
                      : CPS_OK;
    for (int64_t done = 0; done < count && status == CPS_OK; done += BLOCK_ELEMENTS) {
        const int64_t length = cps_min_i64(BLOCK_ELEMENTS, count - done);
        status = read_at(file, file->data_begin + (first + done) * width, (size_t)(length * width),
                         block);
        for (int64_t i = 0; i < length && status == CPS_OK; i++) {
            values_out[done + i] = element(block + i * width, file->element_bytes);
        }
    }
    free(block);
    return status;
}

void cps_npy_matrix_header(int64_t rows, int64_t columns, char header_out[CPS_NPY_HEADER]) {
    enum { PREFIX = 10, LENGTH = CPS_NPY_HEADER - PREFIX };
    char text[LENGTH + 1];
    const int used =
        snprintf(text, sizeof text,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64 "), }",
                 rows, columns);
    CPS_BUG_IF(used < 0 || used >= LENGTH);
    memset(text + used, ' ', (size_t)(LENGTH - 1 - used));
    text[LENGTH - 1] = '\n';
    memcpy(header_out, "\x93NUMPY\x01\x00", MAGIC_BYTES);
    header_out[8] = (char)(LENGTH & 255);
    header_out[9] = (char)(LENGTH >> 8);
    memcpy(header_out + PREFIX, text, LENGTH);
}
