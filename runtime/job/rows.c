#include "job/rows.h"

#include "data/config.h"
#include "eval/config.h"
#include "model/model.h"
#include "train/config.h"
#include "train/optimizer.h"
#include "train/schedule.h"

const cps_job_rows *cps_job_engine_rows(int64_t *count_out) {
    static const cps_job_rows engine[] = {
        {.kind = "job", .rows = cps_job_option_rows, .help = "the whole run"},
        {.kind = "model",
         .rows = cps_model_options,
         .help = "towers and where their weights come from"},
        {.kind = "tower", .rows = cps_tower_options, .help = "one encoder"},
        {.kind = "tokenizer", .rows = cps_tokenizer_rows, .help = "text to ids"},
        {.kind = "shards",
         .rows = cps_shards_rows,
         .help = "records of shards, or of a CSV that is packed once"},
        {.kind = "mixture", .rows = cps_mixture_rows, .help = "several sets as one stream"},
        {.kind = "stage",
         .rows = cps_stage_rows,
         .help = "a stretch of training with one objective or a composition"},
        {.kind = "objective",
         .rows = cps_objective_common_rows,
         .help = "what every objective takes"},
        {.kind = "adamw", .rows = cps_adamw_options, .help = "Adam with decoupled weight decay"},
        {.kind = "sgd", .rows = cps_sgd_options, .help = "gradient descent with momentum"},
        {.kind = "lars",
         .rows = cps_lars_options,
         .help = "momentum with rates by layer, for large batches"},
        {.kind = "cosine", .rows = cps_cosine_options, .help = "warm-up, then half a cosine"},
        {.kind = "constant", .rows = cps_constant_options, .help = "warm-up, then the same rate"},
        {.kind = "zero_shot",
         .rows = cps_zero_shot_rows,
         .help = "classification by class texts",
         .metrics = cps_zero_shot_metrics},
        {.kind = "retrieval",
         .rows = cps_retrieval_rows,
         .help = "image to text and text to image",
         .metrics = cps_retrieval_metrics},
        {.kind = "validation_loss",
         .rows = cps_validation_loss_rows,
         .help = "the stage's objective on other data",
         .metrics = cps_validation_loss_metrics},
        {.kind = "knn",
         .rows = cps_knn_rows,
         .help = "classification by nearest neighbours",
         .metrics = cps_knn_metrics},
        {.kind = "few_shot",
         .rows = cps_few_shot_rows,
         .help = "classification by a few labelled images of each class",
         .metrics = cps_few_shot_metrics},
        {.kind = "checkpoint",
         .rows = cps_checkpoint_rows,
         .help = "when to write and what to keep"},
        {.kind = "early_stop", .rows = cps_early_stop_rows, .help = "when to end a stage"},
        {.kind = NULL},
    };
    *count_out = (int64_t)(sizeof engine / sizeof *engine) - 1;
    return engine;
}
