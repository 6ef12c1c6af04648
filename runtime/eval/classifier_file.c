#include "eval/classifier_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/npy.h"
#include "base/numeric.h"
#include "h5/h5.h"

enum { FORMAT_VERSION = 1, MAX_WIDTH = 1 << 20, TEMPLATES_MOST = 100000 };
#define FORMAT "copse-classifier"
static const size_t max_name_bytes = (size_t)4 << 30;

static cps_status fail_memory(const char *path) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the classifier '%s'", path);
}

void cps_classifier_origin_free(cps_classifier_origin *origin) {
    free(origin->text);
    free(origin->averaging);
    cps_strings_destroy(origin->templates, origin->template_count);
    *origin = (cps_classifier_origin){0};
}

static void add_text(cps_hash *hash, const char *text) {
    cps_hash_add(hash, text, strlen(text) + 1);
}

uint64_t cps_classifier_key(const cps_class_names *names, const cps_classifier_origin *origin) {
    cps_hash *hash = cps_hash_create();
    const uint64_t digests[] = {cps_class_names_digest(names), origin->model_digest,
                                origin->tokenizer_digest, (uint64_t)names->fields};
    cps_hash_add(hash, digests, sizeof digests);
    add_text(hash, origin->text);
    add_text(hash, origin->averaging);
    for (int64_t i = 0; i < origin->template_count; i++) {
        add_text(hash, origin->templates[i]);
    }
    const uint64_t key = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return key;
}

/* Of the vectors as they are read again, and of the names. */
static uint64_t content_digest(const cps_classifier *classifier) {
    const cps_features *vectors = &classifier->vectors;
    cps_hash *hash = cps_hash_create();
    const uint64_t names = cps_class_names_digest(&classifier->names);
    cps_hash_add(hash, &names, sizeof names);
    cps_hash_add(hash, vectors->widths, (size_t)vectors->component_count * sizeof *vectors->widths);
    cps_hash_add(hash, vectors->values,
                 (size_t)(vectors->rows * vectors->width) * sizeof *vectors->values);
    const uint64_t digest = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return digest;
}

/* ---- writing ---- */

static cps_status write_digest(cps_h5 *file, const char *name, uint64_t digest) {
    char text[32];
    snprintf(text, sizeof text, "%016" PRIx64, digest);
    return cps_h5_write_text(file, "/", name, text);
}

static cps_status write_names(cps_h5 *file, const cps_class_names *names) {
    const int64_t bytes = names->offsets[names->texts], offsets = names->texts + 1;
    const int64_t shape[] = {names->count, names->fields};
    CPS_TRY(cps_h5_write(file, "name_bytes", CPS_H5_U8, 1, &bytes, names->bytes));
    CPS_TRY(cps_h5_write(file, "name_offset", CPS_H5_I64, 1, &offsets, names->offsets));
    return cps_h5_write(file, "name_id", CPS_H5_I32, 2, shape, names->ids);
}

static cps_status write_vectors(cps_h5 *file, const cps_features *vectors, const uint16_t *halves) {
    const int64_t shape[] = {vectors->rows, vectors->width}, components = vectors->component_count;
    const cps_h5_type real = sizeof(cps_real) == sizeof(double) ? CPS_H5_F64 : CPS_H5_F32;
    CPS_TRY(cps_h5_write(file, "component_width", CPS_H5_I64, 1, &components, vectors->widths));
    return halves != NULL ? cps_h5_write(file, "vectors", CPS_H5_F16, 2, shape, halves)
                          : cps_h5_write(file, "vectors", real, 2, shape, vectors->values);
}

/* What a file is to hold. */
typedef struct content {
    const cps_classifier *classifier;
    const cps_classifier_origin *origin;
    const uint16_t *halves; /* its vectors in 16 bits; NULL: as they are */
    uint64_t digest;
} content;

