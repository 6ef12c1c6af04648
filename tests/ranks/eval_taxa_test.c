/* Few-shot classification and what the tree of life adds to evaluations, from shards to metrics and
 * predictions, on the ranks that are there. */
#include "eval_world.h"

#include "eval/class_texts.h"
#include "eval/taxonomy.h"

static const double few_shots[] = {1, 3};

/* The metrics are mean and deviation of what the file says of each fold; support and answers share
 * the labelled images out among them. */
static void check_few_shot(cps_comm *comm, int64_t count, const outcome *out) {
    int64_t readable = 0, labelled = 0;
    static int32_t labels[400], predicted[2 * 400];
    static int64_t support[2 * CLASSES * 3];
    for (int64_t number = 0; number < count; number++) {
        if (!is_bad(number)) {
            labels[readable++] = label_of(number);
            labelled += label_of(number) >= 0;
        }
    }
    uint64_t seeds[2];
    double accuracy[2];
    cps_h5 *file = NULL;
    MUST(cps_h5_open(out->predictions, &file));
    MUST(cps_h5_read(file, "fold_seed", CPS_H5_U64, 2, seeds));
    MUST(cps_h5_read(file, "shot3_support", CPS_H5_I64, 2 * CLASSES * 3, support));
    MUST(cps_h5_read(file, "shot3_prediction", CPS_H5_I32, 2 * readable, predicted));
    MUST(cps_h5_read(file, "shot3_accuracy", CPS_H5_F64, 2, accuracy));
    MUST(cps_h5_close(file));
    CHECK(seeds[0] == 3 && seeds[1] == 4);
    for (int64_t fold = 0; fold < 2; fold++) {
        int64_t right = 0, asked = 0;
        for (int64_t i = 0; i < readable; i++) {
            const int32_t answer = predicted[fold * readable + i];
            CHECK(labels[i] >= 0 || answer < 0);
            asked += answer >= 0;
            right += answer >= 0 && answer == labels[i];
        }
        CHECK(asked == labelled - CLASSES * 3);
        CHECK(accuracy[fold] == (double)right / (double)asked);
        for (int64_t n = 0; n < CLASSES * 3; n++) {
            CHECK(predicted[fold * readable + support[fold * CLASSES * 3 + n]] == -1);
        }
    }
    const double mean = (accuracy[0] + accuracy[1]) / 2.0;
    CHECK(cps_json_get_number(out->metrics, "shot3", -1) == mean);
    CHECK(fabs(cps_json_get_number(out->metrics, "shot3_std", -1) -
               fabs(accuracy[0] - accuracy[1]) / 2.0) < 1e-15);
    const double low = cps_json_get_number(out->metrics, "shot3_low", -1),
                 high = cps_json_get_number(out->metrics, "shot3_high", -1);
    CHECK(low >= 0 && low <= mean && mean <= high && high <= 1 && (low < high || mean == 1));
    CHECK(cps_json_get_number(out->metrics, "shot3_chance", -1) == 1.0 / CLASSES);
    CHECK(cps_json_get_integer(out->metrics, "samples", -1) == labelled);
}

static void test_few_shot(cps_comm *comm, int64_t count, bool exact) {
    char *data[1] = {cps_format("%s/d%lld.h5", folder, (long long)count)};
    char *name = cps_format("few-%s-%lld", exact ? "exact" : "real", (long long)count);
    lookup table = {.exact = exact, .nan_row = -1};
    cps_evaluation_options options = {
        .kind = CPS_EVAL_FEW_SHOT, .name = name, .data = shards((const char *const *)data)};
    options.few_shot =
        (cps_few_shot_options){.shots = {.count = 2, .values = few_shots},
                               .folds = 2,
                               .seed = 3,
                               .variant = exact ? CPS_SHOT_STATELESS : CPS_SHOT_IN_PLACE};
    outcome out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    check_few_shot(comm, count, &out);
    outcome_free(&out);
    free(name);
    free(data[0]);
}

