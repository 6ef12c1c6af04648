#include "shards/taxa.h"

#include "base/byte_set.h"
#include "base/file.h"

#include <stdlib.h>
#include <string.h>

enum { PARTS = CPS_TAXON_RANKS + 1 }; /* ranks and common name, each ended by NUL */

typedef struct entry {
    cps_taxon *taxon; /* NULL: no organism */
    int64_t records;
} entry;

struct cps_taxa {
    cps_byte_set *said; /* the parts of entry i are its string i */
    entry *entries;
    int64_t count, room;
    char *scratch;
    size_t scratch_room;
};

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for the names of organisms");
}

cps_status cps_taxa_create(cps_taxa **taxa_out) {
    cps_taxa *taxa = calloc(1, sizeof *taxa);
    if (taxa != NULL) {
        taxa->said = cps_byte_set_create();
    }
    if (taxa == NULL || taxa->said == NULL) {
        free(taxa);
        return fail_memory();
    }
    *taxa_out = taxa;
    return CPS_OK;
}

void cps_taxa_destroy(cps_taxa *taxa) {
    if (taxa == NULL) {
        return;
    }
    for (int64_t i = 0; i < taxa->count; ++i) {
        free(taxa->entries[i].taxon);
    }
    cps_byte_set_destroy(taxa->said);
    free(taxa->entries);
    free(taxa->scratch);
    free(taxa);
}

int64_t cps_taxa_count(const cps_taxa *taxa) {
    return taxa->count;
}

const cps_taxon *cps_taxa_at(const cps_taxa *taxa, int64_t number) {
    return taxa->entries[number].taxon;
}

/* ---- adding ---------------------------------------------------------------------------------- */

/* The parts of `fields` in taxa->scratch. */
static cps_status join_parts(cps_taxa *taxa, const cps_taxon_fields *fields, size_t *bytes_out) {
    size_t lengths[PARTS];
    const char *parts[PARTS];
    size_t bytes = 0;
    for (int32_t i = 0; i < PARTS; ++i) {
        const char *part = i < CPS_TAXON_RANKS ? fields->ranks[i] : fields->common;
        parts[i] = part != NULL ? part : "";
        lengths[i] = strlen(parts[i]) + 1;
        bytes += lengths[i];
    }
    if (bytes > taxa->scratch_room) {
        char *longer = realloc(taxa->scratch, 2 * bytes);
        if (longer == NULL) {
            return fail_memory();
        }
        taxa->scratch = longer;
        taxa->scratch_room = 2 * bytes;
    }
    char *to = taxa->scratch;
    for (int32_t i = 0; i < PARTS; ++i) {
        memcpy(to, parts[i], lengths[i]);
        to += lengths[i];
    }
    *bytes_out = bytes;
    return CPS_OK;
}

static cps_status make_room(cps_taxa *taxa) {
    if (taxa->count < taxa->room) {
        return CPS_OK;
    }
    const int64_t room = taxa->room == 0 ? 256 : 2 * taxa->room;
    entry *entries = realloc(taxa->entries, (size_t)room * sizeof *entries);
    if (entries == NULL) {
        return fail_memory();
    }
    taxa->entries = entries;
    taxa->room = room;
    return CPS_OK;
}

cps_status cps_taxa_add(cps_taxa *taxa, const cps_taxon_fields *fields, int64_t *number_out) {
    size_t bytes = 0;
    CPS_TRY(join_parts(taxa, fields, &bytes));
    CPS_TRY(make_room(taxa));
    const int32_t number = cps_byte_set_add(taxa->said, taxa->scratch, bytes);
    if (number < 0) {
        return fail_memory();
    }
    if (number == taxa->count) {
        taxa->entries[number] = (entry){0};
        taxa->count += 1;
        CPS_TRY(cps_taxon_clean(fields, &taxa->entries[number].taxon));
    }
    taxa->entries[number].records += 1;
    if (number_out != NULL) {
        *number_out = number;
    }
    return CPS_OK;
}

/* ---- summing up ------------------------------------------------------------------------------ */

static bool has_blank(const char *text) {
    return strpbrk(text, " \t") != NULL;
}

