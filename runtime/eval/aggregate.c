#include "eval/aggregate.h"

#include <stdlib.h>

#include "base/numeric.h"

/* Values looked at together: most blocks hold nothing of interest, and a loop without exits over a
 * fixed number is done in vector registers. */
enum { BLOCK = 32 };

static bool any_above(const cps_real *values, cps_real bound) {
    int above = 0;
    for (int i = 0; i < BLOCK; i++) {
        above |= values[i] > bound;
    }
    return above != 0;
}

/* ---- the k best ---- */

/* A list of the best so far. Candidates come in the order that breaks ties. */
typedef struct best_list {
    cps_ranked *best;
    int64_t count, most;
} best_list;

/* At most `most` entries by insertion: for short lists. */
static void insert(best_list *list, int64_t index, double score) {
    int64_t at = list->count;
    if (at == list->most) {
        if (!(score > list->best[at - 1].score)) {
            return;
        }
        at--;
    } else {
        list->count++;
    }
    for (; at > 0 && score > list->best[at - 1].score; at--) {
        list->best[at] = list->best[at - 1];
    }
    list->best[at] = (cps_ranked){score, index};
}

static bool goes_before(const cps_ranked *a, const cps_ranked *b) {
    return a->score > b->score || (!(b->score > a->score) && a->index < b->index);
}

/* The heap's root is the last of those kept; `index` breaks ties. */
static void sift_down(cps_ranked *heap, int64_t count, int64_t at) {
    for (;;) {
        int64_t last = at;
        for (int64_t child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++) {
            last = goes_before(&heap[last], &heap[child]) ? child : last;
        }
        if (last == at) {
            return;
        }
        const cps_ranked swapped = heap[at];
        heap[at] = heap[last];
        heap[last] = swapped;
        at = last;
    }
}

/* Sorts the first `count` entries of `heap` as they go before each other. */
static void heap_sort(cps_ranked *heap, int64_t count) {
    for (int64_t at = count / 2; at-- > 0;) {
        sift_down(heap, count, at);
    }
    for (int64_t left = count; left > 1;) {
        const cps_ranked last = heap[0];
        heap[0] = heap[--left];
        sift_down(heap, left, 0);
        heap[left] = last;
    }
}

/* Candidates by a heap, for lists of any length; `place` breaks ties. */
static void offer(best_list *list, int64_t place, double score) {
    const cps_ranked candidate = {score, place};
    if (list->count < list->most) {
        list->best[list->count++] = candidate;
        if (list->count == list->most) {
            for (int64_t at = list->most / 2; at-- > 0;) {
                sift_down(list->best, list->most, at);
            }
        }
    } else if (goes_before(&candidate, &list->best[0])) {
        list->best[0] = candidate;
        sift_down(list->best, list->most, 0);
    }
}

enum { SHORT = 32 };

int64_t cps_rank_classes(const cps_real *values, int64_t count, int64_t k, cps_ranked *best_out) {
    best_list list = {best_out, 0, cps_min_i64(k, count)};
    if (list.most > SHORT) {
        for (int64_t i = 0; i < count; i++) {
            offer(&list, i, (double)values[i]);
        }
        heap_sort(list.best, list.count);
        return list.count;
    }
    for (int64_t first = 0; first < count && list.most > 0; first += BLOCK) {
        const bool full = list.count == list.most && count - first >= BLOCK;
        if (full && !any_above(values + first, (cps_real)list.best[list.most - 1].score)) {
            continue;
        }
        const int64_t last = cps_min_i64(first + BLOCK, count);
        for (int64_t i = first; i < last; i++) {
            insert(&list, i, (double)values[i]);
        }
    }
    return list.count;
}

/* ---- groups ---- */

cps_status cps_group_room_create(int64_t groups, cps_group_room *room_out) {
    cps_group_room room = {.groups = groups,
                           .sums = calloc((size_t)groups + 1, sizeof *room.sums),
                           .touched = calloc((size_t)groups + 1, sizeof *room.touched)};
    if (room.sums == NULL || room.touched == NULL) {
        cps_group_room_free(&room);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the sums of %lld groups",
                        (long long)groups);
    }
    *room_out = room;
    return CPS_OK;
}

void cps_group_room_free(cps_group_room *room) {
    free(room->sums);
    free(room->touched);
    *room = (cps_group_room){0};
}

/* Adds the probabilities of classes [first, last) above min_prob; returns the number of groups that
 * have something. Without branches: of an image that could be many things, any class may be above.
 */
static int64_t add_classes(const cps_real *probabilities, int64_t first, int64_t last,
                           const int32_t *group_of, double min_prob, cps_group_room *room,
                           int64_t touched) {
    double *const sums = room->sums;
    for (int64_t i = first; i < last; i++) {
        const double p = (double)probabilities[i];
        const int32_t group = group_of[i];
        const double sum = sums[group];
        const bool above = p > min_prob;
        room->touched[touched] = group; /* stays if it is new; there is room for one more */
        touched += above & !(sum > 0.0);
        sums[group] = sum + (above ? p : 0.0);
    }
    return touched;
}

/* A cps_real that is surely not above `bound`: what lies above the bound lies above it. */
static cps_real real_bound(double bound) {
    return (cps_real)(bound * (1.0 - 1e-6));
}

/* Takes the k best of the groups in `touched` and leaves the room as it was. */
static int64_t take_best(cps_group_room *room, int64_t touched, int64_t k, cps_ranked *best_out) {
    best_list list = {best_out, 0, cps_min_i64(k, touched)};
    for (int64_t i = 0; i < touched && list.most > 0; i++) {
        offer(&list, i, room->sums[room->touched[i]]);
    }
    heap_sort(list.best, list.count);
    for (int64_t i = 0; i < list.count; i++) {
        list.best[i].index = room->touched[list.best[i].index];
    }
    for (int64_t i = 0; i < touched; i++) {
        room->sums[room->touched[i]] = 0.0;
    }
    return list.count;
}

int64_t cps_rank_groups(const cps_real *probabilities, int64_t classes, const int32_t *group_of,
                        double min_prob, int64_t k, cps_group_room *room, cps_ranked *best_out) {
    const cps_real bound = real_bound(min_prob);
    int64_t touched = 0, first = 0;
    for (; first + BLOCK <= classes; first += BLOCK) {
        if (any_above(probabilities + first, bound)) {
            touched =
                add_classes(probabilities, first, first + BLOCK, group_of, min_prob, room, touched);
        }
    }
    touched = add_classes(probabilities, first, classes, group_of, min_prob, room, touched);
    return take_best(room, touched, k, best_out);
}

int64_t cps_rank_all_groups(const cps_real *probabilities, int64_t classes, const int32_t *group_of,
                            int64_t k, cps_group_room *room, cps_ranked *best_out) {
    for (int64_t i = 0; i < classes; i++) {
        room->sums[group_of[i]] += (double)probabilities[i];
    }
    for (int64_t g = 0; g < room->groups; g++) {
        room->touched[g] = (int32_t)g;
    }
    return take_best(room, room->groups, k, best_out);
}
