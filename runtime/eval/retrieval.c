/* A rank is 1 + the number of gallery rows before the best right answer. Two walks over the tiles:
 * the first finds the best right answer and its score, in the few tiles that hold right answers;
 * the second counts what stands before it. Equal tiles give equal bits, so comparing scores of the
 * two walks is exact. */
#include "eval/retrieval.h"

#include <stdlib.h>

#include "base/file.h"
#include "comm/agree.h"
#include "eval/score.h"

/* One direction. Right answers of query q: gallery rows [own_first[q], own_last[q]); both ascend.
 */
typedef struct search {
    int64_t first;                       /* query of the first row of score and best */
    const int64_t *own_first, *own_last; /* [queries] */
    cps_real *score;                     /* of the best right answer */
    int64_t *best;                       /* its gallery row, -1: none yet */
    int64_t *ranks;                      /* [queries] */
} search;

static bool holds_own(void *context, const cps_score_tile *tile) {
    const search *s = context;
    return s->own_first[tile->first_row] < tile->first_column + tile->columns &&
           s->own_last[tile->first_row + tile->rows - 1] > tile->first_column;
}

static void find_own(void *context, const cps_score_tile *tile) {
    const search *s = context;
    const int64_t end = tile->first_column + tile->columns;
    for (int64_t i = 0; i < tile->rows; i++) {
        const int64_t query = tile->first_row + i, at = query - s->first;
        const int64_t from =
            s->own_first[query] > tile->first_column ? s->own_first[query] : tile->first_column;
        for (int64_t row = from; row < s->own_last[query] && row < end; row++) {
            const cps_real score = tile->scores[i * tile->stride + row - tile->first_column];
            if (s->best[at] < 0 || score > s->score[at]) {
                s->best[at] = row;
                s->score[at] = score;
            }
        }
    }
}

static void count_before(void *context, const cps_score_tile *tile) {
    const search *s = context;
    for (int64_t i = 0; i < tile->rows; i++) {
        const int64_t query = tile->first_row + i, best = s->best[query - s->first];
        const cps_real own = s->score[query - s->first];
        const cps_real *scores = tile->scores + i * tile->stride;
        int64_t before = 0;
        for (int64_t j = 0; j < tile->columns && best >= 0; j++) {
            before +=
                scores[j] > own || (scores[j] == own && tile->first_column + j < best) ? 1 : 0;
        }
        s->ranks[query] += before;
    }
}

/* Collective. ranks[queries->rows], zeroed. */
static cps_status rank_direction(cps_comm *comm, const char *place, const cps_features *queries,
                                 const cps_features *gallery, const double *weights,
                                 const int64_t *own_first, const int64_t *own_last,
                                 int64_t *ranks) {
    int64_t first, last;
    cps_score_range(queries->rows, cps_comm_size(comm), cps_comm_rank(comm), &first, &last);
    const size_t own_rows = (size_t)(last - first);
    search s = {.first = first,
                .own_first = own_first,
                .own_last = own_last,
                .score = calloc(own_rows + 1, sizeof(cps_real)),
                .best = calloc(own_rows + 1, sizeof(int64_t)),
                .ranks = ranks};
    cps_status status = CPS_OK;
    if (s.score == NULL || s.best == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the ranks of a retrieval");
    } else {
        cps_score_job job = {.queries = queries,
                             .gallery = gallery,
                             .weights = weights,
                             .visit = find_own,
                             .wanted = holds_own,
                             .context = &s};
        for (size_t i = 0; i < own_rows; i++) {
            s.best[i] = -1;
        }
        status = cps_score_visit(&job, first, last);
        for (size_t i = 0; i < own_rows; i++) {
            ranks[(size_t)first + i] = s.best[i] >= 0 ? 1 : 0;
        }
        job.visit = count_before;
        job.wanted = NULL;
        if (status == CPS_OK) {
            status = cps_score_visit(&job, first, last);
        }
    }
    free(s.score);
    free(s.best);
    CPS_TRY(cps_agree(comm, place, status));
    cps_score_gather(comm, place, ranks, queries->rows, sizeof *ranks);
    return CPS_OK;
}

