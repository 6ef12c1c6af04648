/* Few-shot classification and what the tree of life adds to evaluations, from shards to metrics and
 * predictions, on the ranks that are there. */
#include "eval_world.h"

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
}
