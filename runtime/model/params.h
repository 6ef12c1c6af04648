/* Named parameters and buffers of a model: one flat master array, 64-byte padded tensors, cut into chunks for the sharded update.
 * Names equal open_clip's. Built once before training (declare, then freeze_layout), same on every rank. */
#ifndef CPS_MODEL_PARAMS_H
#define CPS_MODEL_PARAMS_H

#include "base/arena.h"
#include "base/status.h"

enum { CPS_CHUNK = 65536, CPS_NAME_MAX = 160 };

typedef enum cps_init_kind { CPS_INIT_ZERO, CPS_INIT_CONSTANT, CPS_INIT_NORMAL, CPS_INIT_UNIFORM, CPS_INIT_COPY } cps_init_kind;
typedef struct cps_init {
    cps_init_kind kind;
    double a, b;            /* constant value; std; low, high */
    const char *copy_of;    /* COPY: name of another parameter */
    const char *as_module;  /* reserved */
} cps_init;

typedef enum cps_param_kind { CPS_PARAM_WEIGHT, CPS_PARAM_BUFFER, CPS_PARAM_EMA } cps_param_kind;

typedef struct cps_param_spec {
    const char *name;
    int32_t rank;
    int64_t shape[CPS_MAX_DIMS];
    cps_init init;
    cps_param_kind kind;
    bool decay;                /* weight decay applies (default rule: cps_param_default_decay) */
    bool has_bounds;
    double minimum, maximum;   /* after every update (logit scale) */
    const char *ema_of;        /* kind EMA: the source's name */
} cps_param_spec;

typedef struct cps_param {
    char name[CPS_NAME_MAX];
    cps_param_spec spec;   /* strings inside are owned here */
    int64_t offset, count; /* elements in the flat arrays */
    bool loaded;           /* a value came from weights or an earlier stage: init is not applied */
    bool learns;           /* in the current stage */
    double lr_factor;
    int64_t updates;       /* per-tensor update count (bias correction) */
    cps_tensor tensor;     /* data: the master; grad: where the current part's gradient goes, NULL when it does not learn */
} cps_param;

typedef struct cps_params cps_params;

cps_status cps_params_create(cps_params **params_out) CPS_MUST_CHECK;
void cps_params_destroy(cps_params *params);
/* Adds a parameter, or returns the index of the equal one that is there; USAGE where shape, kind, bounds or initial values differ (both named). */
cps_status cps_params_add(cps_params *params, const cps_param_spec *spec, int32_t *index_out) CPS_MUST_CHECK;
/* Allocates the flat array for what has been declared so far (existing values keep their bits, the array may move) and initialises
 * new tensors from (seed, name). */
cps_status cps_params_allocate(cps_params *params, uint64_t seed) CPS_MUST_CHECK;
int32_t cps_params_count(const cps_params *params);
cps_param *cps_params_at(cps_params *params, int32_t index);
int32_t cps_params_find(const cps_params *params, const char *name); /* -1 */
cps_real *cps_params_flat(cps_params *params);
int64_t cps_params_flat_count(const cps_params *params); /* elements, padding included */
/* Rule of open_clip: decay unless fewer than two dimensions or the name holds bn, ln, bias or logit_scale. */
bool cps_param_default_decay(const char *name, int32_t rank);
/* Sets `learns` by shell globs over names ('!' in front excludes, later patterns win, none = all weights) and reports how many match; USAGE for a
 * pattern that matches nothing. */
cps_status cps_params_set_train(cps_params *params, const char *const *patterns, int64_t count) CPS_MUST_CHECK;
/* XXH3 of names, shapes and values: "tower digest" of the parameters whose names match `glob`. */
uint64_t cps_params_digest(const cps_params *params, const char *glob);

#endif
