/* Names of classes from people's files: lists of labels, tables of taxa, shards, the published
 * JSON. */
#include "eval/class_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "eval/taxonomy.h"
#include "shards/columns.h"
#include "shards/shard.h"
#include "shards/table.h"

static const size_t max_labels_bytes = (size_t)256 << 20;
static const size_t max_json_bytes = (size_t)4 << 30;

/* HDF5's first bytes: a shard. */
static bool is_shard(const char *path) {
    static const char magic[] = "\x89HDF\r\n\x1a\n";
    char start[8] = "";
    FILE *file = fopen(path, "rb");
    const bool is = file != NULL && fread(start, 1, sizeof start, file) == sizeof start &&
                    memcmp(start, magic, sizeof start) == 0;
    if (file != NULL) {
        fclose(file);
    }
    return is;
}

/* ---- labels ---- */

/* Ends moved past white space, in place. */
static char *trim(char *text) {
    size_t length = strlen(text), first = length, last = 0;
    for (size_t at = 0; at < length;) {
        const size_t start = at;
        if (!cps_utf8_is_space(cps_utf8_next(text, length, &at))) {
            first = first < start ? first : start;
            last = at;
        }
    }
    text[last] = '\0';
    return first < last ? text + first : text + last;
}

cps_status cps_class_names_add_label(cps_class_names *names, const char *label, const char *where) {
    char *copy = cps_format("%s", label);
    const char *trimmed = trim(copy);
    cps_status status = CPS_OK;
    if (!cps_utf8_is_valid(label, strlen(label))) {
        status = cps_fail(CPS_ERR_DATA, "%s: a label is not UTF-8: convert it", where);
    } else if (*trimmed == '\0') {
        status = cps_fail(CPS_ERR_USAGE, "%s: a label is blank", where);
    }
    const int64_t before = names->texts;
    if (status == CPS_OK) {
        status = cps_class_names_add(names, &trimmed);
    }
    if (status == CPS_OK && names->texts == before) {
        names->count--;
        status =
            cps_fail(CPS_ERR_USAGE,
                     "%s: the label '%s' is there twice: labels share the probability, so each "
                     "may stand once",
                     where, trimmed);
    }
    free(copy);
    return status;
}

static cps_status add_lines(cps_class_names *names, const char *path, char *text) {
    int64_t line = 0;
    for (char *rest = text; rest != NULL;) {
        char *here = rest;
        rest = strchr(rest, '\n');
        if (rest != NULL) {
            *rest++ = '\0';
        }
        line++;
        here = trim(here);
        if (*here != '\0') {
            char *where = cps_format("%s:%lld", path, (long long)line);
            const cps_status status = cps_class_names_add_label(names, here, where);
            free(where);
            CPS_TRY(status);
        }
    }
    return CPS_OK;
}

static cps_status read_label_file(const char *path, cps_class_names *names) {
    char *text = NULL;
    size_t length = 0;
    CPS_TRY(cps_file_read(path, max_labels_bytes, &text, &length));
    cps_status status = CPS_OK;
    if (!cps_utf8_is_valid(text, length) || memchr(text, '\0', length) != NULL) {
        status = cps_fail(CPS_ERR_DATA,
                          "'%s' is not UTF-8 text: convert it (for example: iconv -f "
                          "latin1 -t utf-8)",
                          path);
    } else {
        status = add_lines(names, path, strncmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text);
    }
    free(text);
    return status;
}

static cps_status read_class_list(const char *path, cps_class_names *names) {
    cps_shard *shard = NULL;
    CPS_TRY(cps_shard_open(path, &shard));
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < cps_shard_class_count(shard) && status == CPS_OK; i++) {
        status = cps_class_names_add_label(names, cps_shard_class_name(shard, i), path);
    }
    cps_shard_close(shard);
    return status;
}

cps_status cps_class_names_read_labels(const char *path, cps_class_names *names_out) {
    cps_class_names names;
    cps_class_names_init(&names, false);
    cps_status status =
        is_shard(path) ? read_class_list(path, &names) : read_label_file(path, &names);
    if (status == CPS_OK && names.count == 0) {
        status = cps_fail(CPS_ERR_USAGE, "'%s' holds no label: write one a line", path);
    }
    if (status != CPS_OK) {
        cps_class_names_free(&names);
        return status;
    }
    *names_out = names;
    return CPS_OK;
}

/* ---- taxa ---- */

/* The field of a header of ours: a rank's number, CPS_NAME_COMMON, or -1. */
static int32_t field_number(const char *field) {
    if (field == NULL) {
        return -1;
    }
    return strcmp(field, "common_name") == 0 ? CPS_NAME_COMMON : cps_taxon_rank(field);
}

