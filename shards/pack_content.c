/* Records whose pictures are the same bytes, told by size and XXH3-64 of the source files: copies
 * of an earlier record, and pictures that stand in other shards. Every rank reads its share of the
 * files and of the other shards; all know all hashes then and decide alike. */
#include "shards/pack_internal.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "shards/shard.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH = 64 };

/* What is known of a picture's source. A file that is empty or too large to be read is like no
 * other: content 0. */
typedef struct content {
    uint64_t content;
    uint64_t sample_id; /* shards of former packers say no more */
} content;

/* ---- the files
 * ---------------------------------------------------------------------------------------------- */

typedef struct reading {
    const cps_packing *pack;
    int64_t first; /* record of items[0] */
    content *contents;
    struct {
        cps_status status;
        char *error;
    } items[BATCH];
} reading;

/* Held-out pictures are looked at for the sake of their copies. */
static bool is_wanted(const cps_packing *pack, const cps_plan_record *record) {
    return record->left_out == CPS_LEFT_NOT ||
           (pack->options->dedup && record->left_out == CPS_LEFT_HELD_OUT);
}

static void read_item(void *context, int64_t index) {
    reading *all = context;
    const int64_t number = all->first + index;
    const cps_plan_record *record = cps_plan_record_at(&all->pack->plan, number);
    if (!is_wanted(all->pack, record) || record->bytes <= 0 ||
        record->bytes > CPS_PACK_MAX_IMAGE_BYTES) {
        return;
    }
    char *path = cps_pack_path(&all->pack->plan, number);
    char *bytes = NULL;
    size_t length = 0;
    all->items[index].status =
        cps_file_read(path, (size_t)CPS_PACK_MAX_IMAGE_BYTES, &bytes, &length);
    free(path);
    if (all->items[index].status != CPS_OK) {
        all->items[index].error = cps_format("%s", cps_fail_message());
        return;
    }
    const char *file = cps_plan_string(&all->pack->plan, record->file);
    all->contents[number] =
        (content){.content = cps_hash64(bytes, length),
                  .sample_id = cps_pack_sample_id(file, (const uint8_t *)bytes, length)};
    free(bytes);
}

/* Records first .. end - 1. */
static cps_status read_run(const cps_packing *pack, int64_t first, int64_t end, content *contents) {
    cps_status status = CPS_OK;
    reading *all = calloc(1, sizeof *all);
    if (all == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory");
    }
    for (int64_t i = first; status == CPS_OK && i < end; i += BATCH) {
        const int64_t n = cps_min_i64(BATCH, end - i);
        *all = (reading){.pack = pack, .first = i, .contents = contents};
        cps_parallel(n, read_item, all);
        for (int64_t k = 0; k < n; ++k) {
            if (status == CPS_OK && all->items[k].status != CPS_OK) {
                status = cps_fail(all->items[k].status, "pack: %s", all->items[k].error);
            }
            free(all->items[k].error);
        }
        cps_pack_tell(pack, "comparing", (i + n - first) * pack->plan.records.count / (end - first),
                      pack->plan.records.count);
    }
    free(all);
    return status;
}

/* Collective. contents: one a record. */
static cps_status read_contents(const cps_packing *pack, content *contents) {
    const int64_t count = pack->plan.records.count;
    const int64_t ranks = cps_comm_size(pack->comm);
    const int64_t rank = cps_comm_rank(pack->comm);
    int64_t *bytes = malloc((size_t)ranks * sizeof *bytes);
    cps_status status =
        bytes != NULL ? CPS_OK : cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for the files");
    if (status == CPS_OK) {
        status = read_run(pack, rank * count / ranks, (rank + 1) * count / ranks, contents);
    }
    status = cps_agree(pack->comm, "pack: contents", status);
    if (status == CPS_OK) {
        for (int64_t r = 0; r < ranks; ++r) {
            bytes[r] = ((r + 1) * count / ranks - r * count / ranks) * (int64_t)sizeof *contents;
        }
        cps_comm_allgatherv_inplace(pack->comm, "pack: contents", contents, bytes);
    }
    free(bytes);
    return status;
}

/* ---- shards that are to share no picture
 * ---------------------------------------------------------------------------------------------- */

typedef struct hash_list {
    uint64_t *hashes;
    int64_t count, room;
} hash_list;

