/* The record is a plain thread-local buffer: recording a failure allocates nothing, so it works
 * when memory is gone. */
#include "base/status.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RECORD_BYTES = 16384 };

static _Thread_local char record[RECORD_BYTES];
static _Atomic(cps_panic_hook) panic_hook;

/* Marks a message that did not fit, so that nobody takes its end for the whole. */
static void mark_cut(char *text, int wanted) {
    if (wanted >= RECORD_BYTES) {
        memcpy(text + RECORD_BYTES - 4, "...", 4);
    }
}

cps_status cps_fail(cps_status code, const char *format, ...) {
    char text[RECORD_BYTES]; /* apart from the record: arguments may point into it */
    va_list arguments;
    va_start(arguments, format);
    const int wanted = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (wanted < 0) {
        text[0] = '\0';
    }
    mark_cut(text, wanted);
    memcpy(record, text, strlen(text) + 1);
    return code;
}

cps_status cps_fail_context(cps_status status, const char *format, ...) {
    if (status == CPS_OK) {
        return status;
    }
    char text[RECORD_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (used < 0 || used >= RECORD_BYTES) {
        return status; /* no room for context: the cause matters more */
    }
    const int more = snprintf(text + used, sizeof text - (size_t)used, ": %s", record);
    mark_cut(text, more < 0 ? used : used + more);
    memcpy(record, text, strlen(text) + 1);
    return status;
}

const char *cps_fail_message(void) {
    return record;
}

void cps_fail_clear(void) {
    record[0] = '\0';
}

const char *cps_status_name(cps_status status) {
    switch (status) {
    case CPS_OK:
        return "ok";
    case CPS_ERR_ENDED:
        return "run ended";
    case CPS_ERR_USAGE:
        return "wrong use";
    case CPS_ERR_DATA:
        return "bad data";
    case CPS_ERR_UNAVAILABLE:
        return "unavailable";
    case CPS_ERR_INTERNAL:
        return "internal error";
    case CPS_ERR_IO:
        return "I/O error";
    case CPS_ERR_SIGNAL:
        return "stopped by a signal";
    case CPS_ERR_PEER:
        return "another rank failed";
    }
    return "unknown status";
}

int cps_exit_code(cps_status status) {
    return status == CPS_ERR_PEER ? (int)CPS_ERR_INTERNAL : (int)status;
}

void cps_panic_set_hook(cps_panic_hook hook) {
    atomic_store(&panic_hook, hook);
}

_Noreturn void cps_panic(const char *file, int line, const char *condition) {
    char text[512];
    snprintf(text, sizeof text,
             "internal error at %s:%d: '%s' must not happen. This is a bug in copse: please report "
             "this line together with the job and the command",
             file, line, condition);
    const cps_panic_hook hook = atomic_load(&panic_hook);
    if (hook != NULL) {
        hook(text);
    }
    fprintf(stderr, "copse: %s\n", text);
    abort();
}
