/* Comma- or tab-separated tables with a header, as RFC 4180 writes them: quoted fields, doubled
 * quotes, line breaks inside quotes, CRLF or LF; a byte order mark is skipped. The separator is the
 * tab for .tsv, else whichever of comma, tab and semicolon is most frequent in the header.
 * The first column may be without a name, as an index is that pandas writes. Everything is UTF-8
 * and kept in memory. Local. */
#ifndef CPS_SHARDS_TABLE_H
#define CPS_SHARDS_TABLE_H

#include "base/status.h"

typedef struct cps_table cps_table;

/* USAGE with the line number: no header, a repeated column name or, but for the first column, an
 * empty one, a row with another number
 * of fields, an open quote; DATA: not UTF-8; UNAVAILABLE: no such file. */
cps_status cps_table_read(const char *path, cps_table **table_out) CPS_MUST_CHECK;
/* A table that another reader made: cells [1 + rows, columns], the header first, and lines [1 +
 * rows] are taken over together with `text`, which cells point into; on failure they stay the
 * caller's. UNAVAILABLE: memory. */
cps_status cps_table_make(const char *path, char *text, int64_t columns, int64_t rows, char **cells,
                          int64_t *lines, cps_table **table_out) CPS_MUST_CHECK;
void cps_table_destroy(cps_table *table); /* NULL-safe */
int64_t cps_table_columns(const cps_table *table);
int64_t cps_table_rows(const cps_table *table);
const char *cps_table_name(const cps_table *table, int64_t column);
int64_t cps_table_column(const cps_table *table, const char *name); /* -1: none */
const char *cps_table_cell(const cps_table *table, int64_t row, int64_t column);
int64_t cps_table_line(const cps_table *table, int64_t row); /* where the row begins, from 1 */
/* "file, caption, label": the column names, for messages; malloc'ed. */
char *cps_table_list_columns(const cps_table *table);
/* The column nearest in spelling to `name`, or NULL. */
const char *cps_table_nearest(const cps_table *table, const char *name);

#endif
