/* report/heartbeat: what is written when, what earlier sessions leave, and records that must not be
 * hidden. */
#include "report/heartbeat.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

static char folder[64];
static char path[128];

static const cps_heartbeat_session session = {
    .run = "demo", .hosts = "n01*2 n02*2", .ranks = 4, .threads = 3};

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/copse-heartbeat-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/heartbeat.json", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    chmod(folder, 0700);
    unlink(path);
    return rmdir(folder); /* fails where a file under another name was left */
}

static cps_json *record(void) {
    cps_json *json = NULL;
    assert_int_equal(cps_json_read_file(path, 1 << 20, &json), CPS_OK);
    return json;
}

static void assert_state(const char *state) {
    cps_json *json = record();
    assert_string_equal(cps_json_get_string(json, "state", ""), state);
    cps_json_destroy(json);
}

static cps_heartbeat_place place_at(int64_t step) {
    return (cps_heartbeat_place){.stage = "main",
                                 .stage_number = 1,
                                 .stages = 2,
                                 .step = step,
                                 .steps = 100,
                                 .epoch = 2,
                                 .epochs = 5,
                                 .loss = 1.5,
                                 .samples_per_second = 40.0,
                                 .eta_seconds = 60.0};
}

static void note_evaluation(cps_heartbeat *beat, const char *name, int64_t step, double value) {
    cps_json *metrics = cps_json_new_object();
    cps_json_add_number(metrics, "top1", value);
    cps_json_add_array(metrics, "by_class"); /* is no number */
    const cps_heartbeat_result result = {.name = name,
                                         .stage = "main",
                                         .step = step,
                                         .metrics = metrics,
                                         .metric = "top1",
                                         .is_main = true};
    cps_heartbeat_evaluation(beat, &result);
    cps_json_destroy(metrics);
}

/* A session that stands at `step`, has evaluated there, and ends as said; not ended: as if it were
 * killed. */
static void run_session(int64_t step, cps_heartbeat_state end, int code, const char *message) {
    cps_heartbeat *beat = cps_heartbeat_open(folder, &session);
    cps_heartbeat_enter(beat, 0);
    const cps_heartbeat_place place = place_at(step);
    cps_heartbeat_step(beat, &place);
    note_evaluation(beat, "set", step, 0.25);
    cps_heartbeat_checkpoint(beat, step);
    cps_heartbeat_end(beat, end, code, message);
    cps_heartbeat_close(beat);
}

static void members(void **state) {
    (void)state;
    run_session(20, CPS_BEAT_FAILED, 65, "shard 'a.h5' is damaged");
    cps_json *json = record();
    assert_string_equal(cps_json_get_string(json, "name", ""), "demo");
    assert_string_equal(cps_json_get_string(json, "state", ""), "failed");
    assert_int_equal(cps_json_get_integer(json, "exit_code", -1), 65);
    assert_string_equal(cps_json_get_string(json, "message", ""), "shard 'a.h5' is damaged");
    assert_int_equal(cps_json_get_integer(json, "step", -1), 20);
    assert_int_equal(cps_json_get_integer(json, "steps", -1), 100);
    assert_string_equal(cps_json_get_string(json, "stage", ""), "main");
    assert_int_equal(cps_json_get_integer(json, "epoch", -1), 2);
    assert_int_equal(cps_json_get_integer(json, "checkpoint_step", -1), 20);
    assert_string_equal(cps_json_get_string(json, "hosts", ""), "n01*2 n02*2");
    assert_int_equal(cps_json_get_integer(json, "pid", -1), getpid());
    assert_int_equal(cps_json_get_integer(json, "process_start", -1), cps_process_start(getpid()));
    assert_int_equal(cps_json_get_integer(json, "sessions", -1), 1);
    assert_true(cps_json_get_number(json, "loss", 0.0) == 1.5);
    assert_null(cps_json_get(json, "eta_seconds")); /* it has ended */
    assert_string_equal(cps_json_get_string(json, "main_evaluation", ""), "set");
    assert_true(cps_json_number(cps_json_path(json, "evaluations.set.values.top1")) == 0.25);
    assert_null(cps_json_path(json, "evaluations.set.values.by_class"));
    cps_json_destroy(json);
}

