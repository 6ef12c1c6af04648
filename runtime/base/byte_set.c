/* Strings stand one behind the other in one block; a table of slots with open addressing, never
 * more than half full, finds their numbers. */
#include "base/byte_set.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

struct cps_byte_set {
    char *bytes; /* one string behind the other */
    size_t used, capacity;
    size_t *ends; /* [count]: where each string ends */
    int32_t count, most;
    int32_t *slots; /* [2 * most]: a string's number, -1: empty */
};

cps_byte_set *cps_byte_set_create(void) {
    return calloc(1, sizeof(cps_byte_set));
}

void cps_byte_set_destroy(cps_byte_set *set) {
    if (set != NULL) {
        free(set->bytes);
        free(set->ends);
        free(set->slots);
        free(set);
    }
}

int32_t cps_byte_set_count(const cps_byte_set *set) {
    return set->count;
}

const char *cps_byte_set_at(const cps_byte_set *set, int32_t number, size_t *length_out) {
    const size_t first = number == 0 ? 0 : set->ends[number - 1];
    *length_out = set->ends[number] - first;
    return set->bytes + first;
}

/* The slot that holds the string, or the empty one where it would stand; most > 0. */
static size_t slot_of(const cps_byte_set *set, const char *bytes, size_t length) {
    const size_t slot_count = 2 * (size_t)set->most;
    size_t at = (size_t)(cps_hash64(bytes, length) % slot_count);
    while (set->slots[at] >= 0) {
        size_t other_length;
        const char *other = cps_byte_set_at(set, set->slots[at], &other_length);
        if (other_length == length && memcmp(other, bytes, length) == 0) {
            break;
        }
        at = (at + 1) % slot_count;
    }
    return at;
}

static bool make_byte_room(cps_byte_set *set, size_t length) {
    if (length <= set->capacity - set->used) {
        return true;
    }
    const size_t capacity = 2 * set->capacity + length + 4096;
    char *bytes = realloc(set->bytes, capacity);
    if (bytes == NULL) {
        return false;
    }
    set->bytes = bytes;
    set->capacity = capacity;
    return true;
}

static bool make_slot_room(cps_byte_set *set) {
    if (set->count < set->most) {
        return true;
    }
    const int64_t most = set->most == 0 ? 256 : 2 * (int64_t)set->most;
    if (most > INT32_MAX) {
        return false;
    }
    size_t *ends = realloc(set->ends, (size_t)most * sizeof *ends);
    if (ends == NULL) {
        return false;
    }
    set->ends = ends;
    int32_t *slots = malloc(2 * (size_t)most * sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    free(set->slots);
    set->slots = slots;
    set->most = (int32_t)most;
    memset(slots, 0xff, 2 * (size_t)most * sizeof *slots);
    for (int32_t i = 0; i < set->count; i++) {
        size_t length;
        const char *bytes = cps_byte_set_at(set, i, &length);
        slots[slot_of(set, bytes, length)] = i;
    }
    return true;
}

int32_t cps_byte_set_add(cps_byte_set *set, const char *bytes, size_t length) {
    if (!make_byte_room(set, length) || !make_slot_room(set)) {
        return -1;
    }
    const size_t slot = slot_of(set, bytes, length);
    if (set->slots[slot] < 0) {
        if (length > 0) {
            memcpy(set->bytes + set->used, bytes, length);
        }
        set->used += length;
        set->ends[set->count] = set->used;
        set->slots[slot] = set->count++;
    }
    return set->slots[slot];
}

int32_t cps_byte_set_find(const cps_byte_set *set, const char *bytes, size_t length) {
    return set->most == 0 ? -1 : set->slots[slot_of(set, bytes, length)];
}
