#include "eval/pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/features.h"

/* What this rank holds of one batch, and on rank 0 of all ranks' batches of a round. */
typedef struct round_state {
    const cps_pass *pass;
    int64_t grain, width;
    int32_t ranks, rank;
    size_t sent_bytes;  /* of a picture: its row, then its reason */
    cps_real *planes;   /* [grain, 3, size, size] */
    cps_real *features; /* [grain, width] */
    cps_real *components[CPS_MAX_COMPONENTS];
    char (*reasons)[CPS_PICTURE_REASON]; /* [grain] */
    char *rows;                          /* [grain, row_bytes] */
    char *own, *all;                     /* [grain, sent_bytes]; rank 0: [ranks, grain, ...] */
    int64_t *bytes;                      /* [ranks] */
} round_state;

static cps_status allocate(const cps_pass *pass, round_state *state) {
    const cps_encoder *encoder = pass->encoder;
    const size_t grain = (size_t)encoder->grain, side = (size_t)pass->recipe->size;
    *state = (round_state){.pass = pass,
                           .grain = encoder->grain,
                           .ranks = cps_comm_size(pass->comm),
                           .rank = cps_comm_rank(pass->comm),
                           .sent_bytes = pass->row_bytes + CPS_PICTURE_REASON};
    bool enough = true;
    for (int32_t c = 0; c < encoder->component_count; c++) {
        state->width += encoder->widths[c];
        state->components[c] = malloc(grain * (size_t)encoder->widths[c] * sizeof(cps_real));
        enough = enough && state->components[c] != NULL;
    }
    state->planes = malloc(grain * 3 * side * side * sizeof(cps_real));
    state->features = malloc(grain * (size_t)state->width * sizeof(cps_real));
    state->reasons = malloc(grain * sizeof *state->reasons);
    state->rows = malloc(grain * pass->row_bytes + 1);
    state->own = malloc(grain * state->sent_bytes);
    state->all = malloc(state->rank == 0 ? (size_t)state->ranks * grain * state->sent_bytes : 1);
    state->bytes = calloc((size_t)state->ranks, sizeof *state->bytes);
    enough = enough && state->planes != NULL && state->features != NULL && state->reasons != NULL &&
             state->rows != NULL && state->own != NULL && state->all != NULL &&
             state->bytes != NULL;
    return enough ? CPS_OK
                  : cps_fail(CPS_ERR_UNAVAILABLE,
                             "out of memory for batches of %lld pictures: choose smaller ones "
                             "(--batch)",
                             (long long)encoder->grain);
}

static void release(round_state *state) {
    for (int32_t c = 0; c < CPS_MAX_COMPONENTS; c++) {
        free(state->components[c]);
    }
    free(state->planes);
    free(state->features);
    free(state->reasons);
    free(state->rows);
    free(state->own);
    free(state->all);
    free(state->bytes);
}

/* ---- one batch ---- */

/* Components side by side; pictures that were not read, or that gave no numbers, become zeros. */
static void collect(round_state *state, int64_t count) {
    const cps_encoder *encoder = state->pass->encoder;
    memset(state->features, 0, (size_t)(state->grain * state->width) * sizeof(cps_real));
    for (int64_t i = 0; i < count; i++) {
        cps_real *const row = state->features + i * state->width;
        cps_real *at = row;
        if (state->reasons[i][0] != '\0') {
            continue;
        }
        for (int32_t c = 0; c < encoder->component_count; at += encoder->widths[c], c++) {
            memcpy(at, state->components[c] + i * encoder->widths[c],
                   (size_t)encoder->widths[c] * sizeof *at);
        }
        if (!cps_all_finite(row, state->width)) {
            snprintf(state->reasons[i], CPS_PICTURE_REASON,
                     "the model's feature of it is not finite");
            memset(row, 0, (size_t)state->width * sizeof *row);
        }
    }
    if (state->pass->normalise) {
        cps_features features = {.rows = state->grain,
                                 .width = state->width,
                                 .component_count = encoder->component_count,
                                 .values = state->features};
        memcpy(features.widths, encoder->widths, sizeof features.widths);
        cps_features_normalise(&features);
    }
}

