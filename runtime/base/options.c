/* A default is turned into the JSON value that a job would have given, so that defaults and given
 * values take one path: type, range, store. */
#include "base/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { LONGEST_NAME = 64, HINT_BYTES = 128 };

const char *cps_option_kind_name(cps_option_kind kind) {
    switch (kind) {
    case CPS_OPT_NUMBER:
        return "number";
    case CPS_OPT_INTEGER:
        return "integer";
    case CPS_OPT_BOOL:
        return "bool";
    case CPS_OPT_CHOICE:
        return "choice";
    case CPS_OPT_STRING:
        return "string";
    case CPS_OPT_NUMBERS:
        return "numbers";
    case CPS_OPT_SCHEDULE:
        return "schedule";
    case CPS_OPT_LINES:
        return "lines";
    case CPS_OPT_TOWER:
        return "tower";
    case CPS_OPT_STREAM:
        return "stream";
    }
    return "unknown";
}

/* ---- nearest name ---------------------------------------------------------------------------- */

static int least(int a, int b) {
    return a < b ? a : b;
}

/* Damerau-Levenshtein distance (restricted: neighbours may be swapped once); -1 for names too long
 * to be ours. */
static int name_distance(const char *a, const char *b) {
    const size_t rows = strlen(a), columns = strlen(b);
    if (rows > LONGEST_NAME || columns > LONGEST_NAME) {
        return -1;
    }
    int d[LONGEST_NAME + 1][LONGEST_NAME + 1];
    for (size_t i = 0; i <= rows; i++) {
        d[i][0] = (int)i;
    }
    for (size_t j = 0; j <= columns; j++) {
        d[0][j] = (int)j;
    }
    for (size_t i = 1; i <= rows; i++) {
        for (size_t j = 1; j <= columns; j++) {
            const int replace = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            d[i][j] = least(replace, least(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
            }
        }
    }
    return d[rows][columns];
}

static void consider(const char *name, const char *candidate, int *best, const char **nearest) {
    const int distance = name_distance(name, candidate);
    if (distance >= 0 && distance < *best) {
        *best = distance;
        *nearest = candidate;
    }
}

/* One more than the largest distance that still counts as near. */
static int hint_limit(const char *name) {
    const size_t third = strlen(name) / 3;
    return third < 1 ? 2 : (int)least((int)third, LONGEST_NAME) + 1;
}

const char *cps_nearest_name(const char *name, const char *const *names) {
    const char *nearest = NULL;
    int best = hint_limit(name);
    for (; names != NULL && *names != NULL; names++) {
        consider(name, *names, &best, &nearest);
    }
    return nearest;
}

static const char *nearest_key(const char *name, const cps_option *rows, const char *const *also) {
    const char *nearest = NULL;
    int best = hint_limit(name);
    for (; rows->name != NULL; rows++) {
        consider(name, rows->name, &best, &nearest);
    }
    for (; also != NULL && *also != NULL; also++) {
        consider(name, *also, &best, &nearest);
    }
    return nearest;
}

static const char *hint_text(const char *nearest, char text[HINT_BYTES]) {
    text[0] = '\0';
    if (nearest != NULL) {
        snprintf(text, HINT_BYTES, " (did you mean '%s'?)", nearest);
    }
    return text;
}

/* ---- messages -------------------------------------------------------------------------------- */

/* Where a value stands: "stages[1].optimizer.betas[2]"; index 0: the value itself. Lists count from
 * 1 as in Lua. */
typedef struct place {
    const char *where;
    const cps_option *row;
    int64_t index;
    const char *member; /* name inside a `numbers`, or NULL */
} place;

static cps_status fail_place(const place *at, const char *problem) {
    char index[32] = "";
    if (at->index > 0) {
        snprintf(index, sizeof index, "[%lld]", (long long)at->index);
    }
    return cps_fail(CPS_ERR_USAGE, "%s%s%s%s%s%s: %s", at->where, at->where[0] != '\0' ? "." : "",
                    at->row->name, index, at->member != NULL ? "." : "",
                    at->member != NULL ? at->member : "", problem);
}

/* A value as messages show it: "number 3", "string 'x'", "a table". */
static void describe(const cps_json *value, char *text, size_t bytes) {
    if (cps_json_is_number(value)) {
        snprintf(text, bytes, "number %.15g", cps_json_number(value));
    } else if (cps_json_string(value) != NULL) {
        snprintf(text, bytes, "string '%.80s'", cps_json_string(value));
    } else if (cps_json_is_bool(value)) {
        snprintf(text, bytes, "%s", cps_json_bool(value) ? "true" : "false");
    } else if (cps_json_is_array(value)) {
        snprintf(text, bytes, "a list of %lld", (long long)cps_json_count(value));
    } else {
        snprintf(text, bytes, "a table");
    }
}

static cps_status fail_type(const place *at, const cps_json *value, const char *wanted) {
    char seen[128];
    char problem[512];
    describe(value, seen, sizeof seen);
    snprintf(problem, sizeof problem, "%s where %s is wanted (%s)", seen, wanted, at->row->help);
    return fail_place(at, problem);
}

/* ---- values ---------------------------------------------------------------------------------- */

static cps_status read_number(const place *at, const cps_json *value, double *out) {
    if (!cps_json_is_number(value)) {
        return fail_type(at, value, "a number");
    }
    const double number = cps_json_number(value);
    const cps_option *row = at->row;
    const bool limited = row->minimum != 0 || row->maximum != 0;
    char problem[160];
    if (limited && !(number >= row->minimum)) {
        snprintf(problem, sizeof problem, "number %.15g is below the minimum %.15g", number,
                 row->minimum);
        return fail_place(at, problem);
    }
    if (limited && !(number <= row->maximum)) {
        snprintf(problem, sizeof problem, "number %.15g is above the maximum %.15g", number,
                 row->maximum);
        return fail_place(at, problem);
    }
    *out = number;
    return CPS_OK;
}

static cps_status read_integer(const place *at, const cps_json *value, int64_t *out) {
    double number;
    CPS_TRY(read_number(at, value, &number));
    if (number != trunc(number) || fabs(number) > 0x1p53) {
        char problem[160];
        snprintf(problem, sizeof problem, "number %.15g is not a whole number below 2^53", number);
        return fail_place(at, problem);
    }
    *out = (int64_t)number;
    return CPS_OK;
}

static cps_status read_choice(const place *at, const cps_json *value, int32_t *out) {
    const char *text = cps_json_string(value);
    if (text == NULL) {
        return fail_type(at, value, "a name");
    }
    const char *const *choices = at->row->choices;
    char problem[1024];
    size_t used = (size_t)snprintf(problem, sizeof problem, "'%.80s' is none of", text);
    for (int32_t i = 0; choices != NULL && choices[i] != NULL; i++) {
        if (strcmp(choices[i], text) == 0) {
            *out = i;
            return CPS_OK;
        }
        if (used < sizeof problem) {
            used += (size_t)snprintf(problem + used, sizeof problem - used, "%s '%s'",
                                     i == 0 ? "" : ",", choices[i]);
        }
    }
    char hint[HINT_BYTES];
    if (used < sizeof problem) {
        snprintf(problem + used, sizeof problem - used, "%s",
                 hint_text(cps_nearest_name(text, choices), hint));
    }
    return fail_place(at, problem);
}

static cps_status copy_text(cps_arena *arena, const char *text, const char **out) {
    const char *copy = cps_arena_strdup(arena, text);
    if (copy == NULL) {
        return CPS_ERR_UNAVAILABLE; /* on record by the arena */
    }
    *out = copy;
    return CPS_OK;
}

static cps_status read_string(const place *at, const cps_json *value, cps_arena *arena,
                              const char **out) {
    const char *text = cps_json_string(value);
    if (text == NULL) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "a %s%s", cps_option_kind_name(at->row->kind),
                 at->row->kind == CPS_OPT_STRING ? "" : "'s name");
        return fail_type(at, value, wanted);
    }
    return copy_text(arena, text, out);
}

