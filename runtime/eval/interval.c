/* A resample of n samples, h of them right, has Binomial(n, h/n) right ones; so a resample is one
 * draw through the inverse of that distribution instead of n draws of samples. */
#include "eval/interval.h"

#include <math.h>
#include <stdlib.h>

#include "base/numeric.h"
#include "base/rng.h"

/* Beyond so many deviations from the mode no resample of 2,000 comes (1e-30). */
static const double reach = 12.0;

/* Sums of weights of first .. last right ones, the most likely number weighing 1. */
typedef struct table {
    int64_t first, count;
    double *sums;
} table;

static cps_status make_table(int64_t hits, int64_t samples, table *out) {
    const double p = (double)hits / (double)samples, odds = p / (1.0 - p);
    const int64_t far = (int64_t)ceil(reach * (sqrt((double)samples * p * (1.0 - p)) + 1.0));
    table made = {.first = cps_max_i64(0, hits - far)};
    made.count = cps_min_i64(samples, hits + far) - made.first + 1;
    made.sums = calloc((size_t)made.count, sizeof *made.sums);
    if (made.sums == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for an interval");
    }
    /* hits is the mode. */
    double weight = 1.0;
    for (int64_t k = hits; k >= made.first; k--) {
        made.sums[k - made.first] = weight;
        weight *= (double)k / ((double)(samples - k + 1) * odds);
    }
    weight = 1.0;
    for (int64_t k = hits; k < made.first + made.count; k++) {
        made.sums[k - made.first] = weight;
        weight *= (double)(samples - k) / (double)(k + 1) * odds;
    }
    for (int64_t i = 1; i < made.count; i++) {
        made.sums[i] += made.sums[i - 1];
    }
    *out = made;
    return CPS_OK;
}

/* The first number whose sum lies above `at`. */
static int64_t look_up(const table *from, double at) {
    int64_t low = 0, high = from->count - 1;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (from->sums[middle] > at) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return from->first + low;
}

static int compare(const void *a, const void *b) {
    const int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

cps_status cps_share_interval(int64_t hits, int64_t samples, double *low_out, double *high_out) {
    enum { OUTSIDE = CPS_INTERVAL_RESAMPLES / 40 }; /* 2.5 % on either side */
    if (hits == 0 || hits == samples) {
        *low_out = *high_out = (double)hits / (double)samples;
        return CPS_OK;
    }
    table from = {0};
    CPS_TRY(make_table(hits, samples, &from));
    const cps_draw_key key = {.module = cps_name_key("share_interval")};
    int64_t drawn[CPS_INTERVAL_RESAMPLES];
    for (int64_t i = 0; i < CPS_INTERVAL_RESAMPLES; i++) {
        drawn[i] = look_up(&from, cps_draw_uniform(&key, (uint64_t)i) * from.sums[from.count - 1]);
    }
    free(from.sums);
    qsort(drawn, CPS_INTERVAL_RESAMPLES, sizeof drawn[0], compare);
    *low_out = (double)drawn[OUTSIDE] / (double)samples;
    *high_out = (double)drawn[CPS_INTERVAL_RESAMPLES - 1 - OUTSIDE] / (double)samples;
    return CPS_OK;
}
