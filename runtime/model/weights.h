/* Weights in and out: safetensors in open_clip's and Hugging Face CLIP's names, and Copse
 * checkpoints. Files are hostile until checked: header size, JSON, dtypes, shapes, offsets inside
 * the file, no overlap. */
#ifndef CPS_MODEL_WEIGHTS_H
#define CPS_MODEL_WEIGHTS_H

#include "model/model.h"

typedef struct cps_weights_report {
    int64_t loaded, resampled; /* tensors */
    char **missing;            /* parameters of the towers that the file lacks */
    int64_t missing_count;
    char **unused; /* tensors of the file that nothing wants */
    int64_t unused_count;
} cps_weights_report;
void cps_weights_report_free(cps_weights_report *report);

/* Loads into allocated or declared parameters (values are kept until cps_params_allocate when not
 * yet allocated). Local: rank 0 reads, the caller broadcasts the flat array. partial false: a
 * missing parameter of a tower is DATA listing the first ten. F32, F16, BF16, F64 are read.
 * Position tables of another size are resampled (bicubic on the grid, class row kept). */
cps_status cps_weights_load(cps_model *model, const char *path, bool partial,
                            cps_weights_report *report_out) CPS_MUST_CHECK;
typedef enum cps_weights_format {
    CPS_WEIGHTS_OPEN_CLIP,
    CPS_WEIGHTS_HUGGING_FACE
} cps_weights_format;
/* Writes F32 safetensors, tensors sorted by name, and beside it "<path minus .safetensors>.json"
 * with the model's description. */
cps_status cps_weights_save(cps_model *model, const char *path,
                            cps_weights_format format) CPS_MUST_CHECK;

#endif
