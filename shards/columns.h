/* What a column of a table means, by its header. Tables of organisms name the same things in many
 * ways ("class", "cls"; "common_name", "vernacularName"); here is the one list of those names.
 * Headers are compared without case, blanks, '_', '-' and '.'. Local. */
#ifndef CPS_SHARDS_COLUMNS_H
#define CPS_SHARDS_COLUMNS_H

#include "shards/table.h"

/* The text field that a header stands for: one of the seven ranks, "subspecies", "common_name",
 * "scientific_name"; NULL: none of these. */
const char *cps_column_field(const char *header);

/* The column called `name`, else the only one called so but for case; -1: none, or several. */
int64_t cps_column_find(const cps_table *table, const char *name);
/* The column of image files: `name` if it is given, else "file", else the first of "filepath",
 * "file_path", "filename", "file_name" that is there; -1: none. */
int64_t cps_column_file(const cps_table *table, const char *name);
/* Which field each column stands for: field_of[column], borrowed, NULL for columns that are none
 * and for the `skip_count` columns of `skip`. USAGE: two columns stand for one field. */
cps_status cps_column_fields(const cps_table *table, const char *path, const int64_t *skip,
                             int64_t skip_count, const char **field_of) CPS_MUST_CHECK;

#endif
