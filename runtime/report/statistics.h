/* Tests and intervals for comparing methods: shares, means over seeds, paired decisions, several
 * data sets. f64 in both builds; pure functions of their arguments (the longer ones allocate and
 * free working memory), the same bits on any threads, safe on any thread. Nothing here prints.
 *
 * Status codes: USAGE for settings out of range, DATA for numbers that no evaluation makes (none at
 * all, NaN, infinite, counts that contradict each other), UNAVAILABLE without memory. Results are
 * written on success only. What a function says of degenerate input (one seed, all equal) is a
 * result and no failure. */
#ifndef CPS_REPORT_STATISTICS_H
#define CPS_REPORT_STATISTICS_H

#include "base/status.h"

typedef struct cps_interval {
    double low, high;
} cps_interval;

/* Score interval of a share, successes of n: Wilson, J. Am. Stat. Assoc. 22 (1927), with z the
 * normal quantile of (1 + confidence) / 2:
 *     (p + z^2/2n +- z sqrt(p (1-p) / n + z^2/4n^2)) / (1 + z^2/n),   p = successes / n
 * It holds for one model and fresh samples; other seeds are not in it. n = 0: [0, 1]. */
cps_status cps_wilson(int64_t successes, int64_t n, double confidence,
                      cps_interval *interval_out) CPS_MUST_CHECK;

/* Mean over seeds with Student's interval: mean +- t sd / sqrt(count), t with count - 1 degrees of
 * freedom; sd divides by count - 1 (Student, Biometrika 6, 1908). One value: sd and interval are
 * NaN, since the variance between seeds is unknown. */
typedef struct cps_mean_summary {
    double mean, sd;
    cps_interval interval;
} cps_mean_summary;
cps_status cps_mean_summarize(const double *values, int64_t count, double confidence,
                              cps_mean_summary *summary_out) CPS_MUST_CHECK;

/* Quantile q in [0, 1] of ascending values, linear between neighbours: place q (count - 1) (Hyndman
 * and Fan, Am. Stat. 50 (1996), type 7; the default of R and NumPy). count >= 1. */
double cps_quantile_sorted(const double *ascending, int64_t count, double q);

/* McNemar, Psychometrika 12 (1947), on samples of one test set that two models decide differently:
 * n = only_a + only_b of them, m the smaller count, X the heads of n fair tosses.
 *     p_exact           min(1, 2 P(X <= m))
 *     p_mid             2 P(X < m) + P(X = m), for equal counts 1 - P(X = m): Fagerland, Lydersen
 *                       and Laake, BMC Med. Res. Methodol. 13:91 (2013), who advise it
 *     chi2_corrected    (|only_a - only_b| - 1)^2 / n, one degree of freedom: Edwards,
 * Psychometrika 13 (1948); for large n It is about these two trained models, not about their
 * methods: other seeds are not in it. No such samples: all p are 1, chi2 is 0. */
typedef struct cps_mcnemar_result {
    double p_exact, p_mid, chi2_corrected, p_chi2_corrected;
} cps_mcnemar_result;
cps_status cps_mcnemar(int64_t only_a_right, int64_t only_b_right,
                       cps_mcnemar_result *result_out) CPS_MUST_CHECK;

/* Exact test of symmetry about 0 (Fisher, The Design of Experiments, 1935, section 21; Pitman, J.
 * R. Stat. Soc. Suppl. 4, 1937): the share of the 2^count sign assignments whose |mean| is at least
 * the observed one, itself included. Ties are counted with a slack of 1e-15 of the mean, or of 16
 * roundings of the largest possible mean if that is more. All 2^count are counted, from sorted sums
 * of the two halves. Two-sided; the smallest p that can come out is 2 / 2^count, so fewer than six
 * differences never reach 0.05. All zero: 1. count 1 .. CPS_MOST_SIGNS. */
enum { CPS_MOST_SIGNS = 40 };
typedef struct cps_sign_flip_result {
    double p, smallest_p;
} cps_sign_flip_result;
cps_status cps_sign_flip(const double *differences, int64_t count,
                         cps_sign_flip_result *result_out) CPS_MUST_CHECK;

/* Holm, Scand. J. Stat. 6 (1979): p-values adjusted for being count tests at once, in the order of
 * the input. The i-th smallest (i from 0) times (count - i), not below an earlier one, at most 1.
 * Equal p get equal results. adjusted_out may be p. count = 0: nothing is done. A NaN is DATA: a
 * test that was not made is left out by the caller, since it would change the count. */
cps_status cps_holm(const double *p, int64_t count, double *adjusted_out) CPS_MUST_CHECK;

/* Friedman, J. Am. Stat. Assoc. 32 (1937); for methods over data sets: Demsar, JMLR 7 (2006). In
 * each block (data set) methods are ranked, 1 the best, ties share the mean of their places;
 *     chi2 = (12 / (b m (m+1)) sum R^2 - 3 b (m+1)) / (1 - sum(t^3 - t) / (b m (m^2 - 1)))
 * with R the rank sums of m methods over b blocks, t the sizes of ties; m - 1 degrees of freedom.
 * The chi-square is an approximation that wants b > 10 and m > 5. All tied everywhere: chi2 = 0,
 * p = 1.
 *   scores          [blocks, methods], blocks >= 1, methods >= 2
 *   mean_ranks_out  [methods] */
typedef struct cps_friedman_result {
    double chi2, p;
} cps_friedman_result;
cps_status cps_friedman(const double *scores, int64_t blocks, int64_t methods,
                        bool larger_is_better, cps_friedman_result *result_out,
                        double *mean_ranks_out) CPS_MUST_CHECK;

/* The error of an estimate that is a mean over seeds and over samples of one test set, in its two
 * independent sources: their shares of the variance of the estimate and the degrees of freedom that
 * each was estimated with. Freedom 0: that source is unknown (one seed) or absent, its variance is
 * taken as 0. Where both are unknown (one sample, one seed) nothing can be said: NaN comes of it.
 * bootstrap.h makes it. */
typedef struct cps_spread {
    double seed_variance, seed_freedom;
    double sample_variance, sample_freedom;
} cps_spread;

/* Half the width of the interval: sqrt(sum over sources of t_f^2 variance), t_f Student's quantile
 * of (1 + confidence) / 2 with the source's own degrees of freedom f. With one source it is
 * Student's; with two normal ones it covers at least what it says (Banerjee, Sankhya 22 (1960)),
 * whichever of them prevails. The usual approximation by one common number of degrees of freedom
 * does not, for two or three seeds. */
double cps_spread_half_width(const cps_spread *spread, double confidence);
/* The p of `estimate` against 0: 1 - the largest confidence whose interval leaves out 0. No spread
 * at all: 1 for an estimate of 0, else 0. Below 1e-130 it is 0; NaN for a NaN. */
double cps_spread_p(const cps_spread *spread, double estimate);
/* The smallest difference that this design finds with probability `power` at two-sided level alpha:
 * each source with (t_f(1 - alpha/2) + t_f(power)) for t_f (Bloom, Evaluation Review 19 (1995), per
 * source as above). Level and power in (0, 1), power >= 1/2; else NaN. */
double cps_spread_detectable(const cps_spread *spread, double alpha, double power);

/* USAGE unless 0 < confidence < 1. */
cps_status cps_confidence_check(double confidence) CPS_MUST_CHECK;
/* DATA unless count >= 1 and all are finite; `what` names them. */
cps_status cps_values_check(const double *values, int64_t count, const char *what) CPS_MUST_CHECK;

#endif