static void test_few_shot_refusals(cps_comm *comm) {
    write_shard(comm, "four", 0, 4, class_names, CLASSES);
    write_shard(comm, "five", 0, 5, class_names, CLASSES);
    write_shard(comm, "unlabelled", 10, 1, class_names, CLASSES); /* its one label is none */
    char *five[1] = {cps_format("%s/five.h5", folder)};
    char *none[1] = {cps_format("%s/unlabelled.h5", folder)};
    lookup table = {.exact = true, .nan_row = -1};
    cps_evaluation_options options = {
        .kind = CPS_EVAL_FEW_SHOT, .name = "refused", .data = shards((const char *const *)none)};
    options.few_shot =
        (cps_few_shot_options){.shots = {.count = 2, .values = few_shots}, .folds = 1};
    expect_failure(comm, &options, &table, CPS_ERR_DATA, "the largest class has 0 labelled");
    options.data = shards((const char *const *)five);
    expect_failure(comm, &options, &table, CPS_ERR_DATA, "the largest class has 1 labelled image,");
    free(five[0]);
    free(none[0]);
}

/* ---- the tree of life ---- */

/* What records of each class say, and what is left of it after cleaning. Class 3 has a gap, class 4
 * is known to its family, classes 5 and 6 are one organism. */
static const char *const said[CLASSES][RANK_FIELDS] = {
    {"Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "hudsonia",
     "black-billed magpie"},
    {"Metazoa", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "pica", NULL},
    {"ANIMALIA", "Chordata", "Aves", "Passeriformes", "Corvidae", "Corvus", "corone",
     "carrion crow"},
    {"Animalia", "Chordata", "unknown", "Cypriniformes", "Cyprinidae", "Carassius", "auratus",
     "goldfish"},
    {"Animalia", "Arthropoda", "Insecta", "Diptera", "Cecidomyiidae", NULL, NULL, "gall midges"},
    {"Plantae", "Tracheophyta", "Magnoliopsida", "Lamiales", "Verbenaceae", "Verbena", "hastata",
     NULL},
    {"Plantae", "Tracheophyta", "Magnoliopsida", "Lamiales", "Verbenaceae", "Verbena", "hastata",
     NULL}};
static const char *const cleaned[CLASSES][CPS_TAXON_RANKS] = {
    {"animalia", "chordata", "aves", "passeriformes", "corvidae", "pica", "hudsonia"},
    {"animalia", "chordata", "aves", "passeriformes", "corvidae", "pica", "pica"},
    {"animalia", "chordata", "aves", "passeriformes", "corvidae", "corvus", "corone"},
    {"animalia", "chordata", "", "cypriniformes", "cyprinidae", "carassius", "auratus"},
    {"animalia", "arthropoda", "insecta", "diptera", "cecidomyiidae", "", ""},
    {"plantae", "tracheophyta", "magnoliopsida", "lamiales", "verbenaceae", "verbena", "hastata"},
    {"plantae", "tracheophyta", "magnoliopsida", "lamiales", "verbenaceae", "verbena", "hastata"}};

/* The row of the tables: mostly of its class, some of another one, some (-1) without ranks. */
static int32_t organism_of(int64_t number) {
    const int32_t label = label_of(number);
    return number % 19 == 18 ? -1
           : label < 0       ? 0
           : number % 23 > 2 ? label
                             : (label + (number > 50)) % CLASSES;
}

/* Later records say the same in other words. */
static const char *rank_text(int64_t number, int32_t rank) {
    const int32_t organism = organism_of(number);
    if (number > 60 && organism == 0 && rank == 5) {
        return "<i>Pica</i>";
    }
    if (number > 60 && organism == 1 && rank == 6) {
        return "Pica pica";
    }
    return organism < 0 ? NULL : said[organism][rank];
}

static int32_t plain_depth(int32_t a, int32_t b) {
    int32_t depth = 0;
    while (depth < CPS_TAXON_RANKS && strcmp(cleaned[a][depth], cleaned[b][depth]) == 0) {
        depth++;
    }
    return depth;
}

