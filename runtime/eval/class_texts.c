#include "eval/class_texts.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "shards/taxon.h"

const char *const cps_class_text_types[] = {"label", "asis",    "sci",       "taxon",
                                            "com",   "sci_com", "taxon_com", NULL};

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the texts of the classes");
}

static bool is_blank(const char *text) {
    return text == NULL || text[strspn(text, " \t\r\n")] == '\0';
}

/* ---- one class ---- */

/* The lowest rank that is known, as captions write it; NULL: none is. */
static cps_status lowest_rank(const cps_taxon_fields *fields, char **text_out) {
    cps_taxon *taxon = NULL;
    CPS_TRY(cps_taxon_clean(fields, &taxon));
    char *text = NULL;
    cps_status status = CPS_OK;
    for (int32_t rank = CPS_TAXON_RANKS - 1; rank >= 0 && taxon != NULL && text == NULL; rank--) {
        if (taxon->ranks[rank][0] != '\0') {
            status = cps_taxon_rank_text(taxon, rank, &text);
            rank = status == CPS_OK ? rank : -1;
        }
    }
    free(taxon);
    *text_out = text;
    return status;
}

/* What stands in for a text that the record does not give: for a missing common name the scientific
 * name, for that the lowest known rank, for that the common name. NULL: there is nothing. */
static cps_status stand_in(const cps_taxon_fields *fields, const char *type, char **text_out) {
    char *text = NULL;
    if (strcmp(type, "com") == 0) {
        CPS_TRY(cps_taxon_evaluation_text(fields, "sci", &text));
    }
    if (is_blank(text)) {
        free(text);
        CPS_TRY(lowest_rank(fields, &text));
    }
    if (text == NULL) {
        text = is_blank(fields->common) ? NULL : cps_format("%s", fields->common);
    } else if (strcmp(type, "sci_com") == 0 && !is_blank(fields->common)) {
        char *both = cps_format("%s with common name %s", text, fields->common);
        free(text);
        text = both;
    }
    *text_out = text;
    return CPS_OK;
}

static cps_status fail_text(const char *name, const cps_place *place, const char *type) {
    if (place->shard == NULL) {
        return cps_fail(CPS_ERR_DATA,
                        "class '%s' has no record in the set's shards, so text = \"%s\" cannot be "
                        "made of its ranks: pack the set with the classes that it holds, or use "
                        "text = \"label\"",
                        name, type);
    }
    return cps_fail(CPS_ERR_DATA,
                    "class '%s' has no text of type \"%s\": its first record, %lld of '%s', has "
                    "neither a taxonomic rank nor a common name: pack the set with columns kingdom "
                    ".. species and common_name, or use text = \"label\"",
                    name, type, (long long)place->record, cps_shard_path(place->shard));
}

static cps_status make_text(const char *name, const cps_place *place, const char *type,
                            bool *is_stand_in_out, char **text_out) {
    if (place->shard == NULL) {
        return fail_text(name, place, type);
    }
    const cps_taxon_fields fields = cps_taxon_fields_of(place->shard, place->record);
    char *text = NULL;
    CPS_TRY(cps_taxon_evaluation_text(&fields, type, &text));
    *is_stand_in_out = is_blank(text);
    if (*is_stand_in_out) {
        free(text);
        CPS_TRY(stand_in(&fields, type, &text));
    }
    if (text == NULL) {
        return fail_text(name, place, type);
    }
    *text_out = text;
    return CPS_OK;
}

/* ---- equal texts ---- */

typedef struct entry {
    const char *text;
    int64_t class_index;
} entry;

static int compare_entries(const void *a, const void *b) {
    const entry *left = a, *right = b;
    const int order = strcmp(left->text, right->text);
    return order != 0 ? order
                      : (left->class_index > right->class_index) -
                            (left->class_index < right->class_index);
}

static cps_status find_equal(cps_class_texts *texts) {
    entry *entries = calloc((size_t)texts->count + 1, sizeof *entries);
    if (entries == NULL) {
        return fail_memory();
    }
    for (int64_t i = 0; i < texts->count; i++) {
        entries[i] = (entry){texts->texts[i], i};
    }
    qsort(entries, (size_t)texts->count, sizeof *entries, compare_entries);
    int64_t first = 0; /* of those with this text */
    for (int64_t i = 1; i < texts->count; i++) {
        if (strcmp(entries[i].text, entries[first].text) != 0) {
            first = i;
            continue;
        }
        texts->equal++;
        if (texts->equal_with < 0 || entries[i].class_index < texts->equal_first) {
            texts->equal_with = entries[first].class_index;
            texts->equal_first = entries[i].class_index;
        }
    }
    free(entries);
    return CPS_OK;
}

/* ---- all ---- */

static cps_status fill(const cps_class_list *classes, const cps_place *first_records,
                       const char *type, cps_class_texts *texts) {
    const bool is_name = strcmp(type, "label") == 0 || strcmp(type, "asis") == 0;
    for (int64_t i = 0; i < classes->count; i++) {
        bool is_stand_in = false;
        if (is_name) {
            texts->texts[i] = cps_format("%s", classes->names[i]);
        } else {
            CPS_TRY(make_text(classes->names[i], &first_records[i], type, &is_stand_in,
                              &texts->texts[i]));
        }
        if (is_stand_in && texts->stand_ins++ == 0) {
            texts->stand_in = i;
        }
    }
    return find_equal(texts);
}

cps_status cps_class_texts_make(const cps_class_list *classes, const cps_place *first_records,
                                const char *type, cps_class_texts *texts_out) {
    cps_class_texts texts = {
        .count = classes->count, .stand_in = -1, .equal_with = -1, .equal_first = -1};
    texts.texts = calloc((size_t)classes->count + 1, sizeof *texts.texts);
    if (texts.texts == NULL) {
        return fail_memory();
    }
    const cps_status status = fill(classes, first_records, type, &texts);
    if (status != CPS_OK) {
        cps_class_texts_free(&texts);
        return status;
    }
    *texts_out = texts;
    return CPS_OK;
}

void cps_class_texts_free(cps_class_texts *texts) {
    if (texts->texts != NULL) {
        cps_strings_destroy(texts->texts, texts->count);
    }
    *texts = (cps_class_texts){0};
}
