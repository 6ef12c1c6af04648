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

/* Loads a file (told apart by content) into the model's parameters: written at once where they are
 * allocated, else used by cps_params_allocate. Call it before allocating where EMA copies or other
 * copies are to start from loaded values. Names may carry a common prefix ("module.", "model.",
 * ...). F32, F16, BF16 and F64 are read. Position tables of another image size are resampled
 * (bicubic, antialiased; class row kept), longer ones of text are cut. Tensors that nothing wants
 * yet and no tower can own are kept as offers for objectives of later stages. Local: rank 0 reads;
 * afterwards, and after each later cps_params_allocate, the caller broadcasts the flat array. DATA,
 * and nothing changed: a parameter of `image` or `text`, or of another tower of which the file has
 * any, is missing and `partial` is false (the first ten are named); shapes differ; the file is
 * damaged. report_out may be NULL. */
cps_status cps_weights_load(cps_model *model, const char *path, bool partial,
                            cps_weights_report *report_out) CPS_MUST_CHECK;
/* The same for one tower alone, from the file that the model names for it: in the tower's own names
 * (timm's for DINO's, torchvision's for residual networks), also behind "module.", "backbone." and
 * the like; for towers as CLIP has them also out of a whole CLIP in either naming; or a tower of a
 * Copse checkpoint. Other tensors of the file are not used. */
cps_status cps_weights_load_tower(cps_model *model, const char *tower,
                                  const cps_tower_weights *weights,
                                  cps_weights_report *report_out) CPS_MUST_CHECK;
typedef enum cps_weights_format {
    CPS_WEIGHTS_OPEN_CLIP,
    CPS_WEIGHTS_HUGGING_FACE
} cps_weights_format;
/* Writes F32 safetensors, tensors sorted by name, and beside it "<path minus .safetensors>.json":
 * the model's description (cps_model_create reads it), with open_clip's model_cfg and
 * preprocess_cfg beside it where the towers are CLIP's. USAGE for parameters that Hugging Face's
 * CLIP has no name for. */
cps_status cps_weights_save(cps_model *model, const char *path,
                            cps_weights_format format) CPS_MUST_CHECK;

#endif
