/* stderr, one write a line, under one lock: lines of loader threads do not mix with the live line.
 */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 20480, ONCE_MAX = 256 };

static struct {
    pthread_mutex_t lock;
    cps_log_level level;
    int rank;
    bool every_rank;
    bool live; /* a live line stands on the terminal */
    int once_count;
    uint64_t once[ONCE_MAX]; /* texts that were shown by cps_log_once */
} log_state = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = CPS_LOG_INFO};

void cps_log_setup(cps_log_level level, int rank, bool every_rank) {
    pthread_mutex_lock(&log_state.lock);
    log_state.level = level;
    log_state.rank = rank;
    log_state.every_rank = every_rank;
    pthread_mutex_unlock(&log_state.lock);
}

bool cps_log_is_terminal(void) {
    return isatty(STDERR_FILENO) == 1;
}

static const char *level_prefix(cps_log_level level) {
    switch (level) {
    case CPS_LOG_ERROR:
        return "error: ";
    case CPS_LOG_WARN:
        return "warning: ";
    case CPS_LOG_INFO:
    case CPS_LOG_DEBUG:
        return "";
    }
    return "";
}

static void clear_live(void) {
    if (log_state.live) {
        fputs("\r\033[K", stderr);
        log_state.live = false;
    }
}

void cps_log(cps_log_level level, const char *format, ...) {
    char text[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    const int wanted = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (wanted < 0) {
        return;
    }
    pthread_mutex_lock(&log_state.lock);
    if (level <= log_state.level && (log_state.rank == 0 || log_state.every_rank)) {
        clear_live();
        if (log_state.rank != 0) {
            fprintf(stderr, "[rank %d] %s%s\n", log_state.rank, level_prefix(level), text);
        } else {
            fprintf(stderr, "%s%s\n", level_prefix(level), text);
        }
        fflush(stderr);
    }
    pthread_mutex_unlock(&log_state.lock);
}

void cps_log_once(cps_log_level level, const char *text) {
    uint64_t key = 14695981039346656037u; /* FNV-1a, 64 bits */
    for (const char *at = text; *at != '\0'; at++) {
        key = (key ^ (uint8_t)*at) * 1099511628211u;
    }
    bool seen = false;
    pthread_mutex_lock(&log_state.lock);
    for (int i = 0; i < log_state.once_count && !seen; i++) {
        seen = log_state.once[i] == key;
    }
    if (!seen && log_state.once_count < ONCE_MAX) {
        log_state.once[log_state.once_count++] = key;
    }
    pthread_mutex_unlock(&log_state.lock);
    if (!seen) {
        cps_log(level, "%s", text);
    }
}

void cps_log_live(const char *line) {
    if (!cps_log_is_terminal()) {
        return;
    }
    pthread_mutex_lock(&log_state.lock);
    if (log_state.rank == 0 && log_state.level >= CPS_LOG_INFO) {
        clear_live();
        if (line[0] != '\0') {
            fputs(line, stderr);
            log_state.live = true;
        }
        fflush(stderr);
    }
    pthread_mutex_unlock(&log_state.lock);
}

void cps_log_last_words(const char *text) {
    dprintf(STDERR_FILENO, "%scopse: %s\n", log_state.live ? "\r\033[K" : "", text);
}
