#include "eval/classes.h"

#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "eval/interval.h"

enum { TOP_FIVE = 5 };

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the classes of an evaluation");
}

/* ---- class lists ---- */

static cps_status fail_labels(const cps_shard *shard) {
    return cps_fail(CPS_ERR_DATA,
                    "shard '%s' has no class labels: pack it with a label column "
                    "('copse pack ... --label COLUMN'), or leave this evaluation out",
                    cps_shard_path(shard));
}

/* `shard` must have the classes of `first`. */
static cps_status check_classes(const cps_shard *first, const cps_shard *shard) {
    const int64_t count = cps_shard_class_count(first);
    if (!cps_shard_has_labels(shard)) {
        return fail_labels(shard);
    }
    if (cps_shard_class_count(shard) != count) {
        return cps_fail(CPS_ERR_DATA,
                        "shard '%s' has %lld classes, '%s' has %lld: the shards of one set "
                        "need one class list; pack them together, or with the same --classes file",
                        cps_shard_path(shard), (long long)cps_shard_class_count(shard),
                        cps_shard_path(first), (long long)count);
    }
    for (int64_t i = 0; i < count; i++) {
        if (strcmp(cps_shard_class_name(shard, i), cps_shard_class_name(first, i)) != 0) {
            return cps_fail(CPS_ERR_DATA,
                            "class %lld is '%s' in shard '%s' and '%s' in '%s': the shards of "
                            "one set need one class list; pack them together, or with the same "
                            "--classes file",
                            (long long)i, cps_shard_class_name(shard, i), cps_shard_path(shard),
                            cps_shard_class_name(first, i), cps_shard_path(first));
        }
    }
    return CPS_OK;
}

cps_status cps_class_list_of(const cps_stream *stream, cps_class_list *list_out) {
    const cps_shard *first = NULL, *last = NULL;
    for (int64_t i = 0; i < cps_stream_records(stream); i++) {
        cps_place place;
        cps_stream_stored(stream, i, &place);
        if (place.shard == last) {
            continue;
        }
        if (first == NULL) {
            first = place.shard;
            if (!cps_shard_has_labels(first) || cps_shard_class_count(first) == 0) {
                return fail_labels(first);
            }
        } else {
            CPS_TRY(check_classes(first, place.shard));
        }
        last = place.shard;
    }
    CPS_BUG_IF(first == NULL); /* a stream holds at least one record */
    cps_class_list list = {.count = cps_shard_class_count(first)};
    list.names = calloc((size_t)list.count, sizeof *list.names);
    if (list.names == NULL) {
        return fail_memory();
    }
    for (int64_t i = 0; i < list.count; i++) {
        list.names[i] = cps_shard_class_name(first, i);
    }
    *list_out = list;
    return CPS_OK;
}

int64_t cps_class_count_of(const cps_stream *stream) {
    cps_place place;
    cps_stream_stored(stream, 0, &place);
    return cps_shard_class_count(place.shard);
}

static void scan_shard(const cps_place *any, const int64_t *map, cps_place *places) {
    for (int64_t record = 0; record < cps_shard_count(any->shard); record++) {
        const int32_t label = cps_shard_label(any->shard, record);
        cps_place *place = label < 0 ? NULL : &places[map == NULL ? label : map[label]];
        if (place != NULL && place->shard == NULL) {
            *place = *any;
            place->record = record;
            place->sample_id = cps_shard_sample_id(any->shard, record);
        }
    }
}

void cps_class_first_records(const cps_stream *stream, const int64_t *map, cps_place *places) {
    const cps_shard *last = NULL;
    for (int64_t i = 0; i < cps_stream_records(stream); i++) {
        cps_place place;
        cps_stream_stored(stream, i, &place);
        if (place.shard != last) {
            scan_shard(&place, map, places);
            last = place.shard;
        }
    }
}

/* A name and its place in "the list, then what is joined". */
typedef struct entry {
    const char *name;
    int64_t place;
} entry;

static int compare_entries(const void *a, const void *b) {
    const entry *left = a, *right = b;
    const int order = strcmp(left->name, right->name);
    return order != 0 ? order : left->place < right->place ? -1 : left->place > right->place;
}

/* first_place[p]: the first place that has the name of place p. */
static bool find_first_places(const cps_class_list *list, const cps_class_list *more,
                              int64_t *first_place) {
    const int64_t count = list->count + more->count;
    entry *entries = calloc((size_t)count + 1, sizeof *entries);
    if (entries == NULL) {
        return false;
    }
    for (int64_t i = 0; i < count; i++) {
        const char *name = i < list->count ? list->names[i] : more->names[i - list->count];
        entries[i] = (entry){.name = name, .place = i};
    }
    qsort(entries, (size_t)count, sizeof *entries, compare_entries);
    for (int64_t i = 0; i < count; i++) {
        const bool again = i > 0 && strcmp(entries[i].name, entries[i - 1].name) == 0;
        first_place[entries[i].place] =
            again ? first_place[entries[i - 1].place] : entries[i].place;
    }
    free(entries);
    return true;
}

