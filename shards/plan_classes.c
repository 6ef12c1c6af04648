/* Captions that belong to classes: each text stands once in the pool, whoever has it. */
#include "shards/plan.h"

#include "base/file.h"
#include "base/options.h"
#include "shards/columns.h"

#include <stdlib.h>
#include <string.h>

typedef struct class_caption {
    const char *label; /* the table's */
    int64_t row, text; /* of the table; of the pool */
} class_caption;

typedef struct joining {
    cps_plan *plan;
    const char *path;
    cps_table *table;
    int64_t label, caption;  /* columns */
    class_caption *captions; /* [rows], by label, those of one in the order of the table */
} joining;

static int by_label(const void *a, const void *b) {
    const class_caption *left = a, *right = b;
    const int order = strcmp(left->label, right->label);
    return order != 0 ? order : (left->row > right->row) - (left->row < right->row);
}

static cps_status find_columns(joining *from) {
    from->label = cps_column_find(from->table, "label");
    from->label = from->label < 0 ? cps_column_find(from->table, "class") : from->label;
    from->caption = cps_column_find(from->table, "caption");
    if (from->label >= 0 && from->caption >= 0) {
        return CPS_OK;
    }
    char *list = cps_table_list_columns(from->table);
    const cps_status status =
        cps_fail(CPS_ERR_USAGE,
                 "%s: captions of classes stand in a table with columns 'label' and 'caption', its "
                 "columns are: %s",
                 from->path, list);
    free(list);
    return status;
}

static bool is_blank(const char *text) {
    return text[strspn(text, " \t\r\n")] == '\0';
}

static cps_status read_captions(joining *from) {
    const int64_t rows = cps_table_rows(from->table);
    if (rows == 0) {
        return cps_fail(CPS_ERR_USAGE, "%s has a header but no rows", from->path);
    }
    from->captions = malloc((size_t)rows * sizeof *from->captions);
    if (from->captions == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "%s: no memory for %lld rows", from->path,
                        (long long)rows);
    }
    for (int64_t row = 0; row < rows; row++) {
        const char *label = cps_table_cell(from->table, row, from->label),
                   *caption = cps_table_cell(from->table, row, from->caption);
        if (is_blank(label) || is_blank(caption)) {
            return cps_fail(CPS_ERR_USAGE, "%s:%lld: a row without %s", from->path,
                            (long long)cps_table_line(from->table, row),
                            is_blank(label) ? "label" : "caption");
        }
        from->captions[row] = (class_caption){.label = label, .row = row};
        CPS_TRY(cps_plan_intern(from->plan, caption, &from->captions[row].text));
    }
    qsort(from->captions, (size_t)rows, sizeof *from->captions, by_label);
    return CPS_OK;
}

/* Index of the first caption of `label`, of the first that comes after it otherwise. */
static int64_t first_of(const joining *from, const char *label) {
    int64_t low = 0, high = cps_table_rows(from->table);
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (strcmp(from->captions[middle].label, label) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool has_label(const joining *from, int64_t at, const char *label) {
    return at < cps_table_rows(from->table) && strcmp(from->captions[at].label, label) == 0;
}

/* used[i]: some record has the label of caption i. */
static cps_status give_captions(joining *from, bool *used, int64_t *without) {
    for (int64_t r = 0; r < from->plan->records.count; r++) {
        const int64_t name = cps_plan_record_at(from->plan, r)->label_name;
        if (name < 0) {
            continue;
        }
        const int64_t first = first_of(from, cps_plan_string(from->plan, name));
        int64_t at = first;
        for (; has_label(from, at, cps_plan_string(from->plan, name)); at++) {
            used[at] = true;
            CPS_TRY(cps_plan_link_text(from->plan, r, CPS_PLAN_CAPTION, from->captions[at].text));
        }
        *without += at == first;
    }
    return CPS_OK;
}

/* The record's label that is nearest in spelling; NULL: none is near. */
static char *nearest(const joining *from, const char *label) {
    const cps_plan *plan = from->plan;
    for (int64_t r = 0; r < plan->records.count; r++) {
        const int64_t name = cps_plan_record_at(plan, r)->label_name;
        const char *one[2] = {name < 0 ? NULL : cps_plan_string(plan, name), NULL};
        if (one[0] != NULL && cps_nearest_name(label, one) != NULL) {
            return cps_format("%s", one[0]);
        }
    }
    return NULL;
}

static cps_status check_used(const joining *from, const bool *used) {
    for (int64_t i = 0; i < cps_table_rows(from->table); i++) {
        if (!used[i]) {
            char *near = nearest(from, from->captions[i].label);
            const cps_status status = cps_fail(
                CPS_ERR_USAGE,
                "%s:%lld: no record has the label '%s'%s%s%s: correct it, or remove the row",
                from->path, (long long)cps_table_line(from->table, from->captions[i].row),
                from->captions[i].label, near != NULL ? " (did you mean '" : "",
                near != NULL ? near : "", near != NULL ? "'?)" : "");
            free(near);
            return status;
        }
    }
    return CPS_OK;
}

static cps_status add_all(joining *from, int64_t *without) {
    CPS_TRY(find_columns(from));
    CPS_TRY(read_captions(from));
    bool *used = calloc((size_t)cps_table_rows(from->table), sizeof *used);
    if (used == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "%s: no memory", from->path);
    }
    cps_status status = give_captions(from, used, without);
    status = status != CPS_OK ? status : check_used(from, used);
    free(used);
    return status;
}

cps_status cps_plan_add_class_captions(cps_plan *plan, const char *path, int64_t *without_out) {
    joining from = {.plan = plan, .path = path};
    int64_t without = 0;
    CPS_TRY(cps_table_read(path, &from.table));
    const cps_status status = add_all(&from, &without);
    free(from.captions);
    cps_table_destroy(from.table);
    if (status == CPS_OK) {
        *without_out = without;
    }
    return status;
}