/* Numbers of the readable records. */
static int64_t readable(int64_t count, int64_t *numbers) {
    int64_t rows = 0;
    for (int64_t number = 0; number < count; number++) {
        if (!is_bad(number)) {
            numbers[rows++] = number;
        }
    }
    return rows;
}

/* Metrics by rank from what is predicted of each row (-1: nothing), by comparing names. */
static void check_ranks(cps_comm *comm, const char *prefix, const int64_t *numbers, int64_t rows,
                        const int32_t *predicted, int64_t stride, int64_t times,
                        const cps_json *metrics) {
    int64_t samples = 0, right[CPS_TAXON_RANKS] = {0}, depths = 0, wrong = 0, distance = 0;
    for (int64_t i = 0; i < rows * times; i++) {
        const int64_t number = numbers[i % rows];
        const int32_t answer = predicted[i * stride], truth = organism_of(number);
        if (answer < 0 || truth < 0 || label_of(number) < 0) {
            continue;
        }
        const int32_t depth = plain_depth(answer, truth); /* class c is organism c */
        samples++;
        depths += depth;
        for (int32_t rank = 0; rank < depth; rank++) {
            right[rank]++;
        }
        if (answer != label_of(number)) {
            wrong++;
            distance += CPS_TAXON_RANKS - depth;
        }
    }
    char key[64];
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        snprintf(key, sizeof key, "%srank_%s", prefix, cps_taxon_rank_names[rank]);
        CHECK(cps_json_get_number(metrics, key, -1) == (double)right[rank] / (double)samples);
    }
    snprintf(key, sizeof key, "%sshared_depth", prefix);
    CHECK(cps_json_get_number(metrics, key, -1) == (double)depths / (double)samples);
    snprintf(key, sizeof key, "%stree_distance", prefix);
    CHECK(cps_json_get_number(metrics, key, -1) == (double)distance / (double)wrong);
    CHECK(samples > rows / 2 && wrong > 0);
}

/* Sums of probabilities over classes of one path, by comparing names. */
static void check_aggregated(cps_comm *comm, const lookup *table, const int64_t *numbers,
                             int64_t rows, const cps_json *metrics) {
    int64_t samples = 0, right[CPS_TAXON_RANKS] = {0};
    for (int64_t i = 0; i < rows; i++) {
        const int32_t truth = organism_of(numbers[i]);
        if (truth < 0 || label_of(numbers[i]) < 0) {
            continue;
        }
        double weight[CLASSES];
        for (int32_t c = 0; c < CLASSES; c++) {
            double score = 0.0;
            for (int32_t part = 0; part < WIDTHS; part++) {
                cps_real image[8], text[8];
                double dot = 0.0, image_squares = 0.0, text_squares = 0.0;
                table_row(table, numbers[i], part, image);
                table_row(table, text_number(class_names[c]), part, text);
                for (int64_t j = 0; j < widths[part]; j++) {
                    dot += (double)image[j] * (double)text[j];
                    image_squares += (double)image[j] * (double)image[j];
                    text_squares += (double)text[j] * (double)text[j];
                }
                score += score_weights[part] * dot / sqrt(image_squares * text_squares);
            }
            weight[c] = exp(table->scale * score);
        }
        samples++;
        for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
            double best_sum = 0.0;
            int32_t best = -1;
            for (int32_t c = 0; c < CLASSES; c++) {
                double sum = 0.0;
                for (int32_t other = 0; other < CLASSES; other++) {
                    sum += plain_depth(c, other) > rank ? weight[other] : 0.0;
                }
                if (sum > best_sum * (1.0 + 1e-9)) {
                    best_sum = sum;
                    best = c;
                }
            }
            right[rank] += plain_depth(best, truth) > rank;
        }
    }
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        char key[64];
        snprintf(key, sizeof key, "aggregated_%s", cps_taxon_rank_names[rank]);
        CHECK(cps_json_get_number(metrics, key, -1) == (double)right[rank] / (double)samples);
    }
}

