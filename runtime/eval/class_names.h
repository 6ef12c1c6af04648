/* What the classes of a classifier are called: labels, or taxa (seven ranks and a common name).
 * Equal texts are held once: hundreds of thousands of species share few families. Plain data, so
 * that it can be stored as it lies. Local; one thread adds, any may ask afterwards. */
#ifndef CPS_EVAL_CLASS_NAMES_H
#define CPS_EVAL_CLASS_NAMES_H

#include "shards/taxon.h"

enum {
    CPS_NAME_COMMON = CPS_TAXON_RANKS, /* the field behind the ranks */
    CPS_TAXON_FIELDS = CPS_TAXON_RANKS + 1
};

typedef struct cps_class_names {
    int32_t
        fields;    /* 1: labels; CPS_TAXON_FIELDS: kingdom ... species (the epithet), common name */
    int64_t count; /* classes */
    int32_t *ids;  /* [count, fields]: numbers of texts */
    int64_t texts;
    int64_t *offsets; /* [texts + 1] into bytes; every text ends with NUL */
    char *bytes;
    /* private */
    int64_t class_room, text_room, byte_room, slot_count;
    int32_t *slots; /* open addressing: a text's number, -1: empty */
} cps_class_names;

void cps_class_names_init(cps_class_names *names_out, bool taxa);
void cps_class_names_free(cps_class_names *names); /* safe on a zeroed one */
bool cps_class_names_are_taxa(const cps_class_names *names);
/* texts [fields]; NULL counts as "". UNAVAILABLE: memory, or more than 2^31 classes. */
cps_status cps_class_names_add(cps_class_names *names, const char *const *texts) CPS_MUST_CHECK;
/* Borrowed until the next addition. */
const char *cps_class_name(const cps_class_names *names, int64_t index, int32_t field);
/* Labels: the class called `label`; -1: none. */
int64_t cps_class_names_find(const cps_class_names *names, const char *label);
/* "Ursus arctos" of a taxon (what is known of the two), the label else; malloc'ed. */
char *cps_class_short_name(const cps_class_names *names, int64_t index);
/* For messages: the label, or the ranks that are known; malloc'ed. */
char *cps_class_long_name(const cps_class_names *names, int64_t index);
/* Keeps the classes of `chosen` [count] and their texts alone; UNAVAILABLE leaves all as it was. */
cps_status cps_class_names_keep(cps_class_names *names, const int64_t *chosen,
                                int64_t count) CPS_MUST_CHECK;
/* Makes the searching order anew after the plain members were filled from a file; DATA where they
 * do not fit together: offsets, ids, texts that are not UTF-8. `where` stands in the message. */
cps_status cps_class_names_check(cps_class_names *names, const char *where) CPS_MUST_CHECK;
uint64_t cps_class_names_digest(const cps_class_names *names);

/* A label a line, trimmed, blank lines passed over; a shard gives its class list. USAGE: none, or
 * one twice (with both lines). DATA: not UTF-8. */
cps_status cps_class_names_read_labels(const char *path, cps_class_names *names_out) CPS_MUST_CHECK;
/* Adds one label, trimmed; USAGE where it is blank or there already. */
cps_status cps_class_names_add_label(cps_class_names *names, const char *label,
                                     const char *where) CPS_MUST_CHECK;
/* A table with columns kingdom ... species (the epithet) and, where it has one, common_name, under
 * any of the names of shards/columns.h; or a shard with text fields of these names. Each organism
 * (its seven ranks) once, in the order of the rows; its first common name counts. USAGE: a missing
 * column, no taxon. */
cps_status cps_class_names_read_taxa(const char *path, cps_class_names *names_out) CPS_MUST_CHECK;
/* The published form: a JSON list of [[kingdom, ..., species], common name]. */
cps_status cps_class_names_read_json(const char *path, cps_class_names *names_out) CPS_MUST_CHECK;

/* The text that stands for each taxon, without template: an evaluation type of shards/taxon.h, or
 * "ranks" (BioCLIP 1's published matrix: the ranks up to the first gap), "ranks_com" (BioCLIP 2's:
 * all seven and the common name, blanks between). Labels are their own text, type "label".
 * texts_out [count] of malloc'ed strings: cps_strings_destroy. USAGE: unknown type; a taxon without
 * text. */
cps_status cps_class_texts(const cps_class_names *names, const char *type,
                           char ***texts_out) CPS_MUST_CHECK;

#endif
