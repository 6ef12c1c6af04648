/* DALIP: CLIP's loss on two features of each side, the pooled one and one of pairwise channel
 * distances of its tokens (Wu et al. 2025, arXiv:2504.01386). dalip.md has the formulas. */
#include "dalip.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

static const char *const norm_names[] = {"batch", "layer", NULL};
static const char *const drop_names[] = {"channels", "tokens", NULL};
static const char *const combine_names[] = {"losses", "similarities", NULL};
static const char *const lambda_names[] = {"first", "second", NULL};

static const cps_option options[] = {
    {.name = "image",
     .kind = CPS_OPT_TOWER,
     .default_text = "image",
     .help = "image tower",
     .offset = offsetof(dalip_options, image)},
    {.name = "text",
     .kind = CPS_OPT_TOWER,
     .default_text = "text",
     .help = "text tower",
     .offset = offsetof(dalip_options, text)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .default_text = "paired",
     .help = "stream of image-text pairs",
     .offset = offsetof(dalip_options, stream)},
    {.name = "heads",
     .kind = CPS_OPT_INTEGER,
     .default_text = "4",
     .minimum = 1,
     .maximum = 1024,
     .help = "heads of the distance covariance; divides the width of the features",
     .offset = offsetof(dalip_options, heads)},
    {.name = "reduced",
     .kind = CPS_OPT_INTEGER,
     .default_text = "46",
     .minimum = 2,
     .maximum = 1024,
     .help = "channels of a head after its reduction",
     .offset = offsetof(dalip_options, reduced)},
    {.name = "eps",
     .kind = CPS_OPT_NUMBER,
     .default_text = "1e-5",
     .minimum = 1e-12,
     .maximum = 1,
     .help = "added to a distance under the root",
     .offset = offsetof(dalip_options, eps)},
    {.name = "dropout",
     .kind = CPS_OPT_NUMBER,
     .default_text = "0.5",
     .minimum = 0,
     .maximum = 0.99,
     .help = "chance that a channel or token is dropped in training",
     .offset = offsetof(dalip_options, dropout)},
    {.name = "image_norm",
     .kind = CPS_OPT_CHOICE,
     .choices = norm_names,
     .default_text = "batch",
     .help = "norm of the images' reduced tokens: over the grain by channel, or a token's own",
     .offset = offsetof(dalip_options, image_norm)},
    {.name = "image_dropout",
     .kind = CPS_OPT_CHOICE,
     .choices = drop_names,
     .default_text = "channels",
     .help = "what is dropped of images",
     .offset = offsetof(dalip_options, image_dropout)},
    {.name = "text_dropout",
     .kind = CPS_OPT_CHOICE,
     .choices = drop_names,
     .default_text = "tokens",
     .help = "what is dropped of texts",
     .offset = offsetof(dalip_options, text_dropout)},
    {.name = "learned_factor",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "the factor of distances, 1/(2 tokens), is learned as exp(t), as in DeepBDC",
     .offset = offsetof(dalip_options, learned_factor)},
    {.name = "pad_mask",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "positions behind a text's end token do not count (the published code counts them)",
     .offset = offsetof(dalip_options, pad_mask)},
    {.name = "second_scale",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "the second feature has a scale of its own, starting at init_scale",
     .offset = offsetof(dalip_options, second_scale)},
    {.name = "combine",
     .kind = CPS_OPT_CHOICE,
     .choices = combine_names,
     .default_text = "losses",
     .help = "losses: alpha of the first, 1 - alpha of the second; similarities: one loss on their "
             "sum weighted by lambda",
     .offset = offsetof(dalip_options, combine)},
    {.name = "alpha",
     .kind = CPS_OPT_SCHEDULE,
     .default_text = "0.5",
     .minimum = 0,
     .maximum = 1,
     .help = "share of the first feature's loss, by step",
     .offset = offsetof(dalip_options, alpha)},
    {.name = "lambda",
     .kind = CPS_OPT_NUMBERS,
     .default_text = "{0.5,0.5}",
     .minimum = 0,
     .maximum = 1e6,
     .choices = lambda_names,
     .length = 2,
     .help = "weights of the similarities of the first and the second feature",
     .offset = offsetof(dalip_options, lambda)},
    {.name = "init_scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "14.285714285714286",
     .minimum = 1.0,
     .maximum = 1e6,
     .help = "initial scale of the similarities, 1/temperature, where no weights give one",
     .offset = offsetof(dalip_options, init_scale)},
    {.name = "max_scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "100",
     .minimum = 1.0,
     .maximum = 1e6,
     .help = "the scale is kept in [1, max_scale]",
     .offset = offsetof(dalip_options, max_scale)},
    {.name = "published_ranks",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 1000000,
     .help =
         "for comparisons: gradient of the published code on so many processes; 0: the exact one",
     .offset = offsetof(dalip_options, published_ranks)},
    {.name = "published_local_loss",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "with published_ranks: a process compares its own rows with all rows",
     .offset = offsetof(dalip_options, published_local_loss)},
    {.name = "published_gather_with_grad",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "with published_ranks: gradients reach the rows of other processes",
     .offset = offsetof(dalip_options, published_gather_with_grad)},
    {.name = NULL},
};

