#include "eval/choices.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "shards/table.h"

enum { SHOWN = 10 };

/* Names for a message: the first ten, then dots. */
typedef struct name_list {
    char *text;
    int64_t count;
} name_list;

static void mention(name_list *list, const char *name) {
    if (list->count++ < SHOWN) {
        char *longer = cps_format("%s%s'%s'", list->text != NULL ? list->text : "",
                                  list->count > 1 ? ", " : "", name);
        free(list->text);
        list->text = longer;
    }
}

static const char *rest_of(const name_list *list) {
    return list->count > SHOWN ? ", ..." : "";
}

/* ---- bins ---- */

void cps_bins_init(cps_bins *bins_out) {
    *bins_out = (cps_bins){.classes = 0};
    cps_class_names_init(&bins_out->names, false);
}

void cps_bins_free(cps_bins *bins) {
    cps_class_names_free(&bins->names);
    cps_class_groups_free(&bins->groups);
    *bins = (cps_bins){.classes = 0};
}

static cps_status make_room(cps_bins *bins) {
    if (bins->classes < bins->room) {
        return CPS_OK;
    }
    const int64_t room = 2 * bins->room + 64;
    int32_t *of = realloc(bins->groups.of, (size_t)room * sizeof *of);
    if (of != NULL) {
        bins->groups.of = of;
    }
    int64_t *first = realloc(bins->groups.first, (size_t)room * sizeof *first);
    if (first != NULL) {
        bins->groups.first = first;
    }
    if (of == NULL || first == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld bins", (long long)room);
    }
    bins->room = room;
    return CPS_OK;
}

cps_status cps_bins_add(cps_bins *bins, const char *bin) {
    CPS_TRY(make_room(bins));
    int64_t found = cps_class_names_find(&bins->names, bin);
    if (found < 0) {
        CPS_TRY(cps_class_names_add(&bins->names, &bin));
        found = bins->groups.count++;
        bins->groups.first[found] = bins->classes;
    }
    bins->groups.of[bins->classes++] = (int32_t)found;
    return CPS_OK;
}

/* The table's classes and, by their number, its rows. */
static cps_status read_lines(const cps_table *table, const char *path, cps_class_names *classes) {
    for (int64_t row = 0; row < cps_table_rows(table); row++) {
        char *where = cps_format("%s:%lld", path, (long long)cps_table_line(table, row));
        cps_status status =
            cps_class_names_add_label(classes, cps_table_cell(table, row, 0), where);
        const char *bin = cps_table_cell(table, row, 1);
        if (status == CPS_OK && bin[strspn(bin, " \t")] == '\0') {
            status = cps_fail(CPS_ERR_USAGE, "%s: the bin of '%s' is blank: name it", where,
                              cps_class_name(classes, row, 0));
        }
        free(where);
        CPS_TRY(status);
    }
    return CPS_OK;
}

/* Bins of `labels`, found in the table's classes. */
static cps_status assign(const cps_table *table, const char *path, const cps_class_names *classes,
                         const cps_class_names *labels, cps_bins *bins) {
    name_list missing = {NULL, 0};
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < labels->count && status == CPS_OK; i++) {
        const int64_t row = cps_class_names_find(classes, cps_class_name(labels, i, 0));
        if (row < 0) {
            mention(&missing, cps_class_name(labels, i, 0));
        } else {
            status = cps_bins_add(bins, cps_table_cell(table, row, 1));
        }
    }
    if (status == CPS_OK && missing.count > 0) {
        status = cps_fail(CPS_ERR_USAGE, "%s: %lld labels have no line that says their bin: %s%s",
                          path, (long long)missing.count, missing.text, rest_of(&missing));
    }
    free(missing.text);
    return status;
}

static cps_status read_bins(const cps_table *table, const char *path, cps_class_names *labels,
                            cps_bins *bins) {
    if (cps_table_columns(table) != 2) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s has %lld columns, two are wanted: class and bin, below a header", path,
                        (long long)cps_table_columns(table));
    }
    cps_class_names classes;
    cps_class_names_init(&classes, false);
    cps_status status = read_lines(table, path, &classes);
    if (status == CPS_OK && classes.count == 0) {
        status = cps_fail(CPS_ERR_USAGE, "%s holds no class", path);
    }
    const bool of_table = labels->count == 0;
    if (status == CPS_OK) {
        status = assign(table, path, &classes, of_table ? &classes : labels, bins);
    }
    if (status == CPS_OK && of_table) {
        cps_class_names_free(labels);
        *labels = classes;
        return CPS_OK;
    }
    cps_class_names_free(&classes);
    return status;
}

