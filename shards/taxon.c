/* Captions, evaluation strings and classes from the names of organisms; the cleaning before it is
 * in taxon_clean.c. Texts are put together in one buffer that grows; a section of it is what was
 * added since a remembered length. */
#include "shards/taxon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"

const char *const cps_taxon_rank_names[] = {"kingdom", "phylum", "class",   "order",
                                            "family",  "genus",  "species", NULL};

int32_t cps_taxon_rank(const char *name) {
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        if (strcmp(name, cps_taxon_rank_names[rank]) == 0) {
            return rank;
        }
    }
    return strcmp(name, "cls") == 0 ? cps_taxon_rank("class") : -1;
}

static const char *first_text(const cps_shard *shard, const char *name, int64_t record) {
    const int64_t field = cps_shard_field(shard, name);
    const bool has = field >= 0 && cps_shard_text_count(shard, field, record) > 0;
    return has ? cps_shard_text(shard, field, record, 0) : NULL;
}

cps_taxon_fields cps_taxon_fields_of(const cps_shard *shard, int64_t record) {
    cps_taxon_fields fields = {.common = first_text(shard, "common_name", record),
                               .subspecies = first_text(shard, "subspecies", record),
                               .scientific = first_text(shard, "scientific_name", record)};
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        fields.ranks[rank] = first_text(shard, cps_taxon_rank_names[rank], record);
    }
    const int32_t label = cps_shard_has_labels(shard) ? cps_shard_label(shard, record) : -1;
    fields.as_is = label >= 0 ? cps_shard_class_name(shard, label) : NULL;
    return fields;
}

/* ---- the buffer ------------------------------------------------------------------------------ */

enum { FIRST_ROOM = 512 };

/* `bytes` NULL: out of memory; everything after that does nothing. */
typedef struct writer {
    char *bytes;
    size_t length, room;
} writer;

static writer start(void) {
    return (writer){.bytes = malloc(FIRST_ROOM), .room = FIRST_ROOM};
}

static void put_bytes(writer *w, const char *bytes, size_t count) {
    if (w->bytes != NULL && count >= w->room - w->length) { /* a byte stays free for the end */
        const size_t room = 2 * (w->room + count);
        char *grown = realloc(w->bytes, room);
        if (grown == NULL) {
            free(w->bytes);
        }
        w->bytes = grown;
        w->room = room;
    }
    if (w->bytes != NULL) {
        memcpy(w->bytes + w->length, bytes, count);
        w->length += count;
    }
}

static void put(writer *w, const char *text) {
    put_bytes(w, text, strlen(text));
}

/* Puts a malloc'ed text and frees it; NULL is out of memory. */
static void put_owned(writer *w, char *text) {
    if (text == NULL) {
        free(w->bytes);
        w->bytes = NULL;
        return;
    }
    put(w, text);
    free(text);
}

static bool is_empty(const writer *w, size_t section) {
    return w->length == section;
}

static cps_status finish(writer *w, char **text_out) {
    if (w->bytes == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the text of a record");
    }
    w->bytes[w->length] = '\0';
    *text_out = w->bytes;
    return CPS_OK;
}

/* ---- words ----------------------------------------------------------------------------------- */

static bool is_space_at(const char *text, size_t length, size_t *at) {
    const unsigned char byte = (unsigned char)text[*at];
    if (byte > ' ' && byte < 0x80) {
        *at += 1;
        return false;
    }
    return cps_utf8_is_space(cps_utf8_next(text, length, at));
}

/* The words of a text behind the section's, one blank between words. */
static void put_words(writer *w, size_t section, const char *text) {
    const size_t length = strlen(text);
    size_t at = 0;
    while (at < length) {
        size_t first = at;
        while (first < length && is_space_at(text, length, &at)) {
            first = at;
        }
        if (first == length) {
            return;
        }
        size_t after = at;
        while (at < length && !is_space_at(text, length, &at)) {
            after = at;
        }
        put_bytes(w, " ", is_empty(w, section) ? 0 : 1);
        put_bytes(w, text + first, after - first);
    }
}

static char capital(char byte) {
    return (char)(byte >= 'a' && byte <= 'z' ? byte - ('a' - 'A') : byte);
}

