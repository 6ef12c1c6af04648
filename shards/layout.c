#include "shards/layout.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cps_status cps_listing_add(cps_listing *listing, const char *path, uint64_t hash) {
    if (listing->count == listing->room) {
        const int64_t room = listing->room == 0 ? 32 : 2 * listing->room;
        void *entries = realloc(listing->entries, (size_t)room * sizeof *listing->entries);
        if (entries == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for the list of a shard's datasets");
        }
        listing->entries = entries;
        listing->room = room;
    }
    listing->entries[listing->count++] =
        (struct cps_listing_entry){.path = cps_format("%s", path), .hash = hash};
    return CPS_OK;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const struct cps_listing_entry *)a)->path,
                  ((const struct cps_listing_entry *)b)->path);
}

uint64_t cps_listing_value(cps_listing *listing) {
    if (listing->count > 1) {
        qsort(listing->entries, (size_t)listing->count, sizeof *listing->entries, by_path);
    }
    cps_hash *hash = cps_hash_create();
    for (int64_t i = 0; i < listing->count; ++i) {
        const struct cps_listing_entry *entry = &listing->entries[i];
        cps_hash_add(hash, entry->path, strlen(entry->path) + 1);
        cps_hash_add(hash, &entry->hash, sizeof entry->hash);
    }
    const uint64_t value = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return value;
}

void cps_listing_free(cps_listing *listing) {
    for (int64_t i = 0; i < listing->count; ++i) {
        free(listing->entries[i].path);
    }
    free(listing->entries);
    *listing = (cps_listing){0};
}

void cps_hash_hex(uint64_t hash, char hex_out[17]) {
    snprintf(hex_out, 17, "%016llx", (unsigned long long)hash);
}

bool cps_shard_is_field_name(const char *name) {
    const size_t length = strlen(name);
    if (length == 0 || length > CPS_SHARD_MAX_NAME_BYTES || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0 || !cps_utf8_is_valid(name, length)) {
        return false;
    }
    for (size_t i = 0; i < length; ++i) {
        const unsigned char c = (unsigned char)name[i];
        if (c == '/' || c < 0x20 || c == 0x7f) {
            return false;
        }
    }
    return true;
}
