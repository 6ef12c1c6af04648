/* A path is a node of a tree: (rank, path of the parent, value), found by hash. */
#include "eval/taxonomy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/byte_set.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "eval/score.h"
#include "shards/taxa.h"

enum { LAST_RANK = CPS_TAXON_RANKS - 1 };

/* ---- the taxonomy ---- */

struct cps_taxonomy {
    cps_byte_set *nodes; /* keys: parent's path, rank, value */
    int32_t *node_path;  /* [node_room]: the path id of a node at its rank */
    int32_t known;       /* nodes that have one */
    int64_t node_room;
    int32_t paths[CPS_TAXON_RANKS]; /* ids given out at each rank */
    int32_t *organisms;             /* [organism_room, CPS_TAXON_RANKS] */
    int64_t organism_room;
    char *key; /* of the node that is looked for */
    size_t key_room;
    cps_taxa *said;     /* what records say */
    int32_t *of_number; /* [number_room]: the organism of each number of `said` */
    int64_t known_numbers, number_room;
};

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the taxonomy of an evaluation");
}

cps_status cps_taxonomy_create(cps_taxonomy **taxonomy_out) {
    cps_taxonomy *taxonomy = calloc(1, sizeof *taxonomy);
    if (taxonomy == NULL || (taxonomy->nodes = cps_byte_set_create()) == NULL) {
        free(taxonomy);
        return fail_memory();
    }
    const cps_status status = cps_taxa_create(&taxonomy->said);
    if (status != CPS_OK) {
        cps_taxonomy_destroy(taxonomy);
        return status;
    }
    *taxonomy_out = taxonomy;
    return CPS_OK;
}

void cps_taxonomy_destroy(cps_taxonomy *taxonomy) {
    if (taxonomy == NULL) {
        return;
    }
    cps_byte_set_destroy(taxonomy->nodes);
    free(taxonomy->node_path);
    free(taxonomy->organisms);
    free(taxonomy->key);
    cps_taxa_destroy(taxonomy->said);
    free(taxonomy->of_number);
    free(taxonomy);
}

static bool key_has_room(cps_taxonomy *taxonomy, size_t length) {
    if (length > taxonomy->key_room) {
        char *longer = realloc(taxonomy->key, 2 * length);
        if (longer == NULL) {
            return false;
        }
        taxonomy->key = longer;
        taxonomy->key_room = 2 * length;
    }
    return true;
}

/* The path id at `rank` of `value` under `parent`; -1: out of memory. */
static int32_t path_of(cps_taxonomy *taxonomy, int32_t rank, int32_t parent, const char *value) {
    const size_t length = strlen(value), front = sizeof parent + 1;
    if (!key_has_room(taxonomy, front + length)) {
        return -1;
    }
    memcpy(taxonomy->key, &parent, sizeof parent);
    taxonomy->key[sizeof parent] = (char)rank;
    memcpy(taxonomy->key + front, value, length);
    const int32_t node = cps_byte_set_add(taxonomy->nodes, taxonomy->key, front + length);
    if (node >= taxonomy->node_room) {
        const int64_t room = 2 * taxonomy->node_room + 256;
        int32_t *longer = realloc(taxonomy->node_path, (size_t)room * sizeof *longer);
        if (longer == NULL) {
            return -1;
        }
        taxonomy->node_path = longer;
        taxonomy->node_room = room;
    }
    if (node == taxonomy->known) { /* new */
        taxonomy->node_path[taxonomy->known++] = taxonomy->paths[rank]++;
    }
    return node < 0 ? -1 : taxonomy->node_path[node];
}

static bool keep_organism(cps_taxonomy *taxonomy, const int32_t *path) {
    const int64_t organism = path[LAST_RANK];
    if (organism >= taxonomy->organism_room) {
        const int64_t room = 2 * taxonomy->organism_room + 64;
        int32_t *longer = realloc(taxonomy->organisms,
                                  (size_t)room * CPS_TAXON_RANKS * sizeof *taxonomy->organisms);
        if (longer == NULL) {
            return false;
        }
        taxonomy->organisms = longer;
        taxonomy->organism_room = room;
    }
    memcpy(taxonomy->organisms + organism * CPS_TAXON_RANKS, path,
           CPS_TAXON_RANKS * sizeof *taxonomy->organisms);
    return true;
}

