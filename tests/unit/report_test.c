/* report/: progress lines, timing, the summary table, provenance. */
#include "report/progress.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "report/provenance.h"
#include "report/summary.h"
#include "report/timing.h"

static void sleep_seconds(double seconds) {
    const struct timespec wait = {.tv_nsec = (long)(seconds * 1e9)};
    nanosleep(&wait, NULL);
}

/* ---- progress ---- */

static void durations(void **state) {
    (void)state;
    char text[32];
    assert_string_equal(cps_duration_text(0.2, text), "0:00");
    assert_string_equal(cps_duration_text(245.0, text), "4:05");
    assert_string_equal(cps_duration_text(3599.6, text), "1:00:00");
    assert_string_equal(cps_duration_text(3723.0, text), "1:02:03");
    assert_string_equal(cps_duration_text(86400.0 * 2 + 3600.0 * 3 + 240.0, text), "2d 03:04");
    assert_string_equal(cps_duration_text((double)NAN, text), "?");
    assert_string_equal(cps_duration_text(-1.0, text), "?");
    assert_string_equal(cps_duration_text((double)INFINITY, text), "?");
}

static void lines(void **state) {
    (void)state;
    char line[CPS_PROGRESS_LINE];
    cps_progress_state at = {.step = 120, .steps = 2400, .epoch = 3, .epochs = 60, .loss = 1.2341};
    assert_string_equal(cps_progress_line(&at, 412.3, 245.0, line),
                        "step 120/2400  epoch 3/60  loss 1.234  412 samples/s  ETA 4:05");
    at.loss = (double)NAN;
    at.epochs = 0;
    at.stage = "dino";
    assert_string_equal(cps_progress_line(&at, (double)NAN, (double)NAN, line),
                        "dino  step 120/2400");
    at.doing = "evaluating val";
    assert_string_equal(cps_progress_line(&at, 3.14159, (double)NAN, line),
                        "dino  step 120/2400  evaluating val  3.14 samples/s");
    char long_name[400];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    at.stage = long_name;
    assert_int_equal(strlen(cps_progress_line(&at, 1.0, 1.0, line)), CPS_PROGRESS_LINE - 1);
}

static void rate_and_eta(void **state) {
    (void)state;
    cps_progress *progress = NULL;
    assert_int_equal(cps_progress_create(&progress), CPS_OK);
    assert_true(isnan(cps_progress_eta_seconds(progress)));
    cps_progress_state at = {.steps = 100, .loss = 1.0, .samples = 10};
    for (at.step = 1; at.step <= 5; at.step++) {
        cps_progress_step(progress, &at);
        sleep_seconds(0.02);
        cps_progress_pause(progress);
        sleep_seconds(0.05); /* an evaluation: none of it enters */
        cps_progress_resume(progress);
    }
    const double rate = cps_progress_samples_per_second(progress);
    assert_true(rate > 200.0 && rate < 501.0);
    const double eta = cps_progress_eta_seconds(progress);
    assert_true(eta > 95 * 0.0199 && eta < 95 * 0.05);
    at = (cps_progress_state){.step = 1, .steps = 10, .stage = "second", .loss = 1.0};
    cps_progress_step(progress, &at);
    assert_true(isnan(cps_progress_samples_per_second(progress)));
    cps_progress_destroy(progress);
    cps_progress_destroy(NULL);
}

/* ---- timing ---- */

