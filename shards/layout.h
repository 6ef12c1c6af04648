/* What reader and writer of shards share: the names of format.md and the digest of the index. */
#ifndef CPS_SHARDS_LAYOUT_H
#define CPS_SHARDS_LAYOUT_H

#include "base/status.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error                                                                                             \
    "shards are little-endian and their checksums are taken of the bytes as stored: this machine would have to swap"
#endif

#define CPS_SHARD_FORMAT_NAME "copse-shard"
#define CPS_SHARD_CHECKSUM "xxh3"             /* attribute of every dataset of the index */
#define CPS_SHARD_SOURCES "source/checksum"   /* no part of the index */
#define CPS_SHARD_INDEX_CHECKSUM "index_xxh3" /* attribute of the file */

enum { CPS_SHARD_MAX_FIELDS = 256, CPS_SHARD_MAX_NAME_BYTES = 255 };

/* (path, hash) of everything that the index consists of; their sorted list is what the index
 * checksum is taken of. */
typedef struct cps_listing {
    struct cps_listing_entry {
        char *path;
        uint64_t hash;
    } * entries;
    int64_t count, room;
} cps_listing;

cps_status cps_listing_add(cps_listing *listing, const char *path, uint64_t hash) CPS_MUST_CHECK;
uint64_t cps_listing_value(cps_listing *listing); /* sorts */
void cps_listing_free(cps_listing *listing);
void cps_hash_hex(uint64_t hash, char hex_out[17]);

/* May `name` be a text field: 1..255 bytes of UTF-8 without '/', control characters, and not "." or
 * ".."? */
bool cps_shard_is_field_name(const char *name);

#endif