static int64_t count_names(const char *const *names) {
    int64_t count = 0;
    while (names != NULL && names[count] != NULL) {
        count++;
    }
    return count;
}

static cps_status read_list(const cps_json *list, place *at, double *numbers) {
    for (const cps_json *value = cps_json_first(list); value != NULL;
         value = cps_json_next(value)) {
        CPS_TRY(read_number(at, value, &numbers[at->index - 1]));
        at->index++;
    }
    at->index = 0;
    return CPS_OK;
}

/* { a = 1, b = 2 }: what is not named is 0. */
static cps_status read_named(const cps_json *table, place *at, double *numbers) {
    const char *const *names = at->row->choices;
    for (const cps_json *value = cps_json_first(table); value != NULL;
         value = cps_json_next(value)) {
        const char *key = cps_json_key(value);
        int64_t i = 0;
        while (names[i] != NULL && strcmp(names[i], key) != 0) {
            i++;
        }
        if (names[i] == NULL) {
            char problem[256], hint[HINT_BYTES];
            snprintf(problem, sizeof problem, "unknown name '%.64s'%s", key,
                     hint_text(cps_nearest_name(key, names), hint));
            return fail_place(at, problem);
        }
        at->member = key;
        CPS_TRY(read_number(at, value, &numbers[i]));
        at->member = NULL;
    }
    return CPS_OK;
}