/* With every bank row a neighbour: shares of pairs. */
static void check_purity(cps_comm *comm, const int64_t *numbers, int64_t rows, int64_t bank_first,
                         int64_t bank_count, const cps_json *metrics) {
    int64_t pairs = 0, same[CPS_TAXON_RANKS] = {0};
    for (int64_t i = 0; i < rows; i++) {
        const int32_t truth = organism_of(numbers[i]);
        for (int64_t other = bank_first; other < bank_first + bank_count; other++) {
            if (truth < 0 || label_of(numbers[i]) < 0 || other == numbers[i] || is_bad(other) ||
                label_of(other) < 0) {
                continue;
            }
            const int32_t depth =
                organism_of(other) < 0 ? 0 : plain_depth(truth, organism_of(other));
            pairs++;
            for (int32_t rank = 0; rank < depth; rank++) {
                same[rank]++;
            }
        }
    }
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        char key[64];
        snprintf(key, sizeof key, "purity_%s", cps_taxon_rank_names[rank]);
        CHECK(cps_json_get_number(metrics, key, -1) == (double)same[rank] / (double)pairs);
    }
}

static void read_i32(cps_comm *comm, const char *path, const char *name, int64_t count,
                     int32_t *values) {
    cps_h5 *file = NULL;
    MUST(cps_h5_open(path, &file));
    MUST(cps_h5_read(file, name, CPS_H5_I32, count, values));
    MUST(cps_h5_close(file));
}

static void test_ranks(cps_comm *comm, int64_t count) {
    static int64_t numbers[400];
    static int32_t predicted[5 * 400];
    char *data[1] = {cps_format("%s/taxa%lld.h5", folder, (long long)count)};
    char *bank[1] = {cps_format("%s/taxa-bank.h5", folder)};
    char *name = cps_format("taxa-%lld", (long long)count);
    const int64_t rows = readable(count, numbers);
    lookup table = {.nan_row = -1, .scale = 3.0};
    cps_evaluation_options options = {
        .kind = CPS_EVAL_ZERO_SHOT, .name = name, .data = shards((const char *const *)data)};
    options.zero_shot = (cps_zero_shot_options){.top = 2, .taxonomy = CPS_TAXONOMY_ON};
    outcome out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    read_i32(comm, out.predictions, "class_index", 2 * rows, predicted);
    check_ranks(comm, "", numbers, rows, predicted, 2, 1, out.metrics);
    check_aggregated(comm, &table, numbers, rows, out.metrics);
    int64_t unranked = 0;
    for (int64_t i = 0; i < rows; i++) {
        unranked += label_of(numbers[i]) >= 0 && organism_of(numbers[i]) < 0;
    }
    CHECK(cps_json_get_integer(out.metrics, "unranked", 0) == unranked);
    outcome_free(&out);
    options.kind = CPS_EVAL_KNN;
    options.knn = (cps_knn_options){
        .k = 1000, .temperature = 0.07, .bank = shards((const char *const *)bank)};
    out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    read_i32(comm, out.predictions, "class_index", 5 * rows, predicted);
    check_ranks(comm, "", numbers, rows, predicted, 5, 1, out.metrics);
    check_purity(comm, numbers, rows, 20, 60, out.metrics);
    outcome_free(&out);
    options.kind = CPS_EVAL_FEW_SHOT;
    options.few_shot =
        (cps_few_shot_options){.shots = {.count = 2, .values = few_shots}, .folds = 2};
    out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    read_i32(comm, out.predictions, "shot3_prediction", 2 * rows, predicted);
    check_ranks(comm, "shot3_", numbers, rows, predicted, 1, 2, out.metrics);
    outcome_free(&out);
    options.few_shot.taxonomy = CPS_TAXONOMY_OFF;
    out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK && cps_json_get(out.metrics, "shot3_rank_genus") == NULL);
    outcome_free(&out);
    free(name);
    free(data[0]);
    free(bank[0]);
}

/* ---- texts of classes ---- */

