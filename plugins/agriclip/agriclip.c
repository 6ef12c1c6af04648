/* The plugin of AgriCLIP's stages. The first of them, contrastive training, is `clip`. */
#include "agriclip.h"
#include "dino.h"

static const cps_objective objectives[] = {
    {.name = "agriclip.align",
     .help = "A linear map from a frozen image tower to the image features of another (AgriCLIP).",
     .options = agriclip_align_rows,
     .options_bytes = sizeof(agriclip_align_options),
     .create = agriclip_align_create,
     .prepare = agriclip_align_prepare,
     .grain_loss = agriclip_align_grain_loss,
     .fit_block = agriclip_align_fit_block,
     .fit_solve = agriclip_align_fit_solve,
     .finish_block = agriclip_align_finish_block,
     .finish_solve = agriclip_align_finish_solve,
     .embed = agriclip_align_embed},
    {.name = "agriclip.dino",
     .help = "Self-distillation of an image tower on its own crops (DINO).",
     .options = agriclip_dino_rows,
     .options_bytes = sizeof(agriclip_dino_options),
     .create = agriclip_dino_create,
     .prepare = agriclip_dino_prepare,
     .grain_loss = agriclip_dino_grain_loss,
     .commit = agriclip_dino_commit,
     .embed = agriclip_dino_embed},
};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
