/* Writing a shard. Its size is known only at the end, and the image blob must be one contiguous
 * dataset: images go to a nameless file beside the target first, the index stays in memory, and
 * finish() puts both into the HDF5 file. */
#include "shards/shard.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/text.h"
#include "h5/h5.h"
#include "shards/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A growing array of plain bytes. */
typedef struct buffer {
    char *bytes;
    size_t length, room;
} buffer;

typedef struct text_column {
    buffer bytes, offset;
    int64_t count;
} text_column;

typedef struct field_column {
    char *name;
    text_column texts;
    buffer first;
} field_column;

struct cps_shard_writer {
    char *path, *temporary;
    char *made_by;
    int spool; /* nameless file with the images so far */
    int64_t count, image_bytes, class_count;
    buffer offset, checksum, sample_id, label, source;
    bool says_source; /* some record does: `source` is written */
    text_column reasons, classes;
    int64_t field_count;
    field_column *fields;
};

static cps_status append(buffer *to, const void *bytes, size_t length) {
    if (length > to->room - to->length) {
        size_t room = 0;
        if (!cps_add_size(to->length, length, &room) || !cps_mul_size(room, 2, &room)) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "a shard's index is too large");
        }
        char *grown = realloc(to->bytes, room);
        if (grown == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for %zu bytes of a shard's index",
                            room);
        }
        to->bytes = grown;
        to->room = room;
    }
    if (length > 0) {
        memcpy(to->bytes + to->length, bytes, length);
        to->length += length;
    }
    return CPS_OK;
}

static cps_status append_i64(buffer *to, int64_t value) {
    return append(to, &value, sizeof value);
}

static cps_status append_text(text_column *to, const char *text) {
    if (!cps_utf8_is_valid(text, strlen(text))) {
        return cps_fail(CPS_ERR_DATA, "a text is not UTF-8 (it begins '%.20s'): convert it", text);
    }
    CPS_TRY(append(&to->bytes, text, strlen(text)));
    CPS_TRY(append_i64(&to->offset, (int64_t)to->bytes.length));
    to->count += 1;
    return CPS_OK;
}

static int compare_fields(const void *a, const void *b) {
    return strcmp(((const field_column *)a)->name, ((const field_column *)b)->name);
}

static cps_status start_fields(cps_shard_writer *writer, const char *const *fields,
                               int64_t field_count) {
    if (field_count > CPS_SHARD_MAX_FIELDS) {
        return cps_fail(CPS_ERR_USAGE, "%lld text fields, a shard holds at most %d",
                        (long long)field_count, (int)CPS_SHARD_MAX_FIELDS);
    }
    writer->fields = calloc((size_t)field_count + 1, sizeof *writer->fields);
    if (writer->fields == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for a shard's fields");
    }
    for (int64_t i = 0; i < field_count; ++i) {
        field_column *field = &writer->fields[i];
        if (!cps_shard_is_field_name(fields[i])) {
            return cps_fail(CPS_ERR_USAGE,
                            "'%s' cannot be the name of a text field: 1 to 255 bytes of UTF-8 "
                            "without '/' and control characters are",
                            fields[i]);
        }
        field->name = cps_format("%s", fields[i]);
        writer->field_count = i + 1;
        CPS_TRY(append_i64(&field->texts.offset, 0));
        CPS_TRY(append_i64(&field->first, 0));
    }
    if (field_count > 1) {
        qsort(writer->fields, (size_t)field_count, sizeof *writer->fields, compare_fields);
    }
    for (int64_t i = 1; i < field_count; ++i) {
        if (strcmp(writer->fields[i - 1].name, writer->fields[i].name) == 0) {
            return cps_fail(CPS_ERR_USAGE, "the text field '%s' is named twice",
                            writer->fields[i].name);
        }
    }
    return CPS_OK;
}

static cps_status start_spool(cps_shard_writer *writer) {
    char *name = cps_format("%s.images", writer->temporary);
    writer->spool = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    cps_status status = CPS_OK;
    if (writer->spool < 0) {
        status =
            cps_fail(CPS_ERR_IO,
                     "cannot write beside shard '%s': %s; check that the folder exists, may be "
                     "written and has space",
                     writer->path, strerror(errno));
    } else {
        unlink(name);
    }
    free(name);
    return status;
}

