/* Bump allocator: 64-byte aligned blocks, mark and reset, high-water mark. Two ways to be: reserved
 * (a fixed number of bytes taken at creation; running out is an error) and counting (no memory at
 * all: alloc returns NULL and only the high-water mark moves; for plans). Not thread-safe: one
 * owner. */
#ifndef CPS_BASE_ARENA_H
#define CPS_BASE_ARENA_H

#include "base/status.h"

typedef struct cps_arena cps_arena;

/* `name` appears in messages. growable: takes further blocks from the system when full (tools and
 * tests; not steps). */
cps_status cps_arena_create(const char *name, size_t bytes, bool growable,
                            cps_arena **arena_out) CPS_MUST_CHECK;
cps_status cps_arena_create_counting(const char *name, cps_arena **arena_out) CPS_MUST_CHECK;
void cps_arena_destroy(cps_arena *arena); /* NULL-safe */
bool cps_arena_is_counting(const cps_arena *arena);

/* Uninitialised bytes, aligned to CPS_ALIGNMENT; NULL when full (the failure is on record:
 * UNAVAILABLE, sizes named) or counting. bytes = 0 gives a valid pointer. */
void *cps_arena_alloc(cps_arena *arena, size_t bytes);
void *cps_arena_alloc_zero(cps_arena *arena, size_t bytes);
char *cps_arena_strdup(cps_arena *arena, const char *text);

size_t cps_arena_mark(const cps_arena *arena);
void cps_arena_reset(cps_arena *arena,
                     size_t mark); /* frees everything allocated since `mark`; 0: everything */
size_t cps_arena_high_water(const cps_arena *arena); /* bytes, the most ever in use */
size_t cps_arena_used(const cps_arena *arena);

#endif
