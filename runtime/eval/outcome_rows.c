#include "eval/outcome_rows.h"

#include <stdio.h>
#include <stdlib.h>

const char *const cps_label_columns[CPS_LABEL_COLUMNS] = {
    "kingdom", "phylum",          "class",   "order",      "family",
    "genus",   "species_epithet", "species", "common_name"};

enum { SPECIES = CPS_TAXON_SPECIES };

static void add_column(cps_outcome_table *table, const char *name) {
    table->columns[table->column_count++] = name;
}

void cps_outcome_table_init(const cps_class_names *names, const cps_outcome_plan *plan,
                            int32_t rank, const cps_class_names *bins,
                            cps_outcome_table *table_out) {
    cps_outcome_table table = {
        .names = names, .kind = plan->kind, .rank = rank, .groups = plan->groups, .bins = bins};
    add_column(&table, "file_name");
    if (!cps_class_names_are_taxa(names)) {
        add_column(&table, "classification");
    } else if (plan->kind == CPS_OUTCOME_GROUPS) {
        for (int32_t r = 0; r <= rank; r++) {
            add_column(&table, cps_taxon_rank_names[r]);
        }
    } else {
        if (plan->kind == CPS_OUTCOME_DEEPEST) {
            add_column(&table, "rank");
        }
        for (int32_t i = 0; i < CPS_LABEL_COLUMNS; i++) {
            add_column(&table, cps_label_columns[i]);
        }
    }
    add_column(&table, "score");
    *table_out = table;
}

void cps_label_cells(const cps_class_names *names, int64_t index, const char **cells_out,
                     char **species_out) {
    for (int32_t r = 0; r < CPS_TAXON_RANKS; r++) {
        cells_out[r] = cps_class_name(names, index, r);
    }
    *species_out = cps_class_short_name(names, index);
    cells_out[CPS_TAXON_RANKS] = *species_out;
    cells_out[CPS_TAXON_RANKS + 1] = cps_class_name(names, index, CPS_NAME_COMMON);
}

/* The nine columns down to `rank`; those of deeper ranks stay empty. */
static void fill_labels(const cps_outcome_table *table, int64_t index, int32_t rank,
                        const char **cells, char **species_out) {
    cps_label_cells(table->names, index, cells, species_out);
    for (int32_t i = rank + 1; i < CPS_LABEL_COLUMNS && rank < SPECIES; i++) {
        cells[i] = "";
    }
}

void cps_outcome_row_fill(const cps_outcome_table *table, const char *file_name,
                          const cps_outcome *outcome, const cps_ranked *ranked,
                          cps_outcome_row *row_out) {
    *row_out = (cps_outcome_row){.cells = {file_name}};
    const char **cells = row_out->cells;
    const int64_t index = ranked->index;
    switch (table->kind) {
    case CPS_OUTCOME_CLASSES:
        if (cps_class_names_are_taxa(table->names)) {
            fill_labels(table, index, SPECIES, cells + 1, &row_out->species);
        } else {
            cells[1] = cps_class_name(table->names, index, 0);
        }
        break;
    case CPS_OUTCOME_BINS:
        cells[1] = cps_class_name(table->bins, index, 0);
        break;
    case CPS_OUTCOME_GROUPS:
        for (int32_t r = 0; r <= table->rank; r++) {
            cells[r + 1] = cps_class_name(table->names, table->groups->first[index], r);
        }
        break;
    case CPS_OUTCOME_DEEPEST: {
        const cps_class_groups *groups = &table->groups[outcome->rank < 0 ? 0 : outcome->rank];
        cells[1] = outcome->rank < 0 ? "" : cps_taxon_rank_names[outcome->rank];
        fill_labels(table, groups->first[index], outcome->rank, cells + 2, &row_out->species);
        break;
    }
    }
    /* As many digits as tell any two floats apart. */
    snprintf(row_out->score, sizeof row_out->score, "%.9g", ranked->score);
    cells[table->column_count - 1] = row_out->score;
}

void cps_outcome_row_free(cps_outcome_row *row) {
    free(row->species);
    row->species = NULL;
}
