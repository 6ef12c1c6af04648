#include "job/rows.h"

#include "data/config.h"
#include "eval/config.h"
#include "model/model.h"
#include "train/config.h"
#include "train/optimizer.h"
#include "train/schedule.h"

/* Rows of sweeps fill no struct: a sweep stays in Lua (lua/copse/expand.lua and the driver). */
enum { MOST_TRIALS = 10000 };
#define MOST_SEED 9007199254740992.0 /* whole numbers that a double holds */

static const cps_option sweep_rows[] = {
    {.name = "name",
     .kind = CPS_OPT_STRING,
     .help = "name of the sweep's folder",
     .required = true},
    {.name = "metric",
     .kind = CPS_OPT_STRING,
     .help =
         "what tables show, <evaluation>.<key>; default: what halving or checkpoint.best names"},
    {.name = NULL}};

static const cps_option grid_rows[] = {{.name = NULL}};

static const cps_option random_rows[] = {{.name = "trials",
                                          .kind = CPS_OPT_INTEGER,
                                          .help = "how many points are drawn",
                                          .minimum = 1,
                                          .maximum = MOST_TRIALS,
                                          .required = true},
                                         {.name = "seed",
                                          .kind = CPS_OPT_INTEGER,
                                          .help = "of the draws",
                                          .default_text = "0",
                                          .maximum = MOST_SEED},
                                         {.name = NULL}};

static const cps_option halving_rows[] = {
    {.name = "metric",
     .kind = CPS_OPT_STRING,
     .help = "by which trials are kept, <evaluation>.<key>, mean over seeds",
     .required = true},
    {.name = "eta",
     .kind = CPS_OPT_INTEGER,
     .help = "one trial of so many is kept at each rung, and trains so many times longer",
     .default_text = "3",
     .minimum = 2,
     .maximum = 100},
    {.name = "min_steps",
     .kind = CPS_OPT_INTEGER,
     .help = "steps of the first rung, where all trials are compared",
     .minimum = 1,
     .maximum = 1e9,
     .required = true},
    {.name = "max_steps",
     .kind = CPS_OPT_INTEGER,
     .help = "steps of the last rung",
     .minimum = 2,
     .maximum = 1e9,
     .required = true},
    {.name = "trials",
     .kind = CPS_OPT_INTEGER,
     .help = "points drawn at the start; 0: the whole grid where all parameters are lists, else as "
             "many as leave one at the last rung",
     .default_text = "0",
     .minimum = 0,
     .maximum = MOST_TRIALS},
    {.name = "seed",
     .kind = CPS_OPT_INTEGER,
     .help = "of the draws",
     .default_text = "0",
     .maximum = MOST_SEED},
    {.name = NULL}};

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
        {.kind = "sweep", .rows = sweep_rows, .help = "one job over many settings and seeds"},
        {.kind = "grid", .rows = grid_rows, .help = "every combination of the lists of a space"},
        {.kind = "random", .rows = random_rows, .help = "points drawn from a space"},
        {.kind = "halving",
         .rows = halving_rows,
         .help = "many trials for few steps, the best go on for more"},
        {.kind = NULL},
    };
    *count_out = (int64_t)(sizeof engine / sizeof *engine) - 1;
    return engine;
}
