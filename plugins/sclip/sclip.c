/* S-CLIP: few pairs, many images without captions, a list of keywords (Mo et al. 2023,
 * arXiv:2305.14095). What it asks for and emits; the loss is in loss.c, its plans in plan.c and
 * transport.c, its keywords in keywords.c and target.c. sclip.md has the formulas. */
#include "sclip.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const char *const plan_names[] = {"hard-image", "soft-image", "ot-image", "hard-text",
                                         "soft-text",  "ot-text",    NULL};
static const char *const target_names[] = {"linear", "softmax", NULL};
static const char *const source_names[] = {"file", "classes", NULL};

static const cps_option options[] = {
    {.name = "image",
     .kind = CPS_OPT_TOWER,
     .default_text = "image",
     .help = "image tower",
     .offset = offsetof(sclip_options, image)},
    {.name = "text",
     .kind = CPS_OPT_TOWER,
     .default_text = "text",
     .help = "text tower",
     .offset = offsetof(sclip_options, text)},
    {.name = "stream",
     .kind = CPS_OPT_STREAM,
     .default_text = "paired",
     .help = "stream of image-text pairs, the clock",
     .offset = offsetof(sclip_options, stream)},
    {.name = "unlabelled",
     .kind = CPS_OPT_STREAM,
     .default_text = "unlabelled",
     .help = "stream of images without captions, the queries",
     .offset = offsetof(sclip_options, unlabelled)},
    {.name = "keywords",
     .kind = CPS_OPT_LINES,
     .help = "file of keywords, one a line",
     .offset = offsetof(sclip_options, keywords)},
    {.name = "keywords_from",
     .kind = CPS_OPT_CHOICE,
     .choices = source_names,
     .default_text = "file",
     .help = "where keywords come from: the file, or the class names of the paired stream",
     .offset = offsetof(sclip_options, keywords_from)},
    {.name = "plan",
     .kind = CPS_OPT_CHOICE,
     .choices = plan_names,
     .default_text = "ot-image",
     .help = "how queries are spread over the captions of the batch",
     .offset = offsetof(sclip_options, plan)},
    {.name = "plan_grad",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "the gradient goes through a soft or transport plan too",
     .offset = offsetof(sclip_options, plan_grad)},
    {.name = "sinkhorn_iterations",
     .kind = CPS_OPT_INTEGER,
     .default_text = "10",
     .minimum = 1,
     .maximum = 1000,
     .help = "iterations of the transport plan",
     .offset = offsetof(sclip_options, sinkhorn_iterations)},
    {.name = "query_negatives",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "queries are negatives of the captions in the pairs' loss",
     .offset = offsetof(sclip_options, query_negatives)},
    {.name = "caption_term",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "the term of queries and captions",
     .offset = offsetof(sclip_options, caption_term)},
    {.name = "keyword_term",
     .kind = CPS_OPT_BOOL,
     .default_text = "true",
     .help = "the term of queries and keywords, where there are keywords",
     .offset = offsetof(sclip_options, keyword_term)},
    {.name = "keyword_target",
     .kind = CPS_OPT_CHOICE,
     .choices = target_names,
     .default_text = "linear",
     .help = "how a query's target is shared out over several candidates",
     .offset = offsetof(sclip_options, keyword_target)},
    {.name = "strict_target",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "rows with a candidate similarity of 0 or less take the softmax target",
     .offset = offsetof(sclip_options, strict_target)},
    {.name = "published_ranks",
     .kind = CPS_OPT_INTEGER,
     .default_text = "1",
     .minimum = 1,
     .maximum = 1000000,
     .help = "divides the gradient of images, captions and queries, as the published scripts do on "
             "so many ranks; 1: the exact gradient",
     .offset = offsetof(sclip_options, published_ranks)},
    {.name = "init_scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "14.285714285714286",
     .minimum = 1e-3,
     .maximum = 1e6,
     .help = "initial scale of the similarities, 1/temperature, where no weights give one",
     .offset = offsetof(sclip_options, init_scale)},
    {.name = "max_scale",
     .kind = CPS_OPT_NUMBER,
     .default_text = "100",
     .minimum = 1.0,
     .maximum = 1e6,
     .help = "the scale is kept in [1, max_scale]",
     .offset = offsetof(sclip_options, max_scale)},
    {.name = NULL},
};

/* The stream of queries; NULL with the reason on record. The lone stream of a job answers to any
 * name: that would make every pair its own query. */
static const char *query_stream(cps_setup *setup, const sclip_options *wanted, const char *stream) {
    const char *name = cps_setup_stream(setup, wanted->unlabelled);
    if (name != NULL && strcmp(name, stream) == 0) {
        cps_error(setup, CPS_ERR_USAGE,
                  "pairs and queries would both come from stream '%s': queries are images without "
                  "captions, of a stream of their own; add it to the job's data, such as "
                  "unlabelled = copse.shards { ..., rest_of = \"%s\" }, or set query_negatives, "
                  "caption_term and keyword_term to false",
                  stream, stream);
        return NULL;
    }
    return name;
}

/* A batch may hold no image twice. */
static cps_status check_size(cps_setup *setup, const char *stream) {
    const int64_t records = cps_setup_stream_records(setup, stream),
                  rows = cps_setup_stream_rows(setup, stream);
    return records >= rows
               ? CPS_OK
               : cps_error(setup, CPS_ERR_USAGE,
                           "stream '%s' has %lld records, fewer than the %lld that a global batch "
                           "takes of it: use more data, a smaller global_batch, or fewer rows a "
                           "grain (rows = { %s = ... })",
                           stream, (long long)records, (long long)rows, stream);
}

