/* A stage as planned: objective instances and everything they asked for, united: tower calls,
 * loader inputs, slots of the loss, sums of a step. Built once before training for every stage of a
 * job (so that all errors come first), the same on every rank. Private to train/. The objects that
 * plugins hold (setup, grain, global, embed, record) are defined here; their services are in
 * setup.c, grain.c, global.c, embed.c and record.c; host.c is the table. */
#ifndef CPS_TRAIN_STAGE_H
#define CPS_TRAIN_STAGE_H

#include "data/batch.h"
#include "model/model.h"
#include "plugin/loader.h"
#include "shards/taxon.h"
#include "train/config.h"

enum {
    CPS_STAGE_VIEWS = 64,
    CPS_CALL_VIEWS = CPS_STAGE_VIEWS,
    CPS_INSTANCE_IDS = 512, /* parameters and buffers of one instance */
    CPS_STAGE_SLOTS = 64,
    CPS_STAGE_TERMS = 64,
    CPS_STAGE_EMAS = 16,
    CPS_STREAM_NEEDS = (CPS_RECORD_CAPTION | CPS_RECORD_TAXON) + 1,
    CPS_OUTPUT_KINDS =
        5 /* of a tower: pooled, projected, feature, tokens, tokens_projected: bit i of the mask */
};

typedef struct cps_frozen cps_frozen;

/* A stream of the job, opened once a run. */
typedef struct cps_run_stream {
    const char *name;
    cps_stream *stream;                     /* every record */
    cps_stream *narrowed[CPS_STREAM_NEEDS]; /* by mask of needs: records that have all of them; made
                                               when first wanted; [0] is not used */
} cps_run_stream;

/* A stream as the stage reads it. */
typedef struct cps_stage_stream {
    int32_t run_stream;
    const char *name;
    const cps_stream *stream;
    int64_t rows;   /* a grain */
    uint32_t needs; /* of its views (data/stream.h): records that lack one are left out */
} cps_stage_stream;

typedef struct cps_texts {
    int64_t count;
    int32_t *ids, *offsets, *ends; /* packed; [count + 1]; end position in its row */
} cps_texts;

typedef struct cps_stage_view {
    cps_view view; /* strings owned by the stage's arena; outputs united */
    cps_tower *tower;
    bool text;
    int32_t stream; /* of the stage; -1: fixed texts */
    int32_t call;
    int32_t input; /* of the loader; -1: fixed texts */
    int32_t owner; /* instance that asked first: its caption function counts */
    int32_t owner_id;
    cps_texts fixed;
    cps_recipe recipe;
} cps_stage_view;

/* One tower application of a grain: rows of its views, view after view. */
typedef struct cps_stage_call {
    cps_tower *tower;
    bool text;
    cps_view_mode mode;
    const char *group;
    int32_t view_count;
    int32_t views[CPS_CALL_VIEWS];
    uint32_t outputs;
    int64_t size; /* image: side in pixels */
    bool evaluation;
    int64_t moments_at; /* batch norm statistics of the call in a grain's row of sums; -1: none */
} cps_stage_call;

typedef struct cps_stage_annotation {
    cps_annotation annotation;
    int32_t owner, owner_id; /* instance, its id there */
    int32_t stream, input;
} cps_stage_annotation;

/* Rows that heads emit and the loss reads. */
typedef struct cps_stage_slot {
    const char *name;
    int32_t owner, view;
    cps_dtype dtype;
    int32_t rank;
    int64_t shape[CPS_MAX_DIMS]; /* [0] is not used */
    int64_t width;               /* elements a row */
    bool needs_grad;
} cps_stage_slot;

/* A number that grains add up: loss terms, reports, buffers. `at`: its first double in a grain's
 * row of sums. */
typedef struct cps_stage_term {
    char name[64];
    int32_t owner;
    int64_t at;
    double weight;  /* of a loss term, instance's weight included; reports: 0 */
    bool is_report; /* two doubles: sum and weight */
} cps_stage_term;

typedef struct cps_stage_buffer {
    int32_t owner, param;
    int64_t partial_count, at;
} cps_stage_buffer;

typedef struct cps_stage_ema {
    int32_t param; /* of the model; its description names the source */
    cps_numbers momentum;
} cps_stage_ema;

/* A parameter whose gradient is absent in the first steps. */
typedef struct cps_stage_hold {
    int32_t param;
    int64_t steps;
} cps_stage_hold;

/* A class list that an objective asked for. */
typedef struct cps_stage_classes {
    const char *stream, *key;
    cps_classes classes;
} cps_stage_classes;

/* The first record of each lineage of a stream, as its ranks stand, in stored order. */
typedef struct cps_stage_lineages {
    const cps_stream *of; /* NULL: not looked for yet */
    int64_t count;
    const int64_t *first;
} cps_stage_lineages;

