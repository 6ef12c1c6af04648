/* From the probabilities of one image's classes to what is reported: the best classes, the best
 * groups of classes (a group's score is the sum of its classes' probabilities). Pure functions on
 * arrays; sums are double, in the order of the classes. Local, safe on any thread. */
#ifndef CPS_EVAL_AGGREGATE_H
#define CPS_EVAL_AGGREGATE_H

#include "base/status.h"

/* A class or group and its score. */
typedef struct cps_ranked {
    double score;
    int64_t index;
} cps_ranked;

/* The min(k, count) highest values, descending; equal ones in the order of their indices. Returns
 * how many there are in best_out [k]. */
int64_t cps_rank_classes(const cps_real *values, int64_t count, int64_t k, cps_ranked *best_out);

/* Room for one image's sums, all zero between calls; one for each thread. */
typedef struct cps_group_room {
    int64_t groups;
    double *sums;     /* [groups] */
    int32_t *touched; /* [groups] groups that got something, in the order of their first class */
} cps_group_room;
cps_status cps_group_room_create(int64_t groups, cps_group_room *room_out) CPS_MUST_CHECK;
void cps_group_room_free(cps_group_room *room); /* safe on a zeroed one */

/* The k best groups of the classes whose probability is above min_prob (>= 0), descending; equal
 * ones in the order of their first such class. group_of [classes]: 0 .. room->groups - 1. Returns
 * how many there are in best_out [k]. */
int64_t cps_rank_groups(const cps_real *probabilities, int64_t classes, const int32_t *group_of,
                        double min_prob, int64_t k, cps_group_room *room, cps_ranked *best_out);
/* The same over all groups, those without any probability included; equal ones by number. */
int64_t cps_rank_all_groups(const cps_real *probabilities, int64_t classes, const int32_t *group_of,
                            int64_t k, cps_group_room *room, cps_ranked *best_out);

#endif
