/* Parts of the runner `vectors_sclip FILE`. Each compares what the file has of its own. */
#ifndef CPS_TESTS_VECTORS_SCLIP_H
#define CPS_TESTS_VECTORS_SCLIP_H

#include "h5/h5.h"

double sclip_tolerance(void);

/* Compares what the file has of "<group>/<name>". */
void sclip_expect(cps_h5 *file, const char *group, const char *name, const double *got,
                  int64_t count);
/* The same within 1e-9 in both precisions: of what is computed in double anyway. */
void sclip_expect_exact(cps_h5 *file, const char *group, const char *name, const double *got,
                        int64_t count);

/* Groups eval, split, schedule. */
void sclip_check_evaluation(cps_h5 *file);
void sclip_check_splits(cps_h5 *file);
void sclip_check_schedules(cps_h5 *file);

#endif
