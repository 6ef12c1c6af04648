/* Names of Hugging Face's CLIPModel for parameters under open_clip's names. Local; cannot fail. */
#ifndef CPS_MODEL_HF_NAMES_H
#define CPS_MODEL_HF_NAMES_H

#include "base/types.h"

enum { CPS_HF_NAME_MAX = 200, CPS_HF_PIECES = 3 };

typedef struct cps_hf_pieces {
    int32_t count;   /* 1, or 3: query, key and value, stacked by rows */
    bool transposed; /* theirs is [out, in], ours [in, out] */
    char names[CPS_HF_PIECES][CPS_HF_NAME_MAX];
} cps_hf_pieces;

/* False when CLIPModel has no such parameter. */
bool cps_hf_pieces_of(const char *name, cps_hf_pieces *out);

#endif
