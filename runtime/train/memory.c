/* Memory of a rank before it is taken. What modules allocate they plan themselves; what libraries
 * take while they work is a generous allowance here, so that the sum is never too small. */
#include "base/numeric.h"
#include "train/frozen.h"
#include "train/loop_private.h"
#include "train/validation.h"

enum {
    MIB = 1 << 20,
    THREAD_BYTES = 4 * MIB, /* of a compute thread: panels that BLAS packs, stack */
    RANKS_BYTES = 4 * MIB,  /* MPI's queues and shared segments, where there are several ranks */
    REST_BYTES = 8 * MIB,   /* reports, checkpoint files, tables that grow */
    PIXEL_RATIO =
        16, /* bytes of a decoded picture to those of the file: a JPEG of 1.5 bits a pixel */
};

/* The largest picture of the stage's streams, decoded by each of the loader's threads and the
 * caller at once. */
static size_t decode_bytes(const cps_run *run, const cps_stage_plan *plan) {
    int64_t largest = 0;
    for (int32_t i = 0; i < plan->stream_count; i++) {
        largest = cps_max_i64(largest, cps_stream_largest_image(plan->streams[i].stream));
    }
    return ((size_t)run->loader_threads + 1) * PIXEL_RATIO * (size_t)largest;
}

static size_t program_bytes(const cps_run *run, const cps_stage_plan *plan, int32_t ranks) {
    return run->program_bytes + (size_t)run->options.threads * THREAD_BYTES +
           (ranks > 1 ? RANKS_BYTES : 0) + REST_BYTES + decode_bytes(run, plan);
}

/* Ranks own different parts and slices, some of which need a copy of the gradient more. */
static size_t update_bytes(const cps_run *run, const cps_run_stage *stage, int32_t ranks) {
    const cps_stage_plan *plan = stage->plan;
    cps_updater_options options = {
        .comm = run->comm,
        .params = cps_model_params(run->model),
        .parts = cps_min_i64(plan->grains, plan->parts),
        .optimizer_kind = plan->options.optimizer_kind,
        .optimizer = plan->options.optimizer,
        .lr = stage->lr,
        .weight_decay = stage->weight_decay,
        .steps = plan->steps,
        .plan_ranks = ranks,
        .world = run->job_options.reproducible == CPS_REPRODUCIBLE_WORLD,
    };
    size_t most = 0;
    for (; plan->steps > 0 && options.plan_rank < ranks; options.plan_rank++) {
        size_t bytes = 0;
        if (cps_updater_bytes(&options, &bytes) == CPS_OK) { /* else creating it will say why */
            most = cps_max_size(most, bytes);
        }
    }
    return most;
}

/* Encoder and features of one evaluation; *kept_out: the stage's own encoder, which the next
 * evaluation finds again. */
static size_t evaluation_bytes(const cps_run *run, cps_stage_plan *plan,
                               const cps_run_evaluation *evaluation, size_t *kept_out) {
    const cps_evaluation_options *options = evaluation->options;
    cps_embedder *embedder = NULL;
    if (cps_embedder_create(plan, options->features_tower, options->features_output, 0,
                            &embedder) != CPS_OK) {
        return 0; /* the evaluation will say why */
    }
    size_t bytes = cps_evaluation_bytes(options, &evaluation->streams,
                                        cps_embedder_encoder(embedder), run->loader_threads);
    if (options->features_tower != NULL) {
        bytes += cps_embedder_bytes(embedder);
    } else {
        *kept_out = cps_embedder_bytes(embedder);
    }
    cps_embedder_destroy(embedder);
    return bytes;
}

/* Validations keep their memory, the stage's encoder too; the rest of an evaluation goes before the
 * next one. */
static size_t evaluations_bytes(const cps_loop *loop, cps_stage_plan *plan) {
    const cps_run *run = loop->run;
    size_t validations = 0, most = 0, encoder = 0;
    for (int64_t i = 0; i < run->evaluation_count; i++) {
        const cps_run_evaluation *evaluation = &run->evaluations[i];
        if (loop->validations != NULL && loop->validations[i] != NULL) {
            validations += cps_validation_bytes(loop->validations[i]);
        } else if (evaluation->options->kind != CPS_EVAL_VALIDATION_LOSS &&
                   cps_run_evaluates_in(evaluation->options, plan->options.name)) {
            most = cps_max_size(most, evaluation_bytes(run, plan, evaluation, &encoder));
        }
    }
    return validations + encoder + most;
}

cps_memory_plan cps_loop_memory(const cps_loop *loop, int32_t ranks) {
    const cps_run *run = loop->run;
    const cps_run_stage *stage = &run->stages[loop->state.stage];
    cps_memory_plan plan = {
        .program_bytes = program_bytes(run, stage->plan, ranks),
        .weights_bytes = cps_params_bytes(cps_model_params(run->model)),
        .update_bytes = update_bytes(run, stage, ranks),
        .step_bytes = stage->memory.total_bytes + cps_frozen_bytes(stage->plan),
        .evaluation_bytes = evaluations_bytes(loop, stage->plan),
    };
    if (cps_run_loader_bytes(run, loop->state.stage, &plan.loader_bytes) != CPS_OK) {
        plan.loader_bytes = 0; /* creating it would say why */
    }
    plan.total_bytes = plan.program_bytes + plan.weights_bytes + plan.update_bytes +
                       plan.step_bytes + plan.loader_bytes + plan.evaluation_bytes;
    return plan;
}