static cps_status add_queries(cps_setup *setup, sclip *self, const char *stream) {
    const sclip_options *wanted = self->options;
    const char *unlabelled = query_stream(setup, wanted, stream);
    if (unlabelled == NULL || check_size(setup, unlabelled) != CPS_OK) {
        return CPS_ERR_USAGE;
    }
    self->query = cps_setup_view(setup, &(cps_view){.name = "query",
                                                    .tower = wanted->image,
                                                    .stream = unlabelled,
                                                    .outputs = CPS_FEATURE});
    if (self->keyword_count == 0) {
        return CPS_OK;
    }
    self->keyword = cps_setup_view(setup, &(cps_view){.name = "keyword",
                                                      .tower = wanted->text,
                                                      .fixed_text_count = self->keyword_count,
                                                      .fixed_texts = self->keywords,
                                                      .outputs = CPS_FEATURE});
    self->mask = cps_setup_annotation(setup, &(cps_annotation){.name = "keyword_mask",
                                                               .stream = stream,
                                                               .text_view = self->text,
                                                               .dtype = CPS_I32,
                                                               .width = self->keyword_count});
    return CPS_OK;
}

/* Keywords, and queries if anything wants them. */
static cps_status add_unpaired(cps_setup *setup, sclip *self, const char *stream) {
    const sclip_options *wanted = self->options;
    const cps_status status = sclip_take_keywords(setup, self, stream);
    const bool any = wanted->query_negatives || wanted->caption_term || self->keyword_count > 0;
    return status == CPS_OK && any ? add_queries(setup, self, stream) : status;
}

static cps_status create(cps_setup *setup, const void *values, void **self_out) {
    const sclip_options *wanted = values;
    sclip *self = cps_setup_alloc(setup, sizeof *self);
    const char *stream = cps_setup_stream(setup, wanted->stream);
    if (self == NULL || stream == NULL) {
        return CPS_ERR_USAGE;
    }
    *self = (sclip){.options = wanted, .query = -1, .keyword = -1, .mask = -1};
    self->image = cps_setup_view(setup, &(cps_view){.name = "image",
                                                    .tower = wanted->image,
                                                    .stream = stream,
                                                    .outputs = CPS_FEATURE});
    self->text = cps_setup_view(setup, &(cps_view){.name = "text",
                                                   .tower = wanted->text,
                                                   .stream = stream,
                                                   .outputs = CPS_FEATURE});
    cps_status status = CPS_OK;
    if (!cps_setup_validation(setup)) { /* which is plain CLIP's loss */
        status = add_unpaired(setup, self, stream);
    }
    if (status != CPS_OK) {
        return status;
    }
    self->log_scale =
        cps_setup_parameter(setup, &(cps_parameter){.name = "logit_scale",
                                                    .fill = CPS_FILL_CONSTANT,
                                                    .a = log(wanted->init_scale),
                                                    .bounded = true,
                                                    .minimum = 0.0,
                                                    .maximum = log(wanted->max_scale)});
    cps_setup_embed(setup, CPS_SIDE_IMAGE, wanted->image, CPS_FEATURE, false);
    cps_setup_embed(setup, CPS_SIDE_TEXT, wanted->text, CPS_FEATURE, false);
    *self_out = self;
    return CPS_OK;
}

/* The row of a pair's mask, from the very caption that the text tower reads. */
static cps_status annotate(const void *values, const cps_record_ref *record, int32_t annotation,
                           const char *text, void *row_out) {
    const sclip *self = values;
    int32_t *row = row_out;
    (void)record;
    (void)annotation;
    for (int64_t k = 0; k < self->keyword_count; k++) {
        row[k] = text != NULL && sclip_matches(text, self->keywords[k]);
    }
    return CPS_OK;
}

static cps_status head(const void *values, cps_grain *grain, cps_tape *tape) {
    const sclip *self = values;
    cps_emit(grain, "image", self->image, cps_grain_output(grain, self->image, CPS_FEATURE));
    cps_emit(grain, "text", self->text, cps_grain_output(grain, self->text, CPS_FEATURE));
    if (self->query >= 0) {
        cps_emit(grain, "query", self->query, cps_grain_output(grain, self->query, CPS_FEATURE));
    }
    if (self->keyword >= 0) {
        cps_emit(grain, "keyword", self->keyword,
                 cps_grain_output(grain, self->keyword, CPS_FEATURE));
        cps_emit(grain, "keyword_mask", self->image, cps_grain_annotation(grain, self->mask));
    }
    return cps_tape_status(tape);
}

static cps_status embed(const void *values, cps_embed *side, cps_tape *tape) {
    (void)values;
    cps_embed_component(side, cps_embed_output(side, CPS_FEATURE), 1.0);
    return cps_tape_status(tape);
}

static const cps_objective objectives[] = {{
    .name = "sclip",
    .help = "Pairs, images without captions and keywords (S-CLIP).",
    .options = options,
    .options_bytes = sizeof(sclip_options),
    .create = create,
    .annotate = annotate,
    .head = head,
    .loss = sclip_loss,
    .embed = embed,
}};
static const cps_plugin_info info = CPS_PLUGIN_INFO(objectives);

CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host);
CPS_EXPORT const cps_plugin_info *cps_plugin(const cps_host *host) {
    (void)host;
    return &info;
}
