/* A plan of its own over the same model: the clock's stream is the validation set (those of its
 * records that have what the objective's views need), images are preprocessed as in evaluations. A
 * set below one batch is one batch. */
#include "train/validation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/config.h"

struct cps_validation {
    cps_run *run;
    cps_arena *arena;
    cps_run_stream *streams;
    int32_t stream_count;
    const cps_stream *all; /* borrowed from the evaluation */
    cps_stream *data;      /* its records that have what views need */
    cps_stage_plan *plan;
    cps_step *step;
    cps_loader *loader;
    int64_t batches, rows;
    size_t bytes; /* of step and loader */
};

/* Narrowed before the plan was made. */
static cps_status same_stream(void *context, int32_t index, uint32_t needs,
                              const cps_stream **stream_out) {
    const cps_validation *validation = context;
    (void)index;
    (void)needs;
    *stream_out = validation->data;
    return CPS_OK;
}

/* An objective that needs another stream or fixed texts here too is measured by plain CLIP's loss
 * instead. */
static bool needs_more(const cps_stage_plan *plan) {
    for (int32_t v = 0; v < plan->view_count; v++) {
        if (plan->views[v].stream != 0) {
            return true;
        }
    }
    return plan->stream_count > 1;
}

static cps_status options_of(cps_validation *validation, const cps_stage_plan *stage,
                             const cps_validation_loss_options *wanted, bool plain_clip,
                             cps_stage_options *options) {
    *options = stage->options;
    const int64_t records = cps_stream_records(validation->data);
    const bool small = records < wanted->batch;
    options->global_batch = small ? records : wanted->batch;
    options->grain = small ? records : cps_min_i64(wanted->grain, wanted->batch);
    if (options->global_batch % options->grain != 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "batch %lld is not a multiple of grain %lld: change one of them",
                        (long long)wanted->batch, (long long)wanted->grain);
    }
    double *one = cps_arena_alloc(validation->arena, 2 * sizeof *one);
    if (one == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    one[0] = one[1] = 1.0;
    options->crop = (cps_numbers){2, one};
    options->flip = 0.0;
    options->tail = CPS_TAIL_DROP;
    options->activation_budget_mb = 0;
    options->epochs = 1; /* the set is gone through; the stage may be a fit without steps */
    options->steps = 0;
    options->row_count = 0;
    options->lr_factor_count = 0;
    options->train = (cps_lines){0};
    validation->rows = options->grain;
    validation->batches = records / options->global_batch;
    if (plain_clip) {
        cps_objective_options *clip = cps_arena_alloc_zero(validation->arena, sizeof *clip);
        if (clip == NULL) {
            return CPS_ERR_UNAVAILABLE;
        }
        *clip = (cps_objective_options){.name = "clip", .weight = 1.0};
        options->objectives = clip;
        options->objective_count = 1;
        options->embed = NULL;
    }
    return CPS_OK;
}

