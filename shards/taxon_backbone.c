/* A table from a name to its rank (two for some) and its parent's name. Names stand in the table
 * once whatever their rank, as published; genus and species together are one name, a zero byte
 * between them. */
#include "shards/taxon_backbone.h"

#include <stdlib.h>
#include <string.h>

#include "base/byte_set.h"
#include "base/file.h"
#include "shards/columns.h"

enum {
    FAMILY = CPS_TAXON_GENUS - 1,
    SCIENTIFIC = CPS_TAXON_SPECIES, /* rank of a name of genus and species; it sets no rank */
    NO_PARENT = -1,
    LISTED = -1, /* source of the names listed here */
    NOWHERE = -1,
    MOST_STEPS = 64, /* of one way up; sources that contradict each other may go in circles */
};

typedef struct entry {
    uint32_t ranks; /* bit k: the name is one of rank k */
    int32_t parent; /* in texts */
    int32_t source;
    int64_t line;
} entry;

struct cps_taxon_backbone {
    cps_byte_set *names;   /* the keys; entry i belongs to name i */
    cps_byte_set *texts;   /* parents, each with its terminator */
    cps_byte_set *sources; /* likewise */
    entry *entries;
    int64_t room;
};

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a backbone of names");
}

/* ---- names that stand for two ranks ---------------------------------------------------------- */

typedef struct listed_name {
    const char *name, *parent; /* parent NULL: none */
    int32_t high, low;
} listed_name;

enum { KINGDOM, PHYLUM, CLASS, ORDER };

static const listed_name listed_names[] = {
    {"collembola", "arthropoda", CLASS, ORDER},
    {"diplura", "arthropoda", CLASS, ORDER},
    {"protura", "arthropoda", CLASS, ORDER},
    {"actinobacteria", "bacteria", PHYLUM, CLASS},
    {"aquificae", "bacteria", PHYLUM, CLASS},
    {"chlamydiae", "bacteria", PHYLUM, CLASS},
    {"chrysiogenetes", "bacteria", PHYLUM, CLASS},
    {"deferribacteres", "bacteria", PHYLUM, CLASS},
    {"elusimicrobia", "bacteria", PHYLUM, CLASS},
    {"gemmatimonadetes", "bacteria", PHYLUM, CLASS},
    {"micrognathozoa", "animalia", PHYLUM, CLASS},
    {"nitrospira", "bacteria", PHYLUM, CLASS},
    {"protozoa", NULL, KINGDOM, PHYLUM},
    {"thermodesulfobacteria", "bacteria", PHYLUM, CLASS},
    {"thermotogae", "bacteria", PHYLUM, CLASS},
};
/* The species that sources disagree on; its length counts the zero byte. */
static const char listed_species[] = "leptogaster\0flavipes";
static const char listed_family[] = "asilidae";

/* ---- the table ------------------------------------------------------------------------------- */

static const char *text_at(const cps_byte_set *set, int32_t number) {
    size_t length;
    return cps_byte_set_at(set, number, &length);
}

/* The name of genus and species, malloc'ed; NULL: out of memory. */
static char *scientific_name(const cps_taxon *taxon, size_t *length_out) {
    const char *genus = taxon->ranks[CPS_TAXON_GENUS], *species = taxon->ranks[CPS_TAXON_SPECIES];
    const size_t first = strlen(genus) + 1, second = strlen(species);
    char *name = malloc(first + second);
    if (name != NULL) {
        memcpy(name, genus, first);
        memcpy(name + first, species, second);
        *length_out = first + second;
    }
    return name;
}

/* Parent of an entry; NULL: none. */
static const char *parent_of(const cps_taxon_backbone *b, const entry *e) {
    return e->parent == NO_PARENT ? NULL : text_at(b->texts, e->parent);
}

