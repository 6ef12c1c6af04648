/* The token is host, process, its start and the time of the claim: no two claims share it. The file
 * stays when the run ends: it says who wrote last, and a process that is gone owns nothing. */
#include "train/owner.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "report/heartbeat.h"

enum { MAX_FILE_BYTES = 4096, HOST_BYTES = 256, WAIT_TENTHS = 100 };

struct cps_owner {
    char *path, *run;
    char *text; /* of the file; holds a token that no other claim has */
};

static void host_name(char host[HOST_BYTES]) {
    if (gethostname(host, HOST_BYTES - 1) != 0) {
        snprintf(host, HOST_BYTES, "unknown");
    }
    host[HOST_BYTES - 1] = '\0';
}

/* What the file says; NULL with nothing on record where it is missing or no JSON. */
static cps_json *read_record(const char *path) {
    cps_json *record = NULL;
    if (cps_json_read_file(path, MAX_FILE_BYTES, &record) != CPS_OK) {
        cps_fail_clear();
    }
    return record;
}

/* The process that the record names, if it is another of this host and lives; else 0. */
static int64_t living_owner(const cps_json *record) {
    char host[HOST_BYTES];
    host_name(host);
    const int64_t pid = cps_json_get_integer(record, "pid", 0);
    const bool here = strcmp(cps_json_get_string(record, "host", ""), host) == 0;
    return here && pid > 0 && pid != getpid() &&
                   cps_process_start(pid) == cps_json_get_integer(record, "process_start", -2)
               ? pid
               : 0;
}

cps_status cps_owner_check(const char *folder, const char *run) {
    char *path = cps_format("%s/owner.json", folder);
    int64_t pid = 0;
    for (int tenth = 0; tenth < WAIT_TENTHS; tenth++) {
        cps_json *record = read_record(path);
        pid = living_owner(record);
        cps_json_destroy(record);
        if (pid == 0) {
            break;
        }
        if (tenth == 10) {
            cps_log(CPS_LOG_INFO, "run '%s' is being trained by process %lld: waiting a moment",
                    run, (long long)pid);
        }
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    free(path);
    return pid == 0 ? CPS_OK
                    : cps_fail(CPS_ERR_UNAVAILABLE,
                               "run '%s' is being trained by process %lld of this host: wait for "
                               "its end, end it ('copse cancel %s'), or give this one another "
                               "name (--run)",
                               run, (long long)pid, folder);
}

static char *describe(void) {
    char host[HOST_BYTES];
    host_name(host);
    const int64_t start = cps_process_start(getpid());
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char *token = cps_format("%s.%ld.%lld.%lld%09ld", host, (long)getpid(), (long long)start,
                             (long long)now.tv_sec, now.tv_nsec);
    const char *job = getenv("SLURM_JOB_ID"), *restarts = getenv("SLURM_RESTART_COUNT");
    cps_json *record = cps_json_new_object();
    cps_json_add_string(record, "host", host);
    cps_json_add_number(record, "pid", (double)getpid());
    cps_json_add_number(record, "process_start", (double)start);
    if (job != NULL) {
        char *incarnation = cps_format("%s.%s", job, restarts != NULL ? restarts : "0");
        cps_json_add_string(record, "slurm_job", incarnation);
        free(incarnation);
    }
    cps_json_add_string(record, "token", token);
    char *text = cps_json_print(record, false, false);
    cps_json_destroy(record);
    free(token);
    return text;
}

cps_status cps_owner_claim(const char *folder, const char *run, cps_owner **owner_out) {
    cps_owner *owner = calloc(1, sizeof *owner);
    if (owner == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a run");
    }
    owner->path = cps_format("%s/owner.json", folder);
    owner->run = cps_format("%s", run);
    owner->text = describe();
    const cps_status status = cps_file_write_atomic(owner->path, owner->text, strlen(owner->text));
    if (status != CPS_OK) {
        cps_owner_forget(owner);
        return status;
    }
    *owner_out = owner;
    return CPS_OK;
}

static cps_status fail_lost(const cps_owner *owner) {
    cps_json *record = read_record(owner->path);
    const char *job = cps_json_get_string(record, "slurm_job", "");
    const cps_status status = cps_fail(
        CPS_ERR_ENDED,
        "run '%s' was taken over by process %lld on '%s'%s%s: this one ends and writes "
        "nothing more; the other went on from the last checkpoint",
        owner->run, (long long)cps_json_get_integer(record, "pid", 0),
        cps_json_get_string(record, "host", "?"), job[0] != '\0' ? ", Slurm job " : "", job);
    cps_json_destroy(record);
    return status;
}

cps_status cps_owner_holds(const cps_owner *owner) {
    if (owner == NULL) {
        return CPS_OK;
    }
    FILE *file = fopen(owner->path, "re");
    if (file == NULL) {
        return errno != ENOENT && errno != ENOTDIR
                   ? CPS_OK
                   : cps_fail(CPS_ERR_ENDED,
                              "the folder of run '%s' was removed or moved while it was trained "
                              "('%s' is gone): this process ends and writes nothing more",
                              owner->run, owner->path);
    }
    char text[MAX_FILE_BYTES];
    const size_t length = fread(text, 1, sizeof text, file);
    const bool unread = ferror(file) != 0;
    fclose(file);
    const bool same = length == strlen(owner->text) && memcmp(text, owner->text, length) == 0;
    return unread || same ? CPS_OK : fail_lost(owner);
}

void cps_owner_forget(cps_owner *owner) {
    if (owner != NULL) {
        free(owner->path);
        free(owner->run);
        free(owner->text);
        free(owner);
    }
}
