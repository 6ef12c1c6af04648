/* The shards of a plan. Files are read, tried and re-encoded by the pool in batches; records are
 * appended in order. */
#include "shards/pack_internal.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "h5/h5.h"
#include "image/image.h"
#include "shards/shard.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 64, DEFAULT_QUALITY = 90 };

/* ---- names
 * --------------------------------------------------------------------------------------------------------
 */

static const char *set_name(cps_pack_set set) {
    return set == CPS_PACK_TRAIN ? "train" : (set == CPS_PACK_VAL ? "val" : "data");
}

/* Everything in front of "-00000.h5", malloc'ed. */
static char *shard_stem(const char *out, cps_pack_set set) {
    const size_t length = strlen(out);
    if (out[length - 1] == '/' || cps_dir_exists(out)) {
        return cps_format("%s%s%s", out, out[length - 1] == '/' ? "" : "/", set_name(set));
    }
    const bool suffixed = length > 3 && strcmp(out + length - 3, ".h5") == 0;
    const int stem = (int)(suffixed ? length - 3 : length);
    return set == CPS_PACK_ALL ? cps_format("%.*s", stem, out)
                               : cps_format("%.*s-%s", stem, out, set_name(set));
}

static char *shard_path(const cps_packing *pack, const cps_pack_shard *shard) {
    char *stem = shard_stem(pack->options->out, shard->set);
    char *path = cps_format("%s-%05lld.h5", stem, (long long)shard->number);
    free(stem);
    return path;
}

static bool encodes_anew(const cps_pack_options *options) {
    return options->resize > 0 || options->quality > 0;
}

/* ", quality " says that pictures may have been encoded anew: cps_shard_knows_sources reads it. */
static char *shard_made_by(const cps_packing *pack, const cps_pack_shard *shard) {
    const cps_pack_options *options = pack->options;
    char quality[32] = "";
    if (encodes_anew(options)) {
        snprintf(quality, sizeof quality, ", quality %lld",
                 (long long)(options->quality > 0 ? options->quality : DEFAULT_QUALITY));
    }
    char resize[48] = "";
    if (options->resize > 0) {
        snprintf(resize, sizeof resize, ", resized to %lld", (long long)options->resize);
    }
    return cps_format("copse pack: plan %016llx, %s shard %lld%s%s",
                      (unsigned long long)pack->plan_hash, set_name(shard->set),
                      (long long)shard->number, resize, quality);
}

/* ---- what is there already
 * ---------------------------------------------------------------------------------------- */

/* How the file at `path` says it was made; NULL if it is no shard. malloc'ed. */
static char *made_by_of(const char *path) {
    cps_h5 *file = NULL;
    char *text = NULL;
    if (cps_h5_open_strict(path, &file) == CPS_OK) {
        if (cps_h5_read_text(file, "/", "made_by", &text) != CPS_OK) {
            text = NULL;
        }
        (void)!cps_h5_close(file);
    }
    return text;
}

static cps_status fail_other(const char *path) {
    return cps_fail(CPS_ERR_USAGE,
                    "pack: '%s' is there from another packing: choose another name for the shards, "
                    "or remove the old ones with --overwrite",
                    path);
}

static cps_status remove_old(const cps_packing *pack, const char *path) {
    if (!pack->options->overwrite) {
        return fail_other(path);
    }
    if (unlink(path) != 0) {
        return cps_fail(CPS_ERR_IO, "pack: cannot remove '%s': %s", path, strerror(errno));
    }
    return CPS_OK;
}

static cps_status check_existing(const cps_packing *pack, cps_pack_shard *shard) {
    cps_status status = CPS_OK;
    char *path = shard_path(pack, shard);
    if (cps_file_exists(path)) {
        char *want = shard_made_by(pack, shard);
        char *there = made_by_of(path);
        shard->keep = there != NULL && strcmp(want, there) == 0;
        status = shard->keep ? CPS_OK : remove_old(pack, path);
        free(there);
        free(want);
    }
    free(path);
    return status;
}

