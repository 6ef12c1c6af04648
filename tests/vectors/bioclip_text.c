/* The texts of BioCLIP: names, captions, evaluation strings, classes by taxonomy, the schedule of
 * text types. Everything is driven by the JSON: what it lacks is not tested, a value of another
 * kind than the one compared is a FAIL. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/status.h"
#include "bioclip.h"
#include "shards/taxon_backbone.h"
#include "vectors.h"

enum { MAX_TYPES = 1000, MAX_PATH_BYTES = 512 };

/* ---- comparing ------------------------------------------------------------------------------- */

static void need(cps_status status) {
    if (status != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
}

/* Where a case is: "records/3/train/sci.txt". */
typedef struct place {
    char path[MAX_PATH_BYTES];
} place;

CPS_PRINTF(2, 3)
static place inside(const place *outer, const char *format, ...) {
    place inner;
    va_list args;
    va_start(args, format);
    char name[MAX_PATH_BYTES / 2];
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const bool top = outer->path[0] == '\0';
    snprintf(inner.path, sizeof inner.path, "%.255s%s%s", outer->path, top ? "" : "/", name);
    return inner;
}

static void expect_text(const place *at, const char *got, const cps_json *want) {
    const char *text = cps_json_string(want);
    if (text != NULL && got != NULL) {
        vectors_compare_text(at->path, got, text);
    } else if (text == NULL && !cps_json_is_null(want)) {
        vectors_broken(at->path, 0, "a text or null is wanted");
    } else {
        vectors_judge(at->path, text == NULL && got == NULL ? 0 : 1, 0);
    }
}

static void expect_bool(const place *at, bool got, const cps_json *want) {
    if (!cps_json_is_bool(want)) {
        vectors_broken(at->path, 0, "true or false is wanted");
        return;
    }
    vectors_judge(at->path, got == cps_json_bool(want) ? 0 : 1, 0);
}

static void expect_integer(const place *at, int64_t got, const cps_json *want) {
    if (!cps_json_is_number(want)) {
        vectors_broken(at->path, 0, "a number is wanted");
        return;
    }
    vectors_judge(at->path, cps_json_number(want) == (double)got ? 0 : 1, 0);
}

/* A text, or nothing, from the input; false: the input is something else (a FAIL). */
static bool take_text(const place *at, const cps_json *value, const char **text_out) {
    if (value != NULL && !cps_json_is_null(value) && cps_json_string(value) == NULL) {
        vectors_broken(at->path, 0, "the input holds something other than texts");
        return false;
    }
    *text_out = cps_json_string(value);
    return true;
}

/* Seven texts; false: something else. */
static bool take_ranks(const cps_json *list, const char *ranks[CPS_TAXON_RANKS]) {
    bool usable = cps_json_count(list) == CPS_TAXON_RANKS;
    for (int32_t rank = 0; usable && rank < CPS_TAXON_RANKS; rank++) {
        ranks[rank] = cps_json_string(cps_json_at(list, rank));
        usable = ranks[rank] != NULL;
    }
    return usable;
}

/* ---- records --------------------------------------------------------------------------------- */

static bool take_fields(const place *at, const cps_json *input, cps_taxon_fields *fields) {
    *fields = (cps_taxon_fields){0};
    if (!cps_json_is_object(input)) {
        vectors_broken(at->path, 0, "there is no input");
        return false;
    }
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        if (!take_text(at, cps_json_get(input, cps_taxon_rank_names[rank]), &fields->ranks[rank])) {
            return false;
        }
    }
    return take_text(at, cps_json_get(input, "common"), &fields->common) &&
           take_text(at, cps_json_get(input, "subspecies"), &fields->subspecies) &&
           take_text(at, cps_json_get(input, "class_name"), &fields->as_is);
}

static void expect_rank(const place *at, const cps_taxon *taxon, int32_t rank,
                        const cps_json *want) {
    char *text = NULL;
    if (taxon == NULL) {
        expect_text(at, "", want);
        return;
    }
    need(cps_taxon_rank_text(taxon, rank, &text));
    expect_text(at, text, want);
    free(text);
}

