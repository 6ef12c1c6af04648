/* predict: pictures against classes, rows of results while they come. In this order, so that what
 * is wrong with the command is said before anything large is read: options, classes, pictures, the
 * output, the model, the texts of the classes. */
#include "main_classes.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/options.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "eval/outcome_rows.h"
#include "eval/pass.h"
#include "job/job.h"
#include "model/presets.h"
#include "report/rows.h"

typedef struct predict_options {
    int32_t rank, format;
    int64_t k, batch;
    double min_prob, min_confidence, scale;
    cps_main_text_options texts;
} predict_options;

static const char *const rank_names[] = {"kingdom", "phylum", "class",   "order",
                                         "family",  "genus",  "species", NULL};
static const char *const averaging_names[] = {"normalise_first", "average_first", NULL};
static const char *const format_names[] = {"csv", "json", "table", NULL};

const cps_option cps_predict_option_rows[] = {
    {.name = "rank",
     .kind = CPS_OPT_CHOICE,
     .help = "taxa are summed up to this rank: kingdom, phylum, class, order, family, genus, "
             "species",
     .choices = rank_names,
     .default_text = "species",
     .offset = offsetof(predict_options, rank)},
    {.name = "k",
     .kind = CPS_OPT_INTEGER,
     .help = "rows of a picture, the best first; all there are at most (default: 5 taxa, all "
             "labels)",
     .minimum = 1,
     .maximum = 1e9,
     .offset = offsetof(predict_options, k)},
    {.name = "min_prob",
     .kind = CPS_OPT_NUMBER,
     .help = "species at or below this probability add nothing to a rank",
     .default_text = "1e-9",
     .minimum = 0,
     .maximum = 1,
     .offset = offsetof(predict_options, min_prob)},
    {.name = "min_confidence",
     .kind = CPS_OPT_NUMBER,
     .help = "one row a picture: the deepest rank (down to --rank) whose best sum reaches this",
     .minimum = 0,
     .maximum = 1,
     .offset = offsetof(predict_options, min_confidence)},
    {.name = "text",
     .kind = CPS_OPT_STRING,
     .help = "text of a taxon: taxon_com, taxon, sci_com, sci, com; ranks, ranks_com as published",
     .default_text = "taxon_com",
     .offset = offsetof(predict_options, texts.text)},
    {.name = "templates",
     .kind = CPS_OPT_STRING,
     .help =
         "sentences around a class: one with {} for the class, a built-in set (imagenet has 80), "
         "or a file, one a line",
     .default_text = "imagenet",
     .offset = offsetof(predict_options, texts.templates)},
    {.name = "averaging",
     .kind = CPS_OPT_CHOICE,
     .help = "of a class's sentences: normalise_first or average_first",
     .choices = averaging_names,
     .default_text = "normalise_first",
     .offset = offsetof(predict_options, texts.averaging)},
    {.name = "scale",
     .kind = CPS_OPT_NUMBER,
     .help = "probabilities are softmax(scale * cosine) (default: the model's logit_scale)",
     .minimum = 1e-6,
     .maximum = 1e6,
     .offset = offsetof(predict_options, scale)},
    {.name = "format",
     .kind = CPS_OPT_CHOICE,
     .help = "csv, json or table; --output x.json means json",
     .choices = format_names,
     .default_text = "csv",
     .offset = offsetof(predict_options, format)},
    {.name = "batch",
     .kind = CPS_OPT_INTEGER,
     .help = "pictures of one forward pass",
     .default_text = "16",
     .minimum = 1,
     .maximum = 4096,
     .offset = offsetof(predict_options, batch)},
    {.name = NULL}};