static void unknown_numbers_are_left_out(void **state) {
    (void)state;
    cps_heartbeat *beat = cps_heartbeat_open(folder, &session);
    cps_heartbeat_place place = place_at(1);
    place.loss = place.eta_seconds = place.samples_per_second = (double)NAN;
    cps_heartbeat_step(beat, &place);
    cps_heartbeat_end(beat, CPS_BEAT_STOPPED, 0, NULL);
    cps_heartbeat_close(beat);
    cps_json *json = record();
    assert_null(cps_json_get(json, "loss"));
    assert_null(cps_json_get(json, "samples_per_second"));
    assert_null(cps_json_get(json, "message"));
    cps_json_destroy(json);
}

static void not_written_more_often_than_said(void **state) {
    (void)state;
    cps_heartbeat *beat = cps_heartbeat_open(folder, &session);
    assert_state("starting");
    cps_heartbeat_place place = place_at(1);
    for (int i = 1; i <= 100; i++) {
        place.step = i;
        cps_heartbeat_step(beat, &place);
        cps_heartbeat_doing(beat, true, "evaluating set");
        cps_heartbeat_alive(beat);
    }
    assert_state("running"); /* the first step; 299 more calls in less than CPS_HEARTBEAT_SECONDS */
    cps_json *json = record();
    assert_int_equal(cps_json_get_integer(json, "step", 0), 1);
    cps_json_destroy(json);
    cps_heartbeat_end(beat, CPS_BEAT_DONE, 0, NULL);
    assert_state("done");
    cps_heartbeat_close(beat);
}

static void a_resumed_run_keeps_results_up_to_its_step(void **state) {
    (void)state;
    run_session(20, CPS_BEAT_CHECKPOINTED, 85, "a signal asked to stop");
    cps_heartbeat *beat = cps_heartbeat_open(folder, &session);
    cps_json *json = record(); /* not entered: as the session before left it, but for the state */
    assert_string_equal(cps_json_get_string(json, "state", ""), "starting");
    assert_int_equal(cps_json_get_integer(json, "step", -1), 20);
    assert_int_equal(cps_json_get_integer(json, "sessions", -1), 2);
    assert_null(cps_json_get(json, "message"));
    cps_json_destroy(json);
    cps_heartbeat_enter(beat, 20);
    json = record();
    assert_non_null(cps_json_path(json, "evaluations.set"));
    cps_json_destroy(json);
    cps_heartbeat_enter(beat, 10); /* an older checkpoint: what was evaluated at 20 comes again */
    json = record();
    assert_null(cps_json_path(json, "evaluations.set"));
    assert_null(cps_json_get(json, "main_evaluation"));
    assert_int_equal(cps_json_get_integer(json, "checkpoint_step", -1), 10);
    cps_json_destroy(json);
    cps_heartbeat_close(beat);
}

static void a_done_run_is_not_hidden(void **state) {
    (void)state;
    run_session(100, CPS_BEAT_DONE, 0, NULL);
    cps_heartbeat *beat = cps_heartbeat_open(folder, &session);
    assert_state("done");
    cps_heartbeat_end(beat, CPS_BEAT_FAILED, 64, "it was started from another job");
    cps_heartbeat_close(beat);
    assert_state("done");
    beat = cps_heartbeat_open(folder, &session);
    cps_heartbeat_enter(beat, 100); /* its job grew */
    assert_state("starting");
    cps_heartbeat_close(beat);
}

/* The record of another process, of which pid and start are given. */
static void write_record_of(int64_t pid, int64_t start) {
    char host[256], boot[64] = "";
    assert_int_equal(gethostname(host, sizeof host), 0);
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (file != NULL) {
        assert_non_null(fgets(boot, sizeof boot, file));
        boot[strcspn(boot, "\n")] = '\0';
        fclose(file);
    }
    char *text = cps_format("{\"state\":\"running\",\"step\":7,\"host\":\"%s\",\"boot\":\"%s\","
                            "\"pid\":%lld,\"process_start\":%lld}",
                            host, boot, (long long)pid, (long long)start);
    assert_int_equal(cps_file_write_atomic(path, text, strlen(text)), CPS_OK);
    free(text);
}