/* ---- what it wants ---- */

/* The second feature is made of tokens: a vision transformer's patches, a text tower's positions.
 */
static cps_status check_tower(cps_setup *setup, const char *tower, bool image) {
    const char *kind = image ? "image" : "text";
    if (cps_setup_tower_size(setup, tower, "embed_dim") < 0) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "%s = '%s': the model has no tower of that name; add it to model.towers, "
                         "or name another",
                         kind, tower);
    }
    return cps_setup_tower_size(setup, tower, image ? "patch" : "context") > 0
               ? CPS_OK
               : cps_error(setup, CPS_ERR_USAGE,
                           "%s = '%s': wanted is a %s: the second feature is made of the tokens "
                           "that it gives for each %s",
                           kind, tower, image ? "vision transformer" : "text tower", kind);
}

static cps_status check_towers(cps_setup *setup, const dalip_options *wanted) {
    const cps_status status = check_tower(setup, wanted->image, true);
    return status != CPS_OK ? status : check_tower(setup, wanted->text, false);
}

static cps_status check_widths(cps_setup *setup, const dalip_options *wanted) {
    const int64_t image = cps_setup_tower_size(setup, wanted->image, "embed_dim");
    const int64_t text = cps_setup_tower_size(setup, wanted->text, "embed_dim");
    if (image < 1 || image != text) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "towers '%s' and '%s' give %lld and %lld numbers: features that are "
                         "compared have one width (embed_dim)",
                         wanted->image, wanted->text, (long long)image, (long long)text);
    }
    return image % wanted->heads == 0
               ? CPS_OK
               : cps_error(setup, CPS_ERR_USAGE,
                           "heads = %lld does not divide the features' width %lld (embed_dim of "
                           "the towers): choose one that does",
                           (long long)wanted->heads, (long long)image);
}

static cps_status check_options(cps_setup *setup, const dalip_options *wanted, const char *stream) {
    const double *lambda = wanted->lambda.values;
    if (wanted->combine == DALIP_OF_SIMILARITIES && wanted->second_scale) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "second_scale = true goes with combine = \"losses\": a sum of "
                         "similarities has one scale");
    }
    if (wanted->combine == DALIP_OF_SIMILARITIES && !(lambda[0] + lambda[1] > 0.0)) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "both weights of lambda are 0, one above 0 is wanted");
    }
    if (wanted->published_ranks > 0 && wanted->second_scale) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "published_ranks = %lld goes with second_scale = false: the published "
                         "loss has one scale",
                         (long long)wanted->published_ranks);
    }
    if (wanted->init_scale > wanted->max_scale) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "init_scale = %g is above max_scale = %g, where the scale is kept: make "
                         "it smaller, or raise max_scale",
                         wanted->init_scale, wanted->max_scale);
    }
    const int64_t rows = cps_setup_stream_rows(setup, stream);
    if (rows < 2 && !cps_setup_validation(setup)) {
        return cps_error(setup, CPS_ERR_USAGE,
                         "a step has %lld pair of stream '%s', the loss compares 2 at least: raise "
                         "global_batch",
                         (long long)rows, stream);
    }
    return CPS_OK;
}

