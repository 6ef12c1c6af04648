/* The loss over the gathered batch, alike on every rank. All similarities with captions come from
 * one product Y [X; U]': its first N columns serve both directions of the pairs, the others are
 * negatives of the captions and, transposed, the queries' logits. */
#include <stddef.h>

#include "sclip.h"

typedef struct batch {
    cps_tensor *image, *text, *query; /* X [N, D], Y [N, D], U [M, D] */
    cps_tensor *log_scale, *scale;
    cps_tensor *cosines;    /* Y [X; U]' [N, N + M], or Y X' where no term wants the rest */
    cps_tensor *logits;     /* scale * cosines */
    int64_t pairs, queries; /* N, M */
} batch;

/* This rank's rows of a slot; the published scripts' share of their gradient. */
static cps_tensor *rows_of(const sclip *self, cps_global *global, cps_tape *tape,
                           const char *slot) {
    cps_tensor *rows = cps_global_rows(global, slot);
    const int64_t ranks = self->options->published_ranks;
    return ranks > 1 ? sclip_scale_gradient(tape, rows, 1.0 / (double)ranks) : rows;
}

static cps_tensor *gathered(const sclip *self, cps_global *global, cps_tape *tape,
                            const char *slot) {
    return cps_gather(tape, rows_of(self, global, tape, slot));
}

static cps_status gather_batch(const sclip *self, cps_global *global, cps_tape *tape, batch *b) {
    *b = (batch){.image = gathered(self, global, tape, "image"),
                 .text = gathered(self, global, tape, "text"),
                 .query = gathered(self, global, tape, "query"),
                 .log_scale = cps_global_parameter(global, self->log_scale)};
    if (b->image == NULL || b->text == NULL || b->query == NULL) {
        return cps_tape_status(tape);
    }
    b->pairs = b->image->shape[0];
    b->queries = b->query->shape[0];
    cps_tensor *const seen[] = {b->image, b->query};
    const bool joined =
        b->queries > 0 && (self->options->query_negatives || self->options->caption_term);
    cps_tensor *images = joined ? cps_concat_rows(tape, 2, seen) : b->image;
    b->scale = cps_unary(tape, b->log_scale, CPS_EXP);
    b->cosines = cps_matmul(tape, b->text, images, false, true, 1.0);
    b->logits = cps_mul(tape, b->cosines, b->scale);
    return cps_tape_status(tape);
}

/* Sum over rows of logsumexp - entry on the diagonal. */
static cps_tensor *diagonal_cross_entropy(cps_tape *tape, cps_tensor *logits) {
    cps_tensor *target = logits == NULL ? NULL : cps_tape_tensor(tape, CPS_I32, 1, logits->shape);
    for (int64_t i = 0; target != NULL && cps_tape_computes(tape) && i < target->shape[0]; i++) {
        ((int32_t *)target->data)[i] = (int32_t)i;
    }
    return cps_cross_entropy(tape, logits, target, NULL);
}

static cps_tensor *contrastive_term(const sclip *self, cps_tape *tape, const batch *b) {
    const bool narrow = b->logits != NULL && b->logits->shape[1] == b->pairs;
    cps_tensor *square = narrow ? b->logits : cps_slice_columns(tape, b->logits, 0, b->pairs);
    cps_tensor *by_text = self->options->query_negatives ? b->logits : square;
    cps_tensor *sum = cps_add(tape, diagonal_cross_entropy(tape, cps_transpose(tape, square)),
                              diagonal_cross_entropy(tape, by_text));
    return cps_affine(tape, sum, 0.5 / (double)b->pairs, 0.0);
}

static cps_tensor *constant_unless(cps_tape *tape, bool learns, cps_tensor *x) {
    return learns ? x : cps_stop_gradient(tape, x);
}

