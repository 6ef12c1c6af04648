#include "image/resize_kernels.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* ---- portable
 * -----------------------------------------------------------------------------------------------------
 */

static uint8_t rounded(uint32_t sum) {
    const uint32_t half = 1u << (CPS_RESIZE_FRACTION_BITS - 1);
    const int32_t value = (int32_t)(sum + half) >> CPS_RESIZE_FRACTION_BITS;
    return (uint8_t)(value < 0 ? 0 : (value > 255 ? 255 : value));
}

static uint32_t weight_of(int16_t high, int16_t low) {
    return (uint32_t)((int32_t)high * (1 << CPS_RESIZE_LOW_BITS) + low);
}

static void portable_row(const uint8_t *row, const cps_taps *axis, uint8_t *to) {
    for (int32_t i = 0; i < axis->outputs; ++i) {
        const int16_t *high = axis->high + (size_t)i * (size_t)axis->stride;
        const int16_t *low = axis->low + (size_t)i * (size_t)axis->stride;
        const uint8_t *from = row + 3 * (size_t)axis->first[i];
        uint32_t sum[3] = {0, 0, 0};
        for (int32_t k = 0; k < axis->count[i]; ++k) {
            const uint32_t weight = weight_of(high[k], low[k]);
            for (int32_t c = 0; c < 3; ++c) {
                sum[c] += weight * from[3 * k + c];
            }
        }
        for (int32_t c = 0; c < 3; ++c) {
            to[3 * i + c] = rounded(sum[c]);
        }
    }
}

static void portable_rows(const uint8_t *from, size_t from_stride, int32_t count,
                          const cps_taps *axis, uint8_t *to, size_t to_stride) {
    for (int32_t y = 0; y < count; ++y) {
        portable_row(from + (size_t)y * from_stride, axis, to + (size_t)y * to_stride);
    }
}

static void portable_column(const uint8_t *from, size_t from_stride, const int16_t *high,
                            const int16_t *low, int32_t count, size_t bytes, uint8_t *to) {
    for (size_t x = 0; x < bytes; ++x) {
        uint32_t sum = 0;
        for (int32_t k = 0; k < count; ++k) {
            sum += weight_of(high[k], low[k]) * from[(size_t)k * from_stride + x];
        }
        to[x] = rounded(sum);
    }
}

static const cps_resize_kernels portable = {.rows = portable_rows, .column = portable_column};

#if defined(__x86_64__)

/* ---- SSSE3
 * --------------------------------------------------------------------------------------------------------
 */

#define SSSE3 __attribute__((target("ssse3")))
#define AVX2 __attribute__((target("avx2")))

static int32_t pair_of(const int16_t *weights) {
    int32_t both;
    memcpy(&both, weights, sizeof both);
    return both;
}

/* (sum high << 11) + sum low, rounded; still 32 bits. */
SSSE3 static __m128i joined(__m128i high, __m128i low) {
    const __m128i half = _mm_set1_epi32(1 << (CPS_RESIZE_FRACTION_BITS - 1));
    const __m128i sum = _mm_add_epi32(_mm_slli_epi32(high, CPS_RESIZE_LOW_BITS), low);
    return _mm_srai_epi32(_mm_add_epi32(sum, half), CPS_RESIZE_FRACTION_BITS);
}

/* Shuffles of 12 bytes, four pixels of three channels, into pairs (tap k, tap k + 1) of 16 bits per
 * channel. */
static const int8_t first_pairs[16] = {0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1};
static const int8_t second_pairs[16] = {6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1};

SSSE3 static __m128i load16(const void *from) {
    return _mm_loadu_si128(from);
}

/* The last pixel of a row must not touch what follows. */
static void store_pixel(uint8_t *to, int32_t pixel, bool last) {
    if (last) {
        memcpy(to, &pixel, 3);
    } else {
        memcpy(to, &pixel, 4); /* the fourth byte is overwritten next */
    }
}

SSSE3 static void ssse3_row(const uint8_t *row, const cps_taps *axis, uint8_t *to) {
    const __m128i first = load16(first_pairs);
    const __m128i second = load16(second_pairs);
    for (int32_t i = 0; i < axis->outputs; ++i) {
        const int16_t *h = axis->high + (size_t)i * (size_t)axis->stride;
        const int16_t *l = axis->low + (size_t)i * (size_t)axis->stride;
        const uint8_t *from = row + 3 * (size_t)axis->first[i];
        __m128i high = _mm_setzero_si128();
        __m128i low = _mm_setzero_si128();
        for (int32_t k = 0; k < axis->count[i]; k += 4) {
            const __m128i bytes = load16(from + 3 * (size_t)k);
            const __m128i a = _mm_shuffle_epi8(bytes, first);
            const __m128i b = _mm_shuffle_epi8(bytes, second);
            high = _mm_add_epi32(high, _mm_madd_epi16(a, _mm_set1_epi32(pair_of(h + k))));
            low = _mm_add_epi32(low, _mm_madd_epi16(a, _mm_set1_epi32(pair_of(l + k))));
            high = _mm_add_epi32(high, _mm_madd_epi16(b, _mm_set1_epi32(pair_of(h + k + 2))));
            low = _mm_add_epi32(low, _mm_madd_epi16(b, _mm_set1_epi32(pair_of(l + k + 2))));
        }
        const __m128i words = _mm_packs_epi32(joined(high, low), _mm_setzero_si128());
        store_pixel(to + 3 * (size_t)i, _mm_cvtsi128_si32(_mm_packus_epi16(words, words)),
                    i + 1 == axis->outputs);
    }
}