/* M: patches, or positions of the context. */
static int64_t tokens_of(const cps_setup *setup, const char *tower, bool image) {
    const int64_t across = image ? cps_setup_tower_size(setup, tower, "image_size") /
                                       cps_setup_tower_size(setup, tower, "patch")
                                 : 0;
    return image ? across * across : cps_setup_tower_size(setup, tower, "context");
}

static cps_status add_side(cps_setup *setup, dalip *self, int32_t which, const char *stream) {
    const dalip_options *wanted = self->options;
    dalip_side *side = &self->sides[which];
    const bool image = which == CPS_SIDE_IMAGE;
    const char *tower = image ? wanted->image : wanted->text;
    *side = (dalip_side){.image = image,
                         .width = cps_setup_tower_size(setup, tower, "embed_dim"),
                         .entries = wanted->heads * wanted->reduced * (wanted->reduced + 1) / 2};
    side->view = cps_setup_view(setup, &(cps_view){.name = image ? "image" : "text",
                                                   .tower = tower,
                                                   .stream = stream,
                                                   .all_positions = !image,
                                                   .outputs = CPS_FEATURE | CPS_TOKENS_PROJECTED});
    if (side->view < 0) {
        return CPS_ERR_USAGE; /* the reason is on record */
    }
    dalip_side_declare(setup, wanted, tower, tokens_of(setup, tower, image), side);
    cps_setup_embed(setup, which, tower, CPS_FEATURE | CPS_TOKENS_PROJECTED, !image);
    cps_setup_embed_first(setup, which, CPS_FEATURE, false);
    return CPS_OK;
}

static int32_t add_scale(cps_setup *setup, const dalip_options *wanted, const char *name) {
    return cps_setup_parameter(setup, &(cps_parameter){.name = name,
                                                       .fill = CPS_FILL_CONSTANT,
                                                       .a = log(wanted->init_scale),
                                                       .bounded = true,
                                                       .minimum = 0.0,
                                                       .maximum = log(wanted->max_scale)});
}

static cps_status add_sides(cps_setup *setup, dalip *self, const char *stream) {
    cps_status status = check_towers(setup, self->options);
    status = status != CPS_OK ? status : check_options(setup, self->options, stream);
    status = status != CPS_OK ? status : check_widths(setup, self->options);
    status = status != CPS_OK ? status : add_side(setup, self, CPS_SIDE_IMAGE, stream);
    return status != CPS_OK ? status : add_side(setup, self, CPS_SIDE_TEXT, stream);
}

static cps_status create(cps_setup *setup, const void *values, void **self_out) {
    const dalip_options *wanted = values;
    dalip *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, wanted->stream);
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    self->options = wanted;
    if (!cps_setup_validation(setup)) { /* which has the plain loss */
        self->published = (cps_published){.ranks = wanted->published_ranks,
                                          .local_loss = wanted->published_local_loss,
                                          .gather_with_grad = wanted->published_gather_with_grad,
                                          .accumulation = 1};
    }
    const cps_status status = add_sides(setup, self, stream);
    if (status != CPS_OK) {
        return status;
    }
    self->log_scale = add_scale(setup, wanted, "logit_scale");
    self->second_scale =
        wanted->second_scale ? add_scale(setup, wanted, "logit_scale_second") : self->log_scale;
    *self_out = self;
    return CPS_OK;
}

