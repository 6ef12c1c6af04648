/* The record is put together from plain fields at each write. What earlier sessions left (last
 * evaluations, number of sessions) is read once, at the start. */
#include "report/heartbeat.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

enum { MAX_FILE_BYTES = 1 << 22, NAME_BYTES = 256, MAX_EVALUATIONS = 64 };

typedef struct result {
    char *name;
    cps_json *json; /* {"step":..,"stage":..,"metric":"top1","values":{"top1":0.5,...}} */
} result;

struct cps_heartbeat {
    char *path, *run, *hosts;
    int32_t ranks, threads;
    bool silent; /* the record there belongs to another session */
    bool warned;
    char host[NAME_BYTES], boot[64];
    int64_t process_start;
    double started; /* wall clock */
    double written; /* cps_seconds of the last write */
    double longest; /* between two beats of this session */
    int64_t sessions;
    cps_heartbeat_state state;
    char doing[NAME_BYTES], stage[NAME_BYTES];
    cps_heartbeat_place place;
    int64_t checkpoint_step; /* -1: none */
    int32_t result_count;
    result results[MAX_EVALUATIONS];
    char *main_result; /* evaluation that stands for the run; NULL: none */
    int exit_code;     /* -1: goes on */
    char *message;
    cps_json *before; /* record of the session before; NULL: none */
};

static const char *state_name(cps_heartbeat_state state) {
    static const char *const names[] = {"starting", "running", "evaluating", "checkpointed",
                                        "stopped",  "done",    "failed"};
    return names[state];
}

/* ---- this process ---- */

/* First line of a small file of the system, "" where there is none. */
static void read_line(const char *path, char *line, int bytes) {
    FILE *file = fopen(path, "re");
    if (file == NULL || fgets(line, bytes, file) == NULL) {
        line[0] = '\0';
    }
    line[strcspn(line, "\n")] = '\0';
    if (file != NULL) {
        fclose(file);
    }
}

int64_t cps_process_start(int64_t pid) {
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    read_line(path, line, sizeof line);
    const char *at = strrchr(line, ')'); /* the name before it may hold blanks and brackets */
    if (at != NULL && strncmp(at, ") Z", 3) == 0) {
        return -1; /* has ended, and its parent has not looked yet */
    }
    for (int field = 2; at != NULL && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    return at != NULL ? strtoll(at + 1, NULL, 10) : -1;
}

static double wall_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- the record ---- */

static void add_if(cps_json *json, const char *key, double value) {
    if (isfinite(value)) {
        cps_json_add_number(json, key, value);
    }
}

static void add_place(const cps_heartbeat *beat, cps_json *json) {
    const cps_heartbeat_place *place = &beat->place;
    cps_json_add_number(json, "step", (double)place->step);
    if (place->stages > 0) { /* else no session came so far */
        cps_json_add_number(json, "steps", (double)place->steps);
        cps_json_add_string(json, "stage", beat->stage);
        cps_json_add_number(json, "stage_number", (double)place->stage_number);
        cps_json_add_number(json, "stages", (double)place->stages);
    }
    if (place->epochs > 0) {
        cps_json_add_number(json, "epoch", (double)place->epoch);
        cps_json_add_number(json, "epochs", (double)place->epochs);
    }
    add_if(json, "loss", place->loss);
    add_if(json, "samples_per_second", place->samples_per_second);
    if (beat->exit_code < 0) {
        add_if(json, "eta_seconds", place->eta_seconds);
    }
    cps_json_add_number(json, "skipped", (double)place->skipped);
    cps_json_add_number(json, "bad_images", (double)place->bad_images);
    if (beat->checkpoint_step >= 0) {
        cps_json_add_number(json, "checkpoint_step", (double)beat->checkpoint_step);
    }
}

static void add_results(const cps_heartbeat *beat, cps_json *json) {
    cps_json *evaluations = cps_json_add_object(json, "evaluations");
    for (int32_t i = 0; i < beat->result_count; i++) {
        cps_json_add_copy(evaluations, beat->results[i].name, beat->results[i].json);
    }
    if (beat->main_result != NULL) {
        cps_json_add_string(json, "main_evaluation", beat->main_result);
    }
}

static void add_slurm(cps_json *json) {
    static const char *const names[][2] = {{"SLURM_JOB_ID", "job"},
                                           {"SLURM_ARRAY_JOB_ID", "array_job"},
                                           {"SLURM_ARRAY_TASK_ID", "array_task"},
                                           {"SLURM_RESTART_COUNT", "restarts"},
                                           {"SLURM_JOB_NODELIST", "nodes"},
                                           {"SLURM_JOB_PARTITION", "partition"}};
    if (getenv(names[0][0]) == NULL) {
        return;
    }
    cps_json *slurm = cps_json_add_object(json, "slurm");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *value = getenv(names[i][0]);
        if (value != NULL) {
            cps_json_add_string(slurm, names[i][1], value);
        }
    }
}