SSSE3 static void ssse3_rows(const uint8_t *from, size_t from_stride, int32_t count,
                             const cps_taps *axis, uint8_t *to, size_t to_stride) {
    for (int32_t y = 0; y < count; ++y) {
        ssse3_row(from + (size_t)y * from_stride, axis, to + (size_t)y * to_stride);
    }
}

/* Two rows at a time: bytes of both interleaved and widened are pairs for the multiplier. */
SSSE3 static void ssse3_column(const uint8_t *from, size_t from_stride, const int16_t *high,
                               const int16_t *low, int32_t count, size_t bytes, uint8_t *to) {
    const __m128i zero = _mm_setzero_si128();
    for (size_t x = 0; x < bytes; x += 16) {
        __m128i h[4] = {zero, zero, zero, zero};
        __m128i l[4] = {zero, zero, zero, zero};
        for (int32_t k = 0; k < count; k += 2) {
            const uint8_t *at = from + (size_t)k * from_stride + x;
            const __m128i a = load16(at);
            const __m128i b = k + 1 < count ? load16(at + from_stride) : zero;
            const __m128i wh = _mm_set1_epi32(pair_of(high + k));
            const __m128i wl = _mm_set1_epi32(pair_of(low + k));
            const __m128i near = _mm_unpacklo_epi8(a, b);
            const __m128i far = _mm_unpackhi_epi8(a, b);
            const __m128i pairs[4] = {_mm_unpacklo_epi8(near, zero), _mm_unpackhi_epi8(near, zero),
                                      _mm_unpacklo_epi8(far, zero), _mm_unpackhi_epi8(far, zero)};
            for (int j = 0; j < 4; ++j) {
                h[j] = _mm_add_epi32(h[j], _mm_madd_epi16(pairs[j], wh));
                l[j] = _mm_add_epi32(l[j], _mm_madd_epi16(pairs[j], wl));
            }
        }
        const __m128i left = _mm_packs_epi32(joined(h[0], l[0]), joined(h[1], l[1]));
        const __m128i right = _mm_packs_epi32(joined(h[2], l[2]), joined(h[3], l[3]));
        _mm_storeu_si128((void *)(to + x), _mm_packus_epi16(left, right));
    }
}

static const cps_resize_kernels ssse3 = {.rows = ssse3_rows, .column = ssse3_column};

/* ---- AVX2: the same, two rows or twice the columns in a register
 * -------------------------------------------------- */

AVX2 static __m256i joined2(__m256i high, __m256i low) {
    const __m256i half = _mm256_set1_epi32(1 << (CPS_RESIZE_FRACTION_BITS - 1));
    const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, CPS_RESIZE_LOW_BITS), low);
    return _mm256_srai_epi32(_mm256_add_epi32(sum, half), CPS_RESIZE_FRACTION_BITS);
}

AVX2 static __m256i load_two(const uint8_t *a, const uint8_t *b) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)a)),
                                   _mm_loadu_si128((const void *)b), 1);
}

AVX2 static __m256i both_lanes(const int8_t pattern[16]) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)pattern));
}

