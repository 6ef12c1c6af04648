/* Case mapping: utf8proc knows the mappings of one code point to one; those to several (Unicode's
 * SpecialCasing, the unconditional ones) and the rule of the final sigma are here. Python's
 * str.lower and str.upper do the same. */
#include "base/text.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { REPLACEMENT = 0xfffd, CAPITAL_SIGMA = 0x3a3, SMALL_SIGMA = 0x3c3, FINAL_SIGMA = 0x3c2 };

typedef struct range {
    int32_t first, last;
} range;

static bool in_ranges(const range *ranges, size_t count, int32_t code_point) {
    for (size_t i = 0; i < count; i++) {
        if (code_point >= ranges[i].first && code_point <= ranges[i].last) {
            return true;
        }
    }
    return false;
}

#define IN_RANGES(ranges, code_point)                                                              \
    in_ranges(ranges, sizeof(ranges) / sizeof(ranges)[0], code_point)

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

bool cps_utf8_is_valid(const char *text, size_t length) {
    size_t at = 0;
    while (at < length) {
        if ((unsigned char)text[at] < 0x80) {
            at++;
            continue;
        }
        utf8proc_int32_t code_point;
        const utf8proc_ssize_t used = utf8proc_iterate(
            (const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(length - at), &code_point);
        if (used <= 0) {
            return false;
        }
        at += (size_t)used;
    }
    return true;
}

int32_t cps_utf8_next(const char *text, size_t length, size_t *at) {
    const unsigned char first = (unsigned char)text[*at];
    if (first < 0x80) {
        *at += 1;
        return first;
    }
    utf8proc_int32_t code_point;
    const utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text + *at,
                                                   (utf8proc_ssize_t)(length - *at), &code_point);
    if (used <= 0) {
        *at += 1;
        return REPLACEMENT;
    }
    *at += (size_t)used;
    return code_point;
}

size_t cps_utf8_put(int32_t code_point, char out[4]) {
    utf8proc_uint8_t bytes[4];
    if (!utf8proc_codepoint_valid(code_point)) {
        code_point = REPLACEMENT;
    }
    const utf8proc_ssize_t used = utf8proc_encode_char(code_point, bytes);
    memcpy(out, bytes, (size_t)used);
    return (size_t)used;
}

/* ---- classes --------------------------------------------------------------------------------- */

