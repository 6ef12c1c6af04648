/* Outcomes as rows of a table: which columns there are, what stands in them. The columns are those
 * that pybioclip's users know. Local. */
#ifndef CPS_EVAL_OUTCOME_ROWS_H
#define CPS_EVAL_OUTCOME_ROWS_H

#include "eval/classifier.h"

enum { CPS_OUTCOME_COLUMNS = 12, CPS_LABEL_COLUMNS = 9 };

/* kingdom, phylum, class, order, family, genus, species_epithet, species, common_name. */
extern const char *const cps_label_columns[CPS_LABEL_COLUMNS];

typedef struct cps_outcome_table {
    const cps_class_names *names;
    cps_outcome_kind kind;
    int32_t rank;                   /* taxa: the last rank shown */
    const cps_class_groups *groups; /* of the plan */
    const cps_class_names *bins;    /* BINS: their names */
    int32_t column_count;
    const char *columns[CPS_OUTCOME_COLUMNS]; /* file_name first, score last */
} cps_outcome_table;

/* Columns by kind: labels and bins file_name, classification, score; taxa above species file_name,
 * kingdom .. rank, score; species file_name, the nine label columns, score; DEEPEST file_name,
 * rank, the nine, score. Pointers are borrowed. */
void cps_outcome_table_init(const cps_class_names *names, const cps_outcome_plan *plan,
                            int32_t rank, const cps_class_names *bins,
                            cps_outcome_table *table_out);

/* One row; cells are borrowed from the names, the caller's file name and the row itself. */
typedef struct cps_outcome_row {
    const char *cells[CPS_OUTCOME_COLUMNS];
    char *species; /* owned */
    char score[32];
} cps_outcome_row;
void cps_outcome_row_fill(const cps_outcome_table *table, const char *file_name,
                          const cps_outcome *outcome, const cps_ranked *ranked,
                          cps_outcome_row *row_out);
void cps_outcome_row_free(cps_outcome_row *row);

/* cells_out [CPS_LABEL_COLUMNS] of a taxon; *species_out is owned by the caller. */
void cps_label_cells(const cps_class_names *names, int64_t index, const char **cells_out,
                     char **species_out);

#endif
