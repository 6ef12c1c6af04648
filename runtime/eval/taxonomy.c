/* A path is a node of a tree: (rank, path of the parent, value), found by hash. */
#include "eval/taxonomy.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/numeric.h"

enum { LAST_RANK = CPS_TAXON_RANKS - 1 };

/* ---- a set of byte strings, numbered in the order of their first addition ---- */

typedef struct byte_set {
    char *bytes; /* one string behind the other */
    size_t used, capacity;
    size_t *ends; /* [count]: where each string ends */
    int32_t count, most;
    int32_t *slots; /* [2 * most], open addressing: a string's number, -1: empty */
} byte_set;

static void byte_set_free(byte_set *set) {
    free(set->bytes);
    free(set->ends);
    free(set->slots);
}

static const char *string_at(const byte_set *set, int32_t number, size_t *length_out) {
    const size_t first = number == 0 ? 0 : set->ends[number - 1];
    *length_out = set->ends[number] - first;
    return set->bytes + first;
}

/* The slot that holds the string, or the empty one where it would stand. */
static int64_t slot_of(const byte_set *set, const char *bytes, size_t length) {
    const uint64_t slot_count = 2 * (uint64_t)set->most;
    uint64_t at = cps_hash64(bytes, length) % slot_count;
    while (set->slots[at] >= 0) {
        size_t other_length;
        const char *other = string_at(set, set->slots[at], &other_length);
        if (other_length == length && memcmp(other, bytes, length) == 0) {
            break;
        }
        at = (at + 1) % slot_count;
    }
    return (int64_t)at;
}

/* Room for one more string of `length` bytes. */
static bool make_room(byte_set *set, size_t length) {
    if (set->used + length > set->capacity) {
        const size_t capacity = 2 * set->capacity + length + 4096;
        char *bytes = realloc(set->bytes, capacity);
        if (bytes == NULL) {
            return false;
        }
        set->bytes = bytes;
        set->capacity = capacity;
    }
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
        size_t other_length;
        const char *other = string_at(set, i, &other_length);
        slots[slot_of(set, other, other_length)] = i;
    }
    return true;
}

/* The string's number, added where it is new; -1: out of memory. */
static int32_t number_of(byte_set *set, const char *bytes, size_t length) {
    if (!make_room(set, length)) {
        return -1;
    }
    const int64_t slot = slot_of(set, bytes, length);
    if (set->slots[slot] < 0) {
        memcpy(set->bytes + set->used, bytes, length);
        set->used += length;
        set->ends[set->count] = set->used;
        set->slots[slot] = set->count++;
    }
    return set->slots[slot];
}

/* ---- the taxonomy ---- */

struct cps_taxonomy {
    byte_set nodes;                 /* keys: parent's path, rank, value */
    int32_t *node_path;             /* [nodes.most]: the path id of a node at its rank */
    int32_t known;                  /* nodes that have one */
    int32_t paths[CPS_TAXON_RANKS]; /* ids given out at each rank */
    int32_t *organisms;             /* [organism_room, CPS_TAXON_RANKS] */
    int64_t organism_room;
    char *key; /* of the node that is looked for */
    size_t key_room;
};

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the taxonomy of an evaluation");
}

cps_status cps_taxonomy_create(cps_taxonomy **taxonomy_out) {
    cps_taxonomy *taxonomy = calloc(1, sizeof *taxonomy);
    if (taxonomy == NULL) {
        return fail_memory();
    }
    *taxonomy_out = taxonomy;
    return CPS_OK;
}

void cps_taxonomy_destroy(cps_taxonomy *taxonomy) {
    if (taxonomy == NULL) {
        return;
    }
    byte_set_free(&taxonomy->nodes);
    free(taxonomy->node_path);
    free(taxonomy->organisms);
    free(taxonomy->key);
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
    const int32_t room = taxonomy->nodes.most;
    const int32_t node = number_of(&taxonomy->nodes, taxonomy->key, front + length);
    if (taxonomy->nodes.most != room) {
        int32_t *longer = realloc(taxonomy->node_path,
                                  (size_t)taxonomy->nodes.most * sizeof *taxonomy->node_path);
        if (longer == NULL) {
            return -1;
        }
        taxonomy->node_path = longer;
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
