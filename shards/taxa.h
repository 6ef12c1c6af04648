/* The organisms of many records: what equal records say is cleaned once, counted, and summed up for
 * reports. Local. */
#ifndef CPS_SHARDS_TAXA_H
#define CPS_SHARDS_TAXA_H

#include "base/json.h"
#include "shards/taxon.h"

typedef struct cps_taxa cps_taxa;

cps_status cps_taxa_create(cps_taxa **taxa_out) CPS_MUST_CHECK;
void cps_taxa_destroy(cps_taxa *taxa); /* NULL-safe */
/* One more record that says `fields` (ranks and common name count). *number_out, which may be NULL:
 * the number of what it says, from 0 in first-seen order. UNAVAILABLE: no memory. */
cps_status cps_taxa_add(cps_taxa *taxa, const cps_taxon_fields *fields,
                        int64_t *number_out) CPS_MUST_CHECK;
int64_t cps_taxa_count(const cps_taxa *taxa);
/* What it says, cleaned; NULL: it names no organism. Borrowed until the end of `taxa`. */
const cps_taxon *cps_taxa_at(const cps_taxa *taxa, int64_t number);

/* A name at two places of the tree: "genus morus: family moraceae, family sulidae". Places are
 * compared at the lowest rank above the name that both know; a species' genus belongs to its name.
 */
typedef struct cps_homonym {
    int32_t rank, parent_rank;
    const char *genus; /* of a species, else "" */
    const char *name, *parents[2];
} cps_homonym;
enum { CPS_TAXA_HOMONYMS = 10 };

typedef struct cps_taxa_summary {
    int64_t records;
    int64_t known[CPS_TAXON_RANKS + 1]; /* records with that many known ranks */
    int64_t lowest[CPS_TAXON_RANKS];    /* records whose lowest known rank it is */
    int64_t gaps;                       /* records that do not know a rank above their lowest one */
    int64_t several_words;              /* records with an epithet of several words */
    int64_t without_common;             /* records that name an organism, but not commonly */
    int64_t distinct[CPS_TAXON_RANKS];  /* names; of species with their genus */
    int64_t homonyms;                   /* names */
    int64_t example_count;
    cps_homonym examples[CPS_TAXA_HOMONYMS]; /* the first by rank and name; texts borrowed */
} cps_taxa_summary;
cps_status cps_taxa_sum_up(const cps_taxa *taxa, cps_taxa_summary *summary_out) CPS_MUST_CHECK;

/* The summary of inspect: {records, known: [8], gaps, several_words, without_common, ranks: [{name,
 * distinct, lowest}], homonyms: {count, examples: [text]}} under `key` of `parent`, and that as
 * lines for a terminal, malloc'ed. */
void cps_taxa_put(const cps_taxa_summary *summary, cps_json *parent, const char *key);
char *cps_taxa_text(const cps_json *taxonomy);

#endif