static void check_normalised(const place *outer, const cps_taxon *taxon, const cps_json *want) {
    for (const cps_json *one = cps_json_first(want); one != NULL; one = cps_json_next(one)) {
        const char *key = cps_json_key(one);
        const int32_t rank = key != NULL ? cps_taxon_rank(key) : -1;
        const place at = inside(outer, "normalised/%s", key != NULL ? key : "?");
        if (rank < 0) {
            vectors_broken(at.path, 0, "there is no such rank");
        } else {
            expect_rank(&at, taxon, rank, one);
        }
    }
}

/* [[rank, value], ...] of the known ranks. */
static void check_tagged(const place *outer, const cps_taxon *taxon, const cps_json *want) {
    const uint32_t known = taxon != NULL ? cps_taxon_known(taxon) : 0;
    int64_t index = 0;
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        if ((known >> rank & 1) != 0) {
            const cps_json *pair = cps_json_at(want, index);
            const place at = inside(outer, "tagged/%lld", (long long)index++);
            const char *name = cps_json_string(cps_json_at(pair, 0));
            if (name == NULL || cps_json_count(pair) != 2 ||
                strcmp(name, cps_taxon_rank_names[rank]) != 0) {
                vectors_broken(at.path, 0, "'%s' and its name are wanted",
                               cps_taxon_rank_names[rank]);
            } else {
                expect_rank(&at, taxon, rank, cps_json_at(pair, 1));
            }
        }
    }
    const place at = inside(outer, "tagged");
    vectors_judge(at.path, cps_json_is_array(want) && cps_json_count(want) == index ? 0 : 1, 0);
}

/* "sci.txt" -> "sci". */
static bool type_of_file(const char *file, char *type, size_t bytes) {
    const size_t length = strlen(file);
    const bool fits = length > 4 && length - 4 < bytes && strcmp(file + length - 4, ".txt") == 0;
    if (fits) {
        snprintf(type, bytes, "%.*s", (int)(length - 4), file);
    }
    return fits;
}

static void check_train(const place *outer, const cps_taxon *taxon, const cps_json *want) {
    if (taxon == NULL || !cps_json_is_object(want)) {
        const place at = inside(outer, "train");
        vectors_judge(at.path, taxon == NULL && cps_json_is_null(want) ? 0 : 1, 0);
        return;
    }
    for (const cps_json *one = cps_json_first(want); one != NULL; one = cps_json_next(one)) {
        const place at = inside(outer, "train/%s", cps_json_key(one));
        char type[64], *text = NULL;
        if (!type_of_file(cps_json_key(one), type, sizeof type)) {
            vectors_broken(at.path, 0, "this is no file of captions");
        } else if (cps_taxon_caption(taxon, type, false, &text) != CPS_OK) {
            vectors_broken(at.path, 0, "%s", cps_fail_message());
        } else {
            expect_text(&at, text, one);
            free(text);
        }
    }
}

/* What the published code says where a common name would stand behind no scientific one. */
static void expect_no_text(const place *at, const char *got, const cps_json *want) {
    const char *reason = cps_json_get_string(want, "error", "");
    const bool same = got == NULL && strcmp(reason, "no scientific name") == 0;
    vectors_judge(at->path, same && cps_json_count(want) == 1 ? 0 : 1, 0);
}

static void check_eval(const place *outer, const cps_taxon_fields *fields, const cps_json *want) {
    for (const cps_json *one = cps_json_first(want); one != NULL; one = cps_json_next(one)) {
        const char *type = cps_json_key(one);
        const place at = inside(outer, "eval/%s", type != NULL ? type : "?");
        char *text = NULL;
        if (type == NULL || cps_taxon_evaluation_text(fields, type, &text) != CPS_OK) {
            vectors_broken(at.path, 0, "%s", type != NULL ? cps_fail_message() : "no type");
        } else if (cps_json_is_object(one)) {
            expect_no_text(&at, text, one);
        } else {
            expect_text(&at, text, one);
        }
        free(text);
    }
}

