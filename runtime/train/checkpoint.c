/* Writing checkpoints, finding and deleting them.
 *
 * Rank 0 lays the file out and closes it before any rank writes a number, so HDF5 is out of the
 * way; then every rank writes what it owns at the tensors' addresses, and syncs. Nobody leaves
 * before all have agreed; only then is the file renamed. What a rank owns of the weights follows
 * from their sizes; of the optimizer's state it owns what it updates. Neither reaches a byte. */
#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "train/checkpoint_file.h"
#include "train/owner.h"

static const cps_h5_type real_type = sizeof(cps_real) == sizeof(double) ? CPS_H5_F64 : CPS_H5_F32;

/* ---- what goes in ---------------------------------------------------------------------------- */

/* Weights are dealt by chunks, each to the rank in whose share of all elements its middle lies. */
static void deal_model(cps_comm *comm, cps_params *params, cps_checkpoint_table *table) {
    const int32_t ranks = cps_comm_size(comm), rank = cps_comm_rank(comm);
    double total = 0, before = 0;
    for (int64_t i = 0; i < table->model_count; i++) {
        total += (double)table->tensors[i].count;
    }
    for (int64_t i = 0; i < table->model_count; i++) {
        cps_checkpoint_tensor *tensor = &table->tensors[i];
        for (int64_t first = 0; first < tensor->count; first += CPS_CHUNK) {
            const int64_t count = cps_min_i64(CPS_CHUNK, tensor->count - first);
            const int32_t owner = (int32_t)((before + 0.5 * (double)count) * ranks / total);
            before += (double)count;
            if ((owner < ranks ? owner : ranks - 1) == rank) {
                tensor->own_first = tensor->own_count == 0 ? first : tensor->own_first;
                tensor->own_count += count;
            }
        }
        const cps_param *param = cps_params_at(params, (int32_t)i);
        tensor->own = (const cps_real *)param->tensor.data + tensor->own_first;
    }
}

static cps_status add_model(cps_comm *comm, cps_params *params, cps_checkpoint_table *table) {
    const int32_t count = cps_params_count(params);
    for (int32_t i = 0; i < count; i++) {
        const cps_param *param = cps_params_at(params, i);
        CPS_BUG_IF(!param->allocated);
        if (strchr(param->name, '/') != NULL || strcmp(param->name, ".") == 0) {
            return cps_fail(CPS_ERR_USAGE,
                            "parameter '%s' cannot be stored: names in checkpoints hold no '/'",
                            param->name);
        }
        cps_checkpoint_tensor *tensor;
        CPS_TRY(cps_checkpoint_add(table, cps_format("model/%s", param->name), param->spec.rank,
                                   param->spec.shape, &tensor));
    }
    table->model_count = count;
    table->updates = calloc((size_t)count + 1, sizeof *table->updates);
    if (table->updates == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a checkpoint");
    }
    for (int32_t i = 0; i < count; i++) {
        table->updates[i] = cps_params_at(params, i)->updates;
    }
    deal_model(comm, params, table);
    return CPS_OK;
}

static cps_status add_optimizer(cps_params *params, cps_updater *updater,
                                cps_checkpoint_table *table) {
    for (int32_t s = 0; s < cps_updater_state_count(updater); s++) {
        for (int32_t i = 0; i < cps_params_count(params); i++) {
            if (!cps_updater_updates(updater, i)) {
                continue;
            }
            const cps_param *param = cps_params_at(params, i);
            cps_checkpoint_tensor *tensor;
            CPS_TRY(cps_checkpoint_add(
                table,
                cps_format("optimizer/%s/%s", cps_updater_state_name(updater, s), param->name),
                param->spec.rank, param->spec.shape, &tensor));
            cps_updater_owned(updater, i, &tensor->own_first, &tensor->own_count);
            tensor->own = cps_updater_state(updater, i, s);
        }
    }
    return CPS_OK;
}

