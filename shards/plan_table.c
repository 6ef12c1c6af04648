/* Rows of a table become records: rows of one file are one record with several captions. */
#include "shards/plan.h"

#include "base/file.h"
#include "base/hash.h"
#include "shards/columns.h"
#include "shards/layout.h"
#include "shards/taxon.h"

#include <stdlib.h>
#include <string.h>

/* Which record a file of this table has: open addressing, keyed by the name. */
typedef struct file_map {
    int64_t *slots; /* record + 1, 0: free */
    uint64_t mask;
} file_map;

typedef struct reading {
    cps_plan *plan;
    const char *path;
    cps_table *table;
    int64_t folder; /* pool */
    int64_t file, caption, label;
    int32_t *field_of; /* by column; -1: not a text field */
    file_map files;
    int64_t *row_of_label; /* by record since `first_record`: where its label was said */
    int64_t first_record;
} reading;

static cps_status create_map(int64_t rows, file_map *map) {
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)rows) {
        slots *= 2;
    }
    map->slots = calloc(slots, sizeof *map->slots);
    map->mask = slots - 1;
    return map->slots != NULL ? CPS_OK
                              : cps_fail(CPS_ERR_UNAVAILABLE, "no memory for a table of %lld rows",
                                         (long long)rows);
}

/* The slot of `file`: that of its record, or a free one. */
static int64_t *find_slot(const reading *from, const char *file) {
    for (uint64_t i = cps_hash64_text(file) & from->files.mask;; i = (i + 1) & from->files.mask) {
        int64_t *slot = &from->files.slots[i];
        if (*slot == 0 ||
            strcmp(cps_plan_string(from->plan, cps_plan_record_at(from->plan, *slot - 1)->file),
                   file) == 0) {
            return slot;
        }
    }
}

/* ---- columns
 * ------------------------------------------------------------------------------------------------------
 */

static cps_status fail_column(const reading *from, const char *what, const char *name,
                              const char *option, const char *otherwise) {
    char *list = cps_table_list_columns(from->table);
    const char *near = cps_table_nearest(from->table, name);
    const cps_status status = cps_fail(
        CPS_ERR_USAGE,
        "%s: there is no %s column '%s'%s%s%s; the columns are: %s; rename it, or pack with %s%s",
        from->path, what, name, near != NULL ? " (did you mean '" : "", near != NULL ? near : "",
        near != NULL ? "'?)" : "", list, option, otherwise);
    free(list);
    return status;
}

/* Tables of organisms often come without captions: those are made of the ranks. */
static bool has_rank(const reading *from) {
    for (int64_t c = 0; c < cps_table_columns(from->table); ++c) {
        const char *field = cps_column_field(cps_table_name(from->table, c));
        if (c != from->file && c != from->label && field != NULL && cps_taxon_rank(field) >= 0) {
            return true;
        }
    }
    return false;
}

static cps_status find_columns(reading *from, const cps_plan_columns *columns) {
    const char *caption = columns->caption != NULL ? columns->caption : "caption";
    const char *label = columns->label != NULL ? columns->label : "label";
    from->file = cps_column_file(from->table, columns->file);
    from->caption = *caption != '\0' ? cps_column_find(from->table, caption) : -1;
    from->label = *label != '\0' ? cps_column_find(from->table, label) : -1;
    if (from->file < 0) {
        return fail_column(from, "file", columns->file != NULL ? columns->file : "file",
                           "--file-column NAME", "");
    }
    const bool misspelt = columns->caption != NULL || cps_table_nearest(from->table, caption);
    const bool optional = columns->caption_optional || has_rank(from);
    if (from->caption < 0 && *caption != '\0' && (misspelt || !optional)) {
        return fail_column(from, "caption", caption, "--caption-column NAME",
                           ", or say --caption-column '' when there are no captions");
    }
    if (from->label < 0 && columns->label != NULL && *label != '\0') {
        return fail_column(from, "label", label, "--label-column NAME", "");
    }
    return CPS_OK;
}

/* The text field of an ordinary column. */
static cps_status name_field(reading *from, int64_t column, const char *field) {
    const char *name = cps_table_name(from->table, column);
    if (strcmp(name, "file") == 0 || strcmp(name, "caption") == 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: column '%s' cannot be an ordinary text field beside the one that was "
                        "chosen in its place: rename it",
                        from->path, name);
    }
    if (!cps_shard_is_field_name(name)) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: column '%s' cannot be the name of a text field (1 to 255 bytes "
                        "without '/'): rename it",
                        from->path, name);
    }
    return cps_plan_add_field(from->plan, field != NULL ? field : name, &from->field_of[column]);
}

/* Every column but those of file, caption and label is a text field: under our name if it is one
 * of a taxonomy, else under its own. An index without a name is none. */
static cps_status name_fields(reading *from) {
    const int64_t taken[] = {from->file, from->caption, from->label};
    const char **field = calloc((size_t)cps_table_columns(from->table), sizeof *field);
    if (field == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "%s: no memory for its columns", from->path);
    }
    cps_status status = cps_column_fields(from->table, from->path, taken, 3, field);
    for (int64_t c = 0; status == CPS_OK && c < cps_table_columns(from->table); ++c) {
        from->field_of[c] = c == from->caption ? CPS_PLAN_CAPTION : -1;
        if (c != from->file && c != from->caption && c != from->label &&
            cps_table_name(from->table, c)[0] != '\0') {
            status = name_field(from, c, field[c]);
        }
    }
    free(field);
    return status;
}

