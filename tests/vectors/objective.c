/* The engine of tests/ranks/engine.h makes plans; steps are taken here, on tapes of our own. */
#include "objective.h"

#include "base/file.h"
#include "comm/canonical.h"
#include "ranks.h"
#include "tests/ranks/engine.h"
#include "train/grain.h"

enum { MOST_PARTS = 32, RANKS = OBJECTIVE_RANKS, MOST_ROWS = 8192, MOST_CLASSES = 1 << 16 };
static const char *const rank_names[RANKS] = {"kingdom", "phylum", "class",  "order",
                                              "family",  "genus",  "species"};

/* ---- the engine ---- */

static void end_engine(void) {
    engine_end_data();
}

static void start_engine(void) {
    static bool started;
    if (!started) {
        started = true;
        engine_start_on(vectors_comm(), "/proc/self/exe");
        vectors_at_finish(end_engine);
    }
}

/* A word for class `index` of a rank, without digits: names of organisms may hold none. */
static void class_word(int32_t rank, int64_t index, char word[64]) {
    char letters[16];
    size_t length = 0;
    do {
        letters[length++] = (char)('a' + index % 26);
        index /= 26;
    } while (index > 0);
    letters[length] = '\0';
    snprintf(word, 64, "%s%s", rank_names[rank], letters);
}

static cps_status append_record(cps_shard_writer *writer, const uint8_t *picture, size_t length,
                                int64_t i, const int64_t class_counts[RANKS]) {
    char words[RANKS][64];
    const char *texts[1 + RANKS] = {"a green leaf of an oak"};
    cps_record_text text[1 + RANKS] = {{"caption", 1, &texts[0]}};
    for (int32_t r = 0; r < RANKS; r++) {
        class_word(r, cps_min_i64(i, class_counts[r] - 1), words[r]);
        texts[1 + r] = words[r];
        text[1 + r] = (cps_record_text){rank_names[r], 1, &texts[1 + r]};
    }
    const cps_record record = {.sample_id = (uint64_t)i,
                               .image = picture,
                               .image_bytes = length,
                               .label = -1,
                               .text_field_count = 1 + RANKS,
                               .texts = text};
    return cps_shard_writer_append(writer, &record);
}

/* Records i = 0 .. count-1 with a caption and a taxonomy: at rank r record i is of class
 * min(i, class_counts[r] - 1). No rank has fewer than the one above, so a path from the kingdom
 * down to r is one of exactly class_counts[r]. */
static cps_status write_shard(const char *path, int64_t count, const int64_t class_counts[RANKS]) {
    const char *fields[1 + RANKS] = {"caption"};
    cps_shard_writer *writer = NULL;
    size_t length = 0;
    memcpy(fields + 1, rank_names, sizeof rank_names);
    CPS_TRY(cps_shard_writer_create(path, fields, 1 + RANKS, NULL, 0, "golden vectors", &writer));
    uint8_t *picture = engine_picture(1, &length);
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        status = append_record(writer, picture, length, i, class_counts);
    }
    free(picture);
    if (status != CPS_OK) {
        cps_shard_writer_abandon(writer);
        return status;
    }
    return cps_shard_writer_finish(writer);
}

/* Collective: rank 0 writes, once for equal contents. */
static cps_status make_shard(int64_t count, const int64_t class_counts[RANKS], char **path_out) {
    const uint64_t classes = cps_hash64(class_counts, RANKS * sizeof *class_counts);
    char *path = cps_format("%s/vectors-%lld-%016llx.h5", the_engine.folder, (long long)count,
                            (unsigned long long)classes);
    cps_status status = CPS_OK;
    if (cps_comm_rank(the_engine.comm) == 0 && !cps_file_exists(path)) {
        status = write_shard(path, count, class_counts);
    }
    status = cps_agree(the_engine.comm, "shard", status);
    if (status != CPS_OK) {
        free(path);
        return status;
    }
    *path_out = path;
    return CPS_OK;
}

static const int64_t one_class[RANKS] = {1, 1, 1, 1, 1, 1, 1};

cps_status objective_shard(int64_t records, char **path_out) {
    start_engine();
    return make_shard(records, one_class, path_out);
}

/* ---- the plan ---- */

