/* pack and inspect. */
#include "main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"
#include "base/log.h"
#include "shards/inspect.h"
#include "shards/pack.h"
#include "train/checkpoint.h"

/* ---- inspect ---- */

static cps_status inspect_safetensors(const char *path) {
    cps_safetensors *file = NULL;
    CPS_TRY(cps_safetensors_open(path, &file));
    int64_t elements = 0;
    printf("%s: safetensors, %lld tensors\n", path, (long long)cps_safetensors_count(file));
    for (int64_t i = 0; i < cps_safetensors_count(file); i++) {
        const cps_safetensor *tensor = cps_safetensors_at(file, i);
        printf("  %-64s %-5s [", tensor->name, tensor->dtype);
        for (int32_t d = 0; d < tensor->rank; d++) {
            printf("%s%lld", d > 0 ? ", " : "", (long long)tensor->shape[d]);
        }
        puts("]");
        elements += tensor->count;
    }
    printf("  %lld elements in all\n", (long long)elements);
    cps_safetensors_close(file);
    return CPS_OK;
}

const cps_flag cps_inspect_flags[] = {
    {"sample", 0, "RECORD", "writes this record of a shard (picture and record.json) into --out"},
    {"table", 0, "FOLDER",
     "writes pictures of a shard and captions.csv into FOLDER, as 'pack' reads them"},
    {"records", 0, "N", "how many for --table (default: all)"},
    {"out", 'o', "FOLDER", "for --sample (default: .)"},
    {"json", 0, NULL, "facts of shards as JSON"},
    {NULL, 0, NULL, NULL},
};

static cps_status inspect_shards(const char *const *paths, int64_t count, bool as_json) {
    cps_json *facts = NULL;
    CPS_TRY(cps_inspect(paths, count, &facts));
    char *text = as_json ? cps_json_print(facts, true, false) : cps_inspect_text(facts);
    fputs(text, stdout);
    if (text[0] != '\0' && text[strlen(text) - 1] != '\n') {
        putchar('\n');
    }
    free(text);
    cps_json_destroy(facts);
    return CPS_OK;
}

static cps_status write_sample(const cps_args *args, const char *path) {
    const char *folder = cps_args_has(args, "out") ? cps_args_get(args, "out") : ".";
    int64_t record = 0;
    char *image = NULL;
    CPS_TRY(cps_args_integer(args, "sample", 0, INT64_MAX, &record));
    CPS_TRY(cps_inspect_sample(path, record, folder, &image));
    printf("%s\n%s/record.json\n", image != NULL ? image : "(no picture)", folder);
    free(image);
    return CPS_OK;
}

static cps_status write_table(const cps_args *args, const char *path) {
    const char *folder = cps_args_get(args, "table");
    int64_t records = -1, written = 0;
    CPS_TRY(cps_args_integer(args, "records", 1, INT64_MAX, &records));
    CPS_TRY(cps_inspect_table(path, records, folder, &written));
    printf("%s/captions.csv: %lld pictures\n", folder, (long long)written);
    return CPS_OK;
}

/* Checkpoints and safetensors files one by one, all shards together at the end. */
static cps_status inspect_all(const cps_args *args, const char **shards) {
    int64_t shard_count = 0;
    for (int32_t i = 0; i < cps_args_count(args); i++) {
        const char *path = cps_args_at(args, i);
        cps_main_file kind = CPS_FILE_OTHER;
        CPS_TRY(cps_main_sniff(path, &kind));
        if (kind == CPS_FILE_SAFETENSORS) {
            CPS_TRY(inspect_safetensors(path));
        } else if (kind == CPS_FILE_HDF5 && cps_is_checkpoint(path)) {
            CPS_TRY(cps_checkpoint_inspect(path, stdout));
        } else if (kind == CPS_FILE_HDF5) {
            shards[shard_count++] = path;
        } else {
            return cps_fail(CPS_ERR_DATA,
                            "'%s' is neither a shard nor a checkpoint nor a safetensors file",
                            path);
        }
    }
    return shard_count > 0 ? inspect_shards(shards, shard_count, cps_args_has(args, "json"))
                           : CPS_OK;
}

cps_status cps_command_inspect(const cps_app *app) {
    const cps_args *args = app->args;
    const bool sample = cps_args_has(args, "sample"), table = cps_args_has(args, "table");
    if ((sample || table) && cps_args_count(args) != 1) {
        return cps_fail(CPS_ERR_USAGE,
                        "copse inspect: --sample and --table want one shard, %d files are given",
                        cps_args_count(args));
    }
    if (sample || table) {
        return sample ? write_sample(args, cps_args_at(args, 0))
                      : write_table(args, cps_args_at(args, 0));
    }
    const char **shards = calloc((size_t)cps_args_count(args) + 1, sizeof *shards);
    if (shards == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory");
    }
    const cps_status status = inspect_all(args, shards);
    free(shards);
    return status;
}

/* ---- pack ---- */

