#include "report/rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/numeric.h"
#include "base/text.h"

enum { WAITING_ROWS = 1000, WIDEST = 80 };

const char *const cps_rows_formats[] = {"csv", "json", "table", NULL};

struct cps_rows {
    FILE *stream;
    char *path, *temporary; /* NULL: to a stream of the caller's */
    cps_rows_format format;
    cps_rows_column *columns;
    int32_t column_count;
    int error;       /* errno of the first failure; 0: none */
    int64_t written; /* rows, beside the header */
    bool begun;      /* table: the header is out */
    int32_t *widths; /* table: [column_count] in code points */
    char ***waiting; /* table: [waiting_count] rows of malloc'ed cells */
    int64_t waiting_count;
};

static cps_status fail_write(cps_rows *rows) {
    rows->error = rows->error != 0 ? rows->error : errno;
    return cps_fail(CPS_ERR_IO, "%s cannot be written: %s",
                    rows->path != NULL ? rows->path : "standard output", strerror(rows->error));
}

static cps_status check_stream(cps_rows *rows) {
    return ferror(rows->stream) != 0 ? fail_write(rows) : CPS_OK;
}

/* ---- formats ---- */

static void put_csv(FILE *stream, const char *text) {
    const bool quoted = strpbrk(text, ",\"\r\n") != NULL;
    if (!quoted) {
        fputs(text, stream);
        return;
    }
    fputc('"', stream);
    for (; *text != '\0'; text++) {
        if (*text == '"') {
            fputc('"', stream);
        }
        fputc(*text, stream);
    }
    fputc('"', stream);
}

void cps_rows_put_json(FILE *stream, const char *text) {
    fputc('"', stream);
    for (; *text != '\0'; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            fputc('\\', stream);
            fputc(c, stream);
        } else if (c < ' ') {
            fprintf(stream, "\\u%04x", (unsigned int)c);
        } else {
            fputc(c, stream);
        }
    }
    fputc('"', stream);
}

static void put_csv_row(const cps_rows *rows, const char *const *cells) {
    for (int32_t i = 0; i < rows->column_count; i++) {
        if (i > 0) {
            fputc(',', rows->stream);
        }
        put_csv(rows->stream, cells != NULL ? cells[i] : rows->columns[i].name);
    }
    fputc('\n', rows->stream);
}

static void put_json_row(const cps_rows *rows, const char *const *cells) {
    fputs(rows->written > 0 ? ",\n{" : "\n{", rows->stream);
    for (int32_t i = 0; i < rows->column_count; i++) {
        fputs(i > 0 ? ", " : "", rows->stream);
        cps_rows_put_json(rows->stream, rows->columns[i].name);
        fputs(": ", rows->stream);
        if (rows->columns[i].number) {
            fputs(cells[i], rows->stream);
        } else {
            cps_rows_put_json(rows->stream, cells[i]);
        }
    }
    fputc('}', rows->stream);
}

/* ---- tables ---- */

static int32_t width_of(const char *text) {
    const size_t length = strlen(text);
    int32_t width = 0;
    for (size_t at = 0; at < length; width++) {
        cps_utf8_next(text, length, &at);
    }
    return width;
}

static void widen(cps_rows *rows, int32_t column, const char *text) {
    const int32_t width = width_of(text);
    if (width > rows->widths[column]) {
        rows->widths[column] = width < WIDEST ? width : WIDEST;
    }
}

/* Two blanks between columns; a cell that is too wide pushes the rest of its line. */
static void put_table_row(const cps_rows *rows, char *const *cells) {
    for (int32_t i = 0; i < rows->column_count; i++) {
        const char *text = cells != NULL ? cells[i] : rows->columns[i].name;
        const int32_t left = rows->widths[i] - width_of(text);
        const int blanks = left > 0 ? (int)left : 0;
        const bool last = i + 1 == rows->column_count;
        if (rows->columns[i].number) {
            fprintf(rows->stream, "%*s%s", blanks, "", text);
        } else {
            fprintf(rows->stream, "%s%*s", text, last ? 0 : blanks, "");
        }
        fputs(last ? "\n" : "  ", rows->stream);
    }
}

static void free_waiting(cps_rows *rows) {
    for (int64_t r = 0; r < rows->waiting_count; r++) {
        cps_strings_destroy(rows->waiting[r], rows->column_count);
    }
    rows->waiting_count = 0;
}

