/* Keyword targets: a query takes the keywords of its nearest pair's caption, shared out by its own
 * similarity to them. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sclip.h"

typedef struct candidates {
    int64_t count;
    double sum, size, top; /* of the logits: sum, sum of their sizes, largest */
    bool positive;         /* all of them are above 0 */
} candidates;

static candidates survey(int64_t keywords, const cps_real *logits, const int32_t *mask) {
    candidates found = {.top = -HUGE_VAL, .positive = true};
    for (int64_t k = 0; k < keywords; k++) {
        if (mask[k] != 0) {
            const double logit = (double)logits[k];
            found.count++;
            found.sum += logit;
            found.size += fabs(logit);
            found.top = fmax(found.top, logit);
            found.positive = found.positive && logit > 0.0;
        }
    }
    return found;
}

static void softmax_target(int64_t keywords, const cps_real *logits, const int32_t *mask,
                           double top, cps_real *target) {
    double sum = 0.0;
    for (int64_t k = 0; k < keywords; k++) {
        sum += mask[k] != 0 ? exp((double)logits[k] - top) : 0.0;
    }
    for (int64_t k = 0; k < keywords; k++) {
        target[k] = mask[k] != 0 ? (cps_real)(exp((double)logits[k] - top) / sum) : 0;
    }
}

/* One row; true if its candidates' similarities could not serve as they are. The scale is in every
 * logit of a row alike and cancels in the linear form. */
static bool row_target(const sclip_options *options, int64_t keywords, const cps_real *logits,
                       const int32_t *mask, cps_real *target) {
    const candidates found = survey(keywords, logits, mask);
    const double rounding = sizeof(cps_real) == sizeof(float) ? (double)FLT_EPSILON : DBL_EPSILON;
    if (found.count < 2) {
        for (int64_t k = 0; k < keywords; k++) {
            target[k] = mask[k] != 0 ? 1 : 0;
        }
        return false;
    }
    const bool guarded =
        options->keyword_target == SCLIP_LINEAR &&
        (fabs(found.sum) <= rounding * found.size || (options->strict_target && !found.positive));
    if (guarded || options->keyword_target == SCLIP_SOFTMAX) {
        softmax_target(keywords, logits, mask, found.top, target);
        return guarded;
    }
    for (int64_t k = 0; k < keywords; k++) {
        target[k] = mask[k] != 0 ? (cps_real)((double)logits[k] / found.sum) : 0;
    }
    return false;
}

cps_tensor *sclip_target(cps_tape *tape, const sclip_options *options, cps_tensor *logits,
                         cps_tensor *mask, cps_tensor *nearest, int64_t *guarded_out) {
    cps_tensor *target = logits == NULL || mask == NULL || nearest == NULL
                             ? NULL
                             : cps_tape_tensor(tape, CPS_REAL, 2, logits->shape);
    *guarded_out = 0;
    if (target == NULL) {
        return NULL;
    }
    const cps_node node = {.name = "sclip_target", .output_count = 1, .outputs = {target}};
    cps_tape_record(tape, &node); /* no input: names it, learns nothing */
    const int64_t keywords = logits->shape[1];
    for (int64_t u = 0; cps_tape_computes(tape) && u < logits->shape[0]; u++) {
        const int64_t pair = ((const int32_t *)nearest->data)[u];
        *guarded_out += row_target(options, keywords, (const cps_real *)logits->data + u * keywords,
                                   (const int32_t *)mask->data + pair * keywords,
                                   (cps_real *)target->data + u * keywords);
    }
    return target;
}
