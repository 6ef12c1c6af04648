#include "model/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/numeric.h"
#include "base/options.h"
#include "base/rng.h"
#include "base/text.h"

/* Parameters are found through an open-addressing table of indices (linear probing, at most half
 * full). Offers, values that came before their parameter was allocated, are few and live in a list.
 */

enum { CPS_FIRST_SLOTS = 256 };

typedef struct offer {
    struct offer *next;
    char *name;
    int32_t rank;
    int64_t shape[CPS_MAX_DIMS];
    int64_t count;
    cps_real *values;
} offer;

struct cps_params {
    cps_param **items;
    int32_t count, capacity;
    int32_t *slots; /* index + 1, 0 where empty */
    int64_t slot_count;
    cps_real *flat;
    int64_t flat_count;     /* elements allocated */
    int64_t declared_count; /* elements that the next allocation will hold */
    offer *offers;
};

cps_status cps_params_create(cps_params **params_out) {
    cps_params *params = calloc(1, sizeof *params);
    if (params != NULL) {
        params->slot_count = CPS_FIRST_SLOTS;
        params->slots = calloc(CPS_FIRST_SLOTS, sizeof *params->slots);
    }
    if (params == NULL || params->slots == NULL) {
        free(params);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the parameter table");
    }
    *params_out = params;
    return CPS_OK;
}

static void param_destroy(cps_param *param) {
    free((void *)(uintptr_t)param->spec.init.copy_of);
    free((void *)(uintptr_t)param->spec.ema_of);
    free(param);
}

void cps_params_drop_offers(cps_params *params) {
    while (params->offers != NULL) {
        offer *gone = params->offers;
        params->offers = gone->next;
        free(gone->name);
        free(gone->values);
        free(gone);
    }
}

void cps_params_destroy(cps_params *params) {
    if (params == NULL) {
        return;
    }
    for (int32_t i = 0; i < params->count; i++) {
        param_destroy(params->items[i]);
    }
    cps_params_drop_offers(params);
    free(params->items);
    free(params->slots);
    free(params->flat);
    free(params);
}

int32_t cps_params_count(const cps_params *params) {
    return params->count;
}

cps_param *cps_params_at(cps_params *params, int32_t index) {
    CPS_BUG_IF(index < 0 || index >= params->count);
    return params->items[index];
}

cps_real *cps_params_flat(cps_params *params) {
    return params->flat;
}

int64_t cps_params_flat_count(const cps_params *params) {
    return params->flat_count;
}

size_t cps_params_bytes(const cps_params *params) {
    return (size_t)params->declared_count * sizeof(cps_real);
}

/* ---- the name table ---- */

/* Slot of `name`, or the empty slot where it belongs. */
static int64_t find_slot(const cps_params *params, const char *name) {
    const uint64_t mask = (uint64_t)params->slot_count - 1;
    uint64_t at = cps_hash64_text(name) & mask;
    while (params->slots[at] != 0 &&
           strcmp(params->items[params->slots[at] - 1]->name, name) != 0) {
        at = (at + 1) & mask;
    }
    return (int64_t)at;
}

int32_t cps_params_find(const cps_params *params, const char *name) {
    return params->slots[find_slot(params, name)] - 1;
}

static cps_status grow(cps_params *params) {
    if (params->count == params->capacity) {
        const int32_t capacity = params->capacity == 0 ? CPS_FIRST_SLOTS : 2 * params->capacity;
        cps_param **items = realloc(params->items, (size_t)capacity * sizeof *items);
        if (items == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %d parameters", capacity);
        }
        params->items = items;
        params->capacity = capacity;
    }
    if (2 * ((int64_t)params->count + 1) <= params->slot_count) {
        return CPS_OK;
    }
    int32_t *slots = calloc((size_t)params->slot_count * 2, sizeof *slots);
    if (slots == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %d parameter names", params->count);
    }
    free(params->slots);
    params->slots = slots;
    params->slot_count *= 2;
    for (int32_t i = 0; i < params->count; i++) {
        params->slots[find_slot(params, params->items[i]->name)] = i + 1;
    }
    return CPS_OK;
}

/* ---- declaring ---- */

