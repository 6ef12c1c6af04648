#include "base/hash.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/status.h"

/* Never defined: a cps_hash is a state of xxHash under our name. */
static XXH3_state_t *state_of(cps_hash *hash) {
    return (XXH3_state_t *)hash;
}

uint64_t cps_hash64(const void *bytes, size_t length) {
    return XXH3_64bits(bytes, length);
}

uint64_t cps_hash64_text(const char *text) {
    return XXH3_64bits(text, strlen(text));
}

cps_hash *cps_hash_create(void) {
    XXH3_state_t *state = XXH3_createState();
    CPS_BUG_IF(state == NULL || XXH3_64bits_reset(state) != XXH_OK);
    return (cps_hash *)state;
}

void cps_hash_add(cps_hash *hash, const void *bytes, size_t length) {
    if (length > 0) {
        CPS_BUG_IF(XXH3_64bits_update(state_of(hash), bytes, length) != XXH_OK);
    }
}

uint64_t cps_hash_value(const cps_hash *hash) {
    return XXH3_64bits_digest((const XXH3_state_t *)hash);
}

void cps_hash_destroy(cps_hash *hash) {
    XXH3_freeState(state_of(hash));
}

void cps_hash128_hex(const void *bytes, size_t length, char hex_out[33]) {
    XXH128_canonical_t canonical; /* big-endian: the same text on every machine */
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, length));
    for (size_t i = 0; i < sizeof canonical.digest; i++) {
        snprintf(hex_out + 2 * i, 3, "%02x", (unsigned)canonical.digest[i]);
    }
}
