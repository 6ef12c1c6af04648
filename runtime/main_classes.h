/* The classes that `copse predict` tells apart: read from the command line's files, encoded with
 * the model, or loaded with their vectors. */
#ifndef CPS_MAIN_CLASSES_H
#define CPS_MAIN_CLASSES_H

#include "main_encode.h"

#include "data/tokenize.h"
#include "eval/choices.h"
#include "eval/classifier_file.h"
#include "eval/config.h"
#include "train/scorer.h"

/* Flags of the classes. */
#define CPS_CLASSES_FLAGS                                                                          \
    {"labels", 0, "FILE", "classes: a label a line, or a shard's class list"},                     \
        {"label", 0, "TEXT", "a class; repeatable"},                                               \
        {"taxa", 0, "FILE",                                                                        \
         "classes: a table with columns kingdom ... species and common_name, or a shard with "     \
         "them"},                                                                                  \
        {"classifier", 0, "FILE",                                                                  \
         "classes with their vectors: of --save-classifier, or a published .npy"},                 \
        {"names", 0, "FILE", "names of a .npy's columns (default: beside it, ending .json)"},      \
        {"save-classifier", 0, "FILE",                                                             \
         "keeps the class vectors; a file that holds the same ones already is used"},              \
        {"fp16", 0, NULL, "saves them as 16-bit numbers, half the size"},                          \
        {"force", 0, NULL, "takes a classifier of another model, a tokenizer of another run"},     \
        {"subset", 0, "CSV",                                                                       \
         "only these taxa: the first header names a rank, its column lists values"},               \
    {                                                                                              \
        "bins", 0, "CSV", "sums labels: columns class and bin; without --labels also the classes"  \
    }

typedef struct cps_main_classes {
    cps_classifier classifier; /* vectors.rows is 0 until they are there */
    cps_classifier_origin origin;
    bool published; /* vectors of a .npy: nothing is known of their model */
    bool has_bins;
    cps_bins bins;
} cps_main_classes;

/* How class texts are made. */
typedef struct cps_main_text_options {
    const char *text;      /* type of taxa's text */
    const char *templates; /* a sentence with {}, name of a set, or a file */
    int32_t averaging;     /* cps_averaging */
} cps_main_text_options;

/* Local. Names, bins, subset; with --classifier the vectors. USAGE: no source of classes, or two.
 */
cps_status cps_main_classes_read(const cps_app *app, cps_main_record *record,
                                 cps_main_classes *classes_out) CPS_MUST_CHECK;
/* Whether vectors are still to be computed. */
bool cps_main_classes_need_texts(const cps_main_classes *classes);
/* Collective. Vectors by the scorer's text side, or those of --save-classifier if it holds just
 * these; saves. Or checks that loaded ones belong to this model. ENDED: a signal came. */
cps_status cps_main_classes_encode(const cps_app *app, const cps_main_text_options *options,
                                   const cps_scorer *scorer, cps_main_record *record,
                                   cps_main_classes *classes) CPS_MUST_CHECK;
void cps_main_classes_free(cps_main_classes *classes); /* safe on a zeroed one */

#endif
