/* A stage's plan: instances are created (they declare parameters and views), streams and steps
 * follow. */
#include "train/stage.h"

#include <stdio.h>
#include <string.h>

#include "base/numeric.h"

#define MOST_STEPS INT64_C(1000000000000) /* of a stage; the maximum of the option `steps` */

int64_t cps_stage_stream_rows(const cps_stage_options *options, const char *name) {
    for (int64_t i = 0; i < options->row_count; i++) {
        if (strcmp(options->rows[i].name, name) == 0) {
            return (int64_t)options->rows[i].value;
        }
    }
    return options->grain;
}

const char *cps_needs_words(uint32_t needs) {
    return needs == CPS_RECORD_TAXON                          ? "the name of an organism"
           : needs == (CPS_RECORD_CAPTION | CPS_RECORD_TAXON) ? "a caption or an organism's name"
                                                              : "a caption";
}

static cps_status create_instance(cps_stage_plan *plan, const cps_stage_context *context,
                                  int32_t index) {
    const cps_objective_options *wanted = &plan->options.objectives[index];
    cps_instance *instance = &plan->instances[index];
    char where[160];
    snprintf(where, sizeof where, "stages[%d].objective '%s'", plan->index + 1, wanted->name);
    CPS_TRY(cps_plugins_find(context->plugins, wanted->plugin, wanted->name, &instance->objective));
    instance->name = wanted->name;
    instance->weight = wanted->weight;
    if (instance->objective->options != NULL) {
        instance->options = cps_arena_alloc_zero(plan->arena, instance->objective->options_bytes);
        if (instance->options == NULL) {
            return CPS_ERR_UNAVAILABLE;
        }
        CPS_TRY(cps_options_parse(instance->objective->options, wanted->options, where, NULL,
                                  plan->arena, instance->options));
    }
    cps_setup *setup = cps_arena_alloc_zero(plan->arena, sizeof *setup);
    if (setup == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    setup->host = plan->host;
    setup->plan = plan;
    setup->context = context;
    setup->owner = index;
    void *self = NULL;
    const cps_status status = instance->objective->create(setup, instance->options, &self);
    if (status == CPS_OK) {
        instance->self = self;
    }
    CPS_TRY(cps_service_status(setup->status, setup->message));
    return cps_fail_context(status, "%s", where);
}

static void note_functions(cps_stage_plan *plan, const cps_objective *objective) {
    plan->has_loss = plan->has_loss || objective->loss != NULL;
    plan->has_grain_loss = plan->has_grain_loss || objective->grain_loss != NULL;
    plan->has_fit = plan->has_fit || objective->fit_block != NULL || objective->fit_solve != NULL;
    plan->has_finish =
        plan->has_finish || objective->finish_block != NULL || objective->finish_solve != NULL;
}

/* Views read only records that have what they need; the clock's steps follow. */
static cps_status settle_streams(cps_stage_plan *plan, const cps_stage_context *context) {
    for (int32_t i = 0; i < plan->stream_count; i++) {
        cps_stage_stream *stream = &plan->streams[i];
        if (stream->needs != 0) {
            CPS_TRY(context->narrow(context->context, stream->run_stream, stream->needs,
                                    &stream->stream));
        }
    }
    if (plan->stream_count == 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "stages[%d]: its objective reads no stream of the job's data",
                        plan->index + 1);
    }
    const cps_stage_stream *clock = &plan->streams[0];
    const bool keep = plan->options.tail == CPS_TAIL_KEEP;
    plan->steps_per_epoch = cps_steps_per_epoch(cps_stream_epoch_samples(clock->stream),
                                                plan->grains, clock->rows, keep);
    if (plan->steps_per_epoch == 0 && (plan->options.epochs > 0 || plan->options.steps > 0)) {
        return cps_fail(
            CPS_ERR_USAGE,
            "stages[%d]: stream '%s' has %lld usable records, fewer than one global batch of %lld: "
            "use a smaller global_batch, more data, or tail = \"keep\" for grain losses",
            plan->index + 1, clock->name, (long long)cps_stream_epoch_samples(clock->stream),
            (long long)plan->options.global_batch);
    }
    if (plan->options.epochs > 0 && plan->steps_per_epoch > MOST_STEPS / plan->options.epochs) {
        return cps_fail(
            CPS_ERR_USAGE,
            "stages[%d]: %lld epochs of %lld steps are too many; wanted are %lld steps at most",
            plan->index + 1, (long long)plan->options.epochs, (long long)plan->steps_per_epoch,
            (long long)MOST_STEPS);
    }
    plan->steps = plan->options.steps > 0 ? plan->options.steps
                                          : plan->options.epochs * plan->steps_per_epoch;
    return CPS_OK;
}

