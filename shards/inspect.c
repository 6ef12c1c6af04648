/* Facts about shards, counted record by record from the index; of the pictures only the headers are
 * read. */
#include "shards/inspect.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/text.h"
#include "image/image.h"
#include "shards/taxa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_REASONS = 1000 };

/* Count, least, sum and most of a quantity. */
typedef struct spread {
    int64_t count, least, most;
    double sum;
} spread;

static void spread_add(spread *to, int64_t value) {
    to->least = to->count == 0 ? value : cps_min_i64(to->least, value);
    to->most = to->count == 0 ? value : cps_max_i64(to->most, value);
    to->sum += (double)value;
    to->count += 1;
}

typedef struct field_facts {
    char *name;
    int64_t records; /* with at least one text */
    spread per_record, characters, words;
    uint64_t *hashes; /* of all texts, for the number of distinct ones */
    int64_t hash_count, hash_room;
} field_facts;

typedef struct tally {
    char *name;
    int64_t count;
} tally;

typedef struct facts {
    int64_t shards, records, bad, unlabelled;
    spread image_bytes;
    int64_t formats[3]; /* by cps_image_format */
    int32_t *sides;
    int64_t side_count, side_room;
    tally *reasons;
    int64_t reason_count;
    tally *classes;
    int64_t class_count;
    bool has_labels;
    field_facts *fields;
    int64_t field_count;
    uint8_t *bytes; /* one image */
    size_t room;
    cps_json *made_by, *digests;
    cps_taxa *taxa; /* NULL: no shard has a field of a rank */
} facts;

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "inspect: no memory");
}

static void free_tallies(tally *list, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        free(list[i].name);
    }
    free(list);
}

static void free_facts(facts *seen) {
    for (int64_t i = 0; i < seen->field_count; ++i) {
        free(seen->fields[i].name);
        free(seen->fields[i].hashes);
    }
    free(seen->fields);
    free_tallies(seen->reasons, seen->reason_count);
    free_tallies(seen->classes, seen->class_count);
    free(seen->sides);
    free(seen->bytes);
    cps_taxa_destroy(seen->taxa);
}

/* The entry of `name`, made if it is new; NULL when out of memory. */
static tally *tally_of(tally **list, int64_t *count, const char *name) {
    for (int64_t i = 0; i < *count; ++i) {
        if (strcmp((*list)[i].name, name) == 0) {
            return &(*list)[i];
        }
    }
    tally *longer = realloc(*list, ((size_t)*count + 1) * sizeof *longer);
    if (longer == NULL) {
        return NULL;
    }
    *list = longer;
    longer[*count] = (tally){.name = cps_format("%s", name)};
    return &longer[(*count)++];
}

static field_facts *field_of(facts *seen, const char *name) {
    for (int64_t i = 0; i < seen->field_count; ++i) {
        if (strcmp(seen->fields[i].name, name) == 0) {
            return &seen->fields[i];
        }
    }
    field_facts *longer =
        realloc(seen->fields, ((size_t)seen->field_count + 1) * sizeof *seen->fields);
    if (longer == NULL) {
        return NULL;
    }
    seen->fields = longer;
    longer[seen->field_count] = (field_facts){.name = cps_format("%s", name)};
    return &longer[seen->field_count++];
}

/* ---- texts
 * --------------------------------------------------------------------------------------------------------
 */

static void count_text(const char *text, int64_t *characters_out, int64_t *words_out) {
    const size_t length = strlen(text);
    int64_t characters = 0;
    int64_t words = 0;
    bool inside = false;
    for (size_t at = 0; at < length;) {
        const bool space = cps_utf8_is_space(cps_utf8_next(text, length, &at));
        words += !space && !inside;
        inside = !space;
        characters += 1;
    }
    *characters_out = characters;
    *words_out = words;
}