/* ---- rows
 * ---------------------------------------------------------------------------------------------------------
 */

static cps_status find_record(reading *from, int64_t row, int64_t *record_out) {
    const char *file = cps_table_cell(from->table, row, from->file);
    while (strncmp(file, "./", 2) == 0) {
        file += 2;
    }
    if (*file == '\0') {
        return cps_fail(CPS_ERR_USAGE, "%s:%lld: this row names no file", from->path,
                        (long long)cps_table_line(from->table, row));
    }
    int64_t *slot = find_slot(from, file);
    if (*slot == 0) {
        CPS_TRY(cps_plan_add_record(from->plan, from->folder, file, record_out));
        from->row_of_label[*record_out - from->first_record] = -1;
        *slot = *record_out + 1;
    }
    *record_out = *slot - 1;
    return CPS_OK;
}

/* The cell without blanks around it, malloc'ed. */
static char *trimmed(const char *cell) {
    cell += strspn(cell, " \t\r\n");
    char *copy = cps_format("%s", cell);
    size_t length = strlen(copy);
    while (length > 0 && strchr(" \t\r\n", copy[length - 1]) != NULL) {
        copy[--length] = '\0';
    }
    return copy;
}

static cps_status set_label(reading *from, int64_t row, int64_t number, const char *label) {
    int64_t *said = &from->row_of_label[number - from->first_record];
    if (*label == '\0') {
        return CPS_OK;
    }
    if (*said < 0) {
        int64_t at = 0;
        CPS_TRY(cps_plan_intern(from->plan, label, &at));
        cps_plan_record_at(from->plan, number)->label_name = at;
        *said = row;
        return CPS_OK;
    }
    const cps_plan_record *record = cps_plan_record_at(from->plan, number);
    const char *known = cps_plan_string(from->plan, record->label_name);
    if (strcmp(known, label) != 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s:%lld: '%s' has label '%s' here and '%s' in line %lld: an image has one "
                        "label",
                        from->path, (long long)cps_table_line(from->table, row),
                        cps_plan_string(from->plan, record->file), label, known,
                        (long long)cps_table_line(from->table, *said));
    }
    return CPS_OK;
}

static cps_status add_row(reading *from, int64_t row) {
    int64_t record = 0;
    CPS_TRY(find_record(from, row, &record));
    if (from->label >= 0) {
        char *label = trimmed(cps_table_cell(from->table, row, from->label));
        const cps_status status = set_label(from, row, record, label);
        free(label);
        CPS_TRY(status);
    }
    for (int64_t c = 0; c < cps_table_columns(from->table); ++c) {
        if (from->field_of[c] >= 0) {
            CPS_TRY(cps_plan_add_text(from->plan, record, from->field_of[c],
                                      cps_table_cell(from->table, row, c)));
        }
    }
    return CPS_OK;
}

static cps_status add_rows(reading *from, const cps_plan_columns *columns) {
    const int64_t rows = cps_table_rows(from->table);
    if (rows == 0) {
        return cps_fail(CPS_ERR_USAGE, "%s has a header but no rows: nothing to pack", from->path);
    }
    CPS_TRY(find_columns(from, columns));
    CPS_TRY(create_map(rows, &from->files));
    from->field_of = malloc((size_t)cps_table_columns(from->table) * sizeof *from->field_of);
    from->row_of_label = malloc((size_t)rows * sizeof *from->row_of_label);
    if (from->field_of == NULL || from->row_of_label == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for a table of %lld rows", (long long)rows);
    }
    CPS_TRY(name_fields(from));
    from->first_record = from->plan->records.count;
    for (int64_t row = 0; row < rows; ++row) {
        CPS_TRY(add_row(from, row));
    }
    return CPS_OK;
}

static cps_status read_agriclip(const char *path, const char *root, cps_table **table_out,
                                cps_agriclip_facts *facts) {
    cps_agriclip_facts own;
    CPS_TRY(cps_table_read_agriclip(path, root, table_out, &own));
    facts->rows += own.rows;
    facts->repaired += own.repaired;
    facts->strangers += own.strangers;
    facts->left_out += own.left_out;
    if (own.lines != NULL) {
        free(facts->lines);
        facts->lines = own.lines;
    }
    return CPS_OK;
}

cps_status cps_plan_add_table(cps_plan *plan, const char *path, const cps_plan_columns *columns,
                              cps_agriclip_facts *facts_out) {
    static const cps_plan_columns agriclip = {
        .file = "file", .caption = "caption", .label = "label"};
    reading from = {.plan = plan, .path = path};
    char *folder = columns->root != NULL ? cps_format("%s", columns->root) : cps_path_folder(path);
    cps_status status = columns->agriclip ? read_agriclip(path, folder, &from.table, facts_out)
                                          : cps_table_read(path, &from.table);
    status = status != CPS_OK ? status : cps_plan_intern(plan, folder, &from.folder);
    if (status == CPS_OK) {
        status = add_rows(&from, columns->agriclip ? &agriclip : columns);
    }
    free(folder);
    free(from.row_of_label);
    free(from.field_of);
    free(from.files.slots);
    cps_table_destroy(from.table);
    return status;
}
