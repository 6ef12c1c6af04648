/* The caption file that AgriCLIP's authors share (Nawaz et al. 2025), as a table: columns file,
 * caption, label, domain. It is no CSV that a strict reader takes: a header `filepath,caption`,
 * then a picture and its caption a line, in Latin-1 or UTF-8, with whole rows in quotes, inner
 * quotes doubled, stray commas at the end and commas inside captions; paths are those of the
 * authors' machine.
 *
 * A row: commas and blanks at its end go, then a quote around the whole, then such commas again;
 * the first comma parts path and caption; quotes around either go, several in a row are one. A line
 * that is no UTF-8 is Latin-1 (Windows-1252 where that has signs of its own); one that is UTF-8
 * read as such and written again is put right. A row that has no path, caption or comma then, a
 * zero byte or ".." in its path is left out and told of.
 *
 * A path leads from the folder of its domain (Crops, Fish or Fisheries, Livestock: the first part
 * of that name, in any case) to the folder of its class and the picture. Below `root` the first of
 * these that is there is taken: all from the domain on; domain, class and picture; class and
 * picture; with either name of the fish. Without any, the first of them, which packing misses. The
 * label is the class folder's name. Local. */
#ifndef CPS_SHARDS_TABLE_AGRICLIP_H
#define CPS_SHARDS_TABLE_AGRICLIP_H

#include "shards/table.h"

typedef struct cps_agriclip_facts {
    int64_t rows;      /* usable ones */
    int64_t repaired;  /* of these: not UTF-8, or UTF-8 read as Latin-1 */
    int64_t strangers; /* of these: without the folder of a domain */
    int64_t left_out;
    char *lines; /* the first ten that are left out, "\n    line N: reason"; NULL: none */
} cps_agriclip_facts;

/* USAGE: another header; DATA: no usable row, naming lines; UNAVAILABLE: no such file, memory. On
 * success the caller frees facts_out->lines. */
cps_status cps_table_read_agriclip(const char *path, const char *root, cps_table **table_out,
                                   cps_agriclip_facts *facts_out) CPS_MUST_CHECK;

#endif