static cps_status take_text(field_facts *field, const char *text) {
    int64_t characters = 0;
    int64_t words = 0;
    count_text(text, &characters, &words);
    spread_add(&field->characters, characters);
    spread_add(&field->words, words);
    if (field->hash_count == field->hash_room) {
        const int64_t room = field->hash_room == 0 ? 1024 : 2 * field->hash_room;
        uint64_t *hashes = realloc(field->hashes, (size_t)room * sizeof *hashes);
        if (hashes == NULL) {
            return fail_memory();
        }
        field->hashes = hashes;
        field->hash_room = room;
    }
    field->hashes[field->hash_count++] = cps_hash64_text(text);
    return CPS_OK;
}

static cps_status take_field(const cps_shard *shard, int64_t number, facts *seen) {
    field_facts *field = field_of(seen, cps_shard_field_name(shard, number));
    if (field == NULL) {
        return fail_memory();
    }
    for (int64_t i = 0; i < cps_shard_count(shard); ++i) {
        const int64_t count = cps_shard_text_count(shard, number, i);
        spread_add(&field->per_record, count);
        field->records += count > 0;
        for (int64_t k = 0; k < count; ++k) {
            CPS_TRY(take_text(field, cps_shard_text(shard, number, i, k)));
        }
    }
    return CPS_OK;
}

static int by_value(const void *a, const void *b) {
    const uint64_t left = *(const uint64_t *)a;
    const uint64_t right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

static int64_t count_distinct(field_facts *field) {
    if (field->hash_count > 0) {
        qsort(field->hashes, (size_t)field->hash_count, sizeof *field->hashes, by_value);
    }
    int64_t distinct = 0;
    for (int64_t i = 0; i < field->hash_count; ++i) {
        distinct += i == 0 || field->hashes[i] != field->hashes[i - 1];
    }
    return distinct;
}

/* ---- pictures and labels
 * ------------------------------------------------------------------------------------------ */

static cps_status load_image(const cps_shard *shard, int64_t record, facts *seen) {
    const size_t length = (size_t)cps_shard_image_bytes(shard, record);
    if (length > seen->room) {
        uint8_t *bytes = realloc(seen->bytes, length);
        if (bytes == NULL) {
            return fail_memory();
        }
        seen->bytes = bytes;
        seen->room = length;
    }
    return length > 0 ? cps_shard_read_image(shard, record, false, seen->bytes) : CPS_OK;
}

static cps_status take_side(facts *seen, int32_t side) {
    if (seen->side_count == seen->side_room) {
        const int64_t room = seen->side_room == 0 ? 1024 : 2 * seen->side_room;
        int32_t *sides = realloc(seen->sides, (size_t)room * sizeof *sides);
        if (sides == NULL) {
            return fail_memory();
        }
        seen->sides = sides;
        seen->side_room = room;
    }
    seen->sides[seen->side_count++] = side;
    return CPS_OK;
}

static cps_status take_image(const cps_shard *shard, int64_t record, facts *seen) {
    const size_t length = (size_t)cps_shard_image_bytes(shard, record);
    const char *reason = cps_shard_bad_reason(shard, record);
    spread_add(&seen->image_bytes, (int64_t)length);
    CPS_TRY(load_image(shard, record, seen));
    seen->formats[length > 0 ? cps_image_sniff(seen->bytes, length) : CPS_IMAGE_UNKNOWN] += 1;
    if (reason != NULL) {
        seen->bad += 1;
        if (seen->reason_count < MAX_REASONS) {
            tally *entry = tally_of(&seen->reasons, &seen->reason_count, reason);
            if (entry == NULL) {
                return fail_memory();
            }
            entry->count += 1;
        }
        return CPS_OK;
    }
    int32_t width = 0;
    int32_t height = 0;
    CPS_TRY(cps_image_size(seen->bytes, length, &width, &height));
    return take_side(seen, width < height ? width : height);
}

/* Classes are told apart by name: shards of one set carry the same list. */
static cps_status take_labels(const cps_shard *shard, facts *seen) {
    const int64_t classes = cps_shard_class_count(shard);
    int64_t *counts = calloc((size_t)classes + 1, sizeof *counts);
    if (counts == NULL) {
        return fail_memory();
    }
    for (int64_t i = 0; i < cps_shard_count(shard); ++i) {
        const int32_t label = cps_shard_label(shard, i);
        counts[label >= 0 ? label : classes] += 1;
    }
    seen->has_labels = seen->has_labels || cps_shard_has_labels(shard);
    seen->unlabelled += counts[classes];
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < classes; ++i) {
        const char *name = cps_shard_class_name(shard, i);
        const bool in_place = i < seen->class_count && strcmp(seen->classes[i].name, name) == 0;
        tally *entry =
            in_place ? &seen->classes[i] : tally_of(&seen->classes, &seen->class_count, name);
        if (entry == NULL) {
            status = fail_memory();
        } else {
            entry->count += counts[i];
        }
    }
    free(counts);
    return status;
}

