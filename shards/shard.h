/* A shard: one HDF5 file of encoded images, captions, labels and ranks. format.md is the standard;
 * this is the library. A reader checks the whole index (monotonic offsets inside the file, counts,
 * checksum of the index) at open and may then be used by any thread at once: records are read with
 * pread. Records come from strangers: sizes are checked at every step. */
#ifndef CPS_SHARDS_SHARD_H
#define CPS_SHARDS_SHARD_H

#include "base/json.h"
#include "base/status.h"

enum { CPS_SHARD_FORMAT = 1 };

typedef struct cps_shard cps_shard; /* an open shard, read only */

cps_status cps_shard_open(const char *path, cps_shard **shard_out) CPS_MUST_CHECK;
void cps_shard_close(cps_shard *shard); /* NULL-safe */
const char *cps_shard_path(const cps_shard *shard);
int64_t cps_shard_count(const cps_shard *shard);
/* Digest of the whole index with all checksums: equal digests, equal content. */
uint64_t cps_shard_digest(const cps_shard *shard);
/* How it was made, as the writer was told. Borrowed. */
const char *cps_shard_made_by(const cps_shard *shard);

uint64_t cps_shard_sample_id(const cps_shard *shard, int64_t record);
/* Why the packer could not decode this record, NULL if it could. Borrowed. */
const char *cps_shard_bad_reason(const cps_shard *shard, int64_t record);
/* Encoded bytes of an image. read: into `bytes_out`, which holds cps_shard_image_bytes(record)
 * bytes; checks the checksum when `verify`. */
int64_t cps_shard_image_bytes(const cps_shard *shard, int64_t record);
cps_status cps_shard_read_image(const cps_shard *shard, int64_t record, bool verify,
                                uint8_t *bytes_out) CPS_MUST_CHECK;
/* XXH3-64 of the file that the packer read for this image: that of the stored bytes unless the
 * packer encoded it anew. */
uint64_t cps_shard_source_checksum(const cps_shard *shard, int64_t record);
/* Does the shard say so of every record? A shard that a former packer encoded anew does not. */
bool cps_shard_knows_sources(const cps_shard *shard);

/* Text fields: "caption", the seven ranks ("kingdom" ... "species"), "common_name", "file", and
 * whatever else was packed. Several texts a record are allowed. Texts are held in memory,
 * NUL-terminated, borrowed until close. */
int64_t cps_shard_field_count(const cps_shard *shard);
const char *cps_shard_field_name(const cps_shard *shard, int64_t field);
int64_t cps_shard_field(const cps_shard *shard, const char *name); /* index, or -1 */
int64_t cps_shard_text_count(const cps_shard *shard, int64_t field, int64_t record); /* 0: none */
const char *cps_shard_text(const cps_shard *shard, int64_t field, int64_t record, int64_t which);

/* Integer labels: index into names, -1 for none. */
bool cps_shard_has_labels(const cps_shard *shard);
int32_t cps_shard_label(const cps_shard *shard, int64_t record);
int64_t cps_shard_class_count(const cps_shard *shard);
const char *cps_shard_class_name(const cps_shard *shard, int64_t label);

/* One record on its way into a shard. Pointers are borrowed during the call. An empty text counts
 * as none. */
typedef struct cps_record_text {
    const char *field;
    int64_t count;
    const char *const *texts;
} cps_record_text;
typedef struct cps_record {
    uint64_t sample_id;
    const uint8_t *image; /* may be empty when bad_reason says why */
    size_t image_bytes;
    /* XXH3-64 of the file that `image` was made of; 0: it is that file. */
    uint64_t source_checksum;
    const char *bad_reason; /* NULL: decodes */
    int32_t label;          /* -1: none */
    int64_t text_field_count;
    const cps_record_text *texts;
} cps_record;

/* Writes one shard: create, append in order, finish (publishes atomically) or abandon. Same
 * records, same bytes: no clock, host or path enters. */
typedef struct cps_shard_writer cps_shard_writer;
cps_status cps_shard_writer_create(const char *path, const char *const *fields, int64_t field_count,
                                   const char *const *class_names, int64_t class_count,
                                   const char *made_by,
                                   cps_shard_writer **writer_out) CPS_MUST_CHECK;
cps_status cps_shard_writer_append(cps_shard_writer *writer,
                                   const cps_record *record) CPS_MUST_CHECK;
cps_status
cps_shard_writer_finish(cps_shard_writer *writer) CPS_MUST_CHECK; /* frees the writer in any case */
void cps_shard_writer_abandon(cps_shard_writer *writer);          /* NULL-safe */

/* Reads every byte: checksums, decodability of images not marked bad, UTF-8, offsets. DATA at the
 * first problem, naming record. */
cps_status cps_shard_verify(const char *path, int64_t *records_out) CPS_MUST_CHECK;

#endif
