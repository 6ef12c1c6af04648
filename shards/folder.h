/* Which pictures lie in a folder and below it, by the endings of their names. Names beginning with
 * a dot are passed over. Local. */
#ifndef CPS_SHARDS_FOLDER_H
#define CPS_SHARDS_FOLDER_H

#include "base/status.h"

typedef struct cps_folder {
    char **images; /* relative to the folder, sorted by bytes */
    int64_t image_count;
    int64_t room;
    int64_t texts, others; /* .txt files; files that are neither */
} cps_folder;

/* Whether the name ends as pictures do, also of kinds that are not read: those are better reported
 * than lost. */
bool cps_is_image_name(const char *name);
/* The ending without its dot, inside `name`; "" if there is none. */
const char *cps_name_ending(const char *name);
/* Links are followed, dangling ones passed over. IO: a folder cannot be listed; USAGE: more than 32
 * folders deep (a link that leads back). The caller frees in any case. */
cps_status cps_folder_scan(const char *path, cps_folder *folder_out) CPS_MUST_CHECK;
void cps_folder_free(cps_folder *folder); /* safe on a zeroed one */

#endif
