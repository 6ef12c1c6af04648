/* A set of byte strings, numbered from 0 in the order of their first addition. Local; one owner,
 * finding is safe on several threads while nobody adds. */
#ifndef CPS_BASE_BYTE_SET_H
#define CPS_BASE_BYTE_SET_H

#include "base/types.h"

typedef struct cps_byte_set cps_byte_set;

/* NULL: out of memory. */
cps_byte_set *cps_byte_set_create(void);
void cps_byte_set_destroy(cps_byte_set *set); /* NULL-safe */
int32_t cps_byte_set_count(const cps_byte_set *set);
/* The string's number, added where it is new; -1: out of memory, or 2^31 strings. */
int32_t cps_byte_set_add(cps_byte_set *set, const char *bytes, size_t length);
/* -1: not in the set. */
int32_t cps_byte_set_find(const cps_byte_set *set, const char *bytes, size_t length);
/* The string of a number, without terminator; borrowed until the next addition. */
const char *cps_byte_set_at(const cps_byte_set *set, int32_t number, size_t *length_out);

#endif
