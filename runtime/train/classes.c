/* cps_setup_classes: the distinct values of a key over a stream's records, in first-seen record
 * order. */
#include "train/stage.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/numeric.h"

/* A set of strings that remembers the order of first sight. */
typedef struct class_set {
    const char **names;
    int64_t count, capacity;
    int64_t *slots; /* open addressing: index into names, -1 empty */
    int64_t slot_count;
} class_set;

static bool grow(class_set *set) {
    if (set->count < set->capacity) {
        return true;
    }
    const int64_t capacity = set->capacity == 0 ? 256 : 2 * set->capacity;
    const char **names = realloc(set->names, (size_t)capacity * sizeof *names);
    if (names == NULL) {
        return false;
    }
    set->names = names;
    set->capacity = capacity;
    free(set->slots);
    set->slot_count = 4 * capacity;
    set->slots = malloc((size_t)set->slot_count * sizeof *set->slots);
    if (set->slots == NULL) {
        return false;
    }
    memset(set->slots, 0xff, (size_t)set->slot_count * sizeof *set->slots);
    for (int64_t i = 0; i < set->count; i++) {
        int64_t at = (int64_t)(cps_hash64_text(names[i]) % (uint64_t)set->slot_count);
        while (set->slots[at] >= 0) {
            at = (at + 1) % set->slot_count;
        }
        set->slots[at] = i;
    }
    return true;
}

static bool insert(class_set *set, cps_arena *arena, const char *name) {
    if (!grow(set)) {
        return false;
    }
    int64_t at = (int64_t)(cps_hash64_text(name) % (uint64_t)set->slot_count);
    while (set->slots[at] >= 0) {
        if (strcmp(set->names[set->slots[at]], name) == 0) {
            return true;
        }
        at = (at + 1) % set->slot_count;
    }
    char *copy = cps_arena_strdup(arena, name);
    if (copy == NULL) {
        return false;
    }
    set->names[set->count] = copy;
    set->slots[at] = set->count++;
    return true;
}

/* Value of a record for the key: the label's name, or the fields of "a/b/c" joined by '/'. False:
 * no value. */
static bool record_value(const cps_place *place, const char *key, char *text, size_t bytes) {
    if (strcmp(key, "label") == 0) {
        const int32_t label =
            cps_shard_has_labels(place->shard) ? cps_shard_label(place->shard, place->record) : -1;
        if (label < 0) {
            return false;
        }
        snprintf(text, bytes, "%s", cps_shard_class_name(place->shard, label));
        return true;
    }
    size_t used = 0;
    bool any = false;
    text[0] = '\0';
    for (const char *at = key; *at != '\0';) {
        const size_t length = strcspn(at, "/");
        char field_name[128];
        snprintf(field_name, sizeof field_name, "%.*s", (int)length, at);
        const int64_t field = cps_shard_field(place->shard, field_name);
        const bool has = field >= 0 && cps_shard_text_count(place->shard, field, place->record) > 0;
        const char *value = has ? cps_shard_text(place->shard, field, place->record, 0) : "";
        any = any || value[0] != '\0';
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", at == key ? "" : "/", value);
        if (used >= bytes) {
            return any;
        }
        at += length;
        at += *at == '/';
    }
    return any;
}

/* All values of a stream's records; the arena keeps them. */
static cps_status collect(cps_setup *setup, const cps_stream *records, const char *stream,
                          const char *key, cps_classes *classes_out) {
    cps_arena *arena = setup->plan->arena;
    class_set set = {0};
    char text[4096];
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < cps_stream_records(records) && status == CPS_OK; i++) {
        cps_place place;
        cps_stream_stored(records, i, &place);
        if (record_value(&place, key, text, sizeof text) && !insert(&set, arena, text)) {
            status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the classes of '%s'", key);
        }
    }
    if (status == CPS_OK && set.count == 0) {
        status =
            cps_fail(CPS_ERR_DATA,
                     "stream '%s' has no value of '%s' in any record; pack it with that column",
                     stream, key);
    }
    const char **names =
        status == CPS_OK ? cps_arena_alloc(arena, (size_t)set.count * sizeof *names) : NULL;
    if (names != NULL) {
        memcpy(names, set.names, (size_t)set.count * sizeof *names);
        *classes_out = (cps_classes){set.count, names};
    }
    free(set.names);
    free(set.slots);
    return status != CPS_OK ? status : names == NULL ? CPS_ERR_UNAVAILABLE : CPS_OK;
}

static bool find_list(const cps_stage_plan *plan, const char *stream, const char *key,
                      cps_classes *classes_out) {
    for (int32_t i = 0; plan != NULL && i < plan->class_list_count; i++) {
        const cps_stage_classes *list = &plan->class_lists[i];
        if (strcmp(list->stream, stream) == 0 && strcmp(list->key, key) == 0) {
            *classes_out = list->classes;
            return true;
        }
    }
    return false;
}

static cps_status make_list(cps_setup *setup, const char *stream, const char *key,
                            cps_classes *classes_out) {
    cps_stage_plan *plan = setup->plan;
    const cps_stream *records = NULL;
    for (int32_t i = 0; i < plan->run_stream_count; i++) {
        if (strcmp(plan->run_streams[i].name, stream) == 0) {
            records = plan->run_streams[i].stream;
        }
    }
    if (records == NULL || plan->class_list_count == CPS_STAGE_VIEWS) {
        return cps_fail(CPS_ERR_USAGE,
                        records == NULL ? "classes of '%s': the job's data has no such stream"
                                        : "classes of '%s': more than 64 class lists in one stage",
                        stream);
    }
    cps_stage_classes *list = &plan->class_lists[plan->class_list_count];
    CPS_TRY(collect(setup, records, stream, key, &list->classes));
    list->stream = cps_arena_strdup(plan->arena, stream);
    list->key = cps_arena_strdup(plan->arena, key);
    if (list->stream == NULL || list->key == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    plan->class_list_count++;
    *classes_out = list->classes;
    return CPS_OK;
}

cps_status cps_serve_setup_classes(cps_setup *setup, const char *stream, const char *key,
                                   cps_classes *classes_out) {
    if (setup->status != CPS_OK) {
        return setup->status;
    }
    if (find_list(setup->plan, stream, key, classes_out) ||
        find_list(setup->context->like, stream, key, classes_out)) {
        return CPS_OK;
    }
    const cps_status status = make_list(setup, stream, key, classes_out);
    return status == CPS_OK
               ? CPS_OK
               : cps_service_fail(&setup->status, setup->message, status,
                                  "stages[%d].objective '%s': %s", setup->plan->index + 1,
                                  setup->plan->instances[setup->owner].name, cps_fail_message());
}
