#include "main_classes.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numeric.h"
#include "base/text.h"
#include "comm/agree.h"
#include "eval/zeroshot.h"
#include "job/templates.h"

/* Classes encoded together. Texts go in grains of 64: with 64 classes no grain is shared. */
enum { CHUNK = 64 };
static const size_t max_template_bytes = (size_t)16 << 20;
static const char *const averagings[] = {"normalise_first", "average_first"}; /* cps_averaging */

void cps_main_classes_free(cps_main_classes *classes) {
    cps_classifier_free(&classes->classifier);
    cps_classifier_origin_free(&classes->origin);
    cps_bins_free(&classes->bins);
    *classes = (cps_main_classes){.published = false};
}

/* ---- names ---- */

static cps_status read_labels(const cps_args *args, cps_class_names *names) {
    const char *path = cps_args_get(args, "labels");
    cps_class_names_init(names, false);
    if (path != NULL) {
        CPS_TRY(cps_class_names_read_labels(path, names));
    }
    const char *label;
    for (int32_t i = 0; (label = cps_args_get_at(args, "label", i)) != NULL; i++) {
        CPS_TRY(cps_class_names_add_label(names, label, "--label"));
    }
    return CPS_OK;
}

/* "x.npy" -> "x.json"; malloc'ed. */
static char *names_beside(const char *path) {
    const size_t length = strlen(path);
    const bool ends = length > 4 && strcmp(path + length - 4, ".npy") == 0;
    return cps_format("%.*s.json", (int)(ends ? length - 4 : length), path);
}

static cps_status read_published(const cps_args *args, const char *path,
                                 cps_main_classes *classes) {
    const char *given = cps_args_get(args, "names");
    char *names = given != NULL ? cps_format("%s", given) : names_beside(path);
    double furthest = 0.0;
    cps_status status = cps_classifier_read_published(path, names, &classes->classifier, &furthest);
    if (status == CPS_OK && furthest > 1e-2) {
        cps_log(CPS_LOG_WARN,
                "'%s': a column's length is off by %.3g from 1; all are made unit here", path,
                furthest);
    }
    classes->published = true;
    classes->origin = (cps_classifier_origin){.text = cps_format("published"),
                                              .averaging = cps_format("published")};
    free(names);
    return status;
}

static cps_status read_classifier(const cps_args *args, const char *path,
                                  cps_main_classes *classes) {
    cps_main_file kind = CPS_FILE_OTHER;
    CPS_TRY(cps_main_sniff(path, &kind));
    if (kind == CPS_FILE_HDF5) {
        return cps_classifier_read(path, &classes->classifier, &classes->origin);
    }
    return read_published(args, path, classes);
}

static cps_status check_sources(const cps_args *args) {
    const bool labels = cps_args_has(args, "labels") || cps_args_has(args, "label");
    const bool taxa = cps_args_has(args, "taxa"), loaded = cps_args_has(args, "classifier");
    const int count = labels + taxa + loaded;
    if (count > 1 || (count == 0 && !cps_args_has(args, "bins"))) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: give the classes by --labels FILE (and --label TEXT), --taxa FILE, "
                        "--classifier FILE, or --bins CSV",
                        count > 1 ? "classes from two places" : "no classes");
    }
    if (taxa && cps_args_has(args, "bins")) {
        return cps_fail(CPS_ERR_USAGE, "--bins sums labels, and --taxa gives taxa: choose their "
                                       "sums by --rank");
    }
    if (cps_args_has(args, "fp16") && !cps_args_has(args, "save-classifier")) {
        return cps_fail(CPS_ERR_USAGE, "--fp16 says how --save-classifier stores: name its file");
    }
    return CPS_OK;
}

static cps_status read_names(const cps_args *args, cps_main_classes *classes) {
    const char *taxa = cps_args_get(args, "taxa"), *loaded = cps_args_get(args, "classifier");
    if (loaded != NULL) {
        return read_classifier(args, loaded, classes);
    }
    if (taxa != NULL) {
        return cps_class_names_read_taxa(taxa, &classes->classifier.names);
    }
    return read_labels(args, &classes->classifier.names);
}

