#include "train/schedule.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/numeric.h"

const cps_option cps_constant_options[] = {
    {.name = "warmup_steps",
     .kind = CPS_OPT_INTEGER,
     .help = "Steps over which the rate rises linearly to its value.",
     .default_text = "0",
     .maximum = 1e12,
     .offset = offsetof(cps_schedule, warmup_steps)},
    {.name = NULL}};

static const char *const warmup_names[] = {
    [CPS_WARMUP_LINEAR] = "linear", [CPS_WARMUP_LINSPACE] = "linspace", NULL};

const cps_option cps_cosine_options[] = {
    {.name = "warmup_steps",
     .kind = CPS_OPT_INTEGER,
     .help = "Steps over which the rate rises linearly to its value before the cosine begins.",
     .default_text = "0",
     .maximum = 1e12,
     .offset = offsetof(cps_schedule, warmup_steps)},
    {.name = "warmup_epochs",
     .kind = CPS_OPT_INTEGER,
     .help = "The same in epochs of the stage's clock.",
     .default_text = "0",
     .maximum = 1e9,
     .offset = offsetof(cps_schedule, warmup_epochs)},
    {.name = "warmup",
     .kind = CPS_OPT_CHOICE,
     .help = "Step k of a warm-up of W steps: linear has rate (k + 1) / W, linspace k / (W - 1).",
     .default_text = "linear",
     .choices = warmup_names,
     .offset = offsetof(cps_schedule, warmup)},
    {.name = "final",
     .kind = CPS_OPT_NUMBER,
     .help = "Rate that the cosine falls to; the last step lies just above it.",
     .default_text = "0",
     .maximum = 1e6,
     .offset = offsetof(cps_schedule, final)},
    {.name = "final_weight_decay",
     .kind = CPS_OPT_NUMBER,
     .help = "Weight decay that a cosine over the whole stage runs to; -1: it stays as it is.",
     .default_text = "-1",
     .minimum = -1,
     .maximum = 1e6,
     .offset = offsetof(cps_schedule, final_weight_decay)},
    {.name = NULL}};

cps_status cps_schedule_parse(const char *kind, const cps_json *object, const char *where,
                              cps_arena *arena, cps_schedule *out) {
    static const char *const also[] = {"kind", NULL};
    static const char *const kinds[] = {"constant", "cosine", NULL};
    cps_schedule parsed = {.final_weight_decay = -1};
    const cps_option *rows = NULL;
    if (strcmp(kind, "constant") == 0) {
        rows = cps_constant_options;
        parsed.kind = CPS_SCHEDULE_CONSTANT;
    } else if (strcmp(kind, "cosine") == 0) {
        rows = cps_cosine_options;
        parsed.kind = CPS_SCHEDULE_COSINE;
    } else {
        const char *near = cps_nearest_name(kind, kinds);
        return cps_fail(CPS_ERR_USAGE,
                        "%s: no schedule is called '%s'%s%s; there are constant and cosine", where,
                        kind, near == NULL ? "" : ", did you mean ", near == NULL ? "" : near);
    }
    CPS_TRY(cps_options_parse(rows, object, where, also, arena, &parsed));
    *out = parsed;
    return CPS_OK;
}

double cps_numbers_at(cps_numbers numbers, int64_t k) {
    CPS_BUG_IF(numbers.count < 1 || (numbers.count > 1 && k >= numbers.count));
    return numbers.values[numbers.count == 1 ? 0 : k];
}

static const double pi = 3.14159265358979323846;

/* Value k of J on the way from base, which it begins with, to final, which it does not reach. */
static double cosine(double base, double final, int64_t k, int64_t total) {
    return final + 0.5 * (base - final) * (1 + cos(pi * (double)k / (double)total));
}

/* clip-towers.md, section 5; agriclip.md 2.2.6. */
static double value_at(const cps_schedule *schedule, int64_t warmup, double base, int64_t total,
                       int64_t k) {
    if (k < warmup && schedule->warmup == CPS_WARMUP_LINSPACE) {
        return warmup > 1 ? base * (double)k / (double)(warmup - 1) : 0;
    }
    if (k < warmup) {
        return base * (double)(k + 1) / (double)warmup;
    }
    return schedule->kind == CPS_SCHEDULE_CONSTANT
               ? base
               : cosine(base, schedule->final, k - warmup, total - warmup);
}

static cps_status warmup_of(const cps_schedule *schedule, const char *where, int64_t total,
                            int64_t steps_per_epoch, int64_t *warmup_out) {
    const int64_t steps = schedule->warmup_steps, epochs = schedule->warmup_epochs;
    if (steps > 0 && epochs > 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: warmup_steps is %lld and warmup_epochs %lld: give one of them", where,
                        (long long)steps, (long long)epochs);
    }
    if (epochs > 0 && epochs > total / cps_max_i64(steps_per_epoch, 1)) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: warmup_epochs is %lld of %lld steps, but the stage has only %lld "
                        "steps: warm up in fewer, or train for longer",
                        where, (long long)epochs, (long long)steps_per_epoch, (long long)total);
    }
    if (steps > total) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: warmup_steps is %lld, but the stage has only %lld steps: warm up in "
                        "fewer, or train for longer",
                        where, (long long)steps, (long long)total);
    }
    *warmup_out = epochs > 0 ? epochs * steps_per_epoch : steps;
    return CPS_OK;
}

static cps_status check_length(const char *where, const char *what, cps_numbers base,
                               int64_t total) {
    return base.count == 1 || (base.count > 1 && base.count == total)
               ? CPS_OK
               : cps_fail(CPS_ERR_USAGE,
                          "%s: the %s has %lld values, wanted one, or one for each of the stage's "
                          "%lld steps",
                          where, what, (long long)base.count, (long long)total);
}

cps_status cps_schedule_tabulate(const cps_schedule *schedule, cps_numbers base, const char *where,
                                 int64_t total, int64_t steps_per_epoch, double *values) {
    const bool table = base.count > 1;
    int64_t warmup = 0;
    CPS_TRY(check_length(where, "learning rate", base, total));
    CPS_TRY(warmup_of(schedule, where, total, steps_per_epoch, &warmup));
    if (table && (schedule->kind != CPS_SCHEDULE_CONSTANT || warmup > 0)) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: the learning rate is a function of the step already; take out the "
                        "schedule, or give the rate as one number",
                        where);
    }
    for (int64_t k = 0; k < total; k++) {
        values[k] = table ? base.values[k] : value_at(schedule, warmup, base.values[0], total, k);
    }
    return CPS_OK;
}

cps_status cps_schedule_weight_decay(const cps_schedule *schedule, cps_numbers base,
                                     const char *where, int64_t total, double *values) {
    const double final = schedule->final_weight_decay;
    CPS_TRY(check_length(where, "weight decay", base, total));
    if (final >= 0 && base.count > 1) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: the weight decay is a function of the step already; take out "
                        "final_weight_decay, or give the weight decay as one number",
                        where);
    }
    for (int64_t k = 0; k < total; k++) {
        const double value = cps_numbers_at(base, k);
        values[k] = final >= 0 ? cosine(value, final, k, total) : value;
    }
    return CPS_OK;
}