cps_status cps_taxonomy_add(cps_taxonomy *taxonomy, const char *const ranks[CPS_TAXON_RANKS],
                            int32_t *organism_out) {
    int32_t path[CPS_TAXON_RANKS], parent = -1;
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        parent = path_of(taxonomy, rank, parent, ranks[rank] == NULL ? "" : ranks[rank]);
        if (parent < 0) {
            return fail_memory();
        }
        path[rank] = parent;
    }
    if (!keep_organism(taxonomy, path)) {
        return fail_memory();
    }
    *organism_out = path[LAST_RANK];
    return CPS_OK;
}

cps_status cps_taxonomy_add_record(cps_taxonomy *taxonomy, const cps_taxon_fields *fields,
                                   int32_t *organism_out) {
    int64_t number;
    CPS_TRY(cps_taxa_add(taxonomy->said, fields, &number));
    if (number >= taxonomy->number_room) {
        const int64_t room = 2 * taxonomy->number_room + 256;
        int32_t *longer = realloc(taxonomy->of_number, (size_t)room * sizeof *longer);
        if (longer == NULL) {
            return fail_memory();
        }
        taxonomy->of_number = longer;
        taxonomy->number_room = room;
    }
    if (number == taxonomy->known_numbers) { /* new */
        const cps_taxon *taxon = cps_taxa_at(taxonomy->said, number);
        int32_t organism = -1;
        if (taxon != NULL) {
            CPS_TRY(cps_taxonomy_add(taxonomy, taxon->ranks, &organism));
        }
        taxonomy->of_number[taxonomy->known_numbers++] = organism;
    }
    *organism_out = taxonomy->of_number[number];
    return CPS_OK;
}

int64_t cps_taxonomy_paths(const cps_taxonomy *taxonomy, int32_t rank) {
    return taxonomy->paths[rank];
}

const int32_t *cps_taxonomy_path(const cps_taxonomy *taxonomy, int32_t organism) {
    return taxonomy->organisms + (int64_t)organism * CPS_TAXON_RANKS;
}

int32_t cps_taxonomy_shared_depth(const int32_t *path, const int32_t *other) {
    int32_t depth = 0;
    while (depth < CPS_TAXON_RANKS && path[depth] == other[depth]) {
        depth++;
    }
    return depth;
}

/* ---- counts ---- */

void cps_rank_counts_add(cps_rank_counts *counts, const int32_t *predicted, const int32_t *truth,
                         bool is_wrong) {
    const int32_t depth = predicted == NULL ? 0 : cps_taxonomy_shared_depth(predicted, truth);
    counts->samples++;
    counts->depth += depth;
    for (int32_t rank = 0; rank < depth; rank++) {
        counts->right[rank]++;
    }
    if (is_wrong) {
        counts->wrong++;
        counts->distance += CPS_TAXON_RANKS - depth;
    }
}

static void add_number(cps_json *metrics, const char *prefix, const char *key, const char *rank,
                       double value) {
    char name[96];
    snprintf(name, sizeof name, "%s%s%s", prefix, key, rank);
    cps_json_add_number(metrics, name, value);
}

void cps_rank_counts_report(const cps_rank_counts *counts, const char *prefix, cps_json *metrics) {
    if (counts->samples == 0) {
        return;
    }
    const double samples = (double)counts->samples;
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        add_number(metrics, prefix, "rank_", cps_taxon_rank_names[rank],
                   (double)counts->right[rank] / samples);
    }
    add_number(metrics, prefix, "shared_depth", "", (double)counts->depth / samples);
    add_number(metrics, prefix, "tree_distance", "",
               counts->wrong == 0 ? 0.0 : (double)counts->distance / (double)counts->wrong);
}

/* ---- sums of probabilities ---- */

/* Probabilities go to organisms, and from there up the tree, each path to its parent. */
typedef struct aggregation {
    const cps_taxonomy *taxonomy;
    const int32_t *organisms, *truths;
    double scale;
    int64_t classes, first;           /* this rank's first row */
    int64_t paths[CPS_TAXON_RANKS];   /* ids below it belong to classes */
    int32_t *parent[CPS_TAXON_RANKS]; /* [paths[k]]: the id at rank k - 1 */
    cps_real **blocks;                /* [row tiles] scores of a tile's rows with all classes */
    bool *failed;                     /* [row tiles] */
    uint8_t *right;                   /* [rows] bit k: right at rank k */
} aggregation;

