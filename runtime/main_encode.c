#include "main_encode.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "tensor/gemm.h"

enum { BATCH = 16, SHOWN_UNREADABLE = 20 };

/* ---- record ---- */

static void now_text(char text[32]) {
    const time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &parts);
}

static bool is_json(const char *path) {
    const size_t length = strlen(path);
    return length > 5 && strcmp(path + length - 5, ".json") == 0;
}

cps_status cps_main_record_open(const cps_app *app, cps_main_record *record_out) {
    cps_main_record record = {.path = cps_args_get(app->args, "log"),
                              .root = app->comm == NULL || cps_comm_rank(app->comm) == 0};
    if (record.root && record.path != NULL && is_json(record.path) &&
        cps_file_exists(record.path)) {
        return cps_fail(CPS_ERR_USAGE,
                        "--log '%s': the file exists, and a JSON log is always a new one: choose "
                        "another name, or remove it",
                        record.path);
    }
    char start[32];
    char *command = cps_main_command_line(app->argc, app->argv);
    now_text(start);
    record.json = cps_json_new_object();
    cps_json_add_string(record.json, "copse_version", CPS_VERSION);
    cps_json_add_string(record.json, "command_line", command);
    cps_json_add_string(record.json, "start", start);
    record.settings = cps_json_add_object(record.json, "settings");
    record.unreadable = cps_json_add_array(record.json, "unreadable");
    free(command);
    *record_out = record;
    return CPS_OK;
}

void cps_main_record_fact(cps_main_record *record, const char *key, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    cps_log(CPS_LOG_INFO, "%s: %s", key, text);
    cps_json_add_string(record->settings, key, text);
}

void cps_main_record_unreadable(cps_main_record *record, const char *path, const char *reason) {
    if (record->unreadable_count++ < SHOWN_UNREADABLE) {
        cps_log(CPS_LOG_WARN, "%s: not read: %s%s", path, reason,
                record->unreadable_count == SHOWN_UNREADABLE ? " (further ones are only counted)"
                                                             : "");
    }
    if (record->path != NULL) {
        cps_json *entry = cps_json_add_object(record->unreadable, NULL);
        cps_json_add_string(entry, "file", path);
        cps_json_add_string(entry, "reason", reason);
    }
}

/* The record as lines, for logs that grow; malloc'ed, NULL: out of memory. */
static char *as_text(const cps_main_record *record) {
    char *text = NULL;
    size_t length = 0;
    FILE *lines = open_memstream(&text, &length);
    if (lines == NULL) {
        return NULL;
    }
    fprintf(lines, "%s copse %s\n  command: %s\n", cps_json_get_string(record->json, "start", ""),
            CPS_VERSION, cps_json_get_string(record->json, "command_line", ""));
    for (const cps_json *fact = cps_json_first(record->settings); fact != NULL;
         fact = cps_json_next(fact)) {
        fprintf(lines, "  %s: %s\n", cps_json_key(fact), cps_json_string(fact));
    }
    for (const cps_json *entry = cps_json_first(record->unreadable); entry != NULL;
         entry = cps_json_next(entry)) {
        fprintf(lines, "  not read: %s: %s\n", cps_json_get_string(entry, "file", ""),
                cps_json_get_string(entry, "reason", ""));
    }
    fprintf(lines, "  pictures: %lld, %lld of them done, %lld not read\n  end: %s, %s\n",
            (long long)cps_json_get_integer(record->json, "pictures", 0),
            (long long)cps_json_get_integer(record->json, "done", 0),
            (long long)record->unreadable_count, cps_json_get_string(record->json, "end", ""),
            cps_json_get_string(record->json, "outcome", ""));
    return fclose(lines) == 0 ? text : NULL;
}

static cps_status write_json(cps_main_record *record, const cps_picture_list *list) {
    cps_json *files = cps_json_add_array(record->json, "files");
    for (int64_t i = 0; i < list->count; i++) {
        cps_json_add_string(files, NULL, list->paths[i]);
    }
    char *text = cps_json_print(record->json, true, false);
    const cps_status status = cps_file_write_atomic(record->path, text, strlen(text));
    free(text);
    return status;
}

