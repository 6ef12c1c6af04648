/* Where methods differ: classes, ranks of the taxonomy, wrong answers, single samples. All counts
 * over the paired samples; means over the seeds of a method. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/numeric.h"
#include "report/comparison_internal.h"
#include "shards/taxon.h"

enum {
    MOST_CLASSES = 1000,
    MOST_CONFUSIONS = 40, /* of each method */
    MOST_DISAGREEMENTS = 48,
    RECALL = 10 /* rank that counts as right in retrieval */
};

static cps_status no_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory to look at samples");
}

static int64_t row_of(const cps_compared *compared, int32_t run, int64_t sample) {
    return compared->pairing.rows[run * compared->pairing.samples + sample];
}

static int32_t label_of(const cps_compared *compared, int64_t sample) {
    const int32_t *labels = compared->files[0].labels;
    return labels == NULL ? -1 : labels[row_of(compared, 0, sample)];
}

static int32_t answer_of(const cps_compared *compared, int32_t run, int64_t sample) {
    const cps_prediction_file *file = &compared->files[run];
    return file->answers[row_of(compared, run, sample) * file->top];
}

static void add_class(const cps_compared *compared, cps_json *object, const char *key,
                      const char *name_key, int32_t number) {
    cps_json_add_number(object, key, number);
    cps_json_add_string(object, name_key, number < 0 ? "" : compared->files[0].class_names[number]);
}

/* ---- a share by method: mean, least and most over its seeds ---- */

/* shares: [runs] */
static void add_shares(const cps_compared *compared, const double *shares, cps_json *array) {
    for (int32_t m = 0; m < compared->settings->method_count; m++) {
        double sum = 0.0, low = 1.0, high = 0.0;
        const int32_t first = compared->first[m], end = compared->first[m + 1];
        for (int32_t run = first; run < end; run++) {
            sum += shares[run];
            low = shares[run] < low ? shares[run] : low;
            high = shares[run] > high ? shares[run] : high;
        }
        if (end > first) {
            cps_json *object = cps_json_add_object(array, NULL);
            cps_json_add_string(object, "method", compared->settings->methods[m]);
            cps_json_add_number(object, "mean", sum / (end - first));
            cps_json_add_number(object, "low", low);
            cps_json_add_number(object, "high", high);
        }
    }
}

/* ---- classes ---- */

typedef struct class_size {
    int32_t number;
    int64_t samples;
} class_size;

static int by_samples(const void *a, const void *b) {
    const class_size *left = a, *right = b;
    if (left->samples != right->samples) {
        return left->samples > right->samples ? -1 : 1;
    }
    return (left->number > right->number) - (left->number < right->number);
}

static int by_number(const void *a, const void *b) {
    const class_size *left = a, *right = b;
    return (left->number > right->number) - (left->number < right->number);
}

typedef struct class_counts {
    int64_t classes;
    class_size *sizes; /* [classes] */
    int64_t *right;    /* [runs, classes] */
    double *shares;    /* [runs] */
} class_counts;

static void count_classes(const cps_compared *compared, class_counts *counts) {
    for (int64_t i = 0; i < compared->pairing.samples; i++) {
        const int32_t label = label_of(compared, i);
        if (label < 0) {
            continue;
        }
        counts->sizes[label].samples++;
        for (int32_t run = 0; run < compared->run_count; run++) {
            counts->right[run * counts->classes + label] += answer_of(compared, run, i) == label;
        }
    }
    for (int64_t c = 0; c < counts->classes; c++) {
        counts->sizes[c].number = (int32_t)c;
    }
}

/* The classes with the most samples, in the order of the class list. */
static void write_classes(const cps_compared *compared, class_counts *counts, cps_json *object) {
    int64_t there = 0;
    for (int64_t c = 0; c < counts->classes; c++) {
        there += counts->sizes[c].samples > 0;
    }
    const int64_t shown = cps_min_i64(there, MOST_CLASSES);
    qsort(counts->sizes, (size_t)counts->classes, sizeof *counts->sizes, by_samples);
    qsort(counts->sizes, (size_t)shown, sizeof *counts->sizes, by_number);
    cps_json_add_number(object, "left_out", (double)(there - shown));
    cps_json *list = cps_json_add_array(object, "classes");
    for (int64_t k = 0; k < shown; k++) {
        const class_size *size = &counts->sizes[k];
        cps_json *one = cps_json_add_object(list, NULL);
        add_class(compared, one, "class", "name", size->number);
        cps_json_add_number(one, "samples", (double)size->samples);
        for (int32_t run = 0; run < compared->run_count; run++) {
            counts->shares[run] =
                (double)counts->right[run * counts->classes + size->number] / (double)size->samples;
        }
        add_shares(compared, counts->shares, cps_json_add_array(one, "methods"));
    }
}