static cps_status make_table(cps_comm *comm, int64_t step, const cps_checkpoint_content *content,
                             cps_checkpoint_table *table) {
    const uint16_t one = 1;
    if (*(const unsigned char *)&one != 1) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "checkpoints need a little-endian machine");
    }
    table->step = step;
    table->element_bytes = (int64_t)sizeof(cps_real);
    cps_json *model = cps_model_describe(content->model);
    table->texts[CPS_TEXT_LOOP] = cps_json_print(content->state, false, true);
    table->texts[CPS_TEXT_IDENTITY] = cps_json_print(content->identity, false, true);
    table->texts[CPS_TEXT_MODEL] = cps_json_print(model, false, true);
    cps_json_destroy(model);
    cps_params *params = cps_model_params(content->model);
    CPS_TRY(add_model(comm, params, table));
    if (content->updater != NULL) {
        CPS_TRY(add_optimizer(params, content->updater, table));
    }
    table->checksums = calloc((size_t)table->chunk_count + 1, sizeof *table->checksums);
    return table->checksums != NULL
               ? CPS_OK
               : cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a checkpoint");
}

/* ---- checksums ------------------------------------------------------------------------------- */

static void hash_tensor(void *context, int64_t i) {
    cps_checkpoint_table *table = context;
    const cps_checkpoint_tensor *tensor = &table->tensors[i];
    for (int64_t at = 0; at < tensor->own_count; at += CPS_CHUNK) {
        const int64_t count = cps_min_i64(CPS_CHUNK, tensor->own_count - at);
        table->checksums[tensor->first_chunk + (tensor->own_first + at) / CPS_CHUNK] =
            cps_hash64(tensor->own + at, (size_t)count * sizeof(cps_real));
    }
}

/* The owners' checksums to rank 0, where table->checksums is complete afterwards. */
static cps_status gather_checksums(cps_comm *comm, cps_checkpoint_table *table) {
    cps_parallel(table->tensor_count, hash_tensor, table);
    const int32_t ranks = cps_comm_size(comm);
    const size_t count = (size_t)table->chunk_count;
    const bool root = cps_comm_rank(comm) == 0;
    int64_t *bytes = calloc((size_t)ranks, sizeof *bytes);
    uint64_t *all = calloc(root ? count * (size_t)ranks + 1 : 1, sizeof *all);
    cps_status status = bytes != NULL && all != NULL
                            ? CPS_OK
                            : cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for checksums");
    status = cps_agree(comm, "checkpoint", status);
    if (status == CPS_OK) {
        for (int32_t r = 0; r < ranks; r++) {
            bytes[r] = (int64_t)(count * sizeof *all);
        }
        cps_comm_gatherv(comm, "checksums", table->checksums, all, bytes, 0);
        for (int32_t r = 0; root && r < ranks; r++) {
            for (size_t c = 0; c < count; c++) { /* 0 where a rank is no owner */
                table->checksums[c] |= all[(size_t)r * count + c];
            }
        }
    }
    free(bytes);
    free(all);
    return status;
}

/* ---- the file -------------------------------------------------------------------------------- */

static cps_status lay_out_tables(cps_h5 *h5, const cps_checkpoint_table *table) {
    char digest[32];
    snprintf(digest, sizeof digest, "%016" PRIx64, cps_checkpoint_digest(table));
    CPS_TRY(cps_h5_write_text(h5, "/", "format", CPS_CHECKPOINT_FORMAT));
    CPS_TRY(cps_h5_write_integer(h5, "/", "version", CPS_CHECKPOINT_VERSION));
    CPS_TRY(cps_h5_write_text(h5, "/", "real", real_type == CPS_H5_F64 ? "float64" : "float32"));
    CPS_TRY(cps_h5_write_integer(h5, "/", "step", table->step));
    CPS_TRY(cps_h5_write_text(h5, "/", "digest", digest));
    for (int t = 0; t < CPS_CHECKPOINT_TEXTS; t++) {
        const char *text = table->texts[t];
        CPS_TRY(cps_h5_write_strings(h5, cps_checkpoint_text_names[t], &text, 1));
    }
    CPS_TRY(cps_h5_write(h5, "state/updates", CPS_H5_I64, 1, &table->model_count, table->updates));
    return cps_h5_write(h5, "state/checksums", CPS_H5_U64, 1, &table->chunk_count,
                        table->checksums);
}