/* A text in lower case with its first letter made upper-case: as it stands, or its words. */
static void put_capitalised(writer *w, size_t section, const char *lower, bool words) {
    if ((unsigned char)lower[0] >= 0x80) {
        char *text = cps_utf8_capitalize(lower);
        if (words && text != NULL) {
            put_words(w, section, text);
            free(text);
        } else {
            put_owned(w, text);
        }
        return;
    }
    const size_t first = w->length + (words && !is_empty(w, section));
    if (words) {
        put_words(w, section, lower);
    } else {
        put(w, lower);
    }
    /* A blank in front has no upper case, and keeps the letter behind it small. */
    if (w->bytes != NULL && first < w->length && w->bytes[first] == lower[0]) {
        w->bytes[first] = capital(lower[0]);
    }
}

static void put_rank(writer *w, size_t section, const cps_taxon *taxon, int32_t rank, bool words) {
    if (rank != CPS_TAXON_SPECIES) {
        put_capitalised(w, section, taxon->ranks[rank], words);
    } else if (words) {
        put_words(w, section, taxon->ranks[rank]);
    } else {
        put(w, taxon->ranks[rank]);
    }
}

/* ---- names ----------------------------------------------------------------------------------- */

static void put_taxonomic(writer *w, const cps_taxon *taxon) {
    const size_t section = w->length;
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        put_rank(w, section, taxon, rank, true);
    }
}

/* Genus and species as one sentence-cased text. clean: else the most specific known rank. */
static void put_scientific(writer *w, const cps_taxon *taxon, bool clean) {
    const size_t section = w->length;
    put_rank(w, section, taxon, CPS_TAXON_GENUS, true);
    put_rank(w, section, taxon, CPS_TAXON_SPECIES, true);
    if (w->bytes == NULL) {
        return;
    }
    for (int32_t rank = CPS_TAXON_GENUS; clean && is_empty(w, section) && rank-- > 0;) {
        put_rank(w, section, taxon, rank, true);
    }
    if (w->bytes == NULL || is_empty(w, section)) {
        return;
    }
    /* What follows the first letter is in lower case, unless the genus begins outside ASCII. */
    if ((unsigned char)w->bytes[section] < 0x80) {
        w->bytes[section] = capital(w->bytes[section]);
        return;
    }
    put_bytes(w, "", 1);
    char *text = w->bytes != NULL ? cps_utf8_capitalize(w->bytes + section) : NULL;
    w->length = section;
    put_owned(w, text);
}

static void put_tagged(writer *w, const cps_taxon *taxon) {
    const size_t section = w->length;
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        if (taxon->ranks[rank][0] != '\0') {
            put(w, is_empty(w, section) ? "" : " ");
            put(w, cps_taxon_rank_names[rank]);
            put(w, " ");
            put_rank(w, section, taxon, rank, false);
        }
    }
}

static void put_common(writer *w, const cps_taxon *taxon, bool clean) {
    const size_t section = w->length;
    put(w, taxon->common);
    if (is_empty(w, section)) {
        put_scientific(w, taxon, clean);
    }
    if (is_empty(w, section)) {
        put_taxonomic(w, taxon);
    }
}

cps_status cps_taxon_rank_text(const cps_taxon *taxon, int32_t rank, char **text_out) {
    CPS_BUG_IF(rank < 0 || rank >= CPS_TAXON_RANKS);
    writer w = start();
    put_rank(&w, 0, taxon, rank, false);
    return finish(&w, text_out);
}

cps_status cps_taxon_path(const cps_taxon *taxon, int32_t rank, char **text_out) {
    CPS_BUG_IF(rank < 0 || rank >= CPS_TAXON_RANKS);
    writer w = start();
    for (int32_t i = 0; i <= rank; i++) {
        put_rank(&w, 0, taxon, i, false);
    }
    return finish(&w, text_out);
}

/* ---- training -------------------------------------------------------------------------------- */

typedef enum subject { SCIENTIFIC, COMMON, TAXONOMIC, TAGGED } subject;

typedef struct shape {
    subject subject;
    bool sentence, with_common;
} shape;

