#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static FILE *captured;
static int kept;

static void begin(void) {
    captured = tmpfile();
    assert_non_null(captured);
    fflush(stderr);
    kept = dup(STDERR_FILENO);
    dup2(fileno(captured), STDERR_FILENO);
}

/* What was written to stderr since begin(). */
static const char *end(void) {
    static char text[4096];
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    rewind(captured);
    const size_t length = fread(text, 1, sizeof text - 1, captured);
    text[length] = '\0';
    fclose(captured);
    return text;
}

static void levels(void **state) {
    (void)state;
    begin();
    cps_log_setup(CPS_LOG_WARN, 0, false);
    cps_log(CPS_LOG_INFO, "quiet");
    cps_log(CPS_LOG_WARN, "%d images left out", 3);
    cps_log(CPS_LOG_ERROR, "no such file");
    assert_string_equal(end(), "warning: 3 images left out\nerror: no such file\n");
}

static void ranks(void **state) {
    (void)state;
    begin();
    cps_log_setup(CPS_LOG_INFO, 2, false);
    cps_log(CPS_LOG_ERROR, "silent");
    cps_log_setup(CPS_LOG_INFO, 2, true);
    cps_log(CPS_LOG_INFO, "step 3");
    cps_log_setup(CPS_LOG_INFO, 2, false);
    cps_log_last_words("rank 2 (n1): over");
    assert_string_equal(end(), "[rank 2] step 3\ncopse: rank 2 (n1): over\n");
}

static void live_line_is_for_terminals(void **state) {
    (void)state;
    begin();
    cps_log_setup(CPS_LOG_INFO, 0, false);
    cps_log_live("step 1");
    cps_log(CPS_LOG_INFO, "message");
    cps_log_live("");
    const bool terminal = cps_log_is_terminal();
    assert_string_equal(end(), "message\n");
    assert_false(terminal);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels),
        cmocka_unit_test(ranks),
        cmocka_unit_test(live_line_is_for_terminals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
