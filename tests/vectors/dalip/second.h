/* What the parts of `vectors_dalip` that run the plugin's own objects share: tapes over values of
 * the file, comparing, the distances of many heads. Linked into that runner alone. */
#ifndef CPS_TESTS_VECTORS_DALIP_SECOND_H
#define CPS_TESTS_VECTORS_DALIP_SECOND_H

#include "plugins/dalip/passes.h"
#include "plugins/dalip/dalip.h"
#include "tests/vectors/dalip.h"

/* Groups bdc, vision, text, tail. */
void second_check_distances(cps_h5 *file, const char *group);
void second_check_image(cps_h5 *file, const char *group);
void second_check_text(cps_h5 *file, const char *group);
void second_check_tail(cps_h5 *file, const char *group);

/* ---- tapes ---- */

typedef struct second_desk {
    cps_arena *arena;
    cps_tape *tape;
} second_desk;
second_desk second_open(void);
void second_close(second_desk *d);

/* In the arena; values NULL: zeros. */
cps_real *second_reals(const second_desk *d, const double *values, int64_t count);
double *second_widened(const cps_real *values, int64_t count); /* malloc'ed */
int64_t second_count(const cps_tensor *tensor);
/* A leaf with a gradient. */
cps_tensor *second_leaf(const second_desk *d, int32_t rank, const int64_t *shape,
                        const double *values);
/* The same values; backward leaves their gradient in `*grad_out`. */
cps_tensor *second_watched(const second_desk *d, cps_tensor *x, cps_real **grad_out);
/* Backward from `last` with gradient `d_last`, of the file. */
void second_go_back(const second_desk *d, const cps_tensor *last, const double *d_last);
/* Size of a dataset along a dimension. */
int64_t second_dimension(cps_h5 *file, const char *group, const char *name, int32_t which);
/* Position of the first largest id of each row, ids of "<group>/ids", which must be [rows, length];
 * in the arena. */
int32_t *second_ends(cps_h5 *file, const char *group, const second_desk *d, int64_t rows,
                     int64_t length);

/* ---- comparing ---- */

void second_expect(cps_h5 *file, const char *group, const char *name, const double *got,
                   int64_t count);
void second_expect_gradient(cps_h5 *file, const char *group, const char *name, const double *got,
                            int64_t count);
void second_expect_reals(cps_h5 *file, const char *group, const char *name, const cps_real *got,
                         int64_t count);
/* Both ways of computing it must agree with the file; also NULL: there is one. */
void second_expect_both(cps_h5 *file, const char *group, const char *name, const cps_real *got,
                        const cps_real *also, int64_t count, double tolerance);

/* ---- distances of many heads ---- */

/* What one head after another gives for z [count / heads][tokens, heads, r] and for d_q. All
 * [count, ...]; d_z is laid out like z. */
typedef struct second_heads {
    cps_real *gram, *root, *q, *d_z;
} second_heads;
second_heads second_run_heads(const second_desk *d, dalip_bdc s, int64_t count, int64_t heads,
                              int64_t tokens, const cps_real *z, const cps_real *d_q);
/* [count / heads][tokens, heads, r] -> [count, r, tokens], malloc'ed. */
double *second_channels_first(const cps_real *z, int64_t count, int64_t heads, int64_t tokens,
                              int64_t r);
/* G, D and C of [count] heads; `triangle` is q, or v. */
void second_expect_heads(cps_h5 *file, const char *group, const second_heads *got,
                         const cps_real *triangle, int64_t count, int64_t r);
/* The upper triangles d_v as square matrices. */
void second_expect_triangle(cps_h5 *file, const char *group, const char *name, const double *d_v,
                            int64_t count, int64_t r);

#endif