/* Decay and bounds of a parameter are a stage's: set at its begin. */
typedef struct cps_stage_rule {
    int32_t param;
    bool decay, bounded;
    double minimum, maximum;
} cps_stage_rule;

typedef struct cps_side {
    bool wanted;
    cps_tower *tower;
    uint32_t outputs;
    bool all_positions;
    bool has_first; /* the rest: enough for the first component */
    uint32_t first_outputs;
    bool first_all_positions;
} cps_side;

typedef struct cps_instance {
    const cps_objective *objective;
    const char *name;
    double weight;
    void *options, *self;
    int32_t view_count, param_count, annotation_count;
    int32_t views[CPS_STAGE_VIEWS];       /* id -> view of the stage */
    int32_t params[CPS_INSTANCE_IDS];     /* id -> parameter of the model */
    int32_t buffers[CPS_INSTANCE_IDS];    /* id -> buffer of the stage, -1: a parameter */
    int32_t annotations[CPS_STAGE_VIEWS]; /* id -> annotation of the stage */
    int64_t count_at, count_count;        /* in the row of counts */
    int64_t fit_partials, finish_partials;
    cps_side sides[2];
} cps_instance;

typedef struct cps_stage_plan {
    const cps_host *host;
    struct cps_comm *comm; /* the loss's plan sizes some arrays by it */
    int32_t index;
    cps_stage_options options;
    cps_arena *arena;
    cps_model *model;
    const cps_tokenizer *tokenizer;
    int64_t context;
    uint64_t seed;
    int64_t parts;  /* most parts of a global batch */
    int64_t grains; /* of a full step */
    int64_t steps, steps_per_epoch;
    double *lr, *weight_decay; /* [steps] */

    int32_t instance_count;
    cps_instance *instances;
    int32_t embed_instance;

    int32_t run_stream_count;
    cps_run_stream *run_streams; /* the run's */
    int32_t stream_count;
    cps_stage_stream streams[CPS_STAGE_VIEWS]; /* [0] is the clock */
    int32_t view_count;
    cps_stage_view views[CPS_STAGE_VIEWS];
    int32_t call_count;
    cps_stage_call calls[CPS_STAGE_VIEWS];
    int32_t annotation_count;
    cps_stage_annotation annotations[CPS_STAGE_VIEWS];
    int32_t input_count;
    cps_input_spec inputs[2 * CPS_STAGE_VIEWS];

    int32_t slot_count;
    cps_stage_slot slots[CPS_STAGE_SLOTS];
    int32_t term_count;
    cps_stage_term terms[CPS_STAGE_TERMS];
    int32_t buffer_count;
    cps_stage_buffer buffers[CPS_STAGE_TERMS];
    int64_t count_width; /* doubles of `prepare` */
    int64_t sum_width;   /* doubles a grain adds up */
    int32_t rule_count;
    cps_stage_rule rules[CPS_INSTANCE_IDS];
    int64_t wanted_skipped; /* an objective's wish for max_skipped_steps; -1: none */
    int32_t hold_count;
    cps_stage_hold holds[CPS_INSTANCE_IDS];
    int32_t ema_count;
    cps_stage_ema emas[CPS_STAGE_EMAS * 512];
    int32_t class_list_count;
    cps_stage_classes class_lists[CPS_STAGE_VIEWS];
    cps_stage_lineages lineages;
    bool has_loss, has_grain_loss, has_fit, has_finish;
    bool validation; /* of a validation set: batches in stored order */
    /* Features of the frozen views while the stage runs (train/frozen.h); borrowed, NULL before. */
    const cps_frozen *frozen;
} cps_stage_plan;

/* What the planner is given; pointers are borrowed for the plan's life. */
typedef struct cps_stage_context {
    struct cps_comm *comm;
    cps_model *model;
    const cps_tokenizer *tokenizer; /* may be NULL without text views */
    const cps_plugins *plugins;
    cps_run_stream *streams;
    int32_t stream_count;
    uint64_t seed;
    int64_t parts;
    int32_t index;
    int32_t first_param;     /* parameters before it are of the towers and earlier stages: they have
                                their initial values */
    int64_t text_context;    /* positions of a text */
    int64_t steps_per_epoch; /* of the clock; 0 on the first, trial creation */
    int64_t steps;   /* of the stage; 0 on the first, trial creation, which finds them out */
    bool validation; /* frozen views are computed in every step, not taken from a cache */
    const cps_stage_plan *like; /* class lists are those of this plan (a validation set may lack
                                   classes); NULL: of the streams */
    /* Makes the stream of a run stream's records that have all of `needs` (not 0). */
    cps_status (*narrow)(void *context, int32_t run_stream, uint32_t needs,
                         const cps_stream **stream_out);
    void *context;
} cps_stage_context;

/* Creates the instances (declaring their parameters in the model) and unites what they want. USAGE
 * with the key path. Local and deterministic: every rank does the same. Steps follow from the clock
 * stream, which the objectives choose, while schedules of options want the steps: so a stage is
 * created on trial first (functions tabulated over one step), for its steps, then for good. */
