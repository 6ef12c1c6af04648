/* Groups of s-clip.h5 that no objective takes part in: metrics, splits of data sets, learning
 * rates. */
#include "sclip.h"

#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "base/file.h"
#include "data/stream.h"
#include "eval/retrieval.h"
#include "eval/zeroshot.h"
#include "objective.h"
#include "ranks.h"
#include "tensor/gemm.h"
#include "train/schedule.h"

static const double one = 1.0;

static void *room(int64_t count, size_t bytes) {
    void *memory = calloc((size_t)count + 1, bytes);
    if (memory == NULL) {
        vectors_unusable("out of memory for %lld values", (long long)count);
    }
    return memory;
}

/* ---- comparing ---- */

double sclip_tolerance(void) {
    return vectors_tolerance(1e-9, 1e-4);
}

void sclip_expect(cps_h5 *file, const char *group, const char *name, const double *got,
                  int64_t count) {
    vectors_expect_in(file, group, name, got, count, sclip_tolerance());
}

void sclip_expect_exact(cps_h5 *file, const char *group, const char *name, const double *got,
                        int64_t count) {
    vectors_expect_in(file, group, name, got, count, 1e-9);
}

/* ---- evaluation ---- */

static cps_features read_features(cps_h5 *file, const char *group, const char *name) {
    vectors_matrix m = vectors_matrix_read(file, group, name);
    cps_features features = {
        .rows = m.rows, .width = m.width, .component_count = 1, .widths = {m.width}};
    features.values = room(m.rows * m.width, sizeof *features.values);
    for (int64_t i = 0; i < m.rows * m.width; i++) {
        features.values[i] = (cps_real)m.values[i];
    }
    free(m.values);
    cps_features_normalise(&features);
    return features;
}

static void expect_metric(cps_h5 *file, const char *group, const char *name,
                          const cps_json *metrics, const char *key) {
    const double value = cps_json_get_number(metrics, key, -1.0);
    sclip_expect_exact(file, group, name, &value, 1);
}

static void check_retrieval(cps_h5 *file) {
    static const char group[] = "eval/retrieval";
    static const char *const directions[] = {"image_to_text", "text_to_image"};
    static const char *const ours[] = {"r1", "r5", "r10", "mean_rank", "median_rank"};
    static const char *const theirs[] = {"R_at_1", "R_at_5", "R_at_10", "mean_rank", "median_rank"};
    static const double k[] = {1, 5, 10};
    cps_features images = read_features(file, group, "image");
    cps_features texts = read_features(file, group, "text");
    int64_t *owners = room(texts.rows, sizeof *owners);
    for (int64_t i = 0; i < texts.rows; i++) {
        owners[i] = i;
    }
    cps_retrieval_ranks ranks = {0};
    cps_json *metrics = cps_json_new_object();
    vectors_need(cps_retrieval(vectors_comm(), &images, &texts, owners, &one, &ranks));
    vectors_need(cps_retrieval_metrics_add(&ranks, k, 3, metrics));
    for (int d = 0; d < 2; d++) {
        for (int i = 0; i < 5; i++) {
            char *key = cps_format("%s_%s", directions[d], ours[i]);
            char *name = cps_format("%s_%s", directions[d], theirs[i]);
            expect_metric(file, group, name, metrics, key);
            free(key);
            free(name);
        }
    }
    cps_json_destroy(metrics);
    cps_retrieval_ranks_free(&ranks);
    cps_features_free(&images);
    cps_features_free(&texts);
    free(owners);
}

/* Prompt p of class c is the text "c p". */
typedef struct prompts {
    double *values; /* [classes, count, width] */
    int64_t classes, count, width;
} prompts;

static cps_status encode(void *context, const char *const *texts, cps_real *const *components_out) {
    const prompts *from = context;
    for (int64_t i = 0; i < 64; i++) {
        char *end = NULL;
        const long class = strtol(texts[i], &end, 10), prompt = strtol(end, NULL, 10);
        for (int64_t j = 0; j < from->width; j++) {
            components_out[0][i * from->width + j] =
                (cps_real)from->values[(class * from->count + prompt) * from->width + j];
        }
    }
    return CPS_OK;
}

static prompts read_prompts(cps_h5 *file) {
    static const char path[] = "eval/zeroshot/prompt_embedding";
    cps_h5_info info;
    int64_t count = 0;
    prompts from = {0};
    if (cps_h5_inspect(file, path, &info) != CPS_OK || info.rank != 3 || info.count < 1 ||
        (from.values = vectors_read(file, path, &count)) == NULL) {
        vectors_unusable("'%s' is no array [classes, prompts, width]", path);
    }
    from.classes = info.shape[0];
    from.count = info.shape[1];
    from.width = info.shape[2];
    return from;
}