const cps_flag cps_predict_flags[] = {
    CPS_CLASSES_FLAGS,
    {"output", 'o', "FILE", "results go there, whole or not at all (default: standard output)"},
    {"tokenizer", 0, "FILE",
     "merges file or tokenizer.json (default: that of --job, or of the run of the checkpoint)"},
    {"job", 0, "JOB", "the job that trained the model: its tokenizer"},
    {"set", 's', "KEY=VALUE", "gives a parameter that the job declares with copse.arg; repeatable"},
    {"objective", 0, NULL, "features as the objective of --job makes them; opens the job's data"},
    {"score", 0, "W,W,...",
     "with --objective: weights of the similarities of its features (default: its own)"},
    {"list-taxa", 0, NULL, "writes the taxa of --taxa or --classifier and ends"},
    {"list-models", 0, NULL, "writes the sizes that --preset knows and ends"},
    CPS_ENCODE_FLAGS,
    {NULL, 0, NULL, NULL},
};

typedef struct predict {
    const cps_app *app;
    bool root;
    predict_options options;
    cps_main_record record;
    cps_main_classes classes;
    cps_picture_list pictures;
    cps_class_groups groups[CPS_TAXON_RANKS];
    cps_outcome_plan plan;
    cps_outcome_table table;
    cps_rows *rows; /* rank 0 */
    cps_main_model model;
    cps_main_job job;
    cps_tokenizer *tokenizer;
    cps_scorer *scorer;
    cps_recipe recipe;
    cps_ranker *ranker;
    cps_outcome *outcomes; /* [batch] */
    cps_ranked *best;      /* [batch, k] */
    double start;
    int64_t taken;
} predict;

/* ---- options ---- */

static bool has(const predict *p, const char *flag) {
    return cps_args_has(p->app->args, flag);
}

static cps_status read_options(predict *p) {
    cps_arena *arena = NULL;
    CPS_TRY(cps_arena_create("command line", 4096, true, &arena));
    cps_status status = cps_args_fill(p->app->args, arena, &p->options);
    cps_arena_destroy(arena);
    CPS_TRY(status);
    /* Strings of the arena are gone: they are the command line's, or the defaults. */
    const char *text = cps_args_get(p->app->args, "text");
    const char *templates = cps_args_get(p->app->args, "templates");
    p->options.texts.text = text != NULL ? text : "taxon_com";
    p->options.texts.templates = templates != NULL ? templates : "imagenet";
    const char *output = cps_args_get(p->app->args, "output");
    const size_t length = output != NULL ? strlen(output) : 0;
    if (!has(p, "format") && length > 5 && strcmp(output + length - 5, ".json") == 0) {
        p->options.format = CPS_ROWS_JSON;
    }
    if (has(p, "objective") && !has(p, "job")) {
        return cps_fail(CPS_ERR_USAGE, "--objective takes the features of a job: name it with "
                                       "--job JOB");
    }
    if (has(p, "objective") && (has(p, "tokenizer") || has(p, "preset"))) {
        return cps_fail(CPS_ERR_USAGE,
                        "--objective takes the job's own tokenizer and model: leave --tokenizer "
                        "and --preset out");
    }
    if (has(p, "min-confidence") && has(p, "k")) {
        return cps_fail(CPS_ERR_USAGE, "--min-confidence gives one row a picture: leave --k out");
    }
    return CPS_OK;
}

static cps_status check_labels(const predict *p) {
    static const char *const of_taxa[] = {"rank", "min-prob", "min-confidence", "text",
                                          "list-taxa"};
    for (size_t i = 0; i < sizeof of_taxa / sizeof of_taxa[0]; i++) {
        if (has(p, of_taxa[i])) {
            return cps_fail(CPS_ERR_USAGE, "--%s is about taxa, and these classes are labels",
                            of_taxa[i]);
        }
    }
    return CPS_OK;
}

