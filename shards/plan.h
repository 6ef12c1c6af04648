/* What is to be packed: records with their files, texts and labels, read from tables and folders on
 * rank 0 and then known to all ranks. Flat arrays, so that sharing is sending bytes. Strings are
 * offsets into one pool. */
#ifndef CPS_SHARDS_PLAN_H
#define CPS_SHARDS_PLAN_H

#include "comm/comm.h"
#include "shards/table_agriclip.h"

typedef struct cps_plan_text {
    int64_t text; /* pool */
    int64_t next; /* the record's next text, -1: none */
    int32_t field, unused;
} cps_plan_text;

/* Why a record does not come into the shards. */
typedef enum cps_plan_left {
    CPS_LEFT_NOT,
    CPS_LEFT_MISSING,  /* no such file */
    CPS_LEFT_HELD_OUT, /* named by a hold-out list */
    CPS_LEFT_EXCLUDED, /* its picture is in shards that are to share none */
    CPS_LEFT_COPY,     /* the same picture as an earlier record's */
    CPS_LEFT_HELD_COPY /* the same picture as a held-out record's */
} cps_plan_left;

typedef struct cps_plan_record {
    int64_t folder,
        file;      /* pool: the file is <folder>/<file>; `file` alone names it in the shard */
    int64_t bytes; /* of the file; -1: not measured, or missing */
    int64_t first_text, text_count;
    int64_t last_text, label_name; /* while the plan is made */
    int32_t label;                 /* -1: none */
    int32_t caption_count;
    int32_t left_out, unused; /* cps_plan_left */
} cps_plan_record;

/* A growing array of plain elements. */
typedef struct cps_plan_array {
    void *data;
    int64_t count, room;
} cps_plan_array;

typedef struct cps_plan {
    cps_plan_array pool;    /* char */
    cps_plan_array records; /* cps_plan_record */
    cps_plan_array texts;   /* cps_plan_text, those of a record in a run once finished */
    cps_plan_array fields;  /* int64_t: names; 0 is "file", 1 is "caption" */
    cps_plan_array classes; /* int64_t: names, by label */
} cps_plan;

typedef struct cps_plan_columns {
    const char *file, *caption, *label; /* as in cps_pack_options */
    bool caption_optional;
    const char *root; /* files are relative to this folder; NULL: to the table's */
    bool agriclip;    /* AgriCLIP's caption file (table_agriclip.h) */
} cps_plan_columns;

cps_status cps_plan_create(cps_plan *plan_out) CPS_MUST_CHECK;
void cps_plan_free(cps_plan *plan);
/* facts_out: of AgriCLIP's files, added up; its lines are replaced by the last file's. */
cps_status cps_plan_add_table(cps_plan *plan, const char *path, const cps_plan_columns *columns,
                              cps_agriclip_facts *facts_out) CPS_MUST_CHECK;
/* Captions by class: a table with columns `label` (or `class`) and `caption`, any number of rows a
 * class. Every record that is labelled so gets all of them, behind its own. Of a plan that is not
 * finished. *without_out: records with a label that the table has not. USAGE: other columns, a row
 * without one of the two, a label that no record has, all with the line. */
cps_status cps_plan_add_class_captions(cps_plan *plan, const char *path,
                                       int64_t *without_out) CPS_MUST_CHECK;
/* How the names of class folders are read. */
typedef enum cps_plan_folders {
    CPS_FOLDERS_AUTO,  /* as iNat21's if every class folder is named that way, else plainly */
    CPS_FOLDERS_PLAIN, /* the name is the label */
    CPS_FOLDERS_INAT21 /* NNNNN_Kingdom_Phylum_Class_Order_Family_Genus_species: ranks; the label
                          is "Genus species" */
} cps_plan_folders;
/* *inat21_out: class folders whose names were read as iNat21's. */
cps_status cps_plan_add_folder(cps_plan *plan, const char *path, cps_plan_folders folders,
                               int64_t *inat21_out) CPS_MUST_CHECK;
/* Puts the texts of each record into a run and numbers the labels of those that are not left out:
 * by the lines of `classes_file`, else sorted. USAGE when there are no records. */
cps_status cps_plan_finish(cps_plan *plan, const char *classes_file) CPS_MUST_CHECK;
/* Collective. Rank 0's plan reaches all. */
void cps_plan_share(cps_comm *comm, cps_plan *plan);
/* Of a finished plan: do two records say the same but for file and captions? unite: `to` gets the
 * captions of `from` that it does not have. */
bool cps_plan_is_alike(const cps_plan *plan, int64_t a, int64_t b);
cps_status cps_plan_unite_captions(cps_plan *plan, int64_t to, int64_t from) CPS_MUST_CHECK;

const char *cps_plan_string(const cps_plan *plan, int64_t at);
cps_plan_record *cps_plan_record_at(const cps_plan *plan, int64_t record);
const cps_plan_text *cps_plan_text_at(const cps_plan *plan, int64_t text);
/* The first text of a field; NULL: it has none (or the field is -1). */
const char *cps_plan_first_text(const cps_plan *plan, int64_t record, int32_t field);
const char *cps_plan_field_name(const cps_plan *plan, int64_t field);
const char *cps_plan_class_name(const cps_plan *plan, int64_t label);

/* For those who fill a plan. add_record: *record_out is its number. */
cps_status cps_plan_intern(cps_plan *plan, const char *text, int64_t *at_out) CPS_MUST_CHECK;
cps_status cps_plan_add_record(cps_plan *plan, int64_t folder, const char *file,
                               int64_t *record_out) CPS_MUST_CHECK;
/* Blank text is none. In fields other than the caption an equal text is added once. */
cps_status cps_plan_add_text(cps_plan *plan, int64_t record, int32_t field,
                             const char *text) CPS_MUST_CHECK;
/* The text at `at` of the pool (not blank), behind what is there. */
cps_status cps_plan_link_text(cps_plan *plan, int64_t record, int32_t field,
                              int64_t at) CPS_MUST_CHECK;
/* The text at `at` of the pool (not blank) in place of the first one of a field, or as its first.
 * Of a plan that is not finished. */
cps_status cps_plan_set_text(cps_plan *plan, int64_t record, int32_t field,
                             int64_t at) CPS_MUST_CHECK;
/* Number of the field `name`: -1 if there is none; made if it is new. */
int32_t cps_plan_field(const cps_plan *plan, const char *name);
cps_status cps_plan_add_field(cps_plan *plan, const char *name, int32_t *field_out) CPS_MUST_CHECK;
enum { CPS_PLAN_FILE = 0, CPS_PLAN_CAPTION = 1 };

#endif
