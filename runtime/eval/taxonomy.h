/* Places of organisms in the tree of life: paths down its seven ranks as numbers, so that nothing
 * compares strings per image. Local; one thread adds, any may ask afterwards. */
#ifndef CPS_EVAL_TAXONOMY_H
#define CPS_EVAL_TAXONOMY_H

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
/* Different paths at a rank; at the last rank: organisms. */
int64_t cps_taxonomy_paths(const cps_taxonomy *taxonomy, int32_t rank);
/* Path ids of an organism, one a rank [CPS_TAXON_RANKS]. Borrowed until the next addition. */
const int32_t *cps_taxonomy_path(const cps_taxonomy *taxonomy, int32_t organism);
/* Leading ranks that two paths share, 0 .. CPS_TAXON_RANKS. */
int32_t cps_taxonomy_shared_depth(const int32_t *path, const int32_t *other);

#endif