static void put_waiting(cps_rows *rows) {
    if (!rows->begun) {
        put_table_row(rows, NULL);
        rows->begun = true;
    }
    for (int64_t r = 0; r < rows->waiting_count; r++) {
        put_table_row(rows, rows->waiting[r]);
    }
    free_waiting(rows);
}

static cps_status keep_row(cps_rows *rows, const char *const *cells) {
    char **copy = calloc((size_t)rows->column_count, sizeof *copy);
    if (copy == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for rows of results");
    }
    for (int32_t i = 0; i < rows->column_count; i++) {
        copy[i] = cps_format("%s", cells[i]);
        if (!rows->begun) {
            widen(rows, i, cells[i]);
        }
    }
    rows->waiting[rows->waiting_count++] = copy;
    if (rows->waiting_count == WAITING_ROWS) {
        put_waiting(rows);
    }
    return CPS_OK;
}

/* ---- course ---- */

static cps_status allocate(cps_rows *rows, const cps_rows_column *columns) {
    rows->columns = calloc((size_t)rows->column_count, sizeof *rows->columns);
    rows->widths = calloc((size_t)rows->column_count, sizeof *rows->widths);
    rows->waiting = calloc(WAITING_ROWS, sizeof *rows->waiting);
    if (rows->columns == NULL || rows->widths == NULL || rows->waiting == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for rows of results");
    }
    for (int32_t i = 0; i < rows->column_count; i++) {
        rows->columns[i] = columns[i];
        widen(rows, i, columns[i].name);
    }
    return CPS_OK;
}

static cps_status open_stream(cps_rows *rows, const char *path) {
    rows->path = cps_format("%s", path);
    rows->temporary = cps_file_temporary_name(path);
    rows->stream = fopen(rows->temporary, "wb");
    if (rows->stream == NULL) {
        const cps_status status = fail_write(rows);
        free(rows->temporary);
        rows->temporary = NULL;
        return status;
    }
    return CPS_OK;
}

cps_status cps_rows_create(const char *path, FILE *stream, cps_rows_format format,
                           const cps_rows_column *columns, int32_t column_count,
                           cps_rows **rows_out) {
    cps_rows *rows = calloc(1, sizeof *rows);
    if (rows == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for rows of results");
    }
    *rows = (cps_rows){.stream = stream, .format = format, .column_count = column_count};
    cps_status status = allocate(rows, columns);
    if (status == CPS_OK && path != NULL) {
        rows->stream = NULL;
        status = open_stream(rows, path);
    }
    if (status != CPS_OK) {
        cps_rows_abandon(rows);
        return status;
    }
    if (format == CPS_ROWS_CSV) {
        put_csv_row(rows, NULL);
    } else if (format == CPS_ROWS_JSON) {
        fputc('[', rows->stream);
    }
    *rows_out = rows;
    return CPS_OK;
}

cps_status cps_rows_add(cps_rows *rows, const char *const *cells) {
    if (rows->format == CPS_ROWS_TABLE) {
        CPS_TRY(keep_row(rows, cells));
    } else if (rows->format == CPS_ROWS_CSV) {
        put_csv_row(rows, cells);
    } else {
        put_json_row(rows, cells);
    }
    rows->written++;
    return check_stream(rows);
}

cps_status cps_rows_flush(cps_rows *rows) {
    if (rows->format == CPS_ROWS_TABLE) {
        put_waiting(rows);
    }
    return fflush(rows->stream) != 0 ? fail_write(rows) : check_stream(rows);
}

cps_status cps_rows_finish(cps_rows *rows) {
    if (rows->format == CPS_ROWS_JSON) {
        fputs(rows->written > 0 ? "\n]\n" : "]\n", rows->stream);
    }
    cps_status status = cps_rows_flush(rows);
    if (rows->temporary != NULL) {
        if (fclose(rows->stream) != 0 && status == CPS_OK) {
            status = fail_write(rows);
        }
        rows->stream = NULL;
        if (status == CPS_OK) {
            status = cps_file_publish(rows->temporary, rows->path);
            free(rows->temporary);
            rows->temporary = NULL;
        }
    }
    cps_rows_abandon(rows);
    return status;
}

void cps_rows_abandon(cps_rows *rows) {
    if (rows == NULL) {
        return;
    }
    if (rows->temporary != NULL) {
        if (rows->stream != NULL) {
            fclose(rows->stream);
        }
        unlink(rows->temporary);
    }
    if (rows->waiting != NULL) {
        free_waiting(rows);
    }
    free(rows->waiting);
    free(rows->widths);
    free(rows->columns);
    free(rows->temporary);
    free(rows->path);
    free(rows);
}
