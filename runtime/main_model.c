/* objectives, and the option tables of constructors; import and export of weights. */
#include "main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/options.h"
#include "comm/agree.h"
#include "h5/h5.h"
#include "job/rows.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "plugin/loader.h"
#include "train/checkpoint.h"

/* ---- option tables ---- */

/* One row a line for scripts: owner, name, kind, default, choices. */
static void print_rows_plain(const char *owner, const cps_option *rows) {
    for (const cps_option *row = rows; row != NULL && row->name != NULL; row++) {
        printf("%s\t%s\t%s\t%s\t", owner, row->name, cps_option_kind_name(row->kind),
               row->default_text != NULL ? row->default_text : "");
        for (const char *const *choice = row->choices; choice != NULL && *choice != NULL;
             choice++) {
            printf("%s%s", choice == row->choices ? "" : ",", *choice);
        }
        putchar('\n');
    }
}

static void print_rows(const cps_option *rows) {
    if (rows == NULL || rows->name == NULL) {
        puts("  (no options)");
    } else {
        cps_options_print(rows, stdout);
    }
}

static void print_constructor(const cps_job_rows *row) {
    printf("copse.%s { ... }: %s\n", row->kind, row->help != NULL ? row->help : "");
    print_rows(row->rows);
    for (const char *const *metric = row->metrics; metric != NULL && *metric != NULL; metric++) {
        printf("%s%s", metric == row->metrics ? "  metrics: " : ", ", *metric);
    }
    puts(row->metrics != NULL ? "\n" : "");
}

cps_status cps_main_help_rows(const char *name, bool plain) {
    int64_t count = 0;
    const cps_job_rows *rows = cps_job_engine_rows(&count);
    bool found = false;
    for (int64_t i = 0; i < count; i++) {
        if (strcmp(name, "options") == 0 || strcmp(name, rows[i].kind) == 0) {
            found = true;
            if (plain) {
                print_rows_plain(rows[i].kind, rows[i].rows);
            } else {
                print_constructor(&rows[i]);
            }
        }
    }
    return found ? CPS_OK : CPS_ERR_USAGE;
}

/* ---- objectives ---- */

const cps_flag cps_objectives_flags[] = {
    {"plugin", 'p', "PATH", "a shared object of your own; repeatable"},
    {"plain", 0, NULL, "one row a line, columns by tabs, for scripts"},
    {NULL, 0, NULL, NULL},
};

/* Our plugins and those of --plugin. */
static cps_status load_all(const cps_args *args, cps_plugins **plugins_out) {
    cps_plugins *plugins = NULL;
    CPS_TRY(cps_main_plugins(&plugins));
    const char *path;
    for (int32_t i = 0; (path = cps_args_get_at(args, "plugin", i)) != NULL; i++) {
        const cps_status status = cps_plugins_load(plugins, path);
        if (status != CPS_OK) {
            cps_plugins_destroy(plugins);
            return status;
        }
    }
    *plugins_out = plugins;
    return CPS_OK;
}

static void list_objectives(const cps_plugins *plugins, bool plain) {
    for (int64_t i = 0; i < cps_plugins_count(plugins); i++) {
        const char *path = NULL;
        const cps_objective *objective = cps_plugins_at(plugins, i, &path);
        if (plain) {
            printf("%s\t%s\t%s\n", objective->name, path != NULL ? path : "", objective->help);
        } else {
            printf("  %-24s %s%s%s%s\n", objective->name, objective->help, path != NULL ? " (" : "",
                   path != NULL ? path : "", path != NULL ? ")" : "");
        }
    }
    if (!plain) {
        puts("\n'copse objectives NAME' shows the options of one.");
    }
}

/* `name` in the plugins of --plugin, the last one first, then in ours. */
static cps_status find_objective(const cps_args *args, const cps_plugins *plugins, const char *name,
                                 const cps_objective **objective_out) {
    int32_t count = 0;
    while (cps_args_get_at(args, "plugin", count) != NULL) {
        count++;
    }
    for (int32_t i = count; i-- > 0;) {
        if (cps_plugins_find(plugins, cps_args_get_at(args, "plugin", i), name, objective_out) ==
            CPS_OK) {
            return CPS_OK;
        }
    }
    return cps_plugins_find(plugins, NULL, name, objective_out);
}

