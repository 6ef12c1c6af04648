/* Services of `create` for what an objective adds to the model: parameters, buffers, moving
 * averages. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "train/setup_internal.h"
#include "train/stage.h"

static cps_init fill_of(const cps_parameter *parameter) {
    static const cps_init_kind kinds[] = {[CPS_FILL_ZERO] = CPS_INIT_ZERO,
                                          [CPS_FILL_CONSTANT] = CPS_INIT_CONSTANT,
                                          [CPS_FILL_NORMAL] = CPS_INIT_NORMAL,
                                          [CPS_FILL_UNIFORM] = CPS_INIT_UNIFORM,
                                          [CPS_FILL_COPY] = CPS_INIT_COPY};
    return (cps_init){.kind = kinds[parameter->fill],
                      .a = parameter->a,
                      .b = parameter->b,
                      .copy_of = parameter->copy_of};
}

static int32_t add_id(cps_setup *setup, int32_t param, int32_t buffer) {
    cps_instance *instance = &setup->plan->instances[setup->owner];
    if (instance->param_count == CPS_INSTANCE_IDS) {
        cps_setup_fail(setup, CPS_ERR_USAGE, "more than %d parameters and buffers in one objective",
                       CPS_INSTANCE_IDS);
        return -1;
    }
    instance->params[instance->param_count] = param;
    instance->buffers[instance->param_count] = buffer;
    return instance->param_count++;
}

static int32_t add_param(cps_setup *setup, const cps_parameter *parameter, cps_param_kind kind) {
    if (setup->status != CPS_OK) {
        return -1;
    }
    if (parameter->name == NULL || parameter->rank < 0 || parameter->rank > CPS_MAX_DIMS) {
        cps_setup_fail(setup, CPS_ERR_INTERNAL, "a parameter without a name or with rank %d",
                       parameter->rank);
        return -1;
    }
    cps_param_spec spec = {.name = parameter->name,
                           .rank = parameter->rank,
                           .init = fill_of(parameter),
                           .kind = kind,
                           .decay = parameter->decay,
                           .has_bounds = parameter->bounded,
                           .minimum = parameter->minimum,
                           .maximum = parameter->maximum};
    memcpy(spec.shape, parameter->shape, sizeof spec.shape);
    cps_params *params = cps_model_params(setup->plan->model);
    int32_t index = cps_params_find(params, parameter->name);
    if (index >= 0 && index < setup->context->first_param) {
        const cps_param_spec *known = &cps_params_at(params, index)->spec;
        spec.init = known->init; /* an earlier stage gives the value */
        spec.decay = known->decay;
        spec.has_bounds = known->has_bounds;
        spec.minimum = known->minimum;
        spec.maximum = known->maximum;
    }
    const cps_status status = cps_params_add(params, &spec, &index);
    if (status != CPS_OK) {
        cps_setup_fail(setup, status, "%s", cps_fail_message());
        return -1;
    }
    return index;
}

/* Objectives of one stage must want the same of a parameter that they share; stages need not. */
static cps_status add_rule(cps_setup *setup, int32_t index, const cps_parameter *parameter) {
    cps_stage_plan *plan = setup->plan;
    const cps_stage_rule rule = {index, parameter->decay, parameter->bounded, parameter->minimum,
                                 parameter->maximum};
    for (int32_t i = 0; i < plan->rule_count; i++) {
        const cps_stage_rule *there = &plan->rules[i];
        if (there->param == index) {
            const bool same = there->decay == rule.decay && there->bounded == rule.bounded &&
                              (!rule.bounded ||
                               (there->minimum == rule.minimum && there->maximum == rule.maximum));
            return same ? CPS_OK
                        : cps_setup_fail(setup, CPS_ERR_USAGE,
                                         "another objective of this stage wants other bounds or "
                                         "another weight decay of parameter '%s'",
                                         parameter->name);
        }
    }
    if (plan->rule_count == CPS_INSTANCE_IDS) {
        return cps_setup_fail(setup, CPS_ERR_USAGE,
                              "more than %d parameters in one stage's objectives",
                              CPS_INSTANCE_IDS);
    }
    plan->rules[plan->rule_count++] = rule;
    return CPS_OK;
}

/* A value outside of its bounds would train one step as it is and then jump. */
static cps_status check_start(cps_setup *setup, const cps_parameter *parameter) {
    if (!parameter->bounded || parameter->fill != CPS_FILL_CONSTANT ||
        (parameter->a >= parameter->minimum && parameter->a <= parameter->maximum)) {
        return CPS_OK;
    }
    return cps_setup_fail(setup, CPS_ERR_USAGE,
                          "parameter '%s' would begin at %g, but is kept in %g .. %g (logarithms, "
                          "for a scale): change its initial value or its bounds, such as "
                          "init_scale or max_scale",
                          parameter->name, parameter->a, parameter->minimum, parameter->maximum);
}

int32_t cps_serve_setup_parameter(cps_setup *setup, const cps_parameter *parameter) {
    cps_stage_plan *plan = setup->plan;
    if (check_start(setup, parameter) != CPS_OK) {
        return -1;
    }
    const int32_t index = add_param(setup, parameter, CPS_PARAM_WEIGHT);
    if (index >= 0 && add_rule(setup, index, parameter) != CPS_OK) {
        return -1;
    }
    if (index >= 0 && parameter->frozen_steps > 0) {
        if (plan->hold_count == CPS_INSTANCE_IDS) {
            cps_setup_fail(setup, CPS_ERR_USAGE, "more than %d parameters with frozen steps",
                           CPS_INSTANCE_IDS);
            return -1;
        }
        plan->holds[plan->hold_count++] = (cps_stage_hold){index, parameter->frozen_steps};
    }
    return index < 0 ? -1 : add_id(setup, index, -1);
}