/* Of shards that have a field of a rank. */
static cps_status take_taxa(const cps_shard *shard, facts *seen) {
    bool any = false;
    for (int64_t f = 0; f < cps_shard_field_count(shard); ++f) {
        any = any || cps_taxon_rank(cps_shard_field_name(shard, f)) >= 0;
    }
    if (!any) {
        return CPS_OK;
    }
    if (seen->taxa == NULL) {
        CPS_TRY(cps_taxa_create(&seen->taxa));
    }
    for (int64_t i = 0; i < cps_shard_count(shard); ++i) {
        const cps_taxon_fields fields = cps_taxon_fields_of(shard, i);
        CPS_TRY(cps_taxa_add(seen->taxa, &fields, NULL));
    }
    return CPS_OK;
}

static cps_status take_shard(const char *path, facts *seen) {
    cps_shard *shard = NULL;
    CPS_TRY(cps_shard_open(path, &shard));
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < cps_shard_count(shard); ++i) {
        status = cps_fail_context(take_image(shard, i, seen), "shard '%s', record %lld", path,
                                  (long long)i);
    }
    for (int64_t f = 0; status == CPS_OK && f < cps_shard_field_count(shard); ++f) {
        status = take_field(shard, f, seen);
    }
    if (status == CPS_OK) {
        status = take_labels(shard, seen);
    }
    if (status == CPS_OK) {
        status = take_taxa(shard, seen);
    }
    if (status == CPS_OK) {
        char hex[32];
        snprintf(hex, sizeof hex, "%016llx", (unsigned long long)cps_shard_digest(shard));
        cps_json_add_string(seen->digests, NULL, hex);
        cps_json_add_string(seen->made_by, NULL, cps_shard_made_by(shard));
        seen->records += cps_shard_count(shard);
        seen->shards += 1;
    }
    cps_shard_close(shard);
    return status;
}

/* ---- as JSON
 * ------------------------------------------------------------------------------------------------------
 */

static void put_spread(cps_json *parent, const char *key, const spread *values) {
    cps_json *to = cps_json_add_object(parent, key);
    cps_json_add_number(to, "least", (double)values->least);
    cps_json_add_number(to, "mean", values->count > 0 ? values->sum / (double)values->count : 0);
    cps_json_add_number(to, "most", (double)values->most);
}

static void put_tallies(cps_json *parent, const char *key, const char *name_key, const tally *list,
                        int64_t count) {
    cps_json *to = cps_json_add_array(parent, key);
    for (int64_t i = 0; i < count; ++i) {
        cps_json *entry = cps_json_add_object(to, NULL);
        cps_json_add_string(entry, name_key, list[i].name);
        cps_json_add_number(entry, "count", (double)list[i].count);
    }
}

static int by_side(const void *a, const void *b) {
    const int32_t left = *(const int32_t *)a;
    const int32_t right = *(const int32_t *)b;
    return left < right ? -1 : left > right;
}