static void show_objective(const cps_objective *objective) {
    printf("copse.objective.%s { ... }\n%s\n\n", objective->name, objective->help);
    print_rows(objective->options);
    int64_t count = 0;
    const cps_job_rows *rows = cps_job_engine_rows(&count);
    for (int64_t i = 0; i < count; i++) {
        if (strcmp(rows[i].kind, "objective") == 0) {
            puts("\nEvery objective also takes:");
            print_rows(rows[i].rows);
        }
    }
}

cps_status cps_command_objectives(const cps_app *app) {
    const char *name = cps_args_at(app->args, 0);
    const bool plain = cps_args_has(app->args, "plain");
    cps_plugins *plugins = NULL;
    CPS_TRY(load_all(app->args, &plugins));
    cps_status status = CPS_OK;
    if (name == NULL) {
        list_objectives(plugins, plain);
    } else {
        const cps_objective *objective = NULL;
        status = find_objective(app->args, plugins, name, &objective);
        if (status == CPS_OK && plain) {
            print_rows_plain(name, objective->options);
        } else if (status == CPS_OK) {
            show_objective(objective);
        }
    }
    cps_plugins_destroy(plugins);
    return status;
}

/* ---- import, export ---- */

const cps_flag cps_import_flags[] = {
    {"preset", 0, "NAME",
     "towers of this size: ViT-B-32, ViT-B-16, ViT-L-14, ... (needed, unless Copse wrote WEIGHTS)"},
    {"partial", 0, NULL, "parameters that WEIGHTS lacks keep their initial values"},
    {NULL, 0, NULL, NULL},
};
static const char *const format_names[] = {"open_clip", "huggingface", NULL};
const cps_flag cps_export_flags[] = {
    {"format", 0, "NAME", "names of open_clip or huggingface (default: open_clip)"},
    {"everything", 0, NULL,
     "also what objectives added to the model, as their published code names it (heads, ...)"},
    {NULL, 0, NULL, NULL},
};

static void list_names(const char *what, char *const *names, int64_t count) {
    if (count > 0) {
        printf("  %s:\n", what);
    }
    for (int64_t i = 0; i < count; i++) {
        printf("    %s\n", names[i]);
    }
}

static void show_report(const char *path, const cps_weights_report *report) {
    printf("%s: %lld tensors, %lld of them resampled; %lld missing, %lld not used\n", path,
           (long long)report->loaded, (long long)report->resampled,
           (long long)report->missing_count, (long long)report->unused_count);
    list_names("missing", report->missing, report->missing_count);
    list_names("not used", report->unused, report->unused_count);
}

/* The model that a weights file is for: --preset, else the description that `copse export` writes
 * beside it. */
static cps_status model_spec(const cps_args *args, const char *weights, cps_json **spec_out) {
    const char *preset = cps_args_get(args, "preset");
    if (preset != NULL) {
        cps_json *spec = cps_json_new_object();
        cps_json_add_string(spec, "preset", preset);
        *spec_out = spec;
        return CPS_OK;
    }
    const size_t length = strlen(weights);
    static const char ending[] = ".safetensors";
    const size_t tail = sizeof ending - 1;
    const bool ends = length > tail && strcmp(weights + length - tail, ending) == 0;
    char *beside = cps_format("%.*s.json", (int)(ends ? length - tail : length), weights);
    const bool there = cps_file_exists(beside);
    const cps_status status = there ? cps_json_read_file(beside, 1 << 20, spec_out)
                                    : cps_fail(CPS_ERR_USAGE,
                                               "the sizes of '%s' are not known: "
                                               "give --preset (ViT-B-32, ViT-B-16, "
                                               "ViT-L-14, ...), or put '%s' beside it",
                                               weights, beside);
    free(beside);
    return status;
}

