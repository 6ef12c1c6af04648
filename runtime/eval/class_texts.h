/* The text that stands for a class in zero-shot classification, before templates: its name, or a
 * text made of the taxonomic ranks of its first record (README.md, "Class texts"). Local. */
#ifndef CPS_EVAL_CLASS_TEXTS_H
#define CPS_EVAL_CLASS_TEXTS_H

#include "eval/classes.h"

/* "label", then the types of cps_taxon_evaluation_types, then NULL. */
extern const char *const cps_class_text_types[];

typedef struct cps_class_texts {
    int64_t count;
    char **texts;       /* [count], owned */
    int64_t stand_ins;  /* classes that have no text of the type: the nearest one stands in */
    int64_t stand_in;   /* the first of them, -1: none */
    int64_t equal;      /* classes with the text of an earlier one */
    int64_t equal_with; /* the earlier one of the first of them, -1: none */
    int64_t equal_first;
} cps_class_texts;

/* first_records[classes->count]: of cps_class_first_records; not looked at for names ("label",
 * "asis"). DATA: a class without record, or whose first record names no organism; names both.
 * USAGE: unknown type. */
cps_status cps_class_texts_make(const cps_class_list *classes, const cps_place *first_records,
                                const char *type, cps_class_texts *texts_out) CPS_MUST_CHECK;
void cps_class_texts_free(cps_class_texts *texts); /* safe on a zeroed one */

#endif
