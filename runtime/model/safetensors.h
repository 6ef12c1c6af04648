/* The safetensors format: a JSON header with names, types, shapes and places, then the bytes. Files
 * come from strangers: the header's length, its JSON, types, shapes, products of sizes and places
 * are checked before anything is read; places lie inside the file and do not overlap. Local. */
#ifndef CPS_MODEL_SAFETENSORS_H
#define CPS_MODEL_SAFETENSORS_H

#include "base/status.h"

enum { CPS_SAFETENSOR_DIMS = 8 };

typedef struct cps_safetensor {
    const char *name;  /* borrowed from the file */
    const char *dtype; /* "F32", "BF16", ... as the file says */
    bool readable;     /* F64, F32, F16 or BF16 */
    int32_t rank;
    int64_t shape[CPS_SAFETENSOR_DIMS];
    int64_t count;      /* elements */
    int64_t begin, end; /* bytes, from the end of the header */
} cps_safetensor;

typedef struct cps_safetensors cps_safetensors; /* an open file */

/* UNAVAILABLE when it cannot be opened, DATA when it is no safetensors file or lies about itself.
 */
cps_status cps_safetensors_open(const char *path, cps_safetensors **file_out) CPS_MUST_CHECK;
void cps_safetensors_close(cps_safetensors *file); /* NULL-safe */
int64_t cps_safetensors_count(const cps_safetensors *file);
const cps_safetensor *cps_safetensors_at(const cps_safetensors *file, int64_t index); /* by name */
/* Elements of tensor `index`, converted. DATA for a type that is not readable or a value that is
 * not finite. */
cps_status cps_safetensors_read(cps_safetensors *file, int64_t index,
                                cps_real *values_out) CPS_MUST_CHECK;

/* A tensor to be written as F32. transposed: `values` is [shape[1], shape[0]]. */
typedef struct cps_safetensor_source {
    const char *name;
    int32_t rank;
    int64_t shape[CPS_MAX_DIMS];
    const cps_real *values;
    bool transposed;
} cps_safetensor_source;

/* Writes a new file under a temporary name and renames it. `sources` is sorted by name in place. */
cps_status cps_safetensors_write(const char *path, cps_safetensor_source *sources,
                                 int64_t count) CPS_MUST_CHECK;

#endif
