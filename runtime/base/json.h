/* JSON through cJSON, the only user of it. Depth and size are limited; numbers are doubles. Local.
 */
#ifndef CPS_BASE_JSON_H
#define CPS_BASE_JSON_H

#include "base/status.h"

typedef struct cJSON cps_json;

/* Parses `length` bytes; what follows the value must be white space. `what` names it in messages.
 * DATA on bad text, nesting over 100, or duplicate keys in one object. The caller destroys the
 * result. */
cps_status cps_json_parse(const char *text, size_t length, const char *what,
                          cps_json **json_out) CPS_MUST_CHECK;
cps_status cps_json_read_file(const char *path, size_t max_bytes,
                              cps_json **json_out) CPS_MUST_CHECK;
void cps_json_destroy(cps_json *json);

/* Reading. Missing or wrong type gives NULL / the fallback. */
const cps_json *cps_json_get(const cps_json *object, const char *key);
const cps_json *cps_json_path(const cps_json *root,
                              const char *dotted);  /* "data.paired.shards"; "stages.0.name" */
const char *cps_json_string(const cps_json *value); /* NULL if not a string */
const char *cps_json_get_string(const cps_json *object, const char *key, const char *fallback);
double cps_json_get_number(const cps_json *object, const char *key, double fallback);
int64_t cps_json_get_integer(const cps_json *object, const char *key, int64_t fallback);
bool cps_json_get_bool(const cps_json *object, const char *key, bool fallback);
bool cps_json_is_number(const cps_json *value);
bool cps_json_is_array(const cps_json *value);
bool cps_json_is_object(const cps_json *value);
bool cps_json_is_bool(const cps_json *value);
bool cps_json_is_null(const cps_json *value);
bool cps_json_bool(const cps_json *value);
double cps_json_number(const cps_json *value); /* NaN if not a number */
int64_t cps_json_count(const cps_json *value); /* elements of an array or object, else 0 */
const cps_json *cps_json_at(const cps_json *array_or_object, int64_t index);
const char *cps_json_key(const cps_json *member); /* key of an object's member */
const cps_json *
cps_json_first(const cps_json *container); /* walk in O(1) a step: first, then next */
const cps_json *cps_json_next(const cps_json *value);

/* Writing: append values to an object or array; out of memory is a panic. A NULL key appends to an
 * array. Non-finite numbers become null. */
cps_json *cps_json_new_object(void);
cps_json *cps_json_new_array(void);
cps_json *cps_json_add_object(cps_json *parent, const char *key);
cps_json *cps_json_add_array(cps_json *parent, const char *key);
void cps_json_add_string(cps_json *parent, const char *key, const char *value);
void cps_json_add_number(cps_json *parent, const char *key,
                         double value); /* shortest text that reads back equal */
void cps_json_add_bool(cps_json *parent, const char *key, bool value);
void cps_json_add_copy(cps_json *parent, const char *key, const cps_json *value);
/* Text on one line, or indented; the caller frees it with free(). sorted: keys in byte order,
 * recursively (canonical). */
char *cps_json_print(const cps_json *json, bool indented, bool sorted);

#endif
