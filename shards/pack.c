/* Packing: rank 0 reads the sources, all ranks look at their share of the files, then shard s is
 * written by rank s mod R. What a shard holds follows from the plan alone, so ranks change nothing
 * but the time. */
#include "shards/pack.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "shards/folder.h"
#include "shards/holdout.h"
#include "shards/pack_internal.h"
#include "shards/plan_taxa.h"
#include "shards/shard.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEFAULT_SHARD_IMAGES = 10000, MAX_SHARDS = 100000 };

const char *const cps_table_formats[] = {
    [CPS_TABLE_PLAIN] = "table", [CPS_TABLE_AGRICLIP] = "agriclip-captions", NULL};

#define AT(member) .offset = offsetof(cps_pack_options, member)
const cps_option cps_pack_option_rows[] = {
    {.name = "file_column",
     .kind = CPS_OPT_STRING,
     .help = "Column of a table that holds the image file, relative to the table (default: file).",
     AT(file_column)},
    {.name = "caption_column",
     .kind = CPS_OPT_STRING,
     .help = "Column with the caption; '' when the tables have none (default: caption).",
     AT(caption_column)},
    {.name = "label_column",
     .kind = CPS_OPT_STRING,
     .help = "Column with the class; '' for no labels (default: label, if there is one).",
     AT(label_column)},
    {.name = "format",
     .kind = CPS_OPT_CHOICE,
     .default_text = "table",
     .choices = cps_table_formats,
     .help = "How tables are written: table (CSV or TSV), agriclip-captions (the caption file that "
             "AgriCLIP's authors share; class folders are the labels).",
     AT(format)},
    {.name = "root",
     .kind = CPS_OPT_STRING,
     .help = "Folder that the files of tables are relative to (default: the table's).",
     AT(root)},
    {.name = "class_captions",
     .kind = CPS_OPT_STRING,
     .help = "Table of label and caption, several rows a class: all records of a class get its "
             "captions.",
     AT(class_captions)},
    {.name = "classes",
     .kind = CPS_OPT_STRING,
     .help = "File with one class a line: the order of the labels (default: sorted by name).",
     AT(classes_file)},
    {.name = "folders",
     .kind = CPS_OPT_CHOICE,
     .default_text = "auto",
     .choices = (const char *const[]){"auto", "plain", "inat21", NULL},
     .help = "Class folders named NNNNN_Kingdom_..._Genus_species give ranks: auto (if all are), "
             "inat21 (all must be), plain (names are labels).",
     AT(folders)},
    {.name = "allow_missing",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "Leave out records whose file is not there instead of stopping.",
     AT(allow_missing)},
    {.name = "shard_images",
     .kind = CPS_OPT_INTEGER,
     .default_text = "10000",
     .minimum = 1,
     .maximum = 100000000,
     .help = "Most records of one shard.",
     AT(shard_images)},
    {.name = "shard_mb",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 1000000,
     .help = "A shard ends before its source files exceed this many MB; 0: no limit.",
     AT(shard_mb)},
    {.name = "resize",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 16384,
     .help = "Shorter side in pixels that larger pictures are reduced to; 0: stored as they come.",
     AT(resize)},
    {.name = "quality",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 100,
     .help = "JPEG quality for encoding every picture anew; 0: only where resized, with 90.",
     AT(quality)},
    {.name = "split",
     .kind = CPS_OPT_NUMBER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 0.9,
     .help = "Fraction of the records that goes into validation shards; 0: none.",
     AT(split)},
    {.name = "split_seed",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 9007199254740992.0,
     .help = "Another seed, another choice of validation records.",
     AT(split_seed)},
    {.name = "hold_out_by",
     .kind = CPS_OPT_CHOICE,
     .default_text = "both",
     .choices = (const char *const[]){"both", "species", "file", NULL},
     .help = "What of the hold-out lists counts: both, names of species alone, of files alone.",
     AT(hold_out_by)},
    {.name = "hold_out_missing",
     .kind = CPS_OPT_CHOICE,
     .default_text = "error",
     .choices = (const char *const[]){"error", "allow", NULL},
     .help = "A name of a hold-out list that no record has: ends the packing (error), or is told "
             "(allow).",
     AT(hold_out_missing)},
    {.name = "dedup",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "Of records with the same picture, byte for byte, keep the first; reads all files "
             "before packing.",
     AT(dedup)},
    {.name = "overwrite",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "Remove shards of another packing under the same names.",
     AT(overwrite)},
    {.name = NULL}};