/* Pictures [first, first + count), at least one, into `own`. */
static cps_status run_batch(round_state *state, int64_t first, int64_t count) {
    const cps_pass *pass = state->pass;
    const size_t side = (size_t)pass->recipe->size, elements = 3 * side * side;
    cps_pictures_read(pass->paths + first, count, pass->recipe, state->planes, state->reasons);
    memset(state->planes + (size_t)count * elements, 0,
           (size_t)(state->grain - count) * elements * sizeof(cps_real));
    CPS_TRY(pass->encoder->images(pass->encoder->context, state->planes, state->components));
    collect(state, count);
    pass->reduce(pass->context, state->features, state->rows);
    for (int64_t i = 0; i < count; i++) {
        char *to = state->own + (size_t)i * state->sent_bytes;
        memcpy(to, state->rows + (size_t)i * pass->row_bytes, pass->row_bytes);
        memcpy(to + pass->row_bytes, state->reasons[i], CPS_PICTURE_REASON);
    }
    return CPS_OK;
}

/* ---- rounds ---- */

/* Pictures of batch `batch`; 0 beyond the last. */
static int64_t batch_count(const round_state *state, int64_t batch) {
    return cps_max_i64(0, cps_min_i64(state->grain, state->pass->count - batch * state->grain));
}

/* Rank 0: the pictures from `first` on, as they were gathered. */
static cps_status take_rows(const round_state *state, int64_t first, int64_t count) {
    const cps_pass *pass = state->pass;
    for (int64_t i = 0; i < count; i++) {
        const char *row = state->all + (size_t)i * state->sent_bytes;
        const char *reason = row + pass->row_bytes;
        CPS_TRY(pass->take(pass->context, first + i, row, reason[0] != '\0' ? reason : NULL));
    }
    return CPS_OK;
}

/* *count_out: pictures of this round. */
static cps_status run_round(round_state *state, int64_t round, int64_t *count_out) {
    const cps_pass *pass = state->pass;
    const int64_t first = round * state->ranks, own = first + state->rank;
    const int64_t own_count = batch_count(state, own);
    const cps_status status =
        own_count > 0 ? run_batch(state, own * state->grain, own_count) : CPS_OK;
    CPS_TRY(cps_agree(pass->comm, "batch of pictures", status));
    *count_out = 0;
    for (int32_t r = 0; r < state->ranks; r++) {
        const int64_t count = batch_count(state, first + r);
        state->bytes[r] = count * (int64_t)state->sent_bytes;
        *count_out += count;
    }
    cps_comm_gatherv(pass->comm, "rows of pictures", state->own, state->all, state->bytes, 0);
    return cps_agree(pass->comm, "results of pictures",
                     state->rank == 0 ? take_rows(state, first * state->grain, *count_out)
                                      : CPS_OK);
}

cps_status cps_pass_run(const cps_pass *pass, int64_t *done_out) {
    round_state state;
    *done_out = 0;
    cps_status status = cps_agree(pass->comm, "memory of batches", allocate(pass, &state));
    for (int64_t round = 0; status == CPS_OK && *done_out < pass->count; round++) {
        const bool stop = pass->stop != NULL && pass->stop(pass->context);
        if (cps_agree_any(pass->comm, "end of the pass", stop)) {
            break;
        }
        int64_t count = 0;
        status = run_round(&state, round, &count);
        *done_out += status == CPS_OK ? count : 0;
    }
    release(&state);
    return status;
}

size_t cps_pass_bytes(const cps_encoder *encoder, size_t row_bytes) {
    size_t width = 0;
    const size_t side = (size_t)encoder->image_recipe.size;
    for (int32_t c = 0; c < encoder->component_count; c++) {
        width += (size_t)encoder->widths[c];
    }
    return (size_t)encoder->grain * ((3 * side * side + 2 * width) * sizeof(cps_real) +
                                     2 * row_bytes + 2 * CPS_PICTURE_REASON);
}
