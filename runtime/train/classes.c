/* What `create` may ask of a stream: its size, its captions, and by cps_setup_classes the distinct
 * values of a key over its records, in first-seen record order; cps_record_class finds a record's
 * among them. A key is "label", fields joined by '/', or "taxonomy:RANK", the path of cleaned names
 * down to a rank. */
#include "train/stage.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/numeric.h"

enum { VALUE_BYTES = 4096 }; /* of one record's value, its end included; longer ones are cut */

static const char taxonomy_prefix[] = "taxonomy:";

/* What cps_classes.lookup points to. */
typedef struct lookup {
    const char *key;
    int32_t rank; /* of "taxonomy:RANK", else -1 */
    int64_t slot_count;
    const int64_t *slots;
} lookup;

/* ---- a stream's records ---------------------------------------------------------------------- */

static const cps_stream *stream_of(const cps_setup *setup, const char *name) {
    const cps_stage_plan *plan = setup->plan;
    for (int32_t i = 0; i < plan->run_stream_count; i++) {
        if (strcmp(plan->run_streams[i].name, name) == 0) {
            return plan->run_streams[i].stream;
        }
    }
    return NULL;
}

int64_t cps_serve_setup_stream_records(const cps_setup *setup, const char *stream) {
    const cps_stream *records = stream_of(setup, stream);
    return records == NULL ? -1 : cps_stream_records(records);
}

int64_t cps_serve_setup_stream_rows(const cps_setup *setup, const char *stream) {
    const cps_stage_plan *plan = setup->plan;
    const bool clock = plan->stream_count > 0 && strcmp(plan->streams[0].name, stream) == 0;
    return plan->grains *
           (clock ? plan->options.grain : cps_stage_stream_rows(&plan->options, stream));
}

const char *cps_serve_setup_caption(const cps_setup *setup, const char *stream, int64_t index,
                                    int64_t which) {
    const cps_stream *records = stream_of(setup, stream);
    if (records == NULL || index < 0 || index >= cps_stream_records(records)) {
        return NULL;
    }
    cps_place place;
    cps_stream_stored(records, index, &place);
    const int64_t field = cps_shard_field(place.shard, place.caption);
    const bool has =
        field >= 0 && which >= 0 && which < cps_shard_text_count(place.shard, field, place.record);
    return has ? cps_shard_text(place.shard, field, place.record, which) : NULL;
}

/* ---- classes --------------------------------------------------------------------------------- */

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

/* The slot that holds `name`, or the empty one where it would stand. */
static int64_t slot_of(const int64_t *slots, int64_t slot_count, const char *const *names,
                       const char *name) {
    int64_t at = (int64_t)(cps_hash64_text(name) % (uint64_t)slot_count);
    while (slots[at] >= 0 && strcmp(names[slots[at]], name) != 0) {
        at = (at + 1) % slot_count;
    }
    return at;
}

static bool insert(class_set *set, cps_arena *arena, const char *name) {
    if (!grow(set)) {
        return false;
    }
    const int64_t at = slot_of(set->slots, set->slot_count, set->names, name);
    if (set->slots[at] >= 0) {
        return true;
    }
    char *copy = cps_arena_strdup(arena, name);
    if (copy == NULL) {
        return false;
    }
    set->names[set->count] = copy;
    set->slots[at] = set->count++;
    return true;
}

/* Rank of a key "taxonomy:RANK"; -1 for any other key. */
static int32_t taxonomy_rank(const char *key) {
    const size_t length = sizeof taxonomy_prefix - 1;
    return strncmp(key, taxonomy_prefix, length) == 0 ? cps_taxon_rank(key + length) : -1;
}

/* Value of a record by its names. False: no organism, or out of memory (*status). */
static bool taxonomy_value(const cps_taxon *taxon, int32_t rank, char *text, size_t bytes,
                           cps_status *status) {
    char *path = NULL;
    if (taxon == NULL || (*status = cps_taxon_path(taxon, rank, &path)) != CPS_OK) {
        return false;
    }
    snprintf(text, bytes, "%s", path);
    free(path);
    return true;
}

/* Value of a record for any other key: the label's name, or the fields of "a/b/c" joined by '/'.
 * False: no value. */
