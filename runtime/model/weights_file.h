/* One face for the files that weights come from: safetensors, and the group model/ of Copse
 * checkpoints. Inside of weights.c. Local. */
#ifndef CPS_MODEL_WEIGHTS_FILE_H
#define CPS_MODEL_WEIGHTS_FILE_H

#include "base/status.h"

enum { CPS_WEIGHTS_DIMS = 8 };

typedef struct cps_stored {
    const char *name;
    bool readable;
    int32_t rank;
    int64_t shape[CPS_WEIGHTS_DIMS];
    int64_t count;
    bool used; /* the caller's mark */
} cps_stored;

typedef struct cps_weights_file {
    const char *path;    /* borrowed from the caller */
    cps_stored *tensors; /* [count], sorted by name */
    int64_t count;
    bool is_checkpoint;
    struct cps_safetensors *safetensors;
    struct cps_h5 *h5;
} cps_weights_file;

/* Told apart by content. UNAVAILABLE when it cannot be opened, DATA for anything else than the two.
 */
cps_status cps_weights_file_open(const char *path, cps_weights_file *file_out) CPS_MUST_CHECK;
void cps_weights_file_close(cps_weights_file *file);
/* NULL if there is none. */
cps_stored *cps_weights_file_find(const cps_weights_file *file, const char *name);
/* All elements of `tensor`, converted. */
cps_status cps_weights_file_read(cps_weights_file *file, const cps_stored *tensor,
                                 cps_real *values_out) CPS_MUST_CHECK;

#endif
