/* Options of a job's evaluations, filled from the resolved job's JSON. Plain values; strings belong
 * to the arena that was given. Local. */
#ifndef CPS_EVAL_CONFIG_H
#define CPS_EVAL_CONFIG_H

#include "data/config.h"

typedef enum cps_eval_kind {
    CPS_EVAL_ZERO_SHOT,
    CPS_EVAL_RETRIEVAL,
    CPS_EVAL_VALIDATION_LOSS,
    CPS_EVAL_KNN,
    CPS_EVAL_FEW_SHOT
} cps_eval_kind;
/* How the items of a class are shuffled from fold to fold: each time from stored order (BioCLIP 2),
 * or on from the last shuffle (BioCLIP). */
typedef enum cps_shot_variant { CPS_SHOT_STATELESS, CPS_SHOT_IN_PLACE } cps_shot_variant;
/* What becomes of classes with fewer than k images. */
typedef enum cps_short_classes {
    CPS_SHORT_ERROR,
    CPS_SHORT_KEEP,     /* all they have is support */
    CPS_SHORT_LEAVE_OUT /* with their images */
} cps_short_classes;
/* Metrics by rank of the taxonomy: where the first record of a class names an organism, always, or
 * never. */
typedef enum cps_taxonomy_use {
    CPS_TAXONOMY_AUTO,
    CPS_TAXONOMY_ON,
    CPS_TAXONOMY_OFF
} cps_taxonomy_use;
typedef enum cps_averaging { CPS_NORMALISE_FIRST, CPS_AVERAGE_FIRST } cps_averaging;

typedef struct cps_zero_shot_options {
    int32_t text;        /* of a class: index into cps_class_text_types (class_texts.h) */
    int32_t averaging;   /* cps_averaging, over templates */
    cps_numbers score;   /* weights of embed's components; count 0: the objective's */
    int64_t top;         /* classes stored for each sample in predictions/ */
    cps_lines templates; /* each holds "{}" once */
    int32_t taxonomy;    /* cps_taxonomy_use */
} cps_zero_shot_options;
typedef struct cps_retrieval_options {
    cps_numbers k; /* of recall at k, ascending */
    cps_numbers score;
} cps_retrieval_options;
typedef struct cps_validation_loss_options {
    int64_t batch; /* consecutive records of one batch */
    int64_t grain; /* rows of one tower forward */
} cps_validation_loss_options;
typedef struct cps_knn_options {
    int64_t k;
    double temperature; /* of the vote's weights exp(cos / temperature); 0: every neighbour counts
                           alike */
    cps_shards_options bank; /* the neighbours */
    int32_t taxonomy;        /* cps_taxonomy_use */
} cps_knn_options;
typedef struct cps_few_shot_options {
    cps_numbers shots;     /* support images of a class, one result for each */
    int64_t folds;         /* draws of the support */
    int64_t seed;          /* of fold 0; fold f has seed + f */
    int32_t variant;       /* cps_shot_variant */
    int32_t averaging;     /* cps_averaging, of a class's support */
    int32_t short_classes; /* cps_short_classes */
    int32_t taxonomy;      /* cps_taxonomy_use */
} cps_few_shot_options;

typedef struct cps_evaluation_options {
    cps_eval_kind kind;
    const char *name;
    cps_shards_options data;
    bool every_epoch;    /* also at the end of each epoch */
    int64_t every_steps; /* also every so many steps, 0: no */
    cps_lines stages;    /* names of stages at whose end (and inside which) it runs; count 0: all */
    const char *features_tower, *features_output; /* NULL: the objective's embed */
    union {
        cps_zero_shot_options zero_shot;
        cps_retrieval_options retrieval;
        cps_validation_loss_options validation_loss;
        cps_knn_options knn;
        cps_few_shot_options few_shot;
    };
} cps_evaluation_options;

/* Rows and metric keys by kind, for the job layer: those of cps_job_rows. */
extern const cps_option cps_zero_shot_rows[], cps_retrieval_rows[], cps_validation_loss_rows[],
    cps_knn_rows[], cps_few_shot_rows[];
extern const char *const cps_zero_shot_metrics[],
    *const cps_retrieval_metrics[], *const cps_validation_loss_metrics[],
                                        *const cps_knn_metrics[], *const cps_few_shot_metrics[];

/* The job's `evaluate` array. */
cps_status cps_evaluations_parse(const cps_json *evaluate, cps_arena *arena,
                                 cps_evaluation_options **evaluations_out,
                                 int64_t *count_out) CPS_MUST_CHECK;
const char *cps_eval_kind_name(cps_eval_kind kind);
/* As jobs write them. Static. */
const char *cps_averaging_name(cps_averaging averaging);
const char *cps_shot_variant_name(cps_shot_variant variant);
const char *cps_short_classes_name(cps_short_classes short_classes);
/* Losses and ranks: less is better. `metric`: "val.loss", "rsicd.text_to_image_median_rank". */
bool cps_metric_less_is_better(const char *metric);

#endif
