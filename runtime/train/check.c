/* `copse check` and `copse eval`: a run that is opened, looked at, and closed again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/seen.h"
#include "model/weights.h"
#include "tensor/gemm.h"
#include "train/checkpoint.h"
#include "train/identity.h"
#include "train/loop_private.h"

/* ---- check
 * ------------------------------------------------------------------------------------------------------------------
 */

enum { SAMPLE_CAPTIONS = 2000 };

typedef struct text_lengths {
    int64_t texts, cut, longest, total;
} text_lengths;

static cps_status add_text(const cps_run *run, const cps_stage_plan *plan, const char *text,
                           text_lengths *lengths) {
    int64_t length = 0;
    CPS_TRY(cps_tokenizer_length(run->tokenizer, text, &length));
    lengths->texts++;
    lengths->total += length;
    lengths->cut += length > plan->context;
    lengths->longest = cps_max_i64(lengths->longest, length);
    return CPS_OK;
}

/* All captions of a record; or the text that the objective composes of it, as in the step of the
 * record's number, so that texts that change with the step are all seen. */
static cps_status add_record(const cps_run *run, const cps_stage_plan *plan,
                             const cps_input_spec *input, const cps_place *place, int64_t number,
                             text_lengths *lengths) {
    if (input->caption != NULL) {
        const cps_sample sample = {.shard = place->shard,
                                   .record = place->record,
                                   .sample_id = place->sample_id,
                                   .caption_field = place->caption,
                                   .data_step = number,
                                   .key = {.seed = plan->seed, .position = (uint64_t)number}};
        cps_text text = {0};
        cps_status status = input->caption(input->caption_context, &sample, &text);
        if (status == CPS_OK) {
            status = add_text(run, plan, text.bytes, lengths);
        }
        cps_text_free(&text);
        return status;
    }
    const int64_t field = cps_shard_field(place->shard, place->caption);
    for (int64_t c = 0; field >= 0 && c < cps_shard_text_count(place->shard, field, place->record);
         c++) {
        CPS_TRY(
            add_text(run, plan, cps_shard_text(place->shard, field, place->record, c), lengths));
    }
    return CPS_OK;
}

/* Texts of the first records of a text view: how many are longer than the context. */
static cps_status report_texts(const cps_run *run, const cps_stage_plan *plan,
                               const cps_input_spec *input) {
    const cps_stage_stream *stream = &plan->streams[input->stream];
    const int64_t records = cps_min_i64(cps_stream_records(stream->stream), SAMPLE_CAPTIONS);
    text_lengths lengths = {0};
    for (int64_t i = 0; i < records; i++) {
        cps_place place;
        cps_stream_stored(stream->stream, i, &place);
        CPS_TRY(add_record(run, plan, input, &place, i, &lengths));
    }
    cps_log(CPS_LOG_INFO,
            "  stream '%s': %lld %s looked at: %.1f tokens on average, longest %lld; %lld are cut "
            "to the context of %lld",
            stream->name, (long long)lengths.texts,
            input->caption != NULL ? "texts of the objective" : "captions",
            lengths.texts > 0 ? (double)lengths.total / (double)lengths.texts : 0.0,
            (long long)lengths.longest, (long long)lengths.cut, (long long)plan->context);
    return CPS_OK;
}

/* Forward and backward of one global batch, multiply and add counted as two. */
static double step_flop(const cps_stage_plan *plan) {
    double flop = 0.0;
    for (int32_t c = 0; c < plan->call_count; c++) {
        const cps_stage_call *call = &plan->calls[c];
        for (int32_t v = 0; v < call->view_count; v++) {
            const cps_stage_view *view = &plan->views[call->views[v]];
            const int64_t rows = view->stream < 0 ? view->view.fixed_text_count
                                                  : plan->streams[view->stream].rows * plan->grains;
            flop += cps_tower_flop(call->tower, rows, 0) *
                    (call->mode == CPS_VIEW_GRADIENT ? 3.0 : 1.0);
        }
    }
    return flop;
}

/* ---- towers that nobody has trained ---- */

/* Whether a file gives the tower values; before files are read, whether one may. */
static bool has_values(const cps_run *run, const cps_tower *tower) {
    const cps_tower_config *config = cps_tower_get_config(tower);
    int32_t count = 0;
    const int32_t *indices = cps_tower_params(tower, &count);
    if (run->from_weights == NULL) {
        return cps_model_weights(run->model) != NULL ||
               cps_model_tower_weights(run->model, config->name)->path != NULL;
    }
    for (int32_t i = 0; i < count; i++) {
        if (run->from_weights[indices[i]]) {
            return true;
        }
    }
    return false;
}