static cps_status apply_choices(const cps_args *args, cps_main_classes *classes) {
    const char *subset = cps_args_get(args, "subset"), *bins = cps_args_get(args, "bins");
    if (subset != NULL) {
        int64_t *chosen = NULL, count = 0;
        CPS_TRY(cps_subset_read(subset, &classes->classifier.names, &chosen, &count));
        const cps_status status = cps_classifier_keep(&classes->classifier, chosen, count);
        free(chosen);
        CPS_TRY(status);
    }
    if (bins != NULL && cps_class_names_are_taxa(&classes->classifier.names)) {
        return cps_fail(CPS_ERR_USAGE,
                        "--bins sums labels, and the classes of '%s' are taxa: "
                        "choose their sums by --rank",
                        cps_args_get(args, "classifier"));
    }
    if (bins != NULL) {
        CPS_TRY(cps_bins_read(bins, &classes->classifier.names, &classes->bins));
        classes->has_bins = true;
    }
    return CPS_OK;
}

static void record_names(const cps_args *args, cps_main_record *record,
                         const cps_main_classes *classes) {
    static const char *const flags[] = {"classifier", "taxa", "labels", "bins"};
    const cps_class_names *names = &classes->classifier.names;
    const char *path = NULL;
    for (int i = 0; i < 4 && path == NULL; i++) {
        path = cps_args_get(args, flags[i]);
    }
    const char *subset = cps_args_get(args, "subset");
    cps_main_record_fact(record, "classes", "%lld %s%s%s%s%s", (long long)names->count,
                         cps_class_names_are_taxa(names) ? "taxa" : "labels",
                         path != NULL ? " of " : "", path != NULL ? path : "",
                         subset != NULL ? ", chosen by " : "", subset != NULL ? subset : "");
    if (classes->has_bins) {
        cps_main_record_fact(record, "bins", "%lld of %s", (long long)classes->bins.groups.count,
                             cps_args_get(args, "bins"));
    }
}

cps_status cps_main_classes_read(const cps_app *app, cps_main_record *record,
                                 cps_main_classes *classes_out) {
    cps_main_classes classes = {.published = false};
    CPS_TRY(check_sources(app->args));
    cps_status status = read_names(app->args, &classes);
    if (status == CPS_OK) {
        status = apply_choices(app->args, &classes);
    }
    if (status != CPS_OK) {
        cps_main_classes_free(&classes);
        return status;
    }
    record_names(app->args, record, &classes);
    *classes_out = classes;
    return CPS_OK;
}

bool cps_main_classes_need_texts(const cps_main_classes *classes) {
    return classes->classifier.vectors.rows == 0;
}

/* ---- texts ---- */

/* A template a line. */
static cps_status read_template_file(const char *path, cps_classifier_origin *origin) {
    char *text = NULL;
    size_t length = 0;
    CPS_TRY(cps_file_read(path, max_template_bytes, &text, &length));
    cps_status status = CPS_OK;
    if (!cps_utf8_is_valid(text, length) || memchr(text, '\0', length) != NULL) {
        status = cps_fail(CPS_ERR_DATA, "templates '%s' are not UTF-8 text", path);
    }
    int64_t lines = 1;
    for (const char *at = text; (at = strchr(at, '\n')) != NULL; at++) {
        lines++;
    }
    origin->templates = calloc((size_t)lines + 1, sizeof *origin->templates);
    if (status == CPS_OK && origin->templates == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the templates of '%s'", path);
    }
    char *rest = text;
    for (char *line = strtok_r(rest, "\r\n", &rest); line != NULL && status == CPS_OK;
         line = strtok_r(NULL, "\r\n", &rest)) {
        origin->templates[origin->template_count++] = cps_format("%s", line);
    }
    free(text);
    if (status == CPS_OK && origin->template_count == 0) {
        status = cps_fail(CPS_ERR_USAGE, "'%s' holds no template: write one a line", path);
    }
    return status;
}

