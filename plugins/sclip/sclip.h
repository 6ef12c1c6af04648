/* Private to the sclip plugin: options, an instance, and its own operations. Letters as in
 * sclip.md: N pairs, M queries (images without captions), K keywords; s = exp(log_scale). */
#ifndef CPS_PLUGIN_SCLIP_H
#define CPS_PLUGIN_SCLIP_H

#include "copse_objective.h"

/* Which plan spreads queries over captions; choices of the option `plan`, in this order. */
typedef enum sclip_plan_kind {
    SCLIP_HARD_IMAGE,
    SCLIP_SOFT_IMAGE,
    SCLIP_OT_IMAGE,
    SCLIP_HARD_TEXT,
    SCLIP_SOFT_TEXT,
    SCLIP_OT_TEXT
} sclip_plan_kind;

typedef enum sclip_target_kind { SCLIP_LINEAR, SCLIP_SOFTMAX } sclip_target_kind;
typedef enum sclip_keyword_source { SCLIP_FROM_FILE, SCLIP_FROM_CLASSES } sclip_keyword_source;

typedef struct sclip_options {
    const char *image, *text, *stream, *unlabelled;
    double init_scale, max_scale;
    cps_lines keywords;
    int32_t keywords_from, plan, keyword_target;
    int64_t sinkhorn_iterations, published_ranks;
    bool plan_grad, query_negatives, caption_term, keyword_term, strict_target;
} sclip_options;

typedef struct sclip {
    const sclip_options *options;
    int64_t keyword_count; /* 0: no keyword term */
    const char *const *keywords;
    int32_t image, text, query, keyword, mask, log_scale; /* ids; query, keyword, mask may be -1 */
} sclip;

static inline bool sclip_is_hard(int32_t plan) {
    return plan == SCLIP_HARD_IMAGE || plan == SCLIP_HARD_TEXT;
}
static inline bool sclip_is_ot(int32_t plan) {
    return plan == SCLIP_OT_IMAGE || plan == SCLIP_OT_TEXT;
}
static inline bool sclip_by_text(int32_t plan) {
    return plan >= SCLIP_HARD_TEXT;
}

/* ---- keywords.c ---- */
/* Chooses the keywords that the options name; none are no error. */
cps_status sclip_take_keywords(cps_setup *setup, sclip *self, const char *stream);
/* Whether " keyword " occurs in " caption ", byte for byte. */
bool sclip_matches(const char *caption, const char *keyword);

/* ---- plan.c: operations ---- */
/* Row-stochastic plan [M, N] from cosines [M, N] and a log scale, solved in double. A hard plan is
 * a constant, the others send gradients to both inputs. */
cps_tensor *sclip_plan(cps_tape *tape, const sclip_options *options, cps_tensor *cosines,
                       cps_tensor *log_scale);
/* I32 [M]: the column of each row's largest entry, the lowest of those that are equal up to
 * rounding at scale exp(log_scale). A constant. */
cps_tensor *sclip_nearest(cps_tape *tape, cps_tensor *plan, cps_tensor *log_scale);
/* The same array; its gradient is multiplied by `factor`. */
cps_tensor *sclip_scale_gradient(cps_tape *tape, cps_tensor *x, double factor);

/* ---- target.c ---- */
/* Keyword targets [M, K], a constant: of logits [M, K], mask I32 [N, K] of the pairs' candidates,
 * nearest I32 [M]. *guarded_out: rows whose candidates could not be divided by their sum, or that
 * strict_target changed. */
cps_tensor *sclip_target(cps_tape *tape, const sclip_options *options, cps_tensor *logits,
                         cps_tensor *mask, cps_tensor *nearest, int64_t *guarded_out);

/* ---- loss.c ---- */
cps_status sclip_loss(const void *values, cps_global *global, cps_tape *tape);

#endif
