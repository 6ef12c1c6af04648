/* One range of addresses an arena. A fixed arena maps it readable at once; a growable one reserves
 * a long range of addresses without memory behind it and makes it readable as it fills, so blocks
 * never move and a mark is an offset. */
#include "base/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/numeric.h"

enum { COMMIT_BYTES = 1 << 20 };
static const size_t growable_reserve = (size_t)32 << 30;
static const size_t huge_page_bytes = (size_t)2 << 20;

struct cps_arena {
    char *name;
    unsigned char *base;
    size_t reserved;  /* bytes of addresses */
    size_t committed; /* bytes readable and writable, from base */
    size_t used;
    size_t high_water;
    bool growable;
    bool counting;
};

static cps_status arena_new(const char *name, cps_arena **arena_out) {
    cps_arena *arena = calloc(1, sizeof *arena);
    char *copy = strdup(name);
    if (arena == NULL || copy == NULL) {
        free(arena);
        free(copy);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the arena '%s'", name);
    }
    arena->name = copy;
    *arena_out = arena;
    return CPS_OK;
}

/* Addresses for a growable arena: as long a range as the system gives, down to `least`. */
static void *reserve_range(size_t least, size_t *reserved_out) {
    size_t size = cps_max_size(growable_reserve, least);
    for (;;) {
        void *base =
            mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base != MAP_FAILED) {
            *reserved_out = size;
            return base;
        }
        if (size == least) {
            return MAP_FAILED;
        }
        size = cps_max_size(size / 2, least);
    }
}

static cps_status map_range(cps_arena *arena, size_t bytes) {
    void *base;
    if (arena->growable) {
        base = reserve_range(bytes, &arena->reserved);
    } else {
        base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        arena->reserved = bytes;
        arena->committed = bytes;
    }
    if (base == MAP_FAILED) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "no memory for the arena '%s': %zu bytes wanted (%s); lower the batch or "
                        "grain, or ask for more memory",
                        arena->name, bytes, strerror(errno));
    }
    arena->base = base;
    if (arena->reserved >= huge_page_bytes) {
        madvise(base, arena->reserved, MADV_HUGEPAGE); /* a wish: fewer TLB misses; may fail */
    }
    return CPS_OK;
}

cps_status cps_arena_create(const char *name, size_t bytes, bool growable, cps_arena **arena_out) {
    size_t rounded;
    if (!cps_add_size(bytes, COMMIT_BYTES - 1, &rounded)) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "arena '%s': %zu bytes are more than any machine has",
                        name, bytes);
    }
    rounded = cps_max_size(rounded & ~(size_t)(COMMIT_BYTES - 1), COMMIT_BYTES);
    if (!growable) {
        /* exact up to the page, so that a plan that is too small shows */
        rounded = cps_max_size((bytes + 4095) & ~(size_t)4095, 4096);
    }
    cps_arena *arena;
    CPS_TRY(arena_new(name, &arena));
    arena->growable = growable;
    const cps_status status = map_range(arena, rounded);
    if (status != CPS_OK) {
        cps_arena_destroy(arena);
        return status;
    }
    if (!growable) {
        arena->committed = (bytes + CPS_ALIGNMENT - 1) & ~(size_t)(CPS_ALIGNMENT - 1);
    }
    *arena_out = arena;
    return CPS_OK;
}

cps_status cps_arena_create_counting(const char *name, cps_arena **arena_out) {
    cps_arena *arena;
    CPS_TRY(arena_new(name, &arena));
    arena->counting = true;
    *arena_out = arena;
    return CPS_OK;
}

void cps_arena_destroy(cps_arena *arena) {
    if (arena == NULL) {
        return;
    }
    if (arena->base != NULL) {
        munmap(arena->base, arena->reserved);
    }
    free(arena->name);
    free(arena);
}

bool cps_arena_is_counting(const cps_arena *arena) {
    return arena->counting;
}

/* Makes [0, end) usable, or says false with the failure on record. */
static bool commit(cps_arena *arena, size_t end, size_t asked) {
    if (end <= arena->committed) {
        return true;
    }
    if (!arena->growable) {
        cps_fail(CPS_ERR_UNAVAILABLE,
                 "arena '%s' is full: %zu bytes asked, %zu of %zu in use; the plan that sized it "
                 "was too small",
                 arena->name, asked, arena->used, arena->committed);
        return false;
    }
    /* at least doubling, so that filling byte by byte stays cheap */
    size_t target = cps_max_size(end, 2 * arena->committed);
    target = (target + COMMIT_BYTES - 1) & ~(size_t)(COMMIT_BYTES - 1);
    if (target > arena->reserved) {
        target = arena->reserved;
    }
    if (end > target || mprotect(arena->base, target, PROT_READ | PROT_WRITE) != 0) {
        cps_fail(CPS_ERR_UNAVAILABLE,
                 "no memory for the arena '%s': %zu bytes asked, %zu in use, at most %zu",
                 arena->name, asked, arena->used, arena->reserved);
        return false;
    }
    arena->committed = target;
    return true;
}

void *cps_arena_alloc(cps_arena *arena, size_t bytes) {
    size_t end;
    if (!cps_add_size(bytes, CPS_ALIGNMENT - 1, &end) ||
        !cps_add_size(end & ~(size_t)(CPS_ALIGNMENT - 1), arena->used, &end)) {
        cps_fail(CPS_ERR_UNAVAILABLE, "arena '%s': %zu bytes asked, more than any machine has",
                 arena->name, bytes);
        return NULL;
    }
    if (!arena->counting && !commit(arena, end, bytes)) {
        return NULL;
    }
    void *block = arena->counting ? NULL : arena->base + arena->used;
    arena->used = end;
    arena->high_water = cps_max_size(arena->high_water, end);
    return block;
}

void *cps_arena_alloc_zero(cps_arena *arena, size_t bytes) {
    void *block = cps_arena_alloc(arena, bytes);
    if (block != NULL) {
        memset(block, 0, bytes);
    }
    return block;
}

char *cps_arena_strdup(cps_arena *arena, const char *text) {
    const size_t bytes = strlen(text) + 1;
    char *copy = cps_arena_alloc(arena, bytes);
    if (copy != NULL) {
        memcpy(copy, text, bytes);
    }
    return copy;
}

size_t cps_arena_mark(const cps_arena *arena) {
    return arena->used;
}

void cps_arena_reset(cps_arena *arena, size_t mark) {
    CPS_BUG_IF(mark > arena->used);
    arena->used = mark;
}

size_t cps_arena_high_water(const cps_arena *arena) {
    return arena->high_water;
}

size_t cps_arena_used(const cps_arena *arena) {
    return arena->used;
}
