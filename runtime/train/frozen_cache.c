/* The features of a view on disk: a file a run of records, its content checked against the key, the
 * stream's sample ids and a checksum before a row is taken. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/numeric.h"
#include "h5/h5.h"
#include "tensor/gemm.h"
#include "train/frozen_internal.h"

static const char format_name[] = "copse-features-1";

/* ---- key ---- */

static void hash_number(cps_hash *hash, const char *name, double value) {
    char text[96];
    snprintf(text, sizeof text, "%s=%.17g;", name, value);
    cps_hash_add(hash, text, strlen(text));
}

static void hash_text(cps_hash *hash, const char *name, const char *value) {
    cps_hash_add(hash, name, strlen(name));
    cps_hash_add(hash, value, strlen(value) + 1);
}

static void hash_sizes(cps_hash *hash, const cps_tower_config *config) {
    const struct {
        const char *name;
        double value;
    } sizes[] = {{"kind", (double)config->kind},         {"image_size", (double)config->image_size},
                 {"patch", (double)config->patch},       {"width", (double)config->width},
                 {"layers", (double)config->layers},     {"heads", (double)config->heads},
                 {"mlp", (double)config->mlp_width},     {"embed_dim", (double)config->embed_dim},
                 {"context", (double)config->context},   {"quick_gelu", (double)config->quick_gelu},
                 {"pre_norm", (double)config->pre_norm}, {"eps", config->norm_eps},
                 {"dino", (double)config->dino}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        hash_number(hash, sizes[i].name, sizes[i].value);
    }
}

static void hash_parameters(cps_hash *hash, cps_params *params, const cps_tower *tower) {
    int32_t count = 0;
    const int32_t *indices = cps_tower_params(tower, &count);
    for (int32_t i = 0; i < count; i++) {
        const cps_param *param = cps_params_at(params, indices[i]);
        hash_text(hash, "parameter", param->name);
        cps_hash_add(hash, param->tensor.data, (size_t)param->count * sizeof(cps_real));
    }
}

/* All that reaches the rows' bits. */
void cps_frozen_key(cps_frozen_set *set, const cps_stage_plan *plan) {
    const cps_stage_view *entry = set->entry;
    cps_hash *hash = cps_hash_create();
    hash_text(hash, "format", format_name);
    hash_sizes(hash, cps_tower_get_config(entry->tower));
    hash_parameters(hash, cps_model_params(plan->model), entry->tower);
    hash_number(hash, "output", (double)entry->view.outputs);
    hash_number(hash, "all_positions", (double)entry->view.all_positions);
    const uint64_t input =
        entry->text ? cps_tokenizer_digest(plan->tokenizer) : cps_recipe_digest(&entry->recipe);
    const uint64_t records = cps_stream_digest(set->stream);
    cps_hash_add(hash, &input, sizeof input);
    cps_hash_add(hash, &records, sizeof records);
    hash_number(hash, "context", entry->text ? (double)plan->context : 0.0);
    hash_number(hash, "real", (double)sizeof(cps_real));
    hash_text(hash, "blas", cps_gemm_core_name());
    hash_text(hash, "precision", cps_gemm_precision());
    const uint64_t value = cps_hash_value(hash);
    cps_hash_destroy(hash);
    cps_hash128_hex(&value, sizeof value, set->key);
}

/* ---- cache files ---- */

static const cps_h5_type real_type = sizeof(cps_real) == sizeof(double) ? CPS_H5_F64 : CPS_H5_F32;

/* A file's rows, [rows, width]. */
typedef struct cached_rows {
    int64_t first, rows;
    cps_real *values;
    uint8_t *valid;
    uint64_t *ids;
} cached_rows;

static void free_cached(cached_rows *cached) {
    free(cached->values);
    free(cached->valid);
    free(cached->ids);
}

static bool allocate_cached(cached_rows *cached, int64_t width) {
    const size_t rows = (size_t)cached->rows;
    cached->values = malloc(rows * (size_t)width * sizeof(cps_real) + 1);
    cached->valid = malloc(rows + 1);
    cached->ids = malloc(rows * sizeof(uint64_t) + 1);
    return cached->values != NULL && cached->valid != NULL && cached->ids != NULL;
}

