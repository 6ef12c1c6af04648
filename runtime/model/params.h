/* Named parameters and buffers of a model: one flat master array, 64-byte padded tensors, cut into
 * chunks for the sharded update. Names equal open_clip's. Declare (add), then allocate; a later
 * stage may add more and allocate again. The same calls in the same order on every rank give the
 * same layout and, without offers, the same values. All calls are Local. A cps_param stays where it
 * is until destroy, so &cps_params_at(p, i)->tensor may be kept on tapes; its data moves with
 * cps_params_allocate. */
#ifndef CPS_MODEL_PARAMS_H
#define CPS_MODEL_PARAMS_H

#include "base/arena.h"
#include "base/status.h"

enum { CPS_CHUNK = 65536, CPS_NAME_MAX = 160 };

typedef enum cps_init_kind {
    CPS_INIT_ZERO,
    CPS_INIT_CONSTANT,
    CPS_INIT_NORMAL,
    CPS_INIT_UNIFORM,
    CPS_INIT_COPY
} cps_init_kind;
typedef struct cps_init {
    cps_init_kind kind;
    double a, b; /* CONSTANT: a; NORMAL: standard deviation a (mean 0); UNIFORM: low a, high b */
    const char *copy_of; /* COPY: name of another parameter */
} cps_init;

typedef enum cps_param_kind { CPS_PARAM_WEIGHT, CPS_PARAM_BUFFER, CPS_PARAM_EMA } cps_param_kind;

typedef struct cps_param_spec {
    const char *name;
    int32_t rank;
    int64_t shape[CPS_MAX_DIMS];
    cps_init init;
    cps_param_kind kind;
    bool decay; /* weight decay applies (default rule: cps_param_default_decay) */
    bool has_bounds;
    double minimum, maximum; /* after every update (logit scale) */
    const char *ema_of;      /* kind EMA: the source's name */
} cps_param_spec;

typedef struct cps_param {
    char name[CPS_NAME_MAX];
    cps_param_spec spec;   /* strings inside are owned here */
    int64_t offset, count; /* elements in the flat arrays */
    bool allocated;        /* tensor.data points into the flat array */
    bool loaded;           /* a value came from weights or an earlier stage: init is not applied */
    bool learns;           /* in the current stage */
    bool decays;       /* in the current stage: spec.decay, changed by cps_params_set_no_decay */
    double lr_factor;  /* in the current stage */
    int64_t updates;   /* per-tensor update count (bias correction) */
    cps_tensor tensor; /* data: the master; grad: where the current part's gradient goes, NULL when
                          it does not learn */
} cps_param;

typedef struct cps_params cps_params;

cps_status cps_params_create(cps_params **params_out) CPS_MUST_CHECK;
void cps_params_destroy(cps_params *params);
/* Adds a parameter, or returns the index of the equal one that is there; USAGE where shape, kind,
 * bounds or initial values differ (both named). Strings are copied. EMA copies get the initial
 * value "copy of ema_of". */
cps_status cps_params_add(cps_params *params, const cps_param_spec *spec,
                          int32_t *index_out) CPS_MUST_CHECK;
/* Allocates the flat array for what has been declared so far (existing values keep their bits and
 * offsets, the array may move) and gives new tensors their offered value, else their initial one
 * from (seed, name). Padding is zero. */
cps_status cps_params_allocate(cps_params *params, uint64_t seed) CPS_MUST_CHECK;
int32_t cps_params_count(const cps_params *params);
cps_param *cps_params_at(cps_params *params, int32_t index);
int32_t cps_params_find(const cps_params *params, const char *name); /* -1 */
cps_real *cps_params_flat(cps_params *params);
int64_t cps_params_flat_count(const cps_params *params); /* elements, padding included */
/* Rule of open_clip: decay unless fewer than two dimensions or the name holds bn, ln, bias or
 * logit_scale. */
bool cps_param_default_decay(const char *name, int32_t rank);
/* Sets `learns` (and tensor.needs_grad) by shell globs over names: '!' in front excludes, later
 * patterns win, none = all weights; a list that begins with an exclusion starts from all weights.
 * Buffers and EMA copies never learn. USAGE for a pattern that matches nothing. */
cps_status cps_params_set_train(cps_params *params, const char *const *patterns,
                                int64_t count) CPS_MUST_CHECK;
/* paused true: no tensor asks for a gradient until paused false, whatever learns. For plans of
 * passes without gradient (evaluation): a tape in PLAN mode takes what asks for a gradient as
 * recorded. */
void cps_params_pause(cps_params *params, bool paused);
/* Sets `lr_factor`: that of the first glob that matches, else 1. USAGE for a pattern that matches
 * nothing or a factor that is negative or not finite. */
cps_status cps_params_set_lr_factors(cps_params *params, const char *const *patterns,
                                     const double *factors, int64_t count) CPS_MUST_CHECK;
/* Sets `decays`: spec.decay, but false for names that match a pattern ('!' in front: true; later
 * patterns win). */
cps_status cps_params_set_no_decay(cps_params *params, const char *const *patterns,
                                   int64_t count) CPS_MUST_CHECK;
/* Number of parameters that learn in the current stage; *elements_out (may be NULL): their
 * elements. */
int32_t cps_params_learning(const cps_params *params, int64_t *elements_out);
/* Elements of all weights whose names match `glob` (no padding, no buffers, no EMA copies). */
int64_t cps_params_elements(const cps_params *params, const char *glob);
/* Bytes of the flat array that cps_params_allocate would hold now. */
size_t cps_params_bytes(const cps_params *params);

/* A value for parameter `name` from weights or a checkpoint (copied). Written at once where the
 * parameter is allocated; else kept until it is declared and allocated, then used instead of its
 * initial value if the shape is the same. DATA where the parameter is declared with another shape.
 */
cps_status cps_params_offer(cps_params *params, const char *name, int32_t rank,
                            const int64_t *shape, const cps_real *values) CPS_MUST_CHECK;
bool cps_params_is_offered(const cps_params *params, const char *name);
void cps_params_drop_offers(cps_params *params);
/* XXH3 of names, shapes and values: "tower digest" of the parameters whose names match `glob`. */
uint64_t cps_params_digest(const cps_params *params, const char *glob);

#endif