const cps_flag cps_pack_flags[] = {
    {"backbone", 0, "FILE",
     "completes and corrects ranks by this table of the seven ranks; may be repeated, the first "
     "governs"},
    {"common", 0, "FILE",
     "gives common names to records without one: a table of scientific_name and common_name; may "
     "be repeated"},
    {"hold-out", 0, "FILE",
     "leaves out the species and files that this list names (.txt, .csv, .json); each name must be "
     "some record's; may be repeated"},
    {"exclude", 0, "SHARDS",
     "leaves out pictures that are in these shards (a file, a folder, a pattern in quotes); may be "
     "repeated"},
    {NULL, 0, NULL, NULL},
};

static void show_packed(void *context, const char *what, int64_t done, int64_t total) {
    (void)context;
    char line[80];
    snprintf(line, sizeof line, "%s %lld/%lld records", what, (long long)done, (long long)total);
    cps_log_live(line);
}

static void print_taxa(const cps_pack_report *report) {
    const cps_taxa_summary *taxa = &report->taxa;
    if (taxa->known[0] == taxa->records) {
        puts("  no record has a rank: the columns of ranks are empty");
        return;
    }
    printf("  known ranks:");
    for (int32_t k = CPS_TAXON_RANKS; k > 0; k--) {
        if (taxa->known[k] > 0) {
            printf(" %d in %lld records,", k, (long long)taxa->known[k]);
        }
    }
    printf(" none in %lld; no common name in %lld\n", (long long)taxa->known[0],
           (long long)taxa->without_common);
    printf("  lowest known rank:");
    const char *comma = "";
    for (int32_t k = CPS_TAXON_RANKS - 1; k >= 0; k--) {
        if (taxa->lowest[k] > 0) {
            printf("%s %s in %lld records", comma, cps_taxon_rank_names[k],
                   (long long)taxa->lowest[k]);
            comma = ",";
        }
    }
    printf("; %lld names at two places of the tree%s\n", (long long)taxa->homonyms,
           taxa->homonyms > 0 ? " ('copse inspect' shows them)" : "");
    const int32_t class_rank = cps_taxon_rank("class");
    if (report->classes == 0 && taxa->lowest[class_rank] == taxa->records - taxa->known[0] &&
        taxa->known[1] == taxa->records - taxa->known[0]) {
        printf("  of all ranks only the class is known: if that column is the label, name it with "
               "--label-column\n");
    }
}

static void print_held_out(const cps_pack_report *report) {
    if (report->held_out_names > 0) {
        printf("  %lld records are held out by species and %lld by file, %lld names in the lists\n",
               (long long)report->held_out_species, (long long)report->held_out_files,
               (long long)report->held_out_names);
    }
    if (report->held_out_lines != NULL) {
        printf("  warning: %lld of these names are those of no record:%s%s\n",
               (long long)report->held_out_unknown, report->held_out_lines,
               report->held_out_unknown > 10 ? "\n    ..." : "");
    }
    if (report->held_out_copies > 0) {
        printf("  %lld records are left out: their pictures are copies of held-out ones\n",
               (long long)report->held_out_copies);
    }
}

static void print_captions(const cps_pack_report *report) {
    const cps_agriclip_facts *facts = &report->agriclip;
    if (facts->rows > 0) {
        printf("  AgriCLIP's caption file: %lld rows, %lld with letters put right, %lld outside of "
               "Crops, Fish and Livestock\n",
               (long long)facts->rows, (long long)facts->repaired, (long long)facts->strangers);
    }
    if (facts->left_out > 0) {
        printf("  warning: %lld rows of it are left out:%s%s\n", (long long)facts->left_out,
               facts->lines, facts->left_out > 10 ? "\n    ..." : "");
    }
    if (report->without_class_captions > 0) {
        printf("  warning: %lld records are of classes that have no captions in the table of "
               "classes\n",
               (long long)report->without_class_captions);
    }
}

static void print_filled(const cps_pack_report *report) {
    const cps_plan_filled *filled = &report->filled;
    if (filled->names > 0) {
        printf("  %lld records of the sources got ranks from the backbone's %lld names:",
               (long long)filled->records, (long long)filled->names);
        const char *comma = "";
        for (int32_t k = 0; k < CPS_TAXON_GENUS; k++) {
            if (filled->filled[k] > 0) {
                printf("%s %s filled in %lld", comma, cps_taxon_rank_names[k],
                       (long long)filled->filled[k]);
                comma = ",";
            }
            if (filled->changed[k] > 0) {
                printf("%s %s changed in %lld", comma, cps_taxon_rank_names[k],
                       (long long)filled->changed[k]);
                comma = ",";
            }
        }
        printf("%s\n", filled->records > 0 ? "; what they had is in the field " CPS_PLAN_RANKS_GIVEN
                                           : " all had them");
    }
    if (report->common_names > 0) {
        printf("  %lld records of the sources got a common name from a list of %lld\n",
               (long long)report->common_given, (long long)report->common_names);
    }
}