const char *const cps_taxon_types[] = {
    "sci",      "com",          "taxon",           "sci_com",        "taxon_com",
    "taxonTag", "taxonTag_com", "scientific_name", "taxonomic_name", "common_name",
    NULL,
};
/* In the order of the types. */
static const shape shapes[] = {
    {SCIENTIFIC, true, false}, {COMMON, true, false},      {TAXONOMIC, true, false},
    {SCIENTIFIC, true, true},  {TAXONOMIC, true, true},    {TAGGED, true, false},
    {TAGGED, true, true},      {SCIENTIFIC, false, false}, {TAXONOMIC, false, false},
    {COMMON, false, false},
};

/* Index of a type in a list that ends with NULL. */
static cps_status find_type(const char *const *types, const char *type, int32_t *index_out) {
    char known[256] = "";
    size_t used = 0;
    for (int32_t i = 0; types[i] != NULL; i++) {
        if (strcasecmp(types[i], type) == 0) {
            *index_out = i;
            return CPS_OK;
        }
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i == 0 ? "" : ", ",
                                 types[i]);
    }
    return cps_fail(CPS_ERR_USAGE, "no texts of type '%s' are made of names: there are %s", type,
                    known);
}

static void put_subject(writer *w, const cps_taxon *taxon, subject what, bool clean) {
    switch (what) {
    case SCIENTIFIC:
        put_scientific(w, taxon, clean);
        break;
    case COMMON:
        put_common(w, taxon, clean);
        break;
    case TAXONOMIC:
        put_taxonomic(w, taxon);
        break;
    case TAGGED:
        put_tagged(w, taxon);
        break;
    }
}

cps_status cps_taxon_caption(const cps_taxon *taxon, const char *type, bool clean,
                             char **text_out) {
    int32_t index = 0;
    CPS_TRY(find_type(cps_taxon_types, type, &index));
    const shape *s = &shapes[index];
    writer w = start();
    put(&w, s->sentence ? "a photo of " : "");
    put_subject(&w, taxon, s->subject, clean);
    if (s->with_common && !(clean && taxon->common[0] == '\0')) {
        put(&w, " with common name ");
        put_common(&w, taxon, clean);
    }
    put(&w, s->sentence ? "." : "");
    return finish(&w, text_out);
}

/* ---- evaluation ------------------------------------------------------------------------------ */

const char *const cps_taxon_evaluation_types[] = {"asis",    "sci",       "taxon", "com",
                                                  "sci_com", "taxon_com", NULL};

static const char *text_of(const char *field) {
    return field != NULL ? field : "";
}

static void put_field(writer *w, const cps_taxon_fields *fields, int32_t rank) {
    const char *text = text_of(fields->ranks[rank]);
    put_owned(w, rank == CPS_TAXON_SPECIES ? cps_utf8_lower(text) : cps_utf8_capitalize(text));
}

/* Genus, species and subspecies, an empty species included where there is a subspecies. */
static void put_names_given(writer *w, const cps_taxon_fields *fields, bool species) {
    const char *subspecies = text_of(fields->subspecies);
    put_field(w, fields, CPS_TAXON_GENUS);
    if (species || subspecies[0] != '\0') {
        put(w, " ");
        put_field(w, fields, CPS_TAXON_SPECIES);
    }
    if (subspecies[0] != '\0') {
        put(w, " ");
        put_owned(w, cps_utf8_lower(subspecies));
    }
}

/* All ranks, the empty ones leaving their blanks; without a kingdom genus and species alone. */
static void put_lineage_given(writer *w, const cps_taxon_fields *fields) {
    for (int32_t rank = 0; text_of(fields->ranks[0])[0] != '\0' && rank < CPS_TAXON_GENUS; rank++) {
        put_field(w, fields, rank);
        put(w, " ");
    }
    put_names_given(w, fields, true);
}

