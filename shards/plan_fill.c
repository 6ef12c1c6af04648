#include "shards/plan_fill.h"

#include "base/byte_set.h"
#include "base/file.h"
#include "shards/columns.h"
#include "shards/plan_taxa.h"
#include "shards/species.h"
#include "shards/taxon_backbone.h"

#include <stdlib.h>
#include <string.h>

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for the names of organisms");
}

static cps_status fail_fields(const char *option) {
    return cps_fail(CPS_ERR_USAGE,
                    "pack: %s has nothing to work on: the sources have no column of a rank "
                    "(kingdom ... genus, species)",
                    option);
}

/* ---- ranks ----------------------------------------------------------------------------------- */

enum { ABOVE = CPS_TAXON_GENUS }; /* ranks that a backbone sets */

/* What becomes of the records that say the same: places in the pool, -1: stays. */
typedef struct verdict {
    int64_t ranks[ABOVE], given;
    bool filled[ABOVE]; /* where there was nothing, else changed */
} verdict;

typedef struct filling {
    cps_plan *plan;
    const cps_taxon_backbone *backbone;
    cps_plan_ranks ranks;
    int32_t given; /* field */
    cps_taxa *taxa;
    verdict *verdicts; /* by number in taxa */
    int64_t count, room;
    cps_plan_filled sums;
} filling;

/* Ranks as they came, joined. */
static cps_status keep_given(const filling *fill, int64_t record, int64_t *at_out) {
    char *text = NULL;
    const cps_taxon_fields fields = cps_plan_taxon_fields(fill->plan, &fill->ranks, record);
    for (int32_t k = 0; k < CPS_TAXON_RANKS; ++k) {
        const char *rank = fields.ranks[k] != NULL ? fields.ranks[k] : "";
        char *longer = cps_format("%s%s%s", k > 0 ? text : "", k > 0 ? "|" : "", rank);
        free(text);
        text = longer;
    }
    const cps_status status = cps_plan_intern(fill->plan, text, at_out);
    free(text);
    return status;
}

static cps_status keep_rank(const filling *fill, const cps_taxon *taxon, int32_t rank,
                            int64_t *at_out) {
    char *text = NULL;
    CPS_TRY(cps_taxon_rank_text(taxon, rank, &text));
    const cps_status status = cps_plan_intern(fill->plan, text, at_out);
    free(text);
    return status;
}

static cps_status judge(const filling *fill, const cps_taxon *taxon, int64_t record,
                        verdict *verdict_out) {
    cps_taxon_upgrades upgrades = {0};
    cps_taxon *better = NULL;
    verdict v = {.given = -1};
    for (int32_t k = 0; k < ABOVE; ++k) {
        v.ranks[k] = -1;
    }
    cps_status status = taxon != NULL
                            ? cps_taxon_backbone_upgrade(fill->backbone, taxon, &upgrades, &better)
                            : CPS_OK;
    for (int32_t k = 0; status == CPS_OK && better != NULL && k < ABOVE; ++k) {
        if (strcmp(taxon->ranks[k], better->ranks[k]) != 0 && better->ranks[k][0] != '\0') {
            v.filled[k] = taxon->ranks[k][0] == '\0';
            status = keep_rank(fill, better, k, &v.ranks[k]);
            if (status == CPS_OK && v.given < 0) {
                status = keep_given(fill, record, &v.given);
            }
        }
    }
    free(better);
    *verdict_out = v;
    return status;
}

/* What becomes of a record: judged once for all that say the same. */
static cps_status look_up(filling *fill, int64_t record, verdict *verdict_out) {
    const cps_taxon_fields fields = cps_plan_taxon_fields(fill->plan, &fill->ranks, record);
    int64_t number = 0;
    CPS_TRY(cps_taxa_add(fill->taxa, &fields, &number));
    if (number == fill->count) {
        if (fill->count == fill->room) {
            const int64_t room = 2 * fill->room + 256;
            verdict *verdicts = realloc(fill->verdicts, (size_t)room * sizeof *verdicts);
            if (verdicts == NULL) {
                return fail_memory();
            }
            fill->verdicts = verdicts;
            fill->room = room;
        }
        CPS_TRY(judge(fill, cps_taxa_at(fill->taxa, number), record, &fill->verdicts[number]));
        fill->count += 1;
    }
    *verdict_out = fill->verdicts[number];
    return CPS_OK;
}