/* Is `name` "<stem>-<digits>.h5" with a number that the plan does not use? */
static bool is_stray(const cps_packing *pack, cps_pack_set set, const char *stem,
                     const char *name) {
    const size_t length = strlen(stem);
    if (strncmp(name, stem, length) != 0 || name[length] != '-') {
        return false;
    }
    const char *digits = name + length + 1;
    const size_t count = strspn(digits, "0123456789");
    if (count < 5 || count > 9 || strcmp(digits + count, ".h5") != 0) {
        return false;
    }
    const int64_t number = strtoll(digits, NULL, 10);
    for (int64_t s = 0; s < pack->shard_count; ++s) {
        if (pack->shards[s].set == set && pack->shards[s].number == number) {
            return false;
        }
    }
    return true;
}

/* Shards of a larger, earlier packing would be read together with ours. */
static cps_status check_strays(const cps_packing *pack, cps_pack_set set) {
    char *stem = shard_stem(pack->options->out, set);
    char *folder = cps_path_folder(stem);
    const char *slash = strrchr(stem, '/');
    DIR *listing = opendir(folder);
    cps_status status = CPS_OK;
    if (listing != NULL) {
        for (const struct dirent *entry = readdir(listing); entry != NULL && status == CPS_OK;
             entry = readdir(listing)) {
            if (is_stray(pack, set, slash != NULL ? slash + 1 : stem, entry->d_name)) {
                char *path = cps_path_join(folder, entry->d_name);
                status = remove_old(pack, path);
                free(path);
            }
        }
        closedir(listing);
    }
    free(folder);
    free(stem);
    return status;
}

/* Rank 0. */
static cps_status look_around(cps_packing *pack) {
    char *stem = shard_stem(pack->options->out, CPS_PACK_ALL);
    char *folder = cps_path_folder(stem);
    cps_status status = cps_dir_create(folder);
    free(folder);
    free(stem);
    for (int64_t s = 0; status == CPS_OK && s < pack->shard_count; ++s) {
        status = check_existing(pack, &pack->shards[s]);
    }
    for (int set = CPS_PACK_ALL; status == CPS_OK && set <= CPS_PACK_VAL; ++set) {
        status = check_strays(pack, (cps_pack_set)set);
    }
    return status;
}

/* ---- one picture
 * --------------------------------------------------------------------------------------------------
 */

typedef struct item {
    int64_t record;
    uint8_t *bytes;
    size_t length;
    uint64_t sample_id, source;
    char *reason; /* NULL: decodes */
    char *error;  /* the file cannot be read: ends the packing */
    cps_status status;
} item;

typedef struct batch {
    const cps_packing *pack;
    item items[BATCH];
} batch;

uint64_t cps_pack_sample_id(const char *file, const uint8_t *bytes, size_t length) {
    cps_hash *hash = cps_hash_create();
    cps_hash_add(hash, file, strlen(file) + 1);
    cps_hash_add(hash, bytes, length);
    const uint64_t id = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return id;
}

/* Size of the reduced picture: shorter side `side`. */
static void reduced_size(int32_t width, int32_t height, int32_t side, int32_t *width_out,
                         int32_t *height_out) {
    const int64_t shorter = width < height ? width : height;
    *width_out = (int32_t)cps_max_i64(1, ((int64_t)width * side + shorter / 2) / shorter);
    *height_out = (int32_t)cps_max_i64(1, ((int64_t)height * side + shorter / 2) / shorter);
}

