/* Hold-out lists: species and files that are to stand in no training set. A list names them
 *   - line by line (.txt): "Pica hudsonia"; the ranks joined by blanks or by '-', kingdom first; a
 *     file, with or without folders; a lone word is a file without its ending, or a species with
 *     '_' for the blank;
 *   - in a table (.csv, .tsv): columns of ranks, or scientific_name, and of files;
 *   - in JSON: a list of such texts, or an object of species with their files, as the lists of
 *     BioCLIP's Rare Species are.
 * Species are compared as cleaned names (taxon.h): genus and epithet alone, since taxonomies differ
 * above; a record of a subspecies is one of its species. A record's names are those of its ranks,
 * its scientific_name and its label. Files are compared with their folders as far as both have
 * some; where no record has the same path, by their names alone.
 * Local. */
#ifndef CPS_SHARDS_HOLDOUT_H
#define CPS_SHARDS_HOLDOUT_H

#include "shards/plan.h"

/* What of a list counts. */
typedef enum cps_holdout_by {
    CPS_HOLDOUT_BOTH,
    CPS_HOLDOUT_SPECIES,
    CPS_HOLDOUT_FILE
} cps_holdout_by;

typedef struct cps_holdout cps_holdout;

cps_status cps_holdout_create(cps_holdout **holdout_out) CPS_MUST_CHECK;
void cps_holdout_destroy(cps_holdout *holdout); /* NULL-safe */
/* Adds what the file names; equal names are one. USAGE: it names nothing, or something that is
 * neither species nor file, with its place; DATA: no UTF-8, no JSON; UNAVAILABLE: no such file. */
cps_status cps_holdout_read(cps_holdout *holdout, const char *path,
                            cps_holdout_by by) CPS_MUST_CHECK;

typedef struct cps_holdout_counts {
    int64_t entries, unmatched;
    int64_t by_species, by_file; /* records; one that both name counts as the first */
} cps_holdout_counts;
/* Marks the records that an entry names as held out. Of a plan that is not finished. */
cps_status cps_holdout_apply(cps_holdout *holdout, cps_plan *plan,
                             cps_holdout_counts *counts_out) CPS_MUST_CHECK;
/* After that: the first ten entries that named no record, a line each, with the nearest name there
 * is; malloc'ed. */
cps_status cps_holdout_unmatched(const cps_holdout *holdout, const cps_plan *plan,
                                 char **lines_out) CPS_MUST_CHECK;

#endif