#undef AT

/* ---- options and sources
 * ------------------------------------------------------------------------------------------ */

static cps_status check_options(const cps_pack_options *options) {
    if (options->out == NULL || *options->out == '\0') {
        return cps_fail(CPS_ERR_USAGE, "pack: no name for the shards was given");
    }
    if (options->source_count < 1) {
        return cps_fail(CPS_ERR_USAGE, "pack: no source was given: name a table (.csv, .tsv) or a "
                                       "folder of images");
    }
    if (options->shard_images < 0 || options->shard_mb < 0 || options->resize < 0 ||
        options->resize > 16384) {
        return cps_fail(CPS_ERR_USAGE,
                        "pack: shard_images %lld, shard_mb %lld and resize %lld must "
                        "be 0 or more (resize at most 16384)",
                        (long long)options->shard_images, (long long)options->shard_mb,
                        (long long)options->resize);
    }
    if (options->root != NULL && !cps_dir_exists(options->root)) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "pack: the root '%s' is no folder: check the path",
                        options->root);
    }
    if (options->quality < 0 || options->quality > 100) {
        return cps_fail(CPS_ERR_USAGE, "pack: quality %lld is not between 1 and 100",
                        (long long)options->quality);
    }
    if (!(options->split >= 0 && options->split <= 0.9)) {
        return cps_fail(CPS_ERR_USAGE,
                        "pack: split %g is not between 0 and 0.9: it is the fraction "
                        "of the records for validation",
                        options->split);
    }
    return CPS_OK;
}

/* Names of the lists that no record has: an error, or lines of the report. */
static cps_status tell_unknown(const cps_pack_options *options, const cps_plan *plan,
                               const cps_holdout *list, cps_pack_report *report) {
    char *lines = NULL;
    CPS_TRY(cps_holdout_unmatched(list, plan, &lines));
    if (options->hold_out_missing != 0) {
        report->held_out_lines = lines;
        return CPS_OK;
    }
    const cps_status status =
        cps_fail(CPS_ERR_USAGE,
                 "pack: %lld of %lld names to hold out are those of no record:%s%s\n  Correct "
                 "them, or go on "
                 "without them with --hold-out-missing allow",
                 (long long)report->held_out_unknown, (long long)report->held_out_names, lines,
                 report->held_out_unknown > 10 ? "\n    ..." : "");
    free(lines);
    return status;
}

static cps_status hold_out(const cps_pack_options *options, cps_plan *plan,
                           cps_pack_report *report) {
    cps_holdout *list = NULL;
    cps_holdout_counts counts = {0};
    if (options->hold_out_count == 0) {
        return CPS_OK;
    }
    CPS_TRY(cps_holdout_create(&list));
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < options->hold_out_count; ++i) {
        status = cps_holdout_read(list, options->hold_out[i], (cps_holdout_by)options->hold_out_by);
    }
    if (status == CPS_OK) {
        status = cps_holdout_apply(list, plan, &counts);
    }
    if (status == CPS_OK) {
        report->held_out_names = counts.entries;
        report->held_out_unknown = counts.unmatched;
        report->held_out_species = counts.by_species;
        report->held_out_files = counts.by_file;
        status = counts.unmatched > 0 ? tell_unknown(options, plan, list, report) : CPS_OK;
    }
    cps_holdout_destroy(list);
    return status;
}

/* What is no table is not read as one. */
static cps_status check_source(const char *source) {
    if (strcasecmp(cps_name_ending(source), "h5") == 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "pack: the source '%s' is a shard; a source is a table or a folder (a "
                        "pattern of shards behind --exclude stands in quotes)",
                        source);
    }
    if (cps_is_image_name(source)) {
        return cps_fail(
            CPS_ERR_USAGE,
            "pack: the source '%s' is a picture: name its folder, or a table of pictures", source);
    }
    return CPS_OK;
}

