/* Sizes of the named models: clip-towers.md, section 4. */
#ifndef CPS_MODEL_PRESETS_H
#define CPS_MODEL_PRESETS_H

#include "base/types.h"

typedef struct cps_preset {
    const char *name;
    int64_t image_size, patch, image_width, image_layers; /* heads: width / 64, in both towers */
    int64_t text_width, text_layers, context;
    int64_t embed_dim;
} cps_preset;

enum { CPS_CLIP_VOCABULARY = 49408 };

/* NULL if there is none. "<name>-quickgelu" is the same with *quick_gelu_out true. */
const cps_preset *cps_preset_find(const char *name, bool *quick_gelu_out);

#endif