cps_status cps_shard_writer_create(const char *path, const char *const *fields, int64_t field_count,
                                   const char *const *class_names, int64_t class_count,
                                   const char *made_by, cps_shard_writer **writer_out) {
    cps_shard_writer *writer = calloc(1, sizeof *writer);
    if (writer == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to write shard '%s'", path);
    }
    writer->path = cps_format("%s", path);
    writer->temporary = cps_file_temporary_name(path);
    writer->made_by = cps_format("%s", made_by);
    writer->class_count = class_count;
    writer->spool = -1;
    cps_status status = start_fields(writer, fields, field_count);
    if (status == CPS_OK) {
        status = start_spool(writer);
    }
    if (status == CPS_OK) {
        status = append_i64(&writer->offset, 0);
    }
    if (status == CPS_OK) {
        status = append_i64(&writer->reasons.offset, 0);
    }
    if (status == CPS_OK) {
        status = append_i64(&writer->classes.offset, 0);
    }
    for (int64_t i = 0; status == CPS_OK && i < class_count; ++i) {
        status = append_text(&writer->classes, class_names[i]);
    }
    if (status != CPS_OK) {
        cps_shard_writer_abandon(writer);
        return status;
    }
    *writer_out = writer;
    return CPS_OK;
}

static void free_text_column(text_column *column) {
    free(column->bytes.bytes);
    free(column->offset.bytes);
}

void cps_shard_writer_abandon(cps_shard_writer *writer) {
    if (writer == NULL) {
        return;
    }
    for (int64_t i = 0; i < writer->field_count; ++i) {
        free(writer->fields[i].name);
        free_text_column(&writer->fields[i].texts);
        free(writer->fields[i].first.bytes);
    }
    free(writer->fields);
    free_text_column(&writer->reasons);
    free_text_column(&writer->classes);
    free(writer->offset.bytes);
    free(writer->checksum.bytes);
    free(writer->sample_id.bytes);
    free(writer->label.bytes);
    free(writer->source.bytes);
    if (writer->spool >= 0) {
        close(writer->spool);
    }
    free(writer->made_by);
    free(writer->temporary);
    free(writer->path);
    free(writer);
}

/* ---- records
 * ------------------------------------------------------------------------------------------------------
 */

static cps_status write_all(int fd, const char *path, const uint8_t *bytes, size_t length,
                            int64_t at) {
    while (length > 0) {
        const ssize_t put = pwrite(fd, bytes, length, (off_t)at);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return cps_fail(CPS_ERR_IO, "cannot write %zu bytes for shard '%s': %s", length, path,
                            strerror(errno));
        }
        bytes += put;
        length -= (size_t)put;
        at += put;
    }
    return CPS_OK;
}

static field_column *find_field(cps_shard_writer *writer, const char *name) {
    for (int64_t i = 0; i < writer->field_count; ++i) {
        if (strcmp(writer->fields[i].name, name) == 0) {
            return &writer->fields[i];
        }
    }
    return NULL;
}

static cps_status append_texts(cps_shard_writer *writer, const cps_record *record) {
    for (int64_t i = 0; i < record->text_field_count; ++i) {
        const cps_record_text *texts = &record->texts[i];
        field_column *field = find_field(writer, texts->field);
        if (field == NULL) {
            return cps_fail(CPS_ERR_INTERNAL, "shard '%s' was not created with a field '%s'",
                            writer->path, texts->field);
        }
        for (int64_t k = 0; k < texts->count; ++k) {
            if (*texts->texts[k] != '\0') { /* an empty text is none */
                CPS_TRY(cps_fail_context(append_text(&field->texts, texts->texts[k]), "field '%s'",
                                         field->name));
            }
        }
    }
    for (int64_t i = 0; i < writer->field_count; ++i) {
        CPS_TRY(append_i64(&writer->fields[i].first, writer->fields[i].texts.count));
    }
    return CPS_OK;
}