/* Where a table says one thing in two columns, the more exact one counts: "cls" beside a "class"
 * that is something else, "species_epithet" beside the "species" of two words. */
static int64_t find_vague(const cps_table *table, int64_t vague_out[2]) {
    static const char *const pairs[2][2] = {{"cls", "class"}, {"species_epithet", "species"}};
    int64_t count = 0;
    for (int32_t i = 0; i < 2; i++) {
        const int64_t vague = cps_column_find(table, pairs[i][1]);
        if (cps_column_find(table, pairs[i][0]) >= 0 && vague >= 0) {
            vague_out[count++] = vague;
        }
    }
    return count;
}

/* Adds the taxon unless one of its ranks is there. */
static cps_status add_taxon(cps_class_names *names, cps_taxonomy *taxonomy,
                            const char *const texts[CPS_TAXON_FIELDS]) {
    int32_t organism = 0;
    CPS_TRY(cps_taxonomy_add(taxonomy, texts, &organism));
    return organism == names->count ? cps_class_names_add(names, texts) : CPS_OK;
}

static cps_status fail_rank(const cps_table *table, const char *path, int32_t rank) {
    char *list = cps_table_list_columns(table);
    const cps_status status =
        cps_fail(CPS_ERR_USAGE,
                 "%s: there is no column '%s'; a table of taxa has kingdom, phylum, class, order, "
                 "family, genus and species, this one has: %s",
                 path, cps_taxon_rank_names[rank], list);
    free(list);
    return status;
}

/* at_out [CPS_TAXON_FIELDS]: the column of each field. */
static cps_status find_columns(const cps_table *table, const char *path, const char **field_of,
                               int64_t *at_out) {
    int64_t vague[2];
    const int64_t vague_count = find_vague(table, vague);
    CPS_TRY(cps_column_fields(table, path, vague, vague_count, field_of));
    for (int32_t f = 0; f < CPS_TAXON_FIELDS; f++) {
        at_out[f] = -1;
    }
    for (int64_t c = 0; c < cps_table_columns(table); c++) {
        const int32_t field = field_number(field_of[c]);
        if (field >= 0) {
            at_out[field] = c;
        }
    }
    for (int32_t f = 0; f < CPS_TAXON_RANKS; f++) {
        if (at_out[f] < 0) {
            return fail_rank(table, path, f);
        }
    }
    return CPS_OK;
}

static cps_status add_table(cps_class_names *names, cps_taxonomy *taxonomy, const cps_table *table,
                            const char *path) {
    int64_t at[CPS_TAXON_FIELDS];
    const char **field_of = calloc((size_t)cps_table_columns(table) + 1, sizeof *field_of);
    cps_status status = field_of == NULL ? cps_fail(CPS_ERR_UNAVAILABLE, "%s: no memory", path)
                                         : find_columns(table, path, field_of, at);
    free(field_of);
    for (int64_t row = 0; row < cps_table_rows(table) && status == CPS_OK; row++) {
        const char *texts[CPS_TAXON_FIELDS];
        for (int32_t f = 0; f < CPS_TAXON_FIELDS; f++) {
            texts[f] = at[f] >= 0 ? cps_table_cell(table, row, at[f]) : "";
        }
        status = add_taxon(names, taxonomy, texts);
    }
    return status;
}

static cps_status add_shard(cps_class_names *names, cps_taxonomy *taxonomy, const cps_shard *shard,
                            const char *path) {
    int64_t at[CPS_TAXON_FIELDS];
    bool any = false;
    for (int32_t f = 0; f < CPS_TAXON_FIELDS; f++) {
        at[f] =
            cps_shard_field(shard, f < CPS_TAXON_RANKS ? cps_taxon_rank_names[f] : "common_name");
        any = any || (at[f] >= 0 && f < CPS_TAXON_RANKS);
    }
    if (!any) {
        return cps_fail(CPS_ERR_USAGE,
                        "shard '%s' has no taxonomic ranks (text fields kingdom ... species): its "
                        "class names can be given with --labels",
                        path);
    }
    for (int64_t record = 0; record < cps_shard_count(shard); record++) {
        const char *texts[CPS_TAXON_FIELDS];
        bool known = false;
        for (int32_t f = 0; f < CPS_TAXON_FIELDS; f++) {
            const bool there = at[f] >= 0 && cps_shard_text_count(shard, at[f], record) > 0;
            texts[f] = there ? cps_shard_text(shard, at[f], record, 0) : "";
            known = known || (there && f < CPS_TAXON_RANKS);
        }
        if (known) {
            CPS_TRY(add_taxon(names, taxonomy, texts));
        }
    }
    return CPS_OK;
}

