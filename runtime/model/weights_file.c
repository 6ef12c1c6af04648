#include "model/weights_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "h5/h5.h"
#include "model/safetensors.h"

static const char group[] = "model";

/* ---- safetensors ---- */

static cps_status open_safetensors(cps_weights_file *file) {
    CPS_TRY(cps_safetensors_open(file->path, &file->safetensors));
    const int64_t count = cps_safetensors_count(file->safetensors);
    file->tensors = calloc((size_t)count + 1, sizeof *file->tensors);
    if (file->tensors == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for '%s'", file->path);
    }
    for (int64_t i = 0; i < count; i++) {
        const cps_safetensor *from = cps_safetensors_at(file->safetensors, i);
        cps_stored *to = &file->tensors[i];
        *to = (cps_stored){.name = from->name,
                           .readable = from->readable,
                           .rank = from->rank,
                           .count = from->count};
        memcpy(to->shape, from->shape, sizeof to->shape);
    }
    file->count = count;
    return CPS_OK;
}

/* ---- checkpoints ---- */

static cps_status inspect(cps_weights_file *file, const char *name, cps_stored *to) {
    char *full = cps_format("%s/%s", group, name);
    cps_h5_info info;
    const cps_status status = cps_h5_inspect(file->h5, full, &info);
    free(full);
    CPS_TRY(status);
    to->readable = info.kind == CPS_H5_DATASET && info.rank <= CPS_WEIGHTS_DIMS &&
                   (info.type == CPS_H5_F32 || info.type == CPS_H5_F64);
    if (to->readable) {
        to->rank = info.rank;
        to->count = info.count;
        memcpy(to->shape, info.shape, sizeof to->shape);
    }
    return CPS_OK;
}

static cps_status open_checkpoint(cps_weights_file *file) {
    file->is_checkpoint = true;
    CPS_TRY(cps_h5_open(file->path, &file->h5));
    if (!cps_h5_has(file->h5, group)) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is an HDF5 file without group '%s': no Copse checkpoint (a shard?)",
                        file->path, group);
    }
    char **names = NULL;
    int64_t count = 0;
    CPS_TRY(cps_h5_list(file->h5, group, &names, &count));
    cps_status status = CPS_OK;
    file->tensors = calloc((size_t)count + 1, sizeof *file->tensors);
    if (file->tensors == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for '%s'", file->path);
    }
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        file->tensors[i].name = names[i]; /* taken over */
        names[i] = NULL;
        file->count++;
        status = inspect(file, file->tensors[i].name, &file->tensors[i]);
    }
    cps_strings_destroy(names, count);
    return status;
}

/* ---- both ---- */

static cps_status read_start(const char *path, unsigned char start[8]) {
    memset(start, 0, 8);
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "cannot open weights '%s': %s", path, strerror(errno));
    }
    const size_t got = fread(start, 1, 8, stream);
    const bool bad = ferror(stream) != 0;
    const int cause = errno;
    fclose(stream);
    if (bad) {
        return cps_fail(CPS_ERR_IO, "cannot read weights '%s': %s", path, strerror(cause));
    }
    if (got < 8) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' has only %zu bytes: neither safetensors nor a Copse checkpoint", path,
                        got);
    }
    return CPS_OK;
}

cps_status cps_weights_file_open(const char *path, cps_weights_file *file_out) {
    static const unsigned char hdf5[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char start[8];
    CPS_TRY(read_start(path, start));
    if (memcmp(start, "PK\003\004", 4) == 0 || memcmp(start, "\x80\x02", 2) == 0) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is a PyTorch file (it may run code when loaded, so it is not read); "
                        "save its state_dict with safetensors.torch.save_file and name that file",
                        path);
    }
    cps_weights_file file = {.path = path};
    const cps_status status =
        memcmp(start, hdf5, sizeof hdf5) == 0 ? open_checkpoint(&file) : open_safetensors(&file);
    if (status != CPS_OK) {
        cps_weights_file_close(&file);
        return status;
    }
    *file_out = file;
    return CPS_OK;
}

void cps_weights_file_close(cps_weights_file *file) {
    for (int64_t i = 0; file->is_checkpoint && i < file->count; i++) {
        free((void *)(uintptr_t)file->tensors[i].name);
    }
    free(file->tensors);
    cps_safetensors_close(file->safetensors);
    if (file->h5 != NULL && cps_h5_close(file->h5) != CPS_OK) {
        cps_fail_clear(); /* nothing was written */
    }
    *file = (cps_weights_file){0};
}

cps_stored *cps_weights_file_find(const cps_weights_file *file, const char *name) {
    int64_t low = 0, high = file->count;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const int order = strcmp(file->tensors[middle].name, name);
        if (order == 0) {
            return &file->tensors[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

cps_status cps_weights_file_read(cps_weights_file *file, const cps_stored *tensor,
                                 cps_real *values_out) {
    if (!file->is_checkpoint) {
        return cps_safetensors_read(file->safetensors, tensor - file->tensors, values_out);
    }
    if (!tensor->readable) {
        return cps_fail(CPS_ERR_DATA, "'%s': %s/%s is no array of floating-point numbers",
                        file->path, group, tensor->name);
    }
    char *full = cps_format("%s/%s", group, tensor->name);
    const cps_h5_type type = sizeof(cps_real) == sizeof(double) ? CPS_H5_F64 : CPS_H5_F32;
    cps_status status = cps_h5_read(file->h5, full, type, tensor->count, values_out);
    if (status == CPS_OK && !cps_all_finite(values_out, tensor->count)) {
        status =
            cps_fail(CPS_ERR_DATA, "'%s': %s holds numbers that are not finite", file->path, full);
    }
    free(full);
    return status;
}
