/* Reading a checkpoint: everything is checked against the file before it is believed. */
#include "train/checkpoint_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"

const char *const cps_checkpoint_text_names[CPS_CHECKPOINT_TEXTS] = {"state/loop", "state/identity",
                                                                     "state/model"};

/* ---- the table ------------------------------------------------------------------------------- */

cps_status cps_checkpoint_add(cps_checkpoint_table *table, char *path, int32_t rank,
                              const int64_t *shape, cps_checkpoint_tensor **tensor_out) {
    if (table->tensor_count == table->capacity) {
        const int64_t capacity = 2 * table->capacity + 256;
        cps_checkpoint_tensor *tensors =
            realloc(table->tensors, (size_t)capacity * sizeof *tensors);
        if (tensors == NULL) {
            free(path);
            return cps_fail(CPS_ERR_UNAVAILABLE,
                            "out of memory for the %lld tensors of a checkpoint",
                            (long long)capacity);
        }
        table->tensors = tensors;
        table->capacity = capacity;
    }
    int64_t count = 1;
    cps_checkpoint_tensor *tensor = &table->tensors[table->tensor_count++];
    *tensor =
        (cps_checkpoint_tensor){.path = path, .rank = rank, .first_chunk = table->chunk_count};
    for (int32_t i = 0; i < rank; i++) {
        tensor->shape[i] = shape[i];
        if (shape[i] < 0 || !cps_mul_i64(count, shape[i], &count)) {
            return cps_fail(CPS_ERR_DATA, "'%s' has an impossible size", path);
        }
    }
    tensor->count = count;
    table->chunk_count += cps_ceil_div(count, CPS_CHUNK);
    *tensor_out = tensor;
    return CPS_OK;
}

uint64_t cps_checkpoint_digest(const cps_checkpoint_table *table) {
    cps_hash *hash = cps_hash_create();
    const int64_t numbers[] = {CPS_CHECKPOINT_VERSION, table->element_bytes, table->step,
                               table->tensor_count, table->model_count};
    cps_hash_add(hash, numbers, sizeof numbers);
    for (int t = 0; t < CPS_CHECKPOINT_TEXTS; t++) {
        cps_hash_add(hash, table->texts[t], strlen(table->texts[t]) + 1);
    }
    for (int64_t i = 0; i < table->tensor_count; i++) {
        const cps_checkpoint_tensor *tensor = &table->tensors[i];
        const int64_t rank = tensor->rank;
        cps_hash_add(hash, tensor->path, strlen(tensor->path) + 1);
        cps_hash_add(hash, &rank, sizeof rank);
        cps_hash_add(hash, tensor->shape, (size_t)tensor->rank * sizeof *tensor->shape);
    }
    cps_hash_add(hash, table->updates, (size_t)table->model_count * sizeof *table->updates);
    cps_hash_add(hash, table->checksums, (size_t)table->chunk_count * sizeof *table->checksums);
    const uint64_t value = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return value;
}

void cps_checkpoint_table_destroy(cps_checkpoint_table *table) {
    for (int64_t i = 0; i < table->tensor_count; i++) {
        free(table->tensors[i].path);
    }
    for (int t = 0; t < CPS_CHECKPOINT_TEXTS; t++) {
        free(table->texts[t]);
    }
    if (table->path != NULL && table->descriptor >= 0) {
        close(table->descriptor);
    }
    free(table->tensors);
    free(table->updates);
    free(table->checksums);
    free(table->path);
    *table = (cps_checkpoint_table){0};
}