cps_status cps_taxon_evaluation_text(const cps_taxon_fields *fields, const char *type,
                                     char **text_out) {
    enum { AS_IS, SCI, TAXON, COM, SCI_COM, TAXON_COM };
    int32_t index = 0;
    CPS_TRY(find_type(cps_taxon_evaluation_types, type, &index));
    const char *common = text_of(fields->common);
    const bool has_species = text_of(fields->ranks[CPS_TAXON_SPECIES])[0] != '\0';
    const bool has_scientific = has_species || text_of(fields->ranks[CPS_TAXON_GENUS])[0] != '\0' ||
                                text_of(fields->subspecies)[0] != '\0';
    if ((index == AS_IS && fields->as_is == NULL) ||
        ((index == SCI || index == SCI_COM) && !has_scientific)) {
        *text_out = NULL;
        return CPS_OK;
    }
    writer w = start();
    if (index == AS_IS || index == COM) {
        put(&w, index == COM ? common : fields->as_is);
    } else if (index == SCI || index == SCI_COM) {
        put_names_given(&w, fields, has_species);
    } else {
        put_lineage_given(&w, fields);
    }
    if ((index == SCI_COM || index == TAXON_COM) && common[0] != '\0') {
        put(&w, " with common name ");
        put(&w, common);
    }
    return finish(&w, text_out);
}

/* ---- TreeOfLife-200M ------------------------------------------------------------------------- */

const char *const cps_taxon_tol200m_types[] = {
    "sci", "taxon", "taxonTag", "scientific_name", "taxonomic_name", NULL};

static bool is_known(const char *value) {
    return value != NULL && value[0] != '\0' && strcasecmp(value, "unknown") != 0;
}

int32_t cps_taxon_tol200m_rank(const cps_taxon_fields *fields) {
    int32_t rank = CPS_TAXON_SPECIES;
    while (rank >= 0 && !is_known(fields->ranks[rank])) {
        rank--;
    }
    return rank;
}

/* The last of at least two words; NULL: there is one or none. */
static const char *last_word(const char *text, size_t *bytes_out) {
    const size_t length = strlen(text);
    const char *word = NULL;
    int64_t words = 0;
    bool inside = false;
    for (size_t at = 0; at < length;) {
        const size_t here = at;
        const bool space = is_space_at(text, length, &at);
        if (!space && !inside) {
            word = text + here;
            words++;
        }
        if (!space) {
            *bytes_out = (size_t)(text + at - word);
        }
        inside = !space;
    }
    return words > 1 ? word : NULL;
}

/* The known ranks and the epithet, each behind its rank's name if tagged. */
static void put_lineage_tol200m(writer *w, const cps_taxon_fields *fields, bool tagged) {
    const size_t section = w->length;
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        const char *value = is_known(fields->ranks[rank]) ? fields->ranks[rank] : NULL;
        size_t bytes = value != NULL ? strlen(value) : 0;
        if (value != NULL && rank == CPS_TAXON_SPECIES) {
            value = last_word(value, &bytes);
        }
        if (value != NULL) {
            put(w, is_empty(w, section) ? "" : " ");
            put(w, tagged ? cps_taxon_rank_names[rank] : "");
            put(w, tagged ? " " : "");
            put_bytes(w, value, bytes);
        }
    }
    if (tagged && is_empty(w, section)) {
        put(w, "unknown taxonomy");
    }
}

static void put_scientific_tol200m(writer *w, const cps_taxon_fields *fields) {
    const char *given = text_of(fields->scientific);
    if (given[0] != '\0') {
        size_t length = strlen(given);
        while (length > 0 && given[length - 1] == '.') {
            length--;
        }
        put_bytes(w, given, length);
        return;
    }
    const int32_t rank = cps_taxon_tol200m_rank(fields);
    put(w, rank >= 0 ? fields->ranks[rank] : "Unknown");
}

cps_status cps_taxon_tol200m_text(const cps_taxon_fields *fields, const char *type,
                                  char **text_out) {
    enum { SCI, TAXON, TAXON_TAG, SCIENTIFIC_NAME, TAXONOMIC_NAME };
    int32_t index = 0;
    CPS_TRY(find_type(cps_taxon_tol200m_types, type, &index));
    const bool sentence = index <= TAXON_TAG;
    writer w = start();
    put(&w, sentence ? "a photo of " : "");
    if (index == SCI || index == SCIENTIFIC_NAME) {
        put_scientific_tol200m(&w, fields);
    } else {
        put_lineage_tol200m(&w, fields, index == TAXON_TAG);
    }
    put(&w, sentence ? "." : "");
    return finish(&w, text_out);
}