static void phases_nest_and_add_up(void **state) {
    (void)state;
    cps_timing timing = {0};
    const double start = cps_seconds();
    cps_timing_begin(&timing, "step");
    sleep_seconds(0.01);
    cps_timing_begin(&timing, "loader");
    sleep_seconds(0.03);
    cps_timing_end(&timing);
    sleep_seconds(0.01);
    cps_timing_end(&timing);
    const double elapsed = cps_seconds() - start;
    assert_float_equal(cps_timing_total(&timing), elapsed, 0.002);
    assert_true(cps_timing_seconds(&timing, "loader") >= 0.03);
    assert_true(cps_timing_seconds(&timing, "step") >= 0.02);
    assert_true(cps_timing_seconds(&timing, "step") <= elapsed - 0.03);
    assert_true(cps_timing_seconds(&timing, "unheard of") == 0.0);
    cps_json *object = cps_json_new_object();
    cps_timing_add_json(&timing, object, "seconds");
    assert_true(cps_json_number(cps_json_path(object, "seconds.loader")) >= 0.03);
    cps_json_destroy(object);
    cps_timing_reset(&timing);
    assert_true(cps_timing_total(&timing) == 0.0);
}

static void peak_memory_grows(void **state) {
    (void)state;
    enum { MIB = 1 << 20 };
    const int64_t before = cps_peak_memory_bytes();
    assert_true(before > MIB);
    char *volatile block = malloc(64 * MIB);
    assert_non_null(block);
    memset(block, 1, 64 * MIB);
    assert_true(cps_peak_memory_bytes() >= before + 32 * MIB);
    free(block);
}

/* ---- summary ---- */

static bool is_rank(const char *metric) {
    return strstr(metric, "_rank") != NULL;
}

static void summary_table(void **state) {
    (void)state;
    static const char text[] =
        "[{\"event\":\"evaluation\",\"name\":\"cls\",\"step\":10,\"samples\":50,\"top1\":0.25},"
        "{\"event\":\"step\",\"step\":11,\"loss\":1},"
        "{\"event\":\"evaluation\",\"name\":\"cls\",\"step\":20,\"samples\":50,\"top1\":0.75},"
        "{\"event\":\"evaluation\",\"name\":\"ret\",\"step\":20,\"m_rank\":123.5},"
        "{\"event\":\"evaluation\",\"name\":\"cls\",\"step\":30,\"samples\":50,\"top1\":0.5,"
        "\"top1_low\":0.375,\"top1_high\":0.625,\"chance\":0.25,\"other_low\":2},"
        "{\"event\":\"evaluation\",\"name\":\"few\",\"step\":30,\"shot5\":0.5,\"shot5_std\":0.125,"
        "\"shot5_low\":0.375,\"shot5_high\":0.625,\"shot5_chance\":0.125},"
        "{\"event\":\"evaluation\",\"name\":\"ret\",\"step\":30,\"m_rank\":200},"
        "{\"event\":\"fit\",\"objective\":\"o\",\"stage\":\"map\",\"step\":30,\"pass\":1,\"c\":3},"
        "{\"event\":\"finish\",\"objective\":\"o\",\"stage\":\"map\",\"step\":30,\"pass\":1,"
        "\"samples\":50,\"r2\":0.875}]";
    cps_json *events = NULL;
    assert_int_equal(cps_json_parse(text, sizeof text - 1, "test", &events), CPS_OK);
    const cps_summary_facts facts = {.run = "demo",
                                     .steps = 30,
                                     .skipped = 1,
                                     .seconds = 65,
                                     .samples_per_second = 412,
                                     .bad_images = 2,
                                     .peak_memory_bytes = (int64_t)3 << 29,
                                     .ranks = 2,
                                     .threads = 1,
                                     .best_metric = "cls.top1"};
    char *page = cps_summary_text(events, &facts, is_rank);
    assert_string_equal(page,
                        "evaluation  metric           last        best    at step\n"
                        "cls         top1           0.5000      0.7500         20 *"
                        "  95 % in 0.3750 .. 0.6250, chance 0.2500\n"
                        "ret         m_rank            200       123.5         20\n"
                        "cls         other_low      2.0000      2.0000         30\n"
                        "few         shot5          0.5000      0.5000         30"
                        "  95 % in 0.3750 .. 0.6250, chance 0.1250\n"
                        "            shot5_std      0.1250      0.1250         30\n"
                        "map         r2             0.8750      0.8750         30\n"
                        "* the checkpoint of this step is kept as the best\n"
                        "demo: 30 steps (1 skipped)  time 1:05  412 samples/s  2 ranks x 1 thread"
                        "  memory 1.50 GiB a rank  2 bad images (quarantine.jsonl)\n");
    free(page);
    cps_json_destroy(events);
}