static cps_status add_classes(const cps_compared *compared, cps_json *object) {
    class_counts counts = {.classes = compared->files[0].class_count};
    counts.sizes = cps_allocate_zero(counts.classes, 1, sizeof *counts.sizes);
    counts.right = cps_allocate_zero(counts.classes, compared->run_count, sizeof *counts.right);
    counts.shares = cps_allocate_zero(compared->run_count, 1, sizeof *counts.shares);
    const bool memory = counts.sizes != NULL && counts.right != NULL && counts.shares != NULL;
    if (memory) {
        count_classes(compared, &counts);
        write_classes(compared, &counts, object);
    }
    free(counts.sizes);
    free(counts.right);
    free(counts.shares);
    return memory ? CPS_OK : no_memory();
}

/* ---- ranks of the taxonomy ---- */

static bool all_have_depths(const cps_compared *compared) {
    for (int32_t run = 0; run < compared->run_count; run++) {
        if (compared->files[run].shared_depth == NULL) {
            return false;
        }
    }
    return true;
}

static int32_t depth_of(const cps_compared *compared, int32_t run, int64_t sample) {
    return compared->files[run].shared_depth[row_of(compared, run, sample)];
}

static cps_status add_ranks(const cps_compared *compared, cps_json *array) {
    double *shares = cps_allocate_zero(compared->run_count, 1, sizeof *shares);
    if (shares == NULL) {
        return no_memory();
    }
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS && all_have_depths(compared); rank++) {
        int64_t samples = 0;
        for (int32_t run = 0; run < compared->run_count; run++) {
            int64_t right = 0;
            samples = 0;
            for (int64_t i = 0; i < compared->pairing.samples; i++) {
                const int32_t depth = depth_of(compared, run, i);
                samples += depth >= 0;
                right += depth > rank;
            }
            shares[run] = samples == 0 ? 0.0 : (double)right / (double)samples;
        }
        if (samples > 0) {
            cps_json *object = cps_json_add_object(array, NULL);
            cps_json_add_string(object, "rank", cps_taxon_rank_names[rank]);
            cps_json_add_number(object, "samples", (double)samples);
            add_shares(compared, shares, cps_json_add_array(object, "methods"));
        }
    }
    free(shares);
    return CPS_OK;
}

/* ---- wrong answers ---- */

/* A class taken for another: how often by the method and by the baseline, mean over seeds. */
typedef struct confusion {
    int32_t label, answer;
    double own, baseline;
} confusion;

static int by_classes(const void *a, const void *b) {
    const confusion *left = a, *right = b;
    if (left->label != right->label) {
        return left->label < right->label ? -1 : 1;
    }
    return (left->answer > right->answer) - (left->answer < right->answer);
}

static double change_of(const confusion *at) {
    return at->own - at->baseline;
}

static int by_change(const void *a, const void *b) {
    const double left = change_of(a), right = change_of(b);
    const double left_size = left < 0.0 ? -left : left, right_size = right < 0.0 ? -right : right;
    if (left_size < right_size || left_size > right_size) {
        return left_size > right_size ? -1 : 1;
    }
    return by_classes(a, b);
}

/* Each wrong answer of a method's runs as an entry of its share of a count. */
static int64_t collect_wrong(const cps_compared *compared, int32_t method, bool is_baseline,
                             confusion *list) {
    const int32_t first = compared->first[method], end = compared->first[method + 1];
    int64_t count = 0;
    for (int32_t run = first; run < end; run++) {
        for (int64_t i = 0; i < compared->pairing.samples; i++) {
            const int32_t label = label_of(compared, i), answer = answer_of(compared, run, i);
            if (label >= 0 && answer >= 0 && answer != label) {
                const double one = 1.0 / (end - first);
                list[count++] = (confusion){.label = label,
                                            .answer = answer,
                                            .own = is_baseline ? 0.0 : one,
                                            .baseline = is_baseline ? one : 0.0};
            }
        }
    }
    return count;
}

