/* The contrastive losses written down plainly, over the whole matrix and in double. */
#ifndef CPS_TESTS_CONTRASTIVE_REFERENCE_H
#define CPS_TESTS_CONTRASTIVE_REFERENCE_H

#include <math.h>

#include "base/types.h"

static double reference_logit(int64_t width, const cps_real *u, const cps_real *v, int64_t i,
                              int64_t j, double log_scale) {
    double dot = 0.0;
    for (int64_t k = 0; k < width; k++) {
        dot += (double)u[i * width + k] * (double)v[j * width + k];
    }
    return exp(log_scale) * dot;
}

/* Mean over rows and columns of log sum exp minus the mean logit of the positives. */
static double reference_softmax(int64_t rows, int64_t width, const cps_real *u, const cps_real *v,
                                cps_real log_scale, const int64_t *keys) {
    double loss = 0.0;
    for (int64_t i = 0; i < rows; i++) {
        double row_sum = 0.0, column_sum = 0.0, positives = 0.0, count = 0.0;
        for (int64_t j = 0; j < rows; j++) {
            const double z = reference_logit(width, u, v, i, j, (double)log_scale);
            const double turned = reference_logit(width, u, v, j, i, (double)log_scale);
            row_sum += exp(z);
            column_sum += exp(turned);
            if (keys != NULL ? keys[i] == keys[j] : i == j) {
                positives += z + turned;
                count += 1.0;
            }
        }
        loss += 0.5 * (log(row_sum) + log(column_sum) - positives / count) / (double)rows;
    }
    return loss;
}

static double reference_sigmoid(int64_t rows, int64_t width, const cps_real *u, const cps_real *v,
                                cps_real log_scale, cps_real bias) {
    double loss = 0.0;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < rows; j++) {
            const double z = reference_logit(width, u, v, i, j, (double)log_scale) + (double)bias;
            loss += log1p(exp(i == j ? -z : z)) / (double)rows;
        }
    }
    return loss;
}

#endif