static cps_status new_entry(cps_taxon_backbone *b, const char *name, size_t length,
                            const entry *e) {
    if (cps_byte_set_count(b->names) >= b->room) { /* before the name: each has its entry */
        const int64_t room = 2 * b->room + 1024;
        entry *longer = realloc(b->entries, (size_t)room * sizeof *longer);
        if (longer == NULL) {
            return fail_memory();
        }
        b->entries = longer;
        b->room = room;
    }
    const int32_t number = cps_byte_set_add(b->names, name, length);
    if (number < 0) {
        return fail_memory();
    }
    b->entries[number] = *e;
    return CPS_OK;
}

static cps_status number_parent(cps_taxon_backbone *b, const char *parent, int32_t *number_out) {
    *number_out = NO_PARENT;
    if (parent != NULL &&
        (*number_out = cps_byte_set_add(b->texts, parent, strlen(parent) + 1)) < 0) {
        return fail_memory();
    }
    return CPS_OK;
}

static cps_status add_listed(cps_taxon_backbone *b) {
    entry e = {.source = LISTED};
    for (size_t i = 0; i < sizeof listed_names / sizeof listed_names[0]; i++) {
        const listed_name *listed = &listed_names[i];
        e.ranks = 1u << listed->high | 1u << listed->low;
        CPS_TRY(number_parent(b, listed->parent, &e.parent));
        CPS_TRY(new_entry(b, listed->name, strlen(listed->name), &e));
    }
    e.ranks = 1u << SCIENTIFIC;
    CPS_TRY(number_parent(b, listed_family, &e.parent));
    return new_entry(b, listed_species, sizeof listed_species - 1, &e);
}

cps_status cps_taxon_backbone_create(cps_taxon_backbone **backbone_out) {
    cps_taxon_backbone *b = calloc(1, sizeof *b);
    if (b == NULL) {
        return fail_memory();
    }
    b->names = cps_byte_set_create();
    b->texts = cps_byte_set_create();
    b->sources = cps_byte_set_create();
    const bool made = b->names != NULL && b->texts != NULL && b->sources != NULL;
    const cps_status status = made ? add_listed(b) : fail_memory();
    if (status != CPS_OK) {
        cps_taxon_backbone_destroy(b);
        return status;
    }
    *backbone_out = b;
    return CPS_OK;
}

void cps_taxon_backbone_destroy(cps_taxon_backbone *backbone) {
    if (backbone != NULL) {
        cps_byte_set_destroy(backbone->names);
        cps_byte_set_destroy(backbone->texts);
        cps_byte_set_destroy(backbone->sources);
        free(backbone->entries);
        free(backbone);
    }
}

