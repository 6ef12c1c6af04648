/* Arrays of numbers for runners: reading inputs, comparing what the file has of outputs. A group
 * and a name make the path. */
#ifndef CPS_TESTS_VECTORS_ARRAYS_H
#define CPS_TESTS_VECTORS_ARRAYS_H

#include "vectors.h"

/* Rows of a dataset, its leading dimensions folded; values malloc'ed. */
typedef struct vectors_matrix {
    int64_t rows, width;
    double *values;
} vectors_matrix;

/* Zeroed; out of memory ends the process, as all here. */
double *vectors_doubles(int64_t count);
vectors_matrix vectors_matrix_new(int64_t rows, int64_t width);
/* Whether all inputs of a group are there (names end with NULL): what the file lacks is not tested.
 */
bool vectors_has(cps_h5 *file, const char *group, const char *const *names);
/* Inputs: the process ends with VECTORS_UNUSABLE where they cannot be read. */
vectors_matrix vectors_matrix_read(cps_h5 *file, const char *group, const char *name);
double vectors_number(cps_h5 *file, const char *group, const char *name);
/* Strings, malloc'ed (cps_strings_destroy). Read in a process of its own: damaged strings of
 * variable length make the library run wild. */
char **vectors_strings(cps_h5 *file, const char *name, int64_t *count_out);
/* The same end where sizes do not agree. */
void vectors_need_same(const char *group, bool same);
void vectors_need(cps_status status);

/* Outputs: where the file has "<group>/<name>", a case; what it lacks is not tested. also: the same
 * by another way, both must agree with the file; NULL: none. */
void vectors_expect_both(cps_h5 *file, const char *group, const char *name, const double *got,
                         const double *also, int64_t count, double tolerance);
void vectors_expect_in(cps_h5 *file, const char *group, const char *name, const double *got,
                       int64_t count, double tolerance);
/* Calls `check` for every member of a group, if there is such a group. */
void vectors_each(cps_h5 *file, const char *group, void (*check)(cps_h5 *file, const char *path));

#endif