static cps_status one_template(const char *text, cps_classifier_origin *origin) {
    origin->templates = calloc(1, sizeof *origin->templates);
    if (origin->templates == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a template");
    }
    origin->templates[origin->template_count++] = cps_format("%s", text);
    return CPS_OK;
}

/* A sentence, a built-in set of that name, or a file. */
static cps_status read_templates(const char *name, cps_classifier_origin *origin) {
    char *folder = NULL;
    if (strstr(name, "{}") != NULL) {
        return one_template(name, origin);
    }
    CPS_TRY(cps_machine_lua_folder(&folder));
    cps_status status =
        cps_job_templates(folder, name, &origin->templates, &origin->template_count);
    free(folder);
    if (status == CPS_ERR_USAGE && cps_file_exists(name)) {
        cps_fail_clear();
        status = read_template_file(name, origin);
    }
    return status;
}

static cps_status make_origin(const cps_main_text_options *options, const cps_scorer *scorer,
                              cps_main_record *record, cps_main_classes *classes) {
    const bool taxa = cps_class_names_are_taxa(&classes->classifier.names);
    cps_classifier_origin *origin = &classes->origin;
    *origin = (cps_classifier_origin){.text = cps_format("%s", taxa ? options->text : "label"),
                                      .averaging = cps_format("%s", averagings[options->averaging]),
                                      .model_digest = cps_scorer_digest(scorer),
                                      .tokenizer_digest =
                                          cps_tokenizer_digest(cps_scorer_tokenizer(scorer))};
    CPS_TRY(read_templates(options->templates, origin));
    cps_main_record_fact(record, "text", "%s", origin->text);
    cps_main_record_fact(record, "templates", "%s: %lld, from '%s' on; %s", options->templates,
                         (long long)origin->template_count, origin->templates[0],
                         origin->averaging);
    cps_json *list = cps_json_add_array(record->json, "templates");
    for (int64_t i = 0; i < origin->template_count; i++) {
        cps_json_add_string(list, NULL, origin->templates[i]);
    }
    return CPS_OK;
}

/* Texts that the tower does not see to their end: classes may then look alike. By the first
 * template, as a sample of all. */
static cps_status warn_of_cut_texts(const cps_scorer *scorer, const cps_classifier_origin *origin,
                                    char *const *texts, int64_t count) {
    const cps_tower *tower = cps_model_tower(cps_scorer_model(scorer), "text");
    const char *place = strstr(origin->templates[0], "{}");
    if (tower == NULL || place == NULL) {
        return CPS_OK; /* a template without a place is refused later */
    }
    const int64_t context = cps_tower_get_config(tower)->context;
    int64_t cut = 0, first = -1;
    for (int64_t i = 0; i < count; i++) {
        int64_t length = 0;
        char *text = cps_format("%.*s%s%s", (int)(place - origin->templates[0]),
                                origin->templates[0], texts[i], place + 2);
        const cps_status status = cps_tokenizer_length(cps_scorer_tokenizer(scorer), text, &length);
        free(text);
        CPS_TRY(status);
        first = length > context && cut == 0 ? i : first;
        cut += length > context;
    }
    if (cut > 0) {
        cps_log(
            CPS_LOG_WARN,
            "%lld of %lld class texts are longer than the %lld tokens that the model reads, and "
            "are cut ('%s' is one)",
            (long long)cut, (long long)count, (long long)context, texts[first]);
    }
    return CPS_OK;
}

/* ---- vectors ---- */

static void show_texts(int64_t done, int64_t total) {
    char line[80];
    snprintf(line, sizeof line, "class texts %lld/%lld", (long long)done, (long long)total);
    cps_log_live(line);
}

