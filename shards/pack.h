/* Folders and tables of images become shards. A source is
 *   - a table (.csv, .tsv): a header; a column of files, one of captions, one of labels, every
 * other column a text field; those of a taxonomy are known under several names (columns.h). Several
 * rows of one file become several captions of one record. Paths are relative to the table's folder;
 *   - a folder with name.jpg + name.txt: each line of the text is a caption;
 *   - a folder of class folders: class = name of the folder, those of iNaturalist 2021 give the
 * ranks as well; or a plain folder of images.
 * Record order is that of the sources; number, order and bytes of the shards depend on sources and
 * options alone, never on ranks. Images that do not decode stay as records with their reason.
 * Shards that a former, interrupted run of the same plan finished are kept. */
#ifndef CPS_SHARDS_PACK_H
#define CPS_SHARDS_PACK_H

#include "comm/comm.h"
#include "shards/plan_fill.h"
#include "shards/table_agriclip.h"
#include "shards/taxa.h"

/* How tables are written: as CSV or TSV, or as AgriCLIP's caption file (table_agriclip.h). */
typedef enum cps_table_format { CPS_TABLE_PLAIN, CPS_TABLE_AGRICLIP } cps_table_format;
extern const char *const cps_table_formats[]; /* names of these, then NULL */

typedef struct cps_pack_options {
    /* Shards are named OUT-00000.h5 ...; with split OUT-train-00000.h5 ... and OUT-val-00000.h5
     * ...; when OUT is a folder or ends with '/': OUT/data-00000.h5, OUT/train-..., OUT/val-... */
    const char *out;
    const char *const *sources;
    int64_t source_count;
    const char *file_column;    /* NULL: "file" */
    const char *caption_column; /* NULL: "caption"; "": the tables have no captions */
    bool caption_optional; /* a table without that column has none, unless one is named nearly so */
    const char *label_column;   /* NULL: "label" if there is one; "": none */
    int32_t format;             /* of tables: cps_table_format */
    const char *root;           /* NULL, or the folder that the tables' files are relative to */
    const char *class_captions; /* NULL, or a table of captions by class, which all records of the
                                   class get (plan.h) */
    const char *classes_file;   /* NULL, or one class a line: their order; else sorted by bytes */
    int32_t folders;            /* cps_plan_folders (plan.h): how class folders are named */
    bool allow_missing;         /* leave out records whose file is not there */
    int64_t shard_images;       /* records a shard; 0: 10000 */
    int64_t shard_mb; /* a shard ends before it exceeds this many MB (10^6 bytes) of source files;
                         0: no limit */
    int64_t resize;   /* 0: bytes as they come; else larger pictures get this shorter side */
    int32_t
        quality;  /* 0: bytes as they come (90 where resized); else every picture is encoded anew */
    double split; /* 0: none; else this fraction of the records becomes the validation set */
    uint64_t split_seed;
    bool overwrite; /* shards of another plan under the same names are removed; else they are an
                       error */
    bool dedup; /* of records with the same picture the first stays; captions of copies that differ
                   in nothing else go to it; copies of held-out pictures go, too */
    const char *const
        *backbone; /* tables that complete the ranks (plan_fill.h); the first governs */
    int64_t backbone_count;
    const char *const *common; /* tables of common names, for records without one */
    int64_t common_count;
    const char *const *hold_out; /* lists of species and files (holdout.h) that are left out */
    int64_t hold_out_count;
    int32_t hold_out_by;      /* cps_holdout_by */
    int32_t hold_out_missing; /* 0: a name without a record is an error; 1: a line of the report */
    const char *const *exclude; /* shards, folders of them, patterns: their pictures are left out */
    int64_t exclude_count;
    /* Rank 0; what: "comparing" or "packing"; records. May be NULL. */
    void (*progress)(void *context, const char *what, int64_t done, int64_t total);
    void *progress_context;
} cps_pack_options;

/* Rows over cps_pack_options (out, lists and progress aside); defaults as said above. */
extern const cps_option cps_pack_option_rows[];

/* CPS_PACK_RULES grows when the same sources make other records; what is kept by the digest of its
 * sources counts it in. */
enum { CPS_PACK_EXAMPLES = 10, CPS_PACK_RULES = 2 };

typedef struct cps_pack_report {
    int64_t records, train_records, val_records;
    int64_t captions;        /* texts, over all records */
    int64_t without_caption; /* records */
    int64_t classes, fields;
    int64_t inat21_folders;                   /* class folders that gave the ranks */
    cps_agriclip_facts agriclip;              /* lines malloc'ed */
    int64_t without_class_captions;           /* records whose class is not in class_captions */
    bool has_ranks;                           /* a source tells of ranks: */
    cps_taxa_summary taxa;                    /* of the records that are packed; without examples */
    cps_plan_filled filled;                   /* by the backbone; names 0: there was none */
    int64_t common_names;                     /* of the lists */
    int64_t common_given;                     /* records that got one */
    int64_t held_out_names;                   /* of the lists */
    int64_t held_out_unknown;                 /* of these: no record has them */
    char *held_out_lines;                     /* the first ten of those, one a line; NULL: none */
    int64_t held_out_species, held_out_files; /* records left out by name of species, of file */
    int64_t missing;                          /* left out */
    int64_t excluded;         /* left out: their pictures are in the shards to exclude */
    int64_t excluded_unknown; /* records of those shards that are known by sample id alone */
    int64_t copies;           /* left out */
    int64_t copies_differ;    /* of these: with another label or other texts */
    int64_t united_captions;  /* that kept records got from copies */
    int64_t held_out_copies;  /* left out */
    int64_t bad;              /* kept with a reason */
    int64_t shards_written, shards_kept;
    int64_t image_bytes;               /* in the shards */
    int64_t example_count;             /* the first bad records, in order of the shards */
    char *examples[CPS_PACK_EXAMPLES]; /* "file: reason" */
    int64_t pair_count;                /* the first copies, those that differ before others */
    char *pairs[CPS_PACK_EXAMPLES];    /* "file = file that is kept (what differs)" */
} cps_pack_report;

/* Collective. The same report on all ranks; free it with cps_pack_report_free. USAGE: options,
 * tables that do not fit, nothing to pack; UNAVAILABLE: sources or files that are not there; DATA:
 * texts that are not UTF-8; IO. Agreed. */
cps_status cps_pack(cps_comm *comm, const cps_pack_options *options,
                    cps_pack_report *report_out) CPS_MUST_CHECK;
void cps_pack_report_free(cps_pack_report *report);

#endif