static void check_texts(cps_comm *comm, int32_t type, const char *const *want, int64_t stand_ins,
                        int64_t equal) {
    char *data[1] = {cps_format("%s/taxa65.h5", folder)}, **texts = NULL, *text = NULL;
    char *name = cps_format("text-%d", (int)type);
    lookup table = {.exact = true, .nan_row = -1};
    cps_evaluation_options options = {
        .kind = CPS_EVAL_ZERO_SHOT, .name = name, .data = shards((const char *const *)data)};
    options.zero_shot = (cps_zero_shot_options){.top = 2, .text = type};
    outcome out = evaluate(comm, &options, &table);
    CHECK(out.status == CPS_OK);
    CHECK(cps_json_get_integer(out.metrics, "text_stand_ins", 0) == stand_ins);
    CHECK(cps_json_get_integer(out.metrics, "equal_texts", 0) == equal);
    CHECK(strcmp(cps_json_get_string(out.metrics, "text", ""), cps_class_text_types[type]) == 0);
    CHECK(strcmp(cps_json_get_string(out.metrics, "averaging", ""), "normalise_first") == 0);
    CHECK(strcmp(cps_json_get_string(out.metrics, "templates", ""), "{}") == 0);
    int64_t count = 0;
    cps_h5 *file = NULL;
    MUST(cps_h5_open(out.predictions, &file));
    MUST(cps_h5_read_strings(file, "class_text", &texts, &count));
    MUST(cps_h5_read_text(file, "/", "text", &text));
    CHECK(strcmp(text, cps_class_text_types[type]) == 0);
    MUST(cps_h5_close(file));
    CHECK(count == CLASSES);
    for (int64_t c = 0; c < count; c++) {
        if (strcmp(texts[c], want[c]) != 0) {
            fprintf(stderr, "class %lld of type %s: '%s', wanted '%s'\n", (long long)c,
                    cps_class_text_types[type], texts[c], want[c]);
            failures++;
        }
    }
    cps_strings_destroy(texts, count);
    free(text);
    free(name);
    free(data[0]);
    outcome_free(&out);
}

static void test_texts(cps_comm *comm) {
    static const char *const sci[] = {"Pica hudsonia",     "Pica pica",     "Corvus corone",
                                      "Carassius auratus", "Cecidomyiidae", "Verbena hastata",
                                      "Verbena hastata"};
    static const char *const com[] = {
        "black-billed magpie", "Pica pica",       "carrion crow",   "goldfish",
        "gall midges",         "Verbena hastata", "Verbena hastata"};
    static const char *const sci_com[] = {"Pica hudsonia with common name black-billed magpie",
                                          "Pica pica",
                                          "Corvus corone with common name carrion crow",
                                          "Carassius auratus with common name goldfish",
                                          "Cecidomyiidae with common name gall midges",
                                          "Verbena hastata",
                                          "Verbena hastata"};
    check_texts(comm, 0, class_names, 0, 0);
    check_texts(comm, 1, class_names, 0, 0);
    check_texts(comm, 2, sci, 1, 1);
    check_texts(comm, 4, com, 3, 1);
    check_texts(comm, 5, sci_com, 1, 1);
}

/* The types that jobs may name are those that shards/taxon.h makes. */
static void test_text_types(cps_comm *comm) {
    int64_t count = 0;
    for (; cps_taxon_evaluation_types[count] != NULL; count++) {
        CHECK(strcmp(cps_class_text_types[1 + count], cps_taxon_evaluation_types[count]) == 0);
    }
    CHECK(cps_class_text_types[1 + count] == NULL);
}

/* ---- unseen classes ---- */