cps_status cps_bins_read(const char *path, cps_class_names *labels, cps_bins *bins_out) {
    cps_table *table = NULL;
    cps_bins bins;
    cps_bins_init(&bins);
    CPS_TRY(cps_table_read(path, &table));
    const cps_status status = read_bins(table, path, labels, &bins);
    cps_table_destroy(table);
    if (status != CPS_OK) {
        cps_bins_free(&bins);
        return status;
    }
    *bins_out = bins;
    return CPS_OK;
}

/* ---- subsets ---- */

/* What a taxon says at a rank; *owned_out is freed by the caller. */
static const char *value_at(const cps_class_names *names, int64_t index, int32_t rank,
                            char **owned_out) {
    *owned_out = rank == CPS_TAXON_SPECIES ? cps_class_short_name(names, index) : NULL;
    return *owned_out != NULL ? *owned_out : cps_class_name(names, index, rank);
}

static cps_status fail_unknown(const char *path, const char *rank, const cps_class_names *values,
                               const bool *seen) {
    name_list unknown = {NULL, 0};
    for (int64_t i = 0; i < values->count; i++) {
        if (!seen[i]) {
            mention(&unknown, cps_class_name(values, i, 0));
        }
    }
    const cps_status status =
        unknown.count == 0
            ? CPS_OK
            : cps_fail(CPS_ERR_USAGE, "%s: no taxon of the classifier has this %s: %s%s", path,
                       rank, unknown.text, rest_of(&unknown));
    free(unknown.text);
    return status;
}

/* chosen [names->count], seen [values->count]. */
static cps_status choose(const char *path, const cps_class_names *names, int32_t rank,
                         const cps_class_names *values, int64_t *chosen, bool *seen,
                         int64_t *count_out) {
    int64_t count = 0;
    for (int64_t i = 0; i < names->count; i++) {
        char *owned = NULL;
        const int64_t found = cps_class_names_find(values, value_at(names, i, rank, &owned));
        free(owned);
        if (found >= 0) {
            seen[found] = true;
            chosen[count++] = i;
        }
    }
    *count_out = count;
    return fail_unknown(path, cps_taxon_rank_names[rank], values, seen);
}

/* Values of the first column, each once. */
static cps_status read_values(const cps_table *table, const char *path, int32_t *rank_out,
                              cps_class_names *values) {
    *rank_out = cps_taxon_rank(cps_table_name(table, 0));
    if (*rank_out < 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: its first header is '%s', the name of a rank is wanted: kingdom, "
                        "phylum, class, order, family, genus or species",
                        path, cps_table_name(table, 0));
    }
    for (int64_t row = 0; row < cps_table_rows(table); row++) {
        const char *value = cps_table_cell(table, row, 0);
        if (cps_class_names_find(values, value) < 0) {
            CPS_TRY(cps_class_names_add(values, &value));
        }
    }
    return values->count > 0
               ? CPS_OK
               : cps_fail(CPS_ERR_USAGE, "%s lists no %s", path, cps_table_name(table, 0));
}

cps_status cps_subset_read(const char *path, const cps_class_names *names, int64_t **chosen_out,
                           int64_t *count_out) {
    if (!cps_class_names_are_taxa(names)) {
        return cps_fail(CPS_ERR_USAGE,
                        "%s: a subset chooses taxa by a rank, and these classes are labels: list "
                        "the labels that are wanted",
                        path);
    }
    cps_table *table = NULL;
    cps_class_names values;
    int32_t rank = -1;
    cps_class_names_init(&values, false);
    CPS_TRY(cps_table_read(path, &table));
    cps_status status = read_values(table, path, &rank, &values);
    cps_table_destroy(table);
    int64_t *chosen = calloc((size_t)names->count + 1, sizeof *chosen);
    bool *seen = calloc((size_t)values.count + 1, sizeof *seen);
    if (status == CPS_OK && (chosen == NULL || seen == NULL)) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "%s: out of memory", path);
    }
    if (status == CPS_OK) {
        status = choose(path, names, rank, &values, chosen, seen, count_out);
    }
    free(seen);
    cps_class_names_free(&values);
    if (status != CPS_OK) {
        free(chosen);
        return status;
    }
    *chosen_out = chosen;
    return CPS_OK;
}
