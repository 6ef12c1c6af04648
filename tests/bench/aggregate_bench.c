/* What summing species to a rank costs beside scoring them: 350,000 taxa, a tree as wide as that of
 * life. Printed for each part: seconds an image, taxa x images a second, bytes a second, and the
 * share of the whole.
 *     aggregate_bench [TAXA [IMAGES [THREADS]]] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/pool.h"
#include "eval/classifier.h"
#include "tensor/gemm.h"

enum { WIDTH = 512, BLOCK = 64, REPEATS = 3, GENUS = CPS_TAXON_GENUS };

static void need(cps_status status) {
    if (status != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        exit(1);
    }
}

/* How many paths there are at each rank above species, for 350,000 of these; as in TreeOfLife-10M.
 */
static const int64_t paths_of[CPS_TAXON_RANKS - 1] = {12, 100, 350, 1600, 9700, 81000};

/* Each species goes to a random path, as a real tree's have any number. */
static void make_names(cps_class_names *names, int64_t taxa) {
    cps_class_names_init(names, true);
    uint64_t state = 88172645463325252u;
    for (int64_t i = 0; i < taxa; i++) {
        char texts[CPS_TAXON_FIELDS][32];
        const char *fields[CPS_TAXON_FIELDS];
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        int64_t path = (int64_t)(state % (uint64_t)paths_of[GENUS]);
        for (int32_t r = GENUS; r >= 0; r--) { /* a run of paths has one parent */
            path = r < GENUS ? path * paths_of[r] / paths_of[r + 1] : path;
            snprintf(texts[r], sizeof texts[r], "r%d-%lld", r, (long long)path);
            fields[r] = texts[r];
        }
        snprintf(texts[GENUS + 1], sizeof texts[GENUS + 1], "s%lld", (long long)i);
        fields[GENUS + 1] = texts[GENUS + 1];
        fields[CPS_NAME_COMMON] = "";
        need(cps_class_names_add(names, fields));
    }
}

static void fill(cps_real *values, int64_t rows, uint64_t state) {
    for (int64_t i = 0; i < rows; i++) {
        double sum = 0.0;
        for (int64_t j = 0; j < WIDTH; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            const double x = (double)(state >> 40) / (double)(1 << 24) - 0.5;
            values[i * WIDTH + j] = (cps_real)x;
            sum += x * x;
        }
        for (int64_t j = 0; j < WIDTH; j++) {
            values[i * WIDTH + j] = (cps_real)((double)values[i * WIDTH + j] / sqrt(sum));
        }
    }
}

/* The nearer images are to a taxon, the fewer others come into question. */
static void make_images(cps_real *images, int64_t count, const cps_features *taxa, double near_by) {
    const cps_real to_taxon = (cps_real)near_by,
                   elsewhere = (cps_real)sqrt(1.0 - near_by * near_by);
    fill(images, count, 1);
    for (int64_t i = 0; i < count; i++) {
        const cps_real *near = taxa->values + (i * 7919 % taxa->rows) * WIDTH;
        for (int64_t j = 0; j < WIDTH; j++) {
            images[i * WIDTH + j] = elsewhere * images[i * WIDTH + j] + to_taxon * near[j];
        }
    }
}

static double best_of(double a, double b) {
    return a < b ? a : b;
}

static void show(const char *name, double seconds, double pairs, double bytes, double whole) {
    printf("%-22s %9.3f ms an image %8.1f M taxa x images/s %7.2f GB/s %6.1f %%\n", name,
           1e3 * seconds, pairs / seconds * 1e-6, bytes / seconds * 1e-9, 100.0 * seconds / whole);
}

/* What one image of a block takes, all threads at work on the block: the whole, or probabilities
 * alone. */
static double time_block(cps_ranker *ranker, const cps_real *images, int64_t count, bool whole) {
    static cps_outcome outcomes[BLOCK];
    static cps_ranked best[BLOCK * 5];
    double seconds = (double)INFINITY;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        const double start = cps_seconds();
        for (int64_t first = 0; first < count; first += BLOCK) {
            if (whole) {
                cps_ranker_run(ranker, images + first * WIDTH, outcomes, best);
            } else {
                cps_ranker_probabilities(ranker, images + first * WIDTH, BLOCK);
            }
        }
        seconds = best_of(seconds, (cps_seconds() - start) / (double)count);
    }
    return seconds;
}

