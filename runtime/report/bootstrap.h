/* Bootstrap intervals for what several trained models (seeds) say about the samples of one test
 * set: accuracy, class means, ranks, and their differences to a baseline. f64 in both builds; the
 * same bits on any threads; nothing here prints. Draws are keyed by (options.seed, resample), so
 * that all comparisons on one test set see the same resamples. Main thread: cps_bootstrap_* use the
 * pool.
 *
 * Status codes as in statistics.h: USAGE for settings, DATA for numbers, UNAVAILABLE without
 * memory.
 *
 * The two levels. Seeds and samples are crossed: every seed sees the same samples, so what makes a
 * sample hard is common to all seeds. A resample draws the seeds with replacement, then the samples
 * with replacement, the same for all drawn seeds, and takes the mean of the seeds' statistics
 * (Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1 (2007)). Drawing samples anew for each seed
 * would count one test set as so many.
 *
 * Its percentiles alone do not cover what they say: of the variance between S seeds a resample
 * shows (S-1)/S, with three seeds the normal quantile stands where Student's belongs (nominal 95 %
 * cover some 75 % where seeds prevail), and what seed and sample do together is counted up to three
 * times (too wide where nothing else varies). So the shape is taken from the resamples and the
 * width from the variances of the sources, estimated without bias (a two-way layout without
 * repeats): seeds    A = sum_s (T_s - T)^2 / (S (S-1))                       S - 1 degrees of
 * freedom samples  C = max(0, B - E), B the variance of the seeds' mean over resamples of samples,
 *              E the sum over s of the variance of T_s minus that mean, over S (S-1); both times
 *              n / (n-1)                                                n - 1 degrees of freedom
 * E is the part of B that A holds as well. The ends are scaled about the estimate by
 * h / (z sd), h the half width of cps_spread_half_width, z the normal quantile, sd that of the
 * resamples. Ends may leave the range of the statistic (an accuracy above 1): two seeds do not say
 * more. With one seed there is no A and no E: the variance between seeds is unknown, the interval
 * is that of one model. */
#ifndef CPS_REPORT_BOOTSTRAP_H
#define CPS_REPORT_BOOTSTRAP_H

#include "report/statistics.h"

/* ---- intervals from resampled values ---- */

/* Percentile interval: the quantiles (1 -+ confidence) / 2 of the resampled statistics (Efron,
 * CBMS-NSF 38 (1982), chapter 10). */
cps_status cps_bootstrap_percentile(const double *ascending, int64_t count, double confidence,
                                    cps_interval *interval_out) CPS_MUST_CHECK;

/* Bias-corrected and accelerated: Efron, J. Am. Stat. Assoc. 82 (1987); Efron and Tibshirani, An
 * Introduction to the Bootstrap (1993), 14.3. Quantiles at
 *     Phi(z0 + (z0 + z) / (1 - a (z0 + z))),  z = Phi^-1((1 -+ confidence) / 2),
 * z0 = Phi^-1(share of resampled values below the estimate, equal ones half). The share is kept
 * within 1/2 a value of 0 and 1, so that z0 is finite; where 1 - a (z0 + z) <= 0 the end is that of
 * the values. */
typedef struct cps_bca_result {
    double bias_z0;
    cps_interval interval;
} cps_bca_result;
cps_status cps_bootstrap_bca(const double *ascending, int64_t count, double estimate,
                             double acceleration, double confidence,
                             cps_bca_result *result_out) CPS_MUST_CHECK;

/* Acceleration from the jackknife (the same book, 14.15): sum d^3 / (6 (sum d^2)^1.5), d = mean of
 * left_out minus left_out[i], the statistic without sample i. All equal, or none: 0. */
double cps_bootstrap_acceleration(const double *left_out, int64_t count);

/* ---- two levels ---- */

