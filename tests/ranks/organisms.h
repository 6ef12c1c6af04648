/* Shards of organisms beside those of engine.h, for tests of what reads taxonomic ranks. */
#ifndef CPS_TESTS_ORGANISMS_H
#define CPS_TESTS_ORGANISMS_H

#include "engine.h"

#include "shards/taxon.h"

enum { ORGANISM_FIELDS = CPS_TAXON_RANKS + 2 };

/* Seven ranks and a common name: a homonym under two kingdoms (ranks 4 to 6 of the first two are
 * alike), ranks that lack in the middle, at the end and at the front, a name that cleaning cuts,
 * and, last, one that names nothing. */
enum { ORGANISMS = 8, NAMED = 7 };
static const char *const organisms[ORGANISMS][8] = {
    {"Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "pica", "magpie"},
    {"Plantae", "Tracheophyta", "Aves", "Passeriformes", "Corvidae", "Pica", "pica", ""},
    {"Animalia", "Arthropoda", "Insecta", "Diptera", "Cecidomyiidae", "", "", ""},
    {"Plantae", "Tracheophyta", "", "Fagales", "Fagaceae", "Quercus", "robur", "English oak"},
    {"", "", "", "", "", "Quercus", "rubra (L.)", "red oak"},
    {"Fungi", "", "", "", "", "", "", "a mushroom"},
    {"Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "hudsonia", ""},
    {"unknown", "", "", "", "", "", "", "a stone"},
};

/* What record i of a shard is. */
typedef struct organism {
    const char *names[8];
    char caption[160]; /* "": none */
    bool picture;
} organism;
typedef void (*organism_fn)(int64_t i, organism *out);

static ENGINE_UNUSED cps_taxon *organism_taxon(const char *const names[8]) {
    cps_taxon_fields fields = {.common = names[7]};
    cps_taxon *taxon = NULL;
    memcpy(fields.ranks, names, sizeof fields.ranks);
    ENGINE_MUST(cps_taxon_clean(&fields, &taxon));
    return taxon;
}

/* Caption of type `type`; NULL: names nothing. malloc'ed. */
static ENGINE_UNUSED char *organism_text(const char *const names[8], const char *type, bool clean) {
    cps_taxon *taxon = organism_taxon(names);
    char *text = NULL;
    if (taxon != NULL) {
        ENGINE_MUST(cps_taxon_caption(taxon, type, clean, &text));
    }
    free(taxon);
    return text;
}

/* The whole path of a record; malloc'ed. */
static ENGINE_UNUSED char *organism_path(const char *const names[8], int32_t rank) {
    cps_taxon *taxon = organism_taxon(names);
    char *path = NULL;
    if (taxon != NULL) {
        ENGINE_MUST(cps_taxon_path(taxon, rank, &path));
    }
    free(taxon);
    return path;
}

static void organism_append(cps_shard_writer *writer, const char *const *fields, int64_t i,
                            const organism *o) {
    cps_record_text texts[ORGANISM_FIELDS];
    const char *caption = o->caption;
    int32_t count = 0;
    size_t length = 0;
    uint8_t *bytes = o->picture ? engine_picture(i, &length) : NULL;
    for (int32_t k = 0; k < 8; k++) {
        if (o->names[k] != NULL && o->names[k][0] != '\0') {
            texts[count++] = (cps_record_text){fields[k], 1, &o->names[k]};
        }
    }
    if (caption[0] != '\0') {
        texts[count++] = (cps_record_text){"caption", 1, &caption};
    }
    const cps_record record = {.sample_id = (uint64_t)i,
                               .image = bytes,
                               .image_bytes = length,
                               .bad_reason = o->picture ? NULL : "none was drawn",
                               .label = -1,
                               .text_field_count = count,
                               .texts = texts};
    ENGINE_MUST(cps_shard_writer_append(writer, &record));
    free(bytes);
}

/* Shard `name` of the engine's folder: records first .. first + count - 1 of what `of` says. */
static ENGINE_UNUSED void organism_shard(const char *name, int64_t first, int64_t count,
                                         organism_fn of) {
    char path[320];
    const char *fields[ORGANISM_FIELDS] = {NULL};
    memcpy(fields, cps_taxon_rank_names, CPS_TAXON_RANKS * sizeof *fields);
    fields[CPS_TAXON_RANKS] = "common_name";
    fields[CPS_TAXON_RANKS + 1] = "caption";
    snprintf(path, sizeof path, "%s/%s", the_engine.folder, name);
    cps_shard_writer *writer = NULL;
    ENGINE_MUST(cps_shard_writer_create(path, fields, ORGANISM_FIELDS, NULL, 0, "test", &writer));
    for (int64_t i = first; i < first + count; i++) {
        organism o = {.picture = true};
        of(i, &o);
        organism_append(writer, fields, i, &o);
    }
    ENGINE_MUST(cps_shard_writer_finish(writer));
}

/* All kinds in turn, every third without a caption. */
static ENGINE_UNUSED void organism_mixed(int64_t i, organism *out) {
    memcpy(out->names, organisms[i % ORGANISMS], sizeof out->names);
    if (i % 3 != 0) {
        snprintf(out->caption, sizeof out->caption, "picture %d", (int)(i % 5));
    }
}

#endif