typedef struct excluded {
    hash_list contents;   /* of sources */
    hash_list sample_ids; /* of shards that do not know their sources */
} excluded;

static cps_status add_hash(hash_list *list, uint64_t hash) {
    if (list->count == list->room) {
        const int64_t room = list->room == 0 ? 1024 : 2 * list->room;
        uint64_t *hashes = realloc(list->hashes, (size_t)room * sizeof *hashes);
        if (hashes == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for the shards to exclude");
        }
        list->hashes = hashes;
        list->room = room;
    }
    list->hashes[list->count++] = hash;
    return CPS_OK;
}

static cps_status add_shard(const char *path, excluded *out) {
    cps_shard *shard = NULL;
    CPS_TRY(cps_fail_context(cps_shard_open(path, &shard), "--exclude"));
    const bool known = cps_shard_knows_sources(shard);
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < cps_shard_count(shard); ++i) {
        if (cps_shard_image_bytes(shard, i) == 0) {
            continue;
        }
        status = add_hash(&out->contents, cps_shard_source_checksum(shard, i));
        if (status == CPS_OK && !known) {
            status = add_hash(&out->sample_ids, cps_shard_sample_id(shard, i));
        }
    }
    cps_shard_close(shard);
    return status;
}

/* The shards that the options name: files, folders of .h5 files and patterns. One a line. */
static cps_status list_shards(const cps_pack_options *options, char **lines_out) {
    char *lines = cps_format("%s", "");
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < options->exclude_count; ++i) {
        const char *name = options->exclude[i];
        char *pattern = cps_dir_exists(name) ? cps_path_join(name, "*.h5") : cps_format("%s", name);
        char **paths = NULL;
        int64_t count = 0;
        status = cps_fail_context(cps_glob(pattern, &paths, &count), "--exclude");
        for (int64_t k = 0; k < count; ++k) {
            char *longer = cps_format("%s%s\n", lines, paths[k]);
            free(lines);
            lines = longer;
        }
        cps_strings_destroy(paths, count);
        free(pattern);
    }
    if (status != CPS_OK) {
        free(lines);
        return status;
    }
    *lines_out = lines;
    return CPS_OK;
}

/* Shard i is read by rank i mod R. */
static cps_status read_shards(const cps_packing *pack, char *lines, excluded *own) {
    int64_t number = 0;
    char *rest = lines;
    cps_status status = CPS_OK;
    for (char *path = strtok_r(lines, "\n", &rest); path != NULL && status == CPS_OK;
         path = strtok_r(NULL, "\n", &rest)) {
        if (number++ % cps_comm_size(pack->comm) == cps_comm_rank(pack->comm)) {
            status = add_shard(path, own);
        }
    }
    return status;
}