/* Equal entries become one. */
static int64_t merge(confusion *list, int64_t count) {
    int64_t kept = 0;
    qsort(list, (size_t)count, sizeof *list, by_classes);
    for (int64_t i = 0; i < count; i++) {
        if (kept > 0 && by_classes(&list[kept - 1], &list[i]) == 0) {
            list[kept - 1].own += list[i].own;
            list[kept - 1].baseline += list[i].baseline;
        } else {
            list[kept++] = list[i];
        }
    }
    return kept;
}

static void write_confusions(const cps_compared *compared, int32_t method, const confusion *list,
                             int64_t count, const int64_t *sizes, cps_json *array) {
    for (int64_t i = 0; i < count && i < MOST_CONFUSIONS && change_of(&list[i]) != 0.0; i++) {
        const confusion *at = &list[i];
        const double samples = (double)sizes[at->label];
        cps_json *object = cps_json_add_object(array, NULL);
        cps_json_add_string(object, "method", compared->settings->methods[method]);
        add_class(compared, object, "label", "label_name", at->label);
        add_class(compared, object, "answer", "answer_name", at->answer);
        cps_json_add_number(object, "share", at->own / samples);
        cps_json_add_number(object, "baseline_share", at->baseline / samples);
        cps_json_add_number(object, "change", change_of(at) / samples);
        cps_json_add_number(object, "count_change", change_of(at));
    }
}

static cps_status add_confusions(const cps_compared *compared, cps_json *array) {
    const int32_t baseline = compared->settings->baseline;
    confusion *list =
        cps_allocate_zero(compared->pairing.samples, compared->run_count, sizeof *list);
    int64_t *sizes = cps_allocate_zero(compared->files[0].class_count, 1, sizeof *sizes);
    const bool memory = list != NULL && sizes != NULL;
    for (int64_t i = 0; memory && i < compared->pairing.samples; i++) {
        if (label_of(compared, i) >= 0) {
            sizes[label_of(compared, i)]++;
        }
    }
    for (int32_t m = 0; memory && m < compared->settings->method_count; m++) {
        const bool both = compared->first[m + 1] > compared->first[m] &&
                          compared->first[baseline + 1] > compared->first[baseline];
        if (m == baseline || !both) {
            continue;
        }
        int64_t count = collect_wrong(compared, m, false, list);
        count += collect_wrong(compared, baseline, true, list + count);
        count = merge(list, count);
        qsort(list, (size_t)count, sizeof *list, by_change);
        write_confusions(compared, m, list, count, sizes, array);
    }
    free(list);
    free(sizes);
    return memory ? CPS_OK : no_memory();
}

/* ---- single samples ---- */

static bool is_right(const cps_compared *compared, int32_t run, int64_t sample) {
    const cps_prediction_file *file = &compared->files[run];
    if (file->answers != NULL) {
        return answer_of(compared, run, sample) == label_of(compared, sample);
    }
    const int64_t rank = file->image_to_text[row_of(compared, run, sample)];
    return rank >= 1 && rank <= RECALL;
}

static double right_share(const cps_compared *compared, int32_t method, int64_t sample) {
    const int32_t first = compared->first[method], end = compared->first[method + 1];
    int32_t right = 0;
    for (int32_t run = first; run < end; run++) {
        right += is_right(compared, run, sample);
    }
    return (double)right / (end - first);
}

/* Share of seeds right, of the best method minus of the worst. */
typedef struct disagreement {
    int64_t sample;
    double difference;
    uint64_t lot; /* among equal ones: of the sample id, so that all classes have a chance */
} disagreement;

static int by_difference(const void *a, const void *b) {
    const disagreement *left = a, *right = b;
    if (left->difference < right->difference || left->difference > right->difference) {
        return left->difference > right->difference ? -1 : 1;
    }
    if (left->lot != right->lot) {
        return left->lot < right->lot ? -1 : 1;
    }
    return (left->sample > right->sample) - (left->sample < right->sample);
}

static uint64_t id_of(const cps_compared *compared, int64_t sample) {
    return compared->files[0].sample_ids[row_of(compared, 0, sample)];
}

static double difference_at(const cps_compared *compared, int64_t sample) {
    double low = 1.0, high = 0.0;
    for (int32_t m = 0; m < compared->settings->method_count; m++) {
        if (compared->first[m + 1] > compared->first[m]) {
            const double share = right_share(compared, m, sample);
            low = share < low ? share : low;
            high = share > high ? share : high;
        }
    }
    return high - low;
}

