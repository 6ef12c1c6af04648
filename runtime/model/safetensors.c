#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/numeric.h"

/* Layout: 8 bytes little-endian header length, the header (JSON, padded with blanks), the data. The
 * header is { "name": { "dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24] }, ...,
 * "__metadata__": { text: text } } */

enum { HEADER_MAX = 100000000, BLOCK = 1 << 18 };

struct cps_safetensors {
    char *path;
    int descriptor;
    int64_t data_at; /* byte in the file where the data begins */
    cps_json *header;
    cps_safetensor *tensors; /* [count], sorted by name */
    int64_t count;
};

/* ---- types ---- */

typedef struct type_row {
    const char *name;
    int64_t bytes;
    bool readable;
} type_row;

static const type_row types[] = {
    {"F64", 8, true},  {"F32", 4, true},      {"F16", 2, true},      {"BF16", 2, true},
    {"I64", 8, false}, {"I32", 4, false},     {"I16", 2, false},     {"I8", 1, false},
    {"U64", 8, false}, {"U32", 4, false},     {"U16", 2, false},     {"U8", 1, false},
    {"C64", 8, false}, {"F8_E4M3", 1, false}, {"F8_E5M2", 1, false}, {"BOOL", 1, false},
};

static const type_row *find_type(const char *name) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, name) == 0) {
            return &types[i];
        }
    }
    return NULL;
}

/* IEEE half precision: 1 sign, 5 exponent, 10 fraction bits. */
static double from_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31;
    const double fraction = (double)(bits & 1023);
    double value;
    if (exponent == 0) {
        value = ldexp(fraction, -24);
    } else if (exponent == 31) {
        value = fraction > 0 ? (double)NAN : (double)INFINITY;
    } else {
        value = ldexp(1024 + fraction, exponent - 25);
    }
    return (bits >> 15) != 0 ? -value : value;
}

/* The upper half of a float. */
static double from_bfloat(uint16_t bits) {
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

static double element(const type_row *type, const unsigned char *bytes) {
    if (type->bytes == 8) {
        double value;
        memcpy(&value, bytes, sizeof value);
        return value;
    }
    if (type->bytes == 4) {
        float value;
        memcpy(&value, bytes, sizeof value);
        return (double)value;
    }
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return type->name[0] == 'B' ? from_bfloat(half) : from_half(half);
}

/* ---- the header ---- */

static bool read_size(const cps_json *value, int64_t *out) {
    if (!cps_json_is_number(value)) {
        return false;
    }
    const double number = cps_json_number(value);
    if (!(number >= 0 && number <= 0x1p53) || number != floor(number)) {
        return false;
    }
    *out = (int64_t)number;
    return true;
}

static cps_status read_shape(const char *path, const cps_json *list, cps_safetensor *tensor) {
    tensor->count = 1;
    for (const cps_json *at = cps_json_first(list); at != NULL; at = cps_json_next(at)) {
        if (tensor->rank == CPS_SAFETENSOR_DIMS || !read_size(at, &tensor->shape[tensor->rank])) {
            return cps_fail(CPS_ERR_DATA,
                            "'%s': the shape of tensor '%s' is not a list of up to %d sizes; the "
                            "file is damaged",
                            path, tensor->name, CPS_SAFETENSOR_DIMS);
        }
        if (!cps_mul_i64(tensor->count, tensor->shape[tensor->rank++], &tensor->count)) {
            return cps_fail(CPS_ERR_DATA,
                            "'%s': the sizes of tensor '%s' multiply to more than fits any "
                            "memory; the file is damaged",
                            path, tensor->name);
        }
    }
    return CPS_OK;
}

static cps_status read_place(const char *path, const cps_json *list, int64_t data_bytes,
                             cps_safetensor *tensor) {
    if (!cps_json_is_array(list) || cps_json_count(list) != 2 ||
        !read_size(cps_json_at(list, 0), &tensor->begin) ||
        !read_size(cps_json_at(list, 1), &tensor->end) || tensor->begin > tensor->end ||
        tensor->end > data_bytes) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': tensor '%s' has no place inside the file's %lld bytes of data; the "
                        "file is damaged or was cut short, fetch it again",
                        path, tensor->name, (long long)data_bytes);
    }
    return CPS_OK;
}

