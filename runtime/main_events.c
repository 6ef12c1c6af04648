/* Service "events" of drivers: what events.jsonl of a run says, with a resume's rules applied and
 * the steps thinned, so that a page of a long run stays small.
 *   request  { "path": ..., "points": N }; N: points of the curves at most, 0: every step
 *   result   { "steps": n, "curve": [{ "stage", "step", <means of the numbers> }...],
 *              "evaluations": [...], "finishes": [...], "ends": [...], "resumes": n, "broken": n }
 * A point of the curve stands for a run of steps of one stage: means of their finite numbers at
 * the last one's step. Equal jobs give points at equal steps. */
#include "main.h"

#include <string.h>

#include "report/events.h"

enum { MAX_KEYS = 64 };

typedef struct bucket {
    int64_t events, step, skipped;
    const char *stage;
    int32_t keys;
    const char *names[MAX_KEYS]; /* borrowed from the events */
    double sums[MAX_KEYS];
    int64_t counts[MAX_KEYS];
} bucket;

static void flush(bucket *at, cps_json *curve) {
    if (at->events == 0) {
        return;
    }
    cps_json *point = cps_json_add_object(curve, NULL);
    cps_json_add_string(point, "stage", at->stage);
    cps_json_add_number(point, "step", (double)at->step);
    for (int32_t i = 0; i < at->keys; i++) {
        cps_json_add_number(point, at->names[i], at->sums[i] / (double)at->counts[i]);
    }
    if (at->skipped > 0) {
        cps_json_add_number(point, "skipped", (double)at->skipped);
    }
    at->events = 0;
    at->skipped = 0;
    at->keys = 0;
}

static void add_number(bucket *at, const char *key, double value) {
    int32_t i = 0;
    while (i < at->keys && strcmp(at->names[i], key) != 0) {
        i++;
    }
    if (i == MAX_KEYS) {
        return;
    }
    if (i == at->keys) {
        at->names[at->keys++] = key;
        at->sums[i] = 0.0;
        at->counts[i] = 0;
    }
    at->sums[i] += value;
    at->counts[i]++;
}

static void add_step(bucket *at, const cps_json *event, int64_t most, cps_json *curve) {
    const char *stage = cps_json_get_string(event, "stage", "");
    if (at->events == most || (at->events > 0 && strcmp(at->stage, stage) != 0)) {
        flush(at, curve);
    }
    at->stage = stage;
    at->step = cps_json_get_integer(event, "step", 0);
    at->events++;
    at->skipped += cps_json_get_bool(event, "skipped", false);
    for (const cps_json *member = cps_json_first(event); member != NULL;
         member = cps_json_next(member)) {
        if (cps_json_is_number(member) && strcmp(cps_json_key(member), "step") != 0) {
            add_number(at, cps_json_key(member), cps_json_number(member));
        }
    }
}

static bool is_kind(const cps_json *event, const char *kind) {
    return strcmp(cps_json_get_string(event, "event", ""), kind) == 0;
}

static int64_t count_kind(const cps_json *events, const char *kind) {
    int64_t count = 0;
    for (const cps_json *at = cps_json_first(events); at != NULL; at = cps_json_next(at)) {
        count += is_kind(at, kind);
    }
    return count;
}

static void add_curve(const cps_json *events, int64_t points, cps_json *result) {
    const int64_t steps = count_kind(events, "step");
    const int64_t most = points > 0 && steps > points ? (steps + points - 1) / points : 1;
    cps_json_add_number(result, "steps", (double)steps);
    cps_json *curve = cps_json_add_array(result, "curve");
    bucket at = {.events = 0};
    for (const cps_json *event = cps_json_first(events); event != NULL;
         event = cps_json_next(event)) {
        if (is_kind(event, "step")) {
            add_step(&at, event, most, curve);
        }
    }
    flush(&at, curve);
}

static void add_kind(const cps_json *events, const char *kind, const char *key, cps_json *result) {
    cps_json *list = cps_json_add_array(result, key);
    for (const cps_json *at = cps_json_first(events); at != NULL; at = cps_json_next(at)) {
        if (is_kind(at, kind)) {
            cps_json_add_copy(list, NULL, at);
        }
    }
}

cps_status cps_service_events(const cps_json *request, cps_json **result_out) {
    const char *path = cps_json_get_string(request, "path", NULL);
    CPS_BUG_IF(path == NULL);
    cps_json *events = NULL;
    int64_t broken = 0;
    CPS_TRY(cps_events_read(path, &events, &broken));
    cps_json *result = cps_json_new_object();
    add_curve(events, cps_json_get_integer(request, "points", 0), result);
    add_kind(events, "evaluation", "evaluations", result);
    add_kind(events, "finish", "finishes", result);
    add_kind(events, "end", "ends", result);
    cps_json_add_number(result, "resumes", (double)count_kind(events, "resume"));
    cps_json_add_number(result, "broken", (double)broken);
    cps_json_destroy(events);
    *result_out = result;
    return CPS_OK;
}
