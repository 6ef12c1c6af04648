#include "eval/config.h"

#include <stdio.h>
#include <string.h>

#include "eval/class_texts.h"

static const char *const variant_choices[] = {
    [CPS_SHOT_STATELESS] = "stateless", [CPS_SHOT_IN_PLACE] = "in_place", NULL};
static const char *const short_choices[] = {[CPS_SHORT_ERROR] = "error",
                                            [CPS_SHORT_KEEP] = "keep",
                                            [CPS_SHORT_LEAVE_OUT] = "leave_out",
                                            NULL};
static const char *const taxonomy_choices[] = {
    [CPS_TAXONOMY_AUTO] = "auto", [CPS_TAXONOMY_ON] = "on", [CPS_TAXONOMY_OFF] = "off", NULL};
static const char *const averaging_choices[] = {
    [CPS_NORMALISE_FIRST] = "normalise_first", [CPS_AVERAGE_FIRST] = "average_first", NULL};

/* What every evaluation takes is in cps_evaluation_options and not in these rows but for the name.
 */
#define NAME_ROW                                                                                   \
    {                                                                                              \
        .name = "name", .kind = CPS_OPT_STRING,                                                    \
        .help = "name of the evaluation; its metrics are <name>.<key>", .required = true,          \
        .offset = offsetof(named_options, name)                                                    \
    }
#define TAXONOMY_ROW(type)                                                                         \
    {                                                                                              \
        .name = "taxonomy", .kind = CPS_OPT_CHOICE,                                                \
        .help = "metrics by taxonomic rank; auto: where records have ranks",                       \
        .default_text = "auto", .choices = taxonomy_choices,                                       \
        .offset = offsetof(type, options.taxonomy)                                                 \
    }
#define SCORE_ROW(type)                                                                            \
    {                                                                                              \
        .name = "score", .kind = CPS_OPT_NUMBERS,                                                  \
        .help = "weights of the components of the objective's embed (default: its own)",           \
        .minimum = -1e6, .maximum = 1e6, .offset = offsetof(type, options.score)                   \
    }

/* A kind's own options behind the name that all have. */
typedef struct named_options {
    const char *name;
} named_options;
typedef struct named_zero_shot {
    named_options common;
    cps_zero_shot_options options;
} named_zero_shot;
typedef struct named_retrieval {
    named_options common;
    cps_retrieval_options options;
} named_retrieval;
typedef struct named_validation_loss {
    named_options common;
    cps_validation_loss_options options;
} named_validation_loss;
typedef struct named_knn {
    named_options common;
    cps_knn_options options;
} named_knn;
typedef struct named_few_shot {
    named_options common;
    cps_few_shot_options options;
} named_few_shot;

const cps_option cps_zero_shot_rows[] = {
    NAME_ROW,
    {.name = "text",
     .kind = CPS_OPT_CHOICE,
     .help = "text of a class: its label, or one made of its first record's taxonomic ranks",
     .default_text = "label",
     .choices = cps_class_text_types,
     .offset = offsetof(named_zero_shot, options.text)},
    {.name = "averaging",
     .kind = CPS_OPT_CHOICE,
     .help = "whether text features are normalised before templates are averaged",
     .default_text = "normalise_first",
     .choices = averaging_choices,
     .offset = offsetof(named_zero_shot, options.averaging)},
    SCORE_ROW(named_zero_shot),
    {.name = "top",
     .kind = CPS_OPT_INTEGER,
     .help = "classes with scores stored for each sample",
     .default_text = "5",
     .minimum = 1,
     .maximum = 1000,
     .offset = offsetof(named_zero_shot, options.top)},
    TAXONOMY_ROW(named_zero_shot),
    {.name = NULL},
};

const cps_option cps_retrieval_rows[] = {
    NAME_ROW,
    {.name = "k",
     .kind = CPS_OPT_NUMBERS,
     .help = "ranks of recall at k",
     .default_text = "{1,5,10}",
     .minimum = 1,
     .maximum = 1e6,
     .offset = offsetof(named_retrieval, options.k)},
    SCORE_ROW(named_retrieval),
    {.name = NULL},
};

const cps_option cps_validation_loss_rows[] = {
    NAME_ROW,
    {.name = "batch",
     .kind = CPS_OPT_INTEGER,
     .help = "consecutive records of one batch",
     .default_text = "128",
     .minimum = 1,
     .maximum = 1e6,
     .offset = offsetof(named_validation_loss, options.batch)},
    {.name = "grain",
     .kind = CPS_OPT_INTEGER,
     .help = "rows of one tower forward",
     .default_text = "64",
     .minimum = 1,
     .maximum = 65536,
     .offset = offsetof(named_validation_loss, options.grain)},
    {.name = NULL},
};

