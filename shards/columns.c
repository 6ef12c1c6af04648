#include "shards/columns.h"

#include <string.h>
#include <strings.h>

enum { LONGEST = 64 };

/* Squeezed header -> field. Sources: the columns of TreeOfLife's catalogue and of BioCLIP's
 * evaluation tables (class and cls; common, common_name), Darwin Core terms (vernacularName,
 * scientificName, specificEpithet, infraspecificEpithet), pybioclip's output (species_epithet). */
static const struct alias {
    const char *header, *field;
} aliases[] = {
    {"kingdom", "kingdom"},
    {"phylum", "phylum"},
    {"class", "class"},
    {"cls", "class"},
    {"order", "order"},
    {"family", "family"},
    {"genus", "genus"},
    {"species", "species"},
    {"speciesepithet", "species"},
    {"specificepithet", "species"},
    {"subspecies", "subspecies"},
    {"infraspecificepithet", "subspecies"},
    {"commonname", "common_name"},
    {"common", "common_name"},
    {"vernacularname", "common_name"},
    {"vernacular", "common_name"},
    {"scientificname", "scientific_name"},
    {"sciname", "scientific_name"},
};

/* Lower-case ASCII without what people put between words; "" where it is too long to be ours. */
static void squeeze(const char *header, char out[LONGEST]) {
    size_t length = 0;
    for (; *header != '\0'; ++header) {
        if (strchr(" \t_-.", *header) == NULL) {
            if (length == LONGEST - 1) {
                out[0] = '\0';
                return;
            }
            out[length++] = (char)(*header >= 'A' && *header <= 'Z' ? *header + 32 : *header);
        }
    }
    out[length] = '\0';
}

const char *cps_column_field(const char *header) {
    char name[LONGEST];
    squeeze(header, name);
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; ++i) {
        if (strcmp(aliases[i].header, name) == 0) {
            return aliases[i].field;
        }
    }
    return NULL;
}

int64_t cps_column_find(const cps_table *table, const char *name) {
    const int64_t exact = cps_table_column(table, name);
    if (exact >= 0) {
        return exact;
    }
    int64_t found = -1;
    for (int64_t c = 0; c < cps_table_columns(table); ++c) {
        if (strcasecmp(cps_table_name(table, c), name) == 0) {
            if (found >= 0) {
                return -1;
            }
            found = c;
        }
    }
    return found;
}

int64_t cps_column_file(const cps_table *table, const char *name) {
    static const char *const names[] = {"file", "filepath", "file_path", "filename", "file_name"};
    if (name != NULL) {
        return cps_column_find(table, name);
    }
    int64_t column = -1;
    for (size_t i = 0; column < 0 && i < sizeof names / sizeof names[0]; ++i) {
        column = cps_column_find(table, names[i]);
    }
    return column;
}

static cps_status fail_twice(const cps_table *table, const char *path, int64_t first,
                             int64_t second, const char *field) {
    const bool may_be_label = strcmp(field, "class") == 0;
    return cps_fail(CPS_ERR_USAGE,
                    "%s: columns '%s' and '%s' both stand for '%s': rename or remove one%s%s", path,
                    cps_table_name(table, first), cps_table_name(table, second), field,
                    may_be_label ? ", or, if it is the label, say --label-column " : "",
                    may_be_label ? cps_table_name(table, second) : "");
}

cps_status cps_column_fields(const cps_table *table, const char *path, const int64_t *skip,
                             int64_t skip_count, const char **field_of) {
    for (int64_t c = 0; c < cps_table_columns(table); ++c) {
        field_of[c] = cps_column_field(cps_table_name(table, c));
        for (int64_t i = 0; i < skip_count; ++i) {
            field_of[c] = skip[i] == c ? NULL : field_of[c];
        }
        for (int64_t k = 0; field_of[c] != NULL && k < c; ++k) {
            if (field_of[k] != NULL && strcmp(field_of[k], field_of[c]) == 0) {
                return fail_twice(table, path, k, c, field_of[c]);
            }
        }
    }
    return CPS_OK;
}
