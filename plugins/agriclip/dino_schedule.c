/* Tables of a DINO stage, agriclip.md "Schedules". */
#include <math.h>

#include "dino.h"

static const double pi = 3.14159265358979323846;

double agriclip_dino_momentum(double start, int64_t step, int64_t steps) {
    return 1.0 + 0.5 * (start - 1.0) * (1.0 + cos(pi * (double)step / (double)steps));
}

double agriclip_dino_temperature(double warmup, double final, int64_t warmup_epochs,
                                 int64_t epoch) {
    if (epoch >= warmup_epochs) {
        return final;
    }
    return warmup_epochs > 1
               ? warmup + (final - warmup) * (double)epoch / (double)(warmup_epochs - 1)
               : warmup;
}
