/* Philox4x32-10: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2,
 * 3", SC 2011. MT19937: M. Matsumoto, T. Nishimura, ACM TOMACS 8 (1998), with the seeding of 2002.
 */
#include "base/rng.h"

#include <math.h>

#include "base/numeric.h"
#include "base/pool.h"

__extension__ typedef unsigned __int128 wide;

static const double two_pi = 6.283185307179586476925286766559;

void cps_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t words_out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        const uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words_out[0] = c0;
    words_out[1] = c1;
    words_out[2] = c2;
    words_out[3] = c3;
}

static uint64_t name_hash(const char *name) {
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (const unsigned char *at = (const unsigned char *)name; *at != 0; at++) {
        hash = (hash ^ *at) * 0x100000001b3u;
    }
    return hash;
}

uint32_t cps_name_key(const char *name) {
    const uint64_t hash = name_hash(name);
    return (uint32_t)(hash ^ (hash >> 32));
}

/* A key has more bits than Philox takes at once: two rounds of hashing fold it into 96 bits, the
 * third makes the draw. */
static void draw_words(const cps_draw_key *key, uint64_t index, uint32_t words_out[4]) {
    uint32_t where[4], place[4];
    cps_philox4x32((const uint32_t[4]){key->stage, key->stream, key->view, key->crop},
                   (const uint32_t[2]){(uint32_t)key->seed, (uint32_t)(key->seed >> 32)}, where);
    cps_philox4x32((const uint32_t[4]){(uint32_t)key->epoch ^ where[2],
                                       (uint32_t)(key->epoch >> 32) ^ where[3],
                                       (uint32_t)key->position, (uint32_t)(key->position >> 32)},
                   where, place);
    cps_philox4x32(
        (const uint32_t[4]){(uint32_t)index, (uint32_t)(index >> 32), key->module, place[2]}, place,
        words_out);
}

static double unit_double(uint32_t high, uint32_t low) {
    const uint64_t bits = ((uint64_t)high << 32 | low) >> 11;
    return (double)bits * 0x1p-53;
}

/* Box and Muller: a radius from (0, 1], an angle from [0, 1). */
static void normal_pair(const uint32_t words[4], double *first_out, double *second_out) {
    const double radius = sqrt(-2.0 * log(1.0 - unit_double(words[0], words[1])));
    const double angle = two_pi * unit_double(words[2], words[3]);
    *first_out = radius * cos(angle);
    *second_out = radius * sin(angle);
}

uint32_t cps_draw_u32(const cps_draw_key *key, uint64_t index) {
    uint32_t words[4];
    draw_words(key, index, words);
    return words[0];
}

double cps_draw_uniform(const cps_draw_key *key, uint64_t index) {
    uint32_t words[4];
    draw_words(key, index, words);
    return unit_double(words[0], words[1]);
}

double cps_draw_normal(const cps_draw_key *key, uint64_t index) {
    uint32_t words[4];
    double first, second;
    draw_words(key, index, words);
    normal_pair(words, &first, &second);
    return first;
}

uint64_t cps_draw_below(const cps_draw_key *key, uint64_t index, uint64_t n) {
    CPS_BUG_IF(n == 0);
    uint32_t words[4];
    draw_words(key, index, words);
    const uint64_t bits = (uint64_t)words[0] << 32 | words[1];
    return (uint64_t)((wide)bits * n >> 64);
}

/* ---- initial weights: values 2b and 2b + 1 come from Philox block b -------------------------- */

enum { FILL_BLOCK = 16384 }; /* values a task, even */

typedef struct fill_work {
    uint32_t key[2];
    uint32_t name[2];
    bool normal;
    double low, scale; /* value = low + scale * draw */
    cps_real *values;
    int64_t count;
} fill_work;

static void fill_block(void *context, int64_t block) {
    const fill_work *work = context;
    const int64_t end = cps_min_i64(work->count, (block + 1) * FILL_BLOCK);
    for (int64_t i = block * FILL_BLOCK; i < end; i += 2) {
        const uint64_t pair = (uint64_t)i / 2;
        uint32_t words[4];
        double draws[2];
        cps_philox4x32((const uint32_t[4]){(uint32_t)pair, (uint32_t)(pair >> 32), work->name[0],
                                           work->name[1]},
                       work->key, words);
        if (work->normal) {
            normal_pair(words, &draws[0], &draws[1]);
        } else {
            draws[0] = unit_double(words[0], words[1]);
            draws[1] = unit_double(words[2], words[3]);
        }
        work->values[i] = (cps_real)(work->low + work->scale * draws[0]);
        if (i + 1 < end) {
            work->values[i + 1] = (cps_real)(work->low + work->scale * draws[1]);
        }
    }
}

static void fill(fill_work *work, uint64_t seed, const char *name) {
    const uint64_t hash = name_hash(name);
    work->key[0] = (uint32_t)seed;
    work->key[1] = (uint32_t)(seed >> 32);
    work->name[0] = (uint32_t)hash;
    work->name[1] = (uint32_t)(hash >> 32);
    cps_parallel(cps_ceil_div(work->count, FILL_BLOCK), fill_block, work);
}

void cps_fill_normal(uint64_t seed, const char *name, double std, cps_real *values, int64_t count) {
    fill_work work = {.normal = true, .low = 0, .scale = std, .values = values, .count = count};
    fill(&work, seed, name);
}