/* Replaces the bytes by a smaller or anew encoded picture where asked. */
static cps_status encode_anew(const cps_pack_options *options, int32_t width, int32_t height,
                              bool reduce, item *one) {
    const int32_t quality = (int32_t)(options->quality > 0 ? options->quality : DEFAULT_QUALITY);
    int32_t to_width = width;
    int32_t to_height = height;
    if (reduce) {
        reduced_size(width, height, (int32_t)options->resize, &to_width, &to_height);
    }
    cps_image image = {0};
    /* The decoder may shrink to twice the size wanted at most; the rest is the filter's. */
    CPS_TRY(cps_image_decode(one->bytes, one->length, reduce ? 2 * to_width : 0,
                             reduce ? 2 * to_height : 0, &image));
    cps_image reduced = {0};
    uint8_t *bytes = NULL;
    size_t length = 0;
    cps_status status = CPS_OK;
    if (reduce) {
        status = cps_image_resize(&image, 0, 0, image.width, image.height, to_width, to_height,
                                  CPS_BICUBIC, &reduced);
    }
    if (status == CPS_OK) {
        status = cps_image_encode_jpeg(reduce ? &reduced : &image, quality, &bytes, &length);
    }
    cps_image_free(&reduced);
    cps_image_free(&image);
    CPS_TRY(status);
    free(one->bytes);
    one->bytes = bytes;
    one->length = length;
    return CPS_OK;
}

/* Tries the picture, re-encodes it if asked; a status other than OK becomes the record's reason. */
static cps_status try_picture(const cps_pack_options *options, item *one) {
    int32_t width = 0;
    int32_t height = 0;
    CPS_TRY(cps_image_size(one->bytes, one->length, &width, &height));
    const int32_t shorter = width < height ? width : height;
    const bool reduce = options->resize > 0 && shorter > options->resize;
    if (reduce || options->quality > 0) {
        return encode_anew(options, width, height, reduce, one);
    }
    cps_image image = {0};
    CPS_TRY(cps_image_decode(one->bytes, one->length, 0, 0, &image));
    cps_image_free(&image);
    return CPS_OK;
}

static void load_item(void *context, int64_t index) {
    batch *all = context;
    item *one = &all->items[index];
    const cps_plan *plan = &all->pack->plan;
    const cps_plan_record *record = cps_plan_record_at(plan, one->record);
    const char *file = cps_plan_string(plan, record->file);
    if (record->bytes > CPS_PACK_MAX_IMAGE_BYTES) {
        one->reason = cps_format("a file of %lld bytes, at most %lld are read",
                                 (long long)record->bytes, (long long)CPS_PACK_MAX_IMAGE_BYTES);
        one->sample_id = cps_pack_sample_id(file, NULL, 0);
        return;
    }
    char *path = cps_pack_path(plan, one->record);
    char *bytes = NULL;
    one->status = cps_file_read(path, (size_t)CPS_PACK_MAX_IMAGE_BYTES, &bytes, &one->length);
    free(path);
    if (one->status != CPS_OK) {
        one->error = cps_format("%s", cps_fail_message());
        return;
    }
    one->bytes = (uint8_t *)bytes;
    one->sample_id = cps_pack_sample_id(file, one->bytes, one->length);
    if (encodes_anew(all->pack->options)) {
        one->source = cps_hash64(one->bytes, one->length);
    }
    if (try_picture(all->pack->options, one) != CPS_OK) {
        one->reason = cps_format("%s", cps_fail_message());
    }
}

static void clear_items(batch *all) {
    for (int i = 0; i < BATCH; ++i) {
        free(all->items[i].bytes);
        free(all->items[i].reason);
        free(all->items[i].error);
        all->items[i] = (item){0};
    }
}

/* ---- one shard
 * ----------------------------------------------------------------------------------------------------
 */

/* What this rank has seen. */
typedef struct tally {
    int64_t written, kept, bad, image_bytes;
    char *examples; /* lines "shard record file: reason", numbers with leading zeros */
    int64_t example_count;
} tally;

static void note_bad(tally *counts, int64_t shard, int64_t record, const char *file,
                     const char *reason) {
    counts->bad += 1;
    if (counts->example_count < CPS_PACK_EXAMPLES) {
        char *longer = cps_format("%s%06lld %010lld %s: %s\n",
                                  counts->examples != NULL ? counts->examples : "",
                                  (long long)shard, (long long)record, file, reason);
        free(counts->examples);
        counts->examples = longer;
        counts->example_count += 1;
    }
}

