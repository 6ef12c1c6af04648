/* UTF-8: the only user of utf8proc. Results are malloc'ed unless an arena is named. */
#ifndef CPS_BASE_TEXT_H
#define CPS_BASE_TEXT_H

#include "base/status.h"

bool cps_utf8_is_valid(const char *text, size_t length);
/* Next code point at text[*at], moving *at; U+FFFD and one byte for malformed input. */
int32_t cps_utf8_next(const char *text, size_t length, size_t *at);
/* Bytes written for a code point (1..4). */
size_t cps_utf8_put(int32_t code_point, char out[4]);
/* Full Unicode lower / upper case mapping as Python's str.lower / str.upper (final sigma, U+0130,
 * special casing). free() the result. NULL only when out of memory. */
char *cps_utf8_lower(const char *text);
char *cps_utf8_upper(const char *text);
/* As Python's str.capitalize: the first code point in title case, the rest in lower case. Likewise.
 */
char *cps_utf8_capitalize(const char *text);
bool cps_utf8_is_letter(int32_t code_point); /* \p{L} */
bool cps_utf8_is_number(int32_t code_point); /* \p{N} */
bool cps_utf8_is_digit(int32_t code_point);  /* \d: \p{Nd} */
bool cps_utf8_is_space(int32_t code_point);  /* as Python's str.isspace */
bool cps_utf8_is_word(
    int32_t code_point); /* \w of a Unicode regular expression: letter, number, underscore */

/* Base64 of `length` bytes (RFC 4648, with padding) into `out`, which holds
 * CPS_BASE64_BYTES(length) bytes: no line breaks, no NUL. Returns the bytes written. */
#define CPS_BASE64_BYTES(length) (((size_t)(length) + 2) / 3 * 4)
size_t cps_base64(const void *bytes, size_t length, char *out);

/* Shell glob (fnmatch without path rules): '*', '?', '[...]'. */
bool cps_glob_match(const char *pattern, const char *text);

#endif