static cps_status write_content(cps_h5 *file, const void *context) {
    const content *what = context;
    const cps_classifier *classifier = what->classifier;
    const cps_classifier_origin *origin = what->origin;
    CPS_TRY(cps_h5_write_text(file, "/", "format", FORMAT));
    CPS_TRY(cps_h5_write_integer(file, "/", "version", FORMAT_VERSION));
    CPS_TRY(cps_h5_write_text(file, "/", "classes",
                              cps_class_names_are_taxa(&classifier->names) ? "taxa" : "labels"));
    CPS_TRY(cps_h5_write_text(file, "/", "text", origin->text));
    CPS_TRY(cps_h5_write_text(file, "/", "averaging", origin->averaging));
    CPS_TRY(write_digest(file, "model_digest", origin->model_digest));
    CPS_TRY(write_digest(file, "tokenizer_digest", origin->tokenizer_digest));
    CPS_TRY(write_digest(file, "key", cps_classifier_key(&classifier->names, origin)));
    CPS_TRY(write_digest(file, "content_digest", what->digest));
    CPS_TRY(cps_h5_write_strings(file, "templates", (const char *const *)origin->templates,
                                 origin->template_count));
    CPS_TRY(write_names(file, &classifier->names));
    return write_vectors(file, &classifier->vectors, what->halves);
}

/* Rounds to 16 bits; `rounded_out` gets what the reader will see. NULL: out of memory. */
static uint16_t *round_to_half(const cps_features *vectors, cps_features *rounded_out) {
    const int64_t count = vectors->rows * vectors->width;
    uint16_t *halves = malloc((size_t)count * sizeof *halves + 1);
    *rounded_out = *vectors;
    rounded_out->values = malloc((size_t)count * sizeof(cps_real) + 1);
    if (halves == NULL || rounded_out->values == NULL) {
        free(halves);
        free(rounded_out->values);
        return NULL;
    }
    for (int64_t i = 0; i < count; i++) {
        halves[i] = cps_half_from_float((float)vectors->values[i]);
        rounded_out->values[i] = (cps_real)cps_half_to_float(halves[i]);
    }
    return halves;
}

static cps_status write_file(const char *path, const cps_classifier *classifier,
                             const cps_classifier_origin *origin, const uint16_t *halves,
                             uint64_t digest) {
    const content what = {classifier, origin, halves, digest};
    return cps_fail_context(cps_h5_write_file(path, write_content, &what), "classifier '%s'", path);
}

cps_status cps_classifier_write(const char *path, const cps_classifier *classifier,
                                const cps_classifier_origin *origin, bool half) {
    if (!half) {
        return write_file(path, classifier, origin, NULL, content_digest(classifier));
    }
    cps_classifier rounded = *classifier; /* names borrowed */
    uint16_t *halves = round_to_half(&classifier->vectors, &rounded.vectors);
    if (halves == NULL) {
        return fail_memory(path);
    }
    const uint64_t digest = content_digest(&rounded);
    free(rounded.vectors.values);
    const cps_status status = write_file(path, classifier, origin, halves, digest);
    free(halves);
    return status;
}

/* ---- reading ---- */

static cps_status read_digest(cps_h5 *file, const char *name, uint64_t *digest_out) {
    char *text = NULL, *end = NULL;
    CPS_TRY(cps_h5_read_text(file, "/", name, &text));
    *digest_out = strtoull(text, &end, 16);
    const bool good = strlen(text) == 16 && *end == '\0';
    free(text);
    return good ? CPS_OK
                : cps_fail(CPS_ERR_DATA, "classifier '%s': attribute '%s' is no digest",
                           cps_h5_path(file), name);
}

/* A dataset that lies in the file in one piece: what it declares is there. */
static cps_status need_whole(cps_h5 *file, const char *name, int32_t rank, cps_h5_info *info_out) {
    int64_t address;
    size_t bytes;
    CPS_TRY(cps_h5_inspect(file, name, info_out));
    if (info_out->kind != CPS_H5_DATASET || info_out->rank != rank || info_out->count < 1) {
        return cps_fail(CPS_ERR_DATA,
                        "classifier '%s': there is no '%s' of %d dimensions: the file is damaged",
                        cps_h5_path(file), name, rank);
    }
    return cps_h5_address(file, name, &address, &bytes);
}