/* What is reported of a picture. */
static cps_status make_plan(predict *p) {
    const cps_class_names *names = &p->classes.classifier.names;
    const bool taxa = cps_class_names_are_taxa(names), deepest = has(p, "min-confidence");
    const int32_t rank = p->options.rank;
    CPS_TRY(taxa ? CPS_OK : check_labels(p));
    p->plan = (cps_outcome_plan){.kind = CPS_OUTCOME_CLASSES,
                                 .min_prob = p->options.min_prob,
                                 .min_confidence = p->options.min_confidence,
                                 .rank = rank,
                                 .groups = p->groups};
    int64_t most = names->count, k = taxa ? 5 : most;
    if (p->classes.has_bins) {
        p->plan.kind = CPS_OUTCOME_BINS;
        p->plan.groups = &p->classes.bins.groups;
        most = k = p->classes.bins.groups.count;
    } else if (taxa && deepest) {
        p->plan.kind = CPS_OUTCOME_DEEPEST;
        for (int32_t r = 0; r <= rank; r++) {
            CPS_TRY(cps_class_groups_of_rank(names, r, &p->groups[r]));
        }
        most = 1;
    } else if (taxa && rank < CPS_TAXON_SPECIES) {
        p->plan.kind = CPS_OUTCOME_GROUPS;
        p->plan.groups = &p->groups[rank];
        CPS_TRY(cps_class_groups_of_rank(names, rank, &p->groups[rank]));
        most = p->groups[rank].count;
    }
    k = has(p, "k") ? p->options.k : k;
    p->plan.k = k < most ? k : most;
    cps_outcome_table_init(names, &p->plan, rank, &p->classes.bins.names, &p->table);
    if (taxa) {
        cps_main_record_fact(&p->record, "report",
                             deepest ? "the deepest rank down to %s that reaches %g"
                                     : "rank %s; species above %g count",
                             rank_names[rank],
                             deepest ? p->options.min_confidence : p->options.min_prob);
    }
    return CPS_OK;
}

/* ---- output ---- */

static cps_status open_rows(const predict *p, const char *const *columns, int32_t count,
                            cps_rows **rows_out) {
    const char *path = cps_args_get(p->app->args, "output");
    cps_rows_column all[CPS_OUTCOME_COLUMNS];
    for (int32_t i = 0; i < count; i++) {
        all[i] = (cps_rows_column){.name = columns[i], .number = strcmp(columns[i], "score") == 0};
    }
    return cps_rows_create(path, stdout, (cps_rows_format)p->options.format, all, count, rows_out);
}

static cps_status list_taxa(predict *p) {
    const cps_class_names *names = &p->classes.classifier.names;
    if (!cps_class_names_are_taxa(names)) {
        return check_labels(p);
    }
    cps_rows *rows = NULL;
    CPS_TRY(open_rows(p, cps_label_columns, CPS_LABEL_COLUMNS, &rows));
    for (int64_t i = 0; i < names->count; i++) {
        const char *cells[CPS_LABEL_COLUMNS];
        char *species = NULL;
        cps_label_cells(names, i, cells, &species);
        const cps_status status = cps_rows_add(rows, cells);
        free(species);
        if (status != CPS_OK) {
            cps_rows_abandon(rows);
            return status;
        }
    }
    return cps_rows_finish(rows);
}

static void list_models(void) {
    printf("%-22s %6s %6s %6s %6s %6s %6s %6s %6s  %s\n", "preset", "pixels", "patch", "width",
           "layers", "text", "layers", "tokens", "embed", "activation");
    for (const char *const *name = cps_model_presets(); *name != NULL; name++) {
        bool quick = false;
        const cps_preset *preset = cps_preset_find(*name, &quick);
        printf("%-22s %6lld %6lld %6lld %6lld %6lld %6lld %6lld %6lld  %s\n", *name,
               (long long)preset->image_size, (long long)preset->patch,
               (long long)preset->image_width, (long long)preset->image_layers,
               (long long)preset->text_width, (long long)preset->text_layers,
               (long long)preset->context, (long long)preset->embed_dim,
               quick ? "quick_gelu" : "gelu");
    }
    puts("\nFiles: checkpoints of copse train and import know their model; safetensors in "
         "open_clip's or Hugging Face's names\nneed --preset, or the .json that copse export "
         "writes beside them. OpenAI's weights want -quickgelu.");
}

/* ---- model ---- */

/* Where the tokenizer is: --tokenizer, the job's, that of the run in whose folder the checkpoint
 * lies. Collective where a job is read; malloc'ed. */