static void check_record(const place *at, const cps_json *record) {
    cps_taxon_fields fields;
    cps_taxon *taxon = NULL;
    if (!take_fields(at, cps_json_get(record, "input"), &fields)) {
        return;
    }
    need(cps_taxon_clean(&fields, &taxon));
    for (const cps_json *part = cps_json_first(record); part != NULL; part = cps_json_next(part)) {
        const char *key = cps_json_key(part);
        const place inner = inside(at, "%s", key);
        if (strcmp(key, "normalised") == 0) {
            check_normalised(at, taxon, part);
        } else if (strcmp(key, "empty") == 0) {
            expect_bool(&inner, taxon == NULL, part);
        } else if (strcmp(key, "complete") == 0) {
            expect_bool(&inner, taxon != NULL && cps_taxon_known(taxon) == 0x7f, part);
        } else if (strcmp(key, "tagged") == 0) {
            check_tagged(at, taxon, part);
        } else if (strcmp(key, "train") == 0) {
            check_train(at, taxon, part);
        } else if (strcmp(key, "eval") == 0) {
            check_eval(at, &fields, part);
        } else if (strcmp(key, "input") != 0) {
            vectors_skip(inner.path, "records have nothing of that name here");
        }
    }
    free(taxon);
}

/* ---- rules by themselves ----------------------------------------------------------------------
 */

/* [input, output]. */
static void check_pair(const place *at, const cps_json *pair,
                       cps_status (*rule)(const char *text, char **text_out)) {
    const char *input = cps_json_string(cps_json_at(pair, 0));
    char *text = NULL;
    if (input == NULL || cps_json_count(pair) != 2) {
        vectors_broken(at->path, 0, "an input and its output are wanted");
        return;
    }
    need(rule(input, &text));
    expect_text(at, text, cps_json_at(pair, 1));
    free(text);
}

static void check_clean_name(const place *at, const cps_json *pair) {
    check_pair(at, pair, cps_taxon_clean_name);
}

static void check_strip_html(const place *at, const cps_json *pair) {
    check_pair(at, pair, cps_taxon_strip_html);
}

/* ---- classes --------------------------------------------------------------------------------- */

/* Paths of one rank in the order of first sight. */
typedef struct path_list {
    char **paths;
    int64_t count;
} path_list;

static int64_t id_of(path_list *list, char *path, int64_t room) {
    for (int64_t i = 0; i < list->count; i++) {
        if (strcmp(list->paths[i], path) == 0) {
            free(path);
            return i;
        }
    }
    if (list->paths == NULL && (list->paths = calloc((size_t)room, sizeof(char *))) == NULL) {
        vectors_unusable("out of memory");
    }
    list->paths[list->count] = path;
    return list->count++;
}

static void check_class_row(const place *at, const cps_json *row, path_list *lists, int64_t rows) {
    const cps_json *given = cps_json_get(row, "taxon"), *ids = cps_json_get(row, "class_index"),
                   *normalised = cps_json_get(row, "normalised");
    cps_taxon_fields fields = {0};
    cps_taxon *taxon = NULL;
    bool usable = (ids == NULL || cps_json_count(ids) == CPS_TAXON_RANKS) &&
                  (normalised == NULL || cps_json_count(normalised) == CPS_TAXON_RANKS);
    if (!usable || !take_ranks(given, fields.ranks)) {
        vectors_broken(at->path, 0, "seven ranks, and seven of what is made of them, are wanted");
        return;
    }
    need(cps_taxon_clean(&fields, &taxon));
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        const place id_at = inside(at, "class_index/%d", rank),
                    name_at = inside(at, "normalised/%d", rank);
        int64_t id = -1;
        char *path = NULL;
        if (taxon != NULL) {
            need(cps_taxon_path(taxon, rank, &path));
            id = id_of(&lists[rank], path, rows);
        }
        if (ids != NULL) {
            expect_integer(&id_at, id, cps_json_at(ids, rank));
        }
        if (normalised != NULL) {
            expect_rank(&name_at, taxon, rank, cps_json_at(normalised, rank));
        }
    }
    free(taxon);
}

static void check_classes(const place *at, const cps_json *part) {
    path_list lists[CPS_TAXON_RANKS] = {0};
    const cps_json *table = cps_json_get(part, "table"),
                   *counts = cps_json_get(part, "num_classes");
    const int64_t rows = cps_json_count(table);
    int64_t index = 0;
    for (const cps_json *row = cps_json_first(table); row != NULL; row = cps_json_next(row)) {
        const place row_at = inside(at, "table/%lld", (long long)index++);
        check_class_row(&row_at, row, lists, rows);
    }
    if (counts != NULL && cps_json_count(counts) != CPS_TAXON_RANKS) {
        vectors_broken(at->path, 0, "num_classes holds %lld numbers, seven are wanted",
                       (long long)cps_json_count(counts));
    }
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        const place count_at = inside(at, "num_classes/%d", rank);
        if (cps_json_count(counts) == CPS_TAXON_RANKS) {
            expect_integer(&count_at, lists[rank].count, cps_json_at(counts, rank));
        }
        for (int64_t i = 0; i < lists[rank].count; i++) {
            free(lists[rank].paths[i]);
        }
        free(lists[rank].paths);
    }
}