static cps_status read_numbers(place *at, const cps_json *value, cps_arena *arena,
                               cps_numbers *out) {
    const cps_option *row = at->row;
    const bool named = cps_json_is_object(value) && row->choices != NULL;
    if (!named && !cps_json_is_array(value)) {
        return fail_type(at, value,
                         row->choices != NULL ? "a list or table of numbers" : "a list of numbers");
    }
    const int64_t count = named ? count_names(row->choices) : cps_json_count(value);
    if (!named && row->length > 0 && count != row->length) {
        char problem[160];
        snprintf(problem, sizeof problem, "%lld numbers given, %lld are wanted", (long long)count,
                 (long long)row->length);
        return fail_place(at, problem);
    }
    double *numbers = cps_arena_alloc_zero(arena, (size_t)count * sizeof *numbers);
    if (numbers == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    if (named) {
        CPS_TRY(read_named(value, at, numbers));
    } else {
        at->index = 1;
        CPS_TRY(read_list(value, at, numbers));
    }
    *out = (cps_numbers){.count = count, .values = numbers};
    return CPS_OK;
}

static cps_status read_schedule(place *at, const cps_json *value, cps_arena *arena,
                                cps_numbers *out) {
    if (cps_json_is_array(value) && cps_json_count(value) > 0) {
        return read_numbers(at, value, arena, out);
    }
    if (!cps_json_is_number(value)) {
        return fail_type(at, value, "a number or a function of the step");
    }
    double *number = cps_arena_alloc(arena, sizeof *number);
    if (number == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    CPS_TRY(read_number(at, value, number));
    *out = (cps_numbers){.count = 1, .values = number};
    return CPS_OK;
}

/* A list of lines, or { path = ..., lines = {...} } as the job layer makes it of a file's name. */
static cps_status read_lines(place *at, const cps_json *value, cps_arena *arena, cps_lines *out) {
    const cps_json *list = cps_json_is_object(value) ? cps_json_get(value, "lines") : value;
    const char *path = cps_json_get_string(value, "path", NULL);
    if (!cps_json_is_array(list)) {
        return fail_type(at, value, "a text file or a list of lines");
    }
    const int64_t count = cps_json_count(list);
    const char **lines = cps_arena_alloc_zero(arena, (size_t)count * sizeof *lines);
    if (lines == NULL) {
        return CPS_ERR_UNAVAILABLE;
    }
    at->index = 1;
    for (const cps_json *line = cps_json_first(list); line != NULL; line = cps_json_next(line)) {
        const char *text = cps_json_string(line);
        if (text == NULL || text[0] == '\0') {
            return fail_type(at, line, "a line of text that is not empty");
        }
        CPS_TRY(copy_text(arena, text, &lines[at->index - 1]));
        at->index++;
    }
    at->index = 0;
    if (path != NULL) {
        CPS_TRY(copy_text(arena, path, &path));
    }
    *out = (cps_lines){.count = count, .lines = lines, .path = path};
    return CPS_OK;
}

static cps_status read_bool(const place *at, const cps_json *value, bool *out) {
    if (!cps_json_is_bool(value)) {
        return fail_type(at, value, "true or false");
    }
    *out = cps_json_bool(value);
    return CPS_OK;
}

static cps_status read_value(const char *where, const cps_option *row, const cps_json *value,
                             cps_arena *arena, void *out) {
    place at = {.where = where, .row = row};
    switch (row->kind) {
    case CPS_OPT_NUMBER:
        return read_number(&at, value, out);
    case CPS_OPT_INTEGER:
        return read_integer(&at, value, out);
    case CPS_OPT_BOOL:
        return read_bool(&at, value, out);
    case CPS_OPT_CHOICE:
        return read_choice(&at, value, out);
    case CPS_OPT_NUMBERS:
        return read_numbers(&at, value, arena, out);
    case CPS_OPT_SCHEDULE:
        return read_schedule(&at, value, arena, out);
    case CPS_OPT_LINES:
        return read_lines(&at, value, arena, out);
    case CPS_OPT_STRING:
    case CPS_OPT_TOWER:
    case CPS_OPT_STREAM:
        return read_string(&at, value, arena, out);
    }
    return fail_place(&at, "the option table names a type that this build does not know");
}

/* ---- defaults -------------------------------------------------------------------------------- */

/* Adds the number that `text` begins with to `list`; the rest of the text, or NULL when there is no
 * number. */
static const char *add_number(cps_json *list, const char *key, const char *text) {
    char *end;
    const double value = strtod(text, &end);
    if (end == text || !isfinite(value)) {
        return NULL;
    }
    cps_json_add_number(list, key, value);
    return end + strspn(end, " ");
}

/* "{1, 2}" or "{ a = 1, b = 2 }" under key "value" of `holder`; false when it is neither. */
static bool add_list(cps_json *holder, const char *text) {
    text += strspn(text, " ");
    if (*text != '{') {
        return false;
    }
    text += 1 + strspn(text + 1, " ");
    const bool named = strchr(text, '=') != NULL;
    cps_json *list =
        named ? cps_json_add_object(holder, "value") : cps_json_add_array(holder, "value");
    while (*text != '}') {
        char *key = NULL;
        if (named) {
            const size_t length = strcspn(text, "= ");
            key = cps_format("%.*s", (int)length, text);
            text += length;
            text += strspn(text, "= ");
        }
        text = add_number(list, key, text);
        free(key);
        if (text == NULL || (*text != ',' && *text != '}')) {
            return false;
        }
        if (*text == ',') {
            text += 1 + strspn(text + 1, " ");
        }
    }
    return text[1] == '\0';
}

/* The default of a row as a member "value" of `holder`; false when the text does not fit the kind.
 */
static bool add_default(cps_json *holder, const cps_option *row) {
    const char *text = row->default_text;
    const char *rest;
    switch (row->kind) {
    case CPS_OPT_NUMBER:
    case CPS_OPT_INTEGER:
        rest = add_number(holder, "value", text);
        return rest != NULL && *rest == '\0';
    case CPS_OPT_BOOL:
        cps_json_add_bool(holder, "value", strcmp(text, "true") == 0);
        return strcmp(text, "true") == 0 || strcmp(text, "false") == 0;
    case CPS_OPT_NUMBERS:
        return add_list(holder, text);
    case CPS_OPT_SCHEDULE:
        if (text[strspn(text, " ")] == '{') {
            return add_list(holder, text);
        }
        rest = add_number(holder, "value", text);
        return rest != NULL && *rest == '\0';
    case CPS_OPT_CHOICE:
    case CPS_OPT_STRING:
    case CPS_OPT_TOWER:
    case CPS_OPT_STREAM:
        cps_json_add_string(holder, "value", text);
        return true;
    case CPS_OPT_LINES:
        return false; /* a plugin has no files of its own */
    }
    return false;
}

static cps_status read_default(const char *where, const cps_option *row, cps_arena *arena,
                               void *out) {
    cps_json *holder = cps_json_new_object();
    cps_status status;
    if (add_default(holder, row)) {
        status = read_value(where, row, cps_json_get(holder, "value"), arena, out);
    } else {
        status = cps_fail(CPS_ERR_USAGE,
                          "%s%s%s: the option table's default '%s' is no %s: mend the table", where,
                          where[0] != '\0' ? "." : "", row->name, row->default_text,
                          cps_option_kind_name(row->kind));
    }
    cps_json_destroy(holder);
    return status;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static size_t kind_bytes(cps_option_kind kind) {
    switch (kind) {
    case CPS_OPT_NUMBER:
        return sizeof(double);
    case CPS_OPT_INTEGER:
        return sizeof(int64_t);
    case CPS_OPT_BOOL:
        return sizeof(bool);
    case CPS_OPT_CHOICE:
        return sizeof(int32_t);
    case CPS_OPT_NUMBERS:
    case CPS_OPT_SCHEDULE:
        return sizeof(cps_numbers);
    case CPS_OPT_LINES:
        return sizeof(cps_lines);
    case CPS_OPT_STRING:
    case CPS_OPT_TOWER:
    case CPS_OPT_STREAM:
        return sizeof(const char *);
    }
    return 0;
}

int64_t cps_options_count(const cps_option *rows) {
    int64_t count = 0;
    while (rows[count].name != NULL) {
        count++;
    }
    return count;
}

const cps_option *cps_options_find(const cps_option *rows, const char *name) {
    for (; rows->name != NULL; rows++) {
        if (strcmp(rows->name, name) == 0) {
            return rows;
        }
    }
    return NULL;
}

static bool is_listed(const char *name, const char *const *names) {
    for (; names != NULL && *names != NULL; names++) {
        if (strcmp(*names, name) == 0) {
            return true;
        }
    }
    return false;
}

static cps_status check_keys(const cps_option *rows, const cps_json *object, const char *where,
                             const char *const *also) {
    for (const cps_json *member = cps_json_first(object); member != NULL;
         member = cps_json_next(member)) {
        const char *key = cps_json_key(member);
        if (cps_options_find(rows, key) == NULL && !is_listed(key, also)) {
            char hint[HINT_BYTES];
            return cps_fail(CPS_ERR_USAGE, "%s: unknown key '%.80s'%s", where, key,
                            hint_text(nearest_key(key, rows, also), hint));
        }
    }
    return CPS_OK;
}

static cps_status fill_row(const cps_option *row, const cps_json *object, const char *where,
                           cps_arena *arena, void *out) {
    void *field = (char *)out + row->offset;
    memset(field, 0, kind_bytes(row->kind));
    const cps_json *value = cps_json_get(object, row->name);
    if (value != NULL && !cps_json_is_null(value)) {
        return read_value(where, row, value, arena, field);
    }
    if (row->required) {
        const place at = {.where = where, .row = row};
        char problem[512];
        snprintf(problem, sizeof problem, "is missing: a %s is wanted (%s)",
                 cps_option_kind_name(row->kind), row->help);
        return fail_place(&at, problem);
    }
    return row->default_text != NULL ? read_default(where, row, arena, field) : CPS_OK;
}

cps_status cps_options_parse(const cps_option *rows, const cps_json *object, const char *where,
                             const char *const *also, cps_arena *arena, void *out) {
    CPS_BUG_IF(cps_arena_is_counting(arena));
    /* Lua's empty table may arrive as an empty list */
    const bool empty = object == NULL || cps_json_is_null(object) ||
                       (cps_json_is_array(object) && cps_json_count(object) == 0);
    if (empty) {
        object = NULL;
    } else if (!cps_json_is_object(object)) {
        char seen[128];
        describe(object, seen, sizeof seen);
        return cps_fail(CPS_ERR_USAGE, "%s: %s where a table of options is wanted", where, seen);
    }
    CPS_TRY(check_keys(rows, object, where, also));
    for (const cps_option *row = rows; row->name != NULL; row++) {
        CPS_TRY(fill_row(row, object, where, arena, out));
    }
    return CPS_OK;
}

static void print_range(const cps_option *row, FILE *file) {
    if (row->choices != NULL) {
        for (const char *const *choice = row->choices; *choice != NULL; choice++) {
            fprintf(file, "%s%s", choice == row->choices ? "one of " : ", ", *choice);
        }
    } else if (row->minimum != 0 || row->maximum != 0) {
        if (isinf(row->maximum)) {
            fprintf(file, "at least %.15g", row->minimum);
        } else if (isinf(row->minimum)) {
            fprintf(file, "at most %.15g", row->maximum);
        } else {
            fprintf(file, "%.15g to %.15g", row->minimum, row->maximum);
        }
    } else if (row->length > 0) {
        fprintf(file, "%lld numbers", (long long)row->length);
    }
}

void cps_options_print(const cps_option *rows, void *file) {
    for (const cps_option *row = rows; row->name != NULL; row++) {
        const char *standard = row->default_text;
        if (standard == NULL) {
            standard = row->required ? "(required)" : "(none)";
        }
        fprintf(file, "  %-24s %-9s default %-10s ", row->name, cps_option_kind_name(row->kind),
                standard);
        print_range(row, file);
        fprintf(file, "\n      %s\n", row->help);
    }
}