bool cps_utf8_is_letter(int32_t code_point) {
    const utf8proc_category_t category = utf8proc_category(code_point);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool cps_utf8_is_number(int32_t code_point) {
    const utf8proc_category_t category = utf8proc_category(code_point);
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool cps_utf8_is_digit(int32_t code_point) {
    return utf8proc_category(code_point) == UTF8PROC_CATEGORY_ND;
}

bool cps_utf8_is_space(int32_t code_point) {
    static const range spaces[] = {
        {0x09, 0x0d},     {0x1c, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680},
        {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
    };
    return IN_RANGES(spaces, code_point);
}

bool cps_utf8_is_word(int32_t code_point) {
    return code_point == '_' || cps_utf8_is_letter(code_point) || cps_utf8_is_number(code_point);
}

/* ---- case ------------------------------------------------------------------------------------ */

/* Unicode's Cased: upper, lower or title case, the properties and not the categories alone. */
static bool is_cased(int32_t code_point) {
    static const range others[] = {
        /* Other_Lowercase */
        {0xaa, 0xaa},
        {0xba, 0xba},
        {0x2b0, 0x2b8},
        {0x2c0, 0x2c1},
        {0x2e0, 0x2e4},
        {0x345, 0x345},
        {0x37a, 0x37a},
        {0x1d2c, 0x1d6a},
        {0x1d78, 0x1d78},
        {0x1d9b, 0x1dbf},
        {0x2071, 0x2071},
        {0x207f, 0x207f},
        {0x2090, 0x209c},
        {0x2170, 0x217f},
        {0x24d0, 0x24e9},
        {0x2c7c, 0x2c7d},
        {0xa69c, 0xa69d},
        {0xa770, 0xa770},
        {0xa7f8, 0xa7f9},
        {0xab5c, 0xab5f},
        {0x10780, 0x10780},
        {0x10783, 0x10785},
        {0x10787, 0x107b0},
        {0x107b2, 0x107ba},
        /* Other_Uppercase */
        {0x2160, 0x216f},
        {0x24b6, 0x24cf},
        {0x1f130, 0x1f149},
        {0x1f150, 0x1f169},
        {0x1f170, 0x1f189},
    };
    const utf8proc_category_t category = utf8proc_category(code_point);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
           category == UTF8PROC_CATEGORY_LT || IN_RANGES(others, code_point);
}

/* Unicode's Case_Ignorable: marks, format characters, modifiers, and what may stand inside a word.
 */
static bool is_case_ignorable(int32_t code_point) {
    static const range inside[] = {
        {0x27, 0x27},     {0x2e, 0x2e},     {0x3a, 0x3a},     {0xb7, 0xb7},
        {0x387, 0x387},   {0x55f, 0x55f},   {0x5f4, 0x5f4},   {0x2018, 0x2019},
        {0x2024, 0x2024}, {0x2027, 0x2027}, {0xfe13, 0xfe13}, {0xfe52, 0xfe52},
        {0xfe55, 0xfe55}, {0xff07, 0xff07}, {0xff0e, 0xff0e}, {0xff1a, 0xff1a},
    };
    switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return IN_RANGES(inside, code_point);
    }
}

/* Upper case of one code point in several; ends are 0. */
typedef struct special_upper {
    int32_t code_point;
    int32_t upper[3];
} special_upper;

static const special_upper special_uppers[] = {
    /* clang-format off */
    {0x00df, {0x0053, 0x0053, 0}}, {0x0149, {0x02bc, 0x004e, 0}}, {0x01f0, {0x004a, 0x030c, 0}},
    {0x0390, {0x0399, 0x0308, 0x0301}}, {0x03b0, {0x03a5, 0x0308, 0x0301}},
    {0x0587, {0x0535, 0x0552, 0}}, {0x1e96, {0x0048, 0x0331, 0}}, {0x1e97, {0x0054, 0x0308, 0}},
    {0x1e98, {0x0057, 0x030a, 0}}, {0x1e99, {0x0059, 0x030a, 0}}, {0x1e9a, {0x0041, 0x02be, 0}},
    {0x1f50, {0x03a5, 0x0313, 0}}, {0x1f52, {0x03a5, 0x0313, 0x0300}},
    {0x1f54, {0x03a5, 0x0313, 0x0301}}, {0x1f56, {0x03a5, 0x0313, 0x0342}},
    {0x1f80, {0x1f08, 0x0399, 0}}, {0x1f81, {0x1f09, 0x0399, 0}}, {0x1f82, {0x1f0a, 0x0399, 0}},
    {0x1f83, {0x1f0b, 0x0399, 0}}, {0x1f84, {0x1f0c, 0x0399, 0}}, {0x1f85, {0x1f0d, 0x0399, 0}},
    {0x1f86, {0x1f0e, 0x0399, 0}}, {0x1f87, {0x1f0f, 0x0399, 0}}, {0x1f88, {0x1f08, 0x0399, 0}},
    {0x1f89, {0x1f09, 0x0399, 0}}, {0x1f8a, {0x1f0a, 0x0399, 0}}, {0x1f8b, {0x1f0b, 0x0399, 0}},
    {0x1f8c, {0x1f0c, 0x0399, 0}}, {0x1f8d, {0x1f0d, 0x0399, 0}}, {0x1f8e, {0x1f0e, 0x0399, 0}},
    {0x1f8f, {0x1f0f, 0x0399, 0}}, {0x1f90, {0x1f28, 0x0399, 0}}, {0x1f91, {0x1f29, 0x0399, 0}},
    {0x1f92, {0x1f2a, 0x0399, 0}}, {0x1f93, {0x1f2b, 0x0399, 0}}, {0x1f94, {0x1f2c, 0x0399, 0}},
    {0x1f95, {0x1f2d, 0x0399, 0}}, {0x1f96, {0x1f2e, 0x0399, 0}}, {0x1f97, {0x1f2f, 0x0399, 0}},
    {0x1f98, {0x1f28, 0x0399, 0}}, {0x1f99, {0x1f29, 0x0399, 0}}, {0x1f9a, {0x1f2a, 0x0399, 0}},
    {0x1f9b, {0x1f2b, 0x0399, 0}}, {0x1f9c, {0x1f2c, 0x0399, 0}}, {0x1f9d, {0x1f2d, 0x0399, 0}},
    {0x1f9e, {0x1f2e, 0x0399, 0}}, {0x1f9f, {0x1f2f, 0x0399, 0}}, {0x1fa0, {0x1f68, 0x0399, 0}},
    {0x1fa1, {0x1f69, 0x0399, 0}}, {0x1fa2, {0x1f6a, 0x0399, 0}}, {0x1fa3, {0x1f6b, 0x0399, 0}},
    {0x1fa4, {0x1f6c, 0x0399, 0}}, {0x1fa5, {0x1f6d, 0x0399, 0}}, {0x1fa6, {0x1f6e, 0x0399, 0}},
    {0x1fa7, {0x1f6f, 0x0399, 0}}, {0x1fa8, {0x1f68, 0x0399, 0}}, {0x1fa9, {0x1f69, 0x0399, 0}},
    {0x1faa, {0x1f6a, 0x0399, 0}}, {0x1fab, {0x1f6b, 0x0399, 0}}, {0x1fac, {0x1f6c, 0x0399, 0}},
    {0x1fad, {0x1f6d, 0x0399, 0}}, {0x1fae, {0x1f6e, 0x0399, 0}}, {0x1faf, {0x1f6f, 0x0399, 0}},
    {0x1fb2, {0x1fba, 0x0399, 0}}, {0x1fb3, {0x0391, 0x0399, 0}}, {0x1fb4, {0x0386, 0x0399, 0}},
    {0x1fb6, {0x0391, 0x0342, 0}}, {0x1fb7, {0x0391, 0x0342, 0x0399}},
    {0x1fbc, {0x0391, 0x0399, 0}}, {0x1fc2, {0x1fca, 0x0399, 0}}, {0x1fc3, {0x0397, 0x0399, 0}},
    {0x1fc4, {0x0389, 0x0399, 0}}, {0x1fc6, {0x0397, 0x0342, 0}},
    {0x1fc7, {0x0397, 0x0342, 0x0399}}, {0x1fcc, {0x0397, 0x0399, 0}},
    {0x1fd2, {0x0399, 0x0308, 0x0300}}, {0x1fd3, {0x0399, 0x0308, 0x0301}},
    {0x1fd6, {0x0399, 0x0342, 0}}, {0x1fd7, {0x0399, 0x0308, 0x0342}},
    {0x1fe2, {0x03a5, 0x0308, 0x0300}}, {0x1fe3, {0x03a5, 0x0308, 0x0301}},
    {0x1fe4, {0x03a1, 0x0313, 0}}, {0x1fe6, {0x03a5, 0x0342, 0}},
    {0x1fe7, {0x03a5, 0x0308, 0x0342}}, {0x1ff2, {0x1ffa, 0x0399, 0}},
    {0x1ff3, {0x03a9, 0x0399, 0}}, {0x1ff4, {0x038f, 0x0399, 0}}, {0x1ff6, {0x03a9, 0x0342, 0}},
    {0x1ff7, {0x03a9, 0x0342, 0x0399}}, {0x1ffc, {0x03a9, 0x0399, 0}},
    {0xfb00, {0x0046, 0x0046, 0}}, {0xfb01, {0x0046, 0x0049, 0}}, {0xfb02, {0x0046, 0x004c, 0}},
    {0xfb03, {0x0046, 0x0046, 0x0049}}, {0xfb04, {0x0046, 0x0046, 0x004c}},
    {0xfb05, {0x0053, 0x0054, 0}}, {0xfb06, {0x0053, 0x0054, 0}}, {0xfb13, {0x0544, 0x0546, 0}},
    {0xfb14, {0x0544, 0x0535, 0}}, {0xfb15, {0x0544, 0x053b, 0}}, {0xfb16, {0x054e, 0x0546, 0}},
    {0xfb17, {0x0544, 0x053d, 0}},
    /* clang-format on */
};

static int compare_special(const void *key, const void *row) {
    const int32_t wanted = *(const int32_t *)key;
    const int32_t here = ((const special_upper *)row)->code_point;
    return (wanted > here) - (wanted < here);
}

static const special_upper *find_special(int32_t code_point) {
    return bsearch(&code_point, special_uppers, sizeof special_uppers / sizeof special_uppers[0],
                   sizeof special_uppers[0], compare_special);
}

static size_t put_upper(int32_t code_point, char *out) {
    const special_upper *special = find_special(code_point);
    if (special == NULL) {
        return cps_utf8_put(utf8proc_toupper(code_point), out);
    }
    size_t used = 0;
    for (int i = 0; i < 3 && special->upper[i] != 0; i++) {
        used += cps_utf8_put(special->upper[i], out + used);
    }
    return used;
}

/* Whether what comes at or after `at` lets a sigma before it end its word: nothing cased follows,
 * ignorables aside. */
static bool ends_word(const char *text, size_t length, size_t at) {
    while (at < length) {
        const int32_t code_point = cps_utf8_next(text, length, &at);
        if (!is_case_ignorable(code_point)) {
            return !is_cased(code_point);
        }
    }
    return true;
}

/* Room for any mapping: the longest are two bytes that become six, and one malformed byte that
 * becomes three. */
static char *mapped_buffer(size_t length) {
    return length > (SIZE_MAX - 8) / 4 ? NULL : malloc(4 * length + 8);
}

char *cps_utf8_lower(const char *text) {
    const size_t length = strlen(text);
    char *out = mapped_buffer(length);
    size_t used = 0;
    bool cased_before = false; /* the last code point that is not ignorable is cased */
    for (size_t at = 0; out != NULL && at < length;) {
        const int32_t code_point = cps_utf8_next(text, length, &at);
        if (code_point == CAPITAL_SIGMA) {
            const bool final = cased_before && ends_word(text, length, at);
            used += cps_utf8_put(final ? FINAL_SIGMA : SMALL_SIGMA, out + used);
        } else if (code_point == 0x130) { /* capital I with dot: i and a combining dot */
            used += cps_utf8_put('i', out + used);
            used += cps_utf8_put(0x307, out + used);
        } else {
            used += cps_utf8_put(utf8proc_tolower(code_point), out + used);
        }
        if (!is_case_ignorable(code_point)) {
            cased_before = is_cased(code_point);
        }
    }
    if (out != NULL) {
        out[used] = '\0';
    }
    return out;
}

char *cps_utf8_upper(const char *text) {
    const size_t length = strlen(text);
    char *out = mapped_buffer(length);
    size_t used = 0;
    for (size_t at = 0; out != NULL && at < length;) {
        used += put_upper(cps_utf8_next(text, length, &at), out + used);
    }
    if (out != NULL) {
        out[used] = '\0';
    }
    return out;
}

/* Title case of one code point. Where it is several, they are those of its upper case with all but
 * the first made small, iota as a mark below; an apostrophe in front makes nothing small. */
static size_t put_title(int32_t code_point, char *out) {
    enum { CAPITAL_IOTA = 0x399, IOTA_BELOW = 0x345, SHARP_S = 0xdf };
    const special_upper *special = find_special(code_point);
    const int32_t single = code_point == SHARP_S ? SHARP_S : utf8proc_totitle(code_point);
    if (special == NULL || single != code_point ||
        utf8proc_category(code_point) == UTF8PROC_CATEGORY_LT) {
        return cps_utf8_put(single, out);
    }
    size_t used = cps_utf8_put(special->upper[0], out);
    for (int i = 1; i < 3 && special->upper[i] != 0; i++) {
        int32_t next = special->upper[i];
        if (next == CAPITAL_IOTA) {
            next = IOTA_BELOW;
        } else if (is_cased(special->upper[0])) {
            next = utf8proc_tolower(next);
        }
        used += cps_utf8_put(next, out + used);
    }
    return used;
}

char *cps_utf8_capitalize(const char *text) {
    char *lower = cps_utf8_lower(text);
    const size_t length = strlen(text);
    if (lower == NULL || length == 0) {
        return lower;
    }
    size_t first = 0; /* bytes of the first code point; a sigma there is no final one */
    const int32_t code_point = cps_utf8_next(text, length, &first);
    char title[12];
    const size_t title_bytes = put_title(code_point, title);
    const size_t rest_at =
        code_point == 0x130 ? 3 : cps_utf8_put(utf8proc_tolower(code_point), (char[4]){0});
    const size_t rest = strlen(lower + rest_at) + 1;
    char *out = malloc(title_bytes + rest);
    if (out != NULL) {
        memcpy(out, title, title_bytes);
        memcpy(out + title_bytes, lower + rest_at, rest);
    }
    free(lower);
    return out;
}

/* ---- bytes as text --------------------------------------------------------------------------- */

size_t cps_base64(const void *bytes, size_t length, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *at = bytes;
    char *to = out;
    for (size_t i = 0; i < length; i += 3) {
        const size_t left = length - i;
        const uint32_t word = (uint32_t)at[i] << 16 | (left > 1 ? (uint32_t)at[i + 1] << 8 : 0u) |
                              (left > 2 ? (uint32_t)at[i + 2] : 0u);
        *to++ = digits[word >> 18];
        *to++ = digits[word >> 12 & 63];
        *to++ = left > 1 ? digits[word >> 6 & 63] : '=';
        *to++ = left > 2 ? digits[word & 63] : '=';
    }
    return (size_t)(to - out);
}

/* ---- patterns -------------------------------------------------------------------------------- */

bool cps_glob_match(const char *pattern, const char *text) {
    return fnmatch(pattern, text, 0) == 0;
}