static int by_hash(const void *a, const void *b) {
    const uint64_t left = *(const uint64_t *)a;
    const uint64_t right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

/* Collective. All ranks' hashes, sorted, in place of the own ones. */
static cps_status gather_hashes(cps_comm *comm, hash_list *list) {
    const int32_t ranks = cps_comm_size(comm);
    int64_t *bytes = calloc((size_t)ranks, sizeof *bytes);
    int64_t *lengths = calloc((size_t)ranks, sizeof *lengths);
    hash_list all = {0};
    cps_status status = bytes != NULL && lengths != NULL
                            ? CPS_OK
                            : cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory");
    status = cps_agree(comm, "pack: excluded shards", status);
    if (status == CPS_OK) {
        const int64_t own = list->count * (int64_t)sizeof *list->hashes;
        for (int32_t r = 0; r < ranks; ++r) {
            bytes[r] = (int64_t)sizeof own;
        }
        cps_comm_allgatherv(comm, "pack: excluded shards", &own, lengths, bytes);
        for (int32_t r = 0; r < ranks; ++r) {
            all.count += lengths[r] / (int64_t)sizeof *all.hashes;
        }
        all.hashes = malloc(((size_t)all.count + 1) * sizeof *all.hashes);
        if (all.hashes == NULL) {
            status = cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for the shards to exclude");
        }
        status = cps_agree(comm, "pack: excluded shards", status);
    }
    if (status == CPS_OK) {
        cps_comm_allgatherv(comm, "pack: excluded shards", list->hashes, all.hashes, lengths);
        qsort(all.hashes, (size_t)all.count, sizeof *all.hashes, by_hash);
        free(list->hashes);
        *list = all;
    } else {
        free(all.hashes);
    }
    free(lengths);
    free(bytes);
    return status;
}

/* Collective. */
static cps_status read_excluded(const cps_packing *pack, excluded *out) {
    cps_comm *comm = pack->comm;
    char *lines = NULL;
    size_t length = 0;
    cps_status status = CPS_OK;
    if (cps_comm_rank(comm) == 0) {
        status = list_shards(pack->options, &lines);
        length = status == CPS_OK ? strlen(lines) + 1 : 0;
    }
    CPS_TRY(cps_agree(comm, "pack: excluded shards", status));
    void *bytes = lines;
    cps_comm_broadcast_alloc(comm, "pack: excluded shards", &bytes, &length, 0);
    status = read_shards(pack, bytes, out);
    free(bytes);
    CPS_TRY(cps_agree(comm, "pack: excluded shards", status));
    CPS_TRY(gather_hashes(comm, &out->contents));
    return gather_hashes(comm, &out->sample_ids);
}

static bool is_in(const hash_list *list, uint64_t hash) {
    return list->count > 0 &&
           bsearch(&hash, list->hashes, (size_t)list->count, sizeof *list->hashes, by_hash) != NULL;
}

static void leave_out_excluded(cps_plan *plan, const content *contents, const excluded *others,
                               cps_pack_report *report) {
    for (int64_t i = 0; i < plan->records.count; ++i) {
        cps_plan_record *record = cps_plan_record_at(plan, i);
        if (record->left_out == CPS_LEFT_NOT && contents[i].content != 0 &&
            (is_in(&others->contents, contents[i].content) ||
             is_in(&others->sample_ids, contents[i].sample_id))) {
            record->left_out = CPS_LEFT_EXCLUDED;
            report->excluded += 1;
        }
    }
}

/* ---- copies
 * ---------------------------------------------------------------------------------------------- */

typedef struct twin_key {
    uint64_t content;
    int64_t bytes, record;
} twin_key;

static int by_content(const void *a, const void *b) {
    const twin_key *left = a;
    const twin_key *right = b;
    if (left->content != right->content) {
        return left->content < right->content ? -1 : 1;
    }
    if (left->bytes != right->bytes) {
        return left->bytes < right->bytes ? -1 : 1;
    }
    return left->record < right->record ? -1 : left->record > right->record;
}

/* A run of equal pictures, in order of the records: the first is kept, or none where a held-out one
 * is among them. */
static void mark_run(cps_plan *plan, const twin_key *run, int64_t count, int64_t *first_of,
                     cps_pack_report *report) {
    int64_t first = -1;
    bool held = false;
    for (int64_t i = 0; i < count; ++i) {
        held = held || cps_plan_record_at(plan, run[i].record)->left_out == CPS_LEFT_HELD_OUT;
    }
    for (int64_t i = 0; i < count; ++i) {
        cps_plan_record *record = cps_plan_record_at(plan, run[i].record);
        if (record->left_out != CPS_LEFT_NOT) {
            continue;
        }
        if (held) {
            record->left_out = CPS_LEFT_HELD_COPY;
            report->held_out_copies += 1;
        } else if (first < 0) {
            first = run[i].record;
        } else {
            record->left_out = CPS_LEFT_COPY;
            first_of[run[i].record] = first;
            report->copies += 1;
        }
    }
}

/* first_of[record]: the record that stays in its place; -1 where it stays itself. */
static cps_status mark_copies(cps_plan *plan, const content *contents, int64_t *first_of,
                              cps_pack_report *report) {
    twin_key *keys = malloc(((size_t)plan->records.count + 1) * sizeof *keys);
    if (keys == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for %lld records",
                        (long long)plan->records.count);
    }
    int64_t count = 0;
    for (int64_t i = 0; i < plan->records.count; ++i) {
        first_of[i] = -1;
        if (contents[i].content != 0) {
            keys[count++] = (twin_key){.content = contents[i].content,
                                       .bytes = cps_plan_record_at(plan, i)->bytes,
                                       .record = i};
        }
    }
    qsort(keys, (size_t)count, sizeof *keys, by_content);
    for (int64_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && keys[end].content == keys[i].content &&
                          keys[end].bytes == keys[i].bytes;) {
            end += 1;
        }
        mark_run(plan, keys + i, end - i, first_of, report);
    }
    free(keys);
    return CPS_OK;
}