static void count_entry(const entry *one, cps_taxa_summary *sum) {
    const uint32_t known = one->taxon != NULL ? cps_taxon_known(one->taxon) : 0;
    int32_t count = 0;
    int32_t lowest = -1;
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; ++rank) {
        if ((known >> rank & 1) != 0) {
            count += 1;
            lowest = rank;
        }
    }
    sum->records += one->records;
    sum->known[count] += one->records;
    if (lowest >= 0) {
        sum->lowest[lowest] += one->records;
        sum->gaps += count < lowest + 1 ? one->records : 0;
        sum->several_words += has_blank(one->taxon->ranks[CPS_TAXON_SPECIES]) ? one->records : 0;
        sum->without_common += one->taxon->common[0] == '\0' ? one->records : 0;
    }
}

/* A name of one rank and who has it. `genus` is part of a species' name, else "". */
typedef struct named {
    const char *genus, *name;
    const cps_taxon *taxon;
    int64_t number;
} named;

static int by_name(const void *a, const void *b) {
    const named *left = a;
    const named *right = b;
    const int genus = strcmp(left->genus, right->genus);
    const int name = genus != 0 ? genus : strcmp(left->name, right->name);
    return name != 0 ? name : (left->number > right->number) - (left->number < right->number);
}

static bool is_same(const named *left, const named *right) {
    return strcmp(left->genus, right->genus) == 0 && strcmp(left->name, right->name) == 0;
}

/* Compares the parents of a run of one name; the first contradiction, if there is one. */
static bool find_homonym(const named *run, int64_t count, int32_t rank, cps_homonym *found) {
    const char *parents[CPS_TAXON_RANKS];
    const int32_t above = rank == CPS_TAXON_SPECIES ? CPS_TAXON_GENUS : rank;
    memcpy(parents, run[0].taxon->ranks, sizeof parents);
    for (int64_t i = 1; i < count; ++i) {
        bool compared = false;
        for (int32_t k = above - 1; k >= 0; --k) {
            const char *other = run[i].taxon->ranks[k];
            if (parents[k][0] == '\0') {
                parents[k] = other;
            } else if (other[0] != '\0' && !compared) {
                compared = true;
                if (strcmp(parents[k], other) != 0) {
                    *found = (cps_homonym){.rank = rank,
                                           .parent_rank = k,
                                           .genus = run[0].genus,
                                           .name = run[0].name,
                                           .parents = {parents[k], other}};
                    return true;
                }
            }
        }
    }
    return false;
}

static void sum_up_rank(named *names, int64_t count, int32_t rank, cps_taxa_summary *sum) {
    if (count > 1) {
        qsort(names, (size_t)count, sizeof *names, by_name);
    }
    for (int64_t i = 0, end; i < count; i = end) {
        cps_homonym found;
        for (end = i + 1; end < count && is_same(&names[i], &names[end]);) {
            end += 1;
        }
        sum->distinct[rank] += 1;
        if (find_homonym(names + i, end - i, rank, &found)) {
            sum->homonyms += 1;
            if (sum->example_count < CPS_TAXA_HOMONYMS) {
                sum->examples[sum->example_count++] = found;
            }
        }
    }
}

cps_status cps_taxa_sum_up(const cps_taxa *taxa, cps_taxa_summary *summary_out) {
    named *names = malloc(((size_t)taxa->count + 1) * sizeof *names);
    if (names == NULL) {
        return fail_memory();
    }
    *summary_out = (cps_taxa_summary){0};
    for (int64_t i = 0; i < taxa->count; ++i) {
        count_entry(&taxa->entries[i], summary_out);
    }
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; ++rank) {
        int64_t count = 0;
        for (int64_t i = 0; i < taxa->count; ++i) {
            const cps_taxon *taxon = taxa->entries[i].taxon;
            if (taxon != NULL && taxon->ranks[rank][0] != '\0') {
                names[count++] =
                    (named){.genus = rank == CPS_TAXON_SPECIES ? taxon->ranks[CPS_TAXON_GENUS] : "",
                            .name = taxon->ranks[rank],
                            .taxon = taxon,
                            .number = i};
            }
        }
        sum_up_rank(names, count, rank, summary_out);
    }
    free(names);
    return CPS_OK;
}

