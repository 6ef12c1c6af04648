/* Hold-out lists: lines, tables and JSON become names of species and files. */
#include "shards/holdout_internal.h"

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "shards/columns.h"
#include "shards/folder.h"
#include "shards/species.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const size_t max_list_bytes = (size_t)1 << 30;

typedef struct list {
    cps_holdout *holdout;
    const char *path;
    cps_holdout_by by;
    int64_t names; /* taken from it */
} list;

/* ---- lines ----------------------------------------------------------------------------------- */

static cps_status add(list *from, const char *text, const char *species, const char *file) {
    CPS_TRY(cps_holdout_add(from->holdout, from->path, text, species, file));
    from->names += 1;
    return CPS_OK;
}

/* A text that stands for a species, a file, or for either: `place` says where it stands. */
static cps_status take_name(list *from, const char *text, const char *place) {
    char *species = NULL;
    const bool is_path = strchr(text, '/') != NULL || cps_is_image_name(text);
    const bool one_word = strpbrk(text, " \t") == NULL;
    if (from->by != CPS_HOLDOUT_FILE && (!is_path || from->by == CPS_HOLDOUT_SPECIES)) {
        CPS_TRY(cps_species_of(text, &species));
    }
    const bool may_be_file =
        from->by == CPS_HOLDOUT_FILE || (from->by == CPS_HOLDOUT_BOTH && (is_path || one_word));
    cps_status status = CPS_OK;
    if (species == NULL && !may_be_file) {
        status = cps_fail(CPS_ERR_USAGE,
                          "hold-out list '%s', %s: '%s' is no species: \"Genus species\" or the "
                          "seven ranks are wanted",
                          from->path, place, text);
    } else {
        status = add(from, text, species, may_be_file ? text : NULL);
    }
    free(species);
    return status;
}

/* Without blanks around it, in place. */
static char *trim(char *text) {
    text += strspn(text, " \t\r\n");
    size_t length = strlen(text);
    while (length > 0 && strchr(" \t\r\n", text[length - 1]) != NULL) {
        text[--length] = '\0';
    }
    return text;
}

static cps_status read_lines(list *from) {
    char *text = NULL;
    size_t length = 0;
    CPS_TRY(cps_file_read(from->path, max_list_bytes, &text, &length));
    cps_status status = CPS_OK;
    if (!cps_utf8_is_valid(text, length) || memchr(text, '\0', length) != NULL) {
        status = cps_fail(CPS_ERR_DATA, "the hold-out list '%s' is not UTF-8 text: convert it",
                          from->path);
    }
    int64_t number = 1;
    char *at = strncmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text;
    while (status == CPS_OK && *at != '\0') {
        char *end = at + strcspn(at, "\n");
        char *next = *end != '\0' ? end + 1 : end;
        *end = '\0';
        at = trim(at);
        if (*at != '\0') {
            char *place = cps_format("line %lld", (long long)number);
            status = take_name(from, at, place);
            free(place);
        }
        at = next;
        number += 1;
    }
    free(text);
    return status;
}

/* ---- tables ---------------------------------------------------------------------------------- */

typedef struct columns {
    int64_t file, genus, species, scientific; /* -1: none */
} columns;

static cps_status find_columns(const list *from, const cps_table *table, columns *out) {
    const char **field = calloc((size_t)cps_table_columns(table), sizeof *field);
    if (field == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "%s: no memory for its columns", from->path);
    }
    *out = (columns){.file = cps_column_file(table, NULL), -1, -1, -1};
    /* What is called "class" beside "cls" is a label. */
    const int64_t label = cps_column_find(table, "cls") >= 0 ? cps_column_find(table, "class") : -1;
    const cps_status status = cps_column_fields(table, from->path, &label, 1, field);
    for (int64_t c = 0; status == CPS_OK && c < cps_table_columns(table); ++c) {
        const char *name = field[c] != NULL ? field[c] : "";
        out->genus = strcmp(name, "genus") == 0 ? c : out->genus;
        out->species = strcmp(name, "species") == 0 ? c : out->species;
        out->scientific = strcmp(name, "scientific_name") == 0 ? c : out->scientific;
    }
    free(field);
    CPS_TRY(status);
    out->file = from->by == CPS_HOLDOUT_SPECIES ? -1 : out->file;
    if (from->by == CPS_HOLDOUT_FILE) {
        out->species = out->scientific = -1;
    }
    if (out->file < 0 && out->species < 0 && out->scientific < 0) {
        char *names = cps_table_list_columns(table);
        const cps_status failed = cps_fail(
            CPS_ERR_USAGE, "hold-out list '%s': no column of %s; the columns are: %s", from->path,
            from->by == CPS_HOLDOUT_FILE      ? "files ('file')"
            : from->by == CPS_HOLDOUT_SPECIES ? "species ('genus' and 'species', or "
                                                "'scientific_name')"
                                              : "species ('genus' and 'species', or "
                                                "'scientific_name') or files ('file')",
            names);
        free(names);
        return failed;
    }
    return CPS_OK;
}

static const char *cell(const cps_table *table, int64_t row, int64_t column) {
    return column >= 0 ? cps_table_cell(table, row, column) : "";
}

