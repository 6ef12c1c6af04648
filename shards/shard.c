/* Reading a shard. Opening reads and checks the index; afterwards the object does not change, so
 * any thread may use it, and images come by pread at the file address of the blob. */
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
#include <sys/stat.h>
#include <unistd.h>

/* Texts one after another, each ended by NUL; text i begins at bytes + start[i]. */
typedef struct text_list {
    int64_t count;
    int64_t *start; /* [count] */
    char *bytes;
} text_list;

typedef struct text_field {
    char *name;
    text_list texts;
    int64_t *first; /* [records + 1]: texts of record i are first[i] .. first[i + 1] - 1 */
} text_field;

struct cps_shard {
    char *path;
    int fd;
    int64_t file_bytes;
    int64_t count;
    int64_t blob_address;
    int64_t *offset;    /* [count + 1], bytes from blob_address */
    uint64_t *checksum; /* [count] */
    uint64_t *source;   /* [count], where pictures may have been encoded anew; else NULL */
    uint64_t *sample_id;
    text_list reasons; /* one a record, "" where it decodes */
    int64_t field_count;
    text_field *fields;
    int32_t *label; /* NULL: no labels */
    text_list classes;
    char *made_by;
    uint64_t digest;
};

/* What is needed while opening only. */
typedef struct opening {
    cps_shard *shard;
    cps_h5 *file;
    cps_listing listing;
} opening;

static cps_status damaged(const opening *open, const char *name, const char *what) {
    return cps_fail(CPS_ERR_DATA,
                    "shard '%s' is damaged: %s: %s; copy it again or repack it with 'copse pack'",
                    open->shard->path, name, what);
}

/* Reads a whole dataset (at most as large as the file), checks its checksum, and that it has
 * `wanted` elements (-1: any). */
static cps_status read_checked(opening *open, const char *name, cps_h5_type type, size_t element,
                               int64_t wanted, void **values_out, int64_t *count_out,
                               uint64_t *hash_out) {
    void *values = NULL;
    int64_t count = 0;
    char *stored = NULL;
    char hex[17];
    CPS_TRY(cps_h5_read_alloc(open->file, name, type, (size_t)open->shard->file_bytes, &values,
                              &count));
    cps_status status = CPS_OK;
    const uint64_t hash = cps_hash64(values, (size_t)count * element);
    cps_hash_hex(hash, hex);
    if (wanted >= 0 && count != wanted) {
        status =
            cps_fail(CPS_ERR_DATA, "shard '%s' is damaged: '%s' has %lld elements, %lld are wanted",
                     open->shard->path, name, (long long)count, (long long)wanted);
    } else {
        status = cps_h5_read_text(open->file, name, CPS_SHARD_CHECKSUM, &stored);
    }
    if (status == CPS_OK && strcmp(stored, hex) != 0) {
        status = damaged(open, name, "its checksum does not fit");
    }
    free(stored);
    if (status != CPS_OK) {
        free(values);
        return status;
    }
    *values_out = values;
    *count_out = count;
    *hash_out = hash;
    return CPS_OK;
}

/* The same of a dataset of the index. */
static cps_status read_index(opening *open, const char *name, cps_h5_type type, size_t element,
                             int64_t wanted, void **values_out, int64_t *count_out) {
    void *values = NULL;
    uint64_t hash = 0;
    CPS_TRY(read_checked(open, name, type, element, wanted, &values, count_out, &hash));
    const cps_status status = cps_listing_add(&open->listing, name, hash);
    if (status != CPS_OK) {
        free(values);
        return status;
    }
    *values_out = values;
    return CPS_OK;
}

static cps_status read_i64(opening *open, const char *name, int64_t wanted, int64_t **values_out,
                           int64_t *count_out) {
    void *values = NULL;
    CPS_TRY(read_index(open, name, CPS_H5_I64, sizeof(int64_t), wanted, &values, count_out));
    *values_out = values;
    return CPS_OK;
}

/* Offsets begin at 0, never fall and end at `end`. */
static cps_status check_offsets(const opening *open, const char *name, const int64_t *offset,
                                int64_t count, int64_t end) {
    bool good = count >= 1 && offset[0] == 0 && offset[count - 1] == end;
    for (int64_t i = 1; good && i < count; ++i) {
        good = offset[i] >= offset[i - 1];
    }
    return good ? CPS_OK
                : damaged(open, name, "offsets do not rise from 0 to the size of what they index");
}