/* The unseen classes of `data` when training is `training`; NULL: not known. */
static uint8_t *find_unseen(cps_comm *comm, const char *training, const char *data,
                            cps_evaluation_streams *streams) {
    char *paths[] = {cps_format("%s/%s.h5", folder, training),
                     cps_format("%s/%s.h5", folder, data)};
    cps_shard_pool *pool = NULL;
    cps_stream *stream = NULL;
    MUST(cps_shard_pool_create(&pool));
    const cps_set_spec set = {.patterns = (const char *const *)paths, .pattern_count = 1};
    const cps_stream_spec spec = {.name = "paired", .sets = &set, .set_count = 1};
    MUST(cps_stream_create(&spec, 0, pool, &stream));
    const cps_evaluation_options options = {.kind = CPS_EVAL_ZERO_SHOT,
                                            .name = "unseen",
                                            .data = shards((const char *const *)paths + 1)};
    const cps_evaluation_options *list[] = {&options};
    cps_evaluation_streams *streams_list[] = {streams};
    MUST(cps_evaluation_streams_open(&options, pool, NULL, streams));
    const cps_stream *const trained[] = {stream};
    MUST(cps_evaluations_find_unseen(list, streams_list, 1, trained, 1));
    uint8_t *unseen = streams->unseen;
    streams->unseen = NULL;
    cps_evaluation_streams_close(streams);
    cps_stream_destroy(stream);
    cps_shard_pool_destroy(pool);
    free(paths[0]);
    free(paths[1]);
    return unseen;
}

static void test_unseen(cps_comm *comm) {
    /* Records 0 .. 3 show classes 0, 5, 3 and 1 and their organisms; 5 and 6 are one. */
    static const uint8_t by_organism[CLASSES] = {0, 0, 1, 0, 1, 0, 0};
    static const uint8_t by_name[CLASSES] = {0, 0, 1, 0, 1, 0, 1};
    cps_evaluation_streams streams = {0};
    uint8_t *unseen = find_unseen(comm, "taxa-few", "taxa65", &streams);
    CHECK(unseen != NULL && memcmp(unseen, by_organism, sizeof by_organism) == 0);
    free(unseen);
    unseen = find_unseen(comm, "four", "taxa65", &streams);
    CHECK(unseen != NULL && memcmp(unseen, by_name, sizeof by_name) == 0);
    free(unseen);
    CHECK(find_unseen(comm, "unlabelled", "taxa65", &streams) == NULL);
}

static void test_taxonomy_refusals(cps_comm *comm) {
    char *plain[1] = {cps_format("%s/d65.h5", folder)};
    char *few[1] = {cps_format("%s/taxa-few.h5", folder)};
    lookup table = {.exact = true, .nan_row = -1};
    cps_evaluation_options options = {
        .kind = CPS_EVAL_ZERO_SHOT, .name = "refused", .data = shards((const char *const *)plain)};
    options.zero_shot = (cps_zero_shot_options){.top = 5, .taxonomy = CPS_TAXONOMY_ON};
    expect_failure(comm, &options, &table, CPS_ERR_DATA, "taxonomy = \"on\", but no class has");
    options.zero_shot = (cps_zero_shot_options){.top = 5, .text = 2};
    expect_failure(comm, &options, &table, CPS_ERR_DATA,
                   "class 'class0' has no text of type \"sci\": its first record, 0 of '");
    options.data = shards((const char *const *)few);
    expect_failure(comm, &options, &table, CPS_ERR_DATA,
                   "class 'class2' has no record in the set's shards");
    options.zero_shot.text = 0;
    table.zero_row = text_number("class2");
    expect_failure(comm, &options, &table, CPS_ERR_DATA,
                   "the vector of class 2, 'class2', is zero");
    free(plain[0]);
    free(few[0]);
}

static void run_tests(cps_comm *comm) {
    static const int64_t counts[] = {65, 310};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        char *name = cps_format("d%lld", (long long)counts[i]);
        write_shard(comm, name, 0, counts[i], class_names, CLASSES);
        free(name);
        test_few_shot(comm, counts[i], true);
        test_few_shot(comm, counts[i], false);
    }
    test_few_shot_refusals(comm);
    rank_of = rank_text;
    write_shard(comm, "taxa-bank", 20, 60, class_names, CLASSES);
    write_shard(comm, "taxa-few", 0, 4, class_names, CLASSES);
    write_shard(comm, "taxa65", 0, 65, class_names, CLASSES);
    write_shard(comm, "taxa310", 0, 310, class_names, CLASSES);
    test_ranks(comm, 65);
    test_ranks(comm, 310);
    test_texts(comm);
    test_text_types(comm);
    test_unseen(comm);
    test_taxonomy_refusals(comm);
}
