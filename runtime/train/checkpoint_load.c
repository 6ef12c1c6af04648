/* Loading checkpoints and looking into them. Weights: every rank reads its share of the chunks and
 * all gather, so the file is read once by all together; a share is a contiguous piece of the flat
 * array. Optimizer state: every rank reads what it owns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "train/checkpoint.h"
#include "train/checkpoint_file.h"

/* ---- matching -------------------------------------------------------------------------------- */

static cps_status check_build(const cps_checkpoint_table *table) {
    if (table->element_bytes == (int64_t)sizeof(cps_real)) {
        return CPS_OK;
    }
    return cps_fail(CPS_ERR_USAGE,
                    "checkpoint '%s' holds numbers of %lld bytes (REAL=%s), this build computes "
                    "with %zu: go on with the build that wrote it, or begin a new run from its "
                    "weights (weights = \"%s\")",
                    table->path, (long long)table->element_bytes,
                    table->element_bytes == 8 ? "double" : "float", sizeof(cps_real), table->path);
}

/* The file's tensor for a parameter, of the same shape. `path` is freed. */
static cps_status match(const cps_checkpoint_table *table, char *path, const cps_param *param,
                        int64_t likely, const cps_checkpoint_tensor **tensor_out) {
    const cps_checkpoint_tensor *tensor = cps_checkpoint_find(table, path, likely);
    cps_status status = CPS_OK;
    if (tensor == NULL) {
        status = cps_fail(CPS_ERR_DATA,
                          "checkpoint '%s' has no '%s', which the job's model needs: it belongs to "
                          "another job",
                          table->path, path);
    } else if (tensor->rank != param->spec.rank ||
               memcmp(tensor->shape, param->spec.shape,
                      (size_t)tensor->rank * sizeof *tensor->shape) != 0) {
        status = cps_fail(CPS_ERR_DATA,
                          "checkpoint '%s': '%s' has %d dimensions and %lld elements, the model "
                          "wants %d and %lld: it belongs to another job",
                          table->path, path, tensor->rank, (long long)tensor->count,
                          param->spec.rank, (long long)param->count);
    }
    free(path);
    *tensor_out = tensor;
    return status;
}

static bool has_optimizer(const cps_checkpoint_table *table) {
    return table->tensor_count > table->model_count;
}

/* Everything that can be wrong before any number moves. */
static cps_status check_content(const cps_checkpoint_table *table, cps_params *params,
                                const cps_updater *updater) {
    CPS_TRY(check_build(table));
    const cps_checkpoint_tensor *tensor;
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        const cps_param *param = cps_params_at(params, i);
        CPS_TRY(match(table, cps_format("model/%s", param->name), param, i, &tensor));
    }
    for (int32_t s = 0;
         updater != NULL && has_optimizer(table) && s < cps_updater_state_count(updater); s++) {
        for (int32_t i = 0; i < cps_params_count(params); i++) {
            const cps_param *param = cps_params_at(params, i);
            if (cps_updater_updates(updater, i)) {
                CPS_TRY(match(
                    table,
                    cps_format("optimizer/%s/%s", cps_updater_state_name(updater, s), param->name),
                    param, -1, &tensor));
            }
        }
    }
    return CPS_OK;
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* Whole chunks of elements [first, first + count) into `to` through `chunk`, room for one. */
static cps_status read_slice(const cps_checkpoint_table *table, const cps_checkpoint_tensor *tensor,
                             int64_t first, int64_t count, cps_real *to, void *chunk) {
    for (int64_t at = first; at < first + count; at += CPS_CHUNK) {
        const int64_t length = cps_min_i64(CPS_CHUNK, tensor->count - at);
        CPS_TRY(cps_checkpoint_read_chunk(table, tensor, at / CPS_CHUNK, chunk));
        memcpy(to + (at - first), chunk, (size_t)length * sizeof *to);
    }
    return CPS_OK;
}

/* First element of rank `rank`'s share of the flat array: a chunk begins there, or all ends. */
static int64_t share_first(cps_params *params, int32_t rank, int32_t ranks) {
    const int64_t total = cps_params_flat_count(params);
    const double wanted = (double)total * rank / ranks;
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        const cps_param *param = cps_params_at(params, i);
        if ((double)(param->offset + param->count) < wanted) {
            continue;
        }
        for (int64_t at = 0; at < param->count; at += CPS_CHUNK) {
            if ((double)(param->offset + at) >= wanted) {
                return param->offset + at;
            }
        }
    }
    return total;
}

static cps_status read_share(const cps_checkpoint_table *table, cps_params *params, int64_t first,
                             int64_t last, void *chunk) {
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        cps_param *param = cps_params_at(params, i);
        const int64_t from = cps_max_i64(first - param->offset, 0);
        const int64_t to = cps_min_i64(last - param->offset, param->count);
        if (from >= to) {
            continue;
        }
        const cps_checkpoint_tensor *tensor;
        CPS_TRY(match(table, cps_format("model/%s", param->name), param, i, &tensor));
        CPS_TRY(read_slice(table, tensor, from, to - from, (cps_real *)param->tensor.data + from,
                           chunk));
    }
    return CPS_OK;
}