int64_t cps_taxon_backbone_names(const cps_taxon_backbone *backbone) {
    return cps_byte_set_count(backbone->names);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* "family 'corvidae' of order 'passeriformes'"; malloc'ed. */
static char *describe(const cps_taxon_backbone *b, const char *name, const entry *e) {
    int32_t rank = 0;
    while ((e->ranks >> rank & 1) == 0) {
        rank++;
    }
    const char *parent = parent_of(b, e);
    const char *what = cps_taxon_rank_names[rank];
    if (parent == NULL) {
        return cps_format("%s '%s'", what, name);
    }
    const char *above = cps_taxon_rank_names[rank == SCIENTIFIC ? FAMILY : rank - 1];
    return parent[0] == '\0' ? cps_format("%s '%s' without %s", what, name, above)
                             : cps_format("%s '%s' of %s '%s'", what, name, above, parent);
}

static cps_status fail_conflict(const cps_taxon_backbone *b, const char *name, size_t length,
                                const entry *old, const entry *new) {
    char *readable = malloc(length + 1); /* a blank between genus and species */
    if (readable == NULL) {
        return fail_memory();
    }
    for (size_t i = 0; i < length; i++) {
        readable[i] = (char)(name[i] == '\0' ? ' ' : name[i]);
    }
    readable[length] = '\0';
    char *here = describe(b, readable, new), *there = describe(b, readable, old);
    const cps_status status = cps_fail(
        CPS_ERR_DATA,
        "'%s', line %lld says %s, line %lld says %s: in a backbone a name has one rank and one "
        "parent; correct one of the lines, or put the second into a file of its own behind this "
        "one",
        text_at(b->sources, new->source), (long long)new->line, here, (long long)old->line, there);
    free(readable);
    free(here);
    free(there);
    return status;
}

/* One name of a row. What is there already stays. */
static cps_status add_name(cps_taxon_backbone *b, const char *name, size_t length, int32_t rank,
                           const char *parent, int32_t source, int64_t line) {
    entry e = {.ranks = 1u << rank, .source = source, .line = line};
    const int32_t number = cps_byte_set_find(b->names, name, length);
    CPS_TRY(number_parent(b, parent, &e.parent));
    if (number < 0) {
        return new_entry(b, name, length, &e);
    }
    const entry *old = &b->entries[number];
    const bool same = old->ranks == e.ranks && old->parent == e.parent;
    if (same || old->source == LISTED || source > 0) {
        return CPS_OK;
    }
    return fail_conflict(b, name, length, old, &e);
}

static cps_status add_taxon(cps_taxon_backbone *b, const cps_taxon *taxon, int32_t source,
                            int64_t line) {
    const char *ranks[CPS_TAXON_RANKS];
    memcpy(ranks, taxon->ranks, sizeof ranks);
    if (strcmp(ranks[FAMILY], "charinidae") == 0 && strcmp(ranks[ORDER], "squamata") == 0) {
        ranks[FAMILY] = "boidae";
    }
    size_t length = 0;
    char *name = scientific_name(taxon, &length);
    if (name == NULL) {
        return fail_memory();
    }
    cps_status status = CPS_OK;
    if (length > 1) {
        status = add_name(b, name, length, SCIENTIFIC, ranks[FAMILY], source, line);
    }
    free(name);
    CPS_TRY(status);
    for (int32_t rank = FAMILY; rank >= 0; rank--) {
        if (ranks[rank][0] != '\0') {
            CPS_TRY(add_name(b, ranks[rank], strlen(ranks[rank]), rank,
                             rank > 0 ? ranks[rank - 1] : NULL, source, line));
        }
    }
    return CPS_OK;
}

cps_status cps_taxon_backbone_add(cps_taxon_backbone *backbone, const char *source, int64_t line,
                                  const char *const ranks[CPS_TAXON_RANKS]) {
    cps_taxon_fields fields = {0};
    memcpy(fields.ranks, ranks, sizeof fields.ranks);
    const int32_t number = cps_byte_set_add(backbone->sources, source, strlen(source) + 1);
    if (number < 0) {
        return fail_memory();
    }
    cps_taxon *taxon = NULL;
    CPS_TRY(cps_taxon_clean(&fields, &taxon));
    const cps_status status = taxon != NULL ? add_taxon(backbone, taxon, number, line) : CPS_OK;
    free(taxon);
    return status;
}

/* ---- files ----------------------------------------------------------------------------------- */

static cps_status find_columns(const cps_table *table, const char *path,
                               int64_t columns_out[CPS_TAXON_RANKS]) {
    const int64_t count = cps_table_columns(table);
    const char **field_of = calloc((size_t)count + 1, sizeof *field_of);
    if (field_of == NULL) {
        return fail_memory();
    }
    cps_status status = cps_column_fields(table, path, NULL, 0, field_of);
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS && status == CPS_OK; rank++) {
        columns_out[rank] = -1;
        for (int64_t c = 0; c < count; c++) {
            if (field_of[c] != NULL && strcmp(field_of[c], cps_taxon_rank_names[rank]) == 0) {
                columns_out[rank] = c;
            }
        }
        if (columns_out[rank] < 0) {
            char *list = cps_table_list_columns(table);
            status = cps_fail(CPS_ERR_USAGE,
                              "%s: a backbone has a column for each of kingdom, phylum, class, "
                              "order, family, genus and species; '%s' is not among these: %s",
                              path, cps_taxon_rank_names[rank], list);
            free(list);
        }
    }
    free(field_of);
    return status;
}