/* Similarity scale and bias belong to objectives; weights carry them along where the file has them.
 */
static const char *const scalar_names[] = {"logit_scale", "logit_bias"};
enum { SCALARS = sizeof scalar_names / sizeof *scalar_names };

static cps_status declare_scalars(cps_params *params, const bool there[SCALARS]) {
    for (int32_t i = 0; i < SCALARS; i++) {
        int32_t index = 0;
        const cps_param_spec spec = {.name = scalar_names[i], .init = {.kind = CPS_INIT_ZERO}};
        if (there[i]) {
            CPS_TRY(cps_params_add(params, &spec, &index));
        }
    }
    return CPS_OK;
}

static cps_status find_scalars_in_safetensors(const char *path, bool there[SCALARS]) {
    cps_safetensors *file = NULL;
    CPS_TRY(cps_safetensors_open(path, &file));
    for (int64_t i = 0; i < cps_safetensors_count(file); i++) {
        for (int32_t n = 0; n < SCALARS; n++) {
            there[n] = there[n] || strcmp(cps_safetensors_at(file, i)->name, scalar_names[n]) == 0;
        }
    }
    cps_safetensors_close(file);
    return CPS_OK;
}

static cps_status find_scalars_in_checkpoint(const char *path, bool there[SCALARS]) {
    cps_h5 *file = NULL;
    CPS_TRY(cps_h5_open(path, &file));
    for (int32_t n = 0; n < SCALARS; n++) {
        char name[64];
        snprintf(name, sizeof name, "model/%s", scalar_names[n]);
        there[n] = cps_h5_has(file, name);
    }
    return cps_h5_close(file);
}

static cps_status declare_as_stored(cps_params *params, cps_h5 *file, const char *name) {
    cps_h5_info info;
    int32_t index = 0;
    char *path = cps_format("model/%s", name);
    cps_status status = cps_h5_inspect(file, path, &info);
    free(path);
    if (status == CPS_OK && (info.kind != CPS_H5_DATASET || info.rank > CPS_MAX_DIMS)) {
        status =
            cps_fail(CPS_ERR_DATA, "'%s' of the checkpoint is no parameter: it is damaged", name);
    }
    if (status == CPS_OK) {
        cps_param_spec spec = {.name = name, .rank = info.rank, .init = {.kind = CPS_INIT_ZERO}};
        memcpy(spec.shape, info.shape, (size_t)info.rank * sizeof *spec.shape);
        status = cps_params_add(params, &spec, &index);
    }
    return status;
}

/* Parameters of the checkpoint that the model does not have yet. */
static cps_status declare_strangers(cps_params *params, const char *path) {
    cps_h5 *file = NULL;
    char **names = NULL;
    int64_t count = 0;
    CPS_TRY(cps_h5_open(path, &file));
    cps_status status = cps_h5_list(file, "model", &names, &count);
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        if (cps_params_find(params, names[i]) < 0) {
            status = declare_as_stored(params, file, names[i]);
        }
    }
    cps_strings_destroy(names, count);
    const cps_status closed = cps_h5_close(file);
    return status != CPS_OK ? status : closed;
}

/* A model of this description with the values of `weights`. everything: a checkpoint, of which
 * nothing is left out. */
static cps_status make_model(const cps_json *spec, const char *weights, const bool there[SCALARS],
                             bool partial, bool everything, cps_weights_report *report,
                             cps_model **model_out) {
    cps_model *model = NULL;
    CPS_TRY(cps_model_create(spec, 0, 0, &model));
    cps_status status = declare_scalars(cps_model_params(model), there);
    if (status == CPS_OK && everything) {
        status = declare_strangers(cps_model_params(model), weights);
    }
    if (status == CPS_OK) {
        status = cps_params_allocate(cps_model_params(model), 0);
    }
    if (status == CPS_OK) {
        status = cps_weights_load(model, weights, partial, report);
    }
    if (status != CPS_OK) {
        cps_model_destroy(model);
        return status;
    }
    *model_out = model;
    return CPS_OK;
}

/* ---- a model for commands without a job ---- */