static void add_process(const cps_heartbeat *beat, cps_json *json) {
    cps_json_add_string(json, "hosts", beat->hosts);
    cps_json_add_number(json, "ranks", beat->ranks);
    cps_json_add_number(json, "threads", beat->threads);
    cps_json_add_string(json, "host", beat->host);
    cps_json_add_string(json, "boot", beat->boot);
    cps_json_add_number(json, "pid", (double)getpid());
    cps_json_add_number(json, "process_start", (double)beat->process_start);
    add_slurm(json);
    cps_json_add_number(json, "sessions", (double)beat->sessions);
    cps_json_add_number(json, "started", floor(beat->started));
    cps_json_add_number(json, "written", floor(wall_seconds() * 10.0) / 10.0);
    cps_json_add_number(json, "interval", CPS_HEARTBEAT_SECONDS);
    cps_json_add_number(json, "longest_interval", ceil(beat->longest));
}

static char *record_text(const cps_heartbeat *beat) {
    cps_json *json = cps_json_new_object();
    cps_json_add_number(json, "format", 1);
    cps_json_add_string(json, "name", beat->run);
    cps_json_add_string(json, "state", state_name(beat->state));
    if (beat->doing[0] != '\0') {
        cps_json_add_string(json, "doing", beat->doing);
    }
    if (beat->exit_code >= 0) {
        cps_json_add_number(json, "exit_code", beat->exit_code);
    }
    if (beat->message != NULL) {
        cps_json_add_string(json, "message", beat->message);
    }
    add_place(beat, json);
    add_results(beat, json);
    add_process(beat, json);
    char *text = cps_json_print(json, false, false);
    cps_json_destroy(json);
    char *line = cps_format("%s\n", text);
    free(text);
    return line;
}

/* ---- writing ---- */

/* 0, or the errno of the failure; base/file would put it on record, where a run's own failure
 * stands. */
static int write_file(const char *path, const char *text, bool sync) {
    const int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0) {
        return errno;
    }
    int error = 0;
    for (size_t left = strlen(text); left > 0 && error == 0;) {
        const ssize_t done = write(file, text, left);
        if (done > 0) {
            text += done;
            left -= (size_t)done;
        } else if (done == 0 || errno != EINTR) {
            error = done == 0 ? EIO : errno;
        }
    }
    if (error == 0 && sync && fsync(file) != 0) {
        error = errno;
    }
    return close(file) != 0 && error == 0 ? errno : error;
}

static void write_record(cps_heartbeat *beat, bool sync) {
    if (beat->silent) {
        return;
    }
    const double now = cps_seconds();
    beat->longest = fmax(beat->longest, beat->written > 0.0 ? now - beat->written : 0.0);
    beat->written = now;
    char *text = record_text(beat);
    char *temporary = cps_file_temporary_name(beat->path);
    int error = write_file(temporary, text, sync);
    if (error == 0 && rename(temporary, beat->path) != 0) {
        error = errno;
    }
    if (error != 0) {
        unlink(temporary);
    }
    if (error != 0 && !beat->warned) {
        beat->warned = true;
        cps_log(CPS_LOG_WARN,
                "cannot write '%s': %s. The run goes on; 'copse status' will not see how far it is",
                beat->path, strerror(error));
    }
    free(temporary);
    free(text);
}

static void write_if_due(cps_heartbeat *beat) {
    if (cps_seconds() - beat->written >= CPS_HEARTBEAT_SECONDS) {
        write_record(beat, false);
    }
}

/* ---- results ---- */

