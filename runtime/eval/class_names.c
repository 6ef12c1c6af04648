#include "eval/class_names.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/text.h"

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the names of the classes");
}

void cps_class_names_init(cps_class_names *names_out, bool taxa) {
    *names_out = (cps_class_names){.fields = taxa ? CPS_TAXON_FIELDS : 1};
}

void cps_class_names_free(cps_class_names *names) {
    free(names->ids);
    free(names->offsets);
    free(names->bytes);
    free(names->slots);
    *names = (cps_class_names){0};
}

bool cps_class_names_are_taxa(const cps_class_names *names) {
    return names->fields == CPS_TAXON_FIELDS;
}

/* ---- texts ---- */

static const char *text_at(const cps_class_names *names, int64_t number) {
    return names->bytes + names->offsets[number];
}

/* The slot that holds the text, or the empty one where it would stand. */
static int64_t slot_of(const cps_class_names *names, const char *text) {
    int64_t at = (int64_t)(cps_hash64_text(text) % (uint64_t)names->slot_count);
    while (names->slots[at] >= 0 && strcmp(text_at(names, names->slots[at]), text) != 0) {
        at = (at + 1) % names->slot_count;
    }
    return at;
}

static bool make_slots(cps_class_names *names, int64_t slot_count) {
    int32_t *slots = malloc((size_t)slot_count * sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    free(names->slots);
    names->slots = slots;
    names->slot_count = slot_count;
    memset(slots, 0xff, (size_t)slot_count * sizeof *slots);
    for (int64_t i = 0; i < names->texts; i++) {
        slots[slot_of(names, text_at(names, i))] = (int32_t)i;
    }
    return true;
}

/* Room for one more text of `bytes` bytes. */
static bool make_room(cps_class_names *names, size_t bytes) {
    if (names->texts + 2 > names->text_room) {
        const int64_t room = 2 * names->text_room + 256;
        int64_t *offsets = realloc(names->offsets, (size_t)room * sizeof *offsets);
        if (offsets == NULL) {
            return false;
        }
        offsets[0] = 0;
        names->offsets = offsets;
        names->text_room = room;
    }
    const int64_t used = names->offsets[names->texts], wanted = used + (int64_t)bytes;
    if (wanted > names->byte_room) {
        const int64_t room = 2 * names->byte_room + (int64_t)bytes + 4096;
        char *longer = realloc(names->bytes, (size_t)room);
        if (longer == NULL) {
            return false;
        }
        names->bytes = longer;
        names->byte_room = room;
    }
    return 2 * (names->texts + 1) <= names->slot_count ||
           make_slots(names, 2 * names->slot_count + 1024);
}

/* The text's number, added where it is new; -1: out of memory. */
static int32_t number_of(cps_class_names *names, const char *text) {
    const size_t bytes = strlen(text) + 1;
    if (names->texts + 1 >= INT32_MAX || !make_room(names, bytes)) {
        return -1;
    }
    const int64_t slot = slot_of(names, text);
    if (names->slots[slot] < 0) {
        const int64_t used = names->offsets[names->texts];
        memcpy(names->bytes + used, text, bytes);
        names->slots[slot] = (int32_t)names->texts++;
        names->offsets[names->texts] = used + (int64_t)bytes;
    }
    return names->slots[slot];
}

/* ---- classes ---- */

cps_status cps_class_names_add(cps_class_names *names, const char *const *texts) {
    if (names->count == names->class_room) {
        const int64_t room = 2 * names->class_room + 256;
        int32_t *ids =
            room >= INT32_MAX
                ? NULL
                : realloc(names->ids, (size_t)(room * names->fields) * sizeof *names->ids);
        if (ids == NULL) {
            return fail_memory();
        }
        names->ids = ids;
        names->class_room = room;
    }
    for (int32_t f = 0; f < names->fields; f++) {
        const int32_t number = number_of(names, texts[f] != NULL ? texts[f] : "");
        if (number < 0) {
            return fail_memory();
        }
        names->ids[names->count * names->fields + f] = number;
    }
    names->count++;
    return CPS_OK;
}

const char *cps_class_name(const cps_class_names *names, int64_t index, int32_t field) {
    CPS_BUG_IF(index < 0 || index >= names->count || field < 0 || field >= names->fields);
    return text_at(names, names->ids[index * names->fields + field]);
}

int64_t cps_class_names_find(const cps_class_names *names, const char *label) {
    CPS_BUG_IF(cps_class_names_are_taxa(names));
    if (names->slots == NULL) {
        return -1;
    }
    const int32_t text = names->slots[slot_of(names, label)];
    for (int64_t i = text; i < names->count && text >= 0;
         i++) { /* at `text` unless labels repeat */
        if (names->ids[i] == text) {
            return i;
        }
    }
    return -1;
}

char *cps_class_short_name(const cps_class_names *names, int64_t index) {
    enum { GENUS = 5, EPITHET = 6 };
    if (!cps_class_names_are_taxa(names)) {
        return cps_format("%s", cps_class_name(names, index, 0));
    }
    const char *genus = cps_class_name(names, index, GENUS);
    const char *epithet = cps_class_name(names, index, EPITHET);
    return cps_format("%s%s%s", genus, *genus != '\0' && *epithet != '\0' ? " " : "", epithet);
}

/* The texts of fields [first, last) with blanks between, empty ones left out; malloc'ed. */
static char *join_known(const cps_class_names *names, int64_t index, int32_t first, int32_t last) {
    char *joined = cps_format("%s", "");
    for (int32_t f = first; f < last; f++) {
        const char *text = cps_class_name(names, index, f);
        if (*text != '\0') {
            char *longer = cps_format("%s%s%s", joined, *joined != '\0' ? " " : "", text);
            free(joined);
            joined = longer;
        }
    }
    return joined;
}

char *cps_class_long_name(const cps_class_names *names, int64_t index) {
    return join_known(names, index, 0, names->fields == 1 ? 1 : CPS_TAXON_RANKS);
}

cps_status cps_class_names_keep(cps_class_names *names, const int64_t *chosen, int64_t count) {
    cps_class_names kept;
    cps_class_names_init(&kept, cps_class_names_are_taxa(names));
    for (int64_t i = 0; i < count; i++) {
        const char *texts[CPS_TAXON_FIELDS];
        for (int32_t f = 0; f < names->fields; f++) {
            texts[f] = cps_class_name(names, chosen[i], f);
        }
        const cps_status status = cps_class_names_add(&kept, texts);
        if (status != CPS_OK) {
            cps_class_names_free(&kept);
            return status;
        }
    }
    cps_class_names_free(names);
    *names = kept;
    return CPS_OK;
}

uint64_t cps_class_names_digest(const cps_class_names *names) {
    cps_hash *hash = cps_hash_create();
    for (int64_t i = 0; i < names->count; i++) {
        for (int32_t f = 0; f < names->fields; f++) {
            const char *text = cps_class_name(names, i, f);
            cps_hash_add(hash, text, strlen(text) + 1);
        }
    }
    const uint64_t digest = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return digest;
}

/* ---- from a file ---- */

static bool texts_are_good(const cps_class_names *names) {
    const int64_t *offsets = names->offsets;
    bool good = offsets[0] == 0 && offsets[names->texts] == names->byte_room;
    for (int64_t i = 0; i < names->texts && good; i++) {
        const int64_t first = offsets[i], length = offsets[i + 1] - first - 1;
        good = length >= 0 && first >= 0 && length < names->byte_room - first &&
               names->bytes[first + length] == '\0' &&
               memchr(names->bytes + first, '\0', (size_t)length) == NULL &&
               cps_utf8_is_valid(names->bytes + first, (size_t)length);
    }
    return good;
}

cps_status cps_class_names_check(cps_class_names *names, const char *where) {
    bool good = names->texts < INT32_MAX && names->count < INT32_MAX && texts_are_good(names);
    for (int64_t i = 0; i < names->count * names->fields && good; i++) {
        good = names->ids[i] >= 0 && names->ids[i] < names->texts;
    }
    if (!good) {
        return cps_fail(CPS_ERR_DATA,
                        "%s: the names of its classes do not hang together: the file "
                        "is damaged, make it again",
                        where);
    }
    names->class_room = names->count;
    names->text_room = names->texts + 1;
    return make_slots(names, 2 * names->texts + 1024) ? CPS_OK : fail_memory();
}

/* ---- the text of a class ---- */

/* BioCLIP 1's published matrix: ranks until one is missing. */
static char *ranks_to_gap(const cps_class_names *names, int64_t index) {
    int32_t known = 0;
    while (known < CPS_TAXON_RANKS && *cps_class_name(names, index, known) != '\0') {
        known++;
    }
    return join_known(names, index, 0, known);
}

/* BioCLIP 2's: the seven ranks and the common name, each behind a blank, whether empty or not. */
static char *ranks_and_common(const cps_class_names *names, int64_t index) {
    char *joined = cps_format("%s", cps_class_name(names, index, 0));
    for (int32_t f = 1; f < CPS_TAXON_FIELDS; f++) {
        char *longer = cps_format("%s %s", joined, cps_class_name(names, index, f));
        free(joined);
        joined = longer;
    }
    return joined;
}

static cps_status taxon_text(const cps_class_names *names, int64_t index, const char *type,
                             char **text_out) {
    *text_out = NULL;
    if (strcmp(type, "ranks") == 0) {
        *text_out = ranks_to_gap(names, index);
    } else if (strcmp(type, "ranks_com") == 0) {
        *text_out = ranks_and_common(names, index);
    } else {
        cps_taxon_fields fields = {.common = cps_class_name(names, index, CPS_NAME_COMMON)};
        for (int32_t f = 0; f < CPS_TAXON_RANKS; f++) {
            fields.ranks[f] = cps_class_name(names, index, f);
        }
        CPS_TRY(cps_taxon_evaluation_text(&fields, type, text_out));
    }
    if (*text_out == NULL || (*text_out)[strspn(*text_out, " ")] == '\0') {
        char *name = cps_class_long_name(names, index);
        const cps_status status =
            cps_fail(CPS_ERR_USAGE,
                     "taxon %lld ('%s') has no text of type '%s': choose another type, or leave "
                     "the taxon out",
                     (long long)index + 1, name, type);
        free(name);
        free(*text_out);
        *text_out = NULL;
        return status;
    }
    return CPS_OK;
}

cps_status cps_class_texts(const cps_class_names *names, const char *type, char ***texts_out) {
    char **texts = calloc((size_t)names->count + 1, sizeof *texts);
    cps_status status = texts == NULL ? fail_memory() : CPS_OK;
    for (int64_t i = 0; i < names->count && status == CPS_OK; i++) {
        if (cps_class_names_are_taxa(names)) {
            status = taxon_text(names, i, type, &texts[i]);
        } else {
            texts[i] = cps_format("%s", cps_class_name(names, i, 0));
        }
    }
    if (status != CPS_OK) {
        cps_strings_destroy(texts, names->count);
        return status;
    }
    *texts_out = texts;
    return CPS_OK;
}