static cps_status check_spec(const cps_param_spec *spec, int64_t *count_out) {
    const size_t length = spec->name == NULL ? 0 : strlen(spec->name);
    if (length == 0 || length >= CPS_NAME_MAX) {
        return cps_fail(CPS_ERR_USAGE,
                        "parameter name '%.40s...' has %zu characters, wanted 1 to %d",
                        length == 0 ? "" : spec->name, length, CPS_NAME_MAX - 1);
    }
    if (spec->rank < 0 || spec->rank > CPS_MAX_DIMS) {
        return cps_fail(CPS_ERR_USAGE, "parameter '%s' has %d dimensions, wanted 0 to %d",
                        spec->name, spec->rank, CPS_MAX_DIMS);
    }
    int64_t count = 1;
    for (int32_t i = 0; i < spec->rank; i++) {
        if (spec->shape[i] <= 0 || !cps_mul_i64(count, spec->shape[i], &count) ||
            count > INT64_MAX / 64) {
            return cps_fail(CPS_ERR_USAGE,
                            "parameter '%s': dimension %d is %lld, wanted a positive size",
                            spec->name, i, (long long)spec->shape[i]);
        }
    }
    if (spec->kind == CPS_PARAM_EMA && spec->ema_of == NULL) {
        return cps_fail(CPS_ERR_USAGE, "moving average '%s' does not say of which parameter",
                        spec->name);
    }
    *count_out = count;
    return CPS_OK;
}

/* The initial value that a spec asks for: an EMA copy starts as its source. */
static cps_init init_of(const cps_param_spec *spec) {
    cps_init init = spec->init;
    if (spec->kind == CPS_PARAM_EMA && init.kind != CPS_INIT_COPY) {
        init = (cps_init){.kind = CPS_INIT_COPY, .copy_of = spec->ema_of};
    }
    return init;
}

static bool same_text(const char *a, const char *b) {
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_init(cps_init a, cps_init b) {
    if (a.kind != b.kind) {
        return false;
    }
    switch (a.kind) {
    case CPS_INIT_ZERO:
        return true;
    case CPS_INIT_CONSTANT:
    case CPS_INIT_NORMAL:
        return a.a == b.a;
    case CPS_INIT_UNIFORM:
        return a.a == b.a && a.b == b.b;
    case CPS_INIT_COPY:
        return same_text(a.copy_of, b.copy_of);
    }
    return false;
}

static bool same_shape(int32_t rank_a, const int64_t *a, int32_t rank_b, const int64_t *b) {
    return rank_a == rank_b && (rank_a == 0 || memcmp(a, b, (size_t)rank_a * sizeof *a) == 0);
}

typedef struct shape_text {
    char text[CPS_MAX_DIMS * 22 + 3];
} shape_text;

static shape_text describe_shape(int32_t rank, const int64_t *shape) {
    shape_text out = {"["};
    size_t at = 1;
    for (int32_t i = 0; i < rank; i++) {
        at += (size_t)snprintf(out.text + at, sizeof out.text - at, i == 0 ? "%lld" : ",%lld",
                               (long long)shape[i]);
    }
    snprintf(out.text + at, sizeof out.text - at, "]");
    return out;
}

static cps_status check_equal(const cps_param *old, const cps_param_spec *spec) {
    const cps_param_spec *known = &old->spec;
    if (!same_shape(known->rank, known->shape, spec->rank, spec->shape)) {
        return cps_fail(CPS_ERR_USAGE,
                        "parameter '%s' is declared twice with different shapes: %s and %s",
                        spec->name, describe_shape(known->rank, known->shape).text,
                        describe_shape(spec->rank, spec->shape).text);
    }
    const char *what = NULL;
    if (known->kind != spec->kind || !same_text(known->ema_of, spec->ema_of)) {
        what = "kinds (weight, buffer, moving average)";
    } else if (!same_init(known->init, init_of(spec))) {
        what = "initial values";
    } else if (known->decay != spec->decay) {
        what = "weight decay";
    } else if (known->has_bounds != spec->has_bounds ||
               (known->has_bounds &&
                (known->minimum != spec->minimum || known->maximum != spec->maximum))) {
        what = "bounds";
    }
    if (what != NULL) {
        return cps_fail(CPS_ERR_USAGE,
                        "parameter '%s' is declared twice with different %s: two objectives or "
                        "stages want the same name for different things; rename one",
                        spec->name, what);
    }
    return CPS_OK;
}

static cps_status copy_strings(cps_param_spec *spec) {
    const char *copy_of = spec->init.kind == CPS_INIT_COPY ? spec->init.copy_of : NULL;
    const char *ema_of = spec->ema_of;
    spec->init.copy_of = copy_of == NULL ? NULL : strdup(copy_of);
    spec->ema_of = ema_of == NULL ? NULL : strdup(ema_of);
    if ((copy_of != NULL && spec->init.copy_of == NULL) ||
        (ema_of != NULL && spec->ema_of == NULL)) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for parameter '%s'", spec->name);
    }
    return CPS_OK;
}

