/* The place of the bf16 engine. This build has none, and says so. */
#include "tensor/gemm_engine.h"

cps_status cps_onednn_start(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE,
                    "precision \"bf16\": this build has no engine for bf16 products; use "
                    "precision = \"fp32\" or \"auto\"");
}

void cps_onednn_bf16(const cps_product *product) {
    (void)product;
    CPS_BUG_IF(true); /* cps_onednn_start never succeeds */
}