static bool find_parents(aggregation *a) {
    for (int64_t c = 0; c < a->classes; c++) {
        if (a->organisms[c] >= 0) {
            const int32_t *path = cps_taxonomy_path(a->taxonomy, a->organisms[c]);
            for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
                a->paths[rank] = cps_max_i64(a->paths[rank], (int64_t)path[rank] + 1);
            }
        }
    }
    for (int32_t rank = 1; rank < CPS_TAXON_RANKS; rank++) {
        a->parent[rank] = cps_allocate_zero(a->paths[rank], 1, sizeof *a->parent[rank]);
        if (a->parent[rank] == NULL) {
            return false;
        }
    }
    for (int64_t c = 0; c < a->classes; c++) {
        if (a->organisms[c] >= 0) {
            const int32_t *path = cps_taxonomy_path(a->taxonomy, a->organisms[c]);
            for (int32_t rank = 1; rank < CPS_TAXON_RANKS; rank++) {
                a->parent[rank][path[rank]] = path[rank - 1];
            }
        }
    }
    return true;
}

/* The first path with the largest sum; -1: all are 0. */
static int32_t largest(const double *sums, int64_t count) {
    int32_t best = -1;
    for (int64_t i = 0; i < count; i++) {
        if (sums[i] > (best < 0 ? 0.0 : sums[best])) {
            best = (int32_t)i;
        }
    }
    return best;
}

/* Which ranks come out right, as bits. probability [classes], sums and above [paths of the last
 * rank] are scratch. */
static uint8_t sum_row(const aggregation *a, const cps_real *scores, int32_t truth,
                       double *probability, double *sums, double *above) {
    const int32_t *path = cps_taxonomy_path(a->taxonomy, truth);
    uint8_t right = 0;
    cps_score_softmax(scores, a->classes, a->scale, probability);
    memset(sums, 0, (size_t)a->paths[LAST_RANK] * sizeof *sums);
    for (int64_t c = 0; c < a->classes; c++) {
        if (a->organisms[c] >= 0) {
            sums[a->organisms[c]] += probability[c];
        }
    }
    for (int32_t rank = LAST_RANK; rank >= 0; rank--) {
        right |= (uint8_t)((largest(sums, a->paths[rank]) == path[rank]) << rank);
        if (rank > 0) {
            memset(above, 0, (size_t)a->paths[rank - 1] * sizeof *above);
            for (int64_t i = 0; i < a->paths[rank]; i++) {
                above[a->parent[rank][i]] += sums[i];
            }
            double *const swap = sums;
            sums = above;
            above = swap;
        }
    }
    return right;
}

static bool sum_tile(const aggregation *a, const cps_score_tile *tile, const cps_real *block) {
    double *probability = cps_allocate_zero(a->classes, 1, sizeof *probability);
    double *sums = cps_allocate_zero(a->paths[LAST_RANK], 1, sizeof *sums);
    double *above = cps_allocate_zero(a->paths[LAST_RANK], 1, sizeof *above);
    const bool enough = probability != NULL && sums != NULL && above != NULL;
    for (int64_t i = 0; i < tile->rows && enough; i++) {
        const int64_t row = tile->first_row + i;
        if (a->truths[row] >= 0) {
            a->right[row] =
                sum_row(a, block + i * a->classes, a->truths[row], probability, sums, above);
        }
    }
    free(probability);
    free(sums);
    free(above);
    return enough;
}

/* Keeps the rows' scores until the last columns are there. */
static void visit_block(void *context, const cps_score_tile *tile) {
    const aggregation *a = context;
    const int64_t index = (tile->first_row - a->first) / CPS_SCORE_ROWS;
    if (tile->first_column == 0) {
        a->blocks[index] = cps_allocate_zero(tile->rows, a->classes, sizeof(cps_real));
    }
    cps_real *block = a->blocks[index];
    if (block == NULL) {
        a->failed[index] = true;
        return;
    }
    for (int64_t i = 0; i < tile->rows; i++) {
        memcpy(block + i * a->classes + tile->first_column, tile->scores + i * tile->stride,
               (size_t)tile->columns * sizeof *block);
    }
    if (tile->first_column + tile->columns == a->classes) {
        a->failed[index] = !sum_tile(a, tile, block);
        free(block);
    }
}