/* ---- a grain ---- */

static cps_tensor *parameter_of(const cps_grain *grain, int32_t id) {
    return id < 0 ? NULL : cps_grain_parameter(grain, id);
}

static dalip_input input_of(const dalip_side *side, const cps_grain *grain) {
    return (dalip_input){.tokens = cps_grain_output(grain, side->view, CPS_TOKENS_PROJECTED),
                         .samples = cps_grain_rows(grain, side->view),
                         .offsets = cps_grain_offsets(grain, side->view),
                         .ends = cps_grain_ends(grain, side->view),
                         .evaluation = cps_grain_step(grain).evaluation,
                         .grain = grain,
                         .fc1 = parameter_of(grain, side->fc1),
                         .reduce = parameter_of(grain, side->reduce),
                         .gain = parameter_of(grain, side->gain),
                         .bias = parameter_of(grain, side->bias),
                         .mean = parameter_of(grain, side->mean),
                         .variance = parameter_of(grain, side->variance),
                         .log_factor = parameter_of(grain, side->log_factor),
                         .ln_gain = parameter_of(grain, side->ln_gain),
                         .ln_bias = parameter_of(grain, side->ln_bias),
                         .down = parameter_of(grain, side->down),
                         .down_bias = parameter_of(grain, side->down_bias),
                         .fc2 = parameter_of(grain, side->fc2)};
}

/* Means and variances of batch norm's calls, head by head, to be averaged over grains. */
static void give_moments(const dalip *self, const dalip_side *side, cps_grain *grain,
                         const double *moments) {
    const int64_t count = self->options->heads * self->options->reduced;
    if (moments != NULL) {
        cps_accumulate(grain, side->mean, moments, count);
        cps_accumulate(grain, side->variance, moments + count, count);
    }
}

/* Mean cosine of different rows z, [B, E] of unit norm: (|sum z|^2 - B) / (B (B - 1)). */
static void report_cosine(cps_grain *grain, const char *name, const cps_tensor *z) {
    const int64_t rows = z->shape[0], width = z->shape[1];
    const cps_real *values = z->data;
    double squares = 0.0;
    for (int64_t c = 0; values != NULL && c < width; c++) {
        double sum = 0.0, own = 0.0;
        for (int64_t b = 0; b < rows; b++) {
            const double value = (double)values[b * width + c];
            sum += value;
            own += value * value;
        }
        squares += sum * sum - own;
    }
    cps_report(grain, name, squares, (double)rows * (double)(rows - 1));
}

static void report_side(cps_grain *grain, const dalip_side *side, const dalip_watch *watch,
                        const cps_tensor *z) {
    static const dalip_watch none = {0};
    const dalip_watch *seen = watch == NULL ? &none : watch;
    cps_report(grain, side->image ? "image_dead_channels" : "text_dead_channels", seen->dead,
               seen->live + seen->dead);
    cps_report(grain, side->image ? "image_distance" : "text_distance", seen->roots, seen->pairs);
    report_cosine(grain, side->image ? "image_second_cosine" : "text_second_cosine", z);
}

static void emit_side(const dalip *self, int32_t which, cps_grain *grain, cps_tape *tape) {
    const dalip_side *side = &self->sides[which];
    const dalip_input input = input_of(side, grain);
    dalip_trace trace;
    cps_tensor *z = dalip_second(tape, self->options, side, &input, &trace);
    if (z == NULL) {
        return;
    }
    give_moments(self, side, grain, trace.moments);
    report_side(grain, side, trace.watch, z);
    cps_emit(grain, side->image ? "image_first" : "text_first", side->view,
             cps_grain_output(grain, side->view, CPS_FEATURE));
    cps_emit(grain, side->image ? "image_second" : "text_second", side->view, z);
}