/* What a job is made of; the rest is the same for all. */
typedef struct job {
    const char *objective, *options, *shard;
    int64_t embed_dim, width;  /* of features; of the image tower */
    int64_t batch, other_rows; /* of the clock; a grain of the other streams */
} job;

static char *job_text(const job *j) {
    return cps_format(
        "{\"name\":\"vectors\",\"seed\":3,\"reproducible\":\"world\",\"precision\":\"fp32\","
        "\"parts\":%d,\"model\":{\"embed_dim\":%lld,\"image\":{\"image_size\":8,\"patch\":8,"
        "\"width\":%lld,\"layers\":1,\"heads\":1},\"text\":{\"width\":8,\"layers\":1,\"heads\":1,"
        "\"context\":16}},\"tokenizer\":{\"merges\":\"%s/merges.txt\",\"context\":16},"
        "\"data\":{\"paired\":{\"shards\":[\"%s\"]},\"replay\":{\"shards\":[\"%s\"]},"
        "\"unlabelled\":{\"shards\":[\"%s\"]}},\"stages\":[{\"name\":\"stage1\",\"objectives\":"
        "[{\"name\":\"%s\",\"options\":%s}],\"epochs\":0,\"steps\":1,\"global_batch\":%lld,"
        "\"grain\":1,\"rows\":{\"replay\":%lld,\"unlabelled\":%lld},\"crop\":[1,1],\"optimizer\":"
        "{\"kind\":\"sgd\",\"lr\":0.1,\"momentum\":0},\"schedule\":{\"kind\":\"constant\"}}],"
        "\"evaluate\":[],\"checkpoint\":{}}",
        MOST_PARTS, (long long)j->embed_dim, (long long)j->width, the_engine.folder, j->shard,
        j->shard, j->shard, j->objective, j->options, (long long)j->batch, (long long)j->other_rows,
        (long long)j->other_rows);
}

static cps_param *find_param(trial *t, const char *name) {
    cps_params *params = cps_model_params(t->run->model);
    const int32_t index = cps_params_find(params, name);
    return index < 0 ? NULL : cps_params_at(params, index);
}

static cps_status set_parameters(trial *t, const objective_parameter *parameters, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        const objective_parameter *given = &parameters[i];
        const cps_param *param = find_param(t, given->name);
        if (param == NULL || param->count != given->count) {
            return cps_fail(CPS_ERR_INTERNAL,
                            "the model has %lld values of parameter '%s', not %lld",
                            (long long)(param == NULL ? 0 : param->count), given->name,
                            (long long)given->count);
        }
        for (int64_t k = 0; k < given->count; k++) {
            ((cps_real *)param->tensor.data)[k] = (cps_real)given->values[k];
        }
    }
    return CPS_OK;
}

static void add_value(objective_result *result, const char *name, double value, double weight) {
    if (result->count < OBJECTIVE_TERMS) {
        objective_value *at = &result->values[result->count++];
        snprintf(at->name, sizeof at->name, "%s", name);
        at->value = value;
        at->weight = weight;
        result->loss += weight * value;
    }
}

double objective_value_of(const objective_result *result, const char *name) {
    for (int32_t i = 0; i < result->count; i++) {
        if (strcmp(result->values[i].name, name) == 0) {
            return result->values[i].value;
        }
    }
    return (double)NAN;
}

/* ---- leaves ---- */

/* `values` as the element type wants them, in the arena. */
static void *convert(cps_arena *arena, cps_dtype dtype, const double *values, int64_t count) {
    void *out = cps_arena_alloc_zero(arena, (size_t)(count + 1) * cps_dtype_bytes(dtype));
    for (int64_t i = 0; i < count && out != NULL; i++) {
        switch (dtype) {
        case CPS_REAL:
            ((cps_real *)out)[i] = (cps_real)values[i];
            break;
        case CPS_F64:
            ((double *)out)[i] = values[i];
            break;
        case CPS_I32:
            ((int32_t *)out)[i] = (int32_t)values[i];
            break;
        case CPS_I64:
            ((int64_t *)out)[i] = (int64_t)values[i];
            break;
        case CPS_U8:
            ((uint8_t *)out)[i] = (uint8_t)values[i];
            break;
        }
    }
    return out;
}