/* A field is made when the first record needs it. */
static cps_status set_text(filling *fill, int64_t record, const char *name, int32_t *field,
                           int64_t at) {
    if (*field < 0) {
        CPS_TRY(cps_plan_add_field(fill->plan, name, field));
    }
    return cps_plan_set_text(fill->plan, record, *field, at);
}

static cps_status fill_record(filling *fill, int64_t record) {
    verdict v = {.given = -1};
    CPS_TRY(look_up(fill, record, &v));
    for (int32_t k = 0; k < ABOVE; ++k) {
        if (v.ranks[k] >= 0) {
            CPS_TRY(
                set_text(fill, record, cps_taxon_rank_names[k], &fill->ranks.ranks[k], v.ranks[k]));
            fill->sums.filled[k] += v.filled[k];
            fill->sums.changed[k] += !v.filled[k];
        }
    }
    if (v.given >= 0) {
        fill->sums.records += 1;
        return set_text(fill, record, CPS_PLAN_RANKS_GIVEN, &fill->given, v.given);
    }
    return CPS_OK;
}

static cps_status fill_all(filling *fill) {
    CPS_TRY(cps_taxa_create(&fill->taxa));
    for (int64_t i = 0; i < fill->plan->records.count; ++i) {
        CPS_TRY(fill_record(fill, i));
    }
    return CPS_OK;
}

cps_status cps_plan_fill_ranks(cps_plan *plan, const char *const *paths, int64_t count,
                               cps_plan_filled *filled_out) {
    cps_taxon_backbone *backbone = NULL;
    filling fill = {.plan = plan, .ranks = cps_plan_find_ranks(plan), .given = -1};
    if (!fill.ranks.any) {
        return fail_fields("--backbone");
    }
    CPS_TRY(cps_taxon_backbone_create(&backbone));
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < count; ++i) {
        status = cps_fail_context(cps_taxon_backbone_load(backbone, paths[i]), "--backbone");
    }
    if (status == CPS_OK) {
        fill.backbone = backbone;
        fill.sums.names = cps_taxon_backbone_names(backbone);
        status = fill_all(&fill);
    }
    if (status == CPS_OK) {
        *filled_out = fill.sums;
    }
    cps_taxa_destroy(fill.taxa);
    free(fill.verdicts);
    cps_taxon_backbone_destroy(backbone);
    return status;
}

/* ---- common names ---------------------------------------------------------------------------- */

/* Common names by species. */
typedef struct naming {
    cps_byte_set *species;
    int64_t *names; /* in the plan's pool, by number in species */
    int64_t room;
} naming;

typedef struct columns {
    int64_t genus, species, scientific, common; /* -1: none */
} columns;

static cps_status find_columns(const cps_table *table, const char *path, columns *out) {
    const char **field = calloc((size_t)cps_table_columns(table), sizeof *field);
    if (field == NULL) {
        return fail_memory();
    }
    const cps_status status = cps_column_fields(table, path, NULL, 0, field);
    for (int64_t c = 0; status == CPS_OK && c < cps_table_columns(table); ++c) {
        const char *name = field[c] != NULL ? field[c] : "";
        out->genus = strcmp(name, "genus") == 0 ? c : out->genus;
        out->species = strcmp(name, "species") == 0 ? c : out->species;
        out->scientific = strcmp(name, "scientific_name") == 0 ? c : out->scientific;
        out->common = strcmp(name, "common_name") == 0 ? c : out->common;
    }
    free(field);
    CPS_TRY(status);
    if (out->common >= 0 && (out->species >= 0 || out->scientific >= 0)) {
        return CPS_OK;
    }
    char *list = cps_table_list_columns(table);
    const cps_status failed =
        cps_fail(CPS_ERR_USAGE, "%s: no column of %s; the columns are: %s", path,
                 out->common < 0 ? "common names ('common_name')"
                                 : "species ('scientific_name', or 'genus' and 'species')",
                 list);
    free(list);
    return failed;
}