static cps_status choose_embed(cps_stage_plan *plan) {
    plan->embed_instance = 0;
    if (plan->options.embed == NULL) {
        return CPS_OK;
    }
    for (int32_t i = 0; i < plan->instance_count; i++) {
        if (strcmp(plan->instances[i].name, plan->options.embed) == 0) {
            plan->embed_instance = i;
            return CPS_OK;
        }
    }
    return cps_fail(CPS_ERR_USAGE, "stages[%d]: embed = '%s' names no objective of the stage",
                    plan->index + 1, plan->options.embed);
}

/* What neither the job nor the stage says the objectives do. */
static void settle_skips(cps_stage_plan *plan) {
    const int64_t usual = 10;
    if (plan->options.max_skipped_steps < 0) {
        plan->options.max_skipped_steps = plan->wanted_skipped >= 0 ? plan->wanted_skipped : usual;
    }
}

/* A stage of a fit alone has no batches; plans are made for one grain. */
static cps_status check_batch(cps_stage_plan *plan) {
    cps_stage_options *options = &plan->options;
    if (options->epochs == 0 && options->steps == 0) {
        options->grain = cps_max_i64(options->grain, 1);
        options->global_batch = options->grain;
    }
    if (options->grain < 1 || options->global_batch < options->grain ||
        options->global_batch % options->grain != 0) {
        return cps_fail(
            CPS_ERR_USAGE, "stages[%d]: global_batch %lld is not a multiple of grain %lld",
            plan->index + 1, (long long)options->global_batch, (long long)options->grain);
    }
    return CPS_OK;
}

static cps_status check_tail(const cps_stage_plan *plan) {
    for (int32_t i = 0; i < plan->instance_count && plan->options.tail == CPS_TAIL_KEEP; i++) {
        if (plan->instances[i].objective->loss != NULL) {
            return cps_fail(CPS_ERR_USAGE,
                            "stages[%d]: tail = \"keep\" is for stages of grain losses; objective "
                            "'%s' compares samples of a whole batch: use tail = \"drop\"",
                            plan->index + 1, plan->instances[i].name);
        }
    }
    return CPS_OK;
}

cps_status cps_stage_plan_create(const cps_stage_options *options, const cps_stage_context *context,
                                 cps_arena *arena, cps_stage_plan **plan_out) {
    cps_stage_plan *plan = cps_arena_alloc_zero(arena, sizeof *plan);
    if (plan == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    plan->host = cps_host_table();
    plan->comm = context->comm;
    plan->index = context->index;
    plan->options = *options;
    plan->arena = arena;
    plan->model = context->model;
    plan->tokenizer = context->tokenizer;
    plan->context = context->text_context;
    plan->seed = context->seed;
    plan->parts = context->parts;
    plan->run_streams = context->streams;
    plan->run_stream_count = context->stream_count;
    plan->steps = context->steps;
    plan->steps_per_epoch = context->steps_per_epoch;
    plan->validation = context->validation;
    plan->wanted_skipped = -1;
    CPS_TRY(check_batch(plan));
    plan->grains = plan->options.global_batch / plan->options.grain;
    plan->instance_count = (int32_t)options->objective_count;
    plan->instances =
        cps_arena_alloc_zero(arena, (size_t)options->objective_count * sizeof *plan->instances);
    if (plan->instances == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    for (int32_t i = 0; i < plan->instance_count; i++) {
        const cps_status status = create_instance(plan, context, i);
        if (status != CPS_OK) {
            plan->instance_count = i + 1; /* this one too, if it came into being */
            cps_stage_plan_destroy(plan);
            return status;
        }
        note_functions(plan, plan->instances[i].objective);
    }
    settle_skips(plan);
    cps_status status = settle_streams(plan, context);
    status = status != CPS_OK ? status : choose_embed(plan);
    status = status != CPS_OK ? status : check_tail(plan);
    if (status != CPS_OK) {
        cps_stage_plan_destroy(plan);
        return status;
    }
    *plan_out = plan;
    return CPS_OK;
}

void cps_stage_plan_destroy(cps_stage_plan *plan) {
    if (plan == NULL) {
        return;
    }
    for (int32_t i = 0; i < plan->instance_count; i++) {
        cps_instance *instance = &plan->instances[i];
        if (instance->objective != NULL && instance->objective->destroy != NULL &&
            instance->self != NULL) {
            instance->objective->destroy(instance->self);
            instance->self = NULL;
        }
    }
    plan->instance_count = 0;
}