static cps_status find_tokenizer(predict *p, char **path_out) {
    const char *given = cps_args_get(p->app->args, "tokenizer");
    if (given != NULL) {
        *path_out = cps_format("%s", given);
        return CPS_OK;
    }
    const char *job = cps_args_get(p->app->args, "job");
    char *folder = cps_path_folder(p->model.path);
    char *beside = cps_format("%s/../job.lua", folder);
    free(folder);
    const bool there = cps_agree_any(p->app->comm, "job of the run", cps_file_exists(beside));
    cps_status status = CPS_OK;
    if (job == NULL && !there) {
        status =
            cps_fail(CPS_ERR_USAGE,
                     "the tokenizer is not known, and class texts need it: give --tokenizer "
                     "FILE (the merges or tokenizer.json the model was trained with), or --job "
                     "JOB");
    } else {
        status = cps_main_job_load(p->app, job != NULL ? job : beside, &p->job);
    }
    if (status == CPS_OK) {
        const cps_json *tokenizer = cps_json_get(p->job.json, "tokenizer");
        const char *path =
            cps_json_get_string(tokenizer, "merges", cps_json_get_string(tokenizer, "json", NULL));
        if (path == NULL) {
            status = cps_fail(CPS_ERR_USAGE,
                              "the job '%s' names no tokenizer: give --tokenizer "
                              "FILE",
                              job != NULL ? job : beside);
        } else {
            *path_out = cps_format("%s", path);
        }
    }
    free(beside);
    return status;
}

/* A checkpoint knows which tokenizer it was trained with. */
static cps_status check_tokenizer(const predict *p) {
    const char *content =
        cps_json_get_string(cps_json_get(p->model.identity, "tokenizer"), "content", NULL);
    char digest[32];
    snprintf(digest, sizeof digest, "%016" PRIx64, cps_tokenizer_digest(p->tokenizer));
    if (content != NULL && strcmp(content, digest) != 0 && !has(p, "force")) {
        return cps_fail(CPS_ERR_USAGE,
                        "'%s' was trained with another tokenizer (digest %s) than '%s' (%s): name "
                        "the right one, or say --force",
                        p->model.path, content, cps_tokenizer_name(p->tokenizer), digest);
    }
    const cps_tower *text = cps_model_tower(p->model.model, "text");
    if (text != NULL &&
        cps_tower_get_config(text)->vocabulary < cps_tokenizer_vocabulary(p->tokenizer)) {
        return cps_fail(
            CPS_ERR_USAGE,
            "the tokenizer '%s' has %lld ids, the model's text tower %lld: name the one "
            "it was trained with",
            cps_tokenizer_name(p->tokenizer), (long long)cps_tokenizer_vocabulary(p->tokenizer),
            (long long)cps_tower_get_config(text)->vocabulary);
    }
    return CPS_OK;
}

/* Collective. */
static cps_status open_tokenizer(predict *p) {
    char *path = NULL;
    CPS_TRY(find_tokenizer(p, &path));
    cps_status status = cps_tokenizer_load(path, &p->tokenizer);
    if (status == CPS_OK) {
        status = check_tokenizer(p);
    }
    if (status == CPS_OK) {
        cps_main_record_fact(&p->record, "tokenizer", "%s", path);
        status = cps_scorer_add_texts(p->scorer, p->tokenizer);
    }
    free(path);
    return cps_agree(p->app->comm, "tokenizer", status);
}

static void record_model(predict *p) {
    const cps_tower *tower = cps_model_tower(cps_scorer_model(p->scorer), "image");
    if (tower != NULL) {
        cps_main_record_tower(&p->record, cps_args_at(p->app->args, 0), cps_tower_get_config(tower),
                              cps_scorer_digest(p->scorer));
    }
}

