/* Counter-based random numbers (Philox4x32-10, Salmon et al. 2011): draw number `index` of a key is
 * a pure function of both. Local; safe on any thread. */
#ifndef CPS_BASE_RNG_H
#define CPS_BASE_RNG_H

#include "base/types.h"

/* The generator itself: four words of a 128-bit counter and a 64-bit key. */
void cps_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t words_out[4]);

/* 32-bit key of a name ("drop_path.3"), stable over builds and machines. */
uint32_t cps_name_key(const char *name);

/* 32 random bits / a double in [0, 1) with 53 bits / a standard normal, for (key, index). */
uint32_t cps_draw_u32(const cps_draw_key *key, uint64_t index);
double cps_draw_uniform(const cps_draw_key *key, uint64_t index);
double cps_draw_normal(const cps_draw_key *key, uint64_t index);
/* Integer in [0, n), n >= 1, without modulo bias (multiply-shift on 64 bits of one index). */
uint64_t cps_draw_below(const cps_draw_key *key, uint64_t index, uint64_t n);

/* Fills values[i] (i from 0) for an initial weight: a pure function of (seed, name, i). */
void cps_fill_normal(uint64_t seed, const char *name, double std, cps_real *values, int64_t count);
void cps_fill_uniform(uint64_t seed, const char *name, double low, double high, cps_real *values,
                      int64_t count);

/* Position i of a pseudo-random permutation of 0..n-1 keyed by (seed, a, b), in O(1) memory:
 * cycle-walking Feistel network over Philox. Bijective for every n >= 1. */
uint64_t cps_permute(uint64_t seed, uint64_t a, uint64_t b, uint64_t n, uint64_t i);

/* MT19937 as published code seeds it, for parity with their splits and draws. */
typedef struct cps_mt19937 {
    uint32_t state[624];
    int32_t at;
} cps_mt19937;
void cps_mt19937_seed(cps_mt19937 *mt, uint32_t seed); /* classic single integer */
void cps_mt19937_seed_array(cps_mt19937 *mt, const uint32_t *words,
                            int64_t word_count); /* init_by_array */
/* As Python's random.seed(n) for n >= 0: the array of its 32-bit words, lowest first. */
void cps_mt19937_seed_integer(cps_mt19937 *mt, uint64_t seed);
uint32_t cps_mt19937_next(cps_mt19937 *mt);
/* Integer in [0, n), n >= 1, as Python's random draws it (choice, shuffle): the top bits of an
 * output, as many as n has, again while they are n or more. */
uint32_t cps_mt19937_below(cps_mt19937 *mt, uint32_t n);

#endif