static cps_status head(const void *values, cps_grain *grain, cps_tape *tape) {
    emit_side(values, CPS_SIDE_IMAGE, grain, tape);
    emit_side(values, CPS_SIDE_TEXT, grain, tape);
    return cps_tape_status(tape);
}

/* ---- the batch ---- */

/* One of the terms at work: emitted rows of images and texts, a scale, a weight. */
typedef struct term {
    const char *name;
    cps_tensor *images, *texts;
    int32_t log_scale;
    double weight;
} term;

static void add_term(const dalip *self, cps_global *global, cps_tape *tape, const term *t,
                     cps_published_shown *sum) {
    cps_tensor *log_scale = cps_global_parameter(global, t->log_scale), *loss;
    if (self->published.ranks > 0) {
        cps_published_shown own = {0};
        loss =
            cps_published_contrastive(tape, t->images, t->texts, log_scale, &self->published, &own);
        for (int r = 0; r < CPS_SHOWN_RANKS; r++) {
            sum->loss[r] += t->weight * own.loss[r];
            sum->d_log_scale[r] += t->weight * own.d_log_scale[r];
        }
    } else {
        loss = cps_softmax_contrastive(tape, t->images, t->texts, log_scale, NULL);
    }
    cps_global_term(global, t->name, loss, t->weight);
}

/* What each published process would see, before the mean over processes. */
static void report_ranks(const dalip *self, cps_global *global, const cps_published_shown *sum) {
    char name[64];
    for (int64_t r = 0; r < self->published.ranks && r < CPS_SHOWN_RANKS; r++) {
        snprintf(name, sizeof name, "rank%d.loss", (int)r);
        cps_global_report(global, name, sum->loss[r]);
        snprintf(name, sizeof name, "rank%d.d_logit_scale", (int)r);
        cps_global_report(global, name, sum->d_log_scale[r]);
    }
}

/* [sqrt(l1) f ; sqrt(l2) z]: products of such rows are weighted sums of similarities. */
static cps_tensor *joined(cps_tape *tape, cps_tensor *first, cps_tensor *second,
                          const double *lambda) {
    cps_tensor *const parts[] = {cps_affine(tape, first, sqrt(lambda[0]), 0.0),
                                 cps_affine(tape, second, sqrt(lambda[1]), 0.0)};
    return cps_concat_columns(tape, 2, parts);
}

static double alpha_of(const dalip_options *wanted, int64_t step) {
    const int64_t last = wanted->alpha.count - 1;
    return wanted->alpha.values[step < last ? step : last];
}

static cps_status loss(const void *values, cps_global *global, cps_tape *tape) {
    const dalip *self = values;
    const dalip_options *wanted = self->options;
    const double alpha = alpha_of(wanted, cps_global_step(global).step);
    const double *lambda = wanted->lambda.values;
    const term first = {"first", cps_global_rows(global, "image_first"),
                        cps_global_rows(global, "text_first"), self->log_scale, alpha};
    const term second = {"second", cps_global_rows(global, "image_second"),
                         cps_global_rows(global, "text_second"), self->second_scale, 1.0 - alpha};
    cps_published_shown sum = {0}; /* over the terms */
    if (wanted->combine == DALIP_OF_SIMILARITIES) {
        const term both = {"contrastive", joined(tape, first.images, second.images, lambda),
                           joined(tape, first.texts, second.texts, lambda), self->log_scale, 1.0};
        add_term(self, global, tape, &both, &sum);
    } else {
        add_term(self, global, tape, &first, &sum);
        add_term(self, global, tape, &second, &sum);
    }
    report_ranks(self, global, &sum);
    return cps_tape_status(tape);
}

static void move(const dalip *self, cps_global *global, int32_t buffer) {
    const double *sums = cps_global_sum(global, buffer);
    cps_real *values = cps_global_buffer(global, buffer);
    if (sums != NULL && values != NULL) {
        dalip_move_statistic(values, sums, (double)cps_global_step(global).grains,
                             self->options->heads, self->options->reduced);
    }
}