/* Room for the texts of one record, grouped by field. */
typedef struct text_groups {
    cps_record_text *groups;
    const char **texts;
} text_groups;

static cps_status create_groups(const cps_plan *plan, text_groups *scratch) {
    int64_t most = 0;
    for (int64_t i = 0; i < plan->records.count; ++i) {
        most = cps_max_i64(most, cps_plan_record_at(plan, i)->text_count);
    }
    scratch->groups = calloc((size_t)plan->fields.count + 1, sizeof *scratch->groups);
    scratch->texts = calloc((size_t)most + 1, sizeof *scratch->texts);
    if (scratch->groups == NULL || scratch->texts == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for the texts of a record");
    }
    return CPS_OK;
}

static void free_groups(text_groups *scratch) {
    free(scratch->groups);
    free(scratch->texts);
}

static void group_texts(const cps_plan *plan, const cps_plan_record *record, text_groups *scratch) {
    const char **to = scratch->texts;
    for (int64_t f = 0; f < plan->fields.count; ++f) {
        scratch->groups[f] = (cps_record_text){.field = cps_plan_field_name(plan, f), .texts = to};
        for (int64_t k = 0; k < record->text_count; ++k) {
            const cps_plan_text *text = cps_plan_text_at(plan, record->first_text + k);
            if (text->field == f) {
                *to++ = cps_plan_string(plan, text->text);
                scratch->groups[f].count += 1;
            }
        }
    }
}

static cps_status append_item(const cps_packing *pack, const item *one, text_groups *scratch,
                              cps_shard_writer *writer) {
    if (one->status != CPS_OK) {
        return cps_fail(one->status, "pack: %s", one->error);
    }
    const cps_plan_record *planned = cps_plan_record_at(&pack->plan, one->record);
    group_texts(&pack->plan, planned, scratch);
    const cps_record record = {.sample_id = one->sample_id,
                               .image = one->bytes,
                               .image_bytes = one->bytes != NULL ? one->length : 0,
                               .source_checksum = one->source,
                               .bad_reason = one->reason,
                               .label = planned->label,
                               .text_field_count = pack->plan.fields.count,
                               .texts = scratch->groups};
    return cps_fail_context(cps_shard_writer_append(writer, &record), "'%s'",
                            cps_plan_string(&pack->plan, planned->file));
}

static cps_status create_writer(const cps_packing *pack, const cps_pack_shard *shard,
                                cps_shard_writer **writer_out) {
    const cps_plan *plan = &pack->plan;
    const char **names =
        malloc((size_t)(plan->fields.count + plan->classes.count + 1) * sizeof *names);
    if (names == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for names");
    }
    const char **classes = names + plan->fields.count;
    for (int64_t i = 0; i < plan->fields.count; ++i) {
        names[i] = cps_plan_field_name(plan, i);
    }
    for (int64_t i = 0; i < plan->classes.count; ++i) {
        classes[i] = cps_plan_class_name(plan, i);
    }
    char *path = shard_path(pack, shard);
    char *made_by = shard_made_by(pack, shard);
    const cps_status status = cps_shard_writer_create(path, names, plan->fields.count, classes,
                                                      plan->classes.count, made_by, writer_out);
    free(made_by);
    free(path);
    free(names);
    return status;
}

/* How far the round has come: `base` records before it, `share` records in it, this rank's as a
 * sample of all. */
typedef struct advance {
    int64_t base, share;
} advance;

void cps_pack_tell(const cps_packing *pack, const char *what, int64_t done, int64_t total) {
    cps_watchdog_beat(pack->comm);
    if (pack->options->progress != NULL && cps_comm_rank(pack->comm) == 0) {
        pack->options->progress(pack->options->progress_context, what, done, total);
    }
}

static void tell(const cps_packing *pack, const advance *at, int64_t done, int64_t of) {
    cps_pack_tell(pack, "packing", at->base + done * at->share / of, pack->order_count);
}

