#include "eval/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "base/pool.h"
#include "comm/canonical.h"
#include "tensor/gemm.h"

/* What the threads of one visit share. */
typedef struct visit {
    const cps_score_job *job;
    int64_t first, last; /* rows */
    cps_real *scale;     /* [width] weight of each column's component */
    cps_real *tail;      /* [CPS_SCORE_COLUMNS, width] last columns, padded; NULL: none are short */
    bool *failed;        /* [row tiles] */
} visit;

static void *allocate(int64_t count, int64_t width, size_t bytes) {
    size_t elements, total;
    if (!cps_mul_size((size_t)count, (size_t)width, &elements) ||
        !cps_mul_size(elements, bytes, &total)) {
        return NULL;
    }
    return calloc(1, total + CPS_ALIGNMENT); /* never of size 0 */
}

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory while scoring features: evaluate fewer "
                                         "samples, or give each rank more memory");
}

void cps_score_range(int64_t rows, int32_t size, int32_t rank, int64_t *first_out,
                     int64_t *last_out) {
    const int64_t tiles = cps_ceil_div(rows, CPS_SCORE_ROWS);
    *first_out = cps_min_i64(cps_part_first(tiles, size, rank) * CPS_SCORE_ROWS, rows);
    *last_out = cps_min_i64(cps_part_first(tiles, size, rank + 1) * CPS_SCORE_ROWS, rows);
}

void cps_score_gather(cps_comm *comm, const char *place, void *all, int64_t rows,
                      size_t row_bytes) {
    const int32_t size = cps_comm_size(comm);
    int64_t *bytes = calloc((size_t)size, sizeof *bytes);
    CPS_BUG_IF(bytes == NULL);
    for (int32_t r = 0; r < size; r++) {
        int64_t first, last;
        cps_score_range(rows, size, r, &first, &last);
        bytes[r] = (last - first) * (int64_t)row_bytes;
    }
    cps_comm_allgatherv_inplace(comm, place, all, bytes);
    free(bytes);
}

/* All columns of one tile of rows. queries: that tile, padded, weights applied. */
static void visit_columns(const visit *v, cps_score_tile *tile, const cps_real *queries,
                          cps_real *scores) {
    const cps_features *gallery = v->job->gallery;
    const int64_t width = gallery->width;
    for (tile->first_column = 0; tile->first_column < gallery->rows;
         tile->first_column += CPS_SCORE_COLUMNS) {
        tile->columns = cps_min_i64(CPS_SCORE_COLUMNS, gallery->rows - tile->first_column);
        tile->scores = NULL;
        if (v->job->wanted != NULL && !v->job->wanted(v->job->context, tile)) {
            continue;
        }
        const cps_real *columns = tile->columns == CPS_SCORE_COLUMNS
                                      ? gallery->values + tile->first_column * width
                                      : v->tail;
        cps_gemm_serial(false, true, CPS_SCORE_ROWS, CPS_SCORE_COLUMNS, width, 1.0, queries, width,
                        columns, width, 0.0, scores, CPS_SCORE_COLUMNS);
        tile->scores = scores;
        v->job->visit(v->job->context, tile);
    }
}

static void visit_rows(void *context, int64_t index) {
    const visit *v = context;
    const cps_features *queries = v->job->queries;
    const int64_t width = queries->width;
    cps_score_tile tile = {.first_row = v->first + index * CPS_SCORE_ROWS,
                           .stride = CPS_SCORE_COLUMNS};
    tile.rows = cps_min_i64(CPS_SCORE_ROWS, v->last - tile.first_row);
    cps_real *padded = allocate(CPS_SCORE_ROWS, width, sizeof *padded);
    cps_real *scores = allocate(CPS_SCORE_ROWS, CPS_SCORE_COLUMNS, sizeof *scores);
    if (padded == NULL || scores == NULL) {
        v->failed[index] = true;
    } else {
        for (int64_t i = 0; i < tile.rows; i++) {
            const cps_real *from = queries->values + (tile.first_row + i) * width;
            for (int64_t j = 0; j < width; j++) {
                padded[i * width + j] = from[j] * v->scale[j];
            }
        }
        visit_columns(v, &tile, padded, scores);
    }
    free(padded);
    free(scores);
}

