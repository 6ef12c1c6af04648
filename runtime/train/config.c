#include "train/config.h"

#include <stdio.h>

#include "data/config.h"

/* Largest integer that JSON and Lua floats carry exactly. */
#define EXACT_MAX 9007199254740992.0

static const char *const reproducible_choices[] = {"world", "run", NULL};
static const char *const precision_choices[] = {"fp32", "bf16", "auto", NULL};
static const char *const tail_choices[] = {"drop", "keep", NULL};

const cps_option cps_job_option_rows[] = {
    {.name = "name",
     .kind = CPS_OPT_STRING,
     .help = "name of the run's folder",
     .required = true,
     .offset = offsetof(cps_job_options, name)},
    {.name = "seed",
     .kind = CPS_OPT_INTEGER,
     .help = "seed of every draw",
     .default_text = "0",
     .minimum = 0,
     .maximum = EXACT_MAX,
     .offset = offsetof(cps_job_options, seed)},
    {.name = "reproducible",
     .kind = CPS_OPT_CHOICE,
     .help =
         "world: same bits on any number of ranks; run: same bits on this number, with less memory",
     .default_text = "world",
     .choices = reproducible_choices,
     .offset = offsetof(cps_job_options, reproducible)},
    {.name = "precision",
     .kind = CPS_OPT_CHOICE,
     .help = "of matrix products; auto: bf16 where the CPU is fast at it",
     .default_text = "fp32",
     .choices = precision_choices,
     .offset = offsetof(cps_job_options, precision)},
    {.name = "parts",
     .kind = CPS_OPT_INTEGER,
     .help = "most parts of a global batch, hence most ranks",
     .default_text = "32",
     .minimum = 1,
     .maximum = 65536,
     .offset = offsetof(cps_job_options, parts)},
    {.name = "watchdog_seconds",
     .kind = CPS_OPT_NUMBER,
     .help = "how long ranks may disagree before the run is ended",
     .default_text = "600",
     .minimum = 1,
     .maximum = 1e6,
     .offset = offsetof(cps_job_options, watchdog_seconds)},
    {.name = "max_bad",
     .kind = CPS_OPT_INTEGER,
     .help = "unreadable images before the run ends; -1: no limit",
     .default_text = "-1",
     .minimum = -1,
     .maximum = EXACT_MAX,
     .offset = offsetof(cps_job_options, max_bad)},
    {.name = "max_skipped_steps",
     .kind = CPS_OPT_INTEGER,
     .help = "steps in a row that may be skipped for a non-finite loss or gradient; -1: as many as "
             "the stage's objective says, 10 where it says nothing",
     .default_text = "-1",
     .minimum = -1,
     .maximum = 1e6,
     .offset = offsetof(cps_job_options, max_skipped_steps)},
    {.name = NULL},
};

const cps_option cps_objective_common_rows[] = {
    {.name = "weight",
     .kind = CPS_OPT_NUMBER,
     .help = "factor of its losses",
     .default_text = "1",
     .minimum = 0,
     .maximum = 1e6,
     .offset = offsetof(cps_objective_options, weight)},
    {.name = NULL},
};