/* Whether a stage up to `stage` applies the tower other than frozen: it learns there, or follows
 * one that does. */
static bool is_trained(const cps_run *run, int64_t stage, const cps_tower *tower) {
    for (int64_t s = 0; s <= stage; s++) {
        const cps_stage_plan *plan = run->stages[s].plan;
        for (int32_t v = 0; v < plan->view_count; v++) {
            if (plan->views[v].tower == tower && plan->views[v].view.mode != CPS_VIEW_FROZEN) {
                return true;
            }
        }
    }
    return false;
}

static void warn_of_tower(const cps_run *run, int64_t stage, const cps_tower *tower,
                          const char *use) {
    if (has_values(run, tower) || is_trained(run, stage, tower)) {
        return;
    }
    char *text =
        cps_format("stage '%s' %s tower '%s', which has the values it began with: no stage "
                   "before trains it and no weights are named. Is the order of the stages "
                   "right?",
                   run->stages[stage].plan->options.name, use, cps_tower_get_config(tower)->name);
    cps_log_once(CPS_LOG_WARN, text);
    free(text);
}

static void warn_of_untrained(const cps_run *run) {
    for (int64_t s = 0; s < run->stage_count; s++) {
        const cps_stage_plan *plan = run->stages[s].plan;
        const cps_side *text = &plan->instances[plan->embed_instance].sides[CPS_SIDE_TEXT];
        for (int32_t v = 0; v < plan->view_count; v++) {
            if (plan->views[v].view.mode == CPS_VIEW_FROZEN) {
                warn_of_tower(run, s, plan->views[v].tower, "takes the features of");
            }
        }
        if (text->wanted && run->evaluation_count > 0) {
            warn_of_tower(run, s, text->tower, "compares images with texts of");
        }
    }
}

/* ---- pictures that are trained on and evaluated ---- */

static void warn_of_pictures(const cps_run *run, const uint64_t *checksums, int64_t count) {
    for (int64_t i = 0; i < run->evaluation_count; i++) {
        const cps_stream *data = run->evaluations[i].streams.data;
        const int64_t seen = cps_seen_count(checksums, count, data);
        if (seen > 0) {
            cps_log(CPS_LOG_WARN,
                    "evaluation '%s': %lld of its %lld pictures are in the training data, too, so "
                    "it flatters; 'copse pack --exclude' packs training data without them",
                    run->evaluations[i].options->name, (long long)seen,
                    (long long)cps_stream_records(data));
        }
    }
}

/* Rank 0 looks. Without memory for it nothing is said. */
static void warn_of_leaks(const cps_run *run) {
    const cps_stream **streams = cps_allocate_zero(run->stream_count, 1, sizeof *streams);
    uint64_t *checksums = NULL;
    int64_t count = 0;
    for (int32_t i = 0; i < run->stream_count && streams != NULL; i++) {
        streams[i] = run->streams[i].stream;
    }
    if (cps_comm_rank(run->comm) == 0 && run->evaluation_count > 0 && streams != NULL) {
        if (cps_seen_pictures(streams, run->stream_count, &checksums, &count) == CPS_OK) {
            warn_of_pictures(run, checksums, count);
        } else {
            cps_fail_clear();
        }
    }
    free(checksums);
    free(streams);
}

void cps_loop_warn(const cps_run *run) {
    warn_of_untrained(run);
    warn_of_leaks(run);
}

/* What a rank of `ranks` would plan for, without a run around it. */
static cps_status plan_memory(cps_run *run, int64_t index, int32_t ranks,
                              cps_memory_plan *memory_out) {
    cps_loop *loop = calloc(1, sizeof *loop);
    if (loop == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a plan");
    }
    loop->run = run;
    loop->state.stage = index;
    cps_status status = cps_loop_open_validations(loop);
    status = status != CPS_OK
                 ? status
                 : cps_step_plan(run->stages[index].plan, ranks, &run->stages[index].memory);
    if (status == CPS_OK) {
        *memory_out = cps_loop_memory(loop, ranks);
    }
    cps_loop_close_embedder(loop);
    free(loop);
    return status;
}