cps_status cps_score_visit(const cps_score_job *job, int64_t first, int64_t last) {
    const cps_features *gallery = job->gallery;
    const int64_t width = gallery->width, tiles = cps_ceil_div(last - first, CPS_SCORE_ROWS);
    const int64_t short_columns = gallery->rows % CPS_SCORE_COLUMNS;
    CPS_BUG_IF(job->queries->width != width || first % CPS_SCORE_ROWS != 0);
    visit v = {.job = job, .first = first, .last = last};
    v.scale = allocate(width, 1, sizeof *v.scale);
    v.tail = allocate(short_columns > 0 ? CPS_SCORE_COLUMNS : 0, width, sizeof *v.tail);
    v.failed = allocate(tiles, 1, sizeof *v.failed);
    bool enough = v.scale != NULL && v.tail != NULL && v.failed != NULL;
    if (enough) {
        int64_t column = 0;
        for (int32_t c = 0; c < gallery->component_count; c++) {
            for (int64_t i = 0; i < gallery->widths[c]; i++) {
                v.scale[column++] = (cps_real)job->weights[c];
            }
        }
        if (short_columns > 0) {
            memcpy(v.tail, gallery->values + (gallery->rows - short_columns) * width,
                   (size_t)(short_columns * width) * sizeof *v.tail);
        }
        cps_parallel(tiles, visit_rows, &v);
        for (int64_t i = 0; i < tiles; i++) {
            enough = enough && !v.failed[i];
        }
    }
    free(v.scale);
    free(v.tail);
    free(v.failed);
    return enough ? CPS_OK : fail_memory();
}

void cps_score_softmax(const cps_real *scores, int64_t count, double scale,
                       double *probabilities_out) {
    double most = -(double)INFINITY, total = 0.0;
    for (int64_t i = 0; i < count; i++) {
        most = fmax(most, (double)scores[i]);
    }
    for (int64_t i = 0; i < count; i++) {
        probabilities_out[i] = exp(scale * ((double)scores[i] - most));
        total += probabilities_out[i];
    }
    for (int64_t i = 0; i < count; i++) {
        probabilities_out[i] /= total;
    }
}

/* ---- top lists ---- */

typedef struct top_visit {
    cps_top_lists *lists;
    const uint64_t *query_ids, *gallery_ids;
} top_visit;

/* Columns come in ascending order, so an equal score stays behind those that are there. */
static void insert(cps_top_lists *lists, int64_t list, int64_t index, cps_real score) {
    int64_t *const indices = lists->index + list * lists->most;
    cps_real *const scores = lists->score + list * lists->most;
    int64_t at = lists->count[list];
    if (at == lists->most) {
        if (!(score > scores[at - 1])) {
            return;
        }
        at--;
    } else {
        lists->count[list]++;
    }
    for (; at > 0 && score > scores[at - 1]; at--) {
        scores[at] = scores[at - 1];
        indices[at] = indices[at - 1];
    }
    scores[at] = score;
    indices[at] = index;
}

static void visit_top(void *context, const cps_score_tile *tile) {
    const top_visit *v = context;
    for (int64_t i = 0; i < tile->rows; i++) {
        const int64_t query = tile->first_row + i;
        const cps_real *scores = tile->scores + i * tile->stride;
        for (int64_t j = 0; j < tile->columns; j++) {
            const int64_t row = tile->first_column + j;
            if (v->query_ids == NULL || v->query_ids[query] != v->gallery_ids[row]) {
                insert(v->lists, query - v->lists->first, row, scores[j]);
            }
        }
    }
}

cps_status cps_score_top(const cps_features *queries, const cps_features *gallery,
                         const double *weights, int64_t first, int64_t last, int64_t most,
                         const uint64_t *query_ids, const uint64_t *gallery_ids,
                         cps_top_lists *lists_out) {
    CPS_BUG_IF(most < 1);
    cps_top_lists lists = {.rows = last - first, .most = most, .first = first};
    lists.count = allocate(lists.rows, 1, sizeof *lists.count);
    lists.index = allocate(lists.rows, most, sizeof *lists.index);
    lists.score = allocate(lists.rows, most, sizeof *lists.score);
    cps_status status = CPS_OK;
    if (lists.count == NULL || lists.index == NULL || lists.score == NULL) {
        status = fail_memory();
    } else {
        top_visit v = {.lists = &lists, .query_ids = query_ids, .gallery_ids = gallery_ids};
        const cps_score_job job = {.queries = queries,
                                   .gallery = gallery,
                                   .weights = weights,
                                   .visit = visit_top,
                                   .context = &v};
        status = cps_score_visit(&job, first, last);
    }
    if (status != CPS_OK) {
        cps_top_lists_free(&lists);
        return status;
    }
    *lists_out = lists;
    return CPS_OK;
}

void cps_top_lists_free(cps_top_lists *lists) {
    free(lists->count);
    free(lists->index);
    free(lists->score);
    *lists = (cps_top_lists){0};
}