const cps_option cps_knn_rows[] = {
    NAME_ROW,
    {.name = "k",
     .kind = CPS_OPT_INTEGER,
     .help = "neighbours that vote",
     .default_text = "20",
     .minimum = 1,
     .maximum = 10000,
     .offset = offsetof(named_knn, options.k)},
    {.name = "temperature",
     .kind = CPS_OPT_NUMBER,
     .help = "of the votes exp(cosine / temperature); 0: all votes count alike",
     .default_text = "0.07",
     .minimum = 0,
     .maximum = 1e6,
     .offset = offsetof(named_knn, options.temperature)},
    TAXONOMY_ROW(named_knn),
    {.name = NULL},
};

const cps_option cps_few_shot_rows[] = {
    NAME_ROW,
    {.name = "shots",
     .kind = CPS_OPT_NUMBERS,
     .help = "labelled images of each class; one result for each number",
     .default_text = "{1,5}",
     .minimum = 1,
     .maximum = 1e6,
     .offset = offsetof(named_few_shot, options.shots)},
    {.name = "folds",
     .kind = CPS_OPT_INTEGER,
     .help = "draws of the labelled images; the metrics are mean and deviation over them",
     .default_text = "5",
     .minimum = 1,
     .maximum = 1000,
     .offset = offsetof(named_few_shot, options.folds)},
    {.name = "seed",
     .kind = CPS_OPT_INTEGER,
     .help = "of the first fold's draw; fold f has seed + f",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e15,
     .offset = offsetof(named_few_shot, options.seed)},
    {.name = "variant",
     .kind = CPS_OPT_CHOICE,
     .help = "each fold's shuffle starts from stored order, or from where the last one ended",
     .default_text = "stateless",
     .choices = variant_choices,
     .offset = offsetof(named_few_shot, options.variant)},
    {.name = "averaging",
     .kind = CPS_OPT_CHOICE,
     .help = "centroids are means of unit rows, as published, or unit rows of means, as the paper "
             "words it",
     .default_text = "normalise_first",
     .choices = averaging_choices,
     .offset = offsetof(named_few_shot, options.averaging)},
    {.name = "short_classes",
     .kind = CPS_OPT_CHOICE,
     .help = "classes with too few images end the run, are kept with what they have, or stay out",
     .default_text = "error",
     .choices = short_choices,
     .offset = offsetof(named_few_shot, options.short_classes)},
    TAXONOMY_ROW(named_few_shot),
    {.name = NULL},
};

/* "{shots}" stands for each number of that option, "{rank}" for each rank of the taxonomy. */
const char *const cps_zero_shot_metrics[] = {
    "top1",          "top1_low",          "top1_high",   "chance",
    "top5",          "per_class",         "rank_{rank}", "shared_depth",
    "tree_distance", "aggregated_{rank}", NULL};
const char *const cps_retrieval_metrics[] = {"image_to_text_r{k}",
                                             "text_to_image_r{k}",
                                             "image_to_text_median_rank",
                                             "text_to_image_median_rank",
                                             "image_to_text_mean_rank",
                                             "text_to_image_mean_rank",
                                             NULL};
const char *const cps_validation_loss_metrics[] = {"loss", "*", NULL};
const char *const cps_knn_metrics[] = {
    "top1",        "top1_low",     "top1_high",     "chance",        "top5", "per_class",
    "rank_{rank}", "shared_depth", "tree_distance", "purity_{rank}", NULL};
const char *const cps_few_shot_metrics[] = {"shot{shots}",
                                            "shot{shots}_std",
                                            "shot{shots}_low",
                                            "shot{shots}_high",
                                            "shot{shots}_chance",
                                            "shot{shots}_rank_{rank}",
                                            "shot{shots}_shared_depth",
                                            "shot{shots}_tree_distance",
                                            NULL};

static const char *const kind_names[] = {"zero_shot", "retrieval", "validation_loss", "knn",
                                         "few_shot"};
enum { KIND_COUNT = sizeof kind_names / sizeof *kind_names };

const char *cps_eval_kind_name(cps_eval_kind kind) {
    return (int)kind >= 0 && (int)kind < KIND_COUNT ? kind_names[kind] : "unknown";
}

const char *cps_averaging_name(cps_averaging averaging) {
    return averaging_choices[averaging];
}

const char *cps_shot_variant_name(cps_shot_variant variant) {
    return variant_choices[variant];
}

const char *cps_short_classes_name(cps_short_classes short_classes) {
    return short_choices[short_classes];
}

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