static cps_status write_records(const cps_packing *pack, int64_t number, const advance *at,
                                cps_shard_writer *writer, tally *counts) {
    const cps_pack_shard *shard = &pack->shards[number];
    text_groups scratch = {0};
    batch *all = calloc(1, sizeof *all);
    cps_status status = all != NULL ? create_groups(&pack->plan, &scratch)
                                    : cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory");
    for (int64_t i = 0; status == CPS_OK && i < shard->count; i += BATCH) {
        const int64_t n = cps_min_i64(BATCH, shard->count - i);
        all->pack = pack;
        for (int64_t k = 0; k < n; ++k) {
            all->items[k].record = pack->order[shard->first + i + k];
        }
        cps_parallel(n, load_item, all);
        for (int64_t k = 0; status == CPS_OK && k < n; ++k) {
            const item *one = &all->items[k];
            status = append_item(pack, one, &scratch, writer);
            counts->image_bytes += (int64_t)one->length;
            if (status == CPS_OK && one->reason != NULL) {
                const cps_plan_record *record = cps_plan_record_at(&pack->plan, one->record);
                note_bad(counts, number, i + k, cps_plan_string(&pack->plan, record->file),
                         one->reason);
            }
        }
        clear_items(all);
        tell(pack, at, i + n, shard->count);
    }
    free_groups(&scratch);
    free(all);
    return status;
}

static cps_status write_shard(const cps_packing *pack, int64_t number, const advance *at,
                              tally *counts) {
    cps_shard_writer *writer = NULL;
    CPS_TRY(create_writer(pack, &pack->shards[number], &writer));
    const cps_status status = write_records(pack, number, at, writer, counts);
    if (status != CPS_OK) {
        cps_shard_writer_abandon(writer);
        return status;
    }
    CPS_TRY(cps_shard_writer_finish(writer));
    counts->written += 1;
    return CPS_OK;
}

/* A shard of a former run counts as if it had been written now. */
static cps_status count_kept(const cps_packing *pack, int64_t number, tally *counts) {
    char *path = shard_path(pack, &pack->shards[number]);
    cps_shard *shard = NULL;
    const cps_status status = cps_shard_open(path, &shard);
    free(path);
    CPS_TRY(status);
    for (int64_t i = 0; i < cps_shard_count(shard); ++i) {
        const char *reason = cps_shard_bad_reason(shard, i);
        counts->image_bytes += cps_shard_image_bytes(shard, i);
        if (reason != NULL) {
            const int64_t field = cps_shard_field(shard, "file");
            note_bad(counts, number, i, field >= 0 ? cps_shard_text(shard, field, i, 0) : "?",
                     reason);
        }
    }
    cps_shard_close(shard);
    counts->kept += 1;
    return CPS_OK;
}

/* ---- all shards
 * ---------------------------------------------------------------------------------------------------
 */

/* Collective. Rank 0 looked; all learn which shards stay. */
static cps_status agree_on_kept(cps_packing *pack) {
    bool *keep = calloc((size_t)pack->shard_count, sizeof *keep);
    cps_status status = keep != NULL ? CPS_OK : cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory");
    if (status == CPS_OK && cps_comm_rank(pack->comm) == 0) {
        status = look_around(pack);
    }
    status = cps_agree(pack->comm, "pack: existing shards", status);
    if (status == CPS_OK) {
        for (int64_t s = 0; s < pack->shard_count; ++s) {
            keep[s] = pack->shards[s].keep;
        }
        cps_comm_broadcast(pack->comm, "pack: kept shards", keep,
                           (size_t)pack->shard_count * sizeof *keep, 0);
        for (int64_t s = 0; s < pack->shard_count; ++s) {
            pack->shards[s].keep = keep[s];
        }
    }
    free(keep);
    return status;
}

