/* Services of an organism's names, through the loader and a plugin, on the ranks that are there:
 * captions, known ranks, classes by taxonomy in the order in which records show them. */
#include "tests/ranks/engine.h"

#include "shards/taxon.h"

enum { RECORDS = 41, FIELDS = 9 };

/* Seven ranks and a common name; every eighth record names nothing. */
static const char *const organisms[8][8] = {
    {"Metazoa", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "Pica pica (L., 1758)",
     "Eurasian magpie"},
    {"Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "pica", "hudsonia", ""},
    {"Animalia", "Arthropoda", "Insecta", "Diptera", "Cecidomyiidae", "", "", ""},
    {"Plantae", "Tracheophyta", "", "Fagales", "Fagaceae", "Quercus", "robur var. fastigiata",
     "English oak"},
    {"", "", "", "", "", "", "Morinda citrifolia L.", "noni"},
    {"Chloroplastida", "Tracheophyta", "", "Fagales", "Fagaceae", "Fagus", "sylvatica", ""},
    {"Fungi", "", "", "", "", "", "unknown", "a mushroom"},
    {"unknown", "", "", "", "", "", "", "a stone"},
};

static void write_shard(void) {
    char path[320];
    const char *fields[FIELDS] = {"caption"};
    memcpy(fields + 1, cps_taxon_rank_names, CPS_TAXON_RANKS * sizeof *fields);
    fields[FIELDS - 1] = "common_name";
    snprintf(path, sizeof path, "%s/taxa.h5", the_engine.folder);
    cps_shard_writer *writer = NULL;
    ENGINE_MUST(cps_shard_writer_create(path, fields, FIELDS, NULL, 0, "test", &writer));
    for (int64_t i = 0; i < RECORDS; i++) {
        static const char *const caption = "an organism";
        cps_record_text texts[FIELDS] = {{"caption", 1, &caption}};
        int32_t count = 1;
        for (int32_t k = 0; k < 8; k++) {
            const char *const *text = &organisms[i % 8][k];
            if ((*text)[0] != '\0') {
                texts[count++] = (cps_record_text){fields[k + 1], 1, text};
            }
        }
        size_t length = 0;
        uint8_t *bytes = engine_picture(i, &length);
        const cps_record record = {.sample_id = (uint64_t)i,
                                   .image = bytes,
                                   .image_bytes = length,
                                   .label = -1,
                                   .text_field_count = count,
                                   .texts = texts};
        ENGINE_MUST(cps_shard_writer_append(writer, &record));
        free(bytes);
    }
    ENGINE_MUST(cps_shard_writer_finish(writer));
}

static double value(const cps_step_result *result, const char *name) {
    for (int32_t i = 0; i < result->term_count; i++) {
        if (strcmp(result->term_names[i], name) == 0) {
            return result->term_values[i];
        }
    }
    return (double)NAN;
}

/* What the plugin counts over an epoch: sums of classes, of known ranks, of bytes of captions. */
typedef struct sums {
    double classes, known, bytes;
} sums;

/* classes: of the eight organisms, first-seen order; -1: none. */
static sums expected(const char *type, bool clean, const int32_t classes[8]) {
    sums wanted = {0};
    for (int64_t i = 0; i < RECORDS; i++) {
        cps_taxon_fields fields = {.common = organisms[i % 8][7]};
        memcpy(fields.ranks, organisms[i % 8], sizeof fields.ranks);
        cps_taxon *taxon = NULL;
        char *text = NULL;
        ENGINE_MUST(cps_taxon_clean(&fields, &taxon));
        if (taxon != NULL && strncmp(type, "tol200m:", 8) == 0) {
            ENGINE_MUST(cps_taxon_tol200m_text(&fields, type + 8, &text));
        } else if (taxon != NULL) {
            ENGINE_MUST(cps_taxon_caption(taxon, type, clean, &text));
        }
        wanted.classes += classes[i % 8];
        wanted.known += taxon != NULL ? (double)cps_taxon_known(taxon) : 0.0;
        wanted.bytes += (double)strlen(text != NULL ? text : "nothing");
        free(text);
        free(taxon);
    }
    return wanted;
}

static void train(const char *objectives, int64_t class_count, const sums *wanted) {
    const engine_job job = {.objectives = objectives,
                            .plugin = "names",
                            .shards = "taxa.h5",
                            .stage = ", \"tail\":\"keep\"",
                            .steps = 3};
    trial t;
    cps_step_result result;
    sums seen = {0};
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_CHECK(engine_param(&t, "names.weight")->tensor.shape[0] == class_count);
    ENGINE_MUST(engine_begin(&t));
    while (t.done < 3) {
        ENGINE_MUST(engine_step(&t, &result));
        seen.classes += value(&result, "class");
        seen.known += value(&result, "known");
        seen.bytes += value(&result, "bytes");
    }
    ENGINE_CHECK(seen.classes == wanted->classes);
    ENGINE_CHECK(seen.known == wanted->known);
    ENGINE_CHECK(seen.bytes == wanted->bytes);
    engine_close(&t);
}

/* The two magpies share the genus, "Cecidomyiidae" stands for its own missing genus, and the noni
 * has no kingdom but a class. */
static void test_genus(void) {
    static const int32_t classes[8] = {0, 0, 1, 2, 3, 4, 5, -1};
    const sums wanted = expected("sci_com", false, classes);
    train("[{\"name\":\"names\",\"plugin\":\"%s\",\"options\":{}}]", 6, &wanted);
}

static void test_kingdom(void) {
    static const int32_t classes[8] = {0, 0, 0, 1, 2, 1, 3, -1};
    const sums wanted = expected("taxonTag_com", true, classes);
    train("[{\"name\":\"names\",\"plugin\":\"%s\",\"options\":{\"type\":\"taxonTag_com\","
          "\"clean\":true,\"key\":\"taxonomy:kingdom\"}}]",
          4, &wanted);
}

/* Captions of the other data set, and classes that are whole paths. */
static void test_species(void) {
    static const int32_t classes[8] = {0, 1, 2, 3, 4, 5, 6, -1};
    const sums wanted = expected("tol200m:taxonTag", false, classes);
    train("[{\"name\":\"names\",\"plugin\":\"%s\",\"options\":{\"type\":"
          "\"tol200m:taxonTag\",\"key\":\"taxonomy:species\"}}]",
          7, &wanted);
}

/* Fails on every rank, saying `words`. */
static void refuse(const char *objectives, const char *words) {
    const engine_job job = {
        .objectives = objectives, .plugin = "names", .shards = "taxa.h5", .steps = 1};
    trial t;
    cps_step_result result;
    const cps_status status = engine_train(&job, &t, &result);
    ENGINE_CHECK(status != CPS_OK);
    if (status != CPS_OK && strstr(cps_fail_message(), words) == NULL) {
        fprintf(stderr, "rank %d: '%s' does not say '%s'\n", cps_comm_rank(the_engine.comm),
                cps_fail_message(), words);
        the_engine.failures++;
    }
    engine_close(&t);
}

static void test_refusals(void) {
    refuse("[{\"name\":\"names\",\"plugin\":\"%s\",\"options\":{\"key\":\"taxonomy:tribe\"}}]",
           "'taxonomy:' wants one of kingdom");
    refuse("[{\"name\":\"names\",\"plugin\":\"%s\",\"options\":{\"type\":\"latin\"}}]",
           "no texts of type 'latin' are made of names: there are sci, com");
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {{"genus", test_genus},
                                        {"kingdom", test_kingdom},
                                        {"species", test_species},
                                        {"refusals", test_refusals}};
    engine_start(&argc, &argv);
    if (cps_comm_rank(the_engine.comm) == 0) {
        write_shard();
    }
    cps_comm_barrier(the_engine.comm, "shard");
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
