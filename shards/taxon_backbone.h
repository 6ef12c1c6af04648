/* A backbone of names (published as NameUpgrader in the making of TreeOfLife-10M): which family a
 * species belongs to, which order a family, up to the kingdom; completes and corrects the ranks of
 * records. Local. A backbone has one owner while it is filled; upgrading is safe on several threads
 * after that. UNAVAILABLE: out of memory. */
#ifndef CPS_SHARDS_TAXON_BACKBONE_H
#define CPS_SHARDS_TAXON_BACKBONE_H

#include "shards/taxon.h"

typedef struct cps_taxon_backbone cps_taxon_backbone;

/* Holds no names but those that are known to stand for two ranks (collembola: class and order) and
 * one species that sources disagree on. */
cps_status cps_taxon_backbone_create(cps_taxon_backbone **backbone_out) CPS_MUST_CHECK;
void cps_taxon_backbone_destroy(cps_taxon_backbone *backbone); /* NULL-safe */

/* A row of a source: seven ranks as they stand there (NULL is ""), cleaned like those of a record.
 * A name keeps the parent that it was given first. Within the first source another parent is an
 * error; rows of later ones only add names. A source is everything added under one name in a row;
 * `line` is the row's place in it, for messages. DATA: names both rows. */
cps_status cps_taxon_backbone_add(cps_taxon_backbone *backbone, const char *source, int64_t line,
                                  const char *const ranks[CPS_TAXON_RANKS]) CPS_MUST_CHECK;
/* All rows of a CSV or TSV with a column for each rank (headers as `copse pack` knows them).
 * USAGE: columns missing; else as cps_table_read and cps_taxon_backbone_add. */
cps_status cps_taxon_backbone_load(cps_taxon_backbone *backbone, const char *path) CPS_MUST_CHECK;
/* Names with a parent. */
int64_t cps_taxon_backbone_names(const cps_taxon_backbone *backbone);

/* What upgrades did, added up by rank: values that replaced others, values where there was none. */
typedef struct cps_taxon_upgrades {
    int64_t changed[CPS_TAXON_RANKS], filled[CPS_TAXON_RANKS];
} cps_taxon_upgrades;

/* The rank whose value the first search for parents begins with: 0 .. 4, or CPS_TAXON_SPECIES for
 * genus and species together; the highest that is reached from there without a gap. */
int32_t cps_taxon_backbone_start(const cps_taxon *taxon);
/* The record with the ranks above its start as the backbone has them; where one of the seven is
 * empty after that, again from the next start below. `*taxon_out` is a new block: free() it; the
 * given one stays. `upgrades` is added to. */
cps_status cps_taxon_backbone_upgrade(const cps_taxon_backbone *backbone, const cps_taxon *taxon,
                                      cps_taxon_upgrades *upgrades,
                                      cps_taxon **taxon_out) CPS_MUST_CHECK;

#endif