static void note_counts(const cps_checkpoint_table *table, cps_params *params) {
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        cps_param *param = cps_params_at(params, i);
        char *path = cps_format("model/%s", param->name);
        const cps_checkpoint_tensor *tensor = cps_checkpoint_find(table, path, i);
        free(path);
        if (tensor != NULL && tensor - table->tensors < table->model_count) {
            param->updates = table->updates[tensor - table->tensors];
        }
        param->loaded = true;
    }
}

static cps_status read_optimizer(const cps_checkpoint_table *table, cps_params *params,
                                 cps_updater *updater, void *chunk) {
    for (int32_t s = 0; s < cps_updater_state_count(updater); s++) {
        for (int32_t i = 0; i < cps_params_count(params); i++) {
            int64_t first, count;
            cps_updater_owned(updater, i, &first, &count);
            if (count == 0) {
                continue;
            }
            const cps_param *param = cps_params_at(params, i);
            const cps_checkpoint_tensor *tensor;
            CPS_TRY(match(
                table,
                cps_format("optimizer/%s/%s", cps_updater_state_name(updater, s), param->name),
                param, -1, &tensor));
            CPS_TRY(
                read_slice(table, tensor, first, count, cps_updater_state(updater, i, s), chunk));
        }
    }
    return CPS_OK;
}

/* ---- load ------------------------------------------------------------------------------------ */

typedef struct load {
    cps_comm *comm;
    cps_checkpoint_table table;
    cps_params *params;
    cps_updater *updater;
    int64_t *bytes; /* [ranks] of the flat array */
    void *chunk;
} load;

static cps_status prepare(load *work, const char *path) {
    CPS_TRY(cps_checkpoint_open(path, &work->table));
    CPS_TRY(check_content(&work->table, work->params, work->updater));
    CPS_TRY(cps_params_allocate(work->params, 0)); /* values follow from the file */
    work->bytes = calloc((size_t)cps_comm_size(work->comm), sizeof *work->bytes);
    work->chunk = malloc((size_t)CPS_CHUNK * sizeof(double));
    if (work->bytes == NULL || work->chunk == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory loading '%s'", path);
    }
    return CPS_OK;
}

static cps_status read_own(load *work) {
    const int32_t ranks = cps_comm_size(work->comm), rank = cps_comm_rank(work->comm);
    int64_t starts[2] = {0, 0};
    for (int32_t r = 0; r < ranks; r++) {
        const int64_t first = share_first(work->params, r, ranks);
        const int64_t last = share_first(work->params, r + 1, ranks);
        work->bytes[r] = (last - first) * (int64_t)sizeof(cps_real);
        if (r == rank) {
            starts[0] = first;
            starts[1] = last;
        }
    }
    CPS_TRY(read_share(&work->table, work->params, starts[0], starts[1], work->chunk));
    if (work->updater != NULL && has_optimizer(&work->table)) {
        return read_optimizer(&work->table, work->params, work->updater, work->chunk);
    }
    return CPS_OK;
}

cps_status cps_checkpoint_load(cps_comm *comm, const char *path, cps_model *model,
                               cps_updater *updater) {
    load work = {.comm = comm, .params = cps_model_params(model), .updater = updater};
    work.table.descriptor = -1;
    if (updater != NULL) {
        cps_updater_wait_weights(updater);
    }
    cps_status status = cps_agree(comm, "opening the checkpoint", prepare(&work, path));
    if (status == CPS_OK) {
        status = cps_agree(comm, "reading the checkpoint", read_own(&work));
    }
    if (status == CPS_OK) {
        cps_comm_allgatherv_inplace(comm, "weights of the checkpoint", cps_params_flat(work.params),
                                    work.bytes);
        note_counts(&work.table, work.params);
    }
    cps_checkpoint_table_destroy(&work.table);
    free(work.bytes);
    free(work.chunk);
    return status;
}

/* ---- state ----------------------------------------------------------------------------------- */

static cps_status share_json(cps_comm *comm, const char *path, const char *text, cps_json **out) {
    size_t length = text != NULL ? strlen(text) : 0;
    void *bytes = text != NULL ? cps_format("%s", text) : NULL;
    cps_comm_broadcast_alloc(comm, "state of the checkpoint", &bytes, &length, 0);
    const cps_status status = cps_json_parse(bytes, length, path, out);
    free(bytes);
    return cps_agree(comm, "state of the checkpoint", status);
}

