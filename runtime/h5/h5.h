/* HDF5: the only user of hdf5.h. One lock around every library call, so any thread may call; files
 * are opened by one process each (no MPI-IO: ranks write their own contiguous ranges with pwrite at
 * the address, see cps_h5_address). Names inside files come from strangers: types, ranks and sizes
 * are checked before anything is read. Messages name file and object. */
#ifndef CPS_H5_H5_H
#define CPS_H5_H5_H

#include "base/status.h"

typedef struct cps_h5 cps_h5; /* an open file */

cps_status cps_h5_open(const char *path,
                       cps_h5 **file_out) CPS_MUST_CHECK; /* read only; no lock is taken */
/* For files that may come damaged or from strangers and that we define ourselves (shards): as
 * cps_h5_open, but the file must have a superblock of version 2 or later (all metadata carry
 * checksums), and strings of variable length are refused: they lie in HDF5's global heap, whose
 * damage makes the library loop forever. */
cps_status cps_h5_open_strict(const char *path, cps_h5 **file_out) CPS_MUST_CHECK;
/* New file at `path` exactly (callers use a temporary name and cps_file_publish). Timestamps are
 * off: same content, same bytes. A failure leaves no file behind. */
cps_status cps_h5_create(const char *path, cps_h5 **file_out) CPS_MUST_CHECK;
/* A whole file: `write` fills one under a temporary name, which is then synced and renamed to
 * `path`; a failure leaves nothing behind. */
cps_status cps_h5_write_file(const char *path,
                             cps_status (*write)(cps_h5 *file, const void *context),
                             const void *context) CPS_MUST_CHECK;
/* Closes; the status of the flush is the caller's to check after writing. NULL-safe. */
cps_status cps_h5_close(cps_h5 *file);
const char *cps_h5_path(const cps_h5 *file);

/* What stands at a name: datasets report type and shape. */
typedef enum cps_h5_kind { CPS_H5_NONE, CPS_H5_GROUP, CPS_H5_DATASET } cps_h5_kind;
typedef enum cps_h5_type {
    CPS_H5_F32,
    CPS_H5_F64,
    CPS_H5_I32,
    CPS_H5_I64,
    CPS_H5_U8,
    CPS_H5_U64,
    CPS_H5_F16, /* for writing alone, from uint16_t (base/npy.h); reads as F32 or F64 */
    CPS_H5_STRING,
    CPS_H5_OTHER
} cps_h5_type;
typedef struct cps_h5_info {
    cps_h5_kind kind;
    cps_h5_type type; /* nearest of ours: any integer reads as I64, any float as F64 */
    int32_t rank;     /* 0: scalar */
    int64_t shape[8];
    int64_t count; /* elements */
} cps_h5_info;
cps_status cps_h5_inspect(cps_h5 *file, const char *name,
                          cps_h5_info *info_out) CPS_MUST_CHECK; /* kind NONE if absent */
bool cps_h5_has(cps_h5 *file, const char *name);
/* Names in a group, sorted by bytes; malloc'ed strings. */
cps_status cps_h5_list(cps_h5 *file, const char *group, char ***names_out,
                       int64_t *count_out) CPS_MUST_CHECK;

/* Reads `count` elements (must equal the dataset's) converted to the type asked for. */
cps_status cps_h5_read(cps_h5 *file, const char *name, cps_h5_type type, int64_t count,
                       void *values_out) CPS_MUST_CHECK;
/* Reads rows [first, first + rows) of the first dimension. */
cps_status cps_h5_read_rows(cps_h5 *file, const char *name, cps_h5_type type, int64_t first,
                            int64_t rows, void *values_out) CPS_MUST_CHECK;
/* Allocates with malloc and reads everything, at most max_bytes. */
cps_status cps_h5_read_alloc(cps_h5 *file, const char *name, cps_h5_type type, size_t max_bytes,
                             void **values_out, int64_t *count_out) CPS_MUST_CHECK;
/* Strings (fixed or variable length, UTF-8), malloc'ed array of malloc'ed strings. */
cps_status cps_h5_read_strings(cps_h5 *file, const char *name, char ***strings_out,
                               int64_t *count_out) CPS_MUST_CHECK;

/* Attributes of a group or dataset ("/" is the file). */
bool cps_h5_has_attribute(cps_h5 *file, const char *object, const char *name);
cps_status cps_h5_read_number(cps_h5 *file, const char *object, const char *name,
                              double *value_out) CPS_MUST_CHECK;
/* Attributes of exactly `count` numbers. */
cps_status cps_h5_read_numbers(cps_h5 *file, const char *object, const char *name, int64_t count,
                               double *values_out) CPS_MUST_CHECK;
cps_status cps_h5_read_integer(cps_h5 *file, const char *object, const char *name,
                               int64_t *value_out) CPS_MUST_CHECK;
cps_status cps_h5_read_text(cps_h5 *file, const char *object, const char *name,
                            char **text_out) CPS_MUST_CHECK; /* malloc'ed */
cps_status cps_h5_list_attributes(cps_h5 *file, const char *object, char ***names_out,
                                  int64_t *count_out) CPS_MUST_CHECK;
cps_status cps_h5_write_number(cps_h5 *file, const char *object, const char *name,
                               double value) CPS_MUST_CHECK;
cps_status cps_h5_write_integer(cps_h5 *file, const char *object, const char *name,
                                int64_t value) CPS_MUST_CHECK;
cps_status cps_h5_write_text(cps_h5 *file, const char *object, const char *name,
                             const char *text) CPS_MUST_CHECK;

/* Writing. Parent groups are made. values NULL: the dataset is allocated early, contiguous,
 * unfiltered and not written. */
cps_status cps_h5_make_group(cps_h5 *file, const char *name) CPS_MUST_CHECK;
cps_status cps_h5_write(cps_h5 *file, const char *name, cps_h5_type type, int32_t rank,
                        const int64_t *shape, const void *values) CPS_MUST_CHECK;
cps_status cps_h5_write_strings(cps_h5 *file, const char *name, const char *const *strings,
                                int64_t count) CPS_MUST_CHECK;
/* Byte address in the file of a contiguous, allocated, unfiltered dataset, for pread and pwrite
 * beside HDF5; DATA if it has none. */
cps_status cps_h5_address(cps_h5 *file, const char *name, int64_t *address_out,
                          size_t *bytes_out) CPS_MUST_CHECK;

#endif
