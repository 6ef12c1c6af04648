/* Services of loss and commit. */
#include "train/stage.h"

#include <stdio.h>
#include <string.h>

static const cps_instance *owner_of(const cps_global *global) {
    return &global->plan->instances[global->owner];
}

static cps_status global_fail(const cps_global *global, const char *format, ...) CPS_PRINTF(2, 3);
static cps_status global_fail(const cps_global *global, const char *format, ...) {
    cps_global *writable = (cps_global *)(uintptr_t)global;
    char text[900];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cps_service_fail(&writable->status, writable->message, CPS_ERR_INTERNAL, "%s", text);
}

cps_step_info cps_serve_global_step(const cps_global *global) {
    return global->info;
}

cps_tensor *cps_serve_global_rows(const cps_global *global, const char *slot) {
    for (int32_t i = 0; i < global->plan->slot_count; i++) {
        if (global->plan->slots[i].owner == global->owner &&
            strcmp(global->plan->slots[i].name, slot) == 0) {
            return global->slots[i];
        }
    }
    global_fail(global, "no head emitted '%s'", slot);
    return NULL;
}

/* A scalar parameter as a leaf of the loss's tape: its gradient is kept apart and counts once. */
cps_tensor *cps_serve_global_parameter(const cps_global *global, int32_t id) {
    cps_global *writable = (cps_global *)(uintptr_t)global;
    const cps_instance *instance = owner_of(global);
    if (id < 0 || id >= instance->param_count) {
        global_fail(global, "parameter id %d, of %d", id, instance->param_count);
        return NULL;
    }
    const int32_t index = instance->params[id];
    for (int32_t i = 0; i < global->param_count; i++) {
        if (global->param_index[i] == index) {
            return global->params[i];
        }
    }
    cps_param *param = cps_params_at(cps_model_params(global->plan->model), index);
    if (param->count != 1 && param->learns) {
        global_fail(global,
                    "parameter '%s' has %lld elements; `loss` may use scalars only: larger ones "
                    "belong to head or grain_loss",
                    param->name, (long long)param->count);
        return NULL;
    }
    if (global->param_count == CPS_INSTANCE_IDS) {
        global_fail(global, "more than %d parameters in `loss`", CPS_INSTANCE_IDS);
        return NULL;
    }
    cps_real *grad = NULL;
    if (param->learns && cps_tape_get_mode(global->tape) != CPS_TAPE_PLAIN) {
        grad = cps_tape_save(global->tape, sizeof(cps_real)); /* counted in PLAN mode too */
        if (grad == NULL && cps_tape_get_mode(global->tape) == CPS_TAPE_RECORD) {
            return NULL;
        }
        if (grad != NULL) {
            *grad = 0;
        }
    }
    cps_tensor *leaf = cps_tape_leaf(global->tape, CPS_REAL, param->spec.rank, param->spec.shape,
                                     param->tensor.data, grad, index);
    if (leaf == NULL) {
        return NULL;
    }
    leaf->needs_grad = param->learns && cps_tape_get_mode(global->tape) != CPS_TAPE_PLAIN;
    writable->params[global->param_count] = leaf;
    writable->param_index[global->param_count] = index;
    writable->param_count++;
    return leaf;
}

double cps_serve_global_count(const cps_global *global, int64_t which) {
    const cps_instance *instance = owner_of(global);
    if (which < 0 || which >= instance->count_count) {
        global_fail(global, "count %lld, of %lld", (long long)which,
                    (long long)instance->count_count);
        return 1.0;
    }
    return global->counts == NULL ? 1.0 : global->counts[instance->count_at + which];
}

void cps_serve_global_term(cps_global *global, const char *name, cps_tensor *scalar,
                           double weight) {
    if (scalar == NULL) {
        return;
    }
    if (global->term_count == CPS_STAGE_TERMS) {
        global_fail(global, "more than %d loss terms ('%s')", CPS_STAGE_TERMS, name);
        return;
    }
    const int32_t at = global->term_count++;
    if (!cps_is_scalar(scalar)) {
        global_fail(global, "term '%s' is no scalar: add it up with cps_batch_sum or cps_sum",
                    name);
        return;
    }
    global->terms[at] = scalar;
    global->term_weights[at] = weight * owner_of(global)->weight;
    snprintf(global->term_names[at], sizeof global->term_names[at], "%s%s%s",
             global->plan->instance_count > 1 ? owner_of(global)->name : "",
             global->plan->instance_count > 1 ? "." : "", name);
}

void cps_serve_global_report(cps_global *global, const char *name, double value) {
    if (global->report_count == CPS_STAGE_TERMS) {
        global_fail(global, "more than %d reports ('%s')", CPS_STAGE_TERMS, name);
        return;
    }
    const int32_t at = global->report_count++;
    snprintf(global->report_names[at], sizeof global->report_names[at], "%s%s%s",
             global->plan->instance_count > 1 ? owner_of(global)->name : "",
             global->plan->instance_count > 1 ? "." : "", name);
    global->report_values[at] = value;
}

static const cps_stage_buffer *buffer_of(const cps_global *global, int32_t id) {
    const cps_instance *instance = owner_of(global);
    const int32_t index = id < 0 || id >= instance->param_count ? -1 : instance->buffers[id];
    if (index < 0) {
        global_fail(global, "id %d is no buffer", id);
        return NULL;
    }
    return &global->plan->buffers[index];
}

const double *cps_serve_global_sum(const cps_global *global, int32_t buffer) {
    const cps_stage_buffer *found = buffer_of(global, buffer);
    return found == NULL || global->sums == NULL ? NULL : global->sums + found->at;
}

cps_real *cps_serve_global_buffer(cps_global *global, int32_t buffer) {
    const cps_stage_buffer *found = buffer_of(global, buffer);
    return found == NULL
               ? NULL
               : cps_params_at(cps_model_params(global->plan->model), found->param)->tensor.data;
}