/* ---- telling --------------------------------------------------------------------------------- */

void cps_taxa_put(const cps_taxa_summary *summary, cps_json *parent, const char *key) {
    cps_json *to = cps_json_add_object(parent, key);
    cps_json_add_number(to, "records", (double)summary->records);
    cps_json *known = cps_json_add_array(to, "known");
    for (int32_t k = 0; k <= CPS_TAXON_RANKS; ++k) {
        cps_json_add_number(known, NULL, (double)summary->known[k]);
    }
    cps_json_add_number(to, "gaps", (double)summary->gaps);
    cps_json_add_number(to, "several_words", (double)summary->several_words);
    cps_json_add_number(to, "without_common", (double)summary->without_common);
    cps_json *ranks = cps_json_add_array(to, "ranks");
    for (int32_t k = 0; k < CPS_TAXON_RANKS; ++k) {
        cps_json *rank = cps_json_add_object(ranks, NULL);
        cps_json_add_string(rank, "name", cps_taxon_rank_names[k]);
        cps_json_add_number(rank, "distinct", (double)summary->distinct[k]);
        cps_json_add_number(rank, "lowest", (double)summary->lowest[k]);
    }
    cps_json *homonyms = cps_json_add_object(to, "homonyms");
    cps_json_add_number(homonyms, "count", (double)summary->homonyms);
    cps_json *examples = cps_json_add_array(homonyms, "examples");
    for (int64_t i = 0; i < summary->example_count; ++i) {
        const cps_homonym *one = &summary->examples[i];
        const char *parent_rank = cps_taxon_rank_names[one->parent_rank];
        char *text = cps_format("%s %s%s%s: %s %s, %s %s", cps_taxon_rank_names[one->rank],
                                one->genus, one->genus[0] != '\0' ? " " : "", one->name,
                                parent_rank, one->parents[0], parent_rank, one->parents[1]);
        cps_json_add_string(examples, NULL, text);
        free(text);
    }
}

/* Appends a formatted piece to a malloc'ed text. */
static void add_line(char **text, char *piece) {
    char *longer = cps_format("%s%s", *text, piece);
    free(piece);
    free(*text);
    *text = longer;
}

static long long whole(const cps_json *object, const char *key) {
    return (long long)cps_json_get_integer(object, key, 0);
}

char *cps_taxa_text(const cps_json *taxonomy) {
    const cps_json *known = cps_json_get(taxonomy, "known");
    const cps_json *homonyms = cps_json_get(taxonomy, "homonyms");
    if (cps_json_number(cps_json_at(known, 0)) == cps_json_get_number(taxonomy, "records", 0)) {
        return cps_format("\ntaxonomy: the fields of ranks are empty\n");
    }
    char *text = cps_format("\ntaxonomy: %lld records; known ranks:", whole(taxonomy, "records"));
    for (int32_t k = CPS_TAXON_RANKS; k >= 0; --k) {
        const double records = cps_json_number(cps_json_at(known, k));
        if (records > 0) {
            add_line(&text, cps_format(" %d in %.0f,", (int)k, records));
        }
    }
    add_line(&text, cps_format(" %lld without common name\n%-10s %9s %20s\n",
                               whole(taxonomy, "without_common"), "rank", "distinct",
                               "lowest in records"));
    for (const cps_json *rank = cps_json_first(cps_json_get(taxonomy, "ranks")); rank != NULL;
         rank = cps_json_next(rank)) {
        add_line(&text, cps_format("%-10s %9lld %20lld\n", cps_json_get_string(rank, "name", ""),
                                   whole(rank, "distinct"), whole(rank, "lowest")));
    }
    add_line(&text, cps_format("gaps above the lowest known rank in %lld records, epithets of "
                               "several words in %lld\nhomonyms, names at two places of the "
                               "tree: %lld\n",
                               whole(taxonomy, "gaps"), whole(taxonomy, "several_words"),
                               whole(homonyms, "count")));
    for (const cps_json *example = cps_json_first(cps_json_get(homonyms, "examples"));
         example != NULL; example = cps_json_next(example)) {
        add_line(&text, cps_format("    %s\n", cps_json_string(example)));
    }
    return text;
}
