/* Line by line into a pool of strings; what cells point at is settled when the pool stands still.
 */
#include "shards/table_agriclip.h"

#include "base/file.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const size_t max_file_bytes = (size_t)4 << 30;

enum { COLUMNS = 4, TOLD = 10, UNDEFINED = 0xfffd };
static const char *const names[COLUMNS] = {"file", "caption", "label", "domain"};

typedef struct reading {
    const char *path, *root;
    char *pool;
    size_t used, room;
    size_t *cells; /* [1 + rows, COLUMNS] offsets into the pool */
    int64_t *lines;
    int64_t rows, row_room; /* the header's row is one of them */
    cps_agriclip_facts facts;
} reading;

static cps_status fail_memory(const reading *from) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "%s: no memory for its %lld rows", from->path,
                    (long long)from->rows);
}

static cps_status keep(reading *from, const char *text, size_t *at_out) {
    const size_t bytes = strlen(text) + 1;
    if (bytes > from->room - from->used) {
        const size_t room = 2 * from->room + bytes + 4096;
        char *longer = realloc(from->pool, room);
        if (longer == NULL) {
            return fail_memory(from);
        }
        from->pool = longer;
        from->room = room;
    }
    memcpy(from->pool + from->used, text, bytes);
    *at_out = from->used;
    from->used += bytes;
    return CPS_OK;
}

static cps_status add_row(reading *from, int64_t line, const char *const cells[COLUMNS]) {
    if (from->rows == from->row_room) {
        const int64_t room = 2 * from->row_room + 256;
        size_t *longer = realloc(from->cells, (size_t)room * COLUMNS * sizeof *longer);
        from->cells = longer != NULL ? longer : from->cells;
        int64_t *lines = realloc(from->lines, (size_t)room * sizeof *lines);
        from->lines = lines != NULL ? lines : from->lines;
        if (longer == NULL || lines == NULL) {
            return fail_memory(from);
        }
        from->row_room = room;
    }
    for (int c = 0; c < COLUMNS; c++) {
        CPS_TRY(keep(from, cells[c], &from->cells[from->rows * COLUMNS + c]));
    }
    from->lines[from->rows++] = line;
    return CPS_OK;
}

/* ---- letters ----------------------------------------------------------------------------------
 */

/* What Windows-1252 has in the place of Latin-1's control characters 0x80 .. 0x9f. */
static const int32_t windows[32] = {0x20ac, UNDEFINED, 0x201a,    0x0192, 0x201e, 0x2026, 0x2020,
                                    0x2021, 0x02c6,    0x2030,    0x0160, 0x2039, 0x0152, UNDEFINED,
                                    0x017d, UNDEFINED, UNDEFINED, 0x2018, 0x2019, 0x201c, 0x201d,
                                    0x2022, 0x2013,    0x2014,    0x02dc, 0x2122, 0x0161, 0x203a,
                                    0x0153, UNDEFINED, 0x017e,    0x0178};

static int32_t letter_of(unsigned char byte) {
    const bool own = byte >= 0x80 && byte < 0xa0 && windows[byte - 0x80] != UNDEFINED;
    return own ? windows[byte - 0x80] : byte;
}

/* The byte that letter_of gives this code point for, -1: none. */
static int32_t byte_of(int32_t letter) {
    for (int32_t i = 0; i < 32; i++) {
        if (windows[i] == letter && letter != UNDEFINED) {
            return 0x80 + i;
        }
    }
    return letter < 0x100 ? letter : -1;
}

/* Bytes as Latin-1; malloc'ed UTF-8, NULL: out of memory. */
static char *from_latin(const char *text, size_t length) {
    char *out = malloc(3 * length + 1);
    size_t at = 0;
    for (size_t i = 0; out != NULL && i < length; i++) {
        at += cps_utf8_put(letter_of((unsigned char)text[i]), out + at);
    }
    if (out != NULL) {
        out[at] = '\0';
    }
    return out;
}

/* UTF-8 whose letters are the bytes of other UTF-8 gives that; anything else, or without memory,
 * NULL. */
static char *unmix(const char *text, size_t length) {
    char *out = malloc(length + 1);
    size_t used = 0;
    bool beyond = false;
    for (size_t at = 0; out != NULL && at < length;) {
        const int32_t byte = byte_of(cps_utf8_next(text, length, &at));
        if (byte < 0) {
            free(out);
            return NULL;
        }
        beyond = beyond || byte >= 0x80;
        out[used++] = (char)byte;
    }
    if (out == NULL || !beyond || !cps_utf8_is_valid(out, used)) {
        free(out);
        return NULL;
    }
    out[used] = '\0';
    return out;
}

/* The line as UTF-8, malloc'ed; NULL: out of memory. */
static char *decode(const char *line, size_t length, bool *repaired_out) {
    *repaired_out = true;
    if (!cps_utf8_is_valid(line, length)) {
        return from_latin(line, length);
    }
    char *out = unmix(line, length);
    if (out == NULL) {
        *repaired_out = false;
        out = strndup(line, length);
    }
    return out;
}