/* Collective. Round after round, one shard a rank; a failure anywhere ends all after the round. */
static cps_status write_rounds(cps_packing *pack, tally *counts) {
    const int64_t ranks = cps_comm_size(pack->comm);
    const int64_t rank = cps_comm_rank(pack->comm);
    advance at = {0};
    for (int64_t first = 0; first < pack->shard_count; first += ranks) {
        at.base += at.share;
        at.share = 0;
        for (int64_t s = first; s < cps_min_i64(first + ranks, pack->shard_count); ++s) {
            at.share += pack->shards[s].count;
        }
        cps_status status = CPS_OK;
        const int64_t own = first + rank;
        if (own < pack->shard_count) {
            status = pack->shards[own].keep ? count_kept(pack, own, counts)
                                            : write_shard(pack, own, &at, counts);
        }
        CPS_TRY(cps_agree(pack->comm, "pack: shards", status));
        tell(pack, &at, 1, 1);
    }
    return CPS_OK;
}

static int by_line(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The first examples over all ranks, by shard and record. */
static cps_status take_examples(char *text, cps_pack_report *report) {
    int64_t count = 0;
    for (const char *c = text; *c != '\0'; ++c) {
        count += *c == '\n';
    }
    char **lines = malloc(((size_t)count + 1) * sizeof *lines);
    if (lines == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for the report");
    }
    int64_t at = 0;
    char *rest = text;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL && at < count;
         line = strtok_r(NULL, "\n", &rest)) {
        lines[at++] = line;
    }
    qsort(lines, (size_t)at, sizeof *lines, by_line);
    const size_t numbers = 6 + 1 + 10 + 1;
    for (int64_t i = 0; i < at && i < CPS_PACK_EXAMPLES; ++i) {
        report->examples[i] = cps_format("%s", lines[i] + numbers);
        report->example_count = i + 1;
    }
    free(lines);
    return CPS_OK;
}

/* Collective. */
static cps_status gather_report(cps_packing *pack, const tally *counts, cps_pack_report *report) {
    const int32_t ranks = cps_comm_size(pack->comm);
    const int64_t length = counts->examples != NULL ? (int64_t)strlen(counts->examples) : 0;
    const int64_t own[5] = {counts->written, counts->kept, counts->bad, counts->image_bytes,
                            length};
    int64_t *all = calloc((size_t)ranks * 5, sizeof *all);
    int64_t *bytes = calloc((size_t)ranks, sizeof *bytes);
    cps_status status = all != NULL && bytes != NULL
                            ? CPS_OK
                            : cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for the report");
    status = cps_agree(pack->comm, "pack: report", status);
    char *text = NULL;
    if (status == CPS_OK) {
        int64_t total = 0;
        for (int32_t r = 0; r < ranks; ++r) {
            bytes[r] = (int64_t)sizeof own;
        }
        cps_comm_allgatherv(pack->comm, "pack: counts", own, all, bytes);
        for (int32_t r = 0; r < ranks; ++r) {
            const int64_t *theirs = all + 5 * (int64_t)r;
            report->shards_written += theirs[0];
            report->shards_kept += theirs[1];
            report->bad += theirs[2];
            report->image_bytes += theirs[3];
            bytes[r] = theirs[4];
            total += theirs[4];
        }
        text = calloc((size_t)total + 1, 1);
        status =
            text != NULL ? CPS_OK : cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for the report");
        status = cps_agree(pack->comm, "pack: report", status);
    }
    if (status == CPS_OK) {
        cps_comm_allgatherv(pack->comm, "pack: examples", counts->examples, text, bytes);
        status = cps_agree(pack->comm, "pack: report", take_examples(text, report));
    }
    free(text);
    free(bytes);
    free(all);
    return status;
}

cps_status cps_pack_write(cps_packing *pack, cps_pack_report *report) {
    tally counts = {0};
    cps_status status = agree_on_kept(pack);
    if (status == CPS_OK) {
        status = write_rounds(pack, &counts);
    }
    if (status == CPS_OK) {
        status = gather_report(pack, &counts, report);
    }
    free(counts.examples);
    return status;
}
