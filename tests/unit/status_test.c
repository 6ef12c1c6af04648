#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/status.h"

static void records_code_and_message(void **state) {
    (void)state;
    assert_int_equal(cps_fail(CPS_ERR_DATA, "%d of %s", 3, "x"), CPS_ERR_DATA);
    assert_string_equal(cps_fail_message(), "3 of x");
    cps_fail_clear();
    assert_string_equal(cps_fail_message(), "");
}

static void context_goes_in_front(void **state) {
    (void)state;
    cps_status status = cps_fail(CPS_ERR_IO, "disk full");
    status = cps_fail_context(status, "shard '%s'", "a.h5");
    assert_int_equal(status, CPS_ERR_IO);
    assert_string_equal(cps_fail_message(), "shard 'a.h5': disk full");
    assert_int_equal(cps_fail_context(CPS_OK, "never"), CPS_OK);
    assert_string_equal(cps_fail_message(), "shard 'a.h5': disk full");
}

static void arguments_may_be_the_record(void **state) {
    (void)state;
    (void)cps_fail(CPS_ERR_DATA, "inner");
    (void)cps_fail(CPS_ERR_USAGE, "outer (%s)", cps_fail_message());
    assert_string_equal(cps_fail_message(), "outer (inner)");
}

static void long_messages_are_cut_and_marked(void **state) {
    (void)state;
    char *text = malloc(40001);
    memset(text, 'a', 40000);
    text[40000] = '\0';
    (void)cps_fail(CPS_ERR_DATA, "%s", text);
    const size_t length = strlen(cps_fail_message());
    assert_in_range(length, 1000, 39999);
    assert_string_equal(cps_fail_message() + length - 3, "...");
    (void)cps_fail_context(CPS_ERR_DATA, "where");
    assert_memory_equal(cps_fail_message(), "where: aaa", 10);
    assert_string_equal(cps_fail_message() + strlen(cps_fail_message()) - 3, "...");
    free(text);
}

static void *fail_elsewhere(void *seen) {
    *(bool *)seen = cps_fail_message()[0] != '\0';
    (void)cps_fail(CPS_ERR_IO, "other thread");
    return NULL;
}

static void records_are_per_thread(void **state) {
    (void)state;
    (void)cps_fail(CPS_ERR_DATA, "mine");
    bool seen = true;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &seen), 0);
    pthread_join(thread, NULL);
    assert_false(seen);
    assert_string_equal(cps_fail_message(), "mine");
}

static cps_status tries(cps_status status, int *after) {
    CPS_TRY(status);
    ++*after;
    return CPS_OK;
}

static void try_passes_failures_up(void **state) {
    (void)state;
    int after = 0;
    assert_int_equal(tries(CPS_ERR_DATA, &after), CPS_ERR_DATA);
    assert_int_equal(after, 0);
    assert_int_equal(tries(CPS_OK, &after), CPS_OK);
    assert_int_equal(after, 1);
}

static void exit_codes(void **state) {
    (void)state;
    assert_int_equal(cps_exit_code(CPS_OK), 0);
    assert_int_equal(cps_exit_code(CPS_ERR_DATA), 65);
    assert_int_equal(cps_exit_code(CPS_ERR_SIGNAL), 85);
    assert_int_equal(cps_exit_code(CPS_ERR_PEER), 70);
    assert_string_equal(cps_status_name(CPS_ERR_DATA), "bad data");
}

static void leave_with_42(const char *message) {
    _exit(strstr(message, "status_test.c") != NULL && strstr(message, "1 == 1") != NULL ? 42 : 43);
}

static int end_of_child(bool hooked) {
    const pid_t child = fork();
    if (child == 0) {
        (void)close(STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        cps_panic_set_hook(hooked ? leave_with_42 : NULL);
        CPS_BUG_IF(1 == 1);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

static void panic_calls_the_hook_or_aborts(void **state) {
    (void)state;
    const int hooked = end_of_child(true);
    assert_true(WIFEXITED(hooked) && WEXITSTATUS(hooked) == 42);
    const int plain = end_of_child(false);
    assert_true(WIFSIGNALED(plain) && WTERMSIG(plain) == SIGABRT);
    CPS_BUG_IF(1 == 2); /* a condition that does not hold is nothing */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_code_and_message),
        cmocka_unit_test(context_goes_in_front),
        cmocka_unit_test(arguments_may_be_the_record),
        cmocka_unit_test(long_messages_are_cut_and_marked),
        cmocka_unit_test(records_are_per_thread),
        cmocka_unit_test(try_passes_failures_up),
        cmocka_unit_test(exit_codes),
        cmocka_unit_test(panic_calls_the_hook_or_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