void cps_fill_uniform(uint64_t seed, const char *name, double low, double high, cps_real *values,
                      int64_t count) {
    fill_work work = {.low = low, .scale = high - low, .values = values, .count = count};
    fill(&work, seed, name);
}

/* ---- permutation ----------------------------------------------------------------------------- */

enum { PERMUTE_ROUNDS = 12 };

/* One pass of the Feistel network over `left_bits` + `right_bits` bits: the halves take turns at
 * being added (xor) a function of the other, which can be undone whatever the function is. */
static uint64_t feistel(uint64_t value, int left_bits, int right_bits, const uint32_t key[4]) {
    const uint64_t left_mask = ((uint64_t)1 << left_bits) - 1;
    const uint64_t right_mask = ((uint64_t)1 << right_bits) - 1;
    uint64_t left = value >> right_bits & left_mask, right = value & right_mask;
    for (uint32_t round = 0; round < PERMUTE_ROUNDS; round++) {
        const uint64_t source = round % 2 == 0 ? left : right;
        uint32_t words[4];
        cps_philox4x32((const uint32_t[4]){(uint32_t)source, round, key[2], key[3]}, key, words);
        if (round % 2 == 0) {
            right = (right ^ words[0]) & right_mask;
        } else {
            left = (left ^ words[0]) & left_mask;
        }
    }
    return left << right_bits | right;
}

uint64_t cps_permute(uint64_t seed, uint64_t a, uint64_t b, uint64_t n, uint64_t i) {
    CPS_BUG_IF(i >= n);
    int bits = 0;
    while (bits < 64 && (uint64_t)1 << bits < n) {
        bits++;
    }
    uint32_t key[4];
    cps_philox4x32(
        (const uint32_t[4]){(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)},
        (const uint32_t[2]){(uint32_t)seed, (uint32_t)(seed >> 32)}, key);
    /* the network permutes 0 .. 2^bits - 1 < 2n: walk along its cycle until a value below n */
    uint64_t value = i;
    do {
        value = feistel(value, bits / 2, bits - bits / 2, key);
    } while (value >= n);
    return value;
}

/* ---- MT19937 --------------------------------------------------------------------------------- */

enum { MT_SIZE = 624, MT_SHIFT = 397 };

void cps_mt19937_seed(cps_mt19937 *mt, uint32_t seed) {
    mt->state[0] = seed;
    for (uint32_t i = 1; i < MT_SIZE; i++) {
        const uint32_t last = mt->state[i - 1];
        mt->state[i] = 1812433253u * (last ^ (last >> 30)) + i;
    }
    mt->at = MT_SIZE;
}

void cps_mt19937_seed_array(cps_mt19937 *mt, const uint32_t *words, int64_t word_count) {
    CPS_BUG_IF(word_count < 1);
    cps_mt19937_seed(mt, 19650218u);
    uint32_t *state = mt->state;
    int32_t i = 1;
    int64_t j = 0;
    for (int64_t k = cps_max_i64(MT_SIZE, word_count); k > 0; k--) {
        const uint32_t last = state[i - 1];
        state[i] = (state[i] ^ ((last ^ (last >> 30)) * 1664525u)) + words[j] + (uint32_t)j;
        if (++i == MT_SIZE) {
            state[0] = state[MT_SIZE - 1];
            i = 1;
        }
        j = j + 1 < word_count ? j + 1 : 0;
    }
    for (int32_t k = MT_SIZE - 1; k > 0; k--) {
        const uint32_t last = state[i - 1];
        state[i] = (state[i] ^ ((last ^ (last >> 30)) * 1566083941u)) - (uint32_t)i;
        if (++i == MT_SIZE) {
            state[0] = state[MT_SIZE - 1];
            i = 1;
        }
    }
    state[0] = 0x80000000u;
}

static void mt_refill(cps_mt19937 *mt) {
    uint32_t *state = mt->state;
    for (int32_t i = 0; i < MT_SIZE; i++) {
        const uint32_t mixed = (state[i] & 0x80000000u) | (state[(i + 1) % MT_SIZE] & 0x7fffffffu);
        state[i] =
            state[(i + MT_SHIFT) % MT_SIZE] ^ (mixed >> 1) ^ ((mixed & 1u) != 0 ? 0x9908b0dfu : 0u);
    }
    mt->at = 0;
}

uint32_t cps_mt19937_next(cps_mt19937 *mt) {
    if (mt->at >= MT_SIZE) {
        mt_refill(mt);
    }
    uint32_t word = mt->state[mt->at++];
    word ^= word >> 11;
    word ^= (word << 7) & 0x9d2c5680u;
    word ^= (word << 15) & 0xefc60000u;
    return word ^ (word >> 18);
}

void cps_mt19937_seed_integer(cps_mt19937 *mt, uint64_t seed) {
    const uint32_t words[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    cps_mt19937_seed_array(mt, words, words[1] != 0 ? 2 : 1);
}

uint32_t cps_mt19937_below(cps_mt19937 *mt, uint32_t n) {
    CPS_BUG_IF(n == 0);
    int32_t bits = 1;
    while (bits < 32 && (n >> bits) != 0) {
        bits++;
    }
    uint32_t drawn;
    do {
        drawn = cps_mt19937_next(mt) >> (32 - bits);
    } while (drawn >= n);
    return drawn;
}