/* Rank 0: what kind of file it is and what model it is for: { checkpoint, spec, state, identity,
 * scalars }. */
static cps_status describe_file(const cps_args *args, const char *path, cps_json **facts_out) {
    cps_main_file kind = CPS_FILE_OTHER;
    cps_json *spec = NULL;
    bool there[SCALARS] = {false};
    CPS_TRY(cps_main_sniff(path, &kind));
    const bool checkpoint = kind == CPS_FILE_HDF5;
    CPS_TRY(checkpoint ? cps_checkpoint_describe(path, &spec) : model_spec(args, path, &spec));
    const cps_status status = checkpoint ? find_scalars_in_checkpoint(path, there)
                                         : find_scalars_in_safetensors(path, there);
    if (status == CPS_OK) {
        cps_json *facts = cps_json_new_object();
        cps_json_add_bool(facts, "checkpoint", checkpoint);
        cps_json_add_copy(facts, "spec", spec);
        for (int32_t n = 0; n < SCALARS; n++) {
            cps_json_add_bool(facts, scalar_names[n], there[n]);
        }
        *facts_out = facts;
    }
    cps_json_destroy(spec);
    return status;
}

/* Collective. Rank 0's facts reach all. */
static cps_status share_facts(cps_comm *comm, const char *path, cps_json *own, cps_json **out) {
    void *text = own != NULL ? cps_json_print(own, false, true) : NULL;
    size_t length = text != NULL ? strlen(text) : 0;
    cps_json_destroy(own);
    cps_comm_broadcast_alloc(comm, "description of the model", &text, &length, 0);
    const cps_status status = cps_json_parse(text, length, path, out);
    free(text);
    return cps_agree(comm, "description of the model", status);
}

/* Rank 0: names of parameters in the checkpoint that the towers do not have. */
static cps_status find_strangers(const char *path, const cps_params *params,
                                 cps_main_model *model) {
    cps_h5 *file = NULL;
    char **names = NULL;
    int64_t count = 0;
    CPS_TRY(cps_h5_open(path, &file));
    cps_status status = cps_h5_list(file, "model", &names, &count);
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        if (cps_params_find(params, names[i]) < 0 && model->strangers++ == 0) {
            model->stranger = cps_format("%s", names[i]);
        }
    }
    cps_strings_destroy(names, count);
    const cps_status closed = cps_h5_close(file);
    return status != CPS_OK ? status : closed;
}

/* Collective. */
static cps_status load_values(const cps_app *app, const char *path, bool checkpoint,
                              cps_main_model *model) {
    const bool root = cps_comm_rank(app->comm) == 0;
    cps_params *params = cps_model_params(model->model);
    if (checkpoint) {
        cps_json *state = NULL;
        CPS_TRY(cps_checkpoint_load(app->comm, path, model->model, NULL));
        CPS_TRY(cps_checkpoint_read_state(app->comm, path, &state, &model->identity));
        cps_json_destroy(state);
        return cps_agree(app->comm, "parameters of the checkpoint",
                         root ? find_strangers(path, params, model) : CPS_OK);
    }
    cps_status status = root ? cps_weights_load(model->model, path, false, NULL) : CPS_OK;
    CPS_TRY(cps_agree(app->comm, "weights", status));
    cps_comm_broadcast(app->comm, "weights", cps_params_flat(params),
                       (size_t)cps_params_flat_count(params) * sizeof(cps_real), 0);
    return CPS_OK;
}

static cps_status create_model(const cps_json *facts, cps_main_model *model) {
    bool there[SCALARS];
    for (int32_t n = 0; n < SCALARS; n++) {
        there[n] = cps_json_get_bool(facts, scalar_names[n], false);
    }
    CPS_TRY(cps_model_create(cps_json_get(facts, "spec"), 0, 0, &model->model));
    cps_params *params = cps_model_params(model->model);
    CPS_TRY(declare_scalars(params, there));
    return cps_params_allocate(params, 0);
}

