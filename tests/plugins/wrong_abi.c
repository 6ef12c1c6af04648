/* A plugin of another time: its ABI number is not ours. Refused at loading. */
#include <stddef.h>

#include "copse_objective.h"

static const cps_objective objectives[] = {{.name = "old", .help = "Never seen."}};
static const cps_plugin_info info = {
    CPS_ABI + 1, sizeof(cps_objective), sizeof(cps_host), sizeof(cps_real), objectives, 1};

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
