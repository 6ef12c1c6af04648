/* provenance.json of a run: digests of all that reaches its numbers, what each stage shows of the
 * data in a step, and which files an evaluation reads. Rank 0 writes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "report/provenance.h"
#include "tensor/gemm.h"
#include "train/loop_private.h"

enum { MOST_DIGESTS = 4 * CPS_STAGE_VIEWS };

/* ---- digests ---- */

typedef struct digest_list {
    cps_provenance_fact facts[MOST_DIGESTS];
    int64_t count;
} digest_list;

/* kind.name, or kind alone; digests beyond the list's room are left out. */
static void add_digest(digest_list *list, const char *kind, const char *name, uint64_t digest) {
    if (list->count < MOST_DIGESTS) {
        list->facts[list->count++] = (cps_provenance_fact){
            .key = cps_format("%s%s%s", kind, name == NULL ? "" : ".", name == NULL ? "" : name),
            .value = cps_format("%016llx", (unsigned long long)digest)};
    }
}

static void free_digests(digest_list *list) {
    for (int64_t i = 0; i < list->count; i++) {
        free((void *)(uintptr_t)list->facts[i].key);
        free((void *)(uintptr_t)list->facts[i].value);
    }
}

/* A run without digests of weights starts from its seed. */
static void collect_digests(const cps_run *run, digest_list *list) {
    for (int32_t i = 0; i < run->stream_count; i++) {
        add_digest(list, "data", run->streams[i].name, cps_stream_digest(run->streams[i].stream));
    }
    for (int64_t i = 0; i < run->evaluation_count; i++) {
        const cps_run_evaluation *evaluation = &run->evaluations[i];
        add_digest(list, "evaluation", evaluation->options->name,
                   cps_stream_digest(evaluation->streams.data));
    }
    if (cps_model_weights(run->model) != NULL) {
        add_digest(list, "weights", NULL, run->weights_digest);
    }
    for (int32_t i = 0; i < cps_model_tower_count(run->model); i++) {
        const char *name = cps_tower_get_config(cps_model_tower_at(run->model, i))->name;
        if (cps_model_tower_weights(run->model, name)->path != NULL) {
            add_digest(list, "weights", name, run->tower_digests[i]);
        }
    }
    if (run->tokenizer != NULL) {
        add_digest(list, "tokenizer", NULL, cps_tokenizer_digest(run->tokenizer));
    }
}

/* ---- the run ---- */

/* Samples that a whole step takes of each stream. */
static void add_stage(const cps_stage_plan *plan, cps_json *stages) {
    cps_json *stage = cps_json_add_object(stages, NULL);
    cps_json_add_string(stage, "name", plan->options.name);
    cps_json_add_number(stage, "steps", (double)plan->steps);
    cps_json *samples = cps_json_add_object(stage, "samples_per_step");
    for (int32_t i = 0; i < plan->stream_count; i++) {
        const int64_t rows =
            i == 0 ? plan->options.global_batch : plan->streams[i].rows * plan->grains;
        cps_json_add_number(samples, plan->streams[i].name, (double)rows);
    }
}

/* Shards of a stream in stored order, as predictions number them (eval/README.md). */
static void add_shards(const cps_stream *stream, const char *name, cps_json *object) {
    const cps_shard *last = NULL;
    cps_json *paths = cps_json_add_array(object, name);
    for (int64_t i = 0; i < cps_stream_records(stream); i++) {
        cps_place place;
        cps_stream_stored(stream, i, &place);
        if (place.shard != last) {
            cps_json_add_string(paths, NULL, cps_shard_path(place.shard));
            last = place.shard;
        }
    }
}

static cps_json *facts_of_run(const cps_run *run) {
    cps_json *facts = cps_json_new_object();
    cps_json *stages = cps_json_add_array(facts, "stages");
    for (int64_t i = 0; i < run->stage_count; i++) {
        add_stage(run->stages[i].plan, stages);
    }
    cps_json *shards = cps_json_add_object(facts, "evaluation_shards");
    for (int64_t i = 0; i < run->evaluation_count; i++) {
        const cps_run_evaluation *evaluation = &run->evaluations[i];
        add_shards(evaluation->streams.data, evaluation->options->name, shards);
    }
    return facts;
}

/* ---- the file ---- */

cps_status cps_loop_write_provenance(const cps_loop *loop) {
    const cps_run *run = loop->run;
    digest_list digests = {.count = 0};
    collect_digests(run, &digests);
    cps_json *facts = facts_of_run(run);
    const cps_provenance_fact command = {
        "command", run->options.command_line == NULL ? "" : run->options.command_line};
    char *hosts = cps_comm_hosts(run->comm);
    const cps_provenance provenance = {.copse_version = CPS_VERSION,
                                       .blas_core = cps_gemm_core_name(),
                                       .precision = cps_gemm_precision(),
                                       .ranks = cps_comm_size(run->comm),
                                       .threads = run->options.threads,
                                       .hosts = hosts,
                                       .start_step = cps_loop_step(loop),
                                       .digests = digests.facts,
                                       .digest_count = digests.count,
                                       .run = facts,
                                       .facts = &command,
                                       .fact_count = 1};
    char *path = cps_format("%s/provenance.json", loop->folder);
    const cps_status status = cps_provenance_write(path, &provenance);
    free(path);
    free(hosts);
    cps_json_destroy(facts);
    free_digests(&digests);
    return status;
}
