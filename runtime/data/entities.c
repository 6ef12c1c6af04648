#include "data/entities.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/text.h"

typedef struct entity {
    const char *name;
    int bare; /* counts without a semicolon too */
    int32_t first, second;
} entity;

static const entity ENTITIES[] = {
#include "data/entities.inc"
};
enum { ENTITY_COUNT = sizeof ENTITIES / sizeof ENTITIES[0], NAME_MAX_LENGTH = 31 };

/* What the numbers 128..159 stand for: the characters of Windows-1252. */
static const int32_t WINDOWS_1252[32] = {
    0x20AC, 0x81,   0x201A, 0x192,  0x201E, 0x2026, 0x2020, 0x2021, 0x2C6,  0x2030, 0x160,
    0x2039, 0x152,  0x8D,   0x17D,  0x8F,   0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
    0x2013, 0x2014, 0x2DC,  0x2122, 0x161,  0x203A, 0x153,  0x9D,   0x17E,  0x178};

static bool is_name_byte(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static const entity *find_entity(const char *name, size_t length) {
    size_t low = 0, high = ENTITY_COUNT;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const char *other = ENTITIES[middle].name;
        int order = strncmp(other, name, length);
        if (order == 0 && other[length] != '\0') {
            order = 1;
        }
        if (order == 0) {
            return &ENTITIES[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

/* The longest reference by name at `name` (behind the ampersand); *used_out: its bytes, semicolon
 * included. */
static const entity *match_name(const char *name, size_t length, size_t *used_out) {
    size_t run = 0;
    while (run < length && run <= NAME_MAX_LENGTH && is_name_byte(name[run])) {
        run++;
    }
    if (run < length && name[run] == ';') {
        const entity *found = find_entity(name, run);
        if (found != NULL) {
            *used_out = run + 1;
            return found;
        }
    }
    for (size_t cut = run; cut >= 2; cut--) {
        const entity *found = find_entity(name, cut);
        if (found != NULL && found->bare) {
            *used_out = cut;
            return found;
        }
    }
    return NULL;
}

static int digit_value(char c, bool hexadecimal) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (hexadecimal && c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return hexadecimal && c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Reads "#123;" or "#x7B;" (semicolon optional) at `text`; returns the bytes used, 0 if there is no
 * number. */
static size_t match_number(const char *text, size_t length, uint32_t *number_out) {
    const bool hexadecimal = length >= 2 && (text[1] == 'x' || text[1] == 'X');
    const size_t first = hexadecimal ? 2 : 1;
    size_t at = first;
    uint32_t number = 0;
    for (; at < length && digit_value(text[at], hexadecimal) >= 0; at++) {
        if (number < 0x1000000) { /* larger ones are all alike */
            number =
                number * (hexadecimal ? 16u : 10u) + (uint32_t)digit_value(text[at], hexadecimal);
        }
    }
    if (at == first) {
        return 0;
    }
    *number_out = number;
    return at < length && text[at] == ';' ? at + 1 : at;
}

static bool is_forbidden(uint32_t number) {
    return (number >= 0x1 && number <= 0x8) || number == 0xB || (number >= 0xE && number <= 0x1F) ||
           number == 0x7F || (number >= 0xFDD0 && number <= 0xFDEF) || (number & 0xFFFE) == 0xFFFE;
}

static size_t put_number(uint32_t number, char *out) {
    if (number >= 0x80 && number <= 0x9F) {
        return cps_utf8_put(WINDOWS_1252[number - 0x80], out);
    }
    if (number == 0 || (number >= 0xD800 && number <= 0xDFFF) || number > 0x10FFFF) {
        return cps_utf8_put(0xFFFD, out);
    }
    return is_forbidden(number) ? 0 : cps_utf8_put((int32_t)number, out);
}

/* text[0] is '&': writes what it stands for, moves *written; returns the bytes used, 0 if it is no
 * reference. */
static size_t replace_one(const char *text, size_t length, char *out, size_t *written) {
    if (length >= 2 && text[1] == '#') {
        uint32_t number = 0;
        const size_t used = match_number(text + 1, length - 1, &number);
        if (used == 0) {
            return 0;
        }
        *written += put_number(number, out + *written);
        return used + 1;
    }
    size_t used = 0;
    const entity *found = match_name(text + 1, length - 1, &used);
    if (found == NULL) {
        return 0;
    }
    *written += cps_utf8_put(found->first, out + *written);
    if (found->second != 0) {
        *written += cps_utf8_put(found->second, out + *written);
    }
    return used + 1;
}

size_t cps_entities_replace(const char *text, size_t length, char *out) {
    size_t written = 0;
    for (size_t at = 0; at < length;) {
        const size_t used =
            text[at] == '&' ? replace_one(text + at, length - at, out, &written) : 0;
        if (used > 0) {
            at += used;
        } else {
            out[written++] = text[at++];
        }
    }
    return written;
}
