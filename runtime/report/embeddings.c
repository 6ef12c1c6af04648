#include "report/embeddings.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/npy.h"
#include "base/numeric.h"
#include "h5/h5.h"
#include "report/rows.h"

typedef enum kind { JSON, CSV, NPY, HDF5 } kind;

struct cps_embeddings {
    cps_embeddings_spec spec;
    kind kind;
    char *path, *temporary; /* NULL: to a stream of the caller's */
    FILE *stream;
    int error; /* errno of the first failure; 0: none */
    int64_t done, written;
    uint8_t *readable;   /* [count] HDF5 */
    int64_t readable_at; /* byte of the file */
    int64_t *slots;      /* [slot_count] JSON: paths that are out, picture + 1; 0: free */
    uint64_t slot_count;
    float *row; /* [width] */
};

static cps_status fail_write(cps_embeddings *embeddings) {
    embeddings->error = embeddings->error != 0 ? embeddings->error : errno;
    return cps_fail(CPS_ERR_IO, "%s cannot be written: %s",
                    embeddings->path != NULL ? embeddings->path : "standard output",
                    strerror(embeddings->error));
}

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the features of pictures");
}

static bool ends_with(const char *text, const char *ending) {
    const size_t length = strlen(text), tail = strlen(ending);
    return length > tail && strcmp(text + length - tail, ending) == 0;
}

static cps_status choose_kind(const char *path, kind *kind_out) {
    static const char *const endings[] = {".json", ".csv", ".npy", ".h5"};
    for (int i = 0; i < 4; i++) {
        if (path != NULL && ends_with(path, endings[i])) {
            *kind_out = (kind)i;
            return CPS_OK;
        }
    }
    *kind_out = JSON;
    return path == NULL ? CPS_OK
                        : cps_fail(CPS_ERR_USAGE,
                                   "'%s': the ending says the form, and .json, .csv, .npy and .h5 "
                                   "are known",
                                   path);
}

/* ---- beginnings ---- */

static void begin_json(cps_embeddings *embeddings) {
    const cps_embeddings_spec *spec = &embeddings->spec;
    fputs("{\"model\": ", embeddings->stream);
    cps_rows_put_json(embeddings->stream, spec->model);
    fputs(", \"model_digest\": ", embeddings->stream);
    cps_rows_put_json(embeddings->stream, spec->digest);
    fputs(", \"output\": ", embeddings->stream);
    cps_rows_put_json(embeddings->stream, spec->output);
    fprintf(embeddings->stream, ", \"normalised\": %s, \"embeddings\": {",
            spec->normalised ? "true" : "false");
}

/* A name of the caller's may hold commas and quotes. */
static void put_csv_name(FILE *stream, const char *name) {
    fputc('"', stream);
    for (; *name != '\0'; name++) {
        if (*name == '"') {
            fputc('"', stream);
        }
        fputc(*name, stream);
    }
    fputc('"', stream);
}

static void begin_csv(const cps_embeddings *embeddings) {
    fputs("file_name", embeddings->stream);
    for (int64_t i = 0; i < embeddings->spec.width; i++) {
        fprintf(embeddings->stream, ",f%lld", (long long)i);
    }
    fputc('\n', embeddings->stream);
}

static cps_status reserve(const cps_embeddings *embeddings, cps_h5 *file, int64_t *features_out,
                          int64_t *readable_out) {
    const cps_embeddings_spec *spec = &embeddings->spec;
    const int64_t shape[] = {spec->count, spec->width};
    size_t bytes;
    CPS_TRY(cps_h5_write_text(file, "/", "format", "copse-embeddings"));
    CPS_TRY(cps_h5_write_integer(file, "/", "version", 1));
    CPS_TRY(cps_h5_write_text(file, "/", "model", spec->model));
    CPS_TRY(cps_h5_write_text(file, "/", "model_digest", spec->digest));
    CPS_TRY(cps_h5_write_text(file, "/", "output", spec->output));
    CPS_TRY(cps_h5_write_integer(file, "/", "normalised", spec->normalised));
    CPS_TRY(cps_h5_write_strings(file, "path", spec->pictures, spec->count));
    CPS_TRY(cps_h5_write(file, "readable", CPS_H5_U8, 1, shape, NULL));
    CPS_TRY(cps_h5_write(file, "features", CPS_H5_F32, 2, shape, NULL));
    CPS_TRY(cps_h5_address(file, "readable", readable_out, &bytes));
    return cps_h5_address(file, "features", features_out, &bytes);
}