cps_status cps_taxon_backbone_load(cps_taxon_backbone *backbone, const char *path) {
    cps_table *table = NULL;
    int64_t columns[CPS_TAXON_RANKS];
    CPS_TRY(cps_table_read(path, &table));
    cps_status status = find_columns(table, path, columns);
    for (int64_t row = 0; status == CPS_OK && row < cps_table_rows(table); row++) {
        const char *ranks[CPS_TAXON_RANKS];
        for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
            ranks[rank] = cps_table_cell(table, row, columns[rank]);
        }
        status = cps_taxon_backbone_add(backbone, path, cps_table_line(table, row), ranks);
    }
    cps_table_destroy(table);
    return status;
}

/* ---- upgrading ------------------------------------------------------------------------------- */

/* The highest of family .. kingdom, below `failed`, that is reached without a gap; SCIENTIFIC where
 * the family is empty or has failed. */
static int32_t start_below(const cps_taxon *taxon, int32_t failed) {
    int32_t start = SCIENTIFIC;
    for (int32_t rank = FAMILY; rank >= 0 && rank != failed && taxon->ranks[rank][0] != '\0';
         rank--) {
        start = rank;
    }
    return start;
}

int32_t cps_taxon_backbone_start(const cps_taxon *taxon) {
    return start_below(taxon, NOWHERE);
}

static const entry *find_entry(const cps_taxon_backbone *b, const char *name, size_t length) {
    const int32_t number = cps_byte_set_find(b->names, name, length);
    return number < 0 ? NULL : &b->entries[number];
}

static void set_rank(const char **rank, const char *value, int64_t *changed, int64_t *filled) {
    if ((*rank)[0] == '\0') {
        *filled += 1;
    } else {
        *changed += strcmp(*rank, value) != 0;
    }
    *rank = value;
}

/* Follows parents from a rank's value upwards, and writes each where its entry says. */
static cps_status fill(const cps_taxon_backbone *b, const cps_taxon *taxon, int32_t start,
                       const char *ranks[CPS_TAXON_RANKS], cps_taxon_upgrades *upgrades) {
    const entry *e = NULL;
    const char *name = NULL;
    if (start == SCIENTIFIC) {
        size_t length = 0;
        char *scientific = scientific_name(taxon, &length);
        if (scientific == NULL) {
            return fail_memory();
        }
        e = find_entry(b, scientific, length);
        free(scientific);
    } else {
        name = taxon->ranks[start];
        e = find_entry(b, name, strlen(name));
    }
    for (int32_t step = 0; e != NULL && step < MOST_STEPS; step++) {
        for (int32_t rank = 0; rank <= FAMILY; rank++) {
            if ((e->ranks >> rank & 1) != 0) {
                set_rank(&ranks[rank], name, &upgrades->changed[rank], &upgrades->filled[rank]);
            }
        }
        name = parent_of(b, e);
        e = name != NULL ? find_entry(b, name, strlen(name)) : NULL;
    }
    return CPS_OK;
}

cps_status cps_taxon_backbone_upgrade(const cps_taxon_backbone *backbone, const cps_taxon *taxon,
                                      cps_taxon_upgrades *upgrades, cps_taxon **taxon_out) {
    const cps_taxon *current = taxon;
    cps_taxon *made = NULL;
    int32_t start = NOWHERE;
    do {
        start = start_below(current, start);
        cps_taxon_fields fields = {.common = current->common};
        memcpy(fields.ranks, current->ranks, sizeof fields.ranks);
        cps_taxon *next = NULL;
        cps_status status = fill(backbone, current, start, fields.ranks, upgrades);
        if (status == CPS_OK) {
            status = cps_taxon_clean(&fields, &next); /* as published, each time */
        }
        free(made);
        if (status != CPS_OK) {
            return status;
        }
        made = next;
        current = next;
    } while (current != NULL && start != SCIENTIFIC &&
             cps_taxon_known(current) != (1u << CPS_TAXON_RANKS) - 1);
    *taxon_out = made;
    return CPS_OK;
}