static void add_stage_facts(const cps_stage_plan *plan, const cps_memory_plan *memory,
                            cps_json *facts) {
    cps_json *stage = cps_json_add_object(facts, NULL);
    cps_json_add_string(stage, "name", plan->options.name);
    cps_json_add_number(stage, "steps", (double)plan->steps);
    cps_json_add_number(stage, "flop", step_flop(plan) * (double)plan->steps);
    cps_json_add_number(stage, "memory_bytes", (double)memory->total_bytes);
}

/* stages: a list of facts, NULL where nobody asks. */
static cps_status report_stage(cps_run *run, int64_t index, int32_t ranks, cps_json *stages) {
    cps_run_stage *stage = &run->stages[index];
    cps_stage_plan *plan = stage->plan;
    const int64_t parts = cps_min_i64(plan->grains, plan->parts);
    if (ranks > parts && plan->steps > 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "stages[%lld]: %d ranks, but the global batch has %lld parts: use at most "
                        "%lld ranks, a smaller grain, or set parts in the job",
                        (long long)index + 1, ranks, (long long)parts, (long long)parts);
    }
    cps_memory_plan memory = {0};
    CPS_TRY(plan_memory(run, index, ranks, &memory));
    if (stages != NULL) {
        add_stage_facts(plan, &memory, stages);
    }
    int64_t elements = 0;
    const int32_t tensors = cps_params_learning(cps_model_params(run->model), &elements);
    cps_log(CPS_LOG_INFO,
            "stage '%s': %lld steps, %lld an epoch; global batch %lld = %lld grains of %lld in "
            "%lld parts",
            plan->options.name, (long long)plan->steps, (long long)plan->steps_per_epoch,
            (long long)plan->options.global_batch, (long long)plan->grains,
            (long long)plan->options.grain, (long long)parts);
    cps_log(CPS_LOG_INFO, "  %lld parameters in %d tensors learn", (long long)elements, tensors);
    for (int32_t i = 0; i < plan->stream_count; i++) {
        const cps_stage_stream *stream = &plan->streams[i];
        cps_log(CPS_LOG_INFO,
                "  stream '%s': %lld records, %lld of them damaged, %lld left out for lack of %s; "
                "%lld rows a grain",
                stream->name, (long long)cps_stream_records(stream->stream),
                (long long)cps_stream_bad_records(stream->stream),
                (long long)cps_stream_left_out(stream->stream), cps_needs_words(stream->needs),
                (long long)stream->rows);
    }
    for (int32_t i = 0; i < plan->input_count; i++) {
        if (plan->inputs[i].kind == CPS_INPUT_TEXT) {
            CPS_TRY(report_texts(run, plan, &plan->inputs[i]));
        }
    }
    const double mib = 1048576.0;
    cps_log(CPS_LOG_INFO,
            "  memory of a rank (of %d): %.0f MiB: weights %.0f, gradients and optimizer %.0f, "
            "activations %.0f, loader %.0f, evaluation %.0f, program %.0f",
            ranks, (double)memory.total_bytes / mib, (double)memory.weights_bytes / mib,
            (double)memory.update_bytes / mib, (double)memory.step_bytes / mib,
            (double)memory.loader_bytes / mib, (double)memory.evaluation_bytes / mib,
            (double)memory.program_bytes / mib);
    const double flop = step_flop(plan);
    cps_log(CPS_LOG_INFO,
            "  a step is at most %.3g TFLOP, the stage %.3g; at 100 GFLOP/s a core, %.1f hours on "
            "%d cores",
            flop * 1e-12, flop * 1e-12 * (double)plan->steps,
            flop * (double)plan->steps / (1e11 * (double)ranks * (double)run->options.threads) /
                3600.0,
            ranks * run->options.threads);
    return CPS_OK;
}

cps_status cps_check_job(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                         const cps_job_calls *calls, const cps_run_options *options, int32_t ranks,
                         cps_json *facts) {
    cps_run *run = NULL;
    CPS_TRY(cps_run_open(comm, plugins, job, calls, options, &run));
    cps_status status = CPS_OK;
    cps_loop_warn(run);
    cps_json *stages = NULL;
    if (facts != NULL) {
        cps_json_add_string(facts, "name", run->job_options.name);
        cps_json_add_number(facts, "ranks", ranks);
        stages = cps_json_add_array(facts, "stages");
    }
    for (int64_t i = 0; i < run->stage_count && status == CPS_OK; i++) {
        status = report_stage(run, i, ranks, stages);
    }
    for (int64_t i = 0; i < run->evaluation_count && status == CPS_OK; i++) {
        cps_log(CPS_LOG_INFO, "evaluation '%s': %lld records", run->evaluations[i].options->name,
                (long long)cps_stream_records(run->evaluations[i].streams.data));
    }
    if (status == CPS_OK) {
        cps_log(CPS_LOG_INFO, "the job is fine");
    }
    cps_run_close(run);
    return status;
}