static void put_pictures(const facts *seen, cps_json *root) {
    cps_json *formats = cps_json_add_object(root, "formats");
    cps_json_add_number(formats, "jpeg", (double)seen->formats[CPS_IMAGE_JPEG]);
    cps_json_add_number(formats, "png", (double)seen->formats[CPS_IMAGE_PNG]);
    cps_json_add_number(formats, "other", (double)seen->formats[CPS_IMAGE_UNKNOWN]);
    cps_json *sides = cps_json_add_object(root, "sides");
    const int64_t count = seen->side_count;
    if (count > 0) {
        qsort(seen->sides, (size_t)count, sizeof *seen->sides, by_side);
        cps_json_add_number(sides, "least", seen->sides[0]);
        cps_json_add_number(sides, "median", seen->sides[count / 2]);
        cps_json_add_number(sides, "most", seen->sides[count - 1]);
    }
}

static void put_fields(facts *seen, cps_json *root) {
    cps_json *fields = cps_json_add_array(root, "fields");
    for (int64_t i = 0; i < seen->field_count; ++i) {
        field_facts *field = &seen->fields[i];
        cps_json *to = cps_json_add_object(fields, NULL);
        cps_json_add_string(to, "name", field->name);
        cps_json_add_number(to, "records", (double)field->records);
        cps_json_add_number(to, "texts", (double)field->characters.count);
        cps_json_add_number(to, "distinct", (double)count_distinct(field));
        put_spread(to, "per_record", &field->per_record);
        put_spread(to, "characters", &field->characters);
        put_spread(to, "words", &field->words);
    }
}

static void put_facts(facts *seen, cps_json *root) {
    cps_json_add_string(root, "format", "copse-shard");
    cps_json_add_number(root, "version", CPS_SHARD_FORMAT);
    cps_json_add_number(root, "shards", (double)seen->shards);
    cps_json_add_number(root, "records", (double)seen->records);
    put_spread(root, "image_bytes", &seen->image_bytes);
    cps_json_add_number(root, "total_image_bytes", seen->image_bytes.sum);
    put_pictures(seen, root);
    cps_json *bad = cps_json_add_object(root, "bad");
    cps_json_add_number(bad, "count", (double)seen->bad);
    put_tallies(bad, "reasons", "reason", seen->reasons, seen->reason_count);
    put_fields(seen, root);
    if (seen->has_labels) {
        cps_json *labels = cps_json_add_object(root, "labels");
        cps_json_add_number(labels, "classes", (double)seen->class_count);
        cps_json_add_number(labels, "unlabelled", (double)seen->unlabelled);
        put_tallies(labels, "counts", "name", seen->classes, seen->class_count);
    }
}

cps_status cps_inspect(const char *const *paths, int64_t path_count, cps_json **facts_out) {
    cps_json *root = cps_json_new_object();
    facts seen = {.made_by = cps_json_add_array(root, "made_by"),
                  .digests = cps_json_add_array(root, "digests")};
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < path_count; ++i) {
        status = take_shard(paths[i], &seen);
    }
    cps_taxa_summary taxa;
    if (status == CPS_OK && seen.taxa != NULL) {
        status = cps_taxa_sum_up(seen.taxa, &taxa);
    }
    if (status == CPS_OK) {
        put_facts(&seen, root);
        if (seen.taxa != NULL) {
            cps_taxa_put(&taxa, root, "taxonomy");
        }
        *facts_out = root;
    } else {
        cps_json_destroy(root);
    }
    free_facts(&seen);
    return status;
}

/* ---- as text
 * ------------------------------------------------------------------------------------------------------
 */

/* Appends a formatted piece to a malloc'ed text. */
static void add_line(char **text, char *piece) {
    char *longer = cps_format("%s%s", *text, piece);
    free(piece);
    free(*text);
    *text = longer;
}

static long long whole(const cps_json *object, const char *key) {
    return (long long)cps_json_get_integer(object, key, 0);
}

