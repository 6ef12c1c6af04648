/* Golden vectors of DALIP: dalip.md, section 7: vectors_dalip FILE. Cases are the paths of what is
 * compared. The second feature comes out of the objects that the dalip plugin is made of, which are
 * linked into this runner (folder dalip); losses out of the plugin as training loads it; the mixing
 * law out of the Lua library. */
#include "dalip.h"

#include "arrays.h"
#include "dalip/second.h"
#include "ranks.h"
#include "tensor/gemm.h"
#include "vectors.h"

/* Inputs that no result depends on: a training forward does not read running statistics. */
static void know_inputs(cps_h5 *file) {
    static const char *const names[] = {"tail/running_mean_before", "tail/running_var_before"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (cps_h5_has(file, names[i])) {
            vectors_know(names[i]);
        }
    }
}

int main(int argc, char **argv) {
    vectors_rank_main(argc, argv, dalip_loss_ranks);
    cps_h5 *file = vectors_open(argc, argv, 1, 1, "FILE");
    dalip_loss_on_ranks(file);
    cps_gemm_start();
    second_check_distances(file, "bdc");
    vectors_each(file, "vision", second_check_image);
    vectors_each(file, "text", second_check_text);
    second_check_tail(file, "tail");
    dalip_losses(file);
    dalip_mixlaw(file);
    know_inputs(file);
    vectors_skip_unknown(file, "/");
    vectors_need(cps_h5_close(file));
    return vectors_finish();
}
