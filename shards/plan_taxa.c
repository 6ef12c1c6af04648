#include "shards/plan_taxa.h"

#include <string.h>

cps_plan_ranks cps_plan_find_ranks(const cps_plan *plan) {
    cps_plan_ranks ranks = {.common = cps_plan_field(plan, "common_name"),
                            .scientific = cps_plan_field(plan, "scientific_name")};
    for (int32_t k = 0; k < CPS_TAXON_RANKS; ++k) {
        ranks.ranks[k] = cps_plan_field(plan, cps_taxon_rank_names[k]);
        ranks.any = ranks.any || ranks.ranks[k] >= 0;
    }
    return ranks;
}

cps_taxon_fields cps_plan_taxon_fields(const cps_plan *plan, const cps_plan_ranks *ranks,
                                       int64_t record) {
    cps_taxon_fields fields = {.common = cps_plan_first_text(plan, record, ranks->common)};
    for (int32_t k = 0; k < CPS_TAXON_RANKS; ++k) {
        fields.ranks[k] = cps_plan_first_text(plan, record, ranks->ranks[k]);
    }
    return fields;
}

cps_status cps_plan_sum_up_taxa(const cps_plan *plan, cps_taxa_summary *summary_out) {
    const cps_plan_ranks ranks = cps_plan_find_ranks(plan);
    cps_taxa *taxa = NULL;
    CPS_TRY(cps_taxa_create(&taxa));
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < plan->records.count; ++i) {
        if (cps_plan_record_at(plan, i)->left_out == CPS_LEFT_NOT) {
            const cps_taxon_fields fields = cps_plan_taxon_fields(plan, &ranks, i);
            status = cps_taxa_add(taxa, &fields, NULL);
        }
    }
    if (status == CPS_OK) {
        status = cps_taxa_sum_up(taxa, summary_out);
    }
    if (status == CPS_OK) {
        memset(summary_out->examples, 0, sizeof summary_out->examples); /* their texts end here */
        summary_out->example_count = 0;
    }
    cps_taxa_destroy(taxa);
    return status;
}
