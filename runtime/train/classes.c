/* What `create` may ask of a stream: its size, its captions, and by cps_setup_classes the distinct
 * values of a key over its records, in first-seen record order; cps_record_class finds a record's
 * among them. A key is "label", fields joined by '/', or "taxonomy:RANK", the path of cleaned names
 * down to a rank. */
#include "train/stage.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/byte_set.h"
#include "base/hash.h"

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

/* The slot that holds `name`, or the empty one where it would stand. */
static int64_t slot_of(const int64_t *slots, int64_t slot_count, const char *const *names,
                       const char *name) {
    int64_t at = (int64_t)(cps_hash64_text(name) % (uint64_t)slot_count);
    while (slots[at] >= 0 && strcmp(names[slots[at]], name) != 0) {
        at = (at + 1) % slot_count;
    }
    return at;
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
static bool keep(cps_arena *arena, const char *key, const cps_byte_set *set,
                 cps_classes *classes_out) {
    const int64_t count = cps_byte_set_count(set), slot_count = 2 * count + 1;
    const char **names = cps_arena_alloc(arena, (size_t)count * sizeof *names);
    int64_t *slots = cps_arena_alloc(arena, (size_t)slot_count * sizeof *slots);
    lookup *found = cps_arena_alloc(arena, sizeof *found);
    const char *name = cps_arena_strdup(arena, key);
    if (names == NULL || slots == NULL || found == NULL || name == NULL) {
        return false;
    }
    memset(slots, 0xff, (size_t)slot_count * sizeof *slots);
    for (int32_t i = 0; i < count; i++) {
        size_t length;
        const char *text = cps_byte_set_at(set, i, &length);
        if ((names[i] = cps_arena_strdup(arena, text)) == NULL) { /* its end is part of it */
            return false;
        }
        slots[slot_of(slots, slot_count, names, names[i])] = i;
    }
    *found = (lookup){name, taxonomy_rank(key), slot_count, slots};
    *classes_out = (cps_classes){count, names, found};
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

/* ---- lineages -------------------------------------------------------------------------------- */

typedef struct joined {
    char *data;
    size_t length, room;
} joined;

static bool append(joined *to, const char *text) {
    const size_t length = strlen(text) + 1;
    if (length > to->room - to->length) {
        const size_t room = 2 * (to->room + length);
        char *data = realloc(to->data, room);
        if (data == NULL) {
            return false;
        }
        *to = (joined){data, to->length, room};
    }
    memcpy(to->data + to->length, text, length);
    to->length += length;
    return true;
}

/* Adds the record's ranks as they stand. False: out of memory. */
static bool add_lineage(cps_byte_set *set, const cps_place *place, joined *line) {
    const cps_taxon_fields fields = cps_taxon_fields_of(place->shard, place->record);
    line->length = 0;
    for (int32_t k = 0; k < CPS_TAXON_RANKS; k++) {
        if (!append(line, fields.ranks[k] == NULL ? "" : fields.ranks[k])) {
            return false;
        }
    }
    return cps_byte_set_add(set, line->data, line->length) >= 0;
}

/* The first record of each lineage, in order: what cleaning makes of the others is known by these,
 * and a set of millions of pictures has thousands. Kept for the stage's other ranks. */
static cps_status find_lineages(cps_stage_plan *plan, const cps_stream *records) {
    const int64_t count = cps_stream_records(records);
    int64_t *first = NULL, room = 0, found = 0;
    joined line = {0};
    cps_byte_set *set = cps_byte_set_create();
    bool fits = set != NULL;
    for (int64_t i = 0; i < count && fits; i++) {
        cps_place place;
        cps_stream_stored(records, i, &place);
        fits = add_lineage(set, &place, &line);
        if (fits && found == room) {
            room = 2 * room + 256;
            int64_t *grown = realloc(first, (size_t)room * sizeof *first);
            fits = grown != NULL;
            first = fits ? grown : first;
        }
        if (fits && cps_byte_set_count(set) > found) {
            first[found++] = i;
        }
    }
    int64_t *kept = fits ? cps_arena_alloc(plan->arena, (size_t)found * sizeof *kept) : NULL;
    if (kept != NULL) {
        memcpy(kept, first, (size_t)found * sizeof *kept);
        plan->lineages = (cps_stage_lineages){records, found, kept};
    }
    free(first);
    free(line.data);
    cps_byte_set_destroy(set);
    return kept != NULL ? CPS_OK
                        : cps_fail(CPS_ERR_UNAVAILABLE,
                                   "out of memory for the lineages of %lld "
                                   "records",
                                   (long long)count);
}

/* ---- lists ----------------------------------------------------------------------------------- */

/* Adds the values of a stream's records. */
static cps_status add_values(cps_stage_plan *plan, const cps_stream *records, const char *key,
                             cps_byte_set *set) {
    char text[VALUE_BYTES];
    const int32_t rank = taxonomy_rank(key);
    if (rank >= 0 && plan->lineages.of != records) {
        CPS_TRY(find_lineages(plan, records));
    }
    const int64_t count = rank >= 0 ? plan->lineages.count : cps_stream_records(records);
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        cps_place place;
        cps_stream_stored(records, rank >= 0 ? plan->lineages.first[i] : i, &place);
        if (stored_value(&place, key, rank, text, VALUE_BYTES, &status) &&
            cps_byte_set_add(set, text, strlen(text) + 1) < 0) {
            status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the classes of '%s'", key);
        }
    }
    return status;
}

static cps_status fail_none(const cps_stream *records, const char *stream, const char *key) {
    return taxonomy_rank(key) >= 0
               ? cps_fail(CPS_ERR_DATA,
                          "stream '%s': none of its %lld records names an organism: pack a table "
                          "with some of the columns kingdom, phylum, class, order, family, genus, "
                          "species filled",
                          stream, (long long)cps_stream_records(records))
               : cps_fail(CPS_ERR_DATA,
                          "stream '%s' has no value of '%s' in any record; pack it with that "
                          "column",
                          stream, key);
}

/* All values of a stream's records; the arena keeps them. */
static cps_status collect(cps_stage_plan *plan, const cps_stream *records, const char *stream,
                          const char *key, cps_classes *classes_out) {
    cps_byte_set *set = cps_byte_set_create();
    if (set == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the classes of '%s'", key);
    }
    cps_status status = add_values(plan, records, key, set);
    if (status == CPS_OK && cps_byte_set_count(set) == 0) {
        status = fail_none(records, stream, key);
    }
    if (status == CPS_OK && !keep(plan->arena, key, set, classes_out)) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the classes of '%s'", key);
    }
    cps_byte_set_destroy(set);
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
    CPS_TRY(collect(plan, records, stream, key, &list->classes));
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
