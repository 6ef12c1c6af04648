/* The rate is a mean over steps whose weights halve every 20 steps, of samples over seconds, so
 * that a slow step counts by its time. */
#include "report/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"

struct cps_progress {
    double last;    /* end of the step before, or of the pause; seconds */
    double carried; /* of the step under way, from before the pause */
    bool started, paused;
    double weight, seconds, samples; /* faded sums over steps */
    int64_t step, steps;             /* as last told */
    double first_shown, last_shown;
    bool shown;
    char stage[64];
};

cps_status cps_progress_create(cps_progress **progress_out) {
    cps_progress *progress = calloc(1, sizeof *progress);
    if (progress == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory");
    }
    *progress_out = progress;
    return CPS_OK;
}

void cps_progress_destroy(cps_progress *progress) {
    if (progress != NULL) {
        cps_log_live("");
        free(progress);
    }
}

void cps_progress_pause(cps_progress *progress) {
    if (!progress->paused) {
        progress->carried += cps_seconds() - progress->last;
        progress->paused = true;
    }
}

void cps_progress_resume(cps_progress *progress) {
    if (progress->paused) {
        progress->last = cps_seconds();
        progress->paused = false;
    }
}

double cps_progress_samples_per_second(const cps_progress *progress) {
    return progress->seconds > 0.0 ? progress->samples / progress->seconds : (double)NAN;
}

double cps_progress_eta_seconds(const cps_progress *progress) {
    if (progress->weight <= 0.0) {
        return (double)NAN;
    }
    return progress->seconds / progress->weight * (double)(progress->steps - progress->step);
}

const char *cps_duration_text(double seconds, char buffer[32]) {
    if (!(seconds >= 0.0) || seconds > 1e9) {
        snprintf(buffer, 32, "?");
        return buffer;
    }
    const int64_t whole = (int64_t)(seconds + 0.5);
    const int hours = (int)(whole / 3600), minutes = (int)(whole / 60 % 60);
    if (hours >= 24) {
        snprintf(buffer, 32, "%dd %02d:%02d", hours / 24, hours % 24, minutes);
    } else if (hours > 0) {
        snprintf(buffer, 32, "%d:%02d:%02d", hours, minutes, (int)(whole % 60));
    } else {
        snprintf(buffer, 32, "%d:%02d", minutes, (int)(whole % 60));
    }
    return buffer;
}

/* Appends to a line that may be full. */
static void put(char buffer[CPS_PROGRESS_LINE], const char *format, ...) CPS_PRINTF(2, 3);
static void put(char buffer[CPS_PROGRESS_LINE], const char *format, ...) {
    const size_t used = strlen(buffer);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer + used, CPS_PROGRESS_LINE - used, format, arguments);
    va_end(arguments);
}

const char *cps_progress_line(const cps_progress_state *state, double samples_per_second,
                              double eta_seconds, char buffer[CPS_PROGRESS_LINE]) {
    char duration[32];
    buffer[0] = '\0';
    if (state->stage != NULL) {
        put(buffer, "%s  ", state->stage);
    }
    put(buffer, "step %lld/%lld", (long long)state->step, (long long)state->steps);
    if (state->epochs > 0) {
        put(buffer, "  epoch %lld/%lld", (long long)state->epoch, (long long)state->epochs);
    }
    if (state->doing != NULL) {
        put(buffer, "  %s", state->doing);
    } else if (!isnan(state->loss)) {
        put(buffer, fabs(state->loss) < 1000.0 ? "  loss %.3f" : "  loss %.4g", state->loss);
    }
    if (samples_per_second > 0.0) {
        put(buffer, samples_per_second < 10.0 ? "  %.2f samples/s" : "  %.0f samples/s",
            samples_per_second);
    }
    if (!isnan(eta_seconds)) {
        put(buffer, "  ETA %s", cps_duration_text(eta_seconds, duration));
    }
    return buffer;
}

/* Terminal: ten times a second at most. Plain lines: every 10 s of the first minute, then every 30
 * s; the first and the last step always. */
static bool is_due(const cps_progress *progress, const cps_progress_state *state, double now) {
    if (!progress->shown || state->step >= state->steps) {
        return true;
    }
    if (cps_log_is_terminal()) {
        return state->doing != NULL || now - progress->last_shown >= 0.1;
    }
    return now - progress->last_shown >= (now - progress->first_shown < 60.0 ? 10.0 : 30.0);
}

static void show(cps_progress *progress, const cps_progress_state *state, double now) {
    char line[CPS_PROGRESS_LINE];
    cps_progress_line(state, cps_progress_samples_per_second(progress),
                      cps_progress_eta_seconds(progress), line);
    if (cps_log_is_terminal() && (state->step < state->steps || state->doing != NULL)) {
        cps_log_live(line);
    } else {
        cps_log(CPS_LOG_INFO, "%s", line);
    }
    progress->first_shown = progress->shown ? progress->first_shown : now;
    progress->last_shown = now;
    progress->shown = true;
}

/* A new stage, or steps that do not go on from the last one: the old rate says nothing. */
static void start_afresh(cps_progress *progress, const char *stage, double now) {
    *progress = (cps_progress){.started = true, .last = now};
    snprintf(progress->stage, sizeof progress->stage, "%s", stage);
}

void cps_progress_step(cps_progress *progress, const cps_progress_state *state) {
    const double now = cps_seconds();
    const char *stage = state->stage != NULL ? state->stage : "";
    if (!progress->started || strncmp(stage, progress->stage, sizeof progress->stage - 1) != 0 ||
        state->step < progress->step) {
        start_afresh(progress, stage, now);
    } else if (state->step > progress->step) {
        static const double fade = 0.96593632892484555; /* 0.5^(1/20) */
        const double seconds = progress->carried + (progress->paused ? 0.0 : now - progress->last);
        progress->weight = progress->weight * fade + (double)(state->step - progress->step);
        progress->seconds = progress->seconds * fade + seconds;
        progress->samples = progress->samples * fade + (double)state->samples;
        progress->last = now;
        progress->carried = 0.0;
        progress->paused = false;
    }
    progress->step = state->step;
    progress->steps = state->steps;
    if (is_due(progress, state, now)) {
        show(progress, state, now);
    }
}