/* A loss at work. */
typedef struct work {
    trial *t;
    cps_arena *arena;
    cps_tape *tape;
    int64_t parts, first_part, last_part;
    cps_layout layouts[CPS_STAGE_SLOTS];
    cps_global global;
} work;

static objective_rows *find_rows(const objective_loss *wanted, const char *name) {
    for (int32_t i = 0; i < wanted->slot_count; i++) {
        if (strcmp(wanted->slots[i].name, name) == 0) {
            return &wanted->slots[i];
        }
    }
    return NULL;
}

/* Own rows of slot `s` with a layout. */
static cps_status make_leaf(work *w, const objective_loss *wanted, int32_t s) {
    const cps_stage_slot *slot = &w->t->plan->slots[s];
    const objective_rows *rows = find_rows(wanted, slot->name);
    if (rows == NULL || rows->width != slot->width) {
        return cps_fail(CPS_ERR_INTERNAL,
                        "'%s' emits rows of %lld values as '%s', the file has %lld of them",
                        wanted->name, (long long)slot->width, slot->name,
                        (long long)(rows == NULL ? 0 : rows->width));
    }
    int64_t *offset = cps_arena_alloc(w->arena, (size_t)(w->parts + 1) * sizeof *offset);
    if (offset == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    for (int64_t p = 0; p <= w->parts; p++) {
        offset[p] = p * rows->rows / w->parts;
    }
    w->layouts[s] = (cps_layout){w->parts, offset, w->first_part, w->last_part};
    int64_t shape[CPS_MAX_DIMS];
    memcpy(shape, slot->shape, sizeof shape);
    shape[0] = offset[w->last_part] - offset[w->first_part];
    const int64_t count = shape[0] * slot->width;
    void *values =
        convert(w->arena, slot->dtype, rows->values + offset[w->first_part] * slot->width, count);
    cps_real *grad = slot->needs_grad
                         ? cps_arena_alloc_zero(w->arena, (size_t)(count + 1) * sizeof *grad)
                         : NULL;
    if (values == NULL || (slot->needs_grad && grad == NULL)) {
        return CPS_ERR_UNAVAILABLE;
    }
    cps_tensor *leaf = cps_tape_leaf(w->tape, slot->dtype, slot->rank, shape, values, grad, -1);
    if (leaf == NULL) {
        return cps_tape_status(w->tape);
    }
    leaf->layout = &w->layouts[s];
    leaf->grad_fresh = true;
    w->global.slots[s] = leaf;
    return CPS_OK;
}

/* Own gradients of slot `s` -> those of all ranks, in double. */
static void take_gradient(const work *w, int32_t s, double *all) {
    const cps_tensor *leaf = w->global.slots[s];
    const int64_t width = w->t->plan->slots[s].width, *offset = w->layouts[s].part_offset;
    const int32_t ranks = cps_comm_size(the_engine.comm);
    double *own = all + offset[w->first_part] * width;
    const int64_t count = leaf->shape[0] * width;
    for (int64_t i = 0; i < count; i++) {
        own[i] = leaf->grad == NULL || leaf->grad_fresh ? 0.0 : (double)leaf->grad[i];
    }
    int64_t bytes[VECTORS_MOST_RANKS];
    for (int32_t r = 0; r < ranks; r++) {
        bytes[r] = (offset[cps_part_first(w->parts, ranks, r + 1)] -
                    offset[cps_part_first(w->parts, ranks, r)]) *
                   width * (int64_t)sizeof(double);
    }
    cps_comm_allgatherv_inplace(the_engine.comm, "gradient of a slot", all, bytes);
}

/* ---- the loss of a batch ---- */

/* What every rank has computed alike must be the same bits. */
static cps_status check_equal(const char *what, double value) {
    double all[VECTORS_MOST_RANKS];
    int64_t bytes[VECTORS_MOST_RANKS];
    const int32_t ranks = cps_comm_size(the_engine.comm);
    for (int32_t r = 0; r < ranks; r++) {
        bytes[r] = (int64_t)sizeof value;
    }
    cps_comm_allgatherv(the_engine.comm, "equal values", &value, all, bytes);
    for (int32_t r = 1; r < ranks; r++) {
        if (memcmp(&all[r], &all[0], sizeof value) != 0) {
            return cps_fail(CPS_ERR_INTERNAL, "%s is %.17g on rank 0 and %.17g on rank %d", what,
                            all[0], all[r], r);
        }
    }
    return CPS_OK;
}

static cps_status run_loss(work *w) {
    cps_stage_plan *plan = w->t->plan;
    cps_global *global = &w->global;
    cps_status status =
        plan->instances[0].objective->loss(plan->instances[0].self, global, w->tape);
    status = status != CPS_OK ? status : cps_tape_status(w->tape);
    status = status != CPS_OK ? status : cps_service_status(global->status, global->message);
    return cps_tape_failure_agreed(w->tape) ? status : cps_agree(the_engine.comm, "loss", status);
}

static cps_status run_backward(work *w, const char *only) {
    cps_real weights[CPS_STAGE_TERMS];
    bool found = only == NULL;
    for (int32_t i = 0; i < w->global.term_count; i++) {
        const bool named = only != NULL && strcmp(w->global.term_names[i], only) == 0;
        found = found || named;
        weights[i] = named ? 1 : (cps_real)w->global.term_weights[i];
        if (w->global.terms[i]->needs_grad && (only == NULL || named)) {
            cps_tape_seed(w->tape, w->global.terms[i], &weights[i]);
        }
    }
    if (!found) {
        return cps_fail(CPS_ERR_INTERNAL, "the objective has no term '%s'", only);
    }
    const cps_status status = cps_backward(w->tape, NULL, 0.0);
    return cps_tape_failure_agreed(w->tape) ? status
                                            : cps_agree(the_engine.comm, "backward", status);
}

static cps_status take_values(const work *w, objective_result *result) {
    const cps_global *global = &w->global;
    *result = (objective_result){0};
    for (int32_t i = 0; i < global->term_count; i++) {
        const double value = (double)*(const cps_real *)global->terms[i]->data;
        CPS_TRY(check_equal(global->term_names[i], value));
        add_value(result, global->term_names[i], value, global->term_weights[i]);
    }
    for (int32_t i = 0; i < global->report_count; i++) {
        CPS_TRY(check_equal(global->report_names[i], global->report_values[i]));
        add_value(result, global->report_names[i], global->report_values[i], 0.0);
    }
    return CPS_OK;
}

static cps_status take_gradients(const work *w, const objective_loss *wanted) {
    for (int32_t i = 0; i < wanted->slot_count; i++) {
        const objective_rows *rows = &wanted->slots[i];
        if (rows->grad != NULL) {
            memset(rows->grad, 0, (size_t)(rows->rows * rows->width) * sizeof *rows->grad);
        }
    }
    for (int32_t s = 0; s < w->t->plan->slot_count; s++) {
        const objective_rows *rows = find_rows(wanted, w->t->plan->slots[s].name);
        if (rows->grad != NULL) {
            take_gradient(w, s, rows->grad);
        }
    }
    cps_params *params = cps_model_params(w->t->run->model);
    for (int32_t i = 0; i < wanted->parameter_count; i++) {
        const objective_parameter *given = &wanted->parameters[i];
        double total = 0.0;
        for (int32_t k = 0; k < w->global.param_count; k++) {
            const cps_tensor *leaf = w->global.params[k];
            const char *name = cps_params_at(params, w->global.param_index[k])->name;
            if (strcmp(name, given->name) == 0 && leaf->grad != NULL && !leaf->grad_fresh) {
                total = (double)*leaf->grad;
            }
        }
        CPS_TRY(check_equal(given->name, total));
        if (given->grad != NULL) {
            *given->grad = total;
        }
    }
    return CPS_OK;
}

static cps_status compute(work *w, const objective_loss *wanted, objective_result *result) {
    cps_stage_plan *plan = w->t->plan;
    w->global = (cps_global){.host = cps_host_table(),
                             .plan = plan,
                             .tape = w->tape,
                             .info = {.steps = 1, .grain = -1, .grains = w->parts, .seed = 3}};
    CPS_TRY(set_parameters(w->t, wanted->parameters, wanted->parameter_count));
    cps_status status = CPS_OK;
    for (int32_t s = 0; s < plan->slot_count && status == CPS_OK; s++) {
        status = make_leaf(w, wanted, s);
    }
    CPS_TRY(cps_agree(the_engine.comm, "leaves", status));
    CPS_TRY(run_loss(w));
    CPS_TRY(take_values(w, result));
    CPS_TRY(run_backward(w, wanted->only));
    return take_gradients(w, wanted);
}

static cps_status open_work(work *w) {
    CPS_TRY(cps_arena_create("vectors", (size_t)1 << 20, true, &w->arena));
    CPS_TRY(cps_tape_create(w->arena, CPS_TAPE_RECORD, cps_host_table(), &w->tape));
    cps_tape_set_comm(w->tape, the_engine.comm);
    return CPS_OK;
}

static void close_work(work *w) {
    cps_tape_destroy(w->tape);
    cps_arena_destroy(w->arena);
    engine_close(w->t);
}

/* Most rows of another stream for each row of the clock, at least one: what a grain of the plan
 * reads. */
static int64_t other_rows(const objective_loss *wanted) {
    int64_t most = 1;
    for (int32_t i = 0; i < wanted->slot_count; i++) {
        most = cps_max_i64(most, cps_ceil_div(wanted->slots[i].rows, wanted->slots[0].rows));
    }
    return most;
}

cps_status objective_run_loss(const objective_loss *wanted, objective_result *result_out) {
    start_engine();
    const int64_t rows = wanted->slot_count > 0 ? wanted->slots[0].rows : 0;
    const int32_t ranks = cps_comm_size(the_engine.comm), rank = cps_comm_rank(the_engine.comm);
    if (rows < ranks || rows > MOST_ROWS || ranks > VECTORS_MOST_RANKS) {
        return cps_fail(CPS_ERR_DATA, "%lld rows, wanted are %d to %d for as many ranks",
                        (long long)rows, ranks, MOST_ROWS);
    }
    char *shard = NULL;
    CPS_TRY(make_shard(rows * other_rows(wanted), one_class, &shard));
    const job j = {.objective = wanted->name,
                   .options = wanted->options,
                   .shard = shard,
                   .embed_dim = wanted->embed_dim,
                   .width = 8,
                   .batch = rows,
                   .other_rows = other_rows(wanted)};
    trial t;
    work w = {.t = &t, .parts = cps_min_i64(rows, MOST_PARTS)};
    w.first_part = cps_part_first(w.parts, ranks, rank);
    w.last_part = cps_part_first(w.parts, ranks, rank + 1);
    cps_status status = engine_open_text(job_text(&j), &t);
    free(shard);
    status = status != CPS_OK ? status : open_work(&w);
    status = status != CPS_OK ? status : compute(&w, wanted, result_out);
    close_work(&w);
    return status;
}

/* ---- losses of grains ---- */

/* One grain of a loss at work. */
typedef struct grain_work {
    trial *t;
    cps_arena *arena;
    const objective_grain_loss *wanted;
    cps_grain grain;
    int64_t first, last; /* rows */
    double *sums;
} grain_work;

static const objective_rows *find_annotation(const objective_grain_loss *wanted, const char *name) {
    for (int32_t i = 0; i < wanted->annotation_count; i++) {
        if (strcmp(wanted->annotations[i].name, name) == 0) {
            return &wanted->annotations[i];
        }
    }
    return NULL;
}

static cps_status bind_annotations(grain_work *g, cps_tape *tape) {
    for (int32_t a = 0; a < g->t->plan->annotation_count; a++) {
        const cps_annotation *annotation = &g->t->plan->annotations[a].annotation;
        const objective_rows *rows = find_annotation(g->wanted, annotation->name);
        if (rows == NULL || rows->width != annotation->width) {
            return cps_fail(CPS_ERR_INTERNAL,
                            "'%s' annotates rows of %lld values as '%s', the file has %lld",
                            g->wanted->name, (long long)annotation->width, annotation->name,
                            (long long)(rows == NULL ? 0 : rows->width));
        }
        const int64_t shape[2] = {g->last - g->first, rows->width};
        void *values = convert(g->arena, annotation->dtype, rows->values + g->first * rows->width,
                               shape[0] * shape[1]);
        if (values == NULL) {
            return CPS_ERR_UNAVAILABLE;
        }
        g->grain.annotations[a] =
            cps_tape_leaf(tape, annotation->dtype, 2, shape, values, NULL, -1);
    }
    return cps_tape_status(tape);
}

/* The grain object over rows [first, last) of the file, with the pooled rows as a leaf. */
static cps_status begin_grain(grain_work *g, cps_tape *tape, int64_t grain, const double *counts,
                              cps_tensor **pooled_out) {
    const objective_rows *rows = &g->wanted->pooled;
    g->first = grain * rows->rows / g->wanted->grains;
    g->last = (grain + 1) * rows->rows / g->wanted->grains;
    g->grain =
        (cps_grain){.host = cps_host_table(),
                    .plan = g->t->plan,
                    .tape = tape,
                    .info = {.steps = 1, .grain = grain, .grains = g->wanted->grains, .seed = 3},
                    .sums = g->sums,
                    .counts = counts};
    const int64_t shape[2] = {g->last - g->first, rows->width}, count = shape[0] * shape[1];
    cps_real *grad = cps_arena_alloc_zero(g->arena, (size_t)(count + 1) * sizeof *grad);
    void *values = convert(g->arena, CPS_REAL, rows->values + g->first * rows->width, count);
    if (grad == NULL || values == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    *pooled_out = cps_tape_leaf(tape, CPS_REAL, 2, shape, values, grad, -1);
    if (*pooled_out == NULL) {
        return cps_tape_status(tape);
    }
    (*pooled_out)->grad_fresh = true;
    for (int32_t v = 0; v < g->t->plan->view_count; v++) {
        g->grain.views[v].rows = shape[0];
        g->grain.views[v].first_row = g->first;
        g->grain.views[v].outputs[cps_output_index(CPS_POOLED)] = *pooled_out;
    }
    return bind_annotations(g, tape);
}

static cps_status run_grain(grain_work *g, cps_tape *tape) {
    const cps_instance *instance = &g->t->plan->instances[0];
    cps_real weights[CPS_STAGE_TERMS];
    if (instance->objective->head != NULL) {
        CPS_TRY(instance->objective->head(instance->self, &g->grain, tape));
    }
    CPS_TRY(instance->objective->grain_loss(instance->self, &g->grain, tape));
    CPS_TRY(cps_service_status(g->grain.status, g->grain.message));
    CPS_TRY(cps_tape_status(tape));
    for (int32_t i = 0; i < g->t->plan->term_count; i++) {
        cps_tensor *term = g->grain.terms[i];
        if (term != NULL && term->needs_grad) {
            weights[i] = (cps_real)g->t->plan->terms[i].weight;
            cps_tape_seed(tape, term, &weights[i]);
        }
    }
    return cps_backward(tape, NULL, 0.0);
}

static cps_status open_tape(const grain_work *g, cps_tape **tape_out) {
    return cps_tape_create(g->arena, CPS_TAPE_RECORD, cps_host_table(), tape_out);
}

/* counts += what `prepare` says of a grain. */
static cps_status count_grain(grain_work *g, int64_t grain, double *counts) {
    const cps_instance *instance = &g->t->plan->instances[0];
    cps_tape *tape = NULL;
    cps_tensor *pooled = NULL;
    double *own = cps_arena_alloc_zero(g->arena, (size_t)(instance->count_count + 1) * sizeof *own);
    CPS_TRY(open_tape(g, &tape));
    cps_status status = begin_grain(g, tape, grain, NULL, &pooled);
    if (status == CPS_OK && own != NULL && instance->objective->prepare != NULL) {
        status = instance->objective->prepare(instance->self, &g->grain, own);
        status = status != CPS_OK ? status : cps_service_status(g->grain.status, g->grain.message);
    }
    for (int64_t i = 0; i < instance->count_count && status == CPS_OK; i++) {
        counts[instance->count_at + i] += own[i];
    }
    cps_tape_destroy(tape);
    return status;
}

static cps_status compute_grain(grain_work *g, int64_t grain, const double *counts) {
    cps_tape *tape = NULL;
    cps_tensor *pooled = NULL;
    CPS_TRY(open_tape(g, &tape));
    cps_status status = begin_grain(g, tape, grain, counts, &pooled);
    status = status != CPS_OK ? status : run_grain(g, tape);
    const objective_rows *rows = &g->wanted->pooled;
    for (int64_t i = 0; status == CPS_OK && i < (g->last - g->first) * rows->width; i++) {
        rows->grad[g->first * rows->width + i] = pooled->grad_fresh ? 0.0 : (double)pooled->grad[i];
    }
    cps_tape_destroy(tape);
    return status;
}

/* Places for the gradients of what learns; nothing has arrived there yet. */
static cps_status begin_gradients(const grain_work *g) {
    cps_params *params = cps_model_params(g->t->run->model);
    cps_real *flat =
        cps_arena_alloc_zero(g->arena, (size_t)cps_params_flat_count(params) * sizeof *flat);
    if (flat == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    for (int32_t i = 0; i < cps_params_count(params); i++) {
        cps_param *param = cps_params_at(params, i);
        param->tensor.grad = param->learns ? flat + param->offset : NULL;
        param->tensor.grad_fresh = param->learns;
    }
    return CPS_OK;
}

static void take_grain_results(const grain_work *g, objective_result *result) {
    const cps_stage_plan *plan = g->t->plan;
    *result = (objective_result){0};
    for (int32_t i = 0; i < plan->term_count; i++) {
        const cps_stage_term *term = &plan->terms[i];
        const double *sums = g->sums + term->at;
        add_value(result, term->name,
                  !term->is_report ? sums[0]
                  : sums[1] != 0.0 ? sums[0] / sums[1]
                                   : 0.0,
                  term->is_report ? 0.0 : term->weight);
    }
    for (int32_t i = 0; i < g->wanted->parameter_count; i++) {
        const objective_parameter *given = &g->wanted->parameters[i];
        const cps_param *param = find_param(g->t, given->name);
        for (int64_t k = 0; k < given->count && given->grad != NULL; k++) {
            given->grad[k] = param->tensor.grad == NULL || param->tensor.grad_fresh
                                 ? 0.0
                                 : (double)param->tensor.grad[k];
        }
    }
}

static cps_status compute_grains(grain_work *g, objective_result *result) {
    const cps_stage_plan *plan = g->t->plan;
    double *counts =
        cps_arena_alloc_zero(g->arena, (size_t)(plan->count_width + 1) * sizeof *counts);
    g->sums = cps_arena_alloc_zero(g->arena, (size_t)(plan->sum_width + 1) * sizeof *g->sums);
    if (counts == NULL || g->sums == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    CPS_TRY(set_parameters(g->t, g->wanted->parameters, g->wanted->parameter_count));
    CPS_TRY(begin_gradients(g));
    for (int64_t i = 0; i < g->wanted->grains; i++) {
        CPS_TRY(count_grain(g, i, counts));
    }
    for (int64_t i = 0; i < g->wanted->grains; i++) {
        CPS_TRY(compute_grain(g, i, counts));
    }
    take_grain_results(g, result);
    return CPS_OK;
}

cps_status objective_run_grain_loss(const objective_grain_loss *wanted,
                                    objective_result *result_out) {
    start_engine();
    for (int32_t r = 0; r < RANKS; r++) {
        const int64_t least = r == 0 ? 1 : wanted->class_counts[r - 1];
        if (wanted->class_counts[r] < least || wanted->class_counts[r] > MOST_CLASSES) {
            return cps_fail(CPS_ERR_DATA,
                            "%lld classes at rank '%s', wanted are %lld (of the rank above) to %d",
                            (long long)wanted->class_counts[r], rank_names[r], (long long)least,
                            MOST_CLASSES);
        }
    }
    char *shard = NULL;
    CPS_TRY(make_shard(wanted->class_counts[RANKS - 1], wanted->class_counts, &shard));
    const job j = {.objective = wanted->name,
                   .options = wanted->options,
                   .shard = shard,
                   .embed_dim = 8,
                   .width = wanted->pooled.width,
                   .batch = 1,
                   .other_rows = 1};
    trial t;
    grain_work g = {.t = &t, .wanted = wanted};
    cps_status status = engine_open_text(job_text(&j), &t);
    free(shard);
    status =
        status != CPS_OK ? status : cps_arena_create("vectors", (size_t)1 << 20, true, &g.arena);
    status = status != CPS_OK ? status : compute_grains(&g, result_out);
    cps_arena_destroy(g.arena);
    engine_close(&t);
    return status;
}
