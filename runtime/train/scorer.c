#include "train/scorer.h"

#include <stdlib.h>

#include "base/file.h"
#include "comm/agree.h"
#include "train/embed.h"
#include "train/loop_private.h"

struct cps_scorer {
    cps_model *model;
    cps_embedder *images, *texts;
    cps_loop *loop;                 /* of a job; else NULL */
    const cps_tokenizer *tokenizer; /* borrowed */
    const char *objective;
};

static cps_status allocate(cps_scorer **scorer_out) {
    *scorer_out = calloc(1, sizeof **scorer_out);
    return *scorer_out != NULL ? CPS_OK
                               : cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a model");
}

cps_status cps_scorer_create(cps_model *model, const char *tower, const char *output, int64_t batch,
                             cps_scorer **scorer_out) {
    cps_scorer *scorer = NULL;
    CPS_TRY(allocate(&scorer));
    scorer->model = model;
    cps_status status = cps_embedder_create_of_images(model, tower, output, batch, &scorer->images);
    if (status == CPS_OK) {
        status = cps_embedder_prepare(scorer->images);
    }
    if (status != CPS_OK) {
        cps_scorer_destroy(scorer);
        return status;
    }
    *scorer_out = scorer;
    return CPS_OK;
}

cps_status cps_scorer_add_texts(cps_scorer *scorer, const cps_tokenizer *tokenizer) {
    CPS_TRY(cps_embedder_create_of_texts(scorer->model, tokenizer, &scorer->texts));
    scorer->tokenizer = tokenizer;
    const int64_t images = cps_scorer_images(scorer)->widths[0];
    const int64_t texts = cps_scorer_texts(scorer)->widths[0];
    if (images != texts) {
        return cps_fail(CPS_ERR_USAGE,
                        "features of images have %lld numbers, those of texts %lld: this model "
                        "compares nothing",
                        (long long)images, (long long)texts);
    }
    return cps_embedder_prepare(scorer->texts);
}

/* ---- of a job ---- */

static cps_status open_job(cps_scorer *scorer, const char *checkpoint, int64_t batch) {
    cps_loop *loop = scorer->loop;
    CPS_TRY(cps_loop_load_model(loop, checkpoint));
    cps_stage_plan *plan = loop->run->stages[loop->state.stage].plan;
    scorer->model = loop->run->model;
    scorer->tokenizer = loop->run->tokenizer;
    scorer->objective = plan->instances[plan->embed_instance].name;
    cps_status status = cps_embedder_create(plan, NULL, NULL, batch, &scorer->images);
    if (status == CPS_OK) {
        status = cps_embedder_create(plan, NULL, NULL, 0, &scorer->texts);
    }
    if (status == CPS_OK) {
        status = cps_embedder_prepare(scorer->images);
    }
    if (status == CPS_OK) {
        status = cps_embedder_prepare(scorer->texts);
    }
    return cps_agree(loop->run->comm, "objective of the job", status);
}

cps_status cps_scorer_create_of_job(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                                    const cps_job_calls *calls, const char *checkpoint,
                                    const cps_run_options *options, int64_t batch,
                                    cps_scorer **scorer_out) {
    cps_scorer *scorer = NULL;
    cps_status status = allocate(&scorer);
    if (status == CPS_OK) {
        status = cps_loop_create(comm, &scorer->loop);
    }
    status = cps_agree(comm, "a model", status);
    if (status == CPS_OK) {
        status = cps_run_open(comm, plugins, job, calls, options, &scorer->loop->run);
    }
    if (status == CPS_OK) {
        status = open_job(scorer, checkpoint, batch);
    }
    if (status != CPS_OK) {
        cps_scorer_destroy(scorer);
        return status;
    }
    *scorer_out = scorer;
    return CPS_OK;
}

void cps_scorer_destroy(cps_scorer *scorer) {
    if (scorer != NULL) {
        cps_embedder_destroy(scorer->images);
        cps_embedder_destroy(scorer->texts);
        cps_loop_close(scorer->loop);
        free(scorer);
    }
}

/* ---- what there is ---- */

const cps_encoder *cps_scorer_images(const cps_scorer *scorer) {
    return cps_embedder_encoder(scorer->images);
}

const cps_encoder *cps_scorer_texts(const cps_scorer *scorer) {
    const cps_encoder *texts = scorer->texts != NULL ? cps_embedder_encoder(scorer->texts) : NULL;
    return texts != NULL && texts->texts != NULL ? texts : NULL;
}

void cps_scorer_drop_texts(cps_scorer *scorer) {
    cps_embedder_destroy(scorer->texts);
    scorer->texts = NULL;
}

cps_model *cps_scorer_model(const cps_scorer *scorer) {
    return scorer->model;
}

uint64_t cps_scorer_digest(const cps_scorer *scorer) {
    return cps_params_digest(cps_model_params(scorer->model), "*");
}

const char *cps_scorer_objective(const cps_scorer *scorer) {
    return scorer->objective;
}

const cps_tokenizer *cps_scorer_tokenizer(const cps_scorer *scorer) {
    return scorer->tokenizer;
}