static void class_vectors(prompts *from, cps_features *vectors_out) {
    const cps_encoder encoder = {.context = from,
                                 .component_count = 1,
                                 .widths = {from->width},
                                 .grain = 64,
                                 .texts = encode};
    char **names = room(from->classes, sizeof *names), **lines = room(from->count, sizeof *lines);
    for (int64_t c = 0; c < from->classes; c++) {
        names[c] = cps_format("%lld", (long long)c);
    }
    for (int64_t p = 0; p < from->count; p++) {
        lines[p] = cps_format("{} %lld", (long long)p);
    }
    const cps_lines templates = {.count = from->count, .lines = (const char *const *)lines};
    vectors_need(cps_class_vectors(vectors_comm(), &encoder, (const char *const *)names,
                                   from->classes, &templates, CPS_NORMALISE_FIRST, vectors_out));
    cps_strings_destroy(names, from->classes);
    cps_strings_destroy(lines, from->count);
}

static int32_t *read_labels(cps_h5 *file, int64_t rows, int64_t classes) {
    static const char path[] = "eval/zeroshot/label";
    int64_t count = 0;
    int64_t *given = vectors_read_i64(file, path, &count);
    int32_t *labels = room(rows, sizeof *labels);
    if (given == NULL || count != rows) {
        vectors_unusable("'%s' does not hold a label for each of %lld images", path,
                         (long long)rows);
    }
    for (int64_t i = 0; i < rows; i++) {
        if (given[i] < 0 || given[i] >= classes) {
            vectors_unusable("'%s' holds %lld, wanted are 0 to %lld", path, (long long)given[i],
                             (long long)classes - 1);
        }
        labels[i] = (int32_t)given[i];
    }
    free(given);
    return labels;
}

static void check_zero_shot(cps_h5 *file) {
    static const char group[] = "eval/zeroshot";
    prompts from = read_prompts(file);
    cps_features images = read_features(file, group, "image"), vectors = {0};
    if (images.width != from.width) {
        vectors_unusable("'%s': images have %lld values, prompts %lld", group,
                         (long long)images.width, (long long)from.width);
    }
    class_vectors(&from, &vectors);
    double *weight = room(vectors.rows * vectors.width, sizeof *weight);
    for (int64_t i = 0; i < vectors.rows * vectors.width; i++) {
        weight[i] = (double)vectors.values[i];
    }
    sclip_expect(file, group, "weight", weight, vectors.rows * vectors.width);
    int32_t *labels = read_labels(file, images.rows, from.classes);
    cps_predictions predictions = {0};
    cps_json *metrics = cps_json_new_object();
    vectors_need(cps_zero_shot(vectors_comm(), &images, &vectors, &one, 5, &predictions));
    vectors_need(cps_classification_metrics(&predictions, labels, from.classes, group, metrics));
    expect_metric(file, group, "top1", metrics, "top1");
    expect_metric(file, group, "top5", metrics, "top5");
    cps_json_destroy(metrics);
    cps_predictions_free(&predictions);
    cps_features_free(&vectors);
    cps_features_free(&images);
    free(labels);
    free(weight);
    free(from.values);
}

void sclip_check_evaluation(cps_h5 *file) {
    static const char *const retrieval[] = {"image", "text", NULL};
    static const char *const zero_shot[] = {"image", "label", "prompt_embedding", NULL};
    cps_gemm_start();
    if (vectors_has(file, "eval/retrieval", retrieval)) {
        check_retrieval(file);
    }
    if (vectors_has(file, "eval/zeroshot", zero_shot)) {
        check_zero_shot(file);
    }
}

/* ---- splits ---- */

/* A split as two streams make it over a shard of n records whose ids are their numbers. */
typedef struct split {
    cps_shard_pool *pool;
    cps_stream *labelled, *rest;
    uint32_t *order; /* [n] of the published draw */
    int64_t n;
} split;

