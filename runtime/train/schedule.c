#include "train/schedule.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

const cps_option cps_constant_options[] = {
    {.name = "warmup_steps",
     .kind = CPS_OPT_INTEGER,
     .help = "Steps over which the rate rises linearly to its value.",
     .default_text = "0",
     .maximum = 1e12,
     .offset = offsetof(cps_schedule, warmup_steps)},
    {.name = NULL}};

const cps_option cps_cosine_options[] = {
    {.name = "warmup_steps",
     .kind = CPS_OPT_INTEGER,
     .help = "Steps over which the rate rises linearly to its value before the cosine begins.",
     .default_text = "0",
     .maximum = 1e12,
     .offset = offsetof(cps_schedule, warmup_steps)},
    {.name = "final",
     .kind = CPS_OPT_NUMBER,
     .help = "Rate that the cosine falls to; the last step lies just above it.",
     .default_text = "0",
     .maximum = 1e6,
     .offset = offsetof(cps_schedule, final)},
    {.name = NULL}};

cps_status cps_schedule_parse(const char *kind, const cps_json *object, const char *where,
                              cps_arena *arena, cps_schedule *out) {
    static const char *const also[] = {"kind", NULL};
    static const char *const kinds[] = {"constant", "cosine", NULL};
    cps_schedule parsed = {0};
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

/* clip-towers.md, section 5. */
static double value_at(const cps_schedule *schedule, double base, int64_t total, int64_t k) {
    const int64_t warmup = schedule->warmup_steps;
    if (k < warmup) {
        return base * (double)(k + 1) / (double)warmup;
    }
    if (schedule->kind == CPS_SCHEDULE_CONSTANT) {
        return base;
    }
    const double angle = pi * (double)(k - warmup) / (double)(total - warmup);
    return schedule->final + 0.5 * (base - schedule->final) * (1 + cos(angle));
}

cps_status cps_schedule_tabulate(const cps_schedule *schedule, cps_numbers base, const char *where,
                                 int64_t total, double *values) {
    const bool table = base.count > 1;
    if (base.count < 1 || (table && base.count != total)) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: the learning rate has %lld values, wanted one, or one for each of the "
                        "stage's %lld steps",
                        where, (long long)base.count, (long long)total);
    }
    if (table && (schedule->kind != CPS_SCHEDULE_CONSTANT || schedule->warmup_steps > 0)) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: the learning rate is a function of the step already; take out the "
                        "schedule, or give the rate as one number",
                        where);
    }
    if (schedule->warmup_steps > total) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: warmup_steps is %lld, but the stage has only %lld steps", where,
                        (long long)schedule->warmup_steps, (long long)total);
    }
    for (int64_t k = 0; k < total; k++) {
        values[k] = table ? base.values[k] : value_at(schedule, base.values[0], total, k);
    }
    return CPS_OK;
}