/* Collective. The towers alone. */
static cps_status open_towers(predict *p, int64_t batch) {
    CPS_TRY(cps_main_model_open(p->app, cps_args_at(p->app->args, 0), &p->model));
    CPS_TRY(cps_agree(p->app->comm, "image tower",
                      cps_scorer_create(p->model.model, "image", "feature", batch, &p->scorer)));
    record_model(p);
    if (p->model.strangers > 0) {
        cps_log(CPS_LOG_WARN,
                "the checkpoint has %lld parameters that belong to no tower ('%s'): an objective's "
                "own. Features of the towers alone are used; its own need --job JOB --objective",
                (long long)p->model.strangers, p->model.stranger);
    }
    return cps_main_classes_need_texts(&p->classes) ? open_tokenizer(p) : CPS_OK;
}

static cps_status no_stage(void *context, int64_t stage, int64_t total, cps_json **stage_out) {
    return cps_job_stage(context, stage, total, stage_out);
}

/* Collective. As the job's objective makes them. */
static cps_status open_objective(predict *p, int64_t batch) {
    CPS_TRY(cps_main_job_load(p->app, cps_args_get(p->app->args, "job"), &p->job));
    const cps_job_calls calls = {.context = p->job.job, .stage = no_stage};
    const cps_run_options options = {
        .runs = "runs", .until = -1, .threads = cps_pool_threads(), .job_source = p->job.source};
    CPS_TRY(cps_scorer_create_of_job(p->app->comm, p->job.plugins, p->job.json, &calls,
                                     cps_args_at(p->app->args, 0), &options, batch, &p->scorer));
    record_model(p);
    cps_main_record_fact(&p->record, "features", "of objective '%s'",
                         cps_scorer_objective(p->scorer));
    if (cps_main_classes_need_texts(&p->classes) && cps_scorer_texts(p->scorer) == NULL) {
        return cps_fail(CPS_ERR_USAGE, "the objective '%s' has no features of texts",
                        cps_scorer_objective(p->scorer));
    }
    return CPS_OK;
}

static cps_status choose_scale(predict *p, double *scale_out) {
    const double own = cps_scorer_images(p->scorer)->scale;
    *scale_out = has(p, "scale") ? p->options.scale : own;
    if (!(*scale_out > 0.0) || !isfinite(*scale_out)) {
        return cps_fail(
            CPS_ERR_USAGE,
            "the model has no logit_scale, so probabilities are not fixed: give --scale "
            "(CLIP's trained models have 100)");
    }
    cps_main_record_fact(&p->record, "scale", "%.6g%s", *scale_out,
                         has(p, "scale") ? "" : " (the model's)");
    return CPS_OK;
}

/* Collective. */
static cps_status open_model(predict *p) {
    const int64_t batch =
        p->options.batch < p->pictures.count ? p->options.batch : p->pictures.count;
    CPS_TRY(cps_main_machine(p->app, &p->record));
    CPS_TRY(has(p, "objective") ? open_objective(p, batch) : open_towers(p, batch));
    CPS_TRY(
        cps_agree(p->app->comm, "preprocessing",
                  cps_main_recipe(p->app, cps_scorer_images(p->scorer), &p->record, &p->recipe)));
    CPS_TRY(cps_main_classes_encode(p->app, &p->options.texts, p->scorer, &p->record, &p->classes));
    cps_scorer_drop_texts(p->scorer);
    return CPS_OK;
}

/* ---- pictures ---- */

/* A row that travels: the outcome, then the k best. */
static size_t row_bytes(const predict *p) {
    return sizeof(cps_outcome) + (size_t)p->plan.k * sizeof(cps_ranked);
}

static void reduce(void *context, const cps_real *features, void *rows_out) {
    const predict *p = context;
    const int64_t batch = cps_scorer_images(p->scorer)->grain, k = p->plan.k;
    cps_ranker_run(p->ranker, features, p->outcomes, p->best);
    for (int64_t i = 0; i < batch; i++) {
        char *row = (char *)rows_out + (size_t)i * row_bytes(p);
        memcpy(row, &p->outcomes[i], sizeof(cps_outcome));
        memcpy(row + sizeof(cps_outcome), p->best + i * k, (size_t)k * sizeof(cps_ranked));
    }
}

