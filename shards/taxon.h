/* Names of organisms as BioCLIP writes them (Stevens et al. 2024, arXiv:2311.18803): cleaning of a
 * record's ranks, training captions, evaluation strings, classes by taxonomy. The letters are those
 * that the published Python makes, Unicode included. Local; safe on any thread; no state. Texts are
 * UTF-8 (a malformed byte counts as U+FFFD); results are malloc'ed: free(). UNAVAILABLE: out of
 * memory. */
#ifndef CPS_SHARDS_TAXON_H
#define CPS_SHARDS_TAXON_H

#include "base/status.h"
#include "shards/shard.h"

enum { CPS_TAXON_RANKS = 7, CPS_TAXON_GENUS = 5, CPS_TAXON_SPECIES = 6 };
/* "kingdom", "phylum", "class", "order", "family", "genus", "species", NULL: also the names of the
 * text fields in shards. */
extern const char *const cps_taxon_rank_names[];
/* -1: no rank of that name ("cls" is "class"). */
int32_t cps_taxon_rank(const char *name);

/* What a record says; any may be NULL or "". `species` is the epithet. */
typedef struct cps_taxon_fields {
    const char *ranks[CPS_TAXON_RANKS];
    const char *common;
    const char *subspecies; /* evaluation strings alone */
    const char *as_is;      /* the class's own name: evaluation type "asis" */
    const char *scientific; /* the source's scientific name: texts of TreeOfLife-200M alone */
} cps_taxon_fields;
/* The fields of a record: the first texts of kingdom .. species, common_name, subspecies and
 * scientific_name, and the name of its class. Borrowed from the shard. */
cps_taxon_fields cps_taxon_fields_of(const cps_shard *shard, int64_t record);

/* A cleaned record: every rank lower-case, "" where unknown. One block of memory: free(). NULL in
 * *taxon_out: all ranks are empty, the record names no organism. */
typedef struct cps_taxon {
    const char *ranks[CPS_TAXON_RANKS];
    const char *common; /* as given, "" where none */
} cps_taxon;
cps_status cps_taxon_clean(const cps_taxon_fields *fields, cps_taxon **taxon_out) CPS_MUST_CHECK;
/* Bit k: rank k is known. */
uint32_t cps_taxon_known(const cps_taxon *taxon);

/* Two rules of the cleaning by themselves. Paired tags give way to what they enclose, until none is
 * left (texts above 10,000 bytes: while passes over the text add up to less than 64 MiB). A name
 * in lower case without tags, cut before brackets, subspecies, authorities, years and initials. */
cps_status cps_taxon_strip_html(const char *text, char **text_out) CPS_MUST_CHECK;
cps_status cps_taxon_clean_name(const char *name, char **name_out) CPS_MUST_CHECK;

/* A rank as captions show it: first letter upper-case and the rest lower-case, the epithet all
 * lower-case. */
cps_status cps_taxon_rank_text(const cps_taxon *taxon, int32_t rank,
                               char **text_out) CPS_MUST_CHECK;
/* The class of ranks 0 .. rank of a record: their texts one after another without separator, so
 * that homonyms under different parents stay apart; equal to the parent's where the rank is
 * unknown. */
cps_status cps_taxon_path(const cps_taxon *taxon, int32_t rank, char **text_out) CPS_MUST_CHECK;

/* Training texts. Types: "sci", "com", "taxon", "sci_com", "taxon_com", "taxonTag",
 * "taxonTag_com" (sentences), "scientific_name", "taxonomic_name", "common_name" (bare); upper and
 * lower case of a type's name mean the same. clean: where genus and species are unknown the most
 * specific known rank stands in for the scientific name, and "with common name ..." is left out
 * where there is none; else exactly as published. USAGE: unknown type, with the types there are. */
extern const char *const cps_taxon_types[]; /* the ten, then NULL */
cps_status cps_taxon_caption(const cps_taxon *taxon, const char *type, bool clean,
                             char **text_out) CPS_MUST_CHECK;

/* Evaluation strings, made of the fields as they stand: types "asis", "sci", "taxon", "com",
 * "sci_com", "taxon_com", without template. *text_out NULL: this record has no text of that type
 * ("com" of a record without common name is "", as published). USAGE: unknown type. */
extern const char *const cps_taxon_evaluation_types[]; /* the six, then NULL */
cps_status cps_taxon_evaluation_text(const cps_taxon_fields *fields, const char *type,
                                     char **text_out) CPS_MUST_CHECK;

/* Texts as those of TreeOfLife-200M were made (Gu et al. 2025, arXiv:2505.23883), of the fields as
 * they stand; `species` holds genus and epithet there, whose last word is the epithet. Types "sci",
 * "taxon", "taxonTag" (sentences), "scientific_name", "taxonomic_name" (bare). USAGE: unknown type.
 */
extern const char *const cps_taxon_tol200m_types[]; /* the five, then NULL */
cps_status cps_taxon_tol200m_text(const cps_taxon_fields *fields, const char *type,
                                  char **text_out) CPS_MUST_CHECK;
/* The last rank there that is neither empty nor "unknown" in any case; -1: none. */
int32_t cps_taxon_tol200m_rank(const cps_taxon_fields *fields);

#endif