static void setup_tensor(cps_param *param, int32_t index) {
    cps_tensor *tensor = &param->tensor;
    tensor->rank = param->spec.rank;
    for (int32_t i = 0; i < CPS_MAX_DIMS; i++) {
        tensor->shape[i] = i < param->spec.rank ? param->spec.shape[i] : 1;
    }
    tensor->dtype = CPS_REAL;
    tensor->leaf = true;
    tensor->id = index;
    tensor->needs_grad = param->learns;
}

cps_status cps_params_add(cps_params *params, const cps_param_spec *spec, int32_t *index_out) {
    int64_t count = 0;
    CPS_TRY(check_spec(spec, &count));
    const int32_t known = cps_params_find(params, spec->name);
    if (known >= 0) {
        CPS_TRY(check_equal(params->items[known], spec));
        *index_out = known;
        return CPS_OK;
    }
    CPS_TRY(grow(params));
    cps_param *param = calloc(1, sizeof *param);
    if (param == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for parameter '%s'", spec->name);
    }
    snprintf(param->name, sizeof param->name, "%s", spec->name);
    param->spec = *spec;
    param->spec.init = init_of(spec);
    param->spec.name = param->name;
    const cps_status status = copy_strings(&param->spec);
    if (status != CPS_OK) {
        param_destroy(param);
        return status;
    }
    const int64_t pad = CPS_ALIGNMENT / (int64_t)sizeof(cps_real);
    param->offset = params->declared_count;
    param->count = count;
    param->learns = spec->kind == CPS_PARAM_WEIGHT;
    param->decays = spec->decay;
    param->lr_factor = 1;
    setup_tensor(param, params->count);
    params->declared_count += cps_ceil_div(count, pad) * pad;
    params->slots[find_slot(params, param->name)] = params->count + 1;
    params->items[params->count] = param;
    *index_out = params->count++;
    return CPS_OK;
}

/* ---- values ---- */

static offer *find_offer(const cps_params *params, const char *name) {
    offer *at = params->offers;
    while (at != NULL && strcmp(at->name, name) != 0) {
        at = at->next;
    }
    return at;
}

bool cps_params_is_offered(const cps_params *params, const char *name) {
    return find_offer(params, name) != NULL;
}

/* A scalar and an array of one element are the same to a weights file. */
static bool fits(const cps_param *param, int32_t rank, const int64_t *shape, int64_t count) {
    return same_shape(param->spec.rank, param->spec.shape, rank, shape) ||
           (count == 1 && param->count == 1 && rank <= 1 && param->spec.rank <= 1);
}

static cps_status keep_offer(cps_params *params, const char *name, int32_t rank,
                             const int64_t *shape, int64_t count, const cps_real *values) {
    offer *kept = find_offer(params, name);
    if (kept == NULL) {
        kept = calloc(1, sizeof *kept);
        if (kept == NULL || (kept->name = strdup(name)) == NULL) {
            free(kept);
            return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for weights of '%s'", name);
        }
        kept->next = params->offers;
        params->offers = kept;
    }
    cps_real *copy = malloc((size_t)count * sizeof *copy);
    if (copy == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld weights of '%s'",
                        (long long)count, name);
    }
    memcpy(copy, values, (size_t)count * sizeof *copy);
    free(kept->values);
    kept->values = copy;
    kept->count = count;
    kept->rank = rank;
    for (int32_t i = 0; i < rank; i++) {
        kept->shape[i] = shape[i];
    }
    return CPS_OK;
}

cps_status cps_params_offer(cps_params *params, const char *name, int32_t rank,
                            const int64_t *shape, const cps_real *values) {
    int64_t count = 1;
    for (int32_t i = 0; i < rank; i++) {
        count *= shape[i];
    }
    const int32_t index = cps_params_find(params, name);
    if (index < 0) {
        return keep_offer(params, name, rank, shape, count, values);
    }
    cps_param *param = params->items[index];
    if (!fits(param, rank, shape, count)) {
        return cps_fail(CPS_ERR_DATA, "weights of '%s' have shape %s, the model wants %s", name,
                        describe_shape(rank, shape).text,
                        describe_shape(param->spec.rank, param->spec.shape).text);
    }
    if (!param->allocated) {
        return keep_offer(params, name, rank, shape, count, values);
    }
    memcpy(param->tensor.data, values, (size_t)count * sizeof *values);
    param->loaded = true;
    return CPS_OK;
}