static cps_status aggregate(aggregation *a, cps_score_job *job, int64_t last) {
    const int64_t tiles = cps_ceil_div(last - a->first, CPS_SCORE_ROWS);
    a->blocks = cps_allocate_zero(tiles, 1, sizeof *a->blocks);
    a->failed = cps_allocate_zero(tiles, 1, sizeof *a->failed);
    a->right = cps_allocate_zero(job->queries->rows, 1, sizeof *a->right);
    if (a->blocks == NULL || a->failed == NULL || a->right == NULL || !find_parents(a)) {
        return fail_memory();
    }
    job->visit = visit_block;
    job->context = a;
    CPS_TRY(cps_score_visit(job, a->first, last));
    for (int64_t i = 0; i < tiles; i++) {
        if (a->failed[i]) {
            return fail_memory();
        }
    }
    return CPS_OK;
}

cps_status cps_aggregate_ranks(cps_comm *comm, const cps_features *images,
                               const cps_features *classes, const double *weights, double scale,
                               const cps_taxonomy *taxonomy, const int32_t *organisms,
                               const int32_t *truths, int64_t right_out[CPS_TAXON_RANKS]) {
    aggregation a = {.taxonomy = taxonomy,
                     .organisms = organisms,
                     .truths = truths,
                     .scale = scale,
                     .classes = classes->rows};
    cps_score_job job = {.queries = images, .gallery = classes, .weights = weights};
    int64_t last;
    cps_score_range(images->rows, cps_comm_size(comm), cps_comm_rank(comm), &a.first, &last);
    const cps_status status = cps_agree(comm, "sums over ranks", aggregate(&a, &job, last));
    if (status == CPS_OK) {
        cps_score_gather(comm, "sums over ranks", a.right, images->rows, 1);
        for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
            right_out[rank] = 0;
            for (int64_t i = 0; i < images->rows; i++) {
                right_out[rank] += a.right[i] >> rank & 1;
            }
        }
    }
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        free(a.parent[rank]);
    }
    free(a.blocks);
    free(a.failed);
    free(a.right);
    return status;
}

/* ---- neighbours ---- */

void cps_rank_purity(cps_comm *comm, const cps_top_lists *neighbours, const cps_taxonomy *taxonomy,
                     const int32_t *query_organisms, const int32_t *bank_organisms,
                     int64_t same_out[CPS_TAXON_RANKS], int64_t *count_out) {
    enum { COUNTS = CPS_TAXON_RANKS + 1 };
    const int32_t size = cps_comm_size(comm);
    int64_t own[COUNTS] = {0};
    for (int64_t i = 0; i < neighbours->rows; i++) {
        const int32_t query = query_organisms[neighbours->first + i];
        if (query < 0) {
            continue;
        }
        const int64_t *rows = neighbours->index + i * neighbours->most;
        own[CPS_TAXON_RANKS] += neighbours->count[i];
        for (int64_t n = 0; n < neighbours->count[i]; n++) {
            const int32_t other = bank_organisms[rows[n]];
            const int32_t depth =
                other < 0 ? 0
                          : cps_taxonomy_shared_depth(cps_taxonomy_path(taxonomy, query),
                                                      cps_taxonomy_path(taxonomy, other));
            for (int32_t rank = 0; rank < depth; rank++) {
                own[rank]++;
            }
        }
    }
    int64_t *bytes = calloc((size_t)size, sizeof *bytes);
    int64_t(*all)[COUNTS] = calloc((size_t)size, sizeof *all);
    CPS_BUG_IF(bytes == NULL || all == NULL);
    for (int32_t r = 0; r < size; r++) {
        bytes[r] = sizeof own;
    }
    cps_comm_allgatherv(comm, "neighbours by rank", own, all, bytes);
    memset(own, 0, sizeof own);
    for (int32_t r = 0; r < size; r++) {
        for (int32_t i = 0; i < COUNTS; i++) {
            own[i] += all[r][i];
        }
    }
    memcpy(same_out, own, CPS_TAXON_RANKS * sizeof *same_out);
    *count_out = own[CPS_TAXON_RANKS];
    free(bytes);
    free(all);
}

size_t cps_aggregate_bytes(int64_t rows, int64_t classes) {
    const size_t block = (size_t)CPS_SCORE_ROWS * (size_t)classes * sizeof(cps_real);
    const size_t sums = 3 * (size_t)classes * sizeof(double);
    const size_t parents = CPS_TAXON_RANKS * (size_t)classes * sizeof(int32_t);
    return (size_t)cps_pool_threads() * (block + sums) + parents + (size_t)rows;
}
