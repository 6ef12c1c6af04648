/* Which records the entries of hold-out lists name. What equal records say is looked up once. */
#include "shards/holdout_internal.h"

#include "base/byte_set.h"
#include "base/file.h"
#include "base/options.h"
#include "shards/folder.h"
#include "shards/plan_taxa.h"
#include "shards/species.h"

#include <stdlib.h>
#include <string.h>

typedef struct entry {
    char *text, *list, *file;        /* file: NULL if it names none */
    int32_t species;                 /* of the set of species, -1: none */
    int64_t next_species, next_name; /* entries with the same one, -1: none */
    bool same_path; /* a record has its path: then records with its name alone do not count */
    bool matched;
} entry;

/* Names, and the first entry of each. */
typedef struct name_index {
    cps_byte_set *names;
    int64_t *first;
    int64_t room;
} name_index;

struct cps_holdout {
    entry *entries;
    int64_t count, room;
    name_index species, files; /* files: by name without folders */
    cps_byte_set *known;       /* what the entries name */
};

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for the names to hold out");
}

cps_status cps_holdout_create(cps_holdout **holdout_out) {
    cps_holdout *holdout = calloc(1, sizeof *holdout);
    if (holdout == NULL) {
        return fail_memory();
    }
    holdout->species.names = cps_byte_set_create();
    holdout->files.names = cps_byte_set_create();
    holdout->known = cps_byte_set_create();
    if (holdout->species.names == NULL || holdout->files.names == NULL || holdout->known == NULL) {
        cps_holdout_destroy(holdout);
        return fail_memory();
    }
    *holdout_out = holdout;
    return CPS_OK;
}

void cps_holdout_destroy(cps_holdout *holdout) {
    if (holdout == NULL) {
        return;
    }
    for (int64_t i = 0; i < holdout->count; ++i) {
        free(holdout->entries[i].text);
        free(holdout->entries[i].list);
        free(holdout->entries[i].file);
    }
    free(holdout->entries);
    cps_byte_set_destroy(holdout->species.names);
    cps_byte_set_destroy(holdout->files.names);
    cps_byte_set_destroy(holdout->known);
    free(holdout->species.first);
    free(holdout->files.first);
    free(holdout);
}

/* ---- adding ---------------------------------------------------------------------------------- */

