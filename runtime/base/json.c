/* cJSON reads and holds the values; the text is written here, since cJSON's numbers do not always
 * read back equal. What cJSON lets pass and we do not: deep nesting, NUL characters, doubled keys,
 * bytes that are no UTF-8, trailing text. */
#include "base/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"

enum { MAX_DEPTH = 100 };

/* ---- parsing --------------------------------------------------------------------------------- */

static cps_status fail_at(const char *what, const char *text, size_t at, const char *problem) {
    int64_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n';
    }
    return cps_fail(CPS_ERR_DATA, "%s: no valid JSON at line %lld, column %lld: %s", what,
                    (long long)line, (long long)column, problem);
}

/* Depth and NUL escapes, before cJSON recurses or cuts strings. */
static cps_status scan(const char *text, size_t length, const char *what) {
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        const char c = text[i];
        if (c == '\0') {
            return fail_at(what, text, i, "a NUL byte");
        }
        if (quoted && c == '\\') {
            if (length - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0) {
                return fail_at(what, text, i, "a NUL character inside a string");
            }
            i++;
        } else if (c == '"') {
            quoted = !quoted;
        } else if (!quoted && (c == '{' || c == '[')) {
            if (++depth > MAX_DEPTH) {
                return fail_at(what, text, i, "nested deeper than 100 levels");
            }
        } else if (!quoted && (c == '}' || c == ']')) {
            depth--;
        }
    }
    return CPS_OK;
}

static int compare_members(const void *a, const void *b) {
    const cps_json *const *left = a;
    const cps_json *const *right = b;
    return strcmp((*left)->string, (*right)->string);
}

/* Members of an object in byte order of their keys; malloc'ed. */
static const cps_json **sorted_members(const cps_json *object, int64_t *count_out) {
    const int64_t count = cps_json_count(object);
    const cps_json **members = malloc(sizeof *members * (size_t)(count + 1));
    CPS_BUG_IF(members == NULL);
    int64_t i = 0;
    for (const cps_json *at = object->child; at != NULL; at = at->next) {
        members[i++] = at;
    }
    qsort(members, (size_t)count, sizeof *members, compare_members);
    *count_out = count;
    return members;
}

static cps_status check_keys(const cps_json *json, const char *what) {
    cps_status status = CPS_OK;
    if (cJSON_IsObject(json)) {
        int64_t count;
        const cps_json **members = sorted_members(json, &count);
        for (int64_t i = 1; i < count && status == CPS_OK; i++) {
            if (strcmp(members[i - 1]->string, members[i]->string) == 0) {
                status = cps_fail(CPS_ERR_DATA, "%s: the key '%s' is there twice in one object",
                                  what, members[i]->string);
            }
        }
        free(members);
    }
    for (const cps_json *at = json->child; at != NULL && status == CPS_OK; at = at->next) {
        status = check_keys(at, what);
    }
    return status;
}

static bool is_blank(const char *text, const char *end) {
    while (text < end && (*text == ' ' || *text == '\t' || *text == '\n' || *text == '\r')) {
        text++;
    }
    return text == end;
}

cps_status cps_json_parse(const char *text, size_t length, const char *what, cps_json **json_out) {
    if (!cps_utf8_is_valid(text, length)) {
        return cps_fail(CPS_ERR_DATA, "%s: the text is not valid UTF-8, JSON must be", what);
    }
    CPS_TRY(scan(text, length, what));
    const char *end = text;
    cps_json *json = cJSON_ParseWithLengthOpts(text, length, &end, 0);
    if (json == NULL) {
        const size_t at = end >= text && end <= text + length ? (size_t)(end - text) : 0;
        return fail_at(what, text, at,
                       length == 0 ? "the text is empty" : "unexpected text or end");
    }
    cps_status status;
    if (!is_blank(end, text + length)) {
        status = fail_at(what, text, (size_t)(end - text), "more text after the value");
    } else {
        status = check_keys(json, what);
    }
    if (status != CPS_OK) {
        cJSON_Delete(json);
        return status;
    }
    *json_out = json;
    return CPS_OK;
}

cps_status cps_json_read_file(const char *path, size_t max_bytes, cps_json **json_out) {
    char *text;
    size_t length;
    CPS_TRY(cps_file_read(path, max_bytes, &text, &length));
    const cps_status status = cps_json_parse(text, length, path, json_out);
    free(text);
    return status;
}

void cps_json_destroy(cps_json *json) {
    cJSON_Delete(json);
}

/* ---- reading --------------------------------------------------------------------------------- */

const cps_json *cps_json_get(const cps_json *object, const char *key) {
    return cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
}

