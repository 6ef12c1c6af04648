/* A path is a node of a tree: (rank, path of the parent, value), found by hash. */
#include "eval/taxonomy.h"

#include <stdlib.h>
#include <string.h>

#include "base/byte_set.h"

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
