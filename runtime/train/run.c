/* From the resolved job to plans. Order: options, tokenizer, model, streams, stages (each on trial
 * for its steps, then for good), evaluations. */
#include "train/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/config.h"
#include "model/weights.h"
#include "report/timing.h"
#include "tensor/gemm.h"
#include "train/embed.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/validation.h"

/* ---- streams
 * -----------------------------------------------------------------------------------------------------------
 */

static int32_t find_stream(const cps_run *run, const char *name) {
    for (int32_t i = 0; i < run->stream_count; i++) {
        if (strcmp(run->streams[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static cps_status fill_set(cps_run *run, const cps_stream_options *options, int64_t at,
                           cps_set_spec *set) {
    const cps_shards_options *from = &options->sets[at];
    *set = (cps_set_spec){.patterns = from->patterns,
                          .pattern_count = from->pattern_count,
                          .weight = options->set_count > 1 ? from->weight : 0.0,
                          .fraction = from->fraction < 1.0 ? from->fraction : 0.0,
                          .count = from->count,
                          .subset_seed = (uint64_t)from->seed,
                          .draw = (cps_subset_draw)from->draw,
                          .caption = from->caption,
                          .fixed_caption = from->caption_draw == 1};
    if (from->source != NULL) {
        CPS_TRY(cps_run_packed(run, from, &set->patterns, &set->pattern_count));
    }
    if (from->rest_of != NULL) {
        const int32_t other = find_stream(run, from->rest_of);
        if (other < 0) {
            return cps_fail(CPS_ERR_USAGE,
                            "data.%s: rest_of = '%s' names no stream that is made before it (a "
                            "stream cannot be the rest of itself)",
                            options->name, from->rest_of);
        }
        set->rest_of = run->streams[other].stream;
    }
    return CPS_OK;
}

static cps_status open_stream(cps_run *run, const cps_stream_options *options,
                              cps_stream **stream_out) {
    cps_set_spec *sets =
        cps_arena_alloc_zero(run->arena, (size_t)options->set_count * sizeof *sets);
    if (sets == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    for (int64_t i = 0; i < options->set_count; i++) {
        CPS_TRY(fill_set(run, options, i, &sets[i]));
    }
    const cps_stream_spec spec = {.name = options->name,
                                  .sets = sets,
                                  .set_count = options->set_count,
                                  .epoch_samples = options->epoch_samples};
    return cps_fail_context(
        cps_stream_create(&spec, (uint64_t)run->job_options.seed, run->pool, stream_out), "data.%s",
        options->name);
}

static bool waits(const cps_run *run, const cps_stream_options *options) {
    for (int64_t i = 0; i < options->set_count; i++) {
        if (options->sets[i].rest_of != NULL && find_stream(run, options->sets[i].rest_of) < 0) {
            return true;
        }
    }
    return false;
}

static cps_status parse_streams(cps_run *run) {
    CPS_TRY(cps_streams_parse(cps_json_get(run->job, "data"), run->arena, &run->stream_options,
                              &run->stream_option_count));
    run->streams =
        cps_arena_alloc_zero(run->arena, (size_t)run->stream_option_count * sizeof *run->streams);
    return run->streams == NULL ? CPS_ERR_UNAVAILABLE : CPS_OK;
}

/* Streams in the order of their needs: `rest_of` after what it names. */
static cps_status open_streams(cps_run *run) {
    for (bool more = true; more;) {
        more = false;
        for (int64_t i = 0; i < run->stream_option_count; i++) {
            const cps_stream_options *options = &run->stream_options[i];
            if (find_stream(run, options->name) >= 0 || waits(run, options)) {
                continue;
            }
            cps_stream *stream = NULL;
            CPS_TRY(cps_agree(run->comm, "opening streams", open_stream(run, options, &stream)));
            run->streams[run->stream_count++] =
                (cps_run_stream){.name = options->name, .stream = stream};
            more = true;
        }
    }
    if (run->stream_count < run->stream_option_count) {
        for (int64_t i = 0; i < run->stream_option_count; i++) {
            if (find_stream(run, run->stream_options[i].name) < 0) {
                return cps_fail(CPS_ERR_USAGE,
                                "data.%s: its rest_of names a stream that does not exist, or "
                                "streams name each other in a circle",
                                run->stream_options[i].name);
            }
        }
    }
    return CPS_OK;
}

/* The stream without the records that lack what views need, made when it is first wanted. */
static cps_status narrow_stream(void *context, int32_t index, uint32_t needs,
                                const cps_stream **stream_out) {
    cps_run *run = context;
    cps_run_stream *stream = &run->streams[index];
    cps_stream **narrowed = &stream->narrowed[needs];
    if (*narrowed == NULL) {
        CPS_TRY(cps_fail_context(cps_stream_narrow(stream->stream, needs, narrowed), "data.%s",
                                 stream->name));
        if (cps_stream_left_out(*narrowed) > 0) {
            cps_log(CPS_LOG_INFO, "stream '%s': %lld records without %s are left out", stream->name,
                    (long long)cps_stream_left_out(*narrowed), cps_needs_words(needs));
        }
    }
    *stream_out = *narrowed;
    return CPS_OK;
}

/* ---- stages
 * ----------------------------------------------------------------------------------------------------------------
 */

/* The stage with functions tabulated over `total` steps: rank 0 asks the job layer, all get the
 * text. Collective. */
static cps_status stage_json(cps_run *run, int64_t stage, int64_t total, cps_json **json_out) {
    cps_json *json = NULL;
    char *text = NULL;
    cps_status status = CPS_OK;
    if (cps_comm_rank(run->comm) == 0) {
        status = run->calls->stage(run->calls->context, stage, total, &json);
        text = status == CPS_OK ? cps_json_print(json, false, true) : NULL;
        cps_json_destroy(json);
    }
    status = cps_agree(run->comm, "stages of the job", status);
    if (status != CPS_OK) {
        free(text);
        return status;
    }
    void *bytes = text;
    size_t length = text == NULL ? 0 : strlen(text) + 1;
    cps_comm_broadcast_alloc(run->comm, "stages of the job", &bytes, &length, 0);
    status = cps_json_parse(bytes, length - 1, "stage", json_out);
    free(bytes);
    return cps_agree(run->comm, "stages of the job", status);
}

static cps_status create_plan(cps_run *run, int64_t index, int64_t steps, int64_t steps_per_epoch) {
    cps_run_stage *stage = &run->stages[index];
    char where[32];
    snprintf(where, sizeof where, "stages[%lld]", (long long)index + 1);
    cps_json_destroy(stage->json);
    stage->json = NULL;
    CPS_TRY(stage_json(run, index, cps_max_i64(steps, 1), &stage->json));
    cps_arena_destroy(stage->arena);
    stage->arena = NULL;
    CPS_TRY(cps_arena_create("stage", (size_t)16 << 20, true, &stage->arena));
    cps_stage_options options;
    CPS_TRY(cps_stage_options_parse(stage->json, where, stage->arena, &options));
    const cps_tower *text = cps_model_tower(run->model, "text");
    const cps_stage_context context = {
        .comm = run->comm,
        .model = run->model,
        .tokenizer = run->tokenizer,
        .plugins = run->plugins,
        .streams = run->streams,
        .stream_count = run->stream_count,
        .seed = (uint64_t)run->job_options.seed,
        .parts = run->job_options.parts,
        .index = (int32_t)index,
        .first_param = stage->first_param,
        .text_context = text == NULL ? CPS_TOKENIZER_CONTEXT : cps_tower_get_config(text)->context,
        .steps = steps,
        .steps_per_epoch = steps_per_epoch,
        .narrow = narrow_stream,
        .context = run,
    };
    return cps_stage_plan_create(&options, &context, stage->arena, &stage->plan);
}

static cps_status tabulate(cps_run *run, int64_t index) {
    cps_run_stage *stage = &run->stages[index];
    const cps_stage_options *options = &stage->plan->options;
    const int64_t steps = stage->plan->steps;
    char where[64];
    if (steps == 0) {
        return CPS_OK; /* a fit alone */
    }
    snprintf(where, sizeof where, "stages[%lld].optimizer", (long long)index + 1);
    cps_optimizer optimizer;
    CPS_TRY(cps_optimizer_parse(options->optimizer_kind, options->optimizer, where, stage->arena,
                                &optimizer));
    stage->lr = cps_arena_alloc(stage->arena, (size_t)steps * sizeof(double));
    stage->weight_decay = cps_arena_alloc(stage->arena, (size_t)steps * sizeof(double));
    if (stage->lr == NULL || stage->weight_decay == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    cps_schedule schedule;
    CPS_TRY(cps_schedule_parse(options->schedule_kind == NULL ? "constant" : options->schedule_kind,
                               options->schedule, where, stage->arena, &schedule));
    CPS_TRY(cps_schedule_tabulate(&schedule, optimizer.lr, where, steps,
                                  stage->plan->steps_per_epoch, stage->lr));
    return cps_schedule_weight_decay(&schedule, optimizer.weight_decay, where, steps,
                                     stage->weight_decay);
}

static cps_status check_ranks(const cps_run *run, int64_t index) {
    const cps_stage_plan *plan = run->stages[index].plan;
    const int64_t parts = cps_min_i64(plan->grains, plan->parts);
    const int64_t size = cps_comm_size(run->comm);
    if (plan->steps > 0 && size > parts) {
        return cps_fail(CPS_ERR_USAGE,
                        "stages[%lld]: %lld ranks, but a global batch of %lld in grains of %lld "
                        "has %lld parts (parts = %lld in the job): use at most %lld ranks, a "
                        "smaller grain, or set parts in the job",
                        (long long)index + 1, (long long)size,
                        (long long)plan->options.global_batch, (long long)plan->options.grain,
                        (long long)parts, (long long)plan->parts, (long long)parts);
    }
    return CPS_OK;
}

static cps_status allocate_stages(cps_run *run) {
    run->stage_count = cps_json_count(cps_json_get(run->job, "stages"));
    run->stages = cps_arena_alloc_zero(run->arena, (size_t)run->stage_count * sizeof *run->stages);
    return run->stages == NULL ? CPS_ERR_UNAVAILABLE : CPS_OK;
}

static cps_status open_stages(cps_run *run) {
    for (int64_t i = 0; i < run->stage_count; i++) {
        run->stages[i].first_param = cps_params_count(cps_model_params(run->model));
        CPS_TRY(cps_agree(run->comm, "planning stages", create_plan(run, i, 0, 0)));
        const int64_t steps = run->stages[i].plan->steps,
                      steps_per_epoch = run->stages[i].plan->steps_per_epoch;
        cps_stage_plan_destroy(run->stages[i].plan);
        run->stages[i].plan = NULL;
        CPS_TRY(
            cps_agree(run->comm, "planning stages", create_plan(run, i, steps, steps_per_epoch)));
        cps_status status = tabulate(run, i);
        status = status != CPS_OK ? status : check_ranks(run, i);
        status = status != CPS_OK ? status
                                  : cps_step_plan(run->stages[i].plan, cps_comm_size(run->comm),
                                                  &run->stages[i].memory);
        CPS_TRY(cps_agree(run->comm, "planning stages", status));
    }
    return CPS_OK;
}

/* ---- evaluations
 * -------------------------------------------------------------------------------------------------------------
 */

static cps_status resolve_packed(void *context, const cps_shards_options *set,
                                 const char *const **patterns_out, int64_t *count_out) {
    return cps_run_packed(context, set, patterns_out, count_out);
}

static const cps_stream *resolve_stream(void *context, const char *name) {
    const cps_run *run = context;
    const int32_t found = find_stream(run, name);
    return found < 0 ? NULL : run->streams[found].stream;
}

bool cps_run_evaluates_in(const cps_evaluation_options *options, const char *stage) {
    for (int64_t i = 0; i < options->stages.count; i++) {
        if (strcmp(options->stages.lines[i], stage) == 0) {
            return true;
        }
    }
    return options->stages.count == 0;
}

/* An evaluation of a stage's embed must find what it looks at there: better told before the first
 * step than after the last. */
static cps_status check_sides(const cps_run *run, const cps_evaluation_options *options) {
    const bool compares =
        options->kind == CPS_EVAL_ZERO_SHOT || options->kind == CPS_EVAL_RETRIEVAL;
    if (options->features_tower != NULL) {
        return cps_fail_context(
            cps_embedder_check(run->model, options->features_tower, options->features_output),
            "evaluation '%s'", options->name);
    }
    for (int64_t s = 0; s < run->stage_count; s++) {
        const cps_stage_plan *plan = run->stages[s].plan;
        const cps_instance *instance = &plan->instances[plan->embed_instance];
        const bool embeds = instance->objective->embed != NULL;
        if (options->kind == CPS_EVAL_VALIDATION_LOSS ||
            !cps_run_evaluates_in(options, plan->options.name) ||
            (embeds && (instance->sides[CPS_SIDE_TEXT].wanted || !compares))) {
            continue;
        }
        return cps_fail(CPS_ERR_USAGE,
                        "evaluation '%s': objective '%s' of stage '%s' %s: %s, or name the stages "
                        "that it is for (stages = { ... })",
                        options->name, instance->name, plan->options.name,
                        embeds ? "has no text side to compare images with"
                               : "says nothing about evaluations (no embed)",
                        embeds ? "use copse.knn or copse.few_shot"
                               : "give it features = { tower, output }");
    }
    return CPS_OK;
}

/* What a validation loss adds to the model must be known before parameters are allocated. */
static cps_status declare_validation(cps_run *run, const cps_run_evaluation *evaluation) {
    for (int64_t s = 0;
         s < run->stage_count && evaluation->options->kind == CPS_EVAL_VALIDATION_LOSS; s++) {
        if (cps_run_evaluates_in(evaluation->options, run->stages[s].plan->options.name)) {
            CPS_TRY(cps_validation_declare(run, s, evaluation));
        }
    }
    return CPS_OK;
}

static cps_status parse_evaluations(cps_run *run, cps_evaluation_options **options_out) {
    CPS_TRY(cps_evaluations_parse(cps_json_get(run->job, "evaluate"), run->arena, options_out,
                                  &run->evaluation_count));
    run->evaluations = cps_arena_alloc_zero(
        run->arena, (size_t)run->evaluation_count * sizeof *run->evaluations + 1);
    return run->evaluations == NULL ? CPS_ERR_UNAVAILABLE : CPS_OK;
}

/* Packing is collective: done before a stream of the evaluation can fail on one rank alone. */
static cps_status pack_evaluation(cps_run *run, const cps_evaluation_options *options) {
    const char *const *patterns = NULL;
    int64_t count = 0;
    if (options->data.source != NULL) {
        CPS_TRY(cps_run_packed(run, &options->data, &patterns, &count));
    }
    if (options->kind == CPS_EVAL_KNN && options->knn.bank.source != NULL) {
        CPS_TRY(cps_run_packed(run, &options->knn.bank, &patterns, &count));
    }
    return CPS_OK;
}

/* Which classes the job's data does not show. */
static cps_status find_unseen(cps_run *run, const cps_evaluation_options *options) {
    const int64_t count = run->evaluation_count;
    const cps_stream **training =
        cps_arena_alloc(run->arena, (size_t)run->stream_count * sizeof *training + 1);
    const cps_evaluation_options **kinds =
        cps_arena_alloc(run->arena, (size_t)count * sizeof *kinds + 1);
    cps_evaluation_streams **streams =
        cps_arena_alloc(run->arena, (size_t)count * sizeof *streams + 1);
    if (training == NULL || kinds == NULL || streams == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    for (int32_t i = 0; i < run->stream_count; i++) {
        training[i] = run->streams[i].stream;
    }
    for (int64_t i = 0; i < count; i++) {
        kinds[i] = &options[i];
        streams[i] = &run->evaluations[i].streams;
    }
    return cps_evaluations_find_unseen(kinds, streams, count, training, run->stream_count);
}

static cps_status open_evaluations(cps_run *run) {
    cps_evaluation_options *options = NULL;
    CPS_TRY(cps_agree(run->comm, "opening evaluations", parse_evaluations(run, &options)));
    const cps_evaluation_resolver resolver = {
        .context = run, .packed = resolve_packed, .stream = resolve_stream};
    for (int64_t i = 0; i < run->evaluation_count; i++) {
        run->evaluations[i].options = &options[i];
        CPS_TRY(cps_agree(run->comm, "opening evaluations", check_sides(run, &options[i])));
        CPS_TRY(pack_evaluation(run, &options[i]));
        CPS_TRY(cps_agree(run->comm, "opening evaluations",
                          cps_evaluation_streams_open(&options[i], run->pool, &resolver,
                                                      &run->evaluations[i].streams)));
        CPS_TRY(cps_agree(run->comm, "opening evaluations",
                          declare_validation(run, &run->evaluations[i])));
    }
    return cps_agree(run->comm, "opening evaluations", find_unseen(run, options));
}

/* ---- open and close
 * --------------------------------------------------------------------------------------------------------------
 */

static cps_status open_model(cps_run *run) {
    CPS_TRY(cps_tokenizer_options_parse(cps_json_get(run->job, "tokenizer"), run->arena,
                                        &run->tokenizer_options));
    const char *path = run->tokenizer_options.merges != NULL ? run->tokenizer_options.merges
                                                             : run->tokenizer_options.json;
    if (path != NULL) {
        CPS_TRY(cps_tokenizer_load(path, &run->tokenizer));
    }
    const int64_t vocabulary =
        run->tokenizer == NULL ? 0 : cps_tokenizer_vocabulary(run->tokenizer);
    CPS_TRY(cps_model_create(cps_json_get(run->job, "model"), vocabulary,
                             run->tokenizer_options.context, &run->model));
    const cps_tower *text = cps_model_tower(run->model, "text");
    if (text != NULL && run->tokenizer != NULL &&
        cps_tower_get_config(text)->vocabulary < vocabulary) {
        return cps_fail(CPS_ERR_USAGE,
                        "the tokenizer '%s' has %lld ids, the text tower's vocabulary is %lld: use "
                        "the tokenizer that the weights were trained with",
                        cps_tokenizer_name(run->tokenizer), (long long)vocabulary,
                        (long long)cps_tower_get_config(text)->vocabulary);
    }
    return CPS_OK;
}

static cps_status hash_file(const char *path, uint64_t *digest_out) {
    enum { BLOCK = 1 << 20 };
    FILE *file = fopen(path, "rb");
    char *block = malloc(BLOCK);
    if (file == NULL || block == NULL) {
        const cps_status status = cps_fail(CPS_ERR_UNAVAILABLE, "weights '%s' cannot be opened: %s",
                                           path, strerror(errno));
        if (file != NULL) {
            fclose(file);
        }
        free(block);
        return status;
    }
    cps_hash *hash = cps_hash_create();
    size_t length;
    while ((length = fread(block, 1, BLOCK, file)) > 0) {
        cps_hash_add(hash, block, length);
    }
    const bool failed = ferror(file) != 0;
    *digest_out = cps_hash_value(hash);
    cps_hash_destroy(hash);
    free(block);
    fclose(file);
    return failed ? cps_fail(CPS_ERR_IO, "weights '%s' cannot be read: %s", path, strerror(errno))
                  : CPS_OK;
}

/* Rank 0 reads. Collective. */
static cps_status digest_file(cps_run *run, const char *path, uint64_t *digest_out) {
    uint64_t digest = 0;
    const cps_status status = cps_comm_rank(run->comm) == 0 ? hash_file(path, &digest) : CPS_OK;
    CPS_TRY(cps_agree(run->comm, "weights", status));
    cps_comm_broadcast(run->comm, "weights", &digest, sizeof digest, 0);
    *digest_out = digest;
    return CPS_OK;
}

static const cps_tower_weights *weights_of(const cps_run *run, int32_t tower) {
    const char *name = cps_tower_get_config(cps_model_tower_at(run->model, tower))->name;
    return cps_model_tower_weights(run->model, name);
}

/* A run that goes on must have begun with the same weights. Collective. */
static cps_status digest_weights(cps_run *run) {
    const int32_t towers = cps_model_tower_count(run->model);
    run->tower_digests = cps_arena_alloc_zero(run->arena, (size_t)towers * sizeof(uint64_t) + 1);
    CPS_TRY(
        cps_agree(run->comm, "weights", run->tower_digests == NULL ? CPS_ERR_UNAVAILABLE : CPS_OK));
    if (cps_model_weights(run->model) != NULL) {
        CPS_TRY(digest_file(run, cps_model_weights(run->model), &run->weights_digest));
    }
    for (int32_t i = 0; i < towers; i++) {
        if (weights_of(run, i)->path != NULL) {
            CPS_TRY(digest_file(run, weights_of(run, i)->path, &run->tower_digests[i]));
        }
    }
    return CPS_OK;
}

/* Local. Ranks of different machines may choose differently for "auto"; comparing identities finds
 * it. */
static cps_status set_precision(int32_t precision) {
    if (precision == CPS_PRECISION_FP32) {
        return cps_gemm_set_precision("fp32");
    }
    if (precision == CPS_PRECISION_BF16) {
        return cps_gemm_set_precision("bf16");
    }
    CPS_TRY(cps_gemm_set_precision("auto"));
    if (strcmp(cps_gemm_precision(), "fp32") == 0) {
        cps_log(CPS_LOG_INFO, "precision \"auto\" is fp32 here (%s)", cps_fail_message());
    }
    cps_fail_clear();
    return CPS_OK;
}

static cps_status open_parts(cps_run *run) {
    cps_status status = cps_job_options_parse(run->job, run->arena, &run->job_options);
    status = status != CPS_OK
                 ? status
                 : cps_checkpoint_options_parse(run->job, run->arena, &run->checkpoint);
    status = status != CPS_OK
                 ? status
                 : cps_early_stop_options_parse(run->job, run->arena, &run->early_stop);
    status = status != CPS_OK ? status : open_model(run);
    status = status != CPS_OK ? status : cps_shard_pool_create(&run->pool);
    status = status != CPS_OK ? status : parse_streams(run);
    status = status != CPS_OK ? status : allocate_stages(run);
    CPS_TRY(cps_agree(run->comm, "reading the job", status));
    CPS_TRY(digest_weights(run));
    CPS_TRY(open_streams(run));
    CPS_TRY(open_stages(run));
    return open_evaluations(run);
}

cps_status cps_run_set_precision(const cps_run *run) {
    return cps_agree(run->comm, "precision", set_precision(run->job_options.precision));
}

cps_status cps_run_open(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                        const cps_job_calls *calls, const cps_run_options *options,
                        cps_run **run_out) {
    cps_run *run = calloc(1, sizeof *run);
    if (run == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a run");
    }
    run->comm = comm;
    run->plugins = plugins;
    run->job = job;
    run->calls = calls;
    run->options = *options;
    run->loader_threads = options->threads;
    cps_status status = cps_arena_create("run", (size_t)4 << 20, true, &run->arena);
    if (status == CPS_OK) {
        status = open_parts(run);
    }
    if (status != CPS_OK) {
        cps_run_close(run);
        return status;
    }
    run->program_bytes = (size_t)cps_resident_memory_bytes();
    *run_out = run;
    return CPS_OK;
}

void cps_run_close(cps_run *run) {
    if (run == NULL) {
        return;
    }
    for (int64_t i = 0; i < run->evaluation_count && run->evaluations != NULL; i++) {
        cps_evaluation_streams_close(&run->evaluations[i].streams);
    }
    for (int64_t i = 0; i < run->stage_count && run->stages != NULL; i++) {
        cps_stage_plan_destroy(run->stages[i].plan);
        cps_json_destroy(run->stages[i].json);
        cps_arena_destroy(run->stages[i].arena);
    }
    for (int32_t i = 0; i < run->stream_count; i++) {
        for (int32_t needs = 0; needs < CPS_STREAM_NEEDS; needs++) {
            cps_stream_destroy(run->streams[i].narrowed[needs]);
        }
        cps_stream_destroy(run->streams[i].stream);
    }
    cps_shard_pool_destroy(run->pool);
    cps_model_destroy(run->model);
    cps_tokenizer_destroy(run->tokenizer);
    cps_arena_destroy(run->arena);
    free(run->from_weights);
    free(run);
}

/* ---- first values
 * ---------------------------------------------------------------------------------------------------------------------
 */

/* tower NULL: of the model. */
static void report_weights(const char *path, const char *tower, const cps_weights_report *report) {
    cps_log(CPS_LOG_INFO,
            "weights '%s'%s%s: %lld tensors loaded, %lld resampled, %lld not found, %lld not used",
            path, tower == NULL ? "" : " of tower ", tower == NULL ? "" : tower,
            (long long)report->loaded, (long long)report->resampled,
            (long long)report->missing_count, (long long)report->unused_count);
    for (int64_t i = 0; i < cps_min_i64(report->missing_count, 10); i++) {
        cps_log(CPS_LOG_INFO, "  not found: %s", report->missing[i]);
    }
    /* A tower's file may be that of a whole model: its other tensors say nothing. */
    const int64_t listed = tower != NULL && report->unused_count > 10 ? 0 : 10;
    for (int64_t i = 0; i < cps_min_i64(report->unused_count, listed); i++) {
        cps_log(CPS_LOG_INFO, "  not used: %s", report->unused[i]);
    }
}

/* Rank 0 alone has read the file. */
static cps_status note_weights(cps_run *run) {
    cps_params *params = cps_model_params(run->model);
    const int32_t count = cps_params_count(params);
    free(run->from_weights);
    run->from_weights = calloc((size_t)count + 1, 1);
    if (run->from_weights == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a list of %d parameters", count);
    }
    for (int32_t i = 0; i < count; i++) {
        run->from_weights[i] = cps_params_at(params, i)->loaded;
    }
    return CPS_OK;
}

/* A copy of a copy follows its source; the declaration has shown that chains end. */
static void copy_again(cps_run *run, int32_t index, int32_t first, int32_t last) {
    cps_params *params = cps_model_params(run->model);
    cps_param *param = cps_params_at(params, index);
    if (index < first || index >= last || run->from_weights[index] ||
        param->spec.init.kind != CPS_INIT_COPY) {
        return;
    }
    const int32_t source = cps_params_find(params, param->spec.init.copy_of);
    copy_again(run, source, first, last);
    memcpy(param->tensor.data, cps_params_at(params, source)->tensor.data,
           (size_t)param->count * sizeof(cps_real));
}

void cps_run_begin_stage(cps_run *run, int64_t stage) {
    const int32_t first = run->stages[stage].first_param;
    const int32_t last = stage + 1 < run->stage_count
                             ? run->stages[stage + 1].first_param
                             : cps_params_count(cps_model_params(run->model));
    for (int32_t i = first; i < last; i++) {
        copy_again(run, i, first, last);
    }
}

cps_status cps_run_load_tower_weights(cps_run *run) {
    cps_weights_report report = {0};
    for (int32_t i = 0; i < cps_model_tower_count(run->model); i++) {
        const char *name = cps_tower_get_config(cps_model_tower_at(run->model, i))->name;
        const cps_tower_weights *own = weights_of(run, i);
        if (own->path != NULL) {
            CPS_TRY(cps_weights_load_tower(run->model, name, own, &report));
            report_weights(own->path, name, &report);
            cps_weights_report_free(&report);
        }
    }
    return CPS_OK;
}

/* On rank 0. A tower's own file after the model's, so that it has the last word. */
static cps_status load_weights(cps_run *run) {
    const char *weights = cps_model_weights(run->model);
    cps_weights_report report = {0};
    if (weights != NULL) {
        CPS_TRY(cps_weights_load(run->model, weights, cps_model_partial(run->model), &report));
        report_weights(weights, NULL, &report);
        cps_weights_report_free(&report);
    }
    return cps_run_load_tower_weights(run);
}

static bool has_weights(const cps_run *run) {
    bool any = cps_model_weights(run->model) != NULL;
    for (int32_t i = 0; i < cps_model_tower_count(run->model); i++) {
        any = any || weights_of(run, i)->path != NULL;
    }
    return any;
}

cps_status cps_run_initialise(cps_run *run) {
    cps_params *params = cps_model_params(run->model);
    cps_status status = cps_comm_rank(run->comm) == 0 ? load_weights(run) : CPS_OK;
    if (status == CPS_OK) {
        status = cps_params_allocate(params, (uint64_t)run->job_options.seed);
    }
    if (status == CPS_OK) {
        status = note_weights(run);
    }
    cps_params_drop_offers(params);
    CPS_TRY(cps_agree(run->comm, "first values of the parameters", status));
    if (has_weights(run)) {
        cps_comm_broadcast(run->comm, "weights", run->from_weights,
                           (size_t)cps_params_count(params), 0);
        cps_comm_broadcast(run->comm, "weights", cps_params_flat(params),
                           (size_t)cps_params_flat_count(params) * sizeof(cps_real), 0);
    }
    return CPS_OK;
}

/* ---- loaders
 * ------------------------------------------------------------------------------------------------------------------------------
 */

/* The options borrow `streams`. */
static cps_loader_options loader_options(const cps_run *run, int64_t stage,
                                         cps_loader_stream streams[CPS_STAGE_VIEWS]) {
    const cps_stage_plan *plan = run->stages[stage].plan;
    for (int32_t i = 0; i < plan->stream_count; i++) {
        streams[i] =
            (cps_loader_stream){.stream = plan->streams[i].stream, .rows = plan->streams[i].rows};
    }
    return (cps_loader_options){
        .order = CPS_ORDER_SHUFFLED,
        .streams = streams,
        .stream_count = plan->stream_count,
        .inputs = plan->inputs,
        .input_count = plan->input_count,
        .tokenizer = run->tokenizer,
        .seed = (uint64_t)run->job_options.seed,
        .stage = (uint32_t)stage,
        .grains = plan->grains,
        .parts = plan->parts,
        .rank = cps_comm_rank(run->comm),
        .world_size = cps_comm_size(run->comm),
        .keep_tail = plan->options.tail == CPS_TAIL_KEEP,
        .steps = plan->steps,
        .single_use = !plan->has_loss && plan->count_width == 0,
        .threads = run->loader_threads,
        .ahead = cps_max_i64(2, run->stages[stage].memory.own_grains),
    };
}

cps_status cps_run_loader(const cps_run *run, int64_t stage, cps_loader **loader_out) {
    cps_loader_stream streams[CPS_STAGE_VIEWS];
    const cps_loader_options options = loader_options(run, stage, streams);
    return cps_loader_create(&options, loader_out);
}

cps_status cps_run_loader_bytes(const cps_run *run, int64_t stage, size_t *bytes_out) {
    cps_loader_stream streams[CPS_STAGE_VIEWS];
    const cps_loader_options options = loader_options(run, stage, streams);
    return cps_loader_bytes(&options, bytes_out);
}