static void checksum(const cached_rows *cached, int64_t width, char hex_out[33]) {
    const uint64_t sums[3] = {
        cps_hash64(cached->values, (size_t)(cached->rows * width) * sizeof(cps_real)),
        cps_hash64(cached->valid, (size_t)cached->rows),
        cps_hash64(cached->ids, (size_t)cached->rows * sizeof(uint64_t))};
    cps_hash128_hex(sums, sizeof sums, hex_out);
}

/* The sample ids of the stream's records, for both writing and checking. */
static uint64_t id_of(const cps_frozen_set *set, int64_t record) {
    cps_place place;
    cps_stream_stored(set->stream, record, &place);
    return place.sample_id;
}

/* What a file is to hold. */
typedef struct cached_file {
    const cps_frozen_set *set;
    const cached_rows *cached;
} cached_file;

static cps_status write_datasets(cps_h5 *file, const void *context) {
    const cps_frozen_set *set = ((const cached_file *)context)->set;
    const cached_rows *cached = ((const cached_file *)context)->cached;
    const int64_t shape[2] = {cached->rows, set->width};
    char hex[33];
    checksum(cached, set->width, hex);
    CPS_TRY(cps_h5_write_text(file, "/", "format", format_name));
    CPS_TRY(cps_h5_write_text(file, "/", "key", set->key));
    CPS_TRY(cps_h5_write_integer(file, "/", "first", cached->first));
    CPS_TRY(cps_h5_write_integer(file, "/", "rows", cached->rows));
    CPS_TRY(cps_h5_write_text(file, "/", "checksum", hex));
    CPS_TRY(cps_h5_write(file, "features", real_type, 2, shape, cached->values));
    CPS_TRY(cps_h5_write(file, "valid", CPS_H5_U8, 1, shape, cached->valid));
    return cps_h5_write(file, "sample_id", CPS_H5_U64, 1, shape, cached->ids);
}

static cps_status write_file(const cps_frozen_set *set, const cached_rows *cached) {
    char *path = cps_format("%s/rows-%012" PRId64 "-%012" PRId64 ".h5", set->folder, cached->first,
                            cached->first + cached->rows);
    const cached_file what = {set, cached};
    cps_status status = cps_dir_create(set->folder);
    status = status != CPS_OK ? status : cps_h5_write_file(path, write_datasets, &what);
    free(path);
    return status;
}

/* Writes grains [first, last) of this rank. What cannot be written is computed again another time.
 */
void cps_frozen_store(const cps_frozen_set *set, int64_t first, int64_t last) {
    const int64_t row = first * CPS_FROZEN_GRAIN;
    cached_rows cached = {.first = row,
                          .rows = cps_min_i64(last * CPS_FROZEN_GRAIN, set->records) - row};
    cached.values = set->values + row * set->width;
    cached.valid = set->valid + row;
    cached.ids = malloc((size_t)cached.rows * sizeof(uint64_t) + 1);
    if (cached.ids == NULL) {
        return;
    }
    for (int64_t i = 0; i < cached.rows; i++) {
        cached.ids[i] = id_of(set, row + i);
    }
    if (write_file(set, &cached) != CPS_OK) {
        cps_log(CPS_LOG_WARN,
                "the features of view '%s' are not kept on disk, a restarted run computes them "
                "again: %s",
                set->entry->view.name, cps_fail_message());
        cps_fail_clear();
    }
    free(cached.ids);
}

static cps_status damaged(const char *what) {
    return cps_fail(CPS_ERR_DATA, "%s", what);
}

static cps_status check_text(cps_h5 *file, const char *attribute, const char *wanted) {
    char *text = NULL;
    CPS_TRY(cps_h5_read_text(file, "/", attribute, &text));
    const bool equal = strcmp(text, wanted) == 0;
    free(text);
    return equal ? CPS_OK : cps_fail(CPS_ERR_DATA, "its %s is not the one wanted", attribute);
}

