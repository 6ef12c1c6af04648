/* Hashes through xxHash (XXH3), the only user of it: 64-bit checksums of data and settings; not
 * cryptographic. */
#ifndef CPS_BASE_HASH_H
#define CPS_BASE_HASH_H

#include "base/types.h"

typedef struct cps_hash cps_hash; /* a running hash */

uint64_t cps_hash64(const void *bytes, size_t length); /* XXH3_64bits, seed 0 */
uint64_t cps_hash64_text(const char *text);
cps_hash *cps_hash_create(void);
void cps_hash_add(cps_hash *hash, const void *bytes, size_t length);
uint64_t cps_hash_value(const cps_hash *hash);
void cps_hash_destroy(cps_hash *hash);
/* 128 bits as 32 hexadecimal digits and a NUL, for digests that name files. */
void cps_hash128_hex(const void *bytes, size_t length, char hex_out[33]);

#endif
