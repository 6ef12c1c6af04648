/* Where a finite sum of positive terms exists it is used (chi-square, coin); Student's t needs the
 * incomplete beta function. Differences of log-gammas are taken of Stirling's remainders, since the
 * functions themselves lose digits as their arguments grow. */
#include "report/distributions.h"

#include <float.h>
#include <math.h>

static const double pi = 3.141592653589793238462643383280;
static const double not_a_number = (double)NAN;
static const double infinite = (double)INFINITY;

/* ---- roots ---- */

/* Ridders, IEEE Trans. Circuits Syst. 26 (1979): false position after a factor that straightens the
 * function; the bracket stays one, digits double with each turn of two values. */
double cps_root(cps_function f, const void *context, double low, double high) {
    enum { MOST_TURNS = 200 };
    double f_low = f(context, low), f_high = f(context, high);
    double best = fabs(f_low) < fabs(f_high) ? low : high;
    for (int turn = 0; turn < MOST_TURNS && f_low != 0.0 && f_high != 0.0; turn++) {
        const double middle = low + 0.5 * (high - low);
        const double f_middle = f(context, middle);
        const double slope = sqrt(f_middle * f_middle - f_low * f_high);
        if (f_middle == 0.0 || !(slope > 0.0) || !isfinite(slope)) {
            return f_middle == 0.0 ? middle : best;
        }
        const double step = (middle - low) * f_middle / slope;
        const double next = f_low > f_high ? middle + step : middle - step;
        const double f_next = f(context, next);
        const bool still = fabs(next - best) <= 1e-13 * fabs(next);
        best = next;
        if (still || f_next == 0.0) {
            break;
        }
        /* the narrowest bracket of the four places */
        if ((f_middle > 0.0) != (f_next > 0.0)) {
            low = middle, f_low = f_middle;
            high = next, f_high = f_next;
        } else if ((f_low > 0.0) != (f_next > 0.0)) {
            high = next, f_high = f_next;
        } else {
            low = next, f_low = f_next;
        }
    }
    return best;
}

/* ---- normal ---- */

double cps_normal_below(double z) {
    return 0.5 * erfc(-z * sqrt(0.5));
}

/* The lower tail, 0 < p <= 1/2: a start with an error below 4.5e-4 (Abramowitz and Stegun, Handbook
 * of Mathematical Functions, 26.2.23), then Halley's method on P(Z <= z) = p; erfc is relatively
 * exact there. */
static double lower_quantile(double p) {
    enum { HALLEY_STEPS = 4 }; /* errors go 4e-4, 1e-11, below 1e-16 */
    const double t = sqrt(-2.0 * log(p));
    double z = (2.515517 + t * (0.802853 + t * 0.010328)) /
                   (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))) -
               t;
    for (int i = 0; i < HALLEY_STEPS; i++) {
        const double step = (cps_normal_below(z) - p) * sqrt(2.0 * pi) * exp(0.5 * z * z);
        z -= step / (1.0 + 0.5 * z * step);
    }
    return z;
}

double cps_normal_quantile(double p) {
    if (!(p >= 0.0 && p <= 1.0)) {
        return not_a_number;
    }
    if (p == 0.0 || p == 1.0) {
        return p == 0.0 ? -infinite : infinite;
    }
    if (p == 0.5) {
        return 0.0;
    }
    /* 1 - p is exact from 1/2 on */
    return p < 0.5 ? lower_quantile(fmax(p, DBL_MIN)) : -lower_quantile(1.0 - p);
}

/* ---- Stirling ---- */

/* ln Gamma(x) - ((x - 1/2) ln x - x + ln(2 pi) / 2), x > 0. */
static double stirling_remainder(double x) {
    enum { SERIES_FROM = 16 };
    if (x < SERIES_FROM) {
        return log(tgamma(x)) - ((x - 0.5) * log(x) - x + 0.5 * log(2.0 * pi));
    }
    const double r = 1.0 / (x * x); /* Abramowitz and Stegun 6.1.41; the next term is below 1e-16 */
    return (1.0 / 12 -
            r * (1.0 / 360 -
                 r * (1.0 / 1260 - r * (1.0 / 1680 - r * (1.0 / 1188 - r * 691.0 / 360360))))) /
           x;
}

/* ---- Student's t ---- */

/* ln(Gamma(a + 1/2) / (Gamma(a) Gamma(1/2))). */
static double log_beta_factor(double a) {
    return a * log1p(0.5 / a) + 0.5 * log(a) - 0.5 + stirling_remainder(a + 0.5) -
           stirling_remainder(a) - 0.5 * log(pi);
}

/* The continued fraction of the incomplete beta function I_x(a, b), without the factor in front of
 * it (Abramowitz and Stegun 26.5.8), by Lentz's method as modified by Thompson and Barnett (J.
 * Comput. Phys. 64, 1986). Converges in some sqrt(max(a, b)) turns for x < (a + 1) / (a + b + 2).
 */
static double beta_fraction(double a, double b, double x) {
    enum { MOST_TURNS = 1000000 };
    const double tiny = 1e-300;
    double c = 1.0, d = 1.0 - (a + b) * x / (a + 1.0);
    d = 1.0 / (fabs(d) < tiny ? tiny : d);
    double value = d;
    for (int turn = 1; turn <= MOST_TURNS; turn++) {
        const double m = turn;
        double last = 1.0;
        for (int odd = 0; odd < 2; odd++) {
            const double term =
                odd == 0 ? m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
                         : -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
            d = 1.0 + term * d;
            d = 1.0 / (fabs(d) < tiny ? tiny : d);
            c = 1.0 + term / c;
            c = fabs(c) < tiny ? tiny : c;
            last = c * d;
            value *= last;
        }
        if (fabs(last - 1.0) < 1e-16) {
            break;
        }
    }
    return value;
}