/* Makes the list in memory from stored bytes and offsets (`texts` + 1 of them). */
static cps_status build_list(const opening *open, const char *name, const char *stored,
                             const int64_t *offset, int64_t texts, text_list *list_out) {
    const size_t stored_bytes = (size_t)offset[texts];
    int64_t *start = malloc(((size_t)texts + 1) * sizeof *start);
    char *bytes = malloc(stored_bytes + (size_t)texts + 1);
    if (start == NULL || bytes == NULL) {
        free(start);
        free(bytes);
        return cps_fail(CPS_ERR_UNAVAILABLE, "shard '%s': no memory for the texts of %s",
                        open->shard->path, name);
    }
    char *to = bytes;
    bool good = true;
    for (int64_t i = 0; i < texts; ++i) {
        const size_t length = (size_t)(offset[i + 1] - offset[i]);
        start[i] = to - bytes;
        memcpy(to, stored + offset[i], length);
        good = good && memchr(to, '\0', length) == NULL && cps_utf8_is_valid(to, length);
        to += length;
        *to++ = '\0';
    }
    if (!good) {
        free(start);
        free(bytes);
        return damaged(open, name, "a text is not UTF-8 or holds a zero byte");
    }
    *list_out = (text_list){.count = texts, .start = start, .bytes = bytes};
    return CPS_OK;
}

/* Reads <group>/bytes and <group>/offset; `texts` of them, or any number with -1. */
static cps_status read_list(opening *open, const char *group, int64_t texts, text_list *list_out) {
    char *offset_name = cps_format("%s/offset", group);
    char *bytes_name = cps_format("%s/bytes", group);
    int64_t *offset = NULL;
    void *stored = NULL;
    int64_t offsets = 0;
    int64_t bytes = 0;
    cps_status status = read_i64(open, offset_name, texts < 0 ? -1 : texts + 1, &offset, &offsets);
    if (status == CPS_OK) {
        status = read_index(open, bytes_name, CPS_H5_U8, 1, -1, &stored, &bytes);
    }
    if (status == CPS_OK) {
        status = check_offsets(open, offset_name, offset, offsets, bytes);
    }
    if (status == CPS_OK) {
        status = build_list(open, group, stored, offset, offsets - 1, list_out);
    }
    free(stored);
    free(offset);
    free(bytes_name);
    free(offset_name);
    return status;
}

static cps_status read_field(opening *open, const char *name, text_field *field) {
    char *group = cps_format("text/%s", name);
    char *first_name = cps_format("text/%s/first", name);
    int64_t count = 0;
    field->name = cps_format("%s", name);
    cps_status status = read_list(open, group, -1, &field->texts);
    if (status == CPS_OK) {
        status = read_i64(open, first_name, open->shard->count + 1, &field->first, &count);
    }
    if (status == CPS_OK) {
        status = check_offsets(open, first_name, field->first, count, field->texts.count);
    }
    free(first_name);
    free(group);
    return status;
}

static cps_status read_fields(opening *open) {
    cps_shard *shard = open->shard;
    if (!cps_h5_has(open->file, "text")) {
        return CPS_OK;
    }
    char **names = NULL;
    int64_t count = 0;
    CPS_TRY(cps_h5_list(open->file, "text", &names, &count));
    cps_status status = CPS_OK;
    if (count > CPS_SHARD_MAX_FIELDS) {
        status = damaged(open, "text", "more than 256 fields");
    } else {
        shard->fields = calloc((size_t)count + 1, sizeof *shard->fields);
        if (shard->fields == NULL) {
            status = cps_fail(CPS_ERR_UNAVAILABLE, "shard '%s': no memory", shard->path);
        }
    }
    for (int64_t i = 0; status == CPS_OK && i < count; ++i) {
        shard->field_count = i + 1;
        status = cps_shard_is_field_name(names[i])
                     ? read_field(open, names[i], &shard->fields[i])
                     : damaged(open, "text", "the name of a field is no name");
    }
    cps_strings_destroy(names, count);
    return status;
}