static bool ends_with(const char *text, const char *end) {
    const size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

bool cps_metric_less_is_better(const char *metric) {
    /* Accuracies and recalls are what grows; losses, their terms (named by objectives), ranks,
     * distances and deviations fall. */
    static const char *const growing[] = {"top",         "per_class", "shot",         "rank_",
                                          "aggregated_", "purity_",   "shared_depth", NULL};
    const char *key = strrchr(metric, '.');
    key = key ? key + 1 : metric;
    if (ends_with(key, "_std") || ends_with(key, "tree_distance")) {
        return true;
    }
    const char *recall = strstr(key, "_r");
    bool grows = recall != NULL && recall[2] >= '0' && recall[2] <= '9';
    for (int i = 0; growing[i] != NULL; i++) {
        grows = grows || starts_with(key, growing[i]);
    }
    return !grows;
}

static cps_status parse_kind(const cps_json *object, const char *where, const char *const *also,
                             cps_arena *arena, cps_evaluation_options *out) {
    switch (out->kind) {
    case CPS_EVAL_ZERO_SHOT: {
        named_zero_shot named = {0};
        CPS_TRY(cps_options_parse(cps_zero_shot_rows, object, where, also, arena, &named));
        out->name = named.common.name;
        out->zero_shot = named.options;
        return cps_config_strings(cps_json_get(object, "templates"), where, arena,
                                  &out->zero_shot.templates);
    }
    case CPS_EVAL_RETRIEVAL: {
        named_retrieval named = {0};
        CPS_TRY(cps_options_parse(cps_retrieval_rows, object, where, also, arena, &named));
        out->name = named.common.name;
        out->retrieval = named.options;
        return CPS_OK;
    }
    case CPS_EVAL_VALIDATION_LOSS: {
        named_validation_loss named = {0};
        CPS_TRY(cps_options_parse(cps_validation_loss_rows, object, where, also, arena, &named));
        out->name = named.common.name;
        out->validation_loss = named.options;
        return CPS_OK;
    }
    case CPS_EVAL_KNN: {
        named_knn named = {0};
        CPS_TRY(cps_options_parse(cps_knn_rows, object, where, also, arena, &named));
        out->name = named.common.name;
        out->knn = named.options;
        return cps_shards_options_parse(cps_json_get(object, "bank"), where, arena, &out->knn.bank);
    }
    case CPS_EVAL_FEW_SHOT: {
        named_few_shot named = {0};
        CPS_TRY(cps_options_parse(cps_few_shot_rows, object, where, also, arena, &named));
        out->name = named.common.name;
        out->few_shot = named.options;
        return CPS_OK;
    }
    }
    return cps_fail(CPS_ERR_INTERNAL, "%s: evaluation kind %d is unknown", where, (int)out->kind);
}

static cps_status parse_features(const cps_json *features, const char *where, cps_arena *arena,
                                 cps_evaluation_options *out) {
    const char *tower = cps_json_get_string(features, "tower", NULL);
    const char *output = cps_json_get_string(features, "output", NULL);
    if (!features) {
        return CPS_OK;
    }
    if (!tower || !output) {
        return cps_fail(CPS_ERR_USAGE, "%s.features: should name a tower and one of its outputs",
                        where);
    }
    out->features_tower = cps_arena_strdup(arena, tower);
    out->features_output = cps_arena_strdup(arena, output);
    return out->features_tower && out->features_output ? CPS_OK : CPS_ERR_UNAVAILABLE;
}

static cps_status parse_evaluation(const cps_json *object, const char *where, cps_arena *arena,
                                   cps_evaluation_options *out) {
    static const char *const also[] = {"kind",     "data",      "every", "stages",
                                       "features", "templates", "bank",  NULL};
    const char *kind = cps_json_get_string(object, "kind", "");
    const cps_json *every = cps_json_get(object, "every");
    int index = 0;
    while (index < KIND_COUNT && strcmp(kind, kind_names[index]) != 0) {
        index++;
    }
    if (index == KIND_COUNT) {
        return cps_fail(CPS_ERR_USAGE, "%s: evaluation kind '%s' is not built in this version",
                        where, kind);
    }
    out->kind = (cps_eval_kind)index;
    CPS_TRY(parse_kind(object, where, also, arena, out));
    CPS_TRY(cps_shards_options_parse(cps_json_get(object, "data"), where, arena, &out->data));
    CPS_TRY(cps_config_strings(cps_json_get(object, "stages"), where, arena, &out->stages));
    CPS_TRY(parse_features(cps_json_get(object, "features"), where, arena, out));
    out->every_epoch = cps_json_string(every) && strcmp(cps_json_string(every), "epoch") == 0;
    out->every_steps = cps_json_is_number(every) ? (int64_t)cps_json_number(every) : 0;
    return CPS_OK;
}

cps_status cps_evaluations_parse(const cps_json *evaluate, cps_arena *arena,
                                 cps_evaluation_options **evaluations_out, int64_t *count_out) {
    const int64_t count = cps_json_count(evaluate);
    cps_evaluation_options *evaluations =
        cps_arena_alloc_zero(arena, (size_t)count * sizeof *evaluations);
    if (!evaluations) {
        return CPS_ERR_UNAVAILABLE;
    }
    const cps_json *object = cps_json_first(evaluate);
    for (int64_t i = 0; i < count; i++, object = cps_json_next(object)) {
        char where[64];
        snprintf(where, sizeof where, "evaluate[%lld]", (long long)i + 1);
        CPS_TRY(parse_evaluation(object, where, arena, &evaluations[i]));
    }
    *evaluations_out = evaluations;
    *count_out = count;
    return CPS_OK;
}
