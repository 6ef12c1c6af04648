/* What the engine is given in place of pictures and towers: two of its functions are wrapped by the
 * linker (Makefile) in the runner of AgriCLIP's vectors. The loader's pictures are replaced by a
 * file's crops; where a file begins behind the tower, its output by the file's rows. */
#ifndef CPS_TESTS_VECTORS_AGRICLIP_GIVEN_H
#define CPS_TESTS_VECTORS_AGRICLIP_GIVEN_H

#include "model/params.h"

enum { AGRICLIP_CROPS = 64 };

typedef enum agriclip_give {
    AGRICLIP_NOTHING, /* the engine's own */
    AGRICLIP_ROWS,    /* pooled rows */
    AGRICLIP_STEM     /* a tower of one convolution: the front of a resnet, zeros behind */
} agriclip_give;

typedef struct agriclip_given {
    agriclip_give kind;
    const double *rows; /* [crops * images, width], the teacher's the first; NULL: unit vectors */
    int64_t images;     /* of this rank */
    int64_t unit[2];    /* number of the first unit vector of student and teacher */
    const double *crops[AGRICLIP_CROPS]; /* planes of loader input i; NULL: the loader's */
    double *seen[2];    /* rows of student and teacher as a tower gave them; NULL: not kept */
    cps_params *params; /* of the stem */
} agriclip_given;

extern agriclip_given agriclip_gives;

#endif
