#include "report/timing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

static int32_t find_phase(const cps_timing *timing, const char *phase) {
    for (int32_t i = 0; i < timing->count; i++) {
        if (strcmp(timing->names[i], phase) == 0) {
            return i;
        }
    }
    return -1;
}

/* Books the time since the last change on the innermost phase. */
static void book(cps_timing *timing) {
    const double now = cps_seconds();
    if (timing->depth > 0) {
        timing->seconds[timing->open[timing->depth - 1]] += now - timing->since;
    }
    timing->since = now;
}

void cps_timing_begin(cps_timing *timing, const char *phase) {
    int32_t index = find_phase(timing, phase);
    if (index < 0) {
        CPS_BUG_IF(timing->count == CPS_TIMING_PHASES);
        index = timing->count++;
        timing->names[index] = phase;
    }
    CPS_BUG_IF(timing->depth == CPS_TIMING_DEPTH);
    book(timing);
    timing->open[timing->depth++] = index;
    timing->calls[index]++;
}

void cps_timing_end(cps_timing *timing) {
    CPS_BUG_IF(timing->depth == 0);
    book(timing);
    timing->depth--;
}

double cps_timing_seconds(const cps_timing *timing, const char *phase) {
    const int32_t index = find_phase(timing, phase);
    return index < 0 ? 0.0 : timing->seconds[index];
}

double cps_timing_total(const cps_timing *timing) {
    double total = 0.0;
    for (int32_t i = 0; i < timing->count; i++) {
        total += timing->seconds[i];
    }
    return total;
}

void cps_timing_reset(cps_timing *timing) {
    memset(timing->seconds, 0, sizeof timing->seconds);
    memset(timing->calls, 0, sizeof timing->calls);
    timing->since = cps_seconds();
}

void cps_timing_add_json(const cps_timing *timing, cps_json *object, const char *key) {
    cps_json *phases = cps_json_add_object(object, key);
    for (int32_t i = 0; i < timing->count; i++) {
        cps_json_add_number(phases, timing->names[i], timing->seconds[i]);
    }
}

/* Line `key` of this process's status, which is in kB there. */
static int64_t status_bytes(const char *key) {
    FILE *file = fopen("/proc/self/status", "re");
    int64_t kilobytes = 0;
    char line[256];
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) {
            kilobytes = strtoll(line + strlen(key), NULL, 10);
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return kilobytes * 1024;
}

int64_t cps_peak_memory_bytes(void) {
    return status_bytes("VmHWM:");
}

int64_t cps_resident_memory_bytes(void) {
    return status_bytes("VmRSS:");
}