/* Every name of the job's streams leads to the validation set. */
static cps_status name_streams(cps_validation *validation) {
    const cps_run *run = validation->run;
    validation->stream_count = run->stream_count;
    validation->streams = cps_arena_alloc_zero(validation->arena, (size_t)run->stream_count *
                                                                      sizeof *validation->streams);
    if (validation->streams == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    for (int32_t i = 0; i < run->stream_count; i++) {
        validation->streams[i] =
            (cps_run_stream){.name = run->streams[i].name, .stream = validation->data};
    }
    return CPS_OK;
}

/* The plan of the stage's own objectives, or of plain CLIP. */
static cps_status make_plan(cps_validation *validation, int64_t stage,
                            const cps_validation_loss_options *wanted, bool plain_clip) {
    cps_run *run = validation->run;
    const cps_stage_plan *of = run->stages[stage].plan;
    const uint32_t needs = plain_clip ? CPS_RECORD_CAPTION : of->streams[0].needs;
    cps_stage_options options;
    cps_stream_destroy(validation->data);
    validation->data = NULL;
    CPS_TRY(cps_stream_narrow(validation->all, needs, &validation->data));
    CPS_TRY(name_streams(validation));
    CPS_TRY(options_of(validation, of, wanted, plain_clip, &options));
    const cps_stage_context context = {
        .comm = run->comm,
        .model = run->model,
        .tokenizer = run->tokenizer,
        .plugins = run->plugins,
        .streams = validation->streams,
        .stream_count = validation->stream_count,
        .seed = (uint64_t)run->job_options.seed,
        .parts = run->job_options.parts,
        .index = (int32_t)stage,
        .first_param = cps_params_count(cps_model_params(run->model)),
        .text_context = of->context,
        .steps = of->steps,
        .steps_per_epoch = of->steps_per_epoch,
        .validation = true,
        .like = of,
        .narrow = same_stream,
        .context = validation,
    };
    CPS_TRY(cps_stage_plan_create(&options, &context, validation->arena, &validation->plan));
    validation->plan->steps = of->steps; /* what objectives are told is the stage's */
    return CPS_OK;
}

static cps_status choose_plan(cps_validation *validation, int64_t stage,
                              const cps_validation_loss_options *wanted) {
    CPS_TRY(make_plan(validation, stage, wanted, false));
    if (!needs_more(validation->plan)) {
        return CPS_OK;
    }
    cps_stage_plan_destroy(validation->plan);
    validation->plan = NULL;
    return make_plan(validation, stage, wanted, true);
}

/* Every rank may ask for any grain; nothing is read ahead. */
static cps_status make_loader(cps_validation *validation) {
    const cps_loader_stream stream = {.stream = validation->data, .rows = validation->rows};
    const cps_loader_options options = {
        .order = CPS_ORDER_STORED,
        .streams = &stream,
        .stream_count = 1,
        .inputs = validation->plan->inputs,
        .input_count = validation->plan->input_count,
        .tokenizer = validation->run->tokenizer,
        .seed = (uint64_t)validation->run->job_options.seed,
        .stage = (uint32_t)validation->plan->index,
        .rank = 0,
        .world_size = 1,
        .single_use = true,
        .threads = 0,
        .ahead = 1,
    };
    size_t bytes = 0;
    CPS_TRY(cps_loader_bytes(&options, &bytes));
    validation->bytes += bytes;
    CPS_TRY(cps_loader_create(&options, &validation->loader));
    return cps_loader_seek(validation->loader, 0);
}

/* Up to the plan; `validation` is the caller's to destroy in any case. */
static cps_status begin(cps_run *run, int64_t stage, const cps_run_evaluation *evaluation,
                        cps_validation **validation) {
    *validation = calloc(1, sizeof **validation);
    if (*validation == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a validation loss");
    }
    (*validation)->run = run;
    (*validation)->all = evaluation->streams.data;
    CPS_TRY(cps_arena_create("validation", (size_t)4 << 20, true, &(*validation)->arena));
    return choose_plan(*validation, stage, &evaluation->options->validation_loss);
}

cps_status cps_validation_declare(cps_run *run, int64_t stage,
                                  const cps_run_evaluation *evaluation) {
    cps_validation *validation = NULL;
    const cps_status status = begin(run, stage, evaluation, &validation);
    cps_validation_destroy(validation);
    return cps_fail_context(status, "evaluation '%s'", evaluation->options->name);
}

cps_status cps_validation_create(cps_run *run, int64_t stage, const cps_run_evaluation *evaluation,
                                 cps_validation **validation_out) {
    cps_validation *validation = NULL;
    cps_step_memory memory = {0};
    cps_status status = begin(run, stage, evaluation, &validation);
    status = status != CPS_OK
                 ? status
                 : cps_step_plan_validation(validation->plan, cps_comm_size(run->comm), &memory);
    status = status != CPS_OK
                 ? status
                 : cps_step_create(run->comm, validation->plan, &memory, NULL, &validation->step);
    if (status == CPS_OK) {
        validation->bytes = memory.total_bytes;
        status = make_loader(validation);
    }
    if (status != CPS_OK) {
        cps_validation_destroy(validation);
        return cps_fail_context(status, "evaluation '%s'", evaluation->options->name);
    }
    *validation_out = validation;
    return CPS_OK;
}

void cps_validation_destroy(cps_validation *validation) {
    if (validation == NULL) {
        return;
    }
    cps_loader_destroy(validation->loader);
    cps_step_destroy(validation->step);
    cps_stage_plan_destroy(validation->plan);
    cps_stream_destroy(validation->data);
    cps_arena_destroy(validation->arena);
    free(validation);
}

size_t cps_validation_bytes(const cps_validation *validation) {
    return validation->bytes;
}

cps_status cps_validation_run(cps_validation *validation, int64_t trained_steps,
                              cps_json **metrics_out) {
    double loss = 0.0, terms[CPS_STEP_VALUES] = {0};
    cps_step_result result = {0};
    int64_t bad = 0, used = 0;
    CPS_TRY(cps_agree(validation->run->comm, "validation", cps_loader_seek(validation->loader, 0)));
    for (int64_t batch = 0; batch < validation->batches; batch++) {
        CPS_TRY(
            cps_step_validate(validation->step, validation->loader, batch, trained_steps, &result));
        bad += result.bad_images;
        if (result.bad_images > 0) {
            continue; /* a masked image is no sample: its batch is left out, on every rank alike */
        }
        used++;
        loss += result.loss;
        for (int32_t t = 0; t < result.term_count; t++) {
            terms[t] += result.term_values[t];
        }
    }
    if (used == 0) {
        return cps_fail(CPS_ERR_DATA,
                        "every batch of the validation set holds an image that cannot be read "
                        "(%lld in all): repack the set, or use smaller batches",
                        (long long)bad);
    }
    const double count = (double)used;
    cps_json *metrics = cps_json_new_object();
    cps_json_add_number(metrics, "loss", loss / count);
    for (int32_t t = 0; t < result.term_count; t++) {
        if (strcmp(result.term_names[t], "loss") != 0) {
            cps_json_add_number(metrics, result.term_names[t], terms[t] / count);
        }
    }
    cps_json_add_number(metrics, "batch", (double)validation->plan->options.global_batch);
    cps_json_add_number(metrics, "batches", count);
    cps_json_add_number(metrics, "samples",
                        (double)(used * validation->plan->options.global_batch));
    cps_json_add_number(metrics, "bad_images", (double)bad);
    *metrics_out = metrics;
    return CPS_OK;
}
