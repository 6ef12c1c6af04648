/* A resample of n samples, h of them right, has Binomial(n, h/n) right ones; so a resample is one
 * draw through the inverse of that distribution instead of n draws of samples. Samples that were
 * asked several times are drawn one by one. */
#include "eval/interval.h"

#include <math.h>
#include <stdlib.h>

#include "base/numeric.h"
#include "base/pool.h"
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

enum { OUTSIDE = CPS_INTERVAL_RESAMPLES / 40 }; /* 2.5 % on either side */

cps_status cps_share_interval(int64_t hits, int64_t samples, double *low_out, double *high_out) {
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

/* ---- samples with tallies ---- */

typedef struct tally_work {
    const cps_tally *tallies;
    uint64_t samples;
    double shares[CPS_INTERVAL_RESAMPLES];
} tally_work;

/* One block of the generator draws four samples; that some are drawn more often by one in 2^32 /
 * samples does not matter here. */
static void resample(void *context, int64_t index) {
    tally_work *work = context;
    const uint32_t key[2] = {cps_name_key("tally_interval"), (uint32_t)index};
    int64_t hits = 0, asked = 0;
    for (uint64_t i = 0; i < work->samples; i += 4) {
        const uint32_t counter[4] = {(uint32_t)i, (uint32_t)(i >> 32), 0, 0};
        uint32_t words[4];
        cps_philox4x32(counter, key, words);
        for (uint64_t k = 0; k < 4 && i + k < work->samples; k++) {
            const cps_tally *drawn = &work->tallies[(uint64_t)words[k] * work->samples >> 32];
            hits += drawn->hits;
            asked += drawn->asked;
        }
    }
    work->shares[index] = (double)hits / (double)asked;
}

static int compare_shares(const void *a, const void *b) {
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

cps_status cps_tally_interval(const cps_tally *tallies, int64_t samples, double *low_out,
                              double *high_out) {
    if (samples > UINT32_MAX) {
        return cps_fail(CPS_ERR_USAGE, "an interval of %lld samples, at most 2^32 are wanted",
                        (long long)samples);
    }
    tally_work work = {.tallies = tallies, .samples = (uint64_t)samples};
    cps_parallel(CPS_INTERVAL_RESAMPLES, resample, &work);
    qsort(work.shares, CPS_INTERVAL_RESAMPLES, sizeof work.shares[0], compare_shares);
    *low_out = work.shares[OUTSIDE];
    *high_out = work.shares[CPS_INTERVAL_RESAMPLES - 1 - OUTSIDE];
    return CPS_OK;
}