const cps_checkpoint_tensor *cps_checkpoint_find(const cps_checkpoint_table *table,
                                                 const char *path, int64_t likely) {
    if (likely >= 0 && likely < table->tensor_count &&
        strcmp(table->tensors[likely].path, path) == 0) {
        return &table->tensors[likely];
    }
    for (int64_t i = 0; i < table->tensor_count; i++) {
        if (strcmp(table->tensors[i].path, path) == 0) {
            return &table->tensors[i];
        }
    }
    return NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

static cps_status damaged(const cps_checkpoint_table *table, const char *what) {
    return cps_fail(CPS_ERR_DATA, "checkpoint '%s' is damaged: %s; delete it or restore a copy",
                    table->path, what);
}

/* An attribute's text into `buffer`; false if it is not there or longer. */
static bool text_attribute(cps_h5 *h5, const char *name, char *buffer, size_t size) {
    char *text = NULL;
    if (!cps_h5_has_attribute(h5, "/", name) || cps_h5_read_text(h5, "/", name, &text) != CPS_OK) {
        return false;
    }
    const bool fits = strlen(text) < size;
    snprintf(buffer, size, "%s", text);
    free(text);
    return fits;
}

static cps_status read_head(cps_h5 *h5, cps_checkpoint_table *table) {
    char format[32], real[16];
    int64_t version = 0;
    if (!text_attribute(h5, "format", format, sizeof format) ||
        strcmp(format, CPS_CHECKPOINT_FORMAT) != 0 ||
        cps_h5_read_integer(h5, "/", "version", &version) != CPS_OK) {
        return cps_fail(CPS_ERR_DATA, "'%s' is an HDF5 file but no Copse checkpoint", table->path);
    }
    if (version != CPS_CHECKPOINT_VERSION) {
        return cps_fail(CPS_ERR_USAGE,
                        "checkpoint '%s' has format %lld, this program reads %d: use the program "
                        "that wrote it",
                        table->path, (long long)version, CPS_CHECKPOINT_VERSION);
    }
    if (!text_attribute(h5, "real", real, sizeof real) ||
        (strcmp(real, "float32") != 0 && strcmp(real, "float64") != 0)) {
        return damaged(table, "it does not say what numbers it holds");
    }
    table->element_bytes = strcmp(real, "float64") == 0 ? 8 : 4;
    return cps_h5_read_integer(h5, "/", "step", &table->step);
}

static cps_status read_texts(cps_h5 *h5, cps_checkpoint_table *table) {
    for (int t = 0; t < CPS_CHECKPOINT_TEXTS; t++) {
        char **strings = NULL;
        int64_t count = 0;
        CPS_TRY(cps_h5_read_strings(h5, cps_checkpoint_text_names[t], &strings, &count));
        if (count == 1) {
            table->texts[t] = strings[0];
            strings[0] = NULL;
        }
        cps_strings_destroy(strings, count);
        if (count != 1) {
            return damaged(table, cps_checkpoint_text_names[t]);
        }
    }
    return CPS_OK;
}

/* Shape and place of one tensor. `path` is taken over. */
static cps_status read_tensor(cps_h5 *h5, cps_checkpoint_table *table, char *path) {
    cps_h5_info info = {0};
    int64_t address = 0;
    size_t bytes = 0;
    cps_status status = cps_h5_inspect(h5, path, &info);
    const cps_h5_type type = table->element_bytes == 8 ? CPS_H5_F64 : CPS_H5_F32;
    if (status == CPS_OK && (info.kind != CPS_H5_DATASET || info.type != type || info.rank < 0 ||
                             info.rank > CPS_MAX_DIMS)) {
        status = damaged(table, path);
    }
    if (status == CPS_OK) {
        status = cps_h5_address(h5, path, &address, &bytes);
    }
    if (status != CPS_OK) {
        free(path);
        return status;
    }
    cps_checkpoint_tensor *tensor;
    CPS_TRY(cps_checkpoint_add(table, path, info.rank, info.shape, &tensor));
    tensor->address = address;
    table->model_count += strncmp(path, "model/", 6) == 0 ? 1 : 0;
    return bytes / (size_t)table->element_bytes == (size_t)tensor->count ? CPS_OK
                                                                         : damaged(table, path);
}

static cps_status read_tensors(cps_h5 *h5, cps_checkpoint_table *table) {
    char **paths = NULL;
    int64_t count = 0;
    CPS_TRY(cps_h5_read_strings(h5, "state/tensors", &paths, &count));
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        char *path = paths[i];
        paths[i] = NULL;
        status = read_tensor(h5, table, path);
    }
    cps_strings_destroy(paths, count);
    return status;
}

