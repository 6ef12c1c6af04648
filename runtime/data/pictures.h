/* Pictures as files, for commands that read them where they lie instead of from shards: which ones
 * there are, and what a tower sees of them. */
#ifndef CPS_DATA_PICTURES_H
#define CPS_DATA_PICTURES_H

#include <stdio.h>

#include "comm/comm.h"
#include "data/augment.h"

/* Paths in the order in which they were added; one that was added twice is there twice.
 * Zero-initialise. */
typedef struct cps_picture_list {
    char **paths;
    int64_t count, room;
    int64_t passed_over; /* pictures in folders of kinds that are not read (gif, webp, ...) */
} cps_picture_list;

void cps_picture_list_free(cps_picture_list *list); /* safe on a zeroed one */
/* Local. A folder stands for the JPEG and PNG files in and below it, sorted by bytes; anything else
 * for itself, whether it is there or not. USAGE: a folder without any; IO: cannot be listed. */
cps_status cps_picture_list_add(cps_picture_list *list, const char *path) CPS_MUST_CHECK;
/* Local. A path a line, as it stands; empty lines are passed over. `name` stands in messages. */
cps_status cps_picture_list_read(cps_picture_list *list, FILE *lines,
                                 const char *name) CPS_MUST_CHECK;
/* Collective. Rank 0's list reaches all. */
cps_status cps_picture_list_share(cps_picture_list *list, cps_comm *comm) CPS_MUST_CHECK;

enum { CPS_PICTURE_REASON = 160 };
/* Local; on the pool. Reads `count` files, applies an evaluation recipe, writes planes_out
 * [count, 3, size, size]. reasons_out[i] is "" where the picture was read; else it says why not,
 * and the planes are zeros. */
void cps_pictures_read(const char *const *paths, int64_t count, const cps_recipe *recipe,
                       cps_real *planes_out, char (*reasons_out)[CPS_PICTURE_REASON]);

#endif
