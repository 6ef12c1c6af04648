/* Option tables: fills a struct from a JSON object by its rows, with defaults, ranges and
 * nearest-name hints. */
#ifndef CPS_BASE_OPTIONS_H
#define CPS_BASE_OPTIONS_H

#include "base/arena.h"
#include "base/json.h"

/* Fills `out` (a struct laid out by `rows`) from `object` (NULL: all defaults). `where` is the key
 * path for messages
 * ("stages[1].optimizer"). Strings and arrays are copied into `arena`. Keys of `object` that no row
 * names are errors with a hint, except those in `also` (NULL-terminated, may be NULL). USAGE on the
 * first error. */
cps_status cps_options_parse(const cps_option *rows, const cps_json *object, const char *where,
                             const char *const *also, cps_arena *arena, void *out) CPS_MUST_CHECK;
int64_t cps_options_count(const cps_option *rows);
const cps_option *cps_options_find(const cps_option *rows, const char *name);
/* Name in the NULL-terminated list nearest to `name` (Damerau-Levenshtein distance at most a third
 * of its length, at least 1), or NULL. */
const char *cps_nearest_name(const char *name, const char *const *names);
/* Writes the help table (name, type, default, range, sentence) to `file`. */
void cps_options_print(const cps_option *rows, void *file);
const char *cps_option_kind_name(cps_option_kind kind);

#endif
