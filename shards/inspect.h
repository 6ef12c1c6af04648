/* What a shard set holds, for people: schema, counts, lengths, labels, one record written out. */
#ifndef CPS_SHARDS_INSPECT_H
#define CPS_SHARDS_INSPECT_H

#include "base/json.h"
#include "shards/shard.h"

/* Facts over any number of shards as one JSON object (the caller destroys it):
 *   format, version, shards, records, image_bytes {total, least, mean, most}, bad {count, reasons:
 * [{reason, count}]}, made_by [..], digests [..], fields [{name, records, texts, per_record {least,
 * most}, characters {least, mean, most}, words {mean, most}, distinct}], labels {classes,
 * unlabelled, counts: [{name, count}]} or null, taxonomy (taxa.h) if there is a field of a rank,
 * formats {jpeg, png, other}, sides {least, median, most} of the pictures' shorter sides (headers
 * only). Local. */
cps_status cps_inspect(const char *const *paths, int64_t path_count,
                       cps_json **facts_out) CPS_MUST_CHECK;
/* The same as text for a terminal; malloc'ed. */
char *cps_inspect_text(const cps_json *facts);

/* Writes record `record` of the shard at `path` into `folder` (made if missing): the image under
 * its own extension, and record.json with id, label, reason and all texts. *image_path_out (may be
 * NULL) is malloc'ed. Local. */
cps_status cps_inspect_sample(const char *path, int64_t record, const char *folder,
                              char **image_path_out) CPS_MUST_CHECK;

/* Writes the pictures of the first `records` records (all with -1) that are not bad into `folder`
 * (made if missing), and captions.csv beside them: file,caption,label, one row a caption (one with
 * an empty caption where there is none). Local. */
cps_status cps_inspect_table(const char *path, int64_t records, const char *folder,
                             int64_t *written_out) CPS_MUST_CHECK;

#endif
