/* What people's tables say about classes: bins of labels, subsets of taxa. Local. */
#ifndef CPS_EVAL_CHOICES_H
#define CPS_EVAL_CHOICES_H

#include "eval/classifier.h"

/* Bins: groups of labels, numbered in the order of their first label. */
typedef struct cps_bins {
    cps_class_names names; /* of the bins, as labels */
    cps_class_groups groups;
    int64_t classes, room;
} cps_bins;
void cps_bins_init(cps_bins *bins_out);
void cps_bins_free(cps_bins *bins); /* safe on a zeroed one */
/* The bin of the next class; a name that is there already is that bin. UNAVAILABLE: memory. */
cps_status cps_bins_add(cps_bins *bins, const char *bin) CPS_MUST_CHECK;
/* A table with a header: class, bin. *labels without classes become those of the table, in its
 * order; otherwise each of them must have its line, and further lines are passed over. USAGE: a
 * blank class or bin, a class in two lines, a label without one (the first ten are named). */
cps_status cps_bins_read(const char *path, cps_class_names *labels,
                         cps_bins *bins_out) CPS_MUST_CHECK;

/* The taxa that a table chooses: its first header names a rank, the column below holds values of
 * that rank (of species: genus and epithet). chosen_out: malloc'ed indices, ascending. USAGE: the
 * header is no rank, values that no taxon has (the first ten are named), no value. */
cps_status cps_subset_read(const char *path, const cps_class_names *names, int64_t **chosen_out,
                           int64_t *count_out) CPS_MUST_CHECK;

#endif