static bool field_value(const cps_shard *shard, int64_t record, const char *key, char *text,
                        size_t bytes) {
    if (strcmp(key, "label") == 0) {
        const int32_t label = cps_shard_has_labels(shard) ? cps_shard_label(shard, record) : -1;
        if (label < 0) {
            return false;
        }
        snprintf(text, bytes, "%s", cps_shard_class_name(shard, label));
        return true;
    }
    size_t used = 0;
    bool any = false;
    text[0] = '\0';
    for (const char *at = key; *at != '\0';) {
        const size_t length = strcspn(at, "/");
        char field_name[128];
        snprintf(field_name, sizeof field_name, "%.*s", (int)length, at);
        const int64_t field = cps_shard_field(shard, field_name);
        const bool has = field >= 0 && cps_shard_text_count(shard, field, record) > 0;
        const char *value = has ? cps_shard_text(shard, field, record, 0) : "";
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

/* The finished set as the arena keeps it; false: out of memory. */
static bool keep(cps_arena *arena, const char *key, const class_set *set,
                 cps_classes *classes_out) {
    const char **names = cps_arena_alloc(arena, (size_t)set->count * sizeof *names);
    int64_t *slots = cps_arena_alloc(arena, (size_t)set->slot_count * sizeof *slots);
    lookup *found = cps_arena_alloc(arena, sizeof *found);
    const char *name = cps_arena_strdup(arena, key);
    if (names == NULL || slots == NULL || found == NULL || name == NULL) {
        return false;
    }
    memcpy(names, set->names, (size_t)set->count * sizeof *names);
    memcpy(slots, set->slots, (size_t)set->slot_count * sizeof *slots);
    *found = (lookup){name, taxonomy_rank(key), set->slot_count, slots};
    *classes_out = (cps_classes){set->count, names, found};
    return true;
}

/* Value of a record for any key. False: no value, or a failure (*status). */
static bool stored_value(const cps_place *place, const char *key, int32_t rank, char *text,
                         size_t bytes, cps_status *status) {
    if (rank < 0) {
        return field_value(place->shard, place->record, key, text, bytes);
    }
    const cps_taxon_fields fields = cps_taxon_fields_of(place->shard, place->record);
    cps_taxon *taxon = NULL;
    *status = cps_taxon_clean(&fields, &taxon);
    const bool has = *status == CPS_OK && taxonomy_value(taxon, rank, text, bytes, status);
    free(taxon);
    return has;
}

/* All values of a stream's records; the arena keeps them. */
static cps_status collect(cps_setup *setup, const cps_stream *records, const char *stream,
                          const char *key, cps_classes *classes_out) {
    cps_arena *arena = setup->plan->arena;
    class_set set = {0};
    char text[VALUE_BYTES];
    const int32_t rank = taxonomy_rank(key);
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < cps_stream_records(records) && status == CPS_OK; i++) {
        cps_place place;
        cps_stream_stored(records, i, &place);
        if (stored_value(&place, key, rank, text, VALUE_BYTES, &status) &&
            !insert(&set, arena, text)) {
            status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the classes of '%s'", key);
        }
    }
    if (status == CPS_OK && set.count == 0) {
        status =
            rank >= 0
                ? cps_fail(CPS_ERR_DATA,
                           "stream '%s': none of its %lld records names an organism: pack a table "
                           "with some of the columns kingdom, phylum, class, order, family, "
                           "genus, species filled",
                           stream, (long long)cps_stream_records(records))
                : cps_fail(CPS_ERR_DATA,
                           "stream '%s' has no value of '%s' in any record; pack it with that "
                           "column",
                           stream, key);
    }
    if (status == CPS_OK && !keep(arena, key, &set, classes_out)) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the classes of '%s'", key);
    }
    free(set.names);
    free(set.slots);
    return status;
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
    const cps_stream *records = stream_of(setup, stream);
    if (strncmp(key, taxonomy_prefix, sizeof taxonomy_prefix - 1) == 0 && taxonomy_rank(key) < 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "classes by '%s': 'taxonomy:' wants one of kingdom, phylum, class, order, "
                        "family, genus, species",
                        key);
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

int64_t cps_serve_record_class(const cps_record_ref *record, const cps_classes *classes) {
    const lookup *list = classes->lookup;
    const cps_sample *sample = record->sample;
    char text[VALUE_BYTES];
    if (list == NULL) {
        return -1;
    }
    bool has = false;
    if (list->rank < 0) {
        has = field_value(sample->shard, sample->record, list->key, text, sizeof text);
    } else {
        const cps_taxon *taxon = NULL;
        cps_status status = cps_record_taxon(record, &taxon);
        has = status == CPS_OK && taxonomy_value(taxon, list->rank, text, sizeof text, &status);
        cps_record_fail(record, status);
    }
    return has ? list->slots[slot_of(list->slots, list->slot_count, classes->names, text)] : -1;
}
