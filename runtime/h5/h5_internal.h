/* What the files of h5/ share. Functions that end in _locked want the one lock of h5.c held. */
#ifndef CPS_H5_H5_INTERNAL_H
#define CPS_H5_H5_INTERNAL_H

#include "h5/h5.h"

#include <hdf5.h>

struct cps_h5 {
    hid_t id;
    char *path;
    bool strict; /* no strings of variable length */
};

enum { CPS_H5_MAX_RANK = 8 };

/* The one lock around the library, which is not thread-safe. Taking it also silences the library's
 * own printing. */
void cps_h5_lock(void);
void cps_h5_unlock(void);

/* "<what happened>: <HDF5's innermost reason>" on record, with file and object named. */
cps_status cps_h5_fail_locked(const cps_h5 *file, cps_status code, const char *object,
                              const char *what);

/* Type in memory of one of our types; negative for STRING and OTHER. Not to be closed. */
hid_t cps_h5_memory_type(cps_h5_type type);
/* What stands at `name`; every link on the way must be a hard one, so that a file cannot lead
 * elsewhere. */
cps_status cps_h5_inspect_locked(cps_h5 *file, const char *name, cps_h5_info *info_out);
/* Opens a dataset whose values lie in this file; DATA when absent, not a dataset, external or
 * virtual. */
cps_status cps_h5_open_dataset_locked(cps_h5 *file, const char *name, hid_t *dataset_out,
                                      cps_h5_info *info_out);

#endif
