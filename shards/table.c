#include "shards/table.h"

#include "base/file.h"
#include "base/options.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

static const size_t max_table_bytes = (size_t)4 << 30;

enum { MAX_COLUMNS = 1024 };

struct cps_table {
    char *path;
    char *text; /* the file; cells are ended by NUL in place */
    int64_t columns, rows;
    char **cells;   /* [1 + rows, columns], the header first */
    int64_t *lines; /* [1 + rows] */
    int64_t room;   /* rows that cells and lines have memory for */
};

/* A place in the text while reading. */
typedef struct cursor {
    cps_table *table;
    char *at, *end;
    char separator;
    int64_t line;
} cursor;

typedef enum cell_end { AFTER_FIELD, AFTER_ROW, AFTER_TEXT } cell_end;

static cps_status fail_at(const cursor *from, int64_t line, const char *what) {
    return cps_fail(CPS_ERR_USAGE, "%s:%lld: %s", from->table->path, (long long)line, what);
}

/* What follows a field: a separator, a line end or the end of the text; moves behind it and writes
 * the NUL at `stop`. */
static cps_status close_field(cursor *from, char *stop, cell_end *end_out) {
    if (from->at == from->end) {
        *end_out = AFTER_TEXT;
    } else if (*from->at == from->separator) {
        from->at += 1;
        *end_out = AFTER_FIELD;
    } else {
        if (*from->at == '\r') {
            from->at += 1;
        }
        if (from->at < from->end && *from->at == '\n') {
            from->at += 1;
        }
        from->line += 1;
        *end_out = AFTER_ROW;
    }
    *stop = '\0'; /* last: `stop` may be the separator */
    return CPS_OK;
}

static bool is_field_end(const cursor *from) {
    return from->at == from->end || *from->at == from->separator || *from->at == '\n' ||
           *from->at == '\r';
}

/* Quoted: unescapes in place. */
static cps_status read_quoted(cursor *from, char **cell_out, cell_end *end_out) {
    const int64_t line = from->line;
    char *to = ++from->at;
    *cell_out = to;
    for (;; ++from->at) {
        if (from->at == from->end) {
            return fail_at(from, line,
                           "a quoted field begins here and never ends: close it with '\"'");
        }
        if (*from->at == '"') {
            from->at += 1;
            if (from->at == from->end || *from->at != '"') {
                break;
            }
        }
        from->line += *from->at == '\n';
        *to++ = *from->at;
    }
    if (!is_field_end(from)) {
        return fail_at(from, from->line,
                       "text follows the closing quote of a field: write a quote inside a quoted "
                       "field twice (\"\")");
    }
    return close_field(from, to, end_out);
}

static cps_status read_cell(cursor *from, char **cell_out, cell_end *end_out) {
    if (from->at < from->end && *from->at == '"') {
        return read_quoted(from, cell_out, end_out);
    }
    *cell_out = from->at;
    while (!is_field_end(from)) {
        from->at += 1;
    }
    return close_field(from, from->at, end_out);
}

static cps_status make_room(cps_table *table, int64_t columns) {
    if (table->rows + 1 < table->room) {
        return CPS_OK;
    }
    const int64_t room = table->room == 0 ? 256 : 2 * table->room;
    char **cells = realloc(table->cells, (size_t)room * (size_t)columns * sizeof *cells);
    if (cells != NULL) {
        table->cells = cells;
    }
    int64_t *lines = realloc(table->lines, (size_t)room * sizeof *lines);
    if (lines != NULL) {
        table->lines = lines;
    }
    if (cells == NULL || lines == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "%s: no memory for %lld rows", table->path,
                        (long long)room);
    }
    table->room = room;
    return CPS_OK;
}

static bool skip_blank_line(cursor *from) {
    if (from->at < from->end && (*from->at == '\n' || *from->at == '\r')) {
        from->at += *from->at == '\r' && from->at + 1 < from->end && from->at[1] == '\n' ? 2 : 1;
        from->line += 1;
        return true;
    }
    return false;
}