static cps_status commit(const void *values, cps_global *global) {
    const dalip *self = values;
    const dalip_side *side = &self->sides[CPS_SIDE_IMAGE];
    if (side->mean >= 0) {
        move(self, global, side->mean);
        move(self, global, side->variance);
    }
    return CPS_OK;
}

/* ---- evaluation ---- */

static cps_tensor *embed_parameter_of(const cps_embed *side, int32_t id) {
    return id < 0 ? NULL : cps_embed_parameter(side, id);
}

/* There is nothing between down and fc2: one matrix and one shift, E rows instead of Q. */
static cps_status prepare_embed(const void *values, cps_embed *embed, cps_tape *tape) {
    const dalip *self = values;
    for (int32_t which = 0; which < 2 && !cps_embed_first(embed); which++) {
        const dalip_side *side = &self->sides[which];
        cps_tensor *fc2 = cps_embed_parameter(embed, side->fc2);
        cps_tensor *shift = cps_reshape(tape, cps_embed_parameter(embed, side->down_bias), 2,
                                        (const int64_t[]){1, side->entries});
        cps_embed_keep(
            embed, 2 * which,
            cps_matmul(tape, fc2, cps_embed_parameter(embed, side->down), false, false, 1.0));
        cps_embed_keep(
            embed, 2 * which + 1,
            cps_reshape(tape, cps_matmul(tape, shift, fc2, false, true, 1.0), 1, &side->width));
    }
    return cps_tape_status(tape);
}

static dalip_input embed_input_of(const dalip_side *side, const cps_embed *embed) {
    const cps_tensor *feature = cps_embed_output(embed, CPS_FEATURE);
    return (dalip_input){.tokens = cps_embed_output(embed, CPS_TOKENS_PROJECTED),
                         .samples = feature == NULL ? 0 : feature->shape[0],
                         .offsets = cps_embed_offsets(embed),
                         .ends = cps_embed_ends(embed),
                         .evaluation = true,
                         .fc1 = embed_parameter_of(embed, side->fc1),
                         .reduce = embed_parameter_of(embed, side->reduce),
                         .gain = embed_parameter_of(embed, side->gain),
                         .bias = embed_parameter_of(embed, side->bias),
                         .mean = embed_parameter_of(embed, side->mean),
                         .variance = embed_parameter_of(embed, side->variance),
                         .log_factor = embed_parameter_of(embed, side->log_factor),
                         .ln_gain = embed_parameter_of(embed, side->ln_gain),
                         .ln_bias = embed_parameter_of(embed, side->ln_bias)};
}

static cps_status embed(const void *values, cps_embed *embedded, cps_tape *tape) {
    const dalip *self = values;
    const int32_t which = cps_embed_side(embedded);
    /* The published score is the first feature's; an evaluation's `score` changes that. */
    cps_embed_component(embedded, cps_embed_output(embedded, CPS_FEATURE), 1.0);
    if (cps_embed_first(embedded)) {
        return cps_tape_status(tape);
    }
    const dalip_input input = embed_input_of(&self->sides[which], embedded);
    dalip_trace trace;
    cps_tensor *q =
        dalip_normed_statistic(tape, self->options, &self->sides[which], &input, &trace);
    cps_embed_component(embedded,
                        cps_linear(tape, q, cps_embed_kept(embedded, 2 * which),
                                   cps_embed_kept(embedded, 2 * which + 1), CPS_ACT_NONE),
                        0.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {{
    .name = "dalip",
    .help = "CLIP's loss on pooled features and on channel distances of tokens (DALIP).",
    .options = options,
    .options_bytes = sizeof(dalip_options),
    .create = create,
    .head = head,
    .loss = loss,
    .commit = commit,
    .prepare_embed = prepare_embed,
    .embed = embed,
}};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
