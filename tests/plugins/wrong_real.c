/* A plugin built for the other precision. Refused at loading. */
#include <stddef.h>

#include "copse_objective.h"

static const cps_objective objectives[] = {{.name = "wide", .help = "Never seen."}};
static const cps_plugin_info info = {
    CPS_ABI, sizeof(cps_objective), sizeof(cps_host), 12 - sizeof(cps_real), objectives, 1};

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