static cps_status take(void *context, int64_t index, const void *row, const char *reason) {
    predict *p = context;
    cps_outcome outcome;
    p->taken++;
    if (reason != NULL) {
        cps_main_record_unreadable(&p->record, p->pictures.paths[index], reason);
        return CPS_OK;
    }
    memcpy(&outcome, row, sizeof outcome);
    for (int64_t i = 0; i < outcome.count; i++) {
        cps_ranked ranked;
        cps_outcome_row cells;
        memcpy(&ranked, (const char *)row + sizeof outcome + (size_t)i * sizeof ranked,
               sizeof ranked);
        cps_outcome_row_fill(&p->table, p->pictures.paths[index], &outcome, &ranked, &cells);
        const cps_status status = cps_rows_add(p->rows, cells.cells);
        cps_outcome_row_free(&cells);
        CPS_TRY(status);
    }
    return CPS_OK;
}

/* Between batches: what is there goes out. A failure shows at the next row or at the end. */
static bool stop(void *context) {
    predict *p = context;
    if (p->root && p->taken > 0) {
        if (cps_rows_flush(p->rows) != CPS_OK) {
            cps_fail_clear();
        }
    }
    cps_main_show_progress(p->taken, p->pictures.count, p->start);
    return cps_signal_seen();
}

/* "0.5,0.5": one for each component of the objective's features. Without --score their own. */
static cps_status choose_weights(predict *p, double weights[CPS_MAX_COMPONENTS]) {
    const cps_encoder *images = cps_scorer_images(p->scorer);
    const char *text = cps_args_get(p->app->args, "score");
    memcpy(weights, images->score_weights, sizeof images->score_weights);
    if (text == NULL) {
        return CPS_OK;
    }
    int32_t count = 0;
    const char *at = text;
    for (bool more = true; more && count < CPS_MAX_COMPONENTS;) {
        char *end = NULL;
        const double value = strtod(at, &end);
        if (end == at || !isfinite(value) || (*end != ',' && *end != '\0')) {
            return cps_fail(CPS_ERR_USAGE, "--score is '%s': numbers with commas are wanted", text);
        }
        weights[count++] = value;
        more = *end == ',';
        at = end + 1;
    }
    if (count != images->component_count || at[-1] != '\0') {
        return cps_fail(CPS_ERR_USAGE,
                        "--score is '%s': the features have %d similarities to weigh%s", text,
                        images->component_count,
                        has(p, "objective") ? "" : "; an objective's own need --objective");
    }
    cps_main_record_fact(&p->record, "score", "weights %s", text);
    return CPS_OK;
}

static cps_status prepare_pass(predict *p, int64_t batch) {
    double scale = 0.0, weights[CPS_MAX_COMPONENTS];
    CPS_TRY(choose_scale(p, &scale));
    CPS_TRY(choose_weights(p, weights));
    p->outcomes = calloc((size_t)batch, sizeof *p->outcomes);
    p->best = calloc((size_t)(batch * p->plan.k), sizeof *p->best);
    if (p->outcomes == NULL || p->best == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld results a picture",
                        (long long)p->plan.k);
    }
    return cps_ranker_create(&p->classes.classifier, weights, scale, &p->plan, batch, &p->ranker);
}

/* Rank 0: the end of the output and the record of it all. */
static cps_status close_output(predict *p, cps_status status, int64_t done) {
    if (!p->root) {
        return status;
    }
    const char *outcome = status == CPS_OK ? "done" : cps_fail_message();
    char *kept = cps_format("%s", outcome);
    cps_status closed = CPS_OK;
    if (status == CPS_OK) {
        closed = cps_rows_finish(p->rows);
    } else {
        if (!has(p, "output") && cps_rows_flush(p->rows) != CPS_OK) {
            cps_fail_clear();
        }
        cps_rows_abandon(p->rows);
    }
    p->rows = NULL;
    const cps_status logged = cps_main_record_close(
        &p->record, closed == CPS_OK ? kept : cps_fail_message(), &p->pictures, done);
    if (status != CPS_OK) {
        closed = cps_fail(status, "%s", kept);
    }
    free(kept);
    return closed != CPS_OK ? closed : logged;
}