static void a_living_run_is_left_alone(void **state) {
    (void)state;
    write_record_of(getppid(), cps_process_start(getppid()));
    cps_heartbeat_close(cps_heartbeat_open(folder, &session));
    assert_state("running");
    write_record_of(getppid(), cps_process_start(getppid()) + 1); /* the pid was used again */
    cps_heartbeat_close(cps_heartbeat_open(folder, &session));
    assert_state("starting");
}

static void fresh_waits_for_the_old_folder_to_go(void **state) {
    (void)state;
    run_session(20, CPS_BEAT_CHECKPOINTED, 85, "a signal");
    cps_heartbeat_session fresh = session;
    fresh.fresh = true;
    cps_heartbeat *beat = cps_heartbeat_open(folder, &fresh);
    assert_state("checkpointed");
    assert_int_equal(unlink(path), 0); /* moved aside */
    cps_heartbeat_enter(beat, 0);
    cps_json *json = record();
    assert_int_equal(cps_json_get_integer(json, "sessions", -1), 1);
    assert_int_equal(cps_json_get_integer(json, "step", -1), 0);
    assert_null(cps_json_path(json, "evaluations.set"));
    cps_json_destroy(json);
    cps_heartbeat_close(beat);
}

static void a_damaged_record_is_replaced(void **state) {
    (void)state;
    static const char *const texts[] = {"", "{\"state\":\"runn", "[1,2]",
                                        "{\"state\":7,\"step\":\"x\"}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(cps_file_write_atomic(path, texts[i], strlen(texts[i])), CPS_OK);
        cps_heartbeat_close(cps_heartbeat_open(folder, &session));
        assert_state("starting");
    }
}

static void a_failed_write_ends_nothing(void **state) {
    (void)state;
    cps_heartbeat *beat = cps_heartbeat_open(folder, &session);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0); /* rename onto a folder fails, for root too */
    assert_int_equal(cps_fail(CPS_ERR_DATA, "what the run itself says"), CPS_ERR_DATA);
    cps_heartbeat_end(beat, CPS_BEAT_FAILED, 65, "what the run itself says");
    assert_string_equal(cps_fail_message(), "what the run itself says");
    cps_heartbeat_close(beat);
    assert_int_equal(rmdir(path), 0);
}

static void nobody_writes(void **state) {
    (void)state;
    const cps_heartbeat_place place = place_at(1);
    cps_heartbeat_enter(NULL, 1);
    cps_heartbeat_step(NULL, &place);
    cps_heartbeat_doing(NULL, true, "evaluating set");
    cps_heartbeat_alive(NULL);
    note_evaluation(NULL, "set", 1, 0.5);
    cps_heartbeat_checkpoint(NULL, 1);
    cps_heartbeat_end(NULL, CPS_BEAT_DONE, 0, NULL);
    cps_heartbeat_close(NULL);
    assert_false(cps_file_exists(path));
}

static void process_starts(void **state) {
    (void)state;
    assert_true(cps_process_start(getpid()) > 0);
    assert_true(cps_process_start(getppid()) <= cps_process_start(getpid()));
    assert_int_equal(cps_process_start(99999999), -1);
}

#define HERE(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        HERE(members),
        HERE(unknown_numbers_are_left_out),
        HERE(not_written_more_often_than_said),
        HERE(a_resumed_run_keeps_results_up_to_its_step),
        HERE(a_done_run_is_not_hidden),
        HERE(a_living_run_is_left_alone),
        HERE(fresh_waits_for_the_old_folder_to_go),
        HERE(a_damaged_record_is_replaced),
        HERE(a_failed_write_ends_nothing),
        HERE(nobody_writes),
        cmocka_unit_test(process_starts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