static cps_status read_sources(const cps_pack_options *options, cps_plan *plan,
                               cps_pack_report *report) {
    const cps_plan_columns columns = {.file = options->file_column,
                                      .caption = options->caption_column,
                                      .caption_optional = options->caption_optional,
                                      .label = options->label_column,
                                      .root = options->root,
                                      .agriclip = options->format == CPS_TABLE_AGRICLIP};
    CPS_TRY(check_options(options));
    for (int64_t i = 0; i < options->source_count; ++i) {
        const char *source = options->sources[i];
        if (cps_dir_exists(source)) {
            int64_t inat21 = 0;
            CPS_TRY(cps_plan_add_folder(plan, source, (cps_plan_folders)options->folders, &inat21));
            report->inat21_folders += inat21;
        } else if (cps_file_exists(source)) {
            CPS_TRY(check_source(source));
            CPS_TRY(cps_plan_add_table(plan, source, &columns, &report->agriclip));
        } else {
            return cps_fail(CPS_ERR_UNAVAILABLE,
                            "pack: there is no file or folder '%s': check the path", source);
        }
    }
    if (options->class_captions != NULL) {
        CPS_TRY(cps_plan_add_class_captions(plan, options->class_captions,
                                            &report->without_class_captions));
    }
    if (options->backbone_count > 0) {
        CPS_TRY(
            cps_plan_fill_ranks(plan, options->backbone, options->backbone_count, &report->filled));
    }
    if (options->common_count > 0) {
        CPS_TRY(cps_plan_fill_common(plan, options->common, options->common_count,
                                     &report->common_names, &report->common_given));
    }
    CPS_TRY(hold_out(options, plan, report));
    return cps_plan_finish(plan, options->classes_file);
}

/* ---- sizes of files
 * -----------------------------------------------------------------------------------------------
 */

char *cps_pack_path(const cps_plan *plan, int64_t record) {
    const cps_plan_record *entry = cps_plan_record_at(plan, record);
    return cps_path_join(cps_plan_string(plan, entry->folder), cps_plan_string(plan, entry->file));
}

static int64_t file_bytes(const cps_plan *plan, int64_t record) {
    struct stat info;
    char *path = cps_pack_path(plan, record);
    const bool there = stat(path, &info) == 0 && S_ISREG(info.st_mode);
    free(path);
    return there ? (int64_t)info.st_size : -1;
}

/* Collective. Each rank asks for a run of the files. */
static cps_status measure_files(cps_comm *comm, cps_plan *plan) {
    const int64_t count = plan->records.count;
    const int32_t ranks = cps_comm_size(comm);
    int64_t *sizes = malloc((size_t)count * sizeof *sizes);
    int64_t *bytes = malloc((size_t)ranks * sizeof *bytes);
    cps_status status = CPS_OK;
    if (sizes == NULL || bytes == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for %lld files", (long long)count);
    }
    status = cps_agree(comm, "pack: files", status);
    if (status == CPS_OK) {
        const int64_t rank = cps_comm_rank(comm);
        for (int64_t i = rank * count / ranks; i < (rank + 1) * count / ranks; ++i) {
            sizes[i] = file_bytes(plan, i);
        }
        for (int64_t r = 0; r < ranks; ++r) {
            bytes[r] = ((r + 1) * count / ranks - r * count / ranks) * (int64_t)sizeof *sizes;
        }
        cps_comm_allgatherv_inplace(comm, "pack: file sizes", sizes, bytes);
        for (int64_t i = 0; i < count; ++i) {
            cps_plan_record_at(plan, i)->bytes = sizes[i];
        }
    }
    free(bytes);
    free(sizes);
    return status;
}

static int64_t count_kept(const cps_plan *plan) {
    int64_t kept = 0;
    for (int64_t i = 0; i < plan->records.count; ++i) {
        kept += cps_plan_record_at(plan, i)->left_out == CPS_LEFT_NOT;
    }
    return kept;
}