/* Stages that end at one step: rows of their own, and one of them has the best value. Stages at
 * different steps go on in one row. */
static void summary_of_stages(void **state) {
    (void)state;
    static const char text[] =
        "[{\"event\":\"evaluation\",\"name\":\"cls\",\"step\":8,\"stage\":\"clip\",\"top1\":0.25},"
        "{\"event\":\"evaluation\",\"name\":\"val\",\"step\":4,\"stage\":\"clip\",\"loss\":3},"
        "{\"event\":\"evaluation\",\"name\":\"cls\",\"step\":8,\"stage\":\"ridge\",\"top1\":0.75},"
        "{\"event\":\"evaluation\",\"name\":\"val\",\"step\":8,\"stage\":\"ridge\",\"loss\":2},"
        "{\"event\":\"evaluation\",\"name\":\"cls\",\"step\":8,\"stage\":\"more\",\"top1\":0.5}]";
    cps_json *events = NULL;
    assert_int_equal(cps_json_parse(text, sizeof text - 1, "test", &events), CPS_OK);
    const cps_summary_facts facts = {.run = "r",
                                     .steps = 8,
                                     .seconds = (double)NAN,
                                     .samples_per_second = (double)NAN,
                                     .ranks = 1,
                                     .threads = 1,
                                     .best_metric = "cls.top1"};
    char *page = cps_summary_text(events, &facts, is_rank);
    assert_string_equal(page, "evaluation   metric        last        best    at step\n"
                              "cls (clip)   top1        0.2500      0.2500          8\n"
                              "val          loss        2.0000      3.0000          4\n"
                              "cls (ridge)  top1        0.7500      0.7500          8 *\n"
                              "cls (more)   top1        0.5000      0.5000          8\n"
                              "* the checkpoint of this step is kept as the best\n"
                              "r: 8 steps  1 rank x 1 thread\n");
    free(page);
    cps_json_destroy(events);
}

/* The ranks of the taxonomy share a line, unless one of them chose the best checkpoint. */
static void summary_by_rank(void **state) {
    (void)state;
    static const char text[] =
        "[{\"event\":\"evaluation\",\"name\":\"taxa\",\"step\":10,\"top1\":0.5,\"text\":\"sci\","
        "\"rank_kingdom\":1,\"rank_phylum\":0.9,\"rank_class\":0.8,\"rank_order\":0.7,"
        "\"rank_family\":0.6,\"rank_genus\":0.5,\"rank_species\":0.5,\"shared_depth\":5}]";
    cps_json *events = NULL;
    assert_int_equal(cps_json_parse(text, sizeof text - 1, "test", &events), CPS_OK);
    cps_summary_facts facts = {.run = "demo",
                               .steps = 10,
                               .seconds = (double)NAN,
                               .samples_per_second = (double)NAN,
                               .ranks = 1,
                               .threads = 1};
    char *page = cps_summary_text(events, &facts, is_rank);
    assert_string_equal(page, "evaluation  metric              last        best    at step\n"
                              "taxa        top1              0.5000      0.5000         10\n"
                              "            rank_kingdom .. species  1.000  0.900  0.800  0.700"
                              "  0.600  0.500  0.500\n"
                              "            shared_depth      5.0000      5.0000         10\n"
                              "demo: 10 steps  1 rank x 1 thread\n");
    free(page);
    facts.best_metric = "taxa.rank_genus";
    page = cps_summary_text(events, &facts, is_rank);
    assert_non_null(strstr(page, "rank_genus        0.5000      0.5000         10 *\n"));
    assert_non_null(strstr(page, "rank_family "));
    free(page);
    cps_json_destroy(events);
}

