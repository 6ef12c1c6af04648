/* Completing a plan's records: ranks from a backbone of names, common names from lists. Of a plan
 * that is not finished. */
#ifndef CPS_SHARDS_PLAN_FILL_H
#define CPS_SHARDS_PLAN_FILL_H

#include "shards/plan.h"
#include "shards/taxon.h"

/* The field in which a record that was completed or corrected keeps its ranks as they came: seven,
 * joined by '|'. */
#define CPS_PLAN_RANKS_GIVEN "ranks_given"

typedef struct cps_plan_filled {
    int64_t names;                                             /* of the backbone */
    int64_t records;                                           /* that got other ranks */
    int64_t filled[CPS_TAXON_RANKS], changed[CPS_TAXON_RANKS]; /* records, by rank */
} cps_plan_filled;

/* Ranks above the genus become what the backbone says (taxon_backbone.h), where that differs from
 * the cleaned record; other texts stay. paths: tables, the first governs. USAGE: no record has a
 * field of a rank; what reading them says. */
cps_status cps_plan_fill_ranks(cps_plan *plan, const char *const *paths, int64_t count,
                               cps_plan_filled *filled_out) CPS_MUST_CHECK;

/* Gives a common name to the records that have none and whose species a table names: columns of
 * species (genus and species, or scientific_name) and of common_name; the first row counts.
 * *names_out: species with a common name in the tables; *records_out: records that got one. USAGE:
 * as above; a column is missing. */
cps_status cps_plan_fill_common(cps_plan *plan, const char *const *paths, int64_t count,
                                int64_t *names_out, int64_t *records_out) CPS_MUST_CHECK;

#endif