/* On all ranks alike. */
static cps_status check_missing(const cps_plan *plan, bool allowed, int64_t *missing_out) {
    int64_t missing = 0;
    char *list = cps_format("%s", "");
    for (int64_t i = 0; i < plan->records.count; ++i) {
        cps_plan_record *record = cps_plan_record_at(plan, i);
        if (record->left_out != CPS_LEFT_NOT || record->bytes >= 0) {
            continue;
        }
        record->left_out = CPS_LEFT_MISSING;
        missing += 1;
        if (missing <= 10) {
            char *path = cps_pack_path(plan, i);
            char *longer = cps_format("%s\n    %s", list, path);
            free(list);
            free(path);
            list = longer;
        }
    }
    cps_status status = CPS_OK;
    if (missing > 0 && !allowed) {
        status = cps_fail(CPS_ERR_UNAVAILABLE,
                          "pack: %lld of %lld image files are not there:%s%s\n  Correct the paths "
                          "(they are relative to the table), or leave these records out with "
                          "--allow-missing",
                          (long long)missing, (long long)plan->records.count, list,
                          missing > 10 ? "\n    ..." : "");
    } else if (missing > 0 && count_kept(plan) == 0) {
        status = cps_fail(CPS_ERR_UNAVAILABLE,
                          "pack: none of the %lld image files is there, the first is:%s",
                          (long long)missing, list);
    }
    free(list);
    *missing_out = missing;
    return status;
}

static cps_status check_left(const cps_plan *plan, const cps_pack_report *report) {
    if (count_kept(plan) > 0) {
        return CPS_OK;
    }
    return cps_fail(
        CPS_ERR_USAGE,
        "pack: no record is left of %lld: %lld are held out, the pictures of %lld are in "
        "the shards to exclude, those of %lld are copies of held-out ones, %lld files "
        "are missing",
        (long long)plan->records.count,
        (long long)(report->held_out_species + report->held_out_files), (long long)report->excluded,
        (long long)report->held_out_copies, (long long)report->missing);
}

/* ---- which record goes where
 * -------------------------------------------------------------------------------------- */

typedef struct split_key {
    uint64_t key;
    int64_t record;
} split_key;

static int by_key(const void *a, const void *b) {
    const split_key *left = a;
    const split_key *right = b;
    if (left->key != right->key) {
        return left->key < right->key ? -1 : 1;
    }
    return left->record < right->record ? -1 : left->record > right->record;
}

/* The validation set: the records with the smallest hashes of (seed, file name). Adding records
 * moves few others. */
static cps_status choose_validation(const cps_plan *plan, const cps_pack_options *options,
                                    bool *validation) {
    const int64_t kept = count_kept(plan);
    split_key *keys = malloc(((size_t)kept + 1) * sizeof *keys);
    if (keys == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for %lld records", (long long)kept);
    }
    int64_t count = 0;
    for (int64_t i = 0; i < plan->records.count; ++i) {
        const cps_plan_record *record = cps_plan_record_at(plan, i);
        if (record->left_out == CPS_LEFT_NOT) {
            const char *file = cps_plan_string(plan, record->file);
            cps_hash *hash = cps_hash_create();
            cps_hash_add(hash, &options->split_seed, sizeof options->split_seed);
            cps_hash_add(hash, file, strlen(file));
            keys[count++] = (split_key){.key = cps_hash_value(hash), .record = i};
            cps_hash_destroy(hash);
        }
    }
    qsort(keys, (size_t)count, sizeof *keys, by_key);
    int64_t chosen = (int64_t)nearbyint(options->split * (double)count);
    if (count >= 2) {
        chosen = cps_max_i64(1, cps_min_i64(chosen, count - 1));
    }
    for (int64_t i = 0; i < chosen; ++i) {
        validation[keys[i].record] = true;
    }
    free(keys);
    return CPS_OK;
}

static int64_t most_images(const cps_pack_options *options) {
    return options->shard_images > 0 ? options->shard_images : DEFAULT_SHARD_IMAGES;
}