static cps_status read_taxa(const char *path, cps_class_names *names, cps_taxonomy *taxonomy) {
    cps_status status;
    if (is_shard(path)) {
        cps_shard *shard = NULL;
        CPS_TRY(cps_shard_open(path, &shard));
        status = add_shard(names, taxonomy, shard, path);
        cps_shard_close(shard);
    } else {
        cps_table *table = NULL;
        CPS_TRY(cps_table_read(path, &table));
        status = add_table(names, taxonomy, table, path);
        cps_table_destroy(table);
    }
    if (status == CPS_OK && names->count == 0) {
        status = cps_fail(CPS_ERR_USAGE, "'%s' holds no taxon", path);
    }
    return status;
}

cps_status cps_class_names_read_taxa(const char *path, cps_class_names *names_out) {
    cps_class_names names;
    cps_taxonomy *taxonomy = NULL;
    cps_class_names_init(&names, true);
    CPS_TRY(cps_taxonomy_create(&taxonomy));
    const cps_status status = read_taxa(path, &names, taxonomy);
    cps_taxonomy_destroy(taxonomy);
    if (status != CPS_OK) {
        cps_class_names_free(&names);
        return status;
    }
    *names_out = names;
    return CPS_OK;
}

/* ---- the published JSON ---- */

/* The end of the value that begins at `at`, found by brackets alone: what lies between is parsed by
 * itself, so that the tree of hundreds of thousands of names is never held as a whole. */
static const char *value_end(const char *at, const char *end) {
    int depth = 0;
    for (bool quoted = false; at < end; at++) {
        if (quoted) {
            quoted = *at != '"';
            at += *at == '\\'; /* what it escapes is no end */
        } else if (*at == '"') {
            quoted = true;
        } else if (*at == '[' || *at == '{') {
            depth++;
        } else if ((*at == ']' || *at == '}') && --depth == 0) {
            return at + 1;
        }
    }
    return end;
}

static const char *skip_space(const char *at, const char *end) {
    while (at < end && strchr(" \t\r\n", *at) != NULL) {
        at++;
    }
    return at;
}

/* [[7 ranks], common] */
static cps_status add_entry(cps_class_names *names, const cps_json *entry, const char *path) {
    const char *texts[CPS_TAXON_FIELDS] = {NULL};
    const cps_json *ranks = cps_json_at(entry, 0);
    bool good = cps_json_is_array(entry) && cps_json_count(entry) == 2 &&
                cps_json_is_array(ranks) && cps_json_count(ranks) == CPS_TAXON_RANKS;
    for (int32_t f = 0; f < CPS_TAXON_FIELDS && good; f++) {
        texts[f] =
            cps_json_string(f < CPS_TAXON_RANKS ? cps_json_at(ranks, f) : cps_json_at(entry, 1));
        good = texts[f] != NULL;
    }
    if (!good) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': entry %lld is not [[kingdom, phylum, class, order, family, genus, "
                        "species], common name], all of them texts",
                        path, (long long)names->count + 1);
    }
    return cps_class_names_add(names, texts);
}

static cps_status read_entries(cps_class_names *names, const char *path, const char *at,
                               const char *end) {
    at = skip_space(at, end);
    bool more = at < end && *at == '[';
    bool good = more;
    at = more ? skip_space(at + 1, end) : at;
    if (more && at < end && *at == ']') {
        more = false; /* an empty list */
        at++;
    }
    while (more) {
        const char *stop = value_end(at, end);
        cps_json *entry = NULL;
        CPS_TRY(cps_json_parse(at, (size_t)(stop - at), path, &entry));
        const cps_status status = add_entry(names, entry, path);
        cps_json_destroy(entry);
        CPS_TRY(status);
        at = skip_space(stop, end);
        more = at < end && *at == ',';
        good = at < end && (more || *at == ']');
        at = good ? skip_space(at + 1, end) : at;
    }
    if (!good || at != end) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is no JSON list of [[seven ranks], common name] (after %lld entries)",
                        path, (long long)names->count);
    }
    return CPS_OK;
}

cps_status cps_class_names_read_json(const char *path, cps_class_names *names_out) {
    char *text = NULL;
    size_t length = 0;
    cps_class_names names;
    cps_class_names_init(&names, true);
    CPS_TRY(cps_file_read(path, max_json_bytes, &text, &length));
    const char *from = text + (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0);
    cps_status status = read_entries(&names, path, from, text + length);
    free(text);
    if (status == CPS_OK && names.count == 0) {
        status = cps_fail(CPS_ERR_DATA, "'%s' holds no taxon", path);
    }
    if (status != CPS_OK) {
        cps_class_names_free(&names);
        return status;
    }
    *names_out = names;
    return CPS_OK;
}
