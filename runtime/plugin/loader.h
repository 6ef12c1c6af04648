/* Objective plugins: the only user of dlfcn.h. Opens shared objects (RTLD_NOW | RTLD_LOCAL), takes
 * cps_plugin from that file alone, checks ABI number and sizes, never unloads. Refuses loudly:
 * path, reason, what was found. Local. */
#ifndef CPS_PLUGIN_LOADER_H
#define CPS_PLUGIN_LOADER_H

#include "base/status.h"
#include "plugin/copse_objective.h"

typedef struct cps_plugins cps_plugins; /* what has been loaded */

/* Loads every *.so in `folder` (sorted by name); UNAVAILABLE if there is none. */
cps_status cps_plugins_create(const char *folder, const cps_host *host,
                              cps_plugins **plugins_out) CPS_MUST_CHECK;
void cps_plugins_destroy(cps_plugins *plugins); /* NULL-safe */
/* One more file; loading a file twice is fine. Its objectives are found under their names with this
 * path only. */
cps_status cps_plugins_load(cps_plugins *plugins, const char *path) CPS_MUST_CHECK;
/* path NULL: those of the folder given at creation. USAGE with the nearest name and the list when
 * there is none. */
cps_status cps_plugins_find(const cps_plugins *plugins, const char *path, const char *name,
                            const cps_objective **objective_out) CPS_MUST_CHECK;
int64_t cps_plugins_count(const cps_plugins *plugins);
/* *path_out: NULL for those of the folder. */
const cps_objective *cps_plugins_at(const cps_plugins *plugins, int64_t index,
                                    const char **path_out);
/* XXH3 of the files of all loaded plugins, for agreement between ranks; only_users: of those that a
 * job loads by path, for checkpoints. */
uint64_t cps_plugins_digest(const cps_plugins *plugins, bool only_users);

#endif
