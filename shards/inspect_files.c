/* Records of a shard written out as files. */
#include "shards/inspect.h"

#include "base/file.h"
#include "image/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *image_ending(const uint8_t *bytes, size_t length) {
    switch (cps_image_sniff(bytes, length)) {
    case CPS_IMAGE_JPEG:
        return "jpg";
    case CPS_IMAGE_PNG:
        return "png";
    case CPS_IMAGE_UNKNOWN:
        break;
    }
    return "bin";
}

/* Writes a record's image as <folder>/<name>.<ending>; *name_out is malloc'ed, without the folder.
 */
static cps_status write_image(const cps_shard *shard, int64_t record, const char *folder,
                              const char *stem, char **name_out) {
    const size_t length = (size_t)cps_shard_image_bytes(shard, record);
    uint8_t *bytes = malloc(length + 1);
    if (bytes == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "inspect: no memory for an image of %zu bytes",
                        length);
    }
    cps_status status = cps_shard_read_image(shard, record, true, bytes);
    if (status == CPS_OK) {
        char *name = cps_format("%s.%s", stem, image_ending(bytes, length));
        char *path = cps_path_join(folder, name);
        status = cps_file_write_atomic(path, bytes, length);
        free(path);
        if (status == CPS_OK) {
            *name_out = name;
        } else {
            free(name);
        }
    }
    free(bytes);
    return status;
}

static cps_status check_record(const cps_shard *shard, int64_t record) {
    if (record < 0 || record >= cps_shard_count(shard)) {
        return cps_fail(CPS_ERR_USAGE, "inspect: shard '%s' has records 0 to %lld, not %lld",
                        cps_shard_path(shard), (long long)cps_shard_count(shard) - 1,
                        (long long)record);
    }
    return CPS_OK;
}

/* ---- one record
 * ---------------------------------------------------------------------------------------------------
 */

static cps_json *describe_record(const cps_shard *shard, int64_t record, const char *image) {
    cps_json *root = cps_json_new_object();
    char id[32];
    snprintf(id, sizeof id, "%016llx", (unsigned long long)cps_shard_sample_id(shard, record));
    cps_json_add_string(root, "shard", cps_shard_path(shard));
    cps_json_add_number(root, "record", (double)record);
    cps_json_add_string(root, "sample_id", id);
    cps_json_add_string(root, "image", image);
    if (cps_shard_bad_reason(shard, record) != NULL) {
        cps_json_add_string(root, "bad_reason", cps_shard_bad_reason(shard, record));
    }
    const int32_t label = cps_shard_label(shard, record);
    if (label >= 0) {
        cps_json_add_number(root, "label", label);
        cps_json_add_string(root, "class", cps_shard_class_name(shard, label));
    }
    cps_json *fields = cps_json_add_object(root, "texts");
    for (int64_t f = 0; f < cps_shard_field_count(shard); ++f) {
        cps_json *texts = cps_json_add_array(fields, cps_shard_field_name(shard, f));
        for (int64_t k = 0; k < cps_shard_text_count(shard, f, record); ++k) {
            cps_json_add_string(texts, NULL, cps_shard_text(shard, f, record, k));
        }
    }
    return root;
}

static cps_status write_sample(const cps_shard *shard, int64_t record, const char *folder,
                               char **image_path_out) {
    CPS_TRY(check_record(shard, record));
    CPS_TRY(cps_dir_create(folder));
    char *image = NULL;
    CPS_TRY(write_image(shard, record, folder, "image", &image));
    cps_json *facts = describe_record(shard, record, image);
    char *text = cps_json_print(facts, true, false);
    char *path = cps_path_join(folder, "record.json");
    const cps_status status = cps_file_write_atomic(path, text, strlen(text));
    free(path);
    free(text);
    cps_json_destroy(facts);
    if (status == CPS_OK && image_path_out != NULL) {
        *image_path_out = cps_path_join(folder, image);
    }
    free(image);
    return status;
}