/* Plan [M, N] of the queries over the pairs. */
static cps_tensor *plan_of(const sclip *self, cps_tape *tape, const batch *b) {
    const sclip_options *options = self->options;
    const bool learns = options->plan_grad && !sclip_is_hard(options->plan);
    cps_tensor *support = sclip_by_text(options->plan) ? b->text : b->image;
    cps_tensor *cosines = cps_matmul(tape, constant_unless(tape, learns, b->query),
                                     constant_unless(tape, learns, support), false, true, 1.0);
    return sclip_plan(tape, options, cosines, constant_unless(tape, learns, b->log_scale));
}

static cps_tensor *caption_term(cps_tape *tape, const batch *b, cps_tensor *plan) {
    cps_tensor *logits =
        cps_transpose(tape, cps_slice_columns(tape, b->logits, b->pairs, b->queries));
    return cps_affine(tape, cps_soft_cross_entropy(tape, logits, plan, NULL),
                      0.5 / (double)b->queries, 0.0);
}

/* Share of the pairs whose caption holds a keyword. */
static double keyword_share(cps_tape *tape, const cps_tensor *mask) {
    int64_t held = 0;
    for (int64_t i = 0; cps_tape_computes(tape) && i < mask->shape[0]; i++) {
        const int32_t *row = (const int32_t *)mask->data + i * mask->shape[1];
        bool any = false;
        for (int64_t k = 0; k < mask->shape[1]; k++) {
            any = any || row[k] != 0;
        }
        held += any;
    }
    return (double)held / (double)mask->shape[0];
}

static cps_tensor *keyword_term(const sclip *self, cps_global *global, cps_tape *tape,
                                const batch *b, cps_tensor *plan) {
    cps_tensor *keyword = cps_gather(tape, cps_global_rows(global, "keyword"));
    cps_tensor *mask = cps_gather(tape, cps_global_rows(global, "keyword_mask"));
    cps_tensor *logits =
        cps_mul(tape, cps_matmul(tape, b->query, keyword, false, true, 1.0), b->scale);
    cps_tensor *nearest = sclip_nearest(tape, plan, b->log_scale);
    int64_t guarded = 0;
    cps_tensor *target = sclip_target(tape, self->options, logits, mask, nearest, &guarded);
    if (target == NULL) {
        return NULL;
    }
    cps_global_report(global, "keyword_share", keyword_share(tape, mask));
    cps_global_report(global, "guarded_targets", (double)guarded);
    return cps_affine(tape, cps_soft_cross_entropy(tape, logits, target, NULL),
                      0.5 / (double)b->queries, 0.0);
}

/* Pairs alone: CLIP's loss, which needs no N x N matrix. */
static cps_status pairs_loss(const sclip *self, cps_global *global, cps_tape *tape) {
    cps_tensor *term = cps_softmax_contrastive(tape, rows_of(self, global, tape, "image"),
                                               rows_of(self, global, tape, "text"),
                                               cps_global_parameter(global, self->log_scale), NULL);
    cps_global_term(global, "contrastive", term, 1.0);
    return cps_tape_status(tape);
}

cps_status sclip_loss(const void *values, cps_global *global, cps_tape *tape) {
    const sclip *self = values;
    batch b;
    if (self->query < 0) {
        return pairs_loss(self, global, tape);
    }
    const cps_status status = gather_batch(self, global, tape, &b);
    if (status != CPS_OK || b.logits == NULL) {
        return status;
    }
    cps_global_term(global, "contrastive", contrastive_term(self, tape, &b), 1.0);
    const bool captions = self->options->caption_term, keywords = self->keyword_count > 0;
    if (b.queries == 0 || (!captions && !keywords)) {
        return cps_tape_status(tape);
    }
    if (b.queries == 1 && sclip_is_ot(self->options->plan)) {
        cps_warn_once(global, "sclip: a step has one query: its optimal-transport plan is uniform "
                              "whatever it shows; use more rows, or another plan");
    }
    cps_tensor *plan = plan_of(self, tape, &b);
    if (captions) {
        cps_global_term(global, "caption", caption_term(tape, &b, plan), 1.0);
    }
    if (keywords) {
        cps_global_term(global, "keyword", keyword_term(self, global, tape, &b, plan), 1.0);
    }
    return cps_tape_status(tape);
}