static cps_status check_header(const cursor *from) {
    const cps_table *table = from->table;
    for (int64_t i = 0; i < table->columns; ++i) {
        if (i > 0 && table->cells[i][0] == '\0') {
            return cps_fail(CPS_ERR_USAGE, "%s:%lld: column %lld of the header has no name",
                            table->path, (long long)table->lines[0], (long long)(i + 1));
        }
        for (int64_t k = 0; k < i; ++k) {
            if (strcmp(table->cells[i], table->cells[k]) == 0) {
                return cps_fail(CPS_ERR_USAGE,
                                "%s:%lld: the header names column '%s' twice (columns %lld and "
                                "%lld): rename or remove one",
                                table->path, (long long)table->lines[0], table->cells[i],
                                (long long)(k + 1), (long long)(i + 1));
            }
        }
    }
    return CPS_OK;
}

static cps_status read_header(cursor *from) {
    cps_table *table = from->table;
    char *names[MAX_COLUMNS];
    cell_end end = AFTER_FIELD;
    while (skip_blank_line(from)) {
    }
    if (from->at == from->end) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s is empty: a table begins with a header such as 'file,caption,label'",
                        table->path);
    }
    const int64_t line = from->line;
    while (end == AFTER_FIELD) {
        if (table->columns == MAX_COLUMNS) {
            return fail_at(from, line, "more than 1024 columns");
        }
        CPS_TRY(read_cell(from, &names[table->columns], &end));
        table->columns += 1;
    }
    CPS_TRY(make_room(table, table->columns));
    memcpy(table->cells, names, (size_t)table->columns * sizeof *names);
    table->lines[0] = line;
    return check_header(from);
}

static cps_status fail_fields(const cursor *from, int64_t line, int64_t seen) {
    return cps_fail(CPS_ERR_USAGE,
                    "%s:%lld: this row has %s%lld fields, the header has %lld: put fields that "
                    "contain '%s' in quotes",
                    from->table->path, (long long)line,
                    seen > from->table->columns ? "more than " : "",
                    (long long)(seen > from->table->columns ? from->table->columns : seen),
                    (long long)from->table->columns,
                    from->separator == '\t' ? "a tab" : (char[]){from->separator, '\0'});
}

static cps_status read_row(cursor *from) {
    cps_table *table = from->table;
    const int64_t line = from->line;
    cell_end end = AFTER_FIELD;
    CPS_TRY(make_room(table, table->columns));
    char **cells = table->cells + (table->rows + 1) * table->columns;
    int64_t seen = 0;
    for (; end == AFTER_FIELD; ++seen) {
        if (seen == table->columns) {
            return fail_fields(from, line, seen + 1);
        }
        CPS_TRY(read_cell(from, &cells[seen], &end));
    }
    if (seen != table->columns) {
        return fail_fields(from, line, seen);
    }
    table->rows += 1;
    table->lines[table->rows] = line;
    return CPS_OK;
}

/* The line of the first byte that is no UTF-8 or a zero byte; 0 if all is well. */
static int64_t first_bad_line(const char *text, size_t length) {
    int64_t line = 1;
    const char *start = text;
    const char *end = text + length;
    while (start < end) {
        const char *stop = memchr(start, '\n', (size_t)(end - start));
        const size_t bytes = (size_t)((stop != NULL ? stop : end) - start);
        if (!cps_utf8_is_valid(start, bytes) || memchr(start, '\0', bytes) != NULL) {
            return line;
        }
        line += 1;
        start += bytes + 1;
    }
    return 0;
}