static cps_status read_labels(opening *open) {
    cps_shard *shard = open->shard;
    if (!cps_h5_has(open->file, "label")) {
        return CPS_OK;
    }
    int64_t count = 0;
    void *labels = NULL;
    CPS_TRY(read_list(open, "label/name", -1, &shard->classes));
    CPS_TRY(
        read_index(open, "label/id", CPS_H5_I32, sizeof(int32_t), shard->count, &labels, &count));
    shard->label = labels;
    for (int64_t i = 0; i < count; ++i) {
        if (shard->label[i] < -1 || shard->label[i] >= shard->classes.count) {
            return damaged(open, "label/id", "a label has no name");
        }
    }
    return CPS_OK;
}

/* Of shards whose pictures may have been encoded anew. */
static cps_status read_sources(opening *open) {
    int64_t count = 0;
    uint64_t hash = 0;
    void *values = NULL;
    if (!cps_h5_has(open->file, "source") || !cps_h5_has(open->file, CPS_SHARD_SOURCES)) {
        return CPS_OK;
    }
    CPS_TRY(read_checked(open, CPS_SHARD_SOURCES, CPS_H5_U64, sizeof(uint64_t), open->shard->count,
                         &values, &count, &hash));
    open->shard->source = values;
    return CPS_OK;
}

static cps_status read_records(opening *open) {
    cps_shard *shard = open->shard;
    int64_t count = 0;
    void *values = NULL;
    CPS_TRY(read_i64(open, "image/offset", shard->count + 1, &shard->offset, &count));
    CPS_TRY(read_index(open, "image/checksum", CPS_H5_U64, sizeof(uint64_t), shard->count, &values,
                       &count));
    shard->checksum = values;
    CPS_TRY(
        read_index(open, "sample_id", CPS_H5_U64, sizeof(uint64_t), shard->count, &values, &count));
    shard->sample_id = values;
    return read_list(open, "image/reason", shard->count, &shard->reasons);
}

/* ---- the blob
 * -----------------------------------------------------------------------------------------------------
 */

static cps_status read_at(const cps_shard *shard, int64_t offset, size_t length, uint8_t *to) {
    while (length > 0) {
        const ssize_t got = pread(shard->fd, to, length, (off_t)(shard->blob_address + offset));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return cps_fail(CPS_ERR_IO, "shard '%s': cannot read %zu bytes: %s", shard->path,
                            length, strerror(errno));
        }
        if (got == 0) {
            return cps_fail(CPS_ERR_DATA,
                            "shard '%s' was cut short while in use: %zu bytes are missing",
                            shard->path, length);
        }
        to += got;
        offset += got;
        length -= (size_t)got;
    }
    return CPS_OK;
}

/* The first bytes by pread and by HDF5 must be the same. */
static cps_status compare_ways(opening *open, size_t length) {
    uint8_t *by_address = malloc(length + 1);
    uint8_t *by_library = malloc(length + 1);
    cps_status status = CPS_OK;
    if (by_address == NULL || by_library == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "shard '%s': no memory", open->shard->path);
    }
    if (status == CPS_OK) {
        status = read_at(open->shard, 0, length, by_address);
    }
    if (status == CPS_OK) {
        status =
            cps_h5_read_rows(open->file, "image/bytes", CPS_H5_U8, 0, (int64_t)length, by_library);
    }
    if (status == CPS_OK && memcmp(by_address, by_library, length) != 0) {
        status = damaged(open, "image/bytes", "its address in the file does not lead to its bytes");
    }
    free(by_library);
    free(by_address);
    return status;
}

static cps_status locate_blob(opening *open) {
    cps_shard *shard = open->shard;
    size_t bytes = 0;
    CPS_TRY(cps_h5_address(open->file, "image/bytes", &shard->blob_address, &bytes));
    CPS_TRY(check_offsets(open, "image/offset", shard->offset, shard->count + 1, (int64_t)bytes));
    if (shard->blob_address > shard->file_bytes ||
        bytes > (size_t)(shard->file_bytes - shard->blob_address)) {
        return damaged(open, "image/bytes", "the file ends before it: it was cut short");
    }
    const size_t some = bytes < 65536 ? bytes : 65536;
    return some > 0 ? compare_ways(open, some) : CPS_OK;
}

/* ---- opening
 * ------------------------------------------------------------------------------------------------------
 */