/* Sizes before anything is read: whole grains of this stream. */
static cps_status check_range(cps_h5 *file, const cps_frozen_set *set, cached_rows *cached) {
    cps_h5_info info;
    CPS_TRY(check_text(file, "format", format_name));
    CPS_TRY(check_text(file, "key", set->key));
    CPS_TRY(cps_h5_read_integer(file, "/", "first", &cached->first));
    CPS_TRY(cps_h5_read_integer(file, "/", "rows", &cached->rows));
    CPS_TRY(cps_h5_inspect(file, "features", &info));
    if (cached->first < 0 || cached->rows < 1 || cached->first % CPS_FROZEN_GRAIN != 0 ||
        cached->first > set->records || cached->rows > set->records - cached->first ||
        ((cached->first + cached->rows) % CPS_FROZEN_GRAIN != 0 &&
         cached->first + cached->rows != set->records)) {
        return damaged("its rows are no whole grains of the stream");
    }
    if (info.kind != CPS_H5_DATASET || info.rank != 2 || info.shape[0] != cached->rows ||
        info.shape[1] != set->width) {
        return damaged("its features have another shape");
    }
    return CPS_OK;
}

static cps_status check_content(cps_h5 *file, const cps_frozen_set *set,
                                const cached_rows *cached) {
    char hex[33];
    checksum(cached, set->width, hex);
    CPS_TRY(check_text(file, "checksum", hex));
    for (int64_t i = 0; i < cached->rows; i++) {
        if (cached->ids[i] != id_of(set, cached->first + i)) {
            return damaged("its sample ids are not the stream's");
        }
    }
    return CPS_OK;
}

static cps_status read_file(const char *path, const cps_frozen_set *set, cached_rows *cached) {
    cps_h5 *file = NULL;
    CPS_TRY(cps_h5_open(path, &file));
    cps_status status = check_range(file, set, cached);
    if (status == CPS_OK && !allocate_cached(cached, set->width)) {
        status = cps_frozen_fail_memory(set);
    }
    status = status != CPS_OK ? status
                              : cps_h5_read(file, "features", real_type, cached->rows * set->width,
                                            cached->values);
    status = status != CPS_OK ? status
                              : cps_h5_read(file, "valid", CPS_H5_U8, cached->rows, cached->valid);
    status = status != CPS_OK
                 ? status
                 : cps_h5_read(file, "sample_id", CPS_H5_U64, cached->rows, cached->ids);
    status = status != CPS_OK ? status : check_content(file, set, cached);
    const cps_status closed = cps_h5_close(file);
    return status != CPS_OK ? status : closed;
}

/* Takes the grains of this rank that the file holds. */
static void take_rows(cps_frozen_set *set, const cached_rows *cached) {
    const int64_t first = cps_max_i64(set->first, cached->first / CPS_FROZEN_GRAIN);
    const int64_t last =
        cps_min_i64(set->last, cps_ceil_div(cached->first + cached->rows, CPS_FROZEN_GRAIN));
    if (first >= last) {
        return;
    }
    const int64_t row = first * CPS_FROZEN_GRAIN;
    const int64_t rows = cps_min_i64(last * CPS_FROZEN_GRAIN, cached->first + cached->rows) - row;
    memcpy(set->values + row * set->width, cached->values + (row - cached->first) * set->width,
           (size_t)(rows * set->width) * sizeof(cps_real));
    memcpy(set->valid + row, cached->valid + (row - cached->first), (size_t)rows);
    memset(set->covered + first, 1, (size_t)(last - first));
}

/* True if the file's name says that it holds rows of this rank. Names are only hints: the content
 * is checked. */
static bool concerns(const cps_frozen_set *set, const char *path) {
    int64_t first = 0, last = 0;
    const char *name = strrchr(path, '/');
    return name != NULL && sscanf(name, "/rows-%" SCNd64 "-%" SCNd64 ".h5", &first, &last) == 2 &&
           first < set->last * CPS_FROZEN_GRAIN && last > set->first * CPS_FROZEN_GRAIN;
}

void cps_frozen_load(cps_frozen_set *set) {
    char *pattern = cps_format("%s/rows-*.h5", set->folder);
    char **paths = NULL;
    int64_t count = 0;
    if (cps_glob(pattern, &paths, &count) != CPS_OK) {
        cps_fail_clear();
    }
    for (int64_t i = 0; i < count; i++) {
        cached_rows cached = {0};
        if (concerns(set, paths[i])) {
            if (read_file(paths[i], set, &cached) == CPS_OK) {
                take_rows(set, &cached);
            } else {
                cps_log(CPS_LOG_WARN, "features in '%s' are damaged and computed again: %s",
                        paths[i], cps_fail_message());
                cps_fail_clear();
                unlink(paths[i]);
            }
            free_cached(&cached);
        }
    }
    cps_strings_destroy(paths, count);
    free(pattern);
}