cps_status cps_main_model_open(const cps_app *app, const char *path, cps_main_model *model_out) {
    cps_json *own = NULL, *facts = NULL;
    cps_main_model model = {.path = path};
    cps_status status =
        cps_agree(app->comm, "file of the model",
                  cps_comm_rank(app->comm) == 0 ? describe_file(app->args, path, &own) : CPS_OK);
    if (status == CPS_OK) {
        status = share_facts(app->comm, path, own, &facts);
    }
    if (status == CPS_OK) {
        status = cps_agree(app->comm, "a model", create_model(facts, &model));
    }
    if (status == CPS_OK) {
        status = load_values(app, path, cps_json_get_bool(facts, "checkpoint", false), &model);
    }
    cps_json_destroy(facts);
    if (status != CPS_OK) {
        cps_main_model_close(&model);
        return status;
    }
    *model_out = model;
    return CPS_OK;
}

void cps_main_model_close(cps_main_model *model) {
    cps_model_destroy(model->model);
    cps_json_destroy(model->identity);
    free(model->stranger);
    *model = (cps_main_model){.path = NULL};
}

/* A checkpoint of step 0 in a folder of its own beside `path`, then renamed to it. Collective. */
static cps_status write_checkpoint(cps_comm *comm, cps_model *model, const char *path) {
    const bool root = cps_comm_rank(comm) == 0;
    char *folder = cps_format("%s.import", path);
    char *written = cps_format("%s/step-00000000.h5", folder);
    cps_json *nothing = cps_json_new_object();
    const cps_checkpoint_content content = {.model = model, .state = nothing, .identity = nothing};
    cps_status status =
        cps_agree(comm, "folder of the import", root ? cps_dir_create(folder) : CPS_OK);
    if (status == CPS_OK) {
        status = cps_checkpoint_write(comm, folder, 0, &content);
    }
    if (status == CPS_OK && root) {
        status = cps_file_publish(written, path);
    }
    if (root) {
        rmdir(folder);
    }
    cps_json_destroy(nothing);
    free(written);
    free(folder);
    return status;
}

cps_status cps_command_import(const cps_app *app) {
    const char *weights = cps_args_at(app->args, 0), *path = cps_args_at(app->args, 1);
    const bool root = cps_comm_rank(app->comm) == 0;
    bool there[SCALARS] = {false};
    cps_json *spec = NULL;
    cps_model *model = NULL;
    cps_weights_report report = {.loaded = 0};
    cps_status status = find_scalars_in_safetensors(weights, there);
    if (status == CPS_OK) {
        status = model_spec(app->args, weights, &spec);
    }
    if (status == CPS_OK) {
        status = make_model(spec, weights, there, cps_args_has(app->args, "partial"), false,
                            &report, &model);
    }
    cps_json_destroy(spec);
    status = cps_agree(app->comm, "weights of the import", status);
    if (status == CPS_OK) {
        status = write_checkpoint(app->comm, model, path);
    }
    if (status == CPS_OK && root) {
        show_report(weights, &report);
        printf("%s: written\n", path);
    }
    cps_weights_report_free(&report);
    cps_model_destroy(model);
    return status;
}

cps_status cps_command_export(const cps_app *app) {
    const char *checkpoint = cps_args_at(app->args, 0), *path = cps_args_at(app->args, 1);
    int32_t format = CPS_WEIGHTS_OPEN_CLIP;
    bool there[SCALARS] = {false};
    cps_json *spec = NULL;
    cps_model *model = NULL;
    CPS_TRY(cps_args_choice(app->args, "format", format_names, &format));
    CPS_TRY(cps_checkpoint_describe(checkpoint, &spec));
    cps_status status = find_scalars_in_checkpoint(checkpoint, there);
    if (status == CPS_OK) {
        status = make_model(spec, checkpoint, there, false, cps_args_has(app->args, "everything"),
                            NULL, &model);
    }
    cps_json_destroy(spec);
    if (status == CPS_OK) {
        status = cps_weights_save(model, path, (cps_weights_format)format);
    }
    cps_model_destroy(model);
    if (status == CPS_OK) {
        printf("%s: written\n", path);
    }
    return status;
}
