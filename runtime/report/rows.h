/* Results as rows of a table, written while they come: CSV (RFC 4180, lines end with LF), JSON (a
 * list of objects), or columns for people. To a file, which appears whole under its name or not at
 * all, or to a stream. Local. */
#ifndef CPS_REPORT_ROWS_H
#define CPS_REPORT_ROWS_H

#include <stdio.h>

#include "base/status.h"

typedef enum cps_rows_format { CPS_ROWS_CSV, CPS_ROWS_JSON, CPS_ROWS_TABLE } cps_rows_format;
extern const char *const cps_rows_formats[]; /* "csv", "json", "table", NULL */

typedef struct cps_rows_column {
    const char *name;
    bool number; /* cells are numbers as text: no quotes in JSON, to the right in a table */
} cps_rows_column;

typedef struct cps_rows cps_rows;

/* path NULL: `stream`, which stays open. Columns are copied, names borrowed. IO, UNAVAILABLE. */
cps_status cps_rows_create(const char *path, FILE *stream, cps_rows_format format,
                           const cps_rows_column *columns, int32_t column_count,
                           cps_rows **rows_out) CPS_MUST_CHECK;
/* Cells: UTF-8 [column_count]. IO: disk full, closed pipe. */
cps_status cps_rows_add(cps_rows *rows, const char *const *cells) CPS_MUST_CHECK;
/* What was added so far reaches the stream. A table fits its columns to what comes before the first
 * flush. */
cps_status cps_rows_flush(cps_rows *rows) CPS_MUST_CHECK;
/* The end; publishes a file. Frees the rows in any case. */
cps_status cps_rows_finish(cps_rows *rows) CPS_MUST_CHECK;
/* No file appears. NULL-safe. */
void cps_rows_abandon(cps_rows *rows);

/* One text as a JSON string with its quotes. */
void cps_rows_put_json(FILE *stream, const char *text);

#endif