cps_status cps_main_record_close(cps_main_record *record, const char *outcome,
                                 const cps_picture_list *list, int64_t done) {
    if (!record->root || record->path == NULL) {
        return CPS_OK;
    }
    char end[32];
    now_text(end);
    cps_json_add_string(record->json, "end", end);
    cps_json_add_string(record->json, "outcome", outcome);
    cps_json_add_number(record->json, "pictures", (double)list->count);
    cps_json_add_number(record->json, "done", (double)done);
    if (is_json(record->path)) {
        return write_json(record, list);
    }
    char *text = as_text(record);
    const cps_status status = text != NULL
                                  ? cps_file_append(record->path, text, strlen(text))
                                  : cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the log");
    free(text);
    return status;
}

void cps_main_record_free(cps_main_record *record) {
    cps_json_destroy(record->json);
    *record = (cps_main_record){.path = NULL};
}

void cps_main_record_tower(cps_main_record *record, const char *path,
                           const cps_tower_config *config, uint64_t digest) {
    cps_main_record_fact(record, "model", "%s (digest %016" PRIx64 ")", path, digest);
    cps_main_record_fact(record, "image tower",
                         "'%s', %lld pixels, patches of %lld, width %lld, %lld layers, %s",
                         config->name, (long long)config->image_size, (long long)config->patch,
                         (long long)config->width, (long long)config->layers,
                         config->quick_gelu ? "QuickGELU" : "GELU");
}

void cps_main_show_progress(int64_t done, int64_t total, double start) {
    char line[100];
    const double seconds = cps_seconds() - start;
    snprintf(line, sizeof line, "pictures %lld/%lld  %.1f pictures/s", (long long)done,
             (long long)total, seconds > 0 ? (double)done / seconds : 0.0);
    cps_log_live(line);
}

cps_status cps_main_judge(const cps_app *app, const cps_main_record *record, int64_t pictures,
                          int64_t done, double start, const char *what, const char *lost) {
    int64_t unreadable = record->unreadable_count;
    cps_comm_broadcast(app->comm, "unreadable pictures", &unreadable, sizeof unreadable, 0);
    if (done < pictures) {
        return cps_fail(CPS_ERR_ENDED, "ended by a signal after %lld of %lld pictures%s",
                        (long long)done, (long long)pictures, lost);
    }
    if (unreadable == pictures) {
        return cps_fail(CPS_ERR_DATA, "none of the %lld pictures could be read; see above",
                        (long long)pictures);
    }
    const double seconds = cps_seconds() - start;
    cps_log(CPS_LOG_INFO, "%lld pictures: %lld %s, %lld not read; %.1f s, %.1f pictures/s",
            (long long)done, (long long)(done - unreadable), what, (long long)unreadable, seconds,
            seconds > 0 ? (double)done / seconds : 0.0);
    return CPS_OK;
}

/* ---- pictures ---- */

static cps_status read_list(const char *path, cps_picture_list *list) {
    const bool standard = strcmp(path, "-") == 0;
    const int64_t before = list->count;
    FILE *lines = standard ? stdin : fopen(path, "r");
    if (lines == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "--list '%s' cannot be opened: %s", path,
                        strerror(errno));
    }
    cps_status status = cps_picture_list_read(list, lines, path);
    if (!standard) {
        fclose(lines);
    }
    if (status == CPS_OK && list->count == before) {
        status = cps_fail(CPS_ERR_USAGE, "--list '%s' names no picture%s", path,
                          standard ? " (with -n standard input is not passed on: use a file)" : "");
    }
    return status;
}

/* A wrong path or a list made elsewhere shows before a model is read and classes are computed.
 * Files that are missing among others are said one by one. */
static cps_status check_any_exists(const cps_picture_list *list) {
    for (int64_t i = 0; i < list->count; i++) {
        if (cps_file_exists(list->paths[i])) {
            return CPS_OK;
        }
    }
    return cps_fail(CPS_ERR_UNAVAILABLE,
                    "none of the %lld pictures exists: there is no '%s'%s; paths are relative to "
                    "the folder where the command runs",
                    (long long)list->count, list->paths[0], list->count > 1 ? " and so on" : "");
}