/* own_first, own_last [images] from the texts' owners. */
static void find_runs(const int64_t *owners, int64_t texts, int64_t images, int64_t *own_first,
                      int64_t *own_last) {
    int64_t text = 0;
    for (int64_t image = 0; image < images; image++) {
        own_first[image] = text;
        while (text < texts && owners[text] == image) {
            text++;
        }
        own_last[image] = text;
    }
    CPS_BUG_IF(text != texts); /* owners ascend and exist */
}

cps_status cps_retrieval(cps_comm *comm, const cps_features *images, const cps_features *texts,
                         const int64_t *owners, const double *weights,
                         cps_retrieval_ranks *ranks_out) {
    const size_t image_count = (size_t)images->rows, text_count = (size_t)texts->rows;
    cps_retrieval_ranks ranks = {.images = images->rows,
                                 .texts = texts->rows,
                                 .image_to_text = calloc(image_count + 1, sizeof(int64_t)),
                                 .text_to_image = calloc(text_count + 1, sizeof(int64_t))};
    int64_t *own = calloc(2 * image_count + 1, sizeof *own);
    int64_t *after_owners = calloc(text_count + 1, sizeof *after_owners);
    cps_status status = CPS_OK;
    if (ranks.image_to_text == NULL || ranks.text_to_image == NULL || own == NULL ||
        after_owners == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the ranks of a retrieval");
    } else {
        find_runs(owners, texts->rows, images->rows, own, own + image_count);
        for (size_t i = 0; i < text_count; i++) {
            after_owners[i] = owners[i] + 1;
        }
    }
    status = cps_agree(comm, "retrieval", status);
    if (status == CPS_OK) {
        status = rank_direction(comm, "image to text", images, texts, weights, own,
                                own + image_count, ranks.image_to_text);
    }
    if (status == CPS_OK) {
        status = rank_direction(comm, "text to image", texts, images, weights, owners, after_owners,
                                ranks.text_to_image);
    }
    free(own);
    free(after_owners);
    if (status != CPS_OK) {
        cps_retrieval_ranks_free(&ranks);
        return status;
    }
    *ranks_out = ranks;
    return CPS_OK;
}

void cps_retrieval_ranks_free(cps_retrieval_ranks *ranks) {
    free(ranks->image_to_text);
    free(ranks->text_to_image);
    *ranks = (cps_retrieval_ranks){0};
}

/* ---- metrics ---- */

static int compare_ranks(const void *a, const void *b) {
    const int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? -1 : left > right;
}

static void add_metric(cps_json *metrics, const char *direction, const char *key, double value) {
    char *name = cps_format("%s_%s", direction, key);
    cps_json_add_number(metrics, name, value);
    free(name);
}

/* sorted: ranks ascending, count >= 1. */
static void add_direction(const char *direction, const int64_t *sorted, int64_t count,
                          const double *k, int64_t k_count, cps_json *metrics) {
    for (int64_t i = 0; i < k_count; i++) {
        int64_t hits = 0;
        while (hits < count && (double)sorted[hits] <= k[i]) {
            hits++;
        }
        char *key = cps_format("r%lld", (long long)k[i]);
        add_metric(metrics, direction, key, (double)hits / (double)count);
        free(key);
    }
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += sorted[i];
    }
    const int64_t median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
    add_metric(metrics, direction, "median_rank", (double)median);
    add_metric(metrics, direction, "mean_rank", (double)sum / (double)count);
}

static cps_status sort_and_add(const char *direction, const int64_t *ranks, int64_t count,
                               const double *k, int64_t k_count, cps_json *metrics) {
    int64_t *sorted = calloc((size_t)count + 1, sizeof *sorted);
    if (sorted == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the ranks of a retrieval");
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        if (ranks[i] > 0) {
            sorted[kept++] = ranks[i];
        }
    }
    CPS_BUG_IF(kept == 0);
    qsort(sorted, (size_t)kept, sizeof *sorted, compare_ranks);
    add_direction(direction, sorted, kept, k, k_count, metrics);
    free(sorted);
    return CPS_OK;
}

cps_status cps_retrieval_metrics_add(const cps_retrieval_ranks *ranks, const double *k,
                                     int64_t k_count, cps_json *metrics) {
    CPS_TRY(
        sort_and_add("image_to_text", ranks->image_to_text, ranks->images, k, k_count, metrics));
    return sort_and_add("text_to_image", ranks->text_to_image, ranks->texts, k, k_count, metrics);
}