/* ---- text types ------------------------------------------------------------------------------ */

/* The type of each step: an index into `order`, drawn from a generator seeded with the step. */
static void check_schedule(const place *at, const cps_json *part) {
    const cps_json *order = cps_json_get(part, "order"), *counts = cps_json_get(part, "counts"),
                   *steps = cps_json_get(part, "first_steps");
    const int64_t types = cps_json_count(order);
    int64_t seen[MAX_TYPES] = {0}, step = 0;
    if (types < 1 || types > MAX_TYPES || (counts != NULL && cps_json_count(counts) != types)) {
        vectors_broken(at->path, 0, "%lld types and %lld counts of them", (long long)types,
                       (long long)cps_json_count(counts));
        return;
    }
    for (const cps_json *one = cps_json_first(steps); one != NULL; one = cps_json_next(one)) {
        cps_mt19937 generator;
        cps_mt19937_seed_integer(&generator, (uint64_t)step);
        const uint32_t type = cps_mt19937_below(&generator, (uint32_t)types);
        const place step_at = inside(at, "first_steps/%lld", (long long)step++);
        expect_integer(&step_at, type, one);
        seen[type]++;
    }
    for (int64_t i = 0; i < types; i++) {
        const place order_at = inside(at, "order/%lld", (long long)i),
                    count_at = inside(at, "counts/%lld", (long long)i);
        /* The mixture's five are the first of the types, in the published order. */
        const char *type = i < 5 ? cps_taxon_types[i] : NULL;
        expect_text(&order_at, type, cps_json_at(order, i));
        if (counts != NULL) {
            expect_integer(&count_at, seen[i], cps_json_at(counts, i));
        }
    }
}

/* ---- texts of TreeOfLife-200M -----------------------------------------------------------------
 */

static void check_tol200m(const place *outer, const cps_json *record) {
    const cps_json *want_rank = cps_json_get(record, "most_specific_rank");
    const cps_json *input = cps_json_get(record, "input");
    cps_taxon_fields fields;
    if (!take_fields(outer, input, &fields) ||
        !take_text(outer, cps_json_get(input, "scientific_name"), &fields.scientific)) {
        return;
    }
    if (want_rank != NULL) {
        const place at = inside(outer, "most_specific_rank");
        const int32_t rank = cps_taxon_tol200m_rank(&fields);
        expect_text(&at, rank >= 0 ? cps_taxon_rank_names[rank] : NULL, want_rank);
    }
    const cps_json *files = cps_json_get(record, "files");
    for (const cps_json *one = cps_json_first(files); one != NULL; one = cps_json_next(one)) {
        const char *name = cps_json_key(one) != NULL ? cps_json_key(one) : "?";
        const place at = inside(outer, "files/%s", name);
        char type[64], *text = NULL;
        if (!type_of_file(name, type, sizeof type)) {
            vectors_broken(at.path, 0, "this is no file of captions");
        } else if (cps_taxon_tol200m_text(&fields, type, &text) != CPS_OK) {
            vectors_broken(at.path, 0, "%s", cps_fail_message());
        } else {
            expect_text(&at, text, one);
            free(text);
        }
    }
}

/* ---- upgrading with a backbone -----------------------------------------------------------------
 */

/* [value, rank]; [[genus, species], "scientific"]. */
static void check_start(const place *outer, const cps_taxon *taxon, const cps_json *want) {
    const place value_at = inside(outer, "start/0"), rank_at = inside(outer, "start/1");
    const cps_json *value = cps_json_at(want, 0);
    const int32_t rank =
        taxon != NULL ? cps_taxon_backbone_start(taxon) : (int32_t)CPS_TAXON_SPECIES;
    const char *genus = taxon != NULL ? taxon->ranks[CPS_TAXON_GENUS] : "",
               *species = taxon != NULL ? taxon->ranks[CPS_TAXON_SPECIES] : "";
    if (rank == CPS_TAXON_SPECIES) {
        const place species_at = inside(outer, "start/0/1");
        expect_text(&value_at, genus, cps_json_at(value, 0));
        expect_text(&species_at, species, cps_json_at(value, 1));
        expect_text(&rank_at, "scientific", cps_json_at(want, 1));
        return;
    }
    const char *name = cps_json_string(cps_json_at(want, 1));
    expect_text(&value_at, taxon->ranks[rank], value);
    vectors_judge(rank_at.path, name != NULL && cps_taxon_rank(name) == rank ? 0 : 1, 0);
}