static cps_status lay_out_tensors(cps_h5 *h5, cps_checkpoint_table *table) {
    const char **paths = calloc((size_t)table->tensor_count + 1, sizeof *paths);
    if (paths == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a checkpoint");
    }
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < table->tensor_count && status == CPS_OK; i++) {
        cps_checkpoint_tensor *tensor = &table->tensors[i];
        size_t bytes;
        paths[i] = tensor->path;
        status = cps_h5_write(h5, tensor->path, real_type, tensor->rank, tensor->shape, NULL);
        if (status == CPS_OK) {
            status = cps_h5_address(h5, tensor->path, &tensor->address, &bytes);
        }
    }
    if (status == CPS_OK) {
        status = cps_h5_write_strings(h5, "state/tensors", paths, table->tensor_count);
    }
    free((void *)(uintptr_t)paths);
    return status;
}

/* Rank 0: a file with room for everything. */
static cps_status lay_out(const char *temporary, cps_checkpoint_table *table) {
    cps_h5 *h5 = NULL;
    CPS_TRY(cps_h5_create(temporary, &h5));
    cps_status status = cps_h5_make_group(h5, "model");
    if (status == CPS_OK) {
        status = lay_out_tables(h5, table);
    }
    if (status == CPS_OK) {
        status = lay_out_tensors(h5, table);
    }
    if (status != CPS_OK) {
        char *message = cps_format("%s", cps_fail_message());
        if (cps_h5_close(h5) != CPS_OK) {
            cps_fail_clear();
        }
        status = cps_fail(status, "%s", message); /* the first failure is the cause */
        free(message);
        return status;
    }
    return cps_h5_close(h5);
}

/* 0 or errno. */
static int write_full(int descriptor, const void *bytes, size_t length, int64_t at) {
    const char *from = bytes;
    while (length > 0) {
        const ssize_t put = pwrite(descriptor, from, length, (off_t)at);
        if (put < 0 && errno != EINTR) {
            return errno;
        }
        if (put > 0) {
            from += put;
            at += put;
            length -= (size_t)put;
        }
    }
    return 0;
}

static cps_status write_own(const char *temporary, const cps_checkpoint_table *table) {
    const int descriptor = open(temporary, O_WRONLY | O_CLOEXEC);
    int error = descriptor < 0 ? errno : 0;
    for (int64_t i = 0; i < table->tensor_count && error == 0; i++) {
        const cps_checkpoint_tensor *tensor = &table->tensors[i];
        if (tensor->own_count > 0) {
            error =
                write_full(descriptor, tensor->own, (size_t)tensor->own_count * sizeof(cps_real),
                           tensor->address + tensor->own_first * (int64_t)sizeof(cps_real));
        }
    }
    if (error == 0 && fsync(descriptor) != 0) {
        error = errno;
    }
    if (descriptor >= 0 && close(descriptor) != 0 && error == 0) {
        error = errno;
    }
    if (error != 0) {
        return cps_fail(CPS_ERR_IO,
                        "cannot write checkpoint '%s': %s%s; the checkpoints that are there are "
                        "untouched",
                        temporary, strerror(error),
                        error == ENOSPC || error == EDQUOT ? " (free some space and run again)"
                                                           : "");
    }
    return CPS_OK;
}

/* Name and addresses from rank 0. */
static cps_status share_layout(cps_comm *comm, char **temporary, cps_checkpoint_table *table) {
    size_t length = *temporary != NULL ? strlen(*temporary) + 1 : 0;
    void *name = *temporary;
    cps_comm_broadcast_alloc(comm, "checkpoint", &name, &length, 0);
    *temporary = name;
    int64_t *addresses = calloc((size_t)table->tensor_count + 1, sizeof *addresses);
    cps_status status = addresses != NULL
                            ? CPS_OK
                            : cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a checkpoint");
    status = cps_agree(comm, "checkpoint", status);
    for (int64_t i = 0; i < table->tensor_count && status == CPS_OK; i++) {
        addresses[i] = table->tensors[i].address;
    }
    if (status == CPS_OK) {
        cps_comm_broadcast(comm, "checkpoint", addresses,
                           (size_t)table->tensor_count * sizeof *addresses, 0);
    }
    for (int64_t i = 0; i < table->tensor_count && status == CPS_OK; i++) {
        table->tensors[i].address = addresses[i];
    }
    free(addresses);
    return status;
}

