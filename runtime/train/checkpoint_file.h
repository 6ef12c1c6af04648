/* What a checkpoint holds, as a table in memory: made from a run when it is written, read from the
 * file when it is loaded. Inside of checkpoint.h. Local.
 *
 * The file (HDF5, metadata with checksums, nothing of variable length):
 *   /                 attributes format, version, real ("float32", "float64"), step, digest
 *   model/<name>      parameters, buffers, moving averages, in the order of state/tensors
 *   optimizer/<s>/<name>   state s of what learns
 *   state/loop, state/identity, state/model   JSON texts
 *   state/tensors     paths of all tensors, those of model/ first
 *   state/updates     update counts of model/'s tensors
 *   state/checksums   XXH3 of every chunk of CPS_CHUNK elements, tensor after tensor
 * `digest` is the XXH3 of all of this but the tensors' own bytes, which the checksums stand for. */
#ifndef CPS_TRAIN_CHECKPOINT_FILE_H
#define CPS_TRAIN_CHECKPOINT_FILE_H

#include "base/json.h"
#include "h5/h5.h"
#include "model/params.h"

enum { CPS_CHECKPOINT_VERSION = 1, CPS_CHECKPOINT_TEXTS = 3 };
enum { CPS_TEXT_LOOP, CPS_TEXT_IDENTITY, CPS_TEXT_MODEL };
#define CPS_CHECKPOINT_FORMAT "copse-checkpoint"

typedef struct cps_checkpoint_tensor {
    char *path; /* in the file, malloc'ed */
    int32_t rank;
    int64_t shape[CPS_MAX_DIMS];
    int64_t count;
    int64_t first_chunk; /* number of its first checksum */
    int64_t address;     /* byte in the file */
    /* Writing: elements [own_first, own_first + own_count), whole chunks, are this rank's. */
    int64_t own_first, own_count;
    const cps_real *own; /* element own_first */
} cps_checkpoint_tensor;

typedef struct cps_checkpoint_table {
    char *path; /* of the file; NULL while writing */
    int descriptor;
    int64_t step, element_bytes;
    int64_t tensor_count, model_count, capacity;
    cps_checkpoint_tensor *tensors;
    int64_t *updates; /* [model_count] */
    int64_t chunk_count;
    uint64_t *checksums; /* [chunk_count] */
    char *texts[CPS_CHECKPOINT_TEXTS];
} cps_checkpoint_table;

extern const char *const cps_checkpoint_text_names[CPS_CHECKPOINT_TEXTS];

/* Adds a tensor at the end; `path` is taken over. */
cps_status cps_checkpoint_add(cps_checkpoint_table *table, char *path, int32_t rank,
                              const int64_t *shape,
                              cps_checkpoint_tensor **tensor_out) CPS_MUST_CHECK;
uint64_t cps_checkpoint_digest(const cps_checkpoint_table *table);
void cps_checkpoint_table_destroy(cps_checkpoint_table *table);

/* Opens and reads everything but tensors; the digest holds. USAGE where a newer program wrote it,
 * DATA where it is damaged or no checkpoint. */
cps_status cps_checkpoint_open(const char *path, cps_checkpoint_table *table_out) CPS_MUST_CHECK;
/* Chunk `chunk` of the tensor (0: its first) into `bytes` (room for a whole chunk), checked. */
cps_status cps_checkpoint_read_chunk(const cps_checkpoint_table *table,
                                     const cps_checkpoint_tensor *tensor, int64_t chunk,
                                     void *bytes) CPS_MUST_CHECK;
/* Reads every chunk. */
cps_status cps_checkpoint_verify(const cps_checkpoint_table *table) CPS_MUST_CHECK;
/* NULL if absent. */
const cps_checkpoint_tensor *cps_checkpoint_find(const cps_checkpoint_table *table,
                                                 const char *path, int64_t likely);

#endif