static int by_value(const void *a, const void *b) {
    const int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

/* Of ascending numbers the most frequent, the least of equal ones. */
static int64_t most_frequent(const int64_t *values, int32_t count) {
    int64_t best = values[0];
    int32_t best_times = 0, times = 0;
    for (int32_t i = 0; i < count; i++) {
        times = i > 0 && values[i] == values[i - 1] ? times + 1 : 1;
        if (times > best_times) {
            best_times = times;
            best = values[i];
        }
    }
    return best;
}

/* answers: [runs], working space. */
static void add_answer(const cps_compared *compared, int32_t method, int64_t sample,
                       int64_t *answers, cps_json *array) {
    const int32_t first = compared->first[method], count = compared->first[method + 1] - first;
    if (count == 0) {
        return;
    }
    for (int32_t k = 0; k < count; k++) {
        const cps_prediction_file *file = &compared->files[first + k];
        answers[k] = file->answers != NULL
                         ? answer_of(compared, first + k, sample)
                         : file->image_to_text[row_of(compared, first + k, sample)];
    }
    qsort(answers, (size_t)count, sizeof *answers, by_value);
    cps_json *object = cps_json_add_object(array, NULL);
    cps_json_add_string(object, "method", compared->settings->methods[method]);
    cps_json_add_number(object, "right", right_share(compared, method, sample));
    if (compared->files[0].answers != NULL) {
        add_class(compared, object, "answer", "answer_name",
                  (int32_t)most_frequent(answers, count));
    } else {
        cps_json_add_number(object, "answer", (double)answers[(count - 1) / 2]);
    }
}

static void write_disagreement(const cps_compared *compared, int64_t sample, int64_t *answers,
                               cps_json *array) {
    const cps_prediction_file *file = &compared->files[0];
    const int64_t row = row_of(compared, 0, sample);
    char id[32];
    cps_json *object = cps_json_add_object(array, NULL);
    snprintf(id, sizeof id, "%016" PRIx64, id_of(compared, sample));
    cps_json_add_string(object, "sample_id", id);
    if (file->records != NULL) {
        cps_json_add_string(object, "shard", file->shard_names[file->shards[row]]);
        cps_json_add_number(object, "shard_index", file->shards[row]);
        cps_json_add_number(object, "record", (double)file->records[row]);
    }
    if (file->labels != NULL) {
        add_class(compared, object, "label", "label_name", label_of(compared, sample));
    }
    cps_json *methods = cps_json_add_array(object, "methods");
    for (int32_t m = 0; m < compared->settings->method_count; m++) {
        add_answer(compared, m, sample, answers, methods);
    }
}

static cps_status add_disagreements(const cps_compared *compared, cps_json *array) {
    const int64_t samples = compared->pairing.samples;
    disagreement *list = cps_allocate_zero(samples, 1, sizeof *list);
    int64_t *answers = cps_allocate_zero(compared->run_count, 1, sizeof *answers);
    const bool memory = list != NULL && answers != NULL;
    int64_t count = 0;
    for (int64_t i = 0; memory && i < samples; i++) {
        const bool judged = compared->files[0].answers == NULL || label_of(compared, i) >= 0;
        const double difference = judged ? difference_at(compared, i) : 0.0;
        const uint64_t id = id_of(compared, i);
        if (difference > 0.0) {
            list[count++] = (disagreement){i, difference, cps_hash64(&id, sizeof id)};
        }
    }
    if (memory) {
        qsort(list, (size_t)count, sizeof *list, by_difference);
    }
    for (int64_t k = 0; k < count && k < MOST_DISAGREEMENTS; k++) {
        write_disagreement(compared, list[k].sample, answers, array);
    }
    free(list);
    free(answers);
    return memory ? CPS_OK : no_memory();
}

/* ---- the door ---- */

cps_status cps_comparison_samples(const cps_compared *compared, cps_json *object) {
    const cps_prediction_file *file = &compared->files[0];
    cps_json *per_class = cps_json_add_object(object, "per_class");
    cps_json *ranks = cps_json_add_array(object, "ranks");
    cps_json *confusions = cps_json_add_array(object, "confusions");
    cps_json *disagreements = cps_json_add_array(object, "disagreements");
    if (file->answers != NULL) {
        CPS_TRY(add_classes(compared, per_class));
        CPS_TRY(add_ranks(compared, ranks));
        CPS_TRY(add_confusions(compared, confusions));
    }
    return file->answers != NULL || file->image_to_text != NULL
               ? add_disagreements(compared, disagreements)
               : CPS_OK;
}