double cps_student_above(double t, double freedom) {
    if (isnan(t) || !(freedom > 0.0)) {
        return not_a_number;
    }
    if (freedom > 1e10) { /* the two differ by less than 1e-9 of the probability where it matters */
        return cps_normal_below(-t);
    }
    if (isinf(t)) {
        return t > 0.0 ? 0.0 : 1.0;
    }
    /* P(|T| > t) = I_x(a, 1/2), x = freedom / (freedom + t^2); rest = 1 - x without cancellation */
    const double a = 0.5 * freedom, ratio = t * t / freedom;
    const double x = 1.0 / (1.0 + ratio);
    const double rest = ratio > 1.0 ? 1.0 / (1.0 + 1.0 / ratio) : ratio / (1.0 + ratio);
    double outside;
    if (rest == 0.0) {
        outside = 1.0;
    } else {
        const double front = exp(log_beta_factor(a) - a * log1p(ratio) + 0.5 * log(rest));
        outside = x < (a + 1.0) / (a + 2.5) ? front * beta_fraction(a, 0.5, x) / a
                                            : 1.0 - front * beta_fraction(0.5, a, rest) / 0.5;
    }
    return t >= 0.0 ? 0.5 * outside : 1.0 - 0.5 * outside;
}

typedef struct student_tail {
    double freedom, log_tail;
} student_tail;

static double student_excess(const void *context, double t) {
    const student_tail *wanted = context;
    return log(cps_student_above(t, wanted->freedom)) - wanted->log_tail;
}

double cps_student_quantile(double p, double freedom) {
    if (!(p >= 0.0 && p <= 1.0) || !(freedom > 0.0)) {
        return not_a_number;
    }
    if (p == 0.0 || p == 1.0 || p == 0.5) {
        return p == 0.5 ? 0.0 : p == 0.0 ? -infinite : infinite;
    }
    /* By symmetry the positive t with P(T > t) = tail, between two powers of two. */
    const student_tail wanted = {freedom, log(p < 0.5 ? p : 1.0 - p)};
    double low = 0.0, high = 1.0;
    while (high < 1e150 && student_excess(&wanted, high) > 0.0) {
        low = high;
        high *= 2.0;
    }
    const double t = cps_root(student_excess, &wanted, low, high);
    return p < 0.5 ? -t : t;
}

/* ---- chi-square ---- */

/* Abramowitz and Stegun 26.4.4 and 26.4.5: even degrees of freedom are a sum of Poisson terms h^j
 * e^-h / j!, h = x / 2, j = 0 .. freedom/2 - 1; odd ones erfc(sqrt(h)) and the same with j = 1/2,
 * 3/2, ... All terms are positive. */
double cps_chi_square_above(double x, int64_t freedom) {
    if (isnan(x) || freedom < 1) {
        return not_a_number;
    }
    if (x <= 0.0) {
        return 1.0;
    }
    const double h = 0.5 * x;
    const double end = 0.5 * (double)freedom;
    double sum = 0.0;
    double j = 0.0;
    if (freedom % 2 != 0) {
        sum = erfc(sqrt(h));
        j = 0.5;
    }
    for (; j < end; j += 1.0) {
        /* ln Gamma(j + 1) by its Stirling form, so that large j cost no digits */
        const double n = j + 1.0;
        const double log_term =
            j * log(h / n) + n - h - 0.5 * log(n) - 0.5 * log(2.0 * pi) - stirling_remainder(n);
        sum += exp(log_term);
    }
    return fmin(sum, 1.0);
}

/* ---- a fair coin ---- */

/* Loader, "Fast and accurate computation of binomial probabilities", 2000: Stirling's remainders
 * and the deviance from n/2, here n/2 ((1 - d) ln(1 - d) + (1 + d) ln(1 + d)) with d = 1 - 2k/n. */
double cps_coin_exactly(int64_t k, int64_t n) {
    if (n < 0 || k < 0 || k > n) {
        return not_a_number;
    }
    if (k == 0 || k == n) {
        return exp2(-(double)n);
    }
    const double size = (double)n, few = (double)k, many = (double)(n - k);
    const double d = (many - few) / size;
    const double deviance = 0.5 * size * ((1.0 - d) * log1p(-d) + (1.0 + d) * log1p(d));
    return sqrt(size / (2.0 * pi * few * many)) *
           exp(stirling_remainder(size) - stirling_remainder(few) - stirling_remainder(many) -
               deviance);
}

double cps_coin_fewer(int64_t k, int64_t n) {
    if (n < 0 || k < 0 || k > n || k > n - k) {
        return not_a_number;
    }
    /* From the largest term down, each the one before times i / (n - i + 1) < 1. */
    double term = cps_coin_exactly(k, n), sum = 0.0;
    for (int64_t i = k; i > 0; i--) {
        term *= (double)i / (double)(n - i + 1);
        sum += term;
        if (term <= 1e-18 * sum) { /* also when all of it is below the smallest double */
            break;
        }
    }
    return sum;
}