static const char *cell(const cps_table *table, int64_t row, int64_t column) {
    return column >= 0 ? cps_table_cell(table, row, column) : "";
}

/* The species of a row or record; NULL: none. */
static cps_status find_species(const char *genus, const char *epithet, const char *scientific,
                               char **key_out) {
    CPS_TRY(cps_species_key(genus, epithet, key_out));
    return *key_out == NULL && scientific != NULL ? cps_species_of(scientific, key_out) : CPS_OK;
}

static cps_status take_row(naming *known, cps_plan *plan, const char *key, const char *common) {
    const int32_t count = cps_byte_set_count(known->species);
    const int32_t number = cps_byte_set_add(known->species, key, strlen(key));
    if (number < 0) {
        return fail_memory();
    }
    if (number < count) {
        return CPS_OK; /* the first row counts */
    }
    if (number >= known->room) {
        const int64_t room = 2 * (int64_t)number + 256;
        int64_t *names = realloc(known->names, (size_t)room * sizeof *names);
        if (names == NULL) {
            return fail_memory();
        }
        known->names = names;
        known->room = room;
    }
    return cps_plan_intern(plan, common, &known->names[number]);
}

static cps_status take_rows(naming *known, cps_plan *plan, const cps_table *table,
                            const char *path) {
    columns where = {-1, -1, -1, -1};
    CPS_TRY(find_columns(table, path, &where));
    for (int64_t row = 0; row < cps_table_rows(table); ++row) {
        const char *common = cell(table, row, where.common);
        char *key = NULL;
        CPS_TRY(find_species(cell(table, row, where.genus), cell(table, row, where.species),
                             cell(table, row, where.scientific), &key));
        common += strspn(common, " \t");
        const cps_status status =
            key != NULL && *common != '\0' ? take_row(known, plan, key, common) : CPS_OK;
        free(key);
        CPS_TRY(status);
    }
    return CPS_OK;
}

static cps_status name_records(const naming *known, cps_plan *plan, const cps_plan_ranks *ranks,
                               int32_t field, int64_t *records_out) {
    *records_out = 0;
    for (int64_t i = 0; i < plan->records.count; ++i) {
        const cps_taxon_fields fields = cps_plan_taxon_fields(plan, ranks, i);
        char *key = NULL;
        if (fields.common != NULL) {
            continue;
        }
        CPS_TRY(find_species(fields.ranks[CPS_TAXON_GENUS], fields.ranks[CPS_TAXON_SPECIES],
                             cps_plan_first_text(plan, i, ranks->scientific), &key));
        const int32_t number =
            key != NULL ? cps_byte_set_find(known->species, key, strlen(key)) : -1;
        free(key);
        if (number >= 0) {
            CPS_TRY(cps_plan_set_text(plan, i, field, known->names[number]));
            *records_out += 1;
        }
    }
    return CPS_OK;
}

cps_status cps_plan_fill_common(cps_plan *plan, const char *const *paths, int64_t count,
                                int64_t *names_out, int64_t *records_out) {
    naming known = {.species = cps_byte_set_create()};
    const cps_plan_ranks ranks = cps_plan_find_ranks(plan);
    int32_t field = 0;
    cps_status status = known.species != NULL ? CPS_OK : fail_memory();
    if (status == CPS_OK && !ranks.any && ranks.scientific < 0) {
        status = fail_fields("--common");
    }
    for (int64_t i = 0; status == CPS_OK && i < count; ++i) {
        cps_table *table = NULL;
        status = cps_fail_context(cps_table_read(paths[i], &table), "--common");
        if (status == CPS_OK) {
            status = take_rows(&known, plan, table, paths[i]);
        }
        cps_table_destroy(table);
    }
    if (status == CPS_OK) {
        status = cps_plan_add_field(plan, "common_name", &field);
    }
    if (status == CPS_OK) {
        *names_out = cps_byte_set_count(known.species);
        status = name_records(&known, plan, &ranks, field, records_out);
    }
    cps_byte_set_destroy(known.species);
    free(known.names);
    return status;
}