static cps_status check_format(opening *open) {
    cps_shard *shard = open->shard;
    char *format = NULL;
    int64_t version = 0;
    if (!cps_h5_has_attribute(open->file, "/", "format") ||
        cps_h5_read_text(open->file, "/", "format", &format) != CPS_OK ||
        strcmp(format, CPS_SHARD_FORMAT_NAME) != 0) {
        free(format);
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is an HDF5 file but no shard: its attribute 'format' is not '%s'; "
                        "make shards with 'copse pack'",
                        shard->path, CPS_SHARD_FORMAT_NAME);
    }
    free(format);
    CPS_TRY(cps_h5_read_integer(open->file, "/", "version", &version));
    if (version != CPS_SHARD_FORMAT) {
        return cps_fail(CPS_ERR_DATA,
                        "shard '%s' has format version %lld, this build reads %d: repack it with "
                        "'copse pack'",
                        shard->path, (long long)version, (int)CPS_SHARD_FORMAT);
    }
    CPS_TRY(cps_h5_read_integer(open->file, "/", "count", &shard->count));
    if (shard->count < 0 || shard->count > shard->file_bytes / 8) { /* an id alone takes 8 bytes */
        return damaged(open, "count", "it is negative or larger than the file");
    }
    CPS_TRY(cps_h5_read_text(open->file, "/", "made_by", &shard->made_by));
    return cps_listing_add(&open->listing, "@made_by",
                           cps_hash64(shard->made_by, strlen(shard->made_by)));
}

static cps_status check_index(opening *open) {
    char *stored = NULL;
    char hex[17];
    CPS_TRY(cps_h5_read_text(open->file, "/", CPS_SHARD_INDEX_CHECKSUM, &stored));
    open->shard->digest = cps_listing_value(&open->listing);
    cps_hash_hex(open->shard->digest, hex);
    const bool equal = strcmp(stored, hex) == 0;
    free(stored);
    return equal ? CPS_OK : damaged(open, CPS_SHARD_INDEX_CHECKSUM, "the index does not fit it");
}

static cps_status read_shard(opening *open) {
    CPS_TRY(check_format(open));
    CPS_TRY(read_records(open));
    CPS_TRY(read_sources(open));
    CPS_TRY(read_fields(open));
    CPS_TRY(read_labels(open));
    CPS_TRY(check_index(open));
    return locate_blob(open);
}

static cps_status open_descriptor(cps_shard *shard) {
    struct stat info;
    shard->fd = open(shard->path, O_RDONLY | O_CLOEXEC);
    if (shard->fd < 0 || fstat(shard->fd, &info) != 0) {
        const bool many = errno == EMFILE;
        return cps_fail(errno == ENOENT ? CPS_ERR_UNAVAILABLE : CPS_ERR_IO,
                        "cannot open shard '%s': %s%s", shard->path, strerror(errno),
                        many ? "; raise the limit with 'ulimit -n', or pack fewer, larger shards"
                             : "");
    }
    shard->file_bytes = (int64_t)info.st_size;
    return CPS_OK;
}

cps_status cps_shard_open(const char *path, cps_shard **shard_out) {
    cps_shard *shard = calloc(1, sizeof *shard);
    if (shard == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "shard '%s': no memory", path);
    }
    shard->path = cps_format("%s", path);
    shard->fd = -1;
    opening open = {.shard = shard};
    cps_status status = open_descriptor(shard);
    if (status == CPS_OK) {
        status = cps_h5_open_strict(path, &open.file);
    }
    if (status == CPS_OK) {
        status = read_shard(&open);
    }
    (void)!cps_h5_close(open.file); /* nothing was written */
    cps_listing_free(&open.listing);
    if (status != CPS_OK) {
        cps_shard_close(shard);
        return status;
    }
    *shard_out = shard;
    return CPS_OK;
}

static void free_list(text_list *list) {
    free(list->start);
    free(list->bytes);
}