static cps_status collect(const cps_args *args, int32_t first, cps_picture_list *list) {
    const char *path;
    for (int32_t i = first; (path = cps_args_at(args, i)) != NULL; i++) {
        CPS_TRY(cps_picture_list_add(list, path));
    }
    for (int32_t i = 0; (path = cps_args_get_at(args, "list", i)) != NULL; i++) {
        CPS_TRY(read_list(path, list));
    }
    if (list->count == 0) {
        return cps_fail(CPS_ERR_USAGE, "no picture is named: give files, folders, or --list FILE");
    }
    if (list->passed_over > 0) {
        cps_log(CPS_LOG_WARN,
                "%lld pictures in folders are neither JPEG nor PNG by their names and are passed "
                "over",
                (long long)list->passed_over);
    }
    return check_any_exists(list);
}

cps_status cps_main_pictures(const cps_app *app, int32_t first, cps_picture_list *list_out) {
    cps_picture_list list = {0};
    cps_status status =
        cps_agree(app->comm, "list of pictures",
                  cps_comm_rank(app->comm) == 0 ? collect(app->args, first, &list) : CPS_OK);
    if (status == CPS_OK) {
        status = cps_picture_list_share(&list, app->comm);
    }
    if (status != CPS_OK) {
        cps_picture_list_free(&list);
        return status;
    }
    *list_out = list;
    return CPS_OK;
}

cps_status cps_main_batch(const cps_app *app, int64_t pictures, int64_t *batch_out) {
    int64_t batch = BATCH;
    CPS_TRY(cps_args_integer(app->args, "batch", 1, 4096, &batch));
    *batch_out = batch < pictures ? batch : pictures;
    return CPS_OK;
}

/* ---- preprocessing, machine ---- */

/* "0.48,0.45,0.4" */
static cps_status read_channels(const cps_args *args, const char *flag, double out[3]) {
    const char *text = cps_args_get(args, flag);
    if (text == NULL) {
        return CPS_OK;
    }
    double values[3] = {0, 0, 0};
    int used = 0;
    const int count = sscanf(text, "%lf,%lf,%lf%n", &values[0], &values[1], &values[2], &used);
    if (count != 3 || text[used] != '\0' || !isfinite(values[0] + values[1] + values[2])) {
        return cps_fail(CPS_ERR_USAGE,
                        "--%s is '%s': three numbers with commas are wanted, for "
                        "red, green and blue",
                        flag, text);
    }
    memcpy(out, values, sizeof values);
    return CPS_OK;
}

cps_status cps_main_recipe(const cps_app *app, const cps_encoder *encoder, cps_main_record *record,
                           cps_recipe *recipe_out) {
    static const char *const resizes[] = {"crop", "squash", NULL};
    static const char *const filters[] = {"bilinear", "bicubic", NULL}; /* cps_filter */
    cps_recipe recipe = encoder->image_recipe;
    int32_t squash = recipe.squash, filter = (int32_t)recipe.filter;
    CPS_TRY(cps_args_choice(app->args, "resize", resizes, &squash));
    CPS_TRY(cps_args_choice(app->args, "interpolation", filters, &filter));
    CPS_TRY(read_channels(app->args, "mean", recipe.mean));
    CPS_TRY(read_channels(app->args, "std", recipe.std));
    recipe.squash = squash != 0;
    recipe.filter = (cps_filter)filter;
    CPS_TRY(cps_recipe_check(&recipe, "preprocessing"));
    cps_main_record_fact(record, "preprocessing",
                         "%s to %d pixels, %s, mean %g,%g,%g, std %g,%g,%g", resizes[squash],
                         recipe.size, filters[filter], recipe.mean[0], recipe.mean[1],
                         recipe.mean[2], recipe.std[0], recipe.std[1], recipe.std[2]);
    *recipe_out = recipe;
    return CPS_OK;
}

cps_status cps_main_machine(const cps_app *app, cps_main_record *record) {
    const char *precision = cps_args_get(app->args, "precision");
    int32_t threads = 1;
    CPS_TRY(cps_machine_threads(app->comm, app->args, &threads));
    cps_status status = cps_pool_start(threads);
    if (status == CPS_OK) {
        cps_gemm_start();
        status = cps_gemm_set_precision(precision != NULL ? precision : "fp32");
    }
    CPS_TRY(cps_agree(app->comm, "starting threads", status));
    cps_main_record_fact(record, "machine", "%d ranks of %d threads, BLAS family %s, %s",
                         cps_comm_size(app->comm), threads, cps_gemm_core_name(),
                         cps_gemm_precision());
    return CPS_OK;
}