static cps_status read_entry(const char *path, const cps_json *member, int64_t data_bytes,
                             cps_safetensor *tensor) {
    tensor->name = cps_json_key(member);
    tensor->dtype = cps_json_get_string(member, "dtype", NULL);
    const cps_json *shape = cps_json_get(member, "shape");
    if (tensor->dtype == NULL || !cps_json_is_array(shape)) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': tensor '%s' lacks its dtype or shape; this is no safetensors file",
                        path, tensor->name);
    }
    CPS_TRY(read_shape(path, shape, tensor));
    CPS_TRY(read_place(path, cps_json_get(member, "data_offsets"), data_bytes, tensor));
    const type_row *type = find_type(tensor->dtype);
    tensor->readable = type != NULL && type->readable;
    int64_t bytes = 0;
    if (type != NULL && (!cps_mul_i64(tensor->count, type->bytes, &bytes) ||
                         bytes != tensor->end - tensor->begin)) {
        return cps_fail(
            CPS_ERR_DATA,
            "'%s': tensor '%s' has %lld elements of type %s but %lld bytes; the file is "
            "damaged",
            path, tensor->name, (long long)tensor->count, tensor->dtype,
            (long long)(tensor->end - tensor->begin));
    }
    return CPS_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const cps_safetensor *)a)->name, ((const cps_safetensor *)b)->name);
}

static int by_place(const void *a, const void *b) {
    const cps_safetensor *x = *(cps_safetensor *const *)a, *y = *(cps_safetensor *const *)b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static cps_status check_overlap(const cps_safetensors *file) {
    const cps_safetensor **sorted = calloc((size_t)file->count + 1, sizeof *sorted);
    if (sorted == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the header of '%s'", file->path);
    }
    int64_t count = 0;
    for (int64_t i = 0; i < file->count; i++) {
        if (file->tensors[i].end > file->tensors[i].begin) {
            sorted[count++] = &file->tensors[i];
        }
    }
    qsort(sorted, (size_t)count, sizeof *sorted, by_place);
    cps_status status = CPS_OK;
    for (int64_t i = 1; i < count && status == CPS_OK; i++) {
        if (sorted[i]->begin < sorted[i - 1]->end) {
            status = cps_fail(CPS_ERR_DATA,
                              "'%s': tensors '%s' and '%s' share bytes; the file is damaged",
                              file->path, sorted[i - 1]->name, sorted[i]->name);
        }
    }
    free((void *)(uintptr_t)sorted);
    return status;
}

static cps_status read_entries(cps_safetensors *file, int64_t data_bytes) {
    if (!cps_json_is_object(file->header)) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': the header is no JSON object; this is no safetensors "
                        "file",
                        file->path);
    }
    const int64_t members = cps_json_count(file->header);
    file->tensors = calloc((size_t)members + 1, sizeof *file->tensors);
    if (file->tensors == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the header of '%s'", file->path);
    }
    for (const cps_json *at = cps_json_first(file->header); at != NULL; at = cps_json_next(at)) {
        if (strcmp(cps_json_key(at), "__metadata__") != 0) {
            CPS_TRY(read_entry(file->path, at, data_bytes, &file->tensors[file->count]));
            file->count++;
        }
    }
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_name);
    return check_overlap(file);
}

static cps_status read_bytes(const cps_safetensors *file, int64_t at, void *bytes, size_t length) {
    size_t done = 0;
    while (done < length) {
        const ssize_t got =
            pread(file->descriptor, (char *)bytes + done, length - done, (off_t)at + (off_t)done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return cps_fail(CPS_ERR_IO, "reading '%s' at byte %lld: %s", file->path,
                            (long long)at + (long long)done,
                            got < 0 ? strerror(errno) : "the file ends there");
        }
        done += (size_t)got;
    }
    return CPS_OK;
}