void cps_shard_close(cps_shard *shard) {
    if (shard == NULL) {
        return;
    }
    for (int64_t i = 0; i < shard->field_count; ++i) {
        free(shard->fields[i].name);
        free_list(&shard->fields[i].texts);
        free(shard->fields[i].first);
    }
    free(shard->fields);
    free_list(&shard->reasons);
    free_list(&shard->classes);
    free(shard->label);
    free(shard->offset);
    free(shard->checksum);
    free(shard->source);
    free(shard->sample_id);
    free(shard->made_by);
    if (shard->fd >= 0) {
        close(shard->fd);
    }
    free(shard->path);
    free(shard);
}

/* ---- access
 * -------------------------------------------------------------------------------------------------------
 */

const char *cps_shard_path(const cps_shard *shard) {
    return shard->path;
}

int64_t cps_shard_count(const cps_shard *shard) {
    return shard->count;
}

uint64_t cps_shard_digest(const cps_shard *shard) {
    return shard->digest;
}

const char *cps_shard_made_by(const cps_shard *shard) {
    return shard->made_by;
}

static void check_record(const cps_shard *shard, int64_t record) {
    CPS_BUG_IF(record < 0 || record >= shard->count);
}

uint64_t cps_shard_sample_id(const cps_shard *shard, int64_t record) {
    check_record(shard, record);
    return shard->sample_id[record];
}

const char *cps_shard_bad_reason(const cps_shard *shard, int64_t record) {
    check_record(shard, record);
    const char *reason = shard->reasons.bytes + shard->reasons.start[record];
    return *reason != '\0' ? reason : NULL;
}

int64_t cps_shard_image_bytes(const cps_shard *shard, int64_t record) {
    check_record(shard, record);
    return shard->offset[record + 1] - shard->offset[record];
}

cps_status cps_shard_read_image(const cps_shard *shard, int64_t record, bool verify,
                                uint8_t *bytes_out) {
    const size_t length = (size_t)cps_shard_image_bytes(shard, record);
    CPS_TRY(read_at(shard, shard->offset[record], length, bytes_out));
    if (verify && cps_hash64(bytes_out, length) != shard->checksum[record]) {
        return cps_fail(CPS_ERR_DATA,
                        "shard '%s' is damaged: record %lld (sample %016llx): the image's checksum "
                        "does not fit; copy the shard again or repack it",
                        shard->path, (long long)record,
                        (unsigned long long)shard->sample_id[record]);
    }
    return CPS_OK;
}

uint64_t cps_shard_source_checksum(const cps_shard *shard, int64_t record) {
    check_record(shard, record);
    return shard->source != NULL ? shard->source[record] : shard->checksum[record];
}

/* The packer notes in made_by when it may encode anew. */
bool cps_shard_knows_sources(const cps_shard *shard) {
    return shard->source != NULL || strstr(shard->made_by, ", quality ") == NULL;
}

int64_t cps_shard_field_count(const cps_shard *shard) {
    return shard->field_count;
}

const char *cps_shard_field_name(const cps_shard *shard, int64_t field) {
    CPS_BUG_IF(field < 0 || field >= shard->field_count);
    return shard->fields[field].name;
}

int64_t cps_shard_field(const cps_shard *shard, const char *name) {
    for (int64_t i = 0; i < shard->field_count; ++i) {
        if (strcmp(shard->fields[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

int64_t cps_shard_text_count(const cps_shard *shard, int64_t field, int64_t record) {
    check_record(shard, record);
    CPS_BUG_IF(field < 0 || field >= shard->field_count);
    const int64_t *first = shard->fields[field].first;
    return first[record + 1] - first[record];
}

const char *cps_shard_text(const cps_shard *shard, int64_t field, int64_t record, int64_t which) {
    CPS_BUG_IF(which < 0 || which >= cps_shard_text_count(shard, field, record));
    const text_field *texts = &shard->fields[field];
    return texts->texts.bytes + texts->texts.start[texts->first[record] + which];
}

bool cps_shard_has_labels(const cps_shard *shard) {
    return shard->label != NULL;
}

int32_t cps_shard_label(const cps_shard *shard, int64_t record) {
    check_record(shard, record);
    return shard->label != NULL ? shard->label[record] : -1;
}

int64_t cps_shard_class_count(const cps_shard *shard) {
    return shard->classes.count;
}

const char *cps_shard_class_name(const cps_shard *shard, int64_t label) {
    CPS_BUG_IF(label < 0 || label >= shard->classes.count);
    return shard->classes.bytes + shard->classes.start[label];
}
