/* Distributions that the tests need: normal, Student's t, chi-square, fair coin. f64 in both
 * builds, to 1e-12 of the value, in the tails too. Pure functions; safe on any thread. NaN in, NaN
 * out; an argument outside its range gives NaN too. */
#ifndef CPS_REPORT_DISTRIBUTIONS_H
#define CPS_REPORT_DISTRIBUTIONS_H

#include "base/types.h"

/* P(Z <= z), and the z with P(Z <= z) = p: -infinity for 0, infinity for 1. */
double cps_normal_below(double z);
double cps_normal_quantile(double p);

/* P(T > t) for `freedom` > 0 degrees of freedom (any real), and the t with P(T <= t) = p. */
double cps_student_above(double t, double freedom);
double cps_student_quantile(double p, double freedom);

/* P(X > x) of chi-square with a whole number of degrees of freedom >= 1. */
double cps_chi_square_above(double x, int64_t freedom);

/* n tosses of a fair coin, 0 <= k <= n: P(X = k); P(X < k) for 2k <= n. */
double cps_coin_exactly(int64_t k, int64_t n);
double cps_coin_fewer(int64_t k, int64_t n);

/* Where f changes its sign between low and high, to the last digits or nearly. f(low) and f(high)
 * are finite and of opposite signs; where one of them is 0 it is the root. */
typedef double (*cps_function)(const void *context, double x);
double cps_root(cps_function f, const void *context, double low, double high);

#endif