/* Everything but the rows through HDF5; they follow through a stream at their place. */
static cps_status begin_h5(cps_embeddings *embeddings) {
    cps_h5 *file = NULL;
    int64_t features_at = 0;
    embeddings->readable = calloc((size_t)embeddings->spec.count + 1, 1);
    if (embeddings->readable == NULL) {
        return fail_memory();
    }
    CPS_TRY(cps_h5_create(embeddings->temporary, &file));
    cps_status status = reserve(embeddings, file, &features_at, &embeddings->readable_at);
    const cps_status closed = cps_h5_close(file);
    CPS_TRY(status != CPS_OK ? status : closed);
    embeddings->stream = fopen(embeddings->temporary, "r+b");
    return embeddings->stream == NULL || fseeko(embeddings->stream, features_at, SEEK_SET) != 0
               ? fail_write(embeddings)
               : CPS_OK;
}

static cps_status begin(cps_embeddings *embeddings) {
    char header[CPS_NPY_HEADER];
    if (embeddings->kind == HDF5) {
        return begin_h5(embeddings);
    }
    if (embeddings->temporary != NULL) {
        embeddings->stream = fopen(embeddings->temporary, "wb");
        if (embeddings->stream == NULL) {
            return fail_write(embeddings);
        }
    }
    switch (embeddings->kind) {
    case JSON:
        begin_json(embeddings);
        break;
    case CSV:
        begin_csv(embeddings);
        break;
    default:
        cps_npy_matrix_header(embeddings->spec.count, embeddings->spec.width, header);
        fwrite(header, 1, sizeof header, embeddings->stream);
        break;
    }
    return CPS_OK;
}

static cps_status prepare(cps_embeddings *embeddings) {
    const cps_embeddings_spec *spec = &embeddings->spec;
    CPS_TRY(choose_kind(spec->path, &embeddings->kind));
    if (spec->path != NULL) {
        embeddings->path = cps_format("%s", spec->path);
        embeddings->temporary = cps_file_temporary_name(spec->path);
    }
    embeddings->row = malloc((size_t)spec->width * sizeof *embeddings->row + 1);
    embeddings->slot_count = 2 * (uint64_t)spec->count + 16;
    if (embeddings->kind == JSON) {
        embeddings->slots = calloc(embeddings->slot_count, sizeof *embeddings->slots);
    }
    if (embeddings->row == NULL || (embeddings->kind == JSON && embeddings->slots == NULL)) {
        return fail_memory();
    }
    return begin(embeddings);
}

cps_status cps_embeddings_create(const cps_embeddings_spec *spec, cps_embeddings **embeddings_out) {
    cps_embeddings *embeddings = calloc(1, sizeof *embeddings);
    if (embeddings == NULL) {
        return fail_memory();
    }
    embeddings->spec = *spec;
    embeddings->stream = spec->path == NULL ? spec->stream : NULL;
    const cps_status status = prepare(embeddings);
    if (status != CPS_OK) {
        cps_embeddings_abandon(embeddings);
        return status;
    }
    *embeddings_out = embeddings;
    return CPS_OK;
}

/* ---- rows ---- */

/* Whether this picture's path is out already; notes it. */
static bool is_out(cps_embeddings *embeddings, int64_t picture) {
    const char *path = embeddings->spec.pictures[picture];
    uint64_t at = cps_hash64_text(path) % embeddings->slot_count;
    for (; embeddings->slots[at] != 0; at = (at + 1) % embeddings->slot_count) {
        if (strcmp(embeddings->spec.pictures[embeddings->slots[at] - 1], path) == 0) {
            return true;
        }
    }
    embeddings->slots[at] = picture + 1;
    return false;
}

