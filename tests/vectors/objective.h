/* Runs an objective's loss on rows of a file: the shared object of the runner's own flavour,
 * planned by train/ over a tiny model and tiny shards, its `loss` (or `grain_loss`) called on a
 * recording tape whose leaves hold the file's values in place of what `head` emitted (or of a
 * tower's output), and backward. Nothing of an objective's mathematics is here.
 *
 * Rows of every slot are dealt over P = min(rows of the first slot, 32) parts as a step deals
 * grains, parts over ranks. All calls are collective over the ranks of vectors_comm; results are
 * those of the whole batch, equal on every rank. */
#ifndef CPS_TESTS_VECTORS_OBJECTIVE_H
#define CPS_TESTS_VECTORS_OBJECTIVE_H

#include "base/types.h"
#include "comm/comm.h"

enum { OBJECTIVE_TERMS = 128, OBJECTIVE_RANKS = 7 };

/* Rows that `head` emits under `name`: of the whole batch, row-major. */
typedef struct objective_rows {
    const char *name;
    int64_t rows, width;
    const double *values;
    double
        *grad; /* [rows, width] out; zero where the loss does not look at them; NULL: not wanted */
} objective_rows;

/* A parameter: its values, and the gradient of the loss. */
typedef struct objective_parameter {
    const char *name;
    int64_t count;
    const double *values;
    double *grad; /* [count] out; NULL: not wanted */
} objective_parameter;

typedef struct objective_value {
    char name[64];
    double value, weight; /* weight 0: a report */
} objective_value;

typedef struct objective_result {
    double loss; /* weighted sum of the terms */
    int32_t count;
    objective_value values[OBJECTIVE_TERMS]; /* terms, then reports */
} objective_result;

typedef struct objective_loss {
    const char *name;    /* "clip" */
    const char *options; /* JSON object */
    int64_t embed_dim;   /* width of features */
    objective_rows *slots;
    int32_t slot_count;
    objective_parameter *parameters; /* scalars */
    int32_t parameter_count;
    const char *only; /* gradients are those of this term alone, weight 1; NULL: of the loss */
} objective_loss;

/* `loss` of the global batch. A slot that the objective emits must be given; one that it does not
 * emit (because an option says so) gets a gradient of zeros. */
cps_status objective_run_loss(const objective_loss *wanted,
                              objective_result *result_out) CPS_MUST_CHECK;

/* `prepare` and `grain_loss` over `grains` grains of one image view's pooled rows. Local: alone. */
typedef struct objective_grain_loss {
    const char *name, *options;
    objective_rows pooled; /* width: of the tower */
    int32_t annotation_count;
    const objective_rows *annotations;
    objective_parameter *parameters;
    int32_t parameter_count;
    int64_t grains;
    /* The stream shows class_counts[k] classes of rank k of the taxonomy, kingdom first; none fewer
     * than of the rank above. */
    const int64_t *class_counts;
} objective_grain_loss;
cps_status objective_run_grain_loss(const objective_grain_loss *wanted,
                                    objective_result *result_out) CPS_MUST_CHECK;

/* A term or report by name; NAN when the objective gave none. */
double objective_value_of(const objective_result *result, const char *name);

/* Streams over shards of our own for data/: a shard of `records` tiny records in the runner's
 * temporary folder; record i has sample id i. Path malloc'ed. Local: alone. */
cps_status objective_shard(int64_t records, char **path_out) CPS_MUST_CHECK;

#endif