/* Four rows: weights are loaded once for two registers of two rows. */
AVX2 static void avx2_four_rows(const uint8_t *from, size_t from_stride, const cps_taps *axis,
                                uint8_t *to, size_t to_stride) {
    const __m256i first = both_lanes(first_pairs);
    const __m256i second = both_lanes(second_pairs);
    const __m256i zero = _mm256_setzero_si256();
    for (int32_t i = 0; i < axis->outputs; ++i) {
        const int16_t *h = axis->high + (size_t)i * (size_t)axis->stride;
        const int16_t *l = axis->low + (size_t)i * (size_t)axis->stride;
        const uint8_t *at = from + 3 * (size_t)axis->first[i];
        __m256i high[2] = {zero, zero};
        __m256i low[2] = {zero, zero};
        for (int32_t k = 0; k < axis->count[i]; k += 4, at += 12) {
            const __m256i h0 = _mm256_set1_epi32(pair_of(h + k));
            const __m256i h1 = _mm256_set1_epi32(pair_of(h + k + 2));
            const __m256i l0 = _mm256_set1_epi32(pair_of(l + k));
            const __m256i l1 = _mm256_set1_epi32(pair_of(l + k + 2));
            for (size_t j = 0; j < 2; ++j) {
                const uint8_t *row = at + 2 * j * from_stride;
                const __m256i bytes = load_two(row, row + from_stride);
                const __m256i a = _mm256_shuffle_epi8(bytes, first);
                const __m256i b = _mm256_shuffle_epi8(bytes, second);
                high[j] = _mm256_add_epi32(high[j], _mm256_madd_epi16(a, h0));
                low[j] = _mm256_add_epi32(low[j], _mm256_madd_epi16(a, l0));
                high[j] = _mm256_add_epi32(high[j], _mm256_madd_epi16(b, h1));
                low[j] = _mm256_add_epi32(low[j], _mm256_madd_epi16(b, l1));
            }
        }
        /* Lanes: rows 0 and 2 in the lower half, 1 and 3 in the upper. */
        const __m256i words =
            _mm256_packs_epi32(joined2(high[0], low[0]), joined2(high[1], low[1]));
        const __m256i pixels = _mm256_packus_epi16(words, words);
        const __m128i even = _mm256_castsi256_si128(pixels);
        const __m128i odd = _mm256_extracti128_si256(pixels, 1);
        const bool last = i + 1 == axis->outputs;
        uint8_t *pixel = to + 3 * (size_t)i;
        store_pixel(pixel, _mm_cvtsi128_si32(even), last);
        store_pixel(pixel + to_stride, _mm_cvtsi128_si32(odd), last);
        store_pixel(pixel + 2 * to_stride, _mm_extract_epi32(even, 1), last);
        store_pixel(pixel + 3 * to_stride, _mm_extract_epi32(odd, 1), last);
    }
}

AVX2 static void avx2_rows(const uint8_t *from, size_t from_stride, int32_t count,
                           const cps_taps *axis, uint8_t *to, size_t to_stride) {
    int32_t y = 0;
    for (; y + 4 <= count; y += 4) {
        avx2_four_rows(from + (size_t)y * from_stride, from_stride, axis,
                       to + (size_t)y * to_stride, to_stride);
    }
    ssse3_rows(from + (size_t)y * from_stride, from_stride, count - y, axis,
               to + (size_t)y * to_stride, to_stride);
}

/* Unpacking and packing work within lanes of 16 bytes and undo each other. */
AVX2 static void avx2_column(const uint8_t *from, size_t from_stride, const int16_t *high,
                             const int16_t *low, int32_t count, size_t bytes, uint8_t *to) {
    const __m256i zero = _mm256_setzero_si256();
    for (size_t x = 0; x < bytes; x += 32) {
        __m256i h[4] = {zero, zero, zero, zero};
        __m256i l[4] = {zero, zero, zero, zero};
        for (int32_t k = 0; k < count; k += 2) {
            const uint8_t *at = from + (size_t)k * from_stride + x;
            const __m256i a = _mm256_loadu_si256((const void *)at);
            const __m256i b =
                k + 1 < count ? _mm256_loadu_si256((const void *)(at + from_stride)) : zero;
            const __m256i wh = _mm256_set1_epi32(pair_of(high + k));
            const __m256i wl = _mm256_set1_epi32(pair_of(low + k));
            const __m256i near = _mm256_unpacklo_epi8(a, b);
            const __m256i far = _mm256_unpackhi_epi8(a, b);
            const __m256i pairs[4] = {
                _mm256_unpacklo_epi8(near, zero), _mm256_unpackhi_epi8(near, zero),
                _mm256_unpacklo_epi8(far, zero), _mm256_unpackhi_epi8(far, zero)};
            for (int j = 0; j < 4; ++j) {
                h[j] = _mm256_add_epi32(h[j], _mm256_madd_epi16(pairs[j], wh));
                l[j] = _mm256_add_epi32(l[j], _mm256_madd_epi16(pairs[j], wl));
            }
        }
        const __m256i left = _mm256_packs_epi32(joined2(h[0], l[0]), joined2(h[1], l[1]));
        const __m256i right = _mm256_packs_epi32(joined2(h[2], l[2]), joined2(h[3], l[3]));
        _mm256_storeu_si256((void *)(to + x), _mm256_packus_epi16(left, right));
    }
}

static const cps_resize_kernels avx2 = {.rows = avx2_rows, .column = avx2_column};

#endif

/* ---- choice
 * -------------------------------------------------------------------------------------------------------
 */

const cps_resize_kernels *cps_resize_kernels_of(int which) {
    if (which == CPS_RESIZE_PORTABLE) {
        return &portable;
    }
#if defined(__x86_64__)
    if (which != CPS_RESIZE_SSSE3 && __builtin_cpu_supports("avx2")) {
        return &avx2;
    }
    if (which != CPS_RESIZE_AVX2 && __builtin_cpu_supports("ssse3")) {
        return &ssse3;
    }
#endif
    return which == CPS_RESIZE_BEST ? &portable : NULL;
}