/* A dataset of `count` whole numbers, malloc'ed. */
static cps_status read_numbers(cps_h5 *h5, const cps_checkpoint_table *table, const char *name,
                               cps_h5_type type, int64_t count, void **values_out) {
    void *values = NULL;
    int64_t found = 0;
    CPS_TRY(cps_h5_read_alloc(h5, name, type, (size_t)(count + 1) * 8, &values, &found));
    if (found != count) {
        free(values);
        return damaged(table, name);
    }
    *values_out = values;
    return CPS_OK;
}

static cps_status read_all(cps_h5 *h5, cps_checkpoint_table *table) {
    CPS_TRY(read_head(h5, table));
    CPS_TRY(read_texts(h5, table));
    CPS_TRY(read_tensors(h5, table));
    void *updates = NULL, *checksums = NULL;
    CPS_TRY(read_numbers(h5, table, "state/updates", CPS_H5_I64, table->model_count, &updates));
    table->updates = updates;
    CPS_TRY(read_numbers(h5, table, "state/checksums", CPS_H5_U64, table->chunk_count, &checksums));
    table->checksums = checksums;
    char wanted[32], found[32];
    snprintf(found, sizeof found, "%016" PRIx64, cps_checkpoint_digest(table));
    if (!text_attribute(h5, "digest", wanted, sizeof wanted) || strcmp(found, wanted) != 0) {
        return damaged(table, "the digest of its tables does not hold");
    }
    return CPS_OK;
}

cps_status cps_checkpoint_open(const char *path, cps_checkpoint_table *table_out) {
    cps_h5 *h5 = NULL;
    CPS_TRY(cps_h5_open_strict(path, &h5));
    cps_checkpoint_table table = {.path = cps_format("%s", path), .descriptor = -1};
    cps_status status = read_all(h5, &table);
    if (cps_h5_close(h5) != CPS_OK && status == CPS_OK) {
        cps_fail_clear(); /* nothing was written */
    }
    if (status == CPS_OK) {
        table.descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (table.descriptor < 0) {
            status = cps_fail(CPS_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
        }
    }
    if (status != CPS_OK) {
        cps_checkpoint_table_destroy(&table);
        return status;
    }
    *table_out = table;
    return CPS_OK;
}

/* 0, errno, or -1 at the end of the file. */
static int read_full(int descriptor, void *bytes, size_t length, int64_t at) {
    char *to = bytes;
    while (length > 0) {
        const ssize_t got = pread(descriptor, to, length, (off_t)at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got == 0 ? -1 : errno;
        }
        to += got;
        at += got;
        length -= (size_t)got;
    }
    return 0;
}

cps_status cps_checkpoint_read_chunk(const cps_checkpoint_table *table,
                                     const cps_checkpoint_tensor *tensor, int64_t chunk,
                                     void *bytes) {
    const int64_t first = chunk * CPS_CHUNK;
    const int64_t count = cps_min_i64(CPS_CHUNK, tensor->count - first);
    const size_t length = (size_t)(count * table->element_bytes);
    const int error =
        read_full(table->descriptor, bytes, length, tensor->address + first * table->element_bytes);
    if (error > 0) {
        return cps_fail(CPS_ERR_IO, "cannot read '%s': %s", table->path, strerror(error));
    }
    if (error < 0 || cps_hash64(bytes, length) != table->checksums[tensor->first_chunk + chunk]) {
        return cps_fail(CPS_ERR_DATA,
                        "checkpoint '%s' is damaged: %s of '%s', elements %lld to %lld; delete it "
                        "or restore a copy",
                        table->path, error < 0 ? "it ends inside" : "a wrong checksum",
                        tensor->path, (long long)first, (long long)(first + count - 1));
    }
    return CPS_OK;
}

cps_status cps_checkpoint_verify(const cps_checkpoint_table *table) {
    void *chunk = malloc((size_t)CPS_CHUNK * sizeof(double));
    if (chunk == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory reading '%s'", table->path);
    }
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < table->tensor_count && status == CPS_OK; i++) {
        const cps_checkpoint_tensor *tensor = &table->tensors[i];
        const int64_t chunks = cps_ceil_div(tensor->count, CPS_CHUNK);
        for (int64_t c = 0; c < chunks && status == CPS_OK; c++) {
            status = cps_checkpoint_read_chunk(table, tensor, c, chunk);
        }
    }
    free(chunk);
    return status;
}