const cps_option cps_stage_rows[] = {
    {.name = "name",
     .kind = CPS_OPT_STRING,
     .help = "name of the stage (default: stage1, stage2, ...)",
     .offset = offsetof(cps_stage_options, name)},
    {.name = "epochs",
     .kind = CPS_OPT_INTEGER,
     .help = "length in passes over the clock stream",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e9,
     .offset = offsetof(cps_stage_options, epochs)},
    {.name = "steps",
     .kind = CPS_OPT_INTEGER,
     .help = "length in steps",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e12,
     .offset = offsetof(cps_stage_options, steps)},
    {.name = "global_batch",
     .kind = CPS_OPT_INTEGER,
     .help = "samples of the clock stream in one step, over all ranks",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e8,
     .offset = offsetof(cps_stage_options, global_batch)},
    {.name = "grain",
     .kind = CPS_OPT_INTEGER,
     .help = "samples of one tower forward; divides global_batch",
     .default_text = "32",
     .minimum = 1,
     .maximum = 65536,
     .offset = offsetof(cps_stage_options, grain)},
    {.name = "tail",
     .kind = CPS_OPT_CHOICE,
     .help = "the last incomplete global batch of an epoch",
     .default_text = "drop",
     .choices = tail_choices,
     .offset = offsetof(cps_stage_options, tail)},
    {.name = "grad_clip_norm",
     .kind = CPS_OPT_NUMBER,
     .help = "longest gradient, over all tensors; 0: no limit",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e9,
     .offset = offsetof(cps_stage_options, grad_clip_norm)},
    {.name = "clip_tensor",
     .kind = CPS_OPT_NUMBER,
     .help = "longest gradient of each tensor; 0: no limit",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e9,
     .offset = offsetof(cps_stage_options, clip_tensor)},
    {.name = "activation_budget_mb",
     .kind = CPS_OPT_INTEGER,
     .help = "memory of a rank for kept activations; 0: every forward is replayed, -1: no limit",
     .default_text = "4096",
     .minimum = -1,
     .maximum = 1e9,
     .offset = offsetof(cps_stage_options, activation_budget_mb)},
    {.name = "max_skipped_steps",
     .kind = CPS_OPT_INTEGER,
     .help = "as the job's, for this stage",
     .minimum = -1,
     .maximum = 1e6,
     .offset = offsetof(cps_stage_options, max_skipped_steps)},
    {.name = "max_bad",
     .kind = CPS_OPT_INTEGER,
     .help = "as the job's, for this stage",
     .minimum = -1,
     .maximum = EXACT_MAX,
     .offset = offsetof(cps_stage_options, max_bad)},
    {.name = "crop",
     .kind = CPS_OPT_NUMBERS,
     .help = "least and most area of the random crop; {1,1}: centre crop as in evaluation",
     .default_text = "{0.9,1}",
     .minimum = 0.01,
     .maximum = 1,
     .length = 2,
     .offset = offsetof(cps_stage_options, crop)},
    {.name = "aspect",
     .kind = CPS_OPT_NUMBERS,
     .help = "least and most width : height of the random crop",
     .default_text = "{0.75,1.3333333333333333}",
     .minimum = 0.05,
     .maximum = 20,
     .length = 2,
     .offset = offsetof(cps_stage_options, aspect)},
    {.name = "flip",
     .kind = CPS_OPT_NUMBER,
     .help = "probability of a mirrored image",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1,
     .offset = offsetof(cps_stage_options, flip)},
    {.name = NULL},
};

const cps_option cps_checkpoint_rows[] = {
    {.name = "steps",
     .kind = CPS_OPT_INTEGER,
     .help = "every so many steps; 0: no",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e12,
     .offset = offsetof(cps_checkpoint_options, steps)},
    {.name = "seconds",
     .kind = CPS_OPT_NUMBER,
     .help = "every so many seconds; 0: no",
     .default_text = "1800",
     .minimum = 0,
     .maximum = 1e9,
     .offset = offsetof(cps_checkpoint_options, seconds)},
    {.name = "keep",
     .kind = CPS_OPT_INTEGER,
     .help = "how many of the last are kept",
     .default_text = "2",
     .minimum = 1,
     .maximum = 1e6,
     .offset = offsetof(cps_checkpoint_options, keep)},
    {.name = "best",
     .kind = CPS_OPT_STRING,
     .help = "metric whose best checkpoint is kept too: <evaluation>.<key>",
     .offset = offsetof(cps_checkpoint_options, best)},
    {.name = NULL},
};

const cps_option cps_early_stop_rows[] = {
    {.name = "metric",
     .kind = CPS_OPT_STRING,
     .help = "what is watched: <evaluation>.<key>",
     .required = true,
     .offset = offsetof(cps_early_stop_options, metric)},
    {.name = "patience",
     .kind = CPS_OPT_INTEGER,
     .help = "evaluations without a better value before the stage ends",
     .default_text = "3",
     .minimum = 1,
     .maximum = 1e6,
     .offset = offsetof(cps_early_stop_options, patience)},
    {.name = "min_delta",
     .kind = CPS_OPT_NUMBER,
     .help = "by how much a value must be better",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e9,
     .offset = offsetof(cps_early_stop_options, min_delta)},
    {.name = NULL},
};

cps_status cps_job_options_parse(const cps_json *job, cps_arena *arena, cps_job_options *out) {
    static const char *const also[] = {"model",      "tokenizer",   "data",
                                       "stages",     "evaluate",    "checkpoint",
                                       "early_stop", "on_evaluate", NULL};
    cps_job_options options = {0};
    CPS_TRY(cps_options_parse(cps_job_option_rows, job, "job", also, arena, &options));
    options.has_on_evaluate = cps_json_get(job, "on_evaluate") != NULL;
    *out = options;
    return CPS_OK;
}

cps_status cps_checkpoint_options_parse(const cps_json *job, cps_arena *arena,
                                        cps_checkpoint_options *out) {
    return cps_options_parse(cps_checkpoint_rows, cps_json_get(job, "checkpoint"), "checkpoint",
                             NULL, arena, out);
}

cps_status cps_early_stop_options_parse(const cps_json *job, cps_arena *arena,
                                        cps_early_stop_options *out) {
    const cps_json *early_stop = cps_json_get(job, "early_stop");
    if (!early_stop) {
        *out = (cps_early_stop_options){0};
        return CPS_OK;
    }
    return cps_options_parse(cps_early_stop_rows, early_stop, "early_stop", NULL, arena, out);
}

