/* copse_objective.h: everything an objective plugin sees. Builds with libc alone.
 *
 * An objective is a table of functions in a shared object. The object exports one symbol,
 *     const cps_plugin_info *cps_plugin(const cps_host *host);
 * and is linked against nothing of Copse: operations and services are functions of the host's
 * table, which every object the host hands out (tape, setup, grain, ...) carries as its first
 * member; the inlines below find it there. No globals, no MPI, no files, no printing. An instance
 * (`self`) is immutable after `create`; what changes lives in parameters and buffers.
 *
 * The order of a step as an objective sees it:
 *   caption, annotate   per sample, on loader threads, reentrant
 *   prepare             per grain; its counts are summed canonically over the global batch
 *   head, grain_loss    per grain, on the grain's tape (again in a replay: same draws, same bits)
 *   loss                once, on the rows that heads emitted; operations there may be collective
 *   commit              once, with the update (a skipped step commits nothing)
 * What an objective computes depends on the grain and the step alone, never on the number of ranks.
 * A guide with a complete example: plugins/README.md. */
#ifndef COPSE_OBJECTIVE_H
#define COPSE_OBJECTIVE_H

#include "base/types.h"
#include "tensor/op_types.h"

/* Grows by one on any change of layout or meaning. */
#define CPS_ABI 2

typedef struct cps_host cps_host;
typedef struct cps_tape cps_tape;   /* a recording of operations */
typedef struct cps_setup cps_setup; /* collects what an objective wants, during `create` */
typedef struct cps_record_ref cps_record_ref; /* one stored entry, on a loader thread */
typedef struct cps_grain cps_grain;   /* a micro-batch: tower outputs, annotations, parameters */
typedef struct cps_global cps_global; /* the global batch, in `loss` and `commit` */
typedef struct cps_fit cps_fit;       /* blocks and sums of `fit` and `finish` */
typedef struct cps_embed cps_embed;   /* tower outputs in an evaluation */

/* ---- what an objective declares in `create`
 * --------------------------------------------------------------------------- */

/* Outputs of a tower, a mask. B rows are samples; rows are the positions of all sequences. */
enum {
    CPS_POOLED = 1,    /* [B, width]        final norm of the class or end position, unprojected */
    CPS_PROJECTED = 2, /* [B, embed_dim]    raw */
    CPS_FEATURE = 4,   /* [B, embed_dim]    unit norm */
    CPS_TOKENS = 8,    /* [rows, width]     every position, final norm applied */
    CPS_TOKENS_PROJECTED = 16 /* [rows, embed_dim] the same times the tower's projection */
};

typedef enum cps_view_mode {
    CPS_VIEW_GRADIENT,    /* on the grain's tape */
    CPS_VIEW_NO_GRADIENT, /* computed each step without a tape (EMA teacher) */
    CPS_VIEW_FROZEN /* the tower does not learn and nothing is augmented: computed once before the
                       stage and cached */
} cps_view_mode;

/* What a record must have for a view to read it; others are left out of the stream at start, for
 * all of its views, and counted in a message. */
typedef enum cps_needs {
    CPS_NEEDS_DEFAULT, /* a text view: a caption; an image view: nothing */
    CPS_NEEDS_TAXON /* the name of an organism: texts of cps_taxon_text, classes "taxonomy:..." */
} cps_needs;

/* One tower application each step. Views equal in everything but name, needs and outputs are
 * computed once, outputs united; a text view without tokens also beside one of all positions. */
typedef struct cps_view {
    const char *name;  /* for messages: "image", "local.3" */
    const char *tower; /* a tower of the model */
    const char *group; /* call group: views of one tower, mode and size in equal groups are one call
                        * per grain, rows view after view; NULL: a call of its own */
    const char *stream; /* where the samples come from; the stream of an objective's first view is
                           its clock */
    int64_t fixed_text_count; /* > 0: K fixed texts in place of a stream: grain k of G encodes rows
                                 floor(kK/G) .. floor((k+1)K/G)-1 */
    const char *const *fixed_texts; /* copied */
    const cps_recipe *recipe;       /* image: augmentation; NULL: the stage's own */
    int32_t crop;                   /* image: number of the crop; keys its draws */
    cps_view_mode mode;
    cps_needs needs;
    bool evaluation;    /* evaluation preprocessing in place of a recipe, no drop path */
    bool all_positions; /* text: every position of the context, padding 0; else packed up to the end
                           token */
    uint32_t outputs;
} cps_view;

typedef enum cps_fill {
    CPS_FILL_ZERO,
    CPS_FILL_CONSTANT,
    CPS_FILL_NORMAL,
    CPS_FILL_UNIFORM,
    CPS_FILL_COPY
} cps_fill;