static const cps_json *step_into(const cps_json *container, const char *name, size_t length) {
    if (cJSON_IsArray(container)) {
        char *end;
        const long long index = strtoll(name, &end, 10);
        const bool whole = length > 0 && end == name + length && index >= 0;
        return whole ? cps_json_at(container, index) : NULL;
    }
    for (const cps_json *at = cps_json_first(container); at != NULL; at = at->next) {
        if (at->string != NULL && strlen(at->string) == length &&
            memcmp(at->string, name, length) == 0) {
            return at;
        }
    }
    return NULL;
}

const cps_json *cps_json_path(const cps_json *root, const char *dotted) {
    const cps_json *at = root;
    while (at != NULL && *dotted != '\0') {
        const size_t length = strcspn(dotted, ".");
        at = step_into(at, dotted, length);
        dotted += length;
        dotted += *dotted == '.';
    }
    return at;
}

const char *cps_json_string(const cps_json *value) {
    return cJSON_IsString(value) ? value->valuestring : NULL;
}

const char *cps_json_get_string(const cps_json *object, const char *key, const char *fallback) {
    const char *text = cps_json_string(cps_json_get(object, key));
    return text != NULL ? text : fallback;
}

double cps_json_get_number(const cps_json *object, const char *key, double fallback) {
    const cps_json *value = cps_json_get(object, key);
    return cJSON_IsNumber(value) ? value->valuedouble : fallback;
}

int64_t cps_json_get_integer(const cps_json *object, const char *key, int64_t fallback) {
    const double value = cps_json_get_number(object, key, (double)NAN);
    const bool whole = fabs(value) <= 0x1p53 && value == trunc(value);
    return whole ? (int64_t)value : fallback;
}

bool cps_json_get_bool(const cps_json *object, const char *key, bool fallback) {
    const cps_json *value = cps_json_get(object, key);
    return cJSON_IsBool(value) ? cJSON_IsTrue(value) : fallback;
}

bool cps_json_is_number(const cps_json *value) {
    return cJSON_IsNumber(value);
}

bool cps_json_is_array(const cps_json *value) {
    return cJSON_IsArray(value);
}

bool cps_json_is_object(const cps_json *value) {
    return cJSON_IsObject(value);
}

bool cps_json_is_bool(const cps_json *value) {
    return cJSON_IsBool(value);
}

bool cps_json_is_null(const cps_json *value) {
    return cJSON_IsNull(value);
}

bool cps_json_bool(const cps_json *value) {
    return cJSON_IsTrue(value);
}

double cps_json_number(const cps_json *value) {
    return cJSON_IsNumber(value) ? value->valuedouble : (double)NAN;
}

int64_t cps_json_count(const cps_json *value) {
    int64_t count = 0;
    for (const cps_json *at = cps_json_first(value); at != NULL; at = at->next) {
        count++;
    }
    return count;
}

const cps_json *cps_json_at(const cps_json *array_or_object, int64_t index) {
    const cps_json *at = index < 0 ? NULL : cps_json_first(array_or_object);
    while (at != NULL && index-- > 0) {
        at = at->next;
    }
    return at;
}

const char *cps_json_key(const cps_json *member) {
    return member != NULL ? member->string : NULL;
}

const cps_json *cps_json_first(const cps_json *container) {
    return cJSON_IsArray(container) || cJSON_IsObject(container) ? container->child : NULL;
}

const cps_json *cps_json_next(const cps_json *value) {
    return value != NULL ? value->next : NULL;
}

/* ---- building -------------------------------------------------------------------------------- */

static cps_json *must(cps_json *json) {
    CPS_BUG_IF(json == NULL);
    return json;
}

static cps_json *attach(cps_json *parent, const char *key, cps_json *value) {
    must(value);
    const bool done = key != NULL ? cJSON_AddItemToObject(parent, key, value)
                                  : cJSON_AddItemToArray(parent, value);
    CPS_BUG_IF(!done);
    return value;
}

cps_json *cps_json_new_object(void) {
    return must(cJSON_CreateObject());
}

cps_json *cps_json_new_array(void) {
    return must(cJSON_CreateArray());
}

cps_json *cps_json_add_object(cps_json *parent, const char *key) {
    return attach(parent, key, cJSON_CreateObject());
}

cps_json *cps_json_add_array(cps_json *parent, const char *key) {
    return attach(parent, key, cJSON_CreateArray());
}

void cps_json_add_string(cps_json *parent, const char *key, const char *value) {
    attach(parent, key, cJSON_CreateString(value));
}