cps_status cps_checkpoint_read_state(cps_comm *comm, const char *path, cps_json **state_out,
                                     cps_json **identity_out) {
    cps_checkpoint_table table = {.descriptor = -1};
    cps_status status = CPS_OK;
    if (cps_comm_rank(comm) == 0) {
        status = cps_checkpoint_open(path, &table);
    }
    cps_json *state = NULL, *identity = NULL;
    status = cps_agree(comm, "state of the checkpoint", status);
    if (status == CPS_OK) {
        status = share_json(comm, path, table.texts[CPS_TEXT_LOOP], &state);
    }
    if (status == CPS_OK) {
        status = share_json(comm, path, table.texts[CPS_TEXT_IDENTITY], &identity);
    }
    cps_checkpoint_table_destroy(&table);
    if (status != CPS_OK) {
        cps_json_destroy(state);
        cps_json_destroy(identity);
        return status;
    }
    *state_out = state;
    *identity_out = identity;
    return CPS_OK;
}

/* ---- inspect --------------------------------------------------------------------------------- */

bool cps_is_checkpoint(const char *path) {
    cps_h5 *h5 = NULL;
    char *format = NULL;
    bool is = false;
    if (cps_h5_open_strict(path, &h5) == CPS_OK) {
        is = cps_h5_has_attribute(h5, "/", "format") &&
             cps_h5_read_text(h5, "/", "format", &format) == CPS_OK &&
             strcmp(format, CPS_CHECKPOINT_FORMAT) == 0;
        free(format);
    }
    if (cps_h5_close(h5) != CPS_OK || !is) {
        cps_fail_clear();
    }
    return is;
}

static void print_members(FILE *file, const char *title, const char *text) {
    cps_json *json = NULL;
    if (cps_json_parse(text, strlen(text), title, &json) != CPS_OK) {
        fprintf(file, "%s: unreadable\n", title);
        return;
    }
    fprintf(file, "%s:\n", title);
    for (const cps_json *member = cps_json_first(json); member != NULL;
         member = cps_json_next(member)) {
        cps_json *holder = cps_json_new_array();
        cps_json_add_copy(holder, NULL, member);
        char *value = cps_json_print(cps_json_at(holder, 0), false, true);
        const size_t length = strlen(value);
        fprintf(file, "  %-16s %.100s%s\n", cps_json_key(member), value,
                length > 100 ? " ..." : "");
        free(value);
        cps_json_destroy(holder);
    }
    cps_json_destroy(json);
}

static void print_tensors(FILE *file, const cps_checkpoint_table *table) {
    int64_t elements = 0, state = 0, most = 0;
    for (int64_t i = 0; i < table->tensor_count; i++) {
        *(i < table->model_count ? &elements : &state) += table->tensors[i].count;
    }
    for (int64_t i = 0; i < table->model_count; i++) {
        most = cps_max_i64(most, table->updates[i]);
    }
    fprintf(file, "model: %lld tensors, %lld numbers, %lld bytes (%s), up to %lld updates each\n",
            (long long)table->model_count, (long long)elements,
            (long long)(elements * table->element_bytes),
            table->element_bytes == 8 ? "float64" : "float32", (long long)most);
    fprintf(file, "optimizer: ");
    if (!has_optimizer(table)) {
        fprintf(file, "none\n");
        return;
    }
    const char *last = "";
    size_t length = 0;
    for (int64_t i = table->model_count; i < table->tensor_count; i++) {
        const char *name = table->tensors[i].path + strlen("optimizer/");
        if (length == 0 || strncmp(last, name, length + 1) != 0) {
            fprintf(file, "%s%.*s", length == 0 ? "" : ", ", (int)strcspn(name, "/"), name);
            last = name;
            length = strcspn(name, "/");
        }
    }
    fprintf(file, "; %lld tensors, %lld bytes\n",
            (long long)(table->tensor_count - table->model_count),
            (long long)(state * table->element_bytes));
}

cps_status cps_checkpoint_describe(const char *path, cps_json **model_out) {
    cps_checkpoint_table table;
    CPS_TRY(cps_checkpoint_open(path, &table));
    const char *text = table.texts[CPS_TEXT_MODEL];
    const cps_status status = cps_json_parse(text, strlen(text), path, model_out);
    cps_checkpoint_table_destroy(&table);
    return status;
}

cps_status cps_checkpoint_inspect(const char *path, void *file) {
    FILE *stream = file;
    cps_checkpoint_table table;
    CPS_TRY(cps_checkpoint_open(path, &table));
    fprintf(stream, "checkpoint: %s\nstep: %lld\n", path, (long long)table.step);
    print_tensors(stream, &table);
    print_members(stream, "state", table.texts[CPS_TEXT_LOOP]);
    print_members(stream, "identity", table.texts[CPS_TEXT_IDENTITY]);
    print_members(stream, "towers", table.texts[CPS_TEXT_MODEL]);
    const cps_status status = cps_checkpoint_verify(&table);
    if (status == CPS_OK) {
        fprintf(stream, "checksums: all %lld hold\n", (long long)table.chunk_count);
    } else {
        fprintf(stream, "checksums: do not hold\n");
    }
    cps_checkpoint_table_destroy(&table);
    return status;
}