/* A parameter (learns) or a buffer (moved by commit, fit and finish alone). Initial values are used
 * only where neither weights nor an earlier stage gave one. Equal names in a composition are one
 * parameter; they must be declared alike. */
typedef struct cps_parameter {
    const char *name; /* in the model and in checkpoints */
    int32_t rank;
    int64_t shape[CPS_MAX_DIMS];
    cps_fill fill;
    double a, b;         /* CONSTANT a; NORMAL standard deviation a; UNIFORM [a, b) */
    const char *copy_of; /* COPY: another parameter's name */
    bool decay;          /* weight decay applies */
    bool bounded;        /* kept in [minimum, maximum] after every update */
    double minimum, maximum;
    int64_t frozen_steps; /* its gradient counts as absent in the first so many data steps of the
                             stage */
} cps_parameter;

/* A fixed row of numbers per sample, made on loader threads. */
typedef struct cps_annotation {
    const char *name;
    const char *stream;
    int32_t text_view; /* the text view whose text `annotate` is given; -1: none */
    cps_dtype dtype;   /* REAL, I32 or I64 */
    int64_t width;     /* elements a row */
} cps_annotation;

/* Classes of a stream; `lookup` is the host's, for cps_record_class. */
typedef struct cps_classes {
    int64_t count;
    const char *const *names;
    const void *lookup;
} cps_classes;

typedef struct cps_step_info {
    int64_t step, steps;   /* data step in the stage from 0, and their number; of a record in a
                              validation: number of its batch */
    int64_t epoch, update; /* of the clock stream; updates of the stage so far */
    int64_t grain, grains; /* of this step; grain is -1 in loss and commit */
    uint64_t seed;
    bool evaluation; /* validation loss: no dropout, running statistics */
    bool replay;     /* a forward seen before: accumulate and report do nothing */
} cps_step_info;

/* ---- the table
 * ---------------------------------------------------------------------------------------------------------
 */
typedef enum cps_fit_verdict { CPS_FIT_DONE, CPS_FIT_AGAIN, CPS_FIT_END_STAGE } cps_fit_verdict;

/* NULL functions are parts an objective does not have. A status other than CPS_OK says why with
 * cps_error. */
typedef struct cps_objective {
    const char *name; /* "clip", "bioclip.ce" */
    const char *help; /* one sentence */
    const cps_option
        *options; /* rows over a struct of options_bytes, ending with a NULL name; NULL: none */
    size_t options_bytes;
    cps_status (*create)(cps_setup *setup, const void *options,
                         void **self_out); /* options outlive the instance */
    void (*destroy)(void *self);
    /* Loader threads. caption: give the text of text view `view` with cps_record_give (NULL:
     * cps_record_caption). annotate: fill the row of annotation `annotation`;
     * text may be NULL. */
    cps_status (*caption)(const void *self, const cps_record_ref *record, int32_t view);
    cps_status (*annotate)(const void *self, const cps_record_ref *record, int32_t annotation,
                           const char *text, void *row_out);
    /* counts: as many as cps_setup_counts asked for, zeroed; this grain's share. */
    cps_status (*prepare)(const void *self, const cps_grain *grain, double *counts);
    cps_status (*head)(const void *self, cps_grain *grain, cps_tape *tape);
    cps_status (*grain_loss)(const void *self, cps_grain *grain, cps_tape *tape);
    cps_status (*loss)(const void *self, cps_global *global, cps_tape *tape);
    cps_status (*commit)(const void *self, cps_global *global);
    /* block: up to 1,024 samples of the frozen views in stored order; partial: zeroed, added in the
     * canonical tree. */
    cps_status (*fit_block)(const void *self, const cps_fit *fit, double *partial);
    cps_status (*fit_solve)(const void *self, cps_fit *fit, const double *sums,
                            cps_fit_verdict *verdict_out);
    cps_status (*finish_block)(const void *self, const cps_fit *fit, double *partial);
    cps_status (*finish_solve)(const void *self, cps_fit *fit, const double *sums,
                               cps_fit_verdict *verdict_out);
    /* Evaluation, on a tape that does not record. prepare_embed: once an evaluation. */
    cps_status (*prepare_embed)(const void *self, cps_embed *embed, cps_tape *tape);
    cps_status (*embed)(const void *self, cps_embed *embed, cps_tape *tape);
} cps_objective;