static cps_status open_split(split *s, const char *path, double ratio, int64_t seed) {
    const char *const patterns[] = {path};
    cps_set_spec set = {.patterns = patterns,
                        .pattern_count = 1,
                        .fraction = ratio,
                        .subset_seed = (uint64_t)seed,
                        .draw = CPS_DRAW_MT19937};
    const cps_stream_spec spec = {.name = "split", .sets = &set, .set_count = 1};
    s->order = room(s->n, sizeof *s->order);
    cps_stream_published_order((uint32_t)seed, s->n, s->order);
    CPS_TRY(cps_shard_pool_create(&s->pool));
    CPS_TRY(cps_stream_create(&spec, 0, s->pool, &s->labelled));
    set = (cps_set_spec){.patterns = patterns, .pattern_count = 1, .rest_of = s->labelled};
    return cps_stream_create(&spec, 0, s->pool, &s->rest);
}

static void close_split(split *s) {
    cps_stream_destroy(s->rest);
    cps_stream_destroy(s->labelled);
    cps_shard_pool_destroy(s->pool);
    free(s->order);
}

/* The records of `stream`, in the order of the draw. A record of the stream that order[first ..]
 * does not name stands as -1. */
static void expect_records(cps_h5 *file, const char *group, const char *name, const split *s,
                           const cps_stream *stream, int64_t first) {
    char *path = cps_format("%s/%s", group, name);
    const int64_t count = cps_stream_records(stream);
    uint8_t *held = room(s->n, 1);
    int64_t *got = room(count, sizeof *got);
    for (int64_t i = 0; i < count; i++) {
        cps_place place;
        cps_stream_stored(stream, i, &place);
        held[place.sample_id] = 1;
    }
    for (int64_t i = 0; i < count; i++) {
        const int64_t record = first + i < s->n ? (int64_t)s->order[first + i] : -1;
        got[i] = record >= 0 && held[record] ? record : -1;
    }
    if (cps_h5_has(file, path)) {
        vectors_expect_i64(file, path, got, count);
    }
    free(held);
    free(got);
    free(path);
}

static void check_split(cps_h5 *file, const char *group) {
    enum { MOST_RECORDS = 1 << 20 };
    static const char *const inputs[] = {"n", "ratio", "seed", NULL};
    if (!vectors_has(file, group, inputs)) {
        return;
    }
    split s = {.n = (int64_t)vectors_number(file, group, "n")};
    const double ratio = vectors_number(file, group, "ratio");
    const double seed = vectors_number(file, group, "seed");
    if (s.n < 2 || s.n > MOST_RECORDS || !(ratio > 0.0 && ratio < 1.0) ||
        !(seed >= 0.0 && seed <= 4294967295.0)) {
        vectors_unusable("'%s': n = %lld, ratio = %g, seed = %g; wanted are 2 to %d records, a "
                         "ratio between 0 and 1, a seed of 32 bits",
                         group, (long long)s.n, ratio, seed, MOST_RECORDS);
    }
    char *path = NULL;
    vectors_need(objective_shard(s.n, &path));
    if (open_split(&s, path, ratio, (int64_t)seed) != CPS_OK) {
        vectors_broken(group, 0.0, "%s", cps_fail_message());
    } else {
        expect_records(file, group, "labelled", &s, s.labelled, 0);
        expect_records(file, group, "unlabelled", &s, s.rest, cps_stream_records(s.labelled));
    }
    close_split(&s);
    free(path);
}

void sclip_check_splits(cps_h5 *file) {
    vectors_each(file, "split", check_split);
}

/* ---- schedules ---- */

static void check_schedule(cps_h5 *file, const char *group) {
    enum { MOST_STEPS = 1 << 24 };
    static const char *const inputs[] = {"base", "warmup", "steps", NULL};
    if (!vectors_has(file, group, inputs)) {
        return;
    }
    const double base = vectors_number(file, group, "base");
    const double warmup = vectors_number(file, group, "warmup");
    const double steps = vectors_number(file, group, "steps");
    if (!(steps >= 1.0 && steps <= MOST_STEPS) || !(warmup >= 0.0 && warmup <= steps)) {
        vectors_unusable("'%s': %g steps with %g of warm-up; wanted are 1 to %d steps", group,
                         steps, warmup, MOST_STEPS);
    }
    const cps_schedule schedule = {.kind = CPS_SCHEDULE_COSINE, .warmup_steps = (int64_t)warmup};
    const cps_numbers from = {.count = 1, .values = &base};
    double *lr = room((int64_t)steps, sizeof *lr);
    vectors_need(cps_schedule_tabulate(&schedule, from, group, (int64_t)steps, 0, lr));
    sclip_expect_exact(file, group, "lr", lr, (int64_t)steps);
    free(lr);
}

void sclip_check_schedules(cps_h5 *file) {
    vectors_each(file, "schedule", check_schedule);
}
