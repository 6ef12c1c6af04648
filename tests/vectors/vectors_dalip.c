/* Golden vectors of DALIP: dalip.md, section 7: vectors_dalip FILE. Cases are the paths of what is
 * compared. */
#include "dalip.h"

#include "arrays.h"
#include "vectors.h"

int main(int argc, char **argv) {
    cps_h5 *file = vectors_open(argc, argv, 1, 1, "FILE");
    dalip_mixlaw(file);
    vectors_skip_unknown(file, "/");
    vectors_need(cps_h5_close(file));
    return vectors_finish();
}
