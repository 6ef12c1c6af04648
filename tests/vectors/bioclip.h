/* Parts of the runner `vectors_bioclip FILE [JSON]`. Each compares what it finds of its own and
 * counts through vectors.h; what is not there is not tested. The lists of who handles what are in
 * vectors_bioclip.c. */
#ifndef CPS_TESTS_VECTORS_BIOCLIP_H
#define CPS_TESTS_VECTORS_BIOCLIP_H

#include "base/json.h"
#include "h5/h5.h"

/* Names, captions, classes, text types. */
void bioclip_text(const cps_json *json);
/* What is reported of an image's probabilities. */
void bioclip_predict(const cps_json *json);

#endif