/* ---- a row ------------------------------------------------------------------------------------
 */

static char *trim(char *text, const char *what) {
    text += strspn(text, " \t\r");
    size_t length = strlen(text);
    while (length > 0 && strchr(what, text[length - 1]) != NULL) {
        text[--length] = '\0';
    }
    return text;
}

/* Without quotes around it, runs of them inside made one, in place. A quote at the end that belongs
 * to one inside stays. */
static char *unquote(char *text) {
    text = trim(text, " \t\r");
    const bool quoted = text[0] == '"';
    char *to = text += strspn(text, "\"");
    int64_t quotes = 0;
    for (const char *from = text; *from != '\0'; from++) {
        if (from[0] != '"' || from[1] != '"') {
            quotes += *from == '"';
            *to++ = *from;
        }
    }
    *to = '\0';
    return trim(text, quoted || quotes % 2 == 1 ? " \t\r\"" : " \t\r");
}

/* Path and caption of a row, in place. Returns why there are none, or NULL. */
static const char *part_row(char *line, char **path_out, char **caption_out) {
    char *row = trim(line, " \t\r,");
    size_t length = strlen(row);
    if (row[0] == '"') {
        row++;
        length--;
        if (length > 0 && row[length - 1] == '"') {
            row[length - 1] = '\0';
        }
        row = trim(row, " \t\r,");
    }
    char *comma = strchr(row, ',');
    if (comma == NULL) {
        return "it has no comma between a path and a caption";
    }
    *comma = '\0';
    *path_out = unquote(row);
    *caption_out = unquote(comma + 1);
    return (*path_out)[0] == '\0'      ? "it names no picture"
           : (*caption_out)[0] == '\0' ? "it has no caption"
                                       : NULL;
}

/* ---- paths ------------------------------------------------------------------------------------
 */

enum { MOST_PARTS = 64 };

typedef struct route {
    char *parts[MOST_PARTS]; /* folders, the last one the class's, and the file */
    int count, domain;       /* index of the domain's folder, -1: none */
} route;