int32_t cps_serve_setup_buffer(cps_setup *setup, const cps_parameter *buffer,
                               int64_t partial_count) {
    cps_stage_plan *plan = setup->plan;
    const int32_t index = add_param(setup, buffer, CPS_PARAM_BUFFER);
    if (index < 0) {
        return -1;
    }
    if (plan->buffer_count == CPS_STAGE_TERMS) {
        cps_setup_fail(setup, CPS_ERR_USAGE, "more than %d buffers in one stage", CPS_STAGE_TERMS);
        return -1;
    }
    plan->buffers[plan->buffer_count] =
        (cps_stage_buffer){setup->owner, index, partial_count, plan->sum_width};
    plan->sum_width += partial_count;
    return add_id(setup, index, plan->buffer_count++);
}

static cps_numbers keep_numbers(cps_setup *setup, const cps_numbers *numbers) {
    double *values = cps_arena_alloc(setup->plan->arena, (size_t)numbers->count * sizeof *values);
    if (values != NULL) {
        memcpy(values, numbers->values, (size_t)numbers->count * sizeof *values);
    }
    return (cps_numbers){values == NULL ? 0 : numbers->count, values};
}

static cps_status add_ema(cps_setup *setup, int32_t param, cps_numbers momentum) {
    cps_stage_plan *plan = setup->plan;
    if (plan->ema_count == (int32_t)(sizeof plan->emas / sizeof plan->emas[0])) {
        return cps_setup_fail(setup, CPS_ERR_USAGE, "more than %d moving averages",
                              plan->ema_count);
    }
    plan->emas[plan->ema_count++] = (cps_stage_ema){param, momentum};
    return CPS_OK;
}

/* Whether every parameter of `to` is the moving average of its fellow in `from`; running statistics
 * are each tower's own. */
static bool follows(cps_params *params, const cps_tower *from, const cps_tower *to) {
    int32_t count = 0, to_count = 0;
    const int32_t *sources = cps_tower_params(from, &count);
    const int32_t *copies = cps_tower_params(to, &to_count);
    bool all = count == to_count;
    for (int32_t i = 0; i < count && all; i++) {
        const cps_param_spec *spec = &cps_params_at(params, copies[i])->spec;
        const cps_param *source = cps_params_at(params, sources[i]);
        all = source->spec.kind == CPS_PARAM_BUFFER
                  ? spec->kind == CPS_PARAM_BUFFER
                  : spec->kind == CPS_PARAM_EMA && strcmp(spec->ema_of, source->name) == 0;
    }
    return all;
}

cps_status cps_serve_setup_ema(cps_setup *setup, const char *source, const char *name,
                               const cps_numbers *momentum) {
    if (setup->status != CPS_OK) {
        return setup->status;
    }
    cps_model *model = setup->plan->model;
    cps_tower *from = cps_model_tower(model, source);
    if (from == NULL) {
        return cps_setup_fail(setup, CPS_ERR_USAGE, "the model has no tower '%s' to average",
                              source);
    }
    cps_tower *to = cps_model_tower(model, name);
    if (to == NULL) {
        char *prefix = cps_format("%s.", name);
        cps_status status = cps_tower_create_ema(cps_model_params(model), from, name, prefix, &to);
        free(prefix);
        if (status == CPS_OK) {
            status = cps_model_add_tower(model, to);
        }
        if (status != CPS_OK) {
            return cps_setup_fail(setup, status, "%s", cps_fail_message());
        }
    }
    int32_t count = 0;
    const int32_t *copies = cps_tower_params(to, &count);
    if (!follows(cps_model_params(model), from, to)) {
        return cps_setup_fail(setup, CPS_ERR_USAGE,
                              "tower '%s' exists already and is no copy of '%s'", name, source);
    }
    const cps_numbers table = keep_numbers(setup, momentum);
    for (int32_t i = 0; i < count; i++) {
        if (cps_params_at(cps_model_params(model), copies[i])->spec.kind == CPS_PARAM_EMA) {
            CPS_TRY(add_ema(setup, copies[i], table));
        }
    }
    return CPS_OK;
}

cps_status cps_serve_setup_ema_parameter(cps_setup *setup, int32_t source, const char *name,
                                         const cps_numbers *momentum, int32_t *id_out) {
    if (setup->status != CPS_OK) {
        return setup->status;
    }
    const cps_instance *instance = &setup->plan->instances[setup->owner];
    cps_params *params = cps_model_params(setup->plan->model);
    if (source < 0 || source >= instance->param_count) {
        return cps_setup_fail(setup, CPS_ERR_INTERNAL,
                              "moving average '%s' of a parameter id %d that does not exist", name,
                              source);
    }
    const cps_param *from = cps_params_at(params, instance->params[source]);
    cps_param_spec spec = {
        .name = name, .rank = from->spec.rank, .kind = CPS_PARAM_EMA, .ema_of = from->name};
    memcpy(spec.shape, from->spec.shape, sizeof spec.shape);
    int32_t index = -1;
    const cps_status status = cps_params_add(params, &spec, &index);
    if (status != CPS_OK) {
        return cps_setup_fail(setup, status, "%s", cps_fail_message());
    }
    CPS_TRY(add_ema(setup, index, keep_numbers(setup, momentum)));
    *id_out = add_id(setup, index, -1);
    return *id_out < 0 ? setup->status : CPS_OK;
}