/* ---- eval
 * ------------------------------------------------------------------------------------------------------------------------
 */

/* A checkpoint stands in a stage, whose objective and evaluations count, and at a step. Without one
 * of that name, and for weights: the last stage, step 0. */
static void take_place(cps_loop *loop, const cps_json *state) {
    const cps_run *run = loop->run;
    const char *name = cps_json_get_string(state, "stage_name", "");
    loop->state.stage = run->stage_count - 1;
    for (int64_t i = 0; i < run->stage_count; i++) {
        if (strcmp(run->stages[i].plan->options.name, name) == 0) {
            loop->state.stage = i;
        }
    }
    loop->state.steps_before = cps_json_get_integer(state, "steps_before", 0);
    loop->state.data_step = cps_json_get_integer(state, "data_step", 0);
}

/* Collective. */
static cps_status load_checkpoint(cps_loop *loop, const char *path) {
    cps_run *run = loop->run;
    cps_json *state = NULL, *identity = NULL;
    CPS_TRY(cps_checkpoint_read_state(run->comm, path, &state, &identity));
    take_place(loop, state);
    cps_json_destroy(state);
    cps_json_destroy(identity);
    return cps_checkpoint_load(run->comm, path, run->model, NULL);
}

/* Rank 0 looks what kind of file it is: the others may not see it. */
static cps_status load_values(cps_loop *loop, const char *path) {
    cps_run *run = loop->run;
    const bool rank0 = cps_comm_rank(run->comm) == 0;
    if (cps_agree_any(run->comm, "kind of file", rank0 && cps_is_checkpoint(path))) {
        return load_checkpoint(loop, path);
    }
    take_place(loop, NULL);
    cps_params *params = cps_model_params(run->model);
    cps_status status = CPS_OK;
    if (rank0) {
        cps_weights_report report = {0};
        status = cps_run_load_tower_weights(run); /* what `path` holds of them has the last word */
        status = status != CPS_OK ? status : cps_weights_load(run->model, path, false, &report);
        cps_weights_report_free(&report);
    }
    CPS_TRY(cps_agree(run->comm, "weights", status));
    cps_comm_broadcast(run->comm, "weights", cps_params_flat(params),
                       (size_t)cps_params_flat_count(params) * sizeof(cps_real), 0);
    return CPS_OK;
}

cps_status cps_loop_load_model(cps_loop *loop, const char *path) {
    cps_run *run = loop->run;
    CPS_TRY(cps_run_set_precision(run));
    CPS_TRY(cps_identity_agree(run));
    CPS_TRY(cps_agree(
        run->comm, "parameters",
        cps_params_allocate(cps_model_params(run->model), (uint64_t)run->job_options.seed)));
    return load_values(loop, path);
}

static cps_status evaluate(cps_loop *loop, const char *checkpoint) {
    cps_run *run = loop->run;
    bool stop = false;
    CPS_TRY(cps_loop_load_model(loop, checkpoint));
    CPS_TRY(cps_agree(run->comm, "progress", cps_progress_create(&loop->progress)));
    CPS_TRY(cps_agree(run->comm, "bad images", cps_quarantine_create(NULL, &loop->quarantine)));
    CPS_TRY(cps_agree(run->comm, "validation sets", cps_loop_open_validations(loop)));
    return cps_loop_evaluate_due(loop, CPS_DUE_STAGE_END, &stop);
}

cps_status cps_evaluate_job(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                            const cps_job_calls *calls, const char *checkpoint,
                            const cps_run_options *options) {
    cps_loop *loop = NULL;
    CPS_TRY(cps_agree(comm, "an evaluation", cps_loop_create(comm, &loop)));
    cps_status status = cps_run_open(comm, plugins, job, calls, options, &loop->run);
    if (status == CPS_OK) {
        const char *name = options->name != NULL ? options->name : loop->run->job_options.name;
        loop->name = cps_format("%s", name);
        loop->folder = cps_format("%s/%s/eval", options->runs, name);
        status = evaluate(loop, checkpoint);
    }
    cps_loop_close(loop);
    return status;
}