static bool is_domain(const char *part) {
    static const char *const domains[] = {"Crops", "Fish", "Fisheries", "Livestock"};
    for (size_t i = 0; i < sizeof domains / sizeof domains[0]; i++) {
        if (strcasecmp(part, domains[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* In place. Returns why the path leads nowhere, or NULL. */
static const char *part_path(char *path, route *out) {
    *out = (route){.domain = -1};
    for (char *c = path; *c != '\0'; c++) {
        *c = *c == '\\' ? '/' : *c;
    }
    if (path[strlen(path) - 1] == '/') {
        return "its path names a folder";
    }
    char *rest = path;
    for (char *part = strtok_r(path, "/", &rest); part != NULL; part = strtok_r(NULL, "/", &rest)) {
        if (strcmp(part, ".") == 0) {
            continue;
        }
        if (strcmp(part, "..") == 0) {
            return "its path has '..'";
        }
        if (out->count == MOST_PARTS) {
            return "its path has more than 64 parts";
        }
        if (out->domain < 0 && is_domain(part)) {
            out->domain = out->count;
        }
        out->parts[out->count++] = part;
    }
    if (out->domain == out->count - 1) {
        out->domain = -1; /* a file of that name */
    }
    return out->count < 2 ? "its path has no folder of a class" : NULL;
}

/* Parts first .. last, '/' between them, behind `front` (NULL: nothing). */
static char *join(const route *from, const char *front, int first) {
    char *text = cps_format("%s", front != NULL ? front : "");
    for (int i = first; i < from->count; i++) {
        char *longer = cps_format("%s%s%s", text, text[0] != '\0' ? "/" : "", from->parts[i]);
        free(text);
        text = longer;
    }
    return text;
}

/* The same folder by its other name; NULL: it has one. */
static const char *other_name(const char *domain) {
    return strcasecmp(domain, "Fish") == 0        ? "Fisheries"
           : strcasecmp(domain, "Fisheries") == 0 ? "Fish"
                                                  : NULL;
}

/* The path below `root`, malloc'ed. */
static char *find_file(const reading *from, const route *path) {
    const int class_folder = path->count - 2;
    const char *domain = path->domain < 0 ? NULL : path->parts[path->domain];
    const char *fronts[2] = {domain, domain == NULL ? NULL : other_name(domain)};
    char *tries[5];
    int count = 0;
    for (int shape = 0; shape < 2; shape++) {
        for (int i = 0; i < 2; i++) {
            if (fronts[i] != NULL && (shape == 0 || class_folder > path->domain)) {
                tries[count++] =
                    join(path, fronts[i], shape == 0 ? path->domain + 1 : class_folder);
            }
        }
    }
    tries[count++] = join(path, NULL, class_folder);
    int taken = 0;
    for (int i = 0; i < count; i++) {
        char *whole = cps_path_join(from->root, tries[i]);
        const bool there = cps_file_exists(whole);
        free(whole);
        if (there) {
            taken = i;
            break;
        }
    }
    for (int i = 0; i < count; i++) {
        if (i != taken) {
            free(tries[i]);
        }
    }
    return tries[taken];
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static void leave_out(reading *from, int64_t line, const char *reason) {
    if (from->facts.left_out++ < TOLD) {
        char *longer =
            cps_format("%s\n    line %lld: %s", from->facts.lines != NULL ? from->facts.lines : "",
                       (long long)line, reason);
        free(from->facts.lines);
        from->facts.lines = longer;
    }
}

static cps_status take_row(reading *from, int64_t line, char *text, bool repaired) {
    char *path = NULL, *caption = NULL;
    route parts;
    const char *reason = part_row(text, &path, &caption);
    reason = reason != NULL ? reason : part_path(path, &parts);
    if (reason != NULL) {
        leave_out(from, line, reason);
        return CPS_OK;
    }
    char *file = find_file(from, &parts);
    const char *const cells[COLUMNS] = {file, caption, parts.parts[parts.count - 2],
                                        parts.domain < 0 ? "" : parts.parts[parts.domain]};
    const cps_status status = add_row(from, line, cells);
    free(file);
    from->facts.rows += status == CPS_OK;
    from->facts.repaired += repaired;
    from->facts.strangers += parts.domain < 0;
    return status;
}

static cps_status take_header(reading *from, int64_t line, char *text) {
    char *path = NULL, *caption = NULL;
    char *shown = strndup(text, 60);
    const bool fits = part_row(text, &path, &caption) == NULL &&
                      strcasecmp(path, "filepath") == 0 &&
                      (strcasecmp(caption, "caption") == 0 || strcasecmp(caption, "title") == 0);
    const cps_status status =
        fits ? add_row(from, line, names)
             : cps_fail(CPS_ERR_USAGE,
                        "%s:%lld: it begins with '%s', AgriCLIP's caption file with "
                        "'filepath,caption': is it another table? (--format table)",
                        from->path, (long long)line, shown != NULL ? shown : "");
    free(shown);
    return status;
}

static cps_status take_line(reading *from, int64_t number, const char *line, size_t length) {
    const bool is_header = from->rows == 0;
    if (memchr(line, '\0', length) != NULL && !is_header) {
        leave_out(from, number, "it holds a zero byte");
        return CPS_OK;
    }
    bool repaired = false;
    char *text = decode(line, length, &repaired);
    if (text == NULL) {
        return fail_memory(from);
    }
    cps_status status = CPS_OK;
    if (text[strspn(text, " \t\r")] != '\0') {
        status =
            is_header ? take_header(from, number, text) : take_row(from, number, text, repaired);
    }
    free(text);
    return status;
}

static cps_status take_lines(reading *from, const char *text, size_t length) {
    size_t at = length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    for (int64_t number = 1; at < length; number++) {
        const char *end = memchr(text + at, '\n', length - at);
        const size_t next = end != NULL ? (size_t)(end - text) : length;
        CPS_TRY(take_line(from, number, text + at, next - at));
        at = next + 1;
    }
    if (from->rows == 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s is empty: AgriCLIP's caption file begins with "
                        "'filepath,caption'",
                        from->path);
    }
    if (from->facts.rows == 0) {
        return cps_fail(CPS_ERR_DATA, "%s: none of its rows is a picture with a caption:%s",
                        from->path, from->facts.lines != NULL ? from->facts.lines : " it has none");
    }
    return CPS_OK;
}

/* The pool stands still now. */
static cps_status make_table(reading *from, cps_table **table_out) {
    char **cells = malloc((size_t)(from->rows * COLUMNS) * sizeof *cells);
    if (cells == NULL) {
        return fail_memory(from);
    }
    for (int64_t i = 0; i < from->rows * COLUMNS; i++) {
        cells[i] = from->pool + from->cells[i];
    }
    CPS_TRY(cps_table_make(from->path, from->pool, COLUMNS, from->rows - 1, cells, from->lines,
                           table_out));
    from->pool = NULL;
    from->lines = NULL;
    return CPS_OK;
}

cps_status cps_table_read_agriclip(const char *path, const char *root, cps_table **table_out,
                                   cps_agriclip_facts *facts_out) {
    reading from = {.path = path, .root = root};
    char *text = NULL;
    size_t length = 0;
    CPS_TRY(cps_file_read(path, max_file_bytes, &text, &length));
    cps_status status = take_lines(&from, text, length);
    free(text);
    status = status != CPS_OK ? status : make_table(&from, table_out);
    free(from.pool);
    free(from.cells);
    free(from.lines);
    if (status != CPS_OK) {
        free(from.facts.lines);
        return status;
    }
    *facts_out = from.facts;
    return CPS_OK;
}