/* Room for all vectors, of the shape that a chunk's have. */
static cps_status allocate_vectors(const cps_features *chunk, int64_t count,
                                   cps_features *vectors) {
    size_t elements;
    *vectors = (cps_features){.width = chunk->width, .component_count = chunk->component_count};
    memcpy(vectors->widths, chunk->widths, sizeof vectors->widths);
    if (cps_mul_size((size_t)count, (size_t)chunk->width, &elements)) {
        vectors->values = calloc(elements + 1, sizeof *vectors->values);
    }
    return vectors->values != NULL
               ? CPS_OK
               : cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the vectors of %lld classes",
                          (long long)count);
}

/* Collective. */
static cps_status encode_chunk(const cps_app *app, const cps_encoder *encoder,
                               const cps_main_text_options *options, char *const *texts,
                               int64_t first, int64_t count, cps_main_classes *classes) {
    const cps_lines templates = {.count = classes->origin.template_count,
                                 .lines = (const char *const *)classes->origin.templates};
    cps_features *vectors = &classes->classifier.vectors, chunk = {0};
    const int64_t rows = cps_min_i64(CHUNK, count - first);
    CPS_TRY(cps_class_vectors(app->comm, encoder, (const char *const *)texts + first, rows,
                              &templates, (cps_averaging)options->averaging, &chunk));
    const cps_status status =
        cps_agree(app->comm, "class vectors",
                  vectors->values == NULL ? allocate_vectors(&chunk, count, vectors) : CPS_OK);
    if (status == CPS_OK) {
        memcpy(vectors->values + first * vectors->width, chunk.values,
               (size_t)(rows * chunk.width) * sizeof *chunk.values);
        vectors->rows = first + rows;
    }
    cps_features_free(&chunk);
    return status;
}

/* Collective. */
static cps_status encode_texts(const cps_app *app, const cps_main_text_options *options,
                               const cps_scorer *scorer, cps_main_classes *classes) {
    const int64_t count = classes->classifier.names.count;
    char **texts = NULL;
    cps_status status = cps_class_texts(&classes->classifier.names, classes->origin.text, &texts);
    if (status == CPS_OK) {
        status = warn_of_cut_texts(scorer, &classes->origin, texts, count);
    }
    status = cps_agree(app->comm, "class texts", status);
    for (int64_t first = 0; first < count && status == CPS_OK; first += CHUNK) {
        show_texts(first, count);
        if (cps_agree_any(app->comm, "class texts", cps_signal_seen())) {
            status =
                cps_fail(CPS_ERR_ENDED, "ended by a signal after the texts of %lld of %lld classes",
                         (long long)first, (long long)count);
        } else {
            status =
                encode_chunk(app, cps_scorer_texts(scorer), options, texts, first, count, classes);
        }
    }
    cps_log_live("");
    cps_strings_destroy(texts, count);
    return status;
}

/* Vectors of a file that holds just these; false: there is none. */
static bool take_saved(const char *path, cps_main_classes *classes) {
    cps_classifier saved;
    cps_classifier_origin origin;
    if (!cps_classifier_has_key(path,
                                cps_classifier_key(&classes->classifier.names, &classes->origin))) {
        return false;
    }
    if (cps_classifier_read(path, &saved, &origin) != CPS_OK) {
        cps_log(CPS_LOG_WARN, "%s; its vectors are made again", cps_fail_message());
        cps_fail_clear();
        return false;
    }
    cps_classifier_free(&classes->classifier);
    cps_classifier_origin_free(&classes->origin);
    classes->classifier = saved;
    classes->origin = origin;
    return true;
}