static cps_status read_names(cps_h5 *file, bool taxa, cps_class_names *names) {
    cps_h5_info bytes, offsets, ids;
    int64_t count = 0;
    void *read = NULL;
    cps_class_names_init(names, taxa);
    CPS_TRY(need_whole(file, "name_bytes", 1, &bytes));
    CPS_TRY(need_whole(file, "name_offset", 1, &offsets));
    CPS_TRY(need_whole(file, "name_id", 2, &ids));
    if (ids.shape[1] != names->fields) {
        return cps_fail(CPS_ERR_DATA,
                        "classifier '%s': its classes have %lld names each, %d are "
                        "wanted: the file is damaged",
                        cps_h5_path(file), (long long)ids.shape[1], names->fields);
    }
    CPS_TRY(cps_h5_read_alloc(file, "name_bytes", CPS_H5_U8, max_name_bytes, &read, &count));
    names->bytes = read;
    names->byte_room = count;
    CPS_TRY(cps_h5_read_alloc(file, "name_offset", CPS_H5_I64, max_name_bytes, &read, &count));
    names->offsets = read;
    names->texts = count - 1;
    CPS_TRY(cps_h5_read_alloc(file, "name_id", CPS_H5_I32, max_name_bytes, &read, &count));
    names->ids = read;
    names->count = ids.shape[0];
    return cps_class_names_check(names, cps_h5_path(file));
}

static cps_status read_widths(cps_h5 *file, cps_features *vectors) {
    cps_h5_info info;
    CPS_TRY(need_whole(file, "component_width", 1, &info));
    bool good = info.count <= CPS_MAX_COMPONENTS;
    if (good) {
        CPS_TRY(cps_h5_read(file, "component_width", CPS_H5_I64, info.count, vectors->widths));
        vectors->component_count = (int32_t)info.count;
    }
    for (int32_t c = 0; c < vectors->component_count && good; c++) {
        good = vectors->widths[c] >= 1 && vectors->widths[c] <= MAX_WIDTH;
        vectors->width += good ? vectors->widths[c] : 0;
    }
    return good ? CPS_OK
                : cps_fail(CPS_ERR_DATA, "classifier '%s': impossible widths of its vectors",
                           cps_h5_path(file));
}

/* `count` 16-bit floats at a byte of the file, through a table of all there are: HDF5 converts them
 * a bit at a time. */