cps_status cps_stage_plan_create(const cps_stage_options *options, const cps_stage_context *context,
                                 cps_arena *arena, cps_stage_plan **plan_out) CPS_MUST_CHECK;
void cps_stage_plan_destroy(cps_stage_plan *plan);
/* Rows a grain of stream `name`: options.rows or the grain. */
int64_t cps_stage_stream_rows(const cps_stage_options *options, const char *name);
/* What records lack that miss one of `needs`, for messages. */
const char *cps_needs_words(uint32_t needs);

/* ---- the objects that plugins hold; first member: the host
 * --------------------------------------------------------------- */
struct cps_setup {
    const cps_host *host;
    cps_stage_plan *plan;
    const cps_stage_context *context;
    int32_t owner;
    cps_status status; /* first failure; its message is kept */
    char message[1024];
};

struct cps_record_ref {
    const cps_host *host;
    const cps_sample *sample;
    const cps_stage_plan *plan;
    int32_t stream;
    cps_text *text_out; /* caption; else NULL */
    cps_taxon *taxon;   /* its names cleaned, once some service asked; NULL: no organism */
    bool taxon_made;
    cps_status status;
};

typedef struct cps_view_rows {
    cps_tensor *outputs[CPS_OUTPUT_KINDS];
    const int32_t *offsets, *ends; /* of token outputs */
    int64_t rows, first_row;
} cps_view_rows;

struct cps_grain {
    const cps_host *host;
    cps_stage_plan *plan;
    int32_t owner; /* instance at work */
    cps_tape *tape;
    const cps_batch *batch;
    cps_step_info info;
    cps_view_rows views[CPS_STAGE_VIEWS];
    cps_tensor *annotations[CPS_STAGE_VIEWS];
    cps_tensor *emitted[CPS_STAGE_SLOTS];
    cps_tensor *terms[CPS_STAGE_TERMS]; /* loss terms of this grain, by term */
    double *sums;                       /* [sum_width]; NULL in a replay */
    const double *counts;               /* [count_width] */
    cps_status status;
    char message[1024];
};

struct cps_global {
    const cps_host *host;
    cps_stage_plan *plan;
    int32_t owner;
    cps_tape *tape;
    cps_step_info info;
    cps_tensor *slots[CPS_STAGE_SLOTS];
    cps_tensor
        *params[CPS_INSTANCE_IDS]; /* leaves by the model's parameter that `loss` asked for */
    int32_t param_index[CPS_INSTANCE_IDS];
    int32_t param_count;
    cps_tensor *terms[CPS_STAGE_TERMS];
    char term_names[CPS_STAGE_TERMS][64];
    double term_weights[CPS_STAGE_TERMS];
    int32_t term_count;
    char report_names[CPS_STAGE_TERMS][64];
    double report_values[CPS_STAGE_TERMS];
    int32_t report_count;
    const double *counts, *sums;
    cps_status status;
    char message[1024];
};

/* Keeps the first failure of a service call in (status, message) and leaves it on record. */
cps_status cps_service_fail(cps_status *status, char message[1024], cps_status code,
                            const char *format, ...) CPS_PRINTF(4, 5);
/* The kept failure, put on record again; CPS_OK if none. */
cps_status cps_service_status(cps_status status, const char *message);

/* Whether a tensor holds one number, whatever its rank. */
bool cps_is_scalar(const cps_tensor *tensor);
/* Index 0..4 of one output bit; -1 if `output` is not exactly one. */
int32_t cps_output_index(uint32_t output);
/* Widths of an output of a tower. */
int64_t cps_output_width(const cps_tower *tower, uint32_t output);

/* The loader's callbacks for inputs of this plan. */
/* Ends the record's callback with this status when it returns: for services that have none. */
void cps_record_fail(const cps_record_ref *record, cps_status status);
/* The record's names, cleaned; NULL: it names no organism. The record keeps them. */
cps_status cps_record_taxon(const cps_record_ref *record, const cps_taxon **taxon_out);
cps_status cps_stage_caption(void *context, const cps_sample *sample, cps_text *text_out);
cps_status cps_stage_annotate(void *context, const cps_sample *sample, const char *text,
                              void *row_out);
typedef struct cps_input_context {
    cps_stage_plan *plan;
    int32_t index; /* view or annotation */
} cps_input_context;

/* The table lent to plugins. */
const cps_host *cps_host_table(void);

/* Every service as a function, for the table. */
#define CPS_SERVICE(result, name, parameters, object, arguments) result cps_serve_##name parameters;
#define CPS_SERVICE_VOID(name, parameters, object, arguments) void cps_serve_##name parameters;
#include "plugin/services.inc"
#undef CPS_SERVICE
#undef CPS_SERVICE_VOID

#endif