typedef struct cps_plugin_info {
    uint32_t abi;             /* CPS_ABI */
    uint32_t objective_bytes; /* sizeof(cps_objective) */
    uint32_t host_bytes;      /* sizeof(cps_host) */
    uint32_t real_bytes;      /* sizeof(cps_real) */
    const cps_objective *objectives;
    int32_t objective_count;
} cps_plugin_info;
#define CPS_PLUGIN_INFO(table)                                                                     \
    {                                                                                              \
        CPS_ABI, sizeof(cps_objective), sizeof(cps_host), sizeof(cps_real), (table),               \
            (int32_t)(sizeof(table) / sizeof((table)[0]))                                          \
    }
typedef const cps_plugin_info *(*cps_plugin_entry)(const cps_host *host);
#if defined(__GNUC__)
#define CPS_EXPORT __attribute__((visibility("default")))
#else
#define CPS_EXPORT
#endif

enum { CPS_SIDE_IMAGE = 0, CPS_SIDE_TEXT = 1 };

/* ---- the host
 * ----------------------------------------------------------------------------------------------------------
 */
#ifdef CPS_RUNTIME
#include "tensor/tape.h"
#else
typedef struct cps_node cps_node;
typedef cps_status (*cps_backward_fn)(cps_tape *tape, const cps_node *node);
enum { CPS_NODE_MAX = 8 };
/* One recorded operation of a plugin's own, for cps_tape_record. Equal to the engine's. */
struct cps_node {
    cps_backward_fn backward; /* reads cps_node_grad(output), writes cps_grad_target(input) */
    const char *name;
    int32_t output_count, input_count;
    cps_tensor *outputs[CPS_NODE_MAX];
    cps_tensor *inputs[CPS_NODE_MAX];
    void *saved;          /* from cps_tape_save */
    size_t scratch_bytes; /* what `backward` takes with cps_tape_save at its peak */
};
#endif

struct cps_host {
    uint32_t abi;
    uint32_t bytes; /* sizeof(cps_host) */
    cps_status (*fail)(cps_status code, const char *format, ...) CPS_PRINTF(2, 3);
    void (*warn_once)(const char *message);
    uint32_t (*name_key)(const char *name);
    uint32_t (*draw_u32)(const cps_draw_key *key, uint64_t index);
    double (*draw_uniform)(const cps_draw_key *key, uint64_t index); /* [0, 1) */
    double (*draw_normal)(const cps_draw_key *key, uint64_t index);
    uint64_t (*draw_below)(const cps_draw_key *key, uint64_t index, uint64_t n);
    uint64_t (*hash64)(const void *bytes, size_t length);
    /* The first `count` outputs of MT19937 seeded by `words` (init_by_array): draws of published
     * code. */
    void (*mt19937)(const uint32_t *words, int64_t word_count, int64_t count, uint32_t *out);
    char *(*utf8_lower)(const char *text); /* free() the result */
    char *(*utf8_upper)(const char *text);
    bool (*utf8_is_word)(int32_t code_point);
#define CPS_OP(result, name, parameters, arguments) result(*name) parameters;
#include "tensor/ops.inc"
#undef CPS_OP
#define CPS_SERVICE(result, name, parameters, object, arguments) result(*name) parameters;
#define CPS_SERVICE_VOID(name, parameters, object, arguments) void(*name) parameters;
#include "plugin/services.inc"
#undef CPS_SERVICE
#undef CPS_SERVICE_VOID
};

/* ---- what plugin code calls: cps_<operation> of tensor/ops.inc, cps_<service> of
 * plugin/services.inc, and these ----------- */
/* The host behind any object of it: cps_host_of(grain)->draw_uniform(&key, 0). */
static inline const cps_host *cps_host_of(const void *object) {
    return *(const cps_host *const *)object;
}
/* Says why something failed and gives `code`: what happened, the value seen, the value wanted, what
 * to do. */
#define cps_error(object, code, ...) (cps_host_of(object)->fail((code), __VA_ARGS__))
/* Shows a warning on rank 0, each text once a run. */
#define cps_warn_once(object, message) (cps_host_of(object)->warn_once(message))

#ifndef CPS_RUNTIME
#define CPS_OP(result, name, parameters, arguments)                                                \
    static inline result cps_##name parameters {                                                   \
        return cps_host_of(tape)->name arguments;                                                  \
    }
#include "tensor/ops.inc"
#undef CPS_OP
#define CPS_SERVICE(result, name, parameters, object, arguments)                                   \
    static inline result cps_##name parameters {                                                   \
        return cps_host_of(object)->name arguments;                                                \
    }
#define CPS_SERVICE_VOID(name, parameters, object, arguments)                                      \
    static inline void cps_##name parameters {                                                     \
        cps_host_of(object)->name arguments;                                                       \
    }
#include "plugin/services.inc"
#undef CPS_SERVICE
#undef CPS_SERVICE_VOID
#endif

#endif