static void print_left_out(const cps_pack_report *report) {
    print_held_out(report);
    if (report->excluded > 0) {
        printf("  %lld records are left out: their pictures are in the shards to exclude\n",
               (long long)report->excluded);
    }
    if (report->excluded_unknown > 0) {
        printf("  %lld pictures of those shards were encoded anew by a former version: they are "
               "found only under the same file name (pack them again to be sure)\n",
               (long long)report->excluded_unknown);
    }
    if (report->copies > 0) {
        printf("  %lld records are left out: their pictures are copies of others'; %lld captions "
               "went to the one that is kept, %lld differ in label or texts, which are dropped:\n",
               (long long)report->copies, (long long)report->united_captions,
               (long long)report->copies_differ);
    }
    for (int64_t i = 0; i < report->pair_count; i++) {
        printf("    %s\n", report->pairs[i]);
    }
}

static void print_pack_report(const char *out, const cps_pack_report *report) {
    printf("%s: %lld records in %lld shards (%lld of them there already), %.1f MB of pictures\n",
           out, (long long)report->records,
           (long long)(report->shards_written + report->shards_kept),
           (long long)report->shards_kept, (double)report->image_bytes / 1e6);
    printf("  %lld captions, %lld records without one; %lld classes; %lld text fields\n",
           (long long)report->captions, (long long)report->without_caption,
           (long long)report->classes, (long long)report->fields);
    if (report->val_records > 0) {
        printf("  %lld records to train on, %lld to validate\n", (long long)report->train_records,
               (long long)report->val_records);
    }
    if (report->inat21_folders > 0) {
        printf("  %lld class folders are named as iNaturalist 2021's: ranks and labels are taken "
               "from the names (--folders plain takes the names as labels)\n",
               (long long)report->inat21_folders);
    }
    print_captions(report);
    print_filled(report);
    if (report->has_ranks) {
        print_taxa(report);
    }
    if (report->missing > 0) {
        printf("  %lld files are missing: their records are left out\n",
               (long long)report->missing);
    }
    print_left_out(report);
    if (report->bad > 0) {
        printf("  %lld pictures cannot be read; they are kept with the reason, and replaced in "
               "training:\n",
               (long long)report->bad);
    }
    for (int64_t i = 0; i < report->example_count; i++) {
        printf("    %s\n", report->examples[i]);
    }
}

/* The values of an option that may be repeated, in the arena; borrowed from args. */
static cps_status list_values(const cps_args *args, const char *flag, cps_arena *arena,
                              const char ***values_out, int64_t *count_out) {
    int32_t count = 0;
    while (cps_args_get_at(args, flag, count) != NULL) {
        count += 1;
    }
    const char **values = cps_arena_alloc_zero(arena, ((size_t)count + 1) * sizeof *values);
    if (values == NULL) {
        return CPS_ERR_UNAVAILABLE; /* on record by the arena */
    }
    for (int32_t i = 0; i < count; i++) {
        values[i] = cps_args_get_at(args, flag, i);
    }
    *values_out = values;
    *count_out = count;
    return CPS_OK;
}

static cps_status run_pack(const cps_app *app, cps_pack_options *options, cps_arena *arena,
                           cps_pack_report *report) {
    const char *out = cps_args_at(app->args, 0);
    const int32_t count = cps_args_count(app->args) - 1;
    const char **sources = cps_arena_alloc_zero(arena, (size_t)count * sizeof *sources);
    const char **exclude = NULL, **hold_out = NULL, **backbone = NULL, **common = NULL;
    if (sources == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    for (int32_t i = 0; i < count; i++) {
        sources[i] = cps_args_at(app->args, i + 1);
    }
    CPS_TRY(cps_args_fill(app->args, arena, options));
    CPS_TRY(list_values(app->args, "backbone", arena, &backbone, &options->backbone_count));
    CPS_TRY(list_values(app->args, "common", arena, &common, &options->common_count));
    CPS_TRY(list_values(app->args, "exclude", arena, &exclude, &options->exclude_count));
    CPS_TRY(list_values(app->args, "hold-out", arena, &hold_out, &options->hold_out_count));
    options->out = out;
    options->sources = sources;
    options->source_count = count;
    options->backbone = backbone;
    options->common = common;
    options->exclude = exclude;
    options->hold_out = hold_out;
    options->progress = show_packed;
    const cps_status status = cps_pack(app->comm, options, report);
    cps_log_live("");
    return status;
}

cps_status cps_command_pack(const cps_app *app) {
    cps_pack_options options = {.out = NULL};
    cps_pack_report report = {.records = 0};
    cps_arena *arena = NULL;
    cps_status status = cps_arena_create("command line", 65536, true, &arena);
    if (status == CPS_OK) {
        status = run_pack(app, &options, arena, &report);
    }
    if (status == CPS_OK && cps_comm_rank(app->comm) == 0) {
        print_pack_report(options.out, &report);
    }
    cps_pack_report_free(&report);
    cps_arena_destroy(arena);
    return status;
}