static void check_upgrade_case(const place *at, const cps_taxon_backbone *backbone,
                               const cps_json *one) {
    const cps_json *start = cps_json_get(one, "start"), *output = cps_json_get(one, "output");
    cps_taxon_fields fields = {0};
    cps_taxon *taxon = NULL, *upgraded = NULL;
    cps_taxon_upgrades upgrades = {0};
    if (!take_ranks(cps_json_get(one, "input"), fields.ranks) ||
        (output != NULL && cps_json_count(output) != CPS_TAXON_RANKS)) {
        vectors_broken(at->path, 0, "seven ranks are wanted, and seven upgraded ones");
        return;
    }
    need(cps_taxon_clean(&fields, &taxon));
    if (start != NULL) {
        check_start(at, taxon, start);
    }
    if (taxon != NULL) {
        need(cps_taxon_backbone_upgrade(backbone, taxon, &upgrades, &upgraded));
    }
    for (int32_t rank = 0; output != NULL && rank < CPS_TAXON_RANKS; rank++) {
        const place rank_at = inside(at, "output/%d", rank);
        expect_rank(&rank_at, upgraded, rank, cps_json_at(output, rank));
    }
    free(taxon);
    free(upgraded);
}

static void check_upgrade(const place *outer, const cps_json *part) {
    cps_taxon_backbone *backbone = NULL;
    const cps_json *rows = cps_json_get(part, "backbone"), *cases = cps_json_get(part, "cases");
    int64_t line = 0;
    need(cps_taxon_backbone_create(&backbone));
    for (const cps_json *row = cps_json_first(rows); row != NULL; row = cps_json_next(row)) {
        const place at = inside(outer, "backbone/%lld", (long long)line++);
        const char *ranks[CPS_TAXON_RANKS];
        if (!take_ranks(row, ranks)) {
            vectors_broken(at.path, 0, "seven ranks are wanted");
        } else if (cps_taxon_backbone_add(backbone, outer->path, line, ranks) != CPS_OK) {
            vectors_broken(at.path, 0, "%s", cps_fail_message());
        }
    }
    int64_t index = 0;
    for (const cps_json *one = cps_json_first(cases); one != NULL; one = cps_json_next(one)) {
        const place at = inside(outer, "cases/%lld", (long long)index++);
        check_upgrade_case(&at, backbone, one);
    }
    cps_taxon_backbone_destroy(backbone);
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static void for_each(const cps_json *json, const char *key,
                     void (*check)(const place *at, const cps_json *one)) {
    const cps_json *list = cps_json_get(json, key);
    const place top = {""};
    int64_t index = 0;
    if (list != NULL && !cps_json_is_array(list)) {
        vectors_broken(key, 0, "an array is wanted");
        return;
    }
    for (const cps_json *one = cps_json_first(list); one != NULL; one = cps_json_next(one)) {
        const place at = inside(&top, "%s/%lld", key, (long long)index++);
        check(&at, one);
    }
}

static void for_object(const cps_json *json, const char *key,
                       void (*check)(const place *at, const cps_json *part)) {
    const cps_json *part = cps_json_get(json, key);
    const place top = {""}, at = inside(&top, "%s", key);
    if (cps_json_is_object(part)) {
        check(&at, part);
    } else if (part != NULL) {
        vectors_broken(key, 0, "an object is wanted");
    }
}

void bioclip_text(const cps_json *json) {
    for_each(json, "records", check_record);
    for_each(json, "clean_name", check_clean_name);
    for_each(json, "strip_html", check_strip_html);
    for_each(json, "treeoflife_200m", check_tol200m);
    for_object(json, "upgrade", check_upgrade);
    for_object(json, "class_index", check_classes);
    for_object(json, "text_type_schedule", check_schedule);
}