typedef enum cps_bootstrap_method {
    CPS_BOOTSTRAP_PERCENTILE,
    CPS_BOOTSTRAP_BCA
} cps_bootstrap_method;
extern const char *const cps_bootstrap_methods[]; /* "percentile", "bca", NULL */

typedef struct cps_bootstrap_options {
    cps_bootstrap_method method;
    int32_t resamples; /* 100 .. 1,000,000; 2000 is usual */
    double confidence;
    uint64_t seed;
} cps_bootstrap_options;
#define CPS_BOOTSTRAP_DEFAULTS ((cps_bootstrap_options){CPS_BOOTSTRAP_BCA, 2000, 0.95, 1})

typedef struct cps_bootstrap_result {
    double estimate;       /* mean over seeds of the statistic of all samples */
    cps_interval interval; /* as said above */
    cps_interval plain;    /* of the resamples as they are */
    double standard_error; /* sqrt(A + C) */
    double p;              /* cps_spread_p: estimate against 0 */
    double bias_z0;        /* of BCa; 0 for percentiles, and so the next */
    double acceleration;   /* of both levels: jackknife over seeds and over samples, for more than
                              CPS_BOOTSTRAP_GROUPS samples over as many groups of them */
    cps_spread spread;     /* for cps_spread_detectable; seed_freedom 0: one seed */
} cps_bootstrap_result;
enum { CPS_BOOTSTRAP_GROUPS = 1000 };

/* The statistic of one seed when sample i is there counts[i] times; pure, any thread; a callback
 * may use scratch[scratch_count], whatever it holds. NaN on a resample ends the bootstrap (DATA):
 * leave out what is undefined. */
typedef double (*cps_seed_statistic)(const void *context, int32_t seed, const int32_t *counts,
                                     double *scratch);
typedef struct cps_bootstrap_problem {
    int32_t seeds;   /* >= 1 */
    int64_t samples; /* 1 .. 2^31 - 1; with one the variance of samples is unknown and taken as 0 */
    cps_seed_statistic statistic;
    const void *context;
    int64_t scratch_count;
} cps_bootstrap_problem;
cps_status cps_bootstrap_statistic(const cps_bootstrap_problem *problem,
                                   const cps_bootstrap_options *options,
                                   cps_bootstrap_result *result_out) CPS_MUST_CHECK;

/* ---- the usual statistics of values per sample ---- */

typedef enum cps_value_statistic {
    CPS_VALUE_MEAN,       /* accuracy, recall at k, mean rank, mean reciprocal rank */
    CPS_VALUE_CLASS_MEAN, /* weighted mean over classes of the mean in the class; classes that a
                             resample lacks are left out of it */
    CPS_VALUE_MEDIAN      /* rank; an even number: the mean of the middle two. Percentiles suit it;
                             the jackknife of a median is inconsistent (Efron and Tibshirani, 11.6) */
} cps_value_statistic;

/* What each seed's model says of each row: 1 or 0 for right and wrong, a rank, ... All borrowed. */
typedef struct cps_bootstrap_values {
    cps_value_statistic statistic;
    int32_t seeds;
    int64_t rows;
    const double *values;   /* [seeds, rows] */
    const double *baseline; /* [seeds, rows] of the same seeds and rows: the statistic is then that
                               of values minus that of baseline, paired; NULL: none */
    /* Rows of one unit are drawn together (the five captions of an image); NULL: each on its own.
     */
    const int32_t *units; /* [rows] 0 .. unit_count - 1 */
    int64_t unit_count;
    const int32_t *classes; /* CLASS_MEAN: [rows] 0 .. class_count - 1 */
    int64_t class_count;
    const double *class_weights; /* [class_count] >= 0, some > 0; NULL: equal */
} cps_bootstrap_values;
cps_status cps_bootstrap_values_run(const cps_bootstrap_values *values,
                                    const cps_bootstrap_options *options,
                                    cps_bootstrap_result *result_out) CPS_MUST_CHECK;

#endif
