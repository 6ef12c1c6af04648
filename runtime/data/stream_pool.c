/* The shards of a process by path: streams of one job often name the same files. */
#include <stdlib.h>
#include <string.h>

#include "data/stream.h"

typedef struct pool_entry {
    char *path;
    cps_shard *shard;
} pool_entry;

struct cps_shard_pool {
    pool_entry *entries;
    int64_t count, capacity;
};

cps_status cps_shard_pool_create(cps_shard_pool **pool_out) {
    *pool_out = calloc(1, sizeof **pool_out);
    return *pool_out != NULL ? CPS_OK : cps_fail(CPS_ERR_UNAVAILABLE, "no memory to open shards");
}

void cps_shard_pool_destroy(cps_shard_pool *pool) {
    if (pool == NULL) {
        return;
    }
    for (int64_t i = 0; i < pool->count; i++) {
        cps_shard_close(pool->entries[i].shard);
        free(pool->entries[i].path);
    }
    free(pool->entries);
    free(pool);
}

static cps_status pool_reserve(cps_shard_pool *pool) {
    if (pool->count == pool->capacity) {
        const int64_t capacity = pool->capacity == 0 ? 16 : 2 * pool->capacity;
        pool_entry *entries = realloc(pool->entries, (size_t)capacity * sizeof *entries);
        if (entries == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to open %lld shards",
                            (long long)capacity);
        }
        pool->entries = entries;
        pool->capacity = capacity;
    }
    return CPS_OK;
}

cps_status cps_shard_pool_open(cps_shard_pool *pool, const char *path,
                               const cps_shard **shard_out) {
    for (int64_t i = 0; i < pool->count; i++) {
        if (strcmp(pool->entries[i].path, path) == 0) {
            *shard_out = pool->entries[i].shard;
            return CPS_OK;
        }
    }
    CPS_TRY(pool_reserve(pool));
    pool_entry entry = {.path = strdup(path)};
    if (entry.path == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to open '%s'", path);
    }
    const cps_status status = cps_shard_open(path, &entry.shard);
    if (status != CPS_OK) {
        free(entry.path);
        return status;
    }
    pool->entries[pool->count++] = entry;
    *shard_out = entry.shard;
    return CPS_OK;
}