static void summary_without_evaluations(void **state) {
    (void)state;
    cps_json *events = cps_json_new_array();
    const cps_summary_facts facts = {.run = "r",
                                     .steps = 1,
                                     .seconds = (double)NAN,
                                     .samples_per_second = (double)NAN,
                                     .ranks = 1,
                                     .threads = 2};
    char *page = cps_summary_text(events, &facts, is_rank);
    assert_string_equal(page, "r: 1 step  1 rank x 2 threads\n");
    free(page);
    cps_json_destroy(events);
}

/* ---- provenance ---- */

static void provenance_keeps_earlier_sessions(void **state) {
    (void)state;
    char folder[] = "/tmp/copse-provenance-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char *path = cps_format("%s/provenance.json", folder);
    char program[] = "copse", command[] = "train", job[] = "job \"x\".lua";
    char *argv[] = {program, command, job};
    const cps_provenance_fact digests[] = {{"data.paired", "00ff"}};
    cps_provenance provenance = {.copse_version = "0.1",
                                 .blas_core = "Haswell",
                                 .ranks = 2,
                                 .threads = 3,
                                 .argc = 3,
                                 .argv = argv,
                                 .digests = digests,
                                 .digest_count = 1};
    cps_json *run = cps_json_new_object();
    cps_json_add_array(run, "stages");
    cps_json_add_number(run, "before", 1);
    provenance.run = run;
    setenv("SLURM_JOB_ID", "4711", 1);
    assert_int_equal(cps_provenance_write(path, &provenance), CPS_OK);
    unsetenv("SLURM_JOB_ID");
    provenance.start_step = 20;
    cps_json_destroy(run);
    run = cps_json_new_object(); /* takes the place of what the earlier session said */
    cps_json_add_array(run, "stages");
    provenance.run = run;
    assert_int_equal(cps_provenance_write(path, &provenance), CPS_OK);
    cps_json *root = NULL;
    assert_int_equal(cps_json_read_file(path, 1 << 20, &root), CPS_OK);
    assert_int_equal(cps_json_count(cps_json_get(root, "sessions")), 2);
    const cps_json *first = cps_json_path(root, "sessions.0"),
                   *second = cps_json_path(root, "sessions.1");
    assert_string_equal(cps_json_string(cps_json_path(first, "slurm.SLURM_JOB_ID")), "4711");
    assert_null(cps_json_get(second, "slurm"));
    assert_int_equal(cps_json_get_integer(second, "start_step", -1), 20);
    assert_string_equal(cps_json_string(cps_json_path(first, "command.2")), job);
    assert_string_equal(cps_json_get_string(first, "blas_core", ""), "Haswell");
    assert_string_equal(cps_json_get_string(cps_json_get(first, "digests"), "data.paired", ""),
                        "00ff");
    assert_true(strlen(cps_json_get_string(first, "cpu", "")) > 0);
    assert_true(cps_json_is_array(cps_json_get(root, "stages")));
    assert_null(cps_json_get(root, "before"));
    cps_json_destroy(root);
    assert_int_equal(cps_file_append(path, "}", 1), CPS_OK);
    assert_int_equal(cps_provenance_write(path, &provenance), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), path));
    cps_json_destroy(run);
    unlink(path);
    rmdir(folder);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations),
        cmocka_unit_test(lines),
        cmocka_unit_test(rate_and_eta),
        cmocka_unit_test(phases_nest_and_add_up),
        cmocka_unit_test(peak_memory_grows),
        cmocka_unit_test(summary_table),
        cmocka_unit_test(summary_of_stages),
        cmocka_unit_test(summary_by_rank),
        cmocka_unit_test(summary_without_evaluations),
        cmocka_unit_test(provenance_keeps_earlier_sessions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