static void put_json(cps_embeddings *embeddings, const cps_real *values) {
    FILE *stream = embeddings->stream;
    if (values == NULL || is_out(embeddings, embeddings->done)) {
        return;
    }
    fputs(embeddings->written++ > 0 ? ",\n" : "\n", stream);
    cps_rows_put_json(stream, embeddings->spec.pictures[embeddings->done]);
    for (int64_t i = 0; i < embeddings->spec.width; i++) {
        fprintf(stream, "%s%.9g", i > 0 ? ", " : ": [", (double)values[i]);
    }
    fputc(']', stream);
}

static void put_csv(cps_embeddings *embeddings, const cps_real *values) {
    if (values == NULL) {
        return;
    }
    put_csv_name(embeddings->stream, embeddings->spec.pictures[embeddings->done]);
    for (int64_t i = 0; i < embeddings->spec.width; i++) {
        fprintf(embeddings->stream, ",%.9g", (double)values[i]);
    }
    fputc('\n', embeddings->stream);
}

static void put_floats(cps_embeddings *embeddings, const cps_real *values) {
    for (int64_t i = 0; i < embeddings->spec.width; i++) {
        embeddings->row[i] = values != NULL ? (float)values[i] : NAN;
    }
    fwrite(embeddings->row, sizeof(float), (size_t)embeddings->spec.width, embeddings->stream);
    if (embeddings->readable != NULL) {
        embeddings->readable[embeddings->done] = values != NULL;
    }
}

cps_status cps_embeddings_add(cps_embeddings *embeddings, const cps_real *values) {
    CPS_BUG_IF(embeddings->done >= embeddings->spec.count);
    switch (embeddings->kind) {
    case JSON:
        put_json(embeddings, values);
        break;
    case CSV:
        put_csv(embeddings, values);
        break;
    default:
        put_floats(embeddings, values);
        break;
    }
    embeddings->done++;
    return ferror(embeddings->stream) != 0 ? fail_write(embeddings) : CPS_OK;
}

/* ---- the end ---- */

static bool put_end(cps_embeddings *embeddings) {
    if (embeddings->kind == JSON) {
        fputs(embeddings->written > 0 ? "\n}}\n" : "}}\n", embeddings->stream);
    } else if (embeddings->kind == HDF5) {
        const size_t count = (size_t)embeddings->spec.count;
        if (fseeko(embeddings->stream, embeddings->readable_at, SEEK_SET) != 0 ||
            fwrite(embeddings->readable, 1, count, embeddings->stream) != count) {
            return false;
        }
    }
    return fflush(embeddings->stream) == 0 && ferror(embeddings->stream) == 0;
}

cps_status cps_embeddings_finish(cps_embeddings *embeddings) {
    CPS_BUG_IF(embeddings->done < embeddings->spec.count && embeddings->kind >= NPY);
    cps_status status = put_end(embeddings) ? CPS_OK : fail_write(embeddings);
    if (embeddings->temporary != NULL && embeddings->stream != NULL) {
        if (fclose(embeddings->stream) != 0 && status == CPS_OK) {
            status = fail_write(embeddings);
        }
        embeddings->stream = NULL;
        if (status == CPS_OK) {
            status = cps_file_publish(embeddings->temporary, embeddings->path);
            free(embeddings->temporary);
            embeddings->temporary = NULL;
        }
    }
    cps_embeddings_abandon(embeddings);
    return status;
}

void cps_embeddings_abandon(cps_embeddings *embeddings) {
    if (embeddings == NULL) {
        return;
    }
    if (embeddings->temporary != NULL) {
        if (embeddings->stream != NULL) {
            fclose(embeddings->stream);
        }
        unlink(embeddings->temporary);
    }
    free(embeddings->readable);
    free(embeddings->slots);
    free(embeddings->row);
    free(embeddings->temporary);
    free(embeddings->path);
    free(embeddings);
}