/* Collective. */
static cps_status run_pass(predict *p) {
    const cps_encoder *encoder = cps_scorer_images(p->scorer);
    int64_t done = 0;
    CPS_TRY(cps_agree(p->app->comm, "classifier", prepare_pass(p, encoder->grain)));
    const cps_pass pass = {.comm = p->app->comm,
                           .encoder = encoder,
                           .recipe = &p->recipe,
                           .paths = (const char *const *)p->pictures.paths,
                           .count = p->pictures.count,
                           .normalise = true,
                           .row_bytes = row_bytes(p),
                           .context = p,
                           .reduce = reduce,
                           .take = take,
                           .stop = stop};
    p->start = cps_seconds();
    cps_status status = cps_pass_run(&pass, &done);
    cps_log_live("");
    if (status == CPS_OK) {
        status = cps_main_judge(p->app, &p->record, p->pictures.count, done, p->start, "predicted",
                                has(p, "output") ? "; nothing is written to the output" : "");
    }
    return cps_agree(p->app->comm, "end of the output", close_output(p, status, done));
}

/* ---- the command ---- */

/* What can be said before anything large is read. Collective. */
static cps_status prepare(predict *p) {
    CPS_TRY(cps_agree(p->app->comm, "command line", read_options(p)));
    CPS_TRY(cps_agree(p->app->comm, "log", cps_main_record_open(p->app, &p->record)));
    return cps_agree(p->app->comm, "classes",
                     cps_main_classes_read(p->app, &p->record, &p->classes));
}

/* A file is opened before anything large is read, so that a wrong path is known at once; a stream
 * gets its first line when there will be others. */
static cps_status open_output(predict *p, bool before_model) {
    return p->root && has(p, "output") == before_model
               ? open_rows(p, p->table.columns, p->table.column_count, &p->rows)
               : CPS_OK;
}

static cps_status run(predict *p) {
    CPS_TRY(prepare(p));
    if (has(p, "list-taxa")) {
        return cps_agree(p->app->comm, "list of taxa", p->root ? list_taxa(p) : CPS_OK);
    }
    if (cps_args_at(p->app->args, 0) == NULL) {
        return cps_fail(CPS_ERR_USAGE, "copse predict: no model: copse predict CHECKPOINT "
                                       "PICTURE|FOLDER... ('copse predict --help' says more)");
    }
    CPS_TRY(cps_agree(p->app->comm, "report", make_plan(p)));
    CPS_TRY(cps_main_pictures(p->app, 1, &p->pictures));
    CPS_TRY(cps_agree(p->app->comm, "output", open_output(p, true)));
    CPS_TRY(open_model(p));
    CPS_TRY(cps_agree(p->app->comm, "output", open_output(p, false)));
    return run_pass(p);
}

static void release(predict *p) {
    cps_ranker_destroy(p->ranker);
    free(p->outcomes);
    free(p->best);
    cps_scorer_destroy(p->scorer);
    cps_tokenizer_destroy(p->tokenizer);
    cps_main_job_free(&p->job);
    cps_main_model_close(&p->model);
    cps_rows_abandon(p->rows);
    for (int32_t r = 0; r < CPS_TAXON_RANKS; r++) {
        cps_class_groups_free(&p->groups[r]);
    }
    cps_picture_list_free(&p->pictures);
    cps_main_classes_free(&p->classes);
    cps_main_record_free(&p->record);
    cps_pool_stop();
}

cps_status cps_command_predict(const cps_app *app) {
    if (cps_args_has(app->args, "list-models")) {
        if (cps_comm_rank(app->comm) == 0) {
            list_models();
        }
        return CPS_OK;
    }
    predict p = {.app = app, .root = cps_comm_rank(app->comm) == 0};
    const cps_status status = run(&p);
    release(&p);
    return status;
}