static char choose_separator(const char *path, const char *text, const char *end) {
    const size_t length = strlen(path);
    if (length > 4 && strcmp(path + length - 4, ".tsv") == 0) {
        return '\t';
    }
    int64_t commas = 0;
    int64_t tabs = 0;
    int64_t semicolons = 0;
    for (bool quoted = false; text < end && (quoted || (*text != '\n' && *text != '\r')); ++text) {
        quoted ^= *text == '"';
        commas += !quoted && *text == ',';
        tabs += !quoted && *text == '\t';
        semicolons += !quoted && *text == ';';
    }
    if (tabs > commas && tabs >= semicolons) {
        return '\t';
    }
    return semicolons > commas ? ';' : ',';
}

static cps_status read_all(cps_table *table, size_t length) {
    cursor from = {.table = table, .at = table->text, .end = table->text + length, .line = 1};
    if (length >= 3 && memcmp(from.at, "\xef\xbb\xbf", 3) == 0) {
        from.at += 3;
    }
    const int64_t bad = first_bad_line(from.at, (size_t)(from.end - from.at));
    if (bad > 0) {
        return cps_fail(CPS_ERR_DATA,
                        "%s:%lld: not UTF-8; convert the table (for example: iconv -f latin1 -t "
                        "utf-8)",
                        table->path, (long long)bad);
    }
    from.separator = choose_separator(table->path, from.at, from.end);
    CPS_TRY(read_header(&from));
    while (from.at < from.end) {
        if (!skip_blank_line(&from)) {
            CPS_TRY(read_row(&from));
        }
    }
    return CPS_OK;
}

cps_status cps_table_read(const char *path, cps_table **table_out) {
    cps_table *table = calloc(1, sizeof *table);
    if (table == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "%s: no memory", path);
    }
    table->path = cps_format("%s", path);
    size_t length = 0;
    cps_status status = cps_file_read(path, max_table_bytes, &table->text, &length);
    if (status == CPS_OK) {
        status = read_all(table, length);
    }
    if (status != CPS_OK) {
        cps_table_destroy(table);
        return status;
    }
    *table_out = table;
    return CPS_OK;
}

cps_status cps_table_make(const char *path, char *text, int64_t columns, int64_t rows, char **cells,
                          int64_t *lines, cps_table **table_out) {
    cps_table *table = calloc(1, sizeof *table);
    if (table == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "%s: no memory", path);
    }
    *table = (cps_table){.path = cps_format("%s", path),
                         .text = text,
                         .columns = columns,
                         .rows = rows,
                         .cells = cells,
                         .lines = lines,
                         .room = rows + 1};
    *table_out = table;
    return CPS_OK;
}

void cps_table_destroy(cps_table *table) {
    if (table != NULL) {
        free(table->path);
        free(table->text);
        free(table->cells);
        free(table->lines);
        free(table);
    }
}

int64_t cps_table_columns(const cps_table *table) {
    return table->columns;
}

int64_t cps_table_rows(const cps_table *table) {
    return table->rows;
}

const char *cps_table_name(const cps_table *table, int64_t column) {
    return table->cells[column];
}

int64_t cps_table_column(const cps_table *table, const char *name) {
    for (int64_t i = 0; i < table->columns; ++i) {
        if (strcmp(table->cells[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

const char *cps_table_cell(const cps_table *table, int64_t row, int64_t column) {
    return table->cells[(row + 1) * table->columns + column];
}

int64_t cps_table_line(const cps_table *table, int64_t row) {
    return table->lines[row + 1];
}

char *cps_table_list_columns(const cps_table *table) {
    char *list = cps_format("%s", "");
    for (int64_t i = 0; i < table->columns; ++i) {
        const char *name = table->cells[i][0] != '\0' ? table->cells[i] : "(unnamed)";
        char *longer = cps_format("%s%s%s", list, i > 0 ? ", " : "", name);
        free(list);
        list = longer;
    }
    return list;
}

const char *cps_table_nearest(const cps_table *table, const char *name) {
    const char *names[MAX_COLUMNS + 1] = {NULL};
    for (int64_t i = 0; i < table->columns; ++i) {
        names[i] = table->cells[i];
    }
    return cps_nearest_name(name, names);
}
