/* embed: features of pictures as a file. */
#include "main_encode.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "eval/pass.h"
#include "report/embeddings.h"
#include "train/scorer.h"

const cps_flag cps_embed_flags[] = {
    {"output", 'o', "FILE",
     "where the features go, by its ending: .json, .csv, .npy, .h5 (default: JSON to standard "
     "output)"},
    {"tower", 0, "NAME", "image tower of the model (default: image)"},
    {"features", 0, "NAME",
     "projected: compared with texts, as it comes; feature: the same of length 1; pooled: before "
     "the projection (default: projected)"},
    {"normalise", 0, NULL, "makes every row of length 1"},
    {"batch", 0, "N", "pictures of one forward pass (default: 16)"},
    CPS_ENCODE_FLAGS,
    {NULL, 0, NULL, NULL},
};

typedef struct embed {
    const cps_app *app;
    bool root;
    cps_main_record record;
    cps_picture_list pictures;
    cps_main_model model;
    cps_scorer *scorer;
    cps_recipe recipe;
    cps_embeddings *embeddings; /* rank 0 */
    double start;
    int64_t taken;
} embed;

static const char *output_of(const embed *e) {
    const char *output = cps_args_get(e->app->args, "features");
    return output != NULL ? output : "projected";
}

static bool is_unit(const embed *e) {
    return cps_args_has(e->app->args, "normalise") || strcmp(output_of(e), "feature") == 0;
}

/* ---- pass ---- */

static void reduce(void *context, const cps_real *features, void *rows_out) {
    const embed *e = context;
    const cps_encoder *encoder = cps_scorer_images(e->scorer);
    memcpy(rows_out, features, (size_t)(encoder->grain * encoder->widths[0]) * sizeof(cps_real));
}

static cps_status take(void *context, int64_t index, const void *row, const char *reason) {
    embed *e = context;
    e->taken++;
    if (reason != NULL) {
        cps_main_record_unreadable(&e->record, e->pictures.paths[index], reason);
    }
    return cps_embeddings_add(e->embeddings, reason == NULL ? row : NULL);
}

static bool stop(void *context) {
    const embed *e = context;
    cps_main_show_progress(e->taken, e->pictures.count, e->start);
    return cps_signal_seen();
}

/* ---- course ---- */

/* Collective. */
static cps_status open_model(embed *e) {
    const char *tower = cps_args_get(e->app->args, "tower");
    int64_t batch = 0;
    CPS_TRY(
        cps_agree(e->app->comm, "command line", cps_main_batch(e->app, e->pictures.count, &batch)));
    CPS_TRY(cps_main_machine(e->app, &e->record));
    CPS_TRY(cps_main_model_open(e->app, cps_args_at(e->app->args, 0), &e->model));
    CPS_TRY(cps_agree(e->app->comm, "image tower",
                      cps_scorer_create(e->model.model, tower != NULL ? tower : "image",
                                        output_of(e), batch, &e->scorer)));
    cps_main_record_tower(
        &e->record, e->model.path,
        cps_tower_get_config(cps_model_tower(e->model.model, tower != NULL ? tower : "image")),
        cps_scorer_digest(e->scorer));
    cps_main_record_fact(&e->record, "features", "%s%s, %lld numbers", output_of(e),
                         is_unit(e) ? ", of length 1" : "",
                         (long long)cps_scorer_images(e->scorer)->widths[0]);
    return cps_agree(e->app->comm, "preprocessing",
                     cps_main_recipe(e->app, cps_scorer_images(e->scorer), &e->record, &e->recipe));
}

static cps_status open_output(embed *e) {
    char digest[32];
    snprintf(digest, sizeof digest, "%016" PRIx64, cps_scorer_digest(e->scorer));
    const cps_embeddings_spec spec = {.path = cps_args_get(e->app->args, "output"),
                                      .stream = stdout,
                                      .model = e->model.path,
                                      .digest = digest,
                                      .output = output_of(e),
                                      .normalised = is_unit(e),
                                      .width = cps_scorer_images(e->scorer)->widths[0],
                                      .count = e->pictures.count,
                                      .pictures = (const char *const *)e->pictures.paths};
    return cps_embeddings_create(&spec, &e->embeddings);
}

/* Rank 0: the end of the output and the record of it all. */
static cps_status close_output(embed *e, cps_status status, int64_t done) {
    if (!e->root) {
        return status;
    }
    char *kept = cps_format("%s", status == CPS_OK ? "done" : cps_fail_message());
    cps_status closed = status == CPS_OK ? cps_embeddings_finish(e->embeddings) : CPS_OK;
    if (status != CPS_OK) {
        cps_embeddings_abandon(e->embeddings);
    }
    e->embeddings = NULL;
    const cps_status logged = cps_main_record_close(
        &e->record, closed == CPS_OK ? kept : cps_fail_message(), &e->pictures, done);
    if (status != CPS_OK) {
        closed = cps_fail(status, "%s", kept);
    }
    free(kept);
    return closed != CPS_OK ? closed : logged;
}

/* Collective. */
static cps_status run(embed *e) {
    int64_t done = 0;
    CPS_TRY(cps_agree(e->app->comm, "log", cps_main_record_open(e->app, &e->record)));
    CPS_TRY(cps_main_pictures(e->app, 1, &e->pictures));
    CPS_TRY(open_model(e));
    CPS_TRY(cps_agree(e->app->comm, "output", e->root ? open_output(e) : CPS_OK));
    const cps_encoder *encoder = cps_scorer_images(e->scorer);
    const cps_pass pass = {.comm = e->app->comm,
                           .encoder = encoder,
                           .recipe = &e->recipe,
                           .paths = (const char *const *)e->pictures.paths,
                           .count = e->pictures.count,
                           .normalise = cps_args_has(e->app->args, "normalise"),
                           .row_bytes = (size_t)encoder->widths[0] * sizeof(cps_real),
                           .context = e,
                           .reduce = reduce,
                           .take = take,
                           .stop = stop};
    e->start = cps_seconds();
    cps_status status = cps_pass_run(&pass, &done);
    cps_log_live("");
    if (status == CPS_OK) {
        status = cps_main_judge(e->app, &e->record, e->pictures.count, done, e->start, "encoded",
                                "; nothing is written");
    }
    return cps_agree(e->app->comm, "end of the output", close_output(e, status, done));
}

cps_status cps_command_embed(const cps_app *app) {
    embed e = {.app = app, .root = cps_comm_rank(app->comm) == 0};
    const cps_status status = run(&e);
    cps_embeddings_abandon(e.embeddings);
    cps_scorer_destroy(e.scorer);
    cps_main_model_close(&e.model);
    cps_picture_list_free(&e.pictures);
    cps_main_record_free(&e.record);
    cps_pool_stop();
    return status;
}