/* Where a folder is gone, that says more than the failure that came of it. */
static cps_status unless_lost(const cps_owner *owner, cps_status status) {
    if (status != CPS_OK) {
        CPS_TRY(cps_owner_holds(owner));
    }
    return status;
}

static cps_status write_all(cps_comm *comm, const char *path, const cps_owner *owner,
                            char **temporary, cps_checkpoint_table *table) {
    const bool root = cps_comm_rank(comm) == 0;
    cps_status status = CPS_OK;
    if (root) {
        *temporary = cps_file_temporary_name(path);
        status = unless_lost(owner, lay_out(*temporary, table));
    }
    CPS_TRY(cps_agree(comm, "checkpoint", status));
    CPS_TRY(share_layout(comm, temporary, table));
    status = unless_lost(owner, write_own(*temporary, table));
    if (status == CPS_OK && cps_fault_here(comm, "checkpoint", table->step)) {
        status = cps_fail(CPS_ERR_IO, "a fault was asked for at 'checkpoint', step %lld",
                          (long long)table->step);
    }
    if (cps_fault_here(comm, "kill_checkpoint", table->step)) {
        raise(SIGKILL);
    }
    CPS_TRY(cps_agree(comm, "checkpoint", status));
    if (root) {
        status = cps_owner_holds(owner);
        status = status != CPS_OK ? status : cps_file_publish(*temporary, path);
    }
    return cps_agree(comm, "checkpoint", status);
}

cps_status cps_checkpoint_write(cps_comm *comm, const char *folder, int64_t step,
                                const cps_checkpoint_content *content) {
    if (content->updater != NULL) {
        cps_updater_wait_weights(content->updater);
    }
    cps_checkpoint_table table = {0};
    char *path = cps_format("%s/step-%08lld.h5", folder, (long long)step);
    char *temporary = NULL;
    cps_status status = cps_agree(comm, "checkpoint", make_table(comm, step, content, &table));
    if (status == CPS_OK) {
        status = gather_checksums(comm, &table);
    }
    if (status == CPS_OK) {
        status = write_all(comm, path, content->owner, &temporary, &table);
    }
    if (status != CPS_OK && cps_comm_rank(comm) == 0 && temporary != NULL) {
        unlink(temporary);
    }
    cps_checkpoint_table_destroy(&table);
    free(temporary);
    free(path);
    return status;
}

/* ---- files of a folder ----------------------------------------------------------------------- */

typedef struct found {
    int64_t step;
    char *path;
} found;

typedef struct listing {
    found *items; /* newest first */
    int64_t count, capacity;
} listing;

/* Step of "step-<digits>.h5", -1 for other names; *temporary_out: "step-<digits>.h5.tmp.*". */
static int64_t step_of(const char *name, bool *temporary_out) {
    long long step;
    int end = -1;
    *temporary_out = false;
    if (sscanf(name, "step-%18lld.h5%n", &step, &end) != 1 || end < 0 || step < 0) {
        return -1;
    }
    *temporary_out = strncmp(name + end, ".tmp.", 5) == 0;
    return name[end] == '\0' ? (int64_t)step : -1;
}

static int newest_first(const void *a, const void *b) {
    const found *left = a, *right = b;
    return left->step < right->step ? 1 : left->step > right->step ? -1 : 0;
}