/* Uses up the offer for a newly allocated parameter; one of another shape stays unused. */
static bool take_offer(cps_params *params, cps_param *param) {
    offer **link = &params->offers;
    while (*link != NULL && strcmp((*link)->name, param->name) != 0) {
        link = &(*link)->next;
    }
    offer *found = *link;
    if (found == NULL || found->values == NULL ||
        !fits(param, found->rank, found->shape, found->count)) {
        return false;
    }
    memcpy(param->tensor.data, found->values, (size_t)found->count * sizeof(cps_real));
    *link = found->next;
    free(found->name);
    free(found->values);
    free(found);
    return true;
}

/* Every initial value that is a copy leads, over any number of copies, to one that is not, of the
 * same number of elements. */
static cps_status check_copies(const cps_params *params) {
    for (int32_t i = 0; i < params->count; i++) {
        const cps_param *at = params->items[i];
        for (int32_t hops = 0; !at->allocated && at->spec.init.kind == CPS_INIT_COPY; hops++) {
            const char *source = at->spec.init.copy_of;
            const int32_t next = source == NULL ? -1 : cps_params_find(params, source);
            if (next < 0 || hops > params->count) {
                return cps_fail(CPS_ERR_USAGE, "parameter '%s' starts as a copy of '%s', %s",
                                at->name, source == NULL ? "" : source,
                                next < 0 ? "which no tower or objective declares"
                                         : "which is, in a circle, a copy of it");
            }
            if (params->items[next]->count != at->count) {
                return cps_fail(
                    CPS_ERR_USAGE,
                    "parameter '%s' (%lld elements) cannot start as a copy of '%s' (%lld)",
                    at->name, (long long)at->count, source, (long long)params->items[next]->count);
            }
            at = params->items[next];
        }
    }
    return CPS_OK;
}

static void initialise(cps_param *param, uint64_t seed) {
    cps_real *values = param->tensor.data;
    const cps_init *init = &param->spec.init;
    switch (init->kind) {
    case CPS_INIT_CONSTANT:
        for (int64_t i = 0; i < param->count; i++) {
            values[i] = (cps_real)init->a;
        }
        break;
    case CPS_INIT_NORMAL:
        cps_fill_normal(seed, param->name, init->a, values, param->count);
        break;
    case CPS_INIT_UNIFORM:
        cps_fill_uniform(seed, param->name, init->a, init->b, values, param->count);
        break;
    case CPS_INIT_ZERO:
    case CPS_INIT_COPY:
        break; /* the array is zero already; copies follow when their sources stand */
    }
}

/* check_copies has shown that the recursion ends. */
static void copy_source(cps_params *params, cps_param *param) {
    if (param->allocated) {
        return;
    }
    param->allocated = true;
    if (param->loaded || param->spec.init.kind != CPS_INIT_COPY) {
        return;
    }
    cps_param *source = params->items[cps_params_find(params, param->spec.init.copy_of)];
    copy_source(params, source);
    memcpy(param->tensor.data, source->tensor.data, (size_t)param->count * sizeof(cps_real));
}

cps_status cps_params_allocate(cps_params *params, uint64_t seed) {
    CPS_TRY(check_copies(params));
    if (params->declared_count == params->flat_count) {
        return CPS_OK;
    }
    size_t bytes = 0;
    void *memory = NULL;
    if (!cps_mul_size((size_t)params->declared_count, sizeof(cps_real), &bytes) ||
        posix_memalign(&memory, CPS_ALIGNMENT, bytes) != 0) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld parameters",
                        (long long)params->declared_count);
    }
    const size_t old_bytes = (size_t)params->flat_count * sizeof(cps_real);
    if (old_bytes > 0) {
        memcpy(memory, params->flat, old_bytes);
    }
    memset((char *)memory + old_bytes, 0, bytes - old_bytes);
    free(params->flat);
    params->flat = memory;
    params->flat_count = params->declared_count;
    for (int32_t i = 0; i < params->count; i++) {
        cps_param *param = params->items[i];
        param->tensor.data = params->flat + param->offset;
        if (!param->allocated) {
            param->loaded = take_offer(params, param);
            if (!param->loaded) {
                initialise(param, seed);
            }
        }
    }
    for (int32_t i = 0; i < params->count; i++) {
        copy_source(params, params->items[i]);
    }
    return CPS_OK;
}

/* ---- what learns, and how ---- */

bool cps_param_default_decay(const char *name, int32_t rank) {
    static const char *const without[] = {"bn", "ln", "bias", "logit_scale"};
    for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
        if (strstr(name, without[i]) != NULL) {
            return false;
        }
    }
    return rank >= 2;
}

