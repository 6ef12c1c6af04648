/* Between holdout_read.c (what a list names) and holdout.c (which records that is). */
#ifndef CPS_SHARDS_HOLDOUT_INTERNAL_H
#define CPS_SHARDS_HOLDOUT_INTERNAL_H

#include "shards/holdout.h"

/* One name of a list. species: "pica hudsonia" or NULL; file: a path or NULL; not both NULL. A name
 * that is known is not added again. Strings are copied. */
cps_status cps_holdout_add(cps_holdout *holdout, const char *list, const char *text,
                           const char *species, const char *file) CPS_MUST_CHECK;

#endif