static cps_status add_found(listing *list, int64_t step, char *path) {
    if (list->count == list->capacity) {
        const int64_t capacity = 2 * list->capacity + 16;
        found *items = realloc(list->items, (size_t)capacity * sizeof *items);
        if (items == NULL) {
            free(path);
            return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld checkpoints",
                            (long long)capacity);
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = (found){.step = step, .path = path};
    return CPS_OK;
}

static void free_listing(listing *list) {
    for (int64_t i = 0; i < list->count; i++) {
        free(list->items[i].path);
    }
    free(list->items);
}

/* Checkpoints of `folder`; what killed runs left half written is deleted with `clean`. */
static cps_status list_folder(const char *folder, bool clean, listing *list) {
    DIR *stream = opendir(folder);
    if (stream == NULL) {
        return errno == ENOENT ? CPS_OK
                               : cps_fail(CPS_ERR_IO, "cannot read the folder '%s': %s", folder,
                                          strerror(errno));
    }
    cps_status status = CPS_OK;
    const struct dirent *entry;
    while (status == CPS_OK && (entry = readdir(stream)) != NULL) {
        bool temporary;
        const int64_t step = step_of(entry->d_name, &temporary);
        char *path = cps_format("%s/%s", folder, entry->d_name);
        if (step >= 0) {
            status = add_found(list, step, path);
            continue;
        }
        if (temporary && clean) {
            unlink(path);
        }
        free(path);
    }
    closedir(stream);
    if (list->count > 0) {
        qsort(list->items, (size_t)list->count, sizeof *list->items, newest_first);
    }
    return status;
}

static cps_status check_file(const char *path) {
    cps_checkpoint_table table;
    CPS_TRY(cps_checkpoint_open(path, &table));
    const cps_status status = cps_checkpoint_verify(&table);
    cps_checkpoint_table_destroy(&table);
    return status;
}

static cps_status find_latest(const char *folder, char **path_out, int64_t *step_out) {
    listing list = {0};
    cps_status status = list_folder(folder, false, &list);
    for (int64_t i = 0; i < list.count && status == CPS_OK && *path_out == NULL; i++) {
        status = check_file(list.items[i].path);
        if (status == CPS_OK) {
            *path_out = list.items[i].path;
            *step_out = list.items[i].step;
            list.items[i].path = NULL;
        } else if (status == CPS_ERR_DATA) {
            cps_log(CPS_LOG_WARN, "%s; going back to the checkpoint before it", cps_fail_message());
            cps_fail_clear();
            status = CPS_OK;
        }
    }
    free_listing(&list);
    return status;
}

cps_status cps_checkpoint_latest(cps_comm *comm, const char *folder, char **path_out,
                                 int64_t *step_out) {
    char *path = NULL;
    int64_t step = -1;
    cps_status status = CPS_OK;
    if (cps_comm_rank(comm) == 0) {
        status = find_latest(folder, &path, &step);
    }
    CPS_TRY(cps_agree(comm, "looking for checkpoints", status));
    cps_comm_broadcast(comm, "looking for checkpoints", &step, sizeof step, 0);
    *path_out = NULL;
    if (step >= 0) {
        void *bytes = path;
        size_t length = path != NULL ? strlen(path) + 1 : 0;
        cps_comm_broadcast_alloc(comm, "looking for checkpoints", &bytes, &length, 0);
        *path_out = bytes;
        *step_out = step;
    }
    return CPS_OK;
}

static cps_status prune(const char *folder, int64_t keep, int64_t best) {
    listing list = {0};
    cps_status status = list_folder(folder, true, &list);
    for (int64_t i = cps_max_i64(keep, 1); i < list.count && status == CPS_OK; i++) {
        if (list.items[i].step != best && unlink(list.items[i].path) != 0 && errno != ENOENT) {
            status = cps_fail(CPS_ERR_IO, "cannot delete the old checkpoint '%s': %s",
                              list.items[i].path, strerror(errno));
        }
    }
    free_listing(&list);
    return status;
}

cps_status cps_checkpoint_prune(cps_comm *comm, const char *folder, int64_t keep, int64_t best) {
    cps_status status = CPS_OK;
    if (cps_comm_rank(comm) == 0) {
        status = prune(folder, keep, best);
    }
    return cps_agree(comm, "deleting old checkpoints", status);
}