static const char *label_of(const cps_plan *plan, const cps_plan_record *record) {
    return record->label >= 0 ? cps_plan_class_name(plan, record->label) : "";
}

/* "copy.jpg = first.jpg (label 'b', kept is 'a')". */
static void note_pair(const cps_plan *plan, int64_t copy, int64_t first, bool alike,
                      cps_pack_report *report) {
    const cps_plan_record *gone = cps_plan_record_at(plan, copy);
    const cps_plan_record *kept = cps_plan_record_at(plan, first);
    const char *one = cps_plan_string(plan, gone->file);
    const char *other = cps_plan_string(plan, kept->file);
    char *line = NULL;
    if (gone->label != kept->label) {
        line = cps_format("%s = %s (label '%s', kept is '%s')", one, other, label_of(plan, gone),
                          label_of(plan, kept));
    } else {
        line = cps_format("%s = %s%s", one, other, alike ? "" : " (other texts)");
    }
    report->pairs[report->pair_count++] = line;
}

/* Captions of a copy that says the same otherwise go to the one that is kept. The pairs that differ
 * are told first. */
static cps_status settle_copies(cps_plan *plan, const int64_t *first_of, cps_pack_report *report) {
    const int64_t records = plan->records.count;
    bool *alike = calloc((size_t)records + 1, sizeof *alike);
    if (alike == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for %lld records",
                        (long long)records);
    }
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < records; ++i) {
        if (first_of[i] < 0) {
            continue;
        }
        const cps_plan_record *kept = cps_plan_record_at(plan, first_of[i]);
        const int64_t captions = kept->caption_count;
        alike[i] = cps_plan_is_alike(plan, first_of[i], i);
        status = alike[i] ? cps_plan_unite_captions(plan, first_of[i], i) : CPS_OK;
        report->copies_differ += !alike[i];
        report->united_captions += kept->caption_count - captions;
    }
    for (int pass = 0; status == CPS_OK && pass < 2; ++pass) {
        for (int64_t i = 0; i < records && report->pair_count < CPS_PACK_EXAMPLES; ++i) {
            if (first_of[i] >= 0 && alike[i] == (pass == 1)) {
                note_pair(plan, i, first_of[i], alike[i], report);
            }
        }
    }
    free(alike);
    return status;
}

static cps_status leave_out_copies(cps_plan *plan, const content *contents,
                                   cps_pack_report *report) {
    int64_t *first_of = malloc(((size_t)plan->records.count + 1) * sizeof *first_of);
    cps_status status =
        first_of != NULL ? CPS_OK : cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory");
    if (status == CPS_OK) {
        status = mark_copies(plan, contents, first_of, report);
    }
    if (status == CPS_OK) {
        status = settle_copies(plan, first_of, report);
    }
    free(first_of);
    return status;
}

/* ---- the whole
 * ---------------------------------------------------------------------------------------------- */

cps_status cps_pack_compare(cps_packing *pack, cps_pack_report *report) {
    const cps_pack_options *options = pack->options;
    if (!options->dedup && options->exclude_count == 0) {
        return CPS_OK;
    }
    excluded others = {0};
    content *contents = calloc((size_t)pack->plan.records.count, sizeof *contents);
    cps_status status = contents != NULL
                            ? CPS_OK
                            : cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for %lld records",
                                       (long long)pack->plan.records.count);
    status = cps_agree(pack->comm, "pack: contents", status);
    if (status == CPS_OK && options->exclude_count > 0) {
        status = read_excluded(pack, &others); /* first: a wrong path is seen at once */
    }
    if (status == CPS_OK) {
        status = read_contents(pack, contents);
    }
    if (status == CPS_OK) {
        leave_out_excluded(&pack->plan, contents, &others, report);
        report->excluded_unknown = others.sample_ids.count;
        status = options->dedup ? leave_out_copies(&pack->plan, contents, report) : CPS_OK;
        status = cps_agree(pack->comm, "pack: copies", status);
    }
    free(others.contents.hashes);
    free(others.sample_ids.hashes);
    free(contents);
    return status;
}