cps_status cps_shard_writer_append(cps_shard_writer *writer, const cps_record *record) {
    if (record->label < -1 || record->label >= writer->class_count) {
        return cps_fail(CPS_ERR_INTERNAL, "label %d is not one of the %lld classes of shard '%s'",
                        record->label, (long long)writer->class_count, writer->path);
    }
    if (record->image_bytes == 0 && record->bad_reason == NULL) {
        return cps_fail(CPS_ERR_INTERNAL, "a record of shard '%s' has neither image nor reason",
                        writer->path);
    }
    const uint64_t checksum = cps_hash64(record->image, record->image_bytes);
    CPS_TRY(write_all(writer->spool, writer->path, record->image, record->image_bytes,
                      writer->image_bytes));
    writer->image_bytes += (int64_t)record->image_bytes;
    CPS_TRY(append_i64(&writer->offset, writer->image_bytes));
    CPS_TRY(append(&writer->checksum, &checksum, sizeof checksum));
    CPS_TRY(append(&writer->sample_id, &record->sample_id, sizeof record->sample_id));
    CPS_TRY(append(&writer->label, &record->label, sizeof record->label));
    const uint64_t source = record->source_checksum != 0 ? record->source_checksum : checksum;
    CPS_TRY(append(&writer->source, &source, sizeof source));
    writer->says_source = writer->says_source || record->source_checksum != 0;
    CPS_TRY(append_text(&writer->reasons, record->bad_reason != NULL ? record->bad_reason : ""));
    CPS_TRY(append_texts(writer, record));
    writer->count += 1;
    return CPS_OK;
}

/* ---- the file
 * -----------------------------------------------------------------------------------------------------
 */

typedef struct finishing {
    cps_shard_writer *writer;
    cps_h5 *file;
    cps_listing listing;
} finishing;

/* One dataset with its checksum. */
static cps_status put_checked(finishing *finish, const char *name, cps_h5_type type, size_t element,
                              const buffer *values, uint64_t *hash_out) {
    char hex[17];
    static const char nothing[8] = {0};
    const int64_t count = (int64_t)(values->length / element);
    const void *bytes = values->bytes != NULL ? values->bytes : nothing;
    *hash_out = cps_hash64(bytes, values->length);
    cps_hash_hex(*hash_out, hex);
    CPS_TRY(cps_h5_write(finish->file, name, type, 1, &count, bytes));
    return cps_h5_write_text(finish->file, name, CPS_SHARD_CHECKSUM, hex);
}

/* One dataset of the index. */
static cps_status put(finishing *finish, const char *name, cps_h5_type type, size_t element,
                      const buffer *values) {
    uint64_t hash = 0;
    CPS_TRY(put_checked(finish, name, type, element, values, &hash));
    return cps_listing_add(&finish->listing, name, hash);
}

static cps_status put_texts(finishing *finish, const char *group, const text_column *texts) {
    char *bytes_name = cps_format("%s/bytes", group);
    char *offset_name = cps_format("%s/offset", group);
    cps_status status = put(finish, bytes_name, CPS_H5_U8, 1, &texts->bytes);
    if (status == CPS_OK) {
        status = put(finish, offset_name, CPS_H5_I64, sizeof(int64_t), &texts->offset);
    }
    free(offset_name);
    free(bytes_name);
    return status;
}

static cps_status put_field(finishing *finish, const field_column *field) {
    char *group = cps_format("text/%s", field->name);
    char *first_name = cps_format("text/%s/first", field->name);
    cps_status status = put_texts(finish, group, &field->texts);
    if (status == CPS_OK) {
        status = put(finish, first_name, CPS_H5_I64, sizeof(int64_t), &field->first);
    }
    free(first_name);
    free(group);
    return status;
}

static cps_status put_attributes(finishing *finish) {
    const cps_shard_writer *writer = finish->writer;
    char hex[17];
    CPS_TRY(cps_listing_add(&finish->listing, "@made_by",
                            cps_hash64(writer->made_by, strlen(writer->made_by))));
    CPS_TRY(cps_h5_write_text(finish->file, "/", "format", CPS_SHARD_FORMAT_NAME));
    CPS_TRY(cps_h5_write_integer(finish->file, "/", "version", CPS_SHARD_FORMAT));
    CPS_TRY(cps_h5_write_integer(finish->file, "/", "count", writer->count));
    CPS_TRY(cps_h5_write_text(finish->file, "/", "made_by", writer->made_by));
    cps_hash_hex(cps_listing_value(&finish->listing), hex);
    return cps_h5_write_text(finish->file, "/", CPS_SHARD_INDEX_CHECKSUM, hex);
}