static cps_status read_halves(const char *path, int64_t address, int64_t count,
                              cps_real *values_out) {
    enum { ALL = 1 << 16, BLOCK = 1 << 20 };
    cps_real *table = malloc(ALL * sizeof *table);
    uint16_t *block = malloc(BLOCK * sizeof *block);
    FILE *file = fopen(path, "rb");
    cps_status status = table == NULL || block == NULL ? fail_memory(path) : CPS_OK;
    if (status == CPS_OK && (file == NULL || fseeko(file, (off_t)address, SEEK_SET) != 0)) {
        status = cps_fail(CPS_ERR_IO, "classifier '%s' cannot be read: %s", path, strerror(errno));
    }
    for (int32_t i = 0; i < ALL && status == CPS_OK; i++) {
        table[i] = (cps_real)cps_half_to_float((uint16_t)i);
    }
    for (int64_t first = 0; first < count && status == CPS_OK; first += BLOCK) {
        const size_t length = (size_t)cps_min_i64(BLOCK, count - first);
        if (fread(block, sizeof *block, length, file) != length) {
            status = cps_fail(CPS_ERR_IO, "classifier '%s' cannot be read: %s", path,
                              feof(file) ? "it ends too early" : strerror(errno));
        }
        for (size_t i = 0; i < length && status == CPS_OK; i++) {
            values_out[first + (int64_t)i] = table[block[i]];
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    free(block);
    free(table);
    return status;
}

/* *half_out: stored as 16 bits. */
static cps_status read_vectors(cps_h5 *file, cps_features *vectors, bool *half_out) {
    cps_h5_info info;
    int64_t address;
    size_t bytes;
    const cps_h5_type real = sizeof(cps_real) == sizeof(double) ? CPS_H5_F64 : CPS_H5_F32;
    CPS_TRY(read_widths(file, vectors));
    CPS_TRY(need_whole(file, "vectors", 2, &info));
    CPS_TRY(cps_h5_address(file, "vectors", &address, &bytes));
    if (info.shape[1] != vectors->width || (info.type != CPS_H5_F32 && info.type != CPS_H5_F64)) {
        return cps_fail(CPS_ERR_DATA,
                        "classifier '%s': vectors of %lld numbers, its components "
                        "have %lld: the file is damaged",
                        cps_h5_path(file), (long long)info.shape[1], (long long)vectors->width);
    }
    size_t wanted;
    if (cps_mul_size((size_t)info.count, sizeof *vectors->values, &wanted)) {
        vectors->values = malloc(wanted);
    }
    if (vectors->values == NULL) {
        return fail_memory(cps_h5_path(file));
    }
    vectors->rows = info.shape[0];
    *half_out = bytes == sizeof(uint16_t) * (size_t)info.count;
    return *half_out ? read_halves(cps_h5_path(file), address, info.count, vectors->values)
                     : cps_h5_read(file, "vectors", real, info.count, vectors->values);
}

static cps_status read_origin(cps_h5 *file, cps_classifier_origin *origin) {
    CPS_TRY(cps_h5_read_text(file, "/", "text", &origin->text));
    CPS_TRY(cps_h5_read_text(file, "/", "averaging", &origin->averaging));
    CPS_TRY(read_digest(file, "model_digest", &origin->model_digest));
    CPS_TRY(read_digest(file, "tokenizer_digest", &origin->tokenizer_digest));
    CPS_TRY(cps_h5_read_strings(file, "templates", &origin->templates, &origin->template_count));
    return origin->template_count <= TEMPLATES_MOST
               ? CPS_OK
               : cps_fail(CPS_ERR_DATA, "classifier '%s': %lld templates, at most %d are read",
                          cps_h5_path(file), (long long)origin->template_count,
                          (int)TEMPLATES_MOST);
}

static cps_status check_format(cps_h5 *file) {
    char *format = NULL;
    int64_t version = 0;
    if (!cps_h5_has_attribute(file, "/", "format")) {
        return cps_fail(CPS_ERR_DATA, "'%s' is no classifier of Copse", cps_h5_path(file));
    }
    CPS_TRY(cps_h5_read_text(file, "/", "format", &format));
    const bool ours = strcmp(format, FORMAT) == 0;
    cps_status status = CPS_OK;
    if (!ours) {
        status =
            cps_fail(CPS_ERR_DATA, "'%s' is no classifier but a %.60s", cps_h5_path(file), format);
    }
    free(format);
    CPS_TRY(status);
    CPS_TRY(cps_h5_read_integer(file, "/", "version", &version));
    return version == FORMAT_VERSION
               ? CPS_OK
               : cps_fail(CPS_ERR_DATA, "classifier '%s' has version %lld, this program reads %d",
                          cps_h5_path(file), (long long)version, (int)FORMAT_VERSION);
}

static cps_status read_content(cps_h5 *file, cps_classifier *classifier,
                               cps_classifier_origin *origin) {
    char *classes = NULL;
    uint64_t digest = 0;
    bool half = false;
    CPS_TRY(check_format(file));
    CPS_TRY(cps_h5_read_text(file, "/", "classes", &classes));
    const bool taxa = strcmp(classes, "taxa") == 0;
    free(classes);
    CPS_TRY(read_digest(file, "content_digest", &digest));
    CPS_TRY(read_origin(file, origin));
    CPS_TRY(read_names(file, taxa, &classifier->names));
    CPS_TRY(read_vectors(file, &classifier->vectors, &half));
    if (classifier->vectors.rows != classifier->names.count ||
        digest != content_digest(classifier)) {
        return cps_fail(CPS_ERR_DATA,
                        "classifier '%s' is damaged, or of a build with numbers of another size "
                        "(REAL): its checksum does not hold; make it again",
                        cps_h5_path(file));
    }
    CPS_TRY(cps_classifier_check(classifier, cps_h5_path(file)));
    if (half) {
        cps_features_normalise(&classifier->vectors);
    }
    return CPS_OK;
}

cps_status cps_classifier_read(const char *path, cps_classifier *classifier_out,
                               cps_classifier_origin *origin_out) {
    cps_h5 *file = NULL;
    cps_classifier classifier = {0};
    cps_classifier_origin origin = {0};
    CPS_TRY(cps_h5_open_strict(path, &file));
    cps_status status = read_content(file, &classifier, &origin);
    const cps_status closed = cps_h5_close(file);
    status = status != CPS_OK ? status : closed;
    if (status != CPS_OK) {
        cps_classifier_free(&classifier);
        cps_classifier_origin_free(&origin);
        return status;
    }
    *classifier_out = classifier;
    *origin_out = origin;
    return CPS_OK;
}

bool cps_classifier_has_key(const char *path, uint64_t key) {
    cps_h5 *file = NULL;
    uint64_t found = 0;
    if (!cps_file_exists(path)) {
        return false;
    }
    cps_status status = cps_h5_open_strict(path, &file);
    if (status == CPS_OK) {
        status = check_format(file);
        status = status != CPS_OK ? status : read_digest(file, "key", &found);
        const cps_status closed = cps_h5_close(file);
        status = status != CPS_OK ? status : closed;
    }
    if (status != CPS_OK) {
        cps_fail_clear();
    }
    return status == CPS_OK && found == key;
}

/* ---- the published pair ---- */

/* Rows of the file [width, classes] -> columns of ours, some rows at a time: what is written
 * together lies together. */
static cps_status transpose(const cps_npy *file, cps_features *vectors) {
    enum { ROWS = 16 };
    const int64_t classes = vectors->rows, width = vectors->width;
    float *block = malloc((size_t)(ROWS * classes) * sizeof *block);
    cps_status status = block == NULL ? fail_memory(file->path) : CPS_OK;
    for (int64_t first = 0; first < width && status == CPS_OK; first += ROWS) {
        const int64_t rows = cps_min_i64(ROWS, width - first);
        status = cps_npy_read(file, first * classes, rows * classes, block);
        for (int64_t i = 0; i < classes && status == CPS_OK; i++) {
            for (int64_t r = 0; r < rows; r++) {
                vectors->values[i * width + first + r] = (cps_real)block[r * classes + i];
            }
        }
    }
    free(block);
    return status;
}

/* In Fortran's order the file holds our rows already. */
static cps_status copy_rows(const cps_npy *file, cps_features *vectors) {
    float *row = malloc((size_t)vectors->width * sizeof *row);
    cps_status status = row == NULL ? fail_memory(file->path) : CPS_OK;
    for (int64_t i = 0; i < vectors->rows && status == CPS_OK; i++) {
        status = cps_npy_read(file, i * vectors->width, vectors->width, row);
        for (int64_t j = 0; j < vectors->width && status == CPS_OK; j++) {
            vectors->values[i * vectors->width + j] = (cps_real)row[j];
        }
    }
    free(row);
    return status;
}

static double furthest_norm(const cps_features *vectors) {
    double furthest = 0.0;
    for (int64_t i = 0; i < vectors->rows; i++) {
        const double norm =
            sqrt(cps_sum_squares(vectors->values + i * vectors->width, vectors->width));
        furthest = fmax(furthest, fabs(norm - 1.0));
    }
    return furthest;
}

static cps_status read_matrix(const cps_npy *file, const char *names, cps_classifier *classifier,
                              double *furthest_out) {
    cps_features *vectors = &classifier->vectors;
    if (file->rank != 2 || file->shape[1] != classifier->names.count || file->shape[0] < 1 ||
        file->shape[0] > MAX_WIDTH) {
        char shape[64] = "";
        for (int32_t i = 0; i < file->rank; i++) {
            const size_t used = strlen(shape);
            snprintf(shape + used, sizeof shape - used, "%s%lld", i > 0 ? ", " : "",
                     (long long)file->shape[i]);
        }
        return cps_fail(CPS_ERR_DATA,
                        "'%s' holds an array [%s], wanted is [width, %lld]: a column for each of "
                        "the names in '%s'",
                        file->path, shape, (long long)classifier->names.count, names);
    }
    *vectors = (cps_features){.rows = file->shape[1],
                              .width = file->shape[0],
                              .component_count = 1,
                              .widths = {file->shape[0]}};
    vectors->values = malloc((size_t)file->count * sizeof *vectors->values);
    if (vectors->values == NULL) {
        return fail_memory(file->path);
    }
    CPS_TRY(file->fortran_order ? copy_rows(file, vectors) : transpose(file, vectors));
    CPS_TRY(cps_classifier_check(classifier, file->path));
    *furthest_out = furthest_norm(vectors);
    cps_features_normalise(vectors);
    return CPS_OK;
}

cps_status cps_classifier_read_published(const char *matrix, const char *names,
                                         cps_classifier *classifier_out, double *furthest_out) {
    cps_npy file;
    cps_classifier classifier = {0};
    CPS_TRY(cps_npy_open(matrix, &file));
    cps_status status = cps_class_names_read_json(names, &classifier.names);
    if (status == CPS_OK) {
        status = read_matrix(&file, names, &classifier, furthest_out);
    }
    cps_npy_close(&file);
    if (status != CPS_OK) {
        cps_classifier_free(&classifier);
        return status;
    }
    *classifier_out = classifier;
    return CPS_OK;
}