static cps_status read_header(cps_safetensors *file) {
    struct stat facts;
    if (fstat(file->descriptor, &facts) != 0) {
        return cps_fail(CPS_ERR_IO, "'%s': %s", file->path, strerror(errno));
    }
    unsigned char length_bytes[8];
    uint64_t length = 0;
    const int64_t size = (int64_t)facts.st_size;
    if (S_ISREG(facts.st_mode) && size >= 8) {
        CPS_TRY(read_bytes(file, 0, length_bytes, sizeof length_bytes));
        for (int32_t i = 7; i >= 0; i--) {
            length = length << 8 | length_bytes[i];
        }
    }
    if (length == 0 || length > HEADER_MAX || (int64_t)length > size - 8) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is no safetensors file: its header would have %llu bytes, the file "
                        "has %lld (and a header at most %d)",
                        file->path, (unsigned long long)length, (long long)size, HEADER_MAX);
    }
    char *text = malloc((size_t)length);
    if (text == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the header of '%s'", file->path);
    }
    cps_status status = read_bytes(file, 8, text, (size_t)length);
    if (status == CPS_OK) {
        status = cps_json_parse(text, (size_t)length, file->path, &file->header);
    }
    free(text);
    CPS_TRY(status);
    file->data_at = 8 + (int64_t)length;
    return read_entries(file, size - file->data_at);
}

cps_status cps_safetensors_open(const char *path, cps_safetensors **file_out) {
    cps_safetensors *file = calloc(1, sizeof *file);
    if (file == NULL || (file->path = strdup(path)) == NULL) {
        free(file);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for '%s'", path);
    }
    file->descriptor = open(path, O_RDONLY | O_CLOEXEC);
    cps_status status =
        file->descriptor >= 0
            ? read_header(file)
            : cps_fail(CPS_ERR_UNAVAILABLE, "cannot open weights '%s': %s", path, strerror(errno));
    if (status != CPS_OK) {
        cps_safetensors_close(file);
        return status;
    }
    *file_out = file;
    return CPS_OK;
}

void cps_safetensors_close(cps_safetensors *file) {
    if (file == NULL) {
        return;
    }
    if (file->descriptor >= 0) {
        close(file->descriptor);
    }
    cps_json_destroy(file->header);
    free(file->tensors);
    free(file->path);
    free(file);
}

int64_t cps_safetensors_count(const cps_safetensors *file) {
    return file->count;
}

const cps_safetensor *cps_safetensors_at(const cps_safetensors *file, int64_t index) {
    CPS_BUG_IF(index < 0 || index >= file->count);
    return &file->tensors[index];
}

/* ---- elements ---- */

cps_status cps_safetensors_read(cps_safetensors *file, int64_t index, cps_real *values_out) {
    const cps_safetensor *tensor = cps_safetensors_at(file, index);
    if (!tensor->readable) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': tensor '%s' has type %s; F64, F32, F16 and BF16 can be read, "
                        "convert it",
                        file->path, tensor->name, tensor->dtype);
    }
    const type_row *type = find_type(tensor->dtype);
    unsigned char *block = malloc((size_t)(BLOCK * type->bytes));
    if (block == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory while reading '%s'", file->path);
    }
    cps_status status = CPS_OK;
    for (int64_t first = 0; first < tensor->count && status == CPS_OK; first += BLOCK) {
        const int64_t count = cps_min_i64(BLOCK, tensor->count - first);
        status = read_bytes(file, file->data_at + tensor->begin + first * type->bytes, block,
                            (size_t)(count * type->bytes));
        for (int64_t i = 0; i < count && status == CPS_OK; i++) {
            const double value = element(type, block + i * type->bytes);
            if (!isfinite(value)) {
                status = cps_fail(CPS_ERR_DATA,
                                  "'%s': element %lld of tensor '%s' is %g; these weights are not "
                                  "usable",
                                  file->path, (long long)(first + i), tensor->name, value);
            }
            values_out[first + i] = (cps_real)value;
        }
    }
    free(block);
    return status;
}

/* ---- writing ---- */

static int by_source_name(const void *a, const void *b) {
    return strcmp(((const cps_safetensor_source *)a)->name,
                  ((const cps_safetensor_source *)b)->name);
}