void cps_json_add_number(cps_json *parent, const char *key, double value) {
    attach(parent, key, isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

void cps_json_add_bool(cps_json *parent, const char *key, bool value) {
    attach(parent, key, cJSON_CreateBool(value));
}

void cps_json_add_copy(cps_json *parent, const char *key, const cps_json *value) {
    attach(parent, key, cJSON_Duplicate(value, 1));
}

/* ---- printing -------------------------------------------------------------------------------- */

typedef struct writer {
    char *text;
    size_t length, capacity;
    bool indented, sorted;
} writer;

static void put_bytes(writer *out, const char *bytes, size_t count) {
    if (out->capacity - out->length < count + 1) {
        out->capacity = 2 * out->capacity + count + 256;
        out->text = realloc(out->text, out->capacity);
        CPS_BUG_IF(out->text == NULL);
    }
    memcpy(out->text + out->length, bytes, count);
    out->length += count;
    out->text[out->length] = '\0';
}

static void put_text(writer *out, const char *text) {
    put_bytes(out, text, strlen(text));
}

static void put_break(writer *out, int depth) {
    if (out->indented) {
        put_bytes(out, "\n", 1);
        for (int i = 0; i < depth; i++) {
            put_bytes(out, "  ", 2);
        }
    }
}

static void put_number(writer *out, double value) {
    char text[40];
    if (!isfinite(value)) {
        put_text(out, "null");
        return;
    }
    if (value == trunc(value) && fabs(value) <= 0x1p53) {
        snprintf(text, sizeof text, "%.0f", value == 0 ? 0.0 : value); /* no "-0" */
    } else {
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, value);
            if (strtod(text, NULL) == value) {
                break;
            }
        }
    }
    put_text(out, text);
}

/* Bytes that are no UTF-8 (file names may hold any) become U+FFFD, so that the text stays JSON. */
static void put_string(writer *out, const char *text) {
    const size_t length = strlen(text);
    put_bytes(out, "\"", 1);
    for (size_t at = 0; at < length;) {
        const size_t from = at;
        const int32_t c = cps_utf8_next(text, length, &at);
        char piece[8];
        if (c == '"' || c == '\\') {
            snprintf(piece, sizeof piece, "\\%c", (char)c);
        } else if (c == '\n') {
            strcpy(piece, "\\n");
        } else if (c == '\t') {
            strcpy(piece, "\\t");
        } else if (c < 0x20 || c == 0x7f) {
            snprintf(piece, sizeof piece, "\\u%04x", (unsigned)c);
        } else if (c == 0xfffd) {
            strcpy(piece, "\xef\xbf\xbd");
        } else {
            put_bytes(out, text + from, at - from);
            continue;
        }
        put_text(out, piece);
    }
    put_bytes(out, "\"", 1);
}

static void put_value(writer *out, const cps_json *json, int depth);

static void put_member(writer *out, const cps_json *member, bool named, bool first, int depth) {
    if (!first) {
        put_bytes(out, ",", 1);
    }
    put_break(out, depth);
    if (named) {
        put_string(out, member->string);
        put_text(out, out->indented ? ": " : ":");
    }
    put_value(out, member, depth);
}

static void put_container(writer *out, const cps_json *json, int depth) {
    const bool object = cJSON_IsObject(json);
    put_text(out, object ? "{" : "[");
    if (object && out->sorted) {
        int64_t count;
        const cps_json **members = sorted_members(json, &count);
        for (int64_t i = 0; i < count; i++) {
            put_member(out, members[i], true, i == 0, depth + 1);
        }
        free(members);
    } else {
        for (const cps_json *at = json->child; at != NULL; at = at->next) {
            put_member(out, at, object, at == json->child, depth + 1);
        }
    }
    if (json->child != NULL) {
        put_break(out, depth);
    }
    put_text(out, object ? "}" : "]");
}

static void put_value(writer *out, const cps_json *json, int depth) {
    if (cJSON_IsArray(json) || cJSON_IsObject(json)) {
        put_container(out, json, depth);
    } else if (cJSON_IsString(json)) {
        put_string(out, json->valuestring);
    } else if (cJSON_IsNumber(json)) {
        put_number(out, json->valuedouble);
    } else if (cJSON_IsBool(json)) {
        put_text(out, cJSON_IsTrue(json) ? "true" : "false");
    } else {
        put_text(out, "null");
    }
}

char *cps_json_print(const cps_json *json, bool indented, bool sorted) {
    writer out = {.indented = indented, .sorted = sorted};
    put_bytes(&out, "", 0);
    put_value(&out, json, 0);
    return out.text;
}