/* The aggregation alone, on one thread, over probabilities that are there. */
static double time_aggregation(const cps_real *probabilities, int64_t taxa,
                               const cps_class_groups *groups) {
    cps_group_room room;
    cps_ranked best[5];
    need(cps_group_room_create(groups->count, &room));
    double seconds = (double)INFINITY;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        const double start = cps_seconds();
        for (int64_t i = 0; i < BLOCK; i++) {
            if (cps_rank_groups(probabilities + i * taxa, taxa, groups->of, 1e-9, 5, &room, best) ==
                0) {
                fprintf(stderr, "no group is above 1e-9\n");
                exit(1);
            }
        }
        seconds = best_of(seconds, (cps_seconds() - start) / BLOCK);
    }
    cps_group_room_free(&room);
    return seconds;
}

static int64_t above(const cps_real *probabilities, int64_t taxa) {
    int64_t count = 0;
    for (int64_t i = 0; i < taxa; i++) {
        count += (double)probabilities[i] > 1e-9;
    }
    return count;
}

static void run_rank(const cps_classifier *classifier, int32_t rank, const cps_real *images,
                     int64_t count, int32_t threads) {
    const int64_t taxa = classifier->vectors.rows;
    const double bytes = (double)taxa * (double)sizeof(cps_real), weight = 1.0;
    cps_class_groups groups;
    cps_ranker *ranker = NULL;
    need(cps_class_groups_of_rank(&classifier->names, rank, &groups));
    const cps_outcome_plan plan = {.kind = rank == CPS_TAXON_SPECIES ? CPS_OUTCOME_CLASSES
                                                                     : CPS_OUTCOME_GROUPS,
                                   .k = 5,
                                   .min_prob = 1e-9,
                                   .groups = &groups};
    need(cps_ranker_create(classifier, &weight, 100.0, &plan, BLOCK, &ranker));
    if (cps_ranker_block(ranker) < BLOCK) {
        fprintf(stderr, "%lld taxa are too many for blocks of %d\n", (long long)taxa, BLOCK);
        exit(1);
    }
    char name[64];
    const double scored = time_block(ranker, images, count, false);
    const double whole = time_block(ranker, images, count, true);
    const cps_real *probabilities = cps_ranker_probabilities(ranker, images, BLOCK);
    if (rank == 0) {
        printf("\n%lld taxa of an image are above 1e-9\n", (long long)above(probabilities, taxa));
        show("product and softmax", scored, (double)taxa, bytes * (WIDTH / (double)BLOCK + 3.0),
             whole);
    }
    snprintf(name, sizeof name, "%s, whole", cps_taxon_rank_names[rank]);
    show(name, whole, (double)taxa, bytes * (WIDTH / (double)BLOCK + 4.0), whole);
    if (rank < CPS_TAXON_SPECIES) {
        snprintf(name, sizeof name, "  aggregation (%lld)", (long long)groups.count);
        show(name, time_aggregation(probabilities, taxa, &groups), (double)taxa, bytes,
             whole * threads);
    }
    cps_ranker_destroy(ranker);
    cps_class_groups_free(&groups);
}

static void run(const cps_classifier *classifier, const cps_real *images, int64_t count,
                int32_t threads) {
    static const int32_t ranks[] = {0, 4, GENUS, CPS_TAXON_SPECIES};
    for (size_t r = 0; r < sizeof ranks / sizeof ranks[0]; r++) {
        run_rank(classifier, ranks[r], images, count, threads);
    }
}

int main(int argc, char **argv) {
    const int64_t taxa = argc > 1 ? strtoll(argv[1], NULL, 10) : 350000;
    const int64_t images = (argc > 2 ? strtoll(argv[2], NULL, 10) : 256) / BLOCK * BLOCK;
    const int32_t threads = argc > 3 ? (int32_t)strtol(argv[3], NULL, 10) : 1;
    cps_classifier classifier = {
        .vectors = {.rows = taxa, .width = WIDTH, .component_count = 1, .widths = {WIDTH}}};
    cps_real *features = malloc((size_t)(images * WIDTH) * sizeof *features);
    classifier.vectors.values = malloc((size_t)(taxa * WIDTH) * sizeof(cps_real));
    if (taxa < 1 || images < BLOCK || features == NULL || classifier.vectors.values == NULL) {
        fprintf(stderr, "aggregate_bench [TAXA [IMAGES (at least %d) [THREADS]]]\n", BLOCK);
        return 1;
    }
    need(cps_pool_start(threads));
    cps_gemm_start();
    make_names(&classifier.names, taxa);
    fill(classifier.vectors.values, taxa, 2);
    printf("%lld taxa of width %d, %lld images in blocks of %d, %d threads (%s)\n", (long long)taxa,
           WIDTH, (long long)images, BLOCK, threads, cps_gemm_core_name());
    make_images(features, images, &classifier.vectors, 0.4);
    run(&classifier, features, images, threads);
    make_images(features, images, &classifier.vectors, 0.2);
    run(&classifier, features, images, threads);
    cps_classifier_free(&classifier);
    free(features);
    cps_pool_stop();
    return 0;
}
