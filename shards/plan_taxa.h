/* The organisms of a plan's records. */
#ifndef CPS_SHARDS_PLAN_TAXA_H
#define CPS_SHARDS_PLAN_TAXA_H

#include "shards/plan.h"
#include "shards/taxa.h"

/* Numbers of a plan's fields that tell of organisms; -1: it has none such. */
typedef struct cps_plan_ranks {
    int32_t ranks[CPS_TAXON_RANKS], common, scientific;
    bool any; /* of the ranks */
} cps_plan_ranks;

cps_plan_ranks cps_plan_find_ranks(const cps_plan *plan);
/* The first texts of a record. Borrowed until the plan grows. */
cps_taxon_fields cps_plan_taxon_fields(const cps_plan *plan, const cps_plan_ranks *ranks,
                                       int64_t record);
/* Sums up the records that are not left out. The examples have no texts. */
cps_status cps_plan_sum_up_taxa(const cps_plan *plan, cps_taxa_summary *summary_out) CPS_MUST_CHECK;

#endif