static cps_status take_row(list *from, const cps_table *table, const columns *where, int64_t row) {
    const char *file = cell(table, row, where->file);
    const char *genus = cell(table, row, where->genus);
    const char *epithet = cell(table, row, where->species);
    const char *scientific = cell(table, row, where->scientific);
    char *species = NULL;
    cps_status status = CPS_OK;
    if (where->species >= 0) {
        status = cps_species_key(genus, epithet, &species);
    }
    if (status == CPS_OK && species == NULL && *scientific != '\0') {
        status = cps_species_of(scientific, &species);
    }
    if (status == CPS_OK && species == NULL && *file == '\0') {
        status =
            cps_fail(CPS_ERR_USAGE,
                     "hold-out list '%s', line %lld: this row names no %s (genus '%s', species "
                     "'%s')",
                     from->path, (long long)cps_table_line(table, row),
                     from->by == CPS_HOLDOUT_FILE      ? "file"
                     : from->by == CPS_HOLDOUT_SPECIES ? "species"
                                                       : "species and no file",
                     genus, epithet);
    }
    if (status == CPS_OK && species != NULL) {
        char *text = *epithet != '\0'
                         ? cps_format("%s%s%s", genus, *genus != '\0' ? " " : "", epithet)
                         : cps_format("%s", scientific);
        status = add(from, text, species, NULL);
        free(text);
    }
    if (status == CPS_OK && *file != '\0') {
        status = add(from, file, NULL, file);
    }
    free(species);
    return status;
}

static cps_status read_rows(list *from) {
    cps_table *table = NULL;
    columns where = {-1, -1, -1, -1};
    CPS_TRY(cps_fail_context(cps_table_read(from->path, &table), "hold-out list"));
    cps_status status = find_columns(from, table, &where);
    for (int64_t row = 0; status == CPS_OK && row < cps_table_rows(table); ++row) {
        status = take_row(from, table, &where, row);
    }
    cps_table_destroy(table);
    return status;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static cps_status fail_json(const list *from, const char *what) {
    return cps_fail(CPS_ERR_DATA,
                    "hold-out list '%s': %s; a list of names is wanted, or an object of species "
                    "with lists of their files",
                    from->path, what);
}

/* The files of one species, or of a list. */
static cps_status take_files(list *from, const cps_json *value) {
    const char *lone = cps_json_string(value);
    if (lone != NULL) {
        return add(from, lone, NULL, lone);
    }
    if (!cps_json_is_array(value)) {
        return fail_json(from, "what stands under a species is no list of files");
    }
    for (const cps_json *one = cps_json_first(value); one != NULL; one = cps_json_next(one)) {
        const char *file = cps_json_string(one);
        if (file == NULL || *file == '\0') {
            return fail_json(from, "a file of a species is no text, or empty");
        }
        CPS_TRY(add(from, file, NULL, file));
    }
    return CPS_OK;
}

static cps_status take_member(list *from, const cps_json *member) {
    const char *key = cps_json_key(member);
    if (from->by != CPS_HOLDOUT_FILE) {
        char *species = NULL;
        CPS_TRY(cps_species_of(key, &species));
        const cps_status status =
            species != NULL
                ? add(from, key, species, NULL)
                : cps_fail(CPS_ERR_USAGE,
                           "hold-out list '%s': its key '%s' is no species: \"Genus species\" or "
                           "the seven ranks are wanted",
                           from->path, key);
        free(species);
        CPS_TRY(status);
    }
    return from->by != CPS_HOLDOUT_SPECIES ? take_files(from, member) : CPS_OK;
}

static cps_status take_element(list *from, const cps_json *element, int64_t number) {
    const char *text = cps_json_string(element);
    if (text == NULL) {
        return fail_json(from, "an element is no text");
    }
    char *copy = cps_format("%s", text);
    char *place = cps_format("element %lld", (long long)number);
    const char *name = trim(copy);
    const cps_status status =
        *name != '\0' ? take_name(from, name, place) : fail_json(from, "an element is empty");
    free(place);
    free(copy);
    return status;
}

static cps_status read_json(list *from) {
    cps_json *root = NULL;
    CPS_TRY(
        cps_fail_context(cps_json_read_file(from->path, max_list_bytes, &root), "hold-out list"));
    const bool keyed = cps_json_is_object(root);
    cps_status status = keyed || cps_json_is_array(root)
                            ? CPS_OK
                            : fail_json(from, "it is neither list nor object");
    int64_t number = 1;
    for (const cps_json *one = cps_json_first(root); status == CPS_OK && one != NULL;
         one = cps_json_next(one)) {
        status = keyed ? take_member(from, one) : take_element(from, one, number);
        number += 1;
    }
    cps_json_destroy(root);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------- */

cps_status cps_holdout_read(cps_holdout *holdout, const char *path, cps_holdout_by by) {
    list from = {.holdout = holdout, .path = path, .by = by};
    const char *ending = cps_name_ending(path);
    if (!cps_file_exists(path)) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "there is no hold-out list '%s': check the path",
                        path);
    }
    if (strcasecmp(ending, "csv") == 0 || strcasecmp(ending, "tsv") == 0) {
        CPS_TRY(read_rows(&from));
    } else if (strcasecmp(ending, "json") == 0) {
        CPS_TRY(read_json(&from));
    } else {
        CPS_TRY(read_lines(&from));
    }
    if (from.names == 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "the hold-out list '%s' names nothing: it holds names of species or files",
                        path);
    }
    return CPS_OK;
}