static void print_fields(char **text, const cps_json *fields) {
    if (cps_json_count(fields) == 0) {
        return;
    }
    add_line(text, cps_format("\n%-20s %9s %9s %9s %11s %17s %12s\n", "text field", "records",
                              "texts", "distinct", "a record", "characters", "words"));
    for (const cps_json *field = cps_json_first(fields); field != NULL;
         field = cps_json_next(field)) {
        const cps_json *per_record = cps_json_get(field, "per_record");
        const cps_json *characters = cps_json_get(field, "characters");
        const cps_json *words = cps_json_get(field, "words");
        add_line(text,
                 cps_format("%-20s %9lld %9lld %9lld %5lld-%-5lld %5lld/%5.1f/%5lld %6.1f/%5lld\n",
                            cps_json_get_string(field, "name", ""), whole(field, "records"),
                            whole(field, "texts"), whole(field, "distinct"),
                            whole(per_record, "least"), whole(per_record, "most"),
                            whole(characters, "least"), cps_json_get_number(characters, "mean", 0),
                            whole(characters, "most"), cps_json_get_number(words, "mean", 0),
                            whole(words, "most")));
    }
    add_line(text, cps_format("(characters: least/mean/most; words: mean/most)\n"));
}

/* A bar of at most 40 signs beside each class. */
static void print_labels(char **text, const cps_json *labels) {
    const cps_json *counts = cps_json_get(labels, "counts");
    if (labels == NULL) {
        add_line(text, cps_format("\nno labels\n"));
        return;
    }
    int64_t most = 1;
    for (const cps_json *entry = cps_json_first(counts); entry != NULL;
         entry = cps_json_next(entry)) {
        most = cps_max_i64(most, cps_json_get_integer(entry, "count", 0));
    }
    add_line(text, cps_format("\n%lld classes, %lld records without label\n",
                              whole(labels, "classes"), whole(labels, "unlabelled")));
    for (const cps_json *entry = cps_json_first(counts); entry != NULL;
         entry = cps_json_next(entry)) {
        const int64_t count = cps_json_get_integer(entry, "count", 0);
        add_line(text, cps_format("%9lld %-40.*s %s\n", (long long)count,
                                  (int)((40 * count + most - 1) / most),
                                  "########################################",
                                  cps_json_get_string(entry, "name", "")));
    }
}

char *cps_inspect_text(const cps_json *facts_json) {
    const cps_json *bytes = cps_json_get(facts_json, "image_bytes");
    const cps_json *formats = cps_json_get(facts_json, "formats");
    const cps_json *sides = cps_json_get(facts_json, "sides");
    const cps_json *bad = cps_json_get(facts_json, "bad");
    char *text = cps_format(
        "%s version %lld: %lld shards, %lld records, %.1f MB of images\n"
        "images: %lld JPEG, %lld PNG, %lld other; bytes least %lld, mean %.0f, most %lld; shorter "
        "side least %lld, median %lld, most %lld\n",
        cps_json_get_string(facts_json, "format", ""), whole(facts_json, "version"),
        whole(facts_json, "shards"), whole(facts_json, "records"),
        cps_json_get_number(facts_json, "total_image_bytes", 0) / 1e6, whole(formats, "jpeg"),
        whole(formats, "png"), whole(formats, "other"), whole(bytes, "least"),
        cps_json_get_number(bytes, "mean", 0), whole(bytes, "most"), whole(sides, "least"),
        whole(sides, "median"), whole(sides, "most"));
    const cps_json *made_by = cps_json_first(cps_json_get(facts_json, "made_by"));
    if (made_by != NULL) {
        add_line(&text, cps_format("made by: %s%s\n", cps_json_string(made_by),
                                   whole(facts_json, "shards") > 1 ? " ..." : ""));
    }
    add_line(&text, cps_format("bad images: %lld\n", whole(bad, "count")));
    for (const cps_json *reason = cps_json_first(cps_json_get(bad, "reasons")); reason != NULL;
         reason = cps_json_next(reason)) {
        add_line(&text, cps_format("%9lld %s\n", whole(reason, "count"),
                                   cps_json_get_string(reason, "reason", "")));
    }
    print_fields(&text, cps_json_get(facts_json, "fields"));
    if (cps_json_get(facts_json, "taxonomy") != NULL) {
        add_line(&text, cps_taxa_text(cps_json_get(facts_json, "taxonomy")));
    }
    print_labels(&text, cps_json_get(facts_json, "labels"));
    return text;
}