cps_status cps_class_list_join(cps_class_list *list, const cps_class_list *more, int64_t *map_out) {
    const int64_t old_count = list->count, count = old_count + more->count;
    int64_t *first_place = calloc((size_t)count + 1, sizeof *first_place);
    const char **names = calloc((size_t)count + 1, sizeof *names);
    if (first_place == NULL || names == NULL || !find_first_places(list, more, first_place)) {
        free(first_place);
        free(names);
        return fail_memory();
    }
    for (int64_t i = 0; i < old_count; i++) {
        names[i] = list->names[i];
    }
    for (int64_t i = 0; i < more->count; i++) {
        const int64_t first = first_place[old_count + i];
        if (first < old_count) {
            map_out[i] = first;
        } else if (first < old_count + i) {
            map_out[i] = map_out[first - old_count];
        } else {
            map_out[i] = list->count;
            names[list->count++] = more->names[i];
        }
    }
    free(first_place);
    free(list->names);
    list->names = names;
    return CPS_OK;
}

void cps_class_list_free(cps_class_list *list) {
    free(list->names);
    *list = (cps_class_list){0};
}

/* ---- predictions ---- */

cps_status cps_predictions_alloc(int64_t rows, int64_t top, cps_predictions *predictions_out) {
    size_t places;
    if (!cps_mul_size((size_t)rows, (size_t)top, &places)) {
        return fail_memory();
    }
    cps_predictions predictions = {.rows = rows, .top = top};
    predictions.index = calloc(places + 1, sizeof *predictions.index);
    predictions.score = calloc(places + 1, sizeof *predictions.score);
    if (predictions.index == NULL || predictions.score == NULL) {
        cps_predictions_free(&predictions);
        return fail_memory();
    }
    *predictions_out = predictions;
    return CPS_OK;
}

void cps_predictions_trim(cps_predictions *predictions, int64_t top) {
    if (top >= predictions->top) {
        return;
    }
    for (int64_t i = 0; i < predictions->rows; i++) {
        for (int64_t place = 0; place < top; place++) {
            predictions->index[i * top + place] = predictions->index[i * predictions->top + place];
            predictions->score[i * top + place] = predictions->score[i * predictions->top + place];
        }
    }
    predictions->top = top;
}

void cps_predictions_free(cps_predictions *predictions) {
    free(predictions->index);
    free(predictions->score);
    *predictions = (cps_predictions){0};
}

int64_t cps_predictions_hits(const cps_predictions *predictions, const int32_t *labels, int64_t k,
                             int64_t *labelled_out) {
    const int64_t places = cps_min_i64(k, predictions->top);
    int64_t hits = 0, labelled = 0;
    for (int64_t i = 0; i < predictions->rows; i++) {
        const int32_t *index = predictions->index + i * predictions->top;
        int64_t place = 0;
        while (place < places && index[place] != labels[i]) {
            place++;
        }
        labelled += labels[i] >= 0;
        hits += labels[i] >= 0 && place < places;
    }
    *labelled_out = labelled;
    return hits;
}

/* counts [2 * classes]: samples of each class, right ones. */
static void count_by_class(const cps_predictions *predictions, const int32_t *labels,
                           int64_t *counts) {
    for (int64_t i = 0; i < predictions->rows; i++) {
        if (labels[i] >= 0) {
            counts[2 * labels[i]]++;
            counts[2 * labels[i] + 1] += predictions->index[i * predictions->top] == labels[i];
        }
    }
}

/* Mean over the classes that have samples. */
static double mean_share(const int64_t *counts, int64_t class_count) {
    double shares = 0.0;
    int64_t classes = 0;
    for (int64_t c = 0; c < class_count; c++) {
        if (counts[2 * c] > 0) {
            shares += (double)counts[2 * c + 1] / (double)counts[2 * c];
            classes++;
        }
    }
    return shares / (double)classes;
}

cps_status cps_classification_metrics(const cps_predictions *predictions, const int32_t *labels,
                                      int64_t class_count, const char *where, cps_json *metrics) {
    int64_t labelled;
    const int64_t first = cps_predictions_hits(predictions, labels, 1, &labelled);
    const int64_t five = cps_predictions_hits(predictions, labels, TOP_FIVE, &labelled);
    if (labelled == 0) {
        return cps_fail(CPS_ERR_DATA,
                        "%s: none of the %lld readable samples has a label, so nothing can be "
                        "counted: pack the set with labels",
                        where, (long long)predictions->rows);
    }
    double low, high;
    CPS_TRY(cps_share_interval(first, labelled, &low, &high));
    int64_t *counts = calloc((size_t)(2 * class_count + 1), sizeof *counts);
    if (counts == NULL) {
        return fail_memory();
    }
    count_by_class(predictions, labels, counts);
    const double samples = (double)labelled;
    cps_json_add_number(metrics, "top1", (double)first / samples);
    cps_json_add_number(metrics, "top1_low", low);
    cps_json_add_number(metrics, "top1_high", high);
    cps_json_add_number(metrics, "chance", 1.0 / (double)class_count);
    cps_json_add_number(metrics, "top5", (double)five / samples);
    cps_json_add_number(metrics, "per_class", mean_share(counts, class_count));
    cps_json_add_number(metrics, "samples", samples);
    if (labelled < predictions->rows) {
        cps_json_add_number(metrics, "unlabelled", (double)(predictions->rows - labelled));
    }
    free(counts);
    return CPS_OK;
}