/* USAGE unless some weight matches `glob`. `option` is the job's word for messages. */
static cps_status check_matches(const cps_params *params, const char *option, const char *glob) {
    for (int32_t i = 0; i < params->count; i++) {
        if (params->items[i]->spec.kind == CPS_PARAM_WEIGHT &&
            cps_glob_match(glob, params->items[i]->name)) {
            return CPS_OK;
        }
    }
    const char **names = calloc((size_t)params->count + 1, sizeof *names);
    const char *near = NULL;
    if (names != NULL) {
        for (int32_t i = 0; i < params->count; i++) {
            names[i] = params->items[i]->name;
        }
        near = cps_nearest_name(glob, names);
        free((void *)(uintptr_t)names);
    }
    if (near == NULL && params->count > 0) {
        near = params->items[0]->name;
    }
    return cps_fail(
        CPS_ERR_USAGE,
        "%s: pattern '%s' matches none of the model's %d parameters (names look like '%s')", option,
        glob, params->count, near == NULL ? "visual.proj" : near);
}

cps_status cps_params_set_train(cps_params *params, const char *const *patterns, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        CPS_TRY(check_matches(params, "train", patterns[k] + (patterns[k][0] == '!')));
    }
    const bool start = count == 0 || patterns[0][0] == '!';
    for (int32_t i = 0; i < params->count; i++) {
        cps_param *param = params->items[i];
        bool learns = start;
        for (int64_t k = 0; k < count; k++) {
            const bool excludes = patterns[k][0] == '!';
            if (cps_glob_match(patterns[k] + excludes, param->name)) {
                learns = !excludes;
            }
        }
        param->learns = learns && param->spec.kind == CPS_PARAM_WEIGHT;
        param->tensor.needs_grad = param->learns;
    }
    return CPS_OK;
}

void cps_params_pause(cps_params *params, bool paused) {
    for (int32_t i = 0; i < params->count; i++) {
        params->items[i]->tensor.needs_grad = params->items[i]->learns && !paused;
    }
}

cps_status cps_params_set_lr_factors(cps_params *params, const char *const *patterns,
                                     const double *factors, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        CPS_TRY(check_matches(params, "lr_factors", patterns[k]));
        if (!isfinite(factors[k]) || factors[k] < 0) {
            return cps_fail(
                CPS_ERR_USAGE,
                "lr_factors: the factor of '%s' is %g, wanted a finite number of at least 0",
                patterns[k], factors[k]);
        }
    }
    for (int32_t i = 0; i < params->count; i++) {
        cps_param *param = params->items[i];
        int64_t k = 0;
        while (k < count && !cps_glob_match(patterns[k], param->name)) {
            k++;
        }
        param->lr_factor = k < count ? factors[k] : 1;
    }
    return CPS_OK;
}

cps_status cps_params_set_no_decay(cps_params *params, const char *const *patterns, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        CPS_TRY(check_matches(params, "no_decay", patterns[k] + (patterns[k][0] == '!')));
    }
    for (int32_t i = 0; i < params->count; i++) {
        cps_param *param = params->items[i];
        param->decays = param->spec.decay;
        for (int64_t k = 0; k < count; k++) {
            const bool restores = patterns[k][0] == '!';
            if (cps_glob_match(patterns[k] + restores, param->name)) {
                param->decays = restores;
            }
        }
    }
    return CPS_OK;
}

int32_t cps_params_learning(const cps_params *params, int64_t *elements_out) {
    int32_t count = 0;
    int64_t elements = 0;
    for (int32_t i = 0; i < params->count; i++) {
        if (params->items[i]->learns) {
            count++;
            elements += params->items[i]->count;
        }
    }
    if (elements_out != NULL) {
        *elements_out = elements;
    }
    return count;
}

int64_t cps_params_elements(const cps_params *params, const char *glob) {
    int64_t elements = 0;
    for (int32_t i = 0; i < params->count; i++) {
        const cps_param *param = params->items[i];
        if (param->spec.kind == CPS_PARAM_WEIGHT && cps_glob_match(glob, param->name)) {
            elements += param->count;
        }
    }
    return elements;
}

uint64_t cps_params_digest(const cps_params *params, const char *glob) {
    cps_hash *hash = cps_hash_create();
    for (int32_t i = 0; i < params->count; i++) {
        const cps_param *param = params->items[i];
        if (!cps_glob_match(glob, param->name)) {
            continue;
        }
        cps_hash_add(hash, param->name, strlen(param->name) + 1);
        cps_hash_add(hash, &param->spec.rank, sizeof param->spec.rank);
        cps_hash_add(hash, param->spec.shape, (size_t)param->spec.rank * sizeof(int64_t));
        if (param->allocated) {
            cps_hash_add(hash, param->tensor.data, (size_t)param->count * sizeof(cps_real));
        }
    }
    const uint64_t value = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return value;
}