/* Cuts one set into shards. */
static cps_status cut_shards(cps_packing *pack, const bool *validation, cps_pack_set set) {
    const cps_pack_options *options = pack->options;
    const int64_t most_bytes = options->shard_mb > 0 ? options->shard_mb * 1000000 : INT64_MAX;
    int64_t bytes = 0;
    int64_t number = 0;
    cps_pack_shard *shard = NULL;
    for (int64_t i = 0; i < pack->plan.records.count; ++i) {
        const cps_plan_record *record = cps_plan_record_at(&pack->plan, i);
        if (record->left_out != CPS_LEFT_NOT || validation[i] != (set == CPS_PACK_VAL)) {
            continue;
        }
        if (shard == NULL || shard->count == most_images(options) ||
            bytes > most_bytes - record->bytes) {
            if (pack->shard_count == MAX_SHARDS) {
                return cps_fail(CPS_ERR_USAGE,
                                "pack: more than %d shards: make them larger (--shard-images, "
                                "--shard-mb)",
                                (int)MAX_SHARDS);
            }
            shard = &pack->shards[pack->shard_count++];
            *shard = (cps_pack_shard){
                .set = set, .number = number++, .first = pack->order_count, .count = 0};
            bytes = 0;
        }
        pack->order[pack->order_count++] = i;
        shard->count += 1;
        bytes += record->bytes;
    }
    return CPS_OK;
}

static cps_status plan_shards(cps_packing *pack) {
    const int64_t records = pack->plan.records.count;
    bool *validation = calloc((size_t)records, sizeof *validation);
    pack->order = malloc((size_t)records * sizeof *pack->order);
    pack->shards = malloc((size_t)cps_min_i64(records, MAX_SHARDS) * sizeof *pack->shards);
    cps_status status = CPS_OK;
    if (validation == NULL || pack->order == NULL || pack->shards == NULL) {
        status =
            cps_fail(CPS_ERR_UNAVAILABLE, "pack: no memory for %lld records", (long long)records);
    }
    if (status == CPS_OK && pack->options->split > 0) {
        status = choose_validation(&pack->plan, pack->options, validation);
    }
    if (status == CPS_OK) {
        status =
            cut_shards(pack, validation, pack->options->split > 0 ? CPS_PACK_TRAIN : CPS_PACK_ALL);
    }
    if (status == CPS_OK && pack->options->split > 0) {
        status = cut_shards(pack, validation, CPS_PACK_VAL);
    }
    free(validation);
    return status;
}

static void hash_text(cps_hash *hash, const char *text) {
    cps_hash_add(hash, text, strlen(text) + 1);
}

/* What the bytes of the shards depend on, as far as it is known before they are read. */
static uint64_t hash_plan(const cps_packing *pack) {
    const cps_pack_options *options = pack->options;
    const cps_plan *plan = &pack->plan;
    const int64_t numbers[] = {options->resize, options->quality, most_images(options),
                               options->shard_mb};
    cps_hash *hash = cps_hash_create();
    hash_text(hash, "pack-1");
    cps_hash_add(hash, numbers, sizeof numbers);
    cps_hash_add(hash, &options->split, sizeof options->split);
    cps_hash_add(hash, &options->split_seed, sizeof options->split_seed);
    for (int64_t i = 0; i < plan->fields.count; ++i) {
        hash_text(hash, cps_plan_field_name(plan, i));
    }
    for (int64_t i = 0; i < plan->classes.count; ++i) {
        hash_text(hash, cps_plan_class_name(plan, i));
    }
    for (int64_t i = 0; i < plan->records.count; ++i) {
        const cps_plan_record *record = cps_plan_record_at(plan, i);
        const int64_t facts[] = {record->bytes, record->label, record->text_count};
        cps_hash_add(hash, facts, sizeof facts);
        if (record->left_out > CPS_LEFT_MISSING) {
            cps_hash_add(hash, &record->left_out, sizeof record->left_out);
        }
        for (int64_t k = 0; k < record->text_count; ++k) {
            const cps_plan_text *text = cps_plan_text_at(plan, record->first_text + k);
            cps_hash_add(hash, &text->field, sizeof text->field);
            hash_text(hash, cps_plan_string(plan, text->text));
        }
    }
    const uint64_t value = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return value;
}

/* ---- the whole
 * ----------------------------------------------------------------------------------------------------
 */

