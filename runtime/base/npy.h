/* NumPy's .npy files: one array of floating-point numbers, read piece by piece, and headers for
 * files that are written row by row. Versions 1, 2 and 3; little-endian float16, float32 and
 * float64; C or Fortran order. The header is a Python expression from a stranger: its length, keys
 * and shape are checked against each other and the file's size before anything is read. Local. */
#ifndef CPS_BASE_NPY_H
#define CPS_BASE_NPY_H

#include "base/status.h"

enum { CPS_NPY_DIMS = 4 };

typedef struct cps_npy {
    char *path;
    int descriptor;
    int32_t element_bytes; /* 2, 4 or 8 */
    bool fortran_order;    /* the first index runs fastest */
    int32_t rank;
    int64_t shape[CPS_NPY_DIMS];
    int64_t count;      /* elements */
    int64_t data_begin; /* byte of the first one */
} cps_npy;

/* UNAVAILABLE: cannot be opened; DATA: no .npy file, another element type, more than CPS_NPY_DIMS
 * dimensions, a header that lies about the file. */
cps_status cps_npy_open(const char *path, cps_npy *file_out) CPS_MUST_CHECK;
void cps_npy_close(cps_npy *file); /* safe on a zeroed one */
/* Elements [first, first + count) as they lie in the file, converted. IO; any thread. */
cps_status cps_npy_read(const cps_npy *file, int64_t first, int64_t count,
                        float *values_out) CPS_MUST_CHECK;

/* Header (version 1, float32, C order) of a matrix [rows, columns]; the rows follow it in the file.
 * Returns its bytes. */
enum { CPS_NPY_HEADER = 128 };
void cps_npy_matrix_header(int64_t rows, int64_t columns, char header_out[CPS_NPY_HEADER]);

/* IEEE half precision. to_half rounds to nearest even; what is too large becomes infinite. */
float cps_half_to_float(uint16_t half);
uint16_t cps_half_from_float(float value);

#endif