cps_status cps_inspect_sample(const char *path, int64_t record, const char *folder,
                              char **image_path_out) {
    cps_shard *shard = NULL;
    CPS_TRY(cps_shard_open(path, &shard));
    const cps_status status = write_sample(shard, record, folder, image_path_out);
    cps_shard_close(shard);
    return status;
}

/* ---- a table of records
 * ------------------------------------------------------------------------------------------- */

/* A field of a table: quoted where RFC 4180 asks for it. malloc'ed. */
static char *quoted(const char *text) {
    if (strpbrk(text, ",\"\r\n") == NULL) {
        return cps_format("%s", text);
    }
    char *copy = malloc(2 * strlen(text) + 3);
    if (copy == NULL) {
        return NULL;
    }
    char *to = copy;
    *to++ = '"';
    for (; *text != '\0'; ++text) {
        if (*text == '"') {
            *to++ = '"';
        }
        *to++ = *text;
    }
    *to++ = '"';
    *to = '\0';
    return copy;
}

static cps_status write_row(FILE *table, const char *file, const char *caption, const char *label) {
    char *caption_cell = quoted(caption);
    char *label_cell = quoted(label);
    const bool written = caption_cell != NULL && label_cell != NULL &&
                         fprintf(table, "%s,%s,%s\n", file, caption_cell, label_cell) > 0;
    free(caption_cell);
    free(label_cell);
    return written ? CPS_OK : cps_fail(CPS_ERR_IO, "inspect: cannot write captions.csv");
}

static cps_status write_rows(const cps_shard *shard, int64_t record, const char *folder,
                             FILE *table) {
    const int64_t field = cps_shard_field(shard, "caption");
    const int64_t captions = field >= 0 ? cps_shard_text_count(shard, field, record) : 0;
    const int32_t label = cps_shard_label(shard, record);
    const char *class_name = label >= 0 ? cps_shard_class_name(shard, label) : "";
    char stem[32];
    char *file = NULL;
    snprintf(stem, sizeof stem, "%06lld", (long long)record);
    CPS_TRY(write_image(shard, record, folder, stem, &file));
    cps_status status = captions == 0 ? write_row(table, file, "", class_name) : CPS_OK;
    for (int64_t k = 0; status == CPS_OK && k < captions; ++k) {
        status = write_row(table, file, cps_shard_text(shard, field, record, k), class_name);
    }
    free(file);
    return status;
}

static cps_status write_table(const cps_shard *shard, int64_t records, const char *folder,
                              int64_t *written_out) {
    char *path = cps_path_join(folder, "captions.csv");
    FILE *table = fopen(path, "w");
    cps_status status = table != NULL && fputs("file,caption,label\n", table) >= 0
                            ? CPS_OK
                            : cps_fail(CPS_ERR_IO, "inspect: cannot write '%s'", path);
    int64_t written = 0;
    for (int64_t i = 0; status == CPS_OK && i < records; ++i) {
        if (cps_shard_bad_reason(shard, i) == NULL) {
            status = write_rows(shard, i, folder, table);
            written += 1;
        }
    }
    if (table != NULL && fclose(table) != 0 && status == CPS_OK) {
        status = cps_fail(CPS_ERR_IO, "inspect: cannot write '%s'", path);
    }
    free(path);
    if (status == CPS_OK) {
        *written_out = written;
    }
    return status;
}

cps_status cps_inspect_table(const char *path, int64_t records, const char *folder,
                             int64_t *written_out) {
    cps_shard *shard = NULL;
    CPS_TRY(cps_shard_open(path, &shard));
    const int64_t count = cps_shard_count(shard);
    cps_status status = cps_dir_create(folder);
    if (status == CPS_OK) {
        status = write_table(shard, records < 0 || records > count ? count : records, folder,
                             written_out);
    }
    cps_shard_close(shard);
    return status;
}