static int64_t element_count(const cps_safetensor_source *source) {
    int64_t count = 1;
    for (int32_t i = 0; i < source->rank; i++) {
        count *= source->shape[i];
    }
    return count;
}

/* The header as text, padded so that the data begins at a multiple of 64 bytes. free() it. */
static char *make_header(const cps_safetensor_source *sources, int64_t count, size_t *length_out) {
    cps_json *header = cps_json_new_object();
    cps_json_add_string(cps_json_add_object(header, "__metadata__"), "format", "pt");
    int64_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        cps_json *entry = cps_json_add_object(header, sources[i].name);
        cps_json_add_string(entry, "dtype", "F32");
        cps_json *shape = cps_json_add_array(entry, "shape");
        for (int32_t d = 0; d < sources[i].rank; d++) {
            cps_json_add_number(shape, NULL, (double)sources[i].shape[d]);
        }
        cps_json *place = cps_json_add_array(entry, "data_offsets");
        cps_json_add_number(place, NULL, (double)at);
        at += element_count(&sources[i]) * (int64_t)sizeof(float);
        cps_json_add_number(place, NULL, (double)at);
    }
    char *text = cps_json_print(header, false, false);
    cps_json_destroy(header);
    const size_t length = strlen(text);
    const size_t padded = (length + 8 + 63) / 64 * 64 - 8;
    char *grown = realloc(text, padded + 1);
    if (grown == NULL) {
        free(text);
        return NULL;
    }
    memset(grown + length, ' ', padded - length);
    grown[padded] = '\0';
    *length_out = padded;
    return grown;
}

static bool write_values(FILE *stream, const cps_safetensor_source *source, float *block) {
    const int64_t count = element_count(source);
    const int64_t columns = source->transposed ? source->shape[1] : 1;
    const int64_t rows = source->transposed ? source->shape[0] : 1;
    for (int64_t first = 0; first < count; first += BLOCK) {
        const int64_t part = cps_min_i64(BLOCK, count - first);
        for (int64_t i = 0; i < part; i++) {
            const int64_t at = first + i;
            const int64_t from = source->transposed ? at % columns * rows + at / columns : at;
            block[i] = (float)source->values[from];
        }
        if (fwrite(block, sizeof *block, (size_t)part, stream) != (size_t)part) {
            return false;
        }
    }
    return true;
}

static cps_status write_stream(FILE *stream, const char *path, const cps_safetensor_source *sources,
                               int64_t count) {
    size_t length = 0;
    char *header = make_header(sources, count, &length);
    float *block = malloc(BLOCK * sizeof *block);
    bool good = header != NULL && block != NULL;
    if (!good) {
        free(header);
        free(block);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory while writing '%s'", path);
    }
    unsigned char length_bytes[8];
    for (size_t i = 0; i < sizeof length_bytes; i++) {
        length_bytes[i] = (unsigned char)(length >> (8 * i));
    }
    good = fwrite(length_bytes, 1, sizeof length_bytes, stream) == sizeof length_bytes &&
           fwrite(header, 1, length, stream) == length;
    for (int64_t i = 0; i < count && good; i++) {
        good = write_values(stream, &sources[i], block);
    }
    free(header);
    free(block);
    return good ? CPS_OK : cps_fail(CPS_ERR_IO, "writing '%s': %s", path, strerror(errno));
}

cps_status cps_safetensors_write(const char *path, cps_safetensor_source *sources, int64_t count) {
    qsort(sources, (size_t)count, sizeof *sources, by_source_name);
    char *temporary = cps_file_temporary_name(path);
    FILE *stream = fopen(temporary, "wb");
    cps_status status = CPS_OK;
    if (stream == NULL) {
        status = cps_fail(CPS_ERR_IO, "cannot create '%s': %s", temporary, strerror(errno));
        goto free_name;
    }
    status = write_stream(stream, path, sources, count);
    if (fclose(stream) != 0 && status == CPS_OK) {
        status = cps_fail(CPS_ERR_IO, "writing '%s': %s", path, strerror(errno));
    }
    if (status == CPS_OK) {
        status = cps_file_publish(temporary, path);
    } else {
        (void)remove(temporary);
    }
free_name:
    free(temporary);
    return status;
}