static cps_status parse_objectives(const cps_json *array, const char *where, cps_arena *arena,
                                   cps_stage_options *out) {
    out->objective_count = cps_json_count(array);
    if (out->objective_count < 1) {
        return cps_fail(CPS_ERR_USAGE, "%s: has no objective", where);
    }
    out->objectives =
        cps_arena_alloc_zero(arena, (size_t)out->objective_count * sizeof *out->objectives);
    if (!out->objectives) {
        return CPS_ERR_UNAVAILABLE;
    }
    const cps_json *object = cps_json_first(array);
    for (int64_t i = 0; i < out->objective_count; i++, object = cps_json_next(object)) {
        const char *plugin = cps_json_get_string(object, "plugin", NULL);
        cps_objective_options *objective = &out->objectives[i];
        objective->name = cps_arena_strdup(arena, cps_json_get_string(object, "name", ""));
        objective->plugin = plugin ? cps_arena_strdup(arena, plugin) : NULL;
        objective->weight = cps_json_get_number(object, "weight", 1);
        objective->options = cps_json_get(object, "options");
        if (!objective->name || (plugin && !objective->plugin)) {
            return CPS_ERR_UNAVAILABLE;
        }
    }
    return CPS_OK;
}

/* An object of numbers, or an array of [name, number] pairs. */
static cps_status parse_named_numbers(const cps_json *container, const char *where,
                                      cps_arena *arena, int64_t *count_out,
                                      cps_named_number **values_out) {
    const int64_t count = cps_json_count(container);
    cps_named_number *values = cps_arena_alloc_zero(arena, (size_t)count * sizeof *values);
    if (!values) {
        return CPS_ERR_UNAVAILABLE;
    }
    const bool pairs = cps_json_is_array(container);
    const cps_json *member = cps_json_first(container);
    for (int64_t i = 0; i < count; i++, member = cps_json_next(member)) {
        const char *name = pairs ? cps_json_string(cps_json_at(member, 0)) : cps_json_key(member);
        const cps_json *value = pairs ? cps_json_at(member, 1) : member;
        if (!name || !cps_json_is_number(value)) {
            return cps_fail(CPS_ERR_USAGE, "%s: entry %lld should be a name and a number", where,
                            (long long)i + 1);
        }
        values[i] = (cps_named_number){cps_arena_strdup(arena, name), cps_json_number(value)};
        if (!values[i].name) {
            return CPS_ERR_UNAVAILABLE;
        }
    }
    *count_out = count;
    *values_out = values;
    return CPS_OK;
}

/* The kind of an object such as `optimizer`, which may be absent. */
static cps_status parse_kind(const cps_json *object, cps_arena *arena, const char **kind_out) {
    const char *kind = cps_json_get_string(object, "kind", NULL);
    *kind_out = kind ? cps_arena_strdup(arena, kind) : NULL;
    return kind && !*kind_out ? CPS_ERR_UNAVAILABLE : CPS_OK;
}

cps_status cps_stage_options_parse(const cps_json *stage, const char *where, cps_arena *arena,
                                   cps_stage_options *out) {
    static const char *const also[] = {"objectives", "embed",     "rows",     "train",
                                       "lr_factors", "optimizer", "schedule", NULL};
    cps_stage_options options = {0};
    CPS_TRY(cps_options_parse(cps_stage_rows, stage, where, also, arena, &options));
    if (cps_json_get(stage, "max_bad") == NULL) {
        options.max_bad = -1;
    }
    if (cps_json_get(stage, "max_skipped_steps") == NULL) {
        options.max_skipped_steps = -1;
    }
    CPS_TRY(parse_objectives(cps_json_get(stage, "objectives"), where, arena, &options));
    CPS_TRY(parse_named_numbers(cps_json_get(stage, "rows"), where, arena, &options.row_count,
                                &options.rows));
    CPS_TRY(cps_config_strings(cps_json_get(stage, "train"), where, arena, &options.train));
    CPS_TRY(parse_named_numbers(cps_json_get(stage, "lr_factors"), where, arena,
                                &options.lr_factor_count, &options.lr_factors));
    options.embed =
        cps_arena_strdup(arena, cps_json_get_string(stage, "embed", options.objectives[0].name));
    options.optimizer = cps_json_get(stage, "optimizer");
    options.schedule = cps_json_get(stage, "schedule");
    CPS_TRY(parse_kind(options.optimizer, arena, &options.optimizer_kind));
    CPS_TRY(parse_kind(options.schedule, arena, &options.schedule_kind));
    if (!options.embed) {
        return CPS_ERR_UNAVAILABLE;
    }
    *out = options;
    return CPS_OK;
}