/* Collective. */
static cps_status make_vectors(const cps_app *app, const cps_main_text_options *options,
                               const cps_scorer *scorer, cps_main_record *record,
                               cps_main_classes *classes) {
    const char *path = cps_args_get(app->args, "save-classifier");
    const bool taken = path != NULL && take_saved(path, classes);
    /* One rank that could not read it makes all compute: they agree on the vectors. */
    if (!cps_agree_any(app->comm, "saved classifier", !taken) && path != NULL) {
        cps_main_record_fact(record, "class vectors", "taken from %s, which holds the same", path);
        return CPS_OK;
    }
    cps_features_free(&classes->classifier.vectors);
    CPS_TRY(encode_texts(app, options, scorer, classes));
    CPS_TRY(cps_classifier_check(&classes->classifier, "this model"));
    if (path == NULL) {
        return CPS_OK;
    }
    const cps_status status =
        cps_comm_rank(app->comm) == 0
            ? cps_classifier_write(path, &classes->classifier, &classes->origin,
                                   cps_args_has(app->args, "fp16"))
            : CPS_OK;
    CPS_TRY(cps_agree(app->comm, "saving the classifier", status));
    cps_main_record_fact(record, "class vectors", "saved in %s", path);
    return CPS_OK;
}

/* Loaded vectors must be of this model, or of nobody knows whom. */
static cps_status check_model(const cps_app *app, const cps_scorer *scorer,
                              const cps_main_classes *classes) {
    const uint64_t digest = cps_scorer_digest(scorer), theirs = classes->origin.model_digest;
    if (classes->published || theirs == digest) {
        return CPS_OK;
    }
    if (!cps_args_has(app->args, "force")) {
        return cps_fail(CPS_ERR_USAGE,
                        "the classifier '%s' was made with another model (digest %016" PRIx64
                        ", this one has %016" PRIx64
                        "): its scores would mean nothing; make it again with --save-classifier, "
                        "or say --force",
                        cps_args_get(app->args, "classifier"), theirs, digest);
    }
    cps_log(CPS_LOG_WARN, "the classifier is of another model; --force takes it all the same");
    return CPS_OK;
}

static cps_status check_widths(const cps_encoder *images, const cps_features *vectors) {
    bool same = images->component_count == vectors->component_count;
    for (int32_t c = 0; c < images->component_count && same; c++) {
        same = images->widths[c] == vectors->widths[c];
    }
    return same ? CPS_OK
                : cps_fail(CPS_ERR_DATA,
                           "the classifier's vectors have %lld numbers, the model's features "
                           "%lld%s: it belongs to another model",
                           (long long)vectors->widths[0], (long long)images->widths[0],
                           images->component_count > 1 ? " and further components" : "");
}

/* A loaded classifier under a new name: of this model, maybe a subset of what was loaded. */
static cps_status save_loaded(const cps_app *app, const cps_scorer *scorer,
                              cps_main_classes *classes) {
    const char *path = cps_args_get(app->args, "save-classifier");
    if (path == NULL || cps_comm_rank(app->comm) != 0) {
        return CPS_OK;
    }
    if (classes->published) {
        classes->origin.model_digest = cps_scorer_digest(scorer);
    }
    return cps_classifier_write(path, &classes->classifier, &classes->origin,
                                cps_args_has(app->args, "fp16"));
}

cps_status cps_main_classes_encode(const cps_app *app, const cps_main_text_options *options,
                                   const cps_scorer *scorer, cps_main_record *record,
                                   cps_main_classes *classes) {
    if (cps_main_classes_need_texts(classes)) {
        CPS_TRY(cps_agree(app->comm, "templates", make_origin(options, scorer, record, classes)));
        CPS_TRY(make_vectors(app, options, scorer, record, classes));
    } else {
        cps_main_record_fact(record, "text", "%s, %lld templates, %s", classes->origin.text,
                             (long long)classes->origin.template_count, classes->origin.averaging);
        CPS_TRY(cps_agree(app->comm, "model of the classifier", check_model(app, scorer, classes)));
        CPS_TRY(cps_agree(app->comm, "saving the classifier", save_loaded(app, scorer, classes)));
    }
    return cps_agree(app->comm, "widths of the classifier",
                     check_widths(cps_scorer_images(scorer), &classes->classifier.vectors));
}
