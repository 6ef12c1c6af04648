/* copse.shards { source = "train.csv" }: packed once below <runs>/shards, under a name that follows
 * from the text of its tables and how they are packed, so that every run, and every later one,
 * finds it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "comm/agree.h"
#include "shards/pack.h"
#include "shards/shard.h"
#include "train/run.h"

enum { MAX_TABLE = 1 << 30 };

struct cps_packed_set {
    const cps_shards_options *set;
    const char *const *patterns; /* one */
    struct cps_packed_set *next;
};

static cps_status add_file(cps_hash *hash, const char *path) {
    if (path == NULL) {
        return CPS_OK;
    }
    char *bytes = NULL;
    size_t length = 0;
    CPS_TRY(cps_file_read(path, MAX_TABLE, &bytes, &length));
    cps_hash_add(hash, bytes, length);
    free(bytes);
    return CPS_OK;
}

/* What only some sets say; nothing where it is not said. */
static cps_status add_more(cps_hash *hash, const cps_shards_options *set) {
    const char *const texts[] = {
        set->format != CPS_TABLE_PLAIN ? cps_table_formats[set->format] : NULL, set->root,
        set->class_captions, set->allow_missing ? "allow_missing" : NULL};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (texts[i] != NULL) {
            cps_hash_add(hash, &i, sizeof i);
            cps_hash_add(hash, texts[i], strlen(texts[i]) + 1);
        }
    }
    return cps_fail_context(add_file(hash, set->class_captions), "a set's class_captions");
}

/* "<runs>/shards/<stem>-<digest>": table's path and text, class list, format of shards, rules of
 * packing. */
static cps_status packed_folder(const cps_run *run, const cps_shards_options *set,
                                char **folder_out) {
    const int format[2] = {CPS_SHARD_FORMAT, CPS_PACK_RULES};
    if (cps_dir_exists(set->source)) {
        return cps_fail(CPS_ERR_USAGE,
                        "a set's source: '%s' is a folder, a CSV or TSV is wanted: pack the folder "
                        "with 'copse pack' and name its shards",
                        set->source);
    }
    cps_hash *hash = cps_hash_create();
    cps_hash_add(hash, set->source, strlen(set->source));
    cps_hash_add(hash, format, sizeof format);
    cps_hash_add(hash, set->caption, strlen(set->caption));
    cps_status status = cps_fail_context(add_file(hash, set->source), "a set's source");
    if (status == CPS_OK) {
        status = cps_fail_context(add_file(hash, set->classes), "a set's classes");
    }
    status = status != CPS_OK ? status : add_more(hash, set);
    const uint64_t digest = cps_hash_value(hash);
    cps_hash_destroy(hash);
    CPS_TRY(status);
    const char *slash = strrchr(set->source, '/');
    const char *stem = slash == NULL ? set->source : slash + 1;
    *folder_out = cps_format("%s/shards/%.*s-%016llx", run->options.runs, (int)strcspn(stem, "."),
                             stem, (unsigned long long)digest);
    return CPS_OK;
}

static void show_progress(void *context, const char *what, int64_t done, int64_t total) {
    char line[256];
    snprintf(line, sizeof line, "%s %s  %lld of %lld images", what, (const char *)context,
             (long long)done, (long long)total);
    cps_log_live(done == total ? "" : line);
}

static void tell(const cps_pack_report *report) {
    const struct {
        int64_t count;
        const char *what;
    } left_out[] = {
        {report->missing, "records are left out: their files are not there"},
        {report->agriclip.left_out, "rows of the caption file are left out: see 'copse pack'"},
        {report->without_class_captions, "records are of classes without captions"}};
    cps_log(CPS_LOG_INFO,
            "packed %lld records, %lld captions, %lld classes; %lld images do not decode",
            (long long)report->records, (long long)report->captions, (long long)report->classes,
            (long long)report->bad);
    for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++) {
        if (left_out[i].count > 0) {
            cps_log(CPS_LOG_WARN, "%lld %s", (long long)left_out[i].count, left_out[i].what);
        }
    }
}

static cps_status pack(cps_run *run, const cps_shards_options *set, const char *folder) {
    char *out = cps_format("%s/", folder);
    char *source = cps_format("%s", set->source);
    const cps_pack_options options = {
        .out = out,
        .sources = (const char *const *)&source,
        .source_count = 1,
        .caption_column = strcmp(set->caption, "caption") == 0 ? NULL : "",
        .caption_optional = true, /* a stream that reads captions says when there are none */
        .classes_file = set->classes,
        .format = set->format,
        .root = set->root,
        .class_captions = set->class_captions,
        .allow_missing = set->allow_missing,
        .overwrite = true,
        .progress = show_progress,
        .progress_context = source,
    };
    cps_pack_report report = {0};
    cps_log(CPS_LOG_INFO, "packing '%s' into '%s' (once)", set->source, folder);
    const cps_status status = cps_pack(run->comm, &options, &report);
    if (status == CPS_OK) {
        tell(&report);
    }
    cps_pack_report_free(&report);
    free(source);
    free(out);
    return status;
}

/* Packs unless the folder is complete. Collective, agreed. */
static cps_status pack_once(cps_run *run, const cps_shards_options *set, const char *folder) {
    char *marker = cps_format("%s/complete", folder);
    const bool rank0 = cps_comm_rank(run->comm) == 0;
    cps_status status = CPS_OK;
    if (!cps_agree_any(run->comm, "packing", rank0 && cps_file_exists(marker))) {
        status = cps_agree(run->comm, "packing", rank0 ? cps_dir_create(folder) : CPS_OK);
        status = status != CPS_OK ? status : pack(run, set, folder);
        status = status != CPS_OK
                     ? status
                     : cps_agree(run->comm, "packing",
                                 rank0 ? cps_file_write_atomic(marker, "packed\n", 7) : CPS_OK);
    }
    free(marker);
    return status;
}

static cps_status remember(cps_run *run, const cps_shards_options *set, const char *folder) {
    struct cps_packed_set *packed = cps_arena_alloc_zero(run->arena, sizeof *packed);
    const char **patterns = cps_arena_alloc_zero(run->arena, sizeof *patterns);
    char *pattern = cps_format("%s/data-*.h5", folder);
    char *kept = cps_arena_strdup(run->arena, pattern);
    free(pattern);
    if (packed == NULL || patterns == NULL || kept == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    patterns[0] = kept;
    *packed = (struct cps_packed_set){.set = set, .patterns = patterns, .next = run->packed};
    run->packed = packed;
    return CPS_OK;
}

static const struct cps_packed_set *find_packed(const cps_run *run, const cps_shards_options *set) {
    const struct cps_packed_set *at = run->packed;
    while (at != NULL && at->set != set) {
        at = at->next;
    }
    return at;
}

cps_status cps_run_packed(cps_run *run, const cps_shards_options *set,
                          const char *const **patterns_out, int64_t *count_out) {
    if (find_packed(run, set) == NULL) {
        char *folder = NULL;
        CPS_TRY(cps_agree(run->comm, "packing", packed_folder(run, set, &folder)));
        cps_status status = pack_once(run, set, folder);
        status =
            status != CPS_OK ? status : cps_agree(run->comm, "packing", remember(run, set, folder));
        free(folder);
        CPS_TRY(status);
    }
    *patterns_out = find_packed(run, set)->patterns;
    *count_out = 1;
    return CPS_OK;
}