/* Number of the name, its first entry (-1) if it is new. */
static cps_status index_name(name_index *index, const char *name, int32_t *number_out) {
    const int32_t number = cps_byte_set_add(index->names, name, strlen(name));
    if (number < 0) {
        return fail_memory();
    }
    if (number >= index->room) {
        const int64_t room = 2 * (int64_t)number + 256;
        int64_t *first = realloc(index->first, (size_t)room * sizeof *first);
        if (first == NULL) {
            return fail_memory();
        }
        for (int64_t i = index->room; i < room; ++i) {
            first[i] = -1;
        }
        index->first = first;
        index->room = room;
    }
    *number_out = number;
    return CPS_OK;
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* *new_out: there is no entry of the same species and file yet. */
static cps_status remember(cps_holdout *holdout, const char *species, const char *file,
                           bool *new_out) {
    char *names = cps_format("%s\n%s", species != NULL ? species : "", file != NULL ? file : "");
    const int32_t count = cps_byte_set_count(holdout->known);
    const int32_t number = cps_byte_set_add(holdout->known, names, strlen(names));
    free(names);
    *new_out = number == count;
    return number >= 0 ? CPS_OK : fail_memory();
}

static cps_status make_room(cps_holdout *holdout) {
    if (holdout->count < holdout->room) {
        return CPS_OK;
    }
    const int64_t room = holdout->room == 0 ? 256 : 2 * holdout->room;
    entry *entries = realloc(holdout->entries, (size_t)room * sizeof *entries);
    if (entries == NULL) {
        return fail_memory();
    }
    holdout->entries = entries;
    holdout->room = room;
    return CPS_OK;
}

cps_status cps_holdout_add(cps_holdout *holdout, const char *list, const char *text,
                           const char *species, const char *file) {
    entry new = {.species = -1, .next_species = -1, .next_name = -1};
    int32_t name = -1;
    bool is_new = false;
    while (file != NULL && strncmp(file, "./", 2) == 0) {
        file += 2;
    }
    if (species != NULL) {
        CPS_TRY(index_name(&holdout->species, species, &new.species));
    }
    if (file != NULL) {
        CPS_TRY(index_name(&holdout->files, name_of(file), &name));
    }
    CPS_TRY(remember(holdout, species, file, &is_new));
    if (!is_new) {
        return CPS_OK;
    }
    CPS_TRY(make_room(holdout));
    new.text = cps_format("%s", text);
    new.list = cps_format("%s", list);
    new.file = file != NULL ? cps_format("%s", file) : NULL;
    if (species != NULL) {
        new.next_species = holdout->species.first[new.species];
        holdout->species.first[new.species] = holdout->count;
    }
    if (file != NULL) {
        new.next_name = holdout->files.first[name];
        holdout->files.first[name] = holdout->count;
    }
    holdout->entries[holdout->count++] = new;
    return CPS_OK;
}

/* ---- species of records ---------------------------------------------------------------------- */

/* Names that records have in one place (ranks, scientific name, label), each with the entries'
 * species that it is: by its whole epithet, and by the epithet's first word. */
typedef struct seen_names {
    cps_byte_set *names;
    struct {
        int32_t whole, first_word;
    } * is;
    int64_t room;
} seen_names;

static bool is_hybrid(const char *epithet) {
    return strncmp(epithet, "x ", 2) == 0 || strstr(epithet, " x ") != NULL ||
           strstr(epithet, "\xc3\x97") != NULL;
}

/* The end of "genus word" in "genus word word"; 0: the first word alone says less than a species (a
 * hybrid, "sp. 1"). */
static size_t species_end(const char *key) {
    const char *epithet = strchr(key, ' ') + 1;
    const size_t word = strcspn(epithet, " ");
    if (epithet[word] == '\0' || epithet[word - 1] == '.' || is_hybrid(epithet)) {
        return 0;
    }
    return (size_t)(epithet - key) + word;
}

/* Which species of the lists the name is; texts: genus and epithet, or NULL and a whole name. */
static cps_status look_up(const cps_holdout *holdout, const char *genus, const char *epithet,
                          int32_t *whole_out, int32_t *first_word_out) {
    char *key = NULL;
    *whole_out = *first_word_out = -1;
    if (genus != NULL) {
        CPS_TRY(cps_species_key(genus, epithet, &key));
    } else {
        CPS_TRY(cps_species_of(epithet, &key));
    }
    if (key != NULL) {
        const size_t end = species_end(key);
        *whole_out = cps_byte_set_find(holdout->species.names, key, strlen(key));
        *first_word_out = end > 0 ? cps_byte_set_find(holdout->species.names, key, end) : -1;
    }
    free(key);
    return CPS_OK;
}

/* The same through the memory of names. */
static cps_status recall(const cps_holdout *holdout, seen_names *seen, const char *genus,
                         const char *epithet, int32_t *whole_out, int32_t *first_word_out) {
    char *text = cps_format("%s\n%s", genus != NULL ? genus : "", epithet);
    const int32_t known = cps_byte_set_count(seen->names);
    const int32_t number = cps_byte_set_add(seen->names, text, strlen(text));
    free(text);
    if (number < 0) {
        return fail_memory();
    }
    if (number == known) {
        if (number >= seen->room) {
            const int64_t room = 2 * (int64_t)number + 256;
            void *is = realloc(seen->is, (size_t)room * sizeof *seen->is);
            if (is == NULL) {
                return fail_memory();
            }
            seen->is = is;
            seen->room = room;
        }
        CPS_TRY(look_up(holdout, genus, epithet, &seen->is[number].whole,
                        &seen->is[number].first_word));
    }
    *whole_out = seen->is[number].whole;
    *first_word_out = seen->is[number].first_word;
    return CPS_OK;
}

static bool match_species(cps_holdout *holdout, int32_t species) {
    if (species < 0) {
        return false;
    }
    for (int64_t i = holdout->species.first[species]; i >= 0;
         i = holdout->entries[i].next_species) {
        holdout->entries[i].matched = true;
    }
    return true;
}

/* One name of a record: "" or NULL is none. genus NULL: `epithet` is a whole name. */
static cps_status match_name(cps_holdout *holdout, seen_names *seen, const char *genus,
                             const char *epithet, bool *held) {
    if (epithet == NULL || *epithet == '\0') {
        return CPS_OK;
    }
    int32_t whole = -1;
    int32_t first_word = -1;
    CPS_TRY(recall(holdout, seen, genus, epithet, &whole, &first_word));
    const bool by_whole = match_species(holdout, whole);
    const bool by_word = match_species(holdout, first_word);
    *held = *held || by_whole || by_word;
    return CPS_OK;
}

static cps_status mark_species(cps_holdout *holdout, cps_plan *plan, cps_holdout_counts *counts) {
    const cps_plan_ranks ranks = cps_plan_find_ranks(plan);
    seen_names seen = {.names = cps_byte_set_create()};
    cps_status status = seen.names != NULL ? CPS_OK : fail_memory();
    for (int64_t i = 0; status == CPS_OK && i < plan->records.count; ++i) {
        cps_plan_record *record = cps_plan_record_at(plan, i);
        const cps_taxon_fields fields = cps_plan_taxon_fields(plan, &ranks, i);
        const char *genus = fields.ranks[CPS_TAXON_GENUS];
        const char *label =
            record->label_name >= 0 ? cps_plan_string(plan, record->label_name) : NULL;
        bool held = false;
        status = match_name(holdout, &seen, genus != NULL ? genus : "",
                            fields.ranks[CPS_TAXON_SPECIES], &held);
        if (status == CPS_OK) {
            status = match_name(holdout, &seen, NULL,
                                cps_plan_first_text(plan, i, ranks.scientific), &held);
        }
        if (status == CPS_OK) {
            status = match_name(holdout, &seen, NULL, label, &held);
        }
        if (status == CPS_OK && held && record->left_out == CPS_LEFT_NOT) {
            record->left_out = CPS_LEFT_HELD_OUT;
            counts->by_species += 1;
        }
    }
    cps_byte_set_destroy(seen.names);
    free(seen.is);
    return status;
}

/* ---- files of records ------------------------------------------------------------------------ */

/* Is the shorter path the end of the longer one, whole names compared? */
static bool is_same_path(const char *a, size_t a_length, const char *b, size_t b_length) {
    if (a_length > b_length) {
        return is_same_path(b, b_length, a, a_length);
    }
    const char *end = b + (b_length - a_length);
    return memcmp(a, end, a_length) == 0 && (end == b || end[-1] == '/');
}

/* Entries under a name of a record's file, which is `length` long with folders: the name as it is,
 * or without its ending. */
static bool match_entries(cps_holdout *holdout, const char *folder, const char *file, size_t length,
                          bool by_path) {
    const char *name = name_of(file);
    const int32_t number =
        cps_byte_set_find(holdout->files.names, name, length - (size_t)(name - file));
    bool held = false;
    if (number < 0) {
        return false;
    }
    char *path = cps_format("%s/%.*s", folder, (int)length, file);
    for (int64_t i = holdout->files.first[number]; i >= 0; i = holdout->entries[i].next_name) {
        entry *one = &holdout->entries[i];
        const size_t entry_length = strlen(one->file);
        const bool same = is_same_path(one->file, entry_length, file, length) ||
                          is_same_path(one->file, entry_length, path, strlen(path));
        if (by_path ? same : !one->same_path) {
            one->same_path = one->same_path || by_path;
            one->matched = held = true;
        }
    }
    free(path);
    return held;
}

static void mark_files(cps_holdout *holdout, cps_plan *plan, bool by_path,
                       cps_holdout_counts *counts) {
    for (int64_t i = 0; i < plan->records.count; ++i) {
        cps_plan_record *record = cps_plan_record_at(plan, i);
        const char *folder = cps_plan_string(plan, record->folder);
        const char *file = cps_plan_string(plan, record->file);
        const char *ending = cps_name_ending(file);
        const size_t length = strlen(file);
        bool held = match_entries(holdout, folder, file, length, by_path);
        if (*ending != '\0' && ending - 1 > name_of(file)) {
            held =
                match_entries(holdout, folder, file, (size_t)(ending - 1 - file), by_path) || held;
        }
        if (held && record->left_out == CPS_LEFT_NOT) {
            record->left_out = CPS_LEFT_HELD_OUT;
            counts->by_file += 1;
        }
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

cps_status cps_holdout_apply(cps_holdout *holdout, cps_plan *plan, cps_holdout_counts *counts_out) {
    cps_holdout_counts counts = {.entries = holdout->count};
    if (cps_byte_set_count(holdout->species.names) > 0) {
        CPS_TRY(mark_species(holdout, plan, &counts));
    }
    if (cps_byte_set_count(holdout->files.names) > 0) {
        mark_files(holdout, plan, true, &counts);
        mark_files(holdout, plan, false, &counts);
    }
    for (int64_t i = 0; i < holdout->count; ++i) {
        counts.unmatched += !holdout->entries[i].matched;
    }
    *counts_out = counts;
    return CPS_OK;
}

/* ---- entries that name no record ------------------------------------------------------------- */

enum { TOLD = 10, MOST_NAMES = 200000 };

/* Distinct names for suggestions, NULL-terminated. */
typedef struct name_list {
    cps_byte_set *known;
    char **names;
    int64_t count;
} name_list;

static cps_status add_name(name_list *list, const char *name) {
    const int32_t number = cps_byte_set_add(list->known, name, strlen(name));
    if (number < 0) {
        return fail_memory();
    }
    if (number == list->count) {
        list->names[list->count++] = cps_format("%s", name);
    }
    return CPS_OK;
}

static cps_status create_names(name_list *list) {
    list->known = cps_byte_set_create();
    list->names = calloc(MOST_NAMES + 1, sizeof *list->names);
    return list->known != NULL && list->names != NULL ? CPS_OK : fail_memory();
}

static void free_names(name_list *list) {
    cps_byte_set_destroy(list->known);
    cps_strings_destroy(list->names, list->count);
}

/* The species and the files of the records. */
static cps_status list_names(const cps_plan *plan, name_list *species, name_list *files) {
    const cps_plan_ranks ranks = cps_plan_find_ranks(plan);
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && i < plan->records.count; ++i) {
        const cps_plan_record *record = cps_plan_record_at(plan, i);
        const cps_taxon_fields fields = cps_plan_taxon_fields(plan, &ranks, i);
        char *key = NULL;
        status =
            cps_species_key(fields.ranks[CPS_TAXON_GENUS], fields.ranks[CPS_TAXON_SPECIES], &key);
        if (status == CPS_OK && key == NULL && record->label_name >= 0) {
            status = cps_species_of(cps_plan_string(plan, record->label_name), &key);
        }
        if (status == CPS_OK && key != NULL && species->count < MOST_NAMES) {
            status = add_name(species, key);
        }
        if (status == CPS_OK && files->count < MOST_NAMES) {
            status = add_name(files, name_of(cps_plan_string(plan, record->file)));
        }
        free(key);
    }
    return status;
}

/* The name nearest to an entry, malloc'ed: a species with a capital, or a file; NULL: none. */
static char *nearest(const cps_holdout *holdout, const entry *one, const name_list *species,
                     const name_list *files) {
    const char *near = NULL;
    if (one->species >= 0) {
        size_t length = 0;
        const char *bytes = cps_byte_set_at(holdout->species.names, one->species, &length);
        char *key = cps_format("%.*s", (int)length, bytes);
        near = cps_nearest_name(key, (const char *const *)species->names);
        free(key);
    }
    if (near != NULL) {
        char *name = cps_format("%s", near);
        name[0] = (char)(name[0] >= 'a' && name[0] <= 'z' ? name[0] - 32 : name[0]);
        return name;
    }
    if (one->file != NULL) {
        near = cps_nearest_name(name_of(one->file), (const char *const *)files->names);
    }
    return near != NULL ? cps_format("%s", near) : NULL;
}

static char *tell_entries(const cps_holdout *holdout, const name_list *species,
                          const name_list *files) {
    char *lines = cps_format("%s", "");
    int64_t told = 0;
    for (int64_t i = 0; i < holdout->count && told < TOLD; ++i) {
        const entry *one = &holdout->entries[i];
        if (one->matched) {
            continue;
        }
        char *near = nearest(holdout, one, species, files);
        char *longer = cps_format("%s\n    %s: '%s'%s%s%s", lines, one->list, one->text,
                                  near != NULL ? " (did you mean '" : "", near != NULL ? near : "",
                                  near != NULL ? "'?)" : "");
        free(near);
        free(lines);
        lines = longer;
        told += 1;
    }
    return lines;
}

cps_status cps_holdout_unmatched(const cps_holdout *holdout, const cps_plan *plan,
                                 char **lines_out) {
    name_list species = {0};
    name_list files = {0};
    cps_status status = create_names(&species);
    if (status == CPS_OK) {
        status = create_names(&files);
    }
    if (status == CPS_OK) {
        status = list_names(plan, &species, &files);
    }
    if (status == CPS_OK) {
        *lines_out = tell_entries(holdout, &species, &files);
    }
    free_names(&species);
    free_names(&files);
    return status;
}