static void count_report(const cps_packing *pack, cps_pack_report *report) {
    const cps_plan *plan = &pack->plan;
    report->classes = plan->classes.count;
    report->fields = plan->fields.count;
    for (int64_t i = 0; i < plan->records.count; ++i) {
        const cps_plan_record *record = cps_plan_record_at(plan, i);
        if (record->left_out == CPS_LEFT_NOT) {
            report->records += 1;
            report->captions += record->caption_count;
            report->without_caption += record->caption_count == 0;
        }
    }
    for (int64_t s = 0; s < pack->shard_count; ++s) {
        if (pack->shards[s].set == CPS_PACK_VAL) {
            report->val_records += pack->shards[s].count;
        } else {
            report->train_records += pack->shards[s].count;
        }
    }
}

/* Collective. Rank 0 counts for all. */
static cps_status count_taxa(cps_packing *pack, cps_pack_report *report) {
    cps_status status = CPS_OK;
    report->has_ranks = cps_plan_find_ranks(&pack->plan).any;
    if (!report->has_ranks) {
        return CPS_OK;
    }
    if (cps_comm_rank(pack->comm) == 0) {
        status = cps_plan_sum_up_taxa(&pack->plan, &report->taxa);
    }
    CPS_TRY(cps_agree(pack->comm, "pack: organisms", status));
    cps_comm_broadcast(pack->comm, "pack: organisms", &report->taxa, sizeof report->taxa, 0);
    report->taxa.example_count = 0;
    return CPS_OK;
}

/* Collective. `own`: rank 0's text; *text holds rank 0's pointer on every rank, and then a copy of
 * each rank's own. */
static void share_lines(cps_comm *comm, char *own, char **text) {
    const bool told = *text != NULL;
    void *lines = own;
    size_t length = own != NULL ? strlen(own) + 1 : 0;
    *text = NULL;
    if (told) {
        cps_comm_broadcast_alloc(comm, "pack: facts", &lines, &length, 0);
        *text = lines;
    }
}

/* Collective. What rank 0 has found in the sources. */
static void share_report(cps_comm *comm, cps_pack_report *report) {
    char *held_out = report->held_out_lines, *agriclip = report->agriclip.lines;
    cps_comm_broadcast(comm, "pack: facts", report, sizeof *report, 0);
    share_lines(comm, held_out, &report->held_out_lines);
    share_lines(comm, agriclip, &report->agriclip.lines);
}

static cps_status prepare(cps_packing *pack, cps_pack_report *report) {
    cps_comm *comm = pack->comm;
    cps_status status = cps_plan_create(&pack->plan);
    if (status == CPS_OK && cps_comm_rank(comm) == 0) {
        status = read_sources(pack->options, &pack->plan, report);
    }
    CPS_TRY(cps_agree(comm, "pack: sources", status));
    share_report(comm, report);
    cps_plan_share(comm, &pack->plan);
    CPS_TRY(measure_files(comm, &pack->plan));
    status = check_missing(&pack->plan, pack->options->allow_missing, &report->missing);
    CPS_TRY(cps_agree(comm, "pack: missing files", status));
    CPS_TRY(cps_pack_compare(pack, report));
    CPS_TRY(cps_agree(comm, "pack: records", check_left(&pack->plan, report)));
    status = plan_shards(pack);
    CPS_TRY(cps_agree(comm, "pack: plan", status));
    pack->plan_hash = hash_plan(pack);
    count_report(pack, report);
    return count_taxa(pack, report);
}

cps_status cps_pack(cps_comm *comm, const cps_pack_options *options, cps_pack_report *report_out) {
    cps_packing pack = {.comm = comm, .options = options};
    cps_pack_report report = {0};
    cps_status status = prepare(&pack, &report);
    if (status == CPS_OK) {
        status = cps_pack_write(&pack, &report);
    }
    cps_plan_free(&pack.plan);
    free(pack.order);
    free(pack.shards);
    if (status != CPS_OK) {
        cps_pack_report_free(&report);
        return status;
    }
    *report_out = report;
    return CPS_OK;
}

void cps_pack_report_free(cps_pack_report *report) {
    for (int64_t i = 0; i < report->example_count; ++i) {
        free(report->examples[i]);
    }
    for (int64_t i = 0; i < report->pair_count; ++i) {
        free(report->pairs[i]);
    }
    free(report->held_out_lines);
    free(report->agriclip.lines);
    report->held_out_lines = report->agriclip.lines = NULL;
    report->example_count = report->pair_count = 0;
}