/* Takes `json`. Of too many evaluations the later names are left out; events.jsonl has them all. */
static void keep_result(cps_heartbeat *beat, const char *name, cps_json *json) {
    int32_t i = 0;
    while (i < beat->result_count && strcmp(beat->results[i].name, name) != 0) {
        i++;
    }
    if (i == MAX_EVALUATIONS) {
        cps_json_destroy(json);
        return;
    }
    if (i == beat->result_count) {
        beat->results[beat->result_count++] = (result){.name = cps_format("%s", name)};
    }
    cps_json_destroy(beat->results[i].json);
    beat->results[i].json = json;
}

static void set_main(cps_heartbeat *beat, const char *name) {
    free(beat->main_result);
    beat->main_result = cps_format("%s", name);
}

/* Results of the sessions before, up to `step`. */
static void keep_results_before(cps_heartbeat *beat, int64_t step) {
    for (const cps_json *at = cps_json_first(cps_json_get(beat->before, "evaluations")); at != NULL;
         at = cps_json_next(at)) {
        if (cps_json_is_object(at) && cps_json_get_integer(at, "step", INT64_MAX) <= step) {
            cps_json *copy = cps_json_new_object();
            for (const cps_json *member = cps_json_first(at); member != NULL;
                 member = cps_json_next(member)) {
                cps_json_add_copy(copy, cps_json_key(member), member);
            }
            keep_result(beat, cps_json_key(at), copy);
        }
    }
    const char *name = cps_json_get_string(beat->before, "main_evaluation", NULL);
    if (name != NULL && beat->result_count > 0) {
        set_main(beat, name);
    }
}

/* ---- the session before ---- */

static void read_before(cps_heartbeat *beat) {
    char *text = NULL;
    size_t length = 0;
    if (cps_file_exists(beat->path) &&
        (cps_file_read(beat->path, MAX_FILE_BYTES, &text, &length) != CPS_OK ||
         cps_json_parse(text, length, beat->path, &beat->before) != CPS_OK)) {
        cps_fail_clear(); /* a damaged record is replaced by a whole one */
    }
    free(text);
}

static bool goes_on(const char *state) {
    return strcmp(state, "starting") == 0 || strcmp(state, "running") == 0 ||
           strcmp(state, "evaluating") == 0;
}

/* The record before says that the run is done, or its process lives. */
static bool is_protected(const cps_heartbeat *beat) {
    const char *state = cps_json_get_string(beat->before, "state", "");
    const int64_t pid = cps_json_get_integer(beat->before, "pid", -1);
    return strcmp(state, "done") == 0 ||
           (goes_on(state) && pid > 0 &&
            strcmp(cps_json_get_string(beat->before, "host", ""), beat->host) == 0 &&
            strcmp(cps_json_get_string(beat->before, "boot", ""), beat->boot) == 0 &&
            cps_process_start(pid) == cps_json_get_integer(beat->before, "process_start", -2));
}

/* Until the run is entered the place is that of the session before. */
static void take_place_before(cps_heartbeat *beat) {
    const cps_json *before = beat->before;
    snprintf(beat->stage, sizeof beat->stage, "%s", cps_json_get_string(before, "stage", ""));
    beat->place = (cps_heartbeat_place){
        .stage_number = cps_json_get_integer(before, "stage_number", 0),
        .stages = cps_json_get_integer(before, "stages", 0),
        .step = cps_json_get_integer(before, "step", 0),
        .steps = cps_json_get_integer(before, "steps", 0),
        .loss = cps_json_get_number(before, "loss", (double)NAN),
        .samples_per_second = (double)NAN,
        .eta_seconds = (double)NAN,
        .skipped = cps_json_get_integer(before, "skipped", 0),
        .bad_images = cps_json_get_integer(before, "bad_images", 0),
    };
    beat->checkpoint_step = cps_json_get_integer(before, "checkpoint_step", -1);
    keep_results_before(beat, INT64_MAX);
}

/* ---- calls ---- */

