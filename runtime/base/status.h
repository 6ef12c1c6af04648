/* Failures: a status code, one message, a trail of context. The function that first knows the cause
 * calls cps_fail; callers pass the status up, or add context with cps_fail_context. The record is
 * per thread: read it on the thread that failed (the pool and the loader carry records of their
 * threads to the caller). Local; safe on any thread. */
#ifndef CPS_BASE_STATUS_H
#define CPS_BASE_STATUS_H

#include <stdarg.h>

#include "base/types.h"

/* Records `code` and the message (what happened, the value seen, the value wanted, what to do) and
 * returns `code`. A record that is there already is replaced. */
cps_status cps_fail(cps_status code, const char *format, ...) CPS_PRINTF(2, 3);
/* Puts "text: " in front of the message on record; returns `status` unchanged. Does nothing for
 * CPS_OK. */
cps_status cps_fail_context(cps_status status, const char *format, ...) CPS_PRINTF(2, 3);
/* Message on record of this thread, "" if none. Borrowed until the next failure on this thread. */
const char *cps_fail_message(void);
void cps_fail_clear(void);
/* Name of a code for logs: "bad data", "out of memory", ... */
const char *cps_status_name(cps_status status);
/* Exit code of the program for a status (PEER becomes INTERNAL). */
int cps_exit_code(cps_status status);

#define CPS_TRY(expression)                                                                        \
    do {                                                                                           \
        const cps_status try_ = (expression);                                                      \
        if (try_ != CPS_OK) {                                                                      \
            return try_;                                                                           \
        }                                                                                          \
    } while (0)

/* Ends the process on a broken invariant of ours through the panic hook (comm installs one that
 * aborts all ranks). */
typedef void (*cps_panic_hook)(const char *message);
void cps_panic_set_hook(cps_panic_hook hook);
_Noreturn void cps_panic(const char *file, int line, const char *condition);
#define CPS_BUG_IF(condition)                                                                      \
    do {                                                                                           \
        if (condition) {                                                                           \
            cps_panic(__FILE__, __LINE__, #condition);                                             \
        }                                                                                          \
    } while (0)

#endif