static cps_status put_index(finishing *finish) {
    cps_shard_writer *writer = finish->writer;
    CPS_TRY(put(finish, "image/offset", CPS_H5_I64, sizeof(int64_t), &writer->offset));
    CPS_TRY(put(finish, "image/checksum", CPS_H5_U64, sizeof(uint64_t), &writer->checksum));
    CPS_TRY(put_texts(finish, "image/reason", &writer->reasons));
    CPS_TRY(put(finish, "sample_id", CPS_H5_U64, sizeof(uint64_t), &writer->sample_id));
    for (int64_t i = 0; i < writer->field_count; ++i) {
        CPS_TRY(put_field(finish, &writer->fields[i]));
    }
    if (writer->class_count > 0) {
        CPS_TRY(put_texts(finish, "label/name", &writer->classes));
        CPS_TRY(put(finish, "label/id", CPS_H5_I32, sizeof(int32_t), &writer->label));
    }
    if (writer->says_source) { /* readers that do not know it ignore it */
        uint64_t hash = 0;
        CPS_TRY(put_checked(finish, CPS_SHARD_SOURCES, CPS_H5_U64, sizeof(uint64_t),
                            &writer->source, &hash));
    }
    return put_attributes(finish);
}

/* Copies the spooled images to their place in the closed HDF5 file. */
static cps_status copy_blob(const cps_shard_writer *writer, int64_t address) {
    enum { PIECE = 1 << 20 };
    const int fd = open(writer->temporary, O_WRONLY | O_CLOEXEC);
    uint8_t *piece = malloc(PIECE);
    cps_status status = CPS_OK;
    if (fd < 0 || piece == NULL) {
        status = cps_fail(CPS_ERR_IO, "cannot go on writing shard '%s': %s", writer->path,
                          strerror(errno));
    }
    for (int64_t done = 0; status == CPS_OK && done < writer->image_bytes;) {
        const int64_t want = cps_min_i64(PIECE, writer->image_bytes - done);
        const ssize_t got = pread(writer->spool, piece, (size_t)want, (off_t)done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            status = cps_fail(CPS_ERR_IO, "cannot read back images of shard '%s': %s", writer->path,
                              got < 0 ? strerror(errno) : "they end early");
        } else {
            status = write_all(fd, writer->path, piece, (size_t)got, address + done);
            done += got;
        }
    }
    free(piece);
    if (fd >= 0 && close(fd) != 0 && status == CPS_OK) {
        status =
            cps_fail(CPS_ERR_IO, "cannot finish shard '%s': %s", writer->path, strerror(errno));
    }
    return status;
}

static cps_status write_file(cps_shard_writer *writer) {
    finishing finish = {.writer = writer};
    int64_t address = 0;
    size_t bytes = 0;
    CPS_TRY(cps_h5_create(writer->temporary, &finish.file));
    cps_status status = put_index(&finish);
    if (status == CPS_OK) { /* last, so that the index lies in front */
        status = cps_h5_write(finish.file, "image/bytes", CPS_H5_U8, 1, &writer->image_bytes, NULL);
    }
    if (status == CPS_OK) {
        status = cps_h5_address(finish.file, "image/bytes", &address, &bytes);
    }
    const cps_status closed = cps_h5_close(finish.file);
    status = status != CPS_OK ? status : closed;
    if (status == CPS_OK) {
        status = copy_blob(writer, address);
    }
    cps_listing_free(&finish.listing);
    return status;
}

cps_status cps_shard_writer_finish(cps_shard_writer *writer) {
    cps_status status = write_file(writer);
    if (status == CPS_OK) {
        status = cps_file_publish(writer->temporary, writer->path);
    } else {
        unlink(writer->temporary);
    }
    cps_shard_writer_abandon(writer);
    return status;
}