cps_heartbeat *cps_heartbeat_open(const char *folder, const cps_heartbeat_session *session) {
    cps_heartbeat *beat = calloc(1, sizeof *beat);
    CPS_BUG_IF(beat == NULL);
    *beat = (cps_heartbeat){.path = cps_format("%s/heartbeat.json", folder),
                            .run = cps_format("%s", session->run),
                            .hosts = cps_format("%s", session->hosts),
                            .ranks = session->ranks,
                            .threads = session->threads,
                            .process_start = cps_process_start(getpid()),
                            .started = wall_seconds(),
                            .exit_code = -1};
    if (gethostname(beat->host, sizeof beat->host - 1) != 0) {
        beat->host[0] = '\0';
    }
    read_line("/proc/sys/kernel/random/boot_id", beat->boot, sizeof beat->boot);
    read_before(beat);
    beat->sessions = cps_json_get_integer(beat->before, "sessions", 0) + 1;
    beat->silent = is_protected(beat) || (session->fresh && cps_dir_exists(folder));
    take_place_before(beat);
    if (!beat->silent && cps_dir_create(folder) != CPS_OK) {
        cps_fail_clear(); /* the run itself will say so */
    }
    write_record(beat, false);
    return beat;
}

static void drop_results(cps_heartbeat *beat) {
    for (int32_t i = 0; i < beat->result_count; i++) {
        free(beat->results[i].name);
        cps_json_destroy(beat->results[i].json);
    }
    free(beat->main_result);
    beat->main_result = NULL;
    beat->result_count = 0;
}

void cps_heartbeat_close(cps_heartbeat *beat) {
    if (beat == NULL) {
        return;
    }
    drop_results(beat);
    cps_json_destroy(beat->before);
    free(beat->path);
    free(beat->run);
    free(beat->hosts);
    free(beat->message);
    free(beat);
}

void cps_heartbeat_enter(cps_heartbeat *beat, int64_t step) {
    if (beat == NULL) {
        return;
    }
    drop_results(beat);
    if (cps_file_exists(beat->path)) { /* else the folder before was moved aside */
        keep_results_before(beat, step);
    } else {
        beat->sessions = 1;
    }
    beat->silent = false;
    beat->checkpoint_step = step > 0 ? step : -1;
    beat->place.step = step;
    write_record(beat, false);
}

void cps_heartbeat_step(cps_heartbeat *beat, const cps_heartbeat_place *place) {
    if (beat == NULL) {
        return;
    }
    beat->place = *place;
    snprintf(beat->stage, sizeof beat->stage, "%s", place->stage);
    beat->place.stage = NULL;
    const bool begins = beat->state == CPS_BEAT_STARTING;
    beat->state = CPS_BEAT_RUNNING;
    beat->doing[0] = '\0';
    if (begins) { /* is news */
        write_record(beat, false);
    } else {
        write_if_due(beat);
    }
}

void cps_heartbeat_doing(cps_heartbeat *beat, bool evaluating, const char *doing) {
    if (beat == NULL) {
        return;
    }
    beat->state = evaluating ? CPS_BEAT_EVALUATING : CPS_BEAT_RUNNING;
    snprintf(beat->doing, sizeof beat->doing, "%s", doing != NULL ? doing : "");
    write_if_due(beat);
}

void cps_heartbeat_alive(cps_heartbeat *beat) {
    if (beat != NULL) {
        write_if_due(beat);
    }
}

void cps_heartbeat_evaluation(cps_heartbeat *beat, const cps_heartbeat_result *made) {
    if (beat == NULL) {
        return;
    }
    cps_json *json = cps_json_new_object();
    cps_json_add_number(json, "step", (double)made->step);
    cps_json_add_string(json, "stage", made->stage);
    if (made->metric != NULL) {
        cps_json_add_string(json, "metric", made->metric);
    }
    cps_json *values = cps_json_add_object(json, "values");
    for (const cps_json *metric = cps_json_first(made->metrics); metric != NULL;
         metric = cps_json_next(metric)) {
        if (cps_json_is_number(metric)) {
            cps_json_add_number(values, cps_json_key(metric), cps_json_number(metric));
        }
    }
    keep_result(beat, made->name, json);
    if (made->is_main) {
        set_main(beat, made->name);
    }
}

void cps_heartbeat_checkpoint(cps_heartbeat *beat, int64_t step) {
    if (beat != NULL) {
        beat->checkpoint_step = step;
        write_if_due(beat);
    }
}

void cps_heartbeat_end(cps_heartbeat *beat, cps_heartbeat_state state, int exit_code,
                       const char *message) {
    if (beat == NULL) {
        return;
    }
    beat->state = state;
    beat->doing[0] = '\0';
    beat->exit_code = exit_code;
    free(beat->message);
    beat->message = message != NULL ? cps_format("%s", message) : NULL;
    write_record(beat, true);
}
