/* Places of organisms in the tree of life: paths down its seven ranks as numbers, so that nothing
 * compares strings per image; what predictions are worth at each rank. Local but where it says
 * otherwise; one thread adds, any may ask afterwards. */
#ifndef CPS_EVAL_TAXONOMY_H
#define CPS_EVAL_TAXONOMY_H

#include "comm/comm.h"
#include "eval/score.h"
#include "shards/taxon.h"

/* Organisms told apart by their seven ranks. The path of an organism at rank k is what its ranks
 * 0 .. k say; two organisms have the same path id at rank k exactly when all of those are equal
 * (so homonyms under different parents stay apart), an empty rank being a value like any other. Ids
 * count from 0 at each rank, in the order in which their paths were added; an organism is its id at
 * the last rank. */
typedef struct cps_taxonomy cps_taxonomy;

cps_status cps_taxonomy_create(cps_taxonomy **taxonomy_out) CPS_MUST_CHECK;
void cps_taxonomy_destroy(cps_taxonomy *taxonomy); /* NULL-safe */
/* The organism of these ranks as they stand, NULL counting as "". UNAVAILABLE: memory, or more than
 * 2^31 organisms. */
cps_status cps_taxonomy_add(cps_taxonomy *taxonomy, const char *const ranks[CPS_TAXON_RANKS],
                            int32_t *organism_out) CPS_MUST_CHECK;
/* The organism of a record, its ranks cleaned (cps_taxon_clean); -1: it names none. What equal
 * records say is cleaned once. */
cps_status cps_taxonomy_add_record(cps_taxonomy *taxonomy, const cps_taxon_fields *fields,
                                   int32_t *organism_out) CPS_MUST_CHECK;
/* Different paths at a rank; at the last rank: organisms. */
int64_t cps_taxonomy_paths(const cps_taxonomy *taxonomy, int32_t rank);
/* Path ids of an organism, one a rank [CPS_TAXON_RANKS]. Borrowed until the next addition. */
const int32_t *cps_taxonomy_path(const cps_taxonomy *taxonomy, int32_t organism);
/* Leading ranks that two paths share, 0 .. CPS_TAXON_RANKS. */
int32_t cps_taxonomy_shared_depth(const int32_t *path, const int32_t *other);

/* ---- what predictions are worth ---- */

/* Counts over predictions whose truth has a path. */
typedef struct cps_rank_counts {
    int64_t samples;
    int64_t right[CPS_TAXON_RANKS]; /* ranks 0 .. k are all equal */
    int64_t depth;                  /* sum of the shared depths */
    int64_t wrong, distance; /* predictions of another class; over them, the sum of ranks that are
                                not shared */
} cps_rank_counts;
/* predicted NULL: a class that names no organism, which shares nothing. */
void cps_rank_counts_add(cps_rank_counts *counts, const int32_t *predicted, const int32_t *truth,
                         bool is_wrong);
/* Adds <prefix>rank_kingdom .. <prefix>rank_species (shares), <prefix>shared_depth (mean) and
 * <prefix>tree_distance (mean over the wrong ones, 0 where there are none); nothing without
 * samples. */
void cps_rank_counts_report(const cps_rank_counts *counts, const char *prefix, cps_json *metrics);

/* Collective. Probabilities of the classes, softmax(scale x score), are summed over the classes of
 * each path; right_out[k]: rows of `images` whose own path at rank k has the largest sum, of equal
 * ones the lowest id. organisms[classes->rows]: -1 gives to no path; truths[images->rows]: -1 does
 * not count. UNAVAILABLE: memory. */
cps_status cps_aggregate_ranks(cps_comm *comm, const cps_features *images,
                               const cps_features *classes, const double *weights, double scale,
                               const cps_taxonomy *taxonomy, const int32_t *organisms,
                               const int32_t *truths,
                               int64_t right_out[CPS_TAXON_RANKS]) CPS_MUST_CHECK;
/* Collective. Of `neighbours`, this rank's lists of bank rows: same_out[k] counts, over all ranks,
 * those whose path at rank k is the query's; *count_out all of them. Queries without organism do
 * not count; neighbours without one share nothing. */
void cps_rank_purity(cps_comm *comm, const cps_top_lists *neighbours, const cps_taxonomy *taxonomy,
                     const int32_t *query_organisms, const int32_t *bank_organisms,
                     int64_t same_out[CPS_TAXON_RANKS], int64_t *count_out);
/* Local. Most bytes that cps_aggregate_ranks takes on a rank. */
size_t cps_aggregate_bytes(int64_t rows, int64_t classes);

#endif
